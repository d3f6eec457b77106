"""Common losses of Transformers that Keras lacks. All are computed in float32.

multi-label         MultilabelCrossentropy SparseMultilabelCrossentropy
one label a token   TokenCrossentropy SparseCategoricalFocalCrossentropy RDropCrossentropy
others              TokenAccuracy divergence
base classes        PositionLoss BatchLoss; `vector_losses` has those of sentence embeddings
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from bert4keras.backend.losses import (
    check_labels,
    flat_indices,
    multilabel_categorical_crossentropy,
    sparse_multilabel_categorical_crossentropy,
)
from bert4keras.backend.saving import registered
from bert4keras.backend.tensors import Tensor, align, flatten, lowest
from bert4keras.keras_private import mask_of, set_mask


def divergence(target: Tensor, prediction: Tensor, from_logits: bool = False) -> Tensor:
    """Kullback-Leibler divergence Σ p · (log p − log q) over the last axis, in float32.

    Kullback and Leibler, 1951. Gradients flow to both; `ops.stop_gradient` keeps one constant.

    Args:
        target: (..., classes), the distribution p, or its logits.
        prediction: (..., classes), the distribution q, or its logits.
        from_logits: whether both are logits. Probabilities are clipped to at least the Keras
            epsilon (1e-7) in the logarithms; classes whose logits are minus infinity in both are
            left out.

    Returns:
        (...), in nats.
    """
    log_target, log_prediction = (log_probabilities(x, from_logits) for x in (target, prediction))
    weights = ops.exp(log_target) if from_logits else ops.cast(target, "float32")
    return ops.sum(weights * (log_target - log_prediction), axis=-1)


def log_probabilities(x: Tensor, from_logits: bool) -> Tensor:
    """Compute finite log-probabilities (..., classes) in float32 from probabilities or logits."""
    x = ops.cast(x, "float32")
    return ops.log_softmax(finite_logits(x), axis=-1) if from_logits else safe_log(x)


def finite_logits(x: Tensor) -> Tensor:
    """Replace minus infinity, whose product with 0 is NaN, in logits (..., classes), float32."""
    return ops.maximum(x, lowest("float32"))


def safe_log(probabilities: Tensor) -> Tensor:
    """Compute finite logarithms of probabilities, also of 0."""
    return ops.log(ops.clip(probabilities, keras.config.epsilon(), 1))


def label_log_probabilities(label_ids: Tensor, y_pred: Tensor, from_logits: bool) -> Tensor:
    """Compute the log-probabilities (...) of labels (...) under y_pred (..., classes)."""
    if from_logits:
        return -ops.sparse_categorical_crossentropy(
            label_ids, finite_logits(y_pred), from_logits=True
        )
    return safe_log(ops.take_along_axis(y_pred, label_ids[..., None], axis=-1)[..., 0])


def broadcast_weights(weights: Tensor, shape: Sequence[Any]) -> Tensor:
    """Broadcast weights of samples, or of more leading axes, to all positions of a loss."""
    weights = ops.convert_to_tensor(weights)
    if len(weights.shape) > len(shape):
        return weights  # (batch, 1) for a loss (batch,), which Keras understands
    return align(weights, range(len(weights.shape)), len(shape)) * ops.ones(shape, weights.dtype)


def mask_labels(labels: Tensor, weights: Tensor) -> Tensor:
    """Set labels (..., [classes]) to 0 where a mask or weights (...) are 0, if their axes fit."""
    mask: Tensor = ops.cast(weights, "bool")
    if len(mask.shape) > len(labels.shape):
        return labels
    mask = align(mask, range(len(mask.shape)), len(labels.shape))
    return ops.where(mask, labels, ops.zeros_like(labels))


def check_groups(loss: Any, y_pred: Tensor, group: int) -> None:
    """Raise a ValueError if the batch size, as far as known, is not a multiple of the group."""
    batch = y_pred.shape[0]
    if batch is not None and batch % group:
        raise ValueError(
            f"{type(loss).__name__} got a batch of {batch} samples, but every {group} consecutive "
            f"samples belong together: let batch_size be a multiple of {group}, do not shuffle "
            "single samples, and drop the last batch of an epoch if it is smaller"
        )


class Float32Loss(keras.losses.Loss):
    """Base of all losses: they are computed in float32, whatever the type of the predictions."""

    def __init__(self, reduction: str | None = "sum_over_batch_size", name: str | None = None):
        super().__init__(name=name, reduction=reduction, dtype="float32")


class PositionLoss(Float32Loss):
    """Base of losses that have a value for each position.

    They take the masks and sample weights that losses of Keras take; a weight may be given for each
    sample instead of each position. Where the prediction is masked or the weight is 0, labels may
    have any value. Elsewhere a label out of range is a ValueError, or in a compiled step makes the
    loss NaN, without a gradient.
    """

    class_axes = 1
    """Number of axes of the prediction that are classes; those before are positions."""

    def __call__(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> Any:
        """Return the reduced loss."""
        if sample_weight is not None:
            positions = ops.shape(y_pred)[: len(y_pred.shape) - self.class_axes]
            sample_weight = broadcast_weights(sample_weight, positions)
        for weights in (mask_of(y_pred), sample_weight):
            if weights is not None:
                y_true = mask_labels(y_true, weights)
        return super().__call__(y_true, y_pred, sample_weight)


class BatchLoss(Float32Loss):
    """Base of losses that compare the samples of a batch, in consecutive groups of `group` samples.

    They take no sample weights: others would still be compared with a sample of weight 0.
    """

    group = 2

    def __call__(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> Any:
        """Return the reduced loss."""
        if sample_weight is not None:
            raise ValueError(
                f"{type(self).__name__} compares the samples of a batch with each other and takes "
                "no sample_weight or class_weight: leave samples out of the batch instead"
            )
        check_groups(self, y_pred, self.group)
        return super().__call__(y_true, y_pred)


# ------------------------------------------------------------------------------------- multi-label


@registered
class MultilabelCrossentropy(PositionLoss):
    """`multilabel_categorical_crossentropy` as a loss of Keras, for hard and for soft labels.

    log(1 + Σ exp(−sᵢ + log tᵢ)) + log(1 + Σ exp(sᵢ + log(1 − tᵢ))) for logits s and labels t
    (https://kexue.fm/archives/7359, https://kexue.fm/archives/9064), the circle loss (Sun et al.,
    2020) of classes. The classes with a logit above 0 are predicted.

    y_true: (..., classes), from 0 to 1.
    y_pred: (..., classes), logits; minus infinity leaves a class out.

    Args:
        class_axes: number of axes that are classes; 2 for the scores (batch, heads, length, length)
            of `GlobalPointer`, where each head is a classification of its own.
        reduction: see `keras.losses.Loss`.
        name: name of the loss.
    """

    def __init__(self, class_axes: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.class_axes = class_axes

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the loss of each position, (...)."""
        y_true, y_pred = (flatten(x, -self.class_axes) for x in (y_true, y_pred))
        return multilabel_categorical_crossentropy(y_true, y_pred)

    def get_config(self) -> dict:
        """Return the arguments of the constructor."""
        return super().get_config() | {"class_axes": self.class_axes}


