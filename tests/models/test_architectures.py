"""Every architecture: saving, checkpoints, precision, padding; and what the original could not do.

The combinations that crash in the original have no reference outputs: they are compared with the
NumPy of `reference.py`.
"""

import functools
from dataclasses import replace
from typing import ClassVar

import keras
import numpy as np
import pytest
import reference as ref
from sweeps import swept

from bert4keras import checkpoints, models
from bert4keras.models import ARCHITECTURES, build_transformer_model
from bert4keras.models.encoder_decoder import EncoderDecoder

pytestmark = pytest.mark.backend

CONFIG = {
    "vocab_size": 30,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "hidden_act": "gelu",
    "max_position_embeddings": 24,
    "initializer_range": 0.2,
}

TOKEN_IDS = np.array(
    [[2, 7, 9, 3, 11, 0, 0, 0], [2, 8, 3, 5, 3, 0, 0, 0], [2, 5, 6, 7, 8, 3, 4, 3]]
)
SEGMENT_IDS = np.array(
    [[0, 0, 1, 1, 1, 0, 0, 0], [0, 1, 1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1, 1, 1]]
)

VARIANTS = [
    (name, application)
    for name, architecture in ARCHITECTURES.items()
    for application in architecture.applications
    if name not in ("roberta", "t5")  # other names of bert and t5.1.0
]


def build(model, application="encoder", seed=5, noise=0.1, **kwargs):
    """The `Transformer` of a small model with random weights."""
    keras.utils.set_random_seed(3)
    config = CONFIG | {"hidden_act": ["gelu", "linear"]} if "5.1.1" in model else CONFIG
    if model in ("roberta_hf", "xlm_roberta", "bart", "mbart"):
        kwargs.setdefault("pad_token_id", 0)  # as in `TOKEN_IDS`
    kwargs = {**config, **kwargs}
    transformer = build_transformer_model(
        None, None, model, application, return_keras_model=False, **kwargs
    )
    rng = np.random.default_rng(seed)
    for weight in transformer.model.trainable_weights:  # biases are zero at first, gammas one
        weight.assign_add(rng.normal(size=weight.shape) * noise)
    return transformer


def inputs_of(model, pad=0, rows=slice(None)):
    """Token ids, segment ids, vectors, as far as a model takes them, padded further."""
    rng = np.random.default_rng(6)
    arrays = []
    for tensor in model.inputs:
        if "Segment" in tensor.name:
            array = SEGMENT_IDS
        elif len(tensor.shape) == 3:
            array = rng.normal(size=(*TOKEN_IDS.shape, tensor.shape[-1])).astype("float32")
        else:
            array = TOKEN_IDS
        # What comes before a decoder is not padded: nothing says where its padding is.
        width = 0 if len(tensor.shape) == 3 else pad
        widths = [(0, 0), (0, width)] + [(0, 0)] * (len(array.shape) - 2)
        arrays.append(np.pad(array, widths)[rows])
    return arrays


def unpacked(arrays):
    return arrays if len(arrays) > 1 else arrays[0]


def run(model, **kwargs):
    """The output of a model; without `predict`, which would compile for every shape."""
    inputs = [keras.ops.convert_to_tensor(x) for x in inputs_of(model, **kwargs)]
    outputs = model(unpacked(inputs), training=False)
    return keras.ops.convert_to_numpy(outputs)


@functools.cache
def built(model, application="encoder"):
    """A `Transformer` for tests that leave its weights alone: they share it."""
    return build(model, application)


def each_variant(first):
    return pytest.mark.parametrize(("model", "application"), swept(VARIANTS, first))


NAMES = sorted({name for name, _ in VARIANTS})


@each_variant(0)
def test_keras_files_give_the_same_model(tmp_path, model, application):
    original = built(model, application).model
    original.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert (run(loaded) == run(original)).all()


