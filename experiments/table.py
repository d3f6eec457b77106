"""The table of scores in README.md, from the results of runs.

    python experiments/table.py runs/task_relation_extraction …

copies the `result.json` of each run to `results/` and writes the table anew, a row for each command
without its seed. Without arguments it only writes the table.
"""

import argparse
import json
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from matching_data import TASKS

FOLDER = Path(__file__).parent
BEGIN, END = "<!-- table -->\n", "<!-- end of table -->\n"
GOALS_HEAD = """\
| example | score | should be above | which is | is, in the lowest of several runs | reached |
| --- | --- | --- | --- | --- | --- |
"""
# Which results, which score, and what it has to be above: a number, or other scores of the run.
GOALS: list[tuple[str, str, float | tuple[str, ...], str]] = [
    ("task_relation_extraction-quick-seed-*", "f1", 0.30, "given, for each of three seeds"),
    ("task_event_extraction-quick-*", "f1", 0.40, "given, for both heads"),
    ("task_anonymised_matching-quick-*", "auc", 0.70, "given"),
    *(
        (
            "task_conditional_matching-quick-seed-*",
            f"tasks {task} accuracy",
            (f"tasks {task} majority", f"tasks {task} overlap"),
            "the better of majority and overlap",
        )
        for task in TASKS
    ),
    (
        "task_reading_comprehension_by_seq2seq-*",
        "mean",
        ("single mean",),
        "one passage instead of the vote",
    ),
    (
        "task_reading_comprehension_by_seq2seq-*",
        "speed ratio",
        20.0,
        "given, of answers per second by the subclass",
    ),
    ("task_sentiment_albert-*", "accuracy", 0.882, "logistic regression on characters"),
    ("task_sequence_labeling_ner_*", "f1", 0.75, "given, for all three heads"),
    ("task_sequence_labeling_cws_crf-*", "f1", 0.90, "given; longest match has 0.8703"),
    ("task_sentence_similarity_lcqmc-*", "accuracy", ("overlap",), "overlap of characters"),
]
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


def score(scores: dict, path: str) -> float:
    """A score by its names, outer before inner, with spaces between."""
    for name in path.split(" "):
        scores = scores[name]
    return scores


def goals(folder: Path) -> str:
    """A table of what scores should be above and what they are, of the lowest of several runs."""
    lines = []
    for pattern, path, above, note in GOALS:
        found = []
        for file in folder.glob(f"{pattern}.json"):
            scores = json.loads(file.read_text("utf-8"))["scores"]
            is_number = isinstance(above, float)
            bound = above if is_number else max(score(scores, each) for each in above)
            value = score(scores, path)
            found.append((value - bound, value, bound))
        if not found:
            raise SystemExit(f"no result in {folder} is named {pattern}.json")
        margin, value, bound = min(found)
        reached = "yes" if margin > 0 else "**no**"
        cells = [pattern.split("-")[0], path, f"{bound:.4g}", note, f"{value:.4g}", reached]
        lines.append(f"| {' | '.join(cells)} |\n")
    return GOALS_HEAD + "".join(lines)


def shown(value: float | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value}"


def write(readme: Path, folder: Path) -> None:
    """Put the table of a folder of results into a README."""
    results = [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))]
    text = readme.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    tables = f"{goals(folder)}\n{rows(results)}"
    readme.write_text(f"{before}{BEGIN}{tables}{END}{after}", encoding="utf-8")


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
