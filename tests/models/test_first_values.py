"""The first values of weights: from the checkpoint without detours, random where it has none."""

import json
import re

import keras
import numpy as np
import pytest

from bert4keras.backend.memory import ALIGNMENT, Memory
from bert4keras.checkpoints import CheckpointError, open_checkpoint, write_checkpoint
from bert4keras.models import BERT, build_transformer_model

pytestmark = pytest.mark.backend

CONFIG = {
    "model_type": "bert",
    "vocab_size": 30,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 12,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}
INPUTS = [np.array([[2, 7, 9, 3], [2, 8, 3, 0]]), np.zeros((2, 4), int)]


def write_config(folder):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The weights of a random model by name, and its folders in three formats."""
    torch = pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("saved")
    source = build_transformer_model(write_config(folder / "config") / "config.json")
    for i, weight in enumerate(source.weights):
        weight.assign(np.random.default_rng(i).normal(size=weight.shape) * 0.2)
    folders = {kind: write_config(folder / kind) for kind in ("tensorflow", "torch", "safetensors")}
    source.save_weights_as_checkpoint(folders["tensorflow"] / "bert_model.ckpt")
    source.save_pretrained(folders["safetensors"])
    with open_checkpoint(folders["safetensors"]) as file:
        state = {name: torch.tensor(np.array(file[name])) for name in file}
    torch.save(state, folders["torch"] / "pytorch_model.bin")
    return values_of(source), folders


def values_of(model):
    return {weight.path: keras.ops.convert_to_numpy(weight) for weight in model.weights}


@pytest.fixture
def drawn(monkeypatch):
    """The shapes of all values that are drawn."""
    shapes = []
    for cls in (keras.initializers.TruncatedNormal, keras.initializers.GlorotUniform):

        def draw(self, shape, dtype=None, call=cls.__call__):
            shapes.append(tuple(shape))
            return call(self, shape, dtype)

        monkeypatch.setattr(cls, "__call__", draw)
    return shapes


@pytest.mark.parametrize("kind", ["tensorflow", "torch", "safetensors"])
def test_nothing_is_drawn_for_what_a_file_fills(saved, drawn, kind):
    values, folders = saved
    model = build_transformer_model(folders[kind])
    assert drawn == []
    assert model.weights and all(weight.dtype == "float32" for weight in model.weights)
    for path, value in values_of(model).items():
        np.testing.assert_array_equal(value, values[path], err_msg=path)


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "mixed_float16"])
def test_half_precision(saved, precision):
    values, folders = saved
    model = build_transformer_model(folders["safetensors"], precision=precision)
    expected = precision if precision in ("bfloat16", "float16") else "float32"
    for weight in model.weights:
        assert weight.dtype == expected
        value = keras.ops.convert_to_numpy(keras.ops.cast(weight.value, "float32"))
        cast = keras.ops.cast(keras.ops.cast(values[weight.path], expected), "float32")
        np.testing.assert_array_equal(value, keras.ops.convert_to_numpy(cast))


class WithHead(BERT):
    """A BERT with layers that no checkpoint knows, before and after those that one knows."""

    def apply_embeddings(self, inputs):
        return self.apply(super().apply_embeddings(inputs), keras.layers.Dense, units=24, name="in")

    def apply_final_layers(self, inputs):
        x = self.apply(inputs, keras.layers.Dense, units=3, name="head")
        return self.apply(x, keras.layers.Dropout, rate=0.1, name="last")


def test_what_a_file_lacks_starts_as_without_it(saved, drawn):
    values, folders = saved
    keras.utils.set_random_seed(5)
    fresh = build_transformer_model(folders["tensorflow"] / "config.json", model=WithHead)
    assert len(drawn) > 10
    drawn.clear()
    keras.utils.set_random_seed(5)
    loaded = build_transformer_model(folders["tensorflow"], model=WithHead)
    assert drawn == [(24, 24), (24, 3)]
    fresh_values, loaded_values = values_of(fresh), values_of(loaded)
    for path in ("in/kernel", "head/kernel"):
        assert np.abs(loaded_values[path]).max() > 0
        np.testing.assert_array_equal(loaded_values.pop(path), fresh_values[path])
    for path in ("in/bias", "head/bias"):
        assert np.all(loaded_values.pop(path) == 0)
    for path, value in loaded_values.items():
        np.testing.assert_array_equal(value, values[path], err_msg=path)
    states = [
        keras.ops.convert_to_numpy(m.get_layer("last").seed_generator.state)
        for m in (fresh, loaded)
    ]
    np.testing.assert_array_equal(*states)


class WithUnseededHead(WithHead):
    """The same with an initializer that draws from one generator for all weights."""

    def apply_final_layers(self, inputs):
        arguments = {"kernel_initializer": drawn_by_numpy, "name": "head"}
        return self.apply(inputs, keras.layers.Dense, units=3, **arguments)

    @property
    def table_initializer(self):
        return drawn_by_numpy


def drawn_by_numpy(shape, dtype=None):
    return keras.ops.convert_to_tensor(GENERATOR[0].normal(size=shape), dtype)


GENERATOR = [np.random.default_rng(3)]


def test_generators_go_on_as_without_a_file(saved):
    """Tables of the file are filled, and were drawn from the same generator as the head."""
    _, folders = saved
    heads = []
    for checkpoint in (None, folders["tensorflow"]):
        GENERATOR[0] = np.random.default_rng(3)
        path = folders["tensorflow"] / "config.json"
        model = build_transformer_model(path, checkpoint, model=WithUnseededHead)
        heads.append(values_of(model)["head/kernel"])
    np.testing.assert_array_equal(*heads)


class WithMethod(WithHead):
    """The same with a method that draws values."""

    def initializer(self, shape, dtype=None, order=3, gain=1.0):
        return super().initializer(shape, dtype, order, gain)


class WithAssignment(BERT):
    """A BERT whose construction goes on after that of the model."""

    def build(self, **kwargs):
        super().build(**kwargs)
        self.extra = keras.layers.Dense(1, name="extra")
        self.extra.build((None, 2))
        self.extra.kernel.assign([[1], [2]])
        self.extra.kernel.assign_add([[1], [1]])
        self.model.extra = self.extra


class WithOwnLoading(BERT):
    """A BERT that loads in a way of its own."""

    def load_weights_from_checkpoint(self, checkpoint, mapping=None):
        self.before = [keras.ops.convert_to_numpy(w) for w in self.model.weights]
        for weight in self.model.weights:
            weight.assign(np.ones(weight.shape))


def test_values_drawn_by_a_method(saved):
    values, folders = saved
    keras.utils.set_random_seed(5)
    fresh = build_transformer_model(folders["tensorflow"] / "config.json", model=WithMethod)
    keras.utils.set_random_seed(5)
    loaded = build_transformer_model(folders["tensorflow"], model=WithMethod)
    for path, value in values_of(loaded).items():
        expected = values[path] if path in values else values_of(fresh)[path]
        np.testing.assert_array_equal(value, expected, err_msg=path)


def test_what_construction_assigns_stays(saved):
    model = build_transformer_model(saved[1]["tensorflow"], model=WithAssignment)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(model.extra.kernel), [[2], [3]])


def test_own_loading_finds_initial_values(saved):
    model = build_transformer_model(saved[1]["tensorflow"], model=WithOwnLoading)
    assert all(np.all(value == 1) for value in values_of(model).values())
    assert any(np.any(value != 0) for value in model.transformer.before)


def test_a_failure_leaves_nothing_behind(saved, drawn, tmp_path):
    """Variables that were to be filled are not drawn by a later scope of Keras."""
    with open_checkpoint(saved[1]["tensorflow"]) as file:
        variables = {name: np.array(file[name]) for name in file}
    variables["bert/encoder/layer_1/output/dense/bias"][3] = np.nan
    write_checkpoint(write_config(tmp_path) / "bert_model.ckpt", variables)
    with pytest.raises(CheckpointError, match="NaN"):
        build_transformer_model(tmp_path)
    with pytest.raises(RuntimeError, match="on purpose"):
        build_transformer_model(saved[1]["tensorflow"], model=Failing)
    with keras.StatelessScope():
        pass
    assert drawn == []


class Failing(BERT):
    """A BERT that cannot be built."""

    def apply_final_layers(self, inputs):
        raise RuntimeError("on purpose")


def test_a_loaded_model_trains_like_any_other(saved):
    """Memory that was taken over is used as the engine's own."""
    values, folders = saved
    without_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    path = folders["safetensors"] / "config.json"
    built = build_transformer_model(path, **without_dropout)
    loaded = build_transformer_model(folders["safetensors"], **without_dropout)
    for weight in built.weights:
        weight.assign(values[weight.path])
    losses = []
    for model in (built, loaded):
        model.compile(keras.optimizers.Adam(0.01), "mse")
        losses.append([model.train_on_batch(INPUTS, np.ones((2, 4, 24))) for _ in range(3)])
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert losses[0][2] < losses[0][0]
    again = build_transformer_model(folders["safetensors"])
    for path, value in values_of(again).items():
        np.testing.assert_array_equal(value, values[path])  # the file is as it was


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="modules of PyTorch")
def test_modules_of_pytorch_know_the_weights(saved):
    folder = saved[1]["safetensors"]
    loaded, fresh = build_transformer_model(folder), build_transformer_model(folder / "config.json")
    names = [[re.sub(r"\d+/", "/", n) for n in m.state_dict()] for m in (loaded, fresh)]
    assert names[0] == names[1]
    shapes = [[p.shape for p in m.parameters()] for m in (loaded, fresh)]
    assert shapes[0] == shapes[1]
    assert {p.data_ptr() for p in loaded.parameters()} >= {
        w.value.data_ptr() for w in loaded.weights
    }


# === Memory ===


@pytest.mark.parametrize("any_order", [False, True])
@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 5), (70, 33), (2, 3, 4)])
def test_copies(shape, any_order):
    memory = Memory(1000)
    for dtype in ("float32", "float16", "int64"):
        value = (np.random.default_rng(0).normal(size=shape) * 9).astype("float32")
        for array in (value, value.T, value[..., ::2] if shape else value):
            copy = memory.copy(array, dtype, any_order)
            assert copy.ctypes.data % ALIGNMENT == 0 or copy.size == 0
            assert not np.shares_memory(copy, array)
            assert copy.dtype == dtype
            np.testing.assert_array_equal(copy, array.astype(dtype))


def test_pieces_of_memory_do_not_overlap():
    memory = Memory(1 << 12)
    arrays = [memory.array((n,), np.dtype("float32")) for n in (5, 300, 1, 4000, 2)]
    for i, array in enumerate(arrays):
        array[:] = i
    for i, array in enumerate(arrays):
        assert np.all(array == i)
