"""The thread in which all functions run, and the calls that wait for it."""

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bert4keras.serving.answers import FUNCTION_FAILED, Refusal, encode_result
from bert4keras.serving.limits import Limits
from bert4keras.serving.logs import LOGGER, log_failure
from bert4keras.serving.routes import Route


@dataclass(frozen=True, eq=False)
class Call:
    """A request with its arguments; the result of the future is the body of the answer."""

    route: Route
    values: dict[str, Any]
    future: Future[bytes] = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)

    def can_join(self, other: "Call") -> bool:
        """Return whether two calls can be in one batch."""
        return self.route is other.route and self.values.keys() == other.values.keys()

    def convert_arguments(self) -> bool:
        """Convert arguments by functions; on failure refuse the request and return False."""
        try:
            for name in self.route.converted:
                if name in self.values:
                    self.values[name] = self.route.arguments[name].convert(self.values[name])
        except Refusal as refusal:
            self.refuse(refusal)
            return False
        return True

    def succeed(self, answer: Any) -> None:
        """Answer with what the function returned, if JSON can represent it."""
        try:
            body = encode_result(answer)
        except BaseException as error:
            self.fail(error)
            return
        with suppress(InvalidStateError):  # the call was cancelled
            self.future.set_result(body)

    def fail(self, error: BaseException) -> None:
        """Refuse the request, and log the error."""
        path = self.route.path
        # The message of the error may contain data that clients should not see.
        message = f"the function of {path} failed: see the log of the server"
        self.refuse(Refusal(500, message, code=FUNCTION_FAILED))
        log_failure(logging.ERROR, f"the function of {path} failed", error)

    def refuse(self, refusal: Refusal) -> None:
        """Refuse the request, unless it is answered already."""
        with suppress(InvalidStateError):
            self.future.set_exception(refusal)


@dataclass
class Batch:
    """The calls being answered, and when their function was called."""

    calls: list[Call]
    since: float = field(default_factory=time.monotonic)

    @property
    def route(self) -> Route:
        """The route of all calls."""
        return self.calls[0].route


class Worker:
    """Answers calls batch by batch in one thread, so that a model is never called by two threads.

    A call that takes longer than `call_timeout` is abandoned: since Python cannot end its thread,
    another thread continues with the other routes. The route of the call refuses requests until its
    function has returned, so that there is at most one abandoned thread for each route.
    """

    def __init__(self, limits: Limits):
        self.limits = limits
        self._waiting: deque[Call] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._hung_routes: set[Route] = set()
        self._running: Batch | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start to answer calls in a new thread."""
        # As a daemon, a function that never returns does not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="WebServing", daemon=True)
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Stop after the waiting calls are answered; wait for that at most `timeout` seconds."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(min(max(timeout, 0), self.limits.stop_timeout))

    def submit(self, call: Call) -> None:
        """Put a call at the end of the queue.

        Raises:
            Refusal: the queue is full, or the function of the route does not return.
        """
        with self._changed:
            if call.route in self._hung_routes:
                raise _hung_error(call.route)
            if len(self._waiting) >= self.limits.max_waiting:
                raise Refusal(
                    503,
                    f"{self.limits.max_waiting} requests are waiting: try again later",
                    headers={"Retry-After": "1"},
                )
            self._waiting.append(call)
            self._changed.notify()

    def cancel(self, call: Call) -> None:
        """Remove a call from the queue, since its client has disconnected or is answered."""
        call.future.cancel()
        with self._changed, suppress(ValueError):
            self._waiting.remove(call)

    def abandon_hung_call(self) -> None:
        """Abandon the running call if it takes too long, and continue in a new thread."""
        with self._changed:
            batch = self._running
            if batch is None or time.monotonic() - batch.since <= self.limits.call_timeout:
                return
            self._hung_routes.add(batch.route)
            self._running = None
            waiting = [call for call in self._waiting if call.route is batch.route]
            for call in waiting:
                self._waiting.remove(call)
            self.start()
        seconds = f"{self.limits.call_timeout:g} seconds"
        message = f"the function of {batch.route.path} did not return within {seconds}"
        LOGGER.error("%s, its thread is abandoned", message)
        for call in batch.calls:
            call.refuse(Refusal(504, message))
        for call in waiting:
            call.refuse(_hung_error(batch.route))

    def _run(self) -> None:
        while batch := self._next():
            try:
                self._answer(batch)
            except BaseException:  # the thread must survive, or all calls would wait for ever
                for call in batch.calls:
                    call.fail(RuntimeError("the calls could not be answered"))
            self._finish(batch)

    def _next(self) -> Batch | None:
        """Wait for the next batch; None if this thread is to end."""
        with self._changed:
            while self._thread is threading.current_thread():
                if calls := self._collect():
                    self._running = Batch(calls)
                    return self._running
                if self._stopping and not self._waiting:
                    break
        return None

    def _collect(self) -> list[Call]:
        """Take calls from the queue, or wait for calls and return none."""
        if not self._waiting:
            if not self._stopping:
                self._changed.wait()
            return []
        first = self._waiting[0]
        size = first.route.batch_size or 1
        until = first.since + first.route.max_wait
        together = [call for call in self._waiting if first.can_join(call)][:size]
        remaining = until - time.monotonic()
        if len(together) < size and not self._stopping and remaining > 0:
            self._changed.wait(remaining)
            return []
        for call in together:
            self._waiting.remove(call)
        return [call for call in together if call.future.set_running_or_notify_cancel()]

    def _answer(self, batch: Batch) -> None:
        """Call the function once for a batch, and for each call separately if that fails."""
        calls = [call for call in batch.calls if call.convert_arguments()]
        if len(calls) > 1 and self._call(batch, calls) is None:
            return
        for call in calls:
            if not call.future.done() and (error := self._call(batch, [call])):
                call.fail(error)

    def _call(self, batch: Batch, calls: list[Call]) -> BaseException | None:
        """Answer calls together; if the function fails, return the error."""
        batch.since = time.monotonic()
        try:
            answers = list(zip(calls, _call_function(calls), strict=True))
        # Any exception, including SystemExit.
        except BaseException as error:
            return error
        for call, answer in answers:
            call.succeed(answer)
        return None

    def _finish(self, batch: Batch) -> None:
        with self._changed:
            if self._running is batch:
                self._running = None
            else:  # it was abandoned
                self._hung_routes.discard(batch.route)


def _hung_error(route: Route) -> Refusal:
    message = f"the function of {route.path} has not returned from an earlier call: try again later"
    return Refusal(503, message, headers={"Retry-After": "10"})


def _call_function(calls: list[Call]) -> Sequence:
    """Call the function once; return one result for each call."""
    route, names = calls[0].route, calls[0].values
    if route.batch_size is None:
        return [route.func(**calls[0].values)]
    answers = route.func(**{name: [call.values[name] for call in calls] for name in names})
    if not isinstance(answers, list | tuple | np.ndarray) or len(answers) != len(calls):
        size = f"of {len(answers)} " if hasattr(answers, "__len__") else ""
        raise TypeError(
            f"a {type(answers).__name__} {size}was returned for a batch of {len(calls)} requests: "
            "return a list or an array with one answer for each"
        )
    return answers
