"""Config files: the original's, whose keys are our arguments, and Hugging Face's `config.json`.

`read_config` reads either kind and returns the arguments and the name of an architecture;
`written_configs` writes them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bert4keras.models.config_files import RECORD, check_types, read_json
from bert4keras.models.family import Family
from bert4keras.models.registry import ARCHITECTURES, families
from bert4keras.models.vocabulary_record import (
    check_record,
    from_json_compound,
    record_in,
    saved_size,
)

_FIXED = {
    "position_embedding_type": ("absolute", None),
    "add_cross_attention": (False,),
    "quantization_config": (None,),
}
"""Settings with the only values that are implemented, for every family."""

_MARKS = ("model_type", "architectures", "transformers_version")
"""Keys that identify a config of Hugging Face, which has one of them or the `mark` of a family."""

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


def read_config(
    path: str | Path | None,
    model: str | type | None = None,
    application: str = "encoder",
    strict: bool = True,
) -> tuple[dict[str, Any], str | None]:
    """Read a config file as arguments of an architecture.

    Args:
        path: the file; None for no arguments.
        model: the architecture, if it is given: a config of another one raises an error.
        application: as in `build_transformer_model`.
        strict: whether a config of another architecture than `model` raises an error. Otherwise its
            keys are read as those of its own architecture.

    Returns:
        The arguments, and the name of the architecture, None if the config does not say it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no config, is of another architecture, or has settings that are not
            implemented.
    """
    config = {} if path is None else read_json(path)
    check_types(config, path)
    own = model if isinstance(model, type) else ARCHITECTURES.get((model or "").lower())
    known = families(own)
    marks = {*_MARKS, *(family.mark for family in known.values() if family.mark)}
    if not marks.intersection(config):
        _check_fixed(config, _FIXED, path)
        if config.get("keep_tokens") or config.get("compound_tokens"):
            check_record(config, path)
            compound = config.get("compound_tokens")
            config["compound_tokens"] = compound and [from_json_compound(x) for x in compound]
        return config, _told_by(config)
    family = known[model_type_of(config, path, known)]
    check_types(config, path, dict.fromkeys(family.strings, str))
    versions = family.versions_of(config, path)
    if isinstance(model, str) and strict:
        _check_model(model.lower(), family.model_type, versions, path)
    config = family.read({**family.defaults, **config}, path)
    _check_fixed(config, {**_FIXED, **family.fixed}, path)
    _check_causal(config, family, application, path)
    # NEZHA's published configs have an embedding_size that nothing there reads.
    unread = {"name", "prefix", "layers", "embedding_size"} - family.keys.keys()
    arguments = {k: v for k, v in config.items() if k not in unread}
    for theirs, ours in family.keys.items():
        if theirs in config:
            arguments[ours] = config[theirs]
    if "segment_vocab_size" not in arguments:
        arguments["segment_vocab_size"] = config.get("type_vocab_size", 2)
    if arguments.get("pad_token_id") is None:
        arguments["pad_token_id"] = family.defaults.get("pad_token_id")
    arguments["hidden_act"] = _activations(arguments.get("hidden_act", "gelu"), path)
    return _with_vocabulary(arguments, path), versions[0]


def _told_by(config: Mapping[str, Any]) -> str | None:
    """Return the architecture that a config of the original says it is of, if it does."""
    flags = {cls.telling_settings[:1]: name for name, cls in ARCHITECTURES.items()}
    return next((name for flag, name in flags.items() if flag and config.get(*flag) is True), None)


def model_type_of(config: Mapping[str, Any], path: Any, known: Mapping[str, Family]) -> str:
    """Return the `model_type`, which old files only imply by the name of a class, or by a key.

    Args:
        config: the content of the file.
        path: its path, for the message.
        known: the families that are implemented.

    Raises:
        ValueError: the config is of none of these families.
    """
    model_type = config.get("model_type")
    named = (config.get("architectures") or [""])[0]
    if model_type is None:
        starts = {f"{family.name}{end}": key for key, family in known.items() for end in _ENDS}
        model_type = starts.get(named)
    if model_type is None and not named:
        model_type = next((key for key, f in known.items() if f.mark and f.mark in config), "bert")
    if model_type in known:
        return model_type
    raise ValueError(
        f"{path} is of the architecture {model_type or named!r}, which is not implemented; "
        f"there are {', '.join(known)}"
    )


_ENDS = (
    "Model",
    "ForMaskedLM",
    "ForPreTraining",
    "LMHeadModel",
    "DoubleHeadsModel",
    "ForCausalLM",
    "ForNextSentencePrediction",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForConditionalGeneration",
    "EncoderModel",
)


def _check_model(model: str, model_type: str, versions: Sequence[str], path: Any) -> None:
    """Raise an error for a `model=` that contradicts the file."""
    if model not in versions:
        raise ValueError(
            f"model={model!r} and {path}, whose model_type is {model_type!r}, are of different "
            f"architectures: leave model= out (it is then {versions[0]!r}) or use the config of "
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
            f"{path} has is_decoder=True, a model in which tokens see only those before them: pass "
            "application='lm'"
        )


def _activations(given: Any, path: Any) -> Any:
    if isinstance(given, list):
        return [_activations(each, path) for each in given]
    if not isinstance(given, str) or given not in _ACTIVATIONS:
        raise ValueError(
            f"{path} has the activation {str(given)[:100]!r}; implemented are "
            f"{', '.join(_ACTIVATIONS)}"
        )
    return _ACTIVATIONS[given]


def _with_vocabulary(arguments: dict[str, Any], path: Any) -> dict[str, Any]:
    """Replace the record of a vocabulary by the arguments that it was made from."""
    record = record_in({RECORD: arguments.pop(RECORD, None)}, path)
    if record is None:
        return arguments
    record = check_record(record, path)
    if saved_size(record) != arguments["vocab_size"]:
        raise ValueError(
            f"{path} has vocab_size={arguments['vocab_size']}, but records a vocabulary that was "
            f"cut down to {saved_size(record)} tokens: if it was changed since, remove {RECORD!r}"
        )
    keep, compound = record["keep_tokens"], record["compound_tokens"]
    pad = arguments.get("pad_token_id")
    if keep is not None and pad is not None and pad > 0:
        arguments["pad_token_id"] = keep[pad]
    return arguments | {
        "vocab_size": record["vocab_size"],
        "keep_tokens": keep,
        "compound_tokens": compound and [from_json_compound(item) for item in compound],
    }


ORIGINAL = {
    "max_position": "max_position_embeddings",
    "segment_vocab_size": "type_vocab_size",
    "dropout_rate": "hidden_dropout_prob",
    "attention_dropout_rate": "attention_probs_dropout_prob",
}
"""Our arguments that have another name in the original's config files, with that name."""


def keys_of(settings: Mapping[str, Any], own: type | None = None) -> dict[str, str]:
    """Return the names in a config of those of our arguments that have another name there.

    Args:
        settings: the content of the config.
        own: the architecture, if it may not be in `ARCHITECTURES`.
    """
    keys = {ours: theirs for ours, theirs in ORIGINAL.items() if theirs in settings}
    family = families(own).get(settings.get("model_type"))
    if family is not None:
        keys |= {ours: theirs for theirs, ours in family.keys.items() if theirs in settings}
    return keys
