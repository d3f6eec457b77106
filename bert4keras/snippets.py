"""Numpy-only helpers: text, files, padding, feeding data, parallel work, decoding.

Importing this module starts no Keras, so that worker processes which only tokenize stay light.
"""

# ruff: noqa: NPY002 - scripts make shuffling repeatable by np.random.seed

import builtins
import codecs
import contextlib
import functools
import itertools
import mmap
import multiprocessing
import pickle
import queue
import re
import reprlib
import signal
import sys
import traceback
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import unicodedata2 as unicodedata

if TYPE_CHECKING:
    import tensorflow as tf

    from bert4keras.training import BatchFeed

uniout = None  # Python 2 needed the package of this name to print Chinese; scripts import it still.


# === Text ===


def is_string(s: object) -> bool:
    """Tell whether `s` is text; bytes are not."""
    return isinstance(s, str)


# The full-width forms stand at a fixed distance from ASCII, the ideographic space apart from them.
_HALF_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20}


def strQ2B(ustring: str) -> str:
    """Convert full-width ASCII characters and the ideographic space to their half-width forms."""
    return ustring.translate(_HALF_WIDTH)


def string_matching(s: str, keywords: Iterable[str]) -> bool:
    """Tell whether any of the regular expressions `keywords` is found in `s`."""
    return any(re.search(keyword, s) for keyword in keywords)


def convert_to_unicode(text: str | bytes, encoding: str = "utf-8", errors: str = "ignore") -> str:
    """Decode bytes; text is returned as it is.

    Args:
        text: text or bytes.
        encoding: the encoding of the bytes.
        errors: what happens to bytes that are not valid, as in `bytes.decode`.
    """
    return text.decode(encoding, errors) if isinstance(text, bytes) else text


def convert_to_str(text: str | bytes, encoding: str = "utf-8", errors: str = "ignore") -> str:
    """Convert to `str`, which is what `convert_to_unicode` gives: the two differed in Python 2."""
    return convert_to_unicode(text, encoding, errors)


class _Folding(dict):
    """The table of `str.translate` that lower-cases and drops accents, filled as texts need it."""

    def __missing__(self, code: int) -> str:
        decomposed = unicodedata.normalize("NFD", chr(code).lower())
        folded = "".join(c for c in decomposed if unicodedata.category(c) != "Mn")
        self[code] = folded
        return folded


_FOLDING = _Folding()


def lowercase_and_normalize(text: str, never_split: Iterable[str] = ()) -> str:
    """Lower-case `text` and strip its accents (NFD without the characters of category Mn).

    Every character is converted by itself, whatever stands beside it, so the result of a text is
    that of its characters one after the other. `str.lower` breaks this for the Greek final sigma.

    Args:
        text: the text.
        never_split: tokens, such as `[MASK]`, whose occurrences stay as they are.
    """
    if not never_split:
        return text.translate(_FOLDING)
    kept = "|".join(re.escape(token) for token in never_split)
    pieces = re.split(f"({kept})", text)
    pieces[::2] = [piece.translate(_FOLDING) for piece in pieces[::2]]
    return "".join(pieces)


def truncate_sequences(maxlen: int, indices: int | Sequence[int], *sequences: list) -> list[list]:
    """Shorten lists in place until they hold at most `maxlen` elements together.

    One element after another is removed from the list that is longest at that time, the first of
    several equally long ones.

    Args:
        maxlen: the largest sum of the lengths.
        indices: the position at which elements are removed, `-1` for the end; one for all lists or
            one for each list that is not empty.
        *sequences: the lists; empty ones and None are left out.

    Returns:
        The lists that were not empty.

    Raises:
        ValueError: `maxlen` is negative, or there are fewer indices than lists.
        IndexError: a list would become shorter than its index reaches. No list has changed then.
    """
    if maxlen < 0:
        raise ValueError(f"truncate_sequences: maxlen is {maxlen}, give at least 0")
    sequences = [s for s in sequences if s]
    if isinstance(indices, int | np.integer):
        indices = [indices] * len(sequences)
    if len(indices) < len(sequences):
        raise ValueError(
            f"truncate_sequences: {len(indices)} indices for {len(sequences)} sequences, "
            "give one index for all or one for each"
        )
    cuts = []
    for sequence, index, kept in zip(
        sequences, indices, _shared_lengths(maxlen, [len(s) for s in sequences]), strict=False
    ):
        removed = len(sequence) - kept
        if removed and not -kept - 1 <= index <= kept:
            raise IndexError(
                f"truncate_sequences: to fit into {maxlen}, a sequence of {len(sequence)} would "
                f"keep {kept} elements, too few to remove one at index {index}; give a larger "
                "maxlen or an index nearer to an end"
            )
        start = index if index >= 0 else kept + index + 1
        cuts.append(slice(start, start + removed))
    for sequence, cut in zip(sequences, cuts, strict=True):
        del sequence[cut]
    return sequences


def _shared_lengths(room: int, lengths: list[int]) -> list[int]:
    """Give the lengths that remain when the longest, the first on a tie, gives way one by one."""
    if sum(lengths) <= room:
        return lengths
    # Short sequences stay whole; the others share what is left, and as the first of equals gives
    # way, the last ones keep the elements that cannot be shared evenly.
    share = spare = 0
    for position, length in enumerate(sorted(lengths)):
        share, spare = divmod(room, len(lengths) - position)
        if length > share:
            break
        room -= length
    longer = [i for i, length in enumerate(lengths) if length > share]
    favoured = set(longer[len(longer) - spare :])
    return [min(length, share + (i in favoured)) for i, length in enumerate(lengths)]


