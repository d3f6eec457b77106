"""All that differs by engine: compilation, recomputation, dropout, Adam, values of tensors."""

import functools
import itertools
import math
import os
import random
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras import ops

from bert4keras import keras_private
from bert4keras.backend.compilation_cache import use_compilation_cache
from bert4keras.backend.memory import Memory
from bert4keras.backend.tensors import Tensor

use_compilation_cache()  # before anything is compiled


def known_values(x: Tensor) -> np.ndarray | None:
    """Return the values of a tensor or array as a NumPy array if they are available, else None.

    They are not available within a compiled function, nor on an accelerator, since it would take
    time to wait for it.
    """
    if isinstance(x, keras.KerasTensor):
        return None
    match keras.backend.backend():
        case "tensorflow":
            import tensorflow as tf

            known = not tf.is_tensor(x) or (hasattr(x, "numpy") and "CPU" in x.device)
        case "jax":
            import jax

            known = not isinstance(x, jax.core.Tracer)
            if known and isinstance(x, jax.Array):
                known = all(device.platform == "cpu" for device in x.devices())
        case "torch":
            import torch

            known = not torch.is_tensor(x) or x.device.type == "cpu"
    return ops.convert_to_numpy(x) if known else None


def copied_tensor(value: np.ndarray, dtype: str, memory: Memory) -> Tensor:
    """A tensor with the values of an array, which may be a view of a mapped file, in new memory.

    They are copied once where the engine takes over memory of NumPy, which all do on a CPU.
    """
    wanted = "float32" if dtype == "bfloat16" else dtype  # which NumPy lacks
    copy = memory.copy(value, wanted, any_order=keras.backend.backend() == "torch")
    return ops.convert_to_tensor(taken_over(copy), dtype)


def taken_over(array: np.ndarray) -> Tensor:
    """A tensor in the memory of an array of `Memory`, where the engine can."""
    match keras.backend.backend():
        case "tensorflow":
            import tensorflow as tf

            return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
        case "jax":
            import jax

            return jax.device_put(array, may_alias=True)
        case "torch":
            import torch

            return torch.from_numpy(array)
    return ops.convert_to_tensor(array)


# -------------------------------------------------------------------------------------- compilation


def compiled(function: Callable, model: keras.Model, any_shape: bool = False) -> Callable:
    """Compile a function that calls `model` for inference; its weights may change between calls.

    It is compiled for every new shape of the arguments. On PyTorch nothing is compiled.

    Args:
        function: takes nested structures of arrays, always of the same structure, and returns a
            nested structure of tensors.
        model: the built model whose variables the function reads.
        any_shape: on TensorFlow, retrace only until the sizes that vary are known, instead of for
            every shape; the function must not depend on static sizes.

    Returns:
        A function of the same arguments, NumPy arrays or tensors.
    """
    compilers = {
        "tensorflow": compiled_by_tensorflow,
        "jax": compiled_by_jax,
        "torch": without_gradients,
    }
    return compilers[keras.backend.backend()](function, model, any_shape)


TRACING = threading.RLock()
"""Lock held while a function of a model runs for the first time and traces its layers."""


def shapes_of(nest: Any) -> tuple:
    """Return shapes and types of the arrays in a nest, for each of which functions are compiled."""
    return tuple((tuple(x.shape), x.dtype) for x in keras.tree.flatten(nest) if x is not None)


def compiles_every_shape() -> bool:
    """Tell whether the backend compiles models for each shape of their inputs."""
    return keras.backend.backend() == "jax"


def computes_on_cpu() -> bool:
    """Tell whether new tensors are on a CPU, and not on an accelerator."""
    return known_values(ops.zeros(())) is not None


def computes_faster_in_parts() -> bool:
    """Tell whether a batch with much padding is better computed in parts of similar lengths.

    On a CPU it is, unless a model would be compiled for the shapes of the parts.
    """
    return computes_on_cpu() and not compiles_every_shape()


@contextmanager
def first_in_turn(known: set, key: Hashable) -> Iterator[None]:
    """Hold `TRACING` if `key` is not in `known` yet; it is added when the block has succeeded."""
    if key in known:
        yield
        return
    with TRACING:
        yield
    known.add(key)


class Changes:
    """How often layers that were built have got or lost variables, in this process."""

    count = 0


def note_change() -> None:
    """Let what was compiled before be compiled again: a layer has got or lost variables."""
    Changes.count += 1


