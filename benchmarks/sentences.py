"""Texts per second of sentence vectors, on every backend, against sentence-transformers.

    python benchmarks/sentences.py [--rounds 5] [--size small base] [--engines jax torch]
                                   [--texts 256] [--processor-time]

Every engine is a process of its own with the same random weights, tokenizer, texts and number of
processors, in float32: `small` has the shape of bge-small-zh (4 × 512), `base` that of BERT-base.
They compute in turns, all texts each, and the others wait meanwhile. Ours is
`SentenceEncoder.encode`, the peer `SentenceTransformer.encode` with its fused attention, both with
32 texts in a batch and from strings to NumPy arrays. Texts are pieces of 5 to 500 characters, half
of them below 60, of the Chinese data of the examples. Before anything is timed, all vectors must
agree with those of the peer to 1e-4, and every shape has been met.

Printed are the median time, texts per second, and the median over the rounds of the time of the
peer as a multiple of ours (above 1: ours is faster) with its range.

On a machine that has other work to do, `--processor-time` pins every engine to one processor and
counts the time that it computes.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from turns import PEER, ask, ratio, seconds, start, stop, use_all_processors

ROOT = Path(__file__).parents[1]
ENGINES = (PEER, "tensorflow", "jax", "torch")
SIZES = {"small": (4, 512, 8), "base": (12, 768, 12)}
"""Layers, hidden size, heads."""
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TYPE = "sentence_transformers.models."


def ragged_texts(n: int, shortest: int = 5, longest: int = 500) -> list[str]:
    """Texts of 5 to 500 characters or as given, half of them below 60."""
    lines = (ROOT / "examples/data/reading/train.json").read_text(encoding="utf-8")
    characters = "".join(c for c in lines if "\u4e00" <= c <= "\u9fff" or c in "，。")
    random = np.random.default_rng(0)
    lengths = np.clip(np.exp(random.normal(np.log(60), 0.9, n)), shortest, longest).astype(int)
    starts = random.integers(0, len(characters) - 500, n)
    return [characters[i : i + length] for i, length in zip(starts, lengths, strict=True)]


def make_folder(folder: str, size: str, texts: list[str]) -> None:
    """Write a random model as sentence-transformers does: mean of the tokens, of length 1."""
    import transformers

    layers, hidden, heads = SIZES[size]
    words = [*SPECIALS, *sorted(set("".join(texts)))]
    Path(folder, "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    transformers.BertTokenizer(f"{folder}/vocab.txt").save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=21128,
        num_hidden_layers=layers,
        hidden_size=hidden,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
    )
    transformers.BertModel(config).save_pretrained(folder)
    Path(folder, "1_Pooling").mkdir()
    paths = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": TYPE + kind}
        for i, (kind, path) in enumerate(paths.items())
    ]
    pooling = {"word_embedding_dimension": hidden, "pooling_mode_mean_tokens": True}
    contents = {"modules.json": modules, "1_Pooling/config.json": pooling}
    contents["sentence_bert_config.json"] = {"max_seq_length": 512, "do_lower_case": False}
    for name, content in contents.items():
        Path(folder, name).write_text(json.dumps(content), encoding="utf-8")


def encoder(engine: str, folder: str) -> Callable[[list[str]], np.ndarray]:
    """What makes vectors of texts in an engine."""
    if engine == PEER:
        from sentence_transformers import SentenceTransformer

        use_all_processors()
        peer = SentenceTransformer(folder, device="cpu")
        return lambda texts: peer.encode(texts, batch_size=32)
    from bert4keras.sentences import SentenceEncoder

    if engine == "torch":
        use_all_processors()
    return SentenceEncoder(folder).encode


def serve(engine: str, folder: str, n: int, processor_time: bool) -> None:
    """Encode all texts at each line that comes in, and answer with the time taken."""
    clock = time.process_time if processor_time else time.perf_counter
    if processor_time:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    encode, texts = encoder(engine, folder), ragged_texts(n)
    np.save(f"{folder}/{engine}.npy", encode(texts))
    print("ready", flush=True)
    for _ in sys.stdin:
        print(seconds(lambda: encode(texts), clock), flush=True)


def compare(size: str, engines: list[str], n: int, rounds: int, options: list[str]) -> None:
    """Print what all engines take for one size."""
    with tempfile.TemporaryDirectory() as folder:
        make_folder(folder, size, ragged_texts(n))
        workers = {e: start(__file__, e, folder, str(n), *options) for e in engines}
        expected = np.load(f"{folder}/{PEER}.npy")
        for engine in engines:
            difference = np.abs(np.load(f"{folder}/{engine}.npy") - expected).max()
            assert difference < 1e-4, (engine, difference)
        times = {engine: [] for engine in engines}
        for _ in range(rounds):
            for engine, worker in workers.items():
                times[engine].append(ask(worker, "all"))
        stop(workers.values())
    print(f"\n{size}, {n} texts, {sum(map(len, ragged_texts(n)))} characters", flush=True)
    for engine in engines:
        taken = statistics.median(times[engine])
        print(
            f"{engine:12} {taken:6.2f} s {n / taken:7.1f} texts/s   "
            f"{ratio(times[PEER], times[engine])}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", nargs="+", choices=SIZES, default=["small"])
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--processor-time", action="store_true")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        engine, folder, n = args.serve
        return serve(engine, folder, int(n), args.processor_time)
    options = ["--processor-time"] if args.processor_time else []
    engines = [PEER, *(e for e in args.engines if e != PEER)]
    for size in args.size:
        compare(size, engines, args.texts, args.rounds, options)


if __name__ == "__main__":
    main()
