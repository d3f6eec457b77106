"""Examples that write text: what they share, data and decoding by hand, a slice run of each."""

import gzip
import json
import os
import random
import subprocess
import sys
import zipfile
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert4keras.models import build_transformer_model

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "experiments"
TINY = ROOT / "examples/weights/tiny_zh"


@pytest.fixture(scope="session")
def script(load_script):
    """A script or module of experiments/, by name."""
    return lambda name: load_script(EXAMPLES / f"{name}.py")


@pytest.fixture(scope="module")
def writing(script):
    return script("writing")


@pytest.fixture(scope="module")
def common(writing):
    return sys.modules["common"]


def quick_arguments(common, *argv, **options):
    """What a script knows in its quick size."""
    size = common.Size(epochs=1, batch_size=4, learning_rate=1e-3, maxlen=32)
    argv = ["--quick", "--data", "DATA", *argv]
    return common.arguments("task_test.py", "", size, size, argv, **options)


# --- scores


def test_scores_know_neither_case_nor_spaces(writing):
    scores = writing.text_scores(["B E R T模型", "无关"], ["bert 模型", "文章"])
    assert scores == {"rouge_l": 0.5, "rouge_1": 0.5, "rouge_2": 0.5, "bleu": 0.5}
    assert next(iter(scores)) == "rouge_l"


# --- models


@pytest.fixture(scope="module")
def unilm(writing, common):
    return writing.UniLM(quick_arguments(common), 8)


def test_a_unilm_learns_the_tokens_of_the_target(writing, unilm):
    sample = unilm.sample(("今天天气", "天气"))
    (token_ids, segment_ids, positions), labels = unilm.make(np.array, [sample])
    tokens = unilm.tokenizer.ids_to_tokens(token_ids[0])
    assert tokens == ["[CLS]", *"今天天气", "[SEP]", *"天气", "[SEP]"]
    assert segment_ids[0].tolist() == [0] * 6 + [1] * 3
    assert positions[0].tolist() == [5, 6, 7] + [0] * 5
    assert unilm.tokenizer.ids_to_tokens(labels[0, :3]) == ["天", "气", "[SEP]"]
    assert not labels[0, 3:].any()


def test_what_is_trained_is_what_writes(unilm):
    sample = unilm.sample(("今天天气", "天气"))
    (token_ids, segment_ids, positions), _ = unilm.make(np.array, [sample])
    chosen = unilm.model.predict_on_batch([token_ids, segment_ids, positions])
    everywhere = unilm.generator.transformer.model.predict_on_batch([token_ids, segment_ids])
    np.testing.assert_allclose(chosen[0, :3], everywhere[0, 5:8], atol=1e-5)


def test_source_and_target_fit_in(unilm):
    source, target = unilm.sample(("长" * 99, "题" * 99))
    assert (len(source), len(target)) == (24, 8)
    end_id = unilm.tokenizer._token_end_id
    assert source[-1] == target[-1] == end_id


def test_the_vocabulary_is_without_redundant_tokens(writing, common, unilm):
    tokenizer, keep_tokens = writing.simplified(quick_arguments(common))
    original = (TINY / "vocab.txt").read_text(encoding="utf-8").split("\n")
    assert all(original[keep_tokens[i]] == token for token, i in tokenizer.token_dict.items())
    assert len(keep_tokens) < len(original) - 1
    assert tokenizer.tokens_to_ids(writing.SPECIAL) == [0, 1, 2, 3]
    assert tokenizer.tokenize("今天")[1:-1] == ["今", "天"]


