"""What training needs beside the weights, to go on as if it had not been interrupted.

Weight files hold the layers. `keras.callbacks.BackupAndRestore` saves weights too, and expects them
to bring the optimizer back: in its file stands what this module gives.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from bert4keras.checkpoints.base import CheckpointError

BACKUP = "latest.weights.h5"
"""What `keras.callbacks.BackupAndRestore` calls its file."""

ENTRY = "(training)"
"""What stands in the file in the place of a layer's name."""


def is_backup(path: str | Path) -> bool:
    """Tell whether training is to go on from a weight file."""
    return Path(path).name == BACKUP


def state_of_training(model: keras.Model) -> dict[str, Any]:
    """Name the variables of the optimizer, and of random numbers, that training goes on with."""
    weights = {id(v) for v in model.weights}
    others = [v for v in model.variables if id(v) not in weights]
    groups = {"optimizer": model.optimizer.variables, "random": others}
    return {f"{name}/{i}": v for name, group in groups.items() for i, v in enumerate(group)}


def restore_training(model: keras.Model, arrays: Mapping[str, np.ndarray], path: Any) -> None:
    """Give the variables of `state_of_training` the values that a file has.

    Raises:
        CheckpointError: the model was compiled otherwise; nothing has changed then.
    """
    state = state_of_training(model)
    shapes = {name: tuple(v.shape) for name, v in state.items()}
    found = {name: array.shape for name, array in arrays.items()}
    if shapes != found:
        names = sorted(shapes.items() ^ found.items())
        raise CheckpointError(
            f"{path} was written while another optimizer trained: {len(names)} of its variables, "
            f"such as {names[0][0]}, are not those of {type(model.optimizer).__name__}. Compile "
            "the model as it was, or remove the folder to begin anew"
        )
    for name, variable in state.items():
        variable.assign(np.array(arrays[name]))
