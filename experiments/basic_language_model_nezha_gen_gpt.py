"""Texts continued by NEZHA-Gen.

    python experiments/basic_language_model_nezha_gen_gpt.py --quick
    python experiments/basic_language_model_nezha_gen_gpt.py --checkpoint FOLDER
    python experiments/basic_language_model_nezha_gen_gpt.py predict 今天天气 --checkpoint FOLDER

NEZHA-Gen (https://github.com/huawei-noah/Pretrained-Language-Model, NEZHA-Gen-TensorFlow) is a
NEZHA, a BERT with fixed vectors of relative positions, in which every token sees what stands before
it only: `application="lm"`. Its head is that of the masked language model. It writes until a full
stop, by drawing from the eight best tokens. `FOLDER` has its config, checkpoint and `vocab.txt`.
What `--quick` does stands in `continuing.py`.
"""

from collections.abc import Sequence

from continuing import Family, run

from bert4keras.tokenizers import Tokenizer

FAMILY = Family(
    options={"model": "nezha", "application": "lm"},
    tokenizer=lambda path: Tokenizer(path, do_lower_case=True),
    end="。",
    maxlen=256,
    minlen=1,
    prompts=("今天天气不错", "双十一", "科学空间"),
    lessons=(
        ("空山不见人，", "但闻人语响"),
        ("君自故乡来，", "应知故乡事"),
        ("松下问童子，", "言师采药去"),
        ("向晚意不适，", "驱车登古原"),
        ("北国风光，", "千里冰封"),
        ("大江东去，", "浪淘尽"),
    ),
    sampling={"topk": 8},
)


def main(argv: Sequence[str] | None = None) -> dict | None:
    return run(__file__, __doc__, FAMILY, argv)


if __name__ == "__main__":
    main()
