"""Whole models in files: what they were compiled with, and the state of training."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from sweeps import swept

from bert4keras import layers, optimizers
from bert4keras.checkpoints import CheckpointError
from bert4keras.models import ARCHITECTURES, Model, build_transformer_model

pytestmark = pytest.mark.backend

EAGERLY = keras.backend.backend() == "tensorflow"  # a graph takes longer to trace than to run
X = np.array([[3, 4, 5, 0], [6, 3, 0, 0]])
LABELS = np.array([[0, 1, 2, 0], [2, 1, 0, 0]])


def arrays(variables):
    return [keras.ops.convert_to_numpy(v) for v in variables]


def check_same_training(model, other, *batch):
    """Both have the same state, and after the same step they have it again."""
    for _ in range(2):
        for a, b in zip(
            arrays([*model.weights, *model.optimizer.variables]),
            arrays([*other.weights, *other.optimizer.variables]),
            strict=True,
        ):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        for each in (model, other):
            each.train_on_batch(*batch)


# --- methods of layers as losses


@keras.saving.register_keras_serializable("test_saved_models")
class OwnLoss(keras.layers.Layer):
    """A layer of the user's with a loss and a metric."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, x, mask=None):
        return x

    def loss(self, y_true, y_pred):
        return keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)

    def metric(self, y_true, y_pred):
        return keras.metrics.sparse_categorical_accuracy(y_true, y_pred)


def compile_crf(model):
    crf = model.layers[-1]
    return {"loss": crf.sparse_loss, "metrics": [crf.sparse_accuracy]}


def compile_memm(model):
    return {"loss": {model.output_names[0]: model.layers[-1].sparse_loss}}


def compile_own(model):
    own = model.layers[-1]
    wrapped = keras.metrics.MeanMetricWrapper(own.metric, name="own")
    return {"loss": own.loss, "weighted_metrics": [wrapped]}


TAGGERS = {
    "crf": (layers.ConditionalRandomField, compile_crf),
    "memm": (layers.MaximumEntropyMarkovModel, compile_memm),
    "own": (OwnLoss, compile_own),
}


@pytest.mark.parametrize("name", TAGGERS)
def test_methods_of_layers_are_saved_as_losses_and_metrics(tmp_path, name):
    layer, compile_options = TAGGERS[name]
    ids = keras.Input((None,), dtype="int32")
    x = layers.Embedding(7, 4, mask_zero=True)(ids)
    model = Model(ids, layer(name="Labels")(layers.Dense(3)(x)))
    options = compile_options(model)
    model.compile(keras.optimizers.Adam(0.1), run_eagerly=EAGERLY, **options)
    model.train_on_batch(X, LABELS)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    check_same_training(model, loaded, X, LABELS)
    found = loaded.evaluate(X, LABELS, verbose=0, return_dict=True)
    assert found == pytest.approx(model.evaluate(X, LABELS, verbose=0, return_dict=True), rel=1e-4)


def test_a_method_that_is_not_there_any_more_is_named(tmp_path, monkeypatch):
    ids = keras.Input((4,))
    model = Model(ids, OwnLoss(name="Labels")(layers.Dense(3)(ids)))
    model.compile("sgd", model.layers[-1].loss)
    model.save(tmp_path / "model.keras")
    monkeypatch.delattr(OwnLoss, "loss")
    with pytest.raises(ValueError, match="the method 'loss' of its layer 'Labels'"):
        keras.saving.load_model(tmp_path / "model.keras")


# --- whole models in .h5, and what has to be imported

SIZES = {
    "vocab_size": 9,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "hidden_act": "gelu",
    "max_position_embeddings": 8,
}
DISTINCT = list({cls: name for name, cls in reversed(ARCHITECTURES.items())}.values())


def predictions(model):
    return keras.ops.convert_to_numpy(model([X, 0 * X]))


@pytest.mark.parametrize("write", ["model.save", "keras"])
def test_whole_models_in_h5(tmp_path, write):
    """What `keras.saving` writes is what `model.save` wrote before it named the class."""
    for name in swept(DISTINCT, once=True) if write == "model.save" else ["bert"]:
        model = build_transformer_model(model=name, **SIZES)
        if write == "keras":
            keras.saving.save_model(model, tmp_path / "model.h5")
        else:
            model.save(tmp_path / "model.h5")
        loaded = keras.saving.load_model(tmp_path / "model.h5")
        assert isinstance(loaded, Model if write == "model.save" else keras.Model)
        for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
        if write == "keras":
            np.testing.assert_allclose(predictions(loaded), predictions(model), atol=1e-6)


