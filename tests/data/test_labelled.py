"""Batches of texts with labels or tags, and what is predicted of texts."""

import keras
import numpy as np
import pytest

from bert4keras.backend import engines
from bert4keras.data.arrays import similar_lengths
from bert4keras.snippets import SequenceLabelingGenerator, TextClassificationGenerator
from bert4keras.tokenizers import Tokenizer

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"我在北京去上海的", "beijing", "2024", "年"]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer({token: i for i, token in enumerate(VOCABULARY)}, do_lower_case=True)


class Constant:
    """A model that gives these outputs, one after the other, and keeps what it was given."""

    def __init__(self, *outputs):
        self.outputs, self.given = list(outputs), []

    def predict_on_batch(self, inputs):
        self.given.append(inputs)
        batch, length = inputs[0].shape
        rows = [self.outputs.pop(0) for _ in range(batch)]
        return np.array([np.resize(row, (length, *np.shape(row)[1:])) for row in rows])


class Scores(Constant):
    def predict_on_batch(self, inputs):
        self.given.append(inputs)
        return np.array([self.outputs.pop(0) for _ in inputs[0]])


def test_texts_and_labels(tokenizer):
    texts, labels = ["我在北京", "我去", "上海"], ["远", "近", "远"]
    train = TextClassificationGenerator(texts, labels, tokenizer, maxlen=5, batch_size=2)
    assert train.names == sorted(set(labels)) and len(train) == 2
    batches = list(train)
    for texts_of, ((token_ids, segment_ids), targets) in zip(
        (texts[:2], texts[2:]), batches, strict=True
    ):
        for text, row, segments in zip(texts_of, token_ids, segment_ids, strict=True):
            ids, _ = tokenizer.encode(text, maxlen=5)
            assert row[: len(ids)].tolist() == ids and not row[len(ids) :].any()
            assert not segments.any()
        wanted = labels[:2] if len(targets) == 2 else labels[2:]
        assert [train.names[i] for i in targets] == wanted
    far = [float(name == "远") for name in train.names]
    model = Scores(far, far[::-1], far)
    assert train.predict(model, texts) == labels
    assert [len(inputs[0]) for inputs in model.given] == [2, 1]


def test_pairs_and_models_without_segments(tokenizer):
    pair = ("我在", "北京")
    train = TextClassificationGenerator([pair], [3], tokenizer, names=[1, 3])
    ((token_ids, segment_ids), targets) = next(iter(train))
    ids, segments = tokenizer.encode(*pair)
    assert token_ids[0, : len(ids)].tolist() == ids and targets.tolist() == [1]
    assert segment_ids[0, : len(ids)].tolist() == segments and 1 in segments
    alone = TextClassificationGenerator([pair], [3], tokenizer, segment_ids=False)
    assert alone.inputs([pair, pair]).tolist() == [token_ids[0].tolist()] * 2


def test_batches_are_of_similar_length(tokenizer):
    texts = ["我" * n for n in range(1, 101)] * 4
    train = TextClassificationGenerator(texts, [0] * 400, tokenizer, batch_size=10)
    whole = TextClassificationGenerator(texts, [0] * 400, tokenizer, batch_size=10, bucket=False)
    np.random.seed(0)  # noqa: NPY002
    sizes = [sum(x[0].size for x, _ in each.__iter__(random=True)) for each in (train, whole)]
    assert sizes[0] < 0.9 * sizes[1]


class Counting:
    """A model that counts the tokens of each row, and keeps the shapes that it was given."""

    def __init__(self):
        self.shapes = []

    def predict_on_batch(self, token_ids):
        self.shapes.append(token_ids.shape)
        return np.count_nonzero(token_ids, axis=1)


@pytest.mark.backend
@pytest.mark.parametrize("on_cpu", [True, False])
def test_prediction_puts_texts_of_similar_length_together(tokenizer, monkeypatch, on_cpu):
    monkeypatch.setattr(engines, "computes_on_cpu", lambda: on_cpu)
    texts = ["我" * (n * 37 % 101 * 4 + 1) for n in range(101)]
    rounded = engines.compiles_every_shape()
    sizes = {}
    for bucket in (True, False):
        batches = TextClassificationGenerator(
            texts, [0] * 101, tokenizer, batch_size=8, bucket=bucket, segment_ids=False
        )
        model = Counting()
        found = list(batches.outputs(model, texts))
        assert found == [(text, len(text) + 2) for text in texts]
        rows = [rows for rows, _ in model.shapes]
        assert sum(rows) == 101 and max(rows) == 8
        assert (len(rows) > 13) == (bucket and on_cpu and not rounded)
        sizes[bucket] = sum(rows * length for rows, length in model.shapes)
    n_tokens = sum(map(len, texts)) + 2 * 101
    assert sizes[True] < (1.25 if rounded else 1.1) * n_tokens < 1.5 * n_tokens < sizes[False]


