"""pretraining/curve.py: the losses of runs as a picture."""

import re
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "pretraining/curve.py"
LOG = "step,tokens,loss,val_loss\n10,1000000,5.5,5.75\n20,2000000,4.5,\n30,3000000,4.25,4.5\n"


@pytest.fixture(scope="module")
def script(load_script):
    return load_script(SCRIPT)


def write(folder, content):
    folder.mkdir()
    path = folder / "log.csv"
    path.write_text(content, encoding="utf-8")
    return path


def test_all_runs_are_in_the_picture(script, tmp_path):
    logs = [write(tmp_path / name, LOG) for name in ("one", "other")]
    script.main([*map(str, logs), "--output", str(tmp_path / "loss.svg")])
    picture = (tmp_path / "loss.svg").read_text(encoding="utf-8")
    for name in ("one, training", "one, validation", "other, training", "million tokens"):
        assert f"<!-- {name} -->" in picture, name
    script.main([str(logs[0]), "--output", str(tmp_path / "loss.png")])
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_the_line_of_validation_joins_what_was_measured(script, tmp_path):
    script.draw([write(tmp_path / "run", LOG)], tmp_path / "loss.svg")
    picture = (tmp_path / "loss.svg").read_text(encoding="utf-8")
    dashed = re.findall(r'<path d="([^"]*)"[^>]*stroke-dasharray', picture)
    assert [path.count("L") for path in dashed] == [1, 2]  # the line, and that of the legend


def test_without_validation_there_is_one_line(script, tmp_path):
    log = write(tmp_path / "run", "step,tokens,loss\n10,1000000,5.5\n20,2000000,4.5\n")
    script.draw([log], tmp_path / "loss.svg")
    picture = (tmp_path / "loss.svg").read_text(encoding="utf-8")
    assert "<!-- training -->" in picture and "validation" not in picture


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"cannot be read as the log of a run: .*No such file"),
        ("", "has no losses"),
        ("step,tokens,loss\n", "has no losses"),
        ("a,b\n1,2\n", "has no losses"),
        ("step,tokens,loss\n1,1,much\n", "cannot be read as the log of a run: .*'much'"),
    ],
)
def test_what_is_no_log_is_refused(script, tmp_path, content, message):
    log = tmp_path / "log.csv"
    if content is not None:
        log.write_text(content, encoding="utf-8")
    with pytest.raises(SystemExit, match=message):
        script.main([str(log), "--output", str(tmp_path / "loss.png")])
    assert not (tmp_path / "loss.png").exists()
