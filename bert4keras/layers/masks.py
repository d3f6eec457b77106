"""Attention masks: which positions a query may attend to."""

import functools
from collections.abc import Sequence
from typing import Any

from keras import ops
from keras.layers import Layer

from bert4keras.backend.saving import registered
from bert4keras.backend.tensors import Tensor, is_bool
from bert4keras.layers.base import Mask


@registered
class AttentionBias(Layer):
    """Combine attention biases into one.

    If all inputs are boolean, the output is their conjunction. Otherwise the float inputs are added
    up, with minus infinity where a boolean input is false. All inputs are broadcastable to (batch,
    heads, query length, key length).
    """

    positionwise = True

    def call(self, inputs: Sequence[Tensor]) -> Tensor:
        booleans = [x for x in inputs if is_bool(x)]
        floats = [ops.cast(x, self.compute_dtype) for x in inputs if not is_bool(x)]
        if not floats:
            return functools.reduce(ops.logical_and, booleans)
        total = sum(floats)
        for visible in booleans:
            total = ops.where(visible, total, ops.cast(-float("inf"), self.compute_dtype))
        return total


class AttentionMask(Layer):
    """Base of the layers that derive a boolean attention bias (batch or 1, 1, length, length).

    `AttentionBias` combines several. If `query_positions` (n,) are given in the call, only the bias
    of these queries is computed, (batch or 1, 1, n, length).
    """

    def order(self, inputs: Tensor) -> Tensor:
        """Return the number of each position that `visible` compares, (batch or 1, length)."""
        return ops.expand_dims(ops.arange(ops.shape(inputs)[1]), 0)

    def visible(self, query: Tensor, key: Tensor) -> Tensor:
        """Tell from their numbers whether queries (…, n, 1) may attend to keys (…, 1, length)."""
        raise NotImplementedError(f"{type(self).__name__} must define visible()")

    def call(self, inputs: Tensor, query_positions: Tensor | None = None) -> Tensor:
        keys = self.order(inputs)
        queries = keys if query_positions is None else ops.take(keys, query_positions, axis=1)
        return ops.expand_dims(self.visible(queries[:, :, None], keys[:, None, :]), 1)

    def cache_arguments(self, cache: Any, inputs: Tensor) -> dict[str, Any]:
        """Return the extra arguments of a call whose inputs are a part of a sequence."""
        return {"query_positions": cache.slots}

    def compute_mask(self, inputs: Tensor, mask: Mask = None) -> None:
        return None


@registered
class LMMask(AttentionMask):
    """Causal mask: each position sees itself and those before it. Input: (batch, length)."""

    def visible(self, query: Tensor, key: Tensor) -> Tensor:
        return key <= query


@registered
class UniLMMask(AttentionMask):
    """UniLM's mask (Dong et al., 2019): segment 0 is bidirectional, segment 1 causal.

    Input: segment ids (batch, length). A position sees the positions at which the cumulative sum of
    segment ids is not larger than at its own.
    """

    def order(self, inputs: Tensor) -> Tensor:
        return ops.cumsum(ops.cast(inputs, "int32"), axis=1)

    def visible(self, query: Tensor, key: Tensor) -> Tensor:
        return key <= query


@registered
class LocalMask(AttentionMask):
    """Sliding window: each position sees those at most `window // 2` away. Input: (batch, length).

    Args:
        window: width of the window. A position sees `window` positions including itself if this is
            odd, `window + 1` if it is even, as `local_attention` is in the configs of ModernBERT.
    """

    def __init__(self, window: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.window = window

    def visible(self, query: Tensor, key: Tensor) -> Tensor:
        return ops.absolute(key - query) <= self.window // 2

    def get_config(self) -> dict:
        return super().get_config() | {"window": self.window}


@registered
class LocalLMMask(LocalMask):
    """Lower triangle with a sliding window: each position sees itself and what is shortly before.

    Input: (batch, length).

    Args:
        window: how many positions are visible, itself included (`sliding_window` in the configs of
            Qwen and Gemma).
    """

    def visible(self, query: Tensor, key: Tensor) -> Tensor:
        return ops.logical_and(key <= query, query - key < self.window)
