"""`WebServing`: real servers on the loopback address, asked over HTTP and in a browser."""

import contextlib
import http.client
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote, urlencode, urlsplit

import faults_serving
import numpy as np
import pytest
from browser import Browser
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from bert4keras.models import build_transformer_model
from bert4keras.serving.limits import Limits
from bert4keras.snippets import WebServing, sequence_padding
from bert4keras.tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "examples/weights/tiny_zh"
JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
TEXT = {"text": (None, True)}


@contextlib.contextmanager
def running(web):
    """The server in a thread of its own, which has to end with the block."""
    thread = threading.Thread(target=web.start)
    thread.start()
    try:
        assert web.wait_until_started(30)
        yield web
    finally:
        web.stop()
        thread.join(60)
        assert not thread.is_alive()


def connect(port):
    return http.client.HTTPConnection("127.0.0.1", port, timeout=60)


def ask(web, path, body=None, headers=None, method=None, connection=None):
    """Status, headers and the decoded JSON of an answer."""
    owned = connection is None
    connection = connection or connect(web.port)
    try:
        method = method or ("GET" if body is None else "POST")
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        content = response.read()
        assert response.headers["Content-Type"] == "application/json"
        answer = json.loads(content, parse_constant=pytest.fail)
        assert set(answer) == {"code", "desc", "data"}
        assert (answer["code"] == 0) == (response.status == 200)
        return response.status, response.headers, answer
    finally:
        if owned:
            connection.close()


def get(web, path, **arguments):
    return ask(web, f"{quote(path)}?{urlencode(arguments)}")


def post(web, path, **arguments):
    return ask(web, quote(path), json.dumps(arguments), JSON)


def echo(text, n=1, ratio=None, sure=None, tags=None, kind=None, level=None):
    """Give back what was sent."""
    return [text, n, ratio, sure, tags, kind, level]


ECHO = {
    "text": (None, True),
    "n": (int, False),
    "ratio": (float, False),
    "sure": (bool, False),
    "tags": (list[str], False),
    "kind": (Literal["a", "b"], False),
    "level": (Annotated[int, Field(ge=1, le=3)], False),
}


def fail(text):
    raise RuntimeError(f"the password is {text}")


@pytest.fixture(scope="module")
def web():
    """Routes for whatever can be sent, and small limits."""
    web = WebServing(port=0, max_body=2000, max_text=100, max_values=500, read_timeout=1)
    web.route("/echo", echo, ECHO)
    web.route("/echo", echo, ECHO, method="POST")
    web.route("/回声/一", echo, {"text": (None, True), "n": (lambda n: int(n, 16), False)})
    web.route("/fail", fail, TEXT)
    web.route("/exit", lambda: sys.exit(3), {})
    with running(web):
        yield web


@pytest.fixture(scope="module")
def connection(web):
    """A connection that stays open."""
    connection = connect(web.port)
    yield connection
    connection.close()


# --- arguments


def test_arguments_get_their_types(web):
    query = {"text": "你好", "n": "2", "ratio": "0.5", "sure": "false", "kind": "b", "level": "3"}
    expected = ["你好", 2, 0.5, False, None, "b", 3]
    succeeded = {"code": 0, "desc": "succeeded", "data": expected}
    assert get(web, "/echo", **query)[2] == succeeded
    assert ask(web, "/echo", urlencode(query), FORM)[2] == succeeded
    typed = {"text": "你好", "n": 2, "ratio": 0.5, "sure": False, "kind": "b", "level": 3}
    assert post(web, "/echo", **typed)[2] == succeeded
    assert post(web, "/echo", text="", tags=["甲", ""])[2]["data"][4] == ["甲", ""]
    # A function as the converter, and what is not sent keeps its default.
    assert get(web, "/回声/一", text="a", n="ff")[2]["data"][:2] == ["a", 255]
    assert get(web, "/回声/一", text="a")[2]["data"][:2] == ["a", 1]


def test_a_form_need_not_be_percent_encoded(web):
    """As sent by `curl -d text=你好`."""
    assert ask(web, "/echo", "text=你好&n=2".encode(), FORM)[2]["data"][:2] == ["你好", 2]


@settings(max_examples=50, deadline=None)
@given(
    text=st.text(max_size=100),
    n=st.integers(-(10**30), 10**30),
    ratio=st.floats(allow_nan=False, allow_infinity=False),
    sure=st.booleans(),
    tags=st.lists(st.text(max_size=20), max_size=5),
)
def test_what_is_sent_comes_back(web, connection, text, n, ratio, sure, tags):
    """Any Unicode text and any number, in each of the three ways to send them."""
    query = urlencode({"text": text, "n": n, "ratio": repr(ratio), "sure": sure})
    body = json.dumps({"text": text, "n": n, "ratio": ratio, "sure": sure, "tags": tags})
    sent = [(f"/echo?{query}", None, None)] if len(query) <= 2000 else []
    sent += [("/echo", query, FORM)] if len(query) <= 2000 else []
    sent += [("/echo", body, JSON)] if len(body) <= 2000 else []
    for path, content, headers in sent:
        status, _, answer = ask(web, path, content, headers, connection=connection)
        assert status == 200
        assert answer["data"][:4] == [text, n, ratio, sure]
        assert answer["data"][4] == (tags if headers is JSON else None)


@settings(max_examples=50, deadline=None)
@given(body=st.binary(max_size=200) | st.text(max_size=100).map(str.encode), json_=st.booleans())
def test_whatever_is_sent_is_answered_in_order(web, connection, body, json_):
    status, _, _ = ask(
        web, "/echo", body, JSON if json_ else FORM, method="POST", connection=connection
    )
    assert status in (200, 400, 422)


