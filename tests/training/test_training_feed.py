import os
import warnings

import keras
import numpy as np
import pytest

from bert4keras.models import Model
from bert4keras.snippets import DataGenerator, sequence_padding
from bert4keras.training import BatchFeed, as_feed

pytestmark = pytest.mark.backend


LENGTHS = [5, 5, 5, 5, 5, 5, 7, 9, 7, 5, 9]


@keras.saving.register_keras_serializable("bert4keras_tests")
class RecordShapes(keras.layers.Layer):
    """Hands on its input, and notes the static shapes it was traced with."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.shapes = []

    def call(self, inputs):
        self.shapes.append(tuple(inputs.shape))
        return inputs


@keras.saving.register_keras_serializable("bert4keras_tests")
class MeanLoss(keras.layers.Layer):
    """A model's own loss, as that of a model that is fitted without targets."""

    def call(self, inputs):
        self.add_loss(keras.ops.mean(keras.ops.square(inputs)))
        return inputs


def two_input_model(own_loss=True):
    tokens, segments = keras.Input((None,), name="tokens"), keras.Input((None,), name="segments")
    embedded = keras.layers.Embedding(12, 4)(tokens) + keras.layers.Embedding(2, 4)(segments)
    recorder = RecordShapes()
    outputs = recorder(keras.layers.Dense(3)(embedded))
    model = keras.Model([tokens, segments], MeanLoss()(outputs) if own_loss else outputs)
    model.compile(optimizer="sgd", loss=None if own_loss else "mse")
    recorder.shapes.clear()
    return model, recorder


def pooled_model(**options):
    """A model of one input and one number for each row."""
    tokens = keras.Input((None,), name="tokens")
    embedded = keras.layers.Embedding(12, 4)(tokens)
    outputs = keras.layers.Dense(1, name="score")(keras.ops.mean(embedded, 1))
    model = keras.Model(tokens, outputs)
    model.compile(**{"optimizer": "sgd", "loss": "mse", **options})
    return model


class Texts(DataGenerator):
    """What a user of the original has written."""

    def __iter__(self, random=False):
        batch = []
        for is_end, token_ids in self.sample(random):
            batch.append(token_ids)
            if len(batch) == self.batch_size or is_end:
                token_ids = sequence_padding(batch)
                yield [token_ids, np.zeros_like(token_ids)], None
                batch = []


def texts(n=11, **options):
    numbers = np.random.default_rng(0)
    return Texts(
        [numbers.integers(1, 12, LENGTHS[i % 11]).tolist() for i in range(n)], 1, **options
    )


def ids(*shape):
    return np.ones(shape, "int32")


@pytest.mark.parametrize("bucket", [False, True])
def test_forfit_trains_where_lengths_change_from_batch_to_batch(bucket):
    # Keras takes the lengths of a plain generator from its first two batches on TensorFlow, and
    # refuses lists there; the first six batches have one length here.
    model, recorder = two_input_model()
    generator = texts(bucket=bucket)
    history = model.fit(
        generator.forfit(random=bucket), steps_per_epoch=len(generator), epochs=3, verbose=0
    )
    losses = history.history["loss"]
    assert len(losses) == 3
    assert losses[2] < losses[0]
    if keras.backend.backend() == "tensorflow":
        assert recorder.shapes == [(None, None, 3)]


def test_forfit_trains_on_all_samples_of_a_pass_and_goes_on():
    model = pooled_model()
    seen = []

    class Counted(DataGenerator):
        def __iter__(self, random=False):
            for _, x in self.sample(random):
                seen.append(x)
                yield np.full((1, 3), x), np.ones((1, 1))

    generator = Counted(list(range(8)), 1)
    feed = generator.forfit()
    model.fit(feed, steps_per_epoch=4, epochs=2, verbose=0)
    assert sorted(seen[:8]) == list(range(8))
    model.fit(feed, steps_per_epoch=3, epochs=1, verbose=0)
    # Nothing that was read ahead is lost.
    assert next(feed)[0][0, 0] == seen[11]


