"""Classes of characters, as distinguished by WordPiece."""

import unicodedata2 as unicodedata

_CJK_BLOCKS = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)
# Full-width forms, CJK symbols, and the general punctuation that Chinese texts use.
_CJK_PUNCTUATION_RANGES = (
    (0xFF01, 0xFF0D),
    (0xFF0F, 0xFF0F),
    (0xFF1A, 0xFF20),
    (0xFF3B, 0xFF40),
    (0xFF5B, 0xFF64),
    (0x3000, 0x3003),
    (0x3008, 0x3011),
    (0x3014, 0x301F),
    (0x3030, 0x3030),
    (0x303E, 0x303F),
    (0x2013, 0x2014),
    (0x2018, 0x2019),
    (0x201B, 0x201F),
    (0x2026, 0x2027),
    (0xFE4F, 0xFE4F),
    (0xFE51, 0xFE51),
    (0xFE54, 0xFE54),
    (0x00B7, 0x00B7),
)
ASCII_PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


def is_space(ch: str) -> bool:
    """Tell whether a character separates words."""
    return ch in " \n\r\t" or unicodedata.category(ch) == "Zs"


def is_punctuation(ch: str) -> bool:
    """Tell whether a character is Unicode punctuation or an ASCII symbol."""
    return ch in ASCII_PUNCTUATION or unicodedata.category(ch).startswith("P")


def cjk_punctuation() -> str:
    """Return the punctuation of Chinese texts."""
    return "".join(
        chr(code) for first, last in _CJK_PUNCTUATION_RANGES for code in range(first, last + 1)
    )


def is_cjk_character(ch: str) -> bool:
    """Tell whether a character is an ideograph."""
    return any(first <= ord(ch) <= last for first, last in _CJK_BLOCKS)


def is_control(ch: str) -> bool:
    """Tell whether a character is a control or format character."""
    return unicodedata.category(ch) in ("Cc", "Cf")
