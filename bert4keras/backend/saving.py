"""Registration of classes and functions for saving, under the package name `bert4keras`."""

from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeVar

import keras

Registrable = TypeVar("Registrable", bound=Callable[..., Any])


def registered(target: Registrable) -> Registrable:
    """Register a layer, initializer or function for saving, under the package name `bert4keras`."""
    return keras.saving.register_keras_serializable(package="bert4keras")(target)


@keras.saving.register_keras_serializable("bert4keras", name="Model")
class _Model:
    """Placeholder for `bert4keras.models.Model` in saved models until that is imported.

    With it Keras finds that class, and all layers, once any part of this library is imported.
    """

    def get_config(self) -> dict:
        """Return an empty config: registered classes must have this method."""
        return {}

    @classmethod
    def from_config(cls, config: dict, custom_objects: Any = None) -> keras.Model:
        """Build the model."""
        # By name: this package lies below `models`, which has not been imported yet.
        model = import_module("bert4keras.models.model").Model
        return model.from_config(config, custom_objects)
