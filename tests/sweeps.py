"""Sweeps over architectures: the same property of many models."""

from collections.abc import Sequence

import keras


def swept(cases: Sequence, first: int = 0) -> Sequence:
    """All cases; on JAX, which compiles each for seconds, every third, beginning with `first`.

    What differs between the backends is inside the layers; the reference outputs of all
    architectures are compared on each of them (`test_models.py`).
    """
    return cases[first::3] if keras.backend.backend() == "jax" else cases