def compiled_by_tensorflow(function: Callable, model: keras.Model, any_shape: bool) -> Callable:
    """`compiled` on TensorFlow, without XLA, which compiles for every shape."""
    import tensorflow as tf

    graphs = {}  # TensorFlow warns of many graphs in one tf.function

    def call(*args: Any) -> Any:
        key = Changes.count, None if any_shape else shapes_of(args)
        if key not in graphs:
            with TRACING:
                if key not in graphs:
                    traced = tf.function(function, autograph=False, reduce_retracing=any_shape)
                    graphs[key] = traced if any_shape else traced.get_concrete_function(*args)
        return graphs[key](*args)

    return call


def compiled_by_jax(function: Callable, model: keras.Model, any_shape: bool) -> Callable:
    """`compiled` on JAX, where weights become constants unless they are arguments."""
    import jax

    @jax.jit
    def stateless(values: list[Tensor], *args: Any) -> Any:
        with keras.StatelessScope(state_mapping=zip(model.variables, values, strict=True)):
            return function(*args)

    known: set = set()

    def call(*args: Any) -> Any:
        with first_in_turn(known, shapes_of(args)):
            return on_present_values(
                lambda: present_values(model.variables),
                lambda values: stateless(values, *args),
            )

    return call


def present_values(variables: Sequence[keras.Variable]) -> list[Tensor]:
    """Return the values of variables outside of all scopes; `value` looks for scopes."""
    return keras_private.values_of(variables)


def on_present_values(values: Callable[[], Any], function: Callable[[Any], Any]) -> Any:
    """Call a function on the values of variables on JAX, where training donates their buffers.

    If another thread has trained since they were read, they are read again.

    Args:
        values: returns a nest of the present values.
        function: takes that nest, and has no side effects.
    """
    while True:
        present = values()
        try:
            return function(present)
        except Exception:
            if not any(x.is_deleted() for x in keras.tree.flatten(present)):
                raise


def without_gradients(function: Callable, model: keras.Model, any_shape: bool) -> Callable:
    """`compiled` on PyTorch: run without recording gradients."""
    import torch

    return torch.no_grad()(function)


# ------------------------------------------------------------------------------------ recomputation


def recompute_by_default() -> bool:
    """Tell whether the environment variable RECOMPUTE asks for `recompute_grad` (1) or not (0).

    Raises:
        ValueError: it has another value.
    """
    value = os.environ.get("RECOMPUTE", "0")
    if value not in ("0", "1"):
        raise ValueError(
            f"the environment variable RECOMPUTE is {value!r}: set it to 1 to save memory in "
            "training, to 0 otherwise, or unset it"
        )
    return value == "1"


def recompute_grad(call: Callable) -> Callable:
    """Decorate the `call` of a layer whose activations may be recomputed instead of kept.

    This is gradient checkpointing. If `layer.recompute` is true, a training step drops what is
    computed within the call, and the backward pass computes it again from the inputs (Chen et al.,
    2016, https://arxiv.org/abs/1604.06174): less memory for about a third more time. It changes
    neither results nor inference nor decoding with a KV cache. Layers without that attribute use
    `recompute_by_default`; a call that does not take `training` keeps everything.

    Gradients flow to the arguments of the call and to the weights of the layer. A layer with
    dropout has it in `self.dropout`, a `layers.Dropout`, which must drop the same elements in both
    passes: the call passes its argument `seed` on to it.
    """

    @functools.wraps(call)
    def recomputing_call(self: Any, *args: Any, **kwargs: Any) -> Any:
        trains = kwargs.get("training") and kwargs.get("cache") is None
        wanted = self.recompute if hasattr(self, "recompute") else recompute_by_default()
        if not (wanted and trains):
            return call(self, *args, **kwargs)
        if getattr(self, "dropout", None) is not None:
            kwargs["seed"] = self.dropout.draw_seed()
        leaves = keras.tree.flatten((args, kwargs))

        def function(*tensors: Tensor) -> Any:
            tensors = iter(tensors)
            new_leaves = [next(tensors) if ops.is_tensor(x) else x for x in leaves]
            new_args, new_kwargs = keras.tree.pack_sequence_as((args, kwargs), new_leaves)
            return call(self, *new_args, **new_kwargs)

        return recomputed(function, [x for x in leaves if ops.is_tensor(x)])

    return recomputing_call


def recomputed(function: Callable, tensors: Sequence[Tensor]) -> Any:
    """Return `function(*tensors)`, recomputing its activations in the backward pass."""
    match keras.backend.backend():
        case "tensorflow":
            return recomputed_by_tensorflow(function, tensors)
        case "jax":
            return recomputed_by_jax(function, tensors)
        case "torch":
            from torch.utils.checkpoint import checkpoint

            return checkpoint(function, *tensors, use_reentrant=False)


