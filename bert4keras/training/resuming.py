"""The training state beyond the weights that is needed to resume training.

Weight files contain the layers. `keras.callbacks.BackupAndRestore` saves weights too, but expects
them to restore the optimizer as well: its file also contains the state that this module defines.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from bert4keras.checkpoints.base import CheckpointError

BACKUP = "latest.weights.h5"
"""Name of the file of `keras.callbacks.BackupAndRestore`."""

ENTRY = "(training)"
"""Name of the entry of the training state in the file, among the names of layers."""


def is_backup(path: str | Path) -> bool:
    """Tell whether a weight file is a backup from which training resumes."""
    return Path(path).name == BACKUP


def training_state(model: keras.Model) -> dict[str, Any]:
    """Return by name the variables of the optimizer and of random number generators."""
    weights = {id(v) for v in model.weights}
    others = [v for v in model.variables if id(v) not in weights]
    groups = {"optimizer": model.optimizer.variables, "random": others}
    return {f"{name}/{i}": v for name, group in groups.items() for i, v in enumerate(group)}


def restore_training_state(model: keras.Model, arrays: Mapping[str, np.ndarray], path: Any) -> None:
    """Assign the values in a file to the variables of `training_state`.

    Raises:
        CheckpointError: the model was compiled differently; nothing is changed then.
    """
    state = training_state(model)
    shapes = {name: tuple(v.shape) for name, v in state.items()}
    found = {name: array.shape for name, array in arrays.items()}
    if shapes != found:
        names = sorted(shapes.items() ^ found.items())
        raise CheckpointError(
            f"{path} was written with another optimizer: {len(names)} of its variables, "
            f"such as {names[0][0]}, are not those of {type(model.optimizer).__name__}. Compile "
            "the model as before, or remove the folder to start from scratch"
        )
    for name, variable in state.items():
        variable.assign(np.array(arrays[name]))
