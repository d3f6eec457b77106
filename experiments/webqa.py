"""Questions, answers and passages of WebQA, for the experiments that read and ask.

WebQA has one passage for each question here. Others are found as a search engine would, by shared
characters, among the passages of all questions.
"""

import argparse
import json
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from common import drawn_parts, read_archive

from bert4keras.tokenizers import Tokenizer

ARCHIVE = "reading_comprehension/qa_datasets.zip"
N_TEST, N_VALID = 500, 200
MAX_QUESTION, MAX_ANSWER = 40, 16  # tokens, the end token included
N_PASSAGES = 3  # that a search finds
# Of the questions, so many are trained on with a passage that lacks the answer. A model that is not
# sure where an answer begins gives each place less than a larger share, and answers nothing.
SHARE_OTHER = 0.05
GAP = 8  # characters at most
CONTEXT = 12  # around the gap


# --- data


class Question(NamedTuple):
    """A question, its answer, a passage with the answer, and passages that a search finds."""

    question: str
    answer: str
    passage: str
    found: tuple[str, ...] = ()


def read_questions(text: str) -> list[Question]:
    """The questions whose answer stands in the passage."""
    return [
        Question(row["question"], row["answer"], passage["passage"])
        for row in json.loads(text)
        for passage in row["passages"]
        if row["answer"] and row["answer"] in passage["passage"]
    ]


def shortened(question: Question, longest: int) -> Question:
    """Cut the passage to so many characters around the answer."""
    passage, answer = question.passage, question.answer
    at = passage.index(answer) + len(answer) // 2
    start = max(0, min(at - longest // 2, len(passage) - longest))
    return question._replace(passage=passage[start : start + longest])


class Search:
    """Finds passages by the characters and pairs of characters they share with a question.

    What occurs in few passages counts more, by -log of its share of them.
    """

    def __init__(self, passages: Sequence[str]) -> None:
        self.passages = list(dict.fromkeys(passages))
        self.places: dict[str, list[int]] = {}
        for i, passage in enumerate(self.passages):
            for gram in grams(passage):
                self.places.setdefault(gram, []).append(i)

    def __call__(self, question: str, n: int) -> list[str]:
        """The n best passages, best first."""
        scores = np.zeros(len(self.passages))
        for gram in grams(question) & self.places.keys():
            places = self.places[gram]
            scores[places] += math.log(len(self.passages) / len(places))
        return [self.passages[i] for i in np.argsort(-scores, kind="stable")[:n]]


def grams(text: str) -> set[str]:
    return {text[i : i + n] for n in (1, 2) for i in range(len(text) - n + 1)}


def read_parts(args: argparse.Namespace) -> dict[str, list[Question]]:
    """The questions to train on, to validate on and of the test, with what a search finds."""
    webqa, more = (
        read_questions(read_archive(args.data, ARCHIVE, f"qa_datasets/{name}.json"))
        for name in ("WebQA", "SogouQA")
    )
    parts = drawn_parts(webqa, N_TEST, N_VALID)
    search = Search([each.passage for part in ("test", "valid", "train") for each in parts[part]])
    parts = {
        part: [each._replace(found=tuple(search(each.question, N_PASSAGES))) for each in questions]
        for part, questions in parts.items()
    }
    room = args.size.maxlen - MAX_QUESTION - MAX_ANSWER
    parts["train"] += [shortened(each, room) for each in more if len(each.answer) < MAX_ANSWER]
    return parts


# --- samples


def draw(question: Question, gaps: float) -> tuple[str, str, str]:
    """A passage, a question and its answer, of one of the kinds that are trained on.

    Args:
        question: what is drawn from.
        gaps: share of the samples that ask for a gap instead of the answer.
    """
    passage = question.passage
    if random.random() < gaps:
        return passage, *gap(passage)
    others = [each for each in question.found if question.answer not in each]
    if others and random.random() < SHARE_OTHER:
        return random.choice(others), question.question, ""
    return passage, question.question, question.answer


def gap(passage: str) -> tuple[str, str]:
    """A piece of a passage with a gap, and what stands there."""
    length = random.randint(1, min(GAP, len(passage)))
    start = random.randrange(len(passage) - length + 1)
    end = start + length
    before, after = passage[max(0, start - CONTEXT) : start], passage[end : end + CONTEXT]
    return f"{before}_{after}", passage[start:end]


def ids_behind(tokenizer: Tokenizer, text: str, maxlen: int) -> list[int]:
    """Token ids of a text that stands behind another one: without [CLS], with [SEP]."""
    return tokenizer.encode(text, maxlen=maxlen + 1)[0][1:]


def following(passages: Sequence[Sequence[int]], end_id: int) -> Callable[[list[int]], list[int]]:
    """What may follow an output, so that it stands in a passage: its next token, or the end.

    At least one token is written.
    """

    def allowed(output: list[int]) -> list[int]:
        n, ids = len(output), {end_id} if output else set()
        for tokens in passages:
            ids.update(
                tokens[i + n] for i in range(len(tokens) - n) if list(tokens[i : i + n]) == output
            )
        return sorted(ids)

    return allowed


# --- scores


def characters(text: str) -> str:
    """What counts of an answer."""
    return re.sub(r"[\W_]", "", text).lower()


def scores_of(answers: Sequence[str], questions: Sequence[Question]) -> dict[str, float]:
    """The mean of both, the share of exact answers, and F1 of the characters of each answer."""
    exact = f1 = 0.0
    for answer, question in zip(answers, questions, strict=True):
        found, wanted = characters(answer), characters(question.answer)
        shared = (Counter(found) & Counter(wanted)).total()
        exact += found == wanted
        f1 += 2 * shared / max(1, len(found) + len(wanted))
    n = len(questions)
    names = {"mean": (exact + f1) / 2 / n, "exact": exact / n, "f1": f1 / n}
    return {name: round(value, 4) for name, value in names.items()}
