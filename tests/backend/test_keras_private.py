"""What the library takes from Keras in no public way, on the Keras that is installed."""

import ast
import re
from pathlib import Path

import keras
import numpy as np
import pytest

import bert4keras
from bert4keras import keras_private

pytestmark = pytest.mark.backend

BACKEND = keras.backend.backend()
PACKAGE = Path(bert4keras.__file__).parent


@pytest.fixture
def model():
    inputs = keras.Input((3,), name="x")
    hidden = keras.layers.Dense(2, name="hidden")(inputs)
    return keras.Model({"x": inputs}, keras.layers.Dropout(0.5, name="drop")(hidden))


def test_nothing_else_imports_from_inside_of_keras():
    for path in PACKAGE.rglob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text()))
        imports = [node for node in nodes if isinstance(node, ast.ImportFrom)]
        found = [n.module for n in imports if (n.module or "").startswith("keras.src")]
        assert not found or path.name == "keras_private.py", path


PRIVATE = re.compile(
    r"\._(keras_history|keras_mask|inbound_nodes|outbound_nodes|nodes_by_depth|inputs_struct"
    r"|flatten_layers|trainable_variables|call_has_training_arg|compute_loss|compile_loss"
    r"|loss_tracker|symbolic_build|distribute_strategy|compile_config|get_variable_index)\b"
)


def test_nothing_else_reads_what_is_private_to_keras():
    for path in PACKAGE.rglob("*.py"):
        if path.name != "keras_private.py":
            assert not PRIVATE.findall(path.read_text()), path


@pytest.mark.parametrize("cls", keras_private.INHERITED)
def test_what_subclasses_inherit(cls):
    made = {
        keras.Model: keras.Model,
        keras.layers.Dense: lambda: keras.layers.Dense(2),
        keras.layers.Embedding: lambda: keras.layers.Embedding(2, 2),
        keras.layers.Lambda: lambda: keras.layers.Lambda(abs),
        keras.optimizers.Optimizer: lambda: keras.optimizers.Adam(gradient_accumulation_steps=2),
    }[cls]()
    if hasattr(made, "build") and not isinstance(made, keras.Model):
        optimizes = isinstance(made, keras.optimizers.Optimizer)
        made.build([keras.Variable(np.zeros(2))] if optimizes else (None, 3))
    names = keras_private.INHERITED[cls]
    names += keras_private.INHERITED_BY_BACKEND[BACKEND] if cls is keras.Model else ()
    assert [name for name in names if not hasattr(made, name)] == []


def test_masks():
    x = keras.ops.ones((2, 3))
    assert keras_private.mask_of(x) is None
    keras_private.set_mask(x, x > 0)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(keras_private.mask_of(x)), True)


def test_the_graph(model):
    hidden, drop = model.get_layer("hidden"), model.get_layer("drop")
    assert keras_private.history(1) is None
    operation, number, index = keras_private.history(model.output)
    assert operation is drop and index == 0
    (before,) = keras_private.call_inputs(drop, number)
    assert keras_private.history(before)[0] is hidden
    assert [node.operation for node in keras_private.calls_of(drop)] == [drop]
    assert [node.operation for node in keras_private.calls_on(hidden)] == [drop]
    operations = {node.operation.name for node in keras_private.calls_in(model)}
    assert operations == {"x", "hidden", "drop"}
    assert list(keras_private.calls_in(keras.Sequential())) == []
    structure = keras_private.input_structure(model)
    assert list(structure) == ["x"] and structure["x"] is model.inputs[0]


def test_layers(model):
    outer = keras.Sequential([model])
    found = list(keras_private.layers_within(outer))
    assert outer in found and model.get_layer("hidden") in found
    assert outer not in keras_private.layers_within(outer, include_self=False)
    keras_private.set_own_trainable(model, False)
    assert not model.trainable and model.get_layer("hidden").trainable
    spec = keras_private.output_spec(lambda x: keras.ops.sum(x, 1), keras.KerasTensor((2, 3)))
    assert isinstance(spec, keras.KerasTensor) and spec.shape == (2,)
    operation = type(keras_private.history(keras.ops.abs(keras.Input((2,))))[0])
    assert keras_private.is_operation_of_keras(operation)
    assert not keras_private.is_operation_of_keras(keras.layers.Dense)


def test_models(model):
    assert keras_private.takes_training(model)
    assert keras_private.compiled_with(model) == {}
    model.compile("sgd", "mse")
    x, y = {"x": np.ones((2, 3), "float32")}, np.ones((2, 2), "float32")
    assert keras_private.compiled_with(model)["loss"] == "mse"
    keras_private.build_on_batch(model, (x, y, None))
    assert keras_private.compiled_loss(model).built
    loss = keras_private.batch_loss(model, x=x, y=y, y_pred=y, sample_weight=None, training=True)
    assert float(loss) == 0
    tracker = keras_private.loss_tracker(model)
    tracker.update_state(3.0, sample_weight=2)
    assert float(model.get_metrics_result()["loss"]) == 3
    assert keras_private.strategy_of(model) is None


def test_losses():
    def absolute(y_true, y_pred):
        return keras.ops.abs(y_true - y_pred)

    loss = keras_private.loss_of_function(absolute, name="own")
    assert isinstance(loss, keras.losses.Loss) and loss.name == "own"
    # The name of the class is how its function is found.
    assert type(loss).__name__ == "LossFunctionWrapper" and loss.fn is absolute
    assert float(loss(np.zeros((2, 2), "float32"), np.ones((2, 2), "float32"))) == 1
    assert float(keras_private.unscaled_loss(keras.ops.ones(()))) == 1


def test_variables():
    variable = keras.Variable(np.arange(2.0))
    (value,) = keras_private.values_of([variable])
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(keras.ops.array(value)), [0.0, 1.0])
    with keras.StatelessScope([(variable, keras.ops.ones((2,)))]):
        (value,) = keras_private.values_of([variable])
        assert value is getattr(variable, keras_private.VALUE)
    assert keras_private.layout_of(variable) is None


def test_optimizers():
    variables = [keras.Variable(np.zeros(2)) for _ in range(2)]
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)
    optimizer = keras.optimizers.SGD(schedule)
    optimizer.build(variables)
    assert all(map(lambda a, b: a is b, keras_private.trained_variables(optimizer), variables))
    assert keras_private.index_of(optimizer, variables[1]) == 1
    assert keras_private.given_rate(optimizer) is schedule
    plain = keras_private.given_rate(keras.optimizers.SGD(0.5))
    assert float(keras.ops.convert_to_numpy(plain)) == 0.5


def test_others():
    keras.utils.set_random_seed(5)
    assert keras_private.random_seed() == 5
    assert not keras_private.reads_h5()
    needed = {"get_numpy_iterator", "get_tf_dataset", "get_jax_iterator", "get_torch_dataloader"}
    assert needed <= set(dir(keras_private.DataAdapter))


def test_keras_says_that_it_reads_h5(tmp_path):
    seen = []

    @keras.saving.register_keras_serializable("bert4keras_tests")
    class Seeing(keras.layers.Identity):
        @classmethod
        def from_config(cls, config):
            seen.append(keras_private.reads_h5())
            return super().from_config(config)

    inputs = keras.Input((2,))
    model = keras.Model(inputs, Seeing()(inputs))
    for name in ("model.h5", "model.keras"):
        model.save(tmp_path / name)
        keras.saving.load_model(tmp_path / name, custom_objects={"Seeing": Seeing})
    assert seen == [True, False]
