"""Extensions that can be stacked on any Keras optimizer.

An extension is a mix-in class. `extending.extend` puts it in front of an optimizer class. It
revises the learning rate or the step that the wrapped optimizer has taken; in a stack the innermost
acts first.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Real

import keras
import numpy as np
from keras import ops

from bert4keras import keras_private
from bert4keras.backend.tensors import piecewise_linear
from bert4keras.keras_private import trained_variables
from bert4keras.optimizers.algorithms import (
    check_patterns,
    found_in,
    variable_name,
)
from bert4keras.optimizers.extending import EXTENSIONS, Extension, extend

# === The extensions ===


class _WeightDecay(Extension):
    """Weight decay that is decoupled from the gradient (Loshchilov & Hutter, 2019).

    Each step subtracts `learning_rate * weight_decay_rate * value`.

    Args:
        weight_decay_rate: 0.01 by default.
        exclude_from_weight_decay: regular expressions; a variable in whose path (`d1/kernel`) one
            of them is found does not decay. None by default.
    """

    def __init__(
        self,
        *args,
        weight_decay_rate: float = 0.01,
        exclude_from_weight_decay: Sequence[str] | None = None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        if not weight_decay_rate >= 0:
            raise ValueError(
                f"weight_decay_rate must not be negative, but got {weight_decay_rate}."
            )
        self.weight_decay_rate = weight_decay_rate
        # `exclude_from_weight_decay` is a method of Keras optimizers and must stay one.
        self._no_decay_patterns = check_patterns(
            "exclude_from_weight_decay", exclude_from_weight_decay
        )

    def revise_step(self, step, value, gradient, variable, learning_rate):
        """Add the decay to the step."""
        step = super().revise_step(step, value, gradient, variable, learning_rate)
        if found_in(self._no_decay_patterns, variable_name(self, variable)):
            return step
        return step - ops.cast(learning_rate, step.dtype) * self.weight_decay_rate * value

    def get_config(self) -> dict:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "weight_decay_rate": self.weight_decay_rate,
            "exclude_from_weight_decay": list(self._no_decay_patterns),
        }


class _PiecewiseLinearLR(Extension):
    """A learning rate that is multiplied by a piecewise linear function of the step.

    Args:
        lr_schedule: `{step: factor}`; `{0: 1}`, which changes nothing, by default. Between two
            steps the factor is interpolated, after the last it stays; without a key 0 it rises
            from 0. `{1000: 1, 10000: 0.1}` warms up for 1000 steps, then decays until 10000. Under
            gradient accumulation these are steps of the optimizer; 0.11.5 counted batches.
    """

    def __init__(self, *args, lr_schedule: Mapping[int, float] | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        schedule = {0: 1} if lr_schedule is None else lr_schedule
        # JSON turns the keys into strings.
        if not schedule or not all(str(step).isdigit() for step in schedule):
            raise ValueError(
                "lr_schedule maps at least one step, an integer from 0, to a factor of the "
                f"learning rate, but got {schedule!r}. Write e.g. {{1000: 1, 10000: 0.1}}."
            )
        self._lr_schedule = tuple((int(step), factor) for step, factor in schedule.items())

    @property
    def lr_schedule(self) -> dict[int, float]:
        """The factor at each step that was given."""
        # Kept as pairs: Keras on TensorFlow would wrap a dict, and refuses integer keys.
        return dict(self._lr_schedule)

    def revise_learning_rate(self, learning_rate):
        """Multiply by the factor of the current step."""
        learning_rate = super().revise_learning_rate(learning_rate)
        factor = piecewise_linear(self.iterations, self.lr_schedule)
        return ops.multiply(learning_rate, factor)

    def get_config(self) -> dict:
        """Return the constructor's arguments."""
        return {**super().get_config(), "lr_schedule": self.lr_schedule}


