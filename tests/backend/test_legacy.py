"""`K` against NumPy: run eagerly, compiled, and as a functional model with free sizes."""

# Scripts add tuples to shapes.
# ruff: noqa: RUF005

import keras
import numpy as np
import pytest

from bert4keras import legacy
from bert4keras.legacy import K

pytestmark = pytest.mark.backend

OFFERED = """
abs all any arange argmax argmin backend batch_dot batch_flatten batch_get_value
batch_normalization batch_set_value bias_add binary_crossentropy cast cast_to_floatx
categorical_crossentropy clip concatenate constant conv1d conv2d conv3d cos count_params cumprod
cumsum depthwise_conv2d dot dropout dtype eager elu epsilon equal eval exp expand_dims eye flatten
floatx foldl foldr gather get_uid get_value get_variable_shape greater greater_equal hard_sigmoid
identity image_data_format in_test_phase in_top_k in_train_phase int_shape is_keras_tensor
is_placeholder is_sparse is_symbolic is_tensor is_variable l2_normalize learning_phase less
less_equal log logsumexp map_fn max maximum mean min minimum moving_average_update name_scope ndim
normalize_batch_in_training normalize_data_format not_equal one_hot ones ones_like
permute_dimensions pool2d pool3d pow print_tensor prod random_bernoulli random_binomial
random_normal random_normal_variable random_uniform random_uniform_variable relu repeat
repeat_elements reshape resize_images resize_volumes reverse rnn round separable_conv1d
separable_conv2d set_epsilon set_floatx set_image_data_format set_value shape sigmoid sign sin size
slice softmax softplus softsign sparse_categorical_crossentropy spatial_2d_padding
spatial_3d_padding sqrt square squeeze stack std stop_gradient sum switch symbolic tanh
temporal_padding tile to_dense transpose truncated_normal update update_add update_sub var variable
where zeros zeros_like
""".split()  # noqa: SIM905

