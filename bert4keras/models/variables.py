"""The weights of layers: their values, and what LoRA adds to them."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from bert4keras.layers.adapters import products


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
    found = {id(product.matrix): product for product in products(layer)}
    return [
        found[id(weight)].merged() if id(weight) in found else to_numpy(weight)
        for weight in own_weights(layer)
    ]
