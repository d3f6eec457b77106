"""What the experiments share that classify texts: their data, a classifier, its scores, `predict`.

A sample is what the tokenizer makes of one text, or of two, and the number of its label.
"""

import argparse
import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from common import (
    Batches,
    fit,
    load_best,
    optimizer,
    outputs,
    read_json_lines,
    remember,
    report,
)
from matching_data import read_table

from bert4keras.layers import Embedding, FirstToken
from bert4keras.models import BERT, Model, build_transformer_model
from bert4keras.tokenizers import Tokenizer
from bert4keras.training import Step

SENTIMENTS = ("negative", "positive")

Texts = tuple[str, ...]
Labelled = tuple[Texts, int]
"""A text, or two, and the number of its label."""
Parts = Sequence[Sequence[tuple]]
"""Samples to train on, to validate on, and of the test."""


# --- data


def read_labelled(data: Path, archive: str, member: str) -> list[Labelled]:
    """The lines of a file: texts and a number, between tabs."""
    return [(tuple(texts), int(label)) for *texts, label in read_table(data, archive, member)]


def read_sentiment(data: Path) -> dict[str, list[Labelled]]:
    """The parts of `sentiment/sentiment.zip`: reviews, 0 for negative and 1 for positive ones."""
    member = "sentiment/sentiment.{}.data"
    return {
        part: read_labelled(data, "sentiment/sentiment.zip", member.format(part))
        for part in ("train", "valid", "test")
    }


@dataclass(frozen=True)
class Task:
    """A task of CLUE, as `clue/NAME.zip` has it.

    Args:
        texts: one text or two from a line of the data.
        submission: what CLUE calls a file with predictions, before `_predict.json`.
        train: the file to train on.
    """

    texts: Callable[[dict], Texts]
    submission: str
    train: str = "train"


def marked(row: dict) -> Texts:
    """The text of a line of `wsc`: _a pronoun_, and [what it may stand for]."""
    target, text = row["target"], row["text"]
    spans = [
        (target["span1_index"], target["span1_text"], "[{}]"),
        (target["span2_index"], target["span2_text"], "_{}_"),
    ]
    for start, span, form in sorted(spans, reverse=True):
        text = text[:start] + form.format(span) + text[start + len(span) :]
    return (text,)


TASKS = {
    "afqmc": Task(lambda row: (row["sentence1"], row["sentence2"]), "afqmc"),
    "ocnli": Task(lambda row: (row["sentence1"], row["sentence2"]), "ocnli_50k", "train.10k"),
    "tnews": Task(lambda row: (row["sentence"],), "tnews11"),
    "iflytek": Task(lambda row: (row["sentence"],), "iflytek"),
    "csl": Task(lambda row: ("，".join(row["keyword"]), row["abst"]), "csl"),
    "wsc": Task(marked, "cluewsc11"),
}


class Clue(NamedTuple):
    """The data of a task of CLUE."""

    labels: list[str]
    names: list[str]
    """Labels with their descriptions, where the data have some."""
    train: list[Labelled]
    valid: list[Labelled]
    test: list[Labelled]
    rows: list[dict]
    """The lines without labels that CLUE asks for."""


def read_clue(data: Path, name: str) -> Clue:
    """The data of a task; what CLUE calls `dev` is the test, a tenth of `train` is validated on."""
    task = TASKS[name]
    rows = {
        part: read_json_lines(data, f"clue/{name}.zip", f"{name}/{part}.json")
        for part in (task.train, "dev", "test")
    }
    # The annotators of ocnli did not agree on "-".
    labelled = [row for part in (task.train, "dev") for row in rows[part] if row["label"] != "-"]
    # iflytek says label_des, tnews label_desc.
    names = {
        row["label"]: " ".join(
            row[key] for key in ("label", "label_desc", "label_des") if key in row
        )
        for row in labelled
    }
    labels = sorted(names, key=lambda label: (len(label), label))
    train, test = (
        [(task.texts(row), labels.index(row["label"])) for row in rows[part] if row["label"] != "-"]
        for part in (task.train, "dev")
    )
    return Clue(
        labels, [names[label] for label in labels], *held_out(train, 0.1), test, rows["test"]
    )


