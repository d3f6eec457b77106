"""Whole models in files of any name, and what saves them while they are trained."""

import os

import numpy as np
import pytest

from bert4keras.backend import keras
from bert4keras.legacy import ModelCheckpoint
from bert4keras.models import Model, load_model

pytestmark = pytest.mark.backend

X, Y = np.ones((4, 3)), np.ones((4, 1))


@pytest.fixture
def model():
    """A model that has been trained."""
    x = keras.Input((3,))
    model = Model(x, keras.layers.Dense(1)(x))
    model.compile("sgd", "mse", metrics=["mae"])
    model.train_on_batch(X, Y)
    return model


@pytest.mark.parametrize("name", ["test.model", "best", "a.weights", "a.keras", "a.ckpt-1"])
def test_a_model_is_saved_and_loaded_under_any_name(name, model, tmp_path):
    path = tmp_path / name
    model.save(path)
    assert [each.name for each in tmp_path.iterdir()] == [name]
    loaded = load_model(path)
    assert isinstance(loaded, Model)
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), model.predict(X, verbose=0))
    assert loaded.train_on_batch(X, Y) is not None
    with pytest.raises(FileExistsError, match="choose another name"):
        model.save(path, overwrite=False)
    model.save(str(path))
    assert not load_model(str(path), compile=False).compiled


@pytest.mark.parametrize("name", ["a.h5", "a.hdf5"])
def test_hdf5_files_stay_such(name, model, tmp_path):
    model.save(tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(b"\x89HDF")
    os.rename(tmp_path / name, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), model.predict(X, verbose=0))


def test_what_is_no_model_is_refused_as_keras_does(tmp_path):
    (tmp_path / "text.model").write_text("no model")
    with pytest.raises(ValueError, match=r"text\.model"):
        load_model(tmp_path / "text.model")


def test_checkpoints_have_any_name_and_a_period(model, tmp_path):
    best = str(tmp_path / "best.hdf6")
    callbacks = [
        ModelCheckpoint(f"{tmp_path}/e{{epoch:02d}}.ckpt", save_weights_only=True, period=2),
        ModelCheckpoint(best, "loss", save_best_only=True, mode="min"),
    ]
    model.fit(X, Y, epochs=5, callbacks=callbacks, verbose=0)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["best.hdf6", "e02.ckpt", "e04.ckpt"]
    expected = load_model(best).predict(X, verbose=0)
    np.testing.assert_array_equal(expected, model.predict(X, verbose=0))
    model.load_weights(tmp_path / "e02.ckpt")
    assert np.abs(model.predict(X, verbose=0) - expected).max() > 0


@pytest.mark.parametrize(
    ("name", "saved"), [("val_acc", ["e01", "e03"]), ("mlm_loss", ["e01", "e02"])]
)
def test_a_value_that_keras_does_not_know_is_better_by_its_name(name, saved, model, tmp_path):
    path = f"{tmp_path}/e{{epoch:02d}}"
    callback = ModelCheckpoint(path, name, save_best_only=True, save_weights_only=True)
    callback.set_model(model)
    callback.on_train_begin()
    for epoch, value in enumerate([0.5, 0.4, 0.6]):
        callback.on_epoch_end(epoch, {name: value})
    assert sorted(each.name for each in tmp_path.iterdir()) == saved
