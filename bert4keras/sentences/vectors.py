"""Functions of embeddings in NumPy: similarity and quantization."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


def unit_vectors(x: np.ndarray) -> np.ndarray:
    """Normalize vectors (..., size) to length 1; zero vectors stay 0."""
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
"""Similarities (n, m) of vectors (n, size) and (m, size); negative distances."""

PRECISIONS: Mapping[str, Any] = {
    "float32": np.float32,
    "int8": np.int8,
    "uint8": np.uint8,
    "binary": np.int8,
    "ubinary": np.uint8,
}


def check_precision(precision: str) -> None:
    """Raise a ValueError if a precision is unknown."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r} is unknown: give one of {', '.join(PRECISIONS)}")


def quantize_embeddings(
    embeddings: np.ndarray, precision: str, ranges: np.ndarray | None = None
) -> np.ndarray:
    """Quantize embeddings, as in sentence-transformers.

    Args:
        embeddings: (n, size), floats.
        precision: `float32`; `int8` or `uint8` for 256 steps in the range of each dimension;
            `binary` or `ubinary` for one bit for each dimension, whether it is above 0, packed by 8
            into bytes, signed bytes being smaller by 128.
        ranges: (2, size), minimum and maximum of each dimension, for 256 steps; by default those of
            `embeddings`. Embeddings that are compared need the same ranges.

    Returns:
        (n, size), or (n, size / 8 rounded up) for `binary` and `ubinary`.

    Raises:
        ValueError: the precision is unknown, or there are fewer than two vectors for 256 steps and
            no ranges.
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
    """Return the step, 0 to 255, of each value in the range of its dimension."""
    if ranges is None and len(embeddings) < 2:
        raise ValueError(
            f"{len(embeddings)} vector(s) have no range for 256 steps: give ranges=, (2, size), "
            "the minima and maxima of many vectors"
        )
    if ranges is None:
        ranges = np.stack([embeddings.min(axis=0), embeddings.max(axis=0)])
    start, end = np.asarray(ranges, np.float32)
    width = np.where(end > start, (end - start) / 255, 1)
    return np.clip(np.floor((embeddings - start) / width), 0, 255)
