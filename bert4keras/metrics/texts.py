"""ROUGE and BLEU, from counts of what n-grams two texts share.

A text is a list of tokens, or a string, whose characters are the tokens, as is usual for Chinese.
Case and spaces count: lower-case texts and remove spaces first if they shall not.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence

from bert4keras.metrics.spans import check_lengths
from bert4keras.text.strings import longest_common_subsequence

ORDER = 4
"""The longest n-grams of BLEU."""
EPSILON = 0.1
"""What method 1 of Chen and Cherry counts where no n-gram is right."""


def n_grams(text: Sequence[str], n: int) -> Counter:
    """Count the n-grams of a text."""
    return Counter(tuple(text[i : i + n]) for i in range(len(text) - n + 1))


# === ROUGE ===


def rouge(
    predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]], unique: bool = False
) -> dict[str, float]:
    """Compute ROUGE-1, ROUGE-2 and ROUGE-L: the F1 of what two texts share, averaged over texts.

    ROUGE-1 and ROUGE-2 compare tokens and pairs of tokens, ROUGE-L the longest common subsequence.
    Lin, ROUGE: A Package for Automatic Evaluation of Summaries, 2004.

    Args:
        predictions: the texts that were written, strings (of characters) or lists of tokens.
        references: for each of them the text that is right.
        unique: whether what occurs several times in a text counts once. This is not ROUGE as Lin
            defines it, but what the package `rouge` computes by default, and so the scores that
            the scripts of bert4keras report.

    Returns:
        `rouge_1`, `rouge_2` and `rouge_l`, from 0 to 1.

    Raises:
        ValueError: the numbers of texts differ, or there is none.
    """
    check_lengths(predictions, references)
    compare = {"rouge_1": _n_gram_f1(1, unique), "rouge_2": _n_gram_f1(2, unique)}
    compare["rouge_l"] = _unique_subsequence_f1 if unique else _subsequence_f1
    pairs = list(zip(predictions, references, strict=True))
    return {name: sum(f(a, b) for a, b in pairs) / len(pairs) for name, f in compare.items()}


def _f1(shared: int, n_found: int, n_wanted: int) -> float:
    return 2 * shared / max(1, n_found + n_wanted)


def _n_gram_f1(n: int, unique: bool) -> Callable[[Sequence[str], Sequence[str]], float]:
    def compare(found: Sequence[str], wanted: Sequence[str]) -> float:
        a, b = n_grams(found, n), n_grams(wanted, n)
        if unique:
            a, b = Counter(a.keys()), Counter(b.keys())
        return _f1((a & b).total(), a.total(), b.total())

    return compare


def _subsequence_f1(found: Sequence[str], wanted: Sequence[str]) -> float:
    return _f1(longest_common_subsequence(found, wanted)[0], len(found), len(wanted))


def _unique_subsequence_f1(found: Sequence[str], wanted: Sequence[str]) -> float:
    # Of several subsequences of the same length, the package takes the one that this order finds.
    _, places = longest_common_subsequence(found, wanted)
    shared = {found[i] for i, _ in places}
    return _f1(len(shared), len(set(found)), len(set(wanted)))


# === BLEU ===


def corpus_bleu(predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> float:
    """Compute BLEU-4 of a corpus: n-grams and lengths are counted over all texts together.

    Papineni et al., BLEU: a Method for Automatic Evaluation of Machine Translation, 2002, with one
    reference for each text and without smoothing.

    Args:
        predictions: the texts that were written, strings (of characters) or lists of tokens.
        references: for each of them the text that is right.

    Returns:
        A number from 0 to 1; 0 if no n-gram of a length is right.

    Raises:
        ValueError: the numbers of texts differ, or there is none.
    """
    check_lengths(predictions, references)
    matches, totals, lengths = [0] * ORDER, [0] * ORDER, [0, 0]
    for found, wanted in zip(predictions, references, strict=True):
        for n, (right, total) in enumerate(_matches(found, wanted)):
            matches[n] += right
            totals[n] += total
        lengths = [lengths[0] + len(found), lengths[1] + len(wanted)]
    return _bleu(matches, totals, *lengths) if all(matches) else 0.0


def sentence_bleu(
    predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]
) -> float:
    """Compute the mean BLEU-4 of single texts, smoothed by method 1 of Chen and Cherry.

    Where no n-gram of a length is right, 0.1 of them is counted; a text without a right token has
    0. Chen and Cherry, A Systematic Comparison of Smoothing Techniques for Sentence-Level BLEU,
    2014. It is what `sentence_bleu` of `nltk` with `SmoothingFunction().method1` computes.

    Args:
        predictions: the texts that were written, strings (of characters) or lists of tokens.
        references: for each of them the text that is right.

    Returns:
        A number from 0 to 1.

    Raises:
        ValueError: the numbers of texts differ, or there is none.
    """
    check_lengths(predictions, references)
    pairs = list(zip(predictions, references, strict=True))
    return sum(_smoothed_bleu(*pair) for pair in pairs) / len(pairs)


def _smoothed_bleu(found: Sequence[str], wanted: Sequence[str]) -> float:
    matches, totals = zip(*_matches(found, wanted), strict=True)
    if not matches[0]:
        return 0.0
    return _bleu([right or EPSILON for right in matches], totals, len(found), len(wanted))


def _matches(found: Sequence[str], wanted: Sequence[str]) -> list[tuple[int, int]]:
    """Return for n-grams of each length how many are right, each at most as often as wanted."""
    counts = [(n_grams(found, n), n_grams(wanted, n)) for n in range(1, ORDER + 1)]
    return [((a & b).total(), a.total()) for a, b in counts]


def _bleu(matches: Sequence[float], totals: Sequence[int], n_found: int, n_wanted: int) -> float:
    pairs = zip(matches, totals, strict=True)
    log_precision = sum(math.log(right / max(1, total)) for right, total in pairs) / ORDER
    brevity = min(0.0, 1 - n_wanted / n_found)
    return math.exp(brevity + log_precision)
