"""GPT, GPT-2 and GPT2-ML."""

from collections.abc import Mapping
from typing import Any, ClassVar

from bert4keras.backend.tensors import Tensor
from bert4keras.checkpoints.architectures import Signature
from bert4keras.checkpoints.names import RULE, Dialect
from bert4keras.layers.base import Dropout
from bert4keras.models.bert import BERT
from bert4keras.models.block import Block
from bert4keras.models.family import FACTORED_KEYS, NO_PADDING, NO_SEGMENTS, TIED, Family
from bert4keras.models.masks import LM_Mask
from bert4keras.models.names import dense, norm, renamed
from bert4keras.models.written_configs import to_activation

KEYS = {
    "vocab_size": "vocab_size",
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_positions": "max_position",
    "resid_pdrop": "dropout_rate",
    "attn_pdrop": "attention_dropout_rate",
    "initializer_range": "initializer_range",
    "layer_norm_epsilon": "layer_norm_epsilon",
    "pad_token_id": "pad_token_id",
}
SUB_LAYERS = (
    (r"^gpt/transformer/layer_(\d+)/", r"transformer/h_\1/"),
    (r"attention/self/query/(\w+)$", r"attn/c_attn/\1#0/3"),
    (r"attention/self/key/(\w+)$", r"attn/c_attn/\1#1/3"),
    (r"attention/self/value/(\w+)$", r"attn/c_attn/\1#2/3"),
    (r"attention/output/dense/", "attn/c_proj/"),
    (r"attention/input/LayerNorm/", "ln_1/"),
    (r"(h_\d+)/input/LayerNorm/", r"\1/ln_2/"),
    (r"^gpt/output/LayerNorm/", "transformer/ln_f/"),
    (r"intermediate/dense/", "mlp/c_fc/"),
    (r"(h_\d+)/output/dense/", r"\1/mlp/c_proj/"),
    (r"/kernel(?=$|#)", "/weight"),  # its layers are convolutions, which are not transposed
)
OFFICIAL = "(.*/)?gpt/transformer/layer/0/attention/self/query/bias"
OFFICIAL_NORM = "(.*/)?gpt/output/LayerNorm/.*"
THEIRS = ".*h/0/attn/c_attn/kernel"
THEIR_TABLE = ".*tokens_embed/kernel"


def read_gpt2(config: dict[str, Any], path: Any) -> dict[str, Any]:
    """Fill in `n_inner`, which is 4 times `n_embd` if a config leaves it out."""
    inner = config.get("n_inner" if "n_inner" in config else "intermediate_size")
    if not inner and "n_embd" in config:
        inner = 4 * config["n_embd"]
    return {**config, "n_inner": inner}


def read_gpt(config: dict[str, Any], path: Any) -> dict[str, Any]:
    """Fill in the inner size, 4 times `n_embd`, and replace 'gelu', the tanh version here."""
    if not config.get("intermediate_size") and "n_embd" in config:
        config["intermediate_size"] = 4 * config["n_embd"]
    return {**config, "afn": "gelu_new"} if config["afn"] == "gelu" else config


def write_gpt(transformer: Any) -> dict[str, Any]:
    """Return the activation of a config, in which 'gelu' is the approximation by tanh."""
    act = to_activation(transformer.hidden_act)
    if act not in ("gelu_new", "relu", "silu"):
        raise ValueError(f"Hugging Face has no GPT with hidden_act={transformer.hidden_act!r}")
    return {"afn": "gelu" if act == "gelu_new" else act}