@pytest.mark.parametrize(
    ("query", "status", "code", "description"),
    [
        ("", 422, 1, 'argument "text" is missing'),
        ("n=1", 422, 1, 'argument "text" is missing'),
        ("text=a&m=1", 422, 422, 'unknown argument "m"; the arguments are: text, n, ratio'),
        ("text=a&text=a", 422, 422, 'argument "text" was sent more than once'),
        ("text=a&n=x", 422, 422, 'argument "n": Input should be a valid integer'),
        ("text=a&n=", 422, 422, 'argument "n": Input should be a valid integer'),
        ("text=a&n=1.5", 422, 422, 'argument "n"'),
        ("text=a&sure=maybe", 422, 422, 'argument "sure"'),
        ("text=a&kind=c", 422, 422, "argument \"kind\": Input should be 'a' or 'b'"),
        ("text=a&level=4", 422, 422, "less than or equal to 3"),
        ("text=a&tags=b", 422, 422, 'argument "tags"'),
        ("text=%FF", 400, 400, "UTF-8"),
        ("&".join(f"a{n}=" for n in range(300)), 422, 422, "unknown argument"),
        ("text=a" + "&" * 1000, 422, 422, "more than 1000 arguments"),
        ("text=a&ratio=nan", 422, 422, 'argument "ratio": it must be a finite number'),
        ("text=a&ratio=1e999", 422, 422, 'argument "ratio": it must be a finite number'),
        (f"text={'a' * 101}", 422, 422, 'argument "text" has 101 characters, at most 100'),
        (f"text={'a' * 2000}", 414, 414, "more than 2000 bytes"),
    ],
)
def test_arguments_in_the_address_that_are_refused(web, query, status, code, description):
    found, _, answer = ask(web, f"/echo?{query}")
    assert (found, answer["code"], answer["data"]) == (status, code, {})
    assert description in answer["desc"]


@pytest.mark.parametrize(
    ("body", "status", "description"),
    [
        ("{", 400, "not JSON"),
        ("", 400, "not JSON"),
        (b'{"text": "\xff"}', 400, "position 10: invalid start byte"),
        ('{"text": "\\ud800"}', 400, "surrogates not allowed"),
        ('{"text": "a", "ratio": NaN}', 400, "NaN is not a finite number"),
        ("[" * 400, 422, "more than 100 deep"),
        ('{"text": ' + "[" * 400 + "]" * 400 + "}", 422, "more than 100 deep"),
        ('{"text": ' + "[" * 90 + "]" * 90 + "}", 422, 'argument "text"'),
        (f'{{"tags": [{"0," * 600}0]}}', 413, "more than 500 values"),
        ('{"text": "a", "ratio": -1e999}', 400, "-1e999 is not a finite number"),
        ("[1]", 422, "must be an object"),
        ('{"text": "a", "text": "a"}', 422, "more than once"),
        ('{"text": 1}', 422, "Input should be a valid string; 1 was sent"),
        ('{"text": null}', 422, "Input should be a valid string"),
        ('{"text": "a", "n": "1"}', 422, 'argument "n"'),
        ('{"text": "a", "n": true}', 422, 'argument "n"'),
        ('{"text": "a", "n": 1.5}', 422, 'argument "n"'),
        ('{"text": "a", "tags": [1]}', 422, 'argument "tags"'),
        ('{"text": "a", "tags": ["' + "b" * 101 + '"]}', 422, "101 characters"),
        ('{"text": "a", "other": 1}', 422, 'unknown argument "other"'),
        ("{}", 422, 'argument "text" is missing'),
    ],
)
def test_bodies_that_are_refused(web, body, status, description):
    found, _, answer = ask(web, "/echo", body, JSON, method="POST")
    assert found == status
    assert description in answer["desc"]


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Content-Type": "text/plain"}, "text=a"),
        ({"Content-Type": "multipart/form-data; boundary=b"}, "--b--"),
        ({"Content-Type": "application/json; charset=gbk"}, '{"text": "a"}'),
        ({}, "text=a"),
    ],
)
def test_other_types_of_bodies_are_refused(web, headers, body):
    status, _, answer = ask(web, "/echo", body, headers)
    assert (status, answer["code"]) == (415, 415)


def test_utf_8_may_be_named(web):
    headers = {"Content-Type": 'Application/JSON; charset="UTF-8"'}
    assert ask(web, "/echo", '{"text": "好"}'.encode(), headers)[0] == 200


def test_a_post_request_takes_nothing_from_the_address(web):
    status, _, answer = ask(web, "/echo?n=2", "text=a", FORM)
    assert status == 422
    assert "not after a ?" in answer["desc"]


def test_other_paths_and_methods(web):
    for path in ("/none", "/echo/", "/Echo", "/docs", "/%FF", "//"):
        assert ask(web, path)[0] == 404
    status, headers, answer = ask(web, "/echo", method="DELETE")
    assert (status, headers["Allow"], answer["code"]) == (405, "GET, POST", 405)
    status, headers, _ = ask(web, quote("/回声/一"), method="POST")
    assert (status, headers["Allow"]) == (405, "GET")


# --- limits


def raw(web, *parts):
    """Send bytes as they are, with what may happen between, and give all that comes back."""
    with socket.create_connection(("127.0.0.1", web.port), timeout=20) as connection:
        for part in parts:
            connection.sendall(part)
        received = b""
        while not received.endswith(b"}"):
            more = connection.recv(1 << 16)
            if not more:
                break
            received += more
    return received


