"""Layers at the ends of models: labels, spans, pooling, batches; gated and relative attention."""

from itertools import pairwise, product

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from keras import ops
from losses import gradients, pointer_crossentropy

from bert4keras import layers
from bert4keras.backend import compiled
from bert4keras.snippets import ViterbiDecoder

pytestmark = pytest.mark.backend

NUMPY = ops.convert_to_numpy
COMPILED = keras.backend.backend() != "torch"
BATCH, LENGTH, LABELS = 5, 5, 3
# No padding, padding, padding in front, holes, and nothing but padding.
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [0, 1, 0, 1, 0], [0] * 5], bool)


def policies(*names):
    """Run a test under dtype policies."""
    return pytest.mark.parametrize("policy", names, indirect=True)


@pytest.fixture
def policy(request):
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy("float32")


@pytest.fixture(scope="module")
def chain():
    """A compiled CRF and its compiled decoder, on scores in which minus infinity is padding."""
    crf = layers.ConditionalRandomField()
    inputs = keras.Input((LENGTH, LABELS))
    outputs = crf(inputs)
    model = keras.Model(inputs, outputs)
    model.compile("sgd", crf.sparse_loss, jit_compile=COMPILED)
    decoder = keras.Model(inputs, crf.decode(outputs))
    decoder.compile(jit_compile=COMPILED)
    return crf, model, decoder


@pytest.mark.parametrize("kind", ["ConditionalRandomField", "MaximumEntropyMarkovModel"])
@pytest.mark.parametrize("wrong", [-100, -1, LABELS, 1000000])
def test_labels_that_are_none(kind, wrong):
    """At padding they mean nothing; elsewhere they are an error, and NaN where none can be raised.

    PyTorch refused the first label that is too large at padding as well.
    """
    layer = getattr(layers, kind)()
    scores = np.random.default_rng(0).normal(size=(3, LENGTH, LABELS)).astype("float32")
    scores = layer(ops.convert_to_tensor(scores), mask=ops.convert_to_tensor(MASK[:3]))
    labels = np.where(MASK[:3], 1, wrong)
    expected = NUMPY(layer.sparse_loss(np.ones_like(labels), scores))
    for ids in (labels, labels[..., None], labels.astype("float32")):
        np.testing.assert_array_equal(NUMPY(layer.sparse_loss(ids, scores)), expected)
        assert np.isfinite(NUMPY(layer.sparse_accuracy(ids, scores)))
    labels[1, 2] = wrong
    message = f"got {wrong} at position 2 of row 1, which is not masked"
    for function in (layer.sparse_loss, layer.sparse_accuracy):
        with pytest.raises(ValueError, match=message):
            function(labels, scores)
    if COMPILED:
        found = NUMPY(compiled(layer.sparse_loss, layer)(ops.convert_to_tensor(labels), scores))
        assert np.isnan(found if found.ndim == 0 else found[1])
        if found.ndim:
            np.testing.assert_allclose(found[[0, 2]], expected[[0, 2]], rtol=1e-5)


@pytest.mark.parametrize("kind", ["ConditionalRandomField", "MaximumEntropyMarkovModel"])
def test_labels_of_batches_of_several_lengths(kind):
    layer = getattr(layers, kind)()
    inputs = keras.Input((None, LABELS))
    model = keras.Model(inputs, layer.decode(layer(inputs)))
    rng = np.random.default_rng(0)
    for length in (LENGTH, 3, 8, LENGTH):
        scores = rng.normal(size=(2, length, LABELS)).astype("float32")
        expected = NUMPY(layer.decode(ops.convert_to_tensor(scores)))
        assert (NUMPY(model.predict_on_batch(scores)) == expected).all()


def path_scores(scores, trans):
    """The score of every path through one text, by enumeration."""
    labels = range(len(trans))
    return {
        path: sum(scores[t, i] for t, i in enumerate(path))
        + sum(trans[i, j] for i, j in pairwise(path))
        for path in product(labels, repeat=len(scores))
    }


