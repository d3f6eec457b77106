"""What the examples share: arguments, batches, spans, scores; and the README's table."""

import ast
import json
import re
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def common(load_script):
    return load_script(ROOT / "experiments/common.py")


@pytest.fixture(scope="module")
def sizes(common):
    return common.Size(3, 8, 1e-3, 64), common.Size(30, 64, 1e-5, 128)


def read(common, sizes, *argv):
    return common.arguments("task_x.py", "A doc.", *sizes, argv)


def test_the_two_sizes(common, sizes, tmp_path):
    args = read(common, sizes, "--data", "d", "--quick", "--seed", "7")
    assert (args.size, args.epochs, args.batch_size) == (sizes[0], 3, 8)
    assert args.texts is None and args.output == Path("runs/task_x") and args.seed == 7
    assert args.tokenizer.token_to_id("[CLS]") == 2
    args = read(common, sizes, "--data", "d", "--checkpoint", str(common.TINY), "--epochs", "2")
    assert (args.size, args.epochs, args.batch_size) == (sizes[1], 2, 64)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "--data is missing"),
        (("--data", "d"), "give --checkpoint.* or --quick"),
        (("--data", "d", "--quick", "--epochs", "0"), "at least 1"),
        (("--data", "d", "--quick", "--bach-size", "2"), "unrecognized arguments: --bach-size"),
        (("train", "--data", "d", "--quick"), "'train': expected options only, or predict TEXT"),
        (("predict",), "'predict': expected options only, or predict TEXT"),
        (("predict", "一", "--output", "nowhere"), "no finished run in nowhere: train first"),
    ],
)
def test_arguments_that_make_no_sense(common, sizes, argv, message, capsys):
    with pytest.raises(SystemExit):
        read(common, sizes, *argv)
    error = capsys.readouterr().err
    assert re.search(message, error), error


DRAWING = sorted(
    path.name
    for path in (ROOT / "experiments").glob("*.py")
    if "arguments(__file__, __doc__, " in path.read_text(encoding="utf-8")
    and not path.name.startswith("basic_")
)
NEEDED = {
    **dict.fromkeys([*DRAWING, "basic_library_tour.py"], "matplotlib"),
    "basic_language_model_cpm_lm.py": "jieba and sentencepiece",
}


@pytest.mark.parametrize("name", NEEDED)
def test_what_is_not_installed_is_named_before_anything_is_trained(load_script, monkeypatch, name):
    for package in ("matplotlib", "jieba", "sentencepiece"):
        monkeypatch.setitem(sys.modules, package, None)
    script = load_script(ROOT / "experiments" / name)
    given = ["--quick"] if name.startswith("basic_language") else ["--quick", "--data", "nowhere"]
    with pytest.raises(SystemExit, match=f"this example needs {NEEDED[name]}: run pip install "):
        script.main(given)


@pytest.mark.parametrize("name", ["task_conditional_matching", "task_sentence_similarity_lcqmc"])
def test_words_need_a_package(load_script, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "jieba", None)
    script = load_script(ROOT / f"experiments/{name}.py")
    with pytest.raises(SystemExit, match="this example needs jieba: run pip install jieba"):
        script.main(["--quick", "--data", "nowhere"])


