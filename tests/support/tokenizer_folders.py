"""Small tokenizers of the kinds that released models have, trained on the texts of this project.

Each is a folder as `transformers` writes it.
"""

import random
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA_SPLIT = QWEN_SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
CHAT = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}"
)


def lines() -> list[str]:
    """The texts to train on: both README files."""
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README_en.md")]
    return [line for text in texts for line in text.splitlines() if line]


# === The kinds ===


def _bpe(specials: list[str], size: int = 600, **options: Any) -> Any:
    """A byte-level BPE, trained, without what differs between the kinds."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(**options))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=specials,
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines(), trainer)
    return tokenizer


def _split(pattern: str) -> Any:
    from tokenizers import Regex, pre_tokenizers

    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _template(tokenizer: Any, single: str, pair: str) -> Any:
    from tokenizers import processors

    names = {word.split(":")[0] for word in pair.split() if not word.startswith("$")}
    ids = [(name, tokenizer.token_to_id(name)) for name in sorted(names)]
    return processors.TemplateProcessing(single=single, pair=pair, special_tokens=ids)


def qwen(folder: Path) -> Any:
    """Qwen 2.5: NFC, nothing around texts, chats."""
    from tokenizers import normalizers, processors

    tokenizer = _bpe(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _split(QWEN_SPLIT)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    return _fast(tokenizer, **names, chat_template=CHAT)


def qwen_embedding(folder: Path) -> Any:
    """Qwen3-Embedding: the token that ends each text is that of padding, too, and on the left."""
    tokenizer = _bpe(["<|endoftext|>", "<|im_end|>"])
    tokenizer.post_processor = _template(
        tokenizer, "$A <|endoftext|>", "$A <|endoftext|> $B:1 <|endoftext|>:1"
    )
    names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    return _fast(tokenizer, **names, padding_side="left")


def llama3(folder: Path) -> Any:
    """LLaMA 3: a token before texts, numbers of up to three digits, words looked up first."""
    from tokenizers import processors

    specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>"]
    tokenizer = _bpe(specials, ignore_merges=True)
    tokenizer.pre_tokenizer = _split(LLAMA_SPLIT)
    around = _template(
        tokenizer, "<|begin_of_text|> $A", "<|begin_of_text|> $A <|begin_of_text|>:1 $B:1"
    )
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(), around])
    return _fast(tokenizer, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")


def gpt2(folder: Path) -> Any:
    """GPT-2: no normalisation, offsets without spaces."""
    from tokenizers import processors

    tokenizer = _bpe(["<|endoftext|>"])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return _fast(tokenizer, **dict.fromkeys(("bos_token", "eos_token"), "<|endoftext|>"))


def modernbert(folder: Path) -> Any:
    """ModernBERT: byte-level with [CLS] and [SEP], tokens of spaces, a mask that takes a space."""
    from tokenizers import AddedToken, normalizers

    tokenizer = _bpe(["[UNK]", "[CLS]", "[SEP]", "[PAD]"])
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_tokens([AddedToken(" " * n, normalized=True) for n in (2, 3, 4)])
    tokenizer.add_special_tokens([AddedToken("[MASK]", lstrip=True)])
    tokenizer.post_processor = _template(tokenizer, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1")
    names = ("unk_token", "cls_token", "sep_token", "pad_token")
    tokens = ("[UNK]", "[CLS]", "[SEP]", "[PAD]")
    return _fast(tokenizer, mask_token="[MASK]", **dict(zip(names, tokens, strict=True)))


def bert(folder: Path) -> Any:
    """BERT as transformers 5 saves it: WordPiece without a vocab.txt."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=900, special_tokens=tokens, show_progress=False)
    tokenizer.train_from_iterator(lines(), trainer)
    tokenizer.post_processor = _template(tokenizer, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1")
    return _fast(tokenizer, **dict(zip(names, tokens, strict=True)))


def xlmr(folder: Path) -> Any:
    """XLM-RoBERTa: SentencePiece, two tokens between texts, one segment."""
    from transformers import XLMRobertaTokenizer

    sentencepiece(folder / "sentencepiece.bpe.model", pad_id=-1, unk_id=0, bos_id=1, eos_id=2)
    return XLMRobertaTokenizer.from_pretrained(folder)


def t5(folder: Path) -> Any:
    """T5: SentencePiece, a token behind texts, extra tokens."""
    from transformers import T5Tokenizer

    sentencepiece(folder / "spiece.model", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    return T5Tokenizer.from_pretrained(folder)


def llama2(folder: Path) -> Any:
    """LLaMA 2: BPE of SentencePiece, whose characters beyond the vocabulary are bytes."""
    from transformers import LlamaTokenizer

    sentencepiece(
        folder / "tokenizer.model",
        model_type="bpe",
        byte_fallback=True,
        vocab_size=700,
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
    )
    return LlamaTokenizer.from_pretrained(folder)


KINDS: dict[str, Callable[[Path], Any]] = {
    kind.__name__: kind for kind in (qwen, llama3, gpt2, modernbert, bert, xlmr, t5, llama2)
}


def _fast(tokenizer: Any, **options: Any) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **options)


def sentencepiece(path: Path, **options: Any) -> None:
    """Train a model of SentencePiece."""
    import sentencepiece as package

    package.SentencePieceTrainer.train(
        sentence_iterator=iter(lines()),
        model_prefix=str(path.with_suffix("")),
        minloglevel=2,
        **{"vocab_size": 500, "hard_vocab_limit": False, "character_coverage": 0.99, **options},
    )
    path.with_suffix(".vocab").unlink()


def make(kind: str, folder: Path) -> Any:
    """Train a tokenizer, save it in a folder, and return that of `transformers`, loaded again."""
    from transformers import AutoTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        KINDS[kind](folder).save_pretrained(folder)
        return AutoTokenizer.from_pretrained(folder)


# === Texts ===

_RANGES = [
    (0x20, 0x7E),
    (0x20, 0x7E),
    (0xA0, 0x24F),
    (0x300, 0x36F),  # combining marks
    (0x370, 0x3FF),
    (0x400, 0x4FF),
    (0x590, 0x5FF),  # right to left
    (0x600, 0x6FF),
    (0x900, 0x97F),
    (0xE00, 0xE7F),
    (0x1100, 0x11FF),
    (0x3040, 0x30FF),
    (0x4E00, 0x9FFF),
    (0x4E00, 0x9FFF),
    (0xAC00, 0xD7A3),
    (0xFB00, 0xFDFF),
    (0xFF00, 0xFFEF),
    (0x1F300, 0x1FAFF),
    (0x20000, 0x2A6DF),  # ideographs, extension B
    (0x0, 0x1F),
    (0x2000, 0x206F),  # spaces and marks of direction
    (0x1D400, 0x1D7FF),
]
_ODD = [
    "👩‍👩‍👧‍👦",
    "🏳️‍🌈",
    "👍🏽",
    "🇨🇳",
    "e\u0301",
    "각",
    "\u202eabc\u202c",
    "\ufeff",
    "\ufffd",
    "\u200b",
    "\x00",
    "\x7f",
    "\u00ad",
    "▁",
    "▁▁a",
    "Ġ",
    "ﬁ",
    "㍿",
    "ǅ",
    "İ",
    "ß",
    "  ",
    "   ",
    "\t",
    "\n",
    "\r\n",
    "\u3000",
    "\xa0",
    "1234567",
    "3.14",
    "don't",
    "I'll",
    "<s>",
    "</s>",
    "<pad>",
    "<mask>",
    "[MASK]",
    "[CLS]",
    "<|endoftext|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<extra_id_7>",
    "<0xE4>",
]


def texts(number: int, seed: int = 0) -> Iterator[str]:
    """Texts of many scripts: words of one script each, odd characters, and parts of the README."""
    rng = random.Random(seed)
    known = lines()
    makers = [partial(_word, rng), partial(rng.choice, _ODD), partial(_part, rng, known)]
    for _ in range(number):
        parts = (
            rng.choices(makers, (5, 2, 2))[0]() + rng.choice(["", " ", " "])
            for _ in range(rng.randint(0, 8))
        )
        yield "".join(parts)


def _word(rng: random.Random) -> str:
    first, last = rng.choice(_RANGES)
    return "".join(chr(rng.randint(first, last)) for _ in range(rng.randint(1, 8)))


def _part(rng: random.Random, known: list[str]) -> str:
    line = rng.choice(known)
    start = rng.randrange(len(line))
    return line[start : start + rng.randint(1, 20)]
