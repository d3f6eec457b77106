"""Adam as BERT uses it, and extensions that can be stacked on any Keras optimizer.

An extension is a mix-in class. `_extend` puts it in front of an optimizer class, so that

    AdamW = extend_with_weight_decay(Adam, name="AdamW")
    AdamWLR = extend_with_piecewise_linear_lr(AdamW, name="AdamWLR")

are ordinary optimizer classes with the arguments of every part. An extension revises the learning
rate or the step that the wrapped optimizer has taken; in a stack the innermost acts first.
"""

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache

import keras
import numpy as np
from keras import ops

from bert4keras.backend import piecewise_linear


def _check_arguments(optimizer_class: type, arguments: Mapping) -> None:
    """Refuse keyword arguments that no constructor of the class names."""
    constructors = [
        vars(c)["__init__"] for c in optimizer_class.__mro__[:-1] if "__init__" in vars(c)
    ]
    known = {
        parameter.name
        for constructor in constructors
        for parameter in inspect.signature(constructor).parameters.values()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        or parameter.kind is parameter.KEYWORD_ONLY
    } - {"self"}
    unknown = sorted(set(arguments) - known)
    if unknown:
        raise TypeError(
            f"{optimizer_class.__name__} got the unknown argument(s) {', '.join(unknown)}. "
            f"It takes {', '.join(sorted(known))}. If one is missing, extend the class with the "
            "extension that brings it."
        )


# === The optimizer ===


@keras.saving.register_keras_serializable(package="bert4keras")
class Adam(keras.optimizers.Optimizer):
    """Adam (Kingma & Ba, 2015, algorithm 1) with the bias correction that BERT leaves out optional.

    `epsilon` is added to the square root of the corrected second moment, so it is the epsilon of
    the paper and not the "epsilon hat" of `keras.optimizers.Adam`.

    Args:
        learning_rate: a float, a Keras schedule or a callable; 0.001 by default.
        beta_1: decay of the first moment, 0.9 by default.
        beta_2: decay of the second moment, 0.999 by default.
        epsilon: what is added to the denominator, 1e-6 by default.
        bias_correction: whether to divide the moments by `1 - beta ** step`, True by default.
            Google's BERT was trained without.
        lr: the Keras 2 name of `learning_rate`.
        **kwargs: arguments of `keras.optimizers.Optimizer`.

    Raises:
        TypeError: an argument is unknown.
    """

    def __init__(
        self,
        learning_rate: float = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-6,
        bias_correction: bool = True,
        *,
        lr: float | None = None,
        **kwargs,
    ):
        _check_arguments(type(self), kwargs)
        super().__init__(learning_rate=learning_rate if lr is None else lr, **kwargs)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.bias_correction = bias_correction

    def build(self, variables: list) -> None:
        """Create the two moments of each variable, all zero."""
        if self.built:
            return
        super().build(variables)
        self._momentums = self.add_optimizer_variables(variables, "momentum")
        self._velocities = self.add_optimizer_variables(variables, "velocity")

    def update_step(self, gradient, variable, learning_rate) -> None:
        """Move the moments and the variable by one step."""
        dtype = variable.dtype
        # TensorFlow gives sparse gradients for embeddings, in which a row may occur twice. To
        # reshape them makes them dense and adds such rows.
        gradient = ops.cast(ops.reshape(gradient, tuple(variable.shape)), dtype)
        momentum = self._momentums[self._get_variable_index(variable)]
        velocity = self._velocities[self._get_variable_index(variable)]
        new_momentum = self.beta_1 * momentum + (1 - self.beta_1) * gradient
        new_velocity = self.beta_2 * velocity + (1 - self.beta_2) * ops.square(gradient)
        self.assign(momentum, new_momentum)
        self.assign(velocity, new_velocity)
        if self.bias_correction:
            # In float32 whatever the variable is: bfloat16 takes 0.999 for 1.
            step = ops.cast(self.iterations + 1, "float32")
            new_momentum = new_momentum / ops.cast(1 - ops.power(self.beta_1, step), dtype)
            new_velocity = new_velocity / ops.cast(1 - ops.power(self.beta_2, step), dtype)
        update = new_momentum / (ops.sqrt(new_velocity) + self.epsilon)
        self.assign_sub(variable, ops.cast(learning_rate, dtype) * update)

    def get_config(self) -> dict:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
            "bias_correction": self.bias_correction,
        }


