"""Attention against a plain NumPy forward pass in float64, and against `transformers`."""

import itertools

import keras
import numpy as np
import pytest
import reference as ref
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from losses import gradients

from bert4keras import backend, layers
from bert4keras.backend import lowest, rotary_frequencies, sinusoidal_embeddings

pytestmark = pytest.mark.backend

NUMPY = ops.convert_to_numpy
INFINITY = float("inf")


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def as_float32(x):
    return NUMPY(ops.cast(x, "float32"))


def cast(x, dtype):
    return ops.cast(ops.convert_to_tensor(x), dtype)


# ----------------------------------------------------------------------------------- the reference


def weights_of(layer):
    return {
        w.path.removeprefix(f"{layer.name}/"): NUMPY(w.value).astype("float64")
        for w in layer.weights
    }


def rotated(x, sinusoidal, half):
    """Rotate pairs of features of x (batch, length, heads, size) as complex numbers."""
    sin, cos = sinusoidal[:, :, None, ::2], sinusoidal[:, :, None, 1::2]
    size = x.shape[-1] // 2
    real, imaginary = (x[..., :size], x[..., size:]) if half else (x[..., ::2], x[..., 1::2])
    turned = (real + 1j * imaginary) * (cos + 1j * sin)
    if half:
        return np.concatenate([turned.real, turned.imag], axis=-1)
    return np.stack([turned.real, turned.imag], axis=-1).reshape(x.shape)


def reference(layer, inputs, key_mask=None, a_bias=None, p_bias=None, position=None):
    """What `MultiHeadAttention` with softmax computes, in float64 and written out."""
    weights = weights_of(layer)

    def project(name, x, heads=None):
        x = x.astype("float64") @ weights[f"{name}/kernel"] + weights.get(f"{name}/bias", 0.0)
        return x if heads is None else x.reshape(*x.shape[:2], heads, -1)

    query = project("q_dense", inputs[0], layer.heads)
    key = project("k_dense", inputs[1], layer.key_value_heads)
    value = project("v_dense", inputs[2], layer.key_value_heads)
    if layer.query_key_norm:
        query = ref.norm(query, [weights["q_norm/gamma"]], layer.query_key_norm, rms=True)
        key = ref.norm(key, [weights["k_norm/gamma"]], layer.query_key_norm, rms=True)
    if p_bias in ("rotary", "rotary_half"):
        query, key = (
            rotated(x, np.float64(position), p_bias == "rotary_half") for x in (query, key)
        )
    groups = layer.heads // layer.key_value_heads
    key, value = np.repeat(key, groups, axis=2), np.repeat(value, groups, axis=2)
    scores = np.einsum("bqhd,bkhd->bhqk", query, key)
    if p_bias == "t5_relative":
        scores = scores + position.transpose(2, 0, 1)
    if p_bias == "typical_relative":
        scores = scores + np.einsum("bqhd,qkd->bhqk", query, position)
    if layer.attention_scale:
        scores = scores / np.sqrt(layer.key_size)
    hiding = [] if key_mask is None else [key_mask[:, None, None]]
    if a_bias is not None:
        hiding.append(a_bias if a_bias.ndim == 4 else a_bias[:, None])
    for bias in hiding:
        scores = np.where(bias, scores, -INFINITY) if bias.dtype == bool else scores + bias
    top = scores.max(-1, keepdims=True)
    exponentials = np.exp(scores - np.where(np.isfinite(top), top, 0))
    total = exponentials.sum(-1, keepdims=True)
    attention = exponentials / np.where(total == 0, 1, total)
    output = np.einsum("bhqk,bkhd->bqhd", attention, value)
    if p_bias == "typical_relative":
        output = output + np.einsum("bhqk,qkd->bqhd", attention, position)
    return project("o_dense", output.reshape(*output.shape[:2], -1))


def called(layer, inputs, key_mask=None, a_bias=None, p_bias=None, position=None, **arguments):
    """Call a layer on arrays."""
    extra = [ops.convert_to_tensor(x) for x in (a_bias, position) if x is not None]
    masks = None
    if key_mask is not None:
        masks = [None, None, ops.convert_to_tensor(key_mask), *[None] * len(extra)]
    return layer(
        [*(ops.convert_to_tensor(x) for x in inputs), *extra],
        mask=masks,
        a_bias=True if a_bias is not None else None,
        p_bias=p_bias,
        **arguments,
    )


