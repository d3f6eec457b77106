"""Training: what models are fed with.

    feed    BatchFeed, as_feed: batches for `fit`, `evaluate` and `predict`
"""

from bert4keras.training.feed import BatchFeed, as_feed

__all__ = ["BatchFeed", "as_feed"]