def test_the_feed_still_gives_what_the_user_yields(references):
    from golden import load_json

    class Numbers(DataGenerator):
        def __iter__(self, random=False):
            batch = []
            for is_end, x in self.sample(random):
                batch.append(x)
                if len(batch) == self.batch_size or is_end:
                    yield batch, [10 * x for x in batch]
                    batch = []

    cases = load_json(references / "units/snippets/data_generator.json")["list_data"]
    for case in cases:
        generator = Numbers(list(range(case["n"])), case["batch_size"])
        for name, feed in (
            ("forfit_first_7", generator.forfit(random=False)),
            ("fortest_first_7", generator.fortest()),
        ):
            batches = [next(feed) for _ in range(7)]
            assert [list(b) for b in batches] == case[name]


def test_next_iteration_and_training_share_one_stream():
    feed = texts(3).forfit(random=False)
    (tokens, segments), targets = next(feed)
    assert tokens.shape == segments.shape == (1, 5)
    assert targets is None
    assert iter(feed) is feed
    assert as_feed(feed) is feed


X, Y, W = ids(2, 5), np.array([[0.0], [1.0]]), np.array([1.0, 3.0])


@pytest.mark.parametrize(
    "batch",
    [
        (X, Y),
        ([X], Y),
        ((X,), [Y]),
        ({"tokens": X}, {"score": Y}),
        ([X], Y.astype("int64"), None),
        (X, Y, W),
        ([X], [Y], [W]),
    ],
    ids=["arrays", "list", "tuple", "dicts", "integers", "weights", "lists"],
)
def test_all_forms_of_a_batch_train_alike(batch):
    model, reference = pooled_model(), pooled_model()
    reference.set_weights(model.get_weights())
    feed = as_feed(batch for _ in range(9))
    with warnings.catch_warnings():
        if isinstance(batch[0], dict):  # Keras would rather have the array of a single input
            warnings.filterwarnings("ignore", "The structure of `inputs`")
        model.fit(feed, steps_per_epoch=3, verbose=0)
    weights = W if len(batch) == 3 and batch[2] is not None else None
    for _ in range(3):
        reference.train_on_batch(X, Y, weights)
    for a, b in zip(model.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("targets", [list, tuple, dict], ids=lambda kind: kind.__name__)
def test_several_targets_train(targets):
    tokens = keras.Input((None,))
    pooled = keras.ops.mean(keras.layers.Embedding(12, 4)(tokens), 1)
    outputs = [keras.layers.Dense(1, name="a")(pooled), keras.layers.Dense(3, name="b")(pooled)]
    model = keras.Model(tokens, outputs)
    b_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", [keras.losses.MeanSquaredError(), b_loss])
    values = [Y, np.array([2, 0])]
    values = dict(zip("ab", values, strict=True)) if targets is dict else targets(values)
    before = model.predict_on_batch(X)
    model.fit(as_feed(([ids(2, n)], values) for n in (5, 5, 5, 8)), steps_per_epoch=4, verbose=0)
    after = model.predict_on_batch(X)
    assert all(np.abs(p - q).max() > 1e-3 for p, q in zip(before, after, strict=True))


@pytest.mark.parametrize("form", [list, tuple], ids=["list", "tuple of a tuple"])
def test_inputs_alone_train(form):
    model, _ = two_input_model()
    batches = ([ids(2, n), ids(2, n) - 1] for n in (5, 5, 5, 5, 7))
    if form is tuple:
        batches = ((tuple(batch),) for batch in batches)
    history = model.fit(as_feed(batches), steps_per_epoch=5, verbose=0)
    assert np.isfinite(history.history["loss"]).all()


def test_types_of_the_labels():
    _, targets = next(as_feed([(X, Y)]).get_numpy_iterator())
    assert targets.dtype == keras.config.floatx()
    _, integers = next(as_feed([(X, np.arange(2, dtype="int64"))]).get_numpy_iterator())
    assert integers.dtype == np.int64
    # What fits the type of the first batch takes it.
    feed = as_feed([(X, Y), (X.astype("int64"), Y > 0)])
    batches = list(feed.get_numpy_iterator())
    assert [a.dtype for a in batches[1]] == [a.dtype for a in batches[0]]


def test_arrays_are_handed_on_without_a_copy():
    tokens = ids(2, 5)
    ((given, _),) = as_feed([([tokens], np.ones((2, 1), "float32"))]).get_numpy_iterator()
    assert np.shares_memory(given, tokens)


def test_a_column_of_labels_stays_a_column():
    # Sparse losses drop a last axis of size 1 only where it is known.
    tokens = keras.Input((None,))
    outputs = keras.layers.Dense(3, activation="softmax")(keras.layers.Embedding(12, 4)(tokens))
    model = keras.Model(tokens, outputs)
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["sparse_categorical_accuracy"])
    feed = as_feed((ids(2, n), np.ones((2, n, 1), "int32")) for n in (5, 5, 5, 8))
    history = model.fit(feed, steps_per_epoch=4, verbose=0)
    assert np.isfinite(history.history["loss"]).all()