def randomised(layer, inputs, seed=7, **arguments):
    """Build a layer and move all of its weights away from zeros and ones."""
    called(layer, inputs, **arguments)
    random = np.random.default_rng(seed)
    layer.set_weights([w + random.normal(scale=0.2, size=w.shape) for w in layer.get_weights()])
    return layer


# ------------------------------------------------------------------------------------------- masks

BATCH, LENGTH, KEYS, HEADS = 2, 4, 5, 4
QUERY, KEY = normal(BATCH, LENGTH, 8, seed=1), normal(BATCH, KEYS, 6, seed=2)
INPUTS = [QUERY, KEY, KEY]


@pytest.fixture(scope="module")
def attentions():
    """The same attention by three ways: fused, with scores, and with grouped queries."""
    return [
        randomised(layers.MultiHeadAttention(HEADS, 3, **options), INPUTS)
        for options in ({}, {"return_attention_scores": True}, {"key_value_heads": 2})
    ]


def booleans(*shape):
    size = int(np.prod(shape))
    return st.lists(st.booleans(), min_size=size, max_size=size).map(
        lambda values: np.array(values).reshape(shape)
    )


def floats(*shape):
    size = int(np.prod(shape))
    number = st.one_of(st.floats(-4, 4, width=32), st.just(-INFINITY))
    return st.lists(number, min_size=size, max_size=size).map(
        lambda values: np.array(values, "float32").reshape(shape)
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_masks_of_every_kind_are_those_of_numpy(attentions, data):
    shapes = [(BATCH, LENGTH, KEYS), (BATCH, HEADS, LENGTH, KEYS), (1, 1, LENGTH, KEYS)]
    shape = data.draw(st.sampled_from(shapes))
    kind = data.draw(st.sampled_from([None, booleans, floats]))
    a_bias = None if kind is None else data.draw(kind(*shape))
    key_mask = data.draw(st.one_of(st.none(), booleans(BATCH, KEYS)))
    for layer in attentions:
        found = called(layer, INPUTS, key_mask, a_bias)
        found = NUMPY(found[0] if layer.return_attention_scores else found)
        np.testing.assert_allclose(found, reference(layer, INPUTS, key_mask, a_bias), atol=2e-5)


@pytest.mark.parametrize("p_bias", ["rotary", "rotary_half", "typical_relative", "t5_relative"])
@pytest.mark.parametrize("boolean", [True, False])
def test_position_biases_with_masks_are_those_of_numpy(p_bias, boolean):
    x = normal(2, LENGTH, 8)
    position = {
        "typical_relative": normal(LENGTH, LENGTH, 6, seed=3),
        "t5_relative": normal(LENGTH, LENGTH, HEADS, seed=3),
    }.get(p_bias, NUMPY(sinusoidal_embeddings(np.array([[0, 1, 5, 9], [3, 1, 2, 7]]), 6)))
    a_bias = np.tril(np.ones((2, LENGTH, LENGTH), "bool"))
    if not boolean:
        a_bias = np.where(a_bias, normal(2, LENGTH, LENGTH, seed=4), -INFINITY).astype("float32")
    key_mask = np.array([[True, True, True, False], [True, False, True, True]])
    arguments = {"a_bias": a_bias, "p_bias": p_bias, "position": position}
    layer = randomised(layers.MultiHeadAttention(HEADS, 6), [x] * 3, **arguments)
    found = NUMPY(called(layer, [x] * 3, key_mask, **arguments))
    expected = reference(layer, [x] * 3, key_mask, **arguments)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert np.abs(expected - reference(layer, [x] * 3, key_mask, a_bias)).max() > 1e-2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["boolean", "float", "boolean and float", "all hidden"])
