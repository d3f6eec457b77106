"""Padding masks: kept where tensors are merged, and missed where they are lost on the way."""

import warnings

import keras
import numpy as np
import pytest
from keras import ops

from bert4keras import layers

pytestmark = pytest.mark.backend

NUMPY = ops.convert_to_numpy
IDS = np.array([[3, 1, 2, 0, 0], [4, 2, 0, 0, 0]], "int32")
OTHER_IDS = np.array([[3, 1, 0, 0, 0], [4, 2, 2, 1, 0]], "int32")
FEATURES = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")

MERGES = {
    "Add": lambda x, y: x + y,
    "Subtract": lambda x, y: x - y,
    "Multiply": lambda x, y: x * y,
    "Average": lambda x, y: (x + y) / 2,
    "Maximum": np.maximum,
    "Minimum": np.minimum,
    "Concatenate": lambda x, y: np.concatenate([x, y], -1),
}


def tokens_and_features():
    """Two inputs, vectors of tokens that have a mask, and features that have none."""
    token_ids = keras.Input((None,), dtype="int32")
    features = keras.Input((None, 4))
    embedding = layers.Embedding(5, 4, mask_zero=True, embeddings_initializer="normal")
    return [token_ids, features], embedding(token_ids), features


def mean_of_visible(x, visible):
    return (x * visible[..., None]).sum(1) / visible.sum(1, keepdims=True)


def merged_by_function(name, tensors):
    return getattr(layers, name.lower())(tensors)


def merged_by_layer(name, tensors):
    return getattr(layers, name)()(tensors)


@pytest.mark.parametrize("merged", [merged_by_layer, merged_by_function])
def test_a_merge_keeps_the_mask_of_one_of_its_inputs(merged):
    inputs, vectors, features = tokens_and_features()
    outputs = {"vectors": vectors}
    for name in MERGES:
        for order, tensors in {"<": [vectors, features], ">": [features, vectors]}.items():
            y = merged(name, tensors)
            outputs[name + order] = [y, layers.GlobalAveragePooling1D()(y)]
    found = keras.Model(inputs, outputs).predict_on_batch([IDS, FEATURES])
    for name, function in MERGES.items():
        for order, (x, y) in {"<": (found["vectors"], FEATURES), ">": (FEATURES, 0)}.items():
            result, pooled = found[name + order]
            y = found["vectors"] if order == ">" else y
            np.testing.assert_allclose(result, function(x, y), atol=1e-6)
            np.testing.assert_allclose(pooled, mean_of_visible(result, IDS > 0), atol=1e-6)


def test_two_masks_hide_what_either_hides_and_no_value_changes():
    ids, more_ids = (keras.Input((None,), dtype="int32") for _ in range(2))
    embedding = layers.Embedding(5, 4, mask_zero=True, embeddings_initializer="normal")
    x, y = embedding(ids), embedding(more_ids)
    merged = {name: getattr(layers, name)()([x, y]) for name in MERGES}
    pooled = {name: layers.GlobalAveragePooling1D()(z) for name, z in merged.items()}
    model = keras.Model([ids, more_ids], [x, y, merged, pooled])
    x, y, merged, pooled = model.predict_on_batch([IDS, OTHER_IDS])
    visible = (IDS > 0) & (OTHER_IDS > 0)
    for name, function in MERGES.items():
        np.testing.assert_allclose(merged[name], function(x, y), atol=1e-6)
        expected = mean_of_visible(merged[name], visible)
        np.testing.assert_allclose(pooled[name], expected, atol=1e-6)


def test_without_masks_there_is_none():
    x, y = keras.Input((None, 4)), keras.Input((None, 4))
    for name in MERGES:
        assert getattr(getattr(layers, name)()([x, y]), "_keras_mask", None) is None


def test_sequences_and_batches_are_joined_with_their_masks():
    x, y = np.ones((2, 2, 3), "float32"), np.ones((2, 1, 3), "float32")
    mask = ops.convert_to_tensor([[True, False], [True, True]])
    for axis in (1, -2):
        found = layers.Concatenate(axis=axis).compute_mask([x, y], [mask, None])
        assert NUMPY(found).tolist() == [[True, False, True], [True, True, True]]
    found = layers.Concatenate(axis=0).compute_mask([x, x], [None, mask])
    assert NUMPY(found).tolist() == [[True, True], [True, True], [True, False], [True, True]]
    assert layers.Concatenate(axis=1).compute_mask([x, y], [None, None]) is None


