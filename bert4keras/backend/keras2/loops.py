"""Loops of `K`."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from bert4keras.backend.keras2.control import switch
from bert4keras.backend.keras2.shapes import reshape
from bert4keras.backend.keras2.types import as_tensor, converted, dtype
from bert4keras.backend.loops import fold, scan
from bert4keras.backend.sizes import entry
from bert4keras.backend.tensors import Tensor


@entry
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
    """Run a step function over the time axis, within a layer.

    Args:
        step_function: takes the inputs of a step, `(batch, ...)`, and the list of states followed
            by the constants; returns the output of the step, `(batch, ...)`, and the new states.
        inputs: `(batch, time, ...)`.
        initial_states: tensors `(batch, ...)`, in the shape and type of the states.
        go_backwards: whether to run from the last step to the first; the outputs are then in this
            order too.
        mask: `(batch, time)` or `(batch, time, 1)`. Where it is false the states are kept and the
            output is that of the previous step, zero at the first.
        constants: passed to each step.
        unroll: whether to unroll the loop; the number of steps must be known.
        input_length: ignored.

    Returns:
        The last output, all outputs `(batch, time, ...)`, and the list of final states.

    Raises:
        TypeError: the inputs are symbolic.
    """
    if isinstance(inputs, keras.KerasTensor):
        raise TypeError(
            "K.rnn runs within a layer, not on symbolic tensors: put it into the call() of a "
            "keras.layers.Layer, or write the step as a cell for keras.layers.RNN"
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
        # ops.scan on TensorFlow requires outputs that are like the carried state.
        return carried, carried

    states = [ops.convert_to_tensor(state) for state in initial_states]
    # Only its shape and type matter, which are not known without a call.
    first_output = ops.zeros_like(step_function(inputs[0], [*states, *constants])[0])
    if unroll:
        carried, outputs = [first_output, *states], []
        for time in range(inputs.shape[0]):
            carried, _ = step(carried, (inputs[time], visible[time]))
            outputs.append(carried[0])
        outputs = ops.stack(outputs)
    else:
        carried, history = scan(step, [first_output, *states], (inputs, visible))
        outputs = history[0]
    return carried[0], ops.swapaxes(outputs, 0, 1), list(carried[1:])


@entry
def map_fn(fn: Callable, elems: Any, name: str | None = None, dtype: str | None = None) -> Tensor:
    """Apply a function to each element along axis 0, and stack the results."""
    return ops.map(fn, as_tensor(elems) if isinstance(elems, np.ndarray) else elems)


@entry
def foldl(
    fn: Callable, elems: Tensor, initializer: Tensor | None = None, name: str | None = None
) -> Tensor:
    """Combine the elements along axis 0 by `fn(accumulated, element)`, within a layer.

    Args:
        fn: a function of two tensors of the same shape and type.
        elems: a tensor.
        initializer: the initial value, by default the first element.
        name: ignored.
    """
    elems = as_tensor(elems)
    if initializer is None:
        initializer, elems = elems[0], elems[1:]
    return fold(fn, converted(initializer, dtype(elems)), elems)


@entry
def foldr(
    fn: Callable, elems: Tensor, initializer: Tensor | None = None, name: str | None = None
) -> Tensor:
    """Combine the elements like `foldl`, from the last to the first."""
    return foldl(fn, ops.flip(as_tensor(elems), axis=0), initializer)
