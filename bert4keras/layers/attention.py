"""Multi-head attention, and the disentangled attention of DeBERTa."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import initializers, ops

from bert4keras.backend.attention import (
    attention_normalize,
    attention_scores,
    attention_visibility,
    dot_product_attention,
    weighted_values,
)
from bert4keras.backend.engines import recompute_grad
from bert4keras.backend.positions import apply_rotary_position_embeddings
from bert4keras.backend.saving import registered
from bert4keras.backend.tensors import Tensor, align
from bert4keras.layers.base import Dropout, Masks, Recomputable, built_dense, mask_list
from bert4keras.layers.normalisation import LayerNormalization
from bert4keras.layers.padding import MaskReader

Keys = Tensor | list[Tensor]
"""(batch, key length, key heads, size), or consecutive parts as returned by `laid_out`."""


@registered
class MultiHeadAttention(MaskReader, Recomputable):
    """Multi-head attention (Vaswani et al., 2017) with the biases and positions of its successors.

    Inputs are a list [query, key, value, *biases], each of the first three (batch, length, size).
    `a_bias=True` in the call says that an attention bias follows: boolean (true where visible) or
    float (added to the scores), (batch, query length, key length) or with the heads on axis 1.
    `p_bias` names a position bias that comes after it:

    * 'rotary': (batch or 1, length, key size) sinusoidal vectors by which queries and keys are
      rotated, in pairs of neighbouring features (RoFormer);
    * 'rotary_half': the same in pairs (i, i + key size / 2) (LLaMA, Qwen, ModernBERT);
    * 'typical_relative': (query length, key length, head size) vectors added to keys and to values
      (Shaw et al., 2018; NEZHA); if key size and head size differ, those for the keys and those for
      the values, one after the other on the last axis;
    * 't5_relative': (query length, key length, heads) numbers added to the scores.

    The mask of the value input hides keys; the mask of the output is that of the query. A query for
    which every key is hidden, by masks or by minus infinity in a float bias, gets zeros. Softmax
    attention runs in one kernel (`dot_product_attention`), unless the scores are returned, or
    attention dropout in training or 'typical_relative' needs the weights.

    With `cache=` in the call, the `LayerCache` of a KV cache, the inputs are a part of a sequence.
    They attend to the keys and values of the sequence so far, with the mask of the cache.

    Args:
        heads: number of heads.
        head_size: size of a head's value.
        out_dim: size of the output, heads · head_size by default.
        key_size: size of a head's query and key, head_size by default.
        use_bias: whether the projections of query, key and value have a bias.
        normalization: see `attention_normalize`.
        attention_scale: divide scores by √key_size; or the number that they are multiplied by.
        attention_dropout: dropout rate of the attention weights.
        return_attention_scores: also return the scores (batch, heads, query length, key length),
            after position bias and scaling, before attention bias, mask and normalisation.
        kernel_initializer: initializer of the four kernels.
        key_value_heads: number of heads of keys and values, `heads` by default. Each serves the
            same number of neighbouring query heads (grouped-query attention,
            https://arxiv.org/abs/2305.13245).
        out_bias: whether the output projection has a bias, `use_bias` by default.
        query_key_norm: if given, every head's query and key are divided by their root mean square
            and multiplied by a trainable gamma before rotation, as in Qwen3; this is the epsilon.
        norm_around_one: whether they are multiplied by 1 + gamma, see `LayerNormalization`.
    """

    position_biases = ("rotary", "rotary_half", "typical_relative", "t5_relative")
    n_sequences = 3

    def __init__(
        self,
        heads: int,
        head_size: int,
        out_dim: int | None = None,
        key_size: int | None = None,
        use_bias: bool = True,
        normalization: str = "softmax",
        attention_scale: bool | float = True,
        attention_dropout: float | None = None,
        return_attention_scores: bool = False,
        kernel_initializer: Any = "glorot_uniform",
        key_value_heads: int | None = None,
        out_bias: bool | None = None,
        query_key_norm: float | None = None,
        norm_around_one: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.heads = heads
        self.head_size = head_size
        self.out_dim = out_dim or heads * head_size
        self.key_size = key_size or head_size
        self.use_bias = use_bias
        self.normalization = normalization
        self.attention_scale = attention_scale
        self.attention_dropout = attention_dropout
        self.return_attention_scores = return_attention_scores
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.key_value_heads = key_value_heads or heads
        if heads % self.key_value_heads:
            raise ValueError(
                f"{heads} heads cannot share {key_value_heads} key and value heads evenly: "
                "key_value_heads must divide heads"
            )
        self.out_bias = use_bias if out_bias is None else out_bias
        self.query_key_norm = query_key_norm
        self.norm_around_one = norm_around_one
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        query, key, value = (tuple(shape) for shape in input_shape[:3])
        values = self.heads * self.head_size
        self.q_dense = built_dense(self, "q_dense", self.heads * self.key_size, query)
        self.k_dense = built_dense(self, "k_dense", self.key_value_heads * self.key_size, key)
        self.v_dense = built_dense(self, "v_dense", self.key_value_heads * self.head_size, value)
        self.o_dense = built_dense(
            self, "o_dense", self.out_dim, (*query[:-1], values), use_bias=self.out_bias
        )
        if self.query_key_norm:
            self.q_norm, self.k_norm = self.head_norm("q_norm"), self.head_norm("k_norm")
        if self.attention_dropout:
            self.dropout = Dropout(self.attention_dropout, dtype=self.dtype_policy, name="dropout")

    def head_norm(self, name: str) -> LayerNormalization:
        """Create and build the normalisation of the queries or keys of each head."""
        norm = LayerNormalization(
            zero_mean=False,
            offset=False,
            epsilon=self.query_key_norm,
            around_one=self.norm_around_one,
            dtype=self.dtype_policy,
            name=name,
        )
        norm.build((None, None, self.heads, self.key_size))
        return norm

    @staticmethod
    def split_heads(x: Tensor, heads: int, size: int) -> Tensor:
        """Reshape (batch, length, heads · size) to (batch, length, heads, size)."""
        # With the batch size in place of -1, tf2onnx mistakes the length for the batch.
        return ops.reshape(x, (-1, ops.shape(x)[1], heads, size))

    @recompute_grad
    def call(
        self,
        inputs: Sequence[Tensor],
        mask: Masks = None,
        a_bias: bool | None = None,
        p_bias: str | None = None,
        cache: Any = None,
        training: bool | None = None,
        seed: Tensor | None = None,
    ) -> Tensor | list[Tensor]:
        query, key, value, *biases = inputs
        key_mask = mask_list(mask, inputs)[2]
        attention_bias = self.with_heads_axis(biases.pop(0)) if a_bias else None
        position_bias = biases.pop(0) if p_bias else None
        query = self.projected_query(query, position_bias, p_bias)
        if cache is None:
            key, value = self.projected_keys(key, value, position_bias, p_bias)
        else:
            key, value, key_mask = cache.keys_and_values(
                lambda: self.projected_keys(key, value, position_bias, p_bias)
            )
        added = self.position_scores(query, key, position_bias, p_bias, cache)
        if self.needs_no_scores(p_bias, training):
            visible, bias = attention_visibility(key_mask, attention_bias, query.dtype)
            if added is not None:
                bias = added if bias is None else bias + added
            output = dot_product_attention(query, key, value, self.score_scale, visible, bias)
            return self.merge_heads(output)
        scores = attention_scores(query, key) * ops.cast(self.score_scale, query.dtype)
        scores = scores if added is None else scores + added
        weights = attention_normalize(scores, key_mask, -1, self.normalization, attention_bias)
        if self.attention_dropout:
            weights = self.dropout(weights, training=training, seed=seed)
        output = weighted_values(weights, value)
        if p_bias == "typical_relative":
            position_bias = ops.cast(position_bias[..., -self.head_size :], weights.dtype)
            output = output + ops.einsum("bhqk,qkd->bqhd", weights, position_bias)
        output = self.merge_heads(output)
        return [output, scores] if self.return_attention_scores else output

    def projected_query(
        self, query: Tensor, position_bias: Tensor | None, p_bias: str | None
    ) -> Tensor:
        """Compute queries (batch, query length, heads, key size), rotated by rotary positions."""
        query = self.split_heads(self.q_dense(query), self.heads, self.key_size)
        if self.query_key_norm:
            query = self.q_norm(query)
        return self.rotated(query, position_bias, p_bias)

    def projected_keys(
        self, key: Tensor, value: Tensor, position_bias: Tensor | None, p_bias: str | None
    ) -> tuple[Tensor, Tensor]:
        """Compute keys and values (batch, key length, key heads, size), keys rotated likewise."""
        key = self.split_heads(self.k_dense(key), self.key_value_heads, self.key_size)
        value = self.split_heads(self.v_dense(value), self.key_value_heads, self.head_size)
        if self.query_key_norm:
            key = self.k_norm(key)
        return self.rotated(key, position_bias, p_bias), value

    @staticmethod
    def rotated(x: Tensor, position_bias: Tensor | None, p_bias: str | None) -> Tensor:
        """Rotate queries or keys by their positions if the position bias is rotary."""
        if p_bias not in ("rotary", "rotary_half"):
            return x
        return apply_rotary_position_embeddings(position_bias, x, half=p_bias == "rotary_half")

    def needs_no_scores(self, p_bias: str | None, training: bool | None) -> bool:
        """Tell whether softmax attention can run in one kernel that keeps no scores or weights."""
        return (
            self.normalization == "softmax"
            and not self.return_attention_scores
            and not (self.attention_dropout and training)
            and p_bias != "typical_relative"
        )

    @property
    def score_scale(self) -> float:
        """Factor by which scores are multiplied."""
        if isinstance(self.attention_scale, bool):
            return self.key_size**-0.5 if self.attention_scale else 1.0
        return self.attention_scale

    def position_scores(
        self,
        query: Tensor,
        key: Keys,
        position_bias: Tensor | None,
        p_bias: str | None,
        cache: Any = None,
    ) -> Tensor | None:
        """Compute what the position bias adds to the scaled scores, broadcastable to them."""
        if p_bias not in ("typical_relative", "t5_relative"):
            return None
        position_bias = ops.cast(position_bias, query.dtype)
        if p_bias == "typical_relative":
            added = ops.einsum("bqhd,qkd->bhqk", query, position_bias[..., : self.key_size])
        else:
            added = ops.expand_dims(ops.transpose(position_bias, (2, 0, 1)), 0)
        return added * ops.cast(self.score_scale, added.dtype)

    def merge_heads(self, output: Tensor) -> Tensor:
        """Merge the heads of (batch, length, heads, head size) and apply the output projection."""
        batch, length = ops.shape(output)[:2]
        return self.o_dense(ops.reshape(output, (batch, length, self.heads * self.head_size)))

    @staticmethod
    def with_heads_axis(bias: Tensor | None) -> Tensor | None:
        """Insert an axis of heads of size 1 into an attention bias that has none."""
        return bias if bias is None or len(bias.shape) == 4 else align(bias, [0, -2, -1], 4)

    def cache_arguments(self, cache: Any, inputs: Sequence[Tensor]) -> dict[str, Any]:
        """Return the extra arguments of a call whose inputs are a part of a sequence."""
        return {"cache": cache.of_attention(to_context=inputs[1] is not inputs[0])}

    def compute_mask(self, inputs: Sequence[Tensor], mask: Masks = None) -> Any:
        query_mask = mask_list(mask, inputs)[0]
        return [query_mask, None] if self.return_attention_scores else query_mask

    def compute_output_spec(
        self,
        inputs: Sequence[Tensor],
        mask: Masks = None,
        a_bias: bool | None = None,
        p_bias: str | None = None,
        cache: Any = None,
        training: bool | None = None,
    ) -> Any:
        known = (None, *self.position_biases)
        if p_bias not in known:
            raise ValueError(f"p_bias is one of {known}, not {p_bias!r}")
        if len(inputs) < 3 + bool(a_bias) + bool(p_bias):
            raise ValueError(
                f"{self.name} got {len(inputs)} inputs with a_bias={a_bias} and p_bias={p_bias!r}: "
                "it takes [query, key, value] and then the attention bias and the position bias"
            )
        (batch, length), keys = inputs[0].shape[:2], inputs[1].shape[1]
        output = keras.KerasTensor((batch, length, self.out_dim), dtype=self.compute_dtype)
        if not self.return_attention_scores:
            return output
        return [
            output,
            keras.KerasTensor((batch, self.heads, length, keys), dtype=self.compute_dtype),
        ]

    def get_config(self) -> dict:
        return super().get_config() | {
            "heads": self.heads,
            "head_size": self.head_size,
            "out_dim": self.out_dim,
            "key_size": self.key_size,
            "use_bias": self.use_bias,
            "normalization": self.normalization,
            "attention_scale": self.attention_scale,
            "attention_dropout": self.attention_dropout,
            "return_attention_scores": self.return_attention_scores,
            "kernel_initializer": initializers.serialize(self.kernel_initializer),
            "key_value_heads": self.key_value_heads,
            "out_bias": self.out_bias,
            "query_key_norm": self.query_key_norm,
            "norm_around_one": self.norm_around_one,
        }


@registered
class DisentangledAttention(MultiHeadAttention):
    """Attention of DeBERTa v2 and v3 (He et al., 2021, https://arxiv.org/abs/2006.03654).

    Three products make up a score: of query and key (content to content), of the query with a key
    computed from the relative position (content to position), and of the key with a query computed
    from it (position to content). The latter two come from a table of relative position embeddings
    through the projections of the content (`share_att_key`). The call takes the table as
    `p_bias='disentangled'`: (2 · buckets, size of the query input), where index `buckets + b` is
    bucket b of the query position minus the key position. Distances up to half the buckets have a
    bucket each, larger ones share logarithmic buckets. Queries and keys belong to one sequence.

    Args:
        buckets: number of buckets in either direction (`position_buckets` in configs).
        max_distance: distance from which on all share the last bucket (`max_relative_positions`, or
            `max_position_embeddings` where that is negative).
        **kwargs: see `MultiHeadAttention`.
    """

    position_biases = ("disentangled",)

    def __init__(
        self,
        heads: int,
        head_size: int,
        *args: Any,
        buckets: int = 256,
        max_distance: int = 512,
        **kwargs: Any,
    ) -> None:
        super().__init__(heads, head_size, *args, **kwargs)
        if self.key_value_heads != heads:
            raise ValueError("DisentangledAttention has no grouped queries: omit key_value_heads")
        self.buckets = buckets
        self.max_distance = max_distance

    @property
    def score_scale(self) -> float:
        """Factor by which scores, which are sums of three products, are multiplied."""
        return (3 * self.key_size) ** -0.5 if self.attention_scale else 1.0

    def table_indices(self) -> np.ndarray:
        """Return the table index of each distance from −`max_distance` to `max_distance`."""
        exact = self.buckets // 2
        distances = np.arange(self.max_distance + 1, dtype="float32")
        # In float32, as in the published code: the bucket is rounded up.
        steps = np.log(np.maximum(distances, exact) / np.float32(exact))
        steps /= np.log(np.float32((self.max_distance - 1) / exact))
        shared = np.ceil(steps * np.float32(exact - 1)) + exact
        buckets = np.where(distances <= exact, distances, shared).astype("int32")
        signed = np.concatenate([-buckets[:0:-1], buckets])
        return np.clip(signed + self.buckets, 0, 2 * self.buckets - 1)

    def position_scores(
        self,
        query: Tensor,
        key: Keys,
        position_bias: Tensor | None,
        p_bias: str | None,
        cache: Any = None,
    ) -> Tensor | None:
        if p_bias is None:
            return None
        table = ops.cast(position_bias, query.dtype)
        if isinstance(key, list):
            added = self.scores_of_parts(query, key, table, cache.positions)
        else:
            added = self.scores_of_sequence(query, key, table)
        return added * ops.cast(self.score_scale, added.dtype)

    def scores_of_sequence(self, query: Tensor, key: Tensor, table: Tensor) -> Tensor:
        """Compute the relative position scores of a sequence, (batch, heads, length, length)."""
        length = ops.shape(query)[1]
        # Distances run from −(length − 1) to length − 1. One more, −length for the keys and length
        # for the queries, makes the rows as wide as the relative shift takes them.
        keys, queries = self.projected_table(table, (ops.arange(2 * length + 1) - length)[None])
        to_position = relative_shift(attention_scores(query, ops.flip(keys[:, :-1], axis=1)))
        from_position = relative_shift(attention_scores(key, queries[:, 1:]))
        return to_position + ops.transpose(from_position, (0, 1, 3, 2))

    def scores_of_parts(
        self, query: Tensor, parts: list[Tensor], table: Tensor, positions: Tensor
    ) -> Tensor:
        """Compute them for queries at `positions` and parts of keys as returned by `laid_out`."""
        ends = np.cumsum([part.shape[3] for part in parts]).tolist()
        distances = positions[:, None] - ops.arange(ends[-1], dtype="int32")
        keys, queries = self.projected_table(table, distances)
        to_position = ops.einsum("bqhd,qkhd->bhqk", query, keys)
        from_position = [
            ops.repeat(
                ops.einsum("bhdk,qkhd->bhqk", part, queries[:, end - part.shape[3] : end]),
                query.shape[0] // part.shape[0],
                axis=0,
            )
            for part, end in zip(parts, ends, strict=True)
        ]
        return to_position + ops.concatenate(from_position, axis=-1)

    def projected_table(self, table: Tensor, distances: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the keys and queries (n, length, heads, size) of distances (n, length)."""
        largest = self.max_distance
        indices = ops.convert_to_tensor(self.table_indices())
        indices = ops.take(indices, ops.clip(distances, -largest, largest) + largest)
        vectors = ops.take(table, indices, axis=0)
        keys = self.split_heads(self.k_dense(vectors), self.key_value_heads, self.key_size)
        return keys, self.split_heads(self.q_dense(vectors), self.heads, self.key_size)

    def get_config(self) -> dict:
        return super().get_config() | {
            "buckets": self.buckets,
            "max_distance": self.max_distance,
        }


def relative_shift(scores: Tensor) -> Tensor:
    """Select the columns `length − 1 − i` to `2 · length − 2 − i` of every row i.

    This is the relative shift of Dai et al., 2019 (https://arxiv.org/abs/1901.02860): read end to
    end as rows that are shorter by one, each row starts one column earlier, without a gather.

    Args:
        scores: (batch, heads, length, 2 · length), whose last column is not read.

    Returns:
        (batch, heads, length, length).
    """
    batch, heads, length, width = ops.shape(scores)
    flat = ops.reshape(scores, (batch, heads, length * width))
    flat = flat[..., length - 1 : length - 1 + length * (width - 1)]
    return ops.reshape(flat, (batch, heads, length, width - 1))[..., :length]
