"""Lines continued by CPM-LM, which answers what a few lines before it show.

    python experiments/basic_language_model_cpm_lm.py --quick
    python experiments/basic_language_model_cpm_lm.py --checkpoint FOLDER
    python experiments/basic_language_model_cpm_lm.py predict 日本的首都是 --checkpoint FOLDER

CPM-LM (Zhang et al., 2020, https://arxiv.org/abs/2012.00413; 2.6 billion weights, as a TensorFlow
checkpoint at https://github.com/bojone/CPM_LM_bert4keras) is a GPT-2. Its text is cut into words by
jieba; the words are joined by spaces and cut into pieces by SentencePiece. Spaces and ends of lines
of the text itself are ▂ and ▃ meanwhile, and ▃ is the token <cls>, at which writing stops. The
prompts show the model what to do: capitals, words of another language, who a sentence is about.

`FOLDER` has `config.json`, the checkpoint and `chinese_vocab.model`. What `--quick` does stands in
`continuing.py`; its vocabulary is trained on the lines that the small model learns. Needs
`pip install jieba sentencepiece`.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

from common import need
from continuing import Family, run

from bert4keras.tokenizers import SpTokenizer

SPACE, LINE = "\u2582", "\u2583"


def cut(text: str) -> list[str]:
    """The words of a text, spaces and ends of lines replaced."""
    with warnings.catch_warnings():
        # Of pkg_resources, and of a file that it leaves open.
        warnings.simplefilter("ignore")
        import jieba

        jieba.setLogLevel("ERROR")
        words = jieba.lcut(text)
    return [word.replace(" ", SPACE).replace("\n", LINE) for word in words]


def clean(text: str) -> str:
    """The text that was meant: without the spaces between words."""
    return text.replace(" ", "").replace(SPACE, " ").replace(LINE, "\n")


def make_vocabulary(folder: Path, texts: Sequence[str]) -> Path:
    """Train a SentencePiece model whose special tokens are those of CPM's."""
    import sentencepiece

    prefix = folder / "chinese_vocab"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(cut(text)) for text in texts]),
        model_prefix=str(prefix),
        vocab_size=400,
        hard_vocab_limit=False,
        character_coverage=1.0,
        control_symbols=["<cls>", "<sep>"],  # after <unk>, <s>, </s>: <cls> is 3
        user_defined_symbols=[SPACE, LINE],
        minloglevel=2,
    )
    prefix.with_suffix(".vocab").unlink()
    return prefix.with_suffix(".model")


FAMILY = Family(
    options={"model": "gpt2"},
    tokenizer=lambda path: SpTokenizer(
        path, token_start=None, token_end=None, pre_tokenize=cut, token_translate={LINE: "<cls>"}
    ),
    end="<cls>",
    maxlen=16,
    minlen=1,
    prompts=(
        "美国的首都是华盛顿\n法国的首都是巴黎\n日本的首都是东京\n中国的首都是",
        "狗 dog\n猫 cat\n猪 pig\n鸟 ",
        "从1931年起，华罗庚在清华大学边学习边工作 华罗庚\n"
        "在一间简陋的房间里，陈景润攻克了“哥德巴赫猜想” 陈景润\n"
        "在这里，丘成桐得到IBM奖学金 ",
    ),
    lessons=(
        ("美国的首都是", "华盛顿"),
        ("法国的首都是", "巴黎"),
        ("日本的首都是", "东京"),
        ("中国的首都是", "北京"),
        ("狗 ", "dog"),
        ("猫 ", "cat"),
        ("猪 ", "pig"),
        ("鸟 ", "bird"),
    ),
    make_vocabulary=make_vocabulary,
    clean=clean,
)


def main(argv: Sequence[str] | None = None) -> dict | None:
    need("jieba", "sentencepiece")
    return run(__file__, __doc__, FAMILY, argv)


if __name__ == "__main__":
    main()
