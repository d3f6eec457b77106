"""Files that were made to hurt: to take time or memory, or to show what lies in other files.

`CASES` has, by container and what is wrong, functions that write such a file into a folder and
return the path that is then opened. `fuzz.py` opens them in a process of its own.
"""

import io
import itertools
import json
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import google_crc32c
import h5py
import numpy as np

from bert4keras.checkpoints import bundle, save_layers, write_checkpoint, write_safetensors

CASES: dict[str, Callable[[Path], Path]] = {}


def case(function: Callable[[Path], Path]) -> Callable[[Path], Path]:
    CASES[function.__name__.replace("_", " ")] = function
    return function


def cases(name: str, table: dict[str, Callable[[Path], Path]]) -> None:
    CASES.update({f"{name} {what}": function for what, function in table.items()})


VALID: dict[str, Callable[[Path], object]] = {
    "tensorflow": lambda path: write_checkpoint(path, {"x": np.ones(3)}),
    "safetensors": lambda path: write_safetensors(path, {"x": np.ones(3)}),
    "weights": lambda path: save_layers(path, {"a": {"x": np.ones(3)}}),
    "torch": lambda path: state_file(path),
    "x.npz": lambda path: np.savez_compressed(path, x=np.ones(3)),
}


def state_file(path: Path) -> None:
    folder = Path(tempfile.mkdtemp(dir=path.parent))
    archive(state(TENSOR % (STORAGE, b"K\x02\x85")))(folder).rename(path)


# === TensorFlow ===

SHARD = ".data-00000-of-00001"
HEADER = (b"", bundle._to_field(1, 1))


def record(shape: Iterable[int], offset: int = 0, size: int = 0, code: int = 1, extra=b"") -> bytes:
    field = bundle._to_field
    dims = b"".join(field(2, field(1, n)) for n in shape)
    return field(1, code) + field(2, dims) + field(4, offset) + field(5, size) + extra


def index(folder: Path, blocks: list[bytes], handles: list[int] | None = None) -> Path:
    """Write an index of these blocks, each named once or as the numbers in `handles` say."""
    out, places = bytearray(), []

    def append(block: bytes) -> bytes:
        handle = bundle._to_varint(len(out)) + bundle._to_varint(len(block) - 1)
        out.extend(block + bundle._masked(google_crc32c.value(block)).to_bytes(4, "little"))
        return handle

    places = [append(block) for block in blocks]
    named = places if handles is None else [places[i] for i in handles]
    listed = bundle._to_block(((b"%08d" % i, h) for i, h in enumerate(named)), interval=1)
    footer = append(bundle._to_block([]) + b"\0") + append(listed + b"\0")
    (folder / "m.index").write_bytes(bytes(out) + footer.ljust(40, b"\0") + bundle.MAGIC)
    return folder / "m"


def table(folder: Path, items: list[tuple[bytes, bytes]], data: bytes = b"") -> Path:
    (folder / ("m" + SHARD)).write_bytes(data)
    return index(folder, [bundle._to_block(items) + b"\0"])


@case
def tensorflow_names_that_grow(folder: Path) -> Path:
    """Each name is the one before and a few hundred bytes: gigabytes out of megabytes."""
    out, shared = bytearray(), 0
    for _ in range(5000):
        out += bundle._to_varint(shared) + bundle._to_varint(300) + bundle._to_varint(0)
        out += b"x" * 300
        shared += 300
    block = bytes(out) + struct.pack("<II", 0, 1)
    return index(folder, [bundle._to_block([HEADER]) + b"\0", block + b"\0"])


@case
def tensorflow_one_block_named_often(folder: Path) -> Path:
    block = bundle._to_block((b"%08d" % i, b"") for i in range(1000))
    return index(folder, [block + b"\0"], [0] * 60_000)


@case
def tensorflow_blocks_that_unpack(folder: Path) -> Path:
    import cramjam

    block = bundle._to_block((b"%09d" % i + bytes(900), b"") for i in range(5000))
    packed = bytes(cramjam.snappy.compress_raw(block)) + b"\1"
    return index(folder, [packed] * 30)


@case
def tensorflow_too_many_variables(folder: Path) -> Path:
    return table(folder, [HEADER, *((b"%08d" % i, record((), 4 * i, 4)) for i in range(1 << 16))])


@case
def tensorflow_slices_that_overlap(folder: Path) -> Path:
    return slices(folder, [(max(0, i - 1), 1) for i in range(20_000)])


