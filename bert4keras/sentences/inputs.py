"""From texts to arrays, and through a model in batches of similar length."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from bert4keras.backend.engines import compiled
from bert4keras.data.arrays import bucket_length, sequence_padding
from bert4keras.data.generator import DataGenerator
from bert4keras.generation.prompts import next_power_of_two
from bert4keras.models.variables import to_numpy
from bert4keras.text.base import TokenizerBase
from bert4keras.text.strings import is_string

Row = tuple[list[int], list[int]]
"""Token ids and segment ids."""


def padding_id(tokenizer: TokenizerBase, vocab_size: int) -> int:
    """The id to pad with, by which a model tells padding from text.

    It is that of the padding token, unless that stands around texts as well, as in Qwen3-Embedding;
    then an id that no token has.

    Raises:
        ValueError: there is none.
    """
    pad = getattr(tokenizer, "_token_pad_id", None)
    around = {
        i for tokens in tokenizer._prefix_and_suffix() for i in tokenizer.tokens_to_ids(tokens)
    }
    if pad is not None and pad not in around:
        return pad
    if tokenizer._vocab_size < vocab_size:
        return tokenizer._vocab_size
    raise ValueError(
        "the tokenizer has no padding token that does not stand in texts as well, and the "
        "vocabulary of the model no id beyond the tokenizer's: texts of different lengths cannot "
        "be told apart"
    )


def longest_text(given: int | None, tokenizer: TokenizerBase, transformer: Any) -> int:
    """How many tokens a text may have, by the folder, its tokenizer and the model's positions."""
    positions = getattr(transformer, "max_position", None)
    if transformer.block.position_bias:
        positions = None
    said = given or tokenizer.settings.get("model_max_length")
    return int(min(x for x in (said, positions, 1 << 20) if x))


class Inputs:
    """Makes arrays of texts for a model.

    Args:
        tokenizer: the tokenizer.
        transformer: the model, of `transformer.model`'s inputs.
        max_length: how many tokens a text, or two together, may have.
        lower_case: whether texts are lower-cased first.

    Raises:
        ValueError: the model has inputs that texts do not give.
    """

    def __init__(
        self, tokenizer: TokenizerBase, transformer: Any, max_length: int, lower_case: bool = False
    ) -> None:
        names = [x.name for x in transformer.model.inputs]
        self.n_inputs = len(names)
        if self.n_inputs > 2 or any(not x.endswith(("-Token", "-Segment")) for x in names):
            raise ValueError(f"the model takes {names}, and texts give token and segment ids")
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.lower_case = lower_case
        self.pad_id = transformer.pad_token_id
        self.has_segments = getattr(transformer, "segment_vocab_size", 0) > 1

    def row(self, *texts: str) -> Row:
        """The ids of a text, or of two in one sequence, which lose their ends if too long."""
        if self.lower_case:
            texts = tuple("".join(map(str.lower, text)) for text in texts)
        if len(texts) == 1:
            return self.tokenizer.encode(texts[0], maxlen=self.max_length)
        return self._pair(*map(self.tokenizer.tokenize, texts))

    def _pair(self, first: list[str], second: list[str]) -> Row:
        row = self.tokenizer.encode([first, second])
        excess = len(row[0]) - self.max_length
        if excess <= 0:
            return row
        before, behind = map(len, self.tokenizer._prefix_and_suffix())
        lengths = [len(tokens) - before - behind for tokens in (first, second)]
        room = shared(lengths, sum(lengths) - excess)
        for tokens, kept in zip((first, second), room, strict=True):
            del tokens[before + kept : len(tokens) - behind]
        return self.tokenizer.encode([first, second])

    def arrays(self, rows: Sequence[Row], length: int | None = None) -> list[np.ndarray]:
        """Padded arrays (rows, length) of rows, one for each input of the model."""
        columns = [sequence_padding([row[0] for row in rows], length, self.pad_id)]
        if self.n_inputs > 1:
            segments = [row[1] if self.has_segments else [0] * len(row[0]) for row in rows]
            columns.append(sequence_padding(segments, length))
        return [column.astype("int32") for column in columns]


def shared(lengths: Sequence[int], room: int) -> tuple[int, int]:
    """How much two texts keep of `room` tokens: the longer one loses until they are equally long.

    Of an odd number the longer one keeps more, of two equal ones the second, as in `tokenizers`.
    """
    shorter = min(lengths)
    longer = max(shorter, room - shorter)
    if shorter + longer > room:
        shorter, longer = room // 2, room - room // 2
    return (longer, shorter) if lengths[0] > lengths[1] else (shorter, longer)


