"""Which process this is, and what the processes of PyTorch send one another."""

from collections.abc import Sequence
from typing import Any

import keras

from bert4keras.training.distribution.parts import parts


def workers() -> int:
    """How many processes a strategy of TensorFlow joins."""
    import tensorflow as tf

    extended = tf.distribute.get_strategy().extended
    return getattr(extended, "_num_workers", 1)


def this_process() -> int:
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


# === PyTorch ===


def part_of(x: Any) -> Any:
    """Give the rows of a tensor that are the part of this process."""
    size = -(-x.shape[0] // parts())
    return x[this_process() * size : (this_process() + 1) * size]


def collected(x: Any, n: int) -> Any:
    """Give the rows of all parts, n in number."""
    import torch
    from torch import distributed

    size = -(-n // parts())
    padded = x.new_zeros((size, *x.shape[1:]))
    padded[: x.shape[0]] = x
    rows = [torch.empty_like(padded) for _ in range(parts())]
    distributed.all_gather(rows, padded)
    return torch.cat(rows)[:n]


def broadcast(variables: Sequence[Any]) -> None:
    """Give all processes the weights of process 0, but each its own dropout."""
    from torch import distributed

    for variable in variables:
        distributed.broadcast(variable.value.data, 0)
        if variable.path.endswith("seed_generator_state"):
            variable.assign(variable.value + distributed.get_rank())


def all_reduced(gradients: Sequence[Any]) -> list[Any]:
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
