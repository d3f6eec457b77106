"""The choice of which models are distributed: those built in a scope of several devices."""

from typing import Any

import keras

from bert4keras.training.distribution.model import DistributedModel
from bert4keras.training.distribution.scopes import placement

_DISTRIBUTED: dict[type, type] = {}
"""Maps classes of models to distributed classes of the same name."""


class BuiltForDevices(keras.Model):
    """Keras model that becomes distributed if it is built in a scope of several devices.

    It is then an instance of a subclass of the same name that is also a `DistributedModel`. Its
    files and config are those of the class itself, and a model loaded or cloned from them is
    distributed if, and only if, that happens in such a scope.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Create an instance of the plain or the distributed class, depending on the scope."""
        if placement() is not None and cls is not BuiltForDevices:
            return super().__new__(distributed(cls), *args, **kwargs)
        if cls in _DISTRIBUTED.values():  # a copy, outside of the scope, of a distributed model
            return cls.__bases__[1](*args, **kwargs)
        return super().__new__(cls, *args, **kwargs)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile as `keras.Model.compile` does.

        Raises:
            ValueError: the model was built before the `data_parallel` scope in which it is
            compiled.
        """
        check_alone(self, "compile")
        super().compile(*args, **kwargs)

    def fit(
        self, x: Any = None, y: Any = None, batch_size: int | None = None, **kwargs: Any
    ) -> keras.callbacks.History:
        """Train as `keras.Model.fit` does.

        Raises:
            ValueError: the devices are not those that the model was built and compiled for, or more
                than the samples of a batch.
        """
        self.check_devices("fit", x, batch_size, kwargs)
        return super().fit(x, y, batch_size=batch_size, **kwargs)

    def evaluate(
        self, x: Any = None, y: Any = None, batch_size: int | None = None, **kwargs: Any
    ) -> Any:
        """Evaluate as `keras.Model.evaluate` does; raises the same errors as `fit`."""
        self.check_devices("evaluate", x, batch_size, kwargs)
        return super().evaluate(x, y, batch_size=batch_size, **kwargs)

    def check_devices(self, call: str, x: Any, batch_size: int | None, options: dict) -> None:
        """Raise a ValueError if a call runs on other devices than the model was built for."""
        check_alone(self, call)


def check_alone(model: keras.Model, call: str) -> None:
    """Raise a ValueError if a model that is not distributed is run on several devices."""
    if placement() is not None and not isinstance(model, DistributedModel):
        raise ValueError(
            "the model was built before data_parallel() or model_parallel(), in which "
            f"{call}() runs: build, compile and fit it inside the same data_parallel() or "
            "model_parallel() block"
        )


def distributed(cls: type) -> type:
    """Return the distributed class of the same name, in Python and in files."""
    if issubclass(cls, DistributedModel):
        return cls
    if cls not in _DISTRIBUTED:
        content = {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__")}
        _DISTRIBUTED[cls] = type(cls.__name__, (DistributedModel, cls), content)
        _share_name(_DISTRIBUTED[cls], cls)
    return _DISTRIBUTED[cls]


def _share_name(made: type, cls: type) -> None:
    """Let Keras save a class under the registered name of another, which it keeps loading."""
    name, known = keras.saving.get_registered_name(cls), keras.saving.get_custom_objects()
    if ">" not in name:
        return  # not registered: the name in Python, which both have
    before = known.get(name)
    keras.saving.register_keras_serializable(*name.split(">", 1))(made)
    known[name] = before or cls
