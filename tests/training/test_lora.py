"""Adapters by LoRA: what is trained, what is computed, and what files hold."""

import keras
import numpy as np
import pytest

from bert4keras.generation import Generator
from bert4keras.layers import Dense
from bert4keras.models import Model, build_transformer_model, load_model
from bert4keras.training import add_lora, data_parallel, merge_lora

SIZES = {
    "vocab_size": 30,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 20,
    "hidden_act": "gelu",
}
IDS = np.array([[2, 5, 7, 9, 3], [2, 8, 6, 3, 0]], "int32")
NUMPY = keras.ops.convert_to_numpy
pytestmark = pytest.mark.backend


def built(model="bert", **kwargs):
    keras.utils.set_random_seed(1)
    return build_transformer_model(**SIZES | kwargs, model=model)


def classifier(rank=4, alpha=6.0, **kwargs):
    """A model of two classes, of which LoRA trains attention; its head is trained too."""
    bert = built(**kwargs)
    scores = Dense(2, activation="softmax", name="Head")(bert.output[:, 0])
    model = Model(bert.inputs, scores)
    add_lora(model, rank, alpha, trainable="Head")
    return model


def compiled(model, rate=0.01):
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    return model


def trained(model, steps=2):
    model.fit([IDS, 0 * IDS], np.array([0, 1]), epochs=steps, verbose=0)
    return model


def outputs(model, ids=IDS):
    return NUMPY(model([ids, 0 * ids] if len(model.inputs) > 1 else ids, training=False))


def values(model):
    return {weight.path: NUMPY(weight) for weight in model.weights}


def learned(model, seed=0):
    """The model with random adapters, whose product is not 0."""
    random = np.random.default_rng(seed)
    for weight in model.weights:
        if weight.name.startswith("lora_"):
            weight.assign(random.normal(0, 0.3, weight.shape))
    return model


def folded(values, scale):
    """By path of a kernel: W + scale · A·B, computed here."""
    return {
        path: value + scale * values[f"{start}/lora_kernel_a"] @ values[f"{start}/lora_kernel_b"]
        for path, value in values.items()
        for start, _, name in [path.rpartition("/")]
        if name == "kernel" and f"{start}/lora_kernel_a" in values
    }


def test_only_adapters_and_what_is_named_are_trained():
    model = compiled(classifier())
    before = values(model)
    trained(model)
    changed = {path for path, value in values(model).items() if (value != before[path]).any()}
    adapters = {path for path in before if "lora_" in path}
    assert len(adapters) == 4 * 2
    assert changed == adapters | {path for path in before if path.startswith("Head/")}
    assert {weight.path for weight in model.trainable_weights} == changed


def test_the_output_is_that_of_the_sum_of_the_matrices():
    model = classifier(rank=4, alpha=6.0)
    at_first = outputs(model)
    learned(model)
    sums = folded(values(model), 6 / 4)
    assert len(sums) == 4
    expected = outputs(model)
    assert np.abs(expected - at_first).max() > 1e-3
    merge_lora(model)
    for path, value in values(model).items():
        assert "lora_" not in path
        if path in sums:
            np.testing.assert_allclose(value, sums[path], atol=1e-6)
    np.testing.assert_allclose(outputs(model), expected, atol=1e-6)
    assert len(model.trainable_weights) == len(model.weights)
    trained(compiled(model), steps=1)
    with pytest.raises(ValueError, match="no adapters"):
        merge_lora(model)


def test_functions_that_were_compiled_before_know_of_adapters():
    model = classifier()
    inputs = [IDS, 0 * IDS]
    plain = Model(model.inputs, model.output)  # shares the layers
    merge_lora(model)
    first = plain.predict(inputs, verbose=0)
    add_lora(model, trainable="Head")
    np.testing.assert_allclose(plain.predict(inputs, verbose=0), first, atol=1e-6)
    second = outputs(learned(model))
    assert np.abs(second - first).max() > 1e-3
    np.testing.assert_allclose(plain.predict(inputs, verbose=0), second, atol=1e-6)
    merge_lora(model)
    np.testing.assert_allclose(plain.predict(inputs, verbose=0), second, atol=1e-6)


@pytest.mark.parametrize("suffix", ["keras", "h5", "weights"])
def test_files_keep_adapters_apart(suffix, tmp_path):
    model = trained(compiled(classifier()))
    expected, path = outputs(model), tmp_path / f"model.{suffix}"
    if suffix == "weights":
        model.save_weights(path)
        again = compiled(classifier())
        again.load_weights(path)
    else:
        model.save(path)
        again = load_model(path)
    np.testing.assert_allclose(outputs(again), expected, atol=1e-6)
    for ours, theirs in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(NUMPY(theirs), NUMPY(ours), err_msg=ours.path)
    assert len(again.trainable_weights) == len(model.trainable_weights)
    if suffix != "weights":  # the optimizer goes on
        for each in (model, again):
            trained(each, steps=1)
        np.testing.assert_allclose(outputs(again), outputs(model), atol=1e-5)


