"""Saved states of a training run: whole or not there.

A state is a folder `step-N` with the arrays and, written last, `state.json`, which says what they
are and all else that there is to remember, and ends in one checksum of everything. It is written
under a hidden name, brought to the disk and renamed. The last two are kept.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from records import sync_file, sync_folder

KEPT = 2
ARRAYS, RECORD = "variables.npz", "state.json"
FORMAT = 2
NAME = re.compile(r"step-([0-9]{10,})")


class RefusedStateError(ValueError):
    """A state is not whole, was changed, or is of something else; the message says how."""


@dataclass(frozen=True)
class State:
    """All that a run needs to go on.

    Attributes:
        step: how many steps have been taken, which also says which batch comes next.
        arrays: the values of all variables, by their names.
        identity: what a run must have in common with the one that it takes up.
        started: when the run began, in seconds of the system's clock.
        seconds: how long it has trained.
        rows: of its log, the last of this step.
    """

    step: int
    arrays: Mapping[str, np.ndarray]
    identity: Mapping[str, Any]
    started: float
    seconds: float
    rows: Sequence[Mapping[str, Any]]

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"step-{self.step:010d}"


# --- writing


def save_state(folder: Path, state: State) -> None:
    """Write a state in place of what has its name, and delete those before the last ones."""
    if not folder.is_dir():
        folder.mkdir(parents=True)
        sync_folder(folder.parent)
    final, hidden = folder / state.name, folder / f".{state.name}.part"
    discard(hidden)
    hidden.mkdir()
    with open(hidden / ARRAYS, "wb") as file:
        np.savez(file, *state.arrays.values())
        sync_file(file)
    with open(hidden / RECORD, "w", encoding="utf-8") as file:
        json.dump(to_record(state, checksum(hidden / ARRAYS)), file, allow_nan=False)
        sync_file(file)
    sync_folder(hidden)
    discard(final)  # a damaged one
    hidden.rename(final)
    sync_folder(folder)
    numbered = sorted(path for path in folder.iterdir() if NAME.fullmatch(path.name))
    older = [path for path in numbered if path.name <= state.name][:-KEPT]
    for rubbish in (*older, *folder.glob(".step-*")):
        discard(rubbish)


def to_record(state: State, arrays_checksum: str) -> dict[str, Any]:
    """What `state.json` holds."""
    record = {
        "format": FORMAT,
        "step": state.step,
        "started": state.started,
        "seconds": state.seconds,
        "identity": state.identity,
        "rows": list(state.rows),
        "arrays": [
            [name, list(array.shape), str(array.dtype)] for name, array in state.arrays.items()
        ],
        ARRAYS: arrays_checksum,
    }
    return record | {"checksum": checksum_of(record)}


def discard(path: Path) -> None:
    """Delete a state, or what has its name.

    It loses its name first, so that no half of it is ever taken for one.
    """
    if not path.name.startswith(".") and (path.exists() or path.is_symlink()):
        hidden = path.with_name(f".{path.name}.old")
        discard(hidden)
        path = path.rename(hidden)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# --- reading


def newest_state(
    folder: Path, identity: Mapping[str, Any], passed_over: dict[str, str]
) -> State | None:
    """The newest state of a run that is whole; None if there is none, nor anything like it.

    Args:
        folder: where the states are, and whatever else.
        identity: that of the run.
        passed_over: names of states that are not taken, with the reasons; those that are found to
            be damaged, or of another run, are added.

    Raises:
        SystemExit: there are states, and none is whole and of this run; it names them.
    """
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    steps = {name: int(match[1]) for name in names if (match := NAME.fullmatch(name))}
    for name in sorted(steps.keys() - passed_over, key=steps.__getitem__, reverse=True):
        try:
            return read_state(folder / name, identity)
        except RefusedStateError as error:
            passed_over[name] = str(error)
    if passed_over:
        raise SystemExit(
            f"no state in {folder} can be taken up: {reasons(passed_over)}. Give the settings of "
            "that run or another --output, or delete the folder to begin anew"
        )
    return None


def reasons(passed_over: Mapping[str, str]) -> str:
    """Why states are not taken, in a line."""
    return "; ".join(f"{name}: {reason}" for name, reason in passed_over.items())


def read_state(path: Path, identity: Mapping[str, Any]) -> State:
    """Read a state of a run.

    Raises:
        RefusedStateError: it is not whole, was changed, or is of another run.
    """
    try:
        record = read_record(path / RECORD)
        check_identity(record["identity"], identity)
        arrays = read_arrays(path / ARRAYS, record)
        kept = {key: record[key] for key in ("step", "identity", "started", "seconds", "rows")}
        state = State(arrays=arrays, **kept)
        if state.name != path.name or state.rows[-1]["step"] != state.step:
            raise RefusedStateError(f"it says that it is of step {state.step}")
    # What was never ours, or was changed and its checksum made anew, may hold anything.
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, RefusedStateError):
            raise
        reason = f"{type(error).__name__}: {error}"
        raise RefusedStateError(f"it is no state of this program ({reason})") from error
    return state


def read_record(path: Path) -> dict[str, Any]:
    """What `state.json` holds, if it is whole."""
    if not path.is_file():
        raise RefusedStateError(f"it has no file {path.name}")
    record = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(record, dict) or record.pop("checksum", None) != checksum_of(record):
        raise RefusedStateError(f"the checksum in its {path.name} is wrong")
    if record["format"] != FORMAT:
        raise RefusedStateError(f"its format is {record['format']}, not {FORMAT}")
    return record


def check_identity(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse the state of a run with other settings or data."""
    for key in {**found, **wanted}:
        if found.get(key) != wanted.get(key):
            raise RefusedStateError(
                f"it is of a run with {key}={found.get(key)}, not {wanted.get(key)}"
            )


