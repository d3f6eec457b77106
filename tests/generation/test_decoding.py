"""`AutoRegressiveDecoder` against the original, and what `last_token` makes of a model."""

import gc
import os
import weakref
from typing import NamedTuple

import numpy as np
import pytest
from golden import is_error, load_json

from bert4keras.generation import LastToken
from bert4keras.snippets import AutoRegressiveDecoder, bucket_length, softmax

# ruff: noqa: NPY002 - sampling follows np.random.seed

VOCAB = 7


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """Here JAX compiles much and computes little: half of the time without XLA's optimisations."""
    if os.environ.get("KERAS_BACKEND") != "jax":
        yield
        return
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def on_jax():
    import keras

    return keras.backend.backend() == "jax"


class Table(AutoRegressiveDecoder):
    """Scores that depend on the last token, the position and, by choice, on an input."""

    tables: dict

    def use(self, tables, number):
        self.table = tables["tables"][number]
        self.positions = tables["positions"][number]
        self.bias = tables["biases"][number]
        return self

    def scores(self, inputs, output_ids):
        last = output_ids[:, -1] if output_ids.shape[1] else [len(self.table) - 1] * len(output_ids)
        scores = self.table[last] + self.positions[output_ids.shape[1]]
        return scores + inputs[0] if inputs else scores


class LogitsTable(Table):
    @AutoRegressiveDecoder.wraps(default_rtype="logits")
    def predict(self, inputs, output_ids, states):
        assert states is None
        return self.scores(inputs, output_ids)


class ProbasTable(Table):
    @AutoRegressiveDecoder.wraps()
    def predict(self, inputs, output_ids, states):
        return softmax(self.scores(inputs, output_ids))


class CountingTable(Table):
    @AutoRegressiveDecoder.wraps(default_rtype="logits", use_states=True)
    def predict(self, inputs, output_ids, states):
        calls = states or 0
        scores = self.scores(inputs, output_ids)
        scores[:, 1] += 0.3 * calls
        return scores, calls + 1


TABLES = {"logits": LogitsTable, "probas": ProbasTable, "states": CountingTable}


@pytest.fixture(scope="module")
def reference(references):
    folder = references / "units/snippets"
    return load_json(folder / "decoder.json"), dict(np.load(folder / "decoder.npz"))


def table_of(case, tables, kind=None):
    decoder = TABLES[kind or case["predict"]](
        case["start_id"], case.get("end_id", 2), case["maxlen"], case.get("minlen", 1)
    )
    return decoder.use(tables, case["table"])


def inputs_of(case, decoder):
    return [decoder.bias] if case["use_input"] else []


# === Against the original ===


def test_beam_search_gives_the_reference_results(reference):
    golden, tables = reference
    assert len(golden["beam_search"]) == 178
    for case in golden["beam_search"]:
        decoder = table_of(case, tables)
        result = decoder.beam_search(inputs_of(case, decoder), **case["beam_search"])
        assert result.tolist() == case["result"], case


def test_seeded_sampling_gives_the_reference_results(reference):
    golden, tables = reference
    runs = golden["random_sample_seeded"]["runs"]
    assert runs
    for case in runs:
        decoder = table_of(case, tables)
        np.random.seed(case["np_random_seed"])
        results = decoder.random_sample(inputs_of(case, decoder), **case["random_sample"])
        assert [ids.tolist() for ids in results] == case["result"], case


def test_wrapped_predict_gives_the_reference_scores(reference):
    golden, tables = reference
    assert golden["wraps"]
    for case in golden["wraps"]:
        decoder = TABLES[case["predict"]](0, 2, 10).use(tables, case["table"])
        output_ids = np.array(case["output_ids"])
        rtype = {} if case["rtype"] is None else {"rtype": case["rtype"]}
        scores, states = decoder.predict([], output_ids, None, case["temperature"], **rtype)
        np.testing.assert_allclose(scores, case["scores"], rtol=1e-12, atol=0)
        assert states == case["states"]


def test_another_rtype_fails_as_in_the_original(reference):
    golden, tables = reference
    assert is_error(golden["bad_rtype"]) and golden["bad_rtype"]["error"] == "AssertionError"
    with pytest.raises(AssertionError, match="rtype is 'log', give"):
        LogitsTable(0, 2, 5).use(tables, 0).predict([], np.array([[0]]), None, rtype="log")