REPLACED = """
control_dependencies conv2d_transpose conv3d_transpose ctc_batch_cost ctc_decode
ctc_label_dense_to_sparse get_session local_conv1d local_conv2d manual_variable_initialization
reset_uids set_learning_phase set_session
""".split()  # noqa: SIM905
"""These have a replacement only. With `OFFERED` and with `function`, `gradients` and `placeholder`,
which have tests of their own, it is all of `keras.backend` 2.3.1 on TensorFlow."""

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 3, 4)).astype("float32")
Y = RNG.normal(size=(2, 3, 4)).astype("float32")
M = RNG.normal(size=(2, 4)).astype("float32")
POSITIVE = np.abs(X) + 0.5
BOOL = X > 0
INT = RNG.integers(0, 4, size=(2, 3)).astype("int32")
P = np.exp(X) / np.exp(X).sum(-1, keepdims=True)
ONE_HOT = np.eye(4, dtype="float32")[INT]
PICKED = np.take_along_axis(P, INT[..., None], -1)[..., 0]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def compiled(function):
    """Compile as a training step would."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function)
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    return function


def inputs(arrays, free):
    """Return symbolic inputs of free sizes, or only of a free batch."""
    shapes = [[None] * a.ndim if free else [None, *a.shape[1:]] for a in arrays]
    return [keras.Input(batch_shape=s, dtype=a.dtype) for s, a in zip(shapes, arrays, strict=True)]


def numpy_of(result):
    return keras.ops.convert_to_numpy(result)


def check(result, expected, **tolerance):
    result = numpy_of(result)
    assert result.shape == np.shape(expected)
    np.testing.assert_allclose(result, expected, **{"rtol": 1e-5, "atol": 1e-6, **tolerance})


# Each: name, function of tensors, arrays, expected.
CASES = [
    ("abs", K.abs, [X], np.abs(X)),
    ("cos", K.cos, [X], np.cos(X)),
    ("sin", K.sin, [X], np.sin(X)),
    ("exp", K.exp, [X], np.exp(X)),
    ("log", K.log, [POSITIVE], np.log(POSITIVE)),
    ("round", K.round, [X * 4], np.round(X * 4)),
    ("sigmoid", K.sigmoid, [X], sigmoid(X)),
    ("sign", K.sign, [X], np.sign(X)),
    ("softplus", K.softplus, [X], np.log1p(np.exp(X))),
    ("square", K.square, [X], X**2),
    ("sqrt", K.sqrt, [X], np.sqrt(np.maximum(X, 0))),
    ("tanh", K.tanh, [X], np.tanh(X)),
    ("pow", lambda x: K.pow(x, a=3), [X], X**3),
    ("elu", lambda x: K.elu(x, alpha=0.5), [X], np.where(X > 0, X, 0.5 * (np.exp(X) - 1))),
    ("relu", K.relu, [X], np.maximum(X, 0)),
    (
        "relu",
        lambda x: K.relu(x, alpha=0.1, max_value=1.0, threshold=0.2),
        [X],
        np.where(X > 0.2, np.minimum(X, 1), 0.1 * (X - 0.2)),
    ),
    ("softmax", K.softmax, [X], P),
    ("softmax", lambda x: K.softmax(x, axis=1), [X], np.exp(X) / np.exp(X).sum(1, keepdims=True)),
    (
        "l2_normalize",
        lambda x: K.l2_normalize(x, axis=-1),
        [X],
        X / np.linalg.norm(X, axis=-1, keepdims=True),
    ),
    ("l2_normalize", K.l2_normalize, [X * 0], X * 0),
    ("clip", lambda x: K.clip(x, -0.5, 0.5), [X], np.clip(X, -0.5, 0.5)),
    ("clip", lambda x: K.clip(x, min_value=0, max_value=None), [X], np.maximum(X, 0)),
    ("clip", lambda x: K.clip(x, None, 0.5), [X], np.minimum(X, 0.5)),
    ("clip", lambda x: K.clip(x, 1.0, 0.0), [X], np.ones_like(X)),
    ("identity", K.identity, [X], X),
    ("stop_gradient", K.stop_gradient, [X], X),
    ("stop_gradient", lambda x, y: K.stop_gradient([x, y])[1], [X, Y], Y),
    # Comparisons and pairs.
    (
        "equal",
        lambda x, y: K.equal(x=x, y=y),
        [np.round(X), np.round(Y)],
        np.round(X) == np.round(Y),
    ),
    ("not_equal", lambda x: K.not_equal(x, 0), [np.round(X)], np.round(X) != 0),
    ("greater", K.greater, [X, Y], X > Y),
    ("greater_equal", K.greater_equal, [X, Y], X >= Y),
    ("less", K.less, [X, Y], X < Y),
    ("less_equal", K.less_equal, [X, Y], X <= Y),
    ("maximum", K.maximum, [X, Y], np.maximum(X, Y)),
    ("minimum", lambda x: K.minimum(x, 0.1), [X], np.minimum(X, np.float32(0.1))),
    ("where", lambda c, x, y: K.where(c, x, y), [BOOL, X, Y], np.where(BOOL, X, Y)),
    # Reductions.
    ("sum", K.sum, [X], X.sum()),
    ("sum", lambda x: K.sum(x, axis=1, keepdims=True), [X], X.sum(1, keepdims=True)),
    ("sum", lambda x: K.sum(x, axis=[0, 2]), [X], X.sum((0, 2))),
    ("sum", K.sum, [BOOL], BOOL.sum()),
    ("mean", lambda x: K.mean(x, axis=-1), [X], X.mean(-1)),
    ("mean", lambda x: K.mean(x, axis=1), [BOOL], BOOL.mean(1)),
    ("mean", K.mean, [INT], INT.mean()),
    ("std", lambda x: K.std(x, axis=-1, keepdims=True), [X], X.std(-1, keepdims=True)),
    ("std", K.std, [INT], INT.std()),
    ("var", lambda x: K.var(x, axis=0), [X], X.var(0)),
    ("var", K.var, [BOOL], BOOL.var()),
    ("max", lambda x: K.max(x, axis=1), [X], X.max(1)),
    ("min", lambda x: K.min(x, axis=-1, keepdims=True), [X], X.min(-1, keepdims=True)),
    ("prod", lambda x: K.prod(x, axis=1), [X], X.prod(1)),
    ("all", lambda x: K.all(x, axis=-1), [INT], INT.all(-1)),
    ("any", lambda x: K.any(x, axis=-1, keepdims=True), [INT], INT.any(-1, keepdims=True)),
    ("any", K.any, [BOOL], BOOL.any()),
    ("logsumexp", lambda x: K.logsumexp(x, axis=-1), [X], np.log(np.exp(X).sum(-1))),
    ("argmax", K.argmax, [X], X.argmax(-1)),
    ("argmin", lambda x: K.argmin(x, axis=1), [X], X.argmin(1)),
    ("cumsum", K.cumsum, [X], X.cumsum(0)),
    ("cumsum", lambda x: K.cumsum(x, axis=1), [X], X.cumsum(1)),
    ("cumprod", lambda x: K.cumprod(x, axis=2), [X], X.cumprod(2)),
    ("cumprod", K.cumprod, [X], X.cumprod(0)),
    # Arrangement.
    ("reshape", lambda x: K.reshape(x, (-1, 4)), [X], X.reshape(-1, 4)),
    ("reshape", lambda x: K.reshape(x, [6, -1]), [X], X.reshape(6, 4)),
    ("flatten", K.flatten, [X], X.reshape(-1)),
    ("batch_flatten", K.batch_flatten, [X], X.reshape(2, 12)),
    ("expand_dims", K.expand_dims, [X], X[..., None]),
    ("expand_dims", lambda x: K.expand_dims(x, 1), [X], X[:, None]),
    ("squeeze", lambda x: K.squeeze(x, 1), [X[:, :1]], X[:, 0]),
    ("squeeze", lambda x: K.squeeze(x, axis=-1), [M[:, :1]], M[:, 0]),
    ("permute_dimensions", lambda x: K.permute_dimensions(x, [0, 2, 1]), [X], X.swapaxes(1, 2)),
    ("transpose", K.transpose, [X], X.T),
    ("concatenate", lambda x, y: K.concatenate([x, y]), [X, Y], np.concatenate([X, Y], -1)),
    ("concatenate", lambda x, y: K.concatenate([x, y], 1), [X, Y], np.concatenate([X, Y], 1)),
    ("stack", lambda x, y: K.stack([x, y]), [X, Y], np.stack([X, Y])),
    ("stack", lambda x, y: K.stack([x, y], axis=-1), [X, Y], np.stack([X, Y], -1)),
    ("reverse", lambda x: K.reverse(x, 1), [X], X[:, ::-1]),
    ("reverse", lambda x: K.reverse(x, axes=[0, 2]), [X], X[::-1, :, ::-1]),
    ("tile", lambda x: K.tile(x, [1, 2, 3]), [X], np.tile(X, (1, 2, 3))),
    ("repeat", lambda x: K.repeat(x, n=3), [M], np.repeat(M[:, None], 3, 1)),
    ("repeat_elements", lambda x: K.repeat_elements(x, 2, axis=1), [X], np.repeat(X, 2, 1)),
    ("temporal_padding", K.temporal_padding, [X], np.pad(X, ((0, 0), (1, 1), (0, 0)))),
    (
        "temporal_padding",
        lambda x: K.temporal_padding(x, padding=(2, 0)),
        [X],
        np.pad(X, ((0, 0), (2, 0), (0, 0))),
    ),
    ("gather", lambda x, i: K.gather(x, i % 2), [X, INT], X[INT % 2]),
    ("gather", lambda x, i: K.gather(x, K.cast(i % 2, "float32")), [X, INT], X[INT % 2]),
    ("zeros_like", K.zeros_like, [X], X * 0),
    ("ones_like", lambda x: K.ones_like(x, dtype="int32"), [X], np.ones_like(X)),
    ("one_hot", lambda i: K.one_hot(i, 4), [INT], ONE_HOT),
    ("one_hot", lambda i: K.one_hot(indices=i, num_classes=4), [INT.astype("float32")], ONE_HOT),
    ("cast", lambda x: K.cast(x, K.floatx()), [BOOL], BOOL.astype("float32")),
    ("cast", lambda x: K.cast(x, "int32"), [X * 4], (X * 4).astype("int32")),
    ("cast", lambda m, x: x * K.cast(m, K.floatx()) + 1, [BOOL, X], X * BOOL + 1),
    ("cast_to_floatx", K.cast_to_floatx, [INT], INT.astype("float32")),
    # Products.
    ("dot", K.dot, [M, M.T.copy()], M @ M.T),
    ("dot", K.dot, [X, M.T.copy()], X @ M.T),
    ("dot", K.dot, [X, Y.swapaxes(1, 2).copy()], np.dot(X, Y.swapaxes(1, 2))),
    ("batch_dot", K.batch_dot, [M, M], (M * M).sum(-1, keepdims=True)),
    ("batch_dot", K.batch_dot, [X, M], np.einsum("bij,bj->bi", X, M)),
    ("batch_dot", K.batch_dot, [M, Y.swapaxes(1, 2).copy()], np.einsum("bj,bij->bi", M, Y)),
    ("batch_dot", K.batch_dot, [X, Y.swapaxes(1, 2).copy()], X @ Y.swapaxes(1, 2)),
    ("batch_dot", lambda x, y: K.batch_dot(x, y, 2), [X, Y], X @ Y.swapaxes(1, 2)),
    ("batch_dot", lambda x, y: K.batch_dot(x, y, axes=[1, 1]), [X, Y], X.swapaxes(1, 2) @ Y),
    ("batch_dot", lambda x, y: K.batch_dot(x, y, (-1, -1)), [X, Y], X @ Y.swapaxes(1, 2)),
    (
        "batch_dot",
        lambda x, y: K.batch_dot(x[:, None], y[:, :, None], axes=[2, 1]),
        [X, Y],
        np.einsum("baij,bick->bajck", X[:, None], Y[:, :, None]),
    ),
    ("bias_add", lambda x: K.bias_add(x, np.arange(4.0, dtype="float32")), [X], X + np.arange(4)),
    ("bias_add", lambda x, b: K.bias_add(x, b), [X, Y[0]], X + Y[0]),
    (
        "bias_add",
        lambda x, b: K.bias_add(x, b, data_format="channels_first"),
        [X, np.arange(3, dtype="float32")],
        X + np.arange(3)[:, None],
    ),
    (
        "bias_add",
        lambda x, b: K.bias_add(x, b, data_format="channels_first"),
        [X, np.arange(12, dtype="float32").reshape(4, 3)],
        X + np.arange(12).reshape(3, 4),
    ),
    # Losses.
    ("categorical_crossentropy", K.categorical_crossentropy, [ONE_HOT, P], -np.log(PICKED)),
    (
        "categorical_crossentropy",
        lambda t, x: K.categorical_crossentropy(t, x, from_logits=True),
        [ONE_HOT, X],
        -np.log(PICKED),
    ),
    (
        "categorical_crossentropy",
        lambda t, x: K.categorical_crossentropy(t, x, axis=1),
        [ONE_HOT.swapaxes(1, 2).copy(), P.swapaxes(1, 2).copy()],
        -np.log(PICKED),
    ),
    ("binary_crossentropy", K.binary_crossentropy, [BOOL, P], -np.log(np.where(BOOL, P, 1 - P))),
    (
        "binary_crossentropy",
        lambda t, x: K.binary_crossentropy(t, x, from_logits=True),
        [BOOL.astype("int32"), X],
        -np.log(np.where(BOOL, sigmoid(X), 1 - sigmoid(X))),
    ),
    ("switch", lambda c, x, y: K.switch(c, x, y), [BOOL, X, Y], np.where(BOOL, X, Y)),
    ("switch", lambda c, x, y: K.switch(c, x, y), [INT, X, Y], np.where(INT[..., None] != 0, X, Y)),
    ("switch", lambda x, y: K.switch(K.sum(x) > 100, x, y), [X, Y], Y),
    (
        "switch",
        lambda x, y: K.switch(K.sum(x) < 100, lambda: x * 2, lambda: y),
        [X, Y],
        2 * X,
    ),
    ("switch", lambda x, y: K.switch(False, x, lambda: y), [X, Y], Y),
    ("softsign", K.softsign, [X], X / (1 + np.abs(X))),
    ("hard_sigmoid", K.hard_sigmoid, [X * 2], np.clip(0.4 * X + 0.5, 0, 1)),
    ("slice", lambda x: K.slice(x, [0, 1, 1], [-1, 2, 2]), [X], X[:, 1:3, 1:3]),
    (
        "in_top_k",
        lambda p, i: K.in_top_k(p[:, 0], i[:, 0], 1),
        [P, INT],
        P[:, 0].argmax(-1) == INT[:, 0],
    ),
    ("size", lambda x: x * K.cast(K.size(x), "float32"), [X], X * 24),
    (
        "batch_normalization",
        lambda x, m, v: K.batch_normalization(x, m, v, m * 2, v * 3, axis=-1, epsilon=0.1),
        [X, M[0], POSITIVE[0, 0]],
        (X - M[0]) / np.sqrt(POSITIVE[0, 0] + 0.1) * POSITIVE[0, 0] * 3 + M[0] * 2,
    ),
    (
        "batch_normalization",
        lambda x, m, v: K.batch_normalization(x, m, v, None, None, axis=1, epsilon=0),
        [X, X[0, :, 0], POSITIVE[0, :, 0]],
        (X - X[0, :, :1]) / np.sqrt(POSITIVE[0, :, :1]),
    ),
    (
        "resize_images",
        lambda x: K.resize_images(K.expand_dims(x, 0), 1, 2, "channels_last"),
        [X],
        X[None].repeat(2, 2),
    ),
    (
        "resize_images",
        lambda x: K.resize_images(K.expand_dims(x, 0), 3, 1, "channels_first"),
        [X],
        X[None].repeat(3, 2),
    ),
    (
        "resize_volumes",
        lambda x: K.resize_volumes(x[None, None], 1, 2, 1, "channels_first"),
        [X],
        X[None, None].repeat(2, 3),
    ),
    (
        "spatial_2d_padding",
        lambda x: K.spatial_2d_padding(K.expand_dims(x, 0)),
        [X],
        np.pad(X[None], ((0, 0), (1, 1), (1, 1), (0, 0))),
    ),
    (
        "spatial_3d_padding",
        lambda x: K.spatial_3d_padding(x[None, None], ((0, 0), (1, 2), (0, 1)), "channels_first"),
        [X],
        np.pad(X[None, None], ((0, 0), (0, 0), (0, 0), (1, 2), (0, 1))),
    ),
    ("map_fn", lambda x: K.map_fn(lambda row: row * 2 + 1, x), [X], X * 2 + 1),
]


def sparse_cases():
    target = INT.astype("float32")
    for labels in (INT, target, target[..., None], target.reshape(-1)):
        yield labels, P, {}
        yield labels, X, {"from_logits": True}
    yield target, P.transpose(2, 0, 1).copy(), {"axis": 0}
    yield target, P.transpose(0, 2, 1).copy(), {"axis": 1}


CASES += [
    (
        "sparse_categorical_crossentropy",
        lambda t, o, kwargs=kwargs: K.sparse_categorical_crossentropy(t, o, **kwargs),
        [labels, output],
        -np.log(PICKED),
    )
    for labels, output, kwargs in sparse_cases()
]

# Integers and bool beside floats, which every input was: name, function, arrays, expected.
FLOATS = INT.astype("float32")
SEGMENTS = np.array([[0, 0, 1], [0, 1, 1]], dtype="int32")
MEETING = [
    *(
        (name, getattr(K, name), pair, getattr(np, name)(*(a.astype("float32") for a in pair)))
        for name in (
            "equal",
            "not_equal",
            "greater",
            "greater_equal",
            "less",
            "less_equal",
            "maximum",
            "minimum",
        )
        for pair in ([INT, X[:, :, 0]], [X[:, :, 0], INT], [SEGMENTS > 0, X[:, :, 0]])
    ),
    ("equal", lambda i: K.equal(i, 1.0), [INT], INT == 1),
    ("equal", lambda i: K.equal(i, FLOATS.astype("float64")), [INT], INT == INT),
    ("greater", lambda i: K.greater(i, 0.5), [INT], INT > 0),
    ("maximum", lambda i: K.maximum(i, 0.5), [INT], np.maximum(FLOATS, 0.5)),
    ("pow", lambda i: K.pow(i, 0.5), [INT], FLOATS**0.5),
    ("pow", lambda i, x: K.pow(x, i), [INT, POSITIVE[:, :, 0]], POSITIVE[:, :, 0] ** INT),
    ("clip", lambda i: K.clip(i, 0.5, 1.5), [INT], np.clip(FLOATS, 0.5, 1.5)),
    ("clip", lambda i: K.clip(i, None, 2.5), [INT], np.minimum(FLOATS, 2.5)),
    (
        "where",
        lambda s, i, x: K.where(s, i, x),
        [SEGMENTS, INT, Y[:, :, 0]],
        np.where(SEGMENTS, FLOATS, Y[:, :, 0]),
    ),
    (
        "switch",
        lambda s, i, x: K.switch(s, x, i),
        [SEGMENTS, INT, Y[:, :, 0]],
        np.where(SEGMENTS, Y[:, :, 0], FLOATS),
    ),
    ("where", lambda s: K.where(s, 1.0, 0), [SEGMENTS], SEGMENTS.astype("float32")),
    ("in_test_phase", lambda i, x: K.in_test_phase(i, x), [INT, X[:, :, 0]], FLOATS),
    ("dot", K.dot, [INT, X[0]], FLOATS @ X[0]),
    ("dot", lambda i: K.dot(i, X[0].astype("float64")), [INT], FLOATS @ X[0]),
    ("batch_dot", K.batch_dot, [INT, X], np.einsum("bi,bij->bj", INT, X)),
    ("bias_add", K.bias_add, [INT, X[0, :, 0].copy()], FLOATS + X[0, :, 0]),
    ("concatenate", lambda i, x: K.concatenate([i, x]), [INT, M], np.concatenate([FLOATS, M], 1)),
    (
        "concatenate",
        lambda x: K.concatenate([[0], x[0]], axis=0),
        [M],
        np.concatenate([[0.0], M[0]]),
    ),
    (
        "concatenate",
        lambda x: K.concatenate([np.zeros((2, 1)), x]),
        [M],
        np.pad(M, ((0, 0), (1, 0))),
    ),
    (
        "concatenate",
        lambda x: K.concatenate([[x[0, 0], 1], x[0]], axis=0),
        [M],
        np.concatenate([M[0, :1], [1], M[0]]),
    ),
    ("stack", lambda i, x: K.stack([i, x]), [INT, X[:, :, 0]], np.stack([FLOATS, X[:, :, 0]])),
    ("stack", lambda x: K.stack([K.sum(x), 2]), [X], np.stack([X.sum(), 2])),
    ("sum", lambda i, x: K.sum([i, x]), [INT, X[:, :, 0]], INT.sum() + X[:, :, 0].sum()),
    ("max", lambda i, x: K.max([i, x], axis=0), [INT, X[:, :, 0]], np.maximum(FLOATS, X[:, :, 0])),
    *(
        (name, getattr(K, name), [SEGMENTS], function(SEGMENTS.astype("float32")))
        for name, function in (
            ("exp", np.exp),
            ("sigmoid", sigmoid),
            ("tanh", np.tanh),
            ("softplus", lambda x: np.log1p(np.exp(x))),
            ("softsign", lambda x: x / 2),
            ("sqrt", np.sqrt),
            ("relu", np.copy),
            ("elu", np.copy),
            ("softmax", lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True)),
            ("logsumexp", lambda x: np.log(np.exp(x).sum())),
            ("l2_normalize", lambda x: x / np.sqrt(3)),
        )
    ),
    ("dropout", lambda s: K.dropout(s, 0.0, seed=1), [SEGMENTS], SEGMENTS.astype("float32")),
    # What users divide by is a mean over what counts.
    (
        "sum",
        lambda s, x: K.sum(x * K.cast(s, "float32")) / K.maximum(K.sum(s), K.epsilon()),
        [SEGMENTS, X[:, :, 0]],
        (X[:, :, 0] * SEGMENTS).sum() / 3,
    ),
]

# With the sizes that come from a tensor. The functions see only `K.shape`.
SHAPE_CASES = [
    (
        "concatenate",
        lambda x: K.reshape(x, K.concatenate([K.shape(x)[:-1], [2, 2]])),
        [X],
        X.reshape(2, 3, 2, 2),
    ),
    ("shape", lambda x: K.reshape(x, K.shape(x)[:-1] + (2, 2)), [X], X.reshape(2, 3, 2, 2)),
    ("shape", lambda x: K.reshape(x, (1, *K.shape(x)[:2], 4)), [X], X[None]),
    ("shape", lambda x: K.reshape(x, (1,) + K.shape(x)[1:] + (-1,)), [X], X.reshape(1, 3, 4, 2)),
    ("shape", lambda x: K.reshape(x, (K.shape(x)[0] * 3, -1)), [X], X.reshape(6, 4)),
    (
        "shape",
        lambda x: K.reshape(x, (K.shape(x)[0] * K.shape(x)[1] // 2, 2 + K.shape(x)[2] - 2, 2)),
        [X],
        X.reshape(3, 4, 2),
    ),
    ("stack", lambda x: K.reshape(x, K.stack([K.shape(x)[0], -1])), [X], X.reshape(2, 12)),
    ("prod", lambda x: K.reshape(x, (-1, K.prod(K.shape(x)[1:]))), [X], X.reshape(2, 12)),
    ("cast", lambda x: K.sum(x) / K.cast(K.shape(x)[1], K.floatx()), [X], X.sum() / 3),
    ("cast", lambda x: K.cast(K.shape(x), "float32") + 0 * K.sum(x), [X], [2, 3, 4]),
    ("shape", lambda x: x * (K.shape(x)[1] - 1), [X], X * 2),
    ("shape", lambda x: (7 - K.shape(x)[1]) * x, [X], X * 4),
    ("shape", lambda x: x + (7 % K.shape(x)[1]), [X], X + 1),
    ("zeros", lambda x: K.zeros((K.shape(x)[0], 3)) + K.sum(x), [X], np.zeros((2, 3)) + X.sum()),
    ("ones", lambda x: x + K.ones(K.shape(x)[1:], "float32"), [X], X + 1),
    ("arange", lambda x: K.arange(0, K.shape(x)[1]), [X], np.arange(3)),
    ("arange", lambda x: x * K.arange(K.shape(x)[2], dtype="float32"), [X], X * np.arange(4)),
    ("tile", lambda x: K.tile(x, (K.shape(x)[0], 1, 1)), [X], np.tile(X, (2, 1, 1))),
    ("repeat", lambda m: K.repeat(m, K.shape(m)[1]), [M], np.repeat(M[:, None], 4, 1)),
    ("repeat_elements", lambda x: K.repeat_elements(x, K.shape(x)[1], 0), [X], np.repeat(X, 3, 0)),
    ("eye", lambda x: K.eye(K.shape(x)[1]), [X], np.eye(3)),
    ("one_hot", lambda x: K.one_hot([0, 2], K.shape(x)[1]), [X], np.eye(3)[[0, 2]]),
    ("random_normal", lambda x: 0 * K.random_normal(K.shape(x)) + x, [X], X),
    (
        "random_uniform",
        lambda x: 0 * K.random_uniform(K.shape(x)[:2], seed=1),
        [X],
        np.zeros((2, 3)),
    ),
    (
        "dropout",
        lambda x: K.dropout(x, 0.0, noise_shape=(K.shape(x)[0], 1, 1), seed=1),
        [X],
        X,
    ),
]


def named(cases):
    return [pytest.param(*case[1:], id=f"{case[0]}-{i}") for i, case in enumerate(cases)]


# PyTorch compiles nothing. On the others a function that compiles runs without that too, unless it
# asks for sizes, which are numbers then.
TORCH = keras.backend.backend() == "torch"
EAGER = CASES + SHAPE_CASES if TORCH else SHAPE_CASES
COMPILED = [] if TORCH else CASES + SHAPE_CASES


@pytest.mark.parametrize(("function", "arrays", "expected"), named(EAGER))
def test_eager(function, arrays, expected):
    check(function(*map(keras.ops.convert_to_tensor, arrays)), expected)


@pytest.mark.parametrize(("function", "arrays", "expected"), named(COMPILED))
def test_compiled(function, arrays, expected):
    check(compiled(function)(*map(keras.ops.convert_to_tensor, arrays)), expected)


@pytest.mark.parametrize(("function", "arrays", "expected"), named(CASES + SHAPE_CASES))
def test_functional(function, arrays, expected):
    check_functional(function, arrays, expected, free=True)


@pytest.mark.parametrize(
    ("function", "arrays", "expected"),
    named([c for c in CASES if "crossentropy" in c[0] or "batch" in c[0]] + SHAPE_CASES),
)
def test_functional_with_known_sizes(function, arrays, expected):
    if not isinstance(function(*inputs(arrays, free=False)), keras.KerasTensor):
        pytest.skip("the result is known before the model runs")
    check_functional(function, arrays, expected, free=False)


@pytest.mark.parametrize(("function", "arrays", "expected"), named(MEETING))
def test_integers_become_floats_beside_floats(function, arrays, expected):
    check_functional(function, arrays, expected, free=True)
    result = function(*map(keras.ops.convert_to_tensor, arrays))
    assert K.dtype(result) == ("bool" if np.asarray(expected).dtype == bool else "float32")


def test_integers_among_themselves_stay_integers():
    i, j = keras.ops.convert_to_tensor(INT), keras.ops.convert_to_tensor(SEGMENTS)
    results = [
        K.concatenate([i, j]),
        K.concatenate([[[1], [2]], j]),
        K.stack([i, j]),
        K.maximum(i, j),
        K.clip(i, 0, 2),
        K.pow(i, 2),
        K.switch(K.equal(j, 1), i, j),
        K.where(j, i, 0),
        K.sum(i),
        K.max(i),
        K.square(i),
        K.gather(i, [0, 1.0]),
        K.dot(i, K.transpose(j)),
        K.argmax(i) + K.arange(2.0),
    ]
    assert {K.dtype(x) for x in results} <= {"int32", "int64"}
    # In float16 2049 is 2048.
    assert not K.eval(K.equal(keras.ops.convert_to_tensor(2049), K.cast(2048, "float16")))


def test_variables_lists_and_numbers_are_tensors():
    v, i = K.variable([1.0, 2.0]), keras.ops.convert_to_tensor([1, 3])
    results = {
        "equal": (K.equal(v, i), [True, False]),
        "where": (K.where(i > 1, v, i), [1, 2]),
        "switch": (K.switch(i > 1, i, v), [1, 3]),
        "concatenate": (K.concatenate([v, i, np.ones(1), [0], i > 1]), [1, 2, 1, 3, 1, 0, 0, 1]),
        "stack": (K.stack([v, i]), [[1, 2], [1, 3]]),
        "sum": (K.sum([v, i]), 7),
        "max": (K.max([K.sum(v), 2]), 3),
        "clip": (K.clip(i, v, 2.5), [1, 2.5]),
        "in_train_phase": (K.in_train_phase(v, i), [1, 3]),
        "bias_add": (K.bias_add(K.ones((1, 2)), [1, 2]), [[2, 3]]),
        "less": (K.less(2, [1, 3]), [False, True]),
        "greater": (K.greater(np.ones(2), 0), [True, True]),
        "mean": (K.mean([1, 2]), 1.5),
        "all": (K.all([1, 0]), False),
        "cast": (K.cast([True, False], "float32"), [1, 0]),
        "expand_dims": (K.expand_dims([1, 2], 0), [[1, 2]]),
        "reshape": (K.reshape([1, 2, 3, 4], (2, 2)), [[1, 2], [3, 4]]),
        "argmax": (K.argmax([[1, 3, 2]]), [1]),
        "gather": (K.gather(v, [1.0]), [2]),
        "update": (K.update(v, i), [1, 3]),
    }
    for name, (result, expected) in results.items():
        assert numpy_of(result).tolist() == expected, name
    assert K.shape([[1, 2]]) == (1, 2)


def test_indices_may_be_floats():
    check(K.gather(X, np.array([1.0, 0.0])), X[[1, 0]])
    check(K.one_hot([[0.0, 2.0]], 3), np.eye(3)[None, [0, 2]])
    check(K.arange(K.constant(3.0)), np.arange(3))
    check(K.arange(1, K.constant(3.0), dtype="float32"), [1, 2])
    check(K.sparse_categorical_crossentropy(FLOATS, P), -np.log(PICKED))
    check(K.binary_crossentropy([[1], [0]], P[:, 0, :1]), -np.log([P[0, 0, :1], 1 - P[1, 0, :1]]))
    check(K.in_top_k(P[:, 0], FLOATS[:, 0], 4), [True, True])


def check_functional(function, arrays, expected, *, free):
    symbolic = inputs(arrays, free)
    model = keras.Model(symbolic, function(*symbolic))
    check(model([keras.ops.convert_to_tensor(a) for a in arrays]), expected)
    sizes = zip(model.output.shape, np.shape(expected), strict=True)
    assert all(size in (None, actual) for size, actual in sizes)


def test_every_listed_function_is_offered_and_tested():
    assert [name for name in OFFERED if not callable(getattr(K, name))] == []
    for name in REPLACED:
        with pytest.raises(AttributeError, match=rf"K\.{name} has no meaning in Keras 3\. Use "):
            getattr(K, name)
    with open(__file__, encoding="utf-8") as file:
        source = file.read().partition('""".split()')[2]
    assert [name for name in OFFERED if f"K.{name}" not in source] == []


