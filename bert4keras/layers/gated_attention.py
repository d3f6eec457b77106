"""Attention and feed-forward in one layer."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import initializers

from bert4keras.backend.activations import activation as find_activation
from bert4keras.backend.attention import attention_normalize, attention_scores, weighted_values
from bert4keras.backend.engines import recompute_grad
from bert4keras.backend.positions import apply_rotary_position_embeddings
from bert4keras.backend.saving import registered
from bert4keras.backend.tensors import Tensor
from bert4keras.layers.attention import MultiHeadAttention
from bert4keras.layers.base import (
    Dropout,
    Mask,
    Masks,
    Recomputable,
    activation_config,
    as_list,
    built_dense,
    mask_list,
    require_positive,
)
from bert4keras.layers.normalisation import ScaleOffset
from bert4keras.layers.padding import MaskReader


@registered
class GatedAttentionUnit(MaskReader, Recomputable):
    """Single-head attention and gated feed-forward in one (https://arxiv.org/abs/2202.10447).

    The gate U, the values V and a shared Z are activated Dense layers of the input x. The output is
    Dense(U · attention(query, key) V), where query and key are Z with a scale and an offset of
    their own each. Inputs are x (batch, length, size), alone or as the first of a list. The call
    takes `a_bias=True` and `p_bias='rotary'` like `MultiHeadAttention`; their tensors follow x.

    With `self_attention=False` the inputs are [query, key, value, *biases]: U and the query come
    from the first, the key from the second and V from the third.

    The mask of x (or of the value) hides keys; the mask of the output is that of the first input.
    The call takes a KV cache, `cache=`, like `MultiHeadAttention`.

    Args:
        units: size of U and V.
        key_size: size of query and key.
        activation: activation of the Dense layers before the attention.
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
        """Create and build the layer that turns Z into queries or keys."""
        layer = ScaleOffset(offset=self.use_bias, dtype=self.dtype_policy, name=name)
        layer.build((None, None, self.key_size))
        return layer

    def split_inputs(
        self, inputs: Tensor | Sequence[Tensor], a_bias: bool | None, p_bias: str | None
    ) -> tuple[list[Tensor], Tensor | None, Tensor | None]:
        """Split the inputs into sequences, attention bias and position bias."""
        inputs = as_list(inputs)
        if p_bias not in (None, "rotary"):
            raise ValueError(f"p_bias of {self.name} is None or 'rotary', not {p_bias!r}")
        n_biases = bool(a_bias) + bool(p_bias)
        self.check_count(len(inputs) == self.n_sequences + n_biases, len(inputs))
        sequences, biases = inputs[: self.n_sequences], inputs[self.n_sequences :]
        attention_bias = biases.pop(0) if a_bias else None
        return sequences, attention_bias, biases.pop(0) if p_bias else None

    def check_count(self, valid: bool, n_inputs: int) -> None:
        """Raise a ValueError if the number of inputs is not valid."""
        if not valid:
            sequences = "x" if self.self_attention else "query, key, value"
            raise ValueError(
                f"{self.name} got {n_inputs} inputs: it takes [{sequences}], then the attention "
                "bias if a_bias=True, then the position bias if p_bias='rotary'"
            )

    def projected(self, sequences: list[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compute the gate U, the query, the key and the value."""
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
        sequences, attention_bias, sinusoidal = self.split_inputs(inputs, a_bias, p_bias)
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
        """Return the extra arguments of a call whose inputs are a part of a sequence."""
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
        sequences, _, _ = self.split_inputs(inputs, a_bias, p_bias)
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
