"""Do two texts match? Six such tasks, short and long texts, one model (Sohu 2021).

    python experiments/task_conditional_matching.py --data DATA --quick
    python experiments/task_conditional_matching.py --data DATA --quick --heads
    python experiments/task_conditional_matching.py predict 花呗怎么还款 怎样还花呗 --task afqmc

The contest had two standards of matching for short–short, short–long and long–long pairs. In
https://kexue.fm/archives/8337 one word-level RoFormer does all six: the number of the task is
embedded and conditions every layer normalisation. The data of the contest are not free; the six
tasks here are built from others. No text of a test is trained on, whatever the task.

    lcqmc    short–short  the same question?             official files
    afqmc    short–short  the same question, of a bank   `dev` is the test
    xiaobu   short–short  the same wish, to a phone      `dev.tsv` is the test
    titles   short–short  papers of the same field?      titles of csl_category, 1,000 for the test
    field    short–long   papers of the same field?      title of one, abstract of another
    halves   long–long    of the same abstract?          first half of one, second half of another

How the pairs of the last three are drawn stands in `matching_data.py`.

The vocabulary is that of the checkpoint and the most frequent words of the training texts, which
start as the mean of their characters. Each token comes with how much of it the other text has.
`--heads` adds `ocnli`, which has three labels, and gives each task a softmax of its own labels.
After the scores the same samples are timed in batches of similar lengths and in mixed ones.

Data: `lcqmc/lcqmc.zip`, `clue/afqmc.zip`, `oppo_xiaobu/oppo_xiaobu.zip`, `csl/csl_category.zip`,
`csl/csl_title.zip`; with `--heads` `clue/ocnli.zip`.
"""

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import keras
import numpy as np
from classification import WithMatches, encode_pair
from common import (
    Batches,
    Size,
    arguments,
    fit,
    load_best,
    optimizer,
    outputs,
    remember,
    report,
    save_figure,
)
from matching_data import LABELS, TASKS, overlap_accuracy, read_tasks
from words import N_WORDS, frequent_words, load_jieba, word_tokenizer

from bert4keras.layers import FirstToken
from bert4keras.models import Model, RoFormer, build_transformer_model
from bert4keras.snippets import softmax
from bert4keras.tokenizers import Tokenizer

QUICK = Size(epochs=3, batch_size=32, learning_rate=3e-4, maxlen=96)
FULL = Size(epochs=5, batch_size=32, learning_rate=2e-5, maxlen=512)
# With --quick, so many pairs of a task are trained on, and few are validated on.
N_TRAIN = {"afqmc": 8000, "field": 1500, "halves": 1500}
N_OTHERS, N_VALID = 4000, 400
CONDITION_SIZE = 64
N_TIMED, N_ROUNDS = 16, 2  # batches of each kind, and how often

SAME = ("different", "same")

# --- samples


def encode(pair: Sequence, task: int, tokenizer: Tokenizer, maxlen: int, label: int = 0) -> tuple:
    """Token ids, segment ids, matches, task and label of a pair."""
    *sequences, label = encode_pair(pair, label, tokenizer, maxlen)
    return *sequences, task, label


def inputs_of(pad: Callable, samples: Sequence[tuple]) -> list[np.ndarray]:
    *sequences, task, _ = zip(*samples, strict=True)
    return [*map(pad, sequences), np.array(task, "int32")]


def make_batch(pad: Callable, samples: Sequence[tuple]) -> tuple:
    return inputs_of(pad, samples), np.array([label for *_, label in samples], "int32")


# --- model


class PairRoFormer(WithMatches, RoFormer):
    """RoFormer that is told which tokens the other text has, besides their segments."""

    foreign_variables = ()  # BERT is a start, too, without its positions


class OwnLabels(keras.layers.Layer):
    """Hide the labels of other tasks: [scores (batch, all labels), task (batch,)] → scores.

    What is hidden has no probability, so its head learns nothing from the sample.

    Args:
        n_labels: how many labels each task has.
    """

    def __init__(self, n_labels: Sequence[int], **kwargs) -> None:
        super().__init__(**kwargs)
        self.n_labels = list(n_labels)
        owner = np.repeat(np.arange(len(n_labels)), n_labels)
        self.own = owner == np.arange(len(n_labels))[:, None]

    def call(self, inputs: list) -> keras.KerasTensor:
        scores, task = inputs
        own = keras.ops.take(keras.ops.convert_to_tensor(self.own), task, axis=0)
        return keras.ops.where(own, scores, -1e9)


