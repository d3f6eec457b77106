"""The table of architectures, and the tables that are derived from it."""

from typing import TYPE_CHECKING

from bert4keras.checkpoints.architectures import Signature
from bert4keras.checkpoints.names import Dialect
from bert4keras.models.family import Family
from bert4keras.models.settings import SETTINGS, Allowed

if TYPE_CHECKING:
    from bert4keras.models.transformer import Transformer

ARCHITECTURES: dict[str, type["Transformer"]] = {}
"""The values of `model=`: the names in `bert4keras.models.architectures`, and those of scripts.

A script adds its own by `ARCHITECTURES["mine"] = Mine`; every other table is derived from this one.
"""


def architecture_classes(own: type | None = None) -> list[type]:
    """Return all architectures, each once; `own`, which may not be in the table, comes first."""
    return list(dict.fromkeys([*([own] if own else ()), *ARCHITECTURES.values()]))


def families(own: type | None = None) -> dict[str, Family]:
    """Return the families of all architectures by their `model_type`."""
    found: dict[str, Family] = {}
    for architecture in architecture_classes(own):
        for family in architecture.families:
            found.setdefault(family.model_type, family)
    return found


def dialects(own: type | None = None) -> list[Dialect]:
    """Return the naming dialects of all architectures, that of `own` first."""
    return list(dict.fromkeys(architecture.dialect for architecture in architecture_classes(own)))


def signatures(own: type | None = None) -> list[Signature]:
    """Return the signatures by which the architecture of a weight file is recognised."""
    classes = [*ARCHITECTURES.values(), *([own] if own else ())]
    return list(dict.fromkeys(s for architecture in classes for s in architecture.signatures))


def allowed_settings(own: type | None = None) -> dict[str, Allowed]:
    """Return the allowed values of settings; a key means the same in all architectures."""
    classes = architecture_classes(own)
    return {**SETTINGS, **{k: v for cls in classes for k, v in cls.allowed_settings.items()}}
