"""Who may ask: by which names of the host, and from pages of which sites."""

import ipaddress
from collections.abc import Callable, Collection, Mapping
from urllib.parse import urlsplit

from bert4keras.serving.answers import Refusal

_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]


def guarded(
    application: Callable,
    host: str,
    allowed_hosts: Collection[str],
    allow_origins: Collection[str],
) -> Callable:
    """Refuse what browsers ask for pages that must not ask, and add headers for them.

    Args:
        application: an application of ASGI.
        host: the address that it listens on; only on the loopback one names are refused.
        allowed_hosts: further names, in lower case, that it may be asked by.
        allow_origins: other sites whose pages may ask; `*` for all.
    """
    any_host = not _is_loopback(host)

    def refusal(scope: dict) -> Refusal | None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        name = _name_in(headers.get(b"host", "").lower())
        if not (any_host or name is None or _is_loopback(name) or name in allowed_hosts):
            message = f"this server is not {name}; WebServing(allowed_hosts=…) would make it so"
            return Refusal(421, message)
        origin = headers.get(b"origin", "unknown")
        if _runs_nothing(scope) or _asks_for_itself(headers) or {origin, "*"} & {*allow_origins}:
            return None
        message = f"a page of another site asks, its origin is {origin}"
        return Refusal(403, f"{message}; WebServing(allow_origins=…) would let it")

    async def guard(scope: dict, receive: Callable, send: Callable) -> None:
        async def send_with_headers(message: dict) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        refused = refusal(scope)
        await (refused.response() if refused else application)(scope, receive, send_with_headers)

    return guard


def _name_in(host: str) -> str | None:
    """The name in the header `Host`, without a port.

    None where there is no such header. Only browsers are to be kept out, and they always send it.
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


def _runs_nothing(scope: dict) -> bool:
    """Tell whether it is the page, the description, or the question of what is allowed."""
    return scope["path"] in ("/", "/openapi.json") or scope["method"] == "OPTIONS"


def _asks_for_itself(headers: Mapping[bytes, str]) -> bool:
    """Tell whether no page of another site has a browser ask.

    Browsers say so in `Sec-Fetch-Site` (https://www.w3.org/TR/fetch-metadata/) where the address
    is that of this machine or has TLS, and else in `Origin`, though not for every GET.
    """
    if (site := headers.get(b"sec-fetch-site")) is not None:
        return site in ("same-origin", "none")
    if (origin := headers.get(b"origin")) is not None:
        return origin.lower().partition("://")[2] == headers.get(b"host", "").lower() != ""
    return True
