"""Vocabularies that are cut down to `keep_tokens` and extended by `compound_tokens`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bert4keras.checkpoints.base import CheckpointError
from bert4keras.models.vocabulary_record import recorded_vocabulary, saved_size, vocabulary_record

if TYPE_CHECKING:
    from bert4keras.models.transformer import Transformer


def check_keep_tokens(keep_tokens: Sequence[int] | None, vocab_size: int) -> Sequence[int] | None:
    """Check that `keep_tokens` are ids of the vocabulary, and return them."""
    outside = [i for i in ([] if keep_tokens is None else keep_tokens) if not 0 <= i < vocab_size]
    if outside:
        raise ValueError(
            f"keep_tokens holds {len(outside)} ids outside of the vocabulary of {vocab_size} "
            f"tokens, first {outside[0]}: give ids of the vocabulary of this checkpoint"
        )
    return keep_tokens


def renumber(token_id: int, keep_tokens: Sequence[int] | None) -> int:
    """Return the id of the padding token after cutting down; 0 and -1 (none) do not change."""
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


def has_whole_vocabulary(transformer: "Transformer") -> bool:
    """Tell whether a model has the unchanged vocabulary of its checkpoint."""
    return transformer.keep_tokens is None and transformer.compound_tokens is None


def cut_table(transformer: "Transformer", embeddings: np.ndarray) -> np.ndarray:
    """Cut a whole table (vocabulary, ...) down to `keep_tokens` and append `compound_tokens`.

    Raises:
        CheckpointError: the table has the size of another vocabulary.
    """
    if has_whole_vocabulary(transformer):
        return embeddings
    if len(embeddings) != transformer.full_vocab_size:
        raise CheckpointError(vocabulary_mismatch(transformer, len(embeddings)))
    if transformer.keep_tokens is not None:
        embeddings = embeddings[transformer.keep_tokens]
    if transformer.compound_tokens is not None:
        compounds = [average_rows(embeddings, item) for item in transformer.compound_tokens]
        embeddings = np.concatenate([embeddings, np.asarray(compounds, embeddings.dtype)])
    return embeddings


def vocabulary_mismatch(transformer: "Transformer", n_tokens: int) -> str:
    """Return the message for a checkpoint whose vocabulary is not that of the config."""
    return (
        f"keep_tokens and compound_tokens are for a vocabulary of {transformer.full_vocab_size} "
        f"tokens, and the checkpoint has {n_tokens}. If it was saved from a model with them, "
        f"set vocab_size={n_tokens} and leave both out; otherwise correct vocab_size"
    )


def has_cut_vocabulary(transformer: "Transformer", file: Any) -> bool:
    """Tell whether the vocabulary of an open file has been cut down and extended as this model's.

    Raises:
        CheckpointError: it was cut down in another way.
    """
    if file.container == "keras":
        return True
    record = recorded_vocabulary(file.path)
    if record is None:
        return False
    if record == vocabulary_record(transformer) or (
        has_whole_vocabulary(transformer) and transformer.vocab_size == saved_size(record)
    ):
        return True
    raise CheckpointError(
        f"the vocabulary of {file.path} was cut down from {record['vocab_size']} to "
        f"{saved_size(record)} tokens when it was saved, and this model is built for "
        f"{transformer.vocab_size} of {transformer.full_vocab_size}. Give the same keep_tokens and "
        "compound_tokens, or none and vocab_size of the saved number"
    )