def text_segmentate(
    text: str, maxlen: int, seps: str | Sequence[str] = "\n", strips: str | None = None
) -> list[str]:
    """Cut a long text into pieces of about `maxlen` characters at its punctuation.

    The text is cut at the first of `seps`; neighbouring pieces are joined again while they stay
    shorter than `maxlen`, and what is still too long is cut at the next of `seps`. A piece without
    any of the separators stays whole, however long it is.

    Args:
        text: the text.
        maxlen: the length that is aimed at, in characters; a text that is not longer stays whole.
        seps: the separators, the most important first; they stay at the end of their pieces.
        strips: characters to strip from both ends of every piece, after the white space.
    """
    text = text.strip().strip(strips)
    if not seps or len(text) <= maxlen:
        return [text]
    separator = seps[0]
    joined = [""]
    for piece in text.split(separator):
        if joined[-1] and piece and len(joined[-1]) + len(piece) >= maxlen:
            joined.append("")
        joined[-1] += piece + separator
    joined[-1] = joined[-1].removesuffix(separator)
    return [part for piece in joined for part in text_segmentate(piece, maxlen, seps[1:], strips)]


def longest_common_substring(
    source: Sequence, target: Sequence
) -> tuple[int, tuple[int, int, int, int]]:
    """Find the longest run of elements that both sequences hold, the first in `source` on a tie.

    Args:
        source: a text or any sequence.
        target: another one.

    Returns:
        Its length and `(start, end, start, end)`, the slice of `source` and that of `target`.
    """
    longest, span = 0, (0, 0, 0, 0)
    above = [0] * (len(target) + 1)
    for i, x in enumerate(source, 1):
        row = [0] * (len(target) + 1)
        for j, y in enumerate(target, 1):
            if x == y:
                row[j] = above[j - 1] + 1
                if row[j] > longest:
                    longest = row[j]
                    span = (i - longest, i, j - longest, j)
        above = row
    return longest, span


def longest_common_subsequence(
    source: Sequence, target: Sequence
) -> tuple[int, list[tuple[int, int]]]:
    """Find the longest sequence of elements that both sequences hold in this order.

    Args:
        source: a text or any sequence.
        target: another one.

    Returns:
        Its length and, for each of its elements, the pair of positions in `source` and `target`.
    """
    # table[i][j] is the length for the first i elements of source and j of target.
    table = [[0] * (len(target) + 1)]
    for x in source:
        above, row = table[-1], [0]
        for j, y in enumerate(target):
            row.append(above[j] + 1 if x == y else max(row[j], above[j + 1]))
        table.append(row)
    pairs: list[tuple[int, int]] = []
    i, j = len(source), len(target)
    while table[i][j]:
        if source[i - 1] == target[j - 1]:
            i, j = i - 1, j - 1
            pairs.append((i, j))
        elif table[i][j - 1] > table[i - 1][j]:
            j -= 1
        else:
            i -= 1
    return len(pairs), pairs[::-1]


# === Files ===


