"""DistilBERT: BERT with half the blocks, without segments and pooler."""

from collections.abc import Mapping
from typing import Any, ClassVar

from bert4keras.checkpoints.architectures import Signature
from bert4keras.checkpoints.names import Dialect
from bert4keras.models.bert import BERT
from bert4keras.models.family import NO_SEGMENTS, POSITIONS, TIED, Family, same
from bert4keras.models.names import dense, norm


class DistilBERT(BERT):
    """DistilBERT (Sanh et al., 2019).

    Args:
        **kwargs: see `BERT`.
    """

    model_type = "distilbert"
    refused_arguments = ("with_pool", "with_nsp", "shared_segment_embeddings")
    # Names of Hugging Face: the checkpoints come from PyTorch.
    variable_names: ClassVar[Mapping[str, list[str]]] = {
        "Embedding-Token": ["distilbert/embeddings/word_embeddings"],
        "Embedding-Position": ["distilbert/embeddings/position_embeddings"],
        "Embedding-Norm": norm("distilbert/embeddings/LayerNorm"),
        "Embedding-Mapping": dense("distilbert/embeddings/embedding_hidden_mapping_in"),
        "Transformer-{i}-MultiHeadSelfAttention": dense(
            *(f"distilbert/transformer/layer_{{i}}/attention/{x}_lin" for x in ("q", "k", "v")),
            "distilbert/transformer/layer_{i}/attention/out_lin",
        ),
        "Transformer-{i}-MultiHeadSelfAttention-Norm": norm(
            "distilbert/transformer/layer_{i}/sa_layer_norm"
        ),
        "Transformer-{i}-FeedForward": dense(
            "distilbert/transformer/layer_{i}/ffn/lin1{gate}",
            "distilbert/transformer/layer_{i}/ffn/lin2",
        ),
        "Transformer-{i}-FeedForward-Norm": norm(
            "distilbert/transformer/layer_{i}/output_layer_norm"
        ),
        "MLM-Dense": dense("vocab_transform"),
        "MLM-Norm": norm("vocab_layer_norm"),
        "MLM-Bias": ["vocab_projector/bias"],
    }
    vocabulary_variables = ("distilbert/embeddings/word_embeddings", "vocab_projector/bias")
    families = (
        Family(
            "distilbert",
            ("distilbert",),
            "DistilBert",
            {
                **POSITIONS,
                **same("vocab_size", "pad_token_id", "initializer_range"),
                "dim": "hidden_size",
                "n_layers": "num_hidden_layers",
                "n_heads": "num_attention_heads",
                "hidden_dim": "intermediate_size",
                "activation": "hidden_act",
                "dropout": "dropout_rate",
                "attention_dropout": "attention_dropout_rate",
            },
            {"activation": "gelu", **NO_SEGMENTS},
            TIED,
        ),
    )
    dialect = Dialect("distilbert")
    signatures = (
        Signature(
            "distilbert",
            has=("(distilbert/)?transformer/layer/0/attention/q_lin/kernel",),
            start="(?:distilbert/)?transformer/layer/0/attention/q_lin/",
        ),
    )

    def __init__(self, max_position: int, **kwargs: Any) -> None:
        super().__init__(max_position, **{**kwargs, "segment_vocab_size": 0})
