"""Models that earlier versions saved load, give the same outputs and train on.

Backends differ in the fifth digit by now; a layer or weight that was not read, in the first.
"""

from pathlib import Path

import keras
import numpy as np
import pytest
from saved_by_1_0_dev import make

FOLDER = Path(__file__).parent / "saved_by_1_0_dev"
pytestmark = pytest.mark.backend


@pytest.fixture(scope="module")
def expected():
    with np.load(FOLDER / "outputs.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("name", make.MODELS)
def test_a_model_gives_the_outputs_that_it_gave_when_it_was_saved(name, expected):
    model = keras.saving.load_model(FOLDER / f"{name}.keras")
    outputs = make.outputs_of(model, make.inputs_of(name))
    assert f"{name}/{len(outputs)}" not in expected
    for i, output in enumerate(outputs):
        np.testing.assert_allclose(output, expected[f"{name}/{i}"], atol=1e-3)


def test_an_extended_optimizer_goes_on_where_it_was(expected):
    model = keras.saving.load_model(FOLDER / "bert.keras")
    make.train(model)
    found = np.concatenate([w.ravel() for w in model.get_weights()])
    np.testing.assert_allclose(found, expected["trained"], atol=1e-4)
