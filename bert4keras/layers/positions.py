"""Embeddings of absolute and relative positions."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import initializers, ops
from keras.layers import Layer

from bert4keras.backend.positions import initializer as find_initializer
from bert4keras.backend.positions import scaling_kind, sinusoidal_embeddings
from bert4keras.backend.saving import registered
from bert4keras.backend.tensors import Tensor
from bert4keras.layers.base import Mask, Masks, as_list, mask_list, require_positive
from bert4keras.layers.embeddings import TableLayer


class PositionEmbeddingBase(Layer):
    """Base of the position embeddings: which positions they embed, how they enter the input.

    Args:
        output_dim: size of a position's vector.
        merge_mode: 'add', 'mul', 'concat' (to the input, along the last axis), or 'zero', which
            returns the position vectors alone, (1, length, output_dim) unless they are custom.
        custom_position_ids: the inputs are [x, position ids (batch, length)]; otherwise positions
            count from 0.

    If x is a part of a sequence, `positions=` (batch, length) in the call replaces either.
    """

    def __init__(
        self,
        output_dim: int,
        merge_mode: str = "add",
        custom_position_ids: bool = False,
        **kwargs: Any,
    ) -> None:
        # Position ids must not be rounded to bfloat16 (2049 would become 2048).
        super().__init__(**{"autocast": False, **kwargs})
        # When Keras reads a .h5 file, it replaces the string 'add' by the function of that name.
        merge_mode = getattr(merge_mode, "__name__", merge_mode)
        if merge_mode not in ("add", "mul", "concat", "zero"):
            raise ValueError(f"merge_mode is 'add', 'mul', 'concat' or 'zero', not {merge_mode!r}")
        self.output_dim = output_dim
        self.merge_mode = merge_mode
        self.custom_position_ids = custom_position_ids
        self.supports_masking = True

    def position_vectors(self, position_ids: Tensor) -> Tensor:
        """Look up or compute the vectors (..., output_dim) of position ids of any shape."""
        raise NotImplementedError(f"{type(self).__name__} must define position_vectors()")

    def call(self, inputs: Tensor | Sequence[Tensor], positions: Tensor | None = None) -> Tensor:
        x, *position_ids = inputs if self.custom_position_ids else [inputs]
        if positions is not None:
            position_ids = [positions]
        if not position_ids:
            position_ids = [ops.expand_dims(ops.arange(ops.shape(x)[1], dtype="int32"), 0)]
        positions = ops.cast(self.position_vectors(position_ids[0]), self.compute_dtype)
        if self.merge_mode == "zero":
            return positions
        x = ops.cast(x, self.compute_dtype)
        if self.merge_mode == "add":
            return x + positions
        if self.merge_mode == "mul":
            return x * (positions + 1)
        positions = ops.broadcast_to(positions, (*ops.shape(x)[:2], self.output_dim))
        return ops.concatenate([x, positions], axis=-1)

    def cache_arguments(self, cache: Any, inputs: Any) -> dict[str, Any]:
        """Return the extra arguments of a call whose inputs are a part of a sequence."""
        return {"positions": cache.positions}

    def compute_mask(self, inputs: Any, mask: Masks = None) -> Mask:
        return as_list(mask)[0] if self.custom_position_ids and mask is not None else mask

    def compute_output_spec(self, inputs: Any, positions: Any = None) -> keras.KerasTensor:
        batch, length, size = (inputs[0] if self.custom_position_ids else inputs).shape
        if self.merge_mode == "zero":
            batch, size = batch if self.custom_position_ids else 1, self.output_dim
        elif self.merge_mode == "concat":
            size += self.output_dim
        return keras.KerasTensor((batch, length, size), dtype=self.compute_dtype)

    def get_config(self) -> dict:
        return super().get_config() | {
            "output_dim": self.output_dim,
            "merge_mode": self.merge_mode,
            "custom_position_ids": self.custom_position_ids,
        }


@registered
class PositionEmbedding(TableLayer, PositionEmbeddingBase):
    """Trainable position embedding.

    Args:
        input_dim: number of positions in the table.
        hierarchical: extend the table of n = input_dim vectors p to n² positions: position i·n + j
            gets alpha·u_i + (1 − alpha)·u_j, where u = (p − alpha·p_0) / (1 − alpha)
            (https://kexue.fm/archives/7947). True means alpha = 0.4, a number is alpha.
        embeddings_initializer: initializer of the table.
        **kwargs: see `PositionEmbeddingBase`.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        merge_mode: str = "add",
        hierarchical: bool | float | None = None,
        embeddings_initializer: Any = "zeros",
        custom_position_ids: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(output_dim, merge_mode, custom_position_ids, **kwargs)
        self.input_dim = input_dim
        self.hierarchical = hierarchical
        self.embeddings_initializer = find_initializer(embeddings_initializer)

    def build(self, input_shape: Any) -> None:
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(self.input_dim, self.output_dim),
            initializer=self.embeddings_initializer,
        )

    @property
    def max_length(self) -> int:
        """Number of positions that have a vector."""
        return self.input_dim**2 if self.hierarchical else self.input_dim

    def call(self, inputs: Tensor | Sequence[Tensor], positions: Tensor | None = None) -> Tensor:
        x = inputs[0] if self.custom_position_ids else inputs
        length = x.shape[1]
        from_zero = positions is None and not self.custom_position_ids
        if from_zero and length is not None and length > self.max_length:
            raise ValueError(
                f"{self.name} has vectors for {self.max_length} positions, but the input has "
                f"{length}: truncate texts with maxlen=, or build the model with "
                "hierarchical_position=True"
            )
        return super().call(inputs, positions)

    def position_vectors(self, position_ids: Tensor) -> Tensor:
        position_ids = ops.cast(position_ids, "int32")
        table = self.embeddings
        if not self.hierarchical:
            return ops.take(table, position_ids, axis=0)
        alpha = 0.4 if self.hierarchical is True else self.hierarchical
        table = (table - alpha * table[:1]) / (1 - alpha)
        block = ops.take(table, position_ids // self.input_dim, axis=0)
        within = ops.take(table, position_ids % self.input_dim, axis=0)
        return alpha * block + (1 - alpha) * within

    def get_config(self) -> dict:
        return super().get_config() | {
            "input_dim": self.input_dim,
            "hierarchical": self.hierarchical,
            "embeddings_initializer": initializers.serialize(self.embeddings_initializer),
        }


@registered
class TextPositionEmbedding(PositionEmbedding):
    """Position embedding with positions that exclude padding, as in RoBERTa (Liu et al., 2019).

    Inputs are [x, token ids (batch, length)]. The first token that is not padding has the row
    `padding_id` + 1 of the table, the next one the row after it; padding has the row `padding_id`.

    Args:
        padding_id: the row of padding.
        mask_id: the token id of padding, `padding_id` by default.
        **kwargs: see `PositionEmbedding`, except for `hierarchical` and `custom_position_ids`.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        padding_id: int = 1,
        mask_id: int | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs = {**kwargs, "custom_position_ids": True}
        super().__init__(input_dim, output_dim, **kwargs)
        self.padding_id = padding_id
        self.mask_id = padding_id if mask_id is None else mask_id

    @property
    def max_length(self) -> int:
        """Maximum number of tokens, without the rows up to that of padding."""
        return self.input_dim - self.padding_id - 1

    def rows(self, is_text: Tensor) -> Tensor:
        """Return the rows of the table for a mask (batch, length) of the tokens of text."""
        is_text = ops.cast(is_text, "int32")
        return ops.cumsum(is_text, axis=1) * is_text + self.padding_id

    def call(self, inputs: Sequence[Tensor], positions: Tensor | None = None) -> Tensor:
        x, token_ids = inputs
        if positions is None:
            positions = self.rows(ops.not_equal(token_ids, self.mask_id))
        return super().call([x, positions])

    def cache_arguments(self, cache: Any, inputs: Any) -> dict[str, Any]:
        """Return the extra arguments of a call whose inputs are a part of a sequence."""
        return {"positions": ops.take(self.rows(cache.visible), cache.slots, axis=1)}

    def get_config(self) -> dict:
        config = super().get_config() | {"padding_id": self.padding_id, "mask_id": self.mask_id}
        del config["custom_position_ids"]
        return config


@registered
class SinusoidalPositionEmbedding(PositionEmbeddingBase):
    """Position embedding by sines and cosines, without weights (see `sinusoidal_embeddings`).

    Position ids may be fractions.

    Args:
        base: the wavelengths run from 2π to 2π `base`.
        scaling: how rotary positions are extended beyond the length that a model was trained with:
            None, or a dict of the type 'linear', 'dynamic', 'yarn' or 'llama3' with the keys of
            `rope_scaling` in Hugging Face configs (see `rotary_frequencies`).
        **kwargs: see `PositionEmbeddingBase`.
    """

    def __init__(
        self,
        output_dim: int,
        merge_mode: str = "add",
        custom_position_ids: bool = False,
        base: float = 10000.0,
        scaling: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(output_dim, merge_mode, custom_position_ids, **kwargs)
        scaling_kind(scaling)
        self.base = base
        self.scaling = None if scaling is None else dict(scaling)

    def position_vectors(self, position_ids: Tensor) -> Tensor:
        return sinusoidal_embeddings(position_ids, self.output_dim, self.base, self.scaling)

    def get_config(self) -> dict:
        return super().get_config() | {"base": self.base, "scaling": self.scaling}


@registered
class RelativePositionEmbedding(TableLayer):
    """A trainable vector for each relative position (Shaw et al., 2018; NEZHA).

    Inputs are [query, key], of which only the lengths matter: positions count from 0, unless the
    call is given `positions=` (query positions, key positions). The output (query length, key
    length, output_dim) holds the vector of key position − query position. `MultiHeadAttention`
    takes it as the position bias 'typical_relative'. Distances beyond ±(input_dim − 1) // 2 are
    clipped.

    Args:
        input_dim: number of relative positions in the table: 2 · (largest distance) + 1.
        output_dim: size of a vector.
        embeddings_initializer: initializer of the table.
    """

    def __init__(
        self, input_dim: int, output_dim: int, embeddings_initializer: Any = "zeros", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        require_positive(self, input_dim=input_dim, output_dim=output_dim)
        self.input_dim = input_dim
        self.output_dim = output_dim
        self.embeddings_initializer = find_initializer(embeddings_initializer)

    def build(self, input_shape: Any) -> None:
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(self.input_dim, self.output_dim),
            initializer=self.embeddings_initializer,
        )

    def table_indices(self) -> np.ndarray:
        """Return the index in the table for each distance −d, …, d, to which others are clipped."""
        return np.arange(2 * ((self.input_dim - 1) // 2) + 1)

    def compute_position_ids(
        self, inputs: Sequence[Tensor], positions: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Look up the index in the table for each query and key, (query length, key length)."""
        indices = self.table_indices()
        largest = len(indices) // 2
        indices = ops.convert_to_tensor(indices, dtype="int32")
        if positions is None:
            positions = [ops.arange(ops.shape(x)[1], dtype="int32") for x in inputs]
        query_positions, key_positions = positions
        distance = ops.expand_dims(key_positions, 0) - ops.expand_dims(query_positions, 1)
        return ops.take(indices, ops.clip(distance, -largest, largest) + largest, axis=0)

    def call(self, inputs: Sequence[Tensor], positions: Sequence[Tensor] | None = None) -> Tensor:
        table = ops.cast(self.embeddings, self.compute_dtype)
        return ops.take(table, self.compute_position_ids(inputs, positions), axis=0)

    def cache_arguments(self, cache: Any, inputs: Sequence[Tensor]) -> dict[str, Any]:
        """Return the extra arguments of a call whose inputs are a part of a sequence."""
        keys = cache.visible if inputs[1] is inputs[0] else inputs[1]
        return {"positions": (cache.slots, ops.arange(ops.shape(keys)[1], dtype="int32"))}

    def compute_mask(self, inputs: Sequence[Tensor], mask: Masks = None) -> Mask:
        return mask_list(mask, inputs)[0]

    def compute_output_spec(
        self, inputs: Sequence[Tensor], positions: Sequence[Tensor] | None = None
    ) -> keras.KerasTensor:
        query, key = inputs
        shape = (query.shape[1], key.shape[1], self.output_dim)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def get_config(self) -> dict:
        return super().get_config() | {
            "input_dim": self.input_dim,
            "output_dim": self.output_dim,
            "embeddings_initializer": initializers.serialize(self.embeddings_initializer),
        }


@registered
class RelativePositionTable(RelativePositionEmbedding):
    """The table of `RelativePositionEmbedding` itself, (input_dim, output_dim).

    `DisentangledAttention` takes it as its position bias. Neither the input, any tensor, nor
    `positions=` in the call has an influence.
    """

    def call(self, inputs: Tensor, positions: Any = None) -> Tensor:
        return ops.cast(ops.convert_to_tensor(self.embeddings), self.compute_dtype)

    def cache_arguments(self, cache: Any, inputs: Tensor) -> dict[str, Any]:
        """Return no extra arguments: the table is the same for every part of a sequence."""
        return {}

    def compute_mask(self, inputs: Tensor, mask: Mask = None) -> None:
        return None

    def compute_output_spec(self, inputs: Tensor, positions: Any = None) -> keras.KerasTensor:
        return keras.KerasTensor((self.input_dim, self.output_dim), dtype=self.compute_dtype)


@registered
class RelativePositionEmbeddingT5(RelativePositionEmbedding):
    """A trainable vector for each relative position bucket (T5, https://arxiv.org/abs/1910.10683).

    Half of the buckets hold one distance each; the others grow logarithmically up to
    `max_distance`, and the last one holds all larger distances. With output_dim = heads,
    `MultiHeadAttention` takes the output as the position bias 't5_relative'.

    Args:
        input_dim: number of buckets.
        output_dim: size of a vector: one value per head.
        max_distance: distance from which on there is a single bucket.
        bidirectional: distinguish keys after the query from keys before it, with half of the
            buckets for each (encoder). Otherwise keys after the query have distance 0 (decoder).
        embeddings_initializer: initializer of the table.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        max_distance: int = 128,
        bidirectional: bool = True,
        embeddings_initializer: Any = "zeros",
        **kwargs: Any,
    ) -> None:
        super().__init__(input_dim, output_dim, embeddings_initializer, **kwargs)
        require_positive(self, max_distance=max_distance)
        self.max_distance = max_distance
        self.bidirectional = bidirectional
        one_way = input_dim // 2 if bidirectional else input_dim
        if not 1 <= one_way // 2 < max_distance:
            raise ValueError(
                f"RelativePositionEmbeddingT5 got input_dim={input_dim} and max_distance="
                f"{max_distance}: give at least {4 if bidirectional else 2} buckets, and a "
                "distance beyond those that have a bucket of their own"
            )

    def table_indices(self) -> np.ndarray:
        distance = np.arange(-self.max_distance, self.max_distance + 1)
        buckets = self.input_dim // 2 if self.bidirectional else self.input_dim
        back = np.abs(distance) if self.bidirectional else np.maximum(-distance, 0)
        exact = buckets // 2
        growth = np.log(np.maximum(back, 1) / exact) / np.log(self.max_distance / exact)
        shared = exact + (growth * (buckets - exact)).astype("int32")
        indices = np.where(back < exact, back, np.minimum(shared, buckets - 1))
        return indices + buckets * (distance > 0) if self.bidirectional else indices

    def get_config(self) -> dict:
        return super().get_config() | {
            "max_distance": self.max_distance,
            "bidirectional": self.bidirectional,
        }
