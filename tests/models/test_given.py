"""What `fit`, `evaluate` and `predict` take beside arrays."""

import keras
import numpy as np
import pytest

from bert4keras import layers
from bert4keras.models import Model
from bert4keras.snippets import DataGenerator

pytestmark = pytest.mark.backend

TENSORFLOW = keras.backend.backend() == "tensorflow"
DATA = [([i % 7 + 1] * 4, i % 3) for i in range(5)]


def build_model(eagerly=TENSORFLOW):
    ids, segments = (keras.Input((None,), dtype="int32", name=name) for name in ("ids", "segments"))
    x = keras.layers.Add()([layers.Embedding(9, 4)(ids), layers.Embedding(2, 4)(segments)])
    x = layers.Dense(3, activation="softmax")(keras.layers.GlobalAveragePooling1D()(x))
    model = Model([ids, segments], x)
    options = {"metrics": ["accuracy"], "run_eagerly": eagerly}
    model.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy", **options)
    return model


@pytest.fixture(scope="module")
def model():
    return build_model()


class Batches(DataGenerator):
    def __iter__(self, random=False):
        ids, labels = [], []
        for is_end, (token_ids, label) in self.sample(random):
            ids.append(token_ids)
            labels.append(label)
            if len(ids) == self.batch_size or is_end:
                yield [np.array(ids), np.zeros_like(ids)], np.array(labels)
                ids, labels = [], []


X = [np.array([ids for ids, _ in DATA]), np.zeros((5, 4), "int32")]
Y = np.array([label for _, label in DATA])


def test_endless_batches_want_a_number_of_steps(model):
    generator = Batches(DATA, 2)
    for call, steps in [
        (lambda: model.fit(generator.forfit()), "steps_per_epoch"),
        (lambda: model.fit(X, Y, validation_data=generator.forfit()), "validation_steps"),
        (lambda: model.evaluate(generator.forfit()), "steps"),
        (lambda: model.predict(generator.fortest()), "steps"),
    ]:
        with pytest.raises(ValueError, match=rf"do not end: .* by {steps}=len\(generator\)"):
            call()
    model.fit(generator.forfit(), steps_per_epoch=1, verbose=0)
    assert len(model.predict(generator.fortest(), steps=3, verbose=0)) == 5


def test_a_generator_is_taken_as_it_is():
    model, generator = build_model(), Batches(DATA, 2)
    history = model.fit(generator, epochs=2, validation_data=generator, verbose=0)
    assert int(model.optimizer.iterations) == 6
    expected = model.evaluate(X, Y, verbose=0)
    assert model.evaluate(generator, verbose=0) == pytest.approx(expected)
    last = [history.history[name][-1] for name in ("val_loss", "val_accuracy")]
    assert last == pytest.approx(expected)
    found = model.predict(generator, verbose=0)
    np.testing.assert_allclose(found, model.predict(X, verbose=0), atol=1e-6)
    with pytest.raises(ValueError, match="each batch"):
        model.fit(generator, Y)


class Sequence(keras.utils.PyDataset):
    """Lists of inputs, as Keras 2 took them."""

    def __init__(self, bad=None):
        super().__init__()
        self.bad = bad

    def __len__(self):
        return 3

    def __getitem__(self, index):
        rows = slice(2 * index, 2 * index + 2)
        inputs = [x[rows] + (9 if index == self.bad else 0) for x in X]
        return inputs, Y[rows]


def test_sequences_of_lists(model):
    expected = model.evaluate(X, Y, verbose=0)
    assert model.evaluate(Sequence(), verbose=0) == pytest.approx(expected)
    model.fit(Sequence(), validation_data=Sequence(), verbose=0)
    assert len(model.predict(Sequence(), verbose=0)) == 5
    with pytest.raises(ValueError, match=r"holds 1\d at row 0"):
        model.fit(Sequence(bad=1), verbose=0)


def test_labels_may_have_a_last_axis_of_one_here_and_none_there():
    model = build_model(eagerly=False)
    model.fit(X, Y[:, None], verbose=0)
    model.fit(X, Y, validation_data=(X, Y[:, None]), verbose=0)
    expected = model.evaluate(X, Y, verbose=0)
    assert model.evaluate(X, Y[:, None], verbose=0) == pytest.approx(expected)
    assert model.evaluate(Batches(DATA, 5), verbose=0) == pytest.approx(expected)
