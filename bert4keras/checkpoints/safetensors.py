"""The safetensors format (https://huggingface.co/docs/safetensors).

A file consists of eight bytes with the size of the header, the header in JSON, and the bytes of all
tensors. The format has no checksums. Files written here have checksums in their metadata, under
`CHECKSUMS`, which are verified here and ignored by other readers.

The library `safetensors` does not support bfloat16 and float8 in NumPy, needs all bytes in memory
to write them, and accepts duplicate keys.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import numpy as np

from bert4keras.checkpoints.base import BOUNDED, CheckpointError, Damage, check_shape, undamaged
from bert4keras.checkpoints.jsons import parse_json
from bert4keras.checkpoints.tensors import (
    DTYPES,
    ByteRange,
    MappedFile,
    Tensor,
    TensorFile,
    encode,
)
from bert4keras.checkpoints.writing import replacing

CHECKSUMS = "bert4keras.crc32c"  # in the metadata: eight hexadecimal digits by tensor, in order
LARGEST_HEADER = 100_000_000  # bytes, by the format
MAX_HEADER = 16 << 20  # bytes that are read; a tensor takes about a hundred and fifty

_CODES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fn": "F8_E4M3",
    "int16": "I16",
    "uint16": "U16",
    "float16": "F16",
    "bfloat16": "BF16",
    "int32": "I32",
    "uint32": "U32",
    "float32": "F32",
    "float64": "F64",
    "complex64": "C64",
    "int64": "I64",
    "uint64": "U64",
}
_NAMES = {code: name for name, code in _CODES.items()}
# Sizes of all types in bits, including types that cannot be read, but may be in a file.
_BITS = {code: 8 * DTYPES[name].itemsize for name, code in _CODES.items()} | {
    **dict.fromkeys(("F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **{"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6},
}


def _checksum(name: str, code: str, shape: tuple[int, ...]) -> Callable[[np.ndarray], int]:
    """Return the checksum of a tensor as a function of its bytes; it covers the header's entry."""
    entry = json.dumps([name, code, shape], separators=(",", ":"))
    return partial(google_crc32c.extend, google_crc32c.value(entry.encode()))


# === Reading ===


