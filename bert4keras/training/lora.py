"""LoRA: training small matrices beside the frozen weights of a model (Hu et al., 2021)."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from bert4keras import keras_private
from bert4keras.checkpoints.base import CheckpointError
from bert4keras.layers.adapters import Adaptable, products, weight_name
from bert4keras.layers.attention import MultiHeadAttention
from bert4keras.layers.gated_attention import GatedAttentionUnit
from bert4keras.training.gradients import layers_of

ENTRY = "(lora_alpha)"
"""Where files of weights keep the alpha of each adapter, among the names of layers."""
ATTENTION = (MultiHeadAttention, GatedAttentionUnit)


def add_lora(
    model: keras.Model,
    rank: int = 8,
    alpha: float = 16,
    layers: str = "attention",
    trainable: str | Sequence[str] = (),
) -> list[str]:
    """Let LoRA train a model: only its small matrices, and what is named, change from now on.

    A matrix W (n, m) of the model becomes W + alpha / rank · A·B, where A (n, rank) and B (rank, m)
    are trained and W is not (https://arxiv.org/abs/2106.09685). B begins at 0, so that the model
    gives what it gave. Call it before `compile`, and for a model of several devices within their
    scope. Models that share these layers have the adapters, too.

    Files keep adapters apart: those of `save`, `save_weights` (read by a model with the same rank
    and alpha) and `save_pretrained`. `models.save_adapter` writes them alone, `merge_lora` adds
    them to the weights.

    Args:
        model: a built model.
        rank: size of the small matrices.
        alpha: the product is multiplied by alpha / rank.
        layers: which layers get adapters: "attention" for all projections of attention layers, or
            a regular expression that is searched in the paths of `Dense` layers and token
            embeddings, such as "q_dense|v_dense" or "Attention|FeedForward".
        trainable: name of a layer that is trained besides, such as a head, or several.

    Returns:
        The paths of what has got adapters: 'Transformer-0-MultiHeadSelfAttention/q_dense', ...

    Raises:
        ValueError: no layer is meant, or one that has adapters; a rank that is no positive integer;
            an unknown name in `trainable`.
    """
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ValueError(f"add_lora got rank={rank!r}: give a whole number of at least 1")
    parts = chosen_parts(model, layers)
    names = check_names(model, trainable)
    adapted = [path for path, part in parts.items() if part.lora_enabled]
    if adapted:
        raise ValueError(
            f"{adapted[0]} of the model {model.name!r} has an adapter already: call merge_lora "
            "first, or give other layers="
        )
    for part in parts.values():
        part.enable_lora(rank, lora_alpha=alpha)
    train_adapters_only(model, names)
    return list(parts)


def merge_lora(model: keras.Model) -> None:
    """Add what LoRA has trained to the weights of a model, which is an ordinary one then.

    It computes the same, all of its layers are trainable, and it is to be compiled again before it
    is trained.

    Raises:
        ValueError: the model has no adapters.
    """
    parts = [part for part in adaptable_parts(model).values() if part.lora_enabled]
    if not parts:
        raise ValueError(f"the model {model.name!r} has no adapters to merge: see add_lora")
    for part in parts:
        part.merge_lora()
    for layer in (model, *layers_of(model)):
        set_all_trainable(layer, True)
    uncompile(model)


def adaptable_parts(model: keras.Model) -> dict[str, Adaptable]:
    """The layers of a model, and of models within it, that LoRA can train, by their paths."""
    found = {}
    for layer in layers_of(model):
        if not isinstance(layer, keras.Model):
            for part in keras_private.layers_within(layer):
                if isinstance(part, Adaptable) and part.built:
                    name = weight_name(layer, part)
                    found[layer.name if part is layer else f"{layer.name}/{name}"] = part
    return found


def chosen_parts(model: keras.Model, pattern: str) -> dict[str, Adaptable]:
    """The layers that the argument `layers` of `add_lora` means, by their paths."""
    parts = adaptable_parts(model)
    if pattern == "attention":
        names = {layer.name for layer in layers_of(model) if isinstance(layer, ATTENTION)}
        found = {path: part for path, part in parts.items() if path.split("/")[0] in names}
    else:
        found = {path: part for path, part in parts.items() if re.search(pattern, path)}
    if not found:
        raise ValueError(
            f"layers={pattern!r} means no layer of the model {model.name!r}: give 'attention' or a "
            f"regular expression for paths such as {list(parts)[:3]}"
        )
    return found


def check_names(model: keras.Model, names: str | Sequence[str]) -> set[str]:
    """Refuse names of layers that the model does not have."""
    given = {names} if isinstance(names, str) else set(names)
    unknown = given - {layer.name for layer in layers_of(model)}
    if unknown:
        raise ValueError(
            f"trainable= names {sorted(unknown)}, which the model {model.name!r} does not have: "
            f"its layers are {[layer.name for layer in layers_of(model)]}"
        )
    return given


def train_adapters_only(model: keras.Model, names: Iterable[str] = ()) -> None:
    """Let adapters and the layers with these names be trainable, and nothing else."""
    keras_private.set_own_trainable(model, True)
    for layer in layers_of(model):
        if isinstance(layer, keras.Model):
            keras_private.set_own_trainable(layer, True)
            continue
        adapted = bool(products(layer))
        set_all_trainable(layer, adapted or layer.name in names)
        for weight in layer.weights if adapted and layer.name not in names else ():
            weight.trainable = weight.name.startswith("lora_")
    for part in adaptable_parts(model).values():
        if part.lora_enabled:
            part.matrix.trainable = False
    uncompile(model)


def set_all_trainable(layer: keras.Layer, flag: bool) -> None:
    """Set `trainable` of a layer and of all within it; TensorFlow skips equal values."""
    layer.trainable = not flag
    layer.trainable = flag


def uncompile(model: keras.Model) -> None:
    """Let Keras ask for `compile` before the model is trained: what is trained has changed."""
    model.compiled = False


def alphas_entry(model: keras.Model) -> dict[str, dict[str, np.ndarray]]:
    """Return what files of weights say of adapters besides their matrices; nothing without any."""
    parts = adaptable_parts(model).items()
    alphas = {path: np.array(part.lora_alpha, "f4") for path, part in parts if part.lora_enabled}
    return {ENTRY: alphas} if alphas else {}


def check_alphas(model: keras.Model, alphas: Mapping[str, Any], filepath: str | Path) -> None:
    """Raise a CheckpointError if a file was written with another alpha than the model has.

    The outputs of the model would be others than those of the model that was saved.
    """
    for path, part in adaptable_parts(model).items() if alphas else ():
        alpha = float(alphas.get(path, part.lora_alpha or 0))
        if part.lora_enabled and np.float32(alpha) != np.float32(part.lora_alpha):
            raise CheckpointError(
                f"{filepath} was written with adapters of alpha={alpha:g} for {path!r}, and those "
                f"of the model have alpha={part.lora_alpha:g}. Build the model with "
                f"add_lora(alpha={alpha:g})"
            )


class Adapted(keras.Model):
    """A Keras model whose config says what was done within its layers after they were made.

    Configs of layers say nothing of the layers that they create themselves: which of these LoRA
    trains, and which of their weights are frozen.
    """

    def get_config(self) -> dict:
        """Return the config of the model, from which it can be built again."""
        adapters = {
            path: [part.lora_rank, part.lora_alpha]
            for path, part in adaptable_parts(self).items()
            if part.lora_enabled
        }
        frozen = [path for path, weight in inner_weights(self).items() if not weight.trainable]
        changes = {"lora": adapters, "frozen": frozen}
        return super().get_config() | {name: value for name, value in changes.items() if value}

    @classmethod
    def from_config(
        cls, config: dict, custom_objects: Mapping[str, Any] | None = None
    ) -> keras.Model:
        """Build a model of a config."""
        config = dict(config)
        adapters, frozen = config.pop("lora", {}), config.pop("frozen", ())
        model = super().from_config(config, custom_objects)
        parts = adaptable_parts(model) if adapters else {}
        for path, (rank, alpha) in adapters.items():
            if not parts[path].lora_enabled:
                parts[path].enable_lora(rank, lora_alpha=alpha)
        weights = inner_weights(model) if frozen else {}
        for path in frozen:
            weights[path].trainable = False
        return model


def inner_weights(model: keras.Model) -> dict[str, keras.Variable]:
    """The weights of layers within the layers of a model, and those beside adapters, by path."""
    return {
        f"{layer.name}/{weight_name(layer, weight)}": weight
        for layer in layers_of(model)
        if not isinstance(layer, keras.Model)
        if products(layer) or any(keras_private.layers_within(layer, include_self=False))
        for weight in layer.weights
    }