def test_a_t5_writes_after_what_it_has_written(writing, common):
    t5 = writing.T5(quick_arguments(common), 8)
    samples = [t5.sample(("今天天气很好", "天气")), t5.sample(("今天", "今天天"))]
    (sources, written), labels = t5.make(
        lambda rows: np.array([row + [0] * (8 - len(row)) for row in rows]), samples
    )
    assert t5.tokenizer.ids_to_tokens(sources[1, :4]) == ["[CLS]", "今", "天", "[SEP]"]
    assert t5.tokenizer.ids_to_tokens(labels[0, :3]) == ["天", "气", "[SEP]"]
    assert written[:, 0].tolist() == [0, 0]
    np.testing.assert_array_equal(written[:, 1:], labels[:, :-1])
    assert not labels[0, 3:].any()


def test_a_t5_takes_a_checkpoint_with_sentencepiece(writing, common, shared, tmp_path):
    source = shared / "weights/official_fixtures/mt5_cn_sentencepiece"
    for file in source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    keep = json.loads((tmp_path / "sentencepiece_cn_keep_tokens.json").read_text())
    config = {
        "vocab_size": max(keep) + 1,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "attention_key_size": 4,
        "intermediate_size": 8,
        "hidden_act": ["gelu", "linear"],
    }
    (tmp_path / "mt5_config.json").write_text(json.dumps(config))
    whole = build_transformer_model(model="mt5.1.1", return_keras_model=False, **config)
    whole.save_weights_as_checkpoint(tmp_path / "model.ckpt")
    size = common.Size(epochs=1, batch_size=4, learning_rate=1e-3, maxlen=32)
    argv = ["--checkpoint", str(tmp_path), "--data", "DATA"]
    t5 = writing.T5(common.arguments("task_test.py", "", size, size, argv), 8)
    table = t5.model.get_layer("Embedding-Token").get_weights()[0]
    kept = whole.model.get_layer("Embedding-Token").get_weights()[0][keep]
    np.testing.assert_array_equal(table, kept)
    source, target = t5.sample(("今天天气很好", "天气"))
    assert t5.tokenizer.decode(source) == "今天天气很好"
    assert t5.tokenizer.ids_to_tokens(target)[-1] == "</s>"
    assert t5.tokenizer.decode(target) == "天气"


def test_a_source_that_is_no_gzip_is_named(writing, tmp_path):
    (tmp_path / "a.gz").write_text("no gzip")
    with pytest.raises(SystemExit, match=r"a\.gz"):
        writing.read_gzip(tmp_path, "a.gz")


# --- language models


def test_labels_are_the_tokens_behind(writing):
    found = writing.next_tokens(np.array([[5, 6, 7, 8], [5, 6, 0, 0]]))
    assert found.tolist() == [[6, 7, 8, 0], [6, 0, 0, 0]]


def test_texts_are_as_probable_as_their_tokens(writing):
    inputs = keras.Input((None,), dtype="int32")
    # The token behind i is i + 1 with probability 2/3, any of 4 others with 1/12.
    table = np.full((5, 5), 1 / 12, "float32")
    table[np.arange(4), np.arange(1, 5)] = 2 / 3
    layer = keras.layers.Embedding(5, 5)
    model = keras.Model(inputs, layer(inputs))
    layer.set_weights([table])

    def make(pad, samples):
        token_ids = pad([ids for (ids,) in samples])
        return [token_ids], writing.next_tokens(token_ids)

    samples = [([1, 2, 3, 4],), ([1, 3],)]
    found = writing.log_probabilities(writing.scorer(model), samples, make)
    expected = [[3 * np.log(2 / 3), 3], [np.log(1 / 12), 1]]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    wanted = ((2 / 3) ** 3 / 12) ** (-1 / 4)
    assert writing.perplexity(found) == pytest.approx(wanted, rel=1e-5)
    assert writing.probability_scores(found)["probability"] == round(1 / wanted, 5)


def test_frequencies_know_nothing_else(script):
    lm = script("task_language_model")
    # Of the four tokens that follow, two are 5; one is added to each of the 10 counts.
    train = [([2, 5, 6, 3],), ([2, 5],)]
    expected = (3 / 14 * 1 / 14) ** -0.5
    assert lm.frequencies(train, [([2, 5, 9],)], 10) == pytest.approx(expected)


