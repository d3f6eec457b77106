"""Adapters in the files of PEFT, which are written and read here by what is documented of them."""

import json

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bert4keras.checkpoints import CheckpointError, open_checkpoint
from bert4keras.convert import convert
from bert4keras.models import build_transformer_model, load_adapter, save_adapter
from bert4keras.training import add_lora, merge_lora

SIZES = {
    "vocab_size": 30,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 20,
    "max_position": 16,
}
LM = {"application": "lm", "final_activation": "linear"}
SETTINGS = {
    "bert": {"hidden_act": "gelu"},
    "gpt2": LM | {"hidden_act": "gelu_new"},
    "roberta_hf": {"hidden_act": "gelu"},
    "xlm_roberta": {"hidden_act": "gelu", "segment_vocab_size": 1},
    "distilbert": {"hidden_act": "gelu"},
    "bart": {"hidden_act": "gelu", "pad_token_id": 0},
    "gemma3_text": LM | {"hidden_act": "gelu_new", "num_key_value_heads": 1},
}
IDS = np.array([[2, 5, 7, 9, 3]], "int32")
NUMPY = keras.ops.convert_to_numpy


def built(model, folder=None, **kwargs):
    """A model of random weights, saved in a folder."""
    keras.utils.set_random_seed(1)
    given = SIZES | {"model": model} | SETTINGS.get(model, LM | {"hidden_act": "silu"})
    transformer = build_transformer_model(**given | kwargs, return_keras_model=False)
    if folder is not None:
        transformer.save_pretrained(folder)
    return transformer


def outputs(model):
    return NUMPY(model([IDS, 0 * IDS] if len(model.inputs) > 1 else IDS, training=False))


def learned(model):
    random = np.random.default_rng(0)
    for weight in model.weights:
        if weight.name.startswith("lora_"):
            weight.assign(random.normal(0, 0.3, weight.shape))


def added(folder, adapter):
    """Add s · B·A to the weights in a folder of Hugging Face, as PEFT documents it."""
    config = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
    tensors = load_file(folder / "model.safetensors")
    matrices = load_file(adapter / "adapter_model.safetensors")
    for name, b in matrices.items():
        if ".lora_B." not in name:
            continue
        a = matrices[name.replace("lora_B", "lora_A")]
        module = name.removeprefix("base_model.model.").removesuffix(".lora_B.weight")
        assert any(module.endswith(target) for target in config["target_modules"])
        rank = config["rank_pattern"].get(module, config["r"])
        alpha = config["alpha_pattern"].get(module, config["lora_alpha"])
        assert a.shape[0] == b.shape[1] == rank
        key = next(k for k in tensors if k.endswith(f"{module}.weight"))
        delta = alpha / rank * b @ a
        tensors[key] = tensors[key] + (delta.T if config["fan_in_fan_out"] else delta)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.backend
@pytest.mark.parametrize("model", ["qwen3", *SETTINGS])
def test_an_adapter_goes_out_and_comes_back(model, tmp_path):
    transformer = built(model, tmp_path / "base")
    add_lora(transformer.model, 4, 6.0, layers="Attention|FeedForward")
    learned(transformer.model)
    expected = outputs(transformer.model)
    save_adapter(transformer.model, tmp_path / "adapter")
    again = built(model)
    per_block = {"qwen3": 7, "gemma3_text": 7, "bart": 6 + 10}.get(model, 6)
    assert len(load_adapter(again.model, tmp_path / "adapter")) == 2 * per_block
    assert all(weight.name.startswith("lora_") for weight in again.model.trainable_weights)
    np.testing.assert_allclose(outputs(again.model), expected, atol=1e-6)
    added(tmp_path / "base", tmp_path / "adapter")
    kwargs = LM if "application" in SETTINGS.get(model, LM) else {}
    merged = build_transformer_model(tmp_path / "base", **kwargs)
    np.testing.assert_allclose(outputs(merged), expected, atol=1e-5)


