"""What the checks of inputs cost, as a share of a training step, of `predict` and of a request.

    python benchmarks/checking.py [--rounds 30]

On the backend that `KERAS_BACKEND` names. Two models of published sizes, BERT-small-Chinese (4
layers of 312 units) and BERT-base, with a classifier on top and random weights; batches of 32 texts
of 128 tokens. The time of `Rules.check` on a batch is compared with that of `train_on_batch` and
of `predict_on_batch` on the same one, in turn; printed are medians and the median of the shares
with their range. The bar is 1 % of a training step.

For requests, the time in which `WebServing` reads and checks a body (a text of 128 characters and
two numbers) is compared with `json.loads` of the same body, and with a whole request over HTTP
whose function returns at once.
"""

import argparse
import asyncio
import http.client
import json
import statistics
import threading
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

import keras
import numpy as np
from turns import seconds

from bert4keras.models import Model, build_transformer_model
from bert4keras.serving import WebServing
from bert4keras.serving.requests import RequestReader
from bert4keras.serving.routes import make_route

SHAPES = {
    "4 × 312": {"num_hidden_layers": 4, "hidden_size": 312, "intermediate_size": 1248},
    "12 × 768": {"num_hidden_layers": 12, "hidden_size": 768, "intermediate_size": 3072},
}
ROWS, LENGTH, VOCABULARY, CLASSES = 32, 128, 21128, 5
REPEATS = 100
"""Of the check in a round; one of them is too short for the clock."""


def classifier(shape: dict[str, int]) -> Model:
    bert = build_transformer_model(
        **shape,
        vocab_size=VOCABULARY,
        num_attention_heads=12,
        hidden_act="gelu",
        max_position=512,
        with_pool=True,
    )
    output = keras.layers.Dense(CLASSES, activation="softmax")(bert.output)
    model = Model(bert.inputs, output)
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def batch() -> tuple[list[np.ndarray], np.ndarray]:
    random = np.random.default_rng(0)
    token_ids = random.integers(1, VOCABULARY, (ROWS, LENGTH))
    return [token_ids, np.zeros_like(token_ids)], random.integers(0, CLASSES, ROWS)


def shares(checked: Callable, computed: Callable, rounds: int) -> tuple[float, float, list[float]]:
    """Median times of a check and of what it is for, in seconds, and their ratios."""
    checked(), computed()
    pairs = [(seconds(checked) / REPEATS, seconds(computed)) for _ in range(rounds)]
    check, compute = (statistics.median(times) for times in zip(*pairs, strict=True))
    return check, compute, [a / b for a, b in pairs]


def row(name: str, call: str, measured: tuple[float, float, Sequence[float]]) -> str:
    check, compute, ratios = measured
    share, least, most = statistics.median(ratios), min(ratios), max(ratios)
    return (
        f"| {name} | {call} | {1e6 * check:.0f} µs | {1e3 * compute:.0f} ms | "
        f"{share:.4%} ({least:.4%} to {most:.4%}) |"
    )


BODY = json.dumps({"text": "今天天气不错" * 21 + "很好", "topk": 5, "temperature": 0.7}).encode()
HEADERS = {"Content-Type": "application/json"}


def answer(text: str, topk: int, temperature: float) -> int:
    return topk


ROUTE = (
    "/score",
    answer,
    {"text": (None, True), "topk": (int, True), "temperature": (float, True)},
)


def read(limits) -> None:
    """Read and check the body, as often as a round does."""
    from starlette.requests import Request

    reader, route = RequestReader(limits), make_route(*ROUTE, "POST", None, 0.0)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]
    scope = {"type": "http", "method": "POST", "query_string": b"", "headers": headers}

    async def receive() -> dict:
        return {"type": "http.request", "body": BODY, "more_body": False}

    async def repeat() -> None:
        for _ in range(REPEATS):
            await reader.read(Request(scope, receive), route)

    asyncio.run(repeat())


def parse() -> None:
    for _ in range(REPEATS):
        json.loads(BODY)


def ask(connection: http.client.HTTPConnection) -> None:
    """Send the body to a server and wait for the answer, as often as a round does."""
    for _ in range(REPEATS):
        connection.request("POST", "/score", BODY, HEADERS)
        with connection.getresponse() as response:
            assert response.read(), response.status


def requests(rounds: int) -> None:
    """Print what a request costs, and its parts, in microseconds."""
    server = WebServing(port=0)
    server.route(*ROUTE, "POST")
    thread = threading.Thread(target=server.start)
    thread.start()
    server.wait_until_started(30)
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc)
    parts = {
        "`json.loads` of the body": parse,
        "reading and checking it": lambda: read(server.limits),
        "whole request over HTTP": lambda: ask(connection),
    }
    times = [[1e6 * seconds(part) / REPEATS for part in parts.values()] for _ in range(rounds)]
    connection.close()
    server.stop()
    thread.join()
    print("\n| a request of 128 characters and two numbers | µs |\n| --- | --: |")
    for name, column in zip(parts, zip(*times, strict=True), strict=True):
        print(
            f"| {name} | {statistics.median(column):.0f} ({min(column):.0f} to {max(column):.0f}) |"
        )


def main(rounds: int) -> None:
    print(f"{keras.backend.backend()}, {ROWS} texts of {LENGTH} tokens\n")
    print("| model | call | checks | call alone | share |\n| --- | --- | --: | --: | --: |")
    for name, shape in SHAPES.items():
        model, (x, y) = classifier(shape), batch()

        def check(y: np.ndarray | None, model: Model = model, x: list = x) -> None:
            for _ in range(REPEATS):
                model.rules.check("fit", x, y)

        for call, labels in (("train_on_batch", y), ("predict_on_batch", None)):
            given = (x,) if labels is None else (x, labels)
            compute = getattr(model, call)
            measured = shares(lambda y=labels: check(y), lambda f=compute, g=given: f(*g), rounds)
            print(row(name, call, measured), flush=True)
    requests(rounds)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=30)
    main(arguments.parse_args().rounds)
