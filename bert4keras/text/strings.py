"""Functions of texts and sequences: normalising, decoding, truncating, splitting, comparing."""

import re
from collections.abc import Iterable, Sequence

import numpy as np
import unicodedata2 as unicodedata

uniout = None  # Python 2 needed this package to print Chinese; scripts still import it.


def is_string(s: object) -> bool:
    """Tell whether `s` is text; bytes are not."""
    return isinstance(s, str)


# The full-width forms have a fixed distance from ASCII, except for the ideographic space.
_HALF_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20}


def strQ2B(ustring: str) -> str:
    """Convert full-width ASCII characters and the ideographic space to their half-width forms."""
    return ustring.translate(_HALF_WIDTH)


def string_matching(s: str, keywords: Iterable[str]) -> bool:
    """Tell whether any of the regular expressions `keywords` matches a part of `s`."""
    return any(re.search(keyword, s) for keyword in keywords)


def convert_to_unicode(text: str | bytes, encoding: str = "utf-8", errors: str = "ignore") -> str:
    """Decode bytes; text is returned as it is.

    Args:
        text: text or bytes.
        encoding: the encoding of the bytes.
        errors: how to handle invalid bytes, as in `bytes.decode`.
    """
    return text.decode(encoding, errors) if isinstance(text, bytes) else text


def convert_to_str(text: str | bytes, encoding: str = "utf-8", errors: str = "ignore") -> str:
    """Convert to `str` like `convert_to_unicode`, from which it differed in Python 2."""
    return convert_to_unicode(text, encoding, errors)


class _Folding(dict):
    """Table for `str.translate` that lower-cases and strips accents, filled on demand."""

    def __missing__(self, code: int) -> str:
        decomposed = unicodedata.normalize("NFD", chr(code).lower())
        folded = "".join(c for c in decomposed if unicodedata.category(c) != "Mn")
        self[code] = folded
        return folded


_FOLDING = _Folding()


def lowercase_and_normalize(text: str, never_split: Iterable[str] = ()) -> str:
    """Lower-case `text` and strip its accents (NFD without the characters of category Mn).

    Every character is converted independently of its neighbours, so that the result of a text is
    the concatenation of those of its characters. `str.lower` violates this for the Greek final
    sigma.

    Args:
        text: the text.
        never_split: tokens, such as `[MASK]`, that are left unchanged.
    """
    if not never_split:
        return text.translate(_FOLDING)
    kept = "|".join(re.escape(token) for token in never_split)
    pieces = re.split(f"({kept})", text)
    pieces[::2] = [piece.translate(_FOLDING) for piece in pieces[::2]]
    return "".join(pieces)


_SURROGATE = re.compile("[\ud800-\udfff]")


