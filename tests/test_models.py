"""Models against the original: outputs, layers, weights; and what happens when things go wrong."""

import json

import keras
import numpy as np
import pytest
from golden import load_json

from bert4keras import models
from bert4keras.models import build_transformer_model

pytestmark = pytest.mark.backend

FAMILIES = ("bert", "roberta", "roformer")


def golden_cases(shared):
    """The cases of the architectures that there are."""
    folder = shared / "golden/models"
    for name in json.loads((folder / "index.json").read_text()):
        case = load_json(folder / name / "case.json")
        if case["model"] in FAMILIES:
            yield folder / name, case


def build(folder, case, checkpoint=True, **overrides):
    """Build the model of a golden case, as its `case.json` says."""
    kwargs = dict(case["kwargs"])
    if cond := case["cond"]:
        x = keras.Input((cond["dim"],), name="Input-Cond")
        kwargs |= {"layer_norm_cond": x, "additional_input_layers": x}
        if projection := cond.get("projection"):
            dense = keras.layers.Dense(**projection, name="Cond-Dense")
            kwargs["layer_norm_cond"] = dense(x)
        for key in ("hidden_size", "hidden_act"):
            if key in cond:
                kwargs[f"layer_norm_cond_{key}"] = cond[key]
    if caches := case["attention_caches"]:
        inputs = [
            [keras.Input((None, caches["dim"]), name=f"Input-{kind}-Cache-{i}") for kind in "KV"]
            for i in range(len(caches["layers"]))
        ]
        kwargs["attention_caches"] = dict(zip(caches["layers"], inputs, strict=True))
        kwargs["additional_input_layers"] = sum(inputs, [])
    transformer = build_transformer_model(
        folder / "config.json",
        folder / "model.ckpt" if checkpoint else None,
        case["model"],
        case["application"],
        return_keras_model=False,
        **(kwargs | overrides),
    )
    if (folder / "extra_weights.npz").exists():
        for key, value in np.load(folder / "extra_weights.npz").items():
            layer, index = key.rsplit("/", 1)
            transformer.model.get_layer(layer).weights[int(index)].assign(value)
    return transformer


def inputs_of(folder, case):
    arrays = np.load(folder / "io.npz")
    return [arrays[f"in_{i}"] for i in range(len(case["input_names"]))]


def outputs_of(model, inputs):
    outputs = model.predict_on_batch(inputs if len(inputs) > 1 else inputs[0])
    return [np.asarray(x) for x in (outputs if isinstance(outputs, list) else [outputs])]


def test_outputs_are_those_of_the_original(shared):
    differences = {}
    for folder, case in golden_cases(shared):
        model = build(folder, case).model
        arrays = np.load(folder / "io.npz")
        found = outputs_of(model, inputs_of(folder, case))
        assert len(found) == case["n_outputs"], folder.name
        differences[folder.name] = max(
            float(np.abs(output - arrays[f"out_{i}"]).max()) for i, output in enumerate(found)
        )
        assert [x.name for x in model.inputs] == case["input_names"], folder.name
        assert {layer.name for layer in model.layers} == set(case["layer_names"]), folder.name
        for name, labels in case["layer_weights"].items():
            layer = model.get_layer(name)
            weights = [(models.weight_name(layer, w), tuple(w.shape)) for w in layer.weights]
            assert weights == [(label, tuple(shape)) for label, shape in labels], folder.name
    worst = max(differences, key=differences.get)
    print(f"\n{len(differences)} models, worst difference {differences[worst]:.1e} ({worst})")
    assert differences[worst] < 1e-4
    assert len(differences) == 55
