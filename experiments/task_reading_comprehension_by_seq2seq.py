"""Reading comprehension as writing: several passages vote on each token of the answer (UniLM).

    python experiments/task_reading_comprehension_by_seq2seq.py --data DATA --quick
    python experiments/task_reading_comprehension_by_seq2seq.py predict 他出生在哪 他生于北京

A passage and the question are followed by the answer, which is learnt token by token; if the
passage has none, the end token follows at once. For a question, several passages write one answer
together (https://kexue.fm/archives/7115): their probabilities are combined in every step, those
that begin with the end token take no part, and only what stands in one of the passages may be
written. Scored by exact answers, by F1 of the characters, and by their mean.

WebQA has one passage for each question here. The others are found as a search engine would, by
shared characters, among the passages of all questions; so is the single passage that voting is
compared with. What is found second or third rarely has the answer, and a small model takes one from
there all the same: a vote counts as much as passages of its rank have the answer to questions that
are trained on.

A masked language model has never had to copy, and a small one does not learn it from answers of
four characters: training begins with going on with a piece of the passage, `MAX_COPIED` tokens of
it, and turns to the questions by and by.

Data: `WebQA.json` and, for training only, `SogouQA.json`, both in
`reading_comprehension/qa_datasets.zip`. 500 questions of WebQA, drawn once, are the test, 200
others are for validation.
"""

import json
import random
import time
from collections.abc import Callable, Sequence

import keras
import numpy as np
from common import Batches, Size, arguments, fit, load_best, remember, report
from webqa import (
    MAX_ANSWER,
    MAX_QUESTION,
    N_PASSAGES,
    Question,
    draw,
    following,
    ids_behind,
    read_parts,
    scores_of,
)
from writing import compile_for_tokens, unilm, unilm_batch

from bert4keras.generation import Generator
from bert4keras.generation.decoding import combined_by_vote
from bert4keras.models import Model
from bert4keras.snippets import AutoRegressiveDecoder, softmax
from bert4keras.tokenizers import Tokenizer

QUICK = Size(epochs=8, batch_size=32, learning_rate=1e-3, maxlen=160)
FULL = Size(epochs=8, batch_size=16, learning_rate=3e-5, maxlen=256)
TOPK = 3
MAX_COPIED = 40
PIECE = (2, 8)  # tokens that are gone on with
LAST_SHARE = 0.1  # of copying, in the end
N_TIMED = 40  # questions that the subclass answers


# --- training


class Encoder:
    """From texts to token ids: [CLS] passage [SEP] question [SEP] answer [SEP].

    Args:
        tokenizer: of the checkpoint.
        maxlen: tokens of all three.
        n_samples: how many will be trained on; the share of copying falls all the while.
    """

    def __init__(self, tokenizer: Tokenizer, maxlen: int, n_samples: int = 1) -> None:
        self.tokenizer, self.maxlen, self.n_samples = tokenizer, maxlen, n_samples
        self.n_drawn = 0

    def passage(self, text: str) -> list[int]:
        """Those of a passage, cut to the length that is left for it."""
        return ids_behind(self.tokenizer, text, self.maxlen - MAX_QUESTION - MAX_ANSWER - 1)

    def prompt(self, passage: str, question: str) -> list[int]:
        """What is written behind."""
        start = [self.tokenizer._token_start_id]
        return start + self.passage(passage) + ids_behind(self.tokenizer, question, MAX_QUESTION)

    def answered(self, question: Question) -> tuple[list[int], list[int]]:
        """A question or, at times, a passage without its answer: the prompt, what is written."""
        passage, asked, answer = draw(question, gaps=0)
        return self.prompt(passage, asked), ids_behind(self.tokenizer, answer, MAX_ANSWER)

    def copied(self, question: Question) -> tuple[list[int], list[int]]:
        """A piece of the passage as the question, and how the passage goes on."""
        passage = self.passage(question.passage)
        n = random.randint(*PIECE)
        start = random.randrange(max(1, len(passage) - n - 1))
        piece, rest = passage[start : start + n], passage[start + n : -1]
        prompt = [self.tokenizer._token_start_id, *passage, *piece, self.tokenizer._token_end_id]
        return prompt, rest[:MAX_COPIED]

    def train(self, pad: Callable, questions: list[tuple[str, Question]]) -> tuple:
        """Token ids, segment ids, the positions before each token that is written; these tokens."""
        samples = []
        for _, question in questions:
            share = 1 - (1 - LAST_SHARE) * min(1, self.n_drawn / self.n_samples)
            self.n_drawn += 1
            make = self.copied if random.random() < share else self.answered
            samples.append(make(question))
        return unilm_batch(pad, samples, MAX_COPIED)


