"""关系抽取：GPLinker，三个 GlobalPointer 一次找出所有（主体、关系、客体）。

    python examples/relation_extraction.py                                # 自带的权重和数据
    python examples/relation_extraction.py 王小明出生于杭州          # 训练完抽取这些句子里的关系
    python examples/relation_extraction.py --checkpoint FOLDER --data duie

Relations: GPLinker (https://kexue.fm/archives/8888). One pointer scores the spans of subjects and
objects; two others score, for each relation, pairs of first tokens and pairs of last tokens. The
folder given by --data has a file *train* and a file *dev* with {"text": …, "spo_list": [{"subject",
"predicate", "object"}]} in each line, as DuIE is published (of DuIE 2.0 the "@value" is taken).
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
SENTENCES = ["王小明出生于杭州，小说《归途》的作者是王小明。", "华星科技的总部设在青岛。"]
MAXLEN = 64  # token 数，多出的不看 / tokens of a text; more are cut off
BATCH_SIZE = 16
Triple = tuple[str, str, str]  # 主体、关系、客体 / subject, predicate, object

# === 数据 / data ===


def read(folder: Path, part: str) -> list[tuple[str, set[Triple]]]:
    """Read the texts of a part, train or dev, and the relations in them."""
    lines = next(folder.glob(f"*{part}*")).read_text(encoding="utf-8").splitlines()
    rows = []
    for row in map(json.loads, lines):
        triples = set()
        for spo in row["spo_list"]:
            found = spo["object"]
            found = found["@value"] if isinstance(found, dict) else found
            triples.add((spo["subject"], spo["predicate"], found))
        rows.append((row["text"], triples))
    return rows


def spans_of(entity: str, text: str, mapping: list[list[int]]) -> tuple[int, int] | None:
    """Find the first and last token of an entity where it stands first; None if it was cut off."""
    token = {place: i for i, places in enumerate(mapping) for place in places}
    start = text.find(entity)
    ends = token.get(start), token.get(start + len(entity) - 1)
    return None if start < 0 or None in ends else ends


class Batches(DataGenerator):
    """Batches of ([token ids, segment ids], labels of the three pointers)."""

    def __init__(self, rows: list, predicates: list[str], tokenizer: Tokenizer) -> None:
        super().__init__(rows, BATCH_SIZE, bucket=lambda row: len(row[0]))
        self.predicates, self.tokenizer = predicates, tokenizer

    def __iter__(self, random: bool = False) -> Iterator:
        batch = []
        for is_end, sample in self.sample(random):
            batch.append(sample)
            if len(batch) == self.batch_size or is_end:
                yield self.arrays(batch)
                batch = []

    def arrays(self, batch: list) -> tuple:
        """Make arrays of texts and triples; the labels are (batch, heads, length, length)."""
        tokens = [self.tokenizer.tokenize(text, maxlen=MAXLEN) for text, _ in batch]
        token_ids = self.pad(list(map(self.tokenizer.tokens_to_ids, tokens)))
        n, length = token_ids.shape
        heads = (2, len(self.predicates), len(self.predicates))
        entities, firsts, lasts = (np.zeros((n, k, length, length), "float32") for k in heads)
        for i, (text, triples) in enumerate(batch):
            mapping = self.tokenizer.rematch(text, tokens[i])
            for subject, predicate, found in triples:
                a, b = spans_of(subject, text, mapping), spans_of(found, text, mapping)
                if a and b:
                    kind = self.predicates.index(predicate)
                    entities[i, 0, a[0], a[1]] = entities[i, 1, b[0], b[1]] = 1
                    firsts[i, kind, a[0], b[0]] = lasts[i, kind, a[1], b[1]] = 1
        return [token_ids, np.zeros_like(token_ids)], (entities, firsts, lasts)


# === 模型 / model ===


def pointer_loss(y_true, y_pred):
    """Compare the scores of all pairs of a head with those that are right, a multilabel softmax."""
    shape = ops.shape(y_pred)
    pairs = (shape[0], shape[1], shape[2] * shape[3])
    return multilabel_categorical_crossentropy(
        ops.reshape(y_true, pairs), ops.reshape(y_pred, pairs)
    )


def build(checkpoint: Path, n_predicates: int, steps: int) -> Model:
    """Build BERT with three pointers, whose scores are (batch, heads, length, length)."""
    bert = build_transformer_model(checkpoint, dropout_rate=0.1)
    link = {"RoPE": False, "tril_mask": False}  # 客体可以在主体之前 / an object may come first
    pointers = [
        GlobalPointer(2, 64, name="Entities"),
        GlobalPointer(n_predicates, 64, name="Firsts", **link),
        GlobalPointer(n_predicates, 64, name="Lasts", **link),
    ]
    model = Model(bert.inputs, [pointer(bert.output) for pointer in pointers])
    optimizer = extend_with_piecewise_linear_lr(Adam)(
        learning_rate=1e-3 * (128 / bert.output.shape[-1]) ** 2,  # 2.8e-5 for a base model
        lr_schedule={steps // 10 + 1: 1, steps + 1: 0},  # 先升后降 / up, then down
    )
    model.compile(optimizer, loss=[pointer_loss] * 3, loss_weights=[2, n_predicates, n_predicates])
    return model


def extract(
    model: Model, tokenizer: Tokenizer, texts: list[str], predicates: list[str]
) -> list[set[Triple]]:
    """Find the relations in texts: where entities, first tokens and last tokens score above 0."""
    tokens = [tokenizer.tokenize(text, maxlen=MAXLEN) for text in texts]
    token_ids = sequence_padding([tokenizer.tokens_to_ids(each) for each in tokens], MAXLEN)
    scores = model.predict([token_ids, np.zeros_like(token_ids)], batch_size=16, verbose=0)
    found = []
    for text, each, entities, firsts, lasts in zip(texts, tokens, *scores, strict=True):
        inside = slice(1, len(each) - 1)  # 不含 [CLS] 和 [SEP] / without [CLS] and [SEP]
        mapping = tokenizer.rematch(text, each)[inside]
        subjects, objects = (np.argwhere(entities[k, inside, inside] > 0) for k in range(2))
        linked = np.minimum(
            firsts[:, inside, inside][:, subjects[:, :1], objects[:, 0]],
            lasts[:, inside, inside][:, subjects[:, 1:], objects[:, 1]],
        )
        ends = [(mapping[i][0], mapping[j][-1] + 1) for i, j in (*subjects, *objects)]
        names = [text[slice(*each)] for each in ends]
        a, b = names[: len(subjects)], names[len(subjects) :]
        found.append({(a[i], predicates[k], b[j]) for k, i, j in np.argwhere(linked > 0)})
    return found


# === 评估 / evaluation ===


def main(argv: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sentences", nargs="*", default=SENTENCES, help="where to find relations")
    parser.add_argument("--checkpoint", type=Path, default=HERE / "weights/tiny_zh")
    parser.add_argument("--data", type=Path, default=HERE / "data/relations")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--output", type=Path, default=Path("runs/relation_extraction.keras"))
    args = parser.parse_args(argv)
    if not all(any(args.data.glob(f"*{part}*")) for part in ("train", "dev")):
        parser.error(f"--data {args.data}: expected a file *train* and a file *dev* in this folder")
    keras.utils.set_random_seed(0)

    train, dev = read(args.data, "train"), read(args.data, "dev")
    predicates = sorted({predicate for _, triples in train for _, predicate, _ in triples})
    tokenizer = Tokenizer(args.checkpoint / "vocab.txt", do_lower_case=True)
    batches = Batches(train, predicates, tokenizer)

    model = build(args.checkpoint, len(predicates), args.epochs * len(batches))
    model.fit(batches.forfit(), steps_per_epoch=len(batches), epochs=args.epochs, verbose=2)

    texts, right = map(list, zip(*dev, strict=True))
    known = {
        triple for _, triples in train for triple in triples
    }  # 训练中见过的 / seen in training
    looked_up = [{t for t in known if t[0] in text and t[2] in text} for text in texts]
    scores = {
        "f1": precision_recall_f1(extract(model, tokenizer, texts, predicates), right)["f1"],
        "dictionary": precision_recall_f1(looked_up, right)["f1"],
    }
    print(f"三元组 F1 / F1 of triples {scores['f1']:.4f}，查训练集 / known triples", end=" ")
    print(f"{scores['dictionary']:.4f}")

    args.output.parent.mkdir(parents=True, exist_ok=True)
    model.save(args.output)
    model = keras.saving.load_model(args.output, compile=False)  # 只预测 / only to predict
    found = extract(model, tokenizer, args.sentences, predicates)
    for text, triples in zip(args.sentences, found, strict=True):
        print(text, sorted(triples))
    return scores


if __name__ == "__main__":
    main()
