"""Damage saved states of pretraining in every way, kill their writer, and see what is taken up.

    python tests/support/faults_states.py              # the table
    python tests/support/faults_states.py killed       # some of its lines

There is an older state, and a newer one that is damaged. What happens holds if the run goes on from
one of the two as it was written, to the bit, or is refused in a sentence that names the state.
`test_pretraining_data.py` runs all of it.

Who makes all checksums anew writes another state: what does not fit the model or the step is
refused, but another loss in the log, or two arrays of one shape in each other's place, cannot be
told from a state that was always so. These are not among the attempts.
"""

import json
import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "pretraining"))

import state as states
from state import ARRAYS, RECORD, State

COUNTER = "3 adam/iteration"
OLDER, NEWER = 2, 4
IDENTITY = {"layers": 1, "backend": "tensorflow", "data": "0a1b2c3d", "valid": None, "seed": 0}


def made(step: int, identity: dict[str, Any] = IDENTITY) -> State:
    """A state of a small run."""
    rng = np.random.default_rng(step)
    arrays = {
        "0 dense/kernel": rng.normal(size=(4, 3)).astype("float32"),
        "1 dense/bias": rng.normal(size=(3,)).astype("float32"),
        "2 dense/gamma": rng.normal(size=(3,)).astype("float32"),
        COUNTER: np.array(step, "int64"),
        "4 adam/moment": rng.normal(size=(4, 3)).astype("float32"),
        "generator 0": rng.integers(0, 256, 16).astype("uint8"),
    }
    rows = [{"step": s, "loss": 3.5 - s / 8, "learning_rate": 1e-3} for s in range(2, step + 1, 2)]
    return State(step, arrays, identity, 1_700_000_000.25, 12.5 * step, rows)


def equal(one: State, other: State) -> bool:
    """Whether two states are the same to the bit."""
    arrays = [
        (a.dtype, a.shape, a.tobytes()) for each in (one, other) for a in each.arrays.values()
    ]
    half = len(arrays) // 2
    return (
        arrays[:half] == arrays[half:]
        and list(one.arrays) == list(other.arrays)
        and replace(one, arrays={}) == replace(other, arrays={})
    )


# --- damage


Damage = Callable[[Path], None]
"""Does something to the folder of all states."""


def newest(folder: Path) -> Path:
    return folder / made(NEWER).name


def on_files() -> Iterator[tuple[str, Damage]]:
    """Each file cut, flipped, replaced or taken away."""
    for name in (ARRAYS, RECORD):

        def cut(folder: Path, share: float, name: str = name) -> None:
            path = newest(folder) / name
            os.truncate(path, int(share * path.stat().st_size))

        def flip(folder: Path, share: float, bit: int, name: str = name) -> None:
            path = newest(folder) / name
            content = bytearray(path.read_bytes())
            content[int(share * len(content))] ^= 1 << bit
            path.write_bytes(content)

        def put(folder: Path, make: Callable[[Path, Path], Any], name: str = name) -> None:
            path = newest(folder) / name
            content = folder / "content"
            path.rename(content)
            make(path, content)

        for share in (0, 0.01, 0.5, 0.99):
            yield f"{name} cut at {share:.0%}", partial(cut, share=share)
        for i in range(12):
            share, bit = i / 12, i % 8
            damage = partial(flip, share=share, bit=bit)
            yield f"{name}, bit {bit} at {share:.0%}", damage
        other = {ARRAYS: RECORD, RECORD: ARRAYS}[name]
        for what, make in {
            "gone": lambda path, content: content.unlink(),
            "longer": lambda path, content: path.write_bytes(content.read_bytes() + b"\0"),
            "twice": lambda path, content: path.write_bytes(content.read_bytes() * 2),
            "of the older state": lambda path, content: shutil.copy(
                path.parents[1] / made(OLDER).name / path.name, path
            ),
            "the other file": lambda path, content, other=other: shutil.copy(
                path.parent / other, path
            ),
            "a folder": lambda path, content: path.mkdir(),
            "a FIFO": lambda path, content: os.mkfifo(path),
            "a link to nowhere": lambda path, content: path.symlink_to("nowhere"),
            "a link to itself": lambda path, content: path.symlink_to(path),
            "a link to what it was": lambda path, content: path.symlink_to(content),
            "an endless device": lambda path, content: path.symlink_to("/dev/zero"),
            "no bytes": lambda path, content: path.write_bytes(b""),
            "zeros": lambda path, content: path.write_bytes(b"\0" * 1000),
        }.items():
            yield f"{name} is {what}", partial(put, make=make)


