"""Which names of the host may be asked, and what browsers are told of every answer."""

import ipaddress
from collections.abc import Callable, Collection
from urllib.parse import urlsplit

from bert4keras.serving.answers import Refusal

_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]


def guarded(application: Callable, host: str, allowed_hosts: Collection[str]) -> Callable:
    """Refuse requests that were meant for another host, and add headers for browsers.

    Args:
        application: an application of ASGI.
        host: the address that it listens on; only on the loopback one something is refused.
        allowed_hosts: further names, in lower case, that it may be asked by.
    """
    any_host = not _is_loopback(host)

    async def guard(scope: dict, receive: Callable, send: Callable) -> None:
        async def send_with_headers(message: dict) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        name = _asked_name(scope)
        if any_host or name is None or _is_loopback(name) or name in allowed_hosts:
            answer = application
        else:
            message = f"this server is not {name}; WebServing(allowed_hosts=…) would make it so"
            answer = Refusal(421, message).response()
        await answer(scope, receive, send_with_headers)

    return guard


def _asked_name(scope: dict) -> str | None:
    """The name in the header `Host`, without a port.

    None where there is no such header. Only browsers are to be kept out, and they always send it.
    """
    host = dict(scope["headers"]).get(b"host", b"").decode("latin-1").lower()
    try:
        return (urlsplit(f"//{host}").hostname or "") if host else None
    except ValueError:
        return host


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
