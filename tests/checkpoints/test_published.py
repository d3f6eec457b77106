"""The tables of published checkpoints in `docs/checkpoints.md`, row by row."""

import json
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from published import CONFIGS, bert, causal, ernie

from bert4keras import checkpoints
from bert4keras.checkpoints import CheckpointError
from bert4keras.checkpoints.architectures import architectures
from bert4keras.models import build_transformer_model
from bert4keras.models.registry import ARCHITECTURES, signatures
from bert4keras.tokenizers import SpTokenizer, load_tokenizer, load_vocab

DOCS = Path(__file__).parents[2] / "docs"
ROW = re.compile(
    r"^\| \[(?P<name>[^]]+)\]\((?P<url>[^)]+)\) \| `(?P<model>[^`]+)` \| (?P<layers>\d+)×"
    r"(?P<width>\d+) \| (?P<vocab>\d+) \| (?P<millions>[\d.]+) \| (?P<tried>\S+) \| "
    r"`(?P<line>[^`]+)` \|$",
    re.MULTILINE,
)
TRIED = {"索引": "index", "结构": "sizes"}


def rows(file):
    """The rows of all tables by the name of the checkpoint."""
    found = [match.groupdict() for match in ROW.finditer((DOCS / file).read_text("utf-8"))]
    return {row["name"]: row | {"tried": TRIED.get(row["tried"], row["tried"])} for row in found}


ROWS = rows("checkpoints.md")
INDEXED = {
    "chinese_L-12_H-768_A-12": "bert_L-12_zh_vocab5981/bert_model.ckpt",
    "albert_tiny_zh_google": "albert_tiny_zh_google/albert_model.ckpt",
}
"""Index files that rows were compared with; that of BERT has a vocabulary that was cut down."""


def test_rows_of_one_config_have_as_many_parameters():
    found = {}
    for name, row in ROWS.items():
        line = row["line"].replace(name, "folder", 1)
        found.setdefault(json.dumps([CONFIGS[name], line]), set()).add(row["millions"])
    assert all(len(counts) == 1 for counts in found.values())


def test_both_languages_say_the_same():
    assert len(ROWS) == len(CONFIGS) > 40
    assert rows("checkpoints_en.md") == ROWS
    assert {name for name, row in ROWS.items() if row["tried"] == "index"} == INDEXED.keys()


@pytest.mark.parametrize("name", CONFIGS)
def test_sizes_of_a_row_are_those_of_the_config(name):
    row, config = ROWS[name], CONFIGS[name]
    layers, width = ("num_layers", "d_model") if "d_model" in config else LAYERS_AND_WIDTH
    assert (int(row["layers"]), int(row["width"])) == (config[layers], config[width])
    assert int(row["vocab"]) == config["vocab_size"]
    # The config of Hugging Face says what it is of; Google's does not.
    of_hugging_face = "model_type" in config
    assert of_hugging_face or row["model"] == "bert" or f'model="{row["model"]}"' in row["line"]
    assert not of_hugging_face or "model=" not in row["line"]
    assert of_hugging_face == row["url"].startswith("https://huggingface.co/")


LAYERS_AND_WIDTH = ("num_hidden_layers", "hidden_size")


# ------------------------------------------------------------------------------ what lines load

SMALL = {
    **dict.fromkeys(("hidden_size", "d_model"), 16),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "num_decoder_layers"), 1),
    **dict.fromkeys(("num_attention_heads", "num_heads"), 2),
    **dict.fromkeys(("num_key_value_heads", "type_vocab_size"), 2),
    **dict.fromkeys(("head_dim", "d_kv", "attention_head_size", "attention_key_size"), 8),
    **dict.fromkeys(("intermediate_size", "d_ff"), 24),
    **dict.fromkeys(("vocab_size", "max_position_embeddings"), 32),
}
OF_OTHER_TOKENIZERS = ("mt5.1.1", "gpt2", "gpt2_ml", "qwen2", "qwen3", "llama")
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"语言模型"]


def small(config):
    """The same config of smaller sizes; an embedding_size that is the width stays the width."""
    less = {key: SMALL[key] for key in SMALL if config.get(key)}
    if "embedding_size" in config:
        factored = config["embedding_size"] != config["hidden_size"]
        less["embedding_size"] = 8 if factored else less["hidden_size"]
    return config | less


def kinds(of):
    """One row for all that are alike.

    Args:
        of: of a config, what is compared.
    """
    found = {}
    for name, row in ROWS.items():
        line = row["line"].replace(name, "folder", 1)
        found.setdefault(json.dumps([of(CONFIGS[name]), line]), name)
    return list(found.values())


