"""How much is written as texts become longer: bytes and shapes, not times."""

import numpy as np
import pytest
from keras import ops
from losses import gradients
from memory import bytes_written

from bert4keras.backend.engines import products_with_rows
from bert4keras.backend.loops import fold
from bert4keras.generation import Generator
from bert4keras.layers import ConditionalRandomField
from bert4keras.models import build_transformer_model
from bert4keras.training import MultilabelCrossentropy, SparseMultilabelCrossentropy

pytestmark = pytest.mark.backend

SIZES = {
    "vocab_size": 50,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "hidden_act": "gelu",
    "max_position_embeddings": 32,
}
RANDOM = np.random.default_rng(0)


def normal(*shape):
    return RANDOM.normal(size=shape).astype("float32")


@pytest.mark.parametrize("padded", [False, True])
def test_the_loss_of_a_crf_writes_in_proportion_to_the_length(padded):
    crf = ConditionalRandomField()
    crf.build((None, None, 3))

    def written(length):
        labels = np.arange(2 * length).reshape(2, length) % 3
        mask = np.arange(length) < np.array([[length], [length // 2]]) if padded else None

        def loss(emissions):
            scores = crf(emissions, mask=None if mask is None else ops.convert_to_tensor(mask))
            return ops.sum(crf.sparse_loss(labels, scores))

        return bytes_written(loss, [normal(2, length, 3)], trips=length)

    assert written(256) < 2.3 * written(128)


def test_labels_by_index_are_made_into_no_matrix():
    """The loss writes less than that of a matrix of labels, which is there already."""
    spans = np.sort(RANDOM.integers(1, 32, (2, 3, 4, 2)), axis=-1)
    matrix = np.zeros((2, 3, 32, 32), "float32")

    def written(loss, labels):
        return bytes_written(lambda scores: loss(labels, scores), [normal(2, 3, 32, 32)])

    sparse = SparseMultilabelCrossentropy(mask_zero=True, class_axes=2)
    assert written(sparse, spans) < written(MultilabelCrossentropy(class_axes=2), matrix)


def test_masked_language_models_score_only_the_masked_positions():
    model = build_transformer_model(with_mlm="linear", masked_positions=True, **SIZES)
    lengths = lengths_of_calls(model, "MLM-Dense", "MLM-Norm", "Embedding-Token")
    ids = RANDOM.integers(1, 50, (2, 20))
    model([ids, 0 * ids, np.array([[1, 4, 6], [2, 3, 9]])])
    assert lengths == {"MLM-Dense": [3], "MLM-Norm": [3], "Embedding-Token": [20, 3]}


def test_writing_computes_each_token_once():
    model = build_transformer_model(application="lm", with_mlm="linear", **SIZES)
    names = "Transformer-0-FeedForward", "MLM-Dense"
    lengths = lengths_of_calls(model, *names)
    writer = Generator(model, end_id=0, maxlen=5, minlen=5)
    assert len(writer.generate(RANDOM.integers(1, 50, (1, 20)).tolist(), topk=1)[0]) == 5
    prompt, *steps = lengths["Transformer-0-FeedForward"]
    assert 20 <= prompt <= 32 and steps and {*steps, *lengths["MLM-Dense"]} == {1}


def lengths_of_calls(model, *names):
    """Note with which lengths layers are called from now on, in compiled functions once each."""
    lengths = {name: [] for name in names}

    def noting(name, call):
        def noted(inputs, *args, **kwargs):
            lengths[name].append(inputs.shape[1])
            return call(inputs, *args, **kwargs)

        return noted

    for name in names:
        layer = model.get_layer(name)
        layer.call = noting(name, layer.call)
    return lengths


@pytest.mark.parametrize("length", [1, 7, 8, 19])
def test_a_fold_of_any_length_and_its_gradient(length):
    """A recurrence that depends on the order: what TensorFlow runs in pieces ends where it ends."""
    values = normal(length, 2)

    def last(x):
        visible = ops.ones((length, 2), "bool")
        state = ops.ones((2,))
        return ops.sum(fold(lambda s, e: ops.where(e[1], s / 2 + e[0], s), state, (x, visible)))

    weights = 0.5 ** np.arange(length)[::-1]
    expected = 2 * 0.5**length + (values * weights[:, None]).sum()
    np.testing.assert_allclose(float(last(ops.convert_to_tensor(values))), expected, rtol=1e-5)
    (gradient,) = gradients(last, [ops.convert_to_tensor(values)])
    np.testing.assert_allclose(gradient, weights[:, None] * np.ones(2), rtol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 1, 3), (2, 8, 3), (17, 3)])
def test_products_with_the_rows_of_a_table(shape):
    x, table = normal(*shape), normal(5, 3)
    found = products_with_rows(ops.convert_to_tensor(x), ops.convert_to_tensor(table))
    np.testing.assert_allclose(ops.convert_to_numpy(found), x @ table.T, rtol=1e-4, atol=1e-5)