# === The mechanism of the extensions ===


@keras.saving.register_keras_serializable(package="bert4keras", name="ExtendedOptimizer")
class _Extension(keras.optimizers.Optimizer):
    """What all extensions share: how a stack of them is saved and rebuilt.

    `_extend` sets the two attributes. All stacks are registered under one name, and `from_config`
    builds the class from the config. So a saved optimizer loads in a process that never called
    the `extend_with_*` functions.
    """

    base_optimizer: type
    """The class that the innermost extension wraps."""
    extensions: tuple[tuple[str, str], ...] = ()
    """Pairs of extension and class name, innermost first."""

    def __init__(self, *args, **kwargs):
        _check_arguments(type(self), kwargs)
        super().__init__(*args, **kwargs)

    def get_config(self) -> dict:
        """Return the constructor's arguments and how the class is put together."""
        return {
            **super().get_config(),
            "base_optimizer": keras.saving.get_registered_name(self.base_optimizer),
            "extensions": [list(pair) for pair in self.extensions],
        }

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None):
        """Build an optimizer of the class that `config` describes."""
        config = dict(config)
        target = _find_optimizer(config.pop("base_optimizer"), custom_objects)
        for extension, name in config.pop("extensions"):
            target = _extend(target, extension, name)
        # All stacks share their registration, so Keras may call this on any of them. Only a class
        # derived by hand from a stack stands for itself.
        if "extensions" not in vars(cls):
            target = cls
        return super(_Extension, target).from_config(config, custom_objects)

    def update_step(self, gradient, variable, learning_rate) -> None:
        """Let the optimizer move the variable, then replace the step by the revised one."""
        learning_rate = self.revise_learning_rate(learning_rate)
        if type(self).revise_step is _Extension.revise_step:
            super().update_step(gradient, variable, learning_rate)
            return
        value = ops.copy(variable)
        super().update_step(gradient, variable, learning_rate)
        step = self.revise_step(ops.subtract(variable, value), value, variable, learning_rate)
        self.assign(variable, ops.add(value, step))

    def revise_learning_rate(self, learning_rate):
        """Return the learning rate to use instead, in the optimizer and in all extensions.

        An extension calls `super().revise_learning_rate` first and changes what that returns.

        Args:
            learning_rate: the learning rate so far, a scalar.

        Returns:
            A scalar tensor.
        """
        return learning_rate

    def revise_step(self, step, value, variable, learning_rate):
        """Return the step to take instead of `step`.

        An extension calls `super().revise_step` first and changes what that returns.

        Args:
            step: the step taken so far, of the shape of the variable.
            value: the value of the variable before the step.
            variable: the variable itself, to be asked for its index or name only.
            learning_rate: the learning rate of this step, a scalar.

        Returns:
            A tensor of the shape of the variable.
        """
        return step

    def _variable_name(self, variable) -> str:
        """Return the path of a variable, such as `d1/kernel`.

        `update_step` gets the bare variable of TensorFlow, which has no path.
        """
        known = self._trainable_variables[self._get_variable_index(variable)]
        return getattr(known, "path", known.name)


def _find_optimizer(name: str, custom_objects: dict | None) -> type:
    """Return the optimizer class that is registered, or exported by Keras, under a name."""
    found = keras.saving.get_registered_object(name, custom_objects=custom_objects)
    found = found or getattr(keras.optimizers, name, None)
    if found is None:
        raise ValueError(
            f"The saved optimizer extends {name!r}, which is neither in keras.optimizers nor "
            "registered. Import the module that defines it, decorate it with "
            "keras.saving.register_keras_serializable or pass it in custom_objects."
        )
    return found


@cache
def _extend(base: type, extension: str, name: str) -> type:
    """Return `base` with an extension in front of it; equal arguments give the same class."""
    mixin = _EXTENSIONS[extension]
    if issubclass(base, mixin):
        raise ValueError(
            f"{base.__name__} already has the extension {extension!r}; every extension can be "
            "in a stack once."
        )
    # A class derived by hand from an extended one is a base of its own.
    inherited = vars(base).get("extensions", ())
    extended = type(
        name,
        (mixin, base),
        {
            "__doc__": mixin.__doc__,
            "__module__": __name__,
            "base_optimizer": base.base_optimizer if inherited else base,
            "extensions": (*inherited, (extension, name)),
        },
    )
    return keras.saving.register_keras_serializable("bert4keras", "ExtendedOptimizer")(extended)


