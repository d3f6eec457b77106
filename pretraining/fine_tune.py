"""What pretraining gives: a checkpoint and random weights of the same model, fine-tuned alike.

    python pretraining/fine_tune.py CHECKPOINT --data DATA [--tasks sentiment lcqmc ner]
        [--starts checkpoint random]

Every task is learnt from the checkpoint and from random weights, with the same seeds, rates and
number of steps; the weights of the epoch that is best on validation data are scored on test data.
Prints a table and, as its last line, all scores as JSON.

`--data` has the folders `sentiment` (`sentiment.zip`: text, label), `lcqmc` (`lcqmc.zip`: two
questions, label) and `ner_people_daily` (a tar file with one `character TAG` a line).
"""

import argparse
import json
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np

from bert4keras.models import Model, build_transformer_model
from bert4keras.optimizers import Adam, extend_with_piecewise_linear_lr
from bert4keras.snippets import DataGenerator, sequence_padding
from bert4keras.tokenizers import Tokenizer

PARTS = ("train", "valid", "test")
STARTS = ("checkpoint", "random")
NOT_COUNTED = -1  # the label of a token that belongs to no character, or of padding

# --- data


def read_lines(data: Path, task: str) -> dict[str, list]:
    """The parts of a classification task: [(text, …, label), …] each."""
    parts = {}
    with zipfile.ZipFile(data / task / f"{task}.zip") as archive:
        for part in PARTS:
            lines = archive.read(f"{task}/{task}.{part}.data").decode("utf-8").splitlines()
            rows = [line.rsplit("\t", 2 if task == "lcqmc" else 1) for line in lines if line]
            parts[part] = [(*texts, int(label)) for *texts, label in rows]
    return parts


def read_entities(data: Path) -> dict[str, list]:
    """The parts of the corpus of entities: [(characters, tags), …] each."""
    parts = {}
    with tarfile.open(next((data / "ner_people_daily").glob("*.tar.gz"))) as archive:
        for part in PARTS:
            end = f"example.{'dev' if part == 'valid' else part}"
            name = next(name for name in archive.getnames() if name.endswith(end))
            text = archive.extractfile(name).read().decode("utf-8")
            parts[part] = [
                tuple(zip(*(line.split(" ") for line in block.split("\n")), strict=True))
                for block in text.strip().split("\n\n")
            ]
    return parts


class Batches(DataGenerator):
    """Batches of ([token ids, segment ids], labels) from (token ids, segment ids, label)."""

    def __iter__(self, random: bool = False) -> Iterator[tuple]:
        batch = []
        for is_end, sample in self.sample(random):
            batch.append(sample)
            if len(batch) == self.batch_size or is_end:
                token_ids, segment_ids, labels = zip(*batch, strict=True)
                inputs = [self.pad(token_ids), self.pad(segment_ids)]
                if np.ndim(labels[0]):
                    labels = sequence_padding(labels, inputs[0].shape[1], value=NOT_COUNTED)
                yield inputs, np.array(labels, "int32")
                batch = []


# --- tasks


class Classification:
    """A label for a text or a pair of texts, from the vector of the first token; accuracy."""

    metric = "accuracy"

    def __init__(self, name: str, data: Path):
        self.parts = read_lines(data, name)
        self.n_labels = 2

    def encode(self, sample: tuple, tokenizer: Tokenizer, maxlen: int) -> tuple:
        *texts, label = sample
        token_ids, segment_ids = tokenizer.encode(*texts, maxlen=maxlen)
        return token_ids, segment_ids, label

    def vectors(self, output: keras.KerasTensor) -> keras.KerasTensor:
        return output[:, 0]

    def score(self, predicted: list[np.ndarray], labels: list[np.ndarray]) -> float:
        return float(np.mean(np.concatenate(predicted) == np.concatenate(labels)))


class EntityRecognition:
    """BIO tags of characters; F1 of entities."""

    metric = "F1"

    def __init__(self, name: str, data: Path):
        self.parts = read_entities(data)
        self.names = sorted({tag for _, tags in self.parts["train"] for tag in tags})
        self.n_labels = len(self.names)

    def encode(self, sample: tuple, tokenizer: Tokenizer, maxlen: int) -> tuple:
        characters, tags = (part[: maxlen - 2] for part in sample)
        token_ids = tokenizer.tokens_to_ids(
            ["[CLS]", *(character.lower() for character in characters), "[SEP]"]
        )
        labels = [NOT_COUNTED, *map(self.names.index, tags), NOT_COUNTED]
        return token_ids, [0] * len(token_ids), labels

    def vectors(self, output: keras.KerasTensor) -> keras.KerasTensor:
        return output

    def score(self, predicted: list[np.ndarray], labels: list[np.ndarray]) -> float:
        found = expected = right = 0
        for rows in zip(predicted, labels, strict=True):
            for tags, truth in zip(*rows, strict=True):
                counted = truth != NOT_COUNTED
                spans, actual = self.spans(tags[counted]), self.spans(truth[counted])
                found, expected = found + len(spans), expected + len(actual)
                right += len(spans & actual)
        return 2 * right / max(1, found + expected)

    def spans(self, tags: np.ndarray) -> set[tuple[int, int, str]]:
        """The entities (start, end, type) of the numbers of BIO tags."""
        spans, start, kind = set(), None, None
        for i, tag in enumerate([*(self.names[tag] for tag in tags), "O"]):
            if start is not None and tag != f"I-{kind}":
                spans.add((start, i, kind))
                start = None
            if tag.startswith("B-"):
                start, kind = i, tag[2:]
        return spans


