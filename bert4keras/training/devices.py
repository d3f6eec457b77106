"""Training on several devices, in one process or in several, with the losses of one device.

    data_parallel        every device computes a part of each batch
    model_parallel       every device holds a part of each large matrix (JAX)
    layout_map           which weights `model_parallel` splits, and along which axis
    batch_mean           the mean in a loss layer, over the whole batch
    DistributedModel     what a model has to do beside that

What is to be computed is the loss of the whole batch. JAX sees to that itself: a program is written
for the whole batch, and the compiler splits it. On TensorFlow and PyTorch the program is run for
each part of the batch. There a loss that is a mean over n_r samples, tokens or weights of part r
is scaled by n_r / Σ n_r, so that the gradients of all parts add up to the gradient of the batch,
whether the parts are equal or not.
"""

import copy
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

# What a loss leaves out it says by a mask, which Keras reads in no public way; nor does it offer
# the class that a loss given as a function becomes, or tell whether there is a seed.
from keras.src.backend import get_keras_mask
from keras.src.losses.losses import LossFunctionWrapper
from keras.src.utils.rng_utils import get_random_seed

from bert4keras.backend import as_floats
from bert4keras.optimizers.algorithms import DenseGradients
from bert4keras.training.feed import BatchFeed

BATCH, MODEL = "batch", "model"
"""The axes of a mesh of devices: along the first the batch is split, along the other weights."""

COUNT = "_bert4keras_count"
"""The attribute of a loss in which `batch_mean` notes over how much it is the mean."""


@dataclass(frozen=True)
class Devices:
    """What a program trains on.

    Attributes:
        replicas: in how many parts each batch is computed.
        process: number of this process; process 0 is the one that writes files and reports.
        processes: how many processes run the program.
    """

    replicas: int = 1
    process: int = 0
    processes: int = 1


# === What users call ===


def data_parallel(
    devices: int | Sequence[str] | None = None,
) -> AbstractContextManager[Devices]:
    """Train on several devices, each of which computes a part of every batch.

    Build, compile and fit the model inside the `with` block. Batches, and `batch_size`, are those
    of all devices together, and losses, gradients and metrics are those of one device that computes
    the whole batch. The number of samples need not be a multiple of the number of devices.

    * TensorFlow: a `MirroredStrategy`, or, if the environment variable `TF_CONFIG` names several
      workers, a `MultiWorkerMirroredStrategy`.
    * JAX: a `keras.distribution.DataParallel`. For several processes call
      `keras.distribution.initialize` before.
    * PyTorch: one process for each device, started by `torchrun`.

    Every process runs the same program on the same batches and takes its part of each.

    Args:
        devices: how many devices, or their names, such as `["gpu:0", "gpu:1"]`; all accelerators,
            or else all CPUs, by default. On PyTorch they are those of this machine.

    Yields:
        Devices: how many there are, and which process this is.

    Raises:
        ValueError: there are no such devices; or several processes without a common seed.
    """
    scopes = {"tensorflow": _on_tensorflow, "jax": _on_jax, "torch": _on_torch}
    return scopes[keras.backend.backend()](devices)