def build(
    args: argparse.Namespace, tasks: Sequence[str], heads: bool, words: dict, load: bool = True
) -> Model:
    """Scores of labels: of `SAME`, or with heads of the labels of all tasks, one after another."""
    task = keras.Input((), dtype="int32", name="Input-Task")
    condition = keras.layers.Embedding(len(tasks), CONDITION_SIZE, name="Task")(task)
    encoder = build_transformer_model(
        args.files.config,
        args.files.checkpoint if load else None,
        model=PairRoFormer,
        layer_norm_cond=condition,
        additional_input_layers=task,
        **words,
    )
    vector = FirstToken(name="First")(encoder.output)
    vector = keras.layers.Dropout(0.1, name="Dropout")(vector)
    if not heads:
        return Model(encoder.inputs, keras.layers.Dense(len(SAME), name="Same")(vector))
    sizes = [len(LABELS.get(name, SAME)) for name in tasks]
    scores = [
        keras.layers.Dense(size, name=f"Head-{name}")(vector)
        for name, size in zip(tasks, sizes, strict=True)
    ]
    scores = keras.layers.Concatenate(name="Heads")(scores)
    return Model(encoder.inputs, OwnLabels(sizes, name="Own-Labels")([scores, task]))


def label_starts(tasks: Sequence[str], heads: bool) -> list[int]:
    """Where the labels of each task start in the scores."""
    sizes = [len(LABELS.get(name, SAME)) if heads else 0 for name in tasks]
    return [sum(sizes[:i]) for i in range(len(tasks))]


# --- scores


def f1_score(found: np.ndarray, truth: np.ndarray) -> float:
    """F1 of each label but the first, averaged: for two labels, that of `same`."""
    each = [
        2 * np.sum((found == k) & (truth == k)) / max(1, np.sum(found == k) + np.sum(truth == k))
        for k in range(1, truth.max() + 1)
    ]
    return float(np.mean(each))


def score(
    model: Model, samples: Sequence[tuple], tasks: Sequence[str], starts: Sequence[int]
) -> dict[str, dict[str, float]]:
    """Accuracy and F1 of each task."""
    found = np.array([scores.argmax() for (scores,) in outputs(model, samples, inputs_of)])
    of_task, truth = np.array([sample[3:] for sample in samples]).T
    result = {}
    for i, name in enumerate(tasks):
        own = of_task == i
        result[name] = {
            "accuracy": round(float(np.mean(found[own] == truth[own])), 4),
            "f1": round(f1_score(found[own] - starts[i], truth[own] - starts[i]), 4),
        }
    return result


def means(scores: dict[str, dict[str, float]]) -> dict[str, float]:
    return {
        name: round(float(np.mean([each[name] for each in scores.values()])), 4)
        for name in ("accuracy", "f1")
    }


def time_buckets(model: Model, samples: list, batch_size: int) -> dict[str, dict[str, float]]:
    """Time training on the same samples, in batches of similar lengths and in mixed ones.

    Both are padded to the same few lengths, each of which was compiled before it is timed.
    """
    batches = Batches(samples, batch_size, lambda pad, group: group)
    similar = list(islice(batches.__iter__(random=True), N_TIMED))
    drawn = [sample for group in similar for sample in group]
    random.shuffle(drawn)
    mixed = [drawn[i : i + batch_size] for i in range(0, len(drawn), batch_size)]
    made = {
        name: [make_batch(batches.pad, group) for group in groups]
        for name, groups in (("bucket", similar), ("mixed", mixed))
    }
    shapes = {
        inputs[0].shape: (inputs, labels) for each in made.values() for inputs, labels in each
    }
    for batch in shapes.values():
        model.train_on_batch(*batch)
    seconds: dict[str, float] = dict.fromkeys(made, 0)
    for name in [*made] * N_ROUNDS:
        start = time.perf_counter()
        for batch in made[name]:
            model.train_on_batch(*batch)
        seconds[name] += time.perf_counter() - start
    n_tokens = sum(len(sample[0]) for sample in drawn)
    return {
        name: {
            "seconds_per_1000_samples": round(1000 * each / N_ROUNDS / len(drawn), 2),
            "tokens_per_second": round(n_tokens * N_ROUNDS / each),
        }
        for name, each in seconds.items()
    }


