"""Every weight of every architecture goes into official checkpoints and comes back, or is named."""

import keras
import numpy as np
import pytest

from bert4keras import models
from bert4keras.checkpoints import CheckpointError, open_checkpoint, write_checkpoint
from bert4keras.models import ARCHITECTURES, build_transformer_model
from bert4keras.models.weights import official_variables

pytestmark = pytest.mark.backend

NUMPY = keras.ops.convert_to_numpy
SIZES = {
    "vocab_size": 12,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position": 6,
    "hidden_act": "gelu_tanh",
}
EVERYTHING = {
    "hidden_act": ["gelu_tanh", "linear", "tanh"],
    "embedding_size": 4,
    "attention_key_size": 6,
    "layer_norm_cond_hidden_size": 3,
    "keep_tokens": [0, 2, 3, 5],
    "compound_tokens": [[6, 7]],
}
HEADS = {"with_mlm": "linear", "with_nsp": True, "with_pool": True}
GATED = {"hidden_act": "gelu_tanh"}
FURTHER = {
    "electra": {"with_discriminator": True},
    "ernie": HEADS | {"use_task_id": True},
    "deberta_v2": {
        "with_mlm": True,
        "embedding_size": 8,
        "conv_kernel_size": 3,
        "legacy": False,
    },
    "modernbert": {"with_mlm": True} | GATED,
    "distilbert": {"with_mlm": "linear"},
    "bart": GATED | {"scale_embedding": True, "num_decoder_layers": 2, "pad_token_id": 0},
    "mbart": GATED | {"pad_token_id": 0},
    "gemma3_text": GATED | {"tie_word_embeddings": False},
    "roberta_hf": {"with_mlm": "linear", "with_pool": True, "pad_token_id": 0},
    "xlm_roberta": {"with_mlm": "linear", "segment_vocab_size": 1, "pad_token_id": 0},
    "gau_alpha": HEADS | GATED,
    "llama": GATED | {"num_key_value_heads": 1},
    "qwen2": GATED,
    "qwen3": GATED | {"tie_word_embeddings": True},
}


def further(name):
    """What one architecture takes besides `EVERYTHING`, or instead."""
    return FURTHER.get(name, {} if "t5" in name or name.startswith("gpt") else HEADS)


def built(name="bert", conditional=False, **kwargs):
    settings = SIZES | kwargs
    if conditional:
        condition = keras.Input((5,), name="Condition")
        settings |= {"layer_norm_cond": condition, "additional_input_layers": condition}
    if "t5" in str(name):
        del settings["max_position"]
    return build_transformer_model(model=name, return_keras_model=False, **settings)


def random_values(transformer):
    """Give all weights random values, and return these by path."""
    rng = np.random.default_rng(0)
    values = {}
    for weight in transformer.model.weights:
        if weight.trainable:
            weight.assign(rng.normal(size=weight.shape))
        values[weight.path] = np.array(NUMPY(weight))
    return values


def forget(transformer):
    for weight in transformer.model.trainable_weights:
        weight.assign(np.zeros(weight.shape))


def changed(transformer, values):
    """The paths of weights that are no longer equal to the values, bit by bit."""
    now = {weight.path: NUMPY(weight) for weight in transformer.model.weights}
    return [path for path, value in values.items() if not np.array_equal(now[path], value)]


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_every_weight_under_every_option_goes_out_and_comes_back(name, tmp_path):
    transformer = built(name, conditional=True, **EVERYTHING | further(name))
    values = random_values(transformer)
    transformer.save_weights_as_checkpoint(tmp_path / "model.ckpt")
    forget(transformer)
    report = transformer.load_weights_from_checkpoint(tmp_path / "model.ckpt")
    assert changed(transformer, values) == []
    assert report.from_scratch == report.missing == report.unused == ()


