"""Optimizers against trajectories of the original and against their rule in NumPy."""

import json
import re
import subprocess
import sys
from itertools import pairwise

import golden
import keras
import numpy as np
import pytest

from bert4keras import optimizers
from bert4keras.optimizers import (
    AdaFactor,
    Adam,
    Lion,
    Muon,
    extend_with_exponential_moving_average,
    extend_with_gradient_accumulation,
    extend_with_layer_adaptation,
    extend_with_lazy_optimization,
    extend_with_lookahead,
    extend_with_parameter_wise_lr,
    extend_with_piecewise_linear_lr,
    extend_with_weight_decay,
    layer_wise_lr_decay,
    warmup_cosine,
)
from bert4keras.training import TokenCrossentropy

pytestmark = pytest.mark.backend

AdamW = extend_with_weight_decay(Adam, name="AdamW")
AdamWLR = extend_with_piecewise_linear_lr(AdamW, name="AdamWLR")
AdamEMA = extend_with_exponential_moving_average(Adam, name="AdamEMA")
AdamGA = extend_with_gradient_accumulation(Adam, name="AdamGA")
AdamLA = extend_with_lookahead(Adam, name="AdamLA")
AdamLamb = extend_with_layer_adaptation(Adam, name="AdamLamb")
AdamLazy = extend_with_lazy_optimization(Adam, name="AdamLazy")
AdamPW = extend_with_parameter_wise_lr(Adam, name="AdamPW")
EVERYTHING = {
    "weight_decay": {"weight_decay_rate": 0.5, "exclude_from_weight_decay": ["bias"]},
    "layer_adaptation": {"exclude_from_layer_adaptation": ["d2/bias"]},
    "piecewise_linear_lr": {"lr_schedule": {0: 0.5, 2: 1, 6: 0.1}},
    "gradient_accumulation": {"grad_accum_steps": 2},
    "lookahead": {"steps_per_slow_update": 2, "slow_step_size": 0.25},
    "lazy_optimization": {"include_in_lazy_optimization": ["d1"]},
    "parameter_wise_lr": {"paramwise_lr_schedule": {"d1": 3, "kernel": 0.5}},
    "exponential_moving_average": {"ema_momentum": 0.9},
}

GOLDEN = """
adam adam_embedding adam_no_bias_correction adam_hyper
lion lion_hyper lion_embedding
adafactor adafactor_default_factoring adafactor_no_lr adafactor_no_lr_no_scale adafactor_beta1
adafactor_beta2 adafactor_no_clip adafactor_clip adafactor_no_parameter_scale
adafactor_exclude_scale adafactor_epsilons adafactor_embedding
weight_decay weight_decay_default weight_decay_exclude weight_decay_regex weight_decay_embedding
weight_decay_lion weight_decay_adafactor
layer_adaptation layer_adaptation_exclude
piecewise_linear_lr piecewise_linear_lr_default piecewise_linear_lr_from_zero_key
piecewise_linear_lr_string_keys piecewise_linear_lr_lion piecewise_linear_lr_adafactor
lazy_optimization lazy_optimization_default lazy_optimization_adafactor
parameter_wise_lr parameter_wise_lr_zero parameter_wise_lr_embedding
exponential_moving_average exponential_moving_average_default exponential_moving_average_embedding
stack_adamw_lr stack_lr_then_decay stack_lamb stack_lamb_other_order stack_ema_adamw
stack_param_wise_adamw stack_lazy_adamw
""".split()  # noqa: SIM905
# What is left records faults: accumulation a window late, lookahead from zero. The rules are tested
# below in their stead.
FAULTS = """
gradient_accumulation_1 gradient_accumulation_2 gradient_accumulation_3 gradient_accumulation_lion
gradient_accumulation_embedding stack_pretraining lookahead lookahead_default
""".split()  # noqa: SIM905


def build(problem="dense"):
    """Return the network of a recorded problem."""
    if problem == "dense":
        inputs = keras.Input((4,))
        hidden = keras.layers.Dense(6, activation="tanh", name="d1")(inputs)
        return keras.Model(inputs, keras.layers.Dense(3, name="d2")(hidden))
    inputs = keras.Input((4,), dtype="int32")
    embedded = keras.layers.Embedding(10, 4, name="emb")(inputs)
    pooled = keras.layers.GlobalAveragePooling1D()(embedded)
    return keras.Model(inputs, keras.layers.Dense(3, name="d")(pooled))


def small_problem():
    """Return a network with fixed weights, and one batch for each of eight steps."""
    rng = np.random.default_rng(0)
    model = build()
    model.set_weights([rng.normal(size=w.shape).astype("float32") for w in model.weights])
    x, y = rng.normal(size=(8, 5, 4)), rng.normal(size=(8, 5, 3))
    return model, x.astype("float32"), y.astype("float32")


def train(model, optimizer, x, y, run_eagerly=False):
    """Take one step per batch and return losses, and weights after each step."""
    model.compile(optimizer=optimizer, loss="mse", run_eagerly=run_eagerly)
    losses, weights = [], []
    for batch, target in zip(x, y, strict=True):
        losses.append(float(model.train_on_batch(batch, target)))
        weights.append(model.get_weights())
    return losses, weights


def stepper(model, optimizer):
    """Return a function that applies one gradient to each weight of a model."""
    variables = model.trainable_variables
    optimizer.build(variables)
    if keras.backend.backend() == "jax":
        # Compiled as in `fit`: eager steps would be slower.
        import jax

        compiled = jax.jit(optimizer.stateless_apply)

    def step(gradients):
        if keras.backend.backend() != "jax" or any(gradient is None for gradient in gradients):
            tensors = [None if g is None else keras.ops.convert_to_tensor(g) for g in gradients]
            optimizer.apply(tensors, variables)
            return
        state = [variable.value for variable in optimizer.variables]
        weights, state = compiled(state, list(gradients), [v.value for v in variables])
        pairs = zip([*variables, *optimizer.variables], [*weights, *state], strict=True)
        for variable, value in pairs:
            variable.assign(value)

    return step


def run(model, optimizer, gradients):
    """Apply given gradients, a list for each step, and return the weights at the end."""
    step = stepper(model, optimizer)
    for own in gradients:
        step(own)
    return model.get_weights()


def train_dense(model, optimizer, x, y):
    """Do what `train` does for the dense problem, without compiling its gradients each time."""
    step = stepper(model, optimizer)
    losses, weights = [], [model.get_weights()]
    for batch, target in zip(x, y, strict=True):
        kernel, bias, next_kernel, next_bias = weights[-1]
        hidden = np.tanh(batch @ kernel + bias)
        error = hidden @ next_kernel + next_bias - target
        losses.append(np.mean(error**2))
        error = 2 * error / error.size
        inner = error @ next_kernel.T * (1 - hidden**2)
        step([batch.T @ inner, inner.sum(0), hidden.T @ error, error.sum(0)])
        weights.append(model.get_weights())
    return losses, weights[1:]


def random_gradients(model, steps=5):
    rng = np.random.default_rng(1)
    return [
        [rng.normal(size=w.shape).astype("float32") for w in model.trainable_variables]
        for _ in range(steps)
    ]


