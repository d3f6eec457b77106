"""How many bytes the operations of a function write, counted and not timed, on every backend."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops
from losses import gradients


def bytes_written(function: Callable, values: list[np.ndarray], trips: int = 1) -> int:
    """Bytes of all results of the operations of a scalar and of its gradients by the values.

    Args:
        function: takes tensors, returns a scalar.
        values: arrays of floats.
        trips: how often the body of a loop runs, on TensorFlow.
    """
    match keras.backend.backend():
        case "tensorflow":
            import tensorflow as tf

            @tf.function(autograph=False)
            def traced(values):
                with tf.GradientTape() as tape:
                    tape.watch(values)
                    total = function(*values)
                return tape.gradient(total, values)

            tensors = [tf.constant(v) for v in values]
            return sum(written_in_graph(traced.get_concrete_function(tensors).graph, trips))
        case "jax":
            import jax

            jaxpr = jax.make_jaxpr(jax.grad(function, tuple(range(len(values)))))(*values)
            return sum(written_in_jaxpr(jaxpr.jaxpr))
        case _:
            return written_by_torch(function, values)


def written_in_graph(graph: Any, trips: int) -> Iterator[int]:
    """The bytes that each operation of a graph writes, as far as shapes are known."""
    from tensorflow.python.framework.function_def_to_graph import function_def_to_graph

    for operation in graph.get_operations():
        if operation.type in ("While", "StatelessWhile"):
            definition = graph._get_function(operation.get_attr("body").name).cached_definition
            shapes = [x.shape for x in operation.inputs]
            yield trips * sum(written_in_graph(function_def_to_graph(definition, shapes), trips))
        elif operation.type not in ("Placeholder", "Identity", "NoOp"):
            known = [x for x in operation.outputs if x.shape.is_fully_defined()]
            yield sum(math.prod(x.shape) * max(x.dtype.size, 0) for x in known)


def written_in_jaxpr(jaxpr: Any) -> Iterator[int]:
    """The bytes that each operation of a jaxpr writes."""
    for equation in jaxpr.eqns:
        inner = list(jaxprs_of(equation.params.values()))
        trips = equation.params.get("length", 1)
        yield from (trips * size for each in inner for size in written_in_jaxpr(each))
        if not inner:
            results = [x.aval for x in equation.outvars]
            yield sum(math.prod(x.shape) * x.dtype.itemsize for x in results)


def jaxprs_of(values: Iterable) -> Iterator[Any]:
    """The jaxprs among the parameters of an operation."""
    for value in values:
        if isinstance(value, list | tuple):
            yield from jaxprs_of(value)
        elif hasattr(value, "jaxpr") or hasattr(value, "eqns"):
            yield getattr(value, "jaxpr", value)


def written_by_torch(function: Callable, values: list[np.ndarray]) -> int:
    """The bytes of all results that are no views of an operand."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counter(TorchDispatchMode):
        total = 0

        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            results = operation(*args, **(kwargs or {}))
            given = {address(x) for x in keras.tree.flatten((args, kwargs))}
            for x in keras.tree.flatten(results):
                if isinstance(x, torch.Tensor) and address(x) not in given:
                    self.total += x.nbytes
            return results

    def address(x):
        return x.untyped_storage().data_ptr() if isinstance(x, torch.Tensor) else None

    with Counter() as counter:
        gradients(function, [ops.convert_to_tensor(v) for v in values])
    return counter.total