def test_inputs_of_fewer_axes_are_merged_with_every_position():
    inputs, vectors, _ = tokens_and_features()
    condition = keras.Input((4,))
    names = ("Add", "Multiply", "Maximum", "Minimum")
    merged = [getattr(layers, name)()([vectors, condition]) for name in names]
    pooled = [layers.GlobalAveragePooling1D()(x) for x in merged]
    model = keras.Model([inputs[0], condition], [vectors, merged, pooled])
    vectors, merged, pooled = model.predict_on_batch([IDS, FEATURES[:, 0]])
    for name, x, mean in zip(names, merged, pooled, strict=True):
        np.testing.assert_allclose(x, MERGES[name](vectors, FEATURES[:, :1]), atol=1e-6)
        np.testing.assert_allclose(mean, mean_of_visible(x, IDS > 0), atol=1e-6)


def test_merges_save_and_load(tmp_path):
    inputs, x, features = tokens_and_features()
    for name in MERGES:
        x = getattr(layers, name)(name=f"my_{name}")([x, features])
    x = layers.ConditionalRandomField()(x)
    model = keras.Model(inputs, x)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    expected = model.predict_on_batch([IDS, FEATURES])
    np.testing.assert_array_equal(loaded.predict_on_batch([IDS, FEATURES]), expected)
    assert type(loaded.get_layer("my_Multiply")) is layers.Multiply


def test_copy_mask():
    inputs, vectors, _ = tokens_and_features()
    doubled = layers.CopyMask()([vectors * 2, vectors])
    model = keras.Model(inputs[0], [vectors, layers.GlobalAveragePooling1D()(doubled)])
    vectors_now, pooled = model.predict_on_batch(IDS)
    np.testing.assert_allclose(pooled, mean_of_visible(2 * vectors_now, IDS > 0), atol=1e-6)


# --- what loses it


LOSSES = {
    "arithmetic": lambda x, features: x * 2,
    "a sum of tensors": lambda x, features: x + features,
    "a slice": lambda x, features: x[:, 1:],
    "an operation": lambda x, features: ops.concatenate([x, features]),
    "a merge of Keras": lambda x, features: keras.layers.Concatenate()([x, features]),
    "a function of Keras": lambda x, features: keras.layers.add([x, features]),
    "then more layers": lambda x, features: layers.Dense(4)(keras.layers.Dropout(0.1)(x - 1)),
    "all but one": lambda x, features: layers.Add()([x * 2, features]),
}
READERS = {
    "ConditionalRandomField": lambda x: layers.ConditionalRandomField()(x),
    "MaximumEntropyMarkovModel": lambda x: layers.MaximumEntropyMarkovModel()(x),
    "GlobalPointer": lambda x: layers.GlobalPointer(1, 2)(x),
    "EfficientGlobalPointer": lambda x: layers.EfficientGlobalPointer(1, 2)(x),
    "MultiHeadAttention": lambda x: layers.MultiHeadAttention(2, 2)([x, x, x]),
    "GatedAttentionUnit": lambda x: layers.GatedAttentionUnit(4, 2)(x),
    "GlobalAveragePooling1D": lambda x: layers.GlobalAveragePooling1D()(x),
    "GlobalMaxPooling1D": lambda x: layers.GlobalMaxPooling1D()(x),
    "MaskedConv1D": lambda x: layers.MaskedConv1D(2, 3, padding="same")(x),
}


@pytest.mark.parametrize("lose", LOSSES.values(), ids=LOSSES)
def test_a_lost_mask_is_missed(lose):
    _, vectors, features = tokens_and_features()
    with pytest.warns(UserWarning, match="padding mask"):
        READERS["ConditionalRandomField"](lose(vectors, features))


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_whoever_needs_a_mask_misses_it(read):
    _, vectors, _ = tokens_and_features()
    with pytest.warns(UserWarning, match="multiply"):
        read(vectors * 2)


def test_a_mask_is_missed_behind_a_model_in_a_model():
    inputs, vectors, _ = tokens_and_features()
    inner = keras.Model(inputs[0], vectors)
    token_ids = keras.Input((None,), dtype="int32")
    with pytest.warns(UserWarning, match="padding mask"):
        layers.ConditionalRandomField()(inner(token_ids) * 2)
    layers.ConditionalRandomField()(inner(token_ids))


def test_nothing_is_said_where_nothing_is_lost():
    _, vectors, features = tokens_and_features()
    visible = ops.ones_like(features[..., 0], "bool")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for read in READERS.values():
            read(vectors)
            read(features * 2)
            read(layers.Concatenate()([vectors, features]))
            read(layers.CopyMask()([vectors * 2, vectors]))
        layers.ConditionalRandomField()(vectors * 2, mask=visible)
        layers.GlobalAveragePooling1D()(layers.Add()([vectors * 2, vectors]))
        first = layers.FirstToken()(vectors)
        layers.ConditionalRandomField()(features + ops.expand_dims(first, 1))
        positions = keras.Input((3,), dtype="int32")
        layers.GlobalAveragePooling1D()(layers.GatherPositions()([vectors, positions]))
