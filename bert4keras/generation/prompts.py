"""Prompts: from texts or ids, checked, to arrays of few different shapes."""

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

NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Prompt:
    """What a model is given before it writes.

    Attributes:
        token_ids: what the output goes on from, or what an encoder reads.
        segment_ids: their segments.
    """

    token_ids: list[int]
    segment_ids: list[int]


class Prompts:
    """Makes arrays of prompts for one model.

    Args:
        transformer: the language model; of an encoder and a decoder, the whole.
        tokenizer: for prompts that are texts.
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
        self.reach, self.why_no_further = positions_of(self.decoder)

    def prompt(self, given: Any, name: str, chat_arguments: Mapping[str, Any] = NONE) -> Prompt:
        """Check a prompt, encoding it if it is a text or a chat.

        Args:
            given: a text, a pair of texts, the messages of a chat, token ids, or a pair (token ids,
                segment ids).
            name: what errors call it.
            chat_arguments: further arguments of `apply_chat_template`.
        """
        pair = isinstance(given, tuple) and len(given) == 2
        if is_chat(given):
            token_ids = self.of_chat(given, name, chat_arguments)
            segment_ids = [0] * len(token_ids)
        elif is_string(given) or (pair and all(map(is_string, given))):
            texts = given if pair else (given,)
            token_ids, segment_ids = self.encoded(texts, name) if any(texts) else ([], [])
        elif pair and not isinstance(given[0], Integral):
            token_ids, segment_ids = (as_ids(x, name) for x in given)
        else:
            token_ids = as_ids(given, name)
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
        """Refuse ids outside of the vocabulary."""
        size = self.transformer.vocab_size
        outside = [i for i in token_ids if not 0 <= i < size]
        if outside:
            raise ValueError(
                f"{name} holds the token id {outside[0]}, and the model has {size} tokens: encode "
                "it with the tokenizer of this model"
            )

    def check_segments(self, segment_ids: Sequence[int], name: str) -> None:
        """Refuse segments that the model has no vector for."""
        size = getattr(self.decoder, "segment_vocab_size", 0)
        if size and getattr(self.decoder, "shared_segment_embeddings", False):
            size = self.decoder.vocab_size
        outside = [i for i in segment_ids if i < 0 or (size and i >= size)]
        if outside:
            raise ValueError(
                f"{name} holds the segment {outside[0]}, and "
                + (f"the model has {size}, from 0" if size else "segments are from 0")
                + ": correct it"
            )

    def encoded(self, texts: tuple[str, ...], name: str) -> tuple[list[int], list[int]]:
        """Token and segment ids; a text that is to be continued is left open at its end."""
        if self.tokenizer is None:
            raise ValueError(
                f"{name} is a text: pass tokenizer= to Generator, or give token ids instead"
            )
        token_ids, segment_ids = self.tokenizer.encode(*texts)
        if self.is_unilm:
            segment_ids = [0] * len(token_ids)  # all of it is source
        elif not self.encoder:
            behind = ids_behind(self.tokenizer)
            n_open = len(token_ids) - len(behind)
            if list(token_ids[n_open:]) == behind:
                token_ids, segment_ids = token_ids[:n_open], segment_ids[:n_open]
        return list(token_ids), list(segment_ids)

    def of_chat(
        self, messages: Sequence[Mapping[str, Any]], name: str, arguments: Mapping[str, Any]
    ) -> list[int]:
        """Token ids of a chat, at whose end an answer begins, or goes on if one is begun."""
        if not hasattr(self.tokenizer, "apply_chat_template"):
            raise ValueError(
                f"{name} is a chat: pass a tokenizer of load_tokenizer to Generator, which knows "
                "how the model was trained to read chats"
            )
        begun = messages[-1]["role"] == "assistant"
        ways = {"add_generation_prompt": not begun, "continue_final_message": begun}
        return list(self.tokenizer.apply_chat_template(messages, **ways | dict(arguments)))

    def check_length(self, prompt: Prompt, maxlen: int, name: str) -> None:
        """Refuse a prompt after which the output would run out of positions."""
        started = self.start_id is not None
        length = started if self.encoder else len(prompt.token_ids) + started
        # The last token of the output is not read any more.
        if self.reach is not None and length + maxlen - 1 > self.reach:
            raise ValueError(
                f"{name} has {length} tokens, and {maxlen} more do not fit into the {self.reach} "
                f"positions {self.why_no_further}: cut the prompt to "
                f"{max(self.reach + 1 - maxlen, 0)} tokens, or lower maxlen"
            )

    def arrays(
        self,
        groups: Sequence[Sequence[Prompt]],
        conditions: Sequence[np.ndarray],
        room: int,
    ) -> dict[str, Any]:
        """Arrays of groups of prompts, as `Decoding.begin` takes them.

        Batches are filled up to powers of two, groups to these and one and a half of them.

        Args:
            groups: prompts by groups; a prompt that does not vote is alone.
            conditions: for each further input of the model, its value for every group.
            room: how many slots the output gets.
        """
        batch = power_of_two(len(groups))
        per_group = group_size(max(map(len, groups)))
        filled = [groups[min(i, len(groups) - 1)] for i in range(batch)]
        rows = [group[min(i, len(group) - 1)] for group in filled for i in range(per_group)]
        present = np.zeros((batch, per_group), dtype=bool)
        for i, group in enumerate(groups):
            present[i, : len(group)] = True
        started = [] if self.start_id is None else [self.start_id]
        ids = [started if self.encoder else prompt.token_ids + started for prompt in rows]
        length = bucket_length(max(map(len, ids)))
        arrays = {
            "tokens": padded(ids, length, left=True),
            "offsets": np.array([length - len(x) for x in ids], dtype="int32"),
            "present": present,
            "inputs": self.inputs(rows, conditions, per_group, length, room),
        }
        if self.encoder:
            # The encoder hides this id, wherever it stands but at the start.
            pad = self.transformer.pad_token_id
            sources = [prompt.token_ids for prompt in rows]
            source_length = bucket_length(max(map(len, sources)))
            arrays["source"] = padded(sources, source_length, fill=pad)
        return arrays

    def inputs(
        self,
        rows: Sequence[Prompt],
        conditions: Sequence[np.ndarray],
        per_group: int,
        length: int,
        room: int,
    ) -> dict[str, np.ndarray]:
        """The inputs of the decoder besides tokens, positions and context."""
        arrays = {}
        conditions = list(conditions)
        for kind, per_slot in input_kinds(self.decoder).items():
            if kind in ("Token", "Position", "Context"):
                continue
            if kind == "Segment":
                arrays[kind] = self.segments(rows, length, room)
                continue
            value = conditions.pop(0)
            value = value[np.minimum(np.arange(len(rows)) // per_group, len(value) - 1)]
            if per_slot:
                value = np.repeat(value.reshape(-1, 1), length + room, axis=1)
            arrays[kind] = value
        return arrays

    def segments(self, rows: Sequence[Prompt], length: int, room: int) -> np.ndarray:
        """Segment ids of the prompts, padded to a length, and of the output behind them."""
        started = self.start_id is not None
        last = [
            (x.segment_ids or [0])[-1] if self.segment_id is None else self.segment_id for x in rows
        ]
        before = [x.segment_ids + [s] * started for x, s in zip(rows, last, strict=True)]
        after = np.repeat(np.array(last, dtype="int32")[:, None], room, axis=1)
        return np.concatenate([padded(before, length, left=True), after], axis=1)

    def continued(self, inputs: Sequence[np.ndarray], output_ids: np.ndarray) -> list[np.ndarray]:
        """The inputs of the decoder for prompts and what is written behind them.

        Args:
            inputs: for each input of the model its value for the prompts.
            output_ids: (rows, n).
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
            after = np.repeat(x[:, -1:], output_ids.shape[1], axis=1)
            if kind == "Token":
                after = output_ids
            elif kind == "Position":
                after = after + np.arange(1, output_ids.shape[1] + 1)
            elif kind == "Segment" and self.segment_id is not None:
                after = np.full_like(after, self.segment_id)
            arrays.append(np.concatenate([x, after], axis=1))
        return arrays

    def further_inputs(self) -> list[str]:
        """Names of the inputs of the model that the caller must give."""
        own = ("Token", "Segment", "Position", "Context")
        return [kind for kind in input_kinds(self.decoder) if kind not in own]


