"""Functions of `K` that choose: by a condition, or by the learning phase."""

from collections.abc import Callable, Sequence

import keras
import numpy as np
from keras import ops

from bert4keras.backend.keras2.shapes import int_shape, ndim
from bert4keras.backend.keras2.types import packed, to_common_type, to_common_type_tensors
from bert4keras.backend.sizes import entry
from bert4keras.backend.tensors import Tensor


@keras.saving.register_keras_serializable(package="bert4keras")
class TrainPhase(keras.layers.Layer):
    """Return the first input in training and the second otherwise."""

    def __init__(self, **kwargs):
        super().__init__(autocast=False, **kwargs)

    def call(self, inputs: Sequence[Tensor], training: bool | None = None) -> Tensor:
        """Return one of two inputs."""
        return inputs[0] if training else inputs[1]

    def compute_output_spec(self, inputs: Sequence[Tensor], training: bool | None = None):
        """Return a symbolic tensor with the sizes that both inputs have in common."""
        sizes = zip(inputs[0].shape, inputs[1].shape, strict=True)
        return keras.KerasTensor([a if a == b else None for a, b in sizes], inputs[0].dtype)

    def compute_mask(self, inputs: Sequence[Tensor], previous_mask=None):
        """Return the mask of the second input, or else of the first."""
        masks = previous_mask or [None, None]
        return masks[1] if masks[1] is not None else masks[0]


class PhaseProbe(keras.layers.Layer):
    """Record whether the surrounding layer is called in training."""

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Return the inputs."""
        self.in_training = bool(training)
        return inputs


def _value(x: Tensor | Callable) -> Tensor:
    return x() if callable(x) else x


@entry
def learning_phase() -> int:
    """Return 1 inside a layer that is called in training, otherwise 0.

    There is no phase outside the call of a layer: a functional model is built once for both. Use
    `K.in_train_phase` there, which chooses when the model runs.
    """
    probe = PhaseProbe()
    probe(np.zeros(1, dtype="float32"))
    return int(probe.in_training)


@entry
def in_train_phase(x: Tensor | Callable, alt: Tensor | Callable, training=None) -> Tensor:
    """Return `x` in training and `alt` otherwise; each may be a function.

    Args:
        x: what to return in training.
        alt: what to return in inference.
        training: a number, a bool or a scalar tensor; by default the argument with which the
            running layer or model was called.
    """
    if training is not None:
        return switch(training, x, alt)
    return TrainPhase()(to_common_type_tensors([_value(x), _value(alt)]))


@entry
def in_test_phase(x: Tensor | Callable, alt: Tensor | Callable, training=None) -> Tensor:
    """Return `x` in inference and `alt` in training: the opposite of `in_train_phase`."""
    return in_train_phase(alt, x, training=training)


@entry
def switch(
    condition: Tensor,
    then_expression: Tensor | Callable,
    else_expression: Tensor | Callable,
) -> Tensor:
    """Choose between two values, as a whole or element by element.

    Args:
        condition: a scalar, or a tensor with at most as many axes as the values; axes of size 1 are
            appended.
        then_expression: what to return where the condition holds, or a function of no arguments.
        else_expression: what to return elsewhere, or a function of no arguments. If the condition
            is a scalar tensor, only one of two functions runs; in a functional model both do.

    Raises:
        ValueError: the condition has more axes than the values.
    """
    if isinstance(condition, bool | int | float | np.bool_):
        return _value(then_expression if condition else else_expression)
    condition = ops.cast(packed(condition), "bool")
    symbolic = isinstance(condition, keras.KerasTensor)
    if ndim(condition) == 0 and not symbolic and callable(then_expression):
        return ops.cond(condition, then_expression, lambda: _value(else_expression))
    then_value, else_value = to_common_type_tensors(
        [_value(then_expression), _value(else_expression)]
    )
    missing = ndim(then_value) - ndim(condition)
    if missing < 0:
        raise ValueError(
            f"K.switch got a condition of shape {int_shape(condition)} for values of shape "
            f"{int_shape(then_value)}: it must not have more axes than the values"
        )
    if ndim(condition) > 0:
        for _ in range(missing):
            condition = ops.expand_dims(condition, -1)
    return ops.where(condition, then_value, else_value)


@entry
def where(condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Choose element by element; all three arguments are broadcast."""
    return ops.where(ops.cast(packed(condition), "bool"), *to_common_type(x, y))