class _LayerAdaptation(Extension):
    """Steps as long as the weights they move, as in LAMB (You et al., 2020, algorithm 2).

    A step of length `learning_rate * r` becomes one of length `learning_rate * ||value||`, unless
    the weight or the step is zero. `keras.optimizers.Lamb` is Adam with this and nothing else;
    here it is for any optimizer, and weights can be excluded.

    Args:
        exclude_from_layer_adaptation: regular expressions; a variable in whose path one of them is
            found is not adapted. None by default.
    """

    def __init__(self, *args, exclude_from_layer_adaptation: Sequence[str] | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.exclude_from_layer_adaptation = check_patterns(
            "exclude_from_layer_adaptation", exclude_from_layer_adaptation
        )

    def revise_step(self, step, value, gradient, variable, learning_rate):
        """Scale the step."""
        step = super().revise_step(step, value, gradient, variable, learning_rate)
        if found_in(self.exclude_from_layer_adaptation, variable_name(self, variable)):
            return step
        length = _norm(step)
        target = ops.cast(learning_rate, "float32") * _norm(value)
        moves = ops.logical_and(length > 0, target > 0)
        ratio = ops.where(moves, target / ops.where(moves, length, 1.0), 1.0)
        return step * ops.cast(ratio, step.dtype)

    def get_config(self) -> dict:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "exclude_from_layer_adaptation": list(self.exclude_from_layer_adaptation),
        }


def _norm(x):
    """Return the Euclidean norm of all elements, float32."""
    return ops.sqrt(ops.sum(ops.square(ops.cast(x, "float32"))))


class _GradientAccumulation(Extension):
    """One step for the mean gradient of several batches.

    All that counts steps counts these, not batches: `iterations`, `lr_schedule`, lookahead. Of
    losses that are a mean over what counts of a batch it is the mean of the means, see
    `training.TokenCrossentropy`.

    It is Keras' `gradient_accumulation_steps`, with what that lacks: it works under a
    `MirroredStrategy`, and a Keras schedule counts steps, not batches. The original applies each
    window a batch late, the first time with a gradient of zero.

    Args:
        grad_accum_steps: how many batches make a step; 2 by default. 1 accumulates nothing.
    """

    def __init__(self, *args, grad_accum_steps: int = 2, **kwargs):
        if not isinstance(grad_accum_steps, int) or grad_accum_steps < 1:
            raise ValueError(
                f"grad_accum_steps must be an integer from 1, but got {grad_accum_steps!r}."
            )
        if kwargs.get("gradient_accumulation_steps") is not None:
            raise TypeError(
                f"{type(self).__name__} got gradient_accumulation_steps, the name that Keras has "
                "for grad_accum_steps. Pass grad_accum_steps only."
            )
        kwargs["gradient_accumulation_steps"] = grad_accum_steps if grad_accum_steps > 1 else None
        super().__init__(*args, **kwargs)
        self.grad_accum_steps = grad_accum_steps

    def _get_current_learning_rate(self):
        # Keras asks a schedule for the number of batches.
        rate = keras_private.given_rate(self)
        if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            return rate(self.iterations)
        return super()._get_current_learning_rate()

    def _backend_apply_gradients(self, grads, trainable_variables) -> None:
        if self.grad_accum_steps == 1 or not _replicas_must_merge():
            super()._backend_apply_gradients(grads, trainable_variables)
            return
        if self.use_ema:
            raise ValueError(
                "use_ema=True cannot be combined with gradient accumulation under this "
                "tf.distribute strategy. Use extend_with_exponential_moving_average instead."
            )
        import tensorflow as tf

        # Keras would ask within a replica whether the window is full. The branch of such a
        # condition cannot talk to other replicas; asked outside of all replicas, it can.
        tf.distribute.get_replica_context().merge_call(
            self._apply_across_replicas, args=(grads, trainable_variables)
        )

    def _apply_across_replicas(self, strategy, grads, variables) -> None:
        window = [self._accumulated_gradients[keras_private.index_of(self, v)] for v in variables]

        def add():
            strategy.extended.call_for_each_replica(
                self._backend_increment_gradient_accumulators, args=(grads, window)
            )

        def step():
            strategy.extended.call_for_each_replica(
                self._step_in_replica, args=(grads, variables, window)
            )
            for total in window:
                strategy.extended.update(
                    total.value, lambda own: own.assign(ops.zeros_like(own)), group=False
                )

        full = ops.equal((self._iterations + 1) % self.grad_accum_steps, 0)
        ops.cond(full, step, add)

    def _step_in_replica(self, grads, variables, window) -> None:
        means = [
            (g + total) / self.grad_accum_steps for g, total in zip(grads, window, strict=True)
        ]
        means = self._clip_gradients(means)
        self._apply_weight_decay(variables)
        self._backend_update_step(means, variables, self.learning_rate)

    def get_config(self) -> dict:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "gradient_accumulation_steps": None,
            "grad_accum_steps": self.grad_accum_steps,
        }


