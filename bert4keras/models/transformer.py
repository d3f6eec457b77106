"""What architectures share: the block as data, layers by name, weights in and out, masks."""

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from keras.layers import Activation, Dense, Input

from bert4keras import checkpoints
from bert4keras.backend import Tensor, activation, keras
from bert4keras.checkpoints import CheckpointError, Dialect, Signature
from bert4keras.checkpoints.names import RULE
from bert4keras.layers import (
    Add,
    AttentionBias,
    Concatenate1D,
    Dropout,
    Embedding,
    FeedForward,
    LayerNormalization,
    LMMask,
    MultiHeadAttention,
    Recomputable,
    ScaleOffset,
    UniLMMask,
    as_list,
)
from bert4keras.models import fitting, pretrained, registry
from bert4keras.models.cache import Cache
from bert4keras.models.family import Family
from bert4keras.models.initializers import InitializerMethod
from bert4keras.models.model import Model, assign, some, to_numpy, weight_name
from bert4keras.models.settings import Allowed
from bert4keras.models.vocabulary_record import recorded_vocabulary, saved_size, vocabulary_record
from bert4keras.snippets import orthogonally_resize


@dataclass(frozen=True)
class Block:
    """What differs between the Transformer blocks of architectures.

    Attributes:
        attention_norms: where the attention sub-layer is normalised: 'pre' (its input), 'post'
            (after the residual sum), both or neither.
        feed_forward_norms: likewise for the feed-forward sub-layer.
        epsilon: of every layer normalisation.
        zero_mean, scale, offset: of every layer normalisation, see `LayerNormalization`.
        position_bias: how positions enter attention, the `p_bias` of `MultiHeadAttention`.
        use_bias: whether attention and feed-forward have biases.
        attention_bias: whether queries, keys and values have biases, `use_bias` by default.
        attention_scale: whether scores are divided by √key_size.
        query_key_norm: whether the query and the key of each head are normalised.
        attention: the attention layer.
        gated: whether feed-forward layers multiply activation(x·W0) by x·W1.
        name: what the names of the layers of block number i begin with.
    """

    attention_norms: tuple[str, ...] = ("post",)
    feed_forward_norms: tuple[str, ...] = ("post",)
    epsilon: float = 1e-12
    zero_mean: bool = True
    scale: bool = True
    offset: bool = True
    position_bias: str | None = None
    use_bias: bool = True
    attention_bias: bool | None = None
    attention_scale: bool = True
    query_key_norm: bool = False
    attention: type[MultiHeadAttention] = MultiHeadAttention
    gated: bool = False
    name: str = "Transformer-{i}"


