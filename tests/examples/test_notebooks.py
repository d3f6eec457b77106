"""The notebooks: what is kept of their outputs, and every cell of them on few samples."""

import base64
import json
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples/notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
by_name = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells_of(path, kind):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


@by_name
def test_the_form_is_that_of_notebooks(path):
    """What the schema of nbformat 4.5 asks of cells and outputs."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook.keys() == {"cells", "metadata", "nbformat", "nbformat_minor"}
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[\w-]{1,64}", each) for each in ids)
    keys = {"cell_type", "id", "metadata", "source"}
    assert all(cell.keys() == keys for cell in cells_of(path, "markdown"))
    fields = {
        "stream": {"output_type", "name", "text"},
        "display_data": {"output_type", "data", "metadata"},
        "execute_result": {"output_type", "data", "metadata", "execution_count"},
    }
    for count, cell in enumerate(cells_of(path, "code"), 1):
        assert cell.keys() == keys | {"outputs", "execution_count"}
        assert cell["execution_count"] == count
        for output in cell["outputs"]:
            assert output.keys() == fields[output["output_type"]]  # an error is none of these


@by_name
def test_outputs_are_kept_and_say_nothing_of_a_machine(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.:/<])/(home|root|tmp|work|usr|Users)/|[A-Z]:\\\\", text)
    outputs = [output for cell in cells_of(path, "code") for output in cell["outputs"]]
    pictures = [output["data"].get("image/png", "") for output in outputs if "data" in output]
    pictures = [base64.b64decode(picture) for picture in pictures if picture]
    assert pictures and all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert sum("plt.show()" in line for c in cells_of(path, "code") for line in c["source"]) == len(
        pictures
    )
    prints = [cell for cell in cells_of(path, "code") if "print(" in "".join(cell["source"])]
    texts = ["".join(output["text"]) for output in outputs if "text" in output]
    assert prints and texts
    words = "".join("".join(cell["source"]) for cell in cells_of(path, "markdown"))
    assert re.search("[一-鿿]{9}", words) and re.search("[a-z]+ [a-z]+ [a-z]+", words)


LESS = {
    "EPOCHS = ": "EPOCHS = 1  # ",
    'train, dev = read("train"), read("dev")': 'train, dev = read("train")[:32], read("dev")[:32]',
}
"""What a notebook says, and what it says in the test."""


def test_they_are_small():
    assert len(NOTEBOOKS) == 3
    assert sum(path.stat().st_size for path in NOTEBOOKS) < 1_000_000


@pytest.mark.eager
@pytest.mark.long
@pytest.mark.filterwarnings("ignore:Glyph .* missing")  # where no font has Chinese characters
@by_name
def test_every_cell_runs(path, load_script, monkeypatch, tmp_path):
    """As in the file, but one epoch on 32 samples; outputs are of the kinds that are kept."""
    run = load_script(FOLDER / "run.py")
    text = path.read_text(encoding="utf-8")
    for there, instead in LESS.items():
        there, instead = (json.dumps(each)[1:-1] for each in (there, instead))
        assert path.stem == "first_steps" or text.count(there) == 1
        text = text.replace(there, instead)
    copy = tmp_path / "notebooks" / path.name
    copy.parent.mkdir()
    copy.write_text(text, encoding="utf-8")
    for name in ("weights", "data"):
        (tmp_path / name).symlink_to(FOLDER.parent / name)
    found = [cell for cell in run.run(copy)["cells"] if cell["cell_type"] == "code"]
    for cell, kept in zip(found, cells_of(path, "code"), strict=True):
        kinds = [[output["output_type"] for output in c["outputs"]] for c in (cell, kept)]
        assert kinds[0] == kinds[1]


def test_the_runner_keeps_what_a_cell_prints_shows_and_ends_with(load_script):
    run = load_script(FOLDER / "run.py")
    names = {}
    assert run.execute("a = 1\nprint('甲')\nprint(a)", names, "x") == [
        {"output_type": "stream", "name": "stdout", "text": ["甲\n", "1\n"]}
    ]
    (result,) = run.execute("a + 1", names, "x")
    assert result["data"] == {"text/plain": ["2"]}
    with pytest.raises(ZeroDivisionError):
        run.execute("1 / 0", names, "x")
