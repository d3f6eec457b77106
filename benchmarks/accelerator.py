"""Speed on one GPU beside `transformers`: pretraining, fine-tuning, encoding, writing, loading.

    python benchmarks/accelerator.py [--engine jax] [--rows pretrain encode …] [--json results.json]
                                     [--tokens 16384] [--peak TFLOPS] [--steps 20] [--tiny]

BERT of 12 × 768 (base) and 24 × 1024 (large) with 21,128 tokens and random weights, all in bfloat16
with weights in float32, as `mixed_bfloat16` here and as `torch.autocast` there; `encode` and
`write` have weights in bfloat16 on both sides. Rows:

* `pretrain`: masked language modelling of full sequences of 128 and 512 tokens, AdamW, dropout 0.1;
* `finetune`: a classifier on texts of 16 to 128 tokens, bucketed here, padded to the longest there;
* `encode`: texts of 256 to 512 tokens;
* `write`: 32 tokens after 128, greedy for 1 and 8 prompts, and a beam search of 4;
* `load`: a folder with model.safetensors to a model on the device that has computed once.

Every row of an engine is a process of its own, so that peaks of memory and compilations are its
own; one row that fails leaves the others. Printed are, as a table and with `--json` as a file: the
time until the first step has ended and what was compiled for it, the median time of a step, tokens
per second, the share of the peak of the device in matrix products (MFU: three times the operations
of the forward pass, recomputation not counted), the peak of memory, and the time of the peer as a
multiple of ours (above 1: ours is faster).

`--tiny` runs tiny sizes on any machine, to see whether it runs. `--tokens` is the number of tokens
in a step of training: lower it where memory is short.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ENGINES = ("jax", "torch", "tensorflow")
PEER = "transformers"
BASE = {"num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12}
LARGE = {"num_hidden_layers": 24, "hidden_size": 1024, "num_attention_heads": 16}
SMALL = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2}
VOCABULARY, SMALL_VOCABULARY = 21128, 1200
MASKED_SHARE, DROPOUT, RATE, NEW, SOURCE = 0.15, 0.1, 1e-4, 32, 128
# Name → size, tokens in a sequence, prompts, beams.
ROWS = {
    "pretrain base 128": ("base", 128, 0, 0),
    "pretrain base 512": ("base", 512, 0, 0),
    "pretrain large 128": ("large", 128, 0, 0),
    "pretrain large 512": ("large", 512, 0, 0),
    "finetune base": ("base", 128, 0, 0),
    "encode base": ("base", 512, 0, 0),
    "write base greedy": ("base", SOURCE, 1, 1),
    "write base 8 greedy": ("base", SOURCE, 8, 1),
    "write base beam 4": ("base", SOURCE, 1, 4),
    "load base": ("base", 128, 0, 0),
    "load large": ("large", 128, 0, 0),
}
# Matrix products in bfloat16 (float16 where it lacks that), dense, in 10¹² operations a second, by
# the data sheets of the maker.
PEAKS = {"H200": 989, "H100": 989, "A100": 312, "L40S": 362, "4090": 165, "A10": 125, "T4": 65}


def config_of(size: str, tiny: bool) -> dict[str, Any]:
    """The config of a model, as Hugging Face writes it."""
    sizes = SMALL if tiny else {"base": BASE, "large": LARGE}[size]
    return sizes | {
        "model_type": "bert",
        "vocab_size": SMALL_VOCABULARY if tiny else VOCABULARY,
        "intermediate_size": 4 * sizes["hidden_size"],
        "max_position_embeddings": 512,
        "hidden_act": "gelu",
        "hidden_dropout_prob": DROPOUT,
        "attention_probs_dropout_prob": DROPOUT,
    }


def operations(config: dict, length: int, n_scored: int) -> int:
    """Operations of the forward pass for a sequence: twice the multiplications of its products.

    Args:
        config: sizes of the model.
        length: tokens in the sequence.
        n_scored: how many of them get scores over the vocabulary.
    """
    size, vocabulary = config["hidden_size"], config["vocab_size"]
    layer = length * (12 * size**2 + 2 * length * size)
    head = n_scored * (size**2 + size * vocabulary)
    return 2 * (config["num_hidden_layers"] * layer + head)


class Batches:
    """The batches of a row, the same on both sides.

    Attributes:
        token_ids: (rows, length), 0 where padding is.
        lengths: (rows,), how many tokens are not padding.
        positions: (rows, n), what is predicted in pretraining.
    """

    def __init__(self, name: str, config: dict, tokens: int) -> None:
        _, length, *_ = ROWS[name]
        shortest = {"finetune": length // 8, "encode": length // 2}.get(name.split()[0], length)
        n_rows = max(tokens // length, 2)
        rng = np.random.default_rng(length)
        self.lengths = np.linspace(shortest, length, n_rows).astype("int32")
        rng.shuffle(self.lengths)
        token_ids = rng.integers(1000, config["vocab_size"], (n_rows, length)).astype("int32")
        visible = np.arange(length) < self.lengths[:, None]
        self.token_ids = np.where(visible, token_ids, 0)
        order = np.argsort(rng.random(token_ids.shape), axis=1)
        self.positions = np.sort(order[:, : int(MASKED_SHARE * length)], axis=1).astype("int32")
        self.targets = np.take_along_axis(self.token_ids, self.positions, axis=1)
        self.labels = (np.arange(n_rows) % 2).astype("int32")

    def ragged(self, n_rows: int = 32) -> Iterator[slice]:
        """Parts of the rows, in order of length, as a script groups them."""
        for start in range(0, len(self.lengths), n_rows):
            yield slice(start, start + n_rows)


# ------------------------------------------------------------------------------------------- ours

Run = Callable[[], Any]


def ours(name: str, folder: str, batches: Batches) -> Run:
    """What a row does with this library: a function that ends when the device has."""
    kind = name.split()[0]
    ways = {"pretrain": pretrained, "finetune": fine_tuned, "encode": encoded, "write": written}
    if kind == "load":
        return lambda: loaded(folder, batches)
    return ways[kind](name, folder, batches)


def compiled(model: Any) -> Any:
    """Compile a model of `bert4keras.models.Model` with the optimizer and loss of both sides."""
    import keras

    from bert4keras.optimizers import Adam

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(Adam(RATE, weight_decay=0.01), loss)
    return model


def pretrained(name: str, folder: str, batches: Batches) -> Run:
    """A step of masked language modelling, with scores at the masked positions."""
    from bert4keras.models import build_transformer_model

    model = compiled(
        build_transformer_model(
            folder, with_mlm="linear", masked_positions=True, precision="mixed_bfloat16"
        )
    )
    x = [batches.token_ids, np.zeros_like(batches.token_ids), batches.positions]
    n_rows = len(batches.token_ids)
    return lambda: model.fit(x, batches.targets, batch_size=n_rows, shuffle=False, verbose=0)


def fine_tuned(name: str, folder: str, batches: Batches) -> Run:
    """A pass over ragged texts in batches of 32, bucketed."""
    import keras

    from bert4keras.models import Model, build_transformer_model
    from bert4keras.snippets import DataGenerator

    class Texts(DataGenerator):
        def __iter__(self, random: bool = False) -> Iterator:
            batch = []
            for is_end, sample in self.sample(random):
                batch.append(sample)
                if len(batch) == self.batch_size or is_end:
                    token_ids = self.pad([ids for ids, _ in batch])
                    yield [token_ids, np.zeros_like(token_ids)], np.array([y for _, y in batch])
                    batch = []

    encoder = build_transformer_model(folder, with_pool=True, precision="mixed_bfloat16")
    head = keras.layers.Dense(2, dtype="float32")
    model = compiled(Model(encoder.inputs, head(encoder.output)))
    rows = zip(batches.token_ids, batches.lengths, batches.labels, strict=True)
    texts = Texts([(ids[:n], y) for ids, n, y in rows], 32, bucket=lambda sample: len(sample[0]))
    return lambda: model.fit(texts.forfit(), steps_per_epoch=len(texts), epochs=1, verbose=0)


def encoded(name: str, folder: str, batches: Batches) -> Run:
    """Vectors of all tokens of ragged texts."""
    from bert4keras.models import build_transformer_model

    model = build_transformer_model(folder, precision="bfloat16")
    x = [batches.token_ids, np.zeros_like(batches.token_ids)]
    return lambda: model.predict(x, batch_size=32, verbose=0)


def written(name: str, folder: str, batches: Batches) -> Run:
    """New tokens after prompts."""
    from bert4keras.generation import Generator
    from bert4keras.models import build_transformer_model

    _, _, n_prompts, n_beams = ROWS[name]
    model = build_transformer_model(
        folder, application="lm", with_mlm="linear", precision="bfloat16"
    )
    generator = Generator(model, end_id=102, maxlen=NEW, minlen=NEW)
    prompts = np.resize(batches.token_ids, (n_prompts, SOURCE)).tolist()
    return lambda: generator.generate(prompts, topk=n_beams)


def loaded(folder: str, batches: Batches) -> Any:
    """Build and load a model, and let it compute once."""
    from bert4keras.models import build_transformer_model

    model = build_transformer_model(folder)
    return model.predict_on_batch([batches.token_ids[:1], np.zeros_like(batches.token_ids[:1])])


# --------------------------------------------------------------------------------------- the peer


def theirs(name: str, folder: str, batches: Batches) -> Run:
    """What a row does with `transformers` on PyTorch."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    kind, device = name.split()[0], "cuda" if torch.cuda.is_available() else "cpu"
    classes = {
        "pretrain": transformers.BertForMaskedLM,
        "finetune": transformers.BertForSequenceClassification,
        "write": transformers.BertLMHeadModel,
    }

    def build() -> Any:
        half = {"dtype": torch.bfloat16} if kind in ("encode", "write") else {}
        options = {"is_decoder": True} if kind == "write" else {}
        model = classes.get(kind, transformers.BertModel).from_pretrained(folder, **half, **options)
        return model.to(device)

    def tensor(x: np.ndarray) -> Any:
        return torch.from_numpy(x.astype("int64")).to(device)

    def settled() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    if kind == "load":

        @torch.inference_mode()
        def load() -> None:
            build().eval()(input_ids=tensor(batches.token_ids[:1]))
            settled()

        return load
    model = build()
    if kind in ("encode", "write"):
        return peer_computing(name, model.eval(), tensor, settled, batches)
    return peer_training(kind, model.train(), tensor, settled, batches)


