"""The documents in `docs/`: their code runs, one block after the other."""

import contextlib
import io
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ON_TENSORFLOW = "serving"  # it writes ONNX
GUIDES = [path for path in sorted(ROOT.glob("docs/*.md")) if "```python" in path.read_text("utf-8")]


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
    blocks = re.findall(r"^```python\n(.*?)^```", guide.read_text(encoding="utf-8"), re.M | re.S)
    names = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for block in blocks:
            exec(compile(block, str(guide), "exec"), names)
    if guide.stem == "adding_a_model":
        assert names["difference"].shape == (2, 5, 100)


def test_there_are_guides():
    assert {"adding_a_model", "generation", "serving", "training"} <= {path.stem for path in GUIDES}