# === Sampling follows its distribution ===


def reference_filter(probas, topk=None, topp=None):
    """What sampling leaves of a distribution, token by token."""
    order = sorted(range(len(probas)), key=lambda i: -probas[i])[:topk]
    total, kept = sum(probas[i] for i in order), []
    for i in order:
        if topp is not None and sum(probas[j] for j in kept) / total >= topp:
            break
        kept.append(i)
    return np.array([p if i in kept else 0 for i, p in enumerate(probas)]) / probas[kept].sum()


def outputs_with_probabilities(decoder, inputs, output_ids, temperature=1, **limits):
    """Every output that sampling can give, with its probability."""
    if output_ids.shape[1] == decoder.first_output_ids.shape[1] + decoder.maxlen or (
        decoder.minlen <= output_ids.shape[1] and output_ids[0, -1:] == [decoder.end_id]
    ):
        yield tuple(output_ids[0].tolist()), 1.0
        return
    scores = decoder.scores(inputs, output_ids)[0] / temperature
    for token, p in enumerate(reference_filter(softmax(scores), **limits)):
        if p:
            longer = np.append(output_ids, [[token]], axis=1)
            for output, rest in outputs_with_probabilities(
                decoder, inputs, longer, temperature, **limits
            ):
                yield output, p * rest


def chi_square_limit(freedom):
    """What a chi-square statistic exceeds once in 30 000 times (Wilson and Hilferty, 1931)."""
    spread = 2 / (9 * freedom)
    return freedom * (1 - spread + 4 * spread**0.5) ** 3


def test_sampling_gives_the_reference_distributions(reference, monkeypatch):
    golden, tables = reference
    n = 4000

    def evenly(size, p):
        # The i-th of n equal parts of the distribution in place of a random point of it.
        nonlocal calls
        calls += 1
        return int(np.searchsorted(np.cumsum(p), (calls % n + 0.5) / n).clip(max=size - 1))

    for case in golden["random_sample_distribution"]:
        decoder = table_of({**case, "maxlen": 1}, tables, "probas")
        calls = -1
        with monkeypatch.context() as patch:
            patch.setattr(np.random, "choice", evenly)
            results = decoder.random_sample(inputs_of(case, decoder), n, **case["random_sample"])
        first = np.bincount([ids[-1] for ids in results], minlength=VOCAB)
        assert set(np.flatnonzero(first)) <= set(case["support"])
        np.testing.assert_allclose(first / n, case["first_token_exact"], atol=1.5 / n)


@pytest.mark.parametrize("start_id", [0, None])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"topk": 3},
        {"topp": 0.7},
        {"topk": 4, "topp": 0.8},
        {"temperature": 0.5},
        {"topk": 2, "temperature": 2.0},
    ],
)
def test_sampled_outputs_follow_the_exact_distribution(start_id, options):
    rng = np.random.default_rng(1)
    tables = {
        "tables": rng.normal(size=(1, VOCAB + 1, VOCAB)) * 1.5,
        "positions": rng.normal(size=(1, 9, VOCAB)),
        "biases": rng.normal(size=(1, VOCAB)),
    }
    decoder = LogitsTable(start_id, 2, 3, minlen=2).use(tables, 0)
    inputs = [decoder.bias[None]]
    expected = dict(
        outputs_with_probabilities(decoder, inputs, decoder.first_output_ids, **options)
    )
    assert sum(expected.values()) == pytest.approx(1)
    n = 4000
    np.random.seed(7)
    results = [tuple(ids.tolist()) for ids in decoder.random_sample([decoder.bias], n, **options)]
    counts = {output: results.count(output) for output in expected}
    assert sum(counts.values()) == n  # nothing impossible was written
    # Rare outputs are counted together: the statistic needs five or so of each.
    rare = [output for output, p in expected.items() if n * p < 8]
    groups = [[output] for output in expected if output not in rare] + ([rare] if rare else [])
    observed = np.array([sum(counts[output] for output in group) for group in groups])
    wanted = np.array([n * sum(expected[output] for output in group) for group in groups])
    statistic = ((observed - wanted) ** 2 / wanted).sum()
    assert len(groups) > 3
    assert statistic < chi_square_limit(len(groups) - 1)


