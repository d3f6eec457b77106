"""Multi-label losses: cross-entropy with several correct classes."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from bert4keras.backend.engines import known_values
from bert4keras.backend.tensors import Tensor, lowest

LOG_ZERO = lowest("float32") / 10
"""Stands for the logarithm of 0 in sums of exponentials; that of minus infinity has no gradient."""


def check_labels(
    labels: Tensor, least: float, most: float, meaning: str, also: int | None = None
) -> None:
    """Raise a ValueError for labels out of range, if their values are known (`known_values`).

    Args:
        labels: any tensor.
        least: the smallest valid label.
        most: the largest valid label.
        meaning: what the labels are called in the message.
        also: a further valid label.

    Raises:
        ValueError: a label is smaller or larger, or NaN.
    """
    values = known_values(labels)
    if values is None:
        return
    wrong = ~((values >= least) & (values <= most))
    wrong = wrong if also is None else wrong & (values != also)
    if wrong.any():
        where = tuple(map(int, np.argwhere(wrong)[0]))
        raise ValueError(
            f"{meaning} must be from {least} to {most}, but one is {values[where]:g} at "
            f"{list(where)}"
        )


def multilabel_categorical_crossentropy(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Softmax cross-entropy generalised to several correct classes, with hard or soft labels.

    https://kexue.fm/archives/7359 and, for soft labels, https://kexue.fm/archives/9064. The classes
    with a score above 0 are predicted. Computed in float32.

    Args:
        y_true: (..., classes), 0 to 1.
        y_pred: (..., classes), logits. A class whose logit is -inf is left out.

    Returns:
        (...), the loss of each example; NaN where a label is out of range.

    Raises:
        ValueError: a label is out of range, unless this runs in compiled code.
    """
    check_labels(y_true, 0, 1, "the labels of multilabel_categorical_crossentropy")
    y_true = ops.cast(y_true, score_dtype(y_pred))
    in_range = ops.logical_and(y_true >= 0, y_true <= 1)
    masked = is_masked(y_pred)
    scores = ops.cast(ops.where(masked, ops.zeros_like(y_pred), y_pred), y_true.dtype)

    # Soft labels weight exp(±score).
    def log_weight(weight: Tensor) -> Tensor:
        positive = ops.logical_and(weight > 0, ops.logical_not(masked))
        return ops.where(positive, ops.log(ops.where(positive, weight, 1)), LOG_ZERO)

    loss = log_one_and_sum(log_weight(y_true) - scores)
    loss = loss + log_one_and_sum(log_weight(1 - y_true) + scores)
    return ops.cast(ops.where(ops.all(in_range, axis=-1), loss, float("nan")), y_pred.dtype)


def score_dtype(logits: Tensor) -> str:
    """Return the type in which losses are computed: float32, or float64 if the logits are that."""
    return keras.backend.result_type(logits.dtype, "float32")


def is_masked(logits: Tensor) -> Tensor:
    """Tell which classes are left out: scripts mask them with -inf or with -1e12."""
    return logits <= max(-1e11, lowest(logits.dtype))


def log_one_and_sum(x: Tensor) -> Tensor:
    """Compute log(1 + Σ exp(x)) over the last axis, which is not empty."""
    return ops.softplus(ops.logsumexp(x, axis=-1))


def sparse_multilabel_categorical_crossentropy(
    y_true: Tensor, y_pred: Tensor, mask_zero: bool = False
) -> Tensor:
    """`multilabel_categorical_crossentropy` with the correct classes given by index.

    https://kexue.fm/archives/8888#sparse, but the wrong classes are summed directly. There their
    sum is that of all classes minus that of the correct ones. If a correct class has a high score,
    that difference has no correct digit left, and a gradient of the wrong sign. Labels take memory
    for their indices only, not for all classes.

    Args:
        y_true: (..., n), class indices (floats are cast), every row padded to the same `n`. An
            index that occurs twice counts once.
        y_pred: (..., classes), logits. A class whose logit is -inf is left out.
        mask_zero: index 0 is padding, and its logit is left out.

    Returns:
        (...), the loss of each example; NaN where an index is out of range.

    Raises:
        ValueError: an index is out of range, unless this runs in compiled code.
    """
    name = "the class indices of sparse_multilabel_categorical_crossentropy"
    shape: Any = ops.shape(y_pred)
    check_labels(y_true, 0, shape[-1] - 1, name)
    given: Tensor = ops.cast(y_true, "int32")
    in_range = ops.logical_and(given >= 0, given < shape[-1])
    given = ops.where(in_range, given, 0)
    indices: Tensor = ops.sort(led_by(0, given) if mask_zero else given, axis=-1)
    # An index counts where it differs from the one before; those of padding never do.
    is_new = indices != led_by(0 if mask_zero else -1, indices)[..., :-1]
    scores = ops.where(is_masked(y_pred), LOG_ZERO, ops.cast(y_pred, score_dtype(y_pred)))
    right: Tensor = ops.take_along_axis(scores, indices, axis=-1)
    right = ops.where(ops.logical_and(is_new, right > LOG_ZERO), -right, LOG_ZERO)
    wrong = filled_at(scores, indices, LOG_ZERO)
    loss = log_one_and_sum(led_by(LOG_ZERO, right)) + log_one_and_sum(wrong)
    return ops.cast(ops.where(ops.all(in_range, axis=-1), loss, float("nan")), y_pred.dtype)


def led_by(first: float, x: Tensor) -> Tensor:
    """Prepend a number to each row along the last axis."""
    return ops.pad(x, [[0, 0]] * (len(x.shape) - 1) + [[1, 0]], constant_values=first)


def filled_at(x: Tensor, indices: Tensor, value: float) -> Tensor:
    """Replace the entries of x (..., classes) at indices (..., n) of its last axis by a number."""
    ones = ops.ones_like(indices)
    axes = [ops.cumsum(ones, axis=i) - 1 for i in range(len(x.shape) - 1)]
    coordinates: Tensor = ops.reshape(ops.stack([*axes, indices], axis=-1), (-1, len(x.shape)))
    return ops.scatter_update(x, coordinates, ops.full_like(coordinates[:, 0], value, x.dtype))


def flat_indices(indices: Tensor, shape: Sequence[Any], meaning: str) -> Tensor:
    """Number classes along several axes as if these were one.

    Args:
        indices: (..., n, axes), the index of each class along each axis.
        shape: sizes of the axes.
        meaning: what the indices are called in the message.

    Returns:
        (..., n), int32, -1 where an index is out of range.

    Raises:
        ValueError: an index is out of range, unless this runs in compiled code.
    """
    flat, valid = 0, True
    for axis, size in enumerate(shape):
        index: Tensor = ops.cast(indices[..., axis], "int32")
        check_labels(index, 0, size - 1, meaning)
        valid = ops.logical_and(valid, ops.logical_and(index >= 0, index < size))
        flat = flat * size + index
    return ops.where(valid, flat, -1)
