"""Gradients on every backend, and the loss of span pointers, which scripts write themselves."""

import keras
from keras import ops

from bert4keras.backend import multilabel_categorical_crossentropy


def gradients(function, values, variables=()):
    """Gradients of the scalar `function(*values)`, as float32 arrays; None where there is none.

    Args:
        function: takes tensors.
        values: the tensors, by which the gradients are taken.
        variables: trainable Keras variables that the function uses, by which they are taken next.
    """
    match keras.backend.backend():
        case "tensorflow":
            import tensorflow as tf

            values = [tf.convert_to_tensor(v) for v in values]
            with tf.GradientTape() as tape:
                tape.watch(values)
                total = function(*values)
            found = tape.gradient(total, [*values, *(v.value for v in variables)])
        case "jax":
            import jax

            def total(values, weights):
                with keras.StatelessScope(zip(variables, weights, strict=True)):
                    return function(*values)

            weights = [v.value for v in variables]
            by_values, by_weights = jax.jit(jax.grad(total, (0, 1)))(list(values), weights)
            found = [*by_values, *by_weights]
        case "torch":
            import torch

            values = [v.detach().clone().requires_grad_() for v in values]
            inputs = [*values, *(v.value for v in variables)]
            found = torch.autograd.grad(function(*values), inputs, allow_unused=True)
    return [None if g is None else ops.convert_to_numpy(ops.cast(g, "float32")) for g in found]


def pointer_crossentropy(y_true, y_pred):
    """The loss of scores (batch, heads, length, length): every head's flattened matrix is a row."""
    shape = (-1, ops.shape(y_pred)[2] * ops.shape(y_pred)[3])
    return multilabel_categorical_crossentropy(
        ops.reshape(y_true, shape), ops.reshape(y_pred, shape)
    )
