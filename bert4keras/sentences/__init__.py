"""Sentence embeddings and rerankers, from folders in the format of sentence-transformers.

* `SentenceEncoder` computes embeddings of texts; its `model` is trained like any other.
* `CrossEncoder` scores pairs of texts, and ranks texts for a query.
* `quantize_embeddings` quantizes embeddings to bytes or bits.
* `folder` reads and writes the files; `inputs` makes arrays of texts, sorted by length, of few
  shapes.
"""

from typing import TYPE_CHECKING

from bert4keras.lazy import lazy_imports

if TYPE_CHECKING:
    from bert4keras.sentences.encoder import SentenceEncoder
    from bert4keras.sentences.reranker import CrossEncoder
    from bert4keras.sentences.vectors import quantize_embeddings

__all__ = ["CrossEncoder", "SentenceEncoder", "quantize_embeddings"]

# So that `folder` can be used without Keras.
__getattr__, __dir__ = lazy_imports(
    __name__,
    {
        "CrossEncoder": "reranker",
        "SentenceEncoder": "encoder",
        "quantize_embeddings": "vectors",
    },
)
