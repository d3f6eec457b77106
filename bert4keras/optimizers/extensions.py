"""Extensions that can be stacked on any Keras optimizer.

An extension is a mix-in class, which `extending.extend` combines with an optimizer class. It
revises the learning rate, or the step that the wrapped optimizer has taken. In a stack the
innermost extension acts first.
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
    matches_any,
    variable_name,
)
from bert4keras.optimizers.extending import EXTENSIONS, Extension, extend

# === The extensions ===


class _WeightDecay(Extension):
    """Decoupled weight decay (Loshchilov & Hutter, 2019).

    Each step subtracts `learning_rate * weight_decay_rate * value`.

    Args:
        weight_decay_rate: 0.01 by default.
        exclude_from_weight_decay: regular expressions; variables whose path (`d1/kernel`) one of
            them matches do not decay. None by default.
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
                f"weight_decay_rate must not be negative, but got {weight_decay_rate}: give a "
                "number from 0."
            )
        self.weight_decay_rate = weight_decay_rate
        # `exclude_from_weight_decay` is a method of Keras optimizers and must stay one.
        self._no_decay_patterns = check_patterns(
            "exclude_from_weight_decay", exclude_from_weight_decay
        )

    def revise_step(self, step, value, gradient, variable, learning_rate):
        """Add the decay to the step."""
        step = super().revise_step(step, value, gradient, variable, learning_rate)
        if matches_any(self._no_decay_patterns, variable_name(self, variable)):
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
    """Learning rate that is multiplied by a piecewise linear function of the step.

    Args:
        lr_schedule: `{step: factor}`; `{0: 1}` by default, which changes nothing. The factor is
            interpolated between two steps and constant after the last one; without a key 0 it
            starts from 0. `{1000: 1, 10000: 0.1}` warms up for 1000 steps, then decays until step
            10000. With gradient accumulation these are steps of the optimizer; 0.11.5 counted
            batches.
    """

    def __init__(self, *args, lr_schedule: Mapping[int, float] | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        schedule = {0: 1} if lr_schedule is None else lr_schedule
        # JSON turns the keys into strings.
        if not schedule or not all(str(step).isdigit() for step in schedule):
            raise ValueError(
                "lr_schedule maps at least one step, an integer from 0, to a factor of the "
                f"learning rate, but got {schedule!r}: write e.g. {{1000: 1, 10000: 0.1}}."
            )
        self._lr_schedule = tuple((int(step), factor) for step, factor in schedule.items())

    @property
    def lr_schedule(self) -> dict[int, float]:
        """Factors by step, as given."""
        # Stored as pairs: Keras on TensorFlow would wrap a dict, and refuses integer keys.
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
    """Layer-wise adaptation of the step size, as in LAMB (You et al., 2020, algorithm 2).

    A step of norm `learning_rate * r` is rescaled to the norm `learning_rate * ||value||`, unless
    the weight or the step is zero. `keras.optimizers.Lamb` is Adam with this adaptation; here it
    works with any optimizer, and weights can be excluded.

    Args:
        exclude_from_layer_adaptation: regular expressions; the steps of variables whose path one
            of them matches are not adapted. None by default.
    """

    def __init__(self, *args, exclude_from_layer_adaptation: Sequence[str] | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.exclude_from_layer_adaptation = check_patterns(
            "exclude_from_layer_adaptation", exclude_from_layer_adaptation
        )

    def revise_step(self, step, value, gradient, variable, learning_rate):
        """Scale the step."""
        step = super().revise_step(step, value, gradient, variable, learning_rate)
        if matches_any(self.exclude_from_layer_adaptation, variable_name(self, variable)):
            return step
        norm = _norm(step)
        target = ops.cast(learning_rate, "float32") * _norm(value)
        adapted = ops.logical_and(norm > 0, target > 0)
        ratio = ops.where(adapted, target / ops.where(adapted, norm, 1.0), 1.0)
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
    """Gradient accumulation: a step for the mean gradient of several batches.

    `iterations`, `lr_schedule` and lookahead count these steps, not batches. If the loss is a mean
    over the tokens of a batch, the means of batches are averaged; `training.TokenCrossentropy`
    describes how to weight all tokens equally.

    It extends `gradient_accumulation_steps` of Keras: it works under a `MirroredStrategy`, and a
    Keras schedule counts steps, not batches. bert4keras 0.11.5 applies the gradients one batch too
    late, and at first a gradient of zero.

    Args:
        grad_accum_steps: number of batches per step; 2 by default. 1 does not accumulate.
    """

    def __init__(self, *args, grad_accum_steps: int = 2, **kwargs):
        if not isinstance(grad_accum_steps, int) or grad_accum_steps < 1:
            raise ValueError(
                f"grad_accum_steps must be a positive integer, but got {grad_accum_steps!r}."
            )
        if kwargs.get("gradient_accumulation_steps") is not None:
            raise TypeError(
                f"{type(self).__name__} got gradient_accumulation_steps, the name of "
                "grad_accum_steps in Keras: pass only grad_accum_steps."
            )
        kwargs["gradient_accumulation_steps"] = grad_accum_steps if grad_accum_steps > 1 else None
        super().__init__(*args, **kwargs)
        self.grad_accum_steps = grad_accum_steps

    def _get_current_learning_rate(self):
        # Keras evaluates a schedule at the number of batches.
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
                "tf.distribute strategy: use extend_with_exponential_moving_average instead."
            )
        import tensorflow as tf

        # Keras would check within a replica whether to take a step. The branch of such a condition
        # cannot communicate with other replicas, but in cross-replica context it can.
        tf.distribute.get_replica_context().merge_call(
            self._apply_across_replicas, args=(grads, trainable_variables)
        )

    def _apply_across_replicas(self, strategy, grads, variables) -> None:
        indices = [keras_private.index_of(self, v) for v in variables]
        accumulators = [self._accumulated_gradients[i] for i in indices]

        def accumulate():
            strategy.extended.call_for_each_replica(
                self._backend_increment_gradient_accumulators, args=(grads, accumulators)
            )

        def step():
            strategy.extended.call_for_each_replica(
                self._step_in_replica, args=(grads, variables, accumulators)
            )
            for accumulator in accumulators:
                strategy.extended.update(
                    accumulator.value, lambda own: own.assign(ops.zeros_like(own)), group=False
                )

        is_last = ops.equal((self._iterations + 1) % self.grad_accum_steps, 0)
        ops.cond(is_last, step, accumulate)

    def _step_in_replica(self, grads, variables, accumulators) -> None:
        pairs = zip(grads, accumulators, strict=True)
        means = [(gradient + total) / self.grad_accum_steps for gradient, total in pairs]
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
    """Tell whether this runs in a TensorFlow strategy that synchronises by `merge_call`."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return not tf.__internal__.distribute.strategy_supports_no_merge_call()


class _Lookahead(Extension):
    """Lookahead (Zhang et al., 2019, algorithm 1): slow weights that follow the fast ones.

    After every `steps_per_slow_update` steps the slow weights move by a fraction `slow_step_size`
    towards the fast ones, which are then reset to them. The slow weights start at the weights at
    the first step; in bert4keras 0.11.5 they start at zero, which shrinks every weight at first.

    Args:
        steps_per_slow_update: number of fast steps per slow one, 5 by default.
        slow_step_size: fraction of the way to the fast weights, in (0, 1]; 0.5 by default.
    """

    def __init__(
        self, *args, steps_per_slow_update: int = 5, slow_step_size: float = 0.5, **kwargs
    ):
        if not isinstance(steps_per_slow_update, int) or steps_per_slow_update < 1:
            raise ValueError(
                "steps_per_slow_update must be a positive integer, but got "
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
        """Step to the slow weight after every `steps_per_slow_update` steps."""
        step = super().revise_step(step, value, gradient, variable, learning_rate)
        stored = self._slow_weights[keras_private.index_of(self, variable)]
        # Initialised at the first step, not in `build`: weights may be loaded in between.
        is_first = ops.equal(self.iterations, 0)
        slow = ops.where(is_first, value, ops.convert_to_tensor(stored))
        is_slow_update = ops.equal((self.iterations + 1) % self.steps_per_slow_update, 0)
        new_slow = slow + self.slow_step_size * (value + step - slow)
        self.assign(stored, ops.where(is_slow_update, new_slow, slow))
        return ops.where(is_slow_update, new_slow - value, step)

    def get_config(self) -> dict:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "steps_per_slow_update": self.steps_per_slow_update,
            "slow_step_size": self.slow_step_size,
        }


class _LazyOptimization(Extension):
    """Lazy updates: only the embeddings that occur in a batch are changed.

    A row whose gradient is zero keeps its value. The moments of the optimizer are still updated.

    Args:
        include_in_lazy_optimization: regular expressions; variables whose path one of them matches
            are updated lazily. None by default.
    """

    def __init__(self, *args, include_in_lazy_optimization: Sequence[str] | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.include_in_lazy_optimization = check_patterns(
            "include_in_lazy_optimization", include_in_lazy_optimization
        )

    def build(self, variables: list) -> None:
        """Check that every pattern matches a path."""
        if self.built:
            return
        super().build(variables)
        for pattern in self.include_in_lazy_optimization:
            _require_a_match("include_in_lazy_optimization", pattern, re.compile(pattern), self)

    def revise_step(self, step, value, gradient, variable, learning_rate):
        """Keep the rows that have no gradient."""
        step = super().revise_step(step, value, gradient, variable, learning_rate)
        if not matches_any(self.include_in_lazy_optimization, variable_name(self, variable)):
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
        paramwise_lr_schedule: `{substring: factor}`. The steps of a variable are multiplied by the
            factors of all keys that are substrings of its path (`d1/kernel`). None by default.
    """

    def __init__(self, *args, paramwise_lr_schedule: Mapping[str, float] | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        schedule = dict(paramwise_lr_schedule or {})
        for part, factor in schedule.items():
            if not isinstance(part, str) or not isinstance(factor, Real) or not factor >= 0:
                raise ValueError(
                    "paramwise_lr_schedule maps a part of a variable's name to a factor of at "
                    f"least 0, but got {part!r}: {factor!r}; write e.g. {{'Embedding': 0.1}}."
                )
        # Stored as pairs: Keras on TensorFlow would wrap a dict.
        self._paramwise_lr_schedule = tuple(schedule.items())

    @property
    def paramwise_lr_schedule(self) -> dict[str, float]:
        """Factors by part of a name, as given."""
        return dict(self._paramwise_lr_schedule)

    def build(self, variables: list) -> None:
        """Check that every key is a substring of a path."""
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
        for part, part_factor in self._paramwise_lr_schedule:
            factor *= part_factor if part in name else 1
        return step * factor

    def get_config(self) -> dict:
        """Return the constructor's arguments."""
        return {**super().get_config(), "paramwise_lr_schedule": self.paramwise_lr_schedule}


def _require_a_match(argument: str, given: str, pattern: re.Pattern, optimizer) -> None:
    """Raise a ValueError if a pattern matches no trainable variable, for it may be misspelt."""
    names = [variable_name(optimizer, v) for v in keras_private.trained_variables(optimizer)]
    if not any(map(pattern.search, names)):
        raise ValueError(
            f"{argument} contains {given!r}, which is found in the name of no trainable variable "
            f"({', '.join(names[:8])}{', …' if names[8:] else ''}): correct or remove it."
        )


class _ExponentialMovingAverage(Extension):
    """Exponential moving average of the weights.

    The average starts at zero, for which it is corrected when it is applied. (With `use_ema` of
    Keras it starts at the initial weights.) It averages the weights after each complete step,
    wherever this extension is in the stack.

    Args:
        ema_momentum: decay rate of the average per step, in [0, 1); 0.999 by default.
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
        # The averages are assigned outside of `update_step`, where tf.distribute needs to know
        # which replica's value to use. All replicas have the same one.
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
        # While gradients are accumulated, the averages are not updated.
        stepped = ops.not_equal(self.iterations, before)
        for average, variable in zip(self._averages, trained_variables(self), strict=False):
            rate = (1 - self.ema_momentum) * ops.cast(stepped, average.dtype)
            average.assign(ops.add(average, rate * ops.subtract(variable, average)))

    def apply_ema_weights(self, bias_correction: bool = True) -> None:
        """Replace the weights by the averages, until `reset_old_weights` restores them.

        Args:
            bias_correction: whether to divide by `1 - ema_momentum ** steps`, True by default.

        Raises:
            RuntimeError: no step has been taken yet, or the averages have already been applied.
        """
        steps = int(ops.convert_to_numpy(self.iterations))
        if steps == 0:
            raise RuntimeError("There are no averages before the first step: train first.")
        if self._weights_before is not None:
            raise RuntimeError(
                "The averages have already been applied: call reset_old_weights() before applying "
                "them again."
            )
        scale = 1 - self.ema_momentum**steps if bias_correction else 1
        self._weights_before = tuple(map(ops.convert_to_numpy, trained_variables(self)))
        for variable, average in zip(trained_variables(self), self._averages, strict=True):
            variable.assign(np.asarray(ops.convert_to_numpy(average) / scale))

    def reset_old_weights(self) -> None:
        """Restore the weights that `apply_ema_weights` replaced.

        Raises:
            RuntimeError: the averages have not been applied.
        """
        if self._weights_before is None:
            raise RuntimeError("There are no weights to restore: call apply_ema_weights() first.")
        for variable, weight in zip(trained_variables(self), self._weights_before, strict=True):
            variable.assign(weight)
        self._weights_before = None

    @contextmanager
    def ema_weights(self, bias_correction: bool = True) -> Iterator[None]:
        """Replace the weights by the averages within a `with` block.

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
    """Add decoupled weight decay to an optimizer class.

    Loshchilov & Hutter, "Decoupled Weight Decay Regularization", 2019. Each step subtracts
    `learning_rate * weight_decay_rate * weight`. New arguments of the class:
    `weight_decay_rate=0.01`, and `exclude_from_weight_decay=[]`, regular expressions that are
    searched for in the path of a variable (`Transformer-0-FeedForward-Norm/gamma`).

    Args:
        BaseOptimizer: any Keras optimizer class, extended or not.
        name: the name of the new class; that of `BaseOptimizer` by default.

    Returns:
        The new class.

    Raises:
        ValueError: the class already has weight decay.
    """
    return extend(BaseOptimizer, "weight_decay", name or BaseOptimizer.__name__)


def extend_with_layer_adaptation(BaseOptimizer: type, name: str | None = None) -> type:
    """Add layer-wise adaptation of the step size to an optimizer class.

    You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes", 2020:
    LAMB is Adam with weight decay and this adaptation. New argument of the class:
    `exclude_from_layer_adaptation=[]`, regular expressions as in `extend_with_weight_decay`.

    Args:
        BaseOptimizer: any Keras optimizer class, extended or not.
        name: the name of the new class; that of `BaseOptimizer` by default.

    Returns:
        The new class.

    Raises:
        ValueError: the class already has layer adaptation.
    """
    return extend(BaseOptimizer, "layer_adaptation", name or BaseOptimizer.__name__)


def extend_with_piecewise_linear_lr(BaseOptimizer: type, name: str | None = None) -> type:
    """Add a piecewise linear learning rate schedule to an optimizer class.

    New argument of the class: `lr_schedule={0: 1}`, from steps to factors of the learning rate.
    `{1000: 1, 10000: 0.1}` warms up from 0 for 1000 steps and decays to a tenth until 10000. The
    factor is read before the step is counted, so that the first step has factor 0 unless the
    schedule has the key 0. With gradient accumulation these are steps of the optimizer: in scripts
    for 0.11.5, which counted batches, divide the keys by `grad_accum_steps`. Weight decay follows
    the schedule too, wherever it is in the stack.

    Args:
        BaseOptimizer: any Keras optimizer class, extended or not.
        name: the name of the new class; that of `BaseOptimizer` by default.

    Returns:
        The new class.

    Raises:
        ValueError: the class already has a schedule.
    """
    return extend(BaseOptimizer, "piecewise_linear_lr", name or BaseOptimizer.__name__)


def extend_with_gradient_accumulation(BaseOptimizer: type, name: str | None = None) -> type:
    """Add gradient accumulation to an optimizer class: a step for the mean of several batches.

    New argument of the class: `grad_accum_steps=2`. `iterations`, bias correction, `lr_schedule`
    and Keras schedules count steps, not batches (0.11.5 counted batches). Each batch has the same
    weight in the mean; if batches have different numbers of tokens, `training.TokenCrossentropy`
    describes how to get the loss of one large batch. Gradients accumulated when training ends are
    kept in the optimizer, and saved with it.

    Args:
        BaseOptimizer: any Keras optimizer class, extended or not.
        name: the name of the new class; that of `BaseOptimizer` by default.

    Returns:
        The new class.

    Raises:
        ValueError: the class already has gradient accumulation.
    """
    return extend(BaseOptimizer, "gradient_accumulation", name or BaseOptimizer.__name__)


def extend_with_lookahead(BaseOptimizer: type, name: str | None = None) -> type:
    """Add lookahead to an optimizer class: slow weights that follow the fast ones.

    Zhang et al., "Lookahead Optimizer: k steps forward, 1 step back", 2019. New arguments of the
    class: `steps_per_slow_update=5`, `slow_step_size=0.5`. Extensions further out in the
    stack act after it, so that it is best added after those of learning rate and weight decay.

    Args:
        BaseOptimizer: any Keras optimizer class, extended or not.
        name: the name of the new class; that of `BaseOptimizer` by default.

    Returns:
        The new class.

    Raises:
        ValueError: the class already has lookahead.
    """
    return extend(BaseOptimizer, "lookahead", name or BaseOptimizer.__name__)


def extend_with_lazy_optimization(BaseOptimizer: type, name: str | None = None) -> type:
    """Add lazy updates to an optimizer class: only embeddings that occur in a batch are changed.

    New argument of the class: `include_in_lazy_optimization=[]`, regular expressions that are
    searched for in the path of a variable (`Embedding-Token/embeddings`); each must match one. The
    moments of rows that do not occur are still updated. Embeddings that are shared with the output
    layer have a gradient in every row, so that this has no effect on them.

    Args:
        BaseOptimizer: any Keras optimizer class, extended or not.
        name: the name of the new class; that of `BaseOptimizer` by default.

    Returns:
        The new class.

    Raises:
        ValueError: the class already has lazy optimization.
    """
    return extend(BaseOptimizer, "lazy_optimization", name or BaseOptimizer.__name__)


def extend_with_parameter_wise_lr(BaseOptimizer: type, name: str | None = None) -> type:
    """Add learning rates by variable to an optimizer class.

    New argument of the class: `paramwise_lr_schedule={}`, from parts of the path of a variable to
    factors: `{"Embedding": 0.1, "CRF/": 100}`. The factors of all keys that are part of a path are
    multiplied; each key must be part of a path. A factor of 0 freezes the variable.
    `layer_wise_lr_decay` creates such a schedule. Weight decay is multiplied too if it is further
    in than this extension.

    Args:
        BaseOptimizer: any Keras optimizer class, extended or not.
        name: the name of the new class; that of `BaseOptimizer` by default.

    Returns:
        The new class.

    Raises:
        ValueError: the class already has parameter-wise learning rates.
    """
    return extend(BaseOptimizer, "parameter_wise_lr", name or BaseOptimizer.__name__)


def extend_with_exponential_moving_average(BaseOptimizer: type, name: str | None = None) -> type:
    """Add a moving average of the weights to an optimizer class.

    New argument of the class: `ema_momentum=0.999`. New methods: `apply_ema_weights`,
    `reset_old_weights`, and `ema_weights` for a `with` statement. They are methods of the
    optimizer itself; under mixed_float16 keep a reference to it, since `compile` wraps it.

    Args:
        BaseOptimizer: any Keras optimizer class, extended or not.
        name: the name of the new class; that of `BaseOptimizer` by default.

    Returns:
        The new class.

    Raises:
        ValueError: the class already has an average.
    """
    return extend(BaseOptimizer, "exponential_moving_average", name or BaseOptimizer.__name__)
