"""Reading and writing of TensorFlow checkpoints (V2 format, "tensor bundle") without TensorFlow.

A tensor bundle is `PREFIX.index`, a sorted table in the format of LevelDB
(https://github.com/google/leveldb/blob/main/doc/table_format.md) from variable names to protocol
buffers, and `PREFIX.data-00000-of-00001`, ..., the bytes of the variables. The protocol buffers are
`BundleHeaderProto` and `BundleEntryProto` of tensorflow/core/protobuf/tensor_bundle.proto.
"""

import contextlib
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cramjam
import google_crc32c
import numpy as np

from bert4keras.checkpoints.base import (
    BOUNDED,
    DAMAGED,
    Checkpoint,
    CheckpointError,
    Damage,
    check_shape,
    neighbours,
    open_regular,
    readable,
    unchanged,
    undamaged,
    with_suffix,
)
from bert4keras.checkpoints.jsons import parse_json
from bert4keras.checkpoints.tensors import DTYPES, MappedFile, decode, decoded_type, encode
from bert4keras.checkpoints.writing import replacing

# === Checksums, variable-length integers, protocol buffers ===


def _masked(crc: int) -> int:
    # A checksum of data that contains checksums is weak, so LevelDB stores it masked.
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Decode the unsigned varint at `at`; return it and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise Damage("it ends in the middle of a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise Damage("it has a number of more than 64 bits")


def _to_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _signed(value: int) -> int:
    """Interpret the 64 bits of a varint as a two's complement, as for int32 and int64."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Decode a protocol buffer into pairs of field number and value (an integer or bytes)."""
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at) if message[at] > 0x7F else (message[at], at + 1)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            if at < end and message[at] < 0x80:  # nearly always
                yield number, message[at]
                at += 1
                continue
            value, at = _varint(message, at)
            value = _signed(value)
        else:
            if wire == 2:
                size, at = _varint(message, at)
            elif wire in (1, 5):
                size = 8 if wire == 1 else 4
            else:
                raise Damage(f"it has a field of the unknown wire type {wire}")
            if size > end - at:
                raise Damage("it has a field that is longer than its record")
            value = message[at : at + size]
            at += size
            if wire != 2:
                value = int.from_bytes(value, "little")
        yield number, value


def _message(message: int | bytes) -> Iterator[tuple[int, int | bytes]]:
    if isinstance(message, int):
        raise Damage("it has a number instead of a record")
    return _fields(message)


