"""Layers that merge, join and split tensors together with their masks."""

import functools
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import keras
from keras import ops
from keras.layers import Layer

from bert4keras.backend.saving import registered
from bert4keras.backend.tensors import Tensor, align
from bert4keras.layers.base import Mask, Masks, as_list, mask_list, require_positive


class MaskKeepingMerge(Layer):
    """Base of the layers that merge tensors element by element, as in Keras 2.

    A position that is masked in one of the inputs is masked in the output, and masked elements are
    merged like all others. The merging layers of Keras 3 drop every mask if a single input has
    none: the sum of token embeddings (masked) and features (not masked) would lose the padding.
    """

    def compute_mask(self, inputs: Sequence[Tensor], mask: Masks = None) -> Mask:
        masks = {id(m): m for m in mask_list(mask, inputs) if m is not None}
        return functools.reduce(ops.logical_and, masks.values()) if masks else None


class PlainMerge(MaskKeepingMerge):
    """Base of the merging layers that Keras 3 computes differently where an input is masked."""

    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        """Merge two tensors with the same number of axes."""
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
        masked_by: index of the input whose mask the sum has; by default all masks are combined.
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
    """Element-wise product of tensors; see `MaskKeepingMerge` for its mask."""

    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        return ops.multiply(x, y)


@registered
class Maximum(PlainMerge, keras.layers.Maximum):
    """Element-wise maximum of tensors; see `MaskKeepingMerge` for its mask."""

    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        return ops.maximum(x, y)


@registered
class Minimum(PlainMerge, keras.layers.Minimum):
    """Element-wise minimum of tensors; see `MaskKeepingMerge` for its mask."""

    def merge(self, x: Tensor, y: Tensor) -> Tensor:
        return ops.minimum(x, y)


@registered
class Concatenate(MaskKeepingMerge, keras.layers.Concatenate):
    """Join tensors along an axis, the last one by default.

    Joined along the features, a position is masked if it is masked in one of the inputs. Joined
    along the sequence or the batch, the masks are joined as well, and an input without a mask
    counts as visible everywhere.
    """

    def compute_mask(self, inputs: Sequence[Tensor], mask: Masks = None) -> Mask:
        return joined_masks(inputs, mask_list(mask, inputs), self.axis)


def joined_masks(inputs: Sequence[Tensor], masks: Sequence[Mask], axis: int) -> Mask:
    """Compute the mask of tensors that are joined along an axis, as described in `Concatenate`."""
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
    """Return the first of two tensors with the mask of the second: `CopyMask()([h * 2, h])`.

    Arithmetic and `keras.ops` on symbolic tensors drop masks; this layer restores one.
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
    """Join batches (batch_i, ...) along axis 0, masks included; reverses `BatchSplit`."""

    axis = 0


@registered
class BatchSplit(Layer):
    """Split batches into parts along axis 0, masks included.

    The output is a flat list: all parts of the first input, then all of the second, …

    Args:
        parts: the number of parts, each of ceil(batch / parts) examples except the last ones, which
            get what is left; or a list of integers to which the sizes of the parts are
            proportional: part i ends before floor(batch · sum(parts[: i + 1]) / sum(parts)).
    """

    def __init__(self, parts: int | Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.parts = list(parts) if isinstance(parts, list | tuple) else parts
        for part in as_list(self.parts) or [None]:
            require_positive(self, parts=part)
        self.n_parts = parts if isinstance(parts, int) else len(parts)

    def split(self, x: Tensor) -> list[Tensor]:
        """Split one tensor; a symbolic batch of unknown size gives parts of unknown size."""
        batch = ops.shape(x)[0]
        if batch is None:
            return [keras.KerasTensor(x.shape, dtype=x.dtype) for _ in range(self.n_parts)]
        if isinstance(self.parts, int):
            size = -(-batch // self.parts)
            ends = [i * size for i in range(self.parts + 1)]
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
                # The mask of a symbolic tensor needs a history: it has to come out of a layer.
                parts += BatchSplit(self.parts)(m)
            else:
                parts += [None] * self.n_parts if m is None else self.split(m)
        return parts

    def compute_output_spec(self, inputs: Any) -> list[keras.KerasTensor]:
        return self.call(inputs)

    def get_config(self) -> dict:
        return super().get_config() | {"parts": self.parts}
