"""Layers against the original, and what they promise on Keras 3."""

import keras
import numpy as np
import pytest
from golden import load_json
from keras import ops
from losses import gradients, pointer_crossentropy

from bert4keras import layers
from bert4keras.backend import sinusoidal_embeddings
from bert4keras.models import Model

pytestmark = pytest.mark.backend

NUMPY = ops.convert_to_numpy


def implemented(references):
    """The golden cases of the layers that there are, with their arrays."""
    folder = references / "units/layers"
    for case in load_json(folder / "layers.json")["cases"]:
        if hasattr(layers, case["class"]):
            yield case, np.load(folder / f"{case['name']}.npz")


def call_eagerly(case, arrays):
    """Build the layer of a golden case, give it its weights, and call it."""
    layer = getattr(layers, case["class"])(**case["init"])
    inputs = [ops.convert_to_tensor(arrays[f"input_{i}"]) for i in range(case["n_inputs"])]
    given = inputs if case.get("inputs_as_list") else inputs[0]
    masks = case["masks"] or [False] * len(inputs)
    masks = [ops.cast(arrays[f"mask_{i}"], "bool") if m else None for i, m in enumerate(masks)]
    arguments = dict(case["call_kwargs"])
    if case.get("call_takes_mask", False):
        arguments["mask"] = masks if case.get("inputs_as_list") else masks[0]
    if case["name"] == "embedding_dense":
        layer(np.zeros((1, 2), "int32"))
    else:
        layer(given, **arguments)
    layer.set_weights([arrays[f"weight_{i}"] for i in range(len(case["weights"]))])
    outputs = layer(given, **arguments)
    output_mask = layer.compute_mask(given, masks if case.get("inputs_as_list") else masks[0])
    return layer, keras.tree.flatten(outputs), output_mask


def test_outputs_are_those_of_the_original(references):
    worst, ran = 0.0, 0
    for case, arrays in implemented(references):
        layer, outputs, mask = call_eagerly(case, arrays)
        labels = [weight.path.removeprefix(f"{layer.name}/") for weight in layer.weights]
        assert labels == [label for label, _ in case["weights"]], case["name"]
        for i, output in enumerate(outputs):
            expected = arrays[f"output_{i}"]
            np.testing.assert_allclose(
                NUMPY(output), expected, atol=1e-5, rtol=1e-5, err_msg=case["name"]
            )
            at = np.isfinite(expected)
            worst = max(worst, float(np.abs(NUMPY(output)[at] - expected[at]).max(initial=0)))
        for i in case.get("output_masks") or []:
            found = mask[i] if isinstance(mask, list) else mask
            assert (NUMPY(found) == arrays[f"output_mask_{i}"].astype(bool)).all(), case["name"]
        ran += 1
    print(f"{ran} cases, worst difference {worst:.1e}")
    assert ran >= 140


def test_losses_metrics_and_their_gradients_are_those_of_the_original(references):
    worst, ran = {}, 0
    for case, arrays in implemented(references):
        if "functions" not in case:
            continue
        layer, (output,), _ = call_eagerly(case, arrays)
        for i, golden in enumerate(case["functions"]):
            name = golden["function"]
            y_pred = ops.convert_to_tensor(NUMPY(output))
            y_true = ops.convert_to_tensor(arrays[f"fn_{i}_y_true"])
            function = getattr(layer, name, pointer_crossentropy)
            found = {"value": NUMPY(function(y_true, y_pred))}
            if golden.get("grad_finite"):

                def total(y_pred, function=function, y_true=y_true):
                    return ops.sum(function(y_true, y_pred))

                dx, *dweights = gradients(total, [y_pred], layer.trainable_variables)
                found["grad_y_pred"] = dx
                if name != "global_pointer_crossentropy":
                    labels = [label for label, _ in case["weights"]]
                    found |= {f"grad_{k}": g for k, g in zip(labels, dweights, strict=True)}
            expected = {k for k in arrays.files if k.startswith(f"fn_{i}_")} - {f"fn_{i}_y_true"}
            assert {f"fn_{i}_{k}" for k in found} == expected, case["name"]
            for key, value in found.items():
                theirs = arrays[f"fn_{i}_{key}"]
                np.testing.assert_allclose(
                    value, theirs, atol=1e-5, rtol=1e-5, err_msg=f"{case['name']} {name} {key}"
                )
                difference = np.abs(value - theirs) / np.maximum(np.abs(theirs), 1)
                worst[name] = max(worst.get(name, 0), float(difference.max()))
            ran += 1
    print(ran, worst)
    assert ran >= 56


