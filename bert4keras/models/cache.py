"""What a model remembers of the tokens before, so that it runs on new ones only."""

from collections.abc import Callable, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

import keras
from keras import ops

from bert4keras.backend.attention import laid_out
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
"""Layers of Keras that treat each position by itself; others say so by `positionwise`."""

KeysAndValues = list[tuple[Tensor, Tensor]]
"""Keys and values of every attention of a model, in the order of the calls, see `laid_out`.

By order, not by name: in ALBERT all blocks are one.
"""


class Cache:
    """Keys and values of a sequence, and where in it the tokens of the present call stand.

    A sequence lies in slots. Texts are padded at the left, so that all rows of a batch write to the
    same slot, and a distance in slots is one in positions. `Transformer.apply` hands every layer
    that looks at other positions what it needs of this; all other layers work on each position by
    itself and see no difference.

    Keys and values are kept in parts: those of the prompt, which several rows may share (the beams
    of one prompt), and those of the output, for which there is room.

    Args:
        start: slot of the first token of the call, an integer tensor; 0 if it is the first call.
        length: how many tokens the call has.
        visible: (rows, slots), true where there is text; of the prompt alone in the first call.
        offsets: (rows,), the slot at which a row's text begins.
        prompt: keys and values of the prompt; None in the first call, which computes them.
        output: those of the output so far.
        context: of a decoder, `visible` as above and, after the first call, `keys_and_values`.

    Attributes:
        slots: (length,), those of the tokens of the call.
        positions: (rows, length), those of the same tokens, counted from where the text begins.
    """

    def __init__(
        self,
        start: Tensor,
        length: int,
        visible: Tensor,
        offsets: Tensor,
        prompt: KeysAndValues | None = None,
        output: KeysAndValues | None = None,
        context: dict[str, Any] | None = None,
    ) -> None:
        self.start = start
        self.visible = visible
        self.slots = start + ops.arange(length, dtype="int32")
        self.positions = ops.maximum(self.slots[None] - offsets[:, None], 0)
        self.is_first = prompt is None
        self.context = {} if context is None else context
        if self.is_first:
            self.context["keys_and_values"] = []
        self.before = zip(prompt or (), output or (), strict=True)
        self.context_before = iter(self.context["keys_and_values"])
        self.prompt: KeysAndValues = []
        self.output: KeysAndValues = []

    def arguments(self, layer: Any, inputs: Any) -> dict[str, Any]:
        """What a layer is told in the call about where its inputs stand.

        A layer that looks at other positions has a method `cache_arguments(cache, inputs)`.

        Raises:
            TypeError: it may look at other positions, and nothing is known of how.
        """
        told = getattr(layer, "cache_arguments", None)
        if told is not None:
            return told(self, inputs)
        if not is_positionwise(layer):
            raise TypeError(
                f"layer {layer.name!r} is a {type(layer).__name__}, which may look at other tokens "
                "than its own, and decoding token by token cannot know how. If it does not, set "
                "`positionwise = True` in its class; if it does, write an AutoRegressiveDecoder "
                "whose predict() runs the whole model"
            )
        return {}

    def of_attention(self, to_context: bool) -> "LayerCache":
        """The part that one attention reads and writes, see `LayerCache`."""
        return LayerCache(self, to_context)


def is_positionwise(layer: Any) -> bool:
    """Whether a layer treats each position by itself."""
    return isinstance(layer, POSITIONWISE) or getattr(layer, "positionwise", False)


class LayerCache:
    """The part of a `Cache` that one attention reads and writes.

    Args:
        cache: the whole.
        to_context: whether the attention is to the context of a decoder, which does not grow.
    """

    def __init__(self, cache: Cache, to_context: bool) -> None:
        self.cache = cache
        self.to_context = to_context
        self.positions = cache.slots

    def keys_and_values(self, project: Callable[[], tuple[Tensor, Tensor]]) -> tuple:
        """What to attend to: keys, values, and where there is text, (rows, slots).

        Keys and values are parts, see `laid_out`, or in the first call those of the call.

        Args:
            project: computes the keys and the values of the inputs of the call.
        """
        cache = self.cache
        if cache.is_first:
            new = project()
            remembered = cache.context["keys_and_values"] if self.to_context else cache.prompt
            remembered.append(laid_out(*new))
            return *new, cache.context["visible"] if self.to_context else cache.visible
        if self.to_context:
            key, value = next(cache.context_before)
            return [key], [value], cache.context["visible"]
        (prompt_key, prompt_value), (key, value) = next(cache.before)
        slot = cache.start - prompt_key.shape[3]
        new_key, new_value = laid_out(*project())
        key = ops.slice_update(key, [0, 0, 0, slot], new_key)
        value = ops.slice_update(value, [0, 0, slot, 0], new_value)
        cache.output.append((key, value))
        return [prompt_key, key], [prompt_value, value], cache.visible


def call_on_part(
    transformer: "Transformer",
    inputs: Sequence[Tensor],
    whole: Sequence[Tensor],
    cache: Cache,
    conditions: Sequence,
) -> Tensor:
    """Run the hooks of a model on a part of a sequence, which follows what the cache remembers.

    Args:
        transformer: the built model.
        inputs: the inputs of that part.
        whole: the inputs of the sequence so far, which masks are computed from.
        cache: keys and values of what comes before; those of the part are added.
        conditions: instead of `layer_norm_conds`.

    Returns:
        (batch, 1, vocab_size), the outputs at the last position.
    """
    names = [x.name for x in transformer.inputs]
    part = changed(
        transformer,
        cache=cache,
        inputs=list(whole),
        layer_norm_conds=list(conditions),
        layers=transformer.layers | dict(zip(names, inputs, strict=True)),
    )
    n_own = len(names) - transformer.n_additional_inputs
    return part.call(part.simplify(inputs[:n_own]))


def changed(transformer: "Transformer", **attributes: Any) -> "Transformer":
    """A shallow copy of a model, for a single call, with some attributes of its own.

    Hooks read and write attributes: those of this call, whatever other threads do meanwhile.
    """
    part = copy(transformer)
    for name, value in attributes.items():
        setattr(part, name, value)
    return part
