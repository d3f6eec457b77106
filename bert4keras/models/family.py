"""How Hugging Face describes architectures.

What a key of its `config.json` is called here stands in one table, `FAMILIES`, for both directions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


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

OURS = ("RoFormerV2", "GAUAlpha", "GPT2ML")
"""Families of which Hugging Face has no model, so that only this library reads them."""
