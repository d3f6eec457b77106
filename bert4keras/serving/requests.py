"""The arguments of a request, read from its address or body: a form or JSON, within the limits."""

import asyncio
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from bert4keras.serving.answers import Refusal
from bert4keras.serving.arguments import check_arguments
from bert4keras.serving.limits import Limits
from bert4keras.serving.routes import Route

if TYPE_CHECKING:
    import fastapi

CLOSE = {"Connection": "close"}
MAX_FIELDS = 1000
"""Maximum number of arguments in a form or an address."""
MAX_DEPTH = 100
"""Maximum depth of nested lists and objects; the parsers of Python and pydantic have no limit."""
_STRINGS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
"""Strings in JSON, also an unterminated one, so that the search takes linear time."""


@dataclass(frozen=True)
class RequestReader:
    """Reads requests within the limits."""

    limits: Limits

    async def read(self, request: "fastapi.Request", route: Route) -> dict[str, Any]:
        """Return the arguments for the function of a route.

        Raises:
            Refusal: they cannot be read, or the route does not accept them.
        """
        query, max_body = request.scope["query_string"], self.limits.max_body
        if len(query) > max_body:
            raise Refusal(414, f"the address has more than {max_body} bytes after the ?")
        content_length = int(request.headers.get("content-length", "0"))
        body = b""
        if route.method == "POST" or content_length > max_body:
            body = await self._body(request, content_length)
        if route.method == "GET":
            sent, is_text = _parse_form(query), True
        elif query:
            raise Refusal(422, "send the arguments of a POST request in its body, not after a ?")
        else:
            kind = request.headers.get("content-type", "")
            sent, is_text = _parse_body(body, kind, self.limits.max_values)
        return check_arguments(route.arguments, sent, is_text, self.limits.max_text)

    async def _body(self, request: "fastapi.Request", content_length: int) -> bytes:
        from starlette.requests import ClientDisconnect

        max_body, seconds = self.limits.max_body, self.limits.read_timeout
        too_long = f"the body has more than {max_body} bytes"
        if content_length > max_body and "expect" in request.headers:
            raise Refusal(413, too_long, headers=CLOSE)
        body, length = bytearray(), 0
        try:
            async with asyncio.timeout(seconds):
                # The rest of a long body is read and dropped, up to a limit: many clients read
                # the answer only after they have sent everything.
                async for chunk in request.stream():
                    length += len(chunk)
                    if length <= max_body:
                        body += chunk
                    elif length > 16 * max_body:
                        break
        except TimeoutError:
            message = f"the body did not arrive within {seconds:g} seconds"
            raise Refusal(408, message, headers=CLOSE) from None
        except ClientDisconnect:
            raise Refusal(400, "the client disconnected") from None
        if length > max_body:
            raise Refusal(413, too_long)
        return bytes(body)


def _parse_body(body: bytes, content_type: str, max_values: int) -> tuple[dict[str, Any], bool]:
    """Return the arguments in a body, and whether all of them are strings."""
    kind, _, options = content_type.partition(";")
    charset = re.search(r"charset\s*=\s*\"?([\w-]+)", options, re.IGNORECASE)
    if charset is None or charset[1].lower() in ("utf-8", "utf8"):
        match kind.strip().lower():
            case "application/json":
                return _parse_json(body, max_values), False
            case "application/x-www-form-urlencoded":
                return _parse_form(body), True
            case "" if not body:
                return {}, True
    raise Refusal(
        415,
        "send the arguments as application/json or application/x-www-form-urlencoded, in UTF-8",
    )


def _parse_form(encoded: bytes) -> dict[str, str]:
    if encoded.count(b"&") >= MAX_FIELDS:
        raise Refusal(422, f"there are more than {MAX_FIELDS} arguments")
    try:
        # `curl -d text=你好` sends UTF-8 that is not percent-encoded.
        pairs = parse_qsl(encoded.decode("utf-8"), keep_blank_values=True, errors="strict")
    except ValueError as error:
        raise Refusal(400, f"the arguments are not a form in UTF-8: {_reason(error)}") from None
    return _unique_names(pairs)


def _parse_json(body: bytes, max_values: int) -> dict[str, Any]:
    try:
        text = body.decode("utf-8")
        _check_shape(text, max_values)
        values = json.loads(
            text,
            object_pairs_hook=_unique_names,
            parse_float=_parse_finite,
            parse_constant=_parse_finite,
        )
        # A lone surrogate, \ud800, can be written in JSON but is not a character.
        json.dumps(values, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the body is not JSON in UTF-8: {_reason(error)}") from None
    if not isinstance(values, dict):
        raise Refusal(422, 'the body must be an object, such as {"text": "…"}')
    return values


def _check_shape(text: str, max_values: int) -> None:
    """Refuse JSON that would take long to parse, before it is parsed.

    Raises:
        Refusal: it has too many values, or is nested too deeply.
    """
    if sum(map(text.count, ",[{")) <= MAX_DEPTH:  # nearly all requests
        return
    structure = _STRINGS.sub("", text)
    if sum(map(structure.count, ",[{")) > max_values:
        raise Refusal(413, f"the body has more than {max_values} values")
    depth = 0
    for bracket in re.finditer(r"[\[\]{}]", structure):
        depth += 1 if bracket[0] in "[{" else -1
        if depth < 0:  # invalid JSON
            return
        if depth > MAX_DEPTH:
            raise Refusal(422, f"the body is nested more than {MAX_DEPTH} deep")


def _parse_finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number[:60]} is not a finite number")
    return value


def _unique_names(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        repeated, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise Refusal(422, f'argument "{repeated[:60]}" was sent more than once')
    return values


def _reason(error: Exception) -> str:
    """Return the reason of a decoding error, without the body itself."""
    if isinstance(error, UnicodeError):
        return f"position {error.start}: {error.reason}"
    return str(error)[:200]
