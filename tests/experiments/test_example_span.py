"""Reading comprehension by spans: windows and decoding by hand, a run on a slice."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
PASSAGE = "李白出生在碎叶城，后来到了长安。杜甫出生在巩县，也到了长安。"


@pytest.fixture(scope="module")
def script(load_script):
    return load_script(ROOT / "experiments/task_reading_comprehension_by_span.py")


def as_json(*questions):
    return json.dumps({"data": [{"paragraphs": [{"context": PASSAGE, "qas": list(questions)}]}]})


def test_answers_stand_where_they_are_nearest(script):
    qa = {
        "question": "去了哪里？",
        "answers": [
            {"text": "长安", "answer_start": 26},  # one too few
            {"text": "长安", "answer_start": -1},
            {"text": "洛阳", "answer_start": 3},
        ],
    }
    ((question,),) = script.read_questions(as_json(qa))
    assert question.answers == [("长安", 27), ("长安", 13)]
    assert script.read_questions(as_json(qa | {"answers": qa["answers"][2:]})) == [[]]


@pytest.mark.parametrize("maxlen", [16, 24, 64])
def test_targets_point_to_the_answer(script, tokenizer, maxlen):
    encoder = script.Encoder(tokenizer, maxlen)
    question = script.Question("杜甫呢？", PASSAGE, [("巩县", 21), ("巩县，", 21)])
    sample = encoder.sample(question)
    places = set()
    for _ in range(40):
        inputs, ((first, last),) = encoder.train(np.array, [sample])
        token_ids, segment_ids, found = inputs
        places.add((int(first), int(last)))
        assert token_ids.shape[1] <= maxlen
        assert segment_ids[0].tolist() == [0] * 6 + [1] * (token_ids.shape[1] - 6)
        assert found[0, :6].tolist() == [0, 3, 3, 1, 1, 0]  # 杜 and 甫 stand in the passage
        same = np.isin(token_ids[0, 6:], tokenizer.tokens_to_ids(list("杜甫")))
        assert found[0, 6:].tolist() == [*np.where(same, 3, 1)[:-1], 0]
        if (first, last) != script.NOWHERE:
            tokens = tokenizer.ids_to_tokens(token_ids[0, first : last + 1])
            assert "".join(tokens) in ("巩县", "巩县，")
    assert (script.NOWHERE in places) == (maxlen < 64)
    assert len(places) > 1


@pytest.mark.parametrize("maxlen", [16, 24, 64])
def test_windows_cover_the_passage(script, tokenizer, maxlen):
    encoder = script.Encoder(tokenizer, maxlen)
    question, passage, mapping = encoder.encode("杜甫呢？", PASSAGE)
    assert len(passage.ids) == len(passage.matches) == len(mapping) == len(PASSAGE)
    starts = list(encoder.windows(question, passage))
    parts = [encoder.window(question, passage, at)[0] for at in starts]
    assert all(len(part) <= maxlen for part in parts)
    for i in range(len(passage.ids) - 2):  # so that no short answer is cut everywhere
        wanted = passage.ids[i : i + 3]
        assert any(wanted == part[j : j + 3] for part in parts for j in range(len(part)))
    assert len(starts) == 1 or maxlen < 64


def test_the_best_span(script):
    starts, ends = np.array([0.1, 0.6, 0.3]), np.array([0.7, 0.1, 0.2])
    assert script.best_span(starts, ends) == (pytest.approx(0.12), (1, 2))
    n = script.MAX_ANSWER + 10
    starts, ends = np.full(n, 1e-3), np.full(n, 1e-3)
    starts[2], ends[n - 1], ends[5] = 1, 1, 0.5
    assert script.best_span(starts, ends)[1] == (2, 5)


def test_an_answer_is_a_slice_of_the_passage(script, tokenizer):
    encoder = script.Encoder(tokenizer, 24)
    wanted = tokenizer.tokens_to_ids(list("巩县"))

    class Model:
        """Knows the answer where it sees it, and points to [CLS] elsewhere."""

        def predict_on_batch(self, inputs):
            found = np.full((len(inputs[0]), 2, inputs[0].shape[1]), 1e-3)
            for row, ids in enumerate(inputs[0].tolist()):
                places = [i for i in range(len(ids)) if ids[i : i + 2] == wanted] or [0]
                found[row, 0, places[0]] = found[row, 1, places[0] + bool(places[0])] = 1
            return found

    assert script.answer(Model(), encoder, [("杜甫呢？", PASSAGE)] * 2) == ["巩县", "巩县"]


def test_scores(script):
    questions = [script.Question("", "", [("长安城", 0), ("长安", 0)])] * 3
    scores = script.scores_of(["长安", "在长安城", "洛阳"], questions)
    assert scores == {"f1": round((1 + 6 / 7 + 0) / 3, 4), "exact": 0.3333}


@pytest.mark.long
def test_a_run_on_a_slice(script, checkpoint, shared, tmp_path, capsys):
    archive = tmp_path / "data" / script.ARCHIVE
    archive.parent.mkdir(parents=True)
    with (
        zipfile.ZipFile(shared / "data" / script.ARCHIVE) as source,
        zipfile.ZipFile(archive, "w") as copy,
    ):
        for part in ("train", "dev"):
            name = f"dureader_robust-data/{part}.json"
            content = json.loads(source.read(name))
            content["data"][0]["paragraphs"] = content["data"][0]["paragraphs"][:4]
            copy.writestr(name, json.dumps(content))
    output = tmp_path / "run"
    argv = f"--data {tmp_path / 'data'} --quick --checkpoint {checkpoint()} --epochs 2"
    argv += f" --batch-size 8 --output {output}"
    result = script.main(argv.split())
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result
    assert result["scores"].keys() == {"f1", "exact"}
    script.main(["predict", "谁出生在巩县？", PASSAGE, "--output", str(output)])
    (row,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert row["question"] == "谁出生在巩县？" and row["answer"] in PASSAGE
