"""Detection of the format of a file from its bytes."""

from pathlib import Path

from bert4keras.checkpoints import bundle, pytorch, safetensors, zips
from bert4keras.checkpoints.base import Damage, neighbours, open_regular, readable, with_suffix
from bert4keras.checkpoints.jsons import read_json

HDF5 = b"\x89HDF\r\n\x1a\n"
_LARGEST_INDEX = 16 << 20  # bytes of the JSON that lists shards; a variable takes about a hundred

# Descriptions of the results of `recognise`, for messages.
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
    """Return the format of a file: a key of `_WORDS`, or a description of another format.

    Raises:
        CheckpointError: the file cannot be read.
    """
    with readable(path), open_regular(path) as file:
        head = file.read(64)
        size = file.seek(0, 2)
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
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= safetensors.LARGEST_HEADER:
        return "safetensors"
    if head.lstrip()[:1] == b"{" and size <= _LARGEST_INDEX:
        return _recognise_json(path)
    return f"a file of unknown format that begins with {head[:8].hex()}"


def _recognise_archive(path: Path) -> str:
    try:
        names = [info.filename for info in zips.directory(path)[0]]
    except Damage as damage:
        return f"a zip archive whose {str(damage).removeprefix('its ')}, possibly truncated"
    if "model.weights.h5" in names:
        return "keras 3"
    if any(name.endswith("/data.pkl") for name in names):
        return "torch"
    if all(name.endswith(".npy") for name in names):
        return "npz"
    return f"a zip archive of {', '.join(names[:5])}"


def describe(path: Path) -> str:
    """Describe the format of a file in words."""
    kind = recognise(path)
    return _WORDS.get(kind, kind)


def _recognise_json(path: Path) -> str:
    try:
        return "shards" if "weight_map" in read_index(path) else "a JSON file without weight_map"
    except Damage as damage:
        return f"a JSON file without weight_map: {damage}"


def read_index(path: Path) -> dict:
    """Read the JSON object that lists shards, or raise `Damage`."""
    return read_json(path, _LARGEST_INDEX)


def similar(path: Path) -> str:
    """Suggest what the path of a file that does not exist could refer to."""
    if with_suffix(path, ".index").exists():
        return "It is the prefix of a TensorFlow checkpoint: use load_weights_from_checkpoint."
    return f"Files there: {neighbours(path)}."
