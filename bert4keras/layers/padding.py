"""Layers that distinguish padding from text, and a warning if their mask was lost before."""

import warnings
from collections.abc import Sequence
from typing import Any

import keras
from keras.layers import Layer

from bert4keras import keras_private
from bert4keras.backend.tensors import Tensor
from bert4keras.layers.base import as_list
from bert4keras.layers.merging import MaskKeepingMerge

KERAS_MERGES = (
    keras.layers.Add,
    keras.layers.Average,
    keras.layers.Concatenate,
    keras.layers.Maximum,
    keras.layers.Minimum,
    keras.layers.Multiply,
    keras.layers.Subtract,
)


class MaskReader(Layer):
    """Base of the layers that distinguish padding from text, and warn if their mask was lost.

    In a functional model masks get lost silently: in arithmetic on symbolic tensors, in
    `keras.ops`, and in the merging layers of Keras if one of their inputs has none. Other layers
    drop a mask on purpose, or Keras warns. There is no warning if `mask=` is given in the call.
    """

    n_sequences = 1
    """Number of inputs that are sequences, and may have masks."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        inputs = as_list(args[0]) if args and kwargs.get("mask") is None else []
        operations = map(find_mask_dropping, inputs[: self.n_sequences])
        operation = next(filter(None, operations), None)
        if operation is not None:
            warnings.warn(lost_mask_message(self, operation), stacklevel=2)
        return super().__call__(*args, **kwargs)


def lost_mask_message(reader: Layer, operation: keras.Operation) -> str:
    """Say where the mask of a layer was lost, and how to keep it."""
    name = type(operation).__name__
    what = "an operation on symbolic tensors"
    remedy = "restore it by CopyMask()([result, masked]) of bert4keras.layers"
    if isinstance(operation, KERAS_MERGES):
        what, remedy = f"keras.layers.{name}", f"use {name} of bert4keras.layers"
    return (
        f"{type(reader).__name__} takes padding for text, because {operation.name!r}, {what}, "
        f"drops the padding mask: {remedy}, or pass mask= in the call of {type(reader).__name__}"
    )


def find_mask_dropping(x: Any) -> keras.Operation | None:
    """Find the operation that dropped the mask of what a symbolic tensor is computed from."""
    pending, seen = [x], set()
    while pending:
        x = pending.pop()
        history = keras_private.history(x)
        if history is None or id(x) in seen or len(x.shape) < 3 or x.shape[1] == 1:
            continue  # not a symbolic tensor, or not a sequence
        seen.add(id(x))
        operation, node, _ = history
        inputs = keras_private.call_inputs(operation, node)
        masked = [y for y in inputs if symbolic_mask(y) is not None]
        if drops_masks(operation, inputs, masked):
            return operation
        if isinstance(operation, MaskReader):
            continue  # it has checked its own inputs
        if symbolic_mask(x) is not None:
            pending += masked
        elif not masked:  # otherwise the mask was dropped on purpose
            pending += inputs
    return None


def symbolic_mask(x: Any) -> Any:
    """Return the mask of a symbolic tensor; only the model knows that of a model's output."""
    model, _, index = keras_private.history(x) or (None, None, None)
    return keras_private.mask_of(model.outputs[index] if isinstance(model, keras.Model) else x)


def drops_masks(
    operation: keras.Operation, inputs: Sequence[Tensor], masked: Sequence[Tensor]
) -> bool:
    """Tell whether an operation drops masks of its inputs unintentionally."""
    if not masked or isinstance(operation, MaskKeepingMerge):
        return False
    if not isinstance(operation, KERAS_MERGES):
        return not isinstance(operation, Layer)
    along_features = getattr(operation, "axis", -1) % len(inputs[0].shape) > 1
    return along_features and len(masked) < len(inputs)
