"""What lets LoRA train a layer with a matrix, and files keep what it trained apart."""

from typing import Any, NamedTuple

import keras
import numpy as np
from keras.layers import Layer

from bert4keras import keras_private
from bert4keras.backend.engines import note_change
from bert4keras.backend.tensors import Tensor, affine


def weight_name(layer: Layer, weight: Any) -> str:
    """The path of a weight, or of a layer, inside a layer: 'q_dense/kernel'."""
    return weight.path.removeprefix(f"{layer.path}/").removeprefix(f"{layer.name}/")


class Adaptable(Layer):
    """Base of the layers of Keras with a matrix, to which LoRA may add a product of two small ones.

    LoRA (Hu et al., 2021, https://arxiv.org/abs/2106.09685) freezes the matrix W (n, m) and trains
    A (n, rank) and B (rank, m); the layer computes with W + alpha / rank · A·B. B begins at 0.
    Keras writes W with the product added to it, these layers write W, A and B.

    Attributes:
        matrix_name: what Keras calls the matrix.
    """

    matrix_name: str

    @property
    def matrix(self) -> keras.Variable:
        """W (n, m), without what LoRA adds to it."""
        return getattr(self, f"_{self.matrix_name}")

    @property
    def adapter(self) -> tuple[keras.Variable, keras.Variable]:
        """A (n, rank) and B (rank, m) of a layer that LoRA trains."""
        name = f"lora_{self.matrix_name}"
        return getattr(self, f"{name}_a"), getattr(self, f"{name}_b")

    def build(self, input_shape: Any = None) -> None:
        """Create the weights, those of LoRA too if the layer was made with `lora_rank`."""
        alpha = self.lora_alpha
        super().build(input_shape)
        self.lora_alpha = alpha  # Keras takes the rank for it

    def enable_lora(self, rank: int, lora_alpha: float | None = None, **kwargs: Any) -> None:
        """Let LoRA train the layer; see `keras.layers.Dense.enable_lora`."""
        super().enable_lora(rank, lora_alpha, **kwargs)
        note_change()

    def merge_lora(self) -> None:
        """Add what LoRA has trained to the matrix; the layer is an ordinary one then."""
        product = product_of(self)
        product.matrix.assign(product.merged())
        product.forget()  # functions that were compiled before go on adding it
        for end in "ab":
            keras_private.remove_variable(self, f"lora_{self.matrix_name}_{end}")
        self.lora_enabled, self.lora_rank, self.lora_alpha = False, None, None
        self.matrix.trainable = True
        note_change()

    def save_own_variables(self, store: Any) -> None:
        """Write the weights into a `.keras` file, those of LoRA apart."""
        if self.lora_enabled:
            Layer.save_own_variables(self, store)
        else:
            super().save_own_variables(store)

    def load_own_variables(self, store: Any) -> None:
        """Read the weights; a file without those of LoRA lets the product begin at 0 again."""
        if self.lora_enabled and len(store.keys()) == len(self.weights):
            Layer.load_own_variables(self, store)
        else:
            super().load_own_variables(store)


def low_rank(x: Tensor, layer: Any) -> Tensor:
    """alpha / rank · x·A·B (..., m) of x (..., n), in the type that the layer computes in."""
    for matrix in layer.adapter:
        x = affine(x, keras.ops.cast(matrix, layer.compute_dtype))
    return layer.lora_alpha / layer.lora_rank * x


class Product(NamedTuple):
    """What LoRA adds to a matrix: scale · a·b.

    Attributes:
        matrix: the matrix (n, m), which is frozen.
        scale: alpha / rank.
        a: (n, rank).
        b: (rank, m).
    """

    matrix: keras.Variable
    scale: float
    a: keras.Variable
    b: keras.Variable

    def merged(self) -> np.ndarray:
        """The sum, in the type of the matrix."""
        values = (self.matrix, self.a, self.b)
        matrix, a, b = map(np.asarray, map(keras.ops.convert_to_numpy, values))
        return (matrix + self.scale * (a @ b)).astype(matrix.dtype)

    def forget(self) -> None:
        """Let the product be 0, as at its beginning."""
        self.b.assign(np.zeros(self.b.shape))


def product_of(part: Layer) -> Product:
    """What LoRA adds to the matrix of a layer of ours or of Keras, which it trains."""
    weights = {weight.name: weight for weight in part.weights}
    name = "kernel" if "lora_kernel_a" in weights else "embeddings"
    matrices = weights[f"lora_{name}_a"], weights[f"lora_{name}_b"]
    return Product(weights[name], part.lora_alpha / part.lora_rank, *matrices)


def products(layer: Layer) -> list[Product]:
    """What LoRA adds to the matrices of a layer and of the layers within it."""
    parts = keras_private.layers_within(layer)
    return [product_of(part) for part in parts if getattr(part, "lora_enabled", False)]
