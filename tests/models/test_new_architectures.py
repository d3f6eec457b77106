"""Architectures beyond the original: against `transformers`, GAU-α against plain NumPy."""

import json

import keras
import numpy as np
import pytest
import reference as ref
from dialects import dialect_of

from bert4keras.checkpoints import CheckpointError
from bert4keras.layers.adapters import weight_name
from bert4keras.models import build_transformer_model
from bert4keras.models.weights import mapped_layers

pytestmark = pytest.mark.backend

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
}
LENGTH = 24
TOKEN_IDS = np.random.default_rng(0).integers(5, 50, (3, LENGTH)).astype("int32")
VISIBLE = np.arange(LENGTH) < np.array([[LENGTH], [9], [1]])
TOKEN_IDS[~VISIBLE] = 0
SEGMENT_IDS = (np.random.default_rng(1).integers(0, 2, (3, LENGTH)) * VISIBLE).astype("int32")
TASK_IDS = np.random.default_rng(2).integers(0, 3, (3, LENGTH)).astype("int32")


def run(model, *inputs):
    # Run by itself, an operation is compiled once for all of these models: they have equal shapes.
    outputs = model(list(inputs) if len(inputs) > 1 else inputs[0], training=False)
    return keras.ops.convert_to_numpy(outputs)


# ------------------------------------------------------------------ weights of Hugging Face models


def take_weights(transformer, reference):
    """Set all weights from a model of Hugging Face, none of whose tensors is left over."""
    tensors = {name: tensor.numpy() for name, tensor in reference.state_dict().items()}
    dialect = dialect_of(reference.config.model_type)
    used = set()
    for layer, names in mapped_layers(transformer):
        assert len(layer.weights) == len(names), layer.name
        places = [dialect.place(name) for name in names]
        used |= {place.name for place in places}
        layer.set_weights([place.read(tensors[place.name]) for place in places])
    known = {layer.name for layer, _ in mapped_layers(transformer)}
    assert not [x.name for x in transformer.model.layers if x.weights and x.name not in known]
    copies = {"decoder.weight", "lm_head.weight", "cls.predictions.decoder.weight"}
    copies |= {"cls.predictions.decoder.bias", "lm_head.decoder.weight", "lm_head.decoder.bias"}
    copies |= {"vocab_projector.weight"}
    poolers = {name for name in tensors if ".pooler." in name}  # no use to a language model
    assert tensors.keys() - used <= copies | poolers, tensors.keys() - used - copies - poolers


@pytest.fixture(scope="module")
def torch():
    pytest.importorskip("transformers")
    return pytest.importorskip("torch")


def reference_model(torch, kind, **settings):
    """A random model of `transformers`, whose weights are large enough to matter."""
    import transformers

    config = getattr(transformers, f"{kind.split('For')[0].removesuffix('Model')}Config")
    torch.manual_seed(0)
    model = getattr(transformers, kind)(config(**(SIZES | settings))).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name.lower() and "weight" in name else 0.0, 0.3)
    return model


def outputs_of(torch, reference, token_ids=TOKEN_IDS, visible=VISIBLE, **inputs):
    """The first output of a model of `transformers`."""
    ids = {"input_ids": token_ids, "attention_mask": visible, **inputs}
    with torch.no_grad():
        output = reference(**{k: torch.tensor(v.astype("int64")) for k, v in ids.items()})[0]
    return output.numpy()


def assert_same(ours, theirs, visible=VISIBLE):
    assert ours.shape == theirs.shape
    assert np.abs(theirs[visible]).max() > 0.1
    assert np.abs(ours - theirs)[visible].max() < 1e-4


# ------------------------------------------------------------------------------------------- ERNIE

ERNIE = SIZES | {"max_position": 30, "segment_vocab_size": 4, "hidden_act": "gelu"}
THEIR_ERNIE = {"max_position_embeddings": 30, "type_vocab_size": 4}


