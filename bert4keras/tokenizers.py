"""Tokenizers: texts to tokens and ids, ids to text, tokens to the characters they come from.

* `load_vocab`, `save_vocab` read and write a vocabulary, one token a line.
* `TokenizerBase` adds start and end tokens, truncates and joins any number of texts.
* `Tokenizer` is the WordPiece tokenizer of BERT, with `decode` and `rematch`.
* `SpTokenizer` wraps a SentencePiece model.
* `JsonTokenizer` reads a `tokenizer.json`, `load_tokenizer` the folder of a model, see `text/`.

How `Tokenizer` cuts a text: each character is normalised by itself (lower case, no accents) and
gets a spaced-out form, in which ideographs and punctuation stand between spaces and control
characters are gone. These forms one after the other, split at spaces, are the words, and each word
is cut into the longest pieces that the vocabulary has. The forms and the pieces are kept in tables
that fill as texts need them. Most of a Chinese text are characters whose only token is the
character itself; one regular expression sets them apart from the runs that need the tables.

Nothing here imports Keras, so that processes which only tokenize stay light.
"""

import importlib
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, product, repeat
from numbers import Integral
from pathlib import Path
from types import MappingProxyType
from typing import Any

import unicodedata2 as unicodedata

from bert4keras.snippets import is_string, lowercase_and_normalize, truncate_sequences
from bert4keras.text.chat import chat_text

VOCAB_FILE = "vocab.txt"


# === Vocabulary files ===


def load_vocab(
    dict_path: str | os.PathLike,
    encoding: str = "utf-8",
    simplified: bool = False,
    startswith: Sequence[str] | None = None,
) -> dict[str, int] | tuple[dict[str, int], list[int]]:
    """Read a vocabulary: the token of a line is its first word, its id the number of the line.

    Args:
        dict_path: the file, or a folder with a file `vocab.txt`.
        encoding: of the file.
        simplified: whether to leave out the tokens that no Chinese text needs, see
            `Tokenizer._is_redundant`, and to number the others anew.
        startswith: with `simplified`, the tokens that come first, in this order.

    Returns:
        Token to id; with `simplified` also the old ids in the order of the new ones, which
        `build_transformer_model` takes as `keep_tokens`. A token on several lines has the id of the
        last, as in `tokenization.py` of google-research/bert.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no vocabulary in this encoding, or lacks a token of `startswith`.
    """
    token_dict = _read_vocab(_vocab_path(dict_path), encoding)
    if not simplified:
        return token_dict
    first = list(startswith or [])
    if missing := [token for token in first if token not in token_dict]:
        raise ValueError(f"load_vocab: startswith names {missing}, which {dict_path} does not have")
    by_id = sorted(token_dict, key=token_dict.get)
    kept = dict.fromkeys(chain(first, (t for t in by_id if not Tokenizer._is_redundant(t))))
    return {token: i for i, token in enumerate(kept)}, [token_dict[token] for token in kept]


def _vocab_path(path: str | os.PathLike) -> Path:
    path = Path(path)
    if path.is_dir():
        path = path / VOCAB_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"no vocabulary at {path}: give a text file with one token a line, or a folder that "
            f"holds {VOCAB_FILE}"
        )
    return path


def _read_vocab(path: Path, encoding: str) -> dict[str, int]:
    token_dict = {}
    try:
        with path.open(encoding=encoding) as lines:
            for i, line in enumerate(lines):
                # Some editors put a byte order mark before the first line.
                words = (line.removeprefix("\ufeff") if i == 0 else line).split(maxsplit=1)
                token_dict[words[0] if words else ""] = i
    except UnicodeError as error:
        raise ValueError(
            f"{path} is no vocabulary: its bytes are not {encoding} ({error}); give a text file "
            "with one token a line, or its encoding"
        ) from error
    if not token_dict:
        raise ValueError(f"{path} is no vocabulary: it is empty; give a file with one token a line")
    return token_dict


def save_vocab(
    dict_path: str | os.PathLike, token_dict: Mapping[str, int], encoding: str = "utf-8"
) -> None:
    """Write a vocabulary that `load_vocab` reads, each token on the line that its id counts.

    Lines whose number is nobody's id stay empty, so that all other tokens keep their ids.

    Args:
        dict_path: the file.
        token_dict: token to id, counted from 0.
        encoding: of the file.

    Raises:
        ValueError: two tokens have the same id, or an id is negative.
    """
    text = vocab_text(token_dict)
    with open(dict_path, "w", encoding=encoding, newline="\n") as writer:
        writer.write(text)


def vocab_text(token_dict: Mapping[str, int]) -> str:
    """Return the content of a vocabulary file, see `save_vocab`."""
    tokens = {i: token for token, i in token_dict.items()}
    if len(tokens) < len(token_dict):
        shared = next(token for token, i in token_dict.items() if tokens[i] != token)
        i = token_dict[shared]
        raise ValueError(f"save_vocab: {shared!r} and {tokens[i]!r} have the same id {i}")
    if tokens and min(tokens) < 0:
        raise ValueError(f"save_vocab: the id of {tokens[min(tokens)]!r} is {min(tokens)}, below 0")
    return "".join(f"{tokens.get(i, '')}\n" for i in range(max(tokens, default=-1) + 1))