def test_a_row_without_visible_keys_gives_zeros_and_a_finite_gradient(dtype, kind):
    """Forward and backward, in the fused kernel and in every normalisation beside it."""
    query, key, value = (cast(normal(2, 3, 2, 4, seed=i), dtype) for i in range(3))
    hidden = np.ones((2, 1, 3, 3), "bool")
    hidden[0, :, 1] = False
    hidden = np.zeros_like(hidden) if kind == "all hidden" else hidden
    mask = None if kind == "float" else ops.convert_to_tensor(np.ones((2, 3), "bool"))
    bias = cast(np.where(hidden, 0.5, -INFINITY), dtype)
    bias = ops.convert_to_tensor(hidden) if kind == "boolean" else bias
    visible, floats = backend.attention_visibility(mask, bias, dtype)
    alive = hidden.any(-1)[:, 0, :, None, None]

    def fused(query, key, value):
        output = backend.dot_product_attention(query, key, value, 0.5, visible, floats)
        return output, ops.sum(ops.cast(ops.square(output), "float32"))

    output = as_float32(fused(query, key, value)[0])
    assert np.isfinite(output).all() and (output * ~alive == 0).all()
    assert kind == "all hidden" or np.abs(output * alive).min(initial=1, where=alive) > 0
    for g in gradients(lambda *x: fused(*x)[1], [query, key, value]):
        assert np.isfinite(g).all() and (kind == "all hidden" or np.abs(g).max() > 0)
    for method in ("softmax", "softmax_plus", "squared_relu"):

        def unfused(query, key, method=method):
            scores = backend.attention_scores(query, key)
            weights = backend.attention_normalize(scores, mask, method=method, bias=bias)
            return weights, ops.sum(ops.cast(ops.square(weights), "float32"))

        weights = as_float32(unfused(query, key)[0])
        assert np.isfinite(weights).all()
        assert (weights * ~alive[..., 0].transpose(0, 2, 1)[..., None] == 0).all()
        for g in gradients(lambda *x: unfused(*x)[1], [query, key]):
            assert np.isfinite(g).all()


def on_device(device, monkeypatch):
    """Make JAX say that it has another device; give the calls of Keras' attention from now on."""
    if keras.backend.backend() != "jax":
        return [] if device == "cpu" else pytest.skip("about JAX")
    calls, kernel = [], ops.dot_product_attention
    monkeypatch.setattr("jax.default_backend", lambda: device)
    monkeypatch.setattr(
        ops, "dot_product_attention", lambda *x, **y: calls.append(x) or kernel(*x, **y)
    )
    return calls


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 2e-6), ("bfloat16", 3e-2), ("float16", 4e-3)]
)
@pytest.mark.parametrize("bias", [None, "boolean", "float"])
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_fused_attention_of_every_precision(dtype, tolerance, bias, device, monkeypatch):
    """The way of a GPU ends in the same function, which then takes XLA instead of cuDNN."""
    calls = on_device(device, monkeypatch)
    query, key, value = (normal(2, 7, 4, 8, seed=i) for i in range(3))
    key, value = key[:, :, :2], value[:, :, :2]
    bias = {"boolean": np.tril(np.ones((7, 7), "bool")), "float": normal(7, 7)}.get(bias)
    bias = None if bias is None else bias[None, None]
    mask = np.arange(7) < np.array([[7], [4]])
    scores = np.einsum("bqhd,bkhd->bhqk", np.float64(query), np.repeat(key, 2, axis=2)) / 3
    if bias is not None:
        scores = np.where(bias, scores, -INFINITY) if bias.dtype == bool else scores + bias
    scores = np.where(mask[:, None, None], scores, -INFINITY)
    expected = np.einsum("bhqk,bkhd->bqhd", ref.softmax(scores), np.repeat(value, 2, axis=2))
    bias = bias if bias is None else ops.convert_to_tensor(bias)
    visible, floats = backend.attention_visibility(ops.convert_to_tensor(mask), bias, dtype)
    query, key, value = (cast(x, dtype) for x in (query, key, value))
    found = backend.dot_product_attention(query, key, value, 1 / 3, visible, floats)
    assert len(calls) == (device == "gpu" and dtype != "float32")
    assert keras.backend.standardize_dtype(found.dtype) == dtype
    np.testing.assert_allclose(as_float32(found), expected, atol=tolerance)


