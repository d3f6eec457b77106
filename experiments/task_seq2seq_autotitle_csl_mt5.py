"""Titles of scientific papers, written by mT5 from their abstracts (CSL).

    python experiments/task_seq2seq_autotitle_csl_mt5.py --data DATA --checkpoint FOLDER
    python experiments/task_seq2seq_autotitle_csl_mt5.py --data DATA --quick
    python experiments/task_seq2seq_autotitle_csl_mt5.py predict 论文的摘要 --output RUN

The data and scores of `task_seq2seq_autotitle_csl.py`, with an encoder and a decoder (mT5, Xue et
al., 2020, https://arxiv.org/abs/2010.11934; https://kexue.fm/archives/7867). FOLDER holds the
config, the checkpoint and the SentencePiece model of mT5; beside a model that was cut down to
Chinese, `*keep_tokens.json` lists the tokens that are left.

`--quick` trains two layers from random weights on 1,400 abstracts: it shows that everything works,
and not what mT5 can do.

Data: `csl/csl_title.zip` (`csl/{train,val,test}.tsv`, title and abstract).
"""

from collections.abc import Sequence

from common import Size, arguments
from task_seq2seq_autotitle_csl import DATA, MAX_TITLE, read_abstracts
from writing import T5, write_titles

QUICK = Size(epochs=15, batch_size=16, learning_rate=2e-3, maxlen=256)
FULL = Size(epochs=40, batch_size=16, learning_rate=2e-4, maxlen=288)


def main(argv: Sequence[str] | None = None) -> dict | None:
    args = arguments(__file__, __doc__, QUICK, FULL, argv)
    return write_titles(args, T5(args, MAX_TITLE), read_abstracts, DATA)


if __name__ == "__main__":
    main()
