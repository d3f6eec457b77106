"""Classification on several devices.

    python experiments/task_iflytek_multigpu.py --data DATA --checkpoint FOLDER
    python experiments/task_iflytek_multigpu.py --data DATA --quick --devices 2
    torchrun --nproc-per-node=2 experiments/task_iflytek_multigpu.py --data DATA …
    python experiments/task_iflytek_multigpu.py predict 一款查询公交线路的软件

All that is different is that the model is built, compiled, trained and evaluated within
`data_parallel`. A batch is that of all devices together, each of which computes a part of it, and
losses and gradients are those of one device. With one device it runs as well.

PyTorch has a process for each device. All of them do the same; only the first one's run counts, and
the others leave theirs in folders below it.

Data: `clue/iflytek.zip`, descriptions of apps in 119 classes. `dev.json` is the test; a tenth of
`train.json`, which is that of FewCLUE, is for validation.
"""

import argparse
from collections.abc import Sequence

from classification import Parts, accuracy, build, iflytek, train
from common import Size, arguments

from bert4keras.training import data_parallel

QUICK = Size(epochs=3, batch_size=32, learning_rate=5e-4, maxlen=64)
FULL = Size(epochs=10, batch_size=128, learning_rate=5e-5, maxlen=128)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--devices", type=int, help="how many; all by default")


def experiment(args: argparse.Namespace, n_labels: int, parts: Parts) -> dict[str, float]:
    samples, valid, test = parts
    model = build(args, n_labels)
    train(args, model, samples, valid)
    return {"accuracy": accuracy(model, test)}


def main(argv: Sequence[str] | None = None) -> dict | None:
    args = arguments(__file__, __doc__, QUICK, FULL, argv, add_options)
    if args.texts is not None:
        return iflytek(args, experiment)
    with data_parallel(args.devices) as devices:
        if devices.process:
            args.output = args.output / f"process-{devices.process}"
        print(f"{devices.replicas} device(s)")
        return iflytek(args, lambda *given: {**experiment(*given), "devices": devices.replicas})


if __name__ == "__main__":
    main()
