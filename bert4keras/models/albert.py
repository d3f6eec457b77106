"""ALBERT: BERT whose blocks share their weights, or start from the same."""

import re
from typing import Any

from bert4keras.models.bert import BERT
from bert4keras.models.transformer import Block, dense, norm


def albert_block(layer: str, group: str) -> dict[str, list[str]]:
    """Names of the variables of an ALBERT block, as in google-research/albert, modeling.py."""
    group = f"bert/encoder/transformer/{group}/inner_group_0"
    return {
        f"{layer}-MultiHeadSelfAttention": dense(
            f"{group}/attention_1/self/query",
            f"{group}/attention_1/self/key",
            f"{group}/attention_1/self/value",
            f"{group}/attention_1/output/dense",
        ),
        f"{layer}-MultiHeadSelfAttention-Norm": norm(f"{group}/LayerNorm"),
        f"{layer}-FeedForward": dense(
            f"{group}/ffn_1/intermediate/dense{{gate}}", f"{group}/ffn_1/intermediate/output/dense"
        ),
        f"{layer}-FeedForward-Norm": norm(f"{group}/LayerNorm_1"),
    }


class ALBERT(BERT):
    """ALBERT (Lan et al., 2019): BERT whose blocks share one set of weights."""

    model_type = "albert"
    block = Block(epsilon=1e-7, name="Transformer")
    foreign_variables = ("bert/encoder/embedding_hidden_mapping_in/kernel",)
    variable_names = BERT.variable_names | albert_block("Transformer", "group_0")


class ALBERT_Unshared(ALBERT):
    """ALBERT whose blocks start from the shared weights and then go their own ways."""

    block = Block(epsilon=1e-7)
    variable_names = BERT.variable_names | albert_block("Transformer-{i}", "group_{i}")
    stored_as = ("albert", "albert_unshared")

    def stored_name(self, checkpoint: Any, name: str) -> str:
        """A checkpoint with a single group serves all blocks."""
        shared = re.sub(r"/group_\d+/", "/group_0/", name)
        return name if name in checkpoint else shared