def read_arrays(path: Path, record: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays that `state.json` says are there, and no others."""
    if not path.is_file() or checksum(path) != record[ARRAYS]:
        raise RefusedStateError(f"the checksum of its {path.name} is wrong")
    with np.load(path, allow_pickle=False) as file:
        arrays = [file[name] for name in file.files]
    described = [[list(array.shape), str(array.dtype)] for array in arrays]
    if described != [rest for _, *rest in record["arrays"]]:
        raise RefusedStateError(f"the arrays in its {path.name} are others than it says")
    return {name: array for (name, *_), array in zip(record["arrays"], arrays, strict=True)}


def misfit(state: State, own: Mapping[str, np.ndarray], counter: str, skips: bool = False) -> str:
    """Why a state cannot be one of a model, although it is whole; "" if it can.

    Args:
        state: the state.
        own: the arrays of the model, of any values.
        counter: the name of that which counts the steps.
        skips: whether steps may have been left out.
    """
    ours, found = (
        [f"{name}, {array.shape} of {array.dtype}" for name, array in arrays.items()]
        for arrays in (own, state.arrays)
    )
    for one, other in zip_longest(ours, found, fillvalue="nothing more"):
        if one != other:
            return f"it has {other} where this model has {one}"
    counted = int(state.arrays[counter])
    fits = counted <= state.step if skips else counted == state.step
    return "" if fits else f"its optimizer has taken {counted} steps, and it says {state.step}"


# --- checksums


def checksum_of(record: Mapping[str, Any]) -> str:
    """The checksum of what JSON holds, however it is written."""
    content = json.dumps(record, sort_keys=True).encode()
    return f"{google_crc32c.value(content):08x}"


def checksum(path: Path) -> str:
    """The checksum of a file."""
    crc = 0
    with open(path, "rb") as file:
        while part := file.read(2**24):
            crc = google_crc32c.extend(crc, part)
    return f"{crc:08x}"


# --- one at a time


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from training into a folder, as long as this one lives.

    Raises:
        SystemExit: another one does.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SystemExit(
            f"another process trains into {folder}: wait for it, or give another --output"
        ) from None
    except OSError:  # a file system that has no locks
        pass
    try:
        yield
    finally:
        os.close(descriptor)
