"""BERT, and what the architectures derived from it share."""

from collections.abc import Mapping
from typing import Any, ClassVar

from keras import ops
from keras.layers import Input

from bert4keras.backend.activations import activation
from bert4keras.backend.tensors import Tensor
from bert4keras.checkpoints.architectures import Signature
from bert4keras.checkpoints.names import Dialect
from bert4keras.layers.base import Dropout
from bert4keras.layers.embeddings import Embedding
from bert4keras.layers.merging import Add
from bert4keras.layers.normalisation import ScaleOffset
from bert4keras.layers.pooling import FirstToken, GatherPositions
from bert4keras.layers.positions import PositionEmbedding
from bert4keras.models.block import listed
from bert4keras.models.family import BERT_KEYS, EPSILON, TIED, Family
from bert4keras.models.masks import LM_Mask
from bert4keras.models.names import dense, norm
from bert4keras.models.transformer import Transformer, chosen_activation

# === What files of BERT and of derived architectures have in common ===

HEADS = (
    (r"^cls/predictions/output_bias$", "cls/predictions/bias"),
    (r"^cls/seq_relationship/output_weights$", "cls/seq_relationship/weight"),
    (r"^cls/seq_relationship/output_bias$", "cls/seq_relationship/bias"),
)
BIAS_TWICE = ((r"^(cls\.predictions|predictions)\.bias$", r"\1.decoder.bias"),)
"""Some files hold the bias a second time, under the name of the layer before it."""

QUERY = "encoder/layer/0/attention/self/query"
POSITION_TABLE = "embeddings/position_embeddings(/kernel)?"
# The names of a bare model of Hugging Face have no prefix, whatever its architecture.
WITHOUT_POSITIONS = ((f"(bert/)?{QUERY}/bias",), (f".*{POSITION_TABLE}",))


def bert_like(base: str, *rewrites: tuple[str, str]) -> Dialect:
    """Return the dialect of an architecture whose official names are those of BERT.

    Args:
        base: prefix of the names in files of Hugging Face.
        *rewrites: further differences of these names from the official ones.
    """
    return Dialect(base, (*rewrites, (r"^bert/", f"{base}/"), *HEADS), BIAS_TWICE)


def first_block(*bases: str) -> str:
    """Return a pattern for the prefix of names in the first block, the `start` of `Signature`."""
    return f"(?:(?:{'|'.join(bases)})/)?encoder/layer/0/"


