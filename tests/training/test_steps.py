"""Training steps with gradients inside, against the same objectives written in NumPy.

The reference is a small model in float64 that is differentiated by complex steps (Squire and Trapp,
1998), which are exact to rounding; no automatic differentiation takes part in it.
"""

import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

from bert4keras import layers, optimizers
from bert4keras.models import Model, build_transformer_model
from bert4keras.training import (
    AdversarialTraining,
    EvaluateAverage,
    GradientPenalty,
    RDrop,
    Step,
    VirtualAdversarialTraining,
    gradients_of,
    integrated_gradients,
    steps,
)

pytestmark = pytest.mark.backend

VOCABULARY, SIZE, HIDDEN, CLASSES = 7, 3, 4, 3
IDS = np.array([[1, 2, 3, 4, 0], [5, 6, 1, 0, 0], [0, 2, 2, 6, 5], [3, 0, 0, 0, 0]], "int32")
LABELS = np.array([0, 1, 2, 1], "int32")
SAMPLE_WEIGHTS = np.array([1.0, 0.5, 2.0, 0.0], "float32")
PATTERNS = np.array([[1.0, 1.5, 0.5, 1.0], [0.5, 1.0, 2.0, 0.0], [2.0, 0.5, 0.0, 1.0]], "float32")


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """Here JAX compiles much and computes little: less time without XLA's optimisations."""
    jax = sys.modules.get("jax")
    if jax is None or keras.backend.backend() != "jax":
        yield
        return
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@keras.saving.register_keras_serializable("test_steps")
class PatternDropout(keras.layers.Dropout):
    """Dropout whose masks are known: its generator counts how often it was asked."""

    def call(self, inputs, training=False):
        if not training:
            return inputs
        count = ops.cast(self.seed_generator.next()[1], "int32")
        pattern = ops.take(ops.convert_to_tensor(PATTERNS), count % len(PATTERNS), axis=0)
        return inputs * ops.cast(pattern, inputs.dtype)


def small_model(dropout=PatternDropout, seed=0):
    """Embedding, masked mean, two layers; the reference below is the same."""
    token_ids = keras.Input((None,), dtype="int32")
    x = layers.Embedding(VOCABULARY, SIZE, mask_zero=True, name="Embedding-Token")(token_ids)
    x = layers.GlobalAveragePooling1D(name="Pooling")(x)
    x = keras.layers.Dense(HIDDEN, activation="tanh", name="Hidden")(x)
    x = dropout(0.5, name="Dropout")(x)
    model = Model(token_ids, keras.layers.Dense(CLASSES, activation="softmax", name="Head")(x))
    random = np.random.default_rng(seed)
    model.set_weights([random.normal(size=w.shape) for w in model.get_weights()])
    return model


def trained(model):
    """The trained weights, float64."""
    return [np.asarray(ops.convert_to_numpy(w), "float64") for w in model.trainable_variables]


def count_of(model):
    """How many masks the model has asked for."""
    return int(ops.convert_to_numpy(model.get_layer("Dropout").seed_generator.state)[1])


# ---------------------------------------------------------------------------------- the reference


def embed(table, ids=IDS):
    return table[ids]


def predict(weights, vectors, count=None, ids=IDS):
    """Probabilities, from vectors (batch, length, size); `count` chooses the mask of dropout."""
    _, kernel, bias, head, head_bias = weights
    visible = ids > 0
    visible[:, 0] = True
    pooled = (vectors * visible[..., None]).sum(1) / visible.sum(1, keepdims=True)
    hidden = np.tanh(pooled @ kernel + bias)
    if count is not None:
        hidden = hidden * PATTERNS[count % len(PATTERNS)]
    scores = hidden @ head + head_bias
    scores = np.exp(scores - scores.real.max(-1, keepdims=True))
    return scores / scores.sum(-1, keepdims=True)


def crossentropy(probabilities, weights=SAMPLE_WEIGHTS):
    return (-np.log(probabilities[np.arange(len(LABELS)), LABELS]) * weights).mean()


def kl(p, q):
    return (p * (np.log(p) - np.log(q))).sum(-1).mean()


