"""Answers and refusals as JSON."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import fastapi

# What `code` is in an answer; every other failure has its HTTP status there.
SUCCEEDED, MISSING_ARGUMENT, FUNCTION_FAILED = 0, 1, 2


class Refusal(Exception):
    """A request that is not answered: HTTP status, what to tell, and `code` where it differs."""

    def __init__(
        self,
        status: int,
        description: str,
        code: int | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(description)
        self.status, self.description, self.headers = status, description, headers
        self.code = status if code is None else code

    def response(self) -> "fastapi.Response":
        """What the client is sent."""
        content = {"code": self.code, "desc": self.description, "data": {}}
        # A path or an argument that a request named may hold what UTF-8 does not.
        body = json.dumps(content, ensure_ascii=False).encode("utf-8", "backslashreplace")
        return json_response(body, self.status, self.headers)


def json_response(
    body: bytes, status: int = 200, headers: Mapping[str, str] | None = None
) -> "fastapi.Response":
    """Make a response of JSON that is encoded already."""
    import fastapi

    return fastapi.Response(body, status, headers, media_type="application/json")


def encoded(answer: Any) -> bytes:
    """Give the body for what a function returned.

    Raises:
        TypeError: JSON cannot hold it.
        ValueError: it has a text that is no Unicode.
    """
    content = {"code": SUCCEEDED, "desc": "succeeded", "data": _plain(answer)}
    return json.dumps(content, ensure_ascii=False, allow_nan=False).encode("utf-8")


def _plain(value: Any) -> Any:
    """Make of a value what JSON can hold."""
    if isinstance(value, str | int | None):
        return value
    if isinstance(value, float):
        return float(value) if np.isfinite(value) else None
    if isinstance(value, Mapping):
        return {
            key.item() if isinstance(key, np.generic) else key: _plain(each)
            for key, each in value.items()
        }
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if hasattr(value, "__array__"):  # tensors of the backends
        return _plain(np.asarray(value).tolist())
    raise TypeError(
        f"an answer holds a {type(value).__name__}, which JSON cannot: return texts, numbers, "
        "lists, dicts and arrays"
    )
