"""Answers written by a UniLM: data, search, what may be written, votes, a run on a slice."""

import json
import random
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]
PASSAGES = ["李白出生在碎叶城", "杜甫出生在巩县", "长安是唐朝的都城"]


@pytest.fixture(scope="module")
def script(load_script):
    return load_script(ROOT / "experiments/task_reading_comprehension_by_seq2seq.py")


@pytest.fixture(scope="module")
def webqa(script):
    """The module that the script imports."""
    return sys.modules["webqa"]


@pytest.fixture(scope="module")
def encoder(script):
    from bert4keras.tokenizers import Tokenizer

    tokenizer = Tokenizer(ROOT / "examples/weights/tiny_zh/vocab.txt", do_lower_case=True)
    return script.Encoder(tokenizer, 96)


@pytest.fixture(scope="module")
def model():
    """A UniLM with large random weights, the same on each backend, so that its answers differ."""
    from bert4keras.models import build_transformer_model

    config = json.loads((ROOT / "examples/weights/tiny_zh/bert_config.json").read_text())
    config |= {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64}
    model = build_transformer_model(application="unilm", with_mlm="linear", **config)
    rng = np.random.default_rng(3)
    model.set_weights(
        [rng.normal(0, 0.5, w.shape) if w.ndim > 1 else w for w in model.get_weights()]
    )
    return model


# --- data


def test_only_questions_with_an_answer_in_the_passage_count(webqa):
    rows = [
        {"question": "谁?", "answer": answer, "passages": [{"passage": PASSAGES[0]}]}
        for answer in ("李白", "杜甫", "")
    ]
    (question,) = webqa.read_questions(json.dumps(rows))
    assert question == ("谁?", "李白", PASSAGES[0], ())


@given(st.text("甲乙丙丁", min_size=1, max_size=60), st.integers(1, 30), st.data())
def test_a_shortened_passage_keeps_the_answer(webqa, passage, longest, data):
    start = data.draw(st.integers(0, len(passage) - 1))
    answer = passage[start : start + data.draw(st.integers(1, longest))]
    short = webqa.shortened(webqa.Question("", answer, passage), longest)
    assert answer in short.passage and short.passage in passage
    assert len(short.passage) == min(longest, len(passage))


def test_rare_characters_find_a_passage(webqa):
    search = webqa.Search([*PASSAGES, PASSAGES[0]])
    assert search("杜甫出生在哪里", 2) == [PASSAGES[1], PASSAGES[0]]
    assert search("无关", 5) == PASSAGES


def test_a_gap_is_what_is_missing(webqa):
    random.seed(0)
    passage = "一二三四五六七八九十甲乙丙丁戊己庚辛壬癸"
    for _ in range(50):
        asked, missing = webqa.gap(passage)
        before, after = asked.split("_")
        assert before + missing + after in passage
        assert 1 <= len(missing) <= webqa.GAP
        assert max(len(before), len(after)) <= webqa.CONTEXT


def test_labels_are_the_tokens_that_follow_their_positions(script, webqa, encoder, monkeypatch):
    question = webqa.Question("哪里？", "巩县", PASSAGES[1])
    monkeypatch.setattr(script, "LAST_SHARE", 0)
    monkeypatch.setattr(encoder, "n_drawn", encoder.n_samples)
    (token_ids, segment_ids, positions), labels = encoder.train(np.array, [(None, question)])
    tokens = encoder.tokenizer.ids_to_tokens(token_ids[0])
    assert tokens == ["[CLS]", *PASSAGES[1], "[SEP]", *"哪里？", "[SEP]", *"巩县", "[SEP]"]
    assert segment_ids[0].tolist() == [0] * 13 + [1] * 3
    assert positions[0, :4].tolist() == [12, 13, 14, 0]
    assert labels[0, :3].tolist() == token_ids[0, positions[0, :3] + 1].tolist()
    assert not labels[0, 3:].any()


def test_a_piece_is_gone_on_with(encoder, webqa):
    random.seed(0)
    passage = "一二三四五六七八九十甲乙丙丁戊己庚辛壬癸"
    for _ in range(50):
        prompt, written = encoder.copied(webqa.Question("", "", passage))
        tokens = "".join(encoder.tokenizer.ids_to_tokens(prompt))
        assert tokens.startswith(f"[CLS]{passage}[SEP]")
        piece = tokens.split("[SEP]")[1]
        rest = "".join(encoder.tokenizer.ids_to_tokens(written))
        assert piece + rest == passage[passage.index(piece) :]
        assert len(rest) >= 1


def test_copying_becomes_rare(script, encoder, webqa, monkeypatch):
    question = webqa.Question("哪里？", "巩县", PASSAGES[1])
    monkeypatch.setattr(encoder, "n_samples", 2000)
    monkeypatch.setattr(encoder, "n_drawn", 0)
    random.seed(0)
    asked = encoder.tokenizer.token_to_id("？")
    shares = [
        1 - np.mean((encoder.train(np_pad, [("", question)] * 500)[0][0] == asked).any(axis=1))
        for _ in range(5)
    ]
    assert np.allclose(shares, [0.89, 0.66, 0.44, 0.21, 0.1], atol=0.08)


def np_pad(rows):
    """Rows of one length."""
    n = max(map(len, rows))
    return np.array([[*row, *[0] * (n - len(row))] for row in rows])


