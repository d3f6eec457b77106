"""The texts of the pretraining of `tiny_zh` that come from data sets of tasks.

    python corpus.py --data DATA --output FOLDER

Writes `reviews.jsonl.gz` (reviews of shops, of food delivery and the training part of `sentiment`)
and `question_pairs.jsonl.gz` (the two questions of each pair of `lcqmc`, `afqmc` and `oppo_xiaobu`,
training parts, without their labels), a document a line. What occurs in a validation or test part
of any of them is left out.
"""

import argparse
import csv
import gzip
import io
import json
import random
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path


def member(path: Path, name: str) -> str:
    with zipfile.ZipFile(path) as archive:
        return archive.read(name).decode("utf-8")


def fields(text: str, column: str) -> list[str]:
    return [row[column] for row in csv.DictReader(io.StringIO(text))]


def sentiment(data: Path, part: str) -> list[str]:
    text = member(data / "sentiment" / "sentiment.zip", f"sentiment/sentiment.{part}.data")
    return [line.rsplit("\t", 1)[0] for line in text.splitlines() if line]


def shopping(data: Path, part: str) -> list[str]:
    path = data / "reviews" / "online_shopping_10_cats.zip"
    return fields(member(path, f"online_shopping_10_cats/{part}.csv"), "review")


def reviews(data: Path) -> tuple[list[str], list[str]]:
    with gzip.open(data / "reviews" / "waimai_10k.csv.gz", "rt", encoding="utf-8") as file:
        delivery = fields(file.read(), "review")
    train = [*sentiment(data, "train"), *shopping(data, "train"), *delivery]
    held_out = [text for part in ("valid", "test") for text in sentiment(data, part)]
    return train, held_out + [text for part in ("dev", "test") for text in shopping(data, part)]


def pairs(data: Path) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    train, held_out = [], []
    for part, found in (("train", train), ("valid", held_out), ("test", held_out)):
        text = member(data / "lcqmc" / "lcqmc.zip", f"lcqmc/lcqmc.{part}.data")
        found += [tuple(line.split("\t")[:2]) for line in text.splitlines() if line]
    for part, found in (("train", train), ("dev", held_out), ("test", held_out)):
        text = member(data / "clue" / "afqmc.zip", f"afqmc/{part}.json")
        rows = [json.loads(line) for line in text.splitlines() if line]
        found += [(row["sentence1"], row["sentence2"]) for row in rows]
    for part, found in (("train", train), ("dev", held_out), ("test_unlabelled", held_out)):
        text = member(data / "oppo_xiaobu" / "oppo_xiaobu.zip", f"oppo_xiaobu/{part}.tsv")
        found += [tuple(line.split("\t")[:2]) for line in text.splitlines() if line]
    return train, held_out


def wording(text: str) -> str:
    return re.sub(r"\W", "", text).lower()


def without(texts: Iterable[str], held_out: Iterable[str]) -> list[str]:
    """Each wording once, none that is held out."""
    seen, kept = set(map(wording, held_out)), []
    for text in texts:
        if wording(text) and wording(text) not in seen:
            seen.add(wording(text))
            kept.append(text)
    return kept


def write(path: Path, documents: list[str]) -> None:
    random.Random(0).shuffle(documents)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        for text in documents:
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    print(f"{path}: {len(documents):,} documents, {sum(map(len, documents)):,} characters")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    write(args.output / "reviews.jsonl.gz", without(*reviews(args.data)))
    train, held_out = pairs(args.data)
    banned = {wording(text) for pair in held_out for text in pair}
    train = [pair for pair in train if not banned & {wording(text) for text in pair}]
    write(args.output / "question_pairs.jsonl.gz", without(map("\n".join, train), ()))


if __name__ == "__main__":
    main()