def loss(weights, vectors=None, count=0):
    vectors = embed(weights[0]) if vectors is None else vectors
    return crossentropy(predict(weights, vectors, count))


def with_table(weights, table):
    return [table, *weights[1:]]


def gradient(function, x, step=1e-30):
    """The gradient of a function of an array, by complex steps."""
    result = np.zeros(x.shape)
    for index in np.ndindex(*x.shape):
        moved = x.astype("complex128")
        moved[index] += 1j * step
        result[index] = function(moved).imag / step
    return result


def unit(x):
    return x / (np.linalg.norm(x) + 1e-8)


def adversarial(step):
    """The objective of AdversarialTraining, with δ as it is for the first weights."""

    def build(start, noise):
        size = step.step_size or step.epsilon * (2.5 / step.steps if step.steps > 1 else 1)
        delta = np.zeros_like(start[0])
        for _ in range(step.steps):
            slope = gradient(lambda t: loss(with_table(start, t)), start[0] + delta)
            delta = delta + size * unit(slope)
            delta = delta * min(1, step.epsilon / np.linalg.norm(delta))
        clean = loss if step.add_clean_loss else lambda weights: 0
        return lambda w: loss(with_table(w, w[0] + delta)) + clean(w)

    return build


def penalty(step):
    """The objective of GradientPenalty; the inner gradient is analytic, by complex steps."""

    def build(start, noise):
        def objective(weights):
            vectors = embed(weights[0])
            slope = gradient(lambda v: loss(weights, v), vectors)
            return loss(weights) + 0.5 * step.epsilon * (slope**2).sum()

        return objective

    return build


def virtual(step):
    def build(start, noise):
        targets = predict(start, embed(start[0]), 0)

        def change(table):
            return kl(targets, predict(start, embed(table), 0))

        direction = unit(noise)
        for _ in range(step.iterations):
            direction = unit(gradient(change, start[0] + step.xi * direction))
        delta = step.epsilon * direction
        return lambda w: loss(w) + kl(targets, predict(w, embed(w[0] + delta), 0))

    return build


def rdrop(step):
    def build(start, noise):
        def objective(w):
            p, q = (predict(w, embed(w[0]), count) for count in (0, 1))
            both = kl(p, q) + kl(q, p)
            return (crossentropy(p) + crossentropy(q)) / 2 + step.alpha / 4 * both

        return objective

    return build


CASES = {
    "fgm": (AdversarialTraining(epsilon=0.7), adversarial),
    "fgm_and_clean": (AdversarialTraining(epsilon=0.7, add_clean_loss=True), adversarial),
    "pgd": (AdversarialTraining(epsilon=0.7, steps=3), adversarial),
    "pgd_short": (AdversarialTraining(epsilon=0.7, steps=2, step_size=0.2), adversarial),
    "penalty": (GradientPenalty(epsilon=3.0), penalty),
    "virtual": (VirtualAdversarialTraining(epsilon=0.8, xi=2.0, iterations=2), virtual),
    "rdrop": (RDrop(alpha=3.0), rdrop),
}


@pytest.mark.parametrize("case", CASES)
def test_a_step_goes_down_the_gradient_of_the_objective(case):
    step, reference = CASES[case]
    model = small_model()
    model.compile(keras.optimizers.SGD(1.0), "sparse_categorical_crossentropy", step=step)
    start, noise = trained(model), None
    if step.draws:
        seeds = keras.random.SeedGenerator()
        seeds.state.assign(ops.convert_to_numpy(model.step_seeds.state))
        noise = ops.convert_to_numpy(keras.random.normal((VOCABULARY, SIZE), seed=seeds))
    objective = reference(step)(start, noise)

    value = model.train_on_batch(IDS, LABELS, sample_weight=SAMPLE_WEIGHTS)
    np.testing.assert_allclose(value, objective(start), rtol=1e-5)
    for i, (before, after) in enumerate(zip(start, trained(model), strict=True)):
        # A penalty has an inner gradient by complex steps, and an outer one by differences.
        slope = differences(objective, start, i)
        np.testing.assert_allclose(before - after, slope, rtol=1e-3, atol=2e-5)
        assert np.abs(slope).max() > 1e-3
    # All passes of a step begin with the same masks; only R-Drop is there to see two of them.
    assert count_of(model) == (2 if case == "rdrop" else 1)
    assert "call" not in vars(model.get_layer("Embedding-Token"))


