"""完形填空：在自己的文本上继续做掩码预训练（MLM），再填句子里的 [MASK]。

    python examples/masked_prediction.py                                # 自带的权重和数据
    python examples/masked_prediction.py 锅里放[MASK]烧热，下牛[MASK]炒到变色  # 训练完填这些空
    python examples/masked_prediction.py --checkpoint chinese_L-12_H-768_A-12 --data FOLDER

Masked prediction: pretraining goes on with texts of one's own, then gaps are filled. The folder
given by --data has a file *train* and a file *dev*, a text in each line; --output is a folder,
which ner_crf.py and most others take as --checkpoint (sentence_pairs.py needs a pooler besides).
"""

import argparse
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
from keras import ops

from bert4keras.layers import Loss
from bert4keras.models import Model, build_transformer_model
from bert4keras.optimizers import Adam, extend_with_piecewise_linear_lr
from bert4keras.snippets import DataGenerator, sequence_padding
from bert4keras.tokenizers import Tokenizer

# ruff: noqa: NPY002 - keras.utils.set_random_seed 定下 np.random / seeds np.random
HERE = Path(__file__).parent
SENTENCES = ["锅里放[MASK]烧热，下牛[MASK]炒到变色", "最后加[MASK]调味"]
MAXLEN = 128  # token 数，含 [CLS] 和 [SEP] / tokens of a text, with [CLS] and [SEP]
BATCH_SIZE = 16
SHARE = 0.15  # 被遮住的 token 所占比例 / how many of the tokens are hidden

# === 数据 / data ===


def read(folder: Path, part: str) -> list[str]:
    """Read the texts of a part, train or dev."""
    text = next(folder.glob(f"*{part}*")).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line]