@pytest.mark.parametrize("tasks", ["none", "fixed", "given"])
def test_ernie_is_that_of_transformers(torch, tasks):
    reference = reference_model(
        torch, "ErnieForMaskedLM", use_task_id=tasks != "none", **THEIR_ERNIE
    )
    given = tasks == "given"
    transformer = build_transformer_model(
        model="ernie",
        with_mlm="linear",
        use_task_id=tasks != "none",
        custom_task_ids=given,
        return_keras_model=False,
        **ERNIE,
    )
    take_weights(transformer, reference)
    more = {"token_type_ids": SEGMENT_IDS} | ({"task_type_ids": TASK_IDS} if given else {})
    found = run(transformer.model, TOKEN_IDS, *more.values())
    assert_same(found, outputs_of(torch, reference, **more))


def test_ernie_3_is_not_loaded_without_its_tasks(tmp_path):
    transformer = build_transformer_model(
        model="ernie", use_task_id=True, return_keras_model=False, **ERNIE
    )
    transformer.save_weights_as_checkpoint(tmp_path / "model.ckpt")
    with pytest.raises(CheckpointError, match="task_type_embeddings"):
        build_transformer_model(checkpoint_path=tmp_path / "model.ckpt", model="ernie", **ERNIE)


# --------------------------------------------------------------------------------------- DeBERTaV2

DEBERTA = SIZES | {"max_position": 20, "segment_vocab_size": 0, "hidden_act": "gelu"}
THEIR_DEBERTA = {
    "max_position_embeddings": 20,
    "position_buckets": 8,
    "relative_attention": True,
    "position_biased_input": False,
    "pos_att_type": ["p2c", "c2p"],
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "attention_head_size": 8,
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"legacy": False},
        {"max_relative_positions": 12, "norm_rel_ebd": "none"},
        {"conv_kernel_size": 3, "conv_act": "gelu"},
    ],
)
def test_deberta_v2_is_that_of_transformers(torch, changes):
    settings = THEIR_DEBERTA | changes
    reference = reference_model(torch, "DebertaV2ForMaskedLM", **settings)
    del settings["max_position_embeddings"]
    transformer = build_transformer_model(
        model="deberta_v2", with_mlm="linear", return_keras_model=False, **(DEBERTA | settings)
    )
    take_weights(transformer, reference)
    assert_same(run(transformer.model, TOKEN_IDS), outputs_of(torch, reference))
    one = TOKEN_IDS[:, :1]
    visible = np.ones_like(one, bool)
    assert_same(run(transformer.model, one), outputs_of(torch, reference, one, visible), visible)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"conv_groups": 2}, "conv_groups=1 only.*says 2"),
        ({"share_att_key": False}, "share_att_key=True only"),
        ({"pos_att_type": ["c2p"]}, "pos_att_type="),
        ({"position_biased_input": True}, "position_biased_input=False only"),
        ({"position_buckets": -1}, "position_buckets=-1"),
        ({"embedding_size": 16}, "embedding_size=16"),
    ],
)
def test_deberta_v2_refuses_what_it_does_not_implement(setting, message):
    with pytest.raises(ValueError, match=message):
        build_transformer_model(model="deberta_v2", **(DEBERTA | setting))


# ------------------------------------------------------------------------------------- DistilBERT


@pytest.mark.parametrize("act", ["gelu", "relu"])
def test_distilbert_is_that_of_transformers(torch, act):
    theirs = {"max_position_embeddings": 30, "activation": act, "hidden_dim": 40}
    names = {"hidden_size": "dim", "num_hidden_layers": "n_layers"}
    sizes = {names.get(key, key): value for key, value in SIZES.items()}
    reference = reference_model(torch, "DistilBertForMaskedLM", **theirs, **sizes)
    transformer = build_transformer_model(
        model="distilbert",
        with_mlm="linear",
        max_position=30,
        hidden_act=act,
        return_keras_model=False,
        **SIZES,
    )
    take_weights(transformer, reference)
    assert_same(run(transformer.model, TOKEN_IDS), outputs_of(torch, reference))


