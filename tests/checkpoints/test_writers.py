"""Writers that are killed, fail or run twice: a reader finds the old files or the new ones."""

import os
import resource
import stat
import tempfile
from pathlib import Path

import faults
import keras
import numpy as np
import pytest

from bert4keras.checkpoints import (
    CheckpointError,
    list_variables,
    load_layers,
    load_variable,
    open_checkpoint,
    save_layers,
    write_checkpoint,
    write_safetensors,
    writing,
)
from bert4keras.models import Model

PLAIN = ("weights", "tensorflow", "safetensors", "more shards", "into shards", "out of shards")
MODELS = (
    *("Model.save_weights", "Model.save", "save_weights_as_checkpoint", "save_pretrained"),
    *("convert to tf", "convert to safetensors", "convert to keras"),
)
# What `make faults` runs besides: real kills and failures of every writer, pairs of writers, two
# kills one after the other.
ALL = "FAULTS" in os.environ
QUICK = {"kills": ["tensorflow"], "errors": ["weights"], "pairs": ["into shards"], "twice": []}


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    library = faults.compiled(tmp_path_factory.mktemp("faults"))
    if library is None:
        pytest.skip("file operations are counted by a library that a C compiler makes on Linux")
    return library


@pytest.fixture
def place(tmp_path) -> Path:
    """A folder in memory if there is one: these tests write thousands of files to the disk."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


def check(counts: dict[str, dict[str, int]]) -> None:
    for name, found in counts.items():
        assert found["bad"] == found["rubbish"] == found.get("unsynced", 0) == 0, (name, found)
        assert min(found["old"], found["new"]) >= 5, (name, found)


def test_a_writer_killed_at_any_operation(library, place):
    check(faults.counted(library, place, "states", *PLAIN))


@pytest.mark.long
def test_a_writer_of_models_killed_at_any_operation(library, place):
    check(faults.counted(library, place, "states" if ALL else "states, briefly", *MODELS))


@pytest.mark.parametrize("mode", QUICK)
def test_writers_in_processes_of_their_own(library, place, mode):
    if names := [*PLAIN, *MODELS] if ALL else QUICK[mode]:
        check(faults.counted(library, place, mode, *names))


# === What is left between the steps ===


def killed(write, behind: bool) -> None:
    """Run a writer in a process that ends before or behind the one step that counts."""
    child = os.fork()
    if not child:
        replace = os.replace

        def dying(source, target):
            if Path(target).name == "now" and not behind:
                os._exit(9)
            replace(source, target)
            if Path(target).name == "now":
                os._exit(9)

        os.replace = dying
        write()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.mark.parametrize("behind", [False, True])
def test_tensorflow_reads_what_a_killed_writer_left(tmp_path, behind):
    import tensorflow as tf

    write_checkpoint(tmp_path / "m", faults.variables(0))
    killed(lambda: write_checkpoint(tmp_path / "m", faults.variables(1)), behind)
    assert (tmp_path / "m.index").is_symlink()
    reader = tf.train.load_checkpoint(str(tmp_path / "m"))
    expected = faults.variables(int(behind))
    assert reader.get_variable_to_shape_map().keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(reader.get_tensor(name), value)
    # Whoever writes next in the folder tidies up, whatever is written.
    save_layers(tmp_path / "other", {})
    assert {p.name for p in tmp_path.iterdir()} == {"m.index", "m.data-00000-of-00001", "other"}
    assert not any(p.is_symlink() for p in tmp_path.iterdir())
    assert faults.checkpoint(tmp_path / "m") == behind


@pytest.mark.parametrize("behind", [False, True])
def test_safetensors_reads_what_a_killed_writer_left(tmp_path, behind):
    import safetensors.numpy

    path = tmp_path / "m.safetensors"
    write_safetensors(path, faults.variables(0), shard_size=100)
    killed(lambda: write_safetensors(path, faults.variables(1)), behind)
    assert path.exists() == behind
    if behind:
        assert faults.generation_of(safetensors.numpy.load_file(path)) == 1
    assert faults.checkpoint(tmp_path) == behind  # names of which nothing is left are passed over


def test_a_hidden_folder_in_use_is_left_alone(tmp_path):
    with writing.replacing(tmp_path, "a") as first:
        (first / "a").write_text("first")
        with writing.replacing(tmp_path, "a") as second:
            (second / "a").write_text("second")
        assert (tmp_path / "a").read_text() == "second"
        assert first.is_dir()
    assert (tmp_path / "a").read_text() == "first"
    assert os.listdir(tmp_path) == ["a"]


# === Folders, links, permissions ===


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write_both(folder: Path, value: int) -> None:
    save_layers(folder / "w", {"layer": {"x": np.full(3, value)}})
    write_checkpoint(folder / "m", {"x": np.full(3, value)})


def test_without_links_the_file_that_is_opened_first_comes_last(tmp_path, monkeypatch):
    def refuse(*arguments, **kwargs):
        raise PermissionError(1, "Operation not permitted")

    write_both(tmp_path, 1)
    monkeypatch.setattr(writing.os, "link", refuse)
    moved, replace = [], os.replace

    def watched(source, target):
        moved.append((Path(target).name, (tmp_path / "m.index").exists()))
        replace(source, target)

    monkeypatch.setattr(writing.os, "replace", watched)
    write_checkpoint(tmp_path / "m", {"x": np.full(3, 2)})
    assert moved == [("m.data-00000-of-00001", False), ("m.index", False)]
    assert load_variable(tmp_path / "m", "x").tolist() == [2, 2, 2]
    assert sorted(os.listdir(tmp_path)) == ["m.data-00000-of-00001", "m.index", "w"]


@pytest.mark.parametrize("locks", ["none", "refused"])
def test_without_locks(tmp_path, monkeypatch, locks):
    def refuse(*arguments):
        raise OSError(95, "Operation not supported")

    abandoned = [tmp_path / f".bert4keras-{i:032x}.tmp" for i in range(2)]
    for folder in abandoned:
        folder.mkdir()
    os.utime(abandoned[0], (0, 0))
    if locks == "none":
        monkeypatch.setattr(writing, "fcntl", None)
    else:
        monkeypatch.setattr(writing.fcntl, "flock", refuse)
    write_both(tmp_path, 1)
    assert load_variable(tmp_path / "m", "x").tolist() == [1, 1, 1]
    # The younger one may be of a writer that lives.
    assert [folder.exists() for folder in abandoned] == [False, True]


def test_permissions_stay_and_links_are_followed(tmp_path):
    (tmp_path / "disk").mkdir()
    write_both(tmp_path / "disk", 1)
    for name in ("w", "m"):
        (tmp_path / name).symlink_to(tmp_path / "disk" / name)
    for path in (tmp_path / "disk").iterdir():
        path.chmod(0o600)
    save_layers(tmp_path / "w", {"layer": {"x": np.full(3, 2)}})
    write_checkpoint(tmp_path / "disk/m", {"x": np.full(3, 2)})
    assert (tmp_path / "w").is_symlink()
    assert load_layers(tmp_path / "disk/w")["layer"]["x"].tolist() == [2, 2, 2]
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "disk").iterdir()}
    assert modes == {0o600}


def test_links_of_the_user_are_replaced_where_several_files_are_written(tmp_path):
    write_safetensors(tmp_path / "blob", {"x": np.zeros(2)})
    folder = tmp_path / "snapshot"
    folder.mkdir()
    (folder / "model.safetensors").symlink_to("../blob")
    path = folder / "model.safetensors"
    killed(lambda: write_safetensors(path, faults.variables(1), shard_size=100), False)
    assert load_variable(folder, "x").tolist() == [0, 0]
    write_safetensors(path, faults.variables(1), shard_size=100)
    assert faults.checkpoint(folder) == 1
    assert load_variable(tmp_path / "blob", "x").tolist() == [0, 0]


def test_a_folder_is_not_replaced_by_a_file(tmp_path):
    (tmp_path / "w").mkdir()
    (tmp_path / "m.index").mkdir()
    with pytest.raises(CheckpointError, match=r"cannot write .*w.*: .*is a folder"):
        save_layers(tmp_path / "w", {})
    with pytest.raises(CheckpointError, match=r"m\.index is a folder"):
        write_checkpoint(tmp_path / "m", {"x": np.zeros(1)})
    assert sorted(os.listdir(tmp_path)) == ["m.index", "w"]


def in_a_process(function, prepare) -> str:
    """Run something in a child process; return the message of its `CheckpointError`."""
    reading, writing_end = os.pipe()
    child = os.fork()
    if not child:
        message = "nothing was raised"
        try:
            prepare()
            function()
        except CheckpointError as error:
            message = str(error)
        except BaseException as error:
            message = repr(error)
        os.write(writing_end, message.encode())
        os._exit(0)
    os.close(writing_end)
    os.waitpid(child, 0)
    with os.fdopen(reading) as pipe:
        return pipe.read()


def test_a_folder_that_cannot_be_written_to(tmp_path):
    write_both(tmp_path, 1)
    before = files_of(tmp_path)
    tmp_path.chmod(0o555)

    def ordinary() -> None:
        if os.getuid() == 0:  # who may do anything
            os.chdir(tmp_path)
            os.setuid(65534)

    for write in (
        lambda: save_layers("w", {"a": {"b": np.ones(1)}}),
        lambda: write_checkpoint("m", {"x": np.ones(1)}),
        lambda: write_safetensors("m.safetensors", {"x": np.ones(1)}),
    ):
        message = in_a_process(write, lambda: (os.chdir(tmp_path), ordinary()))
        assert message.startswith("cannot write") and "Permission denied" in message, message
    tmp_path.chmod(0o755)
    assert files_of(tmp_path) == before


@pytest.mark.parametrize("room", [0, 1000, 100_000])
def test_a_file_that_may_grow_no_further(tmp_path, room):
    write_both(tmp_path, 1)
    before = files_of(tmp_path)
    large = {"x": np.ones(1 << 16)}
    full = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))  # noqa: E731
    for write in (
        lambda: save_layers(tmp_path / "w", {"a": large}),
        lambda: write_checkpoint(tmp_path / "m", large),
        lambda: write_safetensors(tmp_path / "m.safetensors", large),
    ):
        message = in_a_process(write, full)
        assert "File too large. Existing files are unchanged" in message
    assert files_of(tmp_path) == before


# === Models ===


@pytest.fixture
def model() -> Model:
    inputs = keras.Input((3,))
    return Model(inputs, keras.layers.Dense(2, name="Out")(inputs))


def test_whole_models_take_the_place_of_older_ones(tmp_path, model):
    model.save(tmp_path / "m.keras")
    (tmp_path / "link.keras").symlink_to("m.keras")
    model.layers[1].bias.assign([1, 2])
    model.save(str(tmp_path / "link.keras"))
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded.layers[1].bias, [1, 2])
    with pytest.raises(FileExistsError, match="overwrite=True"):
        model.save(tmp_path / "m.keras", overwrite=False)
    with pytest.raises(CheckpointError, match="no folder"):
        model.save(tmp_path / "nowhere/m.keras")
    model.save(tmp_path / "m.xyz")
    model.save(tmp_path / "unpacked", zipped=False)
    assert sorted(os.listdir(tmp_path)) == ["link.keras", "m.keras", "m.xyz", "unpacked"]


@pytest.mark.parametrize("only", [False, True])
def test_checkpoints_in_training_are_whole(tmp_path, model, only):
    path = tmp_path / ("m.weights.h5" if only else "m.keras")
    callback = keras.callbacks.ModelCheckpoint(path, save_weights_only=only)
    model.compile("sgd", "mse")
    seen = []

    class Watching(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(path.stat().st_ino)

    data = np.ones((2, 3)), np.ones((2, 2))
    model.fit(*data, epochs=2, callbacks=[callback, Watching()], verbose=0)
    assert len(set(seen)) == 2 and os.listdir(tmp_path) == [path.name]


def test_a_reader_of_a_checkpoint_that_is_replaced_sees_one_of_them(tmp_path):
    write_checkpoint(tmp_path / "m", faults.variables(0))
    with open_checkpoint(tmp_path / "m") as file:
        write_checkpoint(tmp_path / "m", faults.variables(1))
        assert faults.generation_of({name: file[name] for name in file}) == 0
    assert list_variables(tmp_path / "m") == sorted(
        (name, value.shape) for name, value in faults.variables(1).items()
    )
