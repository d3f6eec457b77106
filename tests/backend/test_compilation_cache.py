"""The folder in which JAX keeps what it has compiled."""

import os
import subprocess
import sys

import keras
import pytest

from bert4keras.backend.compilation_cache import VARIABLE, trim, use_compilation_cache

BACKEND = keras.backend.backend()
COMPILES = """
import jax, bert4keras.backend
jax.jit(lambda x: x * 2 + 1)(3.0)
print(jax.config.jax_compilation_cache_dir)
"""


def test_the_oldest_files_are_removed(tmp_path):
    for i, name in enumerate(["new", "middle", "old"]):
        (tmp_path / name).write_bytes(b"x" * 10)
        os.utime(tmp_path / name, (1000 - i, 1000 - i))
    trim(tmp_path, 20)
    assert {path.name for path in tmp_path.iterdir()} == {"new", "middle"}


@pytest.fixture
def configured(monkeypatch, tmp_path):
    """Forget the folder that JAX has; give a function that tells which one it gets."""
    jax = pytest.importorskip("jax")
    if BACKEND != "jax":
        pytest.skip("only JAX keeps what it compiles")
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(VARIABLE, raising=False)

    def configured(first=None):
        jax.config.update("jax_compilation_cache_dir", first)
        use_compilation_cache()
        return jax.config.jax_compilation_cache_dir

    yield configured
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.backend
def test_the_folder(configured, monkeypatch, tmp_path):
    assert configured() == str(tmp_path / "bert4keras/jax")
    assert configured(first="/elsewhere") == "/elsewhere"
    monkeypatch.setenv(VARIABLE, str(tmp_path / "mine"))
    assert configured() == str(tmp_path / "mine")
    assert (tmp_path / "mine").stat().st_mode & 0o777 == 0o700
    monkeypatch.setenv(VARIABLE, "0")
    assert configured() is None
    (tmp_path / "file").touch()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file/below"))  # cannot be made
    assert configured() is None


@pytest.mark.backend
def test_what_is_compiled_is_kept(tmp_path):
    if BACKEND != "jax":
        pytest.skip("only JAX keeps what it compiles")
    env = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    env |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    env.pop("JAX_COMPILATION_CACHE_DIR", None)
    command = [sys.executable, "-c", COMPILES]
    output = subprocess.check_output(command, env=env, text=True)
    assert output.strip() == str(tmp_path / "bert4keras/jax")
    assert list((tmp_path / "bert4keras/jax").glob("*-cache"))
