"""The socket that is listened on, and uvicorn, which serves an application on it."""

import signal
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import uvicorn


def listen(host: str, port: int) -> socket.socket:
    """Open the socket.

    Raises:
        OSError: the address or port cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise OSError(
            f"WebServing cannot listen on port {port} of {host!r} ({error}); choose "
            "another port, or an address of this machine"
        ) from error


def make_server(
    application: Callable, max_body: int, stop_timeout: float, on_start: Callable[[], None]
) -> "uvicorn.Server":
    """Make a server whose `serve` returns, and ends nothing else, when it is to stop.

    Args:
        application: an application of ASGI.
        max_body: bytes after the `?` of an address at most.
        stop_timeout: seconds in which requests are finished when the server stops.
        on_start: called when it takes requests.
    """
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            on_start()

        def handle_exit(self, sig: int, frame: Any) -> None:
            # That of uvicorn raises the signal once more in the end, which kills the process.
            if self.should_exit and sig == signal.SIGINT:
                self.force_exit = True
            self.should_exit = True

    return Server(
        uvicorn.Config(
            application,
            http="h11",
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,  # it would write the texts of all requests
            server_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=max_body + (1 << 16),  # an address and headers
            timeout_graceful_shutdown=stop_timeout,
        )
    )
