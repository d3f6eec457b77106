"""What a file is, told from its bytes."""

import json
import zipfile
from pathlib import Path

from bert4keras.checkpoints import bundle, pytorch, safetensors
from bert4keras.checkpoints.base import neighbours, readable, with_suffix

HDF5 = b"\x89HDF\r\n\x1a\n"
_LARGEST_INDEX = 64 << 20  # bytes of the JSON that lists shards; a variable takes about a hundred

# What `recognise` returns, in the words of a message.
_WORDS = {
    "tensorflow": "the index of a TensorFlow checkpoint (use load_weights_from_checkpoint)",
    "tensorflow v1": "a TensorFlow checkpoint of the old V1 format (convert it with TensorFlow 1)",
    "safetensors": "a safetensors file (use load_weights_from_checkpoint)",
    "shards": "the index of several weight files (use load_weights_from_checkpoint)",
    "torch": "a PyTorch file (use load_weights_from_checkpoint)",
    "torch before 1.6": "a PyTorch file (use load_weights_from_checkpoint)",
    "npz": "a file of numpy.savez (use load_weights_from_checkpoint)",
    "keras": "an HDF5 weight file (use load_weights)",
    "keras 3": "a whole model of Keras 3 (use keras.models.load_model)",
    "empty": "an empty file",
}


def recognise(path: Path) -> str:
    """Tell what a file is: a key of `_WORDS`, or a description of something else.

    Raises:
        CheckpointError: the file cannot be read.
    """
    with readable(path):
        size = path.stat().st_size
        with open(path, "rb") as file:
            head = file.read(64)
            file.seek(max(0, size - len(bundle.MAGIC)))
            tail = file.read()
    if not size:
        return "empty"
    if head.startswith(HDF5):
        return "keras"
    if head.startswith(b"\x80") and pytorch.MAGIC in head:
        return "torch before 1.6"
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        return _recognise_archive(path)
    if tail == bundle.MAGIC:
        return "tensorflow" if path.suffix == ".index" else "tensorflow v1"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= safetensors.MAX_HEADER:
        return "safetensors"
    if head.lstrip()[:1] == b"{" and size <= _LARGEST_INDEX:
        return "shards" if "weight_map" in read_index(path) else "a JSON file without weight_map"
    return f"a file of unknown format that begins with {head[:8].hex()}"


def _recognise_archive(path: Path) -> str:
    try:
        with readable(path), zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        return f"a zip archive whose directory cannot be read ({error}), cut off perhaps"
    if "model.weights.h5" in names:
        return "keras 3"
    if any(name.endswith("/data.pkl") for name in names):
        return "torch"
    if all(name.endswith(".npy") for name in names):
        return "npz"
    return f"a zip archive of {', '.join(names[:5])}"


def describe(path: Path) -> str:
    """Say in words what a file is."""
    kind = recognise(path)
    return _WORDS.get(kind, kind)


def read_index(path: Path) -> dict:
    """Read a JSON object; empty if the file is none."""
    try:
        with readable(path):
            value = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def similar(path: Path) -> str:
    """Say what could be meant by the path of a file that does not exist."""
    if with_suffix(path, ".index").exists():
        return "It is the prefix of a TensorFlow checkpoint: use load_weights_from_checkpoint."
    return f"Files there: {neighbours(path)}."
