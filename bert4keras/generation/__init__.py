"""Generating text with language models, UniLM and T5: batched, cached, on the device.

* `Generator` is what scripts use: `Generator(model, tokenizer).generate(texts)`.
* `prompts` makes arrays of texts, of few different shapes.
* `decoding` runs prompts once and then one token at a time, as compiled functions.
* `selection` chooses tokens: greedy, sampling, beam search, and what must not come.
* `options` and `hooks` are what the caller wants, `call` is one call with them.
* `last_token` serves scripts that have a `predict` of their own.
* `streaming` makes pieces of text of tokens as they come.
"""

from bert4keras.generation.generator import Generator
from bert4keras.generation.last_token import LastToken

__all__ = ["Generator", "LastToken"]
