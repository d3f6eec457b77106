"""Relations in sentences by three GlobalPointers: GPLinker.

    python examples/task_relation_extraction_gplinker.py --data DATA --quick
    python examples/task_relation_extraction_gplinker.py predict 《渴望》由王朔编剧，李雪健主演

Everything is scored at once (https://kexue.fm/archives/8888): for each span whether it is a subject
and whether it is an object; for each pair of tokens and each relation, whether a subject begins at
one and its object at the other, and whether they end there. A relation is where all four are above
zero. Nothing of a training sample is drawn at random, as `task_relation_extraction.py` has to draw
a subject, and overlapping relations are no special case.

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

QUICK = Size(epochs=8, batch_size=16, learning_rate=1e-3, maxlen=128)
FULL = Size(epochs=20, batch_size=64, learning_rate=5e-5, maxlen=128)
HEAD_SIZE = 64
MOST_SPANS = 64  # subjects, and objects, of a text; a model that has learnt little finds thousands
SUBJECT, OBJECT = range(2)


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


def decode(scores: Sequence[np.ndarray], length: int) -> list[Place]:
    """The relations whose entities, first and last tokens score above zero.

    Args:
        scores: those of entities, first and last tokens, each (heads, length, length).
        length: how many of the positions are tokens, [CLS] and [SEP] included.
    """
    inside = slice(1, length - 1)
    entities, heads, tails = (each[:, inside, inside] for each in scores)
    subjects, objects = (best_spans(entities[kind]) for kind in (SUBJECT, OBJECT))
    if not (len(subjects) and len(objects)):
        return []
    (first, last), (object_first, object_last) = subjects.T[..., None], objects.T
    linked = (heads[:, first, object_first] > 0) & (tails[:, last, object_last] > 0)
    spans = [[(int(a) + 1, int(b) + 1) for a, b in each] for each in (subjects, objects)]
    return [(spans[0][i], int(label), spans[1][j]) for label, i, j in np.argwhere(linked)]


def best_spans(scores: np.ndarray) -> np.ndarray:
    """The best places (n, 2) of scores above zero."""
    found = np.argwhere(scores > 0)
    order = np.argsort(-scores[tuple(found.T)], kind="stable")[:MOST_SPANS]
    return found[order]


def extract(
    texts: Sequence[str], model: Model, labels: list[str], tokenizer: Tokenizer, maxlen: int
) -> list[dict]:
    """The relations in texts, in the format of the data."""
    tokens = [tokenizer.tokenize(text, maxlen=maxlen) for text in texts]
    samples = [(ids, [0] * len(ids)) for ids in map(tokenizer.tokens_to_ids, tokens)]
    found = outputs(
        model, samples, batch_size=16, keep=lambda i, scores: decode(scores, len(tokens[i]))
    )
    return [
        as_row(text, tokenizer.rematch(text, each), places, labels)
        for text, each, places in zip(texts, tokens, found, strict=True)
    ]


def main(argv: Sequence[str] | None = None) -> dict | None:
    args = arguments(__file__, __doc__, QUICK, FULL, argv)
    maxlen, tokenizer = args.size.maxlen, args.tokenizer
    if args.texts is not None:
        labels = args.saved["labels"]
        model, predictor = build(args, len(labels), load=False)
        load_best(args, model)
        for row in extract(args.texts, predictor, labels, tokenizer, maxlen):
            print(json.dumps(row, ensure_ascii=False))
        return None

    labels, (train, valid, test) = read_relations(args.data)
    remember(args, labels=labels)
    encoded = [encode_places(row, labels, tokenizer, maxlen) for row in train]
    batches = Batches(encoded, args.batch_size, maker(len(labels)))
    model, predictor = build(args, len(labels))
    losses = [SparseMultilabelCrossentropy(mask_zero=True) for _ in model.outputs]
    model.compile(optimizer=optimizer(args, batches), loss=losses)

    def search(texts: list[str]) -> list[dict]:
        return extract(texts, predictor, labels, tokenizer, maxlen)

    fit(args, model, batches, lambda: score(valid, search))
    return report(args, "relation_duie, test", score(test, search))


if __name__ == "__main__":
    main()