def test_t5_buckets_are_those_of_the_original(references):
    folder = references / "units/layers"
    arrays = np.load(folder / "t5_buckets.npz")
    x = np.zeros((1, 300, 1), "float32")
    for i, init in enumerate(load_json(folder / "t5_buckets.json")["init"]):
        found = NUMPY(layers.RelativePositionEmbeddingT5(**init).compute_position_ids([x, x]))
        for row in (0, 150, 299):
            assert (found[row] == arrays[f"table_{i}_row_{row}"]).all()


def test_a_layer_survives_its_config(references):
    for case, _ in implemented(references):
        layer = getattr(layers, case["class"])(**case["init"])
        copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
        assert type(copy) is type(layer) and copy.get_config() == layer.get_config()


def test_symbolic_shapes_are_the_real_ones(references):
    for case, arrays in implemented(references):
        if case["name"] == "embedding_dense":
            continue
        layer = getattr(layers, case["class"])(**case["init"])
        values = [arrays[f"input_{i}"] for i in range(case["n_inputs"])]
        inputs = [keras.Input(batch_shape=v.shape, dtype=str(v.dtype)) for v in values]
        given = inputs if case.get("inputs_as_list") else inputs[0]
        for i, output in enumerate(keras.tree.flatten(layer(given, **case["call_kwargs"]))):
            assert tuple(output.shape) == arrays[f"output_{i}"].shape, case["name"]


def test_add_keeps_the_mask_of_whichever_input_has_one():
    """keras.layers.Add loses it, and every padded batch is silently wrong (Keras 3.15)."""
    token_ids = np.array([[3, 0, 4, 0]])
    tokens = layers.Embedding(5, 2, mask_zero=True)(token_ids)
    segments = layers.Embedding(2, 2)(np.zeros_like(token_ids))
    for pair in ([tokens, segments], [segments, tokens]):
        mask = layers.Add().compute_mask(pair, [getattr(x, "_keras_mask", None) for x in pair])
        assert NUMPY(mask).tolist() == [[True, False, True, False]]


def test_the_first_token_is_always_visible():
    mask = layers.Embedding(5, 2, mask_zero=True).compute_mask(np.array([[0, 0, 4], [0, 0, 0]]))
    assert NUMPY(mask).tolist() == [[True, False, True], [True, False, False]]


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_positions_are_not_rounded_under_mixed_precision(policy):
    """Float inputs are cast to the compute type, and bfloat16 has no 2049."""
    ids = np.array([[2047.0, 2048.0, 2049.0, 4097.0]], "float32")
    layer = layers.SinusoidalPositionEmbedding(
        8, merge_mode="zero", custom_position_ids=True, dtype=policy
    )
    x = np.zeros((1, 4, 8), "float32")
    found = NUMPY(ops.cast(layer([x, ids]), "float32"))
    assert np.abs(found - NUMPY(sinusoidal_embeddings(ids, 8))).max() < 1e-2


def test_attention_without_any_visible_key_gives_zeros():
    layer = layers.MultiHeadAttention(2, 4)
    x = np.random.default_rng(0).normal(size=(2, 3, 8)).astype("float32")
    mask = np.array([[True, True, False], [False, False, False]])
    found = NUMPY(layer([x, x, x], mask=[ops.convert_to_tensor(mask)] * 3))
    assert np.isfinite(found).all() and np.abs(found[1]).max() == 0


