"""Training of the weights that were trainable when a model was compiled."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import keras

from bert4keras import keras_private

IN_USE: ContextVar[tuple[int, ...]] = ContextVar("IN_USE", default=())
"""The ids of the models that are training, evaluating or predicting, innermost last."""


class Trainable:
    """Snapshot of which layers and variables of a model were trainable.

    According to Keras, `trainable` takes effect at `compile`, but it is read during training:
    models that share layers would all train what the last one was compiled for.

    What a model creates later, such as layers in a `build`, is recorded as it is when `update`
    first sees it.

    Args:
        model: the model.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self.flags: dict[int, tuple[Any, bool]] = {}
        self.complete = False
        self.cache: dict[str, tuple[list, list]] = {}
        self.warned = False
        self.update()

    def members(self) -> list[Any]:
        """List all layers and variables of the model, in the same order for the same config."""
        return [*keras_private.layers_within(self.model), *self.model.variables]

    def update(self) -> None:
        """Record what the model has created since."""
        if not self.complete:
            for member in self.members():
                self.flags.setdefault(id(member), (member, member.trainable))
            self.complete = all(layer.built for layer in keras_private.layers_within(self.model))

    def __call__(self, member: Any) -> bool:
        """Tell whether a layer or a variable was trainable."""
        return self.flags.get(id(member), (member, member.trainable))[1]

    def split(self, kind: str) -> tuple[list[Any], list[Any]]:
        """Split the 'variables' or 'weights' of the model into trained and other ones."""
        if kind in self.cache:
            return self.cache[kind]
        variables = getattr(self.model, kind)
        trained = [v for v in variables if self(v)] if self(self.model) else []
        known = {id(v) for v in trained}
        result = trained, [v for v in variables if id(v) not in known]
        if self.complete:
            self.cache[kind] = result
        return result

    def changed_members(self) -> list[tuple[Any, bool]]:
        """List the members whose `trainable` has changed since, with the recorded flag."""
        return [(member, flag) for member, flag in self.flags.values() if member.trainable != flag]

    def changed_indices(self) -> list[int]:
        """List the indices of the members whose `trainable` has changed since."""
        members = enumerate(self.members())
        return [i for i, member in members if self(member) != member.trainable]

    def apply_changes(self, indices: Sequence[int]) -> None:
        """Apply the `changed_indices` of a model of the same config."""
        members = self.members()
        for member in (members[i] for i in indices):
            self.flags[id(member)] = member, not member.trainable
        self.cache.clear()

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Restore `trainable` of every layer and variable to the snapshot within a `with` block.

        Layers read it in their call, and PyTorch computes gradients of trainable variables only.
        """
        changed = self.changed_members()
        try:
            for member, flag in changed:
                set_trainable(member, flag)
            yield
        finally:
            for member, flag in changed:
                set_trainable(member, not flag)

    def warn(self) -> None:
        """Warn once if the model trains other weights than those that are now trainable."""
        if self.warned or not self.changed_members():
            return
        trained, others = self.split("weights")
        now = {id(v) for v in self.model.trainable_weights}
        paths = sorted(v.path for v in trained if id(v) not in now)
        paths += sorted(v.path for v in others if id(v) in now)
        if not paths:
            return
        self.warned = True
        warnings.warn(
            f"the model {self.model.name!r} trains what was trainable when it was compiled, but "
            f"`trainable` of {len(paths)} of its weights, such as {paths[0]}, has changed since: "
            "compile it again for this to take effect",
            stacklevel=4,
        )


def set_trainable(member: Any, flag: bool) -> None:
    """Set `trainable` of a layer or a variable, but not of its sub-layers."""
    if isinstance(member, keras.Layer):
        keras_private.set_own_trainable(member, flag)
    else:
        member.trainable = flag


class TrainsAsCompiled(keras.Model):
    """Keras model that trains the weights that were trainable when it was compiled.

    `trainable_weights` and similar properties tell what is trainable now, except while the model
    runs, when Keras reads from them what to train.
    """

    compiled_trainable: Trainable | None = None
    """Snapshot of what was trainable at `compile`."""

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile as `keras.Model.compile` does, and record what is trainable."""
        super().compile(*args, **kwargs)
        self.compiled_trainable = Trainable(self)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Let `trainable_weights` and similar ones be those of `compile` within a `with` block."""
        token = IN_USE.set((*IN_USE.get(), id(self)))
        try:
            yield
        finally:
            IN_USE.reset(token)

    @contextmanager
    def in_training(self) -> Iterator[None]:
        """Do the same as `in_use`, and warn if other weights are now trainable."""
        if self.compiled_trainable is not None:
            self.compiled_trainable.update()
            self.compiled_trainable.warn()
        with self.in_use():
            yield
        if self.compiled_trainable is not None:
            self.compiled_trainable.update()

    @property
    def _uses_compiled(self) -> bool:
        """Whether the flags at `compile` apply at present, not those of the layers."""
        return self.compiled_trainable is not None and id(self) in IN_USE.get()

    @property
    def trainable_variables(self) -> list:
        """Trained variables."""
        if self._uses_compiled:
            return self.compiled_trainable.split("variables")[0][:]
        return super().trainable_variables

    @property
    def non_trainable_variables(self) -> list:
        """Variables that are not trained, including states of random number generators."""
        if self._uses_compiled:
            return self.compiled_trainable.split("variables")[1][:]
        return super().non_trainable_variables

    @property
    def trainable_weights(self) -> list:
        """Trained weights."""
        if self._uses_compiled:
            return self.compiled_trainable.split("weights")[0][:]
        return super().trainable_weights

    @property
    def non_trainable_weights(self) -> list:
        """Weights that are not trained."""
        if self._uses_compiled:
            return self.compiled_trainable.split("weights")[1][:]
        return super().non_trainable_weights
