"""The model card that `save_pretrained` writes: its code loads the model, its head is YAML."""

import re

import numpy as np
import pytest

from bert4keras.models import build_transformer_model
from bert4keras.models.registry import ARCHITECTURES
from bert4keras.tokenizers import Tokenizer

SIZES = {
    "vocab_size": 12,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position": 16,
}
TOKENIZER = Tokenizer({t: i for i, t in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"今天气"])})
IDS = np.array([[2, 4, 5, 3]])


def blocks(folder):
    """The programs of a card, by the name of the library."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^(\S+):\n\n```python\n(.*?)```", text, re.M | re.S))


@pytest.mark.parametrize(
    "options, theirs",
    [
        ({"model": "bert", "with_mlm": "linear"}, "BertForMaskedLM"),
        ({"model": "bert", "application": "unilm", "with_mlm": True}, None),
        ({"model": "bert", "with_pool": True}, "BertModel"),
        ({"model": "gpt2", "application": "lm"}, "GPT2LMHeadModel"),
        ({"model": "roformer_v2"}, None),
    ],
)
def test_the_code_of_a_card_loads_the_model(options, theirs, tmp_path, monkeypatch):
    model = build_transformer_model(**options, **SIZES)
    model.save_pretrained(tmp_path / "mine", TOKENIZER)
    programs = blocks(tmp_path / "mine")
    assert list(programs) == ["bert4keras", "transformers"][: 1 + bool(theirs)]
    assert theirs is None or f"model = {theirs}.from_pretrained(" in programs["transformers"]
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(programs["bert4keras"], names)
    inputs = [IDS, np.zeros_like(IDS)] if len(model.inputs) > 1 else IDS
    expected, found = (np.array(each.predict_on_batch(inputs)) for each in (model, names["model"]))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert names["tokenizer"].encode("今天") == TOKENIZER.encode("今天")


def test_a_card_says_what_it_is_given(tmp_path):
    yaml = pytest.importorskip("yaml")
    model = build_transformer_model(model="bert", **SIZES)
    card = {"scores": {"f1": 0.91234567, "rouge_l": 1}, "data": "人民日报", "language": ["zh"]}
    model.save_pretrained(tmp_path / "a", card=card | {"license": "apache-2.0"})
    text = (tmp_path / "a/README.md").read_text(encoding="utf-8")
    _, head, body = text.split("---\n", 2)
    assert yaml.safe_load(head) == {
        "language": ["zh"],
        "license": "apache-2.0",
        "library_name": "bert4keras",
        "tags": ["bert"],
        "metrics": ["f1", "rouge_l"],
    }
    assert "| f1 | 0.912346 |\n| rouge_l | 1 |" in body and "## 数据 / Data\n\n人民日报\n" in body
    assert f"| {model.count_params():,} |" in body and "load_tokenizer" not in body


def test_a_card_that_is_there_stays(tmp_path):
    model = build_transformer_model(model="bert", **SIZES)
    (tmp_path / "README.md").write_text("mine")
    model.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"README\.md is there and stays as it is: card is not"):
        model.save_pretrained(tmp_path, card={"data": "d"})
    assert (tmp_path / "README.md").read_text() == "mine"
    with pytest.raises(ValueError, match="card has 'score': give some of scores, data, license"):
        model.save_pretrained(tmp_path / "b", card={"score": 1})
    assert not (tmp_path / "b").exists()


def test_which_models_transformers_has():
    transformers = pytest.importorskip("transformers")
    families = {f.model_type: f for cls in ARCHITECTURES.values() for f in cls.families}
    known = {name: name in transformers.CONFIG_MAPPING for name in families}
    assert {name: family.in_transformers for name, family in families.items()} == known
