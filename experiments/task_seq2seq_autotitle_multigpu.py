"""Titles of news articles, learnt on several devices.

    python experiments/task_seq2seq_autotitle_multigpu.py --data DATA --checkpoint FOLDER
    python experiments/task_seq2seq_autotitle_multigpu.py --data DATA --quick --devices 2
    torchrun --nproc-per-node=2 experiments/task_seq2seq_autotitle_multigpu.py --data DATA …

The same as `task_seq2seq_autotitle.py`; all that is different is that the model is built, compiled
and trained within `data_parallel`. A batch is that of all devices together, each of which computes
a part of it, and losses and gradients are those of one device. With one device it runs as well.

PyTorch has a process for each device. All of them do the same; only the first one's run counts, and
the others leave theirs in folders below it.
"""

import argparse
from collections.abc import Sequence

from common import arguments
from task_seq2seq_autotitle import FULL, QUICK, run

from bert4keras.training import data_parallel


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--devices", type=int, help="how many; all by default")


def main(argv: Sequence[str] | None = None) -> dict | None:
    args = arguments(__file__, __doc__, QUICK, FULL, argv, add_options)
    if args.texts is not None:
        return run(args)
    with data_parallel(args.devices) as devices:
        if devices.process:
            args.output = args.output / f"process-{devices.process}"
        print(f"{devices.replicas} device(s)")
        return run(args)


if __name__ == "__main__":
    main()
