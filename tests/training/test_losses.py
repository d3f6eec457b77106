"""Losses against their formulas in NumPy and against cases computed by hand."""

import keras
import numpy as np
import pytest
from keras import ops
from keras.src.backend import set_keras_mask
from losses import gradients as gradients_of_tensors

from bert4keras.backend import compiled, sparse_multilabel_categorical_crossentropy
from bert4keras.layers import GlobalPointer, Loss
from bert4keras.models import Model
from bert4keras.training import (
    CoSENT,
    InfoNCE,
    Matryoshka,
    MultilabelCrossentropy,
    RDropCrossentropy,
    SimCSE,
    SparseCategoricalFocalCrossentropy,
    SparseMultilabelCrossentropy,
    TokenAccuracy,
    TokenCrossentropy,
    divergence,
)

pytestmark = pytest.mark.backend

rng = np.random.default_rng(0)


def normal(*shape, scale=1.0):
    return (scale * rng.standard_normal(shape)).astype("float32")


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def value(tensor):
    return ops.convert_to_numpy(tensor)


def tensor(x, dtype=None):
    return ops.convert_to_tensor(x, dtype=dtype)


def gradients(function, values):
    return gradients_of_tensors(function, [tensor(v) for v in values])


# --- divergence


def test_divergence_of_two_coins():
    p, q = (
        np.array([[0.5, 0.5], [1, 0]], "float32"),
        np.array([[0.25, 0.75], [0.5, 0.5]], "float32"),
    )
    expected = [0.5 * np.log(2) + 0.5 * np.log(2 / 3), np.log(2)]
    np.testing.assert_allclose(value(divergence(p, q)), expected, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_divergence_of_logits(dtype):
    x, y = (tensor(normal(3, 4, 5, scale=3), dtype) for _ in range(2))
    p, q = (softmax(value(ops.cast(z, "float32")).astype("float64")) for z in (x, y))
    result = divergence(x, y, from_logits=True)
    assert keras.backend.standardize_dtype(result.dtype) == "float32"
    np.testing.assert_allclose(value(result), (p * np.log(p / q)).sum(-1), rtol=1e-4, atol=1e-6)


def test_divergence_and_its_gradients_are_finite_where_probabilities_are_0():
    without_last = np.array([0, 0, -np.inf], "float32")
    sure, other = np.array([[1, 0, 0]], "float32"), np.array([[0, 1, 0]], "float32")
    for x, y, from_logits in (
        (sure, other, False),
        (6e4 * sure, 6e4 * other, True),
        (normal(2, 3) + without_last, normal(2, 3) + without_last, True),
    ):
        found = gradients(lambda a, b, z=from_logits: ops.sum(divergence(a, b, z)), [x, y])
        assert all(np.isfinite(g).all() for g in found)
        assert np.isfinite(value(divergence(x, y, from_logits))).all()


# --- sentence vectors


def cosent(labels, vectors, scale):
    vectors = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    labels, cosines = labels[::2], (vectors[::2] * vectors[1::2]).sum(-1)
    total = 1.0
    for i, label in enumerate(labels):
        for j, other in enumerate(labels):
            if label > other:
                total += np.exp(scale * (cosines[j] - cosines[i]))
    return np.log(total)


def test_cosent_by_hand():
    # Cosines 0 and 1, and the pair with the smaller one should have the larger one.
    vectors = np.array([[2, 0], [0, 1], [3, 0], [1, 0]], "float32")
    expected = np.log(1 + np.exp(20))
    assert value(CoSENT()([1, 1, 0, 0], vectors)) == pytest.approx(expected)
    assert value(CoSENT()([0, 0, 1, 1], vectors)) == pytest.approx(
        np.log(1 + np.exp(-20)), abs=1e-6
    )
    assert value(CoSENT()([1, 1, 1, 1], vectors)) == 0  # nothing to order


@pytest.mark.parametrize("scale", [20.0, 3.0])
def test_cosent_against_its_formula(scale):
    labels = np.repeat(rng.integers(0, 4, 6), 2)
    vectors = normal(12, 5, scale=10)
    expected = cosent(labels, vectors.astype("float64"), scale)
    for given in (labels, labels[:, None], labels / 4):
        assert value(CoSENT(scale)(given, vectors)) == pytest.approx(expected, rel=1e-5)


def simcse(vectors, temperature):
    vectors = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    losses = []
    for i, vector in enumerate(vectors):
        scores = vectors @ vector / temperature
        others = np.delete(scores, i)
        losses.append(np.log(np.exp(others).sum()) - scores[i ^ 1])
    return losses


def test_simcse_by_hand():
    # Partners are equal, all others at a right angle.
    vectors = np.array([[1, 0], [2, 0], [0, 3], [0, 1]], "float32")
    expected = np.log(np.exp(20) + 2) - 20
    assert value(SimCSE()(np.zeros(4), vectors)) == pytest.approx(expected, abs=1e-6)


def test_simcse_against_its_formula():
    vectors = normal(8, 5)
    expected = simcse(vectors.astype("float64"), 0.05)
    for labels in (np.zeros(8), np.ones((8, 1))):
        found = value(SimCSE(reduction=None)(labels, vectors))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    found = value(SimCSE(temperature=0.5)(np.zeros(8), vectors))
    assert found == pytest.approx(np.mean(simcse(vectors.astype("float64"), 0.5)), rel=1e-5)


def test_simcse_with_hard_negatives():
    vectors = normal(12, 5).astype("float64")
    unit = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    anchors, positives, negatives = unit[::3], unit[1::3], unit[2::3]
    expected = []
    for i, anchor in enumerate(anchors):
        near, far = positives @ anchor / 0.1, negatives @ anchor / 0.1
        expected.append(np.log(np.exp(near).sum() + np.exp(far).sum()) - near[i])
    loss = SimCSE(temperature=0.1, hard_negatives=True, reduction=None)
    found = value(loss(np.zeros(12), vectors.astype("float32")))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("hard_negatives", [0, 1, 2])
def test_infonce_against_its_formula(hard_negatives):
    n = 2 + hard_negatives
    vectors = normal(4 * n, 5)
    unit = vectors.astype("float64") / np.linalg.norm(vectors, axis=-1, keepdims=True)
    candidates = [x for i, x in enumerate(unit) if i % n]
    expected = []
    for query, answer in zip(unit[::n], unit[1::n], strict=True):
        total = sum(np.exp(query @ x / 0.1) for x in candidates)
        expected.append(np.log(total) - query @ answer / 0.1)
    loss = InfoNCE(0.1, hard_negatives, reduction=None)
    np.testing.assert_allclose(
        value(loss(np.zeros(4 * n), vectors)), expected, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("loss", [CoSENT(), SimCSE(), InfoNCE(hard_negatives=1)])
def test_matryoshka_is_the_sum_over_beginnings(loss):
    vectors, labels = normal(12, 6), np.repeat(np.arange(6.0), 2)
    parts = [value(loss(labels, vectors[:, :size])) for size in (2, 4, 6)]
    assert value(Matryoshka(loss, [2, 4, 6])(labels, vectors)) == pytest.approx(sum(parts))
    weighted = Matryoshka(loss, [2, 4, 6], [1, 0.5, 2])
    expected = parts[0] + 0.5 * parts[1] + 2 * parts[2]
    assert value(weighted(labels, vectors)) == pytest.approx(expected)
    config = keras.saving.serialize_keras_object(weighted)
    again = keras.saving.deserialize_keras_object(config)
    assert value(again(labels, vectors)) == pytest.approx(expected)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: InfoNCE(hard_negatives=-1), "hard_negatives is -1"),
        (lambda: Matryoshka("mse", [2]), "loss is 'mse'"),
        (lambda: Matryoshka(CoSENT(), []), "sizes are"),
        (lambda: Matryoshka(CoSENT(), [0, 2]), "sizes are"),
        (lambda: Matryoshka(CoSENT(), [2, 4], [1]), "a weight for each"),
        (lambda: Matryoshka(CoSENT(), [9])(np.zeros(4), normal(4, 6)), "vectors have 6 numbers"),
    ],
)
def test_losses_of_vectors_refuse_what_makes_no_sense(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


VECTOR_LOSSES = [
    CoSENT(),
    SimCSE(),
    SimCSE(hard_negatives=True),
    InfoNCE(),
    InfoNCE(hard_negatives=1),
    Matryoshka(CoSENT(), [2, 4]),
]


@pytest.mark.parametrize("loss", VECTOR_LOSSES)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_losses_of_vectors_are_finite_at_extremes(loss, dtype):
    vectors = normal(12, 4)
    vectors[0] = 0  # a vector of length 0 has no direction
    vectors[1:3] *= 1e4
    labels = np.repeat(np.arange(6.0), 2)

    def total(x):
        return ops.sum(loss(labels, ops.cast(x, dtype)))

    assert np.isfinite(value(total(tensor(vectors))))
    (gradient,) = gradients(total, [vectors])
    assert np.isfinite(gradient).all() and np.abs(gradient[3:]).max() > 0


@pytest.mark.parametrize(
    "loss, rows",
    [
        (CoSENT(), 5),
        (SimCSE(), 3),
        (SimCSE(hard_negatives=True), 4),
        (InfoNCE(hard_negatives=2), 6),
        (Matryoshka(SimCSE(), [2]), 3),
    ],
)
def test_losses_of_a_batch_refuse_incomplete_groups(loss, rows):
    with pytest.raises(ValueError, match=f"got a batch of {rows} samples, .* multiple of [234]"):
        loss(np.zeros(rows), normal(rows, 3))


@pytest.mark.parametrize("loss", [CoSENT(), SimCSE()])
def test_losses_of_a_batch_refuse_sample_weights(loss):
    with pytest.raises(ValueError, match="takes no sample_weight"):
        loss(np.zeros(4), normal(4, 3), sample_weight=np.ones(4))


# --- several labels


def multilabel(labels, scores):
    positive = np.exp(np.where(labels > 0, -scores, -np.inf)) * labels
    negative = np.exp(scores) * (1 - labels)
    return np.log1p(positive.sum(-1)) + np.log1p(negative.sum(-1))


def test_multilabel_by_hand():
    # One right class at 0, one wrong class at ln 3: ln 2 + ln 4; half of each: 2 ln 1.5.
    loss = MultilabelCrossentropy(reduction=None)
    scores = np.array([[0, np.log(3)], [0, -np.inf]], "float32")
    labels = np.array([[1, 0], [0.5, 0]], "float32")
    np.testing.assert_allclose(value(loss(labels, scores)), [np.log(8), 2 * np.log(1.5)], rtol=1e-6)


@pytest.mark.parametrize("soft", [False, True])
def test_multilabel_against_its_formula(soft):
    labels = rng.random((3, 4, 5))
    labels = labels if soft else labels.round()
    scores = normal(3, 4, 5, scale=3)
    losses = multilabel(labels, scores.astype("float64"))
    found = value(MultilabelCrossentropy(reduction=None)(labels, scores))
    np.testing.assert_allclose(found, losses, rtol=1e-5)
    flat = multilabel(labels.reshape(3, 20), scores.reshape(3, 20).astype("float64"))
    weights = np.array([0.0, 1, 3])
    loss = MultilabelCrossentropy(class_axes=2)
    assert value(loss(labels, scores)) == pytest.approx(flat.mean(), rel=1e-5)
    found = value(loss(labels, scores, sample_weight=weights))
    assert found == pytest.approx((flat * weights).mean(), rel=1e-5)


def test_multilabel_loss_of_span_pointers():
    scores = GlobalPointer(heads=2, head_size=4)(
        normal(3, 5, 6), mask=np.arange(5) < [[5], [3], [1]]
    )
    labels = np.zeros((3, 2, 5, 5), "float32")
    labels[:, 0, 0, 0] = 1
    values = value(scores).astype("float64").reshape(3, 2, 25)
    expected = multilabel(labels.reshape(3, 2, 25), np.where(values > -1e9, values, -np.inf))
    found = value(MultilabelCrossentropy(class_axes=2, reduction=None)(labels, scores))
    np.testing.assert_allclose(found[:, 1], expected[:, 1], rtol=1e-4)
    weighted = MultilabelCrossentropy(class_axes=2)(labels, scores, sample_weight=[1, 0, 0])
    assert value(weighted) == pytest.approx(found[0].sum() / 6, rel=1e-5)


@pytest.mark.parametrize("mask_zero", [False, True])
def test_sparse_multilabel_is_multilabel_by_index(mask_zero):
    scores = normal(3, 6, scale=3)
    indices = np.array([[1, 4], [2, 0], [0, 0]])
    labels = np.zeros((3, 6))
    for row, classes in enumerate(indices):
        labels[row, classes[classes > 0] if mask_zero else classes] = 1
    used = slice(1, None) if mask_zero else slice(None)
    expected = multilabel(labels[:, used], scores[:, used].astype("float64"))
    loss = SparseMultilabelCrossentropy(mask_zero=mask_zero, reduction=None)
    np.testing.assert_allclose(value(loss(indices, scores)), expected, rtol=1e-4)


@pytest.mark.parametrize("mask_zero", [False, True])
def test_sparse_multilabel_of_spans(mask_zero):
    """Spans that are listed twice, masked or at the ends of the matrix, and none at all."""
    scores = normal(2, 3, 4, 4, scale=3)
    scores[0, 0, 1, 1] = scores[1, 0, 0, 1] = -np.inf
    spans = RANDOM_SPANS if mask_zero else RANDOM_SPANS[:, :, 1:]
    labels = np.zeros((2, 3, 4, 4), "float32")
    for row, kind, i in np.ndindex(spans.shape[:3]):
        labels[(row, kind, *spans[row, kind, i])] = 1
    given = scores.copy()
    if mask_zero:
        labels[:, :, 0, 0], scores[:, :, 0, 0] = 0, -np.inf
    loss = SparseMultilabelCrossentropy(mask_zero, class_axes=2, reduction=None)
    dense = MultilabelCrossentropy(class_axes=2, reduction=None)
    expected = value(dense(labels, scores))
    np.testing.assert_allclose(value(loss(spans, given)), expected, rtol=1e-5)
    weights = normal(2, 3)  # each loss has a gradient of its own
    found, right = (
        gradients_of_tensors(lambda x, y=y, f=f: ops.sum(f(y, x) * tensor(weights)), [tensor(x)])[0]
        for f, y, x in ((loss, tensor(spans), given), (dense, tensor(labels), scores))
    )
    np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-6)


