"""Transformer models: assembled from open layers, loaded from official checkpoints.

    Model                    the Keras model that scripts train, save and load
    Block                    what differs between Transformer blocks, as data
    Transformer              assembling: layers by name, a block, hooks, weights in and out
    LM_Mask, UniLM_Mask      who sees whom in language models
    architectures            what they embed, how they end, their block, their variable names:
        BERT ALBERT ALBERT_Unshared NEZHA RoFormer RoFormerV2 ELECTRA   encoders
        GPT GPT2 GPT2_ML                                                decoders
        T5_Base T5_Encoder T5_Decoder T5                                encoder and decoder
        ERNIE DeBERTaV2 ModernBERT GAU_alpha                            more encoders
        LLaMA Qwen2 Qwen3                                               more decoders
    build_transformer_model  from a config and a checkpoint to a model

Subclass an architecture and override a hook to change it: `get_inputs`, `apply_embeddings`,
`apply_main_layers`, `apply_final_layers`, `compute_attention_bias`, `compute_position_bias`,
`variable_mapping`, `load_variable`, `create_variable`, `load_embeddings`, `initializer`.
"""

import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from keras.layers import Activation, Dense, Dropout, Input

import bert4keras.optimizers  # noqa: F401, registers them: a compiled model loads
from bert4keras import checkpoints, configs
from bert4keras.backend import Sinusoidal, Tensor, activation, keras, registered
from bert4keras.checkpoints import CheckpointError
from bert4keras.export import check_export
from bert4keras.layers import (
    Add,
    AttentionBias,
    Concatenate1D,
    DisentangledAttention,
    Embedding,
    FeedForward,
    FirstToken,
    GatedAttentionUnit,
    LayerNormalization,
    LMMask,
    LocalMask,
    MaskedConv1D,
    MultiHeadAttention,
    PositionEmbedding,
    RelativePositionEmbedding,
    RelativePositionEmbeddingT5,
    RelativePositionTable,
    ScaleOffset,
    SinusoidalPositionEmbedding,
    UniLMMask,
)
from bert4keras.snippets import orthogonally_resize
from bert4keras.tokenizers import load_vocab, save_vocab
from bert4keras.training import as_feed

# ------------------------------------------------------------------------------------------- Model


