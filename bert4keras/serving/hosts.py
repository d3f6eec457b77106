"""Checks of the host name and the origin of requests."""

import ipaddress
from collections.abc import Callable, Collection, Mapping
from urllib.parse import urlsplit

from bert4keras.serving.answers import Refusal

_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]


def guard(
    application: Callable,
    host: str,
    allowed_hosts: Collection[str],
    allow_origins: Collection[str],
) -> Callable:
    """Refuse requests that browsers send for pages of other sites, and add security headers.

    Args:
        application: an ASGI application.
        host: the address on which the server listens; names are checked on the loopback address
            only.
        allowed_hosts: further host names in requests, in lower case.
        allow_origins: other sites whose pages may send requests; `*` for all.
    """
    any_host = not _is_loopback(host)

    def check(scope: dict) -> Refusal | None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        name = _host_name(headers.get(b"host", "").lower())
        if not (any_host or name is None or _is_loopback(name) or name in allowed_hosts):
            message = f"the host name {name} is not allowed: add it by WebServing(allowed_hosts=…)"
            return Refusal(421, message)
        origin = headers.get(b"origin", "unknown")
        if (
            _calls_no_function(scope)
            or _is_same_origin(headers)
            or {origin, "*"} & {*allow_origins}
        ):
            return None
        message = f"this request is from a page of another site, its origin is {origin}"
        return Refusal(403, f"{message}: allow it by WebServing(allow_origins=…)")

    async def guarded(scope: dict, receive: Callable, send: Callable) -> None:
        async def send_with_headers(message: dict) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        refusal = check(scope)
        await (refusal.response() if refusal else application)(scope, receive, send_with_headers)

    return guarded


def _host_name(host: str) -> str | None:
    """Return the name in the header `Host` without the port.

    None if there is no such header: the checks are for browsers, which always send it.
    """
    try:
        return (urlsplit(f"//{host}").hostname or "") if host else None
    except ValueError:
        return host


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _calls_no_function(scope: dict) -> bool:
    """Return whether a request is for the page or the description, or a CORS preflight."""
    return scope["path"] in ("/", "/openapi.json") or scope["method"] == "OPTIONS"


def _is_same_origin(headers: Mapping[bytes, str]) -> bool:
    """Return whether a request is from this site, or not from a browser.

    Browsers send `Sec-Fetch-Site` (https://www.w3.org/TR/fetch-metadata/) to loopback addresses
    and over TLS, otherwise `Origin`, though not with every GET request.
    """
    if (site := headers.get(b"sec-fetch-site")) is not None:
        return site in ("same-origin", "none")
    if (origin := headers.get(b"origin")) is not None:
        return origin.lower().partition("://")[2] == headers.get(b"host", "").lower() != ""
    return True