def _replicas_must_merge() -> bool:
    """Tell whether this runs in a TensorFlow strategy whose replicas meet in `merge_call`."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return not tf.__internal__.distribute.strategy_supports_no_merge_call()


class _Lookahead(Extension):
    """Slow weights that follow the fast ones (Zhang et al., 2019, algorithm 1).

    After every `steps_per_slow_update` steps the slow weights move towards the fast ones by the
    share `slow_step_size`, and the fast ones start again from there. Slow weights begin where the
    weights are when training begins; in the original they begin at zero, which shrinks every
    weight at the first step.

    Args:
        steps_per_slow_update: how many fast steps there are to a slow one, 5 by default.
        slow_step_size: share of the way to the fast weights, in (0, 1]; 0.5 by default.
    """

    def __init__(
        self, *args, steps_per_slow_update: int = 5, slow_step_size: float = 0.5, **kwargs
    ):
        if not isinstance(steps_per_slow_update, int) or steps_per_slow_update < 1:
            raise ValueError(
                "steps_per_slow_update must be an integer from 1, but got "
                f"{steps_per_slow_update!r}."
            )
        if not 0 < slow_step_size <= 1:
            raise ValueError(f"slow_step_size must be in (0, 1], but got {slow_step_size}.")
        super().__init__(*args, **kwargs)
        self.steps_per_slow_update = steps_per_slow_update
        self.slow_step_size = slow_step_size

    def build(self, variables: list) -> None:
        """Create the slow weights."""
        if self.built:
            return
        super().build(variables)
        self._slow_weights = self.add_optimizer_variables(variables, "slow")

    def revise_step(self, step, value, gradient, variable, learning_rate):
        """Step to the slow weight at the end of each round."""
        step = super().revise_step(step, value, gradient, variable, learning_rate)
        stored = self._slow_weights[keras_private.index_of(self, variable)]
        # Read at the first step, not in `build`: weights may be loaded in between.
        starts = ops.equal(self.iterations, 0)
        slow = ops.where(starts, value, ops.convert_to_tensor(stored))
        round_ends = ops.equal((self.iterations + 1) % self.steps_per_slow_update, 0)
        moved = slow + self.slow_step_size * (value + step - slow)
        self.assign(stored, ops.where(round_ends, moved, slow))
        return ops.where(round_ends, moved - value, step)

    def get_config(self) -> dict:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "steps_per_slow_update": self.steps_per_slow_update,
            "slow_step_size": self.slow_step_size,
        }


class _LazyOptimization(Extension):
    """Embeddings of which only the rows that occur in a batch move.

    A row whose gradient is zero keeps its value. Moments of the optimizer move all the same.

    Args:
        include_in_lazy_optimization: regular expressions; the variables in whose path one of them
            is found are optimized like this. None by default.
    """

    def __init__(self, *args, include_in_lazy_optimization: Sequence[str] | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.include_in_lazy_optimization = check_patterns(
            "include_in_lazy_optimization", include_in_lazy_optimization
        )

    def build(self, variables: list) -> None:
        """Check that every pattern is found in some path."""
        if self.built:
            return
        super().build(variables)
        for pattern in self.include_in_lazy_optimization:
            _require_a_match("include_in_lazy_optimization", pattern, re.compile(pattern), self)

    def revise_step(self, step, value, gradient, variable, learning_rate):
        """Keep the rows that have no gradient."""
        step = super().revise_step(step, value, gradient, variable, learning_rate)
        if not found_in(self.include_in_lazy_optimization, variable_name(self, variable)):
            return step
        occurs = ops.any(ops.not_equal(gradient, 0), axis=-1, keepdims=True)
        return ops.where(occurs, step, ops.zeros_like(step))

    def get_config(self) -> dict:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "include_in_lazy_optimization": list(self.include_in_lazy_optimization),
        }


class _ParameterWiseLR(Extension):
    """Learning rates that differ from weight to weight.

    Args:
        paramwise_lr_schedule: `{part of a name: factor}`. The steps of a variable are multiplied by
            the factors of all keys that are a part of its path (`d1/kernel`). None by default.
    """

    def __init__(self, *args, paramwise_lr_schedule: Mapping[str, float] | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        schedule = dict(paramwise_lr_schedule or {})
        for part, factor in schedule.items():
            if not isinstance(part, str) or not isinstance(factor, Real) or not factor >= 0:
                raise ValueError(
                    "paramwise_lr_schedule maps a part of a variable's name to a factor of at "
                    f"least 0, but got {part!r}: {factor!r}. Write e.g. {{'Embedding': 0.1}}."
                )
        # Kept as pairs: Keras on TensorFlow would wrap a dict.
        self._paramwise_lr_schedule = tuple(schedule.items())

    @property
    def paramwise_lr_schedule(self) -> dict[str, float]:
        """The factor for each part of a name that was given."""
        return dict(self._paramwise_lr_schedule)

    def build(self, variables: list) -> None:
        """Check that every key is a part of some path."""
        if self.built:
            return
        super().build(variables)
        for part in self.paramwise_lr_schedule:
            _require_a_match("paramwise_lr_schedule", part, re.compile(re.escape(part)), self)

    def revise_step(self, step, value, gradient, variable, learning_rate):
        """Multiply the step."""
        step = super().revise_step(step, value, gradient, variable, learning_rate)
        name = variable_name(self, variable)
        factor = 1.0
        for part, own in self._paramwise_lr_schedule:
            factor *= own if part in name else 1
        return step * factor

    def get_config(self) -> dict:
        """Return the constructor's arguments."""
        return {**super().get_config(), "paramwise_lr_schedule": self.paramwise_lr_schedule}