# --- arithmetic


@pytest.fixture(scope="module")
def ape(script):
    return script("task_seq2seq_ape210k_math_word_problem")


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("1+2*3", 7),
        ("(1+2)*3/2", Fraction(9, 2)),
        ("20%", Fraction(1, 5)),
        ("1(3/4)", Fraction(7, 4)),
        ("3.14*2^2", Fraction(314 * 4, 100)),
        ("6:4", Fraction(3, 2)),
        ("-2+(+3)", 1),
        ("2^-1", Fraction(1, 2)),
        ("0.1+0.2", Fraction(3, 10)),
    ],
)
def test_arithmetic(ape, expression, expected):
    assert ape.value(expression) == expected


NO_ARITHMETIC = ["", "1+", "1/0", "1//2", "a*2", "__import__('os')", "2(3+1)", "9^9^9^9", "2^0.5"]
NO_ARITHMETIC += ["0^-1", "1e9", "012", "1..2", "(" * 500 + "1" + ")" * 500, "-" * 5000 + "1"]


@pytest.mark.parametrize("expression", NO_ARITHMETIC)
def test_what_is_no_arithmetic_has_no_value(ape, expression):
    assert ape.value(expression) is None


@given(st.text("0123456789.+-*/^%():", max_size=20))
def test_any_characters_have_a_value_or_none(ape, text):
    assert ape.value(text) is None or isinstance(ape.value(text), Fraction)


def test_numbers_become_letters(ape):
    row = {
        "original_text": "长40米，宽(3/4)米，第40天用去20%，还有1(1/2)吨，3：4",
        "equation": "x=40*(3/4)+20%-1(1/2)+(3/4)/(3+4)-7*(40/20%)",
        "ans": "(5/9)",
    }
    problem = ape.as_problem(row)
    assert problem.text == "长a米，宽b米，第a天用去c，还有d吨，e：f"
    assert problem.numbers == ["40", "(3/4)", "20%", "1(1/2)", "3", "4"]
    assert problem.expression == "a*b+c-d+b/(e+f)-7*(a/c)"
    assert problem.answer == Fraction(5, 9)
    back = ape.with_numbers(problem.expression, problem.numbers)
    assert ape.value(back) == ape.value(row["equation"].removeprefix("x="))
    assert ape.with_numbers("a+z", ["1"]) == "(1)+z"


def test_fractions_of_named_numbers_become_letters(ape):
    assert ape.replaced("(3/8)+(5/8)", ["8", "(5/8)"]) == "(3/a)+b"


def test_right_answers_need_not_look_alike(ape):
    text, numbers = ape.with_letters("3人共有12元，每人几元")
    problem = ape.Problem(text, "b/a", numbers, Fraction(4))
    assert ape.is_right("b/a", problem) and ape.is_right("a+1", problem)
    found = ape.scores_of(["b/a", "b*a", "b*", "8/2"], [problem] * 4)
    assert found == {"accuracy": 0.5, "computable": 0.75}
    third = problem._replace(answer=Fraction(33333, 100000))
    assert ape.is_right("1/3", third) and not ape.is_right("0.334", third)


def test_the_most_frequent_expression_of_so_many_numbers(ape):
    def problem(expression, n):
        return ape.Problem("", expression, ["1"] * n, None)

    train = [problem("a*b", 2), problem("a+b", 2), problem("a*b", 2), problem("a", 1)]
    assert ape.most_frequent(train, [problem("", n) for n in (1, 2, 3)]) == ["a", "a*b", ""]


# --- reading and asking


