"""Attributes of layers and models of Keras 2: the nodes of a layer, and `add_loss` of a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from bert4keras import keras_private
from bert4keras.backend.keras2.shapes import int_shape
from bert4keras.backend.tensors import Tensor


@dataclass(frozen=True)
class LayerCall:
    """A call of a layer on symbolic tensors, with the names that a node of Keras 2 has.

    Attributes:
        outbound_layer: the layer that was called.
        inbound_layers: the layers whose outputs were its inputs.
        input_tensors: the inputs.
        output_tensors: the outputs.
        input_masks: the masks of the inputs, symbolic tensors or None.
        output_masks: the masks of the outputs, symbolic tensors or None.
    """

    outbound_layer: keras.Layer
    inbound_layers: list[keras.Layer]
    input_tensors: list[Tensor]
    output_tensors: list[Tensor]
    input_masks: list[Tensor | None]
    output_masks: list[Tensor | None]

    @property
    def input_shapes(self) -> Any:
        """Shape of the input, or a list of the shapes of several."""
        return _single([int_shape(x) for x in self.input_tensors])

    @property
    def output_shapes(self) -> Any:
        """Shape of the output, or a list of the shapes of several."""
        return _single([int_shape(x) for x in self.output_tensors])


def _layer_call(node: Any) -> LayerCall:
    inputs, outputs = list(node.input_tensors), list(node.output_tensors)
    return LayerCall(
        outbound_layer=node.operation,
        inbound_layers=[keras_private.history(x)[0] for x in inputs],
        input_tensors=inputs,
        output_tensors=outputs,
        input_masks=[_mask_of(x) for x in inputs],
        output_masks=[_mask_of(x) for x in outputs],
    )


def _mask_of(x: Tensor) -> Tensor | None:
    return keras_private.mask_of(x)


def _single(values: list) -> Any:
    return values[0] if len(values) == 1 else values


def inbound_nodes(layer: keras.Layer) -> list[LayerCall]:
    """List the calls of a layer on symbolic tensors, as `layer.inbound_nodes` did in Keras 2."""
    return [_layer_call(node) for node in keras_private.calls_of(layer)]


def outbound_nodes(layer: keras.Layer) -> list[LayerCall]:
    """List the calls of other layers on its outputs, as `layer.outbound_nodes` did in Keras 2."""
    return [_layer_call(node) for node in keras_private.calls_on(layer)]


def _call_at(layer: keras.Layer, node_index: int | None) -> LayerCall:
    calls = inbound_nodes(layer)
    if node_index is None and len(calls) != 1:
        raise ValueError(
            f"layer {layer.name!r} has been called {len(calls)} times on symbolic tensors: "
            "choose a call by node_index"
        )
    node_index = node_index or 0
    if not -len(calls) <= node_index < len(calls):
        raise IndexError(
            f"layer {layer.name!r} has been called {len(calls)} times on symbolic tensors: there "
            f"is no call with node_index={node_index}"
        )
    return calls[node_index]


def output_at(layer: keras.Layer, node_index: int) -> Any:
    """Return the output of a call of a layer, as `layer.get_output_at(node_index)` did.

    Args:
        layer: a layer that has been called on symbolic tensors.
        node_index: the index of the call; -1 is the last one.

    Returns:
        A symbolic tensor, or a list of several.

    Raises:
        IndexError: there is no such call.
    """
    return _single(_call_at(layer, node_index).output_tensors)


def input_at(layer: keras.Layer, node_index: int) -> Any:
    """Return the input of a call, as `layer.get_input_at(node_index)` did; like `output_at`."""
    return _single(_call_at(layer, node_index).input_tensors)


def output_shape_at(layer: keras.Layer, node_index: int) -> Any:
    """Return the output shape of a call, as `layer.get_output_shape_at(node_index)` did."""
    return _call_at(layer, node_index).output_shapes


def input_shape_at(layer: keras.Layer, node_index: int) -> Any:
    """Return the input shape of a call, as `layer.get_input_shape_at(node_index)` did."""
    return _call_at(layer, node_index).input_shapes


def output_mask(layer: keras.Layer, node_index: int | None = None) -> Any:
    """Return a mask, as `layer.output_mask` and `layer.get_output_mask_at(node_index)` did.

    Args:
        layer: a layer that has been called on symbolic tensors.
        node_index: the index of the call; not needed if there is a single one.

    Returns:
        The mask of the output, a symbolic tensor, or None if it has none; a list for several
        outputs.

    Raises:
        ValueError: there are several calls or none, and no index is given.
        IndexError: there is no such call.
    """
    return _single(_call_at(layer, node_index).output_masks)


def input_mask(layer: keras.Layer, node_index: int | None = None) -> Any:
    """Return the mask of the input, as `layer.input_mask` did; like `output_mask`."""
    return _single(_call_at(layer, node_index).input_masks)


@keras.saving.register_keras_serializable(package="bert4keras")
class AddedLoss(keras.layers.Layer):
    """Add its last input to the loss of the model, and return the others."""

    def __init__(self, **kwargs):
        super().__init__(**{"autocast": False, **kwargs})
        self.supports_masking = True

    def call(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Add the loss, the mean of the last input."""
        self.add_loss(ops.mean(inputs[-1]))
        return list(inputs[:-1])

    def compute_mask(self, inputs: Sequence[Tensor], previous_mask=None):
        """Return the masks of the outputs."""
        return previous_mask and list(previous_mask[:-1])

    def compute_output_spec(self, inputs: Sequence[Tensor]) -> list[keras.KerasTensor]:
        """Return the outputs."""
        return [keras.KerasTensor(x.shape, dtype=x.dtype) for x in inputs[:-1]]


def with_loss(model: keras.Model, loss: Tensor) -> keras.Model:
    """Add a loss like `model.add_loss(loss)` of Keras 2, in a new model of the same layers.

    Args:
        model: a functional model.
        loss: a symbolic tensor computed from its inputs; if it is not a scalar, its mean is added.

    Returns:
        A model with the same inputs and outputs, to be compiled without a loss. It shares all
        weights with `model`.
    """
    outputs = AddedLoss()([*keras.tree.flatten(model.output), loss])
    outputs = keras.tree.pack_sequence_as(model.output, outputs)
    return type(model)(model.input, outputs)