def peer_computing(
    name: str, model: Any, tensor: Callable, settled: Callable, batches: Batches
) -> Run:
    """Encoding or writing of the peer."""
    import torch

    _, _, n_prompts, n_beams = ROWS[name]

    @torch.inference_mode()
    def write() -> None:
        ids = tensor(np.resize(batches.token_ids, (n_prompts, SOURCE)))
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            min_new_tokens=NEW,
            max_new_tokens=NEW,
            num_beams=n_beams,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=102,
        )
        settled()

    @torch.inference_mode()
    def encode() -> None:
        for part in batches.ragged():
            ids = tensor(batches.token_ids[part])
            model(input_ids=ids, attention_mask=ids != 0).last_hidden_state.float().cpu().numpy()

    return write if name.startswith("write") else encode


def peer_training(
    kind: str, model: Any, tensor: Callable, settled: Callable, batches: Batches
) -> Run:
    """A step of pretraining, or a pass of fine-tuning in batches that are cut to the longest."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.01)
    labels = np.full(batches.token_ids.shape, -100)
    np.put_along_axis(labels, batches.positions, batches.targets, axis=1)

    def step(part: slice) -> None:
        longest = batches.lengths[part].max() if kind == "finetune" else None
        ids = tensor(batches.token_ids[part, :longest])
        y = tensor(batches.labels[part] if kind == "finetune" else labels[part])
        with torch.autocast(ids.device.type, torch.bfloat16):
            loss = model(input_ids=ids, attention_mask=ids != 0, labels=y).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def run() -> None:
        for part in batches.ragged() if kind == "finetune" else [slice(None)]:
            step(part)
        settled()

    return run


# -------------------------------------------------------------------------------------- measuring


def count_compilations(engine: str) -> dict[str, float]:
    """What JAX compiles from now on: how often, and for how many seconds."""
    found = {"compilations": 0, "compile_seconds": 0.0}
    if engine == "jax":
        import jax

        def listen(event: str, seconds: float, **_: Any) -> None:
            if event.endswith("backend_compile_duration"):
                found["compilations"] += 1
                found["compile_seconds"] += seconds

        jax.monitoring.register_event_duration_secs_listener(listen)
    return found


def device_facts(engine: str) -> dict[str, Any]:
    """Name of the device and peak of its memory in bytes, where the engine tells."""
    if engine == "jax":
        import jax

        device = jax.local_devices()[0]
        return {
            "device": device.device_kind,
            "memory": (device.memory_stats() or {}).get("peak_bytes_in_use"),
        }
    if engine in ("torch", PEER):
        import torch

        if torch.cuda.is_available():
            return {
                "device": torch.cuda.get_device_name(),
                "memory": torch.cuda.max_memory_allocated(),
            }
    return {"device": "cpu", "memory": None}


def measure(engine: str, name: str, folder: str, args: argparse.Namespace) -> dict[str, Any]:
    """Run a row in this process."""
    config = json.loads((Path(folder) / "config.json").read_text())
    batches = Batches(name, config, args.tokens)
    compiled = count_compilations(engine)
    start = time.perf_counter()
    run = (theirs if engine == PEER else ours)(name, folder, batches)
    run()
    first = time.perf_counter() - start
    compiled = dict(compiled)
    times = []
    for _ in range(2 + args.steps):  # two to warm up
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    n_scored = batches.positions.shape[1] if name.startswith("pretrain") else 0
    n_written = ROWS[name][2] * NEW
    return {
        "first": first,
        "step": statistics.median(times[2:]),
        "range": [min(times[2:]), max(times[2:])],
        "tokens": n_written or int(batches.lengths.sum()),
        "operations": 3 * sum(operations(config, int(n), n_scored) for n in batches.lengths),
        **compiled,
        **device_facts(engine),
    }


# ----------------------------------------------------------------------------------- in the parent


def make_weights(folder: Path, config: dict) -> None:
    """Save random weights and their config in the format of the peer."""
    import transformers

    transformers.logging.disable_progress_bar()
    model = transformers.BertForPreTraining(transformers.BertConfig(**config))
    model.save_pretrained(folder)


def asked(engine: str, name: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Run a row in a process of its own; `{"error": …}` if it fails."""
    command = [sys.executable, __file__, "--serve", engine, name, str(folder)]
    command += ["--tokens", str(args.tokens), "--steps", str(args.steps)]
    backend = "torch" if engine == PEER else engine
    done = subprocess.run(
        command,
        env=os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        return {"error": f"ended with {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])


def peak_of(device: str, args: argparse.Namespace) -> float | None:
    """Operations a second that the device can do, None if that is not known."""
    if args.peak:
        return args.peak * 1e12
    return next((1e12 * peak for name, peak in PEAKS.items() if name in device), None)


def line(name: str, mine: dict, peer: dict, args: argparse.Namespace) -> str:
    """A row of the table."""
    if "error" in mine:
        return f"| {name} | {mine['error']} |"
    peak = peak_of(mine["device"], args)
    training = name.startswith("pretrain")
    mfu = f"{mine['operations'] / mine['step'] / peak:.0%}" if peak and training else ""
    memory = f"{mine['memory'] / 2**30:.1f} GiB" if mine["memory"] else ""
    beside = peer["step"] / mine["step"] if "step" in peer else None
    columns = [
        name,
        f"{mine['first']:.1f} s",
        f"{mine['compilations']}, {mine['compile_seconds']:.1f} s",
        f"{1000 * mine['step']:.1f} ms",
        f"{mine['tokens'] / mine['step']:,.0f}",
        mfu,
        memory,
        peer.get("error", "") if beside is None else f"{beside:.2f}×",
    ]
    return f"| {' | '.join(columns)} |"


HEAD = """
| row | first | compiled | step | tokens/s | MFU | memory | transformers |
| --- | --: | --: | --: | --: | --: | --: | --: |"""


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=ENGINES, default="jax")
    parser.add_argument("--rows", nargs="+", default=[""], help="beginnings of names of rows")
    parser.add_argument("--tokens", type=int, default=16384, help="in a step of training")
    parser.add_argument("--steps", type=int, default=20, help="that are timed")
    parser.add_argument("--peak", type=float, help="10¹² operations a second of the device")
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.serve:
        print(json.dumps(measure(*args.serve, args)))
        return {}
    if args.tiny:
        args.tokens, args.steps = 1024, 2
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        folders = {size: Path(folder) / size for size in ("base", "large")}
        for size, each in folders.items():
            make_weights(each, config_of(size, args.tiny))
        print(HEAD, flush=True)
        for name, (size, *_) in ROWS.items():
            if name.startswith(tuple(args.rows)):
                mine, peer = (asked(x, name, folders[size], args) for x in (args.engine, PEER))
                results[name] = {args.engine: mine, PEER: peer}
                print(line(name, mine, peer, args), flush=True)
                if args.json:
                    args.json.write_text(json.dumps(results, indent=1) + "\n")
    return results


if __name__ == "__main__":
    main()
