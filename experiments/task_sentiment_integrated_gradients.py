"""Which characters of a review speak for its label? Integrated gradients.

    python experiments/task_sentiment_integrated_gradients.py --data DATA --quick
    python experiments/task_sentiment_integrated_gradients.py --data DATA --quick --run RUN
    python experiments/task_sentiment_integrated_gradients.py predict 房间很大，就是早餐太难吃了

The gradient of the label's probability with respect to the token vectors, averaged along the way
from zeros to what they are, times these (Sundararajan et al., 2017,
https://arxiv.org/abs/1703.01365; https://kexue.fm/archives/7533). Summed over a vector it says how
much a token speaks for the label, or against it. RUN is a folder that `task_sentiment_albert.py`
left, with the same checkpoint; without it the same model is trained here first.

The score: `changed` is the share of the test's reviews that get the other label if that fifth of
their tokens is masked that speaks most for it; `random` is the same for a fifth drawn at random.

`attribution.html` shows some reviews, red where a character speaks for the label, blue where it
speaks against it. `attribution.png` has the same reviews, with characters if there is a Chinese
font, and otherwise only their places, in the same order.

Data: `sentiment/sentiment.zip`, `sentiment.{train,valid,test}.data`; 300 reviews of `test` are the
test.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

import numpy as np
from classification import (
    SENTIMENTS,
    accuracy,
    build,
    encoded,
    make_batch,
    probabilities,
    read_sentiment,
    train,
)
from common import (
    arguments,
    characters_of,
    chinese_font,
    load_best,
    need,
    outputs,
    remember,
    report,
    save_figure,
)
from task_sentiment_albert import FULL as SENTIMENT_FULL
from task_sentiment_albert import QUICK as SENTIMENT_QUICK

from bert4keras.models import Model
from bert4keras.tokenizers import Tokenizer
from bert4keras.training import integrated_gradients

N_TEST, N_DRAWN = 300, 12  # reviews
MASKED = 0.2  # of the tokens
STEPS = 20  # of the integral
BATCH_SIZE = 8  # reviews, each of which is `STEPS` rows of a batch
N_COLUMNS = 40  # characters in a line of the picture


# --- attribution


class Attributor:
    """What `outputs` computes: how much each token speaks for a label, (batch, length).

    Args:
        model: a classifier.
    """

    def __init__(self, model: Model) -> None:
        self.attributions = integrated_gradients(model, steps=STEPS)

    def predict_on_batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        *inputs, labels = inputs
        _, scores = self.attributions(inputs, labels)
        return scores.sum(axis=-1)


def inputs_and_labels(pad: Callable, samples: list) -> list[np.ndarray]:
    inputs, labels = make_batch(pad, samples)
    return [*inputs, labels]


def attribute(model: Model, samples: Sequence[tuple]) -> list[np.ndarray]:
    """How much each token of a sample speaks for its label, [CLS] and [SEP] included."""
    found = outputs(Attributor(model), samples, inputs_and_labels, BATCH_SIZE)
    return [scores[: len(sample[0])] for (scores,), sample in zip(found, samples, strict=True)]


def masked(sample: tuple, places: Sequence[int], mask_id: int) -> tuple:
    """A sample with the first of some tokens masked: a share of `MASKED` of all, one at least."""
    token_ids = list(sample[0])
    for place in places[: max(1, round(MASKED * len(places)))]:
        token_ids[place] = mask_id
    return token_ids, *sample[1:]


def changed(model: Model, samples: Sequence[tuple], orders: Sequence, mask_id: int) -> float:
    """The share of samples that get another label if the first tokens of an order are masked."""
    rows = [masked(*each, mask_id) for each in zip(samples, orders, strict=True)]
    return round(1 - accuracy(model, rows), 4)


def score(
    model: Model, samples: Sequence[tuple], scores: Sequence[np.ndarray], mask_id: int
) -> dict[str, float]:
    """How many labels change by masking what speaks most for them, and by masking at random."""
    rng = np.random.default_rng(0)
    important = [1 + np.argsort(-each[1:-1]) for each in scores]
    drawn = [1 + rng.permutation(len(each) - 2) for each in scores]
    return {
        "changed": changed(model, samples, important, mask_id),
        "random": changed(model, samples, drawn, mask_id),
    }


# --- pictures


def of_characters(text: str, scores: np.ndarray, tokenizer: Tokenizer, maxlen: int) -> np.ndarray:
    """The score of each character's token, divided by the largest; 0 for what has no token."""
    mapping = tokenizer.rematch(text, tokenizer.tokenize(text, maxlen=maxlen))
    found = np.zeros(len(text))
    for place, token in characters_of(mapping).items():
        found[place] = scores[token]
    return found / max(np.abs(found).max(initial=0), 1e-9)


