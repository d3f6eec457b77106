"""Sentence vectors against `transformers` with pooling in NumPy, and against sentence-transformers.

The folders are small and random, laid out by hand as sentence-transformers documents them. Tests
that ask it itself skip where it is not installed.
"""

import json
import shutil
from functools import cache

import keras
import numpy as np
import pytest
from bert_folder import write_bert
from tokenizer_folders import qwen_embedding

from bert4keras.backend.engines import computes_faster_in_parts
from bert4keras.sentences import SentenceEncoder, quantize_embeddings
from bert4keras.sentences.folder import LENGTH_FILE, MODULES_FILE, SETTINGS_FILE, read_layout
from bert4keras.training import CoSENT, InfoNCE, Matryoshka, SimCSE

pytestmark = pytest.mark.backend

CHARACTERS = "今天气很好我想退款怎么钱护照丢了找不到在哪里宽带一年多少"
TEXTS = ["今天天气很好", "我想退款", "怎么退钱", "护照丢了找不到" * 6, "好", "", "宽带一年多少钱 X"]
TYPE = "sentence_transformers.models."
POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


@pytest.fixture(scope="session")
def bert(tmp_path_factory):
    """A random BERT of `transformers`, with its tokenizer."""
    folder = tmp_path_factory.mktemp("bert")
    return write_bert(folder, [*CHARACTERS, "q", ":"], max_position_embeddings=32)


def lay_out(folder, bert, pooling, *following, **settings):
    """Make a folder with what the tests of sentence-transformers' format need.

    Args:
        folder: is made.
        bert: what is copied.
        pooling: the config of pooling.
        *following: modules behind it, of Dense a config and (kernel, bias).
        **settings: those in `config_sentence_transformers.json`; max_seq_length.
    """
    import torch

    shutil.copytree(bert, folder)
    names = ["Transformer", "Pooling", *("Dense" if each else "Normalize" for each in following)]
    modules = []
    for i, name in enumerate(names):
        path = f"{i}_{name}" if i else ""
        (folder / path).mkdir(exist_ok=True)
        modules.append({"idx": i, "name": str(i), "path": path, "type": TYPE + name})
    write(folder / MODULES_FILE, modules)
    length = {"max_seq_length": settings.pop("max_seq_length", 24), "do_lower_case": False}
    write(folder / LENGTH_FILE, length)
    write(folder / SETTINGS_FILE, settings)
    write(folder / "1_Pooling/config.json", {"word_embedding_dimension": 16} | pooling)
    for i, each in enumerate(following, 2):
        if each:
            config, (kernel, bias) = each
            write(folder / f"{i}_Dense/config.json", config)
            tensors = {"linear.weight": torch.tensor(kernel.T), "linear.bias": torch.tensor(bias)}
            torch.save(tensors, folder / f"{i}_Dense/pytorch_model.bin")
    return folder


def write(path, content):
    path.write_text(json.dumps(content), encoding="utf-8")


KERNEL = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
BIAS = np.random.default_rng(1).normal(size=6).astype("float32")
DENSE = (
    {
        "in_features": 32,
        "out_features": 6,
        "bias": True,
        "activation_function": "torch.nn.modules.activation.Tanh",
    },
    (KERNEL, BIAS),
)


@pytest.fixture(scope="session")
def whole(bert, tmp_path_factory):
    """A folder with two poolings, a projection, a normalisation and prompts."""
    pooling = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}
    prompts = {"query": "q: ", "document": ""}
    settings = {"prompts": prompts, "default_prompt_name": None, "similarity_fn_name": "dot"}
    folder = tmp_path_factory.mktemp("whole") / "model"
    return lay_out(folder, bert, pooling, DENSE, None, **settings)


@pytest.fixture(scope="session")
def encoder(whole):
    return SentenceEncoder(whole)


