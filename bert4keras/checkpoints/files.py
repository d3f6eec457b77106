"""Finding the files of a pretrained model, and opening its weights in any format."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bert4keras.checkpoints.base import (
    Checkpoint,
    CheckpointError,
    neighbours,
    open_regular,
    readable,
    unchanged,
    undamaged,
    with_suffix,
)
from bert4keras.checkpoints.bundle import TensorBundle
from bert4keras.checkpoints.hdf5 import KerasWeights
from bert4keras.checkpoints.pytorch import open_legacy, open_pytorch
from bert4keras.checkpoints.recognise import describe, read_index, recognise, similar
from bert4keras.checkpoints.safetensors import open_safetensors
from bert4keras.checkpoints.tensors import ShardedCheckpoint
from bert4keras.checkpoints.zips import open_npz

# === Opening ===


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open the weights of a model.

    The format is detected from the bytes of the file, whatever its name:

    * a TensorFlow checkpoint: its prefix (`.../bert_model.ckpt`), its `.index` or data file;
    * a safetensors file, or the `.safetensors.index.json` of several;
    * a file of `torch.save` with a state dict, or the `.bin.index.json` of several; it is read by
      an unpickler that can only create tensors;
    * a file of `numpy.savez`;
    * a weight file of `save_weights`, its variables named `LAYER/WEIGHT`.

    Args:
        path: one of these, or a folder with one, as for :func:`find_files`.

    Returns:
        The open checkpoint. The locations of variables have been read, but no variable.

    Raises:
        CheckpointError: there is no such file, it has another format or it is damaged.
    """
    path = _find_checkpoint(Path(path))
    if with_suffix(path, ".index").is_file():
        return TensorBundle(path)
    kind = recognise(path)
    if kind == "shards":
        return unchanged(path, lambda: _open_shards(path))
    if kind not in _OPENERS:
        raise CheckpointError(
            f"{path} is {describe(path)}. Expected a TensorFlow checkpoint (its prefix, next to "
            f"{path.name}.index), safetensors, PyTorch, .npz or a weight file of "
            "save_weights."
        )
    return _OPENERS[kind](path)


_OPENERS: dict[str, Callable[[Path], Checkpoint]] = {
    "safetensors": open_safetensors,
    "torch": open_pytorch,
    "torch before 1.6": open_legacy,
    "npz": open_npz,
    "keras": KerasWeights,
}


_FILE_NAME = re.compile(r"[^/\\\0\ud800-\udfff]{1,255}")  # no folder, no unpaired surrogate


def _open_shards(path: Path) -> ShardedCheckpoint:
    with undamaged(path, "a readable index of shards"):
        weight_map = read_index(path).get("weight_map")
    names = weight_map.values() if isinstance(weight_map, dict) else [None]
    # A shard must be next to its index: a path could lead anywhere.
    if not all(isinstance(name, str) and _FILE_NAME.fullmatch(name) for name in names):
        raise CheckpointError(f"{path}: its weight_map does not map to names of files next to it")
    shards = {name: _open_shard(path, name) for name in sorted(set(names))}
    return ShardedCheckpoint(path, {name: shards[shard] for name, shard in weight_map.items()})


def _open_shard(index: Path, name: str) -> Checkpoint:
    with readable(index):  # a name may be too long for the file system
        path = index.parent / name
        if not path.is_file():
            raise CheckpointError(
                f"{path} is missing, but {index.name} refers to it. {similar(path)}"
            )
    kind = recognise(path)
    if kind not in ("safetensors", "torch", "torch before 1.6"):
        raise CheckpointError(
            f"{path} is {describe(path)}, but according to {index.name} it has weights"
        )
    return _OPENERS[kind](path)


def list_variables(path: str | Path) -> list[tuple[str, tuple[int, ...]]]:
    """List names and shapes of all variables of a checkpoint, sorted by name.

    Args:
        path: as for :func:`open_checkpoint`. The data files of a TensorFlow checkpoint may be
            missing.

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged.
    """
    with open_checkpoint(path) as checkpoint:
        return [(name, checkpoint.shape(name)) for name in checkpoint]


def load_variable(path: str | Path, name: str) -> np.ndarray:
    """Read one variable of a checkpoint, as :meth:`Checkpoint.__getitem__` does.

    Raises:
        CheckpointError: there is no such checkpoint or variable, or it is damaged.
    """
    with open_checkpoint(path) as checkpoint:
        return checkpoint[name]


# === Finding ===

# Patterns of weight files in a folder; the first row with a match is used. The file names of
# Hugging Face come before other files of the same format, of which there may be many.
_WEIGHTS = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("*.safetensors", "*.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
    ("*.index",),
    ("*.bin", "*.bin.index.json", "*.pt", "*.pth"),
    ("*.weights.h5", "*.h5", "*.weights"),
    ("*.npz",),
)
_LARGEST_STATE = 1 << 20  # bytes of TensorFlow's file `checkpoint`
_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}(\.\w+)")
# Files that training scripts of Hugging Face write next to the weights, and adapters of PEFT.
_OTHER_WEIGHTS = re.compile(
    r"(training_args|optimizer|scheduler|scaler|rng_state).*\.(bin|pth?)"
    r"|adapter_model\.(safetensors|bin)"
)
# Names that match `*config*.json` but do not describe a model.
_OTHER_CONFIGS = {
    "adapter_config.json",
    "config_sentence_transformers.json",
    "data_config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "sentence_bert_config.json",
    "tokenizer_config.json",
}


