"""Do two texts match? Six such tasks, short and long texts, one model (Sohu 2021).

    python examples/task_conditional_matching.py --data DATA --quick
    python examples/task_conditional_matching.py --data DATA --quick --heads
    python examples/task_conditional_matching.py predict 花呗怎么还款 怎样还花呗 --task afqmc

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

In `titles` and `field` every text stands in as many right as wrong pairs, so that no text alone
tells. In `halves` the wrong half is the one that shares most with the first. (That a title belongs
to an abstract is no task: shared characters tell it in 96 of 100 cases.)

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
import re
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import keras
import numpy as np
from common import (
    Batches,
    Size,
    arguments,
    fit,
    load_best,
    optimizer,
    outputs,
    read_json_lines,
    read_lines,
    remember,
    report,
    save_figure,
)

from bert4keras.layers import Embedding, FirstToken
from bert4keras.models import Model, RoFormer, build_transformer_model
from bert4keras.snippets import softmax
from bert4keras.tokenizers import Tokenizer

QUICK = Size(epochs=3, batch_size=32, learning_rate=3e-4, maxlen=96)
FULL = Size(epochs=5, batch_size=32, learning_rate=2e-5, maxlen=512)
# With --quick, so many pairs of a task are trained on, and few are validated on.
N_TRAIN = {"afqmc": 8000, "field": 1500, "halves": 1500}
N_OTHERS, N_VALID = 4000, 400
N_WORDS = {True: 4000, False: 20000}  # by --quick
MIN_COUNT = 5  # of a word
CONDITION_SIZE = 64
SENTENCE_END = r"[。．；;！？!?]|\.(?!\d)"
N_TIMED, N_ROUNDS = 16, 2  # batches of each kind, and how often

TASKS = ("lcqmc", "afqmc", "xiaobu", "titles", "field", "halves")
LABELS = {"ocnli": ("entailment", "neutral", "contradiction")}
SAME = ("different", "same")

Pair = tuple[str, str, int]
Parts = dict[str, list[Pair]]
"""Pairs by part: train, valid, test."""


# --- data


def read_table(data: Path, archive: str, member: str) -> list[list[str]]:
    return [line.split("\t") for line in read_lines(data, archive, member)]


def read_pairs(data: Path, archive: str, member: str) -> list[Pair]:
    return [(a, b, int(label)) for a, b, label in read_table(data, archive, member)]


def read_json_pairs(data: Path, archive: str, member: str, labels: Sequence[str]) -> list[Pair]:
    """Pairs of a task of CLUE. Those that the annotators did not agree on have another label."""
    rows = read_json_lines(data, archive, member)
    return [
        (row["sentence1"], row["sentence2"], labels.index(row["label"]))
        for row in rows
        if row["label"] in labels
    ]


def held_out(pairs: list, n: int) -> tuple[list, list]:
    """All but the last n, or the last third of a few, and these."""
    n = min(n, len(pairs) // 3)
    return pairs[:-n], pairs[-n:]


def same_field(first: Sequence[tuple[str, str]], second: Sequence[str], rng: random.Random) -> list:
    """Pair each first text with a second one of the same field and with one of another field.

    Args:
        first: texts with their fields.
        second: texts of the same fields, in the same order; the pairs never have the same place.
        rng: draws them.

    Returns:
        Pairs in which every text, first or second, is once with its like and once not, apart from
        those that find none.
    """
    n, fields = len(first), [field for _, field in first]
    places = rng.sample(range(n), n)
    by_field: dict[str, list[int]] = {}
    for i in places:
        by_field.setdefault(fields[i], []).append(i)
    like = {
        a: b
        for group in by_field.values()
        for a, b in zip(group, [*group[1:], group[0]], strict=True)
    }
    unlike = dict(enumerate(places))
    for i in range(n):
        for j in places if fields[unlike[i]] == fields[i] else ():
            if fields[unlike[j]] != fields[i] and fields[unlike[i]] != fields[j]:
                unlike[i], unlike[j] = unlike[j], unlike[i]
                break
    pairs = [(first[a][0], second[b], 1) for a, b in like.items() if a != b]
    pairs += [(first[a][0], second[b], 0) for a, b in unlike.items() if fields[a] != fields[b]]
    return pairs


def halves(text: str) -> tuple[str, str] | None:
    """Cut a text behind one of the sentences that end around its middle, if any does.

    Which one is drawn: if it were the one nearest to the middle, halves of equal length would be
    the right ones. The same text is always cut at the same place.
    """
    n = len(text)
    ends = [found.end() for found in re.finditer(SENTENCE_END, text)]
    ends = [end for end in ends if 0.3 * n <= end <= 0.7 * n]
    if not ends:
        return None
    cut = random.Random(text).choice(ends)
    return text[:cut], text[cut:]


def shared_share(first: Sequence[str], second: Sequence[str]) -> np.ndarray:
    """Jaccard similarity of the characters of all first and all second texts; plus of bigrams."""
    total = np.zeros((len(first), len(second)))
    for n in (1, 2):
        places: dict[str, list[int]] = {}
        for j, text in enumerate(second):
            for gram in ngrams(text, n):
                places.setdefault(gram, []).append(j)
        arrays = {gram: np.array(each) for gram, each in places.items()}
        sizes = np.array([len(ngrams(text, n)) for text in second])
        for i, text in enumerate(first):
            grams, both = ngrams(text, n), np.zeros(len(second))
            for gram in grams & arrays.keys():
                both[arrays[gram]] += 1
            total[i] += both / np.maximum(len(grams) + sizes - both, 1)
    return total


def same_text(texts: Sequence[str]) -> list[Pair]:
    """Pair first halves with their second halves, and with those of others that share most."""
    first, second = zip(*filter(None, map(halves, texts)), strict=True)
    scores = shared_share(first, second)
    np.fill_diagonal(scores, -1)
    pairs = []
    for i, j in enumerate(scores.argmax(1)):
        pairs += [(first[i], second[i], 1), (first[i], second[j], 0)]
    return pairs


def read_tasks(data: Path, heads: bool) -> dict[str, Parts]:
    """The pairs of all tasks; no text of a test or validation part is trained on."""
    rng = random.Random(0)  # the data are the same for every --seed

    def split(pairs: list, test: list, n_valid: int) -> dict[str, list]:
        train, valid = held_out(pairs, n_valid)
        return {"train": train, "valid": valid, "test": test}

    clue, oppo, binary = "clue/afqmc.zip", "oppo_xiaobu/oppo_xiaobu.zip", ("0", "1")
    tasks = {
        "lcqmc": {
            part: read_pairs(data, "lcqmc/lcqmc.zip", f"lcqmc/lcqmc.{part}.data")
            for part in ("train", "valid", "test")
        },
        "afqmc": split(
            read_json_pairs(data, clue, "afqmc/train.json", binary),
            read_json_pairs(data, clue, "afqmc/dev.json", binary),
            2000,
        ),
        "xiaobu": split(
            read_pairs(data, oppo, "oppo_xiaobu/train.tsv"),
            read_pairs(data, oppo, "oppo_xiaobu/dev.tsv"),
            1000,
        ),
    }
    # The other files of csl_category hold titles of csl_title.
    category = "csl/csl_category.zip"
    titles = read_table(data, category, "csl_category/train.tsv")
    parts = split(*held_out(titles, 1000), 500)
    tasks["titles"] = {
        part: same_field(rows, [title for title, _ in rows], rng) for part, rows in parts.items()
    }
    fields = {
        title: field
        for part in ("dev", "test")
        for title, field in read_table(data, category, f"csl_category/{part}.tsv")
    }
    tasks |= {"field": {}, "halves": {}}
    for part, file in (("train", "train"), ("valid", "val"), ("test", "test")):
        papers = read_table(data, "csl/csl_title.zip", f"csl/{file}.tsv")
        known = [(title, fields[title]) for title, _ in papers if title in fields]
        abstracts = [abstract for title, abstract in papers if title in fields]
        tasks["field"][part] = [
            pair for _ in range(2) for pair in same_field(known, abstracts, rng)
        ]
        tasks["halves"][part] = same_text([abstract for _, abstract in papers])
    if heads:
        ocnli = [
            read_json_pairs(data, "clue/ocnli.zip", f"ocnli/{name}.json", LABELS["ocnli"])
            for name in ("train.10k", "dev")
        ]
        tasks["ocnli"] = split(*ocnli, 1000)
    return without_leaks(tasks)


def without_leaks(tasks: dict[str, Parts]) -> dict[str, Parts]:
    """Leave out pairs with a text of a test, or in training with one of a validation part."""
    seen: set[str] = set()
    for part in ("test", "valid", "train"):
        for parts in tasks.values():
            parts[part] = [pair for pair in parts[part] if seen.isdisjoint(pair[:2])]
        seen.update(text for parts in tasks.values() for *pair, _ in parts[part] for text in pair)
    return tasks


# --- what shared characters tell


def ngrams(text: str, n: int) -> set[str]:
    return {text[i : i + n] for i in range(len(text) - n + 1)}


def overlap(first: str, second: str) -> list[float]:
    """How many characters and bigrams two texts share, of both, of each; how lengths differ."""
    found = [abs(len(first) - len(second)) / max(len(first), len(second))]
    for n in (1, 2):
        a, b = ngrams(first.lower(), n), ngrams(second.lower(), n)
        found += [len(a & b) / max(1, len(each)) for each in (a | b, a, b)]
    return found


def overlap_accuracy(train: Sequence[Pair], test: Sequence[Pair]) -> float:
    """Accuracy of a softmax regression on `overlap`, by Newton's method for each label."""
    x, z = (np.array([overlap(a, b) for a, b, _ in pairs]) for pairs in (train, test))
    mean, deviation = x.mean(0), x.std(0) + 1e-6
    x, z = (np.c_[(each - mean) / deviation, np.ones(len(each))] for each in (x, z))
    labels, truth = (np.array([label for *_, label in pairs]) for pairs in (train, test))
    scores = []
    for label in range(labels.max() + 1):
        weights, small = np.zeros(x.shape[1]), 1e-2 * np.eye(x.shape[1])
        for _ in range(15):
            p = 1 / (1 + np.exp(-x @ weights))
            slope = x.T @ ((labels == label) - p) - small @ weights
            weights += np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x + small, slope)
        scores.append(z @ weights)
    return float(np.mean(np.argmax(scores, axis=0) == truth))


