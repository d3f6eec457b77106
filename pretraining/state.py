"""Saved states of a training run: whole or not there.

A state is a folder `step-N` with the arrays and, written last, `state.json` with their checksum. It
is written under a hidden name, brought to the disk and renamed. The last two are kept.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from records import sync_file, sync_folder

KEPT = 2


def save_state(folder: Path, step: int, arrays: Sequence[np.ndarray], info: dict[str, Any]) -> None:
    """Write a state.

    Args:
        folder: where the states of the run are.
        step: how many steps have been taken.
        arrays: the values of all variables.
        info: what else there is to remember, in types that JSON has.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final, hidden = folder / f"step-{step:010d}", folder / f".step-{step:010d}.part"
    discard(hidden)
    hidden.mkdir()
    with open(hidden / "variables.npz", "wb") as file:
        np.savez(file, *arrays)
        sync_file(file)
    record = {"step": step, "checksum": checksum(hidden / "variables.npz"), **info}
    with open(hidden / "state.json", "w", encoding="utf-8") as file:
        json.dump(record, file)
        sync_file(file)
    sync_folder(hidden)
    discard(final)  # a damaged one
    hidden.rename(final)
    sync_folder(folder)
    for old in sorted(folder.glob("step-*"))[:-KEPT]:
        discard(old)


def load_state(folder: Path) -> tuple[list[np.ndarray], dict[str, Any]] | None:
    """The newest whole state: arrays and what was remembered; None if there is none.

    Damaged states are passed over, and named in `info["damaged"]`.
    """
    damaged = []
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            info = json.loads((path / "state.json").read_text(encoding="utf-8"))
            if checksum(path / "variables.npz") != info["checksum"]:
                raise ValueError("the checksum of its variables is wrong")
            with np.load(path / "variables.npz", allow_pickle=False) as file:
                arrays = [file[f"arr_{i}"] for i in range(len(file.files))]
        except (OSError, ValueError, KeyError, TypeError) as error:
            damaged.append(f"{path.name} ({error})")
            continue
        return arrays, {**info, "damaged": damaged}
    if damaged:
        raise SystemExit(
            f"all states in {folder} are damaged: {', '.join(damaged)}. Delete the folder to begin "
            "anew"
        )
    return None


def discard(path: Path) -> None:
    """Delete a state. It loses its name first, so that no half of it is ever taken for one."""
    if path.name.startswith("step-") and path.exists():
        hidden = path.with_name(f".{path.name}.old")
        shutil.rmtree(hidden, ignore_errors=True)
        path = path.rename(hidden)
    if path.exists():
        shutil.rmtree(path)


def checksum(path: Path) -> str:
    crc = 0
    with open(path, "rb") as file:
        while part := file.read(2**24):
            crc = google_crc32c.extend(crc, part)
    return f"{crc:08x}"
