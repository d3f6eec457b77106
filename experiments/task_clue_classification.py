"""CLUE's classification tasks: one model, one command for each.

    python experiments/task_clue_classification.py --data DATA --quick --task tnews
    python experiments/task_clue_classification.py --data DATA --checkpoint FOLDER --task afqmc
    python experiments/task_clue_classification.py predict 花呗怎么还款 怎样还花呗 --output RUN

    afqmc    do two questions to a bank mean the same?
    ocnli    does the second sentence follow from the first, contradict it, or neither?
    tnews    headlines in 15 classes
    iflytek  descriptions of apps in 119 classes
    csl      are these the keywords of an abstract? `predict` takes keywords and the abstract
    wsc      does _a pronoun_ stand for [these words]? Both are marked in the text, so

As in https://github.com/bojone/CLUE-bert4keras all of them are sequences of one text or two, of
which the vector of the first token is classified. Besides the score a run leaves the file that CLUE
asks for (https://www.cluebenchmarks.com), such as `afqmc_predict.json`: the labels, as strings, of
the texts that have none.

Data: `clue/{afqmc,ocnli,tnews,iflytek,csl,wsc}.zip`. `dev.json` is the test; a tenth of
`train.json` (of ocnli `train.10k.json`) is for validation. The last four have few samples, those of
FewCLUE, and in csl and wsc some texts stand in both, with other keywords or pronouns.
`majority` is the share of the commonest label.
"""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from classification import (
    TASKS,
    accuracy,
    build,
    encoded,
    predict,
    probabilities,
    read_clue,
    train,
)
from common import Size, arguments, remember, report

QUICK = Size(epochs=3, batch_size=32, learning_rate=5e-4, maxlen=96)
FULL = Size(epochs=10, batch_size=32, learning_rate=2e-5, maxlen=256)
PAIRS = ("afqmc", "ocnli", "csl")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", choices=TASKS, default="tnews", help="tnews by default")


def write_submission(path: Path, rows: Sequence[dict], labels: Sequence[str]) -> None:
    """Write a line for each row: its id, and the label that was found for it."""
    with open(path, "w", encoding="utf-8") as file:
        for row, label in zip(rows, labels, strict=True):
            file.write(json.dumps({"id": row["id"], "label": label}) + "\n")


def main(argv: Sequence[str] | None = None) -> dict | None:
    args = arguments(__file__, __doc__, QUICK, FULL, argv, add_options)
    if args.texts is not None:
        names, task = args.saved["names"], args.saved["task"]
        model = build(args, len(names), load=False)
        return predict(args, model, names, n_texts=2 if task in PAIRS else 1)

    clue = read_clue(args.data, args.task)
    remember(args, task=args.task, names=clue.names)
    model = build(args, len(clue.labels))
    train(args, model, encoded(args, clue.train), encoded(args, clue.valid))

    task = TASKS[args.task]
    asked = encoded(args, [(task.texts(row), 0) for row in clue.rows])
    found = [clue.labels[i] for i in probabilities(model, asked).argmax(axis=1)]
    write_submission(args.output / f"{task.submission}_predict.json", clue.rows, found)

    counts = Counter(label for _, label in clue.test)
    scores = {
        "accuracy": accuracy(model, encoded(args, clue.test)),
        "majority": round(max(counts.values()) / counts.total(), 4),
    }
    return report(args, f"clue {args.task}, dev", scores)


if __name__ == "__main__":
    main()
