"""Texts: strings, vocabularies, tokenizers, chats. Nothing here imports Keras.

* `strings` is what is done to texts; `characters` tells their classes apart.
* `vocabulary` reads and writes the tokens of WordPiece, one a line.
* `base` is what all tokenizers share, `wordpiece` the tokenizer of BERT, `sentencepiece` that of a
  SentencePiece model, `fairseq` the one of XLM-RoBERTa.
* `json` is the tokenizer of a `tokenizer.json` of Hugging Face, which `json_file` reads.
* `cutting` makes its vocabulary smaller.
* `pretrained` finds the tokenizer of a folder, `generation_config` what its files say about
  generation; `saving` writes such files.
* `chat` makes one text of the messages of a chat, by a template in `sandbox`.
* `alphabet` is how bytes and spaces are written in tokens, `tables` are filled as texts need them.
* `files` reads what may be damaged or hostile.
"""
