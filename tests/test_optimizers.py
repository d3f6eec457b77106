"""Optimizers against trajectories of the original and against their rule in NumPy."""

import json
import re
import subprocess
import sys

import golden
import keras
import numpy as np
import pytest

from bert4keras import optimizers
from bert4keras.optimizers import (
    Adam,
    extend_with_exponential_moving_average,
    extend_with_piecewise_linear_lr,
    extend_with_weight_decay,
)

pytestmark = pytest.mark.backend

AdamW = extend_with_weight_decay(Adam, name="AdamW")
AdamWLR = extend_with_piecewise_linear_lr(AdamW, name="AdamWLR")
AdamEMA = extend_with_exponential_moving_average(Adam, name="AdamEMA")

GOLDEN = """
adam adam_embedding adam_no_bias_correction adam_hyper
weight_decay weight_decay_default weight_decay_exclude weight_decay_regex weight_decay_embedding
piecewise_linear_lr piecewise_linear_lr_default piecewise_linear_lr_from_zero_key
piecewise_linear_lr_string_keys
exponential_moving_average exponential_moving_average_default exponential_moving_average_embedding
stack_adamw_lr stack_lr_then_decay stack_ema_adamw
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


def train(model, optimizer, x, y):
    """Take one step per batch and return losses, and weights after each step."""
    model.compile(optimizer=optimizer, loss="mse")
    losses, weights = [], []
    for batch, target in zip(x, y, strict=True):
        losses.append(float(model.train_on_batch(batch, target)))
        weights.append(model.get_weights())
    return losses, weights


def run(model, optimizer, gradients):
    """Apply given gradients, a list for each step, and return the weights at the end."""
    optimizer.build(model.trainable_variables)
    for step in gradients:
        tensors = [None if g is None else keras.ops.convert_to_tensor(g) for g in step]
        optimizer.apply(tensors, model.trainable_variables)
    return model.get_weights()


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
def test_golden(shared, name):
    folder = shared / "golden" / "units" / "optimizers"
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

    losses, weights = train(model, optimizer, problem["X"], problem["Y"])
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
        np.testing.assert_allclose(weight, wanted, atol=2e-6)


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


def test_rate_counts_real_steps_under_gradient_accumulation():
    optimizer_class = extend_with_exponential_moving_average(AdamWLR)
    arguments = {"lr_schedule": {0: 1, 2: 0}, "ema_momentum": 0.5, "weight_decay_rate": 0.1}
    results = []
    for accumulated in (None, 2):
        model, x, y = small_problem()
        optimizer = optimizer_class(0.1, gradient_accumulation_steps=accumulated, **arguments)
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
    with pytest.raises(RuntimeError, match="nothing to bring back"):
        optimizer.reset_old_weights()
    train(model, optimizer, x, y)
    optimizer.apply_ema_weights()
    with pytest.raises(RuntimeError, match="already"):
        optimizer.apply_ema_weights()
    optimizer.reset_old_weights()


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
    for name in ("weight_decay", "piecewise_linear_lr", "exponential_moving_average"):
        assert getattr(optimizers, f"extend_with_{name}_v2") is getattr(
            optimizers, f"extend_with_{name}"
        )


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Adam(weight_decay_rate=0.1), TypeError, r"Adam got .* weight_decay_rate.*lr, "),
        (lambda: AdamW(lr_schedule={0: 1}), TypeError, r"AdamW got .*lr_schedule.*extension"),
        (lambda: AdamWLR(decay=0.1), TypeError, r"AdamWLR got the unknown argument\(s\) decay"),
        (lambda: AdamW(exclude_from_weight_decay="bias"), TypeError, r"Write \['bias'\]"),
        (lambda: AdamW(exclude_from_weight_decay=["("]), ValueError, "regular expression"),
        (lambda: AdamEMA(ema_momentum=1.0), ValueError, r"\[0, 1\)"),
        (lambda: AdamWLR(lr_schedule={}), ValueError, "at least one step"),
        (lambda: AdamWLR(lr_schedule={"a": 1}), ValueError, "lr_schedule"),
        (lambda: AdamWLR(lr_schedule={-1: 1}), ValueError, "lr_schedule"),
    ],
)
def test_wrong_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


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


def test_training_resumes_bit_equal_from_a_saved_model(tmp_path):
    model, x, y = small_problem()
    train(model, full_optimizer(), x[:4], y[:4])
    model.save(tmp_path / "model.keras")
    reloaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(reloaded.optimizer) is type(model.optimizer)
    averages = []
    for each in (model, reloaded):
        for batch, target in zip(x[4:], y[4:], strict=True):
            each.train_on_batch(batch, target)
        with each.optimizer.ema_weights():
            averages.append(each.get_weights())
    assert all(map(np.array_equal, reloaded.get_weights(), model.get_weights()))
    assert all(map(np.array_equal, *averages))


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


def test_mixed_precision_and_half_precision():
    for policy in ("mixed_float16", "bfloat16"):
        try:
            keras.config.set_dtype_policy(policy)
            model, x, y = small_problem()
        finally:
            keras.config.set_dtype_policy("float32")
        optimizer = full_optimizer()
        before = model.get_weights()
        losses, _ = train(model, optimizer, x, y)
        assert np.isfinite(losses).all()
        assert not np.array_equal(np.float32(model.get_weights()[0]), np.float32(before[0]))
        optimizer.apply_ema_weights()
        assert np.isfinite(np.float32(model.get_weights()[0])).all()


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="JAX only")
def test_stateless_steps():
    import jax

    model, *_ = small_problem()
    gradients = random_gradients(model)
    optimizer = full_optimizer()
    optimizer.build(model.trainable_variables)
    weights = [w.value for w in model.trainable_variables]
    state = [v.value for v in optimizer.variables]
    step = jax.jit(optimizer.stateless_apply)
    for gradient in gradients:
        weights, state = step(state, gradient, weights)
    expected = run(model, full_optimizer(), gradients)
    for weight, wanted in zip(weights, expected, strict=True):
        np.testing.assert_allclose(weight, wanted, atol=1e-6)


MIRRORED = """
import numpy as np, tensorflow as tf, keras, sys
sys.path.insert(0, {tests!r})
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from test_optimizers import full_optimizer, small_problem
results = []
for strategy in (tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])):
    with strategy.scope():
        model, x, y = small_problem()
        optimizer = full_optimizer()
        model.compile(optimizer=optimizer, loss="mse")
    x, y = x[:, :4].reshape(-1, 4), y[:, :4].reshape(-1, 3)
    model.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    raw = model.get_weights()
    with optimizer.ema_weights():
        results.append([*raw, *model.get_weights()])
    assert all(map(np.array_equal, model.get_weights(), raw))
for one, two in zip(*results, strict=True):
    np.testing.assert_allclose(one, two, atol=1e-5)
assert not np.array_equal(results[0][0], results[0][4])
print("equal")
"""


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow only")
def test_mirrored_strategy_takes_the_same_steps():
    # In a process of its own: logical devices must be made before TensorFlow starts.
    from pathlib import Path

    script = MIRRORED.format(tests=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("equal\n")
