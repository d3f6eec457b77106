"""Scripts on the disk: reading in any encoding, writing without losing anything."""

import contextlib
import itertools
import os
import stat
import tempfile
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO


@dataclass(frozen=True)
class Text:
    """The text of a file.

    Attributes:
        path: where it is.
        text: the text, line ends included.
        encoding: what it is written in.
    """

    path: Path
    text: str
    encoding: str


def real(path: Path) -> Path:
    """The path without links in it; one that leads nowhere stays."""
    return Path(os.path.realpath(path))


def read_text(path: Path) -> Text:
    """Read a script.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no file, or its text cannot be told; the message says why.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError(f"{path}: no regular file")
    data = path.read_bytes()
    try:
        encoding, _ = tokenize.detect_encoding(iter(data.splitlines(keepends=True)).__next__)
        text = data.decode(encoding)
        whole = text.encode(encoding) == data
    except (SyntaxError, UnicodeError, LookupError) as error:
        raise ValueError(
            f"{path}: cannot be decoded ({error}): name its encoding in the first line, as in "
            "# -*- coding: gbk -*-"
        ) from error
    if not whole:
        raise ValueError(
            f"{path}: cannot be written in {encoding!r} as it was read: convert it to UTF-8 first"
        )
    return Text(path, text, encoding)


def write_text(old: Text, new: str) -> Path:
    """Write a new text in the place of an old one, which is kept beside it.

    At every moment the old text is in its place or where it is kept, and nothing else is left on
    the disk by an end in the middle.

    Args:
        old: the text as it is on the disk.
        new: the new one.

    Returns:
        Where the old text is kept.

    Raises:
        OSError: nothing has changed then.
    """
    path = real(old.path)  # a link stays one
    status = path.stat()
    with new_file(path.parent) as (file, give_name):
        file.write(new.encode(old.encoding))
        file.flush()
        with contextlib.suppress(AttributeError):  # on Windows
            with contextlib.suppress(PermissionError):  # only root may give files away
                os.fchown(file.fileno(), status.st_uid, status.st_gid)
            os.fchmod(file.fileno(), stat.S_IMODE(status.st_mode))
        os.fsync(file.fileno())
        kept = moved_aside(path)
        try:
            give_name(path)
        except BaseException:
            os.rename(kept, path)
            raise
    return kept


@contextlib.contextmanager
def new_file(folder: Path) -> Iterator[tuple[BinaryIO, Callable[[Path], None]]]:
    """A new file, and what gives it a name; if that is not called, it is gone at the end.

    On Linux it has no name before, so that not even a kill leaves it behind.
    """
    name = None
    try:
        handle = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o600)
    except (OSError, AttributeError):
        handle, name = tempfile.mkstemp(dir=folder, prefix=".migrate-")

    with os.fdopen(handle, "wb") as file:

        def give_name(path: Path) -> None:
            if name is None:
                # Links are followed with the number of a folder only; an absolute path ignores it.
                os.link(f"/proc/self/fd/{handle}", path, src_dir_fd=0)
            else:
                file.close()
                os.rename(name, path)

        try:
            yield file, give_name
        finally:
            if name is not None:
                file.close()
                Path(name).unlink(missing_ok=True)


def moved_aside(path: Path) -> Path:
    """Rename a file to `train.py.orig`, or to `train.py.orig.2` if that is taken, and so on."""
    for number in itertools.count(1):
        kept = path.with_name(f"{path.name}.orig" + (f".{number}" if number > 1 else ""))
        try:
            os.link(path, kept)
        except FileExistsError:
            if not (kept.exists() and kept.samefile(path)):
                continue
            # A run was ended right here.
        except OSError:  # no hard links on this disk
            if kept.exists():
                continue
            os.rename(path, kept)
            return kept
        os.unlink(path)
        return kept
    raise AssertionError("numbers do not end")
