"""The optimizers: Adam, AdaFactor, Lion and Muon."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import keras
from keras import ops

from bert4keras.backend.engines import adam_in_place, is_sparse
from bert4keras.keras_private import given_rate, index_of, trained_variables

LearningRate = float | keras.optimizers.schedules.LearningRateSchedule | Callable

# === Shared by the optimizers and their extensions ===


def check_arguments(optimizer_class: type, arguments: Mapping) -> None:
    """Raise a TypeError for keyword arguments that no constructor of the class takes."""
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
            f"It takes {', '.join(sorted(known))}: add the extension that defines a missing one."
        )


def check_patterns(argument: str, patterns: Sequence[str] | None) -> tuple[str, ...]:
    """Return regular expressions as a tuple, after checking that they are a list and valid."""
    if isinstance(patterns, str):
        raise TypeError(
            f"{argument} takes a list of regular expressions, but got the string {patterns!r}: "
            f"write [{patterns!r}]."
        )
    for pattern in patterns or ():
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(
                f"{argument} contains {pattern!r}, which is not a regular expression: {error}. Use "
                "re.escape for a literal name."
            ) from error
    return tuple(patterns or ())


def matches_any(patterns: Sequence[str], name: str) -> bool:
    """Tell whether one of the regular expressions matches a part of a name."""
    return any(re.search(pattern, name) for pattern in patterns)


class DenseGradients(keras.optimizers.Optimizer):
    """Optimizer that turns sparse gradients into dense ones, in the shape of their variable.

    On TensorFlow gradients of embeddings are sparse, and may contain a row several times. Keras
    computes the norm of such a gradient before these rows are summed, so that clipping differs
    from that on other backends, and cannot accumulate it.
    """

    def apply(self, grads, trainable_variables=None) -> None:
        """Take a step."""
        if trainable_variables is not None:
            trainable_variables = list(trainable_variables)
        variables = trainable_variables or trained_variables(self)
        # If the lengths differ, Keras raises an error.
        if len(grads) == len(variables):
            grads = [
                ops.reshape(gradient, tuple(variable.shape)) if is_sparse(gradient) else gradient
                for gradient, variable in zip(grads, variables, strict=True)
            ]
        super().apply(grads, trainable_variables)


def variable_name(optimizer: keras.optimizers.Optimizer, variable) -> str:
    """Return the path of a variable, such as `d1/kernel`.

    On TensorFlow, `update_step` gets a bare variable, which has no path.
    """
    known = trained_variables(optimizer)[index_of(optimizer, variable)]
    return getattr(known, "path", known.name)


def _checked_rate(learning_rate: LearningRate, lr: float | None) -> LearningRate:
    """Return the learning rate, given by either of its names; it must not be negative."""
    rate = learning_rate if lr is None else lr
    if not isinstance(rate, Real):
        return rate
    if not rate >= 0:
        raise ValueError(
            f"learning_rate must not be negative, but got {rate}: give a number from 0."
        )
    return float(rate)


# === Adam ===


@dataclass(frozen=True)
class Corrections:
    """The factor of the learning rate and the epsilon that correct the moments of Adam."""

    rate: Any
    epsilon: Any


@keras.saving.register_keras_serializable(package="bert4keras")
class Adam(DenseGradients):
    """Adam (Kingma & Ba, 2015, algorithm 1) with optional bias correction, which BERT omits.

    `epsilon` is added to the square root of the corrected second moment: it is the epsilon of the
    paper, not the "epsilon hat" of `keras.optimizers.Adam`.

    Args:
        learning_rate: a number, a Keras schedule or a callable; 0.001 by default.
        beta_1: decay rate of the first moment, 0.9 by default.
        beta_2: decay rate of the second moment, 0.999 by default.
        epsilon: added to the denominator, 1e-6 by default.
        bias_correction: whether to divide the moments by `1 - beta ** step`, True by default.
            Google's BERT was trained without it.
        lr: the Keras 2 name of `learning_rate`.
        **kwargs: arguments of `keras.optimizers.Optimizer`.

    Raises:
        TypeError: an argument is unknown.
        ValueError: the learning rate is negative.
    """

    _of_this_step: Corrections | None = None

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-6,
        bias_correction: bool = True,
        *,
        lr: float | None = None,
        **kwargs,
    ):
        check_arguments(type(self), kwargs)
        super().__init__(learning_rate=_checked_rate(learning_rate, lr), **kwargs)
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

    def _backend_update_step(self, grads, trainable_variables, learning_rate) -> None:
        """Move all variables by one step, for which the corrections are computed once."""
        self._of_this_step = self._corrections()
        try:
            super()._backend_update_step(grads, trainable_variables, learning_rate)
        finally:
            self._of_this_step = None

    def update_step(self, gradient, variable, learning_rate) -> None:
        """Move the moments and the variable by one step."""
        dtype = variable.dtype
        gradient = ops.cast(gradient, dtype)
        momentum = self._momentums[index_of(self, variable)]
        velocity = self._velocities[index_of(self, variable)]
        corrections = self._of_this_step or self._corrections()
        rate = ops.cast(ops.cast(learning_rate, "float32") * corrections.rate, dtype)
        epsilon = ops.cast(corrections.epsilon, dtype)
        betas = self.beta_1, self.beta_2
        if adam_in_place(variable, momentum, velocity, gradient, rate, betas, epsilon):
            return
        new_momentum = self.beta_1 * momentum + (1 - self.beta_1) * gradient
        new_velocity = self.beta_2 * velocity + (1 - self.beta_2) * ops.square(gradient)
        self.assign(momentum, new_momentum)
        self.assign(velocity, new_velocity)
        update = new_momentum / (ops.sqrt(new_velocity) + epsilon)
        self.assign_sub(variable, rate * update)

    def _corrections(self) -> "Corrections":
        """Return what the corrections of the moments make of rate and epsilon at this step."""
        if not self.bias_correction:
            return Corrections(1.0, self.epsilon)
        # In float32, whatever the type of the variable: in bfloat16 0.999 rounds to 1.
        step = ops.cast(ops.add(self.iterations, 1), "float32")
        root = ops.sqrt(ops.subtract(1, ops.power(self.beta_2, step)))
        rate = ops.divide(root, ops.subtract(1, ops.power(self.beta_1, step)))
        return Corrections(rate, ops.multiply(self.epsilon, root))

    def get_config(self) -> dict:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
            "bias_correction": self.bias_correction,
        }


# === AdaFactor ===


@keras.saving.register_keras_serializable(package="bert4keras")
class AdaFactor(DenseGradients):
    """AdaFactor (Shazeer & Stern, 2018, algorithms 4 and 5), which needs far less memory than Adam.

    The second moment of a large matrix is stored as the means of its rows and columns. Steps are
    relative to the root mean square (RMS) of the weight. `keras.optimizers.Adafactor` is not used:
    it has neither a first moment nor a constant `beta2`, always clips and scales, and factors every
    matrix.

    Args:
        learning_rate: a number, a Keras schedule or a callable; 0.001 by default. None stands for
            the relative step size of the paper, `min(0.01, 1 / sqrt(step))`, times 0.05 unless
            it is multiplied by the RMS of the weight.
        beta1: decay rate of the first moment; 0 by default, which stores none.
        beta2: decay rate of the second moment; None by default, for `1 - step ** -0.8`.
        epsilon1: added to the squared gradient and to the second moment, 1e-30 by default.
        epsilon2: lower bound of the RMS by which a step is multiplied, 1e-3 by default.
        multiply_by_parameter_scale: whether a step is multiplied by the RMS of the weight; True by
            default.
        clipping_threshold: upper bound of the RMS of an update before it is multiplied by the
            learning rate, 1.0 by default. None does not clip.
        min_dim_size_to_factor: the two largest dimensions must have at least this size for the
            second moment to be factored, 128 by default.
        exclude_from_parameter_scale: regular expressions; the steps of variables whose path
            (`d1/kernel`) one of them matches are not multiplied by the RMS. None by default.
        lr: the Keras 2 name of `learning_rate`.
        **kwargs: arguments of `keras.optimizers.Optimizer`.

    Raises:
        TypeError: an argument is unknown.
        ValueError: the learning rate is negative or a pattern is not a regular expression.
    """

    def __init__(
        self,
        learning_rate: LearningRate | None = 0.001,
        beta1: float = 0.0,
        beta2: float | None = None,
        epsilon1: float = 1e-30,
        epsilon2: float = 1e-3,
        multiply_by_parameter_scale: bool = True,
        clipping_threshold: float | None = 1.0,
        min_dim_size_to_factor: int = 128,
        exclude_from_parameter_scale: Sequence[str] | None = None,
        *,
        lr: float | None = None,
        **kwargs,
    ):
        check_arguments(type(self), kwargs)
        rate = _checked_rate(learning_rate, lr)
        super().__init__(learning_rate=self._relative_step if rate is None else rate, **kwargs)
        self.beta1 = beta1
        self.beta2 = beta2
        self.epsilon1 = epsilon1
        self.epsilon2 = epsilon2
        self.multiply_by_parameter_scale = multiply_by_parameter_scale
        self.clipping_threshold = clipping_threshold
        self.min_dim_size_to_factor = min_dim_size_to_factor
        self.exclude_from_parameter_scale = check_patterns(
            "exclude_from_parameter_scale", exclude_from_parameter_scale
        )

    def _relative_step(self):
        """Return the relative step size."""
        step = ops.cast(self.iterations + 1, "float32")
        rate = ops.minimum(0.01, ops.rsqrt(step))
        return rate if self.multiply_by_parameter_scale else 0.05 * rate

    def _factored_axes(self, shape: Sequence[int]) -> tuple[int, int] | None:
        """Return the two largest axes, or None if the second moment is not factored."""
        axes = sorted(range(len(shape)), key=shape.__getitem__)[-2:]
        if len(axes) < 2 or shape[axes[0]] < self.min_dim_size_to_factor:
            return None
        return axes[0], axes[1]

    def build(self, variables: list) -> None:
        """Create the moments of each variable, all zero and in float32."""
        if self.built:
            return
        super().build(variables)
        first, second = [], []
        for variable in variables:
            shape = tuple(variable.shape)
            if self.beta1 > 0:
                first.append(self._add_moment(variable, shape, "first_moment"))
            axes = self._factored_axes(shape)
            moments = [
                self._add_moment(variable, (*shape[:axis], 1, *shape[axis + 1 :]), f"means_{axis}")
                for axis in axes or ()
            ]
            if not axes:
                moments = [self._add_moment(variable, shape, "second_moment")]
            second.append(moments)
        self._first_moments, self._second_moments = first, second

    def _add_moment(self, variable, shape: tuple[int, ...], name: str):
        # In float32, whatever the type of the variable: in float16 1e-30 rounds to 0.
        path = re.sub(r"[/:]", "_", getattr(variable, "path", variable.name))
        return self.add_variable(shape, dtype="float32", name=f"{path}_{name}")

    def update_step(self, gradient, variable, learning_rate) -> None:
        """Move the moments and the variable by one step."""
        index = index_of(self, variable)
        gradient = ops.cast(gradient, "float32")
        square = self._new_second_moment(index, ops.square(gradient) + self.epsilon1)
        update = gradient / ops.sqrt(square + self.epsilon1)
        if self.clipping_threshold is not None:
            update = update / ops.maximum(1.0, root_mean_square(update) / self.clipping_threshold)
        if self.beta1 > 0:
            moment = self._first_moments[index]
            update = self.beta1 * moment + (1 - self.beta1) * update
            self.assign(moment, update)
        if self.multiply_by_parameter_scale and not matches_any(
            self.exclude_from_parameter_scale, variable_name(self, variable)
        ):
            size = root_mean_square(ops.cast(variable, "float32"))
            update = update * ops.maximum(size, self.epsilon2)
        update = ops.cast(learning_rate, "float32") * update
        self.assign_sub(variable, ops.cast(update, variable.dtype))

    def _new_second_moment(self, index: int, square):
        """Update the second moment of a variable with a squared gradient and return it."""
        beta2 = self.beta2
        if beta2 is None:
            beta2 = 1 - ops.power(ops.cast(self.iterations + 1, "float32"), -0.8)
        moments = self._second_moments[index]
        axes = self._factored_axes(square.shape)
        new = []
        for position, moment in enumerate(moments):
            value = ops.mean(square, axis=axes[position], keepdims=True) if axes else square
            new.append(beta2 * moment + (1 - beta2) * value)
            self.assign(moment, new[-1])
        if not axes:
            return new[0]
        # Division before multiplication: the product of two small squares would underflow.
        return new[0] / ops.mean(new[0], axis=axes[1], keepdims=True) * new[1]

    def get_config(self) -> dict:
        """Return the constructor's arguments."""
        config = super().get_config()
        rate = given_rate(self)
        if callable(rate) and rate == self._relative_step:
            config["learning_rate"] = None
        return {
            **config,
            "beta1": self.beta1,
            "beta2": self.beta2,
            "epsilon1": self.epsilon1,
            "epsilon2": self.epsilon2,
            "multiply_by_parameter_scale": self.multiply_by_parameter_scale,
            "clipping_threshold": self.clipping_threshold,
            "min_dim_size_to_factor": self.min_dim_size_to_factor,
            "exclude_from_parameter_scale": list(self.exclude_from_parameter_scale),
        }


