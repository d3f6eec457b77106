"""Activations, and the choice of what 'gelu' means."""

from collections.abc import Callable

import keras
from keras import ops

from bert4keras.backend.saving import registered
from bert4keras.backend.tensors import Tensor


@registered
def gelu_erf(x: Tensor) -> Tensor:
    """Gaussian error linear unit in its exact form (Hendrycks & Gimpel, 2016)."""
    return ops.gelu(x, approximate=False)


@registered
def gelu_tanh(x: Tensor) -> Tensor:
    """Gaussian error linear unit, approximated by a tanh (Hendrycks & Gimpel, 2016)."""
    return ops.gelu(x, approximate=True)


@registered
def swish(x: Tensor) -> Tensor:
    """Compute x · sigmoid(x)."""
    return ops.silu(x)


@registered
def leaky_relu(x: Tensor, alpha: float = 0.2) -> Tensor:
    """Return x where it is positive, `alpha` · x where it is negative."""
    return ops.leaky_relu(x, negative_slope=alpha)


ACTIVATIONS = {
    "gelu": gelu_erf,
    "gelu_erf": gelu_erf,
    "gelu_tanh": gelu_tanh,
    "gelu_new": gelu_tanh,
    "swish": swish,
    "leaky_relu": leaky_relu,
}


def set_gelu(version: str) -> None:
    """Choose what 'gelu' means in models built from now on: 'erf' (the default) or 'tanh'."""
    versions = {"erf": gelu_erf, "tanh": gelu_tanh}
    if version.lower() not in versions:
        raise ValueError(f"set_gelu() takes 'erf' or 'tanh', not {version!r}")
    ACTIVATIONS["gelu"] = versions[version.lower()]


def activation(identifier: str | Callable | dict | None) -> Callable:
    """Look up an activation by name: those of this module first, then those of Keras."""
    if isinstance(identifier, str) and identifier in ACTIVATIONS:
        return ACTIVATIONS[identifier]
    return keras.activations.get(identifier)