def test_the_best_piece_of_a_passage(script):
    mlm = script("task_reading_comprehension_by_mlm")
    probabilities = np.full((mlm.MAX_ANSWER, 10), 1e-3)
    probabilities[0, 5] = 0.9
    probabilities[1, 6] = 0.8
    probabilities[2, 3] = 0.9
    passage = [5, 7, 6, 5, 6, 8]
    probability, first, last = mlm.best_piece(probabilities, passage, end_id=3)
    assert (first, last) == (3, 4)
    assert probability == pytest.approx((0.9 * 0.8 * 0.9) ** (1 / 3))
    # All pieces, one after the other.
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.full(10, 0.3), mlm.MAX_ANSWER)
    passage = rng.integers(4, 10, 30).tolist()
    means = {}
    for i in range(30):
        for n in range(1, min(30 - i, mlm.MAX_ANSWER - 1) + 1):
            ids = [*passage[i : i + n], 3]
            means[i, i + n - 1] = np.prod(probabilities[range(n + 1), ids]) ** (1 / (n + 1))
    probability, first, last = mlm.best_piece(probabilities, passage, end_id=3)
    assert probability == pytest.approx(max(means.values()))
    assert means[first, last] == pytest.approx(probability)


def test_passages_agree_on_an_answer(script):
    mlm = script("task_reading_comprehension_by_mlm")
    assert mlm.agreed([(0.6, "甲"), (0.5, "乙"), (0.5, "乙")]) == "乙"  # 0.225 and 0.25
    assert mlm.agreed([(0.8, "甲"), (0.5, "乙"), (0.5, "乙")]) == "甲"  # 0.356 and 0.25
    assert mlm.agreed([]) == ""


def test_masks_stand_in_front(script, writing, common):
    mlm = script("task_reading_comprehension_by_mlm")
    webqa = sys.modules["webqa"]
    tokenizer, _ = writing.simplified(quick_arguments(common), mlm.SPECIAL)
    encoder = mlm.Encoder(tokenizer, 96)
    token_ids, segment_ids = encoder.sample("巩县在河南", "在哪里")
    tokens = tokenizer.ids_to_tokens(token_ids)
    masks = ["[MASK]"] * webqa.MAX_ANSWER
    first = ["[CLS]", *masks, "[SEP]", *"在哪里", "[SEP]"]
    assert tokens == [*first, *"巩县在河南", "[SEP]"]
    assert segment_ids == [0] * len(first) + [1] * 6
    assert len(encoder.sample("长" * 200, "问" * 200)[0]) == 96


def test_labels_of_masks_end_with_the_answer(script, writing, common, monkeypatch):
    mlm = script("task_reading_comprehension_by_mlm")
    webqa = sys.modules["webqa"]
    monkeypatch.setattr(mlm, "SHARE_GAPS", 0)
    tokenizer, _ = writing.simplified(quick_arguments(common), mlm.SPECIAL)
    encoder = mlm.Encoder(tokenizer, 96)
    question = webqa.Question("在哪里", "河南", "巩县在河南")
    _, labels = encoder.train(np.array, [("", question)])
    assert tokenizer.ids_to_tokens(labels[0, :3]) == ["河", "南", "[SEP]"]
    assert labels.shape == (1, webqa.MAX_ANSWER) and not labels[0, 3:].any()


def test_a_clause_as_a_question(script):
    asking = script("task_question_answer_generation_by_seq2seq")
    question = sys.modules["webqa"].Question("", "巩县", "李白是诗人。杜甫生在巩县，后来")
    assert asking.up_to_answer(question) == "杜甫生在什么？"


# --- chess


@pytest.fixture(scope="module")
def chess(script):
    return script("chinese_chess")


def positions(chess, board, depth):
    if not depth:
        return 1
    n = 0
    for move in board.legal_moves():
        taken = board.do(move)
        n += positions(chess, board, depth - 1)
        board.undo(move, taken)
    return n


def test_the_number_of_openings_is_the_known_one(chess):
    """44 and 1,920, the perft figures of xiangqi."""
    board = chess.Board()
    before = list(board.squares)
    assert [positions(chess, board, depth) for depth in (1, 2)] == [44, 1920]
    assert board.squares == before and board.red_moves