# === Sizes in functional models ===


def test_model_with_computed_shapes_is_saved_and_follows_new_sizes(tmp_path):
    x = keras.Input((None, 4))
    batch, length = K.shape(x)[0], K.shape(x)[1]
    heads = K.reshape(x, K.shape(x)[:-1] + (2, 2))
    positions = K.cast(K.arange(0, length), K.floatx())
    out = K.reshape(heads, (batch, length, 4)) * positions[None, :, None] + K.zeros((batch, 1, 4))
    model = keras.Model(x, out)
    assert heads.shape == (None, None, 2, 2)
    assert out.shape == (None, None, 4)
    model.save(tmp_path / "model.keras")
    reloaded = keras.models.load_model(tmp_path / "model.keras")
    for length in (3, 5):
        data = RNG.normal(size=(length - 1, length, 4)).astype("float32")
        expected = data * np.arange(length)[None, :, None]
        check(model.predict_on_batch(data), expected)
        check(reloaded.predict_on_batch(data), expected)


def test_sizes_inside_a_training_step():
    class Pool(keras.layers.Layer):
        def call(self, inputs):
            batch, length = K.shape(inputs)[0], K.shape(inputs)[1]
            flat = K.reshape(inputs, (batch * length, -1))
            mean = K.sum(K.reshape(flat, K.shape(inputs)), axis=1) / K.cast(length, K.floatx())
            return K.concatenate([mean, K.zeros((batch, 1))])

    inputs = keras.Input((None, 4))
    model = keras.Model(inputs, keras.layers.Dense(1, use_bias=False)(Pool()(inputs)))
    model.compile("sgd", "mse")
    for length in (3, 5):
        loss = model.train_on_batch(np.ones((2, length, 4), "float32"), np.zeros((2, 1), "float32"))
        assert np.isfinite(loss)


