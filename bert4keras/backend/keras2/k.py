"""`K`: the Keras 2 backend functions that existing scripts call, over `keras.ops`.

Names, arguments and meaning are those of `keras.backend` 2.3.1. Most entries differ from
`keras.ops` only by their name and are listed in the tables `_UNARY`, `_BINARY`, `_REDUCTIONS` and
`_OTHERS`; the others are functions of the modules in `ROOMS`. The library itself uses none of them.

Differences from Keras 2:

* `K.shape(x)` is a tuple (a `Shape`), not a tensor. Its entries are numbers where the size is
  known. Elsewhere they are scalar tensors (TensorFlow) or, for the symbolic tensors of a functional
  model, `Dimension` objects, which remain sizes through `+ - * // %` and can be passed as a shape
  to `reshape`, `zeros`, `tile`, `arange` and so on. JAX and PyTorch know every size when a step
  runs, and JAX needs shapes that were computed from sizes alone: `K.sum(K.shape(x))` is a tensor,
  `K.prod(K.shape(x)[1:])` is a size.
* Every input of a Keras 2 model was float32, whereas ids are integers here. An integer or bool that
  is combined with a float becomes a float: a tensor, a variable, an array or a number, alone or in
  a list. So does the argument of a function with fractional results, such as `K.mean` and `K.exp`.
  Integers combined with integers stay integers, and indices (`K.gather`, `K.one_hot`, `K.arange`)
  may be floats. NumPy arrays, lists and numbers take the type of the tensors with which they are
  combined. `K.sum` of a bool tensor counts.
* `K.zeros` and `K.ones` return tensors, not variables.
* A random function without `seed` cannot be traced by JAX, and one with a number as seed returns
  the same values every time. Within a layer, pass a `keras.random.SeedGenerator` of the layer as
  `seed`.
* A JAX array cannot be the left operand of a symbolic tensor: write `x * K.ones((3,))`.
* Functions that need a graph and a session raise an error that names their replacement.
"""

import difflib
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from bert4keras.backend.keras2 import (
    control,
    elements,
    graphs,
    loops,
    losses,
    products,
    random,
    shapes,
    types,
    variables,
)
from bert4keras.backend.keras2.products import convolution, pool
from bert4keras.backend.keras2.random import random_binomial
from bert4keras.backend.keras2.shapes import spatial_padding
from bert4keras.backend.keras2.types import as_float_tensor, as_tensor, packed, to_common_type
from bert4keras.backend.keras2.variables import get_value
from bert4keras.backend.sizes import FUNCTIONS
from bert4keras.backend.tensors import Tensor

ROOMS = (control, elements, loops, losses, products, random, shapes, types, variables)
"""Modules that are imported for their functions, which register themselves in `FUNCTIONS`."""

_UNARY: dict[str, Callable] = {
    "abs": ops.absolute,
    "round": ops.round,
    "sign": ops.sign,
    "square": ops.square,
}

_FLOAT_UNARY: dict[str, Callable] = {
    "cos": ops.cos,
    "exp": ops.exp,
    "log": ops.log,
    "sigmoid": ops.sigmoid,
    "sin": ops.sin,
    "softplus": ops.softplus,
    "softsign": ops.softsign,
    "tanh": ops.tanh,
}
"""Functions with float results."""

_COMPARISONS: dict[str, Callable] = {
    "equal": ops.equal,
    "greater": ops.greater,
    "greater_equal": ops.greater_equal,
    "less": ops.less,
    "less_equal": ops.less_equal,
    "not_equal": ops.not_equal,
}

_BINARY: dict[str, Callable] = {"maximum": ops.maximum, "minimum": ops.minimum}

_REDUCTIONS: dict[str, Callable] = {"max": ops.max, "min": ops.min, "sum": ops.sum}

_FLOAT_REDUCTIONS: dict[str, Callable] = {
    "logsumexp": ops.logsumexp,
    "mean": ops.mean,
    "std": ops.std,
    "var": ops.var,
}

_BOOL_REDUCTIONS: dict[str, Callable] = {"all": ops.all, "any": ops.any}

_OTHERS: dict[str, Callable] = {
    "argmax": lambda x, axis=-1: ops.argmax(as_tensor(x), axis=axis),
    "argmin": lambda x, axis=-1: ops.argmin(as_tensor(x), axis=axis),
    "backend": keras.config.backend,
    "conv2d": convolution(ops.conv),
    "conv3d": convolution(ops.conv),
    "cumprod": lambda x, axis=0: ops.cumprod(as_tensor(x), axis=axis),
    "cumsum": lambda x, axis=0: ops.cumsum(as_tensor(x), axis=axis),
    "depthwise_conv2d": convolution(ops.depthwise_conv),
    "eager": lambda func: func,
    "elu": lambda x, alpha=1.0: ops.elu(as_float_tensor(x), alpha=alpha),
    "epsilon": keras.config.epsilon,
    "eval": get_value,
    "expand_dims": lambda x, axis=-1: ops.expand_dims(as_tensor(x), axis),
    "floatx": keras.config.floatx,
    "get_uid": lambda prefix="": keras.backend.get_uid(prefix),
    "image_data_format": keras.config.image_data_format,
    "is_keras_tensor": keras.utils.is_keras_tensor,
    "is_symbolic": keras.utils.is_keras_tensor,
    "pool2d": pool,
    "pool3d": pool,
    "pow": lambda x, a: ops.power(*to_common_type(x, a)),
    "random_bernoulli": random_binomial,
    "separable_conv1d": convolution(ops.separable_conv, n_kernels=2),
    "separable_conv2d": convolution(ops.separable_conv, n_kernels=2),
    "set_epsilon": keras.config.set_epsilon,
    "set_floatx": keras.config.set_floatx,
    "set_image_data_format": keras.config.set_image_data_format,
    "softmax": lambda x, axis=-1: ops.softmax(as_float_tensor(x), axis=axis),
    "spatial_2d_padding": spatial_padding(2),
    "spatial_3d_padding": spatial_padding(3),
    "symbolic": lambda func: func,
    "clear_session": keras.utils.clear_session,
    "function": graphs.function,
    "gradients": graphs.gradients,
    "placeholder": graphs.placeholder,
}