def test_float_biases_count_as_hidden_where_a_softmax_would_lose_them():
    """Scripts hide with -inf, -1e12 or finfo.min; in float16 the last two are infinite, too."""
    assert lowest("float32") == -1e38 and np.isfinite(np.float16(2 * lowest("float16")))
    bias = np.array([[-1e12, -INFINITY, -1.0]], "float32")[None, None]
    visible, floats = backend.attention_visibility(None, ops.convert_to_tensor(bias), "float16")
    assert NUMPY(visible)[0, 0, 0].tolist() == [False, False, True]
    visible, floats = backend.attention_visibility(None, ops.convert_to_tensor(bias), "float32")
    assert NUMPY(visible)[0, 0, 0].tolist() == [True, False, True]
    assert NUMPY(floats)[0, 0, 0].tolist() == [np.float32(-1e12), -INFINITY, -1.0]


@pytest.mark.parametrize(
    ("options", "arguments", "fused"),
    [
        ({}, {}, True),
        ({"attention_dropout": 0.5}, {"training": False}, True),
        ({"attention_dropout": 0.5}, {"training": True}, False),
        ({"return_attention_scores": True}, {}, False),
        ({"normalization": "squared_relu"}, {}, False),
        ({}, {"p_bias": "t5_relative", "position": normal(4, 4, 2)}, True),
        ({}, {"p_bias": "typical_relative", "position": normal(4, 4, 4)}, False),
    ],
)
def test_scores_are_kept_only_where_they_are_needed(monkeypatch, options, arguments, fused):
    calls, kernel = [], backend.dot_product_attention

    def counted(*args):
        calls.append(args)
        return kernel(*args)

    monkeypatch.setattr(layers.attention, "dot_product_attention", counted)
    called(layers.MultiHeadAttention(2, 4, **options), [normal(2, 4, 8)] * 3, **arguments)
    assert len(calls) == fused


def test_dropout_of_weights_acts_in_training_only():
    x = [normal(2, 4, 8)] * 3
    layer = randomised(layers.MultiHeadAttention(2, 4, attention_dropout=0.5), x)
    still, moving = (NUMPY(called(layer, x, training=training)) for training in (False, True))
    np.testing.assert_allclose(still, reference(layer, x), atol=2e-5)
    assert np.abs(still - moving).max() > 1e-3


# ------------------------------------------------------------------------ options of decoder models


def test_all_options_of_decoder_models_together():
    x, inputs = normal(2, LENGTH, 8), [normal(2, LENGTH, 8)] * 3
    layer = layers.MultiHeadAttention(
        4, 6, out_dim=8, key_value_heads=2, use_bias=True, out_bias=False, query_key_norm=1e-3
    )
    arguments = {
        "p_bias": "rotary_half",
        "position": NUMPY(sinusoidal_embeddings(np.arange(LENGTH), 6, 1e6))[None],
        "a_bias": np.tril(np.ones((1, 1, LENGTH, LENGTH), "bool")),
    }
    randomised(layer, inputs, **arguments)
    assert [(w.path.removeprefix(f"{layer.name}/"), w.shape) for w in layer.weights] == [
        ("q_dense/kernel", (8, 24)),
        ("q_dense/bias", (24,)),
        ("k_dense/kernel", (8, 12)),
        ("k_dense/bias", (12,)),
        ("v_dense/kernel", (8, 12)),
        ("v_dense/bias", (12,)),
        ("o_dense/kernel", (24, 8)),
        ("q_norm/gamma", (6,)),
        ("k_norm/gamma", (6,)),
    ]
    found = NUMPY(called(layer, inputs, **arguments))
    np.testing.assert_allclose(found, reference(layer, inputs, **arguments), atol=2e-5)
    assert found.shape == x.shape


def test_grouped_queries_are_shared_by_neighbours():
    x = [normal(2, LENGTH, 8)] * 3
    grouped = randomised(layers.MultiHeadAttention(4, 3, key_value_heads=2), x)
    plain = randomised(layers.MultiHeadAttention(4, 3), x)
    weights = grouped.get_weights()
    for i in range(2, 6):  # kernel and bias of key and value
        heads = weights[i].reshape(*weights[i].shape[:-1], 2, 3)
        weights[i] = np.repeat(heads, 2, axis=-2).reshape(*weights[i].shape[:-1], 12)
    plain.set_weights(weights)
    np.testing.assert_allclose(NUMPY(called(grouped, x)), NUMPY(called(plain, x)), atol=1e-6)
    scored = layers.MultiHeadAttention(4, 3, key_value_heads=2, return_attention_scores=True)
    randomised(scored, x).set_weights(grouped.get_weights())
    np.testing.assert_allclose(NUMPY(called(scored, x)[0]), NUMPY(called(plain, x)), atol=1e-6)


