"""Every layer that models are assembled from. All save to `.keras` and load in safe mode.

    merging        Add Concatenate1D AttentionBias
    normalising    ScaleOffset LayerNormalization
    embedding      Embedding PositionEmbedding SinusoidalPositionEmbedding
    attention      MultiHeadAttention AttentionMask (LMMask, UniLMMask)
    feed-forward   FeedForward
    heads          FirstToken
    training       Loss

Masks are Keras masks: (batch, length), true where there is text. Layers create their weights in the
order of the original, which is the order in which checkpoints are read: their own first, then those
of the sub-layers in the order of creation.
"""

from collections.abc import Sequence
from typing import Any

from keras import initializers
from keras.layers import Dense, Dropout, Layer
from keras.layers import Embedding as KerasEmbedding

from bert4keras.backend import (
    Tensor,
    align,
    apply_rotary_position_embeddings,
    attention_normalize,
    is_bool,
    keras,
    ops,
    registered,
    sinusoidal_embeddings,
)
from bert4keras.backend import activation as find_activation

Mask = Tensor | None
Masks = Sequence[Mask] | Mask


def as_list(value: Any) -> list:
    """A list of whatever is given as one thing or as several; None gives an empty list."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def mask_list(masks: Masks, inputs: Sequence[Tensor]) -> list[Mask]:
    """One mask for each input: Keras passes None for «none of them has one»."""
    return [None] * len(inputs) if masks is None else as_list(masks)


def activation_config(function: Any) -> Any:
    """How an activation is written into a config."""
    return keras.activations.serialize(function)


# ----------------------------------------------------------------------------------------- merging


@registered
class Add(keras.layers.Add):
    """Sum of tensors, whose mask is that of the first input that has one.

    `keras.layers.Add` drops the mask if a single input has none, so that token embeddings (masked)
    plus segment embeddings (not masked) would forget where the padding is.
    """

    def compute_mask(self, inputs: Sequence[Tensor], mask: Masks = None) -> Mask:
        return next((m for m in mask_list(mask, inputs) if m is not None), None)


@registered
class Concatenate1D(Layer):
    """Join sequences (batch, length_i, features) along axis 1; without a mask all is visible."""

    def call(self, inputs: Sequence[Tensor]) -> Tensor:
        return ops.concatenate(inputs, axis=1)

    def compute_mask(self, inputs: Sequence[Tensor], mask: Masks = None) -> Mask:
        masks = mask_list(mask, inputs)
        if all(m is None for m in masks):
            return None
        visible = [
            ops.ones_like(x[..., 0], dtype="bool") if m is None else m
            for x, m in zip(inputs, masks, strict=True)
        ]
        return ops.concatenate(visible, axis=1)


@registered
class AttentionBias(Layer):
    """Combine attention biases into one: floats are added up, booleans hide with minus infinity.

    Inputs broadcast to (batch, heads, query length, key length).
    """

    def call(self, inputs: Sequence[Tensor]) -> Tensor:
        total = sum(ops.cast(x, self.compute_dtype) for x in inputs if not is_bool(x))
        for visible in (x for x in inputs if is_bool(x)):
            total = ops.where(visible, total, ops.cast(-float("inf"), self.compute_dtype))
        return total


# ------------------------------------------------------------------------------------- normalising


@registered
class ScaleOffset(Layer):
    """x · gamma + beta, where a condition may shift both.

    With `conditional`, the inputs are [x, condition] and a bias-free Dense of the condition is
    added to gamma and to beta; both start at zero (https://kexue.fm/archives/7124).

    Args:
        scale: True for a trainable gamma, a number for a fixed one, False for none.
        offset: likewise for beta.
        conditional: whether a condition (batch, [length,] features) comes with the inputs.
        hidden_units: if given, the condition first goes through a bias-free Dense of that size.
        hidden_activation: its activation.
        hidden_initializer: its initializer.
    """

    def __init__(
        self,
        scale: bool | float = True,
        offset: bool | float = True,
        conditional: bool = False,
        hidden_units: int | None = None,
        hidden_activation: Any = "linear",
        hidden_initializer: Any = "glorot_uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.scale = scale
        self.offset = offset
        self.conditional = conditional
        self.hidden_units = hidden_units
        self.hidden_activation = find_activation(hidden_activation)
        self.hidden_initializer = initializers.get(hidden_initializer)
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        shape, *conditions = input_shape if self.conditional else [input_shape]
        size = shape[-1]
        if self.offset is True:
            self.beta = self.add_weight(name="beta", shape=(size,), initializer="zeros")
        if self.scale is True:
            self.gamma = self.add_weight(name="gamma", shape=(size,), initializer="ones")
        if self.conditional:
            self.build_condition(tuple(conditions[0]), size)

    def build_condition(self, shape: tuple, size: int) -> None:
        """Create the Dense layers that a condition of this shape goes through."""
        self.condition_axes = len(shape)
        if self.hidden_units is not None:
            self.hidden_dense = Dense(
                self.hidden_units,
                activation=self.hidden_activation,
                use_bias=False,
                kernel_initializer=self.hidden_initializer,
                dtype=self.dtype_policy,
                name="hidden_dense",
            )
            self.hidden_dense.build(shape)
            shape = (*shape[:-1], self.hidden_units)
        for wanted, name in ((self.offset, "beta_dense"), (self.scale, "gamma_dense")):
            if wanted is not False and wanted is not None:
                dense = Dense(
                    size,
                    use_bias=False,
                    kernel_initializer="zeros",
                    dtype=self.dtype_policy,
                    name=name,
                )
                dense.build(shape)
                setattr(self, name, dense)

    def scaled(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """Apply gamma and beta to `x`, both moved by the condition if there is one."""
        if condition is not None:
            if self.hidden_units is not None:
                condition = self.hidden_dense(condition)
            missing = len(x.shape) - len(condition.shape)
            condition = ops.expand_dims(condition, [1 + i for i in range(missing)])
        for kind, name in ((self.scale, "gamma"), (self.offset, "beta")):
            if kind is False or kind is None:
                continue
            factor = ops.cast(getattr(self, name) if kind is True else kind, x.dtype)
            if condition is not None:
                factor = factor + ops.cast(getattr(self, f"{name}_dense")(condition), x.dtype)
            x = x * factor if name == "gamma" else x + factor
        return x

    def call(self, inputs: Tensor | Sequence[Tensor]) -> Tensor:
        x, *condition = inputs if self.conditional else [inputs]
        return self.scaled(x, condition[0] if condition else None)

    def compute_mask(self, inputs: Any, mask: Masks = None) -> Mask:
        return as_list(mask)[0] if self.conditional and mask is not None else mask

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        x = inputs[0] if self.conditional else inputs
        return keras.KerasTensor(x.shape, dtype=self.compute_dtype)

    def get_config(self) -> dict:
        return super().get_config() | {
            "scale": self.scale,
            "offset": self.offset,
            "conditional": self.conditional,
            "hidden_units": self.hidden_units,
            "hidden_activation": activation_config(self.hidden_activation),
            "hidden_initializer": initializers.serialize(self.hidden_initializer),
        }


@registered
class LayerNormalization(ScaleOffset):
    """Layer normalisation (Ba et al., 2016), conditional if asked for.

    Statistics are computed in float32 whatever the compute type is.

    Args:
        zero_mean: subtract the mean over the last axis.
        unit_variance: divide by the standard deviation over the last axis; without `zero_mean` that
            is the root mean square (Zhang & Sennrich, 2019).
        epsilon: what is added to the variance; the Keras epsilon (1e-7) if not given.
        **kwargs: see `ScaleOffset`.
    """

    def __init__(
        self,
        zero_mean: bool = True,
        unit_variance: bool = True,
        epsilon: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.zero_mean = zero_mean
        self.unit_variance = unit_variance
        self.epsilon = epsilon or keras.config.epsilon()

    def call(self, inputs: Tensor | Sequence[Tensor]) -> Tensor:
        x, *condition = inputs if self.conditional else [inputs]
        x = ops.cast(x, "float32")
        if self.zero_mean:
            x = x - ops.mean(x, axis=-1, keepdims=True)
        if self.unit_variance:
            variance = ops.mean(ops.square(x), axis=-1, keepdims=True)
            x = x * ops.rsqrt(variance + self.epsilon)
        return ops.cast(self.scaled(x, condition[0] if condition else None), self.compute_dtype)

    def get_config(self) -> dict:
        return super().get_config() | {
            "zero_mean": self.zero_mean,
            "unit_variance": self.unit_variance,
            "epsilon": self.epsilon,
        }


# --------------------------------------------------------------------------------------- embedding


@registered
class Embedding(KerasEmbedding):
    """Token embedding that serves as the output projection as well.

    `layer(token_ids)` looks vectors up; `layer(x, mode='dense')` multiplies x (batch, length, dim)
    by the transposed table and gives one score per token. With `mask_zero`, id 0 is padding except
    at position 0, which is always visible.
    """

    def compute_mask(self, inputs: Tensor, mask: Mask = None) -> Mask:
        if len(inputs.shape) != 2:
            return mask
        mask = super().compute_mask(inputs, mask)
        if mask is None:
            return None
        return ops.concatenate([ops.ones_like(mask[:, :1]), mask[:, 1:]], axis=1)

    def call(self, inputs: Tensor, mode: str = "embedding") -> Tensor:
        if mode == "embedding":
            return super().call(inputs)
        if mode != "dense":
            raise ValueError(f"Embedding has the modes 'embedding' and 'dense', not {mode!r}")
        table = ops.cast(self.embeddings, self.compute_dtype)
        return ops.matmul(ops.cast(inputs, self.compute_dtype), ops.transpose(table))

    def compute_output_spec(self, inputs: Tensor, mode: str = "embedding") -> keras.KerasTensor:
        size = self.output_dim if mode == "embedding" else self.input_dim
        leading = inputs.shape if mode == "embedding" else inputs.shape[:-1]
        return keras.KerasTensor((*leading, size), dtype=self.compute_dtype)


class PositionEmbeddingBase(Layer):
    """What position embeddings share: where positions come from, how they join the input.

    Args:
        output_dim: size of a position's vector.
        merge_mode: 'add', 'mul', 'concat' (to the input, along the last axis), or 'zero', which
            returns the positions alone, (1, length, output_dim) unless they are custom.
        custom_position_ids: the inputs are [x, position ids (batch, length)]; otherwise positions
            count from 0.
    """

    def __init__(
        self,
        output_dim: int,
        merge_mode: str = "add",
        custom_position_ids: bool = False,
        **kwargs: Any,
    ) -> None:
        # Position ids must not be rounded to bfloat16 (2049 would become 2048).
        super().__init__(**{"autocast": False, **kwargs})
        if merge_mode not in ("add", "mul", "concat", "zero"):
            raise ValueError(f"merge_mode is 'add', 'mul', 'concat' or 'zero', not {merge_mode!r}")
        self.output_dim = output_dim
        self.merge_mode = merge_mode
        self.custom_position_ids = custom_position_ids
        self.supports_masking = True

    def position_vectors(self, position_ids: Tensor) -> Tensor:
        """Look up or compute the vectors (..., output_dim) of position ids of any shape."""
        raise NotImplementedError(f"{type(self).__name__} must define position_vectors()")

    def call(self, inputs: Tensor | Sequence[Tensor]) -> Tensor:
        x, *position_ids = inputs if self.custom_position_ids else [inputs]
        if position_ids:
            positions = self.position_vectors(position_ids[0])
        else:
            positions = self.position_vectors(ops.arange(ops.shape(x)[1], dtype="int32"))
            positions = ops.expand_dims(positions, 0)
        positions = ops.cast(positions, self.compute_dtype)
        if self.merge_mode == "zero":
            return positions
        x = ops.cast(x, self.compute_dtype)
        if self.merge_mode == "add":
            return x + positions
        if self.merge_mode == "mul":
            return x * (positions + 1)
        positions = ops.broadcast_to(positions, (*ops.shape(x)[:2], self.output_dim))
        return ops.concatenate([x, positions], axis=-1)

    def compute_mask(self, inputs: Any, mask: Masks = None) -> Mask:
        return as_list(mask)[0] if self.custom_position_ids and mask is not None else mask

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        batch, length, size = (inputs[0] if self.custom_position_ids else inputs).shape
        if self.merge_mode == "zero":
            batch, size = batch if self.custom_position_ids else 1, self.output_dim
        elif self.merge_mode == "concat":
            size += self.output_dim
        return keras.KerasTensor((batch, length, size), dtype=self.compute_dtype)

    def get_config(self) -> dict:
        return super().get_config() | {
            "output_dim": self.output_dim,
            "merge_mode": self.merge_mode,
            "custom_position_ids": self.custom_position_ids,
        }


@registered
class PositionEmbedding(PositionEmbeddingBase):
    """Trainable position embedding.

    Args:
        input_dim: number of positions in the table.
        hierarchical: reach input_dim² positions by the table alone: position i·n + j gets
            alpha·u_i + (1 − alpha)·u_j, where u is the table without alpha·(its first row), over
            1 − alpha (https://kexue.fm/archives/7947). True means alpha = 0.4, a number is alpha.
        embeddings_initializer: initializer of the table.
        **kwargs: see `PositionEmbeddingBase`.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        merge_mode: str = "add",
        hierarchical: bool | float | None = None,
        embeddings_initializer: Any = "zeros",
        custom_position_ids: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(output_dim, merge_mode, custom_position_ids, **kwargs)
        self.input_dim = input_dim
        self.hierarchical = hierarchical
        self.embeddings_initializer = initializers.get(embeddings_initializer)

    def build(self, input_shape: Any) -> None:
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(self.input_dim, self.output_dim),
            initializer=self.embeddings_initializer,
        )

    def call(self, inputs: Tensor | Sequence[Tensor]) -> Tensor:
        x, *position_ids = inputs if self.custom_position_ids else [inputs]
        length = x.shape[1]
        reach = self.input_dim**2 if self.hierarchical else self.input_dim
        if not position_ids and length is not None and length > reach:
            raise ValueError(
                f"{self.name} has vectors for {reach} positions, but the input has {length}: cut "
                "texts with maxlen=, or build the model with hierarchical_position=True"
            )
        return super().call(inputs)

    def position_vectors(self, position_ids: Tensor) -> Tensor:
        position_ids = ops.cast(position_ids, "int32")
        table = self.embeddings
        if not self.hierarchical:
            return ops.take(table, position_ids, axis=0)
        alpha = 0.4 if self.hierarchical is True else self.hierarchical
        table = (table - alpha * table[:1]) / (1 - alpha)
        block = ops.take(table, position_ids // self.input_dim, axis=0)
        within = ops.take(table, position_ids % self.input_dim, axis=0)
        return alpha * block + (1 - alpha) * within

    def get_config(self) -> dict:
        return super().get_config() | {
            "input_dim": self.input_dim,
            "hierarchical": self.hierarchical,
            "embeddings_initializer": initializers.serialize(self.embeddings_initializer),
        }


@registered
class SinusoidalPositionEmbedding(PositionEmbeddingBase):
    """Position embedding by sine and cosine, without weights (see `sinusoidal_embeddings`).

    Position ids may be fractions.
    """

    def position_vectors(self, position_ids: Tensor) -> Tensor:
        return sinusoidal_embeddings(position_ids, self.output_dim)


# --------------------------------------------------------------------------------------- attention


@registered
class MultiHeadAttention(Layer):
    """Multi-head attention (Vaswani et al., 2017) with the biases and positions of its successors.

    Inputs are a list [query, key, value, *biases], each of the first three (batch, length, size).
    `a_bias=True` in the call says that an attention bias follows: boolean (true where visible) or
    float (added to the scores), (batch, query length, key length) or with a heads axis at 1.
    `p_bias` names a position bias that comes after it:

    * 'rotary': (batch or 1, length, key size) sinusoidal vectors by which queries and keys are
      rotated (RoFormer);
    * 'typical_relative': (query length, key length, head size) vectors added to keys and to values
      (Shaw et al., 2018; NEZHA);
    * 't5_relative': (query length, key length, heads) numbers added to the scores.

    The mask of the value input hides keys; the mask of the output is that of the query.

    Args:
        heads: number of heads.
        head_size: size of a head's value.
        out_dim: size of the output, heads · head_size by default.
        key_size: size of a head's query and key, head_size by default.
        use_bias: whether the four projections have a bias.
        normalization: see `attention_normalize`.
        attention_scale: divide scores by √key_size.
        attention_dropout: dropout rate of the attention weights.
        return_attention_scores: also return the scores (batch, heads, query length, key length),
            after position bias and scaling, before attention bias, mask and normalisation.
        kernel_initializer: initializer of the four kernels.
    """

    def __init__(
        self,
        heads: int,
        head_size: int,
        out_dim: int | None = None,
        key_size: int | None = None,
        use_bias: bool = True,
        normalization: str = "softmax",
        attention_scale: bool = True,
        attention_dropout: float | None = None,
        return_attention_scores: bool = False,
        kernel_initializer: Any = "glorot_uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.heads = heads
        self.head_size = head_size
        self.out_dim = out_dim or heads * head_size
        self.key_size = key_size or head_size
        self.use_bias = use_bias
        self.normalization = normalization
        self.attention_scale = attention_scale
        self.attention_dropout = attention_dropout
        self.return_attention_scores = return_attention_scores
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        query, key, value = (tuple(shape) for shape in input_shape[:3])
        values = self.heads * self.head_size
        keys = self.heads * self.key_size
        self.q_dense = self.projection("q_dense", keys, query)
        self.k_dense = self.projection("k_dense", keys, key)
        self.v_dense = self.projection("v_dense", values, value)
        self.o_dense = self.projection("o_dense", self.out_dim, (*query[:-1], values))
        if self.attention_dropout:
            self.dropout = Dropout(self.attention_dropout, dtype=self.dtype_policy, name="dropout")

    def projection(self, name: str, units: int, input_shape: tuple) -> Dense:
        """Create and build one of the Dense layers."""
        dense = Dense(
            units,
            use_bias=self.use_bias,
            kernel_initializer=self.kernel_initializer.clone(),
            dtype=self.dtype_policy,
            name=name,
        )
        dense.build(input_shape)
        return dense

    def split_heads(self, x: Tensor, size: int) -> Tensor:
        """(batch, length, heads · size) → (batch, length, heads, size)."""
        return ops.reshape(x, (ops.shape(x)[0], ops.shape(x)[1], self.heads, size))

    def call(
        self,
        inputs: Sequence[Tensor],
        mask: Masks = None,
        a_bias: bool | None = None,
        p_bias: str | None = None,
        training: bool | None = None,
    ) -> Tensor | list[Tensor]:
        query, key, value, *biases = inputs
        key_mask = mask_list(mask, inputs)[2]
        attention_bias = biases.pop(0) if a_bias else None
        position_bias = biases.pop(0) if p_bias else None
        query = self.split_heads(self.q_dense(query), self.key_size)
        key = self.split_heads(self.k_dense(key), self.key_size)
        value = self.split_heads(self.v_dense(value), self.head_size)
        if p_bias == "rotary":
            query, key = apply_rotary_position_embeddings(position_bias, query, key)
        scores = self.scores(query, key, position_bias, p_bias)
        weights = attention_normalize(
            scores, key_mask, -1, self.normalization, self.with_heads_axis(attention_bias)
        )
        if self.attention_dropout:
            weights = self.dropout(weights, training=training)
        output = self.weighted_sum(weights, value, position_bias, p_bias)
        return [output, scores] if self.return_attention_scores else output

    def scores(
        self, query: Tensor, key: Tensor, position_bias: Tensor | None, p_bias: str | None
    ) -> Tensor:
        """Scores (batch, heads, query length, key length) with position bias, scaled."""
        scores = ops.einsum("bqhd,bkhd->bhqk", query, key)
        if p_bias == "typical_relative":
            position_bias = ops.cast(position_bias, query.dtype)
            scores = scores + ops.einsum("bqhd,qkd->bhqk", query, position_bias)
        elif p_bias == "t5_relative":
            position_bias = ops.cast(position_bias, query.dtype)
            scores = scores + ops.expand_dims(ops.transpose(position_bias, (2, 0, 1)), 0)
        return scores / self.key_size**0.5 if self.attention_scale else scores

    def weighted_sum(
        self, weights: Tensor, value: Tensor, position_bias: Tensor | None, p_bias: str | None
    ) -> Tensor:
        """Weights times values, through the output projection: (batch, query length, out_dim)."""
        output = ops.einsum("bhqk,bkhd->bqhd", weights, value)
        if p_bias == "typical_relative":
            position_bias = ops.cast(position_bias, value.dtype)
            output = output + ops.einsum("bhqk,qkd->bqhd", weights, position_bias)
        batch, length = ops.shape(output)[:2]
        return self.o_dense(ops.reshape(output, (batch, length, self.heads * self.head_size)))

    @staticmethod
    def with_heads_axis(bias: Tensor | None) -> Tensor | None:
        """Give an attention bias without a heads axis one of size 1."""
        return bias if bias is None or len(bias.shape) == 4 else align(bias, [0, -2, -1], 4)

    def compute_mask(self, inputs: Sequence[Tensor], mask: Masks = None) -> Any:
        query_mask = mask_list(mask, inputs)[0]
        return [query_mask, None] if self.return_attention_scores else query_mask

    def compute_output_spec(
        self,
        inputs: Sequence[Tensor],
        mask: Masks = None,
        a_bias: bool | None = None,
        p_bias: str | None = None,
        training: bool | None = None,
    ) -> Any:
        known = (None, "rotary", "typical_relative", "t5_relative")
        if p_bias not in known:
            raise ValueError(f"p_bias is one of {known}, not {p_bias!r}")
        if len(inputs) < 3 + bool(a_bias) + bool(p_bias):
            raise ValueError(
                f"{self.name} got {len(inputs)} inputs with a_bias={a_bias} and p_bias={p_bias!r}: "
                "it takes [query, key, value] and then the attention bias and the position bias"
            )
        (batch, length), keys = inputs[0].shape[:2], inputs[1].shape[1]
        output = keras.KerasTensor((batch, length, self.out_dim), dtype=self.compute_dtype)
        if not self.return_attention_scores:
            return output
        return [
            output,
            keras.KerasTensor((batch, self.heads, length, keys), dtype=self.compute_dtype),
        ]

    def get_config(self) -> dict:
        return super().get_config() | {
            "heads": self.heads,
            "head_size": self.head_size,
            "out_dim": self.out_dim,
            "key_size": self.key_size,
            "use_bias": self.use_bias,
            "normalization": self.normalization,
            "attention_scale": self.attention_scale,
            "attention_dropout": self.attention_dropout,
            "return_attention_scores": self.return_attention_scores,
            "kernel_initializer": initializers.serialize(self.kernel_initializer),
        }


class AttentionMask(Layer):
    """Base of the layers that derive a boolean attention bias (batch or 1, 1, length, length)."""

    def compute_mask(self, inputs: Tensor, mask: Mask = None) -> None:
        return None


@registered
class LMMask(AttentionMask):
    """Lower triangle: each position sees itself and what is before it. Input: (batch, length)."""

    def call(self, inputs: Tensor) -> Tensor:
        positions = ops.arange(ops.shape(inputs)[1])
        return (positions[None, :] <= positions[:, None])[None, None]


@registered
class UniLMMask(AttentionMask):
    """UniLM's mask (Dong et al., 2019): segment 0 sees all of itself, segment 1 looks back only.

    Input: segment ids (batch, length). A position sees those whose cumulative sum of segment ids is
    not larger than its own.
    """

    def call(self, inputs: Tensor) -> Tensor:
        order = ops.cumsum(ops.cast(inputs, "int32"), axis=1)
        return (order[:, None, :] <= order[:, :, None])[:, None]


# ------------------------------------------------------------------------------------ feed-forward


@registered
class FeedForward(Layer):
    """Two Dense layers with an activation between; several activations make it a gated linear unit.

    With activations [f, g, …] the hidden value is f(x·W0) · g(x·W1) · … (Shazeer, 2020,
    https://arxiv.org/abs/2002.05202).

    Args:
        units: size of the hidden value; the output has the size of the input.
        activation: one activation or a list of them.
        use_bias: whether the Dense layers have a bias.
        kernel_initializer: their initializer.
    """

    def __init__(
        self,
        units: int,
        activation: Any = "relu",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.activation = [find_activation(a) for a in as_list(activation) or ["linear"]]
        self.use_bias = use_bias
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        def dense(name: str, units: int, shape: tuple, function: Any = None) -> Dense:
            layer = Dense(
                units,
                activation=function,
                use_bias=self.use_bias,
                kernel_initializer=self.kernel_initializer.clone(),
                dtype=self.dtype_policy,
                name=name,
            )
            layer.build(shape)
            return layer

        shape = tuple(input_shape)
        for i, function in enumerate(self.activation):
            setattr(self, f"i{i}_dense", dense(f"i{i}_dense", self.units, shape, function))
        self.o_dense = dense("o_dense", shape[-1], (*shape[:-1], self.units))

    def call(self, inputs: Tensor) -> Tensor:
        hidden = self.i0_dense(inputs)
        for i in range(1, len(self.activation)):
            hidden = hidden * getattr(self, f"i{i}_dense")(inputs)
        return self.o_dense(hidden)

    def compute_output_spec(self, inputs: Tensor) -> keras.KerasTensor:
        return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)

    def get_config(self) -> dict:
        return super().get_config() | {
            "units": self.units,
            "activation": [activation_config(a) for a in self.activation],
            "use_bias": self.use_bias,
            "kernel_initializer": initializers.serialize(self.kernel_initializer),
        }


# ------------------------------------------------------------------------------------------- heads


@registered
class FirstToken(Layer):
    """The vector of position 0, (batch, size): what BERT pools. Input: (batch, length, size)."""

    def call(self, inputs: Tensor) -> Tensor:
        return inputs[:, 0]

    def compute_mask(self, inputs: Tensor, mask: Mask = None) -> None:
        return None


# ---------------------------------------------------------------------------------------- training


@registered
class Loss(Layer):
    """Base of layers that add a loss over model tensors: override `compute_loss`.

    A model that ends in such a layer compiles without a loss and trains on inputs alone:

        class CrossEntropy(Loss):
            def compute_loss(self, inputs, mask=None):
                y_true, y_pred = inputs
                return ops.mean(keras.losses.sparse_categorical_crossentropy(y_true, y_pred))

        output = CrossEntropy(output_axis=1)([label_ids, scores])

    Args:
        output_axis: which input the layer returns: an index, a list of indices, or None for all.
    """

    def __init__(self, output_axis: int | Sequence[int] | None = None, **kwargs: Any) -> None:
        # Targets come as inputs: integer-like floats must reach the loss unrounded.
        super().__init__(**{"autocast": False, **kwargs})
        self.output_axis = output_axis
        self.supports_masking = True

    def compute_loss(self, inputs: list[Tensor], mask: list[Mask] | None = None) -> Tensor:
        """Return the scalar loss. `mask` is always a list with an entry (or None) per input."""
        raise NotImplementedError(f"{type(self).__name__} must override compute_loss()")

    def selected(self, values: Any) -> Any:
        """Pick what the layer passes on, out of its inputs or their masks."""
        if self.output_axis is None or not isinstance(values, list | tuple):
            return values
        if isinstance(self.output_axis, list | tuple):
            return [values[i] for i in self.output_axis]
        return values[self.output_axis]

    def call(self, inputs: Any, mask: Masks = None) -> Any:
        self.add_loss(self.compute_loss(inputs, mask_list(mask, as_list(inputs))))
        return self.selected(inputs)

    def compute_mask(self, inputs: Any, mask: Masks = None) -> Any:
        return self.selected(mask)

    def compute_output_spec(self, inputs: Any, mask: Masks = None) -> Any:
        return keras.tree.map_structure(
            lambda x: keras.KerasTensor(x.shape, dtype=x.dtype), self.selected(inputs)
        )

    def get_config(self) -> dict:
        return super().get_config() | {"output_axis": self.output_axis}
