"""What makes no sense is refused in one sentence, before an engine sees it; all else is taken."""

import keras
import numpy as np
import pytest

from bert4keras import layers
from bert4keras.models import Model, build_transformer_model
from bert4keras.models.checks import GatheredPositions, Ids, Length, rules_of
from bert4keras.training import TokenCrossentropy

pytestmark = pytest.mark.backend

EAGERLY = keras.backend.backend() == "tensorflow"
VOCABULARY, REACH, CLASSES = 9, 8, 3
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "hidden_act": "gelu",
    "max_position": REACH,
}
IDS = np.array([[1, 2, 3, 0], [4, 5, 0, 0]])
SEGMENTS = np.zeros_like(IDS)
LABELS = np.array([0, 2])


@pytest.fixture(scope="module")
def model():
    base = build_transformer_model(with_pool=True, **SIZES)
    head = layers.Dense(CLASSES, activation="softmax", name="Head")
    model = Model(base.inputs, head(base.output))
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=EAGERLY)
    return model


def changed(array, value, place=(1, 2), dtype=None):
    array = array.astype(dtype or array.dtype)
    array[place] = value
    return array


LONG = np.ones((2, REACH + 1), "int32")
INPUTS = {
    "id above": ([changed(IDS, 9), SEGMENTS], "'Input-Token' holds 9 at row 1, position 2, but"),
    "id below": ([changed(IDS, -1), SEGMENTS], "holds -1 at row 1.* has 9 rows: .* from 0 to 8"),
    "half an id": ([changed(IDS, 1.5, dtype="float32"), SEGMENTS], "holds 1.5 at row 1"),
    "no number": ([changed(IDS, np.nan, dtype="float32"), SEGMENTS], "holds nan"),
    "complex": ([IDS * 1j, SEGMENTS], "give whole numbers"),
    "segment": ([IDS, changed(SEGMENTS, 2)], "'Input-Segment' holds 2 .* has 2 rows"),
    "too long": ([LONG, 0 * LONG], "'Input-Token' has 9 positions, .* vectors for 8: cut"),
    "no segments": (IDS, "1 array, and the model has 2 inputs: Input-Token, Input-Segment"),
    "three": ([IDS, SEGMENTS, IDS], "3 arrays, and the model has 2 inputs"),
    "a dict": ({"Input-Token": IDS}, "the model has 2 inputs"),
    "nothing": ([IDS[:0], SEGMENTS[:0]], "got no samples"),
    "nested lists": ([[[1, 99]], [[0, 0]]], "holds 99 at row 0, position 1"),
}


