"""`WebServing`: what scripts make, give routes and start."""

import asyncio
import importlib.util
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from bert4keras.serving.application import make_application
from bert4keras.serving.hosts import guarded
from bert4keras.serving.limits import Limits
from bert4keras.serving.requests import RequestReader
from bert4keras.serving.routes import Route, make_route
from bert4keras.serving.worker import Worker

if TYPE_CHECKING:
    from bert4keras.serving.server import Server


class WebServing:
    """Serves functions over HTTP, with a page at `/` to try each of them.

    An answer is JSON: `{"code": 0, "desc": "succeeded", "data": …}`, with what the function
    returned as `data`. In a refusal `code` is 1 for a missing argument, 2 for a function that
    failed and else the HTTP status; `desc` says what is wrong. `docs/serving.md` has a table.

    All functions run in one thread, one call at a time, so that a model is never called by two.

        web = WebServing(port=8864)
        web.route("/synonyms", synonyms, {"text": (None, True), "n": (int, False)})
        web.start()

    Args:
        host: the address to listen on. There is no authentication: an address other than the
            loopback one lets everybody in who can reach it.
        port: the port, 0 for any free one; the attribute `port` is the actual one after the start.
        server: without effect; scripts for 0.11.5 named a server of bottle here.
        max_body: bytes of a request body, or of the part of an address after `?`, at most.
        max_text: characters of a single text at most.
        max_values: values in a body of JSON at most.
        max_waiting: requests that wait for their function at most.
        max_connections: connections at most, and no more than three quarters of the files that
            the system lets the process open. Where there are as many, new ones take the place of
            those whose clients let the server wait.
        read_timeout: seconds in which the head of a request, and then its body, has to arrive.
        write_timeout: seconds in which 64 kB of an answer, or its rest, have to be read.
        idle_timeout: seconds that a connection stays open while nothing is asked.
        call_timeout: seconds in which a function has to return.
        stop_timeout: seconds in which requests are finished when the server stops.
        allowed_hosts: further names that a server on the loopback address is asked by, such as
            that of a proxy in front of it. Others are refused, since a page on the web could
            otherwise have its own name resolve to this machine and read the answers.
        allow_origins: the origins of other sites, such as `https://example.com`, whose pages may
            read the answers; `*` for all.

    Raises:
        ImportError: FastAPI or uvicorn is not installed.
        ValueError: a port that cannot be, or a limit that lets nothing through.
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
            raise ValueError(f"WebServing: port is {port}, give 1 to 65535, or 0 for any free one")
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
        """Answer requests for a path with what a function returns.

        Args:
            path: such as `/synonyms`; letters (of any script), digits and `_ . ~ - /`.
            func: called with the arguments by name. It returns what JSON can hold: texts, numbers,
                lists, dicts, also NumPy's numbers and arrays; NaN and infinities become null.
            arguments: for each name `(converter, required)`. The converter is None for a text; a
                type, such as `int`, `bool`, `list[str]` or `Annotated[int, Field(ge=1)]`, which
                pydantic checks; or a function of what was sent. An argument that is not required
                and not sent is not given to `func`.
            method: `GET` for arguments in the address, `POST` for JSON or a form as the body. A
                path can have both, each by a call of its own.
            batch_size: give it to have requests answered together. `func` then gets a list of
                values for each argument, up to `batch_size` long and equally so, and returns a
                list (or an array) with as many answers. Requests in which different arguments were
                sent are not put together. If it fails, each request is tried by itself, so that
                none fails because of another.
            max_wait: how long a request waits for others to join it, in seconds.

        Raises:
            ValueError: a path, method, argument or batch size that cannot be served.
            RuntimeError: the server runs already.
        """
        if self._server is not None:
            raise RuntimeError(f"route {path}: the server runs already, add routes before start()")
        made = make_route(path, func, arguments, method, batch_size, max_wait)
        methods = self._routes.setdefault(path, {})
        if made.method in methods:
            raise ValueError(f"route {path}: it has a function for {made.method} already")
        methods[made.method] = made

    def start(self) -> None:
        """Serve until `stop` is called or, in the main thread, SIGINT or SIGTERM arrives.

        Then new requests are refused, those that were accepted are answered, and this returns; a
        second SIGINT does not wait for them. In a notebook, start it in a thread.

        Raises:
            OSError: the address or port cannot be used.
            RuntimeError: the server runs already.
        """
        from bert4keras.serving.server import Server, listen

        if self._server is not None:
            raise RuntimeError(f"the server runs already, at {self.url}")
        routes = [route for methods in self._routes.values() for route in methods.values()]
        worker = Worker(self.limits)
        application = guarded(
            make_application(routes, RequestReader(self.limits), worker, self.allow_origins),
            self.host,
            self.allowed_hosts,
            self.allow_origins,
        )
        server = Server(application, self.limits, self._announce, worker.give_up_late)
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
        """Make `start`, which runs in another thread, finish and return; does not wait for it."""
        server = self._server
        if server is not None:
            server.should_exit = True

    def wait_until_started(self, timeout: float | None = None) -> bool:
        """Wait until `start`, which runs in another thread, takes requests.

        Args:
            timeout: seconds to wait at most.

        Returns:
            Whether it takes requests.
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
