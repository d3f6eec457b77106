"""Transformer models for Chinese NLP in Keras 3.

Importing the package imports nothing else: `bert4keras.tokenizers`, `bert4keras.snippets` and
`bert4keras.checkpoints` work without Keras, and `bert4keras.models` starts only the backend that
`KERAS_BACKEND` names.
"""

import glob
import os

__version__ = "1.0.0.dev0"


def _check_installation(folder: str) -> None:
    """Refuse to run on files of two distributions, of which each overwrites those of the other.

    Raises:
        ImportError: If both `bert4keras` and `bert4keras-core` are installed in the folder.
    """
    found = glob.glob("bert4keras*.dist-info", root_dir=folder)
    if {"bert4keras", "bert4keras_core"} <= {name.partition("-")[0] for name in found}:
        raise ImportError(
            "bert4keras and bert4keras-core are both installed, and each overwrites files of the "
            "other: run pip uninstall -y bert4keras bert4keras-core, then install one of them"
        )


_check_installation(os.path.dirname(__path__[0]))
