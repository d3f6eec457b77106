"""Defaults of generation, which the folder of a model sets where the caller gives nothing."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from bert4keras.generation.options import FALLBACKS, Options
from bert4keras.models.transformer import Transformer
from bert4keras.text.generation_config import listed

MAXLEN = 64
"""Largest number of tokens that are written, if neither the caller nor a folder sets it."""


@dataclass(frozen=True)
class Defaults:
    """Values of arguments of `Generator` and of its `generate` that the caller leaves out.

    Attributes:
        end_ids: tokens that end an output.
        start_id: token that the output of a decoder with an encoder begins with.
        maxlen: largest number of tokens that are written.
        minlen: smallest number of tokens that are written.
        options: those of `FALLBACKS` that the folder sets.
    """

    end_ids: tuple[int, ...]
    start_id: int
    maxlen: int
    minlen: int
    options: Mapping[str, Any]

    def fill_in(self, given: Options, **lengths: int) -> Options:
        """Fill in the options that the caller left out.

        A caller who gives an option of beam search does not sample. The folder's options of
        sampling are ignored unless tokens are sampled, and its options of beam search are ignored
        if tokens are sampled or streamed.

        Args:
            given: the options, None where the caller left them out.
            **lengths: `maxlen` and `minlen` of the generator.

        Returns:
            The options, complete.
        """
        folder_samples = self.options.get("sample", False)
        sample = given.sample
        if sample is None:
            beam_options = (given.topk, given.length_penalty, given.groups, given.diversity)
            sample = all(option is None for option in beam_options) and folder_samples
        options = {**FALLBACKS, **lengths, "sample": sample}
        if sample == folder_samples and (sample or not given.stream):
            options |= self.options
        return replace(
            given, **{name: x for name, x in options.items() if getattr(given, name) is None}
        )


def defaults_of(transformer: Transformer, tokenizer: Any) -> Defaults:
    """Return the defaults set by the folder of a model, or else by that of its tokenizer."""
    config = transformer.generation_config or getattr(tokenizer, "generation_config", {})
    end_ids = [*listed(config.get("eos_token_id")), getattr(tokenizer, "_token_end_id", None)]
    start_id = config.get("decoder_start_token_id")
    return Defaults(
        end_ids=ids_in_vocabulary(end_ids, transformer.vocab_size),
        start_id=next(iter(ids_in_vocabulary([start_id], transformer.vocab_size)), 0),
        maxlen=config.get("max_new_tokens", MAXLEN),
        minlen=config.get("min_new_tokens", 1),
        options=options_from_config(config, transformer.vocab_size),
    )


def ids_in_vocabulary(ids: Iterable[Any], vocab_size: int) -> tuple[int, ...]:
    """Return the distinct ids below `vocab_size`; configs also name tokens that a model lacks."""
    return tuple(dict.fromkeys(i for i in ids if isinstance(i, int) and 0 <= i < vocab_size))


def options_from_config(config: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
    """Convert a config's settings for choosing tokens to options of `generate`."""
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
