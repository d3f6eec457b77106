"""The arguments of a route: what each may be, and the conversion of what was sent."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_origin

from bert4keras.serving.answers import MISSING_ARGUMENT, Refusal

if TYPE_CHECKING:
    import pydantic

_logger = logging.getLogger("bert4keras.serving")


@dataclass(frozen=True)
class Argument:
    """An argument of a route: what checks or converts it, and whether it has to be there."""

    name: str
    converter: Callable | None  # a function, where there is no adapter
    adapter: "pydantic.TypeAdapter | None"
    required: bool

    def convert(self, value: Any, is_text: bool) -> Any:
        """Give the value that the function is called with.

        Raises:
            Refusal: it is of another type.
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
            reason = f"{name_of(self.converter)} does not take it"
        raise Refusal(422, f'argument "{self.name}": {reason}; {_shortened(value)} was sent')

    @property
    def schema(self) -> dict[str, Any]:
        """Its JSON schema."""
        return {"type": "string"} if self.adapter is None else self.adapter.json_schema()

    @property
    def type_name(self) -> str:
        """What people are told that it is."""
        if self.adapter is None:
            return name_of(self.converter)
        return self.schema.get("type", "JSON")


def make_arguments(path: str, arguments: Mapping[str, tuple[Any, bool]]) -> dict[str, Argument]:
    """Make the arguments of a route of `(converter, required)` for each name.

    Raises:
        ValueError: one that cannot be; the path is named in the message.
    """
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
        adapter = _adapter(str if converter is None else converter)
        if adapter is None and not callable(converter):
            raise ValueError(
                f"route {path}: the converter of {name!r} is {converter!r}, give None for a text, "
                "a type or a function"
            )
        made[name] = Argument(name, converter, adapter, bool(required))
    return made


def convert_arguments(
    arguments: Mapping[str, Argument], sent: Mapping[str, Any], is_text: bool, max_text: int
) -> dict[str, Any]:
    """Check and convert what was sent.

    Args:
        arguments: those that a route takes.
        sent: the values by name.
        is_text: whether all of them are texts, as in a form, or typed, as in JSON.
        max_text: characters of a single text at most.

    Raises:
        Refusal: an argument that is unknown, missing, too long or of another type.
    """
    for name in sent:
        if name not in arguments:
            names = ", ".join(arguments) or "none"
            raise Refusal(422, f'unknown argument "{name[:60]}"; there are: {names}')
    for name, argument in arguments.items():
        if argument.required and name not in sent:
            raise Refusal(422, f'argument "{name}" is missing', code=MISSING_ARGUMENT)
    for name, value in sent.items():
        longest = max(map(len, _texts(value)), default=0)
        if longest > max_text:
            raise Refusal(
                422, f'argument "{name}" has {longest} characters, at most {max_text} are taken'
            )
    return {name: arguments[name].convert(value, is_text) for name, value in sent.items()}


def name_of(func: Callable) -> str:
    """The name of a function, or of the type of what is called like one."""
    return getattr(func, "__name__", type(func).__name__)


def _adapter(converter: Any) -> "pydantic.TypeAdapter | None":
    """Make what checks values of a type; None for functions and types that pydantic cannot."""
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


def _shortened(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"