class Rule:
    """The rule of the family for one weight, in NumPy at double precision."""

    def __init__(self, weight, decay=0.0, schedule=None, **adam):
        self.weight = np.asarray(weight, "float64")
        self.momentum = self.velocity = self.average = np.zeros_like(self.weight)
        self.step, self.decay = 0, decay
        self.schedule = schedule or {0: 1}
        self.rate, self.epsilon = adam.get("learning_rate", 0.001), adam.get("epsilon", 1e-6)
        self.corrected = adam.get("bias_correction", True)

    def factor(self):
        points = {0: 0.0} | self.schedule
        return np.interp(self.step, sorted(points), [points[t] for t in sorted(points)])

    def update(self, gradient):
        factor = self.factor()
        self.step += 1
        self.momentum = 0.9 * self.momentum + 0.1 * gradient
        self.velocity = 0.999 * self.velocity + 0.001 * gradient**2
        corrections = (1 - 0.9**self.step, 1 - 0.999**self.step) if self.corrected else (1, 1)
        moment, square = self.momentum / corrections[0], self.velocity / corrections[1]
        change = moment / (np.sqrt(square) + self.epsilon) + self.decay * self.weight
        self.weight = self.weight - factor * self.rate * change
        self.average = 0.9 * self.average + 0.1 * self.weight
        return self.weight


# === Recorded trajectories ===


@pytest.mark.parametrize("name", GOLDEN)
def test_golden(references, name):
    folder = references / "units" / "optimizers"
    recorded = golden.load_json(folder / "optimizers.json")
    case = next(case for case in recorded["cases"] if case["name"] == name)
    problem = np.load(folder / f"problem_{case['problem']}.npz")
    expected = np.load(folder / f"{name}.npz")
    optimizer_class = getattr(optimizers, case["base"])
    for extension in case["extend"]:
        optimizer_class = getattr(optimizers, f"extend_with_{extension}")(optimizer_class)
    optimizer = optimizer_class(**case["kwargs"])
    model = build(case["problem"])
    model.set_weights([problem[f"weight_{i}"] for i in range(len(model.weights))])
    assert [w.path for w in model.weights] == recorded["problems"][case["problem"]]["weights"]

    fast = case["problem"] == "dense" and len(case["extend"]) == 1
    if fast:
        losses, weights = train_dense(model, optimizer, problem["X"], problem["Y"])
    else:  # a graph takes longer to trace than twelve steps
        eagerly = keras.backend.backend() == "tensorflow"
        losses, weights = train(model, optimizer, problem["X"], problem["Y"], eagerly)
    np.testing.assert_allclose(losses, case["losses"], atol=1e-5)
    for i, trajectory in enumerate(zip(*weights, strict=True)):
        np.testing.assert_allclose(trajectory, expected[f"weight_{i}"], atol=1e-5)

    for label, correction in (("corrected", True), ("raw", False)):
        for i, variable in enumerate(model.weights):
            if f"ema_{label}_{i}" not in expected:
                continue
            momentum, steps = case["kwargs"].get("ema_momentum", 0.999), len(losses)
            average = expected[f"ema_{label}_{i}"]
            if case.get("quirk") == "ema_sparse" and variable.path == "emb/embeddings":
                # The original averages twice a step where gradients are sparse. Once is right.
                average = 0
                for step in weights:
                    average = momentum * average + (1 - momentum) * step[i]
                average = average / (1 - momentum**steps) if correction else average
            with optimizer.ema_weights(bias_correction=correction):
                np.testing.assert_allclose(model.get_weights()[i], average, atol=1e-5)


def test_every_recorded_case_is_compared_or_a_known_fault(references):
    recorded = golden.load_json(references / "units" / "optimizers" / "optimizers.json")
    assert sorted(GOLDEN + FAULTS) == sorted(case["name"] for case in recorded["cases"])
    quirks = {c["name"]: c.get("quirk") for c in recorded["cases"] if c["name"] in FAULTS}
    assert set(quirks.values()) == {"accumulation", "lookahead"}


# === The rules ===


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: Adam(0.02), {}),
        (lambda: Adam(lr=0.02), {}),
        (lambda: Adam(0.02, epsilon=0.1), {"epsilon": 0.1}),
        (lambda: Adam(0.02, bias_correction=False), {"bias_correction": False}),
        (lambda: AdamW(0.02, weight_decay_rate=0.5), {"decay": 0.5}),
        (lambda: AdamW(0.02), {"decay": 0.01}),
        (
            lambda: AdamWLR(0.02, weight_decay_rate=0.5, lr_schedule={2: 1, 4: 0.5}),
            {"decay": 0.5, "schedule": {2: 1, 4: 0.5}},
        ),
        (
            lambda: AdamWLR(0.02, lr_schedule={"0": 1, "4": 0}),
            {"decay": 0.01, "schedule": {0: 1, 4: 0}},
        ),
        (
            lambda: extend_with_weight_decay(extend_with_piecewise_linear_lr(Adam))(
                0.02, weight_decay_rate=0.5, lr_schedule={4: 1}
            ),
            {"decay": 0.5, "schedule": {4: 1}},
        ),
    ],
)
def test_rule(make, rule):
    model, *_ = small_problem()
    gradients = random_gradients(model)
    rules = [Rule(w, learning_rate=0.02, **rule) for w in model.get_weights()]
    weights = run(model, make(), gradients)
    for step in gradients:
        expected = [r.update(g) for r, g in zip(rules, step, strict=True)]
    for weight, wanted in zip(weights, expected, strict=True):
        # TensorFlow's kernel takes 1 - 0.999 in float32, which is 5e-5 of it off.
        np.testing.assert_allclose(weight, wanted, atol=4e-6)


class StackRule(Rule):
    """All extensions in a given order, for the weight of a given name."""

    def __init__(self, name, weight, order):
        super().__init__(weight, schedule=EVERYTHING["piecewise_linear_lr"]["lr_schedule"])
        self.name, self.order, self.slow, self.window = name, order, self.weight, []
        self.averaged = np.zeros_like(self.weight)
        self.rate = 0.02

    def update(self, gradient):
        self.window.append(gradient)
        if len(self.window) < 2:
            return
        gradient, self.window = np.mean(self.window, axis=0), []
        rate, value = self.factor() * self.rate, self.weight
        super().update(gradient)
        step = self.weight - value
        for extension in self.order:
            step = getattr(self, extension, lambda step, *_: step)(step, value, gradient, rate)
        self.weight = value + step
        self.averaged = 0.9 * self.averaged + 0.1 * self.weight

    def weight_decay(self, step, value, gradient, rate):
        return step if "bias" in self.name else step - 0.5 * rate * value

    def layer_adaptation(self, step, value, gradient, rate):
        norms = np.linalg.norm(value), np.linalg.norm(step)
        return step * (norms[0] * rate / norms[1] if self.name != "d2/bias" and all(norms) else 1)

    def lookahead(self, step, value, gradient, rate):
        if self.step % 2 == 0:
            self.slow = self.slow + 0.25 * (value + step - self.slow)
            return self.slow - value
        return step

    def lazy_optimization(self, step, value, gradient, rate):
        return step * (gradient != 0).any(axis=-1, keepdims=True) if "d1" in self.name else step

    def parameter_wise_lr(self, step, value, gradient, rate):
        return step * (3 if "d1" in self.name else 1) * (0.5 if "kernel" in self.name else 1)


