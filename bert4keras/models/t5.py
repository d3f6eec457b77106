"""T5 and mT5: an encoder and a decoder."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import keras

from bert4keras.backend.tensors import Tensor
from bert4keras.checkpoints.architectures import Signature
from bert4keras.checkpoints.names import Dialect
from bert4keras.layers.base import Dropout
from bert4keras.layers.normalisation import Saturation, ScaleOffset
from bert4keras.layers.positions import RelativePositionEmbeddingT5
from bert4keras.models.block import Block, listed
from bert4keras.models.encoder_decoder import DecoderPart, EncoderDecoder, EncoderPart
from bert4keras.models.family import Family
from bert4keras.models.settings import FLAG, Allowed
from bert4keras.models.transformer import Transformer, chosen_activation
from bert4keras.models.written_configs import to_activation

# === Names of variables ===


def t5_names(version: str) -> dict[str, list[str]]:
    """Return the names of variables, as in google-research/text-to-text-transfer-transformer."""
    names = {
        "Embedding-Token": ["shared/embedding"],
        "Decoder-Output-LM": ["decoder/logits/kernel"],
        "Encoder-Embedding-Mapping": ["encoder/embedding_hidden_mapping_in/kernel"],
        "Decoder-Embedding-Mapping": ["decoder/embedding_hidden_mapping_in/kernel"],
        "Decoder-Output-Mapping": ["decoder/embedding_hidden_mapping_out/kernel"],
    }
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
                names[layer] = [f"{block}/DenseReluDense/{x}/kernel" for x in ("wi{gate}", "wo")]
            else:
                layer = f"{part}-Transformer-{{i}}-MultiHead{sub_layer}"
                names[layer] = [f"{block}/{theirs}/{x}" for x in "qkvo"]
            names[f"{layer}-Norm"] = [f"{block}/{norm}/scale"]
        names[f"{part}-Output-Norm"] = [f"{stack}/{last}/scale"]
    return names


def t5_signatures() -> tuple[Signature, ...]:
    """Return the signatures of the versions, each of the whole model and of its encoder alone."""
    decoder, norm = "(.*/)?decoder/.*", "(.*/)?(encoder|decoder)/block/0/layer/0"
    inner = "(.*/)?(encoder|decoder)/block/0/layer/[12]/DenseReluDense"
    versions = (
        ("t5.1.0", f"{inner}/wi/kernel"),
        ("t5.1.1", f"{inner}/wi_0/kernel", f"{norm}/layer_norm/.*"),
        ("mt5.1.1", f"{inner}/wi_0/kernel", f"{norm}/rms_norm/.*"),
        ("mt5.1.1", f"{inner}/wi_0/kernel", f"{norm}/layer_norm/kernel"),
    )
    wholes = (Signature(name, has=(*has, decoder)) for name, *has in versions)
    encoders = (
        Signature(f"{name}_encoder", has=tuple(has), lacks=(decoder,)) for name, *has in versions
    )
    return (*wholes, *encoders)


# === Configs of Hugging Face ===


def t5_versions(
    multilingual: bool, models: Sequence[str], config: Mapping[str, Any], path: Any
) -> Sequence[str]:
    """Return which of our architectures a config may describe, the most likely first."""
    gated = multilingual or str(config.get("feed_forward_proj", "relu")).startswith("gated")
    likely = "mt5.1.1" if multilingual else "t5.1.1" if gated else "t5.1.0"
    if (config.get("architectures") or [""])[0].endswith("EncoderModel"):
        likely += "_encoder"
    return [likely, *(m for m in models if "." not in m or ("t5.1.1" in m) == gated)]


def read_t5(multilingual: bool, config: dict[str, Any], path: Any) -> dict[str, Any]:
    """Convert the settings for gates and scales to our arguments."""
    layers = config.get("num_layers")
    if config.get("num_decoder_layers") not in (None, layers):
        raise ValueError(
            f"{path} has {layers} layers in the encoder and {config['num_decoder_layers']} in the "
            "decoder; implemented are equal numbers"
        )
    kind = config["feed_forward_proj"]
    gated = kind.startswith("gated-")
    # The gated gelu is the approximation by tanh unless `dense_act_fn` is given.
    act = "gelu_new" if kind == "gated-gelu" else kind.removeprefix("gated-")
    act = config.get("dense_act_fn", act)
    return {
        "scale_decoder_outputs": not multilingual
        and config.get("tie_word_embeddings") is not False,
        **config,
        "hidden_act": [act, "linear"] if gated else act,
        "version": ("mt5.1.1" if multilingual else "t5.1.1") if gated else "t5.1.0",
        # In Hugging Face, cross-attention has no position bias.
        "cross_position_bias": config.get("cross_position_bias", False),
    }


def write_t5(transformer: Any) -> dict[str, Any]:
    """Return the keys of a config that only T5 has."""
    decoder = getattr(transformer, "_decoder", transformer)
    scaled = getattr(decoder, "scale_outputs", None)
    # A T5 config can also describe an mT5, and say that its outputs are scaled.
    name = "MT5" if transformer.model_type == "mt5" and not scaled else "T5"
    return {
        "model_type": name.lower(),
        "architectures": [f"{name}{class_of_t5(transformer)}"],
        "scale_decoder_outputs": scaled,
        "is_encoder_decoder": not transformer.part,
        "decoder_start_token_id": 0,
        **write_gates(transformer),
    }


def class_of_t5(transformer: Any) -> str:
    """Return the suffix of the name of its class in `transformers`.

    Raises:
        ValueError: there is no such class.
    """
    if transformer.part == "Decoder-":
        raise ValueError(
            "the decoder of T5 is no model of its own in Hugging Face: save the whole T5, or "
            "use save_weights_as_checkpoint"
        )
    if getattr(getattr(transformer, "_decoder", None), "cross_position_bias", False):
        raise ValueError(
            "Hugging Face's T5 has no position bias in cross-attention to the context: build the "
            "model with cross_position_bias=False, or use save_weights_as_checkpoint"
        )
    return "EncoderModel" if transformer.part else "ForConditionalGeneration"


def write_gates(transformer: Any) -> dict[str, Any]:
    """Return the keys of a config for the activations of the feed-forward layers.

    Raises:
        ValueError: Hugging Face has no such T5.
    """
    acts = to_activation(transformer.hidden_act)
    gated = isinstance(acts, list)
    if gated != transformer.gated or (gated and acts[1:] != ["linear"]):
        raise ValueError(
            f"Hugging Face has no T5 of version {transformer.version!r} with hidden_act="
            f"{transformer.hidden_act!r}: use save_weights_as_checkpoint"
        )
    act = acts[0] if gated else acts
    return {
        "feed_forward_proj": f"gated-{act.replace('gelu_new', 'gelu')}" if gated else act,
        "dense_act_fn": act,
        "is_gated_act": gated,
        "tie_word_embeddings": not gated,
    }


KEYS = {
    "vocab_size": "vocab_size",
    "d_model": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "d_ff": "intermediate_size",
    "d_kv": "attention_head_size",
    "dropout_rate": "dropout_rate",
    "layer_norm_epsilon": "layer_norm_epsilon",
    "pad_token_id": "pad_token_id",
    "scale_decoder_outputs": "scale_outputs",
}


def t5_family(name: str, versions: Sequence[str], mark: str = "") -> Family:
    """Return the family of T5 or mT5 in Hugging Face."""
    models = tuple(f"{v}{part}" for v in versions for part in ("", "_encoder", "_decoder"))
    multilingual = name == "MT5"
    return Family(
        name.lower(),
        models,
        name,
        KEYS,
        {"feed_forward_proj": "relu", "layer_norm_epsilon": 1e-6},
        {"relative_attention_num_buckets": (32,), "relative_attention_max_distance": (128,)},
        gates=True,
        mark=mark,
        strings=("feed_forward_proj", "dense_act_fn"),
        versions=partial(t5_versions, multilingual, models),
        read=partial(read_t5, multilingual),
        write=write_t5,
    )


class T5_Base(Transformer):
    """T5 (Raffel et al., 2019) and mT5 (Xue et al., 2020): what encoder and decoder share.

    Args:
        version: 't5.1.0', 't5.1.1' or 'mt5.1.1'. From 1.1 on feed-forward layers are gated
            (`hidden_act` is a list of two) and the logits have a kernel of their own.
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
    head_argument = "with_lm"
    vocabulary_variables = ("shared/embedding",)
    vocabulary_kernels = ("decoder/logits/kernel",)
    transposed_variables = ("relative_attention_bias",)
    allowed_settings: ClassVar[Mapping[str, Allowed]] = {
        "scale_outputs": FLAG,
        "cross_position_bias": FLAG,
    }
    families = (
        t5_family("T5", ("t5", "t5.1.0", "t5.1.1", "mt5.1.1"), mark="d_model"),
        t5_family("MT5", ("mt5.1.1", "t5.1.1", "t5")),
    )
    dialect = Dialect(
        "",
        (
            (r"^shared/embedding$", "shared/weight"),
            (r"^(encoder|decoder)/rms_norm/", r"\1/final_layer_norm/"),
            (r"/rms_norm/", "/layer_norm/"),
            (r"Attention/([qkvo])$", r"Attention/\1/kernel"),
            (r"/relative_attention_bias$", "/relative_attention_bias/kernel"),
            (r"^decoder/logits/kernel$", "lm_head/kernel"),
        ),
        (
            (r"^shared\.weight$", "encoder.embed_tokens.weight"),
            (r"^shared\.weight$", "decoder.embed_tokens.weight"),
            (r"^lm_head\.weight$", "shared.weight"),
        ),
    )
    signatures = t5_signatures()
    part = ""
    """Prefix of the names of all layers of the encoder or of the decoder."""

    def __init__(self, version: str = "t5.1.0", **kwargs: Any) -> None:
        if version not in ("t5.1.0", "t5.1.1", "mt5.1.1"):
            raise ValueError(f"version is {version!r}: give 't5.1.0', 't5.1.1' or 'mt5.1.1'")
        super().__init__(**kwargs)
        self.version = version
        self.gated = version != "t5.1.0"
        self.saturates = keras.config.dtype_policy().compute_dtype == "float16"
        self.model_type = "mt5" if version == "mt5.1.1" else "t5"
        self.block = replace(self.block, name=f"{self.part}Transformer-{{i}}")

    @classmethod
    def settings_of_name(cls, name: str) -> dict[str, Any]:
        """Return the version, which is part of the name, as in 't5.1.1_encoder'."""
        return {"version": name.split("_")[0]} if "t5.1" in name else {}

    @property
    def stored_as(self) -> tuple[str, ...]:
        """The version, and a version whose files have as many gates; for encoders also theirs."""
        gated = len(self.activations) > 1
        versions = [self.version]
        if gated == (self.version == "t5.1.0"):
            versions.append("t5.1.1" if gated else "t5.1.0")
        encoders = [f"{x}_encoder" for x in versions] if self.part == "Encoder-" else []
        return (*versions, *encoders)

    @property
    def foreign_variables(self) -> tuple[str, ...]:
        """The kernel of the logits, if this version computes them with the embedding table."""
        tied = self.version == "t5.1.0" and self.part != "Encoder-"
        return ("decoder/logits/kernel",) if tied else ()

    @property
    def variable_names(self) -> dict[str, list[str]]:
        """The names of the variables, which depend on the version."""
        return t5_names(self.version)

    @staticmethod
    def gate_suffixes(count: int) -> list[str]:
        """Return the strings that replace {gate} in names: `wi`, or `wi_0` and `wi_1`."""
        return [""] if count == 1 else [f"_{i}" for i in range(count)]

    def apply_embeddings(self, inputs: Any) -> Any:
        """Embed the tokens, and pass on the context of a decoder, which precedes them."""
        *context, token_ids = listed(inputs)
        x = self.apply_token_embedding(token_ids)
        x = self.apply(x, Dropout, rate=self.dropout_rate, name=f"{self.part}Embedding-Dropout")
        if self.embedding_size != self.hidden_size:
            x = self.apply_dense(x, self.hidden_size, f"{self.part}Embedding-Mapping")
        return self.simplify([*context, x])

    def apply_residual(
        self, x: Tensor, sub_layer: Callable, name: str, norms: tuple[str, ...]
    ) -> Tensor:
        """Apply a sub-layer as other architectures do, and in float16 keep its output finite."""
        x = super().apply_residual(x, sub_layer, name, norms)
        return self.apply(x, Saturation, name=f"{name}-Saturation") if self.saturates else x

    def apply_relative_position(self, x: Tensor, context: Tensor, bidirectional: bool) -> Tensor:
        """Compute the position bias (length of x, length of context, heads) of attention scores."""
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
        """Apply the normalisation and dropout after the last block."""
        x = self.apply_norm(x, f"{self.part}Output-Norm")
        return self.apply(x, Dropout, rate=self.dropout_rate, name=f"{self.part}Output-Dropout")


