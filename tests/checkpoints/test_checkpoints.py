import json
import os
import shutil
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import cramjam
import google_crc32c
import h5py
import numpy as np
import pytest

from bert4keras.checkpoints import (
    CheckpointError,
    Files,
    find_files,
    hdf5,
    list_variables,
    load_layers,
    load_variable,
    match_variables,
    open_checkpoint,
    save_layers,
    write_checkpoint,
)
from bert4keras.checkpoints import bundle as bundles
from bert4keras.models import registry

DATA = ".data-00000-of-00001"


def some_variables() -> dict[str, np.ndarray]:
    """Every type that numpy and checkpoints share, with shapes and names that are easy to miss."""
    random = np.random.default_rng(0)
    variables = {
        f"types/{dtype}": random.integers(0, 100, (3, 5)).astype(dtype)
        for dtype in bundles._CODES
        if dtype not in ("bool", "bfloat16")
    }
    variables["types/bool"] = np.array([True, False, True])  # what follows lies at odd addresses
    variables["types/string"] = np.array([[b"\0a\0", "汉字".encode()], [b"", b"x" * 300]], object)
    variables["scalar"] = np.array(2.5, np.float32)
    variables["empty"] = np.zeros((0, 7), np.float32)
    variables["empty/strings"] = np.array([], object)
    variables["名字/嵌入"] = random.normal(size=(4, 3)).astype(np.float32)
    variables["\xff\xfe"] = np.arange(5)
    variables["bert/embeddings/word_embeddings"] = random.normal(size=(60, 8)).astype(np.float32)
    return variables


def assert_same(bundle, variables) -> None:
    assert list(bundle) == sorted(variables)
    for name, value in variables.items():
        read = bundle[name]
        assert (read.dtype, read.shape) == (value.dtype, value.shape), name
        np.testing.assert_array_equal(read, value, err_msg=name)


def save_with_tensorflow(prefix, names, tensors, slices=None) -> None:
    import tensorflow as tf

    slices = slices or [""] * len(names)
    tensors = [tf.constant(tensor) for tensor in tensors]
    tf.raw_ops.SaveV2(
        prefix=str(prefix), tensor_names=names, shape_and_slices=slices, tensors=tensors
    )


@pytest.fixture
def small(tmp_path) -> Path:
    """The prefix of a checkpoint with some_variables()."""
    write_checkpoint(tmp_path / "model.ckpt", some_variables())
    return tmp_path / "model.ckpt"


# === Reading and writing ===


def test_round_trip(small):
    with open_checkpoint(small) as bundle:
        assert_same(bundle, some_variables())
        assert len(bundle) == len(some_variables())
        assert "scalar" in bundle and "nothing" not in bundle
        assert bundle.shape("empty") == (0, 7)
        assert bundle.dtype("types/int16") == np.int16
        assert bundle.dtype("types/string").kind == "O"


def test_tensorflow_reads_what_is_written(small):
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(small))
    shapes = reader.get_variable_to_shape_map()
    variables = some_variables()
    assert {name: tuple(shape) for name, shape in shapes.items()} == {
        name: value.shape for name, value in variables.items()
    }
    for name, value in variables.items():
        np.testing.assert_array_equal(reader.get_tensor(name), value, err_msg=name)


def test_files_are_those_of_tensorflow(small, tmp_path):
    variables = some_variables()
    del variables["empty/strings"]  # numpy has no empty array that TensorFlow takes for strings
    names = sorted(variables)
    write_checkpoint(small, variables)
    save_with_tensorflow(tmp_path / "tf.ckpt", names, [variables[name] for name in names])
    ours, theirs = small.with_name("model.ckpt" + DATA), tmp_path / ("tf.ckpt" + DATA)
    assert ours.read_bytes() == theirs.read_bytes()
    # The records too: types, shapes, places, checksums of every variable.
    tables = [
        list(bundles._table_items(Path(f"{p}.index").read_bytes()))
        for p in (small, tmp_path / "tf.ckpt")
    ]
    assert tables[0] == tables[1]
    with open_checkpoint(tmp_path / "tf.ckpt") as bundle:
        assert_same(bundle, variables)


def test_bfloat16_is_read_as_float32(tmp_path):
    import ml_dtypes

    values = np.array([1.5, -2.25, np.inf, 3e38], ml_dtypes.bfloat16)
    save_with_tensorflow(tmp_path / "tf.ckpt", ["b"], [values])
    write_checkpoint(tmp_path / "ours.ckpt", {"b": values})
    for prefix in ("tf.ckpt", "ours.ckpt"):
        with open_checkpoint(tmp_path / prefix) as bundle:
            assert bundle.dtype("b") == bundle["b"].dtype == np.float32
            np.testing.assert_array_equal(bundle["b"], values.astype(np.float32))
    files = [(tmp_path / (p + DATA)).read_bytes() for p in ("tf.ckpt", "ours.ckpt")]
    assert files[0] == files[1]


