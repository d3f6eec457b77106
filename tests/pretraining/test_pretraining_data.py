"""From corpus files to batches: nothing is lost in silence, and nothing depends on the workers."""

import collections
import gzip
import json
import os
import shutil
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import faults_states
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert4keras.tokenizers import Tokenizer

FOLDER = Path(__file__).parents[2] / "pretraining"
sys.path.insert(0, str(FOLDER))

import data_utils  # noqa: E402
import records  # noqa: E402
import state  # noqa: E402
import tasks  # noqa: E402

WORDS = ["春江", "潮水", "连海平", "海上", "明月", "共", "潮生", "滟滟", "随波", "千万里", "何处"]


def sentence(rng):
    return "".join(rng.choice(WORDS, rng.integers(1, 6))) + "。"


def texts(n, seed=0):
    rng = np.random.default_rng(seed)
    return ["".join(sentence(rng) for _ in range(rng.integers(1, 9))) for _ in range(n)]


def segment(text):
    """A segmenter that knows the words above, and takes other characters as words."""
    words = []
    while text:
        word = next((w for w in WORDS if text.startswith(w)), text[0])
        words.append(word)
        text = text[len(word) :]
    return words


def lossy(text):
    return [word for word in segment(text) if word != "明月"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Three files of different kinds, the texts of all of them in order."""
    folder, all_texts = tmp_path_factory.mktemp("corpus"), texts(300)
    parts = all_texts[:120], all_texts[120:200], all_texts[200:]
    with gzip.open(folder / "a.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text, "source": "a"}) + "\n" for text in parts[0])
    (folder / "b.txt").write_bytes("\r\n".join(parts[1]).encode("utf-8-sig"))
    with open(folder / "c.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in parts[2])
    return sorted(folder.iterdir()), all_texts


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(data_utils, "BLOCK_BYTES", 1000)


def prepare(corpus, output, **settings):
    return data_utils.prepare(corpus, output, **{"length": 32, "min_count": 1, **settings})


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# --- records


lists = st.lists(st.integers(0, 2**63 - 1), max_size=40)


@given(st.lists(st.tuples(lists, lists), min_size=1, max_size=5))
def test_examples_are_read_as_they_were_written(rows):
    examples = [records.encoded({"token_ids": a, "标": b}) for a, b in rows]
    features = records.decoded(examples)
    assert [values.tolist() for values in features["token_ids"]] == [a for a, _ in rows]
    assert [values.tolist() for values in features["标"]] == [b for _, b in rows]


def test_a_record_is_laid_out_as_published():
    # CRC-32C of "123456789" is e3069283 (RFC 3720, B.4 gives the polynomial).
    crc = 0xE3069283
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    record = records.framed(b"123456789")
    assert record[:8] == struct.pack("<Q", 9) and record[12:21] == b"123456789"
    assert record[21:] == struct.pack("<I", masked) and len(record) == 25


def test_negative_numbers_are_refused():
    with pytest.raises(ValueError, match="from 0 on, not -1"):
        records.encoded({"a": [-1]})


@pytest.fixture
def shard(tmp_path):
    data = [records.encoded({"token_ids": range(n)}) for n in (3, 0, 200)]
    path = tmp_path / "x.tfrecord"
    path.write_bytes(b"".join(map(records.framed, data)))
    return path, data


def read_all(path):
    file = records.RecordFile(path)
    return [file[i] for i in range(len(file))]


def test_no_damage_of_a_shard_goes_unseen(shard):
    path, data = shard
    assert read_all(path) == data
    whole = path.read_bytes()
    ends = np.cumsum([0, *(len(record) + 16 for record in data)])
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        start = ends[ends <= at][-1]
        with pytest.raises(records.DamagedRecordsError, match=rf"x.tfrecord .* at byte {start}:"):
            read_all(path)
        path.write_bytes(whole[:at])
        if at in ends:  # whole records are missing, which dataset.json tells
            assert read_all(path) == data[: list(ends).index(at)]
        else:
            with pytest.raises(records.DamagedRecordsError, match=f"at byte {start}: it ends"):
                read_all(path)


# --- corpus


def test_every_text_is_in_the_examples(corpus, tmp_path, small_blocks):
    paths, all_texts = corpus
    prepare(paths, tmp_path)
    tokenizer = Tokenizer(tmp_path / "vocab.txt", do_lower_case=True)
    expected = collections.Counter(i for t in all_texts for i in tokenizer.encode(t)[0][1:])
    assert tokenizer._token_unk_id not in expected
    examples = tasks.Examples(tmp_path)
    assert len(examples.files) == 1 and len(examples) > 300
    found = collections.Counter()
    for token_ids in examples[np.arange(len(examples))]["token_ids"]:
        assert 2 <= len(token_ids) <= 30
        found.update(token_ids.tolist())
    assert found == expected


@pytest.mark.parametrize("task", ["roberta", "bert"])
def test_the_shards_do_not_depend_on_the_workers(corpus, tmp_path, small_blocks, task):
    settings = {"task": task, "shards": 3, "segmenter": f"{__name__}:segment"}
    results = []
    for workers in (1, 2, 3):
        prepare(corpus[0], tmp_path / str(workers), workers=workers, **settings)
        results.append(contents(tmp_path / str(workers)))
    assert results[0] == results[1] == results[2]
    sizes = [len(v) for k, v in results[0].items() if k.endswith("tfrecord")]
    assert len(sizes) == 3 and all(sizes)
    prepare(corpus[0], tmp_path / "other", seed=1, **settings)
    assert contents(tmp_path / "other") != results[0]


def test_beam_writes_the_same(corpus, tmp_path, small_blocks):
    pytest.importorskip("apache_beam", reason="Apache Beam is not installed (extra: beam)")
    settings = {"task": "bert", "shards": 3}
    prepare(corpus[0], tmp_path / "local", **settings)
    prepare(corpus[0], tmp_path / "beam", runner="DirectRunner", **settings)
    assert contents(tmp_path / "beam") == contents(tmp_path / "local")


def test_broken_lines_are_counted_and_the_others_kept(tmp_path, capsys):
    good = texts(6)
    lines = [
        json.dumps({"text": good[0]}).encode(),
        b'{"text": "\xff\xfe"}',
        b"",
        b"   ",
        b'{"text": ',
        b"[" * 100_000,
        b'["a list"]',
        b'{"title": "no text"}',
        b'{"text": 5}',
        b'{"text": "  "}',
        rb'{"text": "half of a pair \ud800"}',
        b'{"text": "' + b"x" * 50_000_000 + b'"}',
        json.dumps({"text": good[1]}).encode(),
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    plain = [good[2].encode(), b"\xe6\x98", b"", good[3].encode("utf-16"), good[4].encode()]
    (tmp_path / "b.txt").write_bytes(b"\n".join(plain))
    prepare([tmp_path / "a.jsonl", tmp_path / "b.txt"], tmp_path / "out")
    stats = json.loads((tmp_path / "out" / "stats.json").read_text())
    a, b = stats[str(tmp_path / "a.jsonl")], stats[str(tmp_path / "b.txt")]
    skipped = {"empty": 3, "encoding": 2, "json": 3, "no_text": 2, "too_long": 1}
    assert {key: a[key] for key in skipped} == skipped
    assert (a["lines"], a["documents"]) == (13, 2)
    # A line in UTF-16 can hold the byte of a line break.
    assert b["documents"] == 2 and b["empty"] == 1 and b["encoding"] == b["lines"] - 3 >= 2
    shown = capsys.readouterr().err
    assert "lines over the limit" in shown and "not UTF-8" in shown and "JSON without text" in shown
    tokenizer = Tokenizer(tmp_path / "out" / "vocab.txt", do_lower_case=True)
    expected = collections.Counter(
        i for t in (good[0], good[1], good[2], good[4]) for i in tokenizer.encode(t)[0][1:]
    )
    examples = tasks.Examples(tmp_path / "out")
    found = examples[np.arange(len(examples))]["token_ids"]
    assert collections.Counter(np.concatenate(found).tolist()) == expected


def test_a_file_larger_than_memory_is_streamed(tmp_path):
    path = tmp_path / "large.txt"
    with open(path, "wb") as file:
        for _ in range(200):
            file.write(("海上明月共潮生" * 7000 + "\n").encode())
        file.write(b"x" * 20_000_000 + b"\n" + "尾".encode())
    assert path.stat().st_size > 4e7
    tracemalloc.start()
    lines = too_long = 0
    for block in data_utils.read_blocks(0, path, max_line=10**6):
        lines, too_long = lines + len(block.lines), too_long + block.too_long
        last = block.lines[-1]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (lines, too_long, last) == (201, 1, "尾".encode())
    assert peak < 8e6


def write_gzip(path, content):
    path.write_bytes(gzip.compress(content))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "there is no corpus file .*x.jsonl.gz"),
        (lambda path: path.mkdir(), "there is no corpus file"),
        (lambda path: path.write_bytes(b""), "cannot be read|is empty"),
        (lambda path: write_gzip(path, b""), "is empty"),
        (lambda path: path.write_bytes(b"text"), "cannot be read: Not a gzipped file"),
        (lambda path: write_gzip(path, b"\n \n{}\nnull\n"), "nothing is left of the corpus"),
        (
            lambda path: path.write_bytes(gzip.compress(os.urandom(5000).hex().encode())[:-2000]),
            "damaged after .* bytes: Compressed file ended",
        ),
    ],
    ids=["missing", "folder", "empty", "empty gzip", "no gzip", "nothing left", "cut off"],
)
def test_a_corpus_that_cannot_be_used_is_one_error(tmp_path, make, message):
    path, good = tmp_path / "x.jsonl.gz", tmp_path / "good.txt"
    make(path)
    good.write_text("海上明月")
    vocab = FOLDER.parent / "examples/weights/tiny_zh/vocab.txt"
    files = [path] if "nothing" in message else [good, path]
    with pytest.raises(SystemExit, match=message):
        prepare(files, tmp_path / "out", vocab=vocab)
    assert not (tmp_path / "out" / "dataset.json").exists()
    with pytest.raises(SystemExit, match="no complete data set"):
        tasks.Examples(tmp_path / "out")


def test_a_vocabulary_without_special_tokens_is_refused(tmp_path, corpus):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n海\n")
    with pytest.raises(SystemExit, match=r"has no \[CLS\], \[SEP\], \[MASK\]"):
        prepare(corpus[0], tmp_path / "out", vocab=tmp_path / "vocab.txt")


def test_only_documents_of_some_sources(corpus, tmp_path):
    prepare(corpus[0][:1], tmp_path / "a", sources=["a"])
    prepare(corpus[0][:1], tmp_path / "all")
    read = [json.loads((tmp_path / x / "stats.json").read_text()) for x in ("a", "all")]
    assert read[0] == read[1]
    with pytest.raises(SystemExit, match="nothing is left"):
        prepare(corpus[0][:1], tmp_path / "b", sources=["b"])


@pytest.mark.parametrize("name", ["nothing", "nowhere:f", f"{__name__}:none"])
def test_a_segmenter_that_is_not_there(corpus, tmp_path, name):
    with pytest.raises(SystemExit, match="give module:function"):
        prepare(corpus[0], tmp_path, segmenter=name)


def test_a_segmenter_that_loses_text_is_refused(corpus, tmp_path):
    with pytest.raises(ValueError, match=r"lossy makes .*the words have to be the text again"):
        prepare(corpus[0], tmp_path, segmenter=f"{__name__}:lossy")


def test_data_are_prepared_once(corpus, tmp_path):
    manifest = prepare(corpus[0], tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert prepare(corpus[0], tmp_path, workers=2) == manifest
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    with pytest.raises(SystemExit, match="prepared with length=32, not 64"):
        prepare(corpus[0], tmp_path, length=64)


def test_what_an_interrupted_preparation_left_is_no_data(
    corpus, tmp_path, small_blocks, monkeypatch
):
    expected = tmp_path / "expected"
    prepare(corpus[0], expected, shards=2)
    count = 0

    class Killed(BaseException):
        pass

    def kill(path, function):
        def killing(*args, **kwargs):
            nonlocal count
            count -= 1
            if count == 0:
                raise Killed
            return function(*args, **kwargs)

        monkeypatch.setattr(path, killing)

    kill("data_utils.Preparer.__call__", data_utils.Preparer.__call__)
    kill("records.sync_file", records.sync_file)
    kill("records.os.replace", os.replace)
    output = tmp_path / "out"
    n_kills = 0
    for n in range(1, 1000):
        count = n
        try:
            prepare(corpus[0], output, shards=2)
            break
        except Killed:
            n_kills += 1
        assert not (output / "dataset.json").exists() or contents(output) == contents(expected)
        if n % 4 == 0:
            shutil.rmtree(output)  # also from nothing, not only over what is there
    assert n_kills > 20
    assert contents(output) == contents(expected)


def test_damaged_data_are_refused(corpus, tmp_path):
    prepare(corpus[0], tmp_path, shards=2)
    path = tmp_path / data_utils.shard_name(1, 2)
    whole = path.read_bytes()
    last = int(records.RecordFile(path).offsets[-2])
    path.write_bytes(whole[:last])
    with pytest.raises(records.DamagedRecordsError, match=f"ends at byte {last} after"):
        tasks.Examples(tmp_path)
    path.unlink()
    with pytest.raises(SystemExit, match="is missing"):
        tasks.Examples(tmp_path)
    path.write_bytes(whole)
    with open(tmp_path / "vocab.txt", "a") as file:
        file.write("new\n")
    with pytest.raises(SystemExit, match="not the one the data were prepared with"):
        tasks.Examples(tmp_path)


# --- pieces of texts


documents = st.lists(st.lists(st.integers(5, 99), min_size=1, max_size=30), max_size=12)


@given(documents, st.integers(2, 9))
def test_packing_keeps_all_tokens(documents, size):
    pieces = list(data_utils.packed([(ids, [1] * len(ids)) for ids in documents], size, 3))
    assert [i for piece in pieces for i in piece["token_ids"]] == [
        i for ids in documents for i in [*ids, 3]
    ]
    assert all(len(piece["token_ids"]) == size for piece in pieces[:-1])


@given(documents, st.integers(2, 9))
def test_chunks_are_whole_sentences_that_fit(sentences, size):
    pieces = list(data_utils.chunks([(ids, [1] * len(ids)) for ids in sentences], size))
    assert [i for p in pieces for i in p["token_ids"]] == [i for ids in sentences for i in ids]
    ends, at = set(np.cumsum([0, *map(len, sentences)]).tolist()), 0
    for piece in pieces:
        assert len(piece["token_ids"]) <= size
        starts = [at + start for start in piece["sentence_starts"]]
        between = {end for end in ends if at < end < at + len(piece["token_ids"])}
        assert between <= set(starts)  # long sentences are cut elsewhere as well
        at += len(piece["token_ids"])


def test_sentences():
    text = "他说：“去吧！”然后……走了。\n\nIt is 3.5 m. Really？！好"
    parts = ["他说：“去吧！”", "然后……", "走了。", "It is 3.5 m.", "Really？！", "好"]
    assert data_utils.sentences_of(text) == parts


# --- batches


@pytest.fixture(scope="module")
def data(corpus, tmp_path_factory):
    """A folder of prepared data for each layout."""
    folders = {}
    for task in ("roberta", "bert"):
        folder = tmp_path_factory.mktemp(task)
        prepare(corpus[0], folder, task=task, segmenter=f"{__name__}:segment", shards=2)
        folders[data_utils.LAYOUTS[task]] = tasks.Examples(folder)
    return folders


def batches(data, task, **settings):
    examples = data[data_utils.LAYOUTS[task]]
    return tasks.Batches(examples, task, **{"batch_size": 16, "seed": 0, **settings})


def flat(batch):
    return [np.asarray(x) for part in batch for x in (part if isinstance(part, tuple) else (part,))]


@pytest.mark.parametrize("task", data_utils.LAYOUTS)
def test_a_batch_depends_on_the_seed_and_its_step_alone(data, task):
    one, other = batches(data, task), batches(data, task)
    far = 3 * one.per_epoch + 2
    expected = flat(one[far])
    for _ in zip(range(3), other.start_at(0), strict=False):
        pass
    assert all(map(np.array_equal, flat(next(other.start_at(far))), expected))
    assert all(x.shape == y.shape for x, y in zip(flat(one[0]), expected, strict=True))
    assert not all(map(np.array_equal, flat(one[far - one.per_epoch]), expected))
    assert not all(map(np.array_equal, flat(batches(data, task, seed=1)[far]), expected))


def test_an_epoch_takes_every_example_once(data):
    examples = data["packed"]
    rows = batches(data, "gpt", batch_size=1)
    seen = [tuple(rows[step][1][0]) for step in range(len(examples))]
    assert collections.Counter(seen) == collections.Counter(
        tuple(np.pad(ids, (0, 30 - len(ids))))
        for ids in examples[np.arange(len(examples))]["token_ids"]
    )


@pytest.mark.parametrize("masking", tasks.MASKINGS)
def test_masks_hide_what_is_to_be_predicted(data, masking):
    rows = batches(data, "roberta", batch_size=64, masking=masking)
    tokenizer, kinds, n_predicted = rows.tokenizer, collections.Counter(), 0
    for step in range(20):
        (tokens, segments, positions), targets, weights = rows[step]
        original = tokens.copy()
        for row in range(64):
            chosen = weights[row] > 0
            places = positions[row][chosen]
            assert (np.diff(places) > 0).all()
            original[row, places] = targets[row][chosen]
            shown = tokens[row, places]
            kinds["mask"] += (shown == tokenizer._token_mask_id).sum()
            kinds["same"] += (shown == targets[row][chosen]).sum()
            n_predicted += chosen.sum()
        special = [tokenizer._token_start_id, tokenizer._token_end_id, tokenizer._token_pad_id]
        assert not np.isin(targets[weights > 0], special).any()
        assert not segments.any() and not (original == tokenizer._token_mask_id).any()
        real = (original != tokenizer._token_pad_id).sum()
        assert weights.sum() / real == pytest.approx(0.15, abs=0.04)
    assert kinds["mask"] / n_predicted == pytest.approx(0.8, abs=0.03)
    assert kinds["same"] / n_predicted == pytest.approx(0.1 + 0.1 / 25, abs=0.03)


def words_of(rows, original):
    """The words of a row, as positions."""
    tokens = rows.tokenizer.ids_to_tokens(original)
    at, words = 1, []
    for piece in "".join(t if len(t) == 1 else "|" for t in tokens[1:]).split("|"):
        for word in segment(piece):
            words.append(list(range(at, at + len(word))))
            at += len(word)
        at += 1
    return words


def test_words_are_masked_whole(data):
    rows = batches(data, "roberta", batch_size=64, masking="word")
    several = 0
    for step in range(5):
        (tokens, _, positions), targets, weights = rows[step]
        original = tokens.copy()
        for row in range(64):
            places = positions[row][weights[row] > 0]
            original[row, places] = targets[row][weights[row] > 0]
            # The first and last words of a row may be parts of one, which look like others.
            for word in words_of(rows, original[row])[2:-2]:
                hidden = np.isin(word, places)
                assert hidden.all() or not hidden.any()
                several += hidden.all() and len(word) > 1
    assert several > 100


def test_spans_are_longer_than_words(data):
    lengths = {}
    for masking in ("token", "span"):
        rows = batches(data, "roberta", batch_size=64, masking=masking)
        runs = collections.Counter()
        for step in range(10):
            (_, _, positions), _, weights = rows[step]
            for row in range(64):
                places = positions[row][weights[row] > 0]
                breaks = np.flatnonzero(np.diff(places) > 1)
                runs.update(np.diff([0, *(breaks + 1), len(places)]).tolist())
        lengths[masking] = sum(k * n for k, n in runs.items()) / runs.total()
    assert lengths["token"] < 1.5 < 2 < lengths["span"]


@given(st.data())
def test_chosen_units_are_whole_and_fit(data):
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=8))
    units = np.repeat(np.arange(len(sizes)), sizes)
    units = np.array([-1, *units, *[-1] * data.draw(st.integers(0, 3))])
    room = data.draw(st.integers(0, 12))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    chosen = tasks.choice(units[None], np.array([room]), rng)[0]
    span_of = tasks.spans(units, room, rng)
    for hidden in (chosen, span_of >= 0):
        assert hidden.sum() <= room and not hidden[units < 0].any()
        assert all(len(set(hidden[units == unit])) == 1 for unit in range(len(sizes)))
    if room >= max(sizes):
        assert chosen.any()


def test_pairs_of_segments(data):
    tokenizer = batches(data, "bert").tokenizer
    whole = {
        tuple(ids.tolist())
        for examples in [data["sentences"]]
        for ids in examples[np.arange(len(examples))]["token_ids"]
    }
    for pairs in tasks.PAIRS:
        rows = batches(data, "bert", pairs=pairs)
        labels, found = [], ([], [])
        for step in range(12):
            (tokens, segments, positions), (apart, targets), (ones, _) = rows[step]
            assert (ones == 1).all()
            labels += apart.tolist()
            np.put_along_axis(tokens, positions, targets, axis=1)
            for row, label in zip(tokens, apart, strict=True):
                ends = np.flatnonzero(row == tokenizer._token_end_id)
                assert len(ends) == 2 and row[0] == tokenizer._token_start_id
                a, b = row[1 : ends[0]].tolist(), row[ends[0] + 1 : ends[1]].tolist()
                assert a and b
                joined = tuple(b + a) if label and pairs == "sop" else tuple(a + b)
                found[label if pairs == "nsp" else 0].append(joined in whole)
            changes = (np.diff(segments, axis=1) != 0).sum(axis=1)
            assert (changes >= 1).all() and set(np.unique(segments)) == {0, 1}
        assert np.mean(labels) == pytest.approx(0.5, abs=0.15)
        assert all(found[0]) and (pairs == "sop" or np.mean(found[1]) < 0.2)


def test_the_next_token(data):
    rows = batches(data, "gpt")
    inputs, targets, weights = rows[0]
    assert inputs.shape == targets.shape == weights.shape == (16, 30)
    assert (inputs[:, 1:][weights[:, 1:] > 0] == targets[:, :-1][weights[:, 1:] > 0]).all()
    assert (inputs[:, 0] == rows.tokenizer._token_start_id).all()
    short = batches(data, "gpt", batch_size=len(data["packed"])).all_once()
    n_predicted = sum(map(len, data["packed"][np.arange(len(data["packed"]))]["token_ids"]))
    assert short[2].sum() == n_predicted  # all of the text, and the [SEP] around it not


def test_the_second_part_from_the_first(data):
    (tokens, segments), targets, weights = batches(data, "unilm")[0]
    assert (weights[:, :-1] == segments[:, 1:]).all() and (tokens[:, 1:] == targets[:, :-1]).all()
    assert (weights.sum(axis=1) >= 2).all()  # at least a token and [SEP]
    assert not (targets[weights > 0] == 0).any()


def test_the_target_of_a_pair_from_its_text(tmp_path):
    pairs = [("春江潮水。连海平", "明月"), ("江" * 50, "月\x1e" * 30), ("春", "江"), ("无对", " ")]
    lines = [json.dumps({"text": text, "target": target}) for text, target in pairs]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    (tmp_path / "b.txt").write_text("春江\x1e潮水。\x1e明月。")
    corpus = [tmp_path / "a.jsonl", tmp_path / "b.txt"]
    stats = prepare(corpus, tmp_path / "unilm", task="unilm")
    assert stats["examples"] == 5
    examples = tasks.Examples(tmp_path / "unilm")
    batch = tasks.Batches(examples, "unilm", 5, seed=0)
    tokenizer = Tokenizer(examples.token_dict)
    (tokens, segments), _, _ = batch.all_once()
    found = {
        (tokenizer.decode(ids[kinds == 0]), tokenizer.decode(ids[kinds == 1]))
        for ids, kinds in zip(tokens, segments + (tokens == 0) * 2, strict=True)
    }
    # A target takes half of the room at most; what is no pair is cut somewhere.
    assert {("春江潮水。连海平", "明月"), ("江" * 15, "月" * 14), ("春", "江")} <= found
    prepare(corpus, tmp_path / "packed", task="gpt")
    packed = tasks.Examples(tmp_path / "packed")
    ids = np.concatenate(packed[np.arange(len(packed))]["token_ids"])
    assert "春江潮水。连海平明月" in tokenizer.decode(ids)


def test_electra_knows_where_its_tokens_stand(data):
    (tokens, _, positions, original, slots), (targets, _), (weights, real) = batches(
        data, "electra"
    )[0]
    for row in range(16):
        for slot, (place, weight) in enumerate(zip(positions[row], weights[row], strict=True)):
            if weight:
                assert slots[row, place] == slot and original[row, place] == targets[row, slot]
        assert (slots[row] >= 0).sum() == weights[row].sum()
        assert (tokens[row][slots[row] < 0] == original[row][slots[row] < 0]).all()
    assert ((original != 0) == (real > 0)).all()


def test_validation_takes_every_example(data):
    rows = batches(data, "gpt", batch_size=7)
    inputs = rows.all_once()[0]
    assert len(inputs) % 7 == 0 and 0 <= len(inputs) - len(data["packed"]) < 7
    assert len({tuple(row) for row in inputs}) <= len(data["packed"])


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        ("roberta", {"batch_size": 10**6}, "less than a batch of 1000000"),
        ("bert", {"batch_size": 1}, "--batch-size 2 or more"),
    ],
)
def test_batches_that_cannot_be_made(data, task, settings, message):
    with pytest.raises(SystemExit, match=message):
        batches(data, task, **settings)


def test_data_for_another_task_are_refused(data, corpus, tmp_path):
    with pytest.raises(SystemExit, match="prepared for roberta, and unilm needs the layout"):
        tasks.Batches(data["packed"], "unilm", 4, 0)
    prepare(corpus[0], tmp_path)
    with pytest.raises(SystemExit, match="--masking word needs to know the words"):
        tasks.Batches(tasks.Examples(tmp_path), "roberta", 4, 0, "word")


# --- states


class Killed(BaseException):
    pass


@pytest.fixture
def dying(monkeypatch):
    """Let the n-th operation on files be the last one; what it wrote may be half there."""
    countdown = [0]

    def step(before=lambda *args: None):
        countdown[0] -= 1
        if countdown[0] == 0:
            before()
            raise Killed

    def wrap(name, function, torn=False):
        def wrapped(*args, **kwargs):
            if torn:
                step(lambda: os.truncate(args[0].name, args[0].tell() // 2))
            else:
                step()
            return function(*args, **kwargs)

        monkeypatch.setattr(name, wrapped)

    wrap("state.sync_file", records.sync_file, torn=True)
    wrap("state.sync_folder", records.sync_folder)
    wrap("state.np.savez", np.savez)
    wrap("state.json.dump", json.dump)
    wrap("state.shutil.rmtree", shutil.rmtree)
    wrap("pathlib.Path.rename", Path.rename)
    wrap("pathlib.Path.mkdir", Path.mkdir)
    return countdown


def made(step):
    """A state that is told from others by its numbers."""
    arrays = {"a": np.full((50,), step, "float32")}
    return state.State(step, arrays, {}, 0.5, 1.5, [{"step": step, "loss": 1 / step}])


def test_a_state_is_whole_or_not_there(tmp_path, dying):
    step, n_kills = 0, 0
    for n in [*range(1, 16)] * 3:
        dying[0] = n
        try:
            state.save_state(tmp_path, made(step + 1))
        except Killed:
            n_kills += 1
        dying[0], passed_over = 0, {}
        found = state.newest_state(tmp_path, {}, passed_over)
        survived = found.step if found else 0
        assert survived in (step, step + 1) and not passed_over
        if found:
            assert found.rows == made(survived).rows
            assert np.array_equal(found.arrays["a"], made(survived).arrays["a"])
        step = survived
    assert n_kills > 30 and step > 10
    state.save_state(tmp_path, made(step + 1))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [made(step).name, made(step + 1).name]


def test_a_damaged_state_is_passed_over(tmp_path):
    for step in (1, 2, 3):
        state.save_state(tmp_path, made(step))
    assert len(list(tmp_path.iterdir())) == state.KEPT == 2
    newest, passed_over = tmp_path / made(3).name, {}
    content = bytearray((newest / "variables.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (newest / "variables.npz").write_bytes(content)
    found = state.newest_state(tmp_path, {}, passed_over)
    assert found.step == 2 and found.arrays["a"].tolist() == [2] * 50
    assert passed_over == {newest.name: "the checksum of its variables.npz is wrong"}
    state.save_state(tmp_path, made(3))
    assert state.newest_state(tmp_path, {}, {}).step == 3
    for path in tmp_path.iterdir():
        (path / "state.json").unlink()
    with pytest.raises(SystemExit, match=r"can be taken up: step-0+3: it has no file state.json; "):
        state.newest_state(tmp_path, {}, {})


def test_a_state_of_another_run_is_refused_by_name(tmp_path):
    state.save_state(tmp_path, made(1))
    with pytest.raises(SystemExit, match=r"step-0+1: it is of a run with layers=None, not 2"):
        state.newest_state(tmp_path, {"layers": 2}, {})
    assert state.newest_state(tmp_path / "missing", {}, {}) is None


@pytest.mark.parametrize("kind", faults_states.DAMAGE)
def test_whatever_becomes_of_a_state_nothing_else_is_taken_up(kind):
    fell = [each for each in faults_states.attempts(kind) if each.outcome not in faults_states.HELD]
    assert fell == []


def test_a_writer_that_is_killed_leaves_a_state():
    """In a process without threads, as it is forked."""
    command = [sys.executable, faults_states.__file__, "killed"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1].split("|")[2]) > 12


def test_two_runs_do_not_write_into_one_folder(tmp_path):
    with state.locked(tmp_path):
        with pytest.raises(SystemExit, match="another process trains into"), state.locked(tmp_path):
            pass
        with state.locked(tmp_path.parent):
            pass
    with state.locked(tmp_path):
        pass
    assert not list(tmp_path.iterdir())