class T5_Encoder(EncoderPart, T5_Base):
    """The encoder of T5: (batch, length) token ids to (batch, length, hidden_size)."""

    def compute_position_bias(self, inputs: Any = None) -> Tensor:
        """Compute the bias of relative positions in both directions, once per call."""
        if self.position_bias is None:
            self.position_bias = self.apply_relative_position(inputs, inputs, bidirectional=True)
        return self.position_bias

    def apply_final_layers(self, inputs: Tensor) -> Tensor:
        """Normalise the hidden states."""
        return self.apply_output(inputs)


class T5_Decoder(DecoderPart, T5_Base):
    """The decoder of T5: [context (batch, length, hidden_size), token ids] to token probabilities.

    Args:
        with_lm: output token probabilities: True for softmax, an activation such as 'linear', or
            False for hidden states.
        cross_position_bias: whether cross-attention to the context has a position bias.
        scale_outputs: whether the hidden states are divided by √hidden_size at the end.
        **kwargs: see `T5_Base`.
    """

    arguments_of_hugging_face: ClassVar[Mapping[str, Any]] = {"cross_position_bias": False}

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

    def compute_position_bias(self, inputs: Any = None) -> list[Tensor | None]:
        """Compute from [x, context] the position biases of self-attention and cross-attention."""
        if self.position_bias is None:
            x, context = inputs
            self.position_bias = [self.apply_relative_position(x, x, bidirectional=False), None]
            if self.cross_position_bias:
                self.position_bias[1] = self.apply_relative_position(x, context, False)
        return self.position_bias

    def apply_final_layers(self, inputs: Any) -> Tensor:
        """Compute logits or probabilities of tokens, or return the hidden states."""
        x = self.apply_output(inputs[1])
        scale = self.hidden_size**-0.5 if self.scale_outputs else 1
        x = self.apply(x, ScaleOffset, scale=scale, offset=False, name="Decoder-Output-Scale")
        if not self.with_lm:
            return x
        if self.embedding_size != self.hidden_size:
            x = self.apply_dense(x, self.embedding_size, "Decoder-Output-Mapping")
        if self.gated:
            final = chosen_activation(self.with_lm, "softmax")
            kwargs = {"activation": final, "dtype": "float32"}
            return self.apply_dense(x, self.vocab_size, "Decoder-Output-LM", **kwargs)
        x = self.apply_token_embedding(x, mode="dense")
        return self.apply_activation(x, self.with_lm, "Decoder-Output-LM-Activation")


class T5(EncoderDecoder, T5_Base):
    """The whole T5: three models, `.encoder`, `.decoder` and `.model` of both, that share weights.

    Args:
        **kwargs: see `T5_Decoder`.
    """

    arguments_of_hugging_face = T5_Decoder.arguments_of_hugging_face
    parts = (T5_Encoder, T5_Decoder)
