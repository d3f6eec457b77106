"""The settings in `generation_config.json`: which tokens end a text, how tokens are sampled."""

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from bert4keras.text.files import TokenizerError, read_object

GENERATION_FILE = "generation_config.json"

_IDS = ("eos_token_id", "pad_token_id", "bos_token_id", "decoder_start_token_id")
_STOPS = ("eos_token_id", "decoder_start_token_id")
_KINDS: Mapping[str, type] = {
    "do_sample": bool,
    "temperature": Real,
    "top_k": Integral,
    "top_p": Real,
    "min_p": Real,
    "num_beams": Integral,
    "length_penalty": Real,
    "max_new_tokens": Integral,
    "min_new_tokens": Integral,
}


def read_generation_config(folder: Path, model_config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the generation settings in a folder, without null values.

    Args:
        folder: the folder.
        model_config: its `config.json`, which names the tokens that end a text if the other file
            does not, and contains all settings in old folders.

    Raises:
        TokenizerError: a file is not JSON, or has a value of the wrong type.
    """
    path = folder / GENERATION_FILE
    whole = path.exists()
    config = {key: model_config.get(key) for key in (_STOPS if whole else (*_IDS, *_KINDS))}
    config |= read_object(path) if whole else {}
    config = {key: value for key, value in config.items() if value is not None}
    if not whole and config.keys() <= {"pad_token_id", "bos_token_id"}:
        return {}  # models that do not generate have these too
    for key in _IDS:
        if key in config and not all(_is_id(i) for i in listed(config[key])):
            raise TokenizerError(f"{folder} says {key}={config[key]!r:.50}: expected ids")
    for key, kind in _KINDS.items():
        if key in config and not _is(config[key], kind):
            raise TokenizerError(
                f"{folder} says {key}={config[key]!r:.50}: expected a {kind.__name__.lower()}"
            )
    return config


def _is(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _is_id(value: Any) -> bool:
    return _is(value, Integral) and value >= -1


def listed(value: Any) -> list:
    """Return the value of a setting, one id or several, as a list."""
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]


def renumbered(config: Mapping[str, Any], keep_tokens: Sequence[int]) -> dict[str, Any]:
    """Return a config for a vocabulary reduced to `keep_tokens`, without ids that are missing."""
    new = {old: i for i, old in enumerate(keep_tokens)}
    changed = dict(config)
    for key in _IDS:
        if key in config:
            ids = [new[i] for i in listed(config[key]) if i in new]
            changed[key] = ids if isinstance(config[key], list) else next(iter(ids), None)
    return {key: value for key, value in changed.items() if value not in (None, [])}
