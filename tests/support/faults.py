"""Stop writers at each of their file operations and see what a reader finds.

`python faults.py FOLDER MODE CASE...` prints, as JSON, what it found for each case. It is a process
of its own because what counts file operations, `faults.c`, must be loaded before everything else;
`counted` starts it. The modes:

* `states` runs a writer and copies its folder before each operation, and in the middle of each
  write: that is what a writer killed there leaves behind; `states, briefly` does so once;
* `kills` runs a writer in a child process for each operation, and kills it there;
* `errors` lets each operation fail once, and all from one on as on a full disk;
* `pairs` stops one writer at each operation, runs another one and lets the first go on;
* `twice` kills a second writer at each operation, of what a first one left at each of its own.
"""

import ctypes
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np

SOURCE = Path(__file__).with_name("faults.c")
OFF, CALL, KILL, TEAR, FAIL, FAIL_FROM, STOP = range(7)  # as in faults.c
REFUSED = 3  # the status of a child that ended in the one exception


def compiled(folder: Path) -> Path | None:
    """Compile the library that counts; None if there is no compiler."""
    compiler = next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    if sys.platform != "linux" or compiler is None:
        return None
    library = folder / "faults.so"
    flags = ["-shared", "-fPIC", "-O1", "-Wno-pointer-arith"]
    subprocess.run([compiler, *flags, "-o", library, SOURCE, "-ldl"], check=True)
    return library