def _require_a_match(argument: str, given: str, pattern: re.Pattern, optimizer) -> None:
    """Refuse a name that is found in no trainable variable; it is misspelt, or that is frozen."""
    names = [variable_name(optimizer, v) for v in keras_private.trained_variables(optimizer)]
    if not any(map(pattern.search, names)):
        raise ValueError(
            f"{argument} contains {given!r}, which is found in the name of no trainable variable. "
            f"There are {', '.join(names[:8])}{', …' if names[8:] else ''}. Correct or remove it."
        )


class _ExponentialMovingAverage(Extension):
    """An exponential moving average of the weights, kept beside them.

    The average starts at zero and is corrected for that when it is applied. (The `use_ema` of
    Keras starts at the first weights.) It averages what the weights are after a whole step,
    wherever in the stack this extension stands.

    Args:
        ema_momentum: how much of the average stays at each step, in [0, 1); 0.999 by default.
    """

    def __init__(self, *args, ema_momentum: float = 0.999, **kwargs):
        if not 0 <= ema_momentum < 1:
            raise ValueError(f"ema_momentum must be in [0, 1), but got {ema_momentum}.")
        super().__init__(*args, ema_momentum=ema_momentum, **kwargs)
        self._averages = []
        self._weights_before = None

    def build(self, variables: list) -> None:
        """Create the averages."""
        if self.built:
            return
        super().build(variables)
        # The averages are written outside `update_step`, where tf.distribute has to know which
        # replica's value counts. All replicas hold the same.
        self._averages = [
            self.add_variable(
                variable.shape,
                dtype=variable.dtype,
                aggregation="only_first_replica",
                layout=keras_private.layout_of(variable),
                name=re.sub(r"[/:]", "_", getattr(variable, "path", variable.name)) + "_average",
            )
            for variable in variables
        ]

    def apply(self, grads, trainable_variables=None) -> None:
        """Take a step and update the averages of all weights, also those without a gradient."""
        before = ops.copy(self.iterations)
        super().apply(grads, trainable_variables)
        # While gradients are accumulated nothing moves, neither do the averages.
        moved = ops.not_equal(self.iterations, before)
        for average, variable in zip(self._averages, trained_variables(self), strict=False):
            share = (1 - self.ema_momentum) * ops.cast(moved, average.dtype)
            average.assign(ops.add(average, share * ops.subtract(variable, average)))

    def apply_ema_weights(self, bias_correction: bool = True) -> None:
        """Put the averages in the place of the weights, which `reset_old_weights` brings back.

        Args:
            bias_correction: whether to divide by `1 - ema_momentum ** steps`, True by default.

        Raises:
            RuntimeError: no step was taken yet, or the averages are in place already.
        """
        steps = int(ops.convert_to_numpy(self.iterations))
        if steps == 0:
            raise RuntimeError("There are no averages before the first step. Train first.")
        if self._weights_before is not None:
            raise RuntimeError(
                "The averages are in the place of the weights already. Call reset_old_weights() "
                "before applying them again."
            )
        scale = 1 - self.ema_momentum**steps if bias_correction else 1
        self._weights_before = tuple(map(ops.convert_to_numpy, trained_variables(self)))
        for variable, average in zip(trained_variables(self), self._averages, strict=True):
            variable.assign(np.asarray(ops.convert_to_numpy(average) / scale))

    def reset_old_weights(self) -> None:
        """Bring back the weights that `apply_ema_weights` replaced.

        Raises:
            RuntimeError: the averages are not in place.
        """
        if self._weights_before is None:
            raise RuntimeError("There is nothing to bring back. Call apply_ema_weights() first.")
        for variable, weight in zip(trained_variables(self), self._weights_before, strict=True):
            variable.assign(weight)
        self._weights_before = None

    @contextmanager
    def ema_weights(self, bias_correction: bool = True) -> Iterator[None]:
        """Hold the averages in the place of the weights inside a `with` block.

        Args:
            bias_correction: as in `apply_ema_weights`.
        """
        self.apply_ema_weights(bias_correction)
        try:
            yield
        finally:
            self.reset_old_weights()


