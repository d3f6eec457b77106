"""What `make` does around the programs that it starts."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOISE = """\
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1796029679.086767    5487 cudart_stub.cc:31] Could not find cuda drivers
E0000 00:00:1796029798.724724    5776 cuda_platform.cc:52] failed call to cuInit
"""


@pytest.mark.skipif(any(Path("/dev").glob("nvidia*")), reason="there may be a GPU to speak of")
def test_the_demo_says_nothing_of_gpus_that_are_not_there(tmp_path):
    """Errors still come through, and so do arguments and the exit status."""
    python = tmp_path / "python"
    python.write_text(
        f"#!/bin/sh\ncat >&2 <<'END'\n{NOISE}ValueError: an error\nEND\necho \"$3\"; exit 3\n"
    )
    python.chmod(0o755)
    command = [
        "make",
        "--no-print-directory",
        "-o",
        ".venv/.demo",
        "demo",
        f"BIN={tmp_path}",
        'ARGS=--epochs "书 好看"',
    ]
    if not (shutil.which("make") and shutil.which("bash")):
        pytest.skip("needs make and bash")
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.stdout == "书 好看\n"
    errors = result.stderr.splitlines()
    assert errors[0] == "ValueError: an error" and "Error 3" in errors[1]
    assert len(errors) == 2 and result.returncode
