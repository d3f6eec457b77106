"""Scripts that are rewritten together, and the modules that they import."""

import ast
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from bert4keras.migrate.names import Names
from bert4keras.migrate.source import Source
from bert4keras.migrate.text import read_text, real


class Project:
    """Scripts, and the modules in their folders.

    Args:
        tops: the scripts to rewrite, each with the topmost folder that is searched for modules.
    """

    def __init__(self, tops: Mapping[Path, Path]):
        self.tops = tops
        self.texts: dict[Path, str] = {}
        self.modules: dict[Path, Names | None] = {}
        self.paths: dict[Names, Path] = {}
        self.taken: dict[Path, set[str]] = {}

    # === Modules ===

    def text(self, path: Path) -> str:
        """Return the text of a module, "" if it cannot be read, which rewriting it reports."""
        if path not in self.texts:
            try:
                self.texts[path] = read_text(path).text
            except (OSError, ValueError):
                self.texts[path] = ""
        return self.texts[path]

    def module(self, path: Path) -> Names | None:
        """Return the names of a module; None if it cannot be read."""
        if path not in self.modules:
            self.modules[path] = None  # while it is read
            try:
                self.modules[path] = names = self.read(path, self.text(path))
                self.paths[names] = path
            except SyntaxError:
                pass
        return self.modules[path]

    def read(self, path: Path, text: str) -> Names:
        """Return the names of a module with a given text."""
        find = partial(self.find, path)
        return Names(Source(text), find, package=path.name == "__init__.py")

    def names(self, path: Path, text: str) -> Names:
        """Return the names of a script of the project, possibly with a new text."""
        known = self.module(path) if text == self.text(path) else None
        return known or self.read(path, text)

    def find(self, importer: Path, name: str, level: int) -> Names | None:
        """Return the module that a script imports by a name with a number of dots before it."""
        parts = [part for part in name.split(".") if part]
        for folder in self.folders(importer, level):
            module = folder.joinpath(*parts)
            for path in (module.with_name(f"{module.name}.py"), module / "__init__.py"):
                if (parts or path.name == "__init__.py") and path.is_file():
                    return self.module(real(path))
        return None

    def folders(self, importer: Path, level: int) -> Iterator[Path]:
        """Yield the folders of modules that a script may import, the nearest first."""
        if level:
            yield importer.parents[min(level, len(importer.parents)) - 1]
            return
        top = self.tops.get(importer, importer.parent)
        for folder in importer.parents:
            yield folder
            if folder == top or top not in folder.parents:
                return

    # === Imports by other modules ===

    def takes(self, path: Path, name: str) -> bool:
        """Tell whether another module of the project uses a name of a script, or may do so."""
        if path not in self.taken:
            self.taken[path] = set()
            module = self.module(path)
            for other in self.neighbours(path) if module else ():
                self.taken[path] |= self.taken_by(other, module)
        return name in self.taken[path]

    def neighbours(self, path: Path) -> Iterator[Names]:
        """Yield the modules that may import a script, since they contain its name."""
        name = path.parent.name if path.name == "__init__.py" else path.stem
        for other in {*self.tops, *(real(each) for each in path.parent.glob("*.py"))}:
            if other != path and name in self.text(other) and (module := self.module(other)):
                yield module

    def taken_by(self, other: Names, module: Names) -> set[str]:
        """Return the names of a module that another one uses."""
        taken: set[str] = set()
        for node in other.source.nodes:
            if isinstance(node, ast.ImportFrom) and other.local_module(node) is module:
                names = {alias.name for alias in node.names}
                taken |= names if "*" not in names else self.all_names(other)
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                meaning = other.meaning(node.value)
                if meaning and meaning.module is module:
                    taken.add(node.attr)
        return taken

    def all_names(self, other: Names) -> set[str]:
        """Return the names that a module uses, or that others import from it."""
        used = {node.id for node in other.source.nodes if isinstance(node, ast.Name)}
        path = self.paths[other]
        self.takes(path, "")
        return used | self.taken[path]