@pytest.mark.parametrize("name", ["bert", "gpt2_ml", "roformer_v2", "t5.1.0", "t5.1.1"])
@pytest.mark.parametrize("acts", [1, 2])
def test_as_many_variables_as_there_are_gates(name, acts, tmp_path):
    acts = ["gelu_tanh", "linear"][:acts]
    transformer = built(name, hidden_act=acts)
    values = random_values(transformer)
    transformer.save_weights_as_checkpoint(tmp_path / "model.ckpt")
    forget(transformer)
    transformer.load_weights_from_checkpoint(tmp_path / "model.ckpt")
    assert changed(transformer, values) == []
    with pytest.raises(CheckpointError):
        built(name, hidden_act=[*acts, "tanh"]).load_weights_from_checkpoint(
            tmp_path / "model.ckpt"
        )


def test_a_kernel_that_the_original_did_not_write_starts_from_scratch(tmp_path):
    transformer = built("roformer_v2", embedding_size=4, with_mlm=True)
    variables = official_variables(transformer)
    del variables["bert/encoder/embedding_hidden_mapping_out/kernel"]
    write_checkpoint(tmp_path / "model.ckpt", variables)
    message = "mapping_out/kernel, which bert4keras 0.11.5 did not"
    settings = {"checkpoint_path": tmp_path / "model.ckpt", "embedding_size": 4, "with_mlm": True}
    with pytest.warns(UserWarning, match=message) as warnings:
        report = transformer.load_weights_from_checkpoint(tmp_path / "model.ckpt")
        built("roformer_v2", **settings)
    assert report.from_scratch == ("Output-Mapping",)
    assert [x.filename for x in warnings] == [__file__] * 2, "where the library was called"


def test_a_checkpoint_with_more_gates_is_of_another_model(tmp_path):
    built(hidden_act=["gelu_tanh", "linear"]).save_weights_as_checkpoint(tmp_path / "model.ckpt")
    with pytest.raises(CheckpointError, match=r"intermediate/dense_1/.*does not have"):
        built().load_weights_from_checkpoint(tmp_path / "model.ckpt")


def test_architectures_with_gates_of_their_own_take_one_activation():
    for name in ("llama", "modernbert", "gau_alpha"):
        with pytest.raises(ValueError, match="gates of its own: give a single activation"):
            built(name, hidden_act=["gelu_tanh", "linear"])


def test_a_condition_starts_from_scratch_where_the_file_has_none_and_is_reported(tmp_path):
    plain = built()
    values = random_values(plain)
    plain.save_weights_as_checkpoint(tmp_path / "model.ckpt")
    conditional = built(conditional=True)
    report = conditional.load_weights_from_checkpoint(tmp_path / "model.ckpt")
    assert changed(conditional, values) == []
    assert "Embedding-Norm/gamma_dense/kernel" in report.from_scratch
    assert all(x.endswith("_dense/kernel") for x in report.from_scratch) and not report.missing


def test_weight_files_keyed_by_layer_are_read_by_path(tmp_path):
    conditional = built(conditional=True, hidden_act=["gelu_tanh", "linear"])
    values = random_values(conditional)
    conditional.model.save_weights(tmp_path / "model.weights")
    forget(conditional)
    conditional.load_weights_from_checkpoint(tmp_path / "model.weights")
    assert changed(conditional, values) == []
    with pytest.raises(CheckpointError, match=r"i1_dense/kernel.*build the model as it was saved"):
        built(conditional=True).load_weights_from_checkpoint(tmp_path / "model.weights")


# --- what is refused


class WithAdapter(models.BERT):
    def apply_final_layers(self, inputs):
        return self.apply(super().apply_final_layers(inputs), keras.layers.Dense, units=4, name="A")


class OfAnotherTable(models.BERT):
    variable_names = models.BERT.variable_names | {"Embedding-Norm": ["bert/norm/beta"]}


