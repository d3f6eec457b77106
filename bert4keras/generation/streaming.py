"""Streaming: the text of an output in pieces, while its tokens are generated."""

from collections.abc import Callable, Iterable, Iterator

from bert4keras.text.base import settled_words


def stream_text(
    ids: Iterable[int],
    decode: Callable[[list[int]], str],
    settled: Callable[[list[int], str], int] | None = None,
    context: int | None = None,
) -> Iterator[str]:
    """Yield the text of tokens as they are generated.

    Text that later tokens may still change is held back: a character of several tokens until the
    last of them, spaces and punctuation that depend on what follows.

    Args:
        ids: the tokens.
        decode: converts a list of tokens to a text.
        settled: takes tokens and their text and returns how many characters of it stay the same
            whatever follows; by default those up to the last letter, digit or ideograph.
        context: number of preceding tokens that `decode` needs in order to write a token as it does
            within the whole text, so that a long text is not decoded again for every token; None
            for all.

    Yields:
        Pieces that join to the text of all tokens; none is empty.
    """
    pending_ids: list[int] = []
    yielded = text = ""
    for i in ids:
        pending_ids.append(i)
        text = decode(pending_ids)
        end = settled_words(text) if settled is None else settled(pending_ids, text)
        if end > len(yielded):
            yield text[len(yielded) : end]
            yielded = text[:end]
            if context is not None and yielded == text:
                context_ids = pending_ids[len(pending_ids) - context :]
                context_text = decode(context_ids)
                if context_text or not context:  # a token without text is no context
                    pending_ids, yielded, text = context_ids, context_text, context_text
    if len(text) > len(yielded):
        yield text[len(yielded) :]