def test_an_axis_that_was_1_in_the_first_batch_may_grow():
    model = pooled_model()
    model.fit(as_feed((ids(2, n), Y) for n in (1, 1, 4, 2, 6, 1)), steps_per_epoch=6, verbose=0)


def test_an_axis_that_was_always_1_may_not_grow_on_tensorflow():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("only TensorFlow has to know axes beforehand")
    with (
        pytest.warns(UserWarning, match="ran out of data"),
        pytest.raises(ValueError, match="its last axis had size 1"),
    ):
        feed = as_feed((ids(2, n), Y) for n in (1, 1, 1, 1, 4, 4))
        pooled_model().fit(feed, steps_per_epoch=6, verbose=0)


def ran_out():
    """Keras warns of the end of data whose number of batches it could not know."""
    return pytest.warns(UserWarning, match="ran out of data")


def test_a_finite_feed_is_evaluated_and_predicted_whole():
    model = pooled_model(metrics=["mae"])
    lengths = (5, 5, 5, 5, 5, 7)
    numbers = np.random.default_rng(0)
    batches = [(numbers.integers(0, 12, (2, n)), numbers.normal(size=(2, 1))) for n in lengths]
    predictions = [np.array(model.predict_on_batch(x)) for x, _ in batches]
    errors = [p - y for p, (_, y) in zip(predictions, batches, strict=True)]
    with ran_out():
        result = model.evaluate(as_feed(iter(batches)), return_dict=True, verbose=0)
    # The first batch builds the metrics on some backends, and has to count all the same.
    np.testing.assert_allclose(result["mae"], np.abs(errors).mean(), rtol=1e-5)
    with ran_out():
        result = model.predict(as_feed(x for x, _ in batches), verbose=0)
    np.testing.assert_allclose(result, np.concatenate(predictions), atol=1e-6)


def test_fortest_predicts_in_order():
    model, _ = two_input_model(own_loss=False)
    data = texts().data
    result = model.predict(Padded(data, 2).fortest(), steps=6, verbose=0)
    tokens = sequence_padding(data, 16)
    np.testing.assert_allclose(
        result, model.predict_on_batch([tokens, np.zeros_like(tokens)]), atol=1e-6
    )


class Padded(DataGenerator):
    """Inputs as a tuple, of one length."""

    def __iter__(self, random=False):
        batch = []
        for is_end, token_ids in self.sample(random):
            batch.append(token_ids)
            if len(batch) == self.batch_size or is_end:
                token_ids = sequence_padding(batch, 16)
                yield (token_ids, np.zeros_like(token_ids)), None
                batch = []


