"""Checks of the data that a model is given, which find errors before a backend sees them.

Backends report errors differently: for an id beyond a table TensorFlow prints 60 lines of a graph,
PyTorch an index, and JAX computes NaN without an error. The requirements on an input are derived
from the model once: the embedding table it is looked up in, the number of positions. Those on
labels are known from the losses.

    Rules              all rules for the inputs and targets of a model
    Ids                rule: row numbers of a table
    Length             rule: texts no longer than a position table
    GatheredPositions  rule: positions within another input
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
import numpy as np

from bert4keras import keras_private
from bert4keras.layers.attention import MultiHeadAttention
from bert4keras.layers.embeddings import Embedding
from bert4keras.layers.gated_attention import GatedAttentionUnit
from bert4keras.layers.labels import LabelChain
from bert4keras.layers.pooling import GatherPositions
from bert4keras.layers.positions import (
    PositionEmbedding,
    PositionEmbeddingBase,
    TextPositionEmbedding,
)
from bert4keras.models.cache import is_positionwise
from bert4keras.training.distribution.parts import LossOfBatch
from bert4keras.training.losses import SparseLoss, SparseMultilabelCrossentropy
from bert4keras.training.methods import LayerMethod

# === Invalid values in arrays ===


def out_of_range(array: np.ndarray, size: int) -> np.ndarray | None:
    """Find the elements of an array that are not whole numbers of at least 0 and below `size`.

    Returns:
        An array of bool, or None if all elements are valid.
    """
    if array.dtype.kind in "iub":
        if array.min() >= 0 and array.max() < size:
            return None
        return (array < 0) | (array >= size)
    if array.dtype.kind != "f":
        return np.ones(array.shape, bool)
    inside = (array >= 0) & (array < size) & (array == np.rint(array))
    return None if inside.all() else ~inside


def first_invalid(array: np.ndarray, wrong: np.ndarray) -> str:
    """Describe the first invalid element of an array: its value and where it is."""
    place = tuple(int(i) for i in np.argwhere(wrong)[0])
    names = ("row", "position", *["index"] * len(place))
    where = ", ".join(f"{name} {i}" for name, i in zip(names, place, strict=False))
    return f"{array[place]} at {where}" if place else f"{array}"


# === Rules for inputs ===


@dataclass(frozen=True)
class Ids:
    """Rule for an input that is looked up in a table."""

    layer: str
    size: int
    mask_id: int | None = None

    def find_error(self, array: np.ndarray, others: Sequence) -> str | None:
        """Describe what is wrong with an array; None if nothing is."""
        wrong = out_of_range(array, self.size)
        if wrong is None:
            return None
        return (
            f"holds {first_invalid(array, wrong)}, but {self.layer!r} has {self.size} rows: give "
            f"whole numbers from 0 to {self.size - 1}, as the tokenizer and config of this model do"
        )


@dataclass(frozen=True)
class Length:
    """Rule for an input whose length is limited by a position table."""

    layer: str
    reach: int

    def find_error(self, array: np.ndarray, others: Sequence) -> str | None:
        """Describe what is wrong with an array; None if nothing is."""
        if array.ndim < 2 or array.shape[1] <= self.reach:
            return None
        return (
            f"has {array.shape[1]} positions, and {self.layer!r} has vectors for {self.reach}: cut "
            "texts with maxlen=, or build the model with hierarchical_position=True"
        )


@dataclass(frozen=True)
class GatheredPositions:
    """Rule for an input that holds positions of other inputs."""

    layer: str
    inputs: tuple[int, ...]

    def find_error(self, array: np.ndarray, others: Sequence) -> str | None:
        """Describe what is wrong with an array; None if nothing is."""
        lengths = [others[i].shape[1] for i in self.inputs if np.ndim(others[i]) > 1]
        wrong = out_of_range(array, min(lengths)) if lengths else None
        if wrong is None:
            return None
        return (
            f"holds {first_invalid(array, wrong)}, and {self.layer!r} looks for it in "
            f"{min(lengths)} positions: give whole numbers from 0 to {min(lengths) - 1}"
        )


Rule = Ids | Length | GatheredPositions

VALUE_PRESERVING = (
    "Cast",
    "ExpandDims",
    "Identity",
    "Reshape",
    "Squeeze",
    "Transpose",
    "StopGradient",
)
"""Operations of Keras that neither change nor drop values."""

LENGTH_PRESERVING = (
    keras.layers.Embedding,
    GatedAttentionUnit,
    MultiHeadAttention,
    PositionEmbeddingBase,
)
"""Layers whose first input has the same length as their output."""

LOOKUP_CALLS = (keras.layers.Embedding.call, Embedding.call)
"""Calls that look ids up in a table; a user's subclass may take something else."""


