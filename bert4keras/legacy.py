"""`K`: the Keras 2 backend functions that existing scripts call, over `keras.ops`.

Names, arguments and meaning are those of `keras.backend` 2.3.1. Most entries differ from
`keras.ops` by their name only and stand in the tables `_UNARY`, `_BINARY`, `_REDUCTIONS` and
`_OTHERS`; the rest are the functions below, by theme. The library itself does not use any of them.

What differs from Keras 2:

* `K.shape(x)` is a tuple (see `Shape`) and no tensor. Its entries are numbers where the size is
  known. Where it is not, they are scalar tensors (TensorFlow) or, for the symbolic tensors of a
  functional model, `Dimension` objects, which go on being sizes through `+ - * // %` and as the
  target of `reshape`, `zeros`, `tile`, `arange` and so on. JAX and PyTorch know every size when a
  step runs, and JAX needs targets that were computed from sizes alone: `K.sum(K.shape(x))` is a
  tensor, `K.prod(K.shape(x)[1:])` is a size.
* Every input of a Keras 2 model was float32, those of ours are integers. Where an integer or bool
  meets a float, it becomes one: a tensor, a variable, an array or a number, alone or in a list. So
  does what has a fractional result, as in `K.mean` and `K.exp`. Integers among themselves stay
  integers, and indices (`K.gather`, `K.one_hot`, `K.arange`) may be floats. NumPy arrays, lists and
  numbers take the type of the tensors beside them. `K.sum` of a bool tensor counts.
* `K.zeros` and `K.ones` give tensors.
* A random function without `seed` cannot be traced by JAX, and one with a number as seed gives the
  same values every time. Inside a layer pass `seed=` a `keras.random.SeedGenerator` of the layer.
* A JAX array refuses a symbolic tensor on its right: write `x * K.ones((3,))`.
* Functions that need a graph and a session raise and name their replacement.
"""

import builtins
import contextlib
import difflib
import functools
import itertools
import math
import operator
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from bert4keras import keras_private

Tensor = Any
"""A tensor of the backend, a `keras.Variable`, a `keras.KerasTensor` or what converts to one."""

_FUNCTIONS: dict[str, Callable] = {}
_SIZE_FUNCTIONS: dict[str, Callable] = {}


def _entry(function: Callable) -> Callable:
    """Offer a function as `K.<its name>`."""
    _FUNCTIONS[function.__name__.rstrip("_")] = function
    return function


# === Sizes ===


@keras.saving.register_keras_serializable(package="bert4keras")
class SizeOperation(keras.Operation):
    """A node of a functional model that computes a size, or computes with one.

    The sizes of a symbolic tensor are unknown until the model runs. This node calls a function of
    this module at that time, with numbers in the place of `Dimension` objects.

    Args:
        function: a name in `_SIZE_FUNCTIONS`, which give a size, or in `K`.
    """

    def __init__(self, function: str, name: str | None = None):
        super().__init__(name=name)
        self.function = function

    def call(self, *args, **kwargs):
        """Call the function."""
        function = _SIZE_FUNCTIONS.get(self.function) or _FUNCTIONS[self.function]
        return function(*args, **kwargs)

    def compute_output_spec(self, *args, **kwargs) -> keras.KerasTensor:
        """Return a `Dimension`, or what the function gives, with the sizes that are sure."""
        if self.function in _SIZE_FUNCTIONS:
            return Dimension()
        # What changes with the size is unknown. Any two numbers would do.
        first, second = (
            self.call(*_replace_dimensions(args, size), **_replace_dimensions(kwargs, size))
            for size in (83, 89)
        )
        shape = [a if a == b else None for a, b in zip(first.shape, second.shape, strict=True)]
        return keras.KerasTensor(shape, dtype=keras.backend.standardize_dtype(first.dtype))

    def get_config(self) -> dict:
        """Return the constructor's arguments."""
        return {"function": self.function, "name": self.name}


def _replace_dimensions(structure, size: int):
    return keras.tree.map_structure(lambda x: size if isinstance(x, Dimension) else x, structure)


class Dimension(keras.KerasTensor):
    """A size of a symbolic tensor that is not known before the model runs.

    It is a scalar symbolic tensor like any other. In addition `+ - * // %` with numbers and with
    other sizes give a size again, which can be part of a shape on every backend.
    """

    def __init__(self):
        super().__init__(shape=(), dtype="int32")


def _size_operator(name: str, reflected: bool) -> Callable:
    """Return a special method of `Dimension`, e.g. `__floordiv__` or `__rfloordiv__`."""
    method = f"__{'r' if reflected else ''}{name}__"

    def apply(self, other):
        if not isinstance(other, int | Dimension):
            return getattr(super(Dimension, self), method)(other)
        operands = (other, self) if reflected else (self, other)
        return SizeOperation(name)(*operands)

    return apply


for _name in ("add", "sub", "mul", "floordiv", "mod"):
    _SIZE_FUNCTIONS[_name] = getattr(operator, _name)
    setattr(Dimension, f"__{_name}__", _size_operator(_name, reflected=False))
    setattr(Dimension, f"__r{_name}__", _size_operator(_name, reflected=True))

_SIZE_FUNCTIONS["size"] = lambda x, axis: ops.shape(x)[axis]


class Shape(tuple):
    """The sizes of a tensor; a tuple whose slices and sums (`shape[:-1] + (2, 3)`) are shapes too.

    It goes wherever a shape goes, and `K.concatenate` joins it with lists of numbers.
    """

    __slots__ = ()

    def __getitem__(self, key):
        found = super().__getitem__(key)
        return Shape(found) if isinstance(key, slice) else found

    def __add__(self, other):
        return Shape((*self, *other))

    def __radd__(self, other):
        return Shape((*other, *self))

    def __mul__(self, other):
        # A tuple would be repeated, the tensor of Keras 2 would be multiplied.
        raise TypeError("K.shape(x) is a tuple: compute with its entries, K.shape(x)[0] * 2")

    __rmul__ = __mul__


def _is_shape(x) -> bool:
    """Tell whether this is a `Shape` or a list of sizes."""
    if isinstance(x, Shape):
        return True
    return isinstance(x, list | tuple) and all(_is_size(size) for size in x)


def _is_size(x) -> bool:
    return isinstance(x, Dimension) or _is_number(x)


def _is_number(x) -> bool:
    return isinstance(x, int | np.integer) and not isinstance(x, bool)


