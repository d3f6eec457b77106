"""Word segmentation by a conditional random field.

    python experiments/task_sequence_labeling_cws_crf.py --data DATA --quick
    python experiments/task_sequence_labeling_cws_crf.py predict 今天天气很好，我们去公园玩。

A character is a word by itself, or begins, continues or ends one; these four tags are scored
together along the text (Lafferty et al., 2001; https://kexue.fm/archives/7196). Whatever the tags
are, the words they mean are the whole text together.

Scored as in the SIGHAN bakeoff of 2005, by F1 of words; `oov_recall` is the share found of the
words that the training text does not have, and `longest_match` the F1 of always taking the longest
word that the training text has.

Data: `cws/icwb2-data.zip` (`icwb2-data/training/pku_training.utf8`, whose last 1,000 lines are for
validation; `icwb2-data/gold/pku_test_gold.utf8` is the test).
"""

import json
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from common import (
    Batches,
    Size,
    arguments,
    fit,
    load_best,
    micro_f1,
    optimizer,
    remember,
    report,
)
from tagging import CRF, Scheme, Span, build, encode_pieces, find, read_words, words_as_spans

from bert4keras.snippets import strQ2B
from bert4keras.tokenizers import Tokenizer

QUICK = Size(epochs=2, batch_size=32, learning_rate=1e-3, maxlen=128)
FULL = Size(epochs=10, batch_size=16, learning_rate=2e-5, maxlen=256)
TRANSITION_RATE = 0.02  # of the transition scores, whatever the rate of the rest is
N_VALID = 1000
SINGLE, BEGIN, MIDDLE, END = range(4)


class Characters(Tokenizer):
    """Each character is a token; full-width letters and digits count as the usual ones."""

    def tokenize(self, text: str, maxlen: int | None = None) -> list[str]:
        cut = text if maxlen is None else text[: maxlen - 2]
        return [self._token_start, *(strQ2B(each).lower() for each in cut), self._token_end]

    def rematch(self, text: str, tokens: Sequence[str]) -> list[list[int]]:
        return [[], *([place] for place in range(len(tokens) - 2)), []]


def word_tags(spans: Sequence[Span], length: int) -> np.ndarray:
    """Tags of the characters of words; of what is in no word, that of a single one."""
    tags = np.full(length, SINGLE, "int32")
    for first, last, _ in spans:
        if first < last:
            tags[first : last + 1] = BEGIN, *[MIDDLE] * (last - first - 1), END
    return tags


def word_spans(tags: Sequence[int]) -> list[Span]:
    """The words of tags: one begins where a tag says so, or after one that says it ends."""
    starts = [
        place
        for place, tag in enumerate(tags)
        if place == 0 or tag in (SINGLE, BEGIN) or tags[place - 1] in (SINGLE, END)
    ]
    return [(start, end - 1, 0) for start, end in pairwise([*starts, len(tags)])]


def cut_at(text: str, spans: Sequence[Span]) -> list[str]:
    return [text[first : last + 1] for first, last, _ in sorted(spans)]


def longest_match(text: str, words: set[str]) -> list[str]:
    """Cut off, again and again, the longest known word, or a single character."""
    longest, found, at = max(map(len, words)), [], 0
    while at < len(text):
        end = next(n for n in range(longest, 0, -1) if n == 1 or text[at : at + n] in words)
        found.append(text[at : at + end])
        at += end
    return found


def scores_of(
    found: Sequence[Sequence[str]], lines: Sequence[Sequence[str]], known: set[str]
) -> dict[str, float]:
    """F1, precision and recall of the words of lines, and recall of those that are not known."""
    places = [[set(words_as_spans(words)[1]) for words in each] for each in (found, lines)]
    new = [
        span in right
        for words, right in zip(lines, places[0], strict=True)
        for word, span in zip(words, words_as_spans(words)[1], strict=True)
        if word not in known
    ]
    return micro_f1(*places) | {"oov_recall": round(sum(new) / max(1, len(new)), 4)}


# --- the experiment


def main(argv: Sequence[str] | None = None) -> dict | None:
    args = arguments(__file__, __doc__, QUICK, FULL, argv)
    maxlen, tokenizer = args.size.maxlen, Characters(args.files.vocabulary)
    scheme = Scheme(END + 1, word_tags, word_spans)
    head = CRF(scheme, lr_multiplier=TRANSITION_RATE / args.size.learning_rate)
    model, predictor = build(args, head, load=args.texts is None)

    def segment(texts: Sequence[str]) -> list[list[str]]:
        found = find(texts, predictor, head, tokenizer, maxlen)
        return [cut_at(text, spans) for text, spans in zip(texts, found, strict=True)]

    if args.texts is not None:
        load_best(args, model)
        for text, words in zip(args.texts, segment(args.texts), strict=True):
            print(json.dumps({"text": text, "words": words}, ensure_ascii=False))
        return None

    remember(args)
    lines = read_words(args.data, "training/pku_training")
    n_valid = min(N_VALID, len(lines) // 10)
    train, valid = lines[:-n_valid], lines[-n_valid:]
    test = read_words(args.data, "gold/pku_test_gold")
    known = {word for words in train for word in words}
    samples = encode_pieces(list(map(words_as_spans, train)), tokenizer, maxlen)
    batches = Batches(samples, args.batch_size, head.make)
    model.compile(optimizer=optimizer(args, batches), loss=head.loss)

    def evaluate(lines: list[list[str]]) -> dict[str, float]:
        return scores_of(segment(list(map("".join, lines))), lines, known)

    fit(args, model, batches, lambda: evaluate(valid))
    matched = [longest_match("".join(words), known) for words in test]
    baseline = {"longest_match": scores_of(matched, test, known)["f1"]}
    return report(args, "cws, pku_test_gold", evaluate(test) | baseline)


if __name__ == "__main__":
    main()
