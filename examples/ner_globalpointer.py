"""命名实体识别：GlobalPointer 给每一段（首、尾、类别）打分，大于 0 的就是实体，嵌套的也能找。

    python examples/ner_globalpointer.py                                 # 自带的权重和数据
    python examples/ner_globalpointer.py 王小明去了杭州大学            # 训练完找这些句子里的实体
    python examples/ner_globalpointer.py --checkpoint FOLDER --data cluener

Named entities, nested ones too: GlobalPointer (https://kexue.fm/archives/8373) scores each span for
each kind, and spans above 0 are entities. The folder given by --data has a file *train* and a file
*dev* with {"text": …, "label": {kind: {entity: [[first, last], …]}}} in each line, as CLUENER.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
from keras import ops

from bert4keras.backend import multilabel_categorical_crossentropy
from bert4keras.layers import GlobalPointer
from bert4keras.metrics import precision_recall_f1
from bert4keras.models import Model, build_transformer_model
from bert4keras.optimizers import Adam, extend_with_piecewise_linear_lr
from bert4keras.snippets import DataGenerator, sequence_padding
from bert4keras.tokenizers import Tokenizer

HERE = Path(__file__).parent
SENTENCES = ["王小明昨天从杭州来到青岛大学。", "苏州银行的张建国在上海讲话。"]
MAXLEN = 64  # token 数，多出的不看 / tokens of a text; more are cut off
BATCH_SIZE = 16
Span = tuple[int, int, str]  # 首字、末字、类别 / first character, last character, kind

# === 数据 / data ===


def read(folder: Path, part: str) -> list[tuple[str, set[Span]]]:
    """Read the texts of a part, train or dev, and the entities in them."""
    lines = next(folder.glob(f"*{part}*")).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [
        (
            row["text"],
            {
                (first, last, kind)
                for kind, entities in row["label"].items()
                for places in entities.values()
                for first, last in places
            },
        )
        for row in rows
    ]


def encode(text: str, tokenizer: Tokenizer) -> tuple[list[int], list[list[int]]]:
    """Make token ids of a text, and say which of its characters each token comes from."""
    tokens = tokenizer.tokenize(text, maxlen=MAXLEN)
    return tokenizer.tokens_to_ids(tokens), tokenizer.rematch(text, tokens)


class Batches(DataGenerator):
    """Batches of ([token ids, segment ids], (batch, kinds, length, length) of zeros and ones)."""

    def __init__(self, samples: list, kinds: list[str]) -> None:
        super().__init__(samples, BATCH_SIZE, bucket=lambda sample: len(sample[0]))
        self.kinds = kinds

    def __iter__(self, random: bool = False) -> Iterator:
        batch = []
        for is_end, sample in self.sample(random):
            batch.append(sample)
            if len(batch) == self.batch_size or is_end:
                token_ids = self.pad([ids for ids, *_ in batch])
                n, length = token_ids.shape
                labels = np.zeros((n, len(self.kinds), length, length), "float32")
                for row, (_, mapping, spans) in enumerate(batch):
                    token = {place: i for i, places in enumerate(mapping) for place in places}
                    for first, last, kind in spans:
                        if first in token and last in token:
                            labels[row, self.kinds.index(kind), token[first], token[last]] = 1
                yield [token_ids, np.zeros_like(token_ids)], labels
                batch = []


# === 模型 / model ===


def pointer_loss(y_true, y_pred):
    """Compare the scores of all spans of a kind with those that are right, a multilabel softmax."""
    shape = ops.shape(y_pred)
    pairs = (shape[0], shape[1], shape[2] * shape[3])
    return multilabel_categorical_crossentropy(
        ops.reshape(y_true, pairs), ops.reshape(y_pred, pairs)
    )


def build(checkpoint: Path, n_kinds: int, steps: int) -> Model:
    """Build BERT with a GlobalPointer, whose scores are (batch, kinds, length, length)."""
    bert = build_transformer_model(checkpoint, dropout_rate=0.1)
    model = Model(bert.inputs, GlobalPointer(n_kinds, 64, name="Pointer")(bert.output))
    optimizer = extend_with_piecewise_linear_lr(Adam)(
        learning_rate=1e-3 * (128 / bert.output.shape[-1]) ** 2,  # 2.8e-5 for a base model
        lr_schedule={steps // 10 + 1: 1, steps + 1: 0},  # 先升后降 / up, then down
    )
    model.compile(optimizer, loss=pointer_loss)
    return model


def find(model: Model, tokenizer: Tokenizer, texts: list[str], kinds: list[str]) -> list[set[Span]]:
    """Find the entities of texts: the spans with a score above 0."""
    encoded = [encode(text, tokenizer) for text in texts]
    token_ids = sequence_padding([ids for ids, _ in encoded], MAXLEN)
    scores = model.predict([token_ids, np.zeros_like(token_ids)], batch_size=16, verbose=0)
    found = []
    for (ids, mapping), each in zip(encoded, scores, strict=True):
        spans = np.argwhere(each[:, 1 : len(ids) - 1, 1 : len(ids) - 1] > 0)
        inside = mapping[1:-1]  # 不含 [CLS] 和 [SEP] / without [CLS] and [SEP]
        found.append({(inside[a][0], inside[b][-1], kinds[kind]) for kind, a, b in spans})
    return found


# === 评估 / evaluation ===


def look_up(text: str, names: dict[tuple[str, str], None]) -> set[Span]:
    """Find all entities that were in the training data: the baseline."""
    return {
        (i, i + len(name) - 1, kind)
        for name, kind in names
        for i in range(len(text))
        if text.startswith(name, i)
    }


def main(argv: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sentences", nargs="*", default=SENTENCES, help="where to find entities")
    parser.add_argument("--checkpoint", type=Path, default=HERE / "weights/tiny_zh")
    parser.add_argument("--data", type=Path, default=HERE / "data/nested_entities")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--output", type=Path, default=Path("runs/ner_globalpointer.keras"))
    args = parser.parse_args(argv)
    if not all(any(args.data.glob(f"*{part}*")) for part in ("train", "dev")):
        parser.error(f"--data {args.data}: expected a file *train* and a file *dev* in this folder")
    keras.utils.set_random_seed(0)

    train, dev = read(args.data, "train"), read(args.data, "dev")
    kinds = sorted({kind for _, spans in train for *_, kind in spans})
    tokenizer = Tokenizer(args.checkpoint / "vocab.txt", do_lower_case=True)
    batches = Batches([(*encode(text, tokenizer), spans) for text, spans in train], kinds)

    model = build(args.checkpoint, len(kinds), args.epochs * len(batches))
    model.fit(batches.forfit(), steps_per_epoch=len(batches), epochs=args.epochs, verbose=2)

    texts, right = map(list, zip(*dev, strict=True))
    names = {(text[a : b + 1], kind): None for text, spans in train for a, b, kind in spans}
    scores = {
        "f1": precision_recall_f1(find(model, tokenizer, texts, kinds), right)["f1"],
        "dictionary": precision_recall_f1([look_up(text, names) for text in texts], right)["f1"],
    }
    print(
        f"实体 F1 / F1 of entities {scores['f1']:.4f}，查词典 / dictionary of the training data "
        f"{scores['dictionary']:.4f}"
    )

    args.output.parent.mkdir(parents=True, exist_ok=True)
    model.save(args.output)
    model = keras.saving.load_model(args.output, compile=False)  # 只预测 / only to predict
    found = find(model, tokenizer, args.sentences, kinds)
    for text, spans in zip(args.sentences, found, strict=True):
        print(text, [(text[a : b + 1], kind) for a, b, kind in sorted(spans)])
    return scores


if __name__ == "__main__":
    main()
