"""Gradients where a model needs them: inside a training step, and at a layer, for attribution."""

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

# === What a layer gives ===


def find_layer(model: keras.Model, name: str) -> keras.Layer:
    """Find a layer by name in a model, or in a model within it.

    Raises:
        ValueError: there is none of that name.
    """
    found = [layer for layer in layers_of(model) if layer.name == name]
    if not found:
        tables = [layer.name for layer in layers_of(model) if has_table(layer)]
        names = [layer.name for layer in layers_of(model)]
        raise ValueError(
            f"the model {model.name!r} has no layer {name!r}. Those with a table of vectors are "
            f"{tables}, all of them are {names}; name one of these"
        )
    return found[0]


def layers_of(model: keras.Model) -> Iterator[keras.Layer]:
    """The layers of a model, and those of models within it."""
    for layer in model.layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from layers_of(layer)


def has_table(layer: keras.Layer) -> bool:
    """Whether a layer looks vectors up in a table of its own."""
    return isinstance(getattr(layer, "embeddings", None), keras.Variable)


class Tapped:
    """The `call` of a layer, while what it gives is replaced by `taps`, one for each thread.

    TensorFlow traces the replicas of a strategy in threads, which take turns.
    """

    def __init__(self, layer: keras.Layer) -> None:
        self.name, self.call = layer.name, layer.call
        self.taps: dict[int, Callable[[Tensor], Tensor]] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the layer."""
        output = self.call(*args, **kwargs)
        tap = self.taps.get(get_ident())
        if tap is None or kwargs.get("mode") == "dense":
            return output
        if keras.tree.is_nested(output):
            raise ValueError(
                f"the layer {self.name!r} gives {len(keras.tree.flatten(output))} tensors; "
                "gradients are taken at a layer that gives one"
            )
        replaced = tap(output)
        # Keras sets the mask of a layer later, but that of a model within a model is set by now.
        mask = keras_private.mask_of(output)
        if mask is not None:
            keras_private.set_mask(replaced, mask)
        return replaced


@contextmanager
def tapped(layer: keras.Layer, tap: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let `tap` replace what a layer gives, each time that it is called within a `with` block.

    Only this object is changed, and only meanwhile. An embedding that serves as the output layer
    too (`mode="dense"`) gives no vectors there and is not tapped.

    Args:
        layer: the layer.
        tap: takes what the layer gives, a tensor; returns one like it.

    Raises:
        ValueError: while the layer is called, if it gives more than one tensor.
    """
    attributes, thread = vars(layer), get_ident()
    if not isinstance(attributes.get("call"), Tapped):
        attributes["call"] = Tapped(layer)  # not by setattr, which Keras watches
    taps = attributes["call"].taps
    taps[thread] = tap
    try:
        yield
    finally:
        del taps[thread]
        if not taps:
            del attributes["call"]


def outputs_of(layer: keras.Layer, run: Callable[[], Any]) -> list[Tensor]:
    """What a layer gives at each of its calls while `run` runs.

    Where a graph is compiled, all of `run` that comes after the layer is dropped from it.

    Raises:
        ValueError: the layer is not called.
    """
    outputs = []

    def keep(output: Tensor) -> Tensor:
        outputs.append(output)
        return output

    with tapped(layer, keep):
        run()
    if not outputs:
        raise ValueError(
            f"the layer {layer.name!r} takes no part in what the model computes from its inputs"
        )
    return outputs


# === Attribution ===


Output = int | Callable[[Any], Tensor] | None


