"""阅读理解：从文章里抽答案，BERT 给每个 token 打「答案从这里开始」「到这里结束」两个分。

    python examples/reading_comprehension.py                              # 自带的权重和数据
    python examples/reading_comprehension.py 馆长是谁 "蓝海博物馆建成于1999年，馆长是王小明。"
    python examples/reading_comprehension.py --checkpoint chinese_L-12_H-768_A-12 --data cmrc2018

Reading comprehension: where in a passage does the answer start, and where does it end? The folder
given by --data has a file *train* and a file *dev* in the form of SQuAD, as CMRC 2018 is published.
Passages beyond MAXLEN are cut; experiments/task_reading_comprehension_by_span.py reads them whole.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np

from bert4keras.models import Model, build_transformer_model
from bert4keras.optimizers import Adam, extend_with_piecewise_linear_lr
from bert4keras.snippets import DataGenerator, sequence_padding
from bert4keras.tokenizers import Tokenizer

HERE = Path(__file__).parent
PASSAGE = "蓝海博物馆在1999年落成，现任馆长是王小明，它位于青岛市中心，建筑由张建国设计。"
SENTENCES = ["蓝海博物馆的馆长是谁？", PASSAGE, "蓝海博物馆在哪个城市？", PASSAGE]
MAXLEN = 256  # 问题和文章合计的 token 数 / tokens of question and passage together
MAX_ANSWER = 30  # 答案的 token 数 / tokens of an answer
BATCH_SIZE = 16

# === 数据 / data ===


def read(folder: Path, part: str) -> list[tuple[str, str, int, list[str]]]:
    """Read (question, passage, place of the first answer, all right answers) of train or dev."""
    articles = json.loads(next(folder.glob(f"*{part}*")).read_text(encoding="utf-8"))["data"]
    return [
        (qa["question"], p["context"], a[0]["answer_start"], [each["text"] for each in a])
        for article in articles
        for p in article["paragraphs"]
        for qa in p["qas"]
        if (a := qa["answers"])
    ]


def encode(question: str, passage: str, tokenizer: Tokenizer) -> tuple[list, list, list]:
    """Make token ids and segment ids, and say which characters of the passage each is."""
    first = tokenizer.tokenize(question, maxlen=MAXLEN // 4)
    second = tokenizer.tokenize(passage, maxlen=MAXLEN - len(first) + 1)
    mapping = [[]] * len(first) + tokenizer.rematch(passage, second)[1:]
    token_ids = tokenizer.tokens_to_ids(first + second[1:])
    return token_ids, [0] * len(first) + [1] * (len(second) - 1), mapping


class Batches(DataGenerator):
    """Batches of ([token ids, segment ids], (first tokens, last tokens))."""

    def __iter__(self, random: bool = False) -> Iterator:
        batch = []
        for is_end, sample in self.sample(random):
            batch.append(sample)
            if len(batch) == self.batch_size or is_end:
                token_ids, segment_ids, first, last = zip(*batch, strict=True)
                inputs = [self.pad(token_ids), self.pad(segment_ids)]
                yield inputs, (np.array(first), np.array(last))
                batch = []


def samples_of(rows: list[tuple], tokenizer: Tokenizer) -> list[tuple]:
    """Make samples of (token ids, segment ids, first token, last token) where none was cut off."""
    samples = []
    for question, passage, start, answers in rows:
        token_ids, segment_ids, mapping = encode(question, passage, tokenizer)
        token = {place: i for i, places in enumerate(mapping) for place in places}
        ends = token.get(start), token.get(start + len(answers[0]) - 1)
        if None not in ends:
            samples.append((token_ids, segment_ids, *ends))
    return samples


# === 模型 / model ===


def build(checkpoint: Path, steps: int) -> Model:
    """Build BERT with two scores for each token, each (batch, length); the question has none."""
    bert = build_transformer_model(checkpoint, dropout_rate=0.1)
    segment_ids = keras.ops.cast(bert.inputs[1], "float32")
    logits = keras.layers.Dense(2, name="Ends")(bert.output)
    logits = logits - 1e6 * (1 - segment_ids[..., None])  # 只在文章里 / in the passage only
    model = Model(bert.inputs, [logits[..., 0], logits[..., 1]])
    optimizer = extend_with_piecewise_linear_lr(Adam)(
        learning_rate=1e-3 * (128 / bert.output.shape[-1]) ** 2,  # 2.8e-5 for a base model
        lr_schedule={steps // 10 + 1: 1, steps + 1: 0},  # 先升后降 / up, then down
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss=[loss, loss])
    return model


def answer(model: Model, tokenizer: Tokenizer, rows: list[tuple]) -> list[str]:
    """Answer questions (question, passage, …) with a piece of the passage each."""
    encoded = [encode(question, passage, tokenizer) for question, passage, *_ in rows]
    inputs = [sequence_padding([each[i] for each in encoded], MAXLEN) for i in range(2)]
    firsts, lasts = model.predict(inputs, batch_size=32, verbose=0)
    answers = []
    for row, (_, _, mapping), first, last in zip(rows, encoded, firsts, lasts, strict=True):
        n = len(mapping) - 1  # 不含最后的 [SEP] / without the last [SEP]
        scores = first[:n, None] + last[:n]
        allowed = np.triu(np.ones((n, n))) - np.triu(np.ones((n, n)), MAX_ANSWER)
        i, j = np.unravel_index(np.where(allowed > 0, scores, -np.inf).argmax(), (n, n))
        answers.append(row[1][mapping[i][0] : mapping[j][-1] + 1] if mapping[i] else "")
    return answers


# === 评估 / evaluation ===


def f1(found: str, right: list[str]) -> float:
    """Compute the F1 of characters, with the right answer that is nearest."""
    shared = [(Counter(found) & Counter(each)).total() for each in right]
    pairs = zip(shared, right, strict=True)
    return max(2 * n / max(1, len(found) + len(each)) for n, each in pairs)


def clause(question: str, passage: str) -> str:
    """Answer with the clause that shares most characters with the question: the baseline."""
    parts = passage.replace("。", "，").split("，")
    return max(parts, key=lambda part: len(set(part) & set(question)))


def main(argv: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sentences", nargs="*", default=SENTENCES, help="question, passage, …")
    parser.add_argument("--checkpoint", type=Path, default=HERE / "weights/tiny_zh")
    parser.add_argument("--data", type=Path, default=HERE / "data/reading")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--output", type=Path, default=Path("runs/reading_comprehension.keras"))
    args = parser.parse_args(argv)
    if not all(any(args.data.glob(f"*{part}*")) for part in ("train", "dev")):
        parser.error(f"--data {args.data}: expected a file *train* and a file *dev* in this folder")
    if len(args.sentences) % 2:
        parser.error(f"{len(args.sentences)} sentences: a passage follows each question")
    keras.utils.set_random_seed(0)

    train, dev = read(args.data, "train"), read(args.data, "dev")
    tokenizer = Tokenizer(args.checkpoint / "vocab.txt", do_lower_case=True)
    batches = Batches(samples_of(train, tokenizer), BATCH_SIZE, bucket=True)

    model = build(args.checkpoint, args.epochs * len(batches))
    model.fit(batches.forfit(), steps_per_epoch=len(batches), epochs=args.epochs, verbose=2)

    found, right = answer(model, tokenizer, dev), [row[-1] for row in dev]
    clauses = [clause(question, passage) for question, passage, *_ in dev]
    scores = {
        "exact_match": float(np.mean([a in b for a, b in zip(found, right, strict=True)])),
        "f1": float(np.mean([f1(a, b) for a, b in zip(found, right, strict=True)])),
        "clause_f1": float(np.mean([f1(a, b) for a, b in zip(clauses, right, strict=True)])),
    }
    print(
        f"完全正确 / exact match {scores['exact_match']:.2%}，F1 {scores['f1']:.4f}，"
        f"最像问题的分句 / clause most like the question: F1 {scores['clause_f1']:.4f}"
    )

    args.output.parent.mkdir(parents=True, exist_ok=True)
    model.save(args.output)
    model = keras.saving.load_model(args.output)
    rows = list(zip(args.sentences[::2], args.sentences[1::2], strict=True))
    for (question, _), text in zip(rows, answer(model, tokenizer, rows), strict=True):
        print(question, text)
    return scores


if __name__ == "__main__":
    main()
