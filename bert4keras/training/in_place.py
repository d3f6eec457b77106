"""Steps on JAX that update variables in place.

While a model runs on JAX, Keras removes the values from its variables, passes them from step to
step, and restores the last ones at the end: if a step fails, the weights are lost, and other
threads find none. Here each step reads the variables and writes those that it changes, as on
TensorFlow and PyTorch. A step that fails changes nothing, and other threads read the values of the
last step.
"""

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import repeat
from threading import local
from typing import Any
from weakref import WeakKeyDictionary

import keras

from bert4keras import keras_private
from bert4keras.backend.engines import (
    TRACING,
    Changes,
    first_in_turn,
    on_present_values,
    present_values,
    shapes_of,
)
from bert4keras.training.compiling import SizesMet


class VariableGroup:
    """A list of variables that Keras, which keeps the state in the model, does not track."""

    def __init__(self, variables: Sequence[keras.Variable] = ()) -> None:
        self.variables = variables


State = tuple[VariableGroup, ...]
"""The variables of a model, an empty group, and those of optimizer and metrics where in use."""


def values_of(state: State) -> tuple[list[Any], ...]:
    """Return the present values of a state."""
    return tuple(present_values(group.variables) for group in state)


class Synced(local):
    """Flags, for each thread, that tell Keras whether to ask a model for its state."""

    def __init__(self) -> None:
        self.models: WeakKeyDictionary = WeakKeyDictionary()


SYNCED = Synced()