def ids_behind(tokenizer: Any) -> list[int]:
    """The ids of the tokens that a tokenizer puts behind a text."""
    if isinstance(tokenizer, TokenizerBase):
        return tokenizer.tokens_to_ids(tokenizer._around()[1])
    end_id = getattr(tokenizer, "_token_end_id", None)
    return [] if end_id is None else [end_id]


def as_ids(given: Any, name: str) -> list[int]:
    """A list of whole numbers."""
    ordered = isinstance(given, Iterable) and not isinstance(given, Mapping | Set)
    ids = list(given) if ordered else [None]
    if not all(isinstance(i, Integral) for i in ids):
        raise ValueError(
            f"{name} is {given!r:.100}: give a text, a pair of texts, the messages of a chat, "
            "token ids, or a pair (token ids, segment ids); a batch is a list of these"
        )
    return [int(i) for i in ids]


def padded(rows: Sequence[list[int]], length: int, left: bool = False, fill: int = 0) -> np.ndarray:
    """(rows, length), int32, padded on one side."""
    array = np.full((len(rows), length), fill, dtype="int32")
    for row, ids in zip(array, rows, strict=True):
        if ids:
            row[slice(length - len(ids), length) if left else slice(len(ids))] = ids
    return array


def power_of_two(n: int) -> int:
    """The next power of two."""
    return 1 << (n - 1).bit_length()


def group_size(n: int) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12, 16, …"""
    size = power_of_two(n)
    return size * 3 // 4 if 4 * n <= 3 * size else size


def input_kinds(transformer: Transformer) -> dict[str, bool]:
    """The inputs of a model by name, 'Token' for 'Input-Token', and whether they have a length."""
    kinds = {}
    for x in transformer.inputs:
        name = x.name.removeprefix(transformer.prefix)
        per_slot = len(x.shape) == 2 and x.shape[1] == transformer.sequence_length
        kinds[name.rsplit("Input-", 1)[-1]] = per_slot
    return kinds


def positions_of(transformer: Transformer) -> tuple[int | None, str]:
    """How many positions a model reaches, None for any number; and why."""
    for layer in transformer.layers.values():
        if isinstance(layer, PositionEmbedding):
            return layer.reach, "of the model's table"
        scaling = getattr(layer, "scaling", None) or {}
        if isinstance(layer, SinusoidalPositionEmbedding) and "dynamic" in scaling.values():
            # Further on, keys of earlier tokens would have to change with every token.
            return scaling["original_max_position_embeddings"], "before dynamic scaling sets in"
    return None, ""
