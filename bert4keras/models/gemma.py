"""Gemma 3, the text-only language model."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from bert4keras.checkpoints.architectures import Signature
from bert4keras.layers.masks import LocalLMMask
from bert4keras.models.block import Block
from bert4keras.models.family import Family, same
from bert4keras.models.layer_types import FULL, LAYER_TYPES, SLIDING, RotaryByType
from bert4keras.models.llama import ATTENTION, CAUSAL, DEFAULTS, KEYS, LM, LLaMA
from bert4keras.models.roformer import rotary_settings
from bert4keras.models.settings import BASE, LENGTH, Allowed, number, whole


class Gemma3(RotaryByType, LLaMA):
    """Gemma 3 (Gemma Team, 2025): LLaMA with normalisation before and after each sub-layer.

    Five of six blocks have sliding-window attention, with a smaller base of the rotary wavelengths.

    Args:
        query_pre_attn_scalar: attention scores are divided by its square root.
        sliding_window: size of the sliding window in tokens.
        sliding_window_pattern: n for full attention in the blocks n − 1, 2n − 1, …
        layer_types: the kind of each block instead, 'full_attention' or 'sliding_attention'.
        rope_theta: base of the rotary wavelengths in blocks of full attention.
        rope_local_base_freq: the same for blocks of sliding-window attention.
        rope_scaling: see `LLaMA`; for blocks of full attention.
        rope_parameters: rotary settings by layer type, as in newer configs.
        tie_word_embeddings: whether logits are computed with the token embedding table.
        **kwargs: see `LLaMA`.
    """

    model_type = "gemma3_text"
    block = Block(
        attention_norms=("pre", "inner"),
        feed_forward_norms=("pre", "inner"),
        epsilon=1e-6,
        zero_mean=False,
        offset=False,
        around_one=True,
        position_bias="rotary_half",
        use_bias=False,
        query_key_norm=True,
        gated=True,
    )
    embedding_steps = ("scale",)
    window_mask = LocalLMMask
    fixed_settings: ClassVar[Mapping[str, Sequence[Any]]] = {
        "attention_bias": (False,),
        "final_logit_softcapping": (None,),
        "attn_logit_softcapping": (None,),
        "use_bidirectional_attention": (False, None),
    }
    variable_names = {
        layer: names for layer, names in LLaMA.variable_names.items() if "-Norm" not in layer
    } | {
        "Output-Norm": LLaMA.variable_names["Output-Norm"],
        "Transformer-{i}-MultiHeadSelfAttention": [
            *LLaMA.variable_names["Transformer-{i}-MultiHeadSelfAttention"],
            "model/layers_{i}/self_attn/q_norm/gamma",
            "model/layers_{i}/self_attn/k_norm/gamma",
        ],
        **{
            f"Transformer-{{i}}-{layer}": [f"model/layers_{{i}}/{norm}_layernorm/gamma"]
            for layer, norm in (
                ("MultiHeadSelfAttention-Norm-0", "input"),
                ("MultiHeadSelfAttention-Norm-1", "post_attention"),
                ("FeedForward-Norm-0", "pre_feedforward"),
                ("FeedForward-Norm-1", "post_feedforward"),
            )
        },
    }
    foreign_variables = ("model/layers_0/self_attn/q_proj/bias",)
    allowed_settings: ClassVar[Mapping[str, Allowed]] = {
        **LLaMA.allowed_settings,
        "query_pre_attn_scalar": number(1e-6, 1 << 18),
        "sliding_window": LENGTH,
        "sliding_window_pattern": whole(1, 1 << 11),
        "layer_types": LAYER_TYPES,
        "rope_local_base_freq": BASE,
    }
    families = (
        Family(
            "gemma3_text",
            ("gemma3_text",),
            "Gemma3",
            {key: ours for key, ours in KEYS.items() if key != "hidden_act"}
            | same(
                "query_pre_attn_scalar",
                "sliding_window",
                "sliding_window_pattern",
                "layer_types",
                "rope_local_base_freq",
            )
            | {"hidden_activation": "hidden_act"},
            {key: value for key, value in DEFAULTS.items() if key != "hidden_act"}
            | {
                "hidden_activation": "gelu_pytorch_tanh",
                "head_dim": 256,
                "tie_word_embeddings": True,
                "sliding_window": 4096,
            },
            CAUSAL,
            causal=LM,
        ),
    )
    signatures = (
        Signature(
            "gemma3_text",
            has=(f"{ATTENTION}/q_norm/.*", ".*layers/0/pre_feedforward_layernorm/.*"),
        ),
    )

    def __init__(
        self,
        max_position: int,
        query_pre_attn_scalar: float = 256,
        sliding_window: int | None = 4096,
        sliding_window_pattern: int = 6,
        layer_types: Sequence[str] | None = None,
        rope_theta: float = 1000000.0,
        rope_local_base_freq: float = 10000.0,
        rope_scaling: Mapping[str, Any] | None = None,
        rope_parameters: Mapping[str, Any] | None = None,
        tie_word_embeddings: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(max_position, tie_word_embeddings=tie_word_embeddings, **kwargs)
        self.query_pre_attn_scalar = query_pre_attn_scalar
        self.block = replace(self.block, attention_scale=query_pre_attn_scalar**-0.5)
        self.sliding_window = sliding_window
        every, n = range(self.num_hidden_layers), sliding_window_pattern
        layer_types = layer_types or [SLIDING if (i + 1) % n else FULL for i in every]
        self.set_layer_types(layer_types, sliding_window)
        given = rope_parameters or {}
        self.rotary = {
            FULL: rotary_settings(rope_theta, given.get(FULL, rope_scaling), max_position),
            SLIDING: rotary_settings(rope_local_base_freq, given.get(SLIDING), max_position),
        }
