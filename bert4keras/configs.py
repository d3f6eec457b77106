"""Config files: the original's, which are our arguments, and the `config.json` of Hugging Face.

* `read_config` reads either, as arguments of an architecture, with the name of the architecture.
* `to_hugging_face` makes the `config.json` of a model.
* `recorded_vocabulary`, `vocabulary_record`: how a vocabulary was cut down is written beside the
  weights, so that it is not cut down twice.

What a key of Hugging Face is called here stands in one table, `FAMILIES`, for both directions.
"""

import inspect
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras

from bert4keras.backend import activation, gelu_erf, gelu_tanh, swish
from bert4keras.checkpoints import CheckpointError, jsons
from bert4keras.checkpoints.base import Damage
from bert4keras.text.generation_config import renumbered

# === The table ===


def _same(*keys: str) -> dict[str, str]:
    """Keys that are called the same here."""
    return {key: key for key in keys}


_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "pad_token_id")
_SAME = _same(*_SIZES, "intermediate_size", "hidden_act", "initializer_range")
_POSITIONS = {"max_position_embeddings": "max_position"}
_DROPOUT = {
    "hidden_dropout_prob": "dropout_rate",
    "attention_probs_dropout_prob": "attention_dropout_rate",
}
_BERT = {
    **_SAME,
    **_POSITIONS,
    **_DROPOUT,
    "type_vocab_size": "segment_vocab_size",
    "layer_norm_eps": "layer_norm_epsilon",
}
_FACTORED = {**_BERT, **_same("embedding_size")}
_GPT = {
    "vocab_size": "vocab_size",
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_inner": "intermediate_size",
    "n_positions": "max_position",
    "resid_pdrop": "dropout_rate",
    "attn_pdrop": "attention_dropout_rate",
    "initializer_range": "initializer_range",
    "layer_norm_epsilon": "layer_norm_epsilon",
    "pad_token_id": "pad_token_id",
}
_T5 = {
    "vocab_size": "vocab_size",
    "d_model": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "d_ff": "intermediate_size",
    "d_kv": "attention_head_size",
    "dropout_rate": "dropout_rate",
    "layer_norm_epsilon": "layer_norm_epsilon",
    "pad_token_id": "pad_token_id",
    "scale_decoder_outputs": "scale_outputs",
}
_LLAMA = {
    **_SAME,
    **_POSITIONS,
    "attention_dropout": "attention_dropout_rate",
    "rms_norm_eps": "layer_norm_epsilon",
    "head_dim": "attention_head_size",
    **_same(
        "num_key_value_heads",
        "tie_word_embeddings",
        "rope_theta",
        "rope_scaling",
        "rope_parameters",
    ),
}
_TIED = {"tie_word_embeddings": (True,)}
_NO_SEGMENTS = {"type_vocab_size": 0}
_NO_PADDING = {"pad_token_id": -1}


@dataclass(frozen=True)
class Family:
    """How Hugging Face describes one `model_type`.

    Attributes:
        models: our architectures that it may be, the first one if `model=` does not say.
        name: what the names of its classes begin with.
        keys: its keys, and our arguments that they are.
        defaults: what its missing keys mean.
        fixed: keys that may only have these values.
        causal: how the name of its class for language models ends; empty if there is none.
    """

    models: tuple[str, ...]
    name: str
    keys: Mapping[str, str]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    causal: str = ""


def _t5_family(versions: Sequence[str], name: str) -> Family:
    models = tuple(f"{v}{part}" for v in versions for part in ("", "_encoder", "_decoder"))
    defaults = {"feed_forward_proj": "relu", "layer_norm_epsilon": 1e-6}
    fixed = {"relative_attention_num_buckets": (32,), "relative_attention_max_distance": (128,)}
    return Family(models, name, _T5, defaults, fixed)


_EPSILON = {"layer_norm_eps": 1e-12}
_LLAMA_DEFAULTS = {"hidden_act": "silu", "rms_norm_eps": 1e-6, **_NO_SEGMENTS}

