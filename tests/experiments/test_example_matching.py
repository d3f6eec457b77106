"""Six matching tasks: how pairs are drawn, words, the heads, the timing, a run on a slice."""

import dataclasses
import json
import random
import sys
from collections import Counter
from pathlib import Path

import keras
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
TINY = ROOT / "examples/weights/tiny_zh"


@pytest.fixture(scope="module")
def script(load_script):
    return load_script(ROOT / "experiments/task_conditional_matching.py")


@pytest.fixture(scope="module")
def data(load_script):
    return load_script(ROOT / "experiments/matching_data.py")


@pytest.fixture(scope="module")
def base():
    from bert4keras.tokenizers import Tokenizer

    return Tokenizer(TINY / "vocab.txt", do_lower_case=True)


# --- data


def test_no_text_tells_by_itself_whether_its_field_is_the_same(data):
    fields = "aaaaaabbbccd"
    first = [(f"first {i}", field) for i, field in enumerate(fields)]
    second = [f"second {i}" for i in range(len(fields))]
    for seed in range(20):
        pairs = data.same_field(first, second, random.Random(seed))
        for a, b, label in pairs:
            i, j = int(a.split()[1]), int(b.split()[1])
            assert i != j
            assert (fields[i] == fields[j]) == bool(label)
        for side in (0, 1):
            times = Counter((pair[side], pair[2]) for pair in pairs)
            assert set(times.values()) == {1}
            # The only text of its field finds no like.
            assert len(times) == 2 * len(fields) - 1


def test_a_field_of_most_texts_leaves_only_wrong_pairs_out(data):
    first = [(str(i), "aaaab"[i]) for i in range(5)]
    pairs = data.same_field(first, list("vwxyz"), random.Random(0))
    assert Counter(label for *_, label in pairs) == {1: 4, 0: 2}


def test_texts_are_cut_behind_a_sentence_of_the_middle(data):
    text = "甲" * 9 + "。" + "乙" * 7 + ".5丙。" + "丁" * 5 + "。" + "戊" * 12
    cuts = {10: "甲。", 21: "丙。", 27: "丁。"}
    first, second = data.halves(text)
    assert first + second == text
    assert (first, second) == data.halves(text)
    # 10 of 39 characters are less than 30 %; the point of .5 ends no sentence.
    assert len(first) in {21, 27}
    assert first.endswith(cuts[len(first)])
    places = {len(data.halves(f"{i:03}{text}")[0]) for i in range(50)}
    assert places == {13, 24}  # of 42
    assert data.halves("没有句子的结尾") is None


def test_the_wrong_half_shares_most(data):
    texts = ["甲乙丙。甲乙丁", "子丑寅。子丑卯", "甲乙己。甲乙丑", "无"]
    first, second = zip(*map(data.halves, texts[:3]), strict=True)
    shared = data.shared_share(first, second)
    # Characters 甲 and 乙 of 甲乙丙。甲乙丁, bigram 甲乙 of 甲乙, 乙丙, 丙。, 乙丁.
    assert shared[0, 0] == pytest.approx(2 / 5 + 1 / 4)
    assert shared[0, 1] == 0
    pairs = data.same_text(texts)
    assert pairs[:2] == [("甲乙丙。", "甲乙丁", 1), ("甲乙丙。", "甲乙丑", 0)]
    assert [label for *_, label in pairs] == [1, 0] * 3


def test_no_text_of_a_test_is_trained_on(data):
    tasks = {
        "one": {
            "train": [("a", "b", 1), ("c", "d", 0), ("e", "f", 0)],
            "valid": [("g", "h", 1), ("d", "i", 1)],
            "test": [("j", "k", 1)],
        },
        "other": {
            "train": [("k", "l", 0), ("m", "n", 1), ("h", "n", 1)],
            "valid": [("o", "p", 1)],
            "test": [("q", "e", 1), ("i", "r", 0)],
        },
    }
    left = data.without_leaks(tasks)
    assert left["one"]["train"] == [("a", "b", 1), ("c", "d", 0)]
    assert left["one"]["valid"] == [("g", "h", 1)]
    assert left["other"]["train"] == [("m", "n", 1)]
    assert len(left["other"]["test"]) == 2


def test_pairs_that_annotators_did_not_agree_on_are_left_out(data, monkeypatch):
    rows = [{"sentence1": "a", "sentence2": "b", "label": label} for label in ("1", "-", "0")]
    monkeypatch.setattr(data, "read_json_lines", lambda *_: rows)
    assert data.read_json_pairs(None, "", "", ("0", "1")) == [("a", "b", 1), ("a", "b", 0)]


