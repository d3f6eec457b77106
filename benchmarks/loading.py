"""Building and loading a BERT beside `transformers`; reading its file; the time of imports.

    python benchmarks/loading.py [--rounds 5] [--engines tensorflow jax torch] [--sizes base large]

Writes checkpoints of BERT-base and BERT-large size with random numbers into a temporary folder (0.4
and 1.3 GB in each of three formats). Every load runs in a process of its own, which has imported
all it needs before, ours and that of the peer in turn; it is timed once as the first thing that the
process does, and once more. `BertModel.from_pretrained` maps a safetensors file without reading it,
so that the time until every weight has been read once is given too. Peak memory is what the process
grew by while it loaded first.
"""

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from turns import PEER, ask, ratio, seconds, start, stop

from bert4keras.checkpoints import open_checkpoint, write_checkpoint

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

ENGINES = ("tensorflow", "jax", "torch")
FORMATS = ("tensorflow", "safetensors", "torch")
SIZES = {"base": (12, 768), "large": (24, 1024), "tiny": (2, 64)}
READERS = ("tensorflow", "bert4keras")
QUESTIONS = ("first", "read", "again", "peak")
"""What a process is asked: see `answers`."""


def config_of(size: str) -> dict:
    """The config of a BERT with `num_hidden_layers` and `hidden_size` as `SIZES` says."""
    n_layers, hidden = SIZES[size]
    return {
        "model_type": "bert",
        "architectures": ["BertForPreTraining"],
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": 4 * hidden,
        "max_position_embeddings": 512,
        "num_attention_heads": hidden // 64,
        "num_hidden_layers": n_layers,
        "type_vocab_size": 2,
        "vocab_size": 21128,
    }


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


# === Files ===


def write_folder(folder: Path, size: str, kind: str) -> Path:
    """Write the config and the weights of a BERT, and return the folder."""
    folder.mkdir()
    config = config_of(size)
    (folder / "config.json").write_text(json.dumps(config))
    variables = RandomVariables(bert_shapes(config))
    if kind == "tensorflow":
        write_checkpoint(folder / "bert_model.ckpt", variables)
        return folder
    command = [sys.executable, __file__, "--write", size, kind, str(folder)]
    subprocess.run(command, check=True)  # the memory of it is of no concern to what is measured
    return folder


def write_for_hugging_face(size: str, kind: str, folder: Path) -> None:
    """Write weights under the names of Hugging Face."""
    import torch
    from safetensors.torch import save_file

    from bert4keras.checkpoints.names import to_hugging_face
    from bert4keras.models.bert import BERT

    variables = RandomVariables(bert_shapes(config_of(size)))
    arrays = to_hugging_face(variables, BERT.dialect)
    tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    if kind == "torch":
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def size_of(folder: Path) -> int:
    """How many bytes the weights in a folder have."""
    return sum(file.stat().st_size for file in folder.iterdir())


# === A process that loads ===


def make_loader(engine: str, folder: str) -> tuple[Callable, Callable]:
    """Return a function that builds and loads, and one that reads all weights of the model."""
    if engine == PEER:
        import transformers

        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        from transformers import BertModel

        return (
            lambda: BertModel.from_pretrained(folder, add_pooling_layer=False),
            lambda model: [p.detach().sum().item() for p in model.parameters()],
        )
    from keras import ops

    from bert4keras.models import build_transformer_model

    return (
        lambda: build_transformer_model(folder),
        lambda model: [float(ops.stop_gradient(ops.sum(weight))) for weight in model.weights],
    )