def placed(chess, pieces, red_moves=True):
    board = chess.Board()
    board.squares = ["."] * 90
    for name, piece in pieces.items():
        board.squares[chess.NAMES.index(name)] = piece
    board.red_moves = red_moves
    return board


def moves_from(chess, board, name):
    origin = chess.NAMES.index(name)
    return {chess.NAMES[target] for start, target in board.legal_moves() if start == origin}


def test_pieces_go_as_they_should(chess):
    kings = {"d0": "K", "f9": "k"}
    knight = placed(chess, {**kings, "e4": "N", "e5": "p"})
    assert moves_from(chess, knight, "e4") == {"g5", "g3", "c5", "c3", "d2", "f2"}
    bishop = placed(chess, {**kings, "c4": "B", "b3": "P"})
    assert moves_from(chess, bishop, "c4") == {"e2"}
    cannon = placed(chess, {**kings, "a0": "C", "a3": "P", "a6": "r", "a8": "r"})
    assert moves_from(chess, cannon, "a0") == {"a1", "a2", "b0", "c0", "a6"}
    rook = placed(chess, {**kings, "a0": "R", "a3": "p", "b0": "P"})
    assert moves_from(chess, rook, "a0") == {"a1", "a2", "a3"}
    pawns = placed(chess, {**kings, "a4": "P", "c5": "P"})
    assert moves_from(chess, pawns, "a4") == {"a5"}
    assert moves_from(chess, pawns, "c5") == {"c6", "b5", "d5"}
    assert moves_from(chess, placed(chess, {**kings, "e1": "A"}), "e1") == {"d2", "f0", "f2"}
    assert moves_from(chess, placed(chess, kings), "d0") == {"d1", "e0"}
    black = placed(chess, {**kings, "a5": "p", "g4": "p"}, red_moves=False)
    assert moves_from(chess, black, "a5") == {"a4"}
    assert moves_from(chess, black, "g4") == {"g3", "f4", "h4"}


def test_kings_may_not_face_each_other_or_stand_in_check(chess):
    facing = placed(chess, {"e0": "K", "e9": "k", "e4": "N"})
    assert moves_from(chess, facing, "e4") == set()
    apart = placed(chess, {"e0": "K", "d9": "k", "e4": "N"})
    assert len(moves_from(chess, apart, "e4")) == 8
    attacked = placed(chess, {"d0": "K", "e9": "k", "d5": "r", "e1": "A"})
    assert attacked.in_check(red=True) and not attacked.in_check(red=False)
    # The advisor steps between, or the king behind the advisor, which hides it from the other one.
    assert set(map(chess.move_name, attacked.legal_moves())) == {"e1d2", "d0e0"}
    attacked.squares[chess.NAMES.index("e1")] = "."
    assert attacked.legal_moves() == []


def test_a_mated_side_has_no_move(chess):
    mated = placed(chess, {"e0": "K", "d9": "k", "a0": "r", "b1": "r"})
    assert mated.in_check(red=True) and mated.legal_moves() == []


def test_names_of_moves(chess):
    assert chess.read_move("H2-E2") == chess.read_move("h2e2") == (25, 22)
    assert chess.move_name((25, 22)) == "h2e2"
    for wrong in ("h2", "j2e2", "", "h2e2e3"):
        with pytest.raises(ValueError, match="no move"):
            chess.read_move(wrong)


def test_games_keep_to_the_rules(chess):
    for seed in range(5):
        game = chess.play(random.Random(seed), 80)
        board = chess.Board()
        for move in game:
            assert move in board.legal_moves()
            board.do(move)
        assert len(game) == 80 or not board.legal_moves()
    assert chess.play(random.Random(1), 9) == chess.play(random.Random(1), 9)


