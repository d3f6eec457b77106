"""Every layer that models are assembled from. All save to `.keras` and load in safe mode.

    merging        Add Subtract Multiply Average Maximum Minimum Concatenate, and functions of
                   these names; CopyMask Concatenate1D BatchConcat BatchSplit AttentionBias
    normalising    ScaleOffset LayerNormalization Saturation
    embedding      Embedding PositionEmbedding SinusoidalPositionEmbedding
                   RelativePositionEmbedding RelativePositionTable
                   RelativePositionEmbeddingT5
    attention      MultiHeadAttention DisentangledAttention
                   AttentionMask (LMMask, UniLMMask, LocalMask)
    feed-forward   FeedForward MaskedConv1D
    both in one    GatedAttentionUnit
    heads          FirstToken GatherPositions GlobalAveragePooling1D GlobalMaxPooling1D
    labels         ConditionalRandomField MaximumEntropyMarkovModel
    spans          GlobalPointer EfficientGlobalPointer
    training       Loss
    functions      Lambda

Masks are Keras masks: (batch, length), true where there is text. Layers create their weights in the
order of the original, which is the order in which checkpoints are read: their own first, then those
of the sub-layers in the order of creation.
"""

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from itertools import accumulate, pairwise
from types import MappingProxyType
from typing import Any

import numpy as np
from keras import initializers
from keras.layers import Embedding as KerasEmbedding
from keras.layers import Layer

# Whether a symbolic tensor has a mask is told in no public way.
from keras.src.backend import get_keras_mask

from bert4keras.backend import (
    Tensor,
    affine,
    align,
    apply_rotary_position_embeddings,
    as_floats,
    attention_normalize,
    attention_scores,
    attention_visibility,
    batch_gather,
    compiled_without_weights,
    dot_product_attention,
    dropout,
    fold,
    is_bool,
    keras,
    known_values,
    layer_norm,
    lowest,
    ops,
    recompute_by_default,
    recompute_grad,
    registered,
    scaling_kind,
    scan,
    sequence_masking,
    sinusoidal_embeddings,
    standardized,
    weighted_values,
)
from bert4keras.backend import activation as find_activation
from bert4keras.backend import initializer as find_initializer

Mask = Tensor | None
Keys = Tensor | list[Tensor]
"""(batch, key length, key heads, size), or parts that follow each other, see `laid_out`."""
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


def require_positive(layer: Layer, **sizes: Any) -> None:
    """Refuse sizes of a layer that are not whole numbers above 0."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(
                f"{type(layer).__name__} got {name}={size!r}, give a whole number of at least 1"
            )


@registered
class Dropout(keras.layers.Dropout):
    """`keras.layers.Dropout` that can repeat itself: with a seed from `drawn_seed` in the call."""

    def drawn_seed(self) -> Tensor | None:
        """Draw a seed; None on PyTorch without a seed of the layer, which has one generator."""
        if keras.backend.backend() == "torch" and self.seed is None:
            return None
        return self.seed_generator.next()

    def call(
        self, inputs: Tensor, training: bool | None = None, seed: Tensor | None = None
    ) -> Tensor:
        if not training or self.rate == 0 or self.rate == 1 or self.noise_shape:
            return super().call(inputs, training)
        return dropout(inputs, self.rate, self.drawn_seed() if seed is None else seed)


class Recomputable(Layer):
    """Base of the layers whose inner results may be computed twice instead of kept.

    Attributes:
        recompute: whether they are, see `recompute_grad`; as the environment variable RECOMPUTE
            says when the layer is made. It concerns this run only and is not saved.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.recompute = recompute_by_default()


@registered
class Dense(keras.layers.Dense):
    """`keras.layers.Dense` as one operation where the backend has it (see `affine`)."""

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        return affine(inputs, self.kernel, self.bias, self.activation)


def built_dense(
    layer: Layer,
    name: str,
    units: int,
    input_shape: tuple,
    activation: Any = None,
    use_bias: bool | None = None,
    kernel_initializer: Any = None,
) -> Dense:
    """Create and build a Dense with the types of the layer it belongs to.

    So are its initializer and whether it has a bias, unless the arguments say otherwise.
    """
    dense = Dense(
        units,
        activation=activation,
        use_bias=layer.use_bias if use_bias is None else use_bias,
        kernel_initializer=kernel_initializer or layer.kernel_initializer.clone(),
        dtype=layer.dtype_policy,
        name=name,
    )
    dense.build(input_shape)
    return dense


# ----------------------------------------------------------------------------------------- merging


class MaskKeepingMerge(Layer):
    """Base of the layers that merge tensors number by number, as in Keras 2.

    What one of the inputs hides is hidden in the output, and hidden numbers are merged like all
    others. The merges of Keras 3 drop every mask if a single input has none, so that vectors of
    tokens (masked) plus features (not masked) would forget where the padding is.
    """

    def compute_mask(self, inputs: Sequence[Tensor], mask: Masks = None) -> Mask:
        masks = {id(m): m for m in mask_list(mask, inputs) if m is not None}
        return functools.reduce(ops.logical_and, masks.values()) if masks else None


class PlainMerge(MaskKeepingMerge):
    """Base of those for which Keras 3 has other numbers where an input is masked."""

    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        """Merge two tensors of as many axes."""
        raise NotImplementedError(f"{type(self).__name__} must define merge()")

    def call(self, inputs: Sequence[Tensor]) -> Tensor:
        ndim = max(len(x.shape) for x in inputs)
        missing = [ndim - len(x.shape) for x in inputs]
        axes = [[0, *range(n + 1, ndim)] for n in missing]
        return functools.reduce(
            self.merge, [align(x, to, ndim) for x, to in zip(inputs, axes, strict=True)]
        )


