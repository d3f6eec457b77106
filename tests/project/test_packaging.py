"""What an installation brings, what an import loads, and whether the texts agree with it."""

import email
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import bert4keras

ROOT = Path(__file__).resolve().parents[2]
FRAMEWORKS = {"keras", "tensorflow", "jax", "torch"}
FOLDERS = ("docs", "examples", "experiments", "pretraining", "benchmarks")
TEXTS = [
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", *(f"{folder}/**/*.md" for folder in FOLDERS))
    for path in sorted(ROOT.glob(pattern))
]


def printed_by(code, folder, environment):
    """What a fresh interpreter prints in a folder; it must not fail."""
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=folder,
        # Keras reads a file in the home directory, or here, which may name another backend.
        env=environment | {"KERAS_HOME": str(folder)},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def loaded_by(statement, folder, backend="tensorflow"):
    """The frameworks that a fresh interpreter has loaded after a statement."""
    code = f"import json, sys\n{statement}\nprint(json.dumps(list(sys.modules)))"
    printed = printed_by(code, folder, os.environ | {"KERAS_BACKEND": backend})
    return FRAMEWORKS & set(json.loads(printed.splitlines()[-1]))


@pytest.mark.parametrize(
    "module", ["", ".tokenizers", ".text.saving", ".snippets", ".generation", ".checkpoints"]
)
def test_imports_without_keras(module, tmp_path):
    """Processes that only tokenize or read a checkpoint stay light."""
    assert loaded_by(f"import bert4keras{module}", tmp_path) == set()


WITHOUT_TENSORFLOW = """
import sys
import bert4keras.backend, bert4keras.layers, bert4keras.legacy, bert4keras.models
import bert4keras.optimizers, bert4keras.training
from bert4keras.generation import Generator
from bert4keras.models import build_transformer_model

sizes = dict(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
writer = build_transformer_model(**sizes, intermediate_size=8, application="lm", with_mlm="linear")
Generator(writer, end_id=3, maxlen=1).generate([[2, 5]])
assert "tensorflow" not in sys.modules
sys.modules["tensorflow"] = None  # as if it were not installed

import keras
import numpy as np

config = dict(sizes, intermediate_size=8, with_pool=True)
keras.utils.set_random_seed(0)
transformer = build_transformer_model(**config, return_keras_model=False)
transformer.save_weights_as_checkpoint("bert_model.ckpt")
model = build_transformer_model(**config, checkpoint_path="bert_model.ckpt")
inputs = [np.array([[2, 5, 6, 3]]), np.zeros((1, 4), "int32")]
outputs = model.predict(inputs, verbose=0)
assert np.array_equal(outputs, transformer.model.predict(inputs, verbose=0))
model.save("model.keras")
loaded = keras.saving.load_model("model.keras")
assert np.array_equal(outputs, loaded.predict(inputs, verbose=0))
loaded.compile(optimizer=bert4keras.optimizers.Adam(0.1), loss="mse")
loaded.fit(inputs, np.ones((1, 8)), verbose=0)
"""


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_need_no_tensorflow(backend, tmp_path):
    """They never import it, and official checkpoints are read and written where it is missing."""
    loaded = loaded_by(WITHOUT_TENSORFLOW, tmp_path, backend)
    assert {"keras", backend} <= loaded


WITHOUT_AN_ENGINE = """
import importlib, sys
import bert4keras.snippets, bert4keras.tokenizers
assert "keras" not in sys.modules
sys.modules.update(dict.fromkeys({missing}))  # as if they were not installed
messages = set()
for name in {names}:
    module, _, attribute = name.partition(":")
    try:
        getattr(importlib.import_module("bert4keras." + module), attribute)
    except ImportError as error:
        assert error.__suppress_context__, name
        messages.add(str(error))
    else:
        raise AssertionError(name)
print(*messages)
"""


@pytest.mark.parametrize(
    ("told", "missing", "instead"),
    [
        (None, ["tensorflow"], "set KERAS_BACKEND=jax or KERAS_BACKEND=torch, or "),
        (None, ["tensorflow", "jax"], "set KERAS_BACKEND=torch, or "),
        ("tensorflow", ["tensorflow", "jax", "torch"], ""),
    ],
)
def test_a_missing_engine_is_one_sentence(told, missing, instead, tmp_path):
    """Whatever is imported first; what needs no Keras is imported all the same."""
    names = ["layers", "models", "optimizers", "training", "backend", "legacy"]
    names += ["generation:Generator", "sentences:SentenceEncoder"]
    environment = dict(os.environ)
    environment.pop("KERAS_BACKEND", None)
    if told:
        environment["KERAS_BACKEND"] = told
    code = WITHOUT_AN_ENGINE.format(missing=missing, names=names)
    reason = f"KERAS_BACKEND={told}" if told else "KERAS_BACKEND is not set"
    assert printed_by(code, tmp_path, environment) == (
        f"{reason}, so that Keras would run on tensorflow, which is not installed: {instead}"
        "pip install tensorflow\n"
    )


