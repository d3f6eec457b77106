"""Functions of `K` about types, and the promotion of values of different types."""

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
    """Convert to the default float type; NumPy arrays remain NumPy arrays."""
    if isinstance(x, np.ndarray):
        return x.astype(keras.config.floatx())
    return cast(x, keras.config.floatx())


def packed(x: Any) -> Any:
    """Turn a list or a shape, which may contain tensors, into an array or a tensor.

    Variables become their values, since not all functions of `keras.ops` take variables.
    """
    if not isinstance(x, list | tuple):
        return x.value if isinstance(x, keras.Variable) else x
    parts = [packed(part) for part in x]
    if any(is_strongly_typed(part) for part in parts):
        return ops.stack(to_common_type_tensors(parts))
    return np.array(parts, dtype="int32" if isinstance(x, Shape) else None)


def is_strongly_typed(x: Any) -> bool:
    """Tell whether this has a type that others adopt: a tensor or a variable, not of NumPy."""
    return hasattr(x, "dtype") and not isinstance(x, np.ndarray | np.generic)


def is_float(x: Any) -> bool:
    """Tell whether a tensor, an array or a number has a float type."""
    return "float" in str(x.dtype) if hasattr(x, "dtype") else isinstance(x, float)


def _common_type(values: Sequence[Any], comparing: bool = False) -> str | None:
    """Return the name of the common type of values; None for integers without a tensor among them.

    Args:
        values: tensors, variables, arrays and numbers.
        comparing: whether they are compared: since integers can become equal in float16, they are
            compared with floats in the default float type at least.
    """
    types = [dtype(x) for x in values if is_strongly_typed(x)]
    floats = [name for name in types if "float" in name]
    if floats and comparing and len(floats) < len(values):
        floats.append(keras.config.floatx())
    if floats:
        return keras.backend.result_type(*floats)
    if any(map(is_float, values)):
        return keras.config.floatx()
    return keras.backend.result_type(*types) if types else None


def converted(x: Any, wanted: str | None) -> Tensor:
    """Convert to a tensor of a type; None keeps its own type."""
    x = x if is_strongly_typed(x) else ops.convert_to_tensor(x)
    return x if wanted in (None, dtype(x)) else ops.cast(x, wanted)


def as_tensor(x: Any) -> Tensor:
    """Convert a tensor, an array, a number or a list to a tensor."""
    x = packed(x)
    return x if is_strongly_typed(x) else converted(x, _common_type([x]))


def as_float_tensor(x: Any) -> Tensor:
    """Convert to a tensor of floats."""
    x = as_tensor(x)
    return x if is_float(x) else ops.cast(x, keras.config.floatx())


def to_common_type(*values: Any, comparing: bool = False) -> list[Any]:
    """Convert values to their common type; numbers stay numbers."""
    values = [x.item() if isinstance(x, np.generic) else packed(x) for x in values]
    common = _common_type(values, comparing)
    return [x if isinstance(x, int | float) else converted(x, common) for x in values]


def to_common_type_tensors(values: Sequence[Any]) -> list[Tensor]:
    """Convert values, numbers included, to tensors of their common type."""
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
    return is_strongly_typed(x)


@entry
def is_placeholder(x: Any) -> bool:
    """Tell whether this is a `keras.Input`."""
    operation = (keras_private.history(x) or [None])[0]
    return isinstance(operation, keras.layers.InputLayer)


@entry
def is_sparse(tensor: Tensor) -> bool:
    """Tell whether a tensor stores only its non-zero elements."""
    return bool(getattr(tensor, "sparse", False)) or "Sparse" in type(tensor).__name__


@entry
def to_dense(tensor: Tensor) -> Tensor:
    """Convert a sparse tensor to a dense one."""
    return ops.convert_to_tensor(tensor, sparse=False) if is_sparse(tensor) else tensor
