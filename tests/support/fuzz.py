"""Damage weight files in many ways, open them and see that nothing bad happens.

`python fuzz.py FOLDER CONTAINER COUNT` works on `FOLDER/CONTAINER/` and `FOLDER/CONTAINER.pickle`,
which `test_fuzzing.py` writes, and prints how many files were refused; `python fuzz.py FOLDER
hostile` opens the files of `hostile.py`, and prints for each how long it took to be refused. It is
a process of its own: a crash or a hang ends it and not the tests, and its memory can be limited.
"""

import io
import itertools
import json
import os
import pickle
import resource
import shutil
import signal
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import google_crc32c
import numpy as np
from speed import seconds_here

from bert4keras.checkpoints import CheckpointError, bundle, open_checkpoint

SECONDS = 2  # of computing, for one file; more on a slower machine
TRIES = 3  # a machine that is busy may be slow once
MEMORY = 256 << 20  # bytes, beyond what the interpreter and its libraries take
HOSTILE_MEMORY = 200 << 20  # the same for hostile files, and twice what they take on the disk
FORBIDDEN = (
    *("os.system", "os.exec", "os.fork", "os.posix_spawn", "os.mkdir", "subprocess.Popen"),
    *("exec", "compile", "pickle.find_class", "socket.connect", "ctypes.dlopen", "marshal.loads"),
)

# === Damage to any file ===

HUGE = [b"\xff" * n for n in (1, 2, 4, 8)] + [b"\0\0\0\x80", b"\xff\xff\xff\x7f", b"\0" * 8]
ODD_NAMES = [b"\xff\xfe", b"\0", b"../../x", b"/etc/passwd", "\u202e".encode(), b"%s%n", b"x" * 999]


def mutate(random: np.random.Generator, content: bytes) -> bytes:
    """Cut, flip a bit, overwrite, remove, repeat, insert or swap, or give another beginning."""
    at, size = int(random.integers(len(content) + 1)), int(random.integers(1, 40))
    if random.random() < 0.3:  # where formats have their structure
        at = min(at, int(random.integers(64)))
    head, middle, tail = content[:at], content[at : at + size], content[at + size :]
    match random.integers(11):
        case 0:
            return head
        case 1 | 2 | 3:
            flipped = bytes([middle[0] ^ 1 << random.integers(8)]) if middle else b""
            return head + flipped + middle[1:] + tail
        case 4:
            return head + random.bytes(len(middle)) + tail
        case 5:
            return head + tail
        case 6:
            return head + middle * int(random.integers(2, 5)) + tail
        case 7:
            number = HUGE[random.integers(len(HUGE))]
            return head + number + content[at + len(number) :]
        case 8:
            return head + ODD_NAMES[random.integers(len(ODD_NAMES))] + tail
        case 9:
            return head + content[-size:] + tail
    return random.bytes(min(size, 9)) + content[min(size, 9) :]


def overwrite(file: Path, content: bytes) -> None:
    """Change a file in place: to make it anew would take more time than everything else."""
    with open(file, "r+b") as stream:
        stream.write(content)
        stream.truncate()


def damaged(random: np.random.Generator, folder: Path) -> None:
    """Damage one file of a folder."""
    files = sorted(p for p in folder.iterdir())
    file = files[random.integers(len(files))]
    overwrite(file, mutate(random, file.read_bytes()))


# === Damage below the checksums, or to the numbers in a header ===


def rewritten_index(random: np.random.Generator, folder: Path) -> None:
    """Damage the records of a TensorFlow checkpoint and give them the checksums they need."""
    file = folder / "m.index"
    block = mutate(random, bundle._to_block(bundle._table_items(file.read_bytes()))) + b"\0"

    def signed(block: bytes) -> bytes:
        return block + bundle._masked(google_crc32c.value(block)).to_bytes(4, "little")

    handle = bundle._to_varint(0) + bundle._to_varint(len(block) - 1)
    data, top = signed(block), bundle._to_block([(b"\xff", handle)]) + b"\0"
    footer = handle + bundle._to_varint(len(data)) + bundle._to_varint(len(top) - 1)
    overwrite(file, data + signed(top) + footer.ljust(40, b"\0") + bundle.MAGIC)


