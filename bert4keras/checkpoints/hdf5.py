"""Weight files keyed by layer name: HDF5 in the layout of Keras 2.

libhdf5, which reads them, may hang or crash on a damaged file. The files of this library therefore
end with a checksum of all bytes before it, which is verified before libhdf5 reads any of them;
libhdf5 ignores bytes after the end of file in its header. Files by Keras 2 have no checksum.
Whatever a file contains, no other file is read, and no missing data.
"""

import contextlib
import itertools
import math
import mmap
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, BinaryIO, Self

import google_crc32c
import numpy as np

from bert4keras.checkpoints.base import (
    DAMAGED,
    Checkpoint,
    CheckpointError,
    Damage,
    check_unpacked,
    open_regular,
    readable,
)
from bert4keras.checkpoints.recognise import describe, recognise, similar
from bert4keras.checkpoints.writing import replacing_file

_CHUNK = 1 << 24  # bytes that are written, and added to the checksum, at a time
_TRAILER = b"b4k-crc32c:"  # followed by the checksum, 4 bytes


def save_layers(path: str | Path, layers: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Write weights keyed by layer name to an HDF5 file in the layout of Keras 2.

    Root attributes `layer_names`, `backend`, `keras_version`; for each layer a group with the
    attribute `weight_names` and a dataset for each weight; a checksum at the end. An older file is
    replaced only when the new one is complete.

    Args:
        path: the file to write, with any suffix; its folder must exist.
        layers: for each layer its weights by name, in order. Numbers and bools only.

    Raises:
        CheckpointError: the folder is missing, or a name or type cannot be written.
    """
    import h5py

    with replacing_file(path) as file:
        # File formats from 1.10 on have checksums of their structure and no limit on attributes.
        with (
            _Output(file) as output,
            h5py.File(output, "w", libver=("v110", "v110")) as h5,
        ):
            h5.attrs["layer_names"] = _to_names(layers)
            h5.attrs["backend"] = np.bytes_("tensorflow")  # the layout of kernels
            h5.attrs["keras_version"] = np.bytes_("2.3.1")  # the layout of the file
            for layer, weights in layers.items():
                _write_layer(h5.require_group(layer), layer, weights)
        crc = _checksum(file, file.seek(0, 2))
        file.write(_TRAILER + crc.to_bytes(4, "little"))


class _Output:
    """File that libhdf5 writes to; its errors are raised when the block ends.

    h5py ignores errors when it closes an array, whose values would then be missing silently.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        self._error: OSError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._error is not None:
            raise self._error

    def read(self, size: int = -1) -> bytes:
        """Read; h5py requires this method."""
        return self._file.read(size)

    def readinto(self, data: Any) -> int:
        """Read; after an error, do nothing."""
        return self._do("readinto", data, instead=len(data))

    def write(self, data: Any) -> int:
        """Write; after an error, do nothing."""
        return self._do("write", data, instead=len(data))

    def seek(self, offset: int, whence: int = 0) -> int:
        """Seek, which may first write buffered bytes."""
        return self._do("seek", offset, whence, instead=offset)

    def tell(self) -> int:
        """Return the position."""
        return self._do("tell", instead=0)

    def truncate(self, size: int) -> int:
        """Truncate or extend the file."""
        return self._do("truncate", size, instead=size)

    def flush(self) -> None:
        """Flush the write buffer."""
        self._do("flush")

    def _do(self, name: str, *arguments: Any, instead: Any = None) -> Any:
        if self._error is None:
            try:
                return getattr(self._file, name)(*arguments)
            except OSError as error:
                self._error = error
        return instead


def _checksum(file: BinaryIO, size: int) -> int:
    """Return the checksum of the first `size` bytes, and leave the position after them."""
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
    # Fixed-size strings are stored in the attribute; strings of variable size are stored in a heap
    # without checksums.
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
        # Only chunks have checksums: a scalar is stored in the header, which has one.
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
    """An open weight file keyed by layer; its variables are named `LAYER/WEIGHT`."""

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
        """Read all weights, for `load_layers`."""
        return {
            layer: {name: self._read(name, dataset) for name, dataset in weights.items()}
            for layer, weights in self._layers.items()
        }

    def shapes(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """Return the shapes of the weights of each layer with weights, in the order of the file."""
        return {
            layer: {name: dataset.shape for name, dataset in weights.items()}
            for layer, weights in self._layers.items()
            if weights
        }

    def close(self) -> None:
        """Release the file. Arrays that have been read remain valid."""
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
    # Damage that HDF5 finds is raised as one of these, depending on where it is.
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, MemoryError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}. {DAMAGED}") from None
    except Damage as damage:
        raise CheckpointError(f"{path} cannot be read: {damage}. {damage.advice}") from None


def _opened(path: Path) -> Any:
    """Open a file with libhdf5, after verifying its checksum if it has one."""
    import h5py

    if recognise(path) != "keras":
        raise CheckpointError(
            f"{path} is {describe(path)}. Expected an HDF5 file written by save_weights."
        )
    with readable(path), open_regular(path) as file:
        size = file.seek(0, 2) - len(_TRAILER) - 4
        file.seek(max(0, size))
        trailer = file.read()
        if trailer[:-4] == _TRAILER and _checksum(file, size).to_bytes(4, "little") != trailer[-4:]:
            raise CheckpointError(f"{path} does not match the checksum at its end. {DAMAGED}")
    return h5py.File(path, "r")


def _datasets(h5: Any, path: Path) -> Iterator[tuple[str, str | None, Any]]:
    """Yield layer, name and dataset of all weights, with None for a layer without weights."""
    import h5py

    root = _root(h5, path)
    size = h5.id.get_filesize()
    sizes = {"plain": 0, "packed": 0}
    addresses: set[int] = set()
    check_heaps = cache(partial(_check_heaps, path))
    layers = _read_names(root, "layer_names", check_heaps)
    if len(set(layers)) < len(layers):
        raise ValueError("a layer occurs twice")
    for layer in layers:
        group = _member(root, layer, h5py.Group)
        names = _read_names(group, "weight_names", check_heaps)
        if len(set(names)) < len(names):
            raise ValueError(f"a weight of {layer} occurs twice")
        if not names:
            yield layer, None, None
        for name in names:
            dataset = _member(group, name, h5py.Dataset)
            sizes[_packing(dataset, f"{layer}/{name}")] += dataset.nbytes
            address = h5py.h5o.get_info(dataset.id).addr
            if address in addresses:
                raise ValueError(f"{layer}/{name} is the array of another weight")
            addresses.add(address)
            if sizes["plain"] > size:
                raise ValueError(f"{layer}/{name} of shape {dataset.shape} exceeds the file")
            check_unpacked(sizes["packed"], size)
            yield layer, name, dataset


def _member(group: Any, name: str, kind: type) -> Any:
    """Resolve a name in a group, through members of this file alone.

    A link could lead to another file on the machine, or form a cycle.
    """
    import h5py

    for part in filter(None, name.split("/")):
        if not isinstance(group, h5py.Group):
            raise ValueError(f"{part!r} is within an array")
        if not isinstance(group.get(part, getlink=True), h5py.HardLink):
            raise ValueError(f"{part!r} is a link, or is missing")
        group = group[part]
    if not isinstance(group, kind):
        raise ValueError(f"{name} is not a {kind.__name__.lower()}")
    return group


def _packing(dataset: Any, name: str) -> str:
    """Check that all values of an array are in the file; return "plain" or "packed"."""
    import h5py

    layout = dataset.id.get_create_plist()
    kind, stored = layout.get_layout(), dataset.id.get_storage_size()
    if layout.get_external_count() or kind == h5py.h5d.VIRTUAL:
        raise ValueError(f"{name} is stored in other files")
    if dataset.shape is None or dataset.dtype.kind not in "biufc":
        raise ValueError(f"{name} has the type {dataset.dtype}, not numbers")
    filters = {layout.get_filter(i)[0] for i in range(layout.get_nfilters())}
    if not filters <= _FILTERS:
        raise ValueError(f"{name} is packed by the filters {sorted(filters)}")
    if kind == h5py.h5d.CHUNKED:
        pieces = [-(-n // step) for n, step in zip(dataset.shape, dataset.chunks, strict=True)]
        complete = dataset.id.get_num_chunks() == math.prod(pieces)
        if math.prod(dataset.chunks) * dataset.dtype.itemsize > dataset.nbytes + _CHUNK:
            raise ValueError(f"{name} has chunks that are larger than itself")
    else:
        complete = stored >= dataset.nbytes
    if dataset.size and not complete:
        raise ValueError(f"{name} of shape {dataset.shape} exceeds the file: values are missing")
    return "packed" if filters & {h5py.h5z.FILTER_DEFLATE} else "plain"


_FILTERS = {1, 2, 3}  # deflate, shuffle, checksum; others may be libraries that HDF5 would load


def _root(h5: Any, path: Path) -> Any:
    """Return the group of the layers: the file, or a group of it in a whole model."""
    import h5py

    if "layer_names" in h5.attrs or "layer_names0" in h5.attrs:
        return h5
    if "layers" in h5 or "_layer_checkpoint_dependencies" in h5:
        raise CheckpointError(
            f"{path} is a weight file of Keras 3 (.weights.h5), which names layers by class "
            "and order. Load it into the model that saved it with keras.Model.load_weights"
            "(model, path), then save the weights of that model with this library."
        )
    if "model_weights" not in h5:
        raise CheckpointError(
            f"{path} is an HDF5 file without layer_names; it has {list(itertools.islice(h5, 10))}. "
            "Expected a file written by save_weights."
        )
    return _member(h5, "model_weights", h5py.Group)


_HEAP = re.compile(re.escape(b"GCOL\1\0\0\0"))


def _check_heaps(path: Path) -> None:
    """Check the heaps of strings of variable size, in which libhdf5 may loop forever.

    https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html, "Global Heap": a signature,
    the size of the heap in 8 bytes, and objects, each with its index in 2 bytes (0 for free space),
    6 more bytes, its size in 8 bytes and its content, padded to a multiple of 8.
    """
    with open_regular(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for heap in _HEAP.finditer(data):
            at, end = heap.start() + 16, heap.start() + _number(data, heap.start() + 8)
            while at + 16 <= end <= len(data):
                size = _number(data, at + 8)
                if data[at : at + 2] != b"\0\0":
                    size += 16 + -size % 8
                at = at + size if size >= 16 else end + 1
            if not 0 <= end - at < 16:
                raise ValueError(f"its heap at byte {heap.start()} is damaged")


def _number(data: mmap.mmap, at: int) -> int:
    return int.from_bytes(data[at : at + 8], "little")


_MAX_NAMES = 1 << 16
_MAX_NAME = 1000
_MAX_NAME_BYTES = 8 << 20


def _read_names(group: Any, attribute: str, check_heaps: Callable[[], None]) -> list[str]:
    """Read a list of names; Keras 2 splits one of more than 64 KiB into `layer_names0`, ..."""
    import h5py

    if attribute in group.attrs:
        pieces = [attribute]
    else:
        numbered = (f"{attribute}{i}" for i in itertools.count())
        pieces = list(itertools.takewhile(group.attrs.__contains__, numbered))
        if not pieces:
            raise ValueError(f"{group.name} has no {attribute}")
    names: list[Any] = []
    size = 0
    for piece in pieces:
        described = group.attrs.get_id(piece)
        count = math.prod(described.shape)
        size += count * described.dtype.itemsize
        if len(names) + count > _MAX_NAMES or size > _MAX_NAME_BYTES:
            raise ValueError(f"{group.name} has more than {_MAX_NAMES} names in {attribute}")
        kind = h5py.check_string_dtype(described.dtype)
        if count and kind is None:
            raise ValueError(f"{attribute} of {group.name} have the type {described.dtype}")
        if count and kind.length is None:
            check_heaps()
        names += list(group.attrs[piece])
    texts = [name.decode() if isinstance(name, bytes) else str(name) for name in names]
    if any(len(text) > _MAX_NAME for text in texts):
        raise ValueError(f"{group.name} has a name of more than {_MAX_NAME} characters")
    return texts
