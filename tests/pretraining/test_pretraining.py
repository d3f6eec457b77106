"""Pretraining: it learns, its output loads, and whatever interrupts it changes nothing.

`BERT4KERAS_KILLS` is how often the test with real signals kills its process, twice by default.
"""

import csv
import dataclasses
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import keras
import numpy as np
import pytest

from bert4keras.checkpoints import CheckpointError, list_variables, load_variable
from bert4keras.models import build_transformer_model
from bert4keras.tokenizers import Tokenizer

pytestmark = pytest.mark.backend

FOLDER = Path(__file__).parents[2] / "pretraining"
sys.path.insert(0, str(FOLDER))

import data_utils  # noqa: E402
import events  # noqa: E402
import objectives  # noqa: E402
import records  # noqa: E402
import stages  # noqa: E402
import state  # noqa: E402
import tasks  # noqa: E402

SMALL = {
    "min-count": 1,
    "layers": 1,
    "hidden-size": 16,
    "heads": 2,
    "positions": 32,
    "length": 32,
    "batch-size": 8,
    "learning-rate": 0.01,
    "verbose": 0,
}


@pytest.fixture(scope="module")
def script(load_script):
    return load_script(FOLDER / "pretraining.py")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    lines = ["春江潮水连海平。海上明月共潮生。", "滟滟随波千万里。何处春江无月明！abc"] * 60
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def as_before():
    """Undo what a run asks of the backend for all of its process."""
    yield
    if keras.backend.backend() == "tensorflow":
        from tensorflow.python.framework.config import disable_op_determinism  # nothing public

        disable_op_determinism()
    elif keras.backend.backend() == "torch":
        import torch

        torch.use_deterministic_algorithms(False)


def arguments(corpus, output, steps, *more):
    small = [f"--{name}={value}" for name, value in SMALL.items()]
    return [
        "--corpus",
        str(corpus),
        "--output",
        str(output),
        *small,
        f"--steps={steps}",
        *map(str, more),
    ]


def read_log(output):
    with open(output / "log.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def final_state(output, name=""):
    """A state of a run, the newest by default, which has to be whole."""
    path = output / "states" / name if name else max((output / "states").glob("step-*"))
    identity = json.loads((path / state.RECORD).read_text(encoding="utf-8"))["identity"]
    return state.read_state(path, identity)


def final_arrays(output, name=""):
    return list(final_state(output, name).arrays.values())


def assert_same_run(output, expected, name=""):
    """Two runs ended in the same bits, and their logs say the same but for times."""
    pairs = zip(final_arrays(output, name), final_arrays(expected), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)
    ours, theirs = (
        [{k: v for k, v in row.items() if k not in ("seconds", "tokens_per_second")} for row in log]
        for log in (read_log(output), read_log(expected))
    )
    assert ours == theirs
    suffix = ".data-00000-of-00001"
    name = f"bert_model.ckpt{suffix}"
    assert (output / name).read_bytes() == (expected / name).read_bytes()


# --- scores at masked positions


SIZES = {
    "vocab_size": 20,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position": 16,
    "hidden_act": "gelu",
}


@pytest.mark.parametrize(
    ("name", "application"),
    [
        ("bert", "encoder"),
        ("bert", "unilm"),
        ("roformer_v2", "encoder"),
        ("modernbert", "encoder"),
        ("deberta_v2", "encoder"),
        ("ernie", "encoder"),
    ],
)
def test_scores_at_masked_positions_are_those_of_the_whole_head(name, application, tmp_path):
    heads = {"with_pool": name == "bert", "with_mlm": True, "return_keras_model": False}
    heads["application"] = application
    whole = build_transformer_model(model=name, **heads, **SIZES)
    part = build_transformer_model(
        model=name, masked_positions=True, layers=whole.layers, **heads, **SIZES
    )
    rng = np.random.default_rng(0)
    token_ids = rng.integers(1, 20, (3, 7))
    token_ids[0, 5:] = 0
    positions = np.array([[1, 4], [3, 2], [0, 6]])
    segment_ids = np.arange(7) // 4 * np.ones_like(token_ids)
    inputs = [token_ids, segment_ids][: len(whole.inputs)]
    expected = whole.model.predict_on_batch(inputs[0] if len(inputs) == 1 else inputs)
    path = tmp_path / "model.keras"
    part.model.save(path)
    for model in (part.model, keras.models.load_model(path)):
        found = model.predict_on_batch([*inputs, positions])
        if heads["with_pool"]:
            assert np.allclose(np.asarray(found[0]), np.asarray(expected[0]), atol=1e-6)
        scores, all_scores = (
            np.asarray(y[-1] if heads["with_pool"] else y) for y in (found, expected)
        )
        assert scores.shape == (3, 2, 20)
        chosen = np.take_along_axis(all_scores, positions[:, :, None], axis=1)
        np.testing.assert_allclose(scores, chosen, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({}, ValueError, "without with_mlm there are none"),
        ({"application": "lm", "with_mlm": True}, ValueError, "not for language models"),
        ({"model": "electra"}, TypeError, "ELECTRA has no argument 'masked_positions'"),
        ({"model": "gpt2"}, TypeError, "GPT2 has no argument 'masked_positions'"),
    ],
)
def test_masked_positions_are_refused_where_they_mean_nothing(settings, error, message):
    with pytest.raises(error, match=message):
        build_transformer_model(masked_positions=True, **SIZES, **settings)


