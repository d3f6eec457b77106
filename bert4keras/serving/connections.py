"""Connections, with limits of their number, of the time that clients take, and of memory.

uvicorn makes a `Connection` for each, which adds these limits to the protocol of uvicorn. Its own
protocol does not limit the time until a request begins or an answer is read.
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

MAX_HEADER_LINES = 200
"""Maximum number of header lines of a request; h11 takes microseconds for each."""
END_OF_HEADERS = re.compile(rb"\n\r?\n")
READ_STEP = 1 << 16
"""Bytes of an answer that a client must read within `write_timeout`."""
CHUNK_SIZE = 1 << 14
"""Bytes processed at once, also when memory is short; also the maximum size of trailers."""
GRACE_PERIOD = 1.0
"""Seconds that a client has in any case before its connection may be closed for others."""


class Pool:
    """All connections of a server.

    Attributes:
        max_connections: maximum number of connections.
        connections: the open connections.
        buffered: bytes of unanswered requests and of unread answers.
        stopping: whether new connections are closed immediately.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.max_connections = limits.connections
        self.connections: set[Connection] = set()
        self.buffered = 0
        self.stopping = False

    def admit(self, connection: "Connection") -> None:
        """Add a new connection; if there are too many, close others that wait for clients."""
        excess = len(self.connections) + 1 - self.max_connections
        # Several at once, since the search takes time for every open connection.
        if excess > 0 and not self._evict(excess + self.max_connections // 16):
            connection.over_limit = True
        self.connections.add(connection)
        if self.stopping:
            connection.transport.close()

    def _evict(self, count: int) -> int:
        """Abort connections that wait for clients: most per address first, then the longest."""
        victims = [each for each in self.connections if each.waits_for_client]
        per_address = Counter(each.address for each in victims)
        victims.sort(key=lambda each: (-per_address[each.address], each.since))
        for each in victims[:count]:
            each.abort()
        return len(victims[:count])

    def free_memory(self, now: float) -> bool:
        """Abort connections with buffered data and slow clients; return whether memory suffices."""
        if self.buffered > self.limits.memory:
            for each in sorted(self.connections, key=lambda each: each.since):
                if (
                    each.buffered > CHUNK_SIZE
                    and each.waits_for_client
                    and now - each.since > GRACE_PERIOD
                ):
                    each.abort()
                if self.buffered <= self.limits.memory:
                    break
        return self.buffered <= self.limits.memory

    def check(self) -> None:
        """Close connections whose clients take too long."""
        now = asyncio.get_running_loop().time()
        for each in list(self.connections):
            each.check(now)
        self.free_memory(now)


class LimitedHTTP(h11.Connection):
    """HTTP/1.1 with limits of the headers and trailers of a request and of its number of chunks.

    Attributes:
        lines: number of lines received so far of the headers, and possibly of data after them.
        chunks: number of chunks of the body, or of the parts in which it was received.
    """

    def __init__(self, limits: Limits) -> None:
        super().__init__(h11.SERVER, limits.request)
        self.max_chunks = limits.chunks
        self.lines = self.chunks = 0

    def receive_data(self, data: bytes) -> None:
        """Receive a part of a request."""
        if self.their_state is h11.IDLE:
            self.lines += data.count(b"\n")
        super().receive_data(data)

    def start_next_cycle(self) -> None:
        """Begin the next request, of which a part may have been received already."""
        super().start_next_cycle()
        self.lines = self.trailing_data[0].count(b"\n")

    def next_event(self) -> Any:
        """Return the next event, unless a request is beyond the limits."""
        if self.lines > MAX_HEADER_LINES and self.their_state is h11.IDLE:
            headers = END_OF_HEADERS.split(self.trailing_data[0], maxsplit=1)[0]
            if headers.count(b"\n") > MAX_HEADER_LINES:
                message = f"it has more than {MAX_HEADER_LINES} lines of headers"
                raise h11.RemoteProtocolError(message, error_status_hint=431)
        event = super().next_event()
        if isinstance(event, h11.Request):
            self.lines = self.chunks = 0
        elif isinstance(event, h11.Data):
            self.chunks += 1
            if self.chunks > self.max_chunks:
                message = f"its body has more than {self.max_chunks} chunks"
                raise h11.RemoteProtocolError(message, error_status_hint=413)
        # Data of a body are returned as they arrive, so this is a chunk header or trailers.
        elif (
            event is h11.NEED_DATA
            and self.their_state is h11.SEND_BODY
            and len(self.trailing_data[0]) > CHUNK_SIZE
        ):
            raise h11.RemoteProtocolError("too much data after its body", error_status_hint=431)
        return event


class Connection(H11Protocol):
    """The protocol of uvicorn for one connection, within the limits of a pool.

    Attributes:
        since: when it began to wait for its client, by the clock of the event loop.
        received: bytes of the request that is being received or answered.
        buffered: `received` plus the unread bytes of answers.
        unread: unread bytes of answers at the time of `since`.
        over_limit: whether it exceeds the maximum number of connections.
    """

    def __init__(self, *args: Any, pool: Pool, **options: Any) -> None:
        super().__init__(*args, **options)
        self.conn = LimitedHTTP(pool.limits)
        self.pool = pool
        self.since, self.received, self.buffered, self.unread = 0.0, 0, 0, 0
        self.over_limit = False

    @property
    def address(self) -> str:
        """The host of the client."""
        return self.client[0] if self.client else ""

    @property
    def waits_for_client(self) -> bool:
        """Whether nothing happens until the client sends or reads data."""
        unread = self.transport.get_write_buffer_size()
        return bool(unread) or self.conn.their_state in (h11.IDLE, h11.SEND_BODY)

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begin to wait for the headers of a request."""
        super().connection_made(transport)
        # The headers and the body of an answer are written one after the other; with Nagle's
        # algorithm the system would wait 40 ms for an acknowledgement in between. asyncio turns it
        # off only for sockets that name their protocol, unlike those of `socket.create_server`.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.since = self.loop.time()
        self.pool.admit(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection from the pool, with its memory."""
        super().connection_lost(exc)
        self._release()

    def data_received(self, data: bytes) -> None:
        """Receive a part of a request."""
        if self.over_limit:
            self._refuse(503, "there are too many connections: try again later")
            return
        if self.conn.their_state is h11.IDLE and not self.received:
            self.since = self.loop.time()
        # Data beyond that are dropped as they arrive.
        self.received = min(self.received + len(data), self.pool.limits.request)
        self._update_buffered()
        if self.received > CHUNK_SIZE and not self.pool.free_memory(self.loop.time()):
            self._refuse(503, "the server is receiving too much data: try again later")
            return
        for start in range(0, len(data), CHUNK_SIZE):
            if not self.transport.is_closing():
                before = self.conn.their_state
                super().data_received(data[start : start + CHUNK_SIZE])
                if self.conn.their_state is not before:
                    self.since = self.loop.time()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request, of which a part may have been received already."""
        self.since, self.received = self.loop.time(), len(self.conn.trailing_data[0])
        self._update_buffered()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Count the data that the client does not read."""
        super().pause_writing()
        self._update_buffered()

    def resume_writing(self) -> None:
        """Count the data that the client has read."""
        super().resume_writing()
        self._update_buffered()

    def shutdown(self) -> None:
        """Close the connection as soon as its request is answered."""
        try:
            super().shutdown()
        except h11.LocalProtocolError:  # the client did not send HTTP
            self.abort()

    def abort(self) -> None:
        """Close the connection immediately, with data unread."""
        self._release()
        self.transport.abort()

    def check(self, now: float) -> None:
        """Close the connection if its client takes too long."""
        self._update_buffered()
        unread = self.transport.get_write_buffer_size()
        # An answer has begun to wait, or the client has read a step or all of it.
        if (unread > 0) != (self.unread > 0) or not 0 <= self.unread - unread < READ_STEP:
            self.since, self.unread = now, unread
        limits, waited = self.pool.limits, now - self.since
        if unread:
            if waited > limits.write_timeout:
                self.abort()
        elif self.conn.their_state is h11.SEND_BODY:
            # If an endpoint reads the body, its own timeout has ended before.
            if waited > limits.read_timeout + GRACE_PERIOD:
                self.abort()
        elif self.conn.their_state is h11.IDLE:
            if not self.received and waited > limits.idle_timeout:
                self.transport.close()
            elif self.received and waited > limits.read_timeout:
                seconds = f"{limits.read_timeout:g} seconds"
                self._refuse(408, f"the headers of a request did not arrive within {seconds}")

    def send_400_response(self, msg: str) -> None:
        """Answer invalid HTTP in JSON; uvicorn would do so in plain text."""
        error = sys.exception()
        status = getattr(error, "error_status_hint", 400)
        self._refuse(status, f"invalid HTTP/1.1 request: {error}")

    def _refuse(self, status: int, description: str) -> None:
        """Send an error response, unless an answer has begun, and close the connection."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            headers = {"Connection": "close"} | ({"Retry-After": "1"} if status == 503 else {})
            self.transport.write(_as_bytes(Refusal(status, description, headers=headers)))
        self.transport.close()

    def _update_buffered(self) -> None:
        buffered = self.received + self.transport.get_write_buffer_size()
        self.pool.buffered += buffered - self.buffered
        self.buffered = buffered

    def _release(self) -> None:
        self.pool.connections.discard(self)
        self.pool.buffered -= self.buffered
        self.buffered = self.received = 0


def _as_bytes(refusal: Refusal) -> bytes:
    """Encode an error response as HTTP."""
    response = refusal.response()
    status = HTTPStatus(response.status_code)
    lines = [b"HTTP/1.1 %d %s" % (status.value, status.phrase.encode())]
    lines += [name + b": " + value for name, value in response.raw_headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + response.body
