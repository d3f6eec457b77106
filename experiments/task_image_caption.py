"""Images described in words: a convolutional network conditions a language model.

    python experiments/task_image_caption.py --quick
    python experiments/task_image_caption.py predict RUN/image-1.png --output RUN

The vector of an image moves scale and offset of every layer normalisation of a language model that
started as a BERT (https://kexue.fm/archives/7124): no cross-attention, no image tokens. Both are
trained together.

The images are made by the script, 32 × 32 pixels: one to three shapes of some colour at some of
nine places, on a grey ground, nothing of which is twice quite the same. Captions say what is where:
`左上角有一个红色的圆，中间有一个蓝色的三角形。` None of the captions of the test is trained on.

Scored by the share of captions that are right to the last character, and of the shapes that are
named with the right colour and place. Some test images are written as `image-1.png`, … with
`captions.html` beside them. `predict` takes PNG files of the same size.
"""

import argparse
import html
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
from common import Batches, Size, arguments, fit, load_best, micro_f1, need, remember, report
from writing import SPECIAL, compile_for_tokens, language_model, next_tokens

from bert4keras.generation import Generator
from bert4keras.models import Model
from bert4keras.tokenizers import Tokenizer, load_vocab

QUICK = Size(epochs=15, batch_size=32, learning_rate=1e-3, maxlen=48)
FULL = Size(epochs=20, batch_size=32, learning_rate=1e-4, maxlen=48)
N_TRAIN = {True: 4000, False: 20_000}  # by --quick
N_VALID, N_TEST = 200, 500
N_SHOWN = 8
SIDE, CELL = 32, 10  # pixels of an image, and of the room of a shape
CONDITION_SIZE = 256
PLACES = ("左上角", "上方", "右上角", "左边", "中间", "右边", "左下角", "下方", "右下角")
COLOURS = {
    "红色": (220, 40, 40),
    "绿色": (40, 170, 60),
    "蓝色": (50, 80, 220),
    "黄色": (235, 215, 50),
    "黑色": (20, 20, 20),
}
SHAPES = ("圆", "正方形", "三角形")


# --- images


class Thing(NamedTuple):
    """A shape of some colour at some place, by their names."""

    place: str
    colour: str
    shape: str


Scene = tuple[Thing, ...]


def draw_scene(rng: random.Random) -> Scene:
    """One to three things at different places."""
    places = sorted(rng.sample(range(len(PLACES)), rng.randint(1, 3)))
    return tuple(Thing(PLACES[p], rng.choice(list(COLOURS)), rng.choice(SHAPES)) for p in places)


def caption(scene: Scene) -> str:
    return "，".join(f"{place}有一个{colour}的{shape}" for place, colour, shape in scene) + "。"


def things(text: str) -> set[str]:
    """The parts of a caption."""
    return set(text.removesuffix("。").split("，"))


def mask(shape: str, x: np.ndarray, y: np.ndarray, size: float) -> np.ndarray:
    """Which pixels belong to a shape; x and y are their distances from its middle."""
    if shape == "圆":
        return x**2 + y**2 <= size**2
    if shape == "正方形":
        return np.maximum(abs(x), abs(y)) <= 0.9 * size
    return (y <= 0.8 * size) & (2 * abs(x) <= y + size)