@given(
    scores=hnp.arrays("float32", (BATCH, LENGTH, LABELS), elements=st.integers(-4, 4)),
    trans=hnp.arrays("float32", (LABELS, LABELS), elements=st.integers(-4, 4)),
    mask=hnp.arrays(bool, (BATCH, LENGTH)),
    labels=hnp.arrays("int32", (BATCH, LENGTH), elements=st.integers(0, LABELS - 1)),
)
@settings(max_examples=25, deadline=None)
def test_crf_agrees_with_enumeration(chain, scores, trans, mask, labels):
    """Hidden positions, wherever they are, count as if they were cut out of the text."""
    crf, model, decoder = chain
    crf.set_weights([trans])
    masked = np.where(mask[..., None], scores, -np.inf).astype("float32")
    found = decoder.predict_on_batch(masked)
    expected_loss = []
    for i in range(BATCH):
        visible = scores[i, mask[i]]
        assert (found[i, ~mask[i]] == 0).all()
        if not len(visible):
            expected_loss.append(0)
            continue
        paths = path_scores(visible, trans)
        best = tuple(int(label) for label in found[i, mask[i]])
        assert paths[best] == max(paths.values())
        assert (found[i, mask[i]] == ViterbiDecoder(trans).decode(visible)).all()
        norm = np.log(np.sum(np.exp(np.array(list(paths.values()), "float64"))))
        expected_loss.append(norm - paths[tuple(labels[i, mask[i]].tolist())])
    loss = float(model.test_on_batch(masked, labels))
    assert loss == pytest.approx(np.mean(expected_loss), abs=1e-4)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.ConditionalRandomField(lr_multiplier=2),
        lambda: layers.MaximumEntropyMarkovModel(),
        lambda: layers.MaximumEntropyMarkovModel(hidden_dim=2),
    ],
)
def test_decoding_arrays_is_viterbi_of_each_row(layer):
    layer = layer()
    rng = np.random.default_rng(0)
    emissions = rng.normal(size=(BATCH, LENGTH, LABELS)).astype("float32")
    found = NUMPY(layer.decode(emissions, mask=ops.convert_to_tensor(MASK)))
    assert found.dtype == "int32"
    decoder = ViterbiDecoder(NUMPY(layer.trans))
    for row, scores, visible in zip(found, emissions, MASK, strict=True):
        assert not visible.any() or (row[visible] == decoder.decode(scores[visible])).all()
        assert (row[~visible] == 0).all()


def test_transitions_start_independently_of_their_multiplier():
    """The weights are smaller by what they are multiplied with; else 100 would drown emissions."""
    for lr_multiplier in (1, 100):
        crf = layers.ConditionalRandomField(lr_multiplier)
        crf.build((None, None, 50))
        trans = NUMPY(crf.trans)
        np.testing.assert_allclose(trans, lr_multiplier * NUMPY(crf.weights[0]), rtol=1e-6)
        assert 0.2 < np.abs(trans).max() <= np.sqrt(6 / 100)


@pytest.mark.skipif(not COMPILED, reason="PyTorch runs without a graph")
def test_the_graph_does_not_grow_with_the_length():
    crf = layers.ConditionalRandomField()
    crf.build((None, None, 3))

    def size(length):
        x, y = np.zeros((2, length, 3), "float32"), np.zeros((2, length), "int32")

        def train_and_decode(x, y):
            return crf.sparse_loss(y, x), crf.best_labels(x)

        if keras.backend.backend() == "jax":
            import jax

            return len(jax.make_jaxpr(train_and_decode)(x, y).eqns)
        import tensorflow as tf

        graph = tf.function(train_and_decode).get_concrete_function(x, y).graph
        return len(graph.get_operations())

    assert size(64) == size(8)


def tagger(layer, n_tokens=4, n_labels=3):
    token_ids = keras.Input((None,), dtype="int32")
    hidden = layers.Embedding(n_tokens, 16, mask_zero=True)(token_ids)
    scores = layer(keras.layers.Dense(n_labels)(hidden))
    return token_ids, scores


def alternating(lengths):
    """Tokens 1 and 2; each 2 is labelled 1, 2, 1, 2 in turns, which emissions alone cannot tell."""
    x = np.zeros((len(lengths), max(lengths)), "int32")
    y = np.zeros_like(x)
    for row, length in enumerate(lengths):
        x[row, :length] = 2
        y[row, :length] = np.arange(length) % 2 + 1
        x[row, 0] = 1
    return x, y


