"""The listening socket, and uvicorn, which serves an application on it."""

import asyncio
import logging
import math
import signal
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import uvicorn

from bert4keras.serving.connections import Connection, Pool
from bert4keras.serving.limits import Limits
from bert4keras.serving.logs import log_failure

BACKLOG = 2048
"""Maximum number of connections that the system queues until they are accepted."""
ACCEPT_AT_ONCE = 16
"""Maximum number of connections accepted at once, before others are closed for them."""


def listen(host: str, port: int) -> socket.socket:
    """Open the socket.

    Raises:
        OSError: the address or port cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise OSError(
            f"WebServing cannot listen on port {port} of {host!r} ({error}): choose "
            "another port, or an address of this machine"
        ) from error


class Server(uvicorn.Server):
    """A server whose `serve` returns when it stops, without ending the process.

    Args:
        application: an ASGI application.
        limits: limits of its connections and of the time to stop.
        on_start: called when it accepts requests.
        on_interval: called about every second, or more often if timeouts are shorter.

    Attributes:
        pool: its connections.
        deadline: when it must have stopped, by the monotonic clock.
    """

    def __init__(
        self,
        application: Callable,
        limits: Limits,
        on_start: Callable[[], None],
        on_interval: Callable[[], None],
    ) -> None:
        self.limits, self.on_start, self.on_interval = limits, on_start, on_interval
        self.pool = Pool(limits)
        self.deadline = math.inf
        super().__init__(
            uvicorn.Config(
                application,
                http=partial(Connection, pool=self.pool),
                backlog=ACCEPT_AT_ONCE,
                ws="none",
                loop="asyncio",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,  # it would write the texts of all requests
                server_header=False,
                proxy_headers=False,
                h11_max_incomplete_event_size=limits.request,
                timeout_keep_alive=limits.idle_timeout,
                timeout_graceful_shutdown=limits.stop_timeout,
            )
        )

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until `should_exit` is set."""
        watch = asyncio.create_task(self._watch())
        try:
            await super().serve(sockets)
        finally:
            watch.cancel()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept requests."""
        await super().startup(sockets)
        for listener in sockets or []:
            listener.listen(BACKLOG)  # uvicorn has set the queue to ACCEPT_AT_ONCE
        self.on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more requests, and wait until the others are answered."""
        self.pool.stopping, self.deadline = True, time.monotonic() + self.limits.stop_timeout
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Stop without raising the signal again, by which uvicorn would end the process."""
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.limits.tick)
            try:
                self.pool.check()
                self.on_interval()
            except Exception as error:  # the checks must go on after any error
                log_failure(logging.ERROR, "the connections could not be checked", error)
