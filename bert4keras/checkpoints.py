"""Read and write weight files without TensorFlow and without Keras.

* TensorFlow checkpoints (the V2 format, "tensor bundle"): :func:`open_checkpoint`,
  :func:`list_variables`, :func:`load_variable`, :func:`write_checkpoint`.
* Weight files keyed by layer name, in the layout of Keras 2: :func:`save_layers`,
  :func:`load_layers`.
* What lies in a folder: :func:`find_files`. Whether a checkpoint fits a model:
  :func:`match_variables`.

Every file that is missing, damaged, of another format or of another model ends in one exception,
:class:`CheckpointError`.

A tensor bundle is `PREFIX.index`, a sorted table in the format of LevelDB
(https://github.com/google/leveldb/blob/main/doc/table_format.md) from variable names to protocol
buffers, and `PREFIX.data-00000-of-00001`, ..., the bytes of the variables. The protocol buffers are
`BundleHeaderProto` and `BundleEntryProto` of tensorflow/core/protobuf/tensor_bundle.proto.
"""

import contextlib
import difflib
import itertools
import math
import mmap
import os
import re
import uuid
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import cramjam
import google_crc32c
import numpy as np

__all__ = [
    "CheckpointError",
    "Files",
    "Report",
    "TensorBundle",
    "find_files",
    "list_variables",
    "load_layers",
    "load_variable",
    "match_variables",
    "open_checkpoint",
    "save_layers",
    "write_checkpoint",
]


class CheckpointError(ValueError):
    """A weight file is missing, unreadable, damaged, of another format or of another model."""


class _Damage(Exception):
    """What is wrong inside a file, said where the name of the file is not known."""


_DAMAGED = "The file is damaged or was not copied completely: fetch it again."


# === Checksums, variable-length integers, protocol buffers ===