def project():
    """The metadata in pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_metadata():
    metadata = importlib.metadata.metadata("bert4keras")
    assert metadata["Version"] == bert4keras.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    extras = {"examples", "test", "jax", "torch", "sentencepiece", "serve"}
    assert extras <= set(metadata.get_all("Provides-Extra"))
    names = {name_of(requirement) for requirement in project()["dependencies"]}
    assert {"tensorflow", "keras", "numpy", "h5py", "unicodedata2", "google-crc32c"} <= names


def test_an_installation_has_all_folders_and_files():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    find = {"include": ["bert4keras*"], "namespaces": False}
    assert settings["setuptools"]["packages"] == {"find": find}
    # A folder is found by this file.
    folders = {path.parent for path in ROOT.glob("bert4keras/**/*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []
    brought = {
        path
        for package, patterns in settings["setuptools"]["package-data"].items()
        for pattern in patterns
        for path in ROOT.joinpath(*package.split(".")).glob(pattern)
    }
    files = {path for path in ROOT.glob("bert4keras/**/*") if path.is_file()}
    assert brought == {path for path in files if path.suffix not in (".py", ".pyc")}


def test_a_source_distribution_is_whole(tmp_path):
    """It has every file of the repository, so that its tests run and its documents are complete."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout of git")
    command = ["git", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = {name for name in listed.split("\0") if name and (ROOT / name).is_file()}
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(ROOT / name)
    code = "from setuptools import build_meta as b; b.prepare_metadata_for_build_wheel('.')"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    (listed,) = tmp_path.glob("*.egg-info/SOURCES.txt")
    packed = set(listed.read_text(encoding="utf-8").splitlines())
    assert files - packed == set()


@pytest.fixture(scope="module")
def core_wheel(tmp_path_factory):
    """The wheel of bert4keras-core, built as pip builds it."""
    folder = tmp_path_factory.mktemp("core")
    code = f"import backend; backend.build_wheel({str(folder)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT / "core", check=True, capture_output=True)
    return next(folder.iterdir())


def test_the_core_is_the_same_without_tensorflow(core_wheel):
    assert core_wheel.name == f"bert4keras_core-{bert4keras.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(core_wheel) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        metadata = next(name for name in wheel.namelist() if name.endswith("/METADATA"))
        message = email.message_from_bytes(wheel.read(metadata))
    files = {path for path in ROOT.glob("bert4keras/**/*") if path.is_file()}
    files = {path.relative_to(ROOT).as_posix() for path in files if path.suffix != ".pyc"}
    assert names == files
    extras = project()["optional-dependencies"]
    assert set(message.get_all("Provides-Extra")) == set(extras)
    always = {r for r in message.get_all("Requires-Dist") if "extra ==" not in r}
    assert always == {r for r in project()["dependencies"] if name_of(r) != "tensorflow"}
    assert not [r for r in message.get_all("Requires-Dist") if r.startswith("bert4keras[")]


def test_the_core_tells_if_it_is_not_alone(tmp_path, core_wheel):
    """Each of the two would overwrite files of the other, and take them along when it goes."""
    for name in ("bert4keras", "bert4keras_core"):
        (tmp_path / f"{name}-1.0.dist-info").mkdir()
        if name == "bert4keras":
            bert4keras._check_installation(tmp_path)
    with pytest.raises(ImportError, match=r"both installed.*pip uninstall -y bert4keras bert"):
        bert4keras._check_installation(tmp_path)
    bert4keras._check_installation(tmp_path / "missing")


def test_the_page_on_an_index_links_to_no_files():
    """It is shown where the files of the repository are not."""
    text = (ROOT / project()["readme"]).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links and all(link.startswith("https://") for link in links)


def requirements():
    """All requirements, those of the extras included."""
    extras = project()["optional-dependencies"].values()
    return [*project()["dependencies"], *(r for extra in extras for r in extra)]


def name_of(requirement):
    """The project that a requirement names."""
    return re.match(r"[\w.-]+", requirement)[0]


def test_nothing_is_pinned():
    assert not [r for r in requirements() if re.search(r"==|~=|<", r)]


@pytest.mark.parametrize("page", ["dependencies.md", "dependencies_en.md"])
def test_every_dependency_is_justified(page):
    """The tables in the document name what pyproject.toml names, no more and no less."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    justified = set(re.findall(r"^\| `([\w.-]+)`", text, re.MULTILINE))
    assert justified == {name_of(requirement) for requirement in requirements()} - {"bert4keras"}


def test_license():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License\n                           Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_changelog_begins_with_this_version():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## (\S+)", text, re.MULTILINE)[1] == bert4keras.__version__


def test_make_knows_what_the_texts_tell_to_make():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+(?: [\w-]+)*):(?!=)", makefile, re.MULTILINE))
    targets = {target for names in targets for target in names.split()}
    for name in TEXTS:
        text = (ROOT / name).read_text(encoding="utf-8")
        told = set(re.findall(r"(?:^|`)make ([a-z][\w-]*)", text, re.MULTILINE))
        assert told <= targets, name
        if name in ("README.md", "README_en.md"):
            first, second, *_ = re.findall(r"^make (\w+)", text, re.MULTILINE)
            assert (first, second) == ("demo", "test"), name


def test_readmes_install_extras_that_exist():
    for name in ("README.md", "README_en.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        extras = re.findall(r"pip install [^\n]*\[([\w,]+)\]", text)
        assert extras, name
        assert {e for group in extras for e in group.split(",")} <= set(
            project()["optional-dependencies"]
        ), name


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_somewhere(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    files = [link for link in links if not re.match(r"\w+:", link)]
    assert [link for link in files if not (ROOT / name).parent.joinpath(link).exists()] == []


def test_readmes_link_each_other_at_the_top():
    for name, other in (("README.md", "README_en.md"), ("README_en.md", "README.md")):
        top = (ROOT / name).read_text(encoding="utf-8").splitlines()[:5]
        assert any(f"]({other})" in line for line in top), name


def test_ci_script_calls_make_test():
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    text = script.read_text(encoding="utf-8")
    assert "set -euo pipefail" in text
    assert re.search(r"^make test\b", text, re.MULTILINE)
