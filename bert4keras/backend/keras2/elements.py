"""Functions of `K` that transform or select elements."""

from collections.abc import Sequence

import keras
from keras import ops

from bert4keras.backend.keras2.shapes import int_shape, ndim
from bert4keras.backend.keras2.types import as_float_tensor, as_tensor, dtype, to_common_type
from bert4keras.backend.sizes import entry
from bert4keras.backend.tensors import Tensor


@entry
def clip(x: Tensor, min_value: float | None, max_value: float | None) -> Tensor:
    """Clip the values; None is no limit, and a maximum below the minimum counts as the minimum."""
    limits = [limit for limit in (max_value, min_value) if limit is not None]
    x, *limits = to_common_type(x, *limits)
    if max_value is not None:
        x = ops.minimum(x, limits[0])
    return x if min_value is None else ops.maximum(x, limits[-1])


@entry
def sqrt(x: Tensor) -> Tensor:
    """Return the square root, 0 for negative values."""
    return ops.sqrt(ops.maximum(as_float_tensor(x), 0.0))


@entry
def relu(
    x: Tensor, alpha: float = 0.0, max_value: float | None = None, threshold: float = 0.0
) -> Tensor:
    """Return `x` above the threshold, `alpha * (x - threshold)` below, at most `max_value`."""
    x = as_float_tensor(x)
    x = ops.where(ops.greater(x, threshold), x, alpha * ops.subtract(x, threshold))
    return clip(x, None, max_value)


@entry
def l2_normalize(x: Tensor, axis: int | Sequence[int] | None = None) -> Tensor:
    """Divide by the Euclidean norm along axes, or by 1e-6 if the norm is smaller."""
    x = as_float_tensor(x)
    square = ops.sum(ops.square(x), axis=axis, keepdims=True)
    return x * ops.rsqrt(ops.maximum(square, 1e-12))


@entry
def hard_sigmoid(x: Tensor) -> Tensor:
    """Return `0.2 * x + 0.5`, clipped to 0 and 1; `keras.ops.hard_sigmoid` has another slope."""
    return ops.clip(0.2 * as_float_tensor(x) + 0.5, 0.0, 1.0)


@entry
def batch_normalization(
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    beta: Tensor | None,
    gamma: Tensor | None,
    axis: int = -1,
    epsilon: float = 1e-3,
) -> Tensor:
    """Return `gamma * (x - mean) / sqrt(var + epsilon) + beta`, each along an axis of `x`."""
    x = as_float_tensor(x)
    sizes = [1] * ndim(x)
    sizes[axis] = -1

    def along_axis(values: Tensor) -> Tensor:
        values = ops.cast(as_tensor(values), dtype(x))
        return ops.reshape(values, sizes) if ndim(values) == 1 else values

    x = (x - along_axis(mean)) * ops.rsqrt(along_axis(var) + epsilon)
    x = x if gamma is None else x * along_axis(gamma)
    return x if beta is None else x + along_axis(beta)


@entry
def normalize_batch_in_training(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    reduction_axes: Sequence[int],
    epsilon: float = 1e-3,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise a batch by its own moments; return the result, the mean and the variance."""
    x = as_float_tensor(x)
    axes = tuple(axis % ndim(x) for axis in reduction_axes)
    mean, var = (moment(x, axis=axes, keepdims=True) for moment in (ops.mean, ops.var))
    sizes = [1 if axis in axes else size for axis, size in enumerate(int_shape(x))]
    gamma, beta = (v if v is None else ops.reshape(as_tensor(v), sizes) for v in (gamma, beta))
    normed = batch_normalization(x, mean, var, beta, gamma, epsilon=epsilon)
    return normed, ops.squeeze(mean, axes), ops.squeeze(var, axes)


@entry
def in_top_k(predictions: Tensor, targets: Tensor, k: int) -> Tensor:
    """Tell for each row whether the target is among the `k` highest predictions.

    Args:
        predictions: `(batch, classes)`.
        targets: `(batch,)`, class indices.
        k: number of predictions.
    """
    return ops.in_top_k(ops.cast(as_tensor(targets), "int32"), as_float_tensor(predictions), k)


@entry
def print_tensor(x: Tensor, message: str = "") -> Tensor:
    """Return a tensor that prints a message and its value when it is computed."""
    return PrintedTensor(message)(x) if isinstance(x, keras.KerasTensor) else _printed(x, message)


def _printed(x: Tensor, message: str) -> Tensor:
    match keras.backend.backend():
        case "tensorflow":
            import tensorflow as tf

            with tf.control_dependencies([tf.print(message, x)]):
                return tf.identity(x)
        case "jax":
            import jax

            jax.debug.print("{} {}", message, x)
        case "torch":
            print(message, x)
    return x


@keras.saving.register_keras_serializable(package="bert4keras")
class PrintedTensor(keras.Operation):
    """Operation of a functional model that prints its input, for `print_tensor`."""

    def __init__(self, message: str, name: str | None = None):
        super().__init__(name=name)
        self.message = message

    def call(self, x: Tensor) -> Tensor:
        """Print and return the input."""
        return _printed(x, self.message)

    def compute_output_spec(self, x: keras.KerasTensor) -> keras.KerasTensor:
        """Return a symbolic tensor like the input."""
        return keras.KerasTensor(x.shape, dtype=x.dtype)

    def get_config(self) -> dict:
        """Return the constructor's arguments."""
        return {"message": self.message, "name": self.name}


@entry
def identity(x: Tensor, name: str | None = None) -> Tensor:
    """Return a copy."""
    return ops.copy(as_tensor(x))


@entry
def stop_gradient(variables: Tensor | Sequence[Tensor]) -> Tensor | list[Tensor]:
    """Stop the gradient of a tensor, or of each tensor of a list."""
    if isinstance(variables, list | tuple):
        return [ops.stop_gradient(as_tensor(x)) for x in variables]
    return ops.stop_gradient(as_tensor(variables))


@entry
def gather(reference: Tensor, indices: Tensor) -> Tensor:
    """Return the rows of a tensor at indices of any shape."""
    return ops.take(as_tensor(reference), ops.cast(as_tensor(indices), "int32"), axis=0)


@entry
def reverse(x: Tensor, axes: int | Sequence[int]) -> Tensor:
    """Reverse a tensor along axes."""
    return ops.flip(as_tensor(x), axis=axes if isinstance(axes, int) else tuple(axes))


@entry
def permute_dimensions(x: Tensor, pattern: Sequence[int]) -> Tensor:
    """Reorder the axes."""
    return ops.transpose(as_tensor(x), axes=tuple(pattern))


@entry
def transpose(x: Tensor) -> Tensor:
    """Reverse the order of the axes."""
    x = as_tensor(x)
    return ops.transpose(x, axes=tuple(reversed(range(ndim(x)))))
