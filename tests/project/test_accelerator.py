"""The benchmark for GPUs, in tiny sizes."""

import argparse
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.eager

ARGUMENTS = argparse.Namespace(tokens=256, steps=1, peak=None)
ROWS = ["pretrain base 128", "finetune base", "encode base", "write base beam 4", "load base"]


@pytest.fixture(scope="module")
def script(load_script):
    return load_script(Path(__file__).parents[2] / "benchmarks/accelerator.py")


@pytest.fixture(scope="module")
def folder(script, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    script.make_weights(folder, script.config_of("base", True))
    return folder


@pytest.mark.filterwarnings("ignore")  # of what the peer does
@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_measured_on_both_sides(script, folder, name, monkeypatch):
    monkeypatch.setattr(script, "NEW", 4)
    ours, theirs = (
        script.measure(engine, name, folder, ARGUMENTS) for engine in ("torch", script.PEER)
    )
    assert ours.keys() == theirs.keys()
    assert ours["tokens"] == theirs["tokens"] and ours["step"] > 0
    line = script.line(name, ours | {"device": "NVIDIA H200"}, theirs, ARGUMENTS)
    assert line.startswith(f"| {name} | ") and line.endswith("× |")
    assert line.count("|") == script.HEAD.strip().splitlines()[0].count("|")
    assert ("%" in line) == name.startswith("pretrain")


def test_operations_are_those_of_the_products(script, folder):
    """Twice the kernels for each token; for each pair of tokens two products of all heads."""
    from bert4keras.models import build_transformer_model

    config = script.config_of("base", True)
    model = build_transformer_model(folder)
    kernels = sum(int(np.prod(w.shape)) for w in model.weights if w.path.endswith("kernel"))
    pairs = 2 * config["num_hidden_layers"] * config["hidden_size"] * 10 * 10
    assert script.operations(config, 10, 0) == 2 * (10 * kernels + pairs)
    head = config["hidden_size"] * (config["hidden_size"] + config["vocab_size"])
    assert script.operations(config, 10, 3) - script.operations(config, 10, 0) == 2 * 3 * head