# === The contract with a subclass ===


class Fixed(AutoRegressiveDecoder):
    """Gives what it is told, whatever was written."""

    result: object = None

    @AutoRegressiveDecoder.wraps()
    def predict(self, inputs, output_ids, states):
        """Give the result."""
        return self.result(output_ids) if callable(self.result) else self.result


def fixed(result, **kwargs):
    decoder = Fixed(**{"start_id": 0, "end_id": 2, "maxlen": 4} | kwargs)
    decoder.result = result
    return decoder


def uniform(output_ids):
    return np.full((len(output_ids), VOCAB), 1 / VOCAB)


def test_first_output_ids():
    assert fixed(None).first_output_ids.tolist() == [[0]]
    nothing = fixed(None, start_id=None).first_output_ids
    assert nothing.shape == (1, 0) and nothing.dtype == int


def test_wraps_keeps_name_and_docstring():
    assert Fixed.predict.__name__ == "predict" and Fixed.predict.__doc__ == "Give the result."


def test_predict_has_to_be_written():
    with pytest.raises(NotImplementedError, match="AutoRegressiveDecoder has to define predict"):
        AutoRegressiveDecoder(0, 2, 5).beam_search([[1]], 2)


@pytest.mark.parametrize("search", [True, False])
def test_what_predict_is_given(search):
    seen = []

    class Watching(AutoRegressiveDecoder):
        @AutoRegressiveDecoder.wraps()
        def predict(self, inputs, output_ids, states):
            seen.append([x.tolist() for x in inputs])
            assert all(len(x) == len(output_ids) for x in inputs)
            # The last of three rows ends at the second step, and is not the best one.
            probas = np.tile([0.2, 0.3, 0, 0.5], (len(output_ids), 1))
            if output_ids.shape[1] == 2:
                probas[-1] = [0, 0, 0.9, 0.1] if search else [0, 0, 1, 0]
            return probas

    decoder = Watching(0, 2, maxlen=4, minlen=3)
    np.random.seed(0)
    if search:
        decoder.beam_search([[5, 6], 7], 3)
    else:
        decoder.random_sample(([5, 6], 7), 3)
    assert seen[0] == [[[5, 6]], [7]]
    assert seen[1] == [[[5, 6]] * 3, [7] * 3]
    assert seen[2] == [[[5, 6]] * 2, [7] * 2]


class Pair(NamedTuple):
    first: object
    second: object


class Following(AutoRegressiveDecoder):
    """Its states hold what was written so far, and has to match at every step."""

    as_tensor = staticmethod(np.array)

    @AutoRegressiveDecoder.wraps(use_states=True)
    def predict(self, inputs, output_ids, states):
        if states is not None:
            written, steps, shared, label = states["all"]
            assert np.array(written.first).tolist() == output_ids[:, :-1].tolist()
            assert np.array(written.second[0]).tolist() == output_ids[:, -2].tolist()
            assert isinstance(written, Pair)
            assert (steps, label) == (output_ids.shape[1] - 1, "text")
            assert shared.shape == (90, 2)
        rng = np.random.default_rng(output_ids.sum(axis=1)[0])
        written = Pair(self.as_tensor(output_ids), [self.as_tensor(output_ids[:, -1])])
        states = {"all": [written, output_ids.shape[1], np.zeros((90, 2)), "text"]}
        return rng.random((len(output_ids), VOCAB)), states


def test_states_follow_their_rows():
    # The original hands them on as they are, to other rows than those they were made for.
    decoder = Following(0, 2, maxlen=12, minlen=4)
    np.random.seed(3)
    for size in (1, 2, 5):
        decoder.beam_search([], size, min_ends=2)
        decoder.random_sample([], size)


@pytest.mark.backend
def test_states_that_are_tensors_follow_their_rows():
    from keras import ops

    decoder = Following(0, 2, maxlen=6, minlen=3)
    decoder.as_tensor = ops.convert_to_tensor
    decoder.beam_search([], 3, min_ends=2)
    np.random.seed(3)
    decoder.random_sample([], 4)


