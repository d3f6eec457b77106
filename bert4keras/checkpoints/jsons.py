"""JSON from files that may be damaged or hostile."""

import json
import os
from pathlib import Path
from typing import Any

from bert4keras.checkpoints.base import BOUNDED, Damage, open_regular, readable

MAX_SIZE = 8 << 20  # bytes of a config, or of a record of a vocabulary
# Limits for files of that size; for larger limits of size they grow in proportion.
_MAX_BRACKETS = 1 << 18  # objects and lists; a tensor of a safetensors file takes three
_MAX_ITEMS = 1 << 21


def read_json(path: Path, max_size: int = MAX_SIZE, nan: bool = False) -> dict[str, Any]:
    """Read a file with a JSON object, with the arguments of `parse_json`.

    Raises:
        CheckpointError: the file cannot be read.
    """
    with readable(path), open_regular(path) as file:
        # One byte more than allowed, so that larger files are detected.
        content = file.read(min(os.fstat(file.fileno()).st_size, max_size + 1))
    return parse_json(content, max_size, nan)


def parse_json(content: bytes, max_size: int = MAX_SIZE, nan: bool = False) -> dict[str, Any]:
    """Parse a JSON object.

    Args:
        content: the text in UTF-8, with or without a byte order mark.
        max_size: maximal size in bytes.
        nan: whether NaN and infinity are allowed, which Python writes.

    Raises:
        Damage: it is not an object, is too large, has a key twice or a number that JSON forbids.
    """
    brackets, items = content.count(b"{") + content.count(b"["), content.count(b",")
    factor = max(max_size // MAX_SIZE, 1)
    max_brackets = _MAX_BRACKETS * factor
    if len(content) > max_size or brackets > max_brackets or items > _MAX_ITEMS * factor:
        raise Damage(
            f"its JSON has {len(content)} bytes and {brackets} objects and lists, but at most "
            f"{max_size} and {max_brackets} are read",
            BOUNDED,
        )
    try:
        value = json.loads(
            content.decode("utf-8-sig"),
            object_pairs_hook=_object,
            parse_constant=float if nan else _no_number,
        )
    except RecursionError:
        raise Damage("its JSON is nested too deeply") from None
    except ValueError as error:  # among them numbers of thousands of digits
        raise Damage(f"it is not JSON ({str(error)[:300]})") from None
    if not isinstance(value, dict):
        raise Damage(f"it contains a {type(value).__name__}, not a JSON object")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise Damage(f"its JSON has the key {twice[:80]!r} twice")
    return result


def _no_number(name: str) -> None:
    raise Damage(f"its JSON has {name}, which is not a JSON number")
