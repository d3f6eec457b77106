"""`python -m bert4keras.migrate` on the disk: what is read, written, kept and printed."""

import errno
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from speed import seconds_here

from bert4keras.migrate import main, migrate, migrate_files, text

OLD = "from keras.models import Model\n"
NEW = "from bert4keras.models import Model\n"


def content(folder):
    """The names and contents of the files in a folder."""
    return {path.name: path.read_text() for path in folder.iterdir()}


# === In place ===


def test_a_file_is_edited_in_place_and_kept(tmp_path, capsys):
    script = tmp_path / "train.py"
    script.write_text(OLD)
    script.chmod(0o750)
    assert main([str(script)]) == 0
    assert content(tmp_path) == {"train.py": NEW, "train.py.orig": OLD}
    assert stat.S_IMODE(script.stat().st_mode) == 0o750
    script.write_text(OLD)
    assert main([str(script)]) == 0
    assert content(tmp_path) == {"train.py": NEW, "train.py.orig": OLD, "train.py.orig.2": OLD}
    capsys.readouterr()
    assert main([str(script)]) == 0
    assert capsys.readouterr().out == "0 files of 1 changed, 0 lines.\n"
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_the_owner_of_a_file_stays(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(OLD)
    os.chown(script, 1234, 4321)
    assert main([str(script)]) == 0
    assert (script.stat().st_uid, script.stat().st_gid) == (1234, 4321)


def test_a_diff_writes_nothing(tmp_path, capsys):
    script = tmp_path / "train.py"
    script.write_text(OLD + "import tensorflow as tf\nf(tf.Session())")
    before = script.read_bytes()
    assert main(["--diff", str(script)]) == 0
    out = capsys.readouterr().out
    assert f"-{OLD}+{NEW}" in out
    assert "1 file of 1 to change, 3 lines.\n1 place left to you:\n" in out
    assert f"  {script}:3: delete this" in out
    assert script.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["train.py"]


def test_check_tells_whether_something_is_to_do(tmp_path, capsys):
    script = tmp_path / "train.py"
    script.write_text(OLD)
    assert main(["--check", str(tmp_path)]) == 1
    assert script.read_text() == OLD
    assert main([str(tmp_path)]) == 0
    assert main(["--check", str(tmp_path)]) == 0
    script.write_text("import keras\nm = keras.utils.multi_gpu_model(m, 2)\n")
    assert main([str(tmp_path)]) == 0
    assert main(["--check", str(tmp_path)]) == 1  # the mark
    assert "left to you" in capsys.readouterr().out


def test_a_folder_has_one_summary(tmp_path, capsys):
    (tmp_path / "train.py").write_text(OLD * 2)
    (tmp_path / "serve.py").write_text("import json\n")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "gpus.py").write_text(
        "import os\nfrom keras.utils import multi_gpu_model\nm = multi_gpu_model(m)\n"
    )
    assert main([str(tmp_path)]) == 0
    advice = "build, compile and fit inside `with data_parallel():` of bert4keras.training instead"
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}/train.py: 2 lines changed, see train.py.orig",
        f"{tmp_path}/deep/gpus.py: 2 lines changed, see gpus.py.orig",
        "2 files of 3 changed, 4 lines.",
        "2 places left to you:",
        f"  {tmp_path}/deep/gpus.py:2: {advice}",
        f"  {tmp_path}/deep/gpus.py:4: {advice}",
    ]


# === Encodings and line ends ===


