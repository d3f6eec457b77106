"""Packages whose names are imported on first access."""

import importlib
import sys

import pytest

PACKAGE = """
from bert4keras.lazy import lazy_imports

__getattr__, __dir__ = lazy_imports(__name__, {"answer": "part"})
"""


def test_a_name_is_imported_when_it_is_accessed(tmp_path, monkeypatch):
    folder = tmp_path / "lazy_package"
    folder.mkdir()
    (folder / "__init__.py").write_text(PACKAGE)
    (folder / "part.py").write_text("answer = 42\n")
    monkeypatch.syspath_prepend(tmp_path)
    package = importlib.import_module("lazy_package")
    assert dir(package) == ["answer"] and "lazy_package.part" not in sys.modules
    assert package.answer == 42 and "lazy_package.part" in sys.modules
    with pytest.raises(AttributeError, match="'lazy_package' has no attribute 'question'"):
        package.question  # noqa: B018
    with pytest.raises(ImportError, match="question"):
        exec("from lazy_package import question")
