"""The weights of layers: their values, and what LoRA adds to them."""

import math
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from bert4keras import keras_private
from bert4keras.backend.engines import copied_tensor
from bert4keras.backend.memory import Memory
from bert4keras.layers.adapters import products


def to_numpy(weight: Any) -> np.ndarray:
    """The value of a Keras variable."""
    return keras.ops.convert_to_numpy(weight)


def assign(pairs: Iterable[tuple[Any, np.ndarray]], size: int = 0) -> None:
    """Set Keras variables to values whose shapes have been checked.

    Args:
        pairs: the variables and the values, which may be views of a mapped file: no variable keeps
            anything of them.
        size: how many bytes all values together have, as far as that is known.
    """
    memory = Memory(size)
    for weight, value in pairs:
        tensor = copied_tensor(value, weight.dtype, memory)
        if keras_private.has_value(weight):
            weight.assign(tensor)
        else:
            keras_private.initialize(weight, tensor)


def size_of(weight: Any) -> int:
    """How many bytes the value of a Keras variable has, two for each number in bfloat16."""
    width = 2 if weight.dtype == "bfloat16" else np.dtype(weight.dtype).itemsize
    return math.prod(weight.shape) * width


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