def test_partitioned_variables(tmp_path):
    table = np.arange(60, dtype=np.float32).reshape(10, 6)
    wide = np.arange(1200, dtype=np.int64).reshape(4, 300)
    deep = np.arange(40000, dtype=np.int32).reshape(20000, 2)
    pieces = [
        ("a\0b/table", "10 6 0,4:-", table[:4]),  # a whole axis has a key of its own
        ("a\0b/table", "10 6 4,3:-", table[4:7]),
        ("a\0b/table", "10 6 7,3:-", table[7:]),
        ("deep", "20000 2 0,9000:0,2", deep[:9000]),  # numbers of 1, 2 and 3 bytes
        ("deep", "20000 2 9000,11000:0,2", deep[9000:]),
        ("ÿ/wide", "4 300 0,4:0,100", wide[:, :100]),
        ("ÿ/wide", "4 300 0,4:100,200", wide[:, 100:]),
        ("words", "3 0,1", np.array([b"a"], object)),
        ("words", "3 1,2", np.array([b"bc", b""], object)),
        ("zero", "", np.float32(0)),
    ]
    names, slices, tensors = zip(*pieces, strict=True)
    save_with_tensorflow(tmp_path / "p.ckpt", list(names), list(tensors), list(slices))
    expected = {"a\0b/table": table, "deep": deep, "ÿ/wide": wide, "zero": np.float32(0)}
    expected["words"] = np.array([b"a", b"bc", b""], object)
    with open_checkpoint(tmp_path / "p.ckpt") as bundle:
        assert_same(bundle, expected)


def test_partitioned_by_the_saver_of_tensorflow_1(tmp_path):
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        v1.get_variable(
            "embeddings/table",
            shape=(11, 6),
            initializer=v1.random_normal_initializer(seed=1),
            partitioner=v1.fixed_size_partitioner(3),
            use_resource=False,
        )
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(tmp_path / "p.ckpt"), write_meta_graph=False)
        pieces = session.run(v1.global_variables())
    assert len(pieces) == 3
    # The state file that the Saver leaves is no second checkpoint.
    np.testing.assert_array_equal(load_variable(tmp_path, "embeddings/table"), np.vstack(pieces))


def test_several_data_files(tmp_path):
    import tensorflow as tf

    parts = [{"a": np.arange(3)}, {"b": np.ones((2, 2), np.float32), "c": np.int8(1)}]
    for i, part in enumerate(parts):
        save_with_tensorflow(tmp_path / f"part{i}", list(part), list(part.values()))
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=[str(tmp_path / f"part{i}") for i in range(2)],
        destination_prefix=str(tmp_path / "whole"),
    )
    with open_checkpoint(tmp_path / "whole") as bundle:
        assert_same(bundle, parts[0] | parts[1])
    (tmp_path / "whole.data-00001-of-00002").unlink()
    with open_checkpoint(tmp_path / "whole") as bundle:
        np.testing.assert_array_equal(bundle["a"], np.arange(3))
        with pytest.raises(CheckpointError, match=r"whole\.data-00001-of-00002 is missing"):
            bundle["b"]


def rebuilt_index(data: bytes, per_block: int, snappy: bool) -> bytes:
    """Write the records of an index again, as several blocks, plain or compressed."""
    items = list(bundles._table_items(data))
    out = bytearray()

    def append(block: bytes) -> bytes:
        handle = bundles._to_varint(len(out))
        block = bytes(cramjam.snappy.compress_raw(block)) + b"\1" if snappy else block + b"\0"
        out.extend(block + signed(block))
        return handle + bundles._to_varint(len(block) - 1)

    index = []
    for i in range(0, len(items), per_block):
        part = items[i : i + per_block]
        index.append((part[-1][0], append(bundles._to_block(part))))
    footer = append(bundles._to_block([])) + append(bundles._to_block(index, interval=1))
    return bytes(out) + footer.ljust(40, b"\0") + bundles.MAGIC


def signed(block: bytes) -> bytes:
    return bundles._masked(google_crc32c.value(block)).to_bytes(4, "little")


@pytest.mark.parametrize("snappy", [False, True])
def test_index_of_many_and_of_compressed_blocks(small, snappy):
    import tensorflow as tf

    index = Path(f"{small}.index")
    index.write_bytes(rebuilt_index(index.read_bytes(), per_block=4, snappy=snappy))
    with open_checkpoint(small) as bundle:
        assert_same(bundle, some_variables())
    # TensorFlow reads the same files, so this is the format and not merely our idea of it.
    assert len(tf.train.list_variables(str(small))) == len(some_variables())


def test_arrays_are_read_only_and_outlive_the_bundle(small):
    with open_checkpoint(small) as bundle:
        first = bundle["bert/embeddings/word_embeddings"]
        bundle["scalar"]  # gives back the memory of the one before, which must stay valid
    expected = some_variables()["bert/embeddings/word_embeddings"]
    np.testing.assert_array_equal(first, expected)
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 0
    with pytest.raises(CheckpointError, match="was closed"):
        bundle["scalar"]
    assert not first.flags.owndata  # a view of the file


def test_every_array_is_aligned(small):
    with open_checkpoint(small) as bundle:
        assert all(bundle[name].flags.aligned for name in bundle)


def test_paths_that_mean_a_checkpoint(small, tmp_path):
    expected = [(name, value.shape) for name, value in sorted(some_variables().items())]
    for path in (small, str(small), f"{small}.index", f"{small}{DATA}", tmp_path, str(tmp_path)):
        assert list_variables(path) == expected
    assert load_variable(tmp_path, "scalar") == 2.5


def test_the_state_file_chooses_among_several(small, tmp_path):
    write_checkpoint(tmp_path / "model.ckpt-9", {"other": np.zeros(2)})
    with pytest.raises(CheckpointError, match=r"2 files .*model\.ckpt, model\.ckpt-9"):
        open_checkpoint(tmp_path)
    state = 'model_checkpoint_path: "/elsewhere/model.ckpt-9"\n'
    (tmp_path / "checkpoint").write_text(state + 'all_model_checkpoint_paths: "model.ckpt"\n')
    assert list_variables(tmp_path) == [("other", (2,))]


