"""WordPiece vocabularies: their files, one token per line, and the structure of tokens."""

import os
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Literal, overload

from bert4keras.text.characters import is_cjk_character, is_punctuation

VOCAB_FILE = "vocab.txt"


@overload
def load_vocab(
    dict_path: str | os.PathLike,
    encoding: str = "utf-8",
    simplified: Literal[False] = False,
    startswith: Sequence[str] | None = None,
) -> dict[str, int]: ...


@overload
def load_vocab(
    dict_path: str | os.PathLike,
    encoding: str = "utf-8",
    *,
    simplified: Literal[True],
    startswith: Sequence[str] | None = None,
) -> tuple[dict[str, int], list[int]]: ...


def load_vocab(
    dict_path: str | os.PathLike,
    encoding: str = "utf-8",
    simplified: bool = False,
    startswith: Sequence[str] | None = None,
) -> dict[str, int] | tuple[dict[str, int], list[int]]:
    """Read a vocabulary: the token is the first word of a line, its id the line number.

    Args:
        dict_path: the file, or a folder with a file `vocab.txt`.
        encoding: the encoding of the file.
        simplified: whether to leave out tokens that no Chinese text needs (`is_redundant`), and
            to renumber the others.
        startswith: with `simplified`, the first tokens, in this order.

    Returns:
        A mapping from tokens to ids; with `simplified` also the old ids in the order of the new
        ones, which `build_transformer_model` takes as `keep_tokens`. A token on several lines has
        the id of the last, as in `tokenization.py` of google-research/bert.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a vocabulary in this encoding, or a token of `startswith` is
            missing.
    """
    token_dict = _read_vocab(_vocab_path(dict_path), encoding)
    if not simplified:
        return token_dict
    first = list(startswith or [])
    if missing := [token for token in first if token not in token_dict]:
        raise ValueError(f"load_vocab: startswith has {missing}, which are not in {dict_path}")
    by_id = sorted(token_dict, key=token_dict.get)
    kept = dict.fromkeys(chain(first, (t for t in by_id if not is_redundant(t))))
    return {token: i for i, token in enumerate(kept)}, [token_dict[token] for token in kept]


def _vocab_path(path: str | os.PathLike) -> Path:
    path = Path(path)
    if path.is_dir():
        path = path / VOCAB_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no vocabulary at {path}: give a text file with one token per line, or a "
            f"folder with a file {VOCAB_FILE}"
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
            f"{path} is not a vocabulary, since its encoding is not {encoding} ({error}): give a "
            "text file with one token per line, or its encoding"
        ) from error
    if not token_dict:
        raise ValueError(f"{path} is empty: give a text file with one token per line")
    return token_dict


def save_vocab(
    dict_path: str | os.PathLike, token_dict: Mapping[str, int], encoding: str = "utf-8"
) -> None:
    """Write a vocabulary that `load_vocab` reads, each token on the line of its id.

    Lines of unused ids are empty, so that all tokens keep their ids.

    Args:
        dict_path: the file.
        token_dict: maps tokens to ids, which start from 0.
        encoding: the encoding of the file.

    Raises:
        ValueError: two tokens have the same id, or an id is negative.
    """
    text = vocab_text(token_dict)
    with open(dict_path, "w", encoding=encoding, newline="\n") as writer:
        writer.write(text)


def vocab_text(token_dict: Mapping[str, int]) -> str:
    """Return the content of a vocabulary file, with the errors of `save_vocab`."""
    tokens = {i: token for token, i in token_dict.items()}
    if len(tokens) < len(token_dict):
        shared = next(token for token, i in token_dict.items() if tokens[i] != token)
        i = token_dict[shared]
        raise ValueError(f"save_vocab: {shared!r} and {tokens[i]!r} have the same id {i}")
    if tokens and min(tokens) < 0:
        raise ValueError(f"save_vocab: the id of {tokens[min(tokens)]!r} is {min(tokens)}, below 0")
    return "".join(f"{tokens.get(i, '')}\n" for i in range(max(tokens, default=-1) + 1))


def stem(token: str) -> str:
    """Return a token without the prefix `##` of a piece within a word."""
    return token.removeprefix("##")


def is_redundant(token: str) -> bool:
    """Tell whether a token has several characters, one of them an ideograph or punctuation.

    Such a token never occurs, because these characters are words by themselves.
    """
    return len(token) > 1 and any(is_cjk_character(ch) or is_punctuation(ch) for ch in stem(token))
