"""Generating text with language models, UniLM and T5: batched, cached, on the device.

* `Generator` is what scripts use: `Generator(model, tokenizer).generate(texts)`.
* `prompts` makes arrays of texts, of few different shapes.
* `decoding` runs prompts once and then one token at a time, as compiled functions.
* `selection` chooses tokens: greedy, sampling, beam search, and what must not come.
* `options` and `hooks` are what the caller wants, `call` is one call with them.
* `autoregressive` is the decoder of scripts that have a `predict` of their own, in numpy alone;
  `last_token` runs a model for it.
* `streaming` makes pieces of text of tokens as they come.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bert4keras.generation.generator import Generator
    from bert4keras.generation.last_token import LastToken

__all__ = ["Generator", "LastToken"]

_ROOMS = {"Generator": "generator", "LastToken": "last_token"}


def __getattr__(name: str) -> object:
    """Import where it is asked for what uses Keras: `autoregressive` does not."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return __all__
