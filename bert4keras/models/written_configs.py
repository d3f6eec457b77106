"""Writing config files: the original's, and the `config.json` of Hugging Face."""

import inspect
import re
from typing import Any

import keras

from bert4keras.backend.activations import activation, gelu_erf, gelu_tanh, swish
from bert4keras.models.config_files import RECORD
from bert4keras.models.configs import ORIGINAL
from bert4keras.models.family import Family
from bert4keras.models.vocabulary_record import vocabulary_record
from bert4keras.text.generation_config import renumbered

_FUNCTIONS = {
    gelu_erf: "gelu",
    gelu_tanh: "gelu_new",
    swish: "silu",
    keras.activations.silu: "silu",
    keras.activations.relu: "relu",
    keras.activations.tanh: "tanh",
    keras.activations.linear: "linear",
}


def to_hugging_face(transformer: Any, causal: bool) -> dict[str, Any]:
    """Return the `config.json` of a model.

    Args:
        transformer: the built model.
        causal: whether it is a language model in which a token sees only the tokens before it.

    Raises:
        ValueError: a config of Hugging Face cannot describe the model.
    """
    family = family_of(transformer)
    changes = family.write(transformer)
    config: dict[str, Any] = {
        "model_type": family.model_type,
        "architectures": [architecture_name(transformer, family, causal)],
    }
    config |= {key: values[0] for key, values in transformer.fixed_settings.items()}
    for theirs, ours in family.keys.items():
        value = _setting(transformer, ours)
        if value is not None and theirs not in changes:
            config[theirs] = value
    _check_expressible(transformer, family)
    if causal and family.causal and "type_vocab_size" in family.keys:
        config["is_decoder"] = True
    if config.get("pad_token_id") == -1 or transformer.pad_token_id is None:
        config["pad_token_id"] = None
    names = ("bos_token_id", "eos_token_id", "decoder_start_token_id")
    ids, kept = {name: transformer.settings.get(name) for name in names}, transformer.kept_of_folder
    config |= ids if kept is None else dict.fromkeys(names) | renumbered(ids, kept)
    config |= {key: value for key, value in changes.items() if value is not None}
    record = vocabulary_record(transformer)
    return config if record is None else config | {RECORD: {"vocabulary": record}}


_OF_A_CALL = re.compile(
    r"with_|custom_|masked_|ignore_|autoresize_|final_activation|prefix|name|layers$|recompute"
)


def family_of(transformer: Any) -> Family:
    """Return the family that describes a model.

    Raises:
        ValueError: there is none.
    """
    for family in transformer.families:
        if family.model_type == transformer.model_type:
            return family
    raise ValueError(
        f"{type(transformer).__name__} has no Family of model_type {transformer.model_type!r}, "
        "which defines its config.json: add one to families of the class, or use "
        "save_weights_as_checkpoint"
    )


def to_original(transformer: Any) -> dict[str, Any]:
    """Return the settings that a model was built from, in the form of the original's configs."""
    constructors = [cls.__init__ for cls in type(transformer).__mro__[:-1]]
    known = {name for init in constructors for name in inspect.signature(init).parameters}
    config = {
        ORIGINAL.get(name, name): value
        for name, value in transformer.settings.items()
        if name in known and value is not None and not _OF_A_CALL.match(name)
    }
    if config.get("hidden_act") == "gelu_erf":
        config["hidden_act"] = "gelu"
    config |= dict.fromkeys(transformer.telling_settings[:1], True)
    record = vocabulary_record(transformer)
    return config if record is None else config | record


def architecture_name(transformer: Any, family: Family, causal: bool) -> str:
    """Return the class of `transformers` that corresponds to a model, by its heads."""
    masked, pairs = (getattr(transformer, f"with_{head}", False) for head in ("mlm", "nsp"))
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
    """Return the value of one of our arguments in a model."""
    if name == "layer_norm_epsilon":
        return transformer.block.epsilon
    if name == "hidden_act":
        return to_activation(transformer.hidden_act)
    value = getattr(transformer, name, None)
    return transformer.settings.get(name) if value is None else value


def to_activation(given: Any) -> Any:
    """Return the name of an activation in Hugging Face.

    Raises:
        ValueError: there is none.
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


def _check_expressible(transformer: Any, family: Family) -> None:
    """Raise an error for a model that a config of its family cannot describe."""
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
        "layer_norm_epsilon": "layer_norm_epsilon" in ours
        or transformer.block.epsilon == type(transformer).block.epsilon,
        "shared_segment_embeddings": not getattr(transformer, "shared_segment_embeddings", False),
        "hidden_act": not isinstance(transformer.hidden_act, list | tuple) or family.gates,
        "layer_norm_cond": not any(getattr(x, "conditional", False) for x in layers),
        "intermediate_size": "intermediate_size" in ours
        or transformer.intermediate_size == 4 * transformer.hidden_size,
        "segment_vocab_size": "type_vocab_size" in family.keys
        if getattr(transformer, "segment_vocab_size", 0)
        else family.defaults.get("type_vocab_size") == 0 or "type_vocab_size" not in family.keys,
    }
    if family.maps_always and transformer.embedding_size == transformer.hidden_size:
        reasons["embedding_size"] = False
    wrong = [name for name, fits in reasons.items() if not fits]
    if wrong:
        given = f"={vars(transformer)[wrong[0]]!r}" if wrong[0] in vars(transformer) else ""
        raise ValueError(
            f"Hugging Face's {family.name} has no {wrong[0]}{given}: use save_weights_as_checkpoint"
        )