EXTENSIONS.update(
    weight_decay=_WeightDecay,
    layer_adaptation=_LayerAdaptation,
    piecewise_linear_lr=_PiecewiseLinearLR,
    gradient_accumulation=_GradientAccumulation,
    lookahead=_Lookahead,
    lazy_optimization=_LazyOptimization,
    parameter_wise_lr=_ParameterWiseLR,
    exponential_moving_average=_ExponentialMovingAverage,
)


# === The functions that extend an optimizer ===


def extend_with_weight_decay(BaseOptimizer: type, name: str | None = None) -> type:
    """Give an optimizer class weight decay that is decoupled from the gradient.

    Loshchilov & Hutter, "Decoupled Weight Decay Regularization", 2019. Each step subtracts
    `learning_rate * weight_decay_rate * weight`. New arguments of the class:
    `weight_decay_rate=0.01`, and `exclude_from_weight_decay=[]`, regular expressions that are
    searched in the path of a variable (`Transformer-0-FeedForward-Norm/gamma`).

    Args:
        BaseOptimizer: any Keras optimizer class, extended or not.
        name: the name of the new class; that of `BaseOptimizer` by default.

    Returns:
        The new class.

    Raises:
        ValueError: the class has weight decay already.
    """
    return extend(BaseOptimizer, "weight_decay", name or BaseOptimizer.__name__)


def extend_with_layer_adaptation(BaseOptimizer: type, name: str | None = None) -> type:
    """Give an optimizer class steps that are as long as the weights they move.

    You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes", 2020:
    LAMB is this around Adam with weight decay. New argument of the class:
    `exclude_from_layer_adaptation=[]`, regular expressions as in `extend_with_weight_decay`.

    Args:
        BaseOptimizer: any Keras optimizer class, extended or not.
        name: the name of the new class; that of `BaseOptimizer` by default.

    Returns:
        The new class.

    Raises:
        ValueError: the class has layer adaptation already.
    """
    return extend(BaseOptimizer, "layer_adaptation", name or BaseOptimizer.__name__)


def extend_with_piecewise_linear_lr(BaseOptimizer: type, name: str | None = None) -> type:
    """Give an optimizer class a piecewise linear learning rate.

    New argument of the class: `lr_schedule={0: 1}`, from steps to factors of the learning rate.
    `{1000: 1, 10000: 0.1}` warms up from 0 for 1000 steps and decays to a tenth until 10000. The
    factor is read before a step is counted, so that the first step has factor 0 unless the
    schedule has the key 0. Under gradient accumulation a step is one of the optimizer: scripts for
    0.11.5, which counted batches, divide the keys by `grad_accum_steps`. Weight decay follows the
    schedule too, wherever it stands in the stack.

    Args:
        BaseOptimizer: any Keras optimizer class, extended or not.
        name: the name of the new class; that of `BaseOptimizer` by default.

    Returns:
        The new class.

    Raises:
        ValueError: the class has a schedule already.
    """
    return extend(BaseOptimizer, "piecewise_linear_lr", name or BaseOptimizer.__name__)


