"""For how many shapes models are compiled, also where there is a GPU."""

import re
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from bert4keras.models import Model, build_transformer_model
from bert4keras.snippets import DataGenerator, bucket_length
from bert4keras.training.compiling import SizesMet

pytestmark = pytest.mark.backend

BACKEND = keras.backend.backend()
SIZES = {
    "vocab_size": 50,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "max_position_embeddings": 128,
    "hidden_act": "gelu",
}
LENGTHS = [5, 7, 9, 11, 13, 17, 19, 23, 29]


def classifier(kind=Model, **options):
    bert = build_transformer_model(**SIZES, return_keras_model=False, **options)
    output = keras.layers.Dense(2, "softmax")(bert.model.output[:, 0])
    return kind(bert.model.inputs, output)


def batch(length, size=2):
    ids = np.random.default_rng(length).integers(1, 50, (size, length))
    return [ids, np.zeros_like(ids)], np.arange(size) % 2


@pytest.fixture
def gpu(monkeypatch):
    """Let Keras find a GPU beside the CPU."""
    if BACKEND != "tensorflow":
        pytest.skip("only on TensorFlow does Keras choose by the devices")
    import tensorflow as tf

    devices = [SimpleNamespace(device_type=kind) for kind in ("CPU", "GPU")]
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda *args: devices)


@pytest.mark.parametrize(
    ("options", "given", "expected"),
    [
        ({}, {}, False),
        ({}, {"jit_compile": "auto"}, False),
        ({}, {"jit_compile": True}, True),
        ({"sequence_length": 16}, {}, True),
        ({"sequence_length": 16}, {"jit_compile": False}, False),
    ],
)
def test_xla_on_a_gpu(gpu, options, given, expected):
    model = classifier(**options)
    assert model.jit_compile is (options == {"sequence_length": 16})  # as for `predict`
    model.compile("sgd", "sparse_categorical_crossentropy", **given)
    assert model.jit_compile is expected


def test_keras_chooses_xla_on_a_gpu(gpu):
    """What `Model` decides otherwise: without this the tests above would show nothing."""
    assert classifier(keras.Model).jit_compile is True


def test_one_graph_for_all_lengths_on_a_gpu(gpu):
    model = classifier()
    model.compile("sgd", "sparse_categorical_crossentropy")
    traced, train_step = [], model.train_step
    model.train_step = lambda *args: traced.append(args) or train_step(*args)
    model.fit(map(batch, LENGTHS), steps_per_epoch=len(LENGTHS), verbose=0)
    assert len(traced) == 1


@pytest.mark.skipif(BACKEND != "jax", reason="only JAX compiles for every shape")
class TestOnJax:
    @pytest.fixture
    def model(self):
        model = classifier()
        model.compile("sgd", "sparse_categorical_crossentropy")
        return model

    def test_many_lengths_are_mentioned_once(self, model):
        lengths = [*LENGTHS, 31, 33]
        with pytest.warns(UserWarning, match=re.escape(f"9 lengths so far, {LENGTHS}")) as caught:
            model.predict(iter([batch(n)[0] for n in lengths]), steps=len(lengths), verbose=0)
        assert len(caught) == 1
        assert "bucket_length" in str(caught[0].message)

    def test_many_batch_sizes_are_mentioned(self, model):
        with pytest.warns(UserWarning, match=r"9 batch sizes so far.*give batches of one size"):
            for size in range(1, 10):
                model.predict_on_batch(batch(3, size)[0])


def test_rounded_lengths_are_few():
    rounded = sorted({bucket_length(n) for n in range(513)})
    assert len(rounded) == 18
    met = SizesMet()  # warns if they are many, which is an error here
    for n in rounded:
        met.add([np.zeros((2, n)), None, np.zeros((2, n, n))])
    with pytest.warns(UserWarning, match="9 lengths"):
        for n in LENGTHS:
            met.add([np.zeros((2, n))])


def test_a_generator_pads_to_few_lengths_where_each_is_compiled():
    padded = DataGenerator([]).pad([[1, 2], [3] * 17])
    assert padded.shape == (2, 32 if BACKEND == "jax" else 17)
    assert padded.sum() == 3 + 3 * 17
