"""What is registered for saving, under the package name `bert4keras`."""

from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeVar

import keras

Thing = TypeVar("Thing", bound=Callable[..., Any])


def registered(thing: Thing) -> Thing:
    """Register a layer, initializer or function for saving, under the package name `bert4keras`."""
    return keras.saving.register_keras_serializable(package="bert4keras")(thing)


@keras.saving.register_keras_serializable("bert4keras", name="Model")
class _Model:
    """Stands for `bert4keras.models.Model` in saved models until that is imported.

    So Keras finds it, and all layers, in a process that has imported some of this library.
    """

    def get_config(self) -> dict:
        """Return nothing: only what is registered has to have this method."""
        return {}

    @classmethod
    def from_config(cls, config: dict, custom_objects: Any = None) -> keras.Model:
        """Build the model."""
        # By name: this package stands below models, which have been imported by nobody yet.
        model = import_module("bert4keras.models.model").Model
        return model.from_config(config, custom_objects)
