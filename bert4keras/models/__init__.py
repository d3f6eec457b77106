"""Transformer models: assembled from layers that can be replaced, loaded from official checkpoints.

    model        Model: the Keras model that scripts train, save and load
    whole        load_model: whole models in files of any name
    checks       Rules: checks of the data that a model is given
    given        conversion of the data given to `fit` and the like
    whole_h5     WholeH5: whole models in HDF5 files
    block        Block: what differs between Transformer blocks, as data
    transformer  Transformer: assembling, layers by name, hooks
    masks        LM_Mask, UniLM_Mask: the attention masks of language models and UniLM
    names        names of variables in official checkpoints, as templates
    weights      loading, resizing and writing weights under these names
    vocabulary   keep_tokens, compound_tokens
    pretrained   folders of pretrained models: reading and writing them
    peft         save_adapter, load_adapter: adapters in the files of PEFT
    family       Family: how Hugging Face describes an architecture
    registry     tables of all architectures, derived from their classes
    configs, config_files, settings, written_configs, vocabulary_record
                 reading, checking and writing config files
    bert albert nezha roberta distilbert roformer electra ernie deberta modernbert gau gpt llama
    gemma t5 bart
                 the architectures: a file for each, or for several related ones
    layer_types, encoder_decoder
                 what architectures with two kinds of blocks, or with two parts, share
    architectures
                 ARCHITECTURES: the values of `model=`
    building     build_transformer_model: builds a model from a config and a checkpoint
                 extend_with_language_model, extend_with_unified_language_model

An architecture consists of its block, embeddings, final layers and names of variables. To change
it, subclass it and override a hook: `get_inputs`, `apply_embeddings`, `apply_main_layers`,
`apply_final_layers`, `block_of`, `compute_attention_bias`, `compute_position_bias`,
`variable_mapping`, `load_variable`, `create_variable`, `load_embeddings`, `initializer`.
"""

from bert4keras.starting import starts_keras as _starts_keras

with _starts_keras():
    import keras

from bert4keras.models.albert import ALBERT, ALBERT_Unshared
from bert4keras.models.architectures import ARCHITECTURES
from bert4keras.models.bart import BART, MBART
from bert4keras.models.bert import BERT
from bert4keras.models.block import Block
from bert4keras.models.building import (
    APPLICATIONS,
    build_transformer_model,
    extend_with_language_model,
    extend_with_unified_language_model,
)
from bert4keras.models.deberta import DeBERTaV2
from bert4keras.models.distilbert import DistilBERT
from bert4keras.models.electra import ELECTRA
from bert4keras.models.ernie import ERNIE
from bert4keras.models.family import Family
from bert4keras.models.gau import GAU_alpha
from bert4keras.models.gemma import Gemma3
from bert4keras.models.gpt import GPT, GPT2, GPT2_ML
from bert4keras.models.llama import LLaMA, Qwen2, Qwen3
from bert4keras.models.masks import LM_Mask, UniLM_Mask
from bert4keras.models.model import Model
from bert4keras.models.modernbert import ModernBERT
from bert4keras.models.names import renamed
from bert4keras.models.nezha import NEZHA
from bert4keras.models.pretrained import load_adapter, save_adapter
from bert4keras.models.roberta import RoBERTa, XLMRoBERTa
from bert4keras.models.roformer import RoFormer, RoFormerV2
from bert4keras.models.t5 import T5, T5_Base, T5_Decoder, T5_Encoder
from bert4keras.models.transformer import Transformer
from bert4keras.models.whole import load_model

__all__ = [
    "ALBERT",
    "APPLICATIONS",
    "ARCHITECTURES",
    "BART",
    "BERT",
    "ELECTRA",
    "ERNIE",
    "GPT",
    "GPT2",
    "GPT2_ML",
    "MBART",
    "NEZHA",
    "T5",
    "ALBERT_Unshared",
    "Block",
    "DeBERTaV2",
    "DistilBERT",
    "Family",
    "GAU_alpha",
    "Gemma3",
    "LLaMA",
    "LM_Mask",
    "Model",
    "ModernBERT",
    "Qwen2",
    "Qwen3",
    "RoBERTa",
    "RoFormer",
    "RoFormerV2",
    "T5_Base",
    "T5_Decoder",
    "T5_Encoder",
    "Transformer",
    "UniLM_Mask",
    "XLMRoBERTa",
    "build_transformer_model",
    "extend_with_language_model",
    "extend_with_unified_language_model",
    "keras",
    "load_adapter",
    "load_model",
    "renamed",
    "save_adapter",
]
