"""Packages whose names are imported on first access."""

from collections.abc import Callable, Mapping
from importlib import import_module

from bert4keras.starting import starts_keras


def lazy_imports(
    package: str, modules: Mapping[str, str]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` of a package that imports its names on first access.

    Args:
        package: `__name__` of the package.
        modules: the modules of the package with each name.
    """

    def get(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        with starts_keras():
            return getattr(import_module(f"{package}.{modules[name]}"), name)

    return get, lambda: list(modules)
