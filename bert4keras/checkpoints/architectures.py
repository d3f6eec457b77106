"""Which architecture a weight file is of, told from the names of its variables.

What tells them is not known here: each architecture has its signatures, and hands them in.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bert4keras.checkpoints.base import ARCHITECTURE


@dataclass(frozen=True)
class Signature:
    """What tells an architecture: regular expressions of names that a file has, and that it lacks.

    Official names and those of Hugging Face are spelled alike: `layer/0` for `layer_0`, `layer.0`
    and `layer_000`, `kernel` for `weight`, slashes for dots.

    Attributes:
        model: what `model=` calls the architecture.
        has: of each of these there is a name.
        lacks: of these there is none.
        start: what the names in its first block begin with. What stands before that in all names
            was put there by a wrapper of the model, and does not count.
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
    """Return which architectures a weight file may be of, as `model=` calls them.

    Args:
        names: of its variables, official ones or those of Hugging Face.
        signatures: of the architectures that there are.
        metadata: what the file says of itself.

    Returns:
        None if the names are of nothing known; several where names do not tell them apart.
    """
    text = _comparable(names, [s.start for s in signatures if s.start])
    found = list(dict.fromkeys(s.model for s in signatures if _matches(text, s)))
    said = (metadata or {}).get(ARCHITECTURE)
    return [said] if said in found else found


def twins(model: str, signatures: Iterable[Signature]) -> list[str]:
    """Return an architecture and those with the same official names; nothing if there are none."""
    marks: dict[tuple, list[str]] = {}
    for s in signatures:
        marks.setdefault((s.has, s.lacks), []).append(s.model)
    return next((found for found in marks.values() if len(found) > 1 and model in found), [])


def _comparable(names: Iterable[str], starts: Iterable[str]) -> str:
    """Spell names alike, one a line, without what wrappers of models put before all of them."""
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
