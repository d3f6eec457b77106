"""Wrote the files of this folder, before `backend` and `layers` became packages.

    KERAS_BACKEND=tensorflow python tests/saved_by_1_0_dev/make.py FOLDER

Each model is saved with the outputs that it gave; that with an optimizer has been trained for two
batches, and the weights that two more give are kept as well.
"""

import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
from keras.layers import Input

from bert4keras import layers, optimizers
from bert4keras.backend import K, swish
from bert4keras.models import Model, build_transformer_model

TOKENS = np.array([[2, 5, 6, 3, 0], [2, 7, 3, 0, 0]])
SEGMENTS = np.array([[0, 0, 1, 1, 0], [0, 1, 1, 0, 0]])
SIZES = {
    "vocab_size": 9,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "max_position_embeddings": 8,
}


@keras.saving.register_keras_serializable("saved_by_1_0_dev")
class CrossEntropy(layers.Loss):
    """A loss of a user's own, as a layer."""

    def compute_loss(self, inputs, mask=None):
        labels, scores = inputs
        losses = keras.losses.sparse_categorical_crossentropy(labels, scores, from_logits=True)
        return keras.ops.mean(losses)


def vectors(mask_zero=True):
    """Token ids and the vectors that they are embedded in, (batch, length, 8)."""
    tokens = Input((None,), dtype="int32")
    return tokens, layers.Embedding(9, 8, mask_zero=mask_zero)(tokens)


def bert():
    """BERT with both of its heads and the optimizer of pretraining."""
    model = build_transformer_model(with_mlm="linear", with_nsp="linear", **SIZES)
    adam = optimizers.extend_with_gradient_accumulation(
        optimizers.extend_with_piecewise_linear_lr(
            optimizers.extend_with_weight_decay(optimizers.Adam)
        )
    )
    optimizer = adam(
        learning_rate=0.01,
        weight_decay_rate=0.1,
        exclude_from_weight_decay=["Norm", "bias"],
        lr_schedule={2: 1, 4: 0.5},
        grad_accum_steps=2,
    )
    model.compile(optimizer=optimizer, loss=["mse", "mse"])
    return model


def biases():
    """Attention with a bias of each kind, and what else encoders are made of."""
    tokens, x = vectors()
    at = layers.SinusoidalPositionEmbedding(4, "zero")(x)
    x = layers.PositionEmbedding(4, 8, hierarchical=True)(x)
    rotary = {"a_bias": True, "p_bias": "rotary"}
    attention = layers.MultiHeadAttention(2, 4)([x, x, x, layers.LMMask()(tokens), at], **rotary)
    x = layers.LayerNormalization()(layers.Add()([x, attention]))
    distances = layers.RelativePositionEmbedding(7, 4)([x, x])
    x = layers.MultiHeadAttention(2, 4)([x, x, x, distances], p_bias="typical_relative")
    buckets = layers.RelativePositionEmbeddingT5(8, 2)([x, x])
    bias = layers.AttentionBias()([layers.UniLMMask()(tokens), layers.LocalMask(5)(tokens)])
    x = layers.MultiHeadAttention(2, 4)([x, x, x, bias, buckets], a_bias=True, p_bias="t5_relative")
    table = layers.RelativePositionTable(4, 8)(x)
    attention = layers.DisentangledAttention(2, 4, buckets=2, max_distance=4)
    x = layers.CopyMask()([attention([x, x, x, table], p_bias="disentangled"), x])
    x = layers.LayerNormalization()(layers.GatedAttentionUnit(8, 4)([x, at], p_bias="rotary"))
    x = layers.FeedForward(8, ["gelu", "linear"])(layers.Dropout(0.1)(x))
    x = layers.Saturation()(layers.ScaleOffset()(layers.MaskedConv1D(8, 3, padding="same")(x)))
    x = layers.LayerNormalization()(x)
    x = layers.Concatenate1D()([x, x])
    parts = layers.BatchSplit(2)(x)
    mean = layers.GlobalAveragePooling1D()(layers.BatchConcat()(parts))
    pooled = layers.Multiply()([mean, layers.GlobalMaxPooling1D()(x), layers.FirstToken()(x)])
    return Model(tokens, layers.Dense(3)(layers.Concatenate()([pooled, mean])))


def labels():
    """Labels by a conditional random field, and by a maximum-entropy Markov model."""
    tokens, x = vectors()
    crf = layers.ConditionalRandomField(lr_multiplier=2, name="crf")
    memm = layers.MaximumEntropyMarkovModel(hidden_dim=2, name="memm")
    scores, others = crf(layers.Dense(3)(x)), memm(layers.Dense(3)(x))
    return Model(tokens, [scores, others, crf.decode(scores), memm.decode(others)])


def spans():
    """Spans by both kinds of global pointers."""
    tokens, x = vectors()
    return Model(tokens, [layers.GlobalPointer(2, 4)(x), layers.EfficientGlobalPointer(2, 4)(x)])


def functions():
    """A function and a loss as layers."""
    tokens, x = vectors()
    scores = layers.Dense(3)(layers.Lambda(swish)(x))
    return Model(tokens, CrossEntropy(1)([tokens % 3, scores]))


def keras2():
    """Functions of Keras 2 on symbolic tensors."""
    tokens, x = vectors(mask_zero=False)
    batch, length, size = K.shape(x)
    heads = K.reshape(x, (batch, length, 2, size // 2))
    heads = K.permute_dimensions(heads, (0, 2, 1, 3))
    x = K.in_train_phase(heads * 0, heads * 2)
    mean = K.sum(x, 2) / K.cast(length, "float32")
    positions = K.expand_dims(K.arange(0, length), 0)
    return Model(tokens, [K.l2_normalize(mean, -1), K.one_hot(positions + K.zeros_like(tokens), 6)])


MODELS = {f.__name__: f for f in (bert, biases, labels, spans, functions, keras2)}


def inputs_of(name):
    return [TOKENS, SEGMENTS] if name == "bert" else TOKENS


def train(model):
    """Train BERT for two batches, which its optimizer accumulates."""
    model.run_eagerly = keras.backend.backend() == "tensorflow"
    x = inputs_of("bert")
    for _ in range(2):
        model.train_on_batch(x, [np.zeros(y.shape) for y in outputs_of(model, x)])


def outputs_of(model, x):
    return [keras.ops.convert_to_numpy(y) for y in keras.tree.flatten(model(x))]


def compress(path):
    """Zip what Keras only stores: most of it is empty."""
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)


def main(folder):
    keras.utils.set_random_seed(1)
    arrays, noise = {}, np.random.default_rng(1)
    for name, make in MODELS.items():
        model, x = make(), inputs_of(name)
        # What starts at zero, as positions do, is to be told from what was not read.
        model.set_weights([w + noise.normal(0, 0.3, w.shape) for w in model.get_weights()])
        if name == "bert":
            train(model)
        model.save(folder / f"{name}.keras")
        compress(folder / f"{name}.keras")
        for i, output in enumerate(outputs_of(model, x)):
            arrays[f"{name}/{i}"] = output
    model = keras.saving.load_model(folder / "bert.keras")
    train(model)
    arrays["trained"] = np.concatenate([w.ravel() for w in model.get_weights()])
    np.savez_compressed(folder / "outputs.npz", **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