# ---------------------------------------------------------------------------------------- RoBERTa

ROBERTA = SIZES | {"max_position": 30, "hidden_act": "gelu"}
# In the middle of a row: two segments, each padded.
LEFT, MIDDLE = VISIBLE[:, ::-1].copy(), VISIBLE & (np.arange(LENGTH) % 7 < 5)


@pytest.mark.parametrize("padding", ["right", "left", "middle"])
@pytest.mark.parametrize(
    ("name", "kind", "segments"),
    [("roberta_hf", "RobertaForMaskedLM", 2), ("xlm_roberta", "XLMRobertaForMaskedLM", 1)],
)
def test_roberta_is_that_of_transformers(torch, name, kind, segments, padding):
    reference = reference_model(
        torch, kind, max_position_embeddings=30, type_vocab_size=segments, pad_token_id=3
    )
    transformer = build_transformer_model(
        model=name,
        with_mlm="linear",
        segment_vocab_size=segments,
        pad_token_id=3,
        return_keras_model=False,
        **ROBERTA,
    )
    take_weights(transformer, reference)
    visible = {"right": VISIBLE, "left": LEFT, "middle": MIDDLE}[padding]
    ids = np.where(visible, np.maximum(TOKEN_IDS, TOKEN_IDS[:1]), 3)
    more = {"token_type_ids": SEGMENT_IDS} if segments > 1 else {}
    found = run(transformer.model, ids, *more.values())
    assert_same(found, outputs_of(torch, reference, ids, visible, **more), visible)


def test_a_table_of_roberta_is_longer_than_its_texts():
    model = build_transformer_model(model="xlm_roberta", segment_vocab_size=1, **ROBERTA)
    ids = np.full((1, 28), 5)
    model.predict(ids, verbose=0)
    with pytest.raises(ValueError, match=r"has 29 positions, and 'Embedding-Position' has .* 28"):
        model.predict(np.full((1, 29), 5), verbose=0)


# -------------------------------------------------------------------------------------- ModernBERT

MODERNBERT = SIZES | {
    "num_hidden_layers": 4,
    "hidden_act": "gelu",
    "max_position": 64,
    "local_attention": 6,
}
THEIR_MODERNBERT = {
    "num_hidden_layers": 4,
    "max_position_embeddings": 64,
    "local_attention": 6,
    "pad_token_id": 3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "cls_token_id": 1,
    "sep_token_id": 2,
}
PADDED_WITH_3 = np.where(VISIBLE, TOKEN_IDS, 3)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {  # as newer configs say it
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 20.0},
            },
        },
    ],
)
def test_modernbert_is_that_of_transformers(torch, changes):
    reference = reference_model(torch, "ModernBertForMaskedLM", **(THEIR_MODERNBERT | changes))
    transformer = build_transformer_model(
        model="modernbert",
        with_mlm="linear",
        pad_token_id=3,
        return_keras_model=False,
        **(MODERNBERT | changes),
    )
    take_weights(transformer, reference)
    found = run(transformer.model, PADDED_WITH_3)
    assert_same(found, outputs_of(torch, reference, PADDED_WITH_3))


# --------------------------------------------------------------------------------- LLaMA and Qwen

DECODER = SIZES | {"num_key_value_heads": 2, "hidden_act": "silu"}
DECODERS = {
    "llama": ("LlamaForCausalLM", {"tie_word_embeddings": False}),
    "qwen2": ("Qwen2ForCausalLM", {"tie_word_embeddings": True, "rope_theta": 1000000.0}),
    "qwen3": ("Qwen3ForCausalLM", {"tie_word_embeddings": False, "head_dim": 16}),
    "qwen3 tied, with a window": (
        "Qwen3ForCausalLM",
        {
            "tie_word_embeddings": True,
            "head_dim": 16,
            "use_sliding_window": True,
            "sliding_window": 5,
            "max_window_layers": 1,
        },
    ),
}


