"""Folders of pretrained models: what a model records of its own, and writing new ones.

Each writer replaces all old files by the new ones in one step.
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
from bert4keras.layers.positions import PositionEmbedding
from bert4keras.models import peft, weights, written_configs
from bert4keras.models.card import CARD_FILE, check_card, model_card
from bert4keras.models.config_files import write_json
from bert4keras.models.masks import LM_Mask
from bert4keras.models.messages import warn
from bert4keras.models.vocabulary import has_whole_vocabulary
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
    """Return the Transformer that built a model.

    Raises:
        TypeError: the model was not built by one, but by the user or loaded from a file.
    """
    transformer = getattr(model, "transformer", None)
    if transformer is None:
        raise TypeError(
            f"the model {model.name!r} is not what build_transformer_model returned, which knows "
            "the names of pretrained models: call this on that model (it has the same layers), or "
            "save this one with save or save_weights"
        )
    return transformer


# === The origin of a model ===


@dataclass(frozen=True)
class Origin:
    """What a model was built from.

    Attributes:
        settings: all items of the config, overridden by the arguments of the call.
        folder: the folder of the config, if there is one.
        vocabulary: the vocabulary file in that folder, if there is one.
        kept_of_folder: `keep_tokens`, unless the files in the folder are cut down already, as those
            of a model are that was cut down when it was saved.
        generation_config: the settings of the folder for generation, with token ids of the model.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    vocabulary: Path | None = None
    kept_of_folder: Sequence[int] | None = None
    generation_config: Mapping[str, Any] = field(default_factory=dict)


def origin_of(
    config_path: Path | None, config: Mapping[str, Any], kept_of_folder: Sequence[int] | None
) -> Origin:
    """Return the origin of a model that is built from a config file.

    Args:
        config_path: the config file, None for no file.
        config: the settings that the model is built from.
        kept_of_folder: that of `Origin`.
    """
    if config_path is None:
        return Origin(config, kept_of_folder=kept_of_folder)
    found = read_generation_config(config_path.parent, config)
    if kept_of_folder is not None:
        found = renumbered(found, kept_of_folder)
    vocabulary = vocabulary_beside(config_path)
    return Origin(config, config_path.parent, vocabulary, kept_of_folder, found)


def vocabulary_beside(config_path: Path) -> Path | None:
    """Return the vocabulary in the folder of a config, if there is one."""
    try:
        return find_files(config_path, need=("vocabulary",)).vocabulary
    except CheckpointError:
        return None


# === Folders ===

# Files of an earlier tokenizer, which would be read together with a new vocabulary, or before it.
_FORMER_VOCABULARY = "|".join(map(re.escape, (*saving.FILES, GENERATION_FILE)))


def save_pretrained(
    transformer: "Transformer",
    folder: str | Path,
    tokenizer: Any = None,
    head: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    card: Mapping[str, Any] | None = None,
    loading: Mapping[str, str] | None = None,
) -> None:
    """Write a folder that `transformers` loads, as `Transformer.save_pretrained` describes.

    Args:
        transformer: the model.
        folder: where to write.
        tokenizer: its tokenizer.
        head: further tensors of the weight file by name, of layers that are none of the model's.
        settings: what the config says of these.
        card: what the model card says besides.
        loading: code that loads the model, see `card.model_card`.
    """
    check_card(card)
    config = written_configs.to_hugging_face(transformer, causal=isinstance(transformer, LM_Mask))
    config |= settings or {}
    vocabulary = vocabulary_files(transformer, tokenizer)
    adapter = peft.adapter_files(transformer)
    variables = weights.official_variables(transformer, merged=False)
    tensors = {**to_hugging_face(variables, transformer.dialect), **(head or {})}
    metadata = {"format": "pt", **weights.metadata(transformer)}
    former = f"{safetensors.stale_file_pattern('model.safetensors')}|{peft.STALE_FILES}"
    text = None
    if not (Path(folder) / CARD_FILE).exists():
        name = Path(folder).resolve().name
        text = model_card(transformer, name, config, vocabulary, card, loading)
    elif card is not None:
        warn(f"{Path(folder) / CARD_FILE} is there and stays as it is: card is not written")
    with _replacing(folder, "config.json", former, vocabulary) as place:
        safetensors.write_shards(place / "model.safetensors", tensors, metadata)
        write_json(place / "config.json", config)
        if adapter is not None:
            peft.write(adapter, place)
        if text is not None:
            (place / CARD_FILE).write_text(text, encoding="utf-8")


