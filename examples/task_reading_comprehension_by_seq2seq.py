"""Reading comprehension as writing: several passages vote on each token of the answer (UniLM).

    python examples/task_reading_comprehension_by_seq2seq.py --data DATA --quick
    python examples/task_reading_comprehension_by_seq2seq.py predict 他出生在哪 他生于北京 她叫李华

A passage and the question are followed by the answer, which is learnt token by token; if the
passage has none, the end token follows at once. For a question, several passages write one answer
together (https://kexue.fm/archives/7115): their probabilities are combined in every step, those
that begin with the end token take no part, and only what stands in one of the passages may be
written. Scored by exact answers, by F1 of the characters, and by their mean.

WebQA has one passage for each question here. The others are found as a search engine would, by
shared characters, among the passages of all questions; so is the single passage that voting is
compared with. The small checkpoint has never had to copy: part of the training is to write out the
gap of a sentence, `_`, that stands complete in the passage.

Data: `WebQA.json` and, for training only, `SogouQA.json`, both in
`reading_comprehension/qa_datasets.zip`. 500 questions of WebQA, drawn once, are the test, 200
others are for validation.
"""

import argparse
import json
import math
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from common import (
    Batches,
    Size,
    arguments,
    fit,
    load_best,
    optimizer,
    read_archive,
    remember,
    report,
)

from bert4keras.generation import Generator
from bert4keras.models import Model, build_transformer_model
from bert4keras.snippets import AutoRegressiveDecoder
from bert4keras.tokenizers import Tokenizer
from bert4keras.training import TokenAccuracy, TokenCrossentropy

