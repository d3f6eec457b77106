"""What layers compute with: masking, attention, rotary positions, activations, losses.

`keras`, `ops` and `K` are handed out here. Every function takes and returns tensors of the running
backend (or symbolic Keras tensors) and is written in `keras.ops`.

    shapes         align flatten reshape batch_gather divisible_temporal_padding pool1d
    types          as_floats is_int is_bool
    masking        sequence_masking attention_normalize softmax attention_visibility
    dense          affine layer_norm standardized
    attention      attention_scores weighted_values laid_out product dot_product_attention
    positions      rotary_frequencies sinusoidal_embeddings Sinusoidal initializer
                   apply_rotary_position_embeddings
    activations    gelu_erf gelu_tanh swish leaky_relu set_gelu activation
    losses         multilabel_categorical_crossentropy sparse_multilabel_categorical_crossentropy
                   known_values check_labels
    compilation    compiled
    recomputation  recompute_grad recompute_by_default dropout
    other          fold compiled_without_weights search_layer root_mean_square piecewise_linear
"""

import functools
import os
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import keras
import numpy as np
from keras import ops

from bert4keras import keras_private
from bert4keras.legacy import K, pooling

__all__ = ["K", "keras", "ops"]

Tensor = Any
"""A tensor of the running backend, a NumPy array or a symbolic Keras tensor."""


def registered(thing: type | Callable) -> type | Callable:
    """Register a layer, initializer or function for saving, under the package name `bert4keras`."""
    return keras.saving.register_keras_serializable(package="bert4keras")(thing)


@keras.saving.register_keras_serializable("bert4keras", name="Model")
class _Model:
    """Stands for `bert4keras.models.Model` in saved models until that is imported.

    So Keras finds it, and all layers, in a process that has imported some of this library.
    """

    def get_config(self) -> dict:
        """Return nothing: only what is registered has to have this method."""
        return {}

    @classmethod
    def from_config(cls, config: dict, custom_objects: Any = None) -> keras.Model:
        """Build the model."""
        from bert4keras import models

        return models.Model.from_config(config, custom_objects)


# ------------------------------------------------------------------------------------------ shapes


def align(tensor: Tensor, axes: Sequence[int], ndim: int | None = None) -> Tensor:
    """Insert axes of size 1 so that axis `i` of `tensor` becomes axis `axes[i]` of the result.

    Args:
        tensor: a tensor with `len(axes)` axes.
        axes: where its axes go, in ascending order; negative ones count from `ndim`.
        ndim: number of axes of the result, `max(axes) + 1` if not given.

    Raises:
        ValueError: `axes` does not fit the tensor, or is negative without `ndim`.
    """
    rank = len(tensor.shape)
    if len(axes) != rank or (ndim is None and min(axes) < 0):
        raise ValueError(
            f"align() got axes={list(axes)} and ndim={ndim} for a tensor with {rank} axes: "
            "give one target per axis, and `ndim` if any target is negative"
        )
    ndim = ndim or max(axes) + 1
    targets = [axis % ndim for axis in axes]
    if targets != sorted(set(targets)):
        raise ValueError(f"align() keeps the order of axes, but {list(axes)} of {ndim} changes it")
    new_axes = [axis for axis in range(ndim) if axis not in targets]
    return ops.expand_dims(tensor, new_axes) if new_axes else tensor


def flatten(tensor: Tensor, start: int | None = None, end: int | None = None) -> Tensor:
    """Merge the axes `start:end` (a slice, all by default) into one."""
    shape = list(ops.shape(tensor))
    start, end, _ = slice(start, end).indices(len(shape))
    return ops.reshape(tensor, [*shape[:start], -1, *shape[end:]])


