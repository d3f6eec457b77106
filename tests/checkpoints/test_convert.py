"""The command that converts weights."""

import json
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest

from bert4keras import checkpoints, export
from bert4keras.convert import convert, main
from bert4keras.layers import ConditionalRandomField, GlobalPointer
from bert4keras.models import Model, build_transformer_model

CONFIG = {
    "vocab_size": 20,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "hidden_act": "gelu",
    "max_position_embeddings": 12,
    "initializer_range": 0.3,
}
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"一二三四五六七八九十百千万亿元角"]
ONNX = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="ONNX is for TensorFlow")
INPUTS = [np.array([[2, 5, 6, 7, 3, 0]]), np.array([[0, 0, 0, 1, 1, 0]])]


@pytest.fixture
def source(tmp_path):
    """A folder with the official files of a BERT with all heads, and what it computes."""
    folder = tmp_path / "official"
    folder.mkdir()
    (folder / "bert_config.json").write_text(json.dumps(CONFIG))
    (folder / "vocab.txt").write_text("\n".join(TOKENS) + "\n", encoding="utf-8")
    transformer = build_transformer_model(
        folder / "bert_config.json", with_nsp=True, with_mlm="linear", return_keras_model=False
    )
    transformer.save_weights_as_checkpoint(folder / "bert_model.ckpt")
    return folder, transformer.model.predict_on_batch(INPUTS)