def _masked(crc: int) -> int:
    # A checksum of data that holds checksums is weak, so LevelDB stores it rotated and shifted.
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Decode the unsigned varint at `at`; return it and the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise _Damage("it ends in the middle of a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _Damage("it holds a number of more than 64 bits")


def _to_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _signed(value: int) -> int:
    """Interpret the 64 bits of a varint as the two's complement that int32 and int64 are."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Decode a protocol buffer into pairs of field number and value (an integer or bytes)."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(message, at)
            value = _signed(value)
        else:
            if wire == 2:
                size, at = _varint(message, at)
            elif wire in (1, 5):
                size = 8 if wire == 1 else 4
            else:
                raise _Damage(f"it holds a field of the unknown wire type {wire}")
            if size > len(message) - at:
                raise _Damage("it holds a field that is longer than its record")
            value = message[at : at + size]
            at += size
            if wire != 2:
                value = int.from_bytes(value, "little")
        yield number, value


def _message(message: int | bytes) -> Iterator[tuple[int, int | bytes]]:
    if isinstance(message, int):
        raise _Damage("it holds a number where a record belongs")
    return _fields(message)


def _number(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise _Damage("it holds a record where a number belongs")
    return value


def _to_field(number: int, value: int | bytes) -> bytes:
    """Encode a field; like proto3, leave out numbers that are zero."""
    if isinstance(value, bytes):
        return _to_varint(number << 3 | 2) + _to_varint(len(value)) + value
    return _to_varint(number << 3) + _to_varint(value) if value else b""


# === The table of an index file ===

_MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
_FOOTER = 48  # two handles padded to 40 bytes, magic


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    """Decode a block handle: (offset, size) and the position behind it."""
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return (offset, size), at


def _unsnap(data: bytes) -> bytes:
    try:
        size = cramjam.snappy.decompress_raw_len(data)
        # Three bytes of input give at most 64 of output: more is a lie, and is not allocated.
        if size > 22 * len(data):
            raise _Damage(f"a Snappy block of {len(data)} bytes claims to hold {size}")
        return bytes(cramjam.snappy.decompress_raw(data))
    except cramjam.DecompressionError as error:
        raise _Damage(f"a Snappy block cannot be decompressed ({error})") from None


def _block(data: bytes, handle: tuple[int, int]) -> bytes:
    """Cut a block out of a table, verify its checksum and decompress it."""
    offset, size = handle
    end = offset + size
    if end + 5 > len(data):  # the kind and the checksum follow a block
        raise _Damage(f"a block should end at byte {end + 5}, but the file has {len(data)}")
    stored = int.from_bytes(data[end + 1 : end + 5], "little")
    if stored != _masked(google_crc32c.value(data[offset : end + 1])):
        raise _Damage(f"the checksum of the block at byte {offset} is wrong")
    if data[end] == 0:
        return data[offset:end]
    if data[end] == 1:
        return _unsnap(data[offset:end])
    raise _Damage(f"a block is of the unknown kind {data[end]}")


def _block_items(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a block; a key shares its beginning with the one before."""
    restarts = int.from_bytes(block[-4:], "little")
    limit = len(block) - 4 * (restarts + 1)
    if limit < 0:
        raise _Damage("a block is shorter than its own list of restarts")
    at, key = 0, b""
    while at < limit:
        shared, at = _varint(block, at)
        unshared, at = _varint(block, at)
        size, at = _varint(block, at)
        if shared > len(key) or at + unshared + size > limit:
            raise _Damage("a record is longer than its block")
        key = key[:shared] + block[at : at + unshared]
        at += unshared
        yield key, block[at : at + size]
        at += size


def _table_items(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield all keys and values of a table in their order."""
    if len(data) < _FOOTER or data[-8:] != _MAGIC:
        raise _Damage(
            f"its {len(data)} bytes do not end with the signature of an index, {_MAGIC.hex()}, "
            f"but with {data[-8:].hex() or 'nothing'}"
        )
    footer = data[-_FOOTER:]
    _, at = _handle(footer, 0)
    index, _ = _handle(footer, at)
    previous = None
    for _, value in _block_items(_block(data, index)):
        handle, _ = _handle(value, 0)
        for item in _block_items(_block(data, handle)):
            if previous is not None and item[0] <= previous:
                raise _Damage("its names are not in order")
            previous = item[0]
            yield item


def _to_block(items: Iterable[tuple[bytes, bytes]], interval: int = 16) -> bytes:
    """Encode a block without its trailer; every `interval`-th key is written in full."""
    out, restarts, previous = bytearray(), [], b""
    for i, (key, value) in enumerate(items):
        if i % interval == 0:
            restarts.append(len(out))
            previous = b""
        shared = 0
        while shared < min(len(previous), len(key)) and previous[shared] == key[shared]:
            shared += 1
        out += _to_varint(shared) + _to_varint(len(key) - shared) + _to_varint(len(value))
        out += key[shared:] + value
        previous = key
    restarts = restarts or [0]
    return bytes(out) + np.array([*restarts, len(restarts)], "<u4").tobytes()


def _to_table(items: Iterable[tuple[bytes, bytes]], last_key: bytes) -> bytes:
    """Encode sorted items as a table: one data block, an empty meta block, the index, the footer.

    Args:
        items: keys and values, sorted by key.
        last_key: a key that is not smaller than any in `items`.
    """
    out = bytearray()

    def append(block: bytes) -> bytes:
        block += b"\0"  # plain
        handle = _to_varint(len(out)) + _to_varint(len(block) - 1)
        out.extend(block + _masked(google_crc32c.value(block)).to_bytes(4, "little"))
        return handle

    data = append(_to_block(items))
    footer = append(_to_block([]))
    footer += append(_to_block([(last_key, data)], interval=1))
    return bytes(out) + footer.ljust(_FOOTER - 8, b"\0") + _MAGIC


# === The records of a tensor bundle ===

_STRING, _BFLOAT16 = 7, 14
# Numbers of tensorflow/core/framework/types.proto. Quantized types are stored as plain integers.
_DTYPES = {
    1: np.dtype("<f4"),
    2: np.dtype("<f8"),
    3: np.dtype("<i4"),
    4: np.dtype("u1"),
    5: np.dtype("<i2"),
    6: np.dtype("i1"),
    8: np.dtype("<c8"),
    9: np.dtype("<i8"),
    10: np.dtype("?"),
    11: np.dtype("i1"),
    12: np.dtype("u1"),
    13: np.dtype("<i4"),
    _BFLOAT16: np.dtype("<u2"),
    15: np.dtype("<i2"),
    16: np.dtype("<u2"),
    17: np.dtype("<u2"),
    18: np.dtype("<c16"),
    19: np.dtype("<f2"),
    22: np.dtype("<u4"),
    23: np.dtype("<u8"),
}
_CODES = {
    "float16": 19,
    "bfloat16": _BFLOAT16,
    "float32": 1,
    "float64": 2,
    "int8": 6,
    "int16": 5,
    "int32": 3,
    "int64": 9,
    "uint8": 4,
    "uint16": 17,
    "uint32": 22,
    "uint64": 23,
    "complex64": 8,
    "complex128": 18,
    "bool": 10,
}

_Box = tuple[tuple[int, int | None], ...]  # (start, length) of each axis; None: all of it


@dataclass(frozen=True)
class _Entry:
    """A `BundleEntryProto`: where a variable, or a slice of one, lies."""

    code: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int
    slices: tuple[_Box, ...]


def _parse_shape(message: int | bytes) -> tuple[int, ...]:
    shape = []
    for number, value in _message(message):
        if number == 3 and value:
            raise _Damage("a variable has no shape")
        if number == 2:
            shape.append(dict(_message(value)).get(1, 0))
    sizes = [_number(n) for n in shape]
    # 32 axes are the limit of numpy 1; its arrays are addressed with 63 bits even when empty.
    if len(shape) > 32 or min(sizes, default=0) < 0 or math.prod(n or 1 for n in sizes) >> 58:
        raise _Damage(f"a variable has the impossible shape {tuple(shape)}")
    return tuple(shape)


def _parse_slice(message: int | bytes) -> _Box:
    extents = [dict(_message(value)) for number, value in _message(message) if number == 1]
    # A length that is absent stands for the whole axis.
    return tuple((_number(e.get(1, 0)), _number(e[2]) if 2 in e else None) for e in extents)


def _parse_entry(message: bytes) -> _Entry:
    numbers = {1: 0, 3: 0, 4: 0, 5: 0, 6: 0}
    shape, slices = (), []
    for number, value in _fields(message):
        if number == 2:
            shape = _parse_shape(value)
        elif number == 7:
            slices.append(_parse_slice(value))
        elif number in numbers:
            numbers[number] = _number(value)
    code, shard, offset, size, crc = numbers.values()
    if min(shard, offset, size) < 0:
        raise _Damage("a variable lies at a negative position")
    if code in _DTYPES and not slices:
        expected = math.prod(shape) * _DTYPES[code].itemsize
        if size != expected:
            raise _Damage(f"a variable of shape {shape} takes {size} bytes instead of {expected}")
    if code == _STRING and not slices and size < math.prod(shape):
        raise _Damage(f"a variable of {math.prod(shape)} strings takes {size} bytes")
    return _Entry(code, shape, shard, offset, size, crc, tuple(slices))


def _to_entry(code: int, shape: Sequence[int], offset: int, size: int, crc: int) -> bytes:
    dims = b"".join(_to_field(2, _to_field(1, n)) for n in shape)
    return (
        _to_field(1, code)
        + _to_field(2, dims)
        + _to_field(4, offset)
        + _to_field(5, size)
        + (_to_varint(6 << 3 | 5) + _masked(crc).to_bytes(4, "little"))
    )


def _ordered_unsigned(value: int) -> bytes:
    digits = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return bytes([len(digits)]) + digits


def _ordered_signed(value: int) -> bytes:
    size = 1
    while (value if value >= 0 else ~value) >> (7 * size - 1):
        size += 1
    # The number of leading ones (for a negative value, zeros) is the number of bytes.
    header = ((1 << size) - 1) << (7 * size)
    return ((value & ((1 << 8 * size) - 1)) ^ header).to_bytes(size, "big")


def _slice_key(name: str, box: _Box) -> bytes:
    """Encode the key of a slice, as tensorflow/core/util/saved_tensor_slice_util.cc does.

    Its parts are written in OrderedCode, whose bytes sort as the values do: 0, the name, the number
    of axes, and start and length of each axis (0 and -1 for a whole axis).
    """
    text = name.encode().replace(b"\xff", b"\xff\0").replace(b"\0", b"\0\xff") + b"\0\1"
    key = _ordered_unsigned(0) + text + _ordered_unsigned(len(box))
    for start, length in box:
        key += _ordered_signed(start) + _ordered_signed(-1 if length is None else length)
    return key


def _string_crc(lengths: Sequence[int], checksum: bytes) -> int:
    """Checksum of a string tensor up to its bytes: the lengths as integers, their checksum."""
    fixed = b"".join(n.to_bytes(4 if n < 1 << 32 else 8, "little") for n in lengths)
    return google_crc32c.extend(google_crc32c.value(fixed), checksum)


# === Reading a tensor bundle ===


class TensorBundle:
    """An open TensorFlow checkpoint: names, shapes and values of its variables.

    Iterating gives the names in sorted order; `name in bundle`, `len(bundle)` and `bundle[name]`
    work as with a dict. The index is read at once; a data file is mapped into memory when the first
    of its variables is read, so an index without data files can still be listed. While variables
    are read one after the other, only the last one is kept resident.

    Made by :func:`open_checkpoint`. It is a context manager; arrays stay valid after closing.
    """

    def __init__(self, prefix: str | Path):
        self.prefix = Path(prefix)
        self.index_path = _with_suffix(self.prefix, ".index")
        self._maps: dict[int, mmap.mmap | bytes] | None = {}
        self._verified: set[tuple[int, int]] = set()
        self._resident: tuple[int, int, int] | None = None
        try:
            with _readable(self.index_path):
                data = self.index_path.read_bytes()
            self._parse(data)
        except _Damage as damage:
            raise CheckpointError(
                f"{self.index_path} is not a readable checkpoint index: {damage}. {_DAMAGED}"
            ) from None

    def _parse(self, data: bytes) -> None:
        self._entries: dict[str, _Entry] = {}
        self._parts: dict[bytes, _Entry] = {}
        self._shards = 0
        for key, value in _table_items(data):
            if key == b"":
                self._shards = self._parse_header(value)
            elif key[:1] == b"\0":
                self._parts[key] = _parse_entry(value)
            else:
                try:
                    name = key.decode()
                except UnicodeDecodeError:
                    raise _Damage(f"the name {key!r} is not UTF-8") from None
                self._entries[name] = _parse_entry(value)
        if not self._shards:
            raise _Damage("it has no header, which gives the number of data files")
        self._check_places()

    @staticmethod
    def _parse_header(message: bytes) -> int:
        header = dict(_fields(message))
        version = dict(_message(header.get(3, b"")))
        if header.get(2, 0) != 0:
            raise _Damage("it was written on a big-endian machine, which is not supported")
        if _number(version.get(2, 0)) > 1:
            raise _Damage(f"it needs a reader of version {version[2]}, this one has version 1")
        return max(0, _number(header.get(1, 0)))

    def _check_places(self) -> None:
        """Check that every variable has bytes of its own in an existing shard."""
        places = [e for e in (*self._entries.values(), *self._parts.values()) if not e.slices]
        places.sort(key=lambda e: (e.shard, e.offset, e.size))
        self._ends: dict[int, int] = {}
        for entry in places:
            if entry.shard >= self._shards:
                raise _Damage(f"a variable lies in data file {entry.shard} of {self._shards}")
            end = self._ends.get(entry.shard, 0)
            if entry.size and entry.offset < end:
                raise _Damage("two variables overlap")
            self._ends[entry.shard] = max(end, entry.offset + entry.size)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __repr__(self) -> str:
        return f"TensorBundle({str(self.prefix)!r}, {len(self)} variables)"

    def __enter__(self) -> "TensorBundle":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the data files. Arrays already read stay valid."""
        # An array keeps its map alive, so the map goes with the last of them.
        self._maps = None

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a variable.

        Raises:
            CheckpointError: the checkpoint has no such variable.
        """
        return self._entry(name).shape

    def dtype(self, name: str) -> np.dtype:
        """Return the dtype of the array that reading a variable gives.

        bfloat16, which numpy lacks, is read as float32; strings as objects (`bytes`).

        Raises:
            CheckpointError: the checkpoint has no such variable, or numpy no such type.
        """
        code = self._entry(name).code
        if code == _BFLOAT16:
            return np.dtype("float32")
        if code == _STRING:
            return np.dtype(object)
        if code not in _DTYPES:
            raise CheckpointError(
                f"{self.index_path}: the variable {name!r} is of TensorFlow's type number {code}, "
                f"which cannot be read. Types that can be: {', '.join(_CODES)}, string."
            )
        return _DTYPES[code]

    def __getitem__(self, name: str) -> np.ndarray:
        """Read a variable and verify its checksum (once).

        Returns:
            A read-only array: a view of the mapped file where possible, or else a copy (bfloat16,
            strings, partitioned variables, data at an odd address).

        Raises:
            CheckpointError: no such variable; data file missing, truncated or damaged.
        """
        entry = self._entry(name)
        self.dtype(name)
        try:
            array = self._assemble(name, entry) if entry.slices else self._read(name, entry)
        except _Damage as damage:
            raise CheckpointError(
                f"{self.prefix}: the variable {name!r} cannot be read: {damage}. {_DAMAGED}"
            ) from None
        array.flags.writeable = False
        return array

    def _entry(self, name: str) -> _Entry:
        if name in self._entries:
            return self._entries[name]
        near = difflib.get_close_matches(str(name), self._entries, n=3)
        raise CheckpointError(
            f"{self.index_path} has no variable {name!r} among its {len(self)}. "
            + (f"Similar names: {', '.join(near)}." if near else "No name is similar.")
        )

    def _shard_path(self, shard: int) -> Path:
        return _with_suffix(self.prefix, f".data-{shard:05d}-of-{self._shards:05d}")

    def _map(self, shard: int) -> mmap.mmap | bytes:
        """Return the bytes of a data file, mapped at first use."""
        if self._maps is None:
            raise CheckpointError(f"{self.prefix} was closed. Open it again to read from it.")
        if shard not in self._maps:
            path = self._shard_path(shard)
            if not path.exists():
                raise CheckpointError(
                    f"{path} is missing: the index names {self._shards} data file(s). "
                    f"Files there: {_neighbours(path)}. Put it beside {self.index_path.name}."
                )
            with _readable(path), open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
            if size < self._ends[shard]:
                raise CheckpointError(
                    f"{path} has {size} bytes, its index expects at least {self._ends[shard]}. "
                    f"{_DAMAGED}"
                )
            self._maps[shard] = data
        return self._maps[shard]

    def _bytes(self, entry: _Entry) -> np.ndarray:
        data = self._map(entry.shard)
        self._release()
        self._resident = (entry.shard, entry.offset, entry.size)
        if not entry.size:
            return np.empty(0, np.uint8)
        return np.frombuffer(data, np.uint8, entry.size, entry.offset)

    def _release(self) -> None:
        """Give the pages of the variable read before back, so that a model needs room only once.

        Views of it stay valid: the file is mapped read-only, so a page that is touched again comes
        back from the file.
        """
        if self._resident is None or not hasattr(mmap, "MADV_DONTNEED"):
            return
        shard, offset, size = self._resident
        data = self._maps[shard]
        start = offset - offset % mmap.PAGESIZE
        if size and isinstance(data, mmap.mmap):
            data.madvise(mmap.MADV_DONTNEED, start, offset + size - start)

    def _read(self, name: str, entry: _Entry) -> np.ndarray:
        raw = self._bytes(entry)
        if entry.code == _STRING:
            return self._read_strings(entry, raw)
        place = (entry.shard, entry.offset)
        if place not in self._verified:
            _verify(entry, google_crc32c.value(raw))
            self._verified.add(place)
        array = raw.view(_DTYPES[entry.code])
        if entry.code == _BFLOAT16:
            array = (array.astype(np.uint32) << 16).view(np.float32)
        elif not array.flags.aligned:
            array = array.copy()
        return array.reshape(entry.shape)

    @staticmethod
    def _read_strings(entry: _Entry, raw: np.ndarray) -> np.ndarray:
        """Decode strings: all lengths as varints, their checksum in 4 bytes, all bytes."""
        data, count, at, lengths = raw.tobytes(), math.prod(entry.shape), 0, []
        for _ in range(count):
            length, at = _varint(data, at)
            lengths.append(length)
        checksum, start = data[at : at + 4], at + 4
        if start + sum(lengths) != len(data):
            raise _Damage(f"its strings take {start + sum(lengths)} bytes instead of {len(data)}")
        crc = _string_crc(lengths, checksum)
        _verify(entry, google_crc32c.extend(crc, data[start:]))
        strings = np.empty(count, object)
        for i, length in enumerate(lengths):
            strings[i] = data[start : start + length]
            start += length
        return strings.reshape(entry.shape)

    def _assemble(self, name: str, entry: _Entry) -> np.ndarray:
        """Put a partitioned variable together from its slices."""
        boxes, parts = [], []
        for box in entry.slices:
            part = self._parts.get(_slice_key(name, box))
            if part is None or part.slices:
                raise _Damage(f"its slice {box} is not in the index")
            if len(box) != len(entry.shape):
                raise _Damage(f"its slice {box} does not fit its shape {entry.shape}")
            pairs = zip(box, entry.shape, strict=True)
            box = [(start, n - start if size is None else size) for (start, size), n in pairs]
            if part.code != entry.code or part.shape != tuple(length for _, length in box):
                raise _Damage(f"its slice {box} has another type or the shape {part.shape}")
            boxes.append(box)
            parts.append(part)
        # Checked before memory is taken: the slices fill the shape, so it is no larger than they.
        _check_tiling(np.array(boxes, object).reshape(len(boxes), -1, 2), entry.shape)
        for part in parts:
            self._map(part.shard)
        whole = np.empty(entry.shape, self.dtype(name))
        for box, part in zip(boxes, parts, strict=True):
            place = tuple(slice(start, start + length) for start, length in box)
            whole[place] = self._read(name, part)
        return whole


def _verify(entry: _Entry, crc: int) -> None:
    if _masked(crc) != entry.crc:
        raise _Damage(
            f"the checksum of its {entry.size} bytes is {_masked(crc):08x}, "
            f"the index says {entry.crc:08x}"
        )


def _check_tiling(boxes: np.ndarray, shape: tuple[int, ...]) -> None:
    """Check that boxes, an array of (start, length) of shape (n, axes, 2), fill `shape` exactly."""
    starts, ends = boxes[..., 0], boxes[..., 0] + boxes[..., 1]
    volume = sum(math.prod(lengths) for lengths in boxes[..., 1])
    if (starts < 0).any() or (ends > np.array(shape, object)).any():
        raise _Damage(f"its slices reach beyond its shape {shape}")
    for i in range(1, len(boxes)):
        if ((starts[:i] < ends[i]) & (starts[i] < ends[:i])).all(axis=-1).any():
            raise _Damage("its slices overlap")
    if volume != math.prod(shape):
        raise _Damage(f"its slices hold {volume} numbers, its shape {shape} {math.prod(shape)}")


def open_checkpoint(path: str | Path) -> TensorBundle:
    """Open a TensorFlow checkpoint.

    Args:
        path: the prefix of the checkpoint (`.../bert_model.ckpt`), its `.index` or data file, or a
            folder that holds one checkpoint, or a file `checkpoint` that names one of several.

    Returns:
        The open checkpoint. Nothing but the index has been read.

    Raises:
        CheckpointError: there is no such checkpoint, or its index is damaged.
    """
    return TensorBundle(_find_prefix(Path(path)))


def list_variables(path: str | Path) -> list[tuple[str, tuple[int, ...]]]:
    """List name and shape of all variables of a checkpoint, sorted by name.

    Args:
        path: as for :func:`open_checkpoint`. The data files may be absent.

    Raises:
        CheckpointError: there is no such checkpoint, or its index is damaged.
    """
    with open_checkpoint(path) as bundle:
        return [(name, bundle.shape(name)) for name in bundle]


def load_variable(path: str | Path, name: str) -> np.ndarray:
    """Read one variable of a checkpoint; see :meth:`TensorBundle.__getitem__`.

    Raises:
        CheckpointError: there is no such checkpoint or variable, or it is damaged.
    """
    with open_checkpoint(path) as bundle:
        return bundle[name]


# === Writing a tensor bundle ===


def write_checkpoint(prefix: str | Path, variables: Mapping[str, np.ndarray]) -> None:
    """Write a TensorFlow checkpoint: `PREFIX.index` and `PREFIX.data-00000-of-00001`.

    `tf.train.load_checkpoint(prefix)` reads it. Both files are written under another name, synced
    and renamed, the index last, so that an interrupted run leaves no checkpoint that could be taken
    for a whole one. A state file `checkpoint` is neither written nor changed. Variables are taken
    one after the other, so a mapping may make them when asked.

    Args:
        prefix: where to write; its folder must exist.
        variables: arrays by name, of any numpy number type, bool, bfloat16 (of `ml_dtypes`), or
            strings (`str`, `bytes` or objects; written as UTF-8).

    Raises:
        CheckpointError: the folder is missing, or a name or type cannot be written.
    """
    prefix = Path(prefix)
    keys = {_check_name(name).encode(): name for name in variables}
    header = _to_field(1, 1) + _to_field(3, _to_field(1, 1))  # one shard; producer version 1
    items = [(b"", header)]
    with _replacing(_with_suffix(prefix, ".data-00000-of-00001")) as file:
        for key in sorted(keys):
            name = keys[key]
            array = np.asarray(variables[name], order="C")
            code, chunks, crc = _encode(name, array)
            offset = file.tell()
            for chunk in chunks:
                file.write(chunk)
            items.append((key, _to_entry(code, array.shape, offset, file.tell() - offset, crc)))
    with _replacing(_with_suffix(prefix, ".index")) as file:
        file.write(_to_table(items, last_key=items[-1][0]))


def _check_name(name: str) -> str:
    if not isinstance(name, str) or not name or name[0] == "\0":
        raise CheckpointError(
            f"a variable cannot be named {name!r}: give a string that is not empty and does not "
            "begin with a null character"
        )
    return name


def _encode(name: str, array: np.ndarray) -> tuple[int, list[bytes | np.ndarray], int]:
    """Return the type number of an array, its bytes in pieces, and their checksum."""
    if array.dtype.kind in "SUO":
        strings = [s.encode() if isinstance(s, str) else s for s in array.ravel().tolist()]
        if all(isinstance(s, bytes) for s in strings):
            lengths = [len(s) for s in strings]
            fixed = google_crc32c.value(b"".join(n.to_bytes(4, "little") for n in lengths))
            checksum = _masked(fixed).to_bytes(4, "little")
            content = b"".join(strings)
            crc = google_crc32c.extend(_string_crc(lengths, checksum), content)
            return _STRING, [b"".join(map(_to_varint, lengths)), checksum, content], crc
    if array.dtype.name not in _CODES:
        raise CheckpointError(
            f"the variable {name!r} is of type {array.dtype}, which a checkpoint cannot hold. "
            f"Convert it to one of {', '.join(_CODES)} or string."
        )
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    raw = little.reshape(-1).view(np.uint8)
    return _CODES[array.dtype.name], [raw], google_crc32c.value(raw)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that takes the place of `path` once it is written and synced."""
    if not path.parent.is_dir():
        raise CheckpointError(f"cannot write {path}: there is no folder {path.parent}. Create it.")
    temporary = _with_suffix(path, f".{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


# === Weight files keyed by layer ===

_CHUNK = 1 << 24  # bytes that share a checksum in a weight file
_HDF5 = b"\x89HDF\r\n\x1a\n"


def save_layers(path: str | Path, layers: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Write weights keyed by layer name to an HDF5 file in the layout of Keras 2.

    Root attributes `layer_names`, `backend`, `keras_version`; for each layer a group with the
    attribute `weight_names` and a dataset for each weight. Data and structure carry checksums. The
    file takes the place of an older one only when it is complete.

    Args:
        path: the file to write, with any suffix; its folder must exist.
        layers: for each layer its weights by name, in order. Numbers and bools only.

    Raises:
        CheckpointError: the folder is missing, or a name or type cannot be written.
    """
    import h5py

    # A file format from 1.10 on has checksums in its structure and no limit on attributes.
    with _replacing(Path(path)) as file, h5py.File(file, "w", libver=("v110", "v110")) as h5:
        h5.attrs["layer_names"] = _to_names(layers)
        h5.attrs["backend"] = np.bytes_("tensorflow")  # the layout of kernels
        h5.attrs["keras_version"] = np.bytes_("2.3.1")  # the layout of the file
        for layer, weights in layers.items():
            group = h5.create_group(layer)
            group.attrs["weight_names"] = _to_names(weights)
            for name, weight in weights.items():
                try:
                    _write_dataset(group, name, np.asarray(weight))
                except (TypeError, ValueError) as error:
                    raise CheckpointError(
                        f"cannot write the weight {name!r} of layer {layer!r}: {error}"
                    ) from None


def _to_names(names: Iterable[str]) -> np.ndarray:
    encoded = [name.encode() for name in names]
    # Fixed-size strings lie within the attribute; strings of variable size lie in a heap that has
    # no checksums.
    return np.array(encoded, dtype=f"S{max(map(len, encoded), default=0) or 1}")


def _write_dataset(group, name: str, array: np.ndarray) -> None:
    import h5py

    if array.dtype.kind not in "biufc":
        raise TypeError(f"its type {array.dtype} is neither a number nor bool")
    if array.ndim and array.size:
        pieces = min(-(-array.nbytes // _CHUNK), len(array))
        rows = -(-len(array) // pieces)
        chunks = (rows, *array.shape[1:])
        group.create_dataset(name, data=array, chunks=chunks, fletcher32=True)
    else:
        # Only chunks have checksums of their own: a scalar goes into the header, which has one.
        layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        layout.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple(array.shape) if array.ndim else h5py.h5s.create(0)
        links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
        links.set_create_intermediate_group(True)
        kind = h5py.h5t.py_create(array.dtype, logical=True)
        dataset = h5py.h5d.create(group.id, name.encode(), kind, space, layout, links)
        if array.size:
            dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, array)


def load_layers(path: str | Path) -> dict[str, dict[str, np.ndarray]]:
    """Read a weight file keyed by layer name.

    Reads what :func:`save_layers` writes, `model.save_weights` of Keras 2 (and so of bert4keras up
    to 0.11), and the weights in a whole model saved by Keras 2. Files by Keras 2 have no checksums.

    Args:
        path: the file, with any suffix.

    Returns:
        For each layer its weights by name, both in the order of the file.

    Raises:
        CheckpointError: the file is missing, damaged, or of another format.
    """
    import h5py

    path = Path(path)
    with _readable(path):
        if not path.is_file():
            raise CheckpointError(f"there is no weight file {path}. {_similar(path)}")
        if not h5py.is_hdf5(path):
            raise CheckpointError(
                f"{path} is {_describe(path)}. Expected an HDF5 file that save_weights wrote."
            )
    try:
        with h5py.File(path, "r") as h5:
            return _read_layers(h5, path)
    # What HDF5 finds damaged arrives as one of these, depending on where it is.
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, MemoryError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} cannot be read: {error}. {_DAMAGED}") from None


def _read_layers(h5, path: Path) -> dict[str, dict[str, np.ndarray]]:
    import h5py

    root = h5
    if "layer_names" not in h5.attrs and "layer_names0" not in h5.attrs:
        if "layers" in h5 or "_layer_checkpoint_dependencies" in h5:
            raise CheckpointError(
                f"{path} is a weight file of Keras 3 (.weights.h5), which names layers by class "
                "and order. Load it into the model that wrote it with keras.Model.load_weights"
                "(model, path), then save that model's weights with this library."
            )
        if "model_weights" not in h5:
            raise CheckpointError(
                f"{path} is an HDF5 file without layer_names; it has {sorted(h5)[:10]}. "
                "Expected a file that save_weights wrote."
            )
        root = h5["model_weights"]
    limit = h5.id.get_filesize()
    layers = {}
    for layer in _read_names(root, "layer_names"):
        weights = {}
        for name in _read_names(root[layer], "weight_names"):
            dataset = root[layer][name]
            if not isinstance(dataset, h5py.Dataset) or name in weights:
                raise ValueError(f"{layer}/{name} is not one array")
            # Deflate shrinks data to a thousandth at most: do not allocate more than can be there.
            if dataset.nbytes > limit * (1032 if dataset.compression else 1):
                raise ValueError(f"{layer}/{name} of shape {dataset.shape} exceeds the file")
            if dataset.dtype.kind not in "biufc":
                raise ValueError(f"{layer}/{name} is of type {dataset.dtype}, not numbers")
            weights[name] = dataset[()] if dataset.shape else np.asarray(dataset[()])
        if layer in layers:
            raise ValueError(f"the layer {layer} occurs twice")
        layers[layer] = weights
    return layers


def _read_names(group, attribute: str) -> list[str]:
    """Read a list of names; Keras 2 cuts one of more than 64 KiB into `layer_names0`, ..."""
    if attribute in group.attrs:
        pieces = [attribute]
    else:
        numbered = (f"{attribute}{i}" for i in itertools.count())
        pieces = list(itertools.takewhile(group.attrs.__contains__, numbered))
        if not pieces:
            raise ValueError(f"{group.name} has no {attribute}")
    names = [name for piece in pieces for name in group.attrs[piece]]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


# === Finding files ===


def _with_suffix(path: Path, suffix: str) -> Path:
    return path.parent / (path.name + suffix)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None


def _neighbours(path: Path) -> str:
    """Names of files beside `path`, the most similar ones first."""
    if not path.parent.is_dir():
        return f"none, the folder {path.parent} does not exist"
    names = sorted(p.name for p in path.parent.iterdir())
    near = difflib.get_close_matches(path.name, names, n=5, cutoff=0.5)
    return ", ".join((near + [n for n in names if n not in near])[:8]) or "none"


def _similar(path: Path) -> str:
    if _with_suffix(path, ".index").exists():
        return "It is the prefix of a TensorFlow checkpoint: use load_weights_from_checkpoint."
    return f"Files there: {_neighbours(path)}."


def _describe(path: Path) -> str:
    """Say in words what a file is, from its bytes."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(16)
        file.seek(max(0, size - 8))
        tail = file.read()
    if not size:
        return "an empty file"
    if head.startswith(_HDF5):
        return "an HDF5 weight file (use load_weights)"
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if "model.weights.h5" in names:
            return "a whole model of Keras 3 (use keras.models.load_model)"
        if any(name.endswith("data.pkl") for name in names):
            return "a PyTorch file (a zip archive)"
        return f"a zip archive of {', '.join(names[:5])}"
    if tail == _MAGIC:
        if path.suffix == ".index":
            return "the index of a TensorFlow checkpoint (use load_weights_from_checkpoint)"
        return "a TensorFlow checkpoint of the old V1 format (convert it with TensorFlow 1)"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < size:
        return "a safetensors file"
    return f"a file of unknown format that begins with {head[:8].hex()}"


def _find_prefix(path: Path) -> Path:
    """Return the prefix of the checkpoint that a path means."""
    with _readable(path):
        if path.is_dir():
            return _one(_bundles(path), path, "TensorFlow checkpoint (*.index)")
        prefix = path.with_name(re.sub(r"\.(index|data-\d{5}-of-\d{5})$", "", path.name))
        if _with_suffix(prefix, ".index").is_file():
            return prefix
        if path.is_file() and prefix == path:
            raise CheckpointError(
                f"{path} is {_describe(path)}. Expected the prefix of a TensorFlow checkpoint, "
                f"beside which there is {path.name}.index."
            )
        raise CheckpointError(
            f"there is no checkpoint {prefix}: {prefix.name}.index is missing. "
            f"Files there: {_neighbours(prefix)}. Give the path without .index or .data-...."
        )


def _bundles(folder: Path) -> list[Path]:
    """Prefixes of the checkpoints in a folder: of several, the one that `checkpoint` names."""
    found = sorted(p.with_suffix("") for p in folder.glob("*.index"))
    state = folder / "checkpoint"
    if len(found) > 1 and state.is_file():
        text = state.read_text(encoding="utf-8", errors="replace")
        latest = re.search(r'^model_checkpoint_path: "(.*)"$', text, re.MULTILINE)
        # The path is often one of the machine that trained the model: only its name counts.
        named = [p for p in found if latest and p.name == re.split(r"[/\\]", latest[1])[-1]]
        return named or found
    return found


def _one(candidates: Sequence[Path], folder: Path, what: str) -> Path:
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise CheckpointError(
            f"{folder} has no {what}. Files there: {_neighbours(folder / '_')}. "
            "Give the path of the file itself, or a folder that holds one."
        )
    raise CheckpointError(
        f"{folder} has {len(candidates)} files that could be the {what}: "
        f"{', '.join(p.name for p in candidates)}. Give the path of the one you mean."
    )


@dataclass(frozen=True)
class Files:
    """What a folder of a pretrained model holds; None where it was not asked for."""

    config: Path | None = None
    checkpoint: Path | None = None
    vocabulary: Path | None = None


# Names of files by Hugging Face that match `*config*.json` but describe no model.
_OTHER_CONFIGS = {"tokenizer_config.json", "generation_config.json", "preprocessor_config.json"}


def find_files(
    path: str | Path, need: Sequence[str] = ("config", "checkpoint", "vocabulary")
) -> Files:
    """Find the files of a pretrained model in its folder.

    Args:
        path: the folder, or one of the files (`bert_config.json`, `vocab.txt`, the prefix, index or
            data file of a checkpoint), which is then taken itself, and the others beside it.
        need: what to look for: "config" (`*config*.json`), "checkpoint" (a TensorFlow checkpoint),
            "vocabulary" (`vocab.txt`, or else `vocab*.txt`).

    Returns:
        The paths; the one of a checkpoint is its prefix.

    Raises:
        CheckpointError: something needed is not there, or there are several of it.
    """
    path = Path(path)
    with _readable(path):
        given = _kind_of(path)
        if given == "checkpoint":
            path = _find_prefix(path)
        elif not path.exists():
            raise CheckpointError(f"there is no {path}. {_similar(path)}")
        folder = path.parent if given else path
        return Files(**{kind: path if kind == given else _search(folder, kind) for kind in need})


def _kind_of(path: Path) -> str | None:
    """Tell which file a path is, from its suffix; None for a folder."""
    if path.is_dir():
        return None
    if path.suffix == ".json":
        return "config"
    return "vocabulary" if path.suffix == ".txt" else "checkpoint"


def _search(folder: Path, kind: str) -> Path:
    if kind == "checkpoint":
        return _find_prefix(folder)
    if kind == "config":
        found = sorted(p for p in folder.glob("*config*.json") if p.name not in _OTHER_CONFIGS)
        return _one(found, folder, "config (*config*.json)")
    exact = folder / "vocab.txt"
    found = [exact] if exact.is_file() else sorted(folder.glob("vocab*.txt"))
    return _one(found, folder, "vocabulary (vocab*.txt)")


# === Whether a checkpoint fits a model ===

_Shape = tuple[int | None, ...]

# The first pattern that a name begins with says which architecture a checkpoint is of.
_FAMILIES = {
    r"bert/encoder/transformer/": "albert",
    r"bert/encoder/layer_": "bert",
    r"electra/": "electra",
    r"newslm/": "gpt2_ml",
    r"gpt/output/": "gpt2",
    r"gpt/": "gpt",
    r"(encoder|decoder)/block_\d+/layer_\d+/rms_norm": "mt5.1.1",
    r"(encoder|decoder)/block_\d+/layer_\d+/DenseReluDense/wi_": "t5.1.1",
    r"(encoder|decoder)/block_": "t5.1.0",
}


@dataclass(frozen=True)
class Report:
    """How the variables that a model expects compare with those of a checkpoint.

    Attributes:
        loaded: names that fit.
        missing: names that the checkpoint lacks, in the order of the model.
        mismatched: for each name of another shape, the expected and the found one.
        unused: names in the checkpoint that the model does not ask for; not an error.
        from_scratch: layers that no checkpoint knows, which keep their initial weights.
        layers: for each expected name, the layer that it is a weight of.
        cause: the likely cause of what is missing or mismatched, a sentence or empty.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    mismatched: Mapping[str, tuple[_Shape, tuple[int, ...]]]
    unused: tuple[str, ...]
    from_scratch: tuple[str, ...]
    layers: Mapping[str, str]
    cause: str

    def raise_for_errors(self, source: str | Path) -> None:
        """Do nothing if the checkpoint fits.

        Args:
            source: what to call the checkpoint in the message.

        Raises:
            CheckpointError: a variable is missing or of another shape.
        """

        def described(name: str) -> str:
            return f"{name} (layer {self.layers[name]})" if name in self.layers else name

        lines = [f"  missing: {described(name)}" for name in self.missing]
        for name, (expected, found) in self.mismatched.items():
            lines.append(f"  shape {found}, the model expects {expected}: {described(name)}")
        if not lines:
            return
        shown = lines[:10] + ([f"  ... and {len(lines) - 10} more"] if len(lines) > 10 else [])
        cause = f"{self.cause}\n" if self.cause else ""
        raise CheckpointError(
            f"{source} does not fit the model: {len(self.missing)} variable(s) missing, "
            f"{len(self.mismatched)} of another shape.\n{cause}" + "\n".join(shown)
        )


def match_variables(
    expected: Mapping[str, _Shape],
    found: Mapping[str, tuple[int, ...]],
    layers: Mapping[str, str] | None = None,
    from_scratch: Sequence[str] = (),
) -> Report:
    """Compare the variables that a model expects with those of a checkpoint.

    Args:
        expected: shape by variable name; None stands for an axis of any size.
        found: shape by variable name, of all variables in the checkpoint.
        layers: layer by variable name, for the messages.
        from_scratch: names of layers that have no variables in checkpoints, for the report.

    Returns:
        The report; nothing is raised.
    """
    missing = tuple(name for name in expected if name not in found)
    mismatched = {
        name: (tuple(shape), tuple(found[name]))
        for name, shape in expected.items()
        if name in found and not _fits(shape, found[name])
    }
    return Report(
        loaded=tuple(n for n in expected if n in found and n not in mismatched),
        missing=missing,
        mismatched=mismatched,
        unused=tuple(name for name in found if name not in expected),
        from_scratch=tuple(from_scratch),
        layers=layers or {},
        cause=_cause(expected, found, missing, mismatched) if missing or mismatched else "",
    )


def _fits(expected: _Shape, found: tuple[int, ...]) -> bool:
    return len(expected) == len(found) and all(
        e is None or e == f for e, f in zip(expected, found, strict=True)
    )


def _family(names: Iterable[str]) -> str | None:
    names = list(names)
    for pattern, model in _FAMILIES.items():
        if any(re.match(pattern, name) for name in names):
            return model
    return None


def _layers(names: Iterable[str]) -> int:
    """Count layers: one more than the largest number behind `layer_`, `layer` or `block_`."""
    numbers = [re.search(r"/(?:layer_?|block_|inner_group_)(\d+)/", name) for name in names]
    return 1 + max((int(number[1]) for number in numbers if number), default=-1)


def _cause(
    expected: Mapping[str, _Shape],
    found: Mapping[str, tuple[int, ...]],
    missing: Sequence[str],
    mismatched: Mapping[str, tuple[_Shape, tuple[int, ...]]],
) -> str:
    """Guess in one sentence why a checkpoint does not fit."""
    wanted, there = _family(expected), _family(found)
    if missing and wanted != there:
        if there is None:
            return f"Its names are of no known architecture, e.g. {next(iter(found), 'none')!r}."
        return f"Its names are those of model={there!r}: pass that as model=."
    if missing:
        return _cause_of_missing(expected, found, missing)
    first, (shape, other) = next(iter(mismatched.items()))
    rows = {pair[0][:1] + pair[1][:1] for pair in mismatched.values()}
    if len(rows) == 1 and all(_fits(s[1:], o[1:]) for s, o in mismatched.values()):
        if "position" in first:
            return (
                f"It has {other[0]} positions, the model {shape[0]}: correct "
                "max_position_embeddings in the config."
            )
        return (
            f"Only the vocabulary differs: {other[0]} entries in the file, {shape[0]} in the "
            "model. If the model's was trimmed, pass keep_tokens; otherwise correct vocab_size."
        )
    return f"It is a model of another size ({first} is {other}): use the config that belongs to it."


def _cause_of_missing(
    expected: Mapping[str, _Shape], found: Mapping[str, tuple[int, ...]], missing: Sequence[str]
) -> str:
    if all(_layers([name]) > _layers(found) for name in missing):
        return (
            f"It has {_layers(found)} layers, the model {_layers(expected)}: use the config that "
            "belongs to it, or set num_hidden_layers."
        )
    if set(missing) == {"bert/embeddings/position_embeddings"}:
        return "It has no table of positions: pass model='nezha' or model='roformer'."
    heads = {
        "cls/predictions/": "with_mlm",
        "cls/seq_relationship/": "with_nsp",
        "bert/pooler/": "with_pool",
    }
    for start, option in heads.items():
        if all(name.startswith(start) for name in missing):
            return f"It was saved without the head of {option}: leave {option} out."
    return ""