def test_a_file_of_a_model_that_is_not_compiled_says_what_is_trained(tmp_path):
    model = learned(classifier(alpha=6.0))
    model.save(tmp_path / "model.keras")
    again = load_model(tmp_path / "model.keras")
    assert len(again.trainable_weights) == len(model.trainable_weights) == 10
    np.testing.assert_allclose(outputs(again), outputs(model), atol=1e-6)
    merge_lora(again)
    np.testing.assert_allclose(outputs(again), outputs(model), atol=1e-6)


def test_a_file_says_which_layers_are_frozen(tmp_path):
    model = built()
    for layer in model.layers:
        layer.trainable = "FeedForward" not in layer.name
    model.save(tmp_path / "model.keras")
    again = load_model(tmp_path / "model.keras")
    paths = [[weight.path for weight in each.trainable_weights] for each in (model, again)]
    assert paths[0] == paths[1] and len(paths[0]) == len(model.weights) - 6


def test_weights_with_adapters_are_refused_by_a_model_without(tmp_path):
    model = classifier()
    model.save_weights(tmp_path / "adapted.weights")
    merge_lora(model)
    with pytest.raises(ValueError, match="add_lora"):
        model.load_weights(tmp_path / "adapted.weights")


def test_weights_of_another_alpha_are_refused(tmp_path):
    trained(compiled(classifier())).save_weights(tmp_path / "adapted.weights")
    other = classifier(alpha=5.0)
    with pytest.raises(ValueError, match=r"alpha=6.*has alpha=5.*add_lora\(alpha=6\)"):
        other.load_weights(tmp_path / "adapted.weights")


@pytest.mark.parametrize(
    "options", [{"precision": "mixed_bfloat16"}, {"precision": "bfloat16"}, {"recompute": True}]
)
def test_adapters_train_in_half_precision_and_with_recomputation(options):
    model = compiled(classifier(**options))
    losses = model.fit([IDS, 0 * IDS], np.array([0, 1]), epochs=6, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    adapters = [weight for weight in model.weights if "lora_" in weight.name]
    assert all(weight.dtype == "float32" and NUMPY(weight).any() for weight in adapters)
    expected = np.float32(outputs(model))
    merge_lora(model)
    atol = 0.02 if "precision" in options else 1e-6
    np.testing.assert_allclose(np.float32(outputs(model)), expected, atol=atol)


def test_a_step_with_recomputation_is_the_same():
    first, second = (trained(compiled(classifier(recompute=each))) for each in (False, True))
    for ours, theirs in zip(first.weights, second.weights, strict=True):
        np.testing.assert_allclose(NUMPY(theirs), NUMPY(ours), atol=1e-5, err_msg=ours.path)


def test_decoding_with_a_cache_computes_with_adapters(uncompiled):
    kwargs = {"model": "llama", "application": "lm", "final_activation": "linear"}
    model = built(**kwargs, max_position=32)
    generator = Generator(model, end_id=3, maxlen=3)
    first = generator.generate([[2, 5, 7]])
    add_lora(model, layers="Attention|FeedForward|Embedding-Token")
    learned(model)
    ids = [2, 5, 7]
    for _ in range(3):
        token = int(outputs(model, np.array([ids], "int32"))[0, -1].argmax())
        if token == 3:
            break
        ids.append(token)
    written = generator.generate([[2, 5, 7]])
    assert written == [ids[3:]] and written != first
    merge_lora(model)
    assert generator.generate([[2, 5, 7]]) == written


def test_adapters_train_on_a_device_of_several():
    with data_parallel(1):
        model = compiled(classifier())
        trained(model)
    alone = trained(compiled(classifier()))
    for ours, theirs in zip(alone.weights, model.weights, strict=True):
        np.testing.assert_allclose(NUMPY(theirs), NUMPY(ours), atol=1e-5, err_msg=ours.path)


def test_a_pattern_chooses_layers():
    assert add_lora(built(num_hidden_layers=2), layers="-1-.*(q|v)_dense") == [
        "Transformer-1-MultiHeadSelfAttention/q_dense",
        "Transformer-1-MultiHeadSelfAttention/v_dense",
    ]
    model = built()
    assert add_lora(model, layers="FeedForward/i0") and len(model.trainable_weights) == 2
    assert len(add_lora(built("gau_alpha"))) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 0}, "rank=0"),
        ({"layers": "query"}, "q_dense"),
        ({"trainable": "Pooler"}, "Pooler"),
        ({"twice": True}, "merge_lora"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, message):
    model = built()
    if arguments.pop("twice", False):
        add_lora(model)
    with pytest.raises(ValueError, match=message):
        add_lora(model, **arguments)
