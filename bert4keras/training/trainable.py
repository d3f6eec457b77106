"""What a model trains: what was trainable when it was compiled."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import keras

from bert4keras import keras_private

IN_USE: ContextVar[tuple[int, ...]] = ContextVar("IN_USE", default=())
"""Which models train, evaluate or predict, innermost last."""


class Trainable:
    """Which layers and variables of a model were trainable at one moment.

    Keras says that `trainable` counts at `compile`, and then reads it while it trains: of models
    that share layers each would train what the last one was compiled for.

    What a model creates later, such as layers in a `build`, counts as it was when it was first seen
    by `update`.

    Args:
        model: the model.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self.flags: dict[int, tuple[Any, bool]] = {}
        self.complete = False
        self.found: dict[str, tuple[list, list]] = {}
        self.warned = False
        self.update()

    def parts(self) -> list[Any]:
        """All layers and variables of the model; a model of the same config has them in order."""
        return [*keras_private.layers_within(self.model), *self.model.variables]

    def update(self) -> None:
        """Note what the model has created since."""
        if not self.complete:
            for part in self.parts():
                self.flags.setdefault(id(part), (part, part.trainable))
            self.complete = all(layer.built for layer in keras_private.layers_within(self.model))

    def __call__(self, part: Any) -> bool:
        """Tell whether a layer or a variable was trainable."""
        return self.flags.get(id(part), (part, part.trainable))[1]

    def split(self, kind: str) -> tuple[list[Any], list[Any]]:
        """Divide the 'variables' or 'weights' of the model into those that it trains and others."""
        if kind in self.found:
            return self.found[kind]
        variables = getattr(self.model, kind)
        trained = [v for v in variables if self(v)] if self(self.model) else []
        known = {id(v) for v in trained}
        result = trained, [v for v in variables if id(v) not in known]
        if self.complete:
            self.found[kind] = result
        return result

    def now_otherwise(self) -> list[tuple[Any, bool]]:
        """The parts for which `trainable` says something else by now, and what it said."""
        return [(part, flag) for part, flag in self.flags.values() if part.trainable != flag]

    def changed(self) -> list[int]:
        """Give the numbers of the parts for which `trainable` says something else by now."""
        return [i for i, part in enumerate(self.parts()) if self(part) != part.trainable]

    def change(self, numbers: Sequence[int]) -> None:
        """Take over what `changed` gave for a model of the same config."""
        parts = self.parts()
        for part in (parts[i] for i in numbers):
            self.flags[id(part)] = part, not part.trainable
        self.found.clear()

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Let every layer and variable be trainable, or not, as it was, in a `with` block.

        Layers ask for it while they are called, and PyTorch computes no gradients of others.
        """
        changed = self.now_otherwise()
        try:
            for part, flag in changed:
                set_trainable(part, flag)
            yield
        finally:
            for part, flag in changed:
                set_trainable(part, not flag)

    def warn(self) -> None:
        """Say once that the model trains other weights than are trainable by now."""
        if self.warned or not self.now_otherwise():
            return
        trained, others = self.split("weights")
        now = {id(v) for v in self.model.trainable_weights}
        paths = sorted(v.path for v in trained if id(v) not in now)
        paths += sorted(v.path for v in others if id(v) in now)
        if not paths:
            return
        self.warned = True
        warnings.warn(
            f"the model {self.model.name!r} trains what was trainable when it was compiled, and "
            f"`trainable` of {len(paths)} of its weights, such as {paths[0]}, has changed since: "
            "compile it again if that is to count",
            stacklevel=4,
        )


def set_trainable(part: Any, flag: bool) -> None:
    """Set `trainable` of a layer or a variable, and of nothing within it."""
    if isinstance(part, keras.Layer):
        keras_private.set_own_trainable(part, flag)
    else:
        part.trainable = flag


class TrainsAsCompiled(keras.Model):
    """A Keras model that trains what was trainable when it was compiled.

    `trainable_weights` and its kin say what is trainable by now, except while the model is in use:
    there Keras asks them what to train.
    """

    compiled_trainable: Trainable | None = None
    """What was trainable at `compile`."""

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile as `keras.Model.compile` does, and note what is trainable."""
        super().compile(*args, **kwargs)
        self.compiled_trainable = Trainable(self)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Let `trainable_weights` and its kin be those that were compiled, in a `with` block."""
        token = IN_USE.set((*IN_USE.get(), id(self)))
        try:
            yield
        finally:
            IN_USE.reset(token)

    @contextmanager
    def in_training(self) -> Iterator[None]:
        """Be `in_use`, and say if the model trains other weights than are trainable by now."""
        if self.compiled_trainable is not None:
            self.compiled_trainable.update()
            self.compiled_trainable.warn()
        with self.in_use():
            yield
        if self.compiled_trainable is not None:
            self.compiled_trainable.update()

    @property
    def _decides(self) -> bool:
        """Whether what was compiled decides at present, not what stands in the layers."""
        return self.compiled_trainable is not None and id(self) in IN_USE.get()

    @property
    def trainable_variables(self) -> list:
        """All variables that are trained."""
        if self._decides:
            return self.compiled_trainable.split("variables")[0][:]
        return super().trainable_variables

    @property
    def non_trainable_variables(self) -> list:
        """All variables that are not trained, states of random numbers among them."""
        if self._decides:
            return self.compiled_trainable.split("variables")[1][:]
        return super().non_trainable_variables

    @property
    def trainable_weights(self) -> list:
        """All weights that are trained."""
        if self._decides:
            return self.compiled_trainable.split("weights")[0][:]
        return super().trainable_weights

    @property
    def non_trainable_weights(self) -> list:
        """All weights that are not trained."""
        if self._decides:
            return self.compiled_trainable.split("weights")[1][:]
        return super().non_trainable_weights
