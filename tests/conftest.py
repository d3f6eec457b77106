"""Fixtures that every test module may use."""

import os
from pathlib import Path

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