def write_html(rows: Sequence[tuple[str, str, np.ndarray]], path: Path) -> None:
    """Write texts with their labels, and their characters coloured by their scores."""
    lines = []
    for text, label, scores in rows:
        colours = ["214,39,40" if score > 0 else "31,119,180" for score in scores]
        characters = "".join(
            f'<span style="background:rgba({colour},{abs(score):.2f})">{escape(character)}</span>'
            for character, colour, score in zip(text, colours, scores, strict=True)
        )
        lines.append(f"<p><b>{escape(label)}</b> {characters}</p>\n")
    head = '<!DOCTYPE html>\n<meta charset="utf-8">\n<title>Integrated gradients</title>\n'
    path.write_text(head + "".join(lines), encoding="utf-8")


def draw(rows: Sequence[tuple[str, str, np.ndarray]], path: Path) -> None:
    """Draw the same, a cell for each character, lines of `N_COLUMNS`."""
    import matplotlib.pyplot as plt

    font = chinese_font()
    cells, names, written = [], {}, []
    for text, label, scores in rows:
        names[len(cells)] = label
        for start in range(0, len(text), N_COLUMNS):
            line = np.full(N_COLUMNS, np.nan)
            part = scores[start : start + N_COLUMNS]
            line[: len(part)] = part
            written += [(i, len(cells), c) for i, c in enumerate(text[start : start + len(part)])]
            cells.append(line)
        cells.append(np.full(N_COLUMNS, np.nan))
    figure, axis = plt.subplots(figsize=(0.24 * N_COLUMNS + 1.5, 0.24 * len(cells) + 0.4))
    axis.imshow(cells, cmap="coolwarm", vmin=-1, vmax=1, aspect="auto")
    axis.set_yticks([*names], [*names.values()], fontsize=8)
    axis.set_xticks(range(0, N_COLUMNS, 5))
    axis.set_xlabel("character; red speaks for the label, blue against it")
    axis.spines[:].set_visible(False)
    for x, y, character in written if font else ():
        axis.text(x, y, character, ha="center", va="center", fontsize=9, fontproperties=font)
    save_figure(figure, path)


def explain(
    args: argparse.Namespace, model: Model, texts: Sequence[str]
) -> list[tuple[str, str, np.ndarray]]:
    """Find labels for the beginnings of texts that are read, draw what speaks for them."""
    texts = [text[: args.size.maxlen - 2] for text in texts]
    shares = probabilities(model, encoded(args, [((text,), 0) for text in texts]))
    labels = shares.argmax(axis=1)
    found = attribute(model, encoded(args, [((t,), n) for t, n in zip(texts, labels, strict=True)]))
    rows = [
        (
            text,
            f"{SENTIMENTS[label]} {share[label]:.2f}",
            of_characters(text, scores, args.tokenizer, args.size.maxlen),
        )
        for text, label, share, scores in zip(texts, labels, shares, found, strict=True)
    ]
    write_html(rows, args.output / "attribution.html")
    draw(rows, args.output / "attribution.png")
    return rows


# --- the experiment


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", type=Path, help="what task_sentiment_albert.py left")


def main(argv: Sequence[str] | None = None) -> dict | None:
    need("matplotlib")  # also to predict
    args = arguments(__file__, __doc__, SENTIMENT_QUICK, SENTIMENT_FULL, argv, add_options)
    model = build(args, len(SENTIMENTS), load=args.texts is None)
    if args.texts is not None:
        load_best(args, model)
        for text, label, scores in explain(args, model, args.texts):
            pairs = [[c, round(float(s), 2)] for c, s in zip(text, scores, strict=True)]
            row = {"text": text, "label": label, "characters": pairs}
            print(json.dumps(row, ensure_ascii=False))
        return None

    parts = read_sentiment(args.data)
    test = parts["test"][:N_TEST]
    remember(args)
    if args.run:
        model.load_weights(args.run / "best.weights.h5")
        model.save_weights(args.output / "best.weights.h5")
    else:
        train(args, model, encoded(args, parts["train"]), encoded(args, parts["valid"]))

    samples = encoded(args, test)
    right = accuracy(model, samples)
    found = probabilities(model, samples).argmax(axis=1)
    samples = [(*sample[:-1], label) for sample, label in zip(samples, found, strict=True)]
    mask_id = args.tokenizer.token_to_id(args.tokenizer._token_mask)
    scores = score(model, samples, attribute(model, samples), mask_id)
    explain(args, model, [text for (text,), _ in test[:N_DRAWN]])
    return report(args, f"sentiment, {len(test)} of test", {**scores, "accuracy": right})


if __name__ == "__main__":
    main()
