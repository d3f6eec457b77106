"""Reading and writing config files as JSON, without interpreting their keys."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bert4keras.checkpoints import jsons
from bert4keras.checkpoints.base import Damage

RECORD = "bert4keras"
"""The key of `config.json` for what Hugging Face has no key for."""


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds no JSON object, or is too large for a config.
    """
    if not Path(path).exists():
        raise FileNotFoundError(
            f"there is no config file {path}: config_path is a file such as bert_config.json, or "
            "the folder of a checkpoint"
        )
    try:
        return jsons.read_json(Path(path), nan=True)  # a later check names settings that are NaN
    except Damage as damage:
        raise ValueError(f"{path} is not a JSON config file: {damage}. {damage.advice}") from None


_TYPES = {
    "model_type": str,
    "architectures": list,
    RECORD: Mapping,
}
"""Types of the keys that are read first, in order to identify the architecture."""


def check_types(config: Mapping[str, Any], path: Any, types: Mapping[str, type] = _TYPES) -> None:
    """Raise an error for a config whose keys that are read first have the wrong types."""
    for key, kind in types.items():
        value = config.get(key)
        if value is not None and not isinstance(value, kind):
            words = {str: "a string", list: "a list", Mapping: "an object"}[kind]
            raise ValueError(f"{path} has {key}={str(value)[:100]!r}: expected {words}")
    if not all(isinstance(name, str) for name in config.get("architectures") or ()):
        raise ValueError(
            f"{path} has architectures that are not strings: expected names of classes"
        )


def write_json(path: Path, config: Mapping[str, Any]) -> None:
    """Write a config file."""
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")
