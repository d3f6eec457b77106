"""Matching anonymised text: the alignment, masks and AUC by hand, a run on a slice."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script(load_script):
    return load_script(ROOT / "experiments/task_anonymised_matching.py")


BASE = {
    token: i
    for i, token in enumerate(["[PAD]", "x", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"的是我否你"])
}


def test_vectors_are_aligned_by_frequency(script):
    counts = Counter({"17": 9, "4": 30, "8": 5, "9": 1})
    characters = Counter({"我": 50, "的": 100, "你": 7, "很": 60, "x": 1})  # 很 has no vector
    tokens, keep = script.aligned_tokens(counts, characters, BASE, min_count=2)
    assert tokens[:7] == [*script.SPECIAL, "[NO]", "[YES]"]
    assert keep[:7] == [BASE[token] for token in (*script.SPECIAL, *"否是")]
    assert dict(zip(tokens[7:], keep[7:], strict=True)) == {
        "4": BASE["的"],
        "17": BASE["我"],
        "8": BASE["你"],
    }


def test_ties_and_short_vocabularies(script):
    tokens, keep = script.aligned_tokens({"b": 5, "a": 5, "c": 4}, {"的": 1, "你": 1}, BASE)
    assert tokens[7:] == ["a", "b"] and keep[7:] == [BASE["你"], BASE["的"]]
    without = {token: i for token, i in BASE.items() if token not in "是否"}
    assert script.aligned_tokens({}, {}, without)[1][5:] == [BASE["[UNK]"]] * 2


@pytest.fixture
def encoder(script):
    return script.Encoder([*script.SPECIAL, *script.ANSWERS, *map(str, range(90))], maxlen=23)


def test_pairs_become_ids(encoder):
    ids, segments, label = encoder.encode((["0", "1", "x"], ["89"] * 20, 1))
    assert ids == [2, 7, 8, 1, 3, *[96] * 10, 3]  # half of the room for each text
    assert segments == [0] * 5 + [1] * 11 and label == 1


def test_labels_and_masks(script, encoder):
    pairs = [(["1"] * 10, ["2"] * 10, label) for label in (0, 1, script.NO_TARGET)] * 200
    (shown, segments), targets = encoder.train(np.array, pairs)
    assert shown.shape == segments.shape == targets.shape == (600, 23)
    assert targets[:3, 0].tolist() == [5, 6, -1]  # [NO], [YES], nobody says
    assert (shown[:, 0] == 2).all() and (shown[:, [11, 22]] == 3).all()
    body = np.r_[1:11, 12:22]
    masked = targets[:, body] != script.NO_TARGET
    assert abs(masked.mean() - 0.15) < 0.01
    assert (targets[:, [11, 22]] == script.NO_TARGET).all()
    assert set(targets[:, body][masked]) == {8, 9}
    assert abs((shown[:, body] == 4)[masked].mean() - 0.8) < 0.03
    first = targets[:, 1:11].max(axis=1)
    assert 0.3 < (first[first >= 0] == 8).mean() < 0.7  # both orders


def test_auc(script):
    def auc(scores, labels):
        return script.auc(np.array(scores), np.array(labels))

    assert auc([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1]) == 1
    assert auc([0.1, 0.2, 0.8, 0.9], [1, 1, 0, 0]) == 0
    assert auc([0.5, 0.5, 0.5], [0, 1, 1]) == 0.5
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 200), rng.integers(0, 20, 200) / 20
    pairs = [(a, b) for a in scores[labels == 1] for b in scores[labels == 0]]
    expected = np.mean([(a > b) + (a == b) / 2 for a, b in pairs])
    assert auc(scores, labels) == pytest.approx(expected)


@pytest.mark.long
def test_a_run_on_a_slice(script, checkpoint, cut, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(script, "HELD_OUT", 16)
    cut(script.ARCHIVE, {script.TRAIN: 64, script.UNLABELLED: 32})
    cut("lcqmc/lcqmc.zip", {"lcqmc/lcqmc.train.data": 200})
    data = cut("clue/afqmc.zip", {"afqmc/train.json": 200})
    output = tmp_path / "run"
    argv = f"--data {data} --quick --checkpoint {checkpoint()} --epochs 2 --batch-size 16"
    argv += f" --output {output}"
    result = script.main(argv.split())
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result
    assert 0 <= result["scores"]["auc"] <= 1
    assert (output / "roc.png").read_bytes().startswith(b"\x89PNG")
    script.main(["predict", "581 313", "120 50 950", "--output", str(output)])
    (row,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert 0 <= row["same"] <= 1
    with pytest.raises(SystemExit, match="two texts of numbers, not 1"):
        script.main(["predict", "581 313", "--output", str(output)])
