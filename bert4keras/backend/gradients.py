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
    """Differentiate a function of tensors. Calls may be nested.

    Args:
        function: takes a list of tensors, returns a scalar and a nest of anything else.
        at: where to differentiate, float tensors; on TensorFlow and PyTorch Keras variables too.
        second_order: the gradients are differentiated again. (TensorFlow and JAX need not know.)

    Returns:
        The scalar, the nest, and a gradient for each tensor. Of a tensor that the scalar does not
        depend on it is None, or zeros on JAX.
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
        value, rest = function(at)
    # Gradients of tables may be `IndexedSlices`, in which Keras finds no infinite numbers.
    gradients = tape.gradient(value, at)
    return value, rest, [None if g is None else tf.convert_to_tensor(g) for g in gradients]


def gradients_by_jax(function: Callable, at: list[Tensor], second_order: bool) -> tuple:
    """`value_and_gradients` on JAX."""
    import jax

    (value, rest), gradients = jax.value_and_grad(function, has_aux=True)(at)
    return value, rest, gradients


def gradients_by_torch(function: Callable, at: list[Tensor], second_order: bool) -> tuple:
    """`value_and_gradients` on PyTorch."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    leaves = [x if isinstance(x, keras.Variable) else x.detach().requires_grad_() for x in at]
    # The fused kernels of attention cannot be differentiated twice.
    kernel = sdpa_kernel(SDPBackend.MATH) if second_order else nullcontext()
    with torch.enable_grad(), kernel:
        value, rest = function(leaves)
        leaves = [ops.convert_to_tensor(x) for x in leaves]
        gradients = torch.autograd.grad(value, leaves, create_graph=second_order, allow_unused=True)
    return value, rest, list(gradients)


def pure_scope(values: Iterable[tuple[keras.Variable, Any]]) -> keras.StatelessScope:
    """A scope in which variables have other values, and changes of them are kept aside.

    Variables that stand for themselves are left alone in it: TensorFlow reads single rows of a
    table, and recomputes layers, only where it sees the variable.
    """
    given = [(variable, value) for variable, value in values if value is not variable]
    return keras.StatelessScope(given, collect_losses=True)
