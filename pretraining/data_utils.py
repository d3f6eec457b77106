"""Prepare a corpus for pretraining: texts → token ids → TFRecord shards.

    python pretraining/data_utils.py --corpus a.jsonl.gz b.txt --vocab vocab.txt --output data

A corpus file has one document a line: `.jsonl` holds JSON objects with a `text`, any other file
plain text; `.gz` is unpacked. Files are streamed, and may be larger than memory. What cannot be
read is left out, counted, and shown in a table.

The output folder gets `examples-*.tfrecord`, `vocab.txt`, `stats.json` with the counts, and at the
very end `dataset.json`, which says what the shards hold: without it there is no data set.

A corpus is cut into blocks of about a megabyte. All examples of a block come from it alone, and
(seed, file, block) say which shard they go to and in which order. So the shards do not depend on
how many workers there are.

Masks, splits into pairs and the like are drawn when a model is trained, anew in every epoch. What
is stored depends on the layout:

    packed      documents joined at [SEP] and cut into pieces of one length (roberta, electra, gpt)
    sentences   consecutive sentences of one document, and where each begins (bert, unilm)

JSON that has a `target` besides its `text` is a pair; in the second layout it makes one example, of
which only the target has a beginning, so that the model learns the target from the text.
"""

import argparse
import collections
import gzip
import importlib
import json
import re
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
from records import encoded, framed, replacing

from bert4keras.snippets import parallel_apply
from bert4keras.tokenizers import Tokenizer, load_vocab, save_vocab

LAYOUTS = {
    "roberta": "packed",
    "electra": "packed",
    "gpt": "packed",
    "bert": "sentences",
    "unilm": "sentences",
}
"""How the examples of each task are stored."""
SPECIAL_TOKENS = {"packed": 2, "sentences": 3}
"""How many tokens of a sequence are [CLS] and [SEP], added when a model is trained."""
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PAIR_MARK = "\x1e"
"""Between the text of a document and its target; no text has this character."""
BLOCK_BYTES = 2**20
SHARD_BYTES = 2**26
SKIPPED = {
    "empty": "empty lines or texts",
    "too_long": "lines over the limit",
    "encoding": "not UTF-8",
    "json": "not a JSON object",
    "no_text": "JSON without text",
    "source": "other sources",
    "too_short": "single tokens",
}
"""What is left out, with the heading in the table."""


# --- reading


@dataclass(frozen=True)
class Block:
    """Consecutive lines of a corpus file.

    Attributes:
        file: number of the file.
        number: number of the block in its file.
        is_json: whether lines are JSON.
        lines: the lines.
        too_long: how many lines over the limit were left out.
        position: how many bytes of the file have been read, of a packed one those of the pack.
    """

    file: int
    number: int
    is_json: bool
    lines: list[bytes] = field(repr=False)
    too_long: int = 0
    position: int = 0


def check_corpus(paths: Sequence[Path]) -> None:
    """Refuse files that are not there, are empty, or are no gzip although they are called so."""
    if not paths:
        raise SystemExit("there is no corpus: give --corpus with one file or more")
    for path in paths:
        if not path.is_file():
            raise SystemExit(f"there is no corpus file {path}: correct --corpus")
        try:
            with path.open("rb") as raw, unpacked(raw, path) as file:
                empty = not file.read(1)
        except (OSError, EOFError, zlib.error) as error:
            raise SystemExit(f"{path} cannot be read: {error}") from error
        if empty:
            raise SystemExit(f"the corpus file {path} is empty: correct it or leave it out")


def unpacked(raw: BinaryIO, path: Path) -> BinaryIO:
    return gzip.open(raw) if path.suffix == ".gz" else raw


