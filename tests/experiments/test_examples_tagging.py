"""Tagging and linking: corpora, pieces, tags and pointers by hand, a run of each on a slice."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert4keras.layers import GlobalPointer
from bert4keras.snippets import sequence_padding

ROOT = Path(__file__).parents[2]
VOCABULARY = ROOT / "examples/weights/tiny_zh/vocab.txt"


@pytest.fixture(scope="module")
def tagging(load_script):
    return load_script(ROOT / "experiments/tagging.py")


@pytest.fixture(scope="module")
def segmentation(load_script):
    return load_script(ROOT / "experiments/task_sequence_labeling_cws_crf.py")


@pytest.fixture(scope="module")
def linker(load_script):
    return load_script(ROOT / "experiments/task_relation_extraction_gplinker.py")


# --- data


def test_tags_in_lines_become_spans(tagging):
    text = "王 B-PER\n军 I-PER\n去 O\n北 B-LOC\n京 I-LOC\n\n他\tO\n\n中\tB-ORG\n行\tB-ORG\n"
    assert tagging.parse_tags(text) == [
        ("王军去北京", [(0, 1, 0), (3, 4, 1)]),
        ("他", []),
        ("中行", [(0, 0, 2), (1, 1, 2)]),
    ]


@given(st.text("一二，。 a", max_size=60), st.integers(1, 12))
def test_pieces_are_the_whole_text(tagging, text, limit):
    found = tagging.pieces(text, limit)
    assert "".join(piece for _, piece in found) == text
    assert all(text[start : start + len(piece)] == piece for start, piece in found)
    assert all(len(piece) <= limit for _, piece in found)


def test_texts_are_cut_at_punctuation(tagging):
    found = tagging.pieces("一二三。四五，六七八九十甲乙", 8)
    assert found == [(0, "一二三。"), (4, "四五，"), (7, "六七八九十甲乙")]
    assert tagging.pieces("一二三四五", 2) == [(0, "一二"), (2, "三四"), (4, "五")]


def test_long_sentences_become_samples(tagging, tokenizer):
    sentence = ("王军去了。北京很好。", [(0, 1, 0), (5, 6, 1), (4, 5, 2)])
    samples = tagging.encode_pieces([sentence], tokenizer, 8)
    assert [spans for _, spans in samples] == [[(1, 2, 0)], [(1, 2, 1)]]
    pieces = ["".join(tokenizer.ids_to_tokens(ids[1:-1])) for ids, _ in samples]
    assert pieces == ["王军去了。", "北京很好。"]


# --- heads


def known(tagging, head, sentences, tokenizer, maxlen):
    """A model that knows the answers, by the token ids."""
    answers = {
        tuple(ids): spans for ids, spans in tagging.encode_pieces(sentences, tokenizer, maxlen)
    }

    class Model:
        def predict_on_batch(self, inputs):
            rows = [tuple(ids[ids > 0].tolist()) for ids in inputs[0]]
            samples = [(row, answers[row]) for row in rows]
            return head.make(lambda x: sequence_padding(x, inputs[0].shape[1]), samples)[1]

    return Model()


SENTENCES = [
    ("王军霞去了NBA，又去北京的国家体育总局。", [(0, 2, 0), (5, 7, 2), (11, 12, 1), (14, 19, 2)]),
    ("没有。", []),
    ("李四在上海", [(0, 1, 0), (3, 4, 1)]),
]


@pytest.mark.parametrize("kind", ["crf", "pointer"])
@pytest.mark.parametrize("maxlen", [16, 64])
def test_all_is_found_that_the_model_says(tagging, tokenizer, kind, maxlen):
    """From the data to targets and back, in pieces and whole."""
    crf, pointer = tagging.CRF(tagging.bio(3), 1), tagging.Pointer(GlobalPointer, 3)
    head = crf if kind == "crf" else pointer
    model = known(tagging, head, SENTENCES, tokenizer, maxlen)
    found = tagging.find([text for text, _ in SENTENCES], model, head, tokenizer, maxlen)
    assert [sorted(each) for each in found] == [spans for _, spans in SENTENCES]
    scores = tagging.scores_of(found, SENTENCES)
    assert scores["f1"] == 1 and list(scores) == ["f1", "precision", "recall", "kinds"]


def test_an_entity_of_the_wrong_kind_is_wrong(tagging):
    scores = tagging.scores_of([[(0, 1, 0), (3, 4, 2)]], [("一二三四五", [(0, 1, 0), (3, 4, 1)])])
    assert scores["f1"] == 0.5
    assert {name: each["f1"] for name, each in scores["kinds"].items()} == {
        "PER": 1,
        "LOC": 0,
        "ORG": 0,
    }


# --- words


@given(st.lists(st.text("一二三", min_size=1, max_size=5), max_size=8))
def test_words_become_tags_and_come_back(tagging, segmentation, words):
    text, spans = tagging.words_as_spans(words)
    assert segmentation.cut_at(text, spans) == words
    assert segmentation.word_spans(segmentation.word_tags(spans, len(text))) == spans


def test_tags_of_words(segmentation):
    tags = segmentation.word_tags([(1, 1, 0), (2, 3, 0), (4, 7, 0)], 9)
    assert tags.tolist() == [0, 0, 1, 3, 1, 2, 2, 3, 0]


@given(st.lists(st.integers(0, 3), max_size=20))
def test_whatever_the_tags_words_are_the_whole_text(segmentation, tags):
    spans = segmentation.word_spans(tags)
    covered = [place for first, last, _ in spans for place in range(first, last + 1)]
    assert covered == list(range(len(tags)))


def test_characters_are_tokens(segmentation):
    tokenizer = segmentation.Characters(VOCABULARY)
    text = "１９９８年 ＡＢb"
    tokens = tokenizer.tokenize(text)
    assert tokens == ["[CLS]", *"1998年", " ", *"abb", "[SEP]"]
    assert tokenizer.rematch(text, tokens) == [[], *([i] for i in range(len(text))), []]
    assert tokenizer.tokenize(text, maxlen=4) == ["[CLS]", "1", "9", "[SEP]"]


def test_the_longest_known_words(segmentation):
    words = {"北京", "北京大学", "大学生", "生活"}
    assert segmentation.longest_match("北京大学生活好", words) == ["北京大学", "生活", "好"]


def test_scores_of_words(segmentation):
    lines = [["北京", "大学生", "很", "好"]]
    scores = segmentation.scores_of([["北京", "大学", "生", "很", "好"]], lines, {"北京", "很"})
    assert scores == {
        "f1": round(2 * 3 / 9, 4),
        "precision": 0.6,
        "recall": 0.75,
        "oov_recall": 0.5,
    }


# --- relations


LABELS = ["作者_@value", "饰演_@value", "饰演_inWork"]
ROW = {
    "text": "《Tree》的作者是张三，李四在Tree里饰演王五和张三",
    "spo_list": [
        {"predicate": "作者", "subject": "Tree", "object": {"@value": "张三"}},
        {"predicate": "饰演", "subject": "李四", "object": {"@value": "王五", "inWork": "Tree"}},
    ],
}


def places_of(linker, tokenizer):
    ids, places = linker.encode_places(ROW, LABELS, tokenizer, 128)
    assert len(places) == 3
    return ids, places


def test_pairs_of_the_three_pointers(linker):
    places = [((1, 2), 0, (5, 6)), ((1, 2), 1, (8, 8)), ((5, 6), 1, (1, 2))]
    entities, heads, tails = linker.pairs_of(places, 2)
    assert entities == [{(1, 2), (5, 6)}, {(5, 6), (8, 8), (1, 2)}]
    assert heads == [{(1, 5)}, {(1, 8), (5, 1)}]
    assert tails == [{(2, 6)}, {(2, 8), (6, 2)}]


def test_targets_are_numbers_of_pairs(linker):
    samples = [([9] * 10, [((1, 2), 0, (5, 6))]), ([9] * 10, [])]
    _, (entities, heads, tails) = linker.maker(2)(np.array, samples)
    assert entities.tolist() == [[[12], [56]], [[0], [0]]]
    assert heads.tolist() == [[[15], [0]], [[0], [0]]]
    assert tails.tolist() == [[[26], [0]], [[0], [0]]]
    for n in (2, 9):
        places = [((1, 1), 0, (i, i)) for i in range(n)]
        _, targets = linker.maker(2)(np.array, [([9] * 10, places)])
        assert {x.shape[-1] for x in targets} == {16}, "batches have few shapes"


def test_relations_come_back_from_their_scores(linker, tokenizer):
    ids, places = places_of(linker, tokenizer)
    n = len(ids) + 3
    scores = []
    for heads in linker.pairs_of(places, len(LABELS)):
        scores.append(np.full((len(heads), n, n), -1.0))
        for each, pairs in zip(scores[-1], heads, strict=True):
            for pair in pairs:
                each[pair] = 1
    scores[0][0, 0, 2] = scores[0][1, len(ids) - 1, n - 1] = 1  # of no tokens of the text
    assert sorted(linker.decode(scores, len(ids))) == sorted(places)

    class Model:
        def predict_on_batch(self, inputs):
            batch, length = inputs[0].shape
            grown = [np.full((len(x), length, length), -np.inf) for x in scores]
            for x, y in zip(scores, grown, strict=True):
                y[:, : len(ids), : len(ids)] = x[:, : len(ids), : len(ids)]
            return [np.repeat(x[None], batch, axis=0) for x in grown]

    thresholds = (0.0, 1.0)  # nothing scores above one
    (row,), (none,) = linker.extract([ROW["text"]], Model(), LABELS, tokenizer, 128, thresholds)
    assert none == {"text": ROW["text"], "spo_list": []}
    assert row["text"] == ROW["text"]
    assert sorted(row["spo_list"], key=str) == sorted(ROW["spo_list"], key=str)


def test_a_model_that_finds_all_spans_is_decoded_in_little_time(linker):
    n = 96
    entities, links = np.ones((2, n, n)), np.ones((3, n, n))
    assert len(linker.decode([entities, links, links], n)) == linker.MOST


# --- runs


def cut_tar(shared, folder, n):
    """The first n sentences of each part of People's Daily."""
    name = "ner_people_daily/china-people-daily-ner-corpus.tar.gz"
    path = folder / name
    path.parent.mkdir(parents=True)
    with tarfile.open(shared / "data" / name) as source, tarfile.open(path, "w:gz") as copy:
        for member in source.getmembers():
            if member.isfile():
                blocks = source.extractfile(member).read().decode("utf-8").split("\n\n")[:n]
                content = "\n\n".join(blocks).encode()
                info = tarfile.TarInfo(member.name)
                info.size = len(content)
                copy.addfile(info, io.BytesIO(content))
    return folder