def test_writing_leaves_a_state_file_alone(tmp_path):
    (tmp_path / "checkpoint").write_text("of somebody else")
    write_checkpoint(tmp_path / "a.ckpt", {"x": np.zeros(2)})
    assert (tmp_path / "checkpoint").read_text() == "of somebody else"
    names = ["a.ckpt.data-00000-of-00001", "a.ckpt.index", "checkpoint"]
    assert sorted(os.listdir(tmp_path)) == names


def test_an_interrupted_write_changes_nothing(small):
    class Failing(dict):
        def __getitem__(self, name):
            if name == "z":
                raise KeyboardInterrupt
            return super().__getitem__(name)

    before = {p.name: p.read_bytes() for p in small.parent.iterdir()}
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(small, Failing(a=np.ones(9), z=np.ones(9)))
    assert {p.name: p.read_bytes() for p in small.parent.iterdir()} == before


def test_an_empty_checkpoint(tmp_path):
    write_checkpoint(tmp_path / "none.ckpt", {})
    assert list_variables(tmp_path / "none.ckpt") == []


def test_not_contiguous_and_big_endian_arrays(tmp_path):
    square = np.arange(12, dtype=np.float32).reshape(3, 4)
    write_checkpoint(tmp_path / "m", {"t": square.T, "big": square.astype(">f4")})
    np.testing.assert_array_equal(load_variable(tmp_path / "m", "t"), square.T)
    np.testing.assert_array_equal(load_variable(tmp_path / "m", "big"), square)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"": np.zeros(1)}, "cannot be named ''"),
        ({"\0x": np.zeros(1)}, "cannot be named"),
        ({3: np.zeros(1)}, "cannot be named 3"),
        ({"x": np.zeros(1, "M8[s]")}, "'x' has the type datetime64"),
        ({"x": np.array([None, b""])}, "'x' has the type object"),
    ],
)
def test_what_cannot_be_written(tmp_path, variables, message):
    with pytest.raises(CheckpointError, match=message):
        write_checkpoint(tmp_path / "m.ckpt", variables)
    assert not list(tmp_path.iterdir())


def test_writing_into_no_folder(tmp_path):
    with pytest.raises(CheckpointError, match=r"no folder .*nowhere"):
        write_checkpoint(tmp_path / "nowhere" / "m.ckpt", {"x": np.zeros(1)})


# === Errors of reading ===


def read_all(prefix) -> dict[str, np.ndarray]:
    with open_checkpoint(prefix) as bundle:
        return {name: np.array(bundle[name]) for name in bundle}


def test_missing_files(small, tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint .*modle\.ckpt.*there: model\.ckpt"):
        open_checkpoint(tmp_path / "modle.ckpt")
    with pytest.raises(CheckpointError, match="does not exist"):
        open_checkpoint(tmp_path / "nowhere" / "model.ckpt")
    with pytest.raises(CheckpointError, match=r"no variable 'scaler'.*Similar names: scalar"):
        load_variable(small, "scaler")
    Path(f"{small}{DATA}").unlink()
    assert len(list_variables(small)) == len(some_variables())
    with pytest.raises(
        CheckpointError, match=r"data-00000-of-00001 is missing.*model\.ckpt\.index"
    ):
        load_variable(small, "scalar")
    Path(f"{small}.index").unlink()
    with pytest.raises(CheckpointError, match=r"has no weights \(TensorFlow's \*\.index"):
        open_checkpoint(tmp_path)


def test_truncated_files(small):
    data = Path(f"{small}{DATA}")
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"has \d+ bytes, but its index requires at least"):
        load_variable(small, "empty")
    index = Path(f"{small}.index")
    index.write_bytes(index.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="do not end with the signature"):
        open_checkpoint(small)
    index.write_bytes(b"")
    with pytest.raises(CheckpointError, match="0 bytes do not end with"):
        open_checkpoint(small)


def test_flipped_bits_are_named(small):
    data = Path(f"{small}{DATA}")
    content = bytearray(data.read_bytes())
    place = content.index(some_variables()["bert/embeddings/word_embeddings"].tobytes())
    content[place + 100] ^= 4
    data.write_bytes(content)
    with open_checkpoint(small) as bundle:
        bundle["scalar"]
        with pytest.raises(CheckpointError, match=r"'bert/embeddings/word_embeddings'.*checksum"):
            bundle["bert/embeddings/word_embeddings"]


def test_damage_where_an_empty_variable_lies_as_well(tmp_path):
    write_checkpoint(tmp_path / "m", {"a": np.zeros((0, 3)), "b": np.ones(2)})
    (tmp_path / ("m" + DATA)).write_bytes(np.zeros(2).tobytes())
    with open_checkpoint(tmp_path / "m") as bundle:
        assert bundle["a"].shape == (0, 3)
        with pytest.raises(CheckpointError, match=r"'b' cannot be read: the checksum"):
            bundle["b"]