def extend_with_gradient_accumulation(BaseOptimizer: type, name: str | None = None) -> type:
    """Give an optimizer class steps for the mean gradient of several batches.

    New argument of the class: `grad_accum_steps=2`. `iterations`, bias correction, `lr_schedule`
    and Keras schedules count steps, not batches (0.11.5 counted batches). Each batch has the same
    share in the mean; where batches differ in the number of tokens that count, see
    `training.TokenCrossentropy` for what is equal to one large batch. A window that is not full
    when training ends is kept in the optimizer, and saved with it.

    Args:
        BaseOptimizer: any Keras optimizer class, extended or not.
        name: the name of the new class; that of `BaseOptimizer` by default.

    Returns:
        The new class.

    Raises:
        ValueError: the class has gradient accumulation already.
    """
    return extend(BaseOptimizer, "gradient_accumulation", name or BaseOptimizer.__name__)


def extend_with_lookahead(BaseOptimizer: type, name: str | None = None) -> type:
    """Give an optimizer class slow weights that follow the fast ones.

    Zhang et al., "Lookahead Optimizer: k steps forward, 1 step back", 2019. New arguments of the
    class: `steps_per_slow_update=5`, `slow_step_size=0.5`. Extensions that stand further out in
    the stack act on the weights after it, so that it is best put outside of those of the rate and
    the decay.

    Args:
        BaseOptimizer: any Keras optimizer class, extended or not.
        name: the name of the new class; that of `BaseOptimizer` by default.

    Returns:
        The new class.

    Raises:
        ValueError: the class has lookahead already.
    """
    return extend(BaseOptimizer, "lookahead", name or BaseOptimizer.__name__)


def extend_with_lazy_optimization(BaseOptimizer: type, name: str | None = None) -> type:
    """Give an optimizer class that only moves the embeddings that occur in a batch.

    New argument of the class: `include_in_lazy_optimization=[]`, regular expressions that are
    searched in the path of a variable (`Embedding-Token/embeddings`); each must be found in one.
    Moments of rows that do not occur move all the same. Embeddings that the output layer shares
    have a gradient in every row and are not changed by this.

    Args:
        BaseOptimizer: any Keras optimizer class, extended or not.
        name: the name of the new class; that of `BaseOptimizer` by default.

    Returns:
        The new class.

    Raises:
        ValueError: the class has lazy optimization already.
    """
    return extend(BaseOptimizer, "lazy_optimization", name or BaseOptimizer.__name__)


def extend_with_parameter_wise_lr(BaseOptimizer: type, name: str | None = None) -> type:
    """Give an optimizer class learning rates that differ from weight to weight.

    New argument of the class: `paramwise_lr_schedule={}`, from parts of the path of a variable to
    factors: `{"Embedding": 0.1, "CRF/": 100}`. The factors of all keys that are a part multiply;
    each key must be a part of one path. Factor 0 freezes. `layer_wise_lr_decay` makes such a
    schedule. Weight decay is multiplied if it stands further in than this.

    Args:
        BaseOptimizer: any Keras optimizer class, extended or not.
        name: the name of the new class; that of `BaseOptimizer` by default.

    Returns:
        The new class.

    Raises:
        ValueError: the class has parameter-wise learning rates already.
    """
    return extend(BaseOptimizer, "parameter_wise_lr", name or BaseOptimizer.__name__)


def extend_with_exponential_moving_average(BaseOptimizer: type, name: str | None = None) -> type:
    """Give an optimizer class a moving average of the weights.

    New argument of the class: `ema_momentum=0.999`. New methods: `apply_ema_weights`,
    `reset_old_weights`, and `ema_weights` for a `with` statement. They work on the optimizer
    itself; under mixed_float16 keep a reference to it, since Keras wraps it in `compile`.

    Args:
        BaseOptimizer: any Keras optimizer class, extended or not.
        name: the name of the new class; that of `BaseOptimizer` by default.

    Returns:
        The new class.

    Raises:
        ValueError: the class has an average already.
    """
    return extend(BaseOptimizer, "exponential_moving_average", name or BaseOptimizer.__name__)
