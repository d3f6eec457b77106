"""Do two texts mean the same? All characters are numbers (OPPO Xiaobu, GAIIC 2021, track 3).

    python experiments/task_anonymised_matching.py --data DATA --quick
    python experiments/task_anonymised_matching.py predict "12 7 391" "12 391 7 55"

A pretrained model is of use even so (https://kexue.fm/archives/8213): sorted by frequency, the
first number takes the vector of the most frequent character, the second that of the second, and so
on (`aligned_tokens`), and all layers above keep what they have learnt about texts.

One masked language model does the rest. The token that it predicts at `[CLS]` is `[YES]` or `[NO]`,
and that is the classification; masked tokens go on with the pretraining; pairs without a label take
part without one. Scored by AUC: how often a pair that means the same gets a higher probability than
one that does not.

Data: `oppo_xiaobu/gaiic_track3_format.zip` (`oppo_breeno_round1_data/*.tsv`): of the labelled
pairs, the last 1,000 are for the test and 1,000 before them for validation; the unlabelled ones are
trained on, too. Characters are counted in the questions of `lcqmc` and `clue/afqmc` (training).
"""

import argparse
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

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

from bert4keras.models import Model, build_transformer_model
from bert4keras.training import TokenCrossentropy

QUICK = Size(epochs=12, batch_size=32, learning_rate=5e-4, maxlen=64)
FULL = Size(epochs=30, batch_size=128, learning_rate=2e-5, maxlen=64)
ARCHIVE = "oppo_xiaobu/gaiic_track3_format.zip"
TRAIN = "oppo_breeno_round1_data/gaiic_track3_round1_train_20210228.tsv"
UNLABELLED = "oppo_breeno_round1_data/gaiic_track3_round1_testA_20210228.tsv"
HELD_OUT = 1000
MIN_COUNT = 3  # rarer numbers are [UNK]
MASKED_SHARE = 0.15

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ANSWERS = ("[NO]", "[YES]")
NO_TARGET = -1

Pair = tuple[list[str], list[str], int]
"""Two texts, as tokens, and whether they mean the same; -1 if nobody says."""


# --- data


def read_pairs(data: Path, member: str) -> list[Pair]:
    pairs = []
    for line in read_lines(data, ARCHIVE, member):
        first, second, *label = line.split("\t")
        pairs.append((first.split(), second.split(), int(label[0]) if label else NO_TARGET))
    return pairs


def count_characters(data: Path) -> Counter:
    """How often characters occur in questions that people ask."""
    lines = read_lines(data, "lcqmc/lcqmc.zip", "lcqmc/lcqmc.train.data")
    rows = read_json_lines(data, "clue/afqmc.zip", "afqmc/train.json")
    texts = [*(line.rsplit("\t", 1)[0] for line in lines)]
    texts += [row["sentence1"] + row["sentence2"] for row in rows]
    return Counter(character for text in texts for character in text.lower())


def aligned_tokens(
    counts: Mapping[str, int],
    base_counts: Mapping[str, int],
    base: Mapping[str, int],
    min_count: int = MIN_COUNT,
) -> tuple[list[str], list[int]]:
    """Find for each token of a new vocabulary the token of a known one whose vector it starts from.

    Special tokens keep theirs. Of the others, the n-th most frequent token of the new vocabulary
    takes the vector of the n-th most frequent one of the known vocabulary. `[YES]` and `[NO]`,
    which no checkpoint has, take those of 是 and 否 or, where these are missing, of `[UNK]`.

    Args:
        counts: how often the tokens of the new vocabulary occur.
        base_counts: how often those of the known one do, in texts of a similar kind.
        base: token → id of the known vocabulary.
        min_count: rarer tokens are left out, and so are those that nothing is left for.

    Returns:
        The tokens of the new vocabulary, in the order of their ids; `keep_tokens`, the ids that
        they have in the known one, for `build_transformer_model`.
    """

    def by_frequency(table: Mapping[str, int]) -> list[str]:
        return sorted(table, key=lambda token: (-table[token], token))

    tokens = [*SPECIAL, *ANSWERS]
    keep = [base[token] for token in SPECIAL]
    keep += [base.get(character, base["[UNK]"]) for character in "否是"]
    new = [token for token in by_frequency(counts) if counts[token] >= min_count]
    known = [base[token] for token in by_frequency(base_counts) if token in base]
    n = min(len(new), len(known))
    return tokens + new[:n], keep + known[:n]


