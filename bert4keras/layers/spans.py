"""Global pointers, which score spans by their start and end."""

from typing import Any

import keras
from keras import initializers, ops

from bert4keras.backend.positions import apply_rotary_position_embeddings, sinusoidal_embeddings
from bert4keras.backend.saving import registered
from bert4keras.backend.tensors import Tensor, sequence_masking
from bert4keras.layers.base import Mask, built_dense, require_positive
from bert4keras.layers.padding import MaskReader


@registered
class GlobalPointer(MaskReader):
    """Score each pair of start and end for each type of span (https://kexue.fm/archives/8373).

    Input (batch, length, features), output (batch, heads, length, length): [b, h, i, j] scores the
    span of type h from position i to position j, both included. Scores are minus infinity where one
    of the positions is masked or the span ends before it starts. Spans with a score above 0 are
    predicted. Train with a multilabel softmax over all spans of a type, one of these losses of
    `training`: `SparseMultilabelCrossentropy(mask_zero=True, class_axes=2)`, whose labels (batch,
    heads, n, 2) list the spans, or `MultilabelCrossentropy(class_axes=2)`, whose labels have the
    shape of the scores.

    Args:
        heads: number of span types.
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

        The scores of a single head are shared by all. The bias is (batch, heads, length, length) or
        None.
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
        # Scaled before the product, so that it does not overflow float16.
        scores = ops.einsum("bmhd,bnhd->bhmn", query / self.head_size**0.5, key)
        scores = scores if bias is None else scores + bias
        not_backwards = (positions[:, None] <= positions)[None, None] if self.tril_mask else None
        return sequence_masking(scores, mask, "-inf", [2, 3], bias=not_backwards)

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
    """`GlobalPointer` with few weights per type of span (https://kexue.fm/archives/8877).

    All types share one matrix of scores, which detects spans; each type adds a score of the start
    and one of the end, which classify them. The arguments are those of `GlobalPointer`.
    """

    def build(self, input_shape: Any) -> None:
        shape = tuple(input_shape)
        size = 2 * self.head_size
        self.p_dense = built_dense(self, "p_dense", size, shape)
        self.q_dense = built_dense(self, "q_dense", 2 * self.heads, (*shape[:-1], size))

    def projected(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        pairs = self.p_dense(inputs)
        by_type = ops.transpose(self.q_dense(pairs), (0, 2, 1)) / 2
        bias = by_type[:, ::2, None, :] + by_type[:, 1::2, :, None]
        return pairs[:, :, None, ::2], pairs[:, :, None, 1::2], bias