def rules_of(model: keras.Model) -> list[tuple[int, Rule]]:
    """Return the rules for the inputs of a model, each with the index of its input."""
    found: list[tuple[int, Rule]] = []
    for node in keras_private.calls_in(model):
        for inputs, rule in rules_at(model, node):
            found += [(i, rule) for i in inputs]
    return list(dict.fromkeys(found))


def rules_at(model: keras.Model, node: Any) -> Iterator[tuple[list[int], Rule]]:
    """Yield the rules that follow from one call of a layer, with the indices of the inputs."""
    layer, tensors = node.operation, node.input_tensors
    if type(layer).call in LOOKUP_CALLS:
        if node.arguments.kwargs.get("mode", "embedding") == "embedding":
            mask_id = getattr(layer, "mask_id", 0) if layer.mask_zero else None
            yield (
                inputs_of_same_values(model, tensors[0]),
                Ids(layer.name, layer.embeddings.shape[0], mask_id),
            )
    elif isinstance(layer, PositionEmbedding):
        if layer.custom_position_ids and not isinstance(layer, TextPositionEmbedding):
            yield inputs_of_same_values(model, tensors[1]), Ids(layer.name, layer.max_length)
        else:
            yield inputs_of_same_length(model, tensors[0]), Length(layer.name, layer.max_length)
    elif isinstance(layer, GatherPositions):
        texts = tuple(inputs_of_same_length(model, tensors[0]))
        yield inputs_of_same_values(model, tensors[1]), GatheredPositions(layer.name, texts)
    elif isinstance(layer, keras.Model) and hasattr(layer, "inputs"):
        for i, rule in rules_of(layer):
            trace = inputs_of_same_length if isinstance(rule, Length) else inputs_of_same_values
            if not isinstance(rule, GatheredPositions) and i < len(tensors):
                yield trace(model, tensors[i]), rule


def input_index(model: keras.Model, tensor: Any) -> list[int]:
    """Return the index of a symbolic tensor among the inputs of a model, empty if it is none."""
    return [i for i, each in enumerate(model.inputs) if each is tensor]


def inputs_of_same_values(model: keras.Model, tensor: Any) -> list[int]:
    """Return the index of the input whose values a symbolic tensor has, empty if there is none."""
    while not (found := input_index(model, tensor)):
        operation, node, _ = keras_private.history(tensor)
        if type(operation).__name__ not in VALUE_PRESERVING:
            return []
        tensor = keras_private.call_inputs(operation, node)[0]
    return found


def inputs_of_same_length(model: keras.Model, tensor: Any) -> list[int]:
    """Return the indices of the inputs whose second axis a symbolic tensor has."""
    found: set[int] = set()
    pending, seen = [tensor], set()
    while pending:
        tensor = pending.pop()
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        inputs = input_index(model, tensor)
        found.update(inputs)
        if not inputs:
            pending += operands_of_same_length(tensor)
    return sorted(found)


def operands_of_same_length(tensor: Any) -> list:
    """Return the inputs of a layer that have the same length as its output `tensor`."""
    layer, node, _ = keras_private.history(tensor)
    inputs = keras_private.call_inputs(layer, node)
    if isinstance(layer, LENGTH_PRESERVING):
        return inputs[:1]
    if is_positionwise(layer) or type(layer).__name__ == "Cast":
        return [each for each in inputs if len(each.shape) == len(tensor.shape)]
    return []


# === Rules for targets ===


