"""Models against the original: outputs, layers, weights; and what happens when things go wrong."""

import json

import keras
import numpy as np
import pytest
import reference as ref
from golden import OWN_REFERENCES, load_json

from bert4keras import checkpoints, layers, models
from bert4keras.checkpoints import CheckpointError
from bert4keras.layers.adapters import weight_name
from bert4keras.models import Model, build_transformer_model

pytestmark = pytest.mark.backend

PARTS = 8  # of the reference models, for several workers


def golden_cases(references):
    """The folders and descriptions of all reference models."""
    folder = references / "models"
    for name in json.loads((folder / "index.json").read_text()):
        yield folder / name, load_json(folder / name / "case.json")


def build(folder, case, checkpoint=True, **overrides):
    """Build the model of a golden case, as its `case.json` says."""
    kwargs = dict(case["kwargs"])
    if cond := case["cond"]:
        x = keras.Input((cond["dim"],), name="Input-Cond")
        kwargs |= {"layer_norm_cond": x, "additional_input_layers": x}
        if projection := cond.get("projection"):
            dense = keras.layers.Dense(**projection, name="Cond-Dense")
            kwargs["layer_norm_cond"] = dense(x)
        for key in ("hidden_size", "hidden_act"):
            if key in cond:
                kwargs[f"layer_norm_cond_{key}"] = cond[key]
    if caches := case["attention_caches"]:
        inputs = [
            [keras.Input((None, caches["dim"]), name=f"Input-{kind}-Cache-{i}") for kind in "KV"]
            for i in range(len(caches["layers"]))
        ]
        kwargs["attention_caches"] = dict(zip(caches["layers"], inputs, strict=True))
        kwargs["additional_input_layers"] = [x for pair in inputs for x in pair]
    transformer = build_transformer_model(
        folder / "config.json",
        folder / "model.ckpt" if checkpoint else None,
        case["model"],
        case["application"],
        return_keras_model=False,
        **(kwargs | overrides),
    )
    if (folder / "extra_weights.npz").exists():
        for key, value in np.load(folder / "extra_weights.npz").items():
            layer, index = key.rsplit("/", 1)
            transformer.model.get_layer(layer).weights[int(index)].assign(value)
    return transformer


def inputs_of(folder, case):
    arrays = np.load(folder / "io.npz")
    return [arrays[f"in_{i}"] for i in range(len(case["input_names"]))]


def outputs_of(model, inputs):
    """The outputs as arrays; compiled on JAX alone, where operation by operation takes longer."""
    inputs = inputs if len(inputs) > 1 else inputs[0]
    if keras.backend.backend() == "jax":
        outputs = model.predict_on_batch(inputs)
    else:
        outputs = model(keras.tree.map_structure(keras.ops.convert_to_tensor, inputs))
    return [keras.ops.convert_to_numpy(x) for x in keras.tree.flatten(outputs)]


def test_there_are_118_models_of_the_original(shared):
    assert len(list(golden_cases(shared / "golden"))) == 118


def test_every_architecture_comes_with_reference_outputs():
    models = {case["model"] for _, case in golden_cases(OWN_REFERENCES)}
    assert len(models) == 20


@pytest.mark.filterwarnings("ignore:.*which bert4keras 0.11.5 did not write")
@pytest.mark.parametrize("part", range(PARTS))
def test_outputs_are_those_of_the_original(references, part):
    for folder, case in list(golden_cases(references))[part::PARTS]:
        model = build(folder, case).model
        arrays = np.load(folder / "io.npz")
        found = outputs_of(model, inputs_of(folder, case))
        assert len(found) == case["n_outputs"], folder.name
        for i, output in enumerate(found):
            assert np.abs(output - arrays[f"out_{i}"]).max() < 1e-4, folder.name
        assert [x.name for x in model.inputs] == case["input_names"], folder.name
        assert {layer.name for layer in model.layers} == set(case["layer_names"]), folder.name
        for name, labels in case["layer_weights"].items():
            layer = model.get_layer(name)
            weights = [(weight_name(layer, w), tuple(w.shape)) for w in layer.weights]
            assert weights == [(label, tuple(shape)) for label, shape in labels], folder.name


