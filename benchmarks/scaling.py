"""How time and memory grow with the length of texts and with the vocabulary.

    python benchmarks/scaling.py [--lengths 128 256 …] [--vocabularies 5000 …] [--cases mlm crf …]
                                 [--layers 2] [--size 128] [--rows 2] [--rounds 3]
                                 [--processor-time] [--json FILE] [--picture FILE] [--tiny]

The backend is the one that `KERAS_BACKEND` names. A BERT of `--layers` × `--size` gets a head for
the classes of texts (`fit`, a training step with Adam; `predict`) and one for the 15 % of tokens
that are masked (`mlm`, a training step). As a language model it writes 16 tokens, greedily and with
its cache, after a prompt (`generate`). On vectors of tokens alone, a CRF of 9 labels learns (`crf`)
and decodes (`decode`, on the device; `viterbi` is `ViterbiDecoder`, in NumPy), and `GlobalPointer`
scores the spans of 4 kinds (`pointer`) and learns them from a matrix of labels (`dense`) or from a
list of spans (`sparse`).

Each case is a process of its own for each of the two axes; its sizes come in ascending order. A
size is run once, which compiles it, and then `--rounds` times. Time is the shortest of these (with
`--processor-time` the time that is computed, for a machine that has other work to do), memory what
the process has grown by at its peak during them, from before the model of this size was built. The
exponent behind a value is that of the growth since the size before: 1 where it doubles with the
size, 2 where it quadruples.
"""

import argparse
import gc
import itertools
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from turns import seconds

TINY = {
    "lengths": [16, 32],
    "vocabularies": [50, 100],
    "length": 16,
    "vocabulary": 50,
    "layers": 1,
    "size": 16,
    "rounds": 1,
}
HEAD, LABELS, KINDS, SPANS, NEW = 64, 9, 4, 8, 16
AXES = {"length": "tokens of a text", "vocabulary": "tokens of the vocabulary"}
UNITS = {"seconds": ("ms", 1e-3), "bytes": ("MiB", 1 << 20)}
LEAST = {"seconds": 1e-9, "bytes": 1 << 20}  # what is less is noise

Point = dict[str, Any]
"""`axis`, `case`, `size`, `engine`, and what was measured: `seconds` and `bytes`."""


# ------------------------------------------------------------------------------- what is measured

Call = Callable[[], object]


