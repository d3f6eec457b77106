"""The benchmarks of serving and of first answers, in tiny sizes."""

import sys
from pathlib import Path

import keras
import numpy as np
import pytest

pytestmark = [
    pytest.mark.eager,
    pytest.mark.filterwarnings("ignore"),  # of what the peer does
]
FOLDER = Path(__file__).parents[2] / "benchmarks"
BACKEND = keras.backend.backend()


@pytest.fixture(scope="module")
def serving(load_script):
    return load_script(FOLDER / "serving.py")


@pytest.fixture(scope="module")
def folder(serving, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("classifier"))
    serving.make_folder(folder, 2, 64, serving.texts_of(12))
    serving.export_peer(folder, ["onnx", "int8"])
    return folder


@pytest.mark.long
def test_engines_of_serving_classify_alike(serving, folder):
    texts = serving.texts_of(12)
    assert min(map(len, texts)) >= 10 and max(map(len, texts)) <= 300
    ways = {way: serving.engines_of(way, [BACKEND]) for way in serving.WAYS}
    names = [*ways["predict"], *ways["http"], ways["onnx"][0], ways["int8"][0]]
    scores, labels = {}, {}
    for name in names:
        engine = serving.engine_of(name, folder, 4)
        scores[name], labels[name] = engine.scores(texts), engine.labels(texts)
        engine.stop()
    expected = scores[names[0]]
    assert np.ptp(expected) > 1e-3  # so that a text that is mistaken for another is noticed
    for name in names:
        tolerance = 0.1 if name.endswith("int8") else 1e-4
        assert np.abs(scores[name] - expected).max() < tolerance, name
        assert name.endswith("int8") or labels[name] == labels[names[0]], name


@pytest.fixture(scope="module")
def first_answer(load_script):
    return load_script(FOLDER / "first_answer.py")


@pytest.fixture(scope="module")
def pretrained(first_answer, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("pretrained"))
    first_answer.make_folder(folder, 2, 64)
    return folder


@pytest.mark.parametrize("task", ["train", "write"])
@pytest.mark.parametrize("engine", [BACKEND, "transformers"])
def test_parts_of_a_first_answer(first_answer, pretrained, engine, task, capsys):
    first_answer.run(engine, task, pretrained)
    said = capsys.readouterr().out.split()
    assert [part for part in said if part != "prompt"] == list(first_answer.PARTS)


def test_first_answers_are_timed_from_the_start_of_the_process(first_answer):
    said = "; time.sleep(0.2); ".join(f"print({x!r}, flush=True)" for x in first_answer.PARTS)
    times = first_answer.measured([sys.executable, "-c", f"import time; {said}"], {})
    assert list(times) == list(first_answer.PARTS)
    gaps = np.diff([0, *times.values()])
    assert gaps[0] > 0 and min(gaps[1:]) > 0.1
    table = first_answer.report("train", {"transformers": [times], "jax": [times]})
    assert table.count("1.00x (1.00 to 1.00)") == 2
    with pytest.raises(RuntimeError, match="ended with 3"):
        first_answer.measured([sys.executable, "-c", "raise SystemExit(3)"], {})
