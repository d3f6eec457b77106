"""RoBERTa and XLM-RoBERTa of Hugging Face: BERT with positions that exclude padding."""

from dataclasses import replace
from typing import Any

from bert4keras.backend.tensors import Tensor
from bert4keras.checkpoints.architectures import Signature
from bert4keras.checkpoints.names import Dialect
from bert4keras.layers.positions import TextPositionEmbedding
from bert4keras.models.bert import BERT, POSITION_TABLE, QUERY, first_block
from bert4keras.models.family import BERT_KEYS, EPSILON, TIED, Family
from bert4keras.models.names import dense, norm, renamed


def written_roberta(transformer: Any) -> dict[str, Any]:
    """Raise a ValueError if positions do not start at `pad_token_id` + 1."""
    if transformer.pad_token_id != transformer.padding_row:
        raise ValueError(
            f"Hugging Face counts positions of {transformer.model_type} from pad_token_id + 1, and "
            f"keep_tokens moved that token from {transformer.padding_row} to "
            f"{transformer.pad_token_id}: keep its id, or use save_weights_as_checkpoint"
        )
    return {}


class RoBERTa(BERT):
    """RoBERTa (Liu et al., 2019) as in fairseq and Hugging Face.

    Chinese RoBERTa has the architecture of BERT, `model="roberta"`. Here padding has no positions:
    those of text start at `pad_token_id` + 1, and the first rows of the table belong to padding
    and the ids before it, so that `max_position` = 514 allows 512 tokens. Padding is masked at any
    position. With a single segment, the model has no input of segment ids.

    Args:
        **kwargs: see `BERT`.
    """

    model_type = "roberta"
    pad_token_id = 1
    padding = "everywhere"
    mlm_activation = "gelu_erf"
    refused_arguments = (
        *("with_nsp", "hierarchical_position", "custom_position_ids"),
        "shared_segment_embeddings",
    )
    # Names of Hugging Face: the checkpoints come from PyTorch.
    variable_names = {
        layer: names
        for layer, names in renamed(BERT.variable_names, "bert/", "roberta/").items()
        if layer != "NSP-Proba"
    } | {
        "MLM-Dense": dense("lm_head/dense"),
        "MLM-Norm": norm("lm_head/layer_norm"),
        "MLM-Bias": ["lm_head/bias"],
    }
    vocabulary_variables = ("roberta/embeddings/word_embeddings", "lm_head/bias")
    families = (
        Family(
            "roberta",
            ("roberta_hf",),
            "Roberta",
            BERT_KEYS,
            {**EPSILON, "pad_token_id": 1},
            TIED,
            causal="ForCausalLM",
            write=written_roberta,
        ),
    )
    dialect = Dialect("roberta", (), ((r"^lm_head\.bias$", "lm_head.decoder.bias"),))
    # Without a head, the names are those of BERT without a head.
    signatures = (
        Signature(
            "roberta_hf",
            has=(f"(roberta/)?{QUERY}/bias", f"(roberta/)?{POSITION_TABLE}"),
            lacks=(".*embeddings/task_type_embeddings(/kernel)?", "embeddings_project/kernel"),
            start=first_block("roberta"),
        ),
    )

    def __init__(self, max_position: int, pad_token_id: int | None = None, **kwargs: Any) -> None:
        self.padding_row = type(self).pad_token_id if pad_token_id is None else pad_token_id
        super().__init__(max_position, pad_token_id=self.padding_row, **kwargs)

    @property
    def takes_segments(self) -> bool:
        """Whether the model has segment ids as an input, rather than a single segment."""
        return self.segment_vocab_size > 1

    def position_source(self, token_ids: Tensor, position_ids: Tensor | None) -> Tensor:
        """Return the token ids, from which positions are computed."""
        return token_ids

    def apply_position_embedding(self, x: Tensor, position_ids: Tensor | None) -> Tensor:
        """Add position embeddings, with positions that exclude padding."""
        return self.apply(
            [x, position_ids],
            TextPositionEmbedding,
            input_dim=self.max_position,
            output_dim=self.embedding_size,
            padding_id=self.padding_row,
            mask_id=self.pad_token_id,
            embeddings_initializer=self.table_initializer,
            name="Embedding-Position",
        )


class XLMRoBERTa(RoBERTa):
    """XLM-RoBERTa (Conneau et al., 2020), the architecture of bge-m3 and multilingual-e5."""

    model_type = "xlm-roberta"
    families = (
        replace(
            RoBERTa.families[0],
            model_type="xlm-roberta",
            models=("xlm_roberta",),
            name="XLMRoberta",
        ),
    )