class GPT(LM_Mask, BERT):
    """GPT (Radford et al., 2018), with segments as in CDial-GPT (Wang et al., 2020).

    Args:
        final_activation: activation of the logits, such as 'softmax' or 'linear'.
        with_lm: whether logits are computed; otherwise the outputs are the hidden states, for
            example for sentence embeddings.
        **kwargs: those of `BERT`.
    """

    model_type = "openai-gpt"
    embedding_steps = ("dropout",)
    head_argument = "final_activation"
    refused_arguments = ("with_pool", "with_nsp", "with_mlm", "masked_positions")
    variable_names = renamed(
        renamed(BERT.variable_names, "bert/encoder", "gpt/transformer"), "bert/", "gpt/"
    ) | {"Output-Mapping": dense("gpt/transformer/embedding_hidden_mapping_out")}
    vocabulary_variables = ("gpt/embeddings/word_embeddings",)
    families = (
        Family(
            "openai-gpt",
            ("gpt",),
            "OpenAIGPT",
            {**KEYS, "afn": "hidden_act"},
            {"afn": "gelu", "layer_norm_epsilon": 1e-5, **NO_SEGMENTS, **NO_PADDING},
            TIED,
            causal="LMHeadModel",
            strings=("afn",),
            read=read_gpt,
            write=write_gpt,
        ),
    )
    dialect = Dialect(
        "transformer",
        (
            (r"^gpt/embeddings/word_embeddings$", "transformer/tokens_embed/weight"),
            (r"^gpt/embeddings/position_embeddings$", "transformer/positions_embed/weight"),
            (r"^(gpt/transformer/layer_\d+)/attention/output/LayerNorm/", r"\1/ln_1/"),
            (r"^(gpt/transformer/layer_\d+)/output/LayerNorm/", r"\1/ln_2/"),
            *SUB_LAYERS,
        ),
    )
    signatures = (
        Signature("gpt", has=(OFFICIAL,), lacks=(OFFICIAL_NORM,)),
        Signature("gpt", has=(THEIRS, THEIR_TABLE)),
    )

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
        """Compute logits or probabilities (batch, length, vocab_size), or return hidden states."""
        x = inputs
        if not self.with_lm:
            return x
        if self.embedding_size != self.hidden_size:
            x = self.apply_dense(x, self.embedding_size, "Output-Mapping")
        x = self.apply_token_scores(x)
        return self.apply_activation(x, self.final_activation, "LM-Activation")

    def apply_token_scores(self, x: Tensor) -> Tensor:
        """Compute logits (batch, length, vocab_size) with the embedding table."""
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
    families = (
        Family(
            "gpt2",
            ("gpt2",),
            "GPT2",
            {**KEYS, "n_inner": "intermediate_size", "activation_function": "hidden_act"},
            {"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, **NO_PADDING},
            {
                "scale_attn_weights": (True,),
                "scale_attn_by_inverse_layer_idx": (False,),
                **TIED,
            },
            causal="LMHeadModel",
            mark="n_embd",
            read=read_gpt2,
        ),
    )
    dialect = Dialect(
        "transformer",
        (
            (r"^gpt/embeddings/word_embeddings$", "transformer/wte/weight"),
            (r"^gpt/embeddings/position_embeddings$", "transformer/wpe/weight"),
            *SUB_LAYERS,
        ),
    )
    signatures = (
        Signature("gpt2", has=(OFFICIAL, OFFICIAL_NORM)),
        Signature("gpt2", has=(THEIRS,), lacks=(THEIR_TABLE,)),
    )

    def __init__(self, max_position: int, **kwargs: Any) -> None:
        super().__init__(max_position, **{**kwargs, "segment_vocab_size": 0})

    def apply_final_layers(self, inputs: Tensor) -> Tensor:
        """Normalise the hidden states, and compute logits or probabilities as GPT does."""
        x = self.apply_norm(inputs, "Output-Norm")
        x = self.apply(x, Dropout, rate=self.dropout_rate, name="Output-Dropout")
        return super().apply_final_layers(x)


class GPT2_ML(GPT2):
    """GPT-2 as in imcaspar/gpt2-ml, with norms before and after the feed-forward layers only."""

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
    # Hugging Face has no such model: these are our own files and those of the authors.
    families = (
        Family(
            "gpt2_ml",
            ("gpt2_ml",),
            "GPT2ML",
            FACTORED_KEYS,
            NO_SEGMENTS,
            gates=True,
            in_transformers=False,
        ),
    )
    dialect = RULE
    signatures = (Signature("gpt2_ml", has=("(.*/)?newslm/layer/0/query_layer/kernel",)),)

    def apply_final_layers(self, inputs: Tensor) -> Tensor:
        """Compute logits or probabilities as GPT does, since the last block ends with a norm."""
        return GPT.apply_final_layers(self, inputs)