def slices(folder: Path, boxes: list[tuple[int, int]]) -> Path:
    field = bundle._to_field
    keys = {bundle._slice_key("x", (box,)): record((1,), 4 * i, 4) for i, box in enumerate(boxes)}
    parts = b"".join(field(7, field(1, field(1, a) + field(2, n))) for a, n in boxes)
    whole = (b"x", record((len(boxes),), extra=parts))
    crc = b"\x35" + bundle._masked(google_crc32c.value(bytes(4))).to_bytes(4, "little")
    items = [HEADER, *((key, value + crc) for key, value in sorted(keys.items())), whole]
    return table(folder, items, bytes(4 * len(boxes)))


@case
def tensorflow_slices_along_every_axis(folder: Path) -> Path:
    field = bundle._to_field
    starts = list(itertools.product((0, 1), repeat=5))
    boxes = [tuple((start, 1) for start in place) for place in starts]
    keys = {bundle._slice_key("x", box): 4 * i for i, box in enumerate(boxes)}
    items = [HEADER, *((key, record((1,) * 5, at, 4)) for key, at in sorted(keys.items()))]
    parts = [b"".join(field(1, field(1, a) + field(2, n)) for a, n in box) for box in boxes]
    whole = record((2,) * 5, extra=b"".join(field(7, part) for part in parts))
    return table(folder, [*items, (b"x", whole)], bytes(128))


@case
def tensorflow_two_thousand_million_shards(folder: Path) -> Path:
    items = [(b"", bundle._to_field(1, (1 << 31) - 1)), (b"x", record((2,), size=8))]
    return table(folder, items, bytes(8))


@case
def tensorflow_millions_of_strings(folder: Path) -> Path:
    n = 5_000_000
    return table(folder, [HEADER, (b"x", record((n,), size=n + 4, code=7))], bytes(n + 4))


@case
def tensorflow_index_of_zeros(folder: Path) -> Path:
    with open(folder / "m.index", "wb") as file:
        file.truncate(1 << 36)
    return folder / "m"


