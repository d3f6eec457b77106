"""Answers and error responses as JSON."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import fastapi

# Values of `code` in an answer; other failures have their HTTP status there.
SUCCEEDED, MISSING_ARGUMENT, FUNCTION_FAILED = 0, 1, 2


class Refusal(Exception):
    """An error response: HTTP status, description, and `code` where it differs from the status."""

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
        """Return the response to be sent to the client."""
        content = {"code": self.code, "desc": self.description, "data": {}}
        # Paths and arguments of a request may contain characters that UTF-8 cannot encode.
        body = json.dumps(content, ensure_ascii=False).encode("utf-8", "backslashreplace")
        return json_response(body, self.status, self.headers)


def json_response(
    body: bytes, status: int = 200, headers: Mapping[str, str] | None = None
) -> "fastapi.Response":
    """Make a response of JSON that is already encoded."""
    import fastapi

    return fastapi.Response(body, status, headers, media_type="application/json")


def encode_result(answer: Any) -> bytes:
    """Encode what a function returned as the body of a response.

    Raises:
        TypeError: JSON cannot represent it.
        ValueError: it contains a string that is not valid Unicode.
    """
    content = {"code": SUCCEEDED, "desc": "succeeded", "data": _to_json_value(answer)}
    return json.dumps(content, ensure_ascii=False, allow_nan=False).encode("utf-8")


def _to_json_value(value: Any) -> Any:
    """Convert a value to types that JSON can represent."""
    if isinstance(value, str | int | None):
        return value
    if isinstance(value, float):
        return float(value) if np.isfinite(value) else None
    if isinstance(value, Mapping):
        return {
            key.item() if isinstance(key, np.generic) else key: _to_json_value(each)
            for key, each in value.items()
        }
    if isinstance(value, list | tuple):
        return [_to_json_value(each) for each in value]
    if isinstance(value, np.ndarray | np.generic):
        return _to_json_value(value.tolist())
    if hasattr(value, "__array__"):  # tensors of the backends
        return _to_json_value(np.asarray(value).tolist())
    raise TypeError(
        f"an answer contains a {type(value).__name__}, which JSON cannot represent: return "
        "strings, numbers, lists, dicts and arrays"
    )
