"""A web server for sentence vectors: how similar texts are, and which are the most similar.

    python experiments/basic_simple_web_serving_simbert.py                  # the small checkpoint
    python experiments/basic_simple_web_serving_simbert.py --pooling cls \
        --checkpoint chinese_simbert_L-12_H-768_A-12 --sentences questions.txt

Then open http://127.0.0.1:8000/ or ask by

    curl http://127.0.0.1:8000/similarity -d a=今天天气很好 -d b=今天是晴天
    curl -G http://127.0.0.1:8000/search --data-urlencode text=多久能送到 -d n=3

Requests that come at the same time are answered in one pass through the model. The checkpoint is a
folder with an official checkpoint, its config and its vocabulary. The vector of a sentence is the
mean of those of its tokens, or, as SimBERT was trained, that of [CLS]. The small checkpoint has
learnt to fill in tokens only: its scores follow shared words more than the meaning.

`--measure` has 64 clients send 2,000 requests instead, compares the answers with those without a
server, and writes what came of it to `--output`.
"""

import argparse
import http.client
import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import keras
import numpy as np
from common import TINY, files_of, outputs, report

from bert4keras.models import Model, build_transformer_model
from bert4keras.snippets import WebServing
from bert4keras.tokenizers import Tokenizer

BATCH_SIZE = 16
MAXLEN = 128  # tokens of a sentence at most
N_CLIENTS, N_REQUESTS = 64, 2000
SENTENCES = [
    "什么时候发货？",
    "多久可以送到？",
    "怎么申请退款？",
    "商品坏了可以换吗？",
    "这本书适合几岁的孩子？",
    "房间里有没有无线网络？",
    "早餐几点开始？",
    "从机场到酒店怎么走？",
]


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, default=TINY, help="folder of a checkpoint")
    parser.add_argument("--sentences", type=Path, help="UTF-8 file, what to search in, one a line")
    parser.add_argument("--pooling", choices=("mean", "cls"), default="mean")
    parser.add_argument("--host", default="127.0.0.1", help="there is no authentication")
    parser.add_argument("--port", type=int, default=8000, help="0 for any free one")
    parser.add_argument("--measure", action="store_true", help="do not serve but measure")
    name = Path(__file__).stem
    parser.add_argument("--output", type=Path, default=Path("runs") / name, help="for --measure")
    args = parser.parse_args(argv)
    args.name, args.started, args.seed = name, time.time(), 0
    args.argv = list(sys.argv[1:] if argv is None else argv)
    args.quick, args.sample = args.checkpoint == TINY, False
    return args


def read_sentences(path: Path | None) -> list[str]:
    if path is None:
        return SENTENCES
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SystemExit(f"--sentences {path} cannot be read as UTF-8 text: {error}") from error
    sentences = [line.strip() for line in lines if line.strip()]
    if not sentences:
        raise SystemExit(f"--sentences {path} holds no sentence")
    return sentences


def sentence_encoder(checkpoint: Path, pooling: str) -> Callable[[Sequence[str]], np.ndarray]:
    """A function from texts to vectors of length 1, one row each."""
    files = files_of(checkpoint)
    tokenizer = Tokenizer(files.vocabulary, do_lower_case=True)
    bert = build_transformer_model(files.config, files.checkpoint)
    mean = keras.layers.GlobalAveragePooling1D()
    model = Model(bert.inputs, bert.output[:, 0] if pooling == "cls" else mean(bert.output))

    def encode(texts: Sequence[str]) -> np.ndarray:
        samples = [tokenizer.encode(text, maxlen=MAXLEN) for text in texts]
        vectors = np.array([vector for (vector,) in outputs(model, samples, batch_size=BATCH_SIZE)])
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    return encode


def measured(web: WebServing, expected: dict[str, list[dict]]) -> dict[str, float]:
    """Search for texts, one request for each, from many clients at the same time.

    Args:
        web: the server, which does not run yet.
        expected: the answer to each text.

    Returns:
        How many were answered in a second; how many failed, or got another answer.
    """
    queue, lock = iter(expected.items()), threading.Lock()

    def client() -> np.ndarray:
        """How many of the requests of one client failed, and how many got another answer."""
        wrong = np.zeros(2, int)
        with closing(http.client.HTTPConnection("127.0.0.1", web.port, timeout=60)) as connection:
            while True:
                with lock:
                    text, wanted = next(queue, (None, None))
                if text is None:
                    return wrong
                connection.request("GET", f"/search?text={quote(text)}&n=1")
                response = connection.getresponse()
                answer = json.loads(response.read())
                if response.status != 200:
                    wrong += [1, 0]
                    continue
                (found,), (best,) = answer["data"], wanted
                wrong += [0, abs(found["similarity"] - best["similarity"]) > 1e-4]

    server = threading.Thread(target=web.start)
    server.start()
    try:
        if not web.wait_until_started(60):
            raise SystemExit("the server did not start within a minute")
        start = time.perf_counter()
        with ThreadPoolExecutor(N_CLIENTS) as pool:
            runs = [pool.submit(client) for _ in range(N_CLIENTS)]
            failed, different = sum(run.result() for run in runs)
        seconds = time.perf_counter() - start
    finally:
        web.stop()
        server.join()
    return {
        "requests_per_second": round(len(expected) / seconds, 1),
        "failed": int(failed),
        "different": int(different),
    }


def main(argv: Sequence[str] | None = None) -> dict | None:
    args = arguments(argv)
    sentences = read_sentences(args.sentences)
    encode = sentence_encoder(args.checkpoint, args.pooling)
    known = encode(sentences)

    def similarity(a: list[str], b: list[str]) -> np.ndarray:
        """两句话的余弦相似度 / Cosine of the vectors of two texts."""
        vectors = encode(a + b)
        return (vectors[: len(a)] * vectors[len(a) :]).sum(axis=1)

    def search(text: list[str], n: list[int] | None = None) -> list[list[dict]]:
        """最相似的句子 / The most similar sentences, 5 of them or n."""
        scores = encode(text) @ known.T
        return [
            [{"text": sentences[i], "similarity": row[i]} for i in np.argsort(-row)[: max(0, size)]]
            for row, size in zip(scores, n or [5] * len(text), strict=True)
        ]

    web = WebServing(args.host, 0 if args.measure else args.port)
    pair = {"a": (None, True), "b": (None, True)}
    web.route("/similarity", similarity, pair, method="POST", batch_size=BATCH_SIZE)
    web.route("/search", search, {"text": (None, True), "n": (int, False)}, batch_size=BATCH_SIZE)
    if not args.measure:
        return web.start()
    texts = [f"{sentences[i % len(sentences)]}{i}" for i in range(N_REQUESTS)]
    expected = dict(zip(texts, search(texts, [1] * len(texts)), strict=True))
    args.output.mkdir(parents=True, exist_ok=True)
    data = f"{N_REQUESTS} requests of {N_CLIENTS} clients"
    return report(args, data, measured(web, expected))


if __name__ == "__main__":
    main()
