"""Initial values of weights: the hook `initializer`, and how it may be a method."""

import inspect
from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any

import keras
from keras import ops

from bert4keras.backend.saving import registered
from bert4keras.backend.tensors import Tensor


@registered
class MethodInitializer(keras.initializers.Initializer):
    """An initializer whose values a method draws.

    Args:
        method: draws values, given a shape and a dtype.
        standard: the initializer that is saved in place of the method; a model that is loaded needs
            no initial values.
    """

    def __init__(self, method: Callable, standard: keras.initializers.Initializer) -> None:
        self.method = method
        self.standard = standard

    def __call__(self, shape: Sequence[int], dtype: Any = None) -> Tensor:
        """Draw values."""
        values = self.method(shape, dtype)
        return values if dtype is None else ops.cast(values, dtype)

    def clone(self) -> "MethodInitializer":
        """Return the initializer itself, since it draws new values each time."""
        return self

    def get_config(self) -> dict:
        """Return the standard initializer."""
        return {"standard": keras.initializers.serialize(self.standard)}

    @classmethod
    def from_config(cls, config: dict) -> keras.initializers.Initializer:
        """Return the standard initializer that was saved."""
        return keras.initializers.deserialize(config["standard"])


class InitializerMethod(property):
    """The property that replaces a method `initializer(self, shape, dtype=None, ...)`.

    Its value is an initializer, which can also be called like the method.
    """

    def __init__(self, method: Callable) -> None:
        super().__init__(
            lambda model: MethodInitializer(MethodType(method, model), model.standard_initializer),
            doc=method.__doc__,
        )


class Initialized:
    """The hooks that define the initial values of weights, a part of `Transformer`."""

    initializer_range: float

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        initializer = inspect.getattr_static(cls, "initializer")
        if inspect.isfunction(initializer):
            cls.initializer = InitializerMethod(initializer)

    @property
    def initializer(self) -> Any:
        """Hook: a new initializer of kernels and embeddings.

        A subclass may write it as a property that returns an initializer of Keras, or as a method
        `initializer(self, shape, dtype=None, order=3, gain=1.0)` that draws values; in there
        `super().initializer(shape, dtype, order, gain)` are those of `initial_values`.
        """
        return self.initial_values if self.draws_itself else self.standard_initializer

    @property
    def draws_itself(self) -> bool:
        """Whether a subclass defines `initializer` as a method."""
        return isinstance(inspect.getattr_static(type(self), "initializer"), InitializerMethod)

    @property
    def standard_initializer(self) -> keras.initializers.Initializer:
        """A new initializer of kernels: normal, cut off at two deviations."""
        return keras.initializers.TruncatedNormal(stddev=self.initializer_range)

    @property
    def table_initializer(self) -> keras.initializers.Initializer:
        """A new initializer of embeddings."""
        return self.initializer

    def initial_values(
        self, shape: Sequence[int], dtype: Any = None, order: float | None = None, gain: float = 1.0
    ) -> Tensor:
        """Draw the values of a kernel or a table, `gain` times those of `standard_initializer`.

        Args:
            shape: shape of the values.
            dtype: dtype of the values, by default the default float type.
            order: exponent of the dependence on the number of blocks, which only RoFormerV2 uses.
            gain: factor of the values.
        """
        return gain * self.standard_initializer(shape, dtype)