@dataclass(frozen=True)
class Labels:
    """Rule for targets that are class indices."""

    output: str
    classes: int
    ignore: int | None = None
    padding_counts: bool = True

    def find_error(self, array: np.ndarray, exempt: np.ndarray | None) -> str | None:
        """Describe what is wrong with labels, apart from exempt ones; None if nothing is."""
        wrong = out_of_range(array, self.classes)
        if wrong is not None and self.ignore is not None:
            wrong &= array != self.ignore
        if wrong is not None and exempt is not None:
            wrong &= ~exempt
        if wrong is None or not wrong.any():
            return None
        ignored = "" if self.ignore is None else f", or {self.ignore} for labels to ignore"
        return (
            f"hold the label {first_invalid(array, wrong)}, but the output {self.output!r} has "
            f"{self.classes} classes: give whole numbers from 0 to {self.classes - 1}{ignored}"
        )


BY_NAME = (
    "sparse_categorical_crossentropy",
    "SparseCategoricalCrossentropy",
    "sparse_multilabel_categorical_crossentropy",
)


def label_rule(loss: Any, output: Any) -> Labels | None:
    """Return the rule for the targets of an output under a loss, None if it is not known."""
    name, classes = keras_private.history(output)[0].name, (output.shape or (None,))[-1]
    if isinstance(loss, LossOfBatch):
        loss = loss.loss
    loss = getattr(loss, "fn", None) if type(loss).__name__ == "LossFunctionWrapper" else loss
    if classes is None or loss is None:
        return None
    if isinstance(loss, LayerMethod):
        is_chain = isinstance(loss.owner, LabelChain) and loss.method == "sparse_loss"
        return Labels(name, classes, padding_counts=False) if is_chain else None
    if isinstance(loss, keras.losses.SparseCategoricalCrossentropy):
        return Labels(name, classes, loss.ignore_class)
    if isinstance(loss, SparseLoss):
        return Labels(name, classes, loss.ignore)
    called = loss if isinstance(loss, str) else getattr(loss, "__name__", None)
    if isinstance(loss, SparseMultilabelCrossentropy) or called in BY_NAME:
        return Labels(name, classes)
    return None


def as_sequence(nest: Any, names: Sequence[str]) -> list:
    """Return the arrays of a nest in the order of `names`, None where there is none."""
    if isinstance(nest, dict):
        return [nest.get(name) for name in names]
    if isinstance(nest, list | tuple):
        return list(nest)
    return [nest]


# === All rules of a model ===