class VariablesInPlace(keras.Model):
    """Keras model whose variables keep their values while it runs, on JAX as elsewhere."""

    # --- what Keras calls on JAX only

    @property
    def _jax_state_synced(self) -> bool:
        """Whether Keras should ask for the state, in this thread."""
        return SYNCED.models.get(self, True)

    @_jax_state_synced.setter
    def _jax_state_synced(self, value: bool) -> None:
        SYNCED.models[self] = value

    @property
    def _jax_state(self) -> None:
        """State that would have to be restored to the variables: none."""

    @_jax_state.setter
    def _jax_state(self, value: Any) -> None:
        """Drop the state that Keras would restore later."""

    def jax_state_sync(self) -> None:
        """Restore nothing, since variables have their values; Keras asks for the state again."""
        self._jax_state_synced = True

    def _get_jax_state(
        self, optimizer_variables: bool = False, metrics_variables: bool = False, **kwargs: Any
    ) -> State:
        """Return the variables of a step, grouped as Keras groups their values."""
        state = [VariableGroup(self.variables), VariableGroup()]
        if optimizer_variables:
            state.append(VariableGroup(self.optimizer.variables))
        if metrics_variables:
            state.append(VariableGroup(self.metrics_variables))
        return tuple(state)

    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Train as `keras.Model.fit` does."""
        with finalized_on_success(getattr(self, "optimizer", None)):
            return super().fit(*args, **kwargs)

    # --- the functions

    changes_seen = 0
    """`Changes.count` when the functions were made."""

    def forget_if_changed(self) -> None:
        """Forget the functions if some layer has got or lost variables since they were made."""
        if self.changes_seen != Changes.count:
            self.train_function = self.test_function = self.predict_function = None
            self.changes_seen = Changes.count

    def make_train_function(self, force: bool = False) -> Any:
        """Create the function that trains on a batch."""
        self.forget_if_changed()
        if self.train_function is not None and not force:
            return self.train_function
        if keras.backend.backend() == "jax":
            self.train_function = self._make_function(TrainStep(self, self.train_step))
            return self.train_function
        super().make_train_function(force)
        single = self.optimizer is not None and self.steps_per_execution == 1
        if keras.backend.backend() == "tensorflow" and single:
            self.train_function = counted_on_success(self.train_function, self.optimizer)
        return self.train_function

    def make_test_function(self, force: bool = False) -> Any:
        """Create the function that evaluates a batch."""
        self.forget_if_changed()
        if keras.backend.backend() != "jax":
            return super().make_test_function(force)
        if self.test_function is None or force:
            self.test_function = self._make_function(ReadingStep(self, self.test_step))
        return self.test_function

    def make_predict_function(self, force: bool = False) -> Any:
        """Create the function that predicts a batch."""
        self.forget_if_changed()
        if keras.backend.backend() != "jax":
            return super().make_predict_function(force)

        def step(state: tuple, data: Any) -> tuple[Any, tuple]:
            outputs, others = self.predict_step(state, data)
            return outputs, (state[0], others)

        with TRACING:
            if self.predict_function is None or force:
                self.predict_function = self._make_function(
                    ReadingStep(self, step), concatenate_outputs=True
                )
        return self.predict_function


class Step:
    """Step of Keras, turned into a function that reads and writes variables.

    Args:
        model: the model.
        step: takes the values of trainable and of other variables, those of optimizer and metrics
            where in use, and a batch; returns its outputs and the new values.
    """

    def __init__(self, model: keras.Model, step: Callable[[tuple, Any], tuple[Any, tuple]]) -> None:
        self.model = model
        self.step = step
        self.known: set[tuple] = set()
        self.sizes = SizesMet()
        self.compiles = model.jit_compile and not model.run_eagerly
        self.function = self.compiled() if self.compiles else self.run_on_values

    def compiled(self) -> Callable[[tuple, Any], tuple[Any, Any]]:
        """Compile `run_on_values`."""
        import jax

        return jax.jit(self.run_on_values)

    def run_on_values(self, values: tuple, data: Any) -> tuple[Any, Any]:
        """Run the step on the values of a `State`; return its outputs and the new values."""
        model, (model_values, empty, *rest) = self.model, values
        value_of = {id(v): x for v, x in zip(model.variables, model_values, strict=True)}
        groups = model.trainable_variables, model.non_trainable_variables
        split = ([value_of[id(v)] for v in group] for group in groups)
        outputs, (trained, others, *rest) = self.step((*split, *rest), data)
        for group, after in zip(groups, (trained, others), strict=True):
            value_of |= {id(v): x for v, x in zip(group, after, strict=True)}
        return outputs, ([value_of[id(v)] for v in model.variables], empty, *rest)

    def first_in_turn(self, values: tuple, data: Any) -> AbstractContextManager:
        """Admit one thread at a time as long as the shapes are new, and count those shapes."""
        key = (*map(len, values), shapes_of(data))
        if self.compiles and key not in self.known:
            self.sizes.add(data)
        return first_in_turn(self.known, key)


class TrainStep(Step):
    """Step that changes most variables, and reuses their buffers."""

    def compiled(self) -> Callable[[tuple, Any], tuple[Any, Any]]:
        """Compile `run_on_values`, to which the buffers of the values are donated."""
        import jax

        shardings = None
        if keras.distribution.distribution() is not None:
            state = self.model._get_jax_state(True, True)
            shardings = None, tuple([x.sharding for x in each] for each in values_of(state))
        return jax.jit(self.run_on_values, donate_argnums=0, out_shardings=shardings)

    def __call__(self, state: State, data: Any) -> tuple[Any, State]:
        """Take a step."""
        values, results = values_of(state), []
        try:
            with self.first_in_turn(values, data):
                # A single call, so that no KeyboardInterrupt comes between the donation of the old
                # values and the assignment of the new ones to `results`.
                results.extend(map(self.function, (values,), (data,)))
        finally:
            for group, after in zip(state, results[0][1] if results else (), strict=False):
                deque(map(setattr, group.variables, repeat(keras_private.VALUE), after), maxlen=0)
        return results[0][0], state


class ReadingStep(Step):
    """Step that changes few variables or none, and reuses no buffers."""

    def run_on_values(self, values: tuple, data: Any) -> tuple[Any, list[dict[int, Any]]]:
        """Run the step on the values of a `State`; also return those that it changes, by index."""
        outputs, after = super().run_on_values(values, data)
        return outputs, [
            {i: x for i, (old, x) in enumerate(zip(*pair, strict=True)) if x is not old}
            for pair in zip(values, after, strict=True)
        ]

    def run(self, values: tuple, data: Any) -> tuple[Any, list[dict[int, Any]]]:
        """Run the step."""
        with self.first_in_turn(values, data):
            return self.function(values, data)

    def __call__(self, state: State, data: Any) -> tuple[Any, State]:
        """Take a step."""
        outputs, changes = on_present_values(
            lambda: values_of(state), lambda values: self.run(values, data)
        )
        for group, changed in zip(state, changes, strict=True):
            for i, value in changed.items():
                group.variables[i].assign(value)
        return outputs, state


def counted_on_success(function: Callable, optimizer: Any) -> Callable:
    """Let a step on TensorFlow increment `iterations` only if it succeeds.

    A graph may execute the increment, which does not depend on the model, before the model fails.
    """

    def step(iterator: Any) -> Any:
        before = int(optimizer.iterations.numpy())
        try:
            return function(iterator)
        except Exception:
            optimizer.iterations.assign(before)
            raise

    return step


@contextmanager
def finalized_on_success(optimizer: Any) -> Iterator[None]:
    """Let an optimizer replace weights by averages at the end only if nothing was raised.

    Keras does so on JAX even if `fit` fails, and then the weights are lost.
    """
    before, name = sys.exception(), "finalize_variable_values"
    if keras.backend.backend() != "jax" or optimizer is None or name in vars(optimizer):
        yield
        return
    finalize = optimizer.finalize_variable_values

    def finalize_on_success(variables: Any) -> None:
        if sys.exception() is before:
            finalize(variables)

    optimizer.finalize_variable_values = finalize_on_success
    try:
        yield
    finally:
        del optimizer.finalize_variable_values
