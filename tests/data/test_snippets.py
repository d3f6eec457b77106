import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from golden import is_error, load_json
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bert4keras import snippets
from bert4keras.snippets import (
    DataGenerator,
    ViterbiDecoder,
    bucket_length,
    longest_common_subsequence,
    longest_common_substring,
    lowercase_and_normalize,
    orthogonally_resize,
    parallel_apply,
    parallel_apply_generator,
    sample_length,
    sequence_padding,
    softmax,
    strQ2B,
    text_segmentate,
    to_array,
    truncate_sequences,
)
from bert4keras.snippets import open as open_file

# ruff: noqa: NPY002 - shuffling follows np.random.seed

short_texts = st.text("abc", max_size=8)


def run_python(code: str) -> str:
    """Run code in a process of its own, so that workers are forked from one without threads."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_starts_no_keras():
    loaded = run_python(
        """
        import sys
        from bert4keras.snippets import *
        from bert4keras.snippets import uniout
        print([m for m in ("keras", "tensorflow", "jax", "torch") if m in sys.modules])
        """
    )
    assert loaded.strip() == "[]"


# === Text ===


@pytest.mark.parametrize("name", ["strQ2B", "lowercase_and_normalize", "string_matching"])
def test_text_functions_give_the_reference_results(references, name):
    cases = load_json(references / "units/snippets/text.json")[name]
    assert cases
    for *args, expected in cases:
        assert getattr(snippets, name)(*args) == expected, args


def test_conversions_give_the_reference_results(references):
    cases = load_json(references / "units/snippets/text.json")
    for name, function in (
        ("convert_to_unicode", snippets.convert_to_unicode),
        ("convert_to_str", snippets.convert_to_str),
    ):
        for text, expected in cases["convert"][name]:
            assert function(text.encode("latin-1")) == expected
            assert function(expected) == expected
    values = {'"text"': "text", 'b"bytes"': b"bytes", "1": 1, '["a"]': ["a"]}
    for literal, expected in cases["is_string"]:
        assert snippets.is_string(values[literal]) is expected


def test_full_width_characters_become_half_width():
    # The original calls unichr, which Python 3 does not have.
    assert strQ2B("ＡＢＣ　１２３！中～") == "ABC 123!中~"


def test_lower_casing_looks_at_each_character_alone():
    # str.lower writes another sigma at the end of a word, and offsets into the text would shift
    # where a result depended on its neighbours.
    assert lowercase_and_normalize("ΟΔΟΣ") == "οδοσ"
    assert lowercase_and_normalize("Café İÀ") == "cafe ia"


@given(st.text())
def test_lower_casing_a_text_joins_that_of_its_characters(text):
    assert lowercase_and_normalize(text) == "".join(map(lowercase_and_normalize, text))


def test_never_split_tokens_keep_their_case():
    assert lowercase_and_normalize("É[MASK]É[X]", ["[MASK]", "[CLS]"]) == "e[MASK]e[x]"


# === Truncation and segmentation ===


def test_truncation_gives_the_reference_results(references):
    for case in load_json(references / "units/snippets/text.json")["truncate_sequences"]:
        sequences = [list(s) if s else s for s in case["sequences"]]
        if is_error(case["result"]):
            # The original removes elements until it fails; here the lists stay whole.
            with pytest.raises(IndexError, match="too few to remove one at index"):
                truncate_sequences(case["maxlen"], case["indices"], *sequences)
            assert sequences == case["sequences"]
        else:
            result = truncate_sequences(case["maxlen"], case["indices"], *sequences)
            assert result == case["result"]
            assert sequences == case["sequences_after"]


@given(
    st.lists(st.lists(st.integers(), min_size=1, max_size=9), min_size=1, max_size=4),
    st.integers(0, 30),
    st.data(),
)
def test_truncation_removes_from_the_longest_one_at_a_time(sequences, maxlen, data):
    indices = data.draw(
        st.lists(st.integers(-3, 2), min_size=len(sequences), max_size=len(sequences))
    )
    expected = [list(s) for s in sequences]
    try:
        while sum(map(len, expected)) > maxlen:
            i = max(range(len(expected)), key=lambda i: len(expected[i]))
            expected[i].pop(indices[i])
    except IndexError:
        expected = None
    if expected is None:
        with pytest.raises(IndexError):
            truncate_sequences(maxlen, indices, *sequences)
    else:
        assert truncate_sequences(maxlen, indices, *sequences) == expected == sequences


@pytest.mark.parametrize(("maxlen", "indices"), [(-1, -1), (1, [-1])])
def test_truncation_refuses_arguments_without_sense(maxlen, indices):
    with pytest.raises(ValueError, match="truncate_sequences"):
        truncate_sequences(maxlen, indices, [1, 2], [3, 4])


def test_segmentation_gives_the_reference_results(references):
    rows = load_json(references / "units/snippets/text.json")["text_segmentate"]["rows"]
    for *args, expected in rows:
        assert text_segmentate(*args) == expected, args


def test_segmentation_cuts_at_the_most_important_separator_first():
    text = "一二三。四五，六七八。\n九十"
    assert text_segmentate(text, 8, "\n。，") == ["一二三。", "四五，六七八。", "九十"]
    assert text_segmentate(text, 5, "\n。，") == ["一二三。", "四五，", "六七八。", "九十"]
    assert text_segmentate(text, 5, "\n。，", "。，") == ["一二三", "四五", "六七八", "九十"]


@given(st.text("ab，。\n", max_size=40), st.integers(1, 12))
@example("a。a。。", 4)
def test_segmentation_loses_nothing_but_white_space(text, maxlen):
    pieces = text_segmentate(text, maxlen, "\n。，")
    assert "".join("".join(pieces).split()) == "".join(text.split())
    # Separators in a row stay together, at the end of their piece.
    bare = [piece.rstrip("，。") for piece in pieces]
    assert all(len(p) <= maxlen or not set(p.lstrip("，。")) & set("\n。，") for p in bare)


# === Longest common parts ===


@pytest.mark.parametrize("name", ["longest_common_substring", "longest_common_subsequence"])
def test_common_parts_give_the_reference_results(references, name):
    for source, target, expected in load_json(references / "units/snippets/text.json")[name]:
        length, places = getattr(snippets, name)(source, target)
        assert [length, np.array(places).tolist()] == expected


@given(short_texts, short_texts)
def test_common_substring_is_the_longest_and_first(source, target):
    spans = [(i, j) for i in range(len(source)) for j in range(i + 1, len(source) + 1)]
    found = [span for span in spans if source[slice(*span)] in target]
    longest = max((j - i for i, j in found), default=0)
    length, (i, j, k, m) = longest_common_substring(source, target)
    assert length == longest == j - i == m - k
    assert source[i:j] == target[k:m]
    if longest:
        assert (i, j) == min(span for span in found if span[1] - span[0] == longest)


@given(short_texts, short_texts)
def test_common_subsequence_is_the_longest(source, target):
    def brute(a, b):
        if not a or not b:
            return 0
        if a[0] == b[0]:
            return 1 + brute(a[1:], b[1:])
        return max(brute(a[1:], b), brute(a, b[1:]))

    length, pairs = longest_common_subsequence(source, target)
    assert length == len(pairs) == brute(source, target)
    assert all(source[i] == target[j] for i, j in pairs)
    assert all(a < c and b < d for (a, b), (c, d) in itertools.pairwise(pairs))


# === Files ===


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_bytes("第一行\nsecond\r\n\n最后".encode())
    return path


def test_a_file_is_read_like_a_built_in_one(text_file):
    with open_file(text_file, encoding="utf-8") as file:
        assert file.readline() == "第一行\n"
        place = file.tell()
        assert next(file.__iter__()) == "second\n"
        assert list(file) == ["\n", "最后"]
        file.seek(place)
        assert file.read(3) == "sec"
        assert file.readlines() == ["ond\n", "\n", "最后"]
        with pytest.raises(TypeError, match="indexable=True"):
            len(file)
    assert file.file.closed


def test_a_file_is_written(tmp_path):
    with open_file(tmp_path / "new", "w", encoding="gb18030") as file:
        file.write("中文\n")
        file.flush()
        assert (tmp_path / "new").read_bytes() == "中文\n".encode("gb18030")


@pytest.mark.parametrize("encoding", ["utf-8", "gb18030"])
def test_an_indexable_file_gives_lines_by_number(tmp_path, encoding):
    lines = ["第一行\n", "second\n", "\n", "最后"]
    path = tmp_path / "lines.txt"
    path.write_bytes("第一行\nsecond\r\n\n最后".encode(encoding))
    with open_file(path, encoding=encoding, indexable=True) as file:
        assert len(file) == 4
        assert [file[i] for i in (3, 0, -3)] == [lines[3], lines[0], lines[1]]
        assert file[1:3] == lines[1:3]
        assert list(file) == list(file) == lines
        with pytest.raises(IndexError):
            file[4]
    with open_file(path, "rb", indexable=True) as file:
        assert file[1] == b"second\r\n"


@given(st.lists(st.text("ab中\n", max_size=5), max_size=5).map("\n".join))
def test_an_index_finds_all_lines(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("index") / "text"
    path.write_bytes(text.encode())
    with open_file(path, encoding="utf-8", indexable=True) as file:
        assert list(file) == text.splitlines(keepends=True)


def test_an_index_kept_in_a_file_is_renewed_with_the_text(text_file, tmp_path):
    index = tmp_path / "index"
    with open_file(text_file, encoding="utf-8", indexable=index) as file:
        assert len(file) == 4
    kept = index.read_bytes()
    with open_file(text_file, encoding="utf-8", indexable=index) as file:
        assert file[1] == "second\n"
    assert index.read_bytes() == kept
    text_file.write_text("a\nb\n", encoding="utf-8")
    with open_file(text_file, encoding="utf-8", indexable=index) as file:
        assert list(file) == ["a\n", "b\n"]


def test_files_that_cannot_be_indexed_are_refused(text_file):
    with pytest.raises(ValueError, match="cannot be indexed"):
        open_file(text_file, "a", indexable=True)


@given(st.text("aĀ\n中\u0a0a\u0a00", max_size=20))
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32", "gb18030"])
def test_an_index_in_any_encoding(tmp_path_factory, encoding, text):
    path = tmp_path_factory.mktemp("index") / "text"
    path.write_text(text, encoding=encoding, newline="\n")
    with open_file(path, encoding=encoding, indexable=True) as file:
        assert list(file) == text.splitlines(keepends=True)
        assert list(file)[-1:] == [file[i] for i in range(len(file))][-1:]


# === Parallel work ===


def test_parallel_apply_gives_the_reference_results(references):
    path = references / "units/snippets/text.json"
    cases = load_json(path)["parallel_apply"]
    results = json.loads(
        run_python(
            f"""
            import json
            from bert4keras.snippets import parallel_apply, parallel_apply_generator
            cases = json.load(open({str(path)!r}))["parallel_apply"]
            func = eval(cases["func"])
            results = []
            for call in cases["calls"]:
                kwargs, called = call["kwargs"], []
                if kwargs.pop("callback", None):
                    kwargs["callback"] = called.append
                returned = parallel_apply(func, cases["iterable"], **kwargs)
                results.append([returned, called])
            pairs = list(parallel_apply_generator(func, iter(cases["iterable"]), 2, 4))
            print(json.dumps([results, pairs]))
            """
        )
    )
    for call, (returned, called) in zip(cases["calls"], results[0], strict=True):
        if "callback" in call["kwargs"]:
            assert (returned, sorted(called)) == (call["returns"], call["sorted_callbacks"])
        else:
            assert sorted(returned) == call["sorted_result"]
        if call.get("in_order"):
            assert returned == call["sorted_result"]
    assert sorted(results[1]) == cases["generator_sorted"]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 60), st.integers(1, 4), st.integers(1, 9), st.booleans())
def test_no_item_is_lost_or_repeated(n, workers, max_queue_size, unordered):
    results = parallel_apply(
        lambda x: 2 * x, iter(range(n)), workers, max_queue_size, dummy=True, unordered=unordered
    )
    assert (sorted(results) if unordered else results) == [2 * x for x in range(n)]


def test_items_are_read_only_as_fast_as_they_are_worked_on():
    read = []
    pairs = parallel_apply_generator(
        lambda x: x, (read.append(i) or i for i in range(1000)), 2, 5, dummy=True
    )
    next(pairs)
    assert len(read) <= 5
    pairs.close()
    assert len(read) <= 5


def test_an_error_in_a_thread_reaches_the_caller():
    with pytest.raises(ZeroDivisionError):
        parallel_apply(lambda x: 1 // x, [1, 0, 1], 2, 4, dummy=True)


def test_an_error_in_the_items_reaches_the_caller():
    def items():
        yield 1
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        parallel_apply(lambda x: x, items(), 2, 4, dummy=True)


FAILURES = """
import json, multiprocessing, os, signal, sys, time, traceback
from bert4keras.snippets import parallel_apply

