"""Tensors as bytes in a mapped file: what safetensors, PyTorch and numpy files have in common."""

import contextlib
import math
import mmap
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

from bert4keras.checkpoints.base import (
    Checkpoint,
    CheckpointError,
    Damage,
    check_shape,
    open_regular,
    readable,
)

# === Types ===

# The type of the stored bytes, by the name of the type.
DTYPES = {
    name: np.dtype(name).newbyteorder("<")
    for name in (
        *("float16", "float32", "float64", "complex64", "complex128", "bool"),
        *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    )
}
# Types that numpy lacks, which are read as float32.
DTYPES |= {
    "bfloat16": np.dtype("<u2"),
    "float8_e4m3fn": np.dtype("u1"),
    "float8_e5m2": np.dtype("u1"),
}


@cache
def _float8(dtype: str) -> np.ndarray:
    """Values of all codes of a type of 8 bits (https://arxiv.org/abs/2209.05433).

    Of "float8_e5m2" a code is the upper half of a float16. "float8_e4m3fn" has 4 bits of exponent,
    whose bias is 7, and 3 of mantissa; there is no infinity, and only the code of all ones is NaN.
    """
    if dtype == "float8_e5m2":
        return (np.arange(256, dtype=np.uint16) << 8).view(np.float16).astype(np.float32)
    codes = np.arange(128)
    exponent, mantissa = codes >> 3, codes & 7
    normal = (8 + mantissa) * 2.0 ** (exponent - 10.0)
    positive = np.where(exponent == 0, mantissa * 2.0**-9, normal)
    positive[127] = np.nan
    return np.concatenate([positive, -positive]).astype(np.float32)


def decode(raw: np.ndarray, dtype: str) -> np.ndarray:
    """Interpret bytes as values of a type: a view where numpy has the type.

    Args:
        raw: contiguous bytes, their number a multiple of the size of the type.
        dtype: a key of `DTYPES`.
    """
    array = raw.view(DTYPES[dtype])
    if dtype == "bfloat16":
        wide = array.astype(np.uint32)
        wide <<= 16  # in place: a large variable takes as much room as it has to
        return wide.view(np.float32)
    if dtype.startswith("float8"):
        return _float8(dtype)[array]
    return array if array.flags.aligned else array.copy()


def encode(array: np.ndarray) -> np.ndarray:
    """Return the bytes of an array in C order, little-endian."""
    little = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
    return little.reshape(-1).view(np.uint8)


def decoded_type(dtype: str) -> np.dtype:
    """Return the dtype of what `decode` gives."""
    return decode(np.empty(0, np.uint8), dtype).dtype


# === Bytes of a file ===


class MappedFile:
    """A file mapped into memory, of which only the stretch read last is kept resident.

    Raises:
        CheckpointError: the file cannot be read.
    """

    def __init__(self, path: Path):
        self.path = path
        with readable(path), open_regular(path) as file:
            self.size = os.fstat(file.fileno()).st_size
            # An array keeps its map alive, so the map goes with the last of them.
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if self.size else None
        self._resident = (0, 0)

    def read(self, start: int, size: int) -> np.ndarray:
        """Return `size` bytes from `start` as a view of the map."""
        if start < 0 or size < 0 or start + size > self.size:
            raise Damage(f"bytes {start} to {start + size} are not in the {self.size} of the file")
        self._release()
        self._resident = (start, size)
        if not size:
            return np.empty(0, np.uint8)
        return np.frombuffer(self._data, np.uint8, size, start)

    def _release(self) -> None:
        """Give the pages of the stretch read before back, so that a model needs room only once.

        Views of it stay valid: the file is mapped read-only, so a page that is touched again comes
        back from the file.
        """
        start, size = self._resident
        if size and hasattr(mmap, "MADV_DONTNEED"):
            page = start - start % mmap.PAGESIZE
            self._data.madvise(mmap.MADV_DONTNEED, page, start + size - page)


@dataclass(eq=False)
class Stretch:
    """Consecutive bytes of a file, verified when they are read first.

    Attributes:
        file: the file.
        start: where they begin.
        size: their number.
        checksum: function of the bytes that gives what `expected` should be; None if nothing is
            known about them.
        expected: the checksum that the file says.
        packed: the number of bytes that they are deflated to; None if they lie there plainly.
    """

    file: MappedFile
    start: int
    size: int
    checksum: Callable[[np.ndarray], int] | None = None
    expected: int = 0
    packed: int | None = None
    _verified: bool = field(default=False, init=False)

    def read(self) -> np.ndarray:
        """Return the bytes: a view of the file if they are not deflated."""
        plain = self.packed is None
        raw = self.file.read(self.start, self.size) if plain else self._inflated()
        if self.checksum is not None and not self._verified:
            found = self.checksum(raw)
            if found != self.expected:
                raise Damage(
                    f"the checksum of its {self.size} bytes is {found:08x}, "
                    f"the file says {self.expected:08x}"
                )
            self._verified = True
        return raw

    def beginning(self, limit: int) -> bytes:
        """Return the first bytes, `limit` at most, without verifying anything."""
        if self.packed is None:
            return self.file.read(self.start, min(self.size, limit)).tobytes()
        packed = self.file.read(self.start, self.packed)
        with _inflating() as inflater:
            return inflater.decompress(packed, limit)

    def _inflated(self) -> np.ndarray:
        # Deflate shrinks data to a thousandth at most: more is a lie, and is not allocated.
        if self.size > 1032 * self.packed:
            raise Damage(f"{self.packed} deflated bytes claim to hold {self.size}")
        with _inflating() as inflater:
            # A byte more than there should be, so that more is noticed. (0 would mean no limit.)
            content = inflater.decompress(self.file.read(self.start, self.packed), self.size + 1)
        if len(content) != self.size:
            raise Damage(f"it inflates to another size than the {self.size} bytes it should have")
        return np.frombuffer(content, np.uint8)


