"""The mechanism of extensions: how they are combined with an optimizer, saved and rebuilt."""

from functools import cache

import keras
from keras import ops

from bert4keras.optimizers.algorithms import (
    DenseGradients,
    check_arguments,
)

EXTENSIONS: dict[str, type] = {}
"""The mix-in classes by the name of their extension; `extensions` fills it."""


@keras.saving.register_keras_serializable(package="bert4keras", name="ExtendedOptimizer")
class Extension(DenseGradients):
    """Base of all extensions: how a stack of them is saved and rebuilt.

    `extend` sets the two attributes. All stacks are registered under one name, and `from_config`
    builds the class from the config. A saved optimizer can therefore be loaded in a process that
    has not called the `extend_with_*` functions.
    """

    base_optimizer: type
    """The class that the innermost extension wraps."""
    extensions: tuple[tuple[str, str], ...] = ()
    """Pairs of the names of extension and extended class, innermost first."""

    def __init__(self, *args, **kwargs):
        check_arguments(type(self), kwargs)
        super().__init__(*args, **kwargs)

    def get_config(self) -> dict:
        """Return the constructor's arguments and the structure of the class."""
        return {
            **super().get_config(),
            "base_optimizer": keras.saving.get_registered_name(self.base_optimizer),
            "extensions": [list(pair) for pair in self.extensions],
        }

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None):
        """Build an optimizer of the class that `config` describes."""
        config = dict(config)
        target = find_optimizer(config.pop("base_optimizer"), custom_objects)
        for extension, name in config.pop("extensions"):
            target = extend(target, extension, name)
        # All stacks share their registration, so Keras may call this on any of them. Only a class
        # that is derived from a stack by hand must be used as it is.
        if "extensions" not in vars(cls):
            target = cls
        return super(Extension, target).from_config(config, custom_objects)

    def update_step(self, gradient, variable, learning_rate) -> None:
        """Let the optimizer update the variable, then replace the step by the revised one."""
        learning_rate = self.revise_learning_rate(learning_rate)
        if type(self).revise_step is Extension.revise_step:
            super().update_step(gradient, variable, learning_rate)
            return
        value = ops.copy(variable)
        super().update_step(gradient, variable, learning_rate)
        step = ops.subtract(variable, value)
        step = self.revise_step(step, value, gradient, variable, learning_rate)
        self.assign(variable, ops.add(value, step))

    def revise_learning_rate(self, learning_rate):
        """Return the learning rate to use instead, in the optimizer and in all extensions.

        An extension calls `super().revise_learning_rate` first and modifies its result.

        Args:
            learning_rate: the learning rate so far, a scalar.

        Returns:
            A scalar tensor.
        """
        return learning_rate

    def revise_step(self, step, value, gradient, variable, learning_rate):
        """Return the step to take instead of `step`.

        An extension calls `super().revise_step` first and modifies its result.

        Args:
            step: the step taken so far, of the shape of the variable.
            value: the value of the variable before the step.
            gradient: the gradient that was passed to the optimizer.
            variable: the variable itself, of which only the index or name may be used.
            learning_rate: the learning rate of this step, a scalar.

        Returns:
            A tensor of the shape of the variable.
        """
        return step


def find_optimizer(name: str, custom_objects: dict | None) -> type:
    """Return the optimizer class that is registered or exported by Keras under a name."""
    found = keras.saving.get_registered_object(name, custom_objects=custom_objects)
    found = found or getattr(keras.optimizers, name, None)
    if found is None:
        raise ValueError(
            f"The saved optimizer extends {name!r}, which is neither in keras.optimizers nor "
            "registered: import the module that defines it, decorate it with "
            "keras.saving.register_keras_serializable, or pass it in custom_objects."
        )
    return found


@cache
def extend(base: type, extension: str, name: str) -> type:
    """Return `base` with an extension mixed in; equal arguments give the same class."""
    mixin = EXTENSIONS[extension]
    if issubclass(base, mixin):
        raise ValueError(
            f"{base.__name__} already has the extension {extension!r}: use each extension only "
            "once in a stack."
        )
    # A class that is derived from an extended one by hand is a base of its own.
    inherited = vars(base).get("extensions", ())
    extended = type(
        name,
        (mixin, base),
        {
            "__doc__": mixin.__doc__,
            "__module__": "bert4keras.optimizers.extensions",
            "base_optimizer": base.base_optimizer if inherited else base,
            "extensions": (*inherited, (extension, name)),
        },
    )
    return keras.saving.register_keras_serializable("bert4keras", "ExtendedOptimizer")(extended)