def orders():
    rng = np.random.default_rng(2)
    names = list(EVERYTHING)
    return [names, names[::-1], *(list(rng.permutation(names)) for _ in range(2))]


def everything(order=tuple(EVERYTHING), base=Adam, name=None, **kwargs):
    """Return an optimizer with all extensions, the innermost first in `order`."""
    optimizer_class = base
    for extension in order:
        optimizer_class = getattr(optimizers, f"extend_with_{extension}")(optimizer_class, name)
    for arguments in EVERYTHING.values():
        kwargs = arguments | kwargs
    return optimizer_class(0.02, **kwargs)


@pytest.mark.parametrize("order", orders(), ids=lambda order: "-".join(n[:5] for n in order))
def test_extensions_stack_in_any_order(order):
    model, *_ = small_problem()
    gradients = random_gradients(model, steps=9)
    for step in gradients:
        step[0][1] = 0
    weights = zip(model.weights, model.get_weights(), strict=True)
    rules = [StackRule(variable.path, weight, order) for variable, weight in weights]
    optimizer = everything(order)
    final = run(model, optimizer, gradients)
    for step in gradients:
        for rule, gradient in zip(rules, step, strict=True):
            rule.update(gradient)
    for weight, rule in zip(final, rules, strict=True):
        np.testing.assert_allclose(weight, rule.weight, atol=2e-6)
    with optimizer.ema_weights(bias_correction=False):
        for weight, rule in zip(model.get_weights(), rules, strict=True):
            np.testing.assert_allclose(weight, rule.averaged, atol=2e-6)


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("base", [Adam, Lion])
def test_accumulation_steps_with_the_mean_at_the_end_of_its_window(base, steps):
    # The original steps at the start of a window, with the gradients of the one before.
    model, *_ = small_problem()
    gradients = random_gradients(model, steps=7)
    optimizer = extend_with_gradient_accumulation(base)(0.02, grad_accum_steps=steps)
    means = [
        [np.mean(own, axis=0) for own in zip(*gradients[i : i + steps], strict=True)]
        for i in range(0, len(gradients) - steps + 1, steps)
    ]
    expected = run(small_problem()[0], base(0.02), means)
    for weight, wanted in zip(run(model, optimizer, gradients), expected, strict=True):
        np.testing.assert_allclose(weight, wanted, atol=1e-6)
    assert int(keras.ops.convert_to_numpy(optimizer.iterations)) == 7 // steps


