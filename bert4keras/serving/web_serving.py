"""The class `WebServing`, by which scripts serve functions."""

import asyncio
import importlib.util
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from bert4keras.serving.application import make_application
from bert4keras.serving.hosts import guard
from bert4keras.serving.limits import Limits
from bert4keras.serving.requests import RequestReader
from bert4keras.serving.routes import Route, make_route
from bert4keras.serving.worker import Worker

if TYPE_CHECKING:
    from bert4keras.serving.server import Server


class WebServing:
    """Serves functions over HTTP, with a page at `/` to try each of them.

    An answer is JSON: `{"code": 0, "desc": "succeeded", "data": …}`, with what the function
    returned as `data`. In an error response `code` is 1 for a missing argument, 2 for a function
    that failed and otherwise the HTTP status; `desc` says what is wrong. `docs/serving_en.md` has a
    table.

    All functions run in one thread, one call at a time, so that a model is never called by two
    threads.

        web = WebServing(port=8864)
        web.route("/synonyms", synonyms, {"text": (None, True), "n": (int, False)})
        web.start()

    Args:
        host: the address to listen on. There is no authentication: on an address other than the
            loopback one everybody who can reach it has access.
        port: the port, 0 for any free one; the attribute `port` is the actual one after the start.
        server: without effect; scripts for 0.11.5 named a server of bottle here.
        max_body: maximum bytes of a request body, or of the part of an address after `?`.
        max_text: maximum characters of a string.
        max_values: maximum number of values in a JSON body.
        max_waiting: maximum number of requests that wait for their function.
        max_connections: maximum number of connections; also at most three quarters of the open
            files that the system allows the process. Beyond that, new connections replace those
            that wait for their clients.
        read_timeout: seconds in which the headers of a request, and then its body, must arrive.
        write_timeout: seconds in which a client must read 64 kB of an answer, or the rest.
        idle_timeout: seconds that a connection stays open between requests.
        call_timeout: seconds in which a function must return.
        stop_timeout: seconds in which requests are finished when the server stops.
        allowed_hosts: further host names of a server on the loopback address, such as that of a
            proxy in front of it. Requests for others are refused, since a page on the web could
            otherwise have its own name resolve to this machine and read the answers.
        allow_origins: the origins of other sites, such as `https://example.com`, whose pages may
            read the answers; `*` for all.

    Raises:
        ImportError: FastAPI or uvicorn is not installed.
        ValueError: the port is invalid, or a limit is not positive.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 8000,
        server: str | None = None,
        *,
        max_body: int = 1 << 20,
        max_text: int = 10_000,
        max_values: int = 20_000,
        max_waiting: int = 1000,
        max_connections: int = 1000,
        read_timeout: float = 30.0,
        write_timeout: float = 30.0,
        idle_timeout: float = 5.0,
        call_timeout: float = 300.0,
        stop_timeout: float = 30.0,
        allowed_hosts: Iterable[str] = (),
        allow_origins: Iterable[str] = (),
    ):
        missing = [name for name in ("fastapi", "uvicorn") if not importlib.util.find_spec(name)]
        if missing:
            raise ImportError(
                f"WebServing needs {' and '.join(missing)}: run pip install {' '.join(missing)} "
                "and start again"
            )
        if not 0 <= port <= 65535:
            raise ValueError(f"WebServing: port is {port}: give 1 to 65535, or 0 for any free one")
        self.host, self.port = host, port
        self.limits = Limits(
            max_body=max_body,
            max_text=max_text,
            max_values=max_values,
            max_waiting=max_waiting,
            max_connections=max_connections,
            read_timeout=read_timeout,
            write_timeout=write_timeout,
            idle_timeout=idle_timeout,
            call_timeout=call_timeout,
            stop_timeout=stop_timeout,
        )
        self.allowed_hosts = frozenset(name.lower() for name in allowed_hosts)
        self.allow_origins = list(allow_origins)
        self._routes: dict[str, dict[str, Route]] = {}  # by path, then by method
        self._server: Server | None = None
        self._started = threading.Event()

    def route(
        self,
        path: str,
        func: Callable[..., Any],
        arguments: Mapping[str, tuple[Any, bool]],
        method: str = "GET",
        *,
        batch_size: int | None = None,
        max_wait: float = 0.005,
    ) -> None:
        """Answer requests for a path by a function.

        Args:
            path: such as `/synonyms`; letters (of any script), digits and `_ . ~ - /`.
            func: called with the arguments by name. It returns values that JSON can represent:
                strings, numbers, lists, dicts, also numbers and arrays of NumPy; NaN and infinities
                become null.
            arguments: for each name `(converter, required)`. The converter is None for a string; a
                type, such as `int`, `bool`, `list[str]` or `Annotated[int, Field(ge=1)]`, which
                pydantic checks; or a function of the value that was sent. An argument that is not
                required and not sent is not passed to `func`.
            method: `GET` for arguments in the address, `POST` for JSON or a form as the body. A
                path can have both, each by its own call.
            batch_size: maximum number of requests that are answered together, None for one at a
                time. `func` is called with lists of values, all of the same length of at most
                `batch_size`, and returns a list (or an array) with as many answers. Requests with
                different sets of arguments are not combined. If a batch fails, each request is
                tried separately, so that none fails because of another.
            max_wait: seconds that a request waits for others in its batch.

        Raises:
            ValueError: the path, method, batch size or an argument is invalid.
            RuntimeError: the server is already running.
        """
        if self._server is not None:
            raise RuntimeError(
                f"route {path}: the server is already running: add routes before start()"
            )
        made = make_route(path, func, arguments, method, batch_size, max_wait)
        methods = self._routes.setdefault(path, {})
        if made.method in methods:
            raise ValueError(f"route {path}: it already has a function for {made.method}")
        methods[made.method] = made

    def start(self) -> None:
        """Serve until `stop` is called or, in the main thread, SIGINT or SIGTERM arrives.

        Then new requests are refused, accepted ones are answered, and this method returns; after a
        second SIGINT it does not wait for them. In a notebook, call it in a thread.

        Raises:
            OSError: the address or port cannot be used.
            RuntimeError: the server is already running.
        """
        from bert4keras.serving.server import Server, listen

        if self._server is not None:
            raise RuntimeError(f"the server is already running at {self.url}")
        routes = [route for methods in self._routes.values() for route in methods.values()]
        worker = Worker(self.limits)
        application = guard(
            make_application(routes, RequestReader(self.limits), worker, self.allow_origins),
            self.host,
            self.allowed_hosts,
            self.allow_origins,
        )
        server = Server(application, self.limits, self._announce, worker.abandon_hung_call)
        listener = listen(self.host, self.port)
        self.port = listener.getsockname()[1]
        self._server = server
        try:
            worker.start()
            asyncio.run(server.serve(sockets=[listener]))
        finally:
            self._started.clear()
            self._server = None
            listener.close()
            worker.stop(0 if server.force_exit else server.deadline - time.monotonic())

    def stop(self) -> None:
        """Make `start`, running in another thread, finish and return, without waiting for it."""
        server = self._server
        if server is not None:
            server.should_exit = True

    def wait_until_started(self, timeout: float | None = None) -> bool:
        """Wait until `start`, running in another thread, accepts requests.

        Args:
            timeout: maximum seconds to wait, None for no limit.

        Returns:
            Whether the server accepts requests.
        """
        return self._started.wait(timeout)

    @property
    def url(self) -> str:
        """The address of the page."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/"

    def _announce(self) -> None:
        print(f"{self.url} 已启动，按 Ctrl-C 停止 / stop it by Ctrl-C", flush=True)
        self._started.set()
