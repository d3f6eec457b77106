"""What all containers of weights share: the exception, the open checkpoint, paths."""

import contextlib
import difflib
import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np


class CheckpointError(ValueError):
    """A weight file is missing, unreadable, damaged, of another format or of another model."""


DAMAGED = "The file is damaged or was not copied completely: fetch it again."


class Damage(Exception):
    """What is wrong inside a file, said where the name of the file is not known.

    Args:
        fault: what is wrong.
        advice: what to do about it, a sentence.
    """

    def __init__(self, fault: str, advice: str = DAMAGED):
        super().__init__(fault)
        self.advice = advice


def check_shape(shape: tuple[int, ...]) -> None:
    """Refuse a shape that numpy cannot have."""
    # 32 axes are the limit of numpy 1; its arrays are addressed with 63 bits even when empty.
    elements = 1
    for n in shape[:33]:
        elements *= n or 1
    if len(shape) > 32 or min(shape, default=0) < 0 or elements >> 58:
        raise Damage(f"a variable has the impossible shape {shape[:33]}")


# === An open checkpoint ===


class Checkpoint(ABC):
    """Names, shapes and values of the variables in an open weight file.

    Iterating gives the names in sorted order; `name in checkpoint`, `len(checkpoint)` and
    `checkpoint[name]` work as with a dict. Values are read when asked for. Made by
    :func:`open_checkpoint`. It is a context manager; arrays stay valid after closing.

    Attributes:
        container: the format: "tensorflow", "safetensors", "torch", "npz" or "keras".
        path: the file; of a TensorFlow checkpoint its prefix, of several files their index.
    """

    container: str

    def __init__(self, path: Path, entries: dict[str, Any]):
        self.path = path
        self._entries = {name: entries[name] for name in sorted(entries)}
        self._open = True

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r}, {len(self)} variables)"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files. Arrays already read stay valid."""
        self._open = False

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a variable.

        Raises:
            CheckpointError: the checkpoint has no such variable.
        """
        return self._shape(self._entry(name))

    def dtype(self, name: str) -> np.dtype:
        """Return the dtype of the array that reading a variable gives.

        Types that numpy lacks (bfloat16, float8) are read as float32; strings, which only
        TensorFlow has, as objects (`bytes`).

        Raises:
            CheckpointError: the checkpoint has no such variable, or numpy no such type.
        """
        entry = self._entry(name)
        with self._faults_of(name):
            return self._dtype(entry)

    def __getitem__(self, name: str) -> np.ndarray:
        """Read a variable and verify its checksum (once) if the format has one.

        Returns:
            A read-only array: a view of the mapped file where possible, or else a copy (types that
            numpy lacks, compressed or partitioned data, data at an odd address).

        Raises:
            CheckpointError: no such variable; file missing, truncated or damaged.
        """
        entry = self._entry(name)
        self.dtype(name)
        if not self._open:
            raise CheckpointError(f"{self.path} was closed. Open it again to read from it.")
        with self._faults_of(name):
            array = self._read(name, entry)
        array.flags.writeable = False
        return array

    @contextlib.contextmanager
    def _faults_of(self, name: str) -> Iterator[None]:
        try:
            yield
        except Damage as damage:
            raise CheckpointError(
                f"{self.path}: the variable {name!r} cannot be read: {damage}. {damage.advice}"
            ) from None

    def _entry(self, name: str) -> Any:
        if name in self._entries:
            return self._entries[name]
        near = difflib.get_close_matches(str(name), self._entries, n=3)
        raise CheckpointError(
            f"{self.path} has no variable {name!r} among its {len(self)}. "
            + (f"Similar names: {', '.join(near)}." if near else "No name is similar.")
        )

    @abstractmethod
    def _shape(self, entry: Any) -> tuple[int, ...]:
        """Return the shape of what an entry describes."""

    @abstractmethod
    def _dtype(self, entry: Any) -> np.dtype:
        """Return the dtype that `_read` gives, or raise `Damage` if there is none."""

    @abstractmethod
    def _read(self, name: str, entry: Any) -> np.ndarray:
        """Read what an entry describes, or raise `Damage`."""


# === Paths ===


def with_suffix(path: Path, suffix: str) -> Path:
    """Append to the name of a file, whatever suffix it has."""
    return path.parent / (path.name + suffix)


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn errors of the operating system into a `CheckpointError` that names the file."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None


@contextlib.contextmanager
def undamaged(path: Path, what: str) -> Iterator[None]:
    """Turn `Damage` into a `CheckpointError` that names the file and says what it is not."""
    try:
        yield
    except Damage as damage:
        raise CheckpointError(f"{path} is not {what}: {damage}. {damage.advice}") from None


def neighbours(path: Path) -> str:
    """Names of files beside `path`, the most similar ones first."""
    if not path.parent.is_dir():
        return f"none, the folder {path.parent} does not exist"
    names = sorted(p.name for p in path.parent.iterdir())
    near = difflib.get_close_matches(path.name, names, n=5, cutoff=0.5)
    return ", ".join((near + [n for n in names if n not in near])[:8]) or "none"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that takes the place of `path` once it is written and synced."""
    if not path.parent.is_dir():
        raise CheckpointError(f"cannot write {path}: there is no folder {path.parent}. Create it.")
    temporary = with_suffix(path, f".{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