@pytest.mark.parametrize("problem", ["dense", "embedding"])
def test_accumulating_two_batches_equals_one_batch_of_both(problem):
    rng = np.random.default_rng(4)
    y = rng.normal(size=(6, 5, 3)).astype("float32")
    x = rng.normal(size=(6, 5, 4)).astype("float32")
    if problem == "embedding":
        x = rng.integers(0, 10, size=(6, 5, 4)).astype("int32")
    weights = [rng.normal(size=w.shape) for w in build(problem).weights]
    results = []
    for accumulated in (True, False):
        model = build(problem)
        model.set_weights(weights)
        optimizer = (AdamGA if accumulated else Adam)(0.02, global_clipnorm=0.5)
        batches = (x, y) if accumulated else (x.reshape(3, 10, 4), y.reshape(3, 10, 3))
        results.append(train(model, optimizer, *batches)[1])
    for i, own in enumerate(results[0]):
        before = results[1][i // 2 - 1] if i > 1 else weights
        for weight, wanted in zip(own, results[1][i // 2] if i % 2 else before, strict=True):
            np.testing.assert_allclose(weight, wanted, atol=1e-5)


def test_accumulation_over_batches_in_which_few_or_many_tokens_count():
    """The mean of the means is not that of one large batch; sums, divided by a number, are."""
    x = np.random.default_rng(5).normal(size=(2, 3, 5, 4)).astype("float32")
    labels = np.ones((2, 3, 5), "int32")
    labels[0, :, 1:] = 0  # 3 tokens count here, 15 there

    def update(optimizer, loss, x, labels, loss_weights=None):
        model = keras.Sequential([keras.Input((5, 4)), keras.layers.Dense(3)])
        model.set_weights([np.ones((4, 3)), np.zeros(3)])
        model.compile(optimizer, loss, loss_weights=loss_weights)
        for batch in zip(x, labels, strict=True):
            model.train_on_batch(*batch)
        return model.get_weights()[0] - 1

    sgd = keras.optimizers.SGD
    accumulating = extend_with_gradient_accumulation(sgd)
    mean, total = (
        TokenCrossentropy(from_logits=True, ignore=0, reduction=reduction)
        for reduction in ("sum_over_batch_size", "sum")
    )
    large = update(sgd(1.0), mean, x.reshape(1, 6, 5, 4), labels.reshape(1, 6, 5))
    parts = [update(sgd(1.0), mean, x[i : i + 1], labels[i : i + 1]) for i in (0, 1)]
    of_means = update(accumulating(1.0, grad_accum_steps=2), mean, x, labels)
    np.testing.assert_allclose(of_means, np.mean(parts, axis=0), atol=1e-6)
    assert np.abs(of_means - large).max() > 0.2 * np.abs(large).max()
    of_sums = update(accumulating(1.0, grad_accum_steps=2), total, x, labels, 2 / 18)
    np.testing.assert_allclose(of_sums, large, atol=1e-6)


@pytest.mark.parametrize("clip", ["clipnorm", "global_clipnorm"])
def test_rows_that_occur_twice_are_added_before_clipping(clip):
    # Keras on TensorFlow clips by the norm of the rows of a sparse gradient as they come.
    results = []
    for occurrences in ([[3, 3, 3, 3]], [[3, 3, 3, 3], [3, 3, 3, 3]]):
        model = build("embedding")
        model.set_weights([np.ones(w.shape) for w in model.weights])
        sgd = extend_with_weight_decay(keras.optimizers.SGD)
        x = np.array(occurrences, "int32")
        train(model, sgd(1.0, **{clip: 0.1}), x[None], np.zeros((1, len(x), 3), "float32"))
        results.append(model.get_weights())
    for once, twice in zip(*results, strict=True):
        np.testing.assert_allclose(once, twice, atol=1e-6)
    if clip == "clipnorm":
        moved = 1 - results[0][0] - 0.01
        assert np.linalg.norm(moved) == pytest.approx(0.1, abs=1e-5)


def test_corrections_of_adam_are_computed_once_for_all_weights(monkeypatch):
    """One by one they would be most of what TensorFlow traces before the first step."""
    model = build()
    assert len(model.trainable_variables) == 4
    power, calls = keras.ops.power, []
    monkeypatch.setattr(keras.ops, "power", lambda *args: calls.append(args) or power(*args))
    run(model, Adam(), random_gradients(model, steps=1))
    assert len(calls) == 2  # one for each moment


def test_schedules_of_keras_count_steps_under_accumulation():
    schedule = warmup_cosine(2, 4, 0.1)
    results = []
    for optimizer, repeats in ((AdamGA(schedule, grad_accum_steps=2), 2), (Adam(schedule), 1)):
        model, *_ = small_problem()
        gradients = [step for step in random_gradients(model, 4) for _ in range(repeats)]
        results.append(run(model, optimizer, gradients))
    for weight, wanted in zip(*results, strict=True):
        np.testing.assert_allclose(weight, wanted, atol=1e-6)


def test_lookahead_starts_at_the_weights():
    # The original starts at zero and so halves every weight at its first step.
    model, *_ = small_problem()
    gradients = random_gradients(model, steps=7)
    optimizer = AdamLA(0.02, steps_per_slow_update=3, slow_step_size=0.4)
    optimizer.build(model.trainable_variables)
    # Weights that are loaded after the optimizer was built count.
    model.set_weights([w + 1 for w in model.get_weights()])
    rules = [Rule(w, learning_rate=0.02) for w in model.get_weights()]
    slow = [rule.weight for rule in rules]
    for number, step in enumerate(gradients, 1):
        for i, (rule, gradient) in enumerate(zip(rules, step, strict=True)):
            rule.update(gradient)
            if number % 3 == 0:
                rule.weight = slow[i] = slow[i] + 0.4 * (rule.weight - slow[i])
    for weight, rule in zip(run(model, optimizer, gradients), rules, strict=True):
        np.testing.assert_allclose(weight, rule.weight, atol=2e-6)


def test_layer_adaptation_leaves_zeros_alone():
    model, *_ = small_problem()
    model.set_weights([np.zeros(w.shape) for w in model.weights])
    gradients = random_gradients(model, steps=1)
    plain = run(small_zeros(), Adam(0.02), gradients)
    for weight, wanted in zip(run(model, AdamLamb(0.02), gradients), plain, strict=True):
        np.testing.assert_array_equal(weight, wanted)
    model, *_ = small_problem()
    before = model.get_weights()
    run(model, AdamLamb(0.02), [[np.zeros(w.shape, "float32") for w in before]])
    assert all(map(np.array_equal, model.get_weights(), before))


def small_zeros():
    model, *_ = small_problem()
    model.set_weights([np.zeros(w.shape) for w in model.weights])
    return model


def test_lazy_rows_rest_while_their_moments_move():
    model = build("embedding")
    table = model.weights[0]
    optimizer = AdamLazy(0.1, include_in_lazy_optimization=["emb"])
    x = np.array([[[0, 1, 1, 2]], [[3, 3, 3, 3]], [[1, 1, 1, 1]]], "int32")
    before = keras.ops.convert_to_numpy(table)
    _, weights = train(model, optimizer, x, np.ones((3, 1, 3), "float32"))
    history = [before, *(step[0] for step in weights)]
    moved = [np.flatnonzero((a != b).any(axis=1)).tolist() for a, b in pairwise(history)]
    assert moved == [[0, 1, 2], [3], [1]]


def test_factor_zero_freezes_a_weight():
    model, *_ = small_problem()
    before = model.get_weights()
    after = run(model, AdamPW(0.1, paramwise_lr_schedule={"d1/": 0}), random_gradients(model))
    assert [np.array_equal(*pair) for pair in zip(before, after, strict=True)] == [True] * 2 + [
        False
    ] * 2


def test_adafactor_keeps_rows_and_columns_of_large_matrices_only():
    kept = {
        (4, 6): [(1, 6), (4, 1)],
        (3, 6): [(3, 6)],
        (5,): [(5,)],
        (5, 2, 4): [(1, 2, 4), (5, 2, 1)],
    }
    optimizer = AdaFactor(0.1, min_dim_size_to_factor=4)
    optimizer.build([keras.Variable(np.ones(shape, "float32")) for shape in kept])
    found = [sorted(tuple(m.shape) for m in moments) for moments in optimizer._second_moments]
    assert found == list(kept.values())


def test_adafactor_factors_the_two_largest_axes():
    gradient = np.random.default_rng(5).normal(size=(5, 2, 4)).astype("float32")
    variable = keras.Variable(np.ones((5, 2, 4), "float32"))
    optimizer = AdaFactor(0.1, min_dim_size_to_factor=4, clipping_threshold=None)
    optimizer.build([variable])
    optimizer.apply([keras.ops.convert_to_tensor(gradient)])
    square = np.float64(gradient) ** 2
    rows, columns = square.mean(2, keepdims=True), square.mean(0, keepdims=True)
    expected = 1 - 0.1 * gradient / np.sqrt(rows * columns / rows.mean(0, keepdims=True))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(variable), expected, atol=1e-5)


@pytest.mark.parametrize("size", [1e-12, 1e12])
def test_adafactor_does_not_depend_on_the_size_of_gradients(size):
    variable = keras.Variable(np.ones((4, 6), "float32"))
    optimizer = AdaFactor(0.1, min_dim_size_to_factor=1)
    optimizer.build([variable])
    optimizer.apply([keras.ops.full((4, 6), size)])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(variable), 0.9, atol=1e-6)


def test_adafactor_steps_by_itself():
    variable = keras.Variable(np.full((2,), 0.5, "float32"))
    for scale, rate in ((True, 0.01), (False, 0.0005)):
        optimizer = AdaFactor(None, multiply_by_parameter_scale=scale)
        assert float(keras.ops.convert_to_numpy(optimizer.learning_rate)) == pytest.approx(rate)
        copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
        assert copy.get_config() == optimizer.get_config()
        assert copy.get_config()["learning_rate"] is None
        # `1 / sqrt(step)` is the lesser of the two after 10000 steps.
        optimizer.build([variable])
        optimizer._iterations.assign(39999)
        half = float(keras.ops.convert_to_numpy(optimizer.learning_rate))
        assert half == pytest.approx(rate / 2)


def newton_schulz(matrix):
    """The iteration of Muon (Jordan et al., 2024) in NumPy."""
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / np.linalg.norm(x)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def test_muon_moves_the_matrices_of_blocks_and_adam_the_rest():
    model = transformer()
    rng = np.random.default_rng(3)
    model.set_weights([rng.normal(size=w.shape) for w in model.weights])
    before = model.get_weights()
    gradients = random_gradients(model)
    after = run(model, Muon(0.02), gradients)
    plain = transformer()
    plain.set_weights(before)
    adam = run(plain, keras.optimizers.Adam(0.02, epsilon=1e-6), gradients)
    by_muon = []
    for i, variable in enumerate(model.trainable_variables):
        if np.allclose(after[i], adam[i], atol=1e-5):
            continue
        by_muon.append(variable.path)
        weight, momentum = np.float64(before[i]), 0
        for step in gradients:
            momentum = 0.95 * momentum + step[i]
            update = newton_schulz(step[i] + 0.95 * momentum)
            weight = weight - 0.02 * 0.2 * np.sqrt(max(weight.shape)) * update
        np.testing.assert_allclose(after[i], weight, atol=1e-4)
    assert by_muon == [
        f"Transformer-{i}-{layer}/kernel"
        for i in range(2)
        for layer in ("MultiHeadSelfAttention/q_dense", "FeedForward/o_dense")
    ]


def transformer(prefixes=("",), blocks=2):
    """Return a model whose variables have the names and shapes of some of a Transformer."""
    inputs = x = keras.Input((4,), dtype="int32")
    x = keras.layers.Embedding(10, 4, name="Embedding-Token")(inputs)
    for prefix in prefixes:
        for i in range(blocks):
            name = f"{prefix}Transformer-{i}"
            for layer in ("MultiHeadSelfAttention/q_dense", "FeedForward/o_dense"):
                x = Named(name=f"{name}-{layer.split('/')[0]}", part=layer.split("/")[1])(x)
            x = keras.layers.LayerNormalization(name=f"{name}-FeedForward-Norm")(x)
        x = keras.layers.LayerNormalization(name=f"{prefix}Output-Norm")(x)
    return keras.Model(inputs, keras.layers.Dense(3, name="classifier")(x))


class Named(keras.layers.Layer):
    """A layer that holds one dense layer of a given name."""

    def __init__(self, part, **kwargs):
        super().__init__(**kwargs)
        self.inner = keras.layers.Dense(4, name=part)

    def build(self, shape):
        self.inner.build(shape)

    def call(self, x):
        return self.inner(x)


def test_muon_takes_names():
    model, *_ = small_problem()
    gradients = random_gradients(model)
    results = {}
    for key, arguments in {
        "d1": {"muon_layers": ["^d1"]},
        "both": {"muon_layers": ["d1", "d2"], "exclude_layers": []},
        "excluded": {"muon_layers": ["d1", "d2"], "exclude_layers": ["d2"]},
    }.items():
        model, *_ = small_problem()
        results[key] = run(model, Muon(0.02, **arguments), gradients)
    assert all(map(np.array_equal, results["d1"], results["excluded"]))
    same = [np.array_equal(*pair) for pair in zip(results["d1"], results["both"], strict=True)]
    assert same == [True, True, False, True]
    for wrong in ({}, {"muon_layers": []}, {"muon_layers": ["d1"], "exclude_layers": ["d1"]}):
        with pytest.raises(ValueError, match=r"nothing to do.*d1/kernel, d2/kernel"):
            run(small_problem()[0], Muon(0.02, **wrong), gradients)


@pytest.mark.parametrize("average_first", [True, False])
def test_the_average_is_of_the_final_weights_wherever_it_stands(average_first):
    steps = [extend_with_exponential_moving_average, extend_with_weight_decay]
    optimizer_class = Adam
    for extend in steps if average_first else reversed(steps):
        optimizer_class = extend(optimizer_class)
    optimizer = optimizer_class(0.02, ema_momentum=0.9, weight_decay_rate=0.5)
    model, *_ = small_problem()
    rules = [Rule(w, learning_rate=0.02, decay=0.5) for w in model.get_weights()]
    gradients = random_gradients(model)
    final = run(model, optimizer, gradients)
    for step in gradients:
        for rule, gradient in zip(rules, step, strict=True):
            rule.update(gradient)
    for bias_correction, scale in ((True, 1 - 0.9**5), (False, 1)):
        with optimizer.ema_weights(bias_correction):
            averages = model.get_weights()
        for average, rule in zip(averages, rules, strict=True):
            np.testing.assert_allclose(average, rule.average / scale, atol=2e-6)
        assert all(map(np.array_equal, model.get_weights(), final))


def test_exclusion_patterns_are_searched_in_the_path():
    model, *_ = small_problem()
    zeros = [[np.zeros(w.shape, "float32") for w in model.trainable_variables]]
    before = model.get_weights()
    patterns = ["d[12]/bias", "^d2/k"]
    optimizer = AdamW(1.0, weight_decay_rate=0.5, exclude_from_weight_decay=patterns)
    after = run(model, optimizer, zeros)
    np.testing.assert_array_equal(after[0], before[0] * 0.5)
    assert all(map(np.array_equal, after[1:], before[1:]))


def test_first_step_of_a_warm_up_changes_nothing():
    model, x, y = small_problem()
    before = model.get_weights()
    train(model, AdamWLR(0.1, lr_schedule={4: 1}), x[:1], y[:1])
    assert all(map(np.array_equal, model.get_weights(), before))


@pytest.mark.parametrize("by", ["Keras", "extension inside", "extension outside"])
def test_rate_counts_real_steps_under_gradient_accumulation(by):
    """In the original it counts batches, so that its keys are multiplied by their number."""
    plain = extend_with_exponential_moving_average(AdamWLR)
    name = "gradient_accumulation_steps" if by == "Keras" else "grad_accum_steps"
    accumulating = {
        "Keras": plain,
        "extension inside": extend_with_exponential_moving_average(
            extend_with_piecewise_linear_lr(extend_with_weight_decay(AdamGA))
        ),
        "extension outside": extend_with_gradient_accumulation(plain),
    }[by]
    arguments = {"lr_schedule": {0: 1, 2: 0}, "ema_momentum": 0.5, "weight_decay_rate": 0.1}
    results = []
    for accumulated in (False, True):
        model, x, y = small_problem()
        optimizer = (
            accumulating(0.1, **arguments, **{name: 2}) if accumulated else plain(0.1, **arguments)
        )
        repeated = 2 if accumulated else 1
        train(model, optimizer, x[:3].repeat(repeated, 0), y[:3].repeat(repeated, 0))
        optimizer.apply_ema_weights()
        results.append(model.get_weights())
    for plain, accumulated in zip(*results, strict=True):
        np.testing.assert_allclose(accumulated, plain, atol=1e-6)


# === The average ===


def test_ema_is_applied_and_taken_back_during_fit():
    model, x, y = small_problem()
    optimizer = AdamEMA(0.05, ema_momentum=0.5)
    seen = []

    class Evaluate(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raw = self.model.get_weights()
            optimizer.apply_ema_weights()
            loss = self.model.evaluate(x[0], y[0], verbose=0)
            averaged = self.model.get_weights()
            optimizer.reset_old_weights()
            assert all(map(np.array_equal, self.model.get_weights(), raw))
            seen.append((raw, averaged, loss))

    model.compile(optimizer=optimizer, loss="mse")
    model.fit(x[0], y[0], batch_size=5, epochs=3, shuffle=False, verbose=0, callbacks=[Evaluate()])
    other, _, _ = small_problem()
    _, weights = train(other, Adam(0.05), x[[0, 0, 0]], y[[0, 0, 0]])
    for epoch, (raw, averaged, loss) in enumerate(seen):
        shares = 0.5 ** np.arange(epoch, -1, -1)
        for i in range(len(raw)):
            expected = np.average([w[i] for w in weights[: epoch + 1]], axis=0, weights=shares)
            np.testing.assert_allclose(raw[i], weights[epoch][i], atol=1e-6)
            np.testing.assert_allclose(averaged[i], expected, atol=1e-6)
        other.set_weights(averaged)
        assert loss == pytest.approx(other.evaluate(x[0], y[0], verbose=0), abs=1e-6)


def test_a_weight_without_gradient_keeps_its_value_in_the_average():
    model, *_ = small_problem()
    before = model.get_weights()
    gradients = random_gradients(model)
    for step in gradients:
        step[1] = None
    optimizer = AdamEMA(0.1, ema_momentum=0.9)
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        run(model, optimizer, gradients)
    with optimizer.ema_weights():
        np.testing.assert_allclose(model.get_weights()[1], before[1], atol=1e-6)


def test_the_average_alone_does_not_change_training():
    trajectories = []
    for optimizer in (Adam(0.05), AdamEMA(0.05)):
        model, x, y = small_problem()
        trajectories.append(train(model, optimizer, x, y)[1][-1])
    assert all(map(np.array_equal, *trajectories))


def test_ema_weights_come_back_after_an_exception():
    model, x, y = small_problem()
    optimizer = AdamEMA(0.05)
    train(model, optimizer, x, y)
    before = model.get_weights()
    with pytest.raises(KeyError), optimizer.ema_weights():
        assert not np.array_equal(model.get_weights()[0], before[0])
        raise KeyError
    assert all(map(np.array_equal, model.get_weights(), before))


def test_ema_is_refused_at_the_wrong_time():
    model, x, y = small_problem()
    optimizer = AdamEMA(0.05)
    with pytest.raises(RuntimeError, match="before the first step"):
        optimizer.apply_ema_weights()
    with pytest.raises(RuntimeError, match="no weights to restore"):
        optimizer.reset_old_weights()
    train(model, optimizer, x, y)
    optimizer.apply_ema_weights()
    with pytest.raises(RuntimeError, match="already"):
        optimizer.apply_ema_weights()
    optimizer.reset_old_weights()


# === Schedules ===


def test_warmup_cosine():
    def rates_of(schedule, steps):
        return [float(keras.ops.convert_to_numpy(schedule(step))) for step in steps]

    steps = np.array([0, 1, 9, 10, 11, 60, 85, 109, 110, 200])
    falling = 0.1 + 0.4 * (1 + np.cos(np.pi * np.minimum(steps - 10, 100) / 100)) / 2
    expected = np.where(steps < 10, steps / 10 * 0.5, falling)
    warming, falling = warmup_cosine(10, 110, 0.5, final=0.1), warmup_cosine(0, 100, 0.5, 0.1)
    np.testing.assert_allclose(rates_of(warming, steps), expected, atol=1e-6)
    np.testing.assert_allclose(rates_of(falling, steps[3:] - 10), expected[3:], atol=1e-6)
    np.testing.assert_allclose(rates_of(warmup_cosine(0, 4, 1, final=1), [0, 2, 9]), 1)
    for schedule in (warming, falling):
        config = keras.optimizers.serialize(Adam(schedule))
        copy = keras.optimizers.deserialize(json.loads(json.dumps(config)))
        assert keras.optimizers.serialize(copy) == config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((10, 10, 1.0), "less than total_steps"),
        ((-1, 10, 1.0), "at least 0"),
        ((1, 10, 0.0), "peak > 0"),
        ((1, 10, 1.0, 2.0), "final <= peak"),
        ((1, 10, 1.0, -0.1), "0 <= final"),
    ],
)
def test_warmup_cosine_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        warmup_cosine(*arguments)


