"""The scripts in `tests/migrate/scripts`, what becomes of them, and their part of the document.

python tests/support/migration_cases.py        # writes the diffs into docs/migration.md
"""

import difflib
import sys
from pathlib import Path

from bert4keras.migrate import migrate

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests" / "migrate" / "scripts"
DOCUMENT = ROOT / "docs" / "migration.md"
BEGIN = "<!-- Written by tests/support/migration_cases.py. -->\n"

SCRIPTS = {
    "classify": "classification with a training generator, a callback that saves, checkpoints",
    "title": "UniLM, a loss layer with a metric, beam search and sampling",
    "labeling": "CRF, MEMM and pointers, imports from inside of Keras 2",
    "own_layers": "layers of one's own and those of the library, all by a star import",
    "architectures": "all architectures, subclasses, conditional normalisation",
    "training_tricks": "optimizers and what extends them",
    "text_tools": "tokenizers, files, data, decoding without a model",
    "version_05": "names of 0.2 to 0.7",
    "tf_keras": "`TF_KERAS=1`, sessions, several GPUs, `K.function`",
    "gradients": "adversarial training, gradient penalty, attribution",
}

BY_HAND = {
    "tf_keras": [
        ("devices", "from keras.utils import multi_gpu_model\n", ""),
        (
            "devices",
            "from bert4keras.models import build_transformer_model, data_parallel\n",
            "from bert4keras.models import build_transformer_model\n"
            "from bert4keras.training import data_parallel\n",
        ),
        ("devices", "    parallel_model = data_parallel(model)\n", ""),
        ("devices", "    parallel_model = multi_gpu_model(model, gpus=2)\n", ""),
        ("devices", "    parallel_model.compile(", "    model.compile("),
        ("devices", "    parallel_model.fit(", "    model.fit("),
        (
            "devices",
            "model, first = train()\n",
            "with data_parallel(1):\n    model, first = train()\n",
        ),
    ],
}
"""The line edits that `migrate` leaves: their kind, what goes (or from where to where), what comes.

The comment above goes as well.
"""


def original(name: str) -> str:
    """The script as it was for 0.11.5."""
    return (FOLDER / f"{name}.py").read_text(encoding="utf-8")


def finished(name: str) -> str:
    """The script after `migrate` and the edits by hand."""
    text = migrate(original(name))
    for _, old, new in BY_HAND.get(name, []):
        if isinstance(old, tuple):
            start, end = text.index(old[0]), text.index(old[1], text.index(old[0]))
            text = without_comments(text[:start]) + new + text[end:]
            continue
        if text.count(old) != 1:
            raise ValueError(f"{name}: {old!r} is there {text.count(old)} times")
        before, after = text.split(old)
        text = without_comments(before) + new + after
    return text


def without_comments(text: str) -> str:
    """Remove the comments of `migrate` at the end of a text."""
    lines = text.split("\n")
    while len(lines) > 1 and lines[-2].strip().startswith("# bert4keras.migrate:"):
        del lines[-2]
    return "\n".join(lines)


def difference(old: str, new: str) -> str:
    """What changes, with one line around it."""
    lines = (text.splitlines(keepends=True) for text in (old, new))
    return "".join(list(difflib.unified_diff(*lines, n=1))[2:])


def diffs() -> str:
    """The diffs of all scripts, as they stand in the document."""
    parts = [BEGIN]
    for name, content in SCRIPTS.items():
        old, new = original(name), migrate(original(name))
        parts.append(f"### {name}.py\n\nShows {content}.\n")
        parts.append(f"```diff\n{difference(old, new)}```\n")
        if name in BY_HAND:
            kinds = " and ".join(dict.fromkeys(kind for kind, _, _ in BY_HAND[name]))
            parts.append(f"By hand ({kinds}):\n")
            parts.append(f"```diff\n{difference(new, finished(name))}```\n")
    return "\n".join(parts)


def write() -> None:
    """Write the diffs into the document."""
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(text[: text.index(BEGIN)] + diffs(), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(write())
