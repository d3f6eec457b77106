"""The thread in which all functions run, and the calls that wait for it."""

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bert4keras.serving.answers import FUNCTION_FAILED, Refusal, encoded
from bert4keras.serving.routes import Route

_logger = logging.getLogger("bert4keras.serving")


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

    def succeed(self, answer: Any) -> None:
        """Give what the function returned, if JSON can hold it."""
        try:
            self.future.set_result(encoded(answer))
        except Exception as error:
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Refuse the request; the log has the error."""
        path = self.route.path
        # The message may hold what clients should not see, so they are not told.
        _logger.error("the function of %s failed", path, exc_info=error)
        message = f"the function of {path} failed, the log of the server says why"
        self.future.set_exception(Refusal(500, message, code=FUNCTION_FAILED))


class Worker:
    """Answers calls one batch after the other, so that a model is never called by two threads.

    Args:
        max_waiting: calls that wait at most.
    """

    def __init__(self, max_waiting: int):
        self.max_waiting = max_waiting
        self._waiting: deque[Call] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        # A function that never returns must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="WebServing", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Let the thread finish what waits, and wait for it."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def submit(self, call: Call) -> None:
        """Put a call at the end of the queue.

        Raises:
            Refusal: the queue is full.
        """
        with self._changed:
            if len(self._waiting) >= self.max_waiting:
                raise Refusal(
                    503,
                    f"{self.max_waiting} requests are waiting already, try again later",
                    headers={"Retry-After": "1"},
                )
            self._waiting.append(call)
            self._changed.notify()

    def _run(self) -> None:
        while batch := self._next():
            running = [call for call in batch if call.future.set_running_or_notify_cancel()]
            if running:
                _answer(running)

    def _next(self) -> list[Call]:
        """Wait for calls that are answered together; none once there are no more."""
        with self._changed:
            while not self._waiting:
                if self._stopping:
                    return []
                self._changed.wait()
            first = self._waiting[0]
            size = first.route.batch_size or 1
            until = first.since + first.route.max_wait
            while (
                sum(map(first.joins, self._waiting)) < size
                and not self._stopping
                and (left := until - time.monotonic()) > 0
            ):
                self._changed.wait(left)
            batch = [call for call in self._waiting if first.joins(call)][:size]
            for call in batch:
                self._waiting.remove(call)
            return batch


def _answer(calls: list[Call]) -> None:
    try:
        answers = _results(calls)
    # Whatever it is, also SystemExit: without this thread all others would wait for ever.
    except BaseException as error:
        if len(calls) == 1:
            calls[0].fail(error)
            return
    else:
        for call, answer in zip(calls, answers, strict=True):
            call.succeed(answer)
        return
    # Not where the error is handled, or it would be in the log of each that fails by itself.
    for call in calls:
        _answer([call])


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
