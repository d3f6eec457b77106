"""Batches for `fit`, `evaluate` and `predict`."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from bert4keras.keras_private import DataAdapter

if TYPE_CHECKING:
    import tensorflow as tf

_PARTS = ("inputs", "targets", "sample_weights")


def as_feed(batches: Iterable) -> "BatchFeed":
    """Wrap batches, such as those of a generator, for Keras; a `BatchFeed` is returned as it is."""
    return batches if isinstance(batches, BatchFeed) else BatchFeed(batches)


class BatchFeed(DataAdapter):
    """Batches for `fit`, `evaluate` and `predict`, which can also be iterated over.

    A batch is `(inputs, targets)`, `(inputs, targets, sample_weights)` or `(inputs,)`; anything but
    a tuple is inputs alone. Each part is an array, or a list, tuple or dict of arrays whose first
    axis is the batch; a part with a single array is passed on as this array. Targets are None where
    the model has its own loss.

    All other axes may change from batch to batch, and a TensorFlow model is traced once for all
    sizes. Only a last axis of size 1, such as that of a column of labels, must keep its size there,
    because losses depend on it. Arrays are not copied, except that float64 becomes
    `keras.config.floatx()`.

    `next(feed)` returns a batch as it was given. A feed serves one loop at a time; the next loop
    continues where the last one stopped.

    Args:
        batches: the batches, read once. On TensorFlow a separate thread prefetches two of them.
        inputs_only: a batch is inputs alone even if it is a tuple.
        endless: there is no last batch, so that `Model` requires a number of steps.

    Attributes:
        prepare: a function applied to each batch, or None: `Model` checks batches by it.

    Raises:
        ValueError: while batches are read, if there are none or one does not match the first.
        TypeError: while batches are read, if one contains something other than arrays.
        Exception: whatever the iteration over `batches` raises. On TensorFlow it follows a warning
            of Keras that the data have run out.
    """

    n_peeked = 4  # batches that decide on TensorFlow whether a last axis is always of size 1
    n_prefetched = 2

    def __init__(self, batches: Iterable, inputs_only: bool = False, endless: bool = False):
        self._source = iter(batches)
        self.endless = endless
        self.prepare: Callable[[tuple], tuple] | None = None
        self._inputs_only = inputs_only
        self._returned: deque = deque()
        self._reading: deque[Future] = deque()
        self._reader: ThreadPoolExecutor | None = None
        self._lock = Lock()
        self._layout: dict[str, tuple[np.dtype, int]] = {}
        self._signature: tuple | None = None
        self._in_epoch = False
        self._error: Exception | None = None

    def __iter__(self) -> "BatchFeed":
        return self

    def __next__(self) -> Any:
        with self._lock:
            if self._returned:
                return self._returned.popleft()
            return self._reading.popleft().result() if self._reading else next(self._source)

    def peek(self) -> tuple:
        """Return the next batch in the form that Keras takes, without consuming it.

        Raises:
            ValueError: there is none.
        """
        return self._look_ahead(1)[0]

    # === The interface of Keras data adapters ===

    @property
    def num_batches(self) -> None:
        """None: the number of batches is not known."""

    @property
    def batch_size(self) -> None:
        """None: the batch size is not known."""

    def on_epoch_begin(self) -> None:
        """Record that Keras starts to read."""
        self._in_epoch = True

    def on_epoch_end(self) -> None:
        """Record that Keras stopped reading, and raise the error that stopped it on TensorFlow."""
        self._in_epoch = False
        error, self._error = self._error, None
        if error is not None:
            raise error

    def get_numpy_iterator(self) -> Iterator[tuple]:
        """Yield the batches as NumPy arrays."""
        return self._batches()

    def get_jax_iterator(self) -> Iterator[tuple]:
        """Yield the batches as NumPy arrays, which JAX itself moves to its device."""
        return self._batches()

    def get_torch_dataloader(self) -> Iterator[tuple]:
        """Yield the batches as tensors on the device of the model."""
        return (keras.tree.map_structure(_to_tensor, batch) for batch in self._batches())

    def get_tf_dataset(self) -> "tf.data.Dataset":
        """Return the batches as a dataset in which all sizes that may change are unknown."""
        import tensorflow as tf

        first = self._look_ahead(self.n_peeked)
        if self._signature is None:
            self._signature = keras.tree.map_structure(_to_spec, *first)

        def generate() -> Iterator[tuple]:
            # TensorFlow would turn an error into one of its own. Instead the data end here, and
            # Keras calls on_epoch_end, which raises the error.
            try:
                self._look_ahead(1)
                for raw in self._prefetched():
                    batch = self._convert(raw)
                    keras.tree.map_structure(_check_column, batch, self._signature)
                    yield batch
            except Exception as error:
                self._error = error

        options = tf.data.Options()
        # Batches prefetched by TensorFlow would be lost when Keras drops the dataset.
        options.experimental_optimization.inject_prefetch = False
        dataset = tf.data.Dataset.from_generator(generate, output_signature=self._signature)
        return dataset.with_options(options)

    # === Reading ===

    def _look_ahead(self, n: int) -> list[tuple]:
        """Convert the next batches, at most `n`, without consuming them."""
        raw = list(itertools.islice(self, n))
        self._returned.extendleft(reversed(raw))
        if not raw:
            raise ValueError(
                "there is no batch to read: the generator yields none or has been exhausted "
                "before; give a new one, or an endless one with a number of steps"
            )
        return [self._convert(batch) for batch in raw]

    def _prefetched(self) -> Iterator:
        """Yield the batches as they are given, while a thread prefetches the next ones."""
        if self._reader is None:
            self._reader = ThreadPoolExecutor(1, "BatchFeed")
        while True:
            with self._lock:
                while len(self._reading) <= self.n_prefetched:
                    self._reading.append(self._reader.submit(next, self._source))
            try:
                batch = next(self)
            except StopIteration:
                return
            yield batch

    def _batches(self) -> Iterator[tuple]:
        """Return an iterator of the converted batches; the first one is checked at once."""
        # A JAX model is left without weights if its first step fails.
        self._look_ahead(1)
        return self._converted()

    def _converted(self) -> Iterator[tuple]:
        for n_yielded, raw in enumerate(self):
            try:
                yield self._convert(raw)
            except GeneratorExit:
                # Keras may build a model from the first batch, and start again to train.
                if n_yielded == 0 and self._in_epoch:
                    self._returned.appendleft(raw)
                raise

    def _convert(self, raw: Any) -> tuple:
        """Check a batch against the first one, and turn its lists into tuples for Keras."""
        parts = raw if isinstance(raw, tuple) and not self._inputs_only else (raw,)
        while len(parts) > 1 and parts[-1] is None:
            parts = parts[:-1]
        if not 1 <= len(parts) <= len(_PARTS) or any(part is None for part in parts):
            kinds = [type(part).__name__ for part in parts]
            raise ValueError(
                f"a batch has the parts {kinds}: yield (inputs, targets), (inputs, targets, "
                "sample_weights) or (inputs, None)"
            )
        arrays: dict[str, np.ndarray] = {}
        batch = tuple(
            self._to_arrays(_unwrapped(part, name), name, arrays)
            for name, part in zip(_PARTS, parts, strict=False)
        )
        self._check(arrays)
        return batch if self.prepare is None else self.prepare(batch)

    def _to_arrays(self, part: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:
        """Convert the leaves of a part to arrays, and add them to `arrays` by their paths."""
        if isinstance(part, dict | list | tuple) and not part:
            raise ValueError(
                f"{path} of a batch is an empty {type(part).__name__}: give at least one array"
            )
        if isinstance(part, dict):
            return {k: self._to_arrays(v, f"{path}[{k!r}]", arrays) for k, v in part.items()}
        if isinstance(part, list | tuple):
            return tuple(self._to_arrays(v, f"{path}[{i}]", arrays) for i, v in enumerate(part))
        if not hasattr(part, "shape") or not hasattr(part, "dtype"):
            raise TypeError(
                f"{path} of a batch has the type {type(part).__name__} instead of an array: "
                "convert lists of numbers by sequence_padding or to_array"
            )
        array = np.asarray(part)
        if array.dtype == np.float64:
            array = array.astype(keras.config.floatx())
        dtype, _ = self._layout.get(path, (array.dtype, None))
        if np.can_cast(array.dtype, dtype, "same_kind"):
            array = array.astype(dtype, copy=False)
        arrays[path] = array
        return array

    def _check(self, arrays: dict[str, np.ndarray]) -> None:
        """Raise unless all arrays have the same batch size, and the layout of the first batch."""
        shapes = {path: array.shape for path, array in arrays.items()}
        if len({shape[:1] for shape in shapes.values()}) != 1 or not all(
            shape and shape[0] for shape in shapes.values()
        ):
            raise ValueError(
                f"a batch has arrays of the shapes {shapes}: the first axis is the batch, and must "
                "have the same size, at least 1, in all of them"
            )

        layout = {path: (array.dtype, array.ndim) for path, array in arrays.items()}
        if not self._layout:
            self._layout = layout
        elif layout != self._layout:
            raise ValueError(
                f"a batch has arrays of the types and ranks {_readable(layout)}, but the first "
                f"one {_readable(self._layout)}: all batches must have the same structure"
            )


def _unwrapped(part: Any, name: str) -> Any:
    """Take a single array out of its list, or a single target out of its dict.

    Keras warns of the list if the model was built from a bare tensor, and fails with the dict if
    the model has one output.
    """
    if isinstance(part, list | tuple) and len(part) == 1:
        return part[0]
    if isinstance(part, dict) and len(part) == 1 and name != "inputs":
        return next(iter(part.values()))
    return part


def _readable(layout: dict[str, tuple[np.dtype, int]]) -> dict[str, str]:
    return {path: f"{dtype} of rank {ndim}" for path, (dtype, ndim) in layout.items()}


def _to_tensor(array: np.ndarray) -> Any:
    # PyTorch shares the memory of an array, and warns if it is read-only.
    return keras.ops.convert_to_tensor(array if array.flags.writeable else array.copy())


def _to_spec(*arrays: np.ndarray) -> "tf.TensorSpec":
    """Derive the spec of an input from its arrays in the first batches."""
    import tensorflow as tf

    shape: list[int | None] = [None] * arrays[0].ndim
    if len(shape) > 1 and all(array.shape[-1] == 1 for array in arrays):
        shape[-1] = 1
    return tf.TensorSpec(shape, arrays[0].dtype)


def _check_column(array: np.ndarray, spec: "tf.TensorSpec") -> None:
    if spec.shape[-1] not in (None, array.shape[-1]):
        raise ValueError(
            f"a batch has an array of shape {array.shape}, but its last axis had size 1 in the "
            "first batches: pad it to at least 2 elements"
        )