def reshape(tensor: Tensor, *args: Any) -> Tensor:
    """Replace single axes by several: `reshape(x, [2, -1], 1, [4, 8], 3)` splits axes 1 and 3.

    Args:
        tensor: any tensor.
        *args: alternately a shape and the axis that it replaces, or a single shape for the whole
            tensor. One size may be -1 in each shape.
    """
    if len(args) == 1:
        return ops.reshape(tensor, args[0])
    shape = list(ops.shape(tensor))
    pieces = [[size] for size in shape]
    for new_sizes, axis in zip(args[::2], args[1::2], strict=True):
        known = int(np.prod([size for size in new_sizes if size != -1]))
        size = shape[axis]
        pieces[axis] = [
            new if new != -1 else (-1 if size is None else size // known) for new in new_sizes
        ]
    return ops.reshape(tensor, [size for piece in pieces for size in piece])


def batch_gather(params: Tensor, indices: Tensor) -> Tensor:
    """Pick from the axis after the shared batch axes.

    Args:
        params: (*batch, length, ...).
        indices: (*batch, n), integers (floats are cast). With `batch` empty: (n,).

    Returns:
        (*batch, n, ...).
    """
    indices = ops.cast(indices, "int32")
    axis = len(indices.shape) - 1
    if axis == 0:
        return ops.take(params, indices, axis=0)
    trailing = len(params.shape) - len(indices.shape)
    indices = ops.expand_dims(indices, [axis + 1 + i for i in range(trailing)])
    return ops.take_along_axis(params, indices, axis=axis)


def divisible_temporal_padding(x: Tensor, n: int) -> Tensor:
    """Append zeros to axis 1 of `x` (batch, length, ...) until its length is a multiple of `n`."""
    missing = -ops.shape(x)[1] % n
    return ops.pad(x, [[0, 0], [0, missing], *[[0, 0]] * (len(x.shape) - 2)])


def pool1d(
    x: Tensor,
    pool_size: int,
    strides: int = 1,
    padding: str = "valid",
    data_format: str | None = None,
    pool_mode: str = "max",
) -> Tensor:
    """Pool over axis 1 of `x` (batch, length, features) by `pool_mode`, 'max' or 'avg'."""
    return pooling(pool_mode)(x, pool_size, strides, padding, data_format)


def as_floats(tensors: Any) -> Any:
    """Convert the integers and booleans in a nest of tensors to the default float type.

    That is what all inputs and targets of a Keras 2 model were.
    """

    def as_float(x: Tensor) -> Tensor:
        counts = x is not None and (is_bool(x) or is_int(x))
        return ops.cast(x, keras.config.floatx()) if counts else x

    return keras.tree.map_structure(as_float, tensors)


# ----------------------------------------------------------------------------------------- masking


def is_int(x: Tensor) -> bool:
    """Tell whether a tensor or array holds integers."""
    return keras.backend.is_int_dtype(x.dtype)


def is_bool(x: Tensor) -> bool:
    """Tell whether a tensor or array holds booleans."""
    return keras.backend.standardize_dtype(x.dtype) == "bool"


def sequence_masking(
    x: Tensor,
    mask: Tensor | None = None,
    value: float | str = 0,
    axis: int | Sequence[int] | None = None,
    bias: Tensor | None = None,
    return_mask: bool = False,
) -> Tensor | tuple[Tensor, Tensor | None]:
    """Put `value` where positions are masked out.

    Args:
        x: any tensor whose axis 0 is the batch.
        mask: (batch, length), true or non-zero where visible.
        value: what masked positions become; 'inf' and '-inf' are understood.
        axis: the axis, or axes, of `x` that `mask` runs along; 1 by default. With several axes an
            element is visible if it is so along each of them.
        bias: broadcastable to `x`. A boolean one is a further mask, a float one is added to `x`
            before masking.
        return_mask: return the combined boolean mask as well (None if there is none).
    """
    ndim = len(x.shape)
    visible = None
    if mask is not None:
        mask = ops.cast(mask, "bool")
        axes = [1] if axis is None else [axis] if isinstance(axis, int) else axis
        for masked_axis in axes:
            along = align(mask, [0, masked_axis % ndim], ndim)
            visible = along if visible is None else ops.logical_and(visible, along)
    if bias is not None and is_bool(bias):
        visible = bias if visible is None else ops.logical_and(visible, bias)
    elif bias is not None:
        x = x + ops.cast(bias, x.dtype)
    if visible is not None:
        x = ops.where(visible, x, ops.cast(float(value), x.dtype))
    return (x, visible) if return_mask else x


def attention_normalize(
    a: Tensor,
    mask: Tensor | None = None,
    axis: int = -1,
    method: str = "softmax",
    bias: Tensor | None = None,
) -> Tensor:
    """Turn attention scores into attention weights.

    A row in which nothing is visible gives zeros, not NaN.

    Args:
        a: scores, (batch, [heads,] query length, key length).
        mask: (batch, key length), true where visible.
        axis: the axis of the keys.
        method: 'softmax'; 'softmax_plus', whose scores are multiplied by log n / log 512 for n
            visible keys, at least 16 (https://kexue.fm/archives/9019); 'squared_relu', relu²
            divided by the number of visible keys (https://kexue.fm/archives/8934); anything else
            returns the masked scores.
        bias: see `sequence_masking`.
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
        # Before the masking: XLA computes it twice, and of the lowest number two results differ.
        a = a * ops.cast(ops.log(ops.maximum(n_visible, 16)) / np.log(512), a.dtype)
    if visible is not None:
        # The lowest number rather than minus infinity: its exponential is 0 all the same, and a row
        # without visible keys stays finite, in its gradient too.
        a = ops.where(visible, a, ops.cast(lowest(a.dtype), a.dtype))
    if method == "squared_relu":
        return ops.square(ops.relu(a)) / ops.maximum(n_visible, 1)
    weights = softmax(a, axis)
    return weights if visible is None else weights * ops.cast(n_visible > 0, a.dtype)


def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """`keras.ops.softmax`, which warns where a single key is nothing to choose from."""
    return x * 0 + 1 if x.shape[axis] == 1 else ops.softmax(x, axis=axis)


def attention_visibility(
    mask: Tensor | None, bias: Tensor | None, dtype: Any, axis: int = -1, ndim: int = 4
) -> tuple[Tensor | None, Tensor | None]:
    """Sort what is known about visible keys into a boolean and a float part.

    Args:
        mask: (batch, key length), true where visible.
        bias: boolean (a further mask) or float; minus infinity hides a key like a boolean does.
        dtype: type of the scores.
        axis: the axis of the keys.
        ndim: number of axes of the scores.

    Returns:
        What is visible (None: everything) and the float bias (None: there is none) in `dtype`, both
        broadcastable to the scores.
    """
    visible = None if mask is None else align(ops.cast(mask, "bool"), [0, axis % ndim], ndim)
    if bias is None:
        return visible, None
    floats = None if is_bool(bias) else ops.cast(bias, dtype)
    allowed = bias if floats is None else floats > lowest(dtype)
    return allowed if visible is None else ops.logical_and(visible, allowed), floats


def lowest(dtype: Any) -> float:
    """A number of a float type that vanishes in a softmax and is still finite."""
    name = keras.backend.standardize_dtype(dtype)
    return float(np.finfo("float16").min) / 2 if name == "float16" else -1e38


# ------------------------------------------------------------------------------------------- dense


def affine(
    x: Tensor, kernel: Tensor, bias: Tensor | None = None, activation: Callable | None = None
) -> Tensor:
    """activation(x · kernel + bias), as one operation where the backend has it.

    PyTorch adds the bias within the product. TensorFlow's graphs join all three, if nothing stands
    between them and they are matrices: in bfloat16 on a CPU, a model of BERT's size takes 0.85 of
    the time.

    Args:
        x: (..., size).
        kernel: (size, units).
        bias: (units,).
        activation: a function of single numbers or of the last axis.

    Returns:
        (..., units).
    """
    if keras.backend.backend() == "torch":
        import torch

        kernel = ops.convert_to_tensor(kernel)
        bias = None if bias is None else ops.convert_to_tensor(bias)
        y = torch.nn.functional.linear(ops.cast(x, kernel.dtype), kernel.T, bias)
        return y if activation is None else activation(y)
    size, units = kernel.shape
    flat = keras.backend.backend() == "tensorflow" and len(x.shape) > 2
    y = ops.matmul(ops.reshape(x, (-1, size)) if flat else x, kernel)
    y = y if bias is None else ops.add(y, bias)
    y = y if activation is None else activation(y)
    return ops.reshape(y, (*ops.shape(x)[:-1], units)) if flat else y


def layer_norm(x: Tensor, gamma: Tensor, beta: Tensor, epsilon: float) -> Tensor:
    """Layer normalisation over the last axis (Ba et al., 2016), in float32 inside.

    Args:
        x: (..., size).
        gamma: (size,), what the standardised values are multiplied by.
        beta: (size,), what is added after that.
        epsilon: what is added to the variance.
    """
    if keras.backend.backend() == "torch":
        import torch

        gamma, beta = (ops.cast(w, x.dtype) for w in (gamma, beta))
        return torch.nn.functional.layer_norm(x, x.shape[-1:], gamma, beta, epsilon)
    y = standardized(x, epsilon)
    return ops.cast(y * ops.cast(gamma, y.dtype) + ops.cast(beta, y.dtype), x.dtype)


def standardized(
    x: Tensor, epsilon: float, zero_mean: bool = True, unit_variance: bool = True
) -> Tensor:
    """What `layer_norm` scales and moves, in float32; see `layers.LayerNormalization`."""
    x = ops.cast(x, "float32")
    if zero_mean:
        x = x - ops.mean(x, axis=-1, keepdims=True)
    if unit_variance:
        x = x * ops.rsqrt(ops.mean(ops.square(x), axis=-1, keepdims=True) + epsilon)
    return x


# --------------------------------------------------------------------------------------- attention


Keys = Tensor | Sequence[Tensor]
"""(batch, key length, key heads, size), or parts that follow each other, see `laid_out`."""


def attention_scores(query: Tensor, key: Keys) -> Tensor:
    """Products of queries and keys.

    Args:
        query: (batch, query length, heads, size).
        key: (batch, key length, key heads, size), where `key heads` divides `heads` and each of
            them serves as many neighbouring query heads (Ainslie et al., 2023,
            https://arxiv.org/abs/2305.13245); or parts as `laid_out` gives them.

    Returns:
        (batch, heads, query length, key length).
    """
    query = ops.transpose(query, (0, 2, 1, 3))
    if not isinstance(key, list):
        return product(query, ops.transpose(key, (0, 2, 3, 1)))
    scores = [product(query, part, shared_rows(query, part)) for part in key]
    return ops.concatenate(scores, axis=-1)


def weighted_values(weights: Tensor, value: Keys) -> Tensor:
    """Sums of values by attention weights.

    Args:
        weights: (batch, heads, query length, key length).
        value: (batch, key length, value heads, size), or parts; see `attention_scores`.

    Returns:
        (batch, query length, heads, size).
    """
    if isinstance(value, list):
        ends = np.cumsum([part.shape[2] for part in value])
        output = sum(
            product(weights[..., end - part.shape[2] : end], part, shared_rows(weights, part))
            for end, part in zip(ends.tolist(), value, strict=True)
        )
    else:
        output = product(weights, ops.transpose(value, (0, 2, 1, 3)))
    return ops.transpose(output, (0, 2, 1, 3))


def laid_out(key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values to be kept, in the layout that products with a few queries read.

    Args:
        key: (batch, key length, key heads, size).
        value: (batch, key length, key heads, value size).

    Returns:
        (batch, key heads, size, key length) and (batch, key heads, key length, value size). Each
        row may serve several neighbouring rows of queries, such as the beams of one prompt.
    """
    return ops.transpose(key, (0, 2, 3, 1)), ops.transpose(value, (0, 2, 1, 3))


def shared_rows(x: Tensor, part: Tensor) -> int:
    """How many rows of `x` share a row of a part; both sizes are known."""
    return x.shape[0] // part.shape[0]


def product(x: Tensor, y: Tensor, rows: int = 1) -> Tensor:
    """Matrix products of which neighbouring heads, and rows, share the second factor.

    Args:
        x: (batch · rows, heads, length, n).
        y: (batch, shared heads, n, m).
        rows: how many rows of x share one of y.

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

    A query for which nothing is visible gets zeros.

    Args:
        query: (batch, query length, heads, size).
        key: (batch, key length, key heads, size), or parts; see `attention_scores`.
        value: (batch, key length, key heads, value size), or parts.
        scale: factor of the products.
        visible: boolean, broadcastable to (batch, heads, query length, key length).
        bias: float, likewise; added to the scaled products.

    Returns:
        (batch, query length, heads, value size).
    """
    if visible is not None:
        floats = ops.zeros((), query.dtype) if bias is None else bias
        bias = ops.where(visible, floats, ops.cast(lowest(query.dtype), query.dtype))
    whole = not isinstance(key, list)
    fused = whole and keras.backend.backend() == "torch"
    kernel = torch_attention if fused else plain_attention
    output = kernel(query, key, value, scale, bias)
    if visible is None:
        return output
    any_visible = ops.any(visible, axis=-1, keepdims=True)
    return output * ops.cast(ops.transpose(any_visible, (0, 2, 1, 3)), output.dtype)


def plain_attention(
    query: Tensor, key: Keys, value: Keys, scale: float, bias: Tensor | None
) -> Tensor:
    """`dot_product_attention` as two matrix products, which TensorFlow and XLA do best with.

    On a CPU it takes 0.7 to 0.85 of the time of `keras.ops.dot_product_attention`.
    """
    scores = attention_scores(query * ops.cast(scale, query.dtype), key)
    scores = scores if bias is None else scores + bias
    return weighted_values(softmax(scores), value)


def torch_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float, bias: Tensor | None
) -> Tensor:
    """`dot_product_attention` by PyTorch's own kernel, which takes heads before positions."""
    import torch

    output = torch.nn.functional.scaled_dot_product_attention(
        *(x.transpose(1, 2) for x in (query, key, value)),
        attn_mask=bias,
        scale=scale,
        enable_gqa=query.shape[2] != key.shape[2],
    )
    return output.transpose(1, 2)


# --------------------------------------------------------------------------------------- positions


ROTARY_SCALING = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor", "original_max_position_embeddings"),
    "yarn": ("factor", "original_max_position_embeddings"),
    "llama3": (
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    ),
}
"""Kinds of `scaling` of rotary frequencies, with the keys that each of them needs."""