def factors_of(model, schedule):
    """Return the factor of each variable under a parameter-wise schedule."""
    return {
        v.path: np.prod([factor for part, factor in schedule.items() if part in v.path])
        for v in model.trainable_variables
    }


def test_layer_wise_decay_by_block():
    model = transformer(blocks=12)
    schedule = layer_wise_lr_decay(model, 0.5)
    for path, factor in factors_of(model, schedule).items():
        found = re.match(r"Transformer-(\d+)-", path)
        depth = 12 - int(found[1]) if found else 13 if "Embedding" in path else 0
        assert factor == pytest.approx(0.5**depth), path
    assert layer_wise_lr_decay(model) == layer_wise_lr_decay(model, 0.9)


def test_layer_wise_decay_scales_steps():
    model = transformer()
    before = model.get_weights()
    ones = [np.ones(w.shape, "float32") for w in before]
    optimizer = AdamPW(0.1, paramwise_lr_schedule=layer_wise_lr_decay(model, 0.5))
    after = run(model, optimizer, [ones])
    steps = [0.1 * factor for factor in factors_of(model, layer_wise_lr_decay(model, 0.5)).values()]
    for weight, old, step in zip(after, before, steps, strict=True):
        np.testing.assert_allclose(old - weight, step, atol=1e-6)


