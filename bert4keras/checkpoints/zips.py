"""Members of zip archives as byte ranges of a mapped file, and `.npz` files of NumPy."""

import math
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

from bert4keras.checkpoints.base import (
    BOUNDED,
    CheckpointError,
    Damage,
    check_unpacked,
    open_regular,
    readable,
    undamaged,
)
from bert4keras.checkpoints.tensors import DTYPES, ByteRange, MappedFile, Tensor, TensorFile

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, sizes of the name and of the extra field
_DESCRIPTOR = 24  # bytes that may follow a member and repeat its sizes and checksum
_MAX_DIRECTORY = 2 << 20  # bytes; a member takes about a hundred


def members(path: Path) -> dict[str, ByteRange]:
    """Find the members of a zip archive, which are verified with their CRC-32 when read.

    Raises:
        Damage: the directory of the archive is damaged, a member is of an unsupported kind, or they
            unpack to much more than their size.
    """
    infos, start = directory(path)
    file = MappedFile(path)
    found: dict[str, ByteRange] = {}
    end = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        if info.filename in found:
            raise Damage(f"two members are named {info.filename!r}")
        found[info.filename] = stretch = _stretch(file, info)
        _check_gap(end, info.header_offset)
        end = stretch.start + info.compress_size
    _check_gap(end, start)
    check_unpacked(sum(stretch.size for stretch in found.values()), file.size)
    return found


def directory(path: Path) -> tuple[list[zipfile.ZipInfo], int]:
    """Read the directory of a zip archive; return its entries and its position.

    Raises:
        Damage: it is damaged, or larger than that of any weight file.
    """
    try:
        with (
            readable(path),
            open_regular(path) as file,
            zipfile.ZipFile(_LimitedFile(file)) as archive,
        ):
            return archive.infolist(), archive.start_dir
    # Errors of a damaged directory, depending on where it is damaged.
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
        if isinstance(error, CheckpointError):
            raise
        raise Damage(f"its directory cannot be read ({error})") from None


class _LimitedFile:
    """File from which `zipfile` cannot read a directory that is too large."""

    def __init__(self, file: BinaryIO):
        self.seek, self.tell = file.seek, file.tell
        self._file = file

    def read(self, size: int = -1) -> bytes:
        """Read, or raise a `Damage` for more than the maximal size of a directory."""
        if size > _MAX_DIRECTORY:
            raise Damage(
                f"its directory has {size} bytes, but at most {_MAX_DIRECTORY} are read", BOUNDED
            )
        return self._file.read(size)


def _check_gap(end: int, start: int) -> None:
    """Check that no member is missing from the directory, as a wrong size could hide it.

    Nor may two members overlap, since each would unpack the same bytes.
    """
    if not 0 <= start - end <= _DESCRIPTOR:
        raise Damage(f"bytes {end} to {start} belong to no member or to two")


def _stretch(file: MappedFile, info: zipfile.ZipInfo) -> ByteRange:
    header = file.read(info.header_offset, _LOCAL_HEADER.size).tobytes()
    signature, n_name, n_extra = _LOCAL_HEADER.unpack(header)
    start = info.header_offset + _LOCAL_HEADER.size
    # Bit 11 tells whether a name is encoded in UTF-8 or in code page 437.
    encoding = "utf-8" if info.flag_bits & 0x800 else "cp437"
    name = file.read(start, n_name).tobytes().decode(encoding, errors="replace")
    if signature != b"PK\3\4" or name != info.orig_filename:
        raise Damage(f"member {info.filename!r} is not at its position in the directory")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise Damage(f"member {info.filename!r} is compressed by method {info.compress_type}")
    deflated = info.compress_type == zipfile.ZIP_DEFLATED
    start += n_name + n_extra
    if start + info.compress_size > file.size:
        raise Damage(f"member {info.filename!r} exceeds the file")
    packed = info.compress_size if deflated else None
    return ByteRange(file, start, info.file_size, zlib.crc32, info.CRC, packed)


# === Files of NumPy ===

_MAX_HEADER = 1 << 14  # bytes before the values; NumPy itself allows at most 10,000
# https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html defines the header as a
# Python literal with its keys in this order. It is matched, so that nothing is evaluated.
_HEADER = re.compile(
    rb"\{'descr': *'([^']*)', *'fortran_order': *(True|False), *"
    rb"'shape': *\(((?:\d{1,18}, *)*(?:\d{1,18})?)\),? *\}\s*"
)
_TYPES = {dtype.str: name for name, dtype in DTYPES.items() if dtype.name == name}


def open_npz(path: Path) -> TensorFile:
    """Open a file of `numpy.savez` or `savez_compressed`; pickled objects are rejected.

    Raises:
        CheckpointError: the file is damaged, or contains something other than numbers.
    """
    with undamaged(path, "a readable .npz file"):
        tensors = {}
        for name, stretch in members(path).items():
            if not name.endswith(".npy"):
                raise Damage(f"its member {name!r} is not an array (.npy)")
            name = name.removesuffix(".npy")
            tensors[name] = _array(name, stretch)
    return TensorFile(path, "npz", tensors)


def _array(name: str, stretch: ByteRange) -> Tensor:
    head = stretch.beginning(_MAX_HEADER)
    start = _header_end(head)
    header = _HEADER.fullmatch(head[10 if head[6:7] == b"\1" else 12 : start])
    if header is None or (dtype := _TYPES.get(header[1].decode("latin-1"))) is None:
        found = header[1].decode("latin-1") if header else "something else"
        raise Damage(
            f"its array {name!r} has {found!r}, not plain little-endian numbers",
            "Save arrays of numbers; objects would have to be unpickled, which runs code.",
        )
    shape = tuple(int(n) for n in re.findall(rb"\d+", header[3]))
    expected = start + math.prod(shape) * DTYPES[dtype].itemsize
    if stretch.size != expected:
        raise Damage(f"its array {name!r} takes {stretch.size} bytes instead of {expected}")
    steps = tuple(math.prod(shape[:axis]) for axis in range(len(shape)))
    return Tensor(dtype, shape, stretch, start, steps if header[2] == b"True" else None)


def _header_end(head: bytes) -> int:
    """Return the position of the values, after signature, version, size and header."""
    if head[:6] != b"\x93NUMPY" or head[6:8] not in (b"\1\0", b"\2\0"):
        raise Damage(f"an array begins with {head[:8].hex()} instead of the signature of numpy")
    start = 10 if head[6] == 1 else 12
    end = start + int.from_bytes(head[8:start], "little")
    if end > len(head):
        raise Damage(f"an array has a header of {end} bytes, but only {len(head)} can be read")
    return end
