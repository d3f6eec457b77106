"""Loops along an axis, of any length."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from bert4keras.backend.engines import entries


def fold(step: Callable, state: Any, elements: Any) -> Any:
    """Run `state = step(state, element)` over axis 0 of `elements` and return the final state.

    The graph contains a single step, whatever the length, and is differentiable. `keras.ops.scan`
    does not suffice on TensorFlow, where XLA cannot differentiate its loop, which has no upper
    bound, nor on PyTorch, where the time of the gradient grows with the square of the length.

    Args:
        step: takes the state and an element, returns a state of the same shapes and types.
        state: the initial state, a tensor or a nest of them.
        elements: a tensor (length, ...) or a nest of them.
    """
    if keras.backend.backend() == "jax":
        return ops.scan(lambda state, element: (step(state, element), None), state, elements)[0]
    shape: Any = ops.shape(keras.tree.flatten(elements)[0])
    length = shape[0]
    reads = keras.tree.map_structure(entries, elements)

    def body(i: Any, state: Any) -> tuple[Any, Any]:
        return i + 1, step(state, keras.tree.map_structure(lambda read: read(i), reads))

    if keras.backend.backend() == "torch":
        for i in range(length):
            _, state = body(i, state)
        return state
    return ops.while_loop(lambda i, _: i < length, body, (0, state), maximum_iterations=length)[1]


def scan(step: Callable, state: Any, elements: Sequence, reverse: bool = False) -> tuple[Any, Any]:
    """`keras.ops.scan` over several tensors, whose length may be unknown.

    On TensorFlow Keras 3.15 fails on several tensors (None, ...).

    Args:
        step: takes the state and the elements at one index, returns the next state and the output,
            which has the structure, shapes and types of the state.
        state: the initial state, a tensor or a nest of them.
        elements: tensors (length, ...).
        reverse: run from the last index to the first.

    Returns:
        The final state, and the outputs (length, ...), in the order of `elements`.
    """
    if keras.backend.backend() != "tensorflow" or elements[0].shape[0] is not None:
        return ops.scan(step, state, tuple(elements), reverse=reverse)
    indices = ops.arange(ops.shape(elements[0])[0], dtype="int32")
    return ops.scan(
        lambda state, i: step(state, tuple(x[i] for x in elements)), state, indices, reverse=reverse
    )