def decoder(name, **settings):
    """Our model with the settings of a config of Hugging Face."""
    settings = {"final_activation": "linear", "max_position": 64} | DECODER | settings
    if head_size := settings.pop("head_dim", None):
        settings["attention_head_size"] = head_size
    return build_transformer_model(model=name.split()[0], return_keras_model=False, **settings)


@pytest.mark.parametrize("name", DECODERS)
def test_decoders_are_those_of_transformers(torch, name):
    kind, settings = DECODERS[name]
    reference = reference_model(
        torch, kind, max_position_embeddings=64, **(DECODER | settings), pad_token_id=0
    )
    transformer = decoder(name, **settings)
    take_weights(transformer, reference)
    assert_same(run(transformer.model, TOKEN_IDS), outputs_of(torch, reference))
    left = TOKEN_IDS[:, ::-1]
    masked = decoder(name, **settings, pad_token_id=0, prefix="Masked-")
    take_weights(masked, reference)
    visible = VISIBLE[:, ::-1].copy()
    assert_same(run(masked.model, left), outputs_of(torch, reference, left, visible), visible)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"layer_types": ["full_attention"]}, "has 1 entries, but num_hidden_layers is 2"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "no window is given"),
        ({"layer_types": ["full_attention", "linear_attention"]}, "layer_types="),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "longrope"),
    ],
)
def test_qwen_refuses_what_it_does_not_implement(setting, message):
    with pytest.raises(ValueError, match=message):
        decoder("qwen3", **setting)


# ------------------------------------------------------------------------ BART, mBART and Gemma 3

SIZES_OF_BART = {
    "vocab_size": 50,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 40,
    "max_position_embeddings": 30,
    "pad_token_id": 0,
}
SIZES_OF_GEMMA = SIZES | {
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "query_pre_attn_scalar": 9,
    "sliding_window": 5,
    "max_position_embeddings": 64,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "pad_token_id": 0,
}
FOLDERS = {
    "bart": ("BartForConditionalGeneration", SIZES_OF_BART),
    "bart with few blocks": (
        "BartForConditionalGeneration",
        SIZES_OF_BART
        | {"decoder_layers": 1, "scale_embedding": True, "activation_function": "relu"},
    ),
    "mbart": ("MBartForConditionalGeneration", SIZES_OF_BART | {"scale_embedding": True}),
    "gemma3": ("Gemma3ForCausalLM", SIZES_OF_GEMMA),
    "gemma3 scaled": (
        "Gemma3ForCausalLM",
        SIZES_OF_GEMMA
        | {
            "tie_word_embeddings": False,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 20.0},
            },
        },
    ),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_folders_of_transformers_compute_the_same(torch, tmp_path, name):
    import transformers

    kind, settings = FOLDERS[name]
    torch.manual_seed(0)
    start = kind.split("For")[0].replace("Gemma3", "Gemma3Text")
    reference = getattr(transformers, kind)(getattr(transformers, f"{start}Config")(**settings))
    with torch.no_grad():
        for path, tensor in reference.eval().state_dict().items():
            tensor.normal_(1.0 if "norm" in path and "weight" in path else 0.0, 0.3)
    reference.save_pretrained(tmp_path / "theirs")
    seq2seq = reference.config.is_encoder_decoder
    head = {"with_lm": "linear"} if seq2seq else {"final_activation": "linear"}
    transformer = build_transformer_model(tmp_path / "theirs", return_keras_model=False, **head)
    target = TOKEN_IDS[::-1, :9].copy()
    target[:, 0] = 2
    inputs, more = [TOKEN_IDS], {}
    if seq2seq:
        inputs, more = [TOKEN_IDS, target], {"decoder_input_ids": target}
    expected = outputs_of(torch, reference, **more)
    found = run(transformer.model, *inputs)
    visible = np.maximum.accumulate((inputs[-1] != 0)[:, ::-1], axis=1)[:, ::-1]
    assert_same(found, expected, visible)
    transformer.save_pretrained(tmp_path / "ours")
    again = getattr(transformers, kind).from_pretrained(tmp_path / "ours").eval()
    assert_same(outputs_of(torch, again, **more), expected, visible)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"architectures": ["CPTForConditionalGeneration"]},
            "'CPTForConditionalGeneration', whose",
        ),
        ({"decoder_ffn_dim": 80}, "encoder_ffn_dim=40 and decoder_ffn_dim=80"),
        ({"normalize_before": True}, "normalize_before="),
        ({"add_bias_logits": True}, "add_bias_logits="),
        ({"model_type": "gemma3_text", "final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, "bidirectional"),
        ({"model_type": "gemma3", "vision_config": {}}, "'gemma3', which is not implemented"),
    ],
)
def test_what_a_folder_asks_for_in_vain_is_refused(tmp_path, config, message):
    config = {"model_type": "bart"} | SIZES_OF_BART | SIZES_OF_GEMMA | config
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        build_transformer_model(tmp_path / "config.json")