@pytest.mark.parametrize(
    ("head", "encoding"),
    [
        ("# -*- coding: gbk -*-\n", "gbk"),
        ("#!/usr/bin/env python\n# vim: set fileencoding=gb18030 :\n", "gb18030"),
        ("", "utf-8-sig"),
        ("", "utf-8"),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", ["", "\n", "\n\n\t\n"])
def test_encoding_mark_and_line_ends_stay(head, encoding, newline, last, tmp_path):
    script = tmp_path / "train.py"
    body = f"{head}{OLD}text = '中文'; K = keras.Model('中', text)  \nif text:\n\tpass{last}"
    script.write_bytes(body.replace("\n", newline).encode(encoding))
    assert main([str(script)]) == 0
    expected = body.replace("keras.models", "bert4keras.models").replace("\n", newline)
    assert script.read_bytes() == expected.encode(encoding)


def test_line_ends_may_be_mixed(tmp_path):
    script = tmp_path / "train.py"
    script.write_bytes(b"import os\r\nfrom keras.models import Model\nx = '''a\r\nb\n'''\r\n\x0c\n")
    assert main([str(script)]) == 0
    expected = b"import os\r\nfrom bert4keras.models import Model\nx = '''a\r\nb\n'''\r\n\x0c\n"
    assert script.read_bytes() == expected


# === Odd files ===

ODD = {
    "codec that is no text": (b"# coding: rot13\n", "cannot be decoded"),
    "codec that nobody knows": (b"# coding: martian\n", "cannot be decoded"),
    "codec that never decodes": (b"# coding: undefined\n", "cannot be decoded"),
    "another codec": ("text = '中文'\n".encode("gbk"), "cannot be decoded"),
    "a NUL": (b"x = 1\n\x00\n", "Python 3 cannot read this"),
    "Python 2": (b"print 'x'\n", "odd.py:2: Python 3 cannot read this"),
    "too many brackets": (b"x = " + b"[" * 1500 + b"]" * 1500, "too many nested parentheses"),
    "too many signs": (b"x = " + b"-" * 20_000 + b"1\n", "nested too deeply"),
}
DEEP = {
    "elifs": "if x < 0: pass\n" + "".join(f"elif x == {i}: pass\n" for i in range(5000)),
    "calls": "x = y" + ".f(1)" * 5000 + "\n",
    "attributes": "x = y" + ".f" * 5000 + "\n",
    "additions": "x = " + " + ".join(["y"] * 10_000) + "\n",
    "lines": "x = 1\n" * 5000,
}


@pytest.mark.parametrize("kind", ODD)
def test_a_file_that_cannot_be_read_stops_no_other(kind, tmp_path, capsys):
    data, message = ODD[kind]
    odd, good = tmp_path / "odd.py", tmp_path / "z.py"
    odd.write_bytes(data if data.startswith(b"#") else OLD.encode() + data)
    before = odd.read_bytes()
    good.write_text(OLD)
    assert main([str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert message in err and "1 file could not be rewritten" in out
    assert odd.read_bytes() == before and good.read_text() == NEW


@pytest.mark.parametrize("kind", DEEP)
def test_what_is_deep_or_long_is_read_in_no_time(kind, tmp_path):
    script = tmp_path / "deep.py"
    script.write_text(OLD + DEEP[kind])
    start = time.process_time()
    assert main([str(script)]) == 0
    assert time.process_time() - start < seconds_here(10)
    assert script.read_text() == NEW + DEEP[kind]


def test_what_is_no_file_stops_no_other(tmp_path, capsys):
    os.mkfifo(tmp_path / "fifo.py")
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "loop.py").symlink_to("loop.py")
    (tmp_path / "nowhere.py").symlink_to("missing.py")
    (tmp_path / "z.py").write_text(OLD)
    assert main([str(tmp_path), str(tmp_path / "gone.py")]) == 1
    err = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0].rpartition("/")[2] for line in err] == [
        "fifo.py",
        "loop.py",
        "nowhere.py",
        "gone.py",
    ]
    assert (tmp_path / "z.py").read_text() == NEW


def test_a_fault_of_migrate_itself_stops_no_other(tmp_path, capsys, monkeypatch):
    (tmp_path / "a.py").write_text(OLD)
    (tmp_path / "b.py").write_text(OLD)
    from bert4keras.migrate import files

    def rewritten(text, *args, done=[]):  # noqa: B006
        done.append(text)
        if len(done) == 1:
            raise KeyError("x")
        return NEW

    monkeypatch.setattr(files, "rewritten", rewritten)
    assert main([str(tmp_path)]) == 1
    assert "a.py: not changed, because of a bug in migrate: KeyError" in capsys.readouterr().err
    assert (tmp_path / "a.py").read_text() == OLD and (tmp_path / "b.py").read_text() == NEW


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "train.py").write_text(OLD)
    (tmp_path / "link.py").symlink_to("train.py")
    assert main([str(tmp_path)]) == 0
    assert (tmp_path / "link.py").is_symlink()
    assert (tmp_path / "train.py").read_text() == NEW