class Unpicklable(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")

class Unloadable:
    def __reduce__(self):
        return int, ("no number",)

def double(x):
    return 2 * x

def raises(x):
    if x == 3:
        raise KeyError("the third")
    return x

def raises_badly(x):
    raise Unpicklable("this", "that")

def exits(x):
    return sys.exit("done") if x == 3 else x

def interrupts(x):
    raise KeyboardInterrupt

def dies(x):
    return os._exit(7) if x == 3 else x

def is_killed(x):
    os.kill(os.getpid(), signal.SIGKILL)

def leaves_a_child(x):
    if os.fork() == 0:
        time.sleep(3)
    os._exit(7)

def returns_a_function(x):
    return lambda: x

def returns_what_cannot_be_received(x):
    return Unloadable()

def hangs_after(x):
    if x == 0:
        raise ValueError("the first")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        signal.pause()

def fails_to_take(result):
    raise LookupError("not taken")

if __name__ == "__main__":
    method, *names = sys.argv[1:]
    if method != "threads":
        multiprocessing.set_start_method(method)
    for name in names:
        items, options = range(9), {"dummy": method == "threads", "unordered": False}
        if name == "takes_lambdas":
            items = [lambda: 0, 1]
        elif name == "takes_what_cannot_be_received":
            items = [Unloadable()]
        elif name == "fails_to_take":
            options["callback"] = fails_to_take
        func = globals().get(name, double) if name != "fails_to_take" else double
        func = (lambda x: -x) if name == "negate" else func
        try:
            outcome = parallel_apply(func, items, 2, 4, **options)
        except Exception as error:
            text = "".join(traceback.format_exception(error))
            outcome = [type(error).__name__, str(error), text]
        print(json.dumps([outcome, len(multiprocessing.active_children())]))
"""

DEATHS = {
    "exits": "item 3, 3: the function failed (SystemExit('done'))",
    "interrupts": "the function failed (KeyboardInterrupt())",
    "dies": "item 3, 3: its process ended with status 7",
    "is_killed": "its process was ended by SIGKILL, possibly for lack of memory",
    "leaves_a_child": "its process ended with status 7",
    "returns_a_function": "its result cannot be sent from a process",
    "returns_what_cannot_be_received": "its result cannot be received (ValueError",
    "takes_lambdas": "item 0, <function",
    "takes_what_cannot_be_received": "it cannot be received by a process (ValueError",
}
FORKED = ["double", "negate", "raises", "raises_badly", "hangs_after", "fails_to_take", *DEATHS]


@pytest.mark.parametrize(
    ("method", "names"),
    [
        ("fork", FORKED),
        ("spawn", ["double", "negate", "raises", "exits", "dies"]),
        ("threads", ["double", "raises", "exits", "interrupts", "fails_to_take"]),
    ],
)
def test_a_worker_that_fails_ends_in_an_error_that_names_the_item(tmp_path, method, names):
    """Whatever it does, and no process is left."""
    if sys.platform == "win32" and method == "fork":
        pytest.skip("processes are not forked on Windows")
    script = tmp_path / "script.py"
    script.write_text(FAILURES)
    command = [sys.executable, script, method, *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [children for _, children in lines] == [0] * len(names)
    outcomes = {name: outcome for name, (outcome, _) in zip(names, lines, strict=True)}
    assert outcomes.pop("double") == [2 * i for i in range(9)]
    if method == "fork":
        assert outcomes.pop("negate") == [-i for i in range(9)]
    for name, (kind, message, text) in outcomes.items():
        if name == "negate":
            assert kind == "TypeError" and "dummy=True" in message
        elif name == "raises":
            assert (kind, message) == ("KeyError", "'the third'")
            assert "in raises" in text and "parallel_apply: item 3, 3" in text
        elif name == "raises_badly":
            assert (kind, message) == ("RuntimeError", "Unpicklable: this and that")
            assert "in raises_badly" in text and "parallel_apply: item " in text
        elif name == "hangs_after":
            assert (kind, message) == ("ValueError", "the first")
        elif name == "fails_to_take":
            assert (kind, message) == ("LookupError", "not taken")
        else:
            assert kind == "RuntimeError" and message.startswith("parallel_apply: item ")
            assert DEATHS[name] in message


ENDLESS = """
import itertools, signal, sys, time
from bert4keras.snippets import parallel_apply_generator

signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background ignore it

def work(x):
    time.sleep(0 if x < 4 else 60)
    return x

for i, x in parallel_apply_generator(work, itertools.count(), 2, 4, dummy=False):
    print(i, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_is_left_when_the_caller_ends(sent):
    """Also not where Ctrl-C, as in a terminal, reaches the workers too."""
    code = ENDLESS.replace("60", "2") if sent != signal.SIGINT else ENDLESS
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        for _ in range(4):
            process.stdout.readline()
        began = time.monotonic()
        (os.killpg if sent == signal.SIGINT else os.kill)(process.pid, sent)
        process.wait(30)
        # Read to the end, which is when no worker holds the other end any more.
        _, errors = process.communicate(timeout=30)
        assert time.monotonic() - began < 20
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert errors.count("KeyboardInterrupt") == (sent == signal.SIGINT)


def test_workers_draw_different_random_numbers_or_those_of_their_seeds():
    draws = run_python(
        """
        import time, numpy as np
        from bert4keras.snippets import parallel_apply
        def draw(x):
            time.sleep(0.05)  # gives the other worker its turn
            return int(np.random.randint(1 << 30))
        def kinds(**kwargs):
            return len(set(parallel_apply(draw, range(4), 2, 4, **kwargs)))
        print(kinds(), kinds(random_seeds=[5, 6]), kinds(random_seeds=[5, 5]))
        np.random.seed(5)
        first = int(np.random.randint(1 << 30))
        print(first in parallel_apply(draw, range(4), 2, 4, random_seeds=[5, 6]))
        print(first in parallel_apply(draw, range(4), 2, 4, random_seeds=[5, 6, 7]))
        print(kinds(random_seeds=[5]))
        """
    )
    counts, seeded, more, fewer = draws.splitlines()
    assert counts.split()[:2] == ["4", "4"]
    assert int(counts.split()[2]) < 4
    assert seeded == more == "True"
    assert fewer == "4"


def test_parallel_apply_needs_workers():
    with pytest.raises(ValueError, match="workers is 0"):
        parallel_apply(abs, [1], 0, 1)


def test_a_queue_without_limit():
    assert parallel_apply(abs, range(-9, 0), 2, 0, dummy=True, unordered=False) == [
        *range(9, 0, -1)
    ]


# === Arrays ===


def test_array_functions_give_the_reference_results(references):
    for case in load_json(references / "units/snippets/arrays.json")["cases"]:
        name, args, expected = case["fn"], dict(case["args"]), case["out"]

        def compute(name=name, args=args):
            if name.startswith("ViterbiDecoder"):
                return ViterbiDecoder(args["trans"], args["starts"], args["ends"]).decode(
                    args["nodes"]
                )
            return (
                to_array(*args["args"]) if name == "to_array" else getattr(snippets, name)(**args)
            )

        if is_error(expected):
            with pytest.raises(ValueError, match=name):
                compute()
            continue
        result = compute()
        assert isinstance(result, list) == (case.get("returns") == "list")
        results = result if isinstance(result, list) else [result]
        for array, reference in zip(results, expected, strict=True):
            np.testing.assert_allclose(array, reference, atol=1e-6)
            assert array.dtype == reference.dtype or [] in args["inputs"]


def test_an_empty_sequence_does_not_make_floats_of_integers():
    # The original gives float64 here, which is slow and breaks metrics that expect integers.
    assert sequence_padding([[1, 2], []]).dtype == np.int64
    assert sequence_padding([np.ones(2, "float32"), []]).dtype == np.float32


@pytest.mark.parametrize("dtype", ["int32", "float32", "bool"])
def test_padding_keeps_the_type(dtype):
    arrays = [np.ones(2, dtype), np.ones(3, dtype)]
    assert sequence_padding(arrays).dtype == dtype
    padded = sequence_padding(arrays, value=0.5)
    assert padded[0, 2] == 0.5


@given(
    st.lists(st.lists(st.integers(1, 9), max_size=6), min_size=1, max_size=5),
    st.none() | st.integers(0, 8),
    st.sampled_from(["post", "pre"]),
)
def test_padding_keeps_every_element_that_fits(sequences, length, mode):
    padded = sequence_padding(sequences, length, value=0, mode=mode)
    width = max(map(len, sequences)) if length is None else length
    for row, sequence in zip(padded.tolist(), sequences, strict=True):
        kept = sequence[:width]
        filled = [0] * (width - len(kept))
        assert row == (kept + filled if mode == "post" else filled + kept)


@pytest.mark.parametrize(
    ("inputs", "options"),
    [
        ([], {}),
        ([[1], [[1]]], {}),
        ([[1, 2]], {"seq_dims": 2}),
        ([np.ones((2, 3)), np.ones((2, 4))], {}),
        ([np.ones((2, 3))], {"seq_dims": 2, "length": 3}),
        ([[1]], {"mode": "middle"}),
    ],
)
def test_padding_refuses_what_does_not_fit(inputs, options):
    with pytest.raises(ValueError, match="sequence_padding"):
        sequence_padding(inputs, **options)


def test_bucket_lengths_are_few_and_near():
    lengths = [bucket_length(n) for n in range(1025)]
    assert lengths[:3] == [0, 1, 16]
    assert sorted(set(lengths))[2:] == [
        *range(16, 128, 16), *range(128, 256, 32), *range(256, 512, 64), *range(512, 1025, 128)
    ]  # fmt: skip
    assert all(a <= b for a, b in itertools.pairwise(lengths))
    assert all(n <= bucket_length(n) < n + max(16, n / 4) for n in range(2, 1025))
    assert all(bucket_length(n) == n for n in set(lengths))


def test_softmax_of_large_values():
    np.testing.assert_allclose(softmax(np.array([1e4, 1e4])), [0.5, 0.5])
    assert softmax(np.ones((2, 3), "float32")).dtype == np.float32


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 12), st.integers(1, 12))
def test_resizing_keeps_the_norm(m, n, new_m, new_n):
    a = np.random.default_rng(m * n).normal(size=(2 * m, 2 * n)) + 3
    resized = orthogonally_resize(a, (new_m, new_n))
    assert resized.shape == (new_m, new_n)
    np.testing.assert_allclose(np.linalg.norm(resized), np.linalg.norm(a))