QUICK = Size(epochs=10, batch_size=32, learning_rate=1e-3, maxlen=160)
FULL = Size(epochs=8, batch_size=16, learning_rate=3e-5, maxlen=256)
ARCHIVE = "reading_comprehension/qa_datasets.zip"
N_TEST, N_VALID = 500, 200
MAX_QUESTION, MAX_ANSWER = 40, 16  # tokens, the end token included
N_PASSAGES = 3  # that vote
TOPK = 3
# What is made of a training sample: a gap to write out, a passage without the answer, or neither.
SHARE_GAP, SHARE_OTHER = 0.4, 0.15
GAP = 8  # characters at most
CONTEXT = 12  # around the gap
NO_LABEL = 0
N_TIMED = 40  # questions that the subclass answers


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
    random.Random(0).shuffle(webqa)  # the parts are the same for every --seed
    n_test, n_valid = (min(n, len(webqa) // 4) for n in (N_TEST, N_VALID))
    search = Search([each.passage for each in webqa])
    webqa = [each._replace(found=tuple(search(each.question, N_PASSAGES))) for each in webqa]
    room = args.size.maxlen - MAX_QUESTION - MAX_ANSWER
    more = [shortened(each, room) for each in more if len(each.answer) < MAX_ANSWER]
    return {
        "train": webqa[n_test + n_valid :] + more,
        "valid": webqa[n_test:][:n_valid],
        "test": webqa[:n_test],
    }


# --- training


class Encoder:
    """From texts to token ids: [CLS] passage [SEP] question [SEP] answer [SEP].

    Args:
        tokenizer: of the checkpoint.
        maxlen: tokens of all three.
    """

    def __init__(self, tokenizer: Tokenizer, maxlen: int) -> None:
        self.tokenizer, self.maxlen = tokenizer, maxlen

    def ids(self, text: str, maxlen: int) -> list[int]:
        """Token ids without [CLS], with [SEP]."""
        return self.tokenizer.encode(text, maxlen=maxlen + 1)[0][1:]

    def passage(self, text: str) -> list[int]:
        return self.ids(text, self.maxlen - MAX_QUESTION - MAX_ANSWER - 1)

    def prompt(self, passage: str, question: str) -> list[int]:
        """What is written behind."""
        start = [self.tokenizer._token_start_id]
        return start + self.passage(passage) + self.ids(question, MAX_QUESTION)

    def draw(self, question: Question) -> tuple[str, str, str]:
        """A passage, a question and its answer, one of the kinds that are trained on."""
        passage, kind = question.passage, random.random()
        if kind < SHARE_GAP:
            return passage, *gap(passage)
        others = [each for each in question.found if question.answer not in each]
        if kind < SHARE_GAP + SHARE_OTHER and others:
            return random.choice(others), question.question, ""
        return passage, question.question, question.answer

    def train(self, pad: Callable, questions: list[tuple[Question]]) -> tuple:
        """Token ids, segment ids, and for each position the token of the answer that follows."""
        rows = []
        for _, question in questions:
            passage, asked, answer = self.draw(question)
            prompt, written = self.prompt(passage, asked), self.ids(answer, MAX_ANSWER)
            n = len(prompt)
            labels = [NO_LABEL] * (n - 1) + written + [NO_LABEL]
            rows.append((prompt + written, [0] * n + [1] * len(written), labels))
        token_ids, segment_ids, labels = map(pad, zip(*rows, strict=True))
        return [token_ids, segment_ids], labels


def gap(passage: str) -> tuple[str, str]:
    """A piece of a passage with a gap, and what stands there."""
    length = random.randint(1, min(GAP, len(passage)))
    start = random.randrange(len(passage) - length + 1)
    end = start + length
    before, after = passage[max(0, start - CONTEXT) : start], passage[end : end + CONTEXT]
    return f"{before}_{after}", passage[start:end]


def build(args: argparse.Namespace, load: bool = True) -> Model:
    """The probabilities of the next token, at every position."""
    checkpoint = args.files.checkpoint if load else None
    return build_transformer_model(
        args.files.config, checkpoint, application="unilm", with_mlm=True
    )


# --- answers


def following(passages: Sequence[Sequence[int]], end_id: int) -> Callable[[list[int]], list[int]]:
    """What may follow an output, so that it stands in a passage: its next token, or the end."""

    def allowed(output: list[int]) -> list[int]:
        n, ids = len(output), {end_id}
        for tokens in passages:
            ids.update(
                tokens[i + n] for i in range(len(tokens) - n) if list(tokens[i : i + n]) == output
            )
        return sorted(ids)

    return allowed


class Reader:
    """Answers questions with `Generator`, many at a time.

    Args:
        model: of `build`.
        encoder: of its prompts.
        topk: width of the beam search.
    """

    def __init__(self, model: Model, encoder: Encoder, topk: int = TOPK) -> None:
        self.encoder, self.tokenizer, self.topk = encoder, encoder.tokenizer, topk
        end_id = self.tokenizer._token_end_id
        self.generator = Generator(model, end_id=end_id, maxlen=MAX_ANSWER)

    def answers(self, questions: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
        """The answers to questions, each with its passages; empty if none has one."""
        groups, allowed = [], []
        for question, passages in questions:
            groups.append([self.encoder.prompt(passage, question) for passage in passages])
            allowed.append(self.allowed(passages))
        found = self.generator.generate(
            groups, vote=True, topk=self.topk, allowed=allowed, batch_size=32
        )
        return [
            self.text(ids, passages) for ids, (_, passages) in zip(found, questions, strict=True)
        ]

    def allowed(self, passages: Sequence[str]) -> Callable[[list[int]], list[int]]:
        tokens = [self.encoder.passage(passage)[:-1] for passage in passages]
        return following(tokens, self.tokenizer._token_end_id)

    def text(self, ids: list[int], passages: Sequence[str]) -> str:
        """The slice of a passage that the tokens come from."""
        wanted = self.tokenizer.ids_to_tokens(ids)
        for passage in passages if wanted else ():
            tokens = self.tokenizer.tokenize(passage)
            mapping = self.tokenizer.rematch(passage, tokens)
            for i in range(1, len(tokens) - len(ids)):
                places = [place for each in mapping[i : i + len(ids)] for place in each]
                if self.tokenizer.tokens_to_ids(tokens[i : i + len(ids)]) == ids and places:
                    return passage[places[0] : places[-1] + 1]
        return ""


class SubclassReader(AutoRegressiveDecoder):
    """The same by `AutoRegressiveDecoder` alone, one question at a time, as scripts used to.

    Its beam search gives up what is complete without being the best so far, `Generator` does not:
    the answers are the same for a beam of one, and nearly always for others.
    """

    def __init__(self, model: Model, reader: Reader) -> None:
        super().__init__(None, reader.tokenizer._token_end_id, MAX_ANSWER)
        self.model, self.reader = model, reader

    @AutoRegressiveDecoder.wraps(default_rtype="probas")
    def predict(self, inputs: list, output_ids: np.ndarray, states: None) -> np.ndarray:
        """Combine the probabilities of the passages: `inputs` are the prompts, one for each."""
        scores = []
        for prompt in inputs:
            segment_ids = np.concatenate([np.zeros_like(prompt), np.ones_like(output_ids)], axis=1)
            token_ids = np.concatenate([prompt, output_ids], axis=1)
            scores.append(self.last_token(self.model).predict([token_ids, segment_ids]))
        if not output_ids.shape[1]:
            self.taking_part = [i for i, p in enumerate(scores) if p[0].argmax() != self.end_id]
        mask = np.zeros_like(scores[0])
        if not self.taking_part:
            mask[:, self.end_id] = 1
            return mask
        for row, ids in zip(mask, output_ids.tolist(), strict=True):
            row[self.allowed(ids)] = 1
        scores = np.array([scores[i] for i in self.taking_part])
        return mask * ((scores**2).sum(0) / (scores.sum(0) + 1) + 1e-12)

    def answer(self, question: str, passages: Sequence[str]) -> str:
        """The answer to one question."""
        prompts = [self.reader.encoder.prompt(passage, question) for passage in passages]
        self.allowed = self.reader.allowed(passages)
        ids = self.beam_search(prompts, topk=self.reader.topk).tolist()
        return self.reader.text(
            ids[: ids.index(self.end_id)] if self.end_id in ids else ids, passages
        )


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


def asked(questions: Sequence[Question], n_passages: int) -> list[tuple[str, tuple[str, ...]]]:
    return [(each.question, each.found[:n_passages]) for each in questions]


def timed(function: Callable[[], list[str]]) -> tuple[list[str], float]:
    """What a function returns, and the seconds it takes."""
    start = time.perf_counter()
    result = function()
    return result, time.perf_counter() - start


def speed(reader: Reader, model: Model, questions: Sequence[Question]) -> dict[str, float]:
    """Answers a second, all at a time by `Generator` and one after the other by the subclass.

    Both have answered before, so that nothing is compiled meanwhile.
    """
    subclass = SubclassReader(model, reader)
    several = asked(questions, N_PASSAGES)
    subclass.answer(*several[0])
    fast, seconds = timed(lambda: reader.answers(several))
    slow, slow_seconds = timed(lambda: [subclass.answer(*each) for each in several[:N_TIMED]])
    per_second, slow_per_second = len(fast) / seconds, len(slow) / slow_seconds
    same = np.mean([a == b for a, b in zip(fast, slow, strict=False)])
    return {
        "answers_per_second": round(per_second, 1),
        "by_subclass": round(slow_per_second, 2),
        "ratio": round(per_second / slow_per_second, 1),
        "same_answers": round(float(same), 4),
    }


# --- the experiment


def main(argv: Sequence[str] | None = None) -> dict | None:
    args = arguments(__file__, __doc__, QUICK, FULL, argv)
    encoder = Encoder(args.tokenizer, args.size.maxlen)
    if args.texts is not None:
        question, *passages = args.texts
        if not passages:
            raise SystemExit("give a question and at least one passage to look for the answer in")
        model = build(args, load=False)
        load_best(args, model)
        (answer,) = Reader(model, encoder).answers([(question, passages)])
        print(json.dumps({"question": question, "answer": answer}, ensure_ascii=False))
        return None

    parts = read_parts(args)
    remember(args)
    train = [(each.passage, each) for each in parts["train"]]
    batches = Batches(train, args.batch_size, encoder.train)
    model = build(args)
    model.compile(
        optimizer=optimizer(args, batches),
        loss=TokenCrossentropy(ignore=NO_LABEL),
        metrics=[TokenAccuracy(ignore=NO_LABEL, name="accuracy")],
    )
    reader = Reader(model, encoder)

    def scored(part: str, n_passages: int) -> dict[str, float]:
        return scores_of(reader.answers(asked(parts[part], n_passages)), parts[part])

    fit(args, model, batches, lambda: scored("valid", N_PASSAGES))
    scores = {
        **scored("test", N_PASSAGES),
        "single": scored("test", 1),
        "speed": speed(reader, model, parts["test"]),
    }
    return report(args, f"WebQA, {len(parts['test'])} questions", scores)


if __name__ == "__main__":
    main()
