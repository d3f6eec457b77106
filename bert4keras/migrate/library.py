"""Names in the installed packages, read from their files without importing them."""

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from bert4keras.migrate.source import parsed

PACKAGES = ("bert4keras", "keras")
"""Packages whose names can be read from their files."""


def is_missing(name: str) -> bool:
    """Tell whether a full name certainly does not exist, such as `keras.layers.Highway`.

    Args:
        name: a new full name; attributes of classes and functions are not checked.
    """
    parts = name.split(".")
    if parts[0] not in PACKAGES or len(parts) < 2:
        return False
    names = names_of(parts[0])
    for depth in range(1, len(parts)):
        if names is None:
            return False
        if parts[depth] not in names and names_of(".".join(parts[: depth + 1])) is None:
            return True
        names = names_of(".".join(parts[: depth + 1]))
    return False


@cache
def names_of(module: str) -> frozenset[str] | None:
    """Return the names that a module binds; None if it is not a module or they are unknown."""
    folder = folder_of(module.split(".")[0])
    if folder is None:
        return None
    path = folder.joinpath(*module.split(".")[1:])
    for file in (path / "__init__.py", path.with_suffix(".py")):
        if file.is_file():
            return frozenset(bound_names(parsed(file.read_text(encoding="utf-8"))))
    return None


@cache
def folder_of(package: str) -> Path | None:
    """Return the folder of an installed package."""
    spec = find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else None


def bound_names(tree: ast.Module) -> set[str]:
    """Return the names that the statements of a module bind."""
    found = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.If | ast.Try | ast.With):
            found |= bound_names(ast.Module(node.body, []))
    return found | string_names(tree)


def string_names(tree: ast.Module) -> set[str]:
    """Return the names in strings, as in `__all__`, which a module may bind by `__getattr__`."""
    values = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return {value for value in values if isinstance(value, str) and value.isidentifier()}
