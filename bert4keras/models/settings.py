"""Allowed values of the settings of a model, which are checked before anything is built."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from bert4keras.backend.activations import activation


@dataclass(frozen=True)
class Allowed:
    """Allowed values of a setting.

    Attributes:
        words: description for messages.
        holds: tells whether a value is allowed.
    """

    words: str
    holds: Callable[[Any], bool]


def whole(low: int, high: int) -> Allowed:
    """Allow whole numbers from `low` to `high`, but not True or 2.0."""
    return Allowed(
        f"a whole number from {low} to {high}",
        lambda x: isinstance(x, Integral) and not isinstance(x, bool) and low <= x <= high,
    )


def number(low: float, high: float) -> Allowed:
    """Allow finite numbers from `low` to `high`, but not True."""

    def holds(x: Any) -> bool:
        # Python cannot convert whole numbers with thousands of digits to float.
        return isinstance(x, Real) and not isinstance(x, bool) and low <= x <= high

    return Allowed(f"a number from {low:g} to {high:g}", holds)


def one_of(*values: Any) -> Allowed:
    """Allow the given values, where 1 is not equal to True."""
    return Allowed(
        f"one of {', '.join(map(repr, values))}",
        lambda x: any(type(x) is type(value) and x == value for value in values),
    )


def _is_activation(x: Any) -> bool:
    if isinstance(x, list | tuple):
        return bool(x) and all(map(_is_activation, x))
    try:
        return callable(activation(x))
    except (ValueError, TypeError):
        return False


ACTIVATION = Allowed("the name of an activation, such as 'gelu' or 'relu'", _is_activation)
FLAG = one_of(True, False)
OBJECT = Allowed("an object, or null", lambda x: isinstance(x, Mapping))
# The largest published models stay below these bounds by factors of 2 to 16.
SIZE = whole(1, 1 << 18)
HEADS = whole(1, 1 << 12)
PROBABILITY = number(0, 1)
LENGTH = whole(1, 1 << 26)
BASE = number(1e-6, 1e18)
SETTINGS: Mapping[str, Allowed] = {
    "vocab_size": whole(1, 1 << 24),
    "hidden_size": SIZE,
    "embedding_size": SIZE,
    "intermediate_size": whole(1, 1 << 20),
    "num_hidden_layers": whole(1, 1 << 11),
    "num_attention_heads": HEADS,
    "attention_head_size": whole(1, 1 << 14),
    "attention_key_size": whole(1, 1 << 14),
    "max_position": LENGTH,
    "sequence_length": LENGTH,
    "segment_vocab_size": whole(0, 1 << 16),
    "pad_token_id": whole(-1, 1 << 24),
    "dropout_rate": PROBABILITY,
    "attention_dropout_rate": PROBABILITY,
    "initializer_range": number(0, 1e6),
    "layer_norm_epsilon": number(0, 1),
    "hidden_act": ACTIVATION,
    "residual_attention_scores": FLAG,
}
"""Allowed values of the settings that all architectures share, by the name of the argument."""


def check_settings(
    settings: Mapping[str, Any],
    given: Mapping[str, Any],
    source: Any,
    keys: Mapping[str, str],
    allowed_settings: Mapping[str, Allowed],
) -> None:
    """Raise an error for a setting that no model can have.

    Args:
        settings: all settings by the name of the argument; None if one is not set.
        given: the settings of the call; all others are from the config.
        source: name of the config in the message.
        keys: names of arguments in the config, where these differ.
        allowed_settings: allowed values by the name of the argument.

    Raises:
        ValueError: a setting has the wrong type or is out of bounds.
    """
    for name, allowed in allowed_settings.items():
        value = settings.get(name)
        if value is None or allowed.holds(value):
            continue
        key = name if name in given else keys.get(name, name)
        where = "the call" if key in given else source
        raise ValueError(f"{where} has {key}={_shown(value)}: expected {allowed.words}")


def _shown(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 200:
        return f"a number of {math.ceil(value.bit_length() * math.log10(2))} digits"
    text = repr(value)
    return text if len(text) < 200 else f"{text[:200]}..."
