"""Build `bert4keras-core`: the code of `bert4keras` under another name, without TensorFlow.

`pip install ./core` asks this module for a wheel (PEP 517). It copies the project to a temporary
folder, changes the name and the requirements in the copy of `pyproject.toml`, and lets setuptools
do the rest. A source distribution holds the changed copy and needs this module no more.
"""

import contextlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from setuptools import build_meta

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("bert4keras", "pyproject.toml", "setup.py", "PYPI.md", "LICENSE")


def core(pyproject: str) -> str:
    """Change the name in a `pyproject.toml`, and leave out TensorFlow.

    Raises:
        ValueError: If the name or the requirement does not stand there as it is known here.
    """
    changes = {r'^name = "bert4keras"$': 'name = "bert4keras-core"', r'^ +"tensorflow>=.*\n': ""}
    for pattern, replacement in changes.items():
        pyproject, count = re.subn(pattern, replacement, pyproject, flags=re.MULTILINE)
        if count != 1:
            raise ValueError(f"pyproject.toml: expected one line like {pattern!r}, found {count}")
    return pyproject.replace('"bert4keras[', '"bert4keras-core[')  # extras that name others


@contextlib.contextmanager
def project() -> Iterator[None]:
    """Work in a copy of the project with the changed `pyproject.toml`."""
    with tempfile.TemporaryDirectory() as folder:
        for source in (ROOT / name for name in SOURCES):
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, Path(folder, source.name))
        file = Path(folder, "pyproject.toml")
        file.write_text(core(file.read_text(encoding="utf-8")), encoding="utf-8")
        with contextlib.chdir(folder):
            yield


def build_wheel(wheel_directory: str, config_settings: Any = None, _: Any = None) -> str:
    """Write the wheel into a folder, and return its name."""
    target = str(Path(wheel_directory).resolve())
    with project():
        return build_meta.build_wheel(target, config_settings)


def build_sdist(sdist_directory: str, config_settings: Any = None) -> str:
    """Write the source distribution into a folder, and return its name."""
    target = str(Path(sdist_directory).resolve())
    with project():
        return build_meta.build_sdist(target, config_settings)
