"""How byte-level BPE writes bytes as characters, and how byte fallback writes them as tokens.

In byte-level BPE (Radford et al., 2019) each of the 256 bytes is a character that can be seen: a
byte that Latin-1 prints is that character, the others are those from U+0100 on.
"""

import codecs
import re
from collections.abc import Iterable, Mapping

_PRINTED = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(0x100) if byte not in _PRINTED]

BYTE_OF: Mapping[str, int] = {
    **{chr(byte): byte for byte in _PRINTED},
    **{chr(0x100 + i): byte for i, byte in enumerate(_OTHERS)},
}
"""The byte that a character of byte-level BPE stands for."""
BYTE_LEVEL_SPACE = "Ġ"
"""The character that stands for a space."""
SPACE = "▁"
"""What stands for a space in the pieces of SentencePiece."""

_BYTE_TOKEN = re.compile("<0x[0-9A-Fa-f]{2}>")


def is_byte_token(token: str) -> bool:
    """Tell whether a token is how byte fallback writes a byte, such as <0xE4>."""
    return _BYTE_TOKEN.fullmatch(token) is not None


def bytes_of(token: str) -> bytes:
    """Return the bytes of a token of byte-level BPE; of an added one, those of its characters."""
    if all(char in BYTE_OF for char in token):
        return bytes(BYTE_OF[char] for char in token)
    return token.encode("utf-8", "replace")


def ends_within_character(data: bytes) -> bool:
    """Tell whether bytes end with the beginning of a character in UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(data)
    return bool(decoder.getstate()[0])


def is_cut_off(tokens: Iterable[str | None]) -> bool:
    """Tell whether a text of byte-level BPE ends within a character.

    Args:
        tokens: its tokens from the last one on, None for those that are no part of it.
    """
    data = b""
    for token in tokens:
        data = bytes_of(token or "") + data
        if len(data) > 4:  # more than any character has
            break
    return ends_within_character(data)


def n_last_byte_tokens(tokens: Iterable[str | None]) -> int:
    """Return how many of the last tokens are bytes, or left out among bytes.

    Args:
        tokens: the tokens from the last one on, None for those that are left out.
    """
    n_open = 0
    for n, token in enumerate(tokens, 1):
        if token is None:
            continue
        if not is_byte_token(token):
            break
        n_open = n
    return n_open


def without_space(text: str, token: str, span: list[int], mark: str) -> list[int]:
    """Return the characters of a token without the space around it, unless it is nothing else.

    Args:
        text: the text.
        token: the token.
        span: the indices of the characters that it covers, in order.
        mark: what stands for a space in tokens. One in front of a text may stand for none.
    """
    spaces = [text[i].isspace() or text[i] == mark == SPACE for i in span]
    if not token.strip(mark):
        return [i for i, space in zip(span, spaces, strict=True) if space]
    if all(spaces):
        return span
    return span[spaces.index(False) : len(span) - spaces[::-1].index(False)]
