"""句子对：两个问句是不是一个意思？一起送进 BERT，用预训练过的 pooler 接 softmax。

    python examples/sentence_pairs.py                               # 自带的权重和数据
    python examples/sentence_pairs.py 护照丢了怎么办 护照找不到了       # 训练完比较这两句
    python examples/sentence_pairs.py --checkpoint chinese_L-12_H-768_A-12 --data LCQMC

Do two questions mean the same? Both go into one BERT, a softmax on its pooler tells. The folder
given by --data has a file *train* and a file *dev*, in each line text<TAB>text<TAB>label, as LCQMC
is published.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np

from bert4keras.models import Model, build_transformer_model
from bert4keras.optimizers import Adam, extend_with_piecewise_linear_lr
from bert4keras.snippets import TextClassificationGenerator
from bert4keras.tokenizers import Tokenizer

HERE = Path(__file__).parent
SENTENCES = ["护照丢了怎么办", "我的护照找不到了", "护照丢了怎么办", "补办护照多少钱"]
MAXLEN = 64  # 两句合计的 token 数 / tokens of both texts together
BATCH_SIZE = 32

# === 数据 / data ===


def read(folder: Path, part: str) -> list[tuple[str, str, int]]:
    """Read the pairs and labels of a part, train or dev."""
    lines = next(folder.glob(f"*{part}*")).read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines]
    return [(first, second, int(label)) for first, second, label in rows if label.isdigit()]


class Batches(TextClassificationGenerator):
    """Batches of pairs; either text comes first half of the time."""

    def sample(self, random: bool = False) -> Iterator:
        for is_end, (pair, label) in super().sample(random):
            swapped = random and np.random.rand() < 0.5  # noqa: NPY002 - seeded by set_random_seed
            yield is_end, (pair[::-1] if swapped else pair, label)


# === 模型 / model ===


def build(checkpoint: Path) -> Model:
    """Build BERT with a softmax over (different, same), (batch, 2)."""
    bert = build_transformer_model(checkpoint, with_pool=True, dropout_rate=0.1)
    return Model(bert.inputs, keras.layers.Dense(2, activation="softmax", name="Same")(bert.output))


def overlap(first: str, second: str) -> float:
    """Measure how many of the characters of two texts are in both (Jaccard)."""
    return len(set(first) & set(second)) / len(set(first) | set(second))


def overlap_accuracy(train: list[tuple], dev: list[tuple]) -> float:
    """Tell pairs by overlap alone, with the threshold that is best for training."""
    shared = np.array([overlap(a, b) for a, b, _ in train])
    labels = np.array([label for *_, label in train])
    best = max(np.unique(shared), key=lambda threshold: np.mean((shared >= threshold) == labels))
    return float(np.mean([(overlap(a, b) >= best) == label for a, b, label in dev]))


# === 训练、评估、预测 / training, evaluation, prediction ===


def main(argv: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sentences", nargs="*", default=SENTENCES, help="two and two: pairs")
    parser.add_argument("--checkpoint", type=Path, default=HERE / "weights/tiny_zh")
    parser.add_argument("--data", type=Path, default=HERE / "data/pairs")
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--output", type=Path, default=Path("runs/sentence_pairs.keras"))
    args = parser.parse_args(argv)
    if not all(any(args.data.glob(f"*{part}*")) for part in ("train", "dev")):
        parser.error(f"--data {args.data}: expected a file *train* and a file *dev* in this folder")
    if len(args.sentences) % 2:
        parser.error(f"{len(args.sentences)} sentences: sentences come in twos")
    keras.utils.set_random_seed(0)

    train, dev = read(args.data, "train"), read(args.data, "dev")
    tokenizer = Tokenizer(args.checkpoint / "vocab.txt", do_lower_case=True)
    batches = Batches(
        [(first, second) for first, second, _ in train],
        [label for *_, label in train],
        tokenizer,
        MAXLEN,
        batch_size=BATCH_SIZE,
    )

    model = build(args.checkpoint)
    steps = args.epochs * len(batches)
    width = model.get_layer("Same").kernel.shape[0]
    optimizer = extend_with_piecewise_linear_lr(Adam)(
        learning_rate=1e-3 * (128 / width) ** 2,  # 768 维时是 2.8e-5 / 2.8e-5 for a base model
        lr_schedule={steps // 10 + 1: 1, steps + 1: 0},  # 先升后降 / up, then down
    )
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(batches.forfit(), steps_per_epoch=len(batches), epochs=args.epochs, verbose=2)

    found = batches.predict(model, [(first, second) for first, second, _ in dev])
    scores = {
        "accuracy": float(np.mean(np.equal(found, [label for *_, label in dev]))),
        "overlap": overlap_accuracy(train, dev),
        "majority": float(np.mean([label == 1 for *_, label in dev])),
    }
    scores["majority"] = max(scores["majority"], 1 - scores["majority"])
    print(
        f"准确率 / accuracy {scores['accuracy']:.2%}，只看相同的字 / by shared characters "
        f"{scores['overlap']:.2%}，全猜一类 / majority {scores['majority']:.2%}"
    )

    args.output.parent.mkdir(parents=True, exist_ok=True)
    model.save(args.output)
    model = keras.saving.load_model(args.output)
    pairs = list(zip(args.sentences[::2], args.sentences[1::2], strict=True))
    probabilities = model.predict_on_batch(batches.inputs(pairs))[:, 1]
    for (first, second), same in zip(pairs, probabilities, strict=True):
        print(f"{first} | {second}  {same:.2f}")
    return scores


if __name__ == "__main__":
    main()
