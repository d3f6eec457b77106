"""Texts: strings, vocabularies, tokenizers, chats. Nothing here imports Keras.

* `strings` has functions of texts; `characters` classifies characters.
* `vocabulary` reads and writes WordPiece vocabularies, one token per line.
* `base` is the base of all tokenizers, `wordpiece` the tokenizer of BERT, `sentencepiece` that of a
  SentencePiece model, `fairseq` that of XLM-RoBERTa.
* `json` is the tokenizer of a `tokenizer.json` of Hugging Face, which `json_file` reads.
* `cutting` reduces its vocabulary.
* `pretrained` finds the tokenizer in a folder, `generation_config` reads its settings of
  generation; `saving` writes such files.
* `chat` renders the messages of a chat as one text, by a template that runs in `sandbox`.
* `alphabet` defines how tokens represent bytes and spaces; `tables` are caches filled on demand.
* `files` reads files that may be damaged or hostile.
"""
