"""One door for what a model is given: what makes no sense is refused before an engine sees it.

Engines differ: of an id beyond a table TensorFlow gives 60 lines of a graph, PyTorch an index, and
JAX NaN without a word. What an input must be is read off the model once: which table of vectors it
is looked up in, which positions there are. What labels must be is known from the losses.

    Rules      of the inputs of a model and of its targets
    Ids        numbers of the rows of a table
    Length     texts no longer than a table of positions
    Places     positions within another input
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
from bert4keras.layers.positions import PositionEmbedding, PositionEmbeddingBase
from bert4keras.models.cache import is_positionwise
from bert4keras.training.distribution.parts import LossOfBatch
from bert4keras.training.losses import SparseLoss, SparseMultilabelCrossentropy
from bert4keras.training.methods import LayerMethod

# === What arrays are ===


def outside(array: np.ndarray, size: int) -> np.ndarray | None:
    """Tell where an array holds something else than whole numbers from 0 below `size`.

    Returns:
        An array of bool, or None if there is no such place.
    """
    if array.dtype.kind in "iub":
        if array.min() >= 0 and array.max() < size:
            return None
        return (array < 0) | (array >= size)
    if array.dtype.kind != "f":
        return np.ones(array.shape, bool)
    inside = (array >= 0) & (array < size) & (array == np.rint(array))
    return None if inside.all() else ~inside


def first(array: np.ndarray, wrong: np.ndarray) -> str:
    """Name the first place that is wrong, and what stands there."""
    place = tuple(int(i) for i in np.argwhere(wrong)[0])
    names = ("row", "position", *["index"] * len(place))
    where = ", ".join(f"{name} {i}" for name, i in zip(names, place, strict=False))
    return f"{array[place]} at {where}" if place else f"{array}"


# === What inputs must be ===


@dataclass(frozen=True)
class Ids:
    """An input that is looked up in a table."""

    layer: str
    size: int
    mask_id: int | None = None

    def complaint(self, array: np.ndarray, others: Sequence) -> str | None:
        """Say what is wrong, or None."""
        wrong = outside(array, self.size)
        if wrong is None:
            return None
        return (
            f"holds {first(array, wrong)}, but {self.layer!r} has {self.size} rows: give whole "
            f"numbers from 0 to {self.size - 1}, of the tokenizer and the config of this model"
        )


@dataclass(frozen=True)
class Length:
    """An input whose positions are those of a table."""

    layer: str
    reach: int

    def complaint(self, array: np.ndarray, others: Sequence) -> str | None:
        """Say what is wrong, or None."""
        if array.ndim < 2 or array.shape[1] <= self.reach:
            return None
        return (
            f"has {array.shape[1]} positions, and {self.layer!r} has vectors for {self.reach}: cut "
            "texts with maxlen=, or build the model with hierarchical_position=True"
        )


@dataclass(frozen=True)
class Places:
    """An input that chooses positions of others."""

    layer: str
    inputs: tuple[int, ...]

    def complaint(self, array: np.ndarray, others: Sequence) -> str | None:
        """Say what is wrong, or None."""
        lengths = [others[i].shape[1] for i in self.inputs if np.ndim(others[i]) > 1]
        wrong = outside(array, min(lengths)) if lengths else None
        if wrong is None:
            return None
        return (
            f"holds {first(array, wrong)}, and {self.layer!r} looks for it in {min(lengths)} "
            f"positions: give whole numbers from 0 to {min(lengths) - 1}"
        )


Rule = Ids | Length | Places

SAME_VALUES = ("Cast", "ExpandDims", "Identity", "Reshape", "Squeeze", "Transpose", "StopGradient")
"""Operations of Keras that neither change nor leave out values."""

AS_LONG_AS_THE_FIRST = (
    keras.layers.Embedding,
    GatedAttentionUnit,
    MultiHeadAttention,
    PositionEmbeddingBase,
)
"""Layers whose first input is as long as what they give."""

LOOKING_UP = (keras.layers.Embedding.call, Embedding.call)
"""What looks ids up in a table; a subclass of the user's may take something else."""


def rules_of(model: keras.Model) -> list[tuple[int, Rule]]:
    """What the inputs of a model must be, by their numbers."""
    found: list[tuple[int, Rule]] = []
    for node in keras_private.calls_in(model):
        for inputs, rule in rules_at(model, node):
            found += [(i, rule) for i in inputs]
    return list(dict.fromkeys(found))


