"""Sentence vectors whose cosine says how much two sentences mean the same (SimCSE, CoSENT).

    python experiments/task_sentence_embeddings.py --data DATA --quick --loss cosent
    python experiments/task_sentence_embeddings.py --data DATA --quick --loss simcse
    python experiments/task_sentence_embeddings.py predict 我想退款 怎么退钱 今天下雨 --output RUN

The vector of a sentence is the mean of its tokens' vectors. Two ways to train it:

    simcse   without labels: each sentence goes through the model twice, dropout makes two vectors
             of it, and they shall be nearer to each other than to all others of the batch (Gao et
             al., 2021, https://arxiv.org/abs/2104.08821; https://kexue.fm/archives/8348)
    cosent   with scores of pairs: the cosine of a pair shall be larger than that of any pair with a
             lower score (https://kexue.fm/archives/8847)

Scored by Spearman's rank correlation of cosines and scores. `start` is that of the checkpoint as it
is, `overlap` that of the characters and bigrams the sentences share.

Data: `sts_b_zh/sts_b_zh.zip`, `sts-b-{train,dev,test}.txt`, two sentences and a score from 0 to 5.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
from classification import read_labelled
from common import Batches, Size, arguments, fit, load_best, optimizer, outputs, remember, report
from matching_data import overlap

from bert4keras.layers import GlobalAveragePooling1D
from bert4keras.models import Model, build_transformer_model
from bert4keras.training import CoSENT, SimCSE

QUICK = Size(epochs=8, batch_size=32, learning_rate=3e-4, maxlen=64)
FULL = Size(epochs=5, batch_size=32, learning_rate=2e-5, maxlen=64)
# With the dropout of the model.
LOSSES = {"simcse": (SimCSE(temperature=0.05), 0.3), "cosent": (CoSENT(scale=20.0), 0.1)}


def encode(args: argparse.Namespace, texts: Sequence[str]) -> list[tuple[list, list]]:
    return [args.tokenizer.encode(text, maxlen=args.size.maxlen) for text in texts]


def make_pairs(pad: Callable, samples: list) -> tuple:
    """Rows 2i and 2i + 1 are a pair, whose score stands at both of them."""
    sentences = [sentence for pair in samples for sentence in pair[1:3]]
    inputs = [pad(column) for column in zip(*sentences, strict=True)]
    return inputs, np.repeat([pair[3] for pair in samples], 2).astype("float32")


def train_samples(args: argparse.Namespace, rows: Sequence) -> list[tuple]:
    """Pairs to train on: (what is measured, sentence, sentence, score)."""
    if args.loss == "simcse":
        texts = dict.fromkeys(text for pair, _ in rows for text in pair)
        return [(each[0], each, each, 0) for each in encode(args, list(texts))]
    pairs = [(*encode(args, pair), score) for pair, score in rows]
    return [(max(a[0], b[0], key=len), a, b, score) for a, b, score in pairs]


def build(args: argparse.Namespace, loss: str, load: bool = True) -> Model:
    encoder = build_transformer_model(
        args.files.config,
        args.files.checkpoint if load else None,
        dropout_rate=LOSSES[loss][1],
    )
    return Model(encoder.inputs, GlobalAveragePooling1D(name="Mean")(encoder.output))


def vectors(args: argparse.Namespace, model: Model, texts: Sequence[str]) -> np.ndarray:
    """The vectors of texts, of length 1."""
    found = np.array([vector for (vector,) in outputs(model, encode(args, texts))])
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def ranks(values: Sequence[float]) -> np.ndarray:
    """The rank of each value; equal ones share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def spearman(found: Sequence[float], wanted: Sequence[float]) -> float:
    """Rank correlation, 0 if either is the same everywhere."""
    a, b = (each - each.mean() for each in (ranks(found), ranks(wanted)))
    return round(float(a @ b / max(np.sqrt((a @ a) * (b @ b)), 1e-9)), 4)


def score(args: argparse.Namespace, model: Model, rows: Sequence) -> float:
    """The correlation of cosines and scores."""
    pairs, wanted = zip(*rows, strict=True)
    first, second = (vectors(args, model, side) for side in zip(*pairs, strict=True))
    return spearman((first * second).sum(axis=1), wanted)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--loss", choices=LOSSES, default="cosent", help="cosent by default")


def main(argv: Sequence[str] | None = None) -> dict | None:
    args = arguments(__file__, __doc__, QUICK, FULL, argv, add_options)
    if args.texts is not None:
        model = build(args, args.saved["loss"], load=False)
        load_best(args, model)
        cosines = np.matmul(found := vectors(args, model, args.texts), found.T)
        for i, j in combinations(range(len(args.texts)), 2):
            row = {"texts": [args.texts[i], args.texts[j]], "cosine": float(cosines[i, j].round(4))}
            print(json.dumps(row, ensure_ascii=False))
        return None

    train, valid, test = (
        read_labelled(args.data, "sts_b_zh/sts_b_zh.zip", f"sts_b_zh/sts-b-{part}.txt")
        for part in ("train", "dev", "test")
    )
    remember(args, loss=args.loss)
    model = build(args, args.loss)
    start = score(args, model, test)
    batches = Batches(train_samples(args, train), args.batch_size, make_pairs)
    model.compile(optimizer=optimizer(args, batches), loss=LOSSES[args.loss][0])
    fit(args, model, batches, lambda: {"spearman": score(args, model, valid)})
    # Jaccard similarity of characters, and of bigrams.
    shared = [np.add(*np.take(overlap(*pair), [1, 4])) for pair, _ in test]
    scores = {
        "spearman": score(args, model, test),
        "start": start,
        "overlap": spearman(shared, [wanted for _, wanted in test]),
    }
    return report(args, "sts_b_zh, test", scores)


if __name__ == "__main__":
    main()
