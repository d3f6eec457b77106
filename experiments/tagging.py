"""Spans in texts: corpora with tags, texts in pieces, and two heads that find spans.

A span is (first, last, kind), both ends included, in characters or in tokens; kinds are numbered.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from common import (
    Batches,
    bio_spans,
    bio_tags,
    character_span,
    fit,
    load_best,
    micro_f1,
    optimizer,
    outputs,
    read_archive,
    report,
    token_span,
)

from bert4keras.layers import ConditionalRandomField, GlobalPointer
from bert4keras.models import Model, build_transformer_model
from bert4keras.tokenizers import Tokenizer
from bert4keras.training import MultilabelCrossentropy

Span = tuple[int, int, int]
Sentence = tuple[str, list[Span]]
"""A text and its spans, in characters."""

KINDS = ("PER", "LOC", "ORG")
CORPORA = {
    "people_daily": (
        "ner_people_daily/china-people-daily-ner-corpus.tar.gz",
        "china-people-daily-ner-corpus/example.{}",
    ),
    "msra": ("ner_msra/msra_ner.zip", "msra_ner/{}.txt"),
}
"""Corpora of entities: the archive, and its files of train, dev and test."""
WORDS = "cws/icwb2-data.zip"


# --- data


def read_entities(data: Path, corpus: str, part: str) -> list[Sentence]:
    """The sentences of `train`, `dev` or `test` of a corpus of entities."""
    archive, member = CORPORA[corpus]
    return parse_tags(read_archive(data, archive, member.format(part)))


def parse_tags(text: str) -> list[Sentence]:
    """Sentences with a blank line between them, a character and its BIO tag in each line."""
    names = ["O", *(f"{part}-{kind}" for kind in KINDS for part in "BI")]  # as in `bio_tags`
    sentences = []
    for block in text.strip("\n").split("\n\n"):
        lines = block.split("\n")
        tags = [names.index(line[1:].strip()) for line in lines]
        sentences.append(("".join(line[0] for line in lines), bio_spans(tags)))
    return sentences


def read_words(data: Path, part: str) -> list[list[str]]:
    """The words of the lines of a file of the segmentation bakeoff, `gold/pku_test_gold` say."""
    lines = read_archive(data, WORDS, f"icwb2-data/{part}.utf8").split("\n")
    return [line.split() for line in lines if line.strip()]


def words_as_spans(words: Sequence[str]) -> Sentence:
    """The text that words make, with each of them as a span of kind 0."""
    ends = np.cumsum([len(word) for word in words]).tolist()
    return "".join(words), [(end - len(w), end - 1, 0) for w, end in zip(words, ends, strict=True)]


def pieces(text: str, limit: int) -> list[tuple[int, str]]:
    """Cut a text that is longer than `limit` at its punctuation.

    Returns:
        The pieces, which are the whole text together, each with the place where it begins.
    """
    found, start = [], 0
    while len(text) - start > limit:
        window = text[start : start + limit]
        ends = (max(map(window.rfind, marks)) + 1 for marks in ("。！？；", "，、：", " "))
        end = start + next(filter(None, ends), limit)
        found.append((start, text[start:end]))
        start = end
    return [*found, (start, text[start:])]


def encode(sentence: Sentence, tokenizer: Tokenizer, maxlen: int) -> tuple[list[int], list[Span]]:
    """Token ids, and the spans, in tokens, of what was not cut off; each once."""
    text, spans = sentence
    tokens = tokenizer.tokenize(text, maxlen=maxlen)
    mapping = tokenizer.rematch(text, tokens)
    found = {}
    for first, last, kind in spans:
        if place := token_span(mapping, first, last + 1):
            found[*place, kind] = None
    return tokenizer.tokens_to_ids(tokens), list(found)


def encode_pieces(
    sentences: Sequence[Sentence], tokenizer: Tokenizer, maxlen: int
) -> list[tuple[list[int], list[Span]]]:
    """As `encode`, but what is too long becomes several samples."""
    samples = []
    for text, spans in sentences:
        for start, piece in pieces(text, maxlen - 2):
            end = start + len(piece)
            inside = [
                (first - start, last - start, kind)
                for first, last, kind in spans
                if start <= first and last < end
            ]
            samples.append(encode((piece, inside), tokenizer, maxlen))
    return samples


# --- the two heads


@dataclass(frozen=True)
class Scheme:
    """How tags of tokens say where spans are.

    Args:
        n_tags: how many tags there are.
        tags: from spans and a number of tokens to the tags of these.
        spans: from tags to spans.
    """

    n_tags: int
    tags: Callable[[Sequence[Span], int], np.ndarray]
    spans: Callable[[Sequence[int]], list[Span]]


def bio(n_kinds: int) -> Scheme:
    """Tags of entities and the like: begins, is inside, is outside."""
    return Scheme(2 * n_kinds + 1, bio_tags, bio_spans)


class CRF:
    """One tag for each token, by a conditional random field.

    Args:
        scheme: what the tags mean.
        lr_multiplier: how much faster the transitions learn than the rest. They start near zero and
            have to get as large as the scores of the tags, which a small learning rate forbids.
    """

    def __init__(self, scheme: Scheme, lr_multiplier: float) -> None:
        self.scheme, self.lr_multiplier = scheme, lr_multiplier

    def attach(self, encoder: Model) -> tuple[Model, Model]:
        """The model that is trained and the one that predicts."""
        crf = ConditionalRandomField(lr_multiplier=self.lr_multiplier, name="CRF")
        scores = crf(keras.layers.Dense(self.scheme.n_tags, name="Tags")(encoder.output))
        self.loss = crf.sparse_loss
        return Model(encoder.inputs, scores), Model(encoder.inputs, crf.decode(scores))

    def make(self, pad: Callable, samples: list) -> tuple:
        token_ids = pad([ids for ids, _ in samples])
        tags = [self.scheme.tags(found, len(ids)) for ids, found in samples]
        return [token_ids, np.zeros_like(token_ids)], pad(tags)

    def spans(self, tags: np.ndarray, length: int) -> list[Span]:
        return self.scheme.spans(tags[:length])


class Pointer:
    """A score for each kind of each span; those above zero are found.

    Args:
        layer: `GlobalPointer` or `EfficientGlobalPointer`.
        n_kinds: how many kinds of spans there are.
    """

    loss = MultilabelCrossentropy(class_axes=2)

    def __init__(self, layer: type[GlobalPointer], n_kinds: int) -> None:
        self.layer, self.n_kinds = layer, n_kinds

    def attach(self, encoder: Model) -> tuple[Model, Model]:
        """The model that is trained and the one that predicts: the same."""
        pointer = self.layer(self.n_kinds, 64, name="Pointer")
        model = Model(encoder.inputs, pointer(encoder.output))
        return model, model

    def make(self, pad: Callable, samples: list) -> tuple:
        token_ids = pad([ids for ids, _ in samples])
        batch, length = token_ids.shape
        wanted = np.zeros((batch, self.n_kinds, length, length), "float32")
        for row, (_, found) in enumerate(samples):
            for first, last, kind in found:
                wanted[row, kind, first, last] = 1
        return [token_ids, np.zeros_like(token_ids)], wanted

    def spans(self, scores: np.ndarray, length: int) -> list[Span]:
        kinds, first, last = np.nonzero(scores[:, :length, :length] > 0)
        return list(zip(first.tolist(), last.tolist(), kinds.tolist(), strict=True))


Head = CRF | Pointer


def build(args: argparse.Namespace, head: Head, load: bool = True) -> tuple[Model, Model]:
    """The model that is trained and the one that predicts."""
    encoder = build_transformer_model(args.files.config, args.files.checkpoint if load else None)
    return head.attach(encoder)


# --- decoding


def find(
    texts: Sequence[str], model: Model, head: Head, tokenizer: Tokenizer, maxlen: int
) -> list[list[Span]]:
    """The spans of texts, in characters; a long text is read in pieces."""
    parts = [(i, *part) for i, text in enumerate(texts) for part in pieces(text, maxlen - 2)]
    tokens = [tokenizer.tokenize(piece, maxlen=maxlen) for _, _, piece in parts]
    samples = [(ids, [0] * len(ids)) for ids in map(tokenizer.tokens_to_ids, tokens)]

    def spans(i: int, scores: list[np.ndarray]) -> list[Span]:
        return head.spans(*scores, len(tokens[i]))

    found: list[list[Span]] = [[] for _ in texts]
    for (i, start, piece), each, inside in zip(
        parts, tokens, outputs(model, samples, keep=spans), strict=True
    ):
        mapping = tokenizer.rematch(piece, each)
        for first, last, kind in inside:
            if places := character_span(mapping, first, last):
                found[i].append((start + places[0], start + places[1], kind))
    return found


# --- the experiment with entities


def add_corpus(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--corpus", choices=CORPORA, default="people_daily")


def scores_of(found: Sequence[Sequence[Span]], sentences: Sequence[Sentence]) -> dict[str, Any]:
    """F1, precision and recall of entities, and those of each kind as a table."""

    def scores(kinds: Sequence[int]) -> dict[str, float]:
        def kept(spans: Sequence[Span]) -> set[Span]:
            return {span for span in spans if span[2] in kinds}

        return micro_f1([*map(kept, found)], [kept(spans) for _, spans in sentences])

    table = {name: scores([kind]) for kind, name in enumerate(KINDS)}
    return scores(range(len(KINDS))) | {"kinds": table}


def train_on_entities(args: argparse.Namespace, head: Head) -> dict:
    """Train on a corpus of entities and score on its test part."""
    maxlen, tokenizer = args.size.maxlen, args.tokenizer
    train, valid, test = (
        read_entities(args.data, args.corpus, part) for part in ("train", "dev", "test")
    )
    batches = Batches(encode_pieces(train, tokenizer, maxlen), args.batch_size, head.make)
    model, predictor = build(args, head)
    model.compile(optimizer=optimizer(args, batches), loss=head.loss)

    def evaluate(sentences: list[Sentence]) -> dict[str, Any]:
        texts = [text for text, _ in sentences]
        return scores_of(find(texts, predictor, head, tokenizer, maxlen), sentences)

    def validate() -> dict[str, float]:
        return {name: value for name, value in evaluate(valid).items() if name != "kinds"}

    fit(args, model, batches, validate)
    return report(args, f"{args.corpus}, test", evaluate(test))


def print_entities(args: argparse.Namespace, head: Head) -> None:
    """Print the entities of the texts of the command line, by a run."""
    model, predictor = build(args, head, load=False)
    load_best(args, model)
    found = find(args.texts, predictor, head, args.tokenizer, args.size.maxlen)
    for text, spans in zip(args.texts, found, strict=True):
        entities = [(text[a : b + 1], KINDS[kind], a) for a, b, kind in sorted(spans)]
        print(json.dumps({"text": text, "entities": entities}, ensure_ascii=False))