def hide(token_ids: list[int], tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Hide tokens at random as BERT does; the labels are the hidden ones, 0 where none is.

    Of the hidden ones 80 % become [MASK], 10 % any token, 10 % stay.
    """
    ids = np.array(token_ids)
    hidden = np.random.rand(len(ids)) < SHARE
    hidden[[0, -1]] = False  # [CLS] 和 [SEP]
    labels, kind = np.where(hidden, ids, 0), np.random.rand(len(ids))
    others = np.random.randint(5, tokenizer._vocab_size, len(ids))
    seen = np.where(hidden & (kind < 0.8), tokenizer._token_mask_id, ids)
    return np.where(hidden & (kind >= 0.9), others, seen), labels


class Batches(DataGenerator):
    """Batches of [token ids, segment ids, labels], with other tokens hidden in each pass."""

    def __init__(self, samples: list, tokenizer: Tokenizer) -> None:
        super().__init__(samples, BATCH_SIZE, bucket=len)
        self.tokenizer = tokenizer

    def __iter__(self, random: bool = False) -> Iterator:
        batch = []
        for is_end, token_ids in self.sample(random):
            batch.append(hide(token_ids, self.tokenizer))
            if len(batch) == self.batch_size or is_end:
                token_ids, labels = (self.pad(column) for column in zip(*batch, strict=True))
                yield [token_ids, np.zeros_like(token_ids), labels], None
                batch = []


# === 模型 / model ===


class MaskedLoss(Loss):
    """Compare what is predicted for hidden tokens with what they were."""

    def compute_loss(self, inputs: list, mask: list | None = None):
        labels, probabilities = inputs
        hidden = ops.cast(labels > 0, "float32")
        losses = keras.losses.sparse_categorical_crossentropy(labels, probabilities)
        return ops.sum(losses * hidden) / ops.maximum(ops.sum(hidden), 1)


def build(checkpoint: Path, steps: int) -> tuple[Model, Model]:
    """Build BERT with its MLM head, (batch, length, vocabulary), and the model to train."""
    transformer = build_transformer_model(
        checkpoint, with_mlm=True, dropout_rate=0.1, return_keras_model=False
    )
    mlm = transformer.model
    labels = keras.Input((None,), dtype="int32", name="Labels")
    model = Model([*mlm.inputs, labels], MaskedLoss(output_axis=1)([labels, mlm.output]))
    optimizer = extend_with_piecewise_linear_lr(Adam)(
        learning_rate=5e-4 * (128 / transformer.hidden_size) ** 2,  # 1.4e-5 for a base model
        lr_schedule={steps // 10 + 1: 1, steps + 1: 0},  # 先升后降 / up, then down
    )
    model.compile(optimizer)
    return mlm, model


def fill(mlm: Model, tokenizer: Tokenizer, texts: list[str]) -> list[str]:
    """Put the most probable token into each [MASK] of texts."""
    parts = [re.split(r"(\[MASK\])", text) for text in texts]
    rows = []
    for each in parts:
        tokens = [t for p in each for t in ([p] if p == "[MASK]" else tokenizer.tokenize(p)[1:-1])]
        rows.append(tokenizer.tokens_to_ids(["[CLS]", *tokens, "[SEP]"]))
    token_ids = sequence_padding(rows, MAXLEN)
    found = mlm.predict([token_ids, np.zeros_like(token_ids)], batch_size=16, verbose=0)
    filled = []
    for text, ids, each in zip(texts, token_ids, found, strict=True):
        for i in each[ids == tokenizer._token_mask_id].argmax(axis=1):
            text = text.replace("[MASK]", tokenizer.id_to_token(i), 1)
        filled.append(text)
    return filled


# === 评估 / evaluation ===


def accuracy(mlm: Model, batches: list) -> float:
    """Compute how many hidden tokens are found."""
    right = []
    for (token_ids, segment_ids, labels), _ in batches:
        found = mlm.predict_on_batch([token_ids, segment_ids]).argmax(axis=2)
        right.extend((found == labels)[labels > 0])
    return float(np.mean(right))


def main(argv: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sentences", nargs="*", default=SENTENCES, help="texts with [MASK]")
    parser.add_argument("--checkpoint", type=Path, default=HERE / "weights/tiny_zh")
    parser.add_argument("--data", type=Path, default=HERE / "data/recipes")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--output", type=Path, default=Path("runs/masked_prediction"))
    args = parser.parse_args(argv)
    if not all(any(args.data.glob(f"*{part}*")) for part in ("train", "dev")):
        parser.error(f"--data {args.data}: expected a file *train* and a file *dev* in this folder")
    keras.utils.set_random_seed(0)

    tokenizer = Tokenizer(args.checkpoint / "vocab.txt", do_lower_case=True)
    train, dev = (
        [tokenizer.encode(text, maxlen=MAXLEN)[0] for text in read(args.data, part)]
        for part in ("train", "dev")
    )
    batches, test = Batches(train, tokenizer), list(Batches(dev, tokenizer))

    mlm, model = build(args.checkpoint, args.epochs * len(batches))
    before = accuracy(mlm, test)
    model.fit(batches.forfit(), steps_per_epoch=len(batches), epochs=args.epochs, verbose=2)

    most_frequent = Counter(i for ids in train for i in ids[1:-1]).most_common(1)[0][0]
    hidden = np.concatenate([labels[labels > 0] for (*_, labels), _ in test])
    scores = {
        "accuracy": accuracy(mlm, test),
        "before": before,
        "most_frequent": float(np.mean(hidden == most_frequent)),
    }
    print(
        f"填对的 / found {scores['accuracy']:.2%}，训练前 / before {before:.2%}，"
        f"总填最常见的字 / always the most frequent {scores['most_frequent']:.2%}"
    )

    # transformers 也能读的文件夹 / a folder that transformers reads, too
    mlm.save_pretrained(args.output, tokenizer)
    mlm = build_transformer_model(args.output, with_mlm=True)
    print(*fill(mlm, tokenizer, args.sentences), sep="\n")
    return scores


if __name__ == "__main__":
    main()
