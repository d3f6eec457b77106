"""Texts per second and accuracy of a classifier in eight bits, by onnxruntime.

    python benchmarks/int8.py speed [--rounds 5] [--texts 32] [--layers 12] [--size 768]
                                    [--engines transformers tensorflow …] [--processor-time]
    python benchmarks/int8.py accuracy [--train 2000] [--epochs 2]

`speed`: BERT-base with random weights and a head of two classes on the pooled vector, on ragged
Chinese texts of 5 to 500 characters, half of them below 60. Engines take the same ids, sorted by
length, 8 in a batch padded to its longest, and compute in turns, all texts each. They are
`transformers` (PyTorch, float32, its fused attention), ours on TensorFlow, also in bfloat16, and
the files that `export` and `export(int8=True)` write, run by onnxruntime. Before anything is timed
the logits must agree with those of the peer: to 1e-3 in float32; with a share of the norm of the
difference of 0.3 in bfloat16 and eight bits. Printed are the median time, texts per second, and the
median over the rounds of the time of the peer as a multiple of ours (range).

`accuracy`: the small checkpoint of the examples is fine-tuned on `sentiment` of the folder
`BERT4KERAS_SHARED` (default: `shared` beside the checkout), exported in float32 and in eight bits,
and each file is scored on all of the test data.

On a machine that has other work to do, `--processor-time` pins every engine to one processor and
counts the time that it computes.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sentences import ragged_texts
from turns import PEER, ask, processors, ratio, seconds, start, stop, use_all_processors

from bert4keras.snippets import sequence_padding
from bert4keras.tokenizers import Tokenizer

ROOT = Path(__file__).parents[1]
TINY = ROOT / "examples/weights/tiny_zh"
ENGINES = (
    PEER,
    "tensorflow",
    "tensorflow-bfloat16",
    "tensorflow-onnx",
    "tensorflow-int8",
)
VOCABULARY, BATCH = 21128, 8
Encode = Callable[[list[np.ndarray]], np.ndarray]


def batches(texts: list[str], size: int = BATCH) -> list[list[np.ndarray]]:
    """Token and segment ids, sorted by length, padded to the longest of a batch."""
    tokenizer = Tokenizer(TINY / "vocab.txt", do_lower_case=True)
    rows = [tokenizer.encode(text, maxlen=512) for text in sorted(texts, key=len)]
    found = [zip(*rows[i : i + size], strict=True) for i in range(0, len(rows), size)]
    return [[sequence_padding(column).astype("int32") for column in each] for each in found]


# ---------------------------------------------------------------------------------- in the engines


def transformers_engine(folder: str) -> Encode:
    """The peer."""
    import torch
    import transformers

    use_all_processors()
    kind = transformers.BertForSequenceClassification
    model = kind.from_pretrained(folder, attn_implementation="sdpa").eval()

    def encode(arrays: list[np.ndarray]) -> np.ndarray:
        ids = torch.from_numpy(arrays[0]).long()
        with torch.inference_mode():
            return model(input_ids=ids, attention_mask=(ids > 0).long()).logits.numpy()

    return encode


def keras_engine(folder: str, precision: str | None) -> Encode:
    """Ours; the head is the one of the peer."""
    model = classifier(folder, precision)
    return lambda arrays: np.asarray(model.predict_on_batch(arrays), "float32")


def classifier(folder: str, precision: str | None):
    import keras

    from bert4keras.checkpoints import open_checkpoint
    from bert4keras.models import Model, build_transformer_model

    bert = build_transformer_model(folder, with_pool=True, precision=precision)
    head = keras.layers.Dense(2, name="Label", dtype="float32")
    model = Model(bert.inputs, head(bert.output))
    with open_checkpoint(folder) as file:
        head.set_weights([file["classifier.weight"].T, file["classifier.bias"]])
    return model


def onnx_engine(path: str) -> Encode:
    """A file, run by onnxruntime on the processors that this process may use."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = processors()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    return lambda arrays: session.run(None, dict(zip(names, arrays, strict=True)))[0]


def serve(engine: str, folder: str, n: int, processor_time: bool) -> None:
    """Score all texts at each line that comes in, and answer with the time taken."""
    clock = time.process_time if processor_time else time.perf_counter
    if processor_time:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    kind = engine.partition("-")[2]
    if engine == PEER:
        encode = transformers_engine(folder)
    elif kind in ("onnx", "int8"):
        encode = onnx_engine(f"{folder}/{kind}.onnx")
    else:
        encode = keras_engine(folder, kind or None)
    given = batches(ragged_texts(n))
    np.save(f"{folder}/{engine}.npy", np.concatenate([encode(x) for x in given]))
    print("ready", flush=True)
    for _ in sys.stdin:
        print(seconds(lambda: [encode(x) for x in given], clock), flush=True)