def test_layer_wise_decay_of_overlapping_names():
    # `Transformer-0-` is a part of `Encoder-Transformer-0-`, and factors multiply.
    model = transformer(prefixes=("", "Encoder-", "Decoder-"), blocks=3)
    for path, factor in factors_of(model, layer_wise_lr_decay(model, 0.5)).items():
        found = re.search(r"Transformer-(\d+)-", path)
        depth = 3 - int(found[1]) if found else 4 if "Embedding" in path else 0
        assert factor == pytest.approx(0.5**depth), path


@pytest.mark.parametrize("architecture", ["bert", "albert", "t5.1.1", "gau_alpha"])
def test_layer_wise_decay_knows_the_architectures(architecture, tmp_path):
    from bert4keras.models import build_transformer_model

    config = {
        "vocab_size": 20,
        "hidden_size": 8,
        "num_attention_heads": 2,
        "attention_key_size": 4,
        "num_hidden_layers": 3,
        "intermediate_size": 16,
        "hidden_act": ["gelu", "linear"] if "t5" in architecture else "gelu",
        "max_position": 16,
        "segment_vocab_size": 2,
    }
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    model = build_transformer_model(str(tmp_path / "config.json"), None, model=architecture)
    blocks = 1 if architecture == "albert" else 3
    factors = factors_of(model, layer_wise_lr_decay(model, 0.5))
    depths = {path: round(-np.log2(factor)) for path, factor in factors.items()}
    assert set(depths.values()) >= set(range(1, blocks + 2))
    for path, depth in depths.items():
        found = re.match(r"(?:(?:En|De)coder-)?Transformer-(?:(\d+)-)?", path)
        expected = blocks - int(found[1] or 0) if found else 0
        assert depth == (blocks + 1 if "Embedding-" in path else expected), path
    muon = Muon(0.01)
    muon.build(model.trainable_variables)
    by_muon = {
        v.path
        for v, velocity in zip(model.trainable_variables, muon.adam_velocities, strict=True)
        if velocity is None
    }
    matrices = {v.path for v in model.trainable_variables if v.path.endswith("_dense/kernel")}
    assert by_muon == {path for path in matrices if "Transformer-" in path}


def test_layer_wise_decay_refuses():
    model, *_ = small_problem()
    with pytest.raises(ValueError, match=r"'Transformer-…' \(d1/kernel, d1/bias"):
        layer_wise_lr_decay(model)
    for decay in (0, 1.5):
        with pytest.raises(ValueError, match=r"\(0, 1\]"):
            layer_wise_lr_decay(transformer(), decay)


