"""Loops along an axis, of any length."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from bert4keras.backend.engines import entries
from bert4keras.backend.tensors import Tensor

PIECE = 8
"""How many steps TensorFlow runs in one iteration of a loop."""


def fold(step: Callable, state: Any, elements: Any) -> Any:
    """Run `state = step(state, element)` over axis 0 of `elements` and return the final state.

    The graph contains a few steps, whatever the length, and is differentiable. `keras.ops.scan`
    does not suffice on TensorFlow, where XLA cannot differentiate its loop, which has no upper
    bound, nor on PyTorch, where the time of the gradient grows with the square of the length.

    Args:
        step: takes the state and an element, returns a state of the same shapes and types; finite
            for an element of zeros.
        state: the initial state, a tensor or a nest of them.
        elements: a tensor (length, ...) or a nest of them.
    """
    if keras.backend.backend() == "jax":
        return ops.scan(lambda state, element: (step(state, element), None), state, elements)[0]
    shape: Any = ops.shape(keras.tree.flatten(elements)[0])
    if keras.backend.backend() == "tensorflow":
        return fold_in_pieces(step, state, elements, shape[0])
    reads = keras.tree.map_structure(entries, elements)
    for i in range(shape[0]):
        state = step(state, keras.tree.map_structure(lambda read, i=i: read(i), reads))
    return state


def fold_in_pieces(step: Callable, state: Any, elements: Any, length: Any) -> Any:
    """`fold` in a loop each of whose iterations runs `PIECE` steps.

    The gradient of an iteration is a list with an entry for every iteration, which is added to the
    list of the one before: with fewer iterations, that takes no time to speak of.
    """
    reads = [entries(in_pieces(x)) for x in keras.tree.flatten(elements)]
    n_pieces = -(-length // PIECE)

    def body(i: Any, state: Any) -> tuple[Any, Any]:
        pieces = [ops.unstack(read(i), PIECE) for read in reads]
        for j, leaves in enumerate(zip(*pieces, strict=True)):
            after = step(state, keras.tree.pack_sequence_as(elements, leaves))
            exists = i * PIECE + j < length
            state = keras.tree.map_structure(
                lambda new, old, exists=exists: ops.where(exists, new, old), after, state
            )
        return i + 1, state

    ends: Any = ops.while_loop(
        lambda i, _: i < n_pieces, body, (0, state), maximum_iterations=n_pieces
    )
    return ends[1]


def in_pieces(x: Tensor) -> Tensor:
    """Divide x (length, ...) into (pieces, PIECE, ...), with zeros behind its end."""
    shape: Any = ops.shape(x)
    padded = ops.pad(x, [[0, -shape[0] % PIECE], *[[0, 0]] * (len(shape) - 1)])
    return ops.reshape(padded, (-1, PIECE, *shape[1:]))


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
