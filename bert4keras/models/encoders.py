"""Architectures that read a text in both directions: BERT and its kin."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from keras.layers import Activation, Input

from bert4keras.backend import Sinusoidal, Tensor, activation, keras
from bert4keras.layers import (
    Add,
    DisentangledAttention,
    Dropout,
    Embedding,
    FirstToken,
    GatedAttentionUnit,
    GatherPositions,
    LocalMask,
    MaskedConv1D,
    PositionEmbedding,
    RelativePositionEmbedding,
    RelativePositionTable,
    ScaleOffset,
    SinusoidalPositionEmbedding,
)
from bert4keras.models.block import Block, listed
from bert4keras.models.masks import LM_Mask
from bert4keras.models.names import dense, norm, renamed
from bert4keras.models.transformer import Transformer, chosen_activation


class BERT(Transformer):
    """BERT (Devlin et al., 2018) and RoBERTa, which has the same architecture.

    Args:
        max_position: number of positions.
        segment_vocab_size: number of segment types; 0 for a model without segments.
        with_pool: output the first token's vector through a Dense: True for tanh, or an activation.
        with_nsp: output the next-sentence prediction, from the pooled vector (forces `with_pool`).
        with_mlm: output token probabilities: True for softmax, or an activation such as 'linear'.
        masked_positions: take positions (batch, n) as a further input, and output the token
            probabilities at these only: (batch, n, vocab_size). Training on masked tokens, or of a
            UniLM on the tokens of the second segment, needs no others, and most of its work would
            be spent on them. Needs `with_mlm`. `Generator` takes a second model with the same
            `layers=` and without this.
        hierarchical_position: see `hierarchical` of `PositionEmbedding`.
        custom_position_ids: take position ids as a further input.
        shared_segment_embeddings: embed segment ids with the token table.
        **kwargs: see `Transformer`.

    Outputs are hidden states (batch, length, hidden_size) if no head is asked for; otherwise the
    heads, in the order pooled or next-sentence, token probabilities.
    """

    model_type = "bert"
    segments_in_mask = False
    embedding_steps: tuple[str, ...] = ("norm", "dropout")
    """What happens to the sum of the embeddings."""
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
                "masked_positions says where token scores are computed, and without with_mlm there "
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
        """Token, segment and position ids, masked positions, as far as the model has them."""
        kinds = {"Token": "int32"}
        if self.segment_vocab_size > 0 or self.segments_in_mask:
            kinds["Segment"] = "int32"
        if self.custom_position_ids:
            # Sinusoidal positions may be fractions.
            kinds["Position"] = "float32"
        inputs = [self.apply_input(f"Input-{kind}", dtype) for kind, dtype in kinds.items()]
        if self.masked_positions:
            name = "Input-Masked-Positions"
            inputs.append(self.apply(layer=Input, shape=(None,), dtype="int32", name=name))
        return self.simplify(inputs)

    def apply_embeddings(self, inputs: Any) -> Tensor:
        """Tokens, segments and positions, added up; then the steps of the architecture."""
        token_ids, *rest = listed(inputs)
        segment_ids = rest.pop(0) if self.segment_vocab_size > 0 or self.segments_in_mask else None
        position_ids = rest.pop(0) if self.custom_position_ids else None
        x = self.apply_token_embedding(token_ids)
        if self.segment_vocab_size > 0:
            segments = self.apply_segment_embedding(segment_ids)
            # Of one table with the tokens, segment 0 would count as padding.
            x = self.apply([x, segments], Add, masked_by=0, name="Embedding-Token-Segment")
        x = self.apply_position_embedding(x, position_ids)
        for step in self.embedding_steps:
            if step == "norm":
                x = self.apply_norm(x, "Embedding-Norm")
            else:
                x = self.apply(x, Dropout, rate=self.dropout_rate, name="Embedding-Dropout")
        if self.embedding_size != self.hidden_size:
            x = self.apply_dense(x, self.hidden_size, "Embedding-Mapping")
        return x

    def apply_segment_embedding(self, segment_ids: Tensor) -> Tensor:
        """Segment vectors, from their own table or that of the tokens."""
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
        """Add position vectors from a table, unless positions enter attention."""
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
        """The heads that were asked for, or the hidden states."""
        heads = []
        if self.with_pool:
            heads.append(self.apply_pooler(inputs))
        if self.with_mlm:
            heads.append(self.apply_mlm(self.apply_gather(inputs)))
        return self.simplify(heads or [inputs])

    def apply_pooler(self, x: Tensor) -> Tensor:
        """(batch, hidden_size), or with `with_nsp` (batch, 2): next sentence, random sentence."""
        x = self.apply(x, FirstToken, name="Pooler")
        function = chosen_activation(self.with_pool, "tanh")
        x = self.apply_dense(x, self.hidden_size, "Pooler-Dense", activation=function)
        if not self.with_nsp:
            return x
        return self.apply_dense(x, 2, "NSP-Proba", activation="softmax", dtype="float32")

    def apply_gather(self, x: Tensor) -> Tensor:
        """The vectors that token scores are computed from: with `masked_positions`, only those."""
        if not self.masked_positions:
            return x
        positions = self.layers[self.prefixed("Input-Masked-Positions")]
        return self.apply([x, positions], GatherPositions, name="MLM-Positions")

    def apply_mlm(self, x: Tensor) -> Tensor:
        """(batch, length or n, vocab_size), scores or probabilities of tokens."""
        function = activation(self.activations[0])
        x = self.apply_dense(x, self.embedding_size, "MLM-Dense", activation=function)
        x = self.apply_norm(x, "MLM-Norm")
        x = self.apply_token_embedding(x, mode="dense")
        x = self.apply(x, ScaleOffset, scale=False, name="MLM-Bias")
        return self.apply_activation(x, self.with_mlm, "MLM-Activation")


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


class NEZHA(BERT):
    """NEZHA (Wei et al., 2019): BERT with fixed sinusoidal vectors of relative positions."""

    model_type = "nezha"
    block = Block(epsilon=1e-7, position_bias="typical_relative")
    refused_arguments = ("custom_position_ids", "hierarchical_position")
    foreign_variables = ("bert/embeddings/position_embeddings",)
    max_distance = 64
    computed_layers = ("Embedding-Relative-Position", "Embedding-Relative-Position-Value")

    def compute_position_bias(self, inputs: Any = None) -> Tensor:
        """Vectors of relative positions, for the keys and for the values; computed once."""
        if self.position_bias is None:
            sizes = {"": self.attention_key_size, "-Value": self.attention_head_size}
            if self.attention_key_size == self.attention_head_size:
                del sizes["-Value"]  # keys and values use the same
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


def rotary_settings(theta: float, scaling: Mapping[str, Any] | None, reach: int) -> dict[str, Any]:
    """Arguments of `SinusoidalPositionEmbedding` from the settings of Hugging Face configs.

    Args:
        theta: `rope_theta`, unless `scaling` has one.
        scaling: `rope_scaling` or `rope_parameters`.
        reach: the length that the model was trained with, unless `scaling` says it. Under dynamic
            scaling it always is, as in `transformers`, which does not know the key there.
    """
    scaling = dict(scaling or {})
    theta = scaling.pop("rope_theta", theta)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return {"base": theta}
    if kind == "dynamic":
        scaling["original_max_position_embeddings"] = reach
    elif kind != "linear":
        scaling.setdefault("original_max_position_embeddings", reach)
    return {"base": theta, "scaling": scaling}


class RoFormer(BERT):
    """RoFormer (Su et al., 2021): BERT with rotary positions instead of a position table."""

    model_type = "roformer"
    block = Block(epsilon=1e-7, position_bias="rotary")
    refused_arguments = ("hierarchical_position",)
    foreign_variables = ("bert/embeddings/position_embeddings",)
    rotary: ClassVar[dict[str, Any]] = {}
    """Wavelengths: `base` and `scaling` of `SinusoidalPositionEmbedding`."""

    def compute_position_bias(self, inputs: Any = None) -> Tensor:
        """Sinusoidal vectors by which queries and keys are rotated, computed once."""
        if self.position_bias is None:
            name = "Embedding-Rotary-Position"
            self.position_bias = self.apply_rotary_position(inputs, name, self.rotary)
        return self.position_bias

    def apply_rotary_position(self, x: Tensor, name: str, wavelengths: dict[str, Any]) -> Tensor:
        """Sinusoidal vectors of the positions, (batch or 1, length, key size)."""
        position_ids = self.layers.get(self.prefixed("Input-Position"))
        return self.apply(
            self.simplify([x, position_ids]),
            SinusoidalPositionEmbedding,
            output_dim=self.attention_key_size,
            merge_mode="zero",
            custom_position_ids=self.custom_position_ids,
            name=name,
            **wavelengths,
        )


class RoFormerV2(RoFormer):
    """RoFormerV2 (Su et al., 2022): RoFormer without biases, its norms without parameters.

    It has no pooler and no condition: `with_pool` and `layer_norm_cond` mean nothing to it.
    """

    model_type = "roformer_v2"
    block = Block(
        epsilon=1e-7,
        zero_mean=False,
        scale=False,
        offset=False,
        position_bias="rotary",
        use_bias=False,
    )
    embedding_steps = ("dropout", "norm")
    initializer_order = 2
    variable_names: ClassVar[Mapping[str, list[str]]] = {
        layer: [name for name in names if name.endswith(("kernel", "embeddings"))]
        for layer, names in BERT.variable_names.items()
    } | {"Output-Mapping": ["bert/encoder/embedding_hidden_mapping_out/kernel"]}

    @property
    def standard_initializer(self) -> keras.initializers.Initializer:
        """Kernels shrink with the depth, which keeps the updates of a post-norm model bounded."""
        return self.scaled_initializer("fan_in")

    @property
    def table_initializer(self) -> keras.initializers.Initializer:
        """Tables likewise; what counts for them is the size of the vectors."""
        return self.initializer if self.draws_itself else self.scaled_initializer("fan_out")

    def scaled_initializer(
        self, mode: str, order: float | None = None
    ) -> keras.initializers.Initializer:
        """Truncated normal of standard deviation fan^(−1/2) · blocks^(−1/order)."""
        scale = max(1, self.num_hidden_layers) ** (-2 / (order or self.initializer_order))
        return keras.initializers.VarianceScaling(scale, mode, "truncated_normal")

    def initial_values(
        self, shape: Sequence[int], dtype: Any = None, order: float | None = None, gain: float = 1.0
    ) -> Tensor:
        """Draw the values of a kernel, or of a table: fewer than 10 or more than 10 000 rows."""
        mode = "fan_in" if 10 <= shape[0] <= 10_000 else "fan_out"
        return gain * self.scaled_initializer(mode, order)(shape, dtype)

    def apply_final_layers(self, inputs: Tensor) -> Tensor:
        """Hidden states, or with `with_mlm` token probabilities by the table of embeddings."""
        if not self.with_mlm:
            return inputs
        x = self.apply_gather(inputs)
        if self.embedding_size != self.hidden_size:
            x = self.apply_dense(x, self.embedding_size, "Output-Mapping")
        x = self.apply(x, Dropout, rate=self.dropout_rate, name="Output-MLM-Dropout")
        x = self.apply_token_embedding(x, mode="dense")
        return self.apply_activation(x, self.with_mlm, "Output-MLM-Activation")


class ELECTRA(BERT):
    """ELECTRA (Clark et al., 2020), the discriminator.

    Args:
        with_discriminator: output (batch, length, 1), whether a token was replaced: True for a
            probability, or an activation such as 'linear'.
        **kwargs: see `BERT`.
    """

    model_type = "electra"
    applications = ("encoder",)
    refused_arguments = ("with_pool", "with_nsp", "with_mlm", "masked_positions")
    # google-research/electra, modeling.py and run_pretraining.py
    variable_names = renamed(BERT.variable_names, "bert/", "electra/") | {
        "Embedding-Mapping": dense("electra/embeddings_project"),
        "Discriminator-Dense": dense("discriminator_predictions/dense"),
        "Discriminator-Prediction": dense("discriminator_predictions/dense_1"),
    }
    vocabulary_variables = ("electra/embeddings/word_embeddings",)

    def __init__(
        self, max_position: int, with_discriminator: bool | str = False, **kwargs: Any
    ) -> None:
        super().__init__(max_position, **kwargs)
        self.with_discriminator = with_discriminator

    def apply_final_layers(self, inputs: Tensor) -> Tensor:
        """Hidden states, or whether each token was replaced."""
        if not self.with_discriminator:
            return inputs
        function = activation(self.activations[0])
        x = self.apply_dense(inputs, self.hidden_size, "Discriminator-Dense", activation=function)
        kwargs = {
            "activation": chosen_activation(self.with_discriminator, "sigmoid"),
            "dtype": "float32",
        }
        return self.apply_dense(x, 1, "Discriminator-Prediction", **kwargs)


class ERNIE(BERT):
    """ERNIE (Sun et al., 2019) 1.0 and, with task embeddings, 3.0 (Sun et al., 2021).

    Args:
        use_task_id: add a vector of the task to the embeddings.
        task_type_vocab_size: number of tasks.
        custom_task_ids: take task ids (batch, length) as the last input; otherwise the task is 0.
        **kwargs: see `BERT`.
    """

    model_type = "ernie"
    # Names of Hugging Face: the checkpoints come from PaddlePaddle.
    variable_names = renamed(BERT.variable_names, "bert/", "ernie/") | {
        "Embedding-Task": ["ernie/embeddings/task_type_embeddings"],
    }
    vocabulary_variables = ("ernie/embeddings/word_embeddings", "cls/predictions/output_bias")
    foreign_variables = ("ernie/embeddings/task_type_embeddings",)

    def __init__(
        self,
        max_position: int,
        use_task_id: bool = False,
        task_type_vocab_size: int = 3,
        custom_task_ids: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(max_position, **kwargs)
        self.use_task_id = use_task_id
        self.task_type_vocab_size = task_type_vocab_size
        self.custom_task_ids = custom_task_ids

    def get_inputs(self) -> Any:
        """Those of BERT, and task ids if they are asked for."""
        inputs = listed(super().get_inputs())
        if self.use_task_id and self.custom_task_ids:
            inputs.append(self.apply_input("Input-Task"))
        return self.simplify(inputs)

    def apply_position_embedding(self, x: Tensor, position_ids: Tensor | None) -> Tensor:
        """Add the vectors of positions and that of the task."""
        x = super().apply_position_embedding(x, position_ids)
        if not self.use_task_id:
            return x
        task_ids = self.layers.get(self.prefixed("Input-Task"))
        if task_ids is None:
            task_ids = keras.ops.zeros_like(x[..., 0], dtype="int32")
        task = self.apply(
            task_ids,
            Embedding,
            input_dim=self.task_type_vocab_size,
            output_dim=self.embedding_size,
            embeddings_initializer=self.table_initializer,
            name="Embedding-Task",
        )
        return self.apply([x, task], Add, name="Embedding-Position-Task")


class DeBERTaV2(BERT):
    """DeBERTa v2 (He et al., 2021), as in Erlangshen: attention to contents and to distances.

    Args:
        position_buckets: number of buckets of distances in either direction.
        max_relative_positions: distance from which on there is a single bucket; below 1, it is
            `max_position`.
        norm_rel_ebd: 'layer_norm' to normalise the vectors of the buckets, or 'none'.
        conv_kernel_size: if above 0, a convolution of that size over the embeddings is added to the
            output of the first block.
        conv_act: its activation.
        legacy: whether the MLM head has the names of BERT's, or those of the first publication.
        **kwargs: see `BERT`.
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
        """The table of names, that of BERT up to the attention and the head."""
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
        """Of the buckets of distances."""
        return {"buckets": self.position_buckets, "max_distance": self.max_distance}

    def compute_position_bias(self, inputs: Any = None) -> Tensor:
        """(2 · buckets, hidden_size), the vectors of the buckets, computed once."""
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
        """One block; after the first comes the convolution, if there is one."""
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


