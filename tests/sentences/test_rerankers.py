"""Scores of pairs against `transformers`, on small random models that it writes."""

import json
import shutil

import keras
import numpy as np
import pytest
from bert_folder import write_bert
from tokenizer_folders import make as make_tokenizer

from bert4keras.checkpoints import CheckpointError, open_checkpoint, write_safetensors
from bert4keras.sentences import CrossEncoder

pytestmark = pytest.mark.backend

CHARACTERS = list(map(chr, range(0x4E00, 0x4E40)))
MAX_LENGTH = 20


def text(n, seed):
    return "".join(np.random.default_rng(seed).choice(CHARACTERS, n))


# Both too long, one of them, equally long with an odd rest, empty ones.
LENGTHS = [(3, 5), (30, 25), (25, 30), (20, 20), (2, 40), (40, 2), (9, 9), (0, 4), (8, 10)]
PAIRS = [(text(a, i), text(b, 99 - i)) for i, (a, b) in enumerate(LENGTHS)]


def make(folder, n_labels, **settings):
    """Write a random classification model with its tokenizer."""
    folder.mkdir()
    settings |= {"num_labels": n_labels, "max_position_embeddings": MAX_LENGTH}
    return write_bert(folder, CHARACTERS, n_labels, "BertForSequenceClassification", **settings)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return make(tmp_path_factory.mktemp("reranker") / "one", 1)


@pytest.fixture(scope="session")
def reranker(folder):
    return CrossEncoder(folder)


