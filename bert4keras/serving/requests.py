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
MOST_FIELDS = 1000
"""Arguments in a form or an address."""
MOST_DEPTH = 100
"""Lists and objects inside of each other; the parsers of Python and pydantic know no bound."""
_TEXTS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
"""Texts in JSON, also one without an end, so that none is looked for twice."""


@dataclass(frozen=True)
class RequestReader:
    """Reads requests, none of which may be larger or slower than the limits."""

    limits: Limits

    async def read(self, request: "fastapi.Request", route: Route) -> dict[str, Any]:
        """Give the arguments that the function of a route is called with.

        Raises:
            Refusal: they cannot be read, or the route does not take them.
        """
        query, most = request.scope["query_string"], self.limits.max_body
        if len(query) > most:
            raise Refusal(414, f"the address has more than {most} bytes after the ?")
        announced = int(request.headers.get("content-length", "0"))
        body = b""
        if route.method == "POST" or announced > most:
            body = await self._body(request, announced)
        if route.method == "GET":
            sent, is_text = _from_form(query), True
        elif query:
            raise Refusal(422, "arguments of a POST request are sent as its body, not after a ?")
        else:
            kind = request.headers.get("content-type", "")
            sent, is_text = _from_body(body, kind, self.limits.max_values)
        return check_arguments(route.arguments, sent, is_text, self.limits.max_text)

    async def _body(self, request: "fastapi.Request", announced: int) -> bytes:
        from starlette.requests import ClientDisconnect

        most, seconds = self.limits.max_body, self.limits.read_timeout
        too_long = f"the body has more than {most} bytes"
        if announced > most and "expect" in request.headers:
            raise Refusal(413, too_long, headers=CLOSE)
        body, length = bytearray(), 0
        try:
            async with asyncio.timeout(seconds):
                # What is too long is read on and dropped, up to a point: many clients only look
                # for an answer when they have sent everything.
                async for chunk in request.stream():
                    length += len(chunk)
                    if length <= most:
                        body += chunk
                    elif length > 16 * most:
                        break
        except TimeoutError:
            message = f"the body did not arrive within {seconds:g} seconds"
            raise Refusal(408, message, headers=CLOSE) from None
        except ClientDisconnect:
            raise Refusal(400, "the client has gone") from None
        if length > most:
            raise Refusal(413, too_long)
        return bytes(body)


def _from_body(body: bytes, content_type: str, max_values: int) -> tuple[dict[str, Any], bool]:
    """Give the arguments in a body, and whether all of them are texts."""
    kind, _, options = content_type.partition(";")
    charset = re.search(r"charset\s*=\s*\"?([\w-]+)", options, re.IGNORECASE)
    if charset is None or charset[1].lower() in ("utf-8", "utf8"):
        match kind.strip().lower():
            case "application/json":
                return _from_json(body, max_values), False
            case "application/x-www-form-urlencoded":
                return _from_form(body), True
            case "" if not body:
                return {}, True
    raise Refusal(
        415,
        "send the arguments as application/json or application/x-www-form-urlencoded, in UTF-8",
    )


def _from_form(encoded: bytes) -> dict[str, str]:
    if encoded.count(b"&") >= MOST_FIELDS:
        raise Refusal(422, f"there are more than {MOST_FIELDS} arguments")
    try:
        # Whoever writes `curl -d text=你好` sends UTF-8 that is not percent-encoded.
        pairs = parse_qsl(encoded.decode("utf-8"), keep_blank_values=True, errors="strict")
    except ValueError as error:
        raise Refusal(400, f"the arguments are no form in UTF-8: {_reason(error)}") from None
    return _without_repetition(pairs)


def _from_json(body: bytes, max_values: int) -> dict[str, Any]:
    try:
        text = body.decode("utf-8")
        _check_shape(text, max_values)
        values = json.loads(
            text,
            object_pairs_hook=_without_repetition,
            parse_float=_finite,
            parse_constant=_finite,
        )
        # A half of a surrogate pair, \ud800, can be written in JSON but is no character.
        json.dumps(values, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the body is no JSON in UTF-8: {_reason(error)}") from None
    if not isinstance(values, dict):
        raise Refusal(422, 'the body has to be an object, such as {"text": "…"}')
    return values


def _check_shape(text: str, max_values: int) -> None:
    """Refuse what would take long to read, before it is read.

    Raises:
        Refusal: there are more values in it, or lists in lists, than may be.
    """
    if sum(map(text.count, ",[{")) <= MOST_DEPTH:  # as good as all
        return
    structure = _TEXTS.sub("", text)
    if sum(map(structure.count, ",[{")) > max_values:
        raise Refusal(413, f"the body has more than {max_values} values")
    depth = 0
    for bracket in re.finditer(r"[\[\]{}]", structure):
        depth += 1 if bracket[0] in "[{" else -1
        if depth < 0:  # no JSON
            return
        if depth > MOST_DEPTH:
            raise Refusal(422, f"the body has lists in lists, more than {MOST_DEPTH} deep")


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number[:60]} is no number of JSON that a float holds")
    return value


def _without_repetition(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        repeated, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise Refusal(422, f'argument "{repeated[:60]}" was sent more than once')
    return values


def _reason(error: Exception) -> str:
    """What is wrong with a body, without the body itself."""
    if isinstance(error, UnicodeError):
        return f"position {error.start}: {error.reason}"
    return str(error)[:200]
