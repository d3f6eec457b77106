"""What all containers of weights share: the exception, the open checkpoint, paths."""

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
"""In the metadata of weight files: what architecture they are of, as `model_type` says."""

DAMAGED = "The file is damaged or was not copied completely: fetch it again."
BOUNDED = "All known files of weights stay far below this: it is not what it claims to be."


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
        raise Damage(f"a variable has the impossible shape {str(shape[:33])[:200]}")


_MOST_UNPACKED = 64  # times the size of a file: weights of which 99 % are zeros
_ALWAYS_UNPACKED = 64 << 20  # bytes


def check_unpacked(unpacked: int, size: int) -> None:
    """Refuse a file that says it unpacks to very much more than it has."""
    if unpacked > _ALWAYS_UNPACKED + _MOST_UNPACKED * size:
        raise Damage(
            f"its {size} bytes are said to unpack to {unpacked}, more than {_MOST_UNPACKED} times "
            "as much",
            BOUNDED,
        )


# === An open checkpoint ===


class Checkpoint(ABC):
    """Names, shapes and values of the variables in an open weight file.

    Iterating gives the names in sorted order; `name in checkpoint`, `len(checkpoint)` and
    `checkpoint[name]` work as with a dict. Values are read when asked for. Made by
    :func:`open_checkpoint`. It is a context manager; arrays stay valid after closing.

    Attributes:
        container: the format: "tensorflow", "safetensors", "torch", "npz" or "keras".
        path: the file; of a TensorFlow checkpoint its prefix, of several files their index.
        metadata: strings by name that the file has besides, which nothing guarantees for.
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
        """Return the shape of what an entry describes."""

    @abstractmethod
    def _dtype(self, entry: Any) -> np.dtype:
        """Return the dtype that `_read` gives, or raise `Damage` if there is none."""

    @abstractmethod
    def _read(self, name: str, entry: Any) -> np.ndarray:
        """Read what an entry describes, or raise `Damage`."""


def similar_names(name: str, names: Iterable[str]) -> list[str]:
    """Return up to three names that are spelled similarly, of the first few hundred."""
    some = (other for other in itertools.islice(names, 500) if len(other) < 300)
    return difflib.get_close_matches(name[:200], some, n=3)


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
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading; a pipe, which may wait for ever, and a device are none.

    Raises:
        CheckpointError: it is something else.
    """
    # Without waiting for somebody who writes into a pipe.
    with open(path, "rb", opener=lambda p, flags: os.open(p, flags | _NO_WAITING)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise CheckpointError(f"{path} is no regular file, and is not read")
        yield file


_NO_WAITING = getattr(os, "O_NONBLOCK", 0)


def file_state(path: str | Path | None) -> tuple[int, ...] | None:
    """Return what tells whether a path stands for the same file later; None if for none."""
    try:
        status = None if path is None else os.stat(path)
    except OSError:
        return None
    return status and (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


_T = TypeVar("_T")
_TRIALS = 5


def unchanged(path: Path, read: Callable[[], _T]) -> _T:
    """Open files that an index names, again if it is replaced meanwhile: never two mixed.

    Args:
        path: the index.
        read: opens everything.
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
    raise CheckpointError(f"{path} is replaced all the time: try again later")


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
    found = itertools.islice(path.parent.iterdir(), 1000)
    names = sorted(p.name for p in found if not p.name.startswith("."))
    near = difflib.get_close_matches(path.name, names, n=5, cutoff=0.5)
    return ", ".join((near + [n for n in names if n not in near])[:8]) or "none"
