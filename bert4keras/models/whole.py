"""Saving whole models to files of any name, and loading them.

Keras chooses the format by the suffix of the name, but scripts also use names such as `test.model`,
and other scripts load the models by these names.
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import keras

from bert4keras.checkpoints.writing import replacing
from bert4keras.models.whole_h5 import SUFFIXES as H5_SUFFIXES
from bert4keras.models.whole_h5 import WholeH5

FORMATS = {b"PK\x03\x04": ".keras", b"\x89HDF": ".h5"}
"""The first bytes of files, with the suffix by which Keras recognises the format."""
SUFFIXES = (".keras", *H5_SUFFIXES)
"""Suffixes that Keras recognises itself."""


class WholeModel(WholeH5):
    """A Keras model that can be saved under any file name."""

    def save(
        self,
        filepath: str | Path,
        overwrite: bool = True,
        zipped: bool | None = None,
        **kwargs: Any,
    ) -> None:
        """Write the whole model, as `keras.Model.save` does, replacing an older file in one step.

        Folders and remote paths are written by Keras as usual.

        Args:
            filepath: the file; one that ends in neither `.keras` nor `.h5` nor `.hdf5` is written
                in the format of `.keras` files, and `bert4keras.models.load_model` reads it.
            overwrite: whether an existing file is replaced.
            zipped: see `keras.Model.save`.
            **kwargs: see `keras.Model.save`.

        Raises:
            FileExistsError: the file exists and `overwrite` is false.
            CheckpointError: the folder is missing or cannot be written to, or the disk is full.
        """
        if zipped is False or "://" in str(filepath):
            super().save(filepath, overwrite=overwrite, zipped=zipped, **kwargs)
            return
        if not overwrite and os.path.exists(filepath):
            raise FileExistsError(f"{filepath} exists: choose another name or pass overwrite=True")
        path = Path(os.path.realpath(filepath))
        with replacing(path.parent, path.name) as folder:
            known = path.name.endswith(SUFFIXES)
            written = folder / (path.name if known else "model.keras")
            super().save(written, zipped=zipped, **kwargs)
            written.rename(folder / path.name)


def load_model(filepath: str | Path, **kwargs: Any) -> keras.Model:
    """Load a whole model from a file of any name.

    Args:
        filepath: a file that `save` of a model has written.
        **kwargs: those of `keras.saving.load_model`: `custom_objects`, `compile`, `safe_mode`.

    Raises:
        ValueError: the file holds no whole model, or cannot be read.
    """
    path = Path(filepath)
    suffix = format_of(path) if path.is_file() else None
    if suffix is None or path.name.endswith(suffix):
        return keras.saving.load_model(filepath, **kwargs)
    with tempfile.TemporaryDirectory() as folder:
        named = Path(folder, f"model{suffix}")
        try:
            named.symlink_to(path.resolve())
        except OSError:  # a system without links
            shutil.copyfile(path, named)
        return keras.saving.load_model(named, **kwargs)


def format_of(path: Path) -> str | None:
    """Return the suffix of a file's format by its first bytes, None if the format is unknown."""
    with path.open("rb") as file:
        return FORMATS.get(file.read(4))
