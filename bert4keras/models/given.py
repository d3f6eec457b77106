"""What scripts give to `fit`, `evaluate`, `predict` and their kin, in the form that Keras takes."""

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from bert4keras.data.generator import DataGenerator
from bert4keras.training.feed import as_feed

STEPS = {"fit": "steps_per_epoch", "validation_data": "validation_steps"}
"""What the number of batches is called, where it is not `steps`."""


def is_stream(x: Any) -> bool:
    """Tell whether batches come one by one: a generator or iterator of the user's."""
    return inspect.isgenerator(x) or (isinstance(x, Iterable) and hasattr(x, "__next__"))


def brings_batches(x: Any) -> bool:
    """Tell whether targets, if there are any, come with the inputs."""
    return is_stream(x) or isinstance(x, DataGenerator | keras.utils.PyDataset)


def as_arrays(x: Any, n_inputs: int) -> Any:
    """Turn nested lists into one array per input; what else there is stays as it is."""
    if not isinstance(x, list | tuple):
        return x
    if n_inputs > 1 or (len(x) == 1 and hasattr(x[0], "shape")):
        return [as_array(each, i) for i, each in enumerate(x)]
    return as_array(x, 0)


def as_array(values: Any, index: int) -> Any:
    """An array of nested lists; arrays and tensors are passed on as they are."""
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


Prepare = Callable[[tuple], tuple]


def looked_at(x: Any) -> Any:
    """The inputs in what is given, as arrays or as their specs; None if they cannot be seen."""
    if hasattr(x, "element_spec"):  # of a tf.data.Dataset
        spec = x.element_spec
        return spec[0] if isinstance(spec, tuple) else spec
    return x if isinstance(x, list | tuple | dict) or hasattr(x, "shape") else None


def as_batches(call: str, x: Any, options: dict[str, Any], prepare: Prepare) -> Any:
    """Turn what brings batches into what Keras takes.

    Args:
        call: what was called; 'validation_data' for that of `fit`.
        x: a generator, an iterator, a `DataGenerator` or a `PyDataset`.
        options: arguments of the call. The number of steps is filled in if it is known.
        prepare: checks a batch, and gives it in the form that the model takes.

    Raises:
        ValueError: the batches do not end, and no number of steps says how many there are.
    """
    steps = STEPS.get(call, "steps")
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
            f"{call} got batches that do not end: say how many make a pass, by {steps}="
            "len(generator), or give the generator itself"
        )
    return feed


class PreparedDataset(keras.utils.PyDataset):
    """A `PyDataset` of the user's whose batches are prepared for a model.

    Args:
        dataset: it.
        prepare: what is done to each batch; in other processes, lists become tuples only.
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
        """How many batches there are."""
        return self.dataset.num_batches

    def __getitem__(self, index: int) -> tuple:
        """Give a batch."""
        batch = self.dataset[index]
        parts = batch if isinstance(batch, tuple) else (batch,)
        try:
            return self.prepare(tuple(map(as_tuples, parts)))
        except Exception as error:
            self.error = error  # which TensorFlow makes one of its own of
            raise

    def on_epoch_begin(self) -> None:
        """Begin an epoch."""
        self.dataset.on_epoch_begin()

    def on_epoch_end(self) -> None:
        """End an epoch."""
        self.dataset.on_epoch_end()


@contextmanager
def own_errors(*given: Any) -> Iterator[None]:
    """Raise what went wrong in a data set, not what TensorFlow makes of it."""
    try:
        yield
    except Exception:
        errors = [each.error for each in given if isinstance(each, PreparedDataset)]
        for error in filter(None, errors):
            raise error from None
        raise


def as_tuples(part: Any) -> Any:
    """Turn lists into tuples, which TensorFlow does not take for arrays."""
    if isinstance(part, dict):
        return {name: as_tuples(each) for name, each in part.items()}
    if isinstance(part, list | tuple):
        return tuple(map(as_tuples, part))
    return part


def with_ranks(y: Any, ranks: list[int]) -> Any:
    """Give targets the ranks they had first: (n, 1) and (n,) say the same.

    TensorFlow, where both come into one function, forgets how many axes there are.

    Args:
        y: targets.
        ranks: of their arrays; filled in if it is empty.
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
    """Add or take away a last axis of size 1."""
    if array.ndim == rank - 1:
        return array[..., None]
    if array.ndim == rank + 1 and array.shape[-1] == 1:
        return array[..., 0]
    return array