RANDOM_SPANS = np.array(
    [
        [[[0, 0], [1, 1], [2, 3]], [[0, 0], [3, 3], [0, 1]], [[0, 0], [2, 2], [2, 2]]],
        [[[0, 0], [0, 1], [0, 3]], [[0, 0], [1, 2], [1, 2]], [[0, 0], [3, 3], [3, 3]]],
    ]
)


@pytest.mark.parametrize("mask_zero", [False, True])
def test_sparse_multilabel_without_any_label(mask_zero):
    scores = normal(2, 5)
    found = SparseMultilabelCrossentropy(mask_zero, reduction=None)(np.zeros((2, 0), int), scores)
    expected = np.log1p(np.exp(scores[:, 1 if mask_zero else 0 :]).sum(-1))
    np.testing.assert_allclose(value(found), expected, rtol=1e-5)


@pytest.mark.parametrize("loss", [SparseMultilabelCrossentropy(), TokenCrossentropy(ignore=0)])
def test_labels_by_index_of_as_many_classes_as_a_batch_has(loss):
    """As where a text has a class for each pair of its tokens."""
    scores = keras.Input((None,))
    model = Model(scores, keras.layers.Activation("linear")(scores))
    model.compile(loss=loss)
    indices = np.array([[1], [2]])
    for n_classes in (3, 5):
        given = normal(2, n_classes)
        found = model.test_on_batch(given, indices)
        assert float(found) == pytest.approx(float(value(loss(indices, given))), rel=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_sparse_multilabel_of_sure_predictions(dtype):
    """The sum over all classes less that over the right ones has no correct digit left."""
    scores = np.array([[-7.75, s, -9, -8] for s in (8, 12, 15, 20, 40)], "float32")
    indices, labels = np.array([[1]] * 5), np.array([[0, 1, 0, 0]] * 5)
    expected = multilabel(labels, scores.astype("float64"))

    def loss(y_pred):
        return sparse_multilabel_categorical_crossentropy(tensor(indices), y_pred)

    found = loss(tensor(scores, dtype))
    assert keras.backend.standardize_dtype(found.dtype) == dtype
    exact = dtype == "float32"
    found = value(ops.cast(found, "float32"))
    np.testing.assert_allclose(found, expected, rtol=1e-5 if exact else 1e-2, atol=3e-7)
    (gradient,) = gradients_of_tensors(lambda x: ops.sum(loss(x)), [tensor(scores, dtype)])
    right = -np.exp(-scores[:, 1]) / (1 + np.exp(-scores[:, 1]))
    np.testing.assert_allclose(gradient[:, 1], right, rtol=1e-5 if exact else 1e-2, atol=1e-7)
    assert (gradient[:, [0, 2, 3]] > 0).all()


def in_a_compiled_function(function, *arrays):
    """What a function gives where it does not know the values of its arguments."""
    dense = keras.layers.Dense(1)
    dense.build((None, 1))
    return value(compiled(function, dense)(*map(tensor, arrays)))


WRONG_LABELS = {
    "sparse multilabel, -1": (SparseMultilabelCrossentropy(), [[-1, 1], [2, 3]]),
    "sparse multilabel, 4": (SparseMultilabelCrossentropy(mask_zero=True), [[0, 1], [2, 4]]),
    "spans, -1": (SparseMultilabelCrossentropy(class_axes=2), [[[0, -1]], [[1, 1]]]),
    "spans, 4": (SparseMultilabelCrossentropy(class_axes=2), [[[0, 4]], [[1, 1]]]),
    "multilabel, 5": (MultilabelCrossentropy(), [[0, 1, 5, 0], [0, 0, 0, 1]]),
    "tokens, -1": (TokenCrossentropy(from_logits=True), [-1, 2]),
    "tokens, 4": (TokenCrossentropy(from_logits=True, ignore=0), [4, 2]),
    "focal, -1": (SparseCategoricalFocalCrossentropy(from_logits=True), [[-1], [2]]),
    "R-Drop, -1": (RDropCrossentropy(from_logits=True), [2, -1]),
}


@pytest.mark.parametrize(("loss", "labels"), WRONG_LABELS.values(), ids=WRONG_LABELS)
def test_labels_out_of_range_are_refused(loss, labels):
    labels = np.array(labels)
    scores = normal(2, 4, 4) if getattr(loss, "class_axes", 1) == 2 else normal(2, 4)
    for given in (labels, tensor(labels)):
        with pytest.raises(ValueError, match=r"must be from 0 to .*, but one is (-1|4|5) at \["):
            loss(given, scores)
    if keras.backend.backend() != "torch":  # which compiles nothing
        assert np.isnan(in_a_compiled_function(loss, labels, scores))


@pytest.mark.parametrize("kind", [TokenCrossentropy, SparseCategoricalFocalCrossentropy])
def test_labels_that_do_not_count_may_be_anything(kind):
    """Where the model masks, the weight is 0, or the label is `ignore`; compiled as well."""
    scores, labels = normal(2, 3, 4), np.array([[1, 3, -100], [2, -100, -100]])
    visible = labels >= 0
    expected = value(kind(from_logits=True, ignore=-100)(labels, scores))
    loss = kind(from_logits=True, reduction="sum")

    def masked(labels, scores, visible):
        set_keras_mask(scores, visible)
        return loss(labels, scores)

    def weighted(labels, scores, visible):
        return loss(labels, scores, sample_weight=ops.cast(visible, "float32"))

    for function in (masked, weighted):
        eagerly = value(function(*map(tensor, (labels, scores, visible))))
        compiled_too = in_a_compiled_function(function, labels, scores, visible)
        np.testing.assert_allclose([eagerly / 3, compiled_too / 3], expected, rtol=1e-5)


# --- one label a token


def token_losses(labels, probabilities, smoothing=0.0):
    log_p = np.log(probabilities)
    classes = probabilities.shape[-1]
    targets = (1 - smoothing) * np.eye(classes)[labels] + smoothing / classes
    return -(targets * log_p).sum(-1)


def focal_losses(labels, probabilities, alpha, gamma):
    p = np.take_along_axis(probabilities, labels[..., None], -1)[..., 0]
    return -np.broadcast_to(alpha, probabilities.shape[-1:])[labels] * (1 - p) ** gamma * np.log(p)


def rdrop_losses(labels, probabilities, alpha, smoothing=0.0):
    p, q = probabilities[::2], probabilities[1::2]
    both = ((p - q) * (np.log(p) - np.log(q))).sum(-1)  # KL(p‖q) + KL(q‖p)
    return token_losses(labels, probabilities, smoothing) + alpha / 4 * np.repeat(both, 2, axis=0)


CASES = {
    "plain": (TokenCrossentropy, {}, lambda y, p: token_losses(y, p)),
    "smooth": (
        TokenCrossentropy,
        {"label_smoothing": 0.1},
        lambda y, p: token_losses(y, p, 0.1),
    ),
    "focal": (
        SparseCategoricalFocalCrossentropy,
        {},
        lambda y, p: focal_losses(y, p, 0.25, 2),
    ),
    "focal by class": (
        SparseCategoricalFocalCrossentropy,
        {"alpha": [0.1, 0.2, 0.3, 0.4, 0.5], "gamma": 0.5},
        lambda y, p: focal_losses(y, p, [0.1, 0.2, 0.3, 0.4, 0.5], 0.5),
    ),
    "rdrop": (RDropCrossentropy, {}, lambda y, p: rdrop_losses(y, p, 4)),
    "rdrop smooth": (
        RDropCrossentropy,
        {"alpha": 1.0, "label_smoothing": 0.2},
        lambda y, p: rdrop_losses(y, p, 1, 0.2),
    ),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def test_token_losses_by_hand():
    p = np.array([[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]], "float32")
    labels = np.array([0, 1])

    def found(cls, **kwargs):
        return value(cls(reduction=None, **kwargs)(labels, p))

    ln2 = np.log(2)
    np.testing.assert_allclose(found(TokenCrossentropy), [ln2, 2 * ln2], rtol=1e-6)
    # The mean of −log p over the classes is 5/3 ln 2.
    smooth = [0.7 * ln2 + 0.5 * ln2, 1.4 * ln2 + 0.5 * ln2]
    np.testing.assert_allclose(found(TokenCrossentropy, label_smoothing=0.3), smooth, rtol=1e-6)
    focal = [0.25 * 0.25 * ln2, 0.25 * 0.5625 * 2 * ln2]
    np.testing.assert_allclose(found(SparseCategoricalFocalCrossentropy), focal, rtol=1e-6)
    # Σ (p − q)(log p − log q) = 0.25 ln 2 + 0.25 ln 2
    rdrop = [ln2 + 0.5 * ln2, 2 * ln2 + 0.5 * ln2]
    np.testing.assert_allclose(found(RDropCrossentropy, alpha=4), rdrop, rtol=1e-6)


@pytest.mark.parametrize("shape", [(4,), (4, 3)])
@pytest.mark.parametrize("from_logits", [False, True])
def test_token_losses_against_their_formulas(case, shape, from_logits):
    cls, kwargs, formula = case
    logits = normal(*shape, 5, scale=2)
    labels = rng.integers(0, 5, shape)
    expected = formula(labels, softmax(logits.astype("float64")))
    given = logits if from_logits else softmax(logits)
    loss = cls(from_logits=from_logits, reduction=None, **kwargs)
    np.testing.assert_allclose(value(loss(labels, given)), expected, rtol=1e-4, atol=1e-6)
    column = value(loss(labels[..., None], given))
    np.testing.assert_allclose(column, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("ignore", [-1, 0])
def test_what_is_ignored_does_not_count(case, ignore):
    cls, kwargs, formula = case
    logits = normal(4, 3, 5)
    labels = rng.integers(1, 5, (4, 3))
    counted = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 0], [0, 0, 0]], bool)
    losses = formula(labels, softmax(logits.astype("float64")))
    labels, logits = np.where(counted, labels, ignore), logits.copy()
    logits[~counted] = np.nan  # whatever stands there
    loss = cls(from_logits=True, ignore=ignore, **kwargs)
    assert value(loss(labels, logits)) == pytest.approx(losses[counted].mean(), rel=1e-4)
    total = cls(from_logits=True, ignore=ignore, reduction="sum", **kwargs)(labels, logits)
    assert value(total) == pytest.approx(losses[counted].sum(), rel=1e-4)
    assert value(loss(np.full_like(labels, ignore), logits)) == 0
    (gradient,) = gradients(lambda x: loss(labels, x), [logits])
    assert (gradient[~counted] == 0).all() and np.isfinite(gradient).all()


