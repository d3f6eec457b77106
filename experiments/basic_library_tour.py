"""The library itself, from features to a block of your own.

    python experiments/basic_library_tour.py --data DATA --quick
    python experiments/basic_library_tour.py predict 今天天[MASK]很好。

1. Features: vectors of a text, and a vector of the whole.
2. Masked prediction: which characters fit into a gap.
3. The weights are the official ones: the model gives what thirty lines of NumPy give that read the
   checkpoint and follow the paper (Devlin et al., 2018).
4. A block of your own: the attention of layer 3 is swapped for a gated attention unit, and behind
   every feed-forward layer stands an adapter (Houlsby et al., 2019). Only what is new, and the
   layer normalisations, are trained on reviews; the rest keeps what the checkpoint says.
5. Saved as an official checkpoint and loaded elsewhere: TensorFlow lists it, a new model predicts
   the same.

Data: `sentiment/sentiment.zip` (`sentiment/sentiment.{train,valid,test}.data`).
"""

import argparse
import json
from collections.abc import Callable, Sequence
from math import erf
from pathlib import Path

import keras
import numpy as np
from common import (
    Batches,
    Size,
    arguments,
    fit,
    optimizer,
    outputs,
    read_lines,
    remember,
    report,
)

from bert4keras.checkpoints import list_variables, load_variable
from bert4keras.layers import FirstToken, GatedAttentionUnit
from bert4keras.models import BERT, Model, build_transformer_model
from bert4keras.tokenizers import Tokenizer

QUICK = Size(epochs=2, batch_size=32, learning_rate=1e-3, maxlen=64)
FULL = Size(epochs=5, batch_size=32, learning_rate=1e-4, maxlen=128)
TRAIN_SIZE = 4000  # reviews of a quick run
TEXT = "语言模型是一种工具。"
GAP = "今天天[MASK]很好。"


# --- 2. masked prediction


def fill(model: Model, tokenizer: Tokenizer, text: str, n: int = 5) -> list[list[tuple]]:
    """For each `[MASK]` in a text the `n` tokens that fit best, with their probabilities."""
    pieces = [tokenizer.tokenize(piece)[1:-1] for piece in text.split("[MASK]")]
    tokens = ["[CLS]", *pieces[0]]
    for piece in pieces[1:]:
        tokens += ["[MASK]", *piece]
    token_ids = np.array([tokenizer.tokens_to_ids([*tokens, "[SEP]"])])
    probabilities = model.predict_on_batch([token_ids, np.zeros_like(token_ids)])[0]
    gaps = np.nonzero(token_ids[0] == tokenizer.token_to_id("[MASK]"))[0]
    best = np.argsort(-probabilities[gaps], axis=1)[:, :n]
    return [
        [(tokenizer.id_to_token(i), round(float(probabilities[gap, i]), 3)) for i in row]
        for gap, row in zip(gaps, best, strict=True)
    ]


# --- 3. the same in NumPy


def reference(config: Path, checkpoint: Path, token_ids: Sequence[int]) -> np.ndarray:
    """The last hidden states (length, size) of BERT for one text, from the files alone."""
    sizes = json.loads(config.read_text(encoding="utf-8"))
    n_heads = sizes["num_attention_heads"]

    def weight(name: str) -> np.ndarray:
        return load_variable(checkpoint, f"bert/{name}").astype("float64")

    def dense(x: np.ndarray, name: str) -> np.ndarray:
        return x @ weight(f"{name}/kernel") + weight(f"{name}/bias")

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        x = x - x.mean(axis=-1, keepdims=True)
        x = x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + 1e-12)
        return x * weight(f"{name}/LayerNorm/gamma") + weight(f"{name}/LayerNorm/beta")

    def heads(x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), n_heads, -1).transpose(1, 0, 2)

    n = len(token_ids)
    x = weight("embeddings/word_embeddings")[token_ids]
    x = x + weight("embeddings/position_embeddings")[:n]
    x = norm(x + weight("embeddings/token_type_embeddings")[0], "embeddings")
    for i in range(sizes["num_hidden_layers"]):
        layer = f"encoder/layer_{i}"
        query, key, value = (
            heads(dense(x, f"{layer}/attention/self/{part}")) for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 2, 1) / np.sqrt(query.shape[-1])
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
        mixed = (scores @ value).transpose(1, 0, 2).reshape(n, -1)
        x = norm(x + dense(mixed, f"{layer}/attention/output/dense"), f"{layer}/attention/output")
        wide = dense(x, f"{layer}/intermediate/dense")
        wide = wide * (1 + np.vectorize(erf)(wide / np.sqrt(2))) / 2  # gelu
        x = norm(x + dense(wide, f"{layer}/output/dense"), f"{layer}/output")
    return x


# --- 4. a block of your own


class Adapter(keras.layers.Layer):
    """x + up(act(down(x))), which changes nothing to begin with: `up` starts at zero."""

    positionwise = True

    def __init__(self, units: int = 32, **kwargs) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.units = units

    def build(self, shape: Sequence[int]) -> None:
        self.down = keras.layers.Dense(self.units, "relu")
        self.up = keras.layers.Dense(shape[-1], kernel_initializer="zeros")
        self.down.build(shape)
        self.up.build((*shape[:-1], self.units))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return x + self.up(self.down(x))


