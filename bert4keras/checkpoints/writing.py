"""Atomic replacement of one or several files.

New files are written to a hidden folder next to their destination. When they are on the disk they
replace the old ones: a single file by renaming, several files in such a way that one rename
replaces all of them:

1. the old files are hard-linked in the hidden folder under `old`, next to the new ones under `new`;
   a symbolic link `now` refers to `old`;
2. each old file is replaced by a symbolic link `HIDDEN/now/NAME`, which refers to the same file;
3. **`now` is replaced by a link to `new`**;
4. each link is replaced by the new file to which it refers, and the hidden folder is removed.

Readers find the old files before the third step and the new ones after it, even if the writer is
killed in between; the next writer in the folder cleans up. Readers need not know that the files are
temporarily links: TensorFlow and `transformers` follow them.

A hidden folder is locked as long as its writer is alive, and a folder while its files are replaced.
"""

import contextlib
import errno
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from bert4keras.checkpoints.base import CheckpointError

try:
    import fcntl
except ImportError:  # Windows, where open files cannot be removed anyway
    fcntl = None

_HIDDEN = r"\.bert4keras-[0-9a-f]{32}\.tmp"
_LINK = re.compile(rf"({_HIDDEN})/now/([^/]+)")
_WITHOUT_LOCKS = 24 * 3600  # seconds after which a hidden folder counts as abandoned
# Errors of file systems that do not support links, or not to this file.
_NO_LINKS = (errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.EMLINK)
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)  # of folders


@contextlib.contextmanager
def replacing(
    folder: str | Path, head: str, former: str = "", create: bool = False
) -> Iterator[Path]:
    """Yield a hidden folder whose files replace those in `folder` atomically.

    They do so when the block ends without an error, after they are on the disk. Otherwise nothing
    is changed. A file keeps the permissions of the file that it replaces.

    Args:
        folder: the destination of the files.
        head: the name of the file that readers open first. It matters only on file systems without
            links: there it is removed first and written last, so that a writer that is killed
            leaves no incomplete set of files that seems complete.
        former: a regular expression; files in `folder` that match it and are not among the new ones
            are removed in the same step.
        create: whether to create the folder if there is none.

    Raises:
        CheckpointError: the folder is missing or read-only, the disk is full, ...
    """
    folder = Path(folder)
    with _writable(folder / head), contextlib.ExitStack() as stack:
        if create:
            stack.enter_context(_created(folder))
        elif not folder.is_dir():
            path = folder / head
            raise CheckpointError(f"cannot write {path}: there is no folder {folder}. Create it.")
        hidden = stack.enter_context(_hidden(folder))
        yield hidden / "new"
        names = sorted(os.listdir(hidden / "new"))
        for name in names:
            _finish(hidden / "new" / name, folder / name)
        _sync(hidden / "new")
        stack.enter_context(_locked(folder))
        stack.callback(_settle, folder)
        _settle(folder)
        gone = {name for name in os.listdir(folder) if re.fullmatch(former, name)}
        _put(folder, hidden, names, sorted(gone.difference(names)), head)
        _remove_abandoned(folder)


@contextlib.contextmanager
def replacing_file(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file, for writing and reading, that replaces `path` atomically, like `replacing`.

    If `path` is a symbolic link, its target is replaced.
    """
    path = Path(os.path.realpath(path))
    with (
        replacing(path.parent, path.name) as folder,
        open(folder / path.name, "w+b") as file,
    ):
        yield file


@contextlib.contextmanager
def _writable(path: Path) -> Iterator[None]:
    """Turn errors of the operating system into a `CheckpointError` that names the file."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"cannot write {path}: {error.strerror or error}. Existing files are unchanged."
        ) from error


@contextlib.contextmanager
def _created(folder: Path) -> Iterator[None]:
    """Create a folder if there is none, and remove it again after an error."""
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if new:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _finish(new: Path, old: Path) -> None:
    """Give a new file the permissions of the old one, and sync it to the disk."""
    if os.path.isdir(old):
        raise IsADirectoryError(errno.EISDIR, f"{old} is a folder")
    if os.path.exists(old):
        with contextlib.suppress(PermissionError):  # a file system without permissions
            os.chmod(new, stat.S_IMODE(os.stat(old).st_mode))
    _sync(new)


