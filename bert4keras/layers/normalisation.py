"""Layers that scale, shift and normalise."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import initializers, ops
from keras.layers import Layer

from bert4keras.backend.activations import activation as find_activation
from bert4keras.backend.saving import registered
from bert4keras.backend.tensors import Tensor, layer_norm, standardized
from bert4keras.layers.base import Mask, Masks, activation_config, as_list, built_dense


@registered
class ScaleOffset(Layer):
    """Compute x · gamma + beta, where gamma and beta may depend on a condition.

    With `conditional`, the inputs are [x, condition] and a bias-free Dense of the condition is
    added to gamma and to beta; both start at zero (https://kexue.fm/archives/7124).

    Args:
        scale: True for a trainable gamma, a number for a constant one, False for none.
        offset: likewise for beta.
        conditional: whether a condition (batch, [length,] features) comes with the inputs.
        hidden_units: if given, the condition first goes through a bias-free Dense of that size.
        hidden_activation: its activation.
        hidden_initializer: its initializer.
    """

    positionwise = True
    around_one = False

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
            initializer = "zeros" if self.around_one else "ones"
            self.gamma = self.add_weight(name="gamma", shape=(size,), initializer=initializer)
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
        """Apply gamma and beta to `x`, each plus a term of the condition if there is one."""
        if condition is not None:
            if self.hidden_units is not None:
                condition = self.hidden_dense(condition)
            missing = len(x.shape) - len(condition.shape)
            condition = ops.expand_dims(condition, [1 + i for i in range(missing)])
        for kind, name in ((self.scale, "gamma"), (self.offset, "beta")):
            if kind is False or kind is None:
                continue
            factor: Any = ops.cast(getattr(self, name) if kind is True else kind, x.dtype)
            if self.around_one and kind is True and name == "gamma":
                factor = factor + 1
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
    """Layer normalisation (Ba et al., 2016), optionally conditional.

    Statistics are computed in float32 under any dtype policy.

    Args:
        zero_mean: subtract the mean over the last axis.
        unit_variance: divide by the standard deviation over the last axis, or without `zero_mean`
            by the root mean square (RMSNorm; Zhang & Sennrich, 2019).
        epsilon: added to the variance; the Keras epsilon (1e-7) if not given.
        around_one: multiply by 1 + gamma, which starts at zero, as in Gemma.
        **kwargs: see `ScaleOffset`.
    """

    def __init__(
        self,
        zero_mean: bool = True,
        unit_variance: bool = True,
        epsilon: float | None = None,
        around_one: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.around_one = around_one
        self.zero_mean = zero_mean
        self.unit_variance = unit_variance
        self.epsilon = epsilon or keras.config.epsilon()

    def call(self, inputs: Tensor | Sequence[Tensor]) -> Tensor:
        x, *condition = inputs if self.conditional else [inputs]
        plain = self.zero_mean and self.unit_variance and self.scale is True and self.offset is True
        if plain and not condition and not self.around_one:
            return layer_norm(x, self.gamma, self.beta, self.epsilon)
        x = standardized(x, self.epsilon, self.zero_mean, self.unit_variance)
        return ops.cast(self.scaled(x, condition[0] if condition else None), self.compute_dtype)

    def get_config(self) -> dict:
        return super().get_config() | {
            "zero_mean": self.zero_mean,
            "unit_variance": self.unit_variance,
            "epsilon": self.epsilon,
            "around_one": self.around_one,
        }


@registered
class Saturation(Layer):
    """Clip values to ±64504, within the range of float16: infinity becomes NaN in the next norm.

    T5 was trained in bfloat16, and some of its hidden states are too large for float16.
    `transformers` clips them in the same way.
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
