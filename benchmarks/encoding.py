"""Tokens per second of BERT-base, on every backend, against `transformers` on PyTorch.

    python benchmarks/encoding.py [--rounds 7] [--types float32 bfloat16] [--engines jax torch]
                                  [--processor-time]

Every engine is a process of its own with the same random weights, batches (8 texts of up to 128
tokens, 4 of up to 512, the shortest half as long as the longest) and number of processors. They
compute in turns, a batch each, and the others wait meanwhile. Ours is `predict_on_batch` of the
model, on TensorFlow also with `jit_compile=True`; the peer is `BertModel` in `inference_mode`, with
its fused attention (`sdpa`). Engines called `-grouped` take the rows of a batch in groups of like
length, which leaves out most of the padding. All start from NumPy ids and end in NumPy arrays.
Before anything is timed, the vectors of all tokens must agree with those of the peer.

Printed are the median time, real tokens per second, the median over the rounds of the time of the
peer as a multiple of ours (above 1: ours is faster) with its range, and the rate of the matrix
products of the model, padding included, as a share of what a single matrix product
(1024 × 768 × 3072) reached in the same process.

On a machine that has other work to do, `--processor-time` pins every engine to one processor and
counts the time that it computes.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
from turns import PEER, ask, ratio, seconds, start, stop, use_all_processors

from bert4keras.snippets import bucket_length

ENGINES = (
    PEER,
    f"{PEER}-grouped",
    "tensorflow",
    "tensorflow-xla",
    "tensorflow-grouped",
    "jax",
    "torch",
    "torch-grouped",
)
SHAPES = ((8, 128), (4, 512))
LAYERS, HIDDEN, INNER, VOCABULARY = 12, 768, 3072, 21128


def batch(rows: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Token ids (rows, length) whose rows are full from a half on, and what is not padding."""
    lengths = np.linspace(length // 2, length, rows).astype("int32")
    visible = np.arange(length) < lengths[:, None]
    token_ids = np.random.default_rng(length).integers(1000, VOCABULARY, visible.shape)
    return np.where(visible, token_ids, 0).astype("int32"), visible


def operations(rows: int, length: int) -> int:
    """Multiplications and additions in the matrix products of the model."""
    dense = 4 * HIDDEN**2 + 2 * HIDDEN * INNER
    attention = 2 * length * HIDDEN
    return 2 * LAYERS * rows * length * (dense + attention)


# ---------------------------------------------------------------------------------- in the engines

Encode = Callable[[np.ndarray, np.ndarray], np.ndarray]


def transformers_engine(dtype: str, folder: str) -> tuple[Encode, Callable]:
    """The peer: how it encodes, and a function that multiplies two matrices."""
    import torch
    import transformers

    use_all_processors()
    dtype = getattr(torch, dtype)
    model = transformers.BertModel.from_pretrained(
        folder, add_pooling_layer=False, attn_implementation="sdpa", dtype=dtype
    ).eval()

    @torch.inference_mode()
    def encode(token_ids: np.ndarray, visible: np.ndarray) -> np.ndarray:
        mask = torch.from_numpy(visible.astype("int64"))
        output = model(input_ids=torch.from_numpy(token_ids), attention_mask=mask)
        return output.last_hidden_state.float().numpy()

    def multiply(a: np.ndarray, b: np.ndarray) -> Callable:
        a, b = torch.from_numpy(a).to(dtype), torch.from_numpy(b).to(dtype)
        return lambda: a @ b

    return encode, multiply


def keras_engine(dtype: str, folder: str, jit_compile: bool) -> tuple[Encode, Callable]:
    """Ours, on the backend that `KERAS_BACKEND` names."""
    import keras

    from bert4keras.models import build_transformer_model

    if keras.backend.backend() == "torch":
        use_all_processors()
    keras.config.set_dtype_policy(dtype)
    model = build_transformer_model(f"{folder}/config.json", f"{folder}/model.safetensors")
    if jit_compile:
        model.compile(jit_compile=True)

    def encode(token_ids: np.ndarray, visible: np.ndarray) -> np.ndarray:
        output = model.predict_on_batch([token_ids, np.zeros_like(token_ids)])
        return np.asarray(output, "float32")

    def multiply(a: np.ndarray, b: np.ndarray) -> Callable:
        a, b = keras.ops.cast(a, dtype), keras.ops.cast(b, dtype)
        # A single number comes back: that it is there says that the product is.
        return lambda: float(keras.ops.matmul(a, b)[0, 0])

    return encode, multiply


def grouped(encode: Encode) -> Encode:
    """Encode rows in groups whose lengths are rounded up to the same one."""

    def encode_groups(token_ids: np.ndarray, visible: np.ndarray) -> np.ndarray:
        lengths = np.array([bucket_length(n) for n in visible.sum(axis=1).tolist()])
        output = np.zeros((*token_ids.shape, HIDDEN), "float32")
        for length in np.unique(lengths):
            rows = lengths == length
            output[rows, :length] = encode(token_ids[rows, :length], visible[rows, :length])
        return output

    return encode_groups


def serve(engine: str, dtype: str, folder: str, processor_time: bool) -> None:
    """Encode the shapes that come in by their index, and answer with the time taken."""
    clock = time.process_time if processor_time else time.perf_counter
    if processor_time:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    if engine.startswith(PEER):
        encode, multiply = transformers_engine(dtype, folder)
    else:
        encode, multiply = keras_engine(dtype, folder, engine.endswith("-xla"))
    encode = grouped(encode) if engine.endswith("-grouped") else encode
    batches = [batch(*shape) for shape in SHAPES]
    for i, given in enumerate(batches):
        np.save(f"{folder}/{engine}-{i}.npy", encode(*given)[given[1]])
        encode(*given)
    random = np.random.default_rng(0).random
    product = multiply(random((1024, HIDDEN), "float32"), random((HIDDEN, INNER), "float32"))
    product()
    print("ready", flush=True)
    for line in sys.stdin:
        if line.strip() == "product":
            taken = statistics.median(seconds(product, clock) for _ in range(9))
        else:
            token_ids, visible = batches[int(line)]
            taken = seconds(lambda t=token_ids, v=visible: encode(t, v), clock)
        print(taken, flush=True)


# ---------------------------------------------------------------------------------- in the parent


def make_weights(folder: str) -> None:
    """Save random weights and their config in the format of the peer."""
    import transformers

    config = transformers.BertConfig(vocab_size=VOCABULARY, num_hidden_layers=LAYERS)
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder)


