"""Recomputation: the same results from less memory."""

import os
import subprocess
import sys
import weakref
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops
from losses import gradients

from bert4keras import layers
from bert4keras.backend import recompute_by_default, recompute_grad, sinusoidal_embeddings
from bert4keras.models import build_transformer_model
from bert4keras.models.written_configs import to_original

pytestmark = pytest.mark.backend

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(2, 6, 16)).astype("float32")
MASK = np.array([[True] * 6, [True] * 4 + [False] * 2])


def attention():
    layer = layers.MultiHeadAttention(4, 4, attention_dropout=0.4)
    layer.build([X.shape] * 3)
    return layer


def rotary_call(layer, x):
    positions = sinusoidal_embeddings(np.arange(6)[None], 4)
    backwards = ops.convert_to_tensor(np.tril(np.ones((1, 1, 6, 6), bool)))
    masks = [ops.convert_to_tensor(MASK)] * 3 + [None] * 2
    inputs = [x, x, x, backwards, positions]
    return layer(inputs, mask=masks, a_bias=True, p_bias="rotary", training=True)


def feed_forward():
    layer = layers.FeedForward(32, ["gelu", "linear"])
    layer.build(X.shape)
    return layer


def gated_attention():
    layer = layers.GatedAttentionUnit(32, 8, attention_dropout=0.4)
    layer.build(X.shape)
    return layer


CASES = {
    "attention": (attention, rotary_call),
    "float bias": (
        attention,
        lambda layer, x: layer(
            [x, x, x, ops.matmul(x, ops.transpose(x, (0, 2, 1)))], a_bias=True, training=True
        ),
    ),
    "feed-forward": (feed_forward, lambda layer, x: layer(x, training=True)),
    "gated attention": (gated_attention, lambda layer, x: layer(x, training=True)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_gradients_with_dropout_and_masks_are_the_same(case, policy):
    found = {}
    for recompute in (False, True):
        keras.utils.set_random_seed(1)
        with_policy(policy)
        layer = CASES[case][0]()
        with_policy("float32")
        layer.recompute = recompute

        def loss(x, layer=layer):
            return ops.sum(ops.square(ops.cast(CASES[case][1](layer, x), "float32")))

        keras.utils.set_random_seed(2)
        found[recompute] = gradients(loss, [ops.convert_to_tensor(X)], layer.trainable_variables)
    assert len(found[True]) >= 4
    # bfloat16 has 8 bits, and the compilers round where they like.
    tolerance = 1e-5 if policy == "float32" else 0.05
    for kept, again in zip(found[False], found[True], strict=True):
        largest = np.abs(kept).max()
        assert largest > 0
        np.testing.assert_allclose(again, kept, atol=tolerance * largest)


def with_policy(name):
    keras.config.set_dtype_policy(name)


def test_another_seed_gives_other_gradients():
    """Otherwise the test above would say nothing about dropout."""
    layer = attention()
    layer.recompute = True

    def gradient():
        loss = lambda x: ops.sum(rotary_call(layer, x) ** 2)  # noqa: E731
        return gradients(loss, [ops.convert_to_tensor(X)])[0]

    first = gradient()
    layer.dropout.seed_generator.state.assign([7, 7])
    assert np.abs(first - gradient()).max() > 1e-3


def classifier(recompute=None, **kwargs):
    """A small model with a head, and its `Transformer`."""
    keras.utils.set_random_seed(1)
    sizes = SIZES | kwargs
    transformer = build_transformer_model(**sizes, recompute=recompute, return_keras_model=False)
    scores = layers.Dense(3)(transformer.model.output[:, 0])
    return keras.Model(transformer.model.inputs, scores), transformer


def batch(rows, length):
    token_ids = np.random.default_rng(0).integers(1, 50, (rows, length))
    token_ids[0, length // 2 :] = 0
    return [token_ids, np.zeros_like(token_ids)]


def test_the_loss_curve_is_the_same():
    curves = []
    kwargs = {"model": "nezha", "residual_attention_scores": True}
    for recompute in (False, True):
        model, _ = classifier(recompute, **kwargs)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1), loss)
        keras.utils.set_random_seed(2)
        labels = np.array([0, 1, 2, 0])
        curves.append([float(model.train_on_batch(batch(4, 12), labels)) for _ in range(5)])
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-4)
    assert len({round(loss, 3) for loss in curves[0]}) > 3


def test_inference_and_saved_files_know_nothing_of_it(tmp_path):
    model, transformer = classifier(True)
    plain, _ = classifier(False)
    expected = ops.convert_to_numpy(plain(batch(2, 8)))
    np.testing.assert_array_equal(ops.convert_to_numpy(model(batch(2, 8))), expected)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(ops.convert_to_numpy(loaded(batch(2, 8))), expected)
    assert not any(layer.recompute for layer in recomputable(loaded))
    transformer.save_pretrained(tmp_path)
    assert "recompute" not in (tmp_path / "config.json").read_text()
    assert "recompute" not in to_original(transformer)


def recomputable(model):
    found = [layer for layer in model.layers if isinstance(layer, layers.Recomputable)]
    assert len(found) == 4
    return found


