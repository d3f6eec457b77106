"""Values and gradients on each engine, and scopes in which variables have other values."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import keras
from keras import ops

from bert4keras.backend.tensors import Tensor


def value_and_gradients(
    function: Callable, at: Sequence[Tensor], second_order: bool = False
) -> tuple[Tensor, Any, list[Tensor | None]]:
    """Compute the value and the gradients of a function of tensors. Calls may be nested.

    Args:
        function: takes a list of tensors, returns a scalar and auxiliary output of any structure.
        at: where to differentiate, float tensors; on TensorFlow and PyTorch Keras variables too.
        second_order: the gradients are differentiated again (no difference on TensorFlow and JAX).

    Returns:
        The scalar, the auxiliary output, and a gradient for each tensor. If the scalar does not
        depend on a tensor, its gradient is None, or zeros on JAX.
    """
    backends = {
        "tensorflow": gradients_by_tensorflow,
        "jax": gradients_by_jax,
        "torch": gradients_by_torch,
    }
    return backends[keras.backend.backend()](function, list(at), second_order)


def gradients_by_tensorflow(function: Callable, at: list[Tensor], second_order: bool) -> tuple:
    """`value_and_gradients` on TensorFlow."""
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch([x for x in at if not isinstance(x, keras.Variable)])
        value, aux = function(at)
    # Gradients of embeddings may be `IndexedSlices`, in which Keras finds no infinite values.
    gradients = tape.gradient(value, at)
    return value, aux, [None if g is None else tf.convert_to_tensor(g) for g in gradients]


def gradients_by_jax(function: Callable, at: list[Tensor], second_order: bool) -> tuple:
    """`value_and_gradients` on JAX."""
    import jax

    (value, aux), gradients = jax.value_and_grad(function, has_aux=True)(at)
    return value, aux, gradients


def gradients_by_torch(function: Callable, at: list[Tensor], second_order: bool) -> tuple:
    """`value_and_gradients` on PyTorch."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    leaves = [x if isinstance(x, keras.Variable) else x.detach().requires_grad_() for x in at]
    # The fused attention kernels cannot be differentiated twice.
    kernel = sdpa_kernel(SDPBackend.MATH) if second_order else nullcontext()
    with torch.enable_grad(), kernel:
        value, aux = function(leaves)
        leaves = [ops.convert_to_tensor(x) for x in leaves]
        gradients = torch.autograd.grad(value, leaves, create_graph=second_order, allow_unused=True)
    return value, aux, list(gradients)


def pure_scope(values: Iterable[tuple[keras.Variable, Any]]) -> keras.StatelessScope:
    """Return a scope in which variables have the given values, and updates do not change them.

    A variable given as its own value is not replaced: only where TensorFlow sees a variable does it
    look up single embeddings, and recompute layers.
    """
    mapping = [(variable, value) for variable, value in values if value is not variable]
    return keras.StatelessScope(mapping, collect_losses=True)