def recomputed_by_tensorflow(function: Callable, tensors: Sequence[Tensor]) -> Any:
    """`recomputed` on TensorFlow, where `tf.recompute_grad` takes no booleans."""
    import tensorflow as tf

    def function_of_floats(*floats: Tensor) -> Any:
        floats = iter(floats)
        return function(*(next(floats) if x.dtype.is_floating else x for x in tensors))

    return tf.recompute_grad(function_of_floats)(*(x for x in tensors if x.dtype.is_floating))


def recomputed_by_jax(function: Callable, tensors: Sequence[Tensor]) -> Any:
    """`recomputed` on JAX.

    XLA on a CPU drops the optimization barriers of `jax.checkpoint`, merges the two equal
    computations and keeps the activations after all. Here the second one depends on the gradient.
    """
    import jax
    from jax import numpy as jnp

    function, weights = jax.closure_convert(function, *tensors)

    def backward(inputs: tuple, gradients: Any) -> tuple:
        first = jax.tree.leaves(gradients)[0].ravel()[0]
        zero = jnp.where(jnp.isnan(first), first, 0)
        inputs = [x if x.dtype == bool else x + zero.astype(x.dtype) for x in inputs]
        return jax.vjp(function, *inputs)[1](gradients)

    recomputing = jax.custom_vjp(function)
    recomputing.defvjp(lambda *inputs: (function(*inputs), inputs), backward)
    return recomputing(*tensors, *weights)


