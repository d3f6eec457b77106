"""Relations in sentences: who stands in which relation to what (LIC 2020, CasRel).

    python experiments/task_relation_extraction.py --data DATA --quick
    python experiments/task_relation_extraction.py predict 《渴望》由王朔编剧，李雪健主演

Half pointers, half tags (Wei et al., 2019, https://arxiv.org/abs/1909.03227;
https://kexue.fm/archives/7161): two sigmoids at each position mark where subjects start and end.
The vectors of a subject's ends condition a layer normalisation over the sentence, and two sigmoids
for each relation mark where its objects start and end.

Objects that have several slots, and what counts as right: see `relations.py`.

Data: `relation_duie/duie2.zip` (`duie2/duie_{train,dev,test}.json`, `duie_schema.json`).
"""

import argparse
import json
import random
from collections.abc import Callable, Sequence

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
    remember,
    report,
)
from relations import Place, Span, as_row, encode_places, read_relations, score

from bert4keras.layers import GatherPositions, LayerNormalization
from bert4keras.models import Model, build_transformer_model
from bert4keras.tokenizers import Tokenizer

QUICK = Size(epochs=8, batch_size=16, learning_rate=5e-4, maxlen=128)
FULL = Size(epochs=20, batch_size=64, learning_rate=5e-5, maxlen=128)
THRESHOLD = 0.5

# --- data


def encode(row: dict, labels: list[str], tokenizer: Tokenizer, maxlen: int) -> tuple:
    """Token ids, and for each subject (start, end) its objects [(label, start, end), …]."""
    token_ids, places = encode_places(row, labels, tokenizer, maxlen)
    subjects: dict[Span, list] = {}
    for subject, label, place in places:
        subjects.setdefault(subject, []).append((label, *place))
    return token_ids, subjects


def maker(n_labels: int) -> Callable:
    """Make batches; of each sentence one subject is drawn anew every time."""

    def make(pad: Callable, samples: list) -> tuple:
        token_ids = pad([sample[0] for sample in samples])
        ends = np.zeros((*token_ids.shape, 2), "float32")
        objects = np.zeros((*token_ids.shape, n_labels, 2), "float32")
        chosen = np.zeros((len(samples), 2), "int32")
        for row, (_, subjects) in enumerate(samples):
            for start, end in subjects:
                ends[row, start, 0] = ends[row, end, 1] = 1
            chosen[row] = random.choice(list(subjects))
            for label, start, end in subjects[tuple(chosen[row])]:
                objects[row, start, label, 0] = objects[row, end, label, 1] = 1
        objects = objects.reshape(*token_ids.shape, 2 * n_labels)
        return [token_ids, np.zeros_like(token_ids), chosen], (ends, objects)

    return make


# --- model


def build(args: argparse.Namespace, n_labels: int, load: bool = True) -> tuple[Model, Model, Model]:
    """Build the model that is trained, and its halves: sentence → subjects, subject → objects.

    With random vectors a sigmoid of 1/2 at each of a thousand places, of which one or two are
    right, first teaches the model to say no everywhere, and some runs stayed there. A bias that
    says no to begin with spares it that.
    """
    encoder = build_transformer_model(args.files.config, args.files.checkpoint if load else None)
    size = encoder.output.shape[-1]

    def sigmoids(units: int, share: float, name: str) -> keras.layers.Layer:
        bias = keras.initializers.Constant(np.log(share / (1 - share)))
        return keras.layers.Dense(units, "sigmoid", bias_initializer=bias, name=name)

    subjects = sigmoids(2, 0.02, "Subjects")(encoder.output)
    gather = GatherPositions(name="Subject-Ends")
    flatten = keras.layers.Reshape((2 * size,), name="Subject")
    normalize = LayerNormalization(conditional=True, name="Subject-Norm")
    classify = sigmoids(2 * n_labels, 0.0005, "Objects")

    def objects(vectors: keras.KerasTensor, ends: keras.KerasTensor) -> keras.KerasTensor:
        return classify(normalize([vectors, flatten(gather([vectors, ends]))]))

    ends = keras.Input((2,), dtype="int32", name="Subject-Token")
    vectors = keras.Input((None, size), name="Vectors")
    model = Model([*encoder.inputs, ends], [subjects, objects(encoder.output, ends)])
    subject_model = Model(encoder.inputs, [encoder.output, subjects])
    object_model = Model([vectors, ends], objects(vectors, ends))
    return model, subject_model, object_model


