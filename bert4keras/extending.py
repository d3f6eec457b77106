"""Extending classes: more keywords of an `__init__`, or fewer, and what tells objects apart."""

import functools
from collections.abc import Callable, Iterable
from typing import Any


def is_one_of(x: object, ys: Iterable) -> bool:
    """Tell whether `x` itself is among `ys`, where `x in ys` would compare tensors."""
    return any(x is y for y in ys)


def insert_arguments(**arguments: Any) -> Callable:
    """Decorate an `__init__` so that it takes further keywords, kept as attributes.

    Args:
        **arguments: the keywords and their default values.
    """

    def decorate(init: Callable) -> Callable:
        @functools.wraps(init)
        def wrapper(self: object, *args: Any, **kwargs: Any) -> Any:
            for name, default in arguments.items():
                setattr(self, name, kwargs.pop(name, default))
            return init(self, *args, **kwargs)

        return wrapper

    return decorate


def delete_arguments(*arguments: str) -> Callable:
    """Decorate an `__init__` so that it refuses keywords that a parent class would take.

    Args:
        *arguments: the keywords.
    """

    def decorate(init: Callable) -> Callable:
        @functools.wraps(init)
        def wrapper(self: object, *args: Any, **kwargs: Any) -> Any:
            for name in arguments:
                if name in kwargs:
                    raise TypeError(
                        f"{type(self).__name__} takes no argument {name!r}, leave it out"
                    )
            return init(self, *args, **kwargs)

        return wrapper

    return decorate