@dataclass(frozen=True)
class Files:
    """Files in the folder of a pretrained model; None for those that were not requested."""

    config: Path | None = None
    checkpoint: Path | None = None
    vocabulary: Path | None = None


def find_files(
    path: str | Path, need: Sequence[str] = ("config", "checkpoint", "vocabulary")
) -> Files:
    """Find the files of a pretrained model in its folder.

    Args:
        path: the folder, or one of the files (`bert_config.json`, `vocab.txt`, `model.safetensors`,
            the prefix, index or data file of a TensorFlow checkpoint), which is then used itself,
            with others next to it.
        need: what to look for: "config" (`*config*.json`), "checkpoint" (by their names, in this
            order: safetensors, PyTorch's `pytorch_model.bin`, TensorFlow, other files of PyTorch,
            weight files of this library, `.npz`), "vocabulary" (`vocab.txt`, else `vocab*.txt`,
            else SentencePiece's `*.model`).

    Returns:
        The paths; the one of a TensorFlow checkpoint is its prefix.

    Raises:
        CheckpointError: a needed file is missing, or there are several candidates.
    """
    path = Path(path)
    with readable(path):
        given = _kind_of(path)
        if given == "checkpoint":
            path = _find_checkpoint(path)
        elif not path.exists():
            raise CheckpointError(f"there is no {path}. {similar(path)}")
        folder = path.parent if given else path
        return Files(**{kind: path if kind == given else _search(folder, kind) for kind in need})


def _kind_of(path: Path) -> str | None:
    """Return the kind of a file by its suffix; None for a folder."""
    if path.is_dir():
        return None
    if path.suffix == ".json" and not path.name.endswith(".index.json"):
        return "config"
    return "vocabulary" if path.suffix in (".txt", ".model") else "checkpoint"


def _search(folder: Path, kind: str) -> Path:
    if kind == "checkpoint":
        return _find_checkpoint(folder)
    if kind == "config":
        found = sorted(p for p in folder.glob("*config*.json") if p.name not in _OTHER_CONFIGS)
        found = [path for path in found if path.is_file()]
        return _one(found, folder, "config (*config*.json)")
    for pattern in ("vocab.txt", "vocab*.txt", "*.model"):
        if found := sorted(path for path in folder.glob(pattern) if path.is_file()):
            break
    return _one(found, folder, "vocabulary (vocab*.txt, *.model)")


def _find_checkpoint(path: Path) -> Path:
    """Return the checkpoint file that a path refers to; for TensorFlow, its prefix."""
    with readable(path):
        if path.is_dir():
            return _one(_weights(path), path, "weights (TensorFlow's *.index, *.safetensors, ...)")
        prefix = path.with_name(re.sub(r"\.(index|data-\d{5}-of-\d{5})$", "", path.name))
        if with_suffix(prefix, ".index").is_file():
            return prefix
        if path.is_file():
            # A single shard is not a model, so the index is used, as for data files of TensorFlow.
            return _index_of(path) if _is_shard(path) else path
        raise CheckpointError(
            f"there is no checkpoint {prefix}: neither a file of this name nor, for a TensorFlow "
            f"checkpoint, {prefix.name}.index. Files there: {neighbours(prefix)}. Give the path of "
            "a file, or of a TensorFlow checkpoint without .index or .data-...."
        )


def _weights(folder: Path) -> list[Path]:
    """Return the weight files in a folder, of several formats those of the first in `_WEIGHTS`."""
    for patterns in _WEIGHTS:
        files = sorted(p for pattern in patterns for p in folder.glob(pattern) if p.is_file())
        found = [p for p in files if not _OTHER_WEIGHTS.fullmatch(p.name) and not _is_shard(p)]
        if patterns == ("*.index",):
            found = _latest(sorted(p.with_suffix("") for p in found), folder / "checkpoint")
        if found:
            return found
    return []


def _index_of(path: Path) -> Path:
    """Return the path of the index of a shard; for other files, the path itself."""
    return path.with_name(_SHARD.sub(r"\1\2.index.json", path.name))


def _is_shard(path: Path) -> bool:
    index = _index_of(path)
    return index != path and index.is_file()


def _latest(prefixes: list[Path], state: Path) -> list[Path]:
    """Select among several TensorFlow checkpoints the one in the state file `checkpoint`."""
    if len(prefixes) > 1 and state.is_file():
        with readable(state), open_regular(state) as file:
            text = file.read(_LARGEST_STATE).decode(errors="replace")
        latest = re.search(r'^model_checkpoint_path: "(.*)"$', text, re.MULTILINE)
        # The path is often that on the machine that trained the model: only its name is used.
        named = [p for p in prefixes if latest and p.name == re.split(r"[/\\]", latest[1])[-1]]
        return named or prefixes
    return prefixes


def _one(candidates: Sequence[Path], folder: Path, what: str) -> Path:
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise CheckpointError(
            f"{folder} has no {what}. Files there: {neighbours(folder / '_')}. "
            "Give the path of the file itself, or a folder with one."
        )
    raise CheckpointError(
        f"{folder} has {len(candidates)} files that could be the {what}: "
        f"{', '.join(p.name for p in candidates)}. Give the path of the one you mean."
    )