@pytest.mark.parametrize("model", swept(NAMES))
def test_checkpoints_come_back_byte_by_byte(tmp_path, model):
    original = built(model)
    original.save_weights_as_checkpoint(tmp_path / "a.ckpt")
    other = build(model, seed=6)
    assert (run(other.model) != run(original.model)).any()
    report = other.load_weights_from_checkpoint(tmp_path / "a.ckpt")
    assert not report.unused
    assert (run(other.model) == run(original.model)).all()
    other.save_weights_as_checkpoint(tmp_path / "b.ckpt")
    for suffix in ("index", "data-00000-of-00001"):
        a, b = (tmp_path / f"{x}.ckpt.{suffix}" for x in "ab")
        assert a.read_bytes() == b.read_bytes()


@each_variant(1)
def test_padding_changes_nothing(model, application):
    keras_model = built(model, application).model
    short, long = run(keras_model), run(keras_model, pad=5)
    assert np.abs(long[:, : short.shape[1]] - short).max() < 1e-5


@each_variant(2)
def test_a_batch_gives_what_its_rows_give(model, application):
    keras_model = built(model, application).model
    rows = [run(keras_model, rows=slice(i, i + 1)) for i in range(len(TOKEN_IDS))]
    assert np.abs(run(keras_model) - np.concatenate(rows)).max() < 1e-5


@each_variant(0)
def test_bfloat16_stays_close(model, application):
    exact = build(model, application, noise=0.02, initializer_range=0.02)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        half = build(model, application, noise=0.02, initializer_range=0.02).model
    finally:
        keras.config.set_dtype_policy("float32")
    half.set_weights(exact.model.get_weights())
    expected, found = run(exact.model), run(half).astype("float32")
    # Neighbouring numbers of bfloat16 are 1/64 apart between 2 and 4: relative there.
    assert (np.abs(found - expected) < 3e-2 * np.maximum(1, np.abs(expected))).all()
    assert np.sqrt(np.mean((found - expected) ** 2)) < 1e-2 * max(1.0, expected.std())


@pytest.mark.parametrize(
    ("model", "application"),
    [
        (name, application)
        for name, architecture in ARCHITECTURES.items()
        for application in ("lm", "unilm")
        if application not in architecture.applications
    ],
)
def test_what_makes_no_sense_is_refused(model, application):
    with pytest.raises(ValueError, match=f"application='{application}'"):
        build(model, application)


def test_a_layer_that_is_not_there_is_named():
    transformer = build("bert", "encoder")
    with pytest.raises(ValueError, match=r"BERT has no layer 'Typo': .* There are Embedding"):
        transformer.apply(transformer.model.output, name="Typo")


def test_arguments_that_mean_nothing_are_refused():
    for model, argument in (("gpt", "with_mlm"), ("electra", "with_pool"), ("t5", "with_mlm")):
        with pytest.raises(TypeError, match=argument):
            build(model, **{argument: True})


@pytest.mark.parametrize("argument", ["with_pool", "with_nsp"])
def test_roformer_v2_ignores_the_heads_of_its_missing_pooler_as_the_original_does(argument):
    model, plain = (build("roformer_v2", **x).model for x in ({argument: True}, {}))
    assert [layer.name for layer in model.layers] == [layer.name for layer in plain.layers]
    assert model.output_shape == plain.output_shape == (None, None, CONFIG["hidden_size"])


# --- what crashes in the original


def bert_like(w, x, visible, epsilon, block="Transformer-{}", pre=False, **kwargs):
    """Two blocks; `residual=True` adds the scores of the block before."""
    residual, scores = kwargs.pop("residual", False), 0.0
    for i in range(2):
        name = block.format(i)
        attention, feed_forward = f"{name}-MultiHeadSelfAttention", f"{name}-FeedForward"
        y = ref.norm(x, w[f"{attention}-Norm"], epsilon) if pre else x
        bias = scores if residual else 0.0
        y, scores = ref.attention(y, y, w[attention], 2, visible, score_bias=bias, **kwargs)
        x = x + y if pre else ref.norm(x + y, w[f"{attention}-Norm"], epsilon)
        y = ref.norm(x, w[f"{feed_forward}-Norm"], epsilon) if pre else x
        y = ref.feed_forward(y, w[feed_forward])
        x = x + y if pre else ref.norm(x + y, w[f"{feed_forward}-Norm"], epsilon)
    return x