def rules_at(model: keras.Model, node: Any) -> Iterator[tuple[list[int], Rule]]:
    """What inputs must be because of one call of a layer."""
    layer, tensors = node.operation, node.input_tensors
    if type(layer).call in LOOKING_UP:
        if node.arguments.kwargs.get("mode", "embedding") == "embedding":
            mask_id = getattr(layer, "mask_id", 0) if layer.mask_zero else None
            yield same_as(model, tensors[0]), Ids(layer.name, layer.embeddings.shape[0], mask_id)
    elif isinstance(layer, PositionEmbedding):
        if layer.custom_position_ids:
            yield same_as(model, tensors[1]), Ids(layer.name, layer.reach)
        else:
            yield as_long_as(model, tensors[0]), Length(layer.name, layer.reach)
    elif isinstance(layer, GatherPositions):
        texts = tuple(as_long_as(model, tensors[0]))
        yield same_as(model, tensors[1]), Places(layer.name, texts)
    elif isinstance(layer, keras.Model) and hasattr(layer, "inputs"):
        for i, rule in rules_of(layer):
            trace = as_long_as if isinstance(rule, Length) else same_as
            if not isinstance(rule, Places) and i < len(tensors):
                yield trace(model, tensors[i]), rule


def input_number(model: keras.Model, tensor: Any) -> list[int]:
    """The number of a symbolic tensor among the inputs of a model, if it is one."""
    return [i for i, each in enumerate(model.inputs) if each is tensor]


def same_as(model: keras.Model, tensor: Any) -> list[int]:
    """The input whose values a symbolic tensor has, all of them, if there is one."""
    while not (found := input_number(model, tensor)):
        operation, node, _ = keras_private.history(tensor)
        if type(operation).__name__ not in SAME_VALUES:
            return []
        tensor = keras_private.call_inputs(operation, node)[0]
    return found


def as_long_as(model: keras.Model, tensor: Any) -> list[int]:
    """The inputs that a symbolic tensor has the second axis of."""
    found: set[int] = set()
    pending, seen = [tensor], set()
    while pending:
        tensor = pending.pop()
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        inputs = input_number(model, tensor)
        found.update(inputs)
        if not inputs:
            pending += sources_as_long(tensor)
    return sorted(found)


def sources_as_long(tensor: Any) -> list:
    """What a layer was given that is as long as what it gives."""
    layer, node, _ = keras_private.history(tensor)
    inputs = keras_private.call_inputs(layer, node)
    if isinstance(layer, AS_LONG_AS_THE_FIRST):
        return inputs[:1]
    if is_positionwise(layer) or type(layer).__name__ == "Cast":
        return [each for each in inputs if len(each.shape) == len(tensor.shape)]
    return []


# === What targets must be ===


@dataclass(frozen=True)
class Labels:
    """Targets that are numbers of classes."""

    output: str
    classes: int
    ignore: int | None = None
    padding_counts: bool = True

    def complaint(self, array: np.ndarray, exempt: np.ndarray | None) -> str | None:
        """Say what is wrong with labels, apart from exempt ones, or None."""
        wrong = outside(array, self.classes)
        if wrong is not None and self.ignore is not None:
            wrong &= array != self.ignore
        if wrong is not None and exempt is not None:
            wrong &= ~exempt
        if wrong is None or not wrong.any():
            return None
        ignored = "" if self.ignore is None else f", or {self.ignore} where nothing counts"
        return (
            f"hold the label {first(array, wrong)}, but the output {self.output!r} has "
            f"{self.classes} classes: give whole numbers from 0 to {self.classes - 1}{ignored}"
        )


BY_NAME = (
    "sparse_categorical_crossentropy",
    "SparseCategoricalCrossentropy",
    "sparse_multilabel_categorical_crossentropy",
)


def labels_of(loss: Any, output: Any) -> Labels | None:
    """What the targets of an output must be under a loss, if that is known."""
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


def leaves(nest: Any, names: Sequence[str]) -> list:
    """The parts of a nest in the order of outputs or inputs, None where there is none."""
    if isinstance(nest, dict):
        return [nest.get(name) for name in names]
    if isinstance(nest, list | tuple):
        return list(nest)
    return [nest]