def held_out(samples: Sequence[Labelled], share: float) -> tuple[list[Labelled], list[Labelled]]:
    """Split labelled texts at random, always alike; what has the same last text stays together."""

    def text(sample: Labelled) -> str:
        return re.sub(r"[\[\]_]", "", sample[0][-1])  # whatever is marked in it

    texts = sorted(set(map(text, samples)))
    chosen = set(random.Random(0).sample(texts, max(1, round(share * len(texts)))))
    return (
        [sample for sample in samples if text(sample) not in chosen],
        [sample for sample in samples if text(sample) in chosen],
    )


# --- samples


def encode(texts: Texts, label: int, tokenizer: Tokenizer, maxlen: int) -> tuple:
    """Token ids, segment ids and the label of one text or two."""
    return *tokenizer.encode(*texts, maxlen=maxlen), label


def encoded(args: argparse.Namespace, rows: Sequence[Labelled], encode: Callable = encode) -> list:
    return [encode(texts, label, args.tokenizer, args.size.maxlen) for texts, label in rows]


def inputs_of(pad: Callable, samples: Sequence[tuple]) -> list[np.ndarray]:
    """Everything but the labels, padded."""
    *columns, _ = zip(*samples, strict=True)
    return [pad(column) for column in columns]


def make_batch(pad: Callable, samples: Sequence[tuple]) -> tuple:
    return inputs_of(pad, samples), np.array([label for *_, label in samples], "int32")


# --- two texts that know of each other


def matches(tokens: Sequence[str], other: Sequence[str]) -> list[int]:
    """How much of each token the other text has: 1 nothing, 2 some characters, 3 all; 0 special."""
    characters = set("".join(other[1:-1]))
    found = [2 + (n == len(t)) if (n := len(characters & set(t))) else 1 for t in tokens[1:-1]]
    return [0, *found, 0]


def encode_pair(pair: Texts, label: int, tokenizer: Tokenizer, maxlen: int) -> tuple:
    """Token ids, segment ids, matches and the label of two texts."""
    first, second = (tokenizer.tokenize(text) for text in pair)
    token_ids, segment_ids = tokenizer.encode(first, second, maxlen=maxlen)  # cuts both, too
    return token_ids, segment_ids, matches(first, second) + matches(second, first)[1:], label


class WithMatches:
    """For subclasses of BERT, such as `PairBERT`: an input says which tokens the other text has.

    Equal tokens of two texts find each other by attention only after a lot of training.
    """

    def get_inputs(self) -> list:
        self.matches = self.apply_input("Input-Match")
        return [*super().get_inputs(), self.matches]

    def apply_segment_embedding(self, segment_ids: keras.KerasTensor) -> keras.KerasTensor:
        # At first this adds nothing to what the checkpoint has learnt.
        options = {"input_dim": 4, "output_dim": self.embedding_size, "name": "Embedding-Match"}
        match = self.apply(self.matches, Embedding, embeddings_initializer="zeros", **options)
        segment = super().apply_segment_embedding(segment_ids)
        return self.apply([segment, match], keras.layers.Add, name="Embedding-Segment-Match")


class PairBERT(WithMatches, BERT):
    """BERT that is told which tokens the other text has."""


# --- model


def classifier(encoder: keras.Model, n_labels: int) -> Model:
    """Put a softmax over labels on the vector of the first token."""
    vector = FirstToken(name="First")(encoder.output)
    vector = keras.layers.Dropout(0.1, name="Dropout")(vector)
    label = keras.layers.Dense(n_labels, activation="softmax", name="Label")
    return Model(encoder.inputs, label(vector))


def build(args: argparse.Namespace, n_labels: int, load: bool = True, **options: Any) -> Model:
    """A classifier on the checkpoint; `options` are those of `build_transformer_model`."""
    checkpoint = args.files.checkpoint if load else None
    return classifier(build_transformer_model(args.files.config, checkpoint, **options), n_labels)


