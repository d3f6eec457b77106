"""The KV cache: keys and values of earlier tokens, so that a model only runs on new ones."""

from collections.abc import Callable, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

import keras
from keras import ops

from bert4keras.backend.attention import laid_out
from bert4keras.backend.engines import written
from bert4keras.backend.tensors import Tensor

if TYPE_CHECKING:
    from bert4keras.models.transformer import Transformer

POSITIONWISE = (
    keras.layers.Activation,
    keras.layers.Add,
    keras.layers.Average,
    keras.layers.Dense,
    keras.layers.Dropout,
    keras.layers.Embedding,
    keras.layers.LayerNormalization,
    keras.layers.Maximum,
    keras.layers.Minimum,
    keras.layers.Multiply,
    keras.layers.RMSNormalization,
    keras.layers.Subtract,
)
"""Layers of Keras that process each position independently; others set `positionwise = True`."""

KeysAndValues = list[tuple[Tensor, Tensor]]
"""Keys and values of every attention call of a model, in the order of the calls.

Their shapes are those that `laid_out` returns. They have no names, because in ALBERT all blocks
share one attention layer.
"""


class Cache:
    """The KV cache of a sequence, and the slots of the tokens that the model is called on.

    Each token of a sequence has a slot. Texts are padded on the left, so that all rows of a batch
    write to the same slot, and differences of slots equal differences of positions.
    `Transformer.apply` passes what is needed of the cache to every layer that looks at other
    positions; all other layers process each position independently and are called as usual.

    Keys and values are kept in two parts: those of the prompt, which several rows may share (the
    beams of one prompt), and those of the output, which has free slots for tokens to come. The
    first call, with the prompt, is the prefill.

    Args:
        start: slot of the first token of the call, an integer tensor; 0 in the prefill.
        length: number of tokens of the call.
        visible: (rows, slots), true where there is text; in the prefill for the prompt only.
        left_padding: (rows,), the slot at which the text of a row begins.
        prompt: keys and values of the prompt; None in the prefill, which computes them.
        output: keys and values of the output so far.
        context: for a decoder with cross-attention, a dict with `visible` for its context and,
            after the prefill, `keys_and_values`.

    Attributes:
        slots: (length,), the slots of the tokens of the call.
        positions: (rows, length), the positions of these tokens, from 0 where the text begins.
    """

    def __init__(
        self,
        start: Tensor,
        length: int,
        visible: Tensor,
        left_padding: Tensor,
        prompt: KeysAndValues | None = None,
        output: KeysAndValues | None = None,
        context: dict[str, Any] | None = None,
    ) -> None:
        self.start = start
        self.visible = visible
        self.slots = start + ops.arange(length, dtype="int32")
        self.positions = ops.maximum(self.slots[None] - left_padding[:, None], 0)
        self.is_prefill = prompt is None
        self.context = {} if context is None else context
        if self.is_prefill:
            self.context["keys_and_values"] = []
        self.before = zip(prompt or (), output or (), strict=True)
        self.context_before = iter(self.context["keys_and_values"])
        self.prompt: KeysAndValues = []
        self.output: KeysAndValues = []

    def arguments(self, layer: Any, inputs: Any) -> dict[str, Any]:
        """Return the further arguments that a layer needs when it is called with a cache.

        A layer that looks at other positions has a method `cache_arguments(cache, inputs)`.

        Raises:
            TypeError: the layer has no such method and is not known to be positionwise.
        """
        cache_arguments = getattr(layer, "cache_arguments", None)
        if cache_arguments is not None:
            return cache_arguments(self, inputs)
        if not is_positionwise(layer):
            raise TypeError(
                f"layer {layer.name!r} is a {type(layer).__name__}, which may look at other tokens "
                "than its own, and decoding cannot know how to call it on one token at a time. If "
                "it looks at its own only, set `positionwise = True` in its class; otherwise write "
                "an AutoRegressiveDecoder whose predict() runs the whole model"
            )
        return {}

    def of_attention(self, to_context: bool) -> "LayerCache":
        """Return the view of the cache that one attention layer reads and writes."""
        return LayerCache(self, to_context)


def is_positionwise(layer: Any) -> bool:
    """Tell whether a layer processes each position independently."""
    return isinstance(layer, POSITIONWISE) or getattr(layer, "positionwise", False)


class LayerCache:
    """The view of a `Cache` that one attention layer reads and writes.

    Args:
        cache: the cache of the whole model.
        to_context: whether this is cross-attention to the context of a decoder, which does not
            grow.

    Attributes:
        positions: (length,), the slots of the queries.
    """

    def __init__(self, cache: Cache, to_context: bool) -> None:
        self.cache = cache
        self.to_context = to_context
        self.positions = cache.slots

    def keys_and_values(self, project: Callable[[], tuple[Tensor, Tensor]]) -> tuple:
        """Return the keys and values to attend to, after adding those of the call to the cache.

        Args:
            project: computes the keys and values of the inputs of the call.

        Returns:
            Keys, values, and where there is text (rows, slots). In the prefill the keys and values
            are those that `project` returns; afterwards they are lists of parts in the layout of
            `laid_out`.
        """
        cache = self.cache
        if cache.is_prefill:
            new = project()
            stored = cache.context["keys_and_values"] if self.to_context else cache.prompt
            stored.append(laid_out(*new))
            return *new, cache.context["visible"] if self.to_context else cache.visible
        if self.to_context:
            key, value = next(cache.context_before)
            return [key], [value], cache.context["visible"]
        (prompt_key, prompt_value), (key, value) = next(cache.before)
        slot = cache.start - prompt_key.shape[3]
        new_key, new_value = laid_out(*project())
        key = written(key, 3, slot, new_key)
        value = written(value, 2, slot, new_value)
        cache.output.append((key, value))
        return [prompt_key, key], [prompt_value, value], cache.visible


def call_with_cache(
    transformer: "Transformer",
    inputs: Sequence[Tensor],
    all_inputs: Sequence[Tensor],
    cache: Cache,
    conditions: Sequence,
) -> Tensor:
    """Run the hooks of a model on the new tokens of a sequence with a KV cache.

    Args:
        transformer: the built model.
        inputs: the inputs of the model for the new tokens.
        all_inputs: its inputs for the whole sequence so far, from which masks are computed.
        cache: keys and values of earlier tokens, to which those of the new tokens are added.
        conditions: replace `layer_norm_conds` of the model.

    Returns:
        (batch, 1, vocab_size), the outputs at the last position.
    """
    names = [x.name for x in transformer.inputs]
    model = copy_with(
        transformer,
        cache=cache,
        inputs=list(all_inputs),
        layer_norm_conds=list(conditions),
        layers=transformer.layers | dict(zip(names, inputs, strict=True)),
    )
    n_own = len(names) - transformer.n_additional_inputs
    return model.call(model.simplify(inputs[:n_own]))


def copy_with(transformer: "Transformer", **attributes: Any) -> "Transformer":
    """Return a shallow copy of a model with other values of some attributes, for a single call.

    Hooks read and write attributes; with a copy, calls in several threads do not interfere.
    """
    model = copy(transformer)
    for name, value in attributes.items():
        setattr(model, name, value)
    return model