class open:
    """A file with the methods of the built-in `open`, and its lines by number when `indexable`.

    Args:
        name: path of the file.
        mode: as in the built-in `open`; `r` or `rb` for an indexable file.
        encoding: as in the built-in `open`.
        errors: what happens to bytes that do not fit the encoding, as in the built-in `open`.
        indexable: True reads where each line starts, and `file[i]` and `len(file)` work; a path
            does so too and keeps what was read in this file, for as long as the text is unchanged.
            Lines are read through a memory map, so threads and forked workers may share the file.

    Raises:
        ValueError: an indexable file is opened for writing.
    """

    def __init__(
        self,
        name: str | Path,
        mode: str = "r",
        encoding: str | None = None,
        errors: str = "strict",
        indexable: bool | str | Path = False,
    ):
        self.name = name
        binary = "b" in mode
        self.file = builtins.open(name, mode, encoding=encoding, errors=None if binary else errors)  # noqa: SIM115
        self.encoding = None if binary else self.file.encoding
        self.errors = errors
        self.offsets: np.ndarray | None = None
        self._start, self._line_encoding = 0, self.encoding or "latin-1"
        if indexable:
            self._index(mode, indexable)

    def _index(self, mode: str, indexable: bool | str | Path) -> None:
        if mode.strip("bt") != "r":
            self.file.close()
            raise ValueError(
                f"{self.name}: a file of mode {mode!r} cannot be indexed, open it for reading"
            )
        size = Path(self.name).stat().st_size
        # A map of no bytes is refused by the system.
        self._bytes = mmap.mmap(self.file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        if self.encoding is not None:
            self._start, self._line_encoding = _without_mark(self._bytes[:4], self.encoding)
        if indexable is True:
            self.offsets = self._line_offsets()
            return
        index = Path(indexable)
        if index.exists() and index.stat().st_mtime_ns >= Path(self.name).stat().st_mtime_ns:
            self.offsets = np.load(index, allow_pickle=False)
        if self.offsets is None or self.offsets[-1] != size:
            self.offsets = self._line_offsets()
            with builtins.open(index, "wb") as file:
                np.save(file, self.offsets)

    def _line_offsets(self) -> np.ndarray:
        """Give the position in bytes of every line, and the size of the file."""
        line_break = "\n".encode(self._line_encoding)
        width = len(line_break)
        offsets = array("q", [self._start])
        end = self._bytes.find(line_break, self._start) + width
        while end >= width:
            # In UTF-16 and UTF-32 the bytes may also lie across two characters.
            found = width == 1 or (end - self._start) % width == 0
            if found:
                offsets.append(end)
            end = self._bytes.find(line_break, end if found else end - width + 1) + width
        if offsets[-1] != len(self._bytes):
            offsets.append(len(self._bytes))
        return np.array(offsets)

    def __len__(self) -> int:
        if self.offsets is None:
            raise TypeError(
                f"{self.name} has no known number of lines, open it with indexable=True"
            )
        return len(self.offsets) - 1

    def __getitem__(self, key: int | slice) -> str | bytes | list[str | bytes]:
        numbers = range(len(self))[key]
        if isinstance(numbers, range):
            return [self[i] for i in numbers]
        line = self._bytes[self.offsets[numbers] : self.offsets[numbers + 1]]
        if self.encoding is None:
            return line
        text = line.decode(self._line_encoding, self.errors)
        return text[:-2] + "\n" if text.endswith("\r\n") else text

    def __iter__(self) -> Iterator[str | bytes]:
        """Iterate over all lines of an indexable file, else over those not read so far."""
        if self.offsets is None:
            return iter(self.file)
        return (self[i] for i in range(len(self)))

    def __next__(self) -> str | bytes:
        return next(self.file)

    def __enter__(self) -> "open":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def read(self, size: int = -1) -> str | bytes:
        """Read `size` characters, or all that is left."""
        return self.file.read(size)

    def readline(self) -> str | bytes:
        """Read a line; it is empty at the end of the file."""
        return self.file.readline()

    def readlines(self) -> list:
        """Read all lines that are left."""
        return self.file.readlines()

    def write(self, text: str | bytes) -> int:
        """Write and return how many characters were written."""
        return self.file.write(text)

    def flush(self) -> None:
        """Hand to the system what was written."""
        self.file.flush()

    def tell(self) -> int:
        """Give the position in the file."""
        return self.file.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to a position in the file."""
        return self.file.seek(offset, whence)

    def close(self) -> None:
        """Close the file."""
        self.file.close()
        if isinstance(getattr(self, "_bytes", None), mmap.mmap):
            self._bytes.close()


_MARKS = {
    "utf-8-sig": {codecs.BOM_UTF8: "utf-8", b"": "utf-8"},
    "utf-16": {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"},
    "utf-32": {codecs.BOM_UTF32_LE: "utf-32-le", codecs.BOM_UTF32_BE: "utf-32-be"},
}
"""Encodings whose files begin with a byte order mark, and those of the text behind it."""


def _without_mark(beginning: bytes, encoding: str) -> tuple[int, str]:
    """Give the length of the byte order mark of a file, and the encoding of what follows."""
    name = codecs.lookup(encoding).name
    for mark, following in _MARKS.get(name, {}).items():
        if beginning.startswith(mark):
            return len(mark), following
    native = {"utf-16": f"utf-16-{sys.byteorder[0]}e", "utf-32": f"utf-32-{sys.byteorder[0]}e"}
    return 0, native.get(name, encoding)


# === Parallel work ===


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


# === Arrays ===


def to_array(*args: Any) -> np.ndarray | list[np.ndarray]:
    """Convert every argument to an array; one argument gives the array itself."""
    arrays = [np.array(a) for a in args]
    return arrays[0] if len(arrays) == 1 else arrays


def sequence_padding(
    inputs: Sequence,
    length: int | Sequence[int] | None = None,
    value: float = 0,
    seq_dims: int = 1,
    mode: str = "post",
) -> np.ndarray:
    """Pad sequences to one length and stack them.

    Args:
        inputs: sequences of one rank, lists or arrays, equal in the axes that are not padded.
        length: the length of each padded axis, or of the only one; sequences that are longer lose
            their end. None takes the longest.
        value: what to fill with.
        seq_dims: how many axes are padded, counted from the first.
        mode: `post` fills at the end, `pre` at the start.

    Returns:
        `(len(inputs), *length, ...)`, in the type of the inputs: integers stay integers and
        float32 stays float32, unless `value` does not fit.

    Raises:
        ValueError: no inputs, inputs of different ranks, or another mode.
    """
    if mode not in ("post", "pre"):
        raise ValueError(f'sequence_padding: mode is {mode!r}, give "post" or "pre"')
    arrays = [np.asarray(x) for x in inputs]
    if not arrays or any(x.ndim != arrays[0].ndim or x.ndim < seq_dims for x in arrays):
        raise ValueError(
            f"sequence_padding: the inputs have the ranks {sorted({x.ndim for x in arrays})}, "
            f"give at least one sequence, all of one rank, and of rank {seq_dims} at least"
        )
    rest = {x.shape[seq_dims:] for x in arrays}
    if len(rest) > 1:
        raise ValueError(
            f"sequence_padding: beyond the {seq_dims} padded axes the inputs have the shapes "
            f"{sorted(rest)}, which differ; pad these axes too by a larger seq_dims"
        )
    if length is None:
        lengths = _longest(arrays, seq_dims)
    else:
        lengths = list(length) if hasattr(length, "__getitem__") else [length]
    if len(lengths) < seq_dims:
        raise ValueError(
            f"sequence_padding: length is {length}, give {seq_dims} numbers, one for each axis"
        )
    # An empty list has a type, float64, but no element that has it.
    dtypes = {x.dtype for x in arrays if x.size} or {x.dtype for x in arrays}
    dtype = np.result_type(*dtypes)
    if dtype.kind in "bui" and not float(value).is_integer():
        dtype = np.result_type(dtype, value)
    outputs = np.full((len(arrays), *lengths[:seq_dims], *rest.pop()), value, dtype)
    for output, x in zip(outputs, arrays, strict=True):
        kept = [min(n, m) for n, m in zip(x.shape, lengths[:seq_dims], strict=False)]
        if mode == "post":
            place = tuple(slice(n) for n in kept)
        else:
            place = tuple(slice(m - n, m) for n, m in zip(kept, lengths, strict=False))
        output[place] = x[tuple(slice(n) for n in kept)]
    return outputs


def _longest(inputs: Sequence, seq_dims: int) -> list[int]:
    """Give the largest size of each of the first `seq_dims` axes."""
    return [int(n) for n in np.max([np.shape(x)[:seq_dims] for x in inputs], axis=0)]


def bucket_length(length: int) -> int:
    """Round a length up to a small set, so that a model meets few shapes.

    The set is 0, 1, the multiples of 16 up to 128, those of 32 up to 256, of 64 up to 512, of 128
    up to 1024 and so on: 18 lengths up to 512. From 64 on less than a quarter is added. An axis of
    size 1, such as a column of labels, is no sequence and stays.

    Args:
        length: how many elements there are, at least 0.

    Returns:
        The next length of the set, `length` itself if it belongs to it.
    """
    if length <= 1:
        return length
    step = max(16, 1 << (length - 1).bit_length() >> 3)
    return -(-length // step) * step


def softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    """Compute the softmax along an axis, safe for large values."""
    e = np.exp(x - np.max(x, axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def orthogonally_resize(a: np.ndarray, new_shape: Sequence[int], window: int = 2) -> np.ndarray:
    """Resize a weight so that its Frobenius norm and much of its orthogonality stay.

    An axis that grows is repeated in groups of `window` neighbours, then every axis is cut to its
    new size and the whole is scaled to the norm it had.

    Args:
        a: a weight of any rank.
        new_shape: its new shape.
        window: the size of the groups; it has to divide an axis that grows.

    Returns:
        An array of shape `new_shape` and of the norm of `a`.

    Raises:
        ValueError: another rank, or an axis that grows and is no multiple of `window`.
    """
    if a.ndim != len(new_shape):
        raise ValueError(
            f"orthogonally_resize: the new shape {tuple(new_shape)} has another rank than "
            f"{a.shape}, give one size for each axis"
        )
    resized = a
    for axis, (old, new) in enumerate(zip(a.shape, new_shape, strict=True)):
        if new > old:
            if old % window:
                raise ValueError(
                    f"orthogonally_resize: axis {axis} of {a.shape} cannot grow to {new}, since "
                    f"its size is no multiple of the window {window}"
                )
            times = -(-new // old)
            before, after = resized.shape[:axis], resized.shape[axis + 1 :]
            groups = resized.reshape(*before, old // window, window, *after)
            resized = np.repeat(groups, times, axis=axis).reshape(*before, old * times, *after)
        resized = np.take(resized, range(new), axis=axis) if new != old else resized
    norm = np.linalg.norm(resized)
    return resized if norm == 0 else resized / norm * np.linalg.norm(a)


class ViterbiDecoder:
    """Find the best sequence of labels under transition scores, by the Viterbi algorithm.

    Viterbi, Error bounds for convolutional codes, IEEE Transactions on Information Theory 1967.

    Args:
        trans: `(labels, labels)`, the score of going from the row's label to the column's; the
            attribute of this name may be set to another matrix at any time.
        starts: the labels that a sequence may start with; None for all.
        ends: the labels that a sequence may end with; None for all.
    """

    def __init__(
        self,
        trans: np.ndarray,
        starts: Iterable[int] | None = None,
        ends: Iterable[int] | None = None,
    ):
        self.trans = trans
        self.num_labels = len(trans)
        labels = range(self.num_labels)
        self.non_starts = [] if starts is None else sorted(set(labels) - set(starts))
        self.non_ends = [] if ends is None else sorted(set(labels) - set(ends))

    def decode(self, nodes: np.ndarray) -> np.ndarray:
        """Find the best labels.

        Args:
            nodes: `(length, labels)`, the score of each label at each position; it stays unchanged.

        Returns:
            `(length,)`, the labels of the best path, those of smaller number on a tie.

        Raises:
            ValueError: nodes of another shape, or of length 0; NaN in them or in the transitions.
        """
        nodes, trans = np.asarray(nodes), np.asarray(self.trans)
        if nodes.ndim != 2 or not len(nodes) or nodes.shape[1] != self.num_labels:
            raise ValueError(
                f"ViterbiDecoder: nodes has the shape {nodes.shape}, give (length, "
                f"{self.num_labels}) with a length of at least 1"
            )
        nodes = nodes.astype(np.result_type(nodes, np.float32))  # a copy, of a type that holds -inf
        for name, scores in {"nodes": nodes, "trans": trans}.items():
            if np.isnan(scores).any():
                row, label = np.argwhere(np.isnan(scores))[0].tolist()
                raise ValueError(
                    f"ViterbiDecoder: {name} has NaN at [{row}, {label}], of which no path is the "
                    "best: look for NaN or infinity in the model that scores"
                )
        nodes[0, self.non_starts] = -np.inf
        nodes[-1, self.non_ends] = -np.inf
        scores, origins = nodes[0], []
        for node in nodes[1:]:
            candidates = scores[:, None] + trans + node
            origins.append(candidates.argmax(0))
            scores = candidates.max(0)
        path = [scores.argmax()]
        for origin in reversed(origins):
            path.append(origin[path[-1]])
        return np.array(path[::-1])


# === Writing token by token ===


class AutoRegressiveDecoder:
    """Write a sequence token by token, by beam search or by sampling.

    A subclass writes `predict`, which gives the probabilities of the next token, and decorates it
    with `wraps`:

        class AutoTitle(AutoRegressiveDecoder):
            @AutoRegressiveDecoder.wraps(default_rtype="probas")
            def predict(self, inputs, output_ids, states):
                token_ids = np.concatenate([inputs[0], output_ids], axis=1)
                return self.last_token(model).predict([token_ids, np.zeros_like(token_ids)])

    Args:
        start_id: the token that the output begins with; None begins with no token.
        end_id: the token that ends the output.
        maxlen: how many tokens are written at most.
        minlen: the output, `start_id` included, is not ended before it has this many tokens; if
            that is more than `maxlen` allows, each output has `maxlen` tokens.

    Attributes:
        first_output_ids: `(1, 1)`, or `(1, 0)` without `start_id`: the output before the first
            step.
        models: what `last_token` made of each model.
    """

    def __init__(self, start_id: int | None, end_id: int, maxlen: int, minlen: int = 1):
        self.start_id = start_id
        self.end_id = end_id
        self.maxlen = maxlen
        self.minlen = minlen
        self.models: dict[Any, Any] = {}
        first = [] if start_id is None else [start_id]
        self.first_output_ids = np.array([first], dtype=int)

    @staticmethod
    def wraps(default_rtype: str = "probas", use_states: bool = False) -> Callable:
        """Decorate a `predict` that gives probabilities or logits, so that it serves decoding.

        The decorated method is `predict(inputs, output_ids, states, temperature=1,
        rtype=default_rtype)`. It returns `(scores, states)`, where the scores are a new array of
        probabilities, or of their logarithms for the rtype `logits`.

        Args:
            default_rtype: what the method gives, `probas` or `logits`.
            use_states: the method gives `(scores, states)` instead of scores alone.

        Raises:
            ValueError: another default_rtype.
        """
        if default_rtype not in ("probas", "logits"):
            raise ValueError(
                f'wraps: default_rtype is {default_rtype!r}, give "probas" or "logits"'
            )

        def decorate(predict: Callable) -> Callable:
            @functools.wraps(predict)
            def wrapper(
                self: AutoRegressiveDecoder,
                inputs: list[np.ndarray],
                output_ids: np.ndarray,
                states: Any = None,
                temperature: float = 1,
                rtype: str = default_rtype,
            ) -> tuple[np.ndarray, Any]:
                if rtype not in ("probas", "logits"):
                    # Scripts know this as the failed assertion that it was in the original.
                    raise AssertionError(f'predict: rtype is {rtype!r}, give "probas" or "logits"')
                scores = predict(self, inputs, output_ids, states)
                scores, states = scores if use_states else (scores, None)
                scores = as_floats(scores)
                with np.errstate(invalid="ignore", divide="ignore"):  # NaN is reported by row
                    if default_rtype == "logits":
                        probas = softmax(scores / temperature)
                    elif temperature != 1:
                        powers = scores ** (1 / temperature)
                        probas = powers / powers.sum(axis=-1, keepdims=True)
                    else:
                        probas = scores
                    # The small number keeps tokens of probability 0 comparable.
                    return (probas if rtype == "probas" else np.log(probas + 1e-12)), states

            return wrapper

        return decorate

    def predict(
        self,
        inputs: list[np.ndarray],
        output_ids: np.ndarray,
        states: Any = None,
        temperature: float = 1,
        rtype: str = "probas",
    ) -> tuple[np.ndarray, Any]:
        """Give the scores of the next token; a subclass writes this, without the last two.

        Args:
            inputs: the arrays given to `beam_search` or `random_sample`, each `(rows, ...)`.
            output_ids: `(rows, length)`, the tokens written so far.
            states: what the step before returned, None at first or as given. Arrays in it (also
                within lists, tuples and dicts) that have an entry for each row follow the rows as
                these are chosen, repeated and dropped; everything else is handed on as it is.
            temperature: what logits are divided by; `wraps` sees to it.
            rtype: `probas`, or `logits` for logarithms of probabilities; `wraps` sees to it.

        Returns:
            `(rows, vocabulary)`, and the states for the next step, if `wraps` says so.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has to define predict(self, inputs, output_ids, states) under "
            "the decorator @AutoRegressiveDecoder.wraps(); it returns the scores of the next token"
        )

    def last_token(self, model: Any) -> Any:
        """Give an object whose `predict(inputs)` is `model.predict(inputs)[:, -1]`, only faster.

        Args:
            model: a Keras model whose outputs are (batch, length, ...).

        Returns:
            A `bert4keras.generation.LastToken`, always the same one for the same model.
        """
        from bert4keras.generation import LastToken

        if model not in self.models:
            self.models[model] = LastToken(model)
        return self.models[model]

    def beam_search(
        self,
        inputs: Sequence,
        topk: int,
        states: Any = None,
        temperature: float = 1,
        min_ends: int = 1,
    ) -> np.ndarray:
        """Search for the most probable output, keeping the `topk` best ones at each step.

        Args:
            inputs: what `predict` is given, each for one sample, without the batch axis.
            topk: how many outputs are kept.
            states: what `predict` is given at the first step.
            temperature: above 1 flattens the distributions, below 1 sharpens them.
            min_ends: how many end tokens an output has to hold to be complete.

        Returns:
            `(length,)`, the tokens, with the start and end token. If none of the outputs is
            complete after `maxlen` steps, it is the best incomplete one; with a `maxlen` of 0 or
            less, as when a text has no room left, nothing is written.

        Raises:
            ValueError: arguments that make no sense, or scores that are no numbers or of another
                shape than `predict` has to give.
        """
        topk = _count("beam_search", "topk", topk)
        inputs = _as_batch("beam_search", inputs, temperature)
        output_ids, output_scores = self.first_output_ids, np.zeros(1)
        for step in range(self.maxlen):
            scores, states = self.predict(inputs, output_ids, states, temperature, "logits")
            scores = _checked_scores(scores, len(output_ids), step, topk)
            if step == 0:
                inputs = [np.repeat(x, topk, axis=0) for x in inputs]
            scores = output_scores[:, None] + scores
            best = scores.argpartition(-topk, axis=None)[-topk:]
            best = best[np.argsort(-scores.flat[best], kind="stable")]
            rows, tokens = np.divmod(best, scores.shape[1])
            states = _take_rows(states, rows, len(output_ids))
            output_ids = np.concatenate([output_ids[rows], tokens[:, None]], axis=1)
            output_scores = scores.flat[best]
            complete = self._complete(output_ids, min_ends)
            if complete[0]:
                break
            if complete.any():
                # Those that are complete without being the best are given up, as they always were.
                going = np.flatnonzero(~complete)
                states = _take_rows(states, going, topk)
                topk = len(going)
                inputs = [x[going] for x in inputs]
                output_ids, output_scores = output_ids[going], output_scores[going]
        return output_ids[0]

    def random_sample(
        self,
        inputs: Sequence,
        n: int,
        topk: int | None = None,
        topp: float | None = None,
        states: Any = None,
        temperature: float = 1,
        min_ends: int = 1,
    ) -> list[np.ndarray]:
        """Sample outputs by the state of `numpy.random`.

        Args:
            inputs: what `predict` is given, each for one sample, without the batch axis.
            n: how many outputs are written.
            topk: sample among that many most probable tokens; None or 0 for all.
            topp: sample among the most probable tokens, as few as reach this probability together
                (Holtzman et al., 2019, https://arxiv.org/abs/1904.09751), after `topk`; None, or a
                number of at least 1, for all, and 0 for the most probable one.
            states: what `predict` is given at the first step.
            temperature: above 1 flattens the distributions, below 1 sharpens them.
            min_ends: how many end tokens an output has to hold to be complete.

        Returns:
            `n` arrays `(length,)` with the start and end token, in the order in which they were
            completed; those that `maxlen` cut off come last.

        Raises:
            ValueError: arguments that make no sense, or scores that are no probabilities or of
                another shape than `predict` has to give.
        """
        n = _count("random_sample", "n", n)
        topk = None if topk is None else _count("random_sample", "topk", topk, at_least=0) or None
        if topp is not None and not topp >= 0:
            raise ValueError(f"random_sample: topp is {topp}, give at least 0")
        inputs = _as_batch("random_sample", inputs, temperature)
        output_ids = self.first_output_ids
        if self.maxlen < 1:
            return list(np.repeat(output_ids, n, axis=0))
        results: list[np.ndarray] = []
        for step in range(self.maxlen):
            probas, states = self.predict(inputs, output_ids, states, temperature, "probas")
            probas = _normalized(_checked_scores(probas, len(output_ids), step, topk or 1), step)
            if step == 0:
                first = np.zeros(n, dtype=int)
                states = _take_rows(states, first, 1)
                inputs = [x[first] for x in inputs]
                probas, output_ids = probas[first], output_ids[first]
            tokens = _sample(probas, topk, topp)
            output_ids = np.concatenate([output_ids, tokens[:, None]], axis=1)
            complete = self._complete(output_ids, min_ends)
            if complete.any():
                results += list(output_ids[complete])
                going = np.flatnonzero(~complete)
                states = _take_rows(states, going, len(output_ids))
                inputs = [x[going] for x in inputs]
                output_ids = output_ids[going]
                if not len(output_ids):
                    break
        return results + list(output_ids)

    def _complete(self, output_ids: np.ndarray, min_ends: int) -> np.ndarray:
        """Tell for each row whether it ends here; none does before `minlen`."""
        if output_ids.shape[1] < self.minlen:
            return np.zeros(len(output_ids), dtype=bool)
        ends = output_ids == self.end_id
        return ends[:, -1] & (ends.sum(axis=1) >= min_ends)


