"""The routes as an application of FastAPI."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bert4keras import __version__
from bert4keras.serving.answers import Refusal, json_response
from bert4keras.serving.page import make_page
from bert4keras.serving.requests import RequestReader
from bert4keras.serving.routes import Route
from bert4keras.serving.worker import Call, Worker

if TYPE_CHECKING:
    import fastapi


def make_application(
    routes: Sequence[Route], reader: RequestReader, worker: Worker, allow_origins: Sequence[str]
) -> "fastapi.FastAPI":
    """Make an application with the routes, their description and the page to try them.

    Args:
        routes: all routes.
        reader: reads the arguments of requests.
        worker: calls the functions.
        allow_origins: other sites whose pages may read the answers.
    """
    import fastapi
    from fastapi.middleware.cors import CORSMiddleware

    application = fastapi.FastAPI(
        title="bert4keras",
        version=__version__,
        redirect_slashes=False,
        # These pages of FastAPI load scripts from other sites.
        docs_url=None,
        redoc_url=None,
        exception_handlers=_handlers(routes),
    )
    if allow_origins:
        application.add_middleware(
            CORSMiddleware,
            allow_origins=allow_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Content-Type"],
        )
    page, headers = make_page(routes)

    async def show_page() -> fastapi.Response:
        return fastapi.Response(page, media_type="text/html", headers=headers)

    application.add_api_route("/", show_page, include_in_schema=False)
    for route in routes:
        application.add_api_route(
            route.path,
            _endpoint(route, reader, worker),
            methods=[route.method],
            summary=route.path,
            description=route.description,
            openapi_extra=route.openapi(),
        )
    return application


def _endpoint(route: Route, reader: RequestReader, worker: Worker) -> Callable:
    import fastapi

    async def endpoint(request: fastapi.Request) -> fastapi.Response:
        try:
            call = Call(route, await reader.read(request, route))
            return json_response(await _answer(call, worker, request))
        except Refusal as refusal:
            return refusal.response()
        except asyncio.CancelledError:  # after stop_timeout
            return Refusal(503, "the server stopped before it answered this request").response()

    return endpoint


async def _answer(call: Call, worker: Worker, request: "fastapi.Request") -> bytes:
    """Wait for the answer to a call, unless the client disconnects before."""

    async def wait_for_disconnect() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    worker.submit(call)
    answer = asyncio.wrap_future(call.future)
    disconnected = asyncio.create_task(wait_for_disconnect())
    try:
        await asyncio.wait((answer, disconnected), return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        raise Refusal(400, "the client disconnected")
    finally:
        disconnected.cancel()
        worker.cancel(call)


def _handlers(routes: Sequence[Route]) -> dict[type[Exception], Callable]:
    """Return the handlers of errors outside of endpoints."""
    from starlette.exceptions import HTTPException

    async def refuse_address(request: "fastapi.Request", error: Any) -> "fastapi.Response":
        path = request.scope["path"]
        if error.status_code != 405:
            return Refusal(error.status_code, f"there is nothing at {path}").response()
        allowed = sorted(route.method for route in routes if route.path == path)
        methods = ", ".join(allowed or ["GET"])  # for the page and the description
        message = f"{path} allows {methods}, not {request.method}"
        return Refusal(405, message, headers={"Allow": methods}).response()

    async def refuse_after_error(request: "fastapi.Request", error: Any) -> "fastapi.Response":
        return Refusal(500, "the server failed: see its log").response()

    return {HTTPException: refuse_address, Exception: refuse_after_error}
