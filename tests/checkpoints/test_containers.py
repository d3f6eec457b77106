"""Weight files other than those of TensorFlow, against the libraries that own their formats."""

import json
import os
import pickle
import struct
import tracemalloc
import zipfile
import zlib

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from bert4keras.checkpoints import (
    Checkpoint,
    CheckpointError,
    find_files,
    list_variables,
    load_variable,
    open_checkpoint,
    save_layers,
    tensors,
    unpickle,
    write_checkpoint,
    write_safetensors,
)
from bert4keras.checkpoints.safetensors import CHECKSUMS


def some_variables() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        "bert.embeddings.weight": random.normal(size=(60, 8)).astype(np.float32),
        "名字": random.normal(size=(3, 2)).astype(np.float16),
        "scalar": np.array(2.5, np.float64),
        "empty": np.zeros((0, 7), np.float32),
        "flags": np.array([True, False, True]),
        "ids": np.arange(5),
        "bytes": np.arange(3, dtype=np.uint8),
    }


def assert_same(checkpoint: Checkpoint, variables) -> None:
    assert list(checkpoint) == sorted(variables)
    for name, value in variables.items():
        assert checkpoint.shape(name) == value.shape
        assert checkpoint.dtype(name) == value.dtype
        np.testing.assert_array_equal(checkpoint[name], value, strict=True, err_msg=name)
        assert checkpoint[name].flags.aligned
        assert not checkpoint[name].flags.writeable


def write(container: str, path, variables) -> None:
    if container == "tensorflow":
        write_checkpoint(path, variables)
    elif container == "safetensors":
        write_safetensors(path, variables)
    elif container == "npz":
        with open(path, "wb") as file:
            np.savez(file, **variables)
    elif container == "keras":
        save_layers(path, {"layer": variables})
    else:
        torch = pytest.importorskip("torch")
        state = {name: torch.from_numpy(value.copy()) for name, value in variables.items()}
        torch.save(state, path, _use_new_zipfile_serialization=container == "torch")


CONTAINERS = ("tensorflow", "safetensors", "torch", "torch before 1.6", "npz", "keras")


@pytest.mark.parametrize("container", CONTAINERS)
def test_one_interface_whatever_the_name(tmp_path, container):
    path = tmp_path / "weights.xyz"  # the suffix says nothing
    write(container, path, some_variables())
    expected = some_variables()
    if container == "keras":
        expected = {f"layer/{name}": value for name, value in expected.items()}
    with open_checkpoint(str(path)) as checkpoint:
        assert checkpoint.container == container.split()[0]
        assert checkpoint.path == path
        assert len(checkpoint) == len(expected) and "nothing" not in checkpoint
        assert_same(checkpoint, expected)
        array = checkpoint[next(iter(expected))]
        with pytest.raises(CheckpointError, match=r"no variable 'nothing' among its 7"):
            checkpoint["nothing"]
    np.testing.assert_array_equal(array, next(iter(expected.values())))  # outlives the file
    with pytest.raises(CheckpointError, match="was closed"):
        checkpoint[next(iter(expected))]
    assert list_variables(path) == [(name, expected[name].shape) for name in sorted(expected)]


@pytest.mark.parametrize("container", ["tensorflow", "safetensors", "torch"])
def test_values_are_views_of_the_file(tmp_path, container):
    write(container, tmp_path / "w", {"big": np.ones(1 << 20, np.float32)})
    tracemalloc.start()
    with open_checkpoint(tmp_path / "w") as checkpoint:
        assert checkpoint["big"].sum() == 1 << 20
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20  # a copy would take four times that


@pytest.mark.parametrize("container", ["tensorflow", "safetensors", "torch", "npz", "keras"])
def test_damage_is_found_where_the_format_has_checksums(tmp_path, container):
    values = np.random.default_rng(1).normal(size=100)
    write(container, tmp_path / "w", {"x": values})
    files = [p for p in tmp_path.iterdir() if values.tobytes() in p.read_bytes()]
    content = bytearray(files[0].read_bytes())
    content[content.index(values.tobytes()) + 50] ^= 1
    files[0].write_bytes(content)
    with pytest.raises(CheckpointError, match=r"checksum.*fetch it again"):
        load_variable(tmp_path / "w", "x" if container != "keras" else "layer/x")


