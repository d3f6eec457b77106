"""Read and write weight files without TensorFlow, without PyTorch and without Keras.

* Reading: :func:`open_checkpoint`, :func:`list_variables`, :func:`load_variable`, for TensorFlow
  checkpoints, safetensors, PyTorch and NumPy files and weight files keyed by layer name. An open
  file is a :class:`Checkpoint`, a mapping from names to arrays.
* Writing: :func:`write_checkpoint` (TensorFlow), :func:`write_safetensors`.
* Weight files keyed by layer name, in the layout of Keras 2: :func:`save_layers`,
  :func:`load_layers`.
* Finding the files in a folder: :func:`find_files`. Checking whether a checkpoint fits a model:
  :func:`match_variables`.

For every file that is missing, damaged, of another format or of another model, one exception is
raised, :class:`CheckpointError`. No file can run code, or use more memory than its size justifies.

The modules, from the lowest to the highest:

* `base`: the exception, the class `Checkpoint`, paths;
* `writing`: atomic replacement of files;
* `jsons`: JSON that may be damaged;
* `tensors`: tensors as bytes in a mapped file, shared by several formats;
* `bundle`: reading and writing of TensorFlow checkpoints;
* `safetensors`: reading and writing of safetensors files;
* `unpickle`, `pytorch`: a restricted unpickler, and the files of PyTorch;
* `zips`: zip archives and the `.npz` files of NumPy;
* `recognise`: detection of the format of a file from its bytes;
* `hdf5`: weight files keyed by layer;
* `files`: finding and opening;
* `names`: conversion between official names of variables and those of Hugging Face;
* `architectures`: detection of the architecture of a file;
* `report`: comparison of a checkpoint with a model.
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
