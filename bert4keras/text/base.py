"""What all tokenizers share: several texts in one sequence, offsets, chats."""

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, product
from numbers import Integral
from types import MappingProxyType
from typing import Any

from bert4keras.text.chat import chat_text
from bert4keras.text.strings import is_string, truncate_sequences

SPECIALS = ("pad", "unk", "mask", "start", "end")
_PATTERNS = ("S*E*E", "S*ES*E")


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
        if special in SPECIALS and name == f"_token_{special}_id":
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
        return {getattr(self, f"_token_{special}") for special in SPECIALS}

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
