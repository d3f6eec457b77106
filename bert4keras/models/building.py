"""Building a model from a config and a checkpoint."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, overload

import keras

from bert4keras import keras_private
from bert4keras.checkpoints.base import Checkpoint, CheckpointError, file_state
from bert4keras.checkpoints.files import find_files, open_checkpoint
from bert4keras.models import configs, fitting, peft, registry, settings
from bert4keras.models.architectures import ARCHITECTURES
from bert4keras.models.masks import LM_Mask, UniLM_Mask
from bert4keras.models.model import Model
from bert4keras.models.pretrained import origin_of
from bert4keras.models.transformer import Transformer
from bert4keras.models.vocabulary_record import as_json_values


def extend_with_language_model(base: type[Transformer]) -> type[Transformer]:
    """Return a subclass of an architecture that is a (left to right) language model."""
    return with_mask(base, LM_Mask, "LanguageModel")


def extend_with_unified_language_model(base: type[Transformer]) -> type[Transformer]:
    """Return a subclass of an architecture that is a UniLM, for sequence to sequence."""
    return with_mask(base, UniLM_Mask, "UnifiedLanguageModel")


def with_mask(base: type[Transformer], mask: type, name: str) -> type[Transformer]:
    """Return a subclass of `base` with an attention mask and token probabilities as output."""

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
"""Arguments that have another name in config files, with that name and the default."""


PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16", "bfloat16", "float16")
"""The values of `precision=`."""


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
            the checkpoint are found, and an adapter of PEFT if there is one. Without it `kwargs`
            must say everything.
        checkpoint_path: any file that `Transformer.load_weights_from_checkpoint` takes; without it
            (and with a config file) the weights are random.
        model: name of the architecture, or a subclass of one; by default that of the config, and
            'bert' if it names none.
        application: 'encoder', 'lm' (each token sees those before it) or 'unilm' (segment 1 is
            generated from segment 0).
        return_keras_model: return the `Model`; otherwise the `Transformer`, whose `.model` it is.
        precision: the dtype policy of all layers, that of `keras.config.dtype_policy()` by default:
            'float32'; 'mixed_bfloat16' or 'mixed_float16', which compute in half precision with
            float32 weights; 'bfloat16' or 'float16', whose weights have that type, too.
            Probabilities are float32 in every case; hidden states are not.
        **kwargs: arguments of the architecture and of `Transformer.build`, which override those of
            the config.

    Raises:
        TypeError: an argument is unknown, or a dict is given instead of a path.
        ValueError: the model, application or precision is unknown, or the config is incomplete,
            contradicts `model` or has settings that are not implemented.
        CheckpointError: the checkpoint is damaged or does not fit the model.
    """
    if isinstance(config_path, Mapping):
        raise TypeError(
            "config_path is a dict, and must be the path of a file or folder: give the items of a "
            "dict as arguments, build_transformer_model(**config)"
        )
    strict = not kwargs.get("ignore_invalid_weights")
    files = read_files(config_path, checkpoint_path, model, application, strict)
    with nullcontext() if files.checkpoint is None else files.checkpoint:
        transformer = build_from_files(files, model, application, precision, kwargs)
    return transformer.model if return_keras_model else transformer


@dataclass(frozen=True)
class OpenFiles:
    """The files of a pretrained model, read and opened.

    Attributes:
        config: the settings in the config file, as arguments.
        inferred: the architecture that it names, None if it names none.
        config_path: the config file, None for no file.
        checkpoint: the open checkpoint, None for no weights.
        vocabulary: the vocabulary file in the folder that was given, None if none was.
        adapter: the folder, if it holds an adapter besides.
    """

    config: dict[str, Any]
    inferred: str | None
    config_path: Path | None
    checkpoint: Any
    vocabulary: Path | None
    adapter: Path | None = None


def read_files(
    config_path: str | Path | None,
    checkpoint_path: str | Path | None,
    model: str | type[Transformer] | None,
    application: str,
    strict: bool,
) -> OpenFiles:
    """Read a config and open a checkpoint that belong together, even if both are being replaced.

    Args:
        config_path: that of `build_transformer_model`.
        checkpoint_path: that of `build_transformer_model`.
        model: that of `build_transformer_model`.
        application: that of `build_transformer_model`.
        strict: whether a config of another architecture than `model` raises an error.
    """
    config_file, checkpoint_file, vocabulary = config_path, checkpoint_path, None
    adapter = None
    if config_path is not None and Path(config_path).is_dir():
        wanted = ("config",) if checkpoint_path else ("config", "checkpoint")
        files = find_files(config_path, need=wanted)
        vocabulary = Path(config_path) / "vocab.txt"
        adapted = not checkpoint_path and (Path(config_path) / peft.CONFIG).is_file()
        adapter = Path(config_path) if adapted else None
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
            path = None if config_file is None else Path(config_file)
            return OpenFiles(config, inferred, path, file, vocabulary, adapter)
    return read_files(config_path, checkpoint_path, model, application, strict)


