"""Folders of pretrained models: what a model knows of its own, and writing new ones.

Each writer puts the new whole in the place of the old one at once.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bert4keras.checkpoints import bundle, safetensors
from bert4keras.checkpoints.base import CheckpointError
from bert4keras.checkpoints.files import find_files
from bert4keras.checkpoints.names import to_hugging_face
from bert4keras.checkpoints.writing import replacing
from bert4keras.models import weights, written_configs
from bert4keras.models.config_files import write_json
from bert4keras.models.masks import LM_Mask
from bert4keras.models.messages import warn
from bert4keras.models.vocabulary import is_whole
from bert4keras.text import saving
from bert4keras.text.files import TokenizerError
from bert4keras.text.generation_config import (
    GENERATION_FILE,
    read_generation_config,
    renumbered,
)
from bert4keras.text.vocabulary import VOCAB_FILE, load_vocab, vocab_text

if TYPE_CHECKING:
    from bert4keras.models.transformer import Transformer


def transformer_of(model: Any) -> "Transformer":
    """Return the Transformer that made a model.

    Raises:
        TypeError: none did: the model is a user's, or was loaded from a file.
    """
    transformer = getattr(model, "transformer", None)
    if transformer is None:
        raise TypeError(
            f"the model {model.name!r} is not what build_transformer_model returned, which knows "
            "the names of pretrained models: call this on that model (it has the same layers), or "
            "save this one with save or save_weights"
        )
    return transformer


# === Where a model comes from ===


@dataclass(frozen=True)
class Origin:
    """What a model was built from.

    Attributes:
        settings: all of the config, and the arguments of the call, which go before it.
        folder: of the config, if there is one.
        vocabulary: the vocabulary file in that folder, if there is one.
        kept_of_folder: `keep_tokens`, as far as the files in the folder do not know of them: those
            of a model that was cut down when it was saved were cut down, too.
        generation_config: what the folder says about generation, in the numbering of the model.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    vocabulary: Path | None = None
    kept_of_folder: Sequence[int] | None = None
    generation_config: Mapping[str, Any] = field(default_factory=dict)


def origin_of(
    config_path: Path | None, config: Mapping[str, Any], kept_of_folder: Sequence[int] | None
) -> Origin:
    """What the folder of a config says, and the settings that a model is built from.

    Args:
        config_path: the config file, None for no file.
        config: the settings.
        kept_of_folder: see `Origin`.
    """
    if config_path is None:
        return Origin(config, kept_of_folder=kept_of_folder)
    found = read_generation_config(config_path.parent, config)
    if kept_of_folder is not None:
        found = renumbered(found, kept_of_folder)
    vocabulary = vocabulary_beside(config_path)
    return Origin(config, config_path.parent, vocabulary, kept_of_folder, found)


def vocabulary_beside(config_path: Path) -> Path | None:
    """The vocabulary in the folder of a config, if there is one."""
    try:
        return find_files(config_path, need=("vocabulary",)).vocabulary
    except CheckpointError:
        return None


# === Folders ===

# Files of a former tokenizer, which would be read beside a new vocabulary, or before it.
_FORMER_VOCABULARY = "|".join(map(re.escape, (*saving.FILES, GENERATION_FILE)))


def save_pretrained(transformer: "Transformer", folder: str | Path, tokenizer: Any = None) -> None:
    """Write a folder that `transformers` loads; see `Transformer.save_pretrained`."""
    config = written_configs.to_hugging_face(transformer, causal=isinstance(transformer, LM_Mask))
    vocabulary = vocabulary_files(transformer, tokenizer)
    variables = weights.official_variables(transformer)
    tensors = to_hugging_face(variables, transformer.dialect)
    metadata = {"format": "pt", **weights.metadata(transformer)}
    former = safetensors.former_files("model.safetensors")
    with _replacing(folder, "config.json", former, vocabulary) as place:
        safetensors.write_shards(place / "model.safetensors", tensors, metadata)
        write_json(place / "config.json", config)


def save_original(transformer: "Transformer", folder: str | Path) -> None:
    """Write a folder as users of the original have it.

    It holds `bert_config.json`, a TensorFlow checkpoint `bert_model.ckpt` and the vocabulary.
    """
    config = written_configs.to_original(transformer)
    vocabulary = vocabulary_files(transformer, None)
    former = bundle.former_files("bert_model.ckpt")
    with _replacing(folder, "bert_config.json", former, vocabulary) as place:
        weights.write(transformer, place / "bert_model.ckpt")
        write_json(place / "bert_config.json", config)


