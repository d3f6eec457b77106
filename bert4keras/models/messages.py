"""Helpers for the errors and warnings of models."""

import inspect
import warnings
from collections.abc import Iterable
from types import FrameType


def abbreviated(names: Iterable[str], limit: int = 3) -> str:
    """Join names for a message, of which only the first few are shown."""
    names = sorted(names)
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest


def warn(message: str) -> None:
    """Issue a warning that points to the line which called the library."""
    frame, level = inspect.currentframe(), 1
    while frame and frame.f_back and package_of(frame) in ("bert4keras", "contextlib"):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def package_of(frame: FrameType) -> str:
    """Return the top-level package whose code a frame runs."""
    return frame.f_globals.get("__name__", "").split(".")[0]