FAMILIES: Mapping[str, Family] = {
    "bert": Family(("bert", "roberta"), "Bert", _BERT, _EPSILON, _TIED, "LMHeadModel"),
    "albert": Family(("albert", "albert_unshared"), "Albert", _FACTORED, _EPSILON, _TIED),
    "nezha": Family(
        ("nezha",), "Nezha", _BERT, _EPSILON, {"max_relative_position": (64,), **_TIED}
    ),
    "roformer": Family(
        ("roformer", "roformer_v2"),
        "RoFormer",
        _FACTORED,
        _EPSILON,
        {"rotary_value": (False,), **_TIED},
        "ForCausalLM",
    ),
    "electra": Family(("electra",), "Electra", _FACTORED, _EPSILON),
    "ernie": Family(
        ("ernie",),
        "Ernie",
        {**_BERT, **_same("use_task_id", "task_type_vocab_size")},
        _EPSILON,
        _TIED,
        "ForCausalLM",
    ),
    "deberta-v2": Family(
        ("deberta_v2",),
        "DebertaV2",
        {
            **_BERT,
            **_same(
                "position_buckets",
                "max_relative_positions",
                "norm_rel_ebd",
                "conv_kernel_size",
                "conv_act",
                "legacy",
            ),
        },
        {"layer_norm_eps": 1e-7, "norm_rel_ebd": "none", **_NO_SEGMENTS},
        _TIED,
    ),
    "modernbert": Family(
        ("modernbert",),
        "ModernBert",
        {
            **_same(*_SIZES, "intermediate_size", "initializer_range"),
            **_POSITIONS,
            "hidden_activation": "hidden_act",
            "norm_eps": "layer_norm_epsilon",
            "mlp_dropout": "dropout_rate",
            "attention_dropout": "attention_dropout_rate",
            **_same(
                "global_attn_every_n_layers",
                "layer_types",
                "local_attention",
                "global_rope_theta",
                "local_rope_theta",
                "rope_parameters",
            ),
        },
        {"hidden_activation": "gelu", "norm_eps": 1e-5, **_NO_SEGMENTS},
    ),
    "gpt2": Family(
        ("gpt2",),
        "GPT2",
        {**_GPT, "activation_function": "hidden_act"},
        {"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, **_NO_PADDING},
        {
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            **_TIED,
        },
        "LMHeadModel",
    ),
    "openai-gpt": Family(
        ("gpt",),
        "OpenAIGPT",
        {**{k: v for k, v in _GPT.items() if k != "n_inner"}, "afn": "hidden_act"},
        {"afn": "gelu", "layer_norm_epsilon": 1e-5, **_NO_SEGMENTS, **_NO_PADDING},
        _TIED,
        "LMHeadModel",
    ),
    "t5": _t5_family(("t5", "t5.1.0", "t5.1.1", "mt5.1.1"), "T5"),
    "mt5": _t5_family(("mt5.1.1", "t5.1.1", "t5"), "MT5"),
    "llama": Family(("llama",), "Llama", _LLAMA, _LLAMA_DEFAULTS, causal="ForCausalLM"),
    "qwen2": Family(("qwen2",), "Qwen2", _LLAMA, _LLAMA_DEFAULTS, causal="ForCausalLM"),
    "qwen3": Family(
        ("qwen3",), "Qwen3", _LLAMA, {"head_dim": 128, **_LLAMA_DEFAULTS}, causal="ForCausalLM"
    ),
    # Hugging Face has no such models; these are files of ours, and of their publishers.
    "roformer_v2": Family(("roformer_v2",), "RoFormerV2", _FACTORED),
    "gau_alpha": Family(("gau_alpha",), "GAUAlpha", {**_FACTORED, **_same("attention_key_size")}),
    "gpt2_ml": Family(("gpt2_ml",), "GPT2ML", _FACTORED, _NO_SEGMENTS),
}
"""By the `model_type` of Hugging Face."""

_OURS = ("RoFormerV2", "GAUAlpha", "GPT2ML")
"""Families of which Hugging Face has no model, so that only this library reads them."""

_FIXED = {
    "position_embedding_type": ("absolute", None),
    "add_cross_attention": (False,),
    "quantization_config": (None,),
}
"""What holds for every family."""

_MARKS = ("model_type", "architectures", "transformers_version", "n_embd", "d_model")
"""Keys of which a config of Hugging Face has one, and the original's have none."""

# gelu is the exact form in Hugging Face, whatever `set_gelu` says; OpenAI's GPT is the exception.
_ACTIVATIONS = {
    "gelu": "gelu_erf",
    "gelu_python": "gelu_erf",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
    "tanh": "tanh",
    "linear": "linear",
}
_FUNCTIONS = {
    gelu_erf: "gelu",
    gelu_tanh: "gelu_new",
    swish: "silu",
    keras.activations.silu: "silu",
    keras.activations.relu: "relu",
    keras.activations.tanh: "tanh",
    keras.activations.linear: "linear",
}

_RECORD = "bert4keras"
"""The key of `config.json` under which we write what Hugging Face has no key for."""

# === Reading ===


def read_config(
    path: str | Path | None,
    model: str | type | None = None,
    application: str = "encoder",
    strict: bool = True,
) -> tuple[dict[str, Any], str | None]:
    """Read a config file as arguments of an architecture.

    Args:
        path: the file; None for no arguments.
        model: the architecture if it is given: a file of another one is refused.
        application: see `build_transformer_model`.
        strict: whether to refuse a file of another architecture than `model`. Otherwise its keys
            mean what they mean there.

    Returns:
        The arguments; and the name of the architecture if the file says it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no config, of another architecture, or asks for what is not implemented.
    """
    config = {} if path is None else read_json(path)
    _check_types(config, path)
    if not any(key in config for key in _MARKS):
        _check_fixed(config, _FIXED, path)
        if config.get("keep_tokens") or config.get("compound_tokens"):
            _check_record(config, path)
            compound = config.get("compound_tokens")
            config["compound_tokens"] = compound and [_from_compound(x) for x in compound]
        # As the published configs of NEZHA say it.
        return config, "nezha" if config.get("use_relative_position") is True else None
    model_type = model_type_of(config, path)
    family = FAMILIES[model_type]
    inferred = _inferred(config, family, path)
    if isinstance(model, str) and strict:
        _check_model(model.lower(), model_type, inferred, path)
    config = {**family.defaults, **config}
    if model_type.endswith("t5"):
        config = _t5_settings(config, path)
    _check_fixed(config, {**_FIXED, **family.fixed}, path)
    _check_causal(config, family, application, path)
    arguments = {k: v for k, v in config.items() if k not in ("name", "prefix", "layers")}
    for theirs, ours in family.keys.items():
        if theirs in config:
            arguments[ours] = config[theirs]
    if "segment_vocab_size" not in arguments:
        arguments["segment_vocab_size"] = config.get("type_vocab_size", 2)
    if not arguments.get("intermediate_size") and "n_embd" in config:
        arguments["intermediate_size"] = 4 * config["n_embd"]
    if arguments.get("pad_token_id") is None:
        arguments["pad_token_id"] = family.defaults.get("pad_token_id")
    if model_type == "openai-gpt" and config["afn"] == "gelu":
        arguments["hidden_act"] = "gelu_new"
    arguments["hidden_act"] = _activations(arguments.get("hidden_act", "gelu"), path)
    return _with_vocabulary(arguments, path), inferred


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such file, or larger than any config.
    """
    if not Path(path).exists():
        raise FileNotFoundError(
            f"there is no config file {path}: config_path is a file such as bert_config.json, or "
            "the folder of a checkpoint"
        )
    try:
        return jsons.read_json(Path(path), nan=True)  # settings that are NaN are refused by name
    except Damage as damage:
        raise ValueError(f"{path} is not a JSON config file: {damage}. {damage.advice}") from None


_TYPES = {
    "model_type": str,
    "architectures": list,
    "feed_forward_proj": str,
    "dense_act_fn": str,
    "afn": str,
    _RECORD: Mapping,
}
"""Of keys that are looked at before the others."""


def _check_types(config: Mapping[str, Any], path: Any) -> None:
    for key, kind in _TYPES.items():
        value = config.get(key)
        if value is not None and not isinstance(value, kind):
            words = {str: "a string", list: "a list", Mapping: "an object"}[kind]
            raise ValueError(f"{path} has {key}={str(value)[:100]!r}: expected {words}")
    if not all(isinstance(name, str) for name in config.get("architectures") or ()):
        raise ValueError(f"{path} has architectures that are no names of classes")


def model_type_of(config: Mapping[str, Any], path: Any) -> str:
    """Return the `model_type`, which old files only tell by the name of a class.

    Raises:
        ValueError: it is not one of `FAMILIES`.
    """
    model_type = config.get("model_type")
    named = (config.get("architectures") or [""])[0]
    if model_type is None:
        starts = {f"{family.name}{end}": key for key, family in FAMILIES.items() for end in _ENDS}
        model_type = starts.get(named, "gpt2" if "n_embd" in config else None)
    if model_type is None and not named:
        model_type = "t5" if "d_model" in config else "bert"
    if model_type in FAMILIES:
        return model_type
    hint = ""
    if "roberta" in str(model_type or named).lower():
        hint = ". Chinese RoBERTa is model_type 'bert'; this one counts positions from 2"
    raise ValueError(
        f"{path} is of the architecture {model_type or named!r}, which is not implemented{hint}; "
        f"there are {', '.join(FAMILIES)}"
    )


_ENDS = (
    "Model",
    "ForMaskedLM",
    "ForPreTraining",
    "LMHeadModel",
    "ForCausalLM",
    "ForNextSentencePrediction",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForConditionalGeneration",
    "EncoderModel",
)


def _inferred(config: Mapping[str, Any], family: Family, path: Any) -> str:
    model = family.models[0]
    if family.name in ("T5", "MT5"):
        gated = str(config.get("feed_forward_proj", "relu")).startswith("gated")
        model = "mt5.1.1" if family.name == "MT5" else "t5.1.1" if gated else "t5.1.0"
        encoder = (config.get("architectures") or [""])[0].endswith("EncoderModel")
        return f"{model}_encoder" if encoder else model
    if config.get("norm_type") == "rms_norm" and "roformer_v2" in family.models:
        return "roformer_v2"
    groups = config.get("num_hidden_groups", 1)
    if family.name == "Albert" and groups != 1:
        if groups != config.get("num_hidden_layers"):
            raise ValueError(
                f"{path} has num_hidden_groups={groups}: implemented are 1 and one for each of "
                f"the {config.get('num_hidden_layers')} layers"
            )
        return "albert_unshared"
    return model


def _check_model(model: str, model_type: str, inferred: str, path: Any) -> None:
    """Refuse a `model=` that contradicts the file."""
    allowed = FAMILIES[model_type].models
    if "t5" in inferred:
        gated = "1.1" in inferred
        allowed = [m for m in allowed if "." not in m or ("t5.1.1" in m) == gated]
    if model not in allowed:
        raise ValueError(
            f"model={model!r} and {path}, whose model_type is {model_type!r}, are of different "
            f"architectures: leave model= out (it is then {inferred!r}) or use the config of "
            f"your model"
        )


def _check_fixed(config: Mapping[str, Any], fixed: Mapping[str, Sequence], path: Any) -> None:
    for key, allowed in fixed.items():
        if key in config and config[key] not in allowed:
            raise ValueError(
                f"{path} has {key}={str(config[key])[:200]!r}, which is not implemented; expected "
                f"{' or '.join(map(repr, allowed))}"
            )


def _check_causal(config: Mapping[str, Any], family: Family, application: str, path: Any) -> None:
    if config.get("is_decoder") and family.causal and application != "lm":
        raise ValueError(
            f"{path} has is_decoder=True, a model that sees only what is before each token: pass "
            "application='lm'"
        )


def _t5_settings(config: dict[str, Any], path: Any) -> dict[str, Any]:
    """Say in our terms how T5 is gated and scaled."""
    layers = config.get("num_layers")
    if config.get("num_decoder_layers") not in (None, layers):
        raise ValueError(
            f"{path} has {layers} layers in the encoder and {config['num_decoder_layers']} in the "
            "decoder; implemented are equal numbers"
        )
    kind = config["feed_forward_proj"]
    gated = kind.startswith("gated-")
    # Its gated gelu is the approximation by tanh unless the file says more.
    act = "gelu_new" if kind == "gated-gelu" else kind.removeprefix("gated-")
    act = config.get("dense_act_fn", act)
    mt5 = config.get("model_type") == "mt5"
    return {
        "scale_decoder_outputs": not mt5 and config.get("tie_word_embeddings") is not False,
        **config,
        "hidden_act": [act, "linear"] if gated else act,
        "version": ("mt5.1.1" if mt5 else "t5.1.1") if gated else "t5.1.0",
        # Hugging Face gives attention to the context no positions.
        "cross_position_bias": config.get("cross_position_bias", False),
    }


def _activations(given: Any, path: Any) -> Any:
    if isinstance(given, list):
        return [_activations(each, path) for each in given]
    if not isinstance(given, str) or given not in _ACTIVATIONS:
        raise ValueError(
            f"{path} has the activation {str(given)[:100]!r}; implemented are "
            f"{', '.join(_ACTIVATIONS)}"
        )
    return _ACTIVATIONS[given]


# === The vocabulary that weights were saved with ===


def vocabulary_record(transformer: Any) -> dict[str, Any] | None:
    """Return how a model's vocabulary was cut down or extended; None if it was not."""
    keep, compound = transformer.keep_tokens, transformer.compound_tokens
    if keep is None and compound is None:
        return None
    both = {"keep_tokens": keep, "compound_tokens": compound}
    return {"vocab_size": int(transformer.full_vocab_size), **plain(both)}


def plain(tokens: Mapping[str, Any]) -> dict[str, Any]:
    """Return `keep_tokens` and `compound_tokens` as JSON has them."""
    keep, compound = tokens.get("keep_tokens"), tokens.get("compound_tokens")
    return {
        "keep_tokens": None if keep is None else [int(i) for i in keep],
        "compound_tokens": None if compound is None else [_compound(item) for item in compound],
    }


def _compound(item: Any) -> list:
    """The ids of a compound token, or [ids, weights]."""
    if isinstance(item, tuple):
        return [[int(i) for i in item[0]], [float(w) for w in item[1]]]
    return [int(i) for i in item]


def _from_compound(item: list) -> Any:
    return tuple(item) if item and isinstance(item[0], list) else item


def saved_size(record: Mapping[str, Any]) -> int:
    """Return the number of tokens after cutting down and extending."""
    keep, compound = record["keep_tokens"], record["compound_tokens"]
    return (record["vocab_size"] if keep is None else len(keep)) + len(compound or [])


def recorded_vocabulary(checkpoint: Path) -> dict[str, Any] | None:
    """Return what was recorded beside weights: how their vocabulary differs from the first one.

    Args:
        checkpoint: the file, or prefix of a TensorFlow checkpoint.

    Raises:
        CheckpointError: what lies there is no record.
    """
    beside, config = record_path(checkpoint), checkpoint.with_name("config.json")
    try:
        if beside.is_file():
            return _check_record(jsons.read_json(beside), beside)
        if checkpoint.name.startswith("model.safetensors") and config.is_file():
            record = _recorded(read_json(config), config)
            return None if record is None else _check_record(record, config)
    except Damage as damage:
        raise CheckpointError(f"{beside} is no record of a vocabulary: {damage}") from None
    return None


def _recorded(config: Mapping[str, Any], path: Any) -> Mapping[str, Any] | None:
    """The record in a config, if there is one."""
    _check_types(config, path)
    record = (config.get(_RECORD) or {}).get("vocabulary")
    if record is not None and not isinstance(record, Mapping):
        raise CheckpointError(f"{path} has a vocabulary that is no object")
    return record


def _check_record(record: Mapping[str, Any], path: Any) -> dict[str, Any]:
    """Check that a record says what a record says, of tokens that there are."""
    names = ("vocab_size", "keep_tokens", "compound_tokens")
    size, keep, compound = (record.get(name) for name in names)
    whole = type(size) is int and isinstance(compound, list | None)
    kept = whole and (keep is None or _are_ids(keep, size))
    if kept and all(_is_compound(item, size) for item in compound or ()):
        return dict(zip(names, (size, keep, compound), strict=True))
    raise CheckpointError(
        f"{path} does not say which tokens a vocabulary was cut down to: expected vocab_size, "
        "keep_tokens and compound_tokens, with ids below vocab_size"
    )


def _is_compound(item: Any, size: int) -> bool:
    match item:
        case [[*ids], [*weights]]:
            numbers = all(type(weight) in (int, float) for weight in weights)
            return bool(ids) and len(ids) == len(weights) and numbers and _are_ids(ids, size)
    return bool(item) and _are_ids(item, size)


def _are_ids(ids: Any, size: int) -> bool:
    return isinstance(ids, list) and all(type(i) is int and 0 <= i < size for i in ids)


def record_path(checkpoint: Path) -> Path:
    """Return where the vocabulary of a checkpoint is recorded."""
    return checkpoint.with_name(f"{checkpoint.name}.vocabulary.json")


def write_json(path: Path, config: Mapping[str, Any]) -> None:
    """Write a config file."""
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")


def write_record(checkpoint: str | Path, record: Mapping[str, Any] | None) -> None:
    """Write a record beside a checkpoint, if there is one."""
    if record is not None:
        path = record_path(Path(checkpoint))
        path.write_text(json.dumps(record) + "\n", encoding="utf-8")


def _with_vocabulary(arguments: dict[str, Any], path: Any) -> dict[str, Any]:
    """Turn a recorded vocabulary into the arguments that it came from."""
    record = _recorded({_RECORD: arguments.pop(_RECORD, None)}, path)
    if record is None:
        return arguments
    record = _check_record(record, path)
    if saved_size(record) != arguments["vocab_size"]:
        raise ValueError(
            f"{path} says vocab_size={arguments['vocab_size']}, and that the vocabulary was cut "
            f"down to {saved_size(record)} tokens. If it was changed since, remove {_RECORD!r}"
        )
    keep, compound = record["keep_tokens"], record["compound_tokens"]
    pad = arguments.get("pad_token_id")
    if keep is not None and pad is not None and pad > 0:
        arguments["pad_token_id"] = keep[pad]
    return arguments | {
        "vocab_size": record["vocab_size"],
        "keep_tokens": keep,
        "compound_tokens": compound and [_from_compound(item) for item in compound],
    }


# === Writing ===


def to_hugging_face(transformer: Any, causal: bool) -> dict[str, Any]:
    """Return the `config.json` of a model.

    Args:
        transformer: the built model.
        causal: whether it is a language model in which a token sees only what is before it.

    Raises:
        ValueError: Hugging Face cannot say what the model is.
    """
    model_type = transformer.model_type
    if model_type == "mt5" and _setting(transformer, "scale_outputs"):
        model_type = "t5"  # which is the same, and says whether outputs are scaled
    family = FAMILIES[model_type]
    config: dict[str, Any] = {
        "model_type": model_type,
        "architectures": [architecture_name(transformer, family, causal)],
    }
    config |= {key: values[0] for key, values in transformer.fixed_settings.items()}
    for theirs, ours in family.keys.items():
        value = _setting(transformer, ours)
        if value is not None:
            config[theirs] = value
    if model_type.endswith("t5"):
        config |= _t5_config(transformer)
    if model_type == "albert":
        shared = "{i" not in transformer.block.name
        config["num_hidden_groups"] = 1 if shared else transformer.num_hidden_layers
    if model_type == "openai-gpt":
        config["afn"] = _gpt_activation(transformer)
    _check_expressible(transformer, family)
    if causal and family.causal and "type_vocab_size" in family.keys:
        config["is_decoder"] = True
    if config.get("pad_token_id") == -1 or transformer.pad_token_id is None:
        config["pad_token_id"] = None
    names = ("bos_token_id", "eos_token_id", "decoder_start_token_id")
    ids, kept = {name: transformer.settings.get(name) for name in names}, transformer.kept_of_folder
    config |= ids if kept is None else dict.fromkeys(names) | renumbered(ids, kept)
    if model_type.endswith("t5"):
        config["decoder_start_token_id"] = 0
    record = vocabulary_record(transformer)
    return config if record is None else config | {_RECORD: {"vocabulary": record}}


_ORIGINAL = {
    "max_position": "max_position_embeddings",
    "segment_vocab_size": "type_vocab_size",
    "dropout_rate": "hidden_dropout_prob",
    "attention_dropout_rate": "attention_probs_dropout_prob",
}


def keys_of(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return what a config calls our arguments where it calls them otherwise."""
    keys = {ours: theirs for ours, theirs in _ORIGINAL.items() if theirs in settings}
    family = FAMILIES.get(settings.get("model_type"))
    if family is not None:
        keys |= {ours: theirs for theirs, ours in family.keys.items() if theirs in settings}
    return keys


_OF_A_CALL = re.compile(
    r"with_|custom_|masked_|ignore_|autoresize_|final_activation|prefix|name|layers$|recompute"
)


def to_original(transformer: Any) -> dict[str, Any]:
    """Return the settings that a model was built from, as the original's config files have them."""
    constructors = [cls.__init__ for cls in type(transformer).__mro__[:-1]]
    known = {name for init in constructors for name in inspect.signature(init).parameters}
    config = {
        _ORIGINAL.get(name, name): value
        for name, value in transformer.settings.items()
        if name in known and value is not None and not _OF_A_CALL.match(name)
    }
    if config.get("hidden_act") == "gelu_erf":
        config["hidden_act"] = "gelu"
    if transformer.model_type == "nezha":
        config["use_relative_position"] = True  # as in the published configs: it is no RoFormer
    record = vocabulary_record(transformer)
    return config if record is None else config | record


def architecture_name(transformer: Any, family: Family, causal: bool) -> str:
    """Return the class of `transformers` that a model is, by its heads."""
    masked, pairs = (getattr(transformer, f"with_{head}", False) for head in ("mlm", "nsp"))
    if family.name in ("T5", "MT5"):
        if not hasattr(transformer, "encoder") and transformer.part != "Encoder-":
            raise ValueError(
                "the decoder of T5 is no model of its own in Hugging Face: save the whole T5, or "
                "use save_weights_as_checkpoint"
            )
        return family.name + ("EncoderModel" if transformer.part else "ForConditionalGeneration")
    if not getattr(transformer, "with_lm", True):
        return f"{family.name}Model"
    if causal and family.causal:
        return family.name + family.causal
    if getattr(transformer, "with_discriminator", False) or (masked and pairs):
        return f"{family.name}ForPreTraining"
    if masked:
        return f"{family.name}ForMaskedLM"
    return family.name + ("ForNextSentencePrediction" if pairs else "Model")


def _setting(transformer: Any, name: str) -> Any:
    """The value of one of our arguments in a model."""
    if name == "layer_norm_epsilon":
        return transformer.block.epsilon
    if name == "hidden_act":
        return to_activation(transformer.hidden_act)
    if name == "max_relative_positions":
        return transformer.max_distance
    if name in ("scale_outputs", "cross_position_bias"):
        return getattr(getattr(transformer, "_decoder", transformer), name, None)
    value = getattr(transformer, name, None)
    return transformer.settings.get(name) if value is None else value


def to_activation(given: Any) -> Any:
    """Return the name that Hugging Face has for an activation.

    Raises:
        ValueError: it has none.
    """
    if isinstance(given, list | tuple):
        return [to_activation(each) for each in given]
    function = activation(given)
    if function not in _FUNCTIONS:
        raise ValueError(
            f"Hugging Face has no name for the activation {given!r}; there are "
            f"{', '.join(_FUNCTIONS.values())}"
        )
    return _FUNCTIONS[function]


def _t5_config(transformer: Any) -> dict[str, Any]:
    if _setting(transformer, "cross_position_bias"):
        raise ValueError(
            "Hugging Face's T5 has no position bias in the attention to the context: build the "
            "model with cross_position_bias=False, or use save_weights_as_checkpoint"
        )
    acts = to_activation(transformer.hidden_act)
    gated = isinstance(acts, list)
    if gated != transformer.gated or (gated and acts[1:] != ["linear"]):
        raise ValueError(
            f"Hugging Face has no T5 of version {transformer.version!r} with hidden_act="
            f"{transformer.hidden_act!r}: use save_weights_as_checkpoint"
        )
    act = acts[0] if gated else acts
    return {
        "is_encoder_decoder": not transformer.part,
        "feed_forward_proj": f"gated-{act.replace('gelu_new', 'gelu')}" if gated else act,
        "dense_act_fn": act,
        "is_gated_act": gated,
        "tie_word_embeddings": not gated,
    }


def _gpt_activation(transformer: Any) -> str:
    """Its 'gelu' is the approximation by tanh."""
    act = to_activation(transformer.hidden_act)
    if act not in ("gelu_new", "relu", "silu"):
        raise ValueError(f"Hugging Face has no GPT with hidden_act={transformer.hidden_act!r}")
    return "gelu" if act == "gelu_new" else act


def _check_expressible(transformer: Any, family: Family) -> None:
    """Refuse to write a model that its config would not describe."""
    ours = set(family.keys.values())
    layers = transformer.model.layers
    width = transformer.num_attention_heads * transformer.attention_head_size
    heads_fit = "attention_head_size" in ours or width == transformer.hidden_size
    keys_fit = (
        "attention_key_size" in ours
        or transformer.attention_key_size == transformer.attention_head_size
    )
    reasons = {
        "embedding_size": "embedding_size" in ours
        or transformer.embedding_size == transformer.hidden_size,
        "attention_head_size": heads_fit,
        "attention_key_size": keys_fit,
        "residual_attention_scores": not transformer.residual_attention_scores,
        "shared_segment_embeddings": not getattr(transformer, "shared_segment_embeddings", False),
        "hidden_act": not isinstance(transformer.hidden_act, list | tuple)
        or family.name in ("T5", "MT5", *_OURS),
        "layer_norm_cond": not any(getattr(x, "conditional", False) for x in layers),
        "intermediate_size": "intermediate_size" in ours
        or transformer.intermediate_size == 4 * transformer.hidden_size,
        "segment_vocab_size": "type_vocab_size" in family.keys
        if getattr(transformer, "segment_vocab_size", 0)
        else family.defaults.get("type_vocab_size") == 0 or "type_vocab_size" not in family.keys,
    }
    if family.name == "Albert" and transformer.embedding_size == transformer.hidden_size:
        reasons["embedding_size"] = False  # it always has a mapping from one to the other
    wrong = [name for name, fits in reasons.items() if not fits]
    if wrong:
        given = f"={vars(transformer)[wrong[0]]!r}" if wrong[0] in vars(transformer) else ""
        raise ValueError(
            f"Hugging Face's {family.name} has no {wrong[0]}{given}: use save_weights_as_checkpoint"
        )