def test_both_layouts_of_rotary_positions_agree_up_to_the_order_of_features():
    x = normal(2, 5, 3, 8)
    sinusoidal = sinusoidal_embeddings(np.arange(5)[None], 8)
    order = np.array([0, 4, 1, 5, 2, 6, 3, 7])
    rotate = backend.apply_rotary_position_embeddings
    half = NUMPY(rotate(sinusoidal, ops.convert_to_tensor(x), half=True))
    pairs = NUMPY(rotate(sinusoidal, ops.convert_to_tensor(x[..., order])))
    np.testing.assert_allclose(half[..., order], pairs, atol=1e-6)


def test_heads_must_be_shared_evenly():
    with pytest.raises(ValueError, match="must divide heads"):
        layers.MultiHeadAttention(4, 8, key_value_heads=3)


def test_swiglu_is_a_feed_forward_layer_with_two_activations():
    x = normal(2, 3, 4)
    layer = layers.FeedForward(6, activation=["silu", "linear"], use_bias=False)
    layer(x)
    gate, up, down = (w.astype("float64") for w in layer.get_weights())
    gate = x @ gate
    np.testing.assert_allclose(
        NUMPY(layer(x)), gate / (1 + np.exp(-gate)) * (x @ up) @ down, atol=1e-5
    )


# ---------------------------------------------------------------------------------- rotary scaling

SCALINGS = {
    "default": {},
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 2.0, "original_max_position_embeddings": 16},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 256},
    "yarn, all options": {
        "factor": 8.0,
        "original_max_position_embeddings": 256,
        "beta_fast": 16,
        "beta_slow": 2,
        "mscale": 0.8,
        "mscale_all_dim": 0.5,
        "truncate": False,
    },
    "yarn, attention factor": {
        "factor": 4.0,
        "original_max_position_embeddings": 256,
        "attention_factor": 1.5,
    },
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 256,
    },
}


def scaling_of(name):
    return {"rope_type": name.split(",")[0], **SCALINGS[name]}


@pytest.mark.parametrize(("name", "length"), [*itertools.product(SCALINGS, [12, 48])])
def test_rotary_scaling_is_that_of_transformers(name, length):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    scaling = scaling_of(name)
    config = transformers.LlamaConfig(
        hidden_size=64,
        num_attention_heads=2,
        max_position_embeddings=16 if name == "dynamic" else 2048,
        rope_parameters={"rope_theta": 5e5, **scaling},
    )
    positions = np.arange(length)[None]
    cos, sin = LlamaRotaryEmbedding(config)(torch.zeros(1), torch.tensor(positions))
    layer = layers.SinusoidalPositionEmbedding(
        32, "zero", custom_position_ids=True, base=5e5, scaling=scaling
    )
    found = NUMPY(layer([ops.zeros((1, length, 32)), ops.convert_to_tensor(positions)]))
    np.testing.assert_allclose(found[..., ::2], sin[..., :16].numpy(), atol=2e-5)
    np.testing.assert_allclose(found[..., 1::2], cos[..., :16].numpy(), atol=2e-5)


def test_rotary_scaling_changes_what_its_formula_says():
    plain, one = rotary_frequencies(32)
    assert one == 1 and plain[0] == 1 and plain[-1] == pytest.approx(10000 ** -(30 / 32))
    linear, _ = rotary_frequencies(32, scaling=scaling_of("linear"))
    np.testing.assert_allclose(linear, plain / 4)
    yarn, factor = rotary_frequencies(32, scaling=scaling_of("yarn"))
    assert factor == pytest.approx(0.1 * np.log(4) + 1)
    # More than 32 turns in 256 positions are kept, less than one is divided.
    turns = 256 * plain / (2 * np.pi)
    np.testing.assert_allclose(yarn[turns > 40], plain[turns > 40])
    np.testing.assert_allclose(yarn[turns < 0.8], plain[turns < 0.8] / 4)
    llama, factor = rotary_frequencies(32, scaling=scaling_of("llama3"))
    assert factor == 1
    np.testing.assert_allclose(llama[turns > 4], plain[turns > 4])
    np.testing.assert_allclose(llama[turns < 1], plain[turns < 1] / 8)
    assert (llama[(turns > 1) & (turns < 4)] < plain[(turns > 1) & (turns < 4)]).all()


