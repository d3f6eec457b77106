"""A vocabulary that is cut down to `keep_tokens` and extended by `compound_tokens`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bert4keras.checkpoints.base import CheckpointError
from bert4keras.models.vocabulary_record import recorded_vocabulary, saved_size, vocabulary_record

if TYPE_CHECKING:
    from bert4keras.models.transformer import Transformer


def checked_tokens(keep_tokens: Sequence[int] | None, vocab_size: int) -> Sequence[int] | None:
    """Refuse token ids outside of the vocabulary."""
    outside = [i for i in ([] if keep_tokens is None else keep_tokens) if not 0 <= i < vocab_size]
    if outside:
        raise ValueError(
            f"keep_tokens names {len(outside)} ids outside of the vocabulary of {vocab_size} "
            f"tokens, {outside[0]} first: they must come from the vocabulary of this checkpoint"
        )
    return keep_tokens


def renumbered(token_id: int, keep_tokens: Sequence[int] | None) -> int:
    """The number of a token in a vocabulary cut down to `keep_tokens`; 0 and none (-1) stay."""
    if keep_tokens is None or token_id <= 0:
        return token_id
    if token_id not in keep_tokens:
        raise ValueError(f"keep_tokens leaves out {token_id}, the padding token: keep it")
    return list(keep_tokens).index(token_id)


def average_rows(table: np.ndarray, item: Any) -> np.ndarray:
    """Average rows of a table; `item` is a list of indices or a pair (indices, weights)."""
    if isinstance(item, tuple):
        return np.average(table[list(item[0])], axis=0, weights=item[1])
    return np.average(table[list(item)], axis=0)


def is_whole(transformer: "Transformer") -> bool:
    """Whether a model has the vocabulary of its checkpoint as it is."""
    return transformer.keep_tokens is None and transformer.compound_tokens is None


def cut(transformer: "Transformer", embeddings: np.ndarray) -> np.ndarray:
    """Cut a whole table (vocabulary, ...) down to `keep_tokens` and add `compound_tokens`.

    Raises:
        CheckpointError: the table is of another vocabulary.
    """
    if is_whole(transformer):
        return embeddings
    if len(embeddings) != transformer.full_vocab_size:
        raise CheckpointError(of_another_vocabulary(transformer, len(embeddings)))
    if transformer.keep_tokens is not None:
        embeddings = embeddings[transformer.keep_tokens]
    if transformer.compound_tokens is not None:
        compounds = [average_rows(embeddings, item) for item in transformer.compound_tokens]
        embeddings = np.concatenate([embeddings, np.asarray(compounds, embeddings.dtype)])
    return embeddings


def of_another_vocabulary(transformer: "Transformer", n_tokens: int) -> str:
    """What is wrong when a vocabulary to be cut down or extended is not that of the config."""
    return (
        f"keep_tokens and compound_tokens are about a vocabulary of {transformer.full_vocab_size} "
        f"tokens, and the checkpoint has {n_tokens}. If it was saved from a model with them, "
        "set vocab_size to its number and leave both out; otherwise correct vocab_size"
    )


def is_cut(transformer: "Transformer", file: Any) -> bool:
    """Whether the vocabulary of an open file is that of this model, cut down and extended.

    Raises:
        CheckpointError: it was cut down in another way.
    """
    if file.container == "keras":
        return True
    record = recorded_vocabulary(file.path)
    if record is None:
        return False
    if record == vocabulary_record(transformer) or (
        is_whole(transformer) and transformer.vocab_size == saved_size(record)
    ):
        return True
    raise CheckpointError(
        f"the vocabulary of {file.path} was cut down from {record['vocab_size']} to "
        f"{saved_size(record)} tokens when it was saved, and this model is built for "
        f"{transformer.vocab_size} of {transformer.full_vocab_size}. Give the same keep_tokens and "
        "compound_tokens, or none and vocab_size of the saved number"
    )
