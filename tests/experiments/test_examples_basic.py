"""The basic examples: sampling against a known distribution, gaps, capitals, one run of each."""

import json
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def example(load_script):
    return lambda name: load_script(ROOT / f"experiments/{name}.py")


def run(script, capsys, output, *argv):
    """Run a script without its first prints: the objects of its JSON lines, the result last."""
    script.main([*argv, "--quick", "--output", str(output)])
    lines = capsys.readouterr().out.splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


# --- command line


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "give --checkpoint.* or --quick"),
        (["train", "--quick"], "'train': expected options only, or predict TEXT"),
        (["--quick", "--data", "d"], "unrecognized arguments: --data"),
    ],
)
def test_arguments_that_make_no_sense(example, argv, message, capsys):
    with pytest.raises(SystemExit):
        example("basics").arguments("basic_x.py", "A doc.", argv)
    assert message.split(".*")[0] in capsys.readouterr().err


def test_gaps_are_masks(example, tokenizer):
    ids = example("basics").encode_gaps("天[MASK]很[MASK][MASK]", tokenizer)
    assert tokenizer.ids_to_tokens(ids) == ["[CLS]", "天", "[MASK]", "很", *["[MASK]"] * 2, "[SEP]"]


# --- sampling


class Pairs:
    """A masked language model of texts of two tokens whose distribution is known."""

    mask_id = 4

    def __init__(self, joint):
        self.joint = joint  # (first token, second token), of 5 tokens

    def predict_on_batch(self, inputs):
        token_ids = inputs[0]
        found = np.full((*token_ids.shape, 5), np.nan)
        for row, (_, a, b, *_) in enumerate(token_ids):
            assert (a == self.mask_id) != (b == self.mask_id)
            if a == self.mask_id:
                found[row, 1] = self.joint[:, b] / self.joint[:, b].sum()
            else:
                found[row, 2] = self.joint[a] / self.joint[a].sum()
        return found


def test_walks_end_in_the_distribution_of_the_model(example):
    script = example("basic_gibbs_sampling_via_mlm")
    joint = np.zeros((5, 5))
    joint[2:4, 2:4] = [[0.4, 0.1], [0.2, 0.3]]
    joint[2:4, 1] = 0.01  # may not be drawn
    may = np.array([False, False, True, True, False])
    rows = [[0, 2, 2, 1]] * 4000
    ends = script.walk(Pairs(joint), rows, 4, may, 10, np.random.default_rng(0))
    assert {(ids[0], ids[3], len(ids)) for ids in ends} == {(0, 1, 4)}
    counts = np.zeros((5, 5))
    for _, a, b, _ in ends:
        counts[a, b] += 1
    # Three standard deviations of the largest share are 0.023.
    np.testing.assert_allclose(counts[2:4, 2:4] / len(rows), joint[2:4, 2:4], atol=0.03)


def test_pseudo_perplexity_by_hand(example):
    script = example("basic_gibbs_sampling_via_mlm")
    joint = np.zeros((5, 5))
    joint[2:4, 2:4] = [[0.4, 0.1], [0.2, 0.3]]
    found = script.pseudo_perplexity(Pairs(joint), [[0, 2, 2, 1], [0, 3, 2, 1]], 4)
    surprises = -np.log([0.4 / 0.6, 0.4 / 0.5, 0.2 / 0.6, 0.2 / 0.5])
    assert found == pytest.approx(np.exp(surprises.mean()))


def test_special_tokens_are_not_drawn(example, tokenizer):
    script = example("basic_gibbs_sampling_via_mlm")
    may = script.ordinary(tokenizer, tokenizer._vocab_size)
    assert not may[tokenizer.tokens_to_ids(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])].any()
    assert may[tokenizer.tokens_to_ids(["天", "[", "]", "a"])].all()


# --- masked tokens


def test_the_surest_gap_is_filled_first(example, tokenizer):
    script = example("basic_masked_language_model")
    good, bad, weather = tokenizer.tokens_to_ids(["好", "坏", "晴"])

    class Model:
        """Says 晴 in the first gap for sure, and in the second what depends on it."""

        def predict_on_batch(self, inputs):
            found = np.zeros((*inputs[0].shape, tokenizer._vocab_size))
            found[:, :, tokenizer._token_mask_id] = 0.99
            for row, ids in enumerate(inputs[0]):
                found[row, 2, weather] = 0.995
                found[row, 4, good if weather in ids else bad] = 0.6
            return found

    texts = ["天[MASK]很[MASK]。", "天晴很[MASK]", "没有"]
    assert script.fill(Model(), texts, tokenizer) == ["天晴很好。", "天晴很好", "没有"]
    gaps = script.gaps_of(Model(), texts[:1], tokenizer, n=2)
    assert gaps == [[[("晴", 0.995), ("[MASK]", 0.99)], [("[MASK]", 0.99), ("坏", 0.6)]]]


def test_ranks_are_of_the_hidden_tokens(example, tokenizer):
    script = example("basic_masked_language_model")
    text = "天气好"

    class Model:
        def predict_on_batch(self, inputs):
            ids = inputs[0]
            assert (ids == tokenizer._token_mask_id).sum(axis=1).tolist() == [1] * len(text)
            found = np.zeros((*ids.shape, tokenizer._vocab_size))
            found[:, 1, tokenizer.token_to_id("天")] = 1
            found[:, 2, tokenizer.tokens_to_ids(["天", "好", "气"])] = 0.5, 0.3, 0.2
            found[:, 3, tokenizer.tokens_to_ids(["天", "好"])] = 0.9, 0.1
            return found

    assert script.ranks(Model(), text, tokenizer) == [0, 2, 1]