@pytest.mark.parametrize("name", INPUTS)
def test_inputs_that_make_no_sense(model, name):
    x, message = INPUTS[name]
    with pytest.raises(ValueError, match=message):
        model.predict(x, verbose=0)
    with pytest.raises(ValueError, match=f"predict_on_batch.*{message}"):
        model.predict_on_batch(x)
    for call in (model.fit, model.evaluate, model.train_on_batch, model.test_on_batch):
        with pytest.raises(ValueError, match=message):
            call(x, LABELS)
    with pytest.raises(ValueError, match=message):
        model.fit([IDS, SEGMENTS], LABELS, validation_data=(x, LABELS))


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_batches_that_make_no_sense(model):
    good = ([IDS, SEGMENTS], LABELS)
    for bad, message in [
        (([changed(IDS, 9), SEGMENTS], LABELS), "holds 9"),
        ((IDS, LABELS), "the model has 2 inputs"),
        (([IDS, SEGMENTS], LABELS + 1), "hold the label 3 at row 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.fit(iter([bad]), verbose=0)
    with pytest.raises(ValueError, match="holds 9"):
        model.fit(iter([good] * 6 + [([changed(IDS, 9), SEGMENTS], LABELS)]), verbose=0)


def test_numbers_of_samples(model):
    x = [IDS, SEGMENTS]
    for call in (model.predict, model.evaluate, model.fit):
        for size in (0, -1, 1.5):
            with pytest.raises(
                ValueError, match=f"batch_size={size}: give an integer of at least 1"
            ):
                call(x, batch_size=size)
    for nothing in ((), (None, None)[:0]):
        with pytest.raises(ValueError, match="empty validation_data"):
            model.fit(x, LABELS, validation_data=nothing)
    with pytest.raises(ValueError, match="no samples"):
        model.fit(x, LABELS, validation_data=([IDS[:0], SEGMENTS[:0]], LABELS[:0]))


LOSSES = {
    "name": ("sparse_categorical_crossentropy", None),
    "function": (keras.losses.sparse_categorical_crossentropy, None),
    "class": (keras.losses.SparseCategoricalCrossentropy(ignore_class=-1), -1),
    "tokens": (TokenCrossentropy(ignore=-100), -100),
}


@pytest.mark.parametrize("name", LOSSES)
def test_labels_of_no_class(name):
    loss, ignore = LOSSES[name]
    x = keras.Input((None,), dtype="int32")
    scores = layers.Dense(CLASSES, activation="softmax", name="Head")
    model = Model(x, scores(layers.Embedding(VOCABULARY, 4)(x)))
    model.compile("sgd", loss, run_eagerly=EAGERLY)
    labels = IDS % CLASSES
    for wrong in (-7, CLASSES, 0.5):
        bad = changed(labels, wrong, dtype="float32")
        for call in (model.train_on_batch, model.test_on_batch, model.fit):
            with pytest.raises(ValueError, match=rf"the label {float(wrong)} at .* 'Head' has 3"):
                call(IDS, bad)
    if ignore is not None:
        model.train_on_batch(IDS, changed(labels, ignore))
    model.train_on_batch(IDS, labels.astype("float32"))


def test_labels_of_a_chain_may_be_anything_at_padding():
    x = keras.Input((None,), dtype="int32")
    crf = layers.ConditionalRandomField()
    model = Model(x, crf(layers.Dense(CLASSES)(layers.Embedding(9, 4, mask_zero=True)(x))))
    model.compile("sgd", crf.sparse_loss, run_eagerly=EAGERLY)
    labels = IDS % CLASSES
    model.train_on_batch(IDS, changed(labels, 2, (0, 3)))
    with pytest.raises(ValueError, match="the label 3 at row 0, position 0"):
        model.train_on_batch(IDS, changed(labels, 3, (0, 0)))


def test_what_has_always_been_taken_is_taken(model):
    expected = model.predict([IDS, SEGMENTS], verbose=0)
    for x in (
        [IDS.astype("float32"), SEGMENTS],
        [IDS.astype("uint8"), SEGMENTS.astype(bool)],
        (IDS.tolist(), SEGMENTS.tolist()),
        {"Input-Token": IDS, "Input-Segment": SEGMENTS},
        [keras.ops.convert_to_tensor(IDS), keras.ops.convert_to_tensor(SEGMENTS)],
    ):
        np.testing.assert_allclose(model.predict(x, verbose=0), expected, atol=1e-6)
    weights = np.array([1.0, 0.0])
    for labels in (LABELS[:, None], LABELS.astype("float32")):
        model.fit([IDS, SEGMENTS], labels, sample_weight=weights, verbose=0)
        model.evaluate([IDS, SEGMENTS], labels, batch_size=1, verbose=0)


def test_rules_are_read_off_the_model():
    model = build_transformer_model(with_mlm=True, masked_positions=True, **SIZES)
    expected = [
        (0, Ids("Embedding-Token", 9, 0)),
        (1, Ids("Embedding-Segment", 2)),
        (0, Length("Embedding-Position", 8)),
        (1, Length("Embedding-Position", 8)),
        (2, GatheredPositions("MLM-Positions", (0, 1))),
    ]
    assert sorted(rules_of(model), key=repr) == sorted(expected, key=repr)
    with pytest.raises(ValueError, match="looks for it in 4 positions"):
        model.predict([IDS, SEGMENTS, np.array([[0], [4]])])

    own = build_transformer_model(custom_position_ids=True, **SIZES)
    assert (2, Ids("Embedding-Position", 8)) in rules_of(own)
    assert not any(isinstance(rule, Length) for _, rule in rules_of(own))
    kept = build_transformer_model(keep_tokens=[0, 3, 4], **SIZES)
    assert (0, Ids("Embedding-Token", 3, 0)) in rules_of(kept)
    t5 = build_transformer_model(model="t5", **{k: v for k, v in SIZES.items() if "max" not in k})
    assert set(rules_of(t5)) == {(i, Ids("Embedding-Token", 9, 0)) for i in (0, 1)}
    outer = [keras.Input((None,)) for _ in range(2)]
    casts = [keras.ops.cast(x, "int32") for x in outer]
    assert rules_of(Model(outer, model.get_layer("Embedding-Token")(casts[1]))) == [
        (1, Ids("Embedding-Token", 9, 0))
    ]
    bare = build_transformer_model(**SIZES)
    assert (0, Length("Embedding-Position", 8)) in rules_of(Model(outer, bare(casts)))


@pytest.mark.parametrize("name", ["bert", "t5.1.1", "gpt2"])
def test_examples_are_valid(name):
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
    sizes |= {"vocab_size": 11, "num_hidden_layers": 1, "max_position_embeddings": 5}
    masked = {"with_mlm": True, "masked_positions": True} if name == "bert" else {}
    built = build_transformer_model(model=name, hidden_act="gelu", **sizes, **masked)
    for arrays, rows in zip(built.examples(), (2, 3), strict=True):
        built.rules.check("predict", arrays)
        assert [x.shape[0] for x in arrays] == [rows] * len(built.inputs)
        assert arrays[0].max() > 2 and not arrays[0][0, -2:].any()


def test_examples_are_drawn_for_any_input():
    inputs = [keras.Input((None, 3), name="x"), keras.Input((), dtype="int32", name="n")]
    x, n = Model(inputs, inputs[0] * 2).examples()[0]
    assert x.shape == (2, 9, 3) and x.std() > 0.5 and n.tolist() == [0, 0]