def read_blocks(file: int, path: Path, max_line: int) -> Iterator[Block]:
    """Cut a corpus file into blocks of about `BLOCK_BYTES`, without holding more than one."""
    is_json = path.with_suffix("" if path.suffix == ".gz" else path.suffix).suffix == ".jsonl"
    lines: list[bytes] = []
    size = number = too_long = 0
    with path.open("rb") as raw, unpacked(raw, path) as content:
        try:
            for line in read_lines(content, max_line):
                if line is None:
                    too_long += 1
                    continue
                lines.append(line)
                size += len(line)
                if size >= BLOCK_BYTES:
                    yield Block(file, number, is_json, lines, too_long, raw.tell())
                    lines, size, too_long, number = [], 0, 0, number + 1
        except (OSError, EOFError, zlib.error) as error:
            raise SystemExit(
                f"{path} is damaged after {raw.tell()} of its {path.stat().st_size} bytes: {error}"
            ) from error
        if lines or too_long:
            yield Block(file, number, is_json, lines, too_long, raw.tell())


def read_lines(content: BinaryIO, max_line: int) -> Iterator[bytes | None]:
    """The lines of a file; None for those of more than `max_line` bytes, which are not kept."""
    while line := content.readline(max_line + 1):
        if len(line) <= max_line or line.endswith(b"\n"):
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = content.readline(BLOCK_BYTES)
        yield None


def read_documents(block: Block, sources: Sequence[str] | None = None) -> Iterator[tuple[str, str]]:
    """For each line its text and "", or "" and the reason (of `SKIPPED`) why it has none."""
    for line in block.lines:
        try:
            text = line.decode("utf-8-sig").replace(PAIR_MARK, " ").strip()
            reason = "" if text else "empty"
            if text and block.is_json:
                text, reason = text_of(text, sources)
            text.encode()  # JSON can hold halves of surrogate pairs, which are no text
        except UnicodeError:
            text, reason = "", "encoding"
        yield text, reason