def written(folder, row, config):
    """A folder as published, with a small model of random weights; the model."""
    model_type = config.get("model_type")
    (folder / "vocab.txt").write_text("\n".join(TOKENS) + "\n", encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(config))
    if model_type == "deberta-v2":
        (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    arguments = dict(re.findall(r'(\w+)="?([^",)]+)"?', row["line"]))
    arguments = {key: 0 if value == "0" else value for key, value in arguments.items()}
    transformer = build_transformer_model(
        folder / "config.json", **arguments, return_keras_model=False
    )
    if model_type is None:
        transformer.save_weights_as_checkpoint(folder / "model.ckpt")
    else:
        other = folder / "other"
        transformer.save_pretrained(other)
        (other / "model.safetensors").rename(folder / "model.safetensors")
    return transformer


@pytest.mark.long
@pytest.mark.parametrize("name", kinds(small))
def test_the_line_of_a_row_loads(name, tmp_path, monkeypatch):
    row, folder = ROWS[name], tmp_path / name
    folder.mkdir()
    source = written(folder, row, small(CONFIGS[name]))
    monkeypatch.chdir(tmp_path)
    model = eval(row["line"], {"build_transformer_model": build_transformer_model})
    classes = type(model.transformer).__mro__
    found = next(cls for cls in classes if cls in ARCHITECTURES.values())
    assert found is ARCHITECTURES[row["model"]]
    assert getattr(model.transformer, "version", row["model"]) == row["model"]
    for ours, theirs in zip(model.get_weights(), source.model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    if row["model"] not in OF_OTHER_TOKENIZERS:
        arguments = {"pre_tokenize": None} if row["model"] == "roformer" else {}
        assert load_tokenizer(folder, **arguments).encode("语言模型")[0] == [2, 5, 6, 7, 8, 3]


# -------------------------------------------------------------------------------- their sizes


def count(row, config, folder):
    """The number of parameters of the model of a row, from its first two layers."""
    layers = "num_layers" if "num_layers" in config else "num_hidden_layers"
    two = dict.fromkeys((layers, "num_decoder_layers"), 2)
    (folder / "config.json").write_text(
        json.dumps(config | {key: 2 for key in two if key in config})
    )
    line = row["line"].replace(row["name"], "config.json", 1)
    with keras.device("meta"):  # sizes without memory
        model = eval(line, {"build_transformer_model": build_transformer_model})
    second = [layer for layer in model.transformer.layers.values() if "former-1-" in layer.name]
    return model.count_params() + (config[layers] - 2) * sum(x.count_params() for x in second)


@pytest.mark.long
@pytest.mark.backend
@pytest.mark.parametrize("name", kinds(dict) if keras.backend.backend() == "torch" else [])
def test_parameters_of_a_row_are_counted(name, tmp_path, monkeypatch):
    """On PyTorch, which builds models without memory for their weights."""
    monkeypatch.chdir(tmp_path)
    counted = count(ROWS[name], CONFIGS[name], tmp_path)
    assert ROWS[name]["millions"] == f"{counted / 1e6:.1f}"


@pytest.mark.parametrize("name", INDEXED)
def test_rows_agree_with_published_indices(shared, name):
    config, row = CONFIGS[name], ROWS[name]
    index = shared / "weights/official_fixtures" / INDEXED[name]
    shapes = dict(checkpoints.list_variables(index))
    assert architectures(shapes, signatures()) == [row["model"]]
    n_tokens, size = shapes["bert/embeddings/word_embeddings"]
    assert size == config.get("embedding_size", config["hidden_size"])
    ours = {
        variable: shape
        for variable, shape in shapes.items()
        if variable.startswith("bert/") and "/pooler/" not in variable and "adam_" not in variable
    }
    counted = sum(int(np.prod(shape)) for shape in ours.values())
    counted += (config["vocab_size"] - n_tokens) * size
    assert row["millions"] == f"{counted / 1e6:.1f}"


def test_vocabularies_agree_with_published_ones(shared):
    folder = shared / "weights/official_fixtures"
    tokenizer = load_tokenizer(folder / "bert_chinese")
    assert tokenizer._vocab_size == CONFIGS["chinese_L-12_H-768_A-12"]["vocab_size"]
    assert tokenizer.encode("BERT模型")[0] == tokenizer.encode("bert模型")[0]
    assert load_vocab(folder / "bert_chinese/vocab.txt")["。"] == 511
    pieces = folder / "mt5_cn_sentencepiece"
    tokenizer = SpTokenizer(pieces / "sentencepiece_cn.model", token_start=None, token_end="</s>")
    kept = json.loads((pieces / "sentencepiece_cn_keep_tokens.json").read_text())
    vocab_size = CONFIGS["mt5-small"]["vocab_size"]
    assert max(kept) < vocab_size and len(kept) / vocab_size == pytest.approx(1 / 8, abs=0.01)
    assert tokenizer.decode(tokenizer.encode("语言模型")[0]) == "语言模型"


# -------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "config",
    [
        bert(1, 16, 2) | {"model_type": "xlm-roberta", "position_embedding_type": "rotary"},
        bert(1, 16, 2) | {"model_type": "megatron-bert"},
        bert(1, 16, 2) | {"model_type": "new"},
        causal("qwen3_moe", 1, 16, 24, num_attention_heads=2),
        causal("chatglm", 1, 16, 24, num_attention_heads=2),
        causal("qwen2", 1, 16, 24, num_attention_heads=2, is_causal=False),
        causal("qwen2", 1, 16, 24, num_attention_heads=2, quantization_config={"bits": 4}),
    ],
    ids=lambda config: config["model_type"],
)
def test_what_cannot_be_loaded_is_refused(config, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="not implemented"):
        build_transformer_model(tmp_path / "config.json", application="lm")


def test_an_ernie_that_calls_itself_bert_is_refused(tmp_path):
    config = small(ernie(1, 16, 2))
    written(tmp_path, {"line": ""}, config)
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    with pytest.raises(CheckpointError, match="model='ernie'"):
        build_transformer_model(tmp_path)


def test_a_config_of_nezha_with_a_size_that_it_does_not_use(tmp_path):
    config = small(CONFIGS["nezha-cn-base"])
    assert config["embedding_size"] != config["hidden_size"]
    transformer = written(tmp_path, {"line": ""}, config)
    assert transformer.embedding_size == transformer.hidden_size
