"""What the experiments share: the command line, batches, training, decoding in batches, results.

    python experiments/NAME.py --data DATA --quick                  # small, minutes on two cores
    python experiments/NAME.py --data DATA --checkpoint FOLDER      # an official base model
    python experiments/NAME.py --sample                             # made-up data that come along
    python experiments/NAME.py predict TEXT [TEXT …] --output RUN   # what a run has learnt

`DATA` is a folder with a folder for each data set; the scripts say which files they read. A run
leaves in its `--output`: `best.weights.h5`, the weights that scored best on validation data;
`log.csv` and `curve.png`, the scores of all epochs; `settings.json`, what `predict` needs to know;
`result.json`, which is also the last line that is printed.
"""

import argparse
import csv
import importlib.util
import json
import os
import platform
import random
import shlex
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from bert4keras.checkpoints import CheckpointError, Files, find_files
from bert4keras.metrics import precision_recall_f1
from bert4keras.optimizers import (
    Adam,
    extend_with_piecewise_linear_lr,
    extend_with_weight_decay,
)
from bert4keras.snippets import DataGenerator, bucket_length, sequence_padding
from bert4keras.tokenizers import Tokenizer
from bert4keras.training import Evaluator

TINY = Path(__file__).parents[1] / "examples" / "weights" / "tiny_zh"


def need(*packages: str) -> None:
    """End now where packages are missing, which are used when an hour of training is over.

    Raises:
        SystemExit: it names those that are not installed.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise SystemExit(
            f"this example needs {' and '.join(missing)}: run pip install {' '.join(missing)}"
        )


# --- command line


@dataclass(frozen=True)
class Size:
    """How a script trains in one of its two sizes.

    Args:
        epochs: passes over the training data, if `--epochs` does not say.
        batch_size: likewise.
        learning_rate: the highest; it rises in the first tenth of the steps, then falls to 0.
        maxlen: tokens of a sample at most.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    maxlen: int


def arguments(
    script: str,
    doc: str,
    quick: Size,
    full: Size,
    argv: Sequence[str] | None = None,
    extend: Callable[[argparse.ArgumentParser], None] | None = None,
    needs_data: bool = True,
) -> argparse.Namespace:
    """Read the command line of a script, and prepare what all of them need.

    Args:
        script: `__file__` of the script.
        doc: `__doc__` of the script.
        quick: the settings of `--quick`.
        full: the settings without it.
        argv: the arguments; those of the process by default.
        extend: adds arguments of the script's own.
        needs_data: whether training asks for `--data`; a script that makes its data does not.

    Returns:
        The arguments, and: `texts`, what to predict, None for training; `size`, the `Size`;
        `files`, those of the checkpoint; `tokenizer`, if its vocabulary is a text file; `saved`,
        what `remember` wrote, when predicting.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    name = Path(script).stem
    parser.add_argument("texts", nargs="*", metavar="predict TEXT", help="after a run: use it")
    parser.add_argument("--checkpoint", type=Path, help="folder of an official checkpoint")
    parser.add_argument("--data", type=Path, help="folder of the data sets")
    if needs_data:
        help = "in place of --data: made-up data that come along; with --quick"
        parser.add_argument("--sample", action="store_true", help=help)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--output", type=Path, default=Path("runs") / name)
    parser.add_argument("--quick", action="store_true", help="the small checkpoint, few epochs")
    parser.add_argument("--seed", type=int, default=0)
    if extend:
        extend(parser)
    args = parser.parse_args(argv)
    args.name, args.started = name, time.time()
    args.argv = list(sys.argv[1:] if argv is None else argv)
    args.sample = needs_data and args.sample
    args.quick |= args.sample
    read_texts(args, parser)
    if args.texts is None:
        need("matplotlib")  # for the curve of the training
    if args.sample and args.texts is None:
        args.data = write_sample(args, parser)
    if needs_data and args.texts is None and args.data is None:
        parser.error(
            "--data is missing: the folder of the data sets (experiments/data.md says where they "
            "are published), or --sample for made-up ones that come along"
        )
    if not args.quick and args.checkpoint is None:
        parser.error("give --checkpoint, the folder of an official base model, or --quick")
    args.size = quick if args.quick else full
    args.checkpoint = args.checkpoint or TINY
    args.epochs = args.size.epochs if args.epochs is None else args.epochs
    args.batch_size = args.batch_size or args.size.batch_size
    if min(args.epochs, args.batch_size) < 1:
        parser.error("--epochs and --batch-size are at least 1")
    args.files = files_of(args.checkpoint)
    if args.files.vocabulary.suffix == ".txt":
        args.tokenizer = Tokenizer(args.files.vocabulary, do_lower_case=True)
    keras.utils.set_random_seed(args.seed)
    return args


def files_of(checkpoint: Path) -> Files:
    """The files in the folder of a checkpoint."""
    try:
        return find_files(checkpoint)
    except CheckpointError as error:
        raise SystemExit(f"--checkpoint {checkpoint}: {error}") from error


def write_sample(args: argparse.Namespace, parser: argparse.ArgumentParser) -> Path:
    """Write the data of `--sample` into the folder of the run."""
    if args.data is not None or args.checkpoint is not None:
        parser.error("--sample has data of its own and is --quick: without --data and --checkpoint")
    import sample

    return sample.write(args.output / "sample")


def read_texts(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Tell training from prediction, which goes on from the settings of a run."""
    if not args.texts:
        args.texts = None
        return
    command, *args.texts = args.texts
    if command != "predict" or not args.texts:
        parser.error(f"{command!r}: expected options only, or predict TEXT [TEXT …]")
    path = args.output / "settings.json"
    if not path.is_file() or not (args.output / "best.weights.h5").is_file():
        parser.error(f"there is no finished run in {args.output}: train first, or name it --output")
    args.saved = json.loads(path.read_text(encoding="utf-8"))
    args.quick = args.saved["quick"]
    args.checkpoint = args.checkpoint or Path(args.saved["checkpoint"])


