"""Pretrain a BERT on plain text by masked tokens, and save an official checkpoint.

    python pretraining/pretraining.py --corpus a.jsonl.gz b.jsonl.gz --valid valid.jsonl.gz \
        --output out --steps 20000

A corpus file has one document a line: a JSON object with a `text`, or plain text; `.gz` is
unpacked. The output folder gets `bert_config.json`, `vocab.txt`, `bert_model.ckpt.*` and `log.csv`;
`build_transformer_model(folder)` loads it. Without `--vocab` the vocabulary is made of the
characters of the corpus.

Token vectors start from co-occurrence counts, position vectors from sines.

Documents are cut into token sequences once and packed without padding. Masks are drawn anew in
every epoch (RoBERTa's dynamic masking, Liu et al., 2019): 15 % of the tokens are predicted, of
which 80 % are replaced by [MASK], 10 % by a random token and 10 % are left (Devlin et al., 2018).
Scores are computed at the predicted positions only.
"""

import argparse
import collections
import csv
import gzip
import json
import time
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np

from bert4keras.backend import batch_gather, sinusoidal_embeddings
from bert4keras.models import BERT, Model, build_transformer_model
from bert4keras.optimizers import Adam, extend_with_piecewise_linear_lr, extend_with_weight_decay
from bert4keras.tokenizers import Tokenizer, load_vocab, save_vocab

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
MASKED_SHARE = 0.15


class Gather(keras.layers.Layer):
    """Vectors at given positions: [(batch, length, size), (batch, n)] → (batch, n, size)."""

    supports_masking = True

    def call(self, inputs):
        return batch_gather(*inputs)

    def compute_mask(self, inputs, previous_mask=None):
        return None  # the positions are never padding


class MaskedBERT(BERT):
    """BERT whose token scores are computed at the positions of a further input only."""

    def __init__(self, n_masked: int, **kwargs):
        super().__init__(**kwargs)
        self.n_masked = n_masked

    def get_inputs(self):
        kind = {"shape": (self.n_masked,), "dtype": "int32", "name": "Input-Masked"}
        return [*super().get_inputs(), self.apply(layer=keras.Input, **kind)]

    def apply_final_layers(self, inputs):
        masked = self.layers[self.prefixed("Input-Masked")]
        return super().apply_final_layers(
            self.apply([inputs, masked], Gather, name="Masked-Positions")
        )


# --- text


def documents(paths: list[Path], sources: list[str] | None = None) -> Iterator[str]:
    """The documents of corpus files; of those that name their source, only the given ones."""
    for path in paths:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                record = json.loads(line) if line.startswith("{") else {"text": line.strip()}
                if sources is None or record.get("source") in sources:
                    yield record["text"]


