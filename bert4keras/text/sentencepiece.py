"""The tokenizer of a SentencePiece model."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from bert4keras.text.alphabet import SPACE, without_space
from bert4keras.text.base import SPECIALS, TokenizerBase
from bert4keras.text.strings import well_formed
from bert4keras.text.tables import Table


class SpTokenizer(TokenizerBase):
    """Tokenizer of a SentencePiece model.

    The padding and the unknown token are those of the model. Tokens that are not in the model, such
    as misspelt start and end tokens, have the id of the unknown token.

    Args:
        sp_model_path: the file of the model.
        **kwargs: see `TokenizerBase`; T5 needs `token_start=None, token_end='</s>'`.

    Raises:
        ImportError: the package `sentencepiece` is not installed.
        FileNotFoundError: there is no such file.
        ValueError: the file is not a SentencePiece model.
    """

    def __init__(self, sp_model_path: str | os.PathLike, **kwargs: Any):
        super().__init__(**kwargs)
        self.file_name = Path(sp_model_path).name
        self._sp_model = _load_sentencepiece(Path(sp_model_path))
        self._vanishes = Table(self._is_dropped)
        own = self.own_specials()
        self._token_pad, self._token_unk = own.get("pad_token"), own["unk_token"]
        self._added: dict[str, int] = {}
        self.add_tokens({})
        for special in SPECIALS:
            token = getattr(self, f"_token_{special}")
            if token is not None:
                setattr(self, f"_token_{special}_id", self.token_to_id(token))

    def own_specials(self) -> dict[str, str]:
        """Return the special tokens of the model, by their names in Hugging Face."""
        model = self._sp_model
        ids = {
            "bos_token": model.bos_id(),
            "eos_token": model.eos_id(),
            "pad_token": model.pad_id(),  # negative if the model has none, as that of LLaMA
            "unk_token": model.unk_id(),
        }
        return {name: model.id_to_piece(i) for name, i in ids.items() if i >= 0}

    def add_tokens(self, tokens: Mapping[str, int]) -> None:
        """Add tokens beyond the pieces of the model, which are matched literally in texts.

        Args:
            tokens: maps tokens to ids, such as the `<extra_id_0>` of T5.
        """
        pieces = self._n_pieces()
        self._added |= {t: i for t, i in tokens.items() if i >= pieces and t}
        self._added_inv = {i: token for token, i in self._added.items()}
        self._vocab_size = max(pieces, *(i + 1 for i in self._added_inv)) if self._added else pieces
        longest_first = sorted(self._added, key=len, reverse=True)
        self._parts = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")

    def _n_pieces(self) -> int:
        """Return the number of ids of the pieces of the model."""
        return self._sp_model.get_piece_size()

    def _piece_id(self, i: int) -> int:
        """Convert an id of this tokenizer to that of a piece in the model."""
        return int(i)

    def __contains__(self, token: str) -> bool:
        return token in self._added or super().__contains__(token)

    def token_to_id(self, token: str) -> int:
        """Return the id of a token, or of the unknown token if the model does not have it."""
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
        """Return the content of the model file."""
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
        """Align pieces with the normalised text, whose characters have known origins."""
        pieces = self._sp_model.encode_as_pieces(text)
        normal, starts = self._sp_model.normalize(text, with_offsets=True)
        ends = _next_larger(starts)
        if normal.startswith(SPACE):
            ends[0] = starts[1]  # if the text has no space there, it has no origin
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
        """Tell whether normalisation always removes a character."""
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


def _next_larger(numbers: Sequence[int]) -> list[int]:
    """Return for each of non-decreasing numbers the next larger one, or itself."""
    larger = list(numbers)
    for i in reversed(range(len(numbers) - 1)):
        larger[i] = numbers[i + 1] if numbers[i + 1] > numbers[i] else larger[i + 1]
    return larger


def _origins(text: str, segments: Iterable[str]) -> list[int | None]:
    """Return the index in a text of each character of its segments, joined by spaces."""
    origins: list[int | None] = []
    at = 0
    for segment in segments:
        start = text.find(segment, at)
        found = (
            start >= 0
        )  # otherwise the function changed the text: there is no character to map to
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
        raise FileNotFoundError(
            f"there is no SentencePiece model at {path}: give the file of a model"
        )
    model = sentencepiece.SentencePieceProcessor()
    try:
        model.LoadFromSerializedProto(path.read_bytes())
    except RuntimeError as error:
        raise ValueError(f"{path} is not a SentencePiece model: {error}") from error
    return model
