"""`python -m bert4keras.migrate` on functions that made gradients in Keras 2."""

import ast
from itertools import pairwise

import pytest

from bert4keras.migrate import migrate

HEAD = """\
import numpy as np
from bert4keras.backend import keras, search_layer, K
"""
COMPILED = """\
net.compile(loss='mse', optimizer='adam')
"""
FAST = """
# 对抗训练
def attack(m, where{parameters}):
    '''先挪动，再挪回'''
    m._make_train_function()
    step = m.train_function
    table = {table}.embeddings
    slope = K.gradients(m.total_loss, [table])[0] + K.zeros_like(table)
    slope_of = K.function(m._feed_inputs + m._feed_targets + m._feed_sample_weights, [slope])

    def moved(batch):
        g = slope_of(batch)[0]
        shift = {shift}
        K.set_value(table, K.eval(table) + shift)
        logs = step(batch)
        K.set_value(table, K.eval(table) - shift)
        return logs

    m.train_function = moved


"""
UNIT = "g / (np.sqrt((g**2).sum()) + 1e-8)"


def fast(parameters=", size=1", shift=f"size * {UNIT}", table="search_layer(m.output, where)"):
    """A function that wraps `train_function`."""
    return FAST.format(parameters=parameters, shift=shift, table=table)


def check(old, new):
    """Given a script, the one that is expected; and a second run changes nothing."""
    assert migrate(old) == new
    assert migrate(new) == new


IMPORT = "from bert4keras.training import {}\n"


@pytest.mark.parametrize(
    ("function", "call", "step"),
    [
        (fast(), "attack(net, 'Embedding-Token', 0.5)", "'Embedding-Token', epsilon=0.5"),
        (fast(), "attack(net, where='Embedding-Token')", "'Embedding-Token', epsilon=1"),
        (fast(), "attack(size=rate, m=net, where=name)", "name, epsilon=rate"),
        (fast("", f"0.3 * {UNIT}"), "attack(net, 'Words')", "'Words', epsilon=0.3"),
        (fast("", f"EPSILON * {UNIT}"), "attack(net, 'Words')", "'Words', epsilon=EPSILON"),
        (
            fast(table="m.get_layer('Words')", shift="size * g / (1e-8 + np.linalg.norm(g))"),
            "attack(net, None, 2)",
            "'Words', epsilon=2",
        ),
    ],
)
@pytest.mark.parametrize("main", ["", "if __name__ == '__main__':\n    x = 1\n    "])
def test_adversarial_training_becomes_a_step(function, call, step, main):
    old = f"{HEAD}{COMPILED}{function}{main}{call}\n"
    compiled = COMPILED.replace(")\n", f", step=AdversarialTraining({step}))\n")
    rest = f"\n\n{main.rstrip(' ')}" if main else ""
    check(old, HEAD + IMPORT.format("AdversarialTraining") + compiled + rest)


@pytest.mark.parametrize(
    "script",
    [
        f"{COMPILED}{fast()}if fast:\n    attack(net, 'Words', 0.5)\n",
        f"{COMPILED}{fast()}for net in nets:\n    attack(net, 'Words', 0.5)\n",
        f"{fast()}attack(net, 'Words', 0.5)\n{COMPILED}",
        f"{COMPILED}{fast()}attack(nets[0], 'Words', 0.5)\n",
        f"{COMPILED}{fast()}result = attack(net, 'Words', 0.5)\n",
        f"net.compile(**options)\n{fast()}attack(net, 'Words', 0.5)\n",
        f"{COMPILED}{fast()}# attack(net, 'Words', 0.5)\n",
    ],
)
def test_where_compile_cannot_say_it_the_function_does(script):
    body = "    m.train_with(AdversarialTraining(where, epsilon=size))\n\n\n"
    start, end = script.index("    m._make"), script.index("    m.train_function = moved\n\n\n")
    end += len("    m.train_function = moved\n\n\n")
    expected = IMPORT.format("AdversarialTraining") + script[:start] + body + script[end:]
    check(HEAD + script, HEAD + expected)


VIRTUAL = fast(", size=1, far=10, times=1").replace(
    "        g = slope_of(batch)[0]\n        shift = size * g / (np.sqrt((g**2).sum()) + 1e-8)\n",
    "        batch = batch[:2] + outputs_of(batch) + batch[3:]\n"
    "        before, d = 0., np.random.randn(*K.int_shape(table))\n"
    "        for _ in range(times):\n"
    "            d = far * unit(d)\n"
    "            K.set_value(table, K.eval(table) - before + d)\n"
    "            before, d = d, slope_of(batch)[0]\n"
    "        shift = size * unit(d) - before\n",
)


