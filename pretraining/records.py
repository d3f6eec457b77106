"""TFRecord files of `tf.train.Example` with whole numbers, written and read without TensorFlow.

A record is its length (8 bytes), a checksum of the length, the data, a checksum of the data
(tensorflow/core/lib/io/record_writer.cc). The data is the protocol buffer of
tensorflow/core/example/example.proto; here all features are lists of integers from 0 on.
"""

import mmap
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO

import google_crc32c
import numpy as np


class DamagedRecordsError(ValueError):
    """A file of records is cut off or was changed."""


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write a file under another name, and give it its own when all of it is on the disk."""
    hidden = path.with_name(f".{path.name}.part")
    with open(hidden, "wb") as file:
        yield file
        sync_file(file)
    os.replace(hidden, path)
    sync_folder(path.parent)


def sync_file(file: IO) -> None:
    """Bring to the disk what was written to an open file."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Bring to the disk which files a folder holds."""
    if os.name == "nt":
        return  # folders cannot be opened there
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- records


def masked_crc(data: bytes) -> int:
    """CRC32C, rotated and shifted: a checksum of data that holds checksums would be weak."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def framed(data: bytes) -> bytes:
    """One record of a TFRecord file."""
    length = struct.pack("<Q", len(data))
    return struct.pack(f"<8sI{len(data)}sI", length, masked_crc(length), data, masked_crc(data))


class RecordFile:
    """The records of a TFRecord file by number, read through a memory map.

    Args:
        path: the file. Where its records begin is read, and checked, at once; the data of a record
            is checked when it is read.

    Raises:
        DamagedRecordsError: the file is cut off or damaged; it says where.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            # A map of no bytes is refused by the system.
            self.bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        self.offsets = self.find_records(size)

    def find_records(self, size: int) -> np.ndarray:
        """The offset of each record, and the end of the file."""
        offsets = [0]
        while (at := offsets[-1]) < size:
            if at + 12 > size:
                raise self.damage(at, "it ends inside of the length of a record")
            length, crc = struct.unpack_from("<QI", self.bytes, at)
            if crc != masked_crc(self.bytes[at : at + 8]):
                raise self.damage(at, "the checksum of the length of a record is wrong")
            if at + length + 16 > size:
                raise self.damage(at, f"it ends inside of a record of {length} bytes")
            offsets.append(at + length + 16)
        return np.array(offsets, "int64")

    def damage(self, offset: int, what: str) -> DamagedRecordsError:
        return DamagedRecordsError(
            f"{self.path} is damaged at byte {offset}: {what}. Prepare the data again"
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> bytes:
        start, end = int(self.offsets[index]), int(self.offsets[index + 1])
        data = self.bytes[start + 12 : end - 4]
        if struct.unpack_from("<I", self.bytes, end - 4)[0] != masked_crc(data):
            raise self.damage(start, "the checksum of a record is wrong")
        return data


# --- examples


class Varints(dict):
    """Integers in 7 bits a byte, the lowest first; the highest bit says that more come."""

    def __missing__(self, value: int) -> bytes:
        if value < 0:
            raise ValueError(f"records hold integers from 0 on, not {value}")
        groups = [value >> shift & 0x7F for shift in range(0, max(1, value.bit_length()), 7)]
        self[value] = bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])
        return self[value]


VARINTS = Varints()


def to_varints(values: Iterable[int]) -> bytes:
    """The bytes of integers one after the other."""
    return b"".join(map(VARINTS.__getitem__, values))


def from_varints(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """The integers that were written by `to_varints`, and where the last byte of each stands."""
    raw = np.frombuffer(data, "uint8")
    ends = np.flatnonzero(raw < 0x80)
    if not ends.size:
        return np.zeros(0, "int64"), ends
    starts = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(len(raw)) - np.repeat(starts, ends + 1 - starts)
    return np.add.reduceat((raw & 0x7F).astype("int64") << 7 * place, starts), ends


def field(number: int, content: bytes) -> bytes:
    """A field of a protocol buffer that holds bytes or a message."""
    return to_varints([number << 3 | 2, len(content)]) + content


def encoded(features: Mapping[str, Iterable[int]]) -> bytes:
    """A `tf.train.Example` of lists of integers."""
    entries = b""
    for name, values in features.items():
        int64_list = field(3, field(1, to_varints(values)))
        entries += field(1, field(1, name.encode()) + field(2, int64_list))
    return field(1, entries)


def decoded(examples: Sequence[bytes]) -> dict[str, list[np.ndarray]]:
    """Invert `encoded` for examples that all have the same features: a list for each feature."""
    packed: dict[str, list[bytes]] = {}
    for example in examples:
        for name, content in packed_features(example):
            packed.setdefault(name, []).append(content)
    features = {}
    for name, contents in packed.items():
        # All at once, because a call of numpy takes as long as a hundred numbers.
        values, ends = from_varints(b"".join(contents))
        sizes = np.searchsorted(ends, np.cumsum([len(content) for content in contents]))
        features[name] = np.split(values, sizes[:-1])
    return features


def packed_features(example: bytes) -> Iterator[tuple[str, bytes]]:
    """The features of a `tf.train.Example`, their integers still packed."""
    for _, message in fields(example):
        for _, entry in fields(message):
            (_, name), (_, feature) = fields(entry)
            ((_, int64_list),) = fields(feature)
            yield name.decode(), b"".join(content for _, content in fields(int64_list))


def fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields of a protocol buffer that hold bytes, which all of an Example's do."""
    at = 0
    while at < len(message):
        number, size, at = message[at] >> 3, message[at + 1], at + 2
        if size >= 0x80:
            size, at = one_varint(message, at - 1)
        yield number, message[at : at + size]
        at += size


def one_varint(data: bytes, at: int) -> tuple[int, int]:
    """The integer at a place, and the place behind it."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if byte < 0x80:
            return value, at
