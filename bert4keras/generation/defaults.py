"""What the folder of a model says about generation, where the caller says nothing."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from bert4keras.generation.options import OTHERWISE, Options
from bert4keras.models.transformer import Transformer
from bert4keras.text.generation_config import listed

MAXLEN = 64
"""How many tokens are written at most if nobody says anything."""


@dataclass(frozen=True)
class Defaults:
    """Arguments of `Generator` and of its `generate`, where the caller leaves them out.

    Attributes:
        end_ids: tokens that end an output.
        start_id: token that the output of a decoder with an encoder begins with.
        maxlen: how many tokens are written at most.
        minlen: how many tokens are written at least.
        options: those of `OTHERWISE` that the folder says.
    """

    end_ids: tuple[int, ...]
    start_id: int
    maxlen: int
    minlen: int
    options: Mapping[str, Any]

    def completed(self, given: Options, **lengths: int) -> Options:
        """Fill in what the caller left out.

        Options of beam search say that nothing is drawn. What a folder says about drawing counts
        for nothing if nothing is drawn, and the other way round; what it says about beams counts
        for nothing in a stream, which has none.

        Args:
            given: the options, None where the caller left them out.
            **lengths: `maxlen` and `minlen` of the generator.
        """
        drawn = self.options.get("sample", False)
        sample = given.sample
        if sample is None:
            of_beams = (given.topk, given.length_penalty, given.groups, given.diversity)
            sample = all(option is None for option in of_beams) and drawn
        options = {**OTHERWISE, **lengths, "sample": sample}
        if sample == drawn and (sample or not given.stream):
            options |= self.options
        return replace(
            given, **{name: x for name, x in options.items() if getattr(given, name) is None}
        )


def defaults_of(transformer: Transformer, tokenizer: Any) -> Defaults:
    """Return what the folder of a model says, or else that of its tokenizer."""
    config = transformer.generation_config or getattr(tokenizer, "generation_config", {})
    ends = [*listed(config.get("eos_token_id")), getattr(tokenizer, "_token_end_id", None)]
    start = config.get("decoder_start_token_id")
    return Defaults(
        end_ids=known(ends, transformer.vocab_size),
        start_id=next(iter(known([start], transformer.vocab_size)), 0),
        maxlen=config.get("max_new_tokens", MAXLEN),
        minlen=config.get("min_new_tokens", 1),
        options=options_of(config, transformer.vocab_size),
    )


def known(ids: Iterable[Any], vocab_size: int) -> tuple[int, ...]:
    """Return those of some ids that a vocabulary has: configs name tokens of others, too."""
    return tuple(dict.fromkeys(i for i in ids if isinstance(i, int) and 0 <= i < vocab_size))


def options_of(config: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
    """Return what a config says about the choice of tokens, by the names of `generate`."""
    beams = config.get("num_beams", 1)
    if config.get("do_sample"):
        topk, topp = config.get("top_k", 0), config.get("top_p", 1.0)
        found = {
            "sample": True,
            "topk": min(topk, vocab_size) if topk > 0 else None,
            "topp": topp if topp < 1 else None,
            "min_p": config.get("min_p"),
            "temperature": config.get("temperature"),
        }
    else:
        found = {"topk": beams, "length_penalty": config.get("length_penalty", 1.0)}
        found = found if beams > 1 else {}
    return {name: value for name, value in found.items() if value is not None}
