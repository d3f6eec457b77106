"""Detection of the architecture of a weight file from the names of its variables.

The signatures of architectures are defined by each architecture and passed in.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bert4keras.checkpoints.base import ARCHITECTURE


@dataclass(frozen=True)
class Signature:
    """Signature of an architecture: patterns of names that its files have, and do not have.

    Official names and those of Hugging Face are normalised: `layer/0` for `layer_0`, `layer.0` and
    `layer_000`, `kernel` for `weight`, slashes for dots.

    Attributes:
        model: the architecture as in `model=`.
        has: regular expressions, each of which matches a name.
        lacks: regular expressions, none of which matches a name.
        start: the prefix of the names in the first block. Anything before it in all names comes
            from a wrapper of the model, and is ignored.
    """

    model: str
    has: tuple[str, ...]
    lacks: tuple[str, ...] = ()
    start: str = ""


_NUMBERED = r"(layers?|h|block)[_/]?0*(\d+)(?=/)"


def architectures(
    names: Iterable[str],
    signatures: Sequence[Signature],
    metadata: Mapping[str, str] | None = None,
) -> list[str]:
    """Return the possible architectures of a weight file, as in `model=`.

    Args:
        names: names of its variables, official ones or those of Hugging Face.
        signatures: signatures of all architectures.
        metadata: metadata of the file.

    Returns:
        An empty list if the names are unknown; several if names do not distinguish them.
    """
    text = _normalised(names, [s.start for s in signatures if s.start])
    found = list(dict.fromkeys(s.model for s in signatures if _matches(text, s)))
    stated = (metadata or {}).get(ARCHITECTURE)
    return [stated] if stated in found else found


def twins(model: str, signatures: Iterable[Signature]) -> list[str]:
    """Return an architecture and those with the same official names, or an empty list."""
    groups: dict[tuple, list[str]] = {}
    for s in signatures:
        groups.setdefault((s.has, s.lacks), []).append(s.model)
    return next((found for found in groups.values() if len(found) > 1 and model in found), [])


def _normalised(names: Iterable[str], starts: Iterable[str]) -> str:
    """Normalise names, one per line, without the prefix of a wrapper of the model."""
    lines = (name.replace(".", "/") for name in names)
    text = "\n".join(re.sub(_NUMBERED, r"\1/\2", line) for line in lines)
    text = re.sub(r"/weight$", "/kernel", text, flags=re.MULTILINE)
    block = "|".join(dict.fromkeys(starts))
    start = re.search(f"^(.*?)(?:{block})", text, re.MULTILINE) if block else None
    return re.sub(f"^{re.escape(start[1])}", "", text, flags=re.MULTILINE) if start else text


def _matches(text: str, signature: Signature) -> bool:
    def has(pattern: str) -> bool:
        return re.search(f"^{pattern}$", text, re.MULTILINE) is not None

    return all(map(has, signature.has)) and not any(map(has, signature.lacks))
