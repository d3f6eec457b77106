"""Damaged and hostile files: an error of one class within a second, or what was written."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import h5py
import hostile
import numpy as np
import pytest
import safetensors.numpy

from bert4keras.checkpoints import (
    load_variable,
    save_layers,
    write_checkpoint,
    write_safetensors,
)

COUNT = 2000
# Of so many files, this many at least are refused; the rest is damaged where it does not matter.
REFUSED = 1000


def variables() -> dict[str, np.ndarray]:
    random = np.random.default_rng(7)
    return {
        "bert/embeddings": random.normal(size=(9, 4)).astype(np.float32),
        "名字": random.normal(size=(3,)).astype(np.float16),
        "scalar": np.array(3, np.int64),
        "bias": np.zeros(5, np.float32),
        "empty": np.zeros((0, 2), np.float32),
    }


def write(container: str, folder: Path) -> tuple[str, dict[str, np.ndarray]]:
    """Write a small file; return its name and what it holds."""
    folder.mkdir()
    expected = variables()
    if container == "tensorflow":
        write_checkpoint(folder / "m", expected)
    elif container == "safetensors":
        write_safetensors(folder / "m", expected)
    elif container == "shards":
        write_safetensors(folder / "m.safetensors", expected, shard_size=100)
        return "m.safetensors.index.json", expected
    elif container == "foreign":
        safetensors.numpy.save_file(expected, folder / "m")
    elif container == "npz":
        with open(folder / "m", "wb") as file:
            np.savez(file, **expected)
    elif container == "keras":
        save_layers(folder / "m", {"layer": expected, "Input-Token": {}})
        return "m", {f"layer/{name}": value for name, value in expected.items()}
    elif container == "keras 2":  # without a checksum
        del expected["empty"]
        with h5py.File(folder / "m", "w") as file:
            file.attrs["layer_names"] = [b"layer"]
            file.create_group("layer").attrs["weight_names"] = [n.encode() for n in expected]
            for name, value in expected.items():
                file["layer"][name] = value
        return "m", {f"layer/{name}": value for name, value in expected.items()}
    else:
        torch = pytest.importorskip("torch")
        state = {name: torch.from_numpy(value.copy()) for name, value in expected.items()}
        torch.save(state, folder / "m", _use_new_zipfile_serialization=container == "torch")
    return "m", expected


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as Linux does it")
@pytest.mark.parametrize(
    "container",
    [
        *("tensorflow", "safetensors", "shards", "foreign", "torch", "legacy", "npz", "keras"),
        "keras 2",
    ],
)
def test_damaged_files(tmp_path, container):
    written = write(container, tmp_path / container)
    (tmp_path / f"{container}.pickle").write_bytes(pickle.dumps(written))
    assert int(run(tmp_path, container, str(COUNT))) > REFUSED


def run(folder: Path, container: str, *arguments: str) -> str:
    script = Path(__file__).parents[1] / "support/fuzz.py"
    result = subprocess.run(
        [sys.executable, "-W", "error", script, folder, container, *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    seed = (folder / f"{container}.seed").read_text()
    # A negative status is the signal that ended it: 27 after seconds of computing, 14 of waiting,
    # 11 in a crash.
    assert result.returncode == 0, f"at {seed}: {result.returncode}\n{result.stderr[-2000:]}"
    return result.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as Linux does it")
def test_hostile_files(tmp_path):
    times = json.loads(run(tmp_path, "hostile"))
    assert times.keys() == hostile.CASES.keys()


def test_a_variable_in_many_slices(tmp_path):
    """What is tested to take no time when it is wrong must take none when it is right."""
    path = hostile.slices(tmp_path, [(i, 1) for i in range(20_000)])
    np.testing.assert_array_equal(load_variable(path, "x"), np.zeros(20_000, np.float32))
