"""`--sample`: made-up data in the form of the public ones, which every script can read."""

import itertools
import re
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "experiments"


@pytest.fixture(scope="module")
def script(load_script):
    return lambda name: load_script(EXPERIMENTS / f"{name}.py")


@pytest.fixture(scope="module")
def made(script, tmp_path_factory):
    return script("sample").write(tmp_path_factory.mktemp("made"))


def apart(*parts):
    """All parts have samples, and nothing of the last one is in the others."""
    texts = [set(map(str, part)) for part in parts]
    assert all(texts)
    assert not texts[-1] & set().union(*texts[:-1])


def test_classification_and_matching(script, made):
    classification, matching = script("classification"), script("matching_data")
    apart(*classification.read_sentiment(made).values())
    for name in classification.TASKS:
        clue = classification.read_clue(made, name)
        apart(clue.train, clue.valid, clue.test)
        assert clue.rows and "label" not in clue.rows[0] and "id" in clue.rows[0]
        assert {label for _, label in clue.test} == set(range(len(clue.labels)))
    for parts in matching.read_tasks(made, heads=True).values():
        apart(*(parts[part] for part in ("train", "valid", "test")))
    pairs = script("task_sentence_similarity_lcqmc").read_parts(made)
    apart(pairs["train"], pairs["further"], pairs["valid"], pairs["test"])
    anonymised = script("task_anonymised_matching")
    for member in (anonymised.TRAIN, anonymised.UNLABELLED):
        pairs = anonymised.read_pairs(made, member)
        assert all(token.isdigit() for first, second, _ in pairs for token in first + second)
    member = "sts_b_zh/sts-b-{}.txt"
    apart(
        *(
            classification.read_labelled(made, "sts_b_zh/sts_b_zh.zip", member.format(part))
            for part in ("train", "dev", "test")
        )
    )


def test_tags_relations_and_events(script, made):
    tagging, relations, events = map(script, ("tagging", "relations", "task_event_extraction"))
    for corpus in tagging.CORPORA:
        parts = [tagging.read_entities(made, corpus, part) for part in ("train", "dev", "test")]
        apart(*parts)
        assert {kind for _, spans in parts[2] for *_, kind in spans} == {0, 1, 2}
    words = [
        tagging.read_words(made, part) for part in ("training/pku_training", "gold/pku_test_gold")
    ]
    apart(*words)
    labels, parts = relations.read_relations(made)
    apart(*parts)
    assert len(labels) == 6 and relations.relations(parts[2][0])
    common = script("common")
    rows = [
        common.read_json_lines(made, events.ARCHIVE, f"ee/{events.FILES[part]}.json")
        for part in ("train", "dev", "test")
    ]
    apart(*rows)
    schema = common.read_json_lines(made, events.ARCHIVE, "ee/event_schema/event_schema.json")
    kinds = set(events.read_kinds(schema))
    for row in itertools.chain(*rows):
        for event in row["event_list"]:
            for each in event["arguments"]:
                assert row["text"].startswith(each["argument"], each["argument_start_index"])
                assert f"{event['event_type']}/{each['role']}" in kinds


def test_reading_and_writing(script, made):
    args = SimpleNamespace(data=made, size=SimpleNamespace(maxlen=160))
    parts = script("webqa").read_parts(args)
    apart(parts["train"], parts["valid"], parts["test"])
    span, common = script("task_reading_comprehension_by_span"), script("common")
    texts = [
        common.read_archive(made, span.ARCHIVE, f"dureader_robust-data/{part}.json")
        for part in ("train", "dev")
    ]
    apart(*map(span.read_questions, texts))
    apart(*script("task_language_model").read_lyrics(args).values())
    apart(*script("task_seq2seq_autotitle").read_news(args).values())
    problems = script("task_seq2seq_ape210k_math_word_problem")
    rows = common.read_json_lines(made, problems.ARCHIVE, "ape210k/test.ape.json")
    for problem in map(problems.as_problem, rows):
        assert problems.is_right(problem.expression, problem)


def test_a_run(script, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    import sample

    for number in ("N_TRAIN", "N_DEV", "N_TEST"):
        monkeypatch.setattr(sample, number, 16)
    task = script("task_sentiment_albert")
    result = task.main(["--sample", "--epochs", "1", "--output", str(tmp_path)])
    assert result["data"] == "made up, in the form of: sentiment, test"
    assert 0 <= result["scores"]["accuracy"] <= 1
    assert (tmp_path / "best.weights.h5").is_file()


@pytest.mark.parametrize("option", ["--data", "--checkpoint"])
def test_it_is_instead_of_data_and_checkpoint(script, tmp_path, capsys, option):
    with pytest.raises(SystemExit):
        script("task_sentiment_albert").main(["--sample", option, str(tmp_path)])
    assert "without --data and --checkpoint" in capsys.readouterr().err


def test_each_script_and_what_it_reads_stand_in_the_table():
    table = (EXPERIMENTS / "data.md").read_text(encoding="utf-8")
    rows = [row.split(" | ")[1] for row in table.splitlines() if row.startswith("| ")]
    patterns = [
        pattern
        for row in rows
        for found in re.findall(r"`((?:task|basic)_[\w{},*]+)", row)
        for pattern in expanded(found)
    ]
    names = {path.stem for path in EXPERIMENTS.glob("task_*.py")} | {"basic_library_tour"}
    assert not [name for name in names if not any(fnmatch(name, p) for p in patterns)]
    assert not [p for p in patterns if not any(fnmatch(name, p) for name in names)]
    examples = {path.stem for path in (ROOT / "examples").glob("*.py")}
    assert not [name for name in examples if f"`{name}`" not in table]


def expanded(pattern):
    """What braces in a pattern stand for."""
    if not (found := re.search(r"\{(.*?)\}", pattern)):
        return [pattern]
    return [pattern.replace(found[0], each) for each in found[1].split(",")]
