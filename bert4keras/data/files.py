"""Files whose lines may be read by index."""

import builtins
import codecs
import mmap
import sys
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np


class open:
    """A file with the methods of the built-in `open`, and with access to lines if `indexable`.

    Args:
        name: path of the file.
        mode: as in the built-in `open`; `r` or `rb` for an indexable file.
        encoding: as in the built-in `open`.
        errors: how to handle bytes that do not fit the encoding, as in the built-in `open`.
        indexable: True finds the start of each line, so that `file[i]` and `len(file)` work; a path
            also stores the index in this file, where it is reused while the text is unchanged.
            Lines are read through a memory map: threads and forked workers may share the file.

    Raises:
        ValueError: an indexable file is opened for writing.
    """

    def __init__(
        self,
        name: str | Path,
        mode: str = "r",
        encoding: str | None = None,
        errors: str = "strict",
        indexable: bool | str | Path = False,
    ):
        self.name = name
        binary = "b" in mode
        self.file = builtins.open(name, mode, encoding=encoding, errors=None if binary else errors)  # noqa: SIM115
        self.encoding = None if binary else self.file.encoding
        self.errors = errors
        self.offsets: np.ndarray | None = None
        self._start, self._line_encoding = 0, self.encoding or "latin-1"
        if indexable:
            self._index(mode, indexable)

    def _index(self, mode: str, indexable: bool | str | Path) -> None:
        if mode.strip("bt") != "r":
            self.file.close()
            raise ValueError(
                f"{self.name}: a file of mode {mode!r} cannot be indexed: open it for reading"
            )
        size = Path(self.name).stat().st_size
        # The system does not allow empty memory maps.
        self._bytes = mmap.mmap(self.file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        if self.encoding is not None:
            self._start, self._line_encoding = _skip_byte_order_mark(self._bytes[:4], self.encoding)
        if indexable is True:
            self.offsets = self._line_offsets()
            return
        index = Path(indexable)
        if index.exists() and index.stat().st_mtime_ns >= Path(self.name).stat().st_mtime_ns:
            self.offsets = np.load(index, allow_pickle=False)
        if self.offsets is None or self.offsets[-1] != size:
            self.offsets = self._line_offsets()
            with builtins.open(index, "wb") as file:
                np.save(file, self.offsets)

    def _line_offsets(self) -> np.ndarray:
        """Return the position in bytes of every line, and the size of the file."""
        line_break = "\n".encode(self._line_encoding)
        width = len(line_break)
        offsets = array("q", [self._start])
        end = self._bytes.find(line_break, self._start) + width
        while end >= width:
            # In UTF-16 and UTF-32 these bytes may also span two characters.
            found = width == 1 or (end - self._start) % width == 0
            if found:
                offsets.append(end)
            end = self._bytes.find(line_break, end if found else end - width + 1) + width
        if offsets[-1] != len(self._bytes):
            offsets.append(len(self._bytes))
        return np.array(offsets)

    def __len__(self) -> int:
        if self.offsets is None:
            raise TypeError(
                f"{self.name} has no known number of lines: open it with indexable=True"
            )
        return len(self.offsets) - 1

    def __getitem__(self, key: int | slice) -> str | bytes | list[str | bytes]:
        index = range(len(self))[key]
        if isinstance(index, range):
            return [self[i] for i in index]
        line = self._bytes[self.offsets[index] : self.offsets[index + 1]]
        if self.encoding is None:
            return line
        text = line.decode(self._line_encoding, self.errors)
        return text[:-2] + "\n" if text.endswith("\r\n") else text

    def __iter__(self) -> Iterator[str | bytes]:
        """Iterate over all lines of an indexable file, otherwise over those not read yet."""
        if self.offsets is None:
            return iter(self.file)
        return (self[i] for i in range(len(self)))

    def __next__(self) -> str | bytes:
        return next(self.file)

    def __enter__(self) -> "open":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def read(self, size: int = -1) -> str | bytes:
        """Read `size` characters, or all that are left."""
        return self.file.read(size)

    def readline(self) -> str | bytes:
        """Read a line; it is empty at the end of the file."""
        return self.file.readline()

    def readlines(self) -> list:
        """Read all lines that are left."""
        return self.file.readlines()

    def write(self, text: str | bytes) -> int:
        """Write and return the number of characters written."""
        return self.file.write(text)

    def flush(self) -> None:
        """Flush the write buffer."""
        self.file.flush()

    def tell(self) -> int:
        """Return the position in the file."""
        return self.file.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to a position in the file."""
        return self.file.seek(offset, whence)

    def close(self) -> None:
        """Close the file."""
        self.file.close()
        if isinstance(getattr(self, "_bytes", None), mmap.mmap):
            self._bytes.close()


_MARKS = {
    "utf-8-sig": {codecs.BOM_UTF8: "utf-8", b"": "utf-8"},
    "utf-16": {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"},
    "utf-32": {codecs.BOM_UTF32_LE: "utf-32-le", codecs.BOM_UTF32_BE: "utf-32-be"},
}
"""Encodings whose files begin with a byte order mark, and the encodings of the text after it."""


def _skip_byte_order_mark(beginning: bytes, encoding: str) -> tuple[int, str]:
    """Return the length of the byte order mark of a file, and the encoding of the text after it."""
    name = codecs.lookup(encoding).name
    for mark, following in _MARKS.get(name, {}).items():
        if beginning.startswith(mark):
            return len(mark), following
    native = {"utf-16": f"utf-16-{sys.byteorder[0]}e", "utf-32": f"utf-32-{sys.byteorder[0]}e"}
    return 0, native.get(name, encoding)