def test_known_sizes_are_numbers():
    x = keras.Input((None, 4))
    assert K.shape(x)[2] == 4
    assert isinstance(K.shape(x)[1], legacy.Dimension)
    assert isinstance(K.shape(x)[:2] + (3,), legacy.Shape)
    assert (1,) + K.shape(X)[1:] == (1, 3, 4)
    assert K.int_shape(x) == (None, None, 4)
    assert K.ndim(x) == 3
    assert K.int_shape(K.variable(M)) == K.int_shape(K.variable(M).value) == (2, 4)
    assert K.dtype(x) == "float32"
    assert K.dtype(K.variable(M, dtype="float16")) == "float16"
    assert K.is_keras_tensor(x)
    assert not K.is_keras_tensor(keras.ops.convert_to_tensor(X))


def test_a_shape_does_not_repeat_itself():
    with pytest.raises(TypeError, match="compute with its entries"):
        K.shape(X) * 2


# === Making tensors and variables ===


def test_created_tensors():
    check(K.zeros((2, 3)), np.zeros((2, 3)))
    check(K.ones([2]), np.ones(2))
    check(K.eye(3), np.eye(3))
    check(K.arange(2, 8, 3), [2, 5])
    check(K.constant(2, shape=(2, 2)), np.full((2, 2), 2))
    check(K.constant([1, 2, 3, 4], dtype="int32", shape=(2, 2)), [[1, 2], [3, 4]])
    check(K.reshape(X, np.array([2, 12])), X.reshape(2, 12))
    check(K.reshape(X, keras.ops.convert_to_tensor([6, 4])), X.reshape(6, 4))
    check(K.tile(M[0], 2), np.tile(M[0], 2))
    types = [K.zeros((1,)), K.ones(1 * (1,)), K.eye(1), K.constant(1), K.one_hot([0], 1)]
    assert {K.dtype(t) for t in types} == {"float32"}
    assert K.dtype(K.arange(3)) == "int32"
    assert isinstance(K.cast_to_floatx(np.arange(3)), np.ndarray)


