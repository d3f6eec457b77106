"""Gradients at the output of a layer: within training steps, and for attribution."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import keras
import numpy as np
from keras import ops

from bert4keras import keras_private
from bert4keras.backend.engines import compiled
from bert4keras.backend.gradients import value_and_gradients
from bert4keras.backend.tensors import Tensor

# === Outputs of layers ===


def find_layer(model: keras.Model, name: str) -> keras.Layer:
    """Find a layer by name in a model, or in a model nested in it.

    Raises:
        ValueError: there is no layer of that name.
    """
    found = [layer for layer in layers_of(model) if layer.name == name]
    if not found:
        tables = [layer.name for layer in layers_of(model) if has_table(layer)]
        names = [layer.name for layer in layers_of(model)]
        raise ValueError(
            f"the model {model.name!r} has no layer {name!r}: name one of its embeddings {tables} "
            f"or another of its layers {names}"
        )
    return found[0]


def layers_of(model: keras.Model) -> Iterator[keras.Layer]:
    """Yield the layers of a model, and those of models nested in it."""
    for layer in model.layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from layers_of(layer)


def has_table(layer: keras.Layer) -> bool:
    """Tell whether a layer has an embedding table."""
    return isinstance(getattr(layer, "embeddings", None), keras.Variable)


class HookedCall:
    """The `call` of a layer, whose output is replaced by forward hooks, one for each thread.

    TensorFlow traces the replicas of a strategy in threads, which take turns.
    """

    def __init__(self, layer: keras.Layer) -> None:
        self.name, self.call = layer.name, layer.call
        self.hooks: dict[int, Callable[[Tensor], Tensor]] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the layer."""
        output = self.call(*args, **kwargs)
        hook = self.hooks.get(get_ident())
        if hook is None or kwargs.get("mode") == "dense":
            return output
        if keras.tree.is_nested(output):
            raise ValueError(
                f"the layer {self.name!r} has {len(keras.tree.flatten(output))} output tensors: "
                "name a layer with a single one"
            )
        replaced = hook(output)
        # Keras sets the mask of a layer later, but that of a nested model is already set.
        mask = keras_private.mask_of(output)
        if mask is not None:
            keras_private.set_mask(replaced, mask)
        return replaced


