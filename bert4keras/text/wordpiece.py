"""The WordPiece tokenizer of BERT, with `decode` and `rematch`.

`Tokenizer` works as follows. Each character is normalised by itself (lower case, no accents) and
converted to a spaced-out form, in which ideographs and punctuation are surrounded by spaces and
control characters are removed. The concatenated forms are split at spaces into words, and each word
into the longest pieces in the vocabulary. Forms and pieces are cached in tables. Most characters of
a Chinese text are their own only token; a regular expression separates them from the runs of other
characters that need the tables.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, repeat
from typing import Any

from bert4keras.text.base import SPECIALS, TokenizerBase
from bert4keras.text.characters import (
    ASCII_PUNCTUATION,
    cjk_punctuation,
    is_cjk_character,
    is_control,
    is_punctuation,
    is_space,
)
from bert4keras.text.strings import lowercase_and_normalize
from bert4keras.text.tables import Table
from bert4keras.text.vocabulary import is_redundant, load_vocab, stem

_OF_BERT = {"[UNK]", "[CLS]", "[SEP]"}


class Tokenizer(TokenizerBase):
    """WordPiece tokenizer of BERT, which splits words into the longest pieces in a vocabulary.

    The tokens are those of `tokenization.py` of google-research/bert, except that an unknown word
    is its own token (with the id of `[UNK]`) and that characters are lower-cased one at a time (the
    Greek final sigma becomes an ordinary one). The pieces of words are cached, so that the
    vocabulary must not be changed in place.

    A vocabulary of something other than texts, such as the moves of a game, may not have `[UNK]`,
    `[CLS]` and `[SEP]`; an error is raised only if the id of one of them is needed.

    Args:
        token_dict: a mapping from tokens to ids, or a path for `load_vocab`.
        do_lower_case: whether to lower-case and strip accents.
        word_maxlen: maximal number of characters of a word; a longer word is unknown.
        **kwargs: see `TokenizerBase`.

    Raises:
        FileNotFoundError: there is no vocabulary at the path.
    """

    def __init__(
        self,
        token_dict: Mapping[str, int] | str | os.PathLike,
        do_lower_case: bool = False,
        word_maxlen: int = 200,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self._source = "the vocabulary"
        if isinstance(token_dict, str | os.PathLike):
            self._source = f"the vocabulary {os.fspath(token_dict)}"
            token_dict = load_vocab(token_dict)
        self._do_lower_case = do_lower_case
        self._word_maxlen = word_maxlen
        self._token_dict = token_dict
        self._token_dict_inv = {i: token for token, i in token_dict.items()}
        self._vocab_size = max(self._token_dict_inv, default=-1) + 1
        # Other start and end tokens are chosen by the caller, and may be unknown.
        standard = {self._token_unk, self._token_start, self._token_end} & _OF_BERT
        self._missing = sorted(standard - set(token_dict))
        for special in SPECIALS:
            token = getattr(self, f"_token_{special}")
            if token in token_dict:
                setattr(self, f"_token_{special}_id", token_dict[token])

        # Maps code points to spaced-out forms, words to pieces, and runs to tokens with offsets.
        self._forms = Table(self._spaced_out)
        self._pieces = Table(self._word_piece_tokenize)
        self._run_cuts = Table(self._cut_run_with_offsets)
        self._runs = re.compile(self._run_pattern())

    @property
    def token_dict(self) -> Mapping[str, int]:
        """Maps tokens to ids."""
        return self._token_dict

    def __contains__(self, token: str) -> bool:
        return token in self._token_dict

    def token_to_id(self, token: str) -> int:
        """Return the id of a token, or of `[UNK]` if it is not in the vocabulary.

        Raises:
            ValueError: `[UNK]` is not in the vocabulary either, or the token is `[CLS]` or `[SEP]`.
        """
        if token in self._token_dict:
            return self._token_dict[token]
        # If [UNK] is missing, scripts may set an id for all unknown tokens, including [CLS].
        unknown_id = vars(self).get("_token_unk_id")
        if unknown_id is None or (token in self._missing and self._token_unk not in self._missing):
            raise ValueError(
                f"{token!r} has no id, as {self._source} of {len(self._token_dict)} tokens lacks "
                f"{', '.join(self._missing)}: give the vocab.txt of BERT, or "
                "other token_start and token_end, or set _token_unk_id"
            )
        return unknown_id

    def tokens_to_ids(self, tokens: Iterable[str]) -> list[int]:
        """Return the ids of tokens, like `token_to_id`."""
        if type(self).token_to_id is not Tokenizer.token_to_id or self._missing:
            return super().tokens_to_ids(tokens)
        return list(map(self._token_dict.get, tokens, repeat(self._token_unk_id)))

    def id_to_token(self, i: int) -> str:
        """Return the token of an id.

        Raises:
            KeyError: no token has this id.
        """
        try:
            return self._token_dict_inv[i]
        except KeyError:
            raise KeyError(
                f"no token has the id {i}: the ids are from 0 to {self._vocab_size - 1}"
            ) from None

    # --- Tokenizing ---

    def _tokenize(self, text: str, pre_tokenize: bool = True) -> list[str]:
        if not pre_tokenize or self._pre_tokenize is None:
            parts = self._runs.split(text)
            parts[1::2] = map(self._cut_run, parts[1::2])
            return list(chain.from_iterable(parts))
        tokens = []
        for segment in self._pre_tokenize(self._normalize(text)):
            tokens.extend(
                [segment] if segment in self._token_dict else self._tokenize(segment, False)
            )
        return tokens

    def _cut_run(self, run: str) -> Iterator[str]:
        return chain.from_iterable(map(self._pieces.__getitem__, self._words(run)))

    def _words(self, text: str) -> list[str]:
        return text.translate(self._forms).split()

    def _normalize(self, text: str) -> str:
        return lowercase_and_normalize(text) if self._do_lower_case else text

    def _spaced_out(self, code: int) -> str:
        """Return the form of a character in words, with spaces at the ends of words."""
        return "".join(map(self._spaced_out_normal, self._normalize(chr(code))))

    def _spaced_out_normal(self, char: str) -> str:
        if self._stands_alone(char):
            return f" {char} "
        if self._is_space(char):
            return " "
        if char in "\0\ufffd" or self._is_control(char):
            return ""
        # Line and paragraph separators end words too.
        return " " if char.isspace() else char

    def _stands_alone(self, char: str) -> bool:
        return self._is_punctuation(char) or self._is_cjk_character(char)

    def _run_pattern(self) -> str:
        """Return the regular expression of a run without characters that are their own token.

        A character that stands alone is a word, and its only possible token is the character
        itself, known or not. The expression need not contain all of them; those in the vocabulary
        and common punctuation suffice.
        """
        candidates = chain(self._token_dict, ASCII_PUNCTUATION, self._cjk_punctuation())
        alone = "".join(
            c
            for c in dict.fromkeys(candidates)
            if len(c) == 1 and self._stands_alone(c) and self._normalize(c) == c
        )
        return f"([^{re.escape(alone)}]+)" if alone else r"([\s\S]+)"

    def _word_piece_tokenize(self, word: str) -> list[str]:
        """Split a word into the longest pieces from the left, or return it whole if impossible."""
        if len(word) > self._word_maxlen:
            return [word]
        pieces, start = [], 0
        while start < len(word):
            prefix = "##" if start else ""
            for end in range(len(word), start, -1):
                piece = prefix + word[start:end]
                if piece in self._token_dict:
                    break
            else:
                return [word]
            pieces.append(piece)
            start = end
        return pieces

    # --- Offsets ---

    def _as_decoded(self, tokens: list[str]) -> list[str]:
        """Return tokens after conversion to ids and back."""
        known, unknown = self._token_dict, self._token_unk
        return [token if token in known else unknown for token in self._translated(tokens)]

    def _tokenize_with_spans(self, text: str) -> tuple[list[str], list[list[int]]]:
        """Return the result of `_tokenize`, and the indices of characters for each token."""
        if self._pre_tokenize is None:
            return self._cut_with_spans(text)
        tokens, spans = [], []
        normal = self._normalize(text)
        origins = _repeated(range(len(text)), (len(self._normalize(char)) for char in text))
        offset = 0
        for segment in self._pre_tokenize(normal):
            start = normal.find(segment, offset)
            segment_tokens, segment_spans = self._segment_with_spans(segment)
            tokens.extend(segment_tokens)
            if start < 0:  # The function changed the text: there is no character to map to.
                spans.extend([] for _ in segment_tokens)
                continue
            spans.extend([origins[start + i] for i in span] for span in segment_spans)
            offset = start + len(segment)
        return tokens, spans

    def _segment_with_spans(self, segment: str) -> tuple[list[str], list[list[int]]]:
        if segment not in self._token_dict:
            return self._cut_with_spans(segment)
        if self._is_special(segment):
            return [segment], [[]]
        return [segment], [list(range(len(segment) - len(self.stem(segment)), len(segment)))]

    def _cut_with_spans(self, text: str) -> tuple[list[str], list[list[int]]]:
        own_spans = [[i] for i in range(len(text))]
        tokens, spans, start = [], [], 0
        for i, part in enumerate(self._runs.split(text)):
            end = start + len(part)
            if i % 2:
                cut, offsets = self._run_cuts[part]
                tokens.extend(cut)
                spans.extend([[start + offset for offset in piece] for piece in offsets])
            else:
                tokens.extend(part)
                spans.extend(own_spans[start:end])
            start = end
        return tokens, spans

    def _cut_run_with_offsets(self, run: str) -> tuple[list[str], list[list[int]]]:
        """Return the tokens of a run, and for each the indices into the run.

        The tokens consist of the characters of the run's forms in order, without spaces.
        """
        forms = (self._forms[ord(char)] for char in run)
        origins = _repeated(range(len(run)), (len(form) - form.count(" ") for form in forms))
        tokens, offsets, at = [], [], 0
        for word in self._words(run):
            for i, piece in enumerate(self._pieces[word]):
                end = at + len(piece) - (len("##") if i else 0)
                tokens.append(piece)
                offsets.append(origins[at:end])
                at = end
        return tokens, offsets

    def _search(self, text: str, tokens: Sequence[str]) -> list[list[int]]:
        """Search for the tokens, one after the other, in the normalised text."""
        forms = [self._forms[ord(char)] for char in text]
        kept = [form.replace(" ", "") or form for form in forms]
        origins = _repeated(range(len(text)), map(len, kept))
        normal = "".join(kept)
        spans, offset = [], 0
        for token in tokens:
            if self._is_special(token) or token in self._all_specials():
                spans.append([])
                continue
            stems = [self.stem(t) for t in (token, self._token_translate_inv.get(token)) if t]
            found = [(at, stem) for stem in stems if (at := normal.find(stem, offset)) >= 0]
            if not found:
                raise ValueError(
                    f"rematch: {token!r} is not in the text after its first {offset} normalised "
                    "characters: give the tokens of this text by this tokenizer"
                )
            start, stem = min(found)
            offset = start + len(stem)
            spans.append(origins[start:offset])
        return spans

    # --- Decoding ---

    def decode(self, ids: Iterable[int], tokens: Sequence[str] | None = None) -> str:
        """Return the text of ids, with spaces where a reader expects them.

        Args:
            ids: the ids; those of tokens in brackets are left out.
            tokens: the tokens, instead of ids.

        Raises:
            KeyError: no token has one of the ids.
        """
        text = ""
        for token in self.ids_to_tokens(ids) if tokens is None else tokens:
            if not self._is_special(token):
                text += self._spelled(token, text[-1:])
        text = _SPACES.sub(" ", text)
        text = _CONTRACTION.sub(r"'\1 ", text)
        text = _OPENING.sub(r"\1", text)
        text = _DECIMAL.sub(r"\1\2", text)
        return text.strip()

    def _spelled(self, token: str, before: str) -> str:
        """Return a token with the spaces that it has in a text after the character `before`."""
        if token.startswith("##"):
            return self.stem(token)
        if len(token) == 1 and self._is_cjk_character(token):
            return token
        if len(token) == 1 and self._is_punctuation(token):
            return f"{token} "
        return token if before and self._is_cjk_character(before) else f" {token}"

    # --- Classes of characters and tokens ---

    def _is_token(self, item: str) -> bool:
        return item in self._token_dict or item.startswith("##") or len(self._tokenize(item)) == 1

    @staticmethod
    def _is_special(token: str) -> bool:
        """Tell whether a token is in brackets, like `[CLS]`."""
        return len(token) > 1 and token[0] == "[" and token[-1] == "]"

    stem = staticmethod(stem)
    _is_space = staticmethod(is_space)
    _is_punctuation = staticmethod(is_punctuation)
    _cjk_punctuation = staticmethod(cjk_punctuation)
    _is_cjk_character = staticmethod(is_cjk_character)
    _is_control = staticmethod(is_control)
    _is_redundant = staticmethod(is_redundant)


_SPACES = re.compile(" +")
_CONTRACTION = re.compile("' (re|m|s|t|ve|d|ll) ")
_OPENING = re.compile(f"([{re.escape(cjk_punctuation() + '+-/={(<[')}]) ")
_DECIMAL = re.compile(r"(\d\.) (\d)")


def _repeated(items: Iterable[int], counts: Iterable[int]) -> list[int]:
    """Repeat each item by its count."""
    return list(chain.from_iterable(map(repeat, items, counts)))