class Encoder:
    """From pairs of texts to token ids, with masks and targets.

    Args:
        tokens: the vocabulary.
        maxlen: tokens of a pair at most; the texts are cut at their ends.
        seed: of the masks.
    """

    def __init__(self, tokens: Sequence[str], maxlen: int, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.ids = {token: i for i, token in enumerate(tokens)}
        self.pad, self.unknown, self.start, self.end, self.mask = range(len(SPECIAL))
        self.n_special = len(SPECIAL) + len(ANSWERS)
        self.answers = [self.ids[token] for token in ANSWERS]
        self.room = (maxlen - 3) // 2

    def encode(self, pair: Pair) -> tuple[list[int], list[int], int]:
        """Token ids and segment ids of a pair, and its label."""
        first, second = (
            [self.ids.get(token, self.unknown) for token in text[: self.room]] for text in pair[:2]
        )
        token_ids = [self.start, *first, self.end, *second, self.end]
        return token_ids, [0] * (len(first) + 2) + [1] * (len(second) + 1), pair[2]

    def train(self, pad: Callable, pairs: Sequence[Pair]) -> tuple:
        """A batch with masked tokens, each pair in one of its two orders."""
        turned = [
            (second, first, label) if self.rng.random() < 0.5 else (first, second, label)
            for first, second, label in pairs
        ]
        token_ids, segment_ids, labels = zip(*map(self.encode, turned), strict=True)
        token_ids, segment_ids = pad(token_ids), pad(segment_ids)
        chosen = (self.rng.random(token_ids.shape) < MASKED_SHARE) & (token_ids >= self.n_special)
        targets = np.where(chosen, token_ids, NO_TARGET)
        labels = np.array(labels)
        targets[:, 0] = np.where(labels < 0, NO_TARGET, np.take(self.answers, labels))
        kind = self.rng.random(token_ids.shape)
        others = self.rng.integers(self.n_special, len(self.ids), token_ids.shape)
        shown = np.where(chosen & (kind < 0.8), self.mask, token_ids)
        shown = np.where(chosen & (kind >= 0.9), others, shown)
        return [shown, segment_ids], targets


# --- model


def build(args: argparse.Namespace, keep_tokens: list[int], load: bool = True) -> Model:
    return build_transformer_model(
        args.files.config,
        args.files.checkpoint if load else None,
        with_mlm=True,
        keep_tokens=keep_tokens,
    )


def similarity(model: Model, encoder: Encoder, pairs: Sequence[Pair]) -> np.ndarray:
    """The probability of [YES] at [CLS], compared with that of [NO] alone; (pairs,)."""
    no, yes = encoder.answers
    samples = [encoder.encode(pair)[:2] for pair in pairs]
    scores = np.array([each[0] for (each,) in outputs(model, samples)])
    return scores[:, yes] / (scores[:, no] + scores[:, yes])


# --- scores


def roc_curve(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shares of wrong and of right pairs at or above each threshold; both begin with 0."""
    thresholds = np.unique(scores)[::-1]
    counts = [
        np.searchsorted(np.sort(-scores[labels == label]), -thresholds, side="right")
        for label in (0, 1)
    ]
    wrong, right = (np.concatenate([[0.0], count / max(1, count[-1])]) for count in counts)
    return wrong, right


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """The area below the ROC curve."""
    return float(np.trapezoid(*roc_curve(scores, labels)[::-1]))


def draw_roc(path: Path, scores: np.ndarray, labels: np.ndarray) -> None:
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(4, 4))
    axis.plot(*roc_curve(scores, labels), label=f"AUC {auc(scores, labels):.3f}")
    axis.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    axis.set(xlabel="share of wrong pairs accepted", ylabel="share of right pairs accepted")
    axis.legend()
    save_figure(figure, path)


# --- the experiment


def main(argv: Sequence[str] | None = None) -> dict | None:
    args = arguments(__file__, __doc__, QUICK, FULL, argv)
    if args.texts is not None:
        if len(args.texts) != 2:
            raise SystemExit(f"predict takes two texts of numbers, not {len(args.texts)}")
        encoder = Encoder(args.saved["tokens"], args.size.maxlen)
        model = build(args, args.saved["keep_tokens"], load=False)
        load_best(args, model)
        first, second = (text.split() for text in args.texts)
        (probability,) = similarity(model, encoder, [(first, second, NO_TARGET)])
        print(json.dumps({"texts": args.texts, "same": round(float(probability), 4)}))
        return None

    labelled, unlabelled = (read_pairs(args.data, member) for member in (TRAIN, UNLABELLED))
    n = min(HELD_OUT, len(labelled) // 4)
    train, valid, test = labelled[: -2 * n], labelled[-2 * n : -n], labelled[-n:]
    counts = Counter(token for pair in train + unlabelled for text in pair[:2] for token in text)
    base = args.tokenizer.token_dict
    tokens, keep_tokens = aligned_tokens(counts, count_characters(args.data), base)
    remember(args, tokens=tokens, keep_tokens=keep_tokens)
    encoder = Encoder(tokens, args.size.maxlen, args.seed)
    batches = Batches(train + unlabelled, args.batch_size, encoder.train)
    model = build(args, keep_tokens)
    model.compile(optimizer=optimizer(args, batches), loss=TokenCrossentropy(ignore=NO_TARGET))

    def evaluate(pairs: list[Pair]) -> tuple[np.ndarray, np.ndarray]:
        return similarity(model, encoder, pairs), np.array([label for *_, label in pairs])

    fit(args, model, batches, lambda: {"auc": round(auc(*evaluate(valid)), 4)})
    found = evaluate(test)
    draw_roc(args.output / "roc.png", *found)
    return report(
        args,
        "oppo_xiaobu (anonymised), last 1,000 labelled pairs",
        {
            "auc": round(auc(*found), 4),
            "accuracy": round(float(np.mean((found[0] > 0.5) == found[1])), 4),
        },
    )


if __name__ == "__main__":
    main()