def save_adapter(model: Any, folder: str | Path) -> None:
    """Write the adapters of a model, and nothing else, as PEFT reads them.

    `adapter_config.json` and `adapter_model.safetensors` go with a model as `save_pretrained` of
    the unadapted one, or the folder that it came from, has it:
    `PeftModel.from_pretrained(model, folder)`.

    Args:
        model: what `build_transformer_model` returned, with adapters of `training.add_lora`.
        folder: where to write; it is created. An adapter that it holds is replaced in one step.

    Raises:
        TypeError: another model.
        ValueError: it has no adapters, one on a layer where PEFT has no place, or other weights
            that are trained.
        CheckpointError: the folder cannot be written to, or the disk is full.
    """
    peft.save(transformer_of(model), folder)


def load_adapter(model: Any, folder: str | Path, trainable: str | Sequence[str] = ()) -> list[str]:
    """Give a model the adapters that PEFT or `save_adapter` wrote, which are trained from then on.

    Args:
        model: what `build_transformer_model` returned, without adapters.
        folder: holds `adapter_config.json`, and `adapter_model.safetensors` or `.bin`.
        trainable: see `training.add_lora`.

    Returns:
        The paths of what has got adapters.

    Raises:
        TypeError: another model.
        CheckpointError: the files are missing, damaged or of another model, or more than plain LoRA
            of projections: DoRA, whole modules, trained biases. The model is unchanged then.
    """
    return peft.load(transformer_of(model), folder, trainable)


def save_original(transformer: "Transformer", folder: str | Path) -> None:
    """Write a folder in the form that users of the original have.

    It holds `bert_config.json`, a TensorFlow checkpoint `bert_model.ckpt` and the vocabulary.
    """
    config = written_configs.to_original(transformer)
    vocabulary = vocabulary_files(transformer, None)
    former = bundle.stale_file_pattern("bert_model.ckpt")
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
    """Return the files of a model for its tokenizer, chats and generation, by name.

    Args:
        transformer: the model.
        tokenizer: its tokenizer; without it, the files beside the config are taken, cut down to
            `keep_tokens`. Only a tokenizer or a longer `vocab.txt` has the names of
            `compound_tokens`, and a SentencePiece model cannot be cut down: then there are none.

    Raises:
        ValueError: the tokenizer belongs to another model.
    """
    if tokenizer is None:
        files = _files_beside(transformer)
    else:
        files = saving.files_of(tokenizer, _maxlen(transformer))
        _check_size(saving.size_of(tokenizer), transformer)
    generation = _generation_config(transformer, tokenizer)
    return files | ({GENERATION_FILE: saving.as_json(generation)} if generation else {})


def _maxlen(transformer: "Transformer") -> int | None:
    layers = transformer.layers.values()
    tables = [layer for layer in layers if isinstance(layer, PositionEmbedding)]
    return min((min(table.max_length, table.input_dim) for table in tables), default=None)


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
    """Return the `vocab.txt` or SentencePiece model beside the config, with the model's tokens."""
    source = transformer.vocabulary
    if source is None:
        return {}
    if source.suffix == ".txt":
        tokens = _cut(load_vocab(source), transformer)
        return {} if tokens is None else {VOCAB_FILE: vocab_text(tokens).encode("utf-8")}
    whole = has_whole_vocabulary(transformer)
    return {saving.pieces_name(source.name): source.read_bytes()} if whole else {}


def _cut(tokens: dict[str, int], transformer: "Transformer") -> dict[str, int] | None:
    """Return the tokens of a vocabulary file with the model's ids; None if names are missing."""
    whole, size = transformer.full_vocab_size, transformer.vocab_size
    n_new = len(transformer.compound_tokens or ())
    n_tokens = max(tokens.values(), default=-1) + 1
    if n_new and n_tokens <= min(whole, size - n_new):
        return None  # the file does not hold the compound tokens
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
