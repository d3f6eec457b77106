"""Make pairs of a text and something short that is written from it, of texts for pretraining.

    python pretraining/texts/pairs.py --texts texts/*.jsonl.gz --output pairs.jsonl.gz

Texts should be those that explain something; stories and conversations make poor questions. A
model that is to write (UniLM) starts from the pairs. There are three kinds, by `source`:

    title   a section, and its heading
    lead    the paragraphs behind a first sentence, and that sentence, if they share most of it
    answer  a question and paragraphs, and what the question asks for: a sentence of theirs where
            什么, 多少 or 什么时候 stands in the place of a name, a number or a date

Each line of the output has `text`, `target` and `source`; `data_utils.py --task unilm` makes
examples of them in which exactly the target is learned. Headings that many texts have are left out,
as are those that their text does not speak of.
"""

import argparse
import collections
import gzip
import json
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from cleaning import wording
from collect import write

MAX_TEXT = 400
"""Characters of a text."""
SHORTEST = 60
"""Characters of a text, at least."""
COMMON = 3
"""A heading of more texts says little of each of them."""
SHARED = {"title": 0.6, "lead": 0.4}
"""So much of a title or first sentence stands in its text, in pairs of characters."""

_NUMBERING = re.compile(
    r"^(?:第[\d一二三四五六七八九十百零〇]+[章节編编回部分条步课]?|附录|[A-Z]?\d+(?:\.\d+)*|"
    r"[一二三四五六七八九十]+|[（(][\d一二三四五六七八九十]+[)）])[\s.、:：.]*"
)
_FIRST_SENTENCE = re.compile(r"[^。！？!?\n]{10,60}[。！？!?]")
_SENTENCE = re.compile(r"[^。！？!?\n]{8,80}[。！？!?]")
_ASKED = [
    (re.compile(r"((?:\d{4}年)?\d{1,2}月(?:\d{1,2}日)?|\d{4}年(?!代))"), "什么时候"),
    (re.compile(r"(?<=[一-龥])(\d[\d,.]*万?)[个人元次种天名家部座公条件项位米平小分]"), "多少"),
    (re.compile(r"《([^《》]{2,12})》|“([^“”，。]{2,8})”"), "什么"),
    (re.compile(r"^[^，。；、“《]{2,12}是(?:一[种个项类])?([一-龥]{1,11}[^的])[，。]"), "什么"),
]
"""What is asked for, and how."""


def parts_of(record: dict) -> tuple[str, str]:
    """The title of a record without its number, '' if there is none, and the text behind it."""
    title = record.get("title", "")
    if not title:
        return "", record["text"]
    return _NUMBERING.sub("", title).strip(), record["text"][len(title) :].strip()


def shared(short: str, text: str) -> float:
    """The share of the pairs of characters of a wording that stand in a text, too."""
    words, all_words = wording(short), wording(text)
    grams = [words[i : i + 2] for i in range(len(words) - 1)]
    return sum(gram in all_words for gram in grams) / max(1, len(grams))


def titles(record: dict, counts: collections.Counter) -> Iterator[tuple[str, str]]:
    title, text = parts_of(record)
    if len(wording(title)) >= 4 and len(title) <= 30 and counts[title] <= COMMON:
        text = text[:MAX_TEXT]
        if len(text) >= SHORTEST and shared(title, text) >= SHARED["title"]:
            yield text, title


def leads(record: dict) -> Iterator[tuple[str, str]]:
    _, text = parts_of(record)
    first = _FIRST_SENTENCE.match(text)
    if first:
        rest = text[first.end() :].strip()[:MAX_TEXT]
        if len(rest) >= SHORTEST and shared(first[0], rest) >= SHARED["lead"]:
            yield rest, first[0]


def answers(record: dict, rng: random.Random) -> Iterator[tuple[str, str]]:
    """One question about a record, if there is one."""
    _, text = parts_of(record)
    sentences = list(_SENTENCE.finditer(text))
    found = [
        (number, span.span(span.lastindex), asked)
        for number, sentence in enumerate(sentences)
        for pattern, asked in _ASKED
        for span in pattern.finditer(sentence[0])
    ]
    if found:
        number, (start, end), asked = rng.choice(found)
        sentence = sentences[number]
        begins = [s.start() for s in sentences if 0 <= sentence.start() - s.start() < MAX_TEXT // 2]
        begin = rng.choice(begins)
        passage = text[begin : max(begin + MAX_TEXT, sentence.end())]
        question = f"{sentence[0][:start]}{asked}{sentence[0][end:-1]}？"
        yield f"{question}\n{passage}", sentence[0][start:end]


def pairs(records: Sequence[dict], seed: int = 0) -> Iterator[dict]:
    """All pairs of some records, in random order."""
    counts = collections.Counter(parts_of(record)[0] for record in records)
    rng = random.Random(seed)
    found = [
        {"text": text, "target": target, "source": kind}
        for record in records
        for kind, made in (
            ("title", titles(record, counts)),
            ("lead", leads(record)),
            ("answer", answers(record, rng)),
        )
        for text, target in made
    ]
    rng.shuffle(found)
    yield from found


def read(paths: Iterable[Path]) -> Iterator[dict]:
    for path in paths:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            yield from map(json.loads, file)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=Path, nargs="+", required=True, help="of collect.py")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    found = list(pairs(list(read(args.texts)), args.seed))
    write(args.output, found)
    print(dict(collections.Counter(pair["source"] for pair in found)))


if __name__ == "__main__":
    main()