# === Types that numpy lacks ===


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_every_value_of_small_types(dtype):
    bits = 16 if dtype == "bfloat16" else 8
    codes = np.arange(1 << bits, dtype=f"u{bits // 8}")
    expected = codes.view(getattr(ml_dtypes, dtype)).astype(np.float32)
    np.testing.assert_array_equal(tensors.decode(codes.view(np.uint8), dtype), expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("container", ["safetensors", "torch", "torch before 1.6"])
def test_small_types_are_read_as_float32(tmp_path, dtype, container):
    values = np.array([[1.5, -2.25], [0, 448]], getattr(ml_dtypes, dtype))
    if container == "safetensors":
        write_safetensors(tmp_path / "w", {"x": values})
    else:
        torch = pytest.importorskip("torch")
        value = torch.tensor(values.astype(np.float32)).to(getattr(torch, dtype))
        state = {"x": value, "y": torch.ones(2)}
        torch.save(state, tmp_path / "w", _use_new_zipfile_serialization=container == "torch")
    with open_checkpoint(tmp_path / "w") as checkpoint:
        assert checkpoint.dtype("x") == np.float32
        np.testing.assert_array_equal(checkpoint["x"], values.astype(np.float32), strict=True)


def test_types_that_cannot_be_read(tmp_path):
    torch = pytest.importorskip("torch")
    with pytest.warns(UserWarning, match="quantize"):
        quantized = torch.empty_quantized(
            [3], torch.quantize_per_tensor(torch.ones(3), 1, 0, torch.qint8)
        )
    torch.save({"x": quantized}, tmp_path / "w")
    with pytest.raises(CheckpointError, match=r"_rebuild_qtensor.*forbidden"):
        open_checkpoint(tmp_path / "w")


# === safetensors ===


def test_safetensors_are_those_of_the_library(tmp_path):
    variables = some_variables()
    write_safetensors(tmp_path / "ours", variables)
    found = safetensors.numpy.load_file(tmp_path / "ours")
    assert found.keys() == variables.keys()
    for name, value in variables.items():
        np.testing.assert_array_equal(found[name], value, strict=True)
    with safetensors.safe_open(tmp_path / "ours", framework="numpy") as file:
        metadata = file.metadata()
    assert metadata["format"] == "pt"
    # Given our metadata, the library writes the same bytes: order, alignment and header agree.
    one = {"format": metadata[CHECKSUMS]}
    safetensors.numpy.save_file(variables, tmp_path / "theirs", metadata=one)
    key = f'"{CHECKSUMS}":"{metadata[CHECKSUMS]}"'.encode()
    ours, theirs = header_of(tmp_path / "ours"), header_of(tmp_path / "theirs")
    assert ours[0].replace(b'"format":"pt",' + key, b'"format":"' + key[-57:-1] + b'"') == theirs[0]
    assert ours[1] == theirs[1]
    with open_checkpoint(tmp_path / "theirs") as checkpoint:
        assert_same(checkpoint, variables)


def header_of(path) -> tuple[bytes, bytes]:
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    return content[8 : 8 + size].rstrip(), content[8 + size :]


def test_the_same_variables_give_the_same_bytes(tmp_path):
    variables = some_variables()
    write_safetensors(tmp_path / "a", variables)
    write_safetensors(tmp_path / "b", dict(reversed(variables.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_safetensors_of_every_layout(tmp_path):
    square = np.arange(12, dtype=np.float32).reshape(3, 4)
    write_safetensors(tmp_path / "m", {"t": square.T, "big": square.astype(">f4"), "n": 3.0})
    np.testing.assert_array_equal(load_variable(tmp_path / "m", "t"), square.T)
    np.testing.assert_array_equal(load_variable(tmp_path / "m", "big"), square)
    write_safetensors(tmp_path / "none", {}, metadata={})
    assert list_variables(tmp_path / "none") == []


def test_shards(tmp_path):
    variables, path = some_variables(), tmp_path / "model.safetensors"
    write_safetensors(path, variables, shard_size=1000)
    shards = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    assert sorted(os.listdir(tmp_path)) == [*shards, "model.safetensors.index.json"]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": sum(v.nbytes for v in variables.values())}
    assert index["weight_map"].keys() == variables.keys()
    for name, file in index["weight_map"].items():
        assert name in safetensors.numpy.load_file(tmp_path / file)
    for meant in ("model.safetensors.index.json", shards[0], ""):  # one shard is no model
        with open_checkpoint(tmp_path / meant) as checkpoint:
            assert checkpoint.container == "safetensors"
            assert checkpoint.path == tmp_path / "model.safetensors.index.json"
            assert_same(checkpoint, variables)
    with pytest.raises(CheckpointError, match="was closed"):
        checkpoint["ids"]
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    write_safetensors(path, variables, shard_size=1000)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_nothing_of_a_former_model_stays(tmp_path):
    path = tmp_path / "model.safetensors"
    (tmp_path / "model-of-mine.bin").touch()
    for shard_size, files in ((1000, 4), (45, 5), (10**9, 1), (15, 6), (10**9, 1)):
        write_safetensors(path, some_variables(), shard_size=shard_size)
        with open_checkpoint(tmp_path) as checkpoint:
            assert_same(checkpoint, some_variables())
        assert len(os.listdir(tmp_path)) == files + 1, shard_size


def test_an_interrupted_write_changes_nothing(tmp_path):
    class Failing(dict):
        asked = 0

        def __getitem__(self, name):
            self.asked += name == "b"
            if self.asked == 2:  # when its bytes are written
                raise KeyboardInterrupt
            return super().__getitem__(name)

    for size in (10**9, 10):
        write_safetensors(tmp_path / "m.safetensors", some_variables(), shard_size=100)
        before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
        with pytest.raises(KeyboardInterrupt):
            variables = Failing(a=np.ones(9), b=np.ones(9))
            write_safetensors(tmp_path / "m.safetensors", variables, shard_size=size)
        assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({3: np.zeros(1)}, "cannot be named 3"),
        ({"__metadata__": np.zeros(1)}, "cannot be named '__metadata__'"),
        ({"x": np.zeros(1, "c16")}, "'x' has the type complex128"),
        ({"x": np.array(["a"])}, "'x' has the type <U1"),
    ],
)
def test_what_safetensors_cannot_hold(tmp_path, variables, message):
    with pytest.raises(CheckpointError, match=message):
        write_safetensors(tmp_path / "m", variables)
    with pytest.raises(CheckpointError, match="metadata of a safetensors file must be strings"):
        write_safetensors(tmp_path / "m", {}, metadata={"epoch": 3})
    with pytest.raises(CheckpointError, match="no folder"):
        write_safetensors(tmp_path / "nowhere" / "m", {})
    assert not list(tmp_path.iterdir())


def safetensors_file(path, header, data: bytes = bytes(8)):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(start=0, end=8, dtype="F32", shape=(2,)):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    "header",
    [
        {"x": entry(end=12)},
        {"x": entry(start=4)},
        {"x": entry(shape=[3])},
        {"x": entry(shape=[-2])},
        {"x": entry(shape=[1 << 63, 2])},
        {"x": entry(0, 4, shape=[1]), "y": entry(0, 8)},
        {"x": entry(0, 4, shape=[1])},
        {"x": entry(dtype="F31")},
        {"x": entry() | {"data_offsets": [0.0, 8]}},
        {"x": entry(), "y": entry(8, 8, shape=[0, 1 << 62])},
        {"x": entry(), "__metadata__": {CHECKSUMS: "00"}},
        {"x": entry(), "__metadata__": {CHECKSUMS: "0000000x"}},
        {"x": entry(), "__metadata__": [1]},
        b'{"x": ' + b"[" * 100000,
        b'{"\xff": 1}',
        b"{}",
    ],
)
def test_a_header_that_lies(tmp_path, header):
    path = safetensors_file(tmp_path / "m", header)
    with pytest.raises(
        CheckpointError, match=r"not a readable safetensors file: .+ fetch it again"
    ):
        open_checkpoint(path)


def test_a_header_larger_than_the_file(tmp_path):
    (tmp_path / "m").write_bytes((90_000_000).to_bytes(8, "little") + b'{"x":')
    with pytest.raises(CheckpointError, match="safetensors"):
        open_checkpoint(tmp_path / "m")
    (tmp_path / "m").write_bytes((1 << 62).to_bytes(8, "little") + b'{"x":')
    with pytest.raises(CheckpointError, match="unknown format"):
        open_checkpoint(tmp_path / "m")


def test_an_unknown_type_concerns_its_variable_only(tmp_path):
    header = {"x": entry(dtype="F8_E8M0", shape=[8]), "y": entry(8, 12, shape=[1])}
    with open_checkpoint(safetensors_file(tmp_path / "m", header, bytes(12))) as checkpoint:
        assert checkpoint["y"] == 0 and checkpoint.shape("x") == (8,)
        with pytest.raises(
            CheckpointError, match=r"'x' .* has the type F8_E8M0.*can be read: float16"
        ):
            checkpoint["x"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"x": "../a.safetensors"}, "names of files next to it"),
        ({"x": "/etc/passwd"}, "names of files next to it"),
        ({"x": ["a"]}, "names of files next to it"),
        (["x"], "names of files next to it"),
        ({"x": "a" * 256}, "names of files next to it"),
        ({"x": "\ud800"}, "names of files next to it"),
        ({"x": "字" * 255}, "cannot be read: File name too long"),
        ({"x": ".."}, "is missing"),
        (
            {"x": "b.safetensors"},
            r"b\.safetensors is missing, but model.*refers to it.*there: a\.safe",
        ),
        (
            {"x": "a.safetensors", "z": "a.safetensors"},
            r"a\.safetensors contains 'z', but it does not",
        ),
        ({"x": "model.safetensors.index.json"}, "is the index of several weight files"),
    ],
)
def test_an_index_that_does_not_fit_its_shards(tmp_path, table, message):
    write_safetensors(tmp_path / "a.safetensors", {"x": np.zeros(2)})
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": table}))
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(index)


