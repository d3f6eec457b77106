"""Names of persons, places and organisations in news, by a conditional random field.

    python experiments/task_sequence_labeling_ner_crf.py --data DATA --quick
    python experiments/task_sequence_labeling_ner_crf.py --data DATA --quick --corpus msra
    python experiments/task_sequence_labeling_ner_crf.py predict 王军霞去了北京的国家体育总局

Each token gets a tag: a name of some kind begins here, goes on here, or there is none. The tags of
a text are scored together (Lafferty et al., 2001), so that I-PER never follows B-LOC once the
transitions have been learnt. These start near zero and need a larger learning rate than the rest
(https://kexue.fm/archives/7196): `lr_multiplier`, of which there is more the smaller the rate is.

A name is found if its place and its kind are right. Long sentences are cut at punctuation, in
training and in prediction, so that nothing is left out of the scores.

Data: `ner_people_daily/china-people-daily-ner-corpus.tar.gz` (`example.{train,dev,test}`), or with
`--corpus msra` `ner_msra/msra_ner.zip` (`msra_ner/{train,dev,test}.txt`).
"""

from collections.abc import Sequence

from common import Size, arguments, remember
from tagging import CRF, KINDS, add_corpus, bio, print_entities, train_on_entities

QUICK = Size(epochs=3, batch_size=32, learning_rate=1e-3, maxlen=128)
FULL = Size(epochs=10, batch_size=16, learning_rate=2e-5, maxlen=256)
TRANSITION_RATE = 0.02  # of the transition scores, whatever the rate of the rest is


def main(argv: Sequence[str] | None = None) -> dict | None:
    args = arguments(__file__, __doc__, QUICK, FULL, argv, add_corpus)
    head = CRF(bio(len(KINDS)), lr_multiplier=TRANSITION_RATE / args.size.learning_rate)
    if args.texts is not None:
        return print_entities(args, head)
    remember(args)
    return train_on_entities(args, head)


if __name__ == "__main__":
    main()