def embedded(w, segments=True, positions=True, norm=1e-12):
    x = w["Embedding-Token"][0][TOKEN_IDS]
    if segments:
        x = x + w["Embedding-Segment"][0][SEGMENT_IDS]
    if positions:
        x = x + w["Embedding-Position"][0][: x.shape[1]]
    return ref.norm(x, w["Embedding-Norm"], norm) if norm else x


def mlm(w, x, epsilon=1e-12):
    x = ref.norm(ref.gelu(ref.dense(x, *w["MLM-Dense"])), w["MLM-Norm"], epsilon)
    return x @ w["Embedding-Token"][0].T + w["MLM-Bias"][0]


def close(model, expected):
    found = np.asarray(model.predict_on_batch(unpacked(inputs_of(model))))
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-4


KEYS = ref.key_mask(TOKEN_IDS)[:, None, None]


@pytest.mark.parametrize("application", ["lm", "unilm"])
def test_residual_scores_of_language_models(application):
    transformer = build("bert", application, residual_attention_scores=True, with_mlm="linear")
    w = ref.weights_of(transformer.model)
    visible = KEYS & (ref.causal(8) if application == "lm" else ref.unilm(SEGMENT_IDS))
    x = bert_like(w, embedded(w), visible, 1e-12, residual=True)
    close(transformer.model, mlm(w, x))


@pytest.mark.parametrize("embedding_size", [16, 12])
@pytest.mark.parametrize("residual", [False, True])
def test_gpt2_with_residual_scores_and_narrow_embeddings(residual, embedding_size):
    transformer = build(
        "gpt2",
        residual_attention_scores=residual,
        embedding_size=embedding_size,
        final_activation="linear",
    )
    w = ref.weights_of(transformer.model)
    x = embedded(w, segments=False, norm=None)
    if embedding_size != 16:
        x = ref.dense(x, *w["Embedding-Mapping"])
    x = bert_like(w, x, KEYS & ref.causal(8), 1e-5, pre=True, residual=residual)
    x = ref.norm(x, w["Output-Norm"], 1e-5)
    if embedding_size != 16:
        x = ref.dense(x, *w["Output-Mapping"])
    close(transformer.model, x @ w["Embedding-Token"][0].T)


def test_gpt2_ml_with_narrow_embeddings():
    transformer = build("gpt2_ml", embedding_size=12, final_activation="linear")
    w = ref.weights_of(transformer.model)
    x = ref.dense(embedded(w, segments=False, norm=1e-5), *w["Embedding-Mapping"])
    for i in range(2):
        weights = w[f"Transformer-{i}-MultiHeadSelfAttention"]
        x = x + ref.attention(x, x, weights, 2, KEYS & ref.causal(8))[0]
        name = f"Transformer-{i}-FeedForward"
        y = ref.feed_forward(ref.norm(x, w[f"{name}-Norm-0"], 1e-5), w[name])
        x = ref.norm(x + y, w[f"{name}-Norm-1"], 1e-5)
    close(transformer.model, ref.dense(x, *w["Output-Mapping"]) @ w["Embedding-Token"][0].T)


def test_lm_on_gpt():
    plain = build("gpt", final_activation="linear").model
    lm = build("gpt", "lm", final_activation="linear").model
    w = ref.weights_of(lm)
    x = bert_like(w, embedded(w, norm=None), KEYS & ref.causal(8), 1e-12)
    close(lm, x @ w["Embedding-Token"][0].T)
    assert (run(plain) == run(lm)).all()


@pytest.mark.parametrize("model", ["bert", "roformer"])
def test_custom_positions_without_segments_in_a_unilm(model):
    transformer = build(
        model, "unilm", segment_vocab_size=0, custom_position_ids=True, with_mlm="linear"
    )
    positions = np.array([[0, 1, 2, 0, 1, 2, 3, 4]] * 3)
    w = ref.weights_of(transformer.model)
    visible = KEYS & ref.unilm(SEGMENT_IDS)
    x = w["Embedding-Token"][0][TOKEN_IDS]
    if model == "bert":
        x = ref.norm(x + w["Embedding-Position"][0][positions], w["Embedding-Norm"], 1e-12)
        expected = mlm(w, bert_like(w, x, visible, 1e-12))
    else:
        x = ref.norm(x, w["Embedding-Norm"], 1e-7)
        expected = mlm(w, bert_like(w, x, visible, 1e-7, positions=positions), 1e-7)
    found = transformer.model.predict_on_batch([TOKEN_IDS, SEGMENT_IDS, positions])
    assert np.abs(np.asarray(found) - expected).max() < 1e-4


