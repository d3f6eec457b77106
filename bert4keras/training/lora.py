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
"""The entry of weight files with the alpha of each adapter, beside the names of layers."""
ATTENTION = (MultiHeadAttention, GatedAttentionUnit)


def add_lora(
    model: keras.Model,
    rank: int = 8,
    alpha: float = 16,
    layers: str = "attention",
    trainable: str | Sequence[str] = (),
) -> list[str]:
    """Add LoRA adapters to a model, and freeze all other weights except in the named layers.

    A matrix W (n, m) of the model becomes W + alpha / rank · A·B, where A (n, rank) and B (rank, m)
    are trained and W is frozen (https://arxiv.org/abs/2106.09685). B is initialized with 0, so that
    the outputs of the model do not change. Call it before `compile`, and for a model on several
    devices within their scope. Models that share these layers have the adapters, too.

    `save`, `save_weights` (whose files are read by a model with the same rank and alpha) and
    `save_pretrained` write adapters separately from the matrices. `models.save_adapter` writes
    adapters alone, `merge_lora` adds them to the weights.

    Args:
        model: a built model.
        rank: size of the small matrices.
        alpha: the product is multiplied by alpha / rank.
        layers: which layers get adapters: "attention" for all projections of attention layers, or
            a regular expression that is searched in the paths of `Dense` layers and token
            embeddings, such as "q_dense|v_dense" or "Attention|FeedForward".
        trainable: names of further layers to be trained, such as a head, or a single name.

    Returns:
        The paths of the layers with adapters, 'Transformer-0-MultiHeadSelfAttention/q_dense', ...

    Raises:
        ValueError: `layers` matches no layer, or one that already has an adapter; `rank` is not a
            positive integer; a name in `trainable` is unknown.
    """
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ValueError(f"add_lora got rank={rank!r}: give a whole number of at least 1")
    parts = matching_parts(model, layers)
    names = check_names(model, trainable)
    adapted = [path for path, part in parts.items() if part.lora_enabled]
    if adapted:
        raise ValueError(
            f"{adapted[0]} of the model {model.name!r} already has an adapter: call merge_lora "
            "first, or give other layers="
        )
    for part in parts.values():
        part.enable_lora(rank, lora_alpha=alpha)
    train_adapters_only(model, names)
    return list(parts)


def merge_lora(model: keras.Model) -> None:
    """Add the products of LoRA to the weights of a model, and remove the adapters.

    The outputs of the model do not change, all its layers become trainable, and it must be compiled
    again before training.

    Raises:
        ValueError: the model has no adapters.
    """
    adapted = adapters_of(model).values()
    if not adapted:
        raise ValueError(f"the model {model.name!r} has no adapters to merge: see add_lora")
    for part in adapted:
        part.merge_lora()
    for layer in (model, *layers_of(model)):
        set_all_trainable(layer, True)
    uncompile(model)


def adaptable_parts(model: keras.Model) -> dict[str, Adaptable]:
    """Return the layers of a model and of nested models that may have adapters, by path."""
    found = {}
    for layer in layers_of(model):
        if not isinstance(layer, keras.Model):
            for part in keras_private.layers_within(layer):
                if isinstance(part, Adaptable) and part.built:
                    name = weight_name(layer, part)
                    found[layer.name if part is layer else f"{layer.name}/{name}"] = part
    return found


def adapters_of(model: keras.Model) -> dict[str, Adaptable]:
    """Return the layers of a model and of nested models that have adapters, by path."""
    return {path: part for path, part in adaptable_parts(model).items() if part.lora_enabled}


def matching_parts(model: keras.Model, pattern: str) -> dict[str, Adaptable]:
    """Return the layers that the argument `layers` of `add_lora` matches, by path."""
    parts = adaptable_parts(model)
    if pattern == "attention":
        names = {layer.name for layer in layers_of(model) if isinstance(layer, ATTENTION)}
        found = {path: part for path, part in parts.items() if path.split("/")[0] in names}
    else:
        found = {path: part for path, part in parts.items() if re.search(pattern, path)}
    if not found:
        raise ValueError(
            f"layers={pattern!r} matches no layer of the model {model.name!r}: give 'attention' or "
            f"a regular expression for paths such as {list(parts)[:3]}"
        )
    return found


