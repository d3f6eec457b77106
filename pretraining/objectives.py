"""The model that each task trains, its losses, and the model that is saved."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from bert4keras.backend import batch_gather, sinusoidal_embeddings
from bert4keras.models import Model, Transformer, build_transformer_model

DISCRIMINATOR_WEIGHT = 50.0  # Clark et al., 2020, section 3.1


@dataclass
class Objective:
    """What a task trains.

    Attributes:
        model: the Keras model that is trained.
        official: the Transformer whose variables make the official checkpoint.
        loss: see `keras.Model.compile`, as are the following ones.
        metrics: with weights.
        loss_weights: of several losses.
    """

    model: Model
    official: Transformer
    loss: Any
    metrics: Any = field(default_factory=lambda: [accuracy()])
    loss_weights: list[float] | None = None


def accuracy() -> keras.metrics.Metric:
    return keras.metrics.SparseCategoricalAccuracy(name="accuracy")


def token_loss(from_logits: bool = True) -> keras.losses.Loss:
    """Cross-entropy, the mean over what has a weight."""
    return keras.losses.SparseCategoricalCrossentropy(
        from_logits=from_logits, reduction="mean_with_sample_weight"
    )


def roberta(config: Path, **kwargs: Any) -> Objective:
    """Masked tokens."""
    trained = transformer(config, with_mlm="linear", masked_positions=True, **kwargs)
    # Official checkpoints have a pooler. Masked tokens do not train it.
    official = transformer(config, with_pool=True, with_mlm=True, layers=trained.layers)
    return Objective(trained.model, official, token_loss())


def bert(config: Path, **kwargs: Any) -> Objective:
    """Masked tokens, and pairs of segments."""
    heads = {"with_nsp": True, "with_mlm": "linear"}
    trained = transformer(config, masked_positions=True, **heads, **kwargs)
    official = transformer(config, layers=trained.layers, **heads)
    losses = [token_loss(from_logits=False), token_loss()]
    return Objective(trained.model, official, losses, [[accuracy()], [accuracy()]])


def gpt(config: Path, **kwargs: Any) -> Objective:
    """The next token."""
    trained = transformer(config, final_activation="linear", **kwargs)
    return Objective(trained.model, trained, token_loss())


def unilm(config: Path, **kwargs: Any) -> Objective:
    """The second part of a text from the first."""
    trained = transformer(config, with_mlm="linear", application="unilm", **kwargs)
    official = transformer(config, with_pool=True, with_mlm=True, layers=trained.layers)
    return Objective(trained.model, official, token_loss())


def transformer(config: Path, **kwargs: Any) -> Transformer:
    return build_transformer_model(config, return_keras_model=False, **kwargs)


# --- ELECTRA


def electra(config: Path, generator_config: Path, **kwargs: Any) -> Objective:
    """Tokens that a small masked language model has replaced, which is trained along.

    Both have one set of embeddings (Clark et al., 2020).
    """
    discriminator = transformer(config, with_discriminator="linear", **kwargs)
    shared = {
        f"Generator-{name}": layer
        for name, layer in discriminator.layers.items()
        if name.startswith("Embedding-") and hasattr(layer, "embeddings")
    }
    generator = transformer(
        generator_config,
        model="bert",
        with_mlm="linear",
        masked_positions=True,
        layers=shared,
        prefix="Generator-",
        **kwargs,
    )
    scores = generator.model.output
    token_ids = keras.Input((None,), dtype="int32", name="Input-Original-Token")
    slots = keras.Input((None,), dtype="int32", name="Input-Slot")
    shown = Replacement(name="Replacement")([token_ids, scores, slots])
    replaced = discriminator.model([shown, generator.inputs[1]])
    replaced = Labelled(name="Replaced")([replaced, shown, token_ids])
    model = Model([*generator.inputs, token_ids, slots], [scores, replaced])
    return Objective(
        model,
        discriminator,
        [token_loss(), ReplacedTokenLoss()],
        [[accuracy()], [ReplacedTokenAccuracy()]],
        [1.0, DISCRIMINATOR_WEIGHT],
    )


class Replacement(keras.layers.Layer):
    """Tokens drawn from the scores of a generator in the place of masked ones.

    Inputs: token ids (batch, length); scores (batch, n, vocabulary); for each position which of the
    n stands there (batch, length), -1 for none. Output: token ids (batch, length).
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator()

    def call(self, inputs):
        token_ids, scores, slots = inputs
        n_tokens = scores.shape[-1]
        # Padding is what nobody writes.
        scores = keras.ops.cast(scores, "float32") - 1e9 * keras.ops.one_hot(0, n_tokens)
        flat = keras.ops.reshape(scores, (-1, n_tokens))
        drawn = keras.random.categorical(flat, 1, dtype="int32", seed=self.seed_generator)
        drawn = keras.ops.reshape(drawn, keras.ops.shape(scores)[:2])
        return keras.ops.where(
            slots >= 0, batch_gather(drawn, keras.ops.maximum(slots, 0)), token_ids
        )

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs[0].shape, dtype="int32")

    def compute_mask(self, inputs, previous_mask=None):
        return None