def remember(args: argparse.Namespace, **settings: Any) -> None:
    """Keep what `predict` needs beside the weights: labels, schemas, …, as JSON."""
    args.output.mkdir(parents=True, exist_ok=True)
    settings |= {"quick": args.quick, "checkpoint": str(args.checkpoint.resolve())}
    write_json(args.output / "settings.json", settings)


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


# --- data


def read_archive(data: Path, archive: str, member: str) -> str:
    """A text file in an archive below the folder of the data sets, or unpacked beside it."""
    path = data / archive
    unpacked = path.parent / member
    try:
        if not path.exists() and unpacked.is_file():
            content = unpacked.read_bytes()
        elif path.suffix == ".zip":
            with zipfile.ZipFile(path) as opened:
                content = opened.read(member)
        else:
            with tarfile.open(path) as opened:
                content = opened.extractfile(member).read()
        return content.decode("utf-8-sig")
    except (OSError, KeyError, zipfile.BadZipFile, tarfile.TarError, UnicodeDecodeError) as error:
        raise SystemExit(f"{path} has to hold {member} as UTF-8 text: {error}") from error


def read_lines(data: Path, archive: str, member: str) -> list[str]:
    """The lines of a text file in an archive that are not empty."""
    return [line for line in read_archive(data, archive, member).split("\n") if line.strip()]


def read_json_lines(data: Path, archive: str, member: str) -> list[dict]:
    """The objects in a file of JSON lines in an archive."""
    return [json.loads(line) for line in read_lines(data, archive, member)]