# === Classes, arguments ===


def test_old_scripts_compile():
    # As in existing scripts, down to the decreasing schedule and the factory's name argument.
    old = extend_with_piecewise_linear_lr(extend_with_weight_decay(Adam, name="AdamW"))
    assert old.__name__ == "AdamW"
    model, x, y = small_problem()
    optimizer = old(
        learning_rate=1e-5,
        weight_decay_rate=0.01,
        exclude_from_weight_decay=["Norm", "bias"],
        lr_schedule={1000: 1, 2000: 0.1},
    )
    losses, _ = train(model, optimizer, x, y)
    assert np.isfinite(losses).all()
    assert optimizer.lr_schedule == {1000: 1, 2000: 0.1}


@pytest.mark.parametrize(
    "base", [keras.optimizers.SGD, keras.optimizers.Adam, keras.optimizers.Lion]
)
def test_keras_optimizers_can_be_extended(base):
    extended = extend_with_piecewise_linear_lr(extend_with_weight_decay(base))
    results = []
    for optimizer in (base(0.01), extended(0.01, weight_decay_rate=0.0, lr_schedule={0: 1})):
        model, x, y = small_problem()
        results.append(train(model, optimizer, x, y)[1][-1])
    for plain, revised in zip(*results, strict=True):
        np.testing.assert_allclose(revised, plain, atol=1e-5)


def test_learning_rate_schedules_of_keras_reach_the_decay():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0], [1.0, 0.1])
    model, *_ = small_problem()
    before = model.get_weights()[0]
    zeros = [[np.zeros(w.shape, "float32") for w in model.trainable_variables]] * 2
    after = run(model, AdamW(schedule, weight_decay_rate=0.5), zeros)[0]
    np.testing.assert_allclose(after, before * 0.5 * 0.95, rtol=1e-6)


def test_extending_twice_gives_the_same_class_and_nesting_twice_an_error():
    assert extend_with_weight_decay(Adam, name="AdamW") is AdamW
    assert extend_with_weight_decay(Adam) is not AdamW
    with pytest.raises(ValueError, match="AdamWLR already has the extension 'weight_decay'"):
        extend_with_weight_decay(AdamWLR)


def test_second_set_of_names():
    assert optimizers.AdaFactorV1 is optimizers.AdaFactorV2 is AdaFactor
    for name in EVERYTHING:
        assert getattr(optimizers, f"extend_with_{name}_v2") is getattr(
            optimizers, f"extend_with_{name}"
        )


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Adam(weight_decay_rate=0.1), TypeError, r"Adam got .* weight_decay_rate.*lr, "),
        (lambda: AdamW(lr_schedule={0: 1}), TypeError, r"AdamW got .*lr_schedule.*extension"),
        (lambda: AdamWLR(decay=0.1), TypeError, r"AdamWLR got the unknown argument\(s\) decay"),
        (lambda: AdamW(exclude_from_weight_decay="bias"), TypeError, r"write \['bias'\]"),
        (lambda: AdamW(exclude_from_weight_decay=["("]), ValueError, "regular expression"),
        (lambda: AdamEMA(ema_momentum=1.0), ValueError, r"\[0, 1\)"),
        (lambda: AdamWLR(lr_schedule={}), ValueError, "at least one step"),
        (lambda: AdamWLR(lr_schedule={"a": 1}), ValueError, "lr_schedule"),
        (lambda: AdamWLR(lr_schedule={-1: 1}), ValueError, "lr_schedule"),
        (lambda: Adam(-0.1), ValueError, "must not be negative"),
        (lambda: Adam(lr=float("nan")), ValueError, "must not be negative"),
        (lambda: AdaFactor(-0.1), ValueError, "must not be negative"),
        (lambda: Lion(-0.1), ValueError, "must not be negative"),
        (lambda: Muon(-0.1), ValueError, "must not be negative"),
        (lambda: AdaFactor(beta_1=0.9), TypeError, r"AdaFactor got .* beta_1\. It takes.* beta1"),
        (lambda: Lion(epsilon=1e-6), TypeError, "Lion got the unknown"),
        (lambda: Muon(betas=1), TypeError, "Muon got the unknown"),
        (lambda: AdaFactor(exclude_from_parameter_scale="d1"), TypeError, r"\['d1'\]"),
        (lambda: Muon(muon_layers=["("]), ValueError, "muon_layers contains"),
        (lambda: Muon(exclude_layers="d1"), TypeError, r"exclude_layers takes a list.*\['d1'\]"),
        (lambda: AdamW(weight_decay_rate=-0.1), ValueError, "weight_decay_rate must not be"),
        (lambda: AdamLamb(exclude_from_layer_adaptation="b"), TypeError, r"\['b'\]"),
        (lambda: AdamGA(grad_accum_steps=0), ValueError, "positive integer"),
        (lambda: AdamGA(grad_accum_steps=1.5), ValueError, "positive integer"),
        (lambda: AdamGA(gradient_accumulation_steps=2), TypeError, "pass only grad_accum_steps"),
        (lambda: AdamLA(steps_per_slow_update=0), ValueError, "positive integer"),
        (lambda: AdamLA(slow_step_size=0.0), ValueError, r"\(0, 1\]"),
        (lambda: AdamLazy(include_in_lazy_optimization=["["]), ValueError, "include_in_lazy"),
        (lambda: AdamPW(paramwise_lr_schedule={"d1": -1}), ValueError, "'d1': -1"),
        (lambda: AdamPW(paramwise_lr_schedule={1: 1}), ValueError, "1: 1"),
    ],
)
def test_wrong_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: AdamPW(paramwise_lr_schedule={"d1": 2, "d3": 2}),
        lambda: AdamLazy(include_in_lazy_optimization=["d1", "d3"]),
    ],
)
def test_a_misspelt_name_is_an_error_when_training_starts(make):
    model, x, y = small_problem()
    with pytest.raises(ValueError, match=r"'d3'.*\(d1/kernel, d1/bias, d2/kernel, d2/bias\)"):
        train(model, make(), x, y)


def test_lists_of_names_may_be_none():
    names = [
        "exclude_from_weight_decay",
        "exclude_from_layer_adaptation",
        "include_in_lazy_optimization",
        "exclude_from_parameter_scale",
    ]
    config = everything(base=AdaFactor, **dict.fromkeys(names)).get_config()
    assert [config[name] for name in names] == [[]] * 4


@pytest.mark.parametrize("extension", EVERYTHING)
def test_configs_have_the_old_names(extension):
    optimizer = getattr(optimizers, f"extend_with_{extension}")(Adam)(**EVERYTHING[extension])
    config = optimizer.get_config()
    assert {name: config[name] for name in EVERYTHING[extension]} == EVERYTHING[extension]
    assert optimizer.from_config(config).get_config() == config


# === Saving ===


def full_optimizer(**kwargs):
    return extend_with_exponential_moving_average(AdamWLR, name="Full")(
        0.05,
        ema_momentum=0.8,
        weight_decay_rate=0.1,
        exclude_from_weight_decay=["bias"],
        lr_schedule={4: 1, 8: 0.1},
        **kwargs,
    )