def test_masks_of_the_prediction_and_weights_count():
    """The default divides by the number of positions that count; so does Keras."""
    logits, labels = normal(2, 3, 5), rng.integers(1, 5, (2, 3))
    labels[0, 0] = 0
    mask = np.array([[1, 1, 0], [1, 1, 1]], bool)
    counted = mask & (labels > 0)
    losses = token_losses(labels, softmax(logits.astype("float64")))

    def found(weights=None, **kwargs):
        prediction = tensor(logits)
        prediction._keras_mask = tensor(mask)
        loss = TokenCrossentropy(from_logits=True, ignore=0, **kwargs)
        return value(loss(labels, prediction, sample_weight=weights))

    assert found() == pytest.approx(losses[counted].mean(), rel=1e-5)
    rows = np.array([[2.0], [0.5]])
    positions = np.broadcast_to(rows, (2, 3))
    weighted = (losses * positions)[counted].sum()
    for weights in (rows[:, 0], rows, positions):
        assert found(weights) == pytest.approx(weighted / counted.sum(), rel=1e-5)
        mean = weighted / positions[counted].sum()
        assert found(weights, reduction="mean_with_sample_weight") == pytest.approx(mean, rel=1e-5)


def test_the_mean_of_weighted_losses_divides_by_all_weights():
    """A weight for each row in Keras is an error, or wrong if length and batch are equal."""
    logits, labels, weights = normal(3, 3, 5), rng.integers(0, 5, (3, 3)), np.array([1.0, 0, 1])
    losses = token_losses(labels, softmax(logits.astype("float64")))
    loss = TokenCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
    assert value(loss(labels, logits, weights)) == pytest.approx(losses[::2].mean(), rel=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_token_losses_are_finite_at_extreme_logits(case, dtype):
    cls, kwargs, _ = case
    loss = cls(from_logits=True, reduction=None, **kwargs)
    logits = np.array([[3e4, -3e4, 0], [-3e4, 3e4, 0], [3e4, 3e4, 3e4], [0, 0, 0]], "float32")
    kwargs = {k: v[:3] if k == "alpha" and isinstance(v, list) else v for k, v in kwargs.items()}
    for labels in ([0, 1, 2, 0], [1, 0, 0, 1]):  # right, and as wrong as can be
        losses = value(loss(np.array(labels), tensor(logits, dtype)))
        assert losses.dtype == "float32" and np.isfinite(losses).all()
        (gradient,) = gradients(
            lambda x, y=labels: ops.sum(loss(np.array(y), ops.cast(x, dtype))), [logits]
        )
        assert np.isfinite(gradient).all()
    assert losses[0] > 1e4 * (0.2 if "alpha" in kwargs else 0.25)
    assert np.abs(gradient[0]).max() > 0.01


def test_token_losses_are_finite_at_probabilities_of_0_and_1(case):
    cls, kwargs, _ = case
    loss = cls(reduction=None, **kwargs)
    p = np.array([[1, 0, 0], [0, 1, 0]], "float32")
    for labels in ([0, 1], [1, 0]):
        assert np.isfinite(value(loss(np.array(labels), p))).all()
        (gradient,) = gradients(lambda x, y=labels: ops.sum(loss(np.array(y), x)), [p])
        assert np.isfinite(gradient).all()


def test_classes_may_be_left_out():
    logits = np.array([[0.0, -np.inf, 0.0]], "float32")
    for cls in (TokenCrossentropy, SparseCategoricalFocalCrossentropy):
        loss = cls(from_logits=True)
        assert np.isfinite(value(loss(np.array([0]), logits)))
        (gradient,) = gradients(lambda x, f=loss: f(np.array([0]), x), [logits])
        assert np.isfinite(gradient).all() and gradient[0, 1] == 0


def test_the_focal_loss_is_that_of_keras():
    logits, labels = normal(4, 5), rng.integers(0, 5, 4)
    one_hot = np.eye(5, dtype="float32")[labels]
    theirs = keras.losses.CategoricalFocalCrossentropy(from_logits=True)(one_hot, logits)
    ours = SparseCategoricalFocalCrossentropy(from_logits=True)(labels, logits)
    assert value(ours) == pytest.approx(value(theirs), rel=1e-5)


def test_rdrop_refuses_an_odd_number_of_rows():
    with pytest.raises(ValueError, match="RDropCrossentropy got a batch of 3 samples"):
        RDropCrossentropy()(np.zeros(3), softmax(normal(3, 4)))


def test_label_smoothing_is_a_share():
    with pytest.raises(ValueError, match="from 0 to 1, not 10"):
        TokenCrossentropy(label_smoothing=10)


def test_token_accuracy_counts_what_the_loss_counts():
    prediction = np.eye(4, dtype="float32")[[[1, 2, 3], [1, 1, 1]]]
    labels = np.array([[1, 1, 0], [1, 0, 0]])
    metric = TokenAccuracy(ignore=0)
    metric.update_state(labels, prediction)
    assert value(metric.result()) == pytest.approx(2 / 3)
    metric.update_state(labels[:1], prediction[:1], sample_weight=[2.0])
    assert value(metric.result()) == pytest.approx((1 + 1 + 2) / (3 + 4))
    metric.reset_state()
    masked = tensor(prediction)
    masked._keras_mask = tensor(np.array([[1, 0, 1], [1, 1, 1]], bool))
    metric.update_state(labels, masked)
    assert value(metric.result()) == 1


# --- with Keras


LOSSES = [
    CoSENT(scale=10.0),
    SimCSE(temperature=0.1, hard_negatives=True),
    MultilabelCrossentropy(class_axes=2, reduction="sum"),
    SparseMultilabelCrossentropy(mask_zero=True, class_axes=2),
    TokenCrossentropy(label_smoothing=0.1, ignore=-1, from_logits=True),
    SparseCategoricalFocalCrossentropy(alpha=[0.5, 0.5], gamma=1.0),
    RDropCrossentropy(alpha=2.0, label_smoothing=0.3, name="mine"),
    TokenAccuracy(ignore=0),
]


@pytest.mark.parametrize("thing", LOSSES, ids=lambda x: type(x).__name__)
def test_losses_and_metrics_can_be_saved(thing):
    config = keras.saving.serialize_keras_object(thing)
    assert config["registered_name"] == f"bert4keras>{type(thing).__name__}"
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(thing) and again.get_config() == thing.get_config()


def test_a_compiled_model_saves_and_trains(tmp_path):
    """Rows of which the padding is ignored, under a mask of the model and with weights of rows."""
    inputs = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(7, 8, mask_zero=True)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(7)(x))
    loss = RDropCrossentropy(alpha=1.0, from_logits=True, ignore=6, label_smoothing=0.1)
    model.compile(keras.optimizers.Adam(0.05), loss, metrics=[TokenAccuracy(ignore=6)])
    ids = np.repeat(np.array([[1, 2, 3, 0], [4, 5, 6, 6]]), 2, axis=0)
    weights = np.array([1.0, 1, 2, 2])
    before = model.evaluate(ids, ids, sample_weight=weights, verbose=0)
    losses = rdrop_losses(ids, softmax(value(model(ids)).astype("float64")), 1, 0.1)
    counted = (ids != 0) & (ids != 6)
    expected = (losses * weights[:, None])[counted].sum() / counted.sum()
    assert before[0] == pytest.approx(expected, rel=1e-4)
    model.fit(ids, ids, sample_weight=weights, epochs=30, verbose=0, shuffle=False)
    after = model.evaluate(ids, ids, verbose=0)
    assert after[0] < 0.6 * before[0] and after[1] == 1
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again.evaluate(ids, ids, verbose=0), after, rtol=1e-5)