@pytest.fixture
def run(checkpoint, tmp_path, capsys):
    """Train on a slice; what it reports is what it prints, and what it found."""

    def run(script, data, *options):
        argv = f"--data {data} --quick --checkpoint {checkpoint()} --output {tmp_path / 'run'}"
        result = script.main([*argv.split(), "--epochs", "2", "--batch-size", "8", *options])
        assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result
        with open(tmp_path / "run/log.csv", encoding="utf-8") as file:
            losses = [float(line.split(",")[1]) for line in file.read().split()[1:]]
        assert losses[1] < losses[0]
        return result

    return run


def predicted(script, capsys, tmp_path, *texts):
    script.main(["predict", *texts, "--output", str(tmp_path / "run")])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["text"] for row in rows] == list(texts)
    return rows


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("crf", ()),
        ("globalpointer", ("--head", "global")),
        ("globalpointer", ("--head", "efficient")),
    ],
)
def test_entities_on_a_slice(run, load_script, shared, tmp_path, capsys, name, options):
    script = load_script(ROOT / f"experiments/task_sequence_labeling_ner_{name}.py")
    data = cut_tar(shared, tmp_path / "data", 32)
    scores = run(script, data, *options)["scores"]
    assert list(scores) == ["f1", "precision", "recall", "kinds"]
    for row in predicted(script, capsys, tmp_path, "王军霞去了北京", "没有"):
        for entity, _, at in row["entities"]:
            assert row["text"][at : at + len(entity)] == entity


@pytest.mark.long
def test_words_on_a_slice(run, segmentation, cut, tmp_path, capsys):
    data = cut(
        "cws/icwb2-data.zip",
        {"icwb2-data/training/pku_training.utf8": 40, "icwb2-data/gold/pku_test_gold.utf8": 16},
    )
    scores = run(segmentation, data)["scores"]
    assert list(scores) == ["f1", "precision", "recall", "oov_recall", "longest_match"]
    assert 0 < scores["longest_match"] < 1
    for row in predicted(segmentation, capsys, tmp_path, "今天天气很好，我们去公园。", "好"):
        assert "".join(row["words"]) == row["text"]


@pytest.mark.long
def test_linked_relations_on_a_slice(run, linker, cut, tmp_path, capsys):
    parts = {f"duie2/duie_{part}.json": 24 for part in ("train", "dev", "test")}
    data = cut("relation_duie/duie2.zip", parts | {"duie2/duie_schema.json": None})
    result = run(linker, data)
    assert list(result["scores"]) == ["f1", "precision", "recall", "threshold"]
    for row in predicted(linker, capsys, tmp_path, "李四出生于北京", "《渴望》由王朔编剧"):
        assert all(spo["subject"] in row["text"] for spo in row["spo_list"])
