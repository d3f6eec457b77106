"""The script that says what pretraining gives: scores by hand, and a run on data of our own."""

import io
import json
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script(load_script):
    return load_script(ROOT / "pretraining/fine_tune.py")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    lines = {
        "sentiment": ["这本书很好看\t1", "太差了，很失望\t0"] * 16,
        "lcqmc": ["今天天气好吗\t今天天气怎么样\t1", "书在哪里\t天气很好\t0"] * 16,
    }
    for task, each in lines.items():
        (folder / task).mkdir()
        with zipfile.ZipFile(folder / task / f"{task}.zip", "w") as archive:
            for part in ("train", "valid", "test"):
                archive.writestr(f"{task}/{task}.{part}.data", "\n".join(each) + "\n")
    block = "李 B-PER\n白 I-PER\n在 O\n长 B-LOC\n安 I-LOC"
    (folder / "ner_people_daily").mkdir()
    with tarfile.open(folder / "ner_people_daily" / "corpus.tar.gz", "w:gz") as archive:
        for part in ("train", "dev", "test"):
            content = "\n\n".join([block] * 32).encode()
            info = tarfile.TarInfo(f"corpus/example.{part}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return folder


def test_entities_are_scored_as_spans_with_types(script, data):
    task = script.EntityRecognition("ner", data)
    assert task.names == ["B-LOC", "B-PER", "I-LOC", "I-PER", "O"]
    truth = np.array([[-1, 1, 3, 4, 0, 2, -1, -1]])
    assert task.spans(truth[0][1:6]) == {(0, 2, "PER"), (3, 5, "LOC")}
    assert task.score([truth], [truth]) == 1
    # One entity found, the other one cut short; what is not counted says nothing.
    found = np.array([[0, 1, 3, 4, 0, 4, 0, 0]])
    assert task.score([found], [truth]) == 0.5
    assert task.score([np.full_like(truth, 4)], [truth]) == 0


@pytest.mark.eager
@pytest.mark.long
def test_both_starts_are_scored(script, data, checkpoint, monkeypatch, capsys):
    argv = f"""x {checkpoint()} --data {data} --epochs 4 --batch-size 8
        --seeds 0 --learning-rate 0.002 --verbose 0 --tasks sentiment ner"""
    monkeypatch.setattr(sys, "argv", argv.split())
    script.main()
    scores = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(scores) == ["sentiment", "ner"]
    for found in scores.values():
        assert found.keys() == {"checkpoint", "random"}
        assert all(0 <= score <= 100 for each in found.values() for score in each)
    assert scores["sentiment"]["checkpoint"] == [100]  # test data are those that were learnt