@registered
class Model(keras.Model):
    """A Keras model that takes what scripts have written for years.

    * `predict([[token_ids], [segment_ids]])`: nested Python lists, one per input;
    * `fit(generator)`: batches as lists, `None` as target, lengths that change;
    * `save_weights('best_model.weights')`: any suffix, one file format, keyed by layer name, so
      that weights of another model are refused instead of loaded by position.
    """

    def fit(self, x: Any = None, y: Any = None, **kwargs: Any) -> keras.callbacks.History:
        """Train as `keras.Model.fit` does.

        Raises:
            ValueError: targets or class weights beside batches that bring their own: Keras would
                ignore them.
        """
        if is_stream(x) and (y is not None or kwargs.get("class_weight") is not None):
            raise ValueError(
                "fit() got batches one by one, and y= or class_weight= beside them: let each batch "
                "be (inputs, targets) or (inputs, targets, sample_weights)"
            )
        validation = kwargs.get("validation_data")
        if is_stream(validation):
            kwargs["validation_data"] = as_feed(validation)
        elif isinstance(validation, tuple | list) and validation:
            kwargs["validation_data"] = (self.as_inputs(validation[0]), *validation[1:])
        return super().fit(self.as_inputs(x), y, **kwargs)

    def evaluate(self, x: Any = None, y: Any = None, **kwargs: Any) -> Any:
        """Evaluate as `keras.Model.evaluate` does."""
        return super().evaluate(self.as_inputs(x), y, **kwargs)

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Predict as `keras.Model.predict` does."""
        return super().predict(self.as_inputs(x), *args, **kwargs)

    def train_on_batch(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Train on one batch as `keras.Model.train_on_batch` does."""
        return super().train_on_batch(self.as_inputs(x), *args, **kwargs)

    def test_on_batch(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Evaluate on one batch as `keras.Model.test_on_batch` does."""
        return super().test_on_batch(self.as_inputs(x), *args, **kwargs)

    def predict_on_batch(self, x: Any) -> Any:
        """Predict one batch as `keras.Model.predict_on_batch` does."""
        return super().predict_on_batch(self.as_inputs(x))

    def as_inputs(self, x: Any) -> Any:
        """Turn nested lists into one array per input, and generators into feeds."""
        if is_stream(x):
            return as_feed(x)
        if not isinstance(x, list | tuple):
            return x
        n_inputs = len(getattr(self, "inputs", None) or [None])
        if n_inputs > 1 or (len(x) == 1 and hasattr(x[0], "shape")):
            return [as_array(each, i) for i, each in enumerate(x)]
        return as_array(x, 0)

    def save_weights(self, filepath: str | Path, overwrite: bool = True) -> None:
        """Write all weights to an HDF5 file, whatever its suffix, keyed by layer name.

        Raises:
            FileExistsError: the file exists and `overwrite` is false.
        """
        if not overwrite and Path(filepath).exists():
            raise FileExistsError(f"{filepath} exists: choose another name or pass overwrite=True")
        layers = {
            name: {weight_name(layer, weight): to_numpy(weight) for weight in layer.weights}
            for name, layer in layers_by_key(self.layers).items()
        }
        checkpoints.save_layers(filepath, layers)

    def load_weights(
        self, filepath: str | Path, skip_mismatch: bool = False, by_name: bool = False
    ) -> None:
        """Read what `save_weights` wrote, here or in the original under Keras 2.

        Args:
            filepath: the file.
            skip_mismatch: leave out layers whose weights have other shapes.
            by_name: leave out layers that only the model or only the file has.

        Raises:
            CheckpointError: the file is damaged, of another format or of another model; no weight
                of the model has changed then.
        """
        layers = layers_by_key(self.layers)
        known = {auto_prefix(layer) for layer in self.layers}
        file = keyed_by_order(checkpoints.load_layers(filepath), known)
        file = {name: list(arrays.values()) for name, arrays in file.items() if arrays}
        missing, unexpected = layers.keys() - file.keys(), file.keys() - layers.keys()
        if (missing or unexpected) and not by_name:
            raise CheckpointError(
                f"{filepath} holds the weights of another model: {len(missing)} layers of this one "
                f"are not in it ({some(missing)}), {len(unexpected)} of its layers are not here "
                f"({some(unexpected)}). Build the model that was saved, or pass by_name=True to "
                "load the layers that both have"
            )
        pairs = []
        for name in layers.keys() & file.keys():
            weights, values = layers[name].weights, file[name]
            expected = [tuple(weight.shape) for weight in weights]
            found = [tuple(value.shape) for value in values]
            if expected == found:
                pairs += zip(weights, values, strict=True)
            elif not skip_mismatch:
                raise CheckpointError(
                    f"{filepath} holds weights of the shapes {found} for layer {name!r}, and the "
                    f"model has {expected}. Build the model as it was saved, or pass "
                    "skip_mismatch=True to leave such layers out"
                )
        assign(pairs)

    def export(self, filepath: str | Path, format: str = "tf_saved_model", **kwargs: Any) -> None:
        """Write the model for serving, as `keras.Model.export` does, with free batch and length.

        Raises:
            ValueError: this takes TensorFlow as the backend, which reads `.keras` files of all.
        """
        check_export(self, format)
        super().export(filepath, format, **kwargs)


def is_stream(x: Any) -> bool:
    """Tell whether batches come one by one: a generator or iterator of the user's."""
    return inspect.isgenerator(x) or (isinstance(x, Iterable) and hasattr(x, "__next__"))


def as_array(values: Any, index: int) -> Any:
    """An array of nested lists; arrays and tensors are passed on as they are."""
    if hasattr(values, "shape"):
        return values
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(
            f"input {index} of the model is a list whose rows differ in length: pad it with "
            "bert4keras.snippets.sequence_padding"
        ) from error
    return array.astype(keras.config.floatx()) if array.dtype == "float64" else array


def auto_prefix(layer: keras.Layer) -> str:
    """How Keras begins the name of a layer of this class if the user gave none: 'dense'."""
    name = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", type(layer).__name__)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def keyed_by_order(layers: Mapping[str, Any], auto_prefixes: set[str]) -> dict[str, Any]:
    """Number automatic names from 0: whether Keras said 'dense' or 'dense_7' depends on history."""
    counts: dict[str, int] = {}
    result = {}
    for name, value in layers.items():
        prefix = re.sub(r"_\d+$", "", name)
        if prefix in auto_prefixes:
            number = counts[prefix] = counts.get(prefix, -1) + 1
            name = f"{prefix}_{number}" if number else prefix
        result[name] = value
    return result


def layers_by_key(layers: Sequence[keras.Layer]) -> dict[str, keras.Layer]:
    """The layers that have weights, under the names that weight files use."""
    named = {layer.name: layer for layer in layers if layer.weights}
    return keyed_by_order(named, {auto_prefix(layer) for layer in layers})


def weight_name(layer: keras.Layer, weight: Any) -> str:
    """The path of a weight inside its layer: 'q_dense/kernel'."""
    return weight.path.removeprefix(f"{layer.path}/").removeprefix(f"{layer.name}/")


def to_numpy(weight: Any) -> np.ndarray:
    """The value of a Keras variable."""
    return keras.ops.convert_to_numpy(weight)


def assign(pairs: Iterable[tuple[Any, np.ndarray]]) -> None:
    """Set Keras variables to values whose shapes have been checked.

    The values may be views of a mapped file, which JAX would go on using instead of a copy.
    """
    aliasing = keras.backend.backend() == "jax"
    for weight, value in pairs:
        weight.assign(np.array(value) if aliasing else value)


def some(names: Iterable[str], limit: int = 3) -> str:
    """A few of many names, for a message."""
    names = sorted(names)
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest


# ------------------------------------------------------------------------------------- Transformer


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
        hidden_act: their activation, or a list of activations for gated ones.
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
        keep_tokens: token ids to keep, in the new order: a smaller vocabulary.
        compound_tokens: new tokens, each an average of old ones: a list of ids, or a pair (ids,
            weights). They come after the kept ones.
        residual_attention_scores: add the scores of the block before (He et al., 2020, RealFormer).
        ignore_invalid_weights: leave variables that the checkpoint lacks at their initial values.
        autoresize_weights: cut or repeat variables of other sizes (https://kexue.fm/archives/8444).
        layers: layers by name to use instead of new ones, which shares their weights.
        prefix: put before the name of every layer.
        name: name of the model.
    """

    block = Block()
    model_type = ""
    """What Hugging Face calls the architecture, a key of `configs.FAMILIES`."""
    applications: tuple[str, ...] = ("encoder", "lm", "unilm")
    """What `build_transformer_model` can make of the architecture."""
    refused_arguments: tuple[str, ...] = ()
    """Arguments of the base that the architecture cannot honour."""
    variable_names: ClassVar[Mapping[str, Sequence[str]]] = {}
    """Layer → its variables in official checkpoints, in weight order; with {i}, for each block."""
    vocabulary_variables: tuple[str, ...] = ()
    """Variables whose first axis is the vocabulary."""
    vocabulary_kernels: tuple[str, ...] = ()
    """Variables whose last axis is the vocabulary."""
    pad_token_id: int | None = 0
    """Which token is padding; None hides no token."""
    fixed_settings: ClassVar[Mapping[str, Sequence[Any]]] = {}
    """Settings of config files of which only these values are implemented."""
    foreign_variables: tuple[str, ...] = ()
    """Variables that tell a checkpoint of another architecture, although all of ours are in it."""

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
        keep_tokens: Sequence[int] | None = None,
        compound_tokens: Sequence[Any] | None = None,
        residual_attention_scores: bool = False,
        ignore_invalid_weights: bool = False,
        autoresize_weights: bool = False,
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
        self.full_vocab_size = vocab_size
        self.keep_tokens = checked_tokens(keep_tokens, vocab_size)
        if pad_token_id is not None:
            self.pad_token_id = renumbered(pad_token_id, keep_tokens)
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
        self.layers = {} if layers is None else layers
        self.prefix = prefix or ""
        self.name = name
        self.unknown_arguments = kwargs.keys() - self.fixed_settings.keys()
        self.settings: Mapping[str, Any] = {}  # all of the config, by build_transformer_model
        self.vocabulary: Path | None = None  # the file beside the config
        self.tables_are_cut = False
        self.forget()
        self.built = False

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
        return self.apply_final_layers(outputs)

    def forget(self) -> None:
        """Drop the tensors that the blocks share, which belong to one call."""
        self.attention_bias: Any = None
        self.position_bias: Any = None
        self.attention_scores: dict[str, Tensor] = {}

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
        """
        if layer is Dropout and self.dropout_rate == 0:
            return inputs
        arguments = dict(arguments or {})
        name = self.prefixed(kwargs.get("name"))
        if name not in self.layers:
            attends = isinstance(layer, type) and issubclass(layer, MultiHeadAttention)
            if attends and self.residual_attention_scores:
                kwargs["return_attention_scores"] = True
            if layer is keras.layers.Lambda:
                kwargs["arguments"] = arguments
            created = layer(**{**kwargs, "name": name})
            name = created.name
            self.layers[name] = created
        if inputs is None:
            return self.layers[name]
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
            activation=[self.hidden_act, "linear"] if self.block.gated else self.hidden_act,
            use_bias=self.block.use_bias,
            kernel_initializer=self.initializer,
            name=name,
        )

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
        function = "softmax" if function is True else activation(function)
        return self.apply(x, Activation, activation=function, dtype="float32", name=name)

    def set_inputs(self, inputs: Any, additional_input_layers: Any = None) -> None:
        """Keep the inputs of the model: `self.inputs`, and `self.input` as Keras wants it."""
        additional = additional_input_layers
        self.inputs = [*listed(inputs), *([] if additional is None else listed(additional))]
        self.input = self.inputs if len(self.inputs) > 1 else self.inputs[0]

    def set_outputs(self, outputs: Any) -> None:
        """Keep the outputs of the model: `self.outputs`, and `self.output` as Keras wants it."""
        self.outputs = listed(outputs)
        self.output = self.outputs if len(self.outputs) > 1 else self.outputs[0]

    @property
    def initializer(self) -> keras.initializers.Initializer:
        """A new initializer of kernels and embeddings: normal, cut off at two deviations."""
        return keras.initializers.TruncatedNormal(stddev=self.initializer_range)

    @property
    def table_initializer(self) -> keras.initializers.Initializer:
        """A new initializer of embeddings."""
        return self.initializer

    def simplify(self, inputs: Sequence[Any]) -> Any:
        """Leave out what is None; of a single thing no list is made."""
        inputs = [x for x in inputs if x is not None]
        return inputs[0] if len(inputs) == 1 else inputs

    # --- weights

    def variable_mapping(self) -> dict[str, list[str]]:
        """Hook: layer name → names of its variables in official checkpoints, in weight order."""
        mapping: dict[str, list[str]] = {}
        for layer, names in self.variable_names.items():
            for i in range(self.num_hidden_layers if "{i" in layer else 1):
                mapping[layer.format(i=i)] = [name.format(i=i) for name in names]
        return mapping

    def stored_name(self, checkpoint: Any, name: str) -> str:
        """Hook: under which name an open checkpoint holds the variable `name`."""
        return name

    def load_embeddings(self, embeddings: np.ndarray) -> np.ndarray:
        """Hook: what of a table (vocabulary, ...) is loaded, after keep and compound tokens."""
        embeddings = np.asarray(embeddings)
        if self.tables_are_cut or (self.keep_tokens is None and self.compound_tokens is None):
            return embeddings
        if len(embeddings) != self.full_vocab_size:
            raise CheckpointError(
                f"keep_tokens and compound_tokens are about a vocabulary of {self.full_vocab_size} "
                f"tokens, and the checkpoint has {len(embeddings)}. If it was saved from a model "
                "with them, set vocab_size to its number and leave both out; otherwise correct "
                "vocab_size"
            )
        if self.keep_tokens is not None:
            embeddings = embeddings[self.keep_tokens]
        if self.compound_tokens is not None:
            compounds = [average_rows(embeddings, item) for item in self.compound_tokens]
            embeddings = np.concatenate([embeddings, np.asarray(compounds, embeddings.dtype)])
        return embeddings

    def load_variable(self, checkpoint: Any, name: str) -> np.ndarray:
        """Hook: the value of one variable of an open checkpoint, as the layer wants it."""
        variable = checkpoint[name]
        if name in self.vocabulary_kernels:
            return self.load_embeddings(variable.T).T
        return self.load_embeddings(variable) if name in self.vocabulary_variables else variable

    def create_variable(self, name: str, value: np.ndarray, dtype: Any = None) -> np.ndarray:
        """Hook: the value of one variable as an official checkpoint holds it."""
        return np.asarray(value, dtype=dtype)

    def mapped_layers(self, mapping: dict[str, list[str]] | None) -> list[tuple[Any, list[str]]]:
        """The layers of this model that checkpoints know, with the names of their variables."""
        mapping = self.variable_mapping() if mapping is None else mapping
        return [
            (self.layers[self.prefixed(name)], names)
            for name, names in mapping.items()
            if self.prefixed(name) in self.layers
        ]

    def load_weights_from_checkpoint(
        self, checkpoint: str | Path, mapping: dict[str, list[str]] | None = None
    ) -> checkpoints.Report:
        """Load a checkpoint: every variable, or none and an error.

        What `save_pretrained` or `save_weights_as_checkpoint` recorded about the vocabulary counts:
        tables that were cut down to `keep_tokens` already are not cut again.

        Args:
            checkpoint: prefix of a TensorFlow checkpoint, a safetensors, PyTorch or numpy file, a
                file of `Model.save_weights`, or a folder that holds one; with official names or
                those of Hugging Face.
            mapping: layer name → variable names instead of `variable_mapping()`.

        Returns:
            What was loaded, what the file has besides, and which layers start from scratch.

        Raises:
            CheckpointError: the file is damaged, or a variable is missing, has another shape, or
                holds NaN. The model is unchanged then.
        """
        targets = [t for pair in self.mapped_layers(mapping) for t in weights_of(*pair)]
        with checkpoints.open_checkpoint(checkpoint) as file:
            self.tables_are_cut = self.is_cut(file)
            bundle = self.officially_named(file, mapping)
            targets = [(self.stored_name(bundle, name), *rest) for name, *rest in targets]
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
                expected={name: tuple(layer.weights[i].shape) for name, layer, i in targets},
                found=found,
                layers={name: layer.name for name, layer, _ in targets},
                from_scratch=self.from_scratch(targets),
            )
            if not self.ignore_invalid_weights:
                report.raise_for_errors(checkpoint)
                self.check_foreign(report.unused, checkpoint)
            if not_finite:
                raise CheckpointError(f"{checkpoint} holds NaN or infinity in {some(not_finite)}")
            loaded = set(report.loaded)
            assign(
                (layer.weights[index], self.loaded_value(bundle, name, layer, index))
                for name, layer, index in targets
                if name in loaded
            )
        return report

    def officially_named(self, file: Any, mapping: dict[str, list[str]] | None) -> Any:
        """The variables of an open file under the names of `variable_mapping()`."""
        layers = self.mapped_layers(mapping)
        if file.container == "keras":
            weights = checkpoints.load_layers(file.path)
            names = {layer.name: names for layer, names in layers}
            return checkpoints.LayerNames(file.path, weights, names, self.create_variable)
        names = [name for _, names in layers for name in names]
        return checkpoints.as_official(file, [*names, *self.foreign_variables])

    def is_cut(self, file: Any) -> bool:
        """Whether the vocabulary of an open file is that of this model, cut down and extended.

        Raises:
            CheckpointError: it was cut down in another way.
        """
        if file.container == "keras":
            return True
        record = configs.recorded_vocabulary(file.path)
        if record is None:
            return False
        whole = self.keep_tokens is None and self.compound_tokens is None
        if record == configs.vocabulary_record(self) or (
            whole and self.vocab_size == configs.saved_size(record)
        ):
            return True
        raise CheckpointError(
            f"the vocabulary of {file.path} was cut down from {record['vocab_size']} to "
            f"{configs.saved_size(record)} tokens when it was saved, and this model is built for "
            f"{self.vocab_size} of {self.full_vocab_size}. Give the same keep_tokens and "
            "compound_tokens, or none and vocab_size of the saved number"
        )

    def loaded_value(self, bundle: Any, name: str, layer: keras.Layer, index: int) -> np.ndarray:
        """The value that a weight of a layer gets from a variable of a checkpoint."""
        return self.resized(layer, index, self.load_variable(bundle, name))

    def check_foreign(self, unused: Sequence[str], checkpoint: str | Path) -> None:
        """Refuse a checkpoint of another architecture that happens to hold all our variables."""
        foreign = [name for name in self.foreign_variables if name in unused]
        if foreign:
            raise CheckpointError(
                f"{checkpoint} holds {foreign[0]}, which {type(self).__name__} does not have: it "
                "is of another architecture, so correct model=. To start from it all the same, "
                "pass ignore_invalid_weights=True"
            )

    def from_scratch(self, targets: Sequence[tuple[str, keras.Layer, int]]) -> tuple[str, ...]:
        """Names of the layers with weights that no checkpoint knows."""
        known = {layer.name for _, layer, _ in targets}
        return tuple(x.name for x in self.model.layers if x.weights and x.name not in known)

    def resized(self, layer: keras.Layer, index: int, value: np.ndarray) -> np.ndarray:
        """With `autoresize_weights`, a variable cut or repeated to the shape of the weight.

        https://kexue.fm/archives/8444. Queries and keys are scaled so that the scores, and the two
        kernels of a feed-forward layer so that its output, stay as large as they were.
        """
        shape = tuple(layer.weights[index].shape)
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
        """Write a TensorFlow checkpoint with the official variable names.

        Args:
            filename: its prefix, as in 'folder/bert_model.ckpt'.
            mapping: layer name → variable names instead of `variable_mapping()`.
            dtype: type of the variables, that of the weights by default.
        """
        checkpoints.write_checkpoint(filename, self.official_variables(mapping, dtype))
        configs.write_record(filename, configs.vocabulary_record(self))

    def official_variables(
        self, mapping: dict[str, list[str]] | None = None, dtype: Any = None
    ) -> dict[str, np.ndarray]:
        """The variables of this model as official checkpoints hold them, by name."""
        return {
            name: self.create_variable(name, to_numpy(weight), dtype)
            for layer, names in self.mapped_layers(mapping)
            for name, weight in zip(names, layer.weights, strict=False)
        }

    def save_pretrained(self, folder: str | Path, tokenizer: Any = None) -> None:
        """Write `config.json`, `model.safetensors` and `vocab.txt`, which `transformers` loads.

        `architectures` in the config says which heads there are: a head that the model was built
        without is not in the file. The mask of UniLM, and that of a language model where Hugging
        Face has none for the architecture (ALBERT, NEZHA), is not either: build with the same
        `application` again.

        Args:
            folder: where to write; it is created.
            tokenizer: the tokenizer whose vocabulary is written. Without it, the file beside the
                config is, cut down to `keep_tokens`; with `compound_tokens`, whose names only a
                tokenizer knows, none is.

        Raises:
            ValueError: Hugging Face cannot describe the model, or the tokenizer is of another one.
        """
        folder = Path(folder)
        causal = isinstance(self, LM_Mask) and self.model_type not in ("t5", "mt5")
        config = configs.to_hugging_face(self, causal)
        tokens = self.saved_tokens(tokenizer)
        tensors = checkpoints.to_hugging_face(self.official_variables(), self.model_type)
        folder.mkdir(parents=True, exist_ok=True)
        checkpoints.write_safetensors(folder / "model.safetensors", tensors)
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        (folder / "config.json").write_text(text, encoding="utf-8")
        if tokens is not None:
            save_vocab(folder / "vocab.txt", tokens)
        elif self.vocabulary is not None and self.vocabulary.suffix == ".model":
            (folder / "spiece.model").write_bytes(self.vocabulary.read_bytes())

    def saved_tokens(self, tokenizer: Any) -> dict[str, int] | None:
        """The vocabulary of the model as far as it is known: token → id."""
        if tokenizer is not None:
            tokens = dict(tokenizer.token_dict)
        elif (
            self.compound_tokens is not None
            or self.vocabulary is None
            or self.vocabulary.suffix != ".txt"
        ):
            return None
        else:
            tokens = load_vocab(self.vocabulary)
            if self.keep_tokens is not None and len(tokens) > self.vocab_size:
                names = {i: token for token, i in tokens.items()}
                tokens = {names[i]: new for new, i in enumerate(self.keep_tokens)}
        if max(tokens.values(), default=0) >= self.vocab_size:
            raise ValueError(
                f"the vocabulary has {len(tokens)} tokens and the model {self.vocab_size}: give "
                "the tokenizer of this model as tokenizer="
            )
        return tokens


