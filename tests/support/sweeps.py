"""Sweeps over architectures: the same property of many models."""

from collections.abc import Sequence

import keras


def swept(cases: Sequence, first: int = 0, *, traced: bool = False) -> Sequence:
    """All cases; on JAX, which compiles each for seconds, every third, beginning with `first`.

    Where each is `traced` for seconds, TensorFlow takes the third after it, and PyTorch all.

    What differs between the backends is inside the layers; the reference outputs of all
    architectures are compared on each of them (`test_models.py`).
    """
    match keras.backend.backend():
        case "jax":
            return cases[first::3]
        case "tensorflow" if traced:
            return cases[(first + 1) % 3 :: 3]
    return cases
