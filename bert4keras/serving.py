"""A web interface for functions: typed arguments, limits, batches for the model, a page to try it.

`snippets.WebServing` is the class of this module. FastAPI and uvicorn are only imported where a
server is made.
"""

import asyncio
import base64
import hashlib
import importlib.util
import inspect
import ipaddress
import json
import logging
import re
import signal
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_origin
from urllib.parse import parse_qsl, urlsplit

import numpy as np

if TYPE_CHECKING:
    import fastapi
    import pydantic
    import uvicorn

_logger = logging.getLogger(__name__)

# What `code` is in an answer; every other failure has its HTTP status there.
_SUCCEEDED, _MISSING_ARGUMENT, _FUNCTION_FAILED = 0, 1, 2
_PAGE = Path(__file__).with_suffix(".html")


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
        max_waiting: requests that wait for their function at most.
        read_timeout: seconds in which the body of a request has to arrive.
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
        max_waiting: int = 1000,
        read_timeout: float = 30.0,
        stop_timeout: float = 30.0,
        allowed_hosts: Iterable[str] = (),
        allow_origins: Iterable[str] = (),
    ):
        missing = [name for name in ("fastapi", "uvicorn") if not importlib.util.find_spec(name)]
        if missing:
            raise ImportError(
                f"WebServing needs {' and '.join(missing)}: "
                'run pip install "bert4keras[serve]" and start again'
            )
        limits = {
            "max_body": max_body,
            "max_text": max_text,
            "max_waiting": max_waiting,
            "read_timeout": read_timeout,
            "stop_timeout": stop_timeout,
        }
        if useless := {name: value for name, value in limits.items() if not value > 0}:
            raise ValueError(f"WebServing: {useless} would let nothing through, give more than 0")
        if not 0 <= port <= 65535:
            raise ValueError(f"WebServing: port is {port}, give 1 to 65535, or 0 for any free one")
        self.host, self.port = host, port
        self.max_body, self.max_text, self.max_waiting = max_body, max_text, max_waiting
        self.read_timeout, self.stop_timeout = read_timeout, stop_timeout
        self.allowed_hosts = frozenset(name.lower() for name in allowed_hosts)
        self.allow_origins = list(allow_origins)
        self._routes: dict[str, dict[str, _Route]] = {}  # by path, then by method
        self._worker: _Worker
        self._server: uvicorn.Server | None = None
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
        if not re.fullmatch(r"(/[\w.~-]+)+/?", path) or path == "/openapi.json":
            raise ValueError(
                f"route {path!r}: give a path such as /synonyms, of letters, digits and _ . ~ - /; "
                "/ is the page to try the routes, /openapi.json describes them"
            )
        method = method.upper()
        if method not in ("GET", "POST"):
            raise ValueError(f'route {path}: method is {method!r}, give "GET" or "POST"')
        if method in self._routes.get(path, ()):
            raise ValueError(f"route {path}: it has a function for {method} already")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"route {path}: batch_size is {batch_size}, give at least 1, or None")
        made = _arguments(path, arguments)
        _check_signature(path, func, made)
        route = _Route(path, method, func, made, batch_size, max_wait)
        self._routes.setdefault(path, {})[method] = route

    def start(self) -> None:
        """Serve until `stop` is called or, in the main thread, SIGINT or SIGTERM arrives.

        Then new requests are refused, those that were accepted are answered, and this returns; a
        second SIGINT does not wait for them. In a notebook, start it in a thread.

        Raises:
            OSError: the address or port cannot be used.
            RuntimeError: the server runs already.
        """
        import uvicorn

        if self._server is not None:
            raise RuntimeError(f"the server runs already, at {self.url}")

        serving = self

        class Server(uvicorn.Server):
            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                await super().startup(sockets)
                print(f"{serving.url} 已启动，按 Ctrl-C 停止 / stop it by Ctrl-C", flush=True)
                serving._started.set()

            def handle_exit(self, sig: int, frame: Any) -> None:
                # That of uvicorn raises the signal once more in the end, which kills the process.
                if self.should_exit and sig == signal.SIGINT:
                    self.force_exit = True
                self.should_exit = True

        listener = self._listen()
        self.port = listener.getsockname()[1]
        self._worker = _Worker(self.max_waiting)
        server = self._server = Server(
            uvicorn.Config(
                self._guarded(self._application()),
                http="h11",
                ws="none",
                loop="asyncio",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,  # it would write the texts of all requests
                server_header=False,
                proxy_headers=False,
                h11_max_incomplete_event_size=self.max_body + (1 << 16),  # an address and headers
                timeout_graceful_shutdown=self.stop_timeout,
            )
        )
        try:
            self._worker.start()
            asyncio.run(server.serve(sockets=[listener]))
        finally:
            self._started.clear()
            self._server = None
            listener.close()
            self._worker.stop(0 if server.force_exit else self.stop_timeout)

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

    def _listen(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            return socket.create_server((self.host, self.port), family=family, backlog=2048)
        except OSError as error:
            raise OSError(
                f"WebServing cannot listen on port {self.port} of {self.host!r} ({error}); choose "
                "another port, or an address of this machine"
            ) from error

    # === HTTP ===

    def _application(self) -> "fastapi.FastAPI":
        import fastapi
        from fastapi.middleware.cors import CORSMiddleware
        from starlette.exceptions import HTTPException

        import bert4keras

        application = fastapi.FastAPI(
            title="bert4keras",
            version=bert4keras.__version__,
            redirect_slashes=False,
            # These pages of FastAPI load scripts from elsewhere.
            docs_url=None,
            redoc_url=None,
            exception_handlers={
                HTTPException: self._refuse_address,
                Exception: self._refuse_after_error,
            },
        )
        if self.allow_origins:
            application.add_middleware(
                CORSMiddleware,
                allow_origins=self.allow_origins,
                allow_methods=["GET", "POST"],
                allow_headers=["Content-Type"],
            )
        page, policy = _page([r for methods in self._routes.values() for r in methods.values()])

        async def show_page() -> fastapi.Response:
            return fastapi.Response(page, media_type="text/html", headers=policy)

        application.add_api_route("/", show_page, include_in_schema=False)
        for methods in self._routes.values():
            for route in methods.values():
                application.add_api_route(
                    route.path,
                    self._endpoint(route),
                    methods=[route.method],
                    summary=route.path,
                    description=route.description,
                    openapi_extra=route.openapi(),
                )
        return application

    def _endpoint(self, route: "_Route") -> Callable:
        import fastapi

        async def endpoint(request: fastapi.Request) -> fastapi.Response:
            try:
                sent, is_text = await self._read(request, route)
                values = _values(route, sent, is_text, self.max_text)
                answer = await self._ask(request, _Call(route, values))
            except _Refusal as refusal:
                return _response(refusal)
            except asyncio.CancelledError:  # the time to stop is over
                return _response(_Refusal(503, "the server stopped before this was answered"))
            return fastapi.Response(answer, media_type="application/json")

        return endpoint

    async def _read(self, request: "fastapi.Request", route: "_Route") -> tuple[dict, bool]:
        """Read the arguments of a request, and tell whether all of them are texts."""
        query = request.scope["query_string"]
        if len(query) > self.max_body:
            raise _Refusal(414, f"the address has more than {self.max_body} bytes after the ?")
        if route.method == "GET":
            return _from_form(query), True
        if query:
            raise _Refusal(422, "arguments of a POST request are sent as its body, not after a ?")
        body = await self._body(request)
        kind, _, options = request.headers.get("content-type", "").partition(";")
        charset = re.search(r"charset\s*=\s*\"?([\w-]+)", options, re.IGNORECASE)
        if charset is None or charset[1].lower() in ("utf-8", "utf8"):
            match kind.strip().lower():
                case "application/json":
                    return _from_json(body), False
                case "application/x-www-form-urlencoded":
                    return _from_form(body), True
                case "" if not body:
                    return {}, True
        raise _Refusal(
            415,
            "send the arguments as application/json or application/x-www-form-urlencoded, in UTF-8",
        )

    async def _body(self, request: "fastapi.Request") -> bytes:
        from starlette.requests import ClientDisconnect

        too_long = _Refusal(413, f"the body has more than {self.max_body} bytes")
        length = int(request.headers.get("content-length", "0"))
        if length > self.max_body and "expect" in request.headers:
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
            raise _Refusal(408, message, headers={"Connection": "close"}) from None
        except ClientDisconnect:
            raise _Refusal(400, "the client has gone") from None
        if length > self.max_body:
            raise too_long
        return bytes(body)

    async def _ask(self, request: "fastapi.Request", call: "_Call") -> bytes:
        """Have a call answered, unless the client goes before its turn comes."""

        async def gone() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        self._worker.submit(call)
        answer = asyncio.wrap_future(call.future)
        leaving = asyncio.create_task(gone())
        try:
            await asyncio.wait((answer, leaving), return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            raise _Refusal(400, "the client has gone")
        finally:
            leaving.cancel()
            answer.cancel()

    async def _refuse_address(self, request: "fastapi.Request", error: Any) -> "fastapi.Response":
        """Answer what no route is for: an unknown path, or another method."""
        path = request.scope["path"]
        if error.status_code != 405:
            return _response(_Refusal(error.status_code, f"there is nothing at {path}"))
        methods = ", ".join(sorted(self._routes.get(path, ["GET"])))
        message = f"{path} takes {methods}, not {request.method}"
        return _response(_Refusal(405, message, headers={"Allow": methods}))

    async def _refuse_after_error(self, request: "fastapi.Request", error: Exception) -> Any:
        return _response(_Refusal(500, "the server failed, its log says why"))

    def _guarded(self, application: Callable) -> Callable:
        """Refuse requests that were meant for another host, and add headers for browsers."""
        any_host = not _is_loopback(self.host)

        async def guarded(scope: dict, receive: Callable, send: Callable) -> None:
            async def send_with_headers(message: dict) -> None:
                if message["type"] == "http.response.start":
                    message["headers"] = [
                        *message["headers"],
                        (b"x-content-type-options", b"nosniff"),
                        (b"cache-control", b"no-store"),
                    ]
                await send(message)

            host = dict(scope["headers"]).get(b"host", b"").decode("latin-1").lower()
            try:
                name = urlsplit(f"//{host}").hostname or ""
            except ValueError:
                name = host
            # Browsers always send it; there is nothing to protect where it is missing.
            if any_host or not host or _is_loopback(name) or name in self.allowed_hosts:
                await application(scope, receive, send_with_headers)
                return
            message = f"this server is not {name}; WebServing(allowed_hosts=…) would make it so"
            await _response(_Refusal(421, message))(scope, receive, send_with_headers)

        return guarded


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class _Refusal(Exception):
    """A request that is not answered: HTTP status, what to tell, and `code` where it differs."""

    def __init__(
        self,
        status: int,
        description: str,
        code: int | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(description)
        self.status, self.description, self.headers = status, description, headers
        self.code = status if code is None else code


def _response(refusal: _Refusal) -> "fastapi.Response":
    import fastapi

    content = {"code": refusal.code, "desc": refusal.description, "data": {}}
    # A path or an argument that a request named may hold what UTF-8 does not.
    body = json.dumps(content, ensure_ascii=False).encode("utf-8", "backslashreplace")
    return fastapi.Response(body, refusal.status, refusal.headers, media_type="application/json")


# === Arguments ===


@dataclass(frozen=True)
class _Argument:
    """An argument of a route: what checks or converts it, and whether it has to be there."""

    name: str
    converter: Callable | None  # a function, where there is no adapter
    adapter: "pydantic.TypeAdapter | None"
    required: bool

    def convert(self, value: Any, is_text: bool) -> Any:
        """Give the value that the function is called with.

        Raises:
            _Refusal: it is of another type.
        """
        import pydantic

        try:
            if self.adapter is None:
                return self.converter(value)
            if is_text:
                return self.adapter.validate_strings(value)
            return self.adapter.validate_json(json.dumps(value), strict=True)
        except pydantic.ValidationError as error:
            reason = error.errors(include_url=False, include_context=False)[0]["msg"]
        except Exception as error:  # whatever a function makes of a value that it does not take
            _logger.info("argument %s", self.name, exc_info=error)
            reason = f"{_name_of(self.converter)} does not take it"
        raise _Refusal(422, f'argument "{self.name}": {reason}; {_shortened(value)} was sent')

    @property
    def schema(self) -> dict[str, Any]:
        """Its JSON schema."""
        return {"type": "string"} if self.adapter is None else self.adapter.json_schema()


def _shortened(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"


def _name_of(func: Callable) -> str:
    return getattr(func, "__name__", type(func).__name__)


def _arguments(path: str, arguments: Mapping[str, tuple[Any, bool]]) -> dict[str, _Argument]:
    made = {}
    for name, pair in arguments.items():
        if not name.isidentifier():
            raise ValueError(f"route {path}: {name!r} is no name of an argument")
        pair = tuple(pair) if isinstance(pair, list | tuple) else (pair,)
        if len(pair) != 2 or not isinstance(pair[1], bool | int):
            raise ValueError(
                f"route {path}: argument {name!r} is {pair}, give (converter, required), such as "
                "(None, True) for a text that has to be there or (int, False)"
            )
        converter, required = pair
        adapter = _adapter(converter)
        if adapter is None and not callable(converter):
            raise ValueError(
                f"route {path}: the converter of {name!r} is {converter!r}, give None for a text, "
                "a type or a function"
            )
        made[name] = _Argument(name, converter, adapter, bool(required))
    return made


def _adapter(converter: Any) -> "pydantic.TypeAdapter | None":
    """Make what checks values of a type; None for functions and types that pydantic cannot."""
    import pydantic
    from pydantic.errors import PydanticUserError

    if converter is None:
        return pydantic.TypeAdapter(str)
    if not isinstance(converter, type) and get_origin(converter) is None:
        return None
    try:
        adapter = pydantic.TypeAdapter(converter)
        adapter.json_schema()
    except PydanticUserError:
        return None
    return adapter


def _check_signature(path: str, func: Callable, arguments: Mapping[str, _Argument]) -> None:
    """Find now what would otherwise fail at the first request."""
    try:
        signature = inspect.signature(func)
    except ValueError:  # some functions written in C
        return
    required = {name: None for name, argument in arguments.items() if argument.required}
    try:
        signature.bind_partial(**dict.fromkeys(arguments))
        signature.bind(**required)
    except TypeError as error:
        raise ValueError(
            f"route {path}: {_name_of(func)}{signature} cannot be called with the arguments "
            f"{sorted(arguments)}, of which {sorted(required)} are always there: {error}"
        ) from error


def _from_form(encoded: bytes) -> dict[str, str]:
    try:
        # Whoever writes `curl -d text=你好` sends UTF-8 that is not percent-encoded.
        pairs = parse_qsl(
            encoded.decode("utf-8"), keep_blank_values=True, errors="strict", max_num_fields=1000
        )
    except ValueError as error:
        raise _Refusal(400, f"the arguments are no form in UTF-8: {_reason(error)}") from None
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
        raise _Refusal(400, f"the body is no JSON in UTF-8: {_reason(error)}") from None
    if not isinstance(values, dict):
        raise _Refusal(422, 'the body has to be an object, such as {"text": "…"}')
    return values


def _reason(error: Exception) -> str:
    """What is wrong with a body, without the body itself."""
    if isinstance(error, UnicodeError):
        return f"position {error.start}: {error.reason}"
    return str(error)[:200]


def _without_repetition(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    repeated = [name for name, n in Counter(name for name, _ in pairs).items() if n > 1]
    if repeated:
        raise _Refusal(422, f'argument "{repeated[0][:60]}" was sent more than once')
    return dict(pairs)


def _values(route: "_Route", sent: dict[str, Any], is_text: bool, max_text: int) -> dict[str, Any]:
    """Check and convert what was sent.

    Raises:
        _Refusal: an argument that is unknown, missing, too long or of another type.
    """
    unknown = [name for name in sent if name not in route.arguments]
    if unknown:
        names = ", ".join(route.arguments) or "none"
        raise _Refusal(422, f'unknown argument "{unknown[0][:60]}"; there are: {names}')
    for name, argument in route.arguments.items():
        if argument.required and name not in sent:
            raise _Refusal(422, f'argument "{name}" is missing', code=_MISSING_ARGUMENT)
    for name, value in sent.items():
        longest = max(map(len, _texts(value)), default=0)
        if longest > max_text:
            raise _Refusal(
                422, f'argument "{name}" has {longest} characters, at most {max_text} are taken'
            )
    return {name: route.arguments[name].convert(value, is_text) for name, value in sent.items()}


def _texts(value: Any) -> Iterator[str]:
    """All texts inside a value from JSON."""
    left = [value]
    while left:
        match left.pop():
            case str() as text:
                yield text
            case list() as elements:
                left += elements
            case dict() as pairs:
                left += [*pairs, *pairs.values()]


# === Calls ===


@dataclass(frozen=True)
class _Route:
    """A function that is served, and how."""

    path: str
    method: str
    func: Callable[..., Any]
    arguments: dict[str, _Argument]
    batch_size: int | None
    max_wait: float

    @property
    def description(self) -> str:
        """The first line of what the function says of itself."""
        return (inspect.getdoc(self.func) or "").partition("\n")[0]

    def openapi(self) -> dict[str, Any]:
        """Describe the arguments as OpenAPI does."""
        properties = {name: argument.schema for name, argument in self.arguments.items()}
        required = [name for name, argument in self.arguments.items() if argument.required]
        if self.method == "GET":
            return {
                "parameters": [
                    {"name": name, "in": "query", "required": name in required, "schema": schema}
                    for name, schema in properties.items()
                ]
            }
        schema = {"type": "object", "properties": properties, "additionalProperties": False}
        if required:
            schema["required"] = required
        kinds = ("application/json", "application/x-www-form-urlencoded")
        return {"requestBody": {"content": {kind: {"schema": schema} for kind in kinds}}}


@dataclass(frozen=True, eq=False)
class _Call:
    """A request whose arguments are read; the future becomes the body of the answer."""

    route: _Route
    values: dict[str, Any]
    future: Future = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)

    def joins(self, other: "_Call") -> bool:
        """Tell whether both can be answered together."""
        return self.route is other.route and self.values.keys() == other.values.keys()


class _Worker:
    """The thread in which all functions run, and the calls that wait for it."""

    def __init__(self, max_waiting: int):
        self.max_waiting = max_waiting
        self.waiting: deque[_Call] = deque()
        self.changed = threading.Condition()
        self.stopping = False
        # A function that never returns must not keep the process from ending.
        self.thread = threading.Thread(target=self._run, name="WebServing", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def stop(self, timeout: float) -> None:
        """Let the thread finish what waits, and wait for it."""
        with self.changed:
            self.stopping = True
            self.changed.notify()
        if self.thread.is_alive():
            self.thread.join(timeout)

    def submit(self, call: _Call) -> None:
        """Put a call at the end of the queue.

        Raises:
            _Refusal: the queue is full.
        """
        with self.changed:
            if len(self.waiting) >= self.max_waiting:
                raise _Refusal(
                    503,
                    f"{self.max_waiting} requests are waiting already, try again later",
                    headers={"Retry-After": "1"},
                )
            self.waiting.append(call)
            self.changed.notify()

    def _run(self) -> None:
        while batch := self._next():
            running = [call for call in batch if call.future.set_running_or_notify_cancel()]
            if running:
                self._answer(running)

    def _next(self) -> list[_Call]:
        """Wait for calls that are answered together; none once there are no more."""
        with self.changed:
            while not self.waiting:
                if self.stopping:
                    return []
                self.changed.wait()
            first = self.waiting[0]
            size = first.route.batch_size or 1
            until = first.since + first.route.max_wait
            while (
                sum(map(first.joins, self.waiting)) < size
                and not self.stopping
                and (left := until - time.monotonic()) > 0
            ):
                self.changed.wait(left)
            batch = [call for call in self.waiting if first.joins(call)][:size]
            taken = set(batch)
            self.waiting = deque(call for call in self.waiting if call not in taken)
            return batch

    def _answer(self, calls: list[_Call]) -> None:
        failure = None
        try:
            answers = self._results(calls)
        # Whatever it is, also SystemExit: without this thread all others would wait for ever.
        except BaseException as error:
            failure = error
        if failure is None:
            for call, answer in zip(calls, answers, strict=True):
                try:
                    call.future.set_result(_body(answer))
                except Exception as error:
                    self._fail(call, error)
        elif len(calls) == 1:
            self._fail(calls[0], failure)
        else:
            for call in calls:
                self._answer([call])

    @staticmethod
    def _results(calls: list[_Call]) -> Sequence:
        route, names = calls[0].route, calls[0].values
        if route.batch_size is None:
            return [route.func(**calls[0].values)]
        columns = {name: [call.values[name] for call in calls] for name in names}
        return _checked(route.func(**columns), len(calls))

    @staticmethod
    def _fail(call: _Call, error: BaseException) -> None:
        path = call.route.path
        # The message may hold what clients should not see, so they are not told.
        _logger.error("the function of %s failed", path, exc_info=error)
        message = f"the function of {path} failed, the log of the server says why"
        call.future.set_exception(_Refusal(500, message, code=_FUNCTION_FAILED))


def _checked(answers: Any, n: int) -> Sequence:
    if not isinstance(answers, list | tuple | np.ndarray) or len(answers) != n:
        size = f"of {len(answers)} " if hasattr(answers, "__len__") else ""
        raise TypeError(
            f"a {type(answers).__name__} {size}was returned for a batch of {n} requests: "
            "return a list or an array with one answer for each"
        )
    return answers


def _body(answer: Any) -> bytes:
    content = {"code": _SUCCEEDED, "desc": "succeeded", "data": _plain(answer)}
    return json.dumps(content, ensure_ascii=False, allow_nan=False).encode("utf-8")


def _plain(value: Any) -> Any:
    """Make of a value what JSON can hold."""
    if isinstance(value, str | int | None):
        return value
    if isinstance(value, float):
        return float(value) if np.isfinite(value) else None
    if isinstance(value, Mapping):
        return {
            key.item() if isinstance(key, np.generic) else key: _plain(each)
            for key, each in value.items()
        }
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if hasattr(value, "__array__"):  # tensors of the backends
        return _plain(np.asarray(value).tolist())
    raise TypeError(
        f"an answer holds a {type(value).__name__}, which JSON cannot: return texts, numbers, "
        "lists, dicts and arrays"
    )


# === The page ===


def _page(routes: Sequence[_Route]) -> tuple[str, dict[str, str]]:
    """Give the page for some routes, and the headers that let nothing else run in it."""
    described = [
        {
            "path": route.path,
            "method": route.method,
            "description": route.description,
            "arguments": [
                {
                    "name": argument.name,
                    "required": argument.required,
                    "type": _type_name(argument),
                    "is_text": argument.adapter is None or argument.schema.get("type") == "string",
                }
                for argument in route.arguments.values()
            ],
        }
        for route in routes
    ]
    # Inside of <script> this is the only character that could end it.
    data = json.dumps(described, ensure_ascii=False).replace("<", "\\u003c")
    template = _PAGE.read_text(encoding="utf-8")
    allowed = {
        tag: base64.b64encode(
            hashlib.sha256(re.search(f"<{tag}>(.*?)</{tag}>", template, re.S)[1].encode()).digest()
        ).decode()
        for tag in ("script", "style")
    }
    policy = (
        f"default-src 'none'; script-src 'sha256-{allowed['script']}'; "
        f"style-src 'sha256-{allowed['style']}'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"}
    return template.replace("ROUTES", data, 1), headers


def _type_name(argument: _Argument) -> str:
    if argument.adapter is None:
        return _name_of(argument.converter)
    return argument.schema.get("type", "JSON")
