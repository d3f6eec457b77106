"""Configs and checkpoints that do not belong together are told apart before anything is built."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from dialects import dialect_of

from bert4keras import checkpoints
from bert4keras.checkpoints import CheckpointError, write_checkpoint, write_safetensors
from bert4keras.checkpoints import architectures as told
from bert4keras.models import ARCHITECTURES, BERT, Transformer, build_transformer_model, registry

SIZES = {
    "vocab_size": 20,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "hidden_act": "gelu",
    "max_position_embeddings": 10,
}
GATES = ["gelu", "linear"]


def shapes(model: str, **changes) -> dict[str, tuple[int, ...]]:
    """Official names of an architecture, with the shapes that sizes give the first variables."""
    from bert4keras.models import fitting

    arguments = {**SIZES, "max_position": 10, **changes}
    if "t5.1.1" in model:
        arguments["hidden_act"] = GATES
    version = {"version": model.split("_")[0]} if "t5.1" in model else {}
    transformer = ARCHITECTURES[model](**arguments, **version)
    found = {}
    for layer, variables in transformer.variable_mapping().items():
        block = fitting._BLOCK.match(layer)
        axes = fitting._AXES.get(layer[block.end() :] if block else layer, ())
        unbuilt = layer == "Embedding-Position" and transformer.block.position_bias
        of_bert = "albert" in model and "bert/encoder/layer_" in "".join(variables)
        if unbuilt or of_bert or not variables:
            continue
        found |= dict.fromkeys(variables, (1,))
        file = type("File", (), {"path": Path("x"), "container": "tensorflow"})
        sizes = tuple(fitting._expected_size(transformer, file, axis) for axis in axes)
        found[variables[0]] = sizes or (1,)
    return found


def write(path: Path, found: dict[str, tuple[int, ...]], **kwargs) -> Path:
    write_checkpoint(path, {name: np.zeros(s, np.float32) for name, s in found.items()}, **kwargs)
    return path


class Built(Exception):
    """Something was built."""


@pytest.fixture(autouse=True)
def nothing_is_built(request, monkeypatch):
    if "builds" not in request.keywords:

        def build(self, **kwargs):
            raise Built

        for cls in (Transformer, *map(ARCHITECTURES.get, ("t5", "bart", "mbart"))):
            monkeypatch.setattr(cls, "build", build)


# === Architectures ===


def architectures(variables, metadata=None) -> list[str]:
    """Which of the known architectures variables are of."""
    return told.architectures(variables, registry.signatures(), metadata)


OTHER_NAMES = ("roberta", "xlm_roberta", "t5", "t5_encoder", "t5_decoder")
KNOWN = [name for name in ARCHITECTURES if name not in OTHER_NAMES]


def expected(model: str, hugging_face: bool) -> set[str]:
    """What the names of an architecture can be of."""
    if model in ("nezha", "roformer") and not hugging_face:
        return {"nezha", "roformer"}
    if model.startswith("t5.1.1") and hugging_face:
        return {"t5.1.1", "mt5.1.1"}
    if model.startswith("mt5") and hugging_face:
        return {"t5.1.1", "mt5.1.1"}
    return {model.split("_")[0] if "t5" in model else model}


@pytest.mark.parametrize("model", KNOWN)
def test_every_architecture_is_known_by_its_names(model):
    official = shapes(model)
    assert set(architectures(official)) == expected(model, False)
    transformer = ARCHITECTURES[model]
    version = "mt5" if model.startswith("mt5") else "t5"
    model_type = version if "t5" in model else transformer.model_type
    dialect = dialect_of(model_type)
    theirs = [dialect.place(name).name for name in official]
    if model in ("roformer_v2", "gau_alpha", "gpt2_ml"):
        assert set(architectures(theirs)) == {model}  # by the rule alone
    else:
        assert set(architectures(theirs)) == expected(model, True)
    wrapped = [f"_orig_mod.module.{name}" for name in theirs]
    assert set(architectures(wrapped)) == set(architectures(theirs))


def test_a_file_says_what_it_is():
    found = shapes("nezha")
    for said in ("nezha", "roformer"):
        assert architectures(found, {checkpoints.ARCHITECTURE: said}) == [said]
    # What it says must fit its names.
    assert architectures(shapes("bert"), {checkpoints.ARCHITECTURE: "nezha"}) == ["bert"]
    assert architectures(["x", "y/z"]) == []
    assert architectures(list(shapes("t5.1.1_encoder"))) == ["t5.1.1"]
    encoder = [name for name in shapes("t5.1.1_encoder") if not name.startswith("decoder")]
    assert architectures(encoder) == ["t5.1.1_encoder"]


@pytest.mark.parametrize("model", KNOWN)
def test_the_one_that_fits_is_named(tmp_path, model):
    """Every architecture is given the checkpoint of every other one."""
    own = shapes(model)
    path = write(tmp_path / "m.ckpt", own)
    fits = expected(model, False)
    for other in KNOWN:
        if other.split("_")[0] in fits or other in fits:
            continue
        if (model, other) == ("albert", "albert_unshared"):
            continue  # each of its blocks starts from the shared one
        with pytest.raises(CheckpointError) as caught:
            build_transformer_model(checkpoint_path=path, model=other, **sizes(other))
        told = {name for name in KNOWN if f"model={name!r}" in str(caught.value)}
        assert told == fits, (other, str(caught.value))


def sizes(model: str) -> dict:
    """What the config of an architecture says."""
    factored = {"embedding_size": 8} if "albert" in model else {}
    return SIZES | factored | ({"hidden_act": GATES} if "t5.1.1" in model else {})


@pytest.mark.parametrize("model", KNOWN)
def test_the_right_one_goes_on_to_be_built(tmp_path, model):
    path = write(tmp_path / f"{model}.ckpt", shapes(model))
    with pytest.raises(Built):
        build_transformer_model(checkpoint_path=path, model=model, **sizes(model))


def test_only_who_asks_for_it_starts_from_another_architecture(tmp_path):
    path = write(tmp_path / "m.ckpt", shapes("bert"))
    with pytest.raises(CheckpointError, match="ignore_invalid_weights=True"):
        build_transformer_model(checkpoint_path=path, model="roformer", **SIZES)
    with pytest.raises(Built):
        build_transformer_model(
            checkpoint_path=path, model="roformer", ignore_invalid_weights=True, **SIZES
        )


# === NEZHA and RoFormer, whose variables have the same names ===


@pytest.mark.parametrize("model", ["nezha", "roformer"])
def test_twins_that_the_file_tells_apart(tmp_path, model):
    other = {"nezha": "roformer", "roformer": "nezha"}[model]
    path = write(tmp_path / "m", shapes(model), metadata={checkpoints.ARCHITECTURE: model})
    with pytest.raises(Built):
        build_transformer_model(checkpoint_path=path, model=model, **SIZES)
    for wrong in (other, "bert", None):
        with pytest.raises(CheckpointError, match=f"pass model={model!r}\\."):
            build_transformer_model(checkpoint_path=path, model=wrong, **SIZES)


def test_twins_that_the_config_tells_apart(tmp_path):
    path = write(tmp_path / "m", shapes("nezha"))
    config = tmp_path / "bert_config.json"
    config.write_text(json.dumps({**SIZES, "use_relative_position": True}))
    for right in ("nezha", None):
        with pytest.raises(Built):
            build_transformer_model(config, path, model=right)
    with pytest.raises(CheckpointError, match=r"describes nezha.*pass model='nezha'"):
        build_transformer_model(config, path, model="roformer")


@pytest.mark.parametrize("model", ["nezha", "roformer"])
def test_twins_that_nothing_tells_apart(tmp_path, model):
    folder = tmp_path / "weights"
    folder.mkdir()
    path = write(folder / "m", shapes(model))
    with pytest.raises(CheckpointError, match="model='nezha' or model='roformer'"):
        build_transformer_model(checkpoint_path=path, **SIZES)
    told = pytest.warns(UserWarning, match=f"loaded as {model}, as model= says")
    with told, pytest.raises(Built):
        build_transformer_model(checkpoint_path=path, model=model, **SIZES)
    # The published folders are named after their models.
    other = {"nezha": "roformer", "roformer": "nezha"}[model]
    for name in (f"chinese_{model.upper()}_base", f"{other}-base"):
        folder = folder.rename(tmp_path / name)
        agrees = other not in name
        with warnings.catch_warnings(record=True) as caught, pytest.raises(Built):
            warnings.simplefilter("always")
            build_transformer_model(checkpoint_path=folder / "m", model=model, **SIZES)
        assert (not caught) == agrees
        with pytest.raises(CheckpointError, match=f"pass model={model if agrees else other!r}\\."):
            build_transformer_model(checkpoint_path=folder / "m", **SIZES)


# === Sizes ===


@pytest.fixture(scope="module")
def bert() -> dict[str, tuple[int, ...]]:
    return shapes("bert")


def refused(tmp_path, found, container="tensorflow", **settings) -> str:
    """Build from a config and a checkpoint that differ; return the message."""
    (tmp_path / "config.json").write_text(json.dumps({**SIZES, **settings}))
    path = tmp_path / "m.safetensors"
    if container == "tensorflow":
        path = write(tmp_path / "m.ckpt", found)
    else:
        place = dialect_of("bert").place
        theirs = {place(n): np.zeros(s, np.float32) for n, s in found.items()}
        write_safetensors(path, {p.name: v.T if p.transposed else v for p, v in theirs.items()})
    with pytest.raises(CheckpointError) as caught:
        build_transformer_model(tmp_path / "config.json", path)
    message = str(caught.value)
    assert message.startswith(f"{path} does not fit the model that {tmp_path / 'config.json'}")
    return message


@pytest.mark.parametrize("container", ["tensorflow", "safetensors"])
@pytest.mark.parametrize(
    ("setting", "value", "there"),
    [
        ("vocab_size", 30, 20),
        ("vocab_size", 19, 20),
        ("hidden_size", 16000, 8),
        ("num_hidden_layers", 1000, 2),
        ("intermediate_size", 1_000_000, 12),
        ("max_position_embeddings", 512, 10),
        ("type_vocab_size", 3, 2),
    ],
)
def test_a_setting_that_differs_is_named(tmp_path, bert, container, setting, value, there):
    message = refused(tmp_path, bert, container, **{setting: value})
    assert f"  {setting}: {value} in the config, {there} in the checkpoint" in message
    others = {key for key in (*SIZES, "type_vocab_size") if f"  {key}: " in message}
    assert others == ({setting} if setting != "hidden_size" else {"hidden_size"})


def test_all_that_differs_is_named_at_once(tmp_path, bert):
    message = refused(tmp_path, bert, hidden_size=16, intermediate_size=24, vocab_size=21)
    assert "of another size" in message
    for line in (
        "vocab_size: 21 in the config, 20 in the checkpoint (bert/embeddings/word_embeddings)",
        "hidden_size: 16 in the config, 8 in the checkpoint",
        "intermediate_size: 24 in the config, 12 in the checkpoint",
    ):
        assert f"  {line}" in message
    assert "keep_tokens" in refused(tmp_path, bert, vocab_size=21)


def test_a_setting_is_called_as_in_the_config(tmp_path):
    found = {
        "transformer.wte.weight": (20, 8),
        "transformer.wpe.weight": (10, 8),
        "transformer.h.0.attn.c_attn.weight": (8, 24),
        "transformer.h.0.mlp.c_fc.weight": (8, 32),
        "transformer.ln_f.weight": (8,),
    }
    write_safetensors(
        tmp_path / "model.safetensors", {n: np.zeros(s, np.float32) for n, s in found.items()}
    )
    config = {"model_type": "gpt2", "vocab_size": 20, "n_embd": 8, "n_head": 2, "n_layer": 1}
    (tmp_path / "config.json").write_text(json.dumps(config | {"n_positions": 10, "n_inner": 48}))
    with pytest.raises(CheckpointError, match="  n_inner: 48 in the config, 32 in the checkpoint"):
        build_transformer_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"n_positions": 99}))
    with pytest.raises(CheckpointError, match="  n_positions: 99 in the config, 10 in the chec"):
        build_transformer_model(tmp_path)


def test_fewer_layers_than_there_are_may_be_asked_for(tmp_path, bert):
    path = write(tmp_path / "m", bert)
    with pytest.raises(Built):
        build_transformer_model(checkpoint_path=path, **SIZES | {"num_hidden_layers": 1})


@pytest.mark.parametrize(
    "given",
    [
        {"autoresize_weights": True, "hidden_size": 16, "vocab_size": 50},
        {"ignore_invalid_weights": True, "hidden_size": 16, "num_hidden_layers": 9},
        {"segment_vocab_size": 0},
        {"keep_tokens": [0, 3, 4]},
        {"compound_tokens": [[1, 2]]},
        {"prefix": "A-", "name": "x"},
    ],
)
def test_what_users_ask_for_is_not_refused(tmp_path, bert, given):
    path = write(tmp_path / "m", bert)
    with pytest.raises(Built):
        build_transformer_model(checkpoint_path=path, **SIZES | given)


def test_a_vocabulary_that_is_cut_down_is_compared_before(tmp_path, bert):
    path = write(tmp_path / "m", bert)
    settings = SIZES | {"vocab_size": 30, "keep_tokens": [0, 25]}
    with pytest.raises(CheckpointError, match="of 30 tokens, and the checkpoint has 20"):
        build_transformer_model(checkpoint_path=path, **settings)


def test_who_overrides_a_hook_is_trusted(tmp_path, bert):
    class Wider(BERT):
        def apply_feed_forward(self, x, name):
            raise NotImplementedError

    class Renamed(BERT):
        variable_names = BERT.variable_names | {"Embedding-Token": ["mine"]}

    class Plain(BERT):
        def other(self):
            return None

    path = write(tmp_path / "m", bert)
    for model in (Wider, Renamed):
        with pytest.raises(Built):
            build_transformer_model(checkpoint_path=path, model=model, **SIZES | {"hidden_size": 4})
    with pytest.raises(CheckpointError, match="hidden_size: 4"):
        build_transformer_model(checkpoint_path=path, model=Plain, **SIZES | {"hidden_size": 4})


# === Settings ===


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        *((key, 0, "from 1 to") for key in SIZES if key != "hidden_act"),
        *((key, True, "=True: expected a whole number") for key in SIZES if key != "hidden_act"),
        ("hidden_size", -8, "=-8: expected"),
        ("hidden_size", 8.0, "=8.0: expected"),
        ("hidden_size", float("nan"), "=nan: expected"),
        ("hidden_size", float("inf"), "=inf: expected"),
        ("hidden_size", "8", "='8': expected"),
        ("hidden_size", [8], "=\\[8\\]: expected"),
        ("num_hidden_layers", 1_000_000, "from 1 to 2048"),
        ("intermediate_size", 10**4000, "a number of 4001 digits"),
        ("type_vocab_size", -1, "from 0 to"),
        ("type_vocab_size", True, "=True"),
        ("pad_token_id", -2, "from -1 to"),
        ("hidden_dropout_prob", 1.5, "from 0 to 1"),
        ("attention_probs_dropout_prob", float("nan"), "from 0 to 1"),
        ("initializer_range", float("nan"), "a number"),
        ("layer_norm_epsilon", -1e-5, "from 0 to 1"),
        ("hidden_act", "gello", "='gello': expected the name of an activation"),
        ("hidden_act", 3, "=3: expected the name of an activation"),
        ("hidden_act", {"class_name": "x"}, "expected the name of an activation"),
        ("embedding_size", 0, "from 1 to"),
        ("attention_head_size", 2.5, "from 1 to"),
        ("residual_attention_scores", 1, "one of True, False"),
        ("position_embedding_type", "relative_key", "not implemented; expected 'absolute' or None"),
        ("quantization_config", {"bits": 4}, "quantization_config"),
        ("add_cross_attention", True, "add_cross_attention"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(tmp_path, setting, value, expected):
    path = tmp_path / "bert_config.json"
    path.write_text(json.dumps({**SIZES, setting: value}))
    with pytest.raises(ValueError, match=expected) as caught:
        build_transformer_model(path)
    assert str(caught.value).startswith(f"{path} has {setting}=")


@pytest.mark.parametrize(
    ("model_type", "setting", "value", "expected"),
    [
        ("bert", "architectures", "BertModel", "expected a list"),
        ("bert", "architectures", [3], "not strings: expected names of classes"),
        ("bert", "hidden_act", {}, "has the activation"),
        ("bert", "layer_norm_eps", "x", "layer_norm_eps='x': expected a number"),
        (["bert"], "vocab_size", 20, "model_type=.*expected a string"),
        ("t5", "feed_forward_proj", 3, "feed_forward_proj=.*expected a string"),
        ("t5", "d_kv", -3, "d_kv=-3: expected a whole number"),
        ("gpt2", "n_embd", "8", "n_embd='8': expected a whole number"),
        ("llama", "rope_scaling", "linear", "rope_scaling='linear': expected an object"),
        ("llama", "rope_theta", 0, "rope_theta=0: expected a number"),
        ("llama", "num_key_value_heads", 0, "num_key_value_heads=0"),
        ("llama", "tie_word_embeddings", "yes", "tie_word_embeddings='yes'"),
        ("ernie", "task_type_vocab_size", 0, "task_type_vocab_size=0"),
        ("deberta-v2", "norm_rel_ebd", "rms", "norm_rel_ebd='rms': expected one of 'none', 'layer"),
        ("deberta-v2", "conv_act", "x", "conv_act='x': expected the name of an activation"),
        ("modernbert", "layer_types", ["full"], "layer_types=.*with one of 'full_attention'"),
        ("modernbert", "local_attention", -1, "local_attention=-1"),
        ("bert", "bert4keras", [], "bert4keras=.*expected an object"),
        ("bert", "bert4keras", {"vocabulary": [1]}, "a vocabulary that is no object"),
        ("bert", "bert4keras", {"vocabulary": {"vocab_size": 3, "keep_tokens": [7]}}, "keep_to"),
    ],
)
def test_settings_of_hugging_face_likewise(tmp_path, model_type, setting, value, expected):
    keys = {"d_model": 8, "num_layers": 2, "num_heads": 2, "d_ff": 12}
    keys |= {"n_embd": 8, "n_layer": 2, "n_head": 2}
    config = {**SIZES, **keys, "model_type": model_type, setting: value}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=expected) as caught:
        build_transformer_model(tmp_path / "config.json")
    assert str(tmp_path / "config.json") in str(caught.value)


def test_an_argument_is_not_blamed_on_the_config(tmp_path):
    path = tmp_path / "bert_config.json"
    path.write_text(json.dumps(SIZES))
    for given in ({"hidden_size": -1}, {"max_position_embeddings": 0}, {"max_position": 2.5}):
        (key,) = given
        with pytest.raises(ValueError, match=f"^the call has {key}="):
            build_transformer_model(path, **given)
    with pytest.raises(Built):
        build_transformer_model(path, hidden_size=np.int64(8), hidden_act=["gelu", "linear"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"vocab_size": 20, "vocab_size": 30}', "has the key 'vocab_size' twice"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "contains a list, not a JSON object"),
        ("{", "is not JSON"),
        ('{"vocab_size": ' + "9" * 5000 + "}", "is not JSON"),
        ('{"x":"' + "a" * (9 << 20) + '"}', "are far below"),
        ("\\ud800", "is not JSON"),
    ],
)
def test_a_config_that_is_no_config(tmp_path, content, message):
    path = tmp_path / "bert_config.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        build_transformer_model(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 1000


def test_a_byte_order_mark_is_no_fault(tmp_path):
    path = tmp_path / "bert_config.json"
    path.write_text(json.dumps(SIZES), encoding="utf-8-sig")
    with pytest.raises(Built):
        build_transformer_model(path)


@pytest.mark.parametrize(
    "record",
    [
        "{",
        "{}",
        '{"vocab_size": 20}x',
        '{"vocab_size": true, "keep_tokens": null, "compound_tokens": null}',
        '{"vocab_size": 20, "keep_tokens": [1, 20], "compound_tokens": null}',
        '{"vocab_size": 20, "keep_tokens": {"0": 1}, "compound_tokens": null}',
        '{"vocab_size": 20, "keep_tokens": null, "compound_tokens": [[]]}',
        '{"vocab_size": 20, "keep_tokens": null, "compound_tokens": [[[1, 2], [0.5]]]}',
        '{"vocab_size": 20, "keep_tokens": null, "compound_tokens": 3}',
        '{"x": "' + "a" * (60 << 20) + '"}',
    ],
)
def test_a_record_beside_weights_that_is_none(tmp_path, bert, record):
    path = write(tmp_path / "m", bert)
    (tmp_path / "m.vocabulary.json").write_text(record)
    with pytest.raises(CheckpointError, match=r"m\.vocabulary\.json"):
        build_transformer_model(checkpoint_path=path, **SIZES)


# === Vocabularies ===

TOKENS = ["[PAD]", *"一二三四五六七八九十百千万亿元角分厘毫"]


@pytest.mark.parametrize("encoding", ["utf-8", "gbk", "utf-16", "utf-8-sig"])
@pytest.mark.parametrize("end", ["", "\n", "\n\n", "\r\n"])
def test_lines_of_a_vocabulary_are_counted_in_any_encoding(tmp_path, encoding, end):
    (tmp_path / "config.json").write_text(json.dumps({**SIZES, "model_type": "bert"}))
    write_safetensors(tmp_path / "model.safetensors", {})
    for n, error in ((20, Built), (21, ValueError)):
        lines = [*TOKENS, "more"][:n]
        (tmp_path / "vocab.txt").write_bytes(("\n".join(lines) + end).encode(encoding))
        with pytest.raises(error, match=r"vocab\.txt has 21 tokens" if n == 21 else "^$"):
            build_transformer_model(tmp_path)


def test_the_words_of_compound_tokens_may_stand_behind_the_others(tmp_path, bert):
    (tmp_path / "bert_config.json").write_text(json.dumps(SIZES))
    write(tmp_path / "bert_model.ckpt", bert)
    (tmp_path / "vocab.txt").write_text("\n".join([*TOKENS, "一二", "三四"]), encoding="utf-8")
    with pytest.raises(Built):
        build_transformer_model(tmp_path, compound_tokens=[[1, 2], [3, 4]])
    with pytest.raises(ValueError, match="has 22 tokens"):
        build_transformer_model(tmp_path, compound_tokens=[[1, 2]])
