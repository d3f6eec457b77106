"""Transformers in plain NumPy, float64, written from the papers: what models are compared with.

A model is given by its weights, {layer name: [arrays]}, as `weights_of(model)` returns them.
"""

from math import erf

import numpy as np


def weights_of(model):
    """The weights of a Keras model by layer name, in float64."""
    return {
        layer.name: [np.asarray(w, "float64") for w in layer.get_weights()]
        for layer in model.layers
        if layer.weights
    }


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def gelu(x):
    return 0.5 * x * (1 + np.vectorize(erf)(x / np.sqrt(2)))


def dense(x, kernel, bias=0.0):
    return x @ kernel + bias


def norm(x, weights, epsilon, condition=None, rms=False):
    """Layer normalisation; weights are beta, gamma or gamma alone, then those of the condition."""
    if not rms:
        x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon)
    beta, gamma, *rest = [np.zeros(1), *weights] if rms else weights
    if condition is not None:
        rest = [np.zeros((condition.shape[-1], 1)), *rest] if rms else rest
        beta = beta + (condition @ rest[0])[:, None]
        gamma = gamma + (condition @ rest[1])[:, None]
    return x * gamma + beta


def sinusoidal(positions, size):
    angles = np.asarray(positions)[..., None] / 10000 ** (2 * np.arange(size // 2) / size)
    return np.stack([np.sin(angles), np.cos(angles)], -1).reshape(*angles.shape[:-1], size)


def rotate(x, positions):
    """Rotate the pairs of features (2i, 2i + 1) of (batch, length, heads, size)."""
    table = sinusoidal(positions, x.shape[-1])[:, :, None]
    sin, cos = np.repeat(table[..., ::2], 2, -1), np.repeat(table[..., 1::2], 2, -1)
    turned = np.stack([-x[..., 1::2], x[..., ::2]], -1).reshape(x.shape)
    return x * cos + turned * sin


def attention(
    x,
    context,
    weights,
    heads,
    visible=None,
    score_bias=0.0,
    positions=None,
    relative=None,
    scale=True,
):
    """Multi-head attention.

    Args:
        x, context: (batch, length, size).
        weights: kernels and biases of query, key, value, output; or the four kernels.
        heads: number of heads.
        visible: broadcastable to (batch, heads, query length, key length).
        score_bias: added to the scores, likewise.
        positions: ids (batch, length) by which queries and keys are rotated.
        relative: pair of (query length, key length, size), for keys and for values.
        scale: divide by the root of the key size.

    Returns:
        The output, and the scores before `score_bias` and the mask.
    """
    per_dense = len(weights) // 4
    query, key, value = (
        dense(y, *weights[i * per_dense : (i + 1) * per_dense]).reshape(*y.shape[:2], heads, -1)
        for i, y in enumerate((x, context, context))
    )
    if positions is not None:
        query, key = rotate(query, positions), rotate(key, positions)
    scores = np.einsum("bqhd,bkhd->bhqk", query, key)
    if relative is not None:
        scores = scores + np.einsum("bqhd,qkd->bhqk", query, relative[0])
    scores = scores / np.sqrt(key.shape[-1]) if scale else scores
    biased = scores + score_bias
    probabilities = softmax(biased if visible is None else np.where(visible, biased, -np.inf))
    output = np.einsum("bhqk,bkhd->bqhd", probabilities, value)
    if relative is not None:
        output = output + np.einsum("bhqk,qkd->bqhd", probabilities, relative[1])
    output = output.reshape(*x.shape[:2], -1)
    return dense(output, *weights[3 * per_dense :]), scores


def feed_forward(x, weights, activation=gelu):
    """Two dense layers with an activation between them; biases if there are four weights."""
    half = len(weights) // 2
    return dense(activation(dense(x, *weights[:half])), *weights[half:])


def t5_buckets(query_length, key_length, bidirectional, buckets=32, furthest=128):
    """Numbers of the buckets of relative positions, (query length, key length)."""
    distance = np.arange(key_length)[None] - np.arange(query_length)[:, None]
    offset = 0
    if bidirectional:
        buckets //= 2
        offset = np.where(distance > 0, buckets, 0)
        distance = np.abs(distance)
    else:
        distance = np.maximum(-distance, 0)
    exact = buckets // 2
    ratio = np.log(np.maximum(distance, 1) / exact) / np.log(furthest / exact)
    far = np.minimum(exact + (ratio * (buckets - exact)).astype(int), buckets - 1)
    return offset + np.where(distance < exact, distance, far)


def key_mask(token_ids):
    """Which positions hold text, (batch, length); the first always does."""
    mask = np.asarray(token_ids) > 0
    mask[:, 0] = True
    return mask


def causal(length):
    return np.tril(np.ones((length, length), bool))


def unilm(segment_ids):
    """Which position (row) sees which (column), (batch, 1, length, length)."""
    order = np.cumsum(segment_ids, 1)
    return (order[:, None, :] <= order[:, :, None])[:, None]
