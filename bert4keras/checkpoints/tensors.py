"""Tensors as bytes in a mapped file, shared by safetensors, PyTorch and NumPy files."""

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
# Types that NumPy does not have, which are read as float32.
DTYPES |= {
    "bfloat16": np.dtype("<u2"),
    "float8_e4m3fn": np.dtype("u1"),
    "float8_e5m2": np.dtype("u1"),
}


@cache
def _float8(dtype: str) -> np.ndarray:
    """Return the values of all codes of an 8-bit type (https://arxiv.org/abs/2209.05433).

    A code of "float8_e5m2" is the upper half of a float16. "float8_e4m3fn" has 4 bits of exponent
    with a bias of 7, and 3 of mantissa; there is no infinity, and only the code of all ones is NaN.
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
    """Interpret bytes as values of a type: a view if NumPy has the type.

    Args:
        raw: contiguous bytes, their number a multiple of the size of the type.
        dtype: a key of `DTYPES`.
    """
    array = raw.view(DTYPES[dtype])
    if dtype == "bfloat16":
        wide = array.astype(np.uint32)
        wide <<= 16  # in place, to save memory for large variables
        return wide.view(np.float32)
    if dtype.startswith("float8"):
        return _float8(dtype)[array]
    return array if array.flags.aligned else array.copy()


def encode(array: np.ndarray) -> np.ndarray:
    """Return the bytes of an array in C order, little-endian."""
    little = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
    return little.reshape(-1).view(np.uint8)


def decoded_type(dtype: str) -> np.dtype:
    """Return the dtype of the result of `decode`."""
    return decode(np.empty(0, np.uint8), dtype).dtype


# === Bytes of a file ===


class MappedFile:
    """A file mapped into memory, of which only the last range read is kept resident.

    Raises:
        CheckpointError: the file cannot be read.
    """

    def __init__(self, path: Path):
        self.path = path
        with readable(path), open_regular(path) as file:
            self.size = os.fstat(file.fileno()).st_size
            # An array keeps the map alive, which is closed with the last of them.
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
        """Release the pages of the previous range, so that a model is in memory only once.

        Views of it remain valid: the file is mapped read-only, so that a page that is accessed
        again is read from the file.
        """
        start, size = self._resident
        if size and hasattr(mmap, "MADV_DONTNEED"):
            page = start - start % mmap.PAGESIZE
            self._data.madvise(mmap.MADV_DONTNEED, page, start + size - page)


@dataclass(eq=False)
class ByteRange:
    """Range of bytes of a file, verified when it is first read.

    Attributes:
        file: the file.
        start: the position of the first byte.
        size: the number of bytes, when inflated.
        checksum: computes the checksum of the bytes; None if there is none.
        expected: the checksum in the file.
        packed: the number of bytes in the file if they are deflated, otherwise None.
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
                    f"but {self.expected:08x} in the file"
                )
            self._verified = True
        return raw

    def beginning(self, limit: int) -> bytes:
        """Return the first bytes, at most `limit`, without verification."""
        if self.packed is None:
            return self.file.read(self.start, min(self.size, limit)).tobytes()
        packed = self.file.read(self.start, self.packed)
        with _inflating() as inflater:
            return inflater.decompress(packed, limit)

    def _inflated(self) -> np.ndarray:
        # Deflate compresses to a thousandth at best: more is a false claim, and not allocated.
        if self.size > 1032 * self.packed:
            raise Damage(f"{self.packed} deflated bytes claim to contain {self.size}")
        with _inflating() as inflater:
            # One byte more than expected, so that more is detected. (0 would mean no limit.)
            content = inflater.decompress(self.file.read(self.start, self.packed), self.size + 1)
        if len(content) != self.size:
            raise Damage(f"it does not inflate to the expected {self.size} bytes")
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
    """Location of a tensor.

    Attributes:
        dtype: a key of `DTYPES`, or the name of a type that cannot be read.
        shape: its shape.
        source: the range of bytes that contains it.
        offset: its position in `source`, in bytes.
        strides: strides of the axes, in elements; None for C order.
    """

    dtype: str
    shape: tuple[int, ...]
    source: ByteRange
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
                f"{self.offset} is not within its {size} bytes"
            )

    @property
    def _span(self) -> int:
        """Number of elements from the first to the last."""
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
        # The stride of an axis of one element is irrelevant, and may be too large.
        pairs = zip(self.shape, self.strides, strict=True)
        strides = [s * flat.itemsize if n > 1 else 0 for n, s in pairs]
        return np.lib.stride_tricks.as_strided(flat, self.shape, strides)


class TensorFile(Checkpoint):
    """An open file whose entries are `Tensor` objects.

    Args:
        path: the file.
        container: its format.
        tensors: its tensors by name.
        metadata: further strings by name in the file.
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
                f"it has the type {entry.dtype}",
                f"Types that can be read: {', '.join(DTYPES)}. Convert it to one of them.",
            )
        return decoded_type(entry.dtype)

    def _read(self, name: str, entry: Tensor) -> np.ndarray:
        return entry.read()


class ShardedCheckpoint(Checkpoint):
    """Several files that form one checkpoint.

    Args:
        path: the index file.
        shards: the open checkpoint with a variable, by the name of the variable.

    Raises:
        CheckpointError: a variable is not in the file given in the index.
    """

    def __init__(self, path: Path, shards: dict[str, Checkpoint]):
        first = next(iter(shards.values()), None)
        metadata = first.metadata if first is not None else {}
        super().__init__(path, {name: (name, shard) for name, shard in shards.items()}, metadata)
        self._shards = set(shards.values())
        self.container = first.container if first is not None else "safetensors"
        for name, shard in shards.items():
            if name not in shard:
                raise CheckpointError(
                    f"according to {path}, {shard.path.name} contains {name!r}, but it does not: "
                    "they belong to different models, or one is damaged. Fetch all of them again."
                )

    def close(self) -> None:
        """Release the files. Arrays that have been read remain valid."""
        super().close()
        for shard in self._shards:
            shard.close()

    def _shape(self, entry: tuple[str, Checkpoint]) -> tuple[int, ...]:
        return entry[1].shape(entry[0])

    def _dtype(self, entry: tuple[str, Checkpoint]) -> np.dtype:
        return entry[1].dtype(entry[0])

    def _read(self, name: str, entry: tuple[str, Checkpoint]) -> np.ndarray:
        return entry[1][name]
