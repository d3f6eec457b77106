"""Sentence embeddings and rerankers, from folders in the format of sentence-transformers.

* `SentenceEncoder` computes embeddings of texts; its `model` is trained like any other.
* `CrossEncoder` scores pairs of texts, and ranks texts for a query.
* `quantize_embeddings` quantizes embeddings to bytes or bits.
* `folder` reads and writes the files; `inputs` makes arrays of texts, sorted by length, of few
  shapes.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bert4keras.sentences.encoder import SentenceEncoder
    from bert4keras.sentences.reranker import CrossEncoder
    from bert4keras.sentences.vectors import quantize_embeddings

__all__ = ["CrossEncoder", "SentenceEncoder", "quantize_embeddings"]

_ROOMS = {
    "CrossEncoder": "reranker",
    "SentenceEncoder": "encoder",
    "quantize_embeddings": "vectors",
}


def __getattr__(name: str) -> object:
    """Import where it is asked for: what reads folders uses no Keras."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return __all__