def test_only_legal_moves_may_be_written(script):
    playing = script("task_language_model_chinese_chess")
    moves = [playing.read_move(name) for name in ("h2e2", "h2h3", "b0c2")]
    allowed = playing.squares_of(moves)
    first, second, *_ = playing.to_ids(moves)[1:]
    assert len(allowed([])) == 2 and first in allowed([])
    assert len(allowed([first])) == 2 and second in allowed([first])
    assert allowed([second, second]) == allowed([0]) == [playing.END_ID]
    assert playing.to_move([first, second]) == moves[0]
    assert playing.to_move([first]) is playing.to_move([first, 2]) is None


def test_positions_are_what_games_lead_to(script):
    playing = script("task_language_model_chinese_chess")
    game = [playing.read_move("h2e2"), playing.read_move("h9g7")]
    assert playing.position(game).squares[22] == "C"
    with pytest.raises(ValueError, match="move 2, h2e2, is not legal"):
        playing.position([game[0], game[0]])
    rows = playing.places([playing.play(random.Random(0), 40)])
    assert len(rows) == playing.N_POSITIONS
    for before, legal in rows:
        assert legal == playing.position(before).legal_moves()
    proposals = [rows[0][1][0], None, *[legal[-1] for _, legal in rows[2:]]]
    assert playing.legal_share(proposals, rows) == 0.8


# --- images


def test_captions_say_what_is_drawn(script):
    images = script("task_image_caption")
    scene = (images.Thing("左上角", "红色", "圆"), images.Thing("下方", "蓝色", "正方形"))
    assert images.caption(scene) == "左上角有一个红色的圆，下方有一个蓝色的正方形。"
    assert images.things(images.caption(scene)) == {
        "左上角有一个红色的圆",
        "下方有一个蓝色的正方形",
    }
    image = images.picture(scene, np.random.default_rng(0)).astype(int)
    for place, colour in (((6, 6), "红色"), ((26, 16), "蓝色")):
        assert abs(image[place] - images.COLOURS[colour]).max() < 50
    assert abs(image[6, 26] - image[16, 16]).max() < 60  # ground in both


def test_shapes_differ(script):
    images = script("task_image_caption")
    y, x = np.mgrid[-5:6, -5:6]
    circle, square, triangle = (images.mask(shape, x, y, 4) for shape in images.SHAPES)
    assert circle.sum() == 49 and square.sum() == 49
    assert (circle != square).any()
    rows = triangle.sum(axis=1)
    assert (np.diff(rows[rows > 0]) >= 0).all() and rows.max() > rows[rows > 0].min()


def test_no_caption_of_the_test_is_trained_on(script, monkeypatch):
    images = script("task_image_caption")
    monkeypatch.setattr(images, "N_TEST", 60)
    monkeypatch.setattr(images, "N_VALID", 40)
    data = images.make_data(400)
    captions = {part: [text for _, text in rows] for part, rows in data.items()}
    assert {part: len(texts) for part, texts in captions.items()} == {
        "train": 400,
        "valid": 40,
        "test": 60,
    }
    assert not set(captions["test"]) & {*captions["train"], *captions["valid"]}
    again = images.make_data(400)
    np.testing.assert_array_equal(again["test"][3][0], data["test"][3][0])
    order = [images.PLACES.index(each.place) for each in images.draw_scene(random.Random(4))]
    assert order == sorted(order)


# --- runs on slices


@pytest.fixture
def run(checkpoint, uncompiled, tmp_path, capsys, monkeypatch):
    """Train a script on a slice and let it predict."""

    def run(script, data, *texts, maxlen=64, **constants):
        """Returns the scores and what was predicted.

        With few tokens there are few lengths, and little is compiled. What an untrained model
        writes hardly ever ends by itself: the constants of the script make it short.
        """
        for name, value in constants.items():
            monkeypatch.setattr(script, name, value)
        monkeypatch.setattr(script, "QUICK", replace(script.QUICK, maxlen=maxlen))
        output = str(tmp_path / "run")
        argv = ["--quick", "--checkpoint", str(checkpoint()), "--output", output]
        argv += ["--epochs", "1", "--batch-size", "8", *(["--data", str(data)] if data else [])]
        result = script.main(argv)
        printed = capsys.readouterr().out.splitlines()
        assert json.loads(printed[-1]) == result
        assert (tmp_path / "run/curve.png").is_file()
        texts = [text.replace("RUN", output) for text in texts]
        script.main(["predict", *texts, "--output", output])
        printed = capsys.readouterr().out.splitlines()
        return result["scores"], list(map(json.loads, printed))

    return run