def test_resizing_zeros_gives_zeros():
    # The original divides by the norm, and gives NaN for a bias that is zero.
    assert not orthogonally_resize(np.zeros(4), (6,)).any()


# === Labels ===


@given(st.data())
def test_viterbi_finds_the_best_path(data):
    n, length = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 4))
    numbers = np.random.default_rng(data.draw(st.integers(0, 1000)))
    trans, nodes = numbers.normal(size=(n, n)), numbers.normal(size=(length, n))
    allowed = st.none() | st.sets(st.integers(0, n - 1), min_size=1)
    starts, ends = data.draw(allowed), data.draw(allowed)
    if length == 1 and starts and ends and not starts & ends:
        return

    def score(path):
        if (starts and path[0] not in starts) or (ends and path[-1] not in ends):
            return -np.inf
        steps = itertools.pairwise(path)
        return nodes[range(length), path].sum() + sum(trans[i, j] for i, j in steps)

    best = max(np.ndindex(*[n] * length), key=score)
    given_nodes = nodes.copy()
    assert ViterbiDecoder(trans, starts, ends).decode(nodes).tolist() == list(best)
    # The original writes minus infinity into its input.
    np.testing.assert_array_equal(nodes, given_nodes)


def test_viterbi_refuses_nan():
    with pytest.raises(ValueError, match=r"nodes has NaN at \[1, 0\]"):
        ViterbiDecoder(np.zeros((2, 2))).decode([[0, -np.inf], [np.nan, 1]])
    with pytest.raises(ValueError, match=r"trans has NaN at \[0, 1\]"):
        ViterbiDecoder([[0, np.nan], [0, 0]]).decode(np.zeros((1, 2)))