# --- answers


class Reader:
    """Answers questions with `Generator`, many at a time.

    Args:
        model: what writes, of `build`.
        encoder: of its prompts.
        weights: what the votes of the first, second, … passage count; all the same by default.
        topk: width of the beam search.
    """

    def __init__(
        self, model: Model, encoder: Encoder, weights: Sequence[float] = (), topk: int = TOPK
    ) -> None:
        self.model, self.encoder, self.weights, self.topk = model, encoder, weights, topk
        self.tokenizer = encoder.tokenizer
        end_id = self.tokenizer._token_end_id
        self.generator = Generator(model, end_id=end_id, maxlen=MAX_ANSWER)

    def answers(self, questions: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
        """The answers to questions, each with its passages; empty if none has one."""
        groups, allowed = [], []
        for question, passages in questions:
            groups.append([self.encoder.prompt(passage, question) for passage in passages])
            allowed.append(self.allowed(passages))
        found = self.generator.generate(
            groups, vote=self.vote, topk=self.topk, allowed=allowed, batch_size=32
        )
        return [
            self.text(ids, passages) for ids, (_, passages) in zip(found, questions, strict=True)
        ]

    def vote(self, probabilities: keras.KerasTensor) -> keras.KerasTensor:
        """One distribution (questions, beams, tokens) of those of all passages, on axis 1."""
        if self.weights:
            n = probabilities.shape[1]
            weights = np.resize([*self.weights, *[0] * n], n)  # places that are left have no vote
            weights = weights.reshape(1, n, 1, 1).astype("float32")
            probabilities = keras.ops.multiply(probabilities, weights)
        return combined_by_vote(probabilities)

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

    The answers are the same for a beam of one. A wider beam search gives up what is complete
    without being the best so far, and writes on; `Generator` keeps it. Where no answer is probable,
    as with a small model, that makes most of the answers differ.
    """

    def __init__(self, reader: Reader) -> None:
        super().__init__(None, reader.tokenizer._token_end_id, MAX_ANSWER)
        self.reader = reader

    @AutoRegressiveDecoder.wraps(default_rtype="probas")
    def predict(self, inputs: list, output_ids: np.ndarray, states: None) -> np.ndarray:
        """Combine the probabilities of the passages: `inputs` are the prompts, one for each."""
        scores = []
        for prompt in inputs:
            segment_ids = np.concatenate([np.zeros_like(prompt), np.ones_like(output_ids)], axis=1)
            token_ids = np.concatenate([prompt, output_ids], axis=1)
            logits = self.last_token(self.reader.model).predict([token_ids, segment_ids])
            scores.append(softmax(logits))
        if not output_ids.shape[1]:
            self.taking_part = [i for i, p in enumerate(scores) if p[0].argmax() != self.end_id]
        mask = np.zeros_like(scores[0])
        if not self.taking_part:
            mask[:, self.end_id] = 1
            return mask
        for row, ids in zip(mask, output_ids.tolist(), strict=True):
            row[self.allowed(ids)] = 1
        scores = np.array([self.weights[i] * scores[i] for i in self.taking_part])
        return mask * ((scores**2).sum(0) / (scores.sum(0) + 1) + 1e-12)

    def answer(self, question: str, passages: Sequence[str]) -> str:
        """The answer to one question."""
        prompts = [self.reader.encoder.prompt(passage, question) for passage in passages]
        self.allowed = self.reader.allowed(passages)
        self.weights = self.reader.weights or [1] * len(passages)
        ids = self.beam_search(prompts, topk=self.reader.topk).tolist()
        return self.reader.text(
            ids[: ids.index(self.end_id)] if self.end_id in ids else ids, passages
        )


# --- scores


def rank_weights(questions: Sequence[Question]) -> list[float]:
    """How often passages of each rank have the answer, as a share of those of the first rank."""
    found = [[each.answer in passage for passage in each.found] for each in questions if each.found]
    shares = np.mean(found, axis=0)
    return (shares / shares[0]).tolist()


def asked(questions: Sequence[Question], n_passages: int) -> list[tuple[str, tuple[str, ...]]]:
    return [(each.question, each.found[:n_passages]) for each in questions]


def timed(function: Callable[[], list[str]]) -> tuple[list[str], float]:
    """What a function returns, and the seconds it takes."""
    start = time.perf_counter()
    result = function()
    return result, time.perf_counter() - start


def speed(reader: Reader, questions: Sequence[Question]) -> dict[str, float]:
    """Answers a second, all at a time by `Generator` and one after the other by the subclass.

    Both have answered before, so that nothing is compiled meanwhile. Also the shares of answers
    that are the same, with a beam of one and with that of the reader.
    """
    several = asked(questions, N_PASSAGES)
    narrow = Reader(reader.model, reader.encoder, reader.weights, topk=1)
    by_one = [SubclassReader(narrow).answer(*each) for each in several[:N_TIMED]]
    subclass = SubclassReader(reader)
    subclass.answer(*several[0])
    fast, seconds = timed(lambda: reader.answers(several))
    slow, slow_seconds = timed(lambda: [subclass.answer(*each) for each in several[:N_TIMED]])
    per_second, slow_per_second = len(fast) / seconds, len(slow) / slow_seconds
    same_of_one = np.mean(np.array(narrow.answers(several[:N_TIMED])) == by_one)
    return {
        "answers_per_second": round(per_second, 1),
        "by_subclass": round(slow_per_second, 2),
        "ratio": round(per_second / slow_per_second, 1),
        "same_answers": round(float(same_of_one), 4),
        "same_by_beam": round(float(np.mean(np.array(fast[:N_TIMED]) == slow)), 4),
    }


# --- the experiment


def main(argv: Sequence[str] | None = None) -> dict | None:
    args = arguments(__file__, __doc__, QUICK, FULL, argv)
    if args.texts is not None:
        question, *passages = args.texts
        if not passages:
            raise SystemExit("give a question and at least one passage to look for the answer in")
        model, writer = unilm(args)
        load_best(args, model)
        reader = Reader(writer, Encoder(args.tokenizer, args.size.maxlen))
        (answer,) = reader.answers([(question, passages)])
        print(json.dumps({"question": question, "answer": answer}, ensure_ascii=False))
        return None

    parts = read_parts(args)
    remember(args)
    train = [(each.passage, each) for each in parts["train"]]
    encoder = Encoder(args.tokenizer, args.size.maxlen, args.epochs * len(train))
    batches = Batches(train, args.batch_size, encoder.train)
    model, writer = unilm(args)
    compile_for_tokens(args, model, batches, from_logits=True)
    reader = Reader(writer, encoder, rank_weights(parts["train"]))

    def scored(part: str, n_passages: int) -> dict[str, float]:
        return scores_of(reader.answers(asked(parts[part], n_passages)), parts[part])

    fit(args, model, batches, lambda: scored("valid", N_PASSAGES))
    scores = {
        **scored("test", N_PASSAGES),
        "single": scored("test", 1),
        "speed": speed(reader, parts["test"]),
    }
    return report(args, f"WebQA, {len(parts['test'])} questions", scores)


if __name__ == "__main__":
    main()
