"""Files of scripts: reading in any encoding, and safe writing."""

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
        path: the path of the file.
        text: the text, including line ends.
        encoding: its encoding.
    """

    path: Path
    text: str
    encoding: str


def real(path: Path) -> Path:
    """Return the path with links resolved; broken links are kept."""
    return Path(os.path.realpath(path))


def read_text(path: Path) -> Text:
    """Read a script.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a regular file, or cannot be decoded; the message gives the reason.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError(f"{path}: not a regular file: give a script or a folder")
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
    """Replace the text of a file, and keep the old text in another file.

    At every moment the old text is in one of the two files, and an interruption leaves no other
    files behind.

    Args:
        old: the text on the disk.
        new: the new text.

    Returns:
        The path of the old text.

    Raises:
        OSError: the file cannot be written and is unchanged.
    """
    path = real(old.path)  # so that a link is preserved
    status = path.stat()
    with new_file(path.parent) as (file, give_name):
        file.write(new.encode(old.encoding))
        file.flush()
        with contextlib.suppress(AttributeError):  # on Windows
            with contextlib.suppress(PermissionError):  # only root may change owners
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
    """Open a new file, with a function that names it; otherwise it is deleted at the end.

    On Linux it has no name until then, so that not even a kill leaves it behind.
    """
    name = None
    try:
        handle = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o600)
    except (OSError, AttributeError):
        handle, name = tempfile.mkstemp(dir=folder, prefix=".migrate-")

    with os.fdopen(handle, "wb") as file:

        def give_name(path: Path) -> None:
            if name is None:
                # Following links requires `src_dir_fd`, which is ignored for an absolute path.
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
    """Rename a file to `train.py.orig`, or to `train.py.orig.2` if that exists, and so on."""
    for number in itertools.count(1):
        kept = path.with_name(f"{path.name}.orig" + (f".{number}" if number > 1 else ""))
        try:
            os.link(path, kept)
        except FileExistsError:
            if not (kept.exists() and kept.samefile(path)):
                continue
            # A run was interrupted at this point.
        except OSError:  # no hard links on this disk
            if kept.exists():
                continue
            os.rename(path, kept)
            return kept
        os.unlink(path)
        return kept
    raise AssertionError("unreachable")
