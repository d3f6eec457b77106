"""Layers that tell padding from text, and where a mask was lost on the way to them."""

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
    """Base of the layers that tell padding from text, and warn if the mask was lost on the way.

    In a functional model masks get lost unseen: in arithmetic on symbolic tensors, in `keras.ops`,
    and in the merges of Keras if one of their inputs has none. A layer that drops a mask is another
    matter: it does so on purpose, or Keras warns. `mask=` in the call says what is visible.
    """

    n_sequences = 1
    """How many of the inputs are sequences, which may have masks."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        inputs = as_list(args[0]) if args and kwargs.get("mask") is None else []
        losers = map(loser_of_mask, inputs[: self.n_sequences])
        operation = next(filter(None, losers), None)
        if operation is not None:
            warnings.warn(message_of_loss(self, operation), stacklevel=2)
        return super().__call__(*args, **kwargs)


def message_of_loss(reader: Layer, operation: keras.Operation) -> str:
    """Tell where a layer's mask was lost, and what to do."""
    name = type(operation).__name__
    what = "an operation on symbolic tensors"
    instead = "bring it back by CopyMask()([result, masked]) of bert4keras.layers"
    if isinstance(operation, KERAS_MERGES):
        what, instead = f"keras.layers.{name}", f"use {name} of bert4keras.layers"
    return (
        f"{type(reader).__name__} takes padding for text, because {operation.name!r}, {what}, "
        f"drops the padding mask: {instead}, or pass mask= in the call of {type(reader).__name__}"
    )


def loser_of_mask(x: Any) -> keras.Operation | None:
    """Find the operation in which a symbolic tensor lost the mask of what it is computed from."""
    pending, seen = [x], set()
    while pending:
        x = pending.pop()
        history = keras_private.history(x)
        if history is None or id(x) in seen or len(x.shape) < 3 or x.shape[1] == 1:
            continue  # no symbolic tensor, or no sequence
        seen.add(id(x))
        operation, node, _ = history
        before = keras_private.call_inputs(operation, node)
        masked = [y for y in before if symbolic_mask(y) is not None]
        if drops_masks(operation, before, masked):
            return operation
        if isinstance(operation, MaskReader):
            continue  # it has looked already
        if symbolic_mask(x) is not None:
            pending += masked
        elif not masked:  # otherwise it is dropped on purpose
            pending += before
    return None


def symbolic_mask(x: Any) -> Any:
    """The mask of a symbolic tensor; that of a model's output is known to the model only."""
    model, _, index = keras_private.history(x) or (None, None, None)
    return keras_private.mask_of(model.outputs[index] if isinstance(model, keras.Model) else x)


def drops_masks(
    operation: keras.Operation, inputs: Sequence[Tensor], masked: Sequence[Tensor]
) -> bool:
    """Tell whether an operation loses masks of its inputs although nobody has meant it to."""
    if not masked or isinstance(operation, MaskKeepingMerge):
        return False
    if not isinstance(operation, KERAS_MERGES):
        return not isinstance(operation, Layer)
    along_features = getattr(operation, "axis", -1) % len(inputs[0].shape) > 1
    return along_features and len(masked) < len(inputs)