def test_dynamic_scaling_starts_beyond_the_original_length():
    layer = layers.SinusoidalPositionEmbedding(8, "zero", scaling=scaling_of("dynamic"))
    plain = layers.SinusoidalPositionEmbedding(8, "zero")
    for length, same in ((16, True), (17, False)):
        x = ops.zeros((1, length, 8))
        assert np.allclose(NUMPY(layer(x)), NUMPY(plain(x)), atol=1e-6) == same
    expected = sinusoidal_embeddings(np.arange(48), 8, 10000 * (2 * 48 / 16 - 1) ** (8 / 6))
    np.testing.assert_allclose(NUMPY(layer(ops.zeros((1, 48, 8))))[0], NUMPY(expected), atol=2e-5)


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ({"rope_type": "longrope"}, "rope_type is one of"),
        ({"rope_type": "linear"}, r"needs the keys \['factor'\]"),
        ({"type": "linear", "factor": 2.0, "beta_fast": 3}, "needs the keys .* and knows"),
    ],
)
def test_rotary_scaling_that_is_not_understood_is_refused(scaling, message):
    with pytest.raises(ValueError, match=message):
        layers.SinusoidalPositionEmbedding(8, scaling=scaling)


# --------------------------------------------------------------------------- disentangled attention


def disentangled(length, buckets=8, max_distance=20):
    """A layer, its input and its table of positions."""
    x, table = normal(2, length, 8), normal(2 * buckets, 8, seed=5)
    layer = layers.DisentangledAttention(2, 4, buckets=buckets, max_distance=max_distance)
    return randomised(layer, [x] * 3, p_bias="disentangled", position=table), x, table


def test_disentangled_attention_is_that_of_numpy():
    """Every score by its own index, where the layer shifts whole rows."""
    layer, x, table = disentangled(30)
    weights = weights_of(layer)
    q, k, v, q_at, k_at = (
        (y @ weights[f"{n}_dense/kernel"] + weights[f"{n}_dense/bias"]).reshape(*y.shape[:-1], 2, 4)
        for n, y in (("q", x), ("k", x), ("v", x), ("q", table), ("k", table))
    )
    rows = layer.table_indices()
    scores = np.zeros((2, 2, 30, 30))
    for i, j in itertools.product(range(30), repeat=2):
        row = rows[np.clip(i - j, -20, 20) + 20]
        scores[:, :, i, j] = (
            (q[:, i] * k[:, j]).sum(-1)
            + (q[:, i] * k_at[row]).sum(-1)
            + (k[:, j] * q_at[row]).sum(-1)
        ) / np.sqrt(3 * 4)
    mask = np.arange(30) < np.array([[30], [17]])
    scores = np.where(mask[:, None, None], scores, -INFINITY)
    output = np.einsum("bhqk,bkhd->bqhd", ref.softmax(scores), v).reshape(2, 30, 8)
    output = output @ weights["o_dense/kernel"] + weights["o_dense/bias"]
    found = NUMPY(called(layer, [x] * 3, mask, p_bias="disentangled", position=table))
    np.testing.assert_allclose(found, output, atol=2e-5)


