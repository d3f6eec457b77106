"""Files that may be damaged or hostile: read within bounds, refused by one exception."""

import json
from pathlib import Path
from typing import Any

SMALL = 8 << 20
"""How many bytes a settings file may have: those of released models have at most 2 MB."""
LARGE = 64 << 20
"""How many bytes a `tokenizer.json` may have: those of released models have at most 35 MB."""
_CONTAINERS = 1 << 21
"""How many objects and lists a JSON file may hold; each takes far more memory than its bytes."""
_ITEMS = 1 << 23


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
    """Return the JSON object in a file, see `read_text` and `parsed_object`."""
    return parsed_object(read_text(path, limit), path)


def parsed_object(text: str, path: Path) -> dict[str, Any]:
    """Return the JSON object that a text is.

    Raises:
        TokenizerError: it is none, too deep or of too many parts, or has a key twice.
    """
    if text.count("{") + text.count("[") > _CONTAINERS or text.count(",") > _ITEMS:
        raise TokenizerError(f"{path} has more than {_CONTAINERS} lists or {_ITEMS} items in them")
    try:
        content = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path} is no file of JSON: {error}") from error
    if not isinstance(content, dict):
        raise TokenizerError(f"{path} holds a {type(content).__name__}, not a JSON object")
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a key that comes twice, of which every reader might take another."""
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in content if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} comes twice")
    return content
