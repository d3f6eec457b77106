"""A server of functions that fail in many ways, for `faults_serving.py` and `test_serving.py`.

python tests/support/served.py '{"read_timeout": 1}'       # the arguments of WebServing, as JSON
"""

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from bert4keras.snippets import WebServing


class WithoutText(Exception):
    """Whoever asks for its text ends."""

    def __str__(self) -> str:
        raise SystemExit(9)


class RaisingArray:
    """An answer that raises when an array is made of it."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __array__(self, *args: Any, **options: Any) -> None:
        raise self.error


class RaisingLength(list):
    """Answers of a batch that cannot be counted."""

    def __len__(self) -> int:
        raise SystemExit(8)


def recursive() -> list:
    answer: list = []
    answer.append(answer)
    return answer


ERRORS: dict[str, Callable[[], BaseException]] = {
    "exception": lambda: RuntimeError("the password is secret"),
    "exit": lambda: SystemExit(3),
    "interrupt": KeyboardInterrupt,
    "generator": GeneratorExit,
    "stop": StopIteration,
    "cancelled": asyncio.CancelledError,
    "memory": MemoryError,
    "timeout": TimeoutError,
    "without_text": WithoutText,
    "group": lambda: BaseExceptionGroup("several", [SystemExit(1), ValueError(2)]),
    "surrogate": lambda: ValueError("\ud800"),
}
ANSWERS: dict[str, Callable[[], Any]] = {
    "recursive": recursive,
    "set": lambda: {1},
    "bytes": lambda: b"a",
    "complex": lambda: 1j,
    "half": lambda: "\ud800",
    "digits": lambda: 10**5000,
    "tuple_key": lambda: {(1, 2): 3},
    "object": object,
    "iterator": lambda: iter([1]),
    **{f"array_{name}": lambda make=make: RaisingArray(make()) for name, make in ERRORS.items()},
}


def echo(text, n=1, ratio=None, sure=None, tags=None):
    """</script><img src=x onerror="document.title='x'">"""
    return {"text": text, "n": n, "ratio": ratio, "sure": sure, "tags": tags}


def fail(kind):
    raise ERRORS[kind]()


def convert(kind):
    if kind == "block":
        time.sleep(3600)
    if kind in ERRORS:
        raise ERRORS[kind]()
    return kind


def inverses(n):
    if 13 in n:
        raise SystemExit(13)
    return [1 / each for each in n]


def block(seconds):
    time.sleep(seconds)
    return seconds


def made(options: dict[str, Any]) -> WebServing:
    """The server, not yet started."""
    web = WebServing(port=0, **options)
    arguments = {"text": (None, True), "n": (int, False), "ratio": (float, False)}
    arguments |= {"sure": (bool, False), "tags": (list[str], False)}
    web.route("/echo", echo, arguments)
    web.route("/echo", echo, arguments, "POST")
    web.route("/many", lambda x: len(x), {"x": (list[Any], True)}, "POST")
    web.route("/fail", fail, {"kind": (None, True)})
    web.route("/give", lambda kind: ANSWERS[kind](), {"kind": (None, True)})
    web.route("/convert", lambda kind: kind, {"kind": (convert, True)})
    web.route("/inverses", inverses, {"n": (int, True)}, batch_size=8, max_wait=0.2)
    web.route("/fewer", lambda n: n[1:], {"n": (int, True)}, batch_size=8)
    web.route("/uncounted", lambda n: RaisingLength(n), {"n": (int, True)}, batch_size=8)
    web.route("/thread", lambda: sys.exit(), {})
    web.route("/big", lambda n: "x" * n, {"n": (int, True)})
    web.route("/block", block, {"seconds": (float, True)})
    reverse = {"text": (None, True)}
    web.route("/reverse", lambda text: [t[::-1] for t in text], reverse, "POST", batch_size=16)
    return web


if __name__ == "__main__":
    made(json.loads(sys.argv[1])).start()
    print("returned", threading.active_count(), flush=True)