def make_vocabulary(texts: Iterator[str], min_count: int) -> dict[str, int]:
    """Special tokens, then the characters that occur often enough; Latin ones as pieces too."""
    counts = collections.Counter()
    for text in texts:
        counts.update(text.lower())
    characters = sorted(c for c, n in counts.items() if n >= min_count and not c.isspace())
    pieces = [f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz0123456789"]
    return {token: i for i, token in enumerate([*SPECIAL, *characters, *pieces])}


def packed(texts: Iterator[str], tokenizer: Tokenizer, length: int) -> np.ndarray:
    """Token sequences (n, length), each [CLS] … [SEP], documents cut and joined at [SEP]."""
    stream = []
    for text in texts:
        for paragraph in text.split("\n"):
            stream.extend(tokenizer.encode(paragraph)[0][1:-1])
        stream.append(tokenizer._token_end_id)
    body = length - 2
    n_rows = len(stream) // body
    if not n_rows:
        raise SystemExit(f"the corpus has {len(stream)} tokens, less than one sequence of {length}")
    rows = np.empty((n_rows, length), "int32")
    rows[:, 0] = tokenizer._token_start_id
    rows[:, -1] = tokenizer._token_end_id
    rows[:, 1:-1] = np.reshape(stream[: n_rows * body], (n_rows, body))
    return rows


def cooccurrence_vectors(
    rows: np.ndarray, vocab_size: int, dim: int, window: int = 4, seed: int = 0
) -> np.ndarray:
    """Token vectors (vocab_size, dim) from which tokens stand near each other.

    The positive pointwise mutual information of tokens at most `window` apart is factorised, which
    is what skip-gram word vectors approximate (Levy & Goldberg, 2014). Found in a minute, they
    spare a small model the long beginning in which it learns frequencies only.
    """
    counts = np.zeros(vocab_size * vocab_size, "float32")
    for distance in range(1, window + 1):
        pairs = rows[:, :-distance].ravel().astype("int64") * vocab_size
        pairs += rows[:, distance:].ravel()
        seen, number = np.unique(pairs, return_counts=True)
        counts[seen] += number
    counts = counts.reshape(vocab_size, vocab_size)
    counts += counts.T
    frequency = counts.sum(axis=0) + 1e-9
    # Contexts smoothed by the power of 0.75, as in word2vec, so that rare ones do not prevail.
    context = frequency**0.75
    expected = frequency[:, None] * (context / context.sum())
    scores = np.log(np.maximum(counts / expected, 1)).astype("float32")
    # Randomised truncated decomposition (Halko et al., 2011).
    basis = np.random.default_rng(seed).normal(size=(vocab_size, dim + 32)).astype("float32")
    for _ in range(4):
        basis, _ = np.linalg.qr(scores @ (scores.T @ basis))
    u, singular, _ = np.linalg.svd(basis.T @ scores, full_matrices=False)
    vectors = (basis @ u)[:, :dim] * np.sqrt(singular[:dim])
    return vectors / vectors.std()


def mask(rows: np.ndarray, n_masked: int, tokenizer: Tokenizer, rng: np.random.Generator) -> tuple:
    """One draw of masks: inputs (tokens, segments, positions) and the tokens to predict."""
    order = rng.random(rows.shape)
    order[np.isin(rows, [tokenizer._token_start_id, tokenizer._token_end_id])] = 2
    positions = np.sort(np.argpartition(order, n_masked, axis=1)[:, :n_masked], axis=1)
    targets = np.take_along_axis(rows, positions, axis=1)
    kind = rng.random(positions.shape)
    random_tokens = rng.integers(len(SPECIAL), tokenizer._vocab_size, positions.shape)
    shown = np.where(
        kind < 0.8, tokenizer._token_mask_id, np.where(kind < 0.9, random_tokens, targets)
    )
    tokens = rows.copy()
    np.put_along_axis(tokens, positions, shown.astype(rows.dtype), axis=1)
    return (tokens, np.zeros_like(tokens), positions.astype("int32")), targets


def batches(rows: np.ndarray, args: argparse.Namespace, tokenizer: Tokenizer) -> Iterator[tuple]:
    """Endless batches, in a new order and with new masks in every epoch."""
    rng = np.random.default_rng(args.seed)
    while True:
        order = rng.permutation(len(rows))
        for start in range(0, len(rows) - args.batch_size + 1, args.batch_size):
            chosen = rows[order[start : start + args.batch_size]]
            yield mask(chosen, args.n_masked, tokenizer, rng)


# --- training


class SaveAndLog(keras.callbacks.Callback):
    """After each epoch: the official checkpoint, and a line in `log.csv`."""

    def __init__(self, transformer: BERT, output: Path, tokens_per_epoch: int):
        super().__init__()
        self.transformer, self.output, self.tokens = transformer, output, tokens_per_epoch
        self.started, self.rows = time.time(), []

    def on_epoch_end(self, epoch, logs=None):
        self.transformer.save_weights_as_checkpoint(self.output / "bert_model.ckpt")
        seconds = time.time() - self.started
        numbers = {name: round(float(value), 4) for name, value in (logs or {}).items()}
        tokens = (epoch + 1) * self.tokens
        self.rows.append({"tokens": tokens, "seconds": round(seconds), **numbers})
        with open(self.output / "log.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.rows[0])
            writer.writeheader()
            writer.writerows(self.rows)


def compiled(transformer: BERT, args: argparse.Namespace) -> Model:
    """The model, ready to train with AdamW, warm-up over a tenth of the steps and linear decay."""
    AdamW = extend_with_piecewise_linear_lr(extend_with_weight_decay(Adam))
    transformer.model.compile(
        optimizer=AdamW(
            learning_rate=args.learning_rate,
            weight_decay_rate=0.01,
            exclude_from_weight_decay=["Norm", "bias", "beta"],
            lr_schedule={args.steps // 10: 1, args.steps: 0},
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return transformer.model


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, nargs="+", required=True)
    parser.add_argument("--valid", type=Path, nargs="+", required=True)
    parser.add_argument("--valid-sources", nargs="+", help="only documents with these `source`s")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--vocab", type=Path, help="vocabulary file; made from the corpus if none")
    parser.add_argument("--min-count", type=int, default=10, help="of a character in the corpus")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden-size", type=int, default=128)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--positions", type=int, default=512)
    parser.add_argument(
        "--initializer-range",
        type=float,
        default=0.02,
        help="of kernels; BERT's 0.02 suits 768 units, narrow models learn sooner from more",
    )
    parser.add_argument("--length", type=int, default=128, help="tokens in a sequence")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10000)
    parser.add_argument("--epoch-steps", type=int, default=500, help="between validations")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.n_masked = round(MASKED_SHARE * (args.length - 2))
    return args


def main() -> None:
    args = arguments()
    keras.utils.set_random_seed(args.seed)
    args.output.mkdir(parents=True, exist_ok=True)
    token_dict = (
        load_vocab(args.vocab)
        if args.vocab
        else make_vocabulary(documents(args.corpus), args.min_count)
    )
    save_vocab(args.output / "vocab.txt", token_dict)
    tokenizer = Tokenizer(token_dict, do_lower_case=True)
    config = {
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": args.hidden_size,
        "initializer_range": args.initializer_range,
        "intermediate_size": 4 * args.hidden_size,
        "max_position_embeddings": args.positions,
        "num_attention_heads": args.heads,
        "num_hidden_layers": args.layers,
        "type_vocab_size": 2,
        "vocab_size": len(token_dict),
    }
    config_path = args.output / "bert_config.json"
    config_path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    rows = packed(documents(args.corpus), tokenizer, args.length)
    valid = packed(documents(args.valid, args.valid_sources), tokenizer, args.length)
    valid = valid[: len(valid) // args.batch_size * args.batch_size]
    print(
        f"{len(token_dict)} tokens in the vocabulary, {rows.size:,} to train on, {valid.size:,} "
        "to validate"
    )
    transformer = build_transformer_model(
        config_path,
        model=MaskedBERT,
        n_masked=args.n_masked,
        with_mlm="linear",
        dropout_rate=0.0,
        attention_dropout_rate=0.0,
        return_keras_model=False,
    )
    # Positions that start as sines let attention find neighbours much sooner than random ones.
    positions = transformer.model.get_layer("Embedding-Position")
    sines = keras.ops.convert_to_numpy(
        sinusoidal_embeddings(np.arange(args.positions), args.hidden_size)
    )
    positions.set_weights([args.initializer_range * sines])
    tokens = transformer.model.get_layer("Embedding-Token")
    vectors = cooccurrence_vectors(rows, len(token_dict), args.hidden_size, seed=args.seed)
    unseen = ~vectors.any(axis=1)
    vectors[unseen] = np.random.default_rng(args.seed).normal(size=(unseen.sum(), args.hidden_size))
    tokens.set_weights([args.initializer_range * vectors])
    # What is saved shares every layer, and has the pooler that official checkpoints have as well
    # (at its initial values: masked tokens do not train it).
    official = build_transformer_model(
        config_path,
        with_pool=True,
        with_mlm=True,
        layers=transformer.layers,
        return_keras_model=False,
    )
    model = compiled(transformer, args)
    model.fit(
        batches(rows, args, tokenizer),
        validation_data=mask(valid, args.n_masked, tokenizer, np.random.default_rng(1)),
        validation_batch_size=args.batch_size,
        steps_per_epoch=args.epoch_steps,
        epochs=-(-args.steps // args.epoch_steps),
        callbacks=[
            SaveAndLog(official, args.output, args.epoch_steps * args.batch_size * args.length)
        ],
    )


if __name__ == "__main__":
    main()
