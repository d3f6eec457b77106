"""Connections: how many there may be, how long their clients may take, and what they may hold.

uvicorn gives a connection to a `Connection` each, which is its own protocol with these bounds; it
has no bound on the time in which a request begins or an answer is read.
"""

import asyncio
import re
import socket
import sys
from collections import Counter
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from bert4keras.serving.answers import Refusal
from bert4keras.serving.limits import Limits

MOST_LINES = 200
"""Lines of the head of a request; h11 takes microseconds for each."""
END_OF_HEAD = re.compile(rb"\n\r?\n")
STEP = 1 << 16
"""Bytes of an answer that a client has to take within `write_timeout`, and for which it need not
be waited for where memory is short."""
PART = 1 << 14
"""Bytes that are taken at once, also where memory is short, and headers behind a body at most."""
PATIENCE = 1.0
"""Seconds that a client may take at any rate before its connection makes room for others."""


class Pool:
    """All connections of a server.

    Attributes:
        most: how many there may be.
        connections: those that are open.
        held: bytes of requests that are not answered, and of answers that are not read.
        stopping: whether new ones are closed at once.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.most = limits.connections
        self.connections: set[Connection] = set()
        self.held = 0
        self.stopping = False

    def admit(self, connection: "Connection") -> None:
        """Take a new connection; where there are too many, others that wait make room for it."""
        excess = len(self.connections) + 1 - self.most
        # Several at once, since to look for them takes time for each connection there is.
        if excess > 0 and not self._evict(excess + self.most // 16):
            connection.surplus = True
        self.connections.add(connection)
        if self.stopping:
            connection.transport.close()

    def _evict(self, count: int) -> int:
        """End connections that wait longest for their client, of the address that has most."""
        victims = [each for each in self.connections if each.waits_for_client]
        per_address = Counter(each.address for each in victims)
        victims.sort(key=lambda each: (-per_address[each.address], each.since))
        for each in victims[:count]:
            each.abort()
        return len(victims[:count])

    def make_room(self, now: float) -> bool:
        """End connections that hold memory and whose clients let others wait; whether it helped."""
        if self.held > self.limits.memory:
            for each in sorted(self.connections, key=lambda each: each.since):
                if each.held > PART and each.waits_for_client and now - each.since > PATIENCE:
                    each.abort()
                if self.held <= self.limits.memory:
                    break
        return self.held <= self.limits.memory

    def check(self) -> None:
        """End connections whose clients take too long."""
        now = asyncio.get_running_loop().time()
        for each in list(self.connections):
            each.check(now)
        self.make_room(now)


class BoundedHTTP(h11.Connection):
    """HTTP/1.1 in which the head of a request, and what may follow its chunks, are bounded.

    Attributes:
        lines: how many there are in what was received of a head, and maybe of what comes after it.
        parts: of the body, chunks or what was received at once.
    """

    def __init__(self, limits: Limits) -> None:
        super().__init__(h11.SERVER, limits.request)
        self.most_parts = limits.parts
        self.lines = self.parts = 0

    def receive_data(self, data: bytes) -> None:
        """Take a part of a request."""
        if self.their_state is h11.IDLE:
            self.lines += data.count(b"\n")
        super().receive_data(data)

    def start_next_cycle(self) -> None:
        """Begin with the next request, of which a part may be there."""
        super().start_next_cycle()
        self.lines = self.trailing_data[0].count(b"\n")

    def next_event(self) -> Any:
        """Give what comes next, if it is not the head of a request that is too long."""
        if self.lines > MOST_LINES and self.their_state is h11.IDLE:
            head = END_OF_HEAD.split(self.trailing_data[0], maxsplit=1)[0]
            if head.count(b"\n") > MOST_LINES:
                message = f"its head has more than {MOST_LINES} lines"
                raise h11.RemoteProtocolError(message, error_status_hint=431)
        event = super().next_event()
        if isinstance(event, h11.Request):
            self.lines = self.parts = 0
        elif isinstance(event, h11.Data):
            self.parts += 1
            if self.parts > self.most_parts:
                message = f"its body comes in more than {self.most_parts} parts"
                raise h11.RemoteProtocolError(message, error_status_hint=413)
        # Parts of a body are given as they come, so that this is the size of a chunk or headers.
        elif (
            event is h11.NEED_DATA
            and self.their_state is h11.SEND_BODY
            and len(self.trailing_data[0]) > PART
        ):
            raise h11.RemoteProtocolError("much is behind its body", error_status_hint=431)
        return event


class Connection(H11Protocol):
    """The protocol of uvicorn for one connection, within the limits of a pool.

    Attributes:
        since: when it began to wait for its client, by the clock of the loop.
        received: bytes of the request that is arriving or being answered.
        held: `received`, and what is not yet read of answers.
        unread: what was not yet read of answers at the time of `since`.
        surplus: whether there was no place for it any more.
    """

    def __init__(self, *args: Any, pool: Pool, **options: Any) -> None:
        super().__init__(*args, **options)
        self.conn = BoundedHTTP(pool.limits)
        self.pool = pool
        self.since, self.received, self.held, self.unread = 0.0, 0, 0, 0
        self.surplus = False

    @property
    def address(self) -> str:
        """The host of the client."""
        return self.client[0] if self.client else ""

    @property
    def waits_for_client(self) -> bool:
        """Whether the client has to send or to read before anything happens."""
        unread = self.transport.get_write_buffer_size()
        return bool(unread) or self.conn.their_state in (h11.IDLE, h11.SEND_BODY)

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begin to wait for the head of a request."""
        super().connection_made(transport)
        # The head and the body of an answer are written one after the other; a system that waits
        # for the client to acknowledge the first waits 40 ms. asyncio forgoes that only on sockets
        # whose protocol is named, which those of `socket.create_server` leave out.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.since = self.loop.time()
        self.pool.admit(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Free its place and what it held."""
        super().connection_lost(exc)
        self._forget()

    def data_received(self, data: bytes) -> None:
        """Take a part of a request."""
        if self.surplus:
            self._refuse(503, "there are too many connections already, try again later")
            return
        if self.conn.their_state is h11.IDLE and not self.received:
            self.since = self.loop.time()
        # What is longer is dropped as it comes.
        self.received = min(self.received + len(data), self.pool.limits.request)
        self._account()
        if self.received > PART and not self.pool.make_room(self.loop.time()):
            self._refuse(503, "too much is being sent already, try again later")
            return
        for start in range(0, len(data), PART):
            if not self.transport.is_closing():
                before = self.conn.their_state
                super().data_received(data[start : start + PART])
                if self.conn.their_state is not before:
                    self.since = self.loop.time()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request, of which a part may be there."""
        self.since, self.received = self.loop.time(), len(self.conn.trailing_data[0])
        self._account()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Count what the client does not read."""
        super().pause_writing()
        self._account()

    def resume_writing(self) -> None:
        """Count what the client has read."""
        super().resume_writing()
        self._account()

    def shutdown(self) -> None:
        """End it as soon as what it was asked is answered."""
        try:
            super().shutdown()
        except h11.LocalProtocolError:  # what was sent is no HTTP
            self.abort()

    def abort(self) -> None:
        """End it at once, whatever has not been read."""
        self._forget()
        self.transport.abort()

    def check(self, now: float) -> None:
        """End it if its client takes too long."""
        self._account()
        unread = self.transport.get_write_buffer_size()
        # An answer begins to wait, was read on, or is read to the end.
        if (unread > 0) != (self.unread > 0) or not 0 <= self.unread - unread < STEP:
            self.since, self.unread = now, unread
        limits, waited = self.pool.limits, now - self.since
        if unread:
            if waited > limits.write_timeout:
                self.abort()
        elif self.conn.their_state is h11.SEND_BODY:
            # Where a body is read, its own time is over before.
            if waited > limits.read_timeout + PATIENCE:
                self.abort()
        elif self.conn.their_state is h11.IDLE:
            if not self.received and waited > limits.idle_timeout:
                self.transport.close()
            elif self.received and waited > limits.read_timeout:
                seconds = f"{limits.read_timeout:g} seconds"
                self._refuse(408, f"the head of a request did not arrive within {seconds}")

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP; uvicorn would do so in plain text."""
        error = sys.exception()
        status = getattr(error, "error_status_hint", 400)
        self._refuse(status, f"this is no request of HTTP/1.1: {error}")

    def _refuse(self, status: int, description: str) -> None:
        """Answer without the application, if nothing was answered yet, and end the connection."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            headers = {"Connection": "close"} | ({"Retry-After": "1"} if status == 503 else {})
            self.transport.write(_as_bytes(Refusal(status, description, headers=headers)))
        self.transport.close()

    def _account(self) -> None:
        held = self.received + self.transport.get_write_buffer_size()
        self.pool.held += held - self.held
        self.held = held

    def _forget(self) -> None:
        self.pool.connections.discard(self)
        self.pool.held -= self.held
        self.held = self.received = 0


def _as_bytes(refusal: Refusal) -> bytes:
    """A refusal as it is sent."""
    response = refusal.response()
    status = HTTPStatus(response.status_code)
    lines = [b"HTTP/1.1 %d %s" % (status.value, status.phrase.encode())]
    lines += [name + b": " + value for name, value in response.raw_headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + response.body
