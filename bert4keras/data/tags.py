"""Spans of a sequence and the tags that mark them: BIO, BIOES, BMES, BILOU."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

Span = tuple[int, int, str]
"""Start, end and kind: `text[start:end]` is what the span covers."""


class Scheme(NamedTuple):
    """The prefixes of the tags of a span, by the place in it."""

    begin: str
    inside: str
    end: str
    single: str

    @property
    def prefixes(self) -> tuple[str, ...]:
        """The prefixes, each once."""
        return tuple(dict.fromkeys(self))


SCHEMES = {
    "BIO": Scheme("B", "I", "I", "B"),
    "BIOES": Scheme("B", "I", "E", "S"),
    "BMES": Scheme("B", "M", "E", "S"),
    "BILOU": Scheme("B", "I", "L", "U"),
}
"""Tagging schemes by name. BIO is that of Ramshaw and Marcus (1995) in which each span has a B."""
OUTSIDE = "O"


def scheme_of(name: str) -> Scheme:
    """Return a scheme by its name.

    Raises:
        ValueError: there is no such scheme.
    """
    if name not in SCHEMES:
        raise ValueError(f"scheme is {name!r}: give one of {', '.join(SCHEMES)}")
    return SCHEMES[name]


def tag_names(kinds: Iterable[str], scheme: str = "BIO") -> list[str]:
    """Return all tags of a scheme for spans of these kinds, `O` first."""
    prefixes = scheme_of(scheme).prefixes
    return [OUTSIDE, *(_tag(prefix, kind) for kind in kinds for prefix in prefixes)]


def _tag(prefix: str, kind: str) -> str:
    return f"{prefix}-{kind}" if kind else prefix


def tags_to_spans(tags: Sequence[str], scheme: str = "BIO", strict: bool = False) -> list[Span]:
    """Find the spans that the tags of a sequence mark.

    Args:
        tags: a tag for each element: `O`, or a prefix of the scheme, a hyphen and a kind, such as
            `B-PER`. A prefix alone marks a span of the kind `''`, as in word segmentation.
        scheme: `'BIO'`, `'BIOES'`, `'BMES'` or `'BILOU'`.
        strict: whether a span counts only if it begins, and ends, with the prefixes for that.
            Otherwise a span also begins where the kind changes or the tag before was `O`, and ends
            before the next one, as in the evaluation script of CoNLL-2000 and by default in
            `seqeval`.

    Returns:
        `(start, end, kind)` of each span, in order; the end is one behind the last element.

    Raises:
        ValueError: there is no such scheme, or a tag is not of it.
    """
    prefixes, spans = scheme_of(scheme), []
    start, before = 0, (OUTSIDE, "")
    for i, tag in enumerate([*tags, OUTSIDE]):
        prefix, kind = current = _parts(tag, i, scheme)
        goes_on = kind == before[1] and prefix in (prefixes.inside, prefixes.end)
        if goes_on and before[0] in (prefixes.begin, prefixes.inside):
            before = current
            continue
        if before[0] != OUTSIDE and not (strict and _is_incomplete(tags[start:i], prefixes)):
            spans.append((start, i, before[1]))
        start, before = i, current
    return spans


def _parts(tag: str, i: int, scheme: str) -> tuple[str, str]:
    prefix, _, kind = tag.partition("-")
    if prefix in SCHEMES[scheme] or tag == OUTSIDE:
        return prefix, kind
    prefixes = ", ".join(SCHEMES[scheme].prefixes)
    raise ValueError(
        f"tags_to_spans: the tag at {i} is {tag!r}, which is not one of {scheme}: expected O, or "
        f"one of {prefixes}, followed by a hyphen and a kind"
    )


def _is_incomplete(tags: Sequence[str], prefixes: Scheme) -> bool:
    """Tell whether the tags of a span lack its beginning or its end."""
    first, last = tags[0][0], tags[-1][0]
    if len(tags) == 1:
        return first != prefixes.single
    return first != prefixes.begin or last != prefixes.end


def spans_to_tags(spans: Iterable[Span], length: int, scheme: str = "BIO") -> list[str]:
    """Mark spans by tags, the inverse of `tags_to_spans`.

    Args:
        spans: `(start, end, kind)` of each span; the end is one behind the last element.
        length: number of elements of the sequence.
        scheme: see `tags_to_spans`.

    Returns:
        A tag for each element, `O` outside of spans.

    Raises:
        ValueError: there is no such scheme, a span is empty or not within the sequence, or two
            overlap, which tags cannot express.
    """
    prefixes, tags = scheme_of(scheme), [OUTSIDE] * length
    for start, end, kind in spans:
        if not 0 <= start < end <= length:
            raise ValueError(
                f"spans_to_tags: the span {(start, end, kind)} is not within a sequence of "
                f"{length}: give 0 <= start < end <= {length}"
            )
        if any(tag != OUTSIDE for tag in tags[start:end]):
            raise ValueError(
                f"spans_to_tags: the span {(start, end, kind)} overlaps with another one: tags "
                "mark one span only; a GlobalPointer finds such spans"
            )
        inner = [prefixes.inside] * (end - start - 2)
        several = [prefixes.begin, *inner, prefixes.end]
        marks = several if end - start > 1 else [prefixes.single]
        tags[start:end] = [_tag(mark, kind) for mark in marks]
    return tags
