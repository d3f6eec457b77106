"""Scores, against numbers of the packages that people report them with.

`seqeval` 1.2.2, `rouge` 1.0.1, `nltk` 3.10.4 and `sacrebleu` 2.6.0 computed the numbers once; the
packages are not needed here.
"""

import pytest

from bert4keras.metrics import (
    corpus_bleu,
    precision_recall_f1,
    rouge,
    scores_by_kind,
    sentence_bleu,
    tagging_scores,
)


def approx(*values):
    return pytest.approx(values if len(values) > 1 else values[0], abs=1e-7)


BIO = (
    ["B-PER I-PER O I-LOC I-LOC", "O B-ORG I-LOC I-ORG O", "B-PER I-PER I-PER"],
    ["B-PER I-PER O B-LOC I-LOC", "O B-ORG I-ORG I-ORG O", "B-PER B-PER I-PER"],
)
BIOES = (
    ["B-PER I-PER E-PER S-LOC O", "B-ORG I-ORG E-ORG"],
    ["B-PER E-PER O S-LOC B-LOC", "B-ORG I-ORG E-ORG"],
)


@pytest.mark.parametrize(
    "scheme, tags, strict, scores",
    [
        ("BIO", BIO, False, (0.3333333333, 0.4, 0.3636363636)),
        ("BIO", BIO, True, (0.3333333333, 0.2, 0.25)),  # mode="strict", scheme=IOB2
        ("BIOES", BIOES, False, (0.6666666667, 0.5, 0.5714285714)),
        ("BIOES", BIOES, True, (0.6666666667, 0.6666666667, 0.6666666667)),
    ],
)
def test_entities_as_seqeval_scores_them(scheme, tags, strict, scores):
    found, right = ([row.split() for row in side] for side in tags)
    computed = tagging_scores(found, right, scheme, strict)
    assert list(computed) == ["precision", "recall", "f1"]
    assert tuple(computed.values()) == approx(*scores)


def test_sets():
    scores = precision_recall_f1([{1, 2, 3}, [1, 1]], [{1, 4}, [1]])
    assert tuple(scores.values()) == approx(1 / 2, 2 / 3, 4 / 7)
    assert set(precision_recall_f1([[]], [[]]).values()) == {0}
    found = scores_by_kind([[(0, 1, "B"), (2, 3, "A")]], [[(0, 1, "B"), (4, 5, "B")]])
    assert list(found) == ["A", "B"] and found["A"]["f1"] == 0
    assert tuple(found["B"].values()) == approx(1, 1 / 2, 2 / 3)


TEXTS = ["真好今天的天气真好", "青岛读书节今天开幕", "好"]
REFERENCES = ["今天天气真好呀真好", "青岛读书节昨天拉开帷幕", "坏天气"]


def test_rouge_as_the_package_computes_it():
    """`Rouge(exclusive=False)`, and `Rouge()` for `unique`."""
    assert tuple(rouge(TEXTS, REFERENCES).values()) == approx(0.56296296, 0.35648148, 0.48888889)
    assert tuple(rouge(TEXTS, REFERENCES, unique=True).values()) == approx(
        0.54444444, 0.33862434, 0.54444444
    )
    # Of two subsequences the package takes the one with more, or with fewer, different tokens.
    found, right = "丁甲丙丁丁丁丁丁丁丁丁乙", "丁甲甲甲丁乙乙丁"
    assert rouge([found], [right], unique=True)["rouge_l"] == approx(0.57142857)
    assert rouge([list("甲乙")], [["甲", "乙"]]) == rouge(["甲乙"], ["甲乙"])
    assert set(rouge([""], ["甲"]).values()) == set(rouge([""], [""]).values()) == {0}


def test_bleu_as_nltk_and_sacrebleu_compute_it():
    assert sentence_bleu(TEXTS, REFERENCES) == approx(0.2684156692)
    assert corpus_bleu(TEXTS, REFERENCES) == approx(0.3673984369)
    assert sentence_bleu(["甲乙"], ["甲乙"]) == approx(0.3162277660)  # no 3-grams: 0.1 each
    assert corpus_bleu(["甲乙"], ["甲乙"]) == 0
    assert sentence_bleu([""], ["甲"]) == corpus_bleu([""], ["甲"]) == 0


@pytest.mark.parametrize("score", [precision_recall_f1, rouge, corpus_bleu, sentence_bleu])
def test_a_reference_for_each_prediction(score):
    for found, right in ((["甲"], []), ([], [])):
        with pytest.raises(ValueError, match=f"{len(found)} predictions and 0 references"):
            score(found, right)


def test_a_tag_for_each_element():
    with pytest.raises(ValueError, match="text 1 has 1 predicted tags and 2 right ones"):
        tagging_scores([["O"], ["O"]], [["O"], ["O", "O"]])
