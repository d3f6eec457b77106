"""The attention masks of language models and UniLM."""

from typing import Any

from bert4keras.backend.tensors import Tensor
from bert4keras.layers.masks import LMMask, UniLMMask


class LM_Mask:
    """Language model: every token sees itself and the tokens before it."""

    token_input = 0
    """Index of the input that holds the tokens."""

    def compute_attention_bias(self, inputs: Any = None) -> Tensor:
        """Compute the lower triangular mask, once per call of the model."""
        if self.attention_bias is None:
            token_ids = self.inputs[self.token_input]
            self.attention_bias = self.apply(token_ids, LMMask, name="Attention-LM-Mask")
        return self.attention_bias


class UniLM_Mask:
    """UniLM: segment 0 sees all of itself, segment 1 sees segment 0 and the tokens before it.

    The model has segment ids as input even if it does not embed them (`segment_vocab_size=0`).
    """

    segments_in_mask = True

    def compute_attention_bias(self, inputs: Any = None) -> Tensor:
        """Compute the mask from the segment ids, once per call of the model."""
        if self.attention_bias is None:
            self.attention_bias = self.apply(self.inputs[1], UniLMMask, name="Attention-UniLM-Mask")
        return self.attention_bias