class Transformer:
    """Base of the architectures: creates layers by name, stacks blocks, reads and writes weights.

    Args:
        vocab_size: number of tokens in the checkpoint, before `keep_tokens`, `compound_tokens`.
        hidden_size: size of a token's vector.
        num_hidden_layers: number of blocks.
        num_attention_heads: heads of each attention.
        intermediate_size: size inside the feed-forward layers.
        hidden_act: their activation, or a list of activations for gated ones, see `FeedForward`;
            heads take the first of these.
        dropout_rate: dropout after embeddings and sub-layers.
        attention_dropout_rate: dropout of attention weights.
        embedding_size: size of the embeddings, `hidden_size` by default; another size is mapped.
        attention_head_size: size of a head, hidden_size / num_attention_heads by default.
        attention_key_size: size of a head's query and key, attention_head_size by default.
        initializer_range: standard deviation of initial kernels.
        layer_norm_epsilon: of every layer normalisation, that of the architecture by default.
        sequence_length: fixed length of the inputs; any length by default.
        pad_token_id: token that is padding and hidden from attention, in the numbering of the
            checkpoint; that of the architecture by default.
        eos_token_id: token, or tokens, that end a text or a turn. Where one of them is
            `pad_token_id` as well, a language model takes it for padding around a text only, and
            the first one after the text for its end.
        keep_tokens: token ids to keep, in the new order: a smaller vocabulary.
        compound_tokens: new tokens, each an average of old ones: a list of ids, or a pair (ids,
            weights). They come after the kept ones.
        residual_attention_scores: add the scores of the block before (He et al., 2020, RealFormer).
        ignore_invalid_weights: leave variables that the checkpoint lacks at their initial values.
        autoresize_weights: cut or repeat variables of other sizes (https://kexue.fm/archives/8444).
        recompute: whether training computes the inner results of attention, feed-forward and gated
            attention layers twice instead of keeping them, which takes less memory and more time;
            as the environment variable RECOMPUTE (0 or 1) says by default.
        layers: layers by name to use instead of new ones, which shares their weights.
        prefix: put before the name of every layer.
        name: name of the model.
    """

    block = Block()
    model_type = ""
    """What Hugging Face calls the architecture, that of one of `families`."""
    families: tuple[Family, ...] = ()
    """How its `config.json` describes the architecture."""
    dialect: Dialect = RULE
    """How its files call the variables, where that does not follow from the official names."""
    signatures: tuple[Signature, ...] = ()
    """What tells that a weight file is of the architecture."""
    allowed_settings: ClassVar[Mapping[str, Allowed]] = {}
    """What the arguments may be that only this architecture has."""
    telling_settings: tuple[str, ...] = ()
    """Keys of config files that tell the architecture; the first is True in the original's."""
    head_layers: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """What the names of the layers of a head begin with → arguments that ask for the head."""
    arguments_of_hugging_face: ClassVar[Mapping[str, Any]] = {}
    """Arguments that concern no weight, and of which Hugging Face has one value only."""
    applications: tuple[str, ...] = ("encoder", "lm", "unilm")
    """What `build_transformer_model` can make of the architecture."""
    refused_arguments: tuple[str, ...] = ()
    """Arguments of the base that the architecture cannot honour."""
    variable_names: ClassVar[Mapping[str, Sequence[str]]] = {}
    """Layer → its variables in official checkpoints, in weight order; with {i}, for each block.

    Variables with {gate} are there once for each activation of gated feed-forward layers: '' for
    the first, '_1' for the second, and so on.
    """
    computed_layers: tuple[str, ...] = ()
    """Layers whose weights are computed and in no checkpoint."""
    vocabulary_variables: tuple[str, ...] = ()
    """Variables whose first axis is the vocabulary."""
    vocabulary_kernels: tuple[str, ...] = ()
    """Variables whose last axis is the vocabulary."""
    head_argument = "with_mlm"
    """The argument that says which activation token scores get."""
    pad_token_id: int | None = 0
    """Which token is padding; None hides no token."""
    padding = "anywhere"
    """Where that token is padding, see `Embedding`."""
    pad_ends_text = False
    """Whether it ends a text as well."""
    fixed_settings: ClassVar[Mapping[str, Sequence[Any]]] = {}
    """Settings of config files of which only these values are implemented."""
    transposed_variables: tuple[str, ...] = ()
    """Ends of the names of variables that are stored transposed."""
    foreign_variables: tuple[str, ...] = ()
    """Variables that tell a checkpoint of another architecture, although all of ours are in it."""
    takes_gates = True
    """Whether `hidden_act` may be a list, which gates the feed-forward layers."""

    def __init__(
        self,
        vocab_size: int,
        hidden_size: int,
        num_hidden_layers: int,
        num_attention_heads: int,
        intermediate_size: int,
        hidden_act: Any = None,
        dropout_rate: float | None = None,
        attention_dropout_rate: float | None = None,
        embedding_size: int | None = None,
        attention_head_size: int | None = None,
        attention_key_size: int | None = None,
        initializer_range: float = 0.02,
        layer_norm_epsilon: float | None = None,
        sequence_length: int | None = None,
        pad_token_id: int | None = None,
        eos_token_id: int | Sequence[int] | None = None,
        keep_tokens: Sequence[int] | None = None,
        compound_tokens: Sequence[Any] | None = None,
        residual_attention_scores: bool = False,
        ignore_invalid_weights: bool = False,
        autoresize_weights: bool = False,
        recompute: bool | None = None,
        layers: dict[str, keras.Layer] | None = None,
        prefix: str | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        if not attention_head_size and hidden_size % num_attention_heads:
            raise ValueError(
                f"hidden_size={hidden_size} is not a multiple of num_attention_heads="
                f"{num_attention_heads}: correct the config or give attention_head_size"
            )
        check_settings(type(self), kwargs)
        if isinstance(hidden_act, list | tuple) and not self.takes_gates:
            raise ValueError(
                f"{type(self).__name__} is gated in a way of its own, so that hidden_act is a "
                f"single activation, not {hidden_act!r}"
            )
        self.full_vocab_size = vocab_size
        self.keep_tokens = checked_tokens(keep_tokens, vocab_size)
        if pad_token_id is not None:
            self.pad_token_id = renumbered(pad_token_id, keep_tokens)
            if isinstance(self, LM_Mask) and pad_token_id in as_list(eos_token_id):
                self.padding, self.pad_ends_text = "around", True
        self.compound_tokens = compound_tokens
        if keep_tokens is not None:
            vocab_size = len(keep_tokens)
        if compound_tokens is not None:
            vocab_size += len(compound_tokens)
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.attention_head_size = attention_head_size or hidden_size // num_attention_heads
        self.attention_key_size = attention_key_size or self.attention_head_size
        self.intermediate_size = intermediate_size
        self.hidden_act = hidden_act
        self.dropout_rate = dropout_rate or 0
        self.attention_dropout_rate = attention_dropout_rate or 0
        self.embedding_size = embedding_size or hidden_size
        self.initializer_range = initializer_range
        if layer_norm_epsilon:
            self.block = replace(self.block, epsilon=layer_norm_epsilon)
        self.sequence_length = sequence_length
        self.residual_attention_scores = residual_attention_scores
        self.ignore_invalid_weights = ignore_invalid_weights
        self.autoresize_weights = autoresize_weights
        self.recompute = recompute
        self.layers = {} if layers is None else layers
        self.prefix = prefix or ""
        self.name = name
        self.unknown_arguments = kwargs.keys() - self.fixed_settings.keys()
        self.settings: Mapping[str, Any] = {}  # all of the config, by build_transformer_model
        self.vocabulary: Path | None = None  # the file beside the config
        self.folder: Path | None = None  # of the config
        self.kept_of_folder: Sequence[int] | None = None  # of the tokens that its files have
        self.generation_config: Mapping[str, Any] = {}
        self.tables_are_cut = False
        self.cache: Cache | None = None
        self.forget()
        self.built = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        initializer = inspect.getattr_static(cls, "initializer")
        if inspect.isfunction(initializer):
            cls.initializer = InitializerMethod(initializer)

    # --- assembling

    def build(
        self,
        attention_caches: dict[str, Sequence[Tensor]] | None = None,
        layer_norm_cond: Tensor | None = None,
        layer_norm_cond_hidden_size: int | None = None,
        layer_norm_cond_hidden_act: Any = None,
        additional_input_layers: Tensor | Sequence[Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        """Assemble `self.model`, once.

        Args:
            attention_caches: attention layer name → [keys, values], each (batch, length, size),
                put before the keys and values of that layer.
            layer_norm_cond: (batch, size), the condition of every layer normalisation.
            layer_norm_cond_hidden_size: see `hidden_units` of `ScaleOffset`.
            layer_norm_cond_hidden_act: see `hidden_activation` of `ScaleOffset`.
            additional_input_layers: inputs that the model has besides its own.
            **kwargs: arguments of the constructor, which `build_transformer_model` passes here too.
        """
        if self.built:
            return
        self.attention_caches = attention_caches or {}
        self.layer_norm_conds = [
            layer_norm_cond,
            layer_norm_cond_hidden_size,
            layer_norm_cond_hidden_act or "linear",
        ]
        inputs = self.get_inputs()
        self.set_inputs(inputs, additional_input_layers)
        self.set_outputs(self.call(inputs))
        self.check_caches()
        self.model = Model(self.input, self.output, name=self.name)
        self.model.transformer = self
        self.built = True

    def check_caches(self) -> None:
        """Refuse caches of layers that the model does not have."""
        unknown = self.attention_caches.keys() - self.layers.keys()
        if unknown:
            attentions = [k for k, v in self.layers.items() if isinstance(v, MultiHeadAttention)]
            raise ValueError(
                f"attention_caches names {sorted(unknown)}; the attention layers are {attentions}"
            )

    def call(self, inputs: Any) -> Any:
        """Go from the inputs to the outputs: embeddings, blocks, what comes after them."""
        self.forget()
        outputs = self.apply_embeddings(inputs)
        for index in range(self.num_hidden_layers):
            outputs = self.apply_main_layers(outputs, index)
        if self.cache is not None:
            outputs = self.simplify([*listed(outputs)[:-1], listed(outputs)[-1][:, -1:]])
        return self.apply_final_layers(outputs)

    def call_on_part(
        self, inputs: Sequence[Tensor], whole: Sequence[Tensor], cache: Cache, conditions: Sequence
    ) -> Tensor:
        """Run the hooks on a part of a sequence, which follows what the cache remembers.

        Args:
            inputs: the inputs of that part.
            whole: the inputs of the sequence so far, which masks are computed from.
            cache: keys and values of what comes before; those of the part are added.
            conditions: instead of `layer_norm_conds`.

        Returns:
            (batch, 1, vocab_size), the outputs at the last position.
        """
        names = [x.name for x in self.inputs]
        n_own = len(names) - self.n_additional_inputs
        # Hooks read and write attributes: those of this call, whatever other threads do meanwhile.
        part = copy(self)
        part.cache, part.inputs, part.layer_norm_conds = cache, list(whole), list(conditions)
        part.layers = self.layers | dict(zip(names, inputs, strict=True))
        return part.call(part.simplify(inputs[:n_own]))

    def forget(self) -> None:
        """Drop the tensors that the blocks share, which belong to one call."""
        self.attention_bias: Any = None
        self.position_bias: Any = None
        self.attention_scores: dict[str, Tensor] = {}

    @property
    def stored_as(self) -> tuple[str, ...]:
        """What `checkpoints.architectures` calls the files that the model can be loaded from."""
        return tuple(dict.fromkeys(signature.model for signature in self.signatures))

    @classmethod
    def settings_of_name(cls, name: str) -> dict[str, Any]:
        """Hook: what a name in `model=` says, where several names are of this class."""
        return {}

    def prefixed(self, name: str | None) -> str | None:
        """A layer's name with the prefix of this model."""
        return name if name is None else self.prefix + name

    def apply(
        self,
        inputs: Any = None,
        layer: Callable | None = None,
        arguments: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call the layer named `name=`, which is created if there is none of that name yet.

        Args:
            inputs: what the layer is called on; without them the layer itself is returned.
            layer: class of the layer, called with `kwargs` to create it.
            arguments: further arguments of the call.
            **kwargs: arguments of the constructor, `name` among them.

        Raises:
            ValueError: there is no layer of that name, and no class is given to make one.
        """
        is_class = isinstance(layer, type)
        if is_class and issubclass(layer, keras.layers.Dropout) and self.dropout_rate == 0:
            return inputs
        arguments = dict(arguments or {})
        name = self.prefixed(kwargs.get("name"))
        if name not in self.layers:
            if layer is None:
                raise ValueError(
                    f"{type(self).__name__} has no layer {name!r}: correct the name, or give the "
                    f"class of a layer to make it. There are {some(list(self.layers))}"
                )
            attends = is_class and issubclass(layer, MultiHeadAttention)
            if attends and self.residual_attention_scores:
                kwargs["return_attention_scores"] = True
            if is_class and issubclass(layer, keras.layers.Lambda):
                kwargs["arguments"] = arguments
            created = layer(**{**kwargs, "name": name})
            if isinstance(created, Recomputable) and self.recompute is not None:
                created.recompute = self.recompute
            name = created.name
            self.layers[name] = created
        if inputs is None:
            return self.layers[name]
        if self.cache is not None:
            arguments |= self.cache.arguments(self.layers[name], inputs)
        if isinstance(self.layers[name], MultiHeadAttention):
            return self.call_attention(self.layers[name], inputs, arguments)
        if isinstance(self.layers[name], keras.layers.Lambda):
            arguments = {}
        return self.layers[name](inputs, **arguments)

    def call_attention(
        self, layer: MultiHeadAttention, inputs: list, arguments: dict[str, Any]
    ) -> Tensor:
        """Call an attention layer with its cache and the scores of the block before, if any."""
        name = layer.name.removeprefix(self.prefix)
        if layer.name in self.attention_caches:
            caches = self.attention_caches[layer.name]
            joined = [
                self.apply([cache, x], Concatenate1D, name=f"{name}-Cached-{kind}")
                for kind, cache, x in zip(("Key", "Value"), caches, inputs[1:3], strict=True)
            ]
            inputs = [inputs[0], *joined, *inputs[3:]]
        if not layer.return_attention_scores:
            return layer(inputs, **arguments)
        kind = name.rsplit("-", 1)[-1]  # scores of self-attention and cross-attention do not mix
        bias = self.attention_scores.get(kind)
        if bias is not None:
            rest = inputs[3:]
            if arguments.get("a_bias"):
                bias = self.apply([rest[0], bias], AttentionBias, name=f"{name}-Attention-Bias")
                rest = rest[1:]
            inputs = [*inputs[:3], bias, *rest]
            arguments["a_bias"] = True
        outputs, self.attention_scores[kind] = layer(inputs, **arguments)
        return outputs

    def get_inputs(self) -> Any:
        """Hook: create the input tensors."""
        raise NotImplementedError(f"{type(self).__name__} must define get_inputs()")

    def apply_embeddings(self, inputs: Any) -> Any:
        """Hook: from the inputs to the first block."""
        raise NotImplementedError(f"{type(self).__name__} must define apply_embeddings()")

    def apply_main_layers(self, inputs: Any, index: int) -> Any:
        """Hook: one block; of [context, x] the decoder of an encoder attends to the context too."""
        *context, x = listed(inputs)
        attention_bias = self.compute_attention_bias(index)
        position_bias = self.compute_position_bias(self.simplify([x, *context]))
        cross_position_bias = None
        if context:
            position_bias, cross_position_bias = position_bias
        name = self.block.name.format(i=index)
        x = self.apply_residual(
            x,
            lambda x, name: self.apply_attention(x, x, name, attention_bias, position_bias),
            f"{name}-MultiHeadSelfAttention",
            self.block.attention_norms,
        )
        if context:
            x = self.apply_residual(
                x,
                lambda x, name: self.apply_attention(
                    x, context[0], name, None, cross_position_bias
                ),
                f"{name}-MultiHeadCrossAttention",
                self.block.attention_norms,
            )
        x = self.apply_residual(
            x, self.apply_feed_forward, f"{name}-FeedForward", self.block.feed_forward_norms
        )
        return self.simplify([*context, x])

    def apply_final_layers(self, inputs: Any) -> Any:
        """Hook: from the last block to the outputs."""
        raise NotImplementedError(f"{type(self).__name__} must define apply_final_layers()")

    def compute_attention_bias(self, inputs: Any = None) -> Tensor | None:
        """Hook: the attention bias of every block, see `MultiHeadAttention`."""
        return self.attention_bias

    def compute_position_bias(self, inputs: Any = None) -> Tensor | None:
        """Hook: the position bias of every block, see `MultiHeadAttention`."""
        return self.position_bias

    def apply_residual(
        self, x: Tensor, sub_layer: Callable, name: str, norms: tuple[str, ...]
    ) -> Tensor:
        """A sub-layer with dropout, residual sum and the normalisations before and after it.

        A single normalisation is called `{name}-Norm`, two are `{name}-Norm-0` and `{name}-Norm-1`.
        """
        inputs = x
        names = [f"{name}-Norm-0", f"{name}-Norm-1"] if len(norms) == 2 else [f"{name}-Norm"] * 2
        if "pre" in norms:
            x = self.apply_norm(x, names[0])
        x = sub_layer(x, name)
        x = self.apply(x, Dropout, name=f"{name}-Dropout", rate=self.dropout_rate)
        x = self.apply([inputs, x], Add, name=f"{name}-Add")
        if "post" in norms:
            x = self.apply_norm(x, names[1])
        return x

    def apply_norm(self, x: Tensor, name: str) -> Tensor:
        """Layer normalisation, under the condition of the model if it has one."""
        condition, hidden_units, hidden_activation = self.layer_norm_conds
        if not self.block.scale and not self.block.offset:
            condition = None  # there is nothing that it could move
        return self.apply(
            self.simplify([x, condition]),
            LayerNormalization,
            zero_mean=self.block.zero_mean,
            scale=self.block.scale,
            offset=self.block.offset,
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
        """The attention layer of a block, from `x` to `context`, with the biases of the hooks."""
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
            kernel_initializer=self.initializer,
            name=name,
            **self.attention_sizes,
        )

    @property
    def attention_sizes(self) -> dict[str, int]:
        """Further arguments of the attention layers, which only this architecture has."""
        return {}

    def apply_feed_forward(self, x: Tensor, name: str) -> Tensor:
        """The feed-forward layer of a block."""
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

    def apply_input(self, name: str, dtype: str = "int32") -> Tensor:
        """An input (batch, length), one number for each token."""
        return self.apply(layer=Input, shape=(self.sequence_length,), dtype=dtype, name=name)

    def apply_token_embedding(self, token_ids: Tensor, mode: str | None = None) -> Tensor:
        """Token vectors; with mode='dense', scores of tokens from vectors, by the same table."""
        return self.apply(
            token_ids,
            Embedding,
            arguments={"mode": mode} if mode else None,
            input_dim=self.vocab_size,
            output_dim=self.embedding_size,
            embeddings_initializer=self.table_initializer,
            mask_zero=self.pad_token_id is not None,
            mask_id=self.pad_token_id or 0,
            padding=self.padding,
            ends_text=self.pad_ends_text,
            name="Embedding-Token",
        )

    def apply_dense(self, x: Tensor, units: int, name: str, **kwargs: Any) -> Tensor:
        """A Dense layer outside of the blocks, with a bias unless the architecture has none."""
        kwargs = {"use_bias": self.block.use_bias, "kernel_initializer": self.initializer, **kwargs}
        return self.apply(x, Dense, units=units, name=name, **kwargs)

    def apply_activation(self, x: Tensor, function: Any, name: str) -> Tensor:
        """A final activation, True for softmax.

        It is computed in float32 whatever the policy is: a softmax over a vocabulary wants that.
        """
        function = chosen_activation(function, "softmax")
        return self.apply(x, Activation, activation=function, dtype="float32", name=name)

    def set_inputs(self, inputs: Any, additional_input_layers: Any = None) -> None:
        """Keep the inputs of the model: `self.inputs`, and `self.input` as Keras wants it."""
        additional = [] if additional_input_layers is None else listed(additional_input_layers)
        self.inputs = [*listed(inputs), *additional]
        self.n_additional_inputs = len(additional)
        self.input = self.inputs if len(self.inputs) > 1 else self.inputs[0]

    def set_outputs(self, outputs: Any) -> None:
        """Keep the outputs of the model: `self.outputs`, and `self.output` as Keras wants it."""
        self.outputs = listed(outputs)
        self.output = self.outputs if len(self.outputs) > 1 else self.outputs[0]

    @property
    def initializer(self) -> Any:
        """Hook: a new initializer of kernels and embeddings.

        A subclass may write it as a property that returns an initializer of Keras, or as a method
        `initializer(self, shape, dtype=None, order=3, gain=1.0)` that draws values; in there
        `super().initializer(shape, dtype, order, gain)` are those of `initial_values`.
        """
        return self.initial_values if self.draws_itself else self.standard_initializer

    @property
    def draws_itself(self) -> bool:
        """Whether a subclass has written `initializer` as a method."""
        return isinstance(inspect.getattr_static(type(self), "initializer"), InitializerMethod)

    @property
    def standard_initializer(self) -> keras.initializers.Initializer:
        """A new initializer of kernels: normal, cut off at two deviations."""
        return keras.initializers.TruncatedNormal(stddev=self.initializer_range)

    @property
    def table_initializer(self) -> keras.initializers.Initializer:
        """A new initializer of embeddings."""
        return self.initializer

    def initial_values(
        self, shape: Sequence[int], dtype: Any = None, order: float | None = None, gain: float = 1.0
    ) -> Tensor:
        """Draw the values of a kernel or a table, `gain` times those of `standard_initializer`.

        Args:
            shape: of the values.
            dtype: of the values, the default float type by default.
            order: of what depends on the number of blocks; nothing does, except in RoFormerV2.
            gain: the factor.
        """
        return gain * self.standard_initializer(shape, dtype)

    def simplify(self, inputs: Sequence[Any]) -> Any:
        """Leave out what is None; of a single thing no list is made."""
        inputs = [x for x in inputs if x is not None]
        return inputs[0] if len(inputs) == 1 else inputs

    # --- weights

    def variable_mapping(self) -> dict[str, list[str]]:
        """Hook: layer name → names of its variables in official checkpoints, in weight order."""
        return self.mapping_of(len(self.activations))

    def mapping_of(self, n_gates: int) -> dict[str, list[str]]:
        """`variable_mapping`, if the feed-forward layers had so many activations."""
        mapping: dict[str, list[str]] = {}
        suffixes = self.gate_suffixes(n_gates)
        for layer, names in self.variable_names.items():
            names = repeated_gates(names, suffixes)
            for i in range(self.num_hidden_layers if "{i" in layer else 1):
                mapping[layer.format(i=i)] = [name.format(i=i) for name in names]
        return mapping

    @staticmethod
    def gate_suffixes(count: int) -> list[str]:
        """What {gate} stands for in the names of variables."""
        return ["", *(f"_{i}" for i in range(1, count))]

    def stored_name(self, checkpoint: Any, name: str) -> str:
        """Hook: under which name an open checkpoint holds the variable `name`."""
        return name

    def load_embeddings(self, embeddings: np.ndarray) -> np.ndarray:
        """Hook: what of a table (vocabulary, ...) is loaded, after keep and compound tokens."""
        embeddings = np.asarray(embeddings)
        if self.tables_are_cut or (self.keep_tokens is None and self.compound_tokens is None):
            return embeddings
        if len(embeddings) != self.full_vocab_size:
            raise CheckpointError(self.of_another_vocabulary(len(embeddings)))
        if self.keep_tokens is not None:
            embeddings = embeddings[self.keep_tokens]
        if self.compound_tokens is not None:
            compounds = [average_rows(embeddings, item) for item in self.compound_tokens]
            embeddings = np.concatenate([embeddings, np.asarray(compounds, embeddings.dtype)])
        return embeddings

    def of_another_vocabulary(self, n_tokens: int) -> str:
        """What is wrong when a vocabulary to be cut down or extended is not that of the config."""
        return (
            f"keep_tokens and compound_tokens are about a vocabulary of {self.full_vocab_size} "
            f"tokens, and the checkpoint has {n_tokens}. If it was saved from a model with them, "
            "set vocab_size to its number and leave both out; otherwise correct vocab_size"
        )

    def load_variable(self, checkpoint: Any, name: str) -> np.ndarray:
        """Hook: the value of one variable of an open checkpoint, as the layer wants it."""
        variable = checkpoint[name]
        if name in self.vocabulary_kernels:
            return self.load_embeddings(variable.T).T
        if name in self.vocabulary_variables:
            return self.load_embeddings(variable)
        return variable.T if name.endswith(self.transposed_variables) else variable

    def create_variable(self, name: str, value: np.ndarray, dtype: Any = None) -> np.ndarray:
        """Hook: the value of one variable as an official checkpoint holds it."""
        value = np.asarray(value, dtype=dtype)
        return value.T if name.endswith(self.transposed_variables) else value

    def mapped_layers(self, mapping: dict[str, list[str]] | None) -> list[tuple[Any, list[str]]]:
        """The layers of this model that checkpoints know, with the names of their variables."""
        mapping = self.variable_mapping() if mapping is None else mapping
        layers = [(self.layers.get(self.prefixed(name)), names) for name, names in mapping.items()]
        return [(layer, with_condition(layer, names)) for layer, names in layers if layer]

    def load_weights_from_checkpoint(
        self,
        checkpoint: str | Path | checkpoints.Checkpoint,
        mapping: dict[str, list[str]] | None = None,
    ) -> checkpoints.Report:
        """Load a checkpoint: every variable, or none and an error.

        What a condition of the layer normalisations goes through (`layer_norm_cond`) is loaded if
        the file has it, and starts from scratch otherwise. Layers that train by LoRA get their
        kernel or table, and the product of the LoRA matrices is 0 again.

        What `save_pretrained` or `save_weights_as_checkpoint` recorded about the vocabulary counts:
        tables that were cut down to `keep_tokens` already are not cut again.

        Args:
            checkpoint: prefix of a TensorFlow checkpoint, a safetensors, PyTorch or numpy file, a
                file of `Model.save_weights`, or a folder that holds one; with official names or
                those of Hugging Face. Or one that is open already, and known to be of this
                architecture (`fitting.check_fit`).
            mapping: layer name → variable names instead of `variable_mapping()`.

        Returns:
            What was loaded, what the file has besides, and which layers, or weights of a layer,
            start from scratch.

        Raises:
            CheckpointError: the file is damaged, or a variable is missing, has another shape, or
                holds NaN. The model is unchanged then.
        """
        targets = [t for pair in self.mapped_layers(mapping) for t in weights_of(*pair)]
        with opened(checkpoint) as file:
            if mapping is None and file is not checkpoint:
                fitting.check_fit(self, file)
            checkpoint = file.path
            self.tables_are_cut = self.is_cut(file)
            bundle = self.officially_named(file, mapping)
            targets = [(self.stored_name(bundle, name), *rest) for name, *rest in targets]
            targets = without_unwritten(targets, bundle)
            found = {name: bundle.shape(name) for name in bundle}
            not_finite = []
            # Two passes, so that an error changes nothing and no value is held: the pages of the
            # file stay cached, and checksums are verified once.
            for name, layer, index in targets:
                if name in bundle:
                    value = self.loaded_value(bundle, name, layer, index)
                    found[name] = value.shape
                    if not finite(value):
                        not_finite.append(name)
            report = checkpoints.match_variables(
                expected={name: tuple(own_weights(x)[i].shape) for name, x, i in targets},
                found=found,
                layers={name: layer.name for name, layer, _ in targets},
                from_scratch=self.from_scratch(targets),
                signatures=registry.signatures(type(self)),
                heads=fitting.variables_of_heads(self),
            )
            if not self.ignore_invalid_weights:
                report.raise_for_errors(checkpoint)
                self.check_foreign(report.unused, checkpoint)
            if not_finite:
                raise CheckpointError(f"{checkpoint} holds NaN or infinity in {some(not_finite)}")
            loaded = set(report.loaded)
            assign(
                (own_weights(layer)[index], self.loaded_value(bundle, name, layer, index))
                for name, layer, index in targets
                if name in loaded
            )
            for layer, _ in self.mapped_layers(mapping):
                forget_lora(layer)
        return report

    def officially_named(self, file: Any, mapping: dict[str, list[str]] | None) -> Any:
        """The variables of an open file under the names of `variable_mapping()`."""
        layers = self.mapped_layers(mapping)
        if file.container == "keras":
            names = {layer.name: names_by_path(layer, names) for layer, names in layers}
            return checkpoints.LayerNames(file.path, file.layers(), names, self.create_variable)
        names = [name for _, names in layers for name in names]
        names += self.telling_variables()
        return checkpoints.as_official(file, names, registry.dialects(type(self)))

    def is_cut(self, file: Any) -> bool:
        """Whether the vocabulary of an open file is that of this model, cut down and extended.

        Raises:
            CheckpointError: it was cut down in another way.
        """
        if file.container == "keras":
            return True
        record = recorded_vocabulary(file.path)
        if record is None:
            return False
        whole = self.keep_tokens is None and self.compound_tokens is None
        if record == vocabulary_record(self) or (whole and self.vocab_size == saved_size(record)):
            return True
        raise CheckpointError(
            f"the vocabulary of {file.path} was cut down from {record['vocab_size']} to "
            f"{saved_size(record)} tokens when it was saved, and this model is built for "
            f"{self.vocab_size} of {self.full_vocab_size}. Give the same keep_tokens and "
            "compound_tokens, or none and vocab_size of the saved number"
        )

    def loaded_value(self, bundle: Any, name: str, layer: keras.Layer, index: int) -> np.ndarray:
        """The value that a weight of a layer gets from a variable of a checkpoint."""
        return self.resized(layer, index, self.load_variable(bundle, name))

    def check_foreign(self, unused: Sequence[str], checkpoint: str | Path) -> None:
        """Refuse a checkpoint of another architecture that happens to hold all our variables."""
        foreign = [name for name in self.telling_variables() if name in unused]
        if foreign:
            raise CheckpointError(
                f"{checkpoint} holds {foreign[0]}, which {type(self).__name__} does not have: it "
                "is of another architecture, so correct model=. To start from it all the same, "
                "pass ignore_invalid_weights=True"
            )

    def telling_variables(self) -> list[str]:
        """Variables that tell a checkpoint of another architecture, or of more gates."""
        count = len(self.activations)
        ours, theirs = (chain(*self.mapping_of(n).values()) for n in (count, count + 1))
        return [*self.foreign_variables, *sorted(set(theirs) - set(ours))]

    def from_scratch(self, targets: Sequence[tuple[str, keras.Layer, int]]) -> tuple[str, ...]:
        """Names of the layers with weights that no checkpoint knows, and of weights of others."""
        known = {(layer.name, index) for _, layer, index in targets}
        computed = [self.prefixed(name) for name in self.computed_layers]
        names = []
        for layer in self.model.layers:
            if layer.name in computed:
                continue
            weights = [weight_name(layer, weight) for weight in own_weights(layer)]
            missing = [x for i, x in enumerate(weights) if (layer.name, i) not in known]
            whole = len(missing) == len(weights)
            names += [layer.name] if whole and missing else [f"{layer.name}/{x}" for x in missing]
        return tuple(names)

    def resized(self, layer: keras.Layer, index: int, value: np.ndarray) -> np.ndarray:
        """With `autoresize_weights`, a variable cut or repeated to the shape of the weight.

        https://kexue.fm/archives/8444. Queries and keys are scaled so that the scores, and the two
        kernels of a feed-forward layer so that its output, stay as large as they were.
        """
        shape = tuple(own_weights(layer)[index].shape)
        if not self.autoresize_weights or value.shape == shape:
            return value
        resized = orthogonally_resize(value, shape)
        per_dense = 2 if getattr(layer, "use_bias", False) else 1
        if (
            isinstance(layer, MultiHeadAttention)
            and layer.attention_scale
            and index < 2 * per_dense
        ):
            return resized * (shape[-1] / value.shape[-1]) ** 0.25
        if isinstance(layer, FeedForward):
            inner = 0 if self.hidden_act in ("relu", "leaky_relu") else per_dense
            if index < inner:
                return resized * (shape[-1] / value.shape[-1]) ** 0.5
            return resized * (value.shape[0] / shape[0]) ** 0.5
        return resized

    def save_weights_as_checkpoint(
        self,
        filename: str | Path,
        mapping: dict[str, list[str]] | None = None,
        dtype: Any = None,
    ) -> None:
        """Write a TensorFlow checkpoint with the official variable names, which TensorFlow reads.

        An older one of the same name is replaced in a single step.

        Layers that train by LoRA are written with their product added to the kernel or the table.

        Args:
            filename: its prefix, as in 'folder/bert_model.ckpt'.
            mapping: layer name → variable names instead of `variable_mapping()`.
            dtype: type of the variables, that of the weights by default.

        Raises:
            ValueError: a weight of the model has no name. The message says which.
            CheckpointError: the folder is missing or cannot be written to, or the disk is full.
        """
        pretrained.save_checkpoint(self, filename, mapping, dtype)

    def official_variables(
        self, mapping: dict[str, list[str]] | None = None, dtype: Any = None
    ) -> dict[str, np.ndarray]:
        """The variables of this model as official checkpoints hold them, by name.

        Raises:
            ValueError: a weight has no name, so that it would be lost.
        """
        if mapping is None:
            self.check_names()
        return {
            name: self.create_variable(name, value, dtype)
            for layer, names in self.mapped_layers(mapping)
            for name, value in named_values(layer, names)
        }

    def check_names(self) -> None:
        """Refuse to write a model of which a layer would be left out."""
        known = {layer.name for layer, _ in self.mapped_layers(None)}
        known |= {self.prefixed(name) for name in self.computed_layers}
        unnamed = [x.name for x in self.model.layers if x.weights and x.name not in known]
        if unnamed:
            raise ValueError(
                f"no checkpoint has a place for the weights of {some(unnamed)}: add them to "
                "variable_names of the class, or write the others by "
                "save_weights_as_checkpoint(…, mapping=transformer.variable_mapping())"
            )

    def save_pretrained(self, folder: str | Path, tokenizer: Any = None) -> None:
        """Write `config.json`, `model.safetensors` and the tokenizer, which `transformers` loads.

        What an earlier call wrote into the folder is replaced in a single step: a reader finds the
        old model or the new one, whatever happens meanwhile.

        `architectures` in the config says which heads there are: a head that the model was built
        without is not in the file. The mask of UniLM, and that of a language model where Hugging
        Face has none for the architecture (ALBERT, NEZHA), is not either: build with the same
        `application` again.

        Args:
            folder: where to write; it is created.
            tokenizer: the tokenizer that is written: `vocab.txt`, `tokenizer.json` or the model of
                SentencePiece, the template of chats, and `tokenizer_config.json`, which
                `transformers.AutoTokenizer` reads, unless texts are cut by a function of yours
                first. Without it, the files beside the config are taken, cut down to `keep_tokens`,
                `generation_config.json` among them; a model of SentencePiece cannot be cut down,
                and the names of `compound_tokens` only a tokenizer or a longer `vocab.txt` knows.

        Raises:
            ValueError: Hugging Face cannot describe the model, a weight of it has no name, or the
                tokenizer is of another one.
            CheckpointError: the folder cannot be written to, or the disk is full.
        """
        pretrained.save_pretrained(self, folder, tokenizer, isinstance(self, LM_Mask))


def check_settings(architecture: type[Transformer], given: Mapping[str, Any]) -> None:
    """Refuse settings of a config file that the architecture does not implement."""
    for name, allowed in architecture.fixed_settings.items():
        if name in given and given[name] not in allowed:
            raise ValueError(
                f"{architecture.__name__} is implemented with {name}={allowed[0]!r} only, and the "
                f"config says {given[name]!r}: this checkpoint cannot be used"
            )


CONDITIONAL = ("/hidden_dense/kernel", "/beta_dense/kernel", "/gamma_dense/kernel")
"""How the variables end that a condition of a normalisation goes through; few files have them."""
UNWRITTEN = "/embedding_hidden_mapping_out/"
"""In the names of variables for which bert4keras 0.11.5 had none, so that its files lack them."""


def without_unwritten(
    targets: Sequence[tuple[str, keras.Layer, int]], bundle: Any
) -> list[tuple[str, keras.Layer, int]]:
    """Leave out of what is loaded what a file may lack; these weights start from scratch."""
    lacking = [name for name, *_ in targets if name not in bundle]
    lost = [name for name in lacking if UNWRITTEN in name]
    if lost:
        warnings.warn(
            f"{bundle.path} has no {some(lost)}, which bert4keras 0.11.5 did not write: the layer "
            "starts from random values, as it did there. Train it, or load its weights by "
            "load_weights",
            stacklevel=4,
        )
    absent = {name for name in lacking if name.endswith(CONDITIONAL) or name in lost}
    return [target for target in targets if target[0] not in absent]


def opened(checkpoint: str | Path | checkpoints.Checkpoint) -> AbstractContextManager:
    """A checkpoint that is open meanwhile."""
    if isinstance(checkpoint, checkpoints.Checkpoint):
        return nullcontext(checkpoint)
    return checkpoints.open_checkpoint(checkpoint)


def weights_of(layer: keras.Layer, names: Sequence[str]) -> list[tuple[str, keras.Layer, int]]:
    """Each variable name with the layer and the index in `own_weights` that it belongs to."""
    count = len(own_weights(layer))
    if count < len(names):
        raise ValueError(
            f"layer {layer.name!r} has {count} weights, and {len(names)} variables are mapped to "
            f"it: {list(names)}. Correct variable_mapping()"
        )
    return [(name, layer, index) for index, name in enumerate(names)]


def names_by_path(layer: keras.Layer, names: Sequence[str]) -> dict[str, str]:
    """Path of a weight in its layer → variable name."""
    weights = own_weights(layer)
    return {weight_name(layer, weights[i]): name for name, _, i in weights_of(layer, names)}


def own_weights(layer: keras.Layer) -> list[Any]:
    """The weights of a layer without what `enable_lora` of Keras has added."""
    return [weight for weight in layer.weights if not weight.name.startswith("lora_")]


def with_condition(layer: keras.Layer, names: Sequence[str]) -> list[str]:
    """Variable names of a layer, with those of what the condition of a normalisation goes through.

    Official checkpoints have none; they are named by their path in the layer: `gamma_dense/kernel`.
    """
    if not names or not (isinstance(layer, ScaleOffset) and layer.conditional):
        return list(names)
    start = names[0].rsplit("/", 1)[0]
    paths = (f"{start}/{weight_name(layer, x)}" for x in own_weights(layer)[len(names) :])
    return [*names, *paths]


def named_values(layer: keras.Layer, names: Sequence[str]) -> list[tuple[str, np.ndarray]]:
    """Each variable name with the value of its weight, to which that of LoRA is added.

    Raises:
        ValueError: the layer has more or fewer weights.
    """
    paths = [weight_name(layer, weight) for weight in own_weights(layer)]
    if len(paths) != len(names):
        raise ValueError(
            f"layer {layer.name!r} has the weights {paths}, and its variables are {list(names)}: "
            "some would be lost. Correct variable_names of the class, or mapping="
        )
    return list(zip(names, merged_values(layer), strict=True))


def merged_values(layer: keras.Layer) -> list[np.ndarray]:
    """The values of `own_weights`, with those of LoRA added."""
    values = {id(weight): to_numpy(weight) for weight in own_weights(layer)}
    for weight, scale, a, b in lora_of(layer):
        value = values[id(weight)]
        values[id(weight)] = (value + scale * to_numpy(a) @ to_numpy(b)).astype(value.dtype)
    return list(values.values())


def lora_of(layer: keras.Layer) -> list[tuple[Any, float, Any, Any]]:
    """What LoRA trains in a layer: the frozen weight, and scale, A and B of what is added to it."""
    found = []
    for part in [layer, *layer._flatten_layers(include_self=False)]:
        if not getattr(part, "lora_enabled", False):
            continue
        weights = {weight.name: weight for weight in part.weights}
        for kind in ("kernel", "embeddings"):
            if f"lora_{kind}_a" in weights:
                matrices = weights[f"lora_{kind}_a"], weights[f"lora_{kind}_b"]
                found.append((weights[kind], part.lora_alpha / part.lora_rank, *matrices))
    return found


def forget_lora(layer: keras.Layer) -> None:
    """Let what LoRA adds to the weights of a layer be 0, as at its beginning."""
    for _, _, _, b in lora_of(layer):
        b.assign(np.zeros(b.shape))


def repeated_gates(names: Sequence[str], suffixes: Sequence[str]) -> list[str]:
    """Variable names of which those with {gate} stand there once for each suffix."""
    gates = [name for name in names if "{gate}" in name]
    repeated = [name.replace("{gate}", suffix) for suffix in suffixes for name in gates]
    return [*repeated, *(name for name in names if name not in gates)]


def listed(value: Any) -> list:
    """A list of one tensor or of several."""
    return list(value) if isinstance(value, list | tuple) else [value]


def checked_tokens(keep_tokens: Sequence[int] | None, vocab_size: int) -> Sequence[int] | None:
    """Refuse token ids outside of the vocabulary."""
    outside = [i for i in ([] if keep_tokens is None else keep_tokens) if not 0 <= i < vocab_size]
    if outside:
        raise ValueError(
            f"keep_tokens names {len(outside)} ids outside of the vocabulary of {vocab_size} "
            f"tokens, {outside[0]} first: they must come from the vocabulary of this checkpoint"
        )
    return keep_tokens


def renumbered(token_id: int, keep_tokens: Sequence[int] | None) -> int:
    """The number of a token in a vocabulary cut down to `keep_tokens`; 0 and none (-1) stay."""
    if keep_tokens is None or token_id <= 0:
        return token_id
    if token_id not in keep_tokens:
        raise ValueError(f"keep_tokens leaves out {token_id}, the padding token: keep it")
    return list(keep_tokens).index(token_id)


def average_rows(table: np.ndarray, item: Any) -> np.ndarray:
    """Average rows of a table; `item` is a list of indices or a pair (indices, weights)."""
    if isinstance(item, tuple):
        return np.average(table[list(item[0])], axis=0, weights=item[1])
    return np.average(table[list(item)], axis=0)


def finite(value: np.ndarray) -> bool:
    """Tell whether all numbers are finite; the sum tells it in a single cheap pass."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(value.sum())) or bool(np.isfinite(value).all())


class LM_Mask:
    """Language model: every token sees itself and the tokens before it."""

    token_input = 0
    """Which of the inputs holds the tokens."""

    def compute_attention_bias(self, inputs: Any = None) -> Tensor:
        """The lower triangle, computed once."""
        if self.attention_bias is None:
            token_ids = self.inputs[self.token_input]
            self.attention_bias = self.apply(token_ids, LMMask, name="Attention-LM-Mask")
        return self.attention_bias


class UniLM_Mask:
    """UniLM: segment 0 sees all of itself, segment 1 sees segment 0 and what is before it.

    The model has segment ids as input even if it embeds none (`segment_vocab_size=0`).
    """

    segments_in_mask = True

    def compute_attention_bias(self, inputs: Any = None) -> Tensor:
        """The mask that follows from the segment ids, computed once."""
        if self.attention_bias is None:
            self.attention_bias = self.apply(self.inputs[1], UniLMMask, name="Attention-UniLM-Mask")
        return self.attention_bias


def chosen_activation(choice: Any, default: str) -> Any:
    """The activation that an argument of a head asks for, where True means the usual one."""
    return default if choice is True else activation(choice)


def dense(*names: str) -> list[str]:
    """The variables of Dense layers."""
    return [f"{name}/{kind}" for name in names for kind in ("kernel", "bias")]


def norm(name: str) -> list[str]:
    """The variables of a layer normalisation."""
    return [f"{name}/beta", f"{name}/gamma"]


def renamed(table: Mapping[str, list[str]], old: str, new: str) -> dict[str, list[str]]:
    """A table of variable names with another beginning."""
    return {
        layer: [name.replace(old, new, 1) if name.startswith(old) else name for name in names]
        for layer, names in table.items()
    }