def changed_json(random: np.random.Generator, folder: Path) -> None:
    """Replace a value in the header of a safetensors file, or in an index of several."""
    files = sorted(folder.iterdir())
    file = files[random.integers(len(files))]
    content = file.read_bytes()
    start, size = 0, len(content)
    if file.suffix != ".json":
        start, size = 8, int.from_bytes(content[:8], "little")
    header = json.loads(content[start : start + size])
    values = [-1, 0, 1, 1 << 31, 1 << 62, 1 << 64, 1.5, None, "", "x", "\0", [], {}, [[]] * 9, True]
    replace_one(random, header, values)
    text = json.dumps(header).encode()
    prefix = len(text).to_bytes(8, "little") if start else b""
    overwrite(file, prefix + text + content[start + size :])


def replace_one(random: np.random.Generator, value, others) -> None:
    """Replace something in nested dicts and lists."""
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key = keys[random.integers(len(keys))]
    if isinstance(value[key], dict | list) and value[key] and random.random() < 0.8:
        replace_one(random, value[key], others)
    elif random.random() < 0.2 and isinstance(value, dict):
        value[str(others[random.integers(len(others))])] = value.pop(key)
    else:
        value[key] = others[random.integers(len(others))]


def rewritten_archive(random: np.random.Generator, folder: Path) -> None:
    """Damage a member of a zip archive, and write the archive as if it had been so."""
    (file,) = folder.iterdir()
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    pickles = [name for name in members if name.endswith("data.pkl")]
    name = pickles[0] if pickles else list(members)[random.integers(len(members))]
    if pickles and random.random() < 0.3:
        members[name] = hostile_pickle(random, folder)
    else:
        members[name] = mutate(random, members[name])
    methods = [zipfile.ZIP_STORED] * 4 + [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2]
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", methods[random.integers(len(methods))]) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    overwrite(file, stream.getvalue())


class Calls:
    """What its pickle asks to be called when it is read."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


def hostile_pickle(random: np.random.Generator, folder: Path) -> bytes:
    """A pickle that calls what it must not, or is larger than it looks."""
    marker = str(folder.parent / "marker")
    calls = [
        Calls(os.system, f"mkdir {marker}"),
        Calls(os.mkdir, marker),
        Calls(exec, f"import os; os.mkdir({marker!r})"),
        Calls(eval, "().__class__.__base__.__subclasses__()"),
        Calls(bytearray, 1 << 40),
        Calls(pickle.loads, pickle.dumps(Calls(os.mkdir, marker))),
        Calls(range, 1 << 60),
        Calls(np.zeros, 1 << 40),
    ]
    value = calls[random.integers(len(calls))]
    for _ in range(random.integers(4)):
        wrapped = [
            [value],
            {"x": value},
            {"state_dict": value},
            (1, value),
            Calls(dict, [(1, value)]),
        ]
        value = wrapped[random.integers(len(wrapped))]
    data = pickle.dumps(value, int(random.integers(6)))
    repeated = [b"(", b"}", b"]", b"(]", b"N\x85", b"K\1q\1h\1\x86", b"}q\1h\1s"]
    match random.integers(4):
        case 0:
            return mutate(random, data)
        case 1:
            return repeated[random.integers(len(repeated))] * int(random.integers(1, 20000)) + b"."
    return data


def rewritten_row(random: np.random.Generator, folder: Path) -> None:
    """Put a hostile pickle in the place of one of those of PyTorch's older format."""
    (file,) = folder.iterdir()
    stream = io.BytesIO(file.read_bytes())
    ends = [0]
    for _ in range(3):  # a number, a version, the system: what pickle can read
        pickle.load(stream)
        ends.append(stream.tell())
    parts = [stream.getvalue()[a:b] for a, b in itertools.pairwise(ends)]
    parts = parts[: random.integers(4)]
    overwrite(file, b"".join([*parts, hostile_pickle(random, folder)]) + stream.read())


BELOW = {
    "tensorflow": rewritten_index,
    "safetensors": changed_json,
    "shards": changed_json,
    "torch": rewritten_archive,
    "legacy": rewritten_row,
    "npz": rewritten_archive,
}
# The older format of PyTorch, safetensors by others and files by Keras 2 have no checksums: damage
# to values is not noticed there by any reader.
UNCHECKED = ("legacy", "foreign", "keras 2")


# === The process ===


def read_all(folder: Path, name: str) -> dict[str, np.ndarray]:
    """Read all variables."""
    with open_checkpoint(folder / name) as checkpoint:
        return {name: np.array(checkpoint[name]) for name in checkpoint}


