"""Arrays of texts, and batches of similar length for prediction and training."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from bert4keras.backend.engines import compiled, computes_faster_in_parts
from bert4keras.data.arrays import bucket_length, sequence_padding, similar_lengths
from bert4keras.data.generator import DataGenerator
from bert4keras.generation.prompts import next_power_of_two, position_limit
from bert4keras.models.variables import to_numpy
from bert4keras.text.base import TokenizerBase
from bert4keras.text.strings import is_string

Row = tuple[list[int], list[int]]
"""Token ids and segment ids."""


def padding_id(tokenizer: TokenizerBase, vocab_size: int) -> int:
    """Return the padding id, by which a model distinguishes padding from text.

    It is the id of the padding token, unless texts begin or end with that token, as in
    Qwen3-Embedding; then it is an id without a token.

    Raises:
        ValueError: there is no such id.
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
        "the tokenizer has no padding token, or adds it to texts, and the vocabulary of the model "
        "has no id beyond the tokenizer's, so that padding cannot be distinguished from text: give "
        "the tokenizer a padding token of its own"
    )


def maximum_length(given: int | None, tokenizer: TokenizerBase, transformer: Any) -> int:
    """Return the maximum length of texts, from the folder, its tokenizer and the positions."""
    positions = getattr(transformer, "max_position", None)
    if transformer.block.position_bias:
        positions = None
    of_table, _ = position_limit(transformer)  # RoBERTa's has rows that are not for text
    length = given or tokenizer.settings.get("model_max_length")
    return int(min(x for x in (length, positions, of_table, 1 << 20) if x))


class Inputs:
    """Encodes texts, and makes arrays for a model.

    Args:
        tokenizer: the tokenizer.
        transformer: the `Transformer` of the model.
        max_length: maximum number of tokens of a text, or of a pair.
        lower_case: whether texts are lower-cased first.

    Raises:
        ValueError: the model has inputs other than token ids and segment ids.
    """

    def __init__(
        self, tokenizer: TokenizerBase, transformer: Any, max_length: int, lower_case: bool = False
    ) -> None:
        names = [x.name for x in transformer.model.inputs]
        self.n_inputs = len(names)
        if self.n_inputs > 2 or any(not x.endswith(("-Token", "-Segment")) for x in names):
            raise ValueError(
                f"the model has the inputs {names}: only token ids and segment ids are supported"
            )
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.lower_case = lower_case
        self.pad_id = transformer.pad_token_id
        self.has_segments = getattr(transformer, "segment_vocab_size", 0) > 1

    def encode(self, *texts: str) -> Row:
        """Encode a text, or a pair as one sequence, truncated to `max_length`."""
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
        prefix, suffix = map(len, self.tokenizer._prefix_and_suffix())
        lengths = [len(tokens) - prefix - suffix for tokens in (first, second)]
        budgets = divide_budget(lengths, sum(lengths) - excess)
        for tokens, kept in zip((first, second), budgets, strict=True):
            del tokens[prefix + kept : len(tokens) - suffix]
        return self.tokenizer.encode([first, second])

    def arrays(self, rows: Sequence[Row], length: int | None = None) -> list[np.ndarray]:
        """Return padded arrays (rows, length), one for each input of the model."""
        columns = [sequence_padding([row[0] for row in rows], length, self.pad_id)]
        if self.n_inputs > 1:
            segments = [row[1] if self.has_segments else [0] * len(row[0]) for row in rows]
            columns.append(sequence_padding(segments, length))
        return [column.astype("int32") for column in columns]


def divide_budget(lengths: Sequence[int], budget: int) -> tuple[int, int]:
    """Divide a number of tokens between two texts; the longer one is truncated to the shorter.

    If both are truncated to an odd number of tokens together, the longer text keeps one more; of
    texts of the same length the second does, as in `tokenizers`.
    """
    shorter = min(lengths)
    longer = max(shorter, budget - shorter)
    if shorter + longer > budget:
        shorter, longer = budget // 2, budget - budget // 2
    return (longer, shorter) if lengths[0] > lengths[1] else (shorter, longer)


class Runner:
    """Runs a model on rows, in batches of similar length (see `similar_lengths`) and few shapes.

    TensorFlow compiles one graph for all shapes and PyTorch none; JAX compiles for every new shape,
    so for JAX lengths are rounded up by `bucket_length`, and numbers of rows to powers of two.

    Args:
        inputs: the `Inputs` of the model.
        model: a model with the output (batch, size).
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
            rows: see `Inputs.encode`.
            batch_size: largest number of rows in a batch.
            verbose: whether to show a progress bar.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: give at least 1")
        outputs = np.zeros((len(rows), self.size), "float32")
        lengths = [len(token_ids) for token_ids, _ in rows]
        bar = keras.utils.Progbar(len(rows), verbose=verbose, unit_name="text")
        for indices in similar_lengths(lengths, batch_size, computes_faster_in_parts()):
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
    """Batches of groups of texts for `fit`; groups are shuffled and not divided.

    Args:
        inputs: the `Inputs` of the model.
        groups: tuples of texts.
        labels: a label for each group, None for zeros.
        batch_size: groups in a batch.
        joined: whether a group is one row for the model, rather than one row for each text.
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
            raise ValueError(
                f"there are {len(groups)} groups of texts and {len(labels)} labels: give one label "
                "for each group"
            )
        samples = list(zip(groups, labels, strict=True))
        super().__init__(samples, batch_size, bucket=lambda sample: max(map(len, sample[0])))
        self.inputs = inputs
        self.joined = joined

    def __iter__(self, random: bool = False) -> Iterator:
        """Yield `(arrays, labels)`; the rows of a group are consecutive and have the same label."""
        encode = self.inputs.encode
        rows, labels, count = [], [], 0
        for is_end, (texts, label) in self.sample(random):
            new = [encode(*texts)] if self.joined else list(map(encode, texts))
            rows, labels, count = rows + new, labels + [label] * len(new), count + 1
            if count == self.batch_size or is_end:
                longest = max(len(row[0]) for row in rows)
                length = max(longest, min(bucket_length(longest), self.inputs.max_length))
                yield self.inputs.arrays(rows, length), np.asarray(labels, "float32")
                rows, labels, count = [], [], 0


def as_list(values: Any, is_valid: Callable[[Any], bool], kind: str) -> tuple[list, bool]:
    """Return one or several values as a list, and whether it was a single value.

    Raises:
        TypeError: a value is invalid.
    """
    single = is_valid(values)
    found = [values] if single or not isinstance(values, Iterable) else list(values)
    wrong = [x for x in found if not is_valid(x)]
    if wrong:
        raise TypeError(f"got {wrong[0]!r:.100}: give {kind}, or several of these")
    return found, single


def is_pair(value: Any) -> bool:
    """Return whether a value is a pair of texts."""
    return isinstance(value, list | tuple) and len(value) == 2 and all(map(is_string, value))
