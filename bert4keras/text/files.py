"""Files that may be damaged or hostile: read within bounds, refused by one exception."""

from pathlib import Path
from typing import Any

SMALL = 8 << 20
"""How many bytes a settings file may have: those of released models have at most 2 MB."""
LARGE = 64 << 20
"""How many bytes a `tokenizer.json` may have: those of released models have at most 35 MB."""


class TokenizerError(ValueError):
    """A file of a tokenizer or a chat template that cannot be used: damaged, hostile or unknown."""


def read_bytes(path: Path, limit: int) -> bytes:
    """Return the content of a file.

    Raises:
        FileNotFoundError: there is no such file.
        TokenizerError: it is larger than `limit` bytes, or no regular file.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    if not path.is_file():
        raise TokenizerError(f"{path} is no regular file")
    if (size := path.stat().st_size) > limit:
        raise TokenizerError(f"{path} has {size} bytes, and may have {limit}: is it damaged?")
    return path.read_bytes()


def read_text(path: Path, limit: int = SMALL) -> str:
    """Return the content of a file as text, see `read_bytes`; it must be UTF-8."""
    try:
        return read_bytes(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path} is not UTF-8: {error}") from error


def read_object(path: Path, limit: int = SMALL) -> dict[str, Any]:
    """Return the JSON object in a file, see `read_bytes` and `parsed_object`."""
    return parsed_object(read_bytes(path, limit), path, limit)


def parsed_object(content: bytes, path: Path, limit: int = SMALL) -> dict[str, Any]:
    """Return the JSON object that the content of a file is.

    Raises:
        TokenizerError: it is none, too deep or of too many parts, or has a key twice.
    """
    # Here, as it brings what reads weights, which a process that only cuts texts does not need.
    from bert4keras.checkpoints.jsons import Damage, parse_json

    try:
        return parse_json(content, limit)
    except Damage as damage:
        raise TokenizerError(f"{path} cannot be used: {damage}") from damage