@pytest.mark.backend
def test_where_tensors_are():
    match keras.backend.backend():
        case "tensorflow":
            import tensorflow as tf

            accelerated = bool(tf.config.list_logical_devices("GPU"))
        case "jax":
            import jax

            accelerated = jax.default_backend() != "cpu"
        case _:
            import torch

            accelerated = torch.cuda.is_available()
    assert engines.computes_on_cpu() != accelerated


def test_batches_of_similar_length():
    lengths = [30, 400, 200, 390, 410, 200, 380, 20, 10]
    divided = [[4, 1, 3], [6], [2, 5], [0, 7, 8]]
    assert list(similar_lengths(lengths, 3, divided=True)) == divided
    whole = [[4, 1, 3], [6, 2, 5], [0, 7, 8]]
    assert list(similar_lengths(lengths, 3, divided=False)) == whole
    assert list(similar_lengths([], 3, divided=True)) == []


TEXT = "我在 Beijing 去上海2024年"
SPANS = [(3, 10, "LOC"), (12, 14, "LOC"), (14, 19, "TIME")]


def tags_of(text, spans):
    tags = ["O"] * len(text)
    for start, end, kind in spans:
        tags[start:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - start - 1)]
    return tags


@pytest.mark.parametrize("scheme", ["BIO", "BIOES"])
@pytest.mark.parametrize("scores", [False, True])
def test_tags_of_characters_and_of_tokens(tokenizer, scheme, scores):
    tags = tags_of(TEXT, SPANS)
    if scheme == "BIOES":
        tags = [
            f"E{t[1:]}" if t[0] == "I" and (n + "O")[0] != "I" else t
            for t, n in zip(tags, [*tags[1:], "O"], strict=True)
        ]
    train = SequenceLabelingGenerator([TEXT], [tags], tokenizer, scheme=scheme)
    assert train.kinds == ["LOC", "TIME"] and train.names[0] == "O"
    ((token_ids, _), targets) = next(iter(train))
    assert token_ids.shape == targets.shape
    tokens = tokenizer.tokenize(TEXT)
    found = [train.names[i] for i in targets[0]]
    single, end = ("B", "I") if scheme == "BIO" else ("S", "E")
    marked = {t: n for t, n in zip(tokens, found, strict=False) if n != "O"}
    assert marked == {
        **{"beijing": f"{single}-LOC", "上": "B-LOC", "海": f"{end}-LOC"},
        **{"2024": "B-TIME", "年": f"{end}-TIME"},
    }
    output = np.eye(len(train.names))[targets[0]] if scores else targets[0]
    assert train.predict(Constant(output), [TEXT]) == [SPANS]


def test_what_tokens_cannot_tell(tokenizer):
    """Two spans in a token, half of a token, a space, the start token, and what is cut off."""
    text = "2024 北京"
    tags = ["B-A", "I-A", "B-B", "O", "B-C", "B-B", "I-B"]
    train = SequenceLabelingGenerator([text], [tags], tokenizer, maxlen=4)
    names = [train.names[i] for i in next(iter(train))[1][0]]
    assert names[:4] == ["O", "B-A", "B-B", "O"]
    ids = [train.names.index(name) for name in ("B-C", "B-A", "I-A", "I-A")]
    assert train.predict(Constant(ids), [text]) == [[(0, 6, "A")]]


def test_labels_that_do_not_fit(tokenizer):
    with pytest.raises(ValueError, match="there are 1 texts and 2 labels"):
        TextClassificationGenerator(["我"], [0, 1], tokenizer)
    with pytest.raises(ValueError, match=r"the label 2 is not among the names \[0, 1\]"):
        TextClassificationGenerator(["我"], [2], tokenizer, names=[0, 1])
    with pytest.raises(ValueError, match="there are 2 texts and 1 sequences of tags"):
        SequenceLabelingGenerator(["我", "在"], [["O"]], tokenizer)
    with pytest.raises(ValueError, match="text 1 has 2 characters and 1 tags"):
        SequenceLabelingGenerator(["我", "北京"], [["O"], ["O"]], tokenizer)
    with pytest.raises(ValueError, match=r"text 0: .*tag at 0 is 'E-A', which is not one of BIO"):
        SequenceLabelingGenerator(["我"], [["E-A"]], tokenizer)
    with pytest.raises(ValueError, match=r"tags of the kind 'A', which is not among .*\['B'\]"):
        SequenceLabelingGenerator(["我"], [["B-A"]], tokenizer, kinds=["B"])