def build_from_files(
    files: OpenFiles,
    model: str | type[Transformer] | None,
    application: str,
    precision: str | None,
    kwargs: dict[str, Any],
) -> Transformer:
    """Build a model from the files that were read, and load the checkpoint that was opened."""
    config, config_path = files.config, files.config_path
    check_vocabulary_arguments(config, kwargs)
    kept_of_folder = kwargs.get("keep_tokens") if config.get("keep_tokens") is None else None
    origin = origin_of(config_path, config, kept_of_folder)  # whose config gets the arguments below
    for argument, (key, default) in CONFIG_KEYS.items():
        if key in kwargs or argument not in config:
            config[argument] = kwargs.get(key, config.get(key, default))
    config |= kwargs
    check_config(config, kwargs, config_path, files.vocabulary, model)
    if isinstance(model, type):
        architecture = model
    else:
        model = (model or files.inferred or "bert").lower()
        architecture = look_up(ARCHITECTURES, model, "model")
        config |= {**architecture.settings_of_name(model), **kwargs}
    extend = look_up(APPLICATIONS, application, "application")
    if application not in architecture.applications:
        raise ValueError(
            f"{architecture.__name__} cannot be built with application={application!r}, only with "
            + " or ".join(map(repr, architecture.applications))
        )
    check_refused_arguments(architecture, kwargs)
    architecture = extend(architecture)
    with default_policy(precision):
        transformer = architecture(**config)
        check_arguments(transformer, kwargs)
        transformer.set_origin(origin)
        if files.checkpoint is not None:
            fitting.check_fit(transformer, files.checkpoint, config_path or "the call")
        if files.checkpoint is None:
            transformer.build(**config)
        else:
            build_and_load(transformer, files.checkpoint, config)
        if files.adapter is not None:
            peft.load(transformer, files.adapter)
    return transformer


def build_and_load(transformer: Transformer, file: Checkpoint, config: dict[str, Any]) -> None:
    """Build a model and load its weights; what the file fills gets no other values before.

    What it does not fill starts from the same values as without a file. A class that draws them in
    a method, or loads in a way of its own, finds all weights with their initial values.
    """
    own_loading = overrides(type(transformer), "load_weights_from_checkpoint")
    if transformer.draws_itself or own_loading:
        transformer.build(**config)
        transformer.load_weights_from_checkpoint(file)
        return
    scope = keras_private.Uninitialized()
    with scope:
        transformer.build(**config)
    transformer.load_weights_from_checkpoint(file)
    scope.finish(keras_private.layers_within(transformer.model))


def overrides(cls: type[Transformer], method: str) -> bool:
    """Tell whether an architecture has a method of its own in place of one of `Transformer`."""
    return getattr(cls, method) is not getattr(Transformer, method)


@contextmanager
def default_policy(precision: str | None) -> Iterator[None]:
    """Set the default dtype policy in a `with` block; None changes nothing."""
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
    """Raise an error for cutting down a vocabulary that was saved with other tokens cut out."""
    names = ("keep_tokens", "compound_tokens")
    recorded = {name: config[name] for name in names if config.get(name) is not None}
    wanted = {name: given[name] for name in names if given.get(name) is not None}
    if recorded and wanted and as_json_values(recorded) != as_json_values(wanted):
        raise ValueError(
            "the model was saved with other keep_tokens or compound_tokens than those given: leave "
            "them out to load it as it was saved"
        )


def check_config(
    config: dict[str, Any], given: dict[str, Any], path: Any, vocabulary: Path | None, model: Any
) -> None:
    """Check that a config is complete and valid and fits the vocabulary beside it."""
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
        # The vocabulary may also hold the compound tokens, after the others.
        max_tokens = config["vocab_size"] + len(config.get("compound_tokens") or ())
        if n_tokens > max_tokens:
            raise ValueError(
                f"{vocabulary} has {n_tokens} tokens and {source} says vocab_size="
                f"{config['vocab_size']}: they belong to different models, so give the files of one"
            )


MAX_VOCABULARY = 256 << 20
"""Largest size of a vocabulary file, in bytes."""


def count_tokens(path: Path) -> int:
    """Return the number of lines of a vocabulary in any encoding, without blank ones at its end."""
    if path.stat().st_size > MAX_VOCABULARY:
        raise ValueError(f"{path} is larger than {MAX_VOCABULARY} bytes: give a vocabulary file")
    content = path.read_bytes()
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        content = content.decode("utf-16", errors="replace").encode()
    content = content.rstrip()
    return content.count(b"\n") + 1 if content else 0


def look_up(table: Mapping[str, Any], name: str, argument: str) -> Any:
    """Look up the value of an argument in a table.

    Raises:
        ValueError: the table has no such name.
    """
    if name not in table:
        raise ValueError(f"{argument}={name!r} is unknown; there are {', '.join(sorted(table))}")
    return table[name]


def check_refused_arguments(architecture: type[Transformer], given: dict[str, Any]) -> None:
    """Raise an error for arguments of the base class that the architecture does not support."""
    refused = [name for name in architecture.refused_arguments if given.get(name)]
    if refused:
        raise TypeError(f"{architecture.__name__} has no argument {refused[0]!r}: leave it out")


def check_arguments(transformer: Transformer, given: dict[str, Any]) -> None:
    """Raise an error for keyword arguments that neither a constructor nor `build` takes.

    Config files may hold other keys, but calls may not.
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