def root_mean_square(x):
    """Return the square root of the mean of the squares of all elements."""
    return ops.sqrt(ops.mean(ops.square(x)))


# === Lion ===


@keras.saving.register_keras_serializable(package="bert4keras")
class Lion(DenseGradients, keras.optimizers.Lion):
    """Lion (Chen et al., 2023, algorithm 2): steps in the direction of the sign of a moment.

    This is Lion of Keras with the decay rates that the paper gives for language models. The
    learning rate should be 3 to 10 times lower than for Adam.

    Args:
        learning_rate: a number, a Keras schedule or a callable; 0.001 by default.
        beta_1: weight of the moment in the direction of a step, 0.95 by default.
        beta_2: decay rate of the moment, 0.98 by default.
        lr: the Keras 2 name of `learning_rate`.
        **kwargs: arguments of `keras.optimizers.Optimizer`.

    Raises:
        TypeError: an argument is unknown.
        ValueError: the learning rate is negative.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.95,
        beta_2: float = 0.98,
        *,
        lr: float | None = None,
        **kwargs,
    ):
        check_arguments(type(self), kwargs)
        super().__init__(_checked_rate(learning_rate, lr), beta_1, beta_2, **kwargs)


# === Muon ===


@keras.saving.register_keras_serializable(package="bert4keras")
class Muon(DenseGradients, keras.optimizers.Muon):
    """Muon (Jordan et al., 2024) for the matrices in Transformer blocks, Adam for all other
    weights.

    A step of Muon is the momentum, whose singular values a Newton-Schulz iteration moves close to
    1. It suits matrices that map hidden states; embeddings, norms, biases, poolers and output
    heads, whatever their names, are trained by Adam. Whereas `keras.optimizers.Muon`, on which it
    is based, takes the layers to exclude, it takes the layers to include. Steps are scaled as in
    Moonlight (Liu et al., 2025, equation 4), so that learning rates of AdamW can be used. For
    weight decay use `extend_with_weight_decay`.

    Args:
        learning_rate: a number, a Keras schedule or a callable; 0.001 by default.
        momentum: decay rate of the momentum of matrices, 0.95 by default.
        muon_layers: regular expressions; matrices whose path
            (`Transformer-0-FeedForward/i0_dense/kernel`) one of them matches are trained by Muon.
            By default the blocks of the models of this library.
        exclude_layers: regular expressions; matrices whose path one of them matches are trained by
            Adam nevertheless. By default conditional norms.
        adam_beta_1: decay rate of the first moment of Adam, 0.9 by default.
        adam_beta_2: decay rate of the second moment of Adam, 0.999 by default.
        epsilon: "epsilon hat" of Adam, 1e-6 by default.
        adam_lr_ratio: ratio of the learning rates of Adam and Muon; 1 by default.
        weight_decay: weight decay of Keras for the matrices, none by default.
        adam_weight_decay: weight decay of Keras for all other weights, none by default.
        lr: the Keras 2 name of `learning_rate`.
        **kwargs: further arguments of `keras.optimizers.Muon`.

    Raises:
        TypeError: an argument is unknown.
        ValueError: the learning rate is negative, a pattern is not a regular expression or, when
            training starts, no matrix is left for Muon.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        momentum: float = 0.95,
        muon_layers: Sequence[str] = ("Transformer-",),
        exclude_layers: Sequence[str] = ("-Norm",),
        adam_beta_1: float = 0.9,
        adam_beta_2: float = 0.999,
        epsilon: float = 1e-6,
        adam_lr_ratio: float = 1.0,
        weight_decay: float | None = None,
        adam_weight_decay: float | None = None,
        *,
        lr: float | None = None,
        **kwargs,
    ):
        check_arguments(type(self), kwargs)
        included = check_patterns("muon_layers", muon_layers)
        excluded = check_patterns("exclude_layers", exclude_layers)
        included_pattern = "|".join(f"(?:{pattern})" for pattern in included) or "(?!)"
        super().__init__(
            learning_rate=_checked_rate(learning_rate, lr),
            momentum=momentum,
            # Keras searches in the path: paths that none of the patterns matches are excluded too.
            exclude_layers=[*excluded, f"^(?!.*(?:{included_pattern}))"],
            adam_beta_1=adam_beta_1,
            adam_beta_2=adam_beta_2,
            epsilon=epsilon,
            adam_lr_ratio=adam_lr_ratio,
            weight_decay=weight_decay,
            adam_weight_decay=adam_weight_decay,
            **kwargs,
        )
        self._muon_layers = included
        self._adam_layers = excluded

    def build(self, variables: list) -> None:
        """Create the moments of each variable."""
        if self.built:
            return
        super().build(variables)
        if all(velocity is not None for velocity in self.adam_velocities):
            paths = [v.path for v in variables if len(v.shape) == 2]
            raise ValueError(
                f"Muon has nothing to do: no matrix matches muon_layers={list(self._muon_layers)} "
                f"without matching exclude_layers={list(self._adam_layers)}. Name some of the "
                f"matrices ({', '.join(paths) or 'none'}) in muon_layers, or use Adam."
            )

    def update_step(self, gradient, variable, learning_rate) -> None:
        """Move the moments and the variable by one step."""
        gradient = ops.cast(gradient, variable.dtype)
        super().update_step(gradient, variable, ops.cast(learning_rate, variable.dtype))

    def lr_adjust(self, x):
        """Scale the update of a matrix to the typical RMS of updates of Adam."""
        # Keras multiplies by a float32, which TensorFlow refuses for bfloat16.
        return ops.cast(super().lr_adjust(ops.cast(x, "float32")), x.dtype)

    def get_config(self) -> dict:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "muon_layers": list(self._muon_layers),
            "exclude_layers": list(self._adam_layers),
        }