def weights_of(layer: keras.Layer, names: Sequence[str]) -> list[tuple[str, keras.Layer, int]]:
    """Each variable name with the layer and the index of the weight that it belongs to."""
    if len(layer.weights) < len(names):
        raise ValueError(
            f"layer {layer.name!r} has {len(layer.weights)} weights, and {len(names)} variables "
            f"are mapped to it: {list(names)}. Correct variable_mapping()"
        )
    return [(name, layer, index) for index, name in enumerate(names)]


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


def check_settings(architecture: type[Transformer], given: Mapping[str, Any]) -> None:
    """Refuse settings of a config file that the architecture does not implement."""
    for name, allowed in architecture.fixed_settings.items():
        if name in given and given[name] not in allowed:
            raise ValueError(
                f"{architecture.__name__} is implemented with {name}={allowed[0]!r} only, and the "
                f"config says {given[name]!r}: this checkpoint cannot be used"
            )


def rotary_settings(theta: float, scaling: Mapping[str, Any] | None, reach: int) -> dict[str, Any]:
    """Arguments of `SinusoidalPositionEmbedding` from the settings of Hugging Face configs.

    Args:
        theta: `rope_theta`, unless `scaling` has one.
        scaling: `rope_scaling` or `rope_parameters`.
        reach: the length that the model was trained with, unless `scaling` says it.
    """
    scaling = dict(scaling or {})
    theta = scaling.pop("rope_theta", theta)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return {"base": theta}
    if kind != "linear":
        scaling.setdefault("original_max_position_embeddings", reach)
    return {"base": theta, "scaling": scaling}


def average_rows(table: np.ndarray, item: Any) -> np.ndarray:
    """Average rows of a table; `item` is a list of indices or a pair (indices, weights)."""
    if isinstance(item, tuple):
        return np.average(table[list(item[0])], axis=0, weights=item[1])
    return np.average(table[list(item)], axis=0)