HEAD = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def test_bodies_up_to_the_limit(web):
    body = '{"text": "a"}'
    assert ask(web, "/echo", body.ljust(2000), JSON)[0] == 200
    for size in (2001, 30_000, 5_000_000):
        status, _, answer = ask(web, "/echo", body.ljust(size), JSON)
        assert (status, answer["code"]) == (413, 413)
    # One that sends everything before it looks for an answer, and leaves then.
    closing = {**JSON, "Connection": "close"}
    assert ask(web, "/echo", body.ljust(30_000), closing)[0] == 413


def test_bodies_of_unknown_length(web):
    chunk = b"3e8\r\n" + b" " * 1000 + b"\r\n"
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    whole = b'd\r\n{"text": "a"}\r\n'
    assert b" 200 OK" in raw(web, chunked, chunk, whole, b"0\r\n\r\n")
    assert b" 413 " in raw(web, chunked, chunk, chunk, whole, b"0\r\n\r\n")


def test_an_address_without_end_is_not_read(web):
    assert raw(web, b"GET /echo?text=" + b"a" * 68_000).startswith(b"HTTP/1.1 431 ")


def test_a_body_that_is_announced_as_too_long_is_not_read(web):
    answer = raw(web, HEAD + b"Content-Length: 9999999\r\nExpect: 100-continue\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_a_body_that_does_not_arrive(web):
    started = time.monotonic()
    answer = raw(web, HEAD + b'Content-Length: 20\r\n\r\n{"text"')
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert 0.9 < time.monotonic() - started < 10


def test_the_number_of_waiting_requests():
    entered, release = threading.Event(), threading.Event()

    def blocked(n):
        entered.set()
        release.wait(60)
        return n

    web = WebServing(port=0, max_waiting=3)
    web.route("/blocked", blocked, {"n": (int, True)})
    with running(web), ThreadPoolExecutor(5) as pool:
        first = pool.submit(get, web, "/blocked", n=0)
        assert entered.wait(30)
        others = {pool.submit(get, web, "/blocked", n=n): n for n in range(1, 5)}
        # Whichever comes last is refused at once; none of the others is answered yet.
        refused = next(as_completed(others, 60))
        status, headers, answer = refused.result()
        assert (status, headers["Retry-After"], answer["code"]) == (503, "1", 503)
        del others[refused]
        release.set()
        for accepted, n in {first: 0, **others}.items():
            assert accepted.result()[2]["data"] == n
        assert get(web, "/blocked", n=5)[0] == 200


def let_it_notice(web):
    """Ask for something else, so that the server has seen to what came before."""
    for _ in range(5):
        assert ask(web, "/none")[0] == 404


def test_a_client_that_goes_is_not_worked_for():
    entered, release, seen = threading.Event(), threading.Event(), []

    def blocked(n):
        seen.append(n)
        entered.set()
        release.wait(60)
        return n

    web = WebServing(port=0)
    web.route("/blocked", blocked, {"n": (int, True)})
    with running(web), ThreadPoolExecutor(1) as pool:
        first = pool.submit(get, web, "/blocked", n=0)
        assert entered.wait(30)
        leaving = connect(web.port)
        leaving.request("GET", "/blocked?n=1")
        let_it_notice(web)
        leaving.close()
        let_it_notice(web)
        release.set()
        assert first.result()[0] == 200
        assert get(web, "/blocked", n=2)[0] == 200
    assert seen == [0, 2]


# --- connections


def idle(web, address):
    """A connection from an address of this machine, over which nothing is sent."""
    return socket.create_connection(("127.0.0.1", web.port), 20, source_address=(address, 0))


def is_open(connection):
    """Whether a request is answered over a connection."""
    connection.sendall(b"GET /none HTTP/1.1\r\nHost: localhost\r\n\r\n")
    try:
        return connection.recv(1 << 16).startswith(b"HTTP/1.1 404 ")
    except OSError:
        return False


@pytest.mark.skipif(sys.platform == "darwin", reason="there is one loopback address")
def test_connections_make_room_for_new_ones_of_the_address_that_has_most():
    web = WebServing(port=0, max_connections=8)
    with running(web), contextlib.ExitStack() as stack:
        first = stack.enter_context(idle(web, "127.0.0.1"))
        crowd = [stack.enter_context(idle(web, "127.0.0.2")) for _ in range(7)]
        newer = [stack.enter_context(idle(web, "127.0.0.2")) for _ in range(4)]
        assert all(map(is_open, [first, *newer]))
        assert sum(map(is_open, crowd)) <= 3


def test_connections_without_a_place_are_told_so():
    entered, release = threading.Event(), threading.Event()

    def blocked():
        entered.set()
        release.wait(60)

    web = WebServing(port=0, max_connections=2)
    web.route("/blocked", blocked, {})
    with running(web), ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(ask, web, "/blocked")]
        assert entered.wait(30)
        waiting.append(pool.submit(ask, web, "/blocked"))
        while len(web._server.pool.connections) < 2:
            time.sleep(0.01)
        # Nothing is sent before the answer comes, which would be lost with the connection.
        answer = raw(web, b"G")
        assert answer.startswith(b"HTTP/1.1 503 ") and b"Retry-After: 1" in answer.title()
        release.set()
        assert [each.result()[0] for each in waiting] == [200, 200]
        assert ask(web, "/none")[0] == 404


def test_nothing_is_held_once_all_is_answered_or_given_up():
    web = WebServing(port=0, read_timeout=0.4, idle_timeout=0.4, write_timeout=0.4)
    web.route("/big", lambda n: "x" * n, {"n": (int, True)})
    web.route("/echo", echo, ECHO, "POST")
    with running(web), contextlib.ExitStack() as stack:
        pool = web._server.pool
        assert ask(web, "/big?n=3000000")[0] == 200
        for sent in (
            b"",
            HEAD,
            HEAD + b"Content-Length: 20\r\n\r\n{",
            b"\0\r\n\r\n",
            *[b"GET /big?n=9000000 HTTP/1.1\r\nHost: localhost\r\n\r\n"] * 2,
        ):
            stack.enter_context(idle(web, "127.0.0.1")).sendall(sent)
        until = time.monotonic() + 20
        while pool.connections:
            assert time.monotonic() < until
            time.sleep(0.05)
        assert pool.buffered == 0


