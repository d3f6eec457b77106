"""Transformer models for Chinese NLP in Keras 3.

Importing the package imports nothing else: `bert4keras.tokenizers`, `bert4keras.snippets` and
`bert4keras.checkpoints` work without Keras, and `bert4keras.models` starts only the backend that
`KERAS_BACKEND` names.
"""

__version__ = "1.0.0.dev0"