def _count(caller: str, name: str, value: Any, at_least: int = 1) -> int:
    """Refuse what is no whole number, or a smaller one."""
    whole = isinstance(value, int | np.integer) or (
        isinstance(value, float | np.floating) and value == value // 1
    )
    if isinstance(value, bool) or not whole or value < at_least:
        raise ValueError(f"{caller}: {name} is {value!r}, give a whole number, at least {at_least}")
    return int(value)


def _as_batch(caller: str, inputs: Sequence, temperature: float) -> list[np.ndarray]:
    """Put the batch axis before the inputs of one sample, of which a text may be empty."""
    if not temperature > 0:
        raise ValueError(f"{caller}: temperature is {temperature}, give more than 0")
    return [np.array([x], dtype=None if np.size(x) else int) for x in inputs]


def as_floats(scores: Any) -> np.ndarray:
    """Copy scores to an array that holds float32 at least: float16 is too coarse for sums."""
    scores = np.asarray(scores)
    return np.array(scores, dtype=np.result_type(scores.dtype, np.float32))


def _checked_scores(scores: Any, rows: int, step: int, topk: int) -> np.ndarray:
    """Refuse what `predict` must not give: other shapes, NaN, fewer tokens than `topk`."""
    scores = np.asarray(scores)
    if scores.ndim != 2 or len(scores) != rows:
        raise ValueError(
            f"predict gave scores of the shape {scores.shape} at step {step}, where "
            f"({rows}, vocabulary) was expected: one row for each row of output_ids"
        )
    if topk > scores.shape[1]:
        raise ValueError(
            f"topk is {topk}, but predict gives the scores of {scores.shape[1]} tokens; give at "
            "most as many"
        )
    unknown = np.isnan(scores).any(axis=1)
    if unknown.any():
        raise ValueError(
            f"predict gave NaN in row {unknown.argmax()} at step {step}; look for infinite weights "
            "or inputs in the model, or for probabilities that were all set to 0"
        )
    return scores