def finite(value: np.ndarray) -> bool:
    """Tell whether all numbers are finite; the sum tells it in a single cheap pass."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(value.sum())) or bool(np.isfinite(value).all())


# ------------------------------------------------------------------------------------------- masks


class LM_Mask:
    """Language model: every token sees itself and the tokens before it."""

    def compute_attention_bias(self, inputs: Any = None) -> Tensor:
        """The lower triangle, computed once."""
        if self.attention_bias is None:
            self.attention_bias = self.apply(self.inputs[0], LMMask, name="Attention-LM-Mask")
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


# ----------------------------------------------------------------------------------- architectures


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


class BERT(Transformer):
    """BERT (Devlin et al., 2018) and RoBERTa, which has the same architecture.

    Args:
        max_position: number of positions.
        segment_vocab_size: number of segment types; 0 for a model without segments.
        with_pool: output the first token's vector through a Dense: True for tanh, or an activation.
        with_nsp: output the next-sentence prediction, from the pooled vector (forces `with_pool`).
        with_mlm: output token probabilities: True for softmax, or an activation such as 'linear'.
        hierarchical_position: see `hierarchical` of `PositionEmbedding`.
        custom_position_ids: take position ids as a further input.
        shared_segment_embeddings: embed segment ids with the token table.
        **kwargs: see `Transformer`.

    Outputs are hidden states (batch, length, hidden_size) if no head is asked for; otherwise the
    heads, in the order pooled or next-sentence, token probabilities.
    """

    model_type = "bert"
    segments_in_mask = False
    embedding_steps: tuple[str, ...] = ("norm", "dropout")
    """What happens to the sum of the embeddings."""
    # google-research/bert, modeling.py and run_pretraining.py
    variable_names: ClassVar[Mapping[str, list[str]]] = {
        "Embedding-Token": ["bert/embeddings/word_embeddings"],
        "Embedding-Segment": ["bert/embeddings/token_type_embeddings"],
        "Embedding-Position": ["bert/embeddings/position_embeddings"],
        "Embedding-Norm": norm("bert/embeddings/LayerNorm"),
        "Embedding-Mapping": dense("bert/encoder/embedding_hidden_mapping_in"),
        "Transformer-{i}-MultiHeadSelfAttention": dense(
            "bert/encoder/layer_{i}/attention/self/query",
            "bert/encoder/layer_{i}/attention/self/key",
            "bert/encoder/layer_{i}/attention/self/value",
            "bert/encoder/layer_{i}/attention/output/dense",
        ),
        "Transformer-{i}-MultiHeadSelfAttention-Norm": norm(
            "bert/encoder/layer_{i}/attention/output/LayerNorm"
        ),
        "Transformer-{i}-FeedForward": dense(
            "bert/encoder/layer_{i}/intermediate/dense", "bert/encoder/layer_{i}/output/dense"
        ),
        "Transformer-{i}-FeedForward-Norm": norm("bert/encoder/layer_{i}/output/LayerNorm"),
        "Pooler-Dense": dense("bert/pooler/dense"),
        "NSP-Proba": ["cls/seq_relationship/output_weights", "cls/seq_relationship/output_bias"],
        "MLM-Dense": dense("cls/predictions/transform/dense"),
        "MLM-Norm": norm("cls/predictions/transform/LayerNorm"),
        "MLM-Bias": ["cls/predictions/output_bias"],
    }
    vocabulary_variables = ("bert/embeddings/word_embeddings", "cls/predictions/output_bias")

    def __init__(
        self,
        max_position: int,
        segment_vocab_size: int = 2,
        with_pool: bool | str = False,
        with_nsp: bool = False,
        with_mlm: bool | str = False,
        hierarchical_position: bool | float | None = None,
        custom_position_ids: bool = False,
        shared_segment_embeddings: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.max_position = max_position
        self.segment_vocab_size = segment_vocab_size
        self.with_pool = with_pool or with_nsp
        self.with_nsp = with_nsp
        self.with_mlm = with_mlm
        self.hierarchical_position = hierarchical_position
        self.custom_position_ids = custom_position_ids
        self.shared_segment_embeddings = shared_segment_embeddings

    def get_inputs(self) -> Any:
        """Token ids, segment ids, position ids, as far as the model has them."""
        kinds = {"Token": "int32"}
        if self.segment_vocab_size > 0 or self.segments_in_mask:
            kinds["Segment"] = "int32"
        if self.custom_position_ids:
            # Sinusoidal positions may be fractions.
            kinds["Position"] = "float32"
        return self.simplify(
            [
                self.apply(
                    layer=Input, shape=(self.sequence_length,), dtype=dtype, name=f"Input-{kind}"
                )
                for kind, dtype in kinds.items()
            ]
        )

    def apply_embeddings(self, inputs: Any) -> Tensor:
        """Tokens, segments and positions, added up; then the steps of the architecture."""
        token_ids, *rest = listed(inputs)
        segment_ids = rest.pop(0) if self.segment_vocab_size > 0 or self.segments_in_mask else None
        position_ids = rest.pop(0) if self.custom_position_ids else None
        x = self.apply_token_embedding(token_ids)
        if self.segment_vocab_size > 0:
            x = self.apply(
                [x, self.apply_segment_embedding(segment_ids)], Add, name="Embedding-Token-Segment"
            )
        x = self.apply_position_embedding(x, position_ids)
        for step in self.embedding_steps:
            if step == "norm":
                x = self.apply_norm(x, "Embedding-Norm")
            else:
                x = self.apply(x, Dropout, rate=self.dropout_rate, name="Embedding-Dropout")
        if self.embedding_size != self.hidden_size:
            x = self.apply_dense(x, self.hidden_size, "Embedding-Mapping")
        return x

    def apply_segment_embedding(self, segment_ids: Tensor) -> Tensor:
        """Segment vectors, from their own table or that of the tokens."""
        if self.shared_segment_embeddings:
            return self.apply_token_embedding(segment_ids)
        return self.apply(
            segment_ids,
            Embedding,
            input_dim=self.segment_vocab_size,
            output_dim=self.embedding_size,
            embeddings_initializer=self.table_initializer,
            name="Embedding-Segment",
        )

    def apply_position_embedding(self, x: Tensor, position_ids: Tensor | None) -> Tensor:
        """Add position vectors from a table."""
        return self.apply(
            self.simplify([x, position_ids]),
            PositionEmbedding,
            input_dim=self.max_position,
            output_dim=self.embedding_size,
            merge_mode="add",
            hierarchical=self.hierarchical_position,
            embeddings_initializer=self.table_initializer,
            custom_position_ids=self.custom_position_ids,
            name="Embedding-Position",
        )

    def apply_final_layers(self, inputs: Tensor) -> Any:
        """The heads that were asked for, or the hidden states."""
        heads = []
        if self.with_pool:
            heads.append(self.apply_pooler(inputs))
        if self.with_mlm:
            heads.append(self.apply_mlm(inputs))
        return self.simplify(heads or [inputs])

    def apply_pooler(self, x: Tensor) -> Tensor:
        """(batch, hidden_size), or with `with_nsp` (batch, 2): next sentence, random sentence."""
        x = self.apply(x, FirstToken, name="Pooler")
        function = "tanh" if self.with_pool is True else activation(self.with_pool)
        x = self.apply_dense(x, self.hidden_size, "Pooler-Dense", activation=function)
        return self.apply_dense(x, 2, "NSP-Proba", activation="softmax") if self.with_nsp else x

    def apply_mlm(self, x: Tensor) -> Tensor:
        """(batch, length, vocab_size), scores or probabilities of tokens."""
        function = activation(self.hidden_act)
        x = self.apply_dense(x, self.embedding_size, "MLM-Dense", activation=function)
        x = self.apply_norm(x, "MLM-Norm")
        x = self.apply_token_embedding(x, mode="dense")
        x = self.apply(x, ScaleOffset, scale=False, name="MLM-Bias")
        return self.apply_activation(x, self.with_mlm, "MLM-Activation")

    def load_variable(self, checkpoint: Any, name: str) -> np.ndarray:
        """The next-sentence kernel is stored transposed."""
        variable = super().load_variable(checkpoint, name)
        return variable.T if name == "cls/seq_relationship/output_weights" else variable

    def create_variable(self, name: str, value: np.ndarray, dtype: Any = None) -> np.ndarray:
        """The inverse of `load_variable`."""
        variable = super().create_variable(name, value, dtype)
        return variable.T if name == "cls/seq_relationship/output_weights" else variable


def albert_block(layer: str, group: str) -> dict[str, list[str]]:
    """Names of the variables of an ALBERT block, as in google-research/albert, modeling.py."""
    group = f"bert/encoder/transformer/{group}/inner_group_0"
    return {
        f"{layer}-MultiHeadSelfAttention": dense(
            f"{group}/attention_1/self/query",
            f"{group}/attention_1/self/key",
            f"{group}/attention_1/self/value",
            f"{group}/attention_1/output/dense",
        ),
        f"{layer}-MultiHeadSelfAttention-Norm": norm(f"{group}/LayerNorm"),
        f"{layer}-FeedForward": dense(
            f"{group}/ffn_1/intermediate/dense", f"{group}/ffn_1/intermediate/output/dense"
        ),
        f"{layer}-FeedForward-Norm": norm(f"{group}/LayerNorm_1"),
    }


class ALBERT(BERT):
    """ALBERT (Lan et al., 2019): BERT whose blocks share one set of weights."""

    model_type = "albert"
    block = Block(epsilon=1e-7, name="Transformer")
    foreign_variables = ("bert/encoder/embedding_hidden_mapping_in/kernel",)
    variable_names = BERT.variable_names | albert_block("Transformer", "group_0")


class ALBERT_Unshared(ALBERT):
    """ALBERT whose blocks start from the shared weights and then go their own ways."""

    block = Block(epsilon=1e-7)
    variable_names = BERT.variable_names | albert_block("Transformer-{i}", "group_{i}")

    def stored_name(self, checkpoint: Any, name: str) -> str:
        """A checkpoint with a single group serves all blocks."""
        shared = re.sub(r"/group_\d+/", "/group_0/", name)
        return name if name in checkpoint else shared


class NEZHA(BERT):
    """NEZHA (Wei et al., 2019): BERT with fixed sinusoidal vectors of relative positions."""

    model_type = "nezha"
    block = Block(epsilon=1e-7, position_bias="typical_relative")
    refused_arguments = ("custom_position_ids", "hierarchical_position")
    foreign_variables = ("bert/embeddings/position_embeddings",)
    max_distance = 64

    def apply_position_embedding(self, x: Tensor, position_ids: Tensor | None) -> Tensor:
        """Nothing: positions enter attention."""
        return x

    def compute_position_bias(self, inputs: Any = None) -> Tensor:
        """Vectors of relative positions, for the keys and for the values; computed once."""
        if self.position_bias is None:
            sizes = {"": self.attention_key_size, "-Value": self.attention_head_size}
            if self.attention_key_size == self.attention_head_size:
                del sizes["-Value"]  # keys and values use the same
            vectors = [
                self.apply(
                    [inputs, inputs],
                    RelativePositionEmbedding,
                    input_dim=2 * self.max_distance + 1,
                    output_dim=size,
                    embeddings_initializer=Sinusoidal(),
                    trainable=False,
                    name=f"Embedding-Relative-Position{kind}",
                )
                for kind, size in sizes.items()
            ]
            self.position_bias = (
                keras.ops.concatenate(vectors, -1) if len(vectors) > 1 else vectors[0]
            )
        return self.position_bias


class RoFormer(BERT):
    """RoFormer (Su et al., 2021): BERT with rotary positions instead of a position table."""

    model_type = "roformer"
    block = Block(epsilon=1e-7, position_bias="rotary")
    refused_arguments = ("hierarchical_position",)
    foreign_variables = ("bert/embeddings/position_embeddings",)
    rotary: ClassVar[dict[str, Any]] = {}
    """Wavelengths: `base` and `scaling` of `SinusoidalPositionEmbedding`."""

    def apply_position_embedding(self, x: Tensor, position_ids: Tensor | None) -> Tensor:
        """Nothing: positions enter attention."""
        return x

    def compute_position_bias(self, inputs: Any = None) -> Tensor:
        """Sinusoidal vectors by which queries and keys are rotated, computed once."""
        if self.position_bias is None:
            name = "Embedding-Rotary-Position"
            self.position_bias = self.apply_rotary_position(inputs, name, self.rotary)
        return self.position_bias

    def apply_rotary_position(self, x: Tensor, name: str, wavelengths: dict[str, Any]) -> Tensor:
        """Sinusoidal vectors of the positions, (batch or 1, length, key size)."""
        position_ids = self.layers.get(self.prefixed("Input-Position"))
        return self.apply(
            self.simplify([x, position_ids]),
            SinusoidalPositionEmbedding,
            output_dim=self.attention_key_size,
            merge_mode="zero",
            custom_position_ids=self.custom_position_ids,
            name=name,
            **wavelengths,
        )


class RoFormerV2(RoFormer):
    """RoFormerV2 (Su et al., 2022): RoFormer without biases, its norms without parameters.

    It has no pooler and no condition: `with_pool` and `layer_norm_cond` mean nothing to it.
    """

    model_type = "roformer_v2"
    block = Block(
        epsilon=1e-7,
        zero_mean=False,
        scale=False,
        offset=False,
        position_bias="rotary",
        use_bias=False,
    )
    embedding_steps = ("dropout", "norm")
    initializer_order = 2
    variable_names: ClassVar[Mapping[str, list[str]]] = {
        layer: [name for name in names if name.endswith(("kernel", "embeddings"))]
        for layer, names in BERT.variable_names.items()
    }

    @property
    def initializer(self) -> keras.initializers.Initializer:
        """Kernels shrink with the depth, which keeps the updates of a post-norm model bounded."""
        return self.scaled_initializer("fan_in")

    @property
    def table_initializer(self) -> keras.initializers.Initializer:
        """Tables likewise; what counts for them is the size of the vectors."""
        return self.scaled_initializer("fan_out")

    def scaled_initializer(self, mode: str) -> keras.initializers.Initializer:
        """Truncated normal of standard deviation fan^(−1/2) · blocks^(−1/order)."""
        scale = max(1, self.num_hidden_layers) ** (-2 / self.initializer_order)
        return keras.initializers.VarianceScaling(scale, mode, "truncated_normal")

    def apply_final_layers(self, inputs: Tensor) -> Tensor:
        """Hidden states, or with `with_mlm` token probabilities by the table of embeddings."""
        x = inputs
        if not self.with_mlm:
            return x
        if self.embedding_size != self.hidden_size:
            x = self.apply_dense(x, self.embedding_size, "Output-Mapping")
        x = self.apply(x, Dropout, rate=self.dropout_rate, name="Output-MLM-Dropout")
        x = self.apply_token_embedding(x, mode="dense")
        return self.apply_activation(x, self.with_mlm, "Output-MLM-Activation")


class ELECTRA(BERT):
    """ELECTRA (Clark et al., 2020), the discriminator.

    Args:
        with_discriminator: output (batch, length, 1), whether a token was replaced: True for a
            probability, or an activation such as 'linear'.
        **kwargs: see `BERT`.
    """

    model_type = "electra"
    applications = ("encoder",)
    refused_arguments = ("with_pool", "with_nsp", "with_mlm")
    # google-research/electra, modeling.py and run_pretraining.py
    variable_names = renamed(BERT.variable_names, "bert/", "electra/") | {
        "Embedding-Mapping": dense("electra/embeddings_project"),
        "Discriminator-Dense": dense("discriminator_predictions/dense"),
        "Discriminator-Prediction": dense("discriminator_predictions/dense_1"),
    }
    vocabulary_variables = ("electra/embeddings/word_embeddings",)

    def __init__(
        self, max_position: int, with_discriminator: bool | str = False, **kwargs: Any
    ) -> None:
        super().__init__(max_position, **kwargs)
        self.with_discriminator = with_discriminator

    def apply_final_layers(self, inputs: Tensor) -> Tensor:
        """Hidden states, or whether each token was replaced."""
        if not self.with_discriminator:
            return inputs
        function = activation(self.hidden_act)
        x = self.apply_dense(inputs, self.hidden_size, "Discriminator-Dense", activation=function)
        final = self.with_discriminator
        final = "sigmoid" if final is True else activation(final)
        return self.apply_dense(x, 1, "Discriminator-Prediction", activation=final)


class GPT(LM_Mask, BERT):
    """GPT (Radford et al., 2018), with segments as in CDial-GPT (Wang et al., 2020).

    Args:
        final_activation: of the token scores, 'softmax' or 'linear' for instance.
        **kwargs: see `BERT`.
    """

    model_type = "openai-gpt"
    embedding_steps = ("dropout",)
    refused_arguments = ("with_pool", "with_nsp", "with_mlm")
    variable_names = renamed(
        renamed(BERT.variable_names, "bert/encoder", "gpt/transformer"), "bert/", "gpt/"
    )
    vocabulary_variables = ("gpt/embeddings/word_embeddings",)

    def __init__(self, max_position: int, final_activation: Any = "softmax", **kwargs: Any) -> None:
        super().__init__(max_position, **kwargs)
        self.final_activation = final_activation

    def apply_final_layers(self, inputs: Tensor) -> Tensor:
        """(batch, length, vocab_size), scores or probabilities of the next token."""
        x = inputs
        if self.embedding_size != self.hidden_size:
            x = self.apply_dense(x, self.embedding_size, "Output-Mapping")
        x = self.apply_token_scores(x)
        return self.apply_activation(x, self.final_activation, "LM-Activation")

    def apply_token_scores(self, x: Tensor) -> Tensor:
        """(batch, length, vocab_size), by the table of embeddings."""
        return self.apply_token_embedding(x, mode="dense")


class GPT2(GPT):
    """GPT-2 (Radford et al., 2019): GPT normalised before each sub-layer, without segments."""

    model_type = "gpt2"
    block = Block(attention_norms=("pre",), feed_forward_norms=("pre",), epsilon=1e-5)
    embedding_steps = ()
    variable_names = GPT.variable_names | {
        "Transformer-{i}-MultiHeadSelfAttention-Norm": norm(
            "gpt/transformer/layer_{i}/attention/input/LayerNorm"
        ),
        "Transformer-{i}-FeedForward-Norm": norm("gpt/transformer/layer_{i}/input/LayerNorm"),
        "Output-Norm": norm("gpt/output/LayerNorm"),
    }

    def __init__(self, max_position: int, **kwargs: Any) -> None:
        super().__init__(max_position, **{**kwargs, "segment_vocab_size": 0})

    def apply_final_layers(self, inputs: Tensor) -> Tensor:
        """(batch, length, vocab_size), scores or probabilities of the next token."""
        x = self.apply_norm(inputs, "Output-Norm")
        x = self.apply(x, Dropout, rate=self.dropout_rate, name="Output-Dropout")
        return super().apply_final_layers(x)


class GPT2_ML(GPT2):
    """GPT-2 as in imcaspar/gpt2-ml: the feed-forward layers are normalised before and after."""

    model_type = "gpt2_ml"
    block = Block(attention_norms=(), feed_forward_norms=("pre", "post"), epsilon=1e-5)
    embedding_steps = ("norm",)
    variable_names: ClassVar[Mapping[str, list[str]]] = {
        "Embedding-Token": ["newslm/embeddings/word_embed"],
        "Embedding-Position": ["newslm/embeddings/pos_embed"],
        "Embedding-Norm": norm("newslm/embeddings/LayerNorm_embed_norm"),
        "Transformer-{i}-MultiHeadSelfAttention": dense(
            "newslm/layer{i:02}/query_layer",
            "newslm/layer{i:02}/key_layer",
            "newslm/layer{i:02}/value_layer",
            "newslm/layer{i:02}/context_projection_layer",
        ),
        "Transformer-{i}-FeedForward-Norm-0": norm("newslm/layer{i:02}/LayerNorm_mlp_ln0"),
        "Transformer-{i}-FeedForward": dense(
            "newslm/layer{i:02}/intermediate", "newslm/layer{i:02}/output"
        ),
        "Transformer-{i}-FeedForward-Norm-1": norm("newslm/layer{i:02}/LayerNorm_mlp_ln1"),
    }
    vocabulary_variables = ("newslm/embeddings/word_embed",)

    def apply_final_layers(self, inputs: Tensor) -> Tensor:
        """As GPT does: the last block has normalised already."""
        return GPT.apply_final_layers(self, inputs)


def t5_names(version: str) -> dict[str, list[str]]:
    """Names of the variables of T5, as in google-research/text-to-text-transfer-transformer."""
    names = {
        "Embedding-Token": ["shared/embedding"],
        "Decoder-Output-LM": ["decoder/logits/kernel"],
    }
    inner = ("wi",) if version == "t5.1.0" else ("wi_0", "wi_1")
    norm, last = ("rms_norm",) * 2 if version == "mt5.1.1" else ("layer_norm", "final_layer_norm")
    for part, sub_layers in (
        ("Encoder", ("SelfAttention", "FeedForward")),
        ("Decoder", ("SelfAttention", "CrossAttention", "FeedForward")),
    ):
        stack = part.lower()
        names[f"{part}-Embedding-Relative-Position"] = [
            f"{stack}/block_000/layer_000/SelfAttention/relative_attention_bias"
        ]
        for number, sub_layer in enumerate(sub_layers):
            block = f"{stack}/block_{{i:03}}/layer_{number:03}"
            theirs = sub_layer.replace("Cross", "EncDec")
            if sub_layer == "FeedForward":
                layer = f"{part}-Transformer-{{i}}-{sub_layer}"
                names[layer] = [f"{block}/DenseReluDense/{x}/kernel" for x in (*inner, "wo")]
            else:
                layer = f"{part}-Transformer-{{i}}-MultiHead{sub_layer}"
                names[layer] = [f"{block}/{theirs}/{x}" for x in "qkvo"]
            names[f"{layer}-Norm"] = [f"{block}/{norm}/scale"]
        names[f"{part}-Output-Norm"] = [f"{stack}/{last}/scale"]
    return names


class T5_Base(Transformer):
    """T5 (Raffel et al., 2019) and mT5 (Xue et al., 2020): what encoder and decoder share.

    Args:
        version: 't5.1.0', 't5.1.1' or 'mt5.1.1'. From 1.1 on feed-forward layers are gated
            (`hidden_act` is a list of two) and the token scores have a kernel of their own.
        **kwargs: see `Transformer`.
    """

    block = Block(
        attention_norms=("pre",),
        feed_forward_norms=("pre",),
        epsilon=1e-6,
        zero_mean=False,
        offset=False,
        position_bias="t5_relative",
        use_bias=False,
        attention_scale=False,
    )
    applications = ("encoder",)
    vocabulary_variables = ("shared/embedding",)
    vocabulary_kernels = ("decoder/logits/kernel",)
    part = ""
    """What the names of all layers of the encoder or of the decoder begin with."""

    def __init__(self, version: str = "t5.1.0", **kwargs: Any) -> None:
        if version not in ("t5.1.0", "t5.1.1", "mt5.1.1"):
            raise ValueError(f"version is 't5.1.0', 't5.1.1' or 'mt5.1.1', not {version!r}")
        super().__init__(**kwargs)
        self.version = version
        self.gated = version != "t5.1.0"
        self.model_type = "mt5" if version == "mt5.1.1" else "t5"
        self.block = replace(self.block, name=f"{self.part}Transformer-{{i}}")

    @property
    def variable_names(self) -> dict[str, list[str]]:
        """The table of names, which depends on the version."""
        return t5_names(self.version)

    def apply_embeddings(self, inputs: Any) -> Any:
        """Token vectors; what comes before the tokens (the context of a decoder) is passed on."""
        *context, token_ids = listed(inputs)
        x = self.apply_token_embedding(token_ids)
        x = self.apply(x, Dropout, rate=self.dropout_rate, name=f"{self.part}Embedding-Dropout")
        if self.embedding_size != self.hidden_size:
            x = self.apply_dense(x, self.hidden_size, f"{self.part}Embedding-Mapping")
        return self.simplify([*context, x])

    def apply_relative_position(self, x: Tensor, context: Tensor, bidirectional: bool) -> Tensor:
        """(length of x, length of context, heads), numbers for the scores."""
        return self.apply(
            [x, context],
            RelativePositionEmbeddingT5,
            input_dim=32,
            output_dim=self.num_attention_heads,
            bidirectional=bidirectional,
            embeddings_initializer=self.table_initializer,
            name=f"{self.part}Embedding-Relative-Position",
        )

    def apply_output(self, x: Tensor) -> Tensor:
        """The normalisation after the last block."""
        x = self.apply_norm(x, f"{self.part}Output-Norm")
        return self.apply(x, Dropout, rate=self.dropout_rate, name=f"{self.part}Output-Dropout")

    def load_variable(self, checkpoint: Any, name: str) -> np.ndarray:
        """Tables of relative positions are stored transposed."""
        variable = super().load_variable(checkpoint, name)
        return variable.T if name.endswith("relative_attention_bias") else variable

    def create_variable(self, name: str, value: np.ndarray, dtype: Any = None) -> np.ndarray:
        """The inverse of `load_variable`."""
        variable = super().create_variable(name, value, dtype)
        return variable.T if name.endswith("relative_attention_bias") else variable


class T5_Encoder(T5_Base):
    """The encoder of T5: (batch, length) token ids to (batch, length, hidden_size)."""

    part = "Encoder-"

    def get_inputs(self) -> Tensor:
        """Token ids."""
        kind = {"shape": (self.sequence_length,), "dtype": "int32"}
        return self.apply(layer=Input, name="Encoder-Input-Token", **kind)

    def compute_position_bias(self, inputs: Any = None) -> Tensor:
        """Relative positions in both directions, computed once."""
        if self.position_bias is None:
            self.position_bias = self.apply_relative_position(inputs, inputs, bidirectional=True)
        return self.position_bias

    def apply_final_layers(self, inputs: Tensor) -> Tensor:
        """Normalised hidden states."""
        return self.apply_output(inputs)


class T5_Decoder(LM_Mask, T5_Base):
    """The decoder of T5: [context (batch, length, hidden_size), token ids] to token scores.

    Args:
        with_lm: output token probabilities: True for softmax, an activation such as 'linear', or
            False for hidden states.
        cross_position_bias: whether attention to the context has a position bias.
        scale_outputs: whether the hidden states are divided by √hidden_size at the end.
        **kwargs: see `T5_Base`.
    """

    part = "Decoder-"

    def __init__(
        self,
        with_lm: bool | str = True,
        cross_position_bias: bool = True,
        scale_outputs: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.with_lm = with_lm
        self.cross_position_bias = cross_position_bias
        self.scale_outputs = scale_outputs

    def get_inputs(self) -> list[Tensor]:
        """Context, token ids."""
        return [
            self.apply(
                layer=Input, shape=(self.sequence_length, self.hidden_size), name="Input-Context"
            ),
            self.apply(
                layer=Input,
                shape=(self.sequence_length,),
                dtype="int32",
                name="Decoder-Input-Token",
            ),
        ]

    def compute_attention_bias(self, inputs: Any = None) -> Tensor:
        """The lower triangle, computed once."""
        if self.attention_bias is None:
            self.attention_bias = self.apply(self.inputs[1], LMMask, name="Attention-LM-Mask")
        return self.attention_bias

    def compute_position_bias(self, inputs: Any = None) -> list[Tensor | None]:
        """Of [x, context]: relative positions for self-attention and cross-attention."""
        if self.position_bias is None:
            x, context = inputs
            self.position_bias = [self.apply_relative_position(x, x, bidirectional=False), None]
            if self.cross_position_bias:
                self.position_bias[1] = self.apply_relative_position(x, context, False)
        return self.position_bias

    def apply_final_layers(self, inputs: Any) -> Tensor:
        """Token scores or probabilities, or hidden states."""
        x = self.apply_output(inputs[1])
        scale = self.hidden_size**-0.5 if self.scale_outputs else 1
        x = self.apply(x, ScaleOffset, scale=scale, offset=False, name="Decoder-Output-Scale")
        if not self.with_lm:
            return x
        if self.embedding_size != self.hidden_size:
            x = self.apply_dense(x, self.embedding_size, "Decoder-Output-Mapping")
        if self.gated:
            final = "softmax" if self.with_lm is True else activation(self.with_lm)
            kwargs = {"activation": final, "dtype": "float32"}
            return self.apply_dense(x, self.vocab_size, "Decoder-Output-LM", **kwargs)
        x = self.apply_token_embedding(x, mode="dense")
        return self.apply_activation(x, self.with_lm, "Decoder-Output-LM-Activation")


class T5(T5_Base):
    """T5 whole: `.encoder`, `.decoder` and, of both, `.model`, three models that share weights.

    Args:
        **kwargs: see `T5_Decoder`.
    """

    def __init__(self, **kwargs: Any) -> None:
        name = kwargs.get("name")
        names = [f"{name}_{part}" if name else part for part in ("Encoder", "Decoder")]
        kwargs["layers"] = kwargs.get("layers") or {}
        self._encoder = T5_Encoder(**kwargs | {"name": names[0]})
        self._decoder = T5_Decoder(**kwargs | {"name": names[1]})
        super().__init__(**kwargs)
        self.unknown_arguments &= self._decoder.unknown_arguments

    def build(
        self,
        attention_caches: dict[str, Sequence[Tensor]] | None = None,
        additional_input_layers: Tensor | Sequence[Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        """Assemble the three models, once; see `Transformer.build`."""
        if self.built:
            return
        kwargs["additional_input_layers"] = additional_input_layers
        for part in (self._encoder, self._decoder):
            caches = {
                name: pair
                for name, pair in (attention_caches or {}).items()
                if ("Encoder-" in name) == (part is self._encoder)
            }
            part.build(attention_caches=caches, **kwargs)
        self.encoder, self.decoder = self._encoder.model, self._decoder.model
        token_ids = self._decoder.inputs[1]
        self.set_inputs([self._encoder.inputs[0], token_ids], additional_input_layers)
        self.set_outputs(self._decoder.call([self._encoder.outputs[0], token_ids]))
        self.model = Model(self.input, self.output, name=self.name)
        self.built = True


class ERNIE(BERT):
    """ERNIE (Sun et al., 2019) 1.0 and, with task embeddings, 3.0 (Sun et al., 2021).

    Args:
        use_task_id: add a vector of the task to the embeddings.
        task_type_vocab_size: number of tasks.
        custom_task_ids: take task ids (batch, length) as the last input; otherwise the task is 0.
        **kwargs: see `BERT`.
    """

    model_type = "ernie"
    # Names of Hugging Face: the checkpoints come from PaddlePaddle.
    variable_names = renamed(BERT.variable_names, "bert/", "ernie/") | {
        "Embedding-Task": ["ernie/embeddings/task_type_embeddings"],
    }
    vocabulary_variables = ("ernie/embeddings/word_embeddings", "cls/predictions/output_bias")
    foreign_variables = ("ernie/embeddings/task_type_embeddings",)

    def __init__(
        self,
        max_position: int,
        use_task_id: bool = False,
        task_type_vocab_size: int = 3,
        custom_task_ids: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(max_position, **kwargs)
        self.use_task_id = use_task_id
        self.task_type_vocab_size = task_type_vocab_size
        self.custom_task_ids = custom_task_ids

    def get_inputs(self) -> Any:
        """Those of BERT, and task ids if they are asked for."""
        inputs = listed(super().get_inputs())
        if self.use_task_id and self.custom_task_ids:
            kind = {"shape": (self.sequence_length,), "dtype": "int32"}
            inputs.append(self.apply(layer=Input, name="Input-Task", **kind))
        return self.simplify(inputs)

    def apply_position_embedding(self, x: Tensor, position_ids: Tensor | None) -> Tensor:
        """Add the vectors of positions and that of the task."""
        x = super().apply_position_embedding(x, position_ids)
        if not self.use_task_id:
            return x
        task_ids = self.layers.get(self.prefixed("Input-Task"))
        if task_ids is None:
            task_ids = keras.ops.zeros_like(x[..., 0], dtype="int32")
        task = self.apply(
            task_ids,
            Embedding,
            input_dim=self.task_type_vocab_size,
            output_dim=self.embedding_size,
            embeddings_initializer=self.table_initializer,
            name="Embedding-Task",
        )
        return self.apply([x, task], Add, name="Embedding-Position-Task")


class DeBERTaV2(BERT):
    """DeBERTa v2 (He et al., 2021), as in Erlangshen: attention to contents and to distances.

    Args:
        position_buckets: number of buckets of distances in either direction.
        max_relative_positions: distance from which on there is a single bucket; below 1, it is
            `max_position`.
        norm_rel_ebd: 'layer_norm' to normalise the vectors of the buckets, or 'none'.
        conv_kernel_size: if above 0, a convolution of that size over the embeddings is added to the
            output of the first block.
        conv_act: its activation.
        legacy: whether the MLM head has the names of BERT's, or those of the first publication.
        **kwargs: see `BERT`.
    """

    model_type = "deberta-v2"
    block = Block(epsilon=1e-7, position_bias="disentangled", attention=DisentangledAttention)
    applications = ("encoder",)
    refused_arguments = ("with_pool", "with_nsp", "custom_position_ids", "hierarchical_position")
    fixed_settings: ClassVar[Mapping[str, Sequence[Any]]] = {
        "relative_attention": (True,),
        "position_biased_input": (False,),
        "share_att_key": (True,),
        "pos_att_type": (["p2c", "c2p"], ["c2p", "p2c"], "p2c|c2p", "c2p|p2c"),
        "conv_groups": (1,),
    }
    vocabulary_variables = (
        "deberta/embeddings/word_embeddings",
        "cls/predictions/output_bias",
        "lm_predictions/lm_head/bias",
    )

    def __init__(
        self,
        max_position: int,
        position_buckets: int = 256,
        max_relative_positions: int = -1,
        norm_rel_ebd: str = "layer_norm",
        conv_kernel_size: int = 0,
        conv_act: Any = "tanh",
        legacy: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(max_position, **kwargs)
        if position_buckets < 1 or self.embedding_size != self.hidden_size:
            raise ValueError(
                "DeBERTaV2 is implemented with position_buckets above 0 and with embeddings of "
                f"hidden_size, not with position_buckets={position_buckets} and embedding_size="
                f"{self.embedding_size}: this checkpoint cannot be used"
            )
        self.position_buckets = position_buckets
        self.max_distance = max_relative_positions if max_relative_positions > 0 else max_position
        self.norm_rel_ebd = norm_rel_ebd
        self.conv_kernel_size = conv_kernel_size or 0
        self.conv_act = conv_act
        self.legacy = legacy

    @property
    def variable_names(self) -> dict[str, list[str]]:
        """The table of names, that of BERT up to the attention and the head."""
        names = renamed(BERT.variable_names, "bert/", "deberta/") | {
            "Embedding-Relative-Position": ["deberta/encoder/rel_embeddings"],
            "Embedding-Relative-Position-Norm": norm("deberta/encoder/LayerNorm"),
            "Convolution": dense("deberta/encoder/conv/conv"),
            "Convolution-Norm": norm("deberta/encoder/conv/LayerNorm"),
            "Transformer-{i}-MultiHeadSelfAttention": dense(
                "deberta/encoder/layer_{i}/attention/self/query_proj",
                "deberta/encoder/layer_{i}/attention/self/key_proj",
                "deberta/encoder/layer_{i}/attention/self/value_proj",
                "deberta/encoder/layer_{i}/attention/output/dense",
            ),
        }
        if self.legacy:
            return names
        return names | {
            "MLM-Dense": dense("lm_predictions/lm_head/dense"),
            "MLM-Norm": norm("lm_predictions/lm_head/LayerNorm"),
            "MLM-Bias": ["lm_predictions/lm_head/bias"],
        }

    @property
    def attention_sizes(self) -> dict[str, int]:
        """Of the buckets of distances."""
        return {"buckets": self.position_buckets, "max_distance": self.max_distance}

    def apply_position_embedding(self, x: Tensor, position_ids: Tensor | None) -> Tensor:
        """Nothing: positions enter attention."""
        return x

    def compute_position_bias(self, inputs: Any = None) -> Tensor:
        """(2 · buckets, hidden_size), the vectors of the buckets, computed once."""
        if self.position_bias is None:
            name = "Embedding-Relative-Position"
            self.position_bias = self.apply(
                inputs,
                RelativePositionTable,
                input_dim=2 * self.position_buckets,
                output_dim=self.hidden_size,
                embeddings_initializer=self.table_initializer,
                name=name,
            )
            if self.norm_rel_ebd == "layer_norm":
                self.position_bias = self.apply_norm(self.position_bias, f"{name}-Norm")
        return self.position_bias

    def apply_main_layers(self, inputs: Any, index: int) -> Any:
        """One block; after the first comes the convolution, if there is one."""
        outputs = super().apply_main_layers(inputs, index)
        if index or not self.conv_kernel_size:
            return outputs
        return self.apply_convolution(inputs, outputs)

    def apply_convolution(self, x: Tensor, residual: Tensor) -> Tensor:
        """Add a convolution over `x` to `residual`, and normalise."""
        name = "Convolution"
        x = self.apply(
            x,
            MaskedConv1D,
            filters=self.hidden_size,
            kernel_size=self.conv_kernel_size,
            padding="same",
            kernel_initializer=self.initializer,
            name=name,
        )
        x = self.apply(x, Dropout, rate=self.dropout_rate, name=f"{name}-Dropout")
        function = activation(self.conv_act)
        x = self.apply(x, Activation, activation=function, name=f"{name}-Activation")
        x = self.apply([residual, x], Add, name=f"{name}-Add")
        return self.apply_norm(x, f"{name}-Norm")


class ModernBERT(RoFormer):
    """ModernBERT (Warner et al., 2024): blocks that see everything between blocks that see nearby.

    Args:
        global_attn_every_n_layers: which blocks see everything: numbers 0, n, 2n, …
        layer_types: the same block by block: 'full_attention' or 'sliding_attention'.
        local_attention: the window of the others, see `LocalMask`.
        global_rope_theta: base of the wavelengths of blocks that see everything.
        local_rope_theta: that of the others.
        rope_parameters: both by layer type, as newer configs have them.
        **kwargs: see `BERT`.
    """

    model_type = "modernbert"
    block = Block(
        attention_norms=("pre",),
        feed_forward_norms=("pre",),
        epsilon=1e-5,
        offset=False,
        position_bias="rotary_half",
        use_bias=False,
        gated=True,
    )
    applications = ("encoder",)
    refused_arguments = ("with_pool", "with_nsp", "hierarchical_position")
    fixed_settings = dict.fromkeys(
        ("decoder_bias", "tie_word_embeddings"), (True,)
    ) | dict.fromkeys(("attention_bias", "mlp_bias", "norm_bias", "classifier_bias"), (False,))
    foreign_variables = ()
    # Wqkv and Wi are one tensor each in files of Hugging Face.
    variable_names: ClassVar[Mapping[str, list[str]]] = {
        "Embedding-Token": ["model/embeddings/tok_embeddings"],
        "Embedding-Norm": ["model/embeddings/norm/gamma"],
        "Transformer-{i}-MultiHeadSelfAttention-Norm": ["model/layers_{i}/attn_norm/gamma"],
        "Transformer-{i}-MultiHeadSelfAttention": [
            "model/layers_{i}/attn/Wqkv/query/kernel",
            "model/layers_{i}/attn/Wqkv/key/kernel",
            "model/layers_{i}/attn/Wqkv/value/kernel",
            "model/layers_{i}/attn/Wo/kernel",
        ],
        "Transformer-{i}-FeedForward-Norm": ["model/layers_{i}/mlp_norm/gamma"],
        "Transformer-{i}-FeedForward": [
            "model/layers_{i}/mlp/Wi/input/kernel",
            "model/layers_{i}/mlp/Wi/gate/kernel",
            "model/layers_{i}/mlp/Wo/kernel",
        ],
        "Output-Norm": ["model/final_norm/gamma"],
        "MLM-Dense": ["head/dense/kernel"],
        "MLM-Norm": ["head/norm/gamma"],
        "MLM-Bias": ["decoder/bias"],
    }
    vocabulary_variables = ("model/embeddings/tok_embeddings", "decoder/bias")

    def __init__(
        self,
        max_position: int,
        global_attn_every_n_layers: int = 3,
        layer_types: Sequence[str] | None = None,
        local_attention: int = 128,
        global_rope_theta: float = 160000.0,
        local_rope_theta: float = 10000.0,
        rope_parameters: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(max_position, **{**kwargs, "segment_vocab_size": 0})
        self.layer_types = layer_types or [
            "sliding_attention" if i % global_attn_every_n_layers else "full_attention"
            for i in range(self.num_hidden_layers)
        ]
        self.local_attention = local_attention
        thetas = {"full_attention": global_rope_theta, "sliding_attention": local_rope_theta}
        self.rotary = {
            kind: rotary_settings(theta, (rope_parameters or {}).get(kind), max_position)
            for kind, theta in thetas.items()
        }

    def apply_main_layers(self, inputs: Any, index: int) -> Any:
        """One block of its kind; before the first attention, the embeddings are normalised."""
        self.layer_type = self.layer_types[index]
        self.block = replace(self.block, attention_norms=("pre",) if index else ())
        return super().apply_main_layers(inputs, index)

    def compute_attention_bias(self, inputs: Any = None) -> Tensor | None:
        """The window of the blocks that see nearby, computed once."""
        if self.layer_type == "full_attention":
            return None
        if self.attention_bias is None:
            window = {"window": self.local_attention, "name": "Attention-Local-Mask"}
            self.attention_bias = self.apply(self.inputs[0], LocalMask, **window)
        return self.attention_bias

    def compute_position_bias(self, inputs: Any = None) -> Tensor:
        """Sinusoidal vectors of either kind, computed once."""
        if self.position_bias is None:
            self.position_bias = {}
        kind = self.layer_type
        if kind not in self.position_bias:
            name = f"Embedding-Rotary-Position-{kind.split('_')[0].title()}"
            self.position_bias[kind] = self.apply_rotary_position(inputs, name, self.rotary[kind])
        return self.position_bias[kind]

    def apply_final_layers(self, inputs: Tensor) -> Tensor:
        """Normalised hidden states, or token probabilities."""
        return super().apply_final_layers(self.apply_norm(inputs, "Output-Norm"))


class GAU_alpha(RoFormerV2):
    """GAU-α (Su, 2022, https://kexue.fm/archives/9052): RoFormerV2 of gated attention units."""

    model_type = "gau_alpha"
    initializer_order = 3
    # ZhuiyiTechnology/GAU-alpha, models.py
    variable_names: ClassVar[Mapping[str, list[str]]] = {
        "Embedding-Token": ["bert/embeddings/word_embeddings"],
        "Embedding-Segment": ["bert/embeddings/token_type_embeddings"],
        "Transformer-{i}-GatedAttentionUnit": [
            "GAU_alpha/encoder/layer_{i}/gau/i_dense/kernel",
            "GAU_alpha/encoder/layer_{i}/gau/q_scaleoffset/gamma",
            "GAU_alpha/encoder/layer_{i}/gau/k_scaleoffset/gamma",
            "GAU_alpha/encoder/layer_{i}/gau/o_dense/kernel",
        ],
    }

    def apply_main_layers(self, inputs: Any, index: int) -> Any:
        """One gated attention unit."""
        biases = [self.compute_attention_bias(index), self.compute_position_bias(inputs)]
        return self.apply_residual(
            inputs,
            lambda x, name: self.apply_gated_attention(x, name, *biases),
            f"{self.block.name.format(i=index)}-GatedAttentionUnit",
            self.block.attention_norms,
        )

    def apply_gated_attention(
        self, x: Tensor, name: str, attention_bias: Tensor | None, position_bias: Tensor
    ) -> Tensor:
        """The gated attention unit of a block, with the biases of the hooks."""
        return self.apply(
            self.simplify([x, attention_bias, position_bias]),
            GatedAttentionUnit,
            arguments={
                "a_bias": None if attention_bias is None else True,
                "p_bias": self.block.position_bias,
            },
            units=self.intermediate_size,
            key_size=self.attention_key_size,
            activation=self.hidden_act,
            use_bias=self.block.use_bias,
            normalization="softmax_plus",
            attention_dropout=self.attention_dropout_rate,
            kernel_initializer=self.initializer,
            name=name,
        )


class LLaMA(GPT2, RoFormer):
    """LLaMA 1 to 3 (Touvron et al., 2023): GPT2 with rotary positions and gated feed-forward.

    No token is padding unless `pad_token_id` says so: 0 is a word in most of these vocabularies,
    and what comes after a text is not seen from it.

    Args:
        num_key_value_heads: see `key_value_heads` of `MultiHeadAttention`.
        tie_word_embeddings: whether token scores come from the table of embeddings.
        rope_theta: base of the wavelengths of rotary positions.
        rope_scaling: see `scaling` of `SinusoidalPositionEmbedding`; the original length is
            `max_position` if it does not say.
        rope_parameters: both in one, as newer configs have them.
        **kwargs: see `GPT`.
    """

    model_type = "llama"
    block = Block(
        attention_norms=("pre",),
        feed_forward_norms=("pre",),
        epsilon=1e-6,
        zero_mean=False,
        offset=False,
        position_bias="rotary_half",
        use_bias=False,
        gated=True,
    )
    applications = ("encoder", "lm")
    pad_token_id = None
    refused_arguments = (*GPT2.refused_arguments, "hierarchical_position")
    fixed_settings = dict.fromkeys(("attention_bias", "mlp_bias", "use_sliding_window"), (False,))
    foreign_variables = (
        "model/layers_0/self_attn/q_norm/gamma",
        "model/layers_0/self_attn/q_proj/bias",
    )
    variable_names: ClassVar[Mapping[str, list[str]]] = {
        "Embedding-Token": ["model/embed_tokens/embeddings"],
        "Transformer-{i}-MultiHeadSelfAttention-Norm": ["model/layers_{i}/input_layernorm/gamma"],
        "Transformer-{i}-MultiHeadSelfAttention": [
            f"model/layers_{{i}}/self_attn/{x}_proj/kernel" for x in "qkvo"
        ],
        "Transformer-{i}-FeedForward-Norm": ["model/layers_{i}/post_attention_layernorm/gamma"],
        "Transformer-{i}-FeedForward": [
            f"model/layers_{{i}}/mlp/{x}_proj/kernel" for x in ("gate", "up", "down")
        ],
        "Output-Norm": ["model/norm/gamma"],
        "Output-LM": ["lm_head/kernel"],
    }
    vocabulary_variables = ("model/embed_tokens/embeddings",)
    vocabulary_kernels = ("lm_head/kernel",)

    def __init__(
        self,
        max_position: int,
        num_key_value_heads: int | None = None,
        tie_word_embeddings: bool = False,
        rope_theta: float = 10000.0,
        rope_scaling: Mapping[str, Any] | None = None,
        rope_parameters: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(max_position, **kwargs)
        self.num_key_value_heads = num_key_value_heads or self.num_attention_heads
        self.tie_word_embeddings = tie_word_embeddings
        self.rotary = rotary_settings(rope_theta, rope_parameters or rope_scaling, max_position)

    @property
    def attention_sizes(self) -> dict[str, int]:
        """Of the keys and values, which several heads share."""
        return {"key_value_heads": self.num_key_value_heads}

    def apply_token_scores(self, x: Tensor) -> Tensor:
        """(batch, length, vocab_size), by the table of embeddings or by a kernel of its own."""
        if self.tie_word_embeddings:
            return super().apply_token_scores(x)
        return self.apply_dense(x, self.vocab_size, "Output-LM")


class Qwen2(LLaMA):
    """Qwen 2 and 2.5 (Qwen Team, 2024): LLaMA whose queries, keys and values have biases."""

    model_type = "qwen2"
    block = replace(LLaMA.block, attention_bias=True)
    variable_names = LLaMA.variable_names | {
        "Transformer-{i}-MultiHeadSelfAttention": [
            *dense(*(f"model/layers_{{i}}/self_attn/{x}_proj" for x in "qkv")),
            "model/layers_{i}/self_attn/o_proj/kernel",
        ],
    }


class Qwen3(LLaMA):
    """Qwen 3 (Qwen Team, 2025): LLaMA with a normalisation of each head's query and key."""

    model_type = "qwen3"
    block = replace(LLaMA.block, query_key_norm=True)
    variable_names = LLaMA.variable_names | {
        "Transformer-{i}-MultiHeadSelfAttention": [
            *LLaMA.variable_names["Transformer-{i}-MultiHeadSelfAttention"],
            "model/layers_{i}/self_attn/q_norm/gamma",
            "model/layers_{i}/self_attn/k_norm/gamma",
        ],
    }


# ---------------------------------------------------------------------------------------- building


def extend_with_language_model(base: type[Transformer]) -> type[Transformer]:
    """A subclass of an architecture that is a (left to right) language model."""
    return extended(base, LM_Mask, "LanguageModel")


def extend_with_unified_language_model(base: type[Transformer]) -> type[Transformer]:
    """A subclass of an architecture that is a UniLM, for sequence to sequence."""
    return extended(base, UniLM_Mask, "UnifiedLanguageModel")


def extended(base: type[Transformer], mask: type, name: str) -> type[Transformer]:
    """A subclass of `base` with an attention mask and token probabilities as output."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super(cls, self).__init__(*args, **kwargs)
        self.with_mlm = self.with_mlm or True

    bases = (base,) if issubclass(base, mask) else (mask, base)
    cls = type(f"{base.__name__}{name}", bases, {"__init__": __init__})
    return cls


ARCHITECTURES = {
    "bert": BERT,
    "roberta": BERT,
    "albert": ALBERT,
    "albert_unshared": ALBERT_Unshared,
    "nezha": NEZHA,
    "roformer": RoFormer,
    "roformer_v2": RoFormerV2,
    "electra": ELECTRA,
    "gpt": GPT,
    "gpt2": GPT2,
    "gpt2_ml": GPT2_ML,
    "ernie": ERNIE,
    "deberta_v2": DeBERTaV2,
    "modernbert": ModernBERT,
    "gau_alpha": GAU_alpha,
    "llama": LLaMA,
    "qwen2": Qwen2,
    "qwen3": Qwen3,
    **{
        f"{version}{part}": architecture
        for version in ("t5", "t5.1.0", "t5.1.1", "mt5.1.1")
        for part, architecture in (("", T5), ("_encoder", T5_Encoder), ("_decoder", T5_Decoder))
    },
}

APPLICATIONS = {
    "encoder": lambda architecture: architecture,
    "lm": extend_with_language_model,
    "unilm": extend_with_unified_language_model,
}

CONFIG_KEYS = {
    "max_position": ("max_position_embeddings", 512),
    "dropout_rate": ("hidden_dropout_prob", None),
    "attention_dropout_rate": ("attention_probs_dropout_prob", None),
    "segment_vocab_size": ("type_vocab_size", 2),
}
"""Arguments that config files know by another name, with that name and the default."""

REQUIRED = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
)


def build_transformer_model(
    config_path: str | Path | None = None,
    checkpoint_path: str | Path | None = None,
    model: str | type[Transformer] | None = None,
    application: str = "encoder",
    return_keras_model: bool = True,
    **kwargs: Any,
) -> Any:
    """Build a model from a config file and load a checkpoint into it.

    Args:
        config_path: a JSON file with the keys of Google's `bert_config.json`, a `config.json` of
            Hugging Face, or a folder in which the config and, unless `checkpoint_path` is given,
            the checkpoint are found. Without it `kwargs` must say everything.
        checkpoint_path: see `Transformer.load_weights_from_checkpoint`; without it (and with a
            config file) the weights are random.
        model: name of the architecture, or a subclass of one; by default what the config says, and
            'bert' if it says nothing.
        application: 'encoder', 'lm' (every token sees what is before it) or 'unilm' (segment 1 is
            generated from segment 0).
        return_keras_model: return the `Model`; otherwise the `Transformer`, whose `.model` it is.
        **kwargs: arguments of the architecture and of `Transformer.build`; before the config.

    Raises:
        TypeError: an argument that neither knows.
        ValueError: an unknown model or application, an incomplete config, or one that asks for
            what is not implemented or contradicts `model`.
        CheckpointError: see `Transformer.load_weights_from_checkpoint`.
    """
    vocabulary = None
    if config_path is not None and Path(config_path).is_dir():
        wanted = ("config",) if checkpoint_path else ("config", "checkpoint")
        files = checkpoints.find_files(config_path, need=wanted)
        vocabulary = Path(config_path) / "vocab.txt"
        config_path, checkpoint_path = files.config, checkpoint_path or files.checkpoint
    config, inferred = configs.read_config(config_path, model, application)
    check_vocabulary_arguments(config, kwargs)
    for argument, (key, default) in CONFIG_KEYS.items():
        if key in kwargs or argument not in config:
            config[argument] = kwargs.get(key, config.get(key, default))
    config |= kwargs
    check_config(config, config_path, vocabulary)

    if isinstance(model, type):
        architecture = model
    else:
        model = (model or inferred or "bert").lower()
        architecture = chosen(ARCHITECTURES, model, "model")
        if "t5.1" in model:
            config["version"] = kwargs.get("version", model.split("_")[0])
    extend = chosen(APPLICATIONS, application, "application")
    if application not in architecture.applications:
        raise ValueError(
            f"{architecture.__name__} cannot be built with application={application!r}, only with "
            + " or ".join(map(repr, architecture.applications))
        )
    check_refused(architecture, kwargs)
    architecture = extend(architecture)
    transformer = architecture(**config)
    check_arguments(transformer, kwargs)
    transformer.settings = config
    transformer.vocabulary = vocabulary_beside(config_path)
    transformer.build(**config)
    if checkpoint_path is not None:
        transformer.load_weights_from_checkpoint(checkpoint_path)
    return transformer.model if return_keras_model else transformer


def vocabulary_beside(config_path: str | Path | None) -> Path | None:
    """The vocabulary in the folder of a config, if there is one."""
    if config_path is None:
        return None
    try:
        return checkpoints.find_files(config_path, need=("vocabulary",)).vocabulary
    except CheckpointError:
        return None


def check_vocabulary_arguments(config: dict[str, Any], given: dict[str, Any]) -> None:
    """Refuse to cut down a vocabulary that was cut down otherwise when it was saved."""
    names = ("keep_tokens", "compound_tokens")
    recorded = {name: config[name] for name in names if config.get(name) is not None}
    wanted = {name: given[name] for name in names if given.get(name) is not None}
    if recorded and wanted and configs.plain(recorded) != configs.plain(wanted):
        raise ValueError(
            "the model was saved with other keep_tokens or compound_tokens than those given: leave "
            "them out to load it as it was saved"
        )


def check_config(config: dict[str, Any], path: Any, vocabulary: Path | None) -> None:
    """Refuse a config that lacks a size, or whose vocabulary file has more tokens than it says."""
    source = path or "the keyword arguments (there is no config_path)"
    missing = [key for key in REQUIRED if config.get(key) is None]
    if missing:
        raise ValueError(
            f"{source} lacks {', '.join(missing)}: a config needs {', '.join(REQUIRED)}"
        )
    wrong = [k for k in REQUIRED if not isinstance(config[k], int) or config[k] < 0]
    if wrong:
        raise ValueError(f"{source} has {wrong[0]}={config[wrong[0]]!r}: expected a whole number")
    if vocabulary is not None and vocabulary.exists():
        with open(vocabulary, encoding="utf-8") as lines:
            n_tokens = sum(1 for _ in lines)
        if n_tokens > config["vocab_size"]:
            raise ValueError(
                f"{vocabulary} has {n_tokens} tokens and {source} says vocab_size="
                f"{config['vocab_size']}: they are not of the same model"
            )


def chosen(table: Mapping[str, Any], name: str, argument: str) -> Any:
    """Look up a name given as an argument."""
    if name not in table:
        raise ValueError(f"{argument}={name!r} is unknown; there are {', '.join(sorted(table))}")
    return table[name]


def check_refused(architecture: type[Transformer], given: dict[str, Any]) -> None:
    """Refuse arguments of the base class that mean nothing to the architecture."""
    refused = [name for name in architecture.refused_arguments if given.get(name)]
    if refused:
        raise TypeError(f"{architecture.__name__} has no argument {refused[0]!r}: leave it out")


def check_arguments(transformer: Transformer, given: dict[str, Any]) -> None:
    """Refuse keyword arguments that neither the constructors took nor `build` will take.

    Config files may hold keys that concern nobody; arguments in a call may not.
    """
    builders = [cls.build for cls in type(transformer).__mro__ if "build" in vars(cls)]
    known = {name for build in builders for name in inspect.signature(build).parameters}
    known |= {key for key, _ in CONFIG_KEYS.values()}
    unknown = sorted(transformer.unknown_arguments & given.keys() - known)
    if unknown:
        constructors = [cls.__init__ for cls in type(transformer).__mro__[:-1]]
        known |= {name for init in constructors for name in inspect.signature(init).parameters}
        close = get_close_matches(unknown[0], known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise TypeError(
            f"{type(transformer).__name__} does not know the argument {unknown[0]!r}{hint}"
        )
