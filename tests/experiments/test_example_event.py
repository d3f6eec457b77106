"""Event extraction: what two heads can express, a run of each on a slice of FewFC."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
ARCHIVE = "event_fewfc/duee_format.zip"


@pytest.fixture(scope="module")
def script(load_script):
    return load_script(ROOT / "experiments/task_event_extraction.py")


KINDS = ["中标/obj", "中标/sub", "减持/sub"]
ROW = {
    "text": "张三和李四分别减持ABC股份",
    "event_list": [
        {
            "event_type": "减持",
            "arguments": [
                {"role": "sub", "argument": "张三", "argument_start_index": 0},
                {"role": "sub", "argument": "李四", "argument_start_index": 3},
            ],
        },
        {
            "event_type": "中标",
            "arguments": [
                {"role": "sub", "argument": "张三", "argument_start_index": 0},
                {"role": "obj", "argument": "ABC股份", "argument_start_index": 9},
            ],
        },
    ],
}


def test_kinds_and_arguments(script):
    schema = [
        {"event_type": "减持", "role_list": [{"role": "sub"}]},
        {"event_type": "中标", "role_list": [{"role": "sub"}, {"role": "obj"}]},
    ]
    assert script.read_kinds(schema) == KINDS
    assert script.arguments_of(ROW) == {
        ("减持", "sub", "张三"),
        ("减持", "sub", "李四"),
        ("中标", "sub", "张三"),
        ("中标", "obj", "abc股份"),
    }


@pytest.mark.parametrize(
    ("name", "lost"), [("crf", {("中标", "sub", "张三")}), ("globalpointer", set())]
)
def test_what_a_head_can_express(script, tokenizer, name, lost):
    """From the data to targets and back: one tag a token cannot say that two events share one."""
    head = script.HEADS[name](KINDS)
    sample = script.encode(ROW, KINDS, tokenizer, 128)
    assert len(sample[1]) == 4
    _, targets = head.make(lambda rows: np.array(rows), [sample])

    class Model:
        def predict_on_batch(self, inputs):
            padded = np.resize(targets, (len(inputs[0]), *targets.shape[1:]))
            return padded - 0.5 if name == "globalpointer" else padded

    (found,) = script.extract([ROW["text"]], Model(), head, KINDS, tokenizer, 128)
    expected = script.arguments_of(ROW) - lost
    assert {(*kind, argument.lower()) for *kind, argument in found} == expected
    assert ("中标", "obj", "ABC股份") in found  # a slice of the text, in its own case


def test_arguments_that_are_cut_off_are_no_targets(script, tokenizer):
    _, found = script.encode(ROW, KINDS, tokenizer, 7)
    assert [kind for *_, kind in found] == [2, 2, 1]
    assert all(last < 6 for _, last, _ in found)


@pytest.mark.long
@pytest.mark.parametrize("head", ["crf", "globalpointer"])
def test_a_run_on_a_slice(script, checkpoint, cut, tmp_path, capsys, monkeypatch, head):
    # Few lengths to compile.
    monkeypatch.setattr(script, "QUICK", dataclasses.replace(script.QUICK, maxlen=32))
    parts = {f"ee/{name}.json": 16 for name in script.FILES.values()}
    data = cut(ARCHIVE, parts | {"ee/event_schema/event_schema.json": None})
    output = tmp_path / "run"
    argv = f"--data {data} --quick --checkpoint {checkpoint()} --epochs 2 --batch-size 8"
    argv += f" --output {output} --head {head}"
    result = script.main(argv.split())
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result
    script.main(["predict", "赵云文减持公司股份", "--output", str(output)])
    (row,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert row["text"] == "赵云文减持公司股份"
    assert all(argument in row["text"] for *_, argument in row["arguments"])