class BERT(Transformer):
    """BERT (Devlin et al., 2018), and Chinese RoBERTa, which has the same architecture.

    Args:
        max_position: number of positions.
        segment_vocab_size: number of segment types; 0 for a model without segments.
        with_pool: output the hidden state of the first token after a Dense layer: True for tanh, or
            an activation.
        with_nsp: output the next-sentence prediction, from the pooled output (implies `with_pool`).
        with_mlm: output token probabilities: True for softmax, or an activation such as 'linear'.
        masked_positions: take positions (batch, n) as an additional input, and output the token
            probabilities at these positions only: (batch, n, vocab_size). Training on masked
            tokens, or of a UniLM on the tokens of the second segment, needs no others, which would
            take most of the time. Requires `with_mlm`. For `Generator`, build a second model with
            the same `layers=` and without this.
        hierarchical_position: `hierarchical` of `PositionEmbedding`.
        custom_position_ids: take position ids as an additional input.
        shared_segment_embeddings: embed segment ids with the token table.
        **kwargs: see `Transformer`.

    The outputs are the hidden states (batch, length, hidden_size) without heads; otherwise those of
    the heads, in the order: pooled output or next-sentence prediction, token probabilities.
    """

    model_type = "bert"
    segments_in_mask = False
    embedding_steps: tuple[str, ...] = ("norm", "dropout")
    """The steps that follow the sum of the embeddings: 'norm', 'dropout', 'scale' (· √size)."""
    mlm_activation: str | None = None
    """The activation of the head of masked tokens, that of `hidden_act` by default."""
    # google-research/bert, modeling.py and run_pretraining.py
    variable_names: ClassVar[Mapping[str, list[str]]] = {
        "Embedding-Token": ["bert/embeddings/word_embeddings"],
        "Embedding-Segment": ["bert/embeddings/token_type_embeddings"],
        "Embedding-Position": ["bert/embeddings/position_embeddings"],
        "Embedding-Norm": norm("bert/embeddings/LayerNorm"),
        "Embedding-Mapping": dense("bert/encoder/embedding_hidden_mapping_in"),
        "Transformer-{i}-MultiHeadSelfAttention": dense(
            "bert/encoder/layer_{i}/attention/self/query",
            "bert/encoder/layer_{i}/attention/self/key",
            "bert/encoder/layer_{i}/attention/self/value",
            "bert/encoder/layer_{i}/attention/output/dense",
        ),
        "Transformer-{i}-MultiHeadSelfAttention-Norm": norm(
            "bert/encoder/layer_{i}/attention/output/LayerNorm"
        ),
        "Transformer-{i}-FeedForward": dense(
            "bert/encoder/layer_{i}/intermediate/dense{gate}", "bert/encoder/layer_{i}/output/dense"
        ),
        "Transformer-{i}-FeedForward-Norm": norm("bert/encoder/layer_{i}/output/LayerNorm"),
        "Pooler-Dense": dense("bert/pooler/dense"),
        "NSP-Proba": ["cls/seq_relationship/output_weights", "cls/seq_relationship/output_bias"],
        "MLM-Dense": dense("cls/predictions/transform/dense"),
        "MLM-Norm": norm("cls/predictions/transform/LayerNorm"),
        "MLM-Bias": ["cls/predictions/output_bias"],
    }
    vocabulary_variables = ("bert/embeddings/word_embeddings", "cls/predictions/output_bias")
    transposed_variables = ("cls/seq_relationship/output_weights",)
    head_layers: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "MLM-": {"with_mlm": "linear"},
        "NSP-": {"with_nsp": True},
        "Pooler-": {"with_pool": True},
    }
    families = (
        Family("bert", ("bert", "roberta"), "Bert", BERT_KEYS, EPSILON, TIED, causal="LMHeadModel"),
    )
    dialect = Dialect("bert", HEADS, BIAS_TWICE)
    signatures = (
        Signature(
            "bert",
            has=(f"(bert/)?{QUERY}/bias", f"(bert/)?{POSITION_TABLE}"),
            lacks=(".*embeddings/task_type_embeddings(/kernel)?",),
            start=first_block("bert"),
        ),
    )

    def __init__(
        self,
        max_position: int,
        segment_vocab_size: int = 2,
        with_pool: bool | str = False,
        with_nsp: bool = False,
        with_mlm: bool | str = False,
        masked_positions: bool = False,
        hierarchical_position: bool | float | None = None,
        custom_position_ids: bool = False,
        shared_segment_embeddings: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if masked_positions and isinstance(self, LM_Mask):
            raise ValueError(
                "masked_positions is for models that predict masked tokens or a second segment, "
                "not for language models, which predict at every position: leave it out or correct "
                "application"
            )
        if masked_positions and not with_mlm:
            raise ValueError(
                "masked_positions selects where logits are computed, and without with_mlm there "
                "are none: give with_mlm too, or leave it out"
            )
        self.max_position = max_position
        self.segment_vocab_size = segment_vocab_size
        self.with_pool = with_pool or with_nsp
        self.with_nsp = with_nsp
        self.with_mlm = with_mlm
        self.masked_positions = masked_positions
        self.hierarchical_position = hierarchical_position
        self.custom_position_ids = custom_position_ids
        self.shared_segment_embeddings = shared_segment_embeddings

    def get_inputs(self) -> Any:
        """Create the inputs: token, segment and position ids, masked positions, if needed."""
        kinds = {"Token": "int32"}
        if self.takes_segments or self.segments_in_mask:
            kinds["Segment"] = "int32"
        if self.custom_position_ids:
            # Sinusoidal positions need not be whole numbers.
            kinds["Position"] = "float32"
        inputs = [self.apply_input(f"Input-{kind}", dtype) for kind, dtype in kinds.items()]
        if self.masked_positions:
            name = "Input-Masked-Positions"
            inputs.append(self.apply(layer=Input, shape=(None,), dtype="int32", name=name))
        return self.simplify(inputs)

    def apply_embeddings(self, inputs: Any) -> Tensor:
        """Add the embeddings of tokens, segments and positions, and apply `embedding_steps`."""
        token_ids, *rest = listed(inputs)
        segment_ids = rest.pop(0) if self.takes_segments or self.segments_in_mask else None
        position_ids = rest.pop(0) if self.custom_position_ids else None
        x = self.apply_token_embedding(token_ids)
        if self.segment_vocab_size > 0:
            segment_ids = segment_ids if self.takes_segments else ops.zeros_like(token_ids)
            segments = self.apply_segment_embedding(segment_ids)
            # If segments share the table of tokens, segment 0 would be treated as padding.
            x = self.apply([x, segments], Add, masked_by=0, name="Embedding-Token-Segment")
        x = self.apply_position_embedding(x, self.position_source(token_ids, position_ids))
        for step in self.embedding_steps:
            if step == "norm":
                x = self.apply_norm(x, "Embedding-Norm")
            elif step == "scale":
                scale = {"scale": self.embedding_size**0.5, "offset": False}
                x = self.apply(x, ScaleOffset, name="Embedding-Scale", **scale)
            else:
                x = self.apply(x, Dropout, rate=self.dropout_rate, name="Embedding-Dropout")
        if self.embedding_size != self.hidden_size:
            x = self.apply_dense(x, self.hidden_size, "Embedding-Mapping")
        return x

    @property
    def takes_segments(self) -> bool:
        """Whether segment ids are embedded, and not one segment for every token."""
        return self.segment_vocab_size > 0

    def position_source(self, token_ids: Tensor, position_ids: Tensor | None) -> Tensor | None:
        """What `apply_position_embedding` is given: position ids; None for those from 0."""
        return position_ids

    def apply_segment_embedding(self, segment_ids: Tensor) -> Tensor:
        """Embed segments with a table of their own or that of the tokens."""
        if self.shared_segment_embeddings:
            return self.apply_token_embedding(segment_ids)
        return self.apply(
            segment_ids,
            Embedding,
            input_dim=self.segment_vocab_size,
            output_dim=self.embedding_size,
            embeddings_initializer=self.table_initializer,
            name="Embedding-Segment",
        )

    def apply_position_embedding(self, x: Tensor, position_ids: Tensor | None) -> Tensor:
        """Add position embeddings from a table, unless positions enter attention."""
        if self.block.position_bias:
            return x
        return self.apply(
            self.simplify([x, position_ids]),
            PositionEmbedding,
            input_dim=self.max_position,
            output_dim=self.embedding_size,
            merge_mode="add",
            hierarchical=self.hierarchical_position,
            embeddings_initializer=self.table_initializer,
            custom_position_ids=self.custom_position_ids,
            name="Embedding-Position",
        )

    def apply_final_layers(self, inputs: Tensor) -> Any:
        """Compute the outputs of the heads, or return the hidden states without heads."""
        heads = []
        if self.with_pool:
            heads.append(self.apply_pooler(inputs))
        if self.with_mlm:
            heads.append(self.apply_mlm(self.apply_gather(inputs)))
        return self.simplify(heads or [inputs])

    def apply_pooler(self, x: Tensor) -> Tensor:
        """Compute the pooled output (batch, hidden_size).

        With `with_nsp`, it is the prediction (batch, 2): next sentence, random sentence.
        """
        x = self.apply(x, FirstToken, name="Pooler")
        function = chosen_activation(self.with_pool, "tanh")
        x = self.apply_dense(x, self.hidden_size, "Pooler-Dense", activation=function)
        if not self.with_nsp:
            return x
        return self.apply_dense(x, 2, "NSP-Proba", activation="softmax", dtype="float32")

    def apply_gather(self, x: Tensor) -> Tensor:
        """Select the hidden states at the `masked_positions`, or return all of them without."""
        if not self.masked_positions:
            return x
        positions = self.layers[self.prefixed("Input-Masked-Positions")]
        return self.apply([x, positions], GatherPositions, name="MLM-Positions")

    def apply_mlm(self, x: Tensor) -> Tensor:
        """Compute logits or probabilities of tokens, (batch, length or n, vocab_size)."""
        function = activation(self.mlm_activation or self.activations[0])
        x = self.apply_dense(x, self.embedding_size, "MLM-Dense", activation=function)
        x = self.apply_norm(x, "MLM-Norm")
        x = self.apply_token_embedding(x, mode="dense")
        x = self.apply(x, ScaleOffset, scale=False, name="MLM-Bias")
        return self.apply_activation(x, self.with_mlm, "MLM-Activation")