ODD = (None, True, -1, "a", [], {}, [[]])


def on_records() -> Iterator[tuple[str, Damage]]:
    """Each key of `state.json` taken away or given other values, and whole other contents."""

    def edited(change: Callable[[dict], Any], anew: bool) -> Damage:
        def damage(folder: Path) -> None:
            path = newest(folder) / RECORD
            record = json.loads(path.read_text())
            change(record)
            if anew:
                record.pop("checksum", None)
                record["checksum"] = states.checksum_of(record)
            path.write_text(json.dumps(record))

        return damage

    keys = states.to_record(made(NEWER), "00000000")
    for key in keys:
        yield f"without {key}", edited(lambda r, k=key: r.pop(k), False)
        for value in ODD:
            change = edited(lambda r, k=key, v=value: r.update({k: v}), False)
            yield f"{key} is {value!r}", change
    nudges: dict[str, Callable[[dict], Any]] = {
        "a step later": lambda r: r.update(step=r["step"] + 2),
        "a step earlier": lambda r: r.update(step=OLDER),
        "another loss": lambda r: r["rows"][-1].update(loss=1.0),
        "a row less": lambda r: r["rows"].pop(),
        "another setting": lambda r: r["identity"].update(layers=2),
        "a setting less": lambda r: r["identity"].pop("data"),
        "a setting more": lambda r: r["identity"].update(more=1),
        "other data": lambda r: r["identity"].update(data="ffffffff"),
        "later": lambda r: r.update(seconds=r["seconds"] + 1),
        "two names exchanged": lambda r: r["arrays"].insert(1, r["arrays"].pop(2)),
        "another name": lambda r: r["arrays"][0].__setitem__(0, "0 other/kernel"),
        "another shape": lambda r: r["arrays"][0].__setitem__(1, [3, 4]),
        "another type": lambda r: r["arrays"][0].__setitem__(2, "float16"),
        "an array less": lambda r: r["arrays"].pop(),
        "another format": lambda r: r.update(format=1),
        "a key more": lambda r: r.update(more=1),
    }
    for name, change in nudges.items():
        yield name, edited(change, False)
        if name not in ("another loss", "later", "a key more"):
            yield f"{name}, its checksum anew", edited(change, True)
    for key in keys.keys() - {"checksum", "started", "seconds"}:
        yield f"without {key}, its checksum anew", edited(lambda r, k=key: r.pop(k), True)
        for value in ODD:
            change = edited(lambda r, k=key, v=value: r.update({k: v}), True)
            yield f"{key} is {value!r}, its checksum anew", change
    whole = ["", "{}", "[]", "null", "1", '"a"', "{", "[" * 100_000, "NaN", "\ufeff{}", "\0"]
    for content in whole:
        damage = partial(lambda folder, c: (newest(folder) / RECORD).write_text(c), c=content)
        yield f"all of it is {content[:9]!r}", damage