RESUMED = {
    "all extensions": lambda: everything(grad_accum_steps=3, name="All"),
    "AdaFactor": lambda: AdaFactor(None, min_dim_size_to_factor=4, beta1=0.9),
    "Lion": lambda: Lion(0.02),
    "Muon": lambda: extend_with_weight_decay(Muon)(warmup_cosine(2, 8, 0.1), muon_layers=["d1"]),
}


@pytest.mark.parametrize("name", RESUMED)
def test_training_resumes_bit_equal(name, tmp_path):
    model, x, y = small_problem()
    train(model, RESUMED[name](), x[:4], y[:4])
    model.save(tmp_path / "model.keras")
    reloaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(reloaded.optimizer) is type(model.optimizer)
    assert reloaded.optimizer.get_config() == model.optimizer.get_config()

    by_variables, _, _ = small_problem()
    by_variables.set_weights(model.get_weights())
    optimizer = RESUMED[name]()
    optimizer.build(by_variables.trainable_variables)
    for variable, saved in zip(optimizer.variables, model.optimizer.variables, strict=True):
        variable.assign(keras.ops.convert_to_numpy(saved))
    by_variables.compile(optimizer=optimizer, loss="mse")

    before = model.get_weights()
    for each in (model, reloaded, by_variables):
        for batch, target in zip(x[4:], y[4:], strict=True):
            each.train_on_batch(batch, target)
    assert not np.array_equal(model.get_weights()[0], before[0])
    for each in (reloaded, by_variables):
        assert all(map(np.array_equal, each.get_weights(), model.get_weights()))
        state = zip(each.optimizer.variables, model.optimizer.variables, strict=True)
        assert all(np.array_equal(*map(keras.ops.convert_to_numpy, pair)) for pair in state)


def test_a_saved_model_loads_where_nothing_was_extended(tmp_path):
    model, x, y = small_problem()
    train(model, full_optimizer(), x[:4], y[:4])
    model.save(tmp_path / "model.keras")
    script = (
        "import json, sys, keras, bert4keras.optimizers\n"
        "model = keras.models.load_model(sys.argv[1])\n"
        "optimizer = model.optimizer\n"
        "print(json.dumps([type(optimizer).__name__, optimizer.lr_schedule,"
        " int(keras.ops.convert_to_numpy(optimizer.iterations)), len(optimizer.variables)]))"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "model.keras")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = ["Full", {"4": 1, "8": 0.1}, 4, 2 + 3 * 4]
    assert json.loads(done.stdout.splitlines()[-1]) == expected


def test_config_round_trip():
    optimizer = full_optimizer(clipnorm=1.0, name="mine")
    config = json.loads(json.dumps(optimizer.get_config()))
    copy = type(optimizer).from_config(config)
    assert copy.get_config() == optimizer.get_config()
    assert type(copy) is type(optimizer)
    assert copy.lr_schedule == {4: 1, 8: 0.1}
    assert keras.optimizers.deserialize(keras.optimizers.serialize(Adam(0.5))).epsilon == 1e-6


@pytest.mark.parametrize("optimizer_class", [AdamW, AdamWLR, extend_with_weight_decay(Adam)])
def test_every_stack_comes_back_as_itself(optimizer_class):
    # They share one registration, under which Keras finds the class that was made last.
    config = keras.optimizers.serialize(optimizer_class(0.5))
    assert type(keras.optimizers.deserialize(config)) is optimizer_class


def test_a_subclass_written_by_hand_survives_saving():
    class Mine(AdamW):
        pass

    config = keras.optimizers.serialize(Mine(0.5))
    assert type(keras.optimizers.deserialize(config, {"Mine": Mine})) is Mine
    extended = extend_with_exponential_moving_average(Mine)
    assert extended.base_optimizer is Mine
    config = extended(0.5, weight_decay_rate=0.25).get_config()
    with pytest.raises(ValueError, match=re.escape("extends 'Mine'")):
        extended.from_config(config)
    assert extended.from_config(config, {"Mine": Mine}).weight_decay_rate == 0.25


# === Setting of the backends ===


@pytest.mark.parametrize(
    ("policy", "make"),
    [
        ("mixed_float16", everything),
        ("bfloat16", everything),
        ("bfloat16", lambda: AdaFactor(0.02, min_dim_size_to_factor=2, beta1=0.9)),
        ("bfloat16", lambda: Muon(0.02, muon_layers=["d1"])),
    ],
)
def test_mixed_precision_and_half_precision(policy, make):
    losses = []
    for each in (policy, "float32"):
        try:
            keras.config.set_dtype_policy(each)
            model, x, y = small_problem()
        finally:
            keras.config.set_dtype_policy("float32")
        optimizer = make()
        before = model.get_weights()
        losses.append(train(model, optimizer, x[:4], y[:4])[0])
        assert not np.array_equal(np.float32(model.get_weights()[0]), np.float32(before[0]))
        scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        assert scaled == (each == "mixed_float16")
    assert np.isfinite(losses).all()
    np.testing.assert_allclose(losses[0][:3], losses[1][:3], rtol=0.1)


MIRRORED = """
import numpy as np, tensorflow as tf, keras, sys
sys.path[:0] = {folders!r}
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from test_optimizers import AdamGA, build, everything
from bert4keras.optimizers import AdaFactor, Muon, warmup_cosine

def results(strategy, make, problem, policy):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 10, (32, 4)) if problem == "embedding" else rng.normal(size=(32, 4))
    y = rng.normal(size=(32, 3))
    with strategy.scope():
        keras.config.set_dtype_policy(policy)
        model = build(problem)
        model.set_weights([rng.normal(size=w.shape) for w in model.weights])
        optimizer = make()
        model.compile(optimizer=optimizer, loss="mse")
    model.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    raw = model.get_weights()
    if not hasattr(optimizer, "ema_weights"):
        return raw
    with optimizer.ema_weights():
        averages = model.get_weights()
    assert all(map(np.array_equal, model.get_weights(), raw))
    assert not np.array_equal(raw[0], averages[0])
    return [*raw, *averages]

cases = [
    ("all extensions", everything, "dense", "float32", 1e-5),
    ("AdaFactor", lambda: AdaFactor(None, min_dim_size_to_factor=2), "dense", "float32", 1e-5),
    ("Muon", lambda: Muon(0.02, muon_layers=["d1"]), "dense", "float32", 1e-5),
    ("sparse", lambda: AdamGA(warmup_cosine(2, 4, 0.1)), "embedding", "float32", 1e-5),
]
# One for all: a second one would use the keys of the first for its reductions.
mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
for name, make, problem, policy, tolerance in cases:
    one = results(tf.distribute.get_strategy(), make, problem, policy)
    two = results(mirrored, make, problem, policy)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance, err_msg=name)
print("equal")
"""


@pytest.mark.long
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow only")
def test_mirrored_strategy_takes_the_same_steps():
    # In a process of its own: logical devices must be made before TensorFlow starts.
    from pathlib import Path

    folder = Path(__file__).parent
    script = MIRRORED.format(folders=[str(folder), str(folder.parent / "support")])
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("equal\n")