def logits(folder, pairs):
    """What `transformers` computes for each pair alone."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    options = {"truncation": True, "max_length": MAX_LENGTH, "return_tensors": "pt"}
    with torch.inference_mode():
        found = [model(**tokenizer(*pair, **options)).logits[0].numpy() for pair in pairs]
    return np.array(found)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_scores(folder, reranker):
    right = logits(folder, PAIRS)[:, 0]
    found = reranker.predict(PAIRS, batch_size=4)
    assert found.dtype == "float32" and found.shape == (len(PAIRS),)
    np.testing.assert_allclose(found, sigmoid(right), atol=1e-5)
    plain = reranker.predict(PAIRS, activation="linear")
    np.testing.assert_allclose(plain, right, atol=1e-5)
    assert reranker.predict(PAIRS[0]) == pytest.approx(found[0], abs=1e-6)
    assert reranker.predict([]).shape == (0,)


def test_ranked(reranker):
    texts = [second for _, second in PAIRS]
    scores = reranker.predict([(PAIRS[0][0], text) for text in texts])
    ranked = reranker.rank(PAIRS[0][0], texts)
    order = np.argsort(-scores, kind="stable")
    assert [row["corpus_id"] for row in ranked] == order.tolist()
    assert [row["text"] for row in ranked] == [texts[i] for i in order]
    np.testing.assert_allclose([row["score"] for row in ranked], scores[order], atol=1e-6)
    assert reranker.rank(PAIRS[0][0], texts, top_k=2) == ranked[:2]


def test_several_labels(tmp_path):
    folder = make(tmp_path / "three", 3)
    reranker = CrossEncoder(folder)
    np.testing.assert_allclose(reranker.predict(PAIRS), logits(folder, PAIRS), atol=1e-5)
    with pytest.raises(ValueError, match="has 3 labels"):
        reranker.rank("a", ["b"])


@pytest.fixture(scope="session")
def bge(tmp_path_factory):
    """A random model of the kind of bge-reranker-v2-m3, with its tokenizer."""
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("reranker") / "bge"
    tokenizer = make_tokenizer("xlmr", folder)
    torch.manual_seed(0)
    config = transformers.XLMRobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=MAX_LENGTH + 2,
        type_vocab_size=1,
        initializer_range=0.3,
        num_labels=1,
        pad_token_id=tokenizer.pad_token_id,
    )
    transformers.XLMRobertaForSequenceClassification(config).save_pretrained(folder)
    return folder


ROBERTA_PAIRS = [
    ("今天天气", "how the model reads text"),
    ("a", "b"),
    ("模型" * 20, "权重 weights " * 9),
]


def test_a_reranker_of_xlm_roberta(bge, tmp_path):
    reranker = CrossEncoder(bge)
    assert reranker.max_length == MAX_LENGTH
    right = logits(bge, ROBERTA_PAIRS)[:, 0]
    assert np.ptp(right) > 0.1
    found = reranker.predict(ROBERTA_PAIRS, activation="linear")
    np.testing.assert_allclose(found, right, atol=1e-5)
    reranker.save(tmp_path / "saved")
    np.testing.assert_allclose(logits(tmp_path / "saved", ROBERTA_PAIRS)[:, 0], right, atol=1e-5)
    again = CrossEncoder(tmp_path / "saved").predict(ROBERTA_PAIRS)
    np.testing.assert_allclose(again, sigmoid(right), atol=1e-5)


def test_sentence_transformers_gives_the_same_for_xlm_roberta(bge):
    peers = pytest.importorskip("sentence_transformers", reason="no sentence-transformers")
    peer = peers.CrossEncoder(str(bge), max_length=MAX_LENGTH, device="cpu")
    pairs = [*ROBERTA_PAIRS, ("a", ""), ("", "a")]
    np.testing.assert_allclose(peer.predict(pairs), CrossEncoder(bge).predict(pairs), atol=1e-5)


def test_trained_and_saved(folder, tmp_path):
    reranker = CrossEncoder(folder)
    before = reranker.predict(PAIRS)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    reranker.model.compile(keras.optimizers.Adam(1e-2), loss)
    batches = reranker.batches(PAIRS, [1, 0, 1, 0, 1, 0, 1, 0, 1], batch_size=5)
    losses = reranker.model.fit(batches, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    found = reranker.predict(PAIRS)
    assert np.abs(found - before).max() > 1e-2
    reranker.save(tmp_path / "saved")
    np.testing.assert_allclose(sigmoid(logits(tmp_path / "saved", PAIRS))[:, 0], found, atol=1e-5)
    np.testing.assert_allclose(CrossEncoder(tmp_path / "saved").predict(PAIRS), found, atol=1e-6)


def test_sentence_transformers_gives_the_same(folder, reranker, tmp_path):
    peers = pytest.importorskip("sentence_transformers", reason="no sentence-transformers")
    reranker.save(tmp_path / "saved")
    for place in (folder, tmp_path / "saved"):
        peer = peers.CrossEncoder(str(place), max_length=MAX_LENGTH, device="cpu")
        np.testing.assert_allclose(peer.predict(PAIRS), reranker.predict(PAIRS), atol=1e-5)


PATH = "torch.nn.modules.linear.Identity"


@pytest.mark.parametrize(
    "settings",
    [
        {"sentence_transformers": {"activation_fn": PATH}},
        {"sbert_ce_default_activation_function": PATH},
    ],
)
def test_the_folder_names_the_activation(folder, reranker, tmp_path, settings):
    other = changed(folder, tmp_path, settings)
    right = reranker.predict(PAIRS, activation="linear")
    np.testing.assert_allclose(CrossEncoder(other).predict(PAIRS), right, atol=1e-6)


def changed(folder, tmp_path, settings):
    """A copy of the folder with other settings."""
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | settings))
    return copy


def test_what_makes_no_sense(folder, reranker, tmp_path):
    for pairs in (["a", "b", "c"], [("a", 1)], None, [("a", "b", "c")]):
        with pytest.raises(TypeError, match="give a pair of texts"):
            reranker.predict(pairs)
    copy = changed(folder, tmp_path, {"architectures": ["BertForMaskedLM"]})
    with pytest.raises(ValueError, match="has a BertForMaskedLM"):
        CrossEncoder(copy)
    shutil.rmtree(copy)
    copy = changed(folder, tmp_path, {"sentence_transformers": {"activation_fn": "mine.Act"}})
    with pytest.raises(ValueError, match=r"activation 'mine\.Act'"):
        CrossEncoder(copy)


def test_weights_that_are_not_there(reranker, tmp_path):
    reranker.save(tmp_path / "saved")
    with open_checkpoint(tmp_path / "saved") as file:
        kept = {name: file[name] for name in file if not name.startswith("classifier")}
    write_safetensors(tmp_path / "saved/model.safetensors", kept)
    with pytest.raises(CheckpointError, match=r"lacks classifier\.weight"):
        CrossEncoder(tmp_path / "saved")
