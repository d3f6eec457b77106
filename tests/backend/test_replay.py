"""Recorded steps of PyTorch against the functions that they were recorded from."""

import keras
import numpy as np
import pytest

from bert4keras.backend import replay
from bert4keras.backend.replay import Replayed, recorded, replayed
from bert4keras.generation import Generator
from bert4keras.models import build_transformer_model
from bert4keras.training import add_lora

pytestmark = [
    pytest.mark.backend,
    pytest.mark.skipif(keras.backend.backend() != "torch", reason="records operations of PyTorch"),
]
ops = keras.ops


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Softmax()])


def step_of(function, model, patience=2):
    step = Replayed(function, model)
    step.patience = patience
    return step


def inputs(seed):
    return {"x": ops.convert_to_tensor(np.random.default_rng(seed).normal(size=(2, 3)), "float32")}


def called(step, function, n=4):
    """Call both with other values each time; the calls of Python that the step has made."""
    calls = []
    step.function = lambda *args: calls.append(1) or function(*args)
    for seed in range(n):
        results = step(inputs(seed)), function(inputs(seed))
        for a, b in zip(*map(keras.tree.flatten, results), strict=True):
            np.testing.assert_allclose(ops.convert_to_numpy(a), ops.convert_to_numpy(b), 1e-5)
    return len(calls)


def test_a_step_is_recorded_when_it_was_called_often(model):
    def function(state):
        y = model(state["x"], training=False)
        return {"y": y + ops.arange(4), "best": (ops.argmax(y, axis=-1), state["x"])}

    # Three calls, of which the third is compared, and one to record.
    assert called(step_of(function, model), function, n=8) == 4
    assert called(step_of(function, model, patience=9), function, n=8) == 8
    assert isinstance(replayed(function, model), Replayed)


def test_weights_may_change(model):
    def function(state):
        return model(state["x"], training=False)

    step = step_of(function, model)
    called(step, function)
    (recording,) = step.recordings.values()
    model.set_weights([w + 1 for w in model.get_weights()])
    assert called(step, function) == 0
    assert list(step.recordings.values()) == [recording]
    kernel = model.layers[0].kernel
    kernel._value = kernel._value * 2  # another tensor: what was recorded reads the old one
    assert called(step, function) == 4


def test_what_reads_values_is_not_recorded(model):
    def by_number(state):
        return state["x"] * float(state["x"][0, 0])

    def by_array(state):  # unseen by PyTorch: found by the comparison
        return state["x"] * np.asarray(state["x"].detach()).max()

    for function in (by_number, by_array):
        step = step_of(function, model)
        called(step, function, n=6)
        assert list(step.recordings.values()) == [None]


def test_random_numbers_are_drawn_anew():
    import torch

    draw = recorded(lambda x: [x + torch.rand(2, 3), x + torch.rand(2, 3)], [inputs(0)["x"]])
    drawn = [each.numpy().tobytes() for _ in range(3) for each in draw(ops.zeros((2, 3)))]
    assert len(set(drawn)) == 6


def test_what_is_the_same_each_time_is_computed_once(model):
    kernel = model.layers[0].kernel

    def function(x):
        position = ops.arange(4) * 2
        scale = ops.sum(kernel * 2)
        return ops.matmul(x, kernel) * scale + position, ops.matmul(x, kernel) + ops.arange(4) * 2

    from torch.fx.experimental.proxy_tensor import make_fx

    x = inputs(1)["x"]
    module = make_fx(lambda x: list(function(x)))(x)
    replay.simplify(module)
    module.recompile()
    names = [node.name for node in module.graph.nodes if node.op == "call_function"]
    assert sum(name.startswith("mm") for name in names) == 1
    assert not any(name.startswith("arange") for name in names)
    kernel.assign(kernel + 1)
    for found, expected in zip(module(x), function(x), strict=True):
        np.testing.assert_allclose(found.detach(), expected.detach(), 1e-5)


SIZES = {
    "vocab_size": 30,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "max_position_embeddings": 64,
    "hidden_act": "gelu",
}
KINDS = {
    "bert": {"application": "lm", "with_mlm": "linear"},
    "t5.1.1": {"with_lm": "linear", "hidden_act": ["gelu", "linear"]},
    "gpt2": {},
    "llama": {},
}
CALLS = [{}, {"topk": 3}, {"sample": True, "seed": 1, "n": 2}, {"stream": True}]


@pytest.mark.parametrize("kind", KINDS)
def test_recorded_steps_write_the_same(kind, monkeypatch):
    keras.utils.set_random_seed(1)
    transformer = build_transformer_model(
        model=kind, return_keras_model=False, **(SIZES | KINDS[kind])
    )
    random = np.random.default_rng(0)
    transformer.model.set_weights(
        [random.normal(0, 0.5, w.shape) for w in transformer.model.get_weights()]
    )
    prompts = [[5, 6, 7, 8], [9, 10, 11]]

    def written(generator, call):
        given = prompts[:1] if "stream" in call else prompts
        results = generator.generate(given, maxlen=12, minlen=12, **call)
        return list(results) if "stream" in call else results

    expected = [written(Generator(transformer, end_id=3, maxlen=12), call) for call in CALLS]
    monkeypatch.setattr(replay, "PATIENCE", 2)
    generator = Generator(transformer, end_id=3, maxlen=12)
    found = [written(generator, call) for call in CALLS]
    assert found == expected == [written(generator, call) for call in CALLS]
    steps = [d.next_state for d in generator.decodings.values()]
    recordings = [each for step in steps for each in step.recordings.values()]
    assert len(recordings) >= 3 and all(recordings)


def test_added_layers_are_recorded_anew(monkeypatch):
    monkeypatch.setattr(replay, "PATIENCE", 2)
    transformer = build_transformer_model(model="gpt2", return_keras_model=False, **SIZES)
    generator = Generator(transformer, end_id=3, maxlen=12)
    generator.generate([[5, 6]], minlen=12)
    add_lora(transformer.model, rank=2)
    for weight in transformer.model.trainable_weights:
        weight.assign(np.random.default_rng(0).normal(size=weight.shape))
    fresh = Generator(transformer, end_id=3, maxlen=12)
    assert generator.generate([[5, 6]], minlen=12) == fresh.generate([[5, 6]], minlen=12)