def text_of(line: str, sources: Sequence[str] | None) -> tuple[str, str]:
    """The text of a line of JSON, or the reason why there is none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return "", "json"
    if not isinstance(record, dict):
        return "", "json"
    if sources is not None and record.get("source") not in sources:
        return "", "source"
    if not isinstance(record.get("text"), str):
        return "", "no_text"
    text = record["text"].replace(PAIR_MARK, " ").strip()
    if text and isinstance(record.get("target"), str) and record["target"].strip():
        text += PAIR_MARK + record["target"].replace(PAIR_MARK, " ").strip()
    return text, "" if text else "empty"


# --- from texts to examples


@dataclass(frozen=True)
class Preparation:
    """All that decides what the shards hold; it is written into `dataset.json`.

    Attributes:
        task: what the examples are for, a key of `LAYOUTS`.
        length: tokens of a sequence, [CLS] and [SEP] included.
        shards: number of files.
        seed: of the order of the examples.
        max_line: lines of more bytes are left out.
        segmenter: "module:function", which cuts a text into words; "" for none.
        sources: only documents with one of these in `source`; empty for all.
        corpus: name and size of each file.
        vocabulary: checksum of the vocabulary file, or how it was made.
    """

    task: str
    length: int
    shards: int
    seed: int
    max_line: int
    segmenter: str
    sources: list[str]
    corpus: list[list]
    vocabulary: str

    @property
    def layout(self) -> str:
        return LAYOUTS[self.task]

    @property
    def body(self) -> int:
        """How many tokens of text a sequence holds."""
        return self.length - SPECIAL_TOKENS[self.layout]


@dataclass
class Records:
    """What comes of a block: its records, for which shard they are, and counts."""

    file: int
    number: int
    shard: int
    position: int
    content: bytes
    counts: collections.Counter


class Preparer:
    """Turns blocks into records: what a worker does.

    Args:
        preparation: how.
        token_dict: the vocabulary.
    """

    def __init__(self, preparation: Preparation, token_dict: dict[str, int]) -> None:
        self.preparation = preparation
        self.tokenizer = Tokenizer(token_dict, do_lower_case=True)
        self.segmenter = None
        if preparation.segmenter:
            hint = "give module:function, such as jieba:lcut"
            self.segmenter = imported(preparation.segmenter, hint)

    def __call__(self, block: Block) -> Records:
        counts = collections.Counter(too_long=block.too_long, lines=block.too_long)
        rng = np.random.default_rng([self.preparation.seed, block.file, block.number])
        shard = int(rng.integers(self.preparation.shards))
        examples = list(self.examples(self.texts(block, counts), counts))
        order = rng.permutation(len(examples))
        content = b"".join(framed(encoded(examples[i])) for i in order)
        counts["examples"] = len(examples)
        return Records(block.file, block.number, shard, block.position, content, counts)

    def texts(self, block: Block, counts: collections.Counter) -> Iterator[str]:
        """The documents of a block; what is left out is counted."""
        for text, reason in read_documents(block, self.preparation.sources or None):
            counts["lines"] += 1
            counts[reason or "documents"] += 1
            counts["characters"] += len(text)
            if text:
                yield text

    def examples(self, texts: Iterable[str], counts: collections.Counter) -> Iterator[dict]:
        """The features of all examples of some documents."""
        body = self.preparation.body
        if self.preparation.layout == "packed":
            pieces = packed(map(self.encoded_document, texts), body, self.tokenizer._token_end_id)
        else:
            pieces = (piece for text in texts for piece in self.sentences(text))
        for piece in pieces:
            if len(piece["token_ids"]) < 2:
                counts["too_short"] += 1
                continue
            counts["tokens"] += len(piece["token_ids"])
            if not self.segmenter:
                del piece["word_starts"]
            yield piece

    def sentences(self, text: str) -> Iterator[dict[str, list[int]]]:
        """Consecutive sentences of a document; or a pair, its text cut so that the target fits."""
        body = self.preparation.body
        if PAIR_MARK not in text:
            yield from chunks(map(self.encoded, sentences_of(text)), body)
            return
        (ids, starts), (target_ids, target_starts) = map(self.encoded, text.split(PAIR_MARK))
        target_ids = target_ids[: body // 2]
        room = min(len(ids), body - len(target_ids))
        yield {
            "token_ids": ids[:room] + target_ids,
            "word_starts": starts[:room] + target_starts[: len(target_ids)],
            "sentence_starts": [room],
        }

    def encoded_document(self, text: str) -> tuple[list[int], list[int]]:
        """The token ids of a document, and for each whether a word begins."""
        token_ids, word_starts = [], []
        for paragraph in text.replace(PAIR_MARK, "\n").split("\n"):
            ids, starts = self.encoded(paragraph)
            token_ids += ids
            word_starts += starts
        return token_ids, word_starts

    def encoded(self, text: str) -> tuple[list[int], list[int]]:
        """The token ids of a text, and for each whether a word begins."""
        if self.segmenter is None:
            token_ids = self.tokenizer.encode(text)[0][1:-1]
            return token_ids, [1] * len(token_ids)
        token_ids, word_starts = [], []
        for word in self.words(text):
            ids = self.tokenizer.encode(word)[0][1:-1]
            token_ids += ids
            word_starts += [1, *[0] * (len(ids) - 1)][: len(ids)]
        return token_ids, word_starts

    def words(self, text: str) -> list[str]:
        """The words of a text, which are all of it."""
        words = list(self.segmenter(text))
        if "".join("".join(words).split()) != "".join(text.split()):
            raise ValueError(
                f"the segmenter {self.preparation.segmenter} makes {words[:5]}… of {text[:20]!r}…: "
                "joined, the words have to be the text again (but for spaces)"
            )
        return words


def imported(name: str, hint: str) -> Callable:
    """The function that "module:function" names."""
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise SystemExit(f"{name!r} cannot be imported ({error}): {hint}") from error


def packed(
    documents: Iterable[tuple[list[int], list[int]]], size: int, end_id: int
) -> Iterator[dict[str, list[int]]]:
    """Documents joined at `end_id`, cut into pieces of `size` tokens; the last may be shorter."""
    token_ids, word_starts = [], []
    for ids, starts in documents:
        token_ids += [*ids, end_id]
        word_starts += [*starts, 1]
        n_whole = len(token_ids) // size * size
        for at in range(0, n_whole, size):
            yield {
                "token_ids": token_ids[at : at + size],
                "word_starts": word_starts[at : at + size],
            }
        del token_ids[:n_whole], word_starts[:n_whole]
    if token_ids:
        yield {"token_ids": token_ids, "word_starts": word_starts}


def chunks(
    sentences: Iterable[tuple[list[int], list[int]]], size: int
) -> Iterator[dict[str, list[int]]]:
    """Consecutive sentences of at most `size` tokens together; longer ones are cut.

    `sentence_starts` says where a sentence begins, but for the first.
    """
    chunk: dict[str, list[int]] = {"token_ids": [], "word_starts": [], "sentence_starts": []}
    for all_ids, all_starts in sentences:
        for at in range(0, len(all_ids), size):
            ids, starts = all_ids[at : at + size], all_starts[at : at + size]
            n_tokens = len(chunk["token_ids"])
            if n_tokens and n_tokens + len(ids) > size:
                yield chunk
                chunk = {"token_ids": [], "word_starts": [], "sentence_starts": []}
            elif n_tokens:
                chunk["sentence_starts"].append(n_tokens)
            chunk["token_ids"] += ids
            chunk["word_starts"] += starts
    if chunk["token_ids"]:
        yield chunk


# Behind the marks that end a sentence and the quotes and brackets that close behind them.
_SENTENCE_END = re.compile(r"(?<=[。！？!?…；;”’」』])(?![。！？!?…；;”’」』）)])|(?<=\.)\s+|\n+")


def sentences_of(text: str) -> list[str]:
    return [sentence for sentence in _SENTENCE_END.split(text) if sentence.strip()]


# --- vocabulary


def count_characters(block: Block) -> collections.Counter:
    counts = collections.Counter()
    for text, _ in read_documents(block):
        counts.update(text.lower())
    return counts


def make_vocabulary(paths: Sequence[Path], min_count: int, max_line: int) -> dict[str, int]:
    """Special tokens, then the characters that occur often enough; Latin ones as pieces too."""
    counts = collections.Counter()
    for file, path in enumerate(paths):
        for block in read_blocks(file, path, max_line):
            counts.update(count_characters(block))
    characters = sorted(c for c, n in counts.items() if n >= min_count and not c.isspace())
    pieces = [f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz0123456789"]
    return {token: i for i, token in enumerate([*SPECIAL, *characters, *pieces])}


def check_vocabulary(token_dict: dict[str, int], path: Path | None) -> None:
    if missing := [token for token in SPECIAL if token not in token_dict]:
        raise SystemExit(f"{path} has no {', '.join(missing)}: pretraining needs them")


def checksum(path: Path) -> str:
    return f"{google_crc32c.value(path.read_bytes()):08x}"


# --- writing


class Progress:
    """A bar that says how much has been read, on a terminal; elsewhere a line at the end."""

    def __init__(self, total: int) -> None:
        self.total, self.started, self.shown = max(total, 1), time.monotonic(), 0.0

    def show(self, done: int, examples: int, last: bool = False) -> None:
        now = time.monotonic()
        if not last and (not sys.stderr.isatty() or now - self.shown < 0.2):
            return
        self.shown = now
        share = done / self.total
        bar = "█" * round(30 * share)
        print(
            f"\r{bar:░<30} {share:4.0%}  {done / 2**20:,.1f} of {self.total / 2**20:,.1f} MB, "
            f"{examples:,} examples, {now - self.started:.0f} s",
            end="\n" if last else "",
            file=sys.stderr,
            flush=True,
        )


def shard_name(number: int, total: int) -> str:
    return f"examples-{number:05d}-of-{total:05d}.tfrecord"


def write_json(path: Path, content: Any) -> None:
    with replacing(path) as file:
        file.write(json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n")


def prepare(
    corpus: Sequence[Path],
    output: Path,
    task: str = "roberta",
    length: int = 128,
    vocab: Path | None = None,
    min_count: int = 10,
    shards: int = 0,
    seed: int = 0,
    max_line: int = 10**7,
    segmenter: str = "",
    sources: Sequence[str] = (),
    workers: int = 1,
    runner: str = "local",
    runner_options: str = "",
) -> dict:
    """Write the shards of a corpus, and return the content of `dataset.json`.

    If the folder holds the same data set already, nothing is done.

    Args:
        corpus: the files.
        output: the folder.
        task: what the examples are for, a key of `LAYOUTS`.
        length: tokens of a sequence.
        vocab: vocabulary file; without it one is made of the characters of the corpus.
        min_count: how often a character must occur to be in it.
        shards: number of files; by default one for each 64 MB of the corpus.
        seed: of the order of examples.
        max_line: lines of more bytes are left out.
        segmenter: "module:function", which cuts a text into words; "" for none.
        sources: only documents with one of these in `source`; empty for all.
        workers: processes that tokenize.
        runner: "local", or the name of a runner of Apache Beam.
        runner_options: options of Beam as on a command line.
    """
    corpus = [Path(path) for path in corpus]
    check_corpus(corpus)
    if length < 8:
        raise SystemExit(f"length is {length}: give at least 8 tokens")
    sizes = [path.stat().st_size for path in corpus]
    preparation = Preparation(
        task=task,
        length=length,
        shards=shards or max(1, sum(sizes) // SHARD_BYTES),
        seed=seed,
        max_line=max_line,
        segmenter=segmenter,
        sources=list(sources),
        corpus=[[path.name, size] for path, size in zip(corpus, sizes, strict=True)],
        vocabulary=checksum(vocab) if vocab else f"characters that occur {min_count} times",
    )
    if existing := existing_dataset(output, preparation):
        return existing
    token_dict = load_vocab(vocab) if vocab else make_vocabulary(corpus, min_count, max_line)
    check_vocabulary(token_dict, vocab)
    output.mkdir(parents=True, exist_ok=True)
    save_vocab(output / "vocab.txt", token_dict)
    if runner == "local":
        counts = write_local(corpus, output, preparation, token_dict, workers)
    else:
        write_beam = imported("beam_pipeline:write_beam", "pip install apache-beam")
        counts = write_beam(corpus, output, preparation, token_dict, runner, runner_options)
    return finish(corpus, output, preparation, *counts)


def existing_dataset(output: Path, preparation: Preparation) -> dict | None:
    """The content of `dataset.json` if there is one; refuse one that was prepared otherwise."""
    path = output / "dataset.json"
    if not path.exists():
        return None
    manifest = json.loads(path.read_text(encoding="utf-8"))
    wanted = asdict(preparation)
    different = [key for key in wanted if manifest["preparation"].get(key) != wanted[key]]
    if different:
        key = different[0]
        raise SystemExit(
            f"{output} holds data that were prepared with {key}={manifest['preparation'].get(key)},"
            f" not {wanted[key]}: give another folder, or delete this one"
        )
    return manifest


def write_local(
    corpus: Sequence[Path],
    output: Path,
    preparation: Preparation,
    token_dict: dict[str, int],
    workers: int = 1,
) -> tuple[collections.Counter, dict[int, collections.Counter]]:
    """Write the shards; return the examples in each shard and the counts of each file."""
    preparer = Preparer(preparation, token_dict)
    blocks = (
        block
        for file, path in enumerate(corpus)
        for block in read_blocks(file, path, preparation.max_line)
    )
    sizes = [path.stat().st_size for path in corpus]
    progress = Progress(sum(sizes))
    per_shard: collections.Counter = collections.Counter()
    per_file = {file: collections.Counter() for file in range(len(corpus))}
    paths = [
        output / shard_name(number, preparation.shards) for number in range(preparation.shards)
    ]
    with ExitStack() as stack:
        files = [stack.enter_context(replacing(path)) for path in paths]

        def write(records: Records) -> None:
            files[records.shard].write(records.content)
            per_shard[records.shard] += records.counts["examples"]
            per_file[records.file].update(records.counts)
            progress.show(sum(sizes[: records.file]) + records.position, per_shard.total())

        if workers == 1:
            for block in blocks:
                write(preparer(block))
        else:
            # In their order, so that the shards are the same whoever is done first.
            parallel_apply(
                preparer, blocks, workers, 2 * workers, write, random_seeds=False, unordered=False
            )
    progress.show(sum(sizes), per_shard.total(), last=True)
    return per_shard, per_file


def finish(
    corpus: Sequence[Path],
    output: Path,
    preparation: Preparation,
    per_shard: collections.Counter,
    per_file: dict[int, collections.Counter],
) -> dict:
    """Show what was read, and write `stats.json` and `dataset.json`."""
    stats = {str(path): dict(sorted(per_file[file].items())) for file, path in enumerate(corpus)}
    print(table(stats), file=sys.stderr)
    write_json(output / "stats.json", stats)
    if not per_shard.total():
        raise SystemExit(
            f"nothing is left of the corpus {', '.join(stats)}: the table says what was left out"
        )
    names = [shard_name(number, preparation.shards) for number in range(preparation.shards)]
    manifest = {
        "task": preparation.task,
        "layout": preparation.layout,
        "length": preparation.length,
        "vocabulary": checksum(output / "vocab.txt"),
        "examples": per_shard.total(),
        "shards": {
            name: {"examples": per_shard[number], "bytes": (output / name).stat().st_size}
            for number, name in enumerate(names)
        },
        "preparation": asdict(preparation),
    }
    write_json(output / "dataset.json", manifest)
    return manifest


def table(stats: dict[str, dict[str, int]]) -> str:
    """What was read of each file, and what was left out and why."""
    columns = {"lines": "lines", "documents": "documents", "examples": "examples"}
    columns |= {
        key: title
        for key, title in SKIPPED.items()
        if any(counts.get(key) for counts in stats.values())
    }
    width = max(map(len, stats))
    rows = [" | ".join([f"{'file':{width}}", *columns.values()])]
    for name, counts in stats.items():
        cells = [f"{counts.get(key, 0):>{len(title)},}" for key, title in columns.items()]
        rows.append(" | ".join([f"{name:{width}}", *cells]))
    return "\n".join(rows)


# --- the command


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, nargs="+", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--task", choices=LAYOUTS, default="roberta")
    parser.add_argument("--length", type=int, default=128, help="tokens in a sequence")
    parser.add_argument("--vocab", type=Path, help="vocabulary file; made from the corpus if none")
    parser.add_argument("--min-count", type=int, default=10, help="of a character in the corpus")
    parser.add_argument("--shards", type=int, default=0, help="files; one for each 64 MB if 0")
    parser.add_argument("--seed", type=int, default=0, help="of the order of examples")
    parser.add_argument("--max-line", type=int, default=10**7, help="bytes; longer are left out")
    parser.add_argument("--segmenter", default="", help="module:function from a text to its words")
    parser.add_argument(
        "--sources", nargs="+", default=[], help="only documents of these `source`s"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes that tokenize")
    parser.add_argument(
        "--runner", default="local", help="a runner of Apache Beam: DirectRunner, …"
    )
    parser.add_argument("--runner-options", default="", help="options of Beam, in quotes")
    return parser


def main() -> None:
    prepare(**vars(parser().parse_args()))


if __name__ == "__main__":
    main()
