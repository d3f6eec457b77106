"""A folder in which JAX keeps what it has compiled, for the next process."""

import os
from contextlib import suppress
from pathlib import Path

import keras

VARIABLE = "BERT4KERAS_JAX_CACHE"
MAX_BYTES = 1 << 30
"""Size of the folder above which its oldest files are removed."""


def use_compilation_cache() -> None:
    """Let JAX keep what takes a second or more to compile in a folder.

    That is `$BERT4KERAS_JAX_CACHE`, by default `bert4keras/jax` in `$XDG_CACHE_HOME` or `~/.cache`;
    the value 0 switches this off. A folder that JAX is given already, such as by
    `JAX_COMPILATION_CACHE_DIR`, is left as it is. On other backends nothing happens.

    JAX looks for the folder when it first compiles.
    """
    if keras.backend.backend() != "jax":
        return
    import jax

    folder = _folder()
    if folder is None or jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return
    if not os.access(folder, os.W_OK):
        return
    with suppress(OSError):  # another process removes the same files
        trim(folder, MAX_BYTES)
    jax.config.update("jax_compilation_cache_dir", str(folder))


def _folder() -> Path | None:
    """Return the folder that the environment asks for, None if it asks for none."""
    given = os.environ.get(VARIABLE)
    if given:
        return None if given == "0" else Path(given).expanduser()
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # no home
        return None
    return home / "bert4keras" / "jax"


def trim(folder: Path, max_bytes: int) -> None:
    """Remove the oldest files of a folder until the rest has at most so many bytes."""
    files = [(entry.stat(), entry.path) for entry in os.scandir(folder) if entry.is_file()]
    size = 0
    for status, path in sorted(files, key=lambda file: file[0].st_mtime, reverse=True):
        size += status.st_size
        if size > max_bytes:
            Path(path).unlink(missing_ok=True)
