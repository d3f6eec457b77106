"""Opening a `tokenizer.json`: within bounds, with one exception, and what it says in our terms."""

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
"""In all tokens together; released models have two million."""
MAX_ADDED_CHARACTERS = 1 << 20
MAX_AROUND = 1000
"""Tokens around a text."""
MAX_GROWTH = 10_000
"""How many times as long replacements may make a text."""


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


def opened(source: str | os.PathLike | Mapping[str, Any]) -> tuple[Any, Mapping[str, Any], str]:
    """Open a file, or the content of one.

    Args:
        source: the file, its folder, or the content.

    Returns:
        The tokenizer of the package `tokenizers`, the content, and what errors call the file.
    """
    tokenizers = library()
    if isinstance(source, Mapping):
        content, name, text = source, f"the content of a {TOKENIZER_FILE}", json.dumps(source)
    else:
        path = Path(source) / TOKENIZER_FILE if Path(source).is_dir() else Path(source)
        name, data = str(path), read_bytes(path, LARGE)
        content, text = parsed_object(data, path, LARGE), data.decode("utf-8-sig")
    check(content, name)
    with one_exception(name):
        tokenizer = tokenizers.Tokenizer.from_str(text)
        tokenizer.no_truncation()
        tokenizer.no_padding()
    return tokenizer, content, name


@contextmanager
def one_exception(name: str) -> Iterator[None]:
    """Turn whatever the package raises into one exception.

    Where it cannot go on, as with a template of tokens that are not there, it panics, which is no
    `Exception` in Python.
    """
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise TokenizerError(f"{name} is no tokenizer that can be used: {error}") from error


def add_missing(
    tokenizer: Any,
    special_tokens: Mapping[str, str | Mapping[str, Any]],
    added_tokens: Sequence[Mapping[str, Any]],
    name: str,
) -> dict[str, str]:
    """Add to a tokenizer of the package the tokens that its file does not have.

    Args:
        tokenizer: the tokenizer.
        special_tokens: by their names, each a text or a dict with `content`.
        added_tokens: further ones, each a dict with `content`.
        name: what errors call the file.

    Returns:
        The texts of the special tokens by their names.
    """
    named = {
        key: {"content": token} if isinstance(token, str) else dict(token)
        for key, token in special_tokens.items()
    }
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    for token in (*added_tokens, *({"special": True, **token} for token in named.values())):
        if token["content"] not in known:
            known.add(token["content"])
            with one_exception(name):
                options = {k: v for k, v in token.items() if k in _OF_ADDED}
                tokenizer.add_tokens([library().AddedToken(**options)])
    return {key: token["content"] for key, token in named.items()}


def check(content: Mapping[str, Any], name: str) -> None:
    """Refuse what is no tokenizer, or would take minutes or gigabytes to open or to use.

    What else may be wrong in a file, the package finds.
    """
    model, added = content.get("model"), content.get("added_tokens", [])
    vocabulary = model.get("vocab") if isinstance(model, Mapping) else None
    if not isinstance(vocabulary, dict | list) or not isinstance(added, list):
        raise TokenizerError(f"{name} has no vocabulary: it is no {TOKENIZER_FILE}")
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
    for what, (size, most) in sizes.items():
        if size > most:
            raise TokenizerError(f"{name} makes {size:.0f} {what}, and {most} are allowed")


def _first(piece: Any) -> Any:
    return piece[0] if isinstance(piece, list) and piece else None


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str | list) else 0


def _added_length(token: Any) -> int:
    return _length(token.get("content")) if isinstance(token, Mapping) else 0


def parts(component: Any) -> list[Mapping[str, Any]]:
    """Return a normalizer, decoder, ... of a file, or the several that it is a sequence of."""
    if not isinstance(component, Mapping):
        return []
    lists = [v for k, v in component.items() if k.endswith(("izers", "ors", "ders"))]
    inner = [part for one in lists if isinstance(one, list) for part in one]
    return [p for part in inner for p in parts(part)] if lists else [component]


def _n_around(post_processor: Any) -> int:
    return sum(
        _length(part.get(name)) for part in parts(post_processor) for name in ("single", "pair")
    )


def _growth(component: Any) -> float:
    """Return how many times as long a text may become by the replacements of a component."""
    growth = 1.0
    for part in parts(component):
        pattern = part.get("pattern")
        replaced = pattern.get("String") if isinstance(pattern, Mapping) else None
        least = max(_length(replaced), 1)  # a regular expression may find a single character
        growth *= max(_length(part.get("content")) / least, 1.0)
        growth += _length(part.get("prepend"))
    return growth


# === What a file says ===


@dataclass(frozen=True)
class Frame:
    """The tokens that a file puts around texts.

    Attributes:
        before: those before a text.
        behind: those behind it.
        first: those before the first of several texts.
        ending: those behind a text that another one follows.
        beginning: those before a text that follows another one.
        last: those behind the last of several texts.
        segments: of the first text and of the second.
    """

    before: list[str]
    behind: list[str]
    first: list[str]
    ending: list[str]
    beginning: list[str]
    last: list[str]
    segments: tuple[int, int] = (0, 1)

    def linked(self, tokens: list[str], is_first: bool, is_last: bool) -> list[str]:
        """Exchange what stands around one of several sequences, as far as that stands there."""
        n_before, n_behind = len(self.before), len(self.behind)
        starts = tokens[:n_before] == self.before
        inner = tokens[n_before:] if starts else tokens
        ends = len(inner) >= n_behind and inner[len(inner) - n_behind :] == self.behind
        before = self.first if is_first else self.beginning
        behind = self.last if is_last else self.ending
        inner = inner[: len(inner) - n_behind] if ends else inner
        return [*(before if starts else []), *inner, *(behind if ends else [])]


