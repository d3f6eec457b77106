"""Layers that select or pool the vectors of a sequence."""

from typing import Any

import keras
from keras import ops
from keras.layers import Layer

from bert4keras.backend.saving import registered
from bert4keras.backend.tensors import Tensor, batch_gather, sequence_masking
from bert4keras.layers.base import Mask, Masks
from bert4keras.layers.padding import MaskReader


@registered
class FirstToken(Layer):
    """Select the vector of position 0, which BERT pools: (batch, length, size) → (batch, size)."""

    def call(self, inputs: Tensor) -> Tensor:
        return inputs[:, 0]

    def compute_mask(self, inputs: Tensor, mask: Mask = None) -> None:
        return None


@registered
class GatherPositions(Layer):
    """Gather vectors at given positions: [(batch, length, size), (batch, n)] → (batch, n, size).

    The output has no mask, since positions that are asked for are not padding.
    """

    def call(self, inputs: list[Tensor]) -> Tensor:
        x, positions = inputs
        return batch_gather(x, positions)

    def compute_mask(self, inputs: list[Tensor], mask: Masks = None) -> None:
        return None


class GlobalPooling1D(MaskReader):
    """Base of the layers that pool sequences to vectors (batch, features), padding left out.

    A sequence that consists of padding alone gives zeros.

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
    """Mean over the visible positions, computed in float32."""

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


@registered
class GlobalSquareRootPooling1D(GlobalAveragePooling1D):
    """Sum over the visible positions, divided by the square root of their number."""

    def call(self, inputs: Tensor, mask: Mask = None) -> Tensor:
        mean = super().call(inputs, mask)
        if mask is None:
            return mean * ops.sqrt(ops.cast(ops.shape(inputs)[self.axis], mean.dtype))
        n_visible = ops.sum(ops.cast(mask, "float32"), axis=1, keepdims=True)
        return mean * ops.cast(ops.sqrt(n_visible), mean.dtype)


@registered
class PositionWeightedPooling1D(GlobalPooling1D):
    """Mean over the visible positions in which position i weighs i, counted from 1, in float32.

    Muennighoff, 2022, https://arxiv.org/abs/2202.08904.
    """

    def call(self, inputs: Tensor, mask: Mask = None) -> Tensor:
        x = sequence_masking(ops.cast(inputs, "float32"), mask, 0, self.axis)
        positions = ops.arange(1, ops.shape(inputs)[self.axis] + 1, dtype="float32")
        weights = positions[None] if mask is None else positions * ops.cast(mask, "float32")
        total = ops.maximum(ops.sum(weights, axis=1, keepdims=True), 1)
        mean = ops.sum(x * ops.expand_dims(weights, 3 - self.axis), axis=self.axis) / total
        return ops.cast(mean, self.compute_dtype)


@registered
class LastVisibleToken(GlobalPooling1D):
    """The vector of the last visible position: what language models pool to encode a text."""

    def call(self, inputs: Tensor, mask: Mask = None) -> Tensor:
        x = inputs if self.axis == 1 else ops.swapaxes(inputs, 1, 2)
        if mask is None:
            return x[:, -1]
        positions = ops.arange(ops.shape(x)[1], dtype="int32")
        last = ops.max(positions * ops.cast(mask, "int32"), axis=1, keepdims=True)
        return sequence_masking(
            batch_gather(x, last)[:, 0], ops.any(mask, axis=1, keepdims=True), 0, 1
        )
