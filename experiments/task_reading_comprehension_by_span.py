"""Reading comprehension: where in the passage stands the answer? (LIC 2020)

    python experiments/task_reading_comprehension_by_span.py --data DATA --quick
    python experiments/task_reading_comprehension_by_span.py predict 他出生在哪里 他出生在北京。

Question and passage go through the encoder together; two softmaxes over the positions tell where
the answer starts and ends (Devlin et al., 2018, section 4.2). Of several annotated answers one is
drawn each time. A passage that is too long goes in windows; `[CLS]` stands for "not in this one".
The answer is the span with the highest product of its two probabilities in any window, of at most
`MAX_ANSWER` tokens, and a slice of the passage. Scored by F1 of the longest common substring with
the best annotated answer, and by how many answers are exactly right.

Each token comes with how much of it the other text has (as in Chen et al., 2017,
https://arxiv.org/abs/1704.00051), by another embedding that starts at zero: an answer stands near
the words of its question, and a small model is slow to find out which these are.

Data: `reading_comprehension/dureader_robust_format.zip` (`dureader_robust-data/{train,dev}.json`);
`dev` is the test, the last tenth of the passages in `train` is for validation.
"""

import argparse
import json
import random
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import keras
import numpy as np
from classification import PairBERT, matches
from common import (
    Batches,
    Size,
    arguments,
    fit,
    load_best,
    optimizer,
    outputs,
    padded_columns,
    read_archive,
    remember,
    report,
    text_span,
    token_span,
)
from keras import ops

from bert4keras.models import Model, build_transformer_model
from bert4keras.snippets import longest_common_substring
from bert4keras.tokenizers import Tokenizer

QUICK = Size(epochs=6, batch_size=16, learning_rate=5e-4, maxlen=160)
FULL = Size(epochs=5, batch_size=16, learning_rate=3e-5, maxlen=512)
ARCHIVE = "reading_comprehension/dureader_robust_format.zip"
MAX_QUESTION = 48  # tokens
MAX_ANSWER = 64
ANSWER_INSIDE = 0.8  # share of the training windows that are chosen to hold the answer
NOWHERE = (0, 0)  # the place of [CLS]

Span = tuple[int, int]


# --- data


class Question(NamedTuple):
    """A question about a passage, with all answers (text, first character) that count."""

    question: str
    passage: str
    answers: list[tuple[str, int]]


def read_questions(text: str) -> list[list[Question]]:
    """The questions of each passage. An answer is taken where it stands nearest to its place."""
    passages = []
    for paragraph in json.loads(text)["data"][0]["paragraphs"]:
        passage = paragraph["context"]
        questions = []
        for each in paragraph["qas"]:
            answers = []
            for answer in each["answers"]:
                start, wanted = answer["answer_start"], answer["text"]
                places = [i for i in range(len(passage)) if passage.startswith(wanted, i)]
                if wanted and places:
                    answers.append((wanted, min(places, key=lambda i: abs(i - start))))
            if answers:
                questions.append(Question(each["question"], passage, answers))
        passages.append(questions)
    return passages


class Tokens(NamedTuple):
    """Token ids of a text, and how much of each token the other text has."""

    ids: list[int]
    matches: list[int]


