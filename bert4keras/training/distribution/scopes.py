"""Contexts that choose the devices on which a program trains."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import keras

from bert4keras.keras_private import random_seed
from bert4keras.training.distribution.layout import BATCH, MODEL, layout_map


@dataclass(frozen=True)
class Devices:
    """Devices on which a program trains.

    Attributes:
        replicas: number of parts into which each batch is split.
        process: index of this process; process 0 writes files and reports.
        processes: number of processes that run the program.
    """

    replicas: int = 1
    process: int = 0
    processes: int = 1


def data_parallel(
    devices: int | Sequence[str] | None = None,
) -> AbstractContextManager[Devices]:
    """Train on several devices, each of which computes a part of every batch.

    Build, compile and fit the model inside the `with` block. Batches and `batch_size` are those of
    all devices together, and losses, gradients and metrics are the same as on one device that
    computes the whole batch. The batch size need not be a multiple of the number of devices.

    * TensorFlow: a `MirroredStrategy`, or, if the environment variable `TF_CONFIG` names several
      workers, a `MultiWorkerMirroredStrategy`.
    * JAX: a `keras.distribution.DataParallel`. For several processes call
      `keras.distribution.initialize` before.
    * PyTorch: one process for each device, started by `torchrun`.

    Every process runs the same program on the same batches and takes its part of each.

    Args:
        devices: number of devices, or their names, such as `["gpu:0", "gpu:1"]`; by default all
            accelerators, or else all CPUs. On PyTorch they are those of this machine.

    Yields:
        Devices: the number of devices, and the index of this process.

    Raises:
        ValueError: there are no such devices, or there are several processes without a common seed.
    """
    scopes = {"tensorflow": _on_tensorflow, "jax": _on_jax, "torch": _on_torch}
    return scopes[keras.backend.backend()](devices)


@contextmanager
def model_parallel(
    devices: int | Sequence[str] | None = None,
    data: int = 1,
    layout: Callable[[keras.distribution.DeviceMesh], keras.distribution.LayoutMap] | None = None,
) -> Iterator[Devices]:
    """Train a model that is too large for one device by splitting its matrices over several.

    Build, compile and fit the model inside the `with` block. A dimension that is not a multiple of
    the number of devices is not split. Runs on JAX only.

    Args:
        devices: as in `data_parallel`.
        data: number of parts into which the batch is split as well, a divisor of the number of
            devices; each part is computed by `devices / data` devices, which share the weights.
        layout: returns the layout of weights on a device mesh; `layout_map` by default.

    Yields:
        Devices: the number of parts of the batch, and the index of this process.

    Raises:
        ValueError: there are no such devices, `data` does not divide their number, the backend is
            not JAX, or there are several processes without a common seed.
    """
    if keras.backend.backend() != "jax":
        raise ValueError(
            f"model_parallel() needs JAX, but the backend is {keras.backend.backend()}: set "
            "KERAS_BACKEND=jax, or use data_parallel(), which all backends support"
        )
    names = _device_names(devices, keras.distribution.list_devices(), _all_jax_devices())
    if not isinstance(data, int) or data < 1 or len(names) % data:
        raise ValueError(
            f"model_parallel() got data={data!r} and {len(names)} devices: data must divide the "
            "number of devices"
        )
    mesh = keras.distribution.DeviceMesh((data, len(names) // data), (BATCH, MODEL), names)
    distribution = _ModelParallel(
        layout_map=(layout or layout_map)(mesh), batch_dim_name=BATCH, auto_shard_dataset=False
    )
    with _jax_scope(distribution) as scope:
        yield scope


def _device_names(wanted: Any, default: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return the names of the requested devices, which are `default` for None."""
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
            f"devices={wanted!r}: give a number from 1 to {len(default)}, or a list of "
            f"different devices of one kind out of {list(known)}"
        )
    return names


def _check_seed(processes: int) -> None:
    if processes > 1 and random_seed() is None:
        raise ValueError(
            f"{processes} processes must draw the same batches but have no common seed: call "
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
                f"devices={devices!r}, but TF_CONFIG names {len(hosts)} workers, each of which "
                "uses all its devices: omit devices"
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
        names = _device_names(devices, known["GPU"] or known["CPU"], known["GPU"] + known["CPU"])
        strategy, process = tf.distribute.MirroredStrategy(names), 0
    with strategy.scope():
        yield Devices(strategy.num_replicas_in_sync, process, max(len(hosts), 1))


@contextmanager
def _on_jax(devices: Any) -> Iterator[Devices]:
    names = _device_names(devices, keras.distribution.list_devices(), _all_jax_devices())
    with _jax_scope(_DataParallel(devices=names, auto_shard_dataset=False)) as scope:
        yield scope


@contextmanager
def _on_torch(devices: Any) -> Iterator[Devices]:
    import torch
    from torch import distributed

    accelerators = [f"gpu:{i}" for i in range(torch.cuda.device_count())]
    local, n_local = (
        int(os.environ.get(k, d)) for k, d in (("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1))
    )
    processes = int(os.environ.get("WORLD_SIZE", 1))
    # Any number of processes may share the CPU.
    default = accelerators or ["cpu:0"] * n_local
    names = (
        default if devices is None else _device_names(devices, default, [*accelerators, "cpu:0"])
    )
    if len(names) < n_local or (devices is not None and len(names) > n_local):
        raise ValueError(
            f"PyTorch trains on one device per process, but there are {len(names)} devices "
            f"({names}) for {n_local} processes: start the program by torchrun "
            f"--nproc-per-node={len(names)}"
        )
    _check_seed(processes)
    device = names[local]
    if device.startswith("gpu"):
        torch.cuda.set_device(int(device.split(":")[1]))
    own = processes > 1 and not distributed.is_initialized()
    if own:
        distributed.init_process_group("nccl" if device.startswith("gpu") else "gloo")
    try:
        # A parameter that Keras moves from 'cpu' to 'cpu:0' loses its gradient.
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
    """Distribution that passes the whole batch to every device.

    Keras would split it before the step, which requires a batch size that is a multiple of the
    number of devices. `DistributedModel` splits it within the step, where any size is possible.
    """

    def get_data_layout(self, data_shape: Sequence[int]) -> keras.distribution.TensorLayout:
        """Return the layout of a batch before the step."""
        return keras.distribution.TensorLayout([None] * len(data_shape), self.device_mesh)


class _DataParallel(_WholeBatches, keras.distribution.DataParallel):
    pass


class _ModelParallel(_WholeBatches, keras.distribution.ModelParallel):
    def get_variable_layout(self, variable: Any) -> Any:
        """Return the layout of a variable, in which axes that cannot be split are not split."""
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


def placement() -> Any:
    """Return the current distribution over several devices, None outside of all scopes.

    Returns:
        The strategy of TensorFlow, the distribution of JAX, or the number of processes of PyTorch,
        whether it was chosen by this module or by the user; otherwise None.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.distribute.get_strategy() if tf.distribute.has_strategy() else None
    if backend == "jax":
        return keras.distribution.distribution()
    from torch import distributed

    return distributed.get_world_size() if distributed.is_initialized() else None
