"""Functions of `K` for products: matrices, convolutions, pooling."""

import string
from collections.abc import Callable, Sequence
from typing import Any

from keras import ops

from bert4keras.backend.keras2.shapes import channels_first, int_shape, ndim, reshape, shape
from bert4keras.backend.keras2.types import as_float_tensor, to_common_type_tensors
from bert4keras.backend.sizes import entry
from bert4keras.backend.tensors import Tensor, pooling


@entry
def dot(x: Tensor, y: Tensor) -> Tensor:
    """Sum over the last axis of `x` and the second last of `y`; the other axes follow in order.

    `(a, b, c)` and `(d, c, e)` give `(a, b, d, e)`, as in `numpy.dot`.
    """
    x, y = to_common_type_tensors([x, y])
    # Not ops.dot, which multiplies batches on PyTorch, nor ops.tensordot, which fails on unknown
    # sizes.
    return _contract(x, y, ndim(x) - 1, max(ndim(y) - 2, 0), batch_axes=0)


def _contract(x: Tensor, y: Tensor, x_axis: int, y_axis: int, batch_axes: int) -> Tensor:
    """Sum over an axis of each; leading batch axes are shared, the other axes follow in order."""
    # keras.ops.einsum takes only lower-case letters.
    x_letters, y_letters = string.ascii_lowercase[:13], list(string.ascii_lowercase[13:])
    x_letters, y_letters = x_letters[: ndim(x)], y_letters[: ndim(y)]
    y_letters[:batch_axes] = x_letters[:batch_axes]
    y_letters[y_axis] = summed = x_letters[x_axis]
    kept = [letter for letter in (*x_letters, *y_letters[batch_axes:]) if letter != summed]
    return ops.einsum(f"{x_letters},{''.join(y_letters)}->{''.join(kept)}", x, y)


@entry
def batch_dot(x: Tensor, y: Tensor, axes: int | Sequence[int] | None = None) -> Tensor:
    """Multiply two batches and sum over one axis of each.

    Args:
        x: `(batch, ...)`, with at least two axes.
        y: `(batch, ...)`, with at least two axes.
        axes: the axis of `x` and the axis of `y` to sum over, or one number for both. By default
            the last of `x` and the second last of `y`, or axis 1 if `y` has two axes.

    Returns:
        The batch axis, the other axes of `x`, the other axes of `y`; `(batch, 1)` for two inputs
        of two axes.

    Raises:
        ValueError: an input has fewer than two axes, or `axes` contains axis 0 or several axes.
    """
    x, y = to_common_type_tensors([x, y])
    x_ndim, y_ndim = ndim(x), ndim(y)
    if min(x_ndim, y_ndim) < 2:
        raise ValueError(
            f"K.batch_dot needs a batch axis and at least one other, but the inputs have shapes "
            f"{int_shape(x)} and {int_shape(y)}; K.dot multiplies single vectors"
        )
    if axes is None:
        axes = (x_ndim - 1, max(y_ndim - 2, 1))
    elif isinstance(axes, int):
        axes = (axes, axes)
    if len(axes) != 2 or not all(isinstance(axis, int) for axis in axes):
        raise ValueError(f"K.batch_dot sums over a single axis of each input, but got axes={axes}")
    x_axis, y_axis = axes[0] % x_ndim, axes[1] % y_ndim
    if 0 in (x_axis, y_axis):
        raise ValueError(f"K.batch_dot cannot sum over the batch axis, but got axes={axes}")
    result = _contract(x, y, x_axis, y_axis, batch_axes=1)
    return ops.expand_dims(result, 1) if ndim(result) == 1 else result


@entry
def bias_add(x: Tensor, bias: Tensor, data_format: str | None = None) -> Tensor:
    """Add a bias to a batch.

    Args:
        x: `(batch, ..., channels)`, or `(batch, channels, ...)` for 'channels_first'.
        bias: `(channels,)`, or `(..., channels)` for all axes of `x` but the first.
        data_format: 'channels_last' or 'channels_first'; that of `keras.config` by default.

    Raises:
        ValueError: the format is unknown or the bias has the wrong number of axes.
    """
    x, bias = to_common_type_tensors([x, bias])
    if ndim(bias) not in (1, ndim(x) - 1):
        raise ValueError(
            f"K.bias_add needs a bias of 1 axis or of {ndim(x) - 1}, one fewer than x, but its "
            f"shape is {int_shape(bias)}"
        )
    if channels_first(data_format) and ndim(x) > 2:
        # Reshaped, not transposed, as in Keras 2.
        *others, channels = shape(bias)
        bias = reshape(bias, (1, channels, *(others or [1] * (ndim(x) - 2))))
    return ops.add(x, bias)


@entry
def conv1d(
    x: Tensor,
    kernel: Tensor,
    strides: int = 1,
    padding: str = "valid",
    data_format: str | None = None,
    dilation_rate: int = 1,
) -> Tensor:
    """Convolve sequences with a kernel `(size, channels, filters)`.

    The padding is 'valid', 'same', or 'causal', which pads only before the sequence, by as many
    zeros as the kernel reaches back.
    """
    x, kernel = to_common_type_tensors([x, kernel])
    if padding == "causal":
        reach = dilation_rate * (int_shape(kernel)[0] - 1)
        amounts = [(0, 0), (0, 0)]
        amounts.insert(1 + channels_first(data_format), (reach, 0))
        x, padding = ops.pad(x, amounts), "valid"
    return ops.conv(x, kernel, strides, padding, data_format, dilation_rate)


def convolution(function: Callable, n_kernels: int = 1) -> Callable:
    """Wrap a convolution of `keras.ops`, whose arguments after the kernels have the same order."""

    def convolve(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Convolve a batch like the function of `keras.ops`."""
        names = ("kernel",) if function is ops.conv else ("depthwise_kernel", "pointwise_kernel")
        kernels = [*args[:n_kernels], *(kwargs.pop(k) for k in names if k in kwargs)]
        return function(*to_common_type_tensors([x, *kernels]), *args[n_kernels:], **kwargs)

    return convolve


def pool(
    x: Tensor,
    pool_size: Sequence[int],
    strides: int | Sequence[int] = 1,
    padding: str = "valid",
    data_format: str | None = None,
    pool_mode: str = "max",
) -> Tensor:
    """Pool over the spatial axes of a batch; the mode is 'max' or 'avg'."""
    return pooling(pool_mode)(as_float_tensor(x), tuple(pool_size), strides, padding, data_format)
