"""Comparison of a checkpoint with a model, with the likely cause if it does not fit."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bert4keras.checkpoints.architectures import Signature, architectures
from bert4keras.checkpoints.base import CheckpointError

_Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Report:
    """Comparison of the variables that a model expects with those of a checkpoint.

    Attributes:
        loaded: names that fit.
        missing: names that are not in the checkpoint, in the order of the model.
        mismatched: for each name with another shape, the expected and the actual shape.
        unused: names in the checkpoint that the model does not need; not an error.
        from_scratch: layers that are in no checkpoint, which keep their initial weights.
        layers: for each expected name, the layer of the weight.
        cause: the likely cause of missing or mismatched variables, a sentence or empty.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    mismatched: Mapping[str, tuple[_Shape, tuple[int, ...]]]
    unused: tuple[str, ...]
    from_scratch: tuple[str, ...]
    layers: Mapping[str, str]
    cause: str

    def raise_for_errors(self, source: str | Path) -> None:
        """Do nothing if the checkpoint fits.

        Args:
            source: the name of the checkpoint in the message.

        Raises:
            CheckpointError: a variable is missing or has another shape.
        """

        def described(name: str) -> str:
            return f"{name} (layer {self.layers[name]})" if name in self.layers else name

        lines = [f"  missing: {described(name)}" for name in self.missing]
        for name, (expected, found) in self.mismatched.items():
            lines.append(f"  shape {found}, the model expects {expected}: {described(name)}")
        if not lines:
            return
        shown = lines[:10] + ([f"  ... and {len(lines) - 10} more"] if len(lines) > 10 else [])
        cause = f"{self.cause}\n" if self.cause else ""
        raise CheckpointError(
            f"{source} does not fit the model: {len(self.missing)} variable(s) missing, "
            f"{len(self.mismatched)} of another shape.\n{cause}" + "\n".join(shown)
        )


def match_variables(
    expected: Mapping[str, _Shape],
    found: Mapping[str, tuple[int, ...]],
    layers: Mapping[str, str] | None = None,
    from_scratch: Sequence[str] = (),
    signatures: Sequence[Signature] = (),
    heads: Mapping[str, str] | None = None,
) -> Report:
    """Compare the variables that a model expects with those of a checkpoint.

    Args:
        expected: shape by variable name; None stands for an axis of any size.
        found: shape by variable name, of all variables in the checkpoint.
        layers: layer by variable name, for the messages.
        from_scratch: names of layers that have no variables in checkpoints, for the report.
        signatures: signatures of all architectures, to detect that of the file.
        heads: argument that adds a head, by the name of each of its variables.

    Returns:
        The report; no error is raised.
    """
    missing = tuple(name for name in expected if name not in found)
    mismatched = {
        name: (tuple(shape), tuple(found[name]))
        for name, shape in expected.items()
        if name in found and not _fits(shape, found[name])
    }
    return Report(
        loaded=tuple(n for n in expected if n in found and n not in mismatched),
        missing=missing,
        mismatched=mismatched,
        unused=tuple(name for name in found if name not in expected),
        from_scratch=tuple(from_scratch),
        layers=layers or {},
        cause=_cause_of_architecture(expected, found, missing, signatures)
        or _cause(expected, found, missing, mismatched, heads or {}),
    )


def _fits(expected: _Shape, found: tuple[int, ...]) -> bool:
    return len(expected) == len(found) and all(
        e is None or e == f for e, f in zip(expected, found, strict=True)
    )


def _layers(names: Iterable[str]) -> int:
    """Count layers: one more than the largest number after `layer_`, `layer` or `block_`."""
    numbers = [re.search(r"/(?:layer_?|block_|inner_group_)(\d+)/", name) for name in names]
    return 1 + max((int(number[1]) for number in numbers if number), default=-1)


def _cause_of_architecture(
    expected: Mapping[str, _Shape],
    found: Mapping[str, tuple[int, ...]],
    missing: Sequence[str],
    signatures: Sequence[Signature],
) -> str:
    """Describe in one sentence that a checkpoint has another architecture, if it has."""
    if not missing or not signatures:
        return ""
    detected = architectures(found, signatures)
    if set(architectures(expected, signatures)).intersection(detected):
        return ""
    if not detected:
        return f"Its names are of no known architecture, e.g. {next(iter(found), 'none')!r}."
    models = " or ".join(f"model={model!r}" for model in detected)
    return f"Its names are those of {models}: pass that."


def _cause(
    expected: Mapping[str, _Shape],
    found: Mapping[str, tuple[int, ...]],
    missing: Sequence[str],
    mismatched: Mapping[str, tuple[_Shape, tuple[int, ...]]],
    heads: Mapping[str, str],
) -> str:
    """Guess in one sentence why a checkpoint of the right architecture does not fit."""
    if missing:
        return _cause_of_missing(expected, found, missing, heads)
    if not mismatched:
        return ""
    first, (shape, other) = next(iter(mismatched.items()))
    rows = {pair[0][:1] + pair[1][:1] for pair in mismatched.values()}
    if len(rows) == 1 and all(_fits(s[1:], o[1:]) for s, o in mismatched.values()):
        if "position" in first:
            return (
                f"It has {other[0]} positions, the model {shape[0]}: correct "
                "max_position_embeddings in the config."
            )
        if "token_type" in first:
            return (
                f"It has {other[0]} segment types, the model {shape[0]}: correct "
                "type_vocab_size in the config."
            )
        return (
            f"Only the vocabulary differs: {other[0]} entries in the file, {shape[0]} in the "
            "model. If the model's was trimmed, pass keep_tokens; otherwise correct vocab_size."
        )
    return f"It is a model of another size ({first} is {other}): use the config that belongs to it."


def _cause_of_missing(
    expected: Mapping[str, _Shape],
    found: Mapping[str, tuple[int, ...]],
    missing: Sequence[str],
    heads: Mapping[str, str],
) -> str:
    if all(_layers([name]) > _layers(found) for name in missing):
        return (
            f"It has {_layers(found)} layers, the model {_layers(expected)}: use the config that "
            "belongs to it, or set num_hidden_layers."
        )
    options = {heads.get(name) for name in missing}
    if len(options) > 1 or None in options:
        return ""
    (option,) = options
    return f"It was saved without the head of {option}: leave {option} out."