# --- small models of our own, so that a clone without the reference outputs tests the same things

CONFIG = {
    "vocab_size": 30,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "hidden_act": "gelu",
    "max_position_embeddings": 20,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "type_vocab_size": 2,
    "directionality": "bidi",
}

TOKEN_IDS = [[2, 7, 9, 3, 0, 0], [2, 8, 3, 0, 0, 0], [2, 5, 6, 7, 8, 3]]
SEGMENT_IDS = [[0, 0, 1, 1, 0, 0], [0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with config, checkpoint (random weights) and vocabulary."""
    folder = tmp_path_factory.mktemp("checkpoint")
    (folder / "bert_config.json").write_text(json.dumps(CONFIG))
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(chr, range(0x4E00, 0x4E00 + 25))]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    keras.utils.set_random_seed(1)
    transformer = build_transformer_model(
        folder / "bert_config.json", with_nsp=True, with_mlm=True, return_keras_model=False
    )
    for weight in transformer.model.weights:  # biases are zero at first, and would hide mistakes
        weight.assign(np.random.default_rng(0).normal(size=weight.shape) * 0.3)
    transformer.save_weights_as_checkpoint(folder / "bert_model.ckpt")
    return folder


@pytest.fixture(scope="module")
def encoder(folder):
    return build_transformer_model(folder)


def run(model):
    outputs = model.predict_on_batch([TOKEN_IDS, SEGMENT_IDS])
    return np.asarray(outputs)


def reference_bert(variables, unilm=False):
    """The forward pass of google-research/bert, in NumPy and float64."""
    v = {name: value.astype("float64") for name, value in variables.items()}
    tokens, segments = np.array(TOKEN_IDS), np.array(SEGMENT_IDS)

    def dense(x, name):
        return ref.dense(x, v[f"{name}/kernel"], v[f"{name}/bias"])

    def norm(x, name):
        return ref.norm(x, [v[f"{name}/LayerNorm/{w}"] for w in ("beta", "gamma")], 1e-12)

    x = v["bert/embeddings/word_embeddings"][tokens]
    x = x + v["bert/embeddings/token_type_embeddings"][segments]
    x = norm(x + v["bert/embeddings/position_embeddings"][: x.shape[1]], "bert/embeddings")
    visible = ref.key_mask(tokens)[:, None, None]
    if unilm:
        visible = visible & ref.unilm(segments)
    for i in range(2):
        name = f"bert/encoder/layer_{i}"
        parts = ("self/query", "self/key", "self/value", "output/dense")
        weights = [v[f"{name}/attention/{p}/{w}"] for p in parts for w in ("kernel", "bias")]
        attended, _ = ref.attention(x, x, weights, 2, visible)
        x = norm(x + attended, f"{name}/attention/output")
        hidden = ref.gelu(dense(x, f"{name}/intermediate/dense"))
        x = norm(x + dense(hidden, f"{name}/output/dense"), f"{name}/output")
    return x, v, dense, norm


def variables_of(folder):
    with checkpoints.open_checkpoint(folder / "bert_model.ckpt") as bundle:
        return {name: np.array(bundle[name]) for name in bundle}


def test_an_encoder_is_the_published_computation(folder, encoder):
    expected, *_ = reference_bert(variables_of(folder))
    assert np.abs(run(encoder) - expected).max() < 1e-4


def test_a_unilm_is_the_published_computation(folder):
    model = build_transformer_model(folder, application="unilm", with_mlm="linear")
    x, v, dense, norm = reference_bert(variables_of(folder), unilm=True)
    x = norm(ref.gelu(dense(x, "cls/predictions/transform/dense")), "cls/predictions/transform")
    scores = x @ v["bert/embeddings/word_embeddings"].T + v["cls/predictions/output_bias"]
    assert np.abs(run(model) - scores).max() < 1e-4


def test_a_language_model_does_not_see_what_comes_later(folder):
    model = build_transformer_model(folder, application="lm")
    tokens = np.array([[2, 7, 9, 3, 5, 6]])
    changed = tokens.copy()
    changed[0, 4:] = [8, 9]
    segments = np.zeros_like(tokens)
    before, after = (model.predict_on_batch([t, segments]) for t in (tokens, changed))
    before, after = np.asarray(before), np.asarray(after)
    assert np.abs(before[0, :4] - after[0, :4]).max() < 1e-6
    assert np.abs(before[0, 4:] - after[0, 4:]).max() > 1e-3


def test_padding_changes_nothing(encoder):
    tokens, segments = np.array(TOKEN_IDS), np.array(SEGMENT_IDS)
    longer = [np.pad(x, ((0, 0), (0, 7))) for x in (tokens, segments)]
    difference = np.asarray(encoder.predict_on_batch(longer))[:, :6] - run(encoder)
    assert np.abs(difference[tokens != 0]).max() < 1e-5


def test_a_batch_gives_what_its_rows_give(encoder):
    rows = [
        np.asarray(encoder.predict_on_batch([[t], [s]]))[0]
        for t, s in zip(TOKEN_IDS, SEGMENT_IDS, strict=True)
    ]
    assert np.abs(np.stack(rows) - run(encoder)).max() < 1e-5


@pytest.mark.parametrize("application", ["encoder", "unilm"])
@pytest.mark.parametrize("model", ["bert", "roformer"])
def test_what_is_saved_loads_bit_equal(tmp_path, folder, model, application):
    source = folder if model == "bert" else folder / "bert_config.json"
    original = build_transformer_model(source, model=model, application=application)
    original.save(tmp_path / "whole.keras")
    original.save_weights(tmp_path / "best_model.weights")
    whole = keras.models.load_model(tmp_path / "whole.keras")
    weights = build_transformer_model(
        folder / "bert_config.json", model=model, application=application
    )
    weights.load_weights(tmp_path / "best_model.weights")
    for copy in (whole, weights):
        assert isinstance(copy, Model)
        assert (run(copy) == run(original)).all()


def test_an_official_checkpoint_is_written_as_it_was_read(tmp_path, folder):
    transformer = build_transformer_model(
        folder, with_nsp=True, with_mlm=True, return_keras_model=False
    )
    transformer.save_weights_as_checkpoint(tmp_path / "bert_model.ckpt")
    for suffix in (".index", ".data-00000-of-00001"):
        before = (folder / f"bert_model.ckpt{suffix}").read_bytes()
        assert (tmp_path / f"bert_model.ckpt{suffix}").read_bytes() == before


def test_the_report_says_what_was_loaded(folder):
    transformer = build_transformer_model(
        folder / "bert_config.json", with_pool=True, return_keras_model=False
    )
    report = transformer.load_weights_from_checkpoint(folder / "bert_model.ckpt")
    assert "bert/pooler/dense/kernel" in report.loaded
    assert "cls/predictions/output_bias" in report.unused
    assert report.from_scratch == ()


# --- what scripts write


def test_nested_lists_generators_and_none_targets(encoder):
    expected = run(encoder)
    found = encoder.predict([TOKEN_IDS, SEGMENT_IDS], verbose=0)
    assert np.abs(found - expected).max() < 1e-5
    with pytest.raises(ValueError, match="sequence_padding"):
        encoder.predict([[[1, 2], [1]], [[0, 0], [0]]])


def test_a_bar_is_drawn_for_more_than_one_batch(encoder, capsys):
    ids = np.ones((3, 4), "int32")
    encoder.predict([ids, ids * 0])
    assert capsys.readouterr().out == ""
    encoder.predict([ids, ids * 0], batch_size=2)
    assert "2/2" in capsys.readouterr().out
    encoder.predict([ids, ids * 0], verbose=1)
    assert "1/1" in capsys.readouterr().out


def test_a_generator_of_lists_trains(folder):
    base = build_transformer_model(folder, with_pool=True)
    model = Model(base.inputs, keras.layers.Dense(2, activation="softmax")(base.output))
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")

    def batches():
        for length in (5, 5, 7, 6, 9, 5) * 2:
            yield [np.ones((2, length), "int32"), np.zeros((2, length), "int32")], np.array([0, 1])

    for ignored in ({"y": np.array([0, 1])}, {"class_weight": {0: 1.0, 1: 2.0}}):
        with pytest.raises(ValueError, match="each batch"):
            model.fit(batches(), steps_per_epoch=6, verbose=0, **ignored)
    history = model.fit(batches(), steps_per_epoch=6, epochs=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()


def test_the_size_of_batches_and_the_epochs_may_be_given_by_place():
    x = keras.Input((3,))
    model = Model(x, keras.layers.Dense(2)(x))
    model.compile("sgd", "mse")
    history = model.fit(np.ones((4, 3)), np.ones((4, 2)), 2, 3, verbose=0)
    assert history.epoch == [0, 1, 2] and int(model.optimizer.iterations) == 6
    assert model.evaluate(np.ones((4, 3)), np.ones((4, 2)), 2, 0) < history.history["loss"][0]


def test_automatic_names_do_not_depend_on_history(tmp_path):
    """A script that built another model first calls its Dense `dense_1` instead of `dense`."""

    def build_model():
        x = keras.Input((3,))
        return Model(x, keras.layers.Dense(2)(keras.layers.Dense(4)(x)))

    first, second = build_model(), build_model()
    assert [layer.name for layer in first.layers] != [layer.name for layer in second.layers]
    first.save_weights(tmp_path / "w")
    second.load_weights(tmp_path / "w")
    x = np.ones((2, 3), "float32")
    assert (np.asarray(first.predict_on_batch(x)) == np.asarray(second.predict_on_batch(x))).all()


def test_weights_of_another_model_are_refused(tmp_path, folder, encoder):
    encoder.save_weights(tmp_path / "weights")
    config = folder / "bert_config.json"
    deeper = build_transformer_model(config, num_hidden_layers=3)
    wider = build_transformer_model(config, intermediate_size=32)
    for model, message in ((deeper, "of another model"), (wider, "shapes")):
        before = [np.array(w) for w in model.get_weights()]
        with pytest.raises(CheckpointError, match=message):
            model.load_weights(tmp_path / "weights")
        assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))
    deeper.load_weights(tmp_path / "weights", by_name=True)
    name = "Transformer-1-FeedForward"
    loaded = deeper.get_layer(name).get_weights()[0]
    assert (loaded == encoder.get_layer(name).get_weights()[0]).all()
    wider.load_weights(tmp_path / "weights", skip_mismatch=True)


def test_weights_are_not_overwritten_by_accident(tmp_path, encoder):
    encoder.save_weights(tmp_path / "w")
    with pytest.raises(FileExistsError):
        encoder.save_weights(tmp_path / "w", overwrite=False)


# --- hooks


def test_every_hook_can_be_overridden(folder):
    calls = []

    class Mine(models.BERT):
        def get_inputs(self):
            calls.append("get_inputs")
            return super().get_inputs()

        def apply_embeddings(self, inputs):
            calls.append("apply_embeddings")
            return super().apply_embeddings(inputs)

        def apply_main_layers(self, inputs, index):
            calls.append(f"apply_main_layers {index}")
            return super().apply_main_layers(inputs, index)

        def apply_final_layers(self, inputs):
            calls.append("apply_final_layers")
            return super().apply_final_layers(inputs)

        def compute_attention_bias(self, inputs=None):
            calls.append("compute_attention_bias")
            return super().compute_attention_bias(inputs)

        def compute_position_bias(self, inputs=None):
            calls.append("compute_position_bias")
            return super().compute_position_bias(inputs)

        def variable_mapping(self):
            calls.append("variable_mapping")
            return super().variable_mapping()

        def load_variable(self, checkpoint, name):
            return super().load_variable(checkpoint, name) * 2

        def create_variable(self, name, value, dtype=None):
            return super().create_variable(name, value, dtype) / 2

        def load_embeddings(self, embeddings):
            calls.append("load_embeddings")
            return super().load_embeddings(embeddings)

        @property
        def initializer(self):
            return keras.initializers.Constant(0.5)

    transformer = build_transformer_model(folder, model=Mine, return_keras_model=False)
    block = ["compute_attention_bias", "compute_position_bias"]
    order = ["get_inputs", "apply_embeddings", "apply_main_layers 0", *block]
    order += ["apply_main_layers 1", *block, "apply_final_layers", "variable_mapping"]
    order += ["load_embeddings"]  # once to be checked, once to be assigned
    assert list(dict.fromkeys(calls)) == list(dict.fromkeys(order))
    table = transformer.model.get_layer("Embedding-Token").get_weights()[0]
    assert np.allclose(table, 2 * variables_of(folder)["bert/embeddings/word_embeddings"])
    fresh = build_transformer_model(folder / "bert_config.json", model=Mine)
    assert (np.array(fresh.get_layer("Embedding-Token").get_weights()[0]) == 0.5).all()


class Halved(models.RoFormerV2):
    """Draws half of what the architecture does with another order, by a method."""

    def initializer(self, shape, dtype=None, order=1, gain=0.5):
        return super().initializer(shape, dtype, order, gain)


class HalvedBERT(models.BERT):
    def initializer(self, shape, dtype=None, order=3, gain=0.5):
        return super(HalvedBERT, self).initializer(shape, dtype, order, gain)  # noqa: UP008


class Doubled(HalvedBERT):
    def initializer(self, shape, dtype=None):
        return 4 * super().initializer(shape, dtype)


@pytest.mark.parametrize(
    ("model", "kernel", "table"),
    [
        # 0.5 · size^(−1/2) · blocks^(−1/order), of rows and of columns
        (Halved, 0.5 * 64**-0.5 / 2, 0.5 * 64**-0.5 / 2),
        (HalvedBERT, 0.01 * 0.88, 0.01 * 0.88),  # what is left of a normal distribution cut off
        (Doubled, 0.04 * 0.88, 0.04 * 0.88),
    ],
)
def test_a_method_that_draws_initial_weights(model, kernel, table, tmp_path):
    """As `initializer(shape, dtype, order, gain)` of RoFormerV2 in 0.11.5; figures measured."""
    sizes = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
    transformer = build_transformer_model(
        model=model,
        vocab_size=10_001,
        intermediate_size=64,
        hidden_act="gelu",
        max_position=16,
        return_keras_model=False,
        **sizes,
    )
    weights = [
        transformer.model.get_layer("Embedding-Token").weights[0],
        transformer.model.get_layer("Transformer-0-FeedForward").weights[0],
        transformer.model.get_layer("Transformer-1-MultiHeadSelfAttention").weights[0],
        transformer.initializer((64, 64), "float32"),
        keras.layers.Dense(64, kernel_initializer=transformer.initializer)(np.eye(64)),
    ]
    for weight, expected in zip(weights, [table] + [kernel] * 4, strict=True):
        assert np.std(keras.ops.convert_to_numpy(weight)) == pytest.approx(expected, rel=0.05)
    x = [np.ones((1, 4)), np.zeros((1, 4))]
    transformer.model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert np.allclose(loaded.predict_on_batch(x), transformer.model.predict_on_batch(x))
    config = loaded.get_layer("Transformer-0-FeedForward").get_config()["kernel_initializer"]
    assert config["class_name"] in ("VarianceScaling", "TruncatedNormal")


class WrittenOut(models.BERT):
    """A block written out in full, as scripts for the original do."""

    def apply_main_layers(self, inputs, index):
        x = inputs
        z = self.layer_norm_conds[0]
        attention_name = f"Transformer-{index}-MultiHeadSelfAttention"
        feed_forward_name = f"Transformer-{index}-FeedForward"
        attention_mask = self.compute_attention_bias(index)

        xi, x, arguments = x, [x, x, x], {"a_bias": None}
        if attention_mask is not None:
            arguments["a_bias"] = True
            x.append(attention_mask)
        x = self.apply(
            inputs=x,
            layer=layers.MultiHeadAttention,
            arguments=arguments,
            heads=self.num_attention_heads,
            head_size=self.attention_head_size,
            out_dim=self.hidden_size,
            key_size=self.attention_key_size,
            attention_dropout=self.attention_dropout_rate,
            kernel_initializer=self.initializer,
            name=attention_name,
        )
        x = self.apply(
            inputs=x,
            layer=keras.layers.Dropout,
            rate=self.dropout_rate,
            name=f"{attention_name}-Dropout",
        )
        x = self.apply(inputs=[xi, x], layer=keras.layers.Add, name=f"{attention_name}-Add")
        x = self.apply(
            inputs=self.simplify([x, z]),
            layer=layers.LayerNormalization,
            conditional=(z is not None),
            hidden_units=self.layer_norm_conds[1],
            hidden_activation=self.layer_norm_conds[2],
            hidden_initializer=self.initializer,
            epsilon=1e-12,
            name=f"{attention_name}-Norm",
        )
        xi = x
        x = self.apply(
            inputs=x,
            layer=layers.FeedForward,
            units=self.intermediate_size,
            activation=self.hidden_act,
            kernel_initializer=self.initializer,
            name=feed_forward_name,
        )
        x = self.apply(
            inputs=x,
            layer=keras.layers.Dropout,
            rate=self.dropout_rate,
            name=f"{feed_forward_name}-Dropout",
        )
        x = self.apply(inputs=[xi, x], layer=keras.layers.Add, name=f"{feed_forward_name}-Add")
        return self.apply(
            inputs=self.simplify([x, z]),
            layer=layers.LayerNormalization,
            conditional=(z is not None),
            hidden_units=self.layer_norm_conds[1],
            hidden_activation=self.layer_norm_conds[2],
            hidden_initializer=self.initializer,
            epsilon=1e-12,
            name=f"{feed_forward_name}-Norm",
        )


@pytest.mark.parametrize("application", ["encoder", "unilm"])
def test_a_block_written_out_against_apply_works(folder, application):
    theirs = build_transformer_model(folder, model=WrittenOut, application=application)
    ours = build_transformer_model(folder, application=application)
    assert [x.name for x in theirs.layers] == [x.name for x in ours.layers]
    assert np.abs(run(theirs) - run(ours)).max() < 1e-6


class PreNorm(models.BERT):
    """Differs from BERT by its block alone."""

    block = models.Block(attention_norms=("pre", "post"), feed_forward_norms=("pre",), epsilon=1e-5)


def test_a_block_is_data(folder):
    model = build_transformer_model(folder / "bert_config.json", model=PreNorm)
    names = [layer.name for layer in model.layers if layer.name.startswith("Transformer-0-")]
    attention, feed_forward = "Transformer-0-MultiHeadSelfAttention", "Transformer-0-FeedForward"
    assert names[:2] == [f"{attention}-Norm-0", attention]
    assert f"{attention}-Norm-1" in names and f"{feed_forward}-Norm-1" not in names
    assert model.get_layer(f"{attention}-Norm-0").epsilon == 1e-5


def test_layers_are_shared_by_name(folder):
    teacher = build_transformer_model(folder, return_keras_model=False)
    student = build_transformer_model(
        folder / "bert_config.json",
        layers=teacher.layers,
        num_hidden_layers=1,
        return_keras_model=False,
    )
    name = "Transformer-0-FeedForward"
    assert student.model.get_layer(name) is teacher.model.get_layer(name)


def test_two_models_with_prefixes_fit_into_one(folder):
    pair = [build_transformer_model(folder, prefix=p) for p in ("Teacher-", "Student-")]
    joined = Model([x for m in pair for x in m.inputs], [m.output for m in pair])
    a, b = joined.predict_on_batch([TOKEN_IDS, SEGMENT_IDS] * 2)
    assert (np.asarray(a) == np.asarray(b)).all()


# --- combinations that crash in the original


@pytest.mark.parametrize("application", ["lm", "unilm"])
def test_residual_attention_scores_of_language_models(folder, application):
    """A crash in the original, which adds a boolean mask to float scores."""
    model = build_transformer_model(folder, application=application, residual_attention_scores=True)
    plain = build_transformer_model(folder, application=application)
    found = run(model)
    assert np.isfinite(found).all() and np.abs(found - run(plain)).max() > 1e-4
    later = np.array(TOKEN_IDS)
    later[2, -1] = 9
    moved = np.asarray(model.predict_on_batch([later, SEGMENT_IDS]))
    assert np.abs(moved[2, :5] - found[2, :5]).max() < 1e-6


@pytest.mark.parametrize("model", ["bert", "roformer"])
@pytest.mark.parametrize("application", ["encoder", "lm", "unilm"])
def test_custom_positions_without_segments(folder, model, application):
    """A crash in the original, which finds positions and segments by their place among the inputs.

    A UniLM without segment embeddings still takes segment ids, for its mask.
    """
    built = build_transformer_model(
        folder,
        model=model,
        application=application,
        segment_vocab_size=0,
        custom_position_ids=True,
        ignore_invalid_weights=True,
    )
    kinds = ["Token", *(["Segment"] if application == "unilm" else []), "Position"]
    assert [x.name for x in built.inputs] == [f"Input-{kind}" for kind in kinds]
    positions = np.tile(np.arange(6), (3, 1))
    inputs = [TOKEN_IDS, *([SEGMENT_IDS] if application == "unilm" else [])]
    first, moved = (
        np.asarray(built.predict_on_batch([*inputs, p])) for p in (positions, 2 * positions)
    )
    assert np.isfinite(first).all() and np.abs(first - moved).max() > 1e-4


# --- what goes wrong


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": "bret"}, ValueError, "'bret' is unknown; there are albert"),
        ({"application": "seq2seq"}, ValueError, "'seq2seq' is unknown; there are encoder"),
        ({"with_mln": True}, TypeError, "'with_mln'; did you mean 'with_mlm'"),
        ({"layernorm_cond": None}, TypeError, "did you mean 'layer_norm_cond'"),
        ({"num_attention_heads": 3}, ValueError, "not a multiple"),
        ({"hidden_size": "16"}, ValueError, "expected a whole number"),
        ({"keep_tokens": [0, 99]}, ValueError, "outside of the vocabulary"),
        ({"attention_caches": {"Transformer-9": []}}, ValueError, "give names among"),
        ({"num_hidden_layers": 3}, CheckpointError, "has 2 layers, the model 3"),
        ({"model": "roformer"}, CheckpointError, "pass model='bert'"),
        ({"vocab_size": 40}, CheckpointError, "vocab_size: 40 in the config, 30"),
        ({"hidden_size": 32}, CheckpointError, "hidden_size: 32 in the config, 16 in"),
    ],
)
def test_wrong_arguments_give_one_clear_error(folder, change, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        build_transformer_model(folder / "bert_config.json", folder / "bert_model.ckpt", **change)


def test_a_dict_is_not_a_path():
    with pytest.raises(TypeError, match=r"is a dict, .*build_transformer_model\(\*\*config\)"):
        build_transformer_model({"hidden_size": 16})


def test_a_wrong_architecture_is_named(references):
    folder = references / "models/albert_encoder"
    with pytest.raises(CheckpointError, match=r"(?i)albert"):
        build_transformer_model(folder / "config.json", folder / "model.ckpt", model="bert")


def test_incomplete_and_broken_configs(tmp_path):
    config = tmp_path / "bert_config.json"
    with pytest.raises(FileNotFoundError, match="there is no config file"):
        build_transformer_model(config)
    config.write_text("{")
    with pytest.raises(ValueError, match="not a JSON config"):
        build_transformer_model(config)
    config.write_text("[]")
    with pytest.raises(ValueError, match="not a JSON object"):
        build_transformer_model(config)
    config.write_text(json.dumps({k: v for k, v in CONFIG.items() if k != "hidden_size"}))
    with pytest.raises(ValueError, match="lacks hidden_size"):
        build_transformer_model(config)
    with pytest.raises(ValueError, match="no config_path"):
        build_transformer_model()


def test_a_vocabulary_of_another_model(tmp_path, folder):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with open(tmp_path / "vocab.txt", "a", encoding="utf-8") as vocabulary:
        vocabulary.write("多\n")
    with pytest.raises(ValueError, match=r"31 tokens.*vocab_size=30"):
        build_transformer_model(tmp_path)


@pytest.mark.parametrize("damage", ["truncate", "flip", "nan", "no data"])
def test_damaged_checkpoints_give_no_model(tmp_path, folder, damage):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    data = tmp_path / "bert_model.ckpt.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    if damage == "truncate":
        data.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        content[len(content) // 2] ^= 1
        data.write_bytes(content)
    elif damage == "no data":
        data.unlink()
    else:
        variables = variables_of(folder)
        variables["bert/pooler/dense/bias"][3] = np.nan
        checkpoints.write_checkpoint(tmp_path / "bert_model.ckpt", variables)
    with pytest.raises(CheckpointError):
        build_transformer_model(tmp_path, with_pool=True)


def test_loading_is_all_or_nothing(folder):
    transformer = build_transformer_model(
        folder / "bert_config.json", num_hidden_layers=3, return_keras_model=False
    )
    before = [np.array(w) for w in transformer.model.get_weights()]
    with pytest.raises(CheckpointError, match="layer_2"):
        transformer.load_weights_from_checkpoint(folder / "bert_model.ckpt")
    after = transformer.model.get_weights()
    assert all((a == b).all() for a, b in zip(before, after, strict=True))


def test_a_layer_that_no_checkpoint_knows_is_reported(folder):
    class WithAdapter(models.BERT):
        def apply_final_layers(self, inputs):
            return self.apply(
                super().apply_final_layers(inputs), keras.layers.Dense, units=4, name="Adapter"
            )

    transformer = build_transformer_model(
        folder / "bert_config.json", model=WithAdapter, return_keras_model=False
    )
    report = transformer.load_weights_from_checkpoint(folder / "bert_model.ckpt")
    assert report.from_scratch == ("Adapter",)


@pytest.mark.parametrize("model", ["bert", "roformer"])
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_stays_close(folder, model, policy):
    source = folder / "bert_config.json"
    exact = build_transformer_model(source, model=model, application="unilm", with_mlm="linear")
    keras.config.set_dtype_policy(policy)
    try:
        half = build_transformer_model(source, model=model, application="unilm", with_mlm="linear")
    finally:
        keras.config.set_dtype_policy("float32")
    half.set_weights(exact.get_weights())
    assert np.abs(run(half).astype("float32") - run(exact)).max() < 3e-2


def test_a_model_does_not_depend_on_its_file(tmp_path, folder):
    """Arrays of a checkpoint are views of a mapped file; weights must not be: JAX would alias."""
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    model = build_transformer_model(tmp_path)
    before = [np.array(w) for w in model.get_weights()]
    with open(tmp_path / "bert_model.ckpt.data-00000-of-00001", "r+b") as data:
        data.write(b"\xff" * (folder / "bert_model.ckpt.data-00000-of-00001").stat().st_size)
    assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))