def test_initial_states_are_repeated():
    class Starting(AutoRegressiveDecoder):
        @AutoRegressiveDecoder.wraps(use_states=True)
        def predict(self, inputs, output_ids, states):
            assert states.tolist() == [[8, 9]] * len(output_ids)
            return uniform(output_ids), states

    for topk in (1, 3):
        Starting(0, 2, 3).beam_search([], topk, states=np.array([[8, 9]]))
        Starting(0, 2, 3).random_sample([], topk, states=np.array([[8, 9]]))


def test_results_of_predict_are_copied():
    # The original divides them in place, which spoils a table that predict looks up.
    probas = np.array([[0.5, 0.5, 1.0]])
    probas.flags.writeable = False
    decoder = fixed(probas)
    decoder.random_sample([], 1, topp=0.9)
    decoder.beam_search([], 1)
    scores, _ = decoder.predict([], np.array([[0]]))
    scores[:, 1] = 0
    assert probas.tolist() == [[0.5, 0.5, 1.0]]


def test_tokens_may_be_removed_in_predict():
    decoder = fixed(lambda ids: np.array([0, 0, 0, 3, 0, 1, 0]) + np.zeros((len(ids), 1)))
    np.random.seed(0)
    drawn = np.concatenate([ids[1:] for ids in decoder.random_sample([], 50)])
    assert set(drawn.tolist()) == {3, 5}
    assert decoder.beam_search([], 2).tolist() == [0, 3, 3, 3, 3]


def test_half_precision_is_widened():
    decoder = fixed(lambda ids: uniform(ids).astype(np.float16))
    scores, _ = decoder.predict([], np.array([[0]]), None, 1, "logits")
    assert scores.dtype == np.float32 and np.isfinite(scores).all()
    assert len(decoder.random_sample([], 3)) == 3


def test_complete_outputs_come_first():
    def ending(output_ids):
        probas = uniform(output_ids) * (np.arange(VOCAB) != 2)
        if output_ids.shape[1] == 2:
            probas[1] = np.eye(VOCAB)[2]
        return probas

    np.random.seed(0)
    results = fixed(ending).random_sample([], 3)
    assert [len(ids) for ids in results] == [3, 5, 5]
    assert results[0][-1] == 2


# === What makes no difference, as in the original ===


def sampled(**options):
    probas = np.arange(1.0, VOCAB + 1) / np.arange(1.0, VOCAB + 1).sum()
    decoder = fixed(lambda output_ids: np.repeat(probas[None], len(output_ids), 0), end_id=VOCAB)
    np.random.seed(0)
    return [list(ids[1:]) for ids in decoder.random_sample([], 9, **options)]


def test_limits_of_sampling_that_limit_nothing():
    for options in ({"topp": 5}, {"topp": 1}, {"topk": VOCAB, "topp": 2.5}):
        assert len({token for ids in sampled(**options) for token in ids}) == VOCAB
    assert sampled(topk=0) == sampled()
    assert sampled(topp=0) == sampled(topk=1) == [[VOCAB - 1] * 4] * 9


def test_no_room_to_write():
    for maxlen in (0, -3):
        decoder = fixed(uniform)
        decoder.maxlen = maxlen  # as scripts set it for a text
        assert decoder.beam_search([[1]], 2).tolist() == [0]
        assert [ids.tolist() for ids in decoder.random_sample([[1]], 2)] == [[0], [0]]


def test_an_output_that_must_not_end():
    decoder = fixed(uniform, maxlen=3, minlen=9)
    assert len(decoder.beam_search([], 2)) == len(decoder.random_sample([], 1)[0]) == 4


def test_empty_inputs():
    class Continued(AutoRegressiveDecoder):
        @AutoRegressiveDecoder.wraps("probas")
        def predict(self, inputs, output_ids, states):
            assert inputs[1].shape == (len(output_ids), 0) and inputs[1].dtype == int
            return uniform(output_ids)

    assert len(Continued(0, VOCAB, 3).beam_search([[1, 2], []], 2)) == 4
    assert len(Continued(0, VOCAB, 3).random_sample([[1, 2], []], 2)) == 2


# === Errors ===


