"""Losses of `K`."""

from keras import ops

from bert4keras.backend.keras2.shapes import int_shape, reshape, shape
from bert4keras.backend.keras2.types import as_float_tensor, as_tensor
from bert4keras.backend.sizes import Shape, entry, is_number
from bert4keras.backend.tensors import Tensor


@entry
def binary_crossentropy(target: Tensor, output: Tensor, from_logits: bool = False) -> Tensor:
    """Return the cross-entropy of each element."""
    target, output = as_tensor(target), as_float_tensor(output)
    return ops.binary_crossentropy(_like(target, output), output, from_logits=from_logits)


@entry
def categorical_crossentropy(
    target: Tensor, output: Tensor, from_logits: bool = False, axis: int = -1
) -> Tensor:
    """Return the cross-entropy along an axis."""
    target, output = as_tensor(target), as_float_tensor(output)
    # Keras infers the shape of a symbolic result only for the last axis.
    target, output = ops.moveaxis(target, axis, -1), ops.moveaxis(output, axis, -1)
    return ops.categorical_crossentropy(_like(target, output), output, from_logits=from_logits)


@entry
def sparse_categorical_crossentropy(
    target: Tensor, output: Tensor, from_logits: bool = False, axis: int = -1
) -> Tensor:
    """Return the cross-entropy along an axis, with the correct classes given by index.

    Args:
        target: class indices of any type, in the shape of `output` without the axis, possibly with
            a last axis of size 1, or flattened.
        output: probabilities, or logits.
        from_logits: whether `output` contains logits, False by default.
        axis: the axis of the classes, the last by default.

    Returns:
        A tensor of the shape of `output` without the axis.
    """
    target, output = as_tensor(target), as_float_tensor(output)
    # Keras on TensorFlow supports only the last axis.
    output = ops.moveaxis(output, axis, -1)
    target = _in_shape(target, shape(output)[:-1])
    return ops.sparse_categorical_crossentropy(
        ops.cast(target, "int32"), output, from_logits=from_logits
    )


def _like(target: Tensor, output: Tensor) -> Tensor:
    """Convert labels to the type and shape of the predictions."""
    return ops.cast(_in_shape(target, shape(output)), output.dtype)


def _in_shape(target: Tensor, sizes: Shape) -> Tensor:
    """Reshape labels unless they have the expected shape, in which unknown sizes are None."""
    known = tuple(size if is_number(size) else None for size in sizes)
    return target if int_shape(target) == known else reshape(target, sizes)
