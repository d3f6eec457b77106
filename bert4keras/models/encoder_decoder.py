"""Encoder-decoder architectures: the inputs of both parts, and the model that combines them."""

from collections.abc import Sequence
from typing import Any

from keras.layers import Input

from bert4keras.backend.tensors import Tensor
from bert4keras.models.masks import LM_Mask
from bert4keras.models.model import Model
from bert4keras.models.transformer import Transformer


class EncoderPart(Transformer):
    """The encoder: token ids (batch, length) to hidden states (batch, length, hidden_size)."""

    part = "Encoder-"
    """The prefix of the names of all its layers."""

    def get_inputs(self) -> Tensor:
        """Return the token ids."""
        return self.apply_input("Encoder-Input-Token")


class DecoderPart(LM_Mask, Transformer):
    """The decoder: [context (batch, length, hidden_size), token ids] to logits."""

    part = "Decoder-"
    """The prefix of the names of all its layers."""
    token_input = 1

    def get_inputs(self) -> list[Tensor]:
        """Return the context and the token ids."""
        return [
            self.apply(
                layer=Input, shape=(self.sequence_length, self.hidden_size), name="Input-Context"
            ),
            self.apply_input("Decoder-Input-Token"),
        ]


class EncoderDecoder(Transformer):
    """An encoder and a decoder: the models `.encoder`, `.decoder` and `.model` share weights."""

    parts: tuple[type[Transformer], type[Transformer]]
    """The architectures of encoder and decoder."""

    def __init__(self, **kwargs: Any) -> None:
        name = kwargs.get("name")
        kwargs["layers"] = kwargs.get("layers") or {}
        of_parts: list[dict[str, Any]] = [
            {**kwargs, "name": f"{name}_{part}" if name else part}
            for part in ("Encoder", "Decoder")
        ]
        encoder, decoder = self.parts
        self._encoder, self._decoder = encoder(**of_parts[0]), decoder(**of_parts[1])
        super().__init__(**kwargs)
        self.unknown_arguments &= self._decoder.unknown_arguments

    @property
    def encoder_and_decoder(self) -> tuple[Transformer, Transformer]:
        """The architectures of the encoder and the decoder."""
        return self._encoder, self._decoder

    def build(
        self,
        attention_caches: dict[str, Sequence[Tensor]] | None = None,
        additional_input_layers: Tensor | Sequence[Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        """Build the three models, if not done yet; see `Transformer.build`."""
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
        self.model.transformer = self
        self.built = True
