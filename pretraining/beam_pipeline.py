"""The work of `data_utils.py` as an Apache Beam pipeline, for corpora beyond one machine.

All workers have to reach the corpus and the output folder by the same paths. A file is read by one
worker; what is read is shared among all. The shards are the same to the byte as without Beam.
"""

import collections
import json
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from data_utils import Block, Preparation, Preparer, Records, read_blocks, shard_name
from records import replacing

RESULT = ".counts.json"


def write_beam(
    corpus: Sequence[Path],
    output: Path,
    preparation: Preparation,
    token_dict: dict[str, int],
    runner: str,
    runner_options: str = "",
) -> tuple[collections.Counter, dict[int, collections.Counter]]:
    """Write the shards; return the examples in each shard and the counts of each file.

    Args:
        corpus: the files.
        output: the folder.
        preparation: what to write.
        token_dict: the vocabulary.
        runner: name of the runner, such as 'DirectRunner'.
        runner_options: options of Beam as on a command line.
    """
    # As a script, data_utils is the module __main__, whose classes workers do not know.
    preparation = Preparation(**asdict(preparation))
    options = PipelineOptions([f"--runner={runner}", *shlex.split(runner_options)])
    with beam.Pipeline(options=options) as pipeline:
        records = (
            pipeline
            | "Files" >> beam.Create([(file, str(path)) for file, path in enumerate(corpus)])
            | "Read" >> beam.FlatMap(blocks_of, max_line=preparation.max_line)
            | "Share" >> beam.Reshuffle()
            | "Prepare" >> beam.ParDo(Prepare(preparation, token_dict))
        )
        # So that shards without examples are written too.
        every = pipeline | "Shards" >> beam.Create([(i, None) for i in range(preparation.shards)])
        by_shard = records | "By shard" >> beam.Map(lambda each: (each.shard, each))
        per_shard = (
            (by_shard, every)
            | beam.Flatten()
            | beam.GroupByKey()
            | "Write" >> beam.Map(write_shard, output=str(output), shards=preparation.shards)
        )
        per_file = (
            records
            | "Counts" >> beam.Map(lambda each: (each.file, each.counts))
            | beam.CombinePerKey(added)
        )
        _ = (
            (
                per_shard | "Examples" >> beam.Map(lambda pair: ("shard", pair)),
                per_file | "Lines" >> beam.Map(lambda pair: ("file", pair)),
            )
            | "All counts" >> beam.Flatten()
            | beam.combiners.ToList()
            | "Keep" >> beam.Map(write_counts, path=str(output / RESULT))
        )
    counts = json.loads((output / RESULT).read_text(encoding="utf-8"))
    (output / RESULT).unlink()
    examples = collections.Counter({shard: n for kind, (shard, n) in counts if kind == "shard"})
    lines = {file: collections.Counter(n) for kind, (file, n) in counts if kind == "file"}
    return examples, lines


class Prepare(beam.DoFn):
    """Turns blocks into records."""

    def __init__(self, preparation: Preparation, token_dict: dict[str, int]) -> None:
        self.arguments = preparation, token_dict

    def setup(self) -> None:
        self.preparer = Preparer(*self.arguments)

    def process(self, block: Block) -> Iterator[Records]:
        yield self.preparer(block)


def blocks_of(numbered: tuple[int, str], max_line: int) -> Iterator[Block]:
    file, path = numbered
    return read_blocks(file, Path(path), max_line)


def write_shard(
    grouped: tuple[int, Iterable[Records | None]], output: str, shards: int
) -> tuple[int, int]:
    """Write a shard, its blocks in order; return its number and how many examples it has."""
    shard, records = grouped
    whole = sorted((each for each in records if each), key=lambda each: (each.file, each.number))
    with replacing(Path(output) / shard_name(shard, shards)) as file:
        for each in whole:
            file.write(each.content)
    return shard, sum(each.counts["examples"] for each in whole)


def added(counters: Iterable[collections.Counter]) -> collections.Counter:
    total: collections.Counter = collections.Counter()
    for counter in counters:
        total.update(counter)
    return total


def write_counts(counts: list, path: str) -> None:
    with replacing(Path(path)) as file:
        file.write(json.dumps(counts).encode())
