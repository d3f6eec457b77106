"""Methods of layers as losses and metrics, such as `crf.sparse_loss`, in a form that is saved.

Keras saves a function by its name. Of a method it would have to know the layer as well.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import MethodType
from typing import Any

import keras

from bert4keras.backend import registered

COMPILED: ContextVar[keras.Model | None] = ContextVar("COMPILED", default=None)
"""The model that is being compiled with what was saved."""


@registered
class LayerMethod:
    """A method of a layer of a model; saved as the names of both.

    Args:
        layer: the layer.
        method: name of the method.
    """

    def __init__(self, layer: keras.Layer, method: str) -> None:
        self.layer = layer
        self.method = method
        self.__name__ = method

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method."""
        return getattr(self.layer, self.method)(*args, **kwargs)

    def get_config(self) -> dict:
        """Return the names."""
        return {"layer": self.layer.name, "method": self.method}

    @classmethod
    def from_config(cls, config: dict) -> "LayerMethod":
        """Find the layer in the model that is being compiled."""
        layer = layer_named(COMPILED.get(), config["layer"])
        if not callable(getattr(layer, config["method"], None)):
            raise ValueError(
                f"the model was compiled with the method {config['method']!r} of its layer "
                f"{config['layer']!r}, which is not here: load it with compile=False and compile it"
            )
        return cls(layer, config["method"])


def layer_named(model: keras.Model | None, name: str) -> keras.Layer | None:
    """The layer of a name in a model, in models within it or in layers, the first if several."""
    found = () if model is None else model._flatten_layers(include_self=False)
    return next((layer for layer in found if layer.name == name), None)


def with_methods_by_name(model: keras.Model, nest: Any) -> Any:
    """Replace the methods of a model's layers in what it is compiled with."""
    return keras.tree.map_structure(lambda x: method_by_name(model, x), nest)


def method_by_name(model: keras.Model, given: Any) -> Any:
    """Replace a method of a model's layer, also within a loss or metric that Keras makes of it."""
    for attribute in ("fn", "_fn"):
        inner = getattr(given, attribute, None)
        if isinstance(inner, MethodType):
            setattr(given, attribute, method_by_name(model, inner))
    if not isinstance(given, MethodType):
        return given
    layer, name = given.__self__, given.__name__
    if isinstance(layer, keras.Layer) and layer_named(model, layer.name) is layer:
        return LayerMethod(layer, name)
    return given


@contextmanager
def compiled_as_saved(model: keras.Model) -> Iterator[None]:
    """Let methods that were saved be those of the layers of a model, in a `with` block."""
    token = COMPILED.set(model)
    try:
        yield
    finally:
        COMPILED.reset(token)