class Runner:
    """Runs a model on rows, in batches of similar length and of few shapes.

    TensorFlow compiles one graph for all shapes and PyTorch none; JAX compiles for every new one,
    so that there lengths are those of `bucket_length`, and numbers of rows powers of two.

    Args:
        inputs: makes arrays.
        model: whose output is (batch, ...).
    """

    def __init__(self, inputs: Inputs, model: keras.Model) -> None:
        self.inputs = inputs
        self.few_shapes = keras.backend.backend() == "jax"

        def run(arrays: list) -> Any:
            outputs = model(arrays if len(arrays) > 1 else arrays[0], training=False)
            return ops.cast(outputs, "float32")

        self._run = compiled(run, model, any_shape=True)
        output: Any = model.output
        self.size: int = output.shape[-1]

    def __call__(self, rows: Sequence[Row], batch_size: int, verbose: int) -> np.ndarray:
        """Return the outputs (rows, size), float32, in the order of the rows.

        Args:
            rows: see `Inputs.row`.
            batch_size: rows that are computed together.
            verbose: whether to show a bar.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, give at least 1")
        outputs = np.zeros((len(rows), self.size), "float32")
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i][0]))
        bar = keras.utils.Progbar(len(rows), verbose=verbose, unit_name="text")
        for start in range(0, len(rows), batch_size):
            indices = order[start : start + batch_size]
            outputs[indices] = self._batch([rows[i] for i in indices])
            if verbose:
                bar.add(len(indices))
        return outputs

    def _batch(self, rows: list[Row]) -> np.ndarray:
        count, length = len(rows), len(rows[0][0])
        if self.few_shapes:
            length = max(length, min(bucket_length(length), self.inputs.max_length))
            rows = rows + rows[-1:] * (next_power_of_two(count) - count)
        return to_numpy(self._run(self.inputs.arrays(rows, length)))[:count]


class TrainingBatches(DataGenerator):
    """Batches of groups of texts, for `fit`; the groups stay together and are shuffled.

    Args:
        inputs: makes arrays.
        groups: tuples of texts.
        labels: a label for each group, None for zeros.
        batch_size: groups in a batch.
        joined: whether a group is one row of the model, rather than as many as it has texts.
    """

    def __init__(
        self,
        inputs: Inputs,
        groups: Sequence[tuple[str, ...]],
        labels: Sequence[Any] | None,
        batch_size: int,
        joined: bool = False,
    ) -> None:
        labels = [0.0] * len(groups) if labels is None else labels
        if len(labels) != len(groups):
            raise ValueError(f"there are {len(groups)} groups of texts and {len(labels)} labels")
        samples = list(zip(groups, labels, strict=True))
        super().__init__(samples, batch_size, bucket=lambda sample: max(map(len, sample[0])))
        self.inputs = inputs
        self.joined = joined

    def __iter__(self, random: bool = False) -> Iterator:
        """Yield `(arrays, labels)`; rows of a group follow each other, with the same label."""
        rows, labels, count = [], [], 0
        for is_end, (texts, label) in self.sample(random):
            new = [self.inputs.row(*texts)] if self.joined else list(map(self.inputs.row, texts))
            rows, labels, count = rows + new, labels + [label] * len(new), count + 1
            if count == self.batch_size or is_end:
                longest = max(len(row[0]) for row in rows)
                length = max(longest, min(bucket_length(longest), self.inputs.max_length))
                yield self.inputs.arrays(rows, length), np.asarray(labels, "float32")
                rows, labels, count = [], [], 0


def listed_texts(texts: Any, takes: Callable[[Any], bool], what: str) -> tuple[list, bool]:
    """Give a list of what one or several of were given, and whether it was one.

    Raises:
        TypeError: something else is among them.
    """
    single = takes(texts)
    found = [texts] if single or not isinstance(texts, Iterable) else list(texts)
    wrong = [x for x in found if not takes(x)]
    if wrong:
        raise TypeError(f"expected {what} or several of these, and got {wrong[0]!r:.100}")
    return found, single


def is_pair(value: Any) -> bool:
    """Tell whether something is two texts."""
    return isinstance(value, list | tuple) and len(value) == 2 and all(map(is_string, value))
