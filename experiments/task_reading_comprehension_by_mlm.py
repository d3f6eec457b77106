"""Reading comprehension by a masked language model: all tokens of the answer at once (WebQA).

    python experiments/task_reading_comprehension_by_mlm.py --data DATA --quick
    python experiments/task_reading_comprehension_by_mlm.py predict 他出生在哪 他生于北京 她叫李华

[CLS] [MASK] … [MASK] [SEP] question [SEP] passage [SEP]: the answer and an end token stand where
the masks are (https://kexue.fm/archives/7148). Nothing is new that would have to be learnt from
nothing, and one pass of the model gives everything.

Each mask is predicted by itself, so the probability of a piece of the passage is a product, and all
pieces are compared, by their mean logarithm. A passage whose first mask rather says that there is
no answer takes no part; pieces that several passages agree on count more, by Σp² / (Σp + 1).
Scored as `task_reading_comprehension_by_seq2seq.py`, on the same questions and passages, and
trained on the same samples: questions, passages without an answer, gaps.

Data: `WebQA.json` and, for training only, `SogouQA.json`, both in
`reading_comprehension/qa_datasets.zip`. 500 questions of WebQA, drawn once, are the test, 200
others are for validation.
"""

import argparse
import json
from collections.abc import Callable, Sequence

import numpy as np
from common import (
    Batches,
    Size,
    arguments,
    fit,
    load_best,
    outputs,
    remember,
    report,
    text_span,
)
from keras import ops
from webqa import (
    MAX_ANSWER,
    MAX_QUESTION,
    N_PASSAGES,
    Question,
    draw,
    ids_behind,
    read_parts,
    scores_of,
)
from writing import NO_LABEL, compile_for_tokens, simplified

from bert4keras.models import Model, build_transformer_model
from bert4keras.tokenizers import Tokenizer

QUICK = Size(epochs=10, batch_size=32, learning_rate=1e-3, maxlen=160)
FULL = Size(epochs=10, batch_size=16, learning_rate=3e-5, maxlen=256)
SHARE_GAPS = 0.4  # of the samples
AT_ONCE = 64  # questions whose probabilities are held in memory
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


class Encoder:
    """From texts to token ids: masks for the answer, question, passage.

    Args:
        tokenizer: what cuts them.
        maxlen: tokens of all three.
    """

    def __init__(self, tokenizer: Tokenizer, maxlen: int) -> None:
        self.tokenizer, self.room = tokenizer, maxlen - MAX_ANSWER - MAX_QUESTION

    def sample(self, passage: str, question: str) -> tuple[list[int], list[int]]:
        """Token ids and segment ids; the passage is the second segment."""
        tokenizer = self.tokenizer
        masks = [tokenizer._token_start_id, *[tokenizer._token_mask_id] * MAX_ANSWER]
        asked = ids_behind(tokenizer, question, MAX_QUESTION - 2)
        first = [*masks, tokenizer._token_end_id, *asked]
        second = ids_behind(tokenizer, passage, self.room)
        return first + second, [0] * len(first) + [1] * len(second)

    def train(self, pad: Callable, questions: list[tuple[str, Question]]) -> tuple:
        """Inputs, and for each mask the token of the answer; behind its end there is no label."""
        rows, labels = [], np.full((len(questions), MAX_ANSWER), NO_LABEL, "int32")
        for row, (_, question) in zip(labels, questions, strict=True):
            passage, asked, answer = draw(question, SHARE_GAPS)
            rows.append(self.sample(passage, asked))
            answer_ids = ids_behind(self.tokenizer, answer, MAX_ANSWER)
            row[: len(answer_ids)] = answer_ids
        return [pad(column) for column in zip(*rows, strict=True)], labels


def build(args: argparse.Namespace) -> tuple[Tokenizer, Model]:
    """A tokenizer, and the probabilities of the tokens at the masks (batch, MAX_ANSWER, tokens)."""
    tokenizer, keep_tokens = simplified(args, SPECIAL)
    checkpoint = args.files.checkpoint if args.texts is None else None
    bert = build_transformer_model(
        args.files.config, checkpoint, with_mlm=True, masked_positions=True, keep_tokens=keep_tokens
    )
    token_ids, segment_ids, _ = bert.inputs
    masks = ops.zeros_like(token_ids[:, :MAX_ANSWER]) + np.arange(1, MAX_ANSWER + 1)
    return tokenizer, Model([token_ids, segment_ids], bert([token_ids, segment_ids, masks]))


