"""`python -m bert4keras.migrate`: every rule, and ten scripts that run afterwards."""

import ast
import difflib
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import migration_cases as cases
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from migration_rules import RULES

from bert4keras.migrate import migrate, rules
from bert4keras.migrate.calls import SCHEDULE
from bert4keras.migrate.names import longest_prefix, new_name

ROOT = Path(__file__).resolve().parents[2]


def check(old, new):
    """Given a script, the one that is expected; and a second run changes nothing."""
    assert migrate(old) == new
    assert migrate(new) == new


# === Rules ===


@pytest.mark.parametrize("name", RULES)
def test_a_rule_rewrites(name):
    check(*RULES[name])


@pytest.mark.parametrize(
    "source",
    [
        "import torch\nmodel.fit_generator(g)\n",
        "import keras\nfrom mine import Model\nmodel = Model(input=1)\n",
        "import keras\nK = 3\nK.gradients\n",
        "import keras\nslope = gradients(model.output, [x])\nslope.total\n",
        "from keras.layers import Dense, Dropout\nfrom bert4keras.backend import keras, K\n",
        "from bert4keras.optimizers import Adam\nAdam(lr=1)\n",
        "import keras\nmodel.save_weights('best_model.weights')\n",
        "import os\nos.environ['TF_KERAS'] = '1'\nimport keras\n",
        "from . import keras\n",
        "from .models import Model\nimport keras\n",
        "def f():\n    '''keras.models.Model and K.gradients'''\n",
        "",
    ],
)
def test_what_no_rule_applies_to_stays(source):
    assert migrate(source) == source


MARKED = {
    "import tensorflow as tf\n": (
        "sess = tf.compat.v1.Session()\nsess.run(y)\n",
        "there are no sessions",
    ),
    "import tensorflow.compat.v1 as tf\n": ("x = tf.placeholder('int32')\n", "keras.Input"),
    "from bert4keras.backend import keras\n": ("m.metrics_tensors.append(x)\n", "metrics="),
    "import keras\n": ("m = keras.utils.multi_gpu_model(m, 2)\n", "data_parallel"),
    "import keras # 2\n": ("m.compile(target_tensors=[y])\n", "bert4keras.layers.Loss"),
    "import keras # 3\n": ("x = keras.layers.ThresholdedReLU(2)\n", "a layer of your own"),
    "import keras # 4\n": ("m.save('folder', save_format='tf')\n", "model.export(path)"),
    "import keras # 5\n": ("model.add_metric(x, 'acc')\n", "metrics="),
    "import keras # 6\n": (
        "x = keras.engine.base_layer.Node(layer)\n",
        "keras.engine.base_layer.Node no longer exists",
    ),
    "import keras # 7\n": (
        "x = keras.backend.ctc_decode(x)\n",
        "keras.ops.ctc_decode",
    ),
    "import keras # 8\n": (
        "from bert4keras.layers import FactorizedEmbedding as F\n",
        "bert4keras.layers.FactorizedEmbedding no longer exists",
    ),
    "from bert4keras.tokenizers import Tokenizer\n": ("t.encode(a, first_length=3)\n", "sequence_"),
    "import keras # 9\n": (
        "from bert4keras.layers import EmbeddingDense\n",
        "the layer Embedding itself, called with mode='dense'",
    ),
    "from bert4keras.backend import sequence_masking\n": (
        "y = sequence_masking(x, mask, 1, -1)\n",
        "'-inf' in place of 1",
    ),
    "import keras\nclass L(keras.layers.Layer):\n    def call(self, x):\n        self.n = 5\n": (
        "    def compute_output_shape(self, shape):\n        return shape[:-1] + (self.n,)\n",
        "set self.n in build()",
    ),
}


@pytest.mark.parametrize("head", MARKED)
def test_what_cannot_be_rewritten_is_marked_once(head):
    line, advice = MARKED[head]
    new = migrate(head + line)
    _, comment, end = new.partition("# bert4keras.migrate: ")
    assert comment and advice in end.splitlines()[0]
    assert end.partition("\n")[2] == line
    assert migrate(new) == new


def test_what_is_behind_a_name_or_in_another_package_is_not_looked_at():
    script = (
        "import keras\nimport kerastuner\nfrom bert4keras.models import BERT, build\n"
        "x = [BERT.anything, keras.layers.Dense.anything, kerastuner.x]\n"
        "y = keras.applications.mobilenet_v2.MobileNetV2\n"
    )
    assert [line for line in migrate(script).splitlines() if "no longer exists" in line] == [
        "# bert4keras.migrate: bert4keras.models.build no longer exists: use something else"
    ]


def test_a_comment_above_the_first_statement_is_found_again():
    old = "# one\n\nfrom keras.utils import multi_gpu_model\n"
    new = migrate(old)
    assert new.count("bert4keras.migrate") == 1
    assert migrate(new) == new