def test_what_shared_characters_tell(data):
    assert data.overlap("Ab甲", "a乙") == pytest.approx([1 / 3, 1 / 4, 1 / 3, 1 / 2, 0, 0, 0])
    likes = [(f"甲乙丙{c}", f"甲乙丙{d}", 1) for c in "子丑寅" for d in "卯辰巳"]
    unlikes = [(f"甲乙丙{c}", f"丁戊己{d}", 0) for c in "子丑寅" for d in "卯辰巳"]
    assert data.overlap_accuracy(likes + unlikes, [likes[0], unlikes[0], unlikes[1]]) == 1
    wrong = [(a, b, 1 - label) for a, b, label in (likes[0], *unlikes[:2])]
    assert data.overlap_accuracy(likes + unlikes, [likes[0], *wrong]) == 0.25
    # A third label, for pairs of other lengths.
    longer = [(a, b * 3, 2) for a, b, _ in likes]
    assert data.overlap_accuracy(likes + unlikes + longer, longer + unlikes) == 1


# --- words


def test_words_come_after_the_vocabulary(script, base):
    def cut(text):
        return text.split("/")

    texts = ["天气/很/好"] * 6 + ["天气/APP/龘龘"] * 5 + ["语言/模型"] * 4 + ["模型"]
    words = script.frequent_words(texts, cut, base, 10)
    # Not 语言, which is rare; nor 龘龘, which has no vectors to be the mean of.
    assert words == [w for w in ("天气", "app", "模型") if w not in base.token_dict]
    assert script.frequent_words(texts, cut, base, 1) == ["天气"]
    tokenizer, vocabulary = script.word_tokenizer(base, ["天气", "模型"], cut)
    size = len(base.token_dict)
    assert vocabulary["keep_tokens"] == list(range(size))
    assert vocabulary["compound_tokens"][0] == base.tokens_to_ids("天气")
    ids = tokenizer.encode("天气/语言/模型")[0]
    assert ids[1:-1] == [size, *base.tokens_to_ids("语言"), size + 1]
    assert "天气" not in base.token_dict
    assert script.word_tokenizer(base, [], cut)[1]["compound_tokens"] is None


def test_matches_are_those_of_the_tokens_that_are_left(script, base, load_script):
    matches = load_script(ROOT / "experiments/classification.py").matches
    first = ["[CLS]", "天气", "很", "好", "[SEP]"]
    second = ["[CLS]", "天", "好", "[SEP]"]
    assert matches(first, second) == [0, 2, 1, 3, 0]
    assert matches(second, first) == [0, 3, 3, 0]
    token_ids, segment_ids, match_ids, task, label = script.encode(
        ("天气很好", "好天"), 4, base, 7, 1
    )
    assert token_ids == base.encode("天气", "好天")[0]
    assert segment_ids == [0] * 4 + [1] * 3
    assert match_ids == [0, 3, 1, 0, 1, 3, 0]  # 好 of the first text was cut off
    assert (task, label) == (4, 1)


# --- model and scores


def test_only_the_labels_of_the_task_have_a_probability(script):
    import keras

    layer = script.OwnLabels([2, 3, 2])
    scores = np.arange(14, dtype="float32").reshape(2, 7)
    shares = keras.ops.convert_to_numpy(
        keras.ops.softmax(layer([scores, np.array([1, 2], "int32")]))
    )
    expected = np.exp([0, 1, 2]) / np.exp([0, 1, 2]).sum()
    np.testing.assert_allclose(shares[0], [0, 0, *expected, 0, 0], rtol=1e-5)
    np.testing.assert_allclose(shares[1, 5:].sum(), 1, rtol=1e-5)
    tasks = ("lcqmc", "ocnli", "halves")
    assert script.label_starts(tasks, heads=True) == [0, 2, 5]
    assert script.label_starts(tasks, heads=False) == [0, 0, 0]


def test_scores_of_each_task(script):
    assert script.f1_score(np.array([1, 1, 0, 0]), np.array([1, 0, 1, 0])) == 0.5
    assert script.f1_score(np.array([0, 1, 2]), np.array([0, 1, 1])) == pytest.approx(2 / 3)

    class Model:
        def predict_on_batch(self, inputs):
            return np.eye(5, dtype="float32")[inputs[0][:, 0]]

    samples = [([label], [0], [0], 0, 1) for label in (1, 1, 0)]
    samples += [([label], [0], [0], 1, label) for label in (3, 4)]
    found = script.score(Model(), samples, ("a", "b"), [0, 2])
    assert found == {"a": {"accuracy": 0.6667, "f1": 0.8}, "b": {"accuracy": 1.0, "f1": 1.0}}
    assert script.means(found) == {"accuracy": 0.8334, "f1": 0.9}


