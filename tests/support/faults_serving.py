"""Attack a server of `WebServing` from outside, and see that it does what docs/serving_en.md says.

    python tests/support/faults_serving.py                     # everything, some minutes: a table
    python tests/support/faults_serving.py bodies framing      # some of the sections

A section is a generator of attempts. An attempt holds if it is answered with one of the statuses
that are expected of it, in JSON of our form, and if somebody else, who asks all the time, is
served meanwhile. `test_serving.py` runs the quick sections.
"""

import contextlib
import http.client
import io
import json
import random
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

CLOSED = 0
"""In place of a status: the connection ended without an answer."""
SILENT = -1
"""In place of a status: no answer, and the connection is still open."""
FOREIGN = -2
"""In place of a status: an answer that is not of our form, or says too much."""
LIMITS = {
    "read_timeout": 1,
    "write_timeout": 1,
    "idle_timeout": 1,
    "call_timeout": 1,
    "max_connections": 100,
    "max_waiting": 50,
}
PATIENCE = 6.0  # seconds; all limits are below it
PROMPT = 2.0  # seconds in which others are served, on few processors that have other work too
JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@dataclass
class Attempt:
    """What was tried and what came of it."""

    name: str
    held: bool
    seen: Any = ""


# --- the server and its clients


class Target:
    """A server in a process of its own.

    Args:
        limits: arguments of `WebServing`.
        open_files: how many the process may have.
    """

    def __init__(self, limits: dict[str, Any] = LIMITS, open_files: int = 1024) -> None:
        def before() -> None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, open_files))

        command = [sys.executable, str(Path(__file__).with_name("served.py")), json.dumps(limits)]
        self.errors = io.BytesIO()
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=before
        )
        line = self.process.stdout.readline().decode()
        if not line.startswith("http"):
            raise SystemExit(self.process.stderr.read().decode())
        self.port = int(re.search(r":(\d+)/", line)[1])
        # What nobody reads would stop the server in the end.
        self.reader = threading.Thread(target=self._read_errors)
        self.reader.start()

    def _read_errors(self) -> None:
        while part := self.process.stderr.read1(1 << 16):
            self.errors.write(part)

    def __enter__(self) -> "Target":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()
        self.reader.join()
        self.process.stdout.close()
        self.process.stderr.close()

    def connect(self, timeout: float = PATIENCE) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout)

    def ask(self, path: str, body: Any = None, headers: dict | None = None, **options: Any) -> int:
        """The status of an answer; every one has to be JSON of our form, or the page."""
        connection = options.get("connection") or http.client.HTTPConnection(
            "127.0.0.1", self.port, timeout=options.get("timeout", PATIENCE)
        )
        method = options.get("method") or ("GET" if body is None else "POST")
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            content = response.read()
        except TimeoutError:
            return SILENT
        except (OSError, http.client.HTTPException):
            return CLOSED
        finally:
            if "connection" not in options:
                connection.close()
        return checked(response.status, content, path)

    def send(self, *parts: bytes | float, method: str = "POST") -> list[int]:
        """Send bytes as they are, wait where there are numbers; the statuses of all answers."""
        with self.connect() as connection:
            try:
                for part in parts:
                    if isinstance(part, bytes):
                        connection.sendall(part)
                    else:
                        time.sleep(part)
            except OSError:
                pass  # closed in the middle, maybe after an answer
            return statuses_of(connection, method)

    @property
    def megabytes(self) -> float:
        """Memory of the process."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


def checked(status: int, content: bytes, path: str) -> int:
    """The status, if an answer is of our form."""
    if path in ("/", "/openapi.json") and status == 200:
        return status
    try:
        answer = json.loads(content)
    except ValueError:
        return FOREIGN
    ours = isinstance(answer, dict) and set(answer) == {"code", "desc", "data"}
    told = b"secret" in content or b"Traceback" in content
    return status if ours and (answer["code"] == 0) == (status == 200) and not told else FOREIGN


def statuses_of(connection: socket.socket, method: str = "POST") -> list[int]:
    """All answers up to the end of a connection; the last is CLOSED or SILENT if nothing came."""
    content, ended = b"", CLOSED
    try:
        while part := connection.recv(1 << 16):
            content += part
    except TimeoutError:
        ended = SILENT
    except OSError:
        pass
    found = []
    while content.startswith(b"HTTP/"):
        head, _, rest = content.partition(b"\r\n\r\n")
        status = int(head.split()[1])
        length = int((re.search(rb"(?i)content-length: (\d+)", head) or [0, 0])[1])
        if method == "HEAD":
            length = 0
        elif status != 100:
            status = checked(status, rest[:length], "")
        if status != 100:
            found.append(status)
        content = rest[length:]
    return found + [FOREIGN] * bool(content) or [ended]


@contextlib.contextmanager
def watched(target: Target, path: str = "/echo?text=a") -> Iterator[list[float]]:
    """Ask all the time; gives how many seconds each answer took."""
    taken: list[float] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            began = time.monotonic()
            status = target.ask(path, timeout=30)
            taken.append(time.monotonic() - began if status in (200, 404) else 1e3 + status)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield taken
    finally:
        done.set()
        thread.join()


# --- bodies


def nested(n: int, opening: str = "[", closing: str = "]", inside: str = "") -> str:
    return opening * n + inside + closing * n


def json_bodies() -> Iterator[tuple[str, str | bytes, set[int]]]:
    """Bodies for `/echo`, which has a `text`, and the statuses they may get."""
    yield "plain", '{"text": "a"}', {200}
    for n in (10, 100, 1000, 10_000, 100_000, 500_000):
        yield f"{n} brackets", nested(n), {400, 413, 422}
        yield f"{n} open brackets", "[" * n, {400, 413, 422}
        yield f"{n} objects", nested(n, '{"a":', "}", "1"), {400, 413, 422}
        yield f"{n} open objects", '{"a":' * n, {400, 413, 422}
        yield f"{n} deep tags", f'{{"text": "a", "tags": {nested(n)}}}', {400, 413, 422}
    yield "empty objects", f'{{"text": [{",".join(["{}"] * 340_000)}]}}', {413, 422}
    yield "empty objects in order", f'{{"text": "a", "tags": [{"{}," * 340_000}0]}}', {413, 422}
    yield "numbers", f'{{"text": "a", "tags": [{"1," * 500_000}0]}}', {413, 422}
    yield "texts", '{"text": "a", "tags": [' + '"",' * 340_000 + '""]}', {413, 422}
    keys = ",".join(f'"a{i}": 1' for i in range(60_000))
    yield "60,000 arguments", f"{{{keys}}}", {413, 422}
    yield "60,000 keys", f'{{"text": {{{keys}}}}}', {413, 422}
    yield "2,000 arguments", "{" + ",".join(f'"a{i}": 1' for i in range(2000)) + "}", {422}
    same = ",".join(['"text": "a"'] * 60_000)
    yield "60,000 times the same", f"{{{same}}}", {413, 422}
    yield "twice the same", '{"text": "a", "text": "b"}', {422}
    yield "twice the same inside", '{"text": "a", "tags": [{"a": 1, "a": 2}]}', {422}
    yield "twice, escaped", '{"text": "a", "\\u0074ext": "b"}', {422}
    for number in ("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e400", "1" * 400 + ".0"):
        yield f"ratio {number[:9]}", f'{{"text": "a", "ratio": {number}}}', {400, 422}
        yield f"tags {number[:9]}", f'{{"text": "a", "tags": [[{number}]]}}', {400, 422}
    for number in ("1e308", "-0.0", "1e-999", "0.1", "5e-324"):
        yield f"ratio {number}", f'{{"text": "a", "ratio": {number}}}', {200}
    for number in ("1" * 5000, "-" + "1" * 100_000, "01", "+1", ".5", "1.", "0x1", "1_0", "٣"):
        yield f"n {number[:9]}", f'{{"text": "a", "n": {number}}}', {400, 422}
    for quoted in ('"NaN"', '"1e999"', '"1"', "true", "null", "[]", "{}"):
        yield f"ratio {quoted}", f'{{"text": "a", "ratio": {quoted}}}', {422}
    for whole in ("1", '"a"', "null", "true", "[]", '[{"text": "a"}]', "NaN", "1e999"):
        yield f"whole {whole}", whole, {400, 422}
    for wrong in (
        "",
        " ",
        "{",
        "}",
        '{"text"',
        '{"text": "a",}',
        "{'text': 'a'}",
        '{"text": "a"}}',
        '{"text": "a"} {"text": "b"}',
        '{"text": "a\nb"}',
        "// a",
        '{"text": "\\x"}',
        '{"text": "' + "\\" * 100_001,
        '"' + '\\"' * 300_000,
        '"' * 300_001,
    ):
        yield f"wrong {wrong[:12]!r}", wrong, {400}
    for half in ("\\ud800", "\\udc00\\ud800", "\\ud800a"):
        yield f"half {half}", f'{{"text": "{half}"}}', {400}
        yield f"half {half} as a name", f'{{"text": "a", "{half}": 1}}', {400, 422}
    yield "pair", '{"text": "\\ud83d\\ude00"}', {200}
    for name, encoded in {
        "BOM": b'\xef\xbb\xbf{"text": "a"}',
        "UTF-16": '{"text": "a"}'.encode("utf-16"),
        "UTF-32": '{"text": "a"}'.encode("utf-32"),
        "GBK": '{"text": "你好"}'.encode("gbk"),
        "surrogate in UTF-8": b'{"text": "\xed\xa0\x80"}',
        "overlong UTF-8": b'{"text": "\xc0\x80"}',
        "NUL": b'{"text": "a"}\0',
        "gzip": b"\x1f\x8b\x08\0",
    }.items():
        yield name, encoded, {400}
    yield "escaped NUL", '{"text": "\\u0000"}', {200}
    yield "a text as long as may be", json.dumps({"text": "a" * 10_000}), {200}
    yield "a text too long", json.dumps({"text": "a" * 10_001}), {422}
    yield "a name too long", json.dumps({"text": "a", "b" * 100_000: 1}), {422}
    yield "as long as may be", '{"text": "a"}'.ljust(1 << 20), {200}
    for over in (1, 1000, 1 << 20, 1 << 24):
        yield f"{over} over", '{"text": "a"}'.ljust((1 << 20) + over), {413}
        yield f"a text and {over} over", '{"text": "' + "a" * ((1 << 20) + over) + '"}', {413}
        yield f"brackets and {over} over", "[" * ((1 << 20) + over), {413}


def forms() -> Iterator[tuple[str, str | bytes, set[int]]]:
    yield "plain", "text=a", {200}
    for number in ("nan", "NaN", "inf", "-inf", "Infinity", "infinity", "1e999", "-1e999", "+inf"):
        yield f"ratio {number}", urlencode({"text": "a", "ratio": number}), {422}
    yield "a ratio", "text=a&ratio=1e308", {200}
    for wrong in ("text", "=", "&", ";", "text=a;n=2", "%", "text=%", "text=%zz", "te%78t=a"):
        yield f"odd {wrong}", wrong, {200, 400, 422}
    yield "bytes", b"text=\xff", {400}
    yield "escaped bytes", "text=%ff", {400}
    yield "surrogate", "text=%ed%a0%80", {400}
    for n in (10, 999, 1001, 5000, 100_000):
        yield f"{n} arguments", "&".join(f"a{i}=" for i in range(n)), {413, 422}
        yield f"{n} times the same", "&".join(["text=a"] * n), {413, 422}
        yield f"{n} separators", "text=a" + "&" * n, {200, 413, 422}
    yield "list", "text=a&tags=b", {422}
    yield "brackets", "text=a&tags[]=b", {422}


def bodies(target: Target) -> Iterator[Attempt]:
    """Hostile JSON and forms, in each of the ways to send them; types of contents."""
    with watched(target) as others:
        for name, content, expected in json_bodies():
            content = content.encode() if isinstance(content, str) else content
            yield attempt(f"JSON, {name}", target.ask("/echo", content, JSON), expected)
    yield Attempt("others served", max(others) < PROMPT, max(others))
    for name, content, expected in forms():
        yield attempt(f"form, {name}", target.ask("/echo", content, FORM), expected)
        if len(content) < 60_000 and isinstance(content, str):
            address = "/echo?" + content
            yield attempt(f"address, {name}", target.ask(address), expected | {414})
    for kind, expected in {
        "text/plain": {415},
        "text/json": {415},
        "multipart/form-data; boundary=b": {415},
        "application/xml": {415},
        "application/json; charset=gbk": {415},
        "application/json; charset=utf-16": {415},
        "application/json; charset=UTF-8": {200},
        "application/json;;;": {200},
        "application/jsonx": {415},
        "a" * 10_000: {415},
        "": {415},
    }.items():
        status = target.ask("/echo", '{"text": "a"}', {"Content-Type": kind})
        yield attempt(f"type {kind[:40]}", status, expected)
    much = b" " * ((1 << 20) + 1)
    for path in ("/echo?text=a", "/none", "/", "/big?n=1"):
        status = target.ask(path, much, JSON, method="POST")
        yield attempt(f"{path} with a body too long", status, {404, 405, 413})
    status = target.ask("/echo?text=a", much, JSON, method="GET")
    yield attempt("GET with a body too long", status, {413})
    status = target.ask("/echo?text=a", b"{}", JSON, method="GET")
    yield attempt("GET with a body", status, {200})


def attempt(name: str, status: Any, expected: set[int]) -> Attempt:
    return Attempt(name, status in expected, status)


# --- framing

HEAD = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
BODY = b'{"text": "a"}'
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
GET = b"GET /echo?text=a HTTP/1.1\r\nHost: localhost\r\n"
END = b"Connection: close\r\n\r\n"
REFUSED = {400, 413, 431, 501, CLOSED}


def framings() -> Iterator[tuple[str, tuple[bytes | float, ...], set[int]]]:
    """What is sent over a connection, and the statuses that the first answer may have."""
    yield from chunked()
    yield from lengths()
    yield from slow()
    yield from heads()
    yield from first_lines()
    yield (
        "longer than said",
        (HEAD + b"Content-Length: 13\r\n\r\n", BODY + b"GARBAGE\r\n\r\n"),
        {200},
    )
    yield "garbage after an answer", (GET + b"\r\n", 0.2, b"\0\1\2\3\r\n\r\n"), {200}
    rng = random.Random(0)
    for i in range(10):
        noise = rng.randbytes(rng.randint(1, 5000))
        yield f"noise {i}", (noise + b"\r\n\r\n",), REFUSED | {408, 505}


def chunked() -> Iterator[tuple[str, tuple[bytes | float, ...], set[int]]]:
    whole = b'd\r\n{"text": "a"}\r\n'
    yield "chunked", (CHUNKED, whole + b"0\r\n\r\n"), {200}
    yield "chunks of a byte", (CHUNKED, *(b"1\r\n%c\r\n" % c for c in BODY), b"0\r\n\r\n"), {200}
    yield "trailers", (CHUNKED, whole + b"0\r\na: b\r\n\r\n"), {200}
    yield "no chunks", (CHUNKED, b"0\r\n\r\n"), {400}
    for wrong in (b"x\r\n", b"-1\r\n", b"fffffffffffffffffffff\r\n", b"d \r\n", b"1\r\nab\r\n"):
        yield f"chunk {wrong!r}", (CHUNKED, wrong), REFUSED | {408}
    extension = b"d;" + b"a" * 100_000 + b"\r\n"
    yield "long extension", (CHUNKED, extension + BODY), REFUSED | {408}
    big = b"10000\r\n" + b" " * 65536 + b"\r\n"
    yield "chunks too long", (CHUNKED, big * 20, b"0\r\n\r\n"), {408, 413}
    yield "chunks without end", (CHUNKED, *[big * 16] * 40), {408, 413}
    yield "many trailers", (CHUNKED, b"0\r\n" + b"a: b\r\n" * 100_000 + b"\r\n"), REFUSED
    yield "1,000 small chunks", (CHUNKED, b"1\r\n \r\n" * 1000 + whole + b"0\r\n\r\n"), {200}
    yield "many small chunks", (CHUNKED, b"1\r\n \r\n" * 170_000 + whole + b"0\r\n\r\n"), {413}


def lengths() -> Iterator[tuple[str, tuple[bytes | float, ...], set[int]]]:
    for length in (b"-1", b"a", b"1e3", b"0x10", b"9" * 30, b"+13", b"13, 14", b"13 13", b""):
        headers = HEAD + b"Content-Length: " + length + b"\r\n" + END
        yield f"length {length!r}", (headers, BODY), REFUSED | {408}
    long = HEAD + b"Content-Length: 1000000000000000000\r\n\r\n"
    yield "a length without end", (long, BODY), {408, 413}
    two = HEAD + b"Content-Length: 13\r\nContent-Length: 14\r\n\r\n"
    yield "two lengths", (two, BODY), REFUSED
    both = HEAD + b"Content-Length: 13\r\nTransfer-Encoding: chunked\r\n" + END
    yield "length and chunked", (both, b"d\r\n" + BODY + b"\r\n0\r\n\r\n"), {200, *REFUSED}
    for coding in (b"gzip", b"gzip, chunked", b"chunked, chunked", b"identity", b"xchunked"):
        sent = HEAD + b"Transfer-Encoding: " + coding + b"\r\n\r\n"
        yield f"coding {coding!r}", (sent,), REFUSED
    expecting = HEAD + b"Content-Length: 13\r\nExpect: 100-continue\r\n" + END
    yield "expect", (expecting, 0.1, BODY), {200}
    expecting = HEAD + b"Content-Length: 9999999\r\nExpect: 100-continue\r\n\r\n"
    yield "expect, too long", (expecting,), {413}
    yield "expect tea", (HEAD + b"Content-Length: 13\r\nExpect: tea\r\n" + END, BODY), {200, 417}


def slow() -> Iterator[tuple[str, tuple[bytes | float, ...], set[int]]]:
    sized = HEAD + b"Content-Length: 13\r\n\r\n"
    yield "slow chunks", (CHUNKED, *[b"1\r\n \r\n", 0.3] * 6), {408}
    yield "slow body", (sized, *[b" ", 0.3] * 6), {408}
    yield "no body", (sized,), {408}
    yield "half a body", (sized, b"{"), {408}
    yield "slow head", tuple(x for c in GET for x in (bytes([c]), 0.05)), {408}
    pieces = [x for c in GET[9:14] for x in (bytes([c]), 0.4)]
    yield "slow head after a request", (GET + b"\r\n" + GET[:9], *pieces), {200}
    yield "half a head", (GET[:20],), {408}
    yield "nothing", (b"",), {CLOSED}
    yield "a line", (b"\r\n",), {408, CLOSED, 400}
    chunks = [b"1\r\n \r\n", 0.3] * 8
    endless = GET + b"Transfer-Encoding: chunked\r\n\r\n"
    yield "a body where none is read, without end", (endless, *chunks), {200}


def heads() -> Iterator[tuple[str, tuple[bytes | float, ...], set[int]]]:
    for line in (
        b"no colon",
        b": value",
        b" : value",
        b"a b: c",
        b"a\0: b",
        b"a: \0",
        b"a: b\rc",
        b" folded",
        b"\xff: a",
        b"a" * 70_000 + b": b",
    ):
        yield f"header {line[:20]!r}", (GET + line + b"\r\n" + END,), {200, 421, *REFUSED}
    yield "100 headers", (GET + b"a: b\r\n" * 100 + END,), {200}
    for n in (1000, 10_000, 180_000):
        yield f"{n} headers", (GET + b"a: b\r\n" * n + END,), {431}
        behind = GET + b"\r\n" + GET + b"a: b\r\n" * n + END
        yield f"{n} headers behind another request", (behind,), {200}
    yield "a header of 1 MB", (GET + b"a: " + b"b" * 1_000_000 + b"\r\n" + END,), {200, 400, 431}
    yield "a header without end", (GET + b"a: ", *[b"b" * 65536] * 40), {400, 431}
    yield "an address without end", (b"GET /?", *[b"b" * 65536] * 40), {400, 414, 431}
    much = b"GET /echo?text=" + b"b" * ((1 << 20) + 1) + GET[16:] + END
    yield "an address too long", (much,), {414}
    bare = (GET + END).replace(b"\r\n", b"\n")
    yield "bare line feeds", (bare,), {200, *REFUSED}
    yield "no host", (b"GET /echo?text=a HTTP/1.1\r\n" + END,), REFUSED
    yield "two hosts", (GET + b"Host: example.com\r\n" + END,), REFUSED
    upgrade = GET + b"Upgrade: %s\r\nConnection: Upgrade, close\r\n\r\n"
    yield "websocket", (upgrade % b"websocket",), {200, 426}
    yield "h2c", (upgrade % b"h2c",), {200}


def first_lines() -> Iterator[tuple[str, tuple[bytes | float, ...], set[int]]]:
    yield "HTTP/1.0", (b"GET /echo?text=a HTTP/1.0\r\n\r\n",), {200}
    for line in (
        b"GET",
        b"GET /",
        b"GET /a HTTP/0.9",
        b"GET /a HTTP/2.0",
        b"GET /a HTTP/1.1 x",
        b"GET  /a HTTP/1.1",
        b"G\xffT /a HTTP/1.1",
        b"GET /\xff HTTP/1.1",
        b"/a HTTP/1.1",
        b"GET \0 HTTP/1.1",
        b"PRI * HTTP/2.0",
        b"hello",
        b"\x16\x03\x01\2\0\1\0",
    ):
        sent = line + b"\r\nHost: localhost\r\n" + END
        yield f"line {line!r}", (sent,), {404, 405, 505, *REFUSED}
    for line, expected in {
        b"CONNECT localhost:80": {404, 405},
        b"TRACE /": {404, 405},
        b"OPTIONS *": {404, 405},
        b"HEAD /none": {404, 405},
        b"PROPFIND /echo": {405},
        b"GET http://localhost/echo?text=a": {200, 404},
        b"GET http://example.com/echo?text=a": {200, 404, 421},
        b"get /echo?text=a": {200, 405},
        b"A" * 1000 + b" /echo": {405},
    }.items():
        sent = line + b" HTTP/1.1\r\nHost: localhost\r\n" + END
        yield f"line {line[:40]!r}", (sent,), expected


def framing(target: Target) -> Iterator[Attempt]:
    """Requests that are cut off, slow, long, malformed, ambiguous."""

    def tried(case: tuple) -> Attempt:
        name, parts, expected = case
        method = "HEAD" if parts[0].startswith(b"HEAD") else "GET"
        return attempt(name, target.send(*parts, method=method)[0], expected)

    with ThreadPoolExecutor(8) as pool, watched(target) as others:
        yield from pool.map(tried, framings())
    yield Attempt("others served", max(others) < PROMPT, max(others))
    found = target.send(*[GET + b"\r\n"] * 99, GET + END)
    yield Attempt("100 in a row", found == [200] * 100, Counter(found))
    found = target.send(HEAD + b"Content-Length: 13\r\n\r\n" + BODY + GET + END)
    yield Attempt("two in one", found == [200, 200], found)


# --- functions


def functions(target: Target) -> Iterator[Attempt]:
    """Functions, converters and answers that raise, end, block or cannot be."""
    from served import ANSWERS, ERRORS

    for kind in ERRORS:
        yield attempt(f"raises {kind}", target.ask(f"/fail?kind={kind}"), {500})
        yield attempt(f"converter raises {kind}", target.ask(f"/convert?kind={kind}"), {422})
        yield attempt(f"after {kind}", target.ask("/echo?text=a"), {200})
    for kind in ANSWERS:
        yield attempt(f"answers {kind}", target.ask(f"/give?kind={kind}"), {500})
        yield attempt(f"after answer {kind}", target.ask("/echo?text=a"), {200})
    yield attempt("ends its thread", target.ask("/thread"), {500})
    yield attempt("too few answers", target.ask("/fewer?n=1"), {500})
    yield attempt("answers without a length", target.ask("/uncounted?n=1"), {500})
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: target.ask(f"/inverses?n={n}"), [0, 1, 2, 13, 4, 5]))
    yield Attempt("some of a batch", found == [500, 200, 200, 500, 200, 200], found)

    def blocked(path: str) -> tuple[int, float]:
        began = time.monotonic()
        return target.ask(path, timeout=30), time.monotonic() - began

    with ThreadPoolExecutor(8) as pool, watched(target, "/none") as others:
        first = pool.submit(blocked, "/block?seconds=2.5")
        time.sleep(0.3)
        same, other = pool.submit(blocked, "/block?seconds=0"), pool.submit(blocked, "/echo?text=a")
        yield attempt("blocks", first.result()[0], {504})
        yield attempt("the same meanwhile", same.result()[0], {503})
        yield attempt("another meanwhile", other.result()[0], {200})
        yield Attempt("in time", max(f.result()[1] for f in (first, same, other)) < 3)
        yield attempt("the same, blocked", target.ask("/block?seconds=0"), {503})
        time.sleep(1.5)
        yield attempt("once it has returned", target.ask("/block?seconds=0"), {200})
        yield attempt("a converter blocks", target.ask("/convert?kind=block"), {504})
        yield attempt("another after that", target.ask("/echo?text=a"), {200})
        yield attempt("the same after that", target.ask("/convert?kind=a"), {503})
    yield Attempt("what is no function meanwhile", max(others) < PROMPT, max(others))


# --- addresses


def paths(target: Target) -> Iterator[Attempt]:
    """Paths that lead nowhere, and other methods."""
    wrong = [
        "/../etc/passwd",
        "/..%2f..%2fetc/passwd",
        "/%2e%2e/",
        "//",
        "///echo",
        "/echo/",
        "/ECHO",
        "/echo%00",
        "/echo%20",
        "/./echo",
        "/echo/..",
        "/%",
        "/%zz",
        "/%ff",
        "/%ed%a0%80",
        "/echo;a=b",
        "/docs",
        "/redoc",
        "/openapi.json/",
        "/static/x",
        "/<script>",
        "/%3Cscript%3E",
        "/\\echo",
        "/echo%2f",
    ]
    for path in (*wrong, "/" + "a" * 60_000, "/" + "a/" * 30_000):
        sent = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n".encode() + END
        yield attempt(path[:40], target.send(sent)[0], {404, 400})
    for path in ("/", "/openapi.json", "/echo?text=a", "/%65cho?text=a", "/echo?text=a#b"):
        status = target.send(f"GET {path} HTTP/1.1\r\nHost: a\r\n".encode() + END)[0]
        yield attempt(f"{path} of another host", status, {421})
    for method in ("DELETE", "PUT", "PATCH", "OPTIONS", "TRACE", "FOO"):
        yield attempt(method, target.ask("/echo", method=method), {405})


def hosts(target: Target) -> Iterator[Attempt]:
    """Names by which the server is asked, and sites whose pages ask."""
    for host in ("localhost", f"127.0.0.1:{target.port}", "[::1]", "LOCALHOST:1", "127.1.2.3"):
        yield attempt(host, target.ask("/echo?text=a", headers={"Host": host}), {200})
    others = [
        "example.com",
        "localhost.example.com",
        "127.0.0.1.nip.io",
        "[::1",
        "10.0.0.1",
        "localhost@example.com",
        "example.com:80",
        "0x7f.1",
        "２127.0.0.1",
    ]
    for host in (*others, "a b"):
        sent = f"GET /echo?text=a HTTP/1.1\r\nHost: {host}\r\n".encode() + END
        yield attempt(host, target.send(sent)[0], {400, 421})
    own = f"http://127.0.0.1:{target.port}"
    for headers, expected in (
        ({"Origin": own}, 200),
        ({"Origin": own, "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": own}, 403),
        ({"Sec-Fetch-Site": "what"}, 403),
        ({"Origin": "http://example.com"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": own + ".example.com"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
    ):
        host = {"Host": f"127.0.0.1:{target.port}"}
        name = ", ".join(f"{key}: {value}" for key, value in headers.items())
        yield attempt(
            f"GET, {name}", target.ask("/echo?text=a", headers=host | headers), {expected}
        )
        status = target.ask("/echo", "text=a", FORM | host | headers)
        yield attempt(f"POST, {name}", status, {expected})
    yield attempt(
        "a link to the page", target.ask("/", headers={"Sec-Fetch-Site": "cross-site"}), {200}
    )


# --- connections


def ended(connections: Iterable[socket.socket]) -> int:
    """How many connections the server has closed."""

    def is_ended(connection: socket.socket) -> bool:
        connection.setblocking(False)
        try:
            while part := connection.recv(1 << 16):
                pass
            return not part
        except BlockingIOError:
            return False
        except OSError:
            return True

    return sum(map(is_ended, connections))


def waits(condition: Any, seconds: float = PATIENCE) -> bool:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


BIG = b"GET /big?n=%d HTTP/1.1\r\nHost: localhost\r\n\r\n"
CROWDS: dict[str, bytes] = {
    "that say nothing": b"",
    "with half a head": GET[:40],
    "with a line": b"\r\n",
    "with half a body": HEAD + b"Content-Length: 13\r\n\r\n{",
    "with half a chunk": CHUNKED + b"d\r\n{",
    "with 1 MB of a head": GET + b"a: " + b"b" * 1_000_000,
    "with 1 MB of a body": HEAD + b"Content-Length: 1048576\r\n\r\n" + b" " * 1_000_000,
    "that do not read 7 MB": BIG % 7_500_000,
    "that do not read 1 MB again and again": BIG % 1_000_000 * 8,
}


def join(crowd: list[socket.socket], target: Target, contents: Iterable[bytes]) -> None:
    """Connect and send for each of some contents, to a server that may end the connection."""
    for content in contents:
        connection = socket.socket()
        # So that what is not read soon fills the window, whatever the system's is.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(2)
        crowd.append(connection)
        with contextlib.suppress(OSError):
            connection.connect(("127.0.0.1", target.port))
            connection.sendall(content)


def connections(target: Target) -> Iterator[Attempt]:
    """Crowds that hold connections, while others are served; 256 files may be open."""
    for name, content in CROWDS.items():
        for size in (60, 120) if "MB" in name else (60, 400):
            before = target.megabytes
            crowd: list[socket.socket] = []
            # Who asks for a function waits until those before have been answered.
            with watched(target, "/none" if "read" in name else "/echo?text=a") as others:
                join(crowd, target, [content] * size)
                time.sleep(0.5)
                held = target.megabytes - before
                gone = reset if "read" in name else ended
                time.sleep(2)
                closed = waits(lambda crowd=crowd, gone=gone: gone(crowd) == len(crowd), 20)
            for connection in crowd:
                connection.close()
            yield Attempt(f"{size} {name}: closed in time", closed)
            # What 120 MB are sent or read in is not the server's to choose.
            most = 3 * PROMPT if "MB" in name else PROMPT
            yield Attempt(f"{size} {name}: others served", max(others) < most, max(others))
            yield Attempt(f"{size} {name}: memory", held < 150, f"{held:.0f} MB")


def crowds(target: Target) -> Iterator[Attempt]:
    """All kinds of `connections` at once, but for a few seconds."""
    members: list[socket.socket] = []
    with watched(target, "/none") as others:
        join(members, target, [content for content in CROWDS.values() for _ in range(6)])
        readers = members[-12:]
        closed = waits(lambda: ended(members[:-12]) == len(members) - 12, 30)
        gone = waits(lambda: reset(readers) == len(readers), 30)
    for connection in members:
        connection.close()
    yield Attempt("closed in time", closed and gone, (closed, gone))
    yield Attempt("others served", max(others) < 3 * PROMPT, max(others))


def reset(connections: Iterable[socket.socket]) -> int:
    """How many connections the server has given up, without reading what it sent."""

    def is_reset(connection: socket.socket) -> bool:
        # Writing tells, once the other end has gone.
        connection.setblocking(False)
        try:
            connection.send(b"\r\n")
            return False
        except BlockingIOError:
            return False
        except OSError:
            return True

    return sum(map(is_reset, connections))


def leaving(target: Target) -> Iterator[Attempt]:
    """Clients that go while they wait, and what becomes of their places."""
    with watched(target, "/none") as others, ThreadPoolExecutor(1) as pool:
        first = pool.submit(target.ask, "/block?seconds=0.8")
        time.sleep(0.2)
        for _ in range(300):
            connection = target.connect()
            connection.sendall(b"GET /echo?text=a HTTP/1.1\r\nHost: localhost\r\n\r\n")
            connection.close()
        time.sleep(0.2)
        yield attempt("their places are free", target.ask("/echo?text=a"), {200})
        yield attempt("who was there first", first.result(), {200})
    yield Attempt("others served", max(others) < 3 * PROMPT, max(others))
    with ThreadPoolExecutor(8) as pool:
        for n in range(1, 9):  # in the middle of a batch
            connection = target.connect()
            connection.sendall(f"GET /inverses?n={n} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            asked = [pool.submit(target.ask, f"/inverses?n={k}") for k in range(1, 8)]
            time.sleep(0.03 * n)
            connection.close()
            found = [each.result() for each in asked]
            yield Attempt(f"one of a batch goes, {n}", found == [200] * 7, found)


# --- load


def load(target: Target) -> Iterator[Attempt]:
    """64 clients, none of which gets the answer of another; 3,000 requests in flat memory."""

    def client(number: int, n: int) -> list[str]:
        wrong = []
        connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=30)
        rng = random.Random(number)
        for i in range(n):
            text = f"{number} {i} " + "字" * rng.randint(0, 500)
            body = json.dumps({"text": text})
            kind = rng.randrange(4)
            if kind == 0:  # one that is refused
                status = target.ask("/reverse", body[:-1], JSON, connection=connection)
                if status != 400:
                    wrong.append(f"{status} for what is no JSON")
                continue
            path = "/reverse" if kind < 3 else f"/echo?{urlencode({'text': text})}"
            body = body if kind < 3 else None
            connection.request("POST" if body else "GET", path, body, JSON if body else {})
            response = connection.getresponse()
            answer = json.loads(response.read())["data"]
            expected = text[::-1] if body else text
            if response.status != 200 or (answer if body else answer["text"]) != expected:
                wrong.append(f"{text} got {response.status} {str(answer)[:40]}")
        connection.close()
        return wrong

    def crowd(n: int) -> list[str]:
        with ThreadPoolExecutor(64) as pool:
            return [w for wrong in pool.map(lambda i: client(i, n), range(64)) for w in wrong]

    wrong = crowd(30)
    yield Attempt("mixed-up answers of 64 clients", not wrong, wrong[:3])
    before = target.megabytes
    wrong = crowd(47)
    yield Attempt("3,000 requests", not wrong, wrong[:3])
    grown = target.megabytes - before
    yield Attempt("memory after 3,000 requests", grown < 8, f"{grown:.1f} MB more")
    for _ in range(2000):
        target.ask("/none")
    grown = target.megabytes - before
    yield Attempt("memory after 2,000 connections", grown < 8, f"{grown:.1f} MB more")


# --- stopping


def stopping(target: Target) -> Iterator[Attempt]:
    """SIGTERM under load: what runs is answered, what is new refused, the process ends."""
    del target
    for name, contents in {
        "nothing": [],
        "silent connections": [b""] * 20,
        "half heads": [GET[:30]] * 20,
        "half bodies": [CROWDS["with half a body"]] * 20,
        "readers that do not read": [BIG % 7_500_000] * 20,
    }.items():
        for held in stopped(contents):
            yield Attempt(f"{name}: {held.name}", held.held, held.seen)


def stop(target: Target) -> Iterator[Attempt]:
    """SIGTERM under load, with a few connections of each kind open."""
    del target
    yield from stopped([each for each in CROWDS.values() for _ in range(2)])


def stopped(contents: list[bytes]) -> Iterator[Attempt]:
    """Start a server, open connections that hold it up, have 16 clients ask, and stop it."""
    with Target(LIMITS | {"stop_timeout": 5}) as server:
        answers: Counter = Counter()
        over = threading.Event()

        def client(number: int) -> None:
            while not over.is_set():
                status = server.ask("/reverse", json.dumps({"text": str(number)}), JSON)
                answers[status] += 1
                if status == CLOSED:
                    return

        crowd: list[socket.socket] = []
        join(crowd, server, contents)
        with ThreadPoolExecutor(17) as pool:
            slow = pool.submit(server.ask, "/block?seconds=0.9")
            time.sleep(0.1)
            clients = [pool.submit(client, i) for i in range(16)]
            time.sleep(0.3)
            began = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            try:
                code = server.process.wait(20)
            except subprocess.TimeoutExpired:
                code = "does not end"
            taken = round(time.monotonic() - began, 1)
            over.set()
            for each in clients:
                each.result()
        output = server.process.stdout.read().decode()
        for connection in crowd:
            connection.close()
        yield attempt("what ran is answered", slow.result(), {200})
        # A connection that was made and not yet accepted ends with the socket.
        right = set(answers) <= {200, CLOSED} and answers[CLOSED] <= 16
        yield Attempt("others are answered or refused", right, dict(answers))
        ends = code == 0 and taken < 10 and "returned" in output
        yield Attempt("the process ends", ends, (code, taken, output))
        errors = server.errors.getvalue().decode()
        yield Attempt("no traceback", "Traceback" not in errors, errors[-300:])


QUICK = (bodies, framing, functions, paths, hosts, leaving, crowds, stop)
SECTIONS = (*QUICK[:-2], connections, load, stopping)
OPEN_FILES = {connections: 256}


@dataclass
class Tally:
    """How many attempts of a section held, and those that did not."""

    section: str
    tried: int = 0
    fell: list[Attempt] = field(default_factory=list)

    def note(self, one: Attempt) -> None:
        self.tried += 1
        if not one.held:
            self.fell.append(one)


def attack(section: Any, limits: dict[str, Any] = LIMITS) -> Tally:
    """All attempts of a section on a server of its own."""
    tally = Tally(section.__name__)
    with Target(limits, OPEN_FILES.get(section, 1024)) as target:
        for one in section(target):
            tally.note(one)
        tally.note(attempt("the server answers in the end", target.ask("/none"), {404}))
        errors = target.errors.getvalue().decode(errors="replace")
        tally.note(Attempt("nothing escapes", "Exception in ASGI" not in errors, errors[-500:]))
    return tally


def main(names: list[str]) -> None:
    failed = 0
    print("| | tried | fell |\n|---|--:|--:|")
    for section in SECTIONS:
        if names and section.__name__ not in names:
            continue
        tally = attack(section)
        print(f"| {section.__name__} | {tally.tried} | {len(tally.fell)} |", flush=True)
        for one in tally.fell:
            print(f"  {section.__name__}: {one.name}: {one.seen}", file=sys.stderr, flush=True)
        failed += len(tally.fell)
    raise SystemExit(failed > 0)


if __name__ == "__main__":
    main(sys.argv[1:])
