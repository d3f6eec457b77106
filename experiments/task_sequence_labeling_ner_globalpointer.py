"""Names of persons, places and organisations in news, by GlobalPointer.

    python experiments/task_sequence_labeling_ner_globalpointer.py --data DATA --quick
    python experiments/task_sequence_labeling_ner_globalpointer.py --data DATA --quick \
        --head efficient
    python experiments/task_sequence_labeling_ner_globalpointer.py predict 王军霞去了北京

Every span of a text gets a score for each kind: the product of a query of its first token and a
key of its last, rotated by their positions (Su et al., 2022, https://arxiv.org/abs/2208.03054;
https://kexue.fm/archives/8373). Those above zero are names; they may contain each other, which
tags cannot say, and there is nothing to search for. The loss pushes the right spans above zero and
all others below. `--head efficient` has one matrix of scores for all kinds, and tells the kinds by
a score of the first and one of the last token (https://kexue.fm/archives/8877).

Data and scores are those of `task_sequence_labeling_ner_crf.py`.
"""

import argparse
from collections.abc import Sequence

from common import Size, arguments, remember
from tagging import KINDS, Pointer, add_corpus, print_entities, train_on_entities

from bert4keras.layers import EfficientGlobalPointer, GlobalPointer

QUICK = Size(epochs=3, batch_size=32, learning_rate=1e-3, maxlen=128)
FULL = Size(epochs=10, batch_size=16, learning_rate=2e-5, maxlen=256)
HEADS = {"global": GlobalPointer, "efficient": EfficientGlobalPointer}


def add_options(parser: argparse.ArgumentParser) -> None:
    add_corpus(parser)
    parser.add_argument("--head", choices=HEADS, default="global")


def main(argv: Sequence[str] | None = None) -> dict | None:
    args = arguments(__file__, __doc__, QUICK, FULL, argv, add_options)
    name = args.head if args.texts is None else args.saved["head"]
    head = Pointer(HEADS[name], len(KINDS))
    if args.texts is not None:
        return print_entities(args, head)
    remember(args, head=name)
    return train_on_entities(args, head)


if __name__ == "__main__":
    main()