@pytest.mark.parametrize("value", [0, -1, 2.5, True, None, "3"])
def test_numbers_of_outputs_are_whole(value):
    with pytest.raises(ValueError, match=r"topk is .*give a whole number, at least 1"):
        fixed(uniform).beam_search([], value)
    with pytest.raises(ValueError, match=r"n is .*give a whole number, at least 1"):
        fixed(uniform).random_sample([], value)
    if value not in (None, 0):
        with pytest.raises(ValueError, match=r"topk is .*give a whole number, at least 0"):
            fixed(uniform).random_sample([], 2, topk=value)


def test_numpy_numbers_are_whole_too():
    assert len(fixed(uniform).random_sample([], np.int64(2), topk=np.int32(3))) == 2
    assert len(fixed(uniform).random_sample([], 4 / 2, topk=3.0)) == 2


def test_more_beams_than_tokens():
    for call in (
        lambda: fixed(uniform).beam_search([], VOCAB + 1),
        lambda: fixed(uniform).random_sample([], 2, topk=VOCAB + 1),
    ):
        with pytest.raises(ValueError, match="topk is 8, but predict gives the scores of 7"):
            call()


def test_sampling_options_that_make_no_sense():
    for call in (fixed(uniform).beam_search, fixed(uniform).random_sample):
        with pytest.raises(ValueError, match="temperature is 0, give more than 0"):
            call([], 2, temperature=0)
    for topp in (-1, np.nan):
        with pytest.raises(ValueError, match=r"topp is .*give at least 0"):
            fixed(uniform).random_sample([], 2, topp=topp)


@pytest.mark.parametrize("shape", [(3, VOCAB), (VOCAB,), (1, 2, VOCAB)])
def test_scores_of_another_shape(shape):
    for call in (fixed(np.ones(shape)).beam_search, fixed(np.ones(shape)).random_sample):
        with pytest.raises(ValueError, match=r"the shape \(.*\) at step 0: give \(1, vocabulary"):
            call([], 2)


@pytest.mark.parametrize("temperature", [1, 0.5])
def test_nan_is_reported_with_its_row(temperature):
    def spoiled(output_ids):
        probas = uniform(output_ids)
        if len(output_ids) > 1:
            probas[1, 3] = np.nan
        return probas

    for call in (fixed(spoiled).beam_search, fixed(spoiled).random_sample):
        with pytest.raises(ValueError, match="NaN in row 1 at step 1"):
            call([], 3, temperature=temperature)


def test_nan_logits_are_reported():
    decoder = LogitsTable(0, 2, 5)
    decoder.scores = lambda inputs, output_ids: np.full((len(output_ids), VOCAB), -np.inf)
    with pytest.raises(ValueError, match="NaN in row 0 at step 0"):
        decoder.beam_search([], 2)


def test_no_distribution_is_reported_with_its_row():
    for value, text in ((0, "the sum 0"), (-1, "minimum -1")):

        def spoiled(output_ids, value=value):
            probas = uniform(output_ids)
            probas[2:] = value
            return probas

        with pytest.raises(ValueError, match=f"no distribution in row 2 at step 1.*{text}"):
            fixed(spoiled, end_id=VOCAB).random_sample([], 3)


def test_wraps_of_another_type():
    with pytest.raises(ValueError, match="default_rtype is 'logit'"):
        AutoRegressiveDecoder.wraps("logit")


# === The last token of a model ===

CONFIG = {
    "vocab_size": 30,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "hidden_act": "gelu",
    "max_position_embeddings": 40,
    "initializer_range": 0.2,
}


def transformer(model, application="encoder", **kwargs):
    import keras

    from bert4keras.models import build_transformer_model

    keras.utils.set_random_seed(3)
    return build_transformer_model(
        None, None, model, application, return_keras_model=False, **CONFIG | kwargs
    )


def tokens(rows, length, seed=0):
    return np.random.default_rng(seed + 100 * rows + length).integers(1, 30, (rows, length))