# === PyTorch ===


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.mark.parametrize("archive", [True, False])
def test_what_torch_saves(tmp_path, torch, archive):
    square = torch.arange(12.0).reshape(3, 4)
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    state = module.state_dict()  # an OrderedDict with an attribute
    state["transposed"] = square.T
    state["slice"] = square[1:, ::2]
    state["tied"] = state["0.weight"]
    state["parameter"] = torch.nn.Parameter(torch.ones(2))
    state["one of many"] = torch.ones(1).expand(1, 1)
    state["extra"] = {"version": 3, "size": torch.Size([2])}
    expected = {name: v.detach().numpy() for name, v in state.items() if name != "extra"}

    def check(value, **kwargs):
        torch.save(value, tmp_path / "w", _use_new_zipfile_serialization=archive, **kwargs)
        with open_checkpoint(tmp_path / "w") as checkpoint:
            assert_same(checkpoint, expected)

    check(state)
    check(dict(state))
    check({"state_dict": state, "epoch": 3, "lr": 0.1, "optimizer": {"step": torch.ones(1)}})
    check({"model": state, "args": ["a", (1, None)], "done": True, "big": 1 << 70})
    check(state, pickle_protocol=4)


def test_shards_of_torch(tmp_path, torch):
    torch.save({"a": torch.ones(2)}, tmp_path / "pytorch_model-00001-of-00002.bin")
    torch.save({"b": torch.zeros(3)}, tmp_path / "pytorch_model-00002-of-00002.bin")
    table = {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": table}))
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.container == "torch"
        assert_same(checkpoint, {"a": np.ones(2, np.float32), "b": np.zeros(3, np.float32)})


def test_a_whole_module_is_refused(tmp_path, torch):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "w")
    with pytest.raises(CheckpointError, match=r"torch\.nn\.modules\.linear\.Linear.*state_dict"):
        open_checkpoint(tmp_path / "w")
    torch.save([torch.ones(2)], tmp_path / "w")
    with pytest.raises(CheckpointError, match=r"contains a list without named tensors"):
        open_checkpoint(tmp_path / "w")


