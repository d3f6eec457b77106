"""LLaMA 1 to 3, Qwen 2, 2.5 and 3."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from bert4keras.backend.tensors import Tensor
from bert4keras.checkpoints.architectures import Signature
from bert4keras.checkpoints.names import Dialect
from bert4keras.layers.masks import LocalLMMask
from bert4keras.models.block import Block
from bert4keras.models.family import NO_SEGMENTS, POSITIONS, SIZES, Family, same
from bert4keras.models.gpt import GPT2
from bert4keras.models.layer_types import FULL, LAYER_TYPES, SLIDING, LayerTypes
from bert4keras.models.names import dense
from bert4keras.models.roformer import RoFormer, rotary_settings
from bert4keras.models.settings import BASE, FLAG, HEADS, LENGTH, OBJECT, Allowed, whole

KEYS = {
    **SIZES,
    **POSITIONS,
    "attention_dropout": "attention_dropout_rate",
    "rms_norm_eps": "layer_norm_epsilon",
    "head_dim": "attention_head_size",
    **same(
        "hidden_act",
        "num_key_value_heads",
        "tie_word_embeddings",
        "rope_theta",
        "rope_scaling",
        "rope_parameters",
    ),
}
WINDOW_KEYS = {
    **KEYS,
    **same("use_sliding_window", "sliding_window", "max_window_layers", "layer_types"),
}
DEFAULTS = {"hidden_act": "silu", "rms_norm_eps": 1e-6, **NO_SEGMENTS}
WINDOW = {"sliding_window": 4096, "max_window_layers": 28}
LM = "ForCausalLM"
CAUSAL = {"is_causal": (True,)}
"""Some models of sentence vectors let these see what comes after a token."""
ATTENTION = ".*layers/0/self_attn"


class LLaMA(GPT2, RoFormer):
    """LLaMA 1 to 3 (Touvron et al., 2023): GPT2 with rotary positions and gated feed-forward.

    No token is padding unless `pad_token_id` is given: 0 is a word in most of these vocabularies,
    and tokens do not see what follows them. The token is then padding on either side of a text, and
    an ordinary token within it.

    Args:
        num_key_value_heads: `key_value_heads` of `MultiHeadAttention`.
        tie_word_embeddings: whether logits are computed with the embedding table.
        rope_theta: base of the wavelengths of rotary positions.
        rope_scaling: `scaling` of `SinusoidalPositionEmbedding`; its original length is
            `max_position` by default.
        rope_parameters: both in one, as newer configs have them.
        **kwargs: those of `GPT`.
    """

    model_type = "llama"
    takes_gates = False
    block = Block(
        attention_norms=("pre",),
        feed_forward_norms=("pre",),
        epsilon=1e-6,
        zero_mean=False,
        offset=False,
        position_bias="rotary_half",
        use_bias=False,
        gated=True,
    )
    applications = ("encoder", "lm")
    pad_token_id = None
    padding = "around"
    refused_arguments = (*GPT2.refused_arguments, "hierarchical_position")
    fixed_settings = dict.fromkeys(("attention_bias", "mlp_bias", "use_sliding_window"), (False,))
    foreign_variables = (
        "model/layers_0/self_attn/q_norm/gamma",
        "model/layers_0/self_attn/q_proj/bias",
    )
    variable_names: ClassVar[Mapping[str, list[str]]] = {
        "Embedding-Token": ["model/embed_tokens/embeddings"],
        "Embedding-Mapping": ["model/embedding_hidden_mapping_in/kernel"],
        "Output-Mapping": ["model/embedding_hidden_mapping_out/kernel"],
        "Transformer-{i}-MultiHeadSelfAttention-Norm": ["model/layers_{i}/input_layernorm/gamma"],
        "Transformer-{i}-MultiHeadSelfAttention": [
            f"model/layers_{{i}}/self_attn/{x}_proj/kernel" for x in "qkvo"
        ],
        "Transformer-{i}-FeedForward-Norm": ["model/layers_{i}/post_attention_layernorm/gamma"],
        "Transformer-{i}-FeedForward": [
            f"model/layers_{{i}}/mlp/{x}_proj/kernel" for x in ("gate", "up", "down")
        ],
        "Output-Norm": ["model/norm/gamma"],
        "Output-LM": ["lm_head/kernel"],
    }
    vocabulary_variables = ("model/embed_tokens/embeddings",)
    vocabulary_kernels = ("lm_head/kernel",)
    allowed_settings: ClassVar[Mapping[str, Allowed]] = {
        "num_key_value_heads": HEADS,
        "tie_word_embeddings": FLAG,
        "rope_theta": BASE,
        "rope_scaling": OBJECT,
        "rope_parameters": OBJECT,
    }
    families = (Family("llama", ("llama",), "Llama", KEYS, DEFAULTS, CAUSAL, causal=LM),)
    dialect = Dialect("model")
    signatures = (
        Signature(
            "llama",
            has=(f"{ATTENTION}/q_proj/kernel",),
            lacks=(f"{ATTENTION}/(q_proj/bias|q_norm/.*)",),
        ),
    )

    def __init__(
        self,
        max_position: int,
        num_key_value_heads: int | None = None,
        tie_word_embeddings: bool = False,
        rope_theta: float = 10000.0,
        rope_scaling: Mapping[str, Any] | None = None,
        rope_parameters: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(max_position, **kwargs)
        self.num_key_value_heads = num_key_value_heads or self.num_attention_heads
        self.tie_word_embeddings = tie_word_embeddings
        self.rotary = rotary_settings(rope_theta, rope_parameters or rope_scaling, max_position)

    @property
    def attention_sizes(self) -> dict[str, int]:
        """The number of key and value heads, each shared by several query heads."""
        return {"key_value_heads": self.num_key_value_heads}

    def apply_token_scores(self, x: Tensor) -> Tensor:
        """Compute logits (batch, length, vocab_size) with the embedding table or another kernel."""
        if self.tie_word_embeddings:
            return super().apply_token_scores(x)
        return self.apply_dense(x, self.vocab_size, "Output-LM")


class Qwen2(LayerTypes, LLaMA):
    """Qwen 2 and 2.5 (Qwen Team, 2024): LLaMA with biases of queries, keys and values.

    Args:
        use_sliding_window: whether some blocks attend to a window only.
        sliding_window: how many tokens they see, the present one included.
        max_window_layers: which blocks do: all from this number on.
        layer_types: the same block by block: 'full_attention' or 'sliding_attention'.
        **kwargs: see `LLaMA`.
    """

    model_type = "qwen2"
    block = replace(LLaMA.block, attention_bias=True)
    variable_names = LLaMA.variable_names | {
        "Transformer-{i}-MultiHeadSelfAttention": [
            *dense(*(f"model/layers_{{i}}/self_attn/{x}_proj" for x in "qkv")),
            "model/layers_{i}/self_attn/o_proj/kernel",
        ],
    }
    window_mask = LocalLMMask
    fixed_settings = dict.fromkeys(("attention_bias", "mlp_bias"), (False,))
    allowed_settings: ClassVar[Mapping[str, Allowed]] = {
        **LLaMA.allowed_settings,
        "use_sliding_window": FLAG,
        "sliding_window": LENGTH,
        "max_window_layers": whole(0, 1 << 11),
        "layer_types": LAYER_TYPES,
    }
    families = (
        Family(
            "qwen2", ("qwen2",), "Qwen2", WINDOW_KEYS, {**DEFAULTS, **WINDOW}, CAUSAL, causal=LM
        ),
    )
    signatures = (
        Signature("qwen2", has=(f"{ATTENTION}/q_proj/bias",), lacks=(".*/encoder_attn/.*",)),
    )

    def __init__(
        self,
        max_position: int,
        use_sliding_window: bool = False,
        sliding_window: int | None = 4096,
        max_window_layers: int = 28,
        layer_types: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(max_position, **kwargs)
        self.use_sliding_window = use_sliding_window
        self.sliding_window = sliding_window
        self.max_window_layers = max_window_layers
        window = sliding_window if use_sliding_window else None
        first = self.num_hidden_layers if window is None else max_window_layers
        every = range(self.num_hidden_layers)
        self.set_layer_types(
            layer_types or [SLIDING if i >= first else FULL for i in every], window
        )


class Qwen3(Qwen2):
    """Qwen 3 (Qwen Team, 2025): LLaMA with a normalisation of each head's query and key.

    Args:
        **kwargs: see `Qwen2`.
    """

    model_type = "qwen3"
    block = replace(LLaMA.block, query_key_norm=True)
    variable_names = LLaMA.variable_names | {
        "Transformer-{i}-MultiHeadSelfAttention": [
            *LLaMA.variable_names["Transformer-{i}-MultiHeadSelfAttention"],
            "model/layers_{i}/self_attn/q_norm/gamma",
            "model/layers_{i}/self_attn/k_norm/gamma",
        ],
    }
    families = (
        Family(
            "qwen3",
            ("qwen3",),
            "Qwen3",
            WINDOW_KEYS,
            {"head_dim": 128, **DEFAULTS, **WINDOW},
            CAUSAL,
            causal=LM,
        ),
    )
    signatures = (
        Signature(
            "qwen3",
            has=(f"{ATTENTION}/q_norm/.*",),
            lacks=(".*layers/0/pre_feedforward_layernorm/.*",),
        ),
    )