def pipe_in_place_of(name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        write_checkpoint(folder / "m", {"x": np.ones(3)})
        write_safetensors(folder / "s.safetensors", {"x": np.ones(3), "y": np.ones(3)}, None, 24)
        save_layers(folder / "w", {"a": {"x": np.ones(3)}})
        (folder / name).unlink()
        os.mkfifo(folder / name)
        start = name.split(".")[0].split("-")[0]
        return folder / ("s.safetensors.index.json" if start == "s" else start)

    return write


cases(
    "a pipe in place of",
    {
        name: pipe_in_place_of(name)
        for name in (
            *("m.index", "m" + SHARD, "w"),
            *("s.safetensors.index.json", "s-00002-of-00002.safetensors"),
        )
    },
)


@case
def a_device_in_place_of_a_shard(folder: Path) -> Path:
    write_checkpoint(folder / "m", {"x": np.ones(3)})
    (folder / ("m" + SHARD)).unlink()
    (folder / ("m" + SHARD)).symlink_to("/dev/zero")
    return folder / "m"


# === safetensors ===


def safetensors_of(text: str | Callable[[], str], data=bytes(8)) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        raw = (text if isinstance(text, str) else text()).encode()
        (folder / "m").write_bytes(len(raw).to_bytes(8, "little") + raw + data)
        return folder / "m"

    return write


def entry(dtype="F32", shape=(2,), start=0, end=8) -> str:
    return json.dumps({"dtype": dtype, "shape": shape, "data_offsets": [start, end]})


def listed(item: str, count: int) -> Callable[[], str]:
    return lambda: "{" + ",".join(f'"{i}":{item}' for i in range(count)) + "}"


cases(
    "safetensors",
    {
        "names twice": safetensors_of(f'{{"x":{entry()},"x":{entry("F64", (1,))}}}'),
        "keys twice": safetensors_of(f'{{"x":{entry()[:-1]},"dtype":"I32"}}}}'),
        "many empty tensors": safetensors_of(listed(entry(shape=(0,), end=0), 300_000), b""),
        "fewer empty tensors": safetensors_of(listed(entry(shape=(0,), end=0), 100_000)),
        "nested": safetensors_of('{"x":' * 50_000),
        "of digits": safetensors_of('{"x":' + "9" * 1_000_000 + "}"),
        "NaN": safetensors_of('{"x":NaN}'),
        "true in a shape": safetensors_of(f'{{"x":{entry(shape=(True, 2))}}}'),
        "true as a place": safetensors_of(f'{{"x":{entry("U8", (1,), False, True)}}}', bytes(1)),
        "metadata of numbers": safetensors_of(f'{{"x":{entry()},"__metadata__":{{"a":1}}}}'),
        "a header of spaces": safetensors_of(lambda: "{" + " " * 20_000_000 + "}"),
        "empty objects": safetensors_of(listed("{}", 100_000)),
    },
)

# === PyTorch ===


def archive(data: bytes, storage: bytes = bytes(8)) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        with zipfile.ZipFile(folder / "m", "w") as file:
            file.writestr("archive/data.pkl", data)
            file.writestr("archive/data/0", storage)
        return folder / "m"

    return write


STORAGE = b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x02tQ"
HALVES = STORAGE.replace(b"Float", b"Half").replace(b"K\x02", b"K\x04")
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n(%bK\x00%bK\x01\x85\x89}tR"
TENSOR_V3 = b"ctorch._utils\n_rebuild_tensor_v3\n(%bK\x00K\x02\x85K\x01\x85\x89Nctorch\n%b\ntR"
NEW_DICT = b"ccollections\nOrderedDict\n"


def state(tensor: bytes) -> bytes:
    return b"\x80\x02}U\x01x" + tensor + b"s."


def framed(size: int, content: bytes) -> bytes:
    return b"\x80\x04\x95" + size.to_bytes(8, "little") + content


cases(
    "torch",
    {
        "dicts of a growing list": archive(
            b"]q\x01" + (b"h\x01K\x01N\x86a" + NEW_DICT + b"h\x01\x85R") * 100_000 + b"."
        ),
        "dicts of one list": archive(
            b"]q\x01(" + b"K\x01N\x86" * 50_000 + b"e" + NEW_DICT + b"q\x02"
            b"h\x02h\x01\x85R" * 20_000 + b"."
        ),
        "sizes of one list": archive(
            b"]q\x01(" + b"K\x01" * 100_000 + b"ectorch\nSize\nq\x02" + b"h\x02h\x01\x85R" * 100_000
        ),
        "storages described at length": archive(
            b"(" + b"K\x00" * 100_000 + b"tq\x01" + b"h\x01Q" * 100_000
        ),
        "tensors of a long shape": archive(
            b"(" + b"K\x01" * 100_000 + b"tq\x01" + STORAGE + b"q\x02ctorch._utils\n"
            b"_rebuild_tensor_v2\nq\x03" + b"h\x03(h\x02K\x00h\x01h\x01\x89NtR" * 20_000
        ),
        "a type in place of a storage": archive(
            state(TENSOR % (STORAGE.replace(b"FloatStorage", b"float16"), b"K\x02\x85"))
        ),
        "a storage of two types": archive(state(b"(" + STORAGE + HALVES + b"t")),
        "another type than its storage": archive(state(TENSOR_V3 % (STORAGE, b"float16"))),
        "a storage in place of a type": archive(state(TENSOR_V3 % (STORAGE, b"FloatStorage"))),
        "true in a shape": archive(state(TENSOR % (STORAGE, b"\x88\x85"))),
        "true as a count": archive(
            state(TENSOR % (STORAGE.replace(b"K\x02", b"\x88"), b"K\x01\x85"))
        ),
        "a frame in a frame": archive(framed(20, b"\x95" + bytes(8) + b"}.")),
        "a frame without end": archive(framed(1 << 63, b"}.")),
        "a value across a frame": archive(framed(3, b"}X\x01\x00\x00\x00a}s.")),
        "a frame inside of a value": archive(b"\x80\x04}X\x95\x00\x00\x00" + b"a" * 8 + b"}s."),
        "a long number as key": archive(
            b"}\x8b\x00\x00\x10\x00" + b"\x01" * (1 << 20) + b"q\x01Ns" + b"h\x01Ns" * 200_000
        ),
        "many instructions": archive(b"N" * (8 << 20)),
        "many marks": archive(b"(" * (8 << 20)),
        "a tower of tuples": archive(b"N" + b"\x85" * 500_000 + b"."),
        "a long name": archive(
            state(STORAGE.replace(b"U\x010", b"X\x00\x00\x10\x00" + b"a" * (1 << 20)))
        ),
    },
)

# === HDF5 ===


def hdf5_of(change: Callable[[h5py.File, Path], None]) -> Callable[[Path], Path]:
    """Write a file of one layer `a` with one weight `b`, after somebody changed it."""

    def write(folder: Path) -> Path:
        with h5py.File(folder / "other.h5", "w") as other:  # what must not be read
            other["b"] = np.full(3, 7.0)
            other.create_group("a")["b"] = np.full(3, 7.0)
            other["a"].attrs["weight_names"] = [b"b"]
        (folder / "secret").write_bytes(np.full(3, 7.0).tobytes())
        with h5py.File(folder / "m", "w") as file:
            file.attrs["layer_names"] = [b"a"]
            file.create_group("a").attrs["weight_names"] = [b"b"]
            change(file, folder)
        return folder / "m"

    return write


def linked(place: str, link: Callable[[Path], object]) -> Callable[[Path], Path]:
    def change(file: h5py.File, folder: Path) -> None:
        if place == "a":
            del file["a"]
        file[place] = link(folder)

    return hdf5_of(change)


def dataset(**options) -> Callable[[Path], Path]:
    return hdf5_of(lambda file, _: file["a"].create_dataset("b", **options))


def virtual(file: h5py.File, folder: Path) -> None:
    layout = h5py.VirtualLayout((3,), "f8")
    layout[:] = h5py.VirtualSource(folder / "other.h5", "b", (3,))
    file["a"].create_virtual_dataset("b", layout)


def outside(file: h5py.File, folder: Path) -> None:
    file["a"].create_dataset("b", (3,), "f8", external=[(folder / "secret", 0, 24)])


def one_array_often(file: h5py.File, folder: Path) -> None:
    names = [f"b{i}" for i in range(2000)]
    file["a"].create_dataset("b0", data=np.zeros(1_000_000, "f4"), compression="gzip")
    for name in names[1:]:
        file["a"][name] = file["a"]["b0"]
    file["a"].attrs["weight_names"] = np.array(names, "S5")


def one_place_often(file: h5py.File, folder: Path) -> None:
    """Groups that are the same group: their arrays are the same arrays."""
    file["a"]["b"] = np.zeros(1000)
    names = [f"a{i}" for i in range(2000)]
    for name in names:
        file[name] = file["a"]
    file.attrs["layer_names"] = np.array(names, "S5")


def in_a_circle(file: h5py.File, folder: Path) -> None:
    file["a/a"] = file["a"]
    file["a"].attrs["weight_names"] = [b"a/" * 1000 + b"b"]


def many_names(file: h5py.File, folder: Path) -> None:
    del file.attrs["layer_names"]
    for i in range(20):
        file.attrs.create(f"layer_names{i}", np.arange(60_000).astype("S1"))


def one_name_of_megabytes(file: h5py.File, folder: Path) -> None:
    file["a"].attrs["weight_names"] = [b"b" * 60_000]


def names_that_are_lists(file: h5py.File, folder: Path) -> None:
    kind = h5py.vlen_dtype(np.dtype("u1"))
    names = np.empty(1, object)
    names[0] = np.array([98], "u1")
    file["a"].attrs.create("weight_names", names, dtype=kind)
    file["a"]["b"] = np.zeros(3)


def heap(change: Callable[[bytearray, int], None]) -> Callable[[Path], Path]:
    """Damage the heap that names of variable size lie in, of which none is a name of a weight."""

    def write(folder: Path) -> Path:
        path = dataset(data=np.zeros(3))(folder)
        content = bytearray(path.read_bytes())
        change(content, content.index(b"GCOL"))
        path.write_bytes(content)
        return path

    return write


def resized(place: int, size: int) -> Callable[[bytearray, int], None]:
    def change(content: bytearray, start: int) -> None:
        content[start + place : start + place + 8] = size.to_bytes(8, "little")

    return change


def one_chunk_missing(file: h5py.File, folder: Path) -> None:
    array = file["a"].create_dataset("b", (100,), "f8", chunks=(10,))
    array[:90] = 1


cases(
    "hdf5",
    {
        "a link to another file, for a layer": linked(
            "a", lambda folder: h5py.ExternalLink(folder / "other.h5", "/a")
        ),
        "a link to another file, for a weight": linked(
            "a/b", lambda folder: h5py.ExternalLink(folder / "other.h5", "/b")
        ),
        "a link to itself": linked("a/b", lambda folder: h5py.SoftLink("/a/b")),
        "a link to a group": linked("a/b", lambda folder: h5py.SoftLink("/a")),
        "values in another file": hdf5_of(outside),
        "a view of another file": hdf5_of(virtual),
        "one array often": hdf5_of(one_array_often),
        "one group often": hdf5_of(one_place_often),
        "groups in a circle": hdf5_of(in_a_circle),
        "names without end": hdf5_of(many_names),
        "a long name": hdf5_of(one_name_of_megabytes),
        "names that are lists": hdf5_of(names_that_are_lists),
        "a heap that goes back": heap(resized(24, (1 << 64) - 24)),
        "a heap without end": heap(resized(8, 1 << 62)),
        "a heap of huge names": heap(resized(24, 1 << 40)),
        "a fill value for all": dataset(shape=(3,), dtype="f8", fillvalue=7.0),
        "a fill value for all pieces": dataset(shape=(100,), dtype="f8", chunks=(10,)),
        "a fill value for one piece": hdf5_of(one_chunk_missing),
        "unpacking": dataset(data=np.zeros(20_000_000, "f4"), compression="gzip"),
        "pieces larger than the array": dataset(
            data=np.zeros(4, "f4"), chunks=(1 << 24,), maxshape=(None,), compression="gzip"
        ),
        "packed by a library": dataset(data=np.zeros(1000), compression="lzf"),
        "of objects": dataset(data=np.zeros(3, [("x", "f4"), ("y", "i4")])),
        "of texts": dataset(data=np.array([b"a", b"bc"], object), dtype=h5py.string_dtype()),
        "of nothing": dataset(data=h5py.Empty("f4")),
    },
)

# === Zip archives of numpy ===


def npy(n: int) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "|u1", "fortran_order": False, "shape": (n,)}
    )
    return stream.getvalue()