class Labelled(keras.layers.Layer):
    """Scores of replaced tokens beside what is true: (batch, length, 2)."""

    def call(self, inputs):
        scores, shown, original = inputs
        label = keras.ops.cast(shown != original, scores.dtype)[..., None]
        return keras.ops.concatenate([scores, label], axis=-1)

    def compute_mask(self, inputs, previous_mask=None):
        return None  # the weights say which tokens are text


class ReplacedTokenLoss(keras.losses.Loss):
    """Binary cross-entropy of the two halves of `Labelled`; there are no other targets."""

    def __init__(self) -> None:
        super().__init__(name="replaced", reduction="mean_with_sample_weight")

    def call(self, y_true, y_pred):
        return keras.ops.binary_crossentropy(y_pred[..., 1], y_pred[..., 0], from_logits=True)


class ReplacedTokenAccuracy(keras.metrics.Mean):
    """The share of tokens that were told to be original or replaced rightly."""

    def __init__(self) -> None:
        super().__init__(name="accuracy")

    def update_state(self, y_true, y_pred, sample_weight=None):
        right = (y_pred[..., 0] > 0) == (y_pred[..., 1] > 0.5)
        return super().update_state(keras.ops.cast(right, "float32"), sample_weight)


OBJECTIVES = {"roberta": roberta, "bert": bert, "gpt": gpt, "unilm": unilm, "electra": electra}


# --- starts that make small models learn sooner


def start_from_corpus(
    model: Transformer, rows: np.ndarray, initializer_range: float, seed: int
) -> None:
    """Let token vectors start from co-occurrence counts, position vectors from sines.

    Positions that start as sines let attention find neighbours much sooner than random ones.

    Args:
        model: its tables are changed.
        rows: token ids (n, length), 0 behind the end.
        initializer_range: standard deviation of the vectors.
        seed: of the vectors of tokens that do not occur.
    """
    tokens = model.layers["Embedding-Token"]
    vectors = cooccurrence_vectors(rows, *tokens.embeddings.shape, seed=seed)
    unseen = np.abs(vectors).max(axis=1) < 1e-6
    rng = np.random.default_rng(seed)
    vectors[unseen] = rng.normal(size=(unseen.sum(), vectors.shape[1]))
    tokens.set_weights([initializer_range * vectors])
    positions = model.layers.get("Embedding-Position")
    if positions is not None:
        n_positions, size = positions.weights[0].shape
        sines = sinusoidal_embeddings(np.arange(n_positions), size)
        positions.set_weights([initializer_range * keras.ops.convert_to_numpy(sines)])


def cooccurrence_vectors(
    rows: np.ndarray, vocab_size: int, dim: int, window: int = 4, seed: int = 0
) -> np.ndarray:
    """Token vectors (vocab_size, dim) from which tokens stand near each other.

    The positive pointwise mutual information of tokens at most `window` apart is factorised, which
    is what skip-gram word vectors approximate (Levy & Goldberg, 2014). Found in a minute, they
    spare a small model the long beginning in which it learns frequencies only. Padding (id 0) does
    not count.
    """
    counts = np.zeros(vocab_size * vocab_size, "float32")
    for distance in range(1, window + 1):
        pairs = rows[:, :-distance].ravel().astype("int64") * vocab_size
        pairs += rows[:, distance:].ravel()
        seen, number = np.unique(pairs, return_counts=True)
        counts[seen] += number
    counts = counts.reshape(vocab_size, vocab_size)
    counts[0] = counts[:, 0] = 0
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