def test_the_environment_is_read_whenever_a_model_is_built(monkeypatch):
    for value, expected in (("1", True), ("0", False), (None, False)):
        monkeypatch.delenv("RECOMPUTE", raising=False)
        if value is not None:
            monkeypatch.setenv("RECOMPUTE", value)
        assert {x.recompute for x in recomputable(classifier()[0])} == {expected}
        assert not any(x.recompute for x in recomputable(classifier(False)[0]))
    monkeypatch.setenv("RECOMPUTE", "many")
    with pytest.raises(ValueError, match="set it to 1"):
        recompute_by_default()


# --- memory of a model of 12 layers

DEEP = {"num_hidden_layers": 12, "hidden_size": 64, "intermediate_size": 256}

PEAKS_ON_TENSORFLOW = f"""
import os
os.environ["OMP_NUM_THREADS"] = "1"
import re
from pathlib import Path
import tensorflow as tf
import test_recompute
from bert4keras.models import build_transformer_model
from bert4keras.models.written_configs import to_original

def step(recompute):
    model, _ = test_recompute.classifier(recompute, **{DEEP})
    @tf.function(autograph=False, input_signature=[tf.TensorSpec((None, None), tf.int32)] * 2)
    def gradients(token_ids, segment_ids):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model([token_ids, segment_ids], training=True) ** 2)
        return tape.gradient(loss, [v.value for v in model.trainable_variables])
    return gradients

def peak():  # not that of getrusage, which a process takes over from the one that started it
    return re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]

# The peak of a process only grows: the lower one first.
steps = [step(True), step(False)]
for each in steps:
    each(*test_recompute.batch(1, 8))
print(peak())
for each in steps:
    each(*test_recompute.batch(4, 256))
    print(peak())
"""


def peaks_on_tensorflow():
    """Peak memory of the process with recomputation and without, beyond what was there before."""
    if not Path("/proc/self/status").exists():
        pytest.skip("the system does not tell the peak memory of a process")
    command = [sys.executable, "-c", PEAKS_ON_TENSORFLOW]
    # Tensors take new pages and give them back, rather than those that tracing has left free.
    environment = {"MALLOC_MMAP_THRESHOLD_": "65536", "PYTHONPATH": os.pathsep.join(sys.path)}
    output = subprocess.run(
        command, env=os.environ | environment, stdout=subprocess.PIPE, text=True, check=True
    )
    before, *peaks = map(int, output.stdout.split())
    return [1024 * (peak - before) for peak in peaks]


def peaks_on_jax():
    """Memory that the compiled gradients need, by XLA's own account."""
    import jax

    peaks = []
    for recompute in (True, False):
        model, _ = classifier(recompute, **DEEP)
        values = [
            [v.value for v in variables]
            for variables in (model.trainable_variables, model.non_trainable_variables)
        ]

        def loss(trainable, rest, model=model):
            scores, rest = model.stateless_call(trainable, rest, batch(4, 256), training=True)
            return ops.mean(scores**2), rest

        compiled = jax.jit(jax.grad(loss, has_aux=True)).lower(*values).compile()
        peaks.append(compiled.memory_analysis().temp_size_in_bytes)
    return peaks


def peaks_on_torch():
    """Largest sum of the tensors alive, noted after every operation."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Memory(TorchDispatchMode):
        now = peak = 0

        def __init__(self):
            super().__init__()
            self.alive = set()

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            outputs = function(*args, **(kwargs or {}))
            for x in keras.tree.flatten(outputs):
                storage = x.untyped_storage() if isinstance(x, torch.Tensor) else None
                if storage is not None and storage._cdata not in self.alive:
                    self.alive.add(storage._cdata)
                    self.count(storage.nbytes())
                    weakref.finalize(storage, self.forget, storage._cdata, storage.nbytes())
            return outputs

        def count(self, n_bytes):
            self.now += n_bytes
            self.peak = max(self.peak, self.now)

        def forget(self, key, n_bytes):
            self.alive.discard(key)
            self.count(-n_bytes)

    peaks = []
    for recompute in (True, False):
        model, _ = classifier(recompute, **DEEP)
        with Memory() as memory:
            ops.mean(model(batch(4, 256), training=True) ** 2).backward()
        peaks.append(memory.peak)
    return peaks


@pytest.mark.long
def test_a_model_of_twelve_layers_trains_in_half_the_memory():
    measure = {
        "tensorflow": peaks_on_tensorflow,
        "jax": peaks_on_jax,
        "torch": peaks_on_torch,
    }
    recomputing, keeping = measure[keras.backend.backend()]()
    # 12 layers with 4 × 4 × 256 × 256 attention weights alone are 48 MiB.
    assert keeping > 48 * 2**20
    assert recomputing <= keeping / 2


class Own(keras.layers.Layer):
    """A layer of a script, which knows nothing of `recompute`."""

    n_calls = 0

    @recompute_grad
    def call(self, inputs, training=None):
        type(self).n_calls += 1
        return ops.tanh(inputs) * 2


@pytest.mark.parametrize("wanted", ["0", "1"])
def test_a_layer_of_a_script_goes_by_the_environment(monkeypatch, wanted):
    monkeypatch.setenv("RECOMPUTE", wanted)
    monkeypatch.setattr(Own, "n_calls", 0)
    (slope,) = gradients(lambda x: ops.sum(Own()(x, training=True)), [ops.convert_to_tensor(X)])
    np.testing.assert_allclose(slope, 2 - 2 * np.tanh(X) ** 2, atol=1e-5)
    if keras.backend.backend() != "jax":  # which traces once, and computes twice
        assert Own.n_calls == 1 + int(wanted)