def test_a_round_trip_gives_every_variable_back(source, tmp_path, capsys):
    folder, outputs = source
    assert main([str(folder), str(tmp_path / "hf")]) == 0
    printed = capsys.readouterr().out
    assert "cls/predictions/output_bias -> MLM-Bias" in printed
    assert "0 left behind" in printed
    files = {path.name for path in (tmp_path / "hf").iterdir()}
    assert files == {"README.md", "config.json", "model.safetensors", "vocab.txt"}
    config = json.loads((tmp_path / "hf/config.json").read_text())
    assert config["architectures"] == ["BertForPreTraining"]

    assert main([str(tmp_path / "hf"), str(tmp_path / "tf"), "--to", "tf"]) == 0
    assert (tmp_path / "tf/vocab.txt").read_bytes() == (folder / "vocab.txt").read_bytes()
    before = checkpoints.open_checkpoint(folder)
    after = checkpoints.open_checkpoint(tmp_path / "tf")
    assert list(before) == list(after)
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])
    model = build_transformer_model(tmp_path / "tf", with_nsp=True, with_mlm="linear")
    for a, b in zip(model.predict_on_batch(INPUTS), outputs, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_whole_model_loads_in_safe_mode(source, tmp_path):
    folder, outputs = source
    assert main([str(folder), str(tmp_path / "model.keras"), "--to", "keras"]) == 0
    model = keras.models.load_model(tmp_path / "model.keras")
    for a, b in zip(model.predict_on_batch(INPUTS), outputs, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing", "out"], "missing"),
        (["official", "out", "--model", "albert"], "model='bert'"),
        (["official", "out", "--to", "keras"], ".keras"),
        (["official", "out", "--to", "onnx"], "ends in .onnx"),
        (["official", "out", "--int8"], "int8 goes with --to onnx only, and the format is safete"),
    ],
)
def test_an_error_is_one_message_and_a_status(
    source, tmp_path, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------ export


def some_inputs(batch, length, count):
    ids = np.random.default_rng(0).integers(1, 20, (batch, length)).astype("int32")
    ids[0, -2:] = 0
    return [ids, (np.arange(length) > 3) * np.ones_like(ids)][:count]


@pytest.mark.parametrize("format", ["tf_saved_model", "onnx"])
@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_an_exported_model_computes_the_same_at_any_size(format, name, tmp_path):
    model = build_transformer_model(model=name, **CONFIG)
    path = str(tmp_path / ("model.onnx" if format == "onnx" else "model"))
    backend = keras.backend.backend()
    free = backend == "tensorflow" or (backend, format, name) == ("jax", "tf_saved_model", "gpt2")
    if not free:
        with pytest.raises(ValueError, match="KERAS_BACKEND=tensorflow"):
            model.export(path, format=format)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if format == "onnx":
            pytest.importorskip("tf2onnx")
            session_of = pytest.importorskip("onnxruntime").InferenceSession
            model.export(path, format=format, verbose=False)
            session = session_of(path)
            names = [each.name for each in session.get_inputs()]
            exported = lambda x: session.run(None, dict(zip(names, x, strict=True)))[0]  # noqa: E731
        else:
            tf = pytest.importorskip("tensorflow")
            model.export(path, format=format, verbose=False)
            loaded = tf.saved_model.load(path)
            exported = lambda x: loaded.serve(x if len(x) > 1 else x[0])  # noqa: E731
        for batch, length in ((2, 5), (3, 9)):
            x = some_inputs(batch, length, len(model.inputs))
            expected = model.predict_on_batch(x if len(x) > 1 else x[0])
            np.testing.assert_allclose(exported(x), expected, atol=1e-5)


@ONNX
def test_what_no_onnx_runtime_would_read_is_not_written(tmp_path):
    half = build_transformer_model(precision="mixed_bfloat16", **CONFIG)
    with pytest.raises(ValueError, match="reads no bfloat16: build the model with precision="):
        half.export(tmp_path / "model.onnx", format="onnx")
    inputs = keras.Input((None, 3))
    crf = ConditionalRandomField()
    tagger = Model(inputs, crf.decode(crf(inputs)))
    with pytest.raises(ValueError, match=r"loop of decode\(\).*ViterbiDecoder"):
        tagger.export(tmp_path / "model.onnx", format="onnx")
    pytest.importorskip("tf2onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Model(inputs, crf(inputs)).export(tmp_path / "crf.onnx", format="onnx", verbose=False)
        one_head = build_transformer_model(**CONFIG | {"num_attention_heads": 1})
        with pytest.raises(ValueError, match="onnxruntime does not run what tf2onnx made"):
            one_head.export(tmp_path / "model.onnx", format="onnx")
        ids = keras.Input((None,), dtype="int32")
        spans = GlobalPointer(2, 4)(keras.layers.Embedding(9, 8, mask_zero=True)(ids))
        Model(ids, spans).export(tmp_path / "spans.onnx", format="onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["crf.onnx", "spans.onnx"]


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A folder with a BERT whose weights take most of a file, and its outputs."""
    folder = tmp_path_factory.mktemp("wide")
    config = CONFIG | {"hidden_size": 128, "intermediate_size": 512, "vocab_size": 2000}
    config |= {"num_hidden_layers": 1, "initializer_range": 0.1}
    keras.utils.set_random_seed(1)
    transformer = build_transformer_model(return_keras_model=False, **config)
    transformer.save_pretrained(folder)
    inputs = some_inputs(3, 7, 2)
    return folder, inputs, transformer.model.predict_on_batch(inputs)


def run(path, inputs):
    """What onnxruntime computes with a file."""
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path)
    names = [each.name for each in session.get_inputs()]
    return session.run(None, dict(zip(names, inputs, strict=True)))[0]


@ONNX
def test_an_onnx_file_in_eight_bits_is_a_quarter_and_near(wide, tmp_path, capsys):
    folder, inputs, expected = wide
    paths = [tmp_path / "float.onnx", tmp_path / "int8.onnx"]
    for path, options in zip(paths, ([], ["--int8"]), strict=True):
        assert main([str(folder), str(path), "--to", "onnx", *options]) == 0
    assert "warning" not in capsys.readouterr().err.lower()
    np.testing.assert_allclose(run(paths[0], inputs), expected, atol=1e-4)
    far = np.linalg.norm(run(paths[1], inputs) - expected) / np.linalg.norm(expected)
    assert 1e-4 < far < 0.05
    sizes = [path.stat().st_size for path in paths]
    assert 0.2 < sizes[1] / sizes[0] < 0.32
    assert sorted(tmp_path.iterdir()) == sorted(paths)

    model = build_transformer_model(folder)
    export._compare(model, paths[1], model.examples(), 0.05)
    table = model.get_layer("Embedding-Token")
    table.set_weights([weight[::-1] for weight in table.get_weights()])
    with pytest.raises(ValueError, match="outputs of the ONNX file differ from those of the model"):
        export._compare(model, paths[1], model.examples(), export.TOLERATED["int8"])
    paths[0].write_bytes(b"no graph")
    with pytest.raises(ValueError, match="onnxruntime does not run what tf2onnx made"):
        export._compare(model, paths[0], model.examples(), 1)


@pytest.mark.parametrize("missing", ["tf2onnx", "onnxruntime"])
@ONNX
def test_a_missing_package_is_named_before_anything_is_loaded(
    source, tmp_path, monkeypatch, capsys, missing
):
    monkeypatch.setitem(sys.modules, missing, None)
    (source[0] / "bert_config.json").write_text("no config")
    assert main([str(source[0]), str(tmp_path / "out.onnx"), "--to", "onnx"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {missing} is not installed") and error.count("\n") == 1


def test_onnx_files_are_written_on_tensorflow(source, tmp_path, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match=r"Keras runs on jax: set KERAS_BACKEND=tensorflow$"):
        convert(source[0], tmp_path / "out.onnx", "onnx")


@ONNX
def test_what_eight_bits_cannot_hold_is_refused(source, tmp_path, monkeypatch):
    model = build_transformer_model(source[0])
    with pytest.raises(ValueError, match="int8=True is for format='onnx'"):
        model.export(tmp_path / "out", int8=True)
    half = build_transformer_model(precision="float16", **CONFIG)
    with pytest.raises(ValueError, match="made of float32"):
        half.export(tmp_path / "out.onnx", format="onnx", int8=True)
    monkeypatch.setattr(export, "LIMIT", 10_000)
    with pytest.raises(ValueError, match=r"0.0 GiB of weights, and an ONNX file holds 2"):
        model.export(tmp_path / "out.onnx", format="onnx")
    assert not list(tmp_path.glob("out*"))


def test_the_vocabulary_of_a_t5_goes_along(tmp_path):
    folder = tmp_path / "t5"
    folder.mkdir()
    config = CONFIG | {"hidden_act": "relu"}
    transformer = build_transformer_model(model="t5.1.0", return_keras_model=False, **config)
    (folder / "spiece.model").write_bytes(b"pieces")
    transformer.save_weights_as_checkpoint(folder / "t5.ckpt")
    (folder / "t5_config.json").write_text(json.dumps(config))
    convert(folder, tmp_path / "hf", "safetensors", "t5.1.0")
    convert(folder, tmp_path / "tf", "tf", "t5.1.0")
    for target in ("hf", "tf"):
        assert (tmp_path / target / "spiece.model").read_bytes() == b"pieces"


def test_the_encoder_of_a_t5_is_converted_by_itself(tmp_path):
    folder = tmp_path / "t5"
    folder.mkdir()
    config = {key: value for key, value in CONFIG.items() if key != "max_position_embeddings"}
    name = "t5.1.0_encoder"
    transformer = build_transformer_model(model=name, return_keras_model=False, **config)
    transformer.save_weights_as_checkpoint(folder / "t5.ckpt")
    (folder / "t5_config.json").write_text(json.dumps(config))
    convert(folder, tmp_path / "hf", "safetensors", name)
    again = build_transformer_model(tmp_path / "hf")
    expected = transformer.model.predict_on_batch(INPUTS[0])
    np.testing.assert_array_equal(again.predict_on_batch(INPUTS[0]), expected)


def test_a_converted_nezha_is_not_taken_for_a_roformer(tmp_path):
    folder = tmp_path / "hf"
    transformer = build_transformer_model(model="nezha", return_keras_model=False, **CONFIG)
    transformer.save_pretrained(folder)
    convert(folder, tmp_path / "tf", "tf")
    again = build_transformer_model(tmp_path / "tf", return_keras_model=False)
    assert type(again).__name__ == "NEZHA"
    with pytest.raises(ValueError, match="pass model='nezha'"):
        build_transformer_model(tmp_path / "tf", model="roformer")


def test_help_is_there_at_once():
    """Neither Keras nor an engine is imported for it, whose lines would stand in between."""
    code = (
        "import sys; from bert4keras.convert import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print(*sys.modules, file=sys.stderr)"
    )
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, check=True, capture_output=True, text=True)
    assert not {"keras", "tensorflow", "jax", "torch", "h5py"} & set(done.stderr.split())
    for word in (
        "--to",
        "--int8",
        "FILE.onnx",
        "--model NAME",
        "the architecture",
        "safetensors by default",
        "FILE.keras",
    ):
        assert word in done.stdout
    assert "\n" not in done.stderr.strip()


def test_an_unknown_format_is_refused(source, tmp_path):
    with pytest.raises(ValueError, match="'tf', 'safetensors', 'keras', 'onnx', not 'pt'"):
        convert(source[0], tmp_path / "out", to="pt")
    assert not (tmp_path / "out").exists()
