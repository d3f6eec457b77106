"""The Keras model with the same results on several devices as on one."""

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
    all_gather,
    all_reduce_gradients,
    broadcast,
    local_part,
    n_workers,
    process_index,
)
from bert4keras.training.distribution.scopes import placement
from bert4keras.training.feed import BatchFeed
from bert4keras.training.methods import with_methods_by_name
from bert4keras.training.model import for_each_sample


class DistributedModel(keras.Model):
    """Keras model with the same results on several devices as on one.

    It must precede `TrainingModel` among the bases of a class.
    """

    _placement: Any = None

    def compile(self, optimizer: Any = "rmsprop", loss: Any = None, *args: Any, **kwargs: Any):
        """Compile as `keras.Model.compile` does.

        Raises:
            ValueError: the model was built for devices other than those in use, or the optimizer
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
        """Train on the part of this process of a batch, the last argument."""
        return self._reducible(super().train_step(*args[:-1], self.own_part(args[-1])))

    def test_step(self, *args: Any) -> Any:
        """Evaluate the part of this process of a batch, the last argument."""
        return self._reducible(super().test_step(*args[:-1], self.own_part(args[-1])))

    def predict_step(self, *args: Any) -> Any:
        """Predict the part of this process of a batch, the last argument, and gather all parts."""
        data, backend = args[-1], keras.backend.backend()
        own = self.own_part(data)
        outputs = super().predict_step(*args[:-1], own)
        y_pred, *state = outputs if backend == "jax" else [outputs]
        if _jax_distribution() is not None:
            y_pred = keras.tree.map_structure(lambda y: _with_axes(y, []), y_pred)
        elif backend == "torch" and parts() > 1:
            n = keras.tree.flatten(data)[0].shape[0]
            y_pred = keras.tree.map_structure(lambda y: all_gather(y, n), y_pred)
        return (y_pred, *state) if state else y_pred

    def own_part(self, data: Any) -> Any:
        """Return the part of a batch that a step of this process computes.

        On TensorFlow it is already split. On JAX it gets a layout, and all parts are computed.
        """
        if keras.backend.backend() == "torch" and parts() > 1:
            return keras.tree.map_structure(lambda x: None if x is None else local_part(x), data)
        distribution = _jax_distribution()
        if distribution is not None:
            axes = [distribution.batch_dim_name]
            return keras.tree.map_structure(
                lambda x: None if x is None else _with_axes(x, axes), data
            )
        return data

    def _reducible(self, logs: Any) -> Any:
        """Add an axis to the logs of a step, over which Keras takes the mean of all workers."""
        if keras.backend.backend() == "tensorflow" and n_workers() > 1:
            return keras.tree.map_structure(lambda value: ops.reshape(value, (1,)), logs)
        return logs

    def whole_loss(self, x: Any, y: Any, y_pred: Any, sample_weight: Any, training: bool) -> Any:
        """Compute the loss of the batch, as `keras.Model.compute_loss` does on one device."""
        y_pred = counted_for_each_sample(y_pred, x)
        added = self.losses if parts() > 1 else []
        if not added:
            return super().whole_loss(x, y, y_pred, sample_weight, training)
        batch = y_pred if x is None else x
        size = ops.shape(next(a for a in keras.tree.flatten(batch) if a is not None))[0]
        # Read before any sum over replicas, where TensorFlow switches to the next replica.
        terms = [(ops.sum(ops.cast(a, "float32")), getattr(a, COUNT, size)) for a in added]
        losses = [loss_of_batch(loss, count) for loss, count in terms]
        if (compiled_loss := keras_private.compiled_loss(self)) is not None:
            losses.append(compiled_loss(y, y_pred, sample_weight))
        return sum(losses)

    def get_metrics_result(self) -> dict[str, Any]:
        """Return the values of the metrics over all parts."""
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
        """Build losses and metrics on a batch, as Keras does under a strategy of TensorFlow.

        Keras would lose the batch that it reads, which a feed does not yield again, and take the
        mean over replicas, which is not possible with several workers.
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
        """Return an object by which changes of the devices are detected."""
        # TensorFlow: a model keeps the strategy it was built for, and may be fitted outside of it.
        return placement() or keras_private.strategy_of(self)

    def _check_built(self) -> None:
        """Raise a ValueError unless the weights are on the current devices."""
        if keras.backend.backend() == "tensorflow":
            fits = self._placement is keras_private.strategy_of(self)
        elif keras.backend.backend() == "jax" and self._placement is not None:
            devices = set(self._placement.device_mesh.backend_mesh.devices.flat)
            fits = all(v.value.sharding.device_set == devices for v in self.variables)
        else:
            fits = True
        if not fits:
            raise ValueError(
                "the model was built before the data_parallel() or model_parallel() block, or in "
                "another one: build, compile and fit it inside the same `with` block"
            )

    def check_devices(self, call: str, x: Any, batch_size: int | None, options: dict) -> None:
        """Raise a ValueError unless the devices are those of `compile` and each gets a sample."""
        if not self.compiled:
            return
        now = self._current_placement()
        if now is not self._placement and now != self._placement:
            raise ValueError(
                f"{call}() runs on devices other than those the model was compiled for: build, "
                "compile and fit it inside the same data_parallel() or model_parallel() block"
            )
        replicas = self._replicas()
        if replicas == 1:
            return
        if process_index() and options.get("verbose", "auto") == "auto":
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
        """Let the optimizer apply the summed gradients of all parts."""
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
            _revise_gradients(self.optimizer, all_reduce_gradients)


def counted_for_each_sample(outputs: Any, inputs: Any) -> Any:
    """Repeat scalar outputs for each sample; they keep the count over which they are a mean."""

    def keep_count(before: Any, after: Any) -> Any:
        if after is not before and hasattr(before, COUNT):
            setattr(after, COUNT, getattr(before, COUNT))
        return after

    return keras.tree.map_structure(keep_count, outputs, for_each_sample(outputs, inputs))


def _revise_gradients(optimizer: Any, revise: Callable[[Sequence[Any]], list[Any]]) -> None:
    """Let an optimizer revise gradients before it applies them, for which Keras has no hook."""
    if "apply" in vars(optimizer):
        return  # the optimizer has been compiled before
    apply = optimizer.apply
    optimizer.apply = lambda grads, trainable_variables=None: apply(
        revise(grads), trainable_variables
    )


def _jax_distribution() -> Any:
    return keras.distribution.distribution() if keras.backend.backend() == "jax" else None


def _with_axes(x: Any, axes: list) -> Any:
    """Distribute a tensor along axes of the mesh, and replicate it along all others."""
    mesh = _jax_distribution().device_mesh
    axes = [*axes, *[None] * (len(x.shape) - len(axes))]
    layout = keras.distribution.TensorLayout(axes, mesh)
    return keras.distribution.distribute_tensor(x, layout)
