"""Which paragraphs are kept: Chinese ones, once each, that stand in no text that is held out."""

import collections
import gzip
import hashlib
import io
import itertools
import json
import re
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from readers import HEADING

CHINESE_SHARE = 0.55
"""Of the characters of a paragraph that are no spaces, at least so many are Chinese."""
SHORTEST = 6
"""Chinese characters of a paragraph, at least."""
GRAM = 13
"""So many consecutive Chinese characters in common make a text known."""
KNOWN_SHARE = 0.6
"""A paragraph is a near repeat if so many of its sampled grams were seen."""
SAMPLED = 16
"""One gram of so many is remembered of what was kept."""

_CHINESE = re.compile(r"[\u3400-\u9fff]")
_OTHER = re.compile(r"[^\u3400-\u9fff]+")
_SPACE = re.compile(r"\s+")
_LAST_BITS = np.uint64(2**28 - 1)
_POWERS = np.cumprod(np.array([1] + [0x9E3779B97F4A7C15] * 5, "uint64"))
# Placeholders of messages, formulas, templates, and what no text has.
_MARKUP = re.compile(
    r"%[-\d$.]*[sdiufc](?![a-zA-Z])|\{\w*\}|\$[^$\s]|\\[a-zA-Z]+[{\\]|\{\{|\}\}|\[\[|</?\w+|\ufffd|&\w+;|"
    r"https?://\S{30}"
)
_BETWEEN_CHINESE = re.compile(
    r"(?<=[\u3000-\u303f\u3400-\u9fff\uff00-\uffef]) (?=[\u3000-\u303f\u3400-\u9fff\uff00-\uffef])"
)

REASONS = {
    "foreign": "less than 55 % Chinese",
    "short": "under 6 Chinese characters",
    "markup": "markup, formulas",
    "repeat": "repeats",
    "near": "near repeats",
    "held_out": "in held-out texts",
}


_QUOTES = str.maketrans("「」『』", "“”‘’")


def tidy(line: str) -> str:
    """A line with quotation marks of the mainland and no spaces between Chinese characters."""
    return _BETWEEN_CHINESE.sub("", _SPACE.sub(" ", line).strip()).translate(_QUOTES)


def wording(text: str) -> str:
    """The Chinese characters of a text."""
    return _OTHER.sub("", text)


def grams(text: str) -> np.ndarray:
    """Hashes of all `GRAM` consecutive characters of a text, (n,) of uint64.

    Polynomials modulo 2**64; those of 13 characters are made of those of 8, 4 and 1.
    """
    one = np.frombuffer(text.encode("utf-32-le"), "<u4").astype("uint64")
    n = len(one) - GRAM + 1
    if n <= 0:
        return np.zeros(0, "uint64")
    two = one[:-1] * _POWERS[1] + one[1:]
    four = two[:-2] * _POWERS[2] + two[2:]
    eight = four[:-4] * _POWERS[4] + four[4:]
    hashes = eight[:n] * _POWERS[5] + four[8:][:n] * _POWERS[1] + one[12:]
    return hashes ^ (hashes >> np.uint64(29))