def test_every_mark_has_a_kind():
    tables = (rules.MARKS, rules.ATTRIBUTE_MARKS, rules.ARGUMENT_MARKS)
    kinds = {mark.kind for table in tables for mark in table.values()}
    assert kinds == set(rules.KINDS)


# === What the rules write exists ===


def resolve(name):
    """What a full name means, or AttributeError."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:n]))
        except ImportError:
            continue
        for part in parts[n:]:
            found = getattr(found, part)
        return found
    raise AttributeError(name)


WRITTEN = (
    "bert4keras.backend.K",
    "bert4keras.legacy.with_loss",
    "bert4keras.models.Model.train_with",
    "bert4keras.snippets.truncate_sequences",
    "bert4keras.training.AdversarialTraining",
    "bert4keras.training.GradientPenalty",
    "bert4keras.training.VirtualAdversarialTraining",
    "keras.callbacks.Callback.set_model",
    "keras.distribution.list_devices",
    "keras.metrics.Mean",
    f"keras.{SCHEDULE}",
    "tensorflow.config.experimental.set_memory_growth",
    "tensorflow.config.list_physical_devices",
)
"""What is written by name outside of the tables."""


def targets():
    """Every full name that a rule writes."""
    for table in (rules.MODULES, rules.NAMES, *rules.STAR_IMPORTS.values()):
        yield from table.values()
    yield from rules.RESULTS.values()
    yield from (extend for extend, _, _ in rules.OPTIMIZER_WRAPPERS.values())
    for table in (rules.NODE_METHODS, rules.NODES, rules.LAYER_NODES):
        yield from (f"bert4keras.legacy.{name}" for name in table.values())
    yield from (f"keras.backend.{name}" for name in rules.KERAS_BACKEND)
    yield from WRITTEN


def test_every_name_that_a_rule_writes_exists():
    replaced = {*rules.GONE, *rules.MARKS}
    missing = []
    for name in sorted({new_name(name) for name in targets()}):
        try:
            resolve(name)
        except AttributeError:
            if not longest_prefix(name, replaced):
                missing.append(name)
    assert missing == []


def test_what_is_marked_for_being_missing_is_missing():
    for name, mark in rules.MARKS.items():
        if mark.kind == "names":
            with pytest.raises(AttributeError):
                resolve(name)


def test_k_and_what_keras_backend_has_beside_it_are_all_that_keras_backend_has():
    import keras

    from bert4keras.backend import K

    public = {name for name in dir(keras.backend) if not name.startswith("_")}
    assert public - set(vars(K)) == rules.KERAS_BACKEND


# === Any text ===

STATEMENTS = [
    ast.get_source_segment(cases.original(name), statement) + "\n"
    for name in cases.SCRIPTS
    for statement in ast.parse(cases.original(name)).body
]


@settings(deadline=None, max_examples=25)
@given(st.lists(st.sampled_from(STATEMENTS), max_size=8), st.sampled_from(["\n", "\r\n"]))
def test_any_statements_stay_python_and_settle(statements, newline):
    old = "".join(statements).replace("\n", newline)
    new = migrate(old)
    ast.parse(new)
    assert migrate(new) == new
    if newline == "\r\n":
        assert "\n" not in new.replace("\r\n", "")


@pytest.mark.parametrize("name", cases.SCRIPTS)
def test_untouched_lines_stay_and_a_second_run_changes_nothing(name):
    old = cases.original(name)
    new = migrate(old)
    ast.parse(new)
    assert migrate(new) == new
    gone = [
        line[2:] for line in difflib.ndiff(old.splitlines(), new.splitlines()) if line[:1] == "-"
    ]
    assert 0 < len(gone) < len(old.splitlines()) / 2


# === Scripts for this library ===


@pytest.mark.parametrize("folder", ["examples", "experiments", "pretraining", "benchmarks"])
def test_scripts_for_this_library_are_left_alone(folder):
    for script in sorted((ROOT / folder).rglob("*.py")):
        text = script.read_text(encoding="utf-8")
        assert migrate(text) == text, script


@pytest.mark.parametrize(
    "head", ["from keras import ops\n", "from bert4keras.models import Model\n"]
)
def test_what_is_right_in_keras_3_stays_in_scripts_for_it(head):
    script = (
        f"{head}import keras\nx: keras.Model = keras.Model(a, b)\n"
        "x.compile('adam', 'mse', [1.0])\nprint(keras.backend.floatx(), keras.backend.backend())\n"
        "c = keras.callbacks.ModelCheckpoint('a.keras')\n"
        "c = keras.callbacks.EarlyStopping('val_f1')\n"
        "y = keras.layers.GlobalMaxPooling1D()(z)\n"
    )
    assert migrate(script) == script
    assert "x.fit(x)" in migrate(f"{script}x.fit_generator(x)\n")


# === Ten scripts ===

PUBLIC_NAMES = """
backend: keras K is_tf_keras do_recompute get_available_gpus gelu_erf gelu_tanh set_gelu
    piecewise_linear search_layer align reshape flatten dtype where sequence_masking batch_gather
    pool1d divisible_temporal_padding root_mean_square swish leaky_relu attention_normalize
    sinusoidal_embeddings Sinusoidal apply_rotary_position_embeddings
    multilabel_categorical_crossentropy sparse_multilabel_categorical_crossentropy symbolic
    recompute_grad custom_objects
