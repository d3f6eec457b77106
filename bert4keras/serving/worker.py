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

from bert4keras.serving.answers import FUNCTION_FAILED, Refusal, encoded
from bert4keras.serving.limits import Limits
from bert4keras.serving.logs import LOGGER, log_failure
from bert4keras.serving.routes import Route


@dataclass(frozen=True, eq=False)
class Call:
    """A request whose arguments are read; the future becomes the body of the answer."""

    route: Route
    values: dict[str, Any]
    future: Future[bytes] = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)

    def joins(self, other: "Call") -> bool:
        """Tell whether both can be answered together."""
        return self.route is other.route and self.values.keys() == other.values.keys()

    def converted(self) -> bool:
        """Have the functions that are converters convert their arguments; whether they did."""
        try:
            for name in self.route.converted:
                if name in self.values:
                    self.values[name] = self.route.arguments[name].convert(self.values[name])
        except Refusal as refusal:
            self.refuse(refusal)
            return False
        return True

    def succeed(self, answer: Any) -> None:
        """Give what the function returned, if JSON can hold it."""
        try:
            body = encoded(answer)
        except BaseException as error:
            self.fail(error)
            return
        with suppress(InvalidStateError):  # it was given up
            self.future.set_result(body)

    def fail(self, error: BaseException) -> None:
        """Refuse the request; the log has the error."""
        path = self.route.path
        # The message may hold what clients should not see, so they are not told.
        message = f"the function of {path} failed, the log of the server says why"
        self.refuse(Refusal(500, message, code=FUNCTION_FAILED))
        log_failure(logging.ERROR, f"the function of {path} failed", error)

    def refuse(self, refusal: Refusal) -> None:
        """Give no answer, unless there is one."""
        with suppress(InvalidStateError):
            self.future.set_exception(refusal)


@dataclass
class Turn:
    """The calls that are being answered, and when their function was called."""

    calls: list[Call]
    since: float = field(default_factory=time.monotonic)

    @property
    def route(self) -> Route:
        """What they call."""
        return self.calls[0].route


class Worker:
    """Answers calls one batch after the other, so that a model is never called by two threads.

    A call that takes longer than `call_timeout` is given up: its thread is left alone, since none
    can be ended from outside, and another one goes on with the other routes. The route of the call
    takes no more until its function has returned, so that there is at most one thread for each.
    """

    def __init__(self, limits: Limits):
        self.limits = limits
        self._waiting: deque[Call] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._given_up: set[Route] = set()
        self._turn: Turn | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to answer, in a new thread."""
        # A function that never returns must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="WebServing", daemon=True)
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Let the thread finish what waits, and wait for it so many seconds at most."""
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
            if call.route in self._given_up:
                raise _unreturned(call.route)
            if len(self._waiting) >= self.limits.max_waiting:
                raise Refusal(
                    503,
                    f"{self.limits.max_waiting} requests are waiting already, try again later",
                    headers={"Retry-After": "1"},
                )
            self._waiting.append(call)
            self._changed.notify()

    def withdraw(self, call: Call) -> None:
        """Free the place of a call that nobody waits for any more."""
        call.future.cancel()
        with self._changed, suppress(ValueError):
            self._waiting.remove(call)

    def give_up_late(self) -> None:
        """Give up the function that runs if it takes too long, and go on without it."""
        with self._changed:
            turn = self._turn
            if turn is None or time.monotonic() - turn.since <= self.limits.call_timeout:
                return
            self._given_up.add(turn.route)
            self._turn = None
            waiting = [call for call in self._waiting if call.route is turn.route]
            for call in waiting:
                self._waiting.remove(call)
            self.start()
        seconds = f"{self.limits.call_timeout:g} seconds"
        message = f"the function of {turn.route.path} did not return within {seconds}"
        LOGGER.error("%s, its thread is left alone", message)
        for call in turn.calls:
            call.refuse(Refusal(504, message))
        for call in waiting:
            call.refuse(_unreturned(turn.route))

    def _run(self) -> None:
        while turn := self._next():
            try:
                self._answer(turn)
            except BaseException:  # without this thread all others would wait for ever
                for call in turn.calls:
                    call.fail(RuntimeError("the calls could not be answered"))
            self._finish(turn)

    def _next(self) -> Turn | None:
        """Wait for calls that are answered together; None if this thread gets no more."""
        with self._changed:
            while self._thread is threading.current_thread():
                if calls := self._batch():
                    self._turn = Turn(calls)
                    return self._turn
                if self._stopping and not self._waiting:
                    break
        return None

    def _batch(self) -> list[Call]:
        """Wait for calls, or for more of them; may give none."""
        if not self._waiting:
            if not self._stopping:
                self._changed.wait()
            return []
        first = self._waiting[0]
        size = first.route.batch_size or 1
        until = first.since + first.route.max_wait
        together = [call for call in self._waiting if first.joins(call)][:size]
        left = until - time.monotonic()
        if len(together) < size and not self._stopping and left > 0:
            self._changed.wait(left)
            return []
        for call in together:
            self._waiting.remove(call)
        return [call for call in together if call.future.set_running_or_notify_cancel()]

    def _answer(self, turn: Turn) -> None:
        """Call the function for all calls of a turn, or for each if that fails."""
        calls = [call for call in turn.calls if call.converted()]
        if len(calls) > 1 and self._call(turn, calls) is None:
            return
        for call in calls:
            if not call.future.done() and (error := self._call(turn, [call])):
                call.fail(error)

    def _call(self, turn: Turn, calls: list[Call]) -> BaseException | None:
        """Answer calls together, unless the function fails; then give the error."""
        turn.since = time.monotonic()
        try:
            answers = list(zip(calls, _results(calls), strict=True))
        # Whatever it is, also SystemExit.
        except BaseException as error:
            return error
        for call, answer in answers:
            call.succeed(answer)
        return None

    def _finish(self, turn: Turn) -> None:
        with self._changed:
            if self._turn is turn:
                self._turn = None
            else:  # it was given up
                self._given_up.discard(turn.route)


def _unreturned(route: Route) -> Refusal:
    message = f"the function of {route.path} has not returned from an earlier call, try again later"
    return Refusal(503, message, headers={"Retry-After": "10"})


def _results(calls: list[Call]) -> Sequence:
    """Call the function once; one result for each call."""
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
