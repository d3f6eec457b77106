"""Scripts on the disk: reading in any encoding, diffs, writing without losing anything."""

import argparse
import difflib
import io
import os
import shutil
import sys
import tempfile
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import libcst as cst

from bert4keras.migrate.comments import PREFIX
from bert4keras.migrate.rewriting import migrate


@dataclass(frozen=True)
class Script:
    """A script as it was and as it is to be.

    Attributes:
        path: where it is.
        encoding: what it is written in.
        old: its text, line ends included.
        new: its text after the rewriting.
    """

    path: Path
    encoding: str
    old: str
    new: str

    @property
    def comments(self) -> int:
        """How many places are left to a person."""
        return sum(line.strip().startswith(PREFIX.strip()) for line in self.new.splitlines())

    def diff(self) -> str:
        """What changes, as `diff -u` says it."""
        lines = (text.splitlines(keepends=True) for text in (self.old, self.new))
        changed = difflib.unified_diff(*lines, str(self.path), str(self.path))
        return "".join(line if line.endswith("\n") else f"{line}\n" for line in changed)


def read_script(path: Path) -> Script:
    """Read a script and rewrite it.

    Raises:
        ValueError: the file cannot be read as Python 3; the message says where.
    """
    data = path.read_bytes()
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        text = data.decode(encoding)
    except (SyntaxError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path}: cannot be decoded ({error}): name its encoding in the first line, as in "
            "# -*- coding: gbk -*-"
        ) from error
    try:
        new = migrate(text)
    except cst.ParserSyntaxError as error:
        raise ValueError(
            f"{path}:{error.raw_line}: no Python 3 ({error.message}): if it is Python 2, convert "
            "it first, as with `pip install fissix; fissix -w SCRIPT`"
        ) from error
    return Script(path, encoding, text, new)


def write_script(script: Script) -> Path:
    """Write the new text in place of the old one, which is kept beside it.

    Returns:
        Where the old one is.
    """
    path = script.path.resolve()  # a link stays one
    kept = free_name(path)
    shutil.copy2(path, kept)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(script.new.encode(script.encoding))
            file.flush()
            os.fsync(file.fileno())
        shutil.copymode(path, temporary)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return kept


def free_name(path: Path) -> Path:
    """`train.py.orig`, or `train.py.orig.2` if that is taken, and so on."""
    kept, number = path.with_name(f"{path.name}.orig"), 2
    while kept.exists():
        kept = path.with_name(f"{path.name}.orig.{number}")
        number += 1
    return kept


def scripts_in(paths: Iterable[str | Path]) -> Iterator[Path]:
    """The files that are given, and the `*.py` of the folders; each once."""
    seen = set()
    for path in map(Path, paths):
        for found in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            if found.resolve() not in seen:
                seen.add(found.resolve())
                yield found


def migrate_files(paths: Sequence[str | Path], diff: bool = False) -> int:
    """Rewrite scripts in place, or print what would change.

    Args:
        paths: scripts, and folders that are searched for `*.py`.
        diff: print the differences and write nothing.

    Returns:
        1 if a file could not be read or written, otherwise 0.
    """
    failed = 0
    for path in scripts_in(paths):
        try:
            script = read_script(path)
            if diff:
                sys.stdout.write(script.diff())
            elif script.new == script.old:
                print(f"{path}: nothing to change")
            else:
                print(f"{path}: changed, the original is {write_script(script).name}")
        except (ValueError, OSError) as error:
            print(error, file=sys.stderr)
            failed = 1
            continue
        if script.comments:
            places = "1 place" if script.comments == 1 else f"{script.comments} places"
            print(f"{path}: {places} left to you, see {PREFIX.strip()}", file=sys.stderr)
    return failed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bert4keras.migrate",
        description="Rewrite scripts for bert4keras 0.11.5 and before, in place.",
        epilog="The original of x.py is kept as x.py.orig. Comments that begin with "
        f"`{PREFIX.strip()}` say what is left to a person.",
    )
    parser.add_argument("scripts", nargs="+", metavar="SCRIPT", help="files, or folders of them")
    parser.add_argument("--diff", action="store_true", help="print the changes and write nothing")
    options = parser.parse_args(arguments)
    return migrate_files(options.scripts, options.diff)
