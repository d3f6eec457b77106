"""Spans and the tags that mark them; the evaluation of `seqeval` is in tests/metrics."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert4keras.data.tags import SCHEMES, tag_names
from bert4keras.snippets import spans_to_tags, tags_to_spans

TAGS = "B-PER I-PER B-PER O B-LOC I-LOC I-PER O I-ORG".split()  # noqa: SIM905


def test_spans_of_tags():
    strict = [(0, 2, "PER"), (2, 3, "PER"), (4, 6, "LOC")]
    assert tags_to_spans(TAGS, strict=True) == strict
    assert tags_to_spans(TAGS) == [*strict, (6, 7, "PER"), (8, 9, "ORG")]
    assert tags_to_spans([]) == [] and tags_to_spans(["O", "I-PER", "O"], strict=True) == []
    # Words of a segmentation have no kind: 今天 | 好 | 天气预报
    assert tags_to_spans("BESBMME", "BMES") == [(0, 2, ""), (2, 3, ""), (3, 7, "")]
    assert tags_to_spans(["B-PER", "I-PER", "O", "S-LOC"], "BIOES", strict=True) == [(3, 4, "LOC")]


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 1), st.sampled_from(["PER", "LOC"]))),
    st.sampled_from(list(SCHEMES)),
    st.booleans(),
)
def test_tags_of_spans_and_back(parts, scheme, strict):
    spans, end = [], 0
    for length, gap, kind in parts:
        spans.append((end + gap, end + gap + length, kind))
        end += gap + length
    tags = spans_to_tags(spans, end + 1, scheme)
    assert len(tags) == end + 1 and set(tags) <= set(tag_names(["PER", "LOC"], scheme))
    assert tags_to_spans(tags, scheme, strict) == spans


def test_tags_that_are_none():
    with pytest.raises(ValueError, match=r"the tag at 1 is 'S-PER', which is not one of BIO"):
        tags_to_spans(["O", "S-PER"])
    with pytest.raises(ValueError, match="scheme is 'IOB': give one of BIO, BIOES"):
        tags_to_spans([], "IOB")
    for span in ((0, 0, "X"), (-1, 2, "X"), (3, 5, "X")):
        with pytest.raises(ValueError, match="is not within a sequence of 4"):
            spans_to_tags([span], 4)
    with pytest.raises(ValueError, match=r"\(1, 3, 'Y'\) overlaps"):
        spans_to_tags([(0, 2, "X"), (1, 3, "Y")], 4)
