"""Losses of sentence embeddings, which compare the samples of a batch. Computed in float32.

CoSENT       sentence pairs with labels
SimCSE       the same sentence twice, or with a positive and a negative
InfoNCE      queries, their answers, and any number of hard negatives
Matryoshka   any of these, also of the first components of the embeddings
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from bert4keras.backend.saving import registered
from bert4keras.backend.tensors import Tensor, lowest
from bert4keras.training.losses import BatchLoss


def unit_vectors(x: Tensor) -> Tensor:
    """Divide vectors (..., size) by their norm; a zero vector, by 1."""
    squares: Any = ops.sum(ops.square(x), axis=-1, keepdims=True)
    return x * ops.rsqrt(ops.where(squares > 0, squares, 1.0))


def positive_losses(groups: Tensor, temperature: float) -> Tensor:
    """Compute the cross-entropy of each anchor's positive among all other samples of the groups.

    Args:
        groups: (n, samples of a group, size), unit vectors: an anchor, its positive, and any number
            of negatives. The candidates of an anchor are all samples but the anchors.
        temperature: divisor of the cosines.

    Returns:
        (n,).
    """
    anchors = groups[:, 0]
    # All positives, then the first negatives of all groups, and so on: i has candidate i.
    others = ops.transpose(groups[:, 1:], (1, 0, 2))
    candidates = ops.reshape(others, (-1, groups.shape[-1]))
    products: Any = ops.matmul(anchors, ops.transpose(candidates))
    sizes: Any = ops.shape(anchors)
    positives = ops.arange(sizes[0], dtype="int32")
    return ops.sparse_categorical_crossentropy(positives, products / temperature, from_logits=True)


@registered
class CoSENT(BatchLoss):
    """Rank the cosine similarities of sentence pairs in the order of the labels of the pairs.

    Samples 2i and 2i + 1 are a pair with cosine cᵢ and label yᵢ. The loss of a batch is
    log(1 + Σ exp(scale · (cⱼ − cᵢ))) over all i, j with yᵢ > yⱼ
    (https://kexue.fm/archives/8847). Labels may be classes or scores, since they are only compared.

    y_true: (2n,) or (2n, 1), the label of a pair at both of its samples; that at 2i is read.
    y_pred: (2n, size), the sentence embeddings, of any norm.

    Args:
        scale: factor of the cosines, 1 / temperature.
        reduction: see `keras.losses.Loss`; None gives the loss in shape (1,).
        name: name of the loss.
    """

    def __init__(self, scale: float = 20.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scale = scale

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the loss, (1,)."""
        by_pair: Any = ops.reshape(y_true, (-1, 2))
        labels = by_pair[:, 0]
        pairs: Any = ops.reshape(unit_vectors(y_pred), (-1, 2, y_pred.shape[-1]))
        products: Any = ops.sum(pairs[:, 0] * pairs[:, 1], axis=-1)
        cosines = self.scale * products
        excess = ops.where(
            labels[:, None] > labels, cosines - cosines[:, None], lowest(cosines.dtype)
        )
        # Of shape (1,), not (): Keras divides losses by the number of replicas if they have an
        # axis.
        exponents = ops.concatenate([ops.zeros((1,)), ops.reshape(excess, (-1,))], axis=0)
        return ops.logsumexp(exponents, axis=0, keepdims=True)

    def get_config(self) -> dict:
        """Return the arguments of the constructor."""
        return super().get_config() | {"scale": self.scale}


@registered
class SimCSE(BatchLoss):
    """Contrastive loss of sentence embeddings with in-batch negatives.

    Each anchor has one positive among the candidates; its loss is the cross-entropy of
    softmax(cosine / temperature) over the candidates (Gao et al., 2021,
    https://arxiv.org/abs/2104.08821).

    * Samples 2i and 2i + 1 are the same sentence twice, which dropout makes different, or two
      sentences with the same meaning. Every sample is an anchor, and all others are its candidates,
      as in https://kexue.fm/archives/8348.
    * With `hard_negatives`, samples 3i, 3i + 1 and 3i + 2 are a sentence, one with the same meaning
      and one with the opposite meaning. The first are anchors, all others candidates.

    y_true: not read, but required by Keras: zeros of shape (batch,).
    y_pred: (batch, size), the sentence embeddings, of any norm.

    Args:
        temperature: divisor of the cosines.
        hard_negatives: whether each group has a third sample.
        reduction: see `keras.losses.Loss`; None gives a loss for each anchor.
        name: name of the loss.
    """

    def __init__(
        self, temperature: float = 0.05, hard_negatives: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.temperature = temperature
        self.hard_negatives = hard_negatives
        self.group = 3 if hard_negatives else 2

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the loss of each anchor, (anchors,)."""
        size = y_pred.shape[-1]
        groups = ops.reshape(unit_vectors(y_pred), (-1, self.group, size))
        if self.hard_negatives:
            return positive_losses(groups, self.temperature)
        anchors = ops.reshape(groups, (-1, size))
        sizes: Any = ops.shape(anchors)
        indices: Any = ops.arange(sizes[0], dtype="int32")
        scores: Any = ops.matmul(anchors, ops.transpose(anchors))
        scores = ops.where(
            indices[:, None] == indices, lowest(scores.dtype), scores / self.temperature
        )
        positives = indices + 1 - 2 * (indices % 2)
        return ops.sparse_categorical_crossentropy(positives, scores, from_logits=True)

    def get_config(self) -> dict:
        """Return the arguments of the constructor."""
        return super().get_config() | {
            "temperature": self.temperature,
            "hard_negatives": self.hard_negatives,
        }


@registered
class InfoNCE(BatchLoss):
    """Contrastive loss of queries and answers with in-batch and any number of hard negatives.

    Samples come in groups of 2 + n: a query, its answer, and n hard negatives, texts that look like
    an answer and are none. The candidates of each query are the answers and the hard negatives of
    the whole batch; its loss is the cross-entropy of softmax(cosine / temperature) over these (van
    den Oord et al., 2018, https://arxiv.org/abs/1807.03748; negatives of the batch: Henderson et
    al., 2017, https://arxiv.org/abs/1705.00652). A text that answers two queries of a batch counts
    as wrong for either of them, so that such queries belong in different batches.

    y_true: not read, but required by Keras: zeros of shape (batch,).
    y_pred: (batch, size), the sentence embeddings, of any norm.

    Args:
        temperature: divisor of the cosines.
        hard_negatives: number of them in each group.
        reduction: see `keras.losses.Loss`; None gives a loss for each query.
        name: name of the loss.

    Raises:
        ValueError: a negative number of hard negatives.
    """

    def __init__(self, temperature: float = 0.05, hard_negatives: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if hard_negatives < 0:
            raise ValueError(f"InfoNCE: hard_negatives is {hard_negatives}, give at least 0")
        self.temperature = temperature
        self.hard_negatives = int(hard_negatives)
        self.group = 2 + self.hard_negatives

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the loss of each query, (queries,)."""
        groups = ops.reshape(unit_vectors(y_pred), (-1, self.group, y_pred.shape[-1]))
        return positive_losses(groups, self.temperature)

    def get_config(self) -> dict:
        """Return the arguments of the constructor."""
        return super().get_config() | {
            "temperature": self.temperature,
            "hard_negatives": self.hard_negatives,
        }


@registered
class Matryoshka(BatchLoss):
    """Train sentence embeddings whose first components are embeddings as well.

    The loss is Σ weight · loss(first `size` components) over some sizes (Kusupati et
    al., 2022, https://arxiv.org/abs/2205.13147). An index with little memory keeps only these.

    y_true, y_pred: those of the loss.

    Args:
        loss: a loss of this module.
        sizes: numbers of components; the full size should be one of them.
        weights: of the sizes, 1 each by default.
        reduction: see `keras.losses.Loss`.
        name: name of the loss.

    Raises:
        TypeError: the loss is none of this module.
        ValueError: no sizes, sizes below 1, or another number of weights; in a call, vectors that
            are shorter than a size.
    """

    def __init__(
        self,
        loss: BatchLoss,
        sizes: Sequence[int],
        weights: Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(loss, BatchLoss):
            raise TypeError(f"Matryoshka: loss is {loss!r}, give one such as CoSENT() or InfoNCE()")
        if not sizes or min(sizes) < 1 or len(weights or sizes) != len(sizes):
            raise ValueError(
                f"Matryoshka: the sizes are {sizes} and the weights {weights}; give sizes of at "
                "least 1, and a weight for each or none"
            )
        self.loss = loss
        self.sizes = list(sizes)
        self.weights = list(weights or [1.0] * len(sizes))
        self.group = loss.group

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the weighted sum of what the loss gives for each size."""
        if max(self.sizes) > y_pred.shape[-1]:
            raise ValueError(
                f"Matryoshka: a size is {max(self.sizes)}, and the vectors have "
                f"{y_pred.shape[-1]} numbers; give no larger sizes"
            )
        losses = [self.loss.call(y_true, y_pred[:, :size]) for size in self.sizes]
        return sum(w * x for w, x in zip(self.weights, losses, strict=True))

    def get_config(self) -> dict:
        """Return the arguments of the constructor."""
        return super().get_config() | {
            "loss": keras.saving.serialize_keras_object(self.loss),
            "sizes": self.sizes,
            "weights": self.weights,
        }

    @classmethod
    def from_config(cls, config: dict) -> "Matryoshka":
        """Make the loss that `get_config` describes."""
        return cls(**config | {"loss": keras.saving.deserialize_keras_object(config["loss"])})
