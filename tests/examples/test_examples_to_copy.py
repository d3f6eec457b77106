"""The ten scripts that people copy: each runs, stands alone, and reads the forms of public data."""

import ast
import json
import re
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SCRIPTS = sorted(path.stem for path in EXAMPLES.glob("*.py") if path.stem != "quickstart")
PUBLIC = "models layers backend tokenizers snippets optimizers generation metrics".split()  # noqa: SIM905
DATA = {
    "text_classification": "topics",
    "sentence_pairs": "pairs",
    "ner_crf": "entities",
    "ner_globalpointer": "nested_entities",
    "relation_extraction": "relations",
    "reading_comprehension": "reading",
    "title_generation": "titles",
    "sentence_vectors": "similarities",
    "language_model": "recipes",
    "masked_prediction": "recipes",
}


@pytest.fixture(scope="module")
def example(load_script):
    return lambda name: load_script(EXAMPLES / f"{name}.py")


def cut(text, name, n):
    """The first samples of a file."""
    if name == "reading":
        whole = json.loads(text)
        return json.dumps(whole | {"data": whole["data"][: n // 2]})
    mark = "\n\n" if name == "entities" else "\n"
    return mark.join(text.split(mark)[:n]) + "\n"


@pytest.fixture
def few(tmp_path):
    """The first samples of data that ship, under names that a public corpus might have."""

    def few(name):
        folder = tmp_path / "corpus"
        folder.mkdir()
        for part, n in (("train", 8), ("dev", 4)):
            (path,) = (EXAMPLES / "data" / name).glob(f"{part}.*")
            text = cut(path.read_text(encoding="utf-8"), name, n)
            (folder / f"{name}_{part}{path.suffix}").write_text(text, encoding="utf-8")
        return folder

    return few


ON_TENSORFLOW = ("reading_comprehension", "title_generation")
RUNS = [
    pytest.param(name, marks=[] if name in ON_TENSORFLOW else pytest.mark.eager) for name in SCRIPTS
]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_on_few_samples(name, example, few, checkpoint, tmp_path, capsys, monkeypatch):
    """Reads, trains, scores, saves, loads and predicts."""
    # XLA would take longer to compile than all the steps.
    monkeypatch.setattr("keras.src.trainers.trainer.model_supports_jit", lambda model: False)
    script, output = example(name), tmp_path / "new folder" / "saved"
    output = output if hasattr(script, "Loss") else output.with_suffix(".keras")
    options = ["--checkpoint", checkpoint(), "--data", few(DATA[name]), "--output", output]
    scores = script.main([*map(str, options), "--epochs", "1"])
    assert all(np.isfinite(value) for value in scores.values())
    bounded = [value for key, value in scores.items() if key not in ("perplexity", "frequencies")]
    assert all(-1 <= value <= 1 for value in bounded), scores
    printed = capsys.readouterr().out
    first = next(iter(scores.values()))
    assert any(f"{first:{form}}" in printed for form in (".2%", ".4f", ".2f"))
    for sentence in script.SENTENCES:
        assert re.search(re.escape(sentence).replace(r"\[MASK\]", ".+"), printed) or (
            name == "reading_comprehension" and sentence == script.PASSAGE
        )
    assert output.exists()


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_folder_without_the_files(name, example, tmp_path, capsys):
    (tmp_path / "train.txt").touch()
    with pytest.raises(SystemExit):
        example(name).main(["--data", str(tmp_path)])
    assert "expected a file *train* and a file *dev*" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["sentence_pairs", "reading_comprehension"])
def test_one_sentence_has_no_other(name, example, capsys):
    with pytest.raises(SystemExit):
        example(name).main(["一"])
    assert "1 sentences: " in capsys.readouterr().err


def imported(tree):
    """The names of all modules that a script imports."""
    names = {each.name for n in ast.walk(tree) if isinstance(n, ast.Import) for each in n.names}
    return names | {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_stands_alone(name):
    text = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    assert 100 <= len(text.splitlines()) <= 200
    modules = imported(ast.parse(text))
    assert "bert4keras.models" in modules
    allowed = {"numpy", "keras", *(f"bert4keras.{module}" for module in PUBLIC)}
    assert {m for m in modules if m.split(".")[0] not in sys.stdlib_module_names} <= allowed
    first, *_, last = ast.get_docstring(ast.parse(text)).split("\n\n")
    assert re.search("[一-鿿]", first) and re.search("[a-z]{4}", last)
    assert f"python examples/{name}.py" in text


def test_all_are_there_and_named_in_the_readme():
    assert set(SCRIPTS) == set(DATA)
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert all(f"]({name}.py)" in readme for name in SCRIPTS)
    # Either folder may stand first in sys.path.
    assert not set(SCRIPTS) & {path.stem for path in (ROOT / "experiments").glob("*.py")}


OLD_NAMES = """
basic_extract_features basic_gibbs_sampling_via_mlm basic_language_model_cpm_lm
basic_language_model_gpt2_ml basic_language_model_nezha_gen_gpt basic_make_uncased_model_cased
basic_masked_language_model basic_simple_web_serving_simbert task_conditional_language_model
task_iflytek_adversarial_training task_iflytek_bert_of_theseus task_iflytek_gradient_penalty
task_iflytek_multigpu task_image_caption task_language_model task_language_model_chinese_chess
task_question_answer_generation_by_seq2seq task_reading_comprehension_by_mlm
task_reading_comprehension_by_seq2seq task_relation_extraction task_sentence_similarity_lcqmc
task_sentiment_albert task_sentiment_integrated_gradients
task_sentiment_virtual_adversarial_training task_seq2seq_ape210k_math_word_problem
task_seq2seq_autotitle task_seq2seq_autotitle_csl task_seq2seq_autotitle_csl_mt5
task_seq2seq_autotitle_multigpu task_sequence_labeling_cws_crf task_sequence_labeling_ner_crf
task_sequence_labeling_ner_globalpointer
"""


def test_the_examples_of_the_original_are_found_by_their_names():
    readme = (ROOT / "experiments/README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)\.py` \| (.*) \|$", readme, re.MULTILINE))
    assert sorted(rows) == sorted(OLD_NAMES.split()) and len(rows) == 32
    for name, row in rows.items():
        assert f"]({name}.py)" in row


# === Data ===


def test_the_data_are_what_their_script_makes(load_script, tmp_path, monkeypatch):
    make = load_script(EXAMPLES / "data/make.py")
    monkeypatch.setattr(make, "FOLDER", tmp_path)
    make.main()
    made = {path.relative_to(tmp_path) for path in tmp_path.glob("*/*")}
    assert made == {path.relative_to(EXAMPLES / "data") for path in (EXAMPLES / "data").glob("*/*")}
    for path in made:
        assert (tmp_path / path).read_bytes() == (EXAMPLES / "data" / path).read_bytes()


@pytest.mark.parametrize("name", SCRIPTS)
def test_nothing_held_out_is_trained_on(example, name):
    folder = EXAMPLES / "data" / DATA[name]
    train, dev = (list(map(str, example(name).read(folder, part))) for part in ("train", "dev"))
    assert len(train) >= 600 and len(dev) >= 150
    assert not set(train) & set(dev)


def test_forms_of_public_data(example, tmp_path):
    def read(name, text):
        (tmp_path / "train.x").write_text(text, encoding="utf-8")
        return example(name).read(tmp_path, "train")

    assert read("text_classification", "label\ttext_a\n1\t好\t看\n") == [("好\t看", "1")]
    assert read("sentence_pairs", "text_a\ttext_b\tlabel\n甲\t乙\t1\n") == [("甲", "乙", 1)]
    stsb = "main-captions\t甲\t乙\t3.8\n甲\t乙\t0\n"
    assert read("sentence_vectors", stsb) == [("甲", "乙", 3.8), ("甲", "乙", 0.0)]
    assert read("ner_crf", "他 O\n\n京 B-LOC\n城 I-LOC\n\n") == [
        ("他", ["O"]),
        ("京城", ["B-LOC", "I-LOC"]),
    ]
    row = {"text": "甲在乙", "label": {"name": {"甲": [[0, 0]]}, "address": {"乙": [[2, 2]]}}}
    found = read("ner_globalpointer", json.dumps(row))
    assert found == [("甲在乙", {(0, 0, "name"), (2, 2, "address")})]
    slots = {"@value": "乙", "inWork": "丙"}
    spo = [{"subject": "甲", "predicate": "配音", "object": slots}]
    found = read("relation_extraction", json.dumps({"text": "甲乙丙", "spo_list": spo}))
    assert found == [("甲乙丙", {("甲", "配音", "乙")})]
    assert read("title_generation", '{"title": "题", "abst": "文", "id": 1}') == [("文", "题")]


# === Parts ===


def test_the_answer_is_where_its_tokens_are(example, tokenizer):
    script = example("reading_comprehension")
    passage = "它建于 1999 年，Bert 是馆长。"
    token_ids, segment_ids, mapping = script.encode("谁是馆长", passage, tokenizer)
    assert len(token_ids) == len(segment_ids) == len(mapping)
    start = passage.index("1999")
    row = ("谁是馆长", passage, start, ["1999"])
    ((ids, _, first, last),) = script.samples_of([row], tokenizer)
    assert ids == token_ids and segment_ids[first] == 1
    assert passage[mapping[first][0] : mapping[last][-1] + 1] == "1999"


def test_masks_are_in_the_share_that_bert_has(example, tokenizer):
    keras.utils.set_random_seed(0)
    ids = [2, *[100] * 20000, 3]
    seen, labels = example("masked_prediction").hide(ids, tokenizer)
    hidden = labels > 0
    assert hidden.mean() == pytest.approx(0.15, abs=0.01) and not hidden[[0, -1]].any()
    assert (labels[hidden] == 100).all() and (seen[~hidden] == np.array(ids)[~hidden]).all()
    masked = (seen[hidden] == tokenizer._token_mask_id).mean()
    assert masked == pytest.approx(0.8, abs=0.02)
    assert (seen[hidden] == 100).mean() == pytest.approx(0.1, abs=0.02)


def test_cosent_is_the_formula(example):
    vectors = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    scores = np.array([3, 3, 1, 1, 2, 2], "float32")
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = (unit[::2] * unit[1::2]).sum(axis=1)
    terms = [
        np.exp(20 * (cosines[j] - cosines[i]))
        for i in range(3)
        for j in range(3)
        if scores[2 * i] > scores[2 * j]
    ]
    found = float(example("sentence_vectors").cosent(scores, vectors))
    assert found == pytest.approx(np.log(1 + sum(terms)), rel=1e-5)


def test_rank_correlation(example):
    spearman = example("sentence_vectors").spearman
    assert spearman([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1)
    # 1, 2.5, 2.5, 4 against 1, 2, 3, 4
    assert spearman([1, 2, 2, 4], [1, 2, 3, 4]) == pytest.approx(4.5 / np.sqrt(4.5 * 5))
