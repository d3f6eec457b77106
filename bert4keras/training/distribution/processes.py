"""The index of this process, and communication between the processes of PyTorch."""

from collections.abc import Sequence
from typing import Any

import keras

from bert4keras.training.distribution.parts import parts


def n_workers() -> int:
    """Return the number of processes in a strategy of TensorFlow."""
    import tensorflow as tf

    extended = tf.distribute.get_strategy().extended
    return getattr(extended, "_num_workers", 1)


def process_index() -> int:
    """Return the index of this process."""
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


# === PyTorch ===


def local_part(x: Any) -> Any:
    """Return the samples of a tensor that are the part of this process."""
    size = -(-x.shape[0] // parts())
    return x[process_index() * size : (process_index() + 1) * size]


def all_gather(x: Any, n: int) -> Any:
    """Gather the n samples of all parts."""
    import torch
    from torch import distributed

    size = -(-n // parts())
    padded = x.new_zeros((size, *x.shape[1:]))
    padded[: x.shape[0]] = x
    gathered = [torch.empty_like(padded) for _ in range(parts())]
    distributed.all_gather(gathered, padded)
    return torch.cat(gathered)[:n]


def broadcast(variables: Sequence[Any]) -> None:
    """Send the weights of process 0 to all processes, but give each its own dropout seeds."""
    from torch import distributed

    for variable in variables:
        distributed.broadcast(variable.value.data, 0)
        if variable.path.endswith("seed_generator_state"):
            variable.assign(variable.value + distributed.get_rank())


def all_reduce_gradients(gradients: Sequence[Any]) -> list[Any]:
    """Sum gradients over all processes, in one message for each dtype."""
    import torch
    from torch import distributed

    gradients = list(gradients)
    if parts() == 1:
        return gradients
    for dtype in {g.dtype for g in gradients if g is not None}:
        indices = [i for i, g in enumerate(gradients) if g is not None and g.dtype == dtype]
        flat = torch.cat([gradients[i].reshape(-1) for i in indices])
        distributed.all_reduce(flat)
        pieces = flat.split([gradients[i].numel() for i in indices])
        for i, piece in zip(indices, pieces, strict=True):
            gradients[i] = piece.view_as(gradients[i])
    return gradients
