"""GPT, GPT-2 and GPT2-ML."""

from collections.abc import Mapping
from typing import Any, ClassVar

from bert4keras.backend import Tensor
from bert4keras.layers import Dropout
from bert4keras.models.bert import BERT
from bert4keras.models.transformer import Block, LM_Mask, dense, norm, renamed


class GPT(LM_Mask, BERT):
    """GPT (Radford et al., 2018), with segments as in CDial-GPT (Wang et al., 2020).

    Args:
        final_activation: of the token scores, 'softmax' or 'linear' for instance.
        with_lm: whether there are token scores; without, the outputs are the vectors that they come
            from, as models of sentence vectors want them.
        **kwargs: see `BERT`.
    """

    model_type = "openai-gpt"
    embedding_steps = ("dropout",)
    head_argument = "final_activation"
    refused_arguments = ("with_pool", "with_nsp", "with_mlm", "masked_positions")
    variable_names = renamed(
        renamed(BERT.variable_names, "bert/encoder", "gpt/transformer"), "bert/", "gpt/"
    ) | {"Output-Mapping": dense("gpt/transformer/embedding_hidden_mapping_out")}
    vocabulary_variables = ("gpt/embeddings/word_embeddings",)

    def __init__(
        self,
        max_position: int,
        final_activation: Any = "softmax",
        with_lm: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(max_position, **kwargs)
        self.with_lm = with_lm
        self.final_activation = final_activation if with_lm else None

    def apply_final_layers(self, inputs: Tensor) -> Tensor:
        """(batch, length, vocab_size), scores or probabilities of the next token; or vectors."""
        x = inputs
        if not self.with_lm:
            return x
        if self.embedding_size != self.hidden_size:
            x = self.apply_dense(x, self.embedding_size, "Output-Mapping")
        x = self.apply_token_scores(x)
        return self.apply_activation(x, self.final_activation, "LM-Activation")

    def apply_token_scores(self, x: Tensor) -> Tensor:
        """(batch, length, vocab_size), by the table of embeddings."""
        return self.apply_token_embedding(x, mode="dense")


class GPT2(GPT):
    """GPT-2 (Radford et al., 2019): GPT normalised before each sub-layer, without segments."""

    model_type = "gpt2"
    block = Block(attention_norms=("pre",), feed_forward_norms=("pre",), epsilon=1e-5)
    embedding_steps = ()
    variable_names = GPT.variable_names | {
        "Transformer-{i}-MultiHeadSelfAttention-Norm": norm(
            "gpt/transformer/layer_{i}/attention/input/LayerNorm"
        ),
        "Transformer-{i}-FeedForward-Norm": norm("gpt/transformer/layer_{i}/input/LayerNorm"),
        "Output-Norm": norm("gpt/output/LayerNorm"),
    }

    def __init__(self, max_position: int, **kwargs: Any) -> None:
        super().__init__(max_position, **{**kwargs, "segment_vocab_size": 0})

    def apply_final_layers(self, inputs: Tensor) -> Tensor:
        """(batch, length, vocab_size), scores or probabilities of the next token."""
        x = self.apply_norm(inputs, "Output-Norm")
        x = self.apply(x, Dropout, rate=self.dropout_rate, name="Output-Dropout")
        return super().apply_final_layers(x)


class GPT2_ML(GPT2):
    """GPT-2 as in imcaspar/gpt2-ml: the feed-forward layers are normalised before and after."""

    model_type = "gpt2_ml"
    block = Block(attention_norms=(), feed_forward_norms=("pre", "post"), epsilon=1e-5)
    embedding_steps = ("norm",)
    variable_names: ClassVar[Mapping[str, list[str]]] = {
        "Embedding-Token": ["newslm/embeddings/word_embed"],
        "Embedding-Position": ["newslm/embeddings/pos_embed"],
        "Embedding-Norm": norm("newslm/embeddings/LayerNorm_embed_norm"),
        "Embedding-Mapping": dense("newslm/embedding_hidden_mapping_in"),
        "Output-Mapping": dense("newslm/embedding_hidden_mapping_out"),
        "Transformer-{i}-MultiHeadSelfAttention": dense(
            "newslm/layer{i:02}/query_layer",
            "newslm/layer{i:02}/key_layer",
            "newslm/layer{i:02}/value_layer",
            "newslm/layer{i:02}/context_projection_layer",
        ),
        "Transformer-{i}-FeedForward-Norm-0": norm("newslm/layer{i:02}/LayerNorm_mlp_ln0"),
        "Transformer-{i}-FeedForward": dense(
            "newslm/layer{i:02}/intermediate{gate}", "newslm/layer{i:02}/output"
        ),
        "Transformer-{i}-FeedForward-Norm-1": norm("newslm/layer{i:02}/LayerNorm_mlp_ln1"),
    }
    vocabulary_variables = ("newslm/embeddings/word_embed",)

    def apply_final_layers(self, inputs: Tensor) -> Tensor:
        """As GPT does: the last block has normalised already."""
        return GPT.apply_final_layers(self, inputs)