def _sync(path: Path) -> None:
    """Sync a file, or the entries of a folder, to the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot open folders
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC or not path.is_dir():
            raise
    finally:
        os.close(handle)


# === Replacing ===


def _put(folder: Path, hidden: Path, names: Sequence[str], gone: Sequence[str], head: str) -> None:
    """Move new files to their destination, and remove others, in one step."""
    if len(names) == 1 and not gone:
        os.replace(hidden / "new" / names[0], folder / names[0])
        _sync(folder)
    elif _keep(folder, hidden, [*names, *gone]):
        _switch(folder, hidden, [*names, *gone])
    else:
        _put_one_by_one(folder, hidden, names, gone, head)


def _keep(folder: Path, hidden: Path, names: Sequence[str]) -> bool:
    """Link the old files under `old`; return whether the file system supports it."""
    try:
        for name in names:
            if os.path.islink(folder / name):  # of the user; a relative one would be wrong in `old`
                os.symlink(os.path.realpath(folder / name), hidden / "old" / name)
            elif os.path.lexists(folder / name):
                os.link(folder / name, hidden / "old" / name)
        os.symlink("old", hidden / "now")
    except OSError as error:
        if error.errno in _NO_LINKS or os.name == "nt":
            return False
        raise
    _sync(hidden / "old")
    _sync(hidden)
    return True


def _switch(folder: Path, hidden: Path, names: Sequence[str]) -> None:
    for name in names:
        os.symlink(f"{hidden.name}/now/{name}", hidden / "link")
        os.replace(hidden / "link", folder / name)
    _sync(folder)
    os.symlink("new", hidden / "next")
    os.replace(hidden / "next", hidden / "now")
    _sync(hidden)
    _settle(folder)


def _settle(folder: Path) -> None:
    """Replace the links of a switch, possibly of a killed writer, by the files they refer to."""
    links = [
        entry.name
        for entry in os.scandir(folder)
        if entry.is_symlink() and _LINK.fullmatch(os.readlink(entry.path).replace("\\", "/"))
    ]
    for name in links:
        source = folder / os.readlink(folder / name)
        if os.path.lexists(source):
            os.replace(source, folder / name)
        else:
            os.unlink(folder / name)
    if links:
        _sync(folder)


def _put_one_by_one(
    folder: Path, hidden: Path, names: Sequence[str], gone: Sequence[str], head: str
) -> None:
    """Replace files without links; a killed writer leaves no head file."""
    (folder / head).unlink(missing_ok=True)
    for name in gone:
        (folder / name).unlink(missing_ok=True)
    for name in sorted(names, key=lambda name: name == head):
        _sync(folder)
        os.replace(hidden / "new" / name, folder / name)
    _sync(folder)


# === Hidden folders and locks ===


@contextlib.contextmanager
def _hidden(folder: Path) -> Iterator[Path]:
    """Create and lock a hidden folder with subfolders `new` and `old`, and remove it in the end."""
    with contextlib.ExitStack() as stack:
        hidden, locked = folder, False
        # Before it is locked, another writer may consider it abandoned.
        while not (locked and hidden.exists()):
            hidden = folder / f".bert4keras-{uuid.uuid4().hex}.tmp"
            os.mkdir(hidden)
            locked = stack.enter_context(_locked(hidden, wait=False)) is not False
        try:
            os.mkdir(hidden / "new")
            os.mkdir(hidden / "old")
            yield hidden
        finally:
            _remove(hidden)


def _remove(hidden: Path) -> None:
    """Remove a hidden folder, unless files next to it are still links into it."""
    with contextlib.suppress(OSError):
        links = [os.readlink(e.path) for e in os.scandir(hidden.parent) if e.is_symlink()]
        if not any(link.startswith(hidden.name) for link in links):
            shutil.rmtree(hidden, ignore_errors=True)


def _remove_abandoned(folder: Path) -> None:
    """Remove the hidden folders of writers that no longer run."""
    for name in os.listdir(folder):
        if re.fullmatch(_HIDDEN, name):
            with _locked(folder / name, wait=False) as locked:
                if locked is not False and (locked or _is_old(folder / name)):
                    _remove(folder / name)


def _is_old(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return time.time() - os.stat(path).st_mtime > _WITHOUT_LOCKS
    return False


@contextlib.contextmanager
def _locked(path: Path, wait: bool = True) -> Iterator[bool | None]:
    """Hold the lock of a folder, which ends with the process; yield whether it was acquired.

    None means that locks are not supported.
    """
    if fcntl is None:
        yield None
        return
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        yield False
        return
    try:
        yield _lock(handle, wait)
    finally:
        os.close(handle)


def _lock(handle: int, wait: bool) -> bool | None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return None
    return True
