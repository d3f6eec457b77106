"""Whole models in HDF5 files, the format of Keras 2, which Keras 3 still writes and reads."""

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
    """A Keras model whose class is kept when it is saved to and loaded from an HDF5 file."""

    from_h5 = False
    """Whether the model was loaded from such a file."""

    def save(self, filepath: str | Path, *args: Any, **kwargs: Any) -> None:
        """Write the whole model, as `keras.Model.save` does."""
        if not str(filepath).endswith(SUFFIXES):
            super().save(filepath, *args, **kwargs)
            return
        with with_full_loss_names(self):
            super().save(filepath, *args, **kwargs)
        name_class(filepath, type(self))

    @classmethod
    def from_config(
        cls, config: dict, custom_objects: Mapping[str, Any] | None = None
    ) -> keras.Model:
        """Build the model from its config, as `keras.Model.from_config` does."""
        if not keras_private.reads_h5():
            return super().from_config(config, custom_objects)
        # The HDF5 reader of Keras finds only layers, not operations of `keras.ops`.
        model = super().from_config(config, {**operations(), **(custom_objects or {})})
        model.from_h5 = True
        return model


def operations(base: type = keras.Operation) -> dict[str, type]:
    """Return the operation classes behind the functions of `keras.ops`, by name."""
    found = {}
    for cls in base.__subclasses__():
        if keras_private.is_operation_of_keras(cls):
            found |= {cls.__name__: operation_or_layer(cls)}
        if not issubclass(cls, keras.Layer):
            found |= operations(cls)
    return found


def operation_or_layer(operation: type) -> type:
    """Return a class that loads an operation or the layer of the same name (Concatenate)."""
    layer = getattr(keras.layers, operation.__name__, None)
    if layer is None:
        return operation

    class Either:
        @classmethod
        def from_config(cls, config: dict) -> keras.Operation:
            # The configs of all layers have this key, and those of operations do not.
            return (layer if "trainable" in config else operation).from_config(config)

    return Either


@contextmanager
def with_full_loss_names(model: keras.Model) -> Iterator[None]:
    """Replace short names of losses in the compile config by full ones, in a `with` block.

    Keras cannot load losses by names such as 'mse'; it also removes the optimizer from the config,
    which is restored.
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
    """Replace the short name of a loss by the full one: 'mse' by 'mean_squared_error'."""
    found = keras.losses.get(loss) if isinstance(loss, str) else None
    return found.__name__ if isinstance(found, FunctionType) else loss


def name_class(path: str | Path, cls: type) -> None:
    """Write the name of a model's class into its file, where Keras wrote that of its own class."""
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        config["class_name"] = keras.saving.get_registered_name(cls)
        file.attrs["model_config"] = json.dumps(config).encode()