# === What all tokenizers share ===

_SPECIALS = ("pad", "unk", "mask", "start", "end")
_PATTERNS = ("S*E*E", "S*ES*E")
_OF_BERT = {"[UNK]", "[CLS]", "[SEP]"}


class TokenizerBase:
    """Start and end tokens, truncation, and several texts in one sequence.

    A subclass defines `_tokenize`, `token_to_id`, `id_to_token` and `decode`.

    Args:
        token_start: the token before a text, None for no such token.
        token_end: the token behind a text, None for no such token.
        pre_tokenize: a function from a text to a list of segments which are tokenized one by one,
            such as `jieba.lcut`. `Tokenizer` gives it the normalised text.
        token_translate: tokens that are replaced by others.
    """

    _token_pad: str
    _token_unk: str
    _token_mask: str
    _token_start: str | None
    _token_end: str | None
    # Reading an id of a token that the vocabulary lacks is an AttributeError that says so.
    _token_pad_id: int
    _token_unk_id: int
    _token_mask_id: int
    _token_start_id: int
    _token_end_id: int
    _vocab_size: int
    _segments = (0, 1)
    """The segments of the first text and of the second, in turns."""
    _has_joints = False
    """Whether other tokens stand between texts than before the first and behind the last."""

    # What `load_tokenizer` finds beside the vocabulary.
    settings: Mapping[str, Any] = MappingProxyType({})
    """All of `tokenizer_config.json`."""
    special_tokens: Mapping[str, str] = MappingProxyType({})
    """Special tokens by their names in `tokenizer_config.json`, such as `eos_token`."""
    chat_template: str | Mapping[str, str] | None = None
    """The template of Jinja for chats, or several by name."""
    generation_config: Mapping[str, Any] = MappingProxyType({})
    """What `generation_config.json` says, which `Generator` picks up."""
    n_context: int | None = None
    """How many tokens `decode` must see before others to write these as in the whole; None: all."""
    padding_side = "right"
    """On which side of texts the model wants padding, `left` or `right`."""

    def __init__(
        self,
        token_start: str | None = "[CLS]",
        token_end: str | None = "[SEP]",
        pre_tokenize: Callable[[str], Iterable[str]] | None = None,
        token_translate: Mapping[str, str] | None = None,
    ):
        self._token_pad = "[PAD]"
        self._token_unk = "[UNK]"
        self._token_mask = "[MASK]"
        self._token_start = token_start
        self._token_end = token_end
        self._pre_tokenize = pre_tokenize
        self._token_translate = dict(token_translate or {})
        self._token_translate_inv = {new: old for old, new in self._token_translate.items()}

    def __getattr__(self, name: str) -> Any:
        special = name.removeprefix("_token_").removesuffix("_id")
        if special in _SPECIALS and name == f"_token_{special}_id":
            token = self.__dict__.get(f"_token_{special}")
            raise AttributeError(
                f"there is no {name}: _token_{special} is {token!r}, which is not in the vocabulary"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _name_special(self, special: str, token: str | None) -> None:
        """Set the token `special` (pad, unk, mask, start, end), and its id if it has one."""
        setattr(self, f"_token_{special}", token)
        if token is not None and token in self:
            setattr(self, f"_token_{special}_id", self.token_to_id(token))

    def __contains__(self, token: str) -> bool:
        """Tell whether the vocabulary has a token."""
        return self.id_to_token(self.token_to_id(token)) == token

    def tokenize(self, text: str, maxlen: int | None = None) -> list[str]:
        """Cut a text into tokens, with the start and the end token around them.

        Args:
            text: the text.
            maxlen: the largest number of tokens; the last ones of the text are left out.

        Returns:
            The tokens. A word that the vocabulary lacks stays in its own characters.

        Raises:
            IndexError: `maxlen` is too small for the start and end token.
        """
        if not is_string(text):
            raise TypeError(f"a text is a str, not {type(text).__name__}; decode bytes first")
        before, behind = self._around()
        tokens = [*before, *self._translated(self._tokenize(text)), *behind]
        if maxlen is not None:
            self._truncate([tokens], maxlen, "right")
        return tokens

    def _around(self) -> tuple[list[str], list[str]]:
        """Return the tokens before and behind a text."""
        edges = (self._token_start, self._token_end)
        return tuple([] if token is None else [token] for token in edges)

    def _translated(self, tokens: Iterable[str]) -> list[str]:
        if not self._token_translate:
            return list(tokens)
        return [self._token_translate.get(token) or token for token in tokens]

    def token_to_id(self, token: str) -> int:
        """Return the id of a token, that of the unknown token if the vocabulary lacks it."""
        raise NotImplementedError

    def tokens_to_ids(self, tokens: Iterable[str]) -> list[int]:
        """Return the ids of tokens, see `token_to_id`."""
        return [self.token_to_id(token) for token in tokens]

    def encode(
        self,
        first_text: str | Sequence,
        second_text: str | Sequence | None = None,
        *more: Any,
        maxlen: int | None = None,
        pattern: str = "S*E*E",
        truncate_from: str | int = "right",
    ) -> tuple[list[int], list[int]]:
        """Encode one or several texts as one sequence.

        `encode(a)`, `encode(a, b)`, `encode(a, b, c)` and `encode([a, b, c])` join one, two and
        three texts; there may be any number. In place of a text there may be its tokens, as
        `tokenize` gives them, with the start and end tokens that are wanted. As a list of strings
        can be either, it is read as tokens if it holds the start or end token or a piece `##…`, or
        if every string in it is a single token; it is read as texts otherwise. Texts given as
        separate arguments are always texts.

        Args:
            first_text: a text, or its tokens, or a list of several of these.
            second_text: the second one.
            *more: further ones. After the last text, `maxlen`, `pattern` and `truncate_from` can
                also be given by position.
            maxlen: the largest number of ids. Tokens are taken from the text that is longest at
                the time; token lists that were passed in become shorter themselves. For two texts
                without a start token and with the pattern `S*E*E` one id more is allowed: the
                start token that the second text would drop is counted all the same, which is how
                bert4keras has always counted. If not even the start and end tokens fit, some of
                them are cut off as well, with a warning.
            pattern: `S*E*E` drops the start token (the first token, of a token list) of all texts
                but the first, `S*ES*E` keeps it.
            truncate_from: where a text is truncated: `right`, `left` (inside of the end and the
                start token), or the index at which one token after the other is taken out.

        Returns:
            Ids and segment ids. The first text has segment 0, the second 1, the third 0 and so on
            in turns (as in BERTSum, Liu & Lapata 2019), because BERT knows two segments.

        Raises:
            IndexError: `maxlen` is too small for the start and end tokens.
            TypeError: something is neither text nor tokens.
            ValueError: an unknown `pattern` or `truncate_from`.
        """
        texts, options = _texts_and_options(more)
        defaults = (maxlen, pattern, truncate_from)
        maxlen, pattern, truncate_from = *options, *defaults[len(options) :]
        if pattern not in _PATTERNS:
            raise ValueError(f"encode: pattern is {pattern!r}, give one of {_PATTERNS}")
        given = [first_text, *texts] if second_text is None else [first_text, second_text, *texts]
        sequences = list(self._sequences(given))
        linked = pattern == "S*E*E"
        if maxlen is not None:
            spare = self._n_linked_away(sequences) if linked else 0
            self._truncate(sequences, maxlen, truncate_from, spare)
        if linked:
            sequences = self._linked(sequences)
        token_ids = [self.tokens_to_ids(tokens) for tokens in sequences]
        segment_ids = ([self._segments[i % 2]] * len(ids) for i, ids in enumerate(token_ids))
        return list(chain.from_iterable(token_ids)), list(chain.from_iterable(segment_ids))

    def _linked(self, sequences: list[list[str]]) -> list[list[str]]:
        """Return sequences without what comes only once when they are joined by `S*E*E`."""
        if not self._token_start:
            return sequences
        return [*sequences[:1], *(tokens[1:] for tokens in sequences[1:])]

    def _n_linked_away(self, sequences: list[list[str]]) -> int:
        """Return how many tokens `_linked` takes out, as `maxlen` counts them."""
        counted = self._token_start is not None or len(sequences) == 2
        return max(len(sequences) - 1, 0) if counted else 0

    def _sequences(self, given: Iterable) -> Iterator[list[str]]:
        """Yield the tokens of each text, token list, and member of a list of these."""
        for item in given:
            if is_string(item):
                yield self.tokenize(item)
            elif not isinstance(item, list | tuple):
                raise TypeError(
                    f"encode: {item!r} is {type(item).__name__}, give a text (str), its tokens "
                    "(a list of str), or a list of these"
                )
            elif self._is_token_list(item):
                # The list itself, not a copy: truncation is visible to its owner. A tuple has none.
                yield item if isinstance(item, list) else list(item)
            else:
                yield from self._sequences(item)

    def _is_token_list(self, items: Sequence) -> bool:
        if not all(map(is_string, items)):
            return False
        edges = set(chain((self._token_start, self._token_end), *self._around()))
        return any(item in edges for item in items) or all(map(self._is_token, items))

    def _is_token(self, item: str) -> bool:
        """Tell whether a string is a token by itself rather than a text of several."""
        return item in self._tokenize(item)

    def _truncate(
        self, sequences: list[list[str]], maxlen: int, truncate_from: str | int, spare: int = 0
    ) -> None:
        """Shorten sequences in place to `maxlen + spare` tokens together."""
        before, behind = self._around()
        edges = {"right": -1 - len(behind), "left": len(before)}
        index = truncate_from if isinstance(truncate_from, Integral) else edges.get(truncate_from)
        if index is None:
            raise ValueError(
                f"truncate_from is {truncate_from!r}, give 'right', 'left' or an index"
            )
        whole = self._with_edges(sequences)
        try:
            truncate_sequences(maxlen + spare, index, *sequences)
        except IndexError as error:
            raise IndexError(
                f"maxlen={maxlen} is too small to truncate {len(sequences)} text(s) from "
                f"{truncate_from!r} without losing start or end tokens; give a larger maxlen"
            ) from error
        if truncate_from in edges and self._with_edges(sequences) != whole:
            message = (
                f"maxlen={maxlen} leaves no room for the start and end tokens of {len(sequences)} "
                "text(s), of which some are cut off: give a larger maxlen"
            )
            if self._has_joints and len(sequences) > 1:
                raise IndexError(message)
            warnings.warn(message, stacklevel=3)

    def _with_edges(self, sequences: Iterable[list[str]]) -> list[tuple[bool, bool]]:
        """Tell for each sequence whether the tokens before and behind a text stand there."""
        before, behind = self._around()
        return [
            (s[: len(before)] == before, s[max(len(s) - len(behind), 0) :] == behind)
            for s in sequences
        ]

    def id_to_token(self, i: int) -> str:
        """Return the token of an id."""
        raise NotImplementedError

    def ids_to_tokens(self, ids: Iterable[int]) -> list[str]:
        """Return the tokens of ids."""
        return [self.id_to_token(i) for i in ids]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids."""
        raise NotImplementedError

    def _tokenize(self, text: str) -> list[str]:
        """Cut a text into tokens, without the start and the end token."""
        raise NotImplementedError

    # --- Offsets ---

    def rematch(self, text: str, tokens: Sequence[str]) -> list[list[int]]:
        """Map each token to the characters of the text that it comes from.

        Args:
            text: the text that was tokenized.
            tokens: what `tokenize` gave for it, also truncated, with or without start and end
                tokens, padded, or as `ids_to_tokens` returns it from the ids. With other tokens
                (some masked, say) the first occurrence of each behind the last one counts.

        Returns:
            The indices into `text` for each token, in order; none for special tokens. A character
            that is several after normalisation (a Hangul syllable, say) appears once for each, one
            that several tokens make up by its bytes in all of them, and characters that a word does
            not contain (spaces around it, zero-width and control characters) in none.

        Raises:
            ValueError: a token is not in the text, nor a special one.
        """
        cut, spans = self._tokenize_with_spans(text)
        forms = self._translated(cut), self._as_decoded(cut)
        for start, end in self._contents(tokens):
            content = list(tokens[start:end])
            kept = _kept(content, forms[0]) or _kept(content, forms[1])
            if kept is not None:
                spans[slice(*kept)] = []
                return [*([] for _ in range(start)), *spans, *([] for _ in tokens[end:])]
        return self._search(text, tokens)

    def _contents(self, tokens: Sequence[str]) -> list[tuple[int, int]]:
        """Return where the tokens of a text may lie between those around it and padding.

        As a text may hold the padding token, it is taken for padding only where it must be.
        """
        before, behind = self._around()
        n_left = n_right = 0
        while n_right < len(tokens) and tokens[-1 - n_right] == self._token_pad:
            n_right += 1
        while n_left + n_right < len(tokens) and tokens[n_left] == self._token_pad:
            n_left += 1
        found = []
        for start, end in product({0, n_left}, {len(tokens), len(tokens) - n_right}):
            if list(tokens[start : min(start + len(before), end)]) == before:
                start += len(before)
            if list(tokens[max(end - len(behind), start) : end]) == behind:
                end -= len(behind)
            found.append((start, end))
        return sorted(found, key=lambda place: place[0] - place[1])

    def _as_decoded(self, tokens: list[str]) -> list[str]:
        """Return what tokens are after a way through ids."""
        return self.ids_to_tokens(self.tokens_to_ids(self._translated(tokens)))

    def _tokenize_with_spans(self, text: str) -> tuple[list[str], list[list[int]]]:
        """Return what `_tokenize` does, and the indices of characters for each token."""
        raise NotImplementedError

    def _search(self, text: str, tokens: Sequence[str]) -> list[list[int]]:
        """Look for one token after the other among those of the text."""
        cut, cut_spans = self._tokenize_with_spans(text)
        names = list(zip(cut, self._translated(cut), self._as_decoded(cut), strict=True))
        spans, at = [], 0
        for token in tokens:
            found = next((i for i in range(at, len(cut)) if token in names[i]), None)
            if found is None and token not in self._all_specials():
                raise ValueError(
                    f"rematch: {token!r} is not in the text behind its first {at} tokens; give the "
                    "tokens that this tokenizer made of this text"
                )
            spans.append([] if found is None else cut_spans[found])
            at = at if found is None else found + 1
        return spans

    def _all_specials(self) -> set[str | None]:
        return {getattr(self, f"_token_{special}") for special in _SPECIALS}

    # --- Writing ---

    def settled(self, ids: Sequence[int], text: str) -> int:
        """Return how much of a text stays as it is, whatever tokens follow.

        Args:
            ids: the tokens so far.
            text: what `decode` gives for them.

        Returns:
            A number of characters.
        """
        return settled_words(text)

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = True,
        **variables: Any,
    ) -> list[int] | str:
        """Encode a chat as the model was trained on it.

        The template runs in a sandbox, with bounds for time and memory, see `text/sandbox.py`.

        Args:
            messages: the messages, each a dict with `role` and `content`.
            tools: what the model may call, each as JSON schema.
            documents: what it may look up, dicts with `title` and `text`.
            chat_template: a template, or the name of one of several; by default that of the
                tokenizer, of several the one for tools if there are tools.
            add_generation_prompt: whether an answer of the assistant begins at the end.
            continue_final_message: whether the last message stays open, to be gone on from.
            tokenize: whether to return ids; otherwise the text.
            **variables: further variables of the template, such as `enable_thinking`.

        Returns:
            The ids, with no tokens around them but those that the template has; or the text.

        Raises:
            ImportError: Jinja is not installed.
            TokenizerError: the template refuses the messages, or does what it may not do.
            TypeError, ValueError: the messages are no chat, or there is no template.
        """
        if wrong := _OF_TRANSFORMERS & variables.keys():
            raise TypeError(
                f"apply_chat_template has no argument {min(wrong)!r}: it returns a list of ids, or "
                "with tokenize=False the text"
            )
        text = chat_text(
            self.chat_template,
            messages,
            name=chat_template,
            tools=tools,
            documents=documents,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            variables={**self.special_tokens, **variables},
        )
        return self.tokens_to_ids(self._tokenize(text)) if tokenize else text


_OF_TRANSFORMERS = {"padding", "truncation", "max_length", "return_tensors", "return_dict"}
_MAYBE_CONTRACTED = re.compile(r"' [a-z]{1,2}$")


def settled_words(text: str) -> int:
    """Return how much of a text stays if more words and punctuation follow.

    What follows may change spaces and punctuation at the end (`it ' s` becomes `it's`), and a
    character that several tokens make up by bytes is none before the last of them. So a text is
    settled up to its last letter, digit or ideograph, but for one of a contraction.
    """
    end = len(_MAYBE_CONTRACTED.sub("", text))
    while end and not text[end - 1].isalnum():
        end -= 1
    return end


def _texts_and_options(more: tuple) -> tuple[tuple, tuple]:
    """Split what follows two texts: further texts, then `maxlen` and the other options.

    `maxlen` was the third positional argument before there could be a third text.
    """
    number = next(
        (i for i, item in enumerate(more) if item is None or isinstance(item, Integral)), len(more)
    )
    texts, options = more[:number], more[number:]
    if len(options) > 3:
        raise TypeError(
            f"encode: {options} behind the texts, at most maxlen, pattern, truncate_from"
        )
    return texts, options


# === WordPiece ===

_CJK_BLOCKS = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)
# Full-width forms, CJK symbols, and the general punctuation that Chinese texts use.
_CJK_PUNCTUATION_RANGES = (
    (0xFF01, 0xFF0D),
    (0xFF0F, 0xFF0F),
    (0xFF1A, 0xFF20),
    (0xFF3B, 0xFF40),
    (0xFF5B, 0xFF64),
    (0x3000, 0x3003),
    (0x3008, 0x3011),
    (0x3014, 0x301F),
    (0x3030, 0x3030),
    (0x303E, 0x303F),
    (0x2013, 0x2014),
    (0x2018, 0x2019),
    (0x201B, 0x201F),
    (0x2026, 0x2027),
    (0xFE4F, 0xFE4F),
    (0xFE51, 0xFE51),
    (0xFE54, 0xFE54),
    (0x00B7, 0x00B7),
)
_ASCII_PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")

_KEPT = 20_000
_KEPT_LENGTH = 20


class _Table(dict):
    """A dict that computes what it lacks, and keeps up to `_KEPT` values of short keys."""

    def __init__(self, compute: Callable):
        super().__init__()
        self._compute = compute

    def __missing__(self, key):
        value = self._compute(key)
        if isinstance(key, int) or len(key) <= _KEPT_LENGTH:
            if len(self) >= _KEPT:
                self.clear()
            self[key] = value
        return value


class Tokenizer(TokenizerBase):
    """The tokenizer of BERT: words cut into the longest pieces of a vocabulary (WordPiece).

    It gives the tokens of `tokenization.py` of google-research/bert, except that a word which the
    vocabulary lacks stays as it is (its id is that of `[UNK]`) and that lower-casing looks at one
    character at a time (the Greek final sigma becomes an ordinary one). The pieces of words are
    kept, so the vocabulary must not be changed in place.

    A vocabulary of other things than texts, such as the moves of a game, may lack `[UNK]`, `[CLS]`
    and `[SEP]`; what needs the id of one of them raises then.

    Args:
        token_dict: token to id, or the path that `load_vocab` takes.
        do_lower_case: whether to lower-case and to strip accents.
        word_maxlen: a longer word is not cut but unknown; in characters.
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
        # Any other name for the start or end token is the caller's own, and may be unknown.
        standard = {self._token_unk, self._token_start, self._token_end} & _OF_BERT
        self._missing = sorted(standard - set(token_dict))
        for special in _SPECIALS:
            token = getattr(self, f"_token_{special}")
            if token in token_dict:
                setattr(self, f"_token_{special}_id", token_dict[token])

        # Code point to its spaced-out form, word to its pieces, run to its tokens with offsets.
        self._forms = _Table(self._spaced_out)
        self._pieces = _Table(self._word_piece_tokenize)
        self._run_cuts = _Table(self._cut_run_with_offsets)
        self._runs = re.compile(self._run_pattern())

    @property
    def token_dict(self) -> Mapping[str, int]:
        """Token to id."""
        return self._token_dict

    def __contains__(self, token: str) -> bool:
        return token in self._token_dict

    def token_to_id(self, token: str) -> int:
        """Return the id of a token, that of `[UNK]` if the vocabulary lacks it.

        Raises:
            ValueError: the vocabulary lacks `[UNK]` as well, or the token is `[CLS]` or `[SEP]`.
        """
        if token in self._token_dict:
            return self._token_dict[token]
        # Where [UNK] is missing, scripts choose an id for all that is unknown, [CLS] included.
        unknown_id = vars(self).get("_token_unk_id")
        if unknown_id is None or (token in self._missing and self._token_unk not in self._missing):
            raise ValueError(
                f"{token!r} has no id: {self._source} of {len(self._token_dict)} tokens lacks "
                f"{', '.join(self._missing)}: is it a vocabulary of BERT? Give its vocab.txt, or "
                "other token_start and token_end, or set _token_unk_id"
            )
        return unknown_id

    def tokens_to_ids(self, tokens: Iterable[str]) -> list[int]:
        """Return the ids of tokens, see `token_to_id`."""
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
                f"no token has the id {i}, the vocabulary counts from 0 to {self._vocab_size - 1}"
            ) from None

    # --- Cutting ---

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
        """Return the form in which a character goes into words, with spaces where these end."""
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
        itself, known or not. The expression need not know all of them; those in the vocabulary and
        the usual punctuation are those that matter.
        """
        candidates = chain(self._token_dict, _ASCII_PUNCTUATION, self._cjk_punctuation())
        alone = "".join(
            c
            for c in dict.fromkeys(candidates)
            if len(c) == 1 and self._stands_alone(c) and self._normalize(c) == c
        )
        return f"([^{re.escape(alone)}]+)" if alone else r"([\s\S]+)"

    def _word_piece_tokenize(self, word: str) -> list[str]:
        """Cut a word into the longest pieces from the left; one that cannot be cut stays whole."""
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
        """Return what tokens are after a way through ids."""
        known, unknown = self._token_dict, self._token_unk
        return [token if token in known else unknown for token in self._translated(tokens)]

    def _tokenize_with_spans(self, text: str) -> tuple[list[str], list[list[int]]]:
        """Return what `_tokenize` does, and the indices of characters for each token."""
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
            if start < 0:  # The function changed the text: no character to point at.
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

        The tokens hold the characters of the run's forms in order, all of them but spaces.
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
        """Look for one token after the other in the normalised text."""
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
                    f"rematch: {token!r} is not in the text behind its first {offset} normalised "
                    "characters; give the tokens that this tokenizer made of this text"
                )
            start, stem = min(found)
            offset = start + len(stem)
            spans.append(origins[start:offset])
        return spans

    # --- Text again ---

    def decode(self, ids: Iterable[int], tokens: Sequence[str] | None = None) -> str:
        """Return the text of ids, with spaces where a reader expects them.

        Args:
            ids: the ids; those of tokens in brackets are left out.
            tokens: the tokens, in place of ids.

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
        """Return a token with the spaces it has in a text behind the character `before`."""
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
    def stem(token: str) -> str:
        """Return a token without the mark `##` of a piece inside a word."""
        return token.removeprefix("##")

    @staticmethod
    def _is_space(ch: str) -> bool:
        return ch in " \n\r\t" or unicodedata.category(ch) == "Zs"

    @staticmethod
    def _is_punctuation(ch: str) -> bool:
        return ch in _ASCII_PUNCTUATION or unicodedata.category(ch).startswith("P")

    @staticmethod
    def _cjk_punctuation() -> str:
        return "".join(
            chr(code) for first, last in _CJK_PUNCTUATION_RANGES for code in range(first, last + 1)
        )

    @staticmethod
    def _is_cjk_character(ch: str) -> bool:
        return any(first <= ord(ch) <= last for first, last in _CJK_BLOCKS)

    @staticmethod
    def _is_control(ch: str) -> bool:
        return unicodedata.category(ch) in ("Cc", "Cf")

    @staticmethod
    def _is_special(token: str) -> bool:
        """Tell whether a token stands in brackets, as `[CLS]` does."""
        return len(token) > 1 and token[0] == "[" and token[-1] == "]"

    @staticmethod
    def _is_redundant(token: str) -> bool:
        """Tell whether a token has several characters with an ideograph or punctuation among them.

        No text gives such a token, because these characters are words by themselves.
        """
        return len(token) > 1 and any(
            Tokenizer._is_cjk_character(ch) or Tokenizer._is_punctuation(ch)
            for ch in Tokenizer.stem(token)
        )


