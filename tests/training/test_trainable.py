"""What a model trains is what was trainable when it was compiled."""

from contextlib import nullcontext

import keras
import numpy as np
import pytest

from bert4keras import layers
from bert4keras.models import Model
from bert4keras.training import RDrop, data_parallel

pytestmark = pytest.mark.backend

X = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")
Y = np.array([0, 1, 0, 1, 1, 0])
HOW = {
    "plain": {},
    "step": {"step": RDrop(), "run_eagerly": keras.backend.backend() == "tensorflow"},
    "parallel": {},
}


class Three:
    """Two bodies, a head, and three models of them, as in BERT-of-Theseus."""

    def __init__(self, **options):
        x = keras.Input((3,))
        self.old, self.new = (layers.Dense(4, name=name) for name in ("Old", "New"))
        self.head = layers.Dense(2, activation="softmax", name="Head")
        self.parts = self.old, self.new, self.head
        old, new = (layers.Dropout(0.1)(body(x)) for body in (self.old, self.new))
        self.first = Model(x, self.head(old))
        self.both = Model(x, self.head(layers.Add()([old, new])))
        self.last = Model(x, self.head(new))
        self.options = {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]}
        self.options |= options
        self.compile(self.first)
        self.old.trainable = False
        self.compile(self.both)
        self.old.trainable, self.head.trainable = True, False
        self.compile(self.last)

    def compile(self, model):
        model.compile(keras.optimizers.Adam(0.1), **self.options)

    def moved(self, train):
        """Names of the layers whose weights change meanwhile."""
        before = [part.get_weights() for part in self.parts]
        train()
        after = [part.get_weights() for part in self.parts]
        pairs = zip(self.parts, before, after, strict=True)
        return {part.name for part, old, new in pairs if not np.array_equal(old[0], new[0])}


def fit(model):
    return lambda: model.fit(X, Y, batch_size=3, verbose=0)


def on_batch(model):
    return lambda: model.train_on_batch(X, Y)


def with_moments(model):
    """Names of the layers that the optimizer keeps moments of."""
    paths = [v.path.split("/")[1] for v in model.optimizer.variables]
    return {path.split("_")[0] for path in paths if path.endswith("_momentum")}


@pytest.mark.filterwarnings("ignore:.*compile it again")
@pytest.mark.parametrize("how", HOW)
def test_models_that_share_layers_train_what_each_was_compiled_for(how):
    with data_parallel(1) if how == "parallel" else nullcontext():
        three = Three(**HOW[how])
        expected = {three.first: {"Old", "Head"}, three.both: {"New", "Head"}, three.last: {"New"}}
        for train in (fit, on_batch) if how == "plain" else (fit,):
            for model, names in expected.items():
                assert three.moved(train(model)) == with_moments(model) == names
        if how == "plain":
            fitted = three.first.fit(X, Y, verbose=0, validation_data=(X, Y)).history
            assert fitted["val_loss"] == pytest.approx(three.first.evaluate(X, Y, verbose=0)[:1])
        assert three.first.trainable_weights == three.old.weights  # as it stands in the layers
        three.compile(three.first)
        assert three.moved(fit(three.first)) == with_moments(three.first) == {"Old"}


def test_it_is_said_once_that_something_else_is_trainable_by_now():
    three = Three()
    with pytest.warns(UserWarning, match="2 of its weights, such as Head/bias") as said:
        for _ in range(2):
            on_batch(three.first)()
    assert len([each for each in said if each.category is UserWarning]) == 1
    on_batch(three.last)()


@pytest.mark.filterwarnings("ignore:.*compile it again")
def test_a_saved_model_goes_on_with_what_it_was_compiled_for(tmp_path):
    three = Three()
    for model in (three.first, three.last):
        fit(model)()
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        assert with_moments(loaded) == with_moments(model)
        for each in (model, loaded):
            each.layers[2].rate = 0  # of dropout
            each.make_train_function(force=True)
            on_batch(each)()
        for old, new in zip(model.get_weights(), loaded.get_weights(), strict=True):
            np.testing.assert_allclose(old, new, atol=1e-6)


def test_layers_compute_as_what_they_were_compiled_for():
    """A normalisation of batches looks at `trainable` when it is called."""
    x = keras.Input((3,))
    norm = keras.layers.BatchNormalization()
    model = Model(x, norm(x))
    model.compile("sgd", "mse")
    norm.trainable = False
    with pytest.warns(UserWarning, match="compile it again"):
        model.train_on_batch(X, X)
    assert not norm.trainable and keras.ops.any(norm.moving_mean != 0)


@keras.saving.register_keras_serializable("test_trainable")
class Late(keras.layers.Layer):
    """Makes a layer in `build` and leaves it to be built by its first call."""

    def build(self, shape):
        super().build(shape)
        self.dense = layers.Dense(2, name="Inner")

    def call(self, x):
        return self.dense(x)

    def compute_output_shape(self, shape):
        return (*shape[:-1], 2)


@pytest.mark.parametrize("train", [fit, on_batch])
def test_layers_that_are_made_in_build_are_trained(tmp_path, train):
    x = keras.Input((3,))
    model = Model(x, layers.Dense(2, activation="softmax", name="Head")(Late(name="Late")(x)))
    model.compile(keras.optimizers.Adam(0.1), "sparse_categorical_crossentropy")
    train(model)()
    assert with_moments(model) == {"Late", "Head"}
    before = model.get_weights()
    train(model)()
    changed = [(a != b).any() for a, b in zip(before, model.get_weights(), strict=True)]
    assert changed == [True] * 4
    if train is fit:
        return
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for old, new in zip(
        [*model.weights, *model.optimizer.variables],
        [*loaded.weights, *loaded.optimizer.variables],
        strict=True,
    ):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (old, new)))