# === The door ===


class Rules:
    """What a model takes.

    Args:
        model: a functional model.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self.ranks: list[int] = []  # of the first targets
        inputs = keras_private.input_structure(model)
        if isinstance(inputs, dict):  # which may call them otherwise
            inputs = {id(tensor): name for name, tensor in inputs.items()}
            self.names = [inputs.get(id(tensor)) for tensor in model.inputs]
        else:
            self.names = [tensor.name for tensor in model.inputs]

    @cached_property
    def of_inputs(self) -> list[tuple[int, Rule]]:
        """The rules, and the numbers of the inputs that they are for."""
        return rules_of(self.model)

    @cached_property
    def labels(self) -> list[Labels | None]:
        """The rules for the targets of each output."""
        losses = leaves(getattr(self.model, "loss", None), self.model.output_names)
        if len(losses) != len(self.model.outputs):
            losses = losses * len(self.model.outputs) if len(losses) == 1 else []
        return [labels_of(*pair) for pair in zip(losses, self.model.outputs, strict=False)]

    def check(self, call: str, x: Any, y: Any = None, sample_weight: Any = None) -> None:
        """Check inputs, and targets if there are any, as far as they are NumPy arrays.

        Args:
            call: what was called, for the message.
            x: as the model takes it; of a `tf.data.Dataset` the specs of its elements.
            y: targets, as the model takes them.
            sample_weight: weights of the samples; labels of weight 0 may be anything.

        Raises:
            ValueError: something makes no sense.
        """
        arrays = self.inputs(call, x)
        for name, array in [*zip(self.names, arrays, strict=True), ("the targets", y)]:
            if isinstance(array, np.ndarray) and array.ndim and not len(array):
                raise ValueError(f"{call} got no samples: {name!r} has the shape {array.shape}")
        for i, rule in self.of_inputs:
            if isinstance(arrays[i], np.ndarray):
                complaint = rule.complaint(arrays[i], arrays)
                if complaint:
                    raise ValueError(f"{call}: the input {self.names[i]!r} {complaint}")
        if y is not None:
            self.check_targets(call, y, sample_weight, arrays)

    def inputs(self, call: str, x: Any) -> list:
        """The arrays for each input, or refuse another number of them."""
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
        return leaves(x, names)

    def check_targets(self, call: str, y: Any, sample_weight: Any, inputs: Sequence) -> None:
        """Check labels of which it is known how many classes there are."""
        rules = self.labels
        targets = leaves(y, self.model.output_names)
        weights = leaves(sample_weight, self.model.output_names)
        if len(targets) != len(rules):
            return
        for i, (rule, array) in enumerate(zip(rules, targets, strict=True)):
            if rule is None or not isinstance(array, np.ndarray) or not array.size:
                continue
            weight = weights[i] if len(weights) == len(rules) else None
            exempt = of_no_weight(array, weight)
            if exempt is None and not rule.padding_counts:
                exempt = self.padding(array, inputs)
            complaint = rule.complaint(array, exempt)
            if complaint:
                raise ValueError(f"{call}: the targets {complaint}")

    def padding(self, labels: np.ndarray, inputs: Sequence) -> np.ndarray | None:
        """Where labels stand at padding."""
        for i, rule in self.of_inputs:
            if isinstance(rule, Ids) and rule.mask_id is not None:
                hidden = np.asarray(inputs[i]) == rule.mask_id
                return hidden.reshape(labels.shape) if hidden.size == labels.size else None
        return None


def of_no_weight(labels: np.ndarray, weight: Any) -> np.ndarray | None:
    """Where labels have the weight 0."""
    if weight is None:
        return None
    weight = np.asarray(weight)
    missing = (1,) * (labels.ndim - weight.ndim)
    try:
        return np.broadcast_to(weight.reshape(*weight.shape, *missing) == 0, labels.shape)
    except ValueError:  # Keras says what is wrong with the shapes
        return None


def check_counts(call: str, **counts: Any) -> None:
    """Raise ValueError if one of some numbers is given and no integer from 1."""
    for name, value in counts.items():
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if value is not None and (not whole or value < 1):
            raise ValueError(f"{call} got {name}={value!r}: give an integer from 1 or leave it out")