@contextlib.contextmanager
def _replacing(
    folder: str | Path, head: str, former: str, vocabulary: Mapping[str, bytes]
) -> Iterator[Path]:
    if vocabulary.keys() - {GENERATION_FILE}:
        former += f"|{_FORMER_VOCABULARY}"
    with replacing(folder, head, former, create=True) as place:
        yield place
        for name, content in vocabulary.items():
            (place / name).write_bytes(content)


# === Tokenizers ===


def vocabulary_files(transformer: "Transformer", tokenizer: Any) -> dict[str, bytes]:
    """Return the files of tokenizer, chats and generation that belong to a model, by name.

    Args:
        transformer: the model.
        tokenizer: its tokenizer; without it, the files beside the config are taken, cut down to
            `keep_tokens`; of `compound_tokens` only a tokenizer or a longer `vocab.txt` knows the
            names, and a model of SentencePiece cannot be cut down: then there are none.

    Raises:
        ValueError: the tokenizer is of another model.
    """
    if tokenizer is None:
        files = _files_beside(transformer)
    else:
        files = saving.files_of(tokenizer, _maxlen(transformer))
        _check_size(saving.size_of(tokenizer), transformer)
    generation = _generation_config(transformer, tokenizer)
    return files | ({GENERATION_FILE: saving.as_json(generation)} if generation else {})


def _maxlen(transformer: "Transformer") -> int | None:
    bounded = getattr(transformer, "max_position", None) and not transformer.block.position_bias
    return transformer.max_position if bounded else None


def _generation_config(transformer: "Transformer", tokenizer: Any) -> Mapping[str, Any]:
    folder = transformer.folder
    if folder is not None and (folder / GENERATION_FILE).is_file():
        return transformer.generation_config
    return getattr(tokenizer, "generation_config", {})


def _files_beside(transformer: "Transformer") -> dict[str, bytes]:
    files, folder = _vocabulary_beside(transformer), transformer.folder
    if folder is None:
        return files
    kept, compound = transformer.kept_of_folder, transformer.compound_tokens
    try:
        if compound is None:
            files |= saving.vocabulary_beside(folder, kept)
        files |= saving.settings_beside(folder, kept, files) if files else {}
    except TokenizerError as error:
        _warn_of_tokenizer(str(error))
    else:
        if not files and (left := saving.vocabulary_in(folder)):
            cuts = compound is None
            why = "cannot be cut down to keep_tokens" if cuts else "does not name compound_tokens"
            _warn_of_tokenizer(f"{left} {why}; give the one of this model as tokenizer=")
    return files


def _warn_of_tokenizer(fault: str) -> None:
    warn(f"the tokenizer is not saved with the model: {fault}")


def _vocabulary_beside(transformer: "Transformer") -> dict[str, bytes]:
    """The `vocab.txt` or the model of SentencePiece beside the config, with the model's tokens."""
    source = transformer.vocabulary
    if source is None:
        return {}
    if source.suffix == ".txt":
        tokens = _cut(load_vocab(source), transformer)
        return {} if tokens is None else {VOCAB_FILE: vocab_text(tokens).encode("utf-8")}
    whole = is_whole(transformer)
    return {saving.pieces_name(source.name): source.read_bytes()} if whole else {}


def _cut(tokens: dict[str, int], transformer: "Transformer") -> dict[str, int] | None:
    """The tokens of a vocabulary file as the model counts them; None if some have no name."""
    whole, size = transformer.full_vocab_size, transformer.vocab_size
    n_new = len(transformer.compound_tokens or ())
    n_tokens = max(tokens.values(), default=-1) + 1
    if n_new and n_tokens <= min(whole, size - n_new):
        return None  # the compound tokens are not among them
    if n_tokens > size:
        names = {i: token for token, i in tokens.items()}
        kept = range(whole) if transformer.keep_tokens is None else transformer.keep_tokens
        order = [*kept, *range(whole, whole + n_new)]
        tokens = {names[i]: new for new, i in enumerate(order) if i in names}
        _check_size(n_tokens if transformer.keep_tokens is None else len(tokens), transformer)
    return tokens


def _check_size(n_tokens: int, transformer: "Transformer") -> None:
    if n_tokens > transformer.vocab_size:
        raise ValueError(
            f"the vocabulary has {n_tokens} tokens and the model {transformer.vocab_size}: give "
            "the tokenizer of this model as tokenizer="
        )
