"""What the settings of a model may be, checked by name before anything is built."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from bert4keras.backend.activations import activation


@dataclass(frozen=True)
class Allowed:
    """What a setting may be: in words, and as a function that tells it."""

    words: str
    holds: Callable[[Any], bool]


def whole(low: int, high: int) -> Allowed:
    """A whole number; True and 2.0 are none."""
    return Allowed(
        f"a whole number from {low} to {high}",
        lambda x: isinstance(x, Integral) and not isinstance(x, bool) and low <= x <= high,
    )


def number(low: float, high: float) -> Allowed:
    """A finite number; True is none."""

    def holds(x: Any) -> bool:
        # Of a whole number with thousands of digits Python makes no float.
        return isinstance(x, Real) and not isinstance(x, bool) and low <= x <= high

    return Allowed(f"a number from {low:g} to {high:g}", holds)


def one_of(*values: Any) -> Allowed:
    """One of some values; 1 does not stand for True."""
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
# The largest models that are published have 2 to 16 times less of everything.
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
"""What all architectures have, by the name of the argument; the others say their own."""


def check_settings(
    settings: Mapping[str, Any],
    given: Mapping[str, Any],
    source: Any,
    keys: Mapping[str, str],
    allowed_settings: Mapping[str, Allowed],
) -> None:
    """Refuse a setting that no model can have.

    Args:
        settings: all of them, by argument; None stands for none.
        given: those of the call, the others are from the config.
        source: what to call the config in the message.
        keys: what the config calls an argument, if it calls it otherwise.
        allowed_settings: what they may be.

    Raises:
        ValueError: one is of another type, or out of bounds.
    """
    for name, allowed in allowed_settings.items():
        value = settings.get(name)
        if value is None or allowed.holds(value):
            continue
        called = name if name in given else keys.get(name, name)
        where = "the call" if called in given else source
        raise ValueError(f"{where} has {called}={_shown(value)}: expected {allowed.words}")


def _shown(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 200:
        return f"a number of {math.ceil(value.bit_length() * math.log10(2))} digits"
    text = repr(value)
    return text if len(text) < 200 else f"{text[:200]}..."
