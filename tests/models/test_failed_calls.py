"""A call that fails leaves the model as it was before the step that failed."""

import _thread
import threading

import keras
import numpy as np
import pytest

from bert4keras import layers
from bert4keras.models import Model

pytestmark = [
    pytest.mark.backend,
    pytest.mark.filterwarnings("ignore:Your input ran out of data"),
]

LENGTH, VOCABULARY, CLASSES = 4, 7, 2


@keras.saving.register_keras_serializable("test_failed_calls")
class Places(keras.layers.Layer):
    """Adds a vector for each of `LENGTH` places; no other length fits."""

    def build(self, shape):
        self.table = self.add_weight((LENGTH, shape[-1]))

    def call(self, x):
        return x + self.table

    def compute_output_shape(self, shape):
        return shape


def build_model(optimizer=None):
    ids = keras.Input((None,), dtype="int32")
    x = Places(name="Places")(layers.Embedding(VOCABULARY, 3, name="Words")(ids))
    x = keras.ops.mean(keras.layers.Dropout(0.1)(x), 1)
    model = Model(ids, keras.layers.Dense(CLASSES, activation="softmax", name="Head")(x))
    model.compile(
        optimizer or keras.optimizers.Adam(0.1),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def batch(length=LENGTH, labels=(0, 1)):
    return np.full((2, length), 3), np.array(labels)


def batches(*last, n=2):
    """Some batches, and then another."""
    yield from [batch()] * n
    yield from last


def state_of(model):
    kinds = {"model": model.weights, "optimizer": model.optimizer.variables}
    kinds["metrics"] = model.metrics_variables
    return {k: [keras.ops.convert_to_numpy(v).copy() for v in vs] for k, vs in kinds.items()}


def check_same(found, expected, kinds=("model", "optimizer", "metrics")):
    for kind in kinds:
        for a, b in zip(found[kind], expected[kind], strict=True):
            np.testing.assert_array_equal(a, b, err_msg=kind)


@pytest.fixture(scope="module")
def model():
    """A model that has been in use, so that nothing is created any more."""
    model = build_model()
    model.fit(*batch(), verbose=0)
    model.evaluate(*batch(), verbose=0)
    model.predict(batch()[0], verbose=0)
    return model


class Raising(keras.callbacks.Callback):
    """Raises at one of the places where Keras calls."""

    def __init__(self, place, error):
        super().__init__()
        setattr(self, place, self.fail)
        self.error = error

    def fail(self, *args, **kwargs):
        raise self.error("of the test")


LONG, STRANGE = batch(LENGTH + 1), batch(labels=(0, 1, 1))
CALLS = {
    "predict": lambda m: m.predict(LONG[0], verbose=0),
    "predict later": lambda m: m.predict((x for x, _ in batches(LONG)), verbose=0),
    "predict_on_batch": lambda m: m.predict_on_batch(LONG[0]),
    "evaluate": lambda m: m.evaluate(*LONG, verbose=0),
    "test_on_batch": lambda m: m.test_on_batch(*LONG),
    "train_on_batch": lambda m: m.train_on_batch(*LONG),
    "labels": lambda m: m.train_on_batch(*STRANGE),
    "fit": lambda m: m.fit(*LONG, verbose=0),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_failed_call_changes_nothing(model, call):
    before = state_of(model)
    with pytest.raises(Exception, match=r"."):
        CALLS[call](model)
    kinds = ("model", "optimizer") if call in ("evaluate", "fit") else ("model",)
    check_same(state_of(model), before, kinds)
    assert np.isfinite(model.predict(batch()[0], verbose=0)).all()
    assert model.evaluate(*batch(), verbose=0)[0] > 0


def test_steps_before_the_one_that_fails_count():
    found, expected = build_model(), build_model()
    expected.set_weights(found.get_weights())
    for layer in found.layers + expected.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0
    expected.fit(batches(), verbose=0)
    with pytest.raises(Exception, match=r"."):
        found.fit(batches(LONG), verbose=0)
    check_same(state_of(found), state_of(expected), ("model", "optimizer"))
    assert int(found.optimizer.iterations) == 2


PLACES = {
    "on_train_batch_end": "fit",
    "on_epoch_begin": "fit",
    "on_epoch_end": "fit",
    "on_test_batch_end": "evaluate",
    "on_predict_batch_end": "predict",
}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt], ids=lambda e: e.__name__)
@pytest.mark.parametrize("place", PLACES)
def test_callbacks_may_raise(model, place, error):
    steps = int(model.optimizer.iterations)
    data = batch() if PLACES[place] != "predict" else batch()[:1]
    with pytest.raises(error):
        getattr(model, PLACES[place])(*data, verbose=0, callbacks=[Raising(place, error)])
    trained = place in ("on_train_batch_end", "on_epoch_end")
    assert int(model.optimizer.iterations) == steps + trained
    assert all(np.isfinite(x).all() for xs in state_of(model).values() for x in xs)


def test_weights_are_not_averaged_when_fit_fails():
    model = build_model(keras.optimizers.Adam(0.1, use_ema=True, ema_momentum=0.5))
    with pytest.raises(ValueError, match="of the test"):
        model.fit(batches(), verbose=0, callbacks=[Raising("on_epoch_end", ValueError)])
    averages = [v for v in model.optimizer.variables if v.path.endswith("_average")]
    for average, weight in zip(averages, model.trainable_variables, strict=True):
        assert not np.allclose(*map(keras.ops.convert_to_numpy, (average, weight)))


@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow", reason="TensorFlow itself may stay between two graphs"
)
# Python drops an interrupt that meets a callback of the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_at_any_moment_leaves_all_variables(model, request):
    request.addfinalizer(keras.utils.clear_session)  # a name scope of Keras may be left open
    random = np.random.default_rng(0)
    x, y = (np.repeat(each, 200, axis=0) for each in batch())
    caught = 0
    for _ in range(20):
        timer = threading.Timer(random.uniform(0, 0.1), _thread.interrupt_main)
        try:
            timer.start()
            while timer.is_alive():
                model.fit(x, y, batch_size=2, verbose=0)
        except KeyboardInterrupt:
            caught += 1
        assert all(np.isfinite(x).all() for xs in state_of(model).values() for x in xs)
    assert caught >= 15
