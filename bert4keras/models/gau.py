"""GAU-α: gated attention units in place of attention and feed-forward layers."""

from collections.abc import Mapping
from typing import Any, ClassVar

from bert4keras.backend.tensors import Tensor
from bert4keras.checkpoints.architectures import Signature
from bert4keras.checkpoints.names import RULE
from bert4keras.layers.gated_attention import GatedAttentionUnit
from bert4keras.models.bert import first_block
from bert4keras.models.family import FACTORED_KEYS, Family, same
from bert4keras.models.roformer import RoFormerV2


class GAU_alpha(RoFormerV2):
    """GAU-α (Su, 2022, https://kexue.fm/archives/9052): RoFormerV2 with gated attention units."""

    model_type = "gau_alpha"
    takes_gates = False
    initializer_order = 3
    # ZhuiyiTechnology/GAU-alpha, models.py
    variable_names: ClassVar[Mapping[str, list[str]]] = {
        "Embedding-Token": ["bert/embeddings/word_embeddings"],
        "Embedding-Segment": ["bert/embeddings/token_type_embeddings"],
        "Embedding-Mapping": ["GAU_alpha/encoder/embedding_hidden_mapping_in/kernel"],
        "Output-Mapping": ["GAU_alpha/encoder/embedding_hidden_mapping_out/kernel"],
        "Transformer-{i}-GatedAttentionUnit": [
            "GAU_alpha/encoder/layer_{i}/gau/i_dense/kernel",
            "GAU_alpha/encoder/layer_{i}/gau/q_scaleoffset/gamma",
            "GAU_alpha/encoder/layer_{i}/gau/k_scaleoffset/gamma",
            "GAU_alpha/encoder/layer_{i}/gau/o_dense/kernel",
        ],
    }
    # Hugging Face has no such model: these are our own files and those of the authors.
    families = (
        Family(
            "gau_alpha",
            ("gau_alpha",),
            "GAUAlpha",
            {**FACTORED_KEYS, **same("attention_key_size")},
            gates=True,
            in_transformers=False,
        ),
    )
    dialect = RULE
    signatures = (
        Signature(
            "gau_alpha",
            has=("GAU_alpha/encoder/layer/0/gau/i_dense/kernel",),
            start=first_block("GAU_alpha"),
        ),
    )

    def apply_main_layers(self, inputs: Any, index: int) -> Any:
        """Apply one gated attention unit."""
        biases = [self.compute_attention_bias(index), self.compute_position_bias(inputs)]
        return self.apply_residual(
            inputs,
            lambda x, name: self.apply_gated_attention(x, name, *biases),
            f"{self.block.name.format(i=index)}-GatedAttentionUnit",
            self.block.attention_norms,
        )

    def apply_gated_attention(
        self, x: Tensor, name: str, attention_bias: Tensor | None, position_bias: Tensor
    ) -> Tensor:
        """Apply the gated attention unit of a block, with the biases of the hooks."""
        return self.apply(
            self.simplify([x, attention_bias, position_bias]),
            GatedAttentionUnit,
            arguments={
                "a_bias": None if attention_bias is None else True,
                "p_bias": self.block.position_bias,
            },
            units=self.intermediate_size,
            key_size=self.attention_key_size,
            activation=self.hidden_act,
            use_bias=self.block.use_bias,
            normalization="softmax_plus",
            attention_dropout=self.attention_dropout_rate,
            kernel_initializer=self.initializer,
            name=name,
        )
