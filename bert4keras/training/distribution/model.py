"""The Keras model that computes the same on several devices as on one."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from bert4keras.backend import as_floats
from bert4keras.optimizers.algorithms import DenseGradients
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
from bert4keras.training.feed import BatchFeed


class DistributedModel(keras.Model):
    """A Keras model that computes the same on several devices as on one."""

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
        if several:
            loss = keras.tree.map_structure(as_loss_of_batch, loss)
        super().compile(optimizer, loss, *args, **kwargs)
        if self.optimizer is not None:
            self._connect_optimizer(several)

    def fit(self, x: Any = None, y: Any = None, batch_size: int | None = None, **kwargs: Any):
        """Train as `keras.Model.fit` does.

        Raises:
            ValueError: the devices are not those that the model was compiled for, or more than
                there are samples in a batch.
        """
        self._check_use("fit", x, batch_size, kwargs)
        return super().fit(x, y, batch_size=batch_size, **kwargs)

    def evaluate(self, x: Any = None, y: Any = None, batch_size: int | None = None, **kwargs: Any):
        """Evaluate as `keras.Model.evaluate` does."""
        self._check_use("evaluate", x, batch_size, kwargs)
        return super().evaluate(x, y, batch_size=batch_size, **kwargs)

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
        y_pred = for_each_sample(y_pred, keras.utils.unpack_x_y_sample_weight(own)[0])
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

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Compute the loss of the batch, as `keras.Model.compute_loss` does on one device."""
        y_pred = for_each_sample(y_pred, x)
        added = self.losses if parts() > 1 else []
        if not added:
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        batch = y_pred if x is None else x
        rows = ops.shape(next(a for a in keras.tree.flatten(batch) if a is not None))[0]
        # Read before anything is summed, which is where TensorFlow turns to the next replica.
        terms = [(ops.sum(ops.cast(a, "float32")), getattr(a, COUNT, rows)) for a in added]
        losses = [loss_of_batch(loss, count) for loss, count in terms]
        if self._compile_loss is not None:
            losses.append(self._compile_loss(y, y_pred, sample_weight))
        return sum(losses)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Update the metrics of a batch and return their values, as Keras does.

        A function gets integer labels as floats, as it does where it is the loss.
        """
        return super().compute_metrics(x, as_floats(y), for_each_sample(y_pred, x), sample_weight)

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
        strategy = self._distribute_strategy
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
            self._symbolic_build(data_batch=data_batch)

    def _current_placement(self) -> Any:
        """What tells whether devices are still the same."""
        backend = keras.backend.backend()
        if backend == "tensorflow":
            import tensorflow as tf

            # A model knows the strategy it was built for, and may be fitted outside its scope.
            own = self._distribute_strategy
            return tf.distribute.get_strategy() if tf.distribute.has_strategy() else own
        return keras.distribution.distribution() if backend == "jax" else parts()

    def _check_built(self) -> None:
        """Raise unless the weights are where the current devices want them."""
        if keras.backend.backend() == "tensorflow":
            fits = self._placement is self._distribute_strategy
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

    def _check_use(self, what: str, x: Any, batch_size: int | None, options: dict) -> None:
        """Raise unless the devices are those of `compile` and each of them has something to do."""
        if not self.compiled:
            return
        placement = self._current_placement()
        if placement is not self._placement and placement != self._placement:
            raise ValueError(
                f"{what}() runs on other devices than those the model was compiled for: build, "
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
                f"{what}() got batches of {samples} samples for {replicas} devices: give each "
                "device at least one, or use fewer devices"
            )

    def _replicas(self) -> int:
        if keras.backend.backend() == "tensorflow":
            return self.distribute_strategy.num_replicas_in_sync
        distribution = _jax_distribution()
        return parts() if distribution is None else distribution.num_model_replicas

    def _connect_optimizer(self, several: bool) -> None:
        """Let the optimizer apply the gradients of all parts."""
        backend = keras.backend.backend()
        inner = getattr(self.optimizer, "inner_optimizer", self.optimizer)
        accumulates = getattr(inner, "gradient_accumulation_steps", None)
        plain = accumulates and not hasattr(inner, "grad_accum_steps")
        if several and backend == "tensorflow" and plain:
            raise ValueError(
                f"{type(inner).__name__}(gradient_accumulation_steps={accumulates}) does not work "
                "under tf.distribute: use bert4keras.optimizers.extend_with_gradient_accumulation"
            )
        if several and backend == "torch":
            broadcast(self.variables)
            _revise_gradients(self.optimizer, all_reduced)
        if backend == "tensorflow" and not isinstance(inner, DenseGradients):
            _revise_gradients(self.optimizer, _dense)


def for_each_sample(outputs: Any, inputs: Any) -> Any:
    """Repeat outputs without an axis, such as a loss, for each sample; Keras counts their rows."""
    if inputs is None or all(len(y.shape) for y in keras.tree.flatten(outputs)):
        return outputs
    rows = ops.shape(next(x for x in keras.tree.flatten(inputs) if x is not None))[:1]

    def repeat(y: Any) -> Any:
        if len(y.shape):
            return y
        repeated = ops.broadcast_to(y, rows)
        if hasattr(y, COUNT):
            setattr(repeated, COUNT, getattr(y, COUNT))
        return repeated

    return keras.tree.map_structure(repeat, outputs)


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


def _dense(gradients: Sequence[Any]) -> list[Any]:
    """Give gradients of embeddings as whole matrices.

    They are lists of rows, one for each token. Adam of Keras would square these before it adds up
    those of equal tokens, and differently on several devices.
    """
    import tensorflow as tf

    return [tf.convert_to_tensor(g) if isinstance(g, tf.IndexedSlices) else g for g in gradients]