@pytest.fixture
def cut_gzip(shared, tmp_path):
    """Copy the first lines of a compressed file, or the first items of a list in JSON."""

    def cut_gzip(name, n):
        target = tmp_path / "data" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        text = gzip.decompress((shared / "data" / name).read_bytes()).decode()
        if name.endswith("l.gz"):
            text = "\n".join(text.split("\n")[:n])
        else:
            text = json.dumps(json.loads(text)[:n])
        target.write_bytes(gzip.compress(text.encode()))
        return tmp_path / "data"

    return cut_gzip


@pytest.fixture
def news(cut_gzip):
    for part in ("train", "dev"):
        data = cut_gzip(f"inews/{part}.jsonl.gz", 24)
    return data


TITLES = {"rouge_l", "rouge_1", "rouge_2", "bleu", "titles"}


@pytest.mark.long
def test_titles_of_news(run, script, news):
    text = "今天天气很好，我们去公园。"
    scores, (row,) = run(script("task_seq2seq_autotitle"), news, text, MAX_TITLE=8)
    assert scores.keys() == TITLES
    assert scores["titles"]["first characters"]["rouge_l"] > 0
    assert row["text"] == text and isinstance(row["title"], str)


ON_TWO_DEVICES = """
import sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
sys.path.insert(0, sys.argv.pop(1))
import dataclasses
import task_seq2seq_autotitle_multigpu as script
script.QUICK = dataclasses.replace(script.QUICK, maxlen=64)
script.main(sys.argv[1:])
"""


