"""The SentencePiece tokenizer of XLM-RoBERTa, whose ids differ from those of its model."""

from bert4keras.text.sentencepiece import SpTokenizer

_NAMES = ("<s>", "<pad>", "</s>", "<unk>")
_FIRST = {name: i for i, name in enumerate(_NAMES)}
_SHIFT = 1


class FairseqTokenizer(SpTokenizer):
    """SentencePiece tokenizer with the ids of fairseq, in which XLM-RoBERTa was trained.

    `<s>`, `<pad>`, `</s>` and `<unk>` have the ids 0 to 3, all other pieces one more than in the
    model, and `<mask>` the last one (Conneau et al., 2020, https://arxiv.org/abs/1911.02116).
    """

    def _n_pieces(self) -> int:
        return self._sp_model.get_piece_size() + _SHIFT

    def _piece_id(self, i: int) -> int:
        return int(i) - _SHIFT if i >= len(_FIRST) else self._sp_model.piece_to_id(_NAMES[i])

    def token_to_id(self, token: str) -> int:
        """Return the id of a token, or of `<unk>` if the model does not have it."""
        i = {**_FIRST, **self._added}.get(token)
        if i is None:
            i = self._sp_model.piece_to_id(token)
            i = _FIRST["<unk>"] if i == self._sp_model.unk_id() else i + _SHIFT
        return i

    def id_to_token(self, i: int) -> str:
        """Return the token of an id, an empty one for ids beyond the model."""
        return _NAMES[int(i)] if i < len(_NAMES) else super().id_to_token(i)

    def own_specials(self) -> dict[str, str]:
        """Return the special tokens of the model, by their names in Hugging Face."""
        names = ("bos_token", "pad_token", "eos_token", "unk_token")
        return {**dict(zip(names, _NAMES, strict=True)), "mask_token": "<mask>"}
