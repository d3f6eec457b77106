"""Relations of DuIE 2.0: reading, where they stand in a text, slots of objects, scores.

Objects may have several slots: `饰演` has the role as `@value` and the film as `inWork`. Every slot
is a relation of its own (`饰演_@value`, `饰演_inWork`) for the models; afterwards each `@value`
takes the nearest value of every other slot. A relation is right if all of its slots are.
"""

from collections.abc import Sequence
from pathlib import Path

from common import micro_f1, read_json_lines, text_span, token_span

from bert4keras.tokenizers import Tokenizer

ARCHIVE = "relation_duie/duie2.zip"

Span = tuple[int, int]
"""First and last token."""
Place = tuple[Span, int, Span]
"""Where a subject stands, a label, and where an object stands."""
Relation = tuple[str, str, frozenset]
"""Subject, predicate, (slot, value) of its object; in lower case."""


def read_labels(schema: Sequence[dict]) -> list[str]:
    """A label for each slot of each predicate."""
    return sorted({f"{row['predicate']}_{slot}" for row in schema for slot in row["object_type"]})


def read_relations(data: Path) -> tuple[list[str], list[list[dict]]]:
    """The labels, and the lines of the training, validation and test data."""
    labels = read_labels(read_json_lines(data, ARCHIVE, "duie2/duie_schema.json"))
    parts = ("train", "dev", "test")
    return labels, [read_json_lines(data, ARCHIVE, f"duie2/duie_{part}.json") for part in parts]


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


def encode_places(
    row: dict, labels: list[str], tokenizer: Tokenizer, maxlen: int
) -> tuple[list[int], list[Place]]:
    """Token ids, and where the relations stand whose ends were not cut off."""
    text = row["text"]
    tokens = tokenizer.tokenize(text, maxlen=maxlen)
    mapping = tokenizer.rematch(text, tokens)

    def span(value: str) -> Span | None:
        at = text.lower().find(value.lower())
        return token_span(mapping, at, at + len(value)) if at >= 0 and value else None

    places = []
    for spo in row["spo_list"]:
        subject = span(spo["subject"])
        for slot, value in spo["object"].items():
            place = span(value)
            if subject and place:
                places.append((subject, labels.index(f"{spo['predicate']}_{slot}"), place))
    return tokenizer.tokens_to_ids(tokens), places


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


def as_row(
    text: str, mapping: Sequence[Sequence[int]], places: Sequence[Place], labels: list[str]
) -> dict:
    """What was found in a text, in the format of the data."""
    of_subject: dict[Span, list] = {}
    for subject, label, place in places:
        value = (labels[label], place, text_span(text, mapping, *place))
        of_subject.setdefault(subject, []).append(value)
    return {
        "text": text,
        "spo_list": [
            {
                "subject": text_span(text, mapping, *subject),
                "predicate": predicate,
                "object": object_,
            }
            for subject, values in of_subject.items()
            for predicate, object_ in join_slots(values)
        ],
    }


def score(rows: Sequence[dict], found: Sequence[dict]) -> dict[str, float]:
    """F1, precision and recall of what was found in the texts of rows."""
    return micro_f1([relations(row) for row in found], [relations(row) for row in rows])
