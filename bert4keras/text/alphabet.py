"""The characters of bytes in byte-level BPE, and the tokens of bytes in byte fallback.

Byte-level BPE (Radford et al., 2019) maps each of the 256 bytes to a printable character: a byte
that is printable in Latin-1 to that character, all others to the characters from U+0100 on.
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
"""Maps characters of byte-level BPE to bytes."""
BYTE_LEVEL_SPACE = "Ġ"
"""The character of a space in byte-level BPE."""
SPACE = "▁"
"""The character of a space in the pieces of SentencePiece."""

_BYTE_TOKEN = re.compile("<0x[0-9A-Fa-f]{2}>")


def is_byte_token(token: str) -> bool:
    """Tell whether a token represents a byte by byte fallback, such as <0xE4>."""
    return _BYTE_TOKEN.fullmatch(token) is not None


def bytes_of(token: str) -> bytes:
    """Return the bytes of a token of byte-level BPE; an added token is encoded in UTF-8."""
    if all(char in BYTE_OF for char in token):
        return bytes(BYTE_OF[char] for char in token)
    return token.encode("utf-8", "replace")


def ends_within_character(data: bytes) -> bool:
    """Tell whether bytes end within a UTF-8 character."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(data)
    return bool(decoder.getstate()[0])


def is_cut_off(tokens: Iterable[str | None]) -> bool:
    """Tell whether a text of byte-level BPE ends within a character.

    Args:
        tokens: its tokens, starting from the last, None for those that are not part of the text.
    """
    data = b""
    for token in tokens:
        data = bytes_of(token or "") + data
        if len(data) > 4:  # longer than any character
            break
    return ends_within_character(data)


def n_last_byte_tokens(tokens: Iterable[str | None]) -> int:
    """Count the last tokens that are bytes, including tokens left out between bytes.

    Args:
        tokens: the tokens, starting from the last, None for those that are left out.
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
    """Return the characters of a token without surrounding spaces, unless it consists of spaces.

    Args:
        text: the text.
        token: the token.
        span: the indices of its characters, in order.
        mark: the character of a space in tokens. One at the start of a text may represent nothing.
    """
    spaces = [text[i].isspace() or text[i] == mark == SPACE for i in span]
    if not token.strip(mark):
        return [i for i, space in zip(span, spaces, strict=True) if space]
    if all(spaces):
        return span
    return span[spaces.index(False) : len(span) - spaces[::-1].index(False)]
