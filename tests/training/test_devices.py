"""Training on several devices gives what training on one gives.

Each run on several devices is a process, or two, of its own: engines want to know of devices when
they start. `devices_cases.py` is what they run.
"""

import json
import os
import re
import socket
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path

import devices_cases
import keras
import numpy as np
import pytest
from devices_cases import CASES, dense_model, train

from bert4keras.models import ARCHITECTURES, Model, build_transformer_model
from bert4keras.training import (
    BatchFeed,
    DistributedModel,
    batch_mean,
    data_parallel,
    layout_map,
    model_parallel,
)
from bert4keras.training.distribution import choice, scopes
from bert4keras.training.distribution import model as distributed
from bert4keras.training.distribution.layout import SPLIT
from bert4keras.training.distribution.parts import LossOfBatch

pytestmark = pytest.mark.backend

BACKEND = keras.backend.backend()
TIMEOUT = 600
SCRIPT = Path(devices_cases.__file__)
# JAX sees the whole batch whatever the loss is, and both compile for seconds.
HERE = {
    "jax": ["labelled-adam", "masked", "own-loss", "own-output"],
    "tensorflow": [name for name in CASES if name != "labelled-sgd"],
    "torch": list(CASES),
}[BACKEND]


def only(*backends):
    return pytest.mark.skipif(BACKEND not in backends, reason=f"a test of {' and '.join(backends)}")