def differences(objective, weights, i, step=1e-5):
    """Central differences of a function of weights with respect to the i-th, in float64."""
    result = np.zeros(weights[i].shape)
    for index in np.ndindex(*weights[i].shape):
        values = []
        for sign in (1, -1):
            moved = [w.copy() for w in weights]
            moved[i][index] += sign * step
            values.append(objective(moved))
        result[index] = (values[0] - values[1]) / (2 * step)
    return result


def test_the_reference_is_the_model():
    model = small_model()
    weights = trained(model)
    expected = predict(weights, embed(weights[0]))
    np.testing.assert_allclose(model.predict_on_batch(IDS), expected, rtol=1e-5)


# ------------------------------------------------------------------------------- within a training


def transformer(n_layers=1, dropout_rate=0.0):
    """A classifier on a small BERT."""
    bert = build_transformer_model(
        model="bert",
        return_keras_model=False,
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=n_layers,
        num_attention_heads=2,
        intermediate_size=12,
        hidden_act="gelu",
        max_position=8,
        dropout_rate=dropout_rate,
    )
    x = layers.Dense(CLASSES, activation="softmax", name="Head", dtype="float32")(
        bert.model.output[:, 0]
    )
    return Model(bert.model.inputs, x)


def sentences(n=8, length=6, seed=0):
    random = np.random.default_rng(seed)
    ids = random.integers(1, 20, (n, length)).astype("int32")
    ids[1::2, -2:] = 0
    return [ids, np.zeros_like(ids)], (ids[:, 1] % CLASSES).astype("int32")


def test_second_order_through_attention():
    """Along its gradient the objective changes as the gradient says, on every backend's kernels."""
    keras.utils.set_random_seed(3)
    model, (x, y) = transformer(n_layers=2), sentences()
    random = np.random.default_rng(1)
    weights = [w + 0.1 * random.normal(size=w.shape) for w in model.get_weights()]
    rate = 1e-4
    model.compile(
        keras.optimizers.SGD(rate),
        "sparse_categorical_crossentropy",
        step=GradientPenalty(epsilon=1.0),
    )
    model.set_weights(weights)
    value = model.train_on_batch(x, y)
    slopes = [(a - b) / rate for a, b in zip(weights, model.get_weights(), strict=True)]
    plain = model.test_on_batch(x, y)
    assert value > plain + 0.1  # the penalty is no small part of it
    square = sum((slope**2).sum() for slope in slopes)
    length = 2e-3 / np.sqrt(square)
    values = []
    for sign in (1, -1):
        model.set_weights([w + sign * length * s for w, s in zip(weights, slopes, strict=True)])
        values.append(model.train_on_batch(x, y))
    np.testing.assert_allclose((values[0] - values[1]) / (2 * length), square, rtol=0.02)


ALL = {
    "adversarial": AdversarialTraining(epsilon=0.5, steps=2),
    "penalty": GradientPenalty(),
    "virtual": VirtualAdversarialTraining(epsilon=0.5),
    "rdrop": RDrop(),
}


def test_a_transformer_learns_and_is_traced_once(monkeypatch):
    keras.utils.set_random_seed(1)
    model, (x, y) = transformer(n_layers=2, dropout_rate=0.1), sentences(12)
    step = AdversarialTraining(epsilon=0.02)
    traces, objective = [], type(step).objective

    def counted(self, batch, weights):
        traces.append(1)
        return objective(self, batch, weights)

    monkeypatch.setattr(type(step), "objective", counted)
    model.compile(
        keras.optimizers.Adam(0.01),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        step=step,
    )
    history = model.fit(x, y, batch_size=6, epochs=30, verbose=0).history
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert history["accuracy"][-1] > 0.9
    # TensorFlow traces what it compiles once more for the loop that it stands in.
    assert len(traces) == {"tensorflow": 2, "jax": 1, "torch": 60}[keras.backend.backend()]


def losses(model, n=4):
    """What a model reports for a batch, n times."""
    values = []
    for _ in range(n):
        model.reset_metrics()
        values.append(model.train_on_batch(IDS, LABELS))
    return np.array(values)