def test_variables():
    x = K.variable([1, 2], name="x")
    y = K.variable(np.ones((2, 2)), dtype="float32", constraint=keras.constraints.NonNeg())
    assert x.name == "x" and K.dtype(x) == "float32"
    assert isinstance(y.constraint, keras.constraints.NonNeg)
    K.update(x, [3.0, 4.0])
    K.update_add(x, [1.0, 1.0])
    K.update_sub(x, 2.0)
    check(K.get_value(x), [2, 3])
    K.set_value(x, [5, 6])
    K.batch_set_value([(x, np.array([7.0, 8.0])), (y, np.zeros((2, 2)))])
    values = K.batch_get_value([x, y])
    assert all(isinstance(value, np.ndarray) for value in values)
    check(values[0], [7, 8])
    check(values[1], np.zeros((2, 2)))
    check(K.eval(x * 2), [14, 16])
    with pytest.raises(ValueError, match="has no value"):
        K.eval(keras.Input((2,)))
    with K.name_scope("scope"):
        assert K.variable(0.0, name="inside").path == "scope/inside"


def test_variables_of_random_numbers():
    uniform = K.random_uniform_variable((50, 2), 1, 2, seed=1)
    normal = K.random_normal_variable((50, 2), 3.0, 0.1, name="n")
    assert K.is_variable(uniform) and normal.name == "n"
    assert 1 <= K.eval(uniform).min() < K.eval(uniform).max() < 2
    assert abs(K.eval(normal).mean() - 3) < 0.1
    assert K.get_variable_shape(normal) == (50, 2) and K.count_params(normal) == 100