@policies("mixed_bfloat16", "mixed_float16")
@pytest.mark.parametrize(
    "make", [layers.ConditionalRandomField, layers.MaximumEntropyMarkovModel], ids=["CRF", "MEMM"]
)
def test_a_tagger_learns_what_only_transitions_can_tell(policy, make):
    keras.utils.set_random_seed(0)
    layer = make()
    token_ids, scores = tagger(layer)
    assert scores.dtype == "float32"
    model = keras.Model(token_ids, scores)
    # The accuracy of a MEMM needs weights, which metrics do not get on JAX.
    metrics = [layer.sparse_accuracy] if make is layers.ConditionalRandomField else None
    model.compile(keras.optimizers.Adam(0.1), layer.sparse_loss, metrics=metrics)
    x, y = alternating([6, 5, 4, 6, 3, 6, 2, 1])
    history = model.fit(x, y, batch_size=4, epochs=25, verbose=0).history
    assert np.isfinite(history["loss"]).all() and history["loss"][-1] < history["loss"][0] / 4
    assert np.isfinite(NUMPY(layer.trans)).all()
    found = keras.Model(token_ids, layer.decode(scores)).predict(x, verbose=0)
    assert (found == np.where(x > 0, y, 0)).all()


@pytest.mark.parametrize("train", ["fit", "train_on_batch"])
def test_the_accuracy_of_a_memm_is_never_that_of_old_weights(train):
    """Keras on JAX compiles metrics with the weights as constants: better no number than that."""
    memm = layers.MaximumEntropyMarkovModel()
    token_ids, scores = tagger(memm)
    model = keras.Model(token_ids, scores)
    model.compile("adam", memm.sparse_loss, metrics=[memm.sparse_accuracy])
    x, y = alternating([5, 3])
    if keras.backend.backend() == "jax":
        with pytest.raises(RuntimeError, match=r"leave it out of compile\(\)"):
            getattr(model, train)(x, y)
    else:
        getattr(model, train)(x, y)
        expected = memm.sparse_accuracy(y, model.predict(x, verbose=0))
        assert model.evaluate(x, y, verbose=0)[1] == pytest.approx(float(expected))


def test_a_tagger_is_saved_and_loaded(tmp_path):
    """The loss is a method of a layer: load with compile=False, compile anew."""
    crf = layers.ConditionalRandomField(lr_multiplier=3)
    token_ids, scores = tagger(crf)
    model = keras.Model(token_ids, [scores, crf.decode(scores)])
    keras.Model(token_ids, scores).compile("adam", crf.sparse_loss)
    x = np.array([[1, 2, 3, 0], [2, 0, 0, 0]])
    expected = model.predict(x, verbose=0)
    model.save(tmp_path / "tagger.keras")
    loaded = keras.models.load_model(tmp_path / "tagger.keras", compile=False)
    for ours, theirs in zip(loaded.predict(x, verbose=0), expected, strict=True):
        assert np.array_equal(ours, theirs)
    assert loaded.get_layer(crf.name).lr_multiplier == 3


@policies("float32", "mixed_float16")
@pytest.mark.parametrize("make", [layers.GlobalPointer, layers.EfficientGlobalPointer])
def test_a_pointer_learns_to_find_spans(policy, make):
    """Spans run from a token 1 to the next 2 (kind 0), and over each token 3 (kind 1)."""
    keras.utils.set_random_seed(0)
    token_ids = keras.Input((None,), dtype="int32")
    hidden = layers.Embedding(5, 16, mask_zero=True)(token_ids)
    scores = make(heads=2, head_size=16)(hidden)
    assert scores.shape == (None, 2, None, None)

    model = keras.Model(token_ids, scores)
    model.compile(keras.optimizers.Adam(0.03), pointer_crossentropy)
    x = np.array([[1, 4, 2, 3, 4], [4, 3, 1, 2, 0], [3, 4, 4, 0, 0], [0, 0, 0, 0, 0]])
    y = np.zeros((4, 2, 5, 5), "float32")
    y[0, 0, 0, 2] = y[1, 0, 2, 3] = y[0, 1, 3, 3] = y[1, 1, 1, 1] = y[2, 1, 0, 0] = 1
    history = model.fit(np.tile(x, (10, 1)), np.tile(y, (10, 1, 1, 1)), 4, 6, 0).history
    assert np.isfinite(history["loss"]).all()
    assert ((model.predict(x, verbose=0).astype("float32") > 0) == y).all()