def test_dropout_is_the_same_in_all_passes_and_new_in_each_step():
    # Metrics see the pass without δ. One so small changes nothing, unless other units drop out.
    model = small_model(layers.Dropout)
    model.compile(
        keras.optimizers.SGD(0.0),
        "sparse_categorical_crossentropy",
        metrics=["sparse_categorical_crossentropy"],
        step=AdversarialTraining(epsilon=1e-6, steps=2),
    )
    with_delta, without = losses(model).T
    np.testing.assert_allclose(with_delta, without, rtol=1e-4)
    assert np.ptp(without) > 1e-2


def test_rdrop_drops_out_differently():
    model = small_model(layers.Dropout)
    model.compile(
        keras.optimizers.SGD(0.0),
        "sparse_categorical_crossentropy",
        metrics=["sparse_categorical_crossentropy"],
        step=RDrop(alpha=1e-6),
    )
    both, first = losses(model).T
    assert np.abs(2 * both - first - first).max() > 1e-2
    assert np.ptp(first) > 1e-2


@keras.saving.register_keras_serializable("test_steps")
class AddedLoss(layers.Loss):
    """Cross-entropy inside the model."""

    def compute_loss(self, inputs, mask=None):
        return ops.mean(keras.losses.sparse_categorical_crossentropy(*inputs))


def test_a_loss_within_the_model_counts():
    model, inner, labels = small_model(), small_model(), keras.Input((), dtype="int32")
    added = Model([inner.input, labels], AddedLoss(1)([labels, inner.output]))
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", step=ALL["penalty"])
    added.compile(keras.optimizers.SGD(0.1), step=ALL["penalty"])
    values = model.train_on_batch(IDS, LABELS), added.train_on_batch([IDS, LABELS])
    np.testing.assert_allclose(*values, rtol=1e-5)
    for one, other in zip(trained(added), trained(model), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_several_outputs_class_weights_validation_and_accumulation():
    model = small_model()
    x = model.get_layer("Hidden").output
    second = keras.layers.Dense(1, name="Second")(x)
    model = Model(model.input, [model.output, second])
    SGD = optimizers.extend_with_gradient_accumulation(keras.optimizers.SGD)
    model.compile(
        SGD(0.1, grad_accum_steps=2),
        ["sparse_categorical_crossentropy", "mse"],
        metrics=[["accuracy"], ["mae"]],
        step=ALL["adversarial"],
    )
    y = [LABELS, np.ones((4, 1), "float32")]
    start = trained(model)
    history = model.fit(IDS, y, batch_size=4, verbose=0, validation_data=(IDS, y)).history
    assert {"loss", "Head_loss", "Second_loss", "Head_accuracy", "Second_mae"} < history.keys()
    assert history.keys() > {"val_loss", "val_Second_mae"}
    # What each output contributes is tracked in the pass without δ, where less is lost.
    assert history["Head_loss"][0] + history["Second_loss"][0] < history["loss"][0]
    np.testing.assert_array_equal(trained(model)[0], start[0])
    model.fit(IDS, y, batch_size=4, verbose=0)
    assert np.abs(trained(model)[0] - start[0]).max() > 1e-4


def test_class_weights_and_eager_steps():
    of_samples = {"sample_weight": np.array([2.0, 0.5, 1.0, 0.5])}
    of_classes = {"class_weight": {0: 2.0, 1: 0.5, 2: 1.0}}
    results = []
    for weights, eagerly in ((of_samples, False), (of_classes, False), (of_samples, True)):
        model = small_model()
        model.compile(
            keras.optimizers.SGD(0.1),
            "sparse_categorical_crossentropy",
            step=GradientPenalty(),
            run_eagerly=eagerly,
        )
        model.train_on_batch(IDS, LABELS, **weights)
        results.append(trained(model))
    for one, *others in zip(*results, strict=True):
        for other in others:
            np.testing.assert_allclose(other, one, atol=1e-6)


def test_samples_without_labels_count_for_the_divergence_only():
    model = small_model()
    step = VirtualAdversarialTraining(epsilon=2.0)
    model.compile(keras.optimizers.SGD(1.0), "sparse_categorical_crossentropy", step=step)
    start = trained(model)
    value = model.train_on_batch(IDS, np.zeros(4, "int32"), sample_weight=np.zeros(4, "float32"))
    assert value > 1e-3
    assert np.abs(trained(model)[0] - start[0]).max() > 1e-4


def test_without_the_loss_labels_may_be_anything_and_a_step_may_come_after_compile():
    results = []
    for add_loss, weights in ((True, np.zeros(4, "float32")), (False, None)):
        keras.utils.set_random_seed(1)
        model = small_model()
        model.compile(keras.optimizers.SGD(1.0), "sparse_categorical_crossentropy")
        model.train_with(VirtualAdversarialTraining(epsilon=2.0, add_loss=add_loss))
        loss = model.train_on_batch(IDS, LABELS, sample_weight=weights)
        results.append([np.asarray(loss), *trained(model)])
    for with_loss, without in zip(*results, strict=True):
        np.testing.assert_allclose(without, with_loss, atol=1e-6)
    model.train_with(None)
    assert model.train_on_batch(IDS, LABELS) > results[1][0] and model.step is None
    with pytest.raises(TypeError, match="pass an object such as"):
        model.train_with("adversarial")
    with pytest.raises(ValueError, match="has no layer 'Nothing'"):
        model.train_with(AdversarialTraining("Nothing"))


def test_float16_trains_with_its_losses_scaled():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        half = small_model()
    finally:
        keras.config.set_dtype_policy("float32")
    # So small are the gradients that float16 without a scale has nothing left of them.
    small, changes, values = 2.0**-17, [], []
    for model, optimizer in (
        (half, keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1 / small), 1 / small)),
        (small_model(), keras.optimizers.SGD(1 / small)),
    ):
        step = GradientPenalty(epsilon=3.0 / small)
        model.compile(optimizer, "sparse_categorical_crossentropy", step=step)
        before = trained(model)
        weights = SAMPLE_WEIGHTS * np.float32(small)
        values.append(model.train_on_batch(IDS, LABELS, sample_weight=weights))
        changes.append(
            np.concatenate([np.ravel(b - a) for a, b in zip(before, trained(model), strict=True)])
        )
    np.testing.assert_allclose(*values, rtol=0.02)
    assert np.linalg.norm(changes[0] - changes[1]) < 0.05 * np.linalg.norm(changes[1])