@registered
class Add(MaskKeepingMerge, keras.layers.Add):
    """Sum of tensors; see `MaskKeepingMerge` for its mask.

    Args:
        masked_by: number of the input whose mask is that of the sum; that of all inputs by default.
        **kwargs: see `keras.layers.Add`.
    """

    def __init__(self, masked_by: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.masked_by = masked_by

    def compute_mask(self, inputs: Sequence[Tensor], mask: Masks = None) -> Mask:
        if self.masked_by is None:
            return super().compute_mask(inputs, mask)
        return mask_list(mask, inputs)[self.masked_by]

    def get_config(self) -> dict:
        return super().get_config() | {"masked_by": self.masked_by}


@registered
class Subtract(MaskKeepingMerge, keras.layers.Subtract):
    """Difference of two tensors; see `MaskKeepingMerge` for its mask."""


@registered
class Average(MaskKeepingMerge, keras.layers.Average):
    """Mean of tensors; see `MaskKeepingMerge` for its mask."""


@registered
class Multiply(PlainMerge, keras.layers.Multiply):
    """Product of tensors, number by number; see `MaskKeepingMerge` for its mask."""

    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        return ops.multiply(x, y)


@registered
class Maximum(PlainMerge, keras.layers.Maximum):
    """The largest of the numbers of tensors; see `MaskKeepingMerge` for its mask."""

    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        return ops.maximum(x, y)


@registered
class Minimum(PlainMerge, keras.layers.Minimum):
    """The smallest of the numbers of tensors; see `MaskKeepingMerge` for its mask."""

    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        return ops.minimum(x, y)


@registered
class Concatenate(MaskKeepingMerge, keras.layers.Concatenate):
    """Join tensors along an axis, the last one by default.

    Joined along features, the output hides what one of the inputs hides; joined along the sequence
    or the batch, it has the masks joined as well, and all of an input without a mask is visible.
    """

    def compute_mask(self, inputs: Sequence[Tensor], mask: Masks = None) -> Mask:
        return joined_masks(inputs, mask_list(mask, inputs), self.axis)


def joined_masks(inputs: Sequence[Tensor], masks: Sequence[Mask], axis: int) -> Mask:
    """The mask of tensors that are joined along an axis; see `Concatenate`."""
    known = [m for m in masks if m is not None]
    if not known:
        return None
    ndim = len(known[0].shape)
    axis %= len(inputs[0].shape)
    if axis >= ndim:
        return MaskKeepingMerge.compute_mask(None, inputs, masks)
    visible = [
        ops.ones_like(x[(..., *[0] * (len(x.shape) - ndim))], dtype="bool") if m is None else m
        for x, m in zip(inputs, masks, strict=True)
    ]
    return ops.concatenate(visible, axis=axis)


def add(inputs: Sequence[Tensor], **kwargs: Any) -> Tensor:
    """Call an `Add` layer, made of the keyword arguments, on tensors."""
    return Add(**kwargs)(inputs)


def subtract(inputs: Sequence[Tensor], **kwargs: Any) -> Tensor:
    """Call a `Subtract` layer, made of the keyword arguments, on two tensors."""
    return Subtract(**kwargs)(inputs)


def multiply(inputs: Sequence[Tensor], **kwargs: Any) -> Tensor:
    """Call a `Multiply` layer, made of the keyword arguments, on tensors."""
    return Multiply(**kwargs)(inputs)


def average(inputs: Sequence[Tensor], **kwargs: Any) -> Tensor:
    """Call an `Average` layer, made of the keyword arguments, on tensors."""
    return Average(**kwargs)(inputs)


def maximum(inputs: Sequence[Tensor], **kwargs: Any) -> Tensor:
    """Call a `Maximum` layer, made of the keyword arguments, on tensors."""
    return Maximum(**kwargs)(inputs)


def minimum(inputs: Sequence[Tensor], **kwargs: Any) -> Tensor:
    """Call a `Minimum` layer, made of the keyword arguments, on tensors."""
    return Minimum(**kwargs)(inputs)


def concatenate(inputs: Sequence[Tensor], axis: int = -1, **kwargs: Any) -> Tensor:
    """Call a `Concatenate` layer, made of the axis and the keyword arguments, on tensors."""
    return Concatenate(axis=axis, **kwargs)(inputs)


@registered
class CopyMask(Layer):
    """The first of two tensors, with the mask of the second: `CopyMask()([h * 2, h])`.

    Arithmetic and `keras.ops` on symbolic tensors drop masks; this brings one back.
    """

    positionwise = True

    def call(self, inputs: Sequence[Tensor]) -> Tensor:
        x, _ = inputs
        return ops.convert_to_tensor(x)

    def compute_mask(self, inputs: Sequence[Tensor], mask: Masks = None) -> Mask:
        return mask_list(mask, inputs)[1]

    def compute_output_spec(self, inputs: Sequence[Tensor]) -> keras.KerasTensor:
        x, _ = inputs
        return keras.KerasTensor(x.shape, dtype=x.dtype)


KERAS_MERGES = (
    keras.layers.Add,
    keras.layers.Average,
    keras.layers.Concatenate,
    keras.layers.Maximum,
    keras.layers.Minimum,
    keras.layers.Multiply,
    keras.layers.Subtract,
)


class MaskReader(Layer):
    """Base of the layers that tell padding from text, and warn if the mask was lost on the way.

    In a functional model masks get lost unseen: in arithmetic on symbolic tensors, in `keras.ops`,
    and in the merges of Keras if one of their inputs has none. A layer that drops a mask is another
    matter: it does so on purpose, or Keras warns. `mask=` in the call says what is visible.
    """

    n_sequences = 1
    """How many of the inputs are sequences, which may have masks."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        inputs = as_list(args[0]) if args and kwargs.get("mask") is None else []
        losers = map(loser_of_mask, inputs[: self.n_sequences])
        operation = next(filter(None, losers), None)
        if operation is not None:
            warnings.warn(message_of_loss(self, operation), stacklevel=2)
        return super().__call__(*args, **kwargs)


def message_of_loss(reader: Layer, operation: keras.Operation) -> str:
    """Tell where a layer's mask was lost, and what to do."""
    name = type(operation).__name__
    what = "an operation on symbolic tensors"
    instead = "bring it back by CopyMask()([result, masked]) of bert4keras.layers"
    if isinstance(operation, KERAS_MERGES):
        what, instead = f"keras.layers.{name}", f"use {name} of bert4keras.layers"
    return (
        f"{type(reader).__name__} takes padding for text, because {operation.name!r}, {what}, "
        f"drops the padding mask: {instead}, or pass mask= in the call of {type(reader).__name__}"
    )


def loser_of_mask(x: Any) -> keras.Operation | None:
    """Find the operation in which a symbolic tensor lost the mask of what it is computed from."""
    pending, seen = [x], set()
    while pending:
        x = pending.pop()
        history = getattr(x, "_keras_history", None)
        if history is None or id(x) in seen or len(x.shape) < 3 or x.shape[1] == 1:
            continue  # no symbolic tensor, or no sequence
        seen.add(id(x))
        operation, node, _ = history
        before = operation._inbound_nodes[node].input_tensors
        masked = [y for y in before if symbolic_mask(y) is not None]
        if drops_masks(operation, before, masked):
            return operation
        if isinstance(operation, MaskReader):
            continue  # it has looked already
        if symbolic_mask(x) is not None:
            pending += masked
        elif not masked:  # otherwise it is dropped on purpose
            pending += before
    return None


def symbolic_mask(x: Any) -> Any:
    """The mask of a symbolic tensor; that of a model's output is known to the model only."""
    model, _, index = getattr(x, "_keras_history", (None, None, None))
    return get_keras_mask(model.outputs[index] if isinstance(model, keras.Model) else x)


def drops_masks(
    operation: keras.Operation, inputs: Sequence[Tensor], masked: Sequence[Tensor]
) -> bool:
    """Tell whether an operation loses masks of its inputs although nobody has meant it to."""
    if not masked or isinstance(operation, MaskKeepingMerge):
        return False
    if not isinstance(operation, KERAS_MERGES):
        return not isinstance(operation, Layer)
    along_features = getattr(operation, "axis", -1) % len(inputs[0].shape) > 1
    return along_features and len(masked) < len(inputs)


@registered
class Concatenate1D(Layer):
    """Join sequences (batch, length_i, features) along axis 1; without a mask all is visible."""

    axis = 1

    def call(self, inputs: Sequence[Tensor]) -> Tensor:
        return ops.concatenate(inputs, axis=self.axis)

    def compute_mask(self, inputs: Sequence[Tensor], mask: Masks = None) -> Mask:
        return joined_masks(inputs, mask_list(mask, inputs), self.axis)


@registered
class BatchConcat(Concatenate1D):
    """Join batches (batch_i, ...) along axis 0, masks included: the way back from `BatchSplit`."""

    axis = 0


@registered
class BatchSplit(Layer):
    """Cut batches into parts along axis 0, masks included.

    The output is a flat list: all parts of the first input, then all of the second, …

    Args:
        parts: the number of parts, each of ceil(batch / parts) rows except at the end, where the
            rows run out; or a list of whole numbers, to which the sizes are proportional: part i
            ends before row floor(batch · sum(parts[: i + 1]) / sum(parts)).
    """

    def __init__(self, parts: int | Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.parts = list(parts) if isinstance(parts, list | tuple) else parts
        for part in as_list(self.parts) or [None]:
            require_positive(self, parts=part)
        self.n_parts = parts if isinstance(parts, int) else len(parts)

    def split(self, x: Tensor) -> list[Tensor]:
        """Cut one tensor; a symbolic batch of unknown size gives parts of unknown size."""
        batch = ops.shape(x)[0]
        if batch is None:
            return [keras.KerasTensor(x.shape, dtype=x.dtype) for _ in range(self.n_parts)]
        if isinstance(self.parts, int):
            rows = -(-batch // self.parts)
            ends = [i * rows for i in range(self.parts + 1)]
        else:
            ends = [batch * share // sum(self.parts) for share in accumulate([0, *self.parts])]
        return [x[start:end, ...] for start, end in pairwise(ends)]

    def call(self, inputs: Tensor | Sequence[Tensor]) -> list[Tensor]:
        return [part for x in as_list(inputs) for part in self.split(x)]

    def compute_mask(self, inputs: Tensor | Sequence[Tensor], mask: Masks = None) -> list[Mask]:
        masks = mask_list(mask, as_list(inputs))
        parts = []
        for m in masks:
            if isinstance(m, keras.KerasTensor):
                # The mask of a symbolic tensor needs a history, a call of a layer.
                parts += BatchSplit(self.parts)(m)
            else:
                parts += [None] * self.n_parts if m is None else self.split(m)
        return parts

    def compute_output_spec(self, inputs: Any) -> list[keras.KerasTensor]:
        return self.call(inputs)

    def get_config(self) -> dict:
        return super().get_config() | {"parts": self.parts}


@registered
class AttentionBias(Layer):
    """Combine attention biases into one.

    Booleans alone give a boolean, true where all of them are. Floats are added up, and booleans
    hide with minus infinity. Inputs broadcast to (batch, heads, query length, key length).
    """

    positionwise = True

    def call(self, inputs: Sequence[Tensor]) -> Tensor:
        booleans = [x for x in inputs if is_bool(x)]
        floats = [ops.cast(x, self.compute_dtype) for x in inputs if not is_bool(x)]
        if not floats:
            return functools.reduce(ops.logical_and, booleans)
        total = sum(floats)
        for visible in booleans:
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

    positionwise = True

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
            self.hidden_dense = built_dense(
                self,
                "hidden_dense",
                self.hidden_units,
                shape,
                self.hidden_activation,
                use_bias=False,
                kernel_initializer=self.hidden_initializer,
            )
            shape = (*shape[:-1], self.hidden_units)
        for wanted, name in ((self.offset, "beta_dense"), (self.scale, "gamma_dense")):
            if wanted is not False and wanted is not None:
                kernel = {"use_bias": False, "kernel_initializer": "zeros"}
                setattr(self, name, built_dense(self, name, size, shape, **kernel))

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
        plain = self.zero_mean and self.unit_variance and self.scale is True and self.offset is True
        if plain and not condition:
            return layer_norm(x, self.gamma, self.beta, self.epsilon)
        x = standardized(x, self.epsilon, self.zero_mean, self.unit_variance)
        return ops.cast(self.scaled(x, condition[0] if condition else None), self.compute_dtype)

    def get_config(self) -> dict:
        return super().get_config() | {
            "zero_mean": self.zero_mean,
            "unit_variance": self.unit_variance,
            "epsilon": self.epsilon,
        }


@registered
class Saturation(Layer):
    """Bound numbers to what float16 holds, up to 64504: infinity would be NaN in the next norm.

    The inner activations of T5, which was trained in bfloat16, are larger than float16 allows;
    `transformers` bounds them alike.
    """

    positionwise = True
    limit = float(np.finfo("float16").max) - 1000

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs: Tensor) -> Tensor:
        return ops.clip(inputs, -self.limit, self.limit)

    def compute_output_spec(self, inputs: Tensor) -> keras.KerasTensor:
        return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)


# --------------------------------------------------------------------------------------- embedding


_tables: ContextVar[Mapping[Layer, Tensor | None]] = ContextVar(
    "tables", default=MappingProxyType({})
)
"""The layers that are being called, each with the table that was assigned, None for its own."""


def holding_table(call: Callable) -> Callable:
    """Let what the `call` of a layer assigns to `embeddings` hold until it returns."""

    @functools.wraps(call)
    def wrapped(self: Layer, *args: Any, **kwargs: Any) -> Any:
        if self in _tables.get():  # a subclass calls its parent
            return call(self, *args, **kwargs)
        token = _tables.set({**_tables.get(), self: None})
        try:
            return call(self, *args, **kwargs)
        finally:
            _tables.reset(token)

    return wrapped


class TableLayer(Layer):
    """Base of the layers with a table of vectors, `embeddings`.

    A subclass may replace the table in its `call`; it holds until that call returns. P-tuning (Liu
    et al., 2021, https://arxiv.org/abs/2103.10385) trains some rows only:

        class SomeRows(Embedding):
            def call(self, inputs, mode="embedding"):
                table = self.embeddings
                self.embeddings = table * mask + ops.stop_gradient(table) * (1 - mask)
                return super().call(inputs, mode)
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "call" in vars(cls):
            cls.call = holding_table(cls.call)

    def own_table(self) -> keras.Variable | Tensor:
        """The trained table."""
        return self._embeddings

    @property
    def embeddings(self) -> keras.Variable | Tensor:
        """The table (input_dim, output_dim): a variable, or in a call what was assigned to it.

        In a call it is a tensor on TensorFlow and JAX, which a NumPy array of float64 does not turn
        into float64 as it does a variable. On PyTorch arrays go together with variables only.
        """
        table = _tables.get().get(self)
        if table is not None:
            return table
        table = self.own_table()
        calling = self in _tables.get() and keras.backend.backend() != "torch"
        return table.value if calling and isinstance(table, keras.Variable) else table

    @embeddings.setter
    def embeddings(self, table: keras.Variable | Tensor) -> None:
        if isinstance(table, keras.Variable):
            self._embeddings = table
        elif self not in _tables.get():
            raise AttributeError(
                f"the table of {self.name!r} is replaced by a tensor in the call of a subclass "
                "only; to change it for good write layer.embeddings.assign(values)"
            )
        if self in _tables.get():
            replaced = None if isinstance(table, keras.Variable) else table
            _tables.set({**_tables.get(), self: replaced})


@registered
class Embedding(TableLayer, KerasEmbedding):
    """Token embedding that serves as the output projection as well.

    `layer(token_ids)` looks vectors up; `layer(x, mode='dense')` multiplies x (batch, length, dim)
    by the transposed table and gives one score per token. With `mask_zero`, id 0 is padding.

    Args:
        *args: see `keras.layers.Embedding`.
        mask_id: the id that is padding instead of 0.
        padding: where it is: 'anywhere' but at position 0, which is always visible, as in the
            original; or 'around' the text, before and after all other ids. Of a row without other
            ids, position 0 is visible.
        ends_text: with 'around', the id ends a text as well, so that the first one after the other
            ids belongs to the text.
        **kwargs: see `keras.layers.Embedding`.
    """

    def __init__(
        self,
        *args: Any,
        mask_id: int = 0,
        padding: str = "anywhere",
        ends_text: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if padding not in ("anywhere", "around"):
            raise ValueError(f"padding is 'anywhere' or 'around' the text, not {padding!r}")
        self.mask_id = mask_id
        self.padding = padding
        self.ends_text = ends_text

    def own_table(self) -> keras.Variable | Tensor:
        return KerasEmbedding.embeddings.fget(self)

    def compute_mask(self, inputs: Tensor, mask: Mask = None) -> Mask:
        if len(inputs.shape) != 2:
            return mask
        if not self.mask_zero:
            return None
        others = ops.not_equal(inputs, self.mask_id)
        if self.padding == "anywhere":
            return ops.concatenate([ops.ones_like(others[:, :1]), others[:, 1:]], axis=1)
        return around_padding(others, self.ends_text)

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

    def get_config(self) -> dict:
        return super().get_config() | {
            "mask_id": self.mask_id,
            "padding": self.padding,
            "ends_text": self.ends_text,
        }


def around_padding(others: Tensor, ends_text: bool) -> Tensor:
    """What is visible of (batch, length) where a row is padded around its text.

    Args:
        others: true where the id is another than that of padding.
        ends_text: see `Embedding`.
    """
    counts = ops.cumsum(ops.cast(others, "int32"), axis=1)
    # How many other ids there are before each position, and in all.
    before, total = counts - ops.cast(others, "int32"), counts[:, -1:]
    not_after = before < total
    if ends_text:
        first = ops.logical_and(before == total, ops.roll(not_after, 1, axis=1))
        not_after = ops.logical_or(not_after, first)
    visible = ops.logical_and(counts > 0, not_after)
    at_start = ops.cumsum(ops.ones_like(counts), axis=1) == 1
    return ops.logical_or(visible, ops.logical_and(total == 0, at_start))


class PositionEmbeddingBase(Layer):
    """What position embeddings share: where positions come from, how they join the input.

    Args:
        output_dim: size of a position's vector.
        merge_mode: 'add', 'mul', 'concat' (to the input, along the last axis), or 'zero', which
            returns the positions alone, (1, length, output_dim) unless they are custom.
        custom_position_ids: the inputs are [x, position ids (batch, length)]; otherwise positions
            count from 0.

    The call takes `positions=` (batch, length) instead of either, when x is a part of a sequence.
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
        # Keras' reader of .h5 files takes the word 'add' for the name of its function.
        merge_mode = getattr(merge_mode, "__name__", merge_mode)
        if merge_mode not in ("add", "mul", "concat", "zero"):
            raise ValueError(f"merge_mode is 'add', 'mul', 'concat' or 'zero', not {merge_mode!r}")
        self.output_dim = output_dim
        self.merge_mode = merge_mode
        self.custom_position_ids = custom_position_ids
        self.supports_masking = True

    def position_vectors(self, position_ids: Tensor) -> Tensor:
        """Look up or compute the vectors (..., output_dim) of position ids of any shape."""
        raise NotImplementedError(f"{type(self).__name__} must define position_vectors()")

    def call(self, inputs: Tensor | Sequence[Tensor], positions: Tensor | None = None) -> Tensor:
        x, *position_ids = inputs if self.custom_position_ids else [inputs]
        if positions is not None:
            position_ids = [positions]
        if not position_ids:
            position_ids = [ops.expand_dims(ops.arange(ops.shape(x)[1], dtype="int32"), 0)]
        positions = ops.cast(self.position_vectors(position_ids[0]), self.compute_dtype)
        if self.merge_mode == "zero":
            return positions
        x = ops.cast(x, self.compute_dtype)
        if self.merge_mode == "add":
            return x + positions
        if self.merge_mode == "mul":
            return x * (positions + 1)
        positions = ops.broadcast_to(positions, (*ops.shape(x)[:2], self.output_dim))
        return ops.concatenate([x, positions], axis=-1)

    def cache_arguments(self, cache: Any, inputs: Any) -> dict[str, Any]:
        """Which arguments the call takes besides, when the inputs are a part of a sequence."""
        return {"positions": cache.positions}

    def compute_mask(self, inputs: Any, mask: Masks = None) -> Mask:
        return as_list(mask)[0] if self.custom_position_ids and mask is not None else mask

    def compute_output_spec(self, inputs: Any, positions: Any = None) -> keras.KerasTensor:
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
class PositionEmbedding(TableLayer, PositionEmbeddingBase):
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
        self.embeddings_initializer = find_initializer(embeddings_initializer)

    def build(self, input_shape: Any) -> None:
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(self.input_dim, self.output_dim),
            initializer=self.embeddings_initializer,
        )

    @property
    def reach(self) -> int:
        """How many positions there are vectors for."""
        return self.input_dim**2 if self.hierarchical else self.input_dim

    def call(self, inputs: Tensor | Sequence[Tensor], positions: Tensor | None = None) -> Tensor:
        x = inputs[0] if self.custom_position_ids else inputs
        length = x.shape[1]
        counted = positions is None and not self.custom_position_ids
        if counted and length is not None and length > self.reach:
            raise ValueError(
                f"{self.name} has vectors for {self.reach} positions, but the input has {length}: "
                "cut texts with maxlen=, or build the model with hierarchical_position=True"
            )
        return super().call(inputs, positions)

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

    Args:
        base: the wavelengths run from 2π to 2π `base`.
        scaling: for rotary positions, how they reach beyond the length that a model was trained
            with: None, or a dict of the kind 'linear', 'dynamic', 'yarn' or 'llama3' with the keys
            of `rope_scaling` in Hugging Face configs (see `rotary_frequencies`).
        **kwargs: see `PositionEmbeddingBase`.
    """

    def __init__(
        self,
        output_dim: int,
        merge_mode: str = "add",
        custom_position_ids: bool = False,
        base: float = 10000.0,
        scaling: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(output_dim, merge_mode, custom_position_ids, **kwargs)
        scaling_kind(scaling)
        self.base = base
        self.scaling = None if scaling is None else dict(scaling)

    def position_vectors(self, position_ids: Tensor) -> Tensor:
        return sinusoidal_embeddings(position_ids, self.output_dim, self.base, self.scaling)

    def get_config(self) -> dict:
        return super().get_config() | {"base": self.base, "scaling": self.scaling}


@registered
class RelativePositionEmbedding(TableLayer):
    """A trainable vector for each distance of two positions (Shaw et al., 2018; NEZHA).

    Inputs are [query, key], of which only the lengths matter; `positions=` (those of the queries,
    those of the keys) in the call says otherwise. The output (query length, key length, output_dim)
    holds the vector of key position − query position; it is what `MultiHeadAttention` takes as the
    position bias 'typical_relative'. Distances beyond ±(input_dim − 1) // 2 share the vector of
    that distance.

    Args:
        input_dim: number of distances in the table: 2 · (largest distance) + 1.
        output_dim: size of a vector.
        embeddings_initializer: initializer of the table.
    """

    def __init__(
        self, input_dim: int, output_dim: int, embeddings_initializer: Any = "zeros", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        require_positive(self, input_dim=input_dim, output_dim=output_dim)
        self.input_dim = input_dim
        self.output_dim = output_dim
        self.embeddings_initializer = find_initializer(embeddings_initializer)

    def build(self, input_shape: Any) -> None:
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(self.input_dim, self.output_dim),
            initializer=self.embeddings_initializer,
        )

    def rows(self) -> np.ndarray:
        """The row of the table for each distance −d, …, d; what is farther counts as ±d."""
        return np.arange(2 * ((self.input_dim - 1) // 2) + 1)

    def compute_position_ids(
        self, inputs: Sequence[Tensor], positions: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Look up which row of the table serves which pair: (query length, key length)."""
        rows = self.rows()
        largest = len(rows) // 2
        rows = ops.convert_to_tensor(rows, dtype="int32")
        if positions is None:
            positions = [ops.arange(ops.shape(x)[1], dtype="int32") for x in inputs]
        query_positions, key_positions = positions
        distance = ops.expand_dims(key_positions, 0) - ops.expand_dims(query_positions, 1)
        return ops.take(rows, ops.clip(distance, -largest, largest) + largest, axis=0)

    def call(self, inputs: Sequence[Tensor], positions: Sequence[Tensor] | None = None) -> Tensor:
        table = ops.cast(self.embeddings, self.compute_dtype)
        return ops.take(table, self.compute_position_ids(inputs, positions), axis=0)

    def cache_arguments(self, cache: Any, inputs: Sequence[Tensor]) -> dict[str, Any]:
        """Which arguments the call takes besides, when the inputs are a part of a sequence."""
        keys = cache.visible if inputs[1] is inputs[0] else inputs[1]
        return {"positions": (cache.slots, ops.arange(ops.shape(keys)[1], dtype="int32"))}

    def compute_mask(self, inputs: Sequence[Tensor], mask: Masks = None) -> Mask:
        return mask_list(mask, inputs)[0]

    def compute_output_spec(
        self, inputs: Sequence[Tensor], positions: Sequence[Tensor] | None = None
    ) -> keras.KerasTensor:
        query, key = inputs
        shape = (query.shape[1], key.shape[1], self.output_dim)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def get_config(self) -> dict:
        return super().get_config() | {
            "input_dim": self.input_dim,
            "output_dim": self.output_dim,
            "embeddings_initializer": initializers.serialize(self.embeddings_initializer),
        }


@registered
class RelativePositionTable(RelativePositionEmbedding):
    """The table of `RelativePositionEmbedding` itself, (input_dim, output_dim).

    This is what `DisentangledAttention` takes. The input is any tensor; nothing of it matters, nor
    of `positions=` in the call.
    """

    def call(self, inputs: Tensor, positions: Any = None) -> Tensor:
        return ops.cast(ops.convert_to_tensor(self.embeddings), self.compute_dtype)

    def cache_arguments(self, cache: Any, inputs: Tensor) -> dict[str, Any]:
        """None: the table is the same whatever the inputs are a part of."""
        return {}

    def compute_mask(self, inputs: Tensor, mask: Mask = None) -> None:
        return None

    def compute_output_spec(self, inputs: Tensor, positions: Any = None) -> keras.KerasTensor:
        return keras.KerasTensor((self.input_dim, self.output_dim), dtype=self.compute_dtype)


@registered
class RelativePositionEmbeddingT5(RelativePositionEmbedding):
    """A trainable vector for each bucket of distances (T5, https://arxiv.org/abs/1910.10683).

    Half of the buckets hold one distance each; the others grow with the logarithm of the distance
    up to `max_distance`, and the last one holds all that is farther. With output_dim = heads this
    is what `MultiHeadAttention` takes as the position bias 't5_relative'.

    Args:
        input_dim: number of buckets.
        output_dim: size of a vector, one number per head.
        max_distance: distance from which on there is a single bucket.
        bidirectional: tell keys after the query from keys before it, with half of the buckets for
            each (encoder). Otherwise all keys after the query count as distance 0 (decoder).
        embeddings_initializer: initializer of the table.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        max_distance: int = 128,
        bidirectional: bool = True,
        embeddings_initializer: Any = "zeros",
        **kwargs: Any,
    ) -> None:
        super().__init__(input_dim, output_dim, embeddings_initializer, **kwargs)
        require_positive(self, max_distance=max_distance)
        self.max_distance = max_distance
        self.bidirectional = bidirectional
        one_way = input_dim // 2 if bidirectional else input_dim
        if not 1 <= one_way // 2 < max_distance:
            raise ValueError(
                f"RelativePositionEmbeddingT5 got input_dim={input_dim} and max_distance="
                f"{max_distance}: give at least {4 if bidirectional else 2} buckets, and a "
                "distance beyond those that have a bucket of their own"
            )

    def rows(self) -> np.ndarray:
        distance = np.arange(-self.max_distance, self.max_distance + 1)
        buckets = self.input_dim // 2 if self.bidirectional else self.input_dim
        back = np.abs(distance) if self.bidirectional else np.maximum(-distance, 0)
        single = buckets // 2
        growth = np.log(np.maximum(back, 1) / single) / np.log(self.max_distance / single)
        shared = single + (growth * (buckets - single)).astype("int32")
        rows = np.where(back < single, back, np.minimum(shared, buckets - 1))
        return rows + buckets * (distance > 0) if self.bidirectional else rows

    def get_config(self) -> dict:
        return super().get_config() | {
            "max_distance": self.max_distance,
            "bidirectional": self.bidirectional,
        }


# --------------------------------------------------------------------------------------- attention


@registered
class MultiHeadAttention(MaskReader, Recomputable):
    """Multi-head attention (Vaswani et al., 2017) with the biases and positions of its successors.

    Inputs are a list [query, key, value, *biases], each of the first three (batch, length, size).
    `a_bias=True` in the call says that an attention bias follows: boolean (true where visible) or
    float (added to the scores), (batch, query length, key length) or with a heads axis at 1.
    `p_bias` names a position bias that comes after it:

    * 'rotary': (batch or 1, length, key size) sinusoidal vectors by which queries and keys are
      rotated, in pairs of neighbouring features (RoFormer);
    * 'rotary_half': the same in pairs (i, i + key size / 2) (LLaMA, Qwen, ModernBERT);
    * 'typical_relative': (query length, key length, head size) vectors added to keys and to values
      (Shaw et al., 2018; NEZHA); if key size and head size differ, those for the keys and those for
      the values, one after the other on the last axis;
    * 't5_relative': (query length, key length, heads) numbers added to the scores.

    The mask of the value input hides keys; the mask of the output is that of the query. A query for
    which every key is hidden, by masks or by minus infinity in a float bias, gets zeros. Softmax
    attention runs in one kernel (`dot_product_attention`), unless the scores, dropout of weights in
    training or 'typical_relative' need what is inside.

    With `cache=` in the call, a `LayerCache`, the inputs are a part of a sequence, and what they
    attend to are the keys and values of the sequence so far, with the mask that the cache has.

    Args:
        heads: number of heads.
        head_size: size of a head's value.
        out_dim: size of the output, heads · head_size by default.
        key_size: size of a head's query and key, head_size by default.
        use_bias: whether the projections of query, key and value have a bias.
        normalization: see `attention_normalize`.
        attention_scale: divide scores by √key_size.
        attention_dropout: dropout rate of the attention weights.
        return_attention_scores: also return the scores (batch, heads, query length, key length),
            after position bias and scaling, before attention bias, mask and normalisation.
        kernel_initializer: initializer of the four kernels.
        key_value_heads: number of heads of keys and values, `heads` by default. Each serves as many
            neighbouring query heads (grouped queries, https://arxiv.org/abs/2305.13245).
        out_bias: whether the output projection has a bias, `use_bias` by default.
        query_key_norm: if given, every head's query and key are divided by their root mean square
            and multiplied by a trainable gamma before rotation, as in Qwen3; this is the epsilon.
    """

    position_biases = ("rotary", "rotary_half", "typical_relative", "t5_relative")
    n_sequences = 3

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
        key_value_heads: int | None = None,
        out_bias: bool | None = None,
        query_key_norm: float | None = None,
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
        self.key_value_heads = key_value_heads or heads
        if heads % self.key_value_heads:
            raise ValueError(
                f"{heads} heads cannot share {key_value_heads} key and value heads evenly: "
                "key_value_heads must divide heads"
            )
        self.out_bias = use_bias if out_bias is None else out_bias
        self.query_key_norm = query_key_norm
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        query, key, value = (tuple(shape) for shape in input_shape[:3])
        values = self.heads * self.head_size
        self.q_dense = built_dense(self, "q_dense", self.heads * self.key_size, query)
        self.k_dense = built_dense(self, "k_dense", self.key_value_heads * self.key_size, key)
        self.v_dense = built_dense(self, "v_dense", self.key_value_heads * self.head_size, value)
        self.o_dense = built_dense(
            self, "o_dense", self.out_dim, (*query[:-1], values), use_bias=self.out_bias
        )
        if self.query_key_norm:
            self.q_norm, self.k_norm = self.head_norm("q_norm"), self.head_norm("k_norm")
        if self.attention_dropout:
            self.dropout = Dropout(self.attention_dropout, dtype=self.dtype_policy, name="dropout")

    def head_norm(self, name: str) -> LayerNormalization:
        """Create and build the normalisation of a head's queries or keys."""
        norm = LayerNormalization(
            zero_mean=False,
            offset=False,
            epsilon=self.query_key_norm,
            dtype=self.dtype_policy,
            name=name,
        )
        norm.build((None, None, self.heads, self.key_size))
        return norm

    @staticmethod
    def split_heads(x: Tensor, heads: int, size: int) -> Tensor:
        """(batch, length, heads · size) → (batch, length, heads, size)."""
        # With the batch's size in place of -1, tf2onnx takes the length for the batch.
        return ops.reshape(x, (-1, ops.shape(x)[1], heads, size))

    @recompute_grad
    def call(
        self,
        inputs: Sequence[Tensor],
        mask: Masks = None,
        a_bias: bool | None = None,
        p_bias: str | None = None,
        cache: Any = None,
        training: bool | None = None,
        seed: Tensor | None = None,
    ) -> Tensor | list[Tensor]:
        query, key, value, *biases = inputs
        key_mask = mask_list(mask, inputs)[2]
        attention_bias = self.with_heads_axis(biases.pop(0)) if a_bias else None
        position_bias = biases.pop(0) if p_bias else None
        query = self.projected_query(query, position_bias, p_bias)
        if cache is None:
            key, value = self.projected_keys(key, value, position_bias, p_bias)
        else:
            key, value, key_mask = cache.keys_and_values(
                lambda: self.projected_keys(key, value, position_bias, p_bias)
            )
        added = self.position_scores(query, key, position_bias, p_bias, cache)
        if self.needs_no_scores(p_bias, training):
            visible, bias = attention_visibility(key_mask, attention_bias, query.dtype)
            if added is not None:
                bias = added if bias is None else bias + added
            output = dot_product_attention(query, key, value, self.score_scale, visible, bias)
            return self.merge_heads(output)
        scores = attention_scores(query, key) * ops.cast(self.score_scale, query.dtype)
        scores = scores if added is None else scores + added
        weights = attention_normalize(scores, key_mask, -1, self.normalization, attention_bias)
        if self.attention_dropout:
            weights = self.dropout(weights, training=training, seed=seed)
        output = weighted_values(weights, value)
        if p_bias == "typical_relative":
            position_bias = ops.cast(position_bias[..., -self.head_size :], weights.dtype)
            output = output + ops.einsum("bhqk,qkd->bqhd", weights, position_bias)
        output = self.merge_heads(output)
        return [output, scores] if self.return_attention_scores else output

    def projected_query(
        self, query: Tensor, position_bias: Tensor | None, p_bias: str | None
    ) -> Tensor:
        """Queries (batch, query length, heads, key size), rotated if positions enter like that."""
        query = self.split_heads(self.q_dense(query), self.heads, self.key_size)
        if self.query_key_norm:
            query = self.q_norm(query)
        return self.rotated(query, position_bias, p_bias)

    def projected_keys(
        self, key: Tensor, value: Tensor, position_bias: Tensor | None, p_bias: str | None
    ) -> tuple[Tensor, Tensor]:
        """Keys and values (batch, key length, key heads, size), the keys rotated likewise."""
        key = self.split_heads(self.k_dense(key), self.key_value_heads, self.key_size)
        value = self.split_heads(self.v_dense(value), self.key_value_heads, self.head_size)
        if self.query_key_norm:
            key = self.k_norm(key)
        return self.rotated(key, position_bias, p_bias), value

    @staticmethod
    def rotated(x: Tensor, position_bias: Tensor | None, p_bias: str | None) -> Tensor:
        """Rotate heads by their positions if the position bias is of that kind."""
        if p_bias not in ("rotary", "rotary_half"):
            return x
        return apply_rotary_position_embeddings(position_bias, x, half=p_bias == "rotary_half")

    def needs_no_scores(self, p_bias: str | None, training: bool | None) -> bool:
        """Tell whether softmax attention may run without keeping scores or weights."""
        return (
            self.normalization == "softmax"
            and not self.return_attention_scores
            and not (self.attention_dropout and training)
            and p_bias != "typical_relative"
        )

    @property
    def score_scale(self) -> float:
        """What scores are multiplied by."""
        return self.key_size**-0.5 if self.attention_scale else 1.0

    def position_scores(
        self,
        query: Tensor,
        key: Keys,
        position_bias: Tensor | None,
        p_bias: str | None,
        cache: Any = None,
    ) -> Tensor | None:
        """What the position bias adds to the scaled scores, broadcastable to them."""
        if p_bias not in ("typical_relative", "t5_relative"):
            return None
        position_bias = ops.cast(position_bias, query.dtype)
        if p_bias == "typical_relative":
            added = ops.einsum("bqhd,qkd->bhqk", query, position_bias[..., : self.key_size])
        else:
            added = ops.expand_dims(ops.transpose(position_bias, (2, 0, 1)), 0)
        return added * ops.cast(self.score_scale, added.dtype)

    def merge_heads(self, output: Tensor) -> Tensor:
        """Send (batch, length, heads, head size) through the output projection."""
        batch, length = ops.shape(output)[:2]
        return self.o_dense(ops.reshape(output, (batch, length, self.heads * self.head_size)))

    @staticmethod
    def with_heads_axis(bias: Tensor | None) -> Tensor | None:
        """Give an attention bias without a heads axis one of size 1."""
        return bias if bias is None or len(bias.shape) == 4 else align(bias, [0, -2, -1], 4)

    def cache_arguments(self, cache: Any, inputs: Sequence[Tensor]) -> dict[str, Any]:
        """Which arguments the call takes besides, when the inputs are a part of a sequence."""
        return {"cache": cache.of_attention(to_context=inputs[1] is not inputs[0])}

    def compute_mask(self, inputs: Sequence[Tensor], mask: Masks = None) -> Any:
        query_mask = mask_list(mask, inputs)[0]
        return [query_mask, None] if self.return_attention_scores else query_mask

    def compute_output_spec(
        self,
        inputs: Sequence[Tensor],
        mask: Masks = None,
        a_bias: bool | None = None,
        p_bias: str | None = None,
        cache: Any = None,
        training: bool | None = None,
    ) -> Any:
        known = (None, *self.position_biases)
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
            "key_value_heads": self.key_value_heads,
            "out_bias": self.out_bias,
            "query_key_norm": self.query_key_norm,
        }


@registered
class DisentangledAttention(MultiHeadAttention):
    """Attention of DeBERTa v2 and v3 (He et al., 2021, https://arxiv.org/abs/2006.03654).

    Besides contents, each query is multiplied by the key of its relative position, and each key by
    the query of it. These come from a table of relative positions through the projections of the
    contents (`share_att_key`). The call takes it as `p_bias='disentangled'`: (2 · buckets, size of
    the query input), row `buckets + b` for bucket b of the query's position minus the key's.
    Distances up to half the buckets have a bucket each, larger ones share them by logarithm. The
    queries and the keys are those of the same sequence.

    Args:
        buckets: number of buckets in either direction (`position_buckets` in configs).
        max_distance: from here on, distances share the last bucket (`max_relative_positions`, or
            `max_position_embeddings` where that is negative).
        **kwargs: see `MultiHeadAttention`.
    """

    position_biases = ("disentangled",)

    def __init__(
        self,
        heads: int,
        head_size: int,
        *args: Any,
        buckets: int = 256,
        max_distance: int = 512,
        **kwargs: Any,
    ) -> None:
        super().__init__(heads, head_size, *args, **kwargs)
        if self.key_value_heads != heads:
            raise ValueError("DisentangledAttention has no grouped queries: leave key_value_heads")
        self.buckets = buckets
        self.max_distance = max_distance

    @property
    def score_scale(self) -> float:
        """What scores are multiplied by: they are sums of three products."""
        return (3 * self.key_size) ** -0.5 if self.attention_scale else 1.0

    def table_rows(self) -> np.ndarray:
        """Rows of the table for the distances −`max_distance` to `max_distance`."""
        exact = self.buckets // 2
        distances = np.arange(self.max_distance + 1, dtype="float32")
        # In float32, as in the published code: the bucket is rounded up.
        steps = np.log(np.maximum(distances, exact) / np.float32(exact))
        steps /= np.log(np.float32((self.max_distance - 1) / exact))
        shared = np.ceil(steps * np.float32(exact - 1)) + exact
        buckets = np.where(distances <= exact, distances, shared).astype("int32")
        signed = np.concatenate([-buckets[:0:-1], buckets])
        return np.clip(signed + self.buckets, 0, 2 * self.buckets - 1)

    def position_scores(
        self,
        query: Tensor,
        key: Keys,
        position_bias: Tensor | None,
        p_bias: str | None,
        cache: Any = None,
    ) -> Tensor | None:
        if p_bias is None:
            return None
        table = ops.cast(position_bias, query.dtype)
        if isinstance(key, list):
            added = self.scores_of_parts(query, key, table, cache.positions)
        else:
            added = self.scores_of_sequence(query, key, table)
        return added * ops.cast(self.score_scale, added.dtype)

    def scores_of_sequence(self, query: Tensor, key: Tensor, table: Tensor) -> Tensor:
        """What positions add to the scores of a sequence, (batch, heads, length, length)."""
        length = ops.shape(query)[1]
        # Every score depends on one of the distances from −length to length. The first is of no
        # use to the keys and the last to the queries, but rows of even width can be shifted.
        keys, queries = self.projected_table(table, (ops.arange(2 * length + 1) - length)[None])
        to_position = shifted(attention_scores(query, ops.flip(keys[:, :-1], axis=1)))
        from_position = shifted(attention_scores(key, queries[:, 1:]))
        return to_position + ops.transpose(from_position, (0, 1, 3, 2))

    def scores_of_parts(
        self, query: Tensor, parts: list[Tensor], table: Tensor, positions: Tensor
    ) -> Tensor:
        """The same for a few queries at `positions`, and parts of keys (see `laid_out`)."""
        ends = np.cumsum([part.shape[3] for part in parts]).tolist()
        distances = positions[:, None] - ops.arange(ends[-1], dtype="int32")
        keys, queries = self.projected_table(table, distances)
        to_position = ops.einsum("bqhd,qkhd->bhqk", query, keys)
        from_position = [
            ops.repeat(
                ops.einsum("bhdk,qkhd->bhqk", part, queries[:, end - part.shape[3] : end]),
                query.shape[0] // part.shape[0],
                axis=0,
            )
            for part, end in zip(parts, ends, strict=True)
        ]
        return to_position + ops.concatenate(from_position, axis=-1)

    def projected_table(self, table: Tensor, distances: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and queries (n, length, heads, size) of distances (n, length)."""
        largest = self.max_distance
        rows = ops.convert_to_tensor(self.table_rows())
        rows = ops.take(rows, ops.clip(distances, -largest, largest) + largest)
        vectors = ops.take(table, rows, axis=0)
        keys = self.split_heads(self.k_dense(vectors), self.key_value_heads, self.key_size)
        return keys, self.split_heads(self.q_dense(vectors), self.heads, self.key_size)

    def get_config(self) -> dict:
        return super().get_config() | {
            "buckets": self.buckets,
            "max_distance": self.max_distance,
        }


def shifted(scores: Tensor) -> Tensor:
    """Pick the columns `length − 1 − i` to `2 · length − 2 − i` of every row i.

    Written end to end, rows shorter by one start one column earlier each time: no index is needed
    (the relative shift of Dai et al., 2019, https://arxiv.org/abs/1901.02860).

    Args:
        scores: (batch, heads, length, 2 · length), of which the last column is not read.

    Returns:
        (batch, heads, length, length).
    """
    batch, heads, length, width = ops.shape(scores)
    flat = ops.reshape(scores, (batch, heads, length * width))
    flat = flat[..., length - 1 : length - 1 + length * (width - 1)]
    return ops.reshape(flat, (batch, heads, length, width - 1))[..., :length]


class AttentionMask(Layer):
    """Base of the layers that derive a boolean attention bias (batch or 1, 1, length, length).

    `AttentionBias` combines several. With `rows=` (n,) in the call only the rows of these queries
    are computed, (batch or 1, 1, n, length).
    """

    def order(self, inputs: Tensor) -> Tensor:
        """What decides who sees whom: one number for each position, (batch or 1, length)."""
        return ops.expand_dims(ops.arange(ops.shape(inputs)[1]), 0)

    def visible(self, query: Tensor, key: Tensor) -> Tensor:
        """Compare numbers (batch or 1, n, 1) with numbers (batch or 1, 1, length)."""
        raise NotImplementedError(f"{type(self).__name__} must define visible()")

    def call(self, inputs: Tensor, rows: Tensor | None = None) -> Tensor:
        keys = self.order(inputs)
        queries = keys if rows is None else ops.take(keys, rows, axis=1)
        return ops.expand_dims(self.visible(queries[:, :, None], keys[:, None, :]), 1)

    def cache_arguments(self, cache: Any, inputs: Tensor) -> dict[str, Any]:
        """Which arguments the call takes besides, when the inputs are a part of a sequence."""
        return {"rows": cache.slots}

    def compute_mask(self, inputs: Tensor, mask: Mask = None) -> None:
        return None


@registered
class LMMask(AttentionMask):
    """Lower triangle: each position sees itself and what is before it. Input: (batch, length)."""

    def visible(self, query: Tensor, key: Tensor) -> Tensor:
        return key <= query


@registered
class UniLMMask(AttentionMask):
    """UniLM's mask (Dong et al., 2019): segment 0 sees all of itself, segment 1 looks back only.

    Input: segment ids (batch, length). A position sees those whose cumulative sum of segment ids is
    not larger than its own.
    """

    def order(self, inputs: Tensor) -> Tensor:
        return ops.cumsum(ops.cast(inputs, "int32"), axis=1)

    def visible(self, query: Tensor, key: Tensor) -> Tensor:
        return key <= query


@registered
class LocalMask(AttentionMask):
    """Sliding window: each position sees those at most `window // 2` away. Input: (batch, length).

    Args:
        window: how many positions are visible, itself included, if odd (`local_attention` in the
            configs of ModernBERT, which are even).
    """

    def __init__(self, window: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.window = window

    def visible(self, query: Tensor, key: Tensor) -> Tensor:
        return ops.absolute(key - query) <= self.window // 2

    def get_config(self) -> dict:
        return super().get_config() | {"window": self.window}


# ------------------------------------------------------------------------------------ feed-forward


@registered
class FeedForward(Recomputable):
    """Two Dense layers with an activation between; several activations make it a gated linear unit.

    With activations [f, g, …] the hidden value is f(x·W0) · g(x·W1) · … (Shazeer, 2020,
    https://arxiv.org/abs/2002.05202).

    Args:
        units: size of the hidden value; the output has the size of the input.
        activation: one activation or a list of them.
        use_bias: whether the Dense layers have a bias.
        kernel_initializer: their initializer.
    """

    positionwise = True

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
        shape = tuple(input_shape)
        for i, function in enumerate(self.activation):
            name = f"i{i}_dense"
            setattr(self, name, built_dense(self, name, self.units, shape, function))
        self.o_dense = built_dense(self, "o_dense", shape[-1], (*shape[:-1], self.units))

    @recompute_grad
    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        hidden = self.i0_dense(inputs)
        for i in range(1, len(self.activation)):
            hidden = hidden * getattr(self, f"i{i}_dense")(inputs)
        return self.o_dense(hidden)

    def compute_output_spec(
        self, inputs: Tensor, training: bool | None = None
    ) -> keras.KerasTensor:
        return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)

    def get_config(self) -> dict:
        return super().get_config() | {
            "units": self.units,
            "activation": [activation_config(a) for a in self.activation],
            "use_bias": self.use_bias,
            "kernel_initializer": initializers.serialize(self.kernel_initializer),
        }


@registered
class MaskedConv1D(MaskReader, keras.layers.Conv1D):
    """Convolution along a sequence, (batch, length, features), in which padding counts as zero."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.supports_masking = True

    def call(self, inputs: Tensor, mask: Mask = None) -> Tensor:
        return super().call(sequence_masking(inputs, mask, 0, 1))


# --------------------------------------------------------------------------------- gated attention


@registered
class GatedAttentionUnit(MaskReader, Recomputable):
    """Attention of a single head and gated feed-forward in one (https://arxiv.org/abs/2202.10447).

    With gate U, values V and a shared Z, all of them activated Dense layers of the input x, the
    output is Dense(U · attention(query, key) V), where query and key are Z, each with a scale and
    offset of its own. Inputs are x (batch, length, size), alone or as the first of a list. The call
    takes `a_bias=True` and `p_bias='rotary'` like `MultiHeadAttention`, the tensors follow x.

    With `self_attention=False` the inputs are [query, key, value, *biases]: U and the query come
    from the first, the key from the second and V from the third.

    The mask of x (of the value) hides keys; the mask of the output is that of the first input. For
    `cache=` in the call see `MultiHeadAttention`.

    Args:
        units: size of U and V.
        key_size: size of query and key.
        activation: activation of the Dense layers before attention.
        use_bias: whether Dense layers have a bias, and query and key an offset.
        normalization: see `attention_normalize`.
        self_attention: whether query, key and value are computed from one input.
        attention_scale: divide scores by √key_size.
        attention_dropout: dropout rate of the attention weights.
        kernel_initializer: initializer of the kernels.
    """

    def __init__(
        self,
        units: int,
        key_size: int,
        activation: Any = "swish",
        use_bias: bool = True,
        normalization: str = "squared_relu",
        self_attention: bool = True,
        attention_scale: bool = True,
        attention_dropout: float | None = None,
        kernel_initializer: Any = "glorot_uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        require_positive(self, units=units, key_size=key_size)
        self.units = units
        self.key_size = key_size
        self.activation = find_activation(activation)
        self.use_bias = use_bias
        self.normalization = normalization
        self.self_attention = self_attention
        self.attention_scale = attention_scale
        self.attention_dropout = attention_dropout
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.n_sequences = 1 if self_attention else 3

    def build(self, input_shape: Any) -> None:
        several = isinstance(input_shape[0], list | tuple)
        shapes = [tuple(shape) for shape in (input_shape if several else [input_shape])]
        self.check_count(len(shapes) >= self.n_sequences, len(shapes))
        units, key_size = self.units, self.key_size
        if self.self_attention:
            size = 2 * units + key_size
            self.i_dense = built_dense(self, "i_dense", size, shapes[0], self.activation)
            self.q_scaleoffset = self.scale_offset("q_scaleoffset")
            self.k_scaleoffset = self.scale_offset("k_scaleoffset")
        else:
            query, key, value = shapes[:3]
            self.uq_dense = built_dense(self, "uq_dense", units + key_size, query, self.activation)
            self.k_dense = built_dense(self, "k_dense", key_size, key, self.activation)
            self.v_dense = built_dense(self, "v_dense", units, value, self.activation)
        self.o_dense = built_dense(self, "o_dense", shapes[0][-1], (*shapes[0][:-1], units))
        if self.attention_dropout:
            self.dropout = Dropout(self.attention_dropout, dtype=self.dtype_policy, name="dropout")

    def scale_offset(self, name: str) -> ScaleOffset:
        """Create and build what makes a query or key of Z."""
        layer = ScaleOffset(offset=self.use_bias, dtype=self.dtype_policy, name=name)
        layer.build((None, None, self.key_size))
        return layer

    def separated(
        self, inputs: Tensor | Sequence[Tensor], a_bias: bool | None, p_bias: str | None
    ) -> tuple[list[Tensor], Tensor | None, Tensor | None]:
        """Tell the sequences, the attention bias and the position bias among the inputs."""
        inputs = as_list(inputs)
        if p_bias not in (None, "rotary"):
            raise ValueError(f"p_bias of {self.name} is None or 'rotary', not {p_bias!r}")
        n_biases = bool(a_bias) + bool(p_bias)
        self.check_count(len(inputs) == self.n_sequences + n_biases, len(inputs))
        sequences, biases = inputs[: self.n_sequences], inputs[self.n_sequences :]
        attention_bias = biases.pop(0) if a_bias else None
        return sequences, attention_bias, biases.pop(0) if p_bias else None

    def check_count(self, right: bool, n_inputs: int) -> None:
        """Refuse a wrong number of inputs."""
        if not right:
            sequences = "x" if self.self_attention else "query, key, value"
            raise ValueError(
                f"{self.name} got {n_inputs} inputs: it takes [{sequences}], then the attention "
                "bias if a_bias=True, then the position bias if p_bias='rotary'"
            )

    def projected(self, sequences: list[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compute the gate U, query, key and value."""
        units = self.units
        if self.self_attention:
            hidden = self.i_dense(sequences[0])
            shared = hidden[..., 2 * units :]
            query, key = self.q_scaleoffset(shared), self.k_scaleoffset(shared)
            return hidden[..., :units], query, key, hidden[..., units : 2 * units]
        query, key, value = sequences
        hidden = self.uq_dense(query)
        return hidden[..., :units], hidden[..., units:], self.k_dense(key), self.v_dense(value)

    @recompute_grad
    def call(
        self,
        inputs: Tensor | Sequence[Tensor],
        mask: Masks = None,
        a_bias: bool | None = None,
        p_bias: str | None = None,
        cache: Any = None,
        training: bool | None = None,
        seed: Tensor | None = None,
    ) -> Tensor:
        sequences, attention_bias, sinusoidal = self.separated(inputs, a_bias, p_bias)
        gate, query, key, value = self.projected(sequences)
        if sinusoidal is not None:
            query, key = apply_rotary_position_embeddings(sinusoidal, query, key)
        key_mask = mask_list(mask, as_list(inputs))[len(sequences) - 1]
        query, key, value = (x[:, :, None] for x in (query, key, value))  # a single head
        if cache is not None:
            new = key, value
            key, value, key_mask = cache.keys_and_values(lambda: new)
        if self.attention_scale:
            query = query / self.key_size**0.5
        scores = attention_scores(query, key)
        attention_bias = MultiHeadAttention.with_heads_axis(attention_bias)
        weights = attention_normalize(scores, key_mask, -1, self.normalization, attention_bias)
        if self.attention_dropout:
            weights = self.dropout(weights, training=training, seed=seed)
        return self.o_dense(gate * weighted_values(weights, value)[:, :, 0])

    def cache_arguments(self, cache: Any, inputs: Any) -> dict[str, Any]:
        """Which arguments the call takes besides, when the inputs are a part of a sequence."""
        to_context = not self.self_attention and inputs[1] is not inputs[0]
        return {"cache": cache.of_attention(to_context)}

    def compute_mask(self, inputs: Tensor | Sequence[Tensor], mask: Masks = None) -> Mask:
        return mask_list(mask, as_list(inputs))[0]

    def compute_output_spec(
        self,
        inputs: Tensor | Sequence[Tensor],
        mask: Masks = None,
        a_bias: bool | None = None,
        p_bias: str | None = None,
        cache: Any = None,
        training: bool | None = None,
    ) -> keras.KerasTensor:
        sequences, _, _ = self.separated(inputs, a_bias, p_bias)
        return keras.KerasTensor(sequences[0].shape, dtype=self.compute_dtype)

    def get_config(self) -> dict:
        return super().get_config() | {
            "units": self.units,
            "key_size": self.key_size,
            "activation": activation_config(self.activation),
            "use_bias": self.use_bias,
            "normalization": self.normalization,
            "self_attention": self.self_attention,
            "attention_scale": self.attention_scale,
            "attention_dropout": self.attention_dropout,
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


@registered
class GatherPositions(Layer):
    """The vectors at given positions: [(batch, length, size), (batch, n)] → (batch, n, size).

    The output has no mask: positions are chosen by whoever gives them, and none of them is padding.
    """

    def call(self, inputs: list[Tensor]) -> Tensor:
        x, positions = inputs
        return batch_gather(x, positions)

    def compute_mask(self, inputs: list[Tensor], mask: Masks = None) -> None:
        return None


class GlobalPooling1D(MaskReader):
    """Base of the layers that pool sequences to vectors (batch, features), padding left out.

    A sequence of nothing but padding gives zeros.

    Args:
        data_format: 'channels_last' for inputs (batch, length, features), 'channels_first' for
            (batch, features, length).
    """

    def __init__(self, data_format: str = "channels_last", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if data_format not in ("channels_last", "channels_first"):
            raise ValueError(
                f"data_format is 'channels_last' or 'channels_first', not {data_format!r}"
            )
        self.data_format = data_format
        self.axis = 1 if data_format == "channels_last" else 2

    def compute_mask(self, inputs: Tensor, mask: Mask = None) -> None:
        return None

    def compute_output_spec(self, inputs: Tensor, mask: Mask = None) -> keras.KerasTensor:
        shape = (inputs.shape[0], inputs.shape[3 - self.axis])
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def get_config(self) -> dict:
        return super().get_config() | {"data_format": self.data_format}


@registered
class GlobalAveragePooling1D(GlobalPooling1D):
    """Mean over the visible positions, taken in float32."""

    def call(self, inputs: Tensor, mask: Mask = None) -> Tensor:
        x = sequence_masking(ops.cast(inputs, "float32"), mask, 0, self.axis)
        if mask is None:
            mean = ops.mean(x, axis=self.axis)
        else:
            n_visible = ops.sum(ops.cast(mask, "float32"), axis=1, keepdims=True)
            mean = ops.sum(x, axis=self.axis) / ops.maximum(n_visible, 1)
        return ops.cast(mean, self.compute_dtype)


@registered
class GlobalMaxPooling1D(GlobalPooling1D):
    """Maximum over the visible positions."""

    def call(self, inputs: Tensor, mask: Mask = None) -> Tensor:
        largest = ops.max(sequence_masking(inputs, mask, "-inf", self.axis), axis=self.axis)
        if mask is None:
            return largest
        return sequence_masking(largest, ops.any(mask, axis=1, keepdims=True), 0, 1)


# ------------------------------------------------------------------------------ sequences of labels


def visible_mean(values: Tensor, visible: Tensor) -> Tensor:
    """Mean of `values` (batch, length) over the visible positions, 0 if there are none."""
    visible = ops.cast(visible, values.dtype)
    return ops.sum(values * visible) / ops.maximum(ops.sum(visible), 1)


def previous_visible(x: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    """Find what stands at the visible position before each position.

    Args:
        x: (batch, length, features).
        visible: (batch, length), booleans.

    Returns:
        The features found (batch, length, features), zeros where there is no such position, and
        whether there is one (batch, length).
    """
    length = ops.shape(visible)[1]
    positions = ops.arange(length, dtype="int32")
    visible_first = ops.argsort(ops.where(visible, positions, positions + length), axis=1)
    count = ops.cast(visible, "int32")
    n_before = ops.cumsum(count, axis=1) - count
    index = ops.take_along_axis(visible_first, ops.maximum(n_before - 1, 0), axis=1)
    exists = n_before > 0
    return ops.where(exists[..., None], batch_gather(x, index), 0), exists


def log_sum_exp(x: Tensor, axis: int) -> Tensor:
    """Logarithm of a sum of exponentials whose gradient adds up to 1.

    That of `keras.ops.logsumexp` on PyTorch is exp(x − result), which loses digits where the result
    is large, as sums along a text are.
    """
    largest = ops.stop_gradient(ops.max(x, axis=axis, keepdims=True))
    total = ops.sum(ops.exp(x - largest), axis=axis, keepdims=True)
    return ops.squeeze(largest + ops.log(total), axis)


def without_last_axis(label_ids: Tensor) -> Tensor:
    """Label ids (batch, length) that may have come with a last axis of size 1."""
    has_it = len(label_ids.shape) == 3 and label_ids.shape[-1] == 1
    return label_ids[..., 0] if has_it else label_ids


class LabelChain(MaskReader):
    """Base of the layers that score sequences of labels by emissions and transitions.

    The call takes emissions (batch, length, labels), one score for each label at each position, and
    returns them in float32 with minus infinity where the mask hides a position. That is how the
    losses, metrics and `decode` know the padding. Hidden positions count as if they were cut out,
    wherever they are; everything is computed in float32 under any dtype policy.

        crf = ConditionalRandomField(lr_multiplier=2)
        scores = crf(Dense(n_labels)(hidden))
        model = Model(inputs, scores)  # of bert4keras.models
        model.compile(optimizer, loss=crf.sparse_loss, metrics=[crf.sparse_accuracy])
        tagger = Model(inputs, crf.decode(scores))  # shares its weights with `model`

    A `Model` is saved with the loss of its layer. A `keras.Model` is not: load that with
    `load_model(path, compile=False)`, and compile it with the `sparse_loss` of its own layer.

    Args:
        lr_multiplier: the transition scores are this times the weights, so that they learn at a
            rate of their own (https://kexue.fm/archives/7196).
    """

    # A position none of whose labels scores more is padding. Scripts mask with -inf and with -1e12.
    padding_score = -1e6

    def __init__(self, lr_multiplier: float = 1, **kwargs: Any) -> None:
        # Emissions are to keep the precision that they come with.
        super().__init__(**{"autocast": False, **kwargs})
        if not lr_multiplier > 0:
            raise ValueError(
                f"{type(self).__name__} got lr_multiplier={lr_multiplier!r}, give a number above 0"
            )
        self.lr_multiplier = lr_multiplier

    def build(self, input_shape: Any) -> None:
        if len(input_shape) != 3 or input_shape[-1] is None:
            raise ValueError(
                f"{self.name} takes emissions (batch, length, labels) with a known number of "
                f"labels, not the shape {tuple(input_shape)}"
            )
        self.build_transitions(input_shape[-1])

    def build_transitions(self, labels: int) -> None:
        """Create the weights that transition scores are made of."""
        raise NotImplementedError(f"{type(self).__name__} must define build_transitions()")

    def add_transitions(self, name: str, shape: tuple[int, int]) -> Any:
        """Create a weight that starts as Glorot's uniform distribution, times 1 / lr_multiplier."""
        initializer = initializers.VarianceScaling(1 / self.lr_multiplier**2, "fan_avg", "uniform")
        return self.add_weight(name=name, shape=shape, initializer=initializer)

    @property
    def score_dtype(self) -> str:
        """The type in which scores are computed: float32, or float64 if the weights are so."""
        return keras.backend.result_type(self.variable_dtype, "float32")

    def effective(self, weight: Any) -> Tensor:
        """A transition weight as it enters the scores."""
        return self.lr_multiplier * ops.cast(weight, self.score_dtype)

    @property
    def trans(self) -> Tensor:
        """Score of going from the row's label to the column's, (labels, labels)."""
        raise NotImplementedError(f"{type(self).__name__} must define trans")

    def call(self, inputs: Tensor, mask: Mask = None, decode: bool = False) -> Tensor:
        scores = sequence_masking(ops.cast(inputs, self.score_dtype), mask, "-inf", 1)
        return self.best_labels(scores) if decode else scores

    def compute_mask(self, inputs: Tensor, mask: Mask = None) -> None:
        # Keras would apply it to a loss that is already a number for each text, or for the batch.
        return None

    def compute_output_spec(
        self, inputs: Tensor, mask: Mask = None, decode: bool = False
    ) -> keras.KerasTensor:
        if decode:
            return keras.KerasTensor(inputs.shape[:2], dtype="int32")
        return keras.KerasTensor(inputs.shape, dtype=self.score_dtype)

    def decode(self, emissions: Tensor, mask: Mask = None) -> Tensor:
        """Find the best labels of each text, by the Viterbi algorithm, on the device.

        Works on arrays, in compiled functions, and on symbolic tensors, to build a model that
        predicts labels. For each row it gives what `snippets.ViterbiDecoder(trans)` gives.

        Args:
            emissions: (batch, length, labels), as the layer takes or returns them.
            mask: (batch, length), true where visible; taken from the tensor if not given.

        Returns:
            (batch, length), int32, the labels of the best path, those of smaller number on a tie; 0
            at hidden positions, as `sequence_padding` pads labels.
        """
        return self(emissions, mask=mask, decode=True)

    def visible(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Tell padding by its scores: the scores with 0 there, and what is visible."""
        scores = ops.cast(scores, self.score_dtype)
        visible = ops.any(scores > self.padding_score, axis=-1)
        return ops.where(visible[..., None], scores, 0), visible

    def start(self, scores: Tensor) -> Tensor:
        """State (batch, labels) of recursions before anything is visible: one path of score 0."""
        state = lowest(scores.dtype) * np.minimum(np.arange(scores.shape[-1]), 1)
        return ops.zeros_like(scores[:, 0]) + ops.cast(state, scores.dtype)

    def transitions(self, visible: Tensor, trans: Tensor) -> Tensor:
        """Transitions into a position, (batch, labels, labels), 0 where no label stands before."""
        return ops.where(visible[:, None, None], trans, 0)

    def best_labels(self, scores: Tensor) -> Tensor:
        """Find the best labels (batch, length) under scores that tell their padding."""
        scores, visible = self.visible(scores)
        _, exists = previous_visible(scores, visible)
        trans, labels = self.trans, ops.arange(ops.shape(scores)[-1], dtype="int32")

        def forwards(best: Tensor, element: tuple) -> tuple[Tensor, Tensor]:
            emission, visible, exists = element
            paths = best[:, :, None] + self.transitions(exists, trans)
            visible = visible[:, None]
            origin = ops.where(visible, ops.cast(ops.argmax(paths, axis=1), "int32"), labels)
            best = ops.where(visible, ops.max(paths, axis=1) + emission, best)
            # keras.ops.scan on TensorFlow wants what it collects to be of the type of the state.
            return best, ops.cast(origin, best.dtype)

        def backwards(label: Tensor, origin: Tensor) -> tuple[Tensor, Tensor]:
            return ops.take_along_axis(origin, label[:, None], axis=1)[:, 0], label

        by_time = (ops.transpose(scores, (1, 0, 2)), ops.transpose(visible), ops.transpose(exists))
        best, origins = scan(forwards, self.start(scores), by_time)
        last = ops.cast(ops.argmax(best, axis=-1), "int32")
        _, path = ops.scan(backwards, last, ops.cast(origins, "int32"), reverse=True)
        return ops.where(visible, ops.transpose(path), 0)

    def one_hot(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Label ids (batch, length) or (batch, length, 1), floats too, as one-hot vectors."""
        y_true = without_last_axis(y_true)
        self.compare(y_true.shape, y_pred.shape[:-1], "sparse labels are ids (batch, length)")
        label_ids, _ = self.possible(y_true, y_pred)
        return ops.one_hot(label_ids, y_pred.shape[-1], dtype=self.score_dtype)

    def possible(self, y_true: Tensor, y_pred: Tensor) -> tuple[Tensor, Tensor]:
        """Tell label ids that are not among the labels, (batch, length).

        Returns:
            The ids with 0 for those, and where they are at visible positions.

        Raises:
            ValueError: there are such, and they are known outside of compiled code.
        """
        label_ids, n_labels = ops.cast(y_true, "int32"), y_pred.shape[-1]
        inside = ops.logical_and(label_ids >= 0, label_ids < n_labels)
        wrong = ops.logical_and(ops.logical_not(inside), self.visible(y_pred)[1])
        known = known_values(wrong)
        if known is not None and known.any():
            row, position = (int(i) for i in np.argwhere(known)[0])
            raise ValueError(
                f"{self.name} has {n_labels} labels, from 0 to {n_labels - 1}, and got "
                f"{int(known_values(label_ids)[row, position])} at position {position} of row {row}"
                ", which no mask hides: hide what has no label, or correct the labels"
            )
        return ops.where(inside, label_ids, 0), wrong

    def compare(self, given: Any, expected: Any, meaning: str) -> None:
        """Refuse labels whose shape cannot be the expected one."""
        given, expected = tuple(given), tuple(expected)
        both = zip(given, expected, strict=False)
        if len(given) != len(expected) or any(a != b and a and b for a, b in both):
            raise ValueError(
                f"{self.name}: {meaning}, of the shape {expected} for these scores, but they have "
                f"the shape {given}"
            )

    def prepared(self, y_true: Tensor, y_pred: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Check one-hot labels; they and the scores, 0 at padding, and what is visible."""
        meaning = "dense labels are one-hot vectors (batch, length, labels)"
        self.compare(y_true.shape, y_pred.shape, meaning)
        scores, visible = self.visible(y_pred)
        y_true = ops.where(visible[..., None], ops.cast(y_true, scores.dtype), 0)
        return y_true, scores, visible

    def dense_loss(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Loss for labels as one-hot vectors (batch, length, labels); `y_pred` from the call."""
        return self.loss(*self.prepared(y_true, y_pred))

    def sparse_loss(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Loss for label ids (batch, length), of any value at padding; `y_pred` from the call.

        An id that is none of the labels at a visible position is an error; inside of a compiled
        function it makes the loss NaN, without a gradient.
        """
        loss = self.dense_loss(self.one_hot(y_true, y_pred), y_pred)
        wrong = ops.any(self.possible(without_last_axis(y_true), y_pred)[1], axis=1)
        return ops.where(wrong if len(loss.shape) else ops.any(wrong), float("nan"), loss)

    def dense_accuracy(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Share of visible positions whose label has the best score; `y_true` one-hot vectors.

        This is a quick look on each position by itself, without a search for the best path.
        """
        shares = []
        for scores, labels, visible in self.views(*self.prepared(y_true, y_pred)):
            right = ops.argmax(labels, axis=-1) == ops.argmax(scores, axis=-1)
            shares.append(visible_mean(ops.cast(right, scores.dtype), visible))
        return sum(shares) / len(shares)

    def sparse_accuracy(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """`dense_accuracy` for label ids (batch, length)."""
        return self.dense_accuracy(self.one_hot(y_true, y_pred), y_pred)

    def views(
        self, y_true: Tensor, scores: Tensor, visible: Tensor
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """List the scores that each position is judged by, with labels and mask in their order."""
        raise NotImplementedError(f"{type(self).__name__} must define views()")

    def loss(self, y_true: Tensor, scores: Tensor, visible: Tensor) -> Tensor:
        """Loss of one-hot labels, both they and the scores 0 at padding."""
        raise NotImplementedError(f"{type(self).__name__} must define loss()")

    def get_config(self) -> dict:
        return super().get_config() | {"lr_multiplier": self.lr_multiplier}


@registered
class ConditionalRandomField(LabelChain):
    """Linear-chain conditional random field (Lafferty et al., 2001; https://kexue.fm/archives/5542).

    The probability of a sequence of labels is proportional to exp(sum of emissions and transitions
    along it). `sparse_loss` and `dense_loss` give −log p of each text, (batch,). See `LabelChain`
    for its use.
    """

    def build_transitions(self, labels: int) -> None:
        self._trans = self.add_transitions("trans", (labels, labels))

    @property
    def trans(self) -> Tensor:
        return self.effective(self._trans)

    def loss(self, y_true: Tensor, scores: Tensor, visible: Tensor) -> Tensor:
        before, exists = previous_visible(y_true, visible)
        trans = self.trans
        target = ops.sum(y_true * (scores + ops.matmul(before, trans)), axis=(1, 2))

        def step(total: Tensor, element: tuple) -> Tensor:
            emission, visible, exists = element
            paths = total[:, :, None] + self.transitions(exists, trans)
            return ops.where(visible[:, None], log_sum_exp(paths, axis=1) + emission, total)

        by_time = (ops.transpose(scores, (1, 0, 2)), ops.transpose(visible), ops.transpose(exists))
        return log_sum_exp(fold(step, self.start(scores), by_time), axis=-1) - target

    def views(
        self, y_true: Tensor, scores: Tensor, visible: Tensor
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        return [(scores, y_true, visible)]


@registered
class MaximumEntropyMarkovModel(LabelChain):
    """Maximum-entropy Markov model in both directions (https://kexue.fm/archives/7213).

    A label is predicted from the mean of its emission and of the transition from its true
    neighbour, once the one before and once the one after; a label without neighbour by the emission
    alone. `sparse_loss` and `dense_loss` give the mean cross-entropy over the visible positions of
    the batch and both directions, one number. `decode` takes the best path under the emissions and
    `trans`, as with a CRF. See `LabelChain` for its use.

    Args:
        hidden_dim: if given, the transitions are a product of two matrices (labels, hidden_dim),
            for large numbers of labels.
        **kwargs: see `LabelChain`.
    """

    def __init__(
        self, lr_multiplier: float = 1, hidden_dim: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(lr_multiplier, **kwargs)
        if hidden_dim is not None:
            require_positive(self, hidden_dim=hidden_dim)
        self.hidden_dim = hidden_dim

    def build_transitions(self, labels: int) -> None:
        if self.hidden_dim is None:
            self._trans = self.add_transitions("trans", (labels, labels))
        else:
            self._l_trans = self.add_transitions("l_trans", (labels, self.hidden_dim))
            self._r_trans = self.add_transitions("r_trans", (labels, self.hidden_dim))

    @property
    def factors(self) -> list[Tensor]:
        """The matrices whose product the transitions are."""
        if self.hidden_dim is None:
            return [self.effective(self._trans)]
        return [self.effective(self._l_trans), ops.transpose(self.effective(self._r_trans))]

    @property
    def trans(self) -> Tensor:
        return functools.reduce(ops.matmul, self.factors)

    def views(
        self, y_true: Tensor, scores: Tensor, visible: Tensor
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        factors = self.factors
        reverse = [ops.flip(x, axis=1) for x in (y_true, scores, visible)]
        return [
            self.view(y_true, scores, visible, factors),
            self.view(*reverse, [ops.transpose(factor) for factor in reversed(factors)]),
        ]

    def dense_accuracy(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """See `LabelChain`; not for `compile(metrics=…)` on JAX, where it raises a RuntimeError."""
        if compiled_without_weights(self.weights, y_pred):
            raise RuntimeError(
                f"the accuracy of {self.name} depends on its transitions, and Keras hands no "
                "weights to metrics on JAX: leave it out of compile(), and call it on the scores "
                "that model.predict() returns"
            )
        return super().dense_accuracy(y_true, y_pred)

    @staticmethod
    def view(
        y_true: Tensor, scores: Tensor, visible: Tensor, factors: list[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Scores given the label before, by transitions from it."""
        before, exists = previous_visible(y_true, visible)
        mean = (scores + functools.reduce(ops.matmul, factors, before)) / 2
        return ops.where(exists[..., None], mean, scores), y_true, visible

    def loss(self, y_true: Tensor, scores: Tensor, visible: Tensor) -> Tensor:
        losses = [
            visible_mean(-ops.sum(labels * ops.log_softmax(x, axis=-1), axis=-1), visible)
            for x, labels, visible in self.views(y_true, scores, visible)
        ]
        return sum(losses) / len(losses)

    def get_config(self) -> dict:
        return super().get_config() | {"hidden_dim": self.hidden_dim}


# ------------------------------------------------------------------------------------------- spans


@registered
class GlobalPointer(MaskReader):
    """A score for each pair of start and end, for each kind of span (https://kexue.fm/archives/8373).

    Input (batch, length, features), output (batch, heads, length, length): [b, h, i, j] scores the
    span of kind h from position i to position j, both included. Pairs of which one position is
    masked are minus infinity, and so are those that end before they start. Spans whose score is
    above 0 are the answer; train with `multilabel_categorical_crossentropy` on each head's
    flattened matrix.

    Args:
        heads: number of kinds of spans.
        head_size: size of a head's query and key, even with `RoPE`.
        RoPE: rotate queries and keys by their positions.
        use_bias: whether Dense layers have a bias.
        tril_mask: mask spans that end before they start.
        kernel_initializer: initializer of the kernels.
    """

    def __init__(
        self,
        heads: int,
        head_size: int,
        RoPE: bool = True,
        use_bias: bool = True,
        tril_mask: bool = True,
        kernel_initializer: Any = "lecun_normal",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        require_positive(self, heads=heads, head_size=head_size)
        if RoPE and head_size % 2:
            raise ValueError(
                f"{type(self).__name__} got head_size={head_size}: with RoPE it must be even"
            )
        self.heads = heads
        self.head_size = head_size
        self.RoPE = RoPE
        self.use_bias = use_bias
        self.tril_mask = tril_mask
        self.kernel_initializer = initializers.get(kernel_initializer)

    def build(self, input_shape: Any) -> None:
        size = self.heads * 2 * self.head_size
        self.dense = built_dense(self, "dense", size, tuple(input_shape))

    def projected(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Compute queries and keys (batch, length, heads or 1, head_size) and a bias of the scores.

        Scores of one head broadcast over all; the bias is (batch, heads, length, length) or None.
        """
        batch, length = ops.shape(inputs)[:2]
        pairs = ops.reshape(self.dense(inputs), (batch, length, self.heads, 2 * self.head_size))
        return pairs[..., : self.head_size], pairs[..., self.head_size :], None

    def call(self, inputs: Tensor, mask: Mask = None) -> Tensor:
        query, key, bias = self.projected(inputs)
        length = ops.shape(inputs)[1]
        positions = ops.arange(length, dtype="int32")
        if self.RoPE:
            sinusoidal = sinusoidal_embeddings(positions[None], self.head_size)
            query, key = apply_rotary_position_embeddings(sinusoidal, query, key)
        # Scaled before the product, which would not overflow float16 then.
        scores = ops.einsum("bmhd,bnhd->bhmn", query / self.head_size**0.5, key)
        scores = scores if bias is None else scores + bias
        forwards = (positions[:, None] <= positions)[None, None] if self.tril_mask else None
        return sequence_masking(scores, mask, "-inf", [2, 3], bias=forwards)

    def compute_mask(self, inputs: Tensor, mask: Mask = None) -> None:
        return None

    def compute_output_spec(self, inputs: Tensor, mask: Mask = None) -> keras.KerasTensor:
        batch, length = inputs.shape[:2]
        return keras.KerasTensor((batch, self.heads, length, length), dtype=self.compute_dtype)

    def get_config(self) -> dict:
        return super().get_config() | {
            "heads": self.heads,
            "head_size": self.head_size,
            "RoPE": self.RoPE,
            "use_bias": self.use_bias,
            "tril_mask": self.tril_mask,
            "kernel_initializer": initializers.serialize(self.kernel_initializer),
        }


@registered
class EfficientGlobalPointer(GlobalPointer):
    """`GlobalPointer` with few weights per kind of span (https://kexue.fm/archives/8877).

    All kinds share one matrix of scores, which tells spans from others; each adds a score of the
    start and one of the end, which tell its kind. Arguments are those of `GlobalPointer`.
    """

    def build(self, input_shape: Any) -> None:
        shape = tuple(input_shape)
        size = 2 * self.head_size
        self.p_dense = built_dense(self, "p_dense", size, shape)
        self.q_dense = built_dense(self, "q_dense", 2 * self.heads, (*shape[:-1], size))

    def projected(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        pairs = self.p_dense(inputs)
        by_kind = ops.transpose(self.q_dense(pairs), (0, 2, 1)) / 2
        bias = by_kind[:, ::2, None, :] + by_kind[:, 1::2, :, None]
        return pairs[:, :, None, ::2], pairs[:, :, None, 1::2], bias


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

    `compute_loss` gets floats: token and segment ids are integers, but a loss computes with them,
    as in `K.sum(loss * segment_ids)`. What the layer returns keeps its type.

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
        self.add_loss(self.compute_loss(as_floats(inputs), mask_list(mask, as_list(inputs))))
        return self.selected(inputs)

    def compute_mask(self, inputs: Any, mask: Masks = None) -> Any:
        return self.selected(mask)

    def compute_output_spec(self, inputs: Any, mask: Masks = None) -> Any:
        return keras.tree.map_structure(
            lambda x: keras.KerasTensor(x.shape, dtype=x.dtype), self.selected(inputs)
        )

    def get_config(self) -> dict:
        return super().get_config() | {"output_axis": self.output_axis}


# --------------------------------------------------------------------------------------- functions


@registered
class Lambda(keras.layers.Lambda):
    """`keras.layers.Lambda` whose function gets floats, as in Keras 2, where all inputs were.

    Integers and booleans among the inputs are converted to the default float type, and floats stay
    as they are, also where a policy says to compute in another type. The output has the type that
    the function gives, and its shape unless `output_shape` is given. It has no mask unless `mask`
    gives one.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"autocast": False, **kwargs})
        self.supports_masking = True  # Keras would warn of each mask that ends here

    def call(self, inputs: Any, mask: Masks = None, training: bool | None = None) -> Any:
        return super().call(as_floats(inputs), mask=mask, training=training)

    def compute_output_spec(
        self, inputs: Any, mask: Masks = None, training: bool | None = None
    ) -> Any:
        # Keras would give all outputs the compute type, and the function no mask.
        if self._output_shape is not None:
            return super().compute_output_spec(inputs)
        return keras.Operation.compute_output_spec(self, inputs, mask=mask, training=training)