def _unary(function: Callable, prepare: Callable) -> Callable:
    """Wrap a function of a tensor, which is prepared first."""
    return lambda x: function(prepare(x))


def _binary(function: Callable, comparing: bool = False) -> Callable:
    """Wrap a function of two tensors, which are converted to a common type first."""
    return lambda x, y: function(*to_common_type(x, y, comparing=comparing))


def _reduction(function: Callable, prepare: Callable) -> Callable:
    """Wrap a reduction along axes of a tensor, which is prepared first."""

    def reduce(
        x: Tensor, axis: int | Sequence[int] | None = None, keepdims: bool = False
    ) -> Tensor:
        """Reduce along axes."""
        axis = tuple(axis) if isinstance(axis, list) else axis
        return function(prepare(x), axis=axis, keepdims=keepdims)

    return reduce


def _bool_tensor(x: Any) -> Tensor:
    return ops.cast(packed(x), "bool")


_REPLACEMENTS: dict[str, str] = {
    "control_dependencies": "nothing: a function computes in the order in which it is written",
    "conv2d_transpose": "keras.ops.conv_transpose, which knows the sizes of its output",
    "conv3d_transpose": "keras.ops.conv_transpose, which knows the sizes of its output",
    "ctc_batch_cost": "keras.losses.CTC or keras.ops.ctc_loss, where class 0 is the blank",
    "ctc_decode": "keras.ops.ctc_decode",
    "ctc_label_dense_to_sparse": "keras.losses.CTC, which takes the labels as they are",
    "image_dim_ordering": "K.image_data_format(): 'tf' was 'channels_last'",
    "local_conv1d": "keras.ops.einsum over the windows of the input, with a kernel for each",
    "local_conv2d": "keras.ops.einsum over keras.ops.image.extract_patches",
    "get_session": "nothing: tensors have values; K.get_value(x) gives them as NumPy arrays",
    "manual_variable_initialization": "nothing: variables have values from the start",
    "reset_uids": "K.clear_session()",
    "set_image_dim_ordering": "K.set_image_data_format: 'tf' was 'channels_last'",
    "set_learning_phase": "the argument training=True or False of the call of a layer or model",
    "set_session": "nothing: there are no sessions; tf.config sets the devices and threads",
}


class LegacyBackend:
    """The object `K`: a read-only set of functions.

    Raises:
        AttributeError: a function has no meaning in Keras 3, or is unknown; the message names a
            replacement.
    """

    def __init__(self, functions: dict[str, Callable]):
        vars(self).update(functions)

    def __getattr__(self, name: str):
        if name == "tf":  # Before Keras 2.3 it could be imported from the backend.
            import tensorflow

            return tensorflow
        if name in _REPLACEMENTS:
            raise AttributeError(f"K.{name} has no meaning in Keras 3. Use {_REPLACEMENTS[name]}.")
        message = f"K has no function {name!r}."
        if hasattr(ops, name):
            message += f" Use keras.ops.{name}."
        elif close := difflib.get_close_matches(name, vars(self), n=1):
            message += f" Did you mean K.{close[0]}?"
        else:
            message += " Look for it in keras.ops."
        raise AttributeError(message)

    def __setattr__(self, name: str, value):
        raise AttributeError(f"K.{name} cannot be set: K is shared by everything that imports it.")

    def __repr__(self) -> str:
        return f"<K: {len(vars(self))} functions of Keras 2 over keras.ops>"


K = LegacyBackend(
    {
        **FUNCTIONS,
        **{name: _unary(function, as_tensor) for name, function in _UNARY.items()},
        **{name: _unary(function, as_float_tensor) for name, function in _FLOAT_UNARY.items()},
        **{name: _binary(function, comparing=True) for name, function in _COMPARISONS.items()},
        **{name: _binary(function) for name, function in _BINARY.items()},
        **{name: _reduction(function, as_tensor) for name, function in _REDUCTIONS.items()},
        **{name: _reduction(f, as_float_tensor) for name, f in _FLOAT_REDUCTIONS.items()},
        **{name: _reduction(f, _bool_tensor) for name, f in _BOOL_REDUCTIONS.items()},
        **_OTHERS,
    }
)
