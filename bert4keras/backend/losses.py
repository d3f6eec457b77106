"""Multi-label losses: cross-entropy with several correct classes."""

import keras
import numpy as np
from keras import ops

from bert4keras.backend.engines import known_values
from bert4keras.backend.tensors import Tensor, lowest


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
    dtype = keras.backend.result_type(y_pred.dtype, "float32")
    y_true = ops.cast(y_true, dtype)
    in_range = ops.logical_and(y_true >= 0, y_true <= 1)
    # Soft labels weight exp(±score). Scripts mask with -inf or with -1e12.
    masked = y_pred <= max(-1e11, lowest(y_pred.dtype))
    scores = ops.cast(ops.where(masked, ops.zeros_like(y_pred), y_pred), dtype)
    log_zero = ops.cast(lowest(dtype) / 10, dtype)

    def log_weight(weight: Tensor) -> Tensor:
        positive = ops.logical_and(weight > 0, ops.logical_not(masked))
        return ops.where(positive, ops.log(ops.where(positive, weight, 1)), log_zero)

    zero = ops.zeros_like(scores[..., :1])
    positive = ops.concatenate([log_weight(y_true) - scores, zero], axis=-1)
    negative = ops.concatenate([log_weight(1 - y_true) + scores, zero], axis=-1)
    loss = ops.logsumexp(positive, axis=-1) + ops.logsumexp(negative, axis=-1)
    return ops.cast(ops.where(ops.all(in_range, axis=-1), loss, float("nan")), y_pred.dtype)


def sparse_multilabel_categorical_crossentropy(
    y_true: Tensor, y_pred: Tensor, mask_zero: bool = False
) -> Tensor:
    """`multilabel_categorical_crossentropy` with the correct classes given by index.

    https://kexue.fm/archives/8888#sparse, but the wrong classes are summed directly. There their
    sum is that of all classes minus that of the correct ones. If a correct class has a high score,
    that difference has no correct digit left, and a gradient of the wrong sign.

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
    check_labels(y_true, 0, ops.shape(y_pred)[-1] - 1, name)
    labels = several_hot(ops.cast(y_true, "int32"), y_pred)
    if mask_zero:
        y_pred = y_pred[..., 1:]
        labels = labels[..., 1:]
    return multilabel_categorical_crossentropy(labels, y_pred)


def several_hot(indices: Tensor, like: Tensor) -> Tensor:
    """Multi-hot encode class indices (..., n) in the shape (..., classes) and type of `like`.

    An index out of range gives NaN for all classes.
    """
    in_range = ops.logical_and(indices >= 0, indices < ops.shape(like)[-1])
    columns = ops.where(in_range, indices, 0)
    ones = ops.ones_like(columns)
    axes = [ops.cumsum(ones, axis=i) - 1 for i in range(len(like.shape) - 1)]
    coordinates = ops.reshape(ops.stack([*axes, columns], axis=-1), (-1, len(like.shape)))
    updates = ops.cast(ops.ones_like(coordinates[:, 0]), like.dtype)
    hot = ops.scatter_update(ops.zeros_like(like), coordinates, updates)
    return ops.where(ops.all(in_range, axis=-1, keepdims=True), hot, float("nan"))
