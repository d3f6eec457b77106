"""Steps that are repeated many times on PyTorch, recorded once and replayed.

PyTorch computes operation by operation, and for a single token the time goes into what Keras and
Python do around each of them. A recorded step is the bare list of the operations.
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from bert4keras.backend.engines import TRACING, Changes, present_values, shapes_of
from bert4keras.backend.tensors import Tensor

PATIENCE = 64
"""Calls of the same shapes before a step is recorded, which takes as long as about 50 of them."""

VIEW = "view_of_a_weight"
"""How the names of tensors in a recording begin that change with the weights."""

TOLERANCE = 1e-4
"""Largest difference between what a step and its recording compute, absolute and relative."""


def replayed(function: Callable, model: keras.Model) -> Callable:
    """Return a function that computes the same, faster after many calls on PyTorch.

    Other engines compile the loop in which the step stands, and get the function itself.

    Args:
        function: a step of inference with `model`. Like one that is compiled it takes and returns
            nested structures of tensors and has no effects; it may not decide by their values.
        model: the built model whose variables the function reads; their values may change.
    """
    return Replayed(function, model) if keras.backend.backend() == "torch" else function


class Replayed:
    """A function and its recordings, one for each combination of shapes that was called often.

    A recording is used once it has computed the same as the function from other values. Where it
    cannot be made or differs, as in a layer that reads values into Python, the function goes on.

    Args:
        function, model: as in `replayed`.

    Attributes:
        recordings: the recordings by shapes; None where there can be none.
        patience: calls of the same shapes before one is made.
    """

    def __init__(self, function: Callable, model: keras.Model) -> None:
        self.function = function
        self.model = model
        self.recordings: dict[Hashable, Callable | None] = {}
        self.patience = PATIENCE
        self._present: tuple = ()
        self._calls: Counter[Hashable] = Counter()
        self._unchecked: dict[Hashable, Callable] = {}
        self._lock = threading.Lock()

    def __call__(self, *args: Any) -> Any:
        """Compute what the function does."""
        key = shapes_of(args)
        with self._lock:
            self._forget_what_is_old()
            recording = self.recordings.get(key)
        if recording is not None:
            return recording(*args)
        result = self.function(*args)
        with self._lock:
            self._prepare(key, args, result)
        return result

    def _forget_what_is_old(self) -> None:
        """Forget recordings of other layers or tensors, which they read instead of variables."""
        present = Changes.count, *map(id, present_values(self.model.variables))
        if present != self._present:
            self._present = present
            for each in (self.recordings, self._calls, self._unchecked):
                each.clear()

    def _prepare(self, key: Hashable, args: tuple, result: Any) -> None:
        """Count a call, record the function, or compare its recording, whichever is next."""
        self._calls[key] += 1
        if self._calls[key] < self.patience or key in self.recordings:
            return
        try:
            if key not in self._unchecked:
                with TRACING:
                    self._unchecked[key] = recorded(self.function, args)
                return
            recording = self._unchecked.pop(key)
            self.recordings[key] = recording if _alike(recording(*args), result) else None
        except Exception as error:
            self.recordings[key] = None
            logging.getLogger(__name__).debug("%s is not recorded: %s", self.function, error)


def recorded(function: Callable, args: Sequence) -> Callable:
    """Record the operations of PyTorch that a call consists of.

    Args:
        function: takes and returns nested structures of tensors.
        args: what it is called with once.

    Returns:
        A function of the same arguments, in the same shapes and types.
    """
    import torch
    from torch.fx.experimental.proxy_tensor import make_fx

    structures: list[Any] = []

    def flat(*leaves: Tensor) -> list[Tensor]:
        result = function(*keras.tree.pack_sequence_as(args, leaves))
        structures.append(result)
        return keras.tree.flatten(result)

    with torch.no_grad():
        graph = make_fx(flat)(*keras.tree.flatten(args))
    simplify(graph)
    graph.recompile()
    (structure,) = structures
    run = torch.no_grad()(graph.forward)

    def replay(*args: Any) -> Any:
        return keras.tree.pack_sequence_as(structure, run(*keras.tree.flatten(args)))

    return replay


def simplify(module: Any) -> None:
    """Leave out of a recording what was computed before, and what does not depend on its arguments.

    Weights change in place, so that of what is computed from them only views are constant.
    """
    graph, first = module.graph, {}
    operations = [node for node in graph.nodes if node.op in ("get_attr", "call_function")]
    schemas = [node.target._schema for node in operations if hasattr(node.target, "_schema")]
    if any(schema.is_mutable for schema in schemas):  # equal tensors could become different ones
        return
    for node in operations:
        same = first.setdefault(identity(module, node), node)
        if same is not node:
            node.replace_all_uses_with(same)
            graph.erase_node(node)
        elif node.op == "call_function" and not is_random(node.target):
            fold(module, node)
    graph.eliminate_dead_code()


def is_random(target: Any) -> bool:
    """Tell whether an operation gives other results when it is called again."""
    import torch

    return torch.Tag.nondeterministic_seeded in getattr(target, "tags", ())


def identity(module: Any, node: Any) -> Hashable:
    """Return what two nodes have in common if they stand for the same tensor."""
    if node.op == "get_attr":
        return id(getattr(module, node.target))
    return id(node) if is_random(node.target) else (node.target, str(node.args), str(node.kwargs))


def fold(module: Any, node: Any) -> None:
    """Make a node stand for its value if that is always the same."""
    import torch

    before = node.all_input_nodes
    if any(each.op != "get_attr" for each in before) or not hasattr(node.target, "_schema"):
        return
    inputs = {each: getattr(module, each.target) for each in before}
    changing = any(
        isinstance(x, torch.nn.Parameter) or each.target.startswith(VIEW)
        for each, x in inputs.items()
    )
    if changing and not node.target.is_view:
        return
    args, kwargs = torch.fx.map_arg((node.args, node.kwargs), inputs.__getitem__)
    value = node.target(*args, **kwargs)
    if torch.is_tensor(value):
        name = f"{VIEW if changing else 'constant'}_{node.name}"
        module.register_buffer(name, value, persistent=False)
        node.op, node.target, node.args, node.kwargs = "get_attr", name, (), {}


def _alike(found: Any, expected: Any) -> bool:
    """Tell whether two nests hold the same values, up to rounding."""
    return all(
        a.dtype == b.dtype and a.shape == b.shape and _close(a, b)
        for a, b in zip(keras.tree.flatten(found), keras.tree.flatten(expected), strict=True)
    )


def _close(a: Tensor, b: Tensor) -> bool:
    a, b = (ops.convert_to_numpy(ops.cast(x, "float32")) for x in (a, b))
    return np.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