def test_validation_data_may_be_a_feed():
    model, _ = two_input_model()
    generator = texts()
    history = model.fit(
        generator.forfit(),
        steps_per_epoch=3,
        epochs=2,
        validation_data=generator.forfit(random=False),
        validation_steps=len(generator),
        verbose=0,
    )
    assert len(history.history["val_loss"]) == 2


# === Errors ===


class UserError(Exception):
    pass


@pytest.mark.parametrize("good", [0, 1, 6])
def test_an_error_of_the_generator_arrives_as_itself(good):
    def batches():
        for _ in range(good):
            yield ids(2, 5), Y
        raise UserError("mine")

    model = pooled_model(metrics=["mae"])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Your input ran out of data")
        with pytest.raises(UserError, match="mine"):
            model.fit(as_feed(batches()), steps_per_epoch=20, verbose=0)
    # The model stays usable.
    assert np.isfinite(model.predict_on_batch(X)).all()
    model.fit(as_feed((X, Y) for _ in range(2)), steps_per_epoch=2, verbose=0)


def test_an_error_that_no_step_needs_is_not_raised():
    def batches():
        for _ in range(6):
            yield X, Y
        raise UserError("never asked for")

    pooled_model().fit(as_feed(batches()), steps_per_epoch=3, epochs=2, verbose=0)


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        ([], ValueError, "there is no batch to read"),
        ([None], ValueError, "has the parts"),
        ([(X, Y, W, W)], ValueError, "has the parts"),
        ([(X, None, W)], ValueError, "has the parts"),
        ([([], Y)], ValueError, "inputs of a batch is an empty list"),
        (
            [([[1, 2]], Y)],
            TypeError,
            r"inputs\[0\] of a batch has the type int instead of an",
        ),
        ([(X, [0, 1])], TypeError, r"targets\[0\] of a batch has the type int instead of an"),
        ([(X, "label")], TypeError, "targets of a batch has the type str"),
        ([(X, np.float32(1))], ValueError, "the first axis is the batch"),
        ([(X, Y[:1])], ValueError, "the first axis is the batch"),
        ([(X[:0], Y[:0])], ValueError, "at least 1"),
        ([(X, Y), (X,)], ValueError, "all batches must have the same structure"),
        ([(X, Y), ([X, X], Y)], ValueError, "all batches must have the same structure"),
        ([(X, Y), (X, Y[:, 0])], ValueError, "float32 of rank 1"),
        ([(X, Y), (X + 0.5, Y)], ValueError, "float32 of rank 2"),
    ],
)
def test_a_batch_that_does_not_fit_is_one_clear_error(batches, error, message):
    with pytest.raises(error, match=message):
        pooled_model().fit(as_feed(batches), steps_per_epoch=4, verbose=0)


def test_a_feed_that_was_read_to_its_end_is_one_clear_error():
    model, feed = pooled_model(), as_feed((X, Y) for _ in range(2))
    model.fit(feed, steps_per_epoch=2, verbose=0)
    with pytest.raises(ValueError, match="has been exhausted before"):
        model.fit(feed, steps_per_epoch=2, verbose=0)


def test_a_pass_without_batches_is_one_clear_error():
    # With `while True` around a pass, as in the original, this would never return.
    class Forgetful(DataGenerator):
        def __iter__(self, random=False):
            for _ in self.sample(random):
                pass
            yield from ()

    with pytest.raises(ValueError, match="a pass over the data yielded no batch"):
        next(Forgetful([1]).forfit())


# === to_dataset ===


class Samples(DataGenerator):
    """Yields single samples, as `to_dataset` takes them."""

    def __iter__(self, random=False):
        for _, (tokens, label) in self.sample(False):
            yield self.arrange(tokens, label)


LABELLED = [([1, 2], 0), ([3], 1), ([4, 5, 6], 0)]


