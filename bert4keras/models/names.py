"""The names of variables in official checkpoints, as templates: layer → names, in weight order."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bert4keras.models.transformer import Transformer


def dense(*names: str) -> list[str]:
    """Return the names of the variables of Dense layers."""
    return [f"{name}/{kind}" for name in names for kind in ("kernel", "bias")]


def norm(name: str) -> list[str]:
    """Return the names of the variables of a layer normalisation."""
    return [f"{name}/beta", f"{name}/gamma"]


def renamed(table: Mapping[str, list[str]], old: str, new: str) -> dict[str, list[str]]:
    """Return a table of variable names in which the prefix `old` is replaced by `new`."""
    return {
        layer: [name.replace(old, new, 1) if name.startswith(old) else name for name in names]
        for layer, names in table.items()
    }


def repeated_gates(names: Sequence[str], suffixes: Sequence[str]) -> list[str]:
    """Repeat the variable names with {gate} once for each suffix, before all others."""
    gates = [name for name in names if "{gate}" in name]
    repeated = [name.replace("{gate}", suffix) for suffix in suffixes for name in gates]
    return [*repeated, *(name for name in names if name not in gates)]


def mapping_of(transformer: "Transformer", n_gates: int) -> dict[str, list[str]]:
    """Return `variable_mapping` for feed-forward layers with `n_gates` activations."""
    mapping: dict[str, list[str]] = {}
    suffixes = transformer.gate_suffixes(n_gates)
    for layer, names in transformer.variable_names.items():
        names = repeated_gates(names, suffixes)
        for i in range(transformer.num_hidden_layers if "{i" in layer else 1):
            mapping[layer.format(i=i)] = [name.format(i=i) for name in names]
    return mapping


def telling_variables(transformer: "Transformer") -> list[str]:
    """Return variables that only checkpoints of other architectures, or with more gates, have."""
    count = len(transformer.activations)
    ours, theirs = (chain(*mapping_of(transformer, n).values()) for n in (count, count + 1))
    return [*transformer.foreign_variables, *sorted(set(theirs) - set(ours))]
