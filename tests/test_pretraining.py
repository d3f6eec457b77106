"""The pretraining script on a corpus of our own: it learns, and its output loads."""

import gzip
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from bert4keras.models import build_transformer_model
from bert4keras.tokenizers import Tokenizer

pytestmark = pytest.mark.backend

SCRIPT = Path(__file__).parents[1] / "pretraining/pretraining.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("pretraining_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl.gz"
    texts = ["春江潮水连海平，海上明月共潮生。", "滟滟随波千万里，何处春江无月明！abc"] * 40
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    return path


def test_masks_hide_what_is_to_be_predicted(script, corpus):
    token_dict = script.make_vocabulary(script.documents([corpus]), 2)
    tokenizer = Tokenizer(token_dict, do_lower_case=True)
    rows = script.packed(script.documents([corpus]), tokenizer, 32)
    assert (rows[:, 0] == tokenizer._token_start_id).all()
    assert (rows[:, -1] == tokenizer._token_end_id).all()
    rng = np.random.default_rng(0)
    rows = np.repeat(rows, 50, axis=0)
    (tokens, segments, positions), targets = script.mask(rows, 4, tokenizer, rng)
    assert (np.take_along_axis(rows, positions, 1) == targets).all()
    assert all(len(set(p)) == 4 for p in positions) and not segments.any()
    special = [tokenizer._token_start_id, tokenizer._token_end_id]
    assert not np.isin(targets, special).any()
    changed = np.take_along_axis(tokens, positions, 1)
    assert (changed == tokenizer._token_mask_id).mean() == pytest.approx(0.8, abs=0.03)
    assert (changed == targets).mean() == pytest.approx(0.1 + 0.1 / 40, abs=0.03)
    untouched = np.ones(rows.shape, bool)
    np.put_along_axis(untouched, positions, False, 1)
    assert (tokens[untouched] == rows[untouched]).all()


def test_it_learns_and_its_output_loads(script, corpus, tmp_path, monkeypatch):
    argv = f"""x --corpus {corpus} --valid {corpus} --output {tmp_path} --min-count 2 --layers 1
        --hidden-size 16 --heads 2 --positions 32 --length 32 --batch-size 8 --steps 60
        --epoch-steps 20 --learning-rate 0.01"""
    monkeypatch.setattr(sys, "argv", argv.split())
    script.main()
    log = np.genfromtxt(tmp_path / "log.csv", delimiter=",", names=True)
    assert log["tokens"].tolist() == [5120, 10240, 15360]
    tokenizer = Tokenizer(tmp_path)
    assert log["val_loss"][-1] < log["val_loss"][0]
    assert log["val_loss"][-1] < np.log(tokenizer._vocab_size) - 0.5  # a uniform guess
    model = build_transformer_model(tmp_path, with_pool=True, with_mlm=True)
    token_ids, segment_ids = tokenizer.encode("春江潮水")
    pooled, probabilities = model.predict_on_batch([[token_ids], [segment_ids]])
    assert np.asarray(pooled).shape == (1, 16)
    assert np.asarray(probabilities).shape == (1, 6, tokenizer._vocab_size)
