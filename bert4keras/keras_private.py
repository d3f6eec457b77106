"""What is taken from Keras without being offered by it: one function for each thing.

Nothing else in the library imports from `keras.src` or reads an underscored member of an object of
Keras. What subclasses define or inherit under such names, because Keras asks for it there, stands
in `INHERITED`. All of it is tested on the oldest and on the newest Keras that is supported.

    masks       mask_of set_mask
    graph       history call_inputs calls_of calls_on calls_in input_structure
    layers      layers_within set_own_trainable remove_variable output_spec is_operation_of_keras
    models      takes_training batch_loss compiled_loss loss_tracker build_on_batch strategy_of
                compiled_with
    losses      loss_of_function unscaled_loss
    variables   VALUE values_of layout_of
    optimizers  trained_variables index_of given_rate
    other       DataAdapter random_seed reads_h5
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
from keras.src.backend import compute_output_spec, get_keras_mask, set_keras_mask
from keras.src.backend.common.global_state import get_global_attribute
from keras.src.losses.loss import unscale_loss_for_distribution
from keras.src.losses.losses import LossFunctionWrapper
from keras.src.trainers.data_adapters.data_adapter import DataAdapter
from keras.src.utils.rng_utils import get_random_seed

__all__ = ["DataAdapter"]  # Keras takes an object of this class as data as it is

INHERITED: dict[type, tuple[str, ...]] = {
    keras.Model: ("_flatten_layers", "_symbolic_build"),
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
"""Members by which subclasses in this library, beside what stands here, are tied to Keras."""

INHERITED_BY_BACKEND: dict[str, tuple[str, ...]] = {
    "tensorflow": ("_distribute_strategy", "_maybe_symbolic_build"),
    "jax": ("_get_jax_state", "_jax_state_synced", "_make_function"),
    "torch": (),
}
"""The same of a model, which has them on one backend only."""


# === Masks ===


def mask_of(x: Any) -> Any:
    """Give the mask that a tensor carries, None if it carries none."""
    return get_keras_mask(x)


def set_mask(x: Any, mask: Any) -> None:
    """Let a tensor carry a mask; a traced array of JAX has no attributes, Keras keeps it then."""
    set_keras_mask(x, mask)


# === The graph of symbolic tensors ===


def history(x: Any) -> tuple[Any, int, int] | None:
    """Tell what a symbolic tensor came out of.

    Returns:
        The operation, the number of its call, and the number of the output in it; None for what is
        no symbolic tensor.
    """
    return getattr(x, "_keras_history", None)


def call_inputs(operation: keras.Operation, number: int) -> list[Any]:
    """Give the symbolic tensors that an operation was called on, at one of its calls."""
    return list(operation._inbound_nodes[number].input_tensors)


def calls_of(operation: keras.Operation) -> list[Any]:
    """Give the calls of an operation on symbolic tensors, as nodes of Keras."""
    return operation._inbound_nodes


def calls_on(operation: keras.Operation) -> list[Any]:
    """Give the calls of others on what an operation gave, as nodes of Keras."""
    return operation._outbound_nodes


def calls_in(model: keras.Model) -> Iterator[Any]:
    """Give the calls within a functional model, as nodes of Keras; none of another model."""
    for nodes in getattr(model, "_nodes_by_depth", {}).values():
        yield from nodes


def input_structure(model: keras.Model) -> Any:
    """Give the inputs of a functional model in the structure that it was built with."""
    return model._inputs_struct


# === Layers ===


def layers_within(layer: keras.Layer, include_self: bool = True) -> Iterator[keras.Layer]:
    """Give all layers within a layer or model, in models and layers within it too."""
    return layer._flatten_layers(include_self=include_self)


def set_own_trainable(layer: keras.Layer, flag: bool) -> None:
    """Set `trainable` of a layer, and of nothing within it."""
    layer._trainable = flag


def remove_variable(layer: keras.Layer, name: str) -> None:
    """Remove a variable from a layer; `del` would collect garbage each time, which is slow."""
    layer._untrack_variable(getattr(layer, name))
    super(keras.Layer, layer).__delattr__(name)


def output_spec(function: Callable, *args: Any, **kwargs: Any) -> Any:
    """Give symbolic tensors like what a function returns, without computing it."""
    return compute_output_spec(function, *args, **kwargs)


def is_operation_of_keras(cls: type) -> bool:
    """Tell whether a class is what a function of `keras.ops` makes of symbolic tensors."""
    return cls.__module__.startswith("keras.src.ops.")


# === Models ===


def takes_training(model: keras.Model) -> bool:
    """Tell whether a model can be called with `training=`."""
    return model._call_has_training_arg


def batch_loss(model: keras.Model, **parts: Any) -> Any:
    """Compute the loss of a batch by `compute_loss`, also one without the argument `training`.

    Args:
        model: a compiled model.
        **parts: `x`, `y`, `y_pred`, `sample_weight` and `training`.
    """
    return model._compute_loss(**parts)


def compiled_loss(model: keras.Model) -> Any:
    """Give the loss that `compile` made of what it got, None if it got none."""
    return model._compile_loss


def loss_tracker(model: keras.Model) -> keras.metrics.Mean:
    """Give the mean of the losses of batches, which a model reports as `loss`."""
    return model._loss_tracker


def build_on_batch(model: keras.Model, batch: tuple[Any, Any, Any]) -> None:
    """Build the losses, metrics and layers that are not built yet, by the shapes of a batch."""
    model._symbolic_build(data_batch=batch)


def strategy_of(model: keras.Model) -> Any:
    """Give the strategy of TensorFlow that a model was built in, None if there was none."""
    return getattr(model, "_distribute_strategy", None)


def compiled_with(model: keras.Model) -> dict[str, Any]:
    """Give what a model was compiled with, as the dict that it is saved from; empty before that."""
    return model._compile_config.config if model.compiled else {}


# === Losses ===


def loss_of_function(function: Callable, name: str | None = None) -> keras.losses.Loss:
    """Make the loss that Keras makes of a function."""
    return LossFunctionWrapper(function, name=name)


def unscaled_loss(loss: Any) -> Any:
    """Take the share of a replica back out of a loss, as the trainer of TensorFlow does."""
    return unscale_loss_for_distribution(loss)


# === Variables ===

VALUE = "_value"
"""The attribute of a variable that holds its value outside of all scopes."""


def values_of(variables: Iterable[keras.Variable]) -> list[Any]:
    """Give the values outside of all scopes; `value`, which looks for scopes, is slow."""
    return [variable._value for variable in variables]


def layout_of(variable: keras.Variable) -> Any:
    """Give how a variable is laid out over devices on JAX, None where that is not said."""
    return getattr(variable, "_layout", None)


# === Optimizers ===


def trained_variables(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """Give the variables that an optimizer was built for, in order."""
    return optimizer._trainable_variables


def index_of(optimizer: keras.optimizers.Optimizer, variable: Any) -> int:
    """Give the number of a variable among `trained_variables`; it may be that of the backend."""
    return optimizer._get_variable_index(variable)


def given_rate(optimizer: keras.optimizers.Optimizer) -> Any:
    """Give the learning rate as it was given: a schedule, a function, or a variable."""
    return optimizer._learning_rate


# === Other ===


def random_seed() -> int | None:
    """Give the seed that `keras.utils.set_random_seed` has set, None before that."""
    return get_random_seed()


def reads_h5() -> bool:
    """Tell whether Keras is reading or writing a whole model in the format of Keras 2."""
    return bool(get_global_attribute("use_legacy_config"))
