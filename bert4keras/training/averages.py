"""Evaluating the moving average of the weights while the weights themselves are trained."""

from typing import Any

import keras


class EvaluateAverage(keras.callbacks.Callback):
    """Let the averages of the optimizer be validated and saved, and the weights be trained.

    For optimizers of `extend_with_exponential_moving_average`. The averages are in the place of the
    weights during `evaluate` and from there to the end of the epoch, so that callbacks that come
    after this one in the list, `ModelCheckpoint` or one of your own, save what was validated. The
    next epoch goes on with the weights, and `fit` leaves them in the model; `apply_ema_weights` of
    the optimizer brings the averages. (`keras.callbacks.SwapEMAWeights` is for `use_ema=True`.)

    Args:
        bias_correction: see `apply_ema_weights`.

    Raises:
        TypeError: when training or evaluation begins, if the optimizer keeps no averages.
    """

    def __init__(self, bias_correction: bool = True) -> None:
        super().__init__()
        self.bias_correction = bias_correction
        self.in_place = False
        self.training = False

    def find_optimizer(self) -> Any:
        """The optimizer that keeps the averages; Keras wraps it where losses are scaled."""
        optimizer = self.model.optimizer
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        if not hasattr(optimizer, "apply_ema_weights"):
            raise TypeError(
                f"EvaluateAverage needs an optimizer that keeps an average of the weights, but "
                f"{type(optimizer).__name__} does not: make its class by "
                "extend_with_exponential_moving_average"
            )
        return optimizer

    def put(self) -> None:
        """Put the averages in the place of the weights, if there are any yet."""
        optimizer = self.find_optimizer()
        if not self.in_place and int(keras.ops.convert_to_numpy(optimizer.iterations)) > 0:
            optimizer.apply_ema_weights(self.bias_correction)
            self.in_place = True

    def bring_back(self) -> None:
        """Bring the weights back."""
        if self.in_place:
            self.find_optimizer().reset_old_weights()
            self.in_place = False

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Check the optimizer."""
        self.find_optimizer()
        self.training = True

    def on_test_begin(self, logs: dict | None = None) -> None:
        """Evaluate the averages."""
        self.put()

    def on_test_end(self, logs: dict | None = None) -> None:
        """Bring the weights back at once where nothing is trained."""
        if not self.training:
            self.bring_back()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Let callbacks after this one save the averages."""
        self.put()

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Go on with the weights."""
        self.bring_back()

    def on_train_end(self, logs: dict | None = None) -> None:
        """Leave the weights in the model."""
        self.bring_back()
        self.training = False
