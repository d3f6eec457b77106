"""The arguments of a request, read from its address or body: a form or JSON, within the limits."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from bert4keras.serving.answers import Refusal
from bert4keras.serving.arguments import convert_arguments
from bert4keras.serving.routes import Route

if TYPE_CHECKING:
    import fastapi


@dataclass(frozen=True)
class RequestReader:
    """Reads requests, none of which may be larger or slower than the limits of `WebServing`."""

    max_body: int
    max_text: int
    read_timeout: float

    async def read(self, request: "fastapi.Request", route: Route) -> dict[str, Any]:
        """Give the arguments that the function of a route is called with.

        Raises:
            Refusal: they cannot be read, or the route does not take them.
        """
        query = request.scope["query_string"]
        if len(query) > self.max_body:
            raise Refusal(414, f"the address has more than {self.max_body} bytes after the ?")
        if route.method == "GET":
            sent, is_text = _from_form(query), True
        elif query:
            raise Refusal(422, "arguments of a POST request are sent as its body, not after a ?")
        else:
            body = await self._body(request)
            sent, is_text = _from_body(body, request.headers.get("content-type", ""))
        return convert_arguments(route.arguments, sent, is_text, self.max_text)

    async def _body(self, request: "fastapi.Request") -> bytes:
        from starlette.requests import ClientDisconnect

        too_long = Refusal(413, f"the body has more than {self.max_body} bytes")
        announced = int(request.headers.get("content-length", "0"))
        if announced > self.max_body and "expect" in request.headers:
            raise too_long
        body, length = bytearray(), 0
        try:
            async with asyncio.timeout(self.read_timeout):
                # What is too long is read on and dropped, up to a point: many clients only look
                # for an answer when they have sent everything.
                async for chunk in request.stream():
                    length += len(chunk)
                    if length <= self.max_body:
                        body += chunk
                    elif length > 16 * self.max_body:
                        break
        except TimeoutError:
            message = f"the body did not arrive within {self.read_timeout:g} seconds"
            raise Refusal(408, message, headers={"Connection": "close"}) from None
        except ClientDisconnect:
            raise Refusal(400, "the client has gone") from None
        if length > self.max_body:
            raise too_long
        return bytes(body)


def _from_body(body: bytes, content_type: str) -> tuple[dict[str, Any], bool]:
    """Give the arguments in a body, and whether all of them are texts."""
    kind, _, options = content_type.partition(";")
    charset = re.search(r"charset\s*=\s*\"?([\w-]+)", options, re.IGNORECASE)
    if charset is None or charset[1].lower() in ("utf-8", "utf8"):
        match kind.strip().lower():
            case "application/json":
                return _from_json(body), False
            case "application/x-www-form-urlencoded":
                return _from_form(body), True
            case "" if not body:
                return {}, True
    raise Refusal(
        415,
        "send the arguments as application/json or application/x-www-form-urlencoded, in UTF-8",
    )


def _from_form(encoded: bytes) -> dict[str, str]:
    try:
        # Whoever writes `curl -d text=你好` sends UTF-8 that is not percent-encoded.
        pairs = parse_qsl(
            encoded.decode("utf-8"), keep_blank_values=True, errors="strict", max_num_fields=1000
        )
    except ValueError as error:
        raise Refusal(400, f"the arguments are no form in UTF-8: {_reason(error)}") from None
    return _without_repetition(pairs)


def _from_json(body: bytes) -> dict[str, Any]:
    def no_number(name: str) -> None:
        raise ValueError(f"{name} is no number of JSON")

    try:
        values = json.loads(
            body.decode("utf-8"), object_pairs_hook=_without_repetition, parse_constant=no_number
        )
        # A half of a surrogate pair, \ud800, can be written in JSON but is no character.
        json.dumps(values, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the body is no JSON in UTF-8: {_reason(error)}") from None
    if not isinstance(values, dict):
        raise Refusal(422, 'the body has to be an object, such as {"text": "…"}')
    return values


def _without_repetition(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    repeated = [name for name, n in Counter(name for name, _ in pairs).items() if n > 1]
    if repeated:
        raise Refusal(422, f'argument "{repeated[0][:60]}" was sent more than once')
    return dict(pairs)


def _reason(error: Exception) -> str:
    """What is wrong with a body, without the body itself."""
    if isinstance(error, UnicodeError):
        return f"position {error.start}: {error.reason}"
    return str(error)[:200]
