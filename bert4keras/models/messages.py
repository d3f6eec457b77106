"""What errors and warnings of models have in common."""

import inspect
import warnings
from collections.abc import Iterable
from types import FrameType


def some(names: Iterable[str], limit: int = 3) -> str:
    """A few of many names, for a message."""
    names = sorted(names)
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest


def warn(message: str) -> None:
    """Warn whoever called the library, at the line of that call."""
    frame, level = inspect.currentframe(), 1
    while frame and frame.f_back and package_of(frame) in ("bert4keras", "contextlib"):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def package_of(frame: FrameType) -> str:
    """The top-level package whose code a frame runs."""
    return frame.f_globals.get("__name__", "").split(".")[0]
