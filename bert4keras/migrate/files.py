"""Search for scripts, and their new texts."""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bert4keras.migrate.comments import PREFIX
from bert4keras.migrate.names import Names
from bert4keras.migrate.project import Project
from bert4keras.migrate.rewriting import rewritten
from bert4keras.migrate.text import Text, read_text, real

LIBRARY = "bert4keras"


@dataclass(frozen=True)
class Script:
    """A script before and after rewriting.

    Attributes:
        old: its text on the disk.
        new: its text after the rewriting.
    """

    old: Text
    new: str

    @property
    def changed(self) -> bool:
        """Whether the text has changed."""
        return self.new != self.old.text

    def marks(self) -> Iterator[tuple[int, str]]:
        """Yield the comments on places to change by hand: the line number, and the advice."""
        for number, line in enumerate(re.split(r"\r\n|\r|\n", self.new), 1):
            if line.strip().startswith(PREFIX):
                yield number, line.strip().removeprefix(PREFIX)


class Folder:
    """Scripts, given directly or found in folders.

    Args:
        paths: scripts, and folders that are searched for `*.py`. Hidden folders, virtual
            environments and copies of this library are left out.

    Attributes:
        scripts: the paths of the scripts as given, each once, by their real paths.
        copies: copies of the library that are imported instead of the installed one.
    """

    def __init__(self, paths: Iterable[str | Path]):
        self.copies: dict[Path, None] = {}
        self.scripts: dict[Path, Path] = {}
        tops: dict[Path, Path] = {}
        for given in map(Path, paths):
            top = given if given.is_dir() else given.parent
            for path in scripts_under(given) if given.is_dir() else [given]:
                self.note_copies(path)
                if copy := copy_around(path):
                    self.copies[copy] = None
                elif real(path) not in self.scripts:
                    self.scripts[real(path)] = path
                    tops[real(path)] = top_of(top)
        self.project = Project(tops)

    def note_copies(self, path: Path) -> None:
        """Record a copy of the library in the folder of a script."""
        copy = path.parent / LIBRARY
        if is_copy(copy):
            self.copies[copy] = None

    def rewritten(self, path: Path) -> Script:
        """Read a script and rewrite it.

        Raises:
            OSError: it cannot be read.
            ValueError: it cannot be rewritten; the message gives the place and reason.
        """
        old = read_text(path)
        try:
            return Script(old, self.new_text(real(path), old.text))
        except SyntaxError as error:
            message = f"{path}:{error.lineno or 1}: Python 3 cannot read this ({error.msg})"
            if not any(word in str(error.msg) for word in ("nested", "null bytes")):
                message += (
                    ": if it is Python 2, convert it first, as with `pip install fissix; fissix -w "
                    "SCRIPT`"
                )
            raise ValueError(message) from error

    def new_text(self, path: Path, text: str) -> str:
        """Return the new text of a script."""

        def names_of(text: str) -> Names:
            return self.project.names(path, text)

        return rewritten(text, names_of, lambda name: self.project.takes(path, name))


def scripts_under(folder: Path) -> Iterator[Path]:
    """Yield the scripts in a folder and its subfolders."""
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and not Path(parent, name, "pyvenv.cfg").exists()
        )
        yield from (Path(parent, name) for name in sorted(files) if name.endswith(".py"))


def top_of(folder: Path) -> Path:
    """Return the topmost folder searched for modules: the current one, or one outside packages."""
    folder = real(folder)
    here = Path.cwd()
    if here in folder.parents and here not in (Path.home(), Path(here.anchor)):
        return here
    while (folder / "__init__.py").exists() and folder.parent != folder:
        folder = folder.parent
    return folder


def is_copy(folder: Path) -> bool:
    """Tell whether a folder is a copy of the original library or of an old version."""
    return (folder / "__init__.py").exists() and not (folder / "legacy.py").exists()


def copy_around(path: Path) -> Path | None:
    """Return the copy of the library that contains a file, or None."""
    for folder in path.parents:
        if folder.name == LIBRARY and is_copy(folder):
            return folder
    return None


def version_of(copy: Path) -> str:
    """Return the version of a copy of the library, as far as it is known."""
    found = re.search(
        r"""__version__\s*=\s*['"]([^'"]+)""",
        (copy / "__init__.py").read_text(encoding="utf-8", errors="replace"),
    )
    return found[1] if found else "of unknown version"
