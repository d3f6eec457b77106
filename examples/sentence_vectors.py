"""句向量：各 token 向量的平均，用 CoSENT 损失训练，余弦越大意思越近。

    python examples/sentence_vectors.py                                  # 自带的权重和数据
    python examples/sentence_vectors.py 护照丢了 护照找不到了 宽带多少钱     # 训练完比较这些句子
    python examples/sentence_vectors.py --checkpoint chinese_L-12_H-768_A-12 --data sts-b

Sentence vectors whose cosine says how near two meanings are, by CoSENT
(https://kexue.fm/archives/8847). The folder given by --data has a file *train* and a file *dev*
with text<TAB>text<TAB>score in each line, as the Chinese STS-B is published (LCQMC will do, too).
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
from keras import ops

from bert4keras.models import Model, build_transformer_model
from bert4keras.optimizers import Adam, extend_with_piecewise_linear_lr
from bert4keras.snippets import DataGenerator, sequence_padding
from bert4keras.tokenizers import Tokenizer

HERE = Path(__file__).parent
SENTENCES = ["护照丢了怎么办", "我的护照找不到了", "宽带一年多少钱", "今天天气很好"]
MAXLEN = 64  # token 数，含 [CLS] 和 [SEP] / tokens of a text, with [CLS] and [SEP]
BATCH_SIZE = 32  # 句对 / pairs

# === 数据 / data ===


def read(folder: Path, part: str) -> list[tuple[str, str, float]]:
    """Read the pairs of a part, train or dev, and how near they are."""
    lines = next(folder.glob(f"*{part}*")).read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines if line[-1:].isdigit()]
    return [(first, second, float(score)) for *_, first, second, score in rows]


class Batches(DataGenerator):
    """Batches of ([token ids, segment ids], scores); rows 2i and 2i + 1 are a pair."""

    def __init__(self, pairs: list, tokenizer: Tokenizer) -> None:
        super().__init__(pairs, BATCH_SIZE, bucket=lambda pair: max(map(len, pair[:2])))
        self.tokenizer = tokenizer

    def __iter__(self, random: bool = False) -> Iterator:
        batch, scores = [], []
        for is_end, (first, second, score) in self.sample(random):
            batch += [self.tokenizer.encode(text, maxlen=MAXLEN) for text in (first, second)]
            scores += [score, score]
            if len(scores) == 2 * self.batch_size or is_end:
                token_ids, segment_ids = zip(*batch, strict=True)
                yield [self.pad(token_ids), self.pad(segment_ids)], np.array(scores, "float32")
                batch, scores = [], []


# === 模型 / model ===


def cosent(y_true, y_pred):
    """Compute log(1 + Σ exp(20 (cⱼ - cᵢ))) over pairs i, j of which i shall be nearer than j."""
    scores = ops.reshape(y_true, (-1,))[::2]
    vectors = y_pred / ops.norm(y_pred, axis=-1, keepdims=True)
    cosines = 20 * ops.sum(vectors[::2] * vectors[1::2], axis=-1)
    differences = cosines[None, :] - cosines[:, None]
    differences = ops.where(scores[:, None] > scores[None, :], differences, -1e9)
    zero = ops.zeros((1,), dtype=differences.dtype)
    return ops.logsumexp(ops.concatenate([zero, ops.reshape(differences, (-1,))]))


def build(checkpoint: Path, steps: int) -> Model:
    """Build BERT with the mean of its vectors, (batch, width)."""
    bert = build_transformer_model(checkpoint, dropout_rate=0.1)
    mean = keras.layers.GlobalAveragePooling1D(name="Mean")(bert.output)  # 不含补齐 / no padding
    model = Model(bert.inputs, mean)
    optimizer = extend_with_piecewise_linear_lr(Adam)(
        learning_rate=5e-4 * (128 / mean.shape[-1]) ** 2,  # 768 维时是 1.4e-5 / for a base model
        lr_schedule={steps // 10 + 1: 1, steps + 1: 0},  # 先升后降 / up, then down
    )
    model.compile(optimizer, loss=cosent)
    return model


def vectors(model: Model, tokenizer: Tokenizer, texts: list[str]) -> np.ndarray:
    """Compute the vectors of texts, of length 1, (n_texts, width)."""
    encoded = [tokenizer.encode(text, maxlen=MAXLEN) for text in texts]
    inputs = [sequence_padding(ids, MAXLEN) for ids in zip(*encoded, strict=True)]
    found = model.predict(inputs, batch_size=64, verbose=0)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


# === 评估 / evaluation ===


def spearman(found: list[float], right: list[float]) -> float:
    """Compute the rank correlation; equal values share the mean of their ranks."""

    def ranks(values: list[float]) -> np.ndarray:
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        return (np.cumsum(counts) - (counts - 1) / 2)[inverse]

    return float(np.corrcoef(ranks(found), ranks(right))[0, 1])


def evaluate(model: Model, tokenizer: Tokenizer, rows: list[tuple]) -> float:
    """Compute how well cosines and scores agree."""
    first, second, scores = map(list, zip(*rows, strict=True))
    cosines = (vectors(model, tokenizer, first) * vectors(model, tokenizer, second)).sum(axis=1)
    return spearman(cosines.round(6), scores)


def overlap(first: str, second: str) -> float:
    """Measure how many of the characters of two texts are in both (Jaccard): the baseline."""
    return len(set(first) & set(second)) / len(set(first) | set(second))


def main(argv: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sentences", nargs="*", default=SENTENCES, help="what to compare")
    parser.add_argument("--checkpoint", type=Path, default=HERE / "weights/tiny_zh")
    parser.add_argument("--data", type=Path, default=HERE / "data/similarities")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("runs/sentence_vectors.keras"))
    args = parser.parse_args(argv)
    if not all(any(args.data.glob(f"*{part}*")) for part in ("train", "dev")):
        parser.error(f"--data {args.data}: expected a file *train* and a file *dev* in this folder")
    keras.utils.set_random_seed(0)

    train, dev = read(args.data, "train"), read(args.data, "dev")
    tokenizer = Tokenizer(args.checkpoint / "vocab.txt", do_lower_case=True)
    batches = Batches(train, tokenizer)

    model = build(args.checkpoint, args.epochs * len(batches))
    before = evaluate(model, tokenizer, dev)
    model.fit(batches.forfit(), steps_per_epoch=len(batches), epochs=args.epochs, verbose=2)

    scores = {
        "spearman": evaluate(model, tokenizer, dev),
        "before": before,
        "overlap": spearman([overlap(a, b) for a, b, _ in dev], [score for *_, score in dev]),
    }
    print(
        f"Spearman {scores['spearman']:.4f}，训练前 / before {before:.4f}，"
        f"只看相同的字 / by shared characters {scores['overlap']:.4f}"
    )

    args.output.parent.mkdir(parents=True, exist_ok=True)
    model.save(args.output)
    model = keras.saving.load_model(args.output, compile=False)  # 只预测 / only to predict
    found = vectors(model, tokenizer, args.sentences)
    for text, row in zip(args.sentences, (found @ found.T).round(2), strict=True):
        print(*row, text)
    return scores


if __name__ == "__main__":
    main()
