"""Titles of scientific papers, written by a UniLM from their abstracts (CSL).

    python experiments/task_seq2seq_autotitle_csl.py --data DATA --quick
    python experiments/task_seq2seq_autotitle_csl.py predict 论文的摘要 --output RUN

As `task_seq2seq_autotitle.py`, whose first lines say how, on abstracts, which fit in as a whole.
The best weights are those with the highest ROUGE-L on validation data.

Data: `csl/csl_title.zip` (`csl/{train,val,test}.tsv`, title and abstract).
"""

import argparse
from collections.abc import Sequence

from common import Size, arguments, read_lines
from writing import Pair, UniLM, write_titles

QUICK = Size(epochs=12, batch_size=16, learning_rate=1e-3, maxlen=256)
FULL = Size(epochs=20, batch_size=16, learning_rate=1e-5, maxlen=256)
ARCHIVE = "csl/csl_title.zip"
MAX_TITLE = 32  # tokens, the end token included
DATA = "csl_title, test"


def read_abstracts(args: argparse.Namespace) -> dict[str, list[Pair]]:
    """Abstracts and titles, by part."""
    parts = {}
    for part, file in (("train", "train"), ("valid", "val"), ("test", "test")):
        rows = [line.split("\t") for line in read_lines(args.data, ARCHIVE, f"csl/{file}.tsv")]
        parts[part] = [(abstract, title) for title, abstract in rows]
    return parts


def main(argv: Sequence[str] | None = None) -> dict | None:
    args = arguments(__file__, __doc__, QUICK, FULL, argv)
    return write_titles(args, UniLM(args, MAX_TITLE), read_abstracts, DATA)


if __name__ == "__main__":
    main()