def _number(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise Damage("it has a record instead of a number")
    return value


def _to_field(number: int, value: int | bytes) -> bytes:
    """Encode a field; like proto3, leave out numbers that are zero."""
    if isinstance(value, bytes):
        return _to_varint(number << 3 | 2) + _to_varint(len(value)) + value
    return _to_varint(number << 3) + _to_varint(value) if value else b""


# === The table of an index file ===

MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
_FOOTER = 48  # two handles padded to 40 bytes, magic
# Limits of an index. The largest published models have a few thousand variables with names of a
# hundred bytes; a partitioned table has an additional entry for each part.
_MAX_INDEX = 8 << 20  # bytes, also of names
_MAX_RECORDS = 3 << 20  # bytes of entries of variables; one takes about fifty
_MAX_ITEMS = 1 << 15
_MAX_KEY = 1 << 14  # bytes
_MAX_STRINGS = 1 << 20  # of a variable
_MAX_SHARDS = 99_999  # five digits in the names of files


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    """Decode a block handle: (offset, size) and the position after it."""
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return (offset, size), at


def _unsnap(data: bytes) -> bytes:
    try:
        size = cramjam.snappy.decompress_raw_len(data)
        # Three bytes of input give at most 64 of output: more is a false claim, and not allocated.
        if size > 22 * len(data):
            raise Damage(f"a Snappy block of {len(data)} bytes claims to contain {size}")
        return bytes(cramjam.snappy.decompress_raw(data))
    except cramjam.DecompressionError as error:
        raise Damage(f"a Snappy block cannot be decompressed ({error})") from None


def _block(data: bytes, handle: tuple[int, int]) -> bytes:
    """Extract a block from a table, verify its checksum and decompress it."""
    offset, size = handle
    end = offset + size
    if end + 5 > len(data):  # the compression type and the checksum follow a block
        raise Damage(f"a block should end at byte {end + 5}, but the file has {len(data)}")
    stored = int.from_bytes(data[end + 1 : end + 5], "little")
    if stored != _masked(google_crc32c.value(data[offset : end + 1])):
        raise Damage(f"the checksum of the block at byte {offset} is wrong")
    if data[end] == 0:
        return data[offset:end]
    if data[end] == 1:
        return _unsnap(data[offset:end])
    raise Damage(f"a block has the unknown compression type {data[end]}")


def _block_items(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a block; a key may share a prefix with the previous one."""
    restarts = int.from_bytes(block[-4:], "little")
    limit = len(block) - 4 * (restarts + 1)
    if limit < 0:
        raise Damage("a block is shorter than its list of restarts")
    at, key = 0, b""
    while at < limit:
        shared, at = _varint(block, at)
        unshared, at = _varint(block, at)
        size, at = _varint(block, at)
        if shared > len(key) or at + unshared + size > limit:
            raise Damage("a record is longer than its block")
        if shared + unshared > _MAX_KEY:
            raise Damage(
                f"a name has {shared + unshared} bytes, but at most {_MAX_KEY} are read", BOUNDED
            )
        key = key[:shared] + block[at : at + unshared]
        at += unshared
        yield key, block[at : at + size]
        at += size


def _table_items(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield all keys and values of a table in order."""
    if len(data) < _FOOTER or data[-8:] != MAGIC:
        raise Damage(
            f"its {len(data)} bytes do not end with the signature of an index, {MAGIC.hex()}, "
            f"but with {data[-8:].hex() or 'nothing'}"
        )
    footer = data[-_FOOTER:]
    _, at = _handle(footer, 0)
    index, _ = _handle(footer, at)
    previous, names, records = None, 0, 0
    for count, (key, value) in enumerate(_blocks_items(data, index)):
        names += len(key)
        records += len(value)
        if count > _MAX_ITEMS or names > _MAX_INDEX or records > _MAX_RECORDS:
            raise Damage(
                f"it has more than {_MAX_ITEMS} variables, the most that are read, or more than "
                f"{_MAX_RECORDS} bytes of entries",
                BOUNDED,
            )
        if previous is not None and key <= previous:
            raise Damage("its names are not in order")
        previous = key
        yield key, value


def _blocks_items(data: bytes, index: tuple[int, int]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of all blocks that the block at `index` lists."""
    end = size = 0
    for _, value in _block_items(_block(data, index)):
        handle, _ = _handle(value, 0)
        block = _block(data, handle)
        size += len(block)
        if handle[0] < end or size > _MAX_INDEX:
            raise Damage(
                f"its blocks overlap, or have more than {_MAX_INDEX} bytes, the most that are read",
                BOUNDED,
            )
        end = sum(handle)
        yield from _block_items(block)


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
        block += b"\0"  # uncompressed
        handle = _to_varint(len(out)) + _to_varint(len(block) - 1)
        out.extend(block + _masked(google_crc32c.value(block)).to_bytes(4, "little"))
        return handle

    data = append(_to_block(items))
    footer = append(_to_block([]))
    footer += append(_to_block([(last_key, data)], interval=1))
    return bytes(out) + footer.ljust(_FOOTER - 8, b"\0") + MAGIC


# === The records of a tensor bundle ===

_STRING = 7
# Codes of types in tensorflow/core/framework/types.proto, by name.
_CODES = {
    "float16": 19,
    "bfloat16": 14,
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
# Quantized types are stored as plain integers.
_QUANTIZED = {11: "int8", 12: "uint8", 13: "int32", 15: "int16", 16: "uint16"}
_TYPES = {code: name for name, code in _CODES.items()} | _QUANTIZED

_Box = tuple[tuple[int, int | None], ...]  # (start, length) of each axis; None: all of it


@dataclass(frozen=True)
class _Entry:
    """`BundleEntryProto`: the location of a variable, or of a slice of one."""

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
            raise Damage("a variable has no shape")
        if number == 2:
            shape.append(dict(_message(value)).get(1, 0))
    sizes = tuple(_number(n) for n in shape)
    check_shape(sizes)
    return sizes


def _parse_slice(message: int | bytes) -> _Box:
    extents = [dict(_message(value)) for number, value in _message(message) if number == 1]
    # A missing length stands for the whole axis.
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
        raise Damage("a variable has a negative position")
    if code in _TYPES and not slices:
        expected = math.prod(shape) * DTYPES[_TYPES[code]].itemsize
        if size != expected:
            raise Damage(f"a variable of shape {shape} takes {size} bytes instead of {expected}")
    if code == _STRING and not slices and size < math.prod(shape):
        raise Damage(f"a variable of {math.prod(shape)} strings takes {size} bytes")
    if code == _STRING and math.prod(shape) > _MAX_STRINGS:
        raise Damage(
            f"a variable has {math.prod(shape)} strings, but at most {_MAX_STRINGS} are read",
            BOUNDED,
        )
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

    Its parts are encoded in OrderedCode, whose bytes sort like the values: 0, the name, the number
    of axes, and start and length of each axis (0 and -1 for a whole axis).
    """
    text = name.encode().replace(b"\xff", b"\xff\0").replace(b"\0", b"\0\xff") + b"\0\1"
    key = _ordered_unsigned(0) + text + _ordered_unsigned(len(box))
    for start, length in box:
        key += _ordered_signed(start) + _ordered_signed(-1 if length is None else length)
    return key


def _lengths_crc(lengths: Sequence[int]) -> int:
    """Compute the checksum of the lengths of strings, encoded as integers of fixed size."""
    fixed = b"".join(n.to_bytes(4 if n < 1 << 32 else 8, "little") for n in lengths)
    return google_crc32c.value(fixed)


# === Reading a tensor bundle ===

_METADATA = 1000  # a field of the header that TensorFlow does not know and ignores


def _metadata(message: bytes) -> dict[str, str]:
    metadata = parse_json(message)
    if not all(isinstance(text, str) for text in metadata.values()):
        raise Damage("its metadata are not strings")
    return metadata


def _parse_header(message: bytes) -> tuple[int, dict[str, str]]:
    """Return the number of data files, and the metadata of this library if there are any."""
    header = dict(_fields(message))
    version = dict(_message(header.get(3, b"")))
    if header.get(2, 0) != 0:
        raise Damage("it was written on a big-endian machine, which is not supported")
    if _number(version.get(2, 0)) > 1:
        raise Damage(f"it needs a reader of version {version[2]}, but this one has version 1")
    metadata = header.get(_METADATA)
    metadata = _metadata(metadata) if isinstance(metadata, bytes) else {}
    shards = _number(header.get(1, 0))
    if shards > _MAX_SHARDS:
        raise Damage(f"it has {shards} data files, but at most {_MAX_SHARDS} are possible", BOUNDED)
    return max(0, shards), metadata


class TensorBundle(Checkpoint):
    """An open TensorFlow checkpoint.

    The index is read and the data files are mapped immediately, so that it is not affected if they
    are replaced later; an index without data files can still be listed. While variables are read
    one after the other, only the last one of each data file is kept resident.
    """

    container = "tensorflow"

    def __init__(self, prefix: str | Path):
        self.prefix = Path(prefix)
        self.index_path = with_suffix(self.prefix, ".index")
        self._verified: set[tuple[int, int, int]] = set()
        self._maps: dict[int, MappedFile] = {}
        # If the checkpoint is replaced meanwhile, the two must not be mixed.
        entries = unchanged(self.index_path, self._read_index)
        super().__init__(self.prefix, entries, self._metadata)

    def _read_index(self) -> dict[str, _Entry]:
        """Read the index, and map the existing data files."""
        with readable(self.index_path), open_regular(self.index_path) as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read(min(size, _MAX_INDEX))
        with undamaged(self.index_path, "a readable checkpoint index"):
            if size > _MAX_INDEX:
                raise Damage(f"it has {size} bytes, but at most {_MAX_INDEX} are read", BOUNDED)
            entries = self._parse(data)
        self._maps = {}
        for shard in self._ends:
            with contextlib.suppress(CheckpointError):  # raised when the file is needed
                self._maps[shard] = MappedFile(self._shard_path(shard))
        return entries

    def _parse(self, data: bytes) -> dict[str, _Entry]:
        entries: dict[str, _Entry] = {}
        self._parts: dict[bytes, _Entry] = {}
        self._shards, self._metadata = 0, {}
        for key, value in _table_items(data):
            if key == b"":
                self._shards, self._metadata = _parse_header(value)
            elif key[:1] == b"\0":
                self._parts[key] = _parse_entry(value)
            else:
                try:
                    name = key.decode()
                except UnicodeDecodeError:
                    raise Damage(f"the name {key!r} is not UTF-8") from None
                entries[name] = _parse_entry(value)
        if not self._shards:
            raise Damage("it has no header with the number of data files")
        self._check_locations([*entries.values(), *self._parts.values()])
        return entries

    def _check_locations(self, entries: Sequence[_Entry]) -> None:
        """Check that all variables are in existing shards and do not overlap."""
        stored = [e for e in entries if not e.slices]
        stored.sort(key=lambda e: (e.shard, e.offset, e.size))
        self._ends: dict[int, int] = {}
        for entry in stored:
            if entry.shard >= self._shards:
                raise Damage(f"a variable is in data file {entry.shard} of {self._shards}")
            end = self._ends.get(entry.shard, 0)
            if entry.size and entry.offset < end:
                raise Damage("two variables overlap")
            self._ends[entry.shard] = max(end, entry.offset + entry.size)

    def close(self) -> None:
        """Release the data files. Arrays that have been read remain valid."""
        super().close()
        self._maps.clear()

    def _shape(self, entry: _Entry) -> tuple[int, ...]:
        return entry.shape

    def _dtype(self, entry: _Entry) -> np.dtype:
        if entry.code == _STRING:
            return np.dtype(object)
        if entry.code not in _TYPES:
            raise Damage(
                f"it has TensorFlow's type number {entry.code}",
                f"Types that can be read: {', '.join(_CODES)}, string.",
            )
        return decoded_type(_TYPES[entry.code])

    def _read(self, name: str, entry: _Entry) -> np.ndarray:
        return self._assemble(name, entry) if entry.slices else self._whole(entry)

    def _shard_path(self, shard: int) -> Path:
        return with_suffix(self.prefix, f".data-{shard:05d}-of-{self._shards:05d}")

    def _map(self, shard: int) -> MappedFile:
        """Return a data file."""
        if shard not in self._maps:
            path = self._shard_path(shard)
            if not path.exists():
                raise CheckpointError(
                    f"{path} is missing: the index has {self._shards} data file(s). "
                    f"Files there: {neighbours(path)}. Put it next to {self.index_path.name}."
                )
            self._maps[shard] = MappedFile(path)
        file = self._maps[shard]
        if file.size < self._ends[shard]:
            raise CheckpointError(
                f"{file.path} has {file.size} bytes, but its index requires at least "
                f"{self._ends[shard]}. {DAMAGED}"
            )
        return file

    def _whole(self, entry: _Entry) -> np.ndarray:
        """Read a variable, or a slice, that is stored contiguously."""
        raw = self._map(entry.shard).read(entry.offset, entry.size)
        if entry.code == _STRING:
            return self._read_strings(entry, raw)
        location = (entry.shard, entry.offset, entry.size)  # size: empty variables share offsets
        if location not in self._verified:
            _verify(entry, google_crc32c.value(raw))
            self._verified.add(location)
        return decode(raw, _TYPES[entry.code]).reshape(entry.shape)

    @staticmethod
    def _read_strings(entry: _Entry, raw: np.ndarray) -> np.ndarray:
        """Decode strings: all lengths as varints, their checksum in 4 bytes, all bytes."""
        data, count, at, lengths = raw.tobytes(), math.prod(entry.shape), 0, []
        for _ in range(count):
            length, at = _varint(data, at)
            lengths.append(length)
        start = at + 4
        if start + sum(lengths) != len(data):
            raise Damage(f"its strings take {start + sum(lengths)} bytes instead of {len(data)}")
        _verify(entry, google_crc32c.extend(_lengths_crc(lengths), data[at:]))
        strings = np.empty(count, object)
        for i, length in enumerate(lengths):
            strings[i] = data[start : start + length]
            start += length
        return strings.reshape(entry.shape)

    def _assemble(self, name: str, entry: _Entry) -> np.ndarray:
        """Assemble a partitioned variable from its slices."""
        boxes: list[_Extents] = []
        parts = []
        for box in entry.slices:
            part = self._parts.get(_slice_key(name, box))
            if part is None or part.slices:
                raise Damage(f"its slice {box} is not in the index")
            if len(box) != len(entry.shape):
                raise Damage(f"its slice {box} does not fit its shape {entry.shape}")
            pairs = zip(box, entry.shape, strict=True)
            box = [(start, n - start if size is None else size) for (start, size), n in pairs]
            if part.code != entry.code or part.shape != tuple(length for _, length in box):
                raise Damage(f"its slice {box} has another type or the shape {part.shape}")
            boxes.append(box)
            parts.append(part)
        # Checked before memory is allocated: the slices fill the shape exactly.
        _check_tiling(boxes, entry.shape)
        for part in parts:
            self._map(part.shard)
        whole = np.empty(entry.shape, self._dtype(entry))
        for box, part in zip(boxes, parts, strict=True):
            slices = tuple(slice(start, start + length) for start, length in box)
            whole[slices] = self._whole(part)
        return whole


def _verify(entry: _Entry, crc: int) -> None:
    if _masked(crc) != entry.crc:
        raise Damage(
            f"the checksum of its {entry.size} bytes is {_masked(crc):08x}, "
            f"but {entry.crc:08x} in the index"
        )


_Extents = list[tuple[int, int]]  # (start, length) of each axis


def _check_tiling(boxes: Sequence[_Extents], shape: tuple[int, ...]) -> None:
    """Check that boxes fill `shape` exactly, without gaps or overlaps."""
    for box in boxes:
        if any(a < 0 or n < 0 or a + n > size for (a, n), size in zip(box, shape, strict=True)):
            raise Damage(f"its slices exceed its shape {shape}")
    volume = sum(math.prod(length for _, length in box) for box in boxes)
    if volume != math.prod(shape):
        raise Damage(
            f"its slices have {volume} elements, but its shape {shape} has {math.prod(shape)}"
        )
    cut = [i for i, n in enumerate(shape) if any(box[i] != (0, n) for box in boxes)]
    if len(cut) > _MAX_CUT:
        raise Damage(f"it is sliced along {len(cut)} axes, but at most {_MAX_CUT} are implemented")
    # How often each element is covered is determined by the jumps at the corners of boxes.
    jumps: Counter = Counter()
    for box in boxes:
        _add_corners(jumps, [box[i] for i in cut], 1)
    _add_corners(jumps, [(0, shape[i]) for i in cut], -1)
    if any(jumps.values()):
        raise Damage("its slices overlap")


_MAX_CUT = 4


def _add_corners(jumps: Counter, box: _Extents, sign: int) -> None:
    corners = [((), sign)]
    for start, length in box:
        corners = [
            ((*corner, position), corner_sign * jump)
            for corner, corner_sign in corners
            for position, jump in ((start, 1), (start + length, -1))
        ]
    for corner, corner_sign in corners:
        jumps[corner] += corner_sign


# === Writing a tensor bundle ===


def write_checkpoint(
    prefix: str | Path,
    variables: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a TensorFlow checkpoint: `PREFIX.index` and `PREFIX.data-00000-of-00001`.

    `tf.train.load_checkpoint(prefix)` reads it. Both files replace older ones atomically, and other
    files of the older checkpoint are removed with them: further data files,
    `PREFIX.vocabulary.json`. A state file `checkpoint` is neither written nor changed. Variables
    are read one after the other, so that a mapping may compute them on demand.

    Args:
        prefix: where to write; its folder must exist.
        variables: arrays by name, of any numpy number type, bool, bfloat16 (of `ml_dtypes`), or
            strings (`str`, `bytes` or objects; written as UTF-8).
        metadata: strings by name, stored in the header of the index. TensorFlow ignores them;
            `open_checkpoint` returns them as `metadata`.

    Raises:
        CheckpointError: the folder is missing or cannot be written to, the disk is full, or a name
            or type cannot be written.
    """
    prefix = Path(prefix)
    with replacing(
        prefix.parent, f"{prefix.name}.index", stale_file_pattern(prefix.name)
    ) as folder:
        write_bundle(folder / prefix.name, variables, metadata)


def stale_file_pattern(name: str) -> str:
    """Return a regular expression of the files of a checkpoint other than its index."""
    return re.escape(name) + r"\.(data-\d{5}-of-\d{5}|vocabulary\.json)"


def write_bundle(
    prefix: Path, variables: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write the two files of a checkpoint, which `write_checkpoint` then moves to their place."""
    keys = {_check_name(name).encode(): name for name in variables}
    header = _to_field(1, 1) + _to_field(3, _to_field(1, 1))  # one shard; producer version 1
    if metadata:
        header += _to_field(_METADATA, json.dumps(metadata, sort_keys=True).encode())
    items = [(b"", header)]
    with open(with_suffix(prefix, ".data-00000-of-00001"), "wb") as file:
        for key in sorted(keys):
            name = keys[key]
            array = np.asarray(variables[name])
            code, chunks, crc = _encode(name, array)
            offset = file.tell()
            for chunk in chunks:
                file.write(chunk)
            items.append((key, _to_entry(code, array.shape, offset, file.tell() - offset, crc)))
    with_suffix(prefix, ".index").write_bytes(_to_table(items, last_key=items[-1][0]))


def _check_name(name: str) -> str:
    if not isinstance(name, str) or not name or name[0] == "\0":
        raise CheckpointError(
            f"a variable cannot be named {name!r}: give a non-empty string that does not begin "
            "with a null character"
        )
    return name


def _encode(name: str, array: np.ndarray) -> tuple[int, list[bytes | np.ndarray], int]:
    """Return the type code of an array, its bytes in chunks, and their checksum."""
    if array.dtype.kind in "SUO":
        strings = [s.encode() if isinstance(s, str) else s for s in array.ravel().tolist()]
        if all(isinstance(s, bytes) for s in strings):
            lengths = [len(s) for s in strings]
            crc = _lengths_crc(lengths)
            content = _masked(crc).to_bytes(4, "little") + b"".join(strings)
            varints = b"".join(map(_to_varint, lengths))
            return _STRING, [varints, content], google_crc32c.extend(crc, content)
    if array.dtype.name not in _CODES:
        raise CheckpointError(
            f"the variable {name!r} has the type {array.dtype}, which a checkpoint does not "
            f"support. Convert it to one of {', '.join(_CODES)} or string."
        )
    raw = encode(array)
    return _CODES[array.dtype.name], [raw], google_crc32c.value(raw)