def test_files_of_another_format(tmp_path):
    def refused(name, content, message):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=message) as caught:
            open_checkpoint(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)

    refused("old.ckpt", b"\0" * 100 + bundles.MAGIC, "old V1 format")
    refused("empty", b"", "an empty file")
    refused("text.safetensors", b"version https://git-lfs", "unknown format that begins with 7665")
    refused("config.json", b'{"hidden_size": 3}', "JSON file without weight_map")
    refused("broken.json", b'{"weight_map": ', "JSON file without weight_map")
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        archive.writestr("model.weights.h5", b"")
    whole = (tmp_path / "m.keras").read_bytes()
    refused("m.keras", whole, r"whole model of Keras 3 \(use keras.models.load_model\)")
    refused("cut.keras", whole[:-10], "zip archive whose directory cannot be read")
    with zipfile.ZipFile(tmp_path / "docs.zip", "w") as archive:
        archive.writestr("word/document.xml", b"")
    refused("docs.zip", (tmp_path / "docs.zip").read_bytes(), "zip archive of word/document.xml")


def record(
    code: int = 1, shape=(2,), shard: int = 0, offset: int = 0, size: int = 8, extra: bytes = b""
) -> bytes:
    field = bundles._to_field
    dims = b"".join(field(2, field(1, n)) for n in shape)
    place = field(3, shard) + field(4, offset) + field(5, size)
    return field(1, code) + field(2, dims) + place + extra


HEADER = (b"", bundles._to_field(1, 1))
HUGE = 1 << 62


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "no header"),
        ([(b"", b"")], "no header"),
        ([(b"", HEADER[1] + bundles._to_field(2, 1))], "big-endian"),
        ([(b"", HEADER[1] + bundles._to_field(3, bundles._to_field(2, 9)))], "version 9"),
        ([(b"", b"\x0f")], "wire type 7"),
        ([HEADER, (b"x", b"\x08" + b"\xff" * 11)], "more than 64 bits"),
        ([HEADER, (b"x", b"\x12\x7f")], "longer than its record"),
        ([HEADER, (b"x", b"\x10\x01")], "number instead of a record"),
        ([HEADER, (b"x", b"\x0a\x00")], "record instead of a number"),
        ([HEADER, (b"x", record(shape=(HUGE,)))], "impossible shape"),
        ([HEADER, (b"x", record(shape=(0, HUGE)))], "impossible shape"),
        ([HEADER, (b"x", record(shape=((1 << 64) - 2,)))], "impossible shape"),
        ([HEADER, (b"x", record(shape=(1,) * 33, size=4))], "impossible shape"),
        ([HEADER, (b"x", record(shape=(1 << 40,)))], "takes 8 bytes instead of"),
        ([HEADER, (b"x", record(code=7, shape=(1 << 40,)))], "strings takes 8 bytes"),
        ([HEADER, (b"x", record(offset=(1 << 64) - 8))], "negative position"),
        ([HEADER, (b"x", record(shard=5))], "data file 5 of 1"),
        ([HEADER, (b"x", record()), (b"y", record(offset=4))], "overlap"),
        ([HEADER, (b"\xff\xfe", record())], "not UTF-8"),
        ([HEADER, (b"y", record()), (b"x", record())], "not in order"),
        ([HEADER, (b"x", record()), (b"x", record())], "not in order"),
    ],
)
def test_an_index_that_lies(tmp_path, items, message):
    (tmp_path / "m.index").write_bytes(bundles._to_table(items, b"\xff" * 9))
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(tmp_path / "m")
    assert str(tmp_path / "m.index") in str(caught.value)


def box(*extents) -> bytes:
    field = bundles._to_field
    parts = b"".join(field(1, field(1, start) + field(2, size)) for start, size in extents)
    return field(7, parts)


@pytest.mark.parametrize(
    ("shape", "boxes", "message"),
    [
        ((1 << 40,), [(0, 2), (2, 2)], "slices have 4 elements"),
        ((4,), [(0, 2), (1, 2)], "slices overlap"),
        ((3,), [(0, 2), (2, 2)], "exceed its shape"),
        ((3,), [(0, 2), (1, 2)], "slices have 4 elements"),
        ((5,), [(0, 2), (2, 2)], "slices have 4 elements"),
        ((2, 2), [(0, 2), (2, 2)], "does not fit its shape"),
        ((4,), [(0, 2), (2, 1)], "not in the index"),
    ],
)
def test_slices_that_do_not_fit(tmp_path, shape, boxes, message):
    extra = b"".join(box(b) for b in boxes)
    items = [HEADER]
    for start, size in boxes:
        if size == 2:
            key = bundles._slice_key("x", ((start, size),))
            items.append((key, record(offset=8 * start)))
    items.append((b"x", record(shape=shape, size=0, extra=extra)))
    (tmp_path / "m.index").write_bytes(bundles._to_table(items, b"x"))
    (tmp_path / ("m" + DATA)).write_bytes(bytes(64))
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=message):
        load_variable(tmp_path / "m", "x")
    assert tracemalloc.get_traced_memory()[1] < 1e7
    tracemalloc.stop()


def test_an_unknown_type_concerns_its_variable_only(tmp_path):
    items = [HEADER, (b"x", record(code=21)), (b"y", record(shape=(0,), offset=8, size=0))]
    items[2] = (b"y", items[2][1] + b"\x35" + (0xA282EAD8).to_bytes(4, "little"))
    (tmp_path / "m.index").write_bytes(bundles._to_table(items, b"y"))
    (tmp_path / ("m" + DATA)).write_bytes(bytes(8))
    with open_checkpoint(tmp_path / "m") as bundle:
        assert bundle.shape("x") == (2,)
        with pytest.raises(CheckpointError, match=r"'x' cannot .* TensorFlow's type number 21"):
            bundle["x"]
        assert bundle["y"].shape == (0,)


