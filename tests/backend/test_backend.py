"""The functions that layers compute with, against the original and against NumPy."""

import keras
import numpy as np
import pytest
from golden import is_error, load_json
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from bert4keras import backend

pytestmark = pytest.mark.backend

NUMPY = ops.convert_to_numpy


def run(case):
    """Call what a golden case names, on its arguments."""
    args = keras.tree.map_structure(
        lambda x: ops.convert_to_tensor(x) if isinstance(x, np.ndarray) else x, case["args"]
    )
    match case["fn"]:
        case "flatten":
            return backend.flatten(args["tensor"], args["start"], args["end"])
        case "reshape":
            return backend.reshape(args["tensor"], *args["args"])
        case "apply_rotary_position_embeddings":
            return backend.apply_rotary_position_embeddings(args["sinusoidal"], *args["tensors"])
        case "Sinusoidal()(shape)":
            return backend.Sinusoidal()(args["shape"])
        case "activations.get('gelu')":
            return backend.activation("gelu")(args["x"])
        case "set_gelu(version); activations.get('gelu')":
            backend.set_gelu(args["version"])
            return backend.activation("gelu")(args["x"])
        case "where":
            return backend.K.where(args["cond"], args["x"], args["y"])
        case _:
            return getattr(backend, case["fn"])(**args)


@pytest.fixture(autouse=True)
def default_gelu():
    yield
    backend.set_gelu("erf")


def test_outputs_are_those_of_the_original(references):
    cases = load_json(references / "units/backend/backend.json")["cases"]
    worst, ran = {}, 0
    for case in cases:
        if case["fn"].startswith("d sum"):
            continue
        if str(case["args"].get("value")) in ("inf", "-inf") and is_error(case["out"]):
            continue  # A fault: the original documents these strings, and raises.
        if is_error(case["out"]):
            with pytest.raises((ValueError, TypeError)):
                run(case)
            continue
        found = keras.tree.flatten(run(case))
        found = [NUMPY(x) for x in found if x is not None]
        assert len(found) == len(case["out"]), case["name"]
        for ours, theirs in zip(found, case["out"], strict=True):
            if case["fn"] == "sequence_masking" and ours.dtype == bool:
                theirs = theirs.astype(bool)
            np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=1e-5, err_msg=case["name"])
            if ours.dtype != bool:
                at = np.isfinite(theirs)
                error = np.abs(ours[at] - theirs[at]).max(initial=0)
                worst[case["fn"]] = max(worst.get(case["fn"], 0), float(error))
        ran += 1
    print(worst)
    assert ran > 150


def test_masking_understands_the_strings_it_documents():
    """The original documents '-inf' and 'inf' as values, and raises a TypeError on them."""
    x, mask = np.ones((1, 2, 3), "float32"), np.array([[1, 0]])
    assert (NUMPY(backend.sequence_masking(x, mask, "-inf"))[0, 1] == -np.inf).all()
    assert (NUMPY(backend.sequence_masking(x, mask, "inf"))[0, 1] == np.inf).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("method", ["softmax", "softmax_plus", "squared_relu"])
def test_a_row_that_sees_nothing_gives_zeros(dtype, method):
    scores = ops.cast(np.random.default_rng(0).normal(size=(2, 3, 4, 5)) * 50, dtype)
    mask = np.array([[1, 1, 0, 0, 0], [0, 0, 0, 0, 0]])
    weights = NUMPY(ops.cast(backend.attention_normalize(scores, mask, -1, method), "float32"))
    assert np.isfinite(weights).all()
    assert (weights[1] == 0).all() and (weights[0, ..., 2:] == 0).all()
    assert method == "squared_relu" or np.allclose(weights[0].sum(-1), 1, atol=1e-2)


@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    gaps=st.lists(st.integers(0, 2), min_size=4, max_size=4),
)
@settings(max_examples=30, deadline=None)
def test_align_only_inserts_axes(shape, gaps):
    x = np.arange(np.prod(shape)).reshape(shape)
    axes = [i + sum(gaps[: i + 1]) for i in range(len(shape))]
    ndim = axes[-1] + 1 + gaps[3]
    found = NUMPY(backend.align(x, axes, ndim))
    expected = [1] * ndim
    for axis, size in zip(axes, shape, strict=True):
        expected[axis] = size
    assert found.shape == tuple(expected) and (found.ravel() == x.ravel()).all()


def test_rotary_positions_make_scores_relative():
    """A query and a key, moved together, keep their product (https://arxiv.org/abs/2104.09864)."""
    rng = np.random.default_rng(0)
    q, k = ops.convert_to_tensor(rng.normal(size=(2, 1, 1, 2, 8)).astype("float32"))
    at = backend.sinusoidal_embeddings(np.arange(30)[None], 8)
    scores = [
        float(
            ops.sum(
                backend.apply_rotary_position_embeddings(at[:, i : i + 1], q)
                * backend.apply_rotary_position_embeddings(at[:, i + 7 : i + 8], k)
            )
        )
        for i in (0, 3, 20)
    ]
    assert np.ptp(scores) < 1e-4


def test_multilabel_loss_of_masked_classes_has_finite_gradients():
    """Scores masked by minus infinity neither count nor spoil what is learnt from the others."""
    dense = keras.layers.Dense(4)
    dense.build((None, 3))
    mask = np.array([[0, 0, -np.inf, -np.inf]], "float32")
    inputs = keras.Input((3,))
    model = keras.Model(inputs, dense(inputs))

    def loss(y_true, y_pred):
        y_pred = y_pred + ops.convert_to_tensor(mask)
        return backend.multilabel_categorical_crossentropy(y_true, y_pred)

    model.compile(keras.optimizers.SGD(0.1), loss)
    x, y = np.ones((2, 3), "float32"), np.array([[1, 0, 0, 0]] * 2, "float32")
    before = [model.train_on_batch(x, y) for _ in range(5)]
    assert np.isfinite(before).all() and before[-1] < before[0]
    assert all(np.isfinite(NUMPY(w)).all() for w in model.weights)
    expected = np.log1p(np.exp(-2.0)) + np.log1p(np.exp(3.0))
    found = backend.multilabel_categorical_crossentropy(
        np.array([[1, 0, 0]], "float32"), np.array([[2, 3, -np.inf]], "float32")
    )
    assert np.allclose(NUMPY(found), expected, atol=1e-5)


def test_gelu_can_be_chosen_for_models_built_later():
    assert backend.activation("gelu") is backend.gelu_erf
    backend.set_gelu("tanh")
    assert backend.activation("gelu") is backend.gelu_tanh
    with pytest.raises(ValueError, match="'erf' or 'tanh'"):
        backend.set_gelu("quick")


def test_layers_are_found_from_what_they_lead_to():
    x = keras.Input((3,), name="x")
    hidden = keras.layers.Dense(2, name="hidden")(x)
    output = keras.layers.Add(name="sum")([hidden, keras.layers.Dense(2, name="other")(x)])
    for start in (output, [output], output._keras_history.operation):
        assert backend.search_layer(start, "hidden").name == "hidden"
    assert backend.search_layer(hidden, "other") is None
