"""Names of variables: the official TensorFlow ones, and those of Hugging Face files.

A model requests its variables by their official names. `as_official` gives access by these to a
file with names of Hugging Face; `to_hugging_face` converts them back. Both follow the same rule,
which maps each official name to one in a Hugging Face file:

    bert/encoder/layer_3/attention/self/query/kernel     the official name
    bert.encoder.layer.3.attention.self.query.weight     that of Hugging Face, transposed

A slash becomes a dot, a number a part of its own, `kernel` a transposed `weight`, `gamma` and
`scale` become `weight`, `beta` becomes `bias`, and `weight` is appended to a table. If an
architecture in Hugging Face deviates from this, its `Dialect` rewrites the official name before the
rule is applied. Dialects are defined by each architecture and passed in.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from bert4keras.checkpoints.base import Checkpoint, CheckpointError

# === The rule ===


@dataclass(frozen=True)
class Place:
    """Location of a variable in a Hugging Face file.

    Attributes:
        name: the name of the tensor.
        transposed: whether the tensor is the transposed variable.
        part: the index of the variable in a tensor of several concatenated variables.
        parts: the number of variables, concatenated along the last axis after transposition.
    """

    name: str
    transposed: bool = False
    part: int = 0
    parts: int = 1

    def shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of the variable in a tensor of a given shape."""
        shape = tuple(shape[::-1] if self.transposed else shape)
        return shape if self.parts == 1 else (*shape[:-1], shape[-1] // self.parts)

    def read(self, tensor: np.ndarray) -> np.ndarray:
        """Extract the variable from a tensor."""
        value = tensor.T if self.transposed else tensor
        if self.parts == 1:
            return value
        size = value.shape[-1] // self.parts
        return value[..., self.part * size : (self.part + 1) * size]


# Replacements of the last part of a name; a name with another ending is that of a table. Before
# `tensor`, the whole name is given.
_KINDS = {
    "kernel": "weight",
    "weight": "weight",
    "gamma": "weight",
    "scale": "weight",
    "beta": "bias",
    "bias": "bias",
    "embeddings": "weight",
    "tensor": "",
}
_NUMBERED = r"(^|/)(layers?|h|block)_0*(\d+)(?=/)"


def by_rule(name: str) -> Place:
    """Return the location of a variable by the rule; a name may end in `#part/parts`."""
    name, _, piece = name.partition("#")
    part, parts = map(int, piece.split("/")) if piece else (0, 1)
    *path, kind = re.sub(_NUMBERED, r"\1\2/\3", name).split("/")
    path += [_KINDS[kind]] if kind in _KINDS else [kind, "weight"]
    return Place(".".join(filter(None, path)), kind == "kernel", part, parts)


# === Deviations from the rule ===


@dataclass(frozen=True, eq=False)
class Dialect:
    """Deviations of the names of one architecture in Hugging Face from the rule.

    Attributes:
        base: the prefix of the names of the base model, which files of it alone may omit.
        rewrites: regular expressions and their replacements in official names, in order.
        aliases: the same for alternative names of a tensor in files, in order.
    """

    base: str
    rewrites: Sequence[tuple[str, str]] = ()
    aliases: Sequence[tuple[str, str]] = ()

    def place(self, name: str) -> Place:
        """Return the location of a variable by its official name."""
        for pattern, replacement in self.rewrites:
            name = re.sub(pattern, replacement, name)
        return by_rule(name)

    def spellings(self, name: str) -> Iterator[str]:
        """Yield the possible names of a tensor in a file, the usual one first."""
        names = [name]
        for old, new in (*self.aliases, *_ALIASES):
            names += [re.sub(old, new, name)] if re.search(old, name) else []
        yield from names
        if self.base:
            start = f"{self.base}."
            yield from (n.removeprefix(start) for n in names if n.startswith(start))


RULE = Dialect("")
"""The rule without deviations."""

# Alternative names of tensors in any file: pattern and replacement.
_ALIASES = (
    (r"(norm|LayerNorm)\.weight$", r"\1.gamma"),
    (r"(norm|LayerNorm)\.bias$", r"\1.beta"),
)


# === Reading ===


class OfficialNames:
    """Access to the variables of an open checkpoint by official names.

    A mapping like :class:`Checkpoint`; variables that are not requested keep their names in the
    file.

    Args:
        checkpoint: the file.
        dialect: the dialect in which to find official names that are not in it.
        prefix: a prefix of all names from a wrapper of the model, such as "module.".
    """

    def __init__(self, checkpoint: Checkpoint, dialect: Dialect, prefix: str = ""):
        self.checkpoint = checkpoint
        self.path = checkpoint.path
        self.container = checkpoint.container
        self.dialect = dialect
        self.prefix = prefix
        self.place = cache(self._place)
        self._requested: dict[str, Place] = {}

    def _place(self, name: str) -> Place | None:
        if name in self.checkpoint:
            return Place(name)
        place = self.dialect.place(name)
        for spelling in self.dialect.spellings(place.name):
            if self.prefix + spelling in self.checkpoint:
                return Place(self.prefix + spelling, place.transposed, place.part, place.parts)
        return None

    def __contains__(self, name: str) -> bool:
        place = self.place(name)
        if place is not None:
            self._requested[name] = place
        return place is not None

    def holds(self, name: str) -> bool:
        """Tell whether there is a variable, without recording it as requested."""
        return self.place(name) is not None

    def __iter__(self) -> Iterator[str]:
        """Yield the names requested with `in`, then the other names of the file."""
        used = {place.name for place in self._requested.values()}
        yield from self._requested
        yield from (name for name in self.checkpoint if name not in used)

    def _found(self, name: str) -> Place:
        return self.place(name) or Place(name)  # the file reports similar names

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a variable."""
        place = self._found(name)
        return place.shape(self.checkpoint.shape(place.name))

    def dtype(self, name: str) -> np.dtype:
        """Return the dtype of a variable."""
        return self.checkpoint.dtype(self._found(name).name)

    def __getitem__(self, name: str) -> np.ndarray:
        """Read a variable, like :class:`Checkpoint`."""
        place = self._found(name)
        return place.read(self.checkpoint[place.name])


_MAX_TRIED = 60


def as_official(
    checkpoint: Checkpoint, names: Iterable[str], dialects: Sequence[Dialect] = (RULE,)
) -> OfficialNames:
    """Give access to the variables of a file by official names.

    Args:
        checkpoint: an open checkpoint, with official names or those of Hugging Face, which may all
            have a prefix from a wrapper of the model (`module.`, `_orig_mod.`, `model.`,
            `0.auto_model.`).
        names: the requested official names.
        dialects: the dialects, that of the model first. If names are not found in it, the dialect
            that finds most of the first names is used: embeddings and first blocks differ in all.

    Raises:
        CheckpointError: the file contains several models, and it is not clear which one is meant.
    """
    names = list(names)[:_MAX_TRIED]
    views = [OfficialNames(checkpoint, dialect) for dialect in dialects]
    if all(map(views[0].holds, names)):
        return views[0]

    def count(view: OfficialNames) -> int:
        return sum(view.holds(name) for name in names)

    best = max(views, key=count)
    if count(best):
        return best
    wrapped = _wrapped(checkpoint, names, dialects)
    return max(wrapped, key=count) if wrapped else best


def _wrapped(
    checkpoint: Checkpoint, names: Sequence[str], dialects: Sequence[Dialect]
) -> list[OfficialNames]:
    """Return views of a file in which all names of Hugging Face have a prefix."""
    ends: dict[str, list[str]] = {}
    for name in checkpoint:
        ends.setdefault(_end(name), []).append(name)
    found: Counter[tuple[Dialect, str]] = Counter()
    for dialect in dialects:
        for name in names:
            for spelling in dialect.spellings(dialect.place(name).name):
                longer = [n for n in ends.get(_end(spelling), ()) if n.endswith(f".{spelling}")]
                found.update((dialect, n.removesuffix(spelling)) for n in longer)
    best = max(found.values(), default=0)
    starts: list[str] = []  # "module." is also the start of "module.bert."
    for prefix in sorted({prefix for (_, prefix), n in found.items() if n == best}, key=len):
        if not any(map(prefix.startswith, starts)):
            starts.append(prefix)
    if len(starts) > 1:
        raise CheckpointError(
            f"{checkpoint.path} contains several models, under {', '.join(sorted(starts)[:5])}: "
            "save the one you want by itself, as in torch.save(model.encoder.state_dict(), path)"
        )
    return [OfficialNames(checkpoint, *key) for key, n in found.items() if n == best]


def _end(name: str) -> str:
    """Return the last two parts of a name."""
    return ".".join(name.rsplit(".", 2)[-2:])


class LayerNames:
    """Access to the variables of a weight file keyed by layer, by official names.

    Args:
        path: the file.
        layers: the content that `load_layers` reads from it.
        mapping: layer → path of a weight → official name, in weight order. A file of Keras 2 has
            other paths, but the same number of weights in the same order.
        create: converts the weight of a layer, given its official name, to the official variable.
    """

    container = "keras"

    def __init__(
        self,
        path: object,
        layers: Mapping[str, Mapping[str, np.ndarray]],
        mapping: Mapping[str, Mapping[str, str]],
        create: Callable[[str, np.ndarray], np.ndarray],
    ):
        self.path = path
        self._create = create
        self._weights: dict[str, np.ndarray] = {}
        for layer, names in mapping.items():
            self._weights |= self._named(layer, layers.get(layer, {}), names)

    def _named(
        self, layer: str, weights: Mapping[str, np.ndarray], names: Mapping[str, str]
    ) -> dict[str, np.ndarray]:
        """Return the weights of a layer by official names."""
        if any(path.rsplit("/", 1)[-1].startswith("lora_") for path in weights):
            raise CheckpointError(
                f"{self.path} contains LoRA matrices for layer {layer!r}: load it by load_weights "
                "into a model with LoRA, whose save_weights_as_checkpoint adds them to the weights"
            )
        by_path = {name: weights[path] for path, name in names.items() if path in weights}
        if len(weights) > (len(by_path) or len(names)):
            raise CheckpointError(
                f"{self.path} contains the weights {list(weights)} for layer {layer!r}, but the "
                f"model has {list(names)}: build the model as it was saved"
            )
        return by_path or dict(zip(names.values(), weights.values(), strict=False))

    def __contains__(self, name: str) -> bool:
        return name in self._weights

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a variable."""
        return self[name].shape

    def __getitem__(self, name: str) -> np.ndarray:
        """Return a variable."""
        return self._create(name, self._weights[name])


# === Writing ===


def to_hugging_face(
    variables: Mapping[str, np.ndarray], dialect: Dialect = RULE
) -> dict[str, np.ndarray]:
    """Convert variables to the tensors of a Hugging Face file.

    Args:
        variables: the variables by official name.
        dialect: the dialect of the architecture.

    Raises:
        CheckpointError: some of the variables in one tensor are missing.
    """
    pieces: dict[str, dict[int, np.ndarray]] = {}
    places: dict[str, Place] = {}
    for name, value in variables.items():
        place = dialect.place(name)
        places[place.name] = place
        pieces.setdefault(place.name, {})[place.part] = value
    tensors = {}
    for name, place in places.items():
        if len(pieces[name]) < place.parts:
            raise CheckpointError(
                f"the tensor {name} consists of {place.parts} variables, of which the model has "
                f"only {len(pieces[name])}: correct variable_mapping()"
            )
        parts = [pieces[name][i] for i in range(place.parts)]
        value = parts[0] if len(parts) == 1 else np.concatenate(parts, -1)
        tensors[name] = np.ascontiguousarray(value.T) if place.transposed else value
    return tensors