@case
def npz_unpacking(folder: Path) -> Path:
    with (
        zipfile.ZipFile(folder / "m", "w", zipfile.ZIP_DEFLATED) as file,
        file.open("x.npy", "w") as member,
    ):
        member.write(npy(100 << 20))
        for _ in range(100):
            member.write(bytes(1 << 20))
    return folder / "m"


@case
def npz_one_array_often(folder: Path) -> Path:
    """A member that many entries of the directory name: each would unpack it."""
    n = 1_000_000
    packed = zlib.compressobj(9, zlib.DEFLATED, -15)
    content = npy(n) + bytes(n)
    data = packed.compress(content) + packed.flush()
    sizes = struct.pack("<III", zlib.crc32(content), len(data), len(content))
    local = b"PK\3\4" + struct.pack("<HHHHH", 20, 0, 8, 0, 33) + sizes
    local += struct.pack("<HH", 5, 0) + b"x.npy"
    central = b"".join(
        b"PK\1\2" + struct.pack("<HHHHHH", 20, 20, 0, 8, 0, 33) + sizes
        + struct.pack("<HHHHHII", 5, 0, 0, 0, 0, 0, 0) + b"x.npy"
        for _ in range(5000)
    )  # fmt: skip
    end = struct.pack("<HHHHIIH", 0, 0, 5000, 5000, len(central), len(local + data), 0)
    (folder / "m").write_bytes(local + data + central + b"PK\5\6" + end)
    return folder / "m"


@case
def npz_many_members(folder: Path) -> Path:
    array = npy(0)
    with zipfile.ZipFile(folder / "m", "w") as file:
        for i in range(40_000):
            file.writestr(f"{i}.npy", array)
    return folder / "m"


# === JSON beside the weights ===

TEXTS = {
    "large": '{"weight_map":{' + '"12345678901234567890":"m.safetensors",' * 500_000,
    "empty lists": '{"weight_map":[' + "[]," * 4_000_000 + "[]]}",
    "nested": '{"weight_map":' + "[" * 100_000 + "]" * 100_000 + "}",
    "digits": '{"weight_map":{"x":' + "9" * 100_000 + "}}",
    "names twice": '{"weight_map":{"x":"m.safetensors","x":"m.safetensors"}}',
}


def index_of(text: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        write_safetensors(folder / "m.safetensors", {"x": np.ones(2)})
        (folder / "m.index.json").write_text(text)
        return folder / "m.index.json"

    return write


cases("an index of shards:", {name: index_of(text) for name, text in TEXTS.items()})