SCALINGS = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "dynamic, longer": {
        "rope_type": "dynamic",
        "factor": 2.0,
        "original_max_position_embeddings": 64,  # which transformers does not read
    },
    "yarn": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 12,
    },
}


@pytest.mark.parametrize("kind", SCALINGS)
def test_rotary_scaling_is_that_of_transformers(torch, kind):
    reach = 10 if "dynamic" in kind else 64
    reference = reference_model(
        torch,
        "LlamaForCausalLM",
        max_position_embeddings=reach,
        rope_scaling=dict(SCALINGS[kind]),
        **DECODER,
    )
    transformer = decoder("llama", max_position=reach, rope_scaling=SCALINGS[kind])
    take_weights(transformer, reference)
    assert_same(run(transformer.model, TOKEN_IDS), outputs_of(torch, reference))
    newer = {**SCALINGS[kind], "rope_theta": 10000.0}
    assert decoder("llama", max_position=reach, rope_parameters=newer).rotary == transformer.rotary
    plain = reference_model(torch, "LlamaForCausalLM", max_position_embeddings=reach, **DECODER)
    plain.load_state_dict(reference.state_dict())
    difference = outputs_of(torch, reference) - outputs_of(torch, plain)
    assert np.abs(difference)[VISIBLE].max() > 1e-2  # the scaling matters


def test_a_word_of_id_0_is_no_padding_to_decoders():
    ids = np.array([[7, 0, 9], [7, 8, 9]], "int32")
    for settings in ({}, {"pad_token_id": 0}):  # which is padding around a text only
        last = run(decoder("qwen3", **settings).model, ids)[:, -1]
        assert np.abs(last[0] - last[1]).max() > 1e-6
    ids = np.array([[0, 0, 9], [7, 8, 9]], "int32")
    model = decoder("qwen3", pad_token_id=0).model
    changed = model.get_layer("Embedding-Token")
    before = run(model, ids)
    table = changed.get_weights()[0]
    table[0] += 1
    changed.set_weights([table])
    scores = run(model, ids)[..., 1:]
    # Changing the vector of padding changes nothing for the words after it.
    assert np.allclose(before[0, -1, 1:], scores[0, -1], atol=1e-6)


@pytest.mark.parametrize("tied", [True, False])
def test_a_trimmed_vocabulary_trims_the_scores_too(tmp_path, tied):
    settings = {"tie_word_embeddings": tied}
    full = decoder("llama", **settings)
    full.save_weights_as_checkpoint(tmp_path / "model.ckpt")
    keep = [3, 9, 20, 4]
    part = decoder("llama", **settings, keep_tokens=keep, checkpoint_path=tmp_path / "model.ckpt")
    ids = np.array([[1, 0, 3, 2]], "int32")
    expected = run(full.model, np.take(keep, ids).astype("int32"))[..., keep]
    assert np.allclose(run(part.model, ids), expected, atol=1e-5)


