"""NEZHA: BERT with relative positions."""

from collections.abc import Mapping
from typing import Any, ClassVar

import keras

from bert4keras.backend.positions import Sinusoidal
from bert4keras.backend.tensors import Tensor
from bert4keras.checkpoints.architectures import Signature
from bert4keras.layers.positions import RelativePositionEmbedding
from bert4keras.models.bert import BERT, QUERY, WITHOUT_POSITIONS, bert_like, first_block
from bert4keras.models.block import Block
from bert4keras.models.family import BERT_KEYS, EPSILON, TIED, Family
from bert4keras.models.settings import FLAG, Allowed


class NEZHA(BERT):
    """NEZHA (Wei et al., 2019): BERT with fixed sinusoidal embeddings of relative positions."""

    model_type = "nezha"
    block = Block(epsilon=1e-7, position_bias="typical_relative")
    refused_arguments = ("custom_position_ids", "hierarchical_position")
    foreign_variables = ("bert/embeddings/position_embeddings",)
    max_distance = 64
    computed_layers = ("Embedding-Relative-Position", "Embedding-Relative-Position-Value")
    telling_settings = ("use_relative_position", "max_relative_position")
    allowed_settings: ClassVar[Mapping[str, Allowed]] = {"use_relative_position": FLAG}
    families = (
        Family(
            "nezha",
            ("nezha",),
            "Nezha",
            BERT_KEYS,
            EPSILON,
            {"max_relative_position": (64,), **TIED},
            in_transformers=False,  # until 4.x
        ),
    )
    dialect = bert_like("nezha")
    # RoFormer has the same names, except in files of Hugging Face.
    signatures = (
        Signature("nezha", has=(f"nezha/{QUERY}/bias",), start=first_block("bert", "nezha")),
        Signature("nezha", *WITHOUT_POSITIONS),
    )

    def compute_position_bias(self, inputs: Any = None) -> Tensor:
        """Compute the relative position embeddings for keys and values, once per call."""
        if self.position_bias is None:
            sizes = {"": self.attention_key_size, "-Value": self.attention_head_size}
            if self.attention_key_size == self.attention_head_size:
                del sizes["-Value"]  # keys and values share one embedding
            vectors = [
                self.apply(
                    [inputs, inputs],
                    RelativePositionEmbedding,
                    input_dim=2 * self.max_distance + 1,
                    output_dim=size,
                    embeddings_initializer=Sinusoidal(),
                    trainable=False,
                    name=f"Embedding-Relative-Position{kind}",
                )
                for kind, size in sizes.items()
            ]
            self.position_bias = (
                keras.ops.concatenate(vectors, -1) if len(vectors) > 1 else vectors[0]
            )
        return self.position_bias