def gradients_of(
    model: keras.Model, output: Output = None, at: str = "Embedding-Token"
) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Compile the gradient of a model's output with respect to what one of its layers gives.

    Args:
        model: a model, which runs as in inference.
        output: which number of a sample is differentiated: an index of the last axis of an output
            (batch, classes); a function from the model's outputs to (batch,); or None, for indices
            that are given with the inputs.
        at: name of the layer, one that gives a tensor whose first axis is the batch.

    Returns:
        A function of the inputs, as `predict` takes them, and, if `output` is None, of one index
        for each sample. It returns the numbers (batch,) and their gradients, of the shape of what
        the layer gives, such as (batch, length, size): NumPy arrays, float32. It is compiled for
        each new shape on JAX, and for all of them on TensorFlow.

    Raises:
        ValueError: there is no such layer; or, when the function is called, the layer is called
            more than once, or `output` does not fit the model.
    """
    path = gradients_on_path(model, output, at)

    def gradients(inputs: Any, indices: Any = None) -> tuple[np.ndarray, np.ndarray]:
        inputs, indices = samples(model, output, inputs, indices)
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

    (v − v₀) · ∫₀¹ ∂F(v₀ + α(v − v₀)) / ∂v dα, for what the layer gives, v, and a baseline v₀; the
    integral by the midpoints of equal intervals. Summed over all but the batch, it is F(v) − F(v₀)
    up to the error of the integral, which falls with the square of `steps`.

    Args:
        model: see `gradients_of`.
        output: see `gradients_of`.
        at: see `gradients_of`.
        steps: number of points on the path, 20 by default. All points of all samples go through
            the model as one batch.
        baseline: what the layer gives where there is nothing to see, 0 by default; it is broadcast
            to the output of the layer.

    Returns:
        A function like that of `gradients_of`, which returns the numbers (batch,) and the
        attributions, of the shape of what the layer gives.

    Raises:
        ValueError: `steps` is not a positive integer, and what `gradients_of` raises.
    """
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps is the number of points on the path, from 1, not {steps!r}")
    path = gradients_on_path(model, output, at)
    baseline = np.asarray(baseline, "float32")
    # The last point gives the number itself and takes no part in the mean.
    points = np.append((np.arange(steps) + 0.5) / steps, 1).astype("float32")

    def attributions(inputs: Any, indices: Any = None) -> tuple[np.ndarray, np.ndarray]:
        inputs, indices = samples(model, output, inputs, indices)
        rows = keras.tree.map_structure(lambda x: np.repeat(x, len(points), axis=0), inputs)
        n_samples = len(indices)
        outputs = path(rows, np.repeat(indices, len(points)), np.tile(points, n_samples), baseline)
        values, gradients, vectors = (
            np.reshape(x, (n_samples, len(points), *x.shape[1:]))
            for x in map(ops.convert_to_numpy, outputs)
        )
        means = gradients[:, :-1].mean(axis=1)
        return values[:, -1], (vectors[:, -1] - baseline) * means

    return attributions


ZERO = np.zeros((), "float32")


def samples(model: keras.Model, output: Output, inputs: Any, indices: Any) -> tuple[Any, Any]:
    """Check what is given for a batch, and make arrays of it; indices are 0 if not needed."""
    if hasattr(model, "as_inputs"):  # a Model of ours takes nested lists
        inputs = model.as_inputs(inputs)
    inputs = keras.tree.map_structure(ops.convert_to_numpy, inputs)
    n_samples = len(keras.tree.flatten(inputs)[0])
    if (indices is None) != (output is not None):
        raise ValueError(
            "the index of the output is given once: as output= beforehand, or for each sample "
            f"beside the inputs; here output={output!r} and the indices are {indices!r}"
        )
    indices = np.zeros(n_samples, "int32") if indices is None else np.asarray(indices, "int32")
    if indices.shape != (n_samples,):
        raise ValueError(
            f"give one index for each of the {n_samples} samples, not an array of the shape "
            f"{indices.shape}"
        )
    return inputs, indices


def gradients_on_path(model: keras.Model, output: Output, at: str) -> Callable:
    """Compile gradients at points between a baseline and what a layer gives.

    Returns:
        A function of inputs, indices (batch,), points (batch,) between 0, the baseline, and 1, and
        the baseline. It returns the numbers (batch,), their gradients, and what the layer gives.
    """
    layer = find_layer(model, at)

    def run(inputs: Any, indices: Tensor, points: Tensor, baseline: Tensor) -> tuple:
        outputs = outputs_of(layer, lambda: model(inputs, training=False))
        if len(outputs) > 1:
            raise ValueError(
                f"the layer {at!r} is called {len(outputs)} times in the model {model.name!r}, so "
                "that it is not clear at which call to take gradients; name a layer after it"
            )
        vectors, baseline = (ops.cast(each, "float32") for each in (outputs[0], baseline))
        points = ops.reshape(ops.cast(points, "float32"), (-1, *[1] * (len(vectors.shape) - 1)))
        moved = baseline + points * (vectors - baseline)

        def number(shifts: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
            (shift,) = shifts
            with tapped(layer, lambda x: ops.cast(moved + shift, x.dtype)):
                numbers = picked(model(inputs, training=False), output, indices)
            return ops.sum(numbers), numbers

        _, numbers, (gradients,) = value_and_gradients(number, [ops.zeros_like(vectors)])
        return numbers, gradients, vectors

    return compiled(run, model, any_shape=True)


def picked(outputs: Any, output: Output, indices: Tensor) -> Tensor:
    """The number of each sample that `gradients_of` differentiates, (batch,), float32."""
    if callable(output):
        numbers = output(outputs)
    elif keras.tree.is_nested(outputs) or len(outputs.shape) != 2:
        shapes = keras.tree.map_structure(lambda x: tuple(x.shape), outputs)
        raise ValueError(
            f"an index picks from an output (batch, classes), but the model gives {shapes}; pass "
            "output=, a function from what the model gives to (batch,)"
        )
    elif output is not None:
        numbers = outputs[:, output]
    else:
        numbers = ops.take_along_axis(outputs, ops.expand_dims(indices, 1), axis=1)[:, 0]
    if len(numbers.shape) != 1:
        raise ValueError(
            f"output= returned the shape {tuple(numbers.shape)}; it has to return one number for "
            "each sample, (batch,)"
        )
    return ops.cast(numbers, "float32")