def test_nezha_with_another_key_size():
    transformer = build("nezha", attention_key_size=6)
    w = ref.weights_of(transformer.model)
    distance = np.arange(8)[None] - np.arange(8)[:, None] + 64
    relative = [ref.sinusoidal(np.arange(129), size)[distance] for size in (6, 8)]
    x = embedded(w, positions=False, norm=1e-7)
    close(transformer.model, bert_like(w, x, KEYS, 1e-7, relative=relative))


def test_albert_with_caches():
    inputs = [keras.Input((None, 16), name=f"Cache-{kind}") for kind in "KV"]
    name = "Transformer-MultiHeadSelfAttention"
    transformer = build("albert", attention_caches={name: inputs}, additional_input_layers=inputs)
    w = ref.weights_of(transformer.model)
    keys, values = np.random.default_rng(1).normal(size=(2, 3, 4, 16))
    x = embedded(w, norm=1e-7)
    visible = np.concatenate([np.ones((3, 1, 1, 4), bool), KEYS], -1)
    for _ in range(2):
        kernels = w[name]
        query, key, value = (
            ref.dense(y, *kernels[2 * i : 2 * i + 2]).reshape(3, -1, 2, 8)
            for i, y in enumerate((x, np.concatenate([keys, x], 1), np.concatenate([values, x], 1)))
        )
        scores = np.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(8)
        weights = ref.softmax(np.where(visible, scores, -np.inf))
        y = np.einsum("bhqk,bkhd->bqhd", weights, value).reshape(3, 8, 16)
        x = ref.norm(x + ref.dense(y, *kernels[6:]), w[f"{name}-Norm"], 1e-7)
        y = ref.feed_forward(x, w["Transformer-FeedForward"])
        x = ref.norm(x + y, w["Transformer-FeedForward-Norm"], 1e-7)
    found = transformer.model.predict_on_batch([TOKEN_IDS, SEGMENT_IDS, keys, values])
    assert np.abs(np.asarray(found) - x).max() < 1e-4


def test_a_condition_on_the_whole_t5():
    condition = keras.Input((5,), name="Input-Cond")
    transformer = build(
        "t5.1.0",
        layer_norm_cond=condition,
        additional_input_layers=condition,
        hidden_act="relu",
        with_lm=False,
    )
    w = ref.weights_of(transformer.model)
    values = np.random.default_rng(1).normal(size=(3, 5))

    def sub_layers(x, part, visible, bidirectional, context=None):
        table = w[f"{part}-Embedding-Relative-Position"][0]

        def bias(keys):
            buckets = ref.t5_buckets(x.shape[1], keys.shape[1], bidirectional)
            return table[buckets].transpose(2, 0, 1)[None]

        for i in range(2):
            for kind in ("SelfAttention", "CrossAttention", "FeedForward"):
                if kind == "CrossAttention" and context is None:
                    continue
                prefix = "" if kind == "FeedForward" else "MultiHead"
                name = f"{part}-Transformer-{i}-{prefix}{kind}"
                y = ref.norm(x, w[f"{name}-Norm"], 1e-6, values, rms=True)
                if kind == "FeedForward":
                    y = ref.feed_forward(y, w[name], lambda z: np.maximum(z, 0))
                else:
                    keys = y if kind == "SelfAttention" else context
                    seen = visible if kind == "SelfAttention" else KEYS
                    y = ref.attention(y, keys, w[name], 2, seen, bias(keys), scale=False)[0]
                x = x + y
        return ref.norm(x, w[f"{part}-Output-Norm"], 1e-6, values, rms=True)

    x = w["Embedding-Token"][0][TOKEN_IDS]
    context = sub_layers(x, "Encoder", KEYS, True)
    expected = sub_layers(x, "Decoder", KEYS & ref.causal(8), False, context) * 16**-0.5
    found = transformer.model.predict_on_batch([TOKEN_IDS, TOKEN_IDS, values])
    assert np.abs(np.asarray(found) - expected).max() < 1e-4