@pytest.mark.skipif(
    os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow", reason="makes a tf.data.Dataset"
)
class TestToDataset:
    def first(self, arrange, *args, **options):
        generator = Samples(LABELLED, 2)
        generator.arrange = arrange
        dataset = generator.to_dataset(*args, **options)
        return next(iter(dataset.as_numpy_iterator()))

    def test_a_padded_batch_of_named_inputs(self):
        batch = self.first(
            lambda tokens, label: (tokens, [0] * len(tokens)),
            types=("float32", "int32"),
            shapes=([None], [5]),
            names=("tokens", "segments"),
            padded_batch=True,
        )
        assert sorted(batch) == ["segments", "tokens"]
        assert batch["segments"].shape == (2, 5)
        assert {batch["tokens"].shape[1] for _ in range(9)} <= {2, 3}
        assert batch["tokens"].dtype == np.float32

    def test_a_single_named_target_is_bare(self):
        inputs, target = self.first(
            lambda tokens, label: ([tokens], [label]),
            types=(["int32"], ["int32"]),
            shapes=([[None]], [[]]),
            names=(["tokens"], ["score"]),
            padded_batch=True,
        )
        assert list(inputs) == ["tokens"]
        assert target.shape == (2,)

    @pytest.mark.parametrize("names", [(["a", "b"], ["y"]), (("a", "b"), "y"), [["a", "b"], None]])
    def test_names_in_lists_and_without(self, names):
        inputs, target = self.first(
            lambda tokens, label: ((tokens[:1], tokens[:1]), label),
            types=(("int32", "int32"), "float32"),
            shapes=(([1], [1]), []),
            names=names,
        )
        assert list(inputs) == ["a", "b"] and target.shape == (2,)

    @pytest.mark.parametrize("names", ["ab", ["a", "b", "c"], (["a"], ["y"]), (["a", "b"],)])
    def test_names_of_another_structure_are_refused(self, names):
        with pytest.raises(ValueError, match="are not nested as the types are"):
            self.first(
                lambda tokens, label: ((tokens, tokens), label),
                types=(("int32", "int32"), "float32"),
                shapes=(([None], [None]), []),
                names=names if names != "ab" else list(names) * 2,
            )

    def test_one_name(self):
        batch = self.first(
            lambda tokens, label: tokens[:1], types="int32", shapes=[1], names="tokens"
        )
        assert batch["tokens"].shape == (2, 1)

    @pytest.mark.parametrize("types", [(("int32", "int32"),), (("int32", "int32"), None)])
    def test_a_missing_target_is_left_out(self, types):
        # An optional element stops training under a distribution strategy.
        batch = self.first(
            lambda tokens, label: ([tokens, tokens], None),
            types=types,
            shapes=(([None], [None]), None)[: len(types)],
            padded_batch=True,
        )
        assert len(batch) == 1
        assert len(batch[0]) == 2

    def test_samples_of_another_structure_are_refused(self):
        with pytest.raises(Exception, match="is not nested as the types"):
            self.first(lambda tokens, label: tokens, types=("int32",) * 3, shapes=([None],) * 3)


def test_a_feed_is_built_from_any_iterable():
    feed = as_feed([(X, Y)])
    assert isinstance(feed, BatchFeed)
    assert next(feed)[0] is X
    with pytest.raises(StopIteration):
        next(feed)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow traces twice")
def test_a_step_is_traced_once():
    """A function that creates variables when it is first traced is traced again at once."""
    tokens, recorder = keras.Input((4,)), RecordShapes()
    model = Model(tokens, MeanLoss()(keras.layers.Dense(1)(recorder(tokens))))
    model.compile(keras.optimizers.Adam())
    recorder.shapes.clear()
    model.fit(np.ones((8, 4)), batch_size=4, verbose=0)
    assert len(recorder.shapes) == 1
    assert model.optimizer.iterations == 2
