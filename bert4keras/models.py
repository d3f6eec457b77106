"""Transformer models: assembled from open layers, loaded from official checkpoints.

    Model                    the Keras model that scripts train, save and load
    Block                    what differs between Transformer blocks, as data
    Transformer              assembling: layers by name, a block, hooks, weights in and out
    LM_Mask, UniLM_Mask      who sees whom in language models
    BERT, RoFormer           architectures: what they embed, how they end, their variable names
    build_transformer_model  from a config and a checkpoint to a model

Subclass an architecture and override a hook to change it: `get_inputs`, `apply_embeddings`,
`apply_main_layers`, `apply_final_layers`, `compute_attention_bias`, `compute_position_bias`,
`variable_mapping`, `load_variable`, `create_variable`, `load_embeddings`, `initializer`.
"""

import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from keras.layers import Activation, Dense, Dropout, Input

import bert4keras.optimizers  # noqa: F401, registers them: a compiled model loads
from bert4keras import checkpoints
from bert4keras.backend import Tensor, activation, keras, registered
from bert4keras.checkpoints import CheckpointError
from bert4keras.layers import (
    Add,
    AttentionBias,
    Concatenate1D,
    Embedding,
    FeedForward,
    FirstToken,
    LayerNormalization,
    LMMask,
    MultiHeadAttention,
    PositionEmbedding,
    ScaleOffset,
    SinusoidalPositionEmbedding,
    UniLMMask,
)
from bert4keras.snippets import orthogonally_resize
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
        position_bias: how positions enter attention, the `p_bias` of `MultiHeadAttention`.
    """

    attention_norms: tuple[str, ...] = ("post",)
    feed_forward_norms: tuple[str, ...] = ("post",)
    epsilon: float = 1e-12
    position_bias: str | None = None


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
        sequence_length: fixed length of the inputs; any length by default.
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
        sequence_length: int | None = None,
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
        self.keep_tokens = checked_tokens(keep_tokens, vocab_size)
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
        self.sequence_length = sequence_length
        self.residual_attention_scores = residual_attention_scores
        self.ignore_invalid_weights = ignore_invalid_weights
        self.autoresize_weights = autoresize_weights
        self.layers = {} if layers is None else layers
        self.prefix = prefix or ""
        self.name = name
        self.unknown_arguments = set(kwargs)
        self.attention_bias: Any = None
        self.position_bias: Any = None
        self.attention_scores: Any = None
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
        outputs = self.apply_embeddings(inputs)
        for index in range(self.num_hidden_layers):
            outputs = self.apply_main_layers(outputs, index)
        return self.apply_final_layers(outputs)

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
            if layer is MultiHeadAttention and self.residual_attention_scores:
                kwargs["return_attention_scores"] = True
            if layer is keras.layers.Lambda:
                kwargs["arguments"] = arguments
            created = layer(**{**kwargs, "name": name})
            name = created.name
            self.layers[name] = created
        if inputs is None:
            return self.layers[name]
        if isinstance(self.layers[name], MultiHeadAttention):
            return self.apply_attention(self.layers[name], inputs, arguments)
        if isinstance(self.layers[name], keras.layers.Lambda):
            arguments = {}
        return self.layers[name](inputs, **arguments)

    def apply_attention(
        self, layer: MultiHeadAttention, inputs: list, arguments: dict[str, Any]
    ) -> Tensor:
        """Call an attention layer with its cache and the scores of the block before, if any."""
        if layer.name in self.attention_caches:
            caches = self.attention_caches[layer.name]
            kinds = ("Key", "Value")
            joined = [
                Concatenate1D(name=f"{layer.name}-Cached-{kind}")([cache, x])
                for kind, cache, x in zip(kinds, caches, inputs[1:3], strict=True)
            ]
            inputs = [inputs[0], *joined, *inputs[3:]]
        if not layer.return_attention_scores:
            return layer(inputs, **arguments)
        if self.attention_scores is not None:
            bias, rest = self.attention_scores, inputs[3:]
            if arguments.get("a_bias"):
                bias = AttentionBias(name=f"{layer.name}-Attention-Bias")([rest[0], bias])
                rest = rest[1:]
            inputs = [*inputs[:3], bias, *rest]
            arguments["a_bias"] = True
        outputs, self.attention_scores = layer(inputs, **arguments)
        return outputs

    def get_inputs(self) -> Any:
        """Hook: create the input tensors."""
        raise NotImplementedError(f"{type(self).__name__} must define get_inputs()")

    def apply_embeddings(self, inputs: Any) -> Any:
        """Hook: from the inputs to the first block."""
        raise NotImplementedError(f"{type(self).__name__} must define apply_embeddings()")

    def apply_main_layers(self, inputs: Any, index: int) -> Any:
        """Hook: one block, attention and feed-forward, both with a residual connection."""
        name = f"Transformer-{index}"
        x = self.apply_residual(
            inputs,
            lambda x, name: self.apply_self_attention(x, name, index),
            f"{name}-MultiHeadSelfAttention",
            self.block.attention_norms,
        )
        return self.apply_residual(
            x, self.apply_feed_forward, f"{name}-FeedForward", self.block.feed_forward_norms
        )

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

        A single normalisation is called `{name}-Norm`; of two, the second is `{name}-Norm-1`.
        """
        inputs = x
        if "pre" in norms:
            x = self.apply_norm(x, f"{name}-Norm")
        x = sub_layer(x, name)
        x = self.apply(x, Dropout, name=f"{name}-Dropout", rate=self.dropout_rate)
        x = self.apply([inputs, x], Add, name=f"{name}-Add")
        if "post" in norms:
            x = self.apply_norm(x, f"{name}-Norm-1" if "pre" in norms else f"{name}-Norm")
        return x

    def apply_norm(self, x: Tensor, name: str) -> Tensor:
        """Layer normalisation, under the condition of the model if it has one."""
        condition, hidden_units, hidden_activation = self.layer_norm_conds
        return self.apply(
            self.simplify([x, condition]),
            LayerNormalization,
            conditional=condition is not None,
            hidden_units=hidden_units,
            hidden_activation=hidden_activation,
            hidden_initializer=self.initializer,
            epsilon=self.block.epsilon,
            name=name,
        )

    def apply_self_attention(self, x: Tensor, name: str, index: int) -> Tensor:
        """The attention of a block, with the biases that the hooks compute."""
        attention_bias = self.compute_attention_bias(index)
        position_bias = self.compute_position_bias(x)
        return self.apply(
            [t for t in (x, x, x, attention_bias, position_bias) if t is not None],
            MultiHeadAttention,
            arguments={
                "a_bias": None if attention_bias is None else True,
                "p_bias": None if position_bias is None else self.block.position_bias,
            },
            heads=self.num_attention_heads,
            head_size=self.attention_head_size,
            out_dim=self.hidden_size,
            key_size=self.attention_key_size,
            attention_dropout=self.attention_dropout_rate,
            kernel_initializer=self.initializer,
            name=name,
        )

    def apply_feed_forward(self, x: Tensor, name: str) -> Tensor:
        """The feed-forward layer of a block."""
        return self.apply(
            x,
            FeedForward,
            units=self.intermediate_size,
            activation=self.hidden_act,
            kernel_initializer=self.initializer,
            name=name,
        )

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

    def simplify(self, inputs: Sequence[Any]) -> Any:
        """Leave out what is None; of a single thing no list is made."""
        inputs = [x for x in inputs if x is not None]
        return inputs[0] if len(inputs) == 1 else inputs

    # --- weights

    def variable_mapping(self) -> dict[str, list[str]]:
        """Hook: layer name → names of its variables in official checkpoints, in weight order."""
        return {}

    def load_embeddings(self, embeddings: np.ndarray) -> np.ndarray:
        """Hook: what of a table (vocabulary, ...) is loaded, after keep and compound tokens."""
        embeddings = np.asarray(embeddings)
        if self.keep_tokens is not None:
            embeddings = embeddings[self.keep_tokens]
        if self.compound_tokens is not None:
            compounds = [average_rows(embeddings, item) for item in self.compound_tokens]
            embeddings = np.concatenate([embeddings, np.asarray(compounds, embeddings.dtype)])
        return embeddings

    def load_variable(self, checkpoint: Any, name: str) -> np.ndarray:
        """Hook: the value of one variable of an open checkpoint, as the layer wants it."""
        return checkpoint[name]

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
        """Load an official checkpoint: every variable, or none and an error.

        Args:
            checkpoint: prefix of a TensorFlow checkpoint, or a folder that holds one.
            mapping: layer name → variable names instead of `variable_mapping()`.

        Returns:
            What was loaded, what the file has besides, and which layers start from scratch.

        Raises:
            CheckpointError: the file is damaged, or a variable is missing, has another shape, or
                holds NaN. The model is unchanged then.
        """
        targets = [t for pair in self.mapped_layers(mapping) for t in weights_of(*pair)]
        with checkpoints.open_checkpoint(checkpoint) as bundle:
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
        variables = {}
        for layer, names in self.mapped_layers(mapping):
            for name, weight in zip(names, layer.weights, strict=False):
                variables[name] = self.create_variable(name, to_numpy(weight), dtype)
        checkpoints.write_checkpoint(filename, variables)


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

    segments_in_mask = False

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
        """Tokens, segments and positions, added up and normalised."""
        token_ids, *rest = listed(inputs)
        segment_ids = rest.pop(0) if self.segment_vocab_size > 0 or self.segments_in_mask else None
        position_ids = rest.pop(0) if self.custom_position_ids else None
        x = self.apply_token_embedding(token_ids)
        if self.segment_vocab_size > 0:
            x = self.apply(
                [x, self.apply_segment_embedding(segment_ids)], Add, name="Embedding-Token-Segment"
            )
        x = self.apply_position_embedding(x, position_ids)
        x = self.apply_norm(x, "Embedding-Norm")
        x = self.apply(x, Dropout, rate=self.dropout_rate, name="Embedding-Dropout")
        if self.embedding_size != self.hidden_size:
            x = self.apply(
                x,
                Dense,
                units=self.hidden_size,
                kernel_initializer=self.initializer,
                name="Embedding-Mapping",
            )
        return x

    def apply_token_embedding(self, token_ids: Tensor, mode: str | None = None) -> Tensor:
        """Token vectors; with mode='dense', scores of tokens from vectors, by the same table."""
        return self.apply(
            token_ids,
            Embedding,
            arguments={"mode": mode} if mode else None,
            input_dim=self.vocab_size,
            output_dim=self.embedding_size,
            embeddings_initializer=self.initializer,
            mask_zero=True,
            name="Embedding-Token",
        )

    def apply_segment_embedding(self, segment_ids: Tensor) -> Tensor:
        """Segment vectors, from their own table or that of the tokens."""
        if self.shared_segment_embeddings:
            return self.apply_token_embedding(segment_ids)
        return self.apply(
            segment_ids,
            Embedding,
            input_dim=self.segment_vocab_size,
            output_dim=self.embedding_size,
            embeddings_initializer=self.initializer,
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
            embeddings_initializer=self.initializer,
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
        x = self.apply(
            x,
            Dense,
            units=self.hidden_size,
            activation="tanh" if self.with_pool is True else activation(self.with_pool),
            kernel_initializer=self.initializer,
            name="Pooler-Dense",
        )
        if not self.with_nsp:
            return x
        return self.apply(
            x,
            Dense,
            units=2,
            activation="softmax",
            kernel_initializer=self.initializer,
            name="NSP-Proba",
        )

    def apply_mlm(self, x: Tensor) -> Tensor:
        """(batch, length, vocab_size), scores or probabilities of tokens."""
        x = self.apply(
            x,
            Dense,
            units=self.embedding_size,
            activation=activation(self.hidden_act),
            kernel_initializer=self.initializer,
            name="MLM-Dense",
        )
        x = self.apply_norm(x, "MLM-Norm")
        x = self.apply_token_embedding(x, mode="dense")
        x = self.apply(x, ScaleOffset, scale=False, name="MLM-Bias")
        final = "softmax" if self.with_mlm is True else activation(self.with_mlm)
        # A softmax over a vocabulary wants float32, whatever the policy is.
        return self.apply(x, Activation, activation=final, dtype="float32", name="MLM-Activation")

    def load_variable(self, checkpoint: Any, name: str) -> np.ndarray:
        """Trim what has a vocabulary axis; the next-sentence kernel is stored transposed."""
        variable = super().load_variable(checkpoint, name)
        if name in ("bert/embeddings/word_embeddings", "cls/predictions/output_bias"):
            return self.load_embeddings(variable)
        return variable.T if name == "cls/seq_relationship/output_weights" else variable

    def create_variable(self, name: str, value: np.ndarray, dtype: Any = None) -> np.ndarray:
        """The inverse of `load_variable`."""
        variable = super().create_variable(name, value, dtype)
        return variable.T if name == "cls/seq_relationship/output_weights" else variable

    def variable_mapping(self) -> dict[str, list[str]]:
        """Names as in google-research/bert, modeling.py and run_pretraining.py."""

        def dense(name: str) -> list[str]:
            return [f"{name}/kernel", f"{name}/bias"]

        def norm(name: str) -> list[str]:
            return [f"{name}/LayerNorm/beta", f"{name}/LayerNorm/gamma"]

        mapping = {
            "Embedding-Token": ["bert/embeddings/word_embeddings"],
            "Embedding-Segment": ["bert/embeddings/token_type_embeddings"],
            "Embedding-Position": ["bert/embeddings/position_embeddings"],
            "Embedding-Norm": norm("bert/embeddings"),
            "Embedding-Mapping": dense("bert/encoder/embedding_hidden_mapping_in"),
            "Pooler-Dense": dense("bert/pooler/dense"),
            "NSP-Proba": [
                "cls/seq_relationship/output_weights",
                "cls/seq_relationship/output_bias",
            ],
            "MLM-Dense": dense("cls/predictions/transform/dense"),
            "MLM-Norm": norm("cls/predictions/transform"),
            "MLM-Bias": ["cls/predictions/output_bias"],
        }
        for i in range(self.num_hidden_layers):
            ours, theirs = f"Transformer-{i}", f"bert/encoder/layer_{i}"
            attention = [f"{theirs}/attention/self/{x}" for x in ("query", "key", "value")]
            attention.append(f"{theirs}/attention/output/dense")
            mapping |= {
                f"{ours}-MultiHeadSelfAttention": [n for name in attention for n in dense(name)],
                f"{ours}-MultiHeadSelfAttention-Norm": norm(f"{theirs}/attention/output"),
                f"{ours}-FeedForward": [
                    *dense(f"{theirs}/intermediate/dense"),
                    *dense(f"{theirs}/output/dense"),
                ],
                f"{ours}-FeedForward-Norm": norm(f"{theirs}/output"),
            }
        return mapping


class RoFormer(BERT):
    """RoFormer (Su et al., 2021): BERT with rotary positions instead of a position table."""

    block = Block(epsilon=1e-7, position_bias="rotary")
    foreign_variables = ("bert/embeddings/position_embeddings",)

    def apply_position_embedding(self, x: Tensor, position_ids: Tensor | None) -> Tensor:
        """Nothing: positions enter attention."""
        return x

    def compute_position_bias(self, inputs: Any = None) -> Tensor:
        """Sinusoidal vectors by which queries and keys are rotated, computed once."""
        if self.position_bias is None:
            position_ids = self.layers.get(self.prefixed("Input-Position"))
            self.position_bias = self.apply(
                self.simplify([inputs, position_ids]),
                SinusoidalPositionEmbedding,
                output_dim=self.attention_key_size,
                merge_mode="zero",
                custom_position_ids=self.custom_position_ids,
                name="Embedding-Rotary-Position",
            )
        return self.position_bias


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

    cls = type(f"{base.__name__}{name}", (mask, base), {"__init__": __init__})
    return cls


ARCHITECTURES = {"bert": BERT, "roberta": BERT, "roformer": RoFormer}

APPLICATIONS = {
    "encoder": lambda architecture: architecture,
    "lm": extend_with_language_model,
    "unilm": extend_with_unified_language_model,
}

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
    model: str | type[Transformer] = "bert",
    application: str = "encoder",
    return_keras_model: bool = True,
    **kwargs: Any,
) -> Any:
    """Build a model from a config file and load a checkpoint into it.

    Args:
        config_path: a JSON file with the keys of Google's `bert_config.json`, or a folder in which
            the config and, unless `checkpoint_path` is given, the checkpoint are found. Without it
            `kwargs` must say everything.
        checkpoint_path: prefix of a TensorFlow checkpoint, or a folder with one; without it (and
            with a config file) the weights are random.
        model: name of the architecture, or a subclass of one.
        application: 'encoder', 'lm' (every token sees what is before it) or 'unilm' (segment 1 is
            generated from segment 0).
        return_keras_model: return the `Model`; otherwise the `Transformer`, whose `.model` it is.
        **kwargs: arguments of the architecture and of `Transformer.build`; before the config.

    Raises:
        TypeError: an argument that neither knows.
        ValueError: an unknown model or application, an incomplete config.
        CheckpointError: see `Transformer.load_weights_from_checkpoint`.
    """
    if config_path is not None and Path(config_path).is_dir():
        wanted = ("config",) if checkpoint_path else ("config", "checkpoint")
        files = checkpoints.find_files(config_path, need=wanted)
        vocabulary = Path(config_path) / "vocab.txt"
        config_path, checkpoint_path = files.config, checkpoint_path or files.checkpoint
    else:
        vocabulary = None
    config = read_config(config_path) | kwargs
    config.setdefault("max_position", config.get("max_position_embeddings", 512))
    config.setdefault("dropout_rate", config.get("hidden_dropout_prob"))
    config.setdefault("attention_dropout_rate", config.get("attention_probs_dropout_prob"))
    config.setdefault("segment_vocab_size", config.get("type_vocab_size", 2))
    check_config(config, config_path, vocabulary)

    architecture = chosen(APPLICATIONS, application, "application")(
        model if isinstance(model, type) else chosen(ARCHITECTURES, model.lower(), "model")
    )
    transformer = architecture(**config)
    check_arguments(transformer, kwargs)
    transformer.build(**config)
    if checkpoint_path is not None:
        transformer.load_weights_from_checkpoint(checkpoint_path)
    return transformer.model if return_keras_model else transformer


def read_config(path: str | Path | None) -> dict[str, Any]:
    """Read a JSON config file."""
    if path is None:
        return {}
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"there is no config file {path}: config_path is a file such as bert_config.json, or "
            "the folder of a checkpoint"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a JSON config file: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds a {type(config).__name__}, not a JSON object of settings")
    return config


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


def check_arguments(transformer: Transformer, given: dict[str, Any]) -> None:
    """Refuse keyword arguments that neither the constructors took nor `build` will take.

    Config files may hold keys that concern nobody; arguments in a call may not.
    """
    builders = [cls.build for cls in type(transformer).__mro__ if "build" in vars(cls)]
    known = {name for build in builders for name in inspect.signature(build).parameters}
    unknown = sorted(transformer.unknown_arguments & given.keys() - known)
    if unknown:
        constructors = [cls.__init__ for cls in type(transformer).__mro__[:-1]]
        known |= {name for init in constructors for name in inspect.signature(init).parameters}
        close = get_close_matches(unknown[0], known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise TypeError(
            f"{type(transformer).__name__} does not know the argument {unknown[0]!r}{hint}"
        )
