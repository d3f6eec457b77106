"""Evaluation of the moving average of the weights during training."""

from typing import Any

import keras


class EvaluateAverage(keras.callbacks.Callback):
    """Validate and save the averages that the optimizer keeps, while the weights are trained.

    For optimizers of `extend_with_exponential_moving_average`. The averages replace the weights
    during `evaluate` and from then to the end of the epoch, so that callbacks after this one in the
    list, such as `ModelCheckpoint`, save what was validated. The next epoch continues with the
    weights, and `fit` leaves them in the model; `apply_ema_weights` of the optimizer replaces them
    by the averages. (`keras.callbacks.SwapEMAWeights` is for `use_ema=True`.)

    Args:
        bias_correction: as in `apply_ema_weights`.

    Raises:
        TypeError: when training or evaluation begins, if the optimizer keeps no averages.
    """

    def __init__(self, bias_correction: bool = True) -> None:
        super().__init__()
        self.bias_correction = bias_correction
        self.swapped = False
        self.training = False

    def find_optimizer(self) -> Any:
        """Return the optimizer that keeps the averages, which Keras wraps for loss scaling."""
        optimizer = self.model.optimizer
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        if not hasattr(optimizer, "apply_ema_weights"):
            raise TypeError(
                f"EvaluateAverage needs an optimizer that keeps an average of the weights, but "
                f"{type(optimizer).__name__} does not: create its class by "
                "extend_with_exponential_moving_average"
            )
        return optimizer

    def swap_in(self) -> None:
        """Replace the weights by the averages, if there are any yet."""
        optimizer = self.find_optimizer()
        if not self.swapped and int(keras.ops.convert_to_numpy(optimizer.iterations)) > 0:
            optimizer.apply_ema_weights(self.bias_correction)
            self.swapped = True

    def swap_out(self) -> None:
        """Restore the weights."""
        if self.swapped:
            self.find_optimizer().reset_old_weights()
            self.swapped = False

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Check the optimizer."""
        self.find_optimizer()
        self.training = True

    def on_test_begin(self, logs: dict | None = None) -> None:
        """Evaluate the averages."""
        self.swap_in()

    def on_test_end(self, logs: dict | None = None) -> None:
        """Restore the weights at once, unless the model is being trained."""
        if not self.training:
            self.swap_out()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Leave the averages to the callbacks after this one."""
        self.swap_in()

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Continue with the weights."""
        self.swap_out()

    def on_train_end(self, logs: dict | None = None) -> None:
        """Leave the weights in the model."""
        self.swap_out()
        self.training = False
