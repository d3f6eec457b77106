"""For how many shapes of batches a model is compiled."""

import warnings
from typing import Any

import keras

from bert4keras.data.arrays import bucket_length

MANY = 8
"""Number of sizes of an axis above which `SizesMet` warns."""


class CompilesRarely(keras.Model):
    """Keras model that does not by itself use XLA on TensorFlow where sizes may change.

    With a GPU, Keras chooses XLA for every model. XLA compiles for every shape of a batch, which
    takes seconds to minutes each, and graphs of TensorFlow take any shape.
    """

    def _resolve_auto_jit_compile(self) -> bool:
        """Tell Keras what `jit_compile="auto"` means for this model."""
        if keras.backend.backend() == "tensorflow" and not has_fixed_sizes(self):
            return False
        return super()._resolve_auto_jit_compile()


def has_fixed_sizes(model: keras.Model) -> bool:
    """Tell whether all sizes of the inputs are known when a model is built, except the batch."""
    inputs = getattr(model, "inputs", None)
    return bool(inputs) and all(None not in x.shape[1:] for x in inputs)


class SizesMet:
    """The sizes of batches for which a function was compiled; warns once if they are many.

    Sizes that `bucket_length` returns do not count beyond the first axis, since they are few.
    """

    def __init__(self) -> None:
        self.sizes: dict[tuple[int, int], set[int]] = {}
        self.warned = False

    def add(self, batch: Any) -> None:
        """Add the sizes of a batch for which the function is about to be compiled.

        Args:
            batch: a nest of arrays.
        """
        if self.warned:
            return
        for number, array in enumerate(keras.tree.flatten(batch)):
            for axis, size in enumerate(() if array is None else array.shape):
                if axis == 0 or size != bucket_length(size):
                    self.sizes.setdefault((number, axis), set()).add(size)
        for (_, axis), sizes in self.sizes.items():
            if len(sizes) > MANY:
                self.warned = True
                warnings.warn(_advice(axis, sorted(sizes)), stacklevel=2)
                return


def _advice(axis: int, sizes: list[int]) -> str:
    """Say what a model was compiled for and how to avoid it."""
    if axis == 0:
        kind, remedy = "batch sizes", "give batches of one size"
    else:
        kind, remedy = (
            "lengths",
            "round lengths up: pad by DataGenerator.pad, or by sequence_padding with "
            "length=bucket_length(longest) or one fixed length",
        )
    return (
        f"the model is compiled for each of {len(sizes)} {kind} so far, {sizes}, because JAX "
        f"compiles for every shape of a batch; {remedy}"
    )
