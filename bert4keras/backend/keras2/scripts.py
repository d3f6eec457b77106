"""Further functions and classes that rewritten scripts for Keras 2 use."""

import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import keras


def groupby(iterable, key: Callable | Sequence | None = None) -> list[tuple[Any, list]]:
    """Group consecutive items with the same key, as `snippets.groupby` did in some old versions.

    Args:
        iterable: the items.
        key: a function of an item, or a list of the keys of all items; by default the items.

    Returns:
        Pairs of a key and the list of its items.
    """
    items = list(iterable)
    keys = items if key is None else [key(x) for x in items] if callable(key) else key
    pairs = itertools.groupby(zip(keys, items, strict=True), operator.itemgetter(0))
    return [(each, [item for _, item in group]) for each, group in pairs]


def _direction(monitor: str) -> str:
    """Return whether more or less of a metric is better, by its name as in Keras 2.

    Keras 3 asks the metric, and knows none of those that a layer tracks.
    """
    return "max" if "acc" in monitor else "min" if "loss" in monitor else "auto"


class ModelCheckpoint(keras.callbacks.ModelCheckpoint):
    """Save a model or its weights during training, in files of any name.

    This is `keras.callbacks.ModelCheckpoint` as it was in Keras 2; Keras 3 prescribes the suffix.

    Args:
        filepath: the file; `{epoch:02d}`, `{val_loss:.2f}` and so on are filled in.
        monitor: the metric by which `save_best_only` compares models.
        verbose: whether to print a line for each file.
        save_best_only: whether to save a model only if it is the best so far.
        save_weights_only: whether to save only the weights.
        mode: 'min', 'max', or 'auto', which is 'max' for a name with "acc", 'min' for one with
            "loss", and otherwise what the metric says.
        period: number of epochs between two files.
        **kwargs: see `keras.callbacks.ModelCheckpoint`.
    """

    def __init__(
        self,
        filepath: Any,
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        period: int = 1,
        **kwargs: Any,
    ):
        suffix = ".weights.h5" if save_weights_only else ".keras"
        super().__init__(
            f"{filepath}{suffix}",
            monitor=monitor,
            verbose=verbose,
            save_best_only=save_best_only,
            save_weights_only=save_weights_only,
            mode=_direction(monitor) if mode == "auto" else mode,
            **kwargs,
        )
        self.filepath = str(filepath)
        self.period = period
        self._epochs_since_last_save = 0

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Save every `period` epochs."""
        self._epochs_since_last_save += 1
        if self._epochs_since_last_save >= self.period:
            self._epochs_since_last_save = 0
            super().on_epoch_end(epoch, logs)
