"""Attention masks: who sees whom."""

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

    Booleans alone give a boolean, true where all of them are. Floats are added up, and booleans
    hide with minus infinity. Inputs broadcast to (batch, heads, query length, key length).
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

    `AttentionBias` combines several. With `rows=` (n,) in the call only the rows of these queries
    are computed, (batch or 1, 1, n, length).
    """

    def order(self, inputs: Tensor) -> Tensor:
        """What decides who sees whom: one number for each position, (batch or 1, length)."""
        return ops.expand_dims(ops.arange(ops.shape(inputs)[1]), 0)

    def visible(self, query: Tensor, key: Tensor) -> Tensor:
        """Compare numbers (batch or 1, n, 1) with numbers (batch or 1, 1, length)."""
        raise NotImplementedError(f"{type(self).__name__} must define visible()")

    def call(self, inputs: Tensor, rows: Tensor | None = None) -> Tensor:
        keys = self.order(inputs)
        queries = keys if rows is None else ops.take(keys, rows, axis=1)
        return ops.expand_dims(self.visible(queries[:, :, None], keys[:, None, :]), 1)

    def cache_arguments(self, cache: Any, inputs: Tensor) -> dict[str, Any]:
        """Which arguments the call takes besides, when the inputs are a part of a sequence."""
        return {"rows": cache.slots}

    def compute_mask(self, inputs: Tensor, mask: Mask = None) -> None:
        return None


@registered
class LMMask(AttentionMask):
    """Lower triangle: each position sees itself and what is before it. Input: (batch, length)."""

    def visible(self, query: Tensor, key: Tensor) -> Tensor:
        return key <= query


@registered
class UniLMMask(AttentionMask):
    """UniLM's mask (Dong et al., 2019): segment 0 sees all of itself, segment 1 looks back only.

    Input: segment ids (batch, length). A position sees those whose cumulative sum of segment ids is
    not larger than its own.
    """

    def order(self, inputs: Tensor) -> Tensor:
        return ops.cumsum(ops.cast(inputs, "int32"), axis=1)

    def visible(self, query: Tensor, key: Tensor) -> Tensor:
        return key <= query


@registered
class LocalMask(AttentionMask):
    """Sliding window: each position sees those at most `window // 2` away. Input: (batch, length).

    Args:
        window: how many positions are visible, itself included, if odd (`local_attention` in the
            configs of ModernBERT, which are even).
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
