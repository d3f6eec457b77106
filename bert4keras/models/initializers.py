"""What a method `initializer` of an architecture becomes: an initializer of Keras."""

from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any

from bert4keras.backend import Tensor, keras, ops, registered


@registered
class MethodInitializer(keras.initializers.Initializer):
    """An initializer whose values a method draws.

    Args:
        method: draws the values of a shape and a type.
        standard: what a saved model remembers instead. It has its values and draws none.
    """

    def __init__(self, method: Callable, standard: keras.initializers.Initializer) -> None:
        self.method = method
        self.standard = standard

    def __call__(self, shape: Sequence[int], dtype: Any = None) -> Tensor:
        """Draw values."""
        values = self.method(shape, dtype)
        return values if dtype is None else ops.cast(values, dtype)

    def clone(self) -> "MethodInitializer":
        """Return this: it draws new values each time."""
        return self

    def get_config(self) -> dict:
        """Return the standard initializer."""
        return {"standard": keras.initializers.serialize(self.standard)}

    @classmethod
    def from_config(cls, config: dict) -> keras.initializers.Initializer:
        """Give the standard initializer that was saved."""
        return keras.initializers.deserialize(config["standard"])


class InitializerMethod(property):
    """The property in place of a method `initializer(self, shape, dtype=None, ...)`.

    What takes an initializer gets one, and it can be called as the method.
    """

    def __init__(self, method: Callable) -> None:
        super().__init__(
            lambda model: MethodInitializer(MethodType(method, model), model.standard_initializer),
            doc=method.__doc__,
        )
