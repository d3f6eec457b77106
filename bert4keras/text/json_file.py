"""Opening a `tokenizer.json` with limits and a single exception, and reading its settings."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bert4keras.text.files import LARGE, TokenizerError, parsed_object, read_bytes

TOKENIZER_FILE = "tokenizer.json"

_OF_ADDED = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
MAX_TOKENS = 1 << 20
MAX_ADDED_TOKENS = 1 << 17
MAX_CHARACTERS = 1 << 23
"""Maximum over all tokens together; released models have two million."""
MAX_ADDED_CHARACTERS = 1 << 20
MAX_AROUND = 1000
"""Maximal number of special tokens around a text."""
MAX_GROWTH = 10_000
"""Maximal factor by which replacements may lengthen a text."""


# === Opening ===


def library() -> Any:
    """Return the package `tokenizers`.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import tokenizers
    except ImportError as error:
        raise ImportError(
            f"{TOKENIZER_FILE} needs the package tokenizers: pip install tokenizers"
        ) from error
    return tokenizers


def open_tokenizer(
    source: str | os.PathLike | Mapping[str, Any],
) -> tuple[Any, Mapping[str, Any], str]:
    """Open a `tokenizer.json`, or its content.

    Args:
        source: the file, its folder, or the content.

    Returns:
        The tokenizer of the package `tokenizers`, the content, and the name of the file in errors.
    """
    tokenizers = library()
    if isinstance(source, Mapping):
        content, name, text = source, f"the content of a {TOKENIZER_FILE}", json.dumps(source)
    else:
        path = Path(source) / TOKENIZER_FILE if Path(source).is_dir() else Path(source)
        name, data = str(path), read_bytes(path, LARGE)
        content, text = parsed_object(data, path, LARGE), data.decode("utf-8-sig")
    check(content, name)
    with as_tokenizer_error(name):
        tokenizer = tokenizers.Tokenizer.from_str(text)
        tokenizer.no_truncation()
        tokenizer.no_padding()
    return tokenizer, content, name


@contextmanager
def as_tokenizer_error(name: str) -> Iterator[None]:
    """Turn whatever the package `tokenizers` raises into a `TokenizerError`.

    On fatal errors, such as a template of missing tokens, it panics, which is not an `Exception` in
    Python.
    """
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise TokenizerError(f"{name} is not a usable tokenizer: {error}") from error


def add_missing(
    tokenizer: Any,
    special_tokens: Mapping[str, str | Mapping[str, Any]],
    added_tokens: Sequence[Mapping[str, Any]],
    name: str,
) -> dict[str, str]:
    """Add tokens to a tokenizer of the package unless its file already has them.

    Args:
        tokenizer: the tokenizer.
        special_tokens: special tokens by name, each a string or a dict with `content`.
        added_tokens: further tokens, each a dict with `content`.
        name: the name of the file in errors.

    Returns:
        The special tokens, as strings by name.
    """
    named = {
        key: {"content": token} if isinstance(token, str) else dict(token)
        for key, token in special_tokens.items()
    }
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    for token in (*added_tokens, *({"special": True, **token} for token in named.values())):
        if token["content"] not in known:
            known.add(token["content"])
            with as_tokenizer_error(name):
                options = {k: v for k, v in token.items() if k in _OF_ADDED}
                tokenizer.add_tokens([library().AddedToken(**options)])
    return {key: token["content"] for key, token in named.items()}


def check(content: Mapping[str, Any], name: str) -> None:
    """Raise unless this is a tokenizer that can be opened and used within limits.

    Other faults of a file are found by the package.
    """
    model, added = content.get("model"), content.get("added_tokens", [])
    vocabulary = model.get("vocab") if isinstance(model, Mapping) else None
    if not isinstance(vocabulary, dict | list) or not isinstance(added, list):
        raise TokenizerError(f"{name} has no vocabulary: it is not a {TOKENIZER_FILE}")
    tokens = vocabulary if isinstance(vocabulary, dict) else map(_first, vocabulary)
    sizes = {
        "tokens": (len(vocabulary), MAX_TOKENS),
        "characters in tokens": (sum(map(_length, tokens)), MAX_CHARACTERS),
        "added tokens": (len(added), MAX_ADDED_TOKENS),
        "characters in added tokens": (sum(map(_added_length, added)), MAX_ADDED_CHARACTERS),
        "tokens around a text": (_n_around(content.get("post_processor")), MAX_AROUND),
        "times as long a text": (_growth(content.get("normalizer")), MAX_GROWTH),
        "times as long a decoded text": (_growth(content.get("decoder")), MAX_GROWTH),
    }
    for what, (size, limit) in sizes.items():
        if size > limit:
            raise TokenizerError(f"{name} makes {size:.0f} {what}, but only {limit} are allowed")