def train(
    args: argparse.Namespace,
    model: Model,
    samples: Sequence[tuple],
    valid: Sequence[tuple],
    step: Step | None = None,
    make: Callable[[Callable, list], tuple] = make_batch,
) -> None:
    """Train a classifier; afterwards it has the weights that were best on validation samples.

    Args:
        args: what `arguments` returned.
        model: the classifier.
        samples: to train on.
        valid: to validate on.
        step: what `compile` takes.
        make: see `Batches`.
    """
    batches = Batches(samples, args.batch_size, make)
    # Where all samples of a batch count, and no weights are given, this is the mean.
    loss = keras.losses.SparseCategoricalCrossentropy(reduction="mean_with_sample_weight")
    model.compile(optimizer=optimizer(args, batches), loss=loss, step=step)
    fit(args, model, batches, lambda: {"accuracy": accuracy(model, valid)})


def variant(args: argparse.Namespace, name: str) -> argparse.Namespace:
    """The arguments for a training that is compared with, in a folder below `--output`.

    Random numbers begin anew, so that all variants start alike.
    """
    keras.utils.set_random_seed(args.seed)
    return argparse.Namespace(**{**vars(args), "output": args.output / name})


def compare(
    args: argparse.Namespace,
    n_labels: int,
    parts: Parts,
    step: Step,
    make: Callable[[Callable, list], tuple] = make_batch,
) -> dict[str, float]:
    """Train with a step and without it, all else being equal; return the accuracy of both.

    Args:
        args: what `arguments` returned.
        n_labels: how many labels there are.
        parts: the samples.
        step: what `compile` takes.
        make: see `Batches`.
    """
    samples, valid, test = parts
    scores = {}
    for name, folder, each in (("accuracy", ".", step), ("without", "without", None)):
        print(f"\ntraining with {each}")
        run = variant(args, folder)
        model = build(run, n_labels)
        train(run, model, samples, valid, each, make)
        scores[name] = accuracy(model, test)
    return scores


# --- scores and predictions


def probabilities(model: Model, samples: Sequence[tuple]) -> np.ndarray:
    """The probabilities of all labels for each sample, (samples, labels)."""
    return np.array([scores for (scores,) in outputs(model, samples, inputs_of)])


def accuracy(model: Model, samples: Sequence[tuple]) -> float:
    """The share of samples whose label is the most probable one."""
    found = probabilities(model, samples).argmax(axis=1)
    return round(float(np.mean(found == [label for *_, label in samples])), 4)


def predict(
    args: argparse.Namespace,
    model: Model,
    labels: Sequence[str],
    n_texts: int = 1,
    encode: Callable = encode,
) -> None:
    """Print the five most probable labels of each text, or of each pair of texts.

    Args:
        args: what `arguments` returned.
        model: a classifier, into which the weights of the run are loaded.
        labels: their names.
        n_texts: how many texts are classified together.
        encode: makes samples.
    """
    if len(args.texts) % n_texts:
        raise SystemExit(f"give pairs of texts, not {len(args.texts)} of them")
    load_best(args, model)
    groups = [tuple(args.texts[i : i + n_texts]) for i in range(0, len(args.texts), n_texts)]
    samples = encoded(args, [(group, 0) for group in groups], encode)
    for group, shares in zip(groups, probabilities(model, samples), strict=True):
        best = {labels[i]: round(float(shares[i]), 4) for i in np.argsort(-shares)[:5]}
        print(json.dumps({"texts": group, "labels": best}, ensure_ascii=False))


def iflytek(
    args: argparse.Namespace,
    experiment: Callable[[argparse.Namespace, int, Parts], dict[str, Any]],
    build: Callable[..., Model] = build,
) -> dict | None:
    """Descriptions of apps in 119 classes: run an experiment, or predict.

    Args:
        args: what `arguments` returned.
        experiment: trains on the parts of the data, for so many labels, and returns scores; the
            weights that it leaves in `--output` are those of what `build` gives.
        build: makes the model that predicts.
    """
    if args.texts is not None:
        names = args.saved["names"]
        return predict(args, build(args, len(names), load=False), names)
    clue = read_clue(args.data, "iflytek")
    remember(args, names=clue.names)
    parts = [encoded(args, part) for part in (clue.train, clue.valid, clue.test)]
    return report(args, "clue iflytek, dev", experiment(args, len(clue.labels), parts))