def test_no_answer_waits_for_an_acknowledgement():
    """Each request on a connection that was used before took 44 ms instead of 1."""
    web = WebServing(port=0, idle_timeout=30)
    web.route("/echo", echo, ECHO, "POST")
    with running(web), idle(web, "127.0.0.1") as client:
        client.sendall(b"G")
        until = time.monotonic() + 20
        while not web._server.pool.connections:
            assert time.monotonic() < until
            time.sleep(0.01)
        (connection,) = web._server.pool.connections
        kept = connection.transport.get_extra_info("socket")
        assert kept.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_what_is_held_is_bounded(monkeypatch):
    monkeypatch.setattr(Limits, "memory", 1_000_000)
    web = WebServing(port=0)
    web.route("/echo", echo, ECHO, "POST")
    part = HEAD + b"Content-Length: 900000\r\n\r\n" + b" " * 400_000
    with running(web), contextlib.ExitStack() as stack:
        pool = web._server.pool
        for _ in range(2):
            stack.enter_context(idle(web, "127.0.0.1")).sendall(part)
        while pool.buffered < 800_000:
            time.sleep(0.01)
        # Small requests are taken all the same; large ones once the others have had their time.
        assert post(web, "/echo", text="a")[0] == 200
        assert raw(web, part).startswith(b"HTTP/1.1 503 ")
        let_it_notice(web)
        assert pool.buffered <= 1_000_000
        time.sleep(1.2)
        assert ask(web, "/echo", '{"text": "a"}'.ljust(900_000), JSON)[0] == 200


# --- answers


@contextlib.contextmanager
def serving(func, arguments=None, **options):
    """A server of one function, at `/it`."""
    web = WebServing(port=0)
    web.route("/it", func, arguments or {}, **options)
    with running(web):
        yield web