def test_a_snappy_block_that_lies(small):
    index = Path(f"{small}.index")
    block = b"\xff\xff\xff\xff\x0f" + b"\0" * 50 + b"\1"  # claims to hold 4 GiB
    handle = bundles._to_varint(0) + bundles._to_varint(len(block) - 1)
    content = block + signed(block) + (handle * 2).ljust(40, b"\0") + bundles.MAGIC
    index.write_bytes(content)
    with pytest.raises(CheckpointError, match="claims to contain 4294967295"):
        open_checkpoint(small)
    block = b"\x20" + b"\xff" * 50 + b"\1"
    handle = bundles._to_varint(0) + bundles._to_varint(len(block) - 1)
    content = block + signed(block) + (handle * 2).ljust(40, b"\0") + bundles.MAGIC
    index.write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be decompressed"):
        open_checkpoint(small)


def mutate(random: np.random.Generator, content: bytes) -> bytes:
    """Damage a file: cut it, flip a bit, overwrite a stretch, remove or repeat one, or a number."""
    at, size = int(random.integers(len(content))), int(random.integers(1, 20))
    head, middle, tail = content[:at], content[at : at + size], content[at + size :]
    match random.integers(6):
        case 0:
            return head
        case 1:
            return head + bytes([content[at] ^ 1 << random.integers(8)]) + content[at + 1 :]
        case 2:
            return head + random.bytes(len(middle)) + tail
        case 3:
            return head + tail
        case 4:
            return head + middle * 2 + tail
    return head + b"\xff" * int(random.integers(1, 11)) + b"\x7f" + tail


@pytest.mark.parametrize("suffix", [".index", DATA])
def test_mutated_files(small, suffix):
    random, file = np.random.default_rng(1), Path(f"{small}{suffix}")
    content, expected, refused = file.read_bytes(), read_all(small), 0
    for _ in range(300):
        mutated = mutate(random, content)
        file.write_bytes(mutated)
        try:
            found = read_all(small)
        except CheckpointError:
            refused += 1
            continue
        # What is read in spite of the damage (to padding, behind the end) is what was written.
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value)
    assert refused > 200


def test_mutated_records_with_valid_checksums(small):
    """Damage below the checksum of blocks: whatever the records say, nothing else is raised."""
    random, index = np.random.default_rng(2), Path(f"{small}.index")
    items = list(bundles._table_items(index.read_bytes()))
    block = bundles._to_block(items)
    refused = 0
    tracemalloc.start()
    for _ in range(400):
        damaged = mutate(random, block) + b"\0"
        handle = bundles._to_varint(0) + bundles._to_varint(len(damaged) - 1)
        top = bundles._to_block([(b"\xff", handle)]) + b"\0"
        out = damaged + signed(damaged)
        footer = handle + bundles._to_varint(len(out)) + bundles._to_varint(len(top) - 1)
        index.write_bytes(out + top + signed(top) + footer.ljust(40, b"\0") + bundles.MAGIC)
        try:
            read_all(small)
        except CheckpointError:
            refused += 1
    assert refused > 300
    assert tracemalloc.get_traced_memory()[1] < 3e7
    tracemalloc.stop()


# === Weight files keyed by layer ===


def some_layers() -> dict[str, dict[str, np.ndarray]]:
    random = np.random.default_rng(3)
    return {
        "Embedding-Token": {"Embedding-Token/embeddings:0": random.normal(size=(30, 4))},
        "Input-Token": {},
        "中文": {"gamma": np.float32([1, 2]), "beta": np.float32([0, 1]), "核": np.int64([3])},
        "counts": {"scalar": np.array(7, np.int64), "on": np.array(True), "none": np.zeros((0, 3))},
    }


def assert_same_layers(found, expected) -> None:
    assert list(found) == list(expected)
    for layer, weights in expected.items():
        assert list(found[layer]) == list(weights)  # in the same order
        for name, value in weights.items():
            assert isinstance(found[layer][name], np.ndarray)
            assert found[layer][name].dtype == value.dtype
            np.testing.assert_array_equal(found[layer][name], value, strict=True)


@pytest.mark.parametrize("name", ["best_model.weights", "model.h5", "weights", "a.weights.h5"])
def test_layers_round_trip(tmp_path, name):
    save_layers(tmp_path / name, some_layers())
    assert_same_layers(load_layers(tmp_path / name), some_layers())
    assert os.listdir(tmp_path) == [name]


def test_layers_of_large_arrays_and_many_names(tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5, "_CHUNK", 1000)
    layers = {f"layer-{i}" + "x" * 100: {} for i in range(1500)}  # an attribute of over 64 KiB
    layers["big"] = {"w": np.arange(7777.0), "m": np.arange(999).reshape(333, 3)}
    layers["wide"] = {"w": np.ones((1, 5000), np.float16)}
    save_layers(tmp_path / "w", layers)
    assert_same_layers(load_layers(tmp_path / "w"), layers)


def write_keras_2(path, layers, group="/", pieces=0) -> None:
    """Write a file as Keras 2.3.1 does."""
    with h5py.File(path, "w") as h5:
        root = h5.require_group(group)
        root.attrs["backend"] = b"tensorflow"
        root.attrs["keras_version"] = b"2.3.1"
        names = [name.encode() for name in layers]
        if pieces:
            for i, part in enumerate(np.array_split(names, pieces)):
                root.attrs[f"layer_names{i}"] = part
        else:
            root.attrs["layer_names"] = names
        for layer, weights in layers.items():
            layer_group = root.create_group(layer)
            layer_group.attrs["weight_names"] = [name.encode() for name in weights]
            for name, value in weights.items():
                layer_group.create_dataset(name, data=value)


