"""The files of tokenizer and generation that are saved with a model."""

import warnings
from typing import Any

from bert4keras.text.files import TokenizerError
from bert4keras.text.generation_config import GENERATION_FILE
from bert4keras.text.pretrained import as_json, files_beside, files_of


def tokenizer_files(transformer: Any, tokenizer: Any) -> dict[str, bytes]:
    """Return the files beside `vocab.txt` that belong into the folder of a model, by name.

    Args:
        transformer: the model.
        tokenizer: its tokenizer; without it, what lies in the folder that the model came from,
            with the tokens that it keeps. What cannot be cut down to these is left out, with a
            warning.

    Raises:
        ValueError: the tokenizer is of another model.
    """
    files: dict[str, bytes] = {}
    if transformer.folder is not None:
        files = _beside(transformer)
    if tokenizer is None:
        return files
    own = files_of(tokenizer) if hasattr(tokenizer, "settings") else {}
    if getattr(tokenizer, "_vocab_size", 0) > transformer.vocab_size:
        raise ValueError(
            f"the vocabulary has {tokenizer._vocab_size} tokens and the model "
            f"{transformer.vocab_size}: give the tokenizer of this model as tokenizer="
        )
    generation = {k: v for k, v in files.items() if k == GENERATION_FILE}
    return generation | own


def _beside(transformer: Any) -> dict[str, bytes]:
    try:
        files = files_beside(transformer.folder, transformer.kept_of_folder)
    except TokenizerError as error:
        warnings.warn(f"the tokenizer is not saved with the model: {error}", stacklevel=4)
        files = {}
    if files and transformer.compound_tokens is not None:  # whose names only a tokenizer knows
        files = {name: data for name, data in files.items() if name == GENERATION_FILE}
    if GENERATION_FILE in files:
        files[GENERATION_FILE] = as_json(transformer.generation_config)
    return files