_SPACES = re.compile(" +")
_CONTRACTION = re.compile("' (re|m|s|t|ve|d|ll) ")
_OPENING = re.compile(f"([{re.escape(Tokenizer._cjk_punctuation() + '+-/={(<[')}]) ")
_DECIMAL = re.compile(r"(\d\.) (\d)")


def _repeated(items: Iterable[int], counts: Iterable[int]) -> list[int]:
    """Repeat each item as often as its count says."""
    return list(chain.from_iterable(map(repeat, items, counts)))


def _kept(part: list[str], whole: list[str]) -> tuple[int, int] | None:
    """Return which stretch of `whole` was taken out to leave `part`, None if there is none.

    Truncation takes out one stretch, wherever it happens.
    """
    if part == whole:
        return 0, 0
    taken = len(whole) - len(part)
    start = next(
        (i for i, (a, b) in enumerate(zip(part, whole, strict=False)) if a != b), len(part)
    )
    return (start, start + taken) if taken > 0 and part[start:] == whole[start + taken :] else None


# === SentencePiece ===


class SpTokenizer(TokenizerBase):
    """A SentencePiece model as tokenizer.

    The names of padding and unknown token come from the model. Tokens that it lacks, and so start
    and end tokens with wrong names, have the id of the unknown token.

    Args:
        sp_model_path: the file of the model.
        **kwargs: see `TokenizerBase`; T5 takes `token_start=None, token_end='</s>'`.

    Raises:
        ImportError: the package `sentencepiece` is not installed.
        FileNotFoundError: there is no such file.
        ValueError: the file is no SentencePiece model.
    """

    def __init__(self, sp_model_path: str | os.PathLike, **kwargs: Any):
        super().__init__(**kwargs)
        self.file_name = Path(sp_model_path).name
        self._sp_model = _load_sentencepiece(Path(sp_model_path))
        self._vanishes = _Table(self._is_dropped)
        own = self.own_specials()
        self._token_pad, self._token_unk = own.get("pad_token"), own["unk_token"]
        self._added: dict[str, int] = {}
        self.add_tokens({})
        for special in _SPECIALS:
            token = getattr(self, f"_token_{special}")
            if token is not None:
                setattr(self, f"_token_{special}_id", self.token_to_id(token))

    def own_specials(self) -> dict[str, str]:
        """Return the special tokens that the model has, by their names in Hugging Face."""
        model = self._sp_model
        ids = {
            "bos_token": model.bos_id(),
            "eos_token": model.eos_id(),
            "pad_token": model.pad_id(),  # below 0 if the model has none, as LLaMA's
            "unk_token": model.unk_id(),
        }
        return {name: model.id_to_piece(i) for name, i in ids.items() if i >= 0}

    def add_tokens(self, tokens: Mapping[str, int]) -> None:
        """Add tokens beyond the pieces of the model, which are then found in texts as they are.

        Args:
            tokens: token to id, such as the `<extra_id_0>` of T5.
        """
        pieces = self._n_pieces()
        self._added |= {t: i for t, i in tokens.items() if i >= pieces and t}
        self._added_inv = {i: token for token, i in self._added.items()}
        self._vocab_size = max(pieces, *(i + 1 for i in self._added_inv)) if self._added else pieces
        longest_first = sorted(self._added, key=len, reverse=True)
        self._parts = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")

    def _n_pieces(self) -> int:
        """Return how many ids the pieces of the model take."""
        return self._sp_model.get_piece_size()

    def _piece_id(self, i: int) -> int:
        """Return the id in the model of one of our ids."""
        return int(i)

    def __contains__(self, token: str) -> bool:
        return token in self._added or super().__contains__(token)

    def token_to_id(self, token: str) -> int:
        """Return the id of a token, that of the unknown token if the model lacks it."""
        i = self._added.get(token)
        return self._sp_model.piece_to_id(token) if i is None else i

    def id_to_token(self, i: int) -> str:
        """Return the token of an id, an empty one for ids beyond the model."""
        if i >= self._n_pieces():
            return self._added_inv.get(int(i), "")
        return self._sp_model.id_to_piece(self._piece_id(i))

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids, without the tokens that were added to the model."""
        back = self._token_translate_inv
        tokens = (t for t in self.ids_to_tokens(ids) if t not in self._added)
        return self._sp_model.decode_pieces([back.get(t) or t for t in tokens])

    def serialized(self) -> bytes:
        """Return the file of the model."""
        return self._sp_model.serialized_model_proto()

    def _tokenize(self, text: str) -> list[str]:
        if self._pre_tokenize is not None:
            text = " ".join(self._pre_tokenize(text))
        parts = self._parts.split(well_formed(text))
        if len(parts) == 1:
            return self._sp_model.encode_as_pieces(parts[0])
        cut = ([p] if i % 2 else self._sp_model.encode_as_pieces(p) for i, p in enumerate(parts))
        return list(chain.from_iterable(cut))

    def _tokenize_with_spans(self, text: str) -> tuple[list[str], list[list[int]]]:
        if self._pre_tokenize is None:
            return self._cut_with_spans(text)
        segments = list(self._pre_tokenize(text))
        tokens, spans = self._cut_with_spans(" ".join(segments))
        origins = _origins(text, segments)
        return tokens, [[origins[i] for i in span if origins[i] is not None] for span in spans]

    def _cut_with_spans(self, text: str) -> tuple[list[str], list[list[int]]]:
        tokens, spans, start = [], [], 0
        for i, part in enumerate(self._parts.split(well_formed(text))):
            cut, offsets = ([part], [range(len(part))]) if i % 2 else self._cut_part(part)
            tokens += cut
            spans += [[start + offset for offset in span] for span in offsets]
            start += len(part)
        return tokens, spans

    def _cut_part(self, text: str) -> tuple[list[str], list[list[int]]]:
        """Follow the pieces along the normalised text, of which each character has its origin."""
        pieces = self._sp_model.encode_as_pieces(text)
        normal, starts = self._sp_model.normalize(text, with_offsets=True)
        ends = _next_larger(starts)
        if normal.startswith(SPACE):
            ends[0] = starts[1]  # where the text has none, it comes from nothing
        spans, at, n_bytes = [], 0, 0
        for piece in pieces:
            n_chars = len(piece)
            if self._sp_model.is_byte(self._sp_model.piece_to_id(piece)):
                n_bytes = n_bytes or len(normal[at].encode("utf-8"))
                n_chars, n_bytes = 1, n_bytes - 1
            origins = (i for j in range(at, at + n_chars) for i in range(starts[j], ends[j]))
            span = [i for i in dict.fromkeys(origins) if not self._vanishes[text[i]]]
            spans.append(without_space(text, piece, span, SPACE))
            at += n_chars if n_bytes == 0 else 0
        return pieces, spans

    def _is_dropped(self, char: str) -> bool:
        """Tell whether normalisation takes a character out of every text."""
        return not char.isspace() and char != SPACE and not self._sp_model.normalize(char)

    def _is_token(self, item: str) -> bool:
        return self.token_to_id(item) != self._token_unk_id or super()._is_token(item)

    def _is_special(self, i: int) -> bool:
        """Tell whether an id is that of a control, unknown or unused token."""
        if i >= self._n_pieces():
            return True
        model, i = self._sp_model, self._piece_id(i)
        return model.is_control(i) or model.is_unknown(i) or model.is_unused(i)

    def _is_decodable(self, i: int) -> bool:
        """Tell whether an id stands for text."""
        return i < self._vocab_size and not self._is_special(i)


SPACE = "▁"
"""What stands for a space in the pieces of SentencePiece."""
_SURROGATE = re.compile("[\ud800-\udfff]")


def well_formed(text: str) -> str:
    """Return a text with U+FFFD for halves of surrogate pairs, which have no UTF-8."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def without_space(text: str, token: str, span: list[int], mark: str) -> list[int]:
    """Return the characters of a token without the space around it, unless it is nothing else.

    Args:
        text: the text.
        token: the token.
        span: the indices of the characters that it covers, in order.
        mark: what stands for a space in tokens. One in front of a text may stand for none.
    """
    spaces = [text[i].isspace() or text[i] == mark == SPACE for i in span]
    if not token.strip(mark):
        return [i for i, space in zip(span, spaces, strict=True) if space]
    if all(spaces):
        return span
    return span[spaces.index(False) : len(span) - spaces[::-1].index(False)]