TASKS = {"sentiment": Classification, "lcqmc": Classification, "ner": EntityRecognition}


# --- training


class BestOnValidation(keras.callbacks.Callback):
    """Score after every epoch, keep the weights of the best one."""

    def __init__(self, task: Classification | EntityRecognition, batches: Batches, folder: str):
        super().__init__()
        self.task, self.batches, self.best = task, batches, -1.0
        self.path = Path(folder) / "best.weights.h5"

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        score = scored(self.task, self.model, self.batches)
        if score > self.best:
            self.best = score
            self.model.save_weights(self.path)


def scored(task: Classification | EntityRecognition, model: keras.Model, batches: Batches) -> float:
    """The score of a model on the batches of a part."""
    predicted, labels = [], []
    for inputs, truth in batches:
        predicted.append(np.argmax(model.predict_on_batch(inputs), axis=-1))
        labels.append(truth)
    return task.score(predicted, labels)


def fine_tuned(
    task: Classification | EntityRecognition,
    parts: dict[str, Batches],
    weights: Path | None,
    seed: int,
    args: argparse.Namespace,
) -> float:
    """Train from the weights of a folder, or from random ones, and score on test data."""
    keras.utils.set_random_seed(seed)
    config = next(args.checkpoint.glob("*config.json"))
    encoder = build_transformer_model(weights or config)
    vectors = keras.layers.Dropout(0.1)(task.vectors(encoder.output))
    output = keras.layers.Dense(task.n_labels, activation="softmax", name="Label")(vectors)
    model = Model(encoder.inputs, output)
    n_steps = args.epochs * len(parts["train"])
    model.compile(
        optimizer=extend_with_piecewise_linear_lr(Adam)(
            learning_rate=args.learning_rate, lr_schedule={n_steps // 10: 1, n_steps: 0}
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(ignore_class=NOT_COUNTED),
    )
    with tempfile.TemporaryDirectory() as folder:
        best = BestOnValidation(task, parts["valid"], folder)
        model.fit(
            parts["train"].forfit(),
            steps_per_epoch=len(parts["train"]),
            epochs=args.epochs,
            callbacks=[best],
            verbose=args.verbose,
        )
        model.load_weights(best.path)
    return scored(task, model, parts["test"])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="folder of a checkpoint")
    parser.add_argument("--data", type=Path, required=True, help="folder of the tasks")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=STARTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--train-size", type=int, help="samples to train on; all by default")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--maxlen", type=int, default=128, help="tokens of a sample at most")
    parser.add_argument("--verbose", type=int, choices=(0, 1, 2), default=1)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    tokenizer = Tokenizer(args.checkpoint, do_lower_case=True)
    scores: dict[str, dict[str, list[float]]] = {}
    for name in args.tasks:
        task = TASKS[name](name, args.data)
        parts = {}
        for part, samples in task.parts.items():
            limit = args.train_size if part == "train" else None
            encoded = [task.encode(s, tokenizer, args.maxlen) for s in samples[:limit]]
            parts[part] = Batches(encoded, args.batch_size, bucket=True)
        scores[name] = {start: [] for start in args.starts}
        for seed in args.seeds:
            for start in args.starts:
                weights = args.checkpoint if start == "checkpoint" else None
                started = time.time()
                score = fine_tuned(task, parts, weights, seed, args)
                scores[name][start].append(round(100 * score, 2))
                print(
                    f"{name}, seed {seed}, from {start}: {task.metric} {score:.2%} on test data, "
                    f"{time.time() - started:.0f} s",
                    flush=True,
                )
    print(f"\n{'task':<12}" + "".join(f"{start:>12}" for start in args.starts))
    for name, found in scores.items():
        print(f"{name:<12}" + "".join(f"{np.mean(each):>12.2f}" for each in found.values()))
    print(json.dumps(scores))


if __name__ == "__main__":
    main()