def test_moving_average():
    x = K.variable([1.0, 2.0])
    check(K.moving_average_update(x, [3, 0], 0.75), [1.5, 1.5])
    check(x, [1.5, 1.5])


def test_kinds_of_tensors():
    symbolic, eager = keras.Input((2,)), keras.ops.convert_to_tensor(X)
    assert K.is_placeholder(symbolic) and not K.is_placeholder(symbolic * 2)
    assert K.is_symbolic(symbolic) and not K.is_symbolic(eager)
    assert K.is_tensor(symbolic) and K.is_tensor(eager) and not K.is_tensor(X)
    assert not K.is_variable(eager) and not K.is_placeholder(X)
    assert not K.is_sparse(eager) and K.to_dense(eager) is eager


def test_printed_tensors(capfd):
    inputs = keras.Input((2,))
    model = keras.Model(inputs, K.print_tensor(inputs * 2, "doubled"))
    check(model(np.ones((1, 2), "float32")), [[2, 2]])
    printed = "".join(capfd.readouterr())
    assert "doubled" in printed and "2" in printed.partition("doubled")[2]


def test_folds():
    check(K.foldl(lambda a, x: a * 2 + x, np.array([1.0, 2.0, 3.0])), 11)
    check(K.foldr(lambda a, x: a * 2 + x, np.array([1.0, 2.0, 3.0]), initializer=1), 25)


def test_moments_of_a_batch():
    normed, mean, var = K.normalize_batch_in_training(X, None, M[0], [0, 1], epsilon=0.1)
    check(mean, X.mean((0, 1)))
    check(var, X.var((0, 1)))
    check(normed, (X - X.mean((0, 1))) / np.sqrt(X.var((0, 1)) + 0.1) + M[0])