def segments(rows, length):
    """A source in segment 0, if there is room for one, and what is written in segment 1."""
    return np.repeat([[0] * (length // 2) + [1] * (length - length // 2)], rows, axis=0)


def two(rows, length):
    return [tokens(rows, length), segments(rows, length)]


def context(rows, length, width=16):
    return np.random.default_rng(length).normal(size=(rows, 9, width)).astype("float32")


def plain_model():
    """A model of Keras layers that looks back only."""
    from keras import Input, Model, layers

    x = Input((None,), dtype="int32")
    h = layers.Embedding(30, 8)(x)
    h = h + layers.MultiHeadAttention(2, 4)(h, h, use_causal_mask=True)
    h = layers.Conv1D(8, 3, padding="causal")(h)
    return Model(x, layers.Dense(30, activation="softmax")(h))


def unmasked_model():
    """A model that looks ahead and hides nothing."""
    from keras import Input, Model, layers

    x = Input((None,), dtype="int32")
    h = layers.Embedding(30, 8)(x)
    h = h + layers.MultiHeadAttention(2, 4)(h, h)
    return Model(x, layers.Dense(30)(h))


def convolution_model():
    """A model that sees the neighbour on the right."""
    from keras import Input, Model, layers

    x = Input((None,), dtype="int32")
    h = layers.Conv1D(8, 3, padding="same")(layers.Embedding(30, 8)(x))
    return Model(x, layers.Dense(30, activation="softmax")(h))


def subclassed_class():
    from keras import Model, layers

    class Recurrent(Model):
        def __init__(self):
            super().__init__()
            self.embedding = layers.Embedding(30, 8)
            self.cell = layers.GRU(8, return_sequences=True)

        def call(self, x):
            return self.cell(self.embedding(x))

    return Recurrent


def subclassed_model():
    model = subclassed_class()()
    model(np.array([[1, 2]]))
    return model


MODELS = {
    "unilm": (lambda: transformer("bert", "unilm").model, two),
    "gpt2_ml": (lambda: transformer("gpt2_ml", final_activation="linear").model, tokens),
    "llama": (lambda: transformer("llama", hidden_act="swish").model, tokens),
    "masked lm": (lambda: transformer("bert", with_mlm=True).model, two),
    "roberta": (lambda: transformer("roberta", with_mlm=True, pad_token_id=4).model, two),
    "decoder": (
        lambda: transformer("t5.1.0").decoder,
        lambda rows, length: [context(rows, length), tokens(rows, length)],
    ),
    "t5": (
        lambda: transformer("t5.1.0").model,
        lambda rows, length: [tokens(rows, 11), tokens(rows, length)],
    ),
    "keras": (plain_model, tokens),
    "unmasked": (unmasked_model, tokens),
    "convolution": (convolution_model, tokens),
    "subclass": (subclassed_model, tokens),
}


def model_outputs(model, inputs):
    from keras import ops

    return ops.convert_to_numpy(model.predict_on_batch(inputs))


def growing():
    """Rows and lengths as decoding has them, first those of short, then of longer outputs."""
    return [(3, 3), (4, 7), (1, 21)]


@pytest.mark.backend
@pytest.mark.parametrize("name", MODELS)
def test_the_last_token_is_that_of_the_model(name):
    make, inputs_of_length = MODELS[name]
    model = make()
    last = LastToken(model)
    for rows, length in growing():
        inputs = inputs_of_length(rows, length)
        expected = model_outputs(model, inputs)[:, -1]
        found = last.predict(inputs)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-6)
        found[:, 5] = 0  # as scripts do
    padded = [bool(inputs) for _, inputs in last._padding_plans.values()]
    if on_jax():
        assert padded and all(padded) is (name not in ("unmasked", "convolution")), (
            last._padding_plans
        )
    else:
        assert not padded


@pytest.mark.backend
def test_the_first_step_of_a_decoder():
    # One token, which sees nothing but itself: Keras warns about a softmax of one number.
    model = transformer("t5.1.0").decoder
    inputs = [context(1, 1), np.array([[3]])]
    expected = model_outputs(model, inputs)[:, -1]
    np.testing.assert_allclose(LastToken(model).predict(inputs), expected, rtol=1e-4, atol=2e-6)


@pytest.mark.backend
def test_both_lengths_of_an_encoder_and_a_decoder_vary():
    # Whose length the output has is seen from the inputs, also where both were the same at first.
    model = transformer("t5.1.0").model
    last = LastToken(model)
    for source, target in ((6, 6), (6, 9), (9, 6), (20, 3), (5, 16)):
        inputs = [tokens(2, source), tokens(2, target, seed=1)]
        expected = model_outputs(model, inputs)[:, -1]
        np.testing.assert_allclose(last.predict(inputs), expected, rtol=1e-4, atol=2e-6)
    if on_jax():
        assert {i for _, padded in last._padding_plans.values() for i in padded} == {0, 1}


@pytest.mark.backend
def test_only_the_outputs_sequence_is_padded_where_the_other_cannot_be():
    from keras import Input, Model, layers

    source, target = Input((None,), dtype="int32"), Input((None,), dtype="int32")
    embedding = layers.Embedding(30, 8)
    mean = layers.GlobalAveragePooling1D(keepdims=True)(embedding(source))  # counts the padding
    h = layers.GRU(8, return_sequences=True)(embedding(target) + mean)
    model = Model([source, target], layers.Dense(30, activation="softmax")(h))
    last = LastToken(model)
    for length in (4, 5, 9):
        inputs = [tokens(2, 6), tokens(2, length)]
        expected = model_outputs(model, inputs)[:, -1]
        np.testing.assert_allclose(last.predict(inputs), expected, rtol=1e-4, atol=2e-6)
    if on_jax():
        assert list(last._padding_plans.values()) == [(1, {1})]


class Watch:
    """Counts the shapes that a layer is called with, and the calls; for both it is made anew."""

    def __init__(self):
        import keras

        calls = self.calls = []

        @keras.saving.register_keras_serializable(package="tests")
        class Watched(keras.layers.Layer):
            def call(self, x):
                calls.append(tuple(x.shape))
                return x * 1

        self.layer = Watched()


def watched_model():
    from keras import Input, Model, layers

    watch = Watch()
    x = Input((None,), dtype="int32")
    h = watch.layer(layers.Embedding(30, 8)(x))
    h = layers.GRU(8, return_sequences=True)(h)
    model = Model(x, layers.Dense(30)(h))
    watch.calls.clear()
    return model, watch.calls


@pytest.mark.backend
def test_compilations_are_bounded():
    import keras

    model, calls = watched_model()
    last = LastToken(model)
    steps = [(rows, length) for length in range(1, 51) for rows in (1, 4, 3, 5)]
    for rows, length in steps:
        last.predict(tokens(rows, length))
    if keras.backend.backend() == "tensorflow":
        assert len(calls) <= 3  # a graph for the first shape, then for any length, any batch
    elif keras.backend.backend() == "jax":
        # At most one for each batch and length of the set, and one more length that is not padded.
        lengths = {bucket_length(length) for _, length in steps}
        assert lengths == {1, 16, 32, 48, 64}
        assert len(calls) <= 3 * len(lengths) + len(lengths)
        assert {shape[0] for shape in calls} == {1, 4, 8}
    else:
        assert len(calls) == len(steps)  # nothing is compiled, so each is computed as it is


@pytest.mark.backend
def test_no_length_beyond_the_positions():
    model = transformer("bert", "unilm").model
    last = LastToken(model)
    for length in (33, 37, 40):  # 48 would be the next length of the set, the table has 40
        expected = model_outputs(model, two(1, length))[:, -1]
        np.testing.assert_allclose(last.predict(two(1, length)), expected, rtol=1e-4, atol=2e-6)
    if on_jax():
        assert list(last._padding_plans) == [((40, 0), (40, 0))]


@pytest.mark.backend
def test_lengths_that_a_model_refuses_are_left_out():
    class Short(subclassed_class()):
        def call(self, x):
            if x.shape[1] is not None and x.shape[1] > 20:
                raise ArithmeticError("too long")
            return super().call(x)

    model = Short()
    model(np.array([[1, 2]]))
    last = LastToken(model)
    for length in (18, 19, 20):
        expected = model_outputs(model, tokens(2, length))[:, -1]
        np.testing.assert_allclose(last.predict(tokens(2, length)), expected, rtol=1e-4, atol=2e-6)


@pytest.mark.backend
def test_a_fixed_length_stays():
    model = transformer("bert", "unilm", sequence_length=7).model
    expected = model_outputs(model, two(3, 7))[:, -1]
    found = LastToken(model).predict(two(3, 7))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-6)


@pytest.mark.backend
def test_weights_may_change():
    model = transformer("bert", "lm").model
    last = LastToken(model)
    before = last.predict(two(2, 5))
    table = model.get_layer("Embedding-Token").weights[0]
    table.assign(np.random.default_rng(0).normal(size=table.shape))
    after = last.predict(two(2, 5))
    np.testing.assert_allclose(after, model_outputs(model, two(2, 5))[:, -1], rtol=1e-4, atol=2e-6)
    assert np.abs(after - before).max() > 1e-3


@pytest.mark.backend
def test_several_outputs_keep_their_structure():
    from keras import Input, Model, layers, ops

    x = Input((None,), dtype="int32", name="ids")
    h = layers.GRU(8, return_sequences=True)(layers.Embedding(30, 8)(x))
    model = Model({"ids": x}, {"hidden": h, "scores": layers.Dense(30)(h)})
    expected = model({"ids": tokens(2, 5)})
    found = LastToken(model).predict(tokens(2, 5))
    assert found.keys() == expected.keys()
    for name, output in expected.items():
        output = ops.convert_to_numpy(output)[:, -1]
        np.testing.assert_allclose(found[name], output, rtol=1e-4, atol=2e-6)


@pytest.mark.backend
def test_inputs_of_any_kind():
    # Joined with an empty output, ids become floats; lists are what a tokenizer gives.
    model = transformer("bert", "unilm").model
    expected = model_outputs(model, two(1, 5))[:, -1]
    ids, segment_ids = two(1, 5)
    last = LastToken(model)
    for inputs in ([ids.astype("float64"), segment_ids], [ids.tolist(), segment_ids.tolist()]):
        np.testing.assert_allclose(last.predict(inputs), expected, rtol=1e-4, atol=2e-6)
    last = LastToken(plain_model())
    for inputs in ([ids], ids.tolist()):
        np.testing.assert_array_equal(last.predict(inputs), last.predict(ids))


@pytest.mark.backend
def test_wrong_inputs():
    last = LastToken(transformer("bert", "unilm").model)
    with pytest.raises(ValueError, match="the model has 2 inputs and got 1"):
        last.predict(tokens(1, 5))
    with pytest.raises(ValueError, match="one batch size, none of them empty"):
        last.predict([tokens(1, 5), tokens(2, 5)])
    with pytest.raises(ValueError, match="one batch size, none of them empty"):
        last.predict([np.zeros((1, 0)), np.zeros((1, 0))])


@pytest.mark.backend
def test_half_precision_gives_float32():
    import keras

    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = transformer("gpt2_ml", final_activation="linear").model
    finally:
        keras.config.set_dtype_policy("float32")
    last = LastToken(model)
    for length in (3, 5, 20):
        found = last.predict(tokens(2, length))
        expected = np.float32(model_outputs(model, tokens(2, length))[:, -1])
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=0.05 * np.abs(expected).max())