def dropout(x: Tensor, rate: float, seed: Tensor | None) -> Tensor:
    """Set a fraction `rate` of the elements to zero and multiply the others by 1 / (1 - rate).

    Unlike `keras.random.dropout` it drops the same elements for the same seed.

    Args:
        x: any tensor.
        rate: at least 0, below 1.
        seed: (2,), two integers drawn from a `keras.random.SeedGenerator`; None, on PyTorch only,
            for its global generator.
    """
    # On TensorFlow and JAX 16 random bits decide on an element: 32, or floats, take longer.
    dropped = min(round(rate * 2**16), 2**16 - 1)
    scale = 1 / (1 - dropped / 2**16)
    match keras.backend.backend():
        case "tensorflow":
            import tensorflow as tf

            pairs = [(tf.size(x) + 1) // 2]
            bits = tf.random.stateless_uniform(pairs, tf.cast(seed, "int32"), None, None, "uint32")
            bits = tf.reshape(tf.bitcast(bits, "uint16"), [-1])[: tf.size(x)]
            kept = tf.reshape(bits, tf.shape(x)) >= tf.constant(dropped, "uint16")
            return tf.where(kept, x * scale, tf.zeros([], x.dtype))
        case "jax":
            import jax

            bits = jax.random.bits(seed, ((x.size + 1) // 2,), "uint32")
            bits = jax.lax.bitcast_convert_type(bits, "uint16").reshape(-1)[: x.size]
            return jax.numpy.where(bits.reshape(x.shape) >= dropped, x * scale, 0)
        case "torch":
            import torch

            if seed is None:
                return torch.nn.functional.dropout(x, rate)
            generator = torch.Generator(x.device).manual_seed(int(seed[0] + seed[1]))
            kept = torch.empty_like(x).bernoulli_(1 - rate, generator=generator)
            return x * kept / (1 - rate)


class SeedsOfRuns(keras.random.SeedGenerator):
    """Seeds that the host gives to a function compiled by JAX, new ones each time that it runs.

    Where it is traced, the state of Keras' global generator would be a constant, which Keras
    refuses. Other engines read that state in each run.
    """

    def __init__(self) -> None:  # without a variable: it may be made where a function is traced
        self._first = random.getrandbits(32)  # by keras.utils.set_random_seed, like Keras' own
        self._runs = itertools.count()

    def next(self, ordered: bool = True) -> Tensor:
        """Return (2,), two integers that no other run has."""
        import jax
        from jax.experimental import io_callback

        def draw() -> np.ndarray:
            return np.array([self._first, next(self._runs) % 2**32], "uint32")

        return io_callback(draw, jax.ShapeDtypeStruct((2,), "uint32"))


def seed_of_run() -> keras.random.SeedGenerator | None:
    """Return the `seed` of random numbers for which the caller names none; None is Keras' own."""
    match keras.backend.backend():
        case "jax":
            from jax.core import Tracer

            return SeedsOfRuns() if isinstance(ops.zeros(()), Tracer) else None
        case _:
            return None


def written(x: Tensor, axis: int, start: Tensor, new: Tensor) -> Tensor:
    """Return a tensor in which `new` stands from an index of one axis on.

    Args:
        x: any tensor.
        axis: one of its axes; the others are as long in `new`.
        start: (), where the first entry of `new` goes.
        new: fits from there on.
    """
    if keras.backend.backend() == "torch":  # where Keras makes coordinates of all entries
        import torch

        indices = start + torch.arange(new.shape[axis], device=x.device)
        return torch.index_copy(x, axis, indices, new.to(x.dtype))
    return ops.slice_update(x, [start if i == axis else 0 for i in range(len(x.shape))], new)


def products_with_rows(x: Tensor, table: Tensor) -> Tensor:
    """Multiply x (..., size) by each row of a table (n, size): (..., n).

    For 2 to 16 vectors, as in a step of decoding, TensorFlow without oneDNN takes 2 to 9 times as
    long on a CPU with the table as the second factor, which it rearranges, as with the table as the
    first one; with oneDNN both take the same.
    """
    *shape, size = x.shape
    few = None not in shape and 2 <= math.prod(shape) <= 16
    if few and keras.backend.backend() == "tensorflow":
        products = ops.matmul(table, ops.transpose(ops.reshape(x, (-1, size))))
        return ops.reshape(ops.transpose(products), (*shape, table.shape[0]))
    return ops.matmul(x, ops.transpose(table))


def entries(x: Tensor) -> Callable[[Any], Tensor]:
    """Return a function from an index to x[index], for a loop that is differentiated.

    The gradient of each x[index] is as large as x on TensorFlow and PyTorch, so that a loop over x
    takes time that grows with the square of its length.
    """
    match keras.backend.backend():
        case "tensorflow":
            import tensorflow as tf

            x = tf.convert_to_tensor(x)
            array = tf.TensorArray(x.dtype, tf.shape(x)[0], element_shape=x.shape[1:])
            return array.unstack(x).read
        case "torch":
            return x.unbind(0).__getitem__
        case _:
            return x.__getitem__


# ------------------------------------------------------------------------------------- optimization


def is_sparse(gradient: Any) -> bool:
    """Tell whether a gradient consists of rows of an embedding, as there are on TensorFlow."""
    return keras.backend.backend() == "tensorflow" and hasattr(gradient, "indices")


def adam_in_place(
    variable: Any,
    momentum: keras.Variable,
    velocity: keras.Variable,
    gradient: Tensor,
    rate: Tensor,
    betas: tuple[float, float],
    epsilon: Tensor,
) -> bool:
    """Take a step of Adam in place where the backend can, and return whether it was taken.

    TensorFlow has a fused kernel for it, PyTorch has in-place operations. With `keras.ops` each
    operation would write its result to new memory; together they took a tenth of the time of
    training BERT. JAX compiles them into one pass.

    Args:
        variable: the trained variable, of Keras or a bare one of TensorFlow.
        momentum: the first moment, in the shape of the variable like the next two.
        velocity: the second moment.
        gradient: the gradient.
        rate: the learning rate with bias correction of the moments; a scalar.
        betas: the decay rates of the two moments.
        epsilon: added to the square root of the second moment; a scalar.
    """
    weights = variable.value if isinstance(variable, keras.Variable) else variable
    match keras.backend.backend():
        case "tensorflow" if variable.dtype in ("float32", "float64"):  # elsewhere 0.999 is 1
            import tensorflow as tf

            tf.raw_ops.ResourceApplyAdam(
                var=weights.handle,
                m=momentum.value.handle,
                v=velocity.value.handle,
                beta1_power=0.0,
                beta2_power=0.0,
                lr=rate,
                beta1=betas[0],
                beta2=betas[1],
                epsilon=epsilon,
                grad=gradient,
            )
        case "torch":
            import torch

            with torch.no_grad():
                momentum.value.lerp_(gradient, 1 - betas[0])
                velocity.value.mul_(betas[1]).addcmul_(gradient, gradient, value=1 - betas[1])
                divisor = velocity.value.sqrt().add_(epsilon).div_(rate)
                weights.addcdiv_(momentum.value, divisor, value=-1)
        case _:
            return False
    return True


# -------------------------------------------------------------------------------------------- other


def compiled_without_weights(weights: Sequence[Any], x: Tensor) -> bool:
    """Tell on JAX whether `x` belongs to a compiled function in which the weights are constants.

    Such a function would keep the values of the time when it was compiled. While `fit` runs, the
    weights have no values at all. Other backends read weights whenever they are used.
    """
    if keras.backend.backend() != "jax":
        return False
    import jax

    def constant(weight: Any) -> bool:
        try:
            return not isinstance(weight.value, jax.core.Tracer)
        except TypeError:  # Keras has removed the value, and the initializer too.
            return True

    return isinstance(x, jax.core.Tracer) and any(map(constant, weights))