def _takes_sizes(function: Callable) -> Callable:
    """Postpone a call until the model runs if an argument contains a `Dimension`."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        args, kwargs = _plain_tuples(args), {k: _plain_tuples(v) for k, v in kwargs.items()}
        if any(isinstance(x, Dimension) for x in keras.tree.flatten((args, kwargs))):
            return SizeOperation(function.__name__)(*args, **kwargs)
        return function(*args, **kwargs)

    return _entry(call)


def _plain_tuples(x):
    """Replace `Shape`, which `keras.tree` takes for a leaf."""
    return tuple(map(_plain_tuples, x)) if isinstance(x, tuple) else x


def _as_shape(shape: Tensor) -> Tensor:
    """Return a shape as `keras.ops` takes it: a tuple, or on TensorFlow a tensor."""
    if isinstance(shape, list | tuple):
        return tuple(-1 if size is None else size for size in shape)
    if keras.backend.backend() == "tensorflow" and not isinstance(shape, np.ndarray):
        return shape
    return tuple(int(size) for size in ops.convert_to_numpy(shape))


@_entry
def shape(x: Tensor) -> Shape:
    """Return the sizes of a tensor, each a number if it is known."""
    if isinstance(x, keras.KerasTensor):
        sizes = (
            SizeOperation("size")(x, axis) if n is None else n for axis, n in enumerate(x.shape)
        )
        return Shape(sizes)
    return Shape(ops.shape(_tensor(x)))


@_entry
def int_shape(x: Tensor) -> tuple[int | None, ...]:
    """Return the sizes of a tensor, None where they are unknown."""
    return tuple(x.shape if hasattr(x, "shape") else np.shape(x))


@_entry
def ndim(x: Tensor) -> int:
    """Return the number of axes."""
    return len(int_shape(x))


@_entry
def get_variable_shape(x: Tensor) -> tuple[int | None, ...]:
    """Return the sizes of a variable, see `int_shape`."""
    return int_shape(x)


@_entry
def count_params(x: Tensor) -> int:
    """Return the number of elements of a variable."""
    return math.prod(int_shape(x))


@_entry
def size(x: Tensor, name: str | None = None) -> Tensor:
    """Return the number of elements, as a tensor or, where the sizes are known, a number."""
    return functools.reduce(operator.mul, shape(x), 1)


@_takes_sizes
def reshape(x: Tensor, shape: Sequence) -> Tensor:
    """Give a tensor another shape, in which one size may be -1."""
    return ops.reshape(_tensor(x), _as_shape(shape))


@_entry
def flatten(x: Tensor) -> Tensor:
    """Return a tensor with one axis."""
    return ops.reshape(_tensor(x), (-1,))


@_entry
def batch_flatten(x: Tensor) -> Tensor:
    """Return a tensor with two axes, the first of which stays."""
    x = _tensor(x)
    sizes = int_shape(x)[1:]
    if None in sizes:
        return reshape(x, (shape(x)[0], -1))
    return ops.reshape(x, (-1, math.prod(sizes)))


@_entry
def concatenate(tensors: Sequence[Tensor], axis: int = -1) -> Tensor:
    """Join tensors along an axis, or shapes and lists of sizes to a shape."""
    if all(_is_shape(tensor) for tensor in tensors):
        return Shape(size for sizes in tensors for size in sizes)
    return ops.concatenate(_joinable(tensors), axis=axis)


@_entry
def stack(x: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Join tensors along a new axis, or sizes to a shape."""
    return Shape(x) if _is_shape(x) else ops.stack(_joinable(x), axis=axis)


