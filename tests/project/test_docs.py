"""The documents in `docs/`: their code runs, block after block, and is one in both languages."""

import ast
import contextlib
import io
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ON_TENSORFLOW = "serving"  # it writes ONNX
ENGLISH = sorted(ROOT.glob("docs/*_en.md"))
"""Translations of the Chinese documents beside them, whose code is run there."""
GUIDES = [
    path
    for path in sorted(ROOT.glob("docs/*.md"))
    if path not in ENGLISH and "```python" in path.read_text("utf-8")
]


def blocks_of(path):
    """The blocks of code of a document, each with its language."""
    return re.findall(r"^```(\w*)\n(.*?)^```", path.read_text("utf-8"), re.M | re.S)


def by_where_they_run(guides):
    return [
        pytest.param(
            path, id=path.stem, marks=[] if path.stem == ON_TENSORFLOW else pytest.mark.eager
        )
        for path in guides
    ]


@pytest.mark.long
@pytest.mark.parametrize("guide", by_where_they_run(GUIDES))
def test_the_code_of_a_guide_runs(guide, tmp_path, monkeypatch, uncompiled):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    names = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for language, code in blocks_of(guide):
            if language == "python":
                exec(compile(code, str(guide), "exec"), names)
    if guide.stem == "adding_a_model":
        assert names["difference"].shape == (2, 5, 100)


def test_there_are_guides():
    assert {"adding_a_model", "generation", "serving", "training"} <= {path.stem for path in GUIDES}


def test_every_document_is_there_in_both_languages():
    documents = {path for path in ROOT.glob("docs/*.md") if path not in ENGLISH}
    assert documents == {chinese_of(path) for path in ENGLISH}


def without_comments(language, code):
    return ast.dump(ast.parse(code)) if language == "python" else code


def chinese_of(english):
    return english.with_name(f"{english.stem.removesuffix('_en')}.md")


@pytest.mark.parametrize("english", ENGLISH, ids=lambda path: path.stem)
def test_both_languages_show_the_same_code(english):
    code, translated = (
        [without_comments(*block) for block in blocks_of(path)]
        for path in (chinese_of(english), english)
    )
    assert code == translated


def outline_of(path):
    """The levels of headings and the numbers of cells of rows, in their order."""
    text = re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.M | re.S)
    marks = re.findall(r"^(#+ |\|.*)", text, re.M)
    return [mark if mark[0] == "#" else mark.count("|") for mark in marks]


@pytest.mark.parametrize("english", ENGLISH, ids=lambda path: path.stem)
def test_both_languages_have_the_same_sections_and_tables(english):
    assert outline_of(chinese_of(english)) == outline_of(english) != []
