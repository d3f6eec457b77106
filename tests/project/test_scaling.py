"""The benchmark of growth with length and vocabulary, in tiny sizes."""

import json
import math
from pathlib import Path

import keras
import pytest


@pytest.fixture(scope="module")
def script(load_script):
    return load_script(Path(__file__).parents[2] / "benchmarks/scaling.py")


@pytest.mark.eager
def test_all_cases_are_measured(script):
    options = script.parsed(["--tiny"])
    for case in script.CASES:
        for axis in script.CASES[case].axes:
            point = script.measure(case, axis, script.sizes_of(axis, options)[0], options)
            assert point["engine"] == keras.backend.backend()
            assert point["seconds"] > 0 and point["bytes"] >= 0


def points_of(case, axis, sizes, power):
    """Points that grow by a power of the size."""
    grown = [{"seconds": 0.01 * n**power, "bytes": n**power << 20} for n in sizes]
    own = {"case": case, "axis": axis, "engine": "tensorflow"}
    return [{**own, "size": n, **each} for n, each in zip(sizes, grown, strict=True)]


def test_tables_show_the_exponents(script):
    points = points_of("fit", "length", [1, 2, 8], 2) + points_of("crf", "length", [1, 2, 8], 1)
    assert script.table(points[::-1], "length", "seconds").splitlines() == [
        "| ms, by tokens of a text | 1 | 2 | 8 |",
        "| --- | --: | --: | --: |",
        "| step of fit, classifier | 10 | 40 (2.0) | 640 (2.0) |",
        "| CRF, step of fit | 10 | 20 (1.0) | 80 (1.0) |",
    ]
    assert "| 1 | 4 (2.0) | 64 (2.0) |" in script.table(points, "length", "bytes")
    nothing = {"size": 1, "bytes": 0}
    assert math.isnan(script.exponent(nothing, points[0], "bytes"))


def test_the_command_writes_tables_points_and_a_picture(script, tmp_path, capsys):
    """With the one case that needs no engine, and so starts at once."""
    files = tmp_path / "points.json", tmp_path / "picture.png"
    paths = ["--json", str(files[0]), "--picture", str(files[1])]
    script.main(["--tiny", "--cases", "viterbi", *paths])
    points = json.loads(files[0].read_text())
    assert [(p["case"], p["size"], p["engine"]) for p in points] == [
        ("viterbi", 16, "numpy"),
        ("viterbi", 32, "numpy"),
    ]
    assert script.table(points, "length", "seconds") in capsys.readouterr().out
    assert files[1].read_bytes().startswith(b"\x89PNG")
