"""The methods of a model that Keras calls in a step, on one device."""

from typing import Any

import keras
from keras import ops

from bert4keras.backend.tensors import as_floats
from bert4keras.training import steps


class TrainingModel(keras.Model):
    """Keras model that may be trained by a `Step`, and whose outputs may be scalars."""

    step: steps.Step | None = None
    """Training step that defines the objective; None to minimise the loss itself."""

    def train_step(self, *args: Any) -> Any:
        """Train on one batch, the last argument; Keras compiles this method."""
        backend = keras.backend.backend()
        if self.step is not None and backend != "jax":
            return steps.train_step(self, self.step, *args)
        if backend == "tensorflow" and self.optimizer is not None and self.trainable_variables:
            return steps.plain_train_step(self, *args)
        return super().train_step(*args)

    def predict_step(self, *args: Any) -> Any:
        """Predict one batch, the last argument."""
        outputs = super().predict_step(*args)
        x, _, _ = keras.utils.unpack_x_y_sample_weight(args[-1])
        if keras.backend.backend() == "jax":
            y_pred, state = outputs
            return for_each_sample(y_pred, x), state
        return for_each_sample(outputs, x)

    def compute_loss_and_updates(
        self,
        trainable_variables: list,
        non_trainable_variables: list,
        metrics_variables: list,
        x: Any,
        y: Any,
        sample_weight: Any,
        training: bool = False,
        optimizer_variables: list | None = None,
    ) -> tuple:
        """Compute the loss or the objective of a step; Keras calls this on JAX only."""
        values = trainable_variables, non_trainable_variables, metrics_variables
        data = x, y, sample_weight
        if self.step is not None and training:
            return steps.stateless_loss_and_updates(
                self, self.step, (*values, optimizer_variables or []), data
            )
        if steps.layers_track_metrics(self):
            return steps.stateless_plain_updates(
                self, (*values, optimizer_variables), data, training
            )
        return super().compute_loss_and_updates(
            *values, *data, training=training, optimizer_variables=optimizer_variables
        )

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Compute the loss of a batch, as `keras.Model.compute_loss` does."""
        return self.whole_loss(x, y, y_pred, sample_weight, training)

    def whole_loss(self, x: Any, y: Any, y_pred: Any, sample_weight: Any, training: bool) -> Any:
        """Compute the loss of the whole batch, even if a device sees only a part of it."""
        return super().compute_loss(x, y, for_each_sample(y_pred, x), sample_weight, training)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Update the metrics of a batch and return their values, as Keras does.

        A function gets integer labels as floats, as it does as the loss.
        """
        return super().compute_metrics(x, as_floats(y), for_each_sample(y_pred, x), sample_weight)


def for_each_sample(outputs: Any, inputs: Any) -> Any:
    """Repeat scalar outputs, such as a loss, for each sample, as Keras requires."""
    if inputs is None or all(len(y.shape) for y in keras.tree.flatten(outputs)):
        return outputs
    batch = ops.shape(next(x for x in keras.tree.flatten(inputs) if x is not None))[:1]
    return keras.tree.map_structure(
        lambda y: y if len(y.shape) else ops.broadcast_to(y, batch), outputs
    )
