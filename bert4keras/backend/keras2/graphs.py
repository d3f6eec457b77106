"""Functions and gradients of symbolic tensors: `K.function`, `K.gradients` and `K.placeholder`."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from bert4keras.backend.gradients import pure_scope, value_and_gradients
from bert4keras.backend.tensors import Tensor
from bert4keras.keras_private import mask_of, set_mask


def placeholder(
    shape: Sequence | None = None,
    ndim: int | None = None,
    dtype: str | None = None,
    sparse: bool = False,
    name: str | None = None,
) -> keras.KerasTensor:
    """Create a symbolic tensor that is fed: an input of a model.

    Args:
        shape: the sizes, the batch included; None where they are unknown.
        ndim: the number of axes, if no shape is given.
        dtype: the type, by default the default float type.
        sparse: whether it is sparse.
        name: its name.

    Raises:
        ValueError: neither a shape nor a number of axes is given.
    """
    if shape is None and ndim is None:
        raise ValueError("K.placeholder needs shape=, or ndim= if no size is known")
    batch_shape = tuple(shape) if shape is not None else (None,) * ndim
    return keras.Input(batch_shape=batch_shape, dtype=dtype, sparse=sparse or None, name=name)


class Function:
    """Function that computes the values of symbolic tensors.

    Args:
        inputs: the tensors that are fed; in place of one, a number (which `K.learning_phase()` was)
            stands for the argument that says whether layers run as in training.
        outputs: the tensors that are computed, or a list of them.

    Raises:
        TypeError: an input or output is not a symbolic tensor, such as a tensor within a layer.
    """

    def __init__(self, inputs: Sequence[Any], outputs: Any):
        for each in keras.tree.flatten([inputs, outputs]):
            if not isinstance(each, keras.KerasTensor | int | float):
                raise TypeError(
                    f"K.function takes symbolic tensors, such as model.inputs, not {each!r}: write "
                    "a plain function of tensors instead"
                )
        self.fed = [isinstance(each, keras.KerasTensor) for each in inputs]
        tensors = [each for each, fed in zip(inputs, self.fed, strict=True) if fed]
        self.several = isinstance(outputs, list | tuple)
        self.model = keras.Model(tensors, list(outputs) if self.several else [outputs])

    def __call__(self, values: Sequence[Any]) -> Any:
        """Compute the outputs.

        Args:
            values: one for each input; trailing values for numbers may be left out.

        Returns:
            A NumPy array for each output, in a list if the outputs were given as a list.
        """
        pairs = list(zip(values, self.fed, strict=False))
        x = [np.asarray(value) for value, fed in pairs if fed]
        training = any(bool(value) for value, fed in pairs if not fed)
        outputs = self.model(x, training=True) if training else self.model.predict_on_batch(x)
        arrays = [ops.convert_to_numpy(each) for each in keras.tree.flatten(outputs)]
        return arrays if self.several else arrays[0]


def function(
    inputs: Sequence[Any], outputs: Any, updates: Sequence | None = None, name: str | None = None
) -> Function:
    """Create a `Function` that computes the values of symbolic tensors.

    Raises:
        ValueError: updates are given, which belong in a training step.
    """
    if updates:
        raise ValueError(
            "K.function takes no updates: train with a Model and an optimizer, or assign() in a "
            "plain function"
        )
    return Function(inputs, outputs)


class Gradients(keras.Operation):
    """Differentiate the sum of a symbolic tensor.

    Args:
        compute: computes the tensor from the list of tensors with respect to which it is
            differentiated, followed by all others on which it depends.
        variables: the weights with respect to which it is differentiated.
        n_tensors: the number of tensors with respect to which it is differentiated.
    """

    def __init__(self, compute: Callable, variables: Sequence[keras.Variable], n_tensors: int):
        super().__init__()
        self.compute = compute
        self.variables = list(variables)
        self.n_tensors = n_tensors

    def call(self, *tensors: Tensor) -> list[Tensor]:
        """Compute the gradients."""
        masks = [mask_of(each) for each in tensors]
        others = tensors[self.n_tensors :]
        at = [ops.convert_to_tensor(each) for each in [*tensors[: self.n_tensors], *self.variables]]

        def total(values: list[Tensor]) -> tuple[Tensor, None]:
            values, weights = values[: self.n_tensors], values[self.n_tensors :]
            inputs = [with_mask(*each) for each in zip([*values, *others], masks, strict=True)]
            with pure_scope(zip(self.variables, weights, strict=True)):
                return ops.sum(self.compute(inputs)), None

        _, _, gradients = value_and_gradients(total, at)
        return [ops.zeros_like(x) if g is None else g for x, g in zip(at, gradients, strict=True)]

    def compute_output_spec(self, *tensors: keras.KerasTensor) -> list[keras.KerasTensor]:
        """Return symbolic tensors like those with respect to which it is differentiated."""
        at = [*tensors[: self.n_tensors], *self.variables]
        return [keras.KerasTensor(x.shape, dtype=x.dtype) for x in at]


def with_mask(tensor: Tensor, mask: Tensor | None) -> Tensor:
    """Return a tensor that carries a mask, if there is one."""
    if mask is not None:
        tensor = ops.copy(tensor)
        set_mask(tensor, mask)
    return tensor


def gradients(loss: Any, variables: Any) -> list[keras.KerasTensor]:
    """Differentiate symbolic tensors with respect to others that they depend on.

    Args:
        loss: a symbolic tensor, or a list of them; the sum of all their elements is differentiated.
        variables: symbolic tensors, such as the output of a layer of the same model, or weights.

    Returns:
        A symbolic tensor like each of `variables`: an output for a model or `K.function`.

    Raises:
        TypeError: an argument is not a symbolic tensor, such as a tensor within a layer or a loss.
    """
    losses = list(loss) if isinstance(loss, list | tuple) else [loss]
    variables = list(variables) if isinstance(variables, list | tuple) else [variables]
    tensors = [x for x in variables if isinstance(x, keras.KerasTensor)]
    weights = [x for x in variables if isinstance(x, keras.Variable)]
    if len(tensors) + len(weights) < len(variables) or not all(
        isinstance(x, keras.KerasTensor) for x in losses
    ):
        raise TypeError(
            "K.gradients takes symbolic tensors, such as model.output, not the tensors within a "
            "layer or a loss: use compile(step=…) of bert4keras.models.Model for adversarial "
            "training and gradient penalties, and bert4keras.training.gradients_of for attribution"
        )
    sources = {id(x): x for each in losses for x in keras.utils.get_source_inputs(each)}
    others = [x for key, x in sources.items() if key not in set(map(id, tensors))]
    compute = keras.Function([*tensors, *others], sum_of(losses))
    results = iter(Gradients(compute, weights, len(tensors))(*tensors, *others))
    by_id = dict(zip(map(id, [*tensors, *weights]), results, strict=True))
    return [by_id[id(x)] for x in variables]


def sum_of(tensors: Sequence[Tensor]) -> Tensor:
    """Sum all elements of several tensors."""
    total, *rest = [ops.sum(each) for each in tensors]
    for each in rest:
        total = total + each
    return total
