"""The architectures that there are, and the tables that follow from them."""

from typing import TYPE_CHECKING

from bert4keras.checkpoints.architectures import Signature
from bert4keras.checkpoints.names import Dialect
from bert4keras.models.family import Family
from bert4keras.models.settings import SETTINGS, Allowed

if TYPE_CHECKING:
    from bert4keras.models.transformer import Transformer

ARCHITECTURES: dict[str, type["Transformer"]] = {}
"""What `model=` may be: the names in `bert4keras.models.architectures`, and those of scripts.

A script adds its own by `ARCHITECTURES["mine"] = Mine`; whatever is asked about architectures is
answered from here.
"""


def architecture_classes(own: type | None = None) -> list[type]:
    """Return all architectures, each once; first `own`, which need not be in the table."""
    return list(dict.fromkeys([*([own] if own else ()), *ARCHITECTURES.values()]))


def families(own: type | None = None) -> dict[str, Family]:
    """Return how Hugging Face describes architectures, by its `model_type`."""
    found: dict[str, Family] = {}
    for architecture in architecture_classes(own):
        for family in architecture.families:
            found.setdefault(family.model_type, family)
    return found


def dialects(own: type | None = None) -> list[Dialect]:
    """Return what differs from the rule in their files, that of `own` first."""
    return list(dict.fromkeys(architecture.dialect for architecture in architecture_classes(own)))


def signatures(own: type | None = None) -> list[Signature]:
    """Return what tells which architecture a weight file is of."""
    classes = [*ARCHITECTURES.values(), *([own] if own else ())]
    return list(dict.fromkeys(s for architecture in classes for s in architecture.signatures))


def allowed_settings(own: type | None = None) -> dict[str, Allowed]:
    """Return what settings may be, of all architectures: a key means the same everywhere."""
    classes = architecture_classes(own)
    return {**SETTINGS, **{k: v for cls in classes for k, v in cls.allowed_settings.items()}}
