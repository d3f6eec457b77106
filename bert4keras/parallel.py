"""Application of a function to many items by several processes or threads."""

# ruff: noqa: NPY002 - scripts make random numbers reproducible by np.random.seed

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
    """Apply a function to all items with several workers, and yield results when they are ready.

    Args:
        func: a function of one item. If processes are not forked (start method `spawn` or
            `forkserver` of `multiprocessing`), it must be importable from a module.
        iterable: the items, any number of them, read only as fast as they are processed.
        workers: number of processes or threads. Processes are terminated after the last item, or at
            once if anything fails or the generator is closed.
        max_queue_size: maximal number of items in progress; 0 for no limit.
        dummy: whether to use threads instead of processes.
        random_seeds: the seeds of `numpy.random` in the processes. True seeds each from the system,
            so that forked processes have different states, and so are processes for which a list
            has no seed; False keeps the state. Threads share one state, which is not changed.

    Yields:
        The index of the item and its result.

    Raises:
        ValueError: there are no workers.
        TypeError: `func` cannot be sent to a process.
        RuntimeError: `func` ended its process, or an item, a result or an exception cannot be sent
            between processes; the message names the item.
        Exception: any exception of `func`, with the traceback of the worker as its cause and a note
            that names the item.
    """
    if workers < 1:
        raise ValueError(f"parallel_apply: workers is {workers}: give at least 1")
    processes = None if dummy else _Processes(func, workers, random_seeds)
    call = functools.partial(_call_named, processes.call if processes else func)
    # Each process has a thread that waits for it.
    executor = ThreadPoolExecutor(workers)
    items = enumerate(iterable)
    indices: dict[Future, int] = {}
    ready: queue.SimpleQueue[Future] = queue.SimpleQueue()
    try:
        while True:
            n_free = max_queue_size - len(indices) if max_queue_size > 0 else None
            for i, item in itertools.islice(items, n_free):
                future = executor.submit(call, i, item)
                indices[future] = i
                future.add_done_callback(ready.put)
            if not indices:
                break
            future = ready.get()
            yield indices.pop(future), future.result()
    finally:
        if processes is not None and indices:
            processes.interrupt()
        executor.shutdown(cancel_futures=True)
        if processes is not None:
            processes.end()


def _call_named(func: Callable[[Any], Any], number: int, item: object) -> Any:
    """Call a function in a thread; errors name the item."""
    try:
        return func(item)
    except BaseException as caught:
        error = caught
    name = f"parallel_apply: item {number}, {reprlib.repr(item)}"
    if isinstance(error, _WorkerError):
        raise RuntimeError(f"{name}: {error}") from error.__cause__
    if not isinstance(error, Exception):  # would end the caller silently
        raise RuntimeError(f"{name}: the function failed ({error!r})") from error
    error.add_note(name)
    raise error


class _WorkerError(Exception):
    """Failure of a worker other than an exception of the function."""


class _WorkerTraceback(Exception):
    """Traceback of an exception in another process, as text."""


class _Processes:
    """Worker processes, each connected by a pipe.

    Args:
        func: the function that they call.
        count: number of processes.
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
                # A pipe is closed only when no other process holds its other end.
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
        """Let a free process work on an item; called by as many threads as there are processes."""
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
            while not pipe.poll(1):  # a process started by it may keep the pipe open
                if not process.is_alive() and not pipe.poll():
                    raise EOFError
            received = pipe.recv_bytes()
        except (EOFError, OSError) as error:
            process.join(1)
            raise _WorkerError(f"its process {_exit_description(process.exitcode)}") from error
        try:
            result, error, traceback = pickle.loads(received)
        except Exception as error:
            raise _WorkerError(f"its result cannot be received ({error!r})") from error
        if error is None:
            return result
        raise error from _WorkerTraceback(f"in the worker:\n{traceback}")

    def interrupt(self) -> None:
        """Terminate all processes, even those that are working."""
        for process, _ in self._all:
            process.terminate()
        self._wait()

    def end(self) -> None:
        """End all processes, none of which is working any more."""
        for _, pipe in self._all:
            pipe.close()
        self._wait()

    def _wait(self) -> None:
        for process, _ in self._all:
            process.join(1)
            if process.is_alive():  # the function prevents it from ending
                process.kill()
                process.join()


def _check_sendable(func: Callable[[Any], Any]) -> None:
    try:
        pickle.dumps(func)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TypeError(
            f"parallel_apply: {func!r} cannot be sent to a process ({error}): define it at the "
            "top level of a module, or use dummy=True for threads"
        ) from error


def _seeds(count: int, random_seeds: bool | Sequence[int | None] | None) -> list[Any]:
    """Return the seeds of `count` processes, False to keep the state."""
    if not random_seeds:
        return [False] * count
    given = [] if random_seeds is True else random_seeds
    return list(itertools.islice(itertools.chain(given, itertools.repeat(None)), count))


def _exit_description(exitcode: int | None) -> str:
    if exitcode is None:
        return "has closed the pipe to it"
    if exitcode >= 0:
        return f"ended with status {exitcode}"
    hint = ", possibly for lack of memory" if -exitcode == signal.SIGKILL else ""
    return f"was ended by {signal.Signals(-exitcode).name}{hint}"


def _work(func: Callable[[Any], Any], pipe: Any, seed: Any, inherited: Sequence[Any]) -> None:
    """Work on items, in a worker process, until the pipe is closed."""
    for other in inherited:
        other.close()
    # Ctrl-C ends the caller, which ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if seed is not False:
        np.random.seed(seed)
    with contextlib.suppress(EOFError, OSError):
        while True:
            pipe.send_bytes(_response(func, pipe.recv_bytes()))


def _response(func: Callable[[Any], Any], received: bytes) -> bytes:
    """Call the function; return its serialized result, or an exception and its traceback."""
    what = "it cannot be received by a process"
    try:
        item = pickle.loads(received)
        what = "the function failed"
        result = func(item)
        what = "its result cannot be sent from a process"
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
        func: a function of one item, as in `parallel_apply_generator`.
        iterable: the items.
        workers: number of processes or threads.
        max_queue_size: maximal number of items in progress; 0 for no limit.
        callback: called in this process with every result.
        dummy: whether to use threads instead of processes.
        random_seeds: the seeds of `numpy.random`, as in `parallel_apply_generator`.
        unordered: whether to take results when they are ready; False keeps the order of the items.

    Returns:
        The results, or None if there is a `callback`.

    Raises:
        RuntimeError, Exception: as in `parallel_apply_generator`.
    """
    pairs = parallel_apply_generator(func, iterable, workers, max_queue_size, dummy, random_seeds)
    # Closed, so that no process is left running if a callback fails.
    with contextlib.closing(pairs):
        results = (result for _, result in (pairs if unordered else _in_order(pairs)))
        if callback is None:
            return list(results)
        for result in results:
            callback(result)
        return None


def _in_order(pairs: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
    """Yield numbered results in order, holding them back until all previous ones are ready."""
    waiting: dict[int, Any] = {}
    next_index = 0
    for i, result in pairs:
        waiting[i] = result
        while next_index in waiting:
            yield next_index, waiting.pop(next_index)
            next_index += 1
