"""From a config and a checkpoint to a model."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, overload

import keras

from bert4keras.checkpoints.base import CheckpointError, file_state
from bert4keras.checkpoints.files import find_files, open_checkpoint
from bert4keras.models import configs, fitting, registry, settings
from bert4keras.models.architectures import ARCHITECTURES
from bert4keras.models.masks import LM_Mask, UniLM_Mask
from bert4keras.models.model import Model
from bert4keras.models.pretrained import origin_of
from bert4keras.models.transformer import Transformer
from bert4keras.models.vocabulary_record import plain


def extend_with_language_model(base: type[Transformer]) -> type[Transformer]:
    """A subclass of an architecture that is a (left to right) language model."""
    return extended(base, LM_Mask, "LanguageModel")


def extend_with_unified_language_model(base: type[Transformer]) -> type[Transformer]:
    """A subclass of an architecture that is a UniLM, for sequence to sequence."""
    return extended(base, UniLM_Mask, "UnifiedLanguageModel")


def extended(base: type[Transformer], mask: type, name: str) -> type[Transformer]:
    """A subclass of `base` with an attention mask and token probabilities as output."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super(cls, self).__init__(*args, **kwargs)
        self.with_mlm = self.with_mlm or True

    bases = (base,) if issubclass(base, mask) else (mask, base)
    cls = type(f"{base.__name__}{name}", bases, {"__init__": __init__})
    return cls


APPLICATIONS = {
    "encoder": lambda architecture: architecture,
    "lm": extend_with_language_model,
    "unilm": extend_with_unified_language_model,
}


CONFIG_KEYS = {
    "max_position": ("max_position_embeddings", 512),
    "dropout_rate": ("hidden_dropout_prob", None),
    "attention_dropout_rate": ("attention_probs_dropout_prob", None),
    "segment_vocab_size": ("type_vocab_size", 2),
}
"""Arguments that config files know by another name, with that name and the default."""


PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16", "bfloat16", "float16")
"""What models can be asked to compute in."""


REQUIRED = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
)


@overload
def build_transformer_model(
    config_path: str | Path | None = None,
    checkpoint_path: str | Path | None = None,
    model: str | type[Transformer] | None = None,
    application: str = "encoder",
    return_keras_model: Literal[True] = True,
    precision: str | None = None,
    **kwargs: Any,
) -> Model: ...


@overload
def build_transformer_model(
    config_path: str | Path | None = None,
    checkpoint_path: str | Path | None = None,
    model: str | type[Transformer] | None = None,
    application: str = "encoder",
    *,
    return_keras_model: Literal[False],
    precision: str | None = None,
    **kwargs: Any,
) -> Transformer: ...


def build_transformer_model(
    config_path: str | Path | None = None,
    checkpoint_path: str | Path | None = None,
    model: str | type[Transformer] | None = None,
    application: str = "encoder",
    return_keras_model: bool = True,
    precision: str | None = None,
    **kwargs: Any,
) -> Model | Transformer:
    """Build a model from a config file and load a checkpoint into it.

    Args:
        config_path: a JSON file with the keys of Google's `bert_config.json`, a `config.json` of
            Hugging Face, or a folder in which the config and, unless `checkpoint_path` is given,
            the checkpoint are found. Without it `kwargs` must say everything.
        checkpoint_path: see `Transformer.load_weights_from_checkpoint`; without it (and with a
            config file) the weights are random.
        model: name of the architecture, or a subclass of one; by default what the config says, and
            'bert' if it says nothing.
        application: 'encoder', 'lm' (every token sees what is before it) or 'unilm' (segment 1 is
            generated from segment 0).
        return_keras_model: return the `Model`; otherwise the `Transformer`, whose `.model` it is.
        precision: the dtype policy of all layers, that of `keras.config.dtype_policy()` by default:
            'float32'; 'mixed_bfloat16' or 'mixed_float16', which compute in half precision with
            float32 weights; 'bfloat16' or 'float16', whose weights are of that type, too.
            Probabilities are float32 all the same; hidden states are not.
        **kwargs: arguments of the architecture and of `Transformer.build`; before the config.

    Raises:
        TypeError: an argument that neither knows; a dict instead of a path.
        ValueError: an unknown model, application or precision, an incomplete config, or one that
            asks for what is not implemented or contradicts `model`.
        CheckpointError: see `Transformer.load_weights_from_checkpoint`.
    """
    if isinstance(config_path, Mapping):
        raise TypeError(
            "config_path is the path of a file or folder, not a dict; what a dict says is given as "
            "arguments: build_transformer_model(**config)"
        )
    strict = not kwargs.get("ignore_invalid_weights")
    files = read_files(config_path, checkpoint_path, model, application, strict)
    with nullcontext() if files.checkpoint is None else files.checkpoint:
        transformer = loaded(files, model, application, precision, kwargs)
    return transformer.model if return_keras_model else transformer