def test_without_a_step_keras_trains(monkeypatch):
    def fail(*_):
        raise AssertionError

    monkeypatch.setattr(steps, "loss_and_updates", fail)
    model, plain = small_model(), small_model()
    plain = keras.Model(plain.input, plain.output)
    for each in (model, plain):
        each.compile(keras.optimizers.SGD(1.0), "sparse_categorical_crossentropy")
        each.train_on_batch(IDS, LABELS)
    for one, other in zip(trained(model), trained(plain), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_saving(name, tmp_path):
    model = small_model()
    model.compile("adam", "sparse_categorical_crossentropy", step=ALL[name])
    model.train_on_batch(IDS, LABELS)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.step == ALL[name]
    # Keras saves no states of generators.
    loaded.get_layer("Dropout").seed_generator.state.assign([0, count_of(model)])
    if loaded.step_seeds is not None:
        loaded.step_seeds.state.assign(ops.convert_to_numpy(model.step_seeds.state))
    np.testing.assert_allclose(losses(loaded, 2), losses(model, 2), rtol=1e-5)
    bare = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    assert bare.step is None


def test_saving_a_function(tmp_path):
    model = small_model()
    model.compile("sgd", "sparse_categorical_crossentropy", step=RDrop(divergence=squared))
    value = losses(model, 1)[0]
    model.compile("sgd", "sparse_categorical_crossentropy", step=RDrop())
    assert abs(losses(model, 1)[0] - value) > 1e-3
    model.compile("sgd", "sparse_categorical_crossentropy", step=RDrop(divergence=squared))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.step == RDrop(divergence=squared)


@keras.saving.register_keras_serializable("test_steps")
def squared(target, prediction):
    """A difference of one's own."""
    return ops.sum(ops.square(target - prediction), axis=-1)


def test_a_step_without_known_arguments_is_not_saved():
    class Mine(Step):
        pass

    with pytest.raises(NotImplementedError, match=r"Mine cannot be saved .*\(frozen=True\)"):
        Mine().get_config()


def test_logits():
    probabilities, logits = small_model(), small_model()
    logits.get_layer("Head").activation = keras.activations.linear
    values = []
    for model, given in ((probabilities, "probabilities"), (logits, "logits")):
        model.compile(
            keras.optimizers.SGD(0.1),
            keras.losses.SparseCategoricalCrossentropy(from_logits=given == "logits"),
            step=RDrop(divergence=given),
        )
        values.append(model.train_on_batch(IDS, LABELS))
    np.testing.assert_allclose(*values, rtol=1e-4)
    for one, other in zip(trained(probabilities), trained(logits), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_the_jit_compiler_of_tensorflow():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("JAX compiles all that is tested here, PyTorch nothing")
    values = []
    for jit_compile in (False, True):
        model = small_model()
        model.compile(
            "sgd",
            "sparse_categorical_crossentropy",
            step=GradientPenalty(),
            jit_compile=jit_compile,
        )
        values.append(losses(model, 2))
    np.testing.assert_allclose(*values, rtol=1e-5)


def test_lengths_may_change():
    model = small_model()
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", step=ALL["penalty"])
    batches = [([IDS[:, :length]], LABELS) for length in (5, 3, 4, 2)]
    history = model.fit(iter(batches), steps_per_epoch=4, verbose=0).history
    assert np.isfinite(history["loss"]).all()


# -------------------------------------------------------------------------------------- what fails


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AdversarialTraining(epsilon=float("nan")), "positive finite number as epsilon"),
        (lambda: AdversarialTraining(epsilon=float("inf")), "positive finite number as epsilon"),
        (lambda: AdversarialTraining(epsilon="1"), "positive finite number as epsilon"),
        (lambda: AdversarialTraining(step_size=0.0), "positive finite number as step_size"),
        (lambda: AdversarialTraining(steps=0), "integer from 1 as steps"),
        (lambda: GradientPenalty(epsilon=-1), "positive finite number as epsilon"),
        (lambda: VirtualAdversarialTraining(xi=0), "positive finite number as xi"),
        (lambda: VirtualAdversarialTraining(iterations=1.5), "integer from 1 as iterations"),
        (lambda: VirtualAdversarialTraining(divergence="kl"), "'probabilities', 'logits'"),
        (lambda: RDrop(alpha=0), "positive finite number as alpha"),
        (lambda: RDrop(divergence="js"), "'probabilities', 'logits'"),
    ],
)
def test_arguments_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_steps_that_do_not_fit():
    model = small_model()

    def compiling(step):
        model.compile("sgd", "sparse_categorical_crossentropy", step=step)

    with pytest.raises(ValueError, match=r"no layer 'Embedding'.*\['Embedding-Token'\].*'Pooling'"):
        compiling(AdversarialTraining("Embedding"))
    with pytest.raises(
        ValueError, match=r"'Hidden' \(Dense\) has no embedding table.*'Embedding-Token'"
    ):
        compiling(VirtualAdversarialTraining("Hidden"))
    with pytest.raises(ValueError, match="no layer 'embedding'"):
        compiling(GradientPenalty("embedding"))
    with pytest.raises(TypeError, match="got step='fgm'"):
        compiling("fgm")
    still = Model(model.input, model.get_layer("Hidden").output)
    with pytest.raises(ValueError, match="has no dropout"):
        still.compile("sgd", "mse", step=RDrop())
    still.trainable = False
    still.compile("sgd", "mse", step=GradientPenalty())
    if keras.backend.backend() != "jax":  # which leaves it to Keras, as without a step
        with pytest.raises(ValueError, match="no trainable weights"):
            still.train_on_batch(IDS, np.zeros((4, HIDDEN)))