def on_arrays() -> Iterator[tuple[str, Damage]]:
    """Arrays taken out, exchanged, changed, with their checksum made anew, or all of them."""

    def rewritten(change: Callable[[dict], Any], anew: bool) -> Damage:
        def damage(folder: Path) -> None:
            path, record_path = newest(folder) / ARRAYS, newest(folder) / RECORD
            with np.load(path) as file:
                arrays = {name: file[name] for name in file.files}
            change(arrays)
            np.savez(path, **arrays)
            record = json.loads(record_path.read_text())
            record[ARRAYS] = states.checksum(path)
            if anew:
                del record["checksum"]
                record["checksum"] = states.checksum_of(record)
            record_path.write_text(json.dumps(record))

        return damage

    def exchange(arrays: dict, one: str, other: str) -> None:
        arrays[one], arrays[other] = arrays[other], arrays[one]

    same: dict[str, Callable[[dict], Any]] = {
        "exchanged": lambda a: exchange(a, "arr_1", "arr_2"),
        "another number": lambda a: a["arr_0"].__setitem__((0, 0), 7),
        "NaN": lambda a: a["arr_0"].fill(np.nan),
    }
    others: dict[str, Callable[[dict], Any]] = {
        "the first taken out": lambda a: a.pop("arr_0"),
        "the last taken out": lambda a: a.pop("arr_5"),
        "all taken out": lambda a: a.clear(),
        "one more": lambda a: a.update(arr_6=np.zeros(3)),
        "exchanged with another shape": lambda a: exchange(a, "arr_0", "arr_1"),
        "another type": lambda a: a.update(arr_0=a["arr_0"].astype("float64")),
        "another shape": lambda a: a.update(arr_0=a["arr_0"].T),
        "an axis more": lambda a: a.update(arr_1=a["arr_1"][None]),
        "other names": lambda a: a.update(other=a.pop("arr_0")),
        "text": lambda a: a.update(arr_1=np.array(["a", "b", "c"])),
        "another count of steps": lambda a: a.update(arr_3=np.array(OLDER)),
    }
    for name, change in {**same, **others}.items():
        yield f"arrays {name}, their checksum anew", rewritten(change, False)
    for name, change in others.items():
        yield f"arrays {name}, all checksums anew", rewritten(change, True)


def beside() -> Iterator[tuple[str, Damage]]:
    """What else may lie in the folder; the newer state is whole."""
    later = "step-0000000006"
    odd = [later, "step-99999999999999999999", "step-", "step-abc", "step-6", "step-０000000006"]
    odd += [".step-0000000004.part", "step-0000000004.bak", "notes", "日志"]
    for name in odd:
        for what, make in {
            "an empty folder": Path.mkdir,
            "a file": lambda path: path.write_text("notes"),
            "a FIFO": os.mkfifo,
            "a link to nowhere": lambda path: path.symlink_to("nowhere"),
            "a link to itself": lambda path: path.symlink_to(path),
            "a link to the folder": lambda path: path.symlink_to(path.parent),
        }.items():
            damage = partial(lambda folder, name, make: make(folder / name), name=name, make=make)
            yield f"{name} is {what}", damage

    def copied(folder: Path) -> None:
        shutil.copytree(newest(folder), folder / later)

    def of_another_run(folder: Path) -> None:
        states.save_state(folder / "elsewhere", made(6, IDENTITY | {"layers": 2}))
        (folder / "elsewhere" / later).rename(folder / later)

    def of_another_model(folder: Path) -> None:
        other = made(6)
        arrays = {**other.arrays, "0 dense/kernel": np.zeros((5, 3), "float32")}
        states.save_state(folder / "elsewhere", replace(other, arrays=arrays))
        (folder / "elsewhere" / later).rename(folder / later)

    def as_it_was(folder: Path) -> None:
        """Written before there was a checksum of everything."""
        path = folder / later
        path.mkdir()
        np.savez(path / ARRAYS, *made(6).arrays.values())
        record = {"step": 6, "checksum": states.checksum(path / ARRAYS), "identity": IDENTITY}
        (path / RECORD).write_text(json.dumps(record | {"started": 0, "seconds": 0, "rows": []}))

    yield "a copy under another name", copied
    yield "a state of another run", of_another_run
    yield "a state of another model", of_another_model
    yield "a state of an older format", as_it_was


DAMAGE = {
    "files": on_files,
    "state.json": on_records,
    "arrays": on_arrays,
    "beside": beside,
}


# --- what is taken up


@dataclass
class Attempt:
    """What was tried and what came of it."""

    name: str
    outcome: str  # newer, older, refused; all else fell


def taken_up(folder: Path) -> State | None:
    """What `pretraining.py` does, on the model of `made`."""
    passed_over: dict[str, str] = {}
    while state := states.newest_state(folder, IDENTITY, passed_over):
        reason = states.misfit(state, made(0).arrays, COUNTER)
        if not reason:
            return state
        passed_over[state.name] = reason
    return None