def test_padding_is_renumbered_with_the_vocabulary():
    kwargs = MODERNBERT | {"model": "modernbert", "pad_token_id": 40, "return_keras_model": False}
    kept = build_transformer_model(keep_tokens=[7, 8, 40, 9], **kwargs)
    layer = kept.layers["Embedding-Token"]
    mask = layer.compute_mask(keras.ops.array([[1, 2, 0, 2]]))
    assert keras.ops.convert_to_numpy(mask).tolist() == [[True, False, True, False]]
    assert type(layer).from_config(layer.get_config()).mask_id == 2
    with pytest.raises(ValueError, match="leaves out 40"):
        build_transformer_model(keep_tokens=[7, 8], **kwargs)


@pytest.mark.parametrize(
    ("of", "into"), [("qwen3", "llama"), ("qwen2", "llama"), ("qwen2", "qwen3"), ("llama", "qwen2")]
)
def test_checkpoints_of_related_decoders_are_told_apart(tmp_path, of, into):
    decoder(of).save_weights_as_checkpoint(tmp_path / "model.ckpt")
    with pytest.raises(CheckpointError):
        decoder(into, checkpoint_path=tmp_path / "model.ckpt")


# ------------------------------------------------------------------------------------------- GAU-α

GAU = SIZES | {
    "segment_vocab_size": 2,
    "max_position": 64,
    "hidden_act": "swish",
    "attention_key_size": 16,
}


def gau_alpha(weights, visible, key_size=16, units=40):
    """Hidden states of GAU-α, in float64 and written out; `visible` (batch, query, key)."""
    tokens, segments = weights["Embedding-Token"][0], weights["Embedding-Segment"][0]
    order = np.arange(LENGTH)[None]

    def normalised(x):
        return ref.norm(x, [1.0], 1e-7, rms=True)

    def rotated(x):
        return ref.rotate(x[:, :, None], order)[:, :, 0]

    x = normalised(tokens[TOKEN_IDS] + segments[SEGMENT_IDS])
    n_visible = np.maximum(visible.sum(-1, keepdims=True), 16)
    for i in range(SIZES["num_hidden_layers"]):
        kernel, q_gamma, k_gamma, o_kernel = weights[f"Transformer-{i}-GatedAttentionUnit"]
        hidden = x @ kernel
        hidden = hidden / (1 + np.exp(-hidden))
        gate, value, z = np.split(hidden, [units, 2 * units], axis=-1)
        scores = rotated(z * q_gamma) @ rotated(z * k_gamma).transpose(0, 2, 1) / key_size**0.5
        scores = np.where(visible, scores * np.log(n_visible) / np.log(512), -np.inf)
        x = normalised(x + gate * (ref.softmax(scores) @ value) @ o_kernel)
    return x


@pytest.mark.parametrize("application", ["encoder", "lm", "unilm"])
def test_gau_alpha_is_that_of_numpy(application):
    transformer = build_transformer_model(
        model="gau_alpha",
        application=application,
        with_mlm="linear",
        return_keras_model=False,
        **GAU,
    )
    rng = np.random.default_rng(0)
    for weight in transformer.model.weights:
        weight.assign(rng.normal(0, 0.4, weight.shape))
    weights = ref.weights_of(transformer.model)
    seen = {"encoder": True, "lm": ref.causal(LENGTH), "unilm": ref.unilm(SEGMENT_IDS)[:, 0]}
    hidden = gau_alpha(weights, VISIBLE[:, None] & seen[application])
    found = run(transformer.model, TOKEN_IDS, SEGMENT_IDS)
    assert_same(found, hidden @ weights["Embedding-Token"][0].T)


def test_gau_alpha_has_the_names_of_its_checkpoint():
    transformer = build_transformer_model(model="gau_alpha", return_keras_model=False, **GAU)
    layer = transformer.layers["Transformer-1-GatedAttentionUnit"]
    names = transformer.variable_mapping()[layer.name]
    prefix = "GAU_alpha/encoder/layer_1/gau/"
    ours = [weight_name(layer, weight) for weight in layer.weights]
    assert names == [prefix + name for name in ours]
    assert set(ours) == {
        "i_dense/kernel",
        "o_dense/kernel",
        "q_scaleoffset/gamma",
        "k_scaleoffset/gamma",
    }