def test_recomputed_layers_are_not_differentiated_twice():
    model = transformer()
    model.get_layer("Transformer-0-FeedForward").recompute = True
    if keras.backend.backend() == "jax":
        model.compile("sgd", "sparse_categorical_crossentropy", step=GradientPenalty())
        return
    with pytest.raises(ValueError, match="differentiates twice"):
        model.compile("sgd", "sparse_categorical_crossentropy", step=GradientPenalty())


def test_adversarial_training_of_recomputed_layers():
    changes = []
    for recompute in (False, True):
        keras.utils.set_random_seed(5)
        model, (x, y) = transformer(), sentences()
        random = np.random.default_rng(2)
        model.set_weights([w + 0.1 * random.normal(size=w.shape) for w in model.get_weights()])
        for layer in model.layers:
            if hasattr(layer, "recompute"):
                layer.recompute = recompute
        model.compile(
            keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", step=AdversarialTraining()
        )
        before = trained(model)
        model.train_on_batch(x, y)
        changes.append([b - a for a, b in zip(before, trained(model), strict=True)])
    for plain, recomputed in zip(*changes, strict=True):
        np.testing.assert_allclose(plain, recomputed, rtol=1e-3, atol=1e-5)
    # All but the bias of keys move, which does not matter to a softmax.
    assert sum(np.abs(change).max() < 1e-7 for change in changes[0]) == 1


