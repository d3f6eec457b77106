"""Functions of `K` about variables."""

import contextlib
from collections.abc import Callable, Sequence

import keras
import numpy as np
from keras import ops

from bert4keras.backend.keras2.random import random_normal, random_uniform
from bert4keras.backend.keras2.types import as_tensor
from bert4keras.backend.sizes import entry
from bert4keras.backend.tensors import Tensor


@entry
def variable(
    value: Tensor,
    dtype: str | None = None,
    name: str | None = None,
    constraint: Callable | None = None,
) -> keras.Variable:
    """Return a new variable, by default of the default float type."""
    created = keras.Variable(value, dtype=dtype or keras.config.floatx(), name=name)
    created.constraint = constraint
    return created


@entry
def random_uniform_variable(
    shape: Sequence[int],
    low: float,
    high: float,
    dtype: str | None = None,
    name: str | None = None,
    seed: int | None = None,
) -> keras.Variable:
    """Return a new variable drawn uniformly from `low` to below `high`."""
    return variable(random_uniform(shape, low, high, seed=seed), dtype, name)


@entry
def random_normal_variable(
    shape: Sequence[int],
    mean: float,
    scale: float,
    dtype: str | None = None,
    name: str | None = None,
    seed: int | None = None,
) -> keras.Variable:
    """Return a new variable drawn from a normal distribution of standard deviation `scale`."""
    return variable(random_normal(shape, mean, scale, seed=seed), dtype, name)


@entry
def moving_average_update(x: keras.Variable, value: Tensor, momentum: float) -> Tensor:
    """Assign `momentum * x + (1 - momentum) * value` to a variable, and return it."""
    return x.assign(x - (x - ops.cast(as_tensor(value), x.dtype)) * (1 - momentum))


@entry
def update(x: keras.Variable, new_x: Tensor) -> Tensor:
    """Assign a new value to a variable and return it."""
    return x.assign(new_x)


@entry
def update_add(x: keras.Variable, increment: Tensor) -> Tensor:
    """Add to a variable and return its new value."""
    return x.assign_add(increment)


@entry
def update_sub(x: keras.Variable, decrement: Tensor) -> Tensor:
    """Subtract from a variable and return its new value."""
    return x.assign_sub(decrement)


@entry
def get_value(x: Tensor) -> np.ndarray:
    """Return the value of a variable or tensor as a NumPy array.

    Raises:
        ValueError: the tensor is symbolic.
    """
    if isinstance(x, keras.KerasTensor):
        raise ValueError(
            f"{x} belongs to a functional model and has no value: build keras.Model(inputs, x) "
            "and call it or its predict()"
        )
    return ops.convert_to_numpy(x)


@entry
def set_value(x: keras.Variable, value: Tensor) -> None:
    """Assign a new value to a variable."""
    x.assign(value)


# The argument has its name in Keras 2, although it hides the module.
@entry
def batch_get_value(ops: Sequence[Tensor]) -> list[np.ndarray]:
    """Return the values of several variables."""
    return [get_value(x) for x in ops]


@entry
def batch_set_value(tuples: Sequence[tuple[keras.Variable, Tensor]]) -> None:
    """Assign new values to several variables."""
    for x, value in tuples:
        x.assign(value)


@entry
def name_scope(name: str) -> contextlib.AbstractContextManager:
    """Return a context in which new variables have `name` in their path."""
    return keras.name_scope(name)
