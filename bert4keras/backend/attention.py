"""Attention: scores, weights and weighted values, with masks and biases."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from bert4keras.backend.tensors import Tensor, align, is_bool, lowest, sequence_masking, softmax


def attention_normalize(
    a: Tensor,
    mask: Tensor | None = None,
    axis: int = -1,
    method: str = "softmax",
    bias: Tensor | None = None,
) -> Tensor:
    """Turn attention scores into attention weights.

    A query for which no key is visible gets zeros, not NaN.

    Args:
        a: scores, (batch, [heads,] query length, key length).
        mask: (batch, key length), true where visible.
        axis: the axis of the keys.
        method: 'softmax'; 'softmax_plus', which multiplies the scores by log n / log 512 for n
            visible keys, n at least 16 (https://kexue.fm/archives/9019); 'squared_relu', relu²
            divided by the number of visible keys (https://kexue.fm/archives/8934); anything else
            returns the masked scores.
        bias: added to the scores, or if boolean a further mask, as in `sequence_masking`.
    """
    if method not in ("softmax", "softmax_plus", "squared_relu"):
        return sequence_masking(a, mask, "-inf", axis, bias)
    visible, bias = attention_visibility(mask, bias, a.dtype, axis, len(a.shape))
    if bias is not None:
        a = a + bias
    if visible is None:
        n_visible = ops.cast(ops.shape(a)[axis], a.dtype)
    else:
        n_visible = ops.sum(ops.cast(visible, a.dtype), axis=axis, keepdims=True)
    if method == "softmax_plus":
        # Before the masking: XLA computes this twice, and the results differ for the lowest number.
        a = a * ops.cast(ops.log(ops.maximum(n_visible, 16)) / np.log(512), a.dtype)
    if visible is not None:
        # The lowest number rather than minus infinity: its exponential is also 0, and a query
        # without visible keys has finite scores and gradients.
        a = ops.where(visible, a, ops.cast(lowest(a.dtype), a.dtype))
    if method == "squared_relu":
        return ops.square(ops.relu(a)) / ops.maximum(n_visible, 1)
    weights = softmax(a, axis)
    return weights if visible is None else weights * ops.cast(n_visible > 0, a.dtype)


def attention_visibility(
    mask: Tensor | None, bias: Tensor | None, dtype: Any, axis: int = -1, ndim: int = 4
) -> tuple[Tensor | None, Tensor | None]:
    """Split a mask and a bias into a boolean part, the visible keys, and a float part.

    Args:
        mask: (batch, key length), true where visible.
        bias: boolean (a further mask) or float, where minus infinity hides a key.
        dtype: type of the scores.
        axis: the axis of the keys.
        ndim: number of axes of the scores.

    Returns:
        What is visible (None for everything) and the float bias in `dtype` (None for none), both
        broadcastable to the scores.
    """
    visible = None if mask is None else align(ops.cast(mask, "bool"), [0, axis % ndim], ndim)
    if bias is None:
        return visible, None
    floats = None if is_bool(bias) else ops.cast(bias, dtype)
    allowed = bias if floats is None else floats > lowest(dtype)
    return allowed if visible is None else ops.logical_and(visible, allowed), floats


Keys = Tensor | Sequence[Tensor]
"""(batch, key length, key heads, size), or consecutive parts as returned by `laid_out`."""


def attention_scores(query: Tensor, key: Keys) -> Tensor:
    """Multiply queries by keys.

    Args:
        query: (batch, query length, heads, size).
        key: (batch, key length, key heads, size), where `key heads` divides `heads` and each key
            head serves the same number of neighbouring query heads (grouped-query attention;
            Ainslie et al., 2023, https://arxiv.org/abs/2305.13245); or consecutive parts as
            returned by `laid_out`.

    Returns:
        (batch, heads, query length, key length).
    """
    query = ops.transpose(query, (0, 2, 1, 3))
    if not isinstance(key, list):
        return product(query, ops.transpose(key, (0, 2, 3, 1)))
    scores = [product(query, part, shared_rows(query, part)) for part in key]
    return ops.concatenate(scores, axis=-1)


def weighted_values(weights: Tensor, value: Keys) -> Tensor:
    """Sum values with attention weights.

    Args:
        weights: (batch, heads, query length, key length).
        value: (batch, key length, value heads, size), or consecutive parts, as for
            `attention_scores`.

    Returns:
        (batch, query length, heads, size).
    """
    if isinstance(value, list):
        ends = np.cumsum([part.shape[2] for part in value])
        outputs = [
            product(weights[..., end - part.shape[2] : end], part, shared_rows(weights, part))
            for end, part in zip(ends.tolist(), value, strict=True)
        ]
        output = functools.reduce(ops.add, outputs)  # `sum` would begin with 0 + …
    else:
        output = product(weights, ops.transpose(value, (0, 2, 1, 3)))
    return ops.transpose(output, (0, 2, 1, 3))


def laid_out(key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Transpose keys and values for a KV cache, to the layout in which few queries read them.

    Args:
        key: (batch, key length, key heads, size).
        value: (batch, key length, key heads, value size).

    Returns:
        (batch, key heads, size, key length) and (batch, key heads, key length, value size). Each
        sequence may serve several neighbouring sequences of queries, such as the beams of a prompt.
    """
    return ops.transpose(key, (0, 2, 3, 1)), ops.transpose(value, (0, 2, 1, 3))


def shared_rows(x: Tensor, part: Tensor) -> int:
    """Count the sequences of `x` that share one of `part`; both batch sizes are known."""
    return x.shape[0] // part.shape[0]


def product(x: Tensor, y: Tensor, rows: int = 1) -> Tensor:
    """Multiply matrices where neighbouring heads, and sequences, share the second factor.

    Args:
        x: (batch · rows, heads, length, n).
        y: (batch, shared heads, n, m).
        rows: number of sequences of x that share one of y.

    Returns:
        (batch · rows, heads, length, m).
    """
    batch, heads, length, n = ops.shape(x)
    shared_heads, m = y.shape[1], ops.shape(y)[3]
    if rows > 1:
        x = ops.transpose(ops.reshape(x, (-1, rows, heads, length, n)), (0, 2, 1, 3, 4))
    if rows > 1 or heads != shared_heads:
        x = ops.reshape(x, (-1, shared_heads, heads // shared_heads * rows * length, n))
    output = ops.matmul(x, y)
    if rows > 1:
        output = ops.reshape(output, (-1, heads, rows, length, m))
        output = ops.transpose(output, (0, 2, 1, 3, 4))
    if rows > 1 or heads != shared_heads:
        output = ops.reshape(output, (batch, heads, length, m))
    return output


def dot_product_attention(
    query: Tensor,
    key: Keys,
    value: Keys,
    scale: float,
    visible: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Softmax attention that keeps neither scores nor weights: softmax(q·kᵀ · scale + bias)·v.

    A query for which no key is visible gets zeros.

    Args:
        query: (batch, query length, heads, size).
        key: (batch, key length, key heads, size), or parts, as for `attention_scores`.
        value: (batch, key length, key heads, value size), or parts.
        scale: factor of the scores.
        visible: boolean, broadcastable to (batch, heads, query length, key length).
        bias: float, broadcastable to the same shape; added to the scaled scores.

    Returns:
        (batch, query length, heads, value size).
    """
    if visible is not None:
        floats = ops.zeros((), query.dtype) if bias is None else bias
        bias = ops.where(visible, floats, ops.cast(lowest(query.dtype), query.dtype))
    kernel = plain_attention if isinstance(key, list) else attention_kernel(query)
    output = kernel(query, key, value, scale, bias)
    if visible is None:
        return output
    any_visible = ops.any(visible, axis=-1, keepdims=True)
    return output * ops.cast(ops.transpose(any_visible, (0, 2, 1, 3)), output.dtype)


def attention_kernel(query: Tensor) -> Callable:
    """Choose what computes attention, by the backend, the device and the type of the queries.

    PyTorch chooses its kernel by itself. On JAX, cuDNN has one for GPUs and half precision, which
    never writes the scores to memory. On TPUs `keras.ops.dot_product_attention` applies the mask of
    the first sequence to all of a batch and drops biases, and TensorFlow has no such kernel: the
    two products of matrices remain, which XLA fuses with the softmax between them.
    """
    match keras.backend.backend():
        case "torch":
            return torch_attention
        case "jax" if keras.backend.standardize_dtype(query.dtype) in ("bfloat16", "float16"):
            import jax

            return jax_attention if jax.default_backend() == "gpu" else plain_attention
    return plain_attention


def plain_attention(
    query: Tensor, key: Keys, value: Keys, scale: float, bias: Tensor | None
) -> Tensor:
    """`dot_product_attention` as two matrix products, the fastest way on TensorFlow and XLA.

    On a CPU it takes 0.7 to 0.85 of the time of `keras.ops.dot_product_attention`.
    """
    scores = attention_scores(query * ops.cast(scale, query.dtype), key)
    scores = scores if bias is None else scores + bias
    return weighted_values(softmax(scores), value)


def jax_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float, bias: Tensor | None
) -> Tensor:
    """`dot_product_attention` by the kernel of cuDNN, where it takes these sizes, or by XLA."""
    if bias is not None:  # of which cuDNN takes no axis of queries or keys of size 1
        lengths = (query.shape[1], key.shape[1])
        bias = ops.broadcast_to(bias, (*bias.shape[:2], *lengths))
    return ops.dot_product_attention(query, key, value, bias=bias, scale=scale)


def torch_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float, bias: Tensor | None
) -> Tensor:
    """`dot_product_attention` by the kernel of PyTorch, whose heads come before positions."""
    import torch

    output = torch.nn.functional.scaled_dot_product_attention(
        *(x.transpose(1, 2) for x in (query, key, value)),
        attn_mask=bias,
        scale=scale,
        enable_gqa=query.shape[2] != key.shape[2],
    )
    return output.transpose(1, 2)