def test_convolutions_and_pooling():
    x = RNG.normal(size=(2, 5, 4)).astype("float32")
    kernel = RNG.normal(size=(2, 4, 3)).astype("float32")
    windows = np.stack([x[:, :-1], x[:, 1:]], 2)
    expected = np.einsum("btkc,kcf->btf", windows, kernel)
    check(K.conv1d(x, kernel), expected, rtol=1e-4, atol=1e-5)
    causal = K.conv1d(x, kernel, padding="causal")
    check(causal[:, 1:], expected, rtol=1e-4, atol=1e-5)
    check(K.conv2d(x[:, None], kernel=kernel[None]), expected[:, None], rtol=1e-4, atol=1e-5)
    check(
        K.conv3d(x[:, None, None], kernel[None, None]),
        expected[:, None, None],
        rtol=1e-4,
        atol=1e-5,
    )
    depthwise, pointwise = kernel[:, :, :1], RNG.normal(size=(1, 4, 3)).astype("float32")
    by_depth = np.einsum("btkc,kc->btc", windows, depthwise[..., 0])
    close = {"rtol": 1e-4, "atol": 1e-5}
    check(K.separable_conv1d(x, depthwise, pointwise), by_depth @ pointwise[0], **close)
    check(K.depthwise_conv2d(x[:, None], depthwise[None]), by_depth[:, None], **close)
    result = K.separable_conv2d(x[:, None], depthwise[None], pointwise_kernel=pointwise[None])
    check(result, (by_depth @ pointwise[0])[:, None], **close)
    check(K.pool2d(x[:, None], (1, 2)), np.maximum(x[:, :-1], x[:, 1:])[:, None])
    mean = (x[:, :-1] + x[:, 1:]) / 2
    check(K.pool3d(x[:, None, None], (1, 1, 2), pool_mode="avg"), mean[:, None, None])
    with pytest.raises(ValueError, match="'max' or 'avg'"):
        K.pool2d(x[:, None], (1, 2), pool_mode="sum")
    with pytest.raises(ValueError, match="UpSampling2D"):
        K.resize_images(x[None], 2, 2, None, interpolation="bilinear")


def test_settings():
    assert K.floatx() == "float32" and K.epsilon() == 1e-7
    assert K.backend() == keras.backend.backend()
    assert K.image_data_format() == K.normalize_data_format(None) == "channels_last"
    K.set_image_data_format("channels_last")
    assert K.get_uid("k") + 1 == K.get_uid("k")
    assert K.symbolic(abs) is abs and K.eager(abs) is abs
    try:
        K.set_floatx("float16")
        K.set_epsilon(1e-3)
        assert K.dtype(K.zeros((1,))) == "float16" and K.epsilon() == 1e-3
    finally:
        K.set_floatx("float32")
        K.set_epsilon(1e-7)


def test_batch_dot_refuses_what_it_cannot_sum():
    with pytest.raises(ValueError, match="batch axis"):
        K.batch_dot(X, Y, axes=0)
    with pytest.raises(ValueError, match="a single axis of each"):
        K.batch_dot(X, Y, axes=[[1, 2], [1, 2]])
    with pytest.raises(ValueError, match=r"K\.dot"):
        K.batch_dot(M[0], M[0])


def test_bias_add_refuses_other_shapes():
    with pytest.raises(ValueError, match="data_format"):
        K.bias_add(X, M[0], data_format="last")
    with pytest.raises(ValueError, match="of 1 axis or of 2"):
        K.bias_add(X, X)


def test_a_condition_has_no_more_axes_than_the_values():
    with pytest.raises(ValueError, match="more axes"):
        K.switch(keras.ops.convert_to_tensor(BOOL), M, M)


# === Random numbers ===


@pytest.mark.parametrize(
    ("draw", "mean", "deviation", "low", "high"),
    [
        (lambda s: K.random_normal(s, mean=1.0, stddev=2.0, seed=0), 1, 2, -np.inf, np.inf),
        (lambda s: K.truncated_normal(s, stddev=2.0, seed=0), 0, 1.76, -4, 4),
        (lambda s: K.random_uniform(s, minval=-1, maxval=2, seed=0), 0.5, 0.866, -1, 2),
        (lambda s: K.random_uniform(s, 0, 4, dtype=np.dtype("int32"), seed=0), 1.5, 1.118, 0, 3),
        (lambda s: K.random_binomial(s, p=0.25, seed=0), 0.25, 0.433, 0, 1),
        (lambda s: K.random_bernoulli(s, p=0.25, seed=0), 0.25, 0.433, 0, 1),
        (lambda s: K.random_binomial(s, seed=0), 0, 0, 0, 0),
        (lambda s: K.dropout(K.ones(s), 0.2, seed=0), 1, 0.5, 0, 1.25),
    ],
)
def test_random_functions(draw, mean, deviation, low, high):
    values = numpy_of(draw((100, 200)))
    np.testing.assert_array_equal(values, numpy_of(draw((100, 200))))
    assert values.shape == (100, 200)
    assert abs(values.mean() - mean) < 0.05
    assert abs(values.std() - deviation) < 0.05
    assert values.min() >= low and values.max() <= high + 1e-6


def test_random_functions_take_the_seed_generator_of_a_layer():
    generator = keras.random.SeedGenerator(1)
    first, second = (numpy_of(K.random_normal((4,), seed=generator)) for _ in range(2))
    assert not np.array_equal(first, second)
    assert not np.array_equal(numpy_of(K.random_normal((4,))), numpy_of(K.random_normal((4,))))


def test_random_functions_without_a_seed_draw_anew_in_each_run_of_a_compiled_function():
    def drawn(seed):
        keras.utils.set_random_seed(seed)
        draw = compiled(lambda x: (K.random_uniform(K.shape(x)), K.dropout(x, 0.5)))
        return [numpy_of(each) for _ in range(3) for each in draw(keras.ops.ones((5, 4)))]

    first, again, other = drawn(1), drawn(1), drawn(2)
    for one, same in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, same)
    runs = [each.tobytes() for each in first + other]
    assert len(set(runs)) == len(runs)


class EitherOne(keras.layers.Layer):
    """One of two inputs by chance in training, as a layer for the original is written."""

    def call(self, inputs):
        old, new = inputs
        mask = K.random_binomial(shape=[1], p=0.5)
        return K.in_train_phase(mask * new + (1 - mask) * old, new)

    def compute_output_shape(self, shapes):
        return shapes[1]


def test_a_layer_that_draws_without_a_seed_trains_and_predicts():
    x = keras.Input((3,))
    dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
    model = keras.Model(x, dense(EitherOne()([x, 0 * x])))
    model.compile("sgd", "mse", run_eagerly=False)
    kernels = []
    for _ in range(24):
        model.train_on_batch(np.ones((2, 3)), np.ones((2, 1)))
        kernels.append(model.get_weights()[0][0, 0])
    moved = np.diff([0, *kernels]) != 0  # by half of the steps, those in which it took the input
    assert 2 <= moved.sum() <= 22
    np.testing.assert_array_equal(model.predict(np.ones((2, 3)), verbose=0), np.zeros((2, 1)))


# === Control ===


class Phases(keras.layers.Layer):
    def call(self, inputs):
        return inputs * K.learning_phase() + K.in_train_phase(lambda: inputs * 10, inputs * 0)


