"""Precision, recall and F1 of spans, and of other things of which each text has a set."""

from collections.abc import Collection, Hashable, Sequence

from bert4keras.data.tags import Span, tags_to_spans


def check_lengths(predictions: Sequence, references: Sequence) -> None:
    """Raise a `ValueError` unless there is one reference for each prediction, and at least one."""
    if len(predictions) != len(references) or not len(references):
        raise ValueError(
            f"there are {len(predictions)} predictions and {len(references)} references: give one "
            "reference for each prediction, and at least one"
        )


def precision_recall_f1(
    predictions: Sequence[Collection[Hashable]], references: Sequence[Collection[Hashable]]
) -> dict[str, float]:
    """Compute precision, recall and F1 of the members of all sets together (micro-averaged).

    Args:
        predictions: for each text what was found in it: spans `(start, end, kind)`, triples, …;
            what is repeated counts once.
        references: for each text what is right.

    Returns:
        `precision`, `recall` and `f1`, each 0 where there is nothing to divide by.

    Raises:
        ValueError: the numbers of texts differ, or there is none.
    """
    check_lengths(predictions, references)
    pairs = [(set(a), set(b)) for a, b in zip(predictions, references, strict=True)]
    right = sum(len(a & b) for a, b in pairs)
    n_found, n_wanted = (sum(len(pair[i]) for pair in pairs) for i in (0, 1))
    return {
        "precision": right / max(1, n_found),
        "recall": right / max(1, n_wanted),
        "f1": 2 * right / max(1, n_found + n_wanted),
    }


def scores_by_kind(
    predictions: Sequence[Collection[Span]], references: Sequence[Collection[Span]]
) -> dict[str, dict[str, float]]:
    """Compute precision, recall and F1 of the spans of each kind, the last element of a span.

    Args:
        predictions: for each text the spans that were found.
        references: for each text the spans that are right.

    Returns:
        The scores of `precision_recall_f1` by kind, in the order of the kinds.

    Raises:
        ValueError: the numbers of texts differ, or there is none.
    """
    sides = (predictions, references)
    kinds = sorted({span[-1] for side in sides for spans in side for span in spans})
    return {
        kind: precision_recall_f1(
            *([[span for span in spans if span[-1] == kind] for spans in side] for side in sides)
        )
        for kind in kinds
    }


def tagging_scores(
    predictions: Sequence[Sequence[str]],
    references: Sequence[Sequence[str]],
    scheme: str = "BIO",
    strict: bool = False,
) -> dict[str, float]:
    """Compute precision, recall and F1 of the entities that sequences of tags mark.

    An entity is right if both ends and the kind are, as in the evaluation script of CoNLL-2000 and
    in `seqeval`.

    Args:
        predictions: for each text the tags that were found, such as `B-PER`.
        references: for each text the tags that are right, as many.
        scheme: `'BIO'`, `'BIOES'`, `'BMES'` or `'BILOU'`.
        strict: see `bert4keras.snippets.tags_to_spans`.

    Returns:
        `precision`, `recall` and `f1`, micro-averaged.

    Raises:
        ValueError: the numbers of texts, or of tags of a text, differ, or a tag is not of the
            scheme.
    """
    check_lengths(predictions, references)
    for i, (found, wanted) in enumerate(zip(predictions, references, strict=True)):
        if len(found) != len(wanted):
            raise ValueError(
                f"tagging_scores: text {i} has {len(found)} predicted tags and {len(wanted)} right "
                "ones: give one for each element"
            )
    sides = (predictions, references)
    return precision_recall_f1(
        *([tags_to_spans(tags, scheme, strict) for tags in side] for side in sides)
    )
