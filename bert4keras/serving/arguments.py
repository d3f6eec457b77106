"""The arguments of a route: their types, and the conversion of values that were sent."""

import cmath
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from numbers import Number, Rational
from typing import TYPE_CHECKING, Any, get_origin

from bert4keras.serving.answers import MISSING_ARGUMENT, Refusal
from bert4keras.serving.logs import log_failure

if TYPE_CHECKING:
    import pydantic


@dataclass(frozen=True)
class Argument:
    """An argument of a route: its converter or type, and whether it is required."""

    name: str
    converter: Callable | None  # a function, where there is no adapter
    adapter: "pydantic.TypeAdapter | None"
    required: bool

    def check(self, value: Any, is_text: bool) -> Any:
        """Convert a value to the type of the argument; without a type, return it unchanged.

        Raises:
            Refusal: the value has another type.
        """
        if self.adapter is None:
            return value
        if is_text:
            return self._attempt(self.adapter.validate_strings, value)
        return self._attempt(self._from_json, value)

    def convert(self, value: Any) -> Any:
        """Convert a value by the function `converter`.

        Raises:
            Refusal: the function does not accept the value.
        """
        return self._attempt(self.converter, value)

    def _from_json(self, value: Any) -> Any:
        return self.adapter.validate_json(json.dumps(value), strict=True)

    def _attempt(self, function: Callable[[Any], Any], value: Any) -> Any:
        import pydantic

        try:
            converted = function(value)
            if _is_finite(converted):
                return converted
            reason = "it must be a finite number"
        except pydantic.ValidationError as error:
            reason = error.errors(include_url=False, include_context=False)[0]["msg"]
        # Any exception by which a function rejects a value, including SystemExit.
        except BaseException as error:
            log_failure(logging.INFO, f"the argument {self.name} was rejected", error)
            reason = f"{name_of(self.converter)} does not accept it"
        raise Refusal(422, f'argument "{self.name}": {reason}; {_shortened(value)} was sent')

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of the argument."""
        return {"type": "string"} if self.adapter is None else self.adapter.json_schema()

    @property
    def type_name(self) -> str:
        """The name of the type for users."""
        if self.adapter is None:
            return name_of(self.converter)
        return self.schema.get("type", "JSON")


def make_arguments(path: str, arguments: Mapping[str, tuple[Any, bool]]) -> dict[str, Argument]:
    """Make the arguments of a route from `(converter, required)` for each name.

    Raises:
        ValueError: an argument is invalid; the message names the path.
    """
    made = {}
    for name, pair in arguments.items():
        if not name.isidentifier():
            raise ValueError(f"route {path}: {name!r} is not a valid name of an argument")
        pair = tuple(pair) if isinstance(pair, list | tuple) else (pair,)
        if len(pair) != 2 or not isinstance(pair[1], bool | int):
            raise ValueError(
                f"route {path}: argument {name!r} is {pair}: give (converter, required), such as "
                "(None, True) for a required string or (int, False)"
            )
        converter, required = pair
        adapter = _adapter(str if converter is None else converter)
        if adapter is None and not callable(converter):
            raise ValueError(
                f"route {path}: the converter of {name!r} is {converter!r}: give None for a "
                "string, a type or a function"
            )
        made[name] = Argument(name, converter, adapter, bool(required))
    return made


def check_arguments(
    arguments: Mapping[str, Argument], sent: Mapping[str, Any], is_text: bool, max_text: int
) -> dict[str, Any]:
    """Check the values that were sent, and convert them to the types of the arguments.

    Args:
        arguments: the arguments of the route.
        sent: the values by name.
        is_text: whether all of them are strings, as in a form, or typed, as in JSON.
        max_text: maximum number of characters of a string.

    Raises:
        Refusal: an argument is unknown, missing, too long or of another type.
    """
    for name in sent:
        if name not in arguments:
            names = ", ".join(arguments) or "none"
            raise Refusal(422, f'unknown argument "{name[:60]}"; the arguments are: {names}')
    for name, argument in arguments.items():
        if argument.required and name not in sent:
            raise Refusal(422, f'argument "{name}" is missing', code=MISSING_ARGUMENT)
    for name, value in sent.items():
        longest = max(map(len, _strings(value)), default=0)
        if longest > max_text:
            raise Refusal(
                422, f'argument "{name}" has {longest} characters, at most {max_text} are allowed'
            )
    return {name: arguments[name].check(value, is_text) for name, value in sent.items()}


def name_of(func: Callable) -> str:
    """Return the name of a function, or of the type of another callable."""
    return getattr(func, "__name__", type(func).__name__)


def _adapter(converter: Any) -> "pydantic.TypeAdapter | None":
    """Return an adapter for a type; None for functions and types without support in pydantic."""
    import pydantic
    from pydantic.errors import PydanticUserError

    if not isinstance(converter, type) and get_origin(converter) is None:
        return None
    try:
        adapter = pydantic.TypeAdapter(converter)
        adapter.json_schema()
    except PydanticUserError:
        return None
    return adapter


def _is_finite(value: Any) -> bool:
    """Return whether a value is not a number, or a finite one."""
    if isinstance(value, Decimal):
        return value.is_finite()
    if isinstance(value, Rational) or not isinstance(value, Number):
        return True
    return cmath.isfinite(value)


def _strings(value: Any) -> Iterator[str]:
    """Iterate over all strings within a value from JSON."""
    remaining = [value]
    while remaining:
        match remaining.pop():
            case str() as text:
                yield text
            case list() as elements:
                remaining += elements
            case dict() as pairs:
                remaining += [*pairs, *pairs.values()]


def _shortened(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"
