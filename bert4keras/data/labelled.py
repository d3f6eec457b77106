"""Batches of texts with a label each, or with a tag for each character; labels of new texts."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from bert4keras.data.arrays import similar_lengths
from bert4keras.data.generator import (
    DataGenerator,
    batches_are_divided,
    padded,
    sample_length,
)
from bert4keras.data.tags import Span, spans_to_tags, tag_names, tags_to_spans
from bert4keras.text.base import TokenizerBase

Text = str | Sequence[str]
"""A text, or a pair of texts, which become one sequence."""
Row = tuple[list[int], list[int]]
"""Token ids and segment ids."""


def check_lengths(texts: Sequence, labels: Sequence, what: str) -> None:
    """Raise a `ValueError` unless there is one label for each text."""
    if len(texts) != len(labels):
        raise ValueError(
            f"there are {len(texts)} texts and {len(labels)} {what}: give one for each text"
        )


class LabelledTexts(DataGenerator):
    """Batches of texts and what is known of each; what the generators of this module share.

    A subclass defines `targets`, which makes an array of what is known of the texts of a batch.

    Args:
        texts: the texts.
        labels: what is known of each text.
        tokenizer: the tokenizer of the model.
        maxlen: maximum number of tokens of a text, or of a pair; what is longer is truncated.
        batch_size: number of texts in a batch.
        bucket: whether texts of similar length are put in a batch.
        segment_ids: whether the model takes segment ids besides token ids.
    """

    def __init__(
        self,
        texts: Sequence[Text],
        labels: Sequence[Any],
        tokenizer: TokenizerBase,
        maxlen: int,
        batch_size: int,
        bucket: bool,
        segment_ids: bool,
    ) -> None:
        samples = list(zip(texts, labels, strict=True))
        super().__init__(samples, batch_size, bucket=bucket and _text_length)
        self.tokenizer = tokenizer
        self.maxlen = maxlen
        self.segment_ids = segment_ids

    def __iter__(self, random: bool = False) -> Iterator:
        """Yield `(inputs, targets)` of one pass."""
        batch = []
        for is_end, sample in self.sample(random):
            batch.append(sample)
            if len(batch) == self.batch_size or is_end:
                texts, labels = zip(*batch, strict=True)
                yield self.inputs(texts), self.targets(texts, labels)
                batch = []

    def encode(self, text: Text) -> tuple[list[int], list[int]]:
        """Return the token ids and segment ids of a text or a pair."""
        texts = (text,) if isinstance(text, str) else text
        return self.tokenizer.encode(*texts, maxlen=self.maxlen)

    def inputs(self, texts: Sequence[Text]) -> list[np.ndarray] | np.ndarray:
        """Return the inputs of a model for texts, (texts, length): token ids and segment ids."""
        return self._arrays(list(map(self.encode, texts)), self.pad)

    def _arrays(
        self, rows: Sequence[Row], pad: Callable[..., np.ndarray]
    ) -> list[np.ndarray] | np.ndarray:
        """Return the inputs of a model for encoded texts, padded by a function."""
        token_ids, segment_ids = zip(*rows, strict=True)
        arrays = pad(token_ids, value=getattr(self.tokenizer, "_token_pad_id", 0))
        return [arrays, pad(segment_ids)] if self.segment_ids else arrays

    def targets(self, texts: Sequence[Text], labels: Sequence[Any]) -> np.ndarray:
        """Return the targets of the texts of a batch; subclasses define this method."""
        raise NotImplementedError(f"{type(self).__name__} must define targets(texts, labels)")

    def outputs(self, model: Any, texts: Sequence[Text]) -> Iterator[tuple[Text, np.ndarray]]:
        """Yield each text with what a model computes for it, padding included, in their order.

        With `bucket` the texts of 50 batches are sorted by length, so that there is little padding;
        on a CPU a batch is divided where texts are much shorter than its longest.
        """
        size = self.batch_size * (self.bucket_window if self.bucket else 1)
        for start in range(0, len(texts), size):
            some = texts[start : start + size]
            yield from zip(some, self._computed(model, some), strict=True)

    def _computed(self, model: Any, texts: Sequence[Text]) -> list[np.ndarray]:
        """Return what a model computes for each of some texts."""
        rows = list(map(self.encode, texts))
        found: dict[int, np.ndarray] = {}
        for indices in self._batches([len(token_ids) for token_ids, _ in rows]):
            arrays = self._arrays([rows[i] for i in indices], padded)
            found.update(zip(indices, model.predict_on_batch(arrays), strict=True))
        return [found[i] for i in range(len(rows))]

    def _batches(self, lengths: list[int]) -> Iterable[Sequence[int]]:
        """Return the indices of the texts of each batch of prediction."""
        if not self.bucket:
            return [range(len(lengths))]
        return similar_lengths(lengths, self.batch_size, batches_are_divided())


def _text_length(sample: tuple[Text, Any]) -> int:
    return sample_length(sample[0])


class TextClassificationGenerator(LabelledTexts):
    """Batches of texts, or pairs of texts, and their labels.

        train = TextClassificationGenerator(texts, labels, tokenizer)
        model.fit(train.forfit(), steps_per_epoch=len(train))
        train.predict(model, ["这本书很好看"])

    A batch is `([token ids, segment ids], label ids)`: two arrays (batch, length), and (batch,).
    The model gives probabilities or logits, (batch, number of labels), and is compiled with
    `'sparse_categorical_crossentropy'`.

    Args:
        texts: strings, or pairs of strings, which the tokenizer joins.
        labels: the label of each text, a string or a number.
        tokenizer: the tokenizer of the model.
        maxlen: maximum number of tokens of a text, or of a pair; what is longer is truncated.
        names: all labels, in the order of their ids; by default those that occur, sorted. For
            validation give those of the training data, `names=train.names`.
        batch_size: number of texts in a batch.
        bucket: whether texts of similar length are put in a batch, see `DataGenerator`.
        segment_ids: whether the model takes segment ids besides token ids, as BERT does.

    Attributes:
        names: the labels, in the order of their ids.

    Raises:
        ValueError: the numbers of texts and labels differ, or a label is not among `names`.
    """

    def __init__(
        self,
        texts: Sequence[Text],
        labels: Sequence[Hashable],
        tokenizer: TokenizerBase,
        maxlen: int = 512,
        names: Sequence[Hashable] | None = None,
        batch_size: int = 32,
        bucket: bool = True,
        segment_ids: bool = True,
    ) -> None:
        check_lengths(texts, labels, "labels")
        self.names: list[Any] = sorted(set(labels)) if names is None else list(names)
        self._ids = {name: i for i, name in enumerate(self.names)}
        if unknown := set(labels) - self._ids.keys():
            raise ValueError(
                f"TextClassificationGenerator: the label {next(iter(unknown))!r} is not among the "
                f"names {self.names!r:.200}: add it to names"
            )
        super().__init__(texts, labels, tokenizer, maxlen, batch_size, bucket, segment_ids)

    def targets(self, texts: Sequence[Text], labels: Sequence[Any]) -> np.ndarray:
        """Return the ids of labels, (batch,)."""
        return np.array([self._ids[label] for label in labels], "int32")

    def predict(self, model: Any, texts: Sequence[Text]) -> list[Any]:
        """Return the label with the highest score for each text.

        Args:
            model: a model that gives a score for each label, (batch, number of labels).
            texts: strings, or pairs of strings.
        """
        return [self.names[int(scores.argmax())] for _, scores in self.outputs(model, texts)]


class SequenceLabelingGenerator(LabelledTexts):
    """Batches of texts and the tags of their tokens, from texts with a tag for each character.

        train = SequenceLabelingGenerator(["我在北京"], [["O", "O", "B-LOC", "I-LOC"]], tokenizer)
        model.fit(train.forfit(), steps_per_epoch=len(train))
        train.predict(model, ["他去上海"])  # for example [[(2, 4, 'LOC')]]

    A batch is `([token ids, segment ids], tag ids)`, all of them (batch, length). A span is marked
    on the tokens that its characters are in: a token that two spans share belongs to the first,
    and what is truncated is lost. The start and end tokens and padding have the tag `O`, number 0;
    a `ConditionalRandomField` leaves padding out by its mask.

    Args:
        texts: strings.
        tags: for each text a tag for each character, such as `B-PER`.
        tokenizer: the tokenizer of the model.
        maxlen: maximum number of tokens of a text; what is longer is truncated.
        kinds: the kinds of spans, in the order of their tags' ids; by default those that occur,
            sorted. For validation give those of the training data, `kinds=train.kinds`.
        scheme: `'BIO'`, `'BIOES'`, `'BMES'` or `'BILOU'`.
        batch_size: number of texts in a batch.
        bucket: whether texts of similar length are put in a batch, see `DataGenerator`.
        segment_ids: whether the model takes segment ids besides token ids, as BERT does.

    Attributes:
        kinds: the kinds of spans.
        names: the tags, in the order of their ids, `O` first.

    Raises:
        ValueError: a text has more or fewer tags than characters, a tag is not of the scheme, or
            its kind not among `kinds`; there is no such scheme.
    """

    def __init__(
        self,
        texts: Sequence[str],
        tags: Sequence[Sequence[str]],
        tokenizer: TokenizerBase,
        maxlen: int = 512,
        kinds: Sequence[str] | None = None,
        scheme: str = "BIO",
        batch_size: int = 32,
        bucket: bool = True,
        segment_ids: bool = True,
    ) -> None:
        check_lengths(texts, tags, "sequences of tags")
        pairs = zip(texts, tags, strict=True)
        spans = [_spans_of(i, text, row, scheme) for i, (text, row) in enumerate(pairs)]
        super().__init__(texts, spans, tokenizer, maxlen, batch_size, bucket, segment_ids)
        found = sorted({kind for row in spans for *_, kind in row})
        self.scheme = scheme
        self.kinds = found if kinds is None else list(kinds)
        if unknown := set(found) - set(self.kinds):
            raise ValueError(
                f"SequenceLabelingGenerator: there are tags of the kind {min(unknown)!r}, which "
                f"is not among the kinds {self.kinds!r:.200}: add it to kinds"
            )
        self.names = tag_names(self.kinds, scheme)
        self._ids = {name: i for i, name in enumerate(self.names)}

    def encode(self, text: Text) -> tuple[list[int], list[int]]:
        """Return the token ids of a text, and segment ids, all 0."""
        token_ids = self.tokenizer.tokens_to_ids(self._tokens(text))
        return token_ids, [0] * len(token_ids)

    def _tokens(self, text: Any) -> list[str]:
        return self.tokenizer.tokenize(text, maxlen=self.maxlen)

    def targets(self, texts: Sequence[Any], labels: Sequence[list[Span]]) -> np.ndarray:
        """Return the ids of the tags of tokens, (batch, length)."""
        rows = []
        for text, spans in zip(texts, labels, strict=True):
            mapping = self.tokenizer.rematch(text, self._tokens(text))
            tags = spans_to_tags(_token_spans(spans, mapping), len(mapping), self.scheme)
            rows.append([self._ids[tag] for tag in tags])
        return self.pad(rows)

    def predict(self, model: Any, texts: Sequence[str]) -> list[list[Span]]:
        """Find the spans in texts.

        Args:
            model: a model that gives tags (batch, length), such as `crf.decode` does, or a score
                for each tag (batch, length, number of tags).
            texts: strings; what is beyond `maxlen` tokens is not seen.

        Returns:
            For each text `(start, end, kind)` of each span, in characters: `text[start:end]`.
        """
        return [self._spans(text, output) for text, output in self.outputs(model, texts)]

    def _spans(self, text: Any, output: np.ndarray) -> list[Span]:
        mapping = self.tokenizer.rematch(text, self._tokens(text))
        ids = output if output.ndim == 1 else output.argmax(axis=-1)
        tags = [self.names[int(i)] for i in ids[: len(mapping)]]
        found = []
        for start, end, kind in tags_to_spans(tags, self.scheme):
            if places := [place for token in mapping[start:end] for place in token]:
                found.append((places[0], places[-1] + 1, kind))
        return found


def _spans_of(i: int, text: str, tags: Sequence[str], scheme: str) -> list[Span]:
    """Return the spans that the tags of text number `i` mark."""
    if len(text) != len(tags):
        raise ValueError(
            f"SequenceLabelingGenerator: text {i} has {len(text)} characters and {len(tags)} tags: "
            "give a tag for each character"
        )
    try:
        return tags_to_spans(tags, scheme)
    except ValueError as error:
        raise ValueError(f"SequenceLabelingGenerator: text {i}: {error}") from None


def _token_spans(spans: Sequence[Span], mapping: Sequence[Sequence[int]]) -> list[Span]:
    """Turn spans of characters into spans of tokens, of which no two overlap.

    Args:
        spans: in order, none of which overlap.
        mapping: the characters of each token, as `rematch` returns them.
    """
    found, free = [], 0
    for start, end, kind in spans:
        tokens = [i for i, x in enumerate(mapping) if x and x[0] < end and start <= x[-1]]
        tokens = [i for i in tokens if i >= free]
        if tokens:
            free = tokens[-1] + 1
            found.append((tokens[0], free, kind))
    return found
