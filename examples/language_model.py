"""语言模型：给 BERT 加上下三角的注意力掩码，就能从左往右写；这里学写菜谱。

    python examples/language_model.py                               # 自带的权重和数据
    python examples/language_model.py 土豆红烧羊肉的做法：              # 训练完接着这些开头写
    python examples/language_model.py --checkpoint chinese_L-12_H-768_A-12 --data FOLDER

A language model from a BERT: with application="lm" no token sees those behind it. The folder given
by --data has a file *train* and a file *dev*, a text in each line; --output is a folder.
"""

import argparse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
from keras import ops

from bert4keras.generation import Generator
from bert4keras.layers import Loss
from bert4keras.models import Model, build_transformer_model
from bert4keras.optimizers import Adam, extend_with_piecewise_linear_lr
from bert4keras.snippets import DataGenerator
from bert4keras.tokenizers import Tokenizer

HERE = Path(__file__).parent
SENTENCES = ["土豆红烧羊肉的做法：", "豆腐蒸虾仁的做法："]
MAXLEN = 128  # token 数，含 [CLS] 和 [SEP] / tokens of a text, with [CLS] and [SEP]
BATCH_SIZE = 16

# === 数据 / data ===


def read(folder: Path, part: str) -> list[str]:
    """Read the texts of a part, train or dev."""
    text = next(folder.glob(f"*{part}*")).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line]


class Batches(DataGenerator):
    """Batches of [token ids, segment ids]; the loss needs no labels."""

    def __iter__(self, random: bool = False) -> Iterator:
        batch = []
        for is_end, (token_ids, segment_ids) in self.sample(random):
            batch.append((token_ids, segment_ids))
            if len(batch) == self.batch_size or is_end:
                yield [self.pad(column) for column in zip(*batch, strict=True)], None
                batch = []


# === 模型 / model ===


class NextTokenLoss(Loss):
    """Compare each token with what is expected from those before it."""

    def compute_loss(self, inputs: list, mask: list | None = None):
        token_ids, probabilities = inputs
        is_text = ops.cast(token_ids[:, 1:] > 0, "float32")  # 0 是补齐 / 0 is padding
        losses = keras.losses.sparse_categorical_crossentropy(
            token_ids[:, 1:], probabilities[:, :-1]
        )
        return ops.sum(losses * is_text) / ops.sum(is_text)


def build(checkpoint: Path, steps: int) -> tuple[Model, Model]:
    """Build the language model, (batch, length, vocabulary), and the one of its layers to train."""
    transformer = build_transformer_model(
        checkpoint, application="lm", dropout_rate=0.1, return_keras_model=False
    )
    lm = transformer.model
    model = Model(lm.inputs, NextTokenLoss(output_axis=1)([lm.inputs[0], lm.output]))
    optimizer = extend_with_piecewise_linear_lr(Adam)(
        learning_rate=1e-3 * (128 / transformer.hidden_size) ** 2,  # 2.8e-5 for a base model
        lr_schedule={steps // 10 + 1: 1, steps + 1: 0},  # 先升后降 / up, then down
    )
    model.compile(optimizer)
    return lm, model


# === 评估 / evaluation ===


def perplexity(lm: Model, batches: Batches) -> float:
    """Compute one over the geometric mean of the probabilities of all tokens."""
    logs = []
    for (token_ids, segment_ids), _ in batches:
        found = lm.predict_on_batch([token_ids, segment_ids])[:, :-1]
        next_ids = token_ids[:, 1:]
        right = np.take_along_axis(found, next_ids[:, :, None], axis=2)[:, :, 0]
        logs.extend(np.log(right[next_ids > 0]))
    return float(np.exp(-np.mean(logs)))


def frequency_perplexity(train: list[tuple], dev: list[tuple], n_tokens: int) -> float:
    """Compute the perplexity by the frequency of each token alone: the baseline."""
    counts = Counter(token for token_ids, _ in train for token in token_ids[1:])
    total = counts.total() + n_tokens
    logs = [np.log((counts[i] + 1) / total) for token_ids, _ in dev for i in token_ids[1:]]
    return float(np.exp(-np.mean(logs)))


def main(argv: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sentences", nargs="*", default=SENTENCES, help="how texts begin")
    parser.add_argument("--checkpoint", type=Path, default=HERE / "weights/tiny_zh")
    parser.add_argument("--data", type=Path, default=HERE / "data/recipes")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--output", type=Path, default=Path("runs/language_model"))
    args = parser.parse_args(argv)
    if not all(any(args.data.glob(f"*{part}*")) for part in ("train", "dev")):
        parser.error(f"--data {args.data}: expected a file *train* and a file *dev* in this folder")
    keras.utils.set_random_seed(0)

    tokenizer = Tokenizer(args.checkpoint / "vocab.txt", do_lower_case=True)
    train, dev = (
        [tokenizer.encode(text, maxlen=MAXLEN) for text in read(args.data, part)]
        for part in ("train", "dev")
    )
    batches = Batches(train, BATCH_SIZE, bucket=True)

    lm, model = build(args.checkpoint, args.epochs * len(batches))
    model.fit(batches.forfit(), steps_per_epoch=len(batches), epochs=args.epochs, verbose=2)

    scores = {
        "perplexity": perplexity(lm, Batches(dev, BATCH_SIZE, bucket=True)),
        "frequencies": frequency_perplexity(train, dev, tokenizer._vocab_size),
    }
    print(
        f"困惑度 / perplexity {scores['perplexity']:.2f}，只看字频 / by frequency of tokens "
        f"{scores['frequencies']:.2f}"
    )

    # transformers 也能读的文件夹 / a folder that transformers reads, too
    lm.save_pretrained(args.output, tokenizer)
    lm = build_transformer_model(args.output, application="lm")
    generator = Generator(lm, tokenizer, maxlen=MAXLEN)
    for start, text in zip(
        args.sentences,
        generator.generate(args.sentences, sample=True, topp=0.9, seed=0),
        strict=True,
    ):
        print(start + text)
    return scores


if __name__ == "__main__":
    main()
