"""`K.function`, `K.gradients`, `K.placeholder`: functions and gradients of symbolic tensors."""

import keras
import numpy as np
import pytest

from bert4keras.backend import K
from bert4keras.layers import Dense
from bert4keras.models import Model, build_transformer_model
from bert4keras.training import gradients_of

pytestmark = pytest.mark.backend

SIZES = {
    "vocab_size": 20,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "hidden_act": "gelu",
    "max_position": 8,
    "dropout_rate": 0.5,
}
TOKENS = np.array([[2, 5, 7, 3], [2, 4, 3, 0]])
X = [TOKENS, np.zeros_like(TOKENS)]


@pytest.fixture(scope="module")
def model():
    """A classifier with padding in its batch."""
    keras.utils.set_random_seed(1)
    bert = build_transformer_model(**SIZES)
    return Model(bert.inputs, Dense(2, activation="softmax")(bert.output[:, 0]))


def test_gradients_at_a_layer_are_those_of_the_model(model):
    vectors = model.get_layer("Embedding-Token").output
    (slope,) = K.gradients(model.output[:, 1], [vectors])
    values, expected = gradients_of(model, output=1)(X)
    found, output = K.function(model.inputs, [slope, model.output])(X)
    np.testing.assert_allclose(output[:, 1], values, rtol=1e-5)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert (found[1, 3] == 0).all() and (found[1, 2] != 0).any()  # padding is not seen
    found = Model(model.inputs, slope).predict(X, verbose=0)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_gradients_of_weights_and_of_what_is_fed(model):
    weights = model.layers[-1].kernel
    label = K.placeholder(shape=(None, 1), dtype="int32")
    chosen = keras.ops.take_along_axis(model.output, label, axis=1)
    found = K.gradients([chosen, chosen], weights)
    compute = K.function([*model.inputs, label], found)
    (slope,) = compute([*X, np.array([[0], [1]])])
    step = 1e-2 * np.sign(slope)
    K.set_value(weights, K.get_value(weights) + step)
    higher = K.function([*model.inputs, label], chosen)([*X, np.array([[0], [1]])]).sum()
    K.set_value(weights, K.get_value(weights) - 2 * step)
    lower = K.function([*model.inputs, label], chosen)([*X, np.array([[0], [1]])]).sum()
    K.set_value(weights, K.get_value(weights) + step)
    np.testing.assert_allclose((slope * step).sum(), higher - lower, rtol=0.05)


def test_a_function_runs_as_in_training_if_it_is_told_so(model):
    compute = K.function([*model.inputs, K.learning_phase()], [model.output])
    (first,), (second,), (alone,) = compute([*X, 0]), compute([*X, 0]), compute(X)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, alone)
    (dropped,) = compute([*X, 1])
    assert np.abs(dropped - first).max() > 1e-4


def test_what_is_no_symbolic_tensor_is_refused(model):
    values = keras.ops.ones((2, 3))
    with pytest.raises(TypeError, match=r"compile\(step=…\)"):
        K.gradients(values, [values])
    with pytest.raises(TypeError, match="plain function"):
        K.function([values], [values])
    with pytest.raises(ValueError, match="no updates"):
        K.function(model.inputs, model.outputs, updates=[1])
    with pytest.raises(ValueError, match="needs shape="):
        K.placeholder()
    assert K.placeholder(ndim=3).shape == (None, None, None)