# --- words


def load_jieba() -> Callable[[str], list[str]]:
    """A function that cuts a text into words. It says nothing on the way."""
    with warnings.catch_warnings():
        # Of pkg_resources, and of a file that it leaves open.
        warnings.simplefilter("ignore")
        import jieba

        jieba.setLogLevel("ERROR")
        jieba.initialize()
    return lambda text: jieba.lcut(text, HMM=False)


def frequent_words(texts: Sequence[str], cut: Callable, base: Tokenizer, n: int) -> list[str]:
    """The n most frequent words that the vocabulary lacks, but not their pieces."""
    counts = Counter(word for text in texts for word in cut(text.lower()))
    known = base.token_dict
    return [
        word
        for word, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        if count >= MIN_COUNT
        and word not in known
        and len(word) > 1
        and all(token in known for token in base.tokenize(word))
    ][:n]


def word_tokenizer(base: Tokenizer, words: Sequence[str], cut: Callable) -> tuple[Tokenizer, dict]:
    """A tokenizer that knows words as well, and what the model has to be told of them."""
    size = base._vocab_size
    token_dict = dict(base.token_dict) | {word: size + i for i, word in enumerate(words)}
    tokenizer = Tokenizer(token_dict, do_lower_case=True, pre_tokenize=cut)
    pieces = [base.tokens_to_ids(base.tokenize(word)[1:-1]) for word in words]
    return tokenizer, {"keep_tokens": list(range(size)), "compound_tokens": pieces or None}


