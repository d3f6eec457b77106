"""DeBERTa v2 and v3: disentangled attention to contents and relative positions."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from keras.layers import Activation

from bert4keras.backend.activations import activation
from bert4keras.backend.tensors import Tensor
from bert4keras.checkpoints.architectures import Signature
from bert4keras.checkpoints.names import Dialect
from bert4keras.layers.attention import DisentangledAttention
from bert4keras.layers.base import Dropout
from bert4keras.layers.feed_forward import MaskedConv1D
from bert4keras.layers.merging import Add
from bert4keras.layers.positions import RelativePositionTable
from bert4keras.models.bert import BERT, BIAS_TWICE, HEADS, QUERY, first_block
from bert4keras.models.block import Block
from bert4keras.models.family import BERT_KEYS, NO_SEGMENTS, TIED, Family, same
from bert4keras.models.names import dense, norm, renamed
from bert4keras.models.settings import ACTIVATION, FLAG, Allowed, one_of, whole


class DeBERTaV2(BERT):
    """DeBERTa v2 (He et al., 2021), as in Erlangshen: BERT with disentangled attention.

    Args:
        position_buckets: number of buckets of distances in either direction.
        max_relative_positions: distance beyond which all distances share a bucket; if below 1,
            `max_position`.
        norm_rel_ebd: 'layer_norm' to normalise the embeddings of the buckets, or 'none'.
        conv_kernel_size: if above 0, a convolution of that size over the embeddings is added to the
            output of the first block.
        conv_act: activation of the convolution.
        legacy: whether the variables of the MLM head have the names of those of BERT, or those of
            the first publication.
        **kwargs: those of `BERT`.
    """

    model_type = "deberta-v2"
    block = Block(epsilon=1e-7, position_bias="disentangled", attention=DisentangledAttention)
    applications = ("encoder",)
    refused_arguments = ("with_pool", "with_nsp", "custom_position_ids", "hierarchical_position")
    fixed_settings: ClassVar[Mapping[str, Sequence[Any]]] = {
        "relative_attention": (True,),
        "position_biased_input": (False,),
        "share_att_key": (True,),
        "pos_att_type": (["p2c", "c2p"], ["c2p", "p2c"], "p2c|c2p", "c2p|p2c"),
        "conv_groups": (1,),
    }
    vocabulary_variables = (
        "deberta/embeddings/word_embeddings",
        "cls/predictions/output_bias",
        "lm_predictions/lm_head/bias",
    )
    allowed_settings: ClassVar[Mapping[str, Allowed]] = {
        "max_relative_positions": whole(-1, 1 << 26),
        "norm_rel_ebd": one_of("none", "layer_norm"),
        "conv_kernel_size": whole(0, 1 << 10),
        "conv_act": ACTIVATION,
        "legacy": FLAG,
    }
    families = (
        Family(
            "deberta-v2",
            ("deberta_v2",),
            "DebertaV2",
            {
                **BERT_KEYS,
                **same(
                    "position_buckets",
                    "max_relative_positions",
                    "norm_rel_ebd",
                    "conv_kernel_size",
                    "conv_act",
                    "legacy",
                ),
            },
            {"layer_norm_eps": 1e-7, "norm_rel_ebd": "none", **NO_SEGMENTS},
            TIED,
            write=lambda transformer: {"max_relative_positions": transformer.max_distance},
        ),
    )
    dialect = Dialect("deberta", HEADS, BIAS_TWICE)
    signatures = (
        Signature("deberta_v2", has=(f".*{QUERY}_proj/kernel",), start=first_block("deberta")),
    )

    def __init__(
        self,
        max_position: int,
        position_buckets: int = 256,
        max_relative_positions: int = -1,
        norm_rel_ebd: str = "layer_norm",
        conv_kernel_size: int = 0,
        conv_act: Any = "tanh",
        legacy: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(max_position, **kwargs)
        if position_buckets < 1 or self.embedding_size != self.hidden_size:
            raise ValueError(
                "DeBERTaV2 is implemented with position_buckets above 0 and with embeddings of "
                f"hidden_size, not with position_buckets={position_buckets} and embedding_size="
                f"{self.embedding_size}: this checkpoint cannot be used"
            )
        self.position_buckets = position_buckets
        self.max_distance = max_relative_positions if max_relative_positions > 0 else max_position
        self.norm_rel_ebd = norm_rel_ebd
        self.conv_kernel_size = conv_kernel_size or 0
        self.conv_act = conv_act
        self.legacy = legacy

    @property
    def variable_names(self) -> dict[str, list[str]]:
        """The names of the variables, which are those of BERT except in attention and head."""
        names = renamed(BERT.variable_names, "bert/", "deberta/") | {
            "Embedding-Relative-Position": ["deberta/encoder/rel_embeddings"],
            "Embedding-Relative-Position-Norm": norm("deberta/encoder/LayerNorm"),
            "Convolution": dense("deberta/encoder/conv/conv"),
            "Convolution-Norm": norm("deberta/encoder/conv/LayerNorm"),
            "Transformer-{i}-MultiHeadSelfAttention": dense(
                "deberta/encoder/layer_{i}/attention/self/query_proj",
                "deberta/encoder/layer_{i}/attention/self/key_proj",
                "deberta/encoder/layer_{i}/attention/self/value_proj",
                "deberta/encoder/layer_{i}/attention/output/dense",
            ),
        }
        if self.legacy:
            return names
        return names | {
            "MLM-Dense": dense("lm_predictions/lm_head/dense"),
            "MLM-Norm": norm("lm_predictions/lm_head/LayerNorm"),
            "MLM-Bias": ["lm_predictions/lm_head/bias"],
        }

    @property
    def attention_sizes(self) -> dict[str, int]:
        """The number of buckets of distances, and the largest distance."""
        return {"buckets": self.position_buckets, "max_distance": self.max_distance}

    def compute_position_bias(self, inputs: Any = None) -> Tensor:
        """Compute the embeddings of the buckets, (2 · buckets, hidden_size), once per call."""
        if self.position_bias is None:
            name = "Embedding-Relative-Position"
            self.position_bias = self.apply(
                inputs,
                RelativePositionTable,
                input_dim=2 * self.position_buckets,
                output_dim=self.hidden_size,
                embeddings_initializer=self.table_initializer,
                name=name,
            )
            if self.norm_rel_ebd == "layer_norm":
                self.position_bias = self.apply_norm(self.position_bias, f"{name}-Norm")
        return self.position_bias

    def apply_main_layers(self, inputs: Any, index: int) -> Any:
        """Apply one block, and after the first one the convolution, if there is one."""
        outputs = super().apply_main_layers(inputs, index)
        if index or not self.conv_kernel_size:
            return outputs
        return self.apply_convolution(inputs, outputs)

    def apply_convolution(self, x: Tensor, residual: Tensor) -> Tensor:
        """Add a convolution over `x` to `residual`, and normalise."""
        name = "Convolution"
        x = self.apply(
            x,
            MaskedConv1D,
            filters=self.hidden_size,
            kernel_size=self.conv_kernel_size,
            padding="same",
            kernel_initializer=self.initializer,
            name=name,
        )
        x = self.apply(x, Dropout, rate=self.dropout_rate, name=f"{name}-Dropout")
        function = activation(self.conv_act)
        x = self.apply(x, Activation, activation=function, name=f"{name}-Activation")
        x = self.apply([residual, x], Add, name=f"{name}-Add")
        return self.apply_norm(x, f"{name}-Norm")
