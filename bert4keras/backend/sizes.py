"""Sizes that are unknown until a model runs: what `K.shape` returns, and how `K` computes with it.

Every function of `K` is registered in `FUNCTIONS` here, so that a saved model finds it by name.
"""

import functools
import operator
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

FUNCTIONS: dict[str, Callable] = {}
_SIZE_FUNCTIONS: dict[str, Callable] = {}


def entry(function: Callable) -> Callable:
    """Register a function as `K.<its name>`."""
    FUNCTIONS[function.__name__.rstrip("_")] = function
    return function


@keras.saving.register_keras_serializable(package="bert4keras")
class SizeOperation(keras.Operation):
    """Operation of a functional model that computes a size, or computes with one.

    Some sizes of a symbolic tensor are unknown until the model runs. This operation then calls a
    function by its name, with numbers in place of `Dimension` objects.

    Args:
        function: a name in `_SIZE_FUNCTIONS`, whose functions return sizes, or in `K`.
    """

    def __init__(self, function: str, name: str | None = None):
        super().__init__(name=name)
        self.function = function

    def call(self, *args, **kwargs):
        """Call the function."""
        function = _SIZE_FUNCTIONS.get(self.function) or FUNCTIONS[self.function]
        return function(*args, **kwargs)

    def compute_output_spec(self, *args, **kwargs) -> keras.KerasTensor:
        """Return a `Dimension`, or a symbolic tensor in which only certain sizes are known."""
        if self.function in _SIZE_FUNCTIONS:
            return Dimension()
        # A size that differs between the two calls is unknown. Any two numbers would do.
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
    """Size of a symbolic tensor that is unknown until the model runs.

    It is a scalar symbolic tensor like any other. In addition, `+ - * // %` with numbers and other
    sizes give a size again, which can be part of a shape on every backend.
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
    """Sizes of a tensor: a tuple whose slices and sums (`shape[:-1] + (2, 3)`) are shapes too.

    It can be passed wherever a shape is expected, and `K.concatenate` joins it with lists of
    numbers.
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
        # This would repeat the tuple, whereas it multiplied the tensor of Keras 2.
        raise TypeError("K.shape(x) is a tuple: compute with its entries, K.shape(x)[0] * 2")

    __rmul__ = __mul__


def is_shape(x) -> bool:
    """Tell whether this is a `Shape` or a list of sizes."""
    if isinstance(x, Shape):
        return True
    return isinstance(x, list | tuple) and all(_is_size(size) for size in x)


def _is_size(x) -> bool:
    return isinstance(x, Dimension) or is_number(x)


def is_number(x) -> bool:
    """Tell whether this is an integer."""
    return isinstance(x, int | np.integer) and not isinstance(x, bool)


def takes_sizes(function: Callable) -> Callable:
    """Postpone a call until the model runs if an argument contains a `Dimension`."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        args, kwargs = _plain_tuples(args), {k: _plain_tuples(v) for k, v in kwargs.items()}
        if any(isinstance(x, Dimension) for x in keras.tree.flatten((args, kwargs))):
            return SizeOperation(function.__name__)(*args, **kwargs)
        return function(*args, **kwargs)

    return entry(call)


def _plain_tuples(x):
    """Turn `Shape` objects, which `keras.tree` takes for leaves, into tuples."""
    return tuple(map(_plain_tuples, x)) if isinstance(x, tuple) else x
