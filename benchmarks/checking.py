"""What the checks of inputs cost, as a share of a training step and of a call of `predict`.

    python benchmarks/checking.py [--rounds 30]

On the backend that `KERAS_BACKEND` names. Two models of published sizes, BERT-small-Chinese (4
layers of 312 units) and BERT-base, with a classifier on top and random weights; batches of 32 texts
of 128 tokens. The time of `Rules.check` on a batch is compared with that of `train_on_batch` and
of `predict_on_batch` on the same one, in turn; printed are medians and the median of the shares
with their range. The bar is 1 % of a training step.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence

import keras
import numpy as np
from turns import seconds

from bert4keras.models import Model, build_transformer_model

SHAPES = {
    "4 × 312": {"num_hidden_layers": 4, "hidden_size": 312, "intermediate_size": 1248},
    "12 × 768": {"num_hidden_layers": 12, "hidden_size": 768, "intermediate_size": 3072},
}
ROWS, LENGTH, VOCABULARY, CLASSES = 32, 128, 21128, 5
REPEATS = 100
"""Of the check in a round; one of them is too short for the clock."""


def classifier(shape: dict[str, int]) -> Model:
    bert = build_transformer_model(
        **shape,
        vocab_size=VOCABULARY,
        num_attention_heads=12,
        hidden_act="gelu",
        max_position=512,
        with_pool=True,
    )
    output = keras.layers.Dense(CLASSES, activation="softmax")(bert.output)
    model = Model(bert.inputs, output)
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def batch() -> tuple[list[np.ndarray], np.ndarray]:
    random = np.random.default_rng(0)
    token_ids = random.integers(1, VOCABULARY, (ROWS, LENGTH))
    return [token_ids, np.zeros_like(token_ids)], random.integers(0, CLASSES, ROWS)


def shares(checked: Callable, computed: Callable, rounds: int) -> tuple[float, float, list[float]]:
    """Median times of a check and of what it is for, in seconds, and their ratios."""
    checked(), computed()
    pairs = [(seconds(checked) / REPEATS, seconds(computed)) for _ in range(rounds)]
    check, compute = (statistics.median(times) for times in zip(*pairs, strict=True))
    return check, compute, [a / b for a, b in pairs]


def row(name: str, call: str, measured: tuple[float, float, Sequence[float]]) -> str:
    check, compute, ratios = measured
    share, least, most = statistics.median(ratios), min(ratios), max(ratios)
    return (
        f"| {name} | {call} | {1e6 * check:.0f} µs | {1e3 * compute:.0f} ms | "
        f"{share:.4%} ({least:.4%} to {most:.4%}) |"
    )


def main(rounds: int) -> None:
    print(f"{keras.backend.backend()}, {ROWS} texts of {LENGTH} tokens\n")
    print("| model | call | checks | call alone | share |\n| --- | --- | --: | --: | --: |")
    for name, shape in SHAPES.items():
        model, (x, y) = classifier(shape), batch()

        def check(y: np.ndarray | None, model: Model = model, x: list = x) -> None:
            for _ in range(REPEATS):
                model.rules.check("fit", x, y)

        for call, labels in (("train_on_batch", y), ("predict_on_batch", None)):
            given = (x,) if labels is None else (x, labels)
            compute = getattr(model, call)
            measured = shares(lambda y=labels: check(y), lambda f=compute, g=given: f(*g), rounds)
            print(row(name, call, measured), flush=True)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=30)
    main(arguments.parse_args().rounds)