def test_a_folder_keeps_weights_and_adapters_apart(tmp_path):
    transformer = built("qwen3", tmp_path / "base")
    add_lora(transformer.model, 4, 6.0)
    learned(transformer.model)
    expected = outputs(transformer.model)
    transformer.save_pretrained(tmp_path / "both")
    files = [load_file(tmp_path / name / "model.safetensors") for name in ("base", "both")]
    for name, value in files[0].items():
        np.testing.assert_array_equal(files[1][name], value, err_msg=name)
    again = build_transformer_model(tmp_path / "both", **LM)
    np.testing.assert_allclose(outputs(again), expected, atol=1e-6)
    convert(tmp_path / "both", tmp_path / "merged")
    assert not (tmp_path / "merged/adapter_config.json").exists()
    merged = build_transformer_model(tmp_path / "merged", **LM)
    np.testing.assert_allclose(outputs(merged), expected, atol=1e-5)
    merge_lora(again)
    again.save_pretrained(tmp_path / "both")  # what is left of the adapter would be added again
    assert sorted(x.name for x in (tmp_path / "both").glob("adapter*")) == []


def adapter_of_peft(folder, tensors, **config):
    folder.mkdir(exist_ok=True)
    start = "base_model.model."
    save_file(
        {start + name: value for name, value in tensors.items()},
        folder / "adapter_model.safetensors",
    )
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]} | config
    (folder / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    return folder


def matrices(module, rank=2, n=16, m=16):
    random = np.random.default_rng(0)
    sizes = {"A": (rank, n), "B": (m, rank)}
    return {
        f"{module}.lora_{x}.weight": np.float32(random.normal(0, 1, size))
        for x, size in sizes.items()
    }


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({}, 4 / 2),
        ({"use_rslora": True}, 4 / 2**0.5),
        ({"alpha_pattern": {"layers.1.self_attn.q_proj": 10}}, 10 / 2),
    ],
)
def test_the_scale_is_what_the_config_says(settings, scale, tmp_path):
    module = "model.layers.1.self_attn.q_proj"
    given = matrices(module)
    transformer = built("qwen3")
    dense = transformer.layers["Transformer-1-MultiHeadSelfAttention"].q_dense
    kernel = NUMPY(dense.kernel)
    load_adapter(transformer.model, adapter_of_peft(tmp_path, given, **settings))
    merge_lora(transformer.model)
    a, b = (given[f"{module}.lora_{x}.weight"] for x in "AB")
    np.testing.assert_allclose(NUMPY(dense.kernel), kernel + scale * (b @ a).T, atol=1e-5)


@pytest.mark.parametrize(
    ("module", "settings", "message"),
    [
        ("model.layers.1.self_attn.q_proj", {"use_dora": True}, "use_dora"),
        ("model.layers.1.self_attn.q_proj", {"peft_type": "LOHA"}, "LOHA"),
        ("model.layers.1.self_attn.q_proj", {"bias": "all"}, "bias"),
        ("model.layers.2.self_attn.q_proj", {}, "layers.2"),
        ("model.layers.1.mlp.up_proj", {}, "shapes"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(module, settings, message, tmp_path):
    transformer = built("qwen3")
    n = len(transformer.model.trainable_weights)
    adapter_of_peft(tmp_path, matrices(module), **settings)
    with pytest.raises(CheckpointError, match=message):
        load_adapter(transformer.model, tmp_path)
    assert len(transformer.model.trainable_weights) == n


def test_what_has_no_place_in_an_adapter_is_refused(tmp_path):
    model = built("qwen3").model
    with pytest.raises(ValueError, match="no adapters"):
        save_adapter(model, tmp_path)
    add_lora(model, layers="Embedding-Token")
    with pytest.raises(ValueError, match="Embedding-Token"):
        save_adapter(model, tmp_path)
    merge_lora(model)
    add_lora(model, trainable="Output-Norm")
    with pytest.raises(ValueError, match="are trainable, too"):
        save_adapter(model, tmp_path)


def test_an_adapter_is_not_taken_for_the_weights_of_a_model(tmp_path):
    adapter_of_peft(tmp_path, matrices("model.layers.1.self_attn.q_proj"))
    with pytest.raises(CheckpointError, match="no weights"):
        open_checkpoint(tmp_path)