class ModernBERT(RoFormer):
    """ModernBERT (Warner et al., 2024): blocks that see everything between blocks that see nearby.

    Args:
        global_attn_every_n_layers: which blocks see everything: numbers 0, n, 2n, …
        layer_types: the same block by block: 'full_attention' or 'sliding_attention'.
        local_attention: the window of the others, see `LocalMask`.
        global_rope_theta: base of the wavelengths of blocks that see everything.
        local_rope_theta: that of the others.
        rope_parameters: both by layer type, as newer configs have them.
        **kwargs: see `BERT`.
    """

    model_type = "modernbert"
    takes_gates = False
    block = Block(
        attention_norms=("pre",),
        feed_forward_norms=("pre",),
        epsilon=1e-5,
        offset=False,
        position_bias="rotary_half",
        use_bias=False,
        gated=True,
    )
    applications = ("encoder",)
    refused_arguments = ("with_pool", "with_nsp", "hierarchical_position")
    fixed_settings = dict.fromkeys(
        ("decoder_bias", "tie_word_embeddings"), (True,)
    ) | dict.fromkeys(("attention_bias", "mlp_bias", "norm_bias", "classifier_bias"), (False,))
    foreign_variables = ()
    # Wqkv and Wi are one tensor each in files of Hugging Face.
    variable_names: ClassVar[Mapping[str, list[str]]] = {
        "Embedding-Token": ["model/embeddings/tok_embeddings"],
        "Embedding-Norm": ["model/embeddings/norm/gamma"],
        "Embedding-Mapping": ["model/embeddings/embedding_hidden_mapping_in/kernel"],
        "Transformer-{i}-MultiHeadSelfAttention-Norm": ["model/layers_{i}/attn_norm/gamma"],
        "Transformer-{i}-MultiHeadSelfAttention": [
            "model/layers_{i}/attn/Wqkv/query/kernel",
            "model/layers_{i}/attn/Wqkv/key/kernel",
            "model/layers_{i}/attn/Wqkv/value/kernel",
            "model/layers_{i}/attn/Wo/kernel",
        ],
        "Transformer-{i}-FeedForward-Norm": ["model/layers_{i}/mlp_norm/gamma"],
        "Transformer-{i}-FeedForward": [
            "model/layers_{i}/mlp/Wi/input/kernel",
            "model/layers_{i}/mlp/Wi/gate/kernel",
            "model/layers_{i}/mlp/Wo/kernel",
        ],
        "Output-Norm": ["model/final_norm/gamma"],
        "MLM-Dense": ["head/dense/kernel"],
        "MLM-Norm": ["head/norm/gamma"],
        "MLM-Bias": ["decoder/bias"],
    }
    vocabulary_variables = ("model/embeddings/tok_embeddings", "decoder/bias")

    def __init__(
        self,
        max_position: int,
        global_attn_every_n_layers: int = 3,
        layer_types: Sequence[str] | None = None,
        local_attention: int = 128,
        global_rope_theta: float = 160000.0,
        local_rope_theta: float = 10000.0,
        rope_parameters: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(max_position, **{**kwargs, "segment_vocab_size": 0})
        self.layer_types = layer_types or [
            "sliding_attention" if i % global_attn_every_n_layers else "full_attention"
            for i in range(self.num_hidden_layers)
        ]
        self.local_attention = local_attention
        thetas = {"full_attention": global_rope_theta, "sliding_attention": local_rope_theta}
        self.rotary = {
            kind: rotary_settings(theta, (rope_parameters or {}).get(kind), max_position)
            for kind, theta in thetas.items()
        }

    def block_of(self, index: int) -> Block:
        """Before the first attention, the embeddings are normalised already."""
        return self.block if index else replace(self.block, attention_norms=())

    def apply_main_layers(self, inputs: Any, index: int) -> Any:
        """One block of its kind."""
        self.layer_type = self.layer_types[index]
        return super().apply_main_layers(inputs, index)

    def compute_attention_bias(self, inputs: Any = None) -> Tensor | None:
        """The window of the blocks that see nearby, computed once."""
        if self.layer_type == "full_attention":
            return None
        if self.attention_bias is None:
            window = {"window": self.local_attention, "name": "Attention-Local-Mask"}
            self.attention_bias = self.apply(self.inputs[0], LocalMask, **window)
        return self.attention_bias

    def compute_position_bias(self, inputs: Any = None) -> Tensor:
        """Sinusoidal vectors of either kind, computed once."""
        if self.position_bias is None:
            self.position_bias = {}
        kind = self.layer_type
        if kind not in self.position_bias:
            name = f"Embedding-Rotary-Position-{kind.split('_')[0].title()}"
            self.position_bias[kind] = self.apply_rotary_position(inputs, name, self.rotary[kind])
        return self.position_bias[kind]

    def apply_final_layers(self, inputs: Tensor) -> Tensor:
        """Normalised hidden states, or token probabilities."""
        return super().apply_final_layers(self.apply_norm(inputs, "Output-Norm"))


class GAU_alpha(RoFormerV2):
    """GAU-α (Su, 2022, https://kexue.fm/archives/9052): RoFormerV2 of gated attention units."""

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

    def apply_main_layers(self, inputs: Any, index: int) -> Any:
        """One gated attention unit."""
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
        """The gated attention unit of a block, with the biases of the hooks."""
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