@cache
def peer(folder):
    """Tokenizer and model as `transformers` loads them."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return tokenizer, transformers.AutoModel.from_pretrained(folder).eval()


def hidden_states(folder, text, max_length):
    """What `transformers` computes for a text alone, without padding."""
    import torch

    tokenizer, model = peer(folder)
    inputs = tokenizer(text, truncation=True, max_length=max_length, return_tensors="pt")
    with torch.inference_mode():
        return model(**inputs).last_hidden_state[0].numpy()


def pooled(x):
    """All poolings of hidden states (length, size)."""
    weights = np.arange(len(x)) + 1
    return [
        x[0],
        x.max(0),
        x.mean(0),
        x.sum(0) / np.sqrt(len(x)),
        np.average(x, axis=0, weights=weights),
        x[-1],
    ]


def expected(folder, text):
    """The vector of the folder `whole`."""
    first, _, mean, *_ = pooled(hidden_states(folder, text, 24))
    vector = np.tanh(np.concatenate([first, mean]) @ KERNEL + BIAS)
    return vector / np.linalg.norm(vector)


# --- Encoding


@pytest.mark.parametrize("mode", POOLINGS)
def test_poolings(bert, mode):
    encoder = SentenceEncoder(bert, pooling=mode, max_length=24)
    right = [pooled(hidden_states(bert, x, 24))[POOLINGS.index(mode)] for x in TEXTS]
    np.testing.assert_allclose(encoder.encode(TEXTS), right, atol=2e-5)


def test_a_batch_with_much_padding_is_divided(encoder, monkeypatch):
    n_rows, arrays = [], encoder._inputs.arrays

    def recorded(rows, length=None):
        n_rows.append(len(rows))
        return arrays(rows, length)

    monkeypatch.setattr(encoder._inputs, "arrays", recorded)
    encoder.encode(["今天天气很好" * 9] + ["今"] * 9)  # 24 tokens and 3
    if computes_faster_in_parts():
        assert n_rows == [4, 6]
    else:
        assert n_rows == [16 if keras.backend.backend() == "jax" else 10]


def test_vectors_of_a_whole_folder(whole, encoder):
    found = encoder.encode(TEXTS, batch_size=3)
    assert found.dtype == "float32" and found.shape == (len(TEXTS), 6)
    np.testing.assert_allclose(found, [expected(whole, x) for x in TEXTS], atol=1e-5)
    np.testing.assert_allclose(encoder.encode(TEXTS), found, atol=1e-6)
    np.testing.assert_allclose(encoder.encode(TEXTS[1]), found[1], atol=1e-6)
    assert encoder.encode([]).shape == (0, 6)
    with_prompt = [expected(whole, f"q: {x}") for x in TEXTS[:3]]
    for options in ({"prompt_name": "query"}, {"prompt": "q: "}):
        np.testing.assert_allclose(encoder.encode(TEXTS[:3], **options), with_prompt, atol=1e-5)
    np.testing.assert_allclose(encoder.similarity(found[:2], found), found[:2] @ found.T, atol=1e-6)
    part = encoder.encode(TEXTS, size=4, normalize=True)
    shorter = found[:, :4] / np.linalg.norm(found[:, :4], axis=1, keepdims=True)
    np.testing.assert_allclose(part, shorter, atol=1e-6)
    assert encoder.encode(TEXTS, precision="binary").tolist() == [
        quantize_embeddings(x, "binary").tolist() for x in found
    ]


def test_a_bar_is_shown_if_wanted(encoder, capsys):
    encoder.encode(TEXTS, verbose=1)
    assert f"{len(TEXTS)}/{len(TEXTS)}" in capsys.readouterr().out


def test_saved_and_loaded(whole, encoder, tmp_path):
    found = encoder.encode(TEXTS)
    encoder.save(tmp_path / "saved")
    encoder.save(tmp_path / "saved")  # again, over itself
    card = (tmp_path / "saved/README.md").read_text(encoding="utf-8")
    assert 'encoder = SentenceEncoder("saved")' in card and "build_transformer_model" not in card
    again = SentenceEncoder(tmp_path / "saved")
    np.testing.assert_allclose(again.encode(TEXTS), found, atol=1e-6)
    assert (again.prompts, again.max_length) == (encoder.prompts, 24)
    assert again.similarity_name == "dot"
    layout = read_layout(tmp_path / "saved")
    assert layout.pooling == ("cls", "mean") and layout.steps[1] is None
    np.testing.assert_array_equal(layout.steps[0].kernel, KERNEL)
    np.testing.assert_allclose(found[1], expected(tmp_path / "saved", TEXTS[1]), atol=1e-5)


def test_sentence_transformers_gives_the_same(whole, encoder, tmp_path):
    """Of the folder that we read, and of the one that we write."""
    peers = pytest.importorskip("sentence_transformers", reason="no sentence-transformers")
    encoder.save(tmp_path / "saved")
    for folder in (whole, tmp_path / "saved"):
        theirs = peers.SentenceTransformer(str(folder), device="cpu")
        assert theirs.max_seq_length == encoder.max_length
        found = encoder.encode(TEXTS)
        np.testing.assert_allclose(theirs.encode(TEXTS), found, atol=1e-5)
        queries = encoder.encode(TEXTS, prompt_name="query")
        np.testing.assert_allclose(theirs.encode(TEXTS, prompt_name="query"), queries, atol=1e-5)
        similarities = theirs.similarity(found, queries).numpy()
        np.testing.assert_allclose(encoder.similarity(found, queries), similarities, atol=1e-5)


def test_language_models_take_the_last_token(tmp_path):
    """As Qwen3-Embedding: the token behind each text is that of padding, too."""
    import torch
    import transformers

    tokenizer = qwen_embedding(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        vocab_size=len(tokenizer) + 8,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        intermediate_size=32,
        eos_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.pad_token_id,
        initializer_range=0.3,
    )
    transformers.Qwen3Model(config).save_pretrained(tmp_path)
    encoder = SentenceEncoder(tmp_path, pooling="lasttoken", normalize=True, max_length=64)
    texts = [x for x in TEXTS if x]
    right = [hidden_states(tmp_path, x, 64)[-1] for x in texts]
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    np.testing.assert_allclose(encoder.encode(texts), right, atol=1e-4)


# --- Training


PAIRS = [("今天天气很好", "天气好"), ("我想退款", "怎么退钱"), ("护照丢了", "宽带多少钱")] * 2


@pytest.mark.parametrize(
    "loss, groups, labels",
    [
        (CoSENT(), PAIRS, [1.0, 0.8, 0.0] * 2),
        (SimCSE(), [x for x, _ in PAIRS], None),
        (Matryoshka(InfoNCE(hard_negatives=1), [4, 6]), [(*x, "今天") for x in PAIRS], None),
    ],
    ids=["cosent", "simcse", "infonce"],
)
def test_training(bert, loss, groups, labels):
    keras.utils.set_random_seed(0)
    # Of a sentence twice, dropout makes a pair; elsewhere it would only make the losses noisy.
    encoder = SentenceEncoder(bert, pooling="mean", dropout_rate=0.1 * (labels is None))
    before = encoder.encode(TEXTS)
    encoder.model.compile(keras.optimizers.Adam(2e-3), loss)
    batches = encoder.batches(groups, labels, batch_size=6)
    losses = encoder.model.fit(batches, epochs=8, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert np.abs(encoder.encode(TEXTS) - before).max() > 2e-3


def test_batches_keep_groups_together(encoder):
    batches = encoder.batches(PAIRS, range(6), batch_size=4, prompts=("q: ", ""))
    assert len(batches) == 2
    rows = []
    for (token_ids, segment_ids), labels in batches.__iter__(random=True):
        assert token_ids.shape == segment_ids.shape and token_ids.shape[1] <= encoder.max_length
        texts = ["".join(encoder.tokenizer.decode(row)) for row in token_ids]
        rows += zip(labels[::2], labels[1::2], texts[::2], texts[1::2], strict=True)
    assert sorted(rows) == [(i, i, f"q: {a}", b) for i, (a, b) in enumerate(PAIRS)]


# --- Errors


def test_calls_that_make_no_sense(encoder, bert, whole):
    for call, message in (
        (lambda: encoder.encode(["a", 1]), "got 1: give a text"),
        (lambda: encoder.encode(None), "got None: give a text"),
        (lambda: encoder.encode("a", prompt_name="passage"), "no prompt 'passage'"),
        (lambda: encoder.encode("a", size=7), "give 1 to 6"),
        (lambda: encoder.encode("a", batch_size=0), "batch_size is 0"),
        (lambda: encoder.encode("a", precision="int4"), "precision='int4'"),
        (lambda: encoder.encode("a", precision="int8"), "have no range"),
        (lambda: encoder.batches([("a", "b"), ("a",)]), "give groups of one size"),
        (lambda: encoder.batches(["a"], [1, 2]), "1 groups of texts and 2 labels"),
        (lambda: encoder.batches(["a"], prompts=["q"]), "1 prompts"),
        (lambda: SentenceEncoder(bert), "give pooling="),
        (lambda: SentenceEncoder(bert, pooling="first"), "give some of cls, max"),
        (lambda: SentenceEncoder(whole, pooling="cls"), "leave out pooling="),
        (lambda: SentenceEncoder(whole, keep_tokens=[0, 1]), "keep_tokens would change"),
        (lambda: SentenceEncoder(whole / "none"), "there is no folder"),
    ):
        with pytest.raises((TypeError, ValueError, OSError), match=message):
            call()


def modules(*types):
    return [{"path": "1_Pooling" if "Pool" in kind else "", "type": kind} for kind in types]


TRANSFORMER, POOLING = (TYPE + name for name in ("Transformer", "Pooling"))


@pytest.mark.parametrize(
    "file, content, message",
    [
        (MODULES_FILE, {"a": 1}, "is damaged"),
        (MODULES_FILE, modules(TRANSFORMER), "lists Transformer"),
        (MODULES_FILE, modules(TRANSFORMER, POOLING, TYPE + "LSTM"), "lists .*LSTM"),
        (MODULES_FILE, modules("mine.Transformer", POOLING), "custom code mine.Trans"),
        (MODULES_FILE, [{"path": "../x", "type": TRANSFORMER}], "outside"),
        ("1_Pooling/config.json", {"pooling_mode": "first"}, "has the pooling modes"),
        (SETTINGS_FILE, {"similarity_fn_name": "maxsim"}, "similarity_fn_name='maxsim'"),
        (SETTINGS_FILE, {"default_prompt_name": "query"}, "but no such prompt"),
        ("2_Dense/config.json", {"activation_function": "mine.Act"}, "activation 'mine.Act'"),
        ("2_Dense/config.json", {"use_residual": True}, "use_residual"),
    ],
)
def test_folders_that_are_refused(whole, tmp_path, file, content, message):
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    write(folder / file, content)
    with pytest.raises(ValueError, match=message):
        read_layout(folder)


def test_prompts_that_are_not_pooled_are_refused(whole, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    write(
        folder / "1_Pooling/config.json", {"pooling_mode": ["cls", "mean"], "include_prompt": False}
    )
    encoder = SentenceEncoder(folder)
    assert encoder.encode("好").shape == (6,)
    with pytest.raises(ValueError, match="include_prompt=false"):
        encoder.encode("好", prompt="q")


# --- Small vectors


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_small_vectors(precision):
    x = np.random.default_rng(0).normal(size=(50, 12)).astype("float32")
    found = quantize_embeddings(x, precision)
    if precision.endswith("binary"):
        bits = np.packbits(x > 0, axis=1)
        right = bits if precision == "ubinary" else (bits.astype(int) - 128).astype("int8")
        np.testing.assert_array_equal(found, right)
        return
    ranges = np.stack([x.min(0), x.max(0)])
    steps = found.astype(int) + (128 if precision == "int8" else 0)
    assert steps.min() == 0 and steps.max() == 255
    width = (ranges[1] - ranges[0]) / 255
    np.testing.assert_allclose(steps * width + ranges[0] + width / 2, x, atol=width.max() * 0.51)
    beyond = quantize_embeddings(np.stack([ranges[0] - 1, ranges[1] + 1]), precision, ranges)
    limits = np.iinfo(precision)
    assert (beyond[0] == limits.min).all() and (beyond[1] == limits.max).all()
