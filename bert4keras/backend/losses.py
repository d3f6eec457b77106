"""Losses of several correct classes."""

import keras
import numpy as np
from keras import ops

from bert4keras.backend.engines import known_values
from bert4keras.backend.tensors import Tensor, lowest


def check_labels(
    labels: Tensor, least: float, most: float, meaning: str, also: int | None = None
) -> None:
    """Refuse labels out of range, if their values are known (see `known_values`).

    Args:
        labels: any tensor.
        least: the smallest label.
        most: the largest.
        meaning: what they are, for the message.
        also: a further label that is allowed.

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
            f"{meaning} are from {least} to {most}, and there is {values[where]:g} at {list(where)}"
        )


def multilabel_categorical_crossentropy(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Softmax cross-entropy generalised to several correct classes, hard or soft.

    https://kexue.fm/archives/7359 and, for soft labels, https://kexue.fm/archives/9064. At
    prediction time the classes whose score is above 0 are the answer. Computed in float32.

    Args:
        y_true: (..., classes), 0 to 1.
        y_pred: (..., classes), scores without activation. A class whose score is -inf is left out.

    Returns:
        (...), the loss of each row; NaN where a label is out of range.

    Raises:
        ValueError: a label is out of range, and known outside of compiled code.
    """
    check_labels(y_true, 0, 1, "the labels of multilabel_categorical_crossentropy")
    dtype = keras.backend.result_type(y_pred.dtype, "float32")
    y_true = ops.cast(y_true, dtype)
    possible = ops.logical_and(y_true >= 0, y_true <= 1)
    # Soft labels weigh exp(±score). Scripts mask with -inf and with -1e12.
    masked = y_pred <= max(-1e11, lowest(y_pred.dtype))
    scores = ops.cast(ops.where(masked, ops.zeros_like(y_pred), y_pred), dtype)
    nothing = ops.cast(lowest(dtype) / 10, dtype)

    def log_weight(weight: Tensor) -> Tensor:
        positive = ops.logical_and(weight > 0, ops.logical_not(masked))
        return ops.where(positive, ops.log(ops.where(positive, weight, 1)), nothing)

    zero = ops.zeros_like(scores[..., :1])
    positive = ops.concatenate([log_weight(y_true) - scores, zero], axis=-1)
    negative = ops.concatenate([log_weight(1 - y_true) + scores, zero], axis=-1)
    loss = ops.logsumexp(positive, axis=-1) + ops.logsumexp(negative, axis=-1)
    return ops.cast(ops.where(ops.all(possible, axis=-1), loss, float("nan")), y_pred.dtype)


def sparse_multilabel_categorical_crossentropy(
    y_true: Tensor, y_pred: Tensor, mask_zero: bool = False
) -> Tensor:
    """`multilabel_categorical_crossentropy` with the correct classes given by index.

    https://kexue.fm/archives/8888#sparse, but the sum over the wrong classes is taken over these.
    There it is the sum over all classes less that over the right ones, which has no correct digit
    left, and a gradient of the wrong sign, where a right class has a high score.

    Args:
        y_true: (..., n), class indices (floats are cast), every row padded to the same `n`. An
            index that comes twice counts once.
        y_pred: (..., classes), scores without activation. A class whose score is -inf is left out.
        mask_zero: index 0 is padding; its score takes no part at all.

    Returns:
        (...), the loss of each row; NaN where an index is out of range.

    Raises:
        ValueError: an index is out of range, and known outside of compiled code.
    """
    name = "the class indices of sparse_multilabel_categorical_crossentropy"
    check_labels(y_true, 0, ops.shape(y_pred)[-1] - 1, name)
    labels = several_hot(ops.cast(y_true, "int32"), y_pred)
    if mask_zero:
        y_pred = y_pred[..., 1:]
        labels = labels[..., 1:]
    return multilabel_categorical_crossentropy(labels, y_pred)


def several_hot(indices: Tensor, like: Tensor) -> Tensor:
    """1 at the indices (..., n) of the last axis and 0 elsewhere, of the shape and type of `like`.

    An index that is not on the axis gives a row of NaN.
    """
    inside = ops.logical_and(indices >= 0, indices < ops.shape(like)[-1])
    columns = ops.where(inside, indices, 0)
    counted = ops.ones_like(columns)
    axes = [ops.cumsum(counted, axis=i) - 1 for i in range(len(like.shape) - 1)]
    places = ops.reshape(ops.stack([*axes, columns], axis=-1), (-1, len(like.shape)))
    ones = ops.cast(ops.ones_like(places[:, 0]), like.dtype)
    hot = ops.scatter_update(ops.zeros_like(like), places, ones)
    return ops.where(ops.all(inside, axis=-1, keepdims=True), hot, float("nan"))
