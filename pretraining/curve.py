"""Draw the losses of one or of several runs over the tokens they have seen.

    python pretraining/curve.py my_bert/log.csv [another/log.csv ...] --output loss.png

The solid line is the loss in training, with dropout, the dashed one that on validation data.
"""

import argparse
import csv
import math
from pathlib import Path


def read_log(path: Path) -> dict[str, list[float]]:
    """The columns of the `log.csv` of a run; what was not measured is NaN.

    Raises:
        SystemExit: the file is missing, is no such log or has no rows yet.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        columns = {
            name: [float(row.get(name) or math.nan) for row in rows]
            for name in ("tokens", "loss", "val_loss")
        }
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise SystemExit(f"{path} cannot be read as the log of a run: {error}") from error
    if all(map(math.isnan, columns["loss"])):
        raise SystemExit(f"{path} has no losses; give the log.csv of a run of pretraining.py.")
    return columns


def measured(run: dict[str, list[float]], name: str) -> tuple[list[float], list[float]]:
    """Millions of tokens, and the column of that name, where it was measured."""
    pairs = zip(run["tokens"], run[name], strict=True)
    points = [(tokens / 1e6, value) for tokens, value in pairs if not math.isnan(value)]
    return [x for x, _ in points], [y for _, y in points]


def draw(logs: list[Path], image: Path) -> None:
    """Draw the losses of all logs into an image; its suffix says which format.

    Raises:
        SystemExit: a log cannot be read.
        OSError: the image cannot be written.
    """
    from matplotlib.figure import Figure

    runs = {path: read_log(path) for path in logs}
    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    for path, run in runs.items():
        name = f"{path.parent.name}, " if len(runs) > 1 else ""
        (line,) = axes.plot(*measured(run, "loss"), label=f"{name}training")
        millions, losses = measured(run, "val_loss")
        if losses:
            axes.plot(millions, losses, "--", color=line.get_color(), label=f"{name}validation")
    axes.set(xlabel="million tokens", ylabel="loss")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(image)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("logs", type=Path, nargs="+", help="log.csv of runs")
    parser.add_argument("--output", type=Path, default=Path("loss.png"))
    args = parser.parse_args(argv)
    draw(args.logs, args.output)


if __name__ == "__main__":
    main()