class Rules:
    """The rules for the inputs and targets of a model.

    Args:
        model: a functional model.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self.ranks: list[int] = []  # of the first targets
        inputs = keras_private.input_structure(model)
        if isinstance(inputs, dict):  # whose keys may differ from the names of the tensors
            inputs = {id(tensor): name for name, tensor in inputs.items()}
            self.names = [inputs.get(id(tensor)) for tensor in model.inputs]
        else:
            self.names = [tensor.name for tensor in model.inputs]

    @cached_property
    def input_rules(self) -> list[tuple[int, Rule]]:
        """Return the rules for inputs, each with the index of its input."""
        return rules_of(self.model)

    @cached_property
    def label_rules(self) -> list[Labels | None]:
        """Return the rule for the targets of each output, None where none is known."""
        losses = as_sequence(getattr(self.model, "loss", None), self.model.output_names)
        if len(losses) != len(self.model.outputs):
            losses = losses * len(self.model.outputs) if len(losses) == 1 else []
        return [label_rule(*pair) for pair in zip(losses, self.model.outputs, strict=False)]

    def example(self, rows: int, length: int) -> list[np.ndarray]:
        """Draw valid inputs at random, the first row with padding at its end.

        Args:
            rows: the size of the batch.
            length: that of the other free axes, at most that of a position table.

        Returns:
            An array for each input.
        """
        random = np.random.default_rng(length)
        reaches = [rule.reach for _, rule in self.input_rules if isinstance(rule, Length)]
        length = min([length, *reaches])
        arrays = []
        for i, x in enumerate(self.model.inputs):
            shape = [rows, *(n or length for n in x.shape[1:])]
            rules = [rule for index, rule in self.input_rules if index == i]
            ids = [rule for rule in rules if isinstance(rule, Ids)]
            if ids:
                array = random.integers(0, min(rule.size for rule in ids), shape)
                array[0, -2:] = ids[0].mask_id or 0
            elif rules and isinstance(rules[0], GatheredPositions):
                array = random.integers(0, length, shape)
            elif "float" in x.dtype:
                array = random.normal(size=shape)
            else:
                array = np.zeros(shape)
            arrays.append(array.astype(x.dtype))
        return arrays

    def check(self, call: str, x: Any, y: Any = None, sample_weight: Any = None) -> None:
        """Check those inputs and targets that are NumPy arrays.

        Args:
            call: name of the method that was called, for the message.
            x: inputs as the model takes them; for a `tf.data.Dataset` the specs of its elements.
            y: targets as the model takes them.
            sample_weight: weights of the samples; labels of weight 0 may be anything.

        Raises:
            ValueError: an input or a target is invalid, or the number of inputs is wrong.
        """
        arrays = self.inputs(call, x)
        for name, array in [*zip(self.names, arrays, strict=True), ("the targets", y)]:
            if isinstance(array, np.ndarray) and array.ndim and not len(array):
                raise ValueError(f"{call} got no samples: {name!r} has the shape {array.shape}")
        for i, rule in self.input_rules:
            if isinstance(arrays[i], np.ndarray):
                error = rule.find_error(arrays[i], arrays)
                if error:
                    raise ValueError(f"{call}: the input {self.names[i]!r} {error}")
        if y is not None:
            self.check_targets(call, y, sample_weight, arrays)

    def inputs(self, call: str, x: Any) -> list:
        """Return the array for each input, or raise an error if their number is wrong."""
        names = self.names
        if isinstance(x, dict):
            missing = [name for name in names if name not in x]
            given = f"a dict with {sorted(map(str, x))}"
        else:
            found = list(x) if isinstance(x, list | tuple) else [x]
            missing = len(found) != len(names)
            given = f"{len(found)} array{'s' * (len(found) > 1)}"
        if missing:
            raise ValueError(
                f"{call} got {given}, and the model has {len(names)} inputs: {', '.join(names)}. "
                "Give a list with an array for each; segments of a single text are zeros, "
                "np.zeros_like(token_ids)"
            )
        return as_sequence(x, names)

    def check_targets(self, call: str, y: Any, sample_weight: Any, inputs: Sequence) -> None:
        """Check the labels of those outputs for which the number of classes is known."""
        rules = self.label_rules
        targets = as_sequence(y, self.model.output_names)
        weights = as_sequence(sample_weight, self.model.output_names)
        if len(targets) != len(rules):
            return
        for i, (rule, array) in enumerate(zip(rules, targets, strict=True)):
            if rule is None or not isinstance(array, np.ndarray) or not array.size:
                continue
            weight = weights[i] if len(weights) == len(rules) else None
            exempt = has_zero_weight(array, weight)
            if exempt is None and not rule.padding_counts:
                exempt = self.padding(array, inputs)
            error = rule.find_error(array, exempt)
            if error:
                raise ValueError(f"{call}: the targets {error}")

    def padding(self, labels: np.ndarray, inputs: Sequence) -> np.ndarray | None:
        """Return which labels are those of padding, None if that is not known."""
        for i, rule in self.input_rules:
            if isinstance(rule, Ids) and rule.mask_id is not None:
                hidden = np.asarray(inputs[i]) == rule.mask_id
                return hidden.reshape(labels.shape) if hidden.size == labels.size else None
        return None


def has_zero_weight(labels: np.ndarray, weight: Any) -> np.ndarray | None:
    """Return which labels have the weight 0, None if there are no weights."""
    if weight is None:
        return None
    weight = np.asarray(weight)
    missing = (1,) * (labels.ndim - weight.ndim)
    try:
        return np.broadcast_to(weight.reshape(*weight.shape, *missing) == 0, labels.shape)
    except ValueError:  # Keras reports what is wrong with the shapes
        return None


def check_counts(call: str, **counts: Any) -> None:
    """Raise ValueError if one of the numbers is given and is not an integer of at least 1."""
    for name, value in counts.items():
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if value is not None and (not whole or value < 1):
            raise ValueError(
                f"{call} got {name}={value!r}: give an integer of at least 1 or leave it out"
            )
