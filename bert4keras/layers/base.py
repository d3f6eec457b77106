"""What layers are made with: lists of masks, checks of arguments, Dense and Dropout."""

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
class Dense(Adaptable, keras.layers.Dense):
    """`keras.layers.Dense` as one operation where the backend has it (see `affine`)."""

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
