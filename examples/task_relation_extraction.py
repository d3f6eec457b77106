"""Relations in sentences: who stands in which relation to what (LIC 2020, CasRel).

    python examples/task_relation_extraction.py --data DATA --quick
    python examples/task_relation_extraction.py predict 《渴望》由王朔编剧，李雪健主演

Half pointers, half tags (Wei et al., 2019, https://arxiv.org/abs/1909.03227;
https://kexue.fm/archives/7161): two sigmoids at each position mark where subjects start and end.
The vectors of a subject's ends condition a layer normalisation over the sentence, and two sigmoids
for each relation mark where its objects start and end.

Objects may have several slots: `饰演` has the role as `@value` and the film as `inWork`. Every slot
is a relation of its own (`饰演_@value`, `饰演_inWork`) for the model; afterwards each `@value`
takes the nearest value of every other slot. A relation is right if all of its slots are.

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
    micro_f1,
    optimizer,
    outputs,
    read_json_lines,
    remember,
    report,
    text_span,
    token_span,
)

from bert4keras.layers import GatherPositions, LayerNormalization
from bert4keras.models import Model, build_transformer_model
from bert4keras.tokenizers import Tokenizer

QUICK = Size(epochs=20, batch_size=16, learning_rate=5e-4, maxlen=128)
FULL = Size(epochs=20, batch_size=64, learning_rate=5e-5, maxlen=128)
ARCHIVE = "relation_duie/duie2.zip"
THRESHOLD = 0.5

Span = tuple[int, int]
Relation = tuple[str, str, frozenset]
"""Subject, predicate, (slot, value) of its object; in lower case."""


# --- data


def read_labels(schema: Sequence[dict]) -> list[str]:
    """A label for each slot of each predicate."""
    return sorted({f"{row['predicate']}_{slot}" for row in schema for slot in row["object_type"]})


def relations(row: dict) -> set[Relation]:
    """The relations of a line of the data, or of one that was predicted."""
    return {
        (
            spo["subject"].lower(),
            spo["predicate"],
            frozenset((slot, value.lower()) for slot, value in spo["object"].items()),
        )
        for spo in row["spo_list"]
    }


def encode(row: dict, labels: list[str], tokenizer: Tokenizer, maxlen: int) -> tuple:
    """Token ids, and for each subject (start, end) its objects [(label, start, end), …]."""
    text = row["text"]
    tokens = tokenizer.tokenize(text, maxlen=maxlen)
    mapping = tokenizer.rematch(text, tokens)

    def span(value: str) -> Span | None:
        at = text.lower().find(value.lower())
        return token_span(mapping, at, at + len(value)) if at >= 0 and value else None

    subjects: dict[Span, list] = {}
    for spo in row["spo_list"]:
        subject = span(spo["subject"])
        for slot, value in spo["object"].items():
            place = span(value)
            if subject and place:
                label = labels.index(f"{spo['predicate']}_{slot}")
                subjects.setdefault(subject, []).append((label, *place))
    return tokenizer.tokens_to_ids(tokens), subjects


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


def join_slots(found: Sequence[tuple[str, Span, str]]) -> list[tuple[str, dict[str, str]]]:
    """Put objects together from their slots.

    Args:
        found: label, place and text of each value that was found for one subject.

    Returns:
        Predicates and objects: one for each `@value`, with the nearest value of the other slots.
    """
    slots: dict[str, dict[str, list]] = {}
    for label, place, text in found:
        predicate, slot = label.rsplit("_", 1)
        slots.setdefault(predicate, {}).setdefault(slot, []).append((place, text))
    joined = []
    for predicate, values in slots.items():
        others = {slot: values[slot] for slot in values if slot != "@value"}
        for (start, _), text in values.get("@value", []):
            object_ = {"@value": text}
            for slot, candidates in others.items():
                object_[slot] = min(candidates, key=lambda each: abs(each[0][0] - start))[1]
            joined.append((predicate, object_))
    return joined


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
    found: list[list] = [[] for _ in texts]
    object_scores = outputs(object_model, pairs, vectors_and_ends)
    for i, (_, subject), (scores,) in zip(sources, pairs, object_scores, strict=True):
        text, mapping, length = texts[i], mappings[i], len(tokens[i]) - 1
        values = []
        for label, name in enumerate(labels):
            for start, end in spans(scores[1:length, 2 * label], scores[1:length, 2 * label + 1]):
                place = (start + 1, end + 1)
                values.append((name, place, text_span(text, mapping, *place)))
        subject = text_span(text, mapping, *subject)
        found[i] += [
            {"subject": subject, "predicate": predicate, "object": object_}
            for predicate, object_ in join_slots(values)
        ]
    return [{"text": t, "spo_list": spos} for t, spos in zip(texts, found, strict=True)]


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

    labels = read_labels(read_json_lines(args.data, ARCHIVE, "duie2/duie_schema.json"))
    remember(args, labels=labels)
    train, valid, test = (
        read_json_lines(args.data, ARCHIVE, f"duie2/duie_{part}.json")
        for part in ("train", "dev", "test")
    )
    encoded = [encode(row, labels, tokenizer, maxlen) for row in train]
    batches = Batches([each for each in encoded if each[1]], args.batch_size, maker(len(labels)))
    model, *halves = build(args, len(labels))
    # A sum over the labels, of which most are absent anywhere, not a mean.
    model.compile(
        optimizer=optimizer(args, batches),
        loss=["binary_crossentropy", "binary_crossentropy"],
        loss_weights=[1, len(labels)],
    )

    def evaluate(rows: list[dict]) -> dict[str, float]:
        found = extract([row["text"] for row in rows], halves, labels, tokenizer, maxlen)
        return micro_f1([relations(row) for row in found], [relations(row) for row in rows])

    fit(args, model, batches, lambda: evaluate(valid))
    return report(args, "relation_duie, test", evaluate(test))


if __name__ == "__main__":
    main()