# --- answers


def best_piece(
    probabilities: np.ndarray, passage_ids: Sequence[int], end_id: int
) -> tuple[float, int, int]:
    """The most probable piece of a passage.

    Args:
        probabilities: (MAX_ANSWER, tokens) of the tokens at the masks.
        passage_ids: the passage.
        end_id: the token behind an answer.

    Returns:
        The geometric mean of the probabilities of its tokens and of the end token, and the places
        of its first and its last token.
    """
    logs = np.log(np.maximum(probabilities, 1e-30))
    best, n = (0.0, 0, 0), len(passage_ids)
    totals = np.zeros(n)  # of the pieces that start at each place
    for length in range(1, min(n, MAX_ANSWER - 1) + 1):
        totals = totals[: n - length + 1] + logs[length - 1, list(passage_ids[length - 1 :])]
        means = np.exp((totals + logs[length, end_id]) / (length + 1))
        start = int(means.argmax())
        if means[start] > best[0]:
            best = float(means[start]), start, start + length - 1
    return best


def agreed(found: Sequence[tuple[float, str]]) -> str:
    """The answer that the passages agree on: for each one its probability and its answer."""
    probabilities: dict[str, list[float]] = {}
    for probability, answer in found:
        probabilities.setdefault(answer, []).append(probability)
    scores = {text: sum(p * p for p in ps) / (sum(ps) + 1) for text, ps in probabilities.items()}
    return max(scores, key=scores.get, default="")


class Reader:
    """Answers questions.

    Args:
        model: of `build`.
        encoder: of its inputs.
    """

    def __init__(self, model: Model, encoder: Encoder) -> None:
        self.model, self.encoder = model, encoder

    def answers(self, questions: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
        """The answers to questions, each with its passages; empty if none has one."""
        results = []
        for start in range(0, len(questions), AT_ONCE):
            some = questions[start : start + AT_ONCE]
            pairs = [(passage, question) for question, passages in some for passage in passages]
            given = iter(outputs(self.model, [self.encoder.sample(*pair) for pair in pairs]))
            for _, passages in some:
                found = [self.piece(passage, next(given)[0]) for passage in passages]
                results.append(agreed([each for each in found if each[1]]))
        return results

    def piece(self, passage: str, probabilities: np.ndarray) -> tuple[float, str]:
        """The answer that a passage gives, with its probability; empty if it has none."""
        tokenizer = self.encoder.tokenizer
        end_id = tokenizer._token_end_id
        if probabilities[0].argmax() == end_id:
            return 0.0, ""
        tokens = tokenizer.tokenize(passage, maxlen=self.encoder.room + 1)
        mapping = tokenizer.rematch(passage, tokens)
        ids = tokenizer.tokens_to_ids(tokens)[1:-1]
        probability, first, last = best_piece(probabilities, ids, end_id)
        return probability, text_span(passage, mapping, first + 1, last + 1)


# --- the experiment


def main(argv: Sequence[str] | None = None) -> dict | None:
    args = arguments(__file__, __doc__, QUICK, FULL, argv)
    tokenizer, model = build(args)
    encoder = Encoder(tokenizer, args.size.maxlen)
    reader = Reader(model, encoder)
    if args.texts is not None:
        question, *passages = args.texts
        if not passages:
            raise SystemExit("give a question and at least one passage to look for the answer in")
        load_best(args, model)
        (answer,) = reader.answers([(question, passages)])
        print(json.dumps({"question": question, "answer": answer}, ensure_ascii=False))
        return None

    parts = read_parts(args)
    remember(args)
    train = [(each.passage, each) for each in parts["train"]]
    batches = Batches(train, args.batch_size, encoder.train)
    compile_for_tokens(args, model, batches)

    def scored(part: str, n_passages: int) -> dict[str, float]:
        asked = [(each.question, each.found[:n_passages]) for each in parts[part]]
        return scores_of(reader.answers(asked), parts[part])

    fit(args, model, batches, lambda: scored("valid", N_PASSAGES))
    scores = scored("test", N_PASSAGES)
    compared = {f"{N_PASSAGES} passages": scores, "1 passage": scored("test", 1)}
    return report(args, f"WebQA, {len(parts['test'])} questions", {**scores, "passages": compared})


if __name__ == "__main__":
    main()
