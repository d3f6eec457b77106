"""The record beside weights of how a vocabulary was cut down, so that it is not cut again."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bert4keras.checkpoints import jsons
from bert4keras.checkpoints.base import CheckpointError, Damage
from bert4keras.models.config_files import RECORD, check_types, read_json


def vocabulary_record(transformer: Any) -> dict[str, Any] | None:
    """Return how a model's vocabulary was cut down or extended; None if it was not."""
    keep, compound = transformer.keep_tokens, transformer.compound_tokens
    if keep is None and compound is None:
        return None
    both = {"keep_tokens": keep, "compound_tokens": compound}
    return {"vocab_size": int(transformer.full_vocab_size), **as_json_values(both)}


def as_json_values(tokens: Mapping[str, Any]) -> dict[str, Any]:
    """Return `keep_tokens` and `compound_tokens` as values of JSON."""
    keep, compound = tokens.get("keep_tokens"), tokens.get("compound_tokens")
    return {
        "keep_tokens": None if keep is None else [int(i) for i in keep],
        "compound_tokens": None
        if compound is None
        else [_as_json_compound(item) for item in compound],
    }


def _as_json_compound(item: Any) -> list:
    """Convert a compound token to a list of ids, or to [ids, weights]."""
    if isinstance(item, tuple):
        return [[int(i) for i in item[0]], [float(w) for w in item[1]]]
    return [int(i) for i in item]


def from_json_compound(item: list) -> Any:
    """Convert a compound token from JSON to the form of `compound_tokens`."""
    return tuple(item) if item and isinstance(item[0], list) else item


def saved_size(record: Mapping[str, Any]) -> int:
    """Return the number of tokens after cutting down and extending."""
    keep, compound = record["keep_tokens"], record["compound_tokens"]
    return (record["vocab_size"] if keep is None else len(keep)) + len(compound or [])


def recorded_vocabulary(checkpoint: Path) -> dict[str, Any] | None:
    """Read how the vocabulary of saved weights was cut down; None if nothing was recorded.

    Args:
        checkpoint: the file, or prefix of a TensorFlow checkpoint.

    Raises:
        CheckpointError: the file of the record is invalid.
    """
    beside, config = record_path(checkpoint), checkpoint.with_name("config.json")
    try:
        if beside.is_file():
            return check_record(jsons.read_json(beside), beside)
        if checkpoint.name.startswith("model.safetensors") and config.is_file():
            record = record_in(read_json(config), config)
            return None if record is None else check_record(record, config)
    except Damage as damage:
        raise CheckpointError(f"{beside} is no record of a vocabulary: {damage}") from None
    return None


def record_in(config: Mapping[str, Any], path: Any) -> Mapping[str, Any] | None:
    """Return the record in a config, if there is one."""
    check_types(config, path)
    record = (config.get(RECORD) or {}).get("vocabulary")
    if record is not None and not isinstance(record, Mapping):
        raise CheckpointError(f"{path} has a vocabulary that is no object")
    return record


def check_record(record: Mapping[str, Any], path: Any) -> dict[str, Any]:
    """Check that a record is complete and its ids are in the vocabulary, and return it."""
    names = ("vocab_size", "keep_tokens", "compound_tokens")
    size, keep, compound = (record.get(name) for name in names)
    whole = type(size) is int and isinstance(compound, list | None)
    kept = whole and (keep is None or _are_ids(keep, size))
    if kept and all(_is_compound(item, size) for item in compound or ()):
        return dict(zip(names, (size, keep, compound), strict=True))
    raise CheckpointError(
        f"{path} does not say which tokens a vocabulary was cut down to: expected vocab_size, "
        "keep_tokens and compound_tokens, with ids below vocab_size"
    )


def _is_compound(item: Any, size: int) -> bool:
    match item:
        case [[*ids], [*weights]]:
            numbers = all(type(weight) in (int, float) for weight in weights)
            return bool(ids) and len(ids) == len(weights) and numbers and _are_ids(ids, size)
    return bool(item) and _are_ids(item, size)


def _are_ids(ids: Any, size: int) -> bool:
    return isinstance(ids, list) and all(type(i) is int and 0 <= i < size for i in ids)


def record_path(checkpoint: Path) -> Path:
    """Return the path of the record that belongs to a checkpoint."""
    return checkpoint.with_name(f"{checkpoint.name}.vocabulary.json")


def write_record(checkpoint: str | Path, record: Mapping[str, Any] | None) -> None:
    """Write a record beside a checkpoint, if there is one."""
    if record is not None:
        path = record_path(Path(checkpoint))
        path.write_text(json.dumps(record) + "\n", encoding="utf-8")
