"""Pairs of texts for `task_conditional_matching.py`: six tasks, and one with three labels.

In `titles` and `field` every text stands in as many right as wrong pairs, so that no text alone
tells. In `halves` the wrong half is the one that shares most with the first. (That a title belongs
to an abstract is no task: shared characters tell it in 96 of 100 cases.) No text of a test is
trained on, whatever the task.
"""

import random
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from common import read_json_lines, read_lines

TASKS = ("lcqmc", "afqmc", "xiaobu", "titles", "field", "halves")
LABELS = {"ocnli": ("entailment", "neutral", "contradiction")}
SENTENCE_END = r"[。．；;！？!?]|\.(?!\d)"

Pair = tuple[str, str, int]
Parts = dict[str, list[Pair]]
"""Pairs by part: train, valid, test."""


# --- pairs


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