def outcome(folder: Path, only: bool) -> str:
    """What is taken up: one of two states, or none as there is `only` one."""
    try:
        state = taken_up(folder)
    except SystemExit as error:
        named = made(NEWER).name in str(error)
        return "refused" if only and named else f"refused: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if state is None:
        return "nothing"
    for name, step in (("newer", NEWER), ("older", OLDER)):
        if equal(state, made(step)):
            return name
    return "something else"


def damaged(kind: str, parent: Path) -> Iterator[Attempt]:
    """All damage of a kind, with an older state and without; and the next state is written."""
    original = parent / "original"
    for step in (OLDER, NEWER):
        states.save_state(original, made(step))
    for i, (name, damage) in enumerate(DAMAGE[kind]()):
        for only in (False, True):
            folder = parent / f"{kind}-{i}-{only}"
            shutil.copytree(original, folder)
            damage(folder)
            if only:
                shutil.rmtree(folder / made(OLDER).name)
            found = outcome(folder, only)
            allowed = {"newer"} if kind == "beside" else {"newer", "older", "refused"}
            if found in allowed:
                states.save_state(folder, made(NEWER))
                again = outcome(folder, only)
                found = found if again == "newer" else f"after the next state: {again}"
            yield Attempt(f"{name}{', alone' if only else ''}", found)
            shutil.rmtree(folder)


def killed(parent: Path) -> Iterator[Attempt]:
    """A writer that is killed at each of its operations on files, and the one after it."""
    for point in range(1, 1000):
        folder = parent / "killed"
        shutil.rmtree(folder, ignore_errors=True)
        states.save_state(folder, made(OLDER))
        pid = os.fork()
        if pid == 0:
            die_at(point)
            states.save_state(folder, made(NEWER))
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        found = outcome(folder, False)
        states.save_state(folder, made(NEWER))
        rubbish = {path.name for path in folder.iterdir()} - {made(OLDER).name, made(NEWER).name}
        if found in ("newer", "older") and (rubbish or outcome(folder, False) != "newer"):
            found = f"left after the next state: {rubbish}"
        yield Attempt(f"killed at {point}", found)
        if os.WIFEXITED(status):
            return


def die_at(point: int) -> None:
    """Kill this process at its n-th operation on files, those of bytes included."""
    count = 0

    def step(*event: Any) -> None:
        nonlocal count
        if event[0] in OPERATIONS:
            count += 1
            if count == point:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(step)
    sync = states.sync_file

    def sync_file(file: Any) -> None:
        step("open")  # what was written may still be in our memory
        file.flush()
        step("open")
        sync(file)

    states.sync_file = sync_file


OPERATIONS = {
    *("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir", "os.truncate"),
    *("shutil.rmtree", "shutil.copyfile", "shutil.move"),
}


def attempts(kind: str) -> list[Attempt]:
    """All attempts of a kind, in a folder of their own."""
    # Bringing bytes to the disk would take nearly all of the time.
    with tempfile.TemporaryDirectory() as parent, patch("os.fsync"):
        found = killed(Path(parent)) if kind == "killed" else damaged(kind, Path(parent))
        return list(found)


KINDS = (*DAMAGE, "killed")
HELD = ("newer", "older", "refused")


def main(kinds: list[str]) -> None:
    failed = 0
    print("| | tried | goes on from the newer | from the older | refused by name | fell |")
    print("|---|--:|--:|--:|--:|--:|")
    for kind in kinds or KINDS:
        found = attempts(kind)
        counts = Counter(each.outcome for each in found)
        fell = [each for each in found if each.outcome not in HELD]
        numbers = [len(found), *(counts[each] for each in HELD), len(fell)]
        print(f"| {kind} | {' | '.join(map(str, numbers))} |", flush=True)
        for each in fell:
            print(f"  {kind}: {each.name}: {each.outcome[:200]}", file=sys.stderr)
        failed += len(fell)
    raise SystemExit(failed > 0)


if __name__ == "__main__":
    main(sys.argv[1:])
