"""Batches of samples, for training and for prediction."""

# ruff: noqa: NPY002 - scripts make shuffling reproducible by np.random.seed

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bert4keras.data.arrays import bucket_length, longest, sequence_padding
from bert4keras.text.strings import is_string

if TYPE_CHECKING:
    import tensorflow as tf

    from bert4keras.training.feed import BatchFeed


def sample_length(sample: object) -> int:
    """Measure a sample for bucketing by its number of characters and numbers, also if nested."""
    if isinstance(sample, str | bytes):
        return len(sample)
    if isinstance(sample, dict):
        return sum(map(sample_length, sample.values()))
    if isinstance(sample, list | tuple | set | frozenset):
        return sum(map(sample_length, sample))
    return int(np.size(sample))


class DataGenerator:
    """Shuffled batches of samples for training and for prediction.

    A subclass defines `__iter__(self, random=False)`: it reads `self.sample(random)`, collects
    `self.batch_size` samples and yields `(inputs, targets)`, where targets are None if the model
    has its own loss.

    Bucketing groups samples of similar length into batches while the order remains random: the
    shuffled samples of 50 batches, or a quarter of the data if that is less, are sorted by length
    and split into batches, which are shuffled. Only random passes are bucketed.

    Args:
        data: a list, or any iterable that can be iterated several times, such as an object that
            reads a large file.
        batch_size: number of samples in a batch.
        buffer_size: size of the shuffle buffer in samples, for an iterable without length; by
            default 1000 batches. A list is shuffled as a whole.
        bucket: True measures samples by `sample_length`, a function of a sample measures by that
            function, False disables bucketing.

    Raises:
        ValueError: batch_size is below 1.
    """

    bucket_window = 50

    def __init__(
        self,
        data: Iterable,
        batch_size: int = 32,
        buffer_size: int | None = None,
        bucket: bool | Callable[[Any], float] = False,
    ):
        if batch_size < 1:
            raise ValueError(f"DataGenerator: batch_size is {batch_size}: give at least 1")
        self.data = data
        self.batch_size = batch_size
        self.buffer_size = buffer_size or batch_size * 1000
        self.bucket = bucket
        try:
            self.steps = -(-len(data) // batch_size)
        except TypeError:
            self.steps = None

    def __len__(self) -> int:
        """Return the number of batches in a pass over the data."""
        if self.steps is None:
            raise TypeError(
                f"{type(self).__name__}: the data have no length, so that the number of batches is "
                "unknown: give a number as steps_per_epoch"
            )
        return self.steps

    def sample(self, random: bool = False) -> Iterator[tuple[bool, Any]]:
        """Iterate over the data once.

        Args:
            random: whether to shuffle, by the state of `numpy.random`, and to bucket if enabled.

        Yields:
            `(is_end, sample)`, where is_end is True only for the last sample.

        Raises:
            ValueError: there is no data.
        """
        samples = self._shuffled() if random else iter(self.data)
        if random and self.bucket:
            samples = self._bucketed(samples)
        try:
            current = next(samples)
        except StopIteration:
            raise ValueError(
                f"{type(self).__name__}: the data have no sample: give some, and instead of an "
                "iterator that is exhausted after one pass give a list or an iterable"
            ) from None
        for following in samples:
            yield False, current
            current = following
        yield True, current

    def _shuffled(self) -> Iterator:
        if self.steps is not None and hasattr(self.data, "__getitem__"):
            yield from (self.data[i] for i in np.random.permutation(len(self.data)))
            return
        buffer = []
        for sample in self.data:
            buffer.append(sample)
            if len(buffer) > self.buffer_size:
                yield buffer.pop(np.random.randint(len(buffer)))
        while buffer:
            yield buffer.pop(np.random.randint(len(buffer)))

    def _bucketed(self, samples: Iterator) -> Iterator:
        measure = self.bucket if callable(self.bucket) else sample_length
        window_steps = self.bucket_window
        if self.steps is not None:
            # Sorting all data at once would result in the same batches in every pass.
            window_steps = min(window_steps, max(1, self.steps // 4))
        size = self.batch_size
        while window := list(itertools.islice(samples, window_steps * size)):
            window.sort(key=measure)
            full, rest = divmod(len(window), size)
            # The incomplete last batch is not a special one, such as that of the longest samples.
            start = size * np.random.randint(full + 1)
            incomplete = window[start : start + rest]
            del window[start : start + rest]
            for i in np.random.permutation(full):
                yield from window[size * i : size * (i + 1)]
            yield from incomplete

    def __iter__(self, random: bool = False) -> Iterator:
        """Yield the batches of one pass; subclasses define this method."""
        raise NotImplementedError(
            f"{type(self).__name__} must define __iter__(self, random=False), which yields "
            "(inputs, targets)"
        )

    def pad(
        self, sequences: Sequence, value: float = 0, seq_dims: int = 1, mode: str = "post"
    ) -> np.ndarray:
        """Pad the sequences of a batch as `sequence_padding` does.

        With `bucket`, and always on JAX, which compiles a model for every shape, the lengths are
        rounded up by `bucket_length`.

        Args:
            sequences: sequences of one rank.
            value: the padding value.
            seq_dims: number of padded axes.
            mode: `post` or `pre`.
        """
        return padded(sequences, value, seq_dims, mode, rounded=bool(self.bucket))

    def _passes(self, random: bool) -> Iterator:
        """Yield the batches of endless passes."""
        while True:
            empty = True
            for batch in self.__iter__(random):
                empty = False
                yield batch
            if empty:
                raise ValueError(
                    f"{type(self).__name__}: a pass over the data yielded no batch: let __iter__ "
                    "yield the last batch when is_end is True"
                )

    def forfit(self, random: bool = True) -> "BatchFeed":
        """Return the batches of endless passes, for `model.fit(..., steps_per_epoch=len(self))`.

        Args:
            random: whether to shuffle each pass.

        Returns:
            A `training.BatchFeed`, which is also an iterator over the batches of `__iter__`.
        """
        from bert4keras.training.feed import BatchFeed

        return BatchFeed(self._passes(random), endless=True)

    def fortest(self) -> "BatchFeed":
        """Return the inputs of endless passes in order, for `model.predict(steps=len(self))`."""
        from bert4keras.training.feed import BatchFeed

        inputs = (batch[0] if isinstance(batch, tuple) else batch for batch in self._passes(False))
        return BatchFeed(inputs, inputs_only=True, endless=True)

    def to_dataset(
        self, types: Any, shapes: Any, names: Any = None, padded_batch: bool = False
    ) -> "tf.data.Dataset":
        """Return a `tf.data.Dataset` of batches of shuffled samples; TensorFlow must be installed.

        `__iter__` must then yield single samples, in the structure of `types`.

        Args:
            types: the types of the elements of a sample, in the structure of a sample.
            shapes: their shapes, in the same structure, None for a variable axis.
            names: the names of the inputs, to pass them as a dict: one name or several. `(names of
                the inputs, names of the targets)` names both; a single target is passed without a
                dict, which a model with one output does not take.
            padded_batch: whether to pad the variable axes of a batch to the longest sample.

        Raises:
            ValueError: the structures of types, shapes and samples differ.
        """
        import tensorflow as tf

        if isinstance(types, list | tuple) and types[-1] is None:
            # A missing target is left out: distributed training fails on an optional element.
            types, shapes = types[:-1], shapes[: len(types) - 1]

        def arrange(leaf: Callable, values: Any) -> Any:
            return _named(names, _map_like(types, values, leaf))

        def generate() -> Iterator:
            for sample in self._passes(True):
                yield arrange(lambda dtype, value: value, sample)

        def element(dtype: Any, shape: Any) -> tf.TensorSpec:
            return tf.TensorSpec([None] * len(shape) if padded_batch else shape, dtype)

        dataset = tf.data.Dataset.from_generator(
            generate, output_signature=arrange(element, shapes)
        )
        if padded_batch:
            padded_shapes = arrange(lambda dtype, shape: tf.TensorShape(shape), shapes)
            dataset = dataset.padded_batch(self.batch_size, padded_shapes)
        else:
            dataset = dataset.batch(self.batch_size)
        return dataset.prefetch(tf.data.AUTOTUNE)


def padded(
    sequences: Sequence,
    value: float = 0,
    seq_dims: int = 1,
    mode: str = "post",
    rounded: bool = False,
) -> np.ndarray:
    """Pad sequences as `sequence_padding` does, to lengths that are rounded up on JAX.

    Args:
        sequences: sequences of one rank.
        value: the padding value.
        seq_dims: number of padded axes.
        mode: `post` or `pre`.
        rounded: whether lengths are rounded up by `bucket_length` on the other backends too.
    """
    length = None
    if len(sequences) and (rounded or _every_shape_is_compiled()):
        length = [bucket_length(n) for n in longest(sequences, seq_dims)]
    return sequence_padding(sequences, length, value, seq_dims, mode)


def _every_shape_is_compiled() -> bool:
    """Ask the backend; this imports Keras, which `pad` does without where it can."""
    from bert4keras.backend.engines import compiles_every_shape

    return compiles_every_shape()


def batches_are_divided() -> bool:
    """Ask the backend whether a batch with much padding is better computed in parts."""
    from bert4keras.backend.engines import computes_faster_in_parts

    return computes_faster_in_parts()


def _map_like(types: Any, values: Any, leaf: Callable) -> Any:
    """Apply `leaf(type, value)` at the leaves of `types`, whose lists become tuples."""
    if isinstance(types, dict):
        return {key: _map_like(types[key], values[key], leaf) for key in types}
    if not isinstance(types, list | tuple):
        return leaf(types, values)
    if isinstance(values, list | tuple) and len(values) == len(types) + 1 and values[-1] is None:
        values = values[:-1]
    if not isinstance(values, list | tuple) or len(values) != len(types):
        raise ValueError(
            f"to_dataset: {values!r} is not nested as the types {types!r} are: give types, shapes "
            "and samples of the same structure"
        )
    return tuple(_map_like(t, v, leaf) for t, v in zip(types, values, strict=True))


def _named(names: Any, values: Any) -> Any:
    """Turn the inputs into a dict, and likewise several targets."""
    if names is None or is_string(names):
        return values if names is None else {names: values}
    names = list(names)
    if len(names) == 1 and not isinstance(values, tuple):
        values = (values,)  # a single name in a list for a single value
    nested = isinstance(values, tuple) and not all(map(is_string, names))
    if nested and names[-1] is None:
        names = names[: len(values)]  # the missing target is left out
    if not isinstance(values, tuple) or len(names) != len(values):
        raise ValueError(
            f"to_dataset: the names {names!r} are not nested as the types are: give one for each "
            "input, or (names of the inputs, names of the targets)"
        )
    if not nested:
        return dict(zip(names, values, strict=True))
    inputs, *targets = (_named(n, v) for n, v in zip(names, values, strict=True))
    return inputs, *(_without_single_name(each) for each in targets)


def _without_single_name(target: Any) -> Any:
    """Return a single target without its dict, which a model with one output does not take."""
    return next(iter(target.values())) if isinstance(target, dict) and len(target) == 1 else target
