"""Functions that the layers compute with: masking, attention, positions, activations, losses.

`keras`, `ops` and `K` can be imported from here too. Every function takes and returns tensors of
the running backend (or symbolic Keras tensors) and is written in `keras.ops`.

    tensors        shapes and types, `sequence_masking`, Dense and normalisation as functions
    attention      scores, weights and their sums, `dot_product_attention`
    positions      rotary and sinusoidal embeddings
    activations    gelu_erf gelu_tanh swish leaky_relu, `set_gelu`, `activation`
    losses         multi-label cross-entropy
    loops          fold scan
    compilation_cache    a folder for what JAX compiles
    engines        all that differs by engine: `compiled`, `recompute_grad`, Adam in place, …
    sizes          sizes that are unknown until a model runs
    keras2         `K`, the backend functions of Keras 2
    gradients      values and gradients on each engine
    saving         `registered`, for layers and functions in saved models
"""

from bert4keras.starting import starts_keras as _starts_keras

with _starts_keras():
    import keras
    from keras import ops

from bert4keras.backend.activations import (
    ACTIVATIONS,
    activation,
    gelu_erf,
    gelu_tanh,
    leaky_relu,
    set_gelu,
    swish,
)
from bert4keras.backend.attention import (
    Keys,
    attention_normalize,
    attention_scores,
    attention_visibility,
    dot_product_attention,
    laid_out,
    plain_attention,
    product,
    shared_rows,
    torch_attention,
    weighted_values,
)
from bert4keras.backend.engines import (
    TRACING,
    adam_in_place,
    compiled,
    compiled_by_jax,
    compiled_by_tensorflow,
    compiled_without_weights,
    dropout,
    first_in_turn,
    known_values,
    on_present_values,
    present_values,
    recompute_by_default,
    recompute_grad,
    recomputed,
    recomputed_by_jax,
    recomputed_by_tensorflow,
    shapes_of,
    without_gradients,
)
from bert4keras.backend.keras2.k import K
from bert4keras.backend.loops import fold, scan
from bert4keras.backend.losses import (
    check_labels,
    multilabel_categorical_crossentropy,
    sparse_multilabel_categorical_crossentropy,
)
from bert4keras.backend.positions import (
    ROTARY_SCALING,
    YARN_OPTIONS,
    Sinusoidal,
    apply_rotary_position_embeddings,
    initializer,
    rotary_frequencies,
    scaling_kind,
    sinusoidal_embeddings,
    yarn_factor,
    yarn_frequencies,
)
from bert4keras.backend.saving import registered
from bert4keras.backend.tensors import (
    Tensor,
    affine,
    align,
    as_floats,
    batch_gather,
    divisible_temporal_padding,
    flatten,
    is_bool,
    is_int,
    layer_norm,
    lowest,
    piecewise_linear,
    pool1d,
    pooling,
    reshape,
    root_mean_square,
    search_layer,
    sequence_masking,
    softmax,
    standardized,
)

__all__ = [
    "ACTIVATIONS",
    "ROTARY_SCALING",
    "TRACING",
    "YARN_OPTIONS",
    "K",
    "Keys",
    "Sinusoidal",
    "Tensor",
    "activation",
    "adam_in_place",
    "affine",
    "align",
    "apply_rotary_position_embeddings",
    "as_floats",
    "attention_normalize",
    "attention_scores",
    "attention_visibility",
    "batch_gather",
    "check_labels",
    "compiled",
    "compiled_by_jax",
    "compiled_by_tensorflow",
    "compiled_without_weights",
    "divisible_temporal_padding",
    "dot_product_attention",
    "dropout",
    "first_in_turn",
    "flatten",
    "fold",
    "gelu_erf",
    "gelu_tanh",
    "initializer",
    "is_bool",
    "is_int",
    "keras",
    "known_values",
    "laid_out",
    "layer_norm",
    "leaky_relu",
    "lowest",
    "multilabel_categorical_crossentropy",
    "on_present_values",
    "ops",
    "piecewise_linear",
    "plain_attention",
    "pool1d",
    "pooling",
    "present_values",
    "product",
    "recompute_by_default",
    "recompute_grad",
    "recomputed",
    "recomputed_by_jax",
    "recomputed_by_tensorflow",
    "registered",
    "reshape",
    "root_mean_square",
    "rotary_frequencies",
    "scaling_kind",
    "scan",
    "search_layer",
    "sequence_masking",
    "set_gelu",
    "shapes_of",
    "shared_rows",
    "sinusoidal_embeddings",
    "softmax",
    "sparse_multilabel_categorical_crossentropy",
    "standardized",
    "swish",
    "torch_attention",
    "weighted_values",
    "without_gradients",
    "yarn_factor",
    "yarn_frequencies",
]
