"""Feed-forward layers and convolutions."""

from typing import Any

import keras
from keras import initializers

from bert4keras.backend.activations import activation as find_activation
from bert4keras.backend.engines import recompute_grad
from bert4keras.backend.saving import registered
from bert4keras.backend.tensors import Tensor, sequence_masking
from bert4keras.layers.base import Mask, Recomputable, activation_config, as_list, built_dense
from bert4keras.layers.padding import MaskReader


@registered
class FeedForward(Recomputable):
    """Two Dense layers with an activation in between, or with several a gated linear unit.

    With activations [f, g, …] the hidden layer is f(x·W0) · g(x·W1) · … (Shazeer, 2020,
    https://arxiv.org/abs/2002.05202).

    Args:
        units: size of the hidden layer; the output has the size of the input.
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
