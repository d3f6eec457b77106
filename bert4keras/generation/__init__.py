"""Generating text with language models, UniLM and T5: batched, cached, on the device.

* `Generator` is what scripts use: `Generator(model, tokenizer).generate(texts)`.
* `prompts` makes arrays of texts, of few different shapes.
* `decoding` runs prompts once and then one token at a time, as compiled functions.
* `selection` chooses tokens: greedy, sampling, beam search, and what must not come.
* `streaming` makes pieces of text of tokens as they come.
"""

from bert4keras.generation.generator import Generator

__all__ = ["Generator"]
