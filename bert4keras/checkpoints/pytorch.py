"""Reading of files of `torch.save` without PyTorch.

Two formats are in use. Since PyTorch 1.6 a file is a zip archive with a pickle, `NAME/data.pkl`,
whose persistent ids refer to the members `NAME/data/0`, ...; before, it was a sequence of pickles,
followed by the bytes of all storages. Both are described in torch/serialization.py. The archive has
checksums, the older format has none.
"""

from pathlib import Path
from typing import Any

from bert4keras.checkpoints import unpickle, zips
from bert4keras.checkpoints.base import Damage, undamaged
from bert4keras.checkpoints.tensors import DTYPES, ByteRange, MappedFile, Tensor, TensorFile
from bert4keras.checkpoints.unpickle import Storage

_MAGIC = 0x1950A86A20F9469CFC6C  # the older format begins with a pickle of this number
MAGIC = _MAGIC.to_bytes(10, "little")  # among the first bytes, after opcodes of the pickle
_MAX_KEY = 200  # characters; PyTorch numbers its storages
_VERSION = 1001  # of the older format, in its second pickle


def open_pytorch(path: Path) -> TensorFile:
    """Open a file written by `torch.save`.

    Args:
        path: a file with a state dict, or with a dict that has one under "state_dict" or "model".

    Raises:
        CheckpointError: the file is damaged, has other content, or refers to forbidden functions.
    """
    with undamaged(path, "a readable PyTorch file"):
        return TensorFile(path, "torch", _read_archive(path))


def open_legacy(path: Path) -> TensorFile:
    """Open a file written by `torch.save` before PyTorch 1.6, like :func:`open_pytorch`."""
    with undamaged(path, "a readable PyTorch file of the format before 1.6"):
        return TensorFile(path, "torch", _read_row(path))


def _tensors(value: Any) -> dict[str, Tensor]:
    """Extract the tensors from the value of a pickle."""
    for key in ("state_dict", "model"):  # as saved by training scripts, with their optimizer
        if isinstance(value, dict) and isinstance(value.get(key), dict):
            value = value[key]
    if isinstance(value, dict):
        found = {n: v for n, v in value.items() if isinstance(n, str) and isinstance(v, Tensor)}
        if found or not value:
            return found
    raise Damage(
        f"it contains a {type(value).__name__} without named tensors",
        "Expected a file written by torch.save(model.state_dict(), path).",
    )


def _described(persistent_id: tuple) -> tuple[str | None, str, int]:
    """Return type, key and size in bytes of a storage from its persistent id."""
    match persistent_id:
        case ("storage", kind, str(key), _, int(count), *view) if not any(view):
            dtype = unpickle.storage_type(kind)
            if count >> 62 == 0 and type(count) is int and len(key) < _MAX_KEY:
                return dtype, key, count * _width(dtype)
    raise Damage("its pickle refers to something other than a storage")


def _check_type(types: dict[str, str | None], key: str, dtype: str | None) -> None:
    """Check that all references of a pickle to a storage have the same type."""
    if types.setdefault(key, dtype) != dtype:
        raise Damage(f"storage {key} has both the type {types[key]} and {dtype}")


def _width(dtype: str | None) -> int:
    """Return the size in bytes of an element of a storage, 1 for a storage without a type."""
    return DTYPES[dtype].itemsize if dtype in DTYPES else {"qint32": 4}.get(dtype, 1)


# === The zip archive ===


def _read_archive(path: Path) -> dict[str, Tensor]:
    members = zips.members(path)
    pickles = [name for name in members if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise Damage(f"the archive has {len(pickles)} members data.pkl instead of one")
    start = pickles[0].removesuffix("data.pkl")

    def member(name: str) -> ByteRange:
        if start + name not in members:
            raise Damage(f"the archive has no member {start}{name}")
        stretch = members[start + name]
        if stretch.packed is not None:
            raise Damage(f"its member {start}{name} is compressed, which PyTorch never does")
        return stretch

    types: dict[str, str | None] = {}

    def find_storage(persistent_id: tuple) -> Storage:
        dtype, key, size = _described(persistent_id)
        source = member(f"data/{key}")
        if source.size != size:
            raise Damage(f"storage {key} has {source.size} bytes instead of {size}")
        _check_type(types, key, dtype)
        return Storage(dtype, source)

    if start + "byteorder" in members and member("byteorder").beginning(9) != b"little":
        raise Damage("it was written on a big-endian machine, which is not supported")
    data = member("data.pkl")
    if data.size > unpickle.MAX_SIZE:
        raise Damage(f"its pickle of {data.size} bytes is larger than {unpickle.MAX_SIZE}")
    value, _ = unpickle.unpickle(data.read().tobytes(), find_storage)
    return _tensors(value)


# === The older format ===


def _read_row(path: Path) -> dict[str, Tensor]:
    file = MappedFile(path)
    at = 0
    storages: dict[str, ByteRange] = {}
    types: dict[str, str | None] = {}

    def find_storage(persistent_id: tuple) -> Storage:
        dtype, key, size = _described(persistent_id)
        # Its position is known only after all pickles are read.
        stretch = storages.setdefault(key, ByteRange(file, 0, size))
        if stretch.size != size:
            raise Damage(f"storage {key} has both {stretch.size} and {size} bytes")
        _check_type(types, key, dtype)
        return Storage(dtype, stretch)

    def next_pickle() -> Any:
        nonlocal at
        window = file.read(at, min(unpickle.MAX_SIZE, file.size - at)).tobytes()
        value, size = unpickle.unpickle(window, find_storage)
        at += size
        return value

    magic, version, system, value, keys = (next_pickle() for _ in range(5))
    little = isinstance(system, dict) and system.get("little_endian")
    if (magic, version) != (_MAGIC, _VERSION) or not little:
        raise Damage(f"it does not have version {_VERSION}, or is not from a little-endian machine")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise Damage("it has no list of storages")
    if sorted(keys) != sorted(storages):
        raise Damage("its list of storages is not that of its tensors")
    for key in keys:  # the number of elements in 8 bytes, then the elements
        stretch = storages[key]
        count = int.from_bytes(file.read(at, 8).tobytes(), "little")
        stretch.start = at + 8
        at = stretch.start + stretch.size
        if count * _width(types[key]) != stretch.size or at > file.size:
            raise Damage(f"storage {key} has {count} elements, or exceeds the file")
    return _tensors(value)
