"""Whole models in HDF5 files, the format of Keras 2, which Keras still writes and reads."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType
from typing import Any

import h5py
import keras

from bert4keras import keras_private

SUFFIXES = (".h5", ".hdf5")


class WholeH5(keras.Model):
    """A Keras model that comes back from an HDF5 file as what it was."""

    from_h5 = False
    """Whether it was read from such a file."""

    def save(self, filepath: str | Path, *args: Any, **kwargs: Any) -> None:
        """Write the whole model, as `keras.Model.save` does."""
        if not str(filepath).endswith(SUFFIXES):
            super().save(filepath, *args, **kwargs)
            return
        with written_in_full(self):
            super().save(filepath, *args, **kwargs)
        name_class(filepath, type(self))

    @classmethod
    def from_config(
        cls, config: dict, custom_objects: Mapping[str, Any] | None = None
    ) -> keras.Model:
        """Build the model."""
        if not keras_private.reads_h5():
            return super().from_config(config, custom_objects)
        # Keras' reader knows layers only, and `keras.ops` of symbolic tensors are none.
        model = super().from_config(config, {**operations(), **(custom_objects or {})})
        model.from_h5 = True
        return model


def operations(base: type = keras.Operation) -> dict[str, type]:
    """The classes that the functions of `keras.ops` make of symbolic tensors, by name."""
    found = {}
    for cls in base.__subclasses__():
        if keras_private.is_operation_of_keras(cls):
            found |= {cls.__name__: or_layer(cls)}
        if not issubclass(cls, keras.Layer):
            found |= operations(cls)
    return found


def or_layer(operation: type) -> type:
    """Stand for an operation, and for the layer of Keras of the same name, such as Concatenate."""
    layer = getattr(keras.layers, operation.__name__, None)
    if layer is None:
        return operation

    class Either:
        @classmethod
        def from_config(cls, config: dict) -> keras.Operation:
            # All layers say it, and no operation does.
            return (layer if "trainable" in config else operation).from_config(config)

    return Either


@contextmanager
def written_in_full(model: keras.Model) -> Iterator[None]:
    """Let a model say what it was compiled with in a way that Keras reads, in a `with` block.

    It finds no loss by the names 'mse' and their like, and takes the optimizer out.
    """
    config = keras_private.compiled_with(model)
    kept = dict(config)
    if "loss" in config:
        config["loss"] = keras.tree.map_structure(full_name, config["loss"])
    try:
        yield
    finally:
        config.update(kept)


def full_name(loss: Any) -> Any:
    """The name of a loss in the place of a shorter one, such as 'mean_squared_error' of 'mse'."""
    found = keras.losses.get(loss) if isinstance(loss, str) else None
    return found.__name__ if isinstance(found, FunctionType) else loss


def name_class(path: str | Path, cls: type) -> None:
    """Write into a file which class its model is of; Keras has written the name of its own."""
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        config["class_name"] = keras.saving.get_registered_name(cls)
        file.attrs["model_config"] = json.dumps(config).encode()