def check_names(model: keras.Model, names: str | Sequence[str]) -> set[str]:
    """Return names of layers as a set; raise a ValueError if the model lacks one of them."""
    given = {names} if isinstance(names, str) else set(names)
    unknown = given - {layer.name for layer in layers_of(model)}
    if unknown:
        raise ValueError(
            f"trainable= names {sorted(unknown)}, which the model {model.name!r} does not have: "
            f"its layers are {[layer.name for layer in layers_of(model)]}"
        )
    return given


def train_adapters_only(model: keras.Model, names: Iterable[str] = ()) -> None:
    """Make adapters and the layers with these names trainable, and freeze all others."""
    keras_private.set_own_trainable(model, True)
    for layer in layers_of(model):
        if isinstance(layer, keras.Model):
            keras_private.set_own_trainable(layer, True)
            continue
        adapted = bool(products(layer))
        set_all_trainable(layer, adapted or layer.name in names)
        for weight in layer.weights if adapted and layer.name not in names else ():
            weight.trainable = weight.name.startswith("lora_")
    for part in adapters_of(model).values():
        part.matrix.trainable = False
    uncompile(model)


def set_all_trainable(layer: keras.Layer, flag: bool) -> None:
    """Set `trainable` of a layer and of its inner layers; TensorFlow skips unchanged values."""
    layer.trainable = not flag
    layer.trainable = flag


def uncompile(model: keras.Model) -> None:
    """Make Keras require `compile` before training, since the trainable weights have changed."""
    model.compiled = False


def alphas_entry(model: keras.Model) -> dict[str, dict[str, np.ndarray]]:
    """Return the entry of weight files with the alphas of adapters; empty without adapters."""
    adapted = adapters_of(model).items()
    alphas = {path: np.array(part.lora_alpha, "f4") for path, part in adapted}
    return {ENTRY: alphas} if alphas else {}


def check_alphas(model: keras.Model, alphas: Mapping[str, Any], filepath: str | Path) -> None:
    """Raise a CheckpointError if a file was written with another alpha than the model has.

    The outputs of the model would differ from those of the saved one.
    """
    for path, part in adapters_of(model).items() if alphas else ():
        alpha = float(alphas.get(path, part.lora_alpha))
        if np.float32(alpha) != np.float32(part.lora_alpha):
            raise CheckpointError(
                f"{filepath} was written with alpha={alpha:g} for the adapter of {path!r}, but the "
                f"model has alpha={part.lora_alpha:g}: build the model with add_lora(alpha="
                f"{alpha:g})"
            )


class Adapted(keras.Model):
    """A Keras model whose config records adapters and frozen weights within its layers.

    The configs of layers do not describe their inner layers, which may have adapters and frozen
    weights.
    """

    def get_config(self) -> dict:
        """Return the config of the model, from which `from_config` builds it again."""
        adapters = {
            path: [part.lora_rank, part.lora_alpha] for path, part in adapters_of(self).items()
        }
        frozen = [path for path, weight in inner_weights(self).items() if not weight.trainable]
        changes = {"lora": adapters, "frozen": frozen}
        return super().get_config() | {name: value for name, value in changes.items() if value}

    @classmethod
    def from_config(
        cls, config: dict, custom_objects: Mapping[str, Any] | None = None
    ) -> keras.Model:
        """Build a model from its config."""
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
    """Return the weights of layers that have inner layers or adapters, by path."""
    return {
        f"{layer.name}/{weight_name(layer, weight)}": weight
        for layer in layers_of(model)
        if not isinstance(layer, keras.Model)
        if products(layer) or any(keras_private.layers_within(layer, include_self=False))
        for weight in layer.weights
    }