def bert(options: argparse.Namespace, length: int, vocabulary: int, **kwargs: Any) -> Any:
    """A small BERT with random weights."""
    from bert4keras.models import build_transformer_model

    return build_transformer_model(
        vocab_size=vocabulary,
        hidden_size=options.size,
        num_hidden_layers=options.layers,
        num_attention_heads=max(options.size // HEAD, 1),
        intermediate_size=4 * options.size,
        hidden_act="gelu",
        max_position_embeddings=length + NEW,
        **kwargs,
    )


def token_ids(options: argparse.Namespace, length: int, vocabulary: int) -> np.ndarray:
    """Random ids (rows, length) without padding."""
    random = np.random.default_rng(0)
    return random.integers(1, vocabulary, (options.rows, length), dtype="int32")


def classifier(options: argparse.Namespace, length: int, vocabulary: int) -> tuple[Any, list]:
    """A model with a head for two classes, and its inputs."""
    import keras

    from bert4keras.layers import Dense
    from bert4keras.models import Model

    base = bert(options, length, vocabulary)
    model = Model(base.inputs, Dense(2, activation="softmax")(base.output[:, 0]))
    model.compile(keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy")
    ids = token_ids(options, length, vocabulary)
    return model, [ids, 0 * ids]


def fit(options: argparse.Namespace, length: int, vocabulary: int) -> Call:
    model, inputs = classifier(options, length, vocabulary)
    return lambda: model.train_on_batch(inputs, np.arange(options.rows) % 2)


def predict(options: argparse.Namespace, length: int, vocabulary: int) -> Call:
    model, inputs = classifier(options, length, vocabulary)
    return lambda: model.predict_on_batch(inputs)


def mlm(options: argparse.Namespace, length: int, vocabulary: int) -> Call:
    import keras

    model = bert(options, length, vocabulary, with_mlm="linear", masked_positions=True)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-4), loss)
    ids = token_ids(options, length, vocabulary)
    chosen = np.arange(max(length * 15 // 100, 1)) * np.ones((options.rows, 1), "int32")
    labels = np.take_along_axis(ids, chosen.astype("int64"), axis=1)
    return lambda: model.train_on_batch([ids, 0 * ids, chosen.astype("int32")], labels)


def generate(options: argparse.Namespace, length: int, vocabulary: int) -> Call:
    from bert4keras.generation import Generator

    model = bert(options, length, vocabulary, application="lm", with_mlm="linear")
    writer = Generator(model, end_id=0, maxlen=NEW, minlen=NEW)
    prompts = token_ids(options, length, vocabulary).tolist()
    return lambda: writer.generate(prompts, topk=1)


def vectors(options: argparse.Namespace, length: int) -> np.ndarray:
    """Random vectors of tokens (rows, length, size)."""
    shape = options.rows, length, options.size
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def tagger(options: argparse.Namespace, decodes: bool) -> tuple[Any, Any]:
    """A CRF, and a model that computes its scores, or decodes them."""
    import keras

    from bert4keras.layers import ConditionalRandomField, Dense
    from bert4keras.models import Model

    crf = ConditionalRandomField()
    inputs = keras.Input((None, options.size))
    scores = crf(Dense(LABELS)(inputs))
    return crf, Model(inputs, crf.decode(scores) if decodes else scores)


def crf(options: argparse.Namespace, length: int, _: int) -> Call:
    layer, model = tagger(options, decodes=False)
    model.compile("adam", layer.sparse_loss)
    x, labels = vectors(options, length), np.arange(options.rows * length) % LABELS
    return lambda: model.train_on_batch(x, labels.reshape(options.rows, length))


def decode(options: argparse.Namespace, length: int, _: int) -> Call:
    _, model = tagger(options, decodes=True)
    x = vectors(options, length)
    return lambda: model.predict_on_batch(x)


def viterbi(options: argparse.Namespace, length: int, _: int) -> Call:
    from bert4keras.snippets import ViterbiDecoder

    random = np.random.default_rng(0)
    decoder = ViterbiDecoder(random.normal(size=(LABELS, LABELS)))
    scores = random.normal(size=(options.rows, length, LABELS))
    return lambda: [decoder.decode(row) for row in scores]


def spans(options: argparse.Namespace, loss: Any = None) -> Any:
    """A model that scores the spans of each kind."""
    import keras

    from bert4keras.layers import GlobalPointer
    from bert4keras.models import Model

    inputs = keras.Input((None, options.size))
    model = Model(inputs, GlobalPointer(KINDS, HEAD)(inputs))
    model.compile("adam", loss)
    return model


def pointer(options: argparse.Namespace, length: int, _: int) -> Call:
    model, x = spans(options), vectors(options, length)
    return lambda: model.predict_on_batch(x)


def sparse_labels(options: argparse.Namespace, length: int) -> np.ndarray:
    """Random spans (rows, kinds, spans, 2)."""
    shape = options.rows, KINDS, SPANS, 2
    return np.sort(np.random.default_rng(1).integers(1, length, shape), axis=-1)


def sparse(options: argparse.Namespace, length: int, _: int) -> Call:
    from bert4keras.training import SparseMultilabelCrossentropy

    model = spans(options, SparseMultilabelCrossentropy(mask_zero=True, class_axes=2))
    x, labels = vectors(options, length), sparse_labels(options, length)
    return lambda: model.train_on_batch(x, labels)


def dense(options: argparse.Namespace, length: int, _: int) -> Call:
    from bert4keras.training import MultilabelCrossentropy

    model = spans(options, MultilabelCrossentropy(class_axes=2))
    labels = np.zeros((options.rows, KINDS, length, length), "float32")
    starts, ends = np.moveaxis(sparse_labels(options, length), -1, 0)
    rows, kinds = np.ogrid[: options.rows, :KINDS]
    labels[rows[..., None], kinds[..., None], starts, ends] = 1
    x = vectors(options, length)
    return lambda: model.train_on_batch(x, labels)


class Case(NamedTuple):
    """What is measured, how tables and picture call it, its line there, the axes it grows along."""

    make: Callable[[argparse.Namespace, int, int], Call]
    label: str
    line: str
    axes: tuple[str, ...] = ("length",)


CASES = {
    "fit": Case(fit, "step of fit, classifier", "C0o-", tuple(AXES)),
    "mlm": Case(mlm, "step of fit, masked tokens", "C1s-", tuple(AXES)),
    "predict": Case(predict, "predict", "C2^-", tuple(AXES)),
    "generate": Case(generate, f"generate, {NEW} tokens", "C3D-", tuple(AXES)),
    "crf": Case(crf, "CRF, step of fit", "C4o-"),
    "decode": Case(decode, "CRF.decode", "C4s--"),
    "viterbi": Case(viterbi, "ViterbiDecoder", "C4^:"),
    "pointer": Case(pointer, "GlobalPointer, predict", "C5o-"),
    "dense": Case(dense, "GlobalPointer, dense loss", "C5s--"),
    "sparse": Case(sparse, "GlobalPointer, sparse loss", "C5^:"),
}


# ------------------------------------------------------------------------------------- measuring


def resident(name: str) -> int:
    """Memory of this process in bytes: `VmRSS` now, or `VmHWM` at its peak."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.findall(rf"{name}:\s+(\d+) kB", status)[0])


def forget_peak() -> None:
    """Let the peak of this process begin from now on, where the system allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        print("the peaks include compiling: this system does not reset them", file=sys.stderr)


def engine() -> str:
    """The backend in use, or NumPy if a case needs none."""
    return sys.modules["keras"].backend.backend() if "keras" in sys.modules else "numpy"


def measure(case: str, axis: str, size: int, options: argparse.Namespace) -> Point:
    """Measure a case at one size."""
    gc.collect()
    before = resident("VmRSS")
    given = {"length": options.length, "vocabulary": options.vocabulary} | {axis: size}
    call = CASES[case].make(options, given["length"], given["vocabulary"])
    call()
    gc.collect()
    forget_peak()
    clock = time.process_time if options.processor_time else time.perf_counter
    taken = min(seconds(call, clock) for _ in range(options.rounds))
    grown = max(resident("VmHWM") - before, 0)
    point = {"axis": axis, "case": case, "size": size, "engine": engine()}
    return point | {"seconds": taken, "bytes": grown}


def sizes_of(axis: str, options: argparse.Namespace) -> list[int]:
    return sorted(options.lengths if axis == "length" else options.vocabularies)


def serve(case: str, axis: str, options: argparse.Namespace) -> None:
    """Measure a case along an axis; print a line of JSON for each size."""
    sizes = sizes_of(axis, options)
    measure(case, axis, sizes[0] // 2, options)  # what the engine loads once
    for size in sizes:
        print(json.dumps(measure(case, axis, size, options)), flush=True)


def measured(arguments: Sequence[str], options: argparse.Namespace) -> list[Point]:
    """Measure all cases along their axes, a process after the other."""
    # Tensors take new pages and give them back, so that the peak is that of the size.
    environment = {"MALLOC_MMAP_THRESHOLD_": "65536", "TF_CPP_MIN_LOG_LEVEL": "3"} | os.environ
    points = []
    for case in options.cases:
        for axis in CASES[case].axes:
            command = [sys.executable, __file__, *arguments, "--serve", case, axis]
            output = subprocess.run(
                command, env=environment, stdout=subprocess.PIPE, text=True, check=True
            ).stdout
            found = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
            points += found
            print(case, axis, *(f"{point['seconds']:.3g}" for point in found), file=sys.stderr)
    return points


# ------------------------------------------------------------------------------ table and picture


def series(points: list[Point], axis: str) -> dict[str, list[Point]]:
    """The points of each case along an axis, in the order of sizes."""
    found = {case: [p for p in points if (p["axis"], p["case"]) == (axis, case)] for case in CASES}
    return {case: sorted(row, key=lambda p: p["size"]) for case, row in found.items() if row}


def exponent(before: Point, after: Point, name: str) -> float:
    """By which power of the size a value grows from one point to the next."""
    if min(before[name], after[name]) < LEAST[name]:
        return math.nan
    return math.log(after[name] / before[name]) / math.log(after["size"] / before["size"])


def shown(name: str, value: float) -> str:
    """A value in its unit."""
    number = value / UNITS[name][1]
    return f"{number:,.0f}" if number >= 100 or name == "bytes" else f"{number:.2g}"


def row_of(row: list[Point], name: str) -> list[str]:
    """The values of a case, each but the first with its exponent."""
    cells = [shown(name, row[0][name])]
    for before, after in itertools.pairwise(row):
        power = exponent(before, after, name)
        cells.append(
            shown(name, after[name])
            + ("" if math.isnan(power) else f" ({round(power, 1) + 0.0:.1f})")
        )
    return cells


def table(points: list[Point], axis: str, name: str) -> str:
    """The values of all cases along an axis, as a table in Markdown."""
    rows = series(points, axis)
    sizes = [f"{p['size']:,}" for p in next(iter(rows.values()))]
    lines = [f"| {UNITS[name][0]}, by {AXES[axis]} | {' | '.join(sizes)} |"]
    lines += [f"| --- |{' --: |' * len(sizes)}"]
    lines += [f"| {CASES[case].label} | {' | '.join(row_of(rows[case], name))} |" for case in rows]
    return "\n".join(lines)


def draw(points: list[Point], image: Path) -> None:
    """Draw time above memory for each axis, the axes side by side; the suffix says the format."""
    from matplotlib.figure import Figure

    axes = [axis for axis in AXES if series(points, axis)]
    figure = Figure(figsize=(4.5 * len(axes) + 2.8, 8), dpi=110, layout="constrained")
    panels = figure.subplots(len(UNITS), len(axes), squeeze=False, sharex="col", sharey="row")
    for name, above in zip(UNITS, panels, strict=True):
        for axis, panel in zip(axes, above, strict=True):
            draw_panel(panel, points, axis, name)
        above[0].set_ylabel({"seconds": "time in ms", "bytes": "memory in MiB"}[name])
    for axis, panel in zip(axes, panels[-1], strict=True):
        panel.set_xlabel(AXES[axis])
    lines = {line.get_label(): line for panel in panels.flat for line in panel.get_lines()}
    figure.legend(lines.values(), lines.keys(), loc="outside right upper", frameon=False)
    figure.savefig(image)


def draw_panel(panel: Any, points: list[Point], axis: str, name: str) -> None:
    """Draw all cases along an axis, with lines that show which slope means which growth."""
    rows, unit = series(points, axis), UNITS[name][1]
    for case, row in rows.items():
        values = [p[name] / unit if p[name] >= LEAST[name] else math.nan for p in row]
        panel.plot([p["size"] for p in row], values, CASES[case].line, label=CASES[case].label)
    panel.set_xscale("log")
    sizes = sorted({p["size"] for row in rows.values() for p in row})
    panel.set_xticks(sizes, [f"{size:,}" for size in sizes])
    panel.grid(alpha=0.3)
    most = panel.dataLim.y1
    if not math.isfinite(most) or most <= 0:
        return
    for power, label in ((1, "as the size"), (2, "as its square")):
        guide = [most / 4 * (size / sizes[-1]) ** power for size in sizes]
        panel.plot(sizes, guide, ":" if power == 2 else "-", color="0.6", lw=2, label=label)
    panel.set_yscale("log")
    panel.minorticks_off()


# ---------------------------------------------------------------------------------------- command


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 256, 512, 1024, 2048])
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[5000, 20000, 50000, 150000])
    parser.add_argument("--length", type=int, default=128, help="where the vocabulary grows")
    parser.add_argument("--vocabulary", type=int, default=20000, help="where the length grows")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processor-time", action="store_true")
    parser.add_argument("--json", type=Path, help="where the points are written")
    parser.add_argument("--picture", type=Path, help="the file of the picture")
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes, for a test")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    return argparse.Namespace(**vars(options) | (TINY if options.tiny else {}))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parsed(arguments)
    if options.serve:
        case, axis = options.serve
        serve(case, axis, options)
        return
    points = measured(arguments, options)
    if options.json:
        options.json.write_text(json.dumps(points, indent=1))
    print(f"engine: {', '.join(sorted({p['engine'] for p in points}))}")
    for axis, name in itertools.product(AXES, UNITS):
        if series(points, axis):
            print(f"\n{table(points, axis, name)}")
    if options.picture:
        draw(points, options.picture)


if __name__ == "__main__":
    main()