# --- details


def test_albert_unshared_starts_from_shared_weights(tmp_path):
    built("albert").save_weights_as_checkpoint(tmp_path / "albert.ckpt")
    unshared = build("albert_unshared")
    unshared.load_weights_from_checkpoint(tmp_path / "albert.ckpt")
    first, second = (
        unshared.model.get_layer(f"Transformer-{i}-FeedForward").get_weights() for i in range(2)
    )
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
    unshared.save_weights_as_checkpoint(tmp_path / "unshared.ckpt")
    names = [name for name, _ in checkpoints.list_variables(tmp_path / "unshared.ckpt")]
    assert sum("/group_1/inner_group_0/" in name for name in names) == 16


def test_the_three_models_of_t5_share_their_weights():
    t5 = build("t5.1.1", with_lm="linear")
    encoder, decoder, whole = t5.encoder, t5.decoder, t5.model
    context = encoder.predict_on_batch(TOKEN_IDS[2:])
    parts = decoder.predict_on_batch([context, TOKEN_IDS[2:, :5]])
    found = whole.predict_on_batch([TOKEN_IDS[2:], TOKEN_IDS[2:, :5]])
    assert np.abs(np.asarray(parts) - np.asarray(found)).max() < 1e-5
    shared = {id(w) for w in encoder.weights + decoder.weights}
    assert shared == {id(w) for w in whole.weights}


def test_roformer_v2_starts_smaller_the_deeper_it_is():
    kernels = [
        build_transformer_model(
            None, None, "roformer_v2", **CONFIG | {"num_hidden_layers": depth, "hidden_size": 64}
        )
        .get_layer("Transformer-0-FeedForward")
        .get_weights()[0]
        for depth in (1, 4)
    ]
    assert kernels[0].std() == pytest.approx(1 / 8, rel=0.1)
    assert kernels[1].std() == pytest.approx(1 / 16, rel=0.1)


@pytest.mark.parametrize("model", [m for m in ARCHITECTURES if not m.startswith("t5_")])
def test_a_hook_of_any_architecture_can_be_overridden(model):
    base, calls = ARCHITECTURES[model], []

    class Mine(base):
        def apply_embeddings(self, inputs):
            calls.append("embeddings")
            return super().apply_embeddings(inputs)

        def apply_main_layers(self, inputs, index):
            calls.append(index)
            return super().apply_main_layers(inputs, index)

        def apply_final_layers(self, inputs):
            calls.append("final")
            return super().apply_final_layers(inputs)

    if issubclass(base, EncoderDecoder):
        return  # it has no layers of its own: override those of its parts
    build_transformer_model(None, None, Mine, **CONFIG)
    assert calls == ["embeddings", 0, 1, "final"]


def test_blocks_may_differ_in_where_they_normalise_and_in_nothing_else():
    class Alternating(models.BERT):
        odd: ClassVar = {"feed_forward_norms": ("pre",), "name": "Odd-{i}"}

        def block_of(self, index):
            return replace(self.block, **self.odd) if index else self.block

    model = build_transformer_model(None, None, Alternating, **CONFIG)
    names = [layer.name for layer in model.layers]
    assert "Transformer-0-FeedForward-Norm" in names and "Transformer-1-FeedForward" not in names
    assert names.index("Odd-1-FeedForward-Norm") < names.index("Odd-1-FeedForward")
    attention = "Odd-1-MultiHeadSelfAttention"
    assert names.index(attention) < names.index(f"{attention}-Norm")
    Alternating.odd = {"use_bias": False}
    with pytest.raises(ValueError, match=r"block_of\(1\) is Block.*use_bias=False.*may differ in"):
        build_transformer_model(None, None, Alternating, **CONFIG)
