"""The Keras model that computes the same on several devices as on one."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from bert4keras import keras_private
from bert4keras.training.distribution.parts import (
    COUNT,
    as_loss_of_batch,
    loss_of_batch,
    parts,
    sum_over_parts,
)
from bert4keras.training.distribution.processes import (
    all_reduced,
    broadcast,
    collected,
    part_of,
    this_process,
    workers,
)
from bert4keras.training.distribution.scopes import placement
from bert4keras.training.feed import BatchFeed
from bert4keras.training.methods import with_methods_by_name
from bert4keras.training.model import for_each_sample


class DistributedModel(keras.Model):
    """A Keras model that computes the same on several devices as on one.

    It goes before a `TrainingModel` among the bases of a class.
    """

    _placement: Any = None

    def compile(self, optimizer: Any = "rmsprop", loss: Any = None, *args: Any, **kwargs: Any):
        """Compile as `keras.Model.compile` does.

        Raises:
            ValueError: the model was built for other devices than those in use; or the optimizer
                accumulates gradients in a way that `tf.distribute` does not support.
        """
        self._placement = self._current_placement()
        self._check_built()
        several = parts() > 1
        loss = with_methods_by_name(self, loss)
        if several:
            loss = keras.tree.map_structure(as_loss_of_batch, loss)
        super().compile(optimizer, loss, *args, **kwargs)
        if several and self.optimizer is not None:
            self._connect_optimizer()

    def train_step(self, *args: Any) -> Any:
        """Train on the own part of a batch, the last argument."""
        return self._reducible(super().train_step(*args[:-1], self.own_part(args[-1])))

    def test_step(self, *args: Any) -> Any:
        """Evaluate the own part of a batch, the last argument."""
        return self._reducible(super().test_step(*args[:-1], self.own_part(args[-1])))

    def predict_step(self, *args: Any) -> Any:
        """Predict the own part of a batch, the last argument, and collect all parts."""
        data, backend = args[-1], keras.backend.backend()
        own = self.own_part(data)
        outputs = super().predict_step(*args[:-1], own)
        y_pred, *state = outputs if backend == "jax" else [outputs]
        if _jax_distribution() is not None:
            y_pred = keras.tree.map_structure(lambda y: _with_axes(y, []), y_pred)
        elif backend == "torch" and parts() > 1:
            n = keras.tree.flatten(data)[0].shape[0]
            y_pred = keras.tree.map_structure(lambda y: collected(y, n), y_pred)
        return (y_pred, *state) if state else y_pred

    def own_part(self, data: Any) -> Any:
        """Give what a step of this process computes of a batch.

        TensorFlow has split it before. JAX is told to split it, and computes all parts.
        """
        if keras.backend.backend() == "torch" and parts() > 1:
            return keras.tree.map_structure(lambda x: None if x is None else part_of(x), data)
        distribution = _jax_distribution()
        if distribution is not None:
            axes = [distribution.batch_dim_name]
            return keras.tree.map_structure(
                lambda x: None if x is None else _with_axes(x, axes), data
            )
        return data

    def _reducible(self, logs: Any) -> Any:
        """Give the reports of a step an axis, over which Keras takes the mean of all workers."""
        if keras.backend.backend() == "tensorflow" and workers() > 1:
            return keras.tree.map_structure(lambda value: ops.reshape(value, (1,)), logs)
        return logs

    def whole_loss(self, x: Any, y: Any, y_pred: Any, sample_weight: Any, training: bool) -> Any:
        """Compute the loss of the batch, as `keras.Model.compute_loss` does on one device."""
        y_pred = counted_for_each_sample(y_pred, x)
        added = self.losses if parts() > 1 else []
        if not added:
            return super().whole_loss(x, y, y_pred, sample_weight, training)
        batch = y_pred if x is None else x
        rows = ops.shape(next(a for a in keras.tree.flatten(batch) if a is not None))[0]
        # Read before anything is summed, which is where TensorFlow turns to the next replica.
        terms = [(ops.sum(ops.cast(a, "float32")), getattr(a, COUNT, rows)) for a in added]
        losses = [loss_of_batch(loss, count) for loss, count in terms]
        if (compiled_loss := keras_private.compiled_loss(self)) is not None:
            losses.append(compiled_loss(y, y_pred, sample_weight))
        return sum(losses)

    def get_metrics_result(self) -> dict[str, Any]:
        """Give the values of the metrics over all parts."""
        if keras.backend.backend() != "torch" or parts() == 1:
            return super().get_metrics_result()
        variables = self.metrics_variables
        flat = ops.concatenate([ops.reshape(ops.cast(v, "float64"), (-1,)) for v in variables])
        flat, sums = sum_over_parts(flat), []
        for variable in variables:
            size = int(np.prod(variable.shape))
            sums.append(ops.cast(ops.reshape(flat[:size], variable.shape), variable.dtype))
            flat = flat[size:]
        with keras.StatelessScope(zip(variables, sums, strict=True)):
            return super().get_metrics_result()

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Build what depends on data, as Keras does under a strategy of TensorFlow.

        Keras drops the batch that it reads for it, which a feed would not give again, and takes
        the mean over replicas, which several workers cannot.
        """
        strategy = keras_private.strategy_of(self)
        if strategy is None:
            return
        if isinstance(getattr(iterator, "data_adapter", None), BatchFeed):
            data_batch = iterator.data_adapter.peek()
        elif iterator is not None:
            _, _, batches = next(iter(iterator))
            data_batch = keras.tree.map_structure(
                lambda x: strategy.experimental_local_results(x)[0], next(batches)
            )
        with strategy.scope():
            keras_private.build_on_batch(self, data_batch)

    def _current_placement(self) -> Any:
        """What tells whether devices are still the same."""
        # TensorFlow: a model knows the strategy it was built for, and may be fitted outside of it.
        return placement() or keras_private.strategy_of(self)

    def _check_built(self) -> None:
        """Raise unless the weights are where the current devices want them."""
        if keras.backend.backend() == "tensorflow":
            fits = self._placement is keras_private.strategy_of(self)
        elif keras.backend.backend() == "jax" and self._placement is not None:
            devices = set(self._placement.device_mesh.backend_mesh.devices.flat)
            fits = all(v.value.sharding.device_set == devices for v in self.variables)
        else:
            fits = True
        if not fits:
            raise ValueError(
                "the model was built before data_parallel() or model_parallel(), or in another "
                "one: build, compile and fit it inside the same `with` block"
            )

    def check_devices(self, call: str, x: Any, batch_size: int | None, options: dict) -> None:
        """Raise unless the devices are those of `compile` and each of them has something to do."""
        if not self.compiled:
            return
        now = self._current_placement()
        if now is not self._placement and now != self._placement:
            raise ValueError(
                f"{call}() runs on other devices than those the model was compiled for: build, "
                "compile and fit it inside the same data_parallel() or model_parallel() block"
            )
        replicas = self._replicas()
        if replicas == 1:
            return
        if this_process() and options.get("verbose", "auto") == "auto":
            options["verbose"] = 0
        first = x.peek() if isinstance(x, BatchFeed) else None
        samples = batch_size if first is None else len(keras.tree.flatten(first)[0])
        if samples is not None and samples < replicas:
            raise ValueError(
                f"{call}() got batches of {samples} samples for {replicas} devices: give each "
                "device at least one, or use fewer devices"
            )

    def _replicas(self) -> int:
        if keras.backend.backend() == "tensorflow":
            return self.distribute_strategy.num_replicas_in_sync
        distribution = _jax_distribution()
        return parts() if distribution is None else distribution.num_model_replicas

    def _connect_optimizer(self) -> None:
        """Let the optimizer apply the gradients of all parts."""
        backend = keras.backend.backend()
        inner = getattr(self.optimizer, "inner_optimizer", self.optimizer)
        accumulates = getattr(inner, "gradient_accumulation_steps", None)
        plain = accumulates and not hasattr(inner, "grad_accum_steps")
        if backend == "tensorflow" and plain:
            raise ValueError(
                f"{type(inner).__name__}(gradient_accumulation_steps={accumulates}) does not work "
                "under tf.distribute: use bert4keras.optimizers.extend_with_gradient_accumulation"
            )
        if backend == "torch":
            broadcast(self.variables)
            _revise_gradients(self.optimizer, all_reduced)


