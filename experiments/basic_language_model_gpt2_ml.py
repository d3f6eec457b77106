"""Articles continued by GPT2-ML.

    python experiments/basic_language_model_gpt2_ml.py --quick
    python experiments/basic_language_model_gpt2_ml.py --checkpoint FOLDER
    python experiments/basic_language_model_gpt2_ml.py predict 今天天气不错 --checkpoint FOLDER

GPT2-ML (https://github.com/imcaspar/gpt2-ml, 1.5 billion weights) is a GPT-2 whose feed-forward
layers are normalised before and after, and reads its text without [CLS] and [SEP]. It writes until
a full stop, by drawing from the tokens that have 95 % of the probability. `FOLDER` has the config
of the model (`config.json` with the keys of BERT), its checkpoint and `vocab.txt`. What `--quick`
does stands in `continuing.py`.
"""

from collections.abc import Sequence

from continuing import Family, run

from bert4keras.tokenizers import Tokenizer

FAMILY = Family(
    options={"model": "gpt2_ml"},
    tokenizer=lambda path: Tokenizer(path, token_start=None, token_end=None, do_lower_case=True),
    end="。",
    maxlen=256,
    minlen=1,
    prompts=("今天天气不错", "双十一", "科学空间"),
    lessons=(
        ("床前明月光，", "疑是地上霜"),
        ("白日依山尽，", "黄河入海流"),
        ("春眠不觉晓，", "处处闻啼鸟"),
        ("千山鸟飞绝，", "万径人踪灭"),
        ("红豆生南国，", "春来发几枝"),
        ("锄禾日当午，", "汗滴禾下土"),
    ),
)


def main(argv: Sequence[str] | None = None) -> dict | None:
    return run(__file__, __doc__, FAMILY, argv)


if __name__ == "__main__":
    main()