@contextlib.contextmanager
def _inflating() -> Iterator["zlib._Decompress"]:
    try:
        yield zlib.decompressobj(-zlib.MAX_WBITS)
    except zlib.error as error:
        raise Damage(f"it cannot be inflated ({error})") from None


# === Tensors ===


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies.

    Attributes:
        dtype: a key of `DTYPES`, or the name of a type that cannot be read.
        shape: its shape.
        source: the bytes that it lies in.
        offset: where it begins in `source`, in bytes.
        strides: steps along each axis, in elements; None for C order.
    """

    dtype: str
    shape: tuple[int, ...]
    source: Stretch
    offset: int = 0
    strides: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_shape(self.shape)
        if self.dtype not in DTYPES:
            return
        size, step = self.source.size, DTYPES[self.dtype].itemsize
        # An expanded tensor, which repeats elements, would need more memory than its file.
        needed = step * max(self._span, math.prod(self.shape))
        if self.offset < 0 or min(self.strides or (), default=0) < 0 or self.offset + needed > size:
            raise Damage(
                f"a {self.dtype} variable of shape {self.shape} and strides {self.strides} at byte "
                f"{self.offset} does not lie within its {size} bytes"
            )

    @property
    def _span(self) -> int:
        """Elements from the first to the last."""
        if self.strides is None or 0 in self.shape:
            return math.prod(self.shape)
        return 1 + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))

    def read(self) -> np.ndarray:
        """Return the values, as a view where possible."""
        step = DTYPES[self.dtype].itemsize
        raw = self.source.read()[self.offset : self.offset + step * self._span]
        flat = decode(raw, self.dtype)
        if self.strides is None or 0 in self.shape:
            return flat.reshape(self.shape)
        # The stride of an axis of one element means nothing and may be too large a number.
        pairs = zip(self.shape, self.strides, strict=True)
        strides = [s * flat.itemsize if n > 1 else 0 for n, s in pairs]
        return np.lib.stride_tricks.as_strided(flat, self.shape, strides)


class TensorFile(Checkpoint):
    """An open file whose entries are of the class `Tensor`.

    Args:
        path: the file.
        container: its format.
        tensors: what lies in it, by name.
        metadata: see `Checkpoint`.
    """

    def __init__(
        self,
        path: Path,
        container: str,
        tensors: dict[str, Tensor],
        metadata: Mapping[str, str] | None = None,
    ):
        super().__init__(path, tensors, metadata)
        self.container = container

    def _shape(self, entry: Tensor) -> tuple[int, ...]:
        return entry.shape

    def _dtype(self, entry: Tensor) -> np.dtype:
        if entry.dtype not in DTYPES:
            raise Damage(
                f"it is of type {entry.dtype}",
                f"Types that can be read: {', '.join(DTYPES)}. Convert it to one of them.",
            )
        return decoded_type(entry.dtype)

    def _read(self, name: str, entry: Tensor) -> np.ndarray:
        return entry.read()


class ShardedCheckpoint(Checkpoint):
    """Checkpoints that together are one.

    Args:
        path: the index file, which says what lies where.
        places: the open checkpoint that holds a variable, by name of the variable.

    Raises:
        CheckpointError: a variable is not where the index says.
    """

    def __init__(self, path: Path, places: dict[str, Checkpoint]):
        first = next(iter(places.values()), None)
        metadata = first.metadata if first is not None else {}
        super().__init__(path, {name: (name, shard) for name, shard in places.items()}, metadata)
        self._shards = set(places.values())
        self.container = first.container if first is not None else "safetensors"
        for name, shard in places.items():
            if name not in shard:
                raise CheckpointError(
                    f"{path} says that {shard.path.name} holds {name!r}, which it does not: they "
                    "are not of the same model, or one is damaged. Fetch all of them again."
                )

    def close(self) -> None:
        """Let go of the files. Arrays already read stay valid."""
        super().close()
        for shard in self._shards:
            shard.close()

    def _shape(self, entry: tuple[str, Checkpoint]) -> tuple[int, ...]:
        return entry[1].shape(entry[0])

    def _dtype(self, entry: tuple[str, Checkpoint]) -> np.dtype:
        return entry[1].dtype(entry[0])

    def _read(self, name: str, entry: tuple[str, Checkpoint]) -> np.ndarray:
        return entry[1][name]