def _first(piece: Any) -> Any:
    return piece[0] if isinstance(piece, list) and piece else None


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str | list) else 0


def _added_length(token: Any) -> int:
    return _length(token.get("content")) if isinstance(token, Mapping) else 0


def flat_components(component: Any) -> list[Mapping[str, Any]]:
    """List a normalizer, decoder, ... of a file, or the components of a sequence of them."""
    if not isinstance(component, Mapping):
        return []
    lists = [v for k, v in component.items() if k.endswith(("izers", "ors", "ders"))]
    inner = [part for one in lists if isinstance(one, list) for part in one]
    return [p for part in inner for p in flat_components(part)] if lists else [component]


def _n_around(post_processor: Any) -> int:
    return sum(
        _length(part.get(name))
        for part in flat_components(post_processor)
        for name in ("single", "pair")
    )


def _growth(component: Any) -> float:
    """Return the maximal factor by which the replacements of a component lengthen a text."""
    growth = 1.0
    for part in flat_components(component):
        pattern = part.get("pattern")
        replaced = pattern.get("String") if isinstance(pattern, Mapping) else None
        shortest = max(_length(replaced), 1)  # a regular expression may match one character
        growth *= max(_length(part.get("content")) / shortest, 1.0)
        growth += _length(part.get("prepend"))
    return growth


# === The settings of a file ===


@dataclass(frozen=True)
class Frame:
    """Special tokens that a file adds around texts.

    Attributes:
        prefix: tokens before a single text.
        suffix: tokens after a single text.
        first_prefix: tokens before the first of several texts.
        inner_suffix: tokens after a text that another one follows.
        inner_prefix: tokens before a text that follows another one.
        last_suffix: tokens after the last of several texts.
        segments: segment ids of the first and the second text.
    """

    prefix: list[str]
    suffix: list[str]
    first_prefix: list[str]
    inner_suffix: list[str]
    inner_prefix: list[str]
    last_suffix: list[str]
    segments: tuple[int, int] = (0, 1)

    def joined(self, tokens: list[str], is_first: bool, is_last: bool) -> list[str]:
        """Replace prefix and suffix, where present, by those of one of several sequences."""
        n_prefix, n_suffix = len(self.prefix), len(self.suffix)
        starts = tokens[:n_prefix] == self.prefix
        inner = tokens[n_prefix:] if starts else tokens
        ends = len(inner) >= n_suffix and inner[len(inner) - n_suffix :] == self.suffix
        prefix = self.first_prefix if is_first else self.inner_prefix
        suffix = self.last_suffix if is_last else self.inner_suffix
        inner = inner[: len(inner) - n_suffix] if ends else inner
        return [*(prefix if starts else []), *inner, *(suffix if ends else [])]


def frame_of(tokenizer: Any, name: str) -> Frame:
    """Determine the special tokens of a tokenizer of the package from texts of one token.

    Raises:
        TokenizerError: it does not join texts in order.
    """
    processor = tokenizer.post_processor
    if processor is None:
        return Frame([], [], [], [], [], [])
    tokenizers = library()
    word = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a"))
    with as_tokenizer_error(name):
        one = processor.process(word.encode("a"))
        two = processor.process(word.encode("a"), word.encode("a"))
    (at,), (start, end) = _text_positions(one, 1, name), _text_positions(two, 2, name)
    types = two.type_ids[start], two.type_ids[end]
    between = range(start + 1, end)
    belong_to_first = [types[0] == types[1] or two.type_ids[i] == types[0] for i in between]
    middle = two.tokens[start + 1 : end]
    n_suffix = sum(belong_to_first)
    return Frame(
        prefix=one.tokens[:at],
        suffix=one.tokens[at + 1 :],
        first_prefix=two.tokens[:start],
        inner_suffix=middle[:n_suffix],
        inner_prefix=middle[n_suffix:],
        last_suffix=two.tokens[end + 1 :],
        segments=types,
    )


