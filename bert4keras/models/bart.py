"""BART and mBART: encoder and decoder with biases and learned absolute positions."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from bert4keras.backend.tensors import Tensor
from bert4keras.checkpoints.architectures import Signature
from bert4keras.checkpoints.names import Dialect
from bert4keras.layers.base import Dropout
from bert4keras.layers.normalisation import ScaleOffset
from bert4keras.layers.positions import PositionEmbedding
from bert4keras.models.block import Block, listed
from bert4keras.models.encoder_decoder import DecoderPart, EncoderDecoder, EncoderPart
from bert4keras.models.family import NO_SEGMENTS, POSITIONS, TIED, Family, same
from bert4keras.models.names import dense, norm
from bert4keras.models.settings import FLAG, Allowed, whole
from bert4keras.models.transformer import Transformer

UNUSED_ROWS = 2
"""The number of unused rows at the start of position tables in files."""

# === Names of variables ===


def part_names(part: str) -> dict[str, list[str]]:
    """Return the names of the variables of the encoder or decoder in Hugging Face."""
    stack = f"model/{part.lower()}"
    block, layer = f"{stack}/layers_{{i}}", f"{part}-Transformer-{{i}}"
    names = {
        f"{part}-Embedding-Position": [f"{stack}/embed_positions"],
        f"{part}-Embedding-Norm": norm(f"{stack}/layernorm_embedding"),
        f"{part}-Embedding-Mapping": dense(f"{stack}/embedding_hidden_mapping_in"),
        f"{layer}-FeedForward": dense(f"{block}/fc1{{gate}}", f"{block}/fc2"),
        f"{layer}-FeedForward-Norm": norm(f"{block}/final_layer_norm"),
    }
    kinds = {"Self": "self_attn"} | ({"Cross": "encoder_attn"} if part == "Decoder" else {})
    for kind, theirs in kinds.items():
        projections = (f"{block}/{theirs}/{x}_proj" for x in ("q", "k", "v", "out"))
        names[f"{layer}-MultiHead{kind}Attention"] = dense(*projections)
        names[f"{layer}-MultiHead{kind}Attention-Norm"] = norm(f"{block}/{theirs}_layer_norm")
    return names


# === Configs of Hugging Face ===


def read_bart(config: dict[str, Any], path: Any) -> dict[str, Any]:
    """Check that a decoder differs from the encoder in its number of blocks only."""
    named = (config.get("architectures") or [""])[0]
    if named.startswith("CPT"):
        raise ValueError(
            f"{path} has the architecture {named!r}, whose encoder is that of BERT, which is not "
            "implemented: use the Chinese BART of the same publishers"
        )
    for key in ("attention_heads", "ffn_dim"):
        ours, theirs = config.get(f"encoder_{key}"), config.get(f"decoder_{key}")
        if theirs not in (None, ours):
            raise ValueError(
                f"{path} has encoder_{key}={ours} and decoder_{key}={theirs}: only equal numbers "
                "are implemented"
            )
    return config


def written_bart(transformer: Any) -> dict[str, Any]:
    """Return the settings of the decoder in a config."""
    name = "MBart" if transformer.model_type == "mbart" else "Bart"
    end = "ForConditionalGeneration" if transformer.with_lm else "Model"
    return {
        "architectures": [f"{name}{end}"],
        "is_encoder_decoder": True,
        "decoder_attention_heads": transformer.num_attention_heads,
        "decoder_ffn_dim": transformer.intermediate_size,
    }


def bart_family(name: str, normalised_before: bool) -> Family:
    """Return the `Family` of BART or mBART in Hugging Face."""
    return Family(
        name.lower(),
        (name.lower(),),
        name,
        {
            **POSITIONS,
            **same("vocab_size", "pad_token_id", "scale_embedding"),
            "d_model": "hidden_size",
            "encoder_layers": "num_hidden_layers",
            "decoder_layers": "num_decoder_layers",
            "encoder_attention_heads": "num_attention_heads",
            "encoder_ffn_dim": "intermediate_size",
            "activation_function": "hidden_act",
            "dropout": "dropout_rate",
            "attention_dropout": "attention_dropout_rate",
            "init_std": "initializer_range",
        },
        {"activation_function": "gelu", "pad_token_id": 1, **NO_SEGMENTS},
        {
            "normalize_before": (normalised_before,),
            "add_final_layer_norm": (normalised_before,),
            "normalize_embedding": (True,),
            "static_position_embeddings": (False,),
            "add_bias_logits": (False,),
            **TIED,
        },
        read=read_bart,
        write=written_bart,
    )


class BART_Base(Transformer):
    """Base class of the encoder and decoder of BART (Lewis et al., 2020).

    Args:
        max_position: number of positions of the encoder, and of the decoder.
        scale_embedding: whether token vectors are multiplied by √embedding_size.
        num_decoder_layers: number of blocks of the decoder; by default `num_hidden_layers`, the
            number of blocks of the encoder.
        with_lm: output token probabilities: True for softmax, an activation such as 'linear', or
            False for hidden states of the decoder.
        **kwargs: see `Transformer`.
    """

    model_type = "bart"
    block = Block(epsilon=1e-5)
    output_norm = False
    """Whether there is a normalisation after the last block."""
    applications = ("encoder",)
    head_argument = "with_lm"
    pad_token_id = 1
    takes_gates = False
    vocabulary_variables = ("model/shared", "final_logits_bias")
    optional_variables = ("final_logits_bias",)
    variable_names: ClassVar[dict[str, list[str]]] = {
        "Embedding-Token": ["model/shared"],
        **part_names("Encoder"),
        **part_names("Decoder"),
        "Decoder-Output-Mapping": dense("model/decoder/embedding_hidden_mapping_out"),
        "Decoder-Output-LM-Bias": ["final_logits_bias"],
    }
    allowed_settings: ClassVar[Mapping[str, Allowed]] = {
        "scale_embedding": FLAG,
        "num_decoder_layers": whole(1, 1 << 11),
    }
    families = (bart_family("Bart", normalised_before=False),)
    dialect = Dialect(
        "model",
        ((r"^final_logits_bias$", "final_logits_bias/tensor"),),
        (
            (r"^model\.shared\.weight$", "model.encoder.embed_tokens.weight"),
            (r"^model\.shared\.weight$", "model.decoder.embed_tokens.weight"),
        ),
    )
    signatures = (
        Signature(
            "bart",
            has=(".*decoder/layers/0/encoder_attn/q_proj/bias", ".*encoder/layernorm_embedding/.*"),
            lacks=(".*encoder/layer_norm/.*",),
        ),
    )
    part = ""

    def __init__(
        self,
        max_position: int,
        scale_embedding: bool = False,
        num_decoder_layers: int | None = None,
        with_lm: bool | str = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.max_position = max_position
        self.scale_embedding = scale_embedding
        self.num_decoder_layers = num_decoder_layers or self.num_hidden_layers
        self.with_lm = with_lm
        if self.part == "Decoder-":
            self.num_hidden_layers = self.num_decoder_layers
        self.block = replace(self.block, name=f"{self.part}Transformer-{{i}}")

    def load_variable(self, checkpoint: Any, name: str) -> np.ndarray:
        """Return a variable in the form of the layer, without unused rows of position tables."""
        if name == "final_logits_bias":  # (1, vocab_size) in files of Hugging Face
            return self.load_embeddings(np.reshape(checkpoint[name], -1))
        variable = super().load_variable(checkpoint, name)
        return variable[UNUSED_ROWS:] if name.endswith("/embed_positions") else variable

    def create_variable(self, name: str, value: np.ndarray, dtype: Any = None) -> np.ndarray:
        """Return a variable in the form of files."""
        value = super().create_variable(name, value, dtype)
        if name == "final_logits_bias":
            return value[None]
        if name.endswith("/embed_positions"):
            return np.concatenate([np.zeros_like(value[:1])] * UNUSED_ROWS + [value])
        return value

    def apply_embeddings(self, inputs: Any) -> Any:
        """Embed tokens and positions; the context of a decoder is passed on."""
        *context, token_ids = listed(inputs)
        x = self.apply_token_embedding(token_ids)
        if self.scale_embedding:
            name, scale = f"{self.part}Embedding-Scale", self.embedding_size**0.5
            x = self.apply(x, ScaleOffset, scale=scale, offset=False, name=name)
        x = self.apply(
            x,
            PositionEmbedding,
            input_dim=self.max_position,
            output_dim=self.embedding_size,
            merge_mode="add",
            embeddings_initializer=self.table_initializer,
            name=f"{self.part}Embedding-Position",
        )
        x = self.apply_norm(x, f"{self.part}Embedding-Norm")
        x = self.apply(x, Dropout, rate=self.dropout_rate, name=f"{self.part}Embedding-Dropout")
        if self.embedding_size != self.hidden_size:
            x = self.apply_dense(x, self.hidden_size, f"{self.part}Embedding-Mapping")
        return self.simplify([*context, x])

    def apply_output(self, x: Tensor) -> Tensor:
        """Apply the normalisation after the last block, if there is one."""
        return self.apply_norm(x, f"{self.part}Output-Norm") if self.output_norm else x


class BART_Encoder(EncoderPart, BART_Base):
    """The encoder of BART: (batch, length) token ids to (batch, length, hidden_size)."""

    def apply_final_layers(self, inputs: Tensor) -> Tensor:
        """Return the hidden states."""
        return self.apply_output(inputs)


class BART_Decoder(DecoderPart, BART_Base):
    """The decoder of BART: [context (batch, length, hidden_size), token ids] to logits."""

    def compute_position_bias(self, inputs: Any = None) -> tuple[None, None]:
        """Return None for self-attention and for cross-attention."""
        return None, None

    def apply_final_layers(self, inputs: Any) -> Tensor:
        """Compute token probabilities or logits, or return the hidden states."""
        x = self.apply_output(inputs[1])
        if not self.with_lm:
            return x
        if self.embedding_size != self.hidden_size:
            x = self.apply_dense(x, self.embedding_size, "Decoder-Output-Mapping")
        x = self.apply_token_embedding(x, mode="dense")
        x = self.apply(x, ScaleOffset, scale=False, name="Decoder-Output-LM-Bias")
        return self.apply_activation(x, self.with_lm, "Decoder-Output-LM-Activation")


class BART(EncoderDecoder, BART_Base):
    """BART with encoder and decoder: `.encoder`, `.decoder` and `.model` share weights.

    Chinese BART (Shao et al., 2021) has this architecture, with the tokenizer of BERT.

    Args:
        **kwargs: see `BART_Base`.
    """

    parts = (BART_Encoder, BART_Decoder)

    def variable_mapping(self) -> dict[str, list[str]]:
        """Map layer names to names of variables; encoder and decoder may differ in depth."""
        return {**self._encoder.variable_mapping(), **self._decoder.variable_mapping()}


class MBART_Base(BART_Base):
    """Base class of the encoder and decoder of mBART (Liu et al., 2020)."""

    model_type = "mbart"
    block = Block(attention_norms=("pre",), feed_forward_norms=("pre",), epsilon=1e-5)
    output_norm = True
    variable_names = BART_Base.variable_names | {
        f"{part}-Output-Norm": norm(f"model/{part.lower()}/layer_norm")
        for part in ("Encoder", "Decoder")
    }
    families = (bart_family("MBart", normalised_before=True),)
    signatures = (
        Signature(
            "mbart",
            has=(".*decoder/layers/0/encoder_attn/q_proj/bias", ".*encoder/layer_norm/.*"),
        ),
    )


class MBART_Encoder(BART_Encoder, MBART_Base):
    """The encoder of mBART."""


class MBART_Decoder(BART_Decoder, MBART_Base):
    """The decoder of mBART."""


class MBART(BART, MBART_Base):
    """mBART with encoder and decoder: BART with pre-norm blocks and a final normalisation.

    Args:
        **kwargs: see `BART_Base`.
    """

    parts = (MBART_Encoder, MBART_Decoder)
