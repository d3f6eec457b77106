"""Few labels and many reviews without: virtual adversarial training.

    python experiments/task_sentiment_virtual_adversarial_training.py --data DATA --quick
    python experiments/task_sentiment_virtual_adversarial_training.py predict 这本书太好看了

Where a small move of the embeddings changes the prediction most, it shall change little (Miyato et
al., 2018, https://arxiv.org/abs/1704.03976; https://kexue.fm/archives/7466). That takes no label,
so reviews without labels are trained on as well: their weight in the loss is 0. `without` is the
same training without it, to which these reviews mean nothing: same start, same batches.

Data: `sentiment/sentiment.zip`, `sentiment.{train,valid,test}.data`. A few reviews of `train` keep
their labels. Reviews that stand in the test as well, about a third of it, are not trained on.
"""

import random
from collections.abc import Callable, Sequence

import numpy as np
from classification import (
    SENTIMENTS,
    build,
    compare,
    encoded,
    make_batch,
    predict,
    read_sentiment,
)
from common import Size, arguments, remember, report

from bert4keras.training import VirtualAdversarialTraining

QUICK = Size(epochs=5, batch_size=64, learning_rate=5e-4, maxlen=64)
FULL = Size(epochs=10, batch_size=64, learning_rate=2e-5, maxlen=128)
# With --quick, and without it.
N_LABELLED = {True: 500, False: 169}
N_UNLABELLED = {True: 3000, False: 16000}
SHARE = 1 / 3  # of a batch that has labels, on average; they are repeated
UNKNOWN = -1
STEP = VirtualAdversarialTraining("Embedding-Token", epsilon=1.0)


def mixed(samples: Sequence[tuple], n_labelled: int, n_unlabelled: int) -> list[tuple]:
    """The first samples with their labels, as often as `SHARE` says, and others without.

    Args:
        samples: with labels, the last element.
        n_labelled: how many keep them.
        n_unlabelled: how many of the others there are, if there are so many.
    """
    labelled, others = samples[:n_labelled], samples[n_labelled:][:n_unlabelled]
    times = max(1, round(SHARE / (1 - SHARE) * len(others) / len(labelled)))
    return [*labelled * times, *((*sample[:-1], UNKNOWN) for sample in others)]


def make(pad: Callable, samples: list) -> tuple:
    """Samples without a label have the weight 0, and any label."""
    inputs, labels = make_batch(pad, samples)
    known = labels != UNKNOWN
    return inputs, np.where(known, labels, 0), known.astype("float32")


def main(argv: Sequence[str] | None = None) -> dict | None:
    args = arguments(__file__, __doc__, QUICK, FULL, argv)
    if args.texts is not None:
        return predict(args, build(args, len(SENTIMENTS), load=False), SENTIMENTS)

    parts = read_sentiment(args.data)
    held_out = {texts for part in ("valid", "test") for texts, _ in parts[part]}
    train = [row for row in dict.fromkeys(parts["train"]) if row[0] not in held_out]
    random.Random(0).shuffle(train)  # the same reviews have labels for every --seed
    samples, valid, test = (encoded(args, each) for each in (train, parts["valid"], parts["test"]))
    samples = mixed(samples, N_LABELLED[args.quick], N_UNLABELLED[args.quick])
    remember(args)
    scores = compare(args, len(SENTIMENTS), (samples, valid, test), STEP, make)
    return report(args, f"sentiment, test; {N_LABELLED[args.quick]} labels", scores)


if __name__ == "__main__":
    main()
