"""Losses of parts of a batch that sum to the loss of the batch."""

import copy
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from bert4keras.keras_private import loss_of_function, mask_of

COUNT = "_bert4keras_count"
"""Attribute of a loss in which `batch_mean` stores the count over which it is the mean."""


def parts() -> int:
    """Return the number of parts in which a batch is computed independently.

    On JAX this is 1, since a program is written for the whole batch.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.distribute.get_strategy().num_replicas_in_sync
    if backend == "torch":
        from torch import distributed

        return distributed.get_world_size() if distributed.is_initialized() else 1
    return 1


def sum_over_parts(x: Any) -> Any:
    """Sum a tensor over the parts of the batch, without a gradient."""
    x = ops.stop_gradient(x)
    if parts() == 1:
        return x
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        context = tf.distribute.get_replica_context()
        # Outside of all replicas Keras only traces shapes.
        return x if context is None else context.all_reduce(tf.distribute.ReduceOp.SUM, x)
    from torch import distributed

    x = x.clone()
    distributed.all_reduce(x)
    return x


def keras_scale() -> int:
    """Return the divisor of a mean loss in Keras: on TensorFlow the number of replicas."""
    return parts() if keras.backend.backend() == "tensorflow" else 1


def batch_mean(values: Any, weights: Any) -> Any:
    """Return the weighted mean of values, Σ w·v / Σ w, as the loss of a loss layer or as an output.

    On one device a quotient of two sums is the same. On several, TensorFlow and PyTorch need the
    weight of each part of the batch, which this function stores.

    Args:
        values: losses, of any shape.
        weights: of the same shape; 0 for values to be left out.

    Returns:
        A scalar, 0 if all weights are 0.
    """
    values = ops.convert_to_tensor(values)
    weights = ops.cast(weights, values.dtype)
    count = ops.sum(weights)
    mean = ops.divide_no_nan(ops.sum(values * weights), count)
    if parts() > 1:
        setattr(mean, COUNT, count)
    return mean


def loss_of_batch(loss: Any, count: Any, add: bool = False) -> Any:
    """Turn the loss of a part into that of the batch.

    The value returned is the loss of the batch; its gradient is what this part contributes.

    Args:
        loss: scalar, the mean of a part, or with `add` the sum.
        count: scalar, the count or weight over which it is the mean.
        add: the loss of the batch is the sum of the losses of the parts, not their mean.

    Returns:
        The loss, divided as Keras expects it.
    """
    count = ops.cast(count, loss.dtype)
    loss = ops.where(count > 0, loss, 0.0)
    sums = sum_over_parts(ops.stack([count, loss if add else loss * count]))
    total = ops.where(sums[0] > 0, sums[0], 1.0)
    own, whole = (loss, sums[1]) if add else (loss * (count / total), sums[1] / total)
    return own + ops.stop_gradient(whole / keras_scale() - own)


@keras.saving.register_keras_serializable("bert4keras")
class LossOfBatch(keras.losses.Loss):
    """Loss that a part of a batch computes as if it contained all parts.

    It is saved, and loaded again, as the loss from which it was created.

    Args:
        loss: any loss with its reduction.
    """

    def __init__(self, loss: keras.losses.Loss):
        super().__init__(name=loss.name, reduction=loss.reduction)
        self.loss = loss
        self._recorded = copy.copy(loss)
        self._recorded.call = self._call

    def _call(self, y_true: Any, y_pred: Any) -> Any:
        """Compute losses, and record their shape and mask."""
        losses = self.loss.call(y_true, y_pred)
        if len(losses.shape) == 0:
            # Keras takes a scalar for an already reduced loss, and does not scale it.
            batch = ops.shape(keras.tree.flatten(y_pred)[0])[:1]
            losses = ops.broadcast_to(losses, batch)
        self._shape, self._mask = ops.shape(losses), mask_of(losses)
        return losses

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Return the reduced loss."""
        loss = self._recorded(y_true, y_pred, sample_weight)
        if self.reduction in (None, "none"):
            return loss
        loss = ops.sum(loss)  # Keras does not reduce the losses of a part without samples
        masks = [mask for mask in (mask_of(y_pred), self._mask) if mask is not None]
        count = getattr(y_pred, COUNT, None)
        if count is None:
            count = _count(self._shape, masks, sample_weight, self.reduction)
        if self.reduction == "sum":
            return loss_of_batch(loss, count, add=True)
        return loss_of_batch(loss * keras_scale(), count)

    def get_config(self) -> dict:
        """Return the wrapped loss."""
        return {"loss": keras.saving.serialize_keras_object(self.loss)}

    @classmethod
    def from_config(cls, config: dict) -> keras.losses.Loss:
        """Return the loss that was wrapped."""
        return keras.saving.deserialize_keras_object(config["loss"])


def _count(shape: Sequence[Any], masks: list, sample_weight: Any, reduction: str) -> Any:
    """Return the count or weight over which Keras takes the mean of losses of a shape."""
    weights = [ops.cast(mask, "float32") for mask in masks]
    if reduction == "mean_with_sample_weight" and sample_weight is not None:
        weights.append(ops.cast(sample_weight, "float32"))
    if not weights:
        return ops.cast(ops.prod(ops.convert_to_tensor(shape)), "float32")
    product = ops.ones(shape, "float32")
    for weight in weights:
        if len(weight.shape) > len(shape):
            weight = ops.squeeze(weight, axis=-1)
        missing = range(len(weight.shape), len(shape))
        product = product * ops.expand_dims(weight, tuple(missing))
    return ops.sum(product)


def as_loss_of_batch(loss: Any) -> Any:
    """Turn the loss of a part into that of the batch; names are looked up as in Keras."""
    if loss is None or isinstance(loss, LossOfBatch):
        return loss
    found = keras.losses.get(loss)
    if not isinstance(found, keras.losses.Loss):
        found = loss_of_function(found, name=loss if isinstance(loss, str) else None)
    return LossOfBatch(found)