def test_kernels_of_gau_alpha_shrink_more_slowly_with_the_depth():
    """Its depth counts to the power −1/3 (ZhuiyiTechnology/GAU-alpha), not −1/2 as before."""
    sizes = GAU | {"num_hidden_layers": 8, "intermediate_size": 64, "hidden_size": 256}
    transformer = build_transformer_model(model="gau_alpha", return_keras_model=False, **sizes)
    kernel = transformer.layers["Transformer-0-GatedAttentionUnit"].get_weights()[0]
    assert abs(kernel.std() * 256**0.5 - 0.5) < 0.02


# ------------------------------------------------------------------------------------ all of them

ALL = {
    "ernie": ERNIE | {"use_task_id": True, "with_mlm": True},
    "deberta_v2": DEBERTA | {"with_mlm": True, "position_buckets": 8, "conv_kernel_size": 3},
    "modernbert": MODERNBERT | {"with_mlm": True},
    "gau_alpha": GAU | {"with_mlm": True},
    **{
        name: DECODER | {"max_position": 64}
        for name in (*DECODERS, "gemma3_text")
        if " " not in name
    },
}


@pytest.mark.parametrize("name", ALL)
def test_saving_and_loading_changes_nothing(tmp_path, name):
    transformer = build_transformer_model(model=name, return_keras_model=False, **ALL[name])
    inputs = [TOKEN_IDS, SEGMENT_IDS][: len(transformer.inputs)]
    expected = run(transformer.model, *inputs)
    assert np.allclose(expected[VISIBLE].sum(-1), 1, atol=1e-5)  # probabilities by default
    transformer.model.save(tmp_path / "model.keras")
    assert np.array_equal(run(keras.models.load_model(tmp_path / "model.keras"), *inputs), expected)
    transformer.save_weights_as_checkpoint(tmp_path / "model.ckpt")
    again = build_transformer_model(
        checkpoint_path=tmp_path / "model.ckpt", model=name, **ALL[name]
    )
    for ours, loaded in zip(transformer.model.get_weights(), again.get_weights(), strict=True):
        assert np.array_equal(ours, loaded)


# UniLM shows the last token what has its segment, padding too unless a mask hides it. In decoders
# no token is padding.
@pytest.mark.parametrize(
    ("name", "application"),
    [
        ("deberta_v2", "lm"),
        ("deberta_v2", "unilm"),
        ("modernbert", "lm"),
        ("modernbert", "unilm"),
        ("llama", "unilm"),
        ("qwen2", "unilm"),
        ("qwen3", "unilm"),
    ],
)
def test_applications_without_a_meaning_are_refused(name, application):
    with pytest.raises(ValueError, match="cannot be built with application"):
        build_transformer_model(model=name, application=application, **ALL[name])


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("deberta_v2", "with_pool"),
        ("deberta_v2", "custom_position_ids"),
        ("modernbert", "with_nsp"),
        ("llama", "with_mlm"),
        ("qwen3", "hierarchical_position"),
    ],
)
def test_arguments_without_a_meaning_are_refused(name, argument):
    with pytest.raises(TypeError, match=f"has no argument '{argument}'"):
        build_transformer_model(model=name, **(ALL[name] | {argument: True}))


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("modernbert", {"norm_bias": True}),
        ("modernbert", {"tie_word_embeddings": False}),
        ("llama", {"attention_bias": True}),
        ("llama", {"use_sliding_window": True}),
    ],
)
def test_settings_that_are_not_implemented_are_refused(name, setting):
    ((key, value),) = setting.items()
    with pytest.raises(ValueError, match=f"with {key}={not value} only, .* says {value}"):
        build_transformer_model(model=name, **(ALL[name] | setting))
