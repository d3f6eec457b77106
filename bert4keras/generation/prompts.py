"""Prompts: checking texts or token ids, and converting them to arrays of few different shapes."""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from numbers import Integral
from types import MappingProxyType
from typing import Any

import numpy as np

from bert4keras.data.arrays import bucket_length
from bert4keras.layers.positions import PositionEmbedding, SinusoidalPositionEmbedding
from bert4keras.models.masks import UniLM_Mask
from bert4keras.models.transformer import Transformer
from bert4keras.text.base import TokenizerBase
from bert4keras.text.chat import is_chat
from bert4keras.text.strings import is_string

NO_ARGUMENTS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Prompt:
    """What a model is given before it writes.

    Attributes:
        token_ids: the tokens that the output continues, or the input of an encoder.
        segment_ids: a segment id for each token.
    """

    token_ids: list[int]
    segment_ids: list[int]


class Prompts:
    """Checks the prompts for one model and converts them to arrays.

    Args:
        transformer: the language model, or the whole of an encoder and a decoder.
        tokenizer: encodes prompts that are texts or chats.
        start_id: token that the output begins with, not part of the result.
        end_ids: tokens that end an output.
        segment_id: segment of the output; by default 1 for UniLM, otherwise that of the prompt's
            last token.
    """

    def __init__(
        self,
        transformer: Transformer,
        tokenizer: Any,
        start_id: int | None,
        end_ids: Sequence[int],
        segment_id: int | None,
    ) -> None:
        self.transformer = transformer
        self.encoder, self.decoder = transformer.encoder_and_decoder
        self.is_unilm = isinstance(transformer, UniLM_Mask)
        self.tokenizer = tokenizer
        self.start_id = start_id
        self.end_ids = end_ids
        self.segment_id = 1 if segment_id is None and self.is_unilm else segment_id
        self.check_ids([] if start_id is None else [start_id], "start_id")
        self.check_segments([] if segment_id is None else [segment_id], "segment_id")
        self.max_positions, self.position_limit_reason = position_limit(self.decoder)

    def make_prompt(
        self, given: Any, name: str, chat_arguments: Mapping[str, Any] = NO_ARGUMENTS
    ) -> Prompt:
        """Make a prompt, encoding it if it is a text or a chat, and check it.

        Args:
            given: a text, a pair of texts, the messages of a chat, token ids, or a pair (token ids,
                segment ids).
            name: the name of the prompt in error messages.
            chat_arguments: further arguments of `apply_chat_template`.

        Raises:
            ValueError: the prompt is empty, of another type, or has ids that the model lacks.
        """
        pair = isinstance(given, tuple) and len(given) == 2
        if is_chat(given):
            token_ids = self.encode_chat(given, name, chat_arguments)
            segment_ids = [0] * len(token_ids)
        elif is_string(given) or (pair and all(map(is_string, given))):
            texts = given if pair else (given,)
            token_ids, segment_ids = self.encode_texts(texts, name) if any(texts) else ([], [])
        elif pair and not isinstance(given[0], Integral):
            token_ids, segment_ids = (as_token_ids(x, name) for x in given)
        else:
            token_ids = as_token_ids(given, name)
            segment_ids = [0] * len(token_ids)
        if len(token_ids) != len(segment_ids):
            raise ValueError(
                f"{name} has {len(token_ids)} token ids and {len(segment_ids)} segment ids: give "
                "one segment for each token"
            )
        if not token_ids and (self.encoder or self.start_id is None):
            raise ValueError(
                f"{name} is empty: give at least one token"
                + ("" if self.encoder else ", or a start_id that the output begins with")
            )
        self.check_ids(token_ids, name)
        self.check_segments(segment_ids, name)
        return Prompt(token_ids, segment_ids)

    def check_ids(self, token_ids: Sequence[int], name: str) -> None:
        """Raise an error for ids outside the vocabulary."""
        size = self.transformer.vocab_size
        outside = [i for i in token_ids if not 0 <= i < size]
        if outside:
            raise ValueError(
                f"{name} holds the token id {outside[0]}, and the model has {size} tokens: encode "
                "it with the tokenizer of this model"
            )

    def check_segments(self, segment_ids: Sequence[int], name: str) -> None:
        """Raise an error for segment ids that the model has no embedding for."""
        embedded = getattr(self.decoder, "takes_segments", False)
        size = getattr(self.decoder, "segment_vocab_size", 0) if embedded else 0
        if size and getattr(self.decoder, "shared_segment_embeddings", False):
            size = self.decoder.vocab_size
        outside = [i for i in segment_ids if i < 0 or (size and i >= size)]
        if outside:
            raise ValueError(
                f"{name} holds the segment {outside[0]}, and "
                + (f"the model has {size} segments" if size else "segments are numbered")
                + " from 0: correct it"
            )

    def encode_texts(self, texts: tuple[str, ...], name: str) -> tuple[list[int], list[int]]:
        """Encode texts to token and segment ids, without the end token if the output continues."""
        if self.tokenizer is None:
            raise ValueError(
                f"{name} is a text: pass tokenizer= to Generator, or give token ids instead"
            )
        token_ids, segment_ids = self.tokenizer.encode(*texts)
        if self.is_unilm:
            segment_ids = [0] * len(token_ids)  # all of the prompt is source
        elif not self.encoder:
            suffix = suffix_ids(self.tokenizer)
            length = len(token_ids) - len(suffix)
            if list(token_ids[length:]) == suffix:
                token_ids, segment_ids = token_ids[:length], segment_ids[:length]
        return list(token_ids), list(segment_ids)

    def encode_chat(
        self, messages: Sequence[Mapping[str, Any]], name: str, arguments: Mapping[str, Any]
    ) -> list[int]:
        """Encode a chat to token ids, after which an answer begins.

        If the last message is the assistant's, the answer continues it.
        """
        if not hasattr(self.tokenizer, "apply_chat_template"):
            raise ValueError(
                f"{name} is a chat: pass a tokenizer of load_tokenizer to Generator, which knows "
                "how the model was trained to read chats"
            )
        continues = messages[-1]["role"] == "assistant"
        defaults = {"add_generation_prompt": not continues, "continue_final_message": continues}
        return list(self.tokenizer.apply_chat_template(messages, **defaults | dict(arguments)))

    def check_length(self, prompt: Prompt, maxlen: int, name: str) -> None:
        """Raise an error for a prompt after which the output would run out of positions."""
        n_start = self.start_id is not None
        length = n_start if self.encoder else len(prompt.token_ids) + n_start
        # The model does not read the last token of the output.
        if self.max_positions is not None and length + maxlen - 1 > self.max_positions:
            raise ValueError(
                f"{name} has {length} tokens, and {maxlen} more do not fit into the "
                f"{self.max_positions} positions {self.position_limit_reason}: cut the prompt to "
                f"{max(self.max_positions + 1 - maxlen, 0)} tokens, or lower maxlen"
            )

    def prefill_inputs(
        self,
        groups: Sequence[Sequence[Prompt]],
        conditions: Sequence[np.ndarray],
        output_capacity: int,
    ) -> dict[str, Any]:
        """Convert groups of prompts to the arrays that `Decoding.prefill` takes.

        The number of groups is padded to a power of two, and that of the prompts in a group to a
        power of two or one and a half times a power of two.

        Args:
            groups: the prompts of each group; one that does not vote is a group of its own.
            conditions: for each additional input of the model, its value for every group.
            output_capacity: number of slots for the output.
        """
        batch = next_power_of_two(len(groups))
        per_group = padded_group_size(max(map(len, groups)))
        all_groups = [groups[min(i, len(groups) - 1)] for i in range(batch)]
        prompts = [group[min(i, len(group) - 1)] for group in all_groups for i in range(per_group)]
        prompt_mask = np.zeros((batch, per_group), dtype=bool)
        for i, group in enumerate(groups):
            prompt_mask[i, : len(group)] = True
        start_ids = [] if self.start_id is None else [self.start_id]
        ids = [start_ids if self.encoder else prompt.token_ids + start_ids for prompt in prompts]
        length = bucket_length(max(map(len, ids)))
        arrays = {
            "token_ids": pad_rows(ids, length, left=True),
            "left_padding": np.array([length - len(x) for x in ids], dtype="int32"),
            "prompt_mask": prompt_mask,
            "inputs": self.decoder_inputs(prompts, conditions, per_group, length, output_capacity),
        }
        if self.encoder:
            # The encoder masks this id everywhere but at the start.
            pad = self.transformer.pad_token_id
            sources = [prompt.token_ids for prompt in prompts]
            source_length = bucket_length(max(map(len, sources)))
            arrays["source_ids"] = pad_rows(sources, source_length, fill=pad)
        return arrays

    def decoder_inputs(
        self,
        prompts: Sequence[Prompt],
        conditions: Sequence[np.ndarray],
        per_group: int,
        length: int,
        output_capacity: int,
    ) -> dict[str, np.ndarray]:
        """Return the inputs of the decoder other than tokens, positions and context, by name."""
        arrays = {}
        conditions = list(conditions)
        for kind, per_slot in input_kinds(self.decoder).items():
            if kind in ("Token", "Position", "Context"):
                continue
            if kind == "Segment":
                arrays[kind] = self.padded_segment_ids(prompts, length, output_capacity)
                continue
            value = conditions.pop(0)
            value = value[np.minimum(np.arange(len(prompts)) // per_group, len(value) - 1)]
            if per_slot:
                value = np.repeat(value.reshape(-1, 1), length + output_capacity, axis=1)
            arrays[kind] = value
        return arrays

    def padded_segment_ids(
        self, prompts: Sequence[Prompt], length: int, output_capacity: int
    ) -> np.ndarray:
        """Return segment ids of the prompts, padded on the left to `length`, and of the outputs."""
        n_start = self.start_id is not None
        output_segments = [
            (x.segment_ids or [0])[-1] if self.segment_id is None else self.segment_id
            for x in prompts
        ]
        rows = [
            x.segment_ids + [s] * n_start for x, s in zip(prompts, output_segments, strict=True)
        ]
        of_output = np.array(output_segments, dtype="int32")[:, None].repeat(
            output_capacity, axis=1
        )
        return np.concatenate([pad_rows(rows, length, left=True), of_output], axis=1)

    def append_output(
        self, inputs: Sequence[np.ndarray], output_ids: np.ndarray
    ) -> list[np.ndarray]:
        """Append the outputs so far to the inputs of the decoder.

        Args:
            inputs: the value of each input of the model for the prompts.
            output_ids: (rows, n).

        Raises:
            ValueError: the model has another number of inputs.
        """
        kinds = input_kinds(self.decoder)
        if len(inputs) != len(kinds):
            raise ValueError(
                f"got {len(inputs)} inputs, and the model has {len(kinds)}: give {list(kinds)}"
            )
        arrays = []
        for x, (kind, per_slot) in zip(inputs, kinds.items(), strict=True):
            if not per_slot:
                arrays.append(x)
                continue
            appended = np.repeat(x[:, -1:], output_ids.shape[1], axis=1)
            if kind == "Token":
                appended = output_ids
            elif kind == "Position":
                appended = appended + np.arange(1, output_ids.shape[1] + 1)
            elif kind == "Segment" and self.segment_id is not None:
                appended = np.full_like(appended, self.segment_id)
            arrays.append(np.concatenate([x, appended], axis=1))
        return arrays

    def additional_inputs(self) -> list[str]:
        """Return the names of the inputs of the model that the caller must give."""
        own = ("Token", "Segment", "Position", "Context")
        return [kind for kind in input_kinds(self.decoder) if kind not in own]


def suffix_ids(tokenizer: Any) -> list[int]:
    """Return the ids of the tokens that a tokenizer appends to a text."""
    if isinstance(tokenizer, TokenizerBase):
        return tokenizer.tokens_to_ids(tokenizer._prefix_and_suffix()[1])
    end_id = getattr(tokenizer, "_token_end_id", None)
    return [] if end_id is None else [end_id]


def as_token_ids(given: Any, name: str) -> list[int]:
    """Convert a sequence of whole numbers to a list of them.

    Raises:
        ValueError: `given` is something else.
    """
    ordered = isinstance(given, Iterable) and not isinstance(given, Mapping | Set)
    ids = list(given) if ordered else [None]
    if not all(isinstance(i, Integral) for i in ids):
        raise ValueError(
            f"{name} is {given!r:.100}: give a text, a pair of texts, the messages of a chat, "
            "token ids, or a pair (token ids, segment ids); a batch is a list of these"
        )
    return [int(i) for i in ids]


def pad_rows(
    rows: Sequence[list[int]], length: int, left: bool = False, fill: int = 0
) -> np.ndarray:
    """Pad lists of ids with `fill` on the right, or on the left, to (rows, length) of int32."""
    array = np.full((len(rows), length), fill, dtype="int32")
    for row, ids in zip(array, rows, strict=True):
        if ids:
            row[slice(length - len(ids), length) if left else slice(len(ids))] = ids
    return array


def next_power_of_two(n: int) -> int:
    """Return the smallest power of two that is at least `n`."""
    return 1 << (n - 1).bit_length()


def padded_group_size(n: int) -> int:
    """Return the smallest of 1, 2, 3, 4, 6, 8, 12, 16, … that is at least `n`."""
    size = next_power_of_two(n)
    return size * 3 // 4 if 4 * n <= 3 * size else size


def input_kinds(transformer: Transformer) -> dict[str, bool]:
    """Return for each input of a model whether it has a value for each token of the sequence.

    The keys are names without their prefix: 'Token' for 'Input-Token'.
    """
    kinds = {}
    for x in transformer.inputs:
        name = x.name.removeprefix(transformer.prefix)
        per_slot = len(x.shape) == 2 and x.shape[1] == transformer.sequence_length
        kinds[name.rsplit("Input-", 1)[-1]] = per_slot
    return kinds


def position_limit(transformer: Transformer) -> tuple[int | None, str]:
    """Return the number of positions of a model and what limits it; None if nothing does."""
    for layer in transformer.layers.values():
        if isinstance(layer, PositionEmbedding):
            return layer.max_length, "of the model's table"
        scaling = getattr(layer, "scaling", None) or {}
        if isinstance(layer, SinusoidalPositionEmbedding) and "dynamic" in scaling.values():
            # Beyond it, every new token would change the keys of all earlier tokens.
            return scaling["original_max_position_embeddings"], "before dynamic scaling sets in"
    return None, ""
