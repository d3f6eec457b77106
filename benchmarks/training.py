"""Training steps per second, against `transformers` on PyTorch, and what bucketing is worth.

    python benchmarks/training.py [--rounds 7] [--rows classifier mlm bucket] [--engines jax torch]
                                  [--quick] [--processor-time]

Rows `classifier` and `mlm`: BERT-base (12 × 768) on 8 texts of up to 128 tokens, the shortest half
as long as the longest. `classifier` fine-tunes a head of two classes on the pooled vector; `mlm`
predicts 15 % of the tokens out of a vocabulary of 21,128. Dropout is 0.1 and the optimizer AdamW on
both sides. The peer is `BertForSequenceClassification` or `BertForMaskedLM` with its own loss, its
default attention and `torch.optim.AdamW`, in float32; ours is `train_on_batch` of a compiled model,
which computes token scores at the masked positions only (`masked_positions=True`). All start from
the same random weights, and before anything is timed their losses without dropout must agree. An
engine takes turns with the peer, a step each; engines called `-bfloat16` run in `mixed_bfloat16`.
Printed are the median time, real tokens per second, and the median over the rounds of the time of
the peer as a multiple of ours (above 1: ours is faster) with its range.

Row `bucket`: a model of 3 × 192 learns whether shop reviews (`--reviews`) are kind, a token for
each character, cut to 128 or to 256. Each round trains on the same reviews three times: padded to
the fixed length, padded to the longest of the batch as the original's generators do, and with the
bucketing of `DataGenerator`, every shape having been met before. Printed are real tokens per
second, the time of the first two as a multiple of the last, how many shapes each of them met, for
every one of which JAX compiles the step anew, and how much of what was computed was padding. For
that reason JAX leaves out what meets more than 20 shapes.

`--quick` trains three layers in place of twelve, and on fewer reviews. On a machine that has other
work to do, `--processor-time` pins every engine to one processor and counts the time it computes.
"""

import argparse
import csv
import io
import json
import os
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from encoding import HIDDEN, INNER, VOCABULARY, batch
from turns import PEER, ask, ratio, seconds, start, stop, use_all_processors

from bert4keras.snippets import DataGenerator, sequence_padding

BACKENDS = ("tensorflow", "jax", "torch")
ENGINES = (*BACKENDS, *(f"{backend}-bfloat16" for backend in BACKENDS))
ROWS, LENGTH, LAYERS = 8, 128, 12
MASKED_SHARE, DROPOUT, RATE = 0.15, 0.1, 2e-5
REVIEWS = Path(__file__).parents[2] / "shared/data/reviews/online_shopping_10_cats.zip"
MAXLENS = (128, 256)
PADDINGS = ("fixed", "longest", "bucket")

Step = Callable[[], object]