@pytest.mark.long
def test_titles_learnt_on_two_devices(news, checkpoint, tmp_path):
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    argv = ["--quick", "--epochs", "1", "--batch-size", "8", "--data", str(news)]
    argv += ["--output", str(tmp_path / "run"), "--checkpoint", str(checkpoint())]
    done = subprocess.run(
        [sys.executable, "-c", ON_TWO_DEVICES, str(EXAMPLES), *argv],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 device(s)" in done.stdout
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["example"] == "task_seq2seq_autotitle_multigpu"
    assert result["scores"].keys() == TITLES


@pytest.mark.long
@pytest.mark.parametrize("name", ["task_seq2seq_autotitle_csl", "task_seq2seq_autotitle_csl_mt5"])
def test_titles_of_papers(run, script, cut, name, monkeypatch):
    papers = script(name)
    shared_part = sys.modules["writing"]
    monkeypatch.setattr(shared_part, "SMALL_T5", shared_part.SMALL_T5 | {"num_hidden_layers": 1})
    data = cut("csl/csl_title.zip", {f"csl/{part}.tsv": 8 for part in ("train", "val", "test")})
    scores, rows = run(papers, data, "本文研究语言模型。", "另一篇", MAX_TITLE=8)
    assert scores.keys() == TITLES
    assert [row["text"] for row in rows] == ["本文研究语言模型。", "另一篇"]


@pytest.mark.long
def test_word_problems(run, ape, cut):
    parts = {f"ape210k/{part}.ape.json": 24 for part in ("train", "valid", "test")}
    problem = "一本书240页，3天看完，每天看多少页？"
    scores, (row,) = run(ape, cut(ape.ARCHIVE, parts), problem, MAX_EXPRESSION=8)
    assert scores.keys() == {"accuracy", "computable", "expressions"}
    assert row.keys() == {"problem", "expression", "answer"} and row["problem"] == problem
    assert row["answer"] is None or ape.value(row["expression"]) is not None


@pytest.fixture
def questions(shared, tmp_path):
    name = "reading_comprehension/qa_datasets.zip"
    archive = tmp_path / "data" / name
    archive.parent.mkdir(parents=True)
    with zipfile.ZipFile(shared / "data" / name) as source, zipfile.ZipFile(archive, "w") as copy:
        for part in ("WebQA", "SogouQA"):
            rows = json.loads(source.read(f"qa_datasets/{part}.json"))
            copy.writestr(f"qa_datasets/{part}.json", json.dumps(rows[:24]))
    return tmp_path / "data"


PASSAGE = "李白出生在碎叶城，后来到了长安。"


@pytest.mark.long
def test_questions_and_answers(run, script, questions):
    asking = script("task_question_answer_generation_by_seq2seq")
    scores, (row,) = run(asking, questions, PASSAGE, maxlen=96, MAX_QUESTION=8)
    assert {"rouge_l", "bleu", "drawn_exact", "drawn_f1", "questions"} <= scores.keys()
    assert row["passage"] == PASSAGE and row["answer"] and row["answer"] in PASSAGE


@pytest.mark.long
def test_answers_from_masks(run, script, questions):
    mlm = script("task_reading_comprehension_by_mlm")
    scores, (row,) = run(mlm, questions, "生在哪里？", PASSAGE, "杜甫生在巩县", maxlen=96)
    assert scores.keys() == {"mean", "exact", "f1", "passages"}
    assert row["answer"] in PASSAGE + "杜甫生在巩县"


@pytest.mark.long
def test_a_language_model(run, script, cut_gzip):
    lm = script("task_language_model")
    data = cut_gzip(lm.FILE, 40)
    scores, (row,) = run(lm, data, "浣溪沙：", maxlen=32)
    assert scores["perplexity"] > 1 and scores["of_frequencies"] > 1
    assert row["text"].startswith("浣溪沙：")


@pytest.mark.long
def test_a_conditional_language_model(run, script, cut):
    lm = script("task_conditional_language_model")
    data = cut(
        lm.ARCHIVE, {f"sentiment/sentiment.{p}.data": 24 for p in ("train", "valid", "test")}
    )
    scores, rows = run(lm, data, "这家酒店", maxlen=32)
    assert 0 <= scores["told_apart"] <= 1
    assert scores["perplexity"] != scores["with_wrong_label"]
    assert [row["label"] for row in rows] == ["negative", "positive"]
    assert all(row["text"].startswith("这家酒店") for row in rows)


@pytest.mark.long
def test_a_model_that_plays(run, script, tmp_path):
    playing = script("task_language_model_chinese_chess")
    sizes = {"N_GAMES": {True: 32}, "N_VALID": 4, "N_TEST": 4}
    scores, rows = run(playing, None, "h2e2 h9g7", "", maxlen=34, **sizes)
    assert scores.keys() == {"legal", "perplexity", "moves"}
    for row in rows:
        board = playing.position([playing.read_move(name) for name in row["game"].split()])
        assert playing.read_move(row["move"]) in board.legal_moves()
    with pytest.raises(SystemExit, match="move 1, h2h8, is not legal"):
        playing.main(["predict", "h2h8", "--output", str(tmp_path / "run")])


@pytest.mark.long
def test_captions_of_images(run, script, tmp_path):
    images = script("task_image_caption")
    sizes = {"N_TRAIN": {True: 32}, "N_VALID": 4, "N_TEST": 8}
    scores, (row,) = run(images, None, "RUN/image-1.png", maxlen=12, **sizes)
    assert scores.keys() == {"exact", "things_f1"}
    page = (tmp_path / "run/captions.html").read_text(encoding="utf-8")
    assert page.count("<img src=") == 8 and row["caption"] in page
    with pytest.raises(SystemExit, match="PNG"):
        images.main(["predict", str(tmp_path / "run/captions.html"), "--output", f"{tmp_path}/run"])