def test_viterbi_takes_integers_and_a_later_transition():
    decoder = ViterbiDecoder([[0, 0], [0, 0]], ends=[0])
    nodes = np.array([[0, 1], [0, 1]])
    assert decoder.decode(nodes).tolist() == [1, 0]
    decoder.trans = np.array([[0.0, 0.0], [-9.0, 0.0]])
    assert decoder.decode(nodes).tolist() == [0, 0]


@pytest.mark.parametrize("shape", [(0, 2), (3, 3), (2,)])
def test_viterbi_refuses_nodes_of_another_shape(shape):
    with pytest.raises(ValueError, match="nodes has the shape"):
        ViterbiDecoder(np.zeros((2, 2))).decode(np.zeros(shape))


# === Building classes ===


def test_arguments_are_inserted_and_deleted():
    class Base:
        @snippets.insert_arguments(scale=2, shift=0)
        def __init__(self, size, name=None):
            self.size, self.name = size, name

    class Child(Base):
        @snippets.delete_arguments("name")
        def __init__(self, size, **kwargs):
            super().__init__(size, **kwargs)

    made = Child(3, shift=1)
    assert (made.size, made.scale, made.shift, made.name) == (3, 2, 1, None)
    with pytest.raises(TypeError, match="Child takes no argument 'name'"):
        Child(3, name="x")


