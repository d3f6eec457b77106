"""Do two questions mean the same? One model reads both (LCQMC).

    python experiments/task_sentence_similarity_lcqmc.py --data DATA --quick
    python experiments/task_sentence_similarity_lcqmc.py predict 花呗怎么还款 怎样还花呗

Both questions stand in one sequence, [CLS] a [SEP] b [SEP], and the vector of [CLS] is classified,
as BERT does with pairs. A small model that has never seen pairs does not find out in a few thousand
of them that it is to compare (57 %). So each token comes with how much of it the other question
has, by another embedding that starts at zero: a subclass of BERT with one more input; and the most
frequent words are tokens, since a word that both questions have says more than its characters do.
Any checkpoint of BERT is a start.

Data: `lcqmc/lcqmc.zip`, `lcqmc.{train,valid,test}.data`, two questions and 0 or 1. That training
part is the 8,802 pairs that were published for validation, which a model soon knows by heart: pairs
of `oppo_xiaobu/oppo_xiaobu.zip` (`train.tsv`) are trained on besides, but none with a question that
is validated or tested on. `overlap` is the accuracy of a regression on the characters and bigrams
that both questions of a pair share, trained on the pairs of LCQMC.
"""

from collections.abc import Sequence
from pathlib import Path

from classification import (
    Labelled,
    PairBERT,
    accuracy,
    build,
    encode_pair,
    encoded,
    predict,
    read_labelled,
    train,
)
from common import Size, arguments, remember, report
from matching_data import overlap_accuracy
from words import N_WORDS, frequent_words, load_jieba, word_tokenizer

QUICK = Size(epochs=3, batch_size=32, learning_rate=3e-4, maxlen=64)
FULL = Size(epochs=5, batch_size=32, learning_rate=2e-5, maxlen=128)
FURTHER = "oppo_xiaobu/oppo_xiaobu.zip", "oppo_xiaobu/train.tsv"
SAME = ("different", "same")


def read_parts(data: Path) -> dict[str, list[Labelled]]:
    """The pairs of LCQMC by part, and `further` ones to train on."""
    archive, member = "lcqmc/lcqmc.zip", "lcqmc/lcqmc.{}.data"
    parts = {
        part: read_labelled(data, archive, member.format(part))
        for part in ("train", "valid", "test")
    }
    held_out = {text for part in ("valid", "test") for pair, _ in parts[part] for text in pair}
    further = read_labelled(data, *FURTHER)
    parts["further"] = [row for row in further if held_out.isdisjoint(row[0])]
    return parts


def main(argv: Sequence[str] | None = None) -> dict | None:
    args = arguments(__file__, __doc__, QUICK, FULL, argv)
    cut = load_jieba()
    if args.texts is not None:
        args.tokenizer, vocabulary = word_tokenizer(args.tokenizer, args.saved["words"], cut)
        model = build(args, len(SAME), load=False, model=PairBERT, **vocabulary)
        return predict(args, model, SAME, n_texts=2, encode=encode_pair)

    rows = read_parts(args.data)
    texts = [text for part in ("train", "further") for pair, _ in rows[part] for text in pair]
    words = frequent_words(texts, cut, args.tokenizer, N_WORDS[args.quick])
    remember(args, words=words)
    args.tokenizer, vocabulary = word_tokenizer(args.tokenizer, words, cut)
    samples, valid, test, further = (encoded(args, part, encode_pair) for part in rows.values())
    model = build(args, len(SAME), model=PairBERT, **vocabulary)
    train(args, model, samples + further, valid)
    pairs = ([(*pair, label) for pair, label in rows[part]] for part in ("train", "test"))
    scores = {
        "accuracy": accuracy(model, test),
        "overlap": round(overlap_accuracy(*pairs), 4),
    }
    return report(args, "lcqmc, test", scores)


if __name__ == "__main__":
    main()