def test_training_phase_inside_layers_and_functional_models(tmp_path):
    inputs = keras.Input((2,))
    model = keras.Model(inputs, [Phases()(inputs), K.in_train_phase(inputs + 1, inputs)])
    assert K.learning_phase() == 0
    for training, expected in (
        (True, [M[:, :2] * 11, M[:, :2] + 1]),
        (False, [M[:, :2] * 0, M[:, :2]]),
    ):
        for result, wanted in zip(model(M[:, :2], training=training), expected, strict=True):
            check(result, wanted)
    for result, wanted in zip(
        model.predict_on_batch(M[:, :2]), [M[:, :2] * 0, M[:, :2]], strict=True
    ):
        check(result, wanted)
    model = keras.Model(inputs, K.in_train_phase(inputs + 1, inputs))
    model.save(tmp_path / "model.keras")
    reloaded = keras.models.load_model(tmp_path / "model.keras")
    check(reloaded(M[:, :2], training=True), M[:, :2] + 1)


def test_training_phase_by_argument():
    check(K.in_train_phase(X, Y, training=True), X)
    check(K.in_train_phase(X, lambda: Y, training=0), Y)
    check(K.in_train_phase(X, Y, training=keras.ops.convert_to_tensor(True)), X)


LENGTHS = np.array([[1, 1, 0], [0, 1, 1]])


def reference_rnn(inputs, state, constant, mask=None, backwards=False):
    """What `K.rnn` does with the step of the test below, step by step."""
    output, outputs = np.zeros_like(state), []
    order = range(inputs.shape[1])[:: -1 if backwards else 1]
    for time in order:
        new = np.tanh(inputs[:, time] + state * 0.5) * constant
        visible = np.ones((len(inputs), 1)) if mask is None else mask[:, time, None]
        output = np.where(visible, new + 1, output)
        state = np.where(visible, new, state)
        outputs.append(output)
    return output, np.stack(outputs, 1), state


@pytest.mark.parametrize("masked", [None, LENGTHS, LENGTHS[..., None].astype("float32")])
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("unroll", [False, True])
def test_rnn(masked, backwards, unroll):
    def step(inputs, states):
        state, constant = states
        new = K.tanh(inputs + state * 0.5) * constant
        return new + 1, [new]

    def run(inputs, state, constant):
        mask = None if masked is None else keras.ops.convert_to_tensor(masked)
        last, outputs, states = K.rnn(
            step, inputs, [state], backwards, mask, constants=[constant], unroll=unroll
        )
        return last, outputs, states[0]

    expected = reference_rnn(
        X, M, Y[:, 0], None if masked is None else masked.reshape(2, 3), backwards
    )
    arrays = [keras.ops.convert_to_tensor(a) for a in (X, M, Y[:, 0])]
    for function in (run, compiled(run)):
        for result, wanted in zip(function(*arrays), expected, strict=True):
            check(result, wanted)


def test_rnn_belongs_into_a_layer():
    class Sum(keras.layers.Layer):
        def call(self, inputs):
            zeros = K.zeros_like(inputs[:, 0])
            return K.rnn(lambda x, s: (x + s[0], [x + s[0]]), inputs, [zeros])[1]

        def compute_output_shape(self, shape):
            return shape

    inputs = keras.Input((None, 4))
    model = keras.Model(inputs, Sum()(inputs))
    check(model.predict_on_batch(X), X.cumsum(1))
    check(model.predict_on_batch(X[:, :2]), X[:, :2].cumsum(1))  # now any length
    with pytest.raises(TypeError, match=r"within a layer, not on symbolic"):
        K.rnn(lambda x, s: (x, s), inputs, [])


# === What is not there ===


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("get_session", "get_value"),
        ("set_session", "no sessions"),
        ("set_learning_phase", "training="),
        ("silu", r"keras\.ops\.silu"),
        ("temporal_paddin", r"K\.temporal_padding"),
        ("qqqq", r"keras\.ops"),
    ],
)
def test_missing_functions_name_the_replacement(name, advice):
    with pytest.raises(AttributeError, match=advice):
        getattr(K, name)


def test_tensorflow_is_handed_on_where_it_runs():
    if keras.backend.backend() == "tensorflow":  # elsewhere it takes seconds to import
        check(K.tf.cast(K.constant([1]), K.tf.int32), [1])
        assert K.dtype(K.cast(X, K.tf.int32)) == "int32"


def test_k_cannot_be_changed():
    with pytest.raises(AttributeError, match="shared"):
        K.sum = None


# === What scripts are rewritten to use ===


def test_calls_of_a_layer_by_number():
    first, second = keras.Input((2,)), keras.Input((2,))
    layer = keras.layers.Dense(3)
    results = [layer(first), layer(second)]
    assert legacy.output_at(layer, 1) is results[1]
    assert legacy.input_at(layer, 0) is first
    assert legacy.output_shape_at(layer, -1) == (None, 3)
    assert legacy.input_shape_at(layer, 0) == (None, 2)
    with pytest.raises(IndexError, match="called 2 times"):
        legacy.output_at(layer, 2)
    with pytest.raises(ValueError, match="by node_index"):
        legacy.output_mask(layer)


def test_masks_and_calls_of_layers():
    ids, x = keras.Input((None,), dtype="int32"), keras.Input((None, 4))
    embedding = keras.layers.Embedding(5, 4, mask_zero=True)
    add = keras.layers.Add()
    total = add([embedding(ids), x])
    twice = total * 2
    mask = legacy.output_mask(embedding)
    assert legacy.input_mask(add) == [mask, None] and legacy.input_mask(embedding) is None
    masked = keras.Model(ids, K.cast(mask, "float32"))
    check(masked(np.array([[3, 0, 1]])), [[1, 0, 1]])
    (call,) = legacy.inbound_nodes(add)
    assert call.outbound_layer is add and call.output_tensors == [total]
    assert call.inbound_layers[0] is embedding and call.input_tensors[1] is x
    assert call.input_masks == [mask, None]
    assert call.input_shapes == [(None, None, 4)] * 2 and call.output_shapes == (None, None, 4)
    (after,) = legacy.outbound_nodes(add)
    assert after.output_tensors == [twice] and after.inbound_layers == [add]


def test_a_model_with_a_loss_over_its_tensors():
    x = keras.Input((2,))
    model = keras.Model(x, x * 2)
    trained = legacy.with_loss(model, K.mean(K.square(model.output)))
    trained.compile("sgd")
    assert trained.evaluate(np.ones((4, 2)), verbose=0) == pytest.approx(4.0)
    check(trained.predict_on_batch(M[:, :2]), M[:, :2] * 2)


def test_groups_of_neighbours():
    assert legacy.groupby("aab") == [("a", ["a", "a"]), ("b", ["b"])]
    assert legacy.groupby([1, 3, 2], lambda x: x % 2) == [(1, [1, 3]), (0, [2])]
    assert legacy.groupby("abc", [0, 0, 1]) == [(0, ["a", "b"]), (1, ["c"])]