def test_virtual_adversarial_training_becomes_a_step_without_the_loss():
    step = "'Words', epsilon=0.2, xi=10, iterations=3, add_loss=False"
    compiled = COMPILED.replace(")\n", f", step=VirtualAdversarialTraining({step}))\n")
    old = f"{HEAD}{COMPILED}{VIRTUAL}attack(net, 'Words', 0.2, times=3)\n"
    check(old, HEAD + IMPORT.format("VirtualAdversarialTraining") + compiled)


PENALTY = """
def loss(y_true, y_pred, strength=1):
    plain = K.mean(K.categorical_crossentropy(y_true, y_pred))
{lines}    return {sum}


net.compile(loss=loss, optimizer='adam'{step})
"""
TABLE = "    table = search_layer(y_pred, 'Words').embeddings\n"
SLOPE = "    slope = K.gradients(plain, [table])[0]\n"
WHOLE = "    gp = K.sum(K.gradients(plain, [table])[0].values**2)\n"


@pytest.mark.parametrize(
    ("lines", "sum_", "epsilon"),
    [
        (TABLE + WHOLE, "plain + 0.5 * strength * gp", "1"),
        (TABLE + WHOLE, "plain + strength * gp / 2", "1"),
        (TABLE + WHOLE, "plain + strength * gp", "2 * 1"),
        (TABLE + WHOLE, "RATE * gp * 0.5 + plain", "RATE"),
        (TABLE + SLOPE, "plain + K.sum(K.square(slope.values))", "2"),
        (
            "",
            "plain + 3 * K.sum(K.gradients(plain, net.get_layer('Words').embeddings)[0].values**2)",
            "6",
        ),
    ],
)
def test_a_gradient_penalty_becomes_a_step(lines, sum_, epsilon):
    old = HEAD + PENALTY.format(lines=lines, sum=sum_, step="")
    step = f", step=GradientPenalty('Words', epsilon={epsilon})"
    new = HEAD + IMPORT.format("GradientPenalty") + PENALTY
    check(old, new.format(lines="", sum="plain", step=step))


def test_what_else_the_loss_needs_stays():
    lines = f"{TABLE}{WHOLE}    size = K.shape(table)\n"
    old = HEAD + PENALTY.format(lines=lines, sum="plain + size[0] + gp / 2", step="")
    new = migrate(old)
    assert f"{TABLE}    size = K.shape(table)\n    return plain + size[0]\n" in new
    assert WHOLE not in new and "GradientPenalty('Words', epsilon=1)" in new


LAYER = """
class Slope(keras.layers.Layer):
    def call(self, inputs):
        x, y = inputs
        return x * K.gradients(y, [x])[0]


slope = Slope(name='slope'){call}([vectors, net.output])
"""


def test_a_layer_that_differentiates_sees_symbolic_tensors():
    check(HEAD + LAYER.format(call=""), HEAD + LAYER.format(call=".call"))


def marks(script):
    """The comments of `migrate` in a script, with the line below each."""
    lines = migrate(script).splitlines()
    ast.parse("\n".join(lines))
    found = [
        (line.strip().removeprefix("# bert4keras.migrate: "), below.strip())
        for line, below in pairwise(lines)
        if "# bert4keras.migrate: " in line
    ]
    assert migrate("\n".join(lines)) == "\n".join(lines)
    return found


def test_what_is_not_recognised_has_a_comment_with_its_own_names_and_numbers():
    descent = fast(", size=1, times=3").replace(
        f"        shift = size * {UNIT}\n",
        f"        for _ in range(times):\n            shift = size * {UNIT}\n"
        f"            shift = 0.1 * {UNIT}\n",
    )
    advice = (
        "net.compile(..., step=AdversarialTraining('Words', epsilon=0.7)) of bert4keras.training"
    )
    assert marks(f"{HEAD}{COMPILED}{descent}attack(net, 'Words', 0.7)\n") == [
        (advice, "def attack(m, where, size=1, times=3):"),
        (advice, "attack(net, 'Words', 0.7)"),
    ]


def test_a_loss_that_is_not_recognised_has_a_comment():
    lines = TABLE + SLOPE
    script = HEAD + PENALTY.format(lines=lines, sum="plain * K.sum(K.abs(slope.values))", step="")
    advice = "model.compile(..., step=GradientPenalty('Words', epsilon=1)) of bert4keras.training"
    assert marks(script) == [(advice, "def loss(y_true, y_pred, strength=1):")]


def test_a_layer_that_is_called_elsewhere_has_a_comment():
    script = HEAD + LAYER.format(call="").replace("Slope(name='slope')(", "apply(Slope, ")
    advice = "gradients_of(model, at='Embedding-Token') of bert4keras.training, beside the model"
    assert marks(script) == [(advice, "def call(self, inputs):")]


def test_gradients_of_symbolic_tensors_stay():
    script = (
        f"{HEAD}def saliency(model):\n    x = model.get_layer('Words').output\n"
        "    return K.function(model.inputs, K.gradients(model.output, [x]))\n"
    )
    assert migrate(script) == script
