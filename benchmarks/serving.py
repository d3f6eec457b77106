"""Texts per second of a classifier, in four ways of serving it, against `transformers`.

    python benchmarks/serving.py [--ways predict http onnx int8] [--rounds 3] [--texts 64]
                                 [--backends tensorflow …] [--layers 12] [--size 768] [--batch 8]

BERT-base with random weights and two classes, the same on both sides, on ragged Chinese texts of 10
to 300 characters, from strings to labels, with two processors:

* `predict`: `TextClassificationGenerator.predict`; the peer is `pipeline("text-classification")`
  with a batch size, and further rows give it one text at a time and texts sorted by length;
* `http`: `WebServing` with `batch_size=`; the peer is the pipeline, one call at a time, behind a
  `ThreadingHTTPServer`. Twice as many clients as a batch has texts send one text after the other;
* `onnx`: the file of `Model.export`, run by onnxruntime; the peer is a file of
  `torch.onnx.export`. Both in batches sorted by length, each side with its own tokenizer;
* `int8`: the same in eight bits, by `Model.export(int8=True)` and by `quantize_dynamic` of
  onnxruntime with its defaults.

Every engine is a process of its own; the engines of a way take turns, all texts each, and the
others wait meanwhile. Before anything is timed, all texts have been classified twice, and the
probabilities must agree with those of the peer to 1e-4; in eight bits the largest difference to the
model in float32 is printed instead. Ours runs on TensorFlow, which ONNX files need;
`--backends` adds others to `predict` and `http`, where JAX compiles for each new shape.

Printed are the median time, texts per second, and the median over the rounds of the time of the
peer as a multiple of ours (above 1: ours is faster) with its range. `--layers 2 --size 64
--texts 12 --batch 4 --rounds 1` only tries whether it runs.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from int8 import classifier, onnx_engine
from sentences import SPECIALS, ragged_texts
from turns import PEER, ask, ratio, seconds, start, stop, use_all_processors

from bert4keras.snippets import TextClassificationGenerator, WebServing, softmax
from bert4keras.tokenizers import load_tokenizer

WAYS = ("predict", "http", "onnx", "int8")
BACKENDS = ("tensorflow", "jax", "torch")
NAMES = ["LABEL_0", "LABEL_1"]
VOCABULARY, MAXLEN, PROCESSORS, PATH = 21128, 512, 2, "/classify"

Answers = Iterable[dict[str, Any]]
"""A label and its probability for each text, as the pipeline gives them."""


class Engine(NamedTuple):
    """A way to classify, on one side.

    Attributes:
        labels: gives the label of each text; this is timed.
        scores: gives the probability of the second label for each text; this is compared.
        stop: ends what the engine has started.
    """

    labels: Callable[[Sequence[str]], list[str]]
    scores: Callable[[Sequence[str]], np.ndarray]
    stop: Callable[[], None] = lambda: None


def engines_of(way: str, backends: Sequence[str]) -> list[str]:
    """The peer of a way, which others are compared with, then its variants, then ours."""
    if way in ("onnx", "int8"):
        return [f"{PEER}-{way}", f"tensorflow-{way}"]
    variants = [f"{PEER}-single", f"{PEER}-sorted"] if way == "predict" else []
    return [f"{PEER}-{way}", *variants, *(f"{backend}-{way}" for backend in backends)]


def texts_of(n: int) -> list[str]:
    """Texts of 10 to 300 characters, half of them below 60, in any order."""
    return ragged_texts(n, 10, 300)


# ---------------------------------------------------------------------------------- in the engines


def engine_of(name: str, folder: str, batch: int) -> Engine:
    """Start an engine; `folder` holds the model of the peer and the files of both sides."""
    side, way = name.split("-")
    if way in ("onnx", "int8"):
        return of_file(name, folder, batch)
    if side != PEER:
        return ours(way, folder, batch)
    pipe = pipeline(folder)
    if way == "http":
        return behind_http(*peer_server(pipe), 2 * batch)
    if way == "single":
        return of_answers(lambda texts: pipe(list(texts)))
    if way == "sorted":
        return of_answers(in_sorted_batches(lambda texts: pipe(texts, batch_size=batch), 1 << 30))
    return of_answers(lambda texts: pipe(list(texts), batch_size=batch))


def ours(way: str, folder: str, batch: int) -> Engine:
    """`predict` of this library, or `WebServing`."""
    import keras

    if keras.config.backend() == "torch":
        use_all_processors()
    model = classifier(folder, None)
    batches = TextClassificationGenerator(
        [], [], load_tokenizer(folder), MAXLEN, NAMES, batch_size=batch
    )

    def probabilities(texts: Sequence[str]) -> np.ndarray:
        return softmax(np.array([logits for _, logits in batches.outputs(model, texts)]))

    if way == "http":
        web = web_serving(lambda text: answers_of(probabilities(text)), batch)
        return behind_http(web.port, web.stop, 2 * batch)
    return Engine(
        lambda texts: batches.predict(model, texts), lambda texts: probabilities(texts)[:, 1]
    )


def web_serving(function: Callable[[list[str]], list], batch: int) -> WebServing:
    """Serve a function of a batch of texts, in a thread."""
    web = WebServing(port=0)
    web.route(PATH, function, {"text": (None, True)}, method="POST", batch_size=batch)
    threading.Thread(target=web.start, daemon=True).start()
    if not web.wait_until_started(60):
        raise SystemExit("the server did not start within a minute")
    return web


def pipeline(folder: str) -> Callable[..., list]:
    """The pipeline of the peer, with its fused attention."""
    import transformers

    use_all_processors()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers.pipeline("text-classification", folder, device="cpu")


def peer_server(pipe: Callable[..., list]) -> tuple[int, Callable[[], None]]:
    """Serve a pipeline, one call at a time; return the port and what ends it."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1  # head and body of an answer go out together

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with lock:
                (answer,) = pipe([json.loads(body)["text"]])
            body = json.dumps({"data": answer}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def end() -> None:
        server.shutdown()
        server.server_close()

    return server.server_port, end


def behind_http(port: int, end: Callable[[], None], n_clients: int) -> Engine:
    """What a server answers to clients, each of which sends one text after the other."""

    def answers(texts: Sequence[str]) -> Answers:
        left, found = enumerate(texts), {}

        def client() -> None:
            with closing(HTTPConnection("127.0.0.1", port)) as connection:
                for i, text in left:
                    body = json.dumps({"text": text}).encode()
                    connection.request("POST", PATH, body, {"Content-Type": "application/json"})
                    found[i] = json.load(connection.getresponse())["data"]

        with ThreadPoolExecutor(n_clients) as pool:
            for run in [pool.submit(client) for _ in range(n_clients)]:
                run.result()
        return [found[i] for i in range(len(texts))]

    return of_answers(answers)._replace(stop=end)


def of_answers(answers: Callable[[Sequence[str]], Answers]) -> Engine:
    """An engine whose labels and probabilities come together."""
    return Engine(
        lambda texts: [each["label"] for each in answers(texts)],
        lambda texts: np.array([second_of(**each) for each in answers(texts)]),
    )


def answers_of(probabilities: np.ndarray) -> list[dict[str, Any]]:
    """The best label with its probability, for each row."""
    return [{"label": NAMES[row.argmax()], "score": float(row.max())} for row in probabilities]


def second_of(label: str, score: float) -> float:
    """The probability of the second label."""
    return score if label == NAMES[1] else 1 - score


def in_sorted_batches(function: Callable[[list[str]], Sequence], batch: int) -> Callable:
    """Apply a function to batches of texts sorted by length; results are in the order given."""

    def apply(texts: Sequence[str]) -> list:
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        found: dict[int, Any] = {}
        for first in range(0, len(order), batch):
            part = order[first : first + batch]
            found.update(zip(part, function([texts[i] for i in part]), strict=True))
        return [found[i] for i in range(len(texts))]

    return apply


def of_file(name: str, folder: str, batch: int) -> Engine:
    """An ONNX file, run by onnxruntime."""
    run = onnx_engine(f"{folder}/{name}.onnx")
    arrays = peer_arrays(folder) if name.startswith(PEER) else our_arrays(folder)
    compute = in_sorted_batches(lambda texts: answers_of(softmax(run(arrays(texts)))), batch)
    return of_answers(compute)


def our_arrays(folder: str) -> Callable[[list[str]], list[np.ndarray]]:
    """Token and segment ids by our tokenizer."""
    batches = TextClassificationGenerator(
        [], [], load_tokenizer(folder), MAXLEN, NAMES, bucket=False
    )
    return lambda texts: [each.astype("int32") for each in batches.inputs(texts)]


def peer_arrays(folder: str) -> Callable[[list[str]], list[np.ndarray]]:
    """Token ids and mask by the tokenizer of the peer."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def arrays(texts: list[str]) -> list[np.ndarray]:
        found = tokenizer(texts, padding=True, truncation=True, return_tensors="np")
        return [found["input_ids"], found["attention_mask"]]

    return arrays


def serve(name: str, folder: str, batch: int, texts: Sequence[str]) -> None:
    """Classify all texts at each line that comes in, and answer with the time taken."""
    engine = engine_of(name, folder, batch)
    np.save(f"{folder}/{name}.npy", engine.scores(texts))
    engine.labels(texts)
    print("ready", flush=True)
    for _ in sys.stdin:
        print(seconds(lambda: engine.labels(texts)), flush=True)
    engine.stop()


# ---------------------------------------------------------------------------------- in the parent


def make_folder(folder: str, layers: int, size: int, texts: Sequence[str]) -> None:
    """Save a random model and a tokenizer of the peer; its labels differ between texts."""
    import torch
    import transformers

    transformers.logging.disable_progress_bar()
    words = [*SPECIALS, *sorted(set("".join(texts)))]
    Path(folder, "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    tokenizer = transformers.BertTokenizer(f"{folder}/vocab.txt", model_max_length=MAXLEN)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        num_hidden_layers=layers,
        hidden_size=size,
        num_attention_heads=max(2, size // 64),
        intermediate_size=4 * size,
        num_labels=2,
        initializer_range=0.05,  # so that texts differ, and no probability is 0 or 1
    )
    model = transformers.BertForSequenceClassification(config)
    model.save_pretrained(folder)


def export_ours(folder: str, ways: Sequence[str]) -> None:
    """Write our ONNX files; on TensorFlow."""
    model = classifier(folder, None)
    for way in ways:
        path = f"{folder}/tensorflow-{way}.onnx"
        model.export(path, format="onnx", int8=way == "int8", verbose=False)


def export_peer(folder: str, ways: Sequence[str]) -> None:
    """Write the ONNX files of the peer, by the exporter that traces."""
    import torch
    import transformers
    from onnxruntime.quantization import quantize_dynamic

    warnings.simplefilter("ignore")  # the exporter is the older one, which needs no more packages
    transformers.logging.disable_progress_bar()
    kind = transformers.BertForSequenceClassification
    model = kind.from_pretrained(folder, attn_implementation="eager").eval()
    ids = torch.ones(2, 9, dtype=torch.int64)
    names = ["input_ids", "attention_mask"]
    whole = Path(folder, f"{PEER}-onnx.onnx")
    torch.onnx.export(
        model,
        (ids, ids),
        str(whole),
        input_names=names,
        output_names=["logits"],
        dynamic_axes={name: {0: "batch", 1: "length"} for name in names} | {"logits": {0: "batch"}},
        opset_version=17,
        dynamo=False,
    )
    if "int8" in ways:
        quantize_dynamic(whole, Path(folder, f"{PEER}-int8.onnx"))


def export(folder: str, ways: Sequence[str]) -> None:
    """Write the files of both sides, each in a process of its own."""
    for side in ("tensorflow", PEER):
        taken = seconds(lambda side=side: run_export(side, folder, ways))
        print(f"exported by {side} in {taken:.0f} s", flush=True)


def run_export(side: str, folder: str, ways: Sequence[str]) -> None:
    environment = os.environ | {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, __file__, "--export", side, folder, "--ways", *ways]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)


def check(engines: Sequence[str], folder: str, expected: np.ndarray, tolerance: float) -> None:
    """Print how far the probabilities of engines are from others, and refuse what is too far."""
    for engine in engines:
        difference = np.abs(np.load(f"{folder}/{engine}.npy") - expected).max()
        print(f"{engine:22} largest difference of a probability {difference:.2g}", flush=True)
        assert difference < tolerance, (engine, difference)


def compare(way: str, folder: str, args: argparse.Namespace) -> None:
    """Print what all engines of a way take."""
    engines, texts = engines_of(way, args.backends), texts_of(args.texts)
    print(f"\n{way}: {len(texts)} texts, {sum(map(len, texts))} characters", flush=True)
    workers = {}
    for engine in engines:
        taken = seconds(lambda e=engine: workers.update({e: started(e, folder, args)}))
        print(f"{engine:22} ready after {taken:.0f} s", flush=True)
    if way == "int8":
        whole = of_file(f"{PEER}-onnx", folder, args.batch)
        check(engines, folder, whole.scores(texts), tolerance=1.0)
    else:
        check(engines, folder, np.load(f"{folder}/{engines[0]}.npy"), tolerance=1e-4)
    times = {engine: [] for engine in engines}
    for _ in range(args.rounds):
        for engine, worker in workers.items():
            times[engine].append(ask(worker, "all"))
    stop(list(workers.values()))
    for engine in engines:
        taken = statistics.median(times[engine])
        print(f"{engine:22} {taken:6.2f} s {len(texts) / taken:6.1f} texts/s   ", end="")
        print(ratio(times[engines[0]], times[engine]), flush=True)


def started(engine: str, folder: str, args: argparse.Namespace) -> subprocess.Popen:
    """Start the process of an engine."""
    options = ("--batch", str(args.batch), "--texts", str(args.texts))
    return start(__file__, engine, folder, *options)


def possible(ways: Sequence[str]) -> list[str]:
    """The ways whose packages are installed; the others are named."""
    packages = ("onnx", "tf2onnx", "onnxruntime")
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    left_out = [way for way in ways if way in ("onnx", "int8") and missing]
    if left_out:
        print(f"without {', '.join(missing)} there is no {', '.join(left_out)}", flush=True)
    return [way for way in ways if way not in left_out]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=["tensorflow"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--size", type=int, default=768)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--export", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(*args.serve, args.batch, texts_of(args.texts))
    if args.export:
        side, folder = args.export
        return (export_peer if side == PEER else export_ours)(folder, args.ways)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:PROCESSORS])  # and of the engines
    ways = possible(args.ways)
    with tempfile.TemporaryDirectory() as folder:
        make_folder(folder, args.layers, args.size, texts_of(args.texts))
        files = [way for way in ways if way in ("onnx", "int8")]
        if files:
            export(folder, files)
        for way in ways:
            compare(way, folder, args)


if __name__ == "__main__":
    main()
