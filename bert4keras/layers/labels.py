"""Sequence labelling: the conditional random field and the maximum-entropy Markov model."""

import functools
from typing import Any

import keras
import numpy as np
from keras import initializers, ops

from bert4keras.backend.engines import compiled_without_weights, known_values
from bert4keras.backend.loops import fold, scan
from bert4keras.backend.saving import registered
from bert4keras.backend.tensors import Tensor, batch_gather, lowest, sequence_masking
from bert4keras.layers.base import Mask, require_positive
from bert4keras.layers.padding import MaskReader


def visible_mean(values: Tensor, visible: Tensor) -> Tensor:
    """Mean of `values` (batch, length) over the visible positions, 0 if there are none."""
    visible = ops.cast(visible, values.dtype)
    return ops.sum(values * visible) / ops.maximum(ops.sum(visible), 1)


def previous_visible(x: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    """Gather the features of the last visible position before each position.

    Args:
        x: (batch, length, features).
        visible: (batch, length), booleans.

    Returns:
        The features (batch, length, features), zeros where there is no such position, and whether
        there is one (batch, length).
    """
    length = ops.shape(visible)[1]
    positions = ops.arange(length, dtype="int32")
    visible_first = ops.argsort(ops.where(visible, positions, positions + length), axis=1)
    count = ops.cast(visible, "int32")
    n_before = ops.cumsum(count, axis=1) - count
    index = ops.take_along_axis(visible_first, ops.maximum(n_before - 1, 0), axis=1)
    exists = n_before > 0
    return ops.where(exists[..., None], batch_gather(x, index), 0), exists


def log_sum_exp(x: Tensor, axis: int) -> Tensor:
    """Logarithm of a sum of exponentials with a gradient that sums to 1.

    The gradient of `keras.ops.logsumexp` on PyTorch is exp(x − result), which loses precision where
    the result is large, as sums along a text are.
    """
    largest = ops.stop_gradient(ops.max(x, axis=axis, keepdims=True))
    total = ops.sum(ops.exp(x - largest), axis=axis, keepdims=True)
    return ops.squeeze(largest + ops.log(total), axis)


def without_last_axis(label_ids: Tensor) -> Tensor:
    """Return label ids as (batch, length), without a last axis of size 1."""
    has_it = len(label_ids.shape) == 3 and label_ids.shape[-1] == 1
    return label_ids[..., 0] if has_it else label_ids


class LabelChain(MaskReader):
    """Base of the layers that score label sequences by emissions and transitions.

    The call takes emissions (batch, length, labels), one score for each label at each position, and
    returns them in float32 with minus infinity at masked positions, by which the losses, metrics
    and `decode` recognise padding. Masked positions are skipped wherever they are, as if the text
    did not contain them. Everything is computed in float32 under any dtype policy.

        crf = ConditionalRandomField(lr_multiplier=2)
        scores = crf(Dense(n_labels)(hidden))
        model = Model(inputs, scores)  # of bert4keras.models
        model.compile(optimizer, loss=crf.sparse_loss, metrics=[crf.sparse_accuracy])
        tagger = Model(inputs, crf.decode(scores))  # shares its weights with `model`

    A `Model` is saved together with the loss of its layer. A `keras.Model` is not: load it with
    `load_model(path, compile=False)` and compile it with the `sparse_loss` of its own layer.

    Args:
        lr_multiplier: factor between the weights and the transition scores, which thereby have a
            learning rate of their own (https://kexue.fm/archives/7196).
    """

    # Where no label scores above this, the position is padding: scripts mask with -inf or -1e12.
    padding_score = -1e6

    def __init__(self, lr_multiplier: float = 1, **kwargs: Any) -> None:
        # Emissions keep the precision in which they are given.
        super().__init__(**{"autocast": False, **kwargs})
        if not lr_multiplier > 0:
            raise ValueError(
                f"{type(self).__name__} got lr_multiplier={lr_multiplier!r}: give a number above 0"
            )
        self.lr_multiplier = lr_multiplier

    def build(self, input_shape: Any) -> None:
        if len(input_shape) != 3 or input_shape[-1] is None:
            raise ValueError(
                f"{self.name} takes emissions (batch, length, labels) with a known number of "
                f"labels, not the shape {tuple(input_shape)}"
            )
        self.build_transitions(input_shape[-1])

    def build_transitions(self, labels: int) -> None:
        """Create the weights from which the transition scores are computed."""
        raise NotImplementedError(f"{type(self).__name__} must define build_transitions()")

    def add_transitions(self, name: str, shape: tuple[int, int]) -> Any:
        """Create a weight, initialised with Glorot's uniform distribution over lr_multiplier."""
        initializer = initializers.VarianceScaling(1 / self.lr_multiplier**2, "fan_avg", "uniform")
        return self.add_weight(name=name, shape=shape, initializer=initializer)

    @property
    def score_dtype(self) -> str:
        """The type in which scores are computed: float32, or float64 if the weights are float64."""
        return keras.backend.result_type(self.variable_dtype, "float32")

    def scaled_weight(self, weight: Any) -> Tensor:
        """Return a transition weight multiplied by `lr_multiplier`, as it enters the scores."""
        return self.lr_multiplier * ops.cast(weight, self.score_dtype)

    @property
    def trans(self) -> Tensor:
        """Transition scores from each label (row) to each label (column), (labels, labels)."""
        raise NotImplementedError(f"{type(self).__name__} must define trans")

    def call(self, inputs: Tensor, mask: Mask = None, decode: bool = False) -> Tensor:
        scores = sequence_masking(ops.cast(inputs, self.score_dtype), mask, "-inf", 1)
        return self.best_labels(scores) if decode else scores

    def compute_mask(self, inputs: Tensor, mask: Mask = None) -> None:
        # Keras would apply a mask to the loss, which has already been summed over the positions.
        return None

    def compute_output_spec(
        self, inputs: Tensor, mask: Mask = None, decode: bool = False
    ) -> keras.KerasTensor:
        if decode:
            return keras.KerasTensor(inputs.shape[:2], dtype="int32")
        return keras.KerasTensor(inputs.shape, dtype=self.score_dtype)

    def decode(self, emissions: Tensor, mask: Mask = None) -> Tensor:
        """Find the best label sequence of each text by the Viterbi algorithm, on the device.

        It takes arrays, tensors in compiled functions, and symbolic tensors, to build a model that
        predicts labels. The result equals that of `snippets.ViterbiDecoder(trans)` for each text.

        Args:
            emissions: (batch, length, labels), as the layer takes or returns them.
            mask: (batch, length), true where visible; taken from the tensor if not given.

        Returns:
            (batch, length), int32, the labels of the best path, in a tie those with smaller ids; 0
            at masked positions, as `sequence_padding` pads labels.
        """
        return self(emissions, mask=mask, decode=True)

    def visible(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Recognise padding by its scores: return them with 0 at padding, and what is visible."""
        scores = ops.cast(scores, self.score_dtype)
        visible = ops.any(scores > self.padding_score, axis=-1)
        return ops.where(visible[..., None], scores, 0), visible

    def initial_state(self, scores: Tensor) -> Tensor:
        """Return the state (batch, labels) before the first visible position: a path of score 0."""
        state = lowest(scores.dtype) * np.minimum(np.arange(scores.shape[-1]), 1)
        return ops.zeros_like(scores[:, 0]) + ops.cast(state, scores.dtype)

    def transitions(self, has_previous: Tensor, trans: Tensor) -> Tensor:
        """Return the transitions into a position, (batch, labels, labels), 0 into the first one."""
        return ops.where(has_previous[:, None, None], trans, 0)

    def best_labels(self, scores: Tensor) -> Tensor:
        """Find the best labels (batch, length) for scores that the layer has returned."""
        scores, visible = self.visible(scores)
        _, has_previous = previous_visible(scores, visible)
        trans, labels = self.trans, ops.arange(ops.shape(scores)[-1], dtype="int32")

        def forwards(best: Tensor, element: tuple) -> tuple[Tensor, Tensor]:
            emission, visible, has_previous = element
            paths = best[:, :, None] + self.transitions(has_previous, trans)
            visible = visible[:, None]
            origin = ops.where(visible, ops.cast(ops.argmax(paths, axis=1), "int32"), labels)
            best = ops.where(visible, ops.max(paths, axis=1) + emission, best)
            # keras.ops.scan on TensorFlow requires the outputs to have the type of the state.
            return best, ops.cast(origin, best.dtype)

        def backwards(label: Tensor, origin: Tensor) -> tuple[Tensor, Tensor]:
            return ops.take_along_axis(origin, label[:, None], axis=1)[:, 0], label

        by_time = (
            ops.transpose(scores, (1, 0, 2)),
            ops.transpose(visible),
            ops.transpose(has_previous),
        )
        best, origins = scan(forwards, self.initial_state(scores), by_time)
        last = ops.cast(ops.argmax(best, axis=-1), "int32")
        _, path = ops.scan(backwards, last, ops.cast(origins, "int32"), reverse=True)
        return ops.where(visible, ops.transpose(path), 0)

    def one_hot(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """One-hot encode label ids (batch, length) or (batch, length, 1), which may be floats."""
        y_true = without_last_axis(y_true)
        self.check_shape(y_true.shape, y_pred.shape[:-1], "sparse labels are ids (batch, length)")
        label_ids, _ = self.checked_label_ids(y_true, y_pred)
        return ops.one_hot(label_ids, y_pred.shape[-1], dtype=self.score_dtype)

    def checked_label_ids(self, y_true: Tensor, y_pred: Tensor) -> tuple[Tensor, Tensor]:
        """Find label ids (batch, length) that are out of range.

        Returns:
            The ids with 0 in place of those, and where one of those is at a visible position.

        Raises:
            ValueError: there is one at a visible position, unless this runs in compiled code.
        """
        label_ids, n_labels = ops.cast(y_true, "int32"), y_pred.shape[-1]
        in_range = ops.logical_and(label_ids >= 0, label_ids < n_labels)
        wrong = ops.logical_and(ops.logical_not(in_range), self.visible(y_pred)[1])
        known = known_values(wrong)
        if known is not None and known.any():
            row, position = (int(i) for i in np.argwhere(known)[0])
            raise ValueError(
                f"{self.name} has {n_labels} labels, from 0 to {n_labels - 1}, and got "
                f"{int(known_values(label_ids)[row, position])} at position {position} of row {row}"
                ", which is not masked: mask positions without a label, or correct the labels"
            )
        return ops.where(in_range, label_ids, 0), wrong

    def check_shape(self, given: Any, expected: Any, meaning: str) -> None:
        """Raise a ValueError if the shape of labels cannot be the expected one."""
        given, expected = tuple(given), tuple(expected)
        both = zip(given, expected, strict=False)
        if len(given) != len(expected) or any(a != b and a and b for a, b in both):
            raise ValueError(
                f"{self.name}: {meaning} and must have the shape {expected} for these scores, but "
                f"they have the shape {given}"
            )

    def prepare(self, y_true: Tensor, y_pred: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Check one-hot labels; return them and the scores, both 0 at padding, and the mask."""
        meaning = "dense labels are one-hot vectors (batch, length, labels)"
        self.check_shape(y_true.shape, y_pred.shape, meaning)
        scores, visible = self.visible(y_pred)
        y_true = ops.where(visible[..., None], ops.cast(y_true, scores.dtype), 0)
        return y_true, scores, visible

    def dense_loss(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Loss for labels as one-hot vectors (batch, length, labels); `y_pred` from the call."""
        return self.loss(*self.prepare(y_true, y_pred))

    def sparse_loss(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Loss for label ids (batch, length), of any value at padding; `y_pred` from the call.

        An id out of range at a visible position is an error. In a compiled function it makes the
        loss NaN, without a gradient.
        """
        loss = self.dense_loss(self.one_hot(y_true, y_pred), y_pred)
        wrong = ops.any(self.checked_label_ids(without_last_axis(y_true), y_pred)[1], axis=1)
        return ops.where(wrong if len(loss.shape) else ops.any(wrong), float("nan"), loss)

    def dense_accuracy(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Share of visible positions whose label has the best score; `y_true` one-hot vectors.

        It judges each position by itself, without a search for the best path.
        """
        accuracies = []
        for scores, labels, visible in self.views(*self.prepare(y_true, y_pred)):
            correct = ops.argmax(labels, axis=-1) == ops.argmax(scores, axis=-1)
            accuracies.append(visible_mean(ops.cast(correct, scores.dtype), visible))
        return sum(accuracies) / len(accuracies)

    def sparse_accuracy(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """`dense_accuracy` for label ids (batch, length)."""
        return self.dense_accuracy(self.one_hot(y_true, y_pred), y_pred)

    def views(
        self, y_true: Tensor, scores: Tensor, visible: Tensor
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """List triples of scores, labels and mask by which positions are judged one by one."""
        raise NotImplementedError(f"{type(self).__name__} must define views()")

    def loss(self, y_true: Tensor, scores: Tensor, visible: Tensor) -> Tensor:
        """Compute the loss of one-hot labels; labels and scores are 0 at padding."""
        raise NotImplementedError(f"{type(self).__name__} must define loss()")

    def get_config(self) -> dict:
        return super().get_config() | {"lr_multiplier": self.lr_multiplier}


@registered
class ConditionalRandomField(LabelChain):
    """Linear-chain conditional random field (Lafferty et al., 2001; https://kexue.fm/archives/5542).

    The probability of a label sequence is proportional to exp(sum of its emissions and
    transitions). `sparse_loss` and `dense_loss` give −log p of each text, (batch,). `LabelChain`
    shows how to use the layer.
    """

    def build_transitions(self, labels: int) -> None:
        self._trans = self.add_transitions("trans", (labels, labels))

    @property
    def trans(self) -> Tensor:
        return self.scaled_weight(self._trans)

    def loss(self, y_true: Tensor, scores: Tensor, visible: Tensor) -> Tensor:
        previous, has_previous = previous_visible(y_true, visible)
        trans = self.trans
        target = ops.sum(y_true * (scores + ops.matmul(previous, trans)), axis=(1, 2))

        def step(total: Tensor, element: tuple) -> Tensor:
            emission, visible, has_previous = element
            paths = total[:, :, None] + self.transitions(has_previous, trans)
            return ops.where(visible[:, None], log_sum_exp(paths, axis=1) + emission, total)

        by_time = (
            ops.transpose(scores, (1, 0, 2)),
            ops.transpose(visible),
            ops.transpose(has_previous),
        )
        return log_sum_exp(fold(step, self.initial_state(scores), by_time), axis=-1) - target

    def views(
        self, y_true: Tensor, scores: Tensor, visible: Tensor
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        return [(scores, y_true, visible)]


@registered
class MaximumEntropyMarkovModel(LabelChain):
    """Maximum-entropy Markov model in both directions (https://kexue.fm/archives/7213).

    A label is predicted from the mean of its emission and of the transition from the true label
    before it, and likewise from the true label after it; a label without such a neighbour from the
    emission alone. `sparse_loss` and `dense_loss` give a scalar, the mean cross-entropy over the
    visible positions of the batch and both directions. `decode` takes the best path under the
    emissions and `trans`, as with a CRF. `LabelChain` shows how to use the layer.

    Args:
        hidden_dim: if given, the transitions are factorised into two matrices (labels, hidden_dim),
            for large numbers of labels.
        **kwargs: see `LabelChain`.
    """

    def __init__(
        self, lr_multiplier: float = 1, hidden_dim: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(lr_multiplier, **kwargs)
        if hidden_dim is not None:
            require_positive(self, hidden_dim=hidden_dim)
        self.hidden_dim = hidden_dim

    def build_transitions(self, labels: int) -> None:
        if self.hidden_dim is None:
            self._trans = self.add_transitions("trans", (labels, labels))
        else:
            self._l_trans = self.add_transitions("l_trans", (labels, self.hidden_dim))
            self._r_trans = self.add_transitions("r_trans", (labels, self.hidden_dim))

    @property
    def factors(self) -> list[Tensor]:
        """Matrices whose product is the transition matrix."""
        if self.hidden_dim is None:
            return [self.scaled_weight(self._trans)]
        left, right = map(self.scaled_weight, (self._l_trans, self._r_trans))
        return [left, ops.transpose(right)]

    @property
    def trans(self) -> Tensor:
        return functools.reduce(ops.matmul, self.factors)

    def views(
        self, y_true: Tensor, scores: Tensor, visible: Tensor
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        factors = self.factors
        reverse = [ops.flip(x, axis=1) for x in (y_true, scores, visible)]
        return [
            self.view(y_true, scores, visible, factors),
            self.view(*reverse, [ops.transpose(factor) for factor in reversed(factors)]),
        ]

    def dense_accuracy(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """`LabelChain.dense_accuracy`, but a RuntimeError as a metric of `compile` on JAX."""
        if compiled_without_weights(self.weights, y_pred):
            raise RuntimeError(
                f"the accuracy of {self.name} depends on its transitions, but Keras passes no "
                "weights to metrics on JAX: leave it out of compile() and call it on the scores "
                "that model.predict() returns"
            )
        return super().dense_accuracy(y_true, y_pred)

    @staticmethod
    def view(
        y_true: Tensor, scores: Tensor, visible: Tensor, factors: list[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Average the emissions with the transitions from the label before each position."""
        previous, has_previous = previous_visible(y_true, visible)
        mean = (scores + functools.reduce(ops.matmul, factors, previous)) / 2
        return ops.where(has_previous[..., None], mean, scores), y_true, visible

    def loss(self, y_true: Tensor, scores: Tensor, visible: Tensor) -> Tensor:
        losses = [
            visible_mean(-ops.sum(labels * ops.log_softmax(x, axis=-1), axis=-1), visible)
            for x, labels, visible in self.views(y_true, scores, visible)
        ]
        return sum(losses) / len(losses)

    def get_config(self) -> dict:
        return super().get_config() | {"hidden_dim": self.hidden_dim}
