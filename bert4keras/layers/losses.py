"""Layers that add a loss or call a function."""

from collections.abc import Sequence
from typing import Any

import keras
from keras.layers import Layer

from bert4keras.backend.saving import registered
from bert4keras.backend.tensors import Tensor, as_floats
from bert4keras.layers.base import Mask, Masks, as_list, mask_list


@registered
class Loss(Layer):
    """Base of layers that add a loss over model tensors: override `compute_loss`.

    A model that ends in such a layer is compiled without a loss and trained on inputs alone:

        class CrossEntropy(Loss):
            def compute_loss(self, inputs, mask=None):
                y_true, y_pred = inputs
                return ops.mean(keras.losses.sparse_categorical_crossentropy(y_true, y_pred))

        output = CrossEntropy(output_axis=1)([label_ids, scores])

    `compute_loss` gets all inputs as floats, since losses compute with token and segment ids, as in
    `K.sum(loss * segment_ids)`. The outputs of the layer keep their types.

    Args:
        output_axis: which input the layer returns: an index, a list of indices, or None for all.
    """

    def __init__(self, output_axis: int | Sequence[int] | None = None, **kwargs: Any) -> None:
        # Targets come as inputs, and must not be rounded to a lower precision.
        super().__init__(**{"autocast": False, **kwargs})
        self.output_axis = output_axis
        self.supports_masking = True

    def compute_loss(self, inputs: list[Tensor], mask: list[Mask] | None = None) -> Tensor:
        """Return the scalar loss. `mask` is always a list with an entry (or None) per input."""
        raise NotImplementedError(f"{type(self).__name__} must override compute_loss()")

    def selected(self, values: Any) -> Any:
        """Select the outputs of the layer among its inputs, or their masks among the masks."""
        if self.output_axis is None or not isinstance(values, list | tuple):
            return values
        if isinstance(self.output_axis, list | tuple):
            return [values[i] for i in self.output_axis]
        return values[self.output_axis]

    def call(self, inputs: Any, mask: Masks = None) -> Any:
        self.add_loss(self.compute_loss(as_floats(inputs), mask_list(mask, as_list(inputs))))
        return self.selected(inputs)

    def compute_mask(self, inputs: Any, mask: Masks = None) -> Any:
        return self.selected(mask)

    def compute_output_spec(self, inputs: Any, mask: Masks = None) -> Any:
        return keras.tree.map_structure(
            lambda x: keras.KerasTensor(x.shape, dtype=x.dtype), self.selected(inputs)
        )

    def get_config(self) -> dict:
        return super().get_config() | {"output_axis": self.output_axis}


@registered
class Lambda(keras.layers.Lambda):
    """`keras.layers.Lambda` whose function gets floats, which all inputs were in Keras 2.

    Integer and boolean inputs are converted to the default float type. Float inputs keep their
    type, even if the dtype policy computes in another one. The output has the type of the
    function's result, and its shape unless `output_shape` is given. It has no mask unless `mask`
    gives one.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"autocast": False, **kwargs})
        self.supports_masking = True  # otherwise Keras warns of each mask that ends here

    def call(self, inputs: Any, mask: Masks = None, training: bool | None = None) -> Any:
        return super().call(as_floats(inputs), mask=mask, training=training)

    def compute_output_spec(
        self, inputs: Any, mask: Masks = None, training: bool | None = None
    ) -> Any:
        # Keras would give all outputs the compute type, and the function no mask.
        if self._output_shape is not None:
            return super().compute_output_spec(inputs)
        return keras.Operation.compute_output_spec(self, inputs, mask=mask, training=training)
