"""What is done with sentence vectors in numpy: comparing them, making them small."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


def unit_vectors(x: np.ndarray) -> np.ndarray:
    """Divide vectors (..., size) by their length; 0 stays 0."""
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def _euclidean(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    squares = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1) - 2 * a @ b.T
    return -np.sqrt(np.maximum(squares, 0))


def _manhattan(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return -np.stack([np.abs(row - b).sum(axis=1) for row in a])


SIMILARITIES: Mapping[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "cosine": lambda a, b: unit_vectors(a) @ unit_vectors(b).T,
    "dot": lambda a, b: a @ b.T,
    "euclidean": _euclidean,
    "manhattan": _manhattan,
}
"""How near vectors (n, size) and (m, size) are, (n, m); distances with a minus."""

PRECISIONS: Mapping[str, Any] = {
    "float32": np.float32,
    "int8": np.int8,
    "uint8": np.uint8,
    "binary": np.int8,
    "ubinary": np.uint8,
}


def check_precision(precision: str) -> None:
    """Refuse a precision that vectors cannot have."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r} is unknown; there are {', '.join(PRECISIONS)}")


def quantize_embeddings(
    embeddings: np.ndarray, precision: str, ranges: np.ndarray | None = None
) -> np.ndarray:
    """Make vectors small, as sentence-transformers does.

    Args:
        embeddings: (n, size), floats.
        precision: `float32`; `int8` or `uint8`, 256 steps between the ends of a range, a byte each;
            `binary` or `ubinary`, whether a number is above 0, 8 in a byte, which as a signed byte
            is 128 less.
        ranges: (2, size), the least and the largest value of each number, for 256 steps. Vectors
            that are compared need the same ones. By default those of `embeddings`.

    Returns:
        (n, size), or (n, size / 8 rounded up) for `binary` and `ubinary`.

    Raises:
        ValueError: another precision; 256 steps for fewer than two vectors without ranges.
    """
    check_precision(precision)
    embeddings = np.asarray(embeddings)
    if precision == "float32":
        return embeddings.astype(np.float32)
    offset = 0 if precision.startswith("u") else 128
    if precision.endswith("binary"):
        steps = np.packbits(embeddings > 0, axis=-1)
    else:
        steps = _steps(embeddings, ranges)
    return (steps.astype(np.int16) - offset).astype(PRECISIONS[precision])


def _steps(embeddings: np.ndarray, ranges: np.ndarray | None) -> np.ndarray:
    """The step, 0 to 255, of each number between the ends of its range."""
    if ranges is None and len(embeddings) < 2:
        raise ValueError(
            f"{len(embeddings)} vector(s) give no range for 256 steps: give ranges=, (2, size), "
            "the least and the largest values of many vectors"
        )
    if ranges is None:
        ranges = np.stack([embeddings.min(axis=0), embeddings.max(axis=0)])
    start, end = np.asarray(ranges, np.float32)
    width = np.where(end > start, (end - start) / 255, 1)
    return np.clip(np.floor((embeddings - start) / width), 0, 255)
