"""Writing models to files: each writer puts the new whole in the place of the old one at once."""

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bert4keras import checkpoints, configs
from bert4keras.checkpoints import bundle, safetensors
from bert4keras.checkpoints.writing import replacing
from bert4keras.tokenizers import SpTokenizer, Tokenizer, TokenizerBase, load_vocab, save_vocab

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


# === Weights under official names ===


def save_checkpoint(
    transformer: "Transformer", path: str | Path, mapping: Mapping | None, dtype: Any
) -> None:
    """Write a TensorFlow checkpoint; see `Transformer.save_weights_as_checkpoint`."""
    path = Path(path)
    with replacing(path.parent, f"{path.name}.index", bundle.former_files(path.name)) as folder:
        _write_checkpoint(transformer, folder / path.name, mapping, dtype)


def _write_checkpoint(
    transformer: "Transformer", path: Path, mapping: Mapping | None = None, dtype: Any = None
) -> None:
    variables = transformer.official_variables(mapping, dtype)
    bundle.write_bundle(path, variables, architecture(transformer))
    configs.write_record(path, configs.vocabulary_record(transformer))


def architecture(transformer: "Transformer") -> dict[str, str]:
    """Return metadata of a weight file that say which architecture it is of."""
    return {checkpoints.ARCHITECTURE: transformer.model_type} if transformer.model_type else {}


# === Folders ===

# Files of a former tokenizer, which would be read beside a new vocabulary, or before it.
_FORMER_VOCABULARY = (
    r"vocab\.txt|spiece\.model|tokenizer\.model|(tokenizer|tokenizer_config|special_tokens_map|"
    r"added_tokens)\.json"
)


def save_pretrained(
    transformer: "Transformer", folder: str | Path, tokenizer: Any, causal: bool
) -> None:
    """Write a folder that `transformers` loads; see `Transformer.save_pretrained`.

    Args:
        transformer: the built model.
        folder: where to write.
        tokenizer: the tokenizer of the model, or None.
        causal: whether the model is a language model in which a token sees what is before it.
    """
    config = configs.to_hugging_face(transformer, causal)
    vocabulary = vocabulary_files(transformer, tokenizer)
    variables = transformer.official_variables()
    tensors = checkpoints.to_hugging_face(variables, transformer.model_type)
    metadata = {"format": "pt", **architecture(transformer)}
    former = safetensors.former_files("model.safetensors")
    with _replacing(folder, "config.json", former, vocabulary) as place:
        safetensors.write_shards(place / "model.safetensors", tensors, metadata)
        configs.write_json(place / "config.json", config)


def save_original(transformer: "Transformer", folder: str | Path) -> None:
    """Write a folder as users of the original have it.

    It holds `bert_config.json`, a TensorFlow checkpoint `bert_model.ckpt` and the vocabulary.
    """
    config = configs.to_original(transformer)
    vocabulary = vocabulary_files(transformer, None)
    former = bundle.former_files("bert_model.ckpt")
    with _replacing(folder, "bert_config.json", former, vocabulary) as place:
        _write_checkpoint(transformer, place / "bert_model.ckpt")
        configs.write_json(place / "bert_config.json", config)


@contextlib.contextmanager
def _replacing(
    folder: str | Path, head: str, former: str, vocabulary: Mapping[str, Callable]
) -> Iterator[Path]:
    if vocabulary:
        former += f"|{_FORMER_VOCABULARY}"
    with replacing(folder, head, former, create=True) as place:
        yield place
        for name, write in vocabulary.items():
            write(place / name)


# === Vocabularies ===

_Writer = Callable[[Path], None]


def vocabulary_files(transformer: "Transformer", tokenizer: Any) -> dict[str, _Writer]:
    """Return the files that describe the vocabulary of a model, each with what writes it.

    Args:
        transformer: the model.
        tokenizer: its tokenizer; without it, the files beside the config are taken, cut down to
            `keep_tokens`; of `compound_tokens` only a tokenizer or a longer `vocab.txt` knows the
            names, and a model of SentencePiece cannot be cut down: then there are none.

    Raises:
        ValueError: the tokenizer is of another model.
    """
    source = transformer.vocabulary
    if tokenizer is not None:
        return _files_of(tokenizer, transformer)
    if source is None:
        return {}
    if source.suffix == ".txt":
        tokens = _cut(load_vocab(source), transformer)
        files = {} if tokens is None else {"vocab.txt": partial(save_vocab, token_dict=tokens)}
    else:
        whole = transformer.keep_tokens is None and transformer.compound_tokens is None
        files = {"spiece.model": partial(shutil.copyfile, source)} if whole else {}
    beside = source.with_name("tokenizer_config.json")
    if files and beside.is_file():
        settings = {k: v for k, v in configs.read_json(beside).items() if k in _SETTINGS}
        files[beside.name] = partial(configs.write_json, config=settings)
    return files


def _files_of(tokenizer: Any, transformer: "Transformer") -> dict[str, _Writer]:
    if isinstance(tokenizer, SpTokenizer):
        size = tokenizer._vocab_size
        model = tokenizer._sp_model.serialized_model_proto()
        files = {"spiece.model": lambda path: path.write_bytes(model)}
    else:
        tokens = dict(tokenizer.token_dict)
        size = max(tokens.values(), default=-1) + 1
        files = {"vocab.txt": partial(save_vocab, token_dict=tokens)}
    _check_size(size, transformer)
    settings = _tokenizer_settings(tokenizer, transformer)
    if settings:
        files["tokenizer_config.json"] = partial(configs.write_json, config=settings)
    return files


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


_SPECIAL = {"pad": "pad", "unk": "unk", "mask": "mask", "cls": "start", "sep": "end"}
"""What `transformers` calls a special token, and what it is called here."""
_SETTINGS = (
    *(f"{name}_token" for name in (*_SPECIAL, "bos", "eos")),
    *("tokenizer_class", "do_lower_case", "tokenize_chinese_chars", "strip_accents"),
    "model_max_length",
)


def _tokenizer_settings(tokenizer: Any, transformer: "Transformer") -> dict[str, Any]:
    """Return the `tokenizer_config.json` of a tokenizer; empty if `transformers` has no such one.

    It has none that cuts texts by a function of the user's or that replaces tokens.
    """
    if not isinstance(tokenizer, TokenizerBase):
        return {}
    if tokenizer._pre_tokenize is not None or tokenizer._token_translate:
        return {}
    settings: dict[str, Any] = {}
    for theirs, ours in _SPECIAL.items():
        token = getattr(tokenizer, f"_token_{ours}")
        known = token is not None and hasattr(tokenizer, f"_token_{ours}_id")
        settings[f"{theirs}_token"] = token if known else None
    if getattr(transformer, "max_position", None) and not transformer.block.position_bias:
        settings["model_max_length"] = transformer.max_position
    if isinstance(tokenizer, Tokenizer):
        lower = tokenizer._do_lower_case
        return {"tokenizer_class": "BertTokenizer", "do_lower_case": lower, **settings}
    return settings
