"""Text piece by piece, while its tokens are written."""

from collections.abc import Callable, Iterable, Iterator

from bert4keras.text.base import settled_words


def pieces(
    ids: Iterable[int],
    decode: Callable[[list[int]], str],
    settled: Callable[[list[int], str], int] | None = None,
    context: int | None = None,
) -> Iterator[str]:
    """Give the text of tokens as they come.

    What later tokens may still change waits for the next piece: a character of several tokens
    before the last of them, spaces and punctuation that depend on what follows.

    Args:
        ids: the tokens.
        decode: makes a text of a list of tokens.
        settled: tells how many characters of a text stay whatever follows, of tokens and their
            text; by default those up to the last letter, digit or ideograph.
        context: how many tokens before others `decode` needs to see to write these as in the whole,
            so that a long text is not decoded again for every token; None for all.

    Yields:
        Pieces that join to the text of all tokens; none is empty.
    """
    so_far: list[int] = []
    given = text = ""
    for i in ids:
        so_far.append(i)
        text = decode(so_far)
        end = settled_words(text) if settled is None else settled(so_far, text)
        if end > len(given):
            yield text[len(given) : end]
            given = text[:end]
            if context is not None and given == text:
                last = so_far[len(so_far) - context :]
                before = decode(last)
                if before or not context:  # a token without text is no context
                    so_far, given, text = last, before, before
    if len(text) > len(given):
        yield text[len(given) :]