def masked(token_ids: np.ndarray, visible: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions to predict (rows, n), the same number in each row, and the tokens there."""
    n = int(MASKED_SHARE * visible.sum() / len(visible))
    order = np.where(visible, np.random.default_rng(0).random(visible.shape), 2)
    positions = np.sort(np.argsort(order, axis=1)[:, :n], axis=1).astype("int32")
    return positions, np.take_along_axis(token_ids, positions, axis=1)


# ---------------------------------------------------------------------------------- in the engines


def peer_engine(row: str, folder: str) -> tuple[float, Step]:
    """The peer: its loss without dropout, and a step of training."""
    import torch
    import transformers

    use_all_processors()
    kinds = {
        "classifier": transformers.AutoModelForSequenceClassification,
        "mlm": transformers.BertForMaskedLM,
    }
    model = kinds[row].from_pretrained(folder)
    token_ids, visible = batch(ROWS, LENGTH)
    labels = np.arange(ROWS) % 2
    if row == "mlm":
        positions, targets = masked(token_ids, visible)
        labels = np.full(token_ids.shape, -100)
        np.put_along_axis(labels, positions, targets, axis=1)
    arrays = {"input_ids": token_ids, "attention_mask": visible, "labels": labels}
    inputs = {name: torch.from_numpy(x.astype("int64")) for name, x in arrays.items()}
    optimizer = torch.optim.AdamW(model.parameters(), RATE)

    def step() -> float:
        loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    with torch.inference_mode():
        before = model.eval()(**inputs).loss.item()
    model.train()
    return before, step


def keras_engine(row: str, folder: str, dtype: str) -> tuple[float, Step]:
    """Ours, on the backend that `KERAS_BACKEND` names."""
    import keras
    from safetensors.numpy import load_file

    from bert4keras.models import build_transformer_model
    from bert4keras.optimizers import Adam

    if keras.backend.backend() == "torch":
        use_all_processors()
    keras.config.set_dtype_policy("mixed_bfloat16" if dtype == "bfloat16" else "float32")
    token_ids, visible = batch(ROWS, LENGTH)
    inputs = [token_ids, np.zeros_like(token_ids)]
    heads = {"classifier": {"with_pool": True}, "mlm": {"with_mlm": "linear"}}[row]
    if row == "mlm":
        positions, labels = masked(token_ids, visible)
        inputs.append(positions)
        heads["masked_positions"] = True
    model = build_transformer_model(f"{folder}/config.json", f"{folder}/model.safetensors", **heads)
    if row == "classifier":
        labels = np.arange(ROWS) % 2
        x = keras.layers.Dropout(DROPOUT)(model.output)
        head = keras.layers.Dense(2, dtype="float32")
        model = keras.Model(model.inputs, head(x))
        weights = load_file(f"{folder}/model.safetensors")
        head.set_weights([weights["classifier.weight"].T, weights["classifier.bias"]])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(Adam(RATE, epsilon=1e-8, weight_decay=0.01), loss)
    before = float(model.test_on_batch(inputs, labels))
    return before, lambda: float(model.train_on_batch(inputs, labels))


class Reviews(DataGenerator):
    """Batches of reviews, (token ids, label) each, padded as `padding` says."""

    def __init__(self, data: list, batch_size: int, maxlen: int, padding: str):
        measure = (lambda sample: len(sample[0])) if padding == "bucket" else False
        super().__init__(data, batch_size, bucket=measure)
        self.length = maxlen if padding == "fixed" else None

    def __iter__(self, random: bool = False) -> Iterator[tuple[list, np.ndarray]]:
        token_ids, labels = [], []
        for is_end, (ids, label) in self.sample(random):
            token_ids.append(ids)
            labels.append(label)
            if len(labels) == self.batch_size or is_end:
                fixed = self.length is not None
                padded = sequence_padding(token_ids, self.length) if fixed else self.pad(token_ids)
                yield [padded, np.zeros_like(padded)], np.array(labels)
                token_ids, labels = [], []


def read_reviews(path: Path, number: int, maxlen: int) -> list[tuple[list[int], int]]:
    """The first reviews of the training part: characters as numbers from 1 on, and label."""
    with zipfile.ZipFile(path) as archive, archive.open("online_shopping_10_cats/train.csv") as raw:
        records = list(csv.DictReader(io.TextIOWrapper(raw, encoding="utf-8")))
    order = np.random.default_rng(0).permutation(len(records))[:number]
    chosen = [records[i] for i in order]
    known = {}
    return [
        ([known.setdefault(c, len(known) + 1) for c in r["review"][:maxlen]], int(r["label"]))
        for r in chosen
        if r["review"]
    ]


def bucket_engine(dtype: str, path: Path, quick: bool) -> tuple[dict, dict[str, Step]]:
    """Ours on reviews, for each length and padding: facts, and a pass over the reviews.

    All shapes have been met before.
    """
    import keras

    from bert4keras.models import build_transformer_model

    if keras.backend.backend() == "torch":
        use_all_processors()
    keras.config.set_dtype_policy("mixed_bfloat16" if dtype == "bfloat16" else "float32")
    facts, steps = {}, {}
    for maxlen in MAXLENS:
        data = read_reviews(path, 320 if quick else 1600, maxlen)
        model = build_transformer_model(
            vocab_size=max(max(ids) for ids, _ in data) + 1,
            hidden_size=192,
            num_hidden_layers=3,
            num_attention_heads=3,
            intermediate_size=768,
            hidden_act="gelu",
            max_position_embeddings=max(MAXLENS),
            hidden_dropout_prob=DROPOUT,
            attention_probs_dropout_prob=DROPOUT,
            with_pool=True,
        )
        model = keras.Model(model.inputs, keras.layers.Dense(2, dtype="float32")(model.output))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.AdamW(1e-4), loss)
        for padding in PADDINGS:
            np.random.seed(0)  # noqa: NPY002, DataGenerator shuffles by it
            batches = list(Reviews(data, 32, maxlen, padding).__iter__(random=True))
            shapes = {x[0].shape: (x, y) for x, y in batches}
            if keras.backend.backend() == "jax" and len(shapes) > 20:
                continue
            for x, y in [*shapes.values(), batches[0]]:
                model.train_on_batch(x, y)

            def train(model=model, batches=batches) -> None:
                for x, y in batches:
                    model.train_on_batch(x, y)

            name = f"{maxlen} {padding}"
            steps[name] = train
            tokens = sum(len(ids) for ids, _ in data)
            computed = sum(x[0].size for x, _ in batches)
            facts[name] = (tokens, 1 - tokens / computed, len(shapes))
    return facts, steps


def serve(engine: str, row: str, folder: str, reviews: Path, quick: bool, clock: Callable) -> None:
    """Train when told to, and answer with the time taken."""
    dtype = "bfloat16" if engine.endswith("bfloat16") else "float32"
    if row == "bucket":
        facts, steps = bucket_engine(dtype, reviews, quick)
    else:
        peer = engine == PEER
        facts, step = peer_engine(row, folder) if peer else keras_engine(row, folder, dtype)
        steps = {"step": step}
        step(), step()
    Path(folder, f"{engine}.json").write_text(json.dumps(facts))
    print("ready", flush=True)
    for line in sys.stdin:
        print(seconds(steps[line.strip()], clock), flush=True)


# ---------------------------------------------------------------------------------- in the parent


def make_weights(row: str, folder: str, layers: int) -> None:
    """Save random weights and their config in the format of the peer."""
    import transformers

    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=layers,
        hidden_dropout_prob=DROPOUT,
        attention_probs_dropout_prob=DROPOUT,
    )
    kinds = {
        "classifier": transformers.BertForSequenceClassification,
        "mlm": transformers.BertForMaskedLM,
    }
    kinds[row](config).save_pretrained(folder)


def compare(row: str, engines: list[str], rounds: int, layers: int, options: list[str]) -> None:
    """Print what a step of each engine takes, and of the peer beside it."""
    tokens = int(batch(ROWS, LENGTH)[1].sum())
    print(f"\n{row}, {layers} x {HIDDEN}, {ROWS} x {LENGTH}, {tokens} tokens", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        make_weights(row, folder, layers)
        peer = start(__file__, PEER, row, folder, *options)
        all_times = []
        for engine in engines:
            ours = start(__file__, engine, row, folder, *options)
            difference = abs(facts_of(engine, folder) - facts_of(PEER, folder))
            allowed = 0.05 if engine.endswith("bfloat16") else 1e-3
            assert difference < allowed, (engine, difference)
            times = [(ask(peer, "step"), ask(ours, "step")) for _ in range(rounds)]
            stop([ours])
            theirs, own = zip(*times, strict=True)
            all_times += theirs
            print(line(engine, own, tokens) + f"   {ratio(theirs, own)}", flush=True)
        stop([peer])
    print(line(PEER, all_times, tokens), flush=True)


def facts_of(engine: str, folder: str) -> Any:
    """What an engine has written down before it was ready."""
    return json.loads(Path(folder, f"{engine}.json").read_text())


def line(name: str, times: list[float], tokens: int) -> str:
    """Median time and real tokens per second."""
    taken = statistics.median(times)
    return f"{name:20} {taken * 1e3:6.0f} ms {tokens / taken:6.0f} tokens/s"


def compare_paddings(engines: list[str], rounds: int, options: list[str]) -> None:
    """Print what each engine makes of padded and of bucketed reviews."""
    for engine in engines:
        with tempfile.TemporaryDirectory() as folder:
            worker = start(__file__, engine, "bucket", folder, *options)
            facts = facts_of(engine, folder)
        print(f"\nbucket, {engine}", flush=True)
        for maxlen in MAXLENS:
            names = [name for name in facts if name.startswith(f"{maxlen} ")]
            times = {name: [] for name in names}
            for _ in range(rounds):
                for name in names:
                    times[name].append(ask(worker, name))
            for name in names:
                tokens, padding, shapes = facts[name]
                print(
                    f"{line(name, times[name], tokens)}   "
                    f"{ratio(times[name], times[f'{maxlen} bucket'])}   "
                    f"{shapes} shapes, {padding:.0%} padding",
                    flush=True,
                )
        stop([worker])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rows = ("classifier", "mlm", "bucket")
    parser.add_argument("--rows", nargs="+", choices=rows, default=rows)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument("--reviews", type=Path, default=REVIEWS)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--processor-time", action="store_true")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        clock = time.process_time if args.processor_time else time.perf_counter
        if args.processor_time:
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        return serve(*args.serve, args.reviews, args.quick, clock)
    options = ["--reviews", str(args.reviews)]
    options += ["--quick"] * args.quick + ["--processor-time"] * args.processor_time
    for row in args.rows:
        if row == "bucket":
            compare_paddings(args.engines, args.rounds, options)
        else:
            compare(row, args.engines, args.rounds, 3 if args.quick else LAYERS, options)


if __name__ == "__main__":
    main()
