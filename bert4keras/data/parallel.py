"""A function applied to many items by several processes or threads."""

# ruff: noqa: NPY002 - scripts make random numbers repeatable by np.random.seed

import contextlib
import functools
import itertools
import multiprocessing
import pickle
import queue
import reprlib
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np


def parallel_apply_generator(
    func: Callable[[Any], Any],
    iterable: Iterable,
    workers: int,
    max_queue_size: int,
    dummy: bool = False,
    random_seeds: bool | Sequence[int | None] | None = True,
) -> Iterator[tuple[int, Any]]:
    """Apply a function to all items with several workers; results come as they are ready.

    Args:
        func: a function of one item. Where processes are not forked (`multiprocessing` calls the
            start method `spawn` or `forkserver`) it has to be importable from a module.
        iterable: the items, any number of them, read only as fast as they are worked on.
        workers: how many processes or threads. Processes are ended with the last item, and at once
            if anything fails or nobody takes the results any more.
        max_queue_size: how many items may be under way at a time; 0 for any number.
        dummy: threads in place of processes.
        random_seeds: the seed of `numpy.random` in each process. True seeds from the system, so
            that forked processes do not repeat each other, and so it is for processes that a list
            has no seed for; False leaves the state as it is. Threads share one state, which stays
            untouched.

    Yields:
        The number of the item and its result.

    Raises:
        ValueError: there are no workers.
        TypeError: `func` cannot be sent to a process.
        RuntimeError: `func` ended its process, or an item, a result or an exception cannot be sent
            between processes; it names the item.
        Exception: what `func` raised, with the traceback of the worker as its cause and a note
            that names the item.
    """
    if workers < 1:
        raise ValueError(f"parallel_apply: workers is {workers}, give at least 1")
    processes = None if dummy else _Processes(func, workers, random_seeds)
    call = functools.partial(_call_named, processes.call if processes else func)
    # For each process there is a thread, which waits for it.
    executor = ThreadPoolExecutor(workers)
    items = enumerate(iterable)
    numbers: dict[Future, int] = {}
    ready: queue.SimpleQueue[Future] = queue.SimpleQueue()
    try:
        while True:
            room = max_queue_size - len(numbers) if max_queue_size > 0 else None
            for i, item in itertools.islice(items, room):
                future = executor.submit(call, i, item)
                numbers[future] = i
                future.add_done_callback(ready.put)
            if not numbers:
                break
            future = ready.get()
            yield numbers.pop(future), future.result()
    finally:
        if processes is not None and numbers:
            processes.interrupt()
        executor.shutdown(cancel_futures=True)
        if processes is not None:
            processes.end()


def _call_named(func: Callable[[Any], Any], number: int, item: object) -> Any:
    """Call a function in a thread; what fails names the item."""
    try:
        return func(item)
    except BaseException as caught:
        error = caught
    name = f"parallel_apply: item {number}, {reprlib.repr(item)}"
    if isinstance(error, _WorkerError):
        raise RuntimeError(f"{name}: {error}") from error.__cause__
    if not isinstance(error, Exception):  # would end the caller without a word
        raise RuntimeError(f"{name}: the function failed ({error!r})") from error
    error.add_note(name)
    raise error


class _WorkerError(Exception):
    """What went wrong with a worker, apart from exceptions of the function."""


class _WorkerTraceback(Exception):
    """The traceback of an exception in another process, as text."""


class _Processes:
    """Worker processes, to each of which a pipe leads.

    Args:
        func: what they call.
        count: how many.
        random_seeds: as in `parallel_apply_generator`.
    """

    def __init__(
        self,
        func: Callable[[Any], Any],
        count: int,
        random_seeds: bool | Sequence[int | None] | None,
    ):
        context = multiprocessing.get_context()
        forked = context.get_start_method() == "fork"
        if not forked:
            _check_sendable(func)
        self._free: queue.SimpleQueue = queue.SimpleQueue()
        self._all: list[tuple[Any, Any]] = []
        try:
            for seed in _seeds(count, random_seeds):
                ours, theirs = context.Pipe()
                # A pipe ends when nobody else holds its other end.
                inherited = [pipe for _, pipe in self._all] + [ours] if forked else []
                arguments = (func, theirs, seed, inherited)
                process = context.Process(target=_work, args=arguments, daemon=True)
                process.start()
                theirs.close()
                self._all.append((process, ours))
                self._free.put((process, ours))
        except BaseException:
            self.end()
            raise

    def call(self, item: object) -> Any:
        """Have a process that is free work on an item; called by as many threads at a time."""
        process, pipe = self._free.get()
        try:
            return self._exchange(process, pipe, item)
        finally:
            self._free.put((process, pipe))

    def _exchange(self, process: Any, pipe: Any, item: object) -> Any:
        try:
            sent = pickle.dumps(item)
        except Exception as error:
            raise _WorkerError(f"it cannot be sent to a process ({error!r})") from error
        try:
            pipe.send_bytes(sent)
            while not pipe.poll(1):  # a process that it has started may hold the pipe open
                if not process.is_alive() and not pipe.poll():
                    raise EOFError
            received = pipe.recv_bytes()
        except (EOFError, OSError) as error:
            process.join(1)
            raise _WorkerError(f"its process {_way_of_ending(process.exitcode)}") from error
        try:
            result, error, traceback = pickle.loads(received)
        except Exception as error:
            raise _WorkerError(f"what it returned cannot be received ({error!r})") from error
        if error is None:
            return result
        raise error from _WorkerTraceback(f"in the worker:\n{traceback}")

    def interrupt(self) -> None:
        """End all processes, also those that work."""
        for process, _ in self._all:
            process.terminate()
        self._wait()

    def end(self) -> None:
        """End all processes, of which none works any more."""
        for _, pipe in self._all:
            pipe.close()
        self._wait()

    def _wait(self) -> None:
        for process, _ in self._all:
            process.join(1)
            if process.is_alive():  # what it called does not let it end
                process.kill()
                process.join()


