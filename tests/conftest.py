"""Fixtures that every test module may use."""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference outputs, real data and real weights; its tests skip without it."""
    checkout = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("BERT4KERAS_SHARED", checkout.parent / "shared"))
    if not (folder / "golden").is_dir():
        pytest.skip(f"no reference outputs in {folder}: set BERT4KERAS_SHARED to their folder")
    return folder


@pytest.fixture(scope="session")
def load_script() -> Callable[[Path], ModuleType]:
    """Make a module of a script; not by its name, which its folder may have as well."""

    def load(path: Path) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"{path.stem}_script", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load
