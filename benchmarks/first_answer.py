"""Seconds from the start of a script to its first trained batch and first token, by part.

    python benchmarks/first_answer.py [--tasks train write] [--engines tensorflow jax …]
                                      [--rounds 3] [--layers 12] [--size 768]

BERT-base with random weights, read from a folder with model.safetensors. `train` fine-tunes a
classifier of two classes on 8 texts of 64 tokens by `fit`, `write` gives a prompt of 64 tokens to
`Generator.generate(stream=True)`; the peer is `transformers`, in a loop with AdamW, and `generate`
with a streamer. Every run is a process of its own, which the others wait for; engines take turns.
`jax` starts with an empty folder for what JAX compiles, `jax-again` finds there what `jax` has left
in the same round (`BERT4KERAS_JAX_CACHE`).

Printed are medians over the rounds: the time until the first batch or token, the time of the peer
as a multiple of it (above 1: ours is faster) with its range, and the parts: starting Python and
imports; building and loading; the first step, which traces and compiles; then the second step.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

import numpy as np
from turns import PAUSE, PEER, ratio

ENGINES = (PEER, "tensorflow", "jax", "jax-again", "torch")
TASKS = ("train", "write")
PARTS = ("import", "load", "first", "second")
VOCABULARY, ROWS, LENGTH, NEW, END = 21128, 8, 64, 2, 102


def token_ids(rows: int) -> np.ndarray:
    """Random ids (rows, length)."""
    return np.random.default_rng(0).integers(1000, VOCABULARY, (rows, LENGTH))


# --------------------------------------------------------------------------- in a process that runs


def run(engine: str, task: str, folder: str) -> None:
    """Say each part as soon as it is done."""
    side = "peer" if engine == PEER else "ours"
    ways = {
        ("ours", "train"): our_training,
        ("ours", "write"): our_writing,
        ("peer", "train"): peer_training,
        ("peer", "write"): peer_writing,
    }
    for part in ways[side, task](folder):
        print(part, flush=True)


def our_training(folder: str) -> Iterator[str]:
    """Two steps of `fit`; what it calls back says them."""
    import keras

    from bert4keras.models import Model, build_transformer_model
    from bert4keras.optimizers import Adam

    yield "import"
    bert = build_transformer_model(folder, with_pool=True, dropout_rate=0.1)
    model = Model(bert.inputs, keras.layers.Dense(2, activation="softmax")(bert.output))
    model.compile(Adam(2e-5), "sparse_categorical_crossentropy")
    yield "load"

    class Say(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
            print(PARTS[2 + batch], flush=True)

    ids = token_ids(2 * ROWS).astype("int32")
    labels = np.arange(len(ids)) % 2
    x = [ids, np.zeros_like(ids)]
    model.fit(x, labels, batch_size=ROWS, shuffle=False, verbose=0, callbacks=[Say()])


def our_writing(folder: str) -> Iterator[str]:
    """Two tokens of a stream."""
    from bert4keras.generation import Generator
    from bert4keras.models import build_transformer_model

    yield "import"
    model = build_transformer_model(folder, application="lm", with_mlm="linear")
    generator = Generator(model, end_id=END, maxlen=NEW, minlen=NEW)
    yield "load"
    tokens = generator.generate(token_ids(1).tolist(), stream=True)
    for part, _ in zip(PARTS[2:], tokens, strict=True):
        yield part


def peer_training(folder: str) -> Iterator[str]:
    """Two steps of a loop."""
    import torch
    from transformers import BertForSequenceClassification, logging

    yield "import"
    logging.set_verbosity_error()
    model = BertForSequenceClassification.from_pretrained(folder, num_labels=2).train()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-5)
    yield "load"
    ids = torch.from_numpy(token_ids(2 * ROWS))
    labels = torch.arange(len(ids)) % 2
    for i, part in enumerate(PARTS[2:]):
        rows = slice(i * ROWS, (i + 1) * ROWS)
        loss = model(
            input_ids=ids[rows], attention_mask=torch.ones_like(ids[rows]), labels=labels[rows]
        ).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        yield part


def peer_writing(folder: str) -> Iterator[str]:
    """Two tokens, which a streamer is handed."""
    import torch
    from transformers import BertLMHeadModel, logging

    yield "import"
    logging.set_verbosity_error()
    model = BertLMHeadModel.from_pretrained(folder, is_decoder=True).eval()
    yield "load"

    class Say:
        parts = iter(("prompt", *PARTS[2:]))

        def put(self, value: object) -> None:
            print(next(self.parts), flush=True)

        def end(self) -> None:
            pass

    ids = torch.from_numpy(token_ids(1))
    with torch.inference_mode():
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            min_new_tokens=NEW,
            max_new_tokens=NEW,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=END,
            streamer=Say(),
        )


# ---------------------------------------------------------------------------------- in the parent


def make_folder(folder: str, layers: int, size: int) -> None:
    """Save a random BERT with pooler and the head of language models."""
    import transformers

    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        num_hidden_layers=layers,
        hidden_size=size,
        num_attention_heads=max(2, size // 64),
        intermediate_size=4 * size,
    )
    transformers.logging.disable_progress_bar()
    transformers.BertForPreTraining(config).save_pretrained(folder)


def measured(command: Sequence[str], environment: dict[str, str]) -> dict[str, float]:
    """Run a command, and return the seconds from its start to the end of each part.

    Raises:
        RuntimeError: the command failed, or did not say all parts.
    """
    start = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | environment
    ) as process:
        said = {line.strip(): time.perf_counter() - start for line in process.stdout or ()}
    if process.returncode or not said.keys() >= set(PARTS):
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}, said {said}")
    time.sleep(PAUSE)
    return {part: said[part] for part in PARTS}


def measured_engine(engine: str, task: str, folder: str, cache: str) -> dict[str, float]:
    """Measure an engine in a process of its own; `cache` is the folder for what JAX compiles."""
    environment = {
        "KERAS_BACKEND": "torch" if engine == PEER else engine.split("-")[0],
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "BERT4KERAS_JAX_CACHE": cache,
    }
    return measured([sys.executable, __file__, "--run", engine, task, folder], environment)


def report(task: str, found: dict[str, list[dict[str, float]]]) -> str:
    """The table of a task: total, ratio to the peer, and how long each part took."""
    lines = [f"\n{task:12}  first                      {'  '.join(f'{x:>7}' for x in PARTS)}"]
    totals = {engine: [run["first"] for run in runs] for engine, runs in found.items()}
    for engine, runs in found.items():
        columns = [f"{statistics.median(totals[engine]):6.2f} s"]
        columns.append(ratio(totals[PEER], totals[engine]))
        before = (None, *PARTS)
        for part, last in zip(PARTS, before, strict=False):
            taken = [run[part] - (run[last] if last else 0) for run in runs]
            columns.append(f"{statistics.median(taken):7.2f}")
        lines.append(f"{engine:12}  {'  '.join(columns)}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--size", type=int, default=768)
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        return run(*args.run)
    wanted = {PEER, *args.engines} | ({"jax"} if "jax-again" in args.engines else set())
    engines = [engine for engine in ENGINES if engine in wanted]
    with tempfile.TemporaryDirectory() as folder:
        make_folder(folder, args.layers, args.size)
        for task in args.tasks:
            found = {engine: [] for engine in engines}
            for i in range(args.rounds):
                for engine in engines:
                    times = measured_engine(engine, task, folder, f"{folder}/{task}-{i}")
                    found[engine].append(times)
                    print(f"{task}, round {i + 1}: {engine} {times['first']:.2f} s", flush=True)
            print(report(task, found), flush=True)


if __name__ == "__main__":
    main()
