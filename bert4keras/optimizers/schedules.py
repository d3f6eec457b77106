"""Learning rates by step and by depth."""

import re
from collections.abc import Mapping

import keras

_BLOCK = re.compile(r"^(?P<stack>.*?Transformer-)(?:(?P<index>\d+)-)?")
_EMBEDDING = "Embedding-"


def warmup_cosine(
    warmup_steps: int, total_steps: int, peak: float, final: float = 0.0
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Return a learning rate schedule with linear warm-up and cosine decay.

    Loshchilov & Hutter, "SGDR", 2017, equation 5, without restarts. It is `CosineDecay` of Keras.

    Args:
        warmup_steps: number of steps in which the rate rises from 0, which it is at the first step.
            With 0 steps training starts at the peak.
        total_steps: the step at which the final rate is reached, warm-up included. After that the
            rate is constant.
        peak: the highest learning rate.
        final: the final learning rate, 0 by default.

    Returns:
        A Keras schedule, to be given to an optimizer as `learning_rate`.

    Raises:
        ValueError: the steps or rates are out of order.
    """
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(
            "warmup_steps must be at least 0 and less than total_steps, but got "
            f"warmup_steps={warmup_steps}, total_steps={total_steps}: the total includes the "
            "warm-up."
        )
    if not 0 <= final <= peak or peak == 0:
        raise ValueError(
            f"The rates must satisfy 0 <= final <= peak and peak > 0, but got peak={peak}, "
            f"final={final}."
        )
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup_steps else float(peak),
        decay_steps=total_steps - warmup_steps,
        alpha=final / peak,
        warmup_target=float(peak) if warmup_steps else None,
        warmup_steps=warmup_steps,
    )


def layer_wise_lr_decay(model: keras.Model, decay: float = 0.9) -> dict[str, float]:
    """Return factors of the learning rate that decrease from the top to the bottom of a
    Transformer.

    Howard & Ruder, "Universal Language Model Fine-tuning", 2018, section 3.2, with one rate for
    each block as in ELECTRA (Clark et al., 2020, appendix B). Layers above the blocks
    (pooler, heads, output norms) keep factor 1, the top block gets `decay`, the block below it
    `decay ** 2` and the embeddings below n blocks `decay ** (n + 1)`. In T5 the blocks of encoder
    and decoder are each counted from the top, and the embeddings are below the higher of the two.
    ALBERT, whose layers share one block, has a single block.

        AdamLLRD = extend_with_parameter_wise_lr(Adam, name="AdamLLRD")
        optimizer = AdamLLRD(5e-5, paramwise_lr_schedule=layer_wise_lr_decay(model, 0.9))

    Args:
        model: a model with layers named as in this library (`Transformer-0-…`, `Embedding-…`), with
            any prefix, and any other layers.
        decay: the factor from a block to the next one below it, in (0, 1]; 0.9 by default.

    Returns:
        A `paramwise_lr_schedule` for `extend_with_parameter_wise_lr`: name part → factor.

    Raises:
        ValueError: `decay` is out of range, or no trainable weight belongs to a block.
    """
    if not 0 < decay <= 1:
        raise ValueError(f"decay must be in (0, 1], but got {decay}.")
    paths = [variable.path for variable in model.trainable_variables]
    tops: dict[str, int] = {}
    for found in filter(None, map(_BLOCK.match, paths)):
        tops[found["stack"]] = max(tops.get(found["stack"], 0), int(found["index"] or 0))
    if not tops:
        raise ValueError(
            "No trainable weight of the model is in a block named 'Transformer-…' "
            f"({', '.join(paths[:5]) or 'there are none'}): give a model of "
            "build_transformer_model, or write the paramwise_lr_schedule by hand."
        )
    factors = {}
    for path in paths:
        if found := _BLOCK.match(path):
            depth = tops[found["stack"]] - int(found["index"] or 0) + 1
            factors[found[0]] = decay**depth
        elif _EMBEDDING in path:
            prefix = path[: path.index(_EMBEDDING)]
            factors[prefix + _EMBEDDING] = decay ** (_top(tops, prefix) + 2)
    return _without_overlap(factors)


def _top(tops: Mapping[str, int], prefix: str) -> int:
    """Return the highest index in the stacks above an embedding with this prefix."""
    own = [top for stack, top in tops.items() if stack.startswith(prefix)]
    return max(own or tops.values())


def _without_overlap(factors: Mapping[str, float]) -> dict[str, float]:
    """Adjust factors so that their product over all keys that are part of a name is as intended.

    The key `Transformer-0-` is also part of `Encoder-Transformer-0-`, and factors are multiplied.
    """
    result = {}
    for key in sorted(factors, key=len):
        result[key] = factors[key]
        for part in result:
            if part != key and part in key:
                result[key] /= result[part]
    return result
