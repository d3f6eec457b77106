"""Fixtures that every test module may use."""

import atexit
import importlib.util
import json
import math
import os
import shutil
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
from golden import OWN_REFERENCES

if TYPE_CHECKING:
    from bert4keras.tokenizers import Tokenizer

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Tests compile much and compute little: what XLA does to compute faster takes most of the time.
# Flags it does not know end the process; XLA_FLAGS="" in the environment goes without.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if os.environ.get("KERAS_BACKEND") == "jax":
    plain = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ.setdefault("XLA_FLAGS", plain)
    # Workers and the processes that tests start share what is compiled; they inherit this.
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache_folder = tempfile.mkdtemp(prefix="bert4keras_jax_")
        atexit.register(shutil.rmtree, cache_folder, ignore_errors=True)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = cache_folder
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the modules of the longest tests, so that none is what all wait for at the end."""
    n_long = Counter(item.path for item in items if item.get_closest_marker("long"))
    items.sort(key=lambda item: -n_long[item.path])


TINY = Path(__file__).parents[1] / "examples/weights/tiny_zh"


def shared_folder() -> Path:
    """Where reference outputs, real data and real weights are, if they are."""
    checkout = Path(__file__).resolve().parents[1]
    return Path(os.environ.get("BERT4KERAS_SHARED", checkout.parent / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of all reference outputs, real data and real weights; skips without it."""
    folder = shared_folder()
    if not (folder / "golden").is_dir():
        pytest.skip(f"no reference outputs in {folder}: set BERT4KERAS_SHARED to their folder")
    return folder


@pytest.fixture(scope="session")
def references() -> Path:
    """The folder of the original's outputs: all of them, or without `shared` those beside us."""
    folder = shared_folder() / "golden"
    return folder if folder.is_dir() else OWN_REFERENCES


@pytest.fixture(scope="session")
def load_script() -> Callable[[Path], ModuleType]:
    """Make a module of a script; not by its name, which its folder may have as well."""

    def load(path: Path) -> ModuleType:
        if str(path.parent) not in sys.path:  # as it is for a script that is run
            sys.path.append(str(path.parent))
        spec = importlib.util.spec_from_file_location(f"{path.stem}_script", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def cut(shared: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copy the first lines of files in archives of `shared/data`, for a run on little data."""

    def cut(archive: str, members: dict[str, int | None]) -> Path:
        """Args: path of the archive, and how many lines of which files (None for all)."""
        target = tmp_path / "data" / archive
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            zipfile.ZipFile(shared / "data" / archive) as source,
            zipfile.ZipFile(target, "w") as copy,
        ):
            for member, n in members.items():
                lines = source.read(member).decode("utf-8").split("\n")
                copy.writestr(member, "\n".join(lines[:n]) + "\n")
        return tmp_path / "data"

    return cut


@pytest.fixture(scope="session")
def tokenizer() -> "Tokenizer":
    """The tokenizer of the small checkpoint, as the examples make it."""
    from bert4keras.tokenizers import Tokenizer

    return Tokenizer(TINY / "vocab.txt", do_lower_case=True)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Folders like that of the small checkpoint, of fewer and narrower layers, untrained.

    Examples run on these in the tests: what takes time on a slice is to compile layers.
    """

    @cache
    def checkpoint(n_layers: int = 1) -> Path:
        from bert4keras.models import build_transformer_model

        folder = tmp_path_factory.mktemp(f"checkpoint_{n_layers}")
        config = json.loads((TINY / "bert_config.json").read_text())
        config |= {"num_hidden_layers": n_layers, "hidden_size": 64, "intermediate_size": 64}
        (folder / "bert_config.json").write_text(json.dumps(config))
        (folder / "vocab.txt").write_bytes((TINY / "vocab.txt").read_bytes())
        model = build_transformer_model(
            with_mlm=True, with_nsp=True, return_keras_model=False, **config
        )
        model.save_weights_as_checkpoint(folder / "bert_model.ckpt")
        return folder

    return checkpoint


@pytest.fixture(scope="session", autouse=True)
def drawn_in_few_shapes() -> Iterator[None]:
    """Draw initial kernels and embeddings in few shapes, which JAX compiles one by one.

    Without, most of the time to build a small model goes there.
    """
    import keras

    if keras.backend.backend() != "jax":
        yield
        return
    import numpy as np
    from keras.src.backend.jax import random

    draw = random.truncated_normal

    def draw_in_few_shapes(shape, *args, **kwargs):
        size = math.prod(shape)
        values = draw((1 << max(size - 1, 0).bit_length(),), *args, **kwargs)
        return keras.ops.convert_to_tensor(np.asarray(values)[:size].reshape(shape))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(random, "truncated_normal", draw_in_few_shapes)
        yield


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode without a graph on TensorFlow: quicker where a model writes few tokens once."""
    import keras

    from bert4keras.generation import decoding

    if keras.backend.backend() == "tensorflow":
        monkeypatch.setattr(decoding, "compiled", lambda function, model: function)