class Encoder:
    """From questions to windows of token ids.

    Args:
        tokenizer: of the checkpoint.
        maxlen: tokens of a window, question included.
    """

    def __init__(self, tokenizer: Tokenizer, maxlen: int) -> None:
        self.tokenizer, self.maxlen = tokenizer, maxlen

    def encode(self, question: str, passage: str) -> tuple[Tokens, Tokens, list[list[int]]]:
        """Both texts, and the characters of the passage's tokens."""
        asked = self.tokenizer.tokenize(question, maxlen=MAX_QUESTION)
        tokens = self.tokenizer.tokenize(passage)
        mapping = self.tokenizer.rematch(passage, tokens)[1:-1]
        to_ids = self.tokenizer.tokens_to_ids
        found = Tokens(to_ids(tokens)[1:-1], matches(tokens, asked)[1:-1])
        return Tokens(to_ids(asked), matches(asked, tokens)), found, mapping

    def sample(self, question: Question) -> tuple[list[int], Tokens, Tokens, list[Span]]:
        """What is measured, the question, the passage, and the spans of the answers."""
        asked, passage, mapping = self.encode(question.question, question.passage)
        spans = [token_span(mapping, start, start + len(text)) for text, start in question.answers]
        return passage.ids, asked, passage, [span for span in spans if span]

    def room(self, question: Tokens) -> int:
        """How many tokens of the passage there are in a window."""
        return self.maxlen - len(question.ids) - 1

    def window(self, question: Tokens, passage: Tokens, at: int) -> tuple:
        """Token ids, segment ids and matches of a window that begins at a token of the passage."""
        ids, found = (part[at : at + self.room(question)] for part in passage)
        segment_ids = [0] * len(question.ids) + [1] * (len(ids) + 1)
        end = self.tokenizer._token_end_id
        return [*question.ids, *ids, end], segment_ids, [*question.matches, *found, 0]

    def train(self, pad: Callable, samples: list) -> tuple:
        """A batch with one window and one answer of each question, drawn anew every time."""
        windows, targets = [], []
        for passage_ids, question, passage, spans in samples:
            first, last = random.choice(spans)
            size = self.room(question)
            low, high = 0, max(0, len(passage_ids) - size)
            if random.random() < ANSWER_INSIDE:
                low, high = max(0, min(first, last - size + 1)), max(0, min(first, high))
            at = random.randint(min(low, high), high)
            windows.append(self.window(question, passage, at))
            inside = at <= first and last < at + size
            shift = len(question.ids) - at
            targets.append((first + shift, last + shift) if inside else NOWHERE)
        return padded_columns(pad, windows), np.array(targets, "int32")

    def windows(self, question: Tokens, passage: Tokens) -> Iterator[int]:
        """Where windows begin that cover a passage, each half a window behind the last one."""
        size = self.room(question)
        yield from range(0, max(1, len(passage.ids) - size // 2), max(1, size // 2))


# --- model


class PositionSoftmax(keras.layers.Layer):
    """Probabilities over positions: of segment 1, and of the first one, which says "nowhere".

    Inputs: scores (batch, length, n) and segment ids (batch, length). Output: (batch, n, length).
    """

    def call(self, inputs: list) -> keras.KerasTensor:
        scores, segment_ids = inputs
        allowed = ops.concatenate([ops.ones_like(segment_ids[:, :1]), segment_ids[:, 1:]], axis=1)
        scores = ops.where(ops.expand_dims(allowed, 2) > 0, scores, -1e9)
        return ops.transpose(ops.softmax(scores, axis=1), (0, 2, 1))

    def compute_mask(self, inputs: list, mask: list | None = None) -> None:
        return None


def build(args: argparse.Namespace, load: bool = True) -> Model:
    checkpoint = args.files.checkpoint if load else None
    encoder = build_transformer_model(args.files.config, checkpoint, model=PairBERT)
    scores = keras.layers.Dense(2, name="Ends")(encoder.output)
    return Model(encoder.inputs, PositionSoftmax(name="Positions")([scores, encoder.inputs[1]]))


# --- decoding


def best_span(starts: np.ndarray, ends: np.ndarray) -> tuple[float, Span]:
    """The span of at most `MAX_ANSWER` tokens with the highest product, and this product."""
    products = np.triu(np.outer(starts, ends)) - np.triu(np.outer(starts, ends), MAX_ANSWER)
    first, last = np.unravel_index(np.argmax(products), products.shape)
    return float(products[first, last]), (int(first), int(last))


def answer(model: Model, encoder: Encoder, questions: Sequence[tuple[str, str]]) -> list[str]:
    """Answers to questions about passages; slices of these."""
    encoded = [encoder.encode(*each) for each in questions]
    windows, places = [], []
    for i, (asked, passage, _) in enumerate(encoded):
        for at in encoder.windows(asked, passage):
            windows.append(encoder.window(asked, passage, at))
            places.append((i, at))
    best = [(-1.0, "")] * len(questions)
    for (i, at), (ids, *_), (found,) in zip(places, windows, outputs(model, windows), strict=True):
        begin = len(encoded[i][0].ids)
        score, span = best_span(*found[:, begin : len(ids) - 1])
        if score > best[i][0]:
            first, last = (at + token for token in span)
            best[i] = score, text_span(questions[i][1], encoded[i][2], first, last)
    return [text for _, text in best]


def scores_of(found: Sequence[str], questions: Sequence[Question]) -> dict[str, float]:
    """Mean F1 and share of exactly right answers."""

    def f1(text: str, wanted: str) -> float:
        common = longest_common_substring(text.lower(), wanted.lower())[0]
        return 2 * common / max(1, len(text) + len(wanted))

    best = [
        [max(f1(text, wanted) for wanted, _ in each.answers), text in dict(each.answers)]
        for text, each in zip(found, questions, strict=True)
    ]
    f1_score, exact = np.mean(best, axis=0)
    return {"f1": round(float(f1_score), 4), "exact": round(float(exact), 4)}


# --- the experiment


def main(argv: Sequence[str] | None = None) -> dict | None:
    args = arguments(__file__, __doc__, QUICK, FULL, argv)
    encoder = Encoder(args.tokenizer, args.size.maxlen)
    if args.texts is not None:
        if len(args.texts) != 2:
            raise SystemExit(f"predict takes a question and a passage, not {len(args.texts)} texts")
        model = build(args, load=False)
        load_best(args, model)
        question, passage = args.texts
        (found,) = answer(model, encoder, [(question, passage)])
        print(json.dumps({"question": question, "answer": found}, ensure_ascii=False))
        return None

    remember(args)
    passages, test = (
        read_questions(read_archive(args.data, ARCHIVE, f"dureader_robust-data/{part}.json"))
        for part in ("train", "dev")
    )
    n_train = len(passages) - max(1, len(passages) // 10)
    train, valid, test = (
        list(chain.from_iterable(part)) for part in (passages[:n_train], passages[n_train:], test)
    )
    samples = [encoder.sample(question) for question in train]
    batches = Batches([each for each in samples if each[-1]], args.batch_size, encoder.train)
    model = build(args)
    model.compile(optimizer=optimizer(args, batches), loss="sparse_categorical_crossentropy")

    def evaluate(questions: list[Question]) -> dict[str, float]:
        return scores_of(answer(model, encoder, [each[:2] for each in questions]), questions)

    fit(args, model, batches, lambda: evaluate(valid))
    return report(args, "reading_comprehension (CMRC 2018), dev", evaluate(test))


if __name__ == "__main__":
    main()