def _text_positions(encoding: Any, number: int, name: str) -> list[int]:
    """Return the positions of the texts among the special tokens."""
    positions = [i for i, special in enumerate(encoding.special_tokens_mask) if not special]
    order = [encoding.token_to_sequence(i) for i in positions]
    if order != list(range(number)):
        raise TokenizerError(f"{name} reorders texts when it joins them, which is not implemented")
    return positions


def with_edges(frame: Frame, start: str | None, end: str | None) -> Frame:
    """Return a frame with at most one token after each text and one before the first."""
    prefix = [] if start is None else [start]
    suffix = [] if end is None else [end]
    return Frame(prefix, suffix, prefix, suffix, [], suffix, frame.segments)


def post_processor_of(
    post_processor: Mapping[str, Any] | None, frame: Frame, ids: Mapping[str, int]
) -> dict[str, Any]:
    """Return a post-processor that adds the special tokens of a frame around texts.

    Args:
        post_processor: the one of a file, whose offsets are kept.
        frame: the special tokens.
        ids: maps tokens to ids.
    """
    # What else RobertaProcessing does.
    offsets = [
        {
            "type": "ByteLevel",
            "add_prefix_space": part.get("add_prefix_space", True),
            "trim_offsets": part["trim_offsets"],
        }
        for part in flat_components(post_processor)
        if "trim_offsets" in part
    ]
    tokens = dict.fromkeys((*frame.prefix, *frame.suffix))
    first, second = frame.segments
    template = {
        "type": "TemplateProcessing",
        "single": _template(frame.prefix, "A", frame.suffix, first),
        "pair": _template(frame.first_prefix, "A", frame.inner_suffix, first)
        + _template(frame.inner_prefix, "B", frame.last_suffix, second),
        "special_tokens": {t: {"id": t, "ids": [ids[t]], "tokens": [t]} for t in tokens},
    }
    return {"type": "Sequence", "processors": [*offsets, template]}


def _template(
    prefix: Sequence[str], text: str, suffix: Sequence[str], segment: int
) -> list[dict[str, Any]]:
    """Return the template of Hugging Face for a text and the special tokens around it."""
    special = [
        [{"SpecialToken": {"id": token, "type_id": segment}} for token in tokens]
        for tokens in (prefix, suffix)
    ]
    return [*special[0], {"Sequence": {"id": text, "type_id": segment}}, *special[1]]


def decoding_kind(decoder: Any) -> str:
    """Classify a decoder by how later tokens can change the text of earlier ones.

    Args:
        decoder: the decoder of a file.

    Returns:
        'tokens': each token is decoded by itself; 'bytes': each token is bytes, which may be a part
        of a character; 'byte tokens': some tokens are single bytes, of which consecutive ones are
        decoded together; 'other': anything may change.
    """
    kinds = [str(part.get("type")) for part in flat_components(decoder)]
    if kinds == ["ByteLevel"]:
        return "bytes"
    n_own = kinds.index("Fuse") if "Fuse" in kinds else len(kinds)
    independent = {"Replace", "ByteFallback", "Metaspace", "WordPiece", "BPEDecoder"}
    at_the_start = [
        p.get("type") == "Strip" and not p.get("stop") for p in flat_components(decoder)
    ]
    if not set(kinds[:n_own]) <= independent or not all(at_the_start[n_own + 1 :]):
        return "other"
    return "byte tokens" if "ByteFallback" in kinds else "tokens"


def unknown_token(content: Mapping[str, Any]) -> str | None:
    """Return the unknown token, None if there is none."""
    model = content["model"]
    if isinstance(model["vocab"], list):
        unk_id = model.get("unk_id")
        return None if unk_id is None else model["vocab"][unk_id][0]
    return model.get("unk_token")