@contextmanager
def forward_hook(layer: keras.Layer, hook: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let a hook replace the output of a layer at each of its calls within a `with` block.

    Only this layer object is changed, and only within the block. Calls of an embedding as the
    output projection (`mode="dense"`) are not hooked.

    Args:
        layer: the layer.
        hook: takes the output of the layer, a tensor, and returns a tensor like it.

    Raises:
        ValueError: while the layer is called, if it has more than one output tensor.
    """
    attributes, thread = vars(layer), get_ident()
    if not isinstance(attributes.get("call"), HookedCall):
        attributes["call"] = HookedCall(layer)  # not by setattr, which Keras tracks
    hooks = attributes["call"].hooks
    hooks[thread] = hook
    try:
        yield
    finally:
        del hooks[thread]
        if not hooks:
            del attributes["call"]


def outputs_of(layer: keras.Layer, run: Callable[[], Any]) -> list[Tensor]:
    """Return the outputs of a layer at each of its calls while `run` runs.

    In a compiled graph, everything in `run` after the layer is pruned.

    Raises:
        ValueError: the layer is not called.
    """
    outputs = []

    def keep(output: Tensor) -> Tensor:
        outputs.append(output)
        return output

    with forward_hook(layer, keep):
        run()
    if not outputs:
        raise ValueError(
            f"the layer {layer.name!r} is not called when the model runs: name a layer on which "
            "its outputs depend"
        )
    return outputs


# === Attribution ===


Output = int | Callable[[Any], Tensor] | None


def gradients_of(
    model: keras.Model, output: Output = None, at: str = "Embedding-Token"
) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Compile the gradient of a model's output with respect to the output of one of its layers.

    Args:
        model: a model, which is run in inference mode.
        output: which value of a sample is differentiated: an index of the last axis of an output
            (batch, classes); a function from the model's outputs to (batch,); or None, for indices
            that are given with the inputs.
        at: name of the layer, whose output is a single tensor with the batch as its first axis.

    Returns:
        A function of the inputs, as `predict` takes them, and, if `output` is None, of one index
        for each sample. It returns the values (batch,) and their gradients, in the shape of the
        output of the layer, such as (batch, length, size): NumPy arrays, float32. It is compiled
        for each new shape on JAX, and once for all shapes on TensorFlow.

    Raises:
        ValueError: there is no such layer; or, when the function is called, the layer is called
            more than once, or `output` does not fit the model.
    """
    path = gradients_on_path(model, output, at)

    def gradients(inputs: Any, indices: Any = None) -> tuple[np.ndarray, np.ndarray]:
        inputs, indices = prepare_samples(model, output, inputs, indices)
        values, gradients, _ = path(inputs, indices, np.ones(len(indices), "float32"), ZERO)
        return ops.convert_to_numpy(values), ops.convert_to_numpy(gradients)

    return gradients


def integrated_gradients(
    model: keras.Model,
    output: Output = None,
    at: str = "Embedding-Token",
    steps: int = 20,
    baseline: np.ndarray | float = 0.0,
) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Compile integrated gradients at a layer (Sundararajan et al., 2017).

    (v − v₀) · ∫₀¹ ∂F(v₀ + α(v − v₀)) / ∂v dα, for the output v of the layer and a baseline v₀; the
    integral is approximated by the midpoints of equal intervals. Its sum over all axes but the
    batch is F(v) − F(v₀) up to the error of that, which falls with the square of `steps`.

    Args:
        model: as in `gradients_of`.
        output: as in `gradients_of`.
        at: as in `gradients_of`.
        steps: number of points on the path, 20 by default. All points of all samples go through
            the model as one batch.
        baseline: the output of the layer for an input without information, 0 by default; it is
            broadcast to the output of the layer.

    Returns:
        A function like that of `gradients_of`, which returns the values (batch,) and the
        attributions, in the shape of the output of the layer.

    Raises:
        ValueError: `steps` is not a positive integer, and what `gradients_of` raises.
    """
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps, the number of points on the path, is at least 1, not {steps!r}")
    path = gradients_on_path(model, output, at)
    baseline = np.asarray(baseline, "float32")
    # The last point gives the value itself and is left out of the mean.
    points = np.append((np.arange(steps) + 0.5) / steps, 1).astype("float32")

    def attributions(inputs: Any, indices: Any = None) -> tuple[np.ndarray, np.ndarray]:
        inputs, indices = prepare_samples(model, output, inputs, indices)
        repeated = keras.tree.map_structure(lambda x: np.repeat(x, len(points), axis=0), inputs)
        n_samples = len(indices)
        repeated_indices = np.repeat(indices, len(points))
        outputs = path(repeated, repeated_indices, np.tile(points, n_samples), baseline)
        values, gradients, vectors = (
            np.reshape(x, (n_samples, len(points), *x.shape[1:]))
            for x in map(ops.convert_to_numpy, outputs)
        )
        means = gradients[:, :-1].mean(axis=1)
        return values[:, -1], (vectors[:, -1] - baseline) * means

    return attributions


ZERO = np.zeros((), "float32")


def prepare_samples(
    model: keras.Model, output: Output, inputs: Any, indices: Any
) -> tuple[Any, Any]:
    """Check the inputs and indices of a batch, and convert them; indices default to 0."""
    if hasattr(model, "as_inputs"):  # a Model of this library takes nested lists
        inputs = model.as_inputs(inputs)
    inputs = keras.tree.map_structure(ops.convert_to_numpy, inputs)
    n_samples = len(keras.tree.flatten(inputs)[0])
    if (indices is None) != (output is not None):
        raise ValueError(
            "the index of the output is given once, as output= beforehand or for each sample with "
            f"the inputs, but output={output!r} and the indices are {indices!r}: give one of them"
        )
    indices = np.zeros(n_samples, "int32") if indices is None else np.asarray(indices, "int32")
    if indices.shape != (n_samples,):
        raise ValueError(
            f"the indices have the shape {indices.shape}: give one for each of the {n_samples} "
            "samples"
        )
    return inputs, indices


def gradients_on_path(model: keras.Model, output: Output, at: str) -> Callable:
    """Compile gradients at points between a baseline and the output of a layer.

    Returns:
        A function of inputs, indices (batch,), points (batch,) from 0 (the baseline) to 1 (the
        output), and the baseline. It returns the values (batch,), their gradients, and the outputs
        of the layer.
    """
    layer = find_layer(model, at)

    def run(inputs: Any, indices: Tensor, points: Tensor, baseline: Tensor) -> tuple:
        outputs = outputs_of(layer, lambda: model(inputs, training=False))
        if len(outputs) > 1:
            raise ValueError(
                f"the layer {at!r} is called {len(outputs)} times in the model {model.name!r}, so "
                "that it is not clear at which call to take gradients: name a layer after it"
            )
        vectors, baseline = (ops.cast(each, "float32") for each in (outputs[0], baseline))
        points = ops.reshape(ops.cast(points, "float32"), (-1, *[1] * (len(vectors.shape) - 1)))
        interpolated = baseline + points * (vectors - baseline)

        def total(shifts: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
            (shift,) = shifts
            with forward_hook(layer, lambda x: ops.cast(interpolated + shift, x.dtype)):
                values = selected_values(model(inputs, training=False), output, indices)
            return ops.sum(values), values

        _, values, (gradients,) = value_and_gradients(total, [ops.zeros_like(vectors)])
        return values, gradients, vectors

    return compiled(run, model, any_shape=True)


def selected_values(outputs: Any, output: Output, indices: Tensor) -> Tensor:
    """Select the value of each sample that `gradients_of` differentiates, (batch,), float32."""
    if callable(output):
        values = output(outputs)
    elif keras.tree.is_nested(outputs) or len(outputs.shape) != 2:
        shapes = keras.tree.map_structure(lambda x: tuple(x.shape), outputs)
        raise ValueError(
            f"an index selects from an output (batch, classes), but the model has {shapes}: pass "
            "output=, a function from the outputs of the model to (batch,)"
        )
    elif output is not None:
        values = outputs[:, output]
    else:
        values = ops.take_along_axis(outputs, ops.expand_dims(indices, 1), axis=1)[:, 0]
    if len(values.shape) != 1:
        raise ValueError(
            f"output= returned the shape {tuple(values.shape)}: let it return one value for each "
            "sample, (batch,)"
        )
    return ops.cast(values, "float32")