def check(engines: list[str], dtype: str, folder: str) -> None:
    """Make sure that all engines computed the same vectors."""
    for i in range(len(SHAPES)):
        expected = np.load(f"{folder}/{PEER}-{i}.npy")
        for engine in engines:
            difference = np.abs(np.load(f"{folder}/{engine}-{i}.npy") - expected).max()
            assert difference < (1e-3 if dtype == "float32" else 0.3), (engine, difference)


def compare(engines: list[str], dtype: str, rounds: int, folder: str, options: list[str]) -> None:
    """Print what all engines take for all shapes, in one type."""
    workers = {engine: start(__file__, engine, dtype, folder, *options) for engine in engines}
    check(engines, dtype, folder)
    for index, (rows, length) in enumerate(SHAPES):
        times, rates = ({engine: [] for engine in engines} for _ in range(2))
        for _ in range(rounds):
            for engine, worker in workers.items():
                times[engine].append(ask(worker, index))
                rates[engine].append(ask(worker, "product"))
        tokens = batch(rows, length)[1].sum()
        print(f"\n{dtype}, {rows} x {length}, {tokens} tokens", flush=True)
        for engine in engines:
            taken = statistics.median(times[engine])
            product = 2 * 1024 * HIDDEN * INNER / statistics.median(rates[engine])
            share = operations(rows, length) / taken / product
            print(
                f"{engine:20} {taken * 1e3:6.0f} ms {tokens / taken:6.0f} tokens/s   "
                f"{ratio(times[PEER], times[engine])}   "
                f"{share:4.0%} of {product / 1e9:3.0f} GFLOP/s",
                flush=True,
            )
    stop(workers.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--types", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument("--processor-time", action="store_true")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(*args.serve, args.processor_time)
    engines = [PEER, *(e for e in args.engines if e != PEER)]
    with tempfile.TemporaryDirectory() as folder:
        make_weights(folder)
        for dtype in args.types:
            options = ["--processor-time"] if args.processor_time else []
            compare(engines, dtype, args.rounds, folder, options)


if __name__ == "__main__":
    main()