def frame_of(tokenizer: Any, name: str) -> Frame:
    """Find out what a tokenizer of the package puts around texts, by a text of one token.

    Raises:
        TokenizerError: it does not keep texts in one piece each, in order.
    """
    processor = tokenizer.post_processor
    if processor is None:
        return Frame([], [], [], [], [], [])
    tokenizers = library()
    word = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a"))
    with one_exception(name):
        one = processor.process(word.encode("a"))
        two = processor.process(word.encode("a"), word.encode("a"))
    (at,), (start, end) = _texts(one, 1, name), _texts(two, 2, name)
    types = two.type_ids[start], two.type_ids[end]
    between = range(start + 1, end)
    belong_to_first = [types[0] == types[1] or two.type_ids[i] == types[0] for i in between]
    middle = two.tokens[start + 1 : end]
    n_ending = sum(belong_to_first)
    return Frame(
        before=one.tokens[:at],
        behind=one.tokens[at + 1 :],
        first=two.tokens[:start],
        ending=middle[:n_ending],
        beginning=middle[n_ending:],
        last=two.tokens[end + 1 :],
        segments=types,
    )


def _texts(encoding: Any, number: int, name: str) -> list[int]:
    """Return where the texts lie among the tokens around them."""
    places = [i for i, special in enumerate(encoding.special_tokens_mask) if not special]
    order = [encoding.token_to_sequence(i) for i in places]
    if order != list(range(number)):
        raise TokenizerError(f"{name} joins texts in an order of its own, which is not implemented")
    return places


def with_edges(frame: Frame, start: str | None, end: str | None) -> Frame:
    """Return a frame with one token or none before and behind each text, the first only once."""
    before = [] if start is None else [start]
    behind = [] if end is None else [end]
    return Frame(before, behind, before, behind, [], behind, frame.segments)


def framed(
    post_processor: Mapping[str, Any] | None, frame: Frame, ids: Mapping[str, int]
) -> dict[str, Any]:
    """Return a post-processor that puts a frame around texts, with the offsets of another one.

    Args:
        post_processor: that of a file.
        frame: what stands around texts.
        ids: token to id.
    """
    # The rest of what RobertaProcessing does.
    offsets = [
        {
            "type": "ByteLevel",
            "add_prefix_space": part.get("add_prefix_space", True),
            "trim_offsets": part["trim_offsets"],
        }
        for part in parts(post_processor)
        if "trim_offsets" in part
    ]
    names = dict.fromkeys((*frame.before, *frame.behind))
    first, second = frame.segments
    template = {
        "type": "TemplateProcessing",
        "single": _template(frame.before, "A", frame.behind, first),
        "pair": _template(frame.first, "A", frame.ending, first)
        + _template(frame.beginning, "B", frame.last, second),
        "special_tokens": {t: {"id": t, "ids": [ids[t]], "tokens": [t]} for t in names},
    }
    return {"type": "Sequence", "processors": [*offsets, template]}


def _template(
    before: Sequence[str], text: str, behind: Sequence[str], segment: int
) -> list[dict[str, Any]]:
    """Return a text and the tokens around it as a template of Hugging Face has them."""
    special = [
        [{"SpecialToken": {"id": token, "type_id": segment}} for token in tokens]
        for tokens in (before, behind)
    ]
    return [*special[0], {"Sequence": {"id": text, "type_id": segment}}, *special[1]]


def way_of_decoding(decoder: Any) -> str:
    """Tell how tokens become text, as far as it decides what later tokens may change.

    Args:
        decoder: that of a file.

    Returns:
        'tokens': each is text by itself; 'bytes': each is bytes, which may be part of a character;
        'byte tokens': some are a byte, of which all in a row become text together, or do not;
        'other': anything may change.
    """
    kinds = [str(part.get("type")) for part in parts(decoder)]
    if kinds == ["ByteLevel"]:
        return "bytes"
    n_own = kinds.index("Fuse") if "Fuse" in kinds else len(kinds)
    by_itself = {"Replace", "ByteFallback", "Metaspace", "WordPiece", "BPEDecoder"}
    at_the_start = [p.get("type") == "Strip" and not p.get("stop") for p in parts(decoder)]
    if not set(kinds[:n_own]) <= by_itself or not all(at_the_start[n_own + 1 :]):
        return "other"
    return "byte tokens" if "ByteFallback" in kinds else "tokens"


def unknown_token(content: Mapping[str, Any]) -> str | None:
    """Return the token that stands for what the vocabulary lacks, None if there is none."""
    model = content["model"]
    if isinstance(model["vocab"], list):
        unk_id = model.get("unk_id")
        return None if unk_id is None else model["vocab"][unk_id][0]
    return model.get("unk_token")