def _normalized(probas: np.ndarray, step: int) -> np.ndarray:
    """Divide probabilities by their sum, since `predict` may have removed tokens."""
    probas = probas.astype(np.result_type(probas, np.float32), copy=False)
    sums = probas.sum(axis=1, keepdims=True)
    wrong = (probas < 0).any(axis=1) | (sums[:, 0] == 0) | ~np.isfinite(sums[:, 0])
    if wrong.any():
        row = wrong.argmax()
        raise ValueError(
            f"predict gave row {row} at step {step} no distribution: the smallest number is "
            f"{probas[row].min()} and the sum {sums[row, 0]}; give numbers from 0 on, some above 0"
        )
    return probas / sums


def _sample(probas: np.ndarray, topk: int | None, topp: float | None) -> np.ndarray:
    """Draw a token for each row of `(rows, vocabulary)` probabilities that sum to 1."""
    tokens = None
    if topk is not None:
        tokens = probas.argpartition(-topk, axis=1)[:, -topk:]
        probas = np.take_along_axis(probas, tokens, axis=1)
        probas = probas / probas.sum(axis=1, keepdims=True)
    if topp is not None:
        order = probas.argsort(axis=1)[:, ::-1]
        probas = np.take_along_axis(probas, order, axis=1)
        # A token stays while those before it have not reached topp; the first one always does.
        probas[:, 1:][probas.cumsum(axis=1)[:, :-1] >= topp] = 0
        probas = probas / probas.sum(axis=1, keepdims=True)
        tokens = order if tokens is None else np.take_along_axis(tokens, order, axis=1)
    drawn = np.array([np.random.choice(len(p), p=p) for p in probas])
    return drawn if tokens is None else tokens[np.arange(len(drawn)), drawn]


