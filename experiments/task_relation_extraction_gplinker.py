"""Relations in sentences by three GlobalPointers: GPLinker.

    python experiments/task_relation_extraction_gplinker.py --data DATA --quick
    python experiments/task_relation_extraction_gplinker.py predict 《渴望》由王朔编剧，李雪健主演

Everything is scored at once (https://kexue.fm/archives/8888): for each span whether it is a subject
and whether it is an object; for each pair of tokens and each relation, whether a subject begins at
one and its object at the other, and whether they end there. A relation is where all four are above
a threshold: zero as published, or lower if that finds more on the validation part, since a model
that has seen few sentences is rarely sure of all four. Nothing of a training sample is drawn at
random, as `task_relation_extraction.py` has to draw a subject, and overlapping relations are no
special case.

`--quick` takes EfficientGlobalPointer, which has few weights for each relation, as there are few
sentences for a small model to learn them from.

Of many thousand pairs few are right: the labels are lists of those, and the loss
(`SparseMultilabelCrossentropy`) never sees the others one by one.

Data: that of `task_relation_extraction.py`, `relation_duie/duie2.zip`. Slots: see `relations.py`.
"""

import argparse
import json
from collections.abc import Callable, Sequence

import keras
import numpy as np
from common import Batches, Size, arguments, fit, load_best, optimizer, outputs, remember, report
from relations import Place, as_row, encode_places, read_relations, score

from bert4keras.layers import EfficientGlobalPointer, GlobalPointer
from bert4keras.models import Model, build_transformer_model
from bert4keras.snippets import bucket_length
from bert4keras.tokenizers import Tokenizer
from bert4keras.training import SparseMultilabelCrossentropy

QUICK = Size(epochs=6, batch_size=16, learning_rate=1e-3, maxlen=128)
FULL = Size(epochs=20, batch_size=64, learning_rate=5e-5, maxlen=128)
HEAD_SIZE = 64
MOST = 64  # subjects, objects, relations of a text; who has learnt little finds thousands
SUBJECT, OBJECT = range(2)
THRESHOLDS = (0.0, -1.0, -2.0, -3.0)  # the first of those that score best is taken


def pairs_of(places: Sequence[Place], n_labels: int) -> list[list[set[tuple[int, int]]]]:
    """The right pairs of tokens of each head of the three pointers."""
    entities, heads, tails = ([set() for _ in range(n)] for n in (2, n_labels, n_labels))
    for subject, label, place in places:
        entities[SUBJECT].add(subject)
        entities[OBJECT].add(place)
        heads[label].add((subject[0], place[0]))
        tails[label].add((subject[1], place[1]))
    return [entities, heads, tails]


def maker(n_labels: int) -> Callable:
    """Make batches; a pair (i, j) is the number i * length + j, and 0, a pair of [CLS], is none."""

    def make(pad: Callable, samples: list) -> tuple:
        token_ids = pad([ids for ids, _ in samples])
        length = token_ids.shape[1]
        of_samples = [pairs_of(places, n_labels) for _, places in samples]
        most = max(len(pairs) for sample in of_samples for heads in sample for pairs in heads)
        width = bucket_length(max(1, most))  # few shapes, whatever the number of relations
        targets = []
        for pointers in zip(*of_samples, strict=True):
            numbers = np.zeros((len(samples), len(pointers[0]), width), "int32")
            for row, heads in enumerate(pointers):
                for head, pairs in enumerate(heads):
                    numbers[row, head, : len(pairs)] = [i * length + j for i, j in sorted(pairs)]
            targets.append(numbers)
        return [token_ids, np.zeros_like(token_ids)], tuple(targets)

    return make


def build(args: argparse.Namespace, n_labels: int, load: bool = True) -> tuple[Model, Model]:
    """The model that is trained, whose scores are in rows, and the one that predicts."""
    encoder = build_transformer_model(args.files.config, args.files.checkpoint if load else None)
    # The span of an entity does not end before it starts; an object may stand before its subject.
    link = {"RoPE": False, "tril_mask": False}
    pointer = EfficientGlobalPointer if args.quick else GlobalPointer
    scores = [
        pointer(n, HEAD_SIZE, name=name, **options)(encoder.output)
        for name, n, options in (
            ("Entities", 2, {}),
            ("Heads", n_labels, link),
            ("Tails", n_labels, link),
        )
    ]
    rows = [keras.layers.Reshape((x.shape[1], -1))(x) for x in scores]
    return Model(encoder.inputs, rows), Model(encoder.inputs, scores)