@dataclass(frozen=True)
class OpenFiles:
    """The files of a pretrained model, read and opened.

    Attributes:
        config: the settings that the config file says, as arguments.
        inferred: the architecture that it says, None if it says none.
        config_path: the config file, None for no file.
        checkpoint: the open checkpoint, None for no weights.
        vocabulary: the vocabulary file in the folder that was given, None if none was.
    """

    config: dict[str, Any]
    inferred: str | None
    config_path: Path | None
    checkpoint: Any
    vocabulary: Path | None


def read_files(
    config_path: str | Path | None,
    checkpoint_path: str | Path | None,
    model: str | type[Transformer] | None,
    application: str,
    strict: bool,
) -> OpenFiles:
    """Read a config and open a checkpoint, which belong together also while both are replaced.

    Args:
        config_path: see `build_transformer_model`.
        checkpoint_path: likewise.
        model: likewise.
        application: likewise.
        strict: see `configs.read_config`.
    """
    config_file, checkpoint_file, vocabulary = config_path, checkpoint_path, None
    if config_path is not None and Path(config_path).is_dir():
        wanted = ("config",) if checkpoint_path else ("config", "checkpoint")
        files = find_files(config_path, need=wanted)
        vocabulary = Path(config_path) / "vocab.txt"
        config_file, checkpoint_file = files.config, checkpoint_path or files.checkpoint
    state = file_state(config_file)
    config, inferred = configs.read_config(config_file, model, application, strict)
    try:
        file = None if checkpoint_file is None else open_checkpoint(checkpoint_file)
    except CheckpointError:
        if state == file_state(config_file):
            raise
    else:
        if state == file_state(config_file):
            return OpenFiles(config, inferred, config_file and Path(config_file), file, vocabulary)
    return read_files(config_path, checkpoint_path, model, application, strict)


def loaded(
    files: OpenFiles,
    model: str | type[Transformer] | None,
    application: str,
    precision: str | None,
    kwargs: dict[str, Any],
) -> Transformer:
    """Build a model from what was read, and load what was opened."""
    config, config_path = files.config, files.config_path
    check_vocabulary_arguments(config, kwargs)
    kept_of_folder = kwargs.get("keep_tokens") if config.get("keep_tokens") is None else None
    origin = origin_of(config_path, config, kept_of_folder)  # the arguments come into it below
    for argument, (key, default) in CONFIG_KEYS.items():
        if key in kwargs or argument not in config:
            config[argument] = kwargs.get(key, config.get(key, default))
    config |= kwargs
    check_config(config, kwargs, config_path, files.vocabulary, model)
    if isinstance(model, type):
        architecture = model
    else:
        model = (model or files.inferred or "bert").lower()
        architecture = chosen(ARCHITECTURES, model, "model")
        config |= {**architecture.settings_of_name(model), **kwargs}
    extend = chosen(APPLICATIONS, application, "application")
    if application not in architecture.applications:
        raise ValueError(
            f"{architecture.__name__} cannot be built with application={application!r}, only with "
            + " or ".join(map(repr, architecture.applications))
        )
    check_refused(architecture, kwargs)
    architecture = extend(architecture)
    with default_policy(precision):
        transformer = architecture(**config)
        check_arguments(transformer, kwargs)
        transformer.set_origin(origin)
        if files.checkpoint is not None:
            fitting.check_fit(transformer, files.checkpoint, config_path or "the call")
        transformer.build(**config)
        if files.checkpoint is not None:
            transformer.load_weights_from_checkpoint(files.checkpoint)
    return transformer