# --- capitals


def test_new_tokens_come_from_the_small_ones(example):
    script = example("basic_make_uncased_model_cased")
    tokens = {"[UNK]": 0, "a": 1, "tv": 2, "##v": 3, "天": 4, "TV": 5, "7up": 6, "##天": 7, "#": 8}
    larger, sources = script.with_capitals(tokens)
    assert list(larger)[9:] == ["A", "Tv", "##V"] and list(larger.values()) == list(range(12))
    assert sources == [[1], [2], [3]] and "TV" in tokens


# --- language models


@pytest.mark.parametrize("name", ["gpt2_ml", "nezha_gen_gpt", "cpm_lm"])
def test_what_is_learnt_is_the_rest_of_a_line(example, name, tmp_path):
    continuing = example("continuing")
    family = example(f"basic_language_model_{name}").FAMILY
    texts = ["".join(lesson) for lesson in family.lessons]
    tokenizer = family.tokenizer(family.make_vocabulary(tmp_path, texts))
    assert tokenizer.token_to_id(family.end) != tokenizer._token_unk_id
    for begin, rest in family.lessons:
        ids = continuing.continuation(begin, rest, tokenizer)
        assert family.clean(tokenizer.decode(ids)) == rest
        assert tokenizer._token_unk_id not in ids


def test_cpm_keeps_spaces_and_lines(example, tmp_path):
    script = example("basic_language_model_cpm_lm")
    text = "狗 dog\n中国的首都是"
    family = script.FAMILY
    tokenizer = family.tokenizer(family.make_vocabulary(tmp_path, [text]))
    ids = tokenizer.encode(text)[0]
    assert ids.count(3) == 1 and tokenizer.token_to_id("<cls>") == 3
    assert script.clean(tokenizer.decode(ids)) == text
    assert [path.name for path in tmp_path.iterdir()] == ["chinese_vocab.model"]


# --- runs


@pytest.mark.long
def test_features(example, tmp_path, capsys):
    script = example("basic_extract_features")
    *_, result = run(script, capsys, tmp_path)
    assert result == json.loads((tmp_path / "result.json").read_text("utf-8"))
    assert result["scores"]["difference_alone"] < 1e-5
    assert result["scores"]["difference_loaded"] == 0 and result["scores"]["size"] == 128
    rows = run(script, capsys, tmp_path, "predict", "天气", "语言模型")
    assert [(row["text"], len(row["vector"])) for row in rows] == [("天气", 128), ("语言模型", 128)]


@pytest.mark.long
def test_masked_tokens(example, tmp_path, capsys):
    script = example("basic_masked_language_model")
    *rows, result = run(script, capsys, tmp_path)
    assert [len(row["gaps"]) for row in rows] == [2, 1, 2]
    assert all("[MASK]" not in row["filled"] for row in rows)
    scores = result["scores"]
    assert 0.3 < scores["top_1"] < scores["top_5"] <= 1
    assert scores["tokens"] == sum(map(len, script.SENTENCES))
    (row,) = run(script, capsys, tmp_path, "predict", "[MASK]气很好")
    assert row["filled"].endswith("气很好") and len(row["gaps"][0]) == 5


@pytest.mark.long
def test_gibbs_sampling(example, tmp_path, capsys, monkeypatch):
    script = example("basic_gibbs_sampling_via_mlm")
    monkeypatch.setattr(script, "N_SWEEPS", 5)
    samples, result = run(script, capsys, tmp_path)
    assert len(samples["samples"]) == 16 and len(set(samples["samples"])) > 8
    scores = result["scores"]
    assert scores["perplexity_end"] < scores["perplexity_random"] / 10
    monkeypatch.setattr(script, "N_SWEEPS", 1)
    rows = run(script, capsys, tmp_path, "predict", "今天天气很好", "短句")
    assert [row["text"] for row in rows] == ["今天天气很好", "短句"]
    assert all(len(row["samples"]) == 16 for row in rows)


@pytest.mark.long
def test_capitals(example, tmp_path, capsys):
    script = example("basic_make_uncased_model_cased")
    *rows, result = run(script, capsys, tmp_path)
    assert result["scores"]["difference"] < 1e-5 and result["scores"]["new_tokens"] > 20
    assert result["scores"]["texts_in_the_same_pieces"] > 0
    assert {"N", "##B", "##A"} & set(rows[1]["now"]), rows
    (row,) = run(script, capsys, tmp_path, "predict", "A 和 a")
    assert (row["before"][1], row["now"][1], row["now"][-2]) == ("a", "A", "a")


@pytest.mark.long
@pytest.mark.parametrize("name", ["gpt2_ml", "nezha_gen_gpt", "cpm_lm"])
def test_language_models(example, tmp_path, capsys, name):
    script = example(f"basic_language_model_{name}")
    *rows, result = run(script, capsys, tmp_path)
    assert len(rows) == len(script.FAMILY.lessons)
    assert result["scores"]["right"] == 1
    assert result["scores"]["difference"] < 1e-4
    begin, _ = script.FAMILY.lessons[0]
    argv = ["predict", begin, "--checkpoint", str(tmp_path / "small"), "--output", str(tmp_path)]
    script.main(argv)  # as with any other checkpoint
    (row,) = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert row["text"] == begin and len(row["continued"]) == 3
    assert all(text.startswith(begin.strip()) for text in row["continued"])
