"""文本分类：BERT 各个 token 的向量取平均，再接一个 softmax，给新闻标题分主题。

    python examples/text_classification.py                          # 自带的权重和数据
    python examples/text_classification.py 国足又输了 房价又涨了        # 训练完给这些句子分类
    python examples/text_classification.py --checkpoint chinese_L-12_H-768_A-12 --data FOLDER

Text classification: a softmax on the mean of BERT's vectors. FOLDER has a file *train* and a file
*dev*, with label<TAB>text in each line, as ChnSentiCorp is published (its header is left out).
"""

import argparse
from collections import Counter
from pathlib import Path

import keras
import numpy as np

from bert4keras.models import Model, build_transformer_model
from bert4keras.optimizers import Adam, extend_with_piecewise_linear_lr
from bert4keras.snippets import TextClassificationGenerator
from bert4keras.tokenizers import Tokenizer

HERE = Path(__file__).parent
SENTENCES = ["国足在决赛中惜败对手", "央行宣布下调贷款利率", "感冒发烧要注意什么"]
MAXLEN = 64  # token 数，含 [CLS] 和 [SEP] / tokens of a text, with [CLS] and [SEP]
BATCH_SIZE = 32

# === 数据 / data ===


def read(folder: Path, part: str) -> list[tuple[str, str]]:
    """Read the texts and labels of a part, train or dev."""
    path = next(folder.glob(f"*{part}*"))
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t", 1) for line in lines if not line.startswith("label\t")]
    return [(text, label) for label, text in rows]


# === 模型 / model ===


def build(checkpoint: Path, n_labels: int) -> Model:
    """Build BERT with a softmax over the labels, (batch, n_labels)."""
    bert = build_transformer_model(checkpoint, dropout_rate=0.1)
    mean = keras.layers.GlobalAveragePooling1D(name="Mean")(bert.output)  # 不含补齐 / no padding
    probabilities = keras.layers.Dense(n_labels, activation="softmax", name="Label")(mean)
    return Model(bert.inputs, probabilities)


# === 训练、评估、预测 / training, evaluation, prediction ===


def main(argv: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sentences", nargs="*", default=SENTENCES, help="what to classify")
    parser.add_argument("--checkpoint", type=Path, default=HERE / "weights/tiny_zh")
    parser.add_argument("--data", type=Path, default=HERE / "data/topics")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("runs/text_classification.keras"))
    args = parser.parse_args(argv)
    if not all(any(args.data.glob(f"*{part}*")) for part in ("train", "dev")):
        parser.error(f"--data {args.data}: expected a file *train* and a file *dev* in this folder")
    keras.utils.set_random_seed(0)

    train, dev = read(args.data, "train"), read(args.data, "dev")
    tokenizer = Tokenizer(args.checkpoint / "vocab.txt", do_lower_case=True)
    batches = TextClassificationGenerator(
        *zip(*train, strict=True), tokenizer, MAXLEN, batch_size=BATCH_SIZE
    )

    model = build(args.checkpoint, len(batches.names))
    steps = args.epochs * len(batches)
    width = model.get_layer("Label").kernel.shape[0]  # 越宽学得越慢 / the wider the slower
    optimizer = extend_with_piecewise_linear_lr(Adam)(
        learning_rate=1e-3 * (128 / width) ** 2,  # 768 维时是 2.8e-5 / 2.8e-5 for a base model
        lr_schedule={steps // 10 + 1: 1, steps + 1: 0},  # 先升后降 / up, then down
    )
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(batches.forfit(), steps_per_epoch=len(batches), epochs=args.epochs, verbose=2)

    texts, right = zip(*dev, strict=True)
    found = batches.predict(model, texts)
    majority = Counter(label for _, label in train).most_common(1)[0][0]
    scores = {
        "accuracy": float(np.mean([a == b for a, b in zip(found, right, strict=True)])),
        "majority": float(np.mean([label == majority for label in right])),
    }
    print(
        f"准确率 / accuracy {scores['accuracy']:.2%}，全猜 / always {majority} "
        f"{scores['majority']:.2%}"
    )

    args.output.parent.mkdir(parents=True, exist_ok=True)
    model.save(args.output)
    model = keras.saving.load_model(args.output)
    probabilities = model.predict_on_batch(batches.inputs(args.sentences))
    for text, row in zip(args.sentences, probabilities, strict=True):
        print(f"{text}  {batches.names[row.argmax()]} {row.max():.2f}")
    return scores


if __name__ == "__main__":
    main()