class HeldOut:
    """Texts of tasks, of which no paragraph may hold a part.

    Args:
        texts: all of them, in simplified characters.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self.short: set[str] = set()
        parts = [np.zeros(0, "uint64")]
        for batch in batched(map(wording, texts), 10000):
            self.short.update(text for text in batch if len(text) < GRAM)
            # Grams over the ends of texts occur nowhere else.
            parts.append(np.unique(grams("\n".join(batch))))
        self.grams = np.unique(np.concatenate(parts))
        # Most grams are none of these, which a table of their last bits tells without a search.
        self.may_be = np.zeros(2**28, bool)
        self.may_be[self.grams & _LAST_BITS] = True

    def holds(self, text: str, found: np.ndarray) -> bool:
        """Whether a wording is one of the texts, or has a gram in common with them."""
        if len(found) == 0:
            return text in self.short
        found = found[self.may_be[found & _LAST_BITS]]
        if len(found) == 0:
            return False
        places = np.minimum(np.searchsorted(self.grams, found), len(self.grams) - 1)
        return bool((self.grams[places] == found).any())


class Judge:
    """Says of every paragraph why it is left out, if it is; remembers what it let pass.

    Args:
        held_out: texts of tasks.
    """

    def __init__(self, held_out: HeldOut) -> None:
        self.held_out = held_out
        self.seen: set[int] = set()
        self.grams: set[int] = set()

    def reason(self, paragraph: str) -> str:
        """A key of `REASONS`, or '' for what is kept."""
        text = wording(paragraph)
        if len(text) < CHINESE_SHARE * len(paragraph.replace(" ", "")):
            return "foreign"
        if len(text) < SHORTEST:
            return "short"
        if _MARKUP.search(paragraph):
            return "markup"
        found = grams(text)
        if self.held_out.holds(text, found):
            return "held_out"
        return self.repeated(text, found)

    def repeated(self, text: str, found: np.ndarray) -> str:
        key = hash_of(text)
        if key in self.seen:
            return "repeat"
        sample = set(found[found % np.uint64(SAMPLED) == 0].tolist())
        if len(sample) >= 2 and len(sample & self.grams) >= KNOWN_SHARE * len(sample):
            return "near"
        self.seen.add(key)
        self.grams |= sample
        return ""


def batched(items: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def hash_of(text: str) -> int:
    """The same in every process, unlike `hash`."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def cleaned(
    document: Iterable[str], judge: Judge, counts: collections.Counter
) -> Iterator[tuple[str, bool]]:
    """What is kept of a document, and whether it is a heading; headings without text are not."""
    headings: list[str] = []
    for line in document:
        for part in map(tidy, line.split("\n")):
            if part.startswith(HEADING):
                headings = [tidy(part.removeprefix(HEADING))]
                continue
            if not part:
                continue
            reason = judge.reason(part)
            counts[reason or "paragraphs"] += 1
            if not reason:
                yield from ((heading, True) for heading in headings if is_heading(heading))
                yield part, False
                headings = []


def is_heading(text: str) -> bool:
    chinese = len(_CHINESE.findall(text))
    return chinese >= 2 and 2 * chinese >= len(text.replace(" ", "")) and not _MARKUP.search(text)


# --- texts of tasks


def held_out_texts(folder: Path, convert: Any) -> Iterator[str]:
    """All texts in the archives below a folder, its training parts included.

    Some tasks draw what they are tested on from their training files, so that no file is spared but
    those of plain text for pretraining, in `corpus`.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "corpus" not in path.relative_to(folder).parts:
            for name, content in members(path):
                texts = texts_of(name, content.decode("utf-8", "replace"))
                yield from convert("\n".join(texts)).split("\n")


def members(path: Path) -> Iterator[tuple[str, bytes]]:
    """The files in a file: of an archive all of them, else the one that it is."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            yield from ((info.filename, archive.read(info)) for info in archive.infolist())
    elif path.name.endswith((".tar.gz", ".tgz")):
        with tarfile.open(path) as archive:
            for member in archive.getmembers():
                if member.isfile():
                    yield member.name, archive.extractfile(member).read()
    elif path.suffix == ".gz":
        yield path.stem, gzip.decompress(path.read_bytes())
    elif path.suffix not in (".md", ".py"):
        yield path.name, path.read_bytes()


def texts_of(name: str, content: str) -> Iterator[str]:
    """The texts of a file of JSON, JSON lines, columns, or a character and its label a line."""
    if name.endswith((".json", ".jsonl")):
        values = parsed(content)
        yield from strings(content.split("\n") if values is None else values)
        return
    lines = content.split("\n")
    single = sum(len(wording(line)) == 1 for line in lines)
    if 2 * single > len(lines):
        lines = "\n".join(line[:1] for line in lines).replace("\n\n", "\t").replace("\n", "")
        lines = lines.split("\t")
    for line in lines:
        yield from line.split("\t")


def parsed(content: str) -> Any:
    """The values of JSON or of JSON lines; None for what is neither."""
    try:
        return json.loads(content)
    except ValueError:
        pass
    try:
        return [json.loads(line) for line in io.StringIO(content) if line.strip()]
    except ValueError:
        return None


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from strings(each)