HEADS = {
    "crf": lambda: layers.ConditionalRandomField(),
    "memm": lambda: layers.MaximumEntropyMarkovModel(hidden_dim=2),
    "gp": lambda: layers.GlobalPointer(2, 4),
    "egp": lambda: layers.EfficientGlobalPointer(2, 4),
    "gau": lambda: layers.GatedAttentionUnit(8, 4, attention_dropout=0.1),
    "gau softmax": lambda: layers.GatedAttentionUnit(8, 4, normalization="softmax_plus"),
    "mean": lambda: layers.GlobalAveragePooling1D(),
    "max": lambda: layers.GlobalMaxPooling1D(),
    "root": lambda: layers.GlobalSquareRootPooling1D(),
    "weighted": lambda: layers.PositionWeightedPooling1D(),
    "last": lambda: layers.LastVisibleToken(),
}


def loss_of(layer, x, mask):
    """A number that depends on everything the layer gives for visible positions."""
    if isinstance(layer, layers.LabelChain):
        labels = ops.convert_to_tensor(np.ones((BATCH, LENGTH), "int32"))
        return ops.sum(layer.sparse_loss(labels, layer(x, mask=mask)))
    output = layer(x, mask=mask)
    if isinstance(layer, layers.GlobalPointer):
        output = pointer_crossentropy(ops.zeros_like(output), output)
    return ops.sum(ops.cast(output, "float32"))


@pytest.mark.parametrize("name", HEADS)
@policies("mixed_bfloat16", "mixed_float16")
def test_no_mask_gives_nan(policy, name):
    """Neither in outputs nor in gradients, and half precision stays near float32."""
    x = np.random.default_rng(0).normal(size=(BATCH, LENGTH, 6)).astype("float32")
    layer = HEADS[name]()
    layer.build(x.shape)
    reference = type(layer).from_config(layer.get_config() | {"dtype": "float32"})
    reference.build(x.shape)
    reference.set_weights([NUMPY(w) for w in layer.weights[: len(reference.weights)]])
    for mask in (None, ops.convert_to_tensor(MASK)):
        output = layer(x, mask=mask)
        expected = NUMPY(reference(x, mask=mask))
        output = NUMPY(ops.cast(output, "float32"))
        assert not np.isnan(output).any() and not np.isnan(expected).any()
        assert (np.isinf(output) == np.isinf(expected)).all()
        at = np.isfinite(expected)
        assert np.abs(output[at] - expected[at]).max(initial=0) < 5e-2

        def total(x, mask=mask):
            return loss_of(layer, x, mask)

        for gradient in gradients(total, [ops.convert_to_tensor(x)], layer.trainable_variables):
            assert gradient is None or np.isfinite(gradient).all()


def test_pooling_leaves_padding_out():
    x = np.arange(2 * 3 * 2, dtype="float32").reshape(2, 3, 2)
    mask = ops.convert_to_tensor(np.array([[True, True, False], [False, False, False]]))
    assert NUMPY(layers.GlobalAveragePooling1D()(x, mask=mask)).tolist() == [[1, 2], [0, 0]]
    assert NUMPY(layers.GlobalMaxPooling1D()(x, mask=mask)).tolist() == [[2, 3], [0, 0]]


VISIBLE = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]], "bool")
POOLINGS = {
    "GlobalSquareRootPooling1D": lambda x: x.sum(0) / np.sqrt(len(x)),
    "PositionWeightedPooling1D": lambda x: np.average(x, axis=0, weights=np.arange(len(x)) + 1),
    "LastVisibleToken": lambda x: x[-1],
}


