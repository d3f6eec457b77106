"""Building of the transformer of an encoder or reranker, without unused heads."""

import inspect
from pathlib import Path
from typing import Any

from bert4keras.checkpoints.files import find_files
from bert4keras.models.architectures import ARCHITECTURES
from bert4keras.models.building import build_transformer_model
from bert4keras.models.configs import read_config
from bert4keras.models.transformer import Transformer
from bert4keras.sentences.inputs import padding_id
from bert4keras.text.base import TokenizerBase

_VOCABULARY_ARGUMENTS = ("keep_tokens", "compound_tokens")


def build_transformer(folder: Path, tokenizer: TokenizerBase, arguments: Any) -> Transformer:
    """Build the model of a folder; a decoder without its output of logits.

    Args:
        folder: the folder of the model.
        tokenizer: its tokenizer.
        arguments: arguments of `build_transformer_model`.

    Raises:
        TypeError: an argument would change the vocabulary, or is unknown.
    """
    wrong = [name for name in _VOCABULARY_ARGUMENTS if name in arguments]
    if wrong:
        raise TypeError(
            f"{wrong[0]} would change the token ids, but not those of the tokenizer in {folder}: "
            "save a model with it by save_pretrained, and load that"
        )
    config, name = read_config(find_files(folder, need=("config",)).config, None, "encoder", True)
    defaults = {"pad_token_id": padding_id(tokenizer, config["vocab_size"])}
    if "with_lm" in parameters(ARCHITECTURES[name or "bert"]):
        defaults["with_lm"] = False
    return build_transformer_model(folder, return_keras_model=False, **{**defaults, **arguments})


def parameters(architecture: type[Transformer]) -> set[str]:
    """Return the names of all arguments of the constructors of an architecture."""
    constructors = [cls.__init__ for cls in architecture.__mro__[:-1]]
    return {name for init in constructors for name in inspect.signature(init).parameters}
