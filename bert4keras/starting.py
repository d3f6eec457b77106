"""What is said where the engine that Keras is to run on is not installed."""

import contextlib
import importlib.util
import os
from collections.abc import Iterator

ENGINES = ("tensorflow", "jax", "torch")


@contextlib.contextmanager
def starts_keras() -> Iterator[None]:
    """Import within what imports Keras; without its engine, one sentence says what to do.

    Keras runs on TensorFlow unless told otherwise, and its own error does not say how to tell it.

    Raises:
        ImportError: If the engine that Keras is to run on is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        engine = (error.name or "").partition(".")[0]
        if engine not in ENGINES or is_installed(engine):
            raise
        raise ImportError(advice(engine)) from None


def is_installed(engine: str) -> bool:
    """Tell whether a package can be imported, without importing it."""
    return importlib.util.find_spec(engine) is not None


def advice(missing: str) -> str:
    """Say which engine Keras would start, that it is missing, and which could be named instead."""
    told = os.environ.get("KERAS_BACKEND")
    reason = f"KERAS_BACKEND={told}" if told else "KERAS_BACKEND is not set"
    others = [engine for engine in ENGINES if is_installed(engine)]
    settings = " or ".join(f"KERAS_BACKEND={engine}" for engine in others)
    return (
        f"{reason}, so that Keras would run on {missing}, which is not installed: "
        + (f"set {settings}, or " if others else "")
        + f"pip install {missing}"
    )