layers: integerize_shape Layer GlobalAveragePooling1D GlobalMaxPooling1D Embedding ScaleOffset
    Concatenate1D BatchSplit BatchConcat MultiHeadAttention GatedAttentionUnit LayerNormalization
    PositionEmbedding SinusoidalPositionEmbedding RelativePositionEmbedding
    RelativePositionEmbeddingT5 FeedForward ConditionalRandomField MaximumEntropyMarkovModel
    GlobalPointer EfficientGlobalPointer Loss custom_objects
models: Transformer LM_Mask UniLM_Mask BERT ALBERT ALBERT_Unshared NEZHA RoFormer RoFormerV2
    ELECTRA GPT GPT2 GPT2_ML T5_Base T5_Encoder T5_Decoder T5 extend_with_language_model
    extend_with_unified_language_model data_parallel build_transformer_model Model
optimizers: Adam LionV2 Lion AdaFactorBase AdaFactorV1 AdaFactorV2 AdaFactor
    export_to_custom_objects extend_with_weight_decay extend_with_weight_decay_v2
    extend_with_layer_adaptation extend_with_layer_adaptation_v2 extend_with_piecewise_linear_lr
    extend_with_piecewise_linear_lr_v2 extend_with_gradient_accumulation
    extend_with_gradient_accumulation_v2 extend_with_lookahead extend_with_lookahead_v2
    extend_with_lazy_optimization extend_with_lazy_optimization_v2
    extend_with_exponential_moving_average extend_with_exponential_moving_average_v2
    extend_with_parameter_wise_lr extend_with_parameter_wise_lr_v2 custom_objects
snippets: is_py2 basestring to_array is_string strQ2B string_matching convert_to_unicode
    convert_to_str lowercase_and_normalize open parallel_apply_generator parallel_apply
    sequence_padding truncate_sequences text_segmentate is_one_of DataGenerator ViterbiDecoder
    softmax AutoRegressiveDecoder insert_arguments delete_arguments longest_common_substring
    longest_common_subsequence orthogonally_resize WebServing uniout
tokenizers: load_vocab save_vocab TokenizerBase Tokenizer SpTokenizer
"""
"""What the modules of 0.11.5 define; not what they import, nor `graph_mode_decorator`, which is
the inside of `recompute_grad`, nor the classes that only old versions of Keras needed."""


def test_the_scripts_use_every_public_name():
    used = set()
    for name in cases.SCRIPTS:
        tree = ast.parse(cases.original(name))
        used |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        used |= {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
    names = [word for word in PUBLIC_NAMES.split() if not word.endswith(":")]
    assert [name for name in names if name not in used] == []


def test_what_is_left_is_of_the_kinds_that_are_named():
    for name in cases.SCRIPTS:
        kinds = {kind for kind, _, _ in cases.BY_HAND.get(name, [])}
        assert kinds <= set(rules.KINDS), name
        assert "bert4keras.migrate:" not in cases.finished(name)
        assert ("bert4keras.migrate:" in migrate(cases.original(name))) == bool(kinds), name


@pytest.mark.parametrize("language", cases.DOCUMENTS)
def test_the_document_shows_the_diffs(language):
    text = cases.DOCUMENTS[language].read_text(encoding="utf-8")
    assert text[text.index(cases.BEGIN) :] == cases.diffs(language), (
        "run python tests/support/migration_cases.py"
    )


RUNNER = """
import json, os, sys, tempfile, traceback
results = {}
for name, source in json.load(sys.stdin).items():
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            exec(compile(source, name, "exec"), {"__name__": "__main__"})
            results[name] = "ran"
        except Exception:
            results[name] = traceback.format_exc()
        os.chdir("/")
print("\\n" + json.dumps(results))
"""


@pytest.mark.long
def test_the_scripts_run_on_tensorflow(tmp_path):
    sources = {name: cases.finished(name) for name in cases.SCRIPTS}
    result = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps(sources),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "KERAS_BACKEND": "tensorflow", "KERAS_HOME": str(tmp_path)},
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    results = json.loads(result.stdout.splitlines()[-1])
    assert {name: text for name, text in results.items() if text != "ran"} == {}
    assert results.keys() == sources.keys()


@pytest.mark.parametrize("script", sorted(cases.FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_every_script_is_listed(script):
    assert Path(script).stem in cases.SCRIPTS
