"""The weights of layers: what they are called, their values, and what LoRA adds to them."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from bert4keras import keras_private


def weight_name(layer: keras.Layer, weight: Any) -> str:
    """The path of a weight inside its layer: 'q_dense/kernel'."""
    return weight.path.removeprefix(f"{layer.path}/").removeprefix(f"{layer.name}/")


def to_numpy(weight: Any) -> np.ndarray:
    """The value of a Keras variable."""
    return keras.ops.convert_to_numpy(weight)


def assign(pairs: Iterable[tuple[Any, np.ndarray]]) -> None:
    """Set Keras variables to values whose shapes have been checked.

    The values may be views of a mapped file, which JAX would go on using instead of a copy.
    """
    aliasing = keras.backend.backend() == "jax"
    for weight, value in pairs:
        weight.assign(np.array(value) if aliasing else value)


def own_weights(layer: keras.Layer) -> list[Any]:
    """The weights of a layer without what `enable_lora` of Keras has added."""
    return [weight for weight in layer.weights if not weight.name.startswith("lora_")]


def merged_values(layer: keras.Layer) -> list[np.ndarray]:
    """The values of `own_weights`, with those of LoRA added."""
    values = {id(weight): to_numpy(weight) for weight in own_weights(layer)}
    for weight, scale, a, b in lora_of(layer):
        value = values[id(weight)]
        values[id(weight)] = (value + scale * to_numpy(a) @ to_numpy(b)).astype(value.dtype)
    return list(values.values())


def lora_of(layer: keras.Layer) -> list[tuple[Any, float, Any, Any]]:
    """What LoRA trains in a layer: the frozen weight, and scale, A and B of what is added to it."""
    found = []
    for part in [layer, *keras_private.layers_within(layer, include_self=False)]:
        if not getattr(part, "lora_enabled", False):
            continue
        weights = {weight.name: weight for weight in part.weights}
        for kind in ("kernel", "embeddings"):
            if f"lora_{kind}_a" in weights:
                matrices = weights[f"lora_{kind}_a"], weights[f"lora_{kind}_b"]
                found.append((weights[kind], part.lora_alpha / part.lora_rank, *matrices))
    return found


def forget_lora(layer: keras.Layer) -> None:
    """Let what LoRA adds to the weights of a layer be 0, as at its beginning."""
    for _, _, _, b in lora_of(layer):
        b.assign(np.zeros(b.shape))
