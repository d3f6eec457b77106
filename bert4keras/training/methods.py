"""Methods of layers as losses and metrics, such as `crf.sparse_loss`, in a form that can be saved.

Keras saves a function by its name, which does not suffice for a method of a layer.
"""

from types import MethodType
from typing import Any

import keras

from bert4keras import keras_private
from bert4keras.backend.saving import registered


@registered
class LayerMethod:
    """Method of a layer of a model, saved by the names of layer and method.

    Args:
        layer: name of the layer.
        method: name of the method.
        owner: the layer; it is not known yet when this is loaded from a file.
    """

    def __init__(self, layer: str, method: str, owner: keras.Layer | None = None) -> None:
        self.layer = layer
        self.method = method
        self.owner = owner
        self.__name__ = method

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method."""
        return getattr(self.owner, self.method)(*args, **kwargs)

    def bound_to(self, model: keras.Model) -> "LayerMethod":
        """Return the method of the layer of this name in a model.

        Raises:
            ValueError: the model has no such layer or method.
        """
        owner = layer_named(model, self.layer)
        if not callable(getattr(owner, self.method, None)):
            raise ValueError(
                f"the model was compiled with the method {self.method!r} of its layer "
                f"{self.layer!r}, which it does not have: load it with compile=False and compile it"
            )
        return LayerMethod(self.layer, self.method, owner)

    def get_config(self) -> dict:
        """Return the names."""
        return {"layer": self.layer, "method": self.method}

    @classmethod
    def from_config(cls, config: dict) -> "LayerMethod":
        """Create it from the names."""
        return cls(**config)


def layer_named(model: keras.Model, name: str) -> keras.Layer | None:
    """Find the first layer of a name in a model, in nested models or in layers."""
    found = keras_private.layers_within(model, include_self=False)
    return next((layer for layer in found if layer.name == name), None)


def with_methods_by_name(model: keras.Model, nest: Any) -> Any:
    """Replace methods of a model's layers in arguments of `compile` by `LayerMethod` objects."""
    return keras.tree.map_structure(lambda x: method_by_name(model, x), nest)


def method_by_name(model: keras.Model, given: Any) -> Any:
    """Replace a method of a model's layer, also within a loss or metric that wraps it."""
    for attribute in ("fn", "_fn"):
        if isinstance(inner := getattr(given, attribute, None), MethodType | LayerMethod):
            setattr(given, attribute, method_by_name(model, inner))
    if isinstance(given, LayerMethod):
        return given.bound_to(model)
    if not isinstance(given, MethodType):
        return given
    owner, name = given.__self__, given.__name__
    if isinstance(owner, keras.Layer) and layer_named(model, owner.name) is owner:
        return LayerMethod(owner.name, name, owner)
    return given