@registered
class SparseMultilabelCrossentropy(PositionLoss):
    """`sparse_multilabel_categorical_crossentropy` as a loss of Keras.

    `MultilabelCrossentropy` with the correct classes given by index
    (https://kexue.fm/archives/8888).

    y_true: (..., n), class indices, padded to the same n; (..., n, class_axes) with several axes.
    y_pred: (..., classes), logits.

    Args:
        mask_zero: index 0 is padding, and its logit is left out; with several axes that is the
            class whose index is 0 along all of them.
        class_axes: number of axes that are classes; 2 for the scores (batch, heads, length, length)
            of `GlobalPointer`, whose labels are then (batch, heads, n, 2), start and end of each
            span.
        reduction: see `keras.losses.Loss`.
        name: name of the loss.
    """

    def __init__(self, mask_zero: bool = False, class_axes: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mask_zero = mask_zero
        self.class_axes = class_axes

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the loss of each position, (...)."""
        if self.class_axes > 1:
            shape: Any = ops.shape(y_pred)
            y_true = flat_indices(
                y_true, shape[-self.class_axes :], f"class indices of {self.name}"
            )
            y_pred = flatten(y_pred, -self.class_axes)
        return sparse_multilabel_categorical_crossentropy(y_true, y_pred, self.mask_zero)

    def get_config(self) -> dict:
        """Return the arguments of the constructor."""
        own = {"mask_zero": self.mask_zero, "class_axes": self.class_axes}
        return super().get_config() | own


# ------------------------------------------------------------------------------- one label a token


class SparseLoss(PositionLoss):
    """Base of losses of labels given by index, some of which may be ignored.

    y_true: (...) or (..., 1), label ids.
    y_pred: (..., classes), probabilities or logits.

    Args:
        from_logits: whether predictions are logits; minus infinity leaves a class out.
        ignore: label id of positions without a label, such as padding. They are masked: the default
            reduction takes the mean over all others, and 0 if there are none.
        reduction: see `keras.losses.Loss`.
        name: name of the loss.
    """

    def __init__(self, from_logits: bool = False, ignore: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.from_logits = from_logits
        self.ignore = ignore

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the loss of each position, (...), 0 at ignored ones."""
        n_classes = ops.shape(y_pred)[-1]
        check_labels(y_true, 0, n_classes - 1, f"label ids of {self.name}", also=self.ignore)
        label_ids = ops.cast(y_true, "int32")
        if len(label_ids.shape) == len(y_pred.shape):
            label_ids = ops.squeeze(label_ids, axis=-1)
        in_range = ops.logical_and(label_ids >= 0, label_ids < n_classes)
        if self.ignore is None:
            losses = self.position_losses(ops.where(in_range, label_ids, 0), y_pred)
            return ops.where(in_range, losses, float("nan"))
        counted = label_ids != self.ignore
        # A model without a mask may compute anything at padding, NaN included.
        y_pred = ops.where(counted[..., None], y_pred, ops.ones_like(y_pred))
        label_ids = ops.where(ops.logical_and(counted, in_range), label_ids, 0)
        losses = ops.where(in_range, self.position_losses(label_ids, y_pred), float("nan"))
        losses = ops.where(counted, losses, 0.0)
        set_mask(losses, counted)
        return losses

    def position_losses(self, label_ids: Tensor, y_pred: Tensor) -> Tensor:
        """Return the loss (...) of labels (...), int32, under predictions (..., classes)."""
        raise NotImplementedError(f"{type(self).__name__} must define position_losses()")

    def get_config(self) -> dict:
        """Return the arguments of the constructor."""
        return super().get_config() | {"from_logits": self.from_logits, "ignore": self.ignore}


@registered
class TokenCrossentropy(SparseLoss):
    """Cross-entropy of token labels, some of which may be ignored, with label smoothing.

    (1 − ε) · (−log p of the label) + ε · (mean of −log p over all classes), for ε `label_smoothing`
    (Szegedy et al., 2016, https://arxiv.org/abs/1512.00567). For a language model, a tagger, or the
    n predictions of a masked language model, where samples with fewer masked tokens are padded with
    the id `ignore`.

    Args:
        label_smoothing: ε, from 0 to 1.
        from_logits: whether predictions are logits; minus infinity leaves a class out.
        ignore: label id of positions without a label, which are masked.
        reduction: the default takes the mean over the positions that are not ignored. Keras divides
            the sum by their number even if there are sample weights; 'mean_with_sample_weight'
            divides by the sum of the weights, which is right for weights of 0 and 1. Gradient
            accumulation averages the means of batches, whatever the number of positions in each;
            'sum', with `compile(loss_weights=1 / n)` for n positions in a typical batch, gives all
            positions the same weight, as one large batch does.
        name: name of the loss.
    """

    def __init__(self, label_smoothing: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing is a number from 0 to 1, not {label_smoothing}")
        self.label_smoothing = label_smoothing

    def position_losses(self, label_ids: Tensor, y_pred: Tensor) -> Tensor:
        """Return the loss (...) of labels (...), int32, under predictions (..., classes)."""
        losses = -label_log_probabilities(label_ids, y_pred, self.from_logits)
        if not self.label_smoothing:
            return losses
        uniform = -ops.mean(log_probabilities(y_pred, self.from_logits), axis=-1)
        return (1 - self.label_smoothing) * losses + self.label_smoothing * uniform

    def get_config(self) -> dict:
        """Return the arguments of the constructor."""
        return super().get_config() | {"label_smoothing": self.label_smoothing}


@registered
class SparseCategoricalFocalCrossentropy(SparseLoss):
    """Focal loss of labels given by index: −α · (1 − p)^γ · log p for the probability p of a label.

    Lin et al., 2017 (https://arxiv.org/abs/1708.02002). Keras has it for one-hot labels
    (`CategoricalFocalCrossentropy`) and for binary ones (`BinaryFocalCrossentropy`); the defaults
    are the same.

    Args:
        alpha: factor of all classes, or one for each class.
        gamma: how strongly well predicted positions are weighted down; 0 for cross-entropy.
        from_logits: whether predictions are logits; minus infinity leaves a class out.
        ignore: label id of positions without a label, which are masked.
        reduction: as in `TokenCrossentropy`.
        name: name of the loss.
    """

    def __init__(
        self, alpha: float | Sequence[float] = 0.25, gamma: float = 2.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.alpha = list(alpha) if isinstance(alpha, Sequence) else alpha
        self.gamma = gamma

    def position_losses(self, label_ids: Tensor, y_pred: Tensor) -> Tensor:
        """Return the loss (...) of labels (...), int32, under predictions (..., classes)."""
        log_p = label_log_probabilities(label_ids, y_pred, self.from_logits)
        alpha = ops.convert_to_tensor(self.alpha, dtype="float32")
        if isinstance(self.alpha, list):
            alpha = ops.take(alpha, label_ids)
        # Not exactly 0, where a power below 1 has no gradient.
        error = ops.clip(-ops.expm1(log_p), keras.config.epsilon(), 1)
        return -alpha * ops.power(error, self.gamma) * log_p

    def get_config(self) -> dict:
        """Return the arguments of the constructor."""
        return super().get_config() | {"alpha": self.alpha, "gamma": self.gamma}


@registered
class RDropCrossentropy(TokenCrossentropy):
    """Cross-entropy of repeated samples, plus the divergence of their two predictions.

    `TokenCrossentropy` of each sample plus alpha / 4 · (KL(p‖q) + KL(q‖p)) for the predictions p
    and q at samples 2i and 2i + 1, which dropout makes different (Wu et al., 2021,
    https://arxiv.org/abs/2106.14448; https://kexue.fm/archives/8496). Both have the same label and
    the same masks; repeat a batch by `np.repeat(x, 2, axis=0)`. The training step `RDrop` does the
    same without repeated samples.

    Args:
        alpha: weight of the divergence.
        **kwargs: see `TokenCrossentropy`.
    """

    def __init__(self, alpha: float = 4.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.alpha = alpha

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the loss of each position, (2n, ...), 0 at ignored ones."""
        check_groups(self, y_pred, 2)
        return super().call(y_true, y_pred)

    def position_losses(self, label_ids: Tensor, y_pred: Tensor) -> Tensor:
        """Return the loss (2n, ...) of labels (2n, ...), int32, under y_pred (2n, ..., classes)."""
        pairs = ops.reshape(y_pred, (-1, 2, *ops.shape(y_pred)[1:]))
        p, q = pairs[:, 0], pairs[:, 1]
        both = divergence(p, q, self.from_logits) + divergence(q, p, self.from_logits)
        return super().position_losses(label_ids, y_pred) + self.alpha / 4 * ops.repeat(both, 2, 0)

    def get_config(self) -> dict:
        """Return the arguments of the constructor."""
        return super().get_config() | {"alpha": self.alpha}


@registered
class TokenAccuracy(keras.metrics.SparseCategoricalAccuracy):
    """Fraction of the positions, ignored ones left out, where the label is the likeliest class.

    For `compile(metrics=…)`; masks of the prediction and sample weights are applied as in Keras.

    y_true: (batch, ...), label ids.
    y_pred: (batch, ..., classes), probabilities or logits.

    Args:
        ignore: label id of positions without a label.
        name: name of the metric.
        **kwargs: see `keras.metrics.Metric`.
    """

    def __init__(self, ignore: int, name: str = "token_accuracy", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.ignore = ignore

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> None:
        """Accumulate a batch."""
        y_true = ops.convert_to_tensor(y_true)
        counted = ops.cast(y_true != self.ignore, self.dtype)
        if sample_weight is not None:
            counted = counted * ops.cast(
                broadcast_weights(sample_weight, ops.shape(y_true)), self.dtype
            )
        super().update_state(y_true, y_pred, counted)

    def get_config(self) -> dict:
        """Return the arguments of the constructor."""
        return super().get_config() | {"ignore": self.ignore}
