"""Scores of what models find and write, in NumPy alone.

All of them take what was found first, then what is right.

spans    precision, recall and F1 of entities, triples and other things of which a text has a set
texts    ROUGE and BLEU, of tokens or of the characters of Chinese texts
"""

from bert4keras.metrics.spans import precision_recall_f1, scores_by_kind, tagging_scores
from bert4keras.metrics.texts import corpus_bleu, rouge, sentence_bleu

__all__ = [
    "corpus_bleu",
    "precision_recall_f1",
    "rouge",
    "scores_by_kind",
    "sentence_bleu",
    "tagging_scores",
]
