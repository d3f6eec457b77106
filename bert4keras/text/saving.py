"""The files of a tokenizer or of a folder, to be written elsewhere."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from bert4keras.text import cutting
from bert4keras.text.base import TokenizerBase
from bert4keras.text.files import LARGE, SMALL, read_bytes, read_object
from bert4keras.text.json import JsonTokenizer
from bert4keras.text.json_file import TOKENIZER_FILE
from bert4keras.text.pretrained import (
    ADDED_FILE,
    CHAT_FILE,
    CHAT_FOLDER,
    CONFIG_FILE,
    MAP_FILE,
    NAMED,
    SENTENCEPIECE,
    chat_files,
)
from bert4keras.text.sentencepiece import SpTokenizer
from bert4keras.text.vocabulary import VOCAB_FILE, vocab_text
from bert4keras.text.wordpiece import Tokenizer

_OF_BPE = ("vocab.json", "merges.txt")
_VOCABULARIES = (TOKENIZER_FILE, VOCAB_FILE, *SENTENCEPIECE, *_OF_BPE)
FILES = (*_VOCABULARIES, CONFIG_FILE, MAP_FILE, ADDED_FILE, CHAT_FILE)
"""Files of tokenizers in a folder: those left over from another one would be read too."""
_PATH_SETTINGS = ("auto_map", "name_or_path", "special_tokens_map_file", "tokenizer_file")
"""Settings that refer to other files, and are not written."""


# === Files of a tokenizer ===


def files_of(tokenizer: Any, maxlen: int | None = None) -> dict[str, bytes]:
    """Return the files from which `load_tokenizer` creates the same tokenizer, by name.

    `transformers` reads them too. There is no `tokenizer_config.json` if texts are pre-tokenized by
    a function or tokens are replaced, which it cannot express.

    Args:
        tokenizer: the tokenizer; of one from another library, only `token_dict` is used.
        maxlen: maximal number of tokens of the model, if there is one.
    """
    if not isinstance(tokenizer, TokenizerBase):
        return {VOCAB_FILE: vocab_text(tokenizer.token_dict).encode("utf-8")}
    files = _vocabulary_of(tokenizer)
    if not _is_described(tokenizer):
        return files
    config = _config_of(tokenizer, maxlen)
    chats = tokenizer.chat_template
    return files | _config_files(config, {"default": chats} if isinstance(chats, str) else chats)


def size_of(tokenizer: Any) -> int:
    """Return the number of ids of a tokenizer."""
    if isinstance(tokenizer, TokenizerBase):
        return tokenizer._vocab_size
    return max(tokenizer.token_dict.values(), default=-1) + 1


def _vocabulary_of(tokenizer: TokenizerBase) -> dict[str, bytes]:
    if isinstance(tokenizer, JsonTokenizer):
        return {TOKENIZER_FILE: as_json(tokenizer.content())}
    if isinstance(tokenizer, SpTokenizer):
        return {pieces_name(tokenizer.file_name): tokenizer.serialized()}
    return {VOCAB_FILE: vocab_text(tokenizer.token_dict).encode("utf-8")}


def pieces_name(name: str) -> str:
    """Return the file name under which `load_tokenizer` finds a SentencePiece model."""
    return name if name in SENTENCEPIECE else SENTENCEPIECE[0]


def _is_described(tokenizer: TokenizerBase) -> bool:
    """Tell whether a config can describe how a tokenizer works."""
    segments = str(tokenizer.settings.get("tokenizer_class")).startswith("RoFormer")
    return not tokenizer._token_translate and (segments or tokenizer._pre_tokenize is None)


def _config_of(tokenizer: TokenizerBase, maxlen: int | None) -> dict[str, Any]:
    """Return the `tokenizer_config.json` of a tokenizer, without its chat templates."""
    config = {k: v for k, v in tokenizer.settings.items() if k not in _PATH_SETTINGS}
    config.pop("chat_template", None)
    if maxlen is not None:
        config = {"model_max_length": maxlen, **config}
    if isinstance(tokenizer, Tokenizer):
        config.pop("strip_accents", None)  # it strips accents if it lower-cases
        config["do_lower_case"] = tokenizer._do_lower_case
        config = {"tokenizer_class": "BertTokenizer", **config, **_names_of(tokenizer)}
    else:
        config = {**_names_of(tokenizer), **config, **tokenizer.special_tokens}
    if isinstance(tokenizer, JsonTokenizer):
        config.pop("added_tokens_decoder", None)  # they are in the file, perhaps with other ids
        config = {"tokenizer_class": "PreTrainedTokenizerFast", **config}
        config["clean_up_tokenization_spaces"] = tokenizer._clean_up
    if tokenizer.padding_side != "right":
        config["padding_side"] = tokenizer.padding_side
    return config


def _names_of(tokenizer: TokenizerBase) -> dict[str, str | None]:
    """Return the special tokens of a tokenizer by their names in a config.

    Missing ones are None if `transformers` would otherwise add its own.
    """
    prefix, suffix = tokenizer._prefix_and_suffix()
    pair = isinstance(tokenizer, Tokenizer) or (prefix and suffix)
    start, end = ("cls", "sep") if pair else ("bos", "eos")
    names = {"pad": "pad", "unk": "unk", "mask": "mask", start: "start", end: "end"}
    tokens = {f"{theirs}_token": getattr(tokenizer, f"_token_{x}") for theirs, x in names.items()}
    found = {k: t if t is not None and t in tokenizer else None for k, t in tokens.items()}
    if isinstance(tokenizer, JsonTokenizer):
        return {name: token for name, token in found.items() if token is not None}
    return found


def _config_files(config: Mapping[str, Any], chats: Mapping[str, str] | None) -> dict[str, bytes]:
    """Return the config and chat templates; a single template has a file of its own, as usual."""
    if chats and list(chats) == ["default"]:
        return {CONFIG_FILE: as_json(config), CHAT_FILE: chats["default"].encode("utf-8")}
    if chats:
        several = [{"name": name, "template": template} for name, template in chats.items()]
        config = {**config, "chat_template": several}
    return {CONFIG_FILE: as_json(config)}


def as_json(content: Mapping[str, Any]) -> bytes:
    """Return the bytes of a JSON file."""
    return (json.dumps(content, ensure_ascii=False, indent=2) + "\n").encode("utf-8")


# === Files of a folder ===


def vocabulary_beside(folder: Path, keep_tokens: Sequence[int] | None) -> dict[str, bytes]:
    """Return the vocabulary files of Hugging Face in a folder, by name.

    Args:
        folder: the folder of the original model.
        keep_tokens: the old ids in the order of the new ones, if its vocabulary was reduced.

    Raises:
        TokenizerError: a file is damaged, or `keep_tokens` leaves out tokens that are needed.
    """
    if keep_tokens is None:
        paths = (folder / name for name in (TOKENIZER_FILE, ADDED_FILE, *_OF_BPE))
        return {path.name: read_bytes(path, LARGE) for path in paths if path.is_file()}
    path = folder / TOKENIZER_FILE
    if not path.is_file():
        return {}
    return {path.name: as_json(cutting.cut_down(read_object(path, LARGE), keep_tokens))}


def vocabulary_in(folder: Path) -> str | None:
    """Return the name of a vocabulary file in a folder, None if there is none."""
    return next((name for name in _VOCABULARIES if (folder / name).is_file()), None)


def settings_beside(
    folder: Path, keep_tokens: Sequence[int] | None, vocabulary: Mapping[str, bytes]
) -> dict[str, bytes]:
    """Return the files of settings and chat templates in a folder, by name.

    Args:
        folder: the folder of the original model.
        keep_tokens: the old ids in the order of the new ones, if its vocabulary was reduced.
        vocabulary: the files of the vocabulary.

    Raises:
        TokenizerError: a file is damaged.
    """
    paths = [folder / name for name in (CONFIG_FILE, MAP_FILE)]
    found = {path.name: read_object(path) for path in paths if path.is_file()}
    config = {k: v for k, v in found.get(CONFIG_FILE, {}).items() if k not in _PATH_SETTINGS}
    found |= {CONFIG_FILE: config} if config else {}
    if keep_tokens is not None:
        tokens = _tokens_of(vocabulary)
        found = {name: _cut(content, keep_tokens, tokens) for name, content in found.items()}
    files = {name: as_json(content) for name, content in found.items()}
    if (folder / CHAT_FOLDER).is_dir():
        return files | _config_files(found.get(CONFIG_FILE, {}), chat_files(folder))
    path = folder / CHAT_FILE
    return files | ({CHAT_FILE: read_bytes(path, SMALL)} if path.is_file() else {})


def _tokens_of(vocabulary: Mapping[str, bytes]) -> set[str]:
    if TOKENIZER_FILE not in vocabulary:
        return set(vocabulary[VOCAB_FILE].decode("utf-8").split("\n"))
    content = json.loads(vocabulary[TOKENIZER_FILE])
    added = {token["content"] for token in content["added_tokens"]}
    return added | cutting.token_ids(content["model"]).keys()


def _cut(
    config: Mapping[str, Any], keep_tokens: Sequence[int], tokens: Collection[str]
) -> dict[str, Any]:
    """Remove tokens that were left out from settings, since readers would add them again."""

    def is_kept(token: Any) -> bool:
        return (token["content"] if isinstance(token, Mapping) else token) in tokens

    cut = {k: v if k not in NAMED or v is None or is_kept(v) else None for k, v in config.items()}
    new = {str(old): str(i) for i, old in enumerate(keep_tokens)}
    for name, value in cut.items():
        if name == "added_tokens_decoder" and value:
            cut[name] = {new[i]: token for i, token in value.items() if i in new}
        elif name in ("additional_special_tokens", "extra_special_tokens") and value:
            kept = value if isinstance(value, list) else value.items()
            cut[name] = type(value)(x for x in kept if is_kept(x[1] if kept is not value else x))
    return cut