def _take_rows(states: Any, rows: np.ndarray, count: int) -> Any:
    """Pick `rows` from those arrays of a nest of states that have an entry for each of `count`."""
    if isinstance(states, dict):
        return {key: _take_rows(value, rows, count) for key, value in states.items()}
    if isinstance(states, list | tuple):
        taken = [_take_rows(value, rows, count) for value in states]
        return states._make(taken) if hasattr(states, "_make") else type(states)(taken)
    shape = getattr(states, "shape", ())
    if not len(shape) or shape[0] != count:
        return states
    if isinstance(states, np.ndarray):
        return states[rows]
    from keras import ops

    return ops.take(states, rows, axis=0)


# === Building classes ===


def is_one_of(x: object, ys: Iterable) -> bool:
    """Tell whether `x` itself is among `ys`, where `x in ys` would compare tensors."""
    return any(x is y for y in ys)


def insert_arguments(**arguments: Any) -> Callable:
    """Decorate an `__init__` so that it takes further keywords, kept as attributes.

    Args:
        **arguments: the keywords and their default values.
    """

    def decorate(init: Callable) -> Callable:
        @functools.wraps(init)
        def wrapper(self: object, *args: Any, **kwargs: Any) -> Any:
            for name, default in arguments.items():
                setattr(self, name, kwargs.pop(name, default))
            return init(self, *args, **kwargs)

        return wrapper

    return decorate


