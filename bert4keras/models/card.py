"""Model cards: the `README.md` of a folder, which says what the model is and how to load it.

Hubs of models show this file and read the block of YAML that it begins with. Values in it are
written as JSON, which is YAML too.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bert4keras.models.masks import LM_Mask, UniLM_Mask
from bert4keras.models.written_configs import family_of

if TYPE_CHECKING:
    from bert4keras.models.transformer import Transformer

CARD_FILE = "README.md"
KEYS = ("scores", "data", "license", "language")
"""What a user can say of a model: see `Transformer.save_pretrained`."""
_SIZES = {
    "num_hidden_layers": "层数 / layers",
    "hidden_size": "隐层 / hidden size",
    "num_attention_heads": "注意力头 / attention heads",
    "vocab_size": "词表 / vocabulary",
}
_HEADS = ("with_pool", "with_nsp", "with_mlm", "with_discriminator")


def check_card(card: Mapping[str, Any] | None) -> None:
    """Raise a `ValueError` for what a card has no place for."""
    if unknown := sorted(set(card or ()) - set(KEYS)):
        raise ValueError(f"card has {unknown[0]!r}: give some of {', '.join(KEYS)}")


def model_card(
    transformer: "Transformer",
    name: str,
    config: Mapping[str, Any],
    files: Mapping[str, bytes],
    card: Mapping[str, Any] | None = None,
    loading: Mapping[str, str] | None = None,
) -> str:
    """Return the text of a model card.

    Args:
        transformer: the model.
        name: the name of its folder.
        config: its `config.json`.
        files: the files of its tokenizer by name.
        card: what the user says of it, see `check_card`.
        loading: code that loads it, by the name of the library, in which `{name}` stands for the
            folder; by default that of a `Transformer`.
    """
    card = card or {}
    if loading is None:
        loading = {"bert4keras": _our_code(transformer, bool(files))}
        if code := _their_code(transformer, config, "tokenizer_config.json" in files):
            loading["transformers"] = code
    parts = [_front_matter(config, card), f"# {name}", _sizes(transformer, config)]
    parts.append("## 读入 / Loading")
    for library, code in loading.items():
        parts.append(f"{library}:\n\n```python\n{code.format(name=json.dumps(name))}\n```")
    if scores := card.get("scores"):
        rows = "\n".join(f"| {key} | {value:g} |" for key, value in scores.items())
        parts.append(f"## 得分 / Scores\n\n| | |\n| --- | --: |\n{rows}")
    if data := card.get("data"):
        parts.append(f"## 数据 / Data\n\n{data}")
    return "\n\n".join(parts) + "\n"


def _front_matter(config: Mapping[str, Any], card: Mapping[str, Any]) -> str:
    values = {
        "language": card.get("language"),
        "license": card.get("license"),
        "library_name": "bert4keras",
        "tags": [config["model_type"]],
        "metrics": list(card.get("scores") or ()),
    }
    lines = [f"{k}: {json.dumps(v, ensure_ascii=False)}" for k, v in values.items() if v]
    return "\n".join(["---", *lines, "---"])


def _sizes(transformer: "Transformer", config: Mapping[str, Any]) -> str:
    rows = {"类型 / model type": f"`{config['model_type']}`"}
    for key, title in _SIZES.items():
        if (value := getattr(transformer, key, None)) is not None:
            rows[title] = f"{value:,}"
    rows["参数 / parameters"] = f"{transformer.model.count_params():,}"
    table = "\n".join(f"| {title} | {value} |" for title, value in rows.items())
    return f"| | |\n| --- | --: |\n{table}"


def _our_code(transformer: "Transformer", with_tokenizer: bool) -> str:
    """Return code that builds the model with the heads and the attention mask that it has."""
    heads = [head for head in _HEADS if head not in transformer.refused_arguments]
    given = {head: getattr(transformer, head, False) for head in heads}
    arguments = {k: v if isinstance(v, str) else True for k, v in given.items() if v}
    with_lm = getattr(transformer, "with_lm", True)
    if isinstance(with_lm, str) or not with_lm:
        arguments["with_lm"] = with_lm
    masks = {"lm": LM_Mask, "unilm": UniLM_Mask}
    for application, mask in masks.items():
        if isinstance(transformer, mask) and application in transformer.applications:
            arguments["application"] = application
    more = "".join(
        f", {k}={json.dumps(v) if isinstance(v, str) else v}" for k, v in arguments.items()
    )
    lines = ["from bert4keras.models import build_transformer_model"]
    lines += ["from bert4keras.tokenizers import load_tokenizer"] * with_tokenizer
    lines += ["", f"model = build_transformer_model({{name}}{more})"]
    return "\n".join(lines + ["tokenizer = load_tokenizer({name})"] * with_tokenizer)


def _their_code(
    transformer: "Transformer", config: Mapping[str, Any], with_tokenizer: bool
) -> str | None:
    """Return code for `transformers`; None if it has no such model, or not with this mask."""
    family = family_of(transformer)
    masked = isinstance(transformer, UniLM_Mask)
    if isinstance(transformer, LM_Mask):
        masked = not family.causal
    if masked or not family.in_transformers:
        return None
    name = config["architectures"][0]
    names = ", ".join(["AutoTokenizer"] * with_tokenizer + [name])
    lines = [f"from transformers import {names}", "", f"model = {name}.from_pretrained({{name}})"]
    return "\n".join(lines + ["tokenizer = AutoTokenizer.from_pretrained({name})"] * with_tokenizer)