@pytest.mark.parametrize("name", POOLINGS)
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("masked", [True, False])
def test_poolings_of_sentence_vectors(name, data_format, masked):
    x = np.random.default_rng(0).normal(size=(3, 4, 5)).astype("float32")
    rows = zip(x, (4, 2, 1) if masked else (4, 4, 4), strict=True)
    expected = [POOLINGS[name](row[:n]) for row, n in rows]
    inputs = x if data_format == "channels_last" else x.swapaxes(1, 2)
    layer = getattr(layers, name)(data_format=data_format)
    mask = ops.convert_to_tensor(VISIBLE) if masked else None
    np.testing.assert_allclose(NUMPY(layer(inputs, mask=mask)), expected, atol=1e-6)
    hidden = ops.convert_to_tensor(np.zeros((3, 4), "bool"))
    assert not NUMPY(layer(inputs, mask=hidden)).any()


def test_batches_are_split_and_joined_in_a_model():
    """With masks, and with a batch size that the graph does not know."""
    inputs = keras.Input((None, 2))
    masked = keras.layers.Masking()(inputs)
    parts = layers.BatchSplit(3)(masked)
    joined = layers.BatchConcat()(parts)
    model = keras.Model(inputs, [layers.GlobalAveragePooling1D()(joined), parts[0], parts[2]])
    assert parts[0].shape == (None, None, 2)
    for batch in (3, 7):
        x = np.random.default_rng(0).normal(size=(batch, 4, 2)).astype("float32")
        x[0, 2:] = 0
        mean, first, last = model.predict_on_batch(x)
        np.testing.assert_allclose(mean[0], x[0, :2].mean(0), atol=1e-6)
        np.testing.assert_allclose(mean[1:], x[1:].mean(1), atol=1e-6)
        rows = -(-batch // 3)
        assert len(first) == rows and len(last) == batch - 2 * rows
    weighted = layers.BatchSplit([1, 1, 2])(np.zeros((8, 1), "float32"))
    assert [len(part) for part in weighted] == [2, 2, 4]


def test_t5_positions_use_their_initializer():
    """The original takes one and ignores it."""
    layer = layers.RelativePositionEmbeddingT5(8, 2, embeddings_initializer="ones")
    x = np.zeros((1, 3, 1), "float32")
    assert (NUMPY(layer([x, x])) == 1).all()


def test_relative_positions_know_their_shapes():
    query, key = keras.Input((3, 8)), keras.Input((None, 8))
    assert layers.RelativePositionEmbedding(9, 4)([query, key]).shape == (3, None, 4)
    assert layers.RelativePositionEmbeddingT5(8, 2)([key, query]).shape == (None, 3, 2)


@pytest.mark.parametrize("normalization", ["squared_relu", "softmax_plus"])
def test_gated_attention_takes_the_masks_of_this_library(normalization):
    """`LMMask` gives (1, 1, length, length); position t then does not see what comes after it."""
    layer = layers.GatedAttentionUnit(8, 4, normalization=normalization)
    positions = layers.SinusoidalPositionEmbedding(4, "zero")
    x = np.random.default_rng(0).normal(size=(2, 5, 6)).astype("float32")
    changed = x.copy()
    changed[:, 3:] += 1

    def run(x):
        x = ops.convert_to_tensor(x)
        bias = layers.LMMask()(ops.zeros((2, 5)))
        return NUMPY(layer([x, bias, positions(x)], a_bias=True, p_bias="rotary"))

    # squared_relu divides by the number of visible keys, which the mask alone decides.
    first, second = run(x), run(changed)
    np.testing.assert_allclose(first[:, :3], second[:, :3], atol=1e-6)
    assert np.abs(first[:, 3:] - second[:, 3:]).max() > 1e-4


def test_a_model_of_all_heads_is_saved_and_loaded(tmp_path):
    """Bit-equal, in safe mode, without custom_objects."""
    x = keras.Input((None, 6))
    hidden = keras.layers.Masking()(x)
    bias = layers.LMMask()(x[..., 0])
    sinusoidal = layers.SinusoidalPositionEmbedding(4, "zero")(x)
    hidden = layers.GatedAttentionUnit(8, 4, "gelu", attention_dropout=0.1)(
        [hidden, bias, sinusoidal], a_bias=True, p_bias="rotary"
    )
    t5 = layers.RelativePositionEmbeddingT5(8, 2, 20, False, "normal")([hidden, hidden])
    nezha = layers.RelativePositionEmbedding(9, 4, "Sinusoidal")([hidden, hidden])
    hidden = layers.MultiHeadAttention(2, 3, out_dim=6)([hidden] * 3 + [t5], p_bias="t5_relative")
    hidden = layers.MultiHeadAttention(2, 4, out_dim=6)(
        [hidden] * 3 + [nezha], p_bias="typical_relative"
    )
    chains = [
        make()(hidden) for make in (layers.ConditionalRandomField, layers.MaximumEntropyMarkovModel)
    ]
    outputs = [
        *chains,
        layers.GlobalPointer(2, 4, RoPE=False)(hidden),
        layers.EfficientGlobalPointer(2, 4, tril_mask=False)(hidden),
        layers.GlobalAveragePooling1D()(hidden),
        layers.GlobalMaxPooling1D()(hidden),
        layers.BatchConcat()(layers.BatchSplit([1, 2])(hidden)),
        layers.GatedAttentionUnit(4, 2, self_attention=False)([hidden] * 3),
    ]
    model = keras.Model(x, outputs)
    data = np.random.default_rng(0).normal(size=(3, 5, 6)).astype("float32")
    data[1, 3:] = 0
    expected = model.predict_on_batch(data)
    model.save(tmp_path / "heads.keras")
    loaded = keras.models.load_model(tmp_path / "heads.keras")
    for ours, theirs in zip(loaded.predict_on_batch(data), expected, strict=True):
        assert np.array_equal(ours, theirs)


def emissions(*shape):
    return np.zeros(shape, "float32")


def built_crf():
    layer = layers.ConditionalRandomField(name="crf")
    layer.build((None, None, 3))
    return layer


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: layers.GlobalPointer(0, 4), "heads=0.*at least 1"),
        (lambda: layers.EfficientGlobalPointer(2, 2.5), "head_size=2.5"),
        (lambda: layers.GlobalPointer(2, 5), "head_size=5: with RoPE it must be even"),
        (lambda: layers.GatedAttentionUnit(8, -1), "key_size=-1"),
        (lambda: gated(1, p_bias="rotery"), "None or 'rotary', not 'rotery'"),
        (lambda: gated(1, a_bias=True), r"takes \[x\], then the attention"),
        (lambda: gated(1, self_attention=False), r"takes \[query, key, value\]"),
        (lambda: layers.RelativePositionEmbedding(0, 4), "input_dim=0"),
        (lambda: layers.RelativePositionEmbeddingT5(2, 4), "at least 4 buckets"),
        (lambda: layers.RelativePositionEmbeddingT5(32, 4, max_distance=8), "beyond those"),
        (lambda: layers.BatchSplit(0), "parts=0"),
        (lambda: layers.BatchSplit([]), "parts=None"),
        (lambda: layers.BatchSplit([1, 0.5]), "parts=0.5"),
        (lambda: layers.GlobalMaxPooling1D("channels"), "data_format"),
        (lambda: layers.ConditionalRandomField(0), "lr_multiplier=0"),
        (lambda: layers.MaximumEntropyMarkovModel(hidden_dim=0), "hidden_dim=0"),
        (lambda: layers.ConditionalRandomField()(emissions(2, 3)), r"not the shape \(2, 3\)"),
        (
            lambda: built_crf().sparse_loss(emissions(2, 4, 3), emissions(2, 4, 3)),
            r"ids \(batch, length\) and must .* \(2, 4\) for .* they have the shape \(2, 4, 3\)",
        ),
        (
            lambda: built_crf().sparse_loss(emissions(2, 5), emissions(2, 4, 3)),
            r"must have the shape \(2, 4\).* they have the shape \(2, 5\)",
        ),
        (
            lambda: built_crf().dense_loss(emissions(2, 4), emissions(2, 4, 3)),
            r"one-hot vectors \(batch, length, labels\)",
        ),
        (
            lambda: built_crf().dense_accuracy(emissions(2, 4), emissions(2, 4, 3)),
            r"one-hot vectors \(batch, length, labels\)",
        ),
    ],
)
def test_wrong_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def gated(n_inputs, self_attention=True, **arguments):
    layer = layers.GatedAttentionUnit(8, 4, self_attention=self_attention)
    return layer([keras.Input((3, 8))] * n_inputs, **arguments)
