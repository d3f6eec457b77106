"""The tokenizer of a `tokenizer.json` of Hugging Face, run by the package `tokenizers`.

The file defines how a text is normalised, split and tokenized (by BPE, WordPiece or Unigram), which
special tokens are added, and how tokens are decoded. This module adds the interface of `Tokenizer`.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import repeat
from typing import Any

from bert4keras.text import cutting
from bert4keras.text.alphabet import (
    BYTE_LEVEL_SPACE,
    SPACE,
    is_cut_off,
    n_last_byte_tokens,
    without_space,
)
from bert4keras.text.base import TokenizerBase
from bert4keras.text.generation_config import renumbered
from bert4keras.text.json_file import (
    add_missing,
    as_tokenizer_error,
    decoding_kind,
    frame_of,
    open_tokenizer,
    post_processor_of,
    unknown_token,
    with_edges,
)
from bert4keras.text.strings import well_formed

AS_IN_FILE: Any = object()
"""Default of `token_start` and `token_end`: the special tokens that the file adds."""

_NAMES: Mapping[str, tuple[str, ...]] = {
    "pad": ("pad_token",),
    "unk": ("unk_token",),
    "mask": ("mask_token",),
    "start": ("bos_token", "cls_token"),
    "end": ("eos_token", "sep_token"),
}
"""Names of special tokens in this library and in `tokenizer_config.json`."""
_USUAL = {"pad": ("[PAD]", "<pad>"), "mask": ("[MASK]", "<mask>")}
"""Special tokens that are assumed if no file defines them."""
_CLEANED = {
    **{f" {mark}": mark for mark in ".?!,"},
    " ' ": "'",
    **{f" {ending}": ending for ending in ("n't", "'m", "'s", "'ve", "'re")},
}
"""Replacements of `clean_up`, in this order."""


class JsonTokenizer(TokenizerBase):
    """The tokenizer of a `tokenizer.json`: BPE, byte-level BPE, WordPiece or Unigram.

    Ids, offsets and decoded texts are the same as in `transformers`. Special tokens within a text,
    such as `<|im_end|>`, are recognised. Segment ids are those of the file, which are all 0 for
    models without segments.

    Args:
        source: the file, a folder with a file `tokenizer.json`, or the content of such a file.
        special_tokens: special tokens by name in `tokenizer_config.json` (`eos_token`, ...), each a
            string or a dict with `content`. One that is not in the file is added to the vocabulary.
        added_tokens: further tokens to add, each a dict with `content`.
        clean_up: whether `decode` removes spaces before punctuation, as old files require; not for
            BPE, which does not need it.
        token_start: the token before a text, None for none; by default that of the file.
        token_end: the token after a text, likewise.
        **kwargs: see `TokenizerBase`; `pre_tokenize` gets the text as it is.

    Raises:
        ImportError: the package `tokenizers` is not installed.
        FileNotFoundError: there is no such file.
        TokenizerError: the file is not that of a tokenizer, or exceeds a limit.
    """

    _has_joints = True

    def __init__(
        self,
        source: str | os.PathLike | Mapping[str, Any],
        special_tokens: Mapping[str, str | Mapping[str, Any]] | None = None,
        added_tokens: Sequence[Mapping[str, Any]] = (),
        clean_up: bool = False,
        token_start: str | None = AS_IN_FILE,
        token_end: str | None = AS_IN_FILE,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self._json, content, self._source = open_tokenizer(source)
        self._decoding = decoding_kind(content.get("decoder"))
        self._clean_up = clean_up and content["model"].get("type") != "BPE"
        self._edges = (token_start, token_end)
        self.special_tokens = add_missing(
            self._json, special_tokens or {}, added_tokens, self._source
        )
        self._frame = frame_of(self._json, self._source)
        if self._edges != (AS_IN_FILE, AS_IN_FILE):
            in_file = (self._frame.prefix[:1], self._frame.suffix[-1:])
            edges = [
                next(iter(tokens), None) if given is AS_IN_FILE else given
                for given, tokens in zip(self._edges, in_file, strict=True)
            ]
            self._frame = with_edges(self._frame, *edges)
        self._segments = self._frame.segments
        self._name_specials(content)

    def _name_specials(self, content: Mapping[str, Any]) -> None:
        """Set the special tokens, such as `_token_pad`, and their ids."""
        named = self.special_tokens
        found = {
            special: next((named[name] for name in names if name in named), None)
            for special, names in _NAMES.items()
        }
        found["unk"] = unknown_token(content) or found["unk"]
        found["pad"] = found["pad"] or (content.get("padding") or {}).get("pad_token")
        found["start"] = next(iter(self._frame.prefix), found["start"])
        found["end"] = next(reversed(self._frame.suffix), found["end"])
        for special, usual in _USUAL.items():
            there = (token for token in usual if token in self)
            found[special] = found[special] or next(there, None)
        for special, token in found.items():
            self._name_special(special, token)

    # --- Tokens and ids ---

    @cached_property
    def token_dict(self) -> Mapping[str, int]:
        """Maps tokens to ids."""
        return self._json.get_vocab(with_added_tokens=True)

    @property
    def _token_dict(self) -> Mapping[str, int]:
        return self.token_dict

    @cached_property
    def _vocab_size(self) -> int:
        return max(self.token_dict.values(), default=-1) + 1

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        added = self._json.get_added_tokens_decoder()
        return frozenset(i for i, token in added.items() if token.special)

    def __contains__(self, token: str) -> bool:
        return self._json.token_to_id(token) is not None

    def token_to_id(self, token: str) -> int:
        """Return the id of a token, or of the unknown token if it is not in the vocabulary.

        Raises:
            KeyError: there is no unknown token either.
        """
        i = self.token_dict.get(token, self._unknown_id)
        if i is None:
            raise KeyError(
                f"{token!r} is not a token of {self._source}, which has no unknown token either"
            )
        return i

    @property
    def _unknown_id(self) -> int | None:
        return self.__dict__.get("_token_unk_id")

    def tokens_to_ids(self, tokens: Iterable[str]) -> list[int]:
        """Return the ids of tokens, like `token_to_id`."""
        tokens = list(tokens)
        ids = list(map(self.token_dict.get, tokens, repeat(self._unknown_id)))
        if None in ids or type(self).token_to_id is not JsonTokenizer.token_to_id:
            return super().tokens_to_ids(tokens)
        return ids

    def id_to_token(self, i: int) -> str:
        """Return the token of an id.

        Raises:
            KeyError: no token has this id.
        """
        token = self._json.id_to_token(int(i)) if 0 <= i < 1 << 32 else None
        if token is None:
            raise KeyError(f"no token of {self._source} has the id {i}")
        return token

    # --- Tokenizing ---

    def _prefix_and_suffix(self) -> tuple[list[str], list[str]]:
        return self._frame.prefix, self._frame.suffix

    def _joined(self, sequences: list[list[str]]) -> list[list[str]]:
        """Replace the special tokens around single texts by those around several texts."""
        last = len(sequences) - 1
        if not last:
            return sequences
        return [self._frame.joined(s, i == 0, i == last) for i, s in enumerate(sequences)]

    def _n_dropped_by_joining(self, sequences: list[list[str]]) -> int:
        return sum(map(len, sequences)) - sum(map(len, self._joined(sequences)))

    def _is_token(self, item: str) -> bool:
        return item in self.token_dict

    def _encoding(self, text: str) -> Any:
        with as_tokenizer_error(self._source):
            return self._json.encode(well_formed(text), add_special_tokens=False)

    def _tokens(self, encoding: Any) -> list[str]:
        """Return the tokens of an encoding: unknown ones as in the text, others by their ids.

        A token that includes surrounding spaces has another string in the encoding.
        """
        known, unknown = self.token_dict, self._unknown_id
        pairs = zip(encoding.tokens, encoding.ids, strict=True)
        return [t if known.get(t, unknown) == i else self.id_to_token(i) for t, i in pairs]

    def _tokenize(self, text: str) -> list[str]:
        if self._pre_tokenize is None:
            return self._tokens(self._encoding(text))
        return self._cut(text)[0]

    def _cut(self, text: str) -> tuple[list[str], list[tuple[int, int]]]:
        """Return the tokens of a text with the start and end of each in the text."""
        if self._pre_tokenize is None:
            encoding = self._encoding(text)
            return self._tokens(encoding), encoding.offsets
        tokens, offsets, at = [], [], 0
        for segment in self._pre_tokenize(text):
            encoding = self._encoding(segment)
            tokens += self._tokens(encoding)
            start = text.find(segment, at)
            if start < 0:  # The function changed the text: there is no character to map to.
                offsets += [(at, at)] * len(encoding.tokens)
                continue
            offsets += [(start + first, start + end) for first, end in encoding.offsets]
            at = start + len(segment)
        return tokens, offsets

    # --- Offsets ---

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Return the start and end of each token in a text.

        Args:
            text: the text.

        Returns:
            For each token of `tokenize(text)` the index of its first character and of the one after
            its last, as the file defines them: in many files the space before a word belongs to
            it. (0, 0) for special tokens around the text. `rematch` excludes spaces around words.
        """
        prefix, suffix = self._prefix_and_suffix()
        return [(0, 0)] * len(prefix) + self._cut(text)[1] + [(0, 0)] * len(suffix)

    def _tokenize_with_spans(self, text: str) -> tuple[list[str], list[list[int]]]:
        tokens, offsets = self._cut(text)
        mark = BYTE_LEVEL_SPACE if self._decoding == "bytes" else SPACE
        spans = [
            without_space(text, token, list(range(start, end)), mark)
            for token, (start, end) in zip(tokens, offsets, strict=True)
        ]
        return tokens, spans

    def _all_specials(self) -> set[str | None]:
        return super()._all_specials() | set(map(self._json.id_to_token, self._special_ids))

    # --- Decoding ---

    def decode(
        self,
        ids: Iterable[int],
        tokens: Sequence[str] | None = None,
        skip_special_tokens: bool = True,
    ) -> str:
        """Return the text of ids.

        Args:
            ids: the ids. Those beyond the vocabulary, which models may have, are left out.
            tokens: the tokens, instead of ids.
            skip_special_tokens: whether to leave out special tokens.
        """
        if tokens is not None or self._token_translate_inv:
            back = self._token_translate_inv
            given = self.ids_to_tokens(ids) if tokens is None else tokens
            ids = self.tokens_to_ids(back.get(token) or token for token in given)
        ids = [int(i) for i in ids if 0 <= i < 1 << 32]
        with as_tokenizer_error(self._source):
            text = self._json.decode(ids, skip_special_tokens=skip_special_tokens)
        return cleaned_up(text) if self._clean_up else text

    @property
    def n_context(self) -> int | None:
        """Number of preceding tokens that `decode` needs to decode others correctly, None for all.

        The first token of a text may lose its space.
        """
        if self._clean_up or self._token_translate_inv:
            return None
        return {"bytes": 0, "tokens": 1, "byte tokens": 1}.get(self._decoding)

    def settled(self, ids: Sequence[int], text: str) -> int:
        """Return the length of the part of a text that no further tokens can change.

        Args:
            ids: the ids so far.
            text: the result of `decode` for them.

        Returns:
            A number of characters, without an incomplete character at the end.
        """
        if self._clean_up or self._token_translate_inv:
            return super().settled(ids, text)
        if self._decoding == "bytes":
            return len(text) - is_cut_off(self._decoded_from_the_last(ids))
        if self._decoding == "byte tokens":
            n_open = n_last_byte_tokens(self._decoded_from_the_last(ids))
            return len(self.decode(ids[: len(ids) - n_open])) if n_open else len(text)
        return len(text) if self._decoding == "tokens" else 0

    def _decoded_from_the_last(self, ids: Sequence[int]) -> Iterator[str | None]:
        """Yield tokens in reverse order, None for those that `decode` leaves out."""
        for i in reversed(ids):
            yield None if i in self._special_ids else self._json.id_to_token(i)

    # --- A smaller vocabulary ---

    def cut_down(self, keep: Iterable[int | str]) -> tuple["JsonTokenizer", list[int]]:
        """Return a tokenizer with some of the tokens, for a model with a smaller embedding table.

        Besides the tokens to keep it has those that it needs: special and other added tokens,
        bytes, and the tokens from which BPE merges the kept ones. A text whose tokens are all kept
        is tokenized as before, any other into kept tokens.

        Args:
            keep: the tokens to keep or their ids, those of a corpus for instance.

        Returns:
            The tokenizer; and the old ids in the order of the new ones, which
            `build_transformer_model` takes as `keep_tokens`.

        Raises:
            KeyError: there is no such token.
        """
        keep_tokens = cutting.required_ids(self.content(), set(map(self._known_id, keep)))
        return self.with_tokens(keep_tokens), keep_tokens

    def _known_id(self, item: int | str) -> int:
        if isinstance(item, str):
            i = self._json.token_to_id(item)
            if i is None:
                raise KeyError(f"{item!r} is not a token of {self._source}")
            return i
        self.id_to_token(item)
        return int(item)

    def with_tokens(self, keep_tokens: Sequence[int]) -> "JsonTokenizer":
        """Return the tokenizer of a model that was built with `keep_tokens`.

        Raises:
            TokenizerError: the unknown token, or special tokens added around texts, are left out.
        """
        kept = set(map(self.id_to_token, keep_tokens))
        small = type(self)(
            cutting.cut_down(self.content(), keep_tokens),
            special_tokens={k: v for k, v in self.special_tokens.items() if v in kept},
            clean_up=self._clean_up,
            token_start=self._edges[0],
            token_end=self._edges[1],
            pre_tokenize=self._pre_tokenize,
            token_translate=self._token_translate,
        )
        small.chat_template, small.padding_side = self.chat_template, self.padding_side
        small.settings = {k: v for k, v in self.settings.items() if "_token" not in k}
        small.generation_config = renumbered(self.generation_config, keep_tokens)
        return small

    def content(self) -> dict[str, Any]:
        """Return the content of a `tokenizer.json` of this tokenizer."""
        content = json.loads(self._json.to_str())
        if self._edges != (AS_IN_FILE, AS_IN_FILE):
            processor = content["post_processor"]
            content["post_processor"] = post_processor_of(processor, self._frame, self.token_dict)
        return content


def cleaned_up(text: str) -> str:
    """Remove spaces before punctuation, which old files produce."""
    for old, new in _CLEANED.items():
        text = text.replace(old, new)
    return text