class Calls:
    """What its pickle asks to be called when it is read."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


def archive_of(path, data: bytes, storages=(), method=zipfile.ZIP_STORED, **members: bytes):
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("archive/data.pkl", data)
        for i, storage in enumerate(storages):
            archive.writestr(f"archive/data/{i}", storage)
        for name, content in members.items():
            archive.writestr(f"archive/{name}", content)
    return path


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("function", "argument"),
    [(os.system, "mkdir {}"), (os.mkdir, "{}"), (exec, "import os; os.mkdir('{}')")],
)
def test_no_code_is_run(tmp_path, protocol, function, argument):
    marker = tmp_path / "marker"
    call = Calls(function, argument.format(marker))
    for value in (call, {"x": call}, {"state_dict": [(call, 1)]}, Calls(dict, call)):
        data = pickle.dumps(value, protocol)
        for path in (
            archive_of(tmp_path / "w.pt", data),
            legacy_of(tmp_path / "w.bin", data),
        ):
            with pytest.raises(CheckpointError):
                open_checkpoint(path)
            assert not marker.exists()
    pickle.loads(pickle.dumps(call, protocol))
    assert marker.exists()  # so the pickle does what it is refused for


def legacy_of(path, data: bytes, system=None, keys=(), rest: bytes = b"", version=1001):
    system = {"little_endian": True} if system is None else system
    parts = [0x1950A86A20F9469CFC6C, version, system, data, list(keys)]
    pickles = [p if isinstance(p, bytes) else pickle.dumps(p, 2) for p in parts]
    path.write_bytes(b"".join(pickles) + rest)
    return path


def test_the_forbidden_function_is_named(tmp_path):
    data = b"\x80\x02cposix\nsystem\nX\x04\0\0\0true\x85R."
    with pytest.raises(CheckpointError, match=r"posix\.system.*forbidden.*If you trust the file"):
        open_checkpoint(archive_of(tmp_path / "w", data))


def storage(kind=b"ctorch\nFloatStorage\n", key=b"U\x010", count=b"K\x02"):
    return b"(U\x07storage" + kind + key + b"U\x03cpu" + count + b"tQ"


def tensor(source=None, offset=b"K\0", shape=b"K\x02\x85", strides=b"K\1\x85"):
    source = storage() if source is None else source
    inner = b"(" + source + offset + shape + strides + b"\x89)t"
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + inner + b"R"


HUGE = b"\x8a\x09" + (1 << 70).to_bytes(9, "little")


def value(body: bytes) -> bytes:
    return b"\x80\x02}U\x01x" + body + b"s."


def test_a_pickle_written_by_hand(tmp_path):
    path = archive_of(tmp_path / "w", value(tensor()), [np.float32([3, 4]).tobytes()])
    assert load_variable(path, "x").tolist() == [3, 4]
    # One that is told a hundred times takes the memory of one.
    many = b"".join(b"X\x04\0\0\0%04dh\x01" % i for i in range(100))
    data = b"\x80\x02}(U\x01x" + tensor() + b"q\x01" + many + b"u."
    path = archive_of(tmp_path / "w", data, [np.float32([3, 4]).tobytes()])
    assert len(list_variables(path)) == 101


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "ends before 1 bytes"),
        (b".", "from an empty stack"),
        (b"}", "ends before"),
        (b"h\x05.", "recalls value 5"),
        (b"t.", "mark that it has not set"),
        (b"\x8d" + b"\xff" * 8 + b".", "ends before"),  # a string of 2**64 bytes
        (b"\x8b\xff\xff\xff\x7f.", "ends before"),  # a number of 2**31 bytes
        (b"Ir\xff\xff\xff\xff.", "opcode 'I'"),
        (b"X\x01\0\0\0\xff.", "not UTF-8"),
        (b"c" + b"a" * 2000 + b"\nb\n.", "name without an end"),
        (b"cbuiltins\neval\n.", r"builtins\.eval, which"),
        (b"\x8c\x05torch\x8c\x04load\x93.", r"torch\.load, which"),
        (b"}}\x93.", "has a dict in the wrong place"),
        (b"ccollections\nOrderedDict\n}R.", "has a dict in the wrong place"),
        (b"ccollections\nOrderedDict\nK\1K\2K\3\x87R.", "calls a function with 3 arguments"),
        (b"ccollections\nOrderedDict\n]]K\1aaR.", "has a list in the wrong place"),
        (b"ctorch\nSize\n(K\1tK\1\x86R.", "calls a function with 2 arguments"),
        (b"K\1}b.", "has a int in the wrong place"),
        (b"}(K\1u.", "key without a value"),
        (b"}]K\1s.", "has a list in the wrong place"),
        (b"}K\1.", "contains a int without named tensors"),
        (b"}q\1(h\1h\1h\1u.", "key without a value"),
        (b" " * (9 << 20), "larger than 8388608"),
        (value(storage(key=b"U\x017")), "no member archive/data/7"),
        (value(storage(key=b"K\1")), "something other than a storage"),
        (value(storage(count=b"J\xff\xff\xff\xff")), "something other than a storage"),
        (value(storage(count=HUGE)), "something other than a storage"),
        (value(storage(count=b"K\3")), "has 8 bytes instead of 12"),
        (value(storage(kind=b"ctorch\nfloat64\n")), "has a Dtype in the wrong place"),
        (value(storage(kind=b"ctorch\nDoubleStorage\n")), "has 8 bytes instead of 16"),
        (value(storage(kind=b"U\x01a")), "has a str in the wrong place"),
        (value(b"K\1\x85Q"), "something other than a storage"),
        (value(b"K\1Q"), "has a int in the wrong place"),
        (value(tensor(source=b"}")), "has a dict in the wrong place"),
        (value(tensor(offset=b"K\1")), "is not within its 8 bytes"),
        (value(tensor(offset=b"J\xff\xff\xff\xff")), "impossible offset"),
        (value(tensor(shape=b"K\3\x85")), "is not within its 8 bytes"),
        (value(tensor(shape=HUGE + b"\x85")), "impossible offset, shape"),
        (value(tensor(shape=b"J\0\0\0\x7fJ\0\0\0\x7f\x86", strides=b"K\0K\0\x86")), "impossible"),
        (value(tensor(shape=b"J\0\0\0\x7f\x85", strides=b"K\0\x85")), "is not within"),
        (value(tensor(strides=b"K\2\x85")), "is not within its 8 bytes"),
        (value(tensor(strides=b"J\xff\xff\xff\xff\x85")), "impossible offset, shape or strides"),
        (value(tensor(strides=b"K\1K\1\x86")), "1 axes has impossible"),
        (value(tensor(shape=b"U\1a\x85")), "has a str in the wrong place"),
    ],
)
def test_a_pickle_that_lies(tmp_path, data, message):
    path = archive_of(tmp_path / "w", data, [bytes(8)])
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(path)
    assert tracemalloc.get_traced_memory()[1] < 2e8
    tracemalloc.stop()
    assert str(caught.value).startswith(f"{path} is not a readable PyTorch file")


@pytest.mark.parametrize("data", [b"(", b"}", b"(]", b"h\1"])
def test_work_and_memory_are_bounded(tmp_path, monkeypatch, data):
    monkeypatch.setattr(unpickle, "_MAX_STEPS", 1 << 12)
    path = archive_of(tmp_path / "w", b"}q\1" + data * (1 << 16))
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="more than 4096 instructions"):
        open_checkpoint(path)
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


def test_nested_tuples_are_not_hashed(tmp_path):
    """The hash of a tuple of itself, forty deep, would take 2**40 steps."""
    nested = b"".join(b"q%ch%c\x86" % (i, i) for i in range(1, 40))
    for data in (
        b"}K\1" + nested + b"K\1s.",
        b"ccollections\nOrderedDict\n](K\1" + nested + b"K\1ta\x85R.",
    ):
        with pytest.raises(CheckpointError, match="in the wrong place"):
            open_checkpoint(archive_of(tmp_path / "w", data))


def test_an_archive_that_lies(tmp_path):
    data, content = value(tensor()), [bytes(8)]

    def refused(message):
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(tmp_path / "w")

    archive_of(tmp_path / "w", data, content, byteorder=b"big")
    refused("big-endian")
    archive_of(tmp_path / "w", data, content, method=zipfile.ZIP_DEFLATED)
    refused("compressed, which PyTorch never does")
    archive_of(tmp_path / "w", data, content, **{"other/data.pkl": b""})
    refused("2 members data.pkl")
    with pytest.warns(UserWarning, match="Duplicate"):
        archive_of(tmp_path / "w", data, content, **{"data/0": b""})
    refused("two members are named 'archive/data/0'")
    archive_of(tmp_path / "w", data, [zlib.compress(bytes(100))], method=zipfile.ZIP_LZMA)
    refused("compressed by method 14")


def test_the_older_format_that_lies(tmp_path):
    path, data = tmp_path / "w", value(tensor())
    content = struct.pack("<q2f", 2, 3.0, 4.0)

    def refused(message, **kwargs):
        arguments = {"data": data, "keys": ["0"], "rest": content} | kwargs
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(legacy_of(path, **arguments))

    legacy_of(path, data, keys=["0"], rest=content)
    assert load_variable(path, "x").tolist() == [3, 4]
    refused("little-endian", system={"little_endian": False})
    refused("little-endian", system=[])
    refused("not have version 1001", version=1000)
    refused("no list of storages", keys=[("0",)])
    refused("not that of its tensors", keys=[])
    refused("not that of its tensors", keys=["0", "0"])
    refused("has 3 elements", rest=struct.pack("<q3f", 3, 3.0, 4.0, 5.0))
    refused("exceeds the file", rest=content[:-1])
    refused("are not in the", rest=b"")
    refused(
        "has both 8 and 12 bytes",
        data=value(storage() + storage(count=b"K\3") + b"\x86"),
    )


# === numpy ===


def test_npz_that_is_compressed_or_in_fortran_order(tmp_path):
    variables = {
        "a/b": np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
        "zeros": np.zeros(9999),
    }
    np.savez_compressed(tmp_path / "w.npz", **variables)
    assert (tmp_path / "w.npz").stat().st_size < 2000
    with open_checkpoint(tmp_path / "w.npz") as checkpoint:
        assert_same(checkpoint, variables)
    np.savez(tmp_path / "w.npz", **variables)
    with open_checkpoint(tmp_path / "w.npz") as checkpoint:
        assert_same(checkpoint, variables)


def npz_of(path, content: bytes, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("x.npy", content)
    return path


def npy(header: str, data: bytes = bytes(8), version=1) -> bytes:
    text = header.encode()
    size = len(text).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + size + text + data


@pytest.mark.parametrize("version", [1, 2])
def test_npy_versions(tmp_path, version):
    header = "{'descr': '<i4', 'fortran_order': False, 'shape': (2,), }   \n"
    path = npz_of(tmp_path / "w", npy(header, np.int32([3, 4]).tobytes(), version))
    assert load_variable(path, "x").tolist() == [3, 4]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"),
            r"has '\|O'.*runs code",
        ),
        (npy("{'descr': '>f4', 'fortran_order': False, 'shape': (2,), }"), "has '>f4'"),
        (npy("{'descr': '<U2', 'fortran_order': False, 'shape': (1,), }"), "has '<U2'"),
        (npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': ()}"), "something else"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (9,), }"), "instead of"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }"), "instead of"),
        (
            npy("{'descr': '<f4', 'fortran_order': True, 'shape': (%s,), }" % ("9" * 18)),
            "instead of",
        ),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (%s,), }" % ("9" * 99)), "else"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-2,), }"), "something else"),
        (npy("__import__('os').system('true')"), "something else"),
        (npy("(" * 9000), "something else"),
        (npy("", b"", version=3), "begins with 934e554d50590300"),
        (b"\x93NUMPY\x01\0\xff\xff{}", "header of 65545 bytes"),
        (b"\x93NUMPY\x02\0\xff\xff\xff\xff{}", "header of"),
        (b"", "begins with  instead"),
    ],
)
def test_an_array_that_lies(tmp_path, content, message):
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(npz_of(tmp_path / "w", content, method))


@pytest.mark.parametrize(
    ("shape", "there", "message"),
    [
        (4_000_000_000, 100_000, "are said to unpack to 4000000"),
        (50_000, 100_000, "does not inflate to the expected"),
        (100_001, 100_000, "does not inflate to the expected"),
    ],
)
def test_a_compressed_array_that_lies(tmp_path, shape, there, message):
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (%d,), }"
    content = npy(header % shape, bytes(there))
    npz_of(tmp_path / "w", content, zipfile.ZIP_DEFLATED)
    sizes = [struct.pack("<I", len(content) + n - there) for n in (there, shape)]
    (tmp_path / "w").write_bytes((tmp_path / "w").read_bytes().replace(*sizes))
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=message):
        load_variable(tmp_path / "w", "x")
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


def test_a_directory_that_hides_members(tmp_path):
    """The size of a comment covers the entries behind it: `zipfile` says nothing."""
    np.savez(tmp_path / "w.npz", a=np.ones(2), b=np.ones(3), c=np.ones(4))
    content = bytearray((tmp_path / "w.npz").read_bytes())
    entry = content.index(b"PK\1\2")
    for member in "ab":
        hidden = len(content) - 22 - content.index(b"PK\1\2", entry + 1)
        content[entry + 32 : entry + 34] = hidden.to_bytes(2, "little")
        (tmp_path / "w.npz").write_bytes(content)
        with zipfile.ZipFile(tmp_path / "w.npz") as archive:
            assert archive.namelist()[-1] == f"{member}.npy"
        with pytest.raises(CheckpointError, match="belong to no member"):
            open_checkpoint(tmp_path / "w.npz")
        content[entry + 32 : entry + 34] = b"\0\0"
        entry = content.index(b"PK\1\2", entry + 1)


def test_objects_are_never_unpickled(tmp_path):
    marker = tmp_path / "marker"
    call = Calls(os.system, f"touch {marker}")
    np.savez(tmp_path / "w.npz", x=np.array([call], object))
    with pytest.raises(CheckpointError, match="runs code"):
        load_variable(tmp_path / "w.npz", "x")
    assert not marker.exists()


# === Weight files of this library ===


def test_weight_files_end_with_a_checksum(tmp_path):
    import h5py

    save_layers(tmp_path / "w", {"a": {"x": np.ones(3)}, "b": {}})
    content = (tmp_path / "w").read_bytes()
    assert content[-15:-4] == b"b4k-crc32c:"
    with h5py.File(tmp_path / "w") as h5:  # other readers do not mind
        assert h5["a/x"][:].tolist() == [1, 1, 1]
    (tmp_path / "w").write_bytes(content[:-15])  # as without it, in files by Keras 2
    assert load_variable(tmp_path / "w", "a/x").tolist() == [1, 1, 1]
    for at in (9, 500, len(content) - 1):
        damaged = bytearray(content)
        damaged[at] ^= 1
        (tmp_path / "w").write_bytes(damaged)
        with pytest.raises(CheckpointError, match="does not match the checksum at its end"):
            open_checkpoint(tmp_path / "w")


def test_layers_that_lie_in_one_another(tmp_path):
    save_layers(tmp_path / "w", {"a/b": {"c": np.ones(1)}, "a": {"d": np.zeros(2)}})
    assert [name for name, _ in list_variables(tmp_path / "w")] == ["a/b/c", "a/d"]
    with pytest.raises(CheckpointError, match=r"weight 'c' of layer 'a/b'"):
        save_layers(tmp_path / "w", {"a": {"b/c": np.ones(1)}, "a/b": {"c": np.ones(1)}})


# === Folders ===


def test_the_container_that_is_taken_from_a_folder(tmp_path):
    variables = {"x": np.zeros(1)}
    order = [
        ("npz", "w.npz"),
        ("keras", "best_model.weights"),
        ("torch", "best.pt"),
        ("tensorflow", "bert_model.ckpt"),
        ("torch", "pytorch_model.bin"),
        ("safetensors", "other.safetensors"),
        ("safetensors", "model.safetensors"),
    ]
    for name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state_0.pth"):
        (tmp_path / name).write_bytes(b"no weights")
    for container, name in order:
        write(container, tmp_path / name, variables)
        assert find_files(tmp_path, need=["checkpoint"]).checkpoint == tmp_path / name
        with open_checkpoint(tmp_path) as checkpoint:
            assert checkpoint.container == container
    write_safetensors(tmp_path / "third.safetensors", variables)
    assert find_files(tmp_path, need=["checkpoint"]).checkpoint.name == "model.safetensors"
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"2 files.*other\.safetensors, third\.safetensors"):
        find_files(tmp_path, need=["checkpoint"])


def test_the_folder_of_a_sentence_transformer(tmp_path):
    names = ["config_sentence_transformers.json", "sentence_bert_config.json", "vocab.txt"]
    for name in [*names, "config.json", "tokenizer_config.json"]:
        (tmp_path / name).write_text("{}")
    write_safetensors(tmp_path / "model.safetensors", some_variables(), shard_size=100)
    files = find_files(tmp_path)
    assert files.config.name == "config.json"
    assert files.checkpoint.name == "model.safetensors.index.json"
    assert find_files(files.checkpoint) == files
    shard = next(tmp_path.glob("model-00001-of-*.safetensors"))
    assert find_files(shard) == files


def test_vocabularies_of_sentencepiece(tmp_path):
    (tmp_path / "spiece.model").touch()
    found = find_files(tmp_path, need=["vocabulary"])
    assert found.vocabulary == tmp_path / "spiece.model"
    assert find_files(tmp_path / "spiece.model", need=["vocabulary"]) == found
    (tmp_path / "vocab.txt").touch()
    assert find_files(tmp_path, need=["vocabulary"]).vocabulary.name == "vocab.txt"
