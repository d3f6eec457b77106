"""Config files as JSON, before anybody asks what their keys mean."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bert4keras.checkpoints import jsons
from bert4keras.checkpoints.base import Damage

RECORD = "bert4keras"
"""The key of `config.json` under which we write what Hugging Face has no key for."""


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such file, or larger than any config.
    """
    if not Path(path).exists():
        raise FileNotFoundError(
            f"there is no config file {path}: config_path is a file such as bert_config.json, or "
            "the folder of a checkpoint"
        )
    try:
        return jsons.read_json(Path(path), nan=True)  # settings that are NaN are refused by name
    except Damage as damage:
        raise ValueError(f"{path} is not a JSON config file: {damage}. {damage.advice}") from None


_TYPES = {
    "model_type": str,
    "architectures": list,
    RECORD: Mapping,
}
"""Of keys that are looked at before anything is known of the others."""


def check_types(config: Mapping[str, Any], path: Any, types: Mapping[str, type] = _TYPES) -> None:
    """Refuse a config in which what is looked at first is not of its type."""
    for key, kind in types.items():
        value = config.get(key)
        if value is not None and not isinstance(value, kind):
            words = {str: "a string", list: "a list", Mapping: "an object"}[kind]
            raise ValueError(f"{path} has {key}={str(value)[:100]!r}: expected {words}")
    if not all(isinstance(name, str) for name in config.get("architectures") or ()):
        raise ValueError(f"{path} has architectures that are no names of classes")


def write_json(path: Path, config: Mapping[str, Any]) -> None:
    """Write a config file."""
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")
