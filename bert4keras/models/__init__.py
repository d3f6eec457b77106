"""Transformer models: assembled from open layers, loaded from official checkpoints.

    model        Model: the Keras model that scripts train, save and load
    whole        load_model: files of whole models, whatever they are called
    checks       Rules: what a model takes; all else is refused in one sentence
    given        what scripts give to `fit` and its kin, in the form that Keras takes
    whole_h5     WholeH5: whole models in HDF5 files
    block        Block: what differs between Transformer blocks, as data
    transformer  Transformer: assembling, layers by name, hooks
    masks        LM_Mask, UniLM_Mask: who sees whom in language models
    names        what variables are called in official checkpoints, as templates
    weights      loading, resizing and writing under these names
    vocabulary   keep_tokens, compound_tokens
    pretrained   folders of models: what they say, and new ones
    encoders     BERT ALBERT ALBERT_Unshared NEZHA RoFormer RoFormerV2 ELECTRA
                 ERNIE DeBERTaV2 ModernBERT GAU_alpha
    decoders     GPT GPT2 GPT2_ML LLaMA Qwen2 Qwen3
    t5           T5_Base T5_Encoder T5_Decoder T5
    building     build_transformer_model: from a config and a checkpoint to a model
                 ARCHITECTURES: what `model=` may be
                 extend_with_language_model, extend_with_unified_language_model

An architecture is its block, what it embeds, how it ends, and the names of its variables. Subclass
one and override a hook to change it: `get_inputs`, `apply_embeddings`, `apply_main_layers`,
`apply_final_layers`, `block_of`, `compute_attention_bias`, `compute_position_bias`,
`variable_mapping`, `load_variable`, `create_variable`, `load_embeddings`, `initializer`.
"""

from bert4keras.backend import keras
from bert4keras.models.block import Block
from bert4keras.models.building import (
    APPLICATIONS,
    ARCHITECTURES,
    build_transformer_model,
    extend_with_language_model,
    extend_with_unified_language_model,
)
from bert4keras.models.decoders import GPT, GPT2, GPT2_ML, LLaMA, Qwen2, Qwen3
from bert4keras.models.encoders import (
    ALBERT,
    BERT,
    ELECTRA,
    ERNIE,
    NEZHA,
    ALBERT_Unshared,
    DeBERTaV2,
    GAU_alpha,
    ModernBERT,
    RoFormer,
    RoFormerV2,
)
from bert4keras.models.masks import LM_Mask, UniLM_Mask
from bert4keras.models.model import Model
from bert4keras.models.t5 import T5, T5_Base, T5_Decoder, T5_Encoder
from bert4keras.models.transformer import Transformer
from bert4keras.models.whole import load_model

__all__ = [
    "ALBERT",
    "APPLICATIONS",
    "ARCHITECTURES",
    "BERT",
    "ELECTRA",
    "ERNIE",
    "GPT",
    "GPT2",
    "GPT2_ML",
    "NEZHA",
    "T5",
    "ALBERT_Unshared",
    "Block",
    "DeBERTaV2",
    "GAU_alpha",
    "LLaMA",
    "LM_Mask",
    "Model",
    "ModernBERT",
    "Qwen2",
    "Qwen3",
    "RoFormer",
    "RoFormerV2",
    "T5_Base",
    "T5_Decoder",
    "T5_Encoder",
    "Transformer",
    "UniLM_Mask",
    "build_transformer_model",
    "extend_with_language_model",
    "extend_with_unified_language_model",
    "keras",
    "load_model",
]
