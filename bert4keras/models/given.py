"""Conversion of the data given to `fit`, `evaluate`, `predict` and the like for Keras."""

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from bert4keras.data.generator import DataGenerator
from bert4keras.training.feed import as_feed

STEPS_ARGUMENTS = {"fit": "steps_per_epoch", "validation_data": "validation_steps"}
"""Name of the argument with the number of batches, for the calls in which it is not `steps`."""


def is_stream(x: Any) -> bool:
    """Tell whether `x` is a generator or iterator, which yields batches one by one."""
    return inspect.isgenerator(x) or (isinstance(x, Iterable) and hasattr(x, "__next__"))


def yields_batches(x: Any) -> bool:
    """Tell whether `x` yields batches, which include the targets, if there are any."""
    return is_stream(x) or isinstance(x, DataGenerator | keras.utils.PyDataset)


def as_arrays(x: Any, n_inputs: int) -> Any:
    """Convert nested lists to one array per input, and return anything else unchanged."""
    if not isinstance(x, list | tuple):
        return x
    if n_inputs > 1 or (len(x) == 1 and hasattr(x[0], "shape")):
        return [as_array(each, i) for i, each in enumerate(x)]
    return as_array(x, 0)


def as_array(values: Any, index: int) -> Any:
    """Convert nested lists to an array, and return arrays and tensors unchanged.

    Raises:
        ValueError: the rows differ in length.
    """
    if values is None or hasattr(values, "shape"):
        return values
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(
            f"input {index} of the model is a list whose rows differ in length: pad it with "
            "bert4keras.snippets.sequence_padding"
        ) from error
    return array.astype(keras.config.floatx()) if array.dtype == "float64" else array


def is_one_batch(x: Any, batch_size: int | None) -> bool:
    """Tell whether arrays, one per input, are a single batch of this size, by default 32."""
    for first in keras.tree.flatten(x):
        shape = tuple(getattr(first, "shape", ()))
        return len(shape) > 0 and shape[0] is not None and shape[0] <= (batch_size or 32)
    return False


Prepare = Callable[[tuple], tuple]


def inspectable_inputs(x: Any) -> Any:
    """Return the inputs as arrays or as their specs; None if they cannot be inspected."""
    if hasattr(x, "element_spec"):  # of a tf.data.Dataset
        spec = x.element_spec
        return spec[0] if isinstance(spec, tuple) else spec
    return x if isinstance(x, list | tuple | dict) or hasattr(x, "shape") else None


def as_batches(call: str, x: Any, options: dict[str, Any], prepare: Prepare) -> Any:
    """Convert data that yields batches to what Keras takes.

    Args:
        call: name of the method that was called, or 'validation_data' for that of `fit`.
        x: a generator, an iterator, a `DataGenerator` or a `PyDataset`.
        options: arguments of the call, into which the number of steps is put if it is known.
        prepare: checks a batch and converts it to the form that the model takes.

    Raises:
        ValueError: the batches do not end, and no number of steps is given.
    """
    steps = STEPS_ARGUMENTS.get(call, "steps")
    if isinstance(x, keras.utils.PyDataset):
        return PreparedDataset(x, prepare)
    if isinstance(x, DataGenerator):
        if options.get(steps) is None:
            options[steps] = len(x)
        x = x.fortest() if call == "predict" else x.forfit(random=call == "fit")
    feed = as_feed(x)
    feed.prepare = prepare
    if feed.endless and options.get(steps) is None:
        raise ValueError(
            f"{call} got batches that do not end: give the number of batches by {steps}="
            "len(generator), or give the generator itself"
        )
    return feed


class PreparedDataset(keras.utils.PyDataset):
    """A `PyDataset` whose batches are prepared for a model.

    Args:
        dataset: the `PyDataset` of the user.
        prepare: is applied to each batch, but not in other processes, where lists only become
            tuples.
    """

    def __init__(self, dataset: keras.utils.PyDataset, prepare: Prepare) -> None:
        super().__init__(
            workers=dataset.workers,
            use_multiprocessing=dataset.use_multiprocessing,
            max_queue_size=dataset.max_queue_size,
        )
        self.dataset = dataset
        self.prepare = tuple if dataset.use_multiprocessing else prepare
        self.error: Exception | None = None

    @property
    def num_batches(self) -> int | None:
        """Return the number of batches."""
        return self.dataset.num_batches

    def __getitem__(self, index: int) -> tuple:
        """Return a batch."""
        batch = self.dataset[index]
        parts = batch if isinstance(batch, tuple) else (batch,)
        try:
            return self.prepare(tuple(map(as_tuples, parts)))
        except Exception as error:
            self.error = error  # TensorFlow replaces it by an error of its own
            raise

    def on_epoch_begin(self) -> None:
        """Call `on_epoch_begin` of the data set."""
        self.dataset.on_epoch_begin()

    def on_epoch_end(self) -> None:
        """Call `on_epoch_end` of the data set."""
        self.dataset.on_epoch_end()


@contextmanager
def original_errors(*given: Any) -> Iterator[None]:
    """Raise the error of a data set in place of the one that TensorFlow replaces it by."""
    try:
        yield
    except Exception:
        errors = [each.error for each in given if isinstance(each, PreparedDataset)]
        for error in filter(None, errors):
            raise error from None
        raise


def as_tuples(part: Any) -> Any:
    """Convert lists to tuples, which TensorFlow does not mistake for arrays."""
    if isinstance(part, dict):
        return {name: as_tuples(each) for name, each in part.items()}
    if isinstance(part, list | tuple):
        return tuple(map(as_tuples, part))
    return part


def with_ranks(y: Any, ranks: list[int]) -> Any:
    """Give targets the ranks that they had in the first call; (n, 1) and (n,) are equivalent.

    If TensorFlow traces a function for both, it no longer knows the number of axes.

    Args:
        y: the targets.
        ranks: the ranks of their arrays; filled in if it is empty.
    """
    arrays = keras.tree.flatten(y)
    if not all(isinstance(array, np.ndarray) for array in arrays):
        return y
    if not ranks:
        ranks += [array.ndim for array in arrays]
    if len(ranks) != len(arrays):
        return y
    pairs = zip(arrays, ranks, strict=True)
    return keras.tree.pack_sequence_as(y, [with_rank(*pair) for pair in pairs])


def with_rank(array: np.ndarray, rank: int) -> np.ndarray:
    """Add or remove a last axis of size 1, so that an array has the rank."""
    if array.ndim == rank - 1:
        return array[..., None]
    if array.ndim == rank + 1 and array.shape[-1] == 1:
        return array[..., 0]
    return array
