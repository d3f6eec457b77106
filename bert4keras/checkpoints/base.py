"""Shared by all formats of weight files: the exception, the open checkpoint, paths."""

import contextlib
import difflib
import itertools
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeVar

import numpy as np


class CheckpointError(ValueError):
    """A weight file is missing, unreadable, damaged, of another format or of another model."""


ARCHITECTURE = "bert4keras.architecture"
"""Key of the architecture in the metadata of weight files; the value is a `model_type`."""

DAMAGED = "The file is damaged or was not copied completely: fetch it again."
BOUNDED = "All known weight files are far below this limit: it is not what it claims to be."


class Damage(Exception):
    """Fault within a file, raised where the name of the file is not known.

    Args:
        fault: the fault.
        advice: what to do about it, a sentence.
    """

    def __init__(self, fault: str, advice: str = DAMAGED):
        super().__init__(fault)
        self.advice = advice


def check_shape(shape: tuple[int, ...]) -> None:
    """Raise a `Damage` for a shape that NumPy does not support."""
    # NumPy 1 has at most 32 axes, and addresses arrays with 63 bits even if they are empty.
    elements = 1
    for n in shape[:33]:
        elements *= n or 1
    if len(shape) > 32 or min(shape, default=0) < 0 or elements >> 58:
        raise Damage(f"a variable has the impossible shape {str(shape[:33])[:200]}")


_MAX_RATIO = 64  # of unpacked to packed size: weights of which 99 % are zeros
_ALWAYS_ALLOWED = 64 << 20  # unpacked bytes


def check_unpacked(unpacked: int, size: int) -> None:
    """Raise a `Damage` for a file that claims to unpack to very much more than its size."""
    if unpacked > _ALWAYS_ALLOWED + _MAX_RATIO * size:
        raise Damage(
            f"its {size} bytes are said to unpack to {unpacked}, more than {_MAX_RATIO} times as "
            "much",
            BOUNDED,
        )


# === An open checkpoint ===


class Checkpoint(ABC):
    """Names, shapes and values of the variables in an open weight file.

    Iteration yields the names in sorted order; `name in checkpoint`, `len(checkpoint)` and
    `checkpoint[name]` work as for a dict. Values are read on demand. It is created by
    :func:`open_checkpoint`, and is a context manager; arrays remain valid after closing.

    Attributes:
        container: the format: "tensorflow", "safetensors", "torch", "npz" or "keras".
        path: the file; for a TensorFlow checkpoint its prefix, for several files their index.
        metadata: further strings by name in the file, which are not verified.
    """

    container: str

    def __init__(
        self, path: Path, entries: dict[str, Any], metadata: Mapping[str, str] | None = None
    ):
        self.path = path
        self.metadata = dict(metadata or {})
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
        """Release the files. Arrays that have been read remain valid."""
        self._open = False

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a variable.

        Raises:
            CheckpointError: the checkpoint has no such variable.
        """
        return self._shape(self._entry(name))

    def dtype(self, name: str) -> np.dtype:
        """Return the dtype with which a variable is read.

        Types that NumPy does not have (bfloat16, float8) are read as float32; strings, which only
        TensorFlow has, as objects (`bytes`).

        Raises:
            CheckpointError: there is no such variable, or its type cannot be read.
        """
        entry = self._entry(name)
        with self._faults_of(name):
            return self._dtype(entry)

    def __getitem__(self, name: str) -> np.ndarray:
        """Read a variable and verify its checksum (once) if the format has one.

        Returns:
            A read-only array: a view of the mapped file where possible, otherwise a copy (types
            that NumPy does not have, compressed, partitioned or unaligned data).

        Raises:
            CheckpointError: there is no such variable, or the file is missing or damaged.
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
                f"{self.path}: the variable {name[:200]!r} cannot be read: {damage}. "
                f"{damage.advice}"
            ) from None

    def _entry(self, name: str) -> Any:
        if name in self._entries:
            return self._entries[name]
        near = similar_names(str(name), self._entries)
        raise CheckpointError(
            f"{self.path} has no variable {str(name)[:200]!r} among its {len(self)}. "
            + (f"Similar names: {', '.join(near)}." if near else "No name is similar.")
        )

    @abstractmethod
    def _shape(self, entry: Any) -> tuple[int, ...]:
        """Return the shape of the variable of an entry."""

    @abstractmethod
    def _dtype(self, entry: Any) -> np.dtype:
        """Return the dtype of the result of `_read`, or raise `Damage` if there is none."""

    @abstractmethod
    def _read(self, name: str, entry: Any) -> np.ndarray:
        """Read the variable of an entry, or raise `Damage`."""


def similar_names(name: str, names: Iterable[str]) -> list[str]:
    """Return up to three similar names among the first few hundred."""
    candidates = (other for other in itertools.islice(names, 500) if len(other) < 300)
    return difflib.get_close_matches(name[:200], candidates, n=3)


# === Paths ===


def with_suffix(path: Path, suffix: str) -> Path:
    """Append a suffix to the name of a file, which may already have one."""
    return path.parent / (path.name + suffix)


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn errors of the operating system into a `CheckpointError` that names the file."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None


@contextlib.contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading, but no pipe, which may block forever, and no device.

    Raises:
        CheckpointError: it is not a regular file.
    """
    # Without blocking until a writer opens a pipe.
    with open(path, "rb", opener=lambda p, flags: os.open(p, flags | _NON_BLOCKING)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise CheckpointError(f"{path} is not a regular file: give a file with weights")
        yield file


_NON_BLOCKING = getattr(os, "O_NONBLOCK", 0)


def file_state(path: str | Path | None) -> tuple[int, ...] | None:
    """Return a state by which to detect that a file is replaced; None if there is none."""
    try:
        status = None if path is None else os.stat(path)
    except OSError:
        return None
    return status and (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


_T = TypeVar("_T")
_TRIALS = 5


def unchanged(path: Path, read: Callable[[], _T]) -> _T:
    """Open the files in an index, again if it is replaced meanwhile, so that none are mixed.

    Args:
        path: the index.
        read: opens all files.
    """
    for _ in range(_TRIALS):
        state = file_state(path)
        try:
            result = read()
        except CheckpointError:
            if file_state(path) == state:
                raise
        else:
            if file_state(path) == state:
                return result
    raise CheckpointError(f"{path} keeps being replaced: try again later")


@contextlib.contextmanager
def undamaged(path: Path, what: str) -> Iterator[None]:
    """Turn `Damage` into a `CheckpointError` with the name of the file and the expected format."""
    try:
        yield
    except Damage as damage:
        raise CheckpointError(f"{path} is not {what}: {damage}. {damage.advice}") from None


def neighbours(path: Path) -> str:
    """Return the names of files next to `path`, the most similar ones first."""
    if not path.parent.is_dir():
        return f"none, the folder {path.parent} does not exist"
    found = itertools.islice(path.parent.iterdir(), 1000)
    names = sorted(p.name for p in found if not p.name.startswith("."))
    near = difflib.get_close_matches(path.name, names, n=5, cutoff=0.5)
    return ", ".join((near + [n for n in names if n not in near])[:8]) or "none"