def test_too_many_positions_are_refused():
    layer = layers.PositionEmbedding(4, 8)
    with pytest.raises(ValueError, match=r"vectors for 4 positions, but the input has 5"):
        layer(np.zeros((1, 5, 8), "float32"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: layers.PositionEmbedding(4, 8, merge_mode="sum"), "merge_mode"),
        (lambda: layers.Embedding(4, 8)(np.zeros((1, 2, 8)), mode="sparse"), "modes"),
        (lambda: attend(3, p_bias="rotery"), "p_bias is one of"),
        (lambda: attend(3, a_bias=True), "attention bias"),
    ],
)
def test_wrong_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def attend(n_inputs, **arguments):
    return layers.MultiHeadAttention(2, 4)([keras.Input((3, 8))] * n_inputs, **arguments)


class Distance(layers.Loss):
    """Mean squared distance of what is not padding; remembers the masks that it got."""

    masks = ()

    def compute_loss(self, inputs, mask=None):
        Distance.masks = mask
        y_true, y_pred = inputs
        visible = ops.cast(mask[1], "float32")
        distance = ops.mean(ops.square(y_true - y_pred), axis=-1)
        return ops.sum(distance * visible) / ops.sum(visible)


def test_a_loss_layer_trains_a_model_on_inputs_alone():
    token_ids, y_true = keras.Input((None,), dtype="int32"), keras.Input((None, 4))
    y_pred = layers.Embedding(9, 4, mask_zero=True, embeddings_initializer="zeros")(token_ids)
    output = Distance(output_axis=1)([y_true, y_pred])
    model = keras.Model([token_ids, y_true], output)
    model.compile(keras.optimizers.SGD(1.0))
    x = np.array([[3, 5, 0], [2, 0, 0]])
    y = np.ones((2, 3, 4), "float32")
    losses = [float(model.train_on_batch([x, y])) for _ in range(20)]
    assert losses[0] == pytest.approx(1) and losses[-1] < 0.1
    assert isinstance(Distance.masks, list) and len(Distance.masks) == 2
    assert Distance.masks[0] is None
    assert model.predict([x, y], verbose=0).shape == (2, 3, 4)


class Sum(layers.Loss):
    def compute_loss(self, inputs, mask=None):
        assert isinstance(mask, list) and mask == [None] * (2 if isinstance(inputs, list) else 1)
        return ops.sum(inputs[0] if isinstance(inputs, list) else inputs)


def test_a_loss_layer_returns_the_outputs_it_is_asked_for():
    a, b = np.ones((2, 3), "float32"), np.zeros((2, 1), "float32")
    assert Sum(output_axis=1)([a, b]).shape == (2, 1)
    assert [x.shape for x in Sum(output_axis=[1, 0])([a, b])] == [(2, 1), (2, 3)]
    assert [x.shape for x in Sum()([a, b])] == [(2, 3), (2, 1)]
    assert Sum()(a).shape == (2, 3)
    layer = Sum()
    layer([a, b])
    assert [float(loss) for loss in layer.losses] == [6.0]
    with pytest.raises(NotImplementedError, match="compute_loss"):
        layers.Loss()([a, b])


class WeightedSum(layers.Loss):
    """Computes with ids and flags as with numbers, which all inputs of Keras 2 were."""

    def compute_loss(self, inputs, mask=None):
        ids, segments, flags, scores = inputs
        assert {keras.backend.standardize_dtype(x.dtype) for x in inputs} == {"float32"}
        return ops.sum(scores * segments * (1 - flags)) / ops.sum(segments) + 0 * ops.sum(ids)


def test_a_loss_computes_with_integers_and_returns_them_as_they_are():
    ids, segments = np.array([[3, 5]]), np.array([[0, 1]], "int32")
    layer = WeightedSum()
    outputs = layer([ids, segments, np.array([[True, False]]), np.array([[7.0, 2.0]], "float32")])
    kinds = [keras.backend.standardize_dtype(x.dtype) for x in outputs]
    assert kinds[1:] == ["int32", "bool", "float32"] and "int" in kinds[0]
    assert [float(loss) for loss in layer.losses] == [2.0]


@keras.saving.register_keras_serializable("bert4keras_tests")
def share(inputs, mask=None):
    """The share of the second segment among what is visible."""
    segments, x = inputs
    assert mask[0] is None
    visible = ops.cast(mask[1], "float32")
    return ops.sum(segments * visible) / ops.sum(visible) + 0 * ops.sum(x)


