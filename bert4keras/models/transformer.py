"""`Transformer`, the base of all architectures: assembles a model from named layers, with hooks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np
from keras.layers import Activation, Dense, Input

from bert4keras.backend.activations import activation
from bert4keras.backend.tensors import Tensor
from bert4keras.checkpoints.architectures import Signature
from bert4keras.checkpoints.base import Checkpoint
from bert4keras.checkpoints.names import RULE, Dialect
from bert4keras.checkpoints.report import Report
from bert4keras.layers.attention import MultiHeadAttention
from bert4keras.layers.base import Recomputable, as_list
from bert4keras.layers.embeddings import Embedding
from bert4keras.models import pretrained, weights
from bert4keras.models.block import Blocks, call_attention, check_blocks, listed
from bert4keras.models.cache import Cache
from bert4keras.models.family import Family
from bert4keras.models.masks import LM_Mask
from bert4keras.models.messages import abbreviated
from bert4keras.models.model import Model
from bert4keras.models.names import mapping_of
from bert4keras.models.settings import Allowed
from bert4keras.models.vocabulary import check_keep_tokens, cut_table, has_cut_vocabulary, renumber


class Transformer(Blocks):
    """Base of the architectures: creates layers by name, stacks blocks, loads and saves weights.

    Args:
        vocab_size: number of tokens in the checkpoint, before `keep_tokens`, `compound_tokens`.
        hidden_size: size of the hidden states.
        num_hidden_layers: number of blocks.
        num_attention_heads: heads of each attention.
        intermediate_size: inner size of the feed-forward layers.
        hidden_act: activation of the feed-forward layers, or a list of activations for gated ones,
            as in `FeedForward`; heads use the first of these.
        dropout_rate: dropout after embeddings and sub-layers.
        attention_dropout_rate: dropout of attention weights.
        embedding_size: size of the embeddings, `hidden_size` by default; embeddings of another size
            are projected.
        attention_head_size: size of a head, hidden_size / num_attention_heads by default.
        attention_key_size: size of a head's query and key, attention_head_size by default.
        initializer_range: standard deviation of initial kernels.
        layer_norm_epsilon: epsilon of layer normalisations, that of the architecture by default.
        sequence_length: fixed length of the inputs; any length by default.
        pad_token_id: id, in the checkpoint, of the padding token, which is masked in attention;
            that of the architecture by default.
        eos_token_id: token, or tokens, that end a text or a turn. If one of them is also
            `pad_token_id`, a language model treats it as padding only around a text, and the first
            one after the text as its end.
        keep_tokens: token ids to keep, in the new order: a smaller vocabulary.
        compound_tokens: new tokens, each an average of old ones: a list of ids, or a pair (ids,
            weights). They come after the kept ones.
        residual_attention_scores: add the attention scores of the previous block (He et al., 2020,
            RealFormer).
        ignore_invalid_weights: keep the initial values of weights that the checkpoint lacks.
        autoresize_weights: cut or repeat variables of other sizes (https://kexue.fm/archives/8444).
        recompute: whether training recomputes the activations inside attention, feed-forward and
            gated attention layers instead of storing them (gradient checkpointing), which takes
            less memory and more time; by default the environment variable RECOMPUTE (0 or 1)
            decides.
        layers: existing layers by name, which are used instead of new ones and share their weights.
        prefix: prefix of the names of all layers.
        name: name of the model.
    """

    model_type = ""
    """The name of the architecture in Hugging Face, that of one of `families`."""
    families: tuple[Family, ...] = ()
    """The ways in which a `config.json` describes the architecture."""
    dialect: Dialect = RULE
    """The names of variables in its files that do not follow from the official names."""
    signatures: tuple[Signature, ...] = ()
    """The signatures by which weight files of the architecture are recognised."""
    allowed_settings: ClassVar[Mapping[str, Allowed]] = {}
    """Allowed values of the arguments that only this architecture has."""
    telling_settings: tuple[str, ...] = ()
    """Keys of config files that identify the architecture; the original's set the first to True."""
    head_layers: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Prefix of the names of a head's layers → arguments with which the head is built."""
    arguments_of_hugging_face: ClassVar[Mapping[str, Any]] = {}
    """Arguments without effect on weights for which Hugging Face has a single value."""
    applications: tuple[str, ...] = ("encoder", "lm", "unilm")
    """The values of `application=` that `build_transformer_model` takes for the architecture."""
    refused_arguments: tuple[str, ...] = ()
    """Arguments of the base class that the architecture does not support."""
    variable_names: ClassVar[Mapping[str, Sequence[str]]] = {}
    """Layer → its variables in official checkpoints, in weight order; with {i}, for each block.

    Variables with {gate} exist once for each activation of gated feed-forward layers: '' for the
    first, '_1' for the second, and so on.
    """
    optional_variables: tuple[str, ...] = ()
    """Variables that files may lack; their weights keep their initial values then."""
    computed_layers: tuple[str, ...] = ()
    """Layers whose weights are computed, so that no checkpoint holds them."""
    vocabulary_variables: tuple[str, ...] = ()
    """Variables whose first axis is the vocabulary."""
    vocabulary_kernels: tuple[str, ...] = ()
    """Variables whose last axis is the vocabulary."""
    head_argument = "with_mlm"
    """The name of the argument for the activation of the logits."""
    pad_token_id: int | None = 0
    """The id of the padding token; None masks no token."""
    padding = "anywhere"
    """Where that token is treated as padding, as in `Embedding`."""
    pad_ends_text = False
    """Whether that token also ends a text."""
    fixed_settings: ClassVar[Mapping[str, Sequence[Any]]] = {}
    """Settings of config files, with the only values that are implemented."""
    transposed_variables: tuple[str, ...] = ()
    """Suffixes of the names of variables that are stored transposed."""
    foreign_variables: tuple[str, ...] = ()
    """Variables that only checkpoints of other architectures hold, besides all of this one's."""
    takes_gates = True
    """Whether `hidden_act` may be a list, for gated feed-forward layers."""

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
                f"hidden_act is {hidden_act!r}, and {type(self).__name__} has gates of its own: "
                "give a single activation"
            )
        self.full_vocab_size = vocab_size
        self.keep_tokens = check_keep_tokens(keep_tokens, vocab_size)
        if pad_token_id is not None:
            self.pad_token_id = renumber(pad_token_id, keep_tokens)
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
        self.set_origin(pretrained.Origin())
        self.tables_are_cut = False
        self.cache: Cache | None = None
        self.reset_shared_tensors()
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
        """Assemble `self.model`, unless it is built already.

        Args:
            attention_caches: attention layer name → [keys, values], each (batch, length, size),
                which precede the keys and values of that layer.
            layer_norm_cond: (batch, size), the condition of every layer normalisation.
            layer_norm_cond_hidden_size: `hidden_units` of `ScaleOffset`.
            layer_norm_cond_hidden_act: `hidden_activation` of `ScaleOffset`.
            additional_input_layers: inputs of the model in addition to its own.
            **kwargs: arguments of the constructor, which `build_transformer_model` passes here too.
        """
        if self.built:
            return
        check_blocks(self)
        self.attention_caches = attention_caches or {}
        self.layer_norm_conds = [
            layer_norm_cond,
            layer_norm_cond_hidden_size,
            layer_norm_cond_hidden_act or "linear",
        ]
        inputs = self.get_inputs()
        self.set_inputs(inputs, additional_input_layers)
        self.set_outputs(self.call(inputs))
        check_caches(self)
        self.model = Model(self.input, self.output, name=self.name)
        self.model.transformer = self
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Compute the outputs from the inputs: embeddings, blocks, final layers."""
        self.reset_shared_tensors()
        outputs = self.apply_embeddings(inputs)
        for index in range(self.num_hidden_layers):
            outputs = self.apply_main_layers(outputs, index)
        if self.cache is not None:
            outputs = self.simplify([*listed(outputs)[:-1], listed(outputs)[-1][:, -1:]])
        return self.apply_final_layers(outputs)

    def reset_shared_tensors(self) -> None:
        """Reset the tensors that the blocks of one call share, such as the attention bias."""
        self.attention_bias: Any = None
        self.position_bias: Any = None
        self.attention_scores: dict[str, Tensor] = {}

    def set_origin(self, origin: pretrained.Origin) -> None:
        """Set the attributes that record what the model was built from."""
        self.settings, self.folder = origin.settings, origin.folder
        self.vocabulary, self.kept_of_folder = origin.vocabulary, origin.kept_of_folder
        self.generation_config = origin.generation_config

    @property
    def encoder_and_decoder(self) -> tuple["Transformer | None", "Transformer"]:
        """Hook: the encoder that reads a source, None if there is none, and the decoder."""
        return None, self

    @property
    def stored_as(self) -> tuple[str, ...]:
        """The architectures, as named in signatures, whose files the model can be loaded from."""
        return tuple(dict.fromkeys(signature.model for signature in self.signatures))

    @classmethod
    def settings_of_name(cls, name: str) -> dict[str, Any]:
        """Hook: the settings that a name in `model=` implies, if the class has several names."""
        return {}

    def prefixed(self, name: str | None) -> str | None:
        """Return a layer's name with the prefix of this model."""
        return name if name is None else self.prefix + name

    def apply(
        self,
        inputs: Any = None,
        layer: Callable | None = None,
        arguments: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call the layer named `name=`, which is created if no layer has that name yet.

        Args:
            inputs: inputs of the layer; without them the layer itself is returned.
            layer: class of the layer, called with `kwargs` to create it.
            arguments: further arguments of the call.
            **kwargs: arguments of the constructor, `name` among them.

        Raises:
            ValueError: no layer has that name, and no class is given to create one.
        """
        if is_subclass(layer, keras.layers.Dropout) and self.dropout_rate == 0:
            return inputs
        arguments = dict(arguments or {})
        name = self.prefixed(kwargs.get("name"))
        if name not in self.layers:
            created = create_layer(self, layer, arguments, {**kwargs, "name": name})
            name = created.name
            self.layers[name] = created
        layer_called = self.layers[name]
        if inputs is None:
            return layer_called
        if self.cache is not None:
            arguments |= self.cache.arguments(layer_called, inputs)
        if isinstance(layer_called, MultiHeadAttention):
            return call_attention(self, layer_called, inputs, arguments)
        if isinstance(layer_called, keras.layers.Lambda):
            arguments = {}
        return layer_called(inputs, **arguments)

    def get_inputs(self) -> Any:
        """Hook: create the input tensors."""
        raise NotImplementedError(f"{type(self).__name__} must define get_inputs()")

    def apply_embeddings(self, inputs: Any) -> Any:
        """Hook: compute the input of the first block from the inputs of the model."""
        raise NotImplementedError(f"{type(self).__name__} must define apply_embeddings()")

    def apply_final_layers(self, inputs: Any) -> Any:
        """Hook: compute the outputs of the model from the output of the last block."""
        raise NotImplementedError(f"{type(self).__name__} must define apply_final_layers()")

    def apply_input(self, name: str, dtype: str = "int32") -> Tensor:
        """Create an input (batch, length), with one number for each token."""
        return self.apply(layer=Input, shape=(self.sequence_length,), dtype=dtype, name=name)

    def apply_token_embedding(self, token_ids: Tensor, mode: str | None = None) -> Tensor:
        """Embed tokens, or with mode='dense' compute logits from hidden states by that table."""
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
        """Apply a Dense layer outside the blocks, with a bias unless the architecture has none."""
        kwargs = {"use_bias": self.block.use_bias, "kernel_initializer": self.initializer, **kwargs}
        return self.apply(x, Dense, units=units, name=name, **kwargs)

    def apply_activation(self, x: Tensor, function: Any, name: str) -> Tensor:
        """Apply a final activation, where True means softmax.

        It is computed in float32 whatever the policy is, because a softmax over a vocabulary needs
        that precision.
        """
        function = chosen_activation(function, "softmax")
        return self.apply(x, Activation, activation=function, dtype="float32", name=name)

    def set_inputs(self, inputs: Any, additional_input_layers: Any = None) -> None:
        """Set `self.inputs`, the list of inputs, and `self.input`, in the form Keras takes."""
        additional = [] if additional_input_layers is None else listed(additional_input_layers)
        self.inputs = [*listed(inputs), *additional]
        self.n_additional_inputs = len(additional)
        self.input = self.inputs if len(self.inputs) > 1 else self.inputs[0]

    def set_outputs(self, outputs: Any) -> None:
        """Set `self.outputs`, the list of outputs, and `self.output`, in the form Keras takes."""
        self.outputs = listed(outputs)
        self.output = self.outputs if len(self.outputs) > 1 else self.outputs[0]

    def simplify(self, inputs: Sequence[Any]) -> Any:
        """Drop None from a list, and return a single remaining element without the list."""
        inputs = [x for x in inputs if x is not None]
        return inputs[0] if len(inputs) == 1 else inputs

    # --- weights

    def variable_mapping(self) -> dict[str, list[str]]:
        """Hook: layer name → names of its variables in official checkpoints, in weight order."""
        return mapping_of(self, len(self.activations))

    @staticmethod
    def gate_suffixes(count: int) -> list[str]:
        """Return the strings that replace {gate} in the names of variables."""
        return ["", *(f"_{i}" for i in range(1, count))]

    def stored_name(self, checkpoint: Any, name: str) -> str:
        """Hook: return the name under which an open checkpoint holds the variable `name`."""
        return name

    def load_embeddings(self, embeddings: np.ndarray) -> np.ndarray:
        """Hook: return the table (vocabulary, ...) to load, for keep_tokens and compound_tokens."""
        embeddings = np.asarray(embeddings)
        return embeddings if self.tables_are_cut else cut_table(self, embeddings)

    def load_variable(self, checkpoint: Any, name: str) -> np.ndarray:
        """Hook: return the value of a variable of an open checkpoint in the layout of the layer."""
        variable = checkpoint[name]
        if name in self.vocabulary_kernels:
            return self.load_embeddings(variable.T).T
        if name in self.vocabulary_variables:
            return self.load_embeddings(variable)
        return variable.T if name.endswith(self.transposed_variables) else variable

    def create_variable(self, name: str, value: np.ndarray, dtype: Any = None) -> np.ndarray:
        """Hook: return the value of a variable in the layout of official checkpoints."""
        value = np.asarray(value, dtype=dtype)
        return value.T if name.endswith(self.transposed_variables) else value

    def load_weights_from_checkpoint(
        self,
        checkpoint: str | Path | Checkpoint,
        mapping: dict[str, list[str]] | None = None,
    ) -> Report:
        """Load a checkpoint: either all variables, or none and an error.

        The weights of conditional layer normalisations (`layer_norm_cond`) are loaded if the file
        has them, and keep their initial values otherwise. In layers with LoRA the kernel or table
        is loaded, and the product of the LoRA matrices is reset to 0.

        Tables that were cut down to `keep_tokens` when they were saved are not cut again:
        `save_pretrained` and `save_weights_as_checkpoint` record the vocabulary.

        Args:
            checkpoint: prefix of a TensorFlow checkpoint, a safetensors, PyTorch or numpy file, a
                file of `Model.save_weights`, or a folder that holds one; with official names or
                those of Hugging Face. Or an open checkpoint, which has been checked to have this
                architecture (`fitting.check_fit`).
            mapping: layer name → variable names instead of `variable_mapping()`.

        Returns:
            A report of what was loaded, what else the file has, and which layers, or weights of a
            layer, keep their initial values.

        Raises:
            CheckpointError: the file is damaged, or a variable is missing, has the wrong shape, or
                holds NaN. The model is then unchanged.
        """
        with weights.open_matching(self, checkpoint, mapping) as file:
            self.tables_are_cut = has_cut_vocabulary(self, file)
            return weights.load(self, file, mapping)

    def save_weights_as_checkpoint(
        self,
        filename: str | Path,
        mapping: dict[str, list[str]] | None = None,
        dtype: Any = None,
    ) -> None:
        """Write a TensorFlow checkpoint with the official variable names, which TensorFlow reads.

        An older one of the same name is replaced in a single step.

        Layers with LoRA are written with the product of its matrices added to the kernel or table.

        Args:
            filename: prefix of the checkpoint, as in 'folder/bert_model.ckpt'.
            mapping: layer name → variable names instead of `variable_mapping()`.
            dtype: type of the variables, that of the weights by default.

        Raises:
            ValueError: a weight of the model has no variable name. The message says which.
            CheckpointError: the folder is missing or cannot be written to, or the disk is full.
        """
        weights.save(self, filename, mapping, dtype)

    def save_pretrained(
        self,
        folder: str | Path,
        tokenizer: Any = None,
        card: Mapping[str, Any] | None = None,
    ) -> None:
        """Write `config.json`, `model.safetensors` and the tokenizer, which `transformers` loads.

        A model card, `README.md`, says what the model is and how to load it. One that is in the
        folder stays as it is.

        Files that an earlier call wrote into the folder are replaced in a single step: a reader
        finds either the old model or the new one, even if writing is interrupted.

        `architectures` in the config names the heads; a head that the model was built without is
        not in the file. The attention mask of UniLM is not recorded, nor is that of a language
        model if Hugging Face has none for the architecture (ALBERT, NEZHA): build with the same
        `application` again.

        Args:
            folder: the folder to write to, which is created if it does not exist.
            tokenizer: the tokenizer to write: `vocab.txt`, `tokenizer.json` or the SentencePiece
                model, the chat template, and `tokenizer_config.json`, which
                `transformers.AutoTokenizer` reads unless texts are first cut by a function of
                yours. Without a tokenizer, the files beside the config, including
                `generation_config.json`, are written, cut down to `keep_tokens`. A SentencePiece
                model cannot be cut down, and only a tokenizer or a longer `vocab.txt` has the names
                of `compound_tokens`.
            card: what the model card says besides, any of: `scores`, numbers by name, such as
                `{"f1": 0.92}`; `data`, a text on what the model was trained on, in Markdown;
                `license` and `language`, as hubs name them, such as `'apache-2.0'` and `'zh'`.

        Raises:
            ValueError: Hugging Face cannot describe the model, a weight has no variable name, the
                tokenizer belongs to another model, or the card has another key.
            CheckpointError: the folder cannot be written to, or the disk is full.
        """
        pretrained.save_pretrained(self, folder, tokenizer, card=card)


def is_subclass(layer: Any, base: type) -> bool:
    """Tell whether `layer` is a class that derives from `base`."""
    return isinstance(layer, type) and issubclass(layer, base)


def create_layer(
    transformer: Transformer,
    layer: Callable | None,
    arguments: dict[str, Any],
    kwargs: dict[str, Any],
) -> Any:
    """Create a layer of a model for `Transformer.apply`.

    Raises:
        ValueError: no class is given.
    """
    if layer is None:
        raise ValueError(
            f"{type(transformer).__name__} has no layer {kwargs['name']!r}: correct the name, or "
            "give the class of a layer to create it. There are "
            f"{abbreviated(list(transformer.layers))}"
        )
    if is_subclass(layer, MultiHeadAttention) and transformer.residual_attention_scores:
        kwargs["return_attention_scores"] = True
    if is_subclass(layer, keras.layers.Lambda):
        kwargs["arguments"] = arguments
    created = layer(**kwargs)
    if isinstance(created, Recomputable) and transformer.recompute is not None:
        created.recompute = transformer.recompute
    return created


def check_caches(transformer: Transformer) -> None:
    """Raise an error for caches of layers that the model does not have."""
    unknown = transformer.attention_caches.keys() - transformer.layers.keys()
    if unknown:
        layers = transformer.layers.items()
        attentions = [name for name, layer in layers if isinstance(layer, MultiHeadAttention)]
        raise ValueError(
            f"attention_caches has caches for {sorted(unknown)}, which are no attention layers of "
            f"the model: give names among {attentions}"
        )


def check_settings(architecture: type[Transformer], given: Mapping[str, Any]) -> None:
    """Raise an error for settings of a config file that the architecture does not implement."""
    for name, allowed in architecture.fixed_settings.items():
        if name in given and given[name] not in allowed:
            raise ValueError(
                f"{architecture.__name__} is implemented with {name}={allowed[0]!r} only, and the "
                f"config says {given[name]!r}: this checkpoint cannot be used"
            )


def chosen_activation(choice: Any, default: str) -> Any:
    """Return the activation that the argument of a head selects, where True selects `default`."""
    return default if choice is True else activation(choice)
