"""The scripts in `tests/migrate/scripts`, what becomes of them, and their part of the documents.

python tests/support/migration_cases.py        # writes the diffs into docs/migration{,_en}.md
"""

import difflib
import sys
from pathlib import Path

from bert4keras.migrate import migrate

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests" / "migrate" / "scripts"
DOCUMENTS = {"zh": ROOT / "docs" / "migration.md", "en": ROOT / "docs" / "migration_en.md"}
"""The documents that show the diffs, by their language."""
BEGIN = "<!-- Written by tests/support/migration_cases.py. -->\n"

SCRIPTS = {
    "classify": {
        "zh": "用数据生成器训练的分类，保存权重的回调，`ModelCheckpoint`",
        "en": "classification with a training generator, a callback that saves, checkpoints",
    },
    "title": {
        "zh": "UniLM，带指标的损失层，束搜索和采样",
        "en": "UniLM, a loss layer with a metric, beam search and sampling",
    },
    "labeling": {
        "zh": "CRF、MEMM 和指针，从 Keras 2 内部导入",
        "en": "CRF, MEMM and pointers, imports from inside of Keras 2",
    },
    "own_layers": {
        "zh": "自己写的层和本库的层，全部用星号导入",
        "en": "layers of one's own and those of the library, all by a star import",
    },
    "architectures": {
        "zh": "所有模型结构，子类，条件归一化",
        "en": "all architectures, subclasses, conditional normalisation",
    },
    "training_tricks": {"zh": "优化器及其扩展", "en": "optimizers and what extends them"},
    "text_tools": {
        "zh": "分词器、文件、数据，不用模型的解码",
        "en": "tokenizers, files, data, decoding without a model",
    },
    "version_05": {"zh": "0.2 到 0.7 的名字", "en": "names of 0.2 to 0.7"},
    "tf_keras": {
        "zh": "`TF_KERAS=1`、session、多个 GPU、`K.function`",
        "en": "`TF_KERAS=1`, sessions, several GPUs, `K.function`",
    },
    "gradients": {
        "zh": "对抗训练、梯度惩罚、归因",
        "en": "adversarial training, gradient penalty, attribution",
    },
}
"""The scripts, and what they show, in each language."""

SHOWS = {"zh": "内容：{}。", "en": "Shows {}."}
BY_HAND_HEADING = {"zh": "手工改的（{}）：", "en": "By hand ({}):"}

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


def diffs(language: str) -> str:
    """The diffs of all scripts, as they stand in the document of a language."""
    parts = [BEGIN]
    for name, shown in SCRIPTS.items():
        old, new = original(name), migrate(original(name))
        parts.append(f"### {name}.py\n\n{SHOWS[language].format(shown[language])}\n")
        parts.append(f"```diff\n{difference(old, new)}```\n")
        if name in BY_HAND:
            kinds = ", ".join(dict.fromkeys(kind for kind, _, _ in BY_HAND[name]))
            parts.append(f"{BY_HAND_HEADING[language].format(kinds)}\n")
            parts.append(f"```diff\n{difference(new, finished(name))}```\n")
    return "\n".join(parts)


def write() -> None:
    """Write the diffs into the documents."""
    for language, document in DOCUMENTS.items():
        text = document.read_text(encoding="utf-8")
        document.write_text(text[: text.index(BEGIN)] + diffs(language), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(write())