@_entry
def prod(x: Tensor, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Tensor:
    """Multiply the elements of a tensor along axes, or the sizes of a shape."""
    return math.prod(x) if isinstance(x, Shape) else ops.prod(_tensor(x), axis, keepdims=keepdims)


@_entry
def squeeze(x: Tensor, axis: int) -> Tensor:
    """Remove an axis of size 1, or of a size that is not known yet."""
    x = _tensor(x)
    if int_shape(x)[axis] is None:
        sizes = shape(x)
        return reshape(x, sizes[:axis] + sizes[axis:][1:])
    return ops.squeeze(x, axis)


@_takes_sizes
def tile(x: Tensor, n: int | Sequence[int]) -> Tensor:
    """Repeat a tensor, `n` times along the last axis or `n[i]` times along axis `i`."""
    return ops.tile(_tensor(x), (n,) if isinstance(n, int) else _as_shape(n))


@_takes_sizes
def repeat(x: Tensor, n: int) -> Tensor:
    """Repeat `(batch, size)` to `(batch, n, size)`."""
    return ops.repeat(ops.expand_dims(_tensor(x), 1), n, axis=1)


@_takes_sizes
def repeat_elements(x: Tensor, rep: int, axis: int) -> Tensor:
    """Repeat each element along an axis, like `numpy.repeat`."""
    return ops.repeat(_tensor(x), rep, axis=axis)


@_entry
def temporal_padding(x: Tensor, padding: tuple[int, int] = (1, 1)) -> Tensor:
    """Add zeros before and after along axis 1 of `(batch, length, size)`."""
    return ops.pad(_tensor(x), ((0, 0), tuple(padding), (0, 0)))


def _spatial_padding(n_axes: int) -> Callable:
    def pad(
        x: Tensor,
        padding: Sequence[tuple[int, int]] = ((1, 1),) * n_axes,
        data_format: str | None = None,
    ) -> Tensor:
        """Add zeros before and after along the spatial axes of a batch of images or volumes."""
        amounts = [(0, 0), *map(tuple, padding)]
        amounts.insert(1 if _channels_first(data_format) else n_axes + 1, (0, 0))
        return ops.pad(_tensor(x), amounts)

    return pad


def _channels_first(data_format: str | None) -> bool:
    return normalize_data_format(data_format) == "channels_first"


def _repeated_along_space(
    x: Tensor, factors: Sequence[int], data_format: str | None, interpolation: str
) -> Tensor:
    if interpolation != "nearest":
        raise ValueError(
            f"K enlarges images by interpolation='nearest' only, not {interpolation!r}: use "
            "keras.layers.UpSampling2D or keras.ops.image.resize"
        )
    for i, factor in enumerate(factors):
        x = repeat_elements(x, factor, axis=i + 1 + _channels_first(data_format))
    return x


@_entry
def resize_images(
    x: Tensor,
    height_factor: int,
    width_factor: int,
    data_format: str | None,
    interpolation: str = "nearest",
) -> Tensor:
    """Repeat the pixels of images along both axes."""
    return _repeated_along_space(x, (height_factor, width_factor), data_format, interpolation)


@_entry
def resize_volumes(
    x: Tensor, depth_factor: int, height_factor: int, width_factor: int, data_format: str | None
) -> Tensor:
    """Repeat the voxels of volumes along all three axes."""
    factors = (depth_factor, height_factor, width_factor)
    return _repeated_along_space(x, factors, data_format, "nearest")


@_entry
def slice_(x: Tensor, start: Sequence[int], size: Sequence[int]) -> Tensor:
    """Cut out `size[i]` elements from `start[i]` on along axis `i`; -1 takes all that are left."""
    x, start, size = _tensor(x), list(start), list(size)
    return x[
        tuple(
            builtins.slice(first, None if _is_number(n) and n == -1 else first + n)
            for first, n in zip(start, size, strict=True)
        )
    ]


# === Making tensors ===


@_takes_sizes
def zeros(shape: Sequence, dtype: str | None = None, name: str | None = None) -> Tensor:
    """Return zeros, of the default float type if not said otherwise."""
    return ops.zeros(_as_shape(shape), dtype=dtype or keras.config.floatx())


@_takes_sizes
def ones(shape: Sequence, dtype: str | None = None, name: str | None = None) -> Tensor:
    """Return ones, of the default float type if not said otherwise."""
    return ops.ones(_as_shape(shape), dtype=dtype or keras.config.floatx())


@_entry
def zeros_like(x: Tensor, dtype: str | None = None, name: str | None = None) -> Tensor:
    """Return zeros in the shape of another tensor."""
    return ops.zeros_like(_tensor(x), dtype=dtype)


@_entry
def ones_like(x: Tensor, dtype: str | None = None, name: str | None = None) -> Tensor:
    """Return ones in the shape of another tensor."""
    return ops.ones_like(_tensor(x), dtype=dtype)


@_takes_sizes
def eye(size: int, dtype: str | None = None, name: str | None = None) -> Tensor:
    """Return an identity matrix."""
    return ops.eye(size, dtype=dtype or keras.config.floatx())


@_takes_sizes
def arange(start: int, stop: int | None = None, step: int = 1, dtype: str = "int32") -> Tensor:
    """Return the numbers from `start` to before `stop`, or from 0 to before `start`."""
    start, stop = (0, start) if stop is None else (start, stop)
    limits = (start, stop, step)
    if not any(map(_is_float, limits)):
        return ops.arange(*limits, dtype=dtype)
    floats = [ops.cast(x, keras.config.floatx()) if _is_strong(x) else x for x in limits]
    return ops.cast(ops.arange(*floats, dtype=keras.config.floatx()), dtype)


@_entry
def constant(
    value: Tensor, dtype: str | None = None, shape: Sequence | None = None, name: str | None = None
) -> Tensor:
    """Return a tensor of fixed values, a single one of which fills the shape."""
    value = np.asarray(value, dtype=dtype or keras.config.floatx())
    if shape is not None:
        value = np.full(shape, value) if value.size == 1 else np.reshape(value, shape)
    return ops.convert_to_tensor(value)


@_takes_sizes
def one_hot(indices: Tensor, num_classes: int) -> Tensor:
    """Return vectors with a 1 at the index, in the default float type."""
    indices = ops.cast(_tensor(indices), "int32")
    return ops.one_hot(indices, num_classes, dtype=keras.config.floatx())


# === Types ===


@_entry
def dtype(x: Tensor) -> str:
    """Return the name of the type, such as 'float32'."""
    return keras.backend.standardize_dtype(x.dtype)


@_entry
def cast(x: Tensor, dtype: str) -> Tensor:
    """Convert to another type."""
    return ops.cast(_packed(x), dtype)


@_entry
def cast_to_floatx(x: Tensor) -> Tensor:
    """Convert to the default float type; NumPy arrays stay such."""
    if isinstance(x, np.ndarray):
        return x.astype(keras.config.floatx())
    return cast(x, keras.config.floatx())


def _packed(x: Any) -> Any:
    """Make an array or a tensor of a list or a shape, in which there may be tensors.

    Variables become their values: not all functions of `keras.ops` take variables.
    """
    if not isinstance(x, list | tuple):
        return x.value if isinstance(x, keras.Variable) else x
    parts = [_packed(part) for part in x]
    if any(_is_strong(part) for part in parts):
        return ops.stack(_joinable(parts))
    return np.array(parts, dtype="int32" if isinstance(x, Shape) else None)


def _is_strong(x: Any) -> bool:
    """Tell whether others take the type of this: a tensor or a variable, nothing of NumPy."""
    return hasattr(x, "dtype") and not isinstance(x, np.ndarray | np.generic)


def _is_float(x: Any) -> bool:
    return "float" in str(x.dtype) if hasattr(x, "dtype") else isinstance(x, float)


def _common_type(values: Sequence[Any], comparing: bool = False) -> str | None:
    """Name the type in which values meet; None for integers without a tensor among them.

    Args:
        values: tensors, variables, arrays and numbers.
        comparing: in float16 not all integers differ, so they meet in the default float type.
    """
    types = [dtype(x) for x in values if _is_strong(x)]
    floats = [name for name in types if "float" in name]
    if floats and comparing and len(floats) < len(values):
        floats.append(keras.config.floatx())
    if floats:
        return keras.backend.result_type(*floats)
    if any(map(_is_float, values)):
        return keras.config.floatx()
    return keras.backend.result_type(*types) if types else None


def _converted(x: Any, wanted: str | None) -> Tensor:
    """Convert to a tensor of a type; of its own type for None."""
    x = x if _is_strong(x) else ops.convert_to_tensor(x)
    return x if wanted in (None, dtype(x)) else ops.cast(x, wanted)


def _tensor(x: Any) -> Tensor:
    """Make a tensor of what is one, or an array, a number or a list."""
    x = _packed(x)
    return x if _is_strong(x) else _converted(x, _common_type([x]))


def _float_tensor(x: Any) -> Tensor:
    """Make a tensor of floats."""
    x = _tensor(x)
    return x if _is_float(x) else ops.cast(x, keras.config.floatx())


def _alike(*values: Any, comparing: bool = False) -> list[Any]:
    """Give values the type in which they meet; numbers stay numbers."""
    values = [x.item() if isinstance(x, np.generic) else _packed(x) for x in values]
    common = _common_type(values, comparing)
    return [x if isinstance(x, int | float) else _converted(x, common) for x in values]


def _joinable(values: Sequence[Any]) -> list[Tensor]:
    """Give values the type in which they meet, numbers as tensors too."""
    values = [_packed(x) for x in values]
    common = _common_type(values)
    return [_converted(x, common) for x in values]


@_entry
def is_variable(x: Any) -> bool:
    """Tell whether this is a variable of Keras or of the backend."""
    return isinstance(x, keras.Variable) or (ops.is_tensor(x) and hasattr(x, "assign"))


@_entry
def is_tensor(x: Any) -> bool:
    """Tell whether this is a tensor or a variable, symbolic ones included."""
    return _is_strong(x)


@_entry
def is_placeholder(x: Any) -> bool:
    """Tell whether this is a `keras.Input`."""
    operation = (keras_private.history(x) or [None])[0]
    return isinstance(operation, keras.layers.InputLayer)


@_entry
def is_sparse(tensor: Tensor) -> bool:
    """Tell whether a tensor keeps its non-zero elements only."""
    return bool(getattr(tensor, "sparse", False)) or "Sparse" in type(tensor).__name__


@_entry
def to_dense(tensor: Tensor) -> Tensor:
    """Return a tensor that keeps all its elements."""
    return ops.convert_to_tensor(tensor, sparse=False) if is_sparse(tensor) else tensor


# === Elements ===


@_entry
def clip(x: Tensor, min_value: float | None, max_value: float | None) -> Tensor:
    """Limit the values; None is no limit, and a maximum under the minimum counts as the minimum."""
    limits = [limit for limit in (max_value, min_value) if limit is not None]
    x, *limits = _alike(x, *limits)
    if max_value is not None:
        x = ops.minimum(x, limits[0])
    return x if min_value is None else ops.maximum(x, limits[-1])


@_entry
def sqrt(x: Tensor) -> Tensor:
    """Return the square root, 0 for negative values."""
    return ops.sqrt(ops.maximum(_float_tensor(x), 0.0))


@_entry
def relu(
    x: Tensor, alpha: float = 0.0, max_value: float | None = None, threshold: float = 0.0
) -> Tensor:
    """Return `x` above the threshold, `alpha * (x - threshold)` below, at most `max_value`."""
    x = _float_tensor(x)
    x = ops.where(ops.greater(x, threshold), x, alpha * ops.subtract(x, threshold))
    return clip(x, None, max_value)


@_entry
def l2_normalize(x: Tensor, axis: int | Sequence[int] | None = None) -> Tensor:
    """Divide by the Euclidean norm along axes, which is taken for 1e-6 at least."""
    x = _float_tensor(x)
    square = ops.sum(ops.square(x), axis=axis, keepdims=True)
    return x * ops.rsqrt(ops.maximum(square, 1e-12))


@_entry
def hard_sigmoid(x: Tensor) -> Tensor:
    """Return `0.2 * x + 0.5`, limited to 0 and 1; that of `keras.ops` has another slope."""
    return ops.clip(0.2 * _float_tensor(x) + 0.5, 0.0, 1.0)


@_entry
def batch_normalization(
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    beta: Tensor | None,
    gamma: Tensor | None,
    axis: int = -1,
    epsilon: float = 1e-3,
) -> Tensor:
    """Return `gamma * (x - mean) / sqrt(var + epsilon) + beta`, each along an axis of `x`."""
    x = _float_tensor(x)
    sizes = [1] * ndim(x)
    sizes[axis] = -1

    def along_axis(values: Tensor) -> Tensor:
        values = ops.cast(_tensor(values), dtype(x))
        return ops.reshape(values, sizes) if ndim(values) == 1 else values

    x = (x - along_axis(mean)) * ops.rsqrt(along_axis(var) + epsilon)
    x = x if gamma is None else x * along_axis(gamma)
    return x if beta is None else x + along_axis(beta)


@_entry
def normalize_batch_in_training(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    reduction_axes: Sequence[int],
    epsilon: float = 1e-3,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise a batch by its own moments, and return these too: the result, mean, variance."""
    x = _float_tensor(x)
    axes = tuple(axis % ndim(x) for axis in reduction_axes)
    mean, var = (moment(x, axis=axes, keepdims=True) for moment in (ops.mean, ops.var))
    sizes = [1 if axis in axes else size for axis, size in enumerate(int_shape(x))]
    gamma, beta = (v if v is None else ops.reshape(_tensor(v), sizes) for v in (gamma, beta))
    normed = batch_normalization(x, mean, var, beta, gamma, epsilon=epsilon)
    return normed, ops.squeeze(mean, axes), ops.squeeze(var, axes)


@_entry
def in_top_k(predictions: Tensor, targets: Tensor, k: int) -> Tensor:
    """Tell for each row whether the target is among the `k` highest predictions.

    Args:
        predictions: `(batch, classes)`.
        targets: `(batch,)`, numbers of classes.
        k: how many.
    """
    return ops.in_top_k(ops.cast(_tensor(targets), "int32"), _float_tensor(predictions), k)


@_entry
def print_tensor(x: Tensor, message: str = "") -> Tensor:
    """Return a tensor that prints its value, behind a message, where it is computed."""
    return PrintedTensor(message)(x) if isinstance(x, keras.KerasTensor) else _printed(x, message)


def _printed(x: Tensor, message: str) -> Tensor:
    match keras.backend.backend():
        case "tensorflow":
            import tensorflow as tf

            with tf.control_dependencies([tf.print(message, x)]):
                return tf.identity(x)
        case "jax":
            import jax

            jax.debug.print("{} {}", message, x)
        case "torch":
            print(message, x)
    return x


@keras.saving.register_keras_serializable(package="bert4keras")
class PrintedTensor(keras.Operation):
    """A node of a functional model that prints its input, see `print_tensor`."""

    def __init__(self, message: str, name: str | None = None):
        super().__init__(name=name)
        self.message = message

    def call(self, x: Tensor) -> Tensor:
        """Print and return the input."""
        return _printed(x, self.message)

    def compute_output_spec(self, x: keras.KerasTensor) -> keras.KerasTensor:
        """Return what is like the input."""
        return keras.KerasTensor(x.shape, dtype=x.dtype)

    def get_config(self) -> dict:
        """Return the constructor's arguments."""
        return {"message": self.message, "name": self.name}


@_entry
def identity(x: Tensor, name: str | None = None) -> Tensor:
    """Return a copy."""
    return ops.copy(_tensor(x))


@_entry
def stop_gradient(variables: Tensor | Sequence[Tensor]) -> Tensor | list[Tensor]:
    """Let no gradient through, for a tensor or each tensor of a list."""
    if isinstance(variables, list | tuple):
        return [ops.stop_gradient(_tensor(x)) for x in variables]
    return ops.stop_gradient(_tensor(variables))


@_entry
def gather(reference: Tensor, indices: Tensor) -> Tensor:
    """Return rows of a tensor, in the shape of the indices."""
    return ops.take(_tensor(reference), ops.cast(_tensor(indices), "int32"), axis=0)


@_entry
def reverse(x: Tensor, axes: int | Sequence[int]) -> Tensor:
    """Turn a tensor around along axes."""
    return ops.flip(_tensor(x), axis=axes if isinstance(axes, int) else tuple(axes))


@_entry
def permute_dimensions(x: Tensor, pattern: Sequence[int]) -> Tensor:
    """Reorder the axes."""
    return ops.transpose(_tensor(x), axes=tuple(pattern))


@_entry
def transpose(x: Tensor) -> Tensor:
    """Turn the order of the axes around."""
    x = _tensor(x)
    return ops.transpose(x, axes=tuple(reversed(range(ndim(x)))))


# === Products ===


@_entry
def dot(x: Tensor, y: Tensor) -> Tensor:
    """Sum over the last axis of `x` and the last but one of `y`; their other axes follow in order.

    `(a, b, c)` and `(d, c, e)` give `(a, b, d, e)`, as in `numpy.dot`.
    """
    x, y = _joinable([x, y])
    # Not ops.dot, which multiplies batches on PyTorch, nor ops.tensordot, which stumbles over
    # unknown sizes.
    return _contract(x, y, ndim(x) - 1, max(ndim(y) - 2, 0), batch_axes=0)


def _contract(x: Tensor, y: Tensor, x_axis: int, y_axis: int, batch_axes: int) -> Tensor:
    """Sum over an axis of each; leading batch axes are common, the other axes follow in order."""
    # Keras takes small letters only.
    x_letters, y_letters = string.ascii_lowercase[:13], list(string.ascii_lowercase[13:])
    x_letters, y_letters = x_letters[: ndim(x)], y_letters[: ndim(y)]
    y_letters[:batch_axes] = x_letters[:batch_axes]
    y_letters[y_axis] = summed = x_letters[x_axis]
    kept = [letter for letter in (*x_letters, *y_letters[batch_axes:]) if letter != summed]
    return ops.einsum(f"{x_letters},{''.join(y_letters)}->{''.join(kept)}", x, y)


@_entry
def batch_dot(x: Tensor, y: Tensor, axes: int | Sequence[int] | None = None) -> Tensor:
    """Multiply two batches and sum over one axis of each.

    Args:
        x: `(batch, ...)`, of two axes at least.
        y: `(batch, ...)`, of two axes at least.
        axes: the axis of `x` and the axis of `y` to sum over; one number stands for both. The
            default is the last of `x` with the last but one of `y`, or with axis 1 of a `y` of
            two axes.

    Returns:
        The batch axis, the other axes of `x`, the other axes of `y`; `(batch, 1)` for two inputs
        of two axes.

    Raises:
        ValueError: an input has fewer than two axes, or `axes` contains axis 0 or several axes.
    """
    x, y = _joinable([x, y])
    x_ndim, y_ndim = ndim(x), ndim(y)
    if min(x_ndim, y_ndim) < 2:
        raise ValueError(
            f"K.batch_dot needs a batch axis and another one, but the inputs have shapes "
            f"{int_shape(x)} and {int_shape(y)}; K.dot multiplies single vectors"
        )
    if axes is None:
        axes = (x_ndim - 1, max(y_ndim - 2, 1))
    elif isinstance(axes, int):
        axes = (axes, axes)
    if len(axes) != 2 or not all(isinstance(axis, int) for axis in axes):
        raise ValueError(f"K.batch_dot sums over one axis of each input, but got axes={axes}")
    x_axis, y_axis = axes[0] % x_ndim, axes[1] % y_ndim
    if 0 in (x_axis, y_axis):
        raise ValueError(f"K.batch_dot cannot sum over the batch axis, but got axes={axes}")
    result = _contract(x, y, x_axis, y_axis, batch_axes=1)
    return ops.expand_dims(result, 1) if ndim(result) == 1 else result


@_entry
def bias_add(x: Tensor, bias: Tensor, data_format: str | None = None) -> Tensor:
    """Add a bias to a batch.

    Args:
        x: `(batch, ..., channels)`, or `(batch, channels, ...)` for 'channels_first'.
        bias: `(channels,)`, or `(..., channels)` for all axes of `x` but the first.
        data_format: 'channels_last' or 'channels_first'; that of `keras.config` by default.

    Raises:
        ValueError: the format is unknown or the bias has another number of axes.
    """
    x, bias = _joinable([x, bias])
    if ndim(bias) not in (1, ndim(x) - 1):
        raise ValueError(
            f"K.bias_add needs a bias of 1 axis or of {ndim(x) - 1}, one fewer than x, but its "
            f"shape is {int_shape(bias)}"
        )
    if _channels_first(data_format) and ndim(x) > 2:
        # As Keras 2 does it: not transposed, but laid out anew.
        *others, channels = shape(bias)
        bias = reshape(bias, (1, channels, *(others or [1] * (ndim(x) - 2))))
    return ops.add(x, bias)


@_entry
def normalize_data_format(value: str | None) -> str:
    """Return 'channels_first' or 'channels_last', which is that of `keras.config` for None.

    Raises:
        ValueError: it is something else.
    """
    value = value or keras.config.image_data_format()
    if value not in ("channels_first", "channels_last"):
        raise ValueError(f"data_format is 'channels_last' or 'channels_first', but got {value!r}")
    return value


@_entry
def conv1d(
    x: Tensor,
    kernel: Tensor,
    strides: int = 1,
    padding: str = "valid",
    data_format: str | None = None,
    dilation_rate: int = 1,
) -> Tensor:
    """Convolve sequences with a kernel `(size, channels, filters)`.

    The padding is 'valid', 'same', or 'causal': zeros before the sequence, as many as the kernel
    reaches back.
    """
    x, kernel = _joinable([x, kernel])
    if padding == "causal":
        reach = dilation_rate * (int_shape(kernel)[0] - 1)
        amounts = [(0, 0), (0, 0)]
        amounts.insert(1 + _channels_first(data_format), (reach, 0))
        x, padding = ops.pad(x, amounts), "valid"
    return ops.conv(x, kernel, strides, padding, data_format, dilation_rate)


def _convolution(function: Callable, n_kernels: int = 1) -> Callable:
    """Offer a convolution, whose arguments behind the kernels `keras.ops` has in the same order."""

    def convolve(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Convolve a batch, see the function of `keras.ops`."""
        names = ("kernel",) if function is ops.conv else ("depthwise_kernel", "pointwise_kernel")
        kernels = [*args[:n_kernels], *(kwargs.pop(k) for k in names if k in kwargs)]
        return function(*_joinable([x, *kernels]), *args[n_kernels:], **kwargs)

    return convolve


def _pooling(
    x: Tensor,
    pool_size: Sequence[int],
    strides: int | Sequence[int] = 1,
    padding: str = "valid",
    data_format: str | None = None,
    pool_mode: str = "max",
) -> Tensor:
    """Pool over the spatial axes of a batch; the mode is 'max' or 'avg'."""
    return pooling(pool_mode)(_float_tensor(x), tuple(pool_size), strides, padding, data_format)


def pooling(mode: str) -> Callable:
    """The function of `keras.ops` that pools by a mode, 'max' or 'avg'."""
    modes = {"max": ops.max_pool, "avg": ops.average_pool}
    if mode not in modes:
        raise ValueError(f"pool_mode must be 'max' or 'avg', not {mode!r}")
    return modes[mode]


# === Losses ===


@_entry
def binary_crossentropy(target: Tensor, output: Tensor, from_logits: bool = False) -> Tensor:
    """Return the cross-entropy of each element."""
    target, output = _tensor(target), _float_tensor(output)
    return ops.binary_crossentropy(_like(target, output), output, from_logits=from_logits)


@_entry
def categorical_crossentropy(
    target: Tensor, output: Tensor, from_logits: bool = False, axis: int = -1
) -> Tensor:
    """Return the cross-entropy along an axis."""
    target, output = _tensor(target), _float_tensor(output)
    # Keras tells the shape of a symbolic result only for the last axis.
    target, output = ops.moveaxis(target, axis, -1), ops.moveaxis(output, axis, -1)
    return ops.categorical_crossentropy(_like(target, output), output, from_logits=from_logits)


@_entry
def sparse_categorical_crossentropy(
    target: Tensor, output: Tensor, from_logits: bool = False, axis: int = -1
) -> Tensor:
    """Return the cross-entropy along an axis with the class of a given number.

    Args:
        target: the numbers, of any type, in the shape of `output` without the axis; a last axis
            of 1 may follow, or all may stand in one row.
        output: probabilities, or logits.
        from_logits: whether `output` are logits, False by default.
        axis: the axis of the classes, the last by default.

    Returns:
        A tensor of the shape of `output` without the axis.
    """
    target, output = _tensor(target), _float_tensor(output)
    # Keras on TensorFlow only takes the last axis.
    output = ops.moveaxis(output, axis, -1)
    target = _in_shape(target, shape(output)[:-1])
    return ops.sparse_categorical_crossentropy(
        ops.cast(target, "int32"), output, from_logits=from_logits
    )


def _like(target: Tensor, output: Tensor) -> Tensor:
    """Convert labels to the type and shape of the predictions."""
    return ops.cast(_in_shape(target, shape(output)), output.dtype)


def _in_shape(target: Tensor, sizes: Shape) -> Tensor:
    """Give labels the shape that Keras compares with, in which unknown sizes differ from known."""
    known = tuple(size if _is_number(size) else None for size in sizes)
    return target if int_shape(target) == known else reshape(target, sizes)


# === Random numbers ===


@_takes_sizes
def random_normal(
    shape: Sequence,
    mean: float = 0.0,
    stddev: float = 1.0,
    dtype: str | None = None,
    seed: int | keras.random.SeedGenerator | None = None,
) -> Tensor:
    """Draw from a normal distribution."""
    return keras.random.normal(_as_shape(shape), mean, stddev, dtype=dtype, seed=seed)


@_takes_sizes
def truncated_normal(
    shape: Sequence,
    mean: float = 0.0,
    stddev: float = 1.0,
    dtype: str | None = None,
    seed: int | keras.random.SeedGenerator | None = None,
) -> Tensor:
    """Draw from a normal distribution, nothing further than two deviations from the mean."""
    return keras.random.truncated_normal(_as_shape(shape), mean, stddev, dtype=dtype, seed=seed)


@_takes_sizes
def random_uniform(
    shape: Sequence,
    minval: float = 0.0,
    maxval: float = 1.0,
    dtype: str | None = None,
    seed: int | keras.random.SeedGenerator | None = None,
) -> Tensor:
    """Draw numbers from `minval` to below `maxval`, integers if `dtype` says so."""
    dtype = None if dtype is None else keras.backend.standardize_dtype(dtype)
    draw = keras.random.randint if dtype and "int" in dtype else keras.random.uniform
    return draw(_as_shape(shape), minval, maxval, dtype=dtype, seed=seed)


@_takes_sizes
def random_binomial(
    shape: Sequence,
    p: float = 0.0,
    dtype: str | None = None,
    seed: int | keras.random.SeedGenerator | None = None,
) -> Tensor:
    """Draw 1 with probability `p`, otherwise 0."""
    drawn = keras.random.uniform(_as_shape(shape), seed=seed)
    return ops.cast(ops.less(drawn, p), dtype or keras.config.floatx())


@_takes_sizes
def dropout(
    x: Tensor,
    level: float,
    noise_shape: Sequence | None = None,
    seed: int | keras.random.SeedGenerator | None = None,
) -> Tensor:
    """Set a fraction `level` of the elements to 0 and scale the others up."""
    noise_shape = None if noise_shape is None else _as_shape(noise_shape)
    return keras.random.dropout(_float_tensor(x), level, noise_shape=noise_shape, seed=seed)


# === Variables ===


@_entry
def variable(
    value: Tensor,
    dtype: str | None = None,
    name: str | None = None,
    constraint: Callable | None = None,
) -> keras.Variable:
    """Return a new variable, of the default float type if not said otherwise."""
    created = keras.Variable(value, dtype=dtype or keras.config.floatx(), name=name)
    created.constraint = constraint
    return created


@_entry
def random_uniform_variable(
    shape: Sequence[int],
    low: float,
    high: float,
    dtype: str | None = None,
    name: str | None = None,
    seed: int | None = None,
) -> keras.Variable:
    """Return a new variable of numbers from `low` to below `high`."""
    return variable(random_uniform(shape, low, high, seed=seed), dtype, name)


@_entry
def random_normal_variable(
    shape: Sequence[int],
    mean: float,
    scale: float,
    dtype: str | None = None,
    name: str | None = None,
    seed: int | None = None,
) -> keras.Variable:
    """Return a new variable of numbers from a normal distribution of deviation `scale`."""
    return variable(random_normal(shape, mean, scale, seed=seed), dtype, name)


@_entry
def moving_average_update(x: keras.Variable, value: Tensor, momentum: float) -> Tensor:
    """Move a variable to `momentum * x + (1 - momentum) * value`, and return that."""
    return x.assign(x - (x - ops.cast(_tensor(value), x.dtype)) * (1 - momentum))


@_entry
def update(x: keras.Variable, new_x: Tensor) -> Tensor:
    """Give a variable a new value and return that."""
    return x.assign(new_x)


@_entry
def update_add(x: keras.Variable, increment: Tensor) -> Tensor:
    """Add to a variable and return its new value."""
    return x.assign_add(increment)


@_entry
def update_sub(x: keras.Variable, decrement: Tensor) -> Tensor:
    """Subtract from a variable and return its new value."""
    return x.assign_sub(decrement)


@_entry
def get_value(x: Tensor) -> np.ndarray:
    """Return the value of a variable or tensor as a NumPy array.

    Raises:
        ValueError: the tensor is symbolic.
    """
    if isinstance(x, keras.KerasTensor):
        raise ValueError(
            f"{x} belongs to a functional model and has no value. Build keras.Model(inputs, x) "
            "and call it or its predict()."
        )
    return ops.convert_to_numpy(x)


@_entry
def set_value(x: keras.Variable, value: Tensor) -> None:
    """Give a variable a new value."""
    x.assign(value)


# The argument has the name that Keras 2 gives it, although it hides the module.
@_entry
def batch_get_value(ops: Sequence[Tensor]) -> list[np.ndarray]:
    """Return the values of several variables."""
    return [get_value(x) for x in ops]


@_entry
def batch_set_value(tuples: Sequence[tuple[keras.Variable, Tensor]]) -> None:
    """Give several variables new values."""
    for x, value in tuples:
        x.assign(value)


# === Control ===


@keras.saving.register_keras_serializable(package="bert4keras")
class TrainPhase(keras.layers.Layer):
    """Return the first input in training and the second otherwise."""

    def __init__(self, **kwargs):
        super().__init__(autocast=False, **kwargs)

    def call(self, inputs: Sequence[Tensor], training: bool | None = None) -> Tensor:
        """Return one of two inputs."""
        return inputs[0] if training else inputs[1]

    def compute_output_spec(self, inputs: Sequence[Tensor], training: bool | None = None):
        """Return what both inputs have in common."""
        sizes = zip(inputs[0].shape, inputs[1].shape, strict=True)
        return keras.KerasTensor([a if a == b else None for a, b in sizes], inputs[0].dtype)

    def compute_mask(self, inputs: Sequence[Tensor], previous_mask=None):
        """Return the mask of the second input, or else of the first."""
        masks = previous_mask or [None, None]
        return masks[1] if masks[1] is not None else masks[0]


class PhaseProbe(keras.layers.Layer):
    """Note whether the layer around it is called in training."""

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Return the inputs."""
        self.in_training = bool(training)
        return inputs


def _value(x: Tensor | Callable) -> Tensor:
    return x() if callable(x) else x


@_entry
def learning_phase() -> int:
    """Return 1 inside a layer that is called in training, otherwise 0.

    There is no phase outside the call of a layer: a functional model is built once for both. Let
    `K.in_train_phase` choose there, which does it when the model runs.
    """
    probe = PhaseProbe()
    probe(np.zeros(1, dtype="float32"))
    return int(probe.in_training)


@_entry
def in_train_phase(x: Tensor | Callable, alt: Tensor | Callable, training=None) -> Tensor:
    """Return `x` in training and `alt` otherwise; each may be a function.

    Args:
        x: what to return in training.
        alt: what to return in inference.
        training: a number, a bool or a scalar tensor; by default what the running layer or model
            was called with.
    """
    if training is not None:
        return switch(training, x, alt)
    return TrainPhase()(_joinable([_value(x), _value(alt)]))


@_entry
def in_test_phase(x: Tensor | Callable, alt: Tensor | Callable, training=None) -> Tensor:
    """Return `x` in inference and `alt` in training, see `in_train_phase`."""
    return in_train_phase(alt, x, training=training)


@_entry
def switch(
    condition: Tensor,
    then_expression: Tensor | Callable,
    else_expression: Tensor | Callable,
) -> Tensor:
    """Choose between two values, whole ones or element by element.

    Args:
        condition: a scalar, or a tensor with at most the axes of the values; axes of size 1 are
            added behind its own.
        then_expression: what to return where the condition holds, or a function of no arguments.
        else_expression: what to return elsewhere, or a function of no arguments. If the condition
            is a scalar tensor, only one of two functions runs; in a functional model both do.

    Raises:
        ValueError: the condition has more axes than the values.
    """
    if isinstance(condition, bool | int | float | np.bool_):
        return _value(then_expression if condition else else_expression)
    condition = ops.cast(_packed(condition), "bool")
    symbolic = isinstance(condition, keras.KerasTensor)
    if ndim(condition) == 0 and not symbolic and callable(then_expression):
        return ops.cond(condition, then_expression, lambda: _value(else_expression))
    then_value, else_value = _joinable([_value(then_expression), _value(else_expression)])
    missing = ndim(then_value) - ndim(condition)
    if missing < 0:
        raise ValueError(
            f"K.switch got a condition of shape {int_shape(condition)} for values of shape "
            f"{int_shape(then_value)}: it must not have more axes than they"
        )
    if ndim(condition) > 0:
        for _ in range(missing):
            condition = ops.expand_dims(condition, -1)
    return ops.where(condition, then_value, else_value)


@_entry
def where(condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Choose element by element; the three are broadcast."""
    return ops.where(ops.cast(_packed(condition), "bool"), *_alike(x, y))


@_entry
def rnn(
    step_function: Callable,
    inputs: Tensor,
    initial_states: Sequence[Tensor],
    go_backwards: bool = False,
    mask: Tensor | None = None,
    constants: Sequence[Tensor] | None = None,
    unroll: bool = False,
    input_length: int | None = None,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Run a function over the time axis. To be called inside a layer.

    Args:
        step_function: takes the inputs of a step, `(batch, ...)`, and the list of states followed
            by the constants; returns the output of the step, `(batch, ...)`, and the new states.
        inputs: `(batch, time, ...)`.
        initial_states: tensors `(batch, ...)`, in the shape and type of the states.
        go_backwards: whether to run from the last step to the first; the outputs are in the order
            of running then.
        mask: `(batch, time)` or `(batch, time, 1)`. Where it is false the states stay and the
            output is that of the step before, zero at the first.
        constants: passed to each step.
        unroll: whether to write out the steps, whose number must be known.
        input_length: not needed.

    Returns:
        The last output, all outputs `(batch, time, ...)`, and the list of the last states.

    Raises:
        TypeError: the inputs are symbolic.
    """
    if isinstance(inputs, keras.KerasTensor):
        raise TypeError(
            "K.rnn runs inside a layer. Put it in the call() of a keras.layers.Layer, or write "
            "the step as a cell for keras.layers.RNN."
        )
    constants = list(constants or [])
    inputs = ops.swapaxes(ops.convert_to_tensor(inputs), 0, 1)
    batch = ops.shape(inputs)[1]
    visible = ops.ones((ops.shape(inputs)[0], batch), dtype="bool")
    if mask is not None:
        visible = ops.swapaxes(reshape(ops.cast(mask, "bool"), ops.shape(mask)[:2]), 0, 1)
    if go_backwards:
        inputs, visible = ops.flip(inputs, axis=0), ops.flip(visible, axis=0)

    def step(carried, current):
        step_inputs, step_visible = current
        output, states = step_function(step_inputs, [*carried[1:], *constants])
        if mask is not None:
            output, *states = (
                switch(step_visible, new, old)
                for new, old in zip([output, *states], carried, strict=True)
            )
        carried = [output, *states]
        # ops.scan on TensorFlow requires that what is stacked is like what is carried.
        return carried, carried

    states = [ops.convert_to_tensor(state) for state in initial_states]
    # Only its shape and type count. They cannot be told without a call.
    first_output = ops.zeros_like(step_function(inputs[0], [*states, *constants])[0])
    if unroll:
        carried, outputs = [first_output, *states], []
        for time in range(inputs.shape[0]):
            carried, _ = step(carried, (inputs[time], visible[time]))
            outputs.append(carried[0])
        outputs = ops.stack(outputs)
    else:
        from bert4keras.backend import scan  # which imports this module

        carried, history = scan(step, [first_output, *states], (inputs, visible))
        outputs = history[0]
    return carried[0], ops.swapaxes(outputs, 0, 1), list(carried[1:])


@_entry
def map_fn(fn: Callable, elems: Any, name: str | None = None, dtype: str | None = None) -> Tensor:
    """Apply a function to each element along axis 0, and stack the results."""
    return ops.map(fn, _tensor(elems) if isinstance(elems, np.ndarray) else elems)


@_entry
def foldl(
    fn: Callable, elems: Tensor, initializer: Tensor | None = None, name: str | None = None
) -> Tensor:
    """Combine the elements along axis 0 by `fn(so_far, element)`; inside of a layer.

    Args:
        fn: a function of two tensors of the same shape and type.
        elems: a tensor.
        initializer: what to begin with, by default the first element.
        name: not needed.
    """
    from bert4keras.backend import fold  # which imports this module

    elems = _tensor(elems)
    if initializer is None:
        initializer, elems = elems[0], elems[1:]
    return fold(fn, _converted(initializer, dtype(elems)), elems)


@_entry
def foldr(
    fn: Callable, elems: Tensor, initializer: Tensor | None = None, name: str | None = None
) -> Tensor:
    """Combine the elements from the last to the first, see `foldl`."""
    return foldl(fn, ops.flip(_tensor(elems), axis=0), initializer)


@_entry
def name_scope(name: str) -> contextlib.AbstractContextManager:
    """Return a context in which new variables have `name` in their path."""
    return keras.name_scope(name)


# === Methods and functions of Keras 2 and of older versions that scripts are rewritten to use ===


@dataclass(frozen=True)
class LayerCall:
    """A call of a layer on symbolic tensors, with the names that a node of Keras 2 has.

    Attributes:
        outbound_layer: the layer that was called.
        inbound_layers: the layers that gave it its inputs.
        input_tensors: the inputs, as are the next three one for each tensor.
        output_tensors: the outputs.
        input_masks: their masks, symbolic tensors or None.
        output_masks: their masks.
    """

    outbound_layer: keras.Layer
    inbound_layers: list[keras.Layer]
    input_tensors: list[Tensor]
    output_tensors: list[Tensor]
    input_masks: list[Tensor | None]
    output_masks: list[Tensor | None]

    @property
    def input_shapes(self) -> Any:
        """The shape of the input, or a list of several."""
        return _single([int_shape(x) for x in self.input_tensors])

    @property
    def output_shapes(self) -> Any:
        """The shape of the output, or a list of several."""
        return _single([int_shape(x) for x in self.output_tensors])


def _layer_call(node: Any) -> LayerCall:
    inputs, outputs = list(node.input_tensors), list(node.output_tensors)
    return LayerCall(
        outbound_layer=node.operation,
        inbound_layers=[keras_private.history(x)[0] for x in inputs],
        input_tensors=inputs,
        output_tensors=outputs,
        input_masks=[_mask_of(x) for x in inputs],
        output_masks=[_mask_of(x) for x in outputs],
    )


def _mask_of(x: Tensor) -> Tensor | None:
    return keras_private.mask_of(x)


def _single(values: list) -> Any:
    return values[0] if len(values) == 1 else values


def inbound_nodes(layer: keras.Layer) -> list[LayerCall]:
    """What `layer.inbound_nodes` was: the calls of a layer on symbolic tensors."""
    return [_layer_call(node) for node in keras_private.calls_of(layer)]


def outbound_nodes(layer: keras.Layer) -> list[LayerCall]:
    """What `layer.outbound_nodes` was: the calls of others on what a layer gave."""
    return [_layer_call(node) for node in keras_private.calls_on(layer)]


def _call_at(layer: keras.Layer, node_index: int | None) -> LayerCall:
    calls = inbound_nodes(layer)
    if node_index is None and len(calls) != 1:
        raise ValueError(
            f"layer {layer.name!r} has been called {len(calls)} times on symbolic tensors: name "
            "one of the calls by node_index"
        )
    node_index = node_index or 0
    if not -len(calls) <= node_index < len(calls):
        raise IndexError(
            f"layer {layer.name!r} has been called {len(calls)} times on symbolic tensors: there "
            f"is no call {node_index}"
        )
    return calls[node_index]


def output_at(layer: keras.Layer, node_index: int) -> Any:
    """What `layer.get_output_at(node_index)` was: what a layer gave when it was called.

    Args:
        layer: a layer that has been called on symbolic tensors.
        node_index: the number of the call; -1 is the last one.

    Returns:
        A symbolic tensor, or a list of several.

    Raises:
        IndexError: there are fewer calls.
    """
    return _single(_call_at(layer, node_index).output_tensors)


def input_at(layer: keras.Layer, node_index: int) -> Any:
    """What `layer.get_input_at(node_index)` was, see `output_at`."""
    return _single(_call_at(layer, node_index).input_tensors)


def output_shape_at(layer: keras.Layer, node_index: int) -> Any:
    """What `layer.get_output_shape_at(node_index)` was, see `output_at`."""
    return _call_at(layer, node_index).output_shapes


def input_shape_at(layer: keras.Layer, node_index: int) -> Any:
    """What `layer.get_input_shape_at(node_index)` was, see `output_at`."""
    return _call_at(layer, node_index).input_shapes


def output_mask(layer: keras.Layer, node_index: int | None = None) -> Any:
    """What `layer.output_mask` was, and `layer.get_output_mask_at(node_index)`.

    Args:
        layer: a layer that has been called on symbolic tensors.
        node_index: the number of the call; not needed if there is one.

    Returns:
        The mask, a symbolic tensor, or None for no mask; a list for several outputs.

    Raises:
        ValueError: there are several calls or none, and no number.
        IndexError: there are fewer calls.
    """
    return _single(_call_at(layer, node_index).output_masks)


def input_mask(layer: keras.Layer, node_index: int | None = None) -> Any:
    """What `layer.input_mask` and `layer.get_input_mask_at` were, see `output_mask`."""
    return _single(_call_at(layer, node_index).input_masks)


@keras.saving.register_keras_serializable(package="bert4keras")
class AddedLoss(keras.layers.Layer):
    """Add its last input to the loss of the model, and return the others."""

    def __init__(self, **kwargs):
        super().__init__(**{"autocast": False, **kwargs})
        self.supports_masking = True

    def call(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Add the loss, the mean of the last input."""
        self.add_loss(ops.mean(inputs[-1]))
        return list(inputs[:-1])

    def compute_mask(self, inputs: Sequence[Tensor], previous_mask=None):
        """Return the masks of the outputs."""
        return previous_mask and list(previous_mask[:-1])

    def compute_output_spec(self, inputs: Sequence[Tensor]) -> list[keras.KerasTensor]:
        """Return the outputs."""
        return [keras.KerasTensor(x.shape, dtype=x.dtype) for x in inputs[:-1]]


def with_loss(model: keras.Model, loss: Tensor) -> keras.Model:
    """What `model.add_loss(loss)` was, as a new model of the same layers.

    Args:
        model: a functional model.
        loss: a symbolic tensor that its inputs determine; a mean is taken of what is no scalar.

    Returns:
        A model of the same inputs and outputs, to be compiled without a loss. It shares all
        weights with `model`.
    """
    outputs = AddedLoss()([*keras.tree.flatten(model.output), loss])
    outputs = keras.tree.pack_sequence_as(model.output, outputs)
    return type(model)(model.input, outputs)


def groupby(iterable, key: Callable | Sequence | None = None) -> list[tuple[Any, list]]:
    """Group neighbours of the same key, as `snippets.groupby` did in some old versions.

    Args:
        iterable: the items.
        key: a function of an item, or the keys of all items; by default the items themselves.

    Returns:
        Pairs of a key and the list of its items.
    """
    items = list(iterable)
    keys = items if key is None else [key(x) for x in items] if callable(key) else key
    pairs = itertools.groupby(zip(keys, items, strict=True), operator.itemgetter(0))
    return [(each, [item for _, item in group]) for each, group in pairs]


class ModelCheckpoint(keras.callbacks.ModelCheckpoint):
    """Save a model or its weights while it is trained, in files of any name.

    What `keras.callbacks.ModelCheckpoint` was in Keras 2; that of Keras 3 prescribes the suffix.

    Args:
        filepath: the file; `{epoch:02d}`, `{val_loss:.2f}` and so on are filled in.
        monitor: the metric by which `save_best_only` tells models apart.
        verbose: whether a line is printed for each file.
        save_best_only: whether only models are saved that are better than all before.
        save_weights_only: whether only the weights are saved.
        mode: 'min', 'max', or 'auto', which goes by the name of the metric.
        period: after how many epochs to save.
        **kwargs: see `keras.callbacks.ModelCheckpoint`.
    """

    def __init__(
        self,
        filepath: Any,
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        period: int = 1,
        **kwargs: Any,
    ):
        suffix = ".weights.h5" if save_weights_only else ".keras"
        super().__init__(
            f"{filepath}{suffix}",
            monitor=monitor,
            verbose=verbose,
            save_best_only=save_best_only,
            save_weights_only=save_weights_only,
            mode=mode,
            **kwargs,
        )
        self.filepath = str(filepath)
        self.period = period
        self._epochs_since_last_save = 0

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Save, if it is time."""
        self._epochs_since_last_save += 1
        if self._epochs_since_last_save >= self.period:
            self._epochs_since_last_save = 0
            super().on_epoch_end(epoch, logs)


# === What differs by its name only ===

_UNARY: dict[str, Callable] = {
    "abs": ops.absolute,
    "round": ops.round,
    "sign": ops.sign,
    "square": ops.square,
}

_FLOAT_UNARY: dict[str, Callable] = {
    "cos": ops.cos,
    "exp": ops.exp,
    "log": ops.log,
    "sigmoid": ops.sigmoid,
    "sin": ops.sin,
    "softplus": ops.softplus,
    "softsign": ops.softsign,
    "tanh": ops.tanh,
}
"""Functions whose results are fractions."""

_COMPARISONS: dict[str, Callable] = {
    "equal": ops.equal,
    "greater": ops.greater,
    "greater_equal": ops.greater_equal,
    "less": ops.less,
    "less_equal": ops.less_equal,
    "not_equal": ops.not_equal,
}

_BINARY: dict[str, Callable] = {"maximum": ops.maximum, "minimum": ops.minimum}

_REDUCTIONS: dict[str, Callable] = {"max": ops.max, "min": ops.min, "sum": ops.sum}

_FLOAT_REDUCTIONS: dict[str, Callable] = {
    "logsumexp": ops.logsumexp,
    "mean": ops.mean,
    "std": ops.std,
    "var": ops.var,
}

_BOOL_REDUCTIONS: dict[str, Callable] = {"all": ops.all, "any": ops.any}

_OTHERS: dict[str, Callable] = {
    "argmax": lambda x, axis=-1: ops.argmax(_tensor(x), axis=axis),
    "argmin": lambda x, axis=-1: ops.argmin(_tensor(x), axis=axis),
    "backend": keras.config.backend,
    "conv2d": _convolution(ops.conv),
    "conv3d": _convolution(ops.conv),
    "cumprod": lambda x, axis=0: ops.cumprod(_tensor(x), axis=axis),
    "cumsum": lambda x, axis=0: ops.cumsum(_tensor(x), axis=axis),
    "depthwise_conv2d": _convolution(ops.depthwise_conv),
    "eager": lambda func: func,
    "elu": lambda x, alpha=1.0: ops.elu(_float_tensor(x), alpha=alpha),
    "epsilon": keras.config.epsilon,
    "eval": get_value,
    "expand_dims": lambda x, axis=-1: ops.expand_dims(_tensor(x), axis),
    "floatx": keras.config.floatx,
    "get_uid": lambda prefix="": keras.backend.get_uid(prefix),
    "image_data_format": keras.config.image_data_format,
    "is_keras_tensor": keras.utils.is_keras_tensor,
    "is_symbolic": keras.utils.is_keras_tensor,
    "pool2d": _pooling,
    "pool3d": _pooling,
    "pow": lambda x, a: ops.power(*_alike(x, a)),
    "random_bernoulli": random_binomial,
    "separable_conv1d": _convolution(ops.separable_conv, n_kernels=2),
    "separable_conv2d": _convolution(ops.separable_conv, n_kernels=2),
    "set_epsilon": keras.config.set_epsilon,
    "set_floatx": keras.config.set_floatx,
    "set_image_data_format": keras.config.set_image_data_format,
    "softmax": lambda x, axis=-1: ops.softmax(_float_tensor(x), axis=axis),
    "spatial_2d_padding": _spatial_padding(2),
    "spatial_3d_padding": _spatial_padding(3),
    "symbolic": lambda func: func,
    "clear_session": keras.utils.clear_session,
}


def _of_graphs(name: str) -> Callable:
    """A function of `bert4keras.graphs`, which imports this module."""

    def call(*args, **kwargs):
        from bert4keras import graphs

        return getattr(graphs, name)(*args, **kwargs)

    return call


_GRAPHS = {name: _of_graphs(name) for name in ("function", "gradients", "placeholder")}


def _unary(function: Callable, prepare: Callable) -> Callable:
    """Offer a function of a tensor, which is prepared first."""
    return lambda x: function(prepare(x))


def _binary(function: Callable, comparing: bool = False) -> Callable:
    """Offer a function of two tensors of one type."""
    return lambda x, y: function(*_alike(x, y, comparing=comparing))


def _reduction(function: Callable, prepare: Callable) -> Callable:
    """Offer a reduction along axes of a tensor, which is prepared first."""

    def reduce(
        x: Tensor, axis: int | Sequence[int] | None = None, keepdims: bool = False
    ) -> Tensor:
        """Reduce along axes."""
        axis = tuple(axis) if isinstance(axis, list) else axis
        return function(prepare(x), axis=axis, keepdims=keepdims)

    return reduce


def _bool_tensor(x: Any) -> Tensor:
    return ops.cast(_packed(x), "bool")


_REPLACEMENTS: dict[str, str] = {
    "control_dependencies": "nothing: what a function computes, it computes in its order",
    "conv2d_transpose": "keras.ops.conv_transpose, which knows the sizes of its output",
    "conv3d_transpose": "keras.ops.conv_transpose, which knows the sizes of its output",
    "ctc_batch_cost": "keras.losses.CTC or keras.ops.ctc_loss, where class 0 is the blank",
    "ctc_decode": "keras.ops.ctc_decode",
    "ctc_label_dense_to_sparse": "keras.losses.CTC, which takes the labels as they are",
    "image_dim_ordering": "K.image_data_format(): 'tf' was 'channels_last'",
    "local_conv1d": "keras.ops.einsum over the windows of the input, with a kernel for each",
    "local_conv2d": "keras.ops.einsum over keras.ops.image.extract_patches",
    "get_session": "nothing: tensors have values; K.get_value(x) gives them as NumPy arrays",
    "manual_variable_initialization": "nothing: variables have values from the start",
    "reset_uids": "K.clear_session()",
    "set_image_dim_ordering": "K.set_image_data_format: 'tf' was 'channels_last'",
    "set_learning_phase": "the argument training=True or False of the call of a layer or model",
    "set_session": "nothing: there are no sessions; tf.config sets the devices and threads",
}


class LegacyBackend:
    """The object `K`: a read-only set of functions.

    Raises:
        AttributeError: a function has no meaning in Keras 3, or is unknown; the message says what
            to use.
    """

    def __init__(self, functions: dict[str, Callable]):
        vars(self).update(functions)

    def __getattr__(self, name: str):
        if name == "tf":  # Before Keras 2.3 the backend handed it on.
            import tensorflow

            return tensorflow
        if name in _REPLACEMENTS:
            raise AttributeError(f"K.{name} has no meaning in Keras 3. Use {_REPLACEMENTS[name]}.")
        message = f"K has no function {name!r}."
        if hasattr(ops, name):
            message += f" Use keras.ops.{name}."
        elif close := difflib.get_close_matches(name, vars(self), n=1):
            message += f" Did you mean K.{close[0]}?"
        else:
            message += " Look for it in keras.ops."
        raise AttributeError(message)

    def __setattr__(self, name: str, value):
        raise AttributeError(f"K.{name} cannot be set: K is shared by all that import it.")

    def __repr__(self) -> str:
        return f"<K: {len(vars(self))} functions of Keras 2 over keras.ops>"


K = LegacyBackend(
    {
        **_FUNCTIONS,
        **{name: _unary(function, _tensor) for name, function in _UNARY.items()},
        **{name: _unary(function, _float_tensor) for name, function in _FLOAT_UNARY.items()},
        **{name: _binary(function, comparing=True) for name, function in _COMPARISONS.items()},
        **{name: _binary(function) for name, function in _BINARY.items()},
        **{name: _reduction(function, _tensor) for name, function in _REDUCTIONS.items()},
        **{name: _reduction(f, _float_tensor) for name, f in _FLOAT_REDUCTIONS.items()},
        **{name: _reduction(f, _bool_tensor) for name, f in _BOOL_REDUCTIONS.items()},
        **_OTHERS,
        **_GRAPHS,
    }
)