def decode(scores: Sequence[np.ndarray], length: int, threshold: float = 0.0) -> list[Place]:
    """The relations whose entities, first and last tokens score above a threshold.

    Args:
        scores: those of entities, first and last tokens, each (heads, length, length).
        length: how many of the positions are tokens, [CLS] and [SEP] included.
        threshold: what all of them have to exceed.
    """
    inside = slice(1, length - 1)
    entities, heads, tails = (each[:, inside, inside] for each in scores)
    subjects, objects = (best(entities[kind], threshold) for kind in (SUBJECT, OBJECT))
    if not (len(subjects) and len(objects)):
        return []
    (first, last), (object_first, object_last) = subjects.T[..., None], objects.T
    linked = np.minimum(heads[:, first, object_first], tails[:, last, object_last])
    spans = [[(int(a) + 1, int(b) + 1) for a, b in each] for each in (subjects, objects)]
    return [(spans[0][i], int(label), spans[1][j]) for label, i, j in best(linked, threshold)]


def best(scores: np.ndarray, threshold: float) -> np.ndarray:
    """The places (n, axes) of the best scores above a threshold."""
    found = np.argwhere(scores > threshold)
    order = np.argsort(-scores[tuple(found.T)], kind="stable")[:MOST]
    return found[order]


def extract(
    texts: Sequence[str],
    model: Model,
    labels: list[str],
    tokenizer: Tokenizer,
    maxlen: int,
    thresholds: Sequence[float],
) -> list[list[dict]]:
    """The relations in texts for each threshold, in the format of the data."""
    tokens = [tokenizer.tokenize(text, maxlen=maxlen) for text in texts]
    samples = [(ids, [0] * len(ids)) for ids in map(tokenizer.tokens_to_ids, tokens)]

    def keep(i: int, scores: Sequence[np.ndarray]) -> list[list[Place]]:
        return [decode(scores, len(tokens[i]), threshold) for threshold in thresholds]

    found = outputs(model, samples, batch_size=16, keep=keep)
    places = [tokenizer.rematch(*pair) for pair in zip(texts, tokens, strict=True)]
    return [
        [as_row(*each, labels) for each in zip(texts, places, of_threshold, strict=True)]
        for of_threshold in zip(*found, strict=True)
    ]


def main(argv: Sequence[str] | None = None) -> dict | None:
    args = arguments(__file__, __doc__, QUICK, FULL, argv)
    maxlen, tokenizer = args.size.maxlen, args.tokenizer
    if args.texts is not None:
        labels = args.saved["labels"]
        model, predictor = build(args, len(labels), load=False)
        load_best(args, model)
        thresholds = [args.saved["threshold"]]
        for row in extract(args.texts, predictor, labels, tokenizer, maxlen, thresholds)[0]:
            print(json.dumps(row, ensure_ascii=False))
        return None

    labels, (train, valid, test) = read_relations(args.data)
    remember(args, labels=labels, threshold=THRESHOLDS[0])
    encoded = [encode_places(row, labels, tokenizer, maxlen) for row in train]
    batches = Batches(encoded, args.batch_size, maker(len(labels)))
    model, predictor = build(args, len(labels))
    losses = [SparseMultilabelCrossentropy(mask_zero=True) for _ in model.outputs]
    # A loss is the mean of its heads; as published, those of all pointers count alike.
    weights = [rows.shape[1] for rows in model.outputs]
    model.compile(optimizer=optimizer(args, batches), loss=losses, loss_weights=weights)

    def scores(rows: list[dict], thresholds: Sequence[float]) -> list[dict[str, float]]:
        texts = [row["text"] for row in rows]
        found = extract(texts, predictor, labels, tokenizer, maxlen, thresholds)
        pairs = zip(thresholds, found, strict=True)
        return [score(rows, each) | {"threshold": threshold} for threshold, each in pairs]

    def best_of_valid() -> dict[str, float]:
        return max(scores(valid, THRESHOLDS), key=lambda each: each["f1"])

    fit(args, model, batches, best_of_valid)
    threshold = best_of_valid()["threshold"]
    remember(args, labels=labels, threshold=threshold)
    return report(args, "relation_duie, test", *scores(test, [threshold]))


if __name__ == "__main__":
    main()