def test_no_example_uses_other_packages():
    """So that the two tests above have all there are."""
    own = {path.stem for path in (ROOT / "experiments").glob("*.py")}
    known = {*sys.stdlib_module_names, *own, "bert4keras", "keras", "numpy"}
    for path in (ROOT / "experiments").glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = [each.name for n in ast.walk(tree) if isinstance(n, ast.Import) for each in n.names]
        names += [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
        used = {name.partition(".")[0] for name in names} - known
        assert used <= {"matplotlib", "jieba", "sentencepiece"}, path


def test_a_folder_without_a_checkpoint(common, sizes, tmp_path):
    with pytest.raises(SystemExit, match=r"--checkpoint .*"):
        read(common, sizes, "--data", "d", "--checkpoint", str(tmp_path))


def test_predict_goes_on_from_a_run(common, sizes, tmp_path):
    args = read(common, sizes, "--data", "d", "--quick", "--output", str(tmp_path))
    common.remember(args, labels=["甲", "乙"])
    (tmp_path / "best.weights.h5").write_bytes(b"")
    args = read(common, sizes, "predict", "一", "二", "--output", str(tmp_path))
    assert args.texts == ["一", "二"] and args.saved["labels"] == ["甲", "乙"]
    assert args.quick and args.checkpoint.samefile(common.TINY)


def test_archives_that_are_not_there(common, tmp_path):
    for content in (None, b"no archive"):
        if content:
            (tmp_path / "a.zip").write_bytes(content)
        with pytest.raises(SystemExit, match=r"a\.zip has to hold b\.txt as UTF-8 text"):
            common.read_lines(tmp_path, "a.zip", "b.txt")


def test_characters_and_tokens(common, sizes):
    tokenizer = read(common, sizes, "--data", "d", "--quick").tokenizer
    text = "我在 Beijing 大学2024年"
    tokens = tokenizer.tokenize(text)
    mapping = tokenizer.rematch(text, tokens)
    for value in ("我", "Beijing", "大学2024年", "2024"):
        at = text.index(value)
        place = common.token_span(mapping, at, at + len(value))
        assert common.text_span(text, mapping, *place) == value
    assert common.token_span(mapping[:5], 11, 13) is None  # cut off
    assert common.token_span(mapping, 2, 2) is None


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 3)), max_size=6))
def test_bio_tags_and_back(common, spans):
    spans = [(min(a, b), max(a, b), kind) for a, b, kind in spans]
    tags = common.bio_tags(spans, 12)
    kept = []
    for first, last, kind in spans:
        if all(last < a or b < first for a, b, _ in kept):
            kept.append((first, last, kind))
    assert common.bio_spans(tags) == sorted(kept)


def test_bio_tags_that_begin_inside(common):
    #      I-0 B-0 I-1 I-0  O  B-1 B-1 I-1
    tags = [2, 1, 4, 2, 0, 3, 3, 4]
    assert common.bio_spans(tags) == [(1, 1, 0), (5, 5, 1), (6, 7, 1)]


def test_micro_f1(common):
    scores = common.micro_f1([{1, 2, 3}, {1}], [{1, 4}, {1}])
    assert scores == {"f1": 0.5714, "precision": 0.5, "recall": 0.6667}
    assert common.micro_f1([set()], [set()]) == {"f1": 0, "precision": 0, "recall": 0}


def test_outputs_are_in_order_and_of_few_shapes(common):
    inputs = keras.Input((None,), dtype="int32")
    model = keras.Model([inputs], [inputs + 1, keras.ops.sum(inputs, axis=1)])
    rng = np.random.default_rng(0)
    samples = [(list(range(1, n + 1)),) for n in rng.integers(1, 60, 50)]
    shapes = set()

    def make(pad, samples):
        arrays = common.padded_columns(pad, samples)
        shapes.add(arrays[0].shape)
        return arrays

    found = common.outputs(model, samples, make, batch_size=8)
    for (ids,), (plus_one, total) in zip(samples, found, strict=True):
        assert plus_one[: len(ids)].tolist() == [i + 1 for i in ids] and total == sum(ids)
    assert {batch for batch, _ in shapes} == {8} and len(shapes) < 7


class Constant(keras.layers.Layer):
    def build(self, shape):
        self.value = self.add_weight(shape=(1,), initializer="zeros", name="value")

    def call(self, x):
        return x * 0 + self.value


def trained(common, sizes, folder, scores, targets=1.0):
    args = read(common, sizes, "--data", "d", "--quick", "--output", str(folder))

    def make(pad, samples):
        return pad([numbers for (numbers,) in samples]), pad([[targets]] * len(samples))

    batches = common.Batches([([1.0],)] * 16, 8, make)
    inputs = keras.Input((1,))
    model = keras.Model(inputs, Constant()(inputs))
    model.compile(common.optimizer(args, batches), loss="mse")
    seen = []

    def evaluate():
        seen.append(float(model.get_weights()[0][0]))
        return {"score": scores[len(seen) - 1], "other": 0.5}

    common.fit(args, model, batches, evaluate)
    return args, model, seen


def test_the_best_weights_are_kept(common, sizes, tmp_path):
    args, model, seen = trained(common, sizes, tmp_path, [0.1, 0.3, 0.2])
    assert len(set(seen)) == 3 and float(model.get_weights()[0][0]) == seen[1]
    rows = (tmp_path / "log.csv").read_text().split()
    assert rows[0] == "epoch,loss,score,other" and len(rows) == 4 and rows[2].endswith(",0.3,0.5")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    common.remember(args)
    result = common.report(args, "data", {"f1": 0.5})
    assert result == json.loads((tmp_path / "result.json").read_text("utf-8"))
    assert result["command"] == "python experiments/task_x.py --data DATA --quick --output RUN"