def test_weights_without_names_are_not_left_out_in_silence(tmp_path):
    transformer = built(WithAdapter)
    for write in (transformer.save_weights_as_checkpoint, transformer.save_pretrained):
        with pytest.raises(ValueError, match="no checkpoint has a place for the weights of A"):
            write(tmp_path / "model")
    mapping = transformer.variable_mapping()
    transformer.save_weights_as_checkpoint(tmp_path / "model.ckpt", mapping=mapping)
    with open_checkpoint(tmp_path / "model.ckpt") as file:
        assert "bert/embeddings/word_embeddings" in file
    with pytest.raises(ValueError, match=r"'Embedding-Norm' has the weights .*would be lost"):
        built(OfAnotherTable).save_weights_as_checkpoint(tmp_path / "model.ckpt")


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("bert", {"hidden_act": ["gelu_tanh", "linear"]}, "no hidden_act="),
        ("bert", {"conditional": True}, "no layer_norm_cond:"),
        ("bert", {"shared_segment_embeddings": True}, "no shared_segment_embeddings=True"),
        ("gpt", {"segment_vocab_size": 2}, "no segment_vocab_size=2"),
        ("t5.1.0", {"hidden_act": ["gelu_tanh", "linear"]}, r"no T5 of version 't5\.1\.0'"),
        ("t5.1.1", {"hidden_act": "relu"}, r"no T5 of version 't5\.1\.1'"),
    ],
)
def test_what_hugging_face_cannot_say_is_not_written(name, kwargs, message, tmp_path):
    if "t5" in name:
        kwargs = {"cross_position_bias": False} | kwargs
    with pytest.raises(ValueError, match=message):
        built(name, **kwargs).save_pretrained(tmp_path)


# --- LoRA


def with_lora(transformer):
    """Let LoRA train the queries, a dense layer outside of the blocks, and the tokens."""
    layer = transformer.model.get_layer
    for part in (
        layer("Transformer-0-MultiHeadSelfAttention").q_dense,
        layer("Pooler-Dense"),
        layer("Embedding-Token"),
    ):
        part.enable_lora(2, lora_alpha=3)
    random_values(transformer)
    return transformer


def predicted(transformer):
    ids = np.array([[1, 3, 4, 2]], "int32")
    return NUMPY(transformer.model([ids, 0 * ids], training=False)[0])


def test_what_lora_learned_is_written_into_a_checkpoint(tmp_path):
    tuned = with_lora(built(**HEADS))
    expected = predicted(tuned)
    path = tmp_path / "model.ckpt"
    tuned.save_weights_as_checkpoint(path)
    plain = built(**HEADS)
    plain.load_weights_from_checkpoint(path)
    np.testing.assert_allclose(predicted(plain), expected, atol=1e-6)
    tuned.load_weights_from_checkpoint(path)  # and what is added to them begins at 0 again
    np.testing.assert_allclose(predicted(tuned), expected, atol=1e-6)


def test_a_weight_file_with_lora_is_not_read_without(tmp_path):
    with_lora(built(**HEADS)).model.save_weights(tmp_path / "model.weights")
    with pytest.raises(CheckpointError, match="contains LoRA matrices"):
        built(**HEADS).load_weights_from_checkpoint(tmp_path / "model.weights")


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("bert", {"with_mlm": True}),
        ("t5.1.1", {}),
        ("gpt2", {}),
        ("qwen3", GATED | {"num_key_value_heads": 1}),
        ("gau_alpha", GATED),
    ],
)
def test_quantize_is_refused_and_says_what_to_do(name, settings):
    transformer = built(name, **settings)
    output = keras.tree.flatten(transformer.model.outputs)[0]
    head = keras.layers.Dense(2)(output)
    for model in (transformer.model, models.Model(transformer.model.inputs, head)):
        before = [weight.dtype for weight in model.weights]
        with pytest.raises(NotImplementedError) as error:
            model.quantize("int8")
        assert "format='onnx', int8=True" in str(error.value) and "\n" not in str(error.value)
        assert [weight.dtype for weight in model.weights] == before
