"""命名实体识别：每个字一个 BIO 标签，BERT 接条件随机场（CRF），维特比解码。

    python examples/ner_crf.py                                   # 自带的权重和数据
    python examples/ner_crf.py 王小明去了杭州的远航大学             # 训练完找这些句子里的实体
    python examples/ner_crf.py --checkpoint FOLDER --data china-people-daily-ner-corpus

Named entities: a BIO tag for each character, by BERT and a conditional random field. The folder
given by --data has a file *train* and a file *dev* of columns: a character and its tag in each
line, an empty line after each sentence, as the People's Daily and MSRA corpora are published.
"""

import argparse
from pathlib import Path

import keras

from bert4keras.layers import ConditionalRandomField
from bert4keras.metrics import precision_recall_f1
from bert4keras.models import Model, build_transformer_model
from bert4keras.optimizers import Adam, extend_with_piecewise_linear_lr
from bert4keras.snippets import SequenceLabelingGenerator, tags_to_spans
from bert4keras.tokenizers import Tokenizer

HERE = Path(__file__).parent
SENTENCES = ["王小明昨天从杭州来到远航大学。", "蓝海银行的张建国在青岛讲话。"]
MAXLEN = 128  # token 数，多出的不看 / tokens of a text; more are cut off
BATCH_SIZE = 16
Span = tuple[int, int, str]  # 首字、末字之后、类别 / first character, one behind the last, kind

# === 数据 / data ===


def read(folder: Path, part: str) -> list[tuple[str, list[str]]]:
    """Read the sentences of a part, train or dev, and the tags of their characters."""
    text = next(folder.glob(f"*{part}*")).read_text(encoding="utf-8")
    sentences = [[line.split() for line in s.split("\n")] for s in text.strip().split("\n\n")]
    return [("".join(row[0] for row in s), [row[-1] for row in s]) for s in sentences]


# === 模型 / model ===


def build(checkpoint: Path, n_tags: int, steps: int) -> tuple[Model, Model]:
    """Build the model that is trained on tags and the one that decodes them, of the same layers."""
    bert = build_transformer_model(checkpoint, dropout_rate=0.1)
    rate = 1e-3 * (128 / bert.output.shape[-1]) ** 2  # 768 维时是 2.8e-5 / 2.8e-5 for a base model
    # 转移矩阵要学得快些 / transitions have to learn faster than the rest
    crf = ConditionalRandomField(lr_multiplier=0.02 / rate, name="CRF")
    scores = crf(keras.layers.Dense(n_tags, name="Tags")(bert.output))
    model, tagger = Model(bert.inputs, scores), Model(bert.inputs, crf.decode(scores))
    optimizer = extend_with_piecewise_linear_lr(Adam)(
        learning_rate=rate,
        lr_schedule={steps // 10 + 1: 1, steps + 1: 0},  # 先升后降 / up, then down
    )
    model.compile(optimizer, loss=crf.sparse_loss, metrics=[crf.sparse_accuracy])
    return model, tagger


# === 评估 / evaluation ===


def look_up(text: str, names: dict[str, str]) -> set[Span]:
    """Find entities that were in the training data, longest match first: the baseline."""
    spans, i = set(), 0
    while i < len(text):
        ends = [j for j in range(min(len(text), i + 20), i, -1) if text[i:j] in names]
        if ends:
            spans.add((i, ends[0], names[text[i : ends[0]]]))
        i = ends[0] if ends else i + 1
    return spans


def main(argv: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sentences", nargs="*", default=SENTENCES, help="where to find entities")
    parser.add_argument("--checkpoint", type=Path, default=HERE / "weights/tiny_zh")
    parser.add_argument("--data", type=Path, default=HERE / "data/entities")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--output", type=Path, default=Path("runs/ner_crf.keras"))
    args = parser.parse_args(argv)
    if not all(any(args.data.glob(f"*{part}*")) for part in ("train", "dev")):
        parser.error(f"--data {args.data}: expected a file *train* and a file *dev* in this folder")
    keras.utils.set_random_seed(0)

    train, dev = read(args.data, "train"), read(args.data, "dev")
    tokenizer = Tokenizer(args.checkpoint / "vocab.txt", do_lower_case=True)
    batches = SequenceLabelingGenerator(
        *zip(*train, strict=True), tokenizer, MAXLEN, batch_size=BATCH_SIZE
    )

    model, tagger = build(args.checkpoint, len(batches.names), args.epochs * len(batches))
    model.fit(batches.forfit(), steps_per_epoch=len(batches), epochs=args.epochs, verbose=2)

    texts, right = [text for text, _ in dev], [tags_to_spans(row) for _, row in dev]
    names = {text[a:b]: kind for text, row in train for a, b, kind in tags_to_spans(row)}
    scores = {
        "f1": precision_recall_f1(batches.predict(tagger, texts), right)["f1"],
        "dictionary": precision_recall_f1([look_up(text, names) for text in texts], right)["f1"],
    }
    print(
        f"实体 F1 / F1 of entities {scores['f1']:.4f}，查词典 / dictionary of the training data "
        f"{scores['dictionary']:.4f}"
    )

    args.output.parent.mkdir(parents=True, exist_ok=True)
    tagger.save(args.output)
    tagger = keras.saving.load_model(args.output)
    found = batches.predict(tagger, args.sentences)
    for text, spans in zip(args.sentences, found, strict=True):
        print(text, [(text[a:b], kind) for a, b, kind in spans])
    return scores


if __name__ == "__main__":
    main()
