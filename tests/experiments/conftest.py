"""The scripts of `experiments/` on slices of their data.

`make test` runs them on PyTorch: on TensorFlow, half of its time went into tracing graphs for
trainings of a few steps. They run on every backend by `KERAS_BACKEND=… pytest tests/experiments`.
"""

from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is in this folder."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("eager")