def test_other_folders_are_left_out(tmp_path):
    for folder in (".git", "env", "data"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.py").write_text(OLD)
    (tmp_path / "env" / "pyvenv.cfg").touch()
    (tmp_path / "notes.txt").write_text(OLD)
    assert main([str(tmp_path)]) == 0
    changed = [path for path in tmp_path.rglob("*") if path.is_file() and path.read_text() == NEW]
    assert changed == [tmp_path / "data" / "x.py"]


# === Ends in the middle ===

KILLED = """
import itertools, os, sys
from pathlib import Path
from bert4keras.migrate import main

def killed(function, wanted, when, calls):
    def call(*args, **kwargs):
        calls.append(args)
        if len(calls) == wanted and when == "before":
            os._exit(9)
        result = function(*args, **kwargs)
        if len(calls) == wanted:
            os._exit(9)
        return result
    return call

steps = ["open", "fchmod", "fsync", "link", "unlink", "rename"]
for step, wanted, when in itertools.product(steps, (1, 2), ("before", "after")):
    folder = Path(f"{step}-{wanted}-{when}")
    folder.mkdir()
    for name in ("a.py", "b.py"):
        (folder / name).write_text(sys.argv[1])
    if os.fork() == 0:
        setattr(os, step, killed(getattr(os, step), wanted, when, []))
        main([str(folder)])
        os._exit(0)
    _, status = os.wait()
    print("[end]", folder, os.waitstatus_to_exitcode(status))
"""


def test_a_kill_at_any_moment_leaves_every_original(tmp_path):
    command = [sys.executable, "-c", KILLED, OLD]
    result = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    ends = [line.split()[1:] for line in result.stdout.splitlines() if line.startswith("[end]")]
    assert len(ends) == 24 and sum(status == "9" for _, status in ends) >= 16
    for name, _ in ends:
        folder = tmp_path / name
        found = content(folder)
        for script in ("a.py", "b.py"):
            assert OLD in (found.get(script), found.get(f"{script}.orig")), name
        assert set(found.values()) <= {OLD, NEW}
        assert set(found) <= {"a.py", "b.py", "a.py.orig", "b.py.orig"}
        # What was left can be rewritten, and what has been rewritten stays.
        assert migrate_files([folder]) == 0
        kept = {script for script in content(folder) if script.endswith(".orig")}
        assert kept == {"a.py.orig", "b.py.orig"}
        assert {content(folder)[script] for script in kept} == {OLD}


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("step", ["fsync", "link"])
def test_a_full_disk_leaves_what_there_was(named, step, tmp_path, monkeypatch, capsys):
    script = tmp_path / "train.py"
    script.write_text(OLD)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    if named:  # a system without files that have no name
        monkeypatch.delattr(os, "O_TMPFILE")
    monkeypatch.setattr(text.os, step, full)
    if step == "link":
        monkeypatch.setattr(text.os, "rename", full)
    assert main([str(script)]) == 1
    assert "No space left" in capsys.readouterr().err
    monkeypatch.undo()
    assert content(tmp_path) == {"train.py": OLD}


def test_a_disk_without_links_and_unnamed_files_will_do(tmp_path, monkeypatch):
    script = tmp_path / "train.py"
    script.write_text(OLD)

    def no_links(*args, **kwargs):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.delattr(os, "O_TMPFILE")
    monkeypatch.setattr(text.os, "link", no_links)
    assert main([str(script)]) == 0
    assert content(tmp_path) == {"train.py": NEW, "train.py.orig": OLD}


# === The command ===


def test_the_command_runs_without_keras(tmp_path):
    (tmp_path / "train.py").write_text(OLD)
    code = (
        "import sys, bert4keras.migrate as m; code = m.main(['--diff', 'train.py']);"
        "sys.exit(code or 'keras' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    command = [sys.executable, "-m", "bert4keras.migrate", "train.py"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "train.py.orig").exists()


def test_the_command_runs_beside_an_old_copy(tmp_path):
    """`-P` keeps Python from taking the copy in the current folder for the library."""
    (tmp_path / "train.py").write_text(OLD)
    (tmp_path / "bert4keras").mkdir()
    (tmp_path / "bert4keras/__init__.py").write_text("__version__ = '0.10.0'\n")
    command = [sys.executable, "-P", "-m", "bert4keras.migrate", "."]
    result = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert result.stdout.startswith("bert4keras is a copy of the library (0.10.0).")
    assert (tmp_path / "train.py").read_text() == migrate(OLD)


def test_help_says_what_happens():
    command = [sys.executable, "-X", "importtime", "-m", "bert4keras.migrate", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    for word in ("--diff", "--check", ".orig", "bert4keras.migrate:", "exit status", "folder"):
        assert word in result.stdout
    modules = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert modules.isdisjoint({"keras", "numpy", "tensorflow", "h5py"})


def test_fifty_files_take_less_than_ten_seconds(tmp_path):
    scripts = sorted((Path(__file__).parent / "scripts").glob("*.py"))
    for number in range(50):
        (tmp_path / f"a{number}.py").write_bytes(scripts[number % len(scripts)].read_bytes())
    start = time.process_time()
    assert main([str(tmp_path)]) == 0
    assert time.process_time() - start < seconds_here(10)