def test_is_one_of_compares_identity():
    a, b = np.zeros(2), np.zeros(2)
    assert snippets.is_one_of(a, [b, a])
    assert not snippets.is_one_of(a, [b])


# === DataGenerator ===


class Numbers(DataGenerator):
    """The generator that the reference outputs were recorded with."""

    def __iter__(self, random=False):
        batch = []
        for is_end, x in self.sample(random):
            batch.append(x)
            if len(batch) == self.batch_size or is_end:
                yield batch, [10 * x for x in batch]
                batch = []


class Stream:
    """An iterable without length."""

    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


@pytest.fixture(scope="module")
def generator_cases(references):
    return load_json(references / "units/snippets/data_generator.json")


def test_batches_of_a_list_are_the_reference_ones(generator_cases):
    for case in generator_cases["list_data"]:
        generator = Numbers(list(range(case["n"])), case["batch_size"])
        assert (len(generator), generator.buffer_size) == (case["len"], case["buffer_size"])
        assert [list(pair) for pair in generator.sample()] == case["sample"]
        assert [batch for batch, _ in generator] == case["batches"]
        np.random.seed(7)
        assert [b for b, _ in generator.__iter__(random=True)] == case["seed_7_random_batches"]


def test_samples_of_an_iterable_are_the_reference_ones(generator_cases):
    for case in generator_cases["iterable_data"]:
        generator = Numbers(Stream(range(case["n"])), case["batch_size"], case["buffer_size"])
        assert generator.steps is case["steps"]
        assert [x for _, x in generator.sample()] == case["sequential"]
        np.random.seed(11)
        samples = list(generator.sample(random=True))
        assert [x for _, x in samples] == case["seed_11_order"]
        assert [is_end for is_end, _ in samples] == case["ends"]
    assert Numbers([], 4).buffer_size == generator_cases["default_buffer_size_for_batch_4"]


