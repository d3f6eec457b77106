"""A function that is served at a path, with checks of its settings."""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bert4keras.serving.arguments import Argument, make_arguments, name_of


@dataclass(frozen=True, eq=False)
class Route:
    """A function that is served, and the settings of how."""

    path: str
    method: str
    func: Callable[..., Any]
    arguments: dict[str, Argument]
    batch_size: int | None
    max_wait: float

    @cached_property
    def converted(self) -> list[str]:
        """The arguments converted by functions, which run in the thread of the route's function."""
        return [name for name, argument in self.arguments.items() if argument.adapter is None]

    @property
    def description(self) -> str:
        """The first line of the docstring of the function."""
        return (inspect.getdoc(self.func) or "").partition("\n")[0]

    def openapi(self) -> dict[str, Any]:
        """Describe the arguments in the form of OpenAPI."""
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


def make_route(
    path: str,
    func: Callable[..., Any],
    arguments: Mapping[str, tuple[Any, bool]],
    method: str,
    batch_size: int | None,
    max_wait: float,
) -> Route:
    """Make a route; for the arguments see `WebServing.route`.

    Raises:
        ValueError: the path, method, batch size or an argument is invalid.
    """
    if not re.fullmatch(r"(/[\w.~-]+)+/?", path) or path == "/openapi.json":
        raise ValueError(
            f"route {path!r}: give a path such as /synonyms, of letters, digits and _ . ~ - /, "
            "other than / (the page to try the routes) and /openapi.json (their description)"
        )
    method = method.upper()
    if method not in ("GET", "POST"):
        raise ValueError(f'route {path}: method is {method!r}: give "GET" or "POST"')
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"route {path}: batch_size is {batch_size}: give at least 1, or None")
    made = make_arguments(path, arguments)
    _check_signature(path, func, made)
    return Route(path, method, func, made, batch_size, max_wait)


def _check_signature(path: str, func: Callable, arguments: Mapping[str, Argument]) -> None:
    """Check that a function can be called with the arguments, before the first request."""
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
            f"route {path}: {name_of(func)}{signature} cannot be called with the arguments "
            f"{sorted(arguments)}, of which {sorted(required)} are required: {error}"
        ) from error
