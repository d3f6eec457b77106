"""Read reference outputs of bert4keras 0.11.5; their formats: `golden/README.md`."""

import json
from pathlib import Path

import numpy as np

OWN_REFERENCES = Path(__file__).parents[1] / "golden"


def load_json(path: str | Path):
    """Read a golden JSON file: tuples, integer keys and arrays of the `.npz` beside it restored."""
    path = Path(path)
    npz = path.with_suffix(".npz")
    arrays = np.load(npz) if npz.exists() else {}

    def restore(value: dict):
        if value.keys() == {"__tuple__"}:
            return tuple(value["__tuple__"])
        if value.keys() == {"__intkeys__"}:
            return {int(k): v for k, v in value["__intkeys__"].items()}
        if value.keys() == {"npz"}:
            return arrays[value["npz"]]
        return value

    return json.loads(path.read_text(encoding="utf-8"), object_hook=restore)


def is_error(expected) -> bool:
    """Tell whether the original raised instead of returning."""
    return isinstance(expected, dict) and expected.keys() == {"error"}
