"""LoRA adapters of layers: the base class of adaptable layers, and the products that they add."""

from typing import Any, NamedTuple

import keras
import numpy as np
from keras.layers import Layer

from bert4keras import keras_private
from bert4keras.backend.engines import note_change
from bert4keras.backend.tensors import Tensor, affine


def weight_name(layer: Layer, weight: Any) -> str:
    """Return the path of a weight or layer within a layer, such as 'q_dense/kernel'."""
    return weight.path.removeprefix(f"{layer.path}/").removeprefix(f"{layer.name}/")


class Adaptable(Layer):
    """Base class of Keras layers with a matrix to which LoRA may add a low-rank product.

    LoRA (Hu et al., 2021, https://arxiv.org/abs/2106.09685) freezes the matrix W (n, m) and trains
    A (n, rank) and B (rank, m); the layer computes with W + alpha / rank · A·B. B is initialized
    with 0. Layers of Keras save W with the product added to it, these layers save W, A and B.

    Attributes:
        matrix_name: the name of the matrix in Keras.
    """

    matrix_name: str

    @property
    def matrix(self) -> keras.Variable:
        """W (n, m), without the product of LoRA."""
        return getattr(self, f"_{self.matrix_name}")

    @property
    def adapter(self) -> tuple[keras.Variable, keras.Variable]:
        """A (n, rank) and B (rank, m) of a layer with an adapter."""
        name = f"lora_{self.matrix_name}"
        return getattr(self, f"{name}_a"), getattr(self, f"{name}_b")

    def build(self, input_shape: Any = None) -> None:
        """Create the weights, including those of LoRA if the layer was made with `lora_rank`."""
        alpha = self.lora_alpha
        super().build(input_shape)
        self.lora_alpha = alpha  # Keras has set it to the rank

    def enable_lora(self, rank: int, lora_alpha: float | None = None, **kwargs: Any) -> None:
        """Add an adapter to the layer; see `keras.layers.Dense.enable_lora`."""
        super().enable_lora(rank, lora_alpha, **kwargs)
        note_change()

    def merge_lora(self) -> None:
        """Add the product of LoRA to the matrix, and remove the adapter."""
        product = product_of(self)
        product.matrix.assign(product.merged())
        product.reset()  # functions compiled before still add it
        for end in "ab":
            keras_private.remove_variable(self, f"lora_{self.matrix_name}_{end}")
        self.lora_enabled, self.lora_rank, self.lora_alpha = False, None, None
        self.matrix.trainable = True
        note_change()

    def save_own_variables(self, store: Any) -> None:
        """Write the weights into a `.keras` file, those of LoRA separately."""
        if self.lora_enabled:
            Layer.save_own_variables(self, store)
        else:
            super().save_own_variables(store)

    def load_own_variables(self, store: Any) -> None:
        """Read the weights; a file without those of LoRA resets the product to 0."""
        if self.lora_enabled and len(store.keys()) == len(self.weights):
            Layer.load_own_variables(self, store)
        else:
            super().load_own_variables(store)


def low_rank(x: Tensor, layer: Any) -> Tensor:
    """Compute alpha / rank · x·A·B (..., m) for x (..., n), in the compute dtype of the layer."""
    for matrix in layer.adapter:
        x = affine(x, keras.ops.cast(matrix, layer.compute_dtype))
    return layer.lora_alpha / layer.lora_rank * x


class Product(NamedTuple):
    """The product scale · a·b that LoRA adds to a matrix.

    Attributes:
        matrix: the frozen matrix (n, m).
        scale: alpha / rank.
        a: (n, rank).
        b: (rank, m).
    """

    matrix: keras.Variable
    scale: float
    a: keras.Variable
    b: keras.Variable

    def merged(self) -> np.ndarray:
        """Return the sum of matrix and product, in the dtype of the matrix."""
        values = (self.matrix, self.a, self.b)
        matrix, a, b = map(np.asarray, map(keras.ops.convert_to_numpy, values))
        return (matrix + self.scale * (a @ b)).astype(matrix.dtype)

    def reset(self) -> None:
        """Set the product to 0, its initial value."""
        self.b.assign(np.zeros(self.b.shape))


def product_of(part: Layer) -> Product:
    """Return the product that LoRA adds to the matrix of a layer, one of ours or of Keras."""
    weights = {weight.name: weight for weight in part.weights}
    name = "kernel" if "lora_kernel_a" in weights else "embeddings"
    matrices = weights[f"lora_{name}_a"], weights[f"lora_{name}_b"]
    return Product(weights[name], part.lora_alpha / part.lora_rank, *matrices)


def products(layer: Layer) -> list[Product]:
    """Return the products that LoRA adds to the matrices of a layer and of its inner layers."""
    parts = keras_private.layers_within(layer)
    return [product_of(part) for part in parts if getattr(part, "lora_enabled", False)]
