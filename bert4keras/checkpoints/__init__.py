"""Read and write weight files without TensorFlow, without PyTorch and without Keras.

* Reading: :func:`open_checkpoint`, :func:`list_variables`, :func:`load_variable`, of TensorFlow
  checkpoints, safetensors, PyTorch and numpy files and weight files keyed by layer name. What they
  give is a :class:`Checkpoint`, a mapping from names to arrays.
* Writing: :func:`write_checkpoint` (TensorFlow), :func:`write_safetensors`.
* Weight files keyed by layer name, in the layout of Keras 2: :func:`save_layers`,
  :func:`load_layers`.
* What lies in a folder: :func:`find_files`. Whether a checkpoint fits a model:
  :func:`match_variables`.

Every file that is missing, damaged, of another format or of another model ends in one exception,
:class:`CheckpointError`. No file can run code, or claim more memory than its bytes warrant.

The modules, from the ground up:

* `base`: the exception, the class `Checkpoint`, paths;
* `writing`: files that take the place of older ones in a single step;
* `jsons`: JSON that may be damaged;
* `tensors`: tensors as bytes in a mapped file, for the formats that are no more than that;
* `bundle`: TensorFlow checkpoints, read and written;
* `safetensors`: the same for safetensors;
* `unpickle`, `pytorch`: the machine for pickles, and the files of PyTorch;
* `zips`: zip archives and the `.npz` files of numpy;
* `recognise`: what a file is, told from its bytes;
* `hdf5`: weight files keyed by layer;
* `files`: finding and opening;
* `names`: variables of Hugging Face under official names, and back;
* `architectures`: what tells of which architecture a file is;
* `report`: whether a checkpoint fits a model.
"""

from bert4keras.checkpoints.architectures import Signature
from bert4keras.checkpoints.base import ARCHITECTURE, Checkpoint, CheckpointError
from bert4keras.checkpoints.bundle import TensorBundle, write_checkpoint
from bert4keras.checkpoints.files import (
    Files,
    find_files,
    list_variables,
    load_variable,
    open_checkpoint,
)
from bert4keras.checkpoints.hdf5 import load_layers, save_layers
from bert4keras.checkpoints.names import Dialect, LayerNames, as_official, to_hugging_face
from bert4keras.checkpoints.report import Report, match_variables
from bert4keras.checkpoints.safetensors import write_safetensors

__all__ = [
    "ARCHITECTURE",
    "Checkpoint",
    "CheckpointError",
    "Dialect",
    "Files",
    "LayerNames",
    "Report",
    "Signature",
    "TensorBundle",
    "as_official",
    "find_files",
    "list_variables",
    "load_layers",
    "load_variable",
    "match_variables",
    "open_checkpoint",
    "save_layers",
    "to_hugging_face",
    "write_checkpoint",
    "write_safetensors",
]