def draw_bars(scores: dict[str, dict[str, float]], path: Path) -> None:
    """Bars of each task: the majority, shared characters, the model."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(1.3 * len(scores), 3))
    for i, name in enumerate(("majority", "overlap", "accuracy")):
        heights = [100 * each[name] for each in scores.values()]
        bars = axis.bar(np.arange(len(scores)) + 0.28 * (i - 1), heights, 0.26, label=name)
        axis.bar_label(bars, fmt="%.0f", fontsize=7)
    axis.set_xticks(range(len(scores)), scores)
    axis.set(ylabel="accuracy, %", ylim=(0, 110))
    axis.legend(loc="upper right", fontsize=8, ncols=3)
    save_figure(figure, path)


# --- the experiment


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--heads", action="store_true", help="a softmax of its own for each task")
    parser.add_argument("--task", default=TASKS[0], help="predict: as which task")


def predict(args: argparse.Namespace, cut: Callable) -> None:
    """Print the label of each pair of texts."""
    tasks, heads = args.saved["tasks"], args.saved["heads"]
    if args.task not in tasks or len(args.texts) % 2:
        raise SystemExit(f"give pairs of texts, and as --task one of {', '.join(tasks)}")
    tokenizer, vocabulary = word_tokenizer(args.tokenizer, args.saved["words"], cut)
    model = build(args, tasks, heads, vocabulary, load=False)
    load_best(args, model)
    i = tasks.index(args.task)
    names, start = LABELS.get(args.task, SAME), label_starts(tasks, heads)[i]
    pairs = list(zip(args.texts[::2], args.texts[1::2], strict=True))
    samples = [encode(pair, i, tokenizer, args.size.maxlen) for pair in pairs]
    for pair, (scores,) in zip(pairs, outputs(model, samples, inputs_of), strict=True):
        shares = softmax(scores[start : start + len(names)])
        shares = {name: round(float(p), 4) for name, p in zip(names, shares, strict=True)}
        print(json.dumps({"task": args.task, "texts": pair, "labels": shares}, ensure_ascii=False))


def main(argv: Sequence[str] | None = None) -> dict | None:
    args = arguments(__file__, __doc__, QUICK, FULL, argv, add_options)
    cut = load_jieba()
    if args.texts is not None:
        return predict(args, cut)

    data = read_tasks(args.data, args.heads)
    tasks, starts = list(data), label_starts(list(data), args.heads)
    if args.quick:
        for name, parts in data.items():
            for part, n in (("train", N_TRAIN.get(name, N_OTHERS)), ("valid", N_VALID)):
                parts[part] = random.Random(0).sample(parts[part], min(n, len(parts[part])))
    texts = [text for parts in data.values() for *pair, _ in parts["train"] for text in pair]
    words = frequent_words(texts, cut, args.tokenizer, N_WORDS[args.quick])
    remember(args, tasks=tasks, heads=args.heads, words=words)
    tokenizer, vocabulary = word_tokenizer(args.tokenizer, words, cut)
    train, valid, test = (
        [
            encode(pair, i, tokenizer, args.size.maxlen, starts[i] + label)
            for i, parts in enumerate(data.values())
            for *pair, label in parts[part]
        ]
        for part in ("train", "valid", "test")
    )
    batches = Batches(train, args.batch_size, make_batch)
    model = build(args, tasks, args.heads, vocabulary)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=optimizer(args, batches), loss=loss)
    fit(args, model, batches, lambda: means(score(model, valid, tasks, starts)))

    scores = score(model, test, tasks, starts)
    for name, parts in data.items():
        labels = Counter(label for *_, label in parts["test"])
        scores[name] |= {
            "majority": round(max(labels.values()) / labels.total(), 4),
            "overlap": round(overlap_accuracy(parts["train"], parts["test"]), 4),
            "pairs": labels.total(),
        }
    draw_bars(scores, args.output / "tasks.png")
    speed = time_buckets(model, train, args.batch_size)
    return report(args, ", ".join(tasks), {**means(scores), "tasks": scores, "speed": speed})


if __name__ == "__main__":
    main()