@pytest.mark.backend
def test_a_model_is_prepared_once_and_given_up_with_the_decoder():
    decoder = AutoRegressiveDecoder(0, 2, 5)
    model, other = plain_model(), plain_model()
    last = decoder.last_token(model)
    last.predict(tokens(1, 5))
    assert decoder.last_token(model) is last
    assert decoder.last_token(other) is not last
    held = weakref.ref(last)
    del decoder, last
    gc.collect()
    assert held() is None


@pytest.mark.backend
def test_a_script_decodes_as_with_the_model_itself():
    model = transformer("bert", "unilm").model

    class Script(AutoRegressiveDecoder):
        def next_tokens(self, inputs):
            return self.last_token(model).predict(inputs)

        @AutoRegressiveDecoder.wraps(default_rtype="probas")
        def predict(self, inputs, output_ids, states):
            token_ids, segment_ids = inputs
            token_ids = np.concatenate([token_ids, output_ids], 1)
            segment_ids = np.concatenate([segment_ids, np.ones_like(output_ids)], 1)
            probas = self.next_tokens([token_ids, segment_ids])
            probas[:, 5] = 0
            return probas

    class Growing(Script):
        def next_tokens(self, inputs):
            return np.array(model_outputs(model, inputs)[:, -1])

    source = [tokens(1, 9)[0], np.zeros(9)]
    results = []
    for kind in (Script, Growing):
        decoder = kind(start_id=None, end_id=2, maxlen=5)
        np.random.seed(1)
        results.append([decoder.beam_search(source, 2), *decoder.random_sample(source, 2)])
    for fast, plain in zip(*results, strict=True):
        assert fast.tolist() == plain.tolist() and 5 not in fast
