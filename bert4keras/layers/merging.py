"""Layers that merge tensors, join them and cut them, masks included."""

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