@contextmanager
def model_parallel(
    devices: int | Sequence[str] | None = None,
    data: int = 1,
    layout: Callable[[keras.distribution.DeviceMesh], keras.distribution.LayoutMap] | None = None,
) -> Iterator[Devices]:
    """Train a model that is too large for one device: split its matrices over several.

    Build, compile and fit the model inside the `with` block. A dimension that the number of devices
    does not divide stays whole. Runs on JAX.

    Args:
        devices: as in `data_parallel`.
        data: in how many parts the batch is split as well, a divisor of the number of devices; each
            part is computed by `devices / data` devices, which share the weights.
        layout: gives the layout of weights on a mesh of devices; `layout_map` by default.

    Yields:
        Devices: how many parts of the batch there are, and which process this is.

    Raises:
        ValueError: there are no such devices, `data` does not divide their number, or the backend
            is not JAX; or several processes without a common seed.
    """
    if keras.backend.backend() != "jax":
        raise ValueError(
            f"model_parallel() needs JAX, and the backend is {keras.backend.backend()}: set "
            "KERAS_BACKEND=jax, or use data_parallel(), which all backends have"
        )
    names = _chosen(devices, keras.distribution.list_devices(), _all_jax_devices())
    if not isinstance(data, int) or data < 1 or len(names) % data:
        raise ValueError(
            f"model_parallel() got data={data!r} and {len(names)} devices: data has to divide the "
            "number of devices"
        )
    mesh = keras.distribution.DeviceMesh((data, len(names) // data), (BATCH, MODEL), names)
    distribution = _ModelParallel(
        layout_map=(layout or layout_map)(mesh), batch_dim_name=BATCH, auto_shard_dataset=False
    )
    with _jax_scope(distribution) as found:
        yield found


_ATTENTION = r".*MultiHead(Self|Cross)Attention"
SPLIT: dict[str, tuple[str | None, ...]] = {
    rf"{_ATTENTION}/[qkv]_dense/kernel": (None, MODEL),
    rf"{_ATTENTION}/[qkv]_dense/bias": (MODEL,),
    rf"{_ATTENTION}/o_dense/kernel": (MODEL, None),
    r".*FeedForward/i\d_dense/kernel": (None, MODEL),
    r".*FeedForward/i\d_dense/bias": (MODEL,),
    r".*FeedForward/o_dense/kernel": (MODEL, None),
    r".*GatedAttentionUnit/i_dense/kernel": (None, MODEL),
    r".*GatedAttentionUnit/i_dense/bias": (MODEL,),
    r".*GatedAttentionUnit/o_dense/kernel": (MODEL, None),
    r".*Embedding-Token/embeddings": (MODEL, None),
    r".*Embedding-Mapping/kernel": (None, MODEL),
    r".*Embedding-Mapping/bias": (MODEL,),
    r".*(MLM-Dense|Pooler-Dense|Output-Mapping|Output-LM)/kernel": (None, MODEL),
    r".*(MLM-Dense|Pooler-Dense|Output-Mapping|Output-LM)/bias": (MODEL,),
    r".*MLM-Bias/beta": (MODEL,),
}
"""Which axis of a variable is split, by its path. All architectures share the names."""


def layout_map(mesh: keras.distribution.DeviceMesh) -> keras.distribution.LayoutMap:
    """Say how the weights of any architecture are split over the axis 'model' of a mesh.

    Queries, keys, values and the inner layer of a feed-forward network are split by their output,
    and the layers that follow by their input, so that one sum over the devices ends a sub-layer
    (Shoeybi et al., 2019, https://arxiv.org/abs/1909.08053, section 3). Token embeddings are split
    over the vocabulary. Norms, positions, segments and what is not of the architecture are
    whole on every device; assign to the result to split more:

        layout = layout_map(mesh)
        layout["Head/kernel"] = (None, "model")

    Args:
        mesh: devices with the axis 'model' among the names of its axes.

    Raises:
        ValueError: the mesh has no such axis.
    """
    if MODEL not in mesh.axis_names:
        raise ValueError(
            f"the mesh has the axes {list(mesh.axis_names)}, and weights are split over the axis "
            f"{MODEL!r}: name one of them so"
        )
    layout = keras.distribution.LayoutMap(mesh)
    for path, axes in SPLIT.items():
        layout[path] = axes
    return layout


def batch_mean(values: Any, weights: Any) -> Any:
    """Give the weighted mean of values, Σ w·v / Σ w, as the loss of a loss layer or as an output.

    A quotient of two sums says the same on one device. On several, TensorFlow and PyTorch need to
    know the weight of each part of the batch, and this notes it.

    Args:
        values: losses, of any shape.
        weights: of the same shape; 0 for what does not count.

    Returns:
        A scalar, 0 if all weights are.
    """
    values = ops.convert_to_tensor(values)
    weights = ops.cast(weights, values.dtype)
    count = ops.sum(weights)
    mean = ops.divide_no_nan(ops.sum(values * weights), count)
    if parts() > 1:
        setattr(mean, COUNT, count)
    return mean


# === The engines ===


def _chosen(wanted: Any, default: Sequence[str], known: Sequence[str]) -> list[str]:
    """Give the names of the devices that are wanted, by default or by number from `default`."""
    if wanted is None:
        return list(default)
    if isinstance(wanted, str | bool):
        valid = False
    elif isinstance(wanted, int):
        names = list(default[: max(wanted, 0)])
        valid = 1 <= wanted == len(names)
    else:
        names = [str(name).lower() for name in wanted]
        kinds = {name.split(":")[0] for name in names}
        valid = len(kinds) == 1 and len(set(names)) == len(names) and set(names) <= set(known)
    if not valid:
        raise ValueError(
            f"devices={wanted!r}: expected a number from 1 to {len(default)}, or a list of "
            f"different devices of one kind out of {list(known)}"
        )
    return names


def _check_seed(processes: int) -> None:
    if processes > 1 and get_random_seed() is None:
        raise ValueError(
            f"{processes} processes have to draw the same batches and have no common seed: call "
            "keras.utils.set_random_seed(number) at the beginning of the program"
        )


@contextmanager
def _on_tensorflow(devices: Any) -> Iterator[Devices]:
    import tensorflow as tf

    config = json.loads(os.environ.get("TF_CONFIG") or "{}")
    cluster = config.get("cluster", {})
    hosts = [*cluster.get("chief", []), *cluster.get("worker", [])]
    if len(hosts) > 1:
        if devices is not None:
            raise ValueError(
                f"devices={devices!r} and TF_CONFIG names {len(hosts)} workers: each of them uses "
                "all its devices, leave devices out"
            )
        _check_seed(len(hosts))
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        resolver = strategy.cluster_resolver
        process = resolver.task_id
        if resolver.task_type == "worker":
            process += len(cluster.get("chief", []))
    else:
        known = {
            kind: [f"{kind.lower()}:{i}" for i in range(len(tf.config.list_logical_devices(kind)))]
            for kind in ("GPU", "CPU")
        }
        names = _chosen(devices, known["GPU"] or known["CPU"], known["GPU"] + known["CPU"])
        strategy, process = tf.distribute.MirroredStrategy(names), 0
    with strategy.scope():
        yield Devices(strategy.num_replicas_in_sync, process, max(len(hosts), 1))


@contextmanager
def _on_jax(devices: Any) -> Iterator[Devices]:
    names = _chosen(devices, keras.distribution.list_devices(), _all_jax_devices())
    with _jax_scope(_DataParallel(devices=names, auto_shard_dataset=False)) as found:
        yield found


@contextmanager
def _on_torch(devices: Any) -> Iterator[Devices]:
    import torch
    from torch import distributed

    accelerators = [f"gpu:{i}" for i in range(torch.cuda.device_count())]
    local, n_local = (
        int(os.environ.get(k, d)) for k, d in (("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1))
    )
    processes = int(os.environ.get("WORLD_SIZE", 1))
    # Any number of processes may share the one CPU.
    default = accelerators or ["cpu:0"] * n_local
    names = default if devices is None else _chosen(devices, default, [*accelerators, "cpu:0"])
    if len(names) < n_local or (devices is not None and len(names) > n_local):
        raise ValueError(
            f"PyTorch trains one device in a process, and there are {len(names)} devices ({names}) "
            f"for {n_local} processes: start the program by torchrun --nproc-per-node={len(names)}"
        )
    _check_seed(processes)
    device = names[local]
    if device.startswith("gpu"):
        torch.cuda.set_device(int(device.split(":")[1]))
    own = processes > 1 and not distributed.is_initialized()
    if own:
        distributed.init_process_group("nccl" if device.startswith("gpu") else "gloo")
    try:
        # A parameter that Keras moves from 'cpu' to 'cpu:0' has no gradient any more.
        with keras.device("cpu" if device == "cpu:0" else device):
            yield Devices(processes, int(os.environ.get("RANK", 0)), processes)
    finally:
        if own:
            distributed.destroy_process_group()


def _all_jax_devices() -> list[str]:
    default, cpus = keras.distribution.list_devices(), keras.distribution.list_devices("cpu")
    return default + [name for name in cpus if name not in default]


@contextmanager
def _jax_scope(distribution: keras.distribution.DataParallel) -> Iterator[Devices]:
    import jax

    _check_seed(jax.process_count())
    with distribution.scope():
        yield Devices(distribution.num_model_replicas, jax.process_index(), jax.process_count())


class _WholeBatches:
    """A distribution that hands the whole batch to every device.

    Keras would split it before the step, for which the number of samples has to be a multiple of
    the number of devices. `DistributedModel` splits it within the step, where it need not be.
    """

    def get_data_layout(self, data_shape: Sequence[int]) -> keras.distribution.TensorLayout:
        """Give the layout of a batch before the step."""
        return keras.distribution.TensorLayout([None] * len(data_shape), self.device_mesh)


class _DataParallel(_WholeBatches, keras.distribution.DataParallel):
    pass


class _ModelParallel(_WholeBatches, keras.distribution.ModelParallel):
    def get_variable_layout(self, variable: Any) -> Any:
        """Give the layout of a variable, of which axes that cannot be split stay whole."""
        layout = super().get_variable_layout(variable)
        if not isinstance(layout, keras.distribution.TensorLayout):
            return layout
        mesh = self.device_mesh
        sizes = {None: 1, **dict(zip(mesh.axis_names, mesh.shape, strict=True))}
        axes = [
            axis if size % sizes[axis] == 0 else None
            for axis, size in zip(layout.axes, variable.shape, strict=True)
        ]
        return keras.distribution.TensorLayout(axes, mesh)


# === Parts of a batch ===


def parts() -> int:
    """In how many parts a batch is computed that do not know of each other.

    On JAX this is 1: there the program is that of the whole batch.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.distribute.get_strategy().num_replicas_in_sync
    if backend == "torch":
        from torch import distributed

        return distributed.get_world_size() if distributed.is_initialized() else 1
    return 1


def sum_over_parts(x: Any) -> Any:
    """Sum a tensor over the parts of the batch; it has no gradient."""
    x = ops.stop_gradient(x)
    if parts() == 1:
        return x
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        context = tf.distribute.get_replica_context()
        # Outside of all replicas Keras traces shapes only.
        return x if context is None else context.all_reduce(tf.distribute.ReduceOp.SUM, x)
    from torch import distributed

    x = x.clone()
    distributed.all_reduce(x)
    return x


def _keras_scale() -> int:
    """By what Keras divides a mean loss: by the number of replicas on TensorFlow."""
    return parts() if keras.backend.backend() == "tensorflow" else 1


def loss_of_batch(loss: Any, count: Any, add: bool = False) -> Any:
    """Turn the loss of a part into that of the batch.

    The value returned is the loss of the batch; its gradient is what this part contributes.

    Args:
        loss: scalar, the mean of a part, or with `add` the sum.
        count: scalar, over how much it is the mean.
        add: the loss of the batch is the sum of those of the parts, not their mean.

    Returns:
        The loss, divided as Keras wants it.
    """
    count = ops.cast(count, loss.dtype)
    loss = ops.where(count > 0, loss, 0.0)
    sums = sum_over_parts(ops.stack([count, loss if add else loss * count]))
    total = ops.where(sums[0] > 0, sums[0], 1.0)
    own, whole = (loss, sums[1]) if add else (loss * (count / total), sums[1] / total)
    return own + ops.stop_gradient(whole / _keras_scale() - own)


@keras.saving.register_keras_serializable("bert4keras")
class LossOfBatch(keras.losses.Loss):
    """A loss that a part of a batch computes as if it saw all parts.

    Saved and loaded again it is the loss it was made from.

    Args:
        loss: any loss with its reduction.
    """

    def __init__(self, loss: keras.losses.Loss):
        super().__init__(name=loss.name, reduction=loss.reduction)
        self.loss = loss
        self._recorded = copy.copy(loss)
        self._recorded.call = self._call

    def _call(self, y_true: Any, y_pred: Any) -> Any:
        """Compute losses, and note their shape and what they leave out."""
        losses = self.loss.call(y_true, y_pred)
        if len(losses.shape) == 0:
            # Keras takes what has no axis for reduced already, and does not scale it.
            rows = ops.shape(keras.tree.flatten(y_pred)[0])[:1]
            losses = ops.broadcast_to(losses, rows)
        self._shape, self._mask = ops.shape(losses), get_keras_mask(losses)
        return losses

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Return the loss, reduced."""
        loss = self._recorded(y_true, y_pred, sample_weight)
        if self.reduction in (None, "none"):
            return loss
        loss = ops.sum(loss)  # Keras does not reduce the losses of a part without samples
        masks = [mask for mask in (get_keras_mask(y_pred), self._mask) if mask is not None]
        count = getattr(y_pred, COUNT, None)
        if count is None:
            count = _count(self._shape, masks, sample_weight, self.reduction)
        if self.reduction == "sum":
            return loss_of_batch(loss, count, add=True)
        return loss_of_batch(loss * _keras_scale(), count)

    def get_config(self) -> dict:
        """Return the loss."""
        return {"loss": keras.saving.serialize_keras_object(self.loss)}

    @classmethod
    def from_config(cls, config: dict) -> keras.losses.Loss:
        """Give the loss that was saved."""
        return keras.saving.deserialize_keras_object(config["loss"])


def _count(shape: Sequence[Any], masks: list, sample_weight: Any, reduction: str) -> Any:
    """Over how much Keras takes the mean of losses of a shape."""
    weights = [ops.cast(mask, "float32") for mask in masks]
    if reduction == "mean_with_sample_weight" and sample_weight is not None:
        weights.append(ops.cast(sample_weight, "float32"))
    if not weights:
        return ops.cast(ops.prod(ops.convert_to_tensor(shape)), "float32")
    product = ops.ones(shape, "float32")
    for weight in weights:
        if len(weight.shape) > len(shape):
            weight = ops.squeeze(weight, axis=-1)
        missing = range(len(weight.shape), len(shape))
        product = product * ops.expand_dims(weight, tuple(missing))
    return ops.sum(product)


def _of_batch(loss: Any) -> Any:
    """Make the loss of a part that of the batch; names are looked up as Keras does."""
    if loss is None or isinstance(loss, LossOfBatch):
        return loss
    found = keras.losses.get(loss)
    if not isinstance(found, keras.losses.Loss):
        found = LossFunctionWrapper(found, name=loss if isinstance(loss, str) else None)
    return LossOfBatch(found)


# === The model ===


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
            loss = keras.tree.map_structure(_of_batch, loss)
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
            y_pred = keras.tree.map_structure(lambda y: _collect(y, n), y_pred)
        return (y_pred, *state) if state else y_pred

    def own_part(self, data: Any) -> Any:
        """Give what a step of this process computes of a batch.

        TensorFlow has split it before. JAX is told to split it, and computes all parts.
        """
        if keras.backend.backend() == "torch" and parts() > 1:
            return keras.tree.map_structure(lambda x: None if x is None else _part(x), data)
        distribution = _jax_distribution()
        if distribution is not None:
            axes = [distribution.batch_dim_name]
            return keras.tree.map_structure(
                lambda x: None if x is None else _with_axes(x, axes), data
            )
        return data

    def _reducible(self, logs: Any) -> Any:
        """Give the reports of a step an axis, over which Keras takes the mean of all workers."""
        if keras.backend.backend() == "tensorflow" and _workers() > 1:
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
        if _process() and options.get("verbose", "auto") == "auto":
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
            _broadcast(self.variables)
            _revise_gradients(self.optimizer, _all_reduced)
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


def _workers() -> int:
    """How many processes a strategy of TensorFlow joins."""
    import tensorflow as tf

    extended = tf.distribute.get_strategy().extended
    return getattr(extended, "_num_workers", 1)


def _process() -> int:
    """Number of this process."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return jax.process_index()
    if backend == "torch":
        from torch import distributed

        return distributed.get_rank() if distributed.is_initialized() else 0
    import tensorflow as tf

    resolver = getattr(tf.distribute.get_strategy(), "cluster_resolver", None)
    return (resolver.task_id or 0) if resolver is not None else 0


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


# === PyTorch ===


def _part(x: Any) -> Any:
    """Give the rows of a tensor that are the part of this process."""
    size = -(-x.shape[0] // parts())
    return x[_process() * size : (_process() + 1) * size]


def _collect(x: Any, n: int) -> Any:
    """Give the rows of all parts, n in number."""
    import torch
    from torch import distributed

    size = -(-n // parts())
    padded = x.new_zeros((size, *x.shape[1:]))
    padded[: x.shape[0]] = x
    rows = [torch.empty_like(padded) for _ in range(parts())]
    distributed.all_gather(rows, padded)
    return torch.cat(rows)[:n]


def _broadcast(variables: Sequence[Any]) -> None:
    """Give all processes the weights of process 0, but each its own dropout."""
    from torch import distributed

    for variable in variables:
        distributed.broadcast(variable.value.data, 0)
        if variable.path.endswith("seed_generator_state"):
            variable.assign(variable.value + distributed.get_rank())


def _all_reduced(gradients: Sequence[Any]) -> list[Any]:
    """Sum gradients over all processes, in one message for each type."""
    import torch
    from torch import distributed

    gradients = list(gradients)
    if parts() == 1:
        return gradients
    for dtype in {g.dtype for g in gradients if g is not None}:
        chosen = [i for i, g in enumerate(gradients) if g is not None and g.dtype == dtype]
        flat = torch.cat([gradients[i].reshape(-1) for i in chosen])
        distributed.all_reduce(flat)
        pieces = flat.split([gradients[i].numel() for i in chosen])
        for i, piece in zip(chosen, pieces, strict=True):
            gradients[i] = piece.view_as(gradients[i])
    return gradients