def test_the_same_samples_are_timed_in_both_kinds_of_batches(script, monkeypatch):
    calls = []

    class Model:
        def train_on_batch(self, inputs, labels):
            calls.append((inputs[0].shape[1], labels.tolist()))

    now = iter([0.0, 2.0, 10.0, 18.0, 20.0, 22.0, 30.0, 38.0])
    monkeypatch.setattr(script.time, "perf_counter", lambda: next(now))
    keras.utils.set_random_seed(0)
    samples = [([1] * (10 if i % 2 else 100), [0], [0], 0, i) for i in range(64)]
    found = script.time_buckets(Model(), samples, 4)
    n = script.N_TIMED
    # One step of each length first; then rounds of similar and mixed batches.
    lengths = {length for length, _ in calls[-2 * n :]} | {length for length, _ in calls[:2]}
    timed = calls[-script.N_ROUNDS * 2 * n :]
    warm = calls[: -len(timed)]
    assert {length for length, _ in warm} == lengths == {16, 112}
    similar, mixed = timed[:n], timed[n : 2 * n]
    assert timed[2 * n :] == similar + mixed
    assert sorted(x for _, each in similar for x in each) == list(range(64))
    assert sorted(x for _, each in mixed for x in each) == list(range(64))
    assert sum(length for length, _ in mixed) > sum(length for length, _ in similar)
    assert found == {
        "bucket": {"seconds_per_1000_samples": 31.25, "tokens_per_second": 1760},
        "mixed": {"seconds_per_1000_samples": 125.0, "tokens_per_second": 440},
    }


# --- a run


MEMBERS = {
    "lcqmc/lcqmc.zip": [f"lcqmc/lcqmc.{part}.data" for part in ("train", "valid", "test")],
    "clue/afqmc.zip": ["afqmc/train.json", "afqmc/dev.json"],
    "clue/ocnli.zip": ["ocnli/train.10k.json", "ocnli/dev.json"],
    "oppo_xiaobu/oppo_xiaobu.zip": ["oppo_xiaobu/train.tsv", "oppo_xiaobu/dev.tsv"],
    "csl/csl_category.zip": [f"csl_category/{part}.tsv" for part in ("train", "dev", "test")],
    "csl/csl_title.zip": [f"csl/{part}.tsv" for part in ("train", "val", "test")],
}
WHOLE = {"csl_category/dev.tsv", "csl_category/test.tsv"}  # titles are looked up in these


@pytest.mark.long
@pytest.mark.parametrize("heads", ["", "--heads"])
def test_a_run_on_a_slice(script, checkpoint, cut, tmp_path, capsys, monkeypatch, heads):
    monkeypatch.setattr(script, "N_TIMED", 2)
    monkeypatch.setattr(sys.modules["words"], "MIN_COUNT", 3)
    # One length to compile.
    monkeypatch.setattr(script, "QUICK", dataclasses.replace(script.QUICK, maxlen=16))
    for archive, members in MEMBERS.items():
        data = cut(archive, {name: None if name in WHOLE else 24 for name in members})
    output = tmp_path / "run"
    argv = f"--data {data} --quick --checkpoint {checkpoint()} --epochs 1 --batch-size 8"
    argv += f" --output {output} {heads}"
    result = script.main(argv.split())
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result
    scores = result["scores"]
    assert [*scores["tasks"]] == [*script.TASKS, *(["ocnli"] if heads else [])]
    assert all(0 <= each["overlap"] <= 1 for each in scores["tasks"].values())
    assert scores["speed"].keys() == {"bucket", "mixed"}
    assert (output / "tasks.png").is_file()
    saved = json.loads((output / "settings.json").read_text(encoding="utf-8"))
    assert len(saved["words"]) > 10

    def predicted(task):
        script.main(
            ["predict", "花呗怎么还款", "怎样还花呗", "--output", str(output), "--task", task]
        )
        (row,) = map(json.loads, capsys.readouterr().out.splitlines())
        assert sum(row["labels"].values()) == pytest.approx(1, abs=1e-3)
        return row["labels"]

    # The same texts: the condition is what differs.
    assert predicted("afqmc") != predicted("halves")
    if heads:
        assert [*predicted("ocnli")] == ["entailment", "neutral", "contradiction"]
    with pytest.raises(SystemExit, match="lcqmc"):
        script.main(["predict", "一", "二", "--output", str(output), "--task", "other"])


@pytest.mark.long
def test_a_new_model_is_what_the_checkpoint_is(script, base):
    """Words are means of characters; matches and tasks change nothing before training."""
    from types import SimpleNamespace

    import keras

    from bert4keras.checkpoints import find_files

    args = SimpleNamespace(files=find_files(TINY))
    tokenizer, vocabulary = script.word_tokenizer(base, ["天气", "模型"], lambda text: [text])
    model = script.build(args, script.TASKS, False, vocabulary)
    table = keras.ops.convert_to_numpy(model.get_layer("Embedding-Token").embeddings)
    assert len(table) == len(base.token_dict) + 2
    np.testing.assert_allclose(
        table[-2], table[base.tokens_to_ids("天气")].mean(0), rtol=1e-5, atol=1e-6
    )
    token_ids, segment_ids, match_ids, *_ = script.encode(("天气", "天"), 0, tokenizer, 16)
    inputs = [np.array([each] * 2) for each in (token_ids, segment_ids, match_ids)]
    inputs[2][1] = 0
    scores = model.predict_on_batch([*inputs, np.array([0, 3])])
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-5, atol=1e-6)
