"""Are the weights loaded correctly? Entity recognition from real weights and from random ones.

    python benchmarks/entity_recognition.py [--checkpoint monpa_albert_zh] [--data ner.tar.gz]

fine-tunes a tagger of BIO labels, with a conditional random field, from the checkpoint and then
from random weights, and prints the F1 of entities. Only correct weights explain a large gap. The
checkpoint is the ALBERT of the package `monpa` in TensorFlow format (every character a token,
unknown ones `[SP]`); the data is the People's Daily corpus, a tar file with `example.train` and
`example.dev`, one `character TAG` a line; both by default in the folder `BERT4KERAS_SHARED`
(`shared` beside the checkout). The text is converted to Traditional characters (package `opencc`),
which are what the ALBERT knows. The last line of the output holds the scores as JSON.
"""

import argparse
import json
import os
import tarfile
import time
from pathlib import Path

import keras
import numpy as np

from bert4keras.layers import ConditionalRandomField
from bert4keras.models import Model, build_transformer_model
from bert4keras.optimizers import Adam, extend_with_piecewise_linear_lr, extend_with_weight_decay
from bert4keras.snippets import DataGenerator, sequence_padding
from bert4keras.tokenizers import load_vocab

CHECKOUT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("BERT4KERAS_SHARED", CHECKOUT.parent / "shared"))
CHECKPOINT = SHARED / "weights" / "monpa_albert_zh"
DATA = SHARED / "data" / "ner_people_daily" / "china-people-daily-ner-corpus.tar.gz"
MAXLEN = 128


def read_sentences(path: Path, part: str, limit: int) -> list[tuple[str, list[str]]]:
    """The first sentences of a part of the corpus: text and a tag for each character."""
    with tarfile.open(path) as archive:
        name = next(name for name in archive.getnames() if name.endswith(f"example.{part}"))
        text = archive.extractfile(name).read().decode("utf-8")
    sentences = []
    for block in text.strip().split("\n\n")[:limit]:
        characters, tags = zip(*(line.split(" ") for line in block.split("\n")), strict=True)
        sentences.append(("".join(characters), list(tags)))
    return sentences


def entities(tags: list[str]) -> set[tuple[int, int, str]]:
    """The spans (start, end, type) of a sequence of BIO tags."""
    spans, start, kind = set(), None, None
    for i, tag in enumerate([*tags, "O"]):
        if start is not None and tag != f"I-{kind}":
            spans.add((start, i, kind))
            start = None
        if tag.startswith("B-"):
            start, kind = i, tag[2:]
    return spans


class Batches(DataGenerator):
    """Batches of ([token ids, segment ids], labels)."""

    def __iter__(self, random: bool = False):
        batch = []
        for is_end, sample in self.sample(random):
            batch.append(sample)
            if len(batch) == self.batch_size or is_end:
                token_ids, labels = zip(*batch, strict=True)
                token_ids = self.pad(token_ids)
                labels = sequence_padding(labels, token_ids.shape[1])
                yield [token_ids, np.zeros_like(token_ids)], labels
                batch = []


def f1(tagger: Model, sentences: list, encoded: list, names: list[str]) -> float:
    """Micro-averaged F1 of entities; what is cut off counts as missed."""
    token_ids = sequence_padding([ids for ids, _ in encoded], MAXLEN)
    rows = tagger.predict([token_ids, np.zeros_like(token_ids)], batch_size=50, verbose=0)
    found = expected = right = 0
    for row, (_, tags) in zip(rows, sentences, strict=True):
        length = min(len(tags), MAXLEN - 2)
        predicted = entities([names[i] for i in row[1 : length + 1]])
        actual = entities(tags)
        found, expected = found + len(predicted), expected + len(actual)
        right += len(predicted & actual)
    return 2 * right / max(1, found + expected)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="folder of the ALBERT")
    parser.add_argument("--data", type=Path, default=DATA, help="tar file of the corpus")
    parser.add_argument("--train-size", type=int, default=3000)
    parser.add_argument("--dev-size", type=int, default=600)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--simplified", action="store_true", help="do not convert the characters")
    args = parser.parse_args()

    ids = load_vocab(args.checkpoint)
    convert = str
    if not args.simplified:
        import opencc

        convert = opencc.OpenCC("s2tw").convert
    parts = {
        part: read_sentences(args.data, part, size)
        for part, size in (("train", args.train_size), ("dev", args.dev_size))
    }
    names = sorted({tag for _, tags in parts["train"] for tag in tags})

    def encode(text: str, tags: list[str]) -> tuple[list[int], list[int]]:
        converted = convert(text)
        if len(converted) != len(text):  # a phrase that has another length there
            converted = "".join(map(convert, text))
        tokens = [ids.get(character, ids["[SP]"]) for character in converted[: MAXLEN - 2]]
        labels = [names.index(tag) for tag in tags[: MAXLEN - 2]]
        outside = names.index("O")
        return [ids["[CLS]"], *tokens, ids["[SEP]"]], [outside, *labels, outside]

    encoded = {part: [encode(*sentence) for sentence in parts[part]] for part in parts}
    train = Batches(encoded["train"], 16, bucket=True)
    n_steps = args.epochs * len(train)
    optimizer_class = extend_with_piecewise_linear_lr(extend_with_weight_decay(Adam))
    scores = {}
    for start in ("checkpoint", "random weights"):
        started = time.time()
        keras.utils.set_random_seed(0)
        albert = build_transformer_model(
            args.checkpoint / "albert_config.json",
            args.checkpoint / "albert_model.ckpt" if start == "checkpoint" else None,
            model="albert",
            layer_norm_epsilon=1e-12,
            dropout_rate=0.1,
        )
        crf = ConditionalRandomField(lr_multiplier=20)
        scores_of_labels = crf(keras.layers.Dense(len(names))(albert.output))
        model = Model(albert.inputs, scores_of_labels)
        tagger = Model(albert.inputs, crf.decode(scores_of_labels))
        model.compile(
            loss=crf.sparse_loss,
            optimizer=optimizer_class(
                learning_rate=args.learning_rate,
                weight_decay_rate=0.01,
                exclude_from_weight_decay=["Norm", "bias"],
                lr_schedule={n_steps // 10: 1, n_steps: 0},
            ),
        )
        print(f"\nTraining on {len(encoded['train'])} sentences, starting from {start}")
        model.fit(train.forfit(), steps_per_epoch=len(train), epochs=args.epochs)
        scores[start] = round(f1(tagger, parts["dev"], encoded["dev"], names), 4)
        print(f"F1 of entities {scores[start]:.4f}, {time.time() - started:.0f} s")
    print(json.dumps(scores))


if __name__ == "__main__":
    main()
