"""ModernBERT: BERT with blocks of global and of local attention."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from bert4keras.backend.tensors import Tensor
from bert4keras.checkpoints.architectures import Signature
from bert4keras.checkpoints.names import Dialect
from bert4keras.models.block import Block
from bert4keras.models.family import NO_SEGMENTS, POSITIONS, SIZES, Family, same
from bert4keras.models.layer_types import FULL, LAYER_TYPES, SLIDING, RotaryByType
from bert4keras.models.roformer import rotary_settings
from bert4keras.models.settings import BASE, LENGTH, OBJECT, Allowed, whole


class ModernBERT(RotaryByType):
    """ModernBERT (Warner et al., 2024): BERT with blocks of global and of local attention.

    Args:
        global_attn_every_n_layers: n, where blocks 0, n, 2n, … have global attention.
        layer_types: the same for each block: 'full_attention' or 'sliding_attention'.
        local_attention: the window of local attention, as in `LocalMask`.
        global_rope_theta: base of the wavelengths of blocks with global attention.
        local_rope_theta: base of the wavelengths of blocks with local attention.
        rope_parameters: both by layer type, as newer configs have them.
        **kwargs: those of `BERT`.
    """

    model_type = "modernbert"
    takes_gates = False
    block = Block(
        attention_norms=("pre",),
        feed_forward_norms=("pre",),
        epsilon=1e-5,
        offset=False,
        position_bias="rotary_half",
        use_bias=False,
        gated=True,
    )
    applications = ("encoder",)
    refused_arguments = ("with_pool", "with_nsp", "hierarchical_position")
    fixed_settings = dict.fromkeys(
        ("decoder_bias", "tie_word_embeddings"), (True,)
    ) | dict.fromkeys(("attention_bias", "mlp_bias", "norm_bias", "classifier_bias"), (False,))
    foreign_variables = ()
    # In files of Hugging Face, Wqkv and Wi are single tensors.
    variable_names: ClassVar[Mapping[str, list[str]]] = {
        "Embedding-Token": ["model/embeddings/tok_embeddings"],
        "Embedding-Norm": ["model/embeddings/norm/gamma"],
        "Embedding-Mapping": ["model/embeddings/embedding_hidden_mapping_in/kernel"],
        "Transformer-{i}-MultiHeadSelfAttention-Norm": ["model/layers_{i}/attn_norm/gamma"],
        "Transformer-{i}-MultiHeadSelfAttention": [
            "model/layers_{i}/attn/Wqkv/query/kernel",
            "model/layers_{i}/attn/Wqkv/key/kernel",
            "model/layers_{i}/attn/Wqkv/value/kernel",
            "model/layers_{i}/attn/Wo/kernel",
        ],
        "Transformer-{i}-FeedForward-Norm": ["model/layers_{i}/mlp_norm/gamma"],
        "Transformer-{i}-FeedForward": [
            "model/layers_{i}/mlp/Wi/input/kernel",
            "model/layers_{i}/mlp/Wi/gate/kernel",
            "model/layers_{i}/mlp/Wo/kernel",
        ],
        "Output-Norm": ["model/final_norm/gamma"],
        "MLM-Dense": ["head/dense/kernel"],
        "MLM-Norm": ["head/norm/gamma"],
        "MLM-Bias": ["decoder/bias"],
    }
    vocabulary_variables = ("model/embeddings/tok_embeddings", "decoder/bias")
    allowed_settings: ClassVar[Mapping[str, Allowed]] = {
        "local_attention": LENGTH,
        "global_attn_every_n_layers": whole(1, 1 << 11),
        "global_rope_theta": BASE,
        "local_rope_theta": BASE,
        "rope_parameters": OBJECT,
        "layer_types": LAYER_TYPES,
    }
    families = (
        Family(
            "modernbert",
            ("modernbert",),
            "ModernBert",
            {
                **SIZES,
                **POSITIONS,
                "hidden_activation": "hidden_act",
                "norm_eps": "layer_norm_epsilon",
                "mlp_dropout": "dropout_rate",
                "attention_dropout": "attention_dropout_rate",
                **same(
                    "global_attn_every_n_layers",
                    "layer_types",
                    "local_attention",
                    "global_rope_theta",
                    "local_rope_theta",
                    "rope_parameters",
                ),
            },
            {"hidden_activation": "gelu", "norm_eps": 1e-5, **NO_SEGMENTS},
        ),
    )
    dialect = Dialect(
        "model",
        (
            (r"/Wqkv/query/kernel$", "/Wqkv/kernel#0/3"),
            (r"/Wqkv/key/kernel$", "/Wqkv/kernel#1/3"),
            (r"/Wqkv/value/kernel$", "/Wqkv/kernel#2/3"),
            (r"/Wi/input/kernel$", "/Wi/kernel#0/2"),
            (r"/Wi/gate/kernel$", "/Wi/kernel#1/2"),
        ),
    )
    signatures = (Signature("modernbert", has=(".*layers/0/attn/Wqkv/.*",)),)

    def __init__(
        self,
        max_position: int,
        global_attn_every_n_layers: int = 3,
        layer_types: Sequence[str] | None = None,
        local_attention: int = 128,
        global_rope_theta: float = 160000.0,
        local_rope_theta: float = 10000.0,
        rope_parameters: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(max_position, **{**kwargs, "segment_vocab_size": 0})
        self.local_attention = local_attention
        every = range(self.num_hidden_layers)
        layer_types = layer_types or [
            SLIDING if i % global_attn_every_n_layers else FULL for i in every
        ]
        self.set_layer_types(layer_types, local_attention)
        thetas = {FULL: global_rope_theta, SLIDING: local_rope_theta}
        self.rotary = {
            kind: rotary_settings(theta, (rope_parameters or {}).get(kind), max_position)
            for kind, theta in thetas.items()
        }

    def block_of(self, index: int) -> Block:
        """Return `block`, for the first block without the norm that its input already has."""
        return self.block if index else replace(self.block, attention_norms=())

    def apply_final_layers(self, inputs: Tensor) -> Tensor:
        """Normalise the hidden states, and compute token probabilities with `with_mlm`."""
        return super().apply_final_layers(self.apply_norm(inputs, "Output-Norm"))
