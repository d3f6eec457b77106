"""Texts: tokenizers of `tokenizer.json`, folders of tokenizers, chats. Nothing here imports Keras.

* `json` is the tokenizer of a `tokenizer.json` of Hugging Face.
* `cutting` makes its vocabulary smaller.
* `pretrained` finds the tokenizer of a folder, and what its files say about generation.
* `chat` makes one text of the messages of a chat, by a template in `sandbox`.
* `files` reads what may be damaged or hostile.
"""
