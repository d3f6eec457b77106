"""Token embeddings, and embedding tables that a subclass may replace in its call."""

import functools
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

import keras
from keras import ops
from keras.layers import Embedding as KerasEmbedding
from keras.layers import Layer

from bert4keras.backend.engines import products_with_rows
from bert4keras.backend.saving import registered
from bert4keras.backend.tensors import Tensor
from bert4keras.layers.adapters import Adaptable
from bert4keras.layers.base import Mask

_tables: ContextVar[Mapping[Layer, Tensor | None]] = ContextVar(
    "tables", default=MappingProxyType({})
)
"""The layers being called, each with the table assigned in its call, or None for its own table."""


def holding_table(call: Callable) -> Callable:
    """Keep a table that the `call` of a layer assigns to `embeddings` until that call returns."""

    @functools.wraps(call)
    def wrapped(self: Layer, *args: Any, **kwargs: Any) -> Any:
        if self in _tables.get():  # a subclass calls its parent
            return call(self, *args, **kwargs)
        token = _tables.set({**_tables.get(), self: None})
        try:
            return call(self, *args, **kwargs)
        finally:
            _tables.reset(token)

    return wrapped


class TableLayer(Layer):
    """Base of the layers with an embedding table, `embeddings`.

    A subclass may replace the table in its `call`, until that call returns. P-tuning (Liu et al.,
    2021, https://arxiv.org/abs/2103.10385) trains only some of the embeddings:

        class PartlyTrained(Embedding):
            def call(self, inputs, mode="embedding"):
                table = self.embeddings
                self.embeddings = table * mask + ops.stop_gradient(table) * (1 - mask)
                return super().call(inputs, mode)
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "call" in vars(cls):
            cls.call = holding_table(cls.call)

    def own_table(self) -> keras.Variable | Tensor:
        """Return the trained table."""
        return self._embeddings

    @property
    def embeddings(self) -> keras.Variable | Tensor:
        """The table (input_dim, output_dim): a variable, or within a call the table assigned to it.

        Within a call it is a tensor on TensorFlow and JAX: a product with a NumPy array of float64
        keeps the type of a tensor, but not of a variable. On PyTorch it stays a variable, since
        arrays combine only with variables.
        """
        table = _tables.get().get(self)
        if table is not None:
            return table
        table = self.own_table()
        calling = self in _tables.get() and keras.backend.backend() != "torch"
        return table.value if calling and isinstance(table, keras.Variable) else table

    @embeddings.setter
    def embeddings(self, table: keras.Variable | Tensor) -> None:
        if isinstance(table, keras.Variable):
            self._embeddings = table
        elif self not in _tables.get():
            raise AttributeError(
                f"the table of {self.name!r} can be replaced by a tensor only in the call of a "
                "subclass: to change it permanently, write layer.embeddings.assign(values)"
            )
        if self in _tables.get():
            replaced = None if isinstance(table, keras.Variable) else table
            _tables.set({**_tables.get(), self: replaced})


@registered
class Embedding(Adaptable, TableLayer, KerasEmbedding):
    """Token embedding that can also serve as the output projection.

    `layer(token_ids)` looks vectors up; `layer(x, mode='dense')` multiplies x (batch, length, dim)
    by the transposed table and gives one logit per token. With `mask_zero`, id 0 is padding.

    Args:
        *args: see `keras.layers.Embedding`.
        mask_id: the padding id, if it is not 0.
        padding: where padding occurs: 'anywhere' but at position 0, which is always visible, as in
            bert4keras 0.11.5; 'everywhere', also at position 0; or only 'around' the text, before
            and after all other ids, where position 0 of a sequence without other ids is visible.
        ends_text: with 'around', the padding id also ends a text, so that the first one after the
            other ids belongs to the text.
        **kwargs: see `keras.layers.Embedding`.
    """

    matrix_name = "embeddings"

    def __init__(
        self,
        *args: Any,
        mask_id: int = 0,
        padding: str = "anywhere",
        ends_text: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if padding not in ("anywhere", "everywhere", "around"):
            raise ValueError(
                f"padding is 'anywhere', 'everywhere' or 'around' the text, not {padding!r}"
            )
        self.mask_id = mask_id
        self.padding = padding
        self.ends_text = ends_text

    def own_table(self) -> keras.Variable | Tensor:
        return KerasEmbedding.embeddings.fget(self)

    def compute_mask(self, inputs: Tensor, mask: Mask = None) -> Mask:
        if len(inputs.shape) != 2:
            return mask
        if not self.mask_zero:
            return None
        is_token = ops.not_equal(inputs, self.mask_id)
        if self.padding == "everywhere":
            return is_token
        if self.padding == "anywhere":
            return ops.concatenate([ops.ones_like(is_token[:, :1]), is_token[:, 1:]], axis=1)
        return mask_of_padded_text(is_token, self.ends_text)

    def call(self, inputs: Tensor, mode: str = "embedding") -> Tensor:
        if mode == "embedding":
            return super().call(inputs)
        if mode != "dense":
            raise ValueError(f"Embedding has the modes 'embedding' and 'dense', not {mode!r}")
        table = ops.cast(self.embeddings, self.compute_dtype)
        return products_with_rows(ops.cast(inputs, self.compute_dtype), table)

    def compute_output_spec(self, inputs: Tensor, mode: str = "embedding") -> keras.KerasTensor:
        size = self.output_dim if mode == "embedding" else self.input_dim
        leading = inputs.shape if mode == "embedding" else inputs.shape[:-1]
        return keras.KerasTensor((*leading, size), dtype=self.compute_dtype)

    def get_config(self) -> dict:
        return super().get_config() | {
            "mask_id": self.mask_id,
            "padding": self.padding,
            "ends_text": self.ends_text,
        }


def mask_of_padded_text(is_token: Tensor, ends_text: bool) -> Tensor:
    """Compute the mask (batch, length) of sequences that are padded only around their text.

    Args:
        is_token: (batch, length), true where the id is not the padding id.
        ends_text: whether the first padding id after the text belongs to it.
    """
    counts = ops.cumsum(ops.cast(is_token, "int32"), axis=1)
    # The number of tokens before each position, and in all.
    before, total = counts - ops.cast(is_token, "int32"), counts[:, -1:]
    not_after = before < total
    if ends_text:
        first = ops.logical_and(before == total, ops.roll(not_after, 1, axis=1))
        not_after = ops.logical_or(not_after, first)
    visible = ops.logical_and(counts > 0, not_after)
    at_start = ops.cumsum(ops.ones_like(counts), axis=1) == 1
    return ops.logical_or(visible, ops.logical_and(total == 0, at_start))