def test_a_loss_that_is_not_a_number_ends_the_run(common, sizes, tmp_path):
    with pytest.raises(SystemExit, match=r"the loss is nan in epoch 1"):
        trained(common, sizes, tmp_path, [0.1] * 3, targets=np.nan)
    assert not (tmp_path / "best.weights.h5").exists()


def test_the_table_in_the_readme_is_that_of_the_results(load_script, tmp_path):
    table = load_script(ROOT / "experiments/table.py")
    readme = tmp_path / "README.md"
    original = (ROOT / "experiments/README.md").read_text(encoding="utf-8")
    readme.write_text(original, encoding="utf-8")
    table.write(readme, ROOT / "experiments/results")
    assert readme.read_text(encoding="utf-8") == original, "run python experiments/table.py"
    for path in (ROOT / "experiments/results").glob("*.json"):
        result = json.loads(path.read_text(encoding="utf-8"))
        assert table.file_name(result) == path.name
        assert (ROOT / "experiments" / f"{result['example']}.py").is_file()


def test_rows_of_the_table(load_script, tmp_path):
    table = load_script(ROOT / "experiments/table.py")
    result = {
        "example": "task_x",
        "data": "x, test",
        "size": "quick",
        "checkpoint": "tiny_zh",
        "seed": 1,
        "scores": {"f1": 0.51234, "single": {"n": 3}},
        "minutes": 2.0,
        "machine": "2 cores",
        "backend": "jax",
        "command": "python experiments/task_x.py --data DATA --quick --seed 1 --head crf",
    }
    assert table.file_name(result) == "task_x-quick-head-crf-seed-1.json"
    (tmp_path / "result.json").write_text(json.dumps(result), encoding="utf-8")
    table.keep(tmp_path, tmp_path)
    assert (tmp_path / "task_x-quick-head-crf-seed-1.json").is_file()
    with pytest.raises(SystemExit, match=r"no .*result\.json: the run has not finished"):
        table.keep(tmp_path / "other", tmp_path)
    command = "python experiments/task_x.py --data DATA --quick --head crf"
    tasks = {"甲": {"f1": 0.5, "n": 1}, "乙": {"f1": 0.75, "n": 2}}
    first = result | {
        "seed": 0,
        "scores": {"f1": 0.6, "single": {"n": 4}, "tasks": tasks},
        "command": command,
    }
    lines = table.rows([result, first]).splitlines()
    assert lines[2] == (
        "| 1. [task_x](task_x.py) | x, test | quick, tiny_zh | f1 0.6 / 0.5123, single n 4 / 3 "
        "| 2 / 2 | 2 cores, jax |"
    )
    assert lines[4] == f"1. `{command}`, seed 0, 1"
    assert lines[6:] == [
        "1, seed 0:",
        "",
        "| tasks | f1 | n |",
        "| --- | --- | --- |",
        "| 甲 | 0.5 | 1 |",
        "| 乙 | 0.75 | 2 |",
    ]


def test_the_lowest_of_several_runs_decides_whether_a_goal_is_reached(load_script, tmp_path):
    table = load_script(ROOT / "experiments/table.py")
    for seed, (f1, single) in enumerate([(0.5, 0.1), (0.29, 0.3)]):
        scores = {"f1": f1, "single": {"f1": single}}
        (tmp_path / f"task_x-seed-{seed}.json").write_text(json.dumps({"scores": scores}))
    table.GOALS = [
        ("task_x-seed-*", "f1", 0.28, "given"),
        ("task_x-seed-0", "f1", ("single f1",), "one passage"),
        ("task_x-seed-*", "f1", ("single f1",), "one passage"),
    ]
    assert table.goals(tmp_path).splitlines()[2:] == [
        "| task_x | f1 | 0.28 | given | 0.29 | yes |",
        "| task_x | f1 | 0.1 | one passage | 0.5 | yes |",
        "| task_x | f1 | 0.3 | one passage | 0.29 | **no** |",
    ]
    table.GOALS = [("task_y-*", "f1", 0.28, "given")]
    with pytest.raises(SystemExit, match=r"no result in .* is named task_y-\*\.json"):
        table.goals(tmp_path)
