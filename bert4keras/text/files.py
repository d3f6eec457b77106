"""Reading of files that may be damaged or hostile, with limits and a single exception."""

from pathlib import Path
from typing import Any

SMALL = 8 << 20
"""Maximal size of a settings file in bytes; those of released models have at most 2 MB."""
LARGE = 64 << 20
"""Maximal size of a `tokenizer.json` in bytes; those of released models have at most 35 MB."""


class TokenizerError(ValueError):
    """A file of a tokenizer, or a chat template, is damaged, hostile or of an unknown kind."""


def read_bytes(path: Path, limit: int) -> bytes:
    """Return the content of a file.

    Raises:
        FileNotFoundError: there is no such file.
        TokenizerError: it is larger than `limit` bytes, or not a regular file.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    if not path.is_file():
        raise TokenizerError(f"{path} is not a regular file")
    if (size := path.stat().st_size) > limit:
        raise TokenizerError(
            f"{path} has {size} bytes, but at most {limit} are allowed: is it damaged?"
        )
    return path.read_bytes()


def read_text(path: Path, limit: int = SMALL) -> str:
    """Return the content of a file as text, which must be UTF-8, like `read_bytes`."""
    try:
        return read_bytes(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path} is not UTF-8: {error}") from error


def read_object(path: Path, limit: int = SMALL) -> dict[str, Any]:
    """Return the JSON object in a file, with the errors of `read_bytes` and `parsed_object`."""
    return parsed_object(read_bytes(path, limit), path, limit)


def parsed_object(content: bytes, path: Path, limit: int = SMALL) -> dict[str, Any]:
    """Parse the content of a file as a JSON object.

    Raises:
        TokenizerError: it is not one, is nested too deeply or too large, or has a key twice.
    """
    # Imported here, since it loads code for weight files, which a tokenizer does not need.
    from bert4keras.checkpoints.jsons import Damage, parse_json

    try:
        return parse_json(content, limit)
    except Damage as damage:
        raise TokenizerError(f"{path} cannot be used: {damage}") from damage
