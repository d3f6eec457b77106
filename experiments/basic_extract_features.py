"""Vectors of texts.

    python experiments/basic_extract_features.py --quick
    python experiments/basic_extract_features.py --checkpoint FOLDER
    python experiments/basic_extract_features.py predict 语言模型 今天天气很好 --quick

A vector for each token, and their mean for the whole text. Texts of any lengths go through the
model together: padding is hidden from attention, and the vectors are those of each text alone. The
model is saved as one file, `features.keras`, and gives the same when it is loaded.
"""

import json
from collections.abc import Sequence

import keras
import numpy as np
from basics import arguments, padded
from common import report

from bert4keras.layers import GlobalAveragePooling1D
from bert4keras.models import Model, build_transformer_model
from bert4keras.tokenizers import Tokenizer

TEXTS = [
    "语言模型",
    "今天天气很好，我们去公园。",
    "今天是个晴天，适合出去走走。",
    "股票价格又下跌了。",
]


def features(
    model: keras.Model, texts: Sequence[str], tokenizer: Tokenizer
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each text the vectors of its tokens, [CLS] and [SEP] included, and their mean."""
    rows = [tokenizer.encode(text)[0] for text in texts]
    token_ids = padded(rows)
    vectors, means = model.predict_on_batch([token_ids, np.zeros_like(token_ids)])
    return [(vectors[i, : len(row)], means[i]) for i, row in enumerate(rows)]


def largest_difference(some: list, others: list) -> float:
    """The largest difference of the vectors of the same texts."""
    pairs = zip(some, others, strict=True)
    return max(float(np.abs(a - b).max()) for x, y in pairs for a, b in zip(x, y, strict=True))


def cosines(means: Sequence[np.ndarray]) -> np.ndarray:
    """The cosine of each pair of vectors."""
    units = np.array([mean / np.linalg.norm(mean) for mean in means])
    return units @ units.T


def main(argv: Sequence[str] | None = None) -> dict | None:
    args = arguments(__file__, __doc__, argv)
    encoder = build_transformer_model(args.files.config, args.files.checkpoint)
    mean = GlobalAveragePooling1D(name="Mean")(encoder.output)
    model = Model(encoder.inputs, [encoder.output, mean])
    found = features(model, args.texts or TEXTS, args.tokenizer)
    if args.texts is not None:
        for text, (_, mean) in zip(args.texts, found, strict=True):
            vector = [round(float(x), 4) for x in mean]
            print(json.dumps({"text": text, "vector": vector}, ensure_ascii=False))
        return None

    for text, (vectors, mean) in zip(TEXTS, found, strict=True):
        print(f"{text}\n  {len(vectors)} vectors of {len(mean)} numbers, mean", mean[:4].round(3))
    print("cosines of the means:\n", cosines([mean for _, mean in found]).round(3))
    alone = [features(model, [text], args.tokenizer)[0] for text in TEXTS]
    model.save(args.output / "features.keras")
    loaded = keras.models.load_model(args.output / "features.keras")
    again = features(loaded, TEXTS, args.tokenizer)
    scores = {
        "difference_alone": largest_difference(found, alone),
        "difference_loaded": largest_difference(found, again),
        "size": len(found[0][1]),
    }
    return report(args, f"{len(TEXTS)} texts", scores)


if __name__ == "__main__":
    main()