def drawn_parts(rows: Sequence, n_test: int, n_valid: int) -> dict[str, list]:
    """Draw test and validation, the same for every `--seed`; of few rows a quarter each."""
    rows = list(rows)
    random.Random(0).shuffle(rows)
    n_test, n_valid = (min(n, len(rows) // 4) for n in (n_test, n_valid))
    return {
        "train": rows[n_test + n_valid :],
        "valid": rows[n_test:][:n_valid],
        "test": rows[:n_test],
    }


class Batches(DataGenerator):
    """Batches of samples, similar in length; `make` makes arrays of a list of samples.

    Args:
        samples: what to go through. The first element of a sample is measured.
        batch_size: samples in a batch.
        make: from (pad, samples) to what the model is given; `pad` pads to few lengths.
    """

    def __init__(
        self, samples: Sequence[tuple], batch_size: int, make: Callable[[Callable, list], tuple]
    ) -> None:
        super().__init__(samples, batch_size, bucket=lambda sample: len(sample[0]))
        self.make = make

    def __iter__(self, random: bool = False) -> Iterator[tuple]:
        batch = []
        for is_end, sample in self.sample(random):
            batch.append(sample)
            if len(batch) == self.batch_size or is_end:
                yield self.make(self.pad, batch)
                batch = []


def characters_of(mapping: Sequence[Sequence[int]]) -> dict[int, int]:
    """Which token a character of a text belongs to, from what `rematch` returns."""
    return {place: token for token, places in enumerate(mapping) for place in places}


def token_span(mapping: Sequence[Sequence[int]], start: int, end: int) -> tuple[int, int] | None:
    """The first and last token of the characters start, …, end - 1; None if these are cut off."""
    tokens = characters_of(mapping)
    inside = [tokens[place] for place in range(start, end) if place in tokens]
    return (inside[0], inside[-1]) if inside and end - 1 in tokens else None


def text_span(text: str, mapping: Sequence[Sequence[int]], first: int, last: int) -> str:
    """The slice of a text that two tokens and those between them come from."""
    places = character_span(mapping, first, last)
    return text[places[0] : places[1] + 1] if places else ""


def character_span(
    mapping: Sequence[Sequence[int]], first: int, last: int
) -> tuple[int, int] | None:
    """The first and last character of two tokens and those between them, if they have any."""
    places = [place for token in range(first, last + 1) for place in mapping[token]]
    return (min(places), max(places)) if places else None


def bio_tags(spans: Sequence[tuple[int, int, int]], length: int) -> np.ndarray:
    """Tags of the tokens of spans: 0 outside, 2k + 1 where kind k begins, 2k + 2 inside it.

    Args:
        spans: first token, last token, kind. One that overlaps with an earlier one is left out.
        length: number of tokens.
    """
    tags = np.zeros(length, "int32")
    for first, last, kind in spans:
        if not tags[first : last + 1].any():
            tags[first : last + 1] = 2 * kind + 2
            tags[first] = 2 * kind + 1
    return tags


def bio_spans(tags: Sequence[int]) -> list[tuple[int, int, int]]:
    """The spans of tags, as in `bio_tags`; an inside that nothing began is left out."""
    spans: list[tuple[int, int, int]] = []
    inside = 0  # the tag that goes on with the last span
    for place, tag in enumerate(tags):
        if tag % 2:
            spans.append((place, place, int(tag) // 2))
            inside = tag + 1
        elif tag and tag == inside:
            spans[-1] = (spans[-1][0], place, spans[-1][2])
        else:
            inside = 0
    return spans


# --- training


def optimizer(args: argparse.Namespace, batches: Batches, **options: Any) -> keras.Optimizer:
    """Adam with weight decay, whose rate rises in the first tenth of the steps, then falls to 0."""
    n_steps = args.epochs * len(batches)
    cls = extend_with_piecewise_linear_lr(extend_with_weight_decay(Adam))
    return cls(
        learning_rate=args.size.learning_rate,
        weight_decay_rate=0.01,
        exclude_from_weight_decay=["Norm", "bias"],
        lr_schedule={max(1, n_steps // 10): 1, max(2, n_steps): 0},
        **options,
    )


class Evaluation(Evaluator):
    """Prints and writes to `log.csv` the scores of each epoch; keeps the best weights."""

    def __init__(self, args: argparse.Namespace, evaluate: Callable[[], dict[str, float]]) -> None:
        super().__init__(lambda model: evaluate(), args.output / "best.weights.h5")
        self.log = args.output / "log.csv"

    def on_train_begin(self, logs: dict | None = None) -> None:
        super().on_train_begin(logs)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.unlink(missing_ok=True)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if not np.isfinite(logs["loss"]):
            raise SystemExit(f"the loss is {logs['loss']} in epoch {epoch + 1}: nothing was kept")
        scores: dict[str, float] = {}
        super().on_epoch_end(epoch, scores)
        print("validation:", ", ".join(f"{name} {value:.4f}" for name, value in scores.items()))
        row = {"epoch": epoch + 1, "loss": round(float(logs["loss"]), 6), **scores}
        with open(self.log, "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, row)
            if epoch == 0:
                writer.writeheader()
            writer.writerow(row)


def fit(
    args: argparse.Namespace,
    model: keras.Model,
    batches: Batches,
    evaluate: Callable[[], dict[str, float]],
) -> None:
    """Train a compiled model; afterwards it has the weights that scored best.

    Args:
        args: what `arguments` returned.
        model: the model that is trained.
        batches: the training data.
        evaluate: computes scores on validation data, the one that decides first.
    """
    model.fit(
        batches.forfit(),
        steps_per_epoch=len(batches),
        epochs=args.epochs,
        callbacks=[Evaluation(args, evaluate)],
        verbose=verbose(),
    )
    draw_curve(args.output)


def verbose() -> int:
    """A bar for people, lines for files."""
    return 1 if sys.stdout.isatty() else 2


def load_best(args: argparse.Namespace, model: keras.Model) -> None:
    """Load the best weights of a run."""
    model.load_weights(args.output / "best.weights.h5")


def draw_curve(folder: Path) -> None:
    """Draw `log.csv` as `curve.png`."""
    import matplotlib.pyplot as plt

    with open(folder / "log.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    epochs = [int(row.pop("epoch")) for row in rows]
    figure, axes = plt.subplots(1, len(rows[0]), figsize=(3.2 * len(rows[0]), 2.6))
    for axis, name in zip(np.atleast_1d(axes), rows[0], strict=True):
        axis.plot(epochs, [float(row[name]) for row in rows], marker=".")
        axis.set(ylabel=name, xlabel="epoch")
        axis.grid(alpha=0.3)
    save_figure(figure, folder / "curve.png")


def save_figure(figure: Any, path: Path) -> None:
    import matplotlib.pyplot as plt

    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def chinese_font() -> Any:
    """A font of this machine that has Chinese characters, as matplotlib takes it; None if none.

    Those that come with matplotlib have none.
    """
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    for font in font_manager.fontManager.ttflist:
        # Last Resort has boxes for all characters.
        if "Last Resort" not in font.name and FT2Font(font.fname).get_char_index(ord("的")):
            return font_manager.FontProperties(fname=font.fname)
    return None


# --- decoding


def padded_columns(pad: Callable, samples: Sequence[Sequence[Sequence]]) -> list[np.ndarray]:
    """Inputs of a model whose samples are tuples of sequences."""
    return [pad(column) for column in zip(*samples, strict=True)]


def outputs(
    model: keras.Model,
    samples: Sequence[tuple],
    make: Callable[[Callable, list], list[np.ndarray]] = padded_columns,
    batch_size: int = 64,
    keep: Callable[[int, list[np.ndarray]], Any] = lambda i, found: found,
) -> list[Any]:
    """Compute what a model gives for each sample, in batches of a few shapes.

    Args:
        model: what to compute.
        samples: the first element of a sample is measured, and those of a batch are similar.
        make: from (pad, samples) to the inputs of the model; `pad` pads to few lengths.
        batch_size: how many at a time.
        keep: from the index of a sample and a list with each output of the model for it, padding
            included, to what is returned of it: all of them, unless they take much memory.

    Returns:
        For each sample, in order, what `keep` makes of it.
    """

    def pad(sequences: Sequence) -> np.ndarray:
        return sequence_padding(sequences, bucket_length(max(map(len, sequences))))

    order = sorted(range(len(samples)), key=lambda i: len(samples[i][0]))
    results: list[Any] = [None] * len(samples)
    # Not shown for what takes a second.
    shown = verbose() == 1 and len(samples) > 1000
    bar = keras.utils.Progbar(len(samples), verbose=int(shown), unit_name="sample")
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        # The last batch is filled up, so that it has a shape that was there before.
        found = model.predict_on_batch(make(pad, [samples[i] for i in np.resize(rows, batch_size)]))
        found = found if isinstance(found, list) else [found]
        for place, row in enumerate(rows):
            results[row] = keep(row, [each[place] for each in found])
        bar.add(len(rows))
    return results


# --- scores and results


def micro_f1(found: Sequence[set], expected: Sequence[set]) -> dict[str, float]:
    """F1, precision and recall of the members of all sets together."""
    scores = precision_recall_f1(found, expected)
    return {name: round(scores[name], 4) for name in ("f1", "precision", "recall")}


def machine() -> str:
    """The processor and how many of its cores there are."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text(encoding="utf-8").splitlines()
        name = next((line.split(": ")[1] for line in lines if line.startswith("model name")), name)
    return f"{os.cpu_count()} cores, {name}"


def report(args: argparse.Namespace, data: str, scores: dict[str, Any]) -> dict[str, Any]:
    """Write the result of a run and print it as the last line.

    Args:
        args: what `arguments` returned.
        data: the data set and what part of it was scored; of `--sample` that it is made up.
        scores: the scores, the most important one first.
    """
    places = {"data": "DATA", "output": "RUN", "checkpoint": "CHECKPOINT", "run": "OTHER_RUN"}
    places = {str(vars(args)[option]): place for option, place in places.items() if option in args}
    command = shlex.join(places.get(word, word) for word in args.argv)
    result = {
        "example": args.name,
        "data": f"made up, in the form of: {data}" if args.sample else data,
        "size": "quick" if args.quick else "full",
        "checkpoint": args.checkpoint.name,
        "seed": args.seed,
        "scores": scores,
        "minutes": round((time.time() - args.started) / 60, 1),
        "machine": machine(),
        "backend": keras.backend.backend(),
        "command": f"python experiments/{args.name}.py {command}",
    }
    write_json(args.output / "result.json", result)
    print(json.dumps(result, ensure_ascii=False))
    return result
