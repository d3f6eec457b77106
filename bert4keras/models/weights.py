"""Loading, resizing and writing the weights of a model under the names of official checkpoints."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import keras
import numpy as np

from bert4keras.checkpoints import bundle
from bert4keras.checkpoints.base import ARCHITECTURE, Checkpoint, CheckpointError
from bert4keras.checkpoints.files import open_checkpoint
from bert4keras.checkpoints.names import LayerNames, as_official
from bert4keras.checkpoints.report import Report, match_variables
from bert4keras.checkpoints.writing import replacing
from bert4keras.data.arrays import orthogonally_resize
from bert4keras.layers.adapters import products, weight_name
from bert4keras.layers.attention import MultiHeadAttention
from bert4keras.layers.feed_forward import FeedForward
from bert4keras.layers.normalisation import ScaleOffset
from bert4keras.models import fitting, registry
from bert4keras.models.messages import abbreviated, warn
from bert4keras.models.names import telling_variables
from bert4keras.models.variables import (
    assign,
    merged_values,
    own_weights,
    size_of,
    to_numpy,
)
from bert4keras.models.vocabulary_record import vocabulary_record, write_record

if TYPE_CHECKING:
    from bert4keras.models.transformer import Transformer

VariableMapping = Mapping[str, Sequence[str]] | None
"""Layer name → names of its variables; None for `variable_mapping()`."""


def mapped_layers(
    transformer: "Transformer", mapping: VariableMapping = None
) -> list[tuple[keras.Layer, list[str]]]:
    """Return the layers of a model that the mapping names, with the names of their variables."""
    mapping = transformer.variable_mapping() if mapping is None else mapping
    layers = [
        (transformer.layers.get(transformer.prefixed(name)), names)
        for name, names in mapping.items()
    ]
    return [(layer, with_condition(layer, names)) for layer, names in layers if layer]


def with_condition(layer: keras.Layer, names: Sequence[str]) -> list[str]:
    """Add to the variable names of a layer those of the weights of a conditional normalisation.

    Official checkpoints have none; they are named by their path in the layer: `gamma_dense/kernel`.
    """
    if not names or not (isinstance(layer, ScaleOffset) and layer.conditional):
        return list(names)
    start = names[0].rsplit("/", 1)[0]
    paths = (f"{start}/{weight_name(layer, x)}" for x in own_weights(layer)[len(names) :])
    return [*names, *paths]


# === Loading ===


class Target(NamedTuple):
    """The weight that a variable of a checkpoint is loaded into.

    Attributes:
        name: name of the variable.
        layer: the layer that has the weight.
        index: index of the weight in `own_weights(layer)`.
    """

    name: str
    layer: keras.Layer
    index: int

    @property
    def weight(self) -> Any:
        """The weight."""
        return own_weights(self.layer)[self.index]


@contextmanager
def open_matching(
    transformer: "Transformer", checkpoint: str | Path | Checkpoint, mapping: VariableMapping
) -> Iterator[Checkpoint]:
    """Open a checkpoint in a `with` block, and check that it has the architecture of a model.

    A checkpoint that is already open has been checked, and with a mapping it may have another
    architecture.
    """
    if isinstance(checkpoint, Checkpoint):
        yield checkpoint
        return
    with open_checkpoint(checkpoint) as file:
        if mapping is None:
            fitting.check_fit(transformer, file)
        yield file


def load(transformer: "Transformer", file: Checkpoint, mapping: VariableMapping = None) -> Report:
    """Load an open checkpoint, as `Transformer.load_weights_from_checkpoint` describes."""
    layers = mapped_layers(transformer, mapping)
    variables = with_official_names(transformer, file, layers)
    targets = loadable_targets(transformer, variables, layers)
    # There are two passes, so that an error changes no weight and no value is kept in memory: the
    # pages of the file stay cached, and checksums are verified only once.
    report = check_variables(transformer, variables, targets, file.path)
    loaded = set(report.loaded)
    targets = [target for target in targets if target.name in loaded]
    values = (load_value(transformer, variables, target) for target in targets)
    loaded_weights = [target.weight for target in targets]
    assign(zip(loaded_weights, values, strict=True), sum(map(size_of, loaded_weights)))
    for layer, _ in layers:
        for product in products(layer):
            product.reset()
    return report


def with_official_names(transformer: "Transformer", file: Checkpoint, layers: Sequence) -> Any:
    """Return a view of an open file in which the variables have the names in `layers`."""
    if file.container == "keras":
        names = {layer.name: names_by_path(layer, names) for layer, names in layers}
        return LayerNames(file.path, file.layers(), names, transformer.create_variable)
    names = [name for _, names in layers for name in names]
    return as_official(
        file, [*names, *telling_variables(transformer)], registry.dialects(type(transformer))
    )


def names_by_path(layer: keras.Layer, names: Sequence[str]) -> dict[str, str]:
    """Return the variable names of a layer by the paths of the weights in it."""
    return {weight_name(layer, x.weight): x.name for x in map_targets(layer, names)}


def map_targets(layer: keras.Layer, names: Sequence[str]) -> list[Target]:
    """Map each variable name to the weight of the layer that it belongs to.

    Raises:
        ValueError: the layer has fewer weights than there are names.
    """
    count = len(own_weights(layer))
    if count < len(names):
        raise ValueError(
            f"layer {layer.name!r} has {count} weights, and {len(names)} variables are mapped to "
            f"it: {list(names)}. Correct variable_mapping()"
        )
    return [Target(name, layer, index) for index, name in enumerate(names)]


CONDITIONAL = ("/hidden_dense/kernel", "/beta_dense/kernel", "/gamma_dense/kernel")
"""Suffixes of the variables of conditional normalisations, which few files have."""
UNWRITTEN = "/embedding_hidden_mapping_out/"
"""Part of the names of variables that files of bert4keras 0.11.5 lack."""


def loadable_targets(transformer: "Transformer", variables: Any, layers: Sequence) -> list[Target]:
    """Return the targets under the names in a checkpoint, without those that it may lack.

    Weights that it may lack and does lack keep their initial values.
    """
    targets = [target for layer, names in layers for target in map_targets(layer, names)]
    targets = [x._replace(name=transformer.stored_name(variables, x.name)) for x in targets]
    lacking = [target.name for target in targets if target.name not in variables]
    lost = [name for name in lacking if UNWRITTEN in name]
    if lost:
        warn(
            f"{variables.path} has no {abbreviated(lost)}, which bert4keras 0.11.5 did not write: "
            "the layer has random initial values, as it has there. Train it, or load its weights "
            "by load_weights"
        )
    may_lack = (*lost, *transformer.optional_variables)
    absent = {name for name in lacking if name.endswith(CONDITIONAL) or name in may_lack}
    return [target for target in targets if target.name not in absent]


def check_variables(
    transformer: "Transformer", variables: Any, targets: Sequence[Target], path: Path
) -> Report:
    """Compare all variables with the weights, before any is assigned.

    Raises:
        CheckpointError: a variable is missing, has the wrong shape or is not finite.
    """
    shapes, not_finite = examined(transformer, variables, targets)
    report = match_variables(
        expected={target.name: tuple(target.weight.shape) for target in targets},
        found=shapes,
        layers={target.name: target.layer.name for target in targets},
        from_scratch=from_scratch(transformer, targets),
        signatures=registry.signatures(type(transformer)),
        heads=fitting.variables_of_heads(transformer),
    )
    if not transformer.ignore_invalid_weights:
        report.raise_for_errors(path)
        check_foreign(transformer, report.unused, path)
    if not_finite:
        raise CheckpointError(f"{path} holds NaN or infinity in {abbreviated(not_finite)}")
    return report


def examined(
    transformer: "Transformer", variables: Any, targets: Sequence[Target]
) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """The shapes of all variables as they will be loaded, and the names of those with NaN."""
    shapes = {name: variables.shape(name) for name in variables}
    not_finite = []
    for target in targets:
        if target.name in variables:
            value = load_value(transformer, variables, target)
            shapes[target.name] = value.shape
            if not finite(value):
                not_finite.append(target.name)
    return shapes, not_finite


def finite(value: np.ndarray) -> bool:
    """Tell whether all numbers are finite; their square, or sum, tells it in a cheap pass."""
    flat = value.ravel("K")
    with np.errstate(over="ignore", invalid="ignore"):
        square = np.dot(flat, flat) if flat.dtype == np.float32 else flat.sum()
        return bool(np.isfinite(square)) or bool(np.isfinite(flat).all())


def load_value(transformer: "Transformer", variables: Any, target: Target) -> np.ndarray:
    """Return the value of a variable as it is assigned to its weight."""
    value = transformer.load_variable(variables, target.name)
    if not transformer.autoresize_weights or value.shape == tuple(target.weight.shape):
        return value
    return resize_variable(target, value, transformer.hidden_act)


def resize_variable(target: Target, value: np.ndarray, hidden_act: Any) -> np.ndarray:
    """Cut or repeat a variable to the shape of its weight (https://kexue.fm/archives/8444).

    Queries and keys are scaled so that the attention scores keep their size, and the two kernels of
    a feed-forward layer so that its output does.
    """
    layer, shape = target.layer, tuple(target.weight.shape)
    resized = orthogonally_resize(value, shape)
    per_dense = 2 if getattr(layer, "use_bias", False) else 1
    scaled = isinstance(layer, MultiHeadAttention) and layer.attention_scale
    if scaled and target.index < 2 * per_dense:
        return resized * (shape[-1] / value.shape[-1]) ** 0.25
    if isinstance(layer, FeedForward):
        inner = 0 if hidden_act in ("relu", "leaky_relu") else per_dense
        if target.index < inner:
            return resized * (shape[-1] / value.shape[-1]) ** 0.5
        return resized * (value.shape[0] / shape[0]) ** 0.5
    return resized


def check_foreign(transformer: "Transformer", unused: Sequence[str], path: Path) -> None:
    """Raise an error for a checkpoint of another architecture that holds all our variables."""
    foreign = [name for name in telling_variables(transformer) if name in unused]
    if foreign:
        raise CheckpointError(
            f"{path} holds {foreign[0]}, which {type(transformer).__name__} does not have: it "
            "is of another architecture, so correct model=. To load it nevertheless, "
            "pass ignore_invalid_weights=True"
        )


def from_scratch(transformer: "Transformer", targets: Sequence[Target]) -> tuple[str, ...]:
    """Return the names of layers that no target belongs to, and of such weights of other layers."""
    known = {(target.layer.name, target.index) for target in targets}
    computed = [transformer.prefixed(name) for name in transformer.computed_layers]
    names = []
    for layer in transformer.model.layers:
        if layer.name in computed:
            continue
        weights = [weight_name(layer, weight) for weight in own_weights(layer)]
        missing = [x for i, x in enumerate(weights) if (layer.name, i) not in known]
        whole = len(missing) == len(weights)
        names += [layer.name] if whole and missing else [f"{layer.name}/{x}" for x in missing]
    return tuple(names)


# === Writing ===


def save(
    transformer: "Transformer", path: str | Path, mapping: VariableMapping = None, dtype: Any = None
) -> None:
    """Write a checkpoint in one step, as `Transformer.save_weights_as_checkpoint` describes."""
    path = Path(path)
    with replacing(
        path.parent, f"{path.name}.index", bundle.stale_file_pattern(path.name)
    ) as folder:
        write(transformer, folder / path.name, mapping, dtype)


def write(
    transformer: "Transformer", path: Path, mapping: VariableMapping = None, dtype: Any = None
) -> None:
    """Write a checkpoint to a path that nobody reads meanwhile."""
    variables = official_variables(transformer, mapping, dtype)
    bundle.write_bundle(path, variables, metadata(transformer))
    write_record(path, vocabulary_record(transformer))


def metadata(transformer: "Transformer") -> dict[str, str]:
    """Return the metadata of a weight file, which name the architecture."""
    return {ARCHITECTURE: transformer.model_type} if transformer.model_type else {}


def official_variables(
    transformer: "Transformer",
    mapping: VariableMapping = None,
    dtype: Any = None,
    merged: bool = True,
) -> dict[str, np.ndarray]:
    """Return the variables of a model as official checkpoints hold them, by name.

    Args:
        transformer: the model.
        mapping: layer name → variable names instead of `variable_mapping()`.
        dtype: type of the variables, that of the weights by default.
        merged: whether what LoRA adds to the weights is in them.

    Raises:
        ValueError: a weight has no name, so that it would be lost.
    """
    layers = mapped_layers(transformer, mapping)
    if mapping is None:
        check_names(transformer, layers)
    return {
        name: transformer.create_variable(name, value, dtype)
        for layer, names in layers
        for name, value in named_values(layer, names, merged)
    }


def check_names(transformer: "Transformer", layers: Sequence) -> None:
    """Raise an error for a model with a layer that would be left out."""
    known = {layer.name for layer, _ in layers}
    known |= {transformer.prefixed(name) for name in transformer.computed_layers}
    unnamed = [x.name for x in transformer.model.layers if x.weights and x.name not in known]
    if unnamed:
        raise ValueError(
            f"no checkpoint has a place for the weights of {abbreviated(unnamed)}: add them to "
            "variable_names of the class, or write the others by "
            "save_weights_as_checkpoint(…, mapping=transformer.variable_mapping())"
        )


def named_values(
    layer: keras.Layer, names: Sequence[str], merged: bool
) -> list[tuple[str, np.ndarray]]:
    """Return each variable name with the value of its weight, if `merged` with that of LoRA.

    Raises:
        ValueError: the layer has more or fewer weights.
    """
    paths = [weight_name(layer, weight) for weight in own_weights(layer)]
    if len(paths) != len(names):
        raise ValueError(
            f"layer {layer.name!r} has the weights {paths}, and its variables are {list(names)}: "
            "some would be lost. Correct variable_names of the class, or mapping="
        )
    values = merged_values(layer) if merged else map(to_numpy, own_weights(layer))
    return list(zip(names, values, strict=True))