def memory(field: str) -> int:
    """Return a field of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise LookupError(f"/proc/self/status has no {field}")


def answers(engine: str, folder: str) -> dict[str, Callable[[], float]]:
    """What a process answers, in this order.

    Returns:
        By question: 'first' and 'again' load and give the seconds, 'read' those that reading all
        weights takes after the first load, 'peak' the bytes by which the first load grew.
    """
    load, read = make_loader(engine, folder)
    state = {}

    def first() -> float:
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
        before = memory("VmRSS")
        taken = seconds(lambda: state.update(model=load()))
        state["peak"] = memory("VmHWM") - before
        return taken

    def again() -> float:
        state.pop("model")
        gc.collect()
        return seconds(lambda: state.update(model=load()))

    return {
        "first": first,
        "read": lambda: seconds(lambda: read(state["model"])),
        "again": again,
        "peak": lambda: state["peak"],
    }


def serve(engine: str, folder: str) -> None:
    """Answer questions from standard input."""
    questions = answers(engine, folder)
    print("ready", flush=True)
    for line in sys.stdin:
        print(questions[line.strip()](), flush=True)


# === What is reported ===


def measured(engine: str, folder: Path) -> dict[str, float]:
    """Load in a new process, and return all answers."""
    worker = start(__file__, engine, str(folder))
    taken = {question: ask(worker, question) for question in QUESTIONS}
    stop([worker])
    return taken


def report_loading(folder: Path, size: str, engines: list[str], rounds: int) -> None:
    """Print a row for the peer, and one for each engine and format."""
    folders = {kind: write_folder(folder / f"{size}-{kind}", size, kind) for kind in FORMATS}
    pairs = [(PEER, kind) for kind in FORMATS[1:]]  # it reads no checkpoints of TensorFlow any more
    pairs += [(engine, kind) for engine in engines for kind in FORMATS]
    found = {pair: [] for pair in pairs}
    for _ in range(rounds):
        for engine, kind in pairs:
            found[engine, kind].append(measured(engine, folders[kind]))
    print(f"\n{size}, {size_of(folders['tensorflow']) / 1e6:.0f} MB")
    for (engine, kind), rows in found.items():
        peers = found[PEER, "safetensors" if kind == "tensorflow" else kind]
        columns = [spread([row[question] for row in rows]) for question in ("first", "again")]
        columns += [times(peers, rows, "first"), times(peers, rows, "first", "read")]
        columns += [times(peers, rows, "again")]
        peak = statistics.median(row["peak"] for row in rows) / size_of(folders[kind])
        print(f"{engine:12} {kind:12} {' | '.join(columns)} | peak {peak:.2f} of the file")


def times(peers: list[dict], rows: list[dict], *questions: str) -> str:
    """Our time as a multiple of the peer's, see `turns.ratio`."""
    ours, theirs = (
        [sum(row[question] for question in questions) for row in side] for side in (rows, peers)
    )
    return ratio(ours, theirs)


def make_reader(kind: str, prefix: str) -> Callable[[], None]:
    """Return a function without arguments that reads all variables of a checkpoint."""
    if kind == "bert4keras":

        def read() -> None:
            with open_checkpoint(prefix) as bundle:
                for name in bundle:
                    bundle[name]

        return read
    import tensorflow as tf

    def read() -> None:
        reader = tf.train.load_checkpoint(prefix)
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)

    return read


def report_reading(folder: Path, rounds: int) -> None:
    """Print how long reading a checkpoint takes here and with TensorFlow, checksums verified."""
    path = write_folder(folder / "reading", "base", "tensorflow")
    readers = {kind: make_reader(kind, str(path / "bert_model.ckpt")) for kind in READERS}
    for read in readers.values():
        read()  # a first time, for what each does only once
    found = {kind: [] for kind in readers}
    for _ in range(rounds):
        for kind, read in readers.items():
            found[kind].append(seconds(read))
    for kind, taken in found.items():
        print(f"{kind:12} {spread(taken)} s, {ratio(taken, found['tensorflow'])}")


def spread(values: list[float], digits: int = 3) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def import_time(statement: str) -> float:
    """Return the seconds that a statement takes in a fresh interpreter."""
    code = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    command = [sys.executable, "-c", code]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(out.split()[-1])


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
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["base", "large"])
    parser.add_argument("--loading-only", action="store_true", help="leave out reading and imports")
    parser.add_argument("--serve", nargs=2, metavar=("ENGINE", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument(
        "--write", nargs=3, metavar=("SIZE", "KIND", "FOLDER"), help=argparse.SUPPRESS
    )
    arguments = parser.parse_args()
    if arguments.serve:
        return serve(*arguments.serve)
    if arguments.write:
        size, kind, folder = arguments.write
        return write_for_hugging_face(size, kind, Path(folder))
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory() as folder:
            report_loading(Path(folder), size, arguments.engines, arguments.rounds)
    if not arguments.loading_only:
        with tempfile.TemporaryDirectory() as folder:
            report_reading(Path(folder), arguments.rounds)
        report_import(arguments.rounds)


if __name__ == "__main__":
    main()
