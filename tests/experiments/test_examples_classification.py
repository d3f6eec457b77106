"""Classification and sentence vectors: data, pictures, ranks; a run of each script on a slice."""

import dataclasses
import json
import os
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "experiments"
TINY = ROOT / "examples/weights/tiny_zh"


@pytest.fixture(scope="module")
def examples(load_script):
    """The scripts by name; each is loaded once."""
    loaded = {}

    def example(name):
        if name not in loaded:
            loaded[name] = load_script(EXAMPLES / f"{name}.py")
        return loaded[name]

    return example


@pytest.fixture(scope="module")
def shared_code(examples):
    return examples("classification")


def write_archive(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, rows in members.items():
            lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
            archive.writestr(name, "\n".join(lines) + "\n")


# --- data


def test_the_last_column_is_the_label(shared_code, tmp_path):
    lines = {"train": ["好\t1", "坏\t0"], "valid": ["好\t1"], "test": ["坏\t0"]}
    members = {f"sentiment/sentiment.{part}.data": rows for part, rows in lines.items()}
    write_archive(tmp_path / "sentiment/sentiment.zip", members)
    parts = shared_code.read_sentiment(tmp_path)
    assert [*parts] == ["train", "valid", "test"]
    assert parts["train"] == [(("好",), 1), (("坏",), 0)]
    write_archive(tmp_path / "p.zip", {"p.txt": ["甲\t乙\t3"]})
    assert shared_code.read_labelled(tmp_path, "p.zip", "p.txt") == [(("甲", "乙"), 3)]


def test_labels_of_clue_are_strings_in_order(shared_code, tmp_path):
    def row(i, label):
        return {"sentence": f"文{i}", "label": label, "label_des": f"类{label}"}

    rows = [row(i, ("10", "9", "100")[i % 3]) for i in range(30)]
    archive = {
        "iflytek/train.json": rows,
        "iflytek/dev.json": [row(99, "11")],
        "iflytek/test.json": [{"id": 7, "sentence": "问"}],
    }
    write_archive(tmp_path / "clue/iflytek.zip", archive)
    clue = shared_code.read_clue(tmp_path, "iflytek")
    assert clue.labels == ["9", "10", "11", "100"]
    assert clue.names == ["9 类9", "10 类10", "11 类11", "100 类100"]
    assert (len(clue.train), len(clue.valid)) == (27, 3)
    assert sorted(clue.train + clue.valid) == sorted(
        ((each["sentence"],), clue.labels.index(each["label"])) for each in rows
    )
    assert clue.test == [(("文99",), 2)]
    assert clue.rows == [{"id": 7, "sentence": "问"}]
    assert shared_code.read_clue(tmp_path, "iflytek") == clue


def test_pairs_without_agreement_are_left_out(shared_code, tmp_path):
    labels = ["neutral", "-", "entailment", "-", "contradiction"]
    rows = [{"sentence1": "甲", "sentence2": str(i), "label": x} for i, x in enumerate(labels)]
    archive = {"ocnli/train.10k.json": rows, "ocnli/dev.json": rows, "ocnli/test.json": []}
    write_archive(tmp_path / "clue/ocnli.zip", archive)
    clue = shared_code.read_clue(tmp_path, "ocnli")
    assert clue.labels == ["neutral", "entailment", "contradiction"]  # the shorter ones first
    assert clue.test == [(("甲", "0"), 0), (("甲", "2"), 1), (("甲", "4"), 2)]
    assert len(clue.train) + len(clue.valid) == 3


def test_the_pronoun_and_what_it_may_stand_for_are_marked(shared_code):
    text = "树叶飘入树林，他走了"

    def row(first, second):
        target = {}
        for name, span in (("span1", first), ("span2", second)):
            target |= {f"{name}_text": span, f"{name}_index": text.index(span)}
        return {"text": text, "target": target}

    assert shared_code.marked(row("树叶", "他")) == ("[树叶]飘入树林，_他_走了",)
    assert shared_code.marked(row("他", "树叶")) == ("_树叶_飘入树林，[他]走了",)


@given(st.lists(st.tuples(st.sampled_from("abcdefg"), st.sampled_from("xyz")), min_size=1))
def test_what_has_the_same_last_text_is_in_one_part(shared_code, pairs):
    samples = [((f"{a}1", f"[{b}]" if i % 2 else f"_{b}"), i) for i, (a, b) in enumerate(pairs)]
    train, valid = shared_code.held_out(samples, 0.3)
    assert sorted(train + valid) == sorted(samples) and valid
    sides = [{texts[-1].strip("[]_") for texts, _ in part} for part in (train, valid)]
    assert not sides[0] & sides[1]
    assert shared_code.held_out(samples, 0.3) == (train, valid)


def test_samples_and_batches(shared_code, tokenizer):
    args = SimpleNamespace(tokenizer=tokenizer, size=SimpleNamespace(maxlen=6))
    (single,) = shared_code.encoded(args, [(("天气很好很好",), 1)])
    assert single == (tokenizer.encode("天气很好")[0], [0] * 6, 1)
    (pair,) = shared_code.encoded(args, [(("天气", "天"), 0)], shared_code.encode_pair)
    assert pair == (*tokenizer.encode("天气", "天"), [0, 3, 1, 0, 3, 0], 0)
    inputs, labels = shared_code.make_batch(np.array, [pair, pair])
    assert [each.shape for each in inputs] == [(2, 6)] * 3 and labels.tolist() == [0, 0]


# --- the parts of the experiments


def test_few_reviews_have_labels_and_weights(examples):
    script = examples("task_sentiment_virtual_adversarial_training")
    samples = [([i], [0], i % 2) for i in range(50)]
    found = script.mixed(samples, 4, 24)
    counts = Counter((sample[0][0], sample[2]) for sample in found)
    # Twelve of 36 samples have labels, which is the share.
    assert counts == {(i, i % 2): 3 for i in range(4)} | {(i, -1): 1 for i in range(4, 28)}
    (ids, _), labels, weights = script.make(np.array, [samples[1], found[-1]])
    assert ids.tolist() == [[1], [27]]
    assert labels.tolist() == [1, 0] and weights.tolist() == [1, 0]
    assert len(script.mixed(samples, 50, 24)) == 50  # nothing is left without


def test_either_module_computes_in_training_and_the_new_one_otherwise(examples):
    keras.utils.set_random_seed(0)
    layer = examples("task_iflytek_bert_of_theseus").BinaryRandomChoice(rate=0.25)
    old, new = np.zeros((3, 2), "float32"), np.ones((3, 2), "float32")

    def drawn(training):
        result = keras.ops.convert_to_numpy(layer([old, new], training=training))
        assert len(np.unique(result)) == 1  # one draw for the whole batch
        return result[0, 0]

    assert {drawn(False) for _ in range(5)} == {1}
    assert 0.1 < np.mean([drawn(True) for _ in range(200)]) < 0.4


def test_modules_of_both_models_are_of_equal_depth(examples):
    """Without a draw the mixed model is the successor; with `rate` 0 it is the predecessor."""
    script = examples("task_iflytek_bert_of_theseus")
    from bert4keras.checkpoints import find_files

    args = SimpleNamespace(files=find_files(TINY))
    still = {"dropout_rate": 0.0, "attention_dropout_rate": 0.0}
    predecessor = script.transformer(args, "Predecessor", True, **still)
    successor = script.transformer(args, "Successor", True, num_hidden_layers=2, **still)
    mixed = script.theseus(predecessor, successor, [])
    inputs = [np.array([[2, 100, 200, 3, 0]]), np.zeros((1, 5), "int32")]

    def vectors(model, **options):
        return keras.ops.convert_to_numpy(model(inputs, **options))[:, :4]

    np.testing.assert_allclose(vectors(mixed), vectors(successor.model), atol=1e-5)
    for layer in mixed.layers:
        if isinstance(layer, script.BinaryRandomChoice):
            layer.rate = 0
    found = vectors(mixed, training=True)
    np.testing.assert_allclose(found, vectors(predecessor.model), atol=1e-5)
    assert np.abs(found - vectors(successor.model)).max() > 0.01
    three = script.transformer(args, "Three", False, num_hidden_layers=3)
    with pytest.raises(SystemExit, match="3 layers cannot replace 4"):
        script.theseus(predecessor, three, [])


class ByFirstToken:
    """Says positive where the first token is above 5, wherever that is masked."""

    def predict_on_batch(self, inputs):
        positive = inputs[0][:, 1] > 5
        return np.stack([~positive, positive], axis=1).astype("float32")


def test_masking_what_decides_changes_the_label(examples):
    script = examples("task_sentiment_integrated_gradients")
    assert script.masked(([2, 9, 8, 7, 6, 5, 3], [0] * 7, 1), [3, 2, 1, 4, 5], 4) == (
        [2, 9, 8, 4, 6, 5, 3],
        [0] * 7,
        1,
    )
    samples = [([2, 9, 9, 9, 9, 3], [0] * 6, 1), ([2, 1, 9, 9, 9, 3], [0] * 6, 0)] * 10
    scores = [np.array([9.0, 1, 0, -2, 0.5, 9])] * len(samples)
    found = script.score(ByFirstToken(), samples, scores, mask_id=4)
    assert found["changed"] == 0.5  # the other half is negative, masked or not
    assert found["random"] < 0.4
    against = [-each for each in scores]
    assert script.score(ByFirstToken(), samples, against, mask_id=4)["changed"] == 0


def test_attributions_are_of_tokens_and_labels(examples):
    """A model that is linear in the token vectors gives exactly what it adds up."""
    script = examples("task_sentiment_integrated_gradients")
    keras.utils.set_random_seed(0)
    inputs = [keras.Input((None,), dtype="int32") for _ in range(2)]
    table = keras.layers.Embedding(10, 4, name="Embedding-Token")
    nothing = 0.0 * keras.ops.cast(inputs[1], "float32")
    total = keras.ops.sum(table(inputs[0]) + nothing[..., None], axis=1)
    dense = keras.layers.Dense(2, use_bias=False)
    model = keras.Model(inputs, dense(total))
    samples = [([1, 2, 3], [0] * 3, 1), ([4, 5], [0] * 2, 0)]
    kernel = keras.ops.convert_to_numpy(dense.kernel)
    vectors = keras.ops.convert_to_numpy(table.embeddings)
    for found, (ids, _, label) in zip(script.attribute(model, samples), samples, strict=True):
        np.testing.assert_allclose(found, vectors[ids] @ kernel[:, label], rtol=1e-4, atol=1e-6)


def test_pictures_of_reviews(examples, tokenizer, tmp_path):
    script = examples("task_sentiment_integrated_gradients")
    text = "很好 Beijing<吧"
    n = len(tokenizer.tokenize(text))
    scores = np.zeros(n)
    scores[1], scores[2] = 2, -1
    found = script.of_characters(text, scores, tokenizer, 64)
    assert found.tolist() == [1, -0.5] + [0] * (len(text) - 2)
    assert script.of_characters("", np.zeros(2), tokenizer, 64).tolist() == []
    rows = [(text, "positive 0.98", found), ("长" * 90, "negative 0.51", np.linspace(-1, 1, 90))]
    script.write_html(rows, tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert '<span style="background:rgba(214,39,40,1.00)">很</span>' in page
    assert '<span style="background:rgba(31,119,180,0.50)">好</span>' in page
    assert "&lt;</span>" in page and page.count("<p><b>") == 2
    script.draw(rows, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=20))
def test_ranks_that_are_equal_are_shared(examples, pairs):
    script = examples("task_sentence_embeddings")
    a, b = map(list, zip(*pairs, strict=True))
    expected = [np.mean([sorted(a).index(x) + 1, len(a) - sorted(a)[::-1].index(x)]) for x in a]
    assert script.ranks(a).tolist() == expected
    found = script.spearman(a, b)
    assert -1 <= found <= 1
    assert script.spearman([2.5 * x for x in a], b) == found
    assert script.spearman([-x for x in a], b) == pytest.approx(-found, abs=1e-9)


def test_spearman(examples):
    script = examples("task_sentence_embeddings")
    assert script.spearman([1, 2, 3, 4], [10, 20, 30, 90]) == 1
    assert script.spearman([1, 2, 3, 4], [1, 3, 2, 4]) == 0.8  # 1 - 6 · 2 / (4 · 15)
    assert script.spearman([1, 1, 1], [1, 2, 3]) == 0


def test_pairs_of_sentences_are_neighbours_in_a_batch(examples, tokenizer):
    script = examples("task_sentence_embeddings")
    args = SimpleNamespace(tokenizer=tokenizer, size=SimpleNamespace(maxlen=8), loss="cosent")
    rows = [(("天", "天气很好"), 4), (("好", "好"), 1)]
    samples = script.train_samples(args, rows)
    assert len(samples[0][0]) == 6  # the longer one is measured

    def pad(sequences):
        return np.array([[*each, *[0] * (6 - len(each))] for each in sequences])

    (ids, segments), scores = script.make_pairs(pad, samples)
    assert scores.tolist() == [4, 4, 1, 1] and segments.shape == (4, 6)
    texts = ["天", "天气很好", "好", "好"]
    assert [row[row > 0].tolist() for row in ids] == [tokenizer.encode(x)[0] for x in texts]
    args.loss = "simcse"
    samples = script.train_samples(args, rows)
    assert len(samples) == 3  # each sentence once
    (ids, _), _ = script.make_pairs(pad, samples)
    assert ids.shape == (6, 6)
    assert (ids[::2] == ids[1::2]).all()


# --- runs


@pytest.fixture
def thinned(shared, tmp_path):
    """Copy so many lines of files in archives of `shared/data`, from all over them."""

    def thinned(archive, members):
        with zipfile.ZipFile(shared / "data" / archive) as source:
            rows = {}
            for member, n in members.items():
                lines = [x for x in source.read(member).decode("utf-8").split("\n") if x]
                rows[member] = lines[:: len(lines) // n][:n]
        write_archive(tmp_path / "data" / archive, rows)
        return tmp_path / "data"

    return thinned


@pytest.fixture
def run(examples, checkpoint, tmp_path, capsys, monkeypatch):
    """Run a script on a slice, short texts, and check what it leaves; then predict."""

    def run(name, data, texts, *options, n_layers=1):
        script = examples(name)
        for size in ("QUICK", "SENTIMENT_QUICK"):
            if hasattr(script, size):
                small = dataclasses.replace(getattr(script, size), maxlen=16)
                monkeypatch.setattr(script, size, small)
        output = tmp_path / name
        argv = f"--data {data} --quick --checkpoint {checkpoint(n_layers)} --output {output}"
        argv += " --epochs 1 --batch-size 8"
        result = script.main([*argv.split(), *options])
        assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result
        assert json.loads((output / "result.json").read_text(encoding="utf-8")) == result
        assert (output / "curve.png").is_file() or "--run" in options
        assert script.main(["predict", *texts, "--output", str(output)]) is None
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        return result["scores"], rows, output

    return run


def sentiment(thinned, n=24):
    parts = {f"sentiment/sentiment.{part}.data": n for part in ("train", "valid", "test")}
    return thinned("sentiment/sentiment.zip", parts)


def iflytek(thinned):
    parts = {f"iflytek/{part}.json": n for part, n in (("train", 40), ("dev", 16), ("test", 2))}
    return thinned("clue/iflytek.zip", parts)


def check_shares(rows, n_texts=1, n_labels=2):
    for row in rows:
        assert len(row["texts"]) == n_texts and len(row["labels"]) == min(5, n_labels)
        assert 0 < sum(row["labels"].values()) < 1.001
        assert [*row["labels"].values()] == sorted(row["labels"].values(), reverse=True)


@pytest.mark.long
def test_sentiment_on_a_slice(run, thinned):
    texts = ["这本书太好看了", "房间又小又吵"]
    scores, rows, _ = run("task_sentiment_albert", sentiment(thinned), texts)
    assert [*scores] == ["accuracy", "unseen"]
    assert [row["texts"] for row in rows] == [[text] for text in texts]
    check_shares(rows)


@pytest.mark.long
def test_attribution_on_a_slice(run, thinned, examples, monkeypatch):
    name, data = "task_sentiment_integrated_gradients", sentiment(thinned)
    monkeypatch.setattr(examples(name), "N_TEST", 8)
    texts = ["这本书太好看了", "房间又小又吵"]
    scores, rows, output = run(name, data, texts)
    assert [*scores] == ["changed", "random", "accuracy"]
    assert [[c for c, _ in row["characters"]] for row in rows] == [[*text] for text in texts]
    assert all(max(abs(s) for _, s in row["characters"]) == 1 for row in rows)
    assert (output / "attribution.html").is_file() and (output / "attribution.png").is_file()
    # The weights of a run do as well as a training.
    moved = output.rename(output.with_name("sentiment"))
    assert run(name, data, texts, "--run", str(moved))[:2] == (scores, rows)


@pytest.mark.long
def test_virtual_adversarial_training_on_a_slice(run, thinned, examples, monkeypatch):
    script = examples("task_sentiment_virtual_adversarial_training")
    monkeypatch.setattr(script, "N_LABELLED", {True: 4})
    scores, rows, output = run(script.__name__.removesuffix("_script"), sentiment(thinned), ["好"])
    assert [*scores] == ["accuracy", "without"]
    assert (output / "without/log.csv").is_file()
    # Both trainings began alike and did not go on so.
    logs = [(output / each / "log.csv").read_text() for each in (".", "without")]
    assert logs[0] != logs[1]
    check_shares(rows)


def test_further_pairs_have_no_text_of_a_test(examples, tmp_path):
    parts = {"train": ["甲\t乙\t1"], "valid": ["丙\t丁\t0"], "test": ["戊\t己\t1"]}
    members = {f"lcqmc/lcqmc.{part}.data": rows for part, rows in parts.items()}
    write_archive(tmp_path / "lcqmc/lcqmc.zip", members)
    rows = ["甲\t庚\t1", "庚\t丁\t1", "戊\t庚\t0"]
    write_archive(tmp_path / "oppo_xiaobu/oppo_xiaobu.zip", {"oppo_xiaobu/train.tsv": rows})
    further = examples("task_sentence_similarity_lcqmc").read_parts(tmp_path)["further"]
    assert further == [(("甲", "庚"), 1)]


@pytest.mark.long
def test_similar_questions_on_a_slice(run, thinned):
    parts = {f"lcqmc/lcqmc.{part}.data": 24 for part in ("train", "valid", "test")}
    data = thinned("lcqmc/lcqmc.zip", parts)
    thinned("oppo_xiaobu/oppo_xiaobu.zip", {"oppo_xiaobu/train.tsv": 8})
    texts = ["花呗怎么还款", "怎样还花呗"]
    scores, rows, _ = run("task_sentence_similarity_lcqmc", data, texts)
    assert [*scores] == ["accuracy", "overlap"]
    check_shares(rows, n_texts=2)
    assert rows[0]["labels"].keys() == {"different", "same"}


def test_pairs_are_asked_for(shared_code, tmp_path):
    with pytest.raises(SystemExit, match="give pairs of texts, not 3"):
        shared_code.predict(SimpleNamespace(texts=["一", "二", "三"]), None, [], n_texts=2)


@pytest.mark.long
@pytest.mark.parametrize("method", ["adversarial_training", "gradient_penalty"])
def test_a_step_is_compared_with_none_on_a_slice(run, thinned, method):
    scores, rows, output = run(f"task_iflytek_{method}", iflytek(thinned), ["查询公交线路"])
    assert [*scores] == ["accuracy", "without"]
    logs = [(output / each / "log.csv").read_text() for each in (".", "without")]
    assert logs[0] != logs[1]
    check_shares(rows, n_labels=40)
    assert all(name.split()[0].isdigit() and " " in name for name in rows[0]["labels"])


@pytest.mark.long
def test_a_successor_on_a_slice(run, thinned, examples, monkeypatch):
    name = "task_iflytek_bert_of_theseus"
    monkeypatch.setattr(examples(name), "N_LAYERS", {True: 1})
    scores, rows, output = run(name, iflytek(thinned), ["查询公交线路"], n_layers=2)
    assert [*scores] == ["accuracy", "predecessor", "replaced", "alone"]
    check_shares(rows, n_labels=40)
    assert all((output / each / "log.csv").is_file() for each in ("predecessor", "theseus"))
    assert len((output / "alone/log.csv").read_text().splitlines()) == 4  # three epochs


TWO_DEVICES = """
import sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import task_iflytek_multigpu as script
script.main(sys.argv[1:])
script.main(["predict", "查询公交线路", "--output", sys.argv[-1]])
"""


@pytest.mark.long
def test_two_devices_on_a_slice(thinned, checkpoint, tmp_path):
    """A process of its own: TensorFlow divides the processor when it starts."""
    argv = f"--data {iflytek(thinned)} --quick --checkpoint {checkpoint()} --epochs 1"
    argv += f" --batch-size 8 --output {tmp_path}"
    environment = os.environ | {"PYTHONPATH": str(EXAMPLES), "KERAS_BACKEND": "tensorflow"}
    done = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES, *argv.split()],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result, row = map(json.loads, done.stdout.splitlines()[-2:])
    assert result["scores"]["devices"] == 2 and "2 device(s)" in done.stdout
    check_shares([row], n_labels=40)


CLUE = {"afqmc": 2, "ocnli": 3, "tnews": 15, "csl": 2, "wsc": 2}


@pytest.mark.long
def test_clue_on_a_slice(run, thinned, examples):
    parts = {f"csl/{part}.json": n for part, n in (("train", 40), ("dev", 24), ("test", 5))}
    data, texts = thinned("clue/csl.zip", parts), ["网络，聚集", "无线网络"]
    scores, rows, output = run("task_clue_classification", data, texts, "--task", "csl")
    assert [*scores] == ["accuracy", "majority"]
    check_shares(rows, n_texts=2)
    lines = (output / "csl_predict.json").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    clue = examples("classification").read_clue(data, "csl")
    assert [row["id"] for row in found] == [row["id"] for row in clue.rows]
    assert {row["label"] for row in found} <= set(clue.labels) == {"0", "1"}


@pytest.mark.parametrize("task", CLUE)
def test_every_task_of_clue_is_read(shared, shared_code, task):
    clue = shared_code.read_clue(shared / "data", task)
    assert len(clue.labels) == CLUE[task] and all(isinstance(x, str) for x in clue.labels)
    assert len(clue.train) > 5 * len(clue.valid) > 0 and clue.test
    n_texts = {len(texts) for texts, _ in clue.train + clue.valid + clue.test}
    assert n_texts == {2 if task in ("afqmc", "ocnli", "csl") else 1}
    assert all("id" in row and shared_code.TASKS[task].texts(row) for row in clue.rows)


@pytest.mark.long
@pytest.mark.parametrize("loss", ["simcse", "cosent"])
def test_sentence_vectors_on_a_slice(run, thinned, loss):
    parts = {f"sts_b_zh/sts-b-{part}.txt": 24 for part in ("train", "dev", "test")}
    data = thinned("sts_b_zh/sts_b_zh.zip", parts)
    texts = ["我想退款", "怎么退钱", "我想退款"]
    scores, rows, _ = run("task_sentence_embeddings", data, texts, "--loss", loss)
    assert [*scores] == ["spearman", "start", "overlap"]
    assert [row["texts"] for row in rows] == [texts[:2], [texts[0], texts[2]], texts[1:]]
    assert rows[1]["cosine"] == pytest.approx(1, abs=1e-4)  # the same text
    assert rows[0]["cosine"] < 0.9999