def picture(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """(SIDE, SIDE, 3), uint8: a scene, with places, sizes and colours that differ a little."""
    image = np.full((SIDE, SIDE, 3), rng.uniform(150, 200))
    y, x = np.mgrid[:SIDE, :SIDE]
    for thing in scene:
        row, column = divmod(PLACES.index(thing.place), 3)
        middle_y, middle_x = (SIDE / 2 + (n - 1) * CELL + rng.uniform(-1, 1) for n in (row, column))
        inside = mask(thing.shape, x - middle_x, y - middle_y, rng.uniform(3.2, 4.4))
        image[inside] = np.array(COLOURS[thing.colour]) + rng.uniform(-15, 15, 3)
    return np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype("uint8")


def read_picture(path: str) -> np.ndarray:
    """An image from a PNG file."""
    from matplotlib.image import imread

    try:
        image = np.array(imread(path, format="png"))
    except (OSError, SyntaxError) as error:
        raise SystemExit(f"{path} has to be a PNG file: {error}") from error
    if image.ndim != 3 or image.shape[:2] != (SIDE, SIDE):
        raise SystemExit(f"{path} is {image.shape}: give {SIDE} × {SIDE} pixels in colour")
    return (255 * image[..., :3]).round().astype("uint8")


def show(folder: Path, samples: Sequence[tuple[np.ndarray, str]], found: Sequence[str]) -> None:
    """Write images, and a page with what they show and what was written."""
    from matplotlib.image import imsave

    rows = []
    for n, ((image, wanted), text) in enumerate(zip(samples, found, strict=True), 1):
        imsave(folder / f"image-{n}.png", image)
        mark = "" if text == wanted else f"<br><i>{html.escape(wanted)}</i>"
        rows.append(f'<p><img src="image-{n}.png" width="128"><br>{html.escape(text)}{mark}</p>')
    page = '<!doctype html><meta charset="utf-8"><style>img {image-rendering: pixelated}</style>'
    (folder / "captions.html").write_text("\n".join([page, *rows]) + "\n", encoding="utf-8")


def make_data(n_train: int) -> dict[str, list[tuple[np.ndarray, str]]]:
    """Images and captions, by part; those of the test have captions of their own."""
    rng, noise = random.Random(0), np.random.default_rng(0)  # the same for every --seed
    test: dict[str, Scene] = {}
    while len(test) < N_TEST:
        scene = draw_scene(rng)
        test[caption(scene)] = scene
    others: list[Scene] = []
    while len(others) < N_VALID + n_train:
        scene = draw_scene(rng)
        if caption(scene) not in test:
            others.append(scene)
    parts = {"train": others[N_VALID:], "valid": others[:N_VALID], "test": list(test.values())}
    return {
        part: [(picture(scene, noise), caption(scene)) for scene in scenes]
        for part, scenes in parts.items()
    }


# --- model


def tokens_of_captions(args: argparse.Namespace) -> tuple[Tokenizer, list[int]]:
    """A tokenizer of the characters of captions, and their ids in the checkpoint."""
    token_dict = load_vocab(args.files.vocabulary)
    words = (*PLACES, *COLOURS, *SHAPES, "有一个的，。")
    tokens = [*SPECIAL, *sorted(set("".join(words)))]
    kept = {token: i for i, token in enumerate(tokens)}
    return Tokenizer(kept), [token_dict[token] for token in tokens]


def make(pad: Callable, samples: list[tuple[list[int], np.ndarray]]) -> tuple:
    """Tokens, segments and images; at each position the token behind it."""
    rows, images = zip(*samples, strict=True)
    token_ids = pad(rows)
    return [token_ids, np.zeros_like(token_ids), np.array(images)], next_tokens(token_ids)


def build(args: argparse.Namespace, keep_tokens: list[int]) -> Model:
    """The probabilities of the next token, given an image as a third input."""
    image = keras.Input((SIDE, SIDE, 3), name="Input-Image")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1, name="Image-Scale")(image)
    for n, filters in enumerate((32, 64, 64)):
        options = {"strides": 2, "padding": "same", "activation": "relu"}
        x = keras.layers.Conv2D(filters, 3, name=f"Image-{n}", **options)(x)
    # Not a mean over the image, which would not say where things are.
    x = keras.layers.Flatten(name="Image-Flat")(x)
    condition = keras.layers.Dense(CONDITION_SIZE, "relu", name="Image-Vector")(x)
    return language_model(
        args, keep_tokens, layer_norm_cond=condition, additional_input_layers=image
    )


def captions(generator: Generator, images: Sequence[np.ndarray]) -> list[str]:
    """What the model writes of images."""
    start = [generator.tokenizer._token_start_id]
    return generator.generate([start] * len(images), conditions=[np.array(images)])


# --- the experiment


def main(argv: Sequence[str] | None = None) -> dict | None:
    need("matplotlib")  # also to predict
    args = arguments(__file__, __doc__, QUICK, FULL, argv, needs_data=False)
    tokenizer, keep_tokens = tokens_of_captions(args)
    model = build(args, keep_tokens)
    generator = Generator(model, tokenizer, maxlen=args.size.maxlen)
    if args.texts is not None:
        load_best(args, model)
        found = captions(generator, list(map(read_picture, args.texts)))
        for path, text in zip(args.texts, found, strict=True):
            print(json.dumps({"image": path, "caption": text}, ensure_ascii=False))
        return None

    data = make_data(N_TRAIN[args.quick])
    remember(args)
    train = [(tokenizer.encode(text)[0], image) for image, text in data["train"]]
    batches = Batches(train, args.batch_size, make)
    compile_for_tokens(args, model, batches)

    def scored(samples: list[tuple[np.ndarray, str]], folder: Path | None = None) -> dict:
        images, wanted = zip(*samples, strict=True)
        found = captions(generator, images)
        if folder:
            show(folder, samples[:N_SHOWN], found[:N_SHOWN])
        exact = np.mean([a == b for a, b in zip(found, wanted, strict=True)])
        right = micro_f1(list(map(things, found)), list(map(things, wanted)))
        return {"exact": round(float(exact), 4), "things_f1": right["f1"]}

    fit(args, model, batches, lambda: scored(data["valid"]))
    scores = scored(data["test"], args.output)
    return report(args, f"{N_TEST} images", scores)


if __name__ == "__main__":
    main()