def test_layers_of_keras_2(tmp_path):
    write_keras_2(tmp_path / "plain", some_layers())
    write_keras_2(tmp_path / "pieces", some_layers(), pieces=3)
    write_keras_2(tmp_path / "whole.h5", some_layers(), group="/model_weights")
    for name in ("plain", "pieces", "whole.h5"):
        assert_same_layers(load_layers(tmp_path / name), some_layers())


def test_an_interrupted_save_changes_nothing(tmp_path):
    save_layers(tmp_path / "w", some_layers())
    before = (tmp_path / "w").read_bytes()
    with pytest.raises(CheckpointError, match=r"weight 'v' of layer 'b': its type object"):
        save_layers(tmp_path / "w", {"a": {"v": np.ones(3)}, "b": {"v": np.array([None])}})
    assert (tmp_path / "w").read_bytes() == before
    assert os.listdir(tmp_path) == ["w"]
    with pytest.raises(CheckpointError, match="no folder"):
        save_layers(tmp_path / "nowhere" / "w", {})
    with pytest.raises(CheckpointError, match=r"weight 'a/b' of layer 'x'"):
        save_layers(tmp_path / "w", {"x": {"a": np.ones(3), "a/b": np.ones(3)}})


def test_files_that_hold_no_layers(tmp_path):
    def refused(path, message):
        with pytest.raises(CheckpointError, match=message):
            load_layers(path)

    refused(tmp_path / "absent", r"no weight file .*absent")
    refused(tmp_path, "no weight file")
    write_checkpoint(tmp_path / "bert.ckpt", {"x": np.zeros(1)})
    refused(tmp_path / "bert.ckpt", "prefix of a TensorFlow checkpoint: use load_weights_from_che")
    refused(tmp_path / "bert.ckpt.index", "index of a TensorFlow checkpoint")
    (tmp_path / "empty").touch()
    refused(tmp_path / "empty", "empty is an empty file")
    (tmp_path / "text").write_text("hello world")
    refused(tmp_path / "text", "unknown format that begins with 68656c6c")
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        archive.writestr("model.weights.h5", b"")
    refused(tmp_path / "m.keras", r"whole model of Keras 3 \(use keras.models.load_model\)")
    with zipfile.ZipFile(tmp_path / "m.bin", "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    refused(tmp_path / "m.bin", "PyTorch")
    with h5py.File(tmp_path / "k3.weights.h5", "w") as h5:
        h5.create_dataset("layers/dense/vars/0", data=np.ones(3))
    refused(tmp_path / "k3.weights.h5", r"weight file of Keras 3.*keras\.Model\.load_weights")
    with h5py.File(tmp_path / "other.h5", "w") as h5:
        h5["data"] = 1
    refused(tmp_path / "other.h5", r"without layer_names; it has \['data'\]")


def test_layers_that_keras_wrote(tmp_path):
    """Keras 3 still writes the layout of Keras 2 when it saves a whole model as `.h5`."""
    code = (
        "import sys, numpy, warnings; warnings.simplefilter('ignore'); import keras\n"
        "x = keras.Input((3,), name='in'); y = keras.layers.Dense(2, name='Out')(x)\n"
        "m = keras.Model(x, y); m.layers[1].set_weights([numpy.ones((3, 2)), numpy.arange(2)])\n"
        "m.save(sys.argv[1] + '/m.h5'); m.save_weights(sys.argv[1] + '/m.weights.h5')\n"
        "m.save(sys.argv[1] + '/m.keras')"
    )
    environment = os.environ | {"KERAS_BACKEND": "numpy"}
    subprocess.run(
        [sys.executable, "-c", code, tmp_path], check=True, env=environment, capture_output=True
    )
    layers = load_layers(tmp_path / "m.h5")
    assert list(layers) == ["in", "Out"]
    kernel, bias = layers["Out"].values()
    np.testing.assert_array_equal(kernel, np.ones((3, 2), np.float32), strict=True)
    np.testing.assert_array_equal(bias, np.arange(2, dtype=np.float32), strict=True)
    with pytest.raises(CheckpointError, match="weight file of Keras 3"):
        load_layers(tmp_path / "m.weights.h5")
    with pytest.raises(CheckpointError, match="whole model of Keras 3"):
        load_layers(tmp_path / "m.keras")


def test_mutated_weight_files(tmp_path):
    random, file, refused = np.random.default_rng(4), tmp_path / "w", 0
    save_layers(file, some_layers())
    content, expected = file.read_bytes(), some_layers()
    for _ in range(400):
        file.write_bytes(mutate(random, content))
        try:
            found = load_layers(file)
        except CheckpointError:
            refused += 1
            continue
        assert_same_layers(found, expected)
    assert refused > 200


def test_a_weight_larger_than_its_file(tmp_path):
    write_keras_2(tmp_path / "w", {"a": {"b": np.ones(3)}})
    with h5py.File(tmp_path / "w", "a") as h5:
        del h5["a/b"]
        h5["a"].create_dataset("b", shape=(1 << 40,), dtype="f4")  # HDF5 stores no zeros
    with pytest.raises(CheckpointError, match="exceeds the file"):
        load_layers(tmp_path / "w")


# === Finding files ===


@pytest.fixture
def folder(small, tmp_path) -> Path:
    for name in ("bert_config.json", "vocab.txt", "tokenizer_config.json", "vocab_old.txt"):
        (tmp_path / name).write_text("{}")
    return tmp_path


def test_files_of_a_folder(folder):
    config, vocabulary = folder / "bert_config.json", folder / "vocab.txt"
    expected = Files(config, folder / "model.ckpt", vocabulary)
    paths = (folder, str(folder), config, vocabulary, folder / "model.ckpt.index")
    for path in (*paths, folder / "model.ckpt"):
        assert find_files(path) == expected
    assert find_files(folder, need=["vocabulary"]) == Files(vocabulary=vocabulary)
    # A file that is given is taken, whatever lies beside it.
    assert find_files(folder / "vocab_old.txt").vocabulary == folder / "vocab_old.txt"


def test_files_that_are_absent_or_several(folder):
    (folder / "vocab.txt").rename(folder / "vocab_new.txt")
    with pytest.raises(CheckpointError, match=r"2 files.*vocab_new\.txt, vocab_old\.txt"):
        find_files(folder)
    assert find_files(folder, need=["config"]).config.name == "bert_config.json"
    (folder / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"config.*: bert_config\.json, config\.json"):
        find_files(folder)
    (folder / "config.json").unlink()
    (folder / "bert_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no config .*model\.ckpt"):
        find_files(folder)


@pytest.mark.parametrize("name", ["nowhere", "absent.json", "absent.txt", "absent.ckpt"])
def test_files_of_a_path_that_does_not_exist(folder, name):
    # The files of the folder around it must not be taken instead.
    with pytest.raises(CheckpointError, match=name):
        find_files(folder / name, need=["vocabulary"])


# === Whether a checkpoint fits ===


def bert_shapes(layers=2, size=8, vocabulary=50) -> dict[str, tuple[int, ...]]:
    shapes = {
        "bert/embeddings/word_embeddings": (vocabulary, size),
        "bert/embeddings/position_embeddings": (16, size),
        "bert/pooler/dense/kernel": (size, size),
        "cls/predictions/output_bias": (vocabulary,),
    }
    for i in range(layers):
        shapes[f"bert/encoder/layer_{i}/attention/self/query/kernel"] = (size, size)
        shapes[f"bert/encoder/layer_{i}/attention/self/query/bias"] = (size,)
        shapes[f"bert/encoder/layer_{i}/output/dense/bias"] = (size,)
    return shapes


def albert_shapes() -> dict[str, tuple[int, ...]]:
    layer = "bert/encoder/transformer/group_0/inner_group_0"
    names = {f"{layer}/attention_1/self/query/kernel": (8, 8), f"{layer}/LayerNorm/beta": (8,)}
    return {"bert/embeddings/word_embeddings": (50, 8), **names}


HEADS = (("cls/predictions/", "with_mlm"), ("bert/pooler/", "with_pool"))


def without(shapes, start: str) -> dict[str, tuple[int, ...]]:
    return {name: shape for name, shape in shapes.items() if not name.startswith(start)}


def report(tmp_path, expected, found):
    variables = {name: np.zeros(shape, np.float32) for name, shape in found.items()}
    write_checkpoint(tmp_path / "m.ckpt", variables)
    found = dict(list_variables(tmp_path / "m.ckpt"))
    heads = {name: head for name in expected for start, head in HEADS if name.startswith(start)}
    return match_variables(expected, found, signatures=registry.signatures(), heads=heads)


def test_a_checkpoint_that_fits(tmp_path):
    extra = {"global_step": (), "bert/pooler/dense/kernel/adam_m": (8, 8)}
    result = report(tmp_path, bert_shapes(), bert_shapes(layers=3) | extra)
    result.raise_for_errors("m.ckpt")
    assert (result.missing, result.mismatched, result.cause) == ((), {}, "")
    assert result.loaded == tuple(bert_shapes())
    assert set(result.unused) == set(extra) | {
        "bert/encoder/layer_2/attention/self/query/kernel",
        "bert/encoder/layer_2/attention/self/query/bias",
        "bert/encoder/layer_2/output/dense/bias",
    }
    free = bert_shapes() | {"bert/embeddings/word_embeddings": (None, 8)}
    found = bert_shapes(vocabulary=70) | {"cls/predictions/output_bias": (50,)}
    report(tmp_path, free, found).raise_for_errors("m.ckpt")


@pytest.mark.parametrize(
    ("expected", "found", "cause"),
    [
        (bert_shapes(), albert_shapes(), "model='albert'"),
        (albert_shapes(), bert_shapes(), "model='bert'"),
        (bert_shapes(), {"encoder/block_000/layer_001/DenseReluDense/wi/kernel": ()}, "'t5.1.0_e"),
        (bert_shapes(), {"newslm/layer00/query_layer/kernel": (8, 8)}, "model='gpt2_ml'"),
        (bert_shapes(), {"Variable": (3,)}, "no known architecture, e.g. 'Variable'"),
        (bert_shapes(), {}, "no known architecture, e.g. 'none'"),
        (bert_shapes(), bert_shapes(vocabulary=40), "40 entries in the file, 50 .*keep_tokens"),
        (bert_shapes(layers=4), bert_shapes(), "has 2 layers, the model 4"),
        (bert_shapes(), bert_shapes(size=12), "another size"),
        (bert_shapes(), without(bert_shapes(), "cls/"), "with_mlm"),
        (bert_shapes(), without(bert_shapes(), "bert/pooler"), "with_pool"),
        (
            bert_shapes(),
            without(bert_shapes(), "bert/embeddings/pos"),
            "those of model='nezha' or model='roformer'",
        ),
        (
            {"bert/embeddings/token_type_embeddings": (3, 8)},
            {"bert/embeddings/token_type_embeddings": (2, 8)},
            "2 segment types, the model 3",
        ),
        (
            bert_shapes(),
            bert_shapes() | {"bert/embeddings/position_embeddings": (9, 8)},
            "9 positions, the model 16",
        ),
    ],
)
def test_the_likely_cause(tmp_path, expected, found, cause):
    result = report(tmp_path, expected, found)
    with pytest.raises(CheckpointError, match=cause) as caught:
        result.raise_for_errors("folder/bert_model.ckpt")
    assert str(caught.value).startswith("folder/bert_model.ckpt does not fit the model")


def test_the_message_names_variables_and_both_shapes(tmp_path):
    found = bert_shapes(size=12)
    del found["cls/predictions/output_bias"]
    with pytest.raises(CheckpointError) as caught:
        report(tmp_path, bert_shapes(), found).raise_for_errors("m")
    message = str(caught.value)
    assert "missing: cls/predictions/output_bias" in message
    line = "shape (50, 12), the model expects (50, 8): bert/embeddings/word_embeddings"
    assert line in message
    assert "... and 1 more" not in message


def test_the_message_names_layers_and_is_of_bounded_length():
    name = "bert/embeddings/word_embeddings"
    result = match_variables({name: (5, 8)}, {name: (5, 9)}, {name: "Embedding-Token"}, ["CRF"])
    with pytest.raises(CheckpointError, match=r"word_embeddings \(layer Embedding-Token\)"):
        result.raise_for_errors("m")
    assert (result.loaded, result.from_scratch) == ((), ("CRF",))
    result = match_variables({f"x{i}": (1,) for i in range(500)}, {"y": (1,)})
    with pytest.raises(CheckpointError, match=r"500 variable\(s\) missing") as caught:
        result.raise_for_errors("m")
    assert str(caught.value).endswith("... and 490 more")


# === Real files ===


def test_reference_checkpoints(references):
    models = references / "models"
    for case in json.loads((models / "index.json").read_text()):
        contents = dict(
            json.loads((models / case / "case.json").read_text())["checkpoint_contents"]
        )
        with open_checkpoint(models / case / "model.ckpt") as bundle:
            shapes = {name: bundle.shape(name) for name in bundle}
            assert shapes == {name: tuple(shape) for name, shape in contents.items()}, case
            for name in bundle:
                assert bundle[name].shape == bundle.shape(name)


def test_real_checkpoints_read_as_by_tensorflow(shared):
    import tensorflow as tf

    prefixes = [shared / "weights" / "monpa_albert_zh" / "albert_model.ckpt"]
    prefixes.append(shared / "golden" / "models" / "t5.1.1_full" / "model.ckpt")
    for prefix in prefixes:
        reader = tf.train.load_checkpoint(str(prefix))
        with open_checkpoint(prefix) as bundle:
            for name in bundle:
                np.testing.assert_array_equal(bundle[name], reader.get_tensor(name), strict=True)


def test_writing_a_real_checkpoint_again_gives_its_bytes(shared, tmp_path):
    prefix = shared / "weights" / "monpa_albert_zh" / "albert_model.ckpt"
    write_checkpoint(tmp_path / "again.ckpt", read_all(prefix))
    again, original = tmp_path / ("again.ckpt" + DATA), Path(f"{prefix}{DATA}")
    assert again.read_bytes() == original.read_bytes()


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("albert_tiny_zh_google", 97),
        ("albert_tiny_zh_brightmart", 31),
        ("bert_L-12_zh_vocab5981", 202),
    ],
)
def test_an_index_without_data(shared, name, count):
    folder = shared / "weights" / "official_fixtures" / name
    variables = dict(list_variables(folder))
    assert len(variables) == count
    with pytest.raises(CheckpointError, match=r"data-00000-of-00001 is missing"):
        load_variable(folder, next(iter(variables)))


def test_an_official_index_says_why_it_does_not_fit(shared):
    folder = shared / "weights" / "official_fixtures"
    bert = dict(list_variables(folder / "bert_L-12_zh_vocab5981"))
    albert = dict(list_variables(folder / "albert_tiny_zh_google"))
    found = match_variables(bert, albert, signatures=registry.signatures())
    assert "model='albert'" in found.cause
    assert match_variables(bert, albert).cause == ""  # who knows no architecture names none
    assert match_variables(bert, bert).missing == ()


def test_neither_keras_nor_tensorflow_is_imported():
    code = "import sys, bert4keras.checkpoints; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {"keras", "tensorflow", "jax", "torch", "h5py"} & set(out.stdout.split())


def test_a_checkpoint_is_replaced_while_it_is_open(small, tmp_path):
    bundle = open_checkpoint(small)
    bundle["scalar"]  # maps the data
    shutil.copy(f"{small}{DATA}", tmp_path / "kept")
    write_checkpoint(small, {"scalar": np.ones(3)})
    assert bundle["bert/embeddings/word_embeddings"].shape == (60, 8)
    assert list_variables(small) == [("scalar", (3,))]