# -------------------------------------------------------------------------------------- attribution


def test_gradients_at_a_layer():
    model = small_model()
    weights = trained(model)
    vectors = embed(weights[0])
    chosen = np.array([2, 0, 1, 1])
    rows = np.arange(4)
    expected = gradient(lambda v: predict(weights, v)[rows, chosen].sum(), vectors)
    values, gradients = gradients_of(model)(IDS.tolist(), chosen)
    np.testing.assert_allclose(values, predict(weights, vectors)[rows, chosen], rtol=1e-5)
    np.testing.assert_allclose(gradients, expected, rtol=1e-3, atol=1e-6)
    assert np.abs(expected).max() > 1e-2

    second = gradient(lambda v: predict(weights, v)[:, 1].sum(), vectors)
    np.testing.assert_allclose(gradients_of(model, 1)(IDS)[1], second, rtol=1e-3, atol=1e-6)
    squares = gradients_of(model, lambda y: ops.sum(y**2, axis=-1))
    expected = gradient(lambda v: (predict(weights, v) ** 2).sum(), vectors)
    np.testing.assert_allclose(squares(IDS)[1], expected, rtol=1e-3, atol=1e-6)


def test_gradients_at_a_layer_follow_the_weights():
    model = small_model()
    gradients = gradients_of(model, 0)
    before = gradients(IDS)[1]
    model.set_weights([2 * w for w in model.get_weights()])
    assert np.abs(gradients(IDS)[1] - before).max() > 1e-3


def test_integrated_gradients():
    model = small_model()
    weights = trained(model)
    vectors, chosen = embed(weights[0]), np.array([2, 0, 1, 1])
    values, scores = integrated_gradients(model, steps=50)(IDS, chosen)
    rows = np.arange(4)
    now, nothing = (predict(weights, v)[rows, chosen] for v in (vectors, 0 * vectors))
    np.testing.assert_allclose(values, now, rtol=1e-5)
    np.testing.assert_allclose(scores.sum((1, 2)), now - nothing, atol=2e-4)
    means = np.mean(
        [
            gradient(lambda v: predict(weights, v)[rows, chosen].sum(), (i + 0.5) / 50 * vectors)
            for i in range(50)
        ],
        axis=0,
    )
    np.testing.assert_allclose(scores, vectors * means, rtol=1e-3, atol=1e-6)

    baseline = np.array([0.3, -0.2, 0.1])
    _, scores = integrated_gradients(model, 1, steps=50, baseline=baseline)(IDS)
    start = predict(weights, np.broadcast_to(baseline, vectors.shape))[:, 1]
    end = predict(weights, vectors)[:, 1]
    np.testing.assert_allclose(scores.sum((1, 2)), end - start, atol=2e-4)