def open_safetensors(path: Path) -> TensorFile:
    """Open one safetensors file.

    Raises:
        CheckpointError: the file is damaged.
    """
    with undamaged(path, "a readable safetensors file"):
        return TensorFile(path, "safetensors", *_read_tensors(path))


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the header; return the tensors and the metadata."""
    file = MappedFile(path)
    size = int.from_bytes(file.read(0, 8).tobytes(), "little")
    if size > MAX_HEADER:
        raise Damage(f"it has a header of {size} bytes, but at most {MAX_HEADER} are read", BOUNDED)
    header = parse_json(file.read(8, size).tobytes(), MAX_HEADER)
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise Damage("its metadata are not strings")
    entries = {name: _parse_entry(name, entry) for name, entry in header.items()}
    in_order = sorted(entries.items(), key=lambda item: item[1].place)
    end = _check_places([entry.place for _, entry in in_order])
    # Checked before anything is created for each of maybe a hundred thousand tensors.
    if 8 + size + end != file.size:
        raise Damage(f"it has {file.size} bytes, but {8 + size + end} by its header")
    tensors = {}
    for i, (name, entry) in enumerate(in_order):
        start, end = entry.place
        source = ByteRange(file, 8 + size + start, end - start)
        if CHECKSUMS in metadata:
            source.checksum = _checksum(name, entry.code, entry.shape)
            source.expected = _expected(metadata[CHECKSUMS], i, len(entries))
        tensors[name] = Tensor(_NAMES.get(entry.code, entry.code), entry.shape, source)
    return tensors, metadata


def _check_places(places: list[tuple[int, int]]) -> int:
    """Raise a `Damage` for ranges with gaps or overlaps; return the end of the last."""
    last = 0
    for start, end in places:
        if start != last:
            raise Damage(f"bytes {last} to {start} belong to no tensor or to two")
        last = end
    return last


class _HeaderEntry(NamedTuple):  # faster to create than a frozen dataclass
    """Header entry of a tensor: its type, its shape, and the range of its bytes."""

    code: str
    shape: tuple[int, ...]
    place: tuple[int, int]


def _parse_entry(name: str, entry: Any) -> _HeaderEntry:
    match entry:
        case {"dtype": str(code), "shape": [*shape], "data_offsets": [start, end]}:
            if code in _BITS and set(map(type, (*shape, start, end))) == {int}:
                check_shape(tuple(shape))
                if start >= 0 and (end - start) * 8 == math.prod(shape) * _BITS[code]:
                    return _HeaderEntry(code, tuple(shape), (start, end))
    raise Damage(f"its header has an invalid entry for {name[:80]!r}: {str(entry)[:200]}")


def _expected(checksums: str, index: int, count: int) -> int:
    digits = checksums[8 * index : 8 * index + 8]
    if len(checksums) != 8 * count or not re.fullmatch("[0-9a-f]{8}", digits):
        raise Damage("its list of checksums is damaged")
    return int(digits, 16)


# === Writing ===


@dataclass(frozen=True)
class _Entry:
    """Properties of a variable that are needed before it is written."""

    name: str
    code: str
    shape: tuple[int, ...]
    size: int
    crc: int


def write_safetensors(
    path: str | Path,
    variables: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
    shard_size: int = 5 * 10**9,
) -> None:
    """Write variables to a safetensors file, or to several with an index.

    More than `shard_size` bytes are split into `NAME-00001-of-0000N.safetensors`, ..., with the
    index `NAME.safetensors.index.json` of Hugging Face. The same variables always give the same
    bytes. All files atomically replace those of an earlier call with the same path. Variables are
    read one after the other, twice each, so that a mapping may compute them on demand.

    Args:
        path: where to write, with the suffix .safetensors; its folder must exist.
        variables: arrays by name, of numbers that the format has, bool, or bfloat16 and float8 (of
            `ml_dtypes`).
        metadata: strings by name, for other readers; {"format": "pt"} by default, which
            `transformers` requires.
        shard_size: maximal size of a file in bytes, unless a single variable is larger.

    Raises:
        CheckpointError: the folder is missing or cannot be written to, the disk is full, or a name
            or type cannot be written.
    """
    path = Path(path)
    with replacing(path.parent, path.name, stale_file_pattern(path.name)) as folder:
        write_shards(folder / path.name, variables, metadata, shard_size)


def stale_file_pattern(name: str) -> str:
    """Return a regular expression of a file of this name, its index and its shards."""
    name = Path(name)
    shard = re.escape(name.stem) + r"-\d{5}-of-\d{5}" + re.escape(name.suffix)
    return rf"{re.escape(name.name)}(\.index\.json)?|{shard}"


def write_shards(
    path: Path,
    variables: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
    shard_size: int = 5 * 10**9,
) -> None:
    """Write the files, which `write_safetensors` then moves to their place."""
    entries = [_entry(name, variables[name]) for name in variables]
    # The order of the library: wide types first, so that all of them are aligned.
    entries.sort(key=lambda e: (-DTYPES[_NAMES[e.code]].itemsize, e.name))
    shards = _shards(entries, shard_size)
    metadata = {"format": "pt"} if metadata is None else dict(metadata)
    if not all(isinstance(text, str) for item in metadata.items() for text in item):
        raise CheckpointError(f"the metadata of a safetensors file must be strings, not {metadata}")
    numbers = range(1, len(shards) + 1)
    names = [f"{path.stem}-{i:05d}-of-{len(shards):05d}{path.suffix}" for i in numbers]
    files = [path] if len(shards) == 1 else [path.with_name(name) for name in names]
    for file, shard in zip(files, shards, strict=True):
        _write_shard(file, shard, variables, metadata)
    if len(shards) > 1:
        table = {e.name: f.name for f, shard in zip(files, shards, strict=True) for e in shard}
        total = {"total_size": sum(e.size for e in entries)}
        text = json.dumps({"metadata": total, "weight_map": table}, indent=2, sort_keys=True)
        path.with_name(path.name + ".index.json").write_text(text + "\n", encoding="utf-8")


def _entry(name: str, value: Any) -> _Entry:
    array = np.asarray(value)
    if not isinstance(name, str) or name == "__metadata__":
        raise CheckpointError(f"a variable cannot be named {name!r} in a safetensors file")
    if array.dtype.name not in _CODES:
        raise CheckpointError(
            f"the variable {name!r} has the type {array.dtype}, which safetensors does not "
            f"support. Convert it to one of {', '.join(_CODES)}."
        )
    code = _CODES[array.dtype.name]
    crc = _checksum(name, code, array.shape)(encode(array))
    return _Entry(name, code, array.shape, array.nbytes, crc)


def _shards(entries: list[_Entry], limit: int) -> list[list[_Entry]]:
    """Distribute variables among files in order."""
    shards: list[list[_Entry]] = [[]]
    size = 0
    for entry in entries:
        if shards[-1] and size + entry.size > limit:
            shards.append([])
            size = 0
        shards[-1].append(entry)
        size += entry.size
    return shards


def _write_shard(
    path: Path, entries: list[_Entry], variables: Mapping[str, np.ndarray], metadata: dict[str, str]
) -> None:
    checksums = "".join(f"{entry.crc:08x}" for entry in entries)
    header: dict[str, Any] = {"__metadata__": metadata | {CHECKSUMS: checksums}}
    ends = np.cumsum([0, *(entry.size for entry in entries)]).tolist()
    for entry, start, end in zip(entries, ends, ends[1:], strict=False):
        place = {"dtype": entry.code, "shape": entry.shape, "data_offsets": [start, end]}
        header[entry.name] = place
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise CheckpointError(f"{len(entries)} variables need a header of {len(text)} bytes")
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for entry in entries:
            file.write(encode(np.asarray(variables[entry.name])))
