"""The configs of published checkpoints, by the names of their folders in docs/checkpoints.md.

Only what an architecture is built from, as the publishers give it: Google's keys for TensorFlow
checkpoints, those of `config.json` (with `model_type`) for folders of Hugging Face.
"""

from typing import Any

Config = dict[str, Any]


def google(layers: int, hidden: int, heads: int, vocab_size: int = 21128, **more: Any) -> Config:
    """A config with Google's keys, four times as wide inside."""
    return {
        "vocab_size": vocab_size,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * hidden,
        "hidden_act": "gelu",
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "initializer_range": 0.02,
    } | more


def bert(layers: int, hidden: int, heads: int, **more: Any) -> Config:
    """A `config.json` of a BERT."""
    head = {"model_type": "bert", "architectures": ["BertForMaskedLM"], "layer_norm_eps": 1e-12}
    return head | google(layers, hidden, heads, pad_token_id=0, **more)


def ernie(layers: int, hidden: int, heads: int, **more: Any) -> Config:
    """A `config.json` of an ERNIE 3.0."""
    given = {"type_vocab_size": 4, "task_type_vocab_size": 3, "use_task_id": True} | more
    return {"model_type": "ernie", "layer_norm_eps": 1e-5} | google(
        layers, hidden, heads, 40000, max_position_embeddings=2048, **given
    )


def roformer(layers: int, hidden: int, heads: int, **more: Any) -> Config:
    """A `config.json` of a RoFormer."""
    given = {"embedding_size": hidden, "rotary_value": False, "pad_token_id": 0} | more
    head = {"model_type": "roformer", "layer_norm_eps": 1e-12}
    return head | google(layers, hidden, heads, **given)


def albert(layers: int, hidden: int, heads: int, **more: Any) -> Config:
    """A config of an ALBERT with one set of weights for all layers."""
    given = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0} | more
    return google(layers, hidden, heads, embedding_size=128, num_hidden_groups=1, **given)


