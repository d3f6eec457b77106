"""The values of `model=`, one line for each architecture.

All other tables of architectures are derived from this one and from attributes of the classes.
"""

from bert4keras.models.albert import ALBERT, ALBERT_Unshared
from bert4keras.models.bart import BART, MBART
from bert4keras.models.bert import BERT
from bert4keras.models.deberta import DeBERTaV2
from bert4keras.models.distilbert import DistilBERT
from bert4keras.models.electra import ELECTRA
from bert4keras.models.ernie import ERNIE
from bert4keras.models.gau import GAU_alpha
from bert4keras.models.gemma import Gemma3
from bert4keras.models.gpt import GPT, GPT2, GPT2_ML
from bert4keras.models.llama import LLaMA, Qwen2, Qwen3
from bert4keras.models.modernbert import ModernBERT
from bert4keras.models.nezha import NEZHA
from bert4keras.models.registry import ARCHITECTURES
from bert4keras.models.roberta import RoBERTa, XLMRoBERTa
from bert4keras.models.roformer import RoFormer, RoFormerV2
from bert4keras.models.t5 import T5, T5_Decoder, T5_Encoder

ARCHITECTURES |= {
    "bert": BERT,
    "roberta": BERT,
    "albert": ALBERT,
    "albert_unshared": ALBERT_Unshared,
    "nezha": NEZHA,
    "roformer": RoFormer,
    "roformer_v2": RoFormerV2,
    "electra": ELECTRA,
    "gpt": GPT,
    "gpt2": GPT2,
    "gpt2_ml": GPT2_ML,
    "ernie": ERNIE,
    "deberta_v2": DeBERTaV2,
    "modernbert": ModernBERT,
    "distilbert": DistilBERT,
    "roberta_hf": RoBERTa,
    "xlm_roberta": XLMRoBERTa,
    "gau_alpha": GAU_alpha,
    "bart": BART,
    "mbart": MBART,
    "llama": LLaMA,
    "qwen2": Qwen2,
    "qwen3": Qwen3,
    "gemma3_text": Gemma3,
    **{
        f"{version}{part}": architecture
        for version in ("t5", "t5.1.0", "t5.1.1", "mt5.1.1")
        for part, architecture in (("", T5), ("_encoder", T5_Encoder), ("_decoder", T5_Decoder))
    },
}