def same(found: dict, expected: dict) -> bool:
    """Tell whether what was read is what was written."""
    return found.keys() == expected.keys() and all(
        found[name].dtype == value.dtype and np.array_equal(found[name], value)
        for name, value in expected.items()
    )


def damages(container: str, count: int) -> Iterator[tuple[int, bool]]:
    """Yield seeds, and whether to damage what lies below the checksums: two fifths of them."""
    for seed in range(count):
        yield seed, container in BELOW and seed % 5 < 2


def limit_memory(memory: int) -> tuple[int, int]:
    """Let the process take so many bytes more than it has; return the limits before."""
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + memory, before[1]))
    return before


def watched() -> list[str]:
    """End the process if it does what is forbidden while the list that is returned has an item."""
    watching: list[str] = []

    def watch(event: str, arguments: tuple) -> None:
        if watching and event in FORBIDDEN:
            os.write(2, f"{watching[0]}: {event} {str(arguments)[:200]}\n".encode())
            os._exit(3)

    for codec in ("cp437", "utf-8-sig"):  # of names in zip archives, of JSON
        "".encode(codec)
    sys.addaudithook(watch)
    return watching


def limit_time(seconds: float) -> None:
    """End the process when it has computed for so long, or waited thirty times as long."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, 30 * seconds)


def time_to_refuse(name: str, path: Path) -> float:
    """Open and read a file that has to be refused; return the seconds of computing it took."""
    start = time.process_time()
    refused = False
    try:
        read_all(path.parent, path.name)
    except CheckpointError as error:
        refused = len(str(error)) < 5000
    assert refused, f"{name} was read, or refused with too many words"
    return time.process_time() - start


def open_hostile(folder: Path, names: list[str]) -> None:
    """Write, open and read hostile files one by one; print how long each took to be refused."""
    import hostile

    for container, write in hostile.VALID.items():  # imports whatever is imported late
        write(folder / container)
        read_all(folder, container)
    times = {}
    watching = watched()
    for number, name in enumerate(names or hostile.CASES):
        place = folder / str(number)
        place.mkdir()
        path = hostile.CASES[name](place)
        (folder / "hostile.seed").write_text(name)
        size = sum(file.lstat().st_blocks * 512 for file in place.iterdir())
        for _ in range(TRIES):
            allowed = seconds_here(SECONDS)
            before = limit_memory(HOSTILE_MEMORY + 2 * size)
            limit_time(5 * allowed)  # of what does not end
            watching.append(name)
            times[name] = time_to_refuse(name, path)
            watching.clear()
            limit_time(0)
            resource.setrlimit(resource.RLIMIT_AS, before)
            if times[name] < allowed:
                break
        else:
            raise AssertionError(f"{name} takes {times[name]:.1f} s of {allowed:.1f}")
        shutil.rmtree(place)
    print(json.dumps(times))


def main(folder: Path, container: str, count: int) -> None:
    """Damage the files of one container `count` times."""
    source, work = folder / container, folder / f"{container}.work"
    name, expected = pickle.loads((folder / f"{container}.pickle").read_bytes())
    assert same(read_all(source, name), expected)  # also imports whatever is imported late
    watching = watched()
    limit_memory(MEMORY)
    shutil.copytree(source, work)
    whole = {work / file.name: file.read_bytes() for file in source.iterdir()}
    seconds = seconds_here(SECONDS)
    last_seed = os.open(folder / f"{container}.seed", os.O_CREAT | os.O_WRONLY)
    refused = 0
    for seed, below in damages(container, count):
        for file, content in whole.items():
            overwrite(file, content)
        random = np.random.default_rng([seed, sum(container.encode())])
        (BELOW[container] if below else damaged)(random, work)
        os.pwrite(last_seed, b"%6d" % seed, 0)  # for whoever finds the process dead
        limit_time(seconds)  # its signal ends the process
        watching.append(container)
        try:
            found = read_all(work, name)
        except CheckpointError:
            refused += 1
        else:
            unharmed = below or container in UNCHECKED or same(found, expected)
            assert unharmed, f"{container}: seed {seed} gives other values"
        finally:
            watching.clear()
            limit_time(0)
    assert not (folder / "marker").exists()
    print(refused)


if __name__ == "__main__":
    if sys.argv[2] == "hostile":
        open_hostile(Path(sys.argv[1]), sys.argv[3:])
    else:
        main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