def test_a_compiled_model_in_h5_goes_on(tmp_path):
    ids = keras.Input((None,), dtype="int32")
    words = layers.Embedding(7, 4, mask_zero=True)(ids)
    shifted = keras.ops.concatenate([words[:, :1], keras.ops.multiply(words, 2.0)[:, :-1]], 1)
    places = layers.PositionEmbedding(8, 4, merge_mode="add")(shifted)
    places = layers.CopyMask()([places, words])
    scores = layers.ConditionalRandomField(name="CRF")(layers.Dense(3)(places))
    pooled = layers.Dense(1, name="Pooled")(keras.ops.mean(places, 1))
    model = Model(ids, [scores, pooled])
    losses = [model.get_layer("CRF").sparse_loss, "mse"]
    model.compile(keras.optimizers.Adam(0.1), losses, run_eagerly=EAGERLY)
    batch = X, [LABELS, np.zeros((2, 1))]
    model.train_on_batch(*batch)
    model.save(tmp_path / "model.h5")
    model.save(tmp_path / "model.keras")
    loaded, other = (keras.saving.load_model(tmp_path / f"model.{x}") for x in ("h5", "keras"))
    check_same_training(loaded, other, *batch)
    assert len(loaded.optimizer.variables) == len(model.optimizer.variables)


def test_layers_and_operations_of_one_name_are_told_apart_in_h5(tmp_path):
    x = keras.Input((3,))
    merged = [layer()([x, x]) for layer in (keras.layers.Concatenate, layers.Concatenate)]
    total = keras.layers.Add()([keras.ops.add(*merged), *merged])
    model = Model(x, keras.ops.concatenate([keras.layers.Maximum()([total, total]), x], -1))
    model.save(tmp_path / "model.h5")
    loaded = keras.saving.load_model(tmp_path / "model.h5")
    assert [type(x) for x in loaded.layers] == [type(x) for x in model.layers]
    np.testing.assert_array_equal(loaded(np.ones((2, 3))), model(np.ones((2, 3))))


@pytest.mark.long
def test_a_saved_model_is_found_without_importing_models(tmp_path):
    x = keras.Input((3,))
    Model(x, layers.Dense(2)(x)).save(tmp_path / "model.keras")
    code = f"""
import sys, keras, bert4keras.backend
assert "bert4keras.models" not in sys.modules
print(type(keras.saving.load_model({str(tmp_path / "model.keras")!r})).__module__)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.strip() == "bert4keras.models.model", found.stderr


# --- training that is interrupted


def stacked():
    cls = optimizers.extend_with_weight_decay(optimizers.Adam)
    cls = optimizers.extend_with_exponential_moving_average(cls)
    cls = optimizers.extend_with_gradient_accumulation(cls)
    return cls(optimizers.warmup_cosine(1, 20, 0.1), grad_accum_steps=2)


OPTIMIZERS = {
    "keras": lambda: keras.optimizers.Adam(
        keras.optimizers.schedules.CosineDecay(0.1, 20),
        use_ema=True,
        gradient_accumulation_steps=2,
    ),
    "ours": stacked,
}


class Stop(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


def classifier(optimizer):
    # PyTorch drops out by random numbers of the process.
    rate = 0 if keras.backend.backend() == "torch" else 0.5
    x = keras.Input((3,), name="x")
    hidden = keras.layers.Dropout(rate, seed=1)(layers.Dense(4, name="Hidden")(x))
    model = Model(x, layers.Dense(2, activation="softmax", name="Head")(hidden))
    model.set_weights([np.linspace(-1, 1, w.size).reshape(w.shape) for w in model.get_weights()])
    model.compile(optimizer, "sparse_categorical_crossentropy", run_eagerly=EAGERLY)
    return model


def fit(model, callbacks=(), epochs=3):
    x = np.random.default_rng(0).normal(size=(6, 3))
    y = np.arange(6) % 2
    options = {"batch_size": 2, "shuffle": False, "verbose": 0}
    return model.fit(x, y, epochs=epochs, callbacks=list(callbacks), **options)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_interrupted_training_goes_on_as_if_nothing_had_been(tmp_path, name):
    whole = classifier(OPTIMIZERS[name]())
    fit(whole)
    first = classifier(OPTIMIZERS[name]())
    with pytest.raises(KeyboardInterrupt):
        fit(first, [keras.callbacks.BackupAndRestore(tmp_path), Stop()])
    second = classifier(OPTIMIZERS[name]())
    history = fit(second, [keras.callbacks.BackupAndRestore(tmp_path, delete_checkpoint=False)])
    assert history.epoch == [2]
    for a, b in zip(
        arrays([*whole.variables, *whole.optimizer.variables]),
        arrays([*second.variables, *second.optimizer.variables]),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)

    (file,) = tmp_path.glob("*.h5")
    plain = Model(second.inputs, second.outputs)
    plain.load_weights(file)  # as any weight file, into a model that is not compiled
    before = second.get_weights()
    with pytest.raises(CheckpointError, match="another optimizer"):
        other = classifier(keras.optimizers.SGD(0.1))
        other.make_train_function()
        other.load_weights(file)
    second.save_weights(tmp_path / "plain.weights.h5")
    assert (tmp_path / "plain.weights.h5").stat().st_size < file.stat().st_size
    assert all(np.array_equal(a, b) for a, b in zip(before, second.get_weights(), strict=True))