def counted(library: Path, folder: Path, mode: str, *names: str) -> dict[str, dict[str, int]]:
    """Run this script; return what it prints."""
    result = subprocess.run(
        [sys.executable, __file__, folder, mode, *names],
        env=os.environ | {"LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


# === Writers ===


@dataclass(frozen=True)
class Case:
    """A writer of two generations, and a reader that tells which one it finds or raises."""

    write: Callable[[Path, int], None]
    read: Callable[[Path], int]


def variables(generation: int) -> dict[str, np.ndarray]:
    """Names, shapes and values that differ between generations."""
    values = {name: np.full(20, generation, np.float32) for name in ("a", "b", f"of {generation}")}
    return values | {"size": np.zeros(3 + generation)}


def generation_of(found: dict[str, np.ndarray]) -> int:
    for generation in (0, 1):
        expected = variables(generation)
        if found.keys() == expected.keys() and all(
            np.array_equal(found[name], value) for name, value in expected.items()
        ):
            return generation
    raise AssertionError(f"a mixture: {found}")


def checkpoint(path: Path) -> int:
    from bert4keras.checkpoints import open_checkpoint

    with open_checkpoint(path) as file:
        return generation_of({name: file[name] for name in file})


def plain_cases() -> dict[str, Case]:
    """Writers that need no Keras."""
    from bert4keras import checkpoints

    def shards(*sizes: int) -> Case:
        return Case(
            lambda folder, generation: checkpoints.write_safetensors(
                folder / "m.safetensors", variables(generation), shard_size=sizes[generation]
            ),
            checkpoint,
        )

    return {
        "weights": Case(
            lambda folder, generation: checkpoints.save_layers(
                folder / "w", {"layer": variables(generation)}
            ),
            lambda folder: generation_of(checkpoints.load_layers(folder / "w")["layer"]),
        ),
        "tensorflow": Case(
            lambda folder, generation: checkpoints.write_checkpoint(
                folder / "m", variables(generation)
            ),
            lambda folder: checkpoint(folder / "m"),
        ),
        "safetensors": shards(1000, 1000),
        "more shards": shards(150, 100),
        "into shards": shards(1000, 100),
        "out of shards": shards(100, 1000),
    }


SIZES = {
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "hidden_act": "gelu",
    "max_position": 6,
}


def model_cases() -> dict[str, Case]:
    """Writers of models; a generation differs in its size, its vocabulary and its weights."""
    import keras

    from bert4keras.convert import convert
    from bert4keras.models import build_transformer_model
    from bert4keras.models.vocabulary_record import recorded_vocabulary

    sizes = [SIZES | {"hidden_size": size, "vocab_size": 8} for size in (4, 8)]
    # The second generation has a record of its vocabulary beside its weights.
    transformers = [
        build_transformer_model(**size, keep_tokens=keep, return_keras_model=False)
        for size, keep in zip(sizes, (None, [0, 2, 4]), strict=True)
    ]
    weights = [t.model.get_weights() for t in transformers]
    tokens = [
        type("Tokenizer", (), {"token_dict": {f"{g}{i}": i for i in range(t.vocab_size)}})
        for g, t in enumerate(transformers)
    ]
    sources = Path(tempfile.mkdtemp())
    for generation, transformer in enumerate(transformers):
        transformer.save_pretrained(sources / str(generation), tokens[generation])

    def same(model, generation: int) -> int:
        pairs = zip(model.get_weights(), weights[generation], strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs), "a mixture"
        return generation

    def whole(path: Path) -> int:
        model = keras.models.load_model(path)
        return same(model, model.layers[2].output_dim // 8)

    def folder_of(path: Path, config: str = "config.json") -> int:
        if not (path / config).exists():
            raise FileNotFoundError(config)
        hidden = json.loads((path / config).read_text())["hidden_size"]
        same(build_transformer_model(path), hidden // 8)
        vocabulary = (path / "vocab.txt").read_text().split()
        assert vocabulary == list(tokens[hidden // 8].token_dict), "a mixture"
        return hidden // 8

    def prefix(path: Path) -> int:
        from bert4keras.checkpoints import list_variables

        size = dict(list_variables(path))["bert/embeddings/word_embeddings"][1]
        assert (recorded_vocabulary(path) is not None) == (size == 8), "a mixture"
        return size // 8

    def loaded(path: Path) -> int:
        from bert4keras.checkpoints import load_layers

        generation = load_layers(path)["Embedding-Norm"]["gamma"].size // 8
        model = transformers[generation].model
        model.load_weights(path)
        return same(model, generation)

    def converted(to: str) -> Case:
        if to == "keras":
            write = lambda f, g: convert(sources / str(g), f / "m.keras", to)  # noqa: E731
            return Case(write, lambda f: whole(f / "m.keras"))
        config = "bert_config.json" if to == "tf" else "config.json"
        write = lambda f, g: convert(sources / str(g), f / "m", to)  # noqa: E731
        return Case(write, lambda f: folder_of(f / "m", config))

    return {
        "Model.save_weights": Case(
            lambda f, g: transformers[g].model.save_weights(f / "w"), lambda f: loaded(f / "w")
        ),
        "Model.save": Case(
            lambda f, g: transformers[g].model.save(f / "m.keras"), lambda f: whole(f / "m.keras")
        ),
        "save_weights_as_checkpoint": Case(
            lambda f, g: transformers[g].save_weights_as_checkpoint(f / "m"),
            lambda f: prefix(f / "m"),
        ),
        "save_pretrained": Case(
            lambda f, g: transformers[g].save_pretrained(f / "m", tokens[g]),
            lambda f: folder_of(f / "m"),
        ),
        **{f"convert to {to}": converted(to) for to in ("tf", "safetensors", "keras")},
    }


# === The library that counts ===


@cache
def library() -> ctypes.CDLL:
    loaded = ctypes.CDLL(None)
    loaded.faults_names.restype = ctypes.c_char_p
    loaded.faults_arm.argtypes = [ctypes.c_int] * 3 + [ctypes.c_void_p]
    return loaded


def run(write: Callable[[], None], action: int, at: int = 0, error: int = 0, function=None) -> int:
    """Run a writer with something happening at one of its operations; return their number."""
    library().faults_arm(action, at, error, function)
    try:
        write()
    finally:
        number = library().faults_count()
        library().faults_arm(OFF, 0, 0, None)
    return number


def in_child(write: Callable[[], None], action: int, at: int, error: int = 0) -> int:
    """Do the same in a child process; return its id."""
    child = os.fork()
    if not child:
        from bert4keras.checkpoints import CheckpointError

        status = 1
        try:
            run(write, action, at, error)
            status = 0
        except CheckpointError:
            status = REFUSED
        except BaseException as error:
            print(f"at {at}: {error!r}", file=sys.stderr)
        finally:
            os._exit(status)
    return child


def copied(folder: Path) -> Path:
    """Copy a folder with its links, symbolic and hard ones."""
    target = Path(tempfile.mkdtemp(dir=folder.parent))
    inodes: dict[int, str] = {}

    def copy(source: str, place: str) -> None:
        number = os.stat(source, follow_symlinks=False).st_ino
        if number in inodes:
            os.link(inodes[number], place)
        else:
            inodes[number] = place
            shutil.copyfile(source, place, follow_symlinks=False)

    shutil.copytree(folder, target, symlinks=True, copy_function=copy, dirs_exist_ok=True)
    return target


def seen(folder: Path) -> tuple:
    """What a reader can see in a folder: names and contents, hidden folders apart."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    shown = [path for path in files if ".tmp" not in str(path.relative_to(folder))]
    return tuple((str(path.relative_to(folder)), path.read_bytes()) for path in shown)


def rubbish(folder: Path) -> list[str]:
    return [str(p) for p in folder.rglob("*") if p.name.startswith(".") or p.is_symlink()]


def unsynced(names: str) -> set[str]:
    """Files and folders that were changed and not put on the disk after that."""
    dirty = set()
    for line in names.splitlines():
        operation, path = line.split(" ", 1)
        if operation in ("open", "write", "ftruncate", "ftruncate64"):
            dirty.add(path)
        elif operation in ("rename", "renameat", "unlink") and ".tmp" not in path:
            dirty.add(os.path.dirname(path))
        elif operation == "fsync":
            dirty.discard(path)
    return dirty


# === What is found ===


class Tally:
    """Counts what readers find in folders; each different sight is read once.

    Args:
        case: who writes and reads.
        fresh: whether nothing stood there before.
    """

    def __init__(self, case: Case, fresh: bool = False):
        self.case, self.fresh = case, fresh
        self.known: dict[tuple, str] = {}
        self.counts = {"points": 0, "old": 0, "new": 0, "bad": 0, "rubbish": 0}

    def add(self, folder: Path) -> str:
        sight = seen(folder)
        if sight not in self.known:
            self.known[sight] = self.read(folder, sight)
        self.counts["points"] += 1
        self.counts[self.known[sight]] += 1
        return self.known[sight]

    def read(self, folder: Path, sight: tuple) -> str:
        if self.fresh and not sight:
            return "old"
        try:
            return ("old", "new")[self.case.read(folder)]
        except Exception as error:
            print(f"{[name for name, _ in sight]}: {error!r}", file=sys.stderr)
            return "bad"

    def write_again(self, folder: Path) -> None:
        """Write once more, after which nothing is left of what went before."""
        self.case.write(folder, 1)
        assert self.add(folder) == "new", folder
        self.check_rubbish(folder)

    def check_rubbish(self, folder: Path) -> None:
        if left := rubbish(folder):
            self.counts["rubbish"] += 1
            print(f"left behind: {left}", file=sys.stderr)


def prepared(case: Case, root: Path, fresh: bool = False) -> Path:
    """A folder in which the first generation stands, unless it is to be fresh."""
    folder = Path(tempfile.mkdtemp(dir=root))
    if not fresh:
        case.write(folder, 0)
    return folder


def states(case: Case, folder: Path, generation: int = 1) -> tuple[list[Path], str]:
    """Copy a folder before each operation of a writer; return also what the operations are."""
    copies: list[Path] = []
    called = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda _: copies.append(copied(folder)))
    pointer = ctypes.cast(called, ctypes.c_void_p)
    run(lambda: case.write(folder, generation), CALL, function=pointer)
    return copies, library().faults_names().decode()


def try_states(case: Case, root: Path, thorough: bool = True) -> dict[str, int]:
    tally = Tally(case)
    for fresh in (False, True) if thorough else (False,):
        tally.fresh = fresh
        folder = prepared(case, root, fresh)
        folders, names = states(case, folder)
        tally.counts["unsynced"] = len(unsynced(names))
        for state in [*folders, folder]:
            tally.add(state)
        tally.check_rubbish(folder)
        for state in folders[:: 1 + len(folders) // 6] if thorough else folders[-1:]:
            tally.write_again(state)
    return tally.counts


def operations(case: Case, root: Path) -> int:
    folder = prepared(case, root)
    return run(lambda: case.write(folder, 1), STOP, -1)


def try_kills(case: Case, root: Path) -> dict[str, int]:
    tally, base = Tally(case), prepared(case, root)
    for at in range(1, operations(case, root) + 1):
        for action in (KILL, TEAR):
            folder = copied(base)
            _, status = os.waitpid(in_child(lambda f=folder: case.write(f, 1), action, at), 0)
            assert action == TEAR or os.WTERMSIG(status) == signal.SIGKILL, status
            tally.add(folder)
            tally.write_again(folder)
    return tally.counts


def try_errors(case: Case, root: Path) -> dict[str, int]:
    tally, base = Tally(case), prepared(case, root)
    for at in range(1, operations(case, root) + 1):
        for action, error in ((FAIL, errno.EIO), (FAIL, errno.EPERM), (FAIL_FROM, errno.ENOSPC)):
            folder = copied(base)
            child = in_child(lambda f=folder: case.write(f, 1), action, at, error)
            _, status = os.waitpid(child, 0)
            assert status in (0, REFUSED << 8), f"{action} at {at}: {status}"
            found = tally.add(folder)
            assert found == "new" or status, f"{action} at {at}: the error was swallowed"
            tally.write_again(folder)
    return tally.counts


def try_pairs(case: Case, root: Path) -> dict[str, int]:
    tally, base = Tally(case), prepared(case, root)
    for at in range(1, operations(case, root) + 1):
        folder = copied(base)
        first = in_child(lambda f=folder: case.write(f, 1), STOP, at)
        os.waitpid(first, os.WUNTRACED)
        second = in_child(lambda f=folder: case.write(f, 0), STOP, -1)
        for _ in range(20):  # it may wait for the first one
            time.sleep(0.01)
            ended, status = os.waitpid(second, os.WNOHANG)
            if ended:
                break
        tally.add(folder)
        os.kill(first, signal.SIGCONT)
        assert os.waitpid(first, 0)[1] == 0
        assert (status if ended else os.waitpid(second, 0)[1]) == 0
        tally.add(folder)
        tally.check_rubbish(folder)
    return tally.counts


def try_twice(case: Case, root: Path) -> dict[str, int]:
    tally = Tally(case)
    for state in states(case, prepared(case, root))[0]:
        again = states(case, state, 0)[0]
        for each in again:
            tally.add(each)
        tally.write_again(again[-1])
        for each in again:
            shutil.rmtree(each)
    return tally.counts


MODES = {
    "states": try_states,
    "states, briefly": partial(try_states, thorough=False),
    "kills": try_kills,
    "errors": try_errors,
    "pairs": try_pairs,
    "twice": try_twice,
}


def main(root: Path, mode: str, names: list[str]) -> None:
    cases = plain_cases()
    if not set(names) <= set(cases):
        cases |= model_cases()
    result = {}
    for name in names or cases:
        folder = Path(tempfile.mkdtemp(dir=root))
        try:
            result[name] = MODES[mode](cases[name], folder)
        finally:
            shutil.rmtree(folder)
    print(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