def test_data_may_have_a_length_and_no_places():
    generator = Numbers({3, 1, 2, 5}, 3)
    assert len(generator) == 2
    assert sorted(x for batch, _ in generator.__iter__(random=True) for x in batch) == [1, 2, 3, 5]


def test_a_file_feeds_a_generator(tmp_path):
    path = tmp_path / "lines"
    path.write_text("a\nb\nc\n")
    with open_file(path, indexable=True) as file:
        assert len(DataGenerator(file, 2)) == 2
    with open_file(path) as file:
        generator = DataGenerator(file, 2)
        assert [x for _, x in generator.sample()] == ["a\n", "b\n", "c\n"]
        with pytest.raises(TypeError, match="steps_per_epoch"):
            len(generator)
        with pytest.raises(ValueError, match="exhausted after one pass"):
            next(generator.sample())


@pytest.mark.parametrize("data", [[], Stream([])])
@pytest.mark.parametrize("random", [False, True])
def test_empty_data_is_one_clear_error(data, random):
    # The original's StopIteration turns into a RuntimeError that does not say what is wrong.
    with pytest.raises(ValueError, match="the data have no sample"):
        next(Numbers(data, bucket=True).sample(random))


def test_a_generator_needs_a_batch_size_and_an_iter():
    with pytest.raises(ValueError, match="batch_size is 0"):
        DataGenerator([1], 0)
    with pytest.raises(NotImplementedError, match=r"__iter__\(self, random=False\)"):
        iter(DataGenerator([1]))


