"""The table of scores in README.md, from the results of runs.

    python examples/table.py runs/task_relation_extraction …

copies the `result.json` of each run to `results/` and writes the table anew, a row for each command
without its seed. Without arguments it only writes the table.
"""

import argparse
import json
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).parent
BEGIN, END = "<!-- table -->\n", "<!-- end of table -->\n"
HEAD = """\
| example | data | size | scores | minutes | machine |
| --- | --- | --- | --- | --- | --- |
"""


def without_options(command: str, *options: str) -> list[str]:
    """The words of a command without some options and their values."""
    words = shlex.split(command)
    for option in options:
        if option in words:
            at = words.index(option)
            del words[at : at + 2]
    return words


def file_name(result: dict) -> str:
    """A name for each command: the example, what else it says, the seed."""
    options = ("--seed", "--data", "--output", "--checkpoint", "--run")
    words = without_options(result["command"], *options)
    variant = [word.removeprefix("--") for word in words[2:]]
    return "-".join([result["example"], *variant, f"seed-{result['seed']}"]) + ".json"


def keep(run: Path, folder: Path) -> None:
    """Copy the result of a run to a folder."""
    path = run / "result.json"
    if not path.is_file():
        raise SystemExit(f"there is no {path}: the run has not finished")
    shutil.copy(path, folder / file_name(json.loads(path.read_text(encoding="utf-8"))))


def rows(results: Sequence[dict]) -> str:
    """A row and the command below the table for each group of results that differ in the seed."""
    groups: dict[str, list[dict]] = {}
    for result in results:
        command = shlex.join(without_options(result["command"], "--seed"))
        groups.setdefault(command, []).append(result)
    lines, commands, parts = [], [], []
    for number, (command, group) in enumerate(groups.items(), 1):
        group.sort(key=lambda result: result["seed"])
        figures = [figures_of(result["scores"]) for result in group]
        scores = [
            f"{name} " + " / ".join(shown(each[name]) for each in figures) for name in figures[0]
        ]
        minutes = " / ".join(f"{result['minutes']:g}" for result in group)
        first = group[0]
        lines.append(
            f"| {number}. [{first['example']}]({first['example']}.py) | {first['data']} "
            f"| {first['size']}, {first['checkpoint']} | {', '.join(scores)} | {minutes} "
            f"| {first['machine']}, {first['backend']} |\n"
        )
        seeds = [str(result["seed"]) for result in group]
        commands.append(f"{number}. `{command}`, seed {', '.join(seeds)}\n")
        parts += [f"\n{number}, seed {seeds[0]}:\n\n{each}" for each in tables_of(first["scores"])]
    return HEAD + "".join(lines) + "\n" + "".join(commands) + "".join(parts)


def is_table(value: object) -> bool:
    """Whether a score is {row: {column: value}}."""
    return isinstance(value, dict) and all(isinstance(row, dict) for row in value.values())


def figures_of(scores: dict) -> dict[str, float | str]:
    """The scores that are no table; those in {name: value} with the name of both."""
    figures = {}
    for name, value in scores.items():
        if not isinstance(value, dict):
            figures[name] = value
        elif not is_table(value):
            figures |= {f"{name} {each}": figure for each, figure in value.items()}
    return figures


def tables_of(scores: dict) -> list[str]:
    """A table for each score that is itself a table."""
    tables = []
    for name, table in scores.items():
        if is_table(table):
            columns = list(next(iter(table.values())))
            cells = [[row, *map(shown, values.values())] for row, values in table.items()]
            lines = [[name, *columns], ["---"] * (len(columns) + 1), *cells]
            tables.append("".join(f"| {' | '.join(line)} |\n" for line in lines))
    return tables


def shown(value: float | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value}"


def write(readme: Path, folder: Path) -> None:
    """Put the table of a folder of results into a README."""
    results = [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))]
    text = readme.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{BEGIN}{rows(results)}{END}{after}", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=Path, help="folders given as --output")
    args = parser.parse_args(argv)
    (FOLDER / "results").mkdir(exist_ok=True)
    for run in args.runs:
        keep(run, FOLDER / "results")
    write(FOLDER / "README.md", FOLDER / "results")


if __name__ == "__main__":
    main()