@contextmanager
def default_policy(precision: str | None) -> Iterator[None]:
    """Let layers that are created meanwhile have a dtype policy; None changes nothing."""
    if precision is None:
        yield
        return
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r} is unknown; there are {', '.join(PRECISIONS)}")
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def check_vocabulary_arguments(config: dict[str, Any], given: dict[str, Any]) -> None:
    """Refuse to cut down a vocabulary that was cut down otherwise when it was saved."""
    names = ("keep_tokens", "compound_tokens")
    recorded = {name: config[name] for name in names if config.get(name) is not None}
    wanted = {name: given[name] for name in names if given.get(name) is not None}
    if recorded and wanted and plain(recorded) != plain(wanted):
        raise ValueError(
            "the model was saved with other keep_tokens or compound_tokens than those given: leave "
            "them out to load it as it was saved"
        )


def check_config(
    config: dict[str, Any], given: dict[str, Any], path: Any, vocabulary: Path | None, model: Any
) -> None:
    """Refuse a config that lacks a size, says what cannot be, or is not that of its vocabulary."""
    source = path or "the keyword arguments (there is no config_path)"
    missing = [key for key in REQUIRED if config.get(key) is None]
    if missing:
        raise ValueError(
            f"{source} lacks {', '.join(missing)}: a config needs {', '.join(REQUIRED)}"
        )
    own = model if isinstance(model, type) else None
    keys = configs.keys_of(config, own)
    settings.check_settings(config, given, source, keys, registry.allowed_settings(own))
    if vocabulary is not None and vocabulary.is_file():
        n_tokens = count_tokens(vocabulary)
        # The words of compound tokens may stand behind the others.
        n_most = config["vocab_size"] + len(config.get("compound_tokens") or ())
        if n_tokens > n_most:
            raise ValueError(
                f"{vocabulary} has {n_tokens} tokens and {source} says vocab_size="
                f"{config['vocab_size']}: they are not of the same model"
            )


MAX_VOCABULARY = 256 << 20
"""Bytes that a vocabulary file may have."""


def count_tokens(path: Path) -> int:
    """The number of lines of a vocabulary, without blank ones at its end, in whatever encoding."""
    if path.stat().st_size > MAX_VOCABULARY:
        raise ValueError(f"{path} is larger than {MAX_VOCABULARY} bytes: it is no vocabulary")
    content = path.read_bytes()
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        content = content.decode("utf-16", errors="replace").encode()
    content = content.rstrip()
    return content.count(b"\n") + 1 if content else 0


def chosen(table: Mapping[str, Any], name: str, argument: str) -> Any:
    """Look up a name given as an argument."""
    if name not in table:
        raise ValueError(f"{argument}={name!r} is unknown; there are {', '.join(sorted(table))}")
    return table[name]


def check_refused(architecture: type[Transformer], given: dict[str, Any]) -> None:
    """Refuse arguments of the base class that mean nothing to the architecture."""
    refused = [name for name in architecture.refused_arguments if given.get(name)]
    if refused:
        raise TypeError(f"{architecture.__name__} has no argument {refused[0]!r}: leave it out")


def check_arguments(transformer: Transformer, given: dict[str, Any]) -> None:
    """Refuse keyword arguments that neither the constructors took nor `build` will take.

    Config files may hold keys that concern nobody; arguments in a call may not.
    """
    builders = [cls.build for cls in type(transformer).__mro__ if "build" in vars(cls)]
    known = {name for build in builders for name in inspect.signature(build).parameters}
    known |= {key for key, _ in CONFIG_KEYS.values()}
    unknown = sorted(transformer.unknown_arguments & given.keys() - known)
    if unknown:
        constructors = [cls.__init__ for cls in type(transformer).__mro__[:-1]]
        known |= {name for init in constructors for name in inspect.signature(init).parameters}
        close = get_close_matches(unknown[0], known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise TypeError(
            f"{type(transformer).__name__} does not know the argument {unknown[0]!r}{hint}"
        )
