"""Every layer that models are assembled from. All save to `.keras` and load in safe mode.

    merging        Add Subtract Multiply Average Maximum Minimum Concatenate, and functions of
                   these names; CopyMask Concatenate1D BatchConcat BatchSplit AttentionBias
    normalising    ScaleOffset LayerNormalization Saturation
    embedding      Embedding PositionEmbedding SinusoidalPositionEmbedding
                   RelativePositionEmbedding RelativePositionTable
                   RelativePositionEmbeddingT5 TextPositionEmbedding
    attention      MultiHeadAttention DisentangledAttention
                   AttentionMask (LMMask, UniLMMask, LocalMask, LocalLMMask)
    feed-forward   FeedForward MaskedConv1D
    both in one    GatedAttentionUnit
    heads          FirstToken LastVisibleToken GatherPositions GlobalAveragePooling1D
                   GlobalMaxPooling1D GlobalSquareRootPooling1D PositionWeightedPooling1D
    labels         ConditionalRandomField MaximumEntropyMarkovModel
    spans          GlobalPointer EfficientGlobalPointer
    training       Loss
    functions      Lambda

Masks are Keras masks: (batch, length), true where there is text. Layers create their weights in the
same order as bert4keras 0.11.5, which is the order in which checkpoints are read: their own weights
first, then those of their sub-layers in the order of creation.

As in 0.11.5, `import *` also gives `K`, `keras` and a few functions of `bert4keras.backend`.
"""

from bert4keras.starting import starts_keras as _starts_keras

with _starts_keras():
    import keras
    from keras import initializers
    from keras.layers import Layer

from bert4keras.backend.attention import attention_normalize
from bert4keras.backend.engines import recompute_grad
from bert4keras.backend.keras2.k import K
from bert4keras.backend.positions import apply_rotary_position_embeddings, sinusoidal_embeddings
from bert4keras.backend.tensors import align, sequence_masking
from bert4keras.layers.attention import DisentangledAttention, MultiHeadAttention
from bert4keras.layers.base import Dense, Dropout, Recomputable
from bert4keras.layers.embeddings import Embedding, TableLayer
from bert4keras.layers.feed_forward import FeedForward, MaskedConv1D
from bert4keras.layers.gated_attention import GatedAttentionUnit
from bert4keras.layers.labels import ConditionalRandomField, LabelChain, MaximumEntropyMarkovModel
from bert4keras.layers.losses import Lambda, Loss
from bert4keras.layers.masks import (
    AttentionBias,
    AttentionMask,
    LMMask,
    LocalLMMask,
    LocalMask,
    UniLMMask,
)
from bert4keras.layers.merging import (
    Add,
    Average,
    BatchConcat,
    BatchSplit,
    Concatenate,
    Concatenate1D,
    CopyMask,
    MaskKeepingMerge,
    Maximum,
    Minimum,
    Multiply,
    PlainMerge,
    Subtract,
    add,
    average,
    concatenate,
    maximum,
    minimum,
    multiply,
    subtract,
)
from bert4keras.layers.normalisation import LayerNormalization, Saturation, ScaleOffset
from bert4keras.layers.padding import MaskReader
from bert4keras.layers.pooling import (
    FirstToken,
    GatherPositions,
    GlobalAveragePooling1D,
    GlobalMaxPooling1D,
    GlobalPooling1D,
    GlobalSquareRootPooling1D,
    LastVisibleToken,
    PositionWeightedPooling1D,
)
from bert4keras.layers.positions import (
    PositionEmbedding,
    PositionEmbeddingBase,
    RelativePositionEmbedding,
    RelativePositionEmbeddingT5,
    RelativePositionTable,
    SinusoidalPositionEmbedding,
    TextPositionEmbedding,
)
from bert4keras.layers.spans import EfficientGlobalPointer, GlobalPointer

__all__ = [
    "Add",
    "AttentionBias",
    "AttentionMask",
    "Average",
    "BatchConcat",
    "BatchSplit",
    "Concatenate",
    "Concatenate1D",
    "ConditionalRandomField",
    "CopyMask",
    "Dense",
    "DisentangledAttention",
    "Dropout",
    "EfficientGlobalPointer",
    "Embedding",
    "FeedForward",
    "FirstToken",
    "GatedAttentionUnit",
    "GatherPositions",
    "GlobalAveragePooling1D",
    "GlobalMaxPooling1D",
    "GlobalPointer",
    "GlobalPooling1D",
    "GlobalSquareRootPooling1D",
    "K",
    "LMMask",
    "LabelChain",
    "Lambda",
    "LastVisibleToken",
    "Layer",
    "LayerNormalization",
    "LocalLMMask",
    "LocalMask",
    "Loss",
    "MaskKeepingMerge",
    "MaskReader",
    "MaskedConv1D",
    "Maximum",
    "MaximumEntropyMarkovModel",
    "Minimum",
    "MultiHeadAttention",
    "Multiply",
    "PlainMerge",
    "PositionEmbedding",
    "PositionEmbeddingBase",
    "PositionWeightedPooling1D",
    "Recomputable",
    "RelativePositionEmbedding",
    "RelativePositionEmbeddingT5",
    "RelativePositionTable",
    "Saturation",
    "ScaleOffset",
    "SinusoidalPositionEmbedding",
    "Subtract",
    "TableLayer",
    "TextPositionEmbedding",
    "UniLMMask",
    "add",
    "align",
    "apply_rotary_position_embeddings",
    "attention_normalize",
    "average",
    "concatenate",
    "initializers",
    "keras",
    "maximum",
    "minimum",
    "multiply",
    "recompute_grad",
    "sequence_masking",
    "sinusoidal_embeddings",
    "subtract",
]
