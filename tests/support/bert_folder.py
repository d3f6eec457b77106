"""A small random BERT with its tokenizer, in a folder that `transformers` writes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def write_bert(
    folder: Path, tokens: Sequence[str], seed: int = 0, head: str = "BertModel", **settings: Any
) -> Path:
    """Write a model of 2 blocks of size 16 with the vocabulary of special tokens and `tokens`.

    Args:
        folder: an existing folder.
        tokens: the tokens after the special ones.
        seed: seed of the weights.
        head: the class of the model.
        **settings: further settings of the config.

    Returns:
        The folder.
    """
    import torch
    import transformers

    words = [*SPECIAL, *tokens]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        initializer_range=0.3,
        **settings,
    )
    getattr(transformers, head)(config).save_pretrained(folder)
    return folder