def _check_sendable(func: Callable[[Any], Any]) -> None:
    try:
        pickle.dumps(func)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TypeError(
            f"parallel_apply: {func!r} cannot be sent to a process ({error}); define it at the "
            "top of a module, or use dummy=True for threads"
        ) from error


def _seeds(count: int, random_seeds: bool | Sequence[int | None] | None) -> list[Any]:
    """The seed of each of `count` processes, False where the state is left as it is."""
    if not random_seeds:
        return [False] * count
    given = [] if random_seeds is True else random_seeds
    return list(itertools.islice(itertools.chain(given, itertools.repeat(None)), count))


def _way_of_ending(exitcode: int | None) -> str:
    if exitcode is None:
        return "has closed the pipe to it"
    if exitcode >= 0:
        return f"ended with status {exitcode}"
    hint = ", maybe for lack of memory" if -exitcode == signal.SIGKILL else ""
    return f"was ended by {signal.Signals(-exitcode).name}{hint}"


def _work(func: Callable[[Any], Any], pipe: Any, seed: Any, inherited: Sequence[Any]) -> None:
    """Work on items, in a process of its own, until the pipe ends."""
    for other in inherited:
        other.close()
    # Who presses Ctrl-C ends the caller, which ends this.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if seed is not False:
        np.random.seed(seed)
    with contextlib.suppress(EOFError, OSError):
        while True:
            pipe.send_bytes(_answer(func, pipe.recv_bytes()))


def _answer(func: Callable[[Any], Any], received: bytes) -> bytes:
    """Call the function; give its result, or an exception and its traceback, as it is sent."""
    what = "it cannot be received by a process"
    try:
        item = pickle.loads(received)
        what = "the function failed"
        result = func(item)
        what = "what it returned cannot be sent from a process"
        return pickle.dumps((result, None, None))
    except BaseException as caught:
        error, text = caught, traceback.format_exc()
    if what != "the function failed" or not isinstance(error, Exception):
        error = _WorkerError(f"{what} ({error!r})")
    try:
        sent = pickle.dumps((None, error, text))
        pickle.loads(sent)
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
        sent = pickle.dumps((None, error, text))
    return sent


def parallel_apply(
    func: Callable[[Any], Any],
    iterable: Iterable,
    workers: int,
    max_queue_size: int,
    callback: Callable[[Any], Any] | None = None,
    dummy: bool = False,
    random_seeds: bool | Sequence[int | None] | None = True,
    unordered: bool = True,
) -> list | None:
    """Apply a function to all items with several workers.

    Args:
        func: see `parallel_apply_generator`, as for all arguments not named here.
        iterable: the items.
        workers: how many processes or threads.
        max_queue_size: how many items may be under way at a time; 0 for any number.
        callback: called in this process with every result.
        dummy: threads in place of processes.
        random_seeds: the seed of `numpy.random` in each process.
        unordered: take results as they are ready; False keeps the order of the items.

    Returns:
        The results, or None if there is a `callback`.

    Raises:
        RuntimeError, Exception: see `parallel_apply_generator`.
    """
    pairs = parallel_apply_generator(func, iterable, workers, max_queue_size, dummy, random_seeds)
    # Closed, so that no process is left where a callback fails.
    with contextlib.closing(pairs):
        results = (result for _, result in (pairs if unordered else _in_order(pairs)))
        if callback is None:
            return list(results)
        for result in results:
            callback(result)
        return None


def _in_order(pairs: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
    """Hold numbered results back until all those before them have come."""
    waiting: dict[int, Any] = {}
    following = 0
    for i, result in pairs:
        waiting[i] = result
        while following in waiting:
            yield following, waiting.pop(following)
            following += 1
