"""Which models are distributed: those that are built where there are several devices."""

from typing import Any

import keras

from bert4keras.training.distribution.model import DistributedModel
from bert4keras.training.distribution.scopes import placement

_DISTRIBUTED: dict[type, type] = {}
"""For classes of models, those of the same name that are distributed."""


class BuiltForDevices(keras.Model):
    """A Keras model that becomes distributed where it is built in a scope of several devices.

    It is then an object of a subclass of the same name that is a `DistributedModel` too. Its files
    and its config are those of the class itself, and what is read or cloned of them is distributed
    where that happens in such a scope, and nowhere else.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Make an object of the class that fits the place."""
        if placement() is not None and cls is not BuiltForDevices:
            return super().__new__(distributed(cls), *args, **kwargs)
        if cls in _DISTRIBUTED.values():  # a copy, elsewhere, of one that was built in a scope
            return cls.__bases__[1](*args, **kwargs)
        return super().__new__(cls, *args, **kwargs)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile as `keras.Model.compile` does.

        Raises:
            ValueError: the model was built before `data_parallel`, in which it is compiled.
        """
        check_alone(self, "compile")
        super().compile(*args, **kwargs)

    def fit(
        self, x: Any = None, y: Any = None, batch_size: int | None = None, **kwargs: Any
    ) -> keras.callbacks.History:
        """Train as `keras.Model.fit` does.

        Raises:
            ValueError: the devices are not those that the model was built and compiled for, or more
                than there are samples in a batch.
        """
        self.check_devices("fit", x, batch_size, kwargs)
        return super().fit(x, y, batch_size=batch_size, **kwargs)

    def evaluate(
        self, x: Any = None, y: Any = None, batch_size: int | None = None, **kwargs: Any
    ) -> Any:
        """Evaluate as `keras.Model.evaluate` does; see `fit`."""
        self.check_devices("evaluate", x, batch_size, kwargs)
        return super().evaluate(x, y, batch_size=batch_size, **kwargs)

    def check_devices(self, call: str, x: Any, batch_size: int | None, options: dict) -> None:
        """Raise unless `fit` and its like run on the devices that the model was built for."""
        check_alone(self, call)


def check_alone(model: keras.Model, call: str) -> None:
    """Raise ValueError if a model that is not distributed is to run on several devices."""
    if placement() is not None and not isinstance(model, DistributedModel):
        raise ValueError(
            "the model was built before data_parallel() or model_parallel(), in which "
            f"{call}() runs: build, compile and fit it inside the same data_parallel() or "
            "model_parallel() block"
        )


def distributed(cls: type) -> type:
    """Give the class of the same name, in Python and in files, whose models are distributed."""
    if issubclass(cls, DistributedModel):
        return cls
    if cls not in _DISTRIBUTED:
        content = {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__")}
        _DISTRIBUTED[cls] = type(cls.__name__, (DistributedModel, cls), content)
        _share_name(_DISTRIBUTED[cls], cls)
    return _DISTRIBUTED[cls]


def _share_name(made: type, cls: type) -> None:
    """Let Keras save a class under the name of another, which it goes on to load."""
    name, known = keras.saving.get_registered_name(cls), keras.saving.get_custom_objects()
    if ">" not in name:
        return  # that of Python, which both have
    before = known.get(name)
    keras.saving.register_keras_serializable(*name.split(">", 1))(made)
    known[name] = before or cls
