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

    def n_visible(self, inputs: Tensor, mask: Mask) -> Any:
        """How many positions are visible, (batch, 1), or a single number without a mask."""
        if mask is None:
            sizes: Any = ops.shape(inputs)
            return ops.cast(sizes[self.axis], "float32")
        return ops.sum(ops.cast(mask, "float32"), axis=1, keepdims=True)

    def get_config(self) -> dict:
        return super().get_config() | {"data_format": self.data_format}


@registered
class GlobalAveragePooling1D(GlobalPooling1D):
    """Mean over the visible positions, computed in float32."""

    def call(self, inputs: Tensor, mask: Mask = None) -> Tensor:
        x = sequence_masking(ops.cast(inputs, "float32"), mask, 0, self.axis)
        total: Any = ops.sum(x, axis=self.axis)
        return ops.cast(total / ops.maximum(self.n_visible(inputs, mask), 1), self.compute_dtype)


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
        mean: Any = super().call(inputs, mask)
        return mean * ops.cast(ops.sqrt(self.n_visible(inputs, mask)), mean.dtype)


@registered
class PositionWeightedPooling1D(GlobalPooling1D):
    """Mean over the visible positions in which position i weighs i, counted from 1, in float32.

    Muennighoff, 2022, https://arxiv.org/abs/2202.08904.
    """

    def call(self, inputs: Tensor, mask: Mask = None) -> Tensor:
        visible = ops.ones_like(inputs[:, :, 0] if self.axis == 1 else inputs[:, 0], "bool")
        visible = visible if mask is None else ops.cast(mask, "bool")
        positions: Any = ops.cumsum(ops.cast(ops.ones_like(visible), "float32"), axis=1)
        weights = positions * ops.cast(visible, "float32")
        x: Any = sequence_masking(ops.cast(inputs, "float32"), mask, 0, self.axis)
        total: Any = ops.sum(x * ops.expand_dims(weights, 3 - self.axis), axis=self.axis)
        total /= ops.maximum(ops.sum(weights, axis=1, keepdims=True), 1)
        return ops.cast(total, self.compute_dtype)


@registered
class LastVisibleToken(GlobalPooling1D):
    """The vector of the last visible position: what language models pool to encode a text."""

    def call(self, inputs: Tensor, mask: Mask = None) -> Tensor:
        x: Any = inputs if self.axis == 1 else ops.swapaxes(inputs, 1, 2)
        if mask is None:
            return x[:, -1]
        positions: Any = ops.cumsum(ops.ones_like(mask, "int32"), axis=1)
        last: Any = ops.max(positions * ops.cast(mask, "int32"), axis=1, keepdims=True)
        vectors: Any = batch_gather(x, ops.maximum(last - 1, 0))
        return sequence_masking(vectors[:, 0], last > 0, 0, 1)
