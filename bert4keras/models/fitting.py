"""Checks whether a checkpoint fits a model, its architecture and sizes, before the model is built.

The names and shapes in the index of a checkpoint, which are read in milliseconds, are compared with
the settings that the model will be built from.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bert4keras.checkpoints.architectures import architectures, twins
from bert4keras.checkpoints.base import CheckpointError
from bert4keras.checkpoints.names import as_official
from bert4keras.models import configs, registry
from bert4keras.models.messages import warn
from bert4keras.models.registry import ARCHITECTURES
from bert4keras.models.vocabulary import has_cut_vocabulary, vocabulary_mismatch

if TYPE_CHECKING:
    from bert4keras.models.transformer import Transformer

# A subclass that overrides one of these may give layers other shapes, or variables other names.
_HOOKS = (
    *("apply_embeddings", "apply_main_layers", "apply_final_layers", "apply_attention"),
    *("apply_feed_forward", "apply_token_embedding", "apply_segment_embedding"),
    *("apply_position_embedding", "apply_gated_attention", "attention_sizes", "apply"),
    *("variable_mapping", "variable_names", "stored_name", "load_variable", "load_embeddings"),
)


def check_fit(transformer: "Transformer", file: Any, source: Any = "the config") -> None:
    """Raise an error for a checkpoint of another architecture or other sizes than a model.

    Nothing is checked with `ignore_invalid_weights`, or for a subclass of a user that overrides a
    hook.

    Args:
        transformer: the model, not built yet; for a model that is built only the architecture is
            compared, since its weights will be compared with the variables.
        file: the open checkpoint.
        source: name of the config in messages.

    Raises:
        CheckpointError: the checkpoint does not fit; the message lists the settings that differ,
            with their values in the config and in the checkpoint.
    """
    if transformer.ignore_invalid_weights or _overrides_hooks(transformer):
        return
    known = _check_architecture(transformer, file, source)
    differences = [*_differences(transformer, file)] if known and not transformer.built else []
    if differences:
        lines = [difference.describe() for difference in differences]
        advice = _advice(transformer, differences)
        raise CheckpointError(
            f"{file.path} does not fit the model that {source} describes.\n{advice}\n"
            + "\n".join(lines)
        )


def _overrides_hooks(transformer: "Transformer") -> bool:
    classes = type(transformer).__mro__[:-1]  # without `object`
    users = [cls for cls in classes if not cls.__module__.startswith("bert4keras.")]
    return any(hook in vars(cls) for cls in users for hook in _HOOKS)


# === The architecture ===


def _check_architecture(transformer: "Transformer", file: Any, source: Any) -> bool:
    """Raise an error for another architecture; tell whether the names in the file are known.

    If they are not, sizes cannot be compared, and the report on all names shows what is wrong.
    """
    own = transformer.stored_as
    if not own:
        return True
    pair = twins(own[0], registry.signatures(type(transformer)))
    found = _possible_architectures(transformer, file, pair)
    fitting = [model for model in found if model in own]
    if found and not fitting:
        models = " or ".join(f"model={model!r}" for model in _likely(found, transformer, file))
        raise CheckpointError(
            f"{file.path} is of another architecture than {type(transformer).__name__}, which "
            f"{source} and model= select: pass {models}. To load it nevertheless, pass "
            "ignore_invalid_weights=True"
        )
    if pair and set(found) == set(pair):
        _check_twins(fitting[0], pair, transformer, file, source)
    return bool(found) or file.container == "keras"


# Twins are architectures whose variables have the same names in TensorFlow's checkpoints.


def _possible_architectures(transformer: "Transformer", file: Any, pair: list[str]) -> list[str]:
    """Return the architectures that a file may belong to; none if its names are unknown."""
    if file.container != "keras":
        return architectures(file, registry.signatures(type(transformer)), file.metadata)
    # Files named by layer are compared with the layers of the model later, so only twins matter.
    computed = {model: ARCHITECTURES[model].computed_layers for model in pair}
    there = [model for model, layers in computed.items() if _has_any(file, layers)]
    return there or [model for model, layers in computed.items() if not layers]


def _has_any(file: Any, layers: tuple[str, ...]) -> bool:
    return any(layer in name for name in file for layer in layers)


def _likely(found: list[str], transformer: "Transformer", file: Any) -> list[str]:
    pair = twins(found[0], registry.signatures(type(transformer)))
    named = {_named_by_config(transformer, pair), _named_by_path(file.path, pair)}
    return [model for model in found if model in named] or found


def _named_by_config(transformer: "Transformer", models: list[str]) -> str | None:
    """Return which of the architectures a config names, None if it names none."""
    settings = transformer.settings
    for model in models:
        if settings.get("model_type") == model:
            return model
    keys = {model: getattr(ARCHITECTURES.get(model), "telling_settings", ()) for model in models}
    return next((model for model in models if any(map(settings.get, keys[model]))), None)


def _named_by_path(path: Path, models: list[str]) -> str | None:
    """Return which of the architectures occurs in the names of a file and its folder, if any."""
    text = "/".join(Path(path).absolute().parts[-2:]).lower()
    spoken = [model for model in models if model in text]
    return spoken[0] if len(spoken) == 1 else None


def _check_twins(
    own: str, pair: list[str], transformer: "Transformer", file: Any, source: Any
) -> None:
    """Raise an error for the wrong one of two architectures with the same names of variables."""
    other = next(model for model in pair if model != own)
    config, path = _named_by_config(transformer, pair), _named_by_path(file.path, pair)
    if config == other:
        raise CheckpointError(
            f"{source} describes {other}, whose variables have the same names as those of {own}: "
            f"pass model={other!r}. To load it nevertheless, pass ignore_invalid_weights=True"
        )
    if own not in (config, path):
        hint = f"Its path contains {other!r}. " if path == other else ""
        warn(
            f"{file.path} is of {own} or of {other}, and nothing in it tells which: the names of "
            f"their variables are the same. {hint}It is loaded as {own}, as model= says; if it is "
            f"of {other}, all outputs are wrong. A file that is saved with this library again "
            "records its architecture."
        )


# === The sizes ===

# The sizes of the axes of the first variable of a layer, by the suffix of the layer's name.
_HEADS = "num_attention_heads * attention_key_size"
_GATED = "2 * intermediate_size + attention_key_size"
_AXES = {
    "Embedding-Token": ("vocab_size", "embedding_size"),
    "Embedding-Segment": ("segment_vocab_size", "embedding_size"),
    "Embedding-Position": ("max_position", "embedding_size"),
    "Embedding-Task": ("task_type_vocab_size", "embedding_size"),
    "MultiHeadSelfAttention": ("hidden_size", _HEADS),
    "MultiHeadCrossAttention": ("hidden_size", _HEADS),
    "FeedForward": ("hidden_size", "intermediate_size"),
    "GatedAttentionUnit": ("hidden_size", _GATED),
}
_BLOCK = re.compile(r"(?:Encoder-|Decoder-)?Transformer(?:-(\d+))?-")


@dataclass(frozen=True)
class _Difference:
    """A setting whose value in a checkpoint differs from that in the config.

    Attributes:
        setting: its name in the config.
        in_config: its value in the config.
        in_checkpoint: its value in the checkpoint.
        variable: the variable with this size; empty for the number of layers.
    """

    setting: str
    in_config: int
    in_checkpoint: int
    variable: str = ""

    def describe(self) -> str:
        by = f" ({self.variable})" if self.variable else ""
        values = f"{self.in_config} in the config, {self.in_checkpoint} in the checkpoint"
        return f"  {self.setting}: {values}{by}"


def _differences(transformer: "Transformer", file: Any) -> Iterator[_Difference]:
    """Yield the settings that differ, each once."""
    blocks: dict[int, bool] = {}
    reported: set[str] = set()
    for layer, name, shape in _first_variables(transformer, file):
        block = _BLOCK.match(layer)
        if block and block[1]:
            blocks[int(block[1])] = blocks.get(int(block[1]), False) or shape is not None
        role = layer[block.end() :] if block else layer
        if shape is None or not _will_be_built(transformer, layer, role):
            continue
        for setting, size in zip(_AXES.get(role, ()), shape, strict=False):
            expected = _expected_size(transformer, file, setting)
            implied = setting in (_HEADS, "embedding_size") and setting not in transformer.settings
            if implied and expected == transformer.hidden_size:
                setting = "hidden_size"
            if size != expected and setting not in reported:
                reported.add(setting)
                yield _Difference(_config_key(transformer, setting), expected, size, name)
    there = sum(blocks.values())
    if 0 < there < len(blocks):
        yield _Difference(_config_key(transformer, "num_hidden_layers"), len(blocks), there)


def _first_variables(
    transformer: "Transformer", file: Any
) -> Iterator[tuple[str, str, tuple[int, ...] | None]]:
    """Yield each layer, the name of its first variable, and its shape, None if it is absent."""
    mapping = {layer: names for layer, names in transformer.variable_mapping().items() if names}
    if file.container == "keras":
        shapes = {layer: next(iter(weights.values())) for layer, weights in file.shapes().items()}
        for layer in mapping:
            yield layer, layer, shapes.get(transformer.prefixed(layer))
        return
    names = [name for names in mapping.values() for name in names]
    view = as_official(file, names, registry.dialects(type(transformer)))
    for layer, names in mapping.items():
        name = transformer.stored_name(view, names[0])
        yield layer, name, view.shape(name) if view.holds(name) else None


def _will_be_built(transformer: "Transformer", layer: str, role: str) -> bool:
    """Tell whether the model will create a layer that takes a variable without resizing it."""
    if transformer.autoresize_weights or transformer.prefixed(layer) in transformer.layers:
        return False
    if role == "Embedding-Position":
        return not transformer.block.position_bias
    if role == "Embedding-Segment":
        shared = getattr(transformer, "shared_segment_embeddings", False)
        return getattr(transformer, "segment_vocab_size", 0) > 0 and not shared
    return role != "Embedding-Task" or transformer.use_task_id


def _expected_size(transformer: "Transformer", file: Any, setting: str) -> int:
    t = transformer
    if setting == "vocab_size":
        return t.vocab_size if has_cut_vocabulary(t, file) else t.full_vocab_size
    if setting == _HEADS:
        return t.num_attention_heads * t.attention_key_size
    if setting == _GATED:
        return 2 * t.intermediate_size + t.attention_key_size
    return getattr(t, setting)


def _config_key(transformer: "Transformer", setting: str) -> str:
    """Return the name of a setting in the config that the model is built from."""
    return configs.keys_of(transformer.settings, type(transformer)).get(setting, setting)


def _advice(transformer: "Transformer", differences: list[_Difference]) -> str:
    """Return a sentence that says what to do."""
    if len(differences) > 1:
        return "It is a model of another size: use the config that belongs to it, or correct this:"
    (only,) = differences
    if only.setting == "vocab_size":
        if only.in_config == transformer.full_vocab_size != transformer.vocab_size:
            return vocabulary_mismatch(transformer, only.in_checkpoint)
        return (
            f"Only the vocabulary differs: {only.in_checkpoint} entries in the file. If the "
            "vocabulary of the model was trimmed, pass keep_tokens; otherwise correct vocab_size:"
        )
    if not only.variable:
        return (
            f"It has {only.in_checkpoint} layers, the model {only.in_config}: use the config that "
            f"belongs to it, or set {only.setting}:"
        )
    return f"Use the config that belongs to it, or correct {only.setting}:"


# === Missing heads ===


def variables_of_heads(transformer: "Transformer") -> dict[str, str]:
    """Return for each variable of a head the argument with which the head is built."""
    return {
        name: argument
        for layer, names in transformer.variable_mapping().items()
        for start, arguments in transformer.head_layers.items()
        if layer.startswith(start)
        for argument in arguments
        for name in names
    }