@given(
    st.integers(1, 300),
    st.integers(1, 9),
    st.booleans(),
    st.booleans() | st.just(lambda sample: -len(sample)),
    st.integers(0, 100),
)
def test_every_sample_comes_once_in_a_pass(n, batch_size, as_stream, bucket, seed):
    numbers = random.Random(seed)
    data = [(i, "x" * numbers.randrange(30)) for i in range(n)]
    generator = Numbers(
        Stream(data) if as_stream else data, batch_size, buffer_size=7, bucket=bucket
    )
    np.random.seed(seed)
    samples = list(generator.sample(random=True))
    assert sorted(x for _, x in samples) == data
    assert [is_end for is_end, _ in samples] == [False] * (n - 1) + [True]
    np.random.seed(seed)
    assert list(generator.sample(random=True)) == samples
    assert [x for _, x in generator.sample()] == data


def test_bucketed_batches_are_similar_in_length_and_in_random_order():
    numbers = random.Random(1)
    lengths = [numbers.randrange(1, 500) for _ in range(6403)]
    data = [["x" * n] for n in lengths]
    np.random.seed(0)
    generator = Numbers(data, 32, bucket=True)
    batches = [[len(text) for (text,) in batch] for batch, _ in generator.__iter__(random=True)]
    assert len(batches) == len(generator)
    assert [len(batch) for batch in batches] == [32] * 200 + [3]
    waste = 1 - sum(lengths) / sum(len(batch) * max(batch) for batch in batches)
    assert waste < 0.05  # 0.48 without bucketing
    # Neither within a window nor from one to the next do the lengths tell what follows.
    longest = np.array([max(batch) for batch in batches[:200]])
    assert abs(np.corrcoef(longest[:-1], longest[1:])[0, 1]) < 0.3
    again = [[len(text) for (text,) in batch] for batch, _ in generator.__iter__(random=True)]
    assert {tuple(sorted(b)) for b in batches}.isdisjoint({tuple(sorted(b)) for b in again})


