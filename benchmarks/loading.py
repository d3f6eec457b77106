"""Time and memory of loading a 12x768 checkpoint, and the time of `import bert4keras`.

    python benchmarks/loading.py [--rounds 5]

Writes a checkpoint of BERT-base size with random numbers under the official names into a temporary
folder (about 400 MB). One run alternates between reading all variables through
`tf.train.load_checkpoint`, reading them with `bert4keras.checkpoints` (checksums verified by both)
and loading them into a model that is already built. Peak memory is measured in a fresh process for
each. All times are given as medians with their range, and as ratios of the same round.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from bert4keras.checkpoints import open_checkpoint, write_checkpoint

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

CONFIG = {
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "type_vocab_size": 2,
    "vocab_size": 21128,
}
READERS = ("tensorflow", "bert4keras", "model")


def bert_shapes(config: Mapping) -> dict[str, tuple[int, ...]]:
    """Return the official names and shapes of a BERT with pooler and both heads."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    shapes = {
        "bert/embeddings/word_embeddings": (config["vocab_size"], hidden),
        "bert/embeddings/position_embeddings": (config["max_position_embeddings"], hidden),
        "bert/embeddings/token_type_embeddings": (config["type_vocab_size"], hidden),
        "cls/predictions/output_bias": (config["vocab_size"],),
        "cls/seq_relationship/output_weights": (2, hidden),
        "cls/seq_relationship/output_bias": (2,),
    }

    def dense(name: str, rows: int, columns: int) -> None:
        shapes.update({f"{name}/kernel": (rows, columns), f"{name}/bias": (columns,)})

    def norm(name: str) -> None:
        shapes.update({f"{name}/LayerNorm/{w}": (hidden,) for w in ("beta", "gamma")})

    norm("bert/embeddings")
    dense("bert/pooler/dense", hidden, hidden)
    dense("cls/predictions/transform/dense", hidden, hidden)
    norm("cls/predictions/transform")
    for i in range(config["num_hidden_layers"]):
        layer = f"bert/encoder/layer_{i}"
        for part in ("query", "key", "value"):
            dense(f"{layer}/attention/self/{part}", hidden, hidden)
        dense(f"{layer}/attention/output/dense", hidden, hidden)
        norm(f"{layer}/attention/output")
        dense(f"{layer}/intermediate/dense", hidden, inner)
        dense(f"{layer}/output/dense", inner, hidden)
        norm(f"{layer}/output")
    return shapes


class RandomVariables(Mapping):
    """Arrays made when they are asked for, so that writing needs the memory of one."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]):
        self.shapes = shapes
        self.random = np.random.default_rng(0)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.random.standard_normal(self.shapes[name], np.float32) * np.float32(0.02)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def make_reader(kind: str, folder: Path) -> Callable[[], None]:
    """Return a function without arguments that loads the checkpoint; imports are done before."""
    prefix = str(folder / "bert_model.ckpt")
    if kind == "bert4keras":

        def read() -> None:
            with open_checkpoint(prefix) as bundle:
                for name in bundle:
                    bundle[name]

        return read
    if kind == "tensorflow":
        import tensorflow as tf

        def read() -> None:
            reader = tf.train.load_checkpoint(prefix)
            for name in reader.get_variable_to_shape_map():
                reader.get_tensor(name)

        return read
    from bert4keras.models import build_transformer_model

    transformer = build_transformer_model(
        str(folder / "bert_config.json"),
        None,
        with_pool=True,
        with_nsp=True,
        with_mlm=True,
        return_keras_model=False,
    )
    return lambda: transformer.load_weights_from_checkpoint(prefix)


def memory(field: str) -> int:
    """Return a field of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise LookupError(f"/proc/self/status has no {field}")


def print_peak(kind: str, folder: Path) -> None:
    """Print the peak of extra memory that one load takes in this process, in bytes."""
    read = make_reader(kind, folder)
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = memory("VmRSS")
    read()
    print(memory("VmHWM") - before)


def peak(kind: str, folder: Path) -> int:
    command = [sys.executable, __file__, "--peak", kind, str(folder)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(out.split()[-1])


def timed(function: Callable[[], None]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def import_time(statement: str) -> float:
    """Return the seconds that a statement takes in a fresh interpreter."""
    code = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    command = [sys.executable, "-c", code]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(out.split()[-1])


def spread(values: list[float], digits: int = 3) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def report_loading(folder: Path, rounds: int) -> None:
    shapes = bert_shapes(CONFIG)
    (folder / "bert_config.json").write_text(json.dumps(CONFIG))
    writing = timed(lambda: write_checkpoint(folder / "bert_model.ckpt", RandomVariables(shapes)))
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"checkpoint: {size / 1e6:.0f} MB, {len(shapes)} variables, written in {writing:.1f} s")

    readers = {kind: make_reader(kind, folder) for kind in READERS}
    for read in readers.values():
        read()  # a first time, for what each does only once
    times = {kind: [] for kind in readers}
    for _ in range(rounds):
        for kind, read in readers.items():
            times[kind].append(timed(read))
    for kind, seconds in times.items():
        pairs = zip(seconds, times["tensorflow"], strict=True)
        ratio = spread([own / reference for own, reference in pairs], 2)
        extra = peak(kind, folder)
        print(
            f"{kind:12} {spread(seconds)} s, ratio to tensorflow {ratio}, "
            f"peak extra memory {extra / 1e6:.0f} MB = {extra / size:.2f} of the checkpoint"
        )


def report_import(rounds: int) -> None:
    keras, both = [], []
    statement = "import keras; import bert4keras"
    for module in ("layers", "models", "optimizers", "snippets", "tokenizers"):
        statement += f"; import bert4keras.{module}"
    for _ in range(rounds):
        keras.append(import_time("import keras"))
        both.append(import_time(statement))
    extra = [b - k for b, k in zip(both, keras, strict=True)]
    print(f"import keras {spread(keras, 2)} s; with all of bert4keras {spread(extra, 2)} s more")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="repetitions (default: 5)")
    parser.add_argument("--peak", nargs=2, metavar=("READER", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        print_peak(arguments.peak[0], Path(arguments.peak[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        report_loading(Path(folder), arguments.rounds)
    report_import(arguments.rounds)


if __name__ == "__main__":
    main()
