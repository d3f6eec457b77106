"""Rotary and sinusoidal position embeddings."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from bert4keras.backend.saving import registered
from bert4keras.backend.tensors import Tensor, align

ROTARY_SCALING = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor", "original_max_position_embeddings"),
    "yarn": ("factor", "original_max_position_embeddings"),
    "llama3": (
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    ),
}
"""Types of `scaling` of rotary frequencies, with the keys that each of them needs."""

YARN_OPTIONS = (
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "truncate",
)


def scaling_kind(scaling: dict[str, Any] | None) -> str:
    """Return the type of a `scaling` of `rotary_frequencies` after checking its keys.

    Raises:
        ValueError: the type is not known, a key is missing, or there are unknown keys.
    """
    if scaling is None:
        return "default"
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in ROTARY_SCALING:
        raise ValueError(f"rope_type is one of {list(ROTARY_SCALING)}, not {kind!r}")
    needed = set(ROTARY_SCALING[kind])
    known = {*needed, "rope_type", "type", *(YARN_OPTIONS if kind == "yarn" else ())}
    if needed - scaling.keys() or scaling.keys() - known:
        raise ValueError(
            f"scaling of the type {kind!r} needs the keys {sorted(needed)} and knows "
            f"{sorted(known)}, but it has {sorted(scaling)}"
        )
    return kind


def rotary_frequencies(
    dim: int, base: float = 10000.0, scaling: dict[str, Any] | None = None
) -> tuple[np.ndarray, float]:
    """Compute the frequencies of rotary positions, and the factor of sine and cosine.

    Unscaled, they are base^(−2i / dim). Scaling extends a model beyond the length that it was
    trained with. It is a dict with the keys of `rope_scaling` in Hugging Face configs:

    * linear: all are divided by `factor` (Chen et al., 2023, https://arxiv.org/abs/2306.15595);
    * dynamic: computed in `sinusoidal_embeddings`, since it depends on the length;
    * yarn: frequencies with fewer than `beta_slow` (1) rotations within the original length are
      divided by `factor`, those with `beta_fast` (32) or more are kept, and a ramp that is linear
      in i lies between; sine and cosine are multiplied by `attention_factor`, 0.1 · ln factor + 1
      by default (Peng et al., 2023, https://arxiv.org/abs/2309.00071), with `mscale` and
      `mscale_all_dim` the ratio of two such terms (DeepSeek-AI, 2024,
      https://arxiv.org/abs/2405.04434);
    * llama3: likewise, with a ramp that is linear in the number of rotations within the original
      length, from `low_freq_factor` to `high_freq_factor` (Llama 3.1, `apply_scaling` in
      https://github.com/meta-llama/llama-models).

    Args:
        dim: even size of the rotated vectors.
        base: the wavelengths run from 2π to 2π `base`.
        scaling: None, or the dict; `rope_type` (or `type`) is its type.

    Returns:
        (dim / 2,), float64, and the factor.

    Raises:
        ValueError: the scaling has an unknown type or wrong keys.
    """
    kind = scaling_kind(scaling)
    frequencies = np.power(float(base), -2.0 * np.arange(dim // 2) / dim)
    if kind == "linear":
        return frequencies / scaling["factor"], 1.0
    if kind == "yarn":
        return yarn_frequencies(frequencies, dim, base, scaling), yarn_factor(scaling)
    if kind == "llama3":
        rotations = scaling["original_max_position_embeddings"] * frequencies / (2 * np.pi)
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        kept = np.clip((rotations - low) / (high - low), 0, 1)
        return frequencies * (kept + (1 - kept) / scaling["factor"]), 1.0
    return frequencies, 1.0


def yarn_frequencies(
    frequencies: np.ndarray, dim: int, base: float, scaling: dict[str, Any]
) -> np.ndarray:
    """Scale frequencies by YaRN, as described in `rotary_frequencies`."""

    def index_of(rotations: float) -> float:
        length = scaling["original_max_position_embeddings"]
        return dim * np.log(length / (rotations * 2 * np.pi)) / (2 * np.log(base))

    low, high = index_of(scaling.get("beta_fast") or 32), index_of(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        low, high = np.floor(low), np.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    divided = np.clip((np.arange(dim // 2) - low) / max(high - low, 0.001), 0, 1)
    return frequencies * (1 - divided + divided / scaling["factor"])


def yarn_factor(scaling: dict[str, Any]) -> float:
    """Compute the factor of sine and cosine of YaRN, as described in `rotary_frequencies`."""

    def term(scale: float) -> float:
        return 0.1 * scale * np.log(max(scaling["factor"], 1)) + 1

    if scaling.get("attention_factor") is not None:
        return float(scaling["attention_factor"])
    if scaling.get("mscale") and scaling.get("mscale_all_dim"):
        return float(term(scaling["mscale"]) / term(scaling["mscale_all_dim"]))
    return float(term(1))


def sinusoidal_embeddings(
    pos: Tensor, dim: int, base: float = 10000, scaling: dict[str, Any] | None = None
) -> Tensor:
    """Sine and cosine of positions at `dim / 2` wavelengths, interleaved (Vaswani et al., 2017).

    Args:
        pos: (...), integers or floats; always computed in float32, for large positions.
        dim: even size of the last axis.
        base: the wavelengths run from 2π to 2π `base`.
        scaling: as in `rotary_frequencies`. 'dynamic' is dynamic NTK-aware scaling (bloc97 and
            emozilla, 2023, section A.2 of https://arxiv.org/abs/2309.00071): for lengths `n` (the
            largest position plus 1) beyond the original length `m`, the base is multiplied by
            (factor · n / m − factor + 1)^(dim / (dim − 2)).

    Returns:
        (..., dim), float32: sin, cos, sin, cos, …
    """
    if dim % 2:
        raise ValueError(f"sinusoidal embeddings need an even size, not {dim}")
    frequencies, factor = rotary_frequencies(dim, base, scaling)
    frequencies = ops.convert_to_tensor(frequencies, dtype="float32")
    pos = ops.cast(pos, "float32")
    if scaling_kind(scaling) == "dynamic":
        beyond = (ops.max(pos) + 1) / scaling["original_max_position_embeddings"] - 1
        ratio = 1 + scaling["factor"] * ops.maximum(beyond, 0)
        exponents = (-2 * np.arange(dim // 2) / (dim - 2)).astype("float32")
        frequencies = frequencies * ops.power(ratio, exponents)
    angles = ops.expand_dims(pos, -1) * frequencies
    pairs = ops.stack([ops.sin(angles), ops.cos(angles)], axis=-1)
    if factor != 1:
        pairs = pairs * factor
    return ops.reshape(pairs, [*ops.shape(angles)[:-1], dim])


@registered
class Sinusoidal(keras.initializers.Initializer):
    """Initialise a table (positions, dim) with `sinusoidal_embeddings`."""

    def __call__(self, shape: Sequence[int], dtype: Any = None) -> Tensor:
        """Return the table."""
        return ops.cast(sinusoidal_embeddings(np.arange(shape[0]), shape[1]), dtype or "float32")


def initializer(identifier: str | Callable | dict) -> Callable:
    """Look up an initializer by name: 'Sinusoidal' is defined here, all others in Keras."""
    return Sinusoidal() if identifier == "Sinusoidal" else keras.initializers.get(identifier)


def apply_rotary_position_embeddings(
    sinusoidal: Tensor, *tensors: Tensor, half: bool = False
) -> Tensor | list[Tensor]:
    """Rotate pairs of features by the angle of their position.

    RoFormer, Su et al., 2021 (https://arxiv.org/abs/2104.09864).

    Args:
        sinusoidal: (batch or 1, length, dim) from `sinusoidal_embeddings`.
        *tensors: (batch, length, ..., dim), all with the same number of axes.
        half: pair the features (i, i + dim / 2), as in GPT-NeoX and LLaMA, rather than
            (2i, 2i + 1).

    Returns:
        The rotated tensor, or a list of them if several were given.
    """
    if not tensors:
        raise ValueError("apply_rotary_position_embeddings() got no tensor to rotate")
    sinusoidal = align(sinusoidal, [0, 1, -1], len(tensors[0].shape))
    sin, cos = sinusoidal[..., ::2], sinusoidal[..., 1::2]
    if half:
        sin, cos = ops.concatenate([sin, sin], axis=-1), ops.concatenate([cos, cos], axis=-1)
    else:
        sin, cos = ops.repeat(sin, 2, axis=-1), ops.repeat(cos, 2, axis=-1)

    def rotated_by_90(x: Tensor) -> Tensor:
        if half:
            first, second = ops.split(x, 2, axis=-1)
            return ops.concatenate([-second, first], axis=-1)
        pairs = ops.stack([-x[..., 1::2], x[..., ::2]], axis=-1)
        return ops.reshape(pairs, ops.shape(x))

    def rotate(x: Tensor) -> Tensor:
        return x * ops.cast(cos, x.dtype) + rotated_by_90(x) * ops.cast(sin, x.dtype)

    return rotate(tensors[0]) if len(tensors) == 1 else [rotate(x) for x in tensors]
