"""Scores of a user's own during training: the best weights are kept, and training stops in time."""

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import keras


class Evaluator(keras.callbacks.Callback):
    """Score the model after every epoch, save the best weights, and stop when nothing improves.

    The scores join the `logs` of the epoch, so that `fit` prints them, `History` has them, and
    callbacks after this one (`CSVLogger`, `ReduceLROnPlateau`) can use them. When training ends,
    the model has its best weights. If `EvaluateAverage` precedes it in the list of callbacks, the
    averages are scored and saved.

        evaluator = Evaluator(lambda model: {"f1": f1_of(model)}, "best.weights", patience=3)
        model.fit(..., callbacks=[evaluator])
        print(evaluator.best_epoch, evaluator.best)

    Args:
        evaluate: called with the model after each epoch; returns scores by name.
        path: file of the best weights. A `bert4keras.models.Model` takes any name, and writes the
            file in a single step; a `keras.Model` asks for a name that ends in `.weights.h5`.
        monitor: the score that decides; the first one by default.
        mode: `'max'` if larger scores are better, `'min'` if smaller ones are.
        patience: number of epochs without a better score after which training stops; None trains
            all epochs.
        restore: whether to load the best weights when training ends.

    Attributes:
        best: the scores of the best epoch, or None before the first.
        best_epoch: the number of that epoch, from 0.

    Raises:
        ValueError: for another mode or a patience below 1; after an epoch, if the score that
            decides is missing or not a finite number.
    """

    def __init__(
        self,
        evaluate: Callable[[Any], Mapping[str, float]],
        path: str | os.PathLike,
        monitor: str | None = None,
        mode: str = "max",
        patience: int | None = None,
        restore: bool = True,
    ) -> None:
        super().__init__()
        if mode not in ("max", "min"):
            raise ValueError(f"Evaluator got mode={mode!r}: it is 'max' or 'min'")
        if patience is not None and patience < 1:
            raise ValueError(f"Evaluator got patience={patience}: it is at least 1, or None")
        self.evaluate = evaluate
        self.path = path
        self.monitor = monitor
        self.sign = 1 if mode == "max" else -1
        self.patience = patience
        self.restore = restore
        self.best: dict[str, float] | None = None
        self.best_epoch = 0

    def decisive(self, scores: Mapping[str, float]) -> float:
        """Return the score that decides, such that larger is better."""
        name = self.monitor or next(iter(scores), "")
        if name not in scores or not math.isfinite(scores[name]):
            wanted = f"{name!r}" if name else "to decide by"
            raise ValueError(
                f"Evaluator needs a finite score {wanted}, but `evaluate` returned {dict(scores)}"
            )
        return self.sign * scores[name]

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Forget an earlier training."""
        self.best = None

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Score the model, and save its weights if they are the best so far."""
        model: Any = self.model
        scores = {name: float(score) for name, score in self.evaluate(model).items()}
        score = self.decisive(scores)
        if logs is not None:
            logs.update(scores)
        if self.best is None or score > self.decisive(self.best):
            self.best, self.best_epoch = scores, epoch
            model.save_weights(self.path)
        elif self.patience and epoch - self.best_epoch >= self.patience:
            model.stop_training = True

    def on_train_end(self, logs: dict | None = None) -> None:
        """Load the best weights."""
        model: Any = self.model
        if self.restore and self.best is not None:
            model.load_weights(self.path)
