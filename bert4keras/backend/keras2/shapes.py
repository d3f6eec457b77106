"""Functions of `K` about shapes, and functions that create tensors of a given shape."""

import builtins
import functools
import math
import operator
from collections.abc import Callable, Sequence

import keras
import numpy as np
from keras import ops

from bert4keras.backend.keras2.types import (
    as_tensor,
    is_float,
    is_strongly_typed,
    to_common_type_tensors,
)
from bert4keras.backend.sizes import Shape, SizeOperation, entry, is_number, is_shape, takes_sizes
from bert4keras.backend.tensors import Tensor


def as_shape(shape: Tensor) -> Tensor:
    """Return a shape in the form that `keras.ops` takes: a tuple, or on TensorFlow a tensor."""
    if isinstance(shape, list | tuple):
        return tuple(-1 if size is None else size for size in shape)
    if keras.backend.backend() == "tensorflow" and not isinstance(shape, np.ndarray):
        return shape
    return tuple(int(size) for size in ops.convert_to_numpy(shape))


@entry
def shape(x: Tensor) -> Shape:
    """Return the sizes of a tensor, as numbers where they are known."""
    if isinstance(x, keras.KerasTensor):
        sizes = (
            SizeOperation("size")(x, axis) if n is None else n for axis, n in enumerate(x.shape)
        )
        return Shape(sizes)
    return Shape(ops.shape(as_tensor(x)))


@entry
def int_shape(x: Tensor) -> tuple[int | None, ...]:
    """Return the sizes of a tensor, None where they are unknown."""
    return tuple(x.shape if hasattr(x, "shape") else np.shape(x))


@entry
def ndim(x: Tensor) -> int:
    """Return the number of axes."""
    return len(int_shape(x))


@entry
def get_variable_shape(x: Tensor) -> tuple[int | None, ...]:
    """Return the sizes of a variable, like `int_shape`."""
    return int_shape(x)


@entry
def count_params(x: Tensor) -> int:
    """Return the number of elements of a variable."""
    return math.prod(int_shape(x))


@entry
def size(x: Tensor, name: str | None = None) -> Tensor:
    """Return the number of elements, as a number if all sizes are known, otherwise as a tensor."""
    return functools.reduce(operator.mul, shape(x), 1)


@takes_sizes
def reshape(x: Tensor, shape: Sequence) -> Tensor:
    """Give a tensor another shape, in which one size may be -1."""
    return ops.reshape(as_tensor(x), as_shape(shape))


@entry
def flatten(x: Tensor) -> Tensor:
    """Flatten a tensor to one axis."""
    return ops.reshape(as_tensor(x), (-1,))


@entry
def batch_flatten(x: Tensor) -> Tensor:
    """Flatten all axes but the first."""
    x = as_tensor(x)
    sizes = int_shape(x)[1:]
    if None in sizes:
        return reshape(x, (shape(x)[0], -1))
    return ops.reshape(x, (-1, math.prod(sizes)))


@entry
def concatenate(tensors: Sequence[Tensor], axis: int = -1) -> Tensor:
    """Join tensors along an axis, or shapes and lists of sizes into a shape."""
    if all(is_shape(tensor) for tensor in tensors):
        return Shape(size for sizes in tensors for size in sizes)
    return ops.concatenate(to_common_type_tensors(tensors), axis=axis)