def delete_arguments(*arguments: str) -> Callable:
    """Decorate an `__init__` so that it refuses keywords that a parent class would take.

    Args:
        *arguments: the keywords.
    """

    def decorate(init: Callable) -> Callable:
        @functools.wraps(init)
        def wrapper(self: object, *args: Any, **kwargs: Any) -> Any:
            for name in arguments:
                if name in kwargs:
                    raise TypeError(
                        f"{type(self).__name__} takes no argument {name!r}, leave it out"
                    )
            return init(self, *args, **kwargs)

        return wrapper

    return decorate


# === Feeding data ===


def sample_length(sample: object) -> int:
    """Measure a sample for bucketing: the characters and numbers in it, however it is nested."""
    if isinstance(sample, str | bytes):
        return len(sample)
    if isinstance(sample, dict):
        return sum(map(sample_length, sample.values()))
    if isinstance(sample, list | tuple | set | frozenset):
        return sum(map(sample_length, sample))
    return int(np.size(sample))


class DataGenerator:
    """Batches of samples, with shuffling, for training and for prediction.

    A subclass writes `__iter__(self, random=False)`: it reads `self.sample(random)`, collects
    `self.batch_size` samples and yields `(inputs, targets)`, targets being None if the model brings
    its own loss.

    Bucketing makes the samples of a batch similar in length while the order stays random: of
    50 batches at a time, or a quarter of the data if that is less, the shuffled samples are sorted
    by length and cut into batches, and these are shuffled. Only random passes are bucketed.

    Args:
        data: a list, or any iterable that starts anew each time it is iterated, such as an object
            that reads a large file.
        batch_size: samples in a batch.
        buffer_size: how many samples of an iterable without length are held for shuffling; by
            default 1000 batches. A list is shuffled as a whole.
        bucket: True measures a sample by `sample_length`, a function of a sample measures by
            itself, False leaves bucketing out.

    Raises:
        ValueError: a batch_size below 1.
    """

    bucket_window = 50

    def __init__(
        self,
        data: Iterable,
        batch_size: int = 32,
        buffer_size: int | None = None,
        bucket: bool | Callable[[Any], float] = False,
    ):
        if batch_size < 1:
            raise ValueError(f"DataGenerator: batch_size is {batch_size}, give at least 1")
        self.data = data
        self.batch_size = batch_size
        self.buffer_size = buffer_size or batch_size * 1000
        self.bucket = bucket
        try:
            self.steps = -(-len(data) // batch_size)
        except TypeError:
            self.steps = None

    def __len__(self) -> int:
        """Give the number of batches in a pass over the data."""
        if self.steps is None:
            raise TypeError(
                f"{type(self).__name__}: the data have no length, so neither have its batches; "
                "give steps_per_epoch a number"
            )
        return self.steps

    def sample(self, random: bool = False) -> Iterator[tuple[bool, Any]]:
        """Iterate over the data once.

        Args:
            random: shuffle, by the state of `numpy.random`, and bucket if this is asked for.

        Yields:
            `(is_end, sample)`, where is_end is True for the last sample only.

        Raises:
            ValueError: there is no data.
        """
        samples = self._shuffled() if random else iter(self.data)
        if random and self.bucket:
            samples = self._bucketed(samples)
        try:
            current = next(samples)
        except StopIteration:
            raise ValueError(
                f"{type(self).__name__}: the data hold no sample; give some, and in place of an "
                "iterator that is used up after one pass give a list or an iterable"
            ) from None
        for following in samples:
            yield False, current
            current = following
        yield True, current

    def _shuffled(self) -> Iterator:
        if self.steps is not None and hasattr(self.data, "__getitem__"):
            yield from (self.data[i] for i in np.random.permutation(len(self.data)))
            return
        buffer = []
        for sample in self.data:
            buffer.append(sample)
            if len(buffer) > self.buffer_size:
                yield buffer.pop(np.random.randint(len(buffer)))
        while buffer:
            yield buffer.pop(np.random.randint(len(buffer)))

    def _bucketed(self, samples: Iterator) -> Iterator:
        measure = self.bucket if callable(self.bucket) else sample_length
        window_steps = self.bucket_window
        if self.steps is not None:
            # Sorting all data at once would give the same batches in every pass.
            window_steps = min(window_steps, max(1, self.steps // 4))
        size = self.batch_size
        while window := list(itertools.islice(samples, window_steps * size)):
            window.sort(key=measure)
            full, rest = divmod(len(window), size)
            # The short batch of the end is no special one, such as that of the longest samples.
            start = size * np.random.randint(full + 1)
            short = window[start : start + rest]
            del window[start : start + rest]
            for i in np.random.permutation(full):
                yield from window[size * i : size * (i + 1)]
            yield from short

    def __iter__(self, random: bool = False) -> Iterator:
        """Yield the batches of one pass; a subclass writes this."""
        raise NotImplementedError(
            f"{type(self).__name__} has to define __iter__(self, random=False), which yields "
            "(inputs, targets)"
        )

    def pad(
        self, sequences: Sequence, value: float = 0, seq_dims: int = 1, mode: str = "post"
    ) -> np.ndarray:
        """Pad the sequences of a batch as `sequence_padding` does.

        With `bucket` the lengths are rounded up by `bucket_length`, so that a model meets few
        shapes; each new one costs a compilation.

        Args:
            sequences: sequences of one rank.
            value: what to fill with.
            seq_dims: how many axes are padded.
            mode: `post` or `pre`.
        """
        length = None
        if self.bucket and len(sequences):
            length = [bucket_length(n) for n in _longest(sequences, seq_dims)]
        return sequence_padding(sequences, length, value, seq_dims, mode)

    def _passes(self, random: bool) -> Iterator:
        """Yield the batches of one pass after another, without end."""
        while True:
            empty = True
            for batch in self.__iter__(random):
                empty = False
                yield batch
            if empty:
                raise ValueError(
                    f"{type(self).__name__}: a pass over the data gave no batch; its __iter__ has "
                    "to yield the last batch when is_end is True"
                )

    def forfit(self, random: bool = True) -> "BatchFeed":
        """Give the batches of endless passes, for `model.fit(..., steps_per_epoch=len(self))`.

        Args:
            random: shuffle each pass.

        Returns:
            A `training.BatchFeed`, which is also an iterator over what `__iter__` yields.
        """
        from bert4keras.training import BatchFeed

        return BatchFeed(self._passes(random), endless=True)

    def fortest(self) -> "BatchFeed":
        """Give the inputs of endless passes in order, for `model.predict(..., steps=len(self))`."""
        from bert4keras.training import BatchFeed

        inputs = (batch[0] if isinstance(batch, tuple) else batch for batch in self._passes(False))
        return BatchFeed(inputs, inputs_only=True, endless=True)

    def to_dataset(
        self, types: Any, shapes: Any, names: Any = None, padded_batch: bool = False
    ) -> "tf.data.Dataset":
        """Give a `tf.data.Dataset` of shuffled samples in batches; TensorFlow has to be installed.

        Here `__iter__` yields single samples, in the structure of `types`.

        Args:
            types: the types of the elements of a sample, nested as a sample is.
            shapes: their shapes, None for a free axis, nested likewise.
            names: the names of the inputs, if they are to be handed out as a dict: one name or
                several. `(names of the inputs, names of the targets)` names both; a single target
                is handed out bare, since a model with one output takes no dict.
            padded_batch: pad the free axes of a batch to the longest sample.

        Raises:
            ValueError: the structures of types, shapes and samples differ.
        """
        import tensorflow as tf

        if isinstance(types, list | tuple) and types[-1] is None:
            # A missing target is left out: as an optional element it stops distributed training.
            types, shapes = types[:-1], shapes[: len(types) - 1]

        def arrange(leaf: Callable, values: Any) -> Any:
            return _named(names, _map_like(types, values, leaf))

        def generate() -> Iterator:
            for sample in self._passes(True):
                yield arrange(lambda dtype, value: value, sample)

        def element(dtype: Any, shape: Any) -> tf.TensorSpec:
            return tf.TensorSpec([None] * len(shape) if padded_batch else shape, dtype)

        dataset = tf.data.Dataset.from_generator(
            generate, output_signature=arrange(element, shapes)
        )
        if padded_batch:
            padded_shapes = arrange(lambda dtype, shape: tf.TensorShape(shape), shapes)
            dataset = dataset.padded_batch(self.batch_size, padded_shapes)
        else:
            dataset = dataset.batch(self.batch_size)
        return dataset.prefetch(tf.data.AUTOTUNE)


def __getattr__(name: str) -> Any:
    """Give `WebServing`; its module takes a quarter of the time that this one takes to import."""
    if name != "WebServing":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from bert4keras.serving import WebServing

    return WebServing


def _map_like(types: Any, values: Any, leaf: Callable) -> Any:
    """Apply `leaf(type, value)` where `types` has its leaves; its lists become tuples."""
    if isinstance(types, dict):
        return {key: _map_like(types[key], values[key], leaf) for key in types}
    if not isinstance(types, list | tuple):
        return leaf(types, values)
    if isinstance(values, list | tuple) and len(values) == len(types) + 1 and values[-1] is None:
        values = values[:-1]
    if not isinstance(values, list | tuple) or len(values) != len(types):
        raise ValueError(
            f"to_dataset: {values!r} is not nested as the types {types!r} are; types, shapes and "
            "samples need one structure"
        )
    return tuple(_map_like(t, v, leaf) for t, v in zip(types, values, strict=True))


def _named(names: Any, values: Any) -> Any:
    """Turn the inputs into a dict, and the targets if there are several."""
    if names is None or is_string(names):
        return values if names is None else {names: values}
    names = list(names)
    if len(names) == 1 and not isinstance(values, tuple):
        values = (values,)  # a name in a list, and what it names without one
    nested = isinstance(values, tuple) and not all(map(is_string, names))
    if nested and names[-1] is None:
        names = names[: len(values)]  # of a missing target, which is left out
    if not isinstance(values, tuple) or len(names) != len(values):
        raise ValueError(
            f"to_dataset: the names {names!r} are not nested as the types are: give one for each "
            "input, or (names of the inputs, names of the targets)"
        )
    if not nested:
        return dict(zip(names, values, strict=True))
    inputs, *targets = (_named(n, v) for n, v in zip(names, values, strict=True))
    return inputs, *(_without_single_name(each) for each in targets)


def _without_single_name(target: Any) -> Any:
    """A single target bare: a model with one output takes no dict."""
    return next(iter(target.values())) if isinstance(target, dict) and len(target) == 1 else target


# What a star import would give by itself, and what `__getattr__` gives.
__all__ = [*(name for name in globals() if not name.startswith("_")), "WebServing"]  # noqa: F822
