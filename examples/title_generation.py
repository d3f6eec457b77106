"""标题生成：UniLM，正文在前、标题在后，一个 BERT 既读又写；解码用束搜索。

    python examples/title_generation.py                                   # 自带的权重和数据
    python examples/title_generation.py 青岛读书节昨天上午正式拉开帷幕。    # 训练完给这些正文写标题
    python examples/title_generation.py --checkpoint chinese_L-12_H-768_A-12 --data csl

Titles by UniLM: [CLS] content [SEP] title [SEP] in one BERT, whose title sees only what is before
it. The folder given by --data has a file *train* and a file *dev* with {"title": …, "content": …}
in each line ("abst" in place of "content" as in CSL); --output is a folder.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
from keras import ops

from bert4keras.generation import Generator
from bert4keras.layers import Loss
from bert4keras.metrics import rouge
from bert4keras.models import Model, build_transformer_model
from bert4keras.optimizers import Adam, extend_with_piecewise_linear_lr
from bert4keras.snippets import DataGenerator
from bert4keras.tokenizers import Tokenizer

HERE = Path(__file__).parent
SENTENCES = ["据当地媒体报道，青岛读书节昨天上午正式拉开帷幕，现场秩序良好。"]
MAXLEN = 128  # 正文和标题合计的 token 数 / tokens of content and title together
MAX_TITLE = 32  # 标题的 token 数，含 [SEP] / tokens of a title, with [SEP]
BATCH_SIZE = 16

# === 数据 / data ===


def read(folder: Path, part: str) -> list[tuple[str, str]]:
    """Read the contents and titles of a part, train or dev."""
    lines = next(folder.glob(f"*{part}*")).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [(row.get("content") or row["abst"], row["title"]) for row in rows]


def shortened(content: str) -> str:
    """Cut a content that leaves no room for a title; most characters are one token."""
    return content[: MAXLEN - MAX_TITLE - 2]


class Batches(DataGenerator):
    """Batches of [token ids, segment ids], segment 1 being the title; the loss needs no labels."""

    def __iter__(self, random: bool = False) -> Iterator:
        batch = []
        for is_end, sample in self.sample(random):
            batch.append(sample)
            if len(batch) == self.batch_size or is_end:
                token_ids, segment_ids = zip(*batch, strict=True)
                yield [self.pad(token_ids), self.pad(segment_ids)], None
                batch = []


# === 模型 / model ===


class TitleLoss(Loss):
    """Compare each token of the title with what is expected from those before it."""

    def compute_loss(self, inputs: list, mask: list | None = None):
        token_ids, segment_ids, probabilities = inputs
        of_title = segment_ids[:, 1:]  # 正文不用学 / the content is not to be learnt
        losses = keras.losses.sparse_categorical_crossentropy(
            token_ids[:, 1:], probabilities[:, :-1]
        )
        return ops.sum(losses * of_title) / ops.sum(of_title)


def build(checkpoint: Path, steps: int) -> tuple[Model, Model]:
    """Build the UniLM, (batch, length, vocabulary), and the model of the same layers to train."""
    unilm = build_transformer_model(
        checkpoint, application="unilm", dropout_rate=0.1, return_keras_model=False
    )
    width, unilm = unilm.hidden_size, unilm.model
    model = Model(unilm.inputs, TitleLoss(output_axis=2)([*unilm.inputs, unilm.output]))
    optimizer = extend_with_piecewise_linear_lr(Adam)(
        learning_rate=1e-3 * (128 / width) ** 2,  # 768 维时是 2.8e-5 / 2.8e-5 for a base model
        lr_schedule={steps // 10 + 1: 1, steps + 1: 0},  # 先升后降 / up, then down
    )
    model.compile(optimizer)
    return unilm, model


def write(unilm: Model, tokenizer: Tokenizer, contents: list[str]) -> list[str]:
    """Write titles by beam search, all contents together."""
    generator = Generator(unilm, tokenizer, maxlen=MAX_TITLE)
    return generator.generate([shortened(content) for content in contents], topk=3)


# === 评估 / evaluation ===


def main(argv: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sentences", nargs="*", default=SENTENCES, help="contents without title")
    parser.add_argument("--checkpoint", type=Path, default=HERE / "weights/tiny_zh")
    parser.add_argument("--data", type=Path, default=HERE / "data/titles")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--output", type=Path, default=Path("runs/title_generation"))
    args = parser.parse_args(argv)
    if not all(any(args.data.glob(f"*{part}*")) for part in ("train", "dev")):
        parser.error(f"--data {args.data}: expected a file *train* and a file *dev* in this folder")
    keras.utils.set_random_seed(0)

    train, dev = read(args.data, "train"), read(args.data, "dev")
    tokenizer = Tokenizer(args.checkpoint / "vocab.txt", do_lower_case=True)
    samples = [tokenizer.encode(shortened(c), title, maxlen=MAXLEN) for c, title in train]
    batches = Batches(samples, BATCH_SIZE, bucket=True)

    unilm, model = build(args.checkpoint, args.epochs * len(batches))
    model.fit(batches.forfit(), steps_per_epoch=len(batches), epochs=args.epochs, verbose=2)

    contents, right = map(list, zip(*dev, strict=True))
    found = write(unilm, tokenizer, contents)
    n = round(np.mean([len(title) for _, title in train]))
    scores = {
        "rouge_l": rouge(found, right)["rouge_l"],
        "first_characters": rouge([content[:n] for content in contents], right)["rouge_l"],
        "exact_match": float(np.mean([a == b for a, b in zip(found, right, strict=True)])),
    }
    print(
        f"ROUGE-L {scores['rouge_l']:.4f}，前 {n} 个字 / first {n} characters "
        f"{scores['first_characters']:.4f}，完全相同 / the same {scores['exact_match']:.2%}"
    )

    # transformers 也能读的文件夹 / a folder that transformers reads, too
    unilm.save_pretrained(args.output, tokenizer)
    unilm = build_transformer_model(args.output, application="unilm")
    for content, title in zip(args.sentences, write(unilm, tokenizer, args.sentences), strict=True):
        print(f"{title}  <-  {content}")
    return scores


if __name__ == "__main__":
    main()
