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

from typing import TYPE_CHECKING

from bert4keras.lazy import lazy_imports

if TYPE_CHECKING:
    from bert4keras.generation.generator import Generator
    from bert4keras.generation.last_token import LastToken

__all__ = ["Generator", "LastToken"]

# So that `autoregressive` can be used without Keras.
__getattr__, __dir__ = lazy_imports(
    __name__,
    {
        "Generator": "generator",
        "LastToken": "last_token",
    },
)
