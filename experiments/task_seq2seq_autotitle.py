"""Titles of news articles, written by a UniLM.

    python experiments/task_seq2seq_autotitle.py --data DATA --quick
    python experiments/task_seq2seq_autotitle.py predict 文章的正文 --output RUN

One BERT does both halves of sequence to sequence (UniLM, Dong et al., 2019,
https://arxiv.org/abs/1905.03197; https://kexue.fm/archives/6933): the article is segment 0 and sees
itself, the title is segment 1 and sees the article and what is before it. So a checkpoint of BERT,
with the output layer of its masked language model, is all there is to start from. Tokens that no
Chinese text needs are left out of the vocabulary. Articles are cut to their beginning, titles are
found by a beam search.

Scored by ROUGE and BLEU of the characters, beside what one gets by taking the beginning of the
article for its title.

Data: `inews/{train,dev}.jsonl.gz`. 500 articles of `dev` are the test; 200 of `train` are for
validation, and those whose title occurs in the test are left out.
"""

import argparse
import json
import random
from collections.abc import Sequence

from common import Size, arguments
from writing import Pair, UniLM, read_gzip, write_titles

QUICK = Size(epochs=15, batch_size=32, learning_rate=1e-3, maxlen=160)
FULL = Size(epochs=10, batch_size=16, learning_rate=2e-5, maxlen=256)
MAX_TITLE = 32  # tokens, the end token included
SHORTEST = 20  # characters of an article that says something
N_TEST, N_VALID = 500, 200


def read_news(args: argparse.Namespace) -> dict[str, list[Pair]]:
    """Articles and their titles, by part."""
    parts = {}
    for part in ("train", "dev"):
        rows = map(json.loads, read_gzip(args.data, f"inews/{part}.jsonl.gz").splitlines())
        # What is cut off is never read.
        pairs = [(row["content"][: 4 * args.size.maxlen], row["title"].strip()) for row in rows]
        parts[part] = [pair for pair in pairs if len(pair[0]) >= SHORTEST and pair[1]]
        random.Random(0).shuffle(parts[part])
    test = parts["dev"][:N_TEST]
    titles = {title for _, title in test}
    train = [pair for pair in parts["train"] if pair[1] not in titles]
    n = min(N_VALID, len(train) // 4)
    return {"train": train[n:], "valid": train[:n], "test": test}


def run(args: argparse.Namespace) -> dict | None:
    writer = UniLM(args, MAX_TITLE)
    return write_titles(args, writer, read_news, f"inews, {N_TEST} articles of dev")


def main(argv: Sequence[str] | None = None) -> dict | None:
    return run(arguments(__file__, __doc__, QUICK, FULL, argv))


if __name__ == "__main__":
    main()
