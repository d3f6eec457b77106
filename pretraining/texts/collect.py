"""Collect Chinese texts that may be passed on, clean them, and write them for pretraining.

    python pretraining/texts/collect.py --output texts [--held-out DATA] [--only NAME ...]

Fetches the packages and repositories of `sources.toml`, in their versions, leaves out markup, code,
other languages, repeats, near repeats and what stands in the texts of tasks below `--held-out`, and
makes traditional characters simplified. The output folder gets a file `NAME.jsonl.gz` for each
source, with `{"text", "source"}` and, where a heading begins the text, its `title`;
`valid.jsonl.gz` with a hundredth of each, in none of the others; and `stats.json`.

Documents are cut into pieces of about a thousand characters, at headings if there are any. The same
versions and held-out texts make the same files.
"""

import argparse
import collections
import gzip
import hashlib
import json
import random
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from archives import FetchError, Source, fetched, read_files
from cleaning import REASONS, HeldOut, Judge, cleaned, held_out_texts
from readers import READERS, Document

HERE = Path(__file__).parent
PIECE = 1000
"""Characters of a piece, about."""
VALID = 100
"""One piece of so many is for validation."""


def read_sources(path: Path = HERE / "sources.toml") -> list[Source]:
    """The table of sources.

    Raises:
        SystemExit: it is not one.
    """
    try:
        rows = tomllib.loads(path.read_text(encoding="utf-8"))["source"]
        return [Source(**row) for row in rows]
    except (OSError, UnicodeError, tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise SystemExit(f"{path} is no table of sources: {error}") from error


def converter(name: str) -> Callable[[str], str]:
    """A function that makes traditional characters simplified; "" for one that does nothing."""
    if not name:
        return lambda text: text
    try:
        import opencc
    except ImportError as error:
        raise SystemExit("traditional texts need OpenCC: pip install opencc") from error
    return opencc.OpenCC(name).convert


def documents(source: Source, path: Path) -> Iterator[Document]:
    """The documents of a source, in an order that does not depend on what they are called."""
    convert = converter(source.convert)
    without = lines_without(source.without)
    files = sorted(
        read_files(source, path), key=lambda file: hashlib.md5(file[0].encode()).digest()
    )
    for name, content in files:
        for document in READERS[source.reader](without(content), name):
            yield [convert(line) for line in document]


def digest(text: str) -> bytes:
    return hashlib.md5(text.encode()).digest()


def lines_without(pattern: str) -> Callable[[bytes], bytes]:
    """A function that leaves out the lines of a file that match."""

    expression = re.compile(pattern.encode()) if pattern else None

    def without(content: bytes) -> bytes:
        if expression is None:
            return content
        return b"\n".join(line for line in content.split(b"\n") if not expression.search(line))

    return without


def pieces(lines: Iterable[tuple[str, bool]], size: int = PIECE) -> Iterator[dict]:
    """Cut what is kept of a document into records of about `size` characters.

    A new piece begins at a heading when half of the size is reached, else at a paragraph when all
    of it is. `title` is the heading that a piece begins with.
    """
    piece: list[str] = []
    n_characters, titled = 0, False
    for text, is_heading in lines:
        if n_characters >= (size / 2 if is_heading else size):
            yield record(piece, titled)
            piece, n_characters = [], 0
        if not piece:
            titled = is_heading
        piece.append(text)
        n_characters += len(text)
    if piece:
        yield record(piece, titled)


def record(piece: Sequence[str], titled: bool) -> dict:
    return {"text": "\n".join(piece)} | ({"title": piece[0]} if titled else {})


def collected(source: Source, path: Path, judge: Judge, counts: collections.Counter) -> list[dict]:
    """The records of a source, at most as many characters as it may have."""
    found, n_characters = [], 0
    for document in documents(source, path):
        counts["documents"] += 1
        for piece in pieces(cleaned(document, judge, counts)):
            found.append(piece | {"source": source.name})
            n_characters += len(piece["text"])
        if source.at_most and n_characters >= source.at_most:
            break
    random.Random(0).shuffle(found)
    return found


def is_for_validation(text: str) -> bool:
    return int.from_bytes(digest(text)[:4]) % VALID == 0


def write(path: Path, records: Iterable[dict]) -> None:
    """Write JSON lines, packed, the same bytes for the same records."""
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as file:
        for each in records:
            file.write(json.dumps(each, ensure_ascii=False).encode() + b"\n")


def table(stats: dict[str, dict]) -> str:
    """The counts of all sources as a table of Markdown."""
    keys = {"pieces": "pieces", "characters": "characters", "paragraphs": "paragraphs"} | REASONS
    total = collections.Counter()
    rows = [["source", *keys.values()], ["---", *["---:"] * len(keys)]]
    for name, counts in stats.items():
        total.update({key: counts.get(key, 0) for key in keys})
        rows.append([name, *(f"{counts.get(key, 0):,}" for key in keys)])
    rows.append(["all", *(f"{total[key]:,}" for key in keys)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def collect(
    sources: Sequence[Source], output: Path, held_out: HeldOut, clones: Path | None = None
) -> dict[str, dict]:
    """Write the files of all sources and return their counts."""
    output.mkdir(parents=True, exist_ok=True)
    judge, stats, valid = Judge(held_out), {}, []
    for source in sources:
        counts: collections.Counter = collections.Counter()
        path = fetched(source, output / "downloads", clones)
        records = collected(source, path, judge, counts)
        if not records:
            raise SystemExit(f"nothing is left of {source.name}: {dict(counts)}")
        kept = [each for each in records if not is_for_validation(each["text"])]
        valid += [each for each in records if is_for_validation(each["text"])]
        write(output / f"{source.name}.jsonl.gz", kept)
        counts["pieces"] = len(records)
        counts["characters"] = sum(len(each["text"]) for each in records)
        stats[source.name] = dict(counts)
        print(f"{source.name}: {counts['characters']:,} characters", file=sys.stderr, flush=True)
    write(output / "valid.jsonl.gz", valid)
    (output / "stats.json").write_text(json.dumps(stats, indent=1) + "\n", encoding="utf-8")
    return stats


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--held-out", type=Path, help="folder of the data of tasks")
    parser.add_argument("--clones", type=Path, help="folder of clones OWNER/NAME, used if there")
    parser.add_argument("--only", nargs="+", help="names of sources; all by default")
    args = parser.parse_args(argv)
    sources = read_sources()
    if unknown := set(args.only or ()) - {source.name for source in sources}:
        raise SystemExit(f"there are no sources {', '.join(sorted(unknown))} in sources.toml")
    sources = [source for source in sources if not args.only or source.name in args.only]
    texts = held_out_texts(args.held_out, converter("t2s")) if args.held_out else ()
    try:
        stats = collect(sources, args.output, HeldOut(texts), args.clones)
    except FetchError as error:
        raise SystemExit(str(error)) from error
    print(table(stats))


if __name__ == "__main__":
    main()