@entry
def stack(x: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Join tensors along a new axis, or sizes into a shape."""
    return Shape(x) if is_shape(x) else ops.stack(to_common_type_tensors(x), axis=axis)


@entry
def prod(x: Tensor, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Tensor:
    """Multiply the elements of a tensor along axes, or the sizes of a shape."""
    return math.prod(x) if isinstance(x, Shape) else ops.prod(as_tensor(x), axis, keepdims=keepdims)


@entry
def squeeze(x: Tensor, axis: int) -> Tensor:
    """Remove an axis of size 1 or of unknown size."""
    x = as_tensor(x)
    if int_shape(x)[axis] is None:
        sizes = shape(x)
        return reshape(x, sizes[:axis] + sizes[axis:][1:])
    return ops.squeeze(x, axis)


@takes_sizes
def tile(x: Tensor, n: int | Sequence[int]) -> Tensor:
    """Repeat a tensor, `n` times along the last axis or `n[i]` times along axis `i`."""
    return ops.tile(as_tensor(x), (n,) if isinstance(n, int) else as_shape(n))


@takes_sizes
def repeat(x: Tensor, n: int) -> Tensor:
    """Repeat `(batch, size)` to `(batch, n, size)`."""
    return ops.repeat(ops.expand_dims(as_tensor(x), 1), n, axis=1)


@takes_sizes
def repeat_elements(x: Tensor, rep: int, axis: int) -> Tensor:
    """Repeat each element along an axis, like `numpy.repeat`."""
    return ops.repeat(as_tensor(x), rep, axis=axis)


@entry
def temporal_padding(x: Tensor, padding: tuple[int, int] = (1, 1)) -> Tensor:
    """Add zeros before and after along axis 1 of `(batch, length, size)`."""
    return ops.pad(as_tensor(x), ((0, 0), tuple(padding), (0, 0)))


def spatial_padding(n_axes: int) -> Callable:
    """Create the function that pads images (2 axes) or volumes (3)."""

    def pad(
        x: Tensor,
        padding: Sequence[tuple[int, int]] = ((1, 1),) * n_axes,
        data_format: str | None = None,
    ) -> Tensor:
        """Add zeros before and after along the spatial axes of a batch of images or volumes."""
        amounts = [(0, 0), *map(tuple, padding)]
        amounts.insert(1 if channels_first(data_format) else n_axes + 1, (0, 0))
        return ops.pad(as_tensor(x), amounts)

    return pad


def channels_first(data_format: str | None) -> bool:
    """Tell whether the channels come before the spatial axes."""
    return normalize_data_format(data_format) == "channels_first"


def _repeated_along_space(
    x: Tensor, factors: Sequence[int], data_format: str | None, interpolation: str
) -> Tensor:
    if interpolation != "nearest":
        raise ValueError(
            f"K enlarges images only by interpolation='nearest', not {interpolation!r}: use "
            "keras.layers.UpSampling2D or keras.ops.image.resize"
        )
    for i, factor in enumerate(factors):
        x = repeat_elements(x, factor, axis=i + 1 + channels_first(data_format))
    return x


@entry
def resize_images(
    x: Tensor,
    height_factor: int,
    width_factor: int,
    data_format: str | None,
    interpolation: str = "nearest",
) -> Tensor:
    """Repeat the pixels of images along both axes."""
    return _repeated_along_space(x, (height_factor, width_factor), data_format, interpolation)


@entry
def resize_volumes(
    x: Tensor, depth_factor: int, height_factor: int, width_factor: int, data_format: str | None
) -> Tensor:
    """Repeat the voxels of volumes along all three axes."""
    factors = (depth_factor, height_factor, width_factor)
    return _repeated_along_space(x, factors, data_format, "nearest")


@entry
def slice_(x: Tensor, start: Sequence[int], size: Sequence[int]) -> Tensor:
    """Take `size[i]` elements from `start[i]` on along axis `i`, or all that are left for -1."""
    x, start, size = as_tensor(x), list(start), list(size)
    return x[
        tuple(
            builtins.slice(first, None if is_number(n) and n == -1 else first + n)
            for first, n in zip(start, size, strict=True)
        )
    ]


@takes_sizes
def zeros(shape: Sequence, dtype: str | None = None, name: str | None = None) -> Tensor:
    """Return zeros, by default of the default float type."""
    return ops.zeros(as_shape(shape), dtype=dtype or keras.config.floatx())


@takes_sizes
def ones(shape: Sequence, dtype: str | None = None, name: str | None = None) -> Tensor:
    """Return ones, by default of the default float type."""
    return ops.ones(as_shape(shape), dtype=dtype or keras.config.floatx())


@entry
def zeros_like(x: Tensor, dtype: str | None = None, name: str | None = None) -> Tensor:
    """Return zeros in the shape of another tensor."""
    return ops.zeros_like(as_tensor(x), dtype=dtype)


@entry
def ones_like(x: Tensor, dtype: str | None = None, name: str | None = None) -> Tensor:
    """Return ones in the shape of another tensor."""
    return ops.ones_like(as_tensor(x), dtype=dtype)


@takes_sizes
def eye(size: int, dtype: str | None = None, name: str | None = None) -> Tensor:
    """Return an identity matrix."""
    return ops.eye(size, dtype=dtype or keras.config.floatx())


@takes_sizes
def arange(start: int, stop: int | None = None, step: int = 1, dtype: str = "int32") -> Tensor:
    """Return the numbers from `start` to below `stop`, or from 0 to below `start`."""
    start, stop = (0, start) if stop is None else (start, stop)
    limits = (start, stop, step)
    if not any(map(is_float, limits)):
        return ops.arange(*limits, dtype=dtype)
    floats = [ops.cast(x, keras.config.floatx()) if is_strongly_typed(x) else x for x in limits]
    return ops.cast(ops.arange(*floats, dtype=keras.config.floatx()), dtype)


@entry
def constant(
    value: Tensor, dtype: str | None = None, shape: Sequence | None = None, name: str | None = None
) -> Tensor:
    """Return a tensor of constant values; a single value fills the shape."""
    value = np.asarray(value, dtype=dtype or keras.config.floatx())
    if shape is not None:
        value = np.full(shape, value) if value.size == 1 else np.reshape(value, shape)
    return ops.convert_to_tensor(value)


@takes_sizes
def one_hot(indices: Tensor, num_classes: int) -> Tensor:
    """Return vectors with a 1 at the index, in the default float type."""
    indices = ops.cast(as_tensor(indices), "int32")
    return ops.one_hot(indices, num_classes, dtype=keras.config.floatx())


@entry
def normalize_data_format(value: str | None) -> str:
    """Return 'channels_first' or 'channels_last'; None stands for the format of `keras.config`.

    Raises:
        ValueError: the format is another one.
    """
    value = value or keras.config.image_data_format()
    if value not in ("channels_first", "channels_last"):
        raise ValueError(f"data_format is 'channels_last' or 'channels_first', but got {value!r}")
    return value