def mt5(layers: int, hidden: int, heads: int, inner: int, vocab_size: int) -> Config:
    """A `config.json` of an mT5."""
    return {
        "model_type": "mt5",
        "d_model": hidden,
        "d_ff": inner,
        "d_kv": 64,
        "num_layers": layers,
        "num_decoder_layers": layers,
        "num_heads": heads,
        "vocab_size": vocab_size,
        "feed_forward_proj": "gated-gelu",
        "dropout_rate": 0.1,
        "layer_norm_epsilon": 1e-6,
        "relative_attention_num_buckets": 32,
        "tie_word_embeddings": False,
        "decoder_start_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }


def causal(model_type: str, layers: int, hidden: int, inner: int, **more: Any) -> Config:
    """A `config.json` of a LLaMA or Qwen."""
    return {
        "model_type": model_type,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "intermediate_size": inner,
        "hidden_act": "silu",
        "vocab_size": 151936,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
    } | more


LLAMA_SCALING = {
    "factor": 32.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
DEBERTA = {
    "model_type": "deberta-v2",
    "layer_norm_eps": 1e-7,
    "type_vocab_size": 0,
    "relative_attention": True,
    "position_biased_input": False,
    "position_buckets": 256,
    "max_relative_positions": -1,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": "p2c|c2p",
    "conv_kernel_size": 3,
    "conv_act": "gelu",
}
GPT_SIZES = {"initializer_range": 0.014142135623731, "max_position_embeddings": 1024}

CONFIGS: dict[str, Config] = {
    # BERT
    "chinese_L-12_H-768_A-12": google(12, 768, 12),
    "chinese_wwm_ext_L-12_H-768_A-12": google(12, 768, 12),
    "chinese_roberta_wwm_ext_L-12_H-768_A-12": google(12, 768, 12),
    "chinese_roberta_wwm_large_ext_L-24_H-1024_A-16": google(24, 1024, 16),
    "chinese-macbert-base": bert(12, 768, 12),
    "chinese-macbert-large": bert(24, 1024, 16),
    "chinese_roberta_L-2_H-128": bert(2, 128, 2),
    "chinese_roberta_L-4_H-256": bert(4, 256, 4),
    "chinese_roberta_L-4_H-512": bert(4, 512, 8),
    "chinese_roberta_L-8_H-512": bert(8, 512, 8),
    "chinese_roberta_L-4_H-312_A-12": google(4, 312, 12, embedding_size=128),
    "chinese_roberta_L-6_H-384_A-12": google(6, 384, 12, embedding_size=128),
    "chinese_simbert_L-12_H-768_A-12": google(12, 768, 12),
    # ALBERT
    "albert_tiny_zh_google": albert(4, 312, 12),
    "albert_small_zh_google": albert(6, 384, 12),
    "albert_base_zh": albert(12, 768, 12, hidden_act="relu"),
    # NEZHA
    "NEZHA-Base": google(12, 768, 12, use_relative_position=True, max_relative_position=64),
    "nezha-cn-base": google(12, 768, 12)
    | {"model_type": "nezha", "layer_norm_eps": 1e-12, "embedding_size": 128}
    | {"use_relative_position": True, "max_relative_position": 64, "pad_token_id": 0},
    # ELECTRA
    "chinese_electra_small_L-12_H-256_A-4": google(12, 256, 4, embedding_size=128),
    "chinese-electra-180g-small-discriminator": google(12, 256, 4, embedding_size=128)
    | {"model_type": "electra", "layer_norm_eps": 1e-12},
    # RoFormer
    "chinese_roformer_L-12_H-768_A-12": google(12, 768, 12, 50000),
    "chinese_roformer-char_L-12_H-768_A-12": google(12, 768, 12, 12000),
    "roformer_chinese_base": roformer(12, 768, 12, vocab_size=50000, max_position_embeddings=1536),
    "roformer_chinese_char_base": roformer(12, 768, 12, vocab_size=12000),
    "chinese_roformer-sim-char-ft_L-12_H-768_A-12": google(12, 768, 12, 12000),
    "chinese_roformer-v2-char_L-6_H-384_A-6": google(6, 384, 6, 12000, hidden_act="relu"),
    "chinese_roformer-v2-char_L-12_H-768_A-12": google(12, 768, 12, 12000, hidden_act="relu"),
    "chinese_roformer-v2-char_L-24_H-1024_A-16": google(24, 1024, 16, 12000, hidden_act="relu"),
    # GAU-α
    "chinese_GAU-alpha-char_L-24_H-768": google(
        24, 768, 12, 12000, intermediate_size=1536, attention_key_size=128, hidden_act="swish"
    ),
    # GPT
    "gpt2_ml": google(48, 1536, 24, 8021, **GPT_SIZES),
    "CPM_LM_2.6B_TF": google(32, 2560, 32, 30000, max_position_embeddings=1024),
    "chinese_nezha_gpt_L-12_H-768_A-12": google(12, 768, 12),
    # T5
    "mt5-small": mt5(8, 512, 6, 1024, 250112),
    "mt5-base": mt5(12, 768, 12, 2048, 250112),
    "chinese_t5_pegasus_base": google(
        12, 768, 12, 50000, intermediate_size=2048, hidden_act=["gelu", "linear"]
    )
    | {"attention_head_size": 64},
    "t5-pegasus": mt5(12, 768, 12, 2048, 50000),
    # ERNIE
    "ernie-1.0-base-zh": ernie(12, 768, 12)
    | {"vocab_size": 18000, "max_position_embeddings": 513, "hidden_act": "relu"}
    | {"type_vocab_size": 2, "use_task_id": False},
    "ernie-3.0-base-zh": ernie(12, 768, 12),
    "ernie-3.0-nano-zh": ernie(4, 312, 12, task_type_vocab_size=16),
    # DeBERTa
    "Erlangshen-DeBERTa-v2-97M-Chinese": google(12, 768, 12, 12800) | DEBERTA,
    # Sentence vectors
    "bge-small-zh-v1.5": bert(4, 512, 8),
    "bge-base-zh-v1.5": bert(12, 768, 12),
    "bge-large-zh-v1.5": bert(24, 1024, 16),
    "gte-small-zh": bert(6, 512, 8),
    "gte-base-zh": bert(12, 768, 12),
    "m3e-base": bert(12, 768, 12),
    "text2vec-base-chinese": bert(12, 768, 12),
    "text2vec-base-chinese-paraphrase": ernie(12, 768, 12),
    # Language models
    "Qwen2.5-0.5B-Instruct": causal(
        "qwen2", 24, 896, 4864, num_attention_heads=14, num_key_value_heads=2
    ),
    "Qwen3-0.6B": causal("qwen3", 28, 1024, 3072, num_attention_heads=16, num_key_value_heads=8)
    | {"head_dim": 128, "max_position_embeddings": 40960},
    "Llama-3.2-1B": causal("llama", 16, 2048, 8192, num_attention_heads=32, num_key_value_heads=8)
    | {"vocab_size": 128256, "rms_norm_eps": 1e-5, "rope_theta": 5e5, "head_dim": 64}
    | {"max_position_embeddings": 131072, "rope_scaling": LLAMA_SCALING},
}
"""The config of each folder."""
