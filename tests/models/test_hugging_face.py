"""Files of Hugging Face in both directions, compared with what `transformers` computes."""

import json
import warnings

import keras
import numpy as np
import pytest

from bert4keras import checkpoints, models
from bert4keras.backend import set_gelu
from bert4keras.checkpoints import CheckpointError
from bert4keras.models import BERT, build_transformer_model, building, configs
from bert4keras.tokenizers import SpTokenizer, Tokenizer, load_vocab

pytestmark = pytest.mark.eager

SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "hidden_act": "gelu",
    "max_position": 24,
    "initializer_range": 0.2,
}
GPT = SIZES | {"intermediate_size": 128, "hidden_act": "gelu_new", "final_activation": "linear"}
LLAMA = SIZES | {
    "hidden_act": "silu",
    "num_key_value_heads": 2,
    "attention_head_size": 16,
    "final_activation": "linear",
}
T5_SIZES = {key: value for key, value in SIZES.items() if key != "max_position"}
BART = SIZES | {"with_lm": "linear", "pad_token_id": 0}
T5 = T5_SIZES | {"with_lm": "linear", "cross_position_bias": False}
MLM = SIZES | {"with_mlm": "linear"}
NARROW = {"embedding_size": 16}
SCALED = {"tie_word_embeddings": True, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}
MASKED_LM = ("AutoModelForMaskedLM", "logits")
CAUSAL_LM = ("AutoModelForCausalLM", "logits")
SEQ2SEQ_LM = ("AutoModelForSeq2SeqLM", "logits")
# name → (our arguments, class of transformers, its output)
CASES = {
    "bert": (MLM, *MASKED_LM),
    "bert encoder": (SIZES | {"model": "bert"}, "AutoModel", "last_hidden_state"),
    "bert pooled": (SIZES | {"model": "bert", "with_pool": True}, "AutoModel", "pooler_output"),
    "bert lm": (MLM | {"model": "bert", "application": "lm"}, *CAUSAL_LM),
    "ernie": (MLM | {"use_task_id": True}, *MASKED_LM),
    "albert": (MLM | NARROW, *MASKED_LM),
    "albert_unshared": (MLM | NARROW, *MASKED_LM),
    "roformer": (MLM | NARROW, *MASKED_LM),
    "electra": (
        SIZES | NARROW | {"with_discriminator": "linear"},
        "AutoModelForPreTraining",
        "logits",
    ),
    "deberta_v2": (MLM | {"position_buckets": 4, "segment_vocab_size": 0}, *MASKED_LM),
    "distilbert": (MLM, *MASKED_LM),
    "distilbert encoder": (SIZES | {"model": "distilbert"}, "AutoModel", "last_hidden_state"),
    "roberta_hf": (MLM | {"segment_vocab_size": 1}, *MASKED_LM),
    "roberta lm": (MLM | {"model": "roberta_hf", "application": "lm"}, *CAUSAL_LM),
    "xlm_roberta": (MLM | {"segment_vocab_size": 1}, *MASKED_LM),
    "xlm_roberta pooled": (
        SIZES | {"model": "xlm_roberta", "segment_vocab_size": 1, "with_pool": True},
        "AutoModel",
        "pooler_output",
    ),
    "modernbert": (MLM | {"local_attention": 8}, *MASKED_LM),
    "gpt": (GPT | {"segment_vocab_size": 0}, *CAUSAL_LM),
    "gpt2": (GPT, *CAUSAL_LM),
    "llama": (LLAMA, *CAUSAL_LM),
    "llama scaled": (LLAMA | SCALED | {"model": "llama"}, *CAUSAL_LM),
    "qwen2": (LLAMA, *CAUSAL_LM),
    "qwen3": (LLAMA, *CAUSAL_LM),
    "qwen3 window": (
        LLAMA
        | {
            "model": "qwen3",
            "tie_word_embeddings": True,
            "use_sliding_window": True,
            "sliding_window": 3,
            "max_window_layers": 1,
        },
        *CAUSAL_LM,
    ),
    "gemma3_text": (
        LLAMA | {"hidden_act": "gelu_tanh", "sliding_window": 3, "sliding_window_pattern": 2},
        *CAUSAL_LM,
    ),
    "bart": (BART, *SEQ2SEQ_LM),
    "bart model": (
        BART | {"model": "bart", "with_lm": False, "pad_token_id": 1},
        "BartModel",
        "last_hidden_state",
    ),
    "mbart": (BART | {"num_decoder_layers": 1, "scale_embedding": True}, *SEQ2SEQ_LM),
    "t5.1.0": (T5 | {"hidden_act": "relu"}, *SEQ2SEQ_LM),
    "t5.1.1": (T5 | {"hidden_act": ["gelu", "linear"]}, *SEQ2SEQ_LM),
    "mt5.1.1": (T5 | {"hidden_act": ["gelu_new", "linear"]}, *SEQ2SEQ_LM),
    "t5.1.1_encoder": (
        T5_SIZES | {"hidden_act": ["gelu", "linear"]},
        "T5EncoderModel",
        "last_hidden_state",
    ),
}