@pytest.mark.parametrize(("buckets", "max_distance", "length"), [(256, 512, 600), (8, 20, 30)])
def test_disentangled_attention_is_that_of_transformers(buckets, max_distance, length):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    from transformers.models.deberta_v2 import modeling_deberta_v2

    layer, x, table = disentangled(length, buckets, max_distance)
    position = modeling_deberta_v2.build_relative_position(
        torch.zeros(1, 700, 1), torch.zeros(1, 700, 1), buckets, max_distance
    )[0].numpy()
    distances = np.arange(-699, 700)
    expected = np.concatenate([position[0, :0:-1], position[:, 0]]) + buckets
    rows = layer.table_indices()[np.clip(distances, -max_distance, max_distance) + max_distance]
    assert (rows == np.clip(expected, 0, 2 * buckets - 1)).all()

    config = transformers.DebertaV2Config(
        hidden_size=8,
        num_attention_heads=2,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        share_att_key=True,
        position_buckets=buckets,
        max_relative_positions=max_distance,
    )
    peer = modeling_deberta_v2.DisentangledSelfAttention(config).eval()
    weights = {
        name: torch.tensor(w) for name, w in zip("qQkKvV", layer.get_weights(), strict=False)
    }
    with torch.no_grad():
        for name, dense in (("q", peer.query_proj), ("k", peer.key_proj), ("v", peer.value_proj)):
            dense.weight.copy_(weights[name].T)
            dense.bias.copy_(weights[name.upper()])
        mask = torch.arange(length) < torch.tensor([[length], [length - 7]])
        hidden, _ = peer(
            torch.tensor(x), mask[:, None, None, :], rel_embeddings=torch.tensor(table)
        )
    output = hidden.numpy() @ layer.get_weights()[6] + layer.get_weights()[7]
    found = NUMPY(called(layer, [x] * 3, mask.numpy(), p_bias="disentangled", position=table))
    np.testing.assert_allclose(found, output, atol=5e-5)


def test_disentangled_attention_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="no grouped queries"):
        layers.DisentangledAttention(4, 8, key_value_heads=2)
    with pytest.raises(ValueError, match="p_bias is one of"):
        layers.DisentangledAttention(2, 4)([keras.Input((3, 8))] * 4, p_bias="rotary")


# -------------------------------------------------------------------------------- masks as layers


def test_a_local_mask_sees_half_a_window_to_either_side():
    mask = NUMPY(layers.LocalMask(4)(np.zeros((2, 6), "int32")))
    i, j = np.indices((6, 6))
    assert mask.shape == (1, 1, 6, 6) and mask.dtype == bool
    assert (mask[0, 0] == (np.abs(i - j) <= 2)).all()


def test_a_local_mask_of_a_language_model_sees_a_window_of_what_is_before():
    mask = NUMPY(layers.LocalLMMask(3)(np.zeros((2, 6), "int32")))
    i, j = np.indices((6, 6))
    assert (mask[0, 0] == ((j <= i) & (j > i - 3))).all()


def test_masks_combine():
    segment_ids = np.array([[0, 0, 1, 1], [0, 1, 1, 1]])
    masks = [layers.LocalMask(2)(segment_ids), layers.UniLMMask()(segment_ids)]
    both = NUMPY(layers.AttentionBias()(masks))
    assert both.dtype == bool
    assert (both == (NUMPY(masks[0]) & NUMPY(masks[1]))).all()
    bias = normal(2, 1, 4, 4)
    mixed = NUMPY(layers.AttentionBias()([*masks, ops.convert_to_tensor(bias)]))
    assert (mixed == np.where(both, bias, -INFINITY)).all()


def test_every_new_layer_is_saved(tmp_path):
    token_ids = keras.Input((None,), dtype="int32")
    table = keras.Input(batch_shape=(8, 8))
    x = layers.Embedding(9, 8, mask_zero=True)(token_ids)
    sinusoidal = layers.SinusoidalPositionEmbedding(
        4, "zero", base=500.0, scaling=scaling_of("yarn")
    )(x)
    mask = layers.AttentionBias()([layers.LMMask()(token_ids), layers.LocalMask(4)(token_ids)])
    x = layers.MultiHeadAttention(2, 4, key_value_heads=1, out_bias=False, query_key_norm=1e-6)(
        [x, x, x, mask, sinusoidal], a_bias=True, p_bias="rotary_half"
    )
    x = layers.DisentangledAttention(2, 4, buckets=4, max_distance=9)(
        [x, x, x, table], p_bias="disentangled"
    )
    model = keras.Model([token_ids, table], x)
    model.save(tmp_path / "model.keras")
    copy = keras.models.load_model(tmp_path / "model.keras")
    inputs = [np.array([[3, 4, 5, 1, 0], [2, 0, 0, 0, 0]], "int32"), normal(8, 8)]
    found, expected = (NUMPY(m(inputs)) for m in (copy, model))
    assert (found == expected).all() and np.isfinite(found).all()
