"""Functions of `K` about types, and how values of different types meet."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from bert4keras import keras_private
from bert4keras.backend.sizes import Shape, entry
from bert4keras.backend.tensors import Tensor


@entry
def dtype(x: Tensor) -> str:
    """Return the name of the type, such as 'float32'."""
    return keras.backend.standardize_dtype(x.dtype)


@entry
def cast(x: Tensor, dtype: str) -> Tensor:
    """Convert to another type."""
    return ops.cast(packed(x), dtype)


@entry
def cast_to_floatx(x: Tensor) -> Tensor:
    """Convert to the default float type; NumPy arrays stay such."""
    if isinstance(x, np.ndarray):
        return x.astype(keras.config.floatx())
    return cast(x, keras.config.floatx())


def packed(x: Any) -> Any:
    """Make an array or a tensor of a list or a shape, in which there may be tensors.

    Variables become their values: not all functions of `keras.ops` take variables.
    """
    if not isinstance(x, list | tuple):
        return x.value if isinstance(x, keras.Variable) else x
    parts = [packed(part) for part in x]
    if any(is_strong(part) for part in parts):
        return ops.stack(joinable(parts))
    return np.array(parts, dtype="int32" if isinstance(x, Shape) else None)


def is_strong(x: Any) -> bool:
    """Tell whether others take the type of this: a tensor or a variable, nothing of NumPy."""
    return hasattr(x, "dtype") and not isinstance(x, np.ndarray | np.generic)


def is_float(x: Any) -> bool:
    """Tell whether a tensor, an array or a number is of a float type."""
    return "float" in str(x.dtype) if hasattr(x, "dtype") else isinstance(x, float)


def _common_type(values: Sequence[Any], comparing: bool = False) -> str | None:
    """Name the type in which values meet; None for integers without a tensor among them.

    Args:
        values: tensors, variables, arrays and numbers.
        comparing: in float16 not all integers differ, so they meet in the default float type.
    """
    types = [dtype(x) for x in values if is_strong(x)]
    floats = [name for name in types if "float" in name]
    if floats and comparing and len(floats) < len(values):
        floats.append(keras.config.floatx())
    if floats:
        return keras.backend.result_type(*floats)
    if any(map(is_float, values)):
        return keras.config.floatx()
    return keras.backend.result_type(*types) if types else None


def converted(x: Any, wanted: str | None) -> Tensor:
    """Convert to a tensor of a type; of its own type for None."""
    x = x if is_strong(x) else ops.convert_to_tensor(x)
    return x if wanted in (None, dtype(x)) else ops.cast(x, wanted)


def as_tensor(x: Any) -> Tensor:
    """Make a tensor of what is one, or an array, a number or a list."""
    x = packed(x)
    return x if is_strong(x) else converted(x, _common_type([x]))


def as_float_tensor(x: Any) -> Tensor:
    """Make a tensor of floats."""
    x = as_tensor(x)
    return x if is_float(x) else ops.cast(x, keras.config.floatx())


def alike(*values: Any, comparing: bool = False) -> list[Any]:
    """Give values the type in which they meet; numbers stay numbers."""
    values = [x.item() if isinstance(x, np.generic) else packed(x) for x in values]
    common = _common_type(values, comparing)
    return [x if isinstance(x, int | float) else converted(x, common) for x in values]


def joinable(values: Sequence[Any]) -> list[Tensor]:
    """Give values the type in which they meet, numbers as tensors too."""
    values = [packed(x) for x in values]
    common = _common_type(values)
    return [converted(x, common) for x in values]


@entry
def is_variable(x: Any) -> bool:
    """Tell whether this is a variable of Keras or of the backend."""
    return isinstance(x, keras.Variable) or (ops.is_tensor(x) and hasattr(x, "assign"))


@entry
def is_tensor(x: Any) -> bool:
    """Tell whether this is a tensor or a variable, symbolic ones included."""
    return is_strong(x)


@entry
def is_placeholder(x: Any) -> bool:
    """Tell whether this is a `keras.Input`."""
    operation = (keras_private.history(x) or [None])[0]
    return isinstance(operation, keras.layers.InputLayer)


@entry
def is_sparse(tensor: Tensor) -> bool:
    """Tell whether a tensor keeps its non-zero elements only."""
    return bool(getattr(tensor, "sparse", False)) or "Sparse" in type(tensor).__name__


@entry
def to_dense(tensor: Tensor) -> Tensor:
    """Return a tensor that keeps all its elements."""
    return ops.convert_to_tensor(tensor, sparse=False) if is_sparse(tensor) else tensor
