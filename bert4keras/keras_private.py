"""Access to everything in Keras that is not public, with one function for each use.

Nothing else in the library imports from `keras.src` or reads an underscored member of a Keras
object. Members of such names that subclasses define or inherit, because Keras looks for them there,
are listed in `INHERITED`. All of it is tested on the oldest and the newest supported Keras.

    masks       mask_of set_mask
    graph       history call_inputs calls_of calls_on calls_in input_structure
    layers      layers_within set_own_trainable remove_variable output_spec is_operation_of_keras
    models      takes_training batch_loss compiled_loss loss_tracker build_on_batch strategy_of
                compiled_with
    losses      loss_of_function unscaled_loss
    variables   VALUE values_of layout_of Uninitialized has_value initialize
    optimizers  trained_variables index_of given_rate
    other       DataAdapter random_seed reads_h5
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
from keras.src.backend import compute_output_spec, get_keras_mask, set_keras_mask
from keras.src.backend.common.global_state import get_global_attribute, set_global_attribute
from keras.src.losses.loss import unscale_loss_for_distribution
from keras.src.losses.losses import LossFunctionWrapper
from keras.src.trainers.data_adapters.data_adapter import DataAdapter
from keras.src.utils.rng_utils import get_random_seed

__all__ = ["DataAdapter"]  # Keras uses objects of this class as data without wrapping them

INHERITED: dict[type, tuple[str, ...]] = {
    keras.Model: ("_flatten_layers", "_resolve_auto_jit_compile", "_symbolic_build"),
    keras.layers.Dense: ("_kernel",),
    keras.layers.Embedding: ("_embeddings",),
    keras.layers.Lambda: ("_output_shape",),
    keras.optimizers.Optimizer: (
        "_accumulated_gradients",
        "_apply_weight_decay",
        "_backend_apply_gradients",
        "_backend_increment_gradient_accumulators",
        "_backend_update_step",
        "_clip_gradients",
        "_get_current_learning_rate",
        "_iterations",
    ),
}
"""Further private members of Keras that subclasses in this library define or use."""

INHERITED_BY_BACKEND: dict[str, tuple[str, ...]] = {
    "tensorflow": ("_distribute_strategy", "_maybe_symbolic_build"),
    "jax": ("_get_jax_state", "_jax_state_synced", "_make_function"),
    "torch": (),
}
"""The same for models, by the only backend on which they exist."""


# === Masks ===


def mask_of(x: Any) -> Any:
    """Return the mask of a tensor, None if it has none."""
    return get_keras_mask(x)


def set_mask(x: Any, mask: Any) -> None:
    """Attach a mask to a tensor, also to a traced array of JAX, which has no attributes."""
    set_keras_mask(x, mask)


# === The graph of symbolic tensors ===


def history(x: Any) -> tuple[Any, int, int] | None:
    """Return the operation that produced a symbolic tensor.

    Returns:
        The operation, the index of its call, and the index of the output; None if it is not a
        symbolic tensor.
    """
    return getattr(x, "_keras_history", None)


def call_inputs(operation: keras.Operation, number: int) -> list[Any]:
    """Return the symbolic tensors on which an operation was called, at one of its calls."""
    return list(operation._inbound_nodes[number].input_tensors)


def calls_of(operation: keras.Operation) -> list[Any]:
    """Return the calls of an operation on symbolic tensors, as nodes of Keras."""
    return operation._inbound_nodes


def calls_on(operation: keras.Operation) -> list[Any]:
    """Return the calls of other operations on its outputs, as nodes of Keras."""
    return operation._outbound_nodes


def calls_in(model: keras.Model) -> Iterator[Any]:
    """Yield the calls within a functional model, as nodes of Keras; none for other models."""
    for nodes in getattr(model, "_nodes_by_depth", {}).values():
        yield from nodes


def input_structure(model: keras.Model) -> Any:
    """Return the inputs of a functional model in the structure in which they were given."""
    return model._inputs_struct


# === Layers ===


def layers_within(layer: keras.Layer, include_self: bool = True) -> Iterator[keras.Layer]:
    """Yield all layers within a layer or model, including nested ones."""
    return layer._flatten_layers(include_self=include_self)


def set_own_trainable(layer: keras.Layer, flag: bool) -> None:
    """Set `trainable` of a layer, but not of its sub-layers."""
    layer._trainable = flag


def remove_variable(layer: keras.Layer, name: str) -> None:
    """Remove a variable from a layer; `del` would collect garbage each time, which is slow."""
    layer._untrack_variable(getattr(layer, name))
    super(keras.Layer, layer).__delattr__(name)


def output_spec(function: Callable, *args: Any, **kwargs: Any) -> Any:
    """Return symbolic tensors like the results of a function, without computing them."""
    return compute_output_spec(function, *args, **kwargs)


def is_operation_of_keras(cls: type) -> bool:
    """Tell whether a class is the operation of a function of `keras.ops`."""
    return cls.__module__.startswith("keras.src.ops.")


# === Models ===


def takes_training(model: keras.Model) -> bool:
    """Tell whether a model can be called with `training=`."""
    return model._call_has_training_arg


def batch_loss(model: keras.Model, **parts: Any) -> Any:
    """Compute the loss of a batch by `compute_loss`, which need not take `training`.

    Args:
        model: a compiled model.
        **parts: `x`, `y`, `y_pred`, `sample_weight` and `training`.
    """
    return model._compute_loss(**parts)


def compiled_loss(model: keras.Model) -> Any:
    """Return the loss that `compile` created, None if it was given none."""
    return model._compile_loss


def loss_tracker(model: keras.Model) -> keras.metrics.Mean:
    """Return the metric of the mean loss, which a model reports as `loss`."""
    return model._loss_tracker


def build_on_batch(model: keras.Model, batch: tuple[Any, Any, Any]) -> None:
    """Build losses, metrics and layers that are not built yet from the shapes of a batch."""
    model._symbolic_build(data_batch=batch)


def strategy_of(model: keras.Model) -> Any:
    """Return the strategy of TensorFlow that a model was built in, None if there was none."""
    return getattr(model, "_distribute_strategy", None)


def compiled_with(model: keras.Model) -> dict[str, Any]:
    """Return the arguments of `compile` as they are saved, an empty dict before it."""
    return model._compile_config.config if model.compiled else {}


# === Losses ===


def loss_of_function(function: Callable, name: str | None = None) -> keras.losses.Loss:
    """Wrap a function in a loss, as Keras does."""
    return LossFunctionWrapper(function, name=name)


def unscaled_loss(loss: Any) -> Any:
    """Undo the division of a loss by the number of replicas, as the TensorFlow trainer does."""
    return unscale_loss_for_distribution(loss)


# === Variables ===

VALUE = "_value"
"""Attribute of a variable with its value outside of all scopes."""


def values_of(variables: Iterable[keras.Variable]) -> list[Any]:
    """Return values outside of all scopes, faster than `value`, which looks for scopes."""
    return [variable._value for variable in variables]


def layout_of(variable: keras.Variable) -> Any:
    """Return the layout of a variable over devices on JAX, None if it has none."""
    return getattr(variable, "_layout", None)


class Uninitialized(keras.StatelessScope):
    """A scope in which new variables have no values and take no memory; one on its own is entered.

    Keras has such scopes for what is created while a function is traced. Until `finish` the
    variables may get values by `initialize`. What is assigned within the scope counts from then on.
    """

    def __init__(self) -> None:
        super().__init__(initialize_variables=False)
        self.variables: list[Any] = []
        self.updates: list[tuple[Any, Any]] = []

    def add_update(self, update: tuple[Any, Any]) -> None:
        """Keep what is assigned to a variable."""
        super().add_update(update)
        self.updates.append(update)

    def __exit__(self, *args: Any, **kwargs: Any) -> None:
        super().__exit__(*args, **kwargs)
        created: Any = get_global_attribute(_UNINITIALIZED, [])
        self.variables += created
        set_global_attribute(_UNINITIALIZED, [])  # or the next scope of Keras would initialize them

    def finish(self, layers: Iterable[keras.Layer]) -> None:
        """Give the variables without values their initial ones, in the order of their creation.

        Args:
            layers: those of which variables were created.
        """
        for variable in self.variables:
            if not has_value(variable):
                variable._deferred_initialize()
            elif not _draws_by_seed(variable._initializer):
                variable._initializer(variable.shape, dtype=variable.dtype)  # for what comes next
            variable._initializer = None
        for variable, value in self.updates:
            variable.assign(value)
        for layer in layers:
            layer._post_build()  # on PyTorch, modules keep the values themselves


_UNINITIALIZED = "uninitialized_variables"


def _draws_by_seed(initializer: Any) -> bool:
    """Tell whether the values that an initializer draws depend on nothing that others draw."""
    own = type(initializer).__module__.startswith("keras.")
    return own and isinstance(getattr(initializer, "seed", 0), int)


def has_value(variable: Any) -> bool:
    """Tell whether a variable has its value, see `Uninitialized`."""
    return variable._value is not None


def initialize(variable: Any, value: Any) -> None:
    """Give a variable without value its first one, a tensor of its type that becomes the value."""
    variable._initialize(value)


# === Optimizers ===


def trained_variables(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """Return the variables for which an optimizer was built, in order."""
    return optimizer._trainable_variables


def index_of(optimizer: keras.optimizers.Optimizer, variable: Any) -> int:
    """Return the index in `trained_variables` of a variable, of Keras or of the backend."""
    return optimizer._get_variable_index(variable)


def given_rate(optimizer: keras.optimizers.Optimizer) -> Any:
    """Return the learning rate in the form it was given: a schedule, a function, or a variable."""
    return optimizer._learning_rate


# === Other ===


def random_seed() -> int | None:
    """Return the seed set by `keras.utils.set_random_seed`, None if there is none."""
    return get_random_seed()


def reads_h5() -> bool:
    """Tell whether Keras is reading or writing a whole model in the format of Keras 2."""
    return bool(get_global_attribute("use_legacy_config"))