def test_each_kind_of_sample_is_drawn(webqa, encoder):
    random.seed(1)
    question = webqa.Question("哪里？", "巩县", PASSAGES[1], tuple(PASSAGES))
    kinds = [webqa.draw(question, gaps=0.4) for _ in range(200)]
    assert (PASSAGES[1], "哪里？", "巩县") in kinds
    assert {passage for passage, _, answer in kinds if not answer} == {PASSAGES[0], PASSAGES[2]}
    gaps = [each for each in kinds if each[1] != "哪里？"]
    assert 40 < len(gaps) < 120 and all(each[0] == PASSAGES[1] for each in gaps)
    alone = question._replace(found=(PASSAGES[1],))
    assert all(answer for *_, answer in (webqa.draw(alone, gaps=0.4) for _ in range(100)))


def test_a_prompt_is_never_too_long(webqa, encoder):
    prompt = encoder.prompt("长" * 500, "问" * 500)
    assert len(prompt) == encoder.maxlen - webqa.MAX_ANSWER


# --- answers


def test_only_pieces_of_passages_may_be_written(webqa):
    allowed = webqa.following([[5, 6, 7, 5, 8], [9, 5]], end_id=3)
    assert allowed([]) == [5, 6, 7, 8, 9]
    assert allowed([5]) == [3, 6, 8]
    assert allowed([7, 5]) == [3, 8]
    assert allowed([9, 5]) == [3]


def test_an_answer_is_a_slice_of_a_passage(script, encoder, model):
    reader = script.Reader(model, encoder)
    passage = "他是 NBA 球星"
    ids = encoder.tokenizer.encode("NBA 球")[0][1:-1]
    assert reader.text(ids, [PASSAGES[0], passage]) == "NBA 球"
    assert reader.text([], [passage]) == ""


@pytest.mark.parametrize("weights", [[], [1, 0.5, 0.25]])
def test_generator_and_subclass_give_the_same_answers(script, encoder, model, weights):
    reader = script.Reader(model, encoder, weights, topk=1)
    subclass = script.SubclassReader(reader)
    questions = [
        (question, passages)
        for question in ("谁出生在巩县", "唐朝的都城", "碎叶城")
        for passages in (PASSAGES[:1], PASSAGES[1:], PASSAGES)
    ]
    answers = reader.answers(questions)
    assert answers == [subclass.answer(*each) for each in questions]
    assert len(set(answers)) > 3
    for answer, (_, passages) in zip(answers, questions, strict=True):
        assert any(answer in passage for passage in passages)


def test_votes_count_by_rank(script, webqa, encoder, model):
    questions = [webqa.Question("", "甲", "甲", found) for found in ((*"甲乙",), (*"甲甲",), ())]
    assert script.rank_weights(questions) == [1, 0.5]
    probabilities = np.random.default_rng(0).random((1, 4, 2, 5), "float32")
    vote = script.Reader(model, encoder, [1, 0.5]).vote
    weighted = probabilities[:, :2] * [[[[1]], [[0.5]]]]
    wanted = (weighted**2).sum(1) / (weighted.sum(1) + 1)
    assert np.allclose(vote(probabilities), wanted, rtol=1e-5)
    alone = probabilities[:, :1]
    assert np.allclose(vote(alone), (alone**2 / (alone + 1))[:, 0], rtol=1e-5)


def test_passages_that_begin_with_the_end_take_no_part(script, encoder, model):
    import keras

    reader = script.Reader(model, encoder)
    bias = model.get_layer("MLM-Bias").weights[0]
    before = keras.ops.convert_to_numpy(bias)
    raised = before.copy()
    raised[encoder.tokenizer._token_end_id] += 1e3
    try:
        bias.assign(raised)
        answers = reader.answers([("谁", PASSAGES)])
        assert answers == [script.SubclassReader(reader).answer("谁", PASSAGES)] == [""]
    finally:
        bias.assign(before)


def test_scores(webqa):
    questions = [webqa.Question("", "长安城", "")] * 3
    scores = webqa.scores_of(["《长安城》", "在长安", ""], questions)
    assert scores["exact"] == 0.3333
    assert scores["f1"] == round((1 + 4 / 6 + 0) / 3, 4)
    assert scores["mean"] == round((1 / 3 + 5 / 9) / 2, 4)


@pytest.mark.long
def test_a_run_on_a_slice(
    script, checkpoint, uncompiled, webqa, shared, tmp_path, capsys, monkeypatch
):
    archive = tmp_path / "data" / webqa.ARCHIVE
    archive.parent.mkdir(parents=True)
    with (
        zipfile.ZipFile(shared / "data" / webqa.ARCHIVE) as source,
        zipfile.ZipFile(archive, "w") as copy,
    ):
        for name in ("WebQA", "SogouQA"):
            rows = json.loads(source.read(f"qa_datasets/{name}.json"))
            copy.writestr(f"qa_datasets/{name}.json", json.dumps(rows[:40]))
    monkeypatch.setattr(script, "N_TIMED", 2)
    output = tmp_path / "run"
    argv = f"--data {tmp_path / 'data'} --quick --checkpoint {checkpoint()} --epochs 1"
    argv += f" --batch-size 16 --output {output}"
    result = script.main(argv.split())
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result
    assert result["scores"].keys() == {"mean", "exact", "f1", "single", "speed"}
    script.main(["predict", "谁出生在巩县？", *PASSAGES, "--output", str(output)])
    (row,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert row["question"] == "谁出生在巩县？"
    assert any(row["answer"] in passage for passage in PASSAGES)
