"""运行这里的笔记本，把输出（文字和图）写回文件；不需要装 Jupyter。

    python examples/notebooks/run.py                       # 全部 / all of them
    python examples/notebooks/run.py first_steps.ipynb     # 一个 / one

Run the notebooks beside this file and write what they print and draw back into them, as they are
shown on the web. Needs matplotlib and a Chinese font, but no Jupyter. `KERAS_BACKEND` says which
backend computes, as everywhere.
"""

import argparse
import ast
import base64
import contextlib
import io
import json
from pathlib import Path
from typing import Any

import matplotlib

FOLDER = Path(__file__).parent


def execute(source: str, names: dict[str, Any], label: str) -> list[dict[str, Any]]:
    """Run the code of a cell.

    Args:
        source: the code.
        names: the variables of the notebook, which the code reads and changes.
        label: what a traceback calls the code.

    Returns:
        The outputs as they stand in a notebook: pictures that `plt.show()` shows, what was printed,
        and the value of the last line.
    """
    from matplotlib import pyplot as plt

    outputs: list[dict[str, Any]] = []

    def show(*args: Any, **options: Any) -> None:
        for number in plt.get_fignums():
            outputs.append(picture_of(plt.figure(number)))
        plt.close("all")

    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value, original = io.StringIO(), None, plt.show
    plt.show = show
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(tree, label, "exec"), names)
            if last is not None:
                value = eval(compile(ast.Expression(last.value), label, "eval"), names)
    finally:
        plt.show = original
    if printed.getvalue():
        text = lines_of(printed.getvalue())
        outputs.insert(0, {"output_type": "stream", "name": "stdout", "text": text})
    if value is not None:
        data = {"text/plain": lines_of(repr(value))}
        outputs.append(
            {"output_type": "execute_result", "data": data, "metadata": {}, "execution_count": None}
        )
    return outputs


def picture_of(figure: Any) -> dict[str, Any]:
    """A figure as the output of a cell."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=90, bbox_inches="tight", metadata={"Software": None})
    data = {"image/png": base64.b64encode(file.getvalue()).decode() + "\n"}
    return {"output_type": "display_data", "data": data, "metadata": {}}


def lines_of(text: str) -> list[str]:
    """A text as notebooks have it: lines that keep their ends."""
    return text.splitlines(keepends=True)


def run(path: Path) -> dict[str, Any]:
    """Run a notebook from its first cell to its last, in its folder.

    Returns:
        The notebook with the outputs of this run.
    """
    matplotlib.use("Agg")
    notebook = json.loads(path.read_text(encoding="utf-8"))
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    with contextlib.chdir(path.parent):
        for count, cell in enumerate(cells, 1):
            cell["outputs"] = execute("".join(cell["source"]), names, f"{path.name}[{count}]")
            cell["execution_count"] = count
            for output in cell["outputs"]:
                if "execution_count" in output:
                    output["execution_count"] = count
    return notebook


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("notebooks", nargs="*", help="names of files in this folder")
    names = parser.parse_args(argv).notebooks
    for path in [FOLDER / name for name in names] or sorted(FOLDER.glob("*.ipynb")):
        notebook = run(path)
        text = json.dumps(notebook, ensure_ascii=False, indent=1)
        path.write_text(text + "\n", encoding="utf-8")
        print(path.name)


if __name__ == "__main__":
    main()