def token_ids(low=1, pad=0):
    """Three rows of different lengths, padded with 0 or with another token."""
    ids = np.random.default_rng(0).integers(low, 40, (3, 11))
    ids[1, 7:] = ids[2, 9:] = 0
    return np.select([ids == 0, ids == pad], [pad, 0], ids)


def ours(transformer):
    """What a model of ours computes of `token_ids`."""
    ids = token_ids(pad=transformer.pad_token_id or 0)
    if hasattr(transformer, "decoder"):
        inputs = [ids, token_ids(2)[:, :6]]
    else:
        inputs = [ids, np.zeros_like(ids)][: len(transformer.inputs)]
    # Called, not predicted, for which TensorFlow would trace a graph for a single batch.
    outputs = transformer.model(inputs if len(inputs) > 1 else inputs[0])
    return keras.ops.convert_to_numpy(outputs)


def theirs(folder, loader, output):
    """The same, of `transformers`; and its model."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, report = getattr(transformers, loader).from_pretrained(
            folder, output_loading_info=True, attn_implementation="eager"
        )
        pad = model.config.pad_token_id or 0
        ids = torch.tensor(token_ids(pad=pad))
        inputs = {"input_ids": ids, "attention_mask": (ids != pad).long()}
        if model.config.is_encoder_decoder and loader != "T5EncoderModel":
            inputs["decoder_input_ids"] = torch.tensor(token_ids(2)[:, :6])
        with torch.no_grad():
            value = model.eval()(**inputs)[output].numpy()
    assert not report["unexpected_keys"] and not report["mismatched_keys"], report
    missing = {name for name in report["missing_keys"] if "pooler" not in name}
    assert missing <= {"roformer.encoder.embed_positions.weight"}, report
    return value, model


def randomised(transformer):
    """Give every weight a value of its own: zeros and ones would hide a wrong place."""
    rng = np.random.default_rng(1)
    for weight in transformer.model.trainable_weights:
        value = rng.normal(0, 0.2, weight.shape) + (1 if "gamma" in weight.path else 0)
        weight.assign(value.astype("float32"))
    return transformer


def build(name):
    """A model of ours with random weights."""
    arguments = {"model": name, **CASES[name][0], "return_keras_model": False}
    return randomised(build_transformer_model(**arguments))


def heads(name):
    """The arguments that say which outputs there are."""
    keys = ("with_mlm", "with_pool", "with_discriminator", "with_lm", "final_activation")
    given = {k: v for k, v in CASES[name][0].items() if k in (*keys, "application")}
    return given | {"return_keras_model": False}


def compare(a, b):
    a, b = (x.reshape(x.shape[:-1] if x.shape[-1] == 1 else x.shape) for x in (a, b))
    mask = np.ones(a.shape[:2], bool) if a.ndim < 3 else token_ids()[:, : a.shape[1]] != 0
    assert np.abs(a - b)[mask[: len(a), : a.shape[1]]].max() < 1e-4
    assert np.ptp(a) > 0.1


def equal(found, expected):
    """Compare outputs of the same weights: PyTorch adds by how a kernel lies in memory."""
    atol = 5e-6 if keras.backend.backend() == "torch" else 0
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("name", CASES)
def test_transformers_computes_the_same_and_gives_it_back(name, tmp_path):
    _, loader, output = CASES[name]
    transformer = build(name)
    expected = ours(transformer)
    transformer.save_pretrained(tmp_path / "ours")
    value, model = theirs(tmp_path / "ours", loader, output)
    compare(expected, value)

    model.save_pretrained(tmp_path / "theirs")
    back = build_transformer_model(tmp_path / "theirs", **heads(name))
    assert type(back).__name__ == type(transformer).__name__
    equal(ours(back), expected)


# ------------------------------------------------------------------------------- names in the wild


def spelled(tensors, name):
    """Ways in which files of Hugging Face name the same tensors."""
    if name == "bare model":
        return {k.removeprefix("bert."): v for k, v in tensors.items()}
    if name == "decoder bias":
        return {
            k.replace("predictions.bias", "predictions.decoder.bias"): v for k, v in tensors.items()
        }
    if name in PREFIXES:
        wrapped = {PREFIXES[name] + k: v for k, v in tensors.items()}
        return wrapped | {"2.linear.weight": np.zeros((3, 32), np.float32)}
    if name == "sentence transformer":
        bare = {k.removeprefix("bert."): v for k, v in tensors.items() if k.startswith("bert.")}
        return {f"0.auto_model.{k}": v for k, v in bare.items()}
    spellings = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    for old, new in spellings.items():
        tensors = {k.replace(old, new): v for k, v in tensors.items()}
    return tensors


PREFIXES = {"data parallel": "module.", "compiled": "_orig_mod.", "part": "model.encoder."}


@pytest.mark.parametrize(
    "name", ["bare model", "decoder bias", "gamma and beta", "sentence transformer", *PREFIXES]
)
def test_other_spellings_of_names_are_understood(name, tmp_path):
    transformer = build("bert encoder" if name == "sentence transformer" else "bert")
    transformer.save_pretrained(tmp_path)
    file = checkpoints.open_checkpoint(tmp_path)
    tensors = spelled({k: np.array(file[k]) for k in file}, name)
    tensors["bert.embeddings.position_ids"] = np.arange(24)[None]
    checkpoints.write_safetensors(tmp_path / "model.safetensors", tensors)
    given = {"with_mlm": transformer.with_mlm, "return_keras_model": False}
    back = build_transformer_model(tmp_path, **given)
    equal(ours(back), ours(transformer))


def test_of_several_models_in_a_file_none_is_guessed(tmp_path):
    transformer = build("bert encoder")
    transformer.save_pretrained(tmp_path)
    file = checkpoints.open_checkpoint(tmp_path)
    tensors = {f"{part}.{k}": np.array(file[k]) for part in ("query", "passage") for k in file}
    checkpoints.write_safetensors(tmp_path / "model.safetensors", tensors)
    with pytest.raises(CheckpointError, match=r"several models, under passage\., query\.: save"):
        build_transformer_model(tmp_path)


def test_a_bert_of_hugging_face_is_the_start_of_another_architecture(tmp_path):
    bert = build("bert encoder")
    bert.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="different architectures"):
        build_transformer_model(tmp_path, model="roformer")
    start = build_transformer_model(
        tmp_path, model="roformer", ignore_invalid_weights=True, return_keras_model=False
    )
    for name in ("Embedding-Token", "Transformer-1-FeedForward"):
        pairs = zip(start.layers[name].weights, bert.layers[name].weights, strict=True)
        for ours_, theirs_ in pairs:
            np.testing.assert_array_equal(ours_, theirs_)


@pytest.mark.parametrize("container", ["tensorflow", "npz", "keras", "torch", "shards"])
def test_every_container_is_loaded(container, tmp_path):
    transformer = build("bert")
    transformer.save_pretrained(tmp_path)
    file = checkpoints.open_checkpoint(tmp_path)
    tensors = {k: np.array(file[k]) for k in file}
    if container != "shards":
        (tmp_path / "model.safetensors").unlink()
    if container == "tensorflow":
        transformer.save_weights_as_checkpoint(tmp_path / "bert_model.ckpt")
    elif container == "npz":
        np.savez(tmp_path / "model.npz", **tensors)
    elif container == "keras":
        transformer.model.save_weights(tmp_path / "best_model.weights")
    elif container == "torch":
        torch = pytest.importorskip("torch")
        torch.save({k: torch.tensor(v) for k, v in tensors.items()}, tmp_path / "pytorch_model.bin")
    else:
        checkpoints.write_safetensors(tmp_path / "model.safetensors", tensors, shard_size=20_000)
        assert (tmp_path / "model.safetensors.index.json").exists()
    back = build_transformer_model(tmp_path, with_mlm="linear", return_keras_model=False)
    equal(ours(back), ours(transformer))


@pytest.mark.parametrize("replaced", ["read_config", "open_checkpoint"])
def test_a_folder_that_is_replaced_while_it_is_read(tmp_path, monkeypatch, replaced):
    """A config of the one model and weights of the other are never put together."""
    folder, old, new = tmp_path / "m", build("bert"), build("bert")
    old.save_pretrained(folder)
    new.model.get_layer("MLM-Bias").set_weights([np.full(40, 7.0)])
    module = configs if replaced == "read_config" else building
    read, others = getattr(module, replaced), [new]

    def reading(*args, **kwargs):
        if others:
            others.pop().save_pretrained(folder)
        return read(*args, **kwargs)

    monkeypatch.setattr(module, replaced, reading)
    calls = []

    def loaded(files, *rest):
        calls.append(files.checkpoint["cls.predictions.bias"].tolist())
        return new

    monkeypatch.setattr(building, "build_from_files", loaded)
    build_transformer_model(folder)
    assert calls == [[7.0] * 40]


def test_hooks_see_official_names(tmp_path):
    transformer = build("bert")
    transformer.save_pretrained(tmp_path)
    seen = []

    class Listening(BERT):
        def load_variable(self, checkpoint, name):
            seen.append((name, checkpoint[name].shape))
            return super().load_variable(checkpoint, name)

    build_transformer_model(tmp_path, model=Listening)
    assert ("bert/encoder/layer_1/intermediate/dense/kernel", (32, 48)) in seen


# -------------------------------------------------------------------------------------- vocabulary


TOKENS = {token: i for i, token in enumerate(["[PAD]", *(chr(0x4E00 + i) for i in range(39))])}
KEEP = [0, 7, 3, 20, 39]
COMPOUND = [[3, 5], ([7, 8], [0.25, 0.75])]


def trimmed(tmp_path, **kwargs):
    """A model whose vocabulary is cut down when it is loaded, with the folder it came from."""
    whole = build("bert")
    whole.save_pretrained(tmp_path / "whole", tokenizer=type("T", (), {"token_dict": TOKENS}))
    kwargs = {"with_mlm": "linear", "return_keras_model": False, **kwargs}
    return build_transformer_model(tmp_path / "whole", **kwargs)


def scores(transformer):
    ids = np.array([[1, 2, 3, 4, 2]])
    return transformer.model.predict_on_batch([ids, np.zeros_like(ids)])


@pytest.mark.filterwarnings("ignore:the tokenizer is not saved with the model")
@pytest.mark.parametrize("how", ["save_pretrained", "checkpoint"])
@pytest.mark.parametrize(
    "tokens",
    [
        {"keep_tokens": KEEP},
        {"compound_tokens": COMPOUND},
        {"keep_tokens": KEEP, "compound_tokens": [[1, 2]]},
    ],
)
def test_a_vocabulary_is_cut_down_once(tokens, how, tmp_path):
    transformer = trimmed(tmp_path, **tokens)
    expected = scores(transformer)
    kwargs = {"with_mlm": "linear", "return_keras_model": False}
    if how == "save_pretrained":
        config, checkpoint = tmp_path / "cut", None
        transformer.save_pretrained(config)
        as_saved = build_transformer_model(config, **kwargs)
        equal(scores(as_saved), expected)
        assert as_saved.keep_tokens == tokens.get("keep_tokens")
    else:
        config, checkpoint = tmp_path / "whole/config.json", tmp_path / "cut.ckpt"
        transformer.save_weights_as_checkpoint(checkpoint)
    again = build_transformer_model(config, checkpoint, **tokens, **kwargs)
    equal(scores(again), expected)
    other = {"keep_tokens": [*KEEP[:-1], 38], "compound_tokens": [[1, 4]]}
    with pytest.raises(ValueError, match="keep_tokens"):
        build_transformer_model(config, checkpoint, **{k: other[k] for k in tokens}, **kwargs)


def test_the_vocabulary_file_is_cut_down_too(tmp_path):
    trimmed(tmp_path, keep_tokens=KEEP).save_pretrained(tmp_path / "cut")
    tokens = load_vocab(tmp_path / "cut/vocab.txt")
    assert list(tokens) == [list(TOKENS)[i] for i in KEEP]
    assert list(tokens.values()) == list(range(len(KEEP)))


def test_a_file_cut_down_without_a_record_is_not_cut_again(tmp_path):
    """The original wrote no record: with small ids the wrong rows would be taken in silence."""
    transformer = trimmed(tmp_path, keep_tokens=[0, 2, 1, 3, 4])
    transformer.save_weights_as_checkpoint(tmp_path / "cut.ckpt")
    (tmp_path / "cut.ckpt.vocabulary.json").unlink()
    with pytest.raises(CheckpointError, match="of 40 tokens, and the checkpoint has 5"):
        build_transformer_model(
            tmp_path / "whole/config.json", tmp_path / "cut.ckpt", keep_tokens=[0, 2, 1, 3, 4]
        )


def test_a_record_does_not_outlive_its_checkpoint(tmp_path):
    trimmed(tmp_path, keep_tokens=KEEP).save_weights_as_checkpoint(tmp_path / "a.ckpt")
    trimmed(tmp_path).save_weights_as_checkpoint(tmp_path / "a.ckpt")
    assert not (tmp_path / "a.ckpt.vocabulary.json").exists()


# -------------------------------------------------------------------------------------- tokenizers

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"今天气好不abcABC,.", "##b", "##c", "ab"]
WORDS += ["é", "e", "你", "们", "##d", "1", "##1", "!", "，", "x"]
TEXTS = ["今天天气不好，", "ab ABC cab, é!", "你们[MASK] 11x", "", "？"]


@pytest.mark.parametrize("lower", [True, False])
def test_transformers_cuts_texts_as_the_tokenizer_did(tmp_path, lower):
    transformers = pytest.importorskip("transformers")
    tokens = {token: i for i, token in enumerate(WORDS)}
    tokenizer = Tokenizer(tokens, do_lower_case=lower)
    (tmp_path / "tokenizer.json").write_text("{}")  # of another model, which comes before others
    model = build_transformer_model(model="bert", **SIZES)
    model.save_pretrained(tmp_path, tokenizer)  # what is returned by default does it too
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("README.md", "config.json", "model.safetensors", "tokenizer_config.json", "vocab.txt")
    ]
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.model_max_length == SIZES["max_position"]
    for text in TEXTS:
        if "[" not in text:
            assert theirs(text)["input_ids"] == tokenizer.encode(text)[0], text
    ids, segments = tokenizer.encode(TEXTS[0], TEXTS[1])
    encoded = theirs(TEXTS[0], TEXTS[1])
    assert (encoded["input_ids"], encoded["token_type_ids"]) == (ids, segments)
    # Saved again without a tokenizer, the folder says the same.
    again = build_transformer_model(tmp_path)
    again.save_weights_as_checkpoint(tmp_path / "again.ckpt")
    again.save_pretrained(tmp_path / "again")
    for name in ("vocab.txt", "tokenizer_config.json"):
        content = json.loads((tmp_path / name).read_text()) if name.endswith("json") else None
        copy = (tmp_path / "again" / name).read_text()
        assert content is None or json.loads(copy) == content


def test_what_transformers_cannot_do_is_not_claimed(tmp_path):
    tokens = {token: i for i, token in enumerate(WORDS)}
    model = build_transformer_model(model="bert", **SIZES)
    model.save_pretrained(tmp_path, Tokenizer(tokens, pre_tokenize=lambda text: [text]))
    assert not (tmp_path / "tokenizer_config.json").exists()
    with pytest.raises(TypeError, match="is not what build_transformer_model returned"):
        models.Model(model.inputs, model.outputs).save_pretrained(tmp_path)


def test_a_tokenizer_of_sentencepiece_goes_along(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    (tmp_path / "text").write_text("今天天气好不好\n你们好\n" * 50, encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"), model_prefix=str(tmp_path / "spiece"), vocab_size=12,
        minloglevel=9, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
    )  # fmt: skip
    tokenizer = SpTokenizer(tmp_path / "spiece.model", token_start=None, token_end="</s>")
    arguments = T5_SIZES | {"hidden_act": "relu", "cross_position_bias": False}
    model = build_transformer_model(model="t5.1.0", **arguments)
    model.save_pretrained(tmp_path / "t5", tokenizer)
    pieces = (tmp_path / "t5/spiece.model").read_bytes()
    again = SpTokenizer(tmp_path / "t5/spiece.model", token_start=None, token_end="</s>")
    assert again.encode("今天好") == tokenizer.encode("今天好")
    back = build_transformer_model(tmp_path / "t5", return_keras_model=False)
    back.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again/spiece.model").read_bytes() == pieces
    # The model knows fewer tokens now, and what cuts them down does not know the pieces.
    cut = build_transformer_model(tmp_path / "t5", keep_tokens=[0, 1, 2, 5])
    with pytest.warns(UserWarning, match=r"spiece\.model cannot be cut down to keep_tokens; give"):
        cut.save_pretrained(tmp_path / "cut")
    assert not (tmp_path / "cut/spiece.model").exists()
    with pytest.raises(ValueError, match="has 12 tokens and the model 4"):
        cut.save_pretrained(tmp_path / "cut", tokenizer)


def test_names_of_compound_tokens_in_a_longer_vocabulary(tmp_path):
    names = [*list(TOKENS)[:40], "一二", "三四"]
    build("bert").save_pretrained(tmp_path / "whole")
    (tmp_path / "whole/vocab.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    given = {"compound_tokens": [[1, 2], [3, 4]], "return_keras_model": False}
    for keep, expected in ((None, names), (KEEP, [names[i] for i in (*KEEP, 40, 41)])):
        transformer = build_transformer_model(tmp_path / "whole", keep_tokens=keep, **given)
        for folder in ("first", "second"):  # the second time from what the first one wrote
            transformer.save_pretrained(tmp_path / folder)
            assert list(load_vocab(tmp_path / folder / "vocab.txt")) == expected
            transformer = build_transformer_model(tmp_path / folder, return_keras_model=False)


# ------------------------------------------------------------------------------------------ config


HF = {
    "model_type": "bert",
    "vocab_size": 20,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "hidden_act": "gelu",
    "max_position_embeddings": 12,
}


def written(folder, **changes):
    config = {k: v for k, v in (HF | changes).items() if v is not ...}
    (folder / "config.json").write_text(json.dumps(config))
    return folder / "config.json"


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({"model_type": "roberta"}, {"model": "roberta"}, "it is then 'roberta_hf'"),
        ({"model_type": "xlm-roberta", "is_decoder": True}, {}, "application='lm'"),
        ({"model_type": "megatron-bert"}, {"model": "bert"}, "megatron-bert"),
        ({}, {"model": "albert"}, "different architectures"),
        ({"model_type": "t5", "num_layers": 1, "num_decoder_layers": 2}, {}, "2 in the decoder"),
        ({"position_embedding_type": "relative_key"}, {}, "position_embedding_type"),
        ({"add_cross_attention": True}, {}, "add_cross_attention"),
        ({"is_decoder": True}, {}, "application='lm'"),
        ({"tie_word_embeddings": False}, {}, "tie_word_embeddings"),
        ({"hidden_act": "quick_gelu"}, {}, "quick_gelu"),
        (
            {"model_type": "albert", "num_hidden_groups": 2, "num_hidden_layers": 4},
            {},
            "num_hidden_groups=2",
        ),
        ({"model_type": "roformer", "rotary_value": True}, {}, "rotary_value"),
    ],
)
def test_what_is_not_implemented_is_refused(changes, arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        build_transformer_model(written(tmp_path, **changes), **arguments)


def test_the_exact_gelu_is_meant_whatever_set_gelu_says(tmp_path):
    path = written(tmp_path)
    set_gelu("tanh")
    try:
        transformer = build_transformer_model(path, return_keras_model=False)
        google = build_transformer_model(
            written(tmp_path, model_type=...), return_keras_model=False
        )
    finally:
        set_gelu("erf")
    layer = "Transformer-0-FeedForward"
    acts = [str(t.layers[layer].get_config()["activation"]) for t in (transformer, google)]
    assert "gelu_erf" in acts[0] and "gelu_tanh" in acts[1]


def test_old_configs_name_only_a_class(tmp_path):
    path = written(tmp_path, model_type=..., architectures=["AlbertForMaskedLM"], embedding_size=8)
    transformer = build_transformer_model(path, return_keras_model=False)
    assert type(transformer).__name__ == "ALBERT"
    assert transformer.block.epsilon == 1e-12


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("t5.1.0", T5 | {"hidden_act": "relu", "cross_position_bias": True}, "cross_position_bias"),
        ("t5.1.0_decoder", T5_SIZES | {"hidden_act": "relu"}, "the whole T5"),
        ("bert", SIZES | {"embedding_size": 16}, "embedding_size"),
        ("bert", SIZES | {"hidden_act": "elu"}, "elu"),
        ("bert", SIZES | {"residual_attention_scores": True}, "residual_attention_scores"),
        ("distilbert", SIZES | {"layer_norm_epsilon": 1e-5}, "has no layer_norm_epsilon"),
        ("xlm_roberta", SIZES | {"keep_tokens": [1, 0, 2, 3]}, "keep its id"),
        ("gpt", GPT | {"intermediate_size": 64, "segment_vocab_size": 0}, "intermediate_size"),
    ],
)
def test_what_hugging_face_cannot_describe_is_not_written(name, arguments, message, tmp_path):
    transformer = build_transformer_model(model=name, return_keras_model=False, **arguments)
    with pytest.raises(ValueError, match=message):
        transformer.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["nezha", "roformer_v2", "gau_alpha", "gpt2_ml"])
def test_architectures_that_transformers_lacks_come_back_here(name, tmp_path):
    arguments = {"with_mlm": "linear"} if name != "gpt2_ml" else {"final_activation": "linear"}
    transformer = randomised(
        build_transformer_model(
            model=name, attention_key_size=8, return_keras_model=False, **SIZES, **arguments
        )
    )
    transformer.save_pretrained(tmp_path)
    back = build_transformer_model(tmp_path, return_keras_model=False, **arguments)
    assert type(back) is type(transformer)
    equal(ours(back), ours(transformer))
