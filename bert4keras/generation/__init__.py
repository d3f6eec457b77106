"""Generating text with language models, UniLM and T5 in batches, with a KV cache, on the device.

* `generator` has the class that scripts use: `Generator(model, tokenizer).generate(texts)`.
* `prompts` converts prompts to arrays of few different shapes.
* `decoding` compiles the prefill of prompts and the decode steps.
* `selection` chooses the next tokens: greedy search, sampling, beam search, excluded tokens.
* `options` checks the options of a call, `defaults` reads those of a folder, `hooks` applies the
  caller's functions, and `call` runs one call.
* `autoregressive` is the decoder, in NumPy alone, of scripts that have a `predict` of their own;
  `last_token` runs a model for it.
* `streaming` converts tokens to pieces of text as they are generated.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bert4keras.generation.generator import Generator
    from bert4keras.generation.last_token import LastToken

__all__ = ["Generator", "LastToken"]

_MODULES = {"Generator": "generator", "LastToken": "last_token"}


def __getattr__(name: str) -> object:
    """Import a public class on first access, so that `autoregressive` can be used without Keras."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
