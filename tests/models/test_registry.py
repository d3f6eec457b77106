"""What is known of an architecture stands in its file; scripts add their own in the same way."""

import ast
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import bert4keras
from bert4keras.checkpoints import CheckpointError, Signature, write_safetensors
from bert4keras.models import (
    ARCHITECTURES,
    BERT,
    Family,
    build_transformer_model,
    registry,
    renamed,
)

SIZES = {
    "vocab_size": 20,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "hidden_act": "gelu",
    "max_position": 10,
}
INPUTS = [np.array([[2, 5, 6, 3, 0]]), np.zeros((1, 5), "int32")]


class Mine(BERT):
    """An architecture of a script: other names here, and others again in its files."""

    model_type = "mine"
    variable_names = renamed(BERT.variable_names, "bert/", "mine/")
    vocabulary_variables = ("mine/embeddings/word_embeddings", "cls/predictions/output_bias")
    families = (replace(BERT.families[0], model_type="mine", models=("my_model",), name="Mine"),)
    dialect = replace(
        BERT.dialect, base="own", rewrites=((r"^mine/", "own/"), *BERT.dialect.rewrites)
    )
    signatures = (
        Signature(
            "my_model",
            has=("((mine|own)/)?encoder/layer/0/attention/self/query/bias", "(mine|own)/.*"),
            start="(?:(?:mine|own)/)?encoder/layer/0/",
        ),
    )


@pytest.fixture
def mine(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "my_model", Mine)
    return build_transformer_model(
        model="my_model", with_mlm="linear", return_keras_model=False, **SIZES
    )


def test_the_files_of_an_architecture_of_a_script_are_read_and_written(mine, tmp_path):
    mine.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("mine", ["MineForMaskedLM"])
    with bert4keras.checkpoints.open_checkpoint(tmp_path) as file:
        assert "own.encoder.layer.0.attention.self.query.weight" in file
        tensors = {f"module.{name}": file[name] for name in file}
    again = build_transformer_model(tmp_path, with_mlm="linear", return_keras_model=False)
    assert type(again) is Mine
    expected = mine.model.predict_on_batch(INPUTS)
    np.testing.assert_array_equal(again.model.predict_on_batch(INPUTS), expected)
    # What a wrapper put before all names is told from the names.
    (tmp_path / "model.safetensors").unlink()
    write_safetensors(tmp_path / "model.safetensors", tensors)
    wrapped = build_transformer_model(tmp_path, with_mlm="linear")
    np.testing.assert_array_equal(wrapped.predict_on_batch(INPUTS), expected)


def test_a_checkpoint_of_an_architecture_of_a_script_is_recognised(mine, tmp_path):
    mine.save_weights_as_checkpoint(tmp_path / "mine.ckpt")
    with pytest.raises(CheckpointError, match="pass model='my_model'"):
        build_transformer_model(checkpoint_path=tmp_path / "mine.ckpt", model="nezha", **SIZES)
    bert = build_transformer_model(with_mlm="linear", return_keras_model=False, **SIZES)
    bert.save_weights_as_checkpoint(tmp_path / "bert.ckpt")
    with pytest.raises(CheckpointError, match="those of model='bert': pass that"):
        build_transformer_model(checkpoint_path=tmp_path / "bert.ckpt", model="my_model", **SIZES)


def test_a_class_that_is_not_registered_has_its_files_all_the_same(tmp_path):
    transformer = build_transformer_model(model=Mine, return_keras_model=False, **SIZES)
    transformer.save_pretrained(tmp_path)
    again = build_transformer_model(tmp_path, model=Mine)
    expected = transformer.model.predict_on_batch(INPUTS)
    np.testing.assert_array_equal(again.predict_on_batch(INPUTS), expected)
    with pytest.raises(ValueError, match="architecture 'mine', which is not implemented"):
        build_transformer_model(tmp_path)


def test_a_class_without_a_family_is_not_described_as_another(tmp_path):
    class Other(BERT):
        model_type = "other"

    transformer = build_transformer_model(model=Other, return_keras_model=False, **SIZES)
    with pytest.raises(ValueError, match="Other has no Family of model_type 'other'"):
        transformer.save_pretrained(tmp_path)


# === The tables ===


def test_every_architecture_says_what_its_files_are():
    for name, architecture in ARCHITECTURES.items():
        models = {model for family in architecture.families for model in family.models}
        assert name in models, name
        assert all(isinstance(family, Family) for family in architecture.families)
        assert architecture.signatures, name
    known = {signature.model for signature in registry.signatures()}
    assert known <= ARCHITECTURES.keys()


ROOT = Path(bert4keras.__file__).parent
NAMES = ("albert", "nezha", "roformer", "electra", "ernie", "deberta", "modernbert", "gau", "llama")
NAMES += ("gpt", "qwen", "t5")
# Each of these is there for all architectures.
SHARED = [
    *ROOT.glob("checkpoints/*.py"),
    *(ROOT / "models" / f"{name}.py" for name in ("building", "cache", "config_files", "configs")),
    *(ROOT / "models" / f"{name}.py" for name in ("family", "fitting", "pretrained", "registry")),
    *(ROOT / "models" / f"{name}.py" for name in ("settings", "transformer", "written_configs")),
]


@pytest.mark.parametrize("path", SHARED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_what_all_share_knows_no_architecture(path):
    """Names of architectures stand in docstrings and comments at most."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said
    ]
    imported = [x.module or "" for x in ast.walk(tree) if isinstance(x, ast.ImportFrom)]
    found = [text for text in (*texts, *imported) for name in NAMES if name in text.lower()]
    assert not found
