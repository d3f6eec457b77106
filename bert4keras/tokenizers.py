"""Tokenizers: texts to tokens and ids, ids to text, tokens to the characters they come from.

What scripts import; the code is in `text/`, and nothing there imports Keras, so that processes
which only tokenize stay light.

* `load_vocab`, `save_vocab` read and write a vocabulary, one token a line.
* `TokenizerBase` adds start and end tokens, truncates and joins any number of texts.
* `Tokenizer` is the WordPiece tokenizer of BERT, with `decode` and `rematch`.
* `SpTokenizer` wraps a SentencePiece model.
* `JsonTokenizer` reads a `tokenizer.json`, `load_tokenizer` the folder of a model.
"""

from bert4keras.text.alphabet import SPACE, without_space
from bert4keras.text.base import TokenizerBase, settled_words
from bert4keras.text.files import TokenizerError
from bert4keras.text.json import JsonTokenizer
from bert4keras.text.pretrained import load_tokenizer
from bert4keras.text.sentencepiece import SpTokenizer
from bert4keras.text.strings import (
    is_string,
    lowercase_and_normalize,
    truncate_sequences,
    well_formed,
)
from bert4keras.text.tables import Table as _Table  # noqa: F401 - under this name in older pickles
from bert4keras.text.vocabulary import VOCAB_FILE, load_vocab, save_vocab, vocab_text
from bert4keras.text.wordpiece import Tokenizer

__all__ = [
    "SPACE",
    "VOCAB_FILE",
    "JsonTokenizer",
    "SpTokenizer",
    "Tokenizer",
    "TokenizerBase",
    "TokenizerError",
    "is_string",
    "load_tokenizer",
    "load_vocab",
    "lowercase_and_normalize",
    "save_vocab",
    "settled_words",
    "truncate_sequences",
    "vocab_text",
    "well_formed",
    "without_space",
]