@pytest.mark.parametrize("loss", [CoSENT(), SimCSE()], ids=["CoSENT", "SimCSE"])
def test_batches_of_unknown_size_train(loss):
    """As `fit` traces them on TensorFlow."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    model.compile(keras.optimizers.Adam(0.05), loss)
    x = normal(8, 3)
    x[1::2] = x[::2] + 0.1 * x[1::2]
    labels = np.repeat([0, 1, 2, 3], 2)
    assert model.evaluate(x, labels, verbose=0) == pytest.approx(
        float(value(loss(labels, model(x)))), rel=1e-4
    )
    history = model.fit(x, labels, epochs=10, verbose=0, shuffle=False, batch_size=8).history
    assert history["loss"][-1] < history["loss"][0]


class Tracked(Loss):
    """The mean of its input, which it also tracks, as what `migrate` writes for `add_metric`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.level_metric = keras.metrics.Mean("level")

    def compute_loss(self, inputs, mask=None):
        level = keras.ops.mean(inputs)
        self.level_metric.update_state(level)
        return level


def test_metrics_that_layers_track_are_reported():
    x = keras.Input((2,), dtype="int32")
    y = keras.layers.Embedding(4, 1, embeddings_initializer="ones", name="table")(x)
    y = keras.layers.Dropout(0.5, seed=0)(y)
    model = Model(x, Tracked()(y))
    model.compile(keras.optimizers.SGD(0.5))
    history = model.fit(np.ones((6, 2)), batch_size=2, epochs=3, verbose=0).history
    np.testing.assert_allclose(history["level"], history["loss"], 1e-5)
    assert len(set(history["level"])) == 3
    expected = model.get_weights()[0][1, 0]
    found = model.evaluate(np.ones((6, 2)), batch_size=2, verbose=0, return_dict=True)
    np.testing.assert_allclose([found["level"], found["loss"]], expected, 1e-5)