# ---------------------------------------------------------------------------------- in the parent


def make_folder(folder: str, layers: int, size: int) -> None:
    """Save random weights of the peer."""
    import transformers

    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        num_hidden_layers=layers,
        hidden_size=size,
        num_attention_heads=size // 64,
        intermediate_size=4 * size,
        num_labels=2,
    )
    transformers.BertForSequenceClassification(config).save_pretrained(folder)


def export(folder: str) -> None:
    """Write both files."""
    model = classifier(folder, None)
    model.export(f"{folder}/onnx.onnx", format="onnx", verbose=False)
    model.export(f"{folder}/int8.onnx", format="onnx", int8=True)


def speed(args: argparse.Namespace) -> None:
    """Print what all engines take."""
    engines = [PEER, *(e for e in args.engines if e != PEER)]
    options = ["--processor-time"] if args.processor_time else []
    with tempfile.TemporaryDirectory() as folder:
        make_folder(folder, args.layers, args.size)
        export(folder)
        workers = {e: start(__file__, e, folder, str(args.texts), *options) for e in engines}
        expected = np.load(f"{folder}/{PEER}.npy")
        for engine in engines:
            near = 0.3 if engine.endswith(("bfloat16", "int8")) else 1e-3
            difference = np.load(f"{folder}/{engine}.npy") - expected
            far = np.linalg.norm(difference) / np.linalg.norm(expected)
            assert far < near, (engine, far)
        times = {engine: [] for engine in engines}
        for _ in range(args.rounds):
            for engine, worker in workers.items():
                times[engine].append(ask(worker, "all"))
        stop(list(workers.values()))
    n = args.texts
    print(f"\n{n} texts, {sum(map(len, ragged_texts(n)))} characters", flush=True)
    for engine in engines:
        taken = statistics.median(times[engine])
        print(f"{engine:20} {taken:6.2f} s {n / taken:6.1f} texts/s   ", end="")
        print(ratio(times[PEER], times[engine]), flush=True)


def accuracy(args: argparse.Namespace) -> None:
    """Print the accuracy of both files."""
    import keras

    from bert4keras.models import Model, build_transformer_model

    shared = Path(os.environ.get("BERT4KERAS_SHARED", ROOT.parent / "shared"))
    with zipfile.ZipFile(shared / "data/sentiment/sentiment.zip") as archive:
        train, test = (
            [line.rsplit("\t", 1) for line in archive.read(name).decode().splitlines() if line]
            for name in ("sentiment/sentiment.train.data", "sentiment/sentiment.test.data")
        )
    tokenizer = Tokenizer(TINY / "vocab.txt", do_lower_case=True)

    def arrays(pairs: list) -> tuple[list[np.ndarray], np.ndarray]:
        rows = [tokenizer.encode(text, maxlen=128) for text, _ in pairs]
        ids = [sequence_padding(column, 128).astype("int32") for column in zip(*rows, strict=True)]
        return ids, np.array([int(label) for _, label in pairs])

    keras.utils.set_random_seed(0)
    bert = build_transformer_model(TINY)
    mean = keras.layers.GlobalAveragePooling1D()(bert.output)
    model = Model(bert.inputs, keras.layers.Dense(2, activation="softmax")(mean))
    model.compile(keras.optimizers.Adam(5e-4), "sparse_categorical_crossentropy")
    model.fit(*arrays(train[: args.train]), batch_size=32, epochs=args.epochs, verbose=2)
    x, y = arrays(test)
    parts = [[a[i : i + 64] for a in x] for i in range(0, len(y), 64)]
    with tempfile.TemporaryDirectory() as folder:
        for int8 in (False, True):
            path = f"{folder}/model.onnx"
            model.export(path, format="onnx", int8=int8, verbose=False)
            encode = onnx_engine(path)
            found = np.concatenate([encode(part) for part in parts]).argmax(-1)
            size = os.path.getsize(path) / 2**20
            print(f"int8={int8!s:6} {(found == y).mean():.2%} of {len(y)}, {size:.1f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=("speed", "accuracy"), default="speed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--texts", type=int, default=32)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--size", type=int, default=768)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument("--train", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--processor-time", action="store_true")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        engine, folder, n = args.serve
        return serve(engine, folder, int(n), args.processor_time)
    os.environ["KERAS_BACKEND"] = "tensorflow"
    return {"speed": speed, "accuracy": accuracy}[args.what](args)


if __name__ == "__main__":
    main()