def _next_larger(numbers: Sequence[int]) -> list[int]:
    """Return for each of some numbers that never fall the next one that is larger, or itself."""
    larger = list(numbers)
    for i in reversed(range(len(numbers) - 1)):
        larger[i] = numbers[i + 1] if numbers[i + 1] > numbers[i] else larger[i + 1]
    return larger


def _origins(text: str, segments: Iterable[str]) -> list[int | None]:
    """Return where in a text the characters of its segments, joined by spaces, come from."""
    origins: list[int | None] = []
    at = 0
    for segment in segments:
        start = text.find(segment, at)
        found = start >= 0  # otherwise the function changed the text: no character to point at
        origins += [start + i if found else None for i in range(len(segment))]
        origins.append(None)
        at = start + len(segment) if found else at
    return origins[:-1]


def _load_sentencepiece(path: Path) -> Any:
    try:
        import sentencepiece
    except ImportError as error:
        raise ImportError("SpTokenizer needs sentencepiece: pip install sentencepiece") from error
    if not path.is_file():
        raise FileNotFoundError(f"no SentencePiece model at {path}: give the file of a model")
    model = sentencepiece.SentencePieceProcessor()
    try:
        model.LoadFromSerializedProto(path.read_bytes())
    except RuntimeError as error:
        raise ValueError(f"{path} is no SentencePiece model: {error}") from error
    return model


# === tokenizer.json and folders ===

_ELSEWHERE = {"JsonTokenizer": "json", "load_tokenizer": "pretrained", "TokenizerError": "files"}


def __getattr__(name: str) -> Any:
    """Import from `text/` what builds on this module."""
    if name in _ELSEWHERE:
        return getattr(importlib.import_module(f"bert4keras.text.{_ELSEWHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