ANSWERS = {
    "numbers": ([1, 2.5, None, True], [1, 2.5, None, True]),
    "no numbers": ({"a": math.nan, "b": [-math.inf]}, {"a": None, "b": [None]}),
    "numpy": (
        {np.int64(1): np.float32(0.5), "x": np.bool_(True), "n": np.float64("nan")},
        {"1": 0.5, "x": True, "n": None},
    ),
    "arrays": (np.array([[1, np.nan], [np.inf, 2]], "float16"), [[1, None], [None, 2]]),
    "tuples": ((1, ("a", np.arange(2))), [1, ["a", [0, 1]]]),
    "texts": ("</script>\u2028\0\U0001f600", "</script>\u2028\0\U0001f600"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_answers_are_json(name):
    answer, expected = ANSWERS[name]
    with serving(lambda: answer) as web:
        status, _, found = ask(web, "/it")
    assert (status, found["data"]) == (200, expected)


@pytest.mark.backend
def test_tensors_are_answers():
    import keras

    with serving(lambda: {"x": keras.ops.arange(3)}) as web:
        assert ask(web, "/it")[2]["data"] == {"x": [0, 1, 2]}


@pytest.mark.parametrize("answer", [{1}, b"a", "\ud800", 1j], ids=repr)
def test_answers_that_json_cannot_hold(answer, caplog):
    with serving(lambda: answer) as web:
        status, _, found = ask(web, "/it")
    assert (status, found["code"]) == (500, 2)
    assert "the function of /it failed" in caplog.text


def test_a_function_that_fails_tells_the_log_only(web, caplog):
    status, _, answer = get(web, "/fail", text="secret")
    assert (status, answer["code"]) == (500, 2)
    assert "secret" not in answer["desc"] and "/fail" in answer["desc"]
    assert "RuntimeError: the password is secret" in caplog.text
    # Even this one ends nothing.
    assert ask(web, "/exit")[0] == 500
    assert get(web, "/echo", text="a")[0] == 200


# --- batches


def together(web, n, path="/it"):
    """Ask n times at once, for the numbers below n, and give status and data."""
    with ThreadPoolExecutor(n) as pool:
        answers = list(pool.map(lambda i: get(web, path, n=i), range(n)))
    return [(status, answer["data"]) for status, _, answer in answers]


def test_requests_are_answered_together_and_none_fails_because_of_another(caplog):
    batches = []

    def inverse(n):
        batches.append(n)
        return [1 / each for each in n]

    arguments = {"n": (int, True)}
    with serving(inverse, arguments, batch_size=4, max_wait=5) as web:
        assert together(web, 4) == [(500, {}), (200, 1), (200, 0.5), (200, 1 / 3)]
    assert sorted(batches[0]) == [0, 1, 2, 3]
    assert sorted(batches[1:]) == [[0], [1], [2], [3]]
    assert caplog.text.count("ZeroDivisionError") == 1


def test_a_batch_is_no_larger_than_asked_for_and_does_not_wait_once_full():
    sizes = []

    def same(n):
        sizes.append(len(n))
        return np.array(n)

    started = time.monotonic()
    with serving(same, {"n": (int, True)}, batch_size=3, max_wait=20) as web:
        assert together(web, 9) == [(200, i) for i in range(9)]
    assert sizes == [3, 3, 3]
    assert time.monotonic() - started < 15


def test_only_requests_with_the_same_arguments_are_put_together():
    calls = []

    def add(n, m=None):
        calls.append((n, m))
        return [a + b for a, b in zip(n, m or [0] * len(n), strict=True)]

    with (
        serving(add, {"n": (int, True), "m": (int, False)}, batch_size=4, max_wait=1) as web,
        ThreadPoolExecutor(4) as pool,
    ):
        sent = [{"n": 1}, {"n": 2, "m": 10}, {"n": 3}, {"n": 4, "m": 20}]
        answers = list(pool.map(lambda arguments: get(web, "/it", **arguments), sent))
    assert [answer["data"] for _, _, answer in answers] == [1, 12, 3, 24]
    assert sorted(len(n) for n, _ in calls) == [2, 2]


@pytest.mark.parametrize("answers", [[], [1, 2], "a", {"n": 1}, None, 3], ids=repr)
def test_a_batch_needs_an_answer_for_each_request(answers, caplog):
    with serving(lambda n: answers, {"n": (int, True)}, batch_size=4) as web:
        assert get(web, "/it", n=1)[0] == 500
    assert "returned for a batch of 1 requests: return a list" in caplog.text


def ask_many(web, path, sent, check, clients=64):
    """Have many clients send requests over connections that stay open; each answer is checked."""
    queue, failures = iter(sent), []
    lock = threading.Lock()

    def client():
        connection = connect(web.port)
        while True:
            with lock:
                each = next(queue, None)
            if each is None:
                break
            body = json.dumps({"text": each})
            status, _, answer = ask(web, path, body, JSON, connection=connection)
            if status != 200 or not check(each, answer["data"]):
                failures.append((each, status, answer))
        connection.close()

    with ThreadPoolExecutor(clients) as pool:
        for done in [pool.submit(client) for _ in range(clients)]:
            done.result()
    return failures


@pytest.mark.backend
def test_64_clients_and_2000_requests_for_a_model():
    """None fails and none gets the answer of another; most go through the model together."""
    tokenizer = Tokenizer(TINY / "vocab.txt", do_lower_case=True)
    model = build_transformer_model(TINY)
    size, sizes = 32, []

    def vectors(texts):
        token_ids = sequence_padding([tokenizer.encode(text)[0] for text in texts], length=16)
        # As many rows each time, so that there is one shape.
        token_ids = np.resize(token_ids, (size, 16))
        found = model.predict_on_batch([token_ids, np.zeros_like(token_ids)])
        return np.asarray(found)[: len(texts), 0, :8]

    def served(text):
        sizes.append(len(text))
        return vectors(text)

    texts = [f"第{n}号 {chr(0x4E00 + n)}{chr(0x4E00 + 7 * n)}" for n in range(2000)]
    parts = (texts[i : i + size] for i in range(0, len(texts), size))
    expected = dict(zip(texts, np.concatenate([vectors(part) for part in parts]), strict=True))

    def check(text, vector):
        return np.allclose(vector, expected[text], atol=1e-5)

    # The texts have to differ by more than that, or else a wrong answer could pass.
    rows = np.array(list(expected.values()))
    apart = [np.abs(rows - row).max(axis=1) for row in rows]
    assert min(np.partition(distances, 1)[1] for distances in apart) > 2e-5

    web = WebServing(port=0)
    web.route("/vector", served, TEXT, method="POST", batch_size=size)
    with running(web):
        assert ask_many(web, "/vector", texts, check) == []
    assert sum(sizes) == 2000
    assert 1 < max(sizes) <= size
    assert len(sizes) < 1000


def test_64_clients_mixed_with_requests_that_are_refused():
    """Exact answers, while every third request is refused for one reason or another."""
    web = WebServing(port=0, max_text=50)
    web.route("/upper", lambda text: [t.upper() for t in text], TEXT, "POST", batch_size=16)
    web.route("/one", lambda text: text[::-1], TEXT, "POST")
    with running(web):

        def client(number):
            connection = connect(web.port)
            right = 0
            for i in range(number, 400, 64):
                text = f"abc {i} 中"
                bodies = [{"text": text}, {"text": text, "x": 1}, {"text": text * 20}, {}]
                path = "/upper" if i % 2 else "/one"
                for body, status in zip(bodies, (200, 422, 422, 422), strict=True):
                    if status != 200 and i % 3:
                        continue
                    found, _, answer = ask(web, path, json.dumps(body), JSON, None, connection)
                    assert found == status, answer
                    if status == 200:
                        assert answer["data"] == (text.upper() if i % 2 else text[::-1])
                        right += 1
            connection.close()
            return right

        with ThreadPoolExecutor(64) as pool:
            assert sum(pool.map(client, range(64))) == 400


# --- start and stop


SCRIPT = """
import sys, threading, time
from bert4keras.snippets import WebServing

def slow(n):
    print("entered", flush=True)
    time.sleep(float(sys.argv[1]))
    return n

web = WebServing(port=0)
web.route("/slow", slow, {"n": (int, True)})
web.start()
print("returned", threading.active_count(), flush=True)
"""


@contextlib.contextmanager
def process(*argv):
    """A server in a process, and the port that it prints."""
    started = subprocess.Popen(
        [sys.executable, "-W", "error", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    try:
        line = started.stdout.readline()
        assert line.startswith("http://127.0.0.1:"), (line, started.stderr.read())
        started.port = urlsplit(line.split()[0]).port
        yield started
    finally:
        started.kill()
        started.communicate()


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_what_was_accepted_finish(sent):
    with process("-c", SCRIPT, "0.2") as server, ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(get, server, "/slow", n=n) for n in range(8)]
        assert server.stdout.readline() == "entered\n"
        time.sleep(0.3)  # the other seven wait
        server.send_signal(sent)
        time.sleep(0.3)
        with pytest.raises(ConnectionRefusedError):
            connect(server.port).connect()
        assert sorted(answer.result()[2]["data"] for answer in answers) == list(range(8))
        output, errors = server.communicate(timeout=30)
        assert output.splitlines()[-1] == "returned 1"
        assert (server.returncode, errors) == (0, "")
        socket.create_server(("127.0.0.1", server.port)).close()


def test_a_second_interrupt_does_not_wait():
    with process("-c", SCRIPT, "30") as server, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(get, server, "/slow", n=1)
        assert server.stdout.readline() == "entered\n"
        for _ in range(2):
            server.send_signal(signal.SIGINT)
            time.sleep(0.5)
        server.communicate(timeout=10)
        assert server.returncode == 0
        assert asked.result()[0] == 503


def test_what_takes_longer_than_the_time_to_stop_is_given_up(caplog):
    entered, release = threading.Event(), threading.Event()

    def blocked():
        entered.set()
        release.wait(60)

    web = WebServing(port=0, stop_timeout=1)
    web.route("/blocked", blocked, {})
    with ThreadPoolExecutor(1) as pool:
        with running(web):
            asked = pool.submit(ask, web, "/blocked")
            assert entered.wait(30)
            started = time.monotonic()
        assert time.monotonic() - started < 20
        assert asked.result()[0] == 503
    release.set()
    assert "Traceback" not in caplog.text


def test_a_server_starts_again():
    web = WebServing(port=0)
    web.stop()  # nothing to stop yet
    assert not web.wait_until_started(0)
    web.route("/echo", echo, ECHO)
    for _ in range(2):
        with running(web):
            assert get(web, "/echo", text="a")[0] == 200
            with pytest.raises(RuntimeError, match="already running"):
                web.start()
            with pytest.raises(RuntimeError, match="already running"):
                web.route("/other", echo, ECHO)
    assert not web.wait_until_started(0)


def test_a_port_that_is_taken(web):
    with pytest.raises(OSError, match=f"port {web.port} of '127.0.0.1'.*choose another"):
        WebServing(port=web.port).start()
    with pytest.raises(ValueError, match="port is 99999: give 1 to 65535"):
        WebServing(port=99999)


# --- who may ask


def test_only_the_loopback_address_is_bound_to(web):
    assert WebServing().host == "127.0.0.1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing, finds the address of this machine
        except OSError:
            pytest.skip("this machine has no other address")
        address = probe.getsockname()[0]
    with pytest.raises(OSError):
        socket.create_connection((address, web.port), timeout=2)


def test_other_names_of_the_host_are_refused(web):
    """A page on the web whose name resolves to this machine reads nothing."""
    for host in ("localhost", "127.0.0.1:1234", "[::1]:80", "LOCALHOST:80"):
        assert ask(web, "/echo?text=a", headers={"Host": host})[0] == 200
    for host in ("example.com", "127.0.0.1.example.com", "[::1", "192.168.0.1", "a:b"):
        status, _, answer = ask(web, "/echo?text=a", headers={"Host": host})
        assert (status, answer["code"]) == (421, 421)
    proxied = WebServing(port=0, allowed_hosts=["Example.com"])
    everywhere = WebServing("0.0.0.0", port=0)
    for server in (proxied, everywhere):
        server.route("/echo", echo, ECHO)
        with running(server):
            status = ask(server, "/echo?text=a", headers={"Host": "example.com:80"})[0]
            assert status == 200


def test_other_sites_read_answers_only_if_allowed(web):
    asked = {"Origin": "https://example.com"}
    status, headers, answer = ask(web, "/echo?text=a", headers=asked)
    assert status == 403 and "its origin is https://example.com" in answer["desc"]
    assert "Access-Control-Allow-Origin" not in headers
    shared = WebServing(port=0, allow_origins=["https://example.com"])
    shared.route("/echo", echo, ECHO, "POST")
    with running(shared):
        headers = ask(shared, "/echo", "text=a", FORM | asked)[1]
        assert headers["Access-Control-Allow-Origin"] == "https://example.com"
        other = FORM | {"Origin": "https://example.org"}
        assert ask(shared, "/echo", "text=a", other)[0] == 403
        connection = connect(shared.port)
        preflight = asked | {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "Content-Type",
        }
        connection.request("OPTIONS", "/echo", headers=preflight)
        assert connection.getresponse().status == 200
        connection.close()


# --- routes that cannot be


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": "/"}, "the page to try"),
        ({"path": "/openapi.json"}, "their description"),
        ({"path": "it"}, "give a path such as"),
        ({"path": "//it"}, "give a path such as"),
        ({"path": "/{it}"}, "give a path such as"),
        ({"path": "/a b"}, "give a path such as"),
        ({"method": "PUT"}, "method is 'PUT'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"arguments": {"text": None}}, r"argument 'text' is \(None,\): give \(converter"),
        ({"arguments": {"text": (None, "yes")}}, "give \\(converter, required\\)"),
        ({"arguments": {"text": ("int", True)}}, "the converter of 'text' is 'int'"),
        ({"arguments": {"a b": (None, True)}}, "'a b' is not a valid name"),
        ({"arguments": {"text": (None, True), "m": (int, False)}}, r"'m'"),
        ({"arguments": {"text": (None, False)}}, "missing a required argument: 'text'"),
        ({"arguments": {}}, "missing a required argument: 'text'"),
    ],
)
def test_routes_that_cannot_be_served(change, message):
    options = {"path": "/it", "func": echo, "arguments": TEXT} | change
    with pytest.raises(ValueError, match=message):
        WebServing().route(**options)


def test_a_path_has_one_function_for_a_method():
    web = WebServing()
    web.route("/it", echo, TEXT)
    web.route("/it", echo, TEXT, "post")
    with pytest.raises(ValueError, match="it already has a function for POST"):
        web.route("/it", echo, TEXT, "POST")


def test_limits_that_let_nothing_through():
    with pytest.raises(ValueError, match=r"\{'max_text': 0\} would allow no requests"):
        WebServing(max_text=0)


def test_calls_of_old_scripts():
    """As scripts for 0.11.5 have them, with a server of bottle."""
    web = WebServing("127.0.0.1", 0, "paste")
    web.route(
        "/gen_synonyms", lambda text, n=100: [text] * n, {"text": (None, True), "n": (int, False)}
    )
    web.route(path="/keep", func=fail, arguments={"text": [None, 1]}, method="GET")
    with running(web):
        answer = get(web, "/gen_synonyms", text="你好", n=2)[2]
    assert answer == {"code": 0, "desc": "succeeded", "data": ["你好", "你好"]}


def test_an_import_needs_nothing_of_it():
    code = """
import sys
for name in ("fastapi", "uvicorn", "pydantic"):
    sys.modules[name] = None  # as if it were not installed
from bert4keras.snippets import WebServing
try:
    WebServing()
except ImportError as error:
    print(error)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "needs fastapi and uvicorn: run pip install fastapi uvicorn" in result.stdout


def test_the_interface_is_described(web):
    connection = connect(web.port)
    connection.request("GET", "/openapi.json")
    described = json.loads(connection.getresponse().read())
    connection.close()
    assert set(described["paths"]) == {"/echo", "/回声/一", "/fail", "/exit"}
    parameters = {p["name"]: p for p in described["paths"]["/echo"]["get"]["parameters"]}
    assert set(parameters) == set(ECHO)
    assert parameters["text"]["required"] and not parameters["n"]["required"]
    assert parameters["level"]["schema"] == {"type": "integer", "minimum": 1, "maximum": 3}
    content = described["paths"]["/echo"]["post"]["requestBody"]["content"]
    assert content["application/json"]["schema"]["required"] == ["text"]


# --- the page


def test_the_page_tries_every_route(tmp_path):
    def repeat(text, n=1):
        """</script><b>Repeat</b><img src=x onerror="document.title='x'"> a text."""
        return {"text": text * n, "n": n}

    def count(texts, note=None):
        return [[len(each) for each in some] for some in texts]

    web = WebServing(port=0)
    web.route("/重复", repeat, {"text": (None, True), "n": (int, False)})
    web.route("/repeat", repeat, {"text": (None, True), "n": (int, False)}, method="POST")
    arguments = {"texts": (list[str], True), "note": (None, False)}
    web.route("/count", count, arguments, method="POST", batch_size=4)
    hostile = """<img src=x onerror="document.title='x'">'$(id)'\\n`&a=b"""
    with running(web), Browser(tmp_path, web.url) as page:
        title = page.evaluate("document.title")
        assert "试用" in title and "Try" in title
        headings = 'Array.from(document.querySelectorAll("h2"), each => each.textContent)'
        assert page.evaluate(headings) == ["GET /重复", "POST /repeat", "POST /count"]
        assert "</script><b>Repeat</b><img src" in page.evaluate("document.body.innerText")

        def attempt(number, **values):
            """Fill in a form and send it; the line of its state, the answer and the command."""
            form = f"document.forms[{number}]"
            page.evaluate(f"{form}.querySelector('output').replaceChildren()")
            for name, value in values.items():
                page.evaluate(f"{form}.elements[{json.dumps(name)}].value = {json.dumps(value)}")
            page.evaluate(f"{form}.querySelector('button').click()")
            page.wait_for(
                f"/^[0-9]+ · |Error/.test({form}.querySelector('output span')?.textContent)"
            )
            parts = "span", ".answer", ".curl"
            shown = f"{form}.querySelector('output {{}}')?.textContent"
            return [page.evaluate(shown.format(part)) for part in parts]

        def run(command):
            return json.loads(
                subprocess.run(
                    ["bash", "-c", command.replace("curl ", "curl -s ", 1)],
                    capture_output=True,
                    check=True,
                ).stdout
            )

        for number in (0, 1):
            state, answer, command = attempt(number, text=hostile, n="2")
            expected = {
                "code": 0,
                "desc": "succeeded",
                "data": {"text": hostile * 2, "n": 2},
            }
            assert state.startswith("200 · ") and state.endswith(" ms")
            assert json.loads(answer) == expected
            if shutil.which("curl"):
                assert run(command) == expected
            # What is not required and empty is not sent.
            assert json.loads(attempt(number, text="一\n二", n="")[1])["data"]["n"] == 1
            assert json.loads(attempt(number, text="", n="")[1])["data"]["text"] == ""
        assert json.loads(attempt(2, texts='["一二", ""]')[1])["data"] == [2, 0]
        state, answer, _ = attempt(2, texts="一二")
        assert "SyntaxError" in state and answer is None
        assert page.problems == []
        state, answer, _ = attempt(0, text="a", n="b")
        assert state.startswith("422 · ")
        assert 'argument "n"' in json.loads(answer)["desc"]
        # The browser notes the status itself; nothing else is wrong.
        assert ["422" in problem["entry"]["text"] for problem in page.problems] == [True]
        assert page.evaluate("document.title") == title
        assert page.evaluate("document.images.length") == 0
        loaded = 'performance.getEntriesByType("resource").every(e => e.initiatorType === "fetch")'
        assert page.evaluate(loaded)


def test_the_page_holds_its_routes_safely_and_loads_nothing():
    def described():
        """</script><script>document.title = "x"</script><!-- ROUTES"""

    web = WebServing(port=0)
    web.route("/it", described, {})
    with running(web):
        connection = connect(web.port)
        connection.request("GET", "/")
        response = connection.getresponse()
        page = response.read().decode("utf-8")
        connection.close()
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert "unsafe" not in response.headers["Content-Security-Policy"]
    assert page.count("</script>") == 2 and "<!--" not in page
    assert "http:" not in page and "https:" not in page


def test_pages_of_other_sites_make_nothing_run(tmp_path):
    """Forms, pictures and scripts of a page from elsewhere, in a browser."""
    seen = []
    web = WebServing(port=0)
    for method in ("GET", "POST"):
        web.route("/it", lambda text: seen.append(text) or text, TEXT, method)
    with running(web):
        target = f"{web.url}it"
        foreign = f"""
            <form method=post action="{target}" target=a><input name=text value=1></form>
            <form method=get action="{target}" target=b><input name=text value=2></form>
            <iframe name=a></iframe><iframe name=b></iframe>
            <img src="{target}?text=3"><script src="{target}?text=4"></script>
            <script>
            for (const form of document.forms) form.submit();
            const body = new URLSearchParams("text=5");
            const asked = fetch("{target}", {{method: "POST", mode: "no-cors", body}});
            Promise.allSettled([asked, fetch("{target}?text=6")])
                .then(() => {{ document.title = "done"; }});
            </script>"""

        class Foreign(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                self.wfile.write(foreign.encode())

            def log_message(self, *args):
                pass

        other = HTTPServer(("127.0.0.1", 0), Foreign)
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        try:
            with Browser(tmp_path, f"http://127.0.0.1:{other.server_port}/") as page:
                page.wait_for("document.title === 'done'")
                # Once a form has been answered, its frame belongs to the other site.
                frames = "Array.from(document.querySelectorAll('iframe'))"
                page.wait_for(f"{frames}.every(each => each.contentDocument === null)")
                page.call("Page.navigate", url=f"{target}?text=7")
                page.wait_for("document.readyState === 'complete' && location.pathname === '/it'")
                page.wait_for("document.body.innerText.includes('succeeded')")
        finally:
            other.shutdown()
            other.server_close()
            thread.join()
    assert seen == ["7"]


# --- attacks


@pytest.fixture(scope="module")
def target():
    """A server in a process of its own."""
    with faults_serving.Target() as target:
        yield target


@pytest.mark.parametrize("section", faults_serving.QUICK, ids=lambda section: section.__name__)
def test_an_attack_is_answered_as_documented(target, section):
    fell = [attempt for attempt in section(target) if not attempt.held]
    assert fell == []
    assert target.ask("/echo?text=a") == 200
    assert b"Exception in ASGI" not in target.errors.getvalue()


# --- the example


@pytest.mark.long
def test_the_example_answers(tmp_path):
    sentences = ["今天天气很好", "怎么申请退款？", "房间很干净"]
    (tmp_path / "sentences.txt").write_text("\n".join(sentences) + "\n", encoding="utf-8")
    script = str(ROOT / "experiments/basic_simple_web_serving_simbert.py")
    options = ("--port", "0", "--sentences", str(tmp_path / "sentences.txt"))
    with process(script, *options) as server:
        assert post(server, "/similarity", a="房间很干净", b="房间很干净")[2][
            "data"
        ] == pytest.approx(1)
        pairs = [("房间很干净", "房间干净"), ("房间很干净", "什么时候发货")]
        near, far = (post(server, "/similarity", a=a, b=b)[2]["data"] for a, b in pairs)
        assert -1 <= far < near < 1
        found = get(server, "/search", text="如何申请退款", n=2)[2]["data"]
        assert found[0]["text"] == sentences[1] and len(found) == 2
        assert found[0]["similarity"] > found[1]["similarity"]
        # Asked for together, over texts of unequal length, they are what they are alone.
        with ThreadPoolExecutor(8) as pool:
            asked = [sentences[0][:k] for k in range(1, 7)] * 2 + ["长" * 100] * 4
            together = pool.map(lambda a: post(server, "/similarity", a=a, b=sentences[2]), asked)
            together = [answer["data"] for _, _, answer in together]
        alone = [post(server, "/similarity", a=a, b=sentences[2])[2]["data"] for a in asked]
        np.testing.assert_allclose(together, alone, atol=1e-5)
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=60)
        assert server.returncode == 0


@pytest.mark.long
def test_the_example_measures(load_script, tmp_path, monkeypatch, capsys):
    script = load_script(ROOT / "experiments/basic_simple_web_serving_simbert.py")
    monkeypatch.setattr(script, "N_REQUESTS", 100)
    result = script.main(["--measure", "--output", str(tmp_path / "run")])
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result
    assert json.loads((tmp_path / "run/result.json").read_text(encoding="utf-8")) == result
    scores = result["scores"]
    assert scores.pop("requests_per_second") > 0
    assert scores == {"failed": 0, "different": 0}
    # What is wrong is counted.
    web = script.WebServing(port=0)

    def search(text, n):
        if text == "fails":
            raise RuntimeError(text)
        return [{"similarity": 1}]

    web.route("/search", search, {"text": (None, True), "n": (int, True)})
    expected = {"fails": [{"similarity": 1}], "other": [{"similarity": 0}]}
    scores = script.measured(web, expected | {"right": [{"similarity": 1}]})
    assert (scores["failed"], scores["different"]) == (1, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sentences", "missing.txt"], "missing.txt cannot be read"),
        (["--checkpoint", "missing"], "--checkpoint missing: "),
    ],
)
def test_what_the_example_cannot_use(load_script, options, message):
    script = load_script(ROOT / "experiments/basic_simple_web_serving_simbert.py")
    with pytest.raises(SystemExit, match=message):
        script.main([*options, "--port", "0"])