def test_a_lambda_computes_with_integers_as_with_floats(tmp_path):
    segments, x = keras.Input((None,), dtype="int32"), keras.Input((None, 2))
    masked = keras.layers.Masking()(x)
    outputs = [
        layers.Lambda(lambda s: s * np.float32(0.5) + (1 - s) * s[:, :1])(segments),
        layers.Lambda(lambda s: s > 0.5)(segments),
        layers.Lambda(share, name="share")([segments, masked]),
        layers.Lambda(lambda x: x[:, 0])(masked),  # no warning of the mask that ends here
        layers.Lambda(lambda s: s, output_shape=(None,))(segments),
    ]
    expected = [("float32", 2), ("bool", 2), ("float32", 0), ("float32", 2), ("float32", 2)]
    assert [(y.dtype, len(y.shape)) for y in outputs] == expected
    values = [np.array([[0, 1, 1]], "int32"), np.array([[[1, 1], [1, 1], [0, 0]]], "float32")]
    results = keras.Model([segments, x], outputs)(values)
    kinds = [(keras.backend.standardize_dtype(y.dtype), len(y.shape)) for y in results]
    assert kinds == expected
    assert np.allclose(NUMPY(results[0]), [[0, 0.5, 0.5]]) and NUMPY(results[2]) == 0.5
    model = keras.Model([segments, x], outputs[2])
    model.save(tmp_path / "model.keras")
    assert NUMPY(keras.saving.load_model(tmp_path / "model.keras")(values)) == 0.5


def test_a_lambda_keeps_the_type_of_floats():
    x, ids = keras.Input((2,)), keras.Input((2,), dtype="int32")
    layer = layers.Lambda(lambda inputs: inputs[0] * inputs[1], dtype="mixed_float16")
    output = layer([x, ids])
    assert output.dtype == "float32"
    model = keras.Model([x, ids], output)
    assert NUMPY(model([np.ones((1, 2), "float32"), np.array([[2049, 1]])])).tolist() == [[2049, 1]]


class SomeRows(layers.Embedding):
    """P-tuning: of the table only rows 1 and 2 are trained."""

    def call(self, inputs, mode="embedding"):
        table = self.embeddings
        mask = np.zeros((table.shape[0], 1))
        mask[1:3] += 1
        self.embeddings = table * mask + ops.stop_gradient(table) * (1 - mask)
        outputs = super().call(inputs, mode)
        self.embeddings = table
        return outputs


class Doubled(layers.PositionEmbedding):
    """Doubles its table in each call, and does not put it back; it starts with ones."""

    def build(self, input_shape):
        super().build(input_shape)
        self.embeddings.assign(np.ones((3, 4)))

    def call(self, inputs, positions=None):
        self.embeddings = self.embeddings * np.full((1, 4), 2.0)
        return super().call(inputs, positions)


@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept")  # PyTorch's, of NumPy's arrays
def test_a_table_may_be_replaced_in_a_call():
    embedding = SomeRows(5, 4, name="table")
    positions = Doubled(3, 4, merge_mode="zero")
    ids = keras.Input((3,), dtype="int32")
    model = Model(ids, embedding(positions(embedding(ids)) + embedding(ids), mode="dense"))
    before = NUMPY(embedding.embeddings)
    for _ in range(2):
        assert np.allclose(NUMPY(positions(np.ones((1, 3, 4), "float32"))), 2)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    x = np.array([[0, 1, 2], [3, 4, 1]])
    loss = float(model.train_on_batch(x, np.ones((2, 3, 5))))
    assert float(model.test_on_batch(x, np.ones((2, 3, 5)))) < loss
    moved = np.abs(NUMPY(embedding.embeddings) - before).max(axis=1) > 0
    assert moved.tolist() == [False, True, True, False, False]
    assert isinstance(embedding.embeddings, keras.Variable)
    with pytest.raises(AttributeError, match=r"layer\.embeddings\.assign"):
        embedding.embeddings = np.ones((5, 4))