YARN_OPTIONS = (
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "truncate",
)


def scaling_kind(scaling: dict[str, Any] | None) -> str:
    """Name the kind of a `scaling`, see `rotary_frequencies`, whose keys are checked.

    Raises:
        ValueError: the kind is not known, a key is missing, or there are keys without a meaning.
    """
    if scaling is None:
        return "default"
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in ROTARY_SCALING:
        raise ValueError(f"rope_type is one of {list(ROTARY_SCALING)}, not {kind!r}")
    needed = set(ROTARY_SCALING[kind])
    known = {*needed, "rope_type", "type", *(YARN_OPTIONS if kind == "yarn" else ())}
    if needed - scaling.keys() or scaling.keys() - known:
        raise ValueError(
            f"scaling of the kind {kind!r} needs {sorted(needed)} and understands {sorted(known)}, "
            f"but it has {sorted(scaling)}"
        )
    return kind


def rotary_frequencies(
    dim: int, base: float = 10000.0, scaling: dict[str, Any] | None = None
) -> tuple[np.ndarray, float]:
    """Frequencies of rotary positions, and the factor of sine and cosine.

    Unscaled, they are base^(−2i / dim). Scaling stretches a model's reach beyond the length that it
    was trained with. It is a dict with the keys of `rope_scaling` in Hugging Face configs:

    * linear: all divided by `factor` (Chen et al., 2023, https://arxiv.org/abs/2306.15595);
    * dynamic: computed in `sinusoidal_embeddings`, since it depends on the length;
    * yarn: divided by `factor` where fewer than `beta_slow` (1) turns fit into the original length,
      as they are from `beta_fast` (32) turns on, linear in i between; sine and cosine times
      `attention_factor`, 0.1 · ln factor + 1 by default (Peng et al., 2023,
      https://arxiv.org/abs/2309.00071), with `mscale` and `mscale_all_dim` the ratio of two such
      terms (DeepSeek-AI, 2024, https://arxiv.org/abs/2405.04434);
    * llama3: the same by wavelength, linear in the number of turns, from `low_freq_factor` to
      `high_freq_factor` turns in the original length (Llama 3.1, `apply_scaling` in
      https://github.com/meta-llama/llama-models).

    Args:
        dim: even size of the rotated vectors.
        base: the wavelengths run from 2π to 2π `base`.
        scaling: None, or the dict; `rope_type` (or `type`) names the kind.

    Returns:
        (dim / 2,), float64, and the factor.

    Raises:
        ValueError: the scaling is not understood.
    """
    kind = scaling_kind(scaling)
    frequencies = np.power(float(base), -2.0 * np.arange(dim // 2) / dim)
    if kind == "linear":
        return frequencies / scaling["factor"], 1.0
    if kind == "yarn":
        return yarn_frequencies(frequencies, dim, base, scaling), yarn_factor(scaling)
    if kind == "llama3":
        turns = scaling["original_max_position_embeddings"] * frequencies / (2 * np.pi)
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        kept = np.clip((turns - low) / (high - low), 0, 1)
        return frequencies * (kept + (1 - kept) / scaling["factor"]), 1.0
    return frequencies, 1.0


def yarn_frequencies(
    frequencies: np.ndarray, dim: int, base: float, scaling: dict[str, Any]
) -> np.ndarray:
    """Frequencies scaled by YaRN, see `rotary_frequencies`."""

    def index_of(turns: float) -> float:
        length = scaling["original_max_position_embeddings"]
        return dim * np.log(length / (turns * 2 * np.pi)) / (2 * np.log(base))

    low, high = index_of(scaling.get("beta_fast") or 32), index_of(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        low, high = np.floor(low), np.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    divided = np.clip((np.arange(dim // 2) - low) / max(high - low, 0.001), 0, 1)
    return frequencies * (1 - divided + divided / scaling["factor"])


def yarn_factor(scaling: dict[str, Any]) -> float:
    """The factor of sine and cosine under YaRN, see `rotary_frequencies`."""

    def term(scale: float) -> float:
        return 0.1 * scale * np.log(max(scaling["factor"], 1)) + 1

    if scaling.get("attention_factor") is not None:
        return float(scaling["attention_factor"])
    if scaling.get("mscale") and scaling.get("mscale_all_dim"):
        return float(term(scaling["mscale"]) / term(scaling["mscale_all_dim"]))
    return float(term(1))


def sinusoidal_embeddings(
    pos: Tensor, dim: int, base: float = 10000, scaling: dict[str, Any] | None = None
) -> Tensor:
    """Sine and cosine of positions at `dim / 2` wavelengths, interleaved (Vaswani et al., 2017).

    Args:
        pos: (...), integers or floats; always computed in float32, for large positions.
        dim: even size of the last axis.
        base: the wavelengths run from 2π to 2π `base`.
        scaling: see `rotary_frequencies`. 'dynamic' is NTK-aware scaling (bloc97 and emozilla,
            2023, section A.2 of https://arxiv.org/abs/2309.00071): beyond the original length `m`,
            for a length `n` (the largest position plus 1), the base is multiplied by
            (factor · n / m − factor + 1)^(dim / (dim − 2)).

    Returns:
        (..., dim), float32: sin, cos, sin, cos, …
    """
    if dim % 2:
        raise ValueError(f"sinusoidal embeddings have an even size, not {dim}")
    frequencies, factor = rotary_frequencies(dim, base, scaling)
    frequencies = ops.convert_to_tensor(frequencies, dtype="float32")
    pos = ops.cast(pos, "float32")
    if scaling_kind(scaling) == "dynamic":
        beyond = (ops.max(pos) + 1) / scaling["original_max_position_embeddings"] - 1
        ratio = 1 + scaling["factor"] * ops.maximum(beyond, 0)
        exponents = (-2 * np.arange(dim // 2) / (dim - 2)).astype("float32")
        frequencies = frequencies * ops.power(ratio, exponents)
    angles = ops.expand_dims(pos, -1) * frequencies
    pairs = ops.stack([ops.sin(angles), ops.cos(angles)], axis=-1)
    if factor != 1:
        pairs = pairs * factor
    return ops.reshape(pairs, [*ops.shape(angles)[:-1], dim])


@registered
class Sinusoidal(keras.initializers.Initializer):
    """Initialise a table (positions, dim) with `sinusoidal_embeddings`."""

    def __call__(self, shape: Sequence[int], dtype: Any = None) -> Tensor:
        return ops.cast(sinusoidal_embeddings(np.arange(shape[0]), shape[1]), dtype or "float32")


def initializer(identifier: str | Callable | dict) -> Callable:
    """Look up an initializer by name: 'Sinusoidal' here, all others in Keras."""
    return Sinusoidal() if identifier == "Sinusoidal" else keras.initializers.get(identifier)


def apply_rotary_position_embeddings(
    sinusoidal: Tensor, *tensors: Tensor, half: bool = False
) -> Tensor | list[Tensor]:
    """Rotate pairs of features by the angle of their position.

    RoFormer, Su et al., 2021 (https://arxiv.org/abs/2104.09864).

    Args:
        sinusoidal: (batch or 1, length, dim) from `sinusoidal_embeddings`.
        *tensors: (batch, length, ..., dim), all with the same number of axes.
        half: the pairs are the features (i, i + dim / 2), as in GPT-NeoX and LLaMA, rather than
            (2i, 2i + 1).

    Returns:
        The rotated tensor, or a list of them if several were given.
    """
    if not tensors:
        raise ValueError("apply_rotary_position_embeddings() got no tensor to rotate")
    sinusoidal = align(sinusoidal, [0, 1, -1], len(tensors[0].shape))
    sin, cos = sinusoidal[..., ::2], sinusoidal[..., 1::2]
    if half:
        sin, cos = ops.concatenate([sin, sin], axis=-1), ops.concatenate([cos, cos], axis=-1)
    else:
        sin, cos = ops.repeat(sin, 2, axis=-1), ops.repeat(cos, 2, axis=-1)

    def turned(x: Tensor) -> Tensor:
        if half:
            first, second = ops.split(x, 2, axis=-1)
            return ops.concatenate([-second, first], axis=-1)
        pairs = ops.stack([-x[..., 1::2], x[..., ::2]], axis=-1)
        return ops.reshape(pairs, ops.shape(x))

    def rotate(x: Tensor) -> Tensor:
        return x * ops.cast(cos, x.dtype) + turned(x) * ops.cast(sin, x.dtype)

    return rotate(tensors[0]) if len(tensors) == 1 else [rotate(x) for x in tensors]


# ------------------------------------------------------------------------------------- activations


@registered
def gelu_erf(x: Tensor) -> Tensor:
    """Gaussian error linear unit in its exact form (Hendrycks & Gimpel, 2016)."""
    return ops.gelu(x, approximate=False)


@registered
def gelu_tanh(x: Tensor) -> Tensor:
    """Gaussian error linear unit, approximated by a tanh (Hendrycks & Gimpel, 2016)."""
    return ops.gelu(x, approximate=True)


@registered
def swish(x: Tensor) -> Tensor:
    """x · sigmoid(x)."""
    return ops.silu(x)


@registered
def leaky_relu(x: Tensor, alpha: float = 0.2) -> Tensor:
    """x, or `alpha` · x where x is negative."""
    return ops.leaky_relu(x, negative_slope=alpha)


ACTIVATIONS = {
    "gelu": gelu_erf,
    "gelu_erf": gelu_erf,
    "gelu_tanh": gelu_tanh,
    "gelu_new": gelu_tanh,
    "swish": swish,
    "leaky_relu": leaky_relu,
}


def set_gelu(version: str) -> None:
    """Choose what 'gelu' means in models built from now on: 'erf' (the default) or 'tanh'."""
    versions = {"erf": gelu_erf, "tanh": gelu_tanh}
    if version.lower() not in versions:
        raise ValueError(f"set_gelu() takes 'erf' or 'tanh', not {version!r}")
    ACTIVATIONS["gelu"] = versions[version.lower()]


def activation(identifier: str | Callable | dict | None) -> Callable:
    """Look up an activation by name: those of this module first, then those of Keras."""
    if isinstance(identifier, str) and identifier in ACTIVATIONS:
        return ACTIVATIONS[identifier]
    return keras.activations.get(identifier)


# ------------------------------------------------------------------------------------------ losses


def known_values(x: Tensor) -> np.ndarray | None:
    """The numbers of a tensor or array, if they are known and here.

    They are not inside of a compiled function, nor on an accelerator, which to wait for takes time.
    """
    if isinstance(x, keras.KerasTensor):
        return None
    match keras.backend.backend():
        case "tensorflow":
            import tensorflow as tf

            known = not tf.is_tensor(x) or (hasattr(x, "numpy") and "CPU" in x.device)
        case "jax":
            import jax

            known = not isinstance(x, jax.core.Tracer)
            if known and isinstance(x, jax.Array):
                known = all(device.platform == "cpu" for device in x.devices())
        case "torch":
            import torch

            known = not torch.is_tensor(x) or x.device.type == "cpu"
    return ops.convert_to_numpy(x) if known else None


def check_labels(
    labels: Tensor, least: float, most: float, meaning: str, also: int | None = None
) -> None:
    """Refuse labels out of range, if their values are known (see `known_values`).

    Args:
        labels: any tensor.
        least: the smallest label.
        most: the largest.
        meaning: what they are, for the message.
        also: a further label that is allowed.

    Raises:
        ValueError: a label is smaller or larger, or NaN.
    """
    values = known_values(labels)
    if values is None:
        return
    wrong = ~((values >= least) & (values <= most))
    wrong = wrong if also is None else wrong & (values != also)
    if wrong.any():
        where = tuple(map(int, np.argwhere(wrong)[0]))
        raise ValueError(
            f"{meaning} are from {least} to {most}, and there is {values[where]:g} at {list(where)}"
        )


def multilabel_categorical_crossentropy(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Softmax cross-entropy generalised to several correct classes, hard or soft.

    https://kexue.fm/archives/7359 and, for soft labels, https://kexue.fm/archives/9064. At
    prediction time the classes whose score is above 0 are the answer. Computed in float32.

    Args:
        y_true: (..., classes), 0 to 1.
        y_pred: (..., classes), scores without activation. A class whose score is -inf is left out.

    Returns:
        (...), the loss of each row; NaN where a label is out of range.

    Raises:
        ValueError: a label is out of range, and known outside of compiled code.
    """
    check_labels(y_true, 0, 1, "the labels of multilabel_categorical_crossentropy")
    dtype = keras.backend.result_type(y_pred.dtype, "float32")
    y_true = ops.cast(y_true, dtype)
    possible = ops.logical_and(y_true >= 0, y_true <= 1)
    # Soft labels weigh exp(±score). Scripts mask with -inf and with -1e12.
    masked = y_pred <= max(-1e11, lowest(y_pred.dtype))
    scores = ops.cast(ops.where(masked, ops.zeros_like(y_pred), y_pred), dtype)
    nothing = ops.cast(lowest(dtype) / 10, dtype)

    def log_weight(weight: Tensor) -> Tensor:
        positive = ops.logical_and(weight > 0, ops.logical_not(masked))
        return ops.where(positive, ops.log(ops.where(positive, weight, 1)), nothing)

    zero = ops.zeros_like(scores[..., :1])
    positive = ops.concatenate([log_weight(y_true) - scores, zero], axis=-1)
    negative = ops.concatenate([log_weight(1 - y_true) + scores, zero], axis=-1)
    loss = ops.logsumexp(positive, axis=-1) + ops.logsumexp(negative, axis=-1)
    return ops.cast(ops.where(ops.all(possible, axis=-1), loss, float("nan")), y_pred.dtype)


def sparse_multilabel_categorical_crossentropy(
    y_true: Tensor, y_pred: Tensor, mask_zero: bool = False
) -> Tensor:
    """`multilabel_categorical_crossentropy` with the correct classes given by index.

    https://kexue.fm/archives/8888#sparse, but the sum over the wrong classes is taken over these.
    There it is the sum over all classes less that over the right ones, which has no correct digit
    left, and a gradient of the wrong sign, where a right class has a high score.

    Args:
        y_true: (..., n), class indices (floats are cast), every row padded to the same `n`. An
            index that comes twice counts once.
        y_pred: (..., classes), scores without activation. A class whose score is -inf is left out.
        mask_zero: index 0 is padding; its score takes no part at all.

    Returns:
        (...), the loss of each row; NaN where an index is out of range.

    Raises:
        ValueError: an index is out of range, and known outside of compiled code.
    """
    name = "the class indices of sparse_multilabel_categorical_crossentropy"
    check_labels(y_true, 0, ops.shape(y_pred)[-1] - 1, name)
    labels = several_hot(ops.cast(y_true, "int32"), y_pred)
    if mask_zero:
        y_pred = y_pred[..., 1:]
        labels = labels[..., 1:]
    return multilabel_categorical_crossentropy(labels, y_pred)


def several_hot(indices: Tensor, like: Tensor) -> Tensor:
    """1 at the indices (..., n) of the last axis and 0 elsewhere, of the shape and type of `like`.

    An index that is not on the axis gives a row of NaN.
    """
    inside = ops.logical_and(indices >= 0, indices < ops.shape(like)[-1])
    columns = ops.where(inside, indices, 0)
    counted = ops.ones_like(columns)
    axes = [ops.cumsum(counted, axis=i) - 1 for i in range(len(like.shape) - 1)]
    places = ops.reshape(ops.stack([*axes, columns], axis=-1), (-1, len(like.shape)))
    ones = ops.cast(ops.ones_like(places[:, 0]), like.dtype)
    hot = ops.scatter_update(ops.zeros_like(like), places, ones)
    return ops.where(ops.all(inside, axis=-1, keepdims=True), hot, float("nan"))


# ------------------------------------------------------------------------------------- compilation


def compiled(function: Callable, model: keras.Model, any_shape: bool = False) -> Callable:
    """Compile a function that calls `model` for inference; its weights may change between calls.

    It is compiled for every new shape of the arguments. PyTorch compiles nothing.

    Args:
        function: takes nests of arrays, of the same structure each time, and returns a nest of
            tensors.
        model: the built model whose variables the function reads.
        any_shape: on TensorFlow, trace a second or third time when a size turns out to vary, and
            then no more; the function must not need to know the sizes.

    Returns:
        A function of the same arguments, NumPy arrays or tensors.
    """
    compilers = {
        "tensorflow": compiled_by_tensorflow,
        "jax": compiled_by_jax,
        "torch": without_gradients,
    }
    return compilers[keras.backend.backend()](function, model, any_shape)


TRACING = threading.RLock()
"""Held by who runs a function of a model for the first time, and with it the code of layers."""


def shapes_of(nest: Any) -> tuple:
    """Shapes and types of the arrays in a nest: functions are compiled for each of them."""
    return tuple((tuple(x.shape), x.dtype) for x in keras.tree.flatten(nest) if x is not None)


@contextmanager
def first_in_turn(known: set, key: Hashable) -> Iterator[None]:
    """Let one thread at a time do what is done for the first time, which is not in `known` yet."""
    if key in known:
        yield
        return
    with TRACING:
        yield
    known.add(key)


def compiled_by_tensorflow(function: Callable, model: keras.Model, any_shape: bool) -> Callable:
    """`compiled` on TensorFlow, without XLA, which would compile for every shape."""
    import tensorflow as tf

    if any_shape:
        return tf.function(function, autograph=False, reduce_retracing=True)
    graphs = {}  # TensorFlow would warn of several in one tf.function

    def call(*args: Any) -> Any:
        shapes = shapes_of(args)
        if shapes not in graphs:
            with TRACING:
                if shapes not in graphs:
                    traced = tf.function(function, autograph=False)
                    graphs[shapes] = traced.get_concrete_function(*args)
        return graphs[shapes](*args)

    return call


def compiled_by_jax(function: Callable, model: keras.Model, any_shape: bool) -> Callable:
    """`compiled` on JAX, where weights that are no arguments would become constants."""
    import jax

    @jax.jit
    def stateless(values: list[Tensor], *args: Any) -> Any:
        with keras.StatelessScope(state_mapping=zip(model.variables, values, strict=True)):
            return function(*args)

    known: set = set()

    def call(*args: Any) -> Any:
        with first_in_turn(known, shapes_of(args)):
            return on_present_values(
                lambda: present_values(model.variables),
                lambda values: stateless(values, *args),
            )

    return call


def present_values(variables: Sequence[keras.Variable]) -> list[Tensor]:
    """The values of variables, outside of all scopes; `value`, which looks for scopes, is slow."""
    return keras_private.values_of(variables)


def on_present_values(values: Callable[[], Any], function: Callable[[Any], Any]) -> Any:
    """Call a function on the values of variables on JAX, where training takes away their memory.

    If another thread has trained since they were read, they are read again.

    Args:
        values: gives a nest of the present values.
        function: takes that, and changes nothing.
    """
    while True:
        found = values()
        try:
            return function(found)
        except Exception:
            if not any(x.is_deleted() for x in keras.tree.flatten(found)):
                raise


def without_gradients(function: Callable, model: keras.Model, any_shape: bool) -> Callable:
    """`compiled` on PyTorch: no graph is kept for gradients."""
    import torch

    return torch.no_grad()(function)


# ----------------------------------------------------------------------------------- recomputation


def recompute_by_default() -> bool:
    """Whether the environment variable RECOMPUTE asks for `recompute_grad`: 1, or 0 for no.

    Raises:
        ValueError: it says something else.
    """
    value = os.environ.get("RECOMPUTE", "0")
    if value not in ("0", "1"):
        raise ValueError(
            f"the environment variable RECOMPUTE is {value!r}: set it to 1 for less memory in "
            "training, or to 0 (or not at all)"
        )
    return value == "1"


def recompute_grad(call: Callable) -> Callable:
    """Decorate the `call` of a layer whose inner results may be computed twice instead of kept.

    Where `layer.recompute` is true, a training step forgets what is computed inside the call, and
    the backward pass computes it again from the inputs (Chen et al., 2016,
    https://arxiv.org/abs/1604.06174): less memory for about a third more time. Inference, decoding
    with a cache and the results are the same with and without. Layers without that attribute go by
    `recompute_by_default`; a call that does not take `training` keeps everything.

    Gradients flow to the arguments of the call and to the weights of the layer. A layer that drops
    out does so by `self.dropout`, a `layers.Dropout`, whose random numbers must be the same in both
    passes: the call hands its argument `seed` on to it.
    """

    @functools.wraps(call)
    def recomputing_call(self: Any, *args: Any, **kwargs: Any) -> Any:
        trains = kwargs.get("training") and kwargs.get("cache") is None
        wanted = self.recompute if hasattr(self, "recompute") else recompute_by_default()
        if not (wanted and trains):
            return call(self, *args, **kwargs)
        if getattr(self, "dropout", None) is not None:
            kwargs["seed"] = self.dropout.drawn_seed()
        leaves = keras.tree.flatten((args, kwargs))

        def function(*tensors: Tensor) -> Any:
            tensors = iter(tensors)
            given = [next(tensors) if ops.is_tensor(x) else x for x in leaves]
            new_args, new_kwargs = keras.tree.pack_sequence_as((args, kwargs), given)
            return call(self, *new_args, **new_kwargs)

        return recomputed(function, [x for x in leaves if ops.is_tensor(x)])

    return recomputing_call


def recomputed(function: Callable, tensors: Sequence[Tensor]) -> Any:
    """Give `function(*tensors)`, whose inner results are computed again in the backward pass."""
    match keras.backend.backend():
        case "tensorflow":
            return recomputed_by_tensorflow(function, tensors)
        case "jax":
            return recomputed_by_jax(function, tensors)
        case "torch":
            from torch.utils.checkpoint import checkpoint

            return checkpoint(function, *tensors, use_reentrant=False)


def recomputed_by_tensorflow(function: Callable, tensors: Sequence[Tensor]) -> Any:
    """`recomputed` on TensorFlow, whose `tf.recompute_grad` takes no booleans."""
    import tensorflow as tf

    def function_of_floats(*floats: Tensor) -> Any:
        floats = iter(floats)
        return function(*(next(floats) if x.dtype.is_floating else x for x in tensors))

    return tf.recompute_grad(function_of_floats)(*(x for x in tensors if x.dtype.is_floating))


def recomputed_by_jax(function: Callable, tensors: Sequence[Tensor]) -> Any:
    """`recomputed` on JAX.

    XLA on a CPU drops the barriers of `jax.checkpoint`, finds the same computation twice and keeps
    its results after all. Here the second pass depends on the gradient that it is for.
    """
    import jax
    from jax import numpy as jnp

    function, weights = jax.closure_convert(function, *tensors)

    def backward(inputs: tuple, gradients: Any) -> tuple:
        first = jax.tree.leaves(gradients)[0].ravel()[0]
        nothing = jnp.where(jnp.isnan(first), first, 0)
        inputs = [x if x.dtype == bool else x + nothing.astype(x.dtype) for x in inputs]
        return jax.vjp(function, *inputs)[1](gradients)

    recomputing = jax.custom_vjp(function)
    recomputing.defvjp(lambda *inputs: (function(*inputs), inputs), backward)
    return recomputing(*tensors, *weights)


def dropout(x: Tensor, rate: float, seed: Tensor | None) -> Tensor:
    """Set a share `rate` of the numbers to zero and enlarge the others by 1 / (1 - rate).

    `keras.random.dropout` takes a generator as seed, which gives other numbers each time.

    Args:
        x: any tensor.
        rate: at least 0, below 1.
        seed: (2,), two integers drawn from a `keras.random.SeedGenerator`; None, on PyTorch only,
            for its global generator.
    """
    # On TensorFlow and JAX 16 random bits decide on a number: 32, or a fraction, take longer.
    dropped = min(round(rate * 2**16), 2**16 - 1)
    scale = 1 / (1 - dropped / 2**16)
    match keras.backend.backend():
        case "tensorflow":
            import tensorflow as tf

            pairs = [(tf.size(x) + 1) // 2]
            bits = tf.random.stateless_uniform(pairs, tf.cast(seed, "int32"), None, None, "uint32")
            bits = tf.reshape(tf.bitcast(bits, "uint16"), [-1])[: tf.size(x)]
            kept = tf.reshape(bits, tf.shape(x)) >= tf.constant(dropped, "uint16")
            return tf.where(kept, x * scale, tf.zeros([], x.dtype))
        case "jax":
            import jax

            bits = jax.random.bits(seed, ((x.size + 1) // 2,), "uint32")
            bits = jax.lax.bitcast_convert_type(bits, "uint16").reshape(-1)[: x.size]
            return jax.numpy.where(bits.reshape(x.shape) >= dropped, x * scale, 0)
        case "torch":
            import torch

            if seed is None:
                return torch.nn.functional.dropout(x, rate)
            generator = torch.Generator(x.device).manual_seed(int(seed[0] + seed[1]))
            kept = torch.empty_like(x).bernoulli_(1 - rate, generator=generator)
            return x * kept / (1 - rate)


# ------------------------------------------------------------------------------------- optimization


def adam_in_place(
    variable: Any,
    momentum: keras.Variable,
    velocity: keras.Variable,
    gradient: Tensor,
    rate: Tensor,
    betas: tuple[float, float],
    epsilon: Tensor,
) -> bool:
    """Take a step of Adam without new memory where the backend can, and tell whether it was taken.

    TensorFlow has one kernel for it, PyTorch operations in place. Each operation of `keras.ops`
    would write its result to other memory; together they took a tenth of the time of training BERT.
    JAX compiles them into one pass.

    Args:
        variable: what is trained; a bare variable of TensorFlow or one of Keras.
        momentum: the first moment, of the shape of the variable, as are the next two.
        velocity: the second moment.
        gradient: the gradient.
        rate: the learning rate, corrected for the bias of the moments; a scalar.
        betas: the decays of the two moments.
        epsilon: what is added to the root of the second moment; a scalar.
    """
    weights = variable.value if isinstance(variable, keras.Variable) else variable
    match keras.backend.backend():
        case "tensorflow" if variable.dtype in ("float32", "float64"):  # 0.999 is 1 in others
            import tensorflow as tf

            tf.raw_ops.ResourceApplyAdam(
                var=weights.handle,
                m=momentum.value.handle,
                v=velocity.value.handle,
                beta1_power=0.0,
                beta2_power=0.0,
                lr=rate,
                beta1=betas[0],
                beta2=betas[1],
                epsilon=epsilon,
                grad=gradient,
            )
        case "torch":
            import torch

            with torch.no_grad():
                momentum.value.lerp_(gradient, 1 - betas[0])
                velocity.value.mul_(betas[1]).addcmul_(gradient, gradient, value=1 - betas[1])
                divisor = velocity.value.sqrt().add_(epsilon).div_(rate)
                weights.addcdiv_(momentum.value, divisor, value=-1)
        case _:
            return False
    return True


# ------------------------------------------------------------------------------------------- other


def compiled_without_weights(weights: Sequence[Any], x: Tensor) -> bool:
    """Tell on JAX whether `x` belongs to a compiled function that the weights are constants of.

    Such a function would go on with the values they had when it was compiled. While `fit` runs,
    they have no values at all. Other backends read weights where they are used.
    """
    if keras.backend.backend() != "jax":
        return False
    import jax

    def constant(weight: Any) -> bool:
        try:
            return not isinstance(weight.value, jax.core.Tracer)
        except TypeError:  # Keras took the value away, and has no initializer to ask any more.
            return True

    return isinstance(x, jax.core.Tracer) and any(map(constant, weights))


def fold(step: Callable, state: Any, elements: Any) -> Any:
    """Run `state = step(state, element)` over axis 0 of `elements` and return the last state.

    The graph holds one step whatever the length is, and gradients pass. `keras.ops.scan` alone does
    not do on TensorFlow: it gives the loop no bound, and XLA refuses to differentiate such a loop.

    Args:
        step: takes the state and an element, returns a state of the same shapes and types.
        state: the initial state, a tensor or a nest of them.
        elements: a tensor (length, ...) or a nest of them.
    """
    if keras.backend.backend() != "tensorflow":
        return ops.scan(lambda state, element: (step(state, element), None), state, elements)[0]
    length = ops.shape(keras.tree.flatten(elements)[0])[0]

    def body(i: Tensor, state: Any) -> tuple[Tensor, Any]:
        return i + 1, step(state, keras.tree.map_structure(lambda x: x[i], elements))

    return ops.while_loop(lambda i, _: i < length, body, (0, state), maximum_iterations=length)[1]


def scan(step: Callable, state: Any, elements: Sequence, reverse: bool = False) -> tuple[Any, Any]:
    """`keras.ops.scan` over several tensors, whose length may be unknown.

    On TensorFlow Keras 3.15 fails on several tensors (None, ...).

    Args:
        step: takes the state and the elements of one place, returns the next state and what is
            collected, both like the state.
        state: the initial state, a tensor or a nest of them.
        elements: tensors (length, ...).
        reverse: go from the last place to the first.

    Returns:
        The last state, and what was collected (length, ...), in the order of `elements`.
    """
    if keras.backend.backend() != "tensorflow" or elements[0].shape[0] is not None:
        return ops.scan(step, state, tuple(elements), reverse=reverse)
    places = ops.arange(ops.shape(elements[0])[0], dtype="int32")
    return ops.scan(
        lambda state, i: step(state, tuple(x[i] for x in elements)), state, places, reverse=reverse
    )


def search_layer(inputs: Any, name: str) -> keras.Layer | None:
    """Find a layer by name among those that symbolic tensors, or a layer, were computed by.

    Args:
        inputs: a symbolic tensor, a list of them, or a layer that has been called.
        name: name of the layer.

    Returns:
        The layer, or None if there is none of that name.
    """
    if isinstance(inputs, keras.Layer):
        pending = [inputs]
    else:
        pending = [keras_private.history(x)[0] for x in keras.tree.flatten(inputs)]
    seen = set()
    while pending:
        layer = pending.pop()
        if layer.name == name:
            return layer
        if id(layer) not in seen:
            seen.add(id(layer))
            before = [x for node in keras_private.calls_of(layer) for x in node.input_tensors]
            pending += [keras_private.history(x)[0] for x in before]
    return None


def root_mean_square(
    x: Tensor, axis: int | Sequence[int] | None = None, keepdims: bool = False
) -> Tensor:
    """Square root of the mean of squares along `axis` (everything by default)."""
    return ops.sqrt(ops.mean(ops.square(x), axis=axis, keepdims=keepdims))


def piecewise_linear(t: Tensor, schedule: dict[int, float], from_zero: bool = True) -> Tensor:
    """A function of the step that is linear between given points and constant outside of them.

    Args:
        t: the step, a number or tensor.
        schedule: step → value, e.g. {1000: 1, 2000: 0.1}; keys may be strings, as in JSON.
        from_zero: start at (0, 0) unless the schedule says what holds at step 0.

    Returns:
        The value at `t`, float32.
    """
    points = sorted((int(step), float(value)) for step, value in schedule.items())
    if from_zero and points[0][0] != 0:
        points.insert(0, (0, 0.0))
    t = ops.cast(t, "float32")
    result = ops.full_like(t, points[0][1])
    for (start, value), (end, next_value) in pairwise(points):
        slope = (next_value - value) / (end - start)
        result = ops.where(t >= start, value + slope * (t - start), result)
    return ops.where(t >= points[-1][0], ops.full_like(t, points[-1][1]), result)