# --- from a corpus to a model that loads


TASKS = {
    "roberta": ["--tensorboard"],
    "bert": ["--precision", "mixed_bfloat16", "--pairs", "sop", "--clip-norm", "1"],
    "gpt": ["--start", "random"],
    "unilm": ["--dropout", "0.1"],
    "electra": ["--segmenter", "builtins:list", "--masking", "word", "--generator-size", "0.5"],
}
HEADS = {
    "roberta": {"with_pool": True, "with_mlm": True},
    "bert": {"with_nsp": True, "with_mlm": "linear"},
    "gpt": {},
    "unilm": {"with_mlm": True, "application": "unilm"},
    "electra": {"with_discriminator": True},
}


# TensorFlow traces each for seconds; the others differ from these in their data and heads.
LEARNED = ["roberta", "electra"] if keras.backend.backend() == "tensorflow" else TASKS


@pytest.mark.long
@pytest.mark.parametrize("task", LEARNED)
def test_a_task_learns_and_its_output_loads(script, corpus, tmp_path, monkeypatch, task):
    trained = []
    build = script.built
    monkeypatch.setattr(script, "built", lambda *args: trained.append(build(*args)) or trained[-1])
    steps = 60 if task == "roberta" else 12
    more = ["--epoch-steps", steps // 3, "--valid", corpus, "--task", task, *TASKS[task]]
    script.main(arguments(corpus, tmp_path, steps, *more))

    log = read_log(tmp_path)
    assert [int(row["step"]) for row in log] == [steps // 3, 2 * steps // 3, steps]
    assert int(log[-1]["tokens"]) == steps * 8 * 32
    assert float(log[-1]["val_loss"]) < float(log[0]["val_loss"])
    tokenizer = Tokenizer(tmp_path)
    if task == "roberta":
        guess = math.log(tokenizer._vocab_size)
        assert float(log[-1]["val_loss"]) < guess - 0.5

    model = build_transformer_model(tmp_path, **HEADS[task])
    weights = {weight.path: weight for weight in trained[0].official.model.weights}
    assert {weight.path for weight in model.weights} <= set(weights)
    for weight in model.weights:
        expected = keras.ops.convert_to_numpy(weights[weight.path])
        assert np.array_equal(keras.ops.convert_to_numpy(weight), expected), weight.path
    token_ids, segment_ids = tokenizer.encode("春江潮水")
    inputs = [token_ids] if task == "gpt" else [[token_ids], [segment_ids]]
    outputs = model.predict_on_batch(inputs)
    shapes = [np.asarray(y).shape for y in keras.tree.flatten(outputs)]
    n = tokenizer._vocab_size
    assert shapes == {
        "roberta": [(1, 16), (1, 6, n)],
        "bert": [(1, 2), (1, 6, n)],
        "electra": [(1, 6, 1)],
    }.get(task, [(1, 6, n)])
    if task == "roberta":
        check_events(tmp_path / "tensorboard" / events.NAME, log)


def check_events(path, log):
    """The file of TensorBoard has the numbers of the log; TensorFlow is who knows its format."""
    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow as tf

    found = [
        tf.compat.v1.Event.FromString(record.numpy())
        for record in tf.data.TFRecordDataset(str(path))
    ]
    assert found[0].file_version == "brain.Event:2"
    assert [event.step for event in found[1:]] == [int(row["step"]) for row in log]
    for event, row in zip(found[1:], log, strict=True):
        numbers = {value.tag: value.simple_value for value in event.summary.value}
        assert numbers["val_loss"] == pytest.approx(float(row["val_loss"]))
        assert numbers["learning_rate"] == pytest.approx(float(row["learning_rate"]))


def test_the_embeddings_of_generator_and_discriminator_are_one(script, corpus, tmp_path):
    args = script.settings(arguments(corpus, tmp_path, 500, "--task", "electra"))
    objective = script.built(args, script.write_config(args, 30))
    paths = [weight.path for weight in objective.model.trainable_variables]
    tables = [path for path in paths if "Embedding-Token/" in path or "Embedding-Position/" in path]
    assert len(tables) == len(paths) - len([p for p in paths if p not in tables]) == 2
    # Without a pooler, all of the discriminator is trained.
    official = {weight.path for weight in objective.official.model.weights}
    assert official <= set(paths)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow is the judge")
def test_tensorflow_reads_the_shards(corpus, tmp_path):
    import tensorflow as tf

    settings = {"task": "bert", "length": 32, "min_count": 1, "segmenter": "builtins:list"}
    data_utils.prepare([corpus], tmp_path, shards=1, **settings)
    path = tmp_path / data_utils.shard_name(0, 1)
    file = records.RecordFile(path)
    dataset = tf.data.TFRecordDataset(str(path))
    features = dict.fromkeys(("token_ids", "sentence_starts", "word_starts"))
    features = {name: tf.io.VarLenFeature(tf.int64) for name in features}
    n_records = 0
    for i, record in enumerate(dataset):
        assert record.numpy() == file[i]
        parsed = tf.io.parse_single_example(record, features)
        for name, (values,) in records.decoded([file[i]]).items():
            assert parsed.pop(name).values.numpy().tolist() == values.tolist()
        assert not parsed
        n_records += 1
    assert n_records == len(file) > 60


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow is the judge")
def test_examples_of_tensorflow_are_read():
    import tensorflow as tf

    values = {"token_ids": [0, 1, 127, 128, 21127, 2**40], "b": []}
    example = tf.train.Example(
        features=tf.train.Features(
            feature={
                k: tf.train.Feature(int64_list=tf.train.Int64List(value=v))
                for k, v in values.items()
            }
        )
    )
    found = records.decoded([example.SerializeToString()])
    assert found["token_ids"][0].tolist() == values["token_ids"]
    assert tf.train.Example.FromString(records.encoded(values)) == example


# --- interruptions


class Killed(BaseException):
    pass


# On PyTorch, where nothing is compiled: what differs between tasks is not saved by the backend.
INTERRUPTED = ["roberta", "electra"] if keras.backend.backend() == "torch" else ["roberta"]


@pytest.mark.long
@pytest.mark.parametrize("task", INTERRUPTED)
def test_a_run_that_is_interrupted_ends_as_if_it_was_not(
    script, corpus, tmp_path, monkeypatch, capsys, task
):
    more = ["--epoch-steps", 4, "--save-steps", 2, "--valid", corpus, "--dropout", 0.1]
    more += ["--task", task, "--tensorboard"]
    script.main(arguments(corpus, tmp_path / "whole", 8, *more))
    rows = read_log(tmp_path / "whole")
    assert [bool(row["val_loss"]) for row in rows] == [False, True] * 2

    countdown = 0
    for name, function in {
        "state.sync_file": records.sync_file,
        "state.sync_folder": records.sync_folder,
        "records.os.replace": os.replace,
        "pathlib.Path.rename": Path.rename,
    }.items():

        def dying(*args, function=function):
            nonlocal countdown
            countdown -= 1
            if countdown == 0:
                raise Killed
            return function(*args)

        monkeypatch.setattr(name, dying)

    rng, n_kills, output = random.Random(0), 0, tmp_path / "interrupted"
    for _ in range(20):
        countdown = rng.randint(6, 24)
        try:
            script.main(arguments(corpus, output, 8, *more))
            break
        except Killed:
            n_kills += 1
    assert n_kills >= 2
    assert_same_run(output, tmp_path / "whole")

    # Neither does what lies beside the states, nor an edited one.
    newest = max((output / "states").glob("step-*"))
    (output / "states/step-0000000099").mkdir()
    (output / "states/step-0000000098").write_text("")
    record = json.loads((newest / state.RECORD).read_text())
    record["rows"][-1]["loss"] = 0.5
    (newest / state.RECORD).write_text(json.dumps(record))
    countdown = 0
    capsys.readouterr()
    script.main(arguments(corpus, output, 8, *more))
    assert f"{newest.name}: the checksum in its state.json is wrong" in capsys.readouterr().err
    assert_same_run(output, tmp_path / "whole", newest.name)
    # One that is whole and does not fit is refused by name.
    shutil.rmtree(output / "states" / f"step-{6:010d}")
    changed = final_state(output, newest.name)
    arrays = {**changed.arrays, "more": np.zeros(3)}
    state.save_state(output / "states", dataclasses.replace(changed, arrays=arrays))
    with pytest.raises(SystemExit, match=f"{newest.name}: it has more, .* has nothing more"):
        script.main(arguments(corpus, output, 8, *more))


@pytest.mark.long
@pytest.mark.skipif(
    keras.backend.backend() != "torch" and "BERT4KERAS_KILLS" not in os.environ,
    reason="others compile anew after each of the kills; the interrupted run covers their states",
)
def test_a_run_that_is_killed_ends_as_if_it_was_not(script, corpus, tmp_path):
    n_kills = int(os.environ.get("BERT4KERAS_KILLS", "2"))
    more = ["--epoch-steps", 6, "--save-steps", 1, "--dropout", 0.1, "--valid", corpus]
    environment = {**os.environ, "PYTHONPATH": str(FOLDER.parent)}

    def start(output):
        command = [sys.executable, FOLDER / "pretraining.py"]
        command += arguments(corpus, output, 6 * n_kills + 24, *more)
        with open(tmp_path / "output.txt", "ab") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    script.main(arguments(corpus, tmp_path / "whole", 6 * n_kills + 24, *more))
    rng, output, killed = random.Random(n_kills), tmp_path / "killed", 0
    while True:
        process = start(output)
        if killed < n_kills:
            if killed % 4:
                wait_for_a_new_state(process, output)
                time.sleep(rng.random() * 0.5)
            else:  # before training: while the data are prepared or the state is read
                time.sleep(rng.random() * 6)
            process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            break
        assert process.returncode == -signal.SIGKILL
        killed += 1
    assert killed == n_kills
    assert_same_run(output, tmp_path / "whole")


def wait_for_a_new_state(process, output):
    def newest():
        return max((path.name for path in output.glob("states/step-*")), default="")

    before = newest()
    while newest() == before and process.poll() is None:
        time.sleep(0.005)


def test_a_run_is_taken_up_with_its_settings_only(script, corpus, tmp_path):
    more = ["--epoch-steps", 2, "--start", "random"]
    script.main(arguments(corpus, tmp_path, 2, *more))
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    for other, message in (
        (["--layers", 2], "a run with layers=1, not 2"),
        (["--steps", 4], "a run with steps=2, not 4"),
        (["--seed", 1], "a run with seed=0, not 1"),
    ):
        with pytest.raises(SystemExit, match=message):
            script.main(arguments(corpus, tmp_path, 2, *more, *other))
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    # The same again has nothing to do; what follows from the state is there again.
    (tmp_path / "log.csv").unlink()
    (tmp_path / "bert_model.ckpt.index").unlink()
    script.main(arguments(corpus, tmp_path, 2, *more, "--workers", 2))
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_training_goes_on_from_prepared_data_and_an_official_checkpoint(script, corpus, tmp_path):
    more = ["--epoch-steps", 2, "--start", "random"]
    first, second = tmp_path / "first", tmp_path / "second"
    script.main(arguments(corpus, first, 2, *more))
    prepared = arguments(corpus, second, 2, "--epoch-steps", 2)
    prepared[:2] = ["--data", str(first / "data"), "--valid-data", str(first / "data")]
    with pytest.raises(SystemExit, match="have 32 tokens, not --length 16"):
        script.main([*prepared, "--length=16", "--min-count=10"])
    prepared = [each for each in prepared if each not in ("--length=32", "--min-count=1")]
    script.main([*prepared, "--checkpoint", str(first), "--learning-rate", "1e-30"])
    # All but nothing was learned, so that the weights are those of the first.
    for one, two in zip(final_arrays(first)[:3], final_arrays(second)[:3], strict=True):
        assert one.shape[1] == 16  # a table
        np.testing.assert_allclose(two, one, rtol=1e-6)
    assert read_log(second)[-1]["val_loss"] and read_log(second)[-1]["tokens"] == "512"
    data_utils.prepare([corpus], tmp_path / "longer", length=64, min_count=1)
    prepared[3] = str(tmp_path / "longer")
    with pytest.raises(SystemExit, match="of 64 tokens are longer than --positions 32"):
        script.main(prepared)
    data_utils.prepare([corpus], tmp_path / "other", length=32, min_count=100)
    prepared[3] = str(tmp_path / "other")
    with pytest.raises(SystemExit, match="differ in vocabulary"):
        script.main(prepared)


def test_short_sequences_come_before_longer_ones(script, corpus, tmp_path):
    short, long = tmp_path / "short", tmp_path / "long"
    for folder, length in ((short, 16), (long, 32)):
        data_utils.prepare([corpus], folder, length=length, min_count=1)
    output = tmp_path / "whole"
    command = arguments(corpus, output, 6, "--epoch-steps", 2, "--start", "random")
    command = [each for each in command if each not in ("--length=32", "--min-count=1")]
    command[:2] = ["--data", str(short), str(long), "--stages", "2", "1"]
    command += ["--valid-data", str(long), "--optimizer", "muon", "--masked-share", "0.4"]
    command += ["--saved-precision", "float16"]
    script.main(command)
    log = read_log(output)
    # Eight sequences of 16, or four of 32.
    assert [int(row["tokens"]) for row in log] == [256, 512, 768]
    assert all(row["val_loss"] for row in log)
    table = load_variable(output, "bert/embeddings/word_embeddings")
    assert table.dtype == "float16"
    tables = [array for array in final_arrays(output) if array.shape == table.shape]
    assert any(np.array_equal(array.astype("float16"), table) for array in tables)

    # Interrupted in the first stage and taken up, it ends the same.
    again = tmp_path / "again"
    shutil.copytree(output, again)
    for path in again.glob("states/step-*6"):
        shutil.rmtree(path)
    script.main([str(again) if each == str(output) else each for each in command])
    assert_same_run(again, output)
    with pytest.raises(SystemExit, match="3 shares of the steps for 2 folders"):
        script.main([*command, "--stages", "1", "1", "1"])


def test_stages_have_whole_numbers_of_steps():
    sequences = [types.SimpleNamespace(batch_size=8, length=64)] * 2
    first, second = stages.stages(sequences, [0.7, 0.3], 100, 20)
    assert (first.begin, first.end, second.begin, second.end) == (0, 80, 80, 100)
    assert stages.tokens_until([first, second], 90) == 90 * 8 * 64
    assert stages.batch_sizes(12, [64, 128, 1024]) == [12, 6, 1]
    with pytest.raises(SystemExit, match="leaves a stage without steps, of 2 times --save-steps"):
        stages.stages(sequences, [9, 1], 40, 20)


def test_a_share_of_the_tokens_is_masked(corpus, tmp_path):
    data_utils.prepare([corpus], tmp_path, length=32, min_count=1)
    examples = tasks.Examples(tmp_path)
    for share, n_masked in ((0.15, 4), (0.4, 12)):
        batches = tasks.Batches(examples, "roberta", 8, seed=0, masked_share=share)
        (_, _, positions), targets, weights = batches[0]
        assert positions.shape == targets.shape == (8, n_masked)
        assert 0.8 * 8 * n_masked < weights.sum() <= 8 * n_masked


def test_a_head_that_the_checkpoint_lacks_begins_at_random(script, corpus, tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    script.main(arguments(corpus, first, 2, "--epoch-steps", 2, "--start", "random"))
    more = ["--epoch-steps", 2, "--task", "bert", "--checkpoint", first, "--learning-rate", 1e-30]
    capsys.readouterr()
    script.main(arguments(corpus, second, 2, *more))
    assert f"{first} has no NSP-Proba: at random to begin with\n" in capsys.readouterr().out
    one, two = (
        {name: load_variable(folder, name) for name, _ in list_variables(folder)}
        for folder in (first, second)
    )
    assert set(two) - set(one) == {
        "cls/seq_relationship/output_weights",
        "cls/seq_relationship/output_bias",
    }
    for name, value in one.items():
        np.testing.assert_allclose(two[name], value, rtol=1e-6, atol=1e-9, err_msg=name)
    wider = [*more, "--hidden-size", 24]
    with pytest.raises(CheckpointError, match=r"does not fit the model"):
        script.main(arguments(corpus, tmp_path / "third", 2, *wider))


def test_training_that_runs_away_is_stopped(script, corpus, tmp_path):
    more = ["--epoch-steps", 5, "--learning-rate", 1e30, "--warmup", 0]
    with pytest.raises(SystemExit, match=r"NaN or infinity in .* lower --learning-rate"):
        script.main(arguments(corpus, tmp_path, 10, *more))
    assert not list((tmp_path / "states").iterdir())


@pytest.mark.long
@pytest.mark.skipif(keras.backend.backend() != "jax", reason="CPUs are split for JAX only here")
def test_two_devices_train_as_one(script, corpus, tmp_path):
    more = ["--epoch-steps", 4, "--valid", corpus]
    script.main(arguments(corpus, tmp_path / "one", 8, *more))
    environment = {**os.environ, "PYTHONPATH": str(FOLDER.parent), "JAX_NUM_CPU_DEVICES": "2"}
    command = [sys.executable, FOLDER / "pretraining.py", "--devices", "2"]
    command += arguments(corpus, tmp_path / "two", 8, *more)
    for _ in range(2):  # the second time it is complete
        subprocess.run(command, env=environment, check=True, capture_output=True)
    for one, two in zip(read_log(tmp_path / "one"), read_log(tmp_path / "two"), strict=True):
        for name in ("loss", "accuracy", "val_loss"):
            assert float(two[name]) == pytest.approx(float(one[name]), abs=2e-4)


# --- settings


def test_the_command_line_goes_before_the_file(script, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(
        "corpus: [a.txt, b.txt]\noutput: out\nhidden-size: 64\nlearning_rate: 3e-4\n"
        "deterministic: false\nclip_norm: null\n"
    )
    args = script.settings(["--config", str(file), "--hidden-size", "32"])
    assert args.corpus == [Path("a.txt"), Path("b.txt")] and args.hidden_size == 32
    assert args.learning_rate == 3e-4 and args.deterministic is False and args.clip_norm is None
    assert args.save_steps == args.epoch_steps == 500
    args = script.settings(["--config", str(file), "--corpus", "c.txt", "--deterministic"])
    assert args.corpus == [Path("c.txt")] and args.deterministic is True


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("hiden_size: 3", "unknown setting 'hiden_size'; did you mean hidden_size?"),
        ("xyzzy: 3", "unknown setting 'xyzzy': there are"),
        ("- a\n- b", "holds no settings"),
        ("a: [", "is no YAML file"),
    ],
)
def test_a_wrong_file_of_settings(script, tmp_path, content, message):
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(SystemExit, match=message):
        script.settings(["--config", str(tmp_path / "config.yaml")])
    with pytest.raises(SystemExit, match="is no YAML file"):
        script.settings(["--config", str(tmp_path / "missing.yaml")])


@pytest.mark.parametrize(
    ("given", "factors"),
    [
        ([], {10: 1, 100: 0}),
        (["--decay", "0.2"], {10: 1, 80: 1, 100: 0}),
        (["--decay", "0.9"], {10: 1, 100: 0}),
        (["--decay", "0"], {10: 1, 100: 1}),
    ],
)
def test_the_rate_falls_at_the_end(script, given, factors):
    argv = ["--output", "o", "--corpus", "a", "--steps", "100", "--epoch-steps", "50", *given]
    assert script.schedule(script.settings(argv)) == factors


def test_the_readme_names_every_flag(script):
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    for parser in (script.parser(), data_utils.parser()):
        for action in parser._actions[1:]:  # without --help
            assert any(
                f"{option}`" in text or f"{option} " in text for option in action.option_strings
            )


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.name)
def test_the_files_of_settings_that_come_along(script, file):
    args = script.settings(["--config", str(file)])
    assert args.output and (args.corpus or args.data)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--corpus a", "there is no --output"),
        ("--output o", "there is nothing to train on"),
        ("--output o --corpus a --data d", "are both given"),
        ("--output o --data d --valid v", "validation is --valid-data"),
        ("--output o --corpus a --steps 0", "are at least 1"),
        ("--output o --corpus a --steps 10 --epoch-steps 4", "--save-steps 4 has to divide"),
        ("--output o --corpus a --epoch-steps 10 --save-steps 4", "has to divide"),
        ("--output o --corpus a --warmup 1", "--warmup is 1.0"),
        ("--output o --corpus a --decay 0.95", "0.9 at most beside --warmup 0.1"),
        ("--output o --corpus a --length 1000", "of 1000 tokens are longer than --positions 512"),
        ("--output o --corpus a --positions 64", "of 128 tokens are longer than --positions 64"),
        ("--output o --data d --min-count 2", "--min-count 2 has no effect"),
        ("--output o --data d --segmenter a:b", "--segmenter a:b has no effect"),
        ("--output o --corpus a --vocab v --min-count 2", "--min-count 2 has no effect"),
        ("--output o --corpus a --valid-sources s", "--valid-sources .* has no effect"),
        ("--output o --corpus a --task gpt --masking span", "--masking span has no effect"),
        ("--output o --corpus a --pairs sop", "--pairs sop has no effect"),
        ("--output o --corpus a --generator-size 0.5", "--generator-size 0.5 has no effect"),
        ("--output o --corpus a --checkpoint c --start random", "--start random has no effect"),
        ("--output o --corpus a --masked-share 1", "--masked-share is 1.0: give a share"),
        ("--output o --corpus a --stages 1 2", "among folders of --data: give these"),
    ],
)
def test_settings_that_do_not_go_together(script, argv, message):
    with pytest.raises(SystemExit, match=message):
        script.settings(argv.split())


def test_a_corpus_that_cannot_be_read_ends_the_run(script, tmp_path, capfd):
    with pytest.raises(SystemExit):
        script.main(arguments(tmp_path / "missing.txt", tmp_path / "out", 2, "--epoch-steps", 2))
    assert "there is no corpus file" in capfd.readouterr().err
    assert not list((tmp_path / "out").rglob("*/*")), "more than a folder without states"


def test_vectors_start_from_what_stands_together():
    rng = np.random.default_rng(0)
    # Tokens 1 and 2 occur in the same company, 3 in another.
    rows = [[c, 4 if c < 3 else 5, 6 + rng.integers(3), 0] for c in rng.integers(1, 4, 900)]
    vectors = objectives.cooccurrence_vectors(np.array(rows), 12, 4)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    assert unit[1] @ unit[2] > 0.95 > 0.8 > unit[1] @ unit[3]
    assert vectors.std() == pytest.approx(1) and abs(vectors[[0, 9, 10, 11]]).max() < 1e-6