def counted_for_each_sample(outputs: Any, inputs: Any) -> Any:
    """Repeat outputs without an axis for each sample; they keep over how much they are a mean."""

    def keep_count(before: Any, after: Any) -> Any:
        if after is not before and hasattr(before, COUNT):
            setattr(after, COUNT, getattr(before, COUNT))
        return after

    return keras.tree.map_structure(keep_count, outputs, for_each_sample(outputs, inputs))


def _revise_gradients(optimizer: Any, revise: Callable[[Sequence[Any]], list[Any]]) -> None:
    """Let an optimizer apply revised gradients; Keras' step has no place before it."""
    if "apply" in vars(optimizer):
        return  # it was compiled before
    apply = optimizer.apply
    optimizer.apply = lambda grads, trainable_variables=None: apply(
        revise(grads), trainable_variables
    )


def _jax_distribution() -> Any:
    return keras.distribution.distribution() if keras.backend.backend() == "jax" else None


def _with_axes(x: Any, axes: list) -> Any:
    """Split a tensor along axes of the mesh; all others are whole on every device."""
    mesh = _jax_distribution().device_mesh
    axes = [*axes, *[None] * (len(x.shape) - len(axes))]
    layout = keras.distribution.TensorLayout(axes, mesh)
    return keras.distribution.distribute_tensor(x, layout)