def matches(tokens: Sequence[str], other: Sequence[str]) -> list[int]:
    """How much of each token the other text has: 1 nothing, 2 some characters, 3 all; 0 special."""
    characters = set("".join(other[1:-1]))
    found = [2 + (n == len(t)) if (n := len(characters & set(t))) else 1 for t in tokens[1:-1]]
    return [0, *found, 0]


def encode(pair: Sequence, task: int, tokenizer: Tokenizer, maxlen: int, label: int = 0) -> tuple:
    """Token ids, segment ids, matches, task and label of a pair."""
    first, second = (tokenizer.tokenize(text) for text in pair)
    token_ids, segment_ids = tokenizer.encode(first, second, maxlen=maxlen)  # cuts both, too
    match_ids = matches(first, second) + matches(second, first)[1:]
    return token_ids, segment_ids, match_ids, task, label


def inputs_of(pad: Callable, samples: Sequence[tuple]) -> list[np.ndarray]:
    *sequences, task, _ = zip(*samples, strict=True)
    return [*map(pad, sequences), np.array(task, "int32")]


def make_batch(pad: Callable, samples: Sequence[tuple]) -> tuple:
    return inputs_of(pad, samples), np.array([label for *_, label in samples], "int32")


# --- model


class PairRoFormer(RoFormer):
    """RoFormer that is told which tokens the other text has, besides their segments."""

    foreign_variables = ()  # BERT is a start, too, without its positions

    def get_inputs(self) -> list:
        self.matches = self.apply_input("Input-Match")
        return [*super().get_inputs(), self.matches]

    def apply_segment_embedding(self, segment_ids: keras.KerasTensor) -> keras.KerasTensor:
        # At first this adds nothing to what the checkpoint has learnt.
        options = {"input_dim": 4, "output_dim": self.embedding_size, "name": "Embedding-Match"}
        match = self.apply(self.matches, Embedding, embeddings_initializer="zeros", **options)
        segment = super().apply_segment_embedding(segment_ids)
        return self.apply([segment, match], keras.layers.Add, name="Embedding-Segment-Match")


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
    axis.set(ylabel="%", ylim=(30, 100))
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