def free_ports(n):
    sockets = [socket.socket() for _ in range(n)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def environments(processes):
    """What to add to the environment of each process."""
    ports = free_ports(2)
    if BACKEND == "jax":
        if processes == 1:
            return [{"JAX_NUM_CPU_DEVICES": "2"}]
        cluster = {
            "KERAS_DISTRIBUTION_JOB_ADDRESSES": f"127.0.0.1:{ports[0]}",
            "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
        }
        return [cluster | {"KERAS_DISTRIBUTION_PROCESS_ID": str(i)} for i in range(2)]
    if BACKEND == "torch":
        shared = {
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(ports[0]),
        }
        return [shared | {"RANK": str(i), "LOCAL_RANK": str(i)} for i in range(2)]
    if processes == 1:
        return [{}]
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    tasks = [{"type": "worker", "index": i} for i in range(2)]
    return [{"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})} for task in tasks]


def run(folder, how, names, processes=1):
    """Run the cases on several devices; give the results of each process."""
    clean = {k: v for k, v in os.environ.items() if k != "TF_CONFIG"}
    running = []
    for i, extra in enumerate(environments(processes)):
        with open(folder / f"log-{i}", "w") as log:
            command = [sys.executable, str(SCRIPT), str(folder), how, *names]
            environment = clean | {"KERAS_BACKEND": BACKEND, "OMP_NUM_THREADS": "1"} | extra
            running.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    try:
        codes = [process.wait(TIMEOUT) for process in running]
    finally:
        for process in running:
            process.kill()
    logs = [(folder / f"log-{i}").read_text(errors="replace") for i in range(len(running))]
    assert not any(codes), "\n\n".join(log[-3000:] for log in logs)
    return [json.loads((folder / f"{i}.json").read_text()) for i in range(len(running))]


@cache
def on_one_device(name):
    return train(CASES[name])


def check(found, expected):
    """Compare what was reported, number by number."""
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if isinstance(value, dict):
            check(found[key], value)
        else:
            # Adam moves a weight by its rate even where the gradient is rounding.
            tolerance = 1e-3 if key == "weights" else 1e-4
            np.testing.assert_allclose(found[key], value, tolerance, tolerance, err_msg=key)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_several_devices_train_as_one_does(tmp_path):
    for result in run(tmp_path, "parallel", HERE):
        assert result["devices"] == [2, 2 if BACKEND == "torch" else 1]
        for name in HERE:
            check(result[name], on_one_device(name)[0])
        if BACKEND != "torch":
            assert result["built before"].startswith("the model was built before data_parallel()")
    weights_and_state_go_on_on_one_device(tmp_path)


def weights_and_state_go_on_on_one_device(folder):
    """Load what several devices have saved, and train on."""
    case = CASES["labelled-adam"]
    x, y, weights = case.data(4)
    _, expected = on_one_device("labelled-adam")
    loaded = keras.saving.load_model(folder / "adam-0.keras")
    assert int(loaded.optimizer.iterations) == int(expected.optimizer.iterations) > 0
    assert not isinstance(loaded.loss, LossOfBatch)
    bare = case.build()
    bare.load_weights(folder / "adam-0.weights.h5")
    for model in (loaded, bare):
        np.testing.assert_allclose(
            model.predict(x, verbose=0), expected.predict(x, verbose=0), 1e-3, 1e-3
        )
    losses = [
        [model.train_on_batch(x, y, sample_weight=weights)[0] for _ in range(2)]
        for model in (loaded, expected)
    ]
    np.testing.assert_allclose(losses[0], losses[1], 1e-3)


@only("tensorflow")
@pytest.mark.long
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_a_strategy_of_the_users_own(tmp_path):
    names = ["labelled-adam", "masked"]
    [result] = run(tmp_path, "scope", names)
    for name in names:
        check(result[name], on_one_device(name)[0])


@only("tensorflow", "jax")
@pytest.mark.long
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_two_processes_train_as_one_does(tmp_path):
    names = ["masked"] if BACKEND == "jax" else ["labelled-adam", "masked"]
    for result in run(tmp_path, "parallel", names, processes=2):
        assert result["devices"] == [2, 2]
        for name in names:
            check(result[name], on_one_device(name)[0])


# Tables of positions and segments are small, and read row by row.
WHOLE = re.compile(
    r".*(Embedding-(Segment|Position|Relative-Position)/embeddings|NSP-Proba/kernel)"
)


@only("jax")
@pytest.mark.long
def test_architectures_that_are_split_over_two_devices_train_as_on_one(tmp_path):
    # One of each kind of block; those left out have blocks and names of these.
    names = [
        "albert",
        "bert",
        "deberta_v2",
        "gau_alpha",
        "gpt2_ml",
        "modernbert",
        "nezha",
        "qwen3",
        "t5.1.1",
    ]
    [results] = run(tmp_path, "architectures", names)
    assert results.pop("devices") == [1, 1]
    assert list(results) == names
    for name, result in results.items():
        np.testing.assert_allclose(result["two"], result["one"], 1e-4, err_msg=name)
        assert result["one"][0] != result["one"][1], name
        for path, is_split in result["split"].items():
            matrix = path.endswith(("kernel", "embeddings"))
            assert is_split == (matrix and not WHOLE.fullmatch(path)) or not matrix, (name, path)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_rule_of_the_layout_at_most_for_each_variable(name):
    """Keras refuses a variable that two rules match."""
    sizes = devices_cases.CONFIG | ({} if "t5" not in name else {"max_position_embeddings": 16})
    if "t5" in name:
        sizes.pop("max_position")
    model = build_transformer_model(model=name, **sizes)
    for variable in model.weights:
        rules = [axes for path, axes in SPLIT.items() if re.fullmatch(path, variable.path)]
        assert len(rules) <= 1
        assert not rules or len(rules[0]) == len(variable.shape)
        if len(variable.shape) == 2:
            assert bool(rules) != bool(WHOLE.fullmatch(variable.path)), variable.path


@pytest.mark.parametrize("wanted", [0, -1, 99, [], ["cpu:77"], "cpu:0", ["cpu:0", "cpu:0"], True])
def test_devices_that_are_not_there(wanted):
    with pytest.raises(ValueError, match=r"devices=.*give a number from 1 to"):
        data_parallel(wanted).__enter__()


def test_model_parallel_is_for_jax_and_whole_parts():
    if BACKEND == "jax":
        with pytest.raises(ValueError, match="data must divide"):
            model_parallel(1, data=2).__enter__()
        mesh = keras.distribution.DeviceMesh((1,), ("batch",), ["cpu:0"])
        with pytest.raises(ValueError, match="weights are split over the axis 'model'"):
            layout_map(mesh)
    else:
        with pytest.raises(ValueError, match="needs JAX"):
            model_parallel().__enter__()


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_one_device_is_enough():
    with data_parallel(1) as found:
        result, _ = train(CASES["masked"])
    assert found == scopes.Devices(replicas=1, process=0, processes=1)
    check(result, on_one_device("masked")[0])


@only("tensorflow", "jax")
def test_a_model_that_was_compiled_before():
    model = dense_model()
    model.compile("sgd", "mse")
    with data_parallel(1), pytest.raises(ValueError, match="inside the same data_parallel"):
        model.fit(np.zeros((2, 3)), np.zeros((2, 1)))


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_batches_smaller_than_the_number_of_devices(monkeypatch):
    monkeypatch.setattr(choice, "placement", lambda: "four devices")
    monkeypatch.setattr(DistributedModel, "_replicas", lambda self: 4)
    model = dense_model()
    model.compile("sgd", "mse")
    x, y = np.zeros((3, 3), "float32"), np.zeros((3, 1), "float32")
    for options in ({"x": x, "y": y, "batch_size": 3}, {"x": iter([(x, y)])}):
        with pytest.raises(ValueError, match="batches of 3 samples for 4 devices"):
            model.fit(**options)
    # What was looked at is still there.
    feed = BatchFeed([(x, y)])
    assert feed.peek()[0].shape == next(feed)[0].shape == (3, 3)


@only("tensorflow")
def test_accumulation_of_keras_is_refused(monkeypatch):
    monkeypatch.setattr(choice, "placement", lambda: "two devices")
    monkeypatch.setattr(distributed, "parts", lambda: 2)
    model = dense_model()
    with pytest.raises(ValueError, match="extend_with_gradient_accumulation"):
        model.compile(keras.optimizers.Adam(gradient_accumulation_steps=2), "mse")


def test_processes_need_a_common_seed(monkeypatch):
    monkeypatch.setattr(scopes, "random_seed", lambda: None)
    scopes._check_seed(1)
    with pytest.raises(ValueError, match="set_random_seed"):
        scopes._check_seed(2)


@only("torch")
def test_a_device_for_each_process(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="start the program by torchrun"):
        data_parallel(["cpu:0"]).__enter__()


def test_the_mean_in_a_loss_layer():
    mean = batch_mean(np.array([[1.0, 2.0], [4.0, 8.0]], "float32"), np.array([[1, 0], [1, 1]]))
    assert float(mean) == pytest.approx(13 / 3)
    assert float(batch_mean(np.ones((2, 2), "float32"), np.zeros((2, 2)))) == 0


def test_gradients_of_embeddings_are_whole():
    """Keras' Adam on TensorFlow squares the gradient of each occurrence of a token by itself."""
    after = []
    for tokens in ([[1, 1]], [[1]]):
        inputs = keras.Input((None,), dtype="int32")
        outputs = keras.layers.Embedding(3, 2, embeddings_initializer="ones")(inputs)
        model = Model(inputs, keras.ops.sum(outputs, 1) / len(tokens[0]))
        model.compile(keras.optimizers.Adam(0.1, beta_1=0.0, epsilon=1.0), "mse")
        model.train_on_batch(np.array(tokens), np.zeros((1, 2)))
        after.append(model.get_weights()[0])
    np.testing.assert_allclose(after[0], after[1], 1e-6)


@keras.saving.register_keras_serializable("bert4keras_tests")
class OwnModel(Model):
    """A class of the user's."""


@pytest.mark.parametrize("cls", [Model, OwnModel])
def test_only_models_that_are_built_for_several_devices_are_distributed(cls, tmp_path, monkeypatch):
    def build():
        inputs = keras.Input((3,))
        return cls(inputs, keras.layers.Dense(1)(inputs))

    assert type(build()) is cls and not isinstance(build(), DistributedModel)
    with monkeypatch.context() as several:
        several.setattr(choice, "placement", lambda: "several devices")
        model = build()
        kinds = {type(each) for each in (model, build(), keras.models.clone_model(model))}
        assert kinds == {type(model)} and issubclass(*kinds, cls)
        assert isinstance(model, DistributedModel)
    assert keras.saving.get_registered_name(type(model)) == keras.saving.get_registered_name(cls)
    alone = build()
    files = []
    for each in (model, alone):
        each.save(tmp_path / "model.keras")
        with zipfile.ZipFile(tmp_path / "model.keras") as file:
            files.append(re.sub(r"_\d+", "", file.read("config.json").decode()))
    assert json.loads(files[0])["registered_name"] == json.loads(files[1])["registered_name"]
    model.save(tmp_path / "model.keras")
    model.save(tmp_path / "model.h5")
    copies = [
        keras.saving.load_model(tmp_path / "model.keras"),
        keras.saving.load_model(tmp_path / "model.h5", custom_objects={cls.__name__: cls}),
        keras.models.clone_model(model),
        type(model).from_config(model.get_config()),
    ]
    x = np.ones((2, 3), "float32")
    for copy in copies:
        assert type(copy) is cls
        assert copy(x).shape == (2, 1)
        copy.compile("sgd", "mse")
        copy.train_on_batch(x, np.zeros((2, 1)))


@pytest.mark.parametrize("name", ["Adam", "SGD", "AdamW"])
def test_an_optimizer_is_left_as_it_is_on_one_device(name):
    """Keras' own optimizers and what belongs to them: nothing is put in the place of a method."""
    optimizer = getattr(keras.optimizers, name)(0.1)
    inputs = keras.Input((None,), dtype="int32")
    model = Model(inputs, keras.layers.Embedding(3, 2)(inputs))
    model.compile(optimizer, "mse")
    model.fit(np.array([[1, 1]]), np.zeros((1, 2, 2)), verbose=0)
    assert model.optimizer is optimizer
    methods = {key for key in vars(optimizer) if callable(getattr(type(optimizer), key, None))}
    assert not methods
