"""Sweeps over architectures: the same property of many models."""

import os
from collections.abc import Sequence

import keras


def swept(cases: Sequence, first: int = 0, *, once: bool = False) -> Sequence:
    """All cases on PyTorch; a third on JAX and on TensorFlow, which compile or trace for seconds.

    JAX begins with the case `first`, TensorFlow with the one after it. What takes seconds on
    PyTorch as well is tried `once`: there only what the others leave. `BERT4KERAS_SWEEP=all` in the
    environment gives every case on every backend.

    What differs between the backends is inside the layers; the reference outputs of all
    architectures are compared on each of them (`test_models.py`).
    """
    backend = keras.backend.backend()
    if os.environ.get("BERT4KERAS_SWEEP") == "all" or (backend == "torch" and not once):
        return cases
    shift = ("jax", "tensorflow", "torch").index(backend)
    return cases[(first + shift) % 3 :: 3]
