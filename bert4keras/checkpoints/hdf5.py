"""Weight files keyed by layer name: HDF5 in the layout of Keras 2.

libhdf5, which reads them, may hang or crash on a damaged file. The files of this library therefore
end with a checksum of all bytes before it, which is verified before libhdf5 sees any of them; it
ignores what follows the end that a file says it has. Files by Keras 2 have no checksum.
"""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import numpy as np

from bert4keras.checkpoints.base import (
    DAMAGED,
    Checkpoint,
    CheckpointError,
    readable,
    replacing,
)
from bert4keras.checkpoints.recognise import describe, recognise, similar

_CHUNK = 1 << 24  # bytes that are written, and summed up, at a time
_TRAILER = b"b4k-crc32c:"  # followed by the checksum, 4 bytes


def save_layers(path: str | Path, layers: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Write weights keyed by layer name to an HDF5 file in the layout of Keras 2.

    Root attributes `layer_names`, `backend`, `keras_version`; for each layer a group with the
    attribute `weight_names` and a dataset for each weight; a checksum at the end. The file takes
    the place of an older one only when it is complete.

    Args:
        path: the file to write, with any suffix; its folder must exist.
        layers: for each layer its weights by name, in order. Numbers and bools only.

    Raises:
        CheckpointError: the folder is missing, or a name or type cannot be written.
    """
    import h5py

    with replacing(Path(path)) as file:
        # A file format from 1.10 on has checksums in its structure and no limit on attributes.
        with h5py.File(file, "w", libver=("v110", "v110")) as h5:
            h5.attrs["layer_names"] = _to_names(layers)
            h5.attrs["backend"] = np.bytes_("tensorflow")  # the layout of kernels
            h5.attrs["keras_version"] = np.bytes_("2.3.1")  # the layout of the file
            for layer, weights in layers.items():
                _write_layer(h5.require_group(layer), layer, weights)
        crc = _checksum(file, file.seek(0, 2))
        file.write(_TRAILER + crc.to_bytes(4, "little"))


def _checksum(file: BinaryIO, size: int) -> int:
    """Return the checksum of the first `size` bytes, and stand behind them."""
    file.seek(0)
    crc = 0
    for start in range(0, size, _CHUNK):
        crc = google_crc32c.extend(crc, file.read(min(_CHUNK, size - start)))
    return crc


def _write_layer(group: Any, layer: str, weights: Mapping[str, np.ndarray]) -> None:
    group.attrs["weight_names"] = _to_names(weights)
    for name, weight in weights.items():
        try:
            _write_dataset(group, name, np.asarray(weight))
        except (TypeError, ValueError) as error:
            raise CheckpointError(
                f"cannot write the weight {name!r} of layer {layer!r}: {error}"
            ) from None


def _to_names(names: Iterable[str]) -> np.ndarray:
    encoded = [name.encode() for name in names]
    # Fixed-size strings lie within the attribute; strings of variable size lie in a heap that has
    # no checksums.
    return np.array(encoded, dtype=f"S{max(map(len, encoded), default=0) or 1}")


def _write_dataset(group, name: str, array: np.ndarray) -> None:
    import h5py

    if array.dtype.kind not in "biufc":
        raise TypeError(f"its type {array.dtype} is neither a number nor bool")
    if array.ndim and array.size:
        pieces = min(-(-array.nbytes // _CHUNK), len(array))
        rows = -(-len(array) // pieces)
        chunks = (rows, *array.shape[1:])
        group.create_dataset(name, data=array, chunks=chunks, fletcher32=True)
    else:
        # Only chunks have checksums of their own: a scalar goes into the header, which has one.
        layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        layout.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple(array.shape) if array.ndim else h5py.h5s.create(0)
        links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
        links.set_create_intermediate_group(True)
        kind = h5py.h5t.py_create(array.dtype, logical=True)
        dataset = h5py.h5d.create(group.id, name.encode(), kind, space, layout, links)
        if array.size:
            dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, array)


def load_layers(path: str | Path) -> dict[str, dict[str, np.ndarray]]:
    """Read a weight file keyed by layer name.

    Reads what :func:`save_layers` writes, `model.save_weights` of Keras 2 (and so of bert4keras up
    to 0.11), and the weights in a whole model saved by Keras 2. Files by Keras 2 have no checksums.

    Args:
        path: the file, with any suffix.

    Returns:
        For each layer its weights by name, both in the order of the file.

    Raises:
        CheckpointError: the file is missing, damaged, or of another format.
    """
    path = Path(path)
    with readable(path):
        if not path.is_file():
            raise CheckpointError(f"there is no weight file {path}. {similar(path)}")
    with KerasWeights(path) as file:
        return file.layers()


class KerasWeights(Checkpoint):
    """An open weight file; the names of its variables are `LAYER/WEIGHT`."""

    container = "keras"

    def __init__(self, path: Path):
        with _faults_of(path), contextlib.ExitStack() as until_complete:
            self._h5 = until_complete.enter_context(_opened(path))
            self._layers: dict[str, dict[str, Any]] = {}
            for layer, name, dataset in _datasets(self._h5, path):
                weights = self._layers.setdefault(layer, {})
                if name is not None:
                    weights[name] = dataset
            until_complete.pop_all()
        entries = {
            f"{layer}/{name}": dataset
            for layer, weights in self._layers.items()
            for name, dataset in weights.items()
        }
        super().__init__(path, entries)

    def layers(self) -> dict[str, dict[str, np.ndarray]]:
        """Read everything; see `load_layers`."""
        return {
            layer: {name: self._read(name, dataset) for name, dataset in weights.items()}
            for layer, weights in self._layers.items()
        }

    def close(self) -> None:
        """Let go of the file. Arrays already read stay valid."""
        super().close()
        self._h5.close()

    def _shape(self, entry: Any) -> tuple[int, ...]:
        return entry.shape

    def _dtype(self, entry: Any) -> np.dtype:
        return entry.dtype

    def _read(self, name: str, entry: Any) -> np.ndarray:
        with _faults_of(self.path):
            return np.asarray(entry[()])


@contextlib.contextmanager
def _faults_of(path: Path) -> Iterator[None]:
    try:
        yield
    except CheckpointError:
        raise
    # What HDF5 finds damaged arrives as one of these, depending on where it is.
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, MemoryError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}. {DAMAGED}") from None


def _opened(path: Path) -> Any:
    """Open a file with libhdf5, once its checksum is verified if it has one."""
    import h5py

    if recognise(path) != "keras":
        raise CheckpointError(
            f"{path} is {describe(path)}. Expected an HDF5 file that save_weights wrote."
        )
    with readable(path), open(path, "rb") as file:
        size = file.seek(0, 2) - len(_TRAILER) - 4
        file.seek(max(0, size))
        trailer = file.read()
        if trailer[:-4] == _TRAILER and _checksum(file, size).to_bytes(4, "little") != trailer[-4:]:
            raise CheckpointError(f"{path} does not have the checksum it ends with. {DAMAGED}")
    return h5py.File(path, "r")


def _datasets(h5: Any, path: Path) -> Iterator[tuple[str, str | None, Any]]:
    """Yield layer, name and dataset of all weights; of a layer without weights, None for both."""
    import h5py

    root = _root(h5, path)
    limit = h5.id.get_filesize()
    layers = _read_names(root, "layer_names")
    if len(set(layers)) < len(layers):
        raise ValueError("a layer occurs twice")
    for layer in layers:
        names = _read_names(root[layer], "weight_names")
        if len(set(names)) < len(names):
            raise ValueError(f"a weight of {layer} occurs twice")
        if not names:
            yield layer, None, None
        for name in names:
            dataset = root[layer][name]
            if not isinstance(dataset, h5py.Dataset):
                raise ValueError(f"{layer}/{name} is not one array")
            # Deflate shrinks data to a thousandth at most: do not allocate more than can be there.
            if dataset.nbytes > limit * (1032 if dataset.compression else 1):
                raise ValueError(f"{layer}/{name} of shape {dataset.shape} exceeds the file")
            if dataset.dtype.kind not in "biufc":
                raise ValueError(f"{layer}/{name} is of type {dataset.dtype}, not numbers")
            yield layer, name, dataset


def _root(h5: Any, path: Path) -> Any:
    """Return the group that has the layers: the file, or a part of it in a whole model."""
    if "layer_names" in h5.attrs or "layer_names0" in h5.attrs:
        return h5
    if "layers" in h5 or "_layer_checkpoint_dependencies" in h5:
        raise CheckpointError(
            f"{path} is a weight file of Keras 3 (.weights.h5), which names layers by class "
            "and order. Load it into the model that wrote it with keras.Model.load_weights"
            "(model, path), then save that model's weights with this library."
        )
    if "model_weights" not in h5:
        raise CheckpointError(
            f"{path} is an HDF5 file without layer_names; it has {sorted(h5)[:10]}. "
            "Expected a file that save_weights wrote."
        )
    return h5["model_weights"]


def _read_names(group, attribute: str) -> list[str]:
    """Read a list of names; Keras 2 cuts one of more than 64 KiB into `layer_names0`, ..."""
    if attribute in group.attrs:
        pieces = [attribute]
    else:
        numbered = (f"{attribute}{i}" for i in itertools.count())
        pieces = list(itertools.takewhile(group.attrs.__contains__, numbered))
        if not pieces:
            raise ValueError(f"{group.name} has no {attribute}")
    names = [name for piece in pieces for name in group.attrs[piece]]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]