# --- decoding


def spans(starts: np.ndarray, ends: np.ndarray) -> list[Span]:
    """Each start above the threshold, to the nearest end above it that does not come before."""
    found = []
    (last,) = np.nonzero(ends > THRESHOLD)
    for start in np.nonzero(starts > THRESHOLD)[0]:
        if behind := last[last >= start].tolist():
            found.append((int(start), behind[0]))
    return found


def vectors_and_ends(pad: Callable, pairs: list) -> list[np.ndarray]:
    vectors, ends = zip(*pairs, strict=True)
    return [pad(vectors), np.array(ends, "int32")]


def extract(
    texts: Sequence[str],
    models: tuple[Model, Model],
    labels: list[str],
    tokenizer: Tokenizer,
    maxlen: int,
) -> list[dict]:
    """The relations in texts, in the format of the data."""
    subject_model, object_model = models
    tokens = [tokenizer.tokenize(text, maxlen=maxlen) for text in texts]
    mappings = [tokenizer.rematch(*each) for each in zip(texts, tokens, strict=True)]
    samples = [(ids, [0] * len(ids)) for ids in map(tokenizer.tokens_to_ids, tokens)]
    pairs, sources = [], []
    for i, (vectors, ends) in enumerate(outputs(subject_model, samples)):
        length = len(tokens[i]) - 1
        for start, end in spans(ends[1:length, 0], ends[1:length, 1]):
            pairs.append((vectors[: length + 1], (start + 1, end + 1)))
            sources.append(i)
    found: list[list[Place]] = [[] for _ in texts]
    object_scores = outputs(object_model, pairs, vectors_and_ends)
    for i, (_, subject), (scores,) in zip(sources, pairs, object_scores, strict=True):
        length = len(tokens[i]) - 1
        for label in range(len(labels)):
            for start, end in spans(scores[1:length, 2 * label], scores[1:length, 2 * label + 1]):
                found[i].append((subject, label, (start + 1, end + 1)))
    rows = zip(texts, mappings, found, strict=True)
    return [as_row(text, mapping, places, labels) for text, mapping, places in rows]


# --- the experiment


def main(argv: Sequence[str] | None = None) -> dict | None:
    args = arguments(__file__, __doc__, QUICK, FULL, argv)
    maxlen, tokenizer = args.size.maxlen, args.tokenizer
    if args.texts is not None:
        labels = args.saved["labels"]
        model, *halves = build(args, len(labels), load=False)
        load_best(args, model)
        for row in extract(args.texts, halves, labels, tokenizer, maxlen):
            print(json.dumps(row, ensure_ascii=False))
        return None

    labels, (train, valid, test) = read_relations(args.data)
    remember(args, labels=labels)
    encoded = [encode(row, labels, tokenizer, maxlen) for row in train]
    batches = Batches([each for each in encoded if each[1]], args.batch_size, maker(len(labels)))
    model, *halves = build(args, len(labels))
    # A sum over the labels, of which most are absent anywhere, not a mean.
    model.compile(
        optimizer=optimizer(args, batches),
        loss=["binary_crossentropy", "binary_crossentropy"],
        loss_weights=[1, len(labels)],
    )

    def scores(rows: list[dict]) -> dict[str, float]:
        texts = [row["text"] for row in rows]
        return score(rows, extract(texts, halves, labels, tokenizer, maxlen))

    fit(args, model, batches, lambda: scores(valid))
    return report(args, "relation_duie, test", scores(test))


if __name__ == "__main__":
    main()