def test_bucketing_reads_no_more_of_a_stream_than_its_window():
    read = []
    data = Stream(read.append(i) or i for i in range(10_000))
    generator = Numbers(data, 2, buffer_size=10, bucket=lambda x: x)
    next(generator.sample(random=True))
    assert len(read) <= 2 * generator.bucket_window + 11


@pytest.mark.parametrize(
    ("sample", "length"),
    [
        ("中文", 2),
        (("中文", 1), 3),
        ([1, 2, 3], 3),
        ({"text": "abc", "labels": [(0, 2, "x")]}, 6),
        ((np.zeros((2, 3)), None), 7),
        (b"ab", 2),
    ],
)
def test_a_sample_is_measured_by_its_characters_and_numbers(sample, length):
    assert sample_length(sample) == length


def test_padding_of_a_generator_rounds_up_only_with_buckets():
    sequences = [[1, 2, 3], [4]]
    assert Numbers([1]).pad(sequences, mode="pre").tolist() == [[1, 2, 3], [0, 0, 4]]
    bucketed = Numbers([1], bucket=True)
    padded = bucketed.pad(sequences, value=9)
    assert padded.shape == (2, 16)
    assert padded[:, :4].tolist() == [[1, 2, 3, 9], [4, 9, 9, 9]]
    assert bucketed.pad([[1], [0]]).shape == (2, 1)
    assert bucketed.pad([np.ones((1, 20, 20))] * 2, seq_dims=3).shape == (2, 1, 32, 32)
    with pytest.raises(ValueError, match="at least one sequence"):
        bucketed.pad([])


def test_a_star_import_gives_all_that_is_public():
    names = {}
    exec("from bert4keras.snippets import *", names)
    assert names.keys() - {"__builtins__"} == set(snippets.__all__) == set(dir(snippets))
    assert {"DataGenerator", "WebServing", "sequence_padding"} <= names.keys()
    assert "np" not in names
