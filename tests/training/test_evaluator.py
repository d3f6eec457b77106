"""`Evaluator`, against `EarlyStopping` of Keras that is given the same scores."""

import keras
import numpy as np
import pytest

from bert4keras.models import Model
from bert4keras.optimizers import Adam, extend_with_exponential_moving_average
from bert4keras.training import EvaluateAverage, Evaluator

pytestmark = pytest.mark.backend
X = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
Y = X.sum(axis=1, keepdims=True)


def trained(*callbacks, epochs=8, optimizer=keras.optimizers.SGD):
    """A small model after training, and the history."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((3,))
    model = Model(inputs, keras.layers.Dense(1, name="Scores")(inputs))
    model.compile(optimizer(0.05), "mse")
    return model, model.fit(X, Y, epochs=epochs, verbose=0, callbacks=list(callbacks)).history


class Scripted(keras.callbacks.Callback):
    """Puts scores into the logs."""

    def __init__(self, scores):
        super().__init__()
        self.scores = scores

    def on_epoch_end(self, epoch, logs=None):
        logs["f1"] = self.scores[epoch]


@pytest.mark.parametrize("mode", ["max", "min"])
def test_it_keeps_and_stops_as_early_stopping_does(mode, tmp_path):
    scores = [0.1, 0.3, 0.2, 0.3, 0.25, 0.1, 0.9, 0.05]
    stopping = keras.callbacks.EarlyStopping(
        monitor="f1", mode=mode, patience=3, restore_best_weights=True
    )
    expected, history = trained(Scripted(scores), stopping)
    left = iter(scores)
    evaluator = Evaluator(
        lambda model: {"f1": next(left), "other": 1},
        tmp_path / "best.weights",
        mode=mode,
        patience=3,
    )
    model, own = trained(evaluator)
    assert own["f1"] == history["f1"] and own["other"] == [1.0] * len(own["f1"])
    assert len(own["f1"]) == {"max": 5, "min": 4}[mode]
    for weight, other in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, other)
    assert evaluator.best_epoch == {"max": 1, "min": 0}[mode]
    assert evaluator.best == {"f1": scores[evaluator.best_epoch], "other": 1.0}
    again, _ = trained(epochs=1)
    again.load_weights(tmp_path / "best.weights")
    np.testing.assert_array_equal(again.get_weights()[0], model.get_weights()[0])


def test_it_evaluates_the_model_of_the_moment(tmp_path):
    """Predictions within `fit` are those of the weights after the epoch."""

    def error(model):
        return {"error": np.mean((model.predict(X, verbose=0) - Y) ** 2)}

    evaluator = Evaluator(error, tmp_path / "best", mode="min", monitor="error", restore=False)
    model, history = trained(evaluator)
    assert len(history["error"]) == 8 and history["error"] == sorted(history["error"])[::-1]
    np.testing.assert_allclose(error(model)["error"], history["error"][-1], rtol=1e-5)
    assert evaluator.best_epoch == 7


def test_it_scores_and_keeps_the_averages(tmp_path):
    seen = []

    def first(model):
        seen.append(model.get_weights()[0])
        return {"score": len(seen)}

    averaged = extend_with_exponential_moving_average(Adam)
    plain, _ = trained(epochs=3, optimizer=averaged)
    evaluator = Evaluator(first, tmp_path / "best")
    model, _ = trained(EvaluateAverage(), evaluator, epochs=3, optimizer=averaged)
    np.testing.assert_array_equal(model.get_weights()[0], seen[-1])
    plain.optimizer.apply_ema_weights()
    np.testing.assert_allclose(seen[-1], plain.get_weights()[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("returned", "options", "message"),
    [
        ({}, {}, r"finite score to decide by, but `evaluate` returned \{\}"),
        ({"f1": float("nan")}, {}, "finite score 'f1'"),
        ({"f1": 1.0}, {"monitor": "f2"}, r"finite score 'f2', but `evaluate` returned \{'f1'"),
        ({"f1": 1.0}, {"mode": "auto"}, "mode='auto': it is 'max' or 'min'"),
        ({"f1": 1.0}, {"patience": 0}, "patience=0: it is at least 1"),
    ],
)
def test_what_it_refuses(returned, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        trained(Evaluator(lambda model: returned, tmp_path / "best", **options), epochs=1)
