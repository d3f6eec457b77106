"""`Block`, what differs between the blocks of architectures, and the hooks that build a block."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bert4keras.backend.tensors import Tensor
from bert4keras.layers.attention import MultiHeadAttention
from bert4keras.layers.base import Dropout, as_list
from bert4keras.layers.feed_forward import FeedForward
from bert4keras.layers.masks import AttentionBias
from bert4keras.layers.merging import Add, Concatenate1D
from bert4keras.layers.normalisation import LayerNormalization
from bert4keras.models.initializers import Initialized

if TYPE_CHECKING:
    from bert4keras.models.transformer import Transformer


@dataclass(frozen=True)
class Block:
    """What differs between the Transformer blocks of architectures.

    Attributes:
        attention_norms: where the attention sub-layer is normalised: 'pre' (its input), 'inner'
            (its output) and 'post' (after the residual sum); two of them at most.
        feed_forward_norms: likewise for the feed-forward sub-layer.
        epsilon: epsilon of the layer normalisations.
        zero_mean, scale, offset, around_one: arguments of `LayerNormalization`.
        position_bias: how positions enter attention, the `p_bias` of `MultiHeadAttention`.
        use_bias: whether attention and feed-forward have biases.
        attention_bias: whether queries, keys and values have biases, `use_bias` by default.
        attention_scale: whether scores are divided by √key_size, or what they are multiplied by.
        query_key_norm: whether the query and the key of each head are normalised.
        attention: the attention layer.
        gated: whether feed-forward layers multiply activation(x·W0) by x·W1.
        name: prefix of the names of the layers of block number i.
    """

    attention_norms: tuple[str, ...] = ("post",)
    feed_forward_norms: tuple[str, ...] = ("post",)
    epsilon: float = 1e-12
    zero_mean: bool = True
    scale: bool = True
    offset: bool = True
    around_one: bool = False
    position_bias: str | None = None
    use_bias: bool = True
    attention_bias: bool | None = None
    attention_scale: bool | float = True
    query_key_norm: bool = False
    attention: type[MultiHeadAttention] = MultiHeadAttention
    gated: bool = False
    name: str = "Transformer-{i}"


class Blocks(Initialized):
    """The hooks that compute the output of a block from its input, a part of `Transformer`."""

    block = Block()

    def block_of(self, index: int) -> Block:
        """Hook: return the block number `index`, by default `block`.

        Blocks may differ in where they are normalised (`attention_norms`, `feed_forward_norms`) and
        in `name`, but not in other attributes.
        """
        return self.block

    def apply_main_layers(self, inputs: Any, index: int) -> Any:
        """Hook: apply one block, with cross-attention to the context for inputs [context, x]."""
        *context, x = listed(inputs)
        attention_bias = self.compute_attention_bias(index)
        position_bias = self.compute_position_bias(self.simplify([x, *context]))
        cross_position_bias = None
        if context:
            position_bias, cross_position_bias = position_bias
        block = self.block_of(index)
        name = block.name.format(i=index)
        x = self.apply_residual(
            x,
            lambda x, name: self.apply_attention(x, x, name, attention_bias, position_bias),
            f"{name}-MultiHeadSelfAttention",
            block.attention_norms,
        )
        if context:
            x = self.apply_residual(
                x,
                lambda x, name: self.apply_attention(
                    x, context[0], name, None, cross_position_bias
                ),
                f"{name}-MultiHeadCrossAttention",
                block.attention_norms,
            )
        norms = block.feed_forward_norms
        x = self.apply_residual(x, self.apply_feed_forward, f"{name}-FeedForward", norms)
        return self.simplify([*context, x])

    def compute_attention_bias(self, inputs: Any = None) -> Tensor | None:
        """Hook: compute the attention bias of every block, the `a_bias` of `MultiHeadAttention`."""
        return self.attention_bias

    def compute_position_bias(self, inputs: Any = None) -> Tensor | None:
        """Hook: compute the position bias of every block, the `p_bias` of `MultiHeadAttention`."""
        return self.position_bias

    def apply_residual(
        self, x: Tensor, sub_layer: Callable, name: str, norms: tuple[str, ...]
    ) -> Tensor:
        """Apply a sub-layer with dropout, residual sum and the normalisations before and after it.

        A single normalisation is called `{name}-Norm`, two are `{name}-Norm-0` and `{name}-Norm-1`.
        """
        inputs = x
        names = [f"{name}-Norm-0", f"{name}-Norm-1"] if len(norms) == 2 else [f"{name}-Norm"] * 2
        if "pre" in norms:
            x = self.apply_norm(x, names[0])
        x = sub_layer(x, name)
        if "inner" in norms:
            x = self.apply_norm(x, names[1])
        x = self.apply(x, Dropout, name=f"{name}-Dropout", rate=self.dropout_rate)
        x = self.apply([inputs, x], Add, name=f"{name}-Add")
        if "post" in norms:
            x = self.apply_norm(x, names[1])
        return x

    def apply_norm(self, x: Tensor, name: str) -> Tensor:
        """Apply a layer normalisation, conditional if the model has a condition."""
        condition, hidden_units, hidden_activation = self.layer_norm_conds
        if not self.block.scale and not self.block.offset:
            condition = None  # there are no parameters that it could change
        return self.apply(
            self.simplify([x, condition]),
            LayerNormalization,
            zero_mean=self.block.zero_mean,
            scale=self.block.scale,
            offset=self.block.offset,
            around_one=self.block.around_one,
            conditional=condition is not None,
            hidden_units=hidden_units,
            hidden_activation=hidden_activation,
            hidden_initializer=self.initializer,
            epsilon=self.block.epsilon,
            name=name,
        )

    def apply_attention(
        self,
        x: Tensor,
        context: Tensor,
        name: str,
        attention_bias: Tensor | None,
        position_bias: Tensor | None,
    ) -> Tensor:
        """Apply the attention layer of a block, of `x` to `context`, with biases of the hooks."""
        block = self.block
        return self.apply(
            [t for t in (x, context, context, attention_bias, position_bias) if t is not None],
            block.attention,
            arguments={
                "a_bias": None if attention_bias is None else True,
                "p_bias": None if position_bias is None else block.position_bias,
            },
            heads=self.num_attention_heads,
            head_size=self.attention_head_size,
            out_dim=self.hidden_size,
            key_size=self.attention_key_size,
            use_bias=block.use_bias if block.attention_bias is None else block.attention_bias,
            out_bias=block.use_bias,
            attention_scale=block.attention_scale,
            attention_dropout=self.attention_dropout_rate,
            query_key_norm=block.epsilon if block.query_key_norm else None,
            norm_around_one=block.around_one,
            kernel_initializer=self.initializer,
            name=name,
            **self.attention_sizes,
        )

    @property
    def attention_sizes(self) -> dict[str, int]:
        """Further arguments of the attention layers of this architecture."""
        return {}

    def apply_feed_forward(self, x: Tensor, name: str) -> Tensor:
        """Apply the feed-forward layer of a block."""
        return self.apply(
            x,
            FeedForward,
            units=self.intermediate_size,
            activation=self.activations,
            use_bias=self.block.use_bias,
            kernel_initializer=self.initializer,
            name=name,
        )

    @property
    def activations(self) -> list[Any]:
        """Activations of the feed-forward layers, several if they are gated."""
        given = as_list(self.hidden_act) or ["linear"]
        return [*given, "linear"] if self.block.gated else given


def check_blocks(transformer: "Transformer") -> None:
    """Check that blocks differ only in the attributes that `Blocks.block_of` may change.

    Raises:
        ValueError: another attribute differs.
    """
    for index in range(transformer.num_hidden_layers):
        block = transformer.block_of(index)
        norms = {x: getattr(block, x) for x in ("attention_norms", "feed_forward_norms")}
        if replace(transformer.block, name=block.name, **norms) != block:
            raise ValueError(
                f"block_of({index}) is {block}, and block is {transformer.block}: they may differ "
                "in attention_norms, feed_forward_norms and name only. Override apply_attention "
                "or apply_feed_forward for other layers"
            )


def call_attention(
    transformer: "Transformer",
    layer: MultiHeadAttention,
    inputs: list,
    arguments: dict[str, Any],
) -> Tensor:
    """Call an attention layer with the `attention_caches` and residual scores that there are."""
    name = layer.name.removeprefix(transformer.prefix)
    if layer.name in transformer.attention_caches:
        caches = transformer.attention_caches[layer.name]
        joined = [
            transformer.apply([cache, x], Concatenate1D, name=f"{name}-Cached-{kind}")
            for kind, cache, x in zip(("Key", "Value"), caches, inputs[1:3], strict=True)
        ]
        inputs = [inputs[0], *joined, *inputs[3:]]
    if not layer.return_attention_scores:
        return layer(inputs, **arguments)
    kind = name.rsplit("-", 1)[-1]  # scores of transformer-attention and cross-attention do not mix
    bias = transformer.attention_scores.get(kind)
    if bias is not None:
        rest = inputs[3:]
        if arguments.get("a_bias"):
            bias = transformer.apply([rest[0], bias], AttentionBias, name=f"{name}-Attention-Bias")
            rest = rest[1:]
        inputs = [*inputs[:3], bias, *rest]
        arguments["a_bias"] = True
    outputs, transformer.attention_scores[kind] = layer(inputs, **arguments)
    return outputs


def listed(value: Any) -> list:
    """Return a list of one tensor or of several."""
    return list(value) if isinstance(value, list | tuple) else [value]
