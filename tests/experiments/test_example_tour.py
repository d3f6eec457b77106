"""The tour: its NumPy model, its own block, a run on a slice of reviews."""

import json
from pathlib import Path

import numpy as np
import pytest

from bert4keras.models import build_transformer_model

ROOT = Path(__file__).parents[2]
TINY = ROOT / "examples/weights/tiny_zh"
ARCHIVE = "sentiment/sentiment.zip"


@pytest.fixture(scope="module")
def script(load_script):
    return load_script(ROOT / "experiments/basic_library_tour.py")


def test_the_block_is_what_changed(script):
    bert = build_transformer_model(TINY, model=script.AdaptedBERT)
    plain = build_transformer_model(TINY)
    new = {layer.name for layer in bert.layers} - {layer.name for layer in plain.layers}
    assert new == {
        "Transformer-3-GatedAttentionUnit",
        *(f"Transformer-{i}-FeedForward-Adapter" for i in range(4)),
    }
    gone = {layer.name for layer in plain.layers} - {layer.name for layer in bert.layers}
    assert gone == {"Transformer-3-MultiHeadSelfAttention"}
    # Adapters change nothing before they are trained; what comes before layer 3 is the same.
    inputs = [np.array([[2, 100, 200, 300, 3]]), np.zeros((1, 5), "int32")]
    before = "Transformer-2-FeedForward-Norm"
    vectors = [
        script.Model(each.inputs, each.get_layer(before).output).predict(inputs, verbose=0)
        for each in (bert, plain)
    ]
    np.testing.assert_allclose(*vectors, atol=1e-6)


@pytest.mark.long
def test_a_run_on_a_slice(script, cut, tmp_path, capsys):
    parts = {f"sentiment/sentiment.{part}.data": 32 for part in ("train", "valid", "test")}
    output = tmp_path / "run"
    argv = f"--data {cut(ARCHIVE, parts)} --quick --epochs 1 --batch-size 8 --output {output}"
    result = script.main(argv.split())
    printed = capsys.readouterr().out
    assert json.loads(printed.splitlines()[-1]) == result
    assert result["scores"]["difference_from_numpy"] < 1e-5
    assert "predicts the same: True" in printed
    saved = build_transformer_model(TINY / "bert_config.json", output / "bert_model.ckpt")
    original = build_transformer_model(TINY)
    for a, b in zip(saved.get_weights(), original.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    script.main(["predict", "[MASK]好[MASK]", "--output", str(output)])
    (row,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert [len(gap) for gap in row["gaps"]] == [5, 5]
