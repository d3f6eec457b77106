"""Relation extraction: slots and spans by hand, a run on a slice of DuIE."""

import json
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
ARCHIVE = "relation_duie/duie2.zip"


@pytest.fixture(scope="module")
def script(load_script):
    return load_script(ROOT / "experiments/task_relation_extraction.py")


@pytest.fixture(scope="module")
def shared_parts(load_script):
    return load_script(ROOT / "experiments/relations.py")


def test_every_slot_is_a_label(shared_parts):
    schema = [
        {"predicate": "饰演", "object_type": {"inWork": "影视作品", "@value": "人物"}},
        {"predicate": "作者", "object_type": {"@value": "人物"}},
    ]
    assert shared_parts.read_labels(schema) == ["作者_@value", "饰演_@value", "饰演_inWork"]


def test_subjects_and_objects_become_places_of_tokens(script, tokenizer):
    row = {
        "text": "《Tree》是张三写的，李四饰演王五",
        "spo_list": [
            {"predicate": "作者", "subject": "tree", "object": {"@value": "张三"}},
            {
                "predicate": "饰演",
                "subject": "李四",
                "object": {"@value": "王五", "inWork": "Tree"},
            },
            {"predicate": "作者", "subject": "没有", "object": {"@value": "张三"}},
        ],
    }
    labels = ["作者_@value", "饰演_@value", "饰演_inWork"]
    token_ids, subjects = script.encode(row, labels, tokenizer, 128)
    tokens = tokenizer.ids_to_tokens(token_ids)

    def text(first, last):
        return "".join(tokens[first : last + 1]).replace("##", "")

    assert [text(*subject) for subject in subjects] == ["tree", "李四"]
    (author,), (role, film) = subjects.values()
    assert (author[0], text(*author[1:])) == (0, "张三")
    assert (role[0], text(*role[1:])) == (1, "王五")
    assert (film[0], text(*film[1:])) == (2, "tree")


def test_targets_are_those_of_one_subject(script):
    samples = [([1] * 9, {(1, 2): [(0, 4, 5)], (6, 6): [(1, 7, 8), (1, 1, 2)]})] * 20
    make = script.maker(2)
    (token_ids, _, chosen), (ends, objects) = make(np.array, samples)
    assert token_ids.shape == (20, 9) and objects.shape == (20, 9, 4)
    assert np.argwhere(ends[0]).tolist() == [[1, 0], [2, 1], [6, 0], [6, 1]]
    assert {tuple(pair) for pair in chosen.tolist()} == {(1, 2), (6, 6)}
    for pair, each in zip(chosen.tolist(), objects, strict=True):
        expected = [[4, 0], [5, 1]] if pair == [1, 2] else [[1, 2], [2, 3], [7, 2], [8, 3]]
        assert np.argwhere(each).tolist() == expected


def test_spans_go_to_the_nearest_end(script):
    starts = np.array([0.9, 0.1, 0.8, 0.2, 0.9])
    ends = np.array([0.1, 0.7, 0.1, 0.9, 0.2])
    assert script.spans(starts, ends) == [(0, 1), (2, 3)]
    assert script.spans(starts[:0], ends[:0]) == []


def test_slots_are_put_together_again(shared_parts):
    found = [
        ("饰演_@value", (3, 4), "甲"),
        ("饰演_inWork", (0, 1), "子"),
        ("饰演_@value", (12, 13), "乙"),
        ("饰演_inWork", (10, 11), "丑"),
        ("配音_inWork", (10, 11), "丑"),  # of what, nobody says
        ("主演_@value", (7, 8), "丙"),
        ("主演_@value", (9, 9), "丁"),
    ]
    assert shared_parts.join_slots(found) == [
        ("饰演", {"@value": "甲", "inWork": "子"}),
        ("饰演", {"@value": "乙", "inWork": "丑"}),
        ("主演", {"@value": "丙"}),
        ("主演", {"@value": "丁"}),
    ]


def test_a_relation_is_right_if_all_its_slots_are(shared_parts):
    def row(**slots):
        spo = {"subject": "Li", "predicate": "饰演", "object": {"@value": "A", **slots}}
        return {"spo_list": [spo]}

    relations = shared_parts.relations
    assert relations(row(inWork="X")) == relations(row(inWork="x"))
    assert relations(row(inWork="X")) != relations(row(inWork="y"))
    assert relations(row(inWork="X")) != relations(row())


@pytest.mark.long
def test_a_run_on_a_slice(script, checkpoint, cut, tmp_path, capsys):
    parts = {f"duie2/duie_{part}.json": 24 for part in ("train", "dev", "test")}
    data = cut(ARCHIVE, parts | {"duie2/duie_schema.json": None})
    output = tmp_path / "run"
    argv = f"--data {data} --quick --checkpoint {checkpoint()} --epochs 2 --batch-size 8"
    argv += f" --output {output}"
    result = script.main(argv.split())
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result
    assert result["scores"].keys() == {"f1", "precision", "recall"}
    script.main(["predict", "李四出生于北京", "《渴望》由王朔编剧", "--output", str(output)])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["text"] for row in rows] == ["李四出生于北京", "《渴望》由王朔编剧"]
    for row in rows:
        assert all(spo["subject"] in row["text"] for spo in row["spo_list"])


def test_all_is_found_that_the_model_says(script, tokenizer):
    """Decoding against a model that knows the answer."""
    text = "Tree的作者是张三和李四，Book的作者是王五"
    wanted = {"Tree": ["张三", "李四"], "Book": ["王五"]}
    tokens = tokenizer.tokenize(text)
    mapping = tokenizer.rematch(text, tokens)

    def place(value):
        start = text.index(value)
        inside = [
            i for i, p in enumerate(mapping) if set(p) & set(range(start, start + len(value)))
        ]
        return inside[0], inside[-1]

    class Subjects:
        def predict_on_batch(self, inputs):
            shape = inputs[0].shape
            ends = np.zeros((*shape, 2))
            for first, last in map(place, wanted):
                ends[:, first, 0] = ends[:, last, 1] = 1
            return [np.zeros((*shape, 4)), ends]

    class Objects:
        def predict_on_batch(self, inputs):
            vectors, subjects = inputs
            scores = np.zeros((*vectors.shape[:2], 2))
            for row, subject in enumerate(subjects.tolist()):
                name = next(name for name in wanted if list(place(name)) == subject)
                for first, last in map(place, wanted[name]):
                    scores[row, first, 0] = scores[row, last, 1] = 1
            return scores

    (row,) = script.extract([text], (Subjects(), Objects()), ["作者_@value"], tokenizer, 128)
    found = [(spo["subject"], spo["predicate"], spo["object"]) for spo in row["spo_list"]]
    assert found == [(s, "作者", {"@value": o}) for s, objects in wanted.items() for o in objects]
