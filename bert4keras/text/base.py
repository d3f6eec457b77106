"""Base of all tokenizers: several texts in one sequence, offsets, chats."""

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice, product
from numbers import Integral
from types import MappingProxyType
from typing import Any

from bert4keras.parallel import parallel_apply
from bert4keras.text.chat import chat_text
from bert4keras.text.strings import is_string, truncate_sequences

SPECIALS = ("pad", "unk", "mask", "start", "end")
_PATTERNS = ("S*E*E", "S*ES*E")
_TEXTS_AT_ONCE = 500
"""How many texts a process is sent at once."""


class TokenizerBase:
    """Base of all tokenizers: start and end tokens, truncation, several texts in one sequence.

    A subclass defines `_tokenize`, `token_to_id`, `id_to_token` and `decode`.

    Args:
        token_start: the token before a text, None for no such token.
        token_end: the token after a text, None for no such token.
        pre_tokenize: a function from a text to a list of segments, which are tokenized one by one,
            such as `jieba.lcut`. `Tokenizer` passes the normalised text to it.
        token_translate: maps tokens to others that replace them.
    """

    _token_pad: str
    _token_unk: str
    _token_mask: str
    _token_start: str | None
    _token_end: str | None
    # Reading the id of a special token that is not in the vocabulary raises an AttributeError.
    _token_pad_id: int
    _token_unk_id: int
    _token_mask_id: int
    _token_start_id: int
    _token_end_id: int
    _vocab_size: int
    _segments = (0, 1)
    """The segment ids of the first and the second text, used in turn."""
    _has_joints = False
    """Whether the tokens between texts differ from those before the first and after the last."""

    # What `load_tokenizer` reads from files other than the vocabulary.
    settings: Mapping[str, Any] = MappingProxyType({})
    """The content of `tokenizer_config.json`."""
    special_tokens: Mapping[str, str] = MappingProxyType({})
    """Special tokens by name in `tokenizer_config.json`, such as `eos_token`."""
    chat_template: str | Mapping[str, str] | None = None
    """The Jinja template of chats, or several by name."""
    generation_config: Mapping[str, Any] = MappingProxyType({})
    """The content of `generation_config.json`, which `Generator` uses."""
    n_context: int | None = None
    """Number of preceding tokens that `decode` needs to decode others correctly; None for all."""
    padding_side = "right"
    """The side on which the model expects padding, `left` or `right`."""

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
        if special in SPECIALS and name == f"_token_{special}_id":
            token = self.__dict__.get(f"_token_{special}")
            raise AttributeError(
                f"there is no {name}: _token_{special} is {token!r}, which is not in the vocabulary"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _name_special(self, special: str, token: str | None) -> None:
        """Set a special token (pad, unk, mask, start, end), and its id if it has one."""
        setattr(self, f"_token_{special}", token)
        if token is not None and token in self:
            setattr(self, f"_token_{special}_id", self.token_to_id(token))

    def __contains__(self, token: str) -> bool:
        """Tell whether the vocabulary has a token."""
        return self.id_to_token(self.token_to_id(token)) == token

    def tokenize(self, text: str, maxlen: int | None = None) -> list[str]:
        """Tokenize a text, with the start and the end token.

        Args:
            text: the text.
            maxlen: the maximal number of tokens, to which the text is truncated on the right.

        Returns:
            The tokens. A word that is not in the vocabulary is a token in its own characters.

        Raises:
            IndexError: `maxlen` is too small for the start and end token.
        """
        if not is_string(text):
            raise TypeError(f"a text must be a str, not {type(text).__name__}: decode bytes first")
        prefix, suffix = self._prefix_and_suffix()
        tokens = [*prefix, *self._translated(self._tokenize(text)), *suffix]
        if maxlen is not None:
            self._truncate([tokens], maxlen, "right")
        return tokens

    def _prefix_and_suffix(self) -> tuple[list[str], list[str]]:
        """Return the special tokens before and after a text."""
        edges = (self._token_start, self._token_end)
        return tuple([] if token is None else [token] for token in edges)

    def _translated(self, tokens: Iterable[str]) -> list[str]:
        if not self._token_translate:
            return list(tokens)
        return [self._token_translate.get(token) or token for token in tokens]

    def token_to_id(self, token: str) -> int:
        """Return the id of a token, or of the unknown token if it is not in the vocabulary."""
        raise NotImplementedError

    def tokens_to_ids(self, tokens: Iterable[str]) -> list[int]:
        """Return the ids of tokens, like `token_to_id`."""
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
        three texts; there may be any number. Instead of a text its tokens may be given, as returned
        by `tokenize`, with the desired start and end tokens. A list of strings could be either: it
        is taken for tokens if it contains the start or end token or a piece `##…`, or if every
        string in it is a single token, and for texts otherwise. Strings given as separate arguments
        are always texts.

        Args:
            first_text: a text, or its tokens, or a list of several of these.
            second_text: the second text.
            *more: further texts. After the last text, `maxlen`, `pattern` and `truncate_from` can
                also be given by position.
            maxlen: the maximal number of ids. Tokens are removed one by one from the longest text;
                token lists that are passed in are shortened in place. For two texts without a start
                token and with the pattern `S*E*E`, one more id is allowed: the start token that the
                second text would drop is counted although it does not exist, as bert4keras has
                always done. If not even the start and end tokens fit, some of them are removed as
                well, with a warning.
            pattern: `S*E*E` drops the start token (of a token list, the first token) of all texts
                but the first, `S*ES*E` keeps it.
            truncate_from: where a text is truncated: `right` or `left` (before the end or after the
                start token), or the index at which tokens are removed one by one.

        Returns:
            Ids and segment ids. The first text has segment 0, the second 1, the third 0 and so on,
            alternating as in BERTSum (Liu & Lapata 2019), because BERT has two segments.

        Raises:
            IndexError: `maxlen` is too small for the start and end tokens.
            TypeError: an argument is neither a text nor tokens.
            ValueError: unknown `pattern` or `truncate_from`.
        """
        texts, options = _texts_and_options(more)
        defaults = (maxlen, pattern, truncate_from)
        maxlen, pattern, truncate_from = *options, *defaults[len(options) :]
        if pattern not in _PATTERNS:
            raise ValueError(f"encode: pattern is {pattern!r}, give one of {_PATTERNS}")
        given = [first_text, *texts] if second_text is None else [first_text, second_text, *texts]
        sequences = list(self._sequences(given))
        joins = pattern == "S*E*E"
        if maxlen is not None:
            spare = self._n_dropped_by_joining(sequences) if joins else 0
            self._truncate(sequences, maxlen, truncate_from, spare)
        if joins:
            sequences = self._joined(sequences)
        token_ids = [self.tokens_to_ids(tokens) for tokens in sequences]
        segment_ids = ([self._segments[i % 2]] * len(ids) for i, ids in enumerate(token_ids))
        return list(chain.from_iterable(token_ids)), list(chain.from_iterable(segment_ids))

    def encode_batch(
        self, texts: Iterable[str | Sequence], workers: int = 1, **options: Any
    ) -> list[tuple[list[int], list[int]]]:
        """Encode many texts, each for itself, by one or several processes.

        Processes take as many texts at once as is worth sending; the result does not depend on
        their number. Starting them takes longer than encoding some thousand short texts.

        Args:
            texts: any number of what `encode` takes, or of tuples of several that are joined.
            workers: number of processes; 1 encodes in this one.
            **options: `maxlen`, `pattern` and `truncate_from` of `encode`.

        Returns:
            For each text what `encode` returns: ids and segment ids.

        Raises:
            ValueError: there are no workers.
            IndexError, TypeError, ValueError: as in `encode`.
        """
        encode = partial(_encoded, self, options)
        if workers == 1:
            return encode(texts)
        left = iter(texts)
        parts = iter(lambda: list(islice(left, _TEXTS_AT_ONCE)), [])
        results = parallel_apply(encode, parts, workers, 4 * workers, unordered=False)
        return list(chain.from_iterable(results or []))

    def _joined(self, sequences: list[list[str]]) -> list[list[str]]:
        """Return sequences without the start tokens that are dropped by the pattern `S*E*E`."""
        if not self._token_start:
            return sequences
        return [*sequences[:1], *(tokens[1:] for tokens in sequences[1:])]

    def _n_dropped_by_joining(self, sequences: list[list[str]]) -> int:
        """Return the number of tokens that `_joined` drops, in the way `maxlen` counts them."""
        counted = self._token_start is not None or len(sequences) == 2
        return max(len(sequences) - 1, 0) if counted else 0

    def _sequences(self, given: Iterable) -> Iterator[list[str]]:
        """Yield the tokens of each text and token list, also within nested lists."""
        for item in given:
            if is_string(item):
                yield self.tokenize(item)
            elif not isinstance(item, list | tuple):
                raise TypeError(
                    f"encode: {item!r} has the type {type(item).__name__}: give a text (str), its "
                    "tokens (a list of str), or a list of these"
                )
            elif self._is_token_list(item):
                # The list itself, not a copy, so that the caller sees the truncation.
                yield item if isinstance(item, list) else list(item)
            else:
                yield from self._sequences(item)

    def _is_token_list(self, items: Sequence) -> bool:
        if not all(map(is_string, items)):
            return False
        edges = set(chain((self._token_start, self._token_end), *self._prefix_and_suffix()))
        return any(item in edges for item in items) or all(map(self._is_token, items))

    def _is_token(self, item: str) -> bool:
        """Tell whether a string is a single token rather than a text of several."""
        return item in self._tokenize(item)

    def _truncate(
        self, sequences: list[list[str]], maxlen: int, truncate_from: str | int, spare: int = 0
    ) -> None:
        """Shorten sequences in place to `maxlen + spare` tokens in total."""
        prefix, suffix = self._prefix_and_suffix()
        edges = {"right": -1 - len(suffix), "left": len(prefix)}
        index = truncate_from if isinstance(truncate_from, Integral) else edges.get(truncate_from)
        if index is None:
            raise ValueError(
                f"truncate_from is {truncate_from!r}: give 'right', 'left' or an index"
            )
        had_edges = self._has_edges(sequences)
        try:
            truncate_sequences(maxlen + spare, index, *sequences)
        except IndexError as error:
            raise IndexError(
                f"maxlen={maxlen} is too small to truncate {len(sequences)} text(s) from "
                f"{truncate_from!r} without losing start or end tokens: give a larger maxlen"
            ) from error
        if truncate_from in edges and self._has_edges(sequences) != had_edges:
            message = (
                f"maxlen={maxlen} leaves no room for the start and end tokens of {len(sequences)} "
                "text(s), some of which are removed: give a larger maxlen"
            )
            if self._has_joints and len(sequences) > 1:
                raise IndexError(message)
            warnings.warn(message, stacklevel=3)

    def _has_edges(self, sequences: Iterable[list[str]]) -> list[tuple[bool, bool]]:
        """Tell for each sequence whether it starts with the prefix and ends with the suffix."""
        prefix, suffix = self._prefix_and_suffix()
        return [
            (s[: len(prefix)] == prefix, s[max(len(s) - len(suffix), 0) :] == suffix)
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
        """Tokenize a text, without the start and the end token."""
        raise NotImplementedError

    # --- Offsets ---

    def rematch(self, text: str, tokens: Sequence[str]) -> list[list[int]]:
        """Map each token to the characters of the text from which it comes.

        Args:
            text: the text that was tokenized.
            tokens: the result of `tokenize` for it, possibly truncated, padded, without start and
                end tokens, or as returned by `ids_to_tokens` for the ids. Other tokens (with some
                masked, say) are each mapped to their first occurrence after the previous one.

        Returns:
            The indices into `text` for each token, in order; none for special tokens. A character
            that becomes several by normalisation (a Hangul syllable, say) occurs once for each. A
            character whose bytes are several tokens occurs in all of them. Characters outside of
            words (spaces around them, zero-width and control characters) occur in none.

        Raises:
            ValueError: a token is neither in the text nor a special token.
        """
        cut, spans = self._tokenize_with_spans(text)
        forms = self._translated(cut), self._as_decoded(cut)
        for start, end in self._contents(tokens):
            content = list(tokens[start:end])
            removed = _removed_slice(content, forms[0]) or _removed_slice(content, forms[1])
            if removed is not None:
                spans[slice(*removed)] = []
                return [*([] for _ in range(start)), *spans, *([] for _ in tokens[end:])]
        return self._search(text, tokens)

    def _contents(self, tokens: Sequence[str]) -> list[tuple[int, int]]:
        """Return candidates for the slice of a text's tokens within special tokens and padding.

        Since a text may contain the padding token, the largest slice is tried first.
        """
        prefix, suffix = self._prefix_and_suffix()
        n_left = n_right = 0
        while n_right < len(tokens) and tokens[-1 - n_right] == self._token_pad:
            n_right += 1
        while n_left + n_right < len(tokens) and tokens[n_left] == self._token_pad:
            n_left += 1
        found = []
        for start, end in product({0, n_left}, {len(tokens), len(tokens) - n_right}):
            if list(tokens[start : min(start + len(prefix), end)]) == prefix:
                start += len(prefix)
            if list(tokens[max(end - len(suffix), start) : end]) == suffix:
                end -= len(suffix)
            found.append((start, end))
        return sorted(found, key=lambda span: span[0] - span[1])

    def _as_decoded(self, tokens: list[str]) -> list[str]:
        """Return tokens after conversion to ids and back."""
        return self.ids_to_tokens(self.tokens_to_ids(self._translated(tokens)))

    def _tokenize_with_spans(self, text: str) -> tuple[list[str], list[list[int]]]:
        """Return the result of `_tokenize`, and the indices of characters for each token."""
        raise NotImplementedError

    def _search(self, text: str, tokens: Sequence[str]) -> list[list[int]]:
        """Search for the tokens, one after the other, among those of the text."""
        cut, cut_spans = self._tokenize_with_spans(text)
        names = list(zip(cut, self._translated(cut), self._as_decoded(cut), strict=True))
        spans, at = [], 0
        for token in tokens:
            found = next((i for i in range(at, len(cut)) if token in names[i]), None)
            if found is None and token not in self._all_specials():
                raise ValueError(
                    f"rematch: {token!r} is not in the text after its first {at} tokens: give the "
                    "tokens of this text by this tokenizer"
                )
            spans.append([] if found is None else cut_spans[found])
            at = at if found is None else found + 1
        return spans

    def _all_specials(self) -> set[str | None]:
        return {getattr(self, f"_token_{special}") for special in SPECIALS}

    # --- Streaming and chats ---

    def settled(self, ids: Sequence[int], text: str) -> int:
        """Return the length of the part of a text that no further tokens can change.

        Args:
            ids: the ids so far.
            text: the result of `decode` for them.

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
        """Encode a chat in the format that the model was trained on.

        The template runs in a sandbox with limits on time and memory (`text/sandbox.py`).

        Args:
            messages: the messages, each a dict with `role` and `content`.
            tools: functions that the model may call, each as a JSON schema.
            documents: documents that it may use, dicts with `title` and `text`.
            chat_template: a template, or the name of one of several; by default that of the
                tokenizer, or of several the one for tools if there are tools.
            add_generation_prompt: whether to end with the start of an answer of the assistant.
            continue_final_message: whether to leave the last message open, so that it is continued.
            tokenize: whether to return ids; otherwise the text.
            **variables: further variables of the template, such as `enable_thinking`.

        Returns:
            The ids, without special tokens other than those in the template; or the text.

        Raises:
            ImportError: Jinja is not installed.
            TokenizerError: the template rejects the messages, or does something that is not
            allowed. TypeError, ValueError: the messages are not a chat, or there is no template.
        """
        if wrong := _OF_TRANSFORMERS & variables.keys():
            raise TypeError(
                f"apply_chat_template has no argument {min(wrong)!r}: it returns a list of ids, or "
                "the text with tokenize=False"
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
    """Return the length of the part of a text that no further words and punctuation can change.

    Further tokens may change spaces and punctuation at the end (`it ' s` becomes `it's`), and a
    character whose bytes are several tokens is incomplete before the last of them. A text is
    therefore settled up to its last letter, digit or ideograph that is not part of a contraction.
    """
    end = len(_MAYBE_CONTRACTED.sub("", text))
    while end and not text[end - 1].isalnum():
        end -= 1
    return end


def _encoded(
    tokenizer: TokenizerBase, options: Mapping[str, Any], texts: Iterable[str | Sequence]
) -> list[tuple[list[int], list[int]]]:
    """Encode texts, or tuples of texts, one by one."""
    given = (text if isinstance(text, tuple) else (text,) for text in texts)
    return [tokenizer.encode(*each, **options) for each in given]


def _texts_and_options(more: tuple) -> tuple[tuple, tuple]:
    """Split the arguments after two texts into further texts, and `maxlen` and other options.

    `maxlen` was the third positional argument before a third text was supported.
    """
    number = next(
        (i for i, item in enumerate(more) if item is None or isinstance(item, Integral)), len(more)
    )
    texts, options = more[:number], more[number:]
    if len(options) > 3:
        raise TypeError(
            f"encode: got {options} after the texts, give at most maxlen, pattern, truncate_from"
        )
    return texts, options


def _removed_slice(part: list[str], whole: list[str]) -> tuple[int, int] | None:
    """Return the slice of `whole` whose removal leaves `part`, None if there is none.

    Truncation removes one slice, wherever it happens.
    """
    if part == whole:
        return 0, 0
    n_removed = len(whole) - len(part)
    start = next(
        (i for i, (a, b) in enumerate(zip(part, whole, strict=False)) if a != b), len(part)
    )
    end = start + n_removed
    return (start, end) if n_removed > 0 and part[start:] == whole[end:] else None
