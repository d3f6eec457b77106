"""Reviews, good or bad as one likes, from a language model with a condition.

    python experiments/task_conditional_language_model.py --data DATA --quick
    python experiments/task_conditional_language_model.py predict 这家酒店 --output RUN

The label of a review is embedded, and its vector moves scale and offset of every layer
normalisation (https://kexue.fm/archives/7124): so one language model writes good and bad reviews.
At first the condition changes nothing, and the checkpoint is what it was.

A condition that is worth something makes a review more probable under its own label than under the
other one. That is the score: the share of test reviews of which it is true, which is 0.5 by chance;
and the perplexity under either. Nothing here was trained to classify. At the end, and by `predict`,
texts are continued as a good and as a bad review.

Data: `sentiment/sentiment.zip` (`sentiment/sentiment.{train,valid,test}.data`).
"""

import argparse
import json
from collections.abc import Callable, Sequence

import keras
import numpy as np
from common import Batches, Size, arguments, fit, load_best, read_lines, remember, report
from writing import (
    compile_for_tokens,
    language_model,
    log_probabilities,
    next_tokens,
    perplexity,
    scorer,
    simplified,
)

from bert4keras.generation import Generator
from bert4keras.models import Model

QUICK = Size(epochs=4, batch_size=32, learning_rate=1e-3, maxlen=64)
FULL = Size(epochs=20, batch_size=32, learning_rate=1e-4, maxlen=128)
ARCHIVE = "sentiment/sentiment.zip"
LABELS = ("negative", "positive")
CONDITION_SIZE = 128
BEGINNINGS = ("这本书", "酒店的服务")
TOPP = 0.9

Sample = tuple[list[int], int]
"""Token ids and label."""


def read_reviews(args: argparse.Namespace, part: str) -> list[tuple[str, int]]:
    rows = read_lines(args.data, ARCHIVE, f"sentiment/sentiment.{part}.data")
    return [(text, int(label)) for text, _, label in (row.rpartition("\t") for row in rows)]


def make(pad: Callable, samples: list[Sample]) -> tuple:
    """Tokens, segments and labels of reviews; at each position the token behind it."""
    rows, labels = zip(*samples, strict=True)
    token_ids = pad(rows)
    inputs = [token_ids, np.zeros_like(token_ids), np.array(labels, "int32")]
    return inputs, next_tokens(token_ids)


def build(args: argparse.Namespace, keep_tokens: list[int]) -> Model:
    """The probabilities of the next token, given the label as a third input."""
    label = keras.Input((), dtype="int32", name="Input-Label")
    condition = keras.layers.Embedding(len(LABELS), CONDITION_SIZE, name="Label")(label)
    return language_model(
        args, keep_tokens, layer_norm_cond=condition, additional_input_layers=label
    )


def scores_of(scoring: keras.Model, samples: Sequence[Sample]) -> dict[str, float]:
    """How often the right label makes a text more probable, and perplexity under both labels."""
    right = log_probabilities(scoring, samples, make)
    wrong = log_probabilities(scoring, [(ids, 1 - label) for ids, label in samples], make)
    return {
        "told_apart": round(float(np.mean(right[:, 0] > wrong[:, 0])), 4),
        "perplexity": round(perplexity(right), 2),
        "with_wrong_label": round(perplexity(wrong), 2),
    }


def main(argv: Sequence[str] | None = None) -> dict | None:
    args = arguments(__file__, __doc__, QUICK, FULL, argv)
    tokenizer, keep_tokens = simplified(args)
    model = build(args, keep_tokens)
    generator = Generator(model, tokenizer, maxlen=args.size.maxlen)

    def write(beginnings: Sequence[str]) -> None:
        """Print how texts go on under each label."""
        cases = [(text, label) for text in beginnings for label in range(len(LABELS))]
        texts, labels = zip(*cases, strict=True)
        options = {"sample": True, "topp": TOPP, "seed": args.seed}
        drawn = generator.generate(texts, conditions=[labels], **options)
        for (text, label), more in zip(cases, drawn, strict=True):
            print(json.dumps({"label": LABELS[label], "text": text + more}, ensure_ascii=False))

    if args.texts is not None:
        load_best(args, model)
        return write(args.texts)

    remember(args)
    # What is cut off ends without an end token.
    train, valid, test = (
        [
            (tokenizer.encode(text)[0][: args.size.maxlen], label)
            for text, label in read_reviews(args, part)
        ]
        for part in ("train", "valid", "test")
    )
    batches = Batches(train, args.batch_size, make)
    compile_for_tokens(args, model, batches)
    scoring = scorer(model)
    fit(args, model, batches, lambda: scores_of(scoring, valid))
    write(BEGINNINGS)
    return report(args, "sentiment, test", scores_of(scoring, test))


if __name__ == "__main__":
    main()
