"""Helpers shared by the layers: lists of masks, argument checks, Dense and Dropout."""

from collections.abc import Sequence
from typing import Any

import keras
from keras.layers import Layer

from bert4keras.backend.engines import dropout, recompute_by_default
from bert4keras.backend.saving import registered
from bert4keras.backend.tensors import Tensor, affine
from bert4keras.layers.adapters import Adaptable, low_rank

Mask = Tensor | None
Masks = Sequence[Mask] | Mask


def as_list(value: Any) -> list:
    """Return a list or tuple as a list, None as an empty list, anything else as a list of one."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def mask_list(masks: Masks, inputs: Sequence[Tensor]) -> list[Mask]:
    """Return one mask, or None, per input: Keras passes a single None if no input has a mask."""
    return [None] * len(inputs) if masks is None else as_list(masks)


def activation_config(function: Any) -> Any:
    """Serialize an activation for a config."""
    return keras.activations.serialize(function)


def require_positive(layer: Layer, **sizes: Any) -> None:
    """Raise a ValueError for sizes of a layer that are not positive integers."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(
                f"{type(layer).__name__} got {name}={size!r}: give an integer of at least 1"
            )


@registered
class Dropout(keras.layers.Dropout):
    """`keras.layers.Dropout` that drops the same elements again if called with the same `seed`."""

    def draw_seed(self) -> Tensor | None:
        """Draw a seed; None on PyTorch, which has a global generator, if the layer has no seed."""
        if keras.backend.backend() == "torch" and self.seed is None:
            return None
        return self.seed_generator.next()

    def call(
        self, inputs: Tensor, training: bool | None = None, seed: Tensor | None = None
    ) -> Tensor:
        if not training or self.rate == 0 or self.rate == 1 or self.noise_shape:
            return super().call(inputs, training)
        return dropout(inputs, self.rate, self.draw_seed() if seed is None else seed)


class Recomputable(Layer):
    """Base of the layers that can recompute their activations in the backward pass.

    Attributes:
        recompute: whether they do (see `recompute_grad`). The environment variable RECOMPUTE sets
            it when the layer is created. It applies to the running process and is not saved.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.recompute = recompute_by_default()


@registered
class Dense(Adaptable, keras.layers.Dense):
    """`keras.layers.Dense` that runs as one operation where the backend has one (see `affine`)."""

    matrix_name = "kernel"

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        if not self.lora_enabled:
            return affine(inputs, self.kernel, self.bias, self.activation)
        # Not by the sum of the matrices, whose gradient would be as large as that of a kernel.
        output = affine(inputs, self.matrix, self.bias) + low_rank(inputs, self)
        return output if self.activation is None else self.activation(output)


def built_dense(
    layer: Layer,
    name: str,
    units: int,
    input_shape: tuple,
    activation: Any = None,
    use_bias: bool | None = None,
    kernel_initializer: Any = None,
) -> Dense:
    """Create and build a Dense with the dtype policy of the layer it belongs to.

    Its initializer and its use of a bias are also those of the layer, unless given.
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
