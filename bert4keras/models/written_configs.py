"""Writing config files: the original's, and the `config.json` of Hugging Face."""

import inspect
import re
from typing import Any

import keras

from bert4keras.backend import activation, gelu_erf, gelu_tanh, swish
from bert4keras.models.config_files import RECORD
from bert4keras.models.configs import ORIGINAL
from bert4keras.models.family import FAMILIES, OURS, Family
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
    return config if record is None else config | {RECORD: {"vocabulary": record}}


_OF_A_CALL = re.compile(
    r"with_|custom_|masked_|ignore_|autoresize_|final_activation|prefix|name|layers$|recompute"
)


def to_original(transformer: Any) -> dict[str, Any]:
    """Return the settings that a model was built from, as the original's config files have them."""
    constructors = [cls.__init__ for cls in type(transformer).__mro__[:-1]]
    known = {name for init in constructors for name in inspect.signature(init).parameters}
    config = {
        ORIGINAL.get(name, name): value
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
        or family.name in ("T5", "MT5", *OURS),
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
