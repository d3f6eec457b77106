"""ALBERT: BERT whose blocks share their weights, or have the same initial weights."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from bert4keras.checkpoints.architectures import Signature
from bert4keras.models.bert import BERT, bert_like
from bert4keras.models.block import Block
from bert4keras.models.family import EPSILON, FACTORED_KEYS, TIED, Family
from bert4keras.models.names import dense, norm


def albert_block(layer: str, group: str) -> dict[str, list[str]]:
    """Return the names of variables of a block, as in google-research/albert, modeling.py."""
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


GROUP = "(bert|albert)/encoder/(transformer/group_|albert_layer_groups/)"
START = "(?:(?:bert|albert)/)?encoder/(?:transformer|albert_layer_groups)/"


def albert_versions(config: Mapping[str, Any], path: Any) -> Sequence[str]:
    """Return the architectures that a config of Hugging Face may describe, the likely one first."""
    groups = config.get("num_hidden_groups", 1)
    if groups == 1:
        return "albert", "albert_unshared"
    if groups != config.get("num_hidden_layers"):
        raise ValueError(
            f"{path} has num_hidden_groups={groups}: implemented are 1 and one for each of "
            f"the {config.get('num_hidden_layers')} layers"
        )
    return "albert_unshared", "albert"


def write_albert(transformer: Any) -> dict[str, Any]:
    """Return the key of a config that describes how blocks share weights."""
    shared = "{i" not in transformer.block.name
    return {"num_hidden_groups": 1 if shared else transformer.num_hidden_layers}


class ALBERT(BERT):
    """ALBERT (Lan et al., 2019): BERT whose blocks share one set of weights."""

    model_type = "albert"
    block = Block(epsilon=1e-7, name="Transformer")
    foreign_variables = ("bert/encoder/embedding_hidden_mapping_in/kernel",)
    variable_names = BERT.variable_names | albert_block("Transformer", "group_0")
    families = (
        Family(
            "albert",
            ("albert", "albert_unshared"),
            "Albert",
            FACTORED_KEYS,
            EPSILON,
            TIED,
            maps_always=True,
            versions=albert_versions,
            write=write_albert,
        ),
    )
    dialect = bert_like(
        "albert",
        (
            r"^bert/encoder/transformer/group_(\d+)/inner_group_(\d+)/",
            r"bert/encoder/albert_layer_groups/\1/albert_layers/\2/",
        ),
        (r"/attention_1/self/", "/attention/"),
        (r"/attention_1/output/dense/", "/attention/dense/"),
        (r"(albert_layers/\d+)/LayerNorm/", r"\1/attention/LayerNorm/"),
        (r"/LayerNorm_1/", "/full_layer_layer_norm/"),
        (r"/ffn_1/intermediate/dense/", "/ffn/"),
        (r"/ffn_1/intermediate/output/dense/", "/ffn_output/"),
        (r"^bert/pooler/dense/", "bert/pooler/"),
        (r"^cls/predictions/transform/", "predictions/"),
        (r"^cls/predictions/output_bias$", "predictions/bias"),
        (r"^cls/seq_relationship/output_weights$", "sop_classifier/classifier/weight"),
        (r"^cls/seq_relationship/output_bias$", "sop_classifier/classifier/bias"),
    )
    signatures = (Signature("albert", has=(f"{GROUP}0/.*",), lacks=(f"{GROUP}1/.*",), start=START),)


class ALBERT_Unshared(ALBERT):
    """ALBERT whose blocks are loaded with the shared weights and are then trained separately."""

    block = Block(epsilon=1e-7)
    variable_names = BERT.variable_names | albert_block("Transformer-{i}", "group_{i}")
    stored_as = ("albert", "albert_unshared")
    signatures = (Signature("albert_unshared", has=(f"{GROUP}1/.*",), start=START),)

    def stored_name(self, checkpoint: Any, name: str) -> str:
        """Return the name in a checkpoint, in which one group may serve all blocks."""
        shared = re.sub(r"/group_\d+/", "/group_0/", name)
        return name if name in checkpoint else shared
