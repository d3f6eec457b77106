"""Text piece by piece, while its tokens are written."""

import re
from collections.abc import Callable, Iterable, Iterator

MAYBE_CONTRACTED = re.compile(r"' [a-z]{1,2}$")
"""What `Tokenizer.decode` writes as one word if a space follows: it' s."""


def pieces(ids: Iterable[int], decode: Callable[[list[int]], str]) -> Iterator[str]:
    """Give the text of tokens as they come.

    What follows may still change spaces and punctuation at the end of a text, and a character that
    several tokens make up by bytes is no character before the last of them. So a piece ends behind
    a letter, digit or ideograph, but not one of a contraction, and what comes after it waits for
    the next piece.

    Args:
        ids: the tokens.
        decode: makes a text of a list of tokens.

    Yields:
        Pieces that join to the text of all tokens; none is empty.
    """
    so_far: list[int] = []
    given = text = ""
    for i in ids:
        so_far.append(i)
        text = decode(so_far)
        settled = MAYBE_CONTRACTED.sub("", text)
        end = len(settled)
        while end > len(given) and not settled[end - 1].isalnum():
            end -= 1
        if end > len(given):
            yield text[len(given) : end]
            given = text[:end]
    if len(text) > len(given):
        yield text[len(given) :]