# === The extensions ===


class _WeightDecay(_Extension):
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
        exclude_from_weight_decay: Sequence[str] = (),
        **kwargs,
    ):
        if isinstance(exclude_from_weight_decay, str):
            raise TypeError(
                "exclude_from_weight_decay is a list of regular expressions, but got the string "
                f"{exclude_from_weight_decay!r}. Write [{exclude_from_weight_decay!r}]."
            )
        super().__init__(*args, **kwargs)
        self.weight_decay_rate = weight_decay_rate
        # `exclude_from_weight_decay` is a method of Keras optimizers and must stay one.
        self._no_decay_patterns = tuple(exclude_from_weight_decay)
        for pattern in self._no_decay_patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(
                    f"exclude_from_weight_decay contains {pattern!r}, which is no regular "
                    f"expression: {error}. Use re.escape for a literal name."
                ) from error

    def revise_step(self, step, value, variable, learning_rate):
        """Add the decay to the step."""
        step = super().revise_step(step, value, variable, learning_rate)
        name = self._variable_name(variable)
        if any(re.search(pattern, name) for pattern in self._no_decay_patterns):
            return step
        return step - ops.cast(learning_rate, step.dtype) * self.weight_decay_rate * value

    def get_config(self) -> dict:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "weight_decay_rate": self.weight_decay_rate,
            "exclude_from_weight_decay": list(self._no_decay_patterns),
        }


class _PiecewiseLinearLR(_Extension):
    """A learning rate that is multiplied by a piecewise linear function of the step.

    Args:
        lr_schedule: `{step: factor}`; `{0: 1}`, which changes nothing, by default. Between two
            steps the factor is interpolated, after the last it stays; without a key 0 it rises
            from 0. `{1000: 1, 10000: 0.1}` warms up for 1000 steps, then decays until 10000.
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


class _ExponentialMovingAverage(_Extension):
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
                layout=getattr(variable, "_layout", None),
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
        for average, variable in zip(self._averages, self._trainable_variables, strict=False):
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
        self._weights_before = tuple(map(ops.convert_to_numpy, self._trainable_variables))
        for variable, average in zip(self._trainable_variables, self._averages, strict=True):
            variable.assign(np.asarray(ops.convert_to_numpy(average) / scale))

    def reset_old_weights(self) -> None:
        """Bring back the weights that `apply_ema_weights` replaced.

        Raises:
            RuntimeError: the averages are not in place.
        """
        if self._weights_before is None:
            raise RuntimeError("There is nothing to bring back. Call apply_ema_weights() first.")
        for variable, weight in zip(self._trainable_variables, self._weights_before, strict=True):
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


_EXTENSIONS: dict[str, type] = {
    "weight_decay": _WeightDecay,
    "piecewise_linear_lr": _PiecewiseLinearLR,
    "exponential_moving_average": _ExponentialMovingAverage,
}


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
    return _extend(BaseOptimizer, "weight_decay", name or BaseOptimizer.__name__)


def extend_with_piecewise_linear_lr(BaseOptimizer: type, name: str | None = None) -> type:
    """Give an optimizer class a piecewise linear learning rate.

    New argument of the class: `lr_schedule={0: 1}`, from steps to factors of the learning rate.
    `{1000: 1, 10000: 0.1}` warms up from 0 for 1000 steps and decays to a tenth until 10000. The
    factor is read before a step is counted, so that the first step has factor 0 unless the
    schedule has the key 0. Weight decay follows the schedule too, wherever it stands in the stack.

    Args:
        BaseOptimizer: any Keras optimizer class, extended or not.
        name: the name of the new class; that of `BaseOptimizer` by default.

    Returns:
        The new class.

    Raises:
        ValueError: the class has a schedule already.
    """
    return _extend(BaseOptimizer, "piecewise_linear_lr", name or BaseOptimizer.__name__)


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
    return _extend(BaseOptimizer, "exponential_moving_average", name or BaseOptimizer.__name__)


# The original has a second set of functions for tf.keras; here one set serves all.
extend_with_weight_decay_v2 = extend_with_weight_decay
extend_with_piecewise_linear_lr_v2 = extend_with_piecewise_linear_lr
extend_with_exponential_moving_average_v2 = extend_with_exponential_moving_average