def test_attribution_that_does_not_fit():
    model = small_model()
    with pytest.raises(ValueError, match="no layer 'Embedding'"):
        gradients_of(model, 0, at="Embedding")
    with pytest.raises(ValueError, match="index of the output is given once"):
        gradients_of(model)(IDS)
    with pytest.raises(ValueError, match="index of the output is given once"):
        gradients_of(model, 1)(IDS, LABELS)
    with pytest.raises(ValueError, match="give one for each of the 4 samples"):
        gradients_of(model)(IDS, [1])
    with pytest.raises(ValueError, match="number of points"):
        integrated_gradients(model, 0, steps=0)
    with pytest.raises(ValueError, match="one value for each sample"):
        gradients_of(model, lambda y: y)(IDS)
    two = Model(model.input, [model.output, model.get_layer("Hidden").output])
    with pytest.raises(ValueError, match="pass output="):
        gradients_of(two, 0)(IDS)
    embedding = model.get_layer("Embedding-Token")
    twice = Model(model.input, model.output + ops.mean(embedding(model.input)))
    with pytest.raises(ValueError, match="called 2 times"):
        gradients_of(twice, 0)(IDS)
    assert "call" not in vars(embedding)


# ---------------------------------------------------------------------------------- moving average


def test_averages_are_evaluated_and_saved_and_weights_trained(tmp_path):
    SGD = optimizers.extend_with_exponential_moving_average(keras.optimizers.SGD)
    model, plain = small_model(), small_model()
    saved = []

    class Save(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            saved.append(self.model.get_weights())

    options = {"batch_size": 2, "epochs": 3, "verbose": 0, "shuffle": False}
    validation = {"validation_data": (IDS, LABELS)}
    for each, callbacks in ((model, [EvaluateAverage(), Save()]), (plain, [])):
        each.compile(SGD(0.5, ema_momentum=0.8), "sparse_categorical_crossentropy")
        history = each.fit(IDS, LABELS, callbacks=callbacks, **options, **validation).history
        if each is model:
            averaged = history["val_loss"]
    assert np.abs(np.subtract(averaged, history["val_loss"])).min() > 1e-4
    # Training has gone on with the weights, which are in the model again.
    for one, other in zip(trained(model), trained(plain), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    # What was saved is what was validated, and that is what the optimizer calls the averages.
    with plain.optimizer.ema_weights():
        expected = trained(plain)
    for one, other in zip(saved[-1], expected, strict=False):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    before = trained(model)
    value = model.evaluate(IDS, LABELS, verbose=0, callbacks=[EvaluateAverage()])
    np.testing.assert_allclose(value, averaged[-1], rtol=1e-5)
    np.testing.assert_array_equal(trained(model)[0], before[0])
    model.set_weights(saved[-1])
    np.testing.assert_allclose(model.evaluate(IDS, LABELS, verbose=0), averaged[-1], rtol=1e-5)


def test_averages_need_an_optimizer_that_keeps_them():
    model = small_model()
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(TypeError, match="extend_with_exponential_moving_average"):
        model.fit(IDS, LABELS, verbose=0, callbacks=[EvaluateAverage()])


# ---------------------------------------------------------------------------------------- replicas


REPLICAS = """
import numpy as np, tensorflow as tf, keras
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import test_steps as t
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
# The second part is smaller than the first.
ids, labels = t.IDS[:3], t.LABELS[:3]
for name in ("adversarial", "penalty", "virtual", "rdrop"):
    results = []
    scopes = tf.distribute.get_strategy().scope(), strategy.scope()
    for scope in scopes:
        with scope:
            model = t.small_model()
            model.compile(
                keras.optimizers.SGD(0.5),
                "sparse_categorical_crossentropy",
                step=t.ALL[name],
                run_eagerly=scope is not scopes[1],
            )
            if model.step_seeds is not None:
                model.step_seeds.state.assign([1, 2])
            history = model.fit(ids, labels, batch_size=3, epochs=2, verbose=0, shuffle=False)
            results.append([np.array(history.history["loss"]), *t.trained(model)])
    for one, two in zip(*results):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5, err_msg=name)
"""


@pytest.mark.long
def test_two_replicas_compute_what_one_does():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("about tf.distribute")
    done = subprocess.run(
        [sys.executable, "-c", REPLICAS],
        capture_output=True,
        text=True,
        check=False,
        cwd=__file__.rsplit("/", 1)[0],
    )
    assert done.returncode == 0, done.stderr[-3000:]