def well_formed(text: str) -> str:
    """Replace unpaired surrogates, which UTF-8 cannot encode, by U+FFFD."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def truncate_sequences(maxlen: int, indices: int | Sequence[int], *sequences: list) -> list[list]:
    """Shorten lists in place until they have at most `maxlen` elements in total.

    Elements are removed one by one from the longest list, or the first of several longest ones.

    Args:
        maxlen: the maximal sum of the lengths.
        indices: the index at which elements are removed, `-1` for the end; one for all lists or one
            for each list that is not empty.
        *sequences: the lists; empty ones and None are ignored.

    Returns:
        The lists that were not empty.

    Raises:
        ValueError: `maxlen` is negative, or there are fewer indices than lists.
        IndexError: a list would become too short for its index. No list is changed then.
    """
    if maxlen < 0:
        raise ValueError(f"truncate_sequences: maxlen is {maxlen}: give at least 0")
    sequences = [s for s in sequences if s]
    if isinstance(indices, int | np.integer):
        indices = [indices] * len(sequences)
    if len(indices) < len(sequences):
        raise ValueError(
            f"truncate_sequences: got {len(indices)} indices for {len(sequences)} sequences: "
            "give one index for all or one for each"
        )
    cuts = []
    for sequence, index, kept in zip(
        sequences, indices, _truncated_lengths(maxlen, [len(s) for s in sequences]), strict=False
    ):
        removed = len(sequence) - kept
        if removed and not -kept - 1 <= index <= kept:
            raise IndexError(
                f"truncate_sequences: to fit into {maxlen}, a sequence of {len(sequence)} would "
                f"keep {kept} elements, too few to remove one at index {index}: give a larger "
                "maxlen or an index closer to an end"
            )
        start = index if index >= 0 else kept + index + 1
        cuts.append(slice(start, start + removed))
    for sequence, cut in zip(sequences, cuts, strict=True):
        del sequence[cut]
    return sequences


def _truncated_lengths(maxlen: int, lengths: list[int]) -> list[int]:
    """Return the lengths after removing elements one by one from the first longest sequence."""
    if sum(lengths) <= maxlen:
        return lengths
    # Short sequences are kept whole; the others share the rest. As the first of equally long ones
    # is shortened first, the last ones keep the elements that cannot be shared evenly.
    share = spare = 0
    for position, length in enumerate(sorted(lengths)):
        share, spare = divmod(maxlen, len(lengths) - position)
        if length > share:
            break
        maxlen -= length
    longer = [i for i, length in enumerate(lengths) if length > share]
    favoured = set(longer[len(longer) - spare :])
    return [min(length, share + (i in favoured)) for i, length in enumerate(lengths)]


def text_segmentate(
    text: str, maxlen: int, seps: str | Sequence[str] = "\n", strips: str | None = None
) -> list[str]:
    """Split a long text into segments of about `maxlen` characters at its punctuation.

    The text is split at the first of `seps`; neighbouring segments are joined again while they are
    shorter than `maxlen`, and those that are still too long are split at the next of `seps`. A
    segment without any of the separators is not split, however long it is.

    Args:
        text: the text.
        maxlen: the intended length in characters; a text that is not longer is not split.
        seps: the separators, the most important first; they are kept at the end of segments.
        strips: characters to strip from both ends of every segment, after white space.
    """
    text = text.strip().strip(strips)
    if not seps or len(text) <= maxlen:
        return [text]
    separator = seps[0]
    joined = [""]
    for piece in text.split(separator):
        if joined[-1] and piece and len(joined[-1]) + len(piece) >= maxlen:
            joined.append("")
        joined[-1] += piece + separator
    joined[-1] = joined[-1].removesuffix(separator)
    return [part for piece in joined for part in text_segmentate(piece, maxlen, seps[1:], strips)]


def longest_common_substring(
    source: Sequence, target: Sequence
) -> tuple[int, tuple[int, int, int, int]]:
    """Find the longest common contiguous subsequence, in a tie the first one in `source`.

    Args:
        source: a text or any sequence.
        target: another one.

    Returns:
        Its length and `(start, end, start, end)`, the slices of `source` and of `target`.
    """
    longest, span = 0, (0, 0, 0, 0)
    above = [0] * (len(target) + 1)
    for i, x in enumerate(source, 1):
        row = [0] * (len(target) + 1)
        for j, y in enumerate(target, 1):
            if x == y:
                row[j] = above[j - 1] + 1
                if row[j] > longest:
                    longest = row[j]
                    span = (i - longest, i, j - longest, j)
        above = row
    return longest, span


def longest_common_subsequence(
    source: Sequence, target: Sequence
) -> tuple[int, list[tuple[int, int]]]:
    """Find the longest common subsequence, which need not be contiguous.

    Args:
        source: a text or any sequence.
        target: another one.

    Returns:
        Its length and, for each of its elements, its positions in `source` and `target`.
    """
    # table[i][j] is the length for the first i elements of source and j of target.
    table = [[0] * (len(target) + 1)]
    for x in source:
        above, row = table[-1], [0]
        for j, y in enumerate(target):
            row.append(above[j] + 1 if x == y else max(row[j], above[j + 1]))
        table.append(row)
    pairs: list[tuple[int, int]] = []
    i, j = len(source), len(target)
    while table[i][j]:
        if source[i - 1] == target[j - 1]:
            i, j = i - 1, j - 1
            pairs.append((i, j))
        elif table[i][j - 1] > table[i - 1][j]:
            j -= 1
        else:
            i -= 1
    return len(pairs), pairs[::-1]