class AdaptedBERT(BERT):
    """BERT with another attention in layer 3, and adapters."""

    def apply_attention(
        self, x: keras.KerasTensor, context: keras.KerasTensor, name: str, *biases: None
    ) -> keras.KerasTensor:
        if name != "Transformer-3-MultiHeadSelfAttention":
            return super().apply_attention(x, context, name, *biases)
        return self.apply(
            x,
            GatedAttentionUnit,
            units=2 * self.hidden_size,
            key_size=64,
            name="Transformer-3-GatedAttentionUnit",
        )

    def apply_feed_forward(self, x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        x = super().apply_feed_forward(x, name)
        return self.apply(x, Adapter, name=f"{name}-Adapter")


NEW = ("Adapter", "GatedAttentionUnit", "Norm", "Label")


def build_classifier(args: argparse.Namespace, load: bool = True) -> Model:
    """A classifier of reviews in which only what is new is trained."""
    checkpoint = args.files.checkpoint if load else None
    bert = build_transformer_model(args.files.config, checkpoint, model=AdaptedBERT)
    vector = FirstToken(name="First-Token")(bert.output)
    model = Model(bert.inputs, keras.layers.Dense(2, "softmax", name="Label")(vector))
    for layer in model.layers:
        layer.trainable = layer.name.endswith(NEW)
    return model


def read_reviews(args: argparse.Namespace, part: str) -> list[tuple[list[int], int]]:
    """Token ids and labels of a part of the data."""
    lines = read_lines(args.data, "sentiment/sentiment.zip", f"sentiment/sentiment.{part}.data")
    rows = [line.rsplit("\t", 1) for line in lines]
    if args.quick and part == "train":
        rows = rows[:TRAIN_SIZE]
    maxlen = args.size.maxlen
    return [(args.tokenizer.encode(text, maxlen=maxlen)[0], int(label)) for text, label in rows]


def make(pad: Callable, reviews: list) -> tuple:
    token_ids, labels = zip(*reviews, strict=True)
    token_ids = pad(token_ids)
    return [token_ids, np.zeros_like(token_ids)], np.array(labels)


# --- the tour


def main(argv: Sequence[str] | None = None) -> dict | None:
    args = arguments(__file__, __doc__, QUICK, FULL, argv)
    config, checkpoint, tokenizer = args.files.config, args.files.checkpoint, args.tokenizer
    filler = build_transformer_model(config, checkpoint, with_mlm=True)
    if args.texts is not None:
        for text in args.texts:
            row = {"text": text, "gaps": fill(filler, tokenizer, text)}
            print(json.dumps(row, ensure_ascii=False))
        return None

    print("\n1. Features of", TEXT)
    encoder = build_transformer_model(config, checkpoint)
    token_ids = np.array([tokenizer.encode(TEXT)[0]])
    vectors = encoder.predict_on_batch([token_ids, np.zeros_like(token_ids)])[0]
    print(f"   {vectors.shape[0]} vectors of {vectors.shape[1]} numbers; of the whole, the mean:")
    print("  ", np.round(vectors.mean(axis=0)[:6], 3), "…")

    print("\n2. What fits into", GAP)
    for token, probability in fill(filler, tokenizer, GAP)[0]:
        print(f"   {token}  {probability:.3f}")

    difference = float(np.abs(vectors - reference(config, checkpoint, token_ids[0])).max())
    print(f"\n3. Largest difference from NumPy: {difference:.1e}")

    print("\n4. Another attention in layer 3, adapters, trained on reviews")
    remember(args)
    train, valid, test = (read_reviews(args, part) for part in ("train", "valid", "test"))
    classifier = build_classifier(args)
    trained = sum(int(np.prod(weight.shape)) for weight in classifier.trainable_weights)
    print(f"   {trained:,} of {classifier.count_params():,} weights are trained")
    batches = Batches(train, args.batch_size, make)
    classifier.compile(optimizer=optimizer(args, batches), loss="sparse_categorical_crossentropy")

    def accuracy(reviews: list) -> dict[str, float]:
        samples = [(ids, [0] * len(ids)) for ids, _ in reviews]
        found = [scores.argmax() for (scores,) in outputs(classifier, samples)]
        right = np.mean(np.equal(found, [label for _, label in reviews]))
        return {"accuracy": round(float(right), 4)}

    fit(args, classifier, batches, lambda: accuracy(valid))
    scores = accuracy(test)

    print("\n5. Saved as an official checkpoint, loaded elsewhere")
    transformer = build_transformer_model(
        config, checkpoint, with_mlm=True, return_keras_model=False
    )
    path = args.output / "bert_model.ckpt"
    transformer.save_weights_as_checkpoint(path)
    again = build_transformer_model(config, path, with_mlm=True)
    same = fill(again, tokenizer, GAP) == fill(filler, tokenizer, GAP)
    print(f"   {len(list_variables(path))} variables, predicts the same: {same}")
    if not same:
        raise SystemExit(f"the checkpoint in {path} does not predict what the saved one does")
    scores |= {"difference_from_numpy": difference, "new_weights": trained}
    return report(args, "sentiment, test", scores)


if __name__ == "__main__":
    main()
