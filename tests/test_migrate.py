"""`python -m bert4keras.migrate`: every rule, and ten scripts that run afterwards."""

import ast
import difflib
import json
import os
import re
import stat
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import migration_cases as cases
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert4keras.migrate import main, migrate, rules

pytest.importorskip("libcst")


def check(old, new):
    """Given a script, the one that is expected; and a second run changes nothing."""
    assert migrate(old) == new
    assert migrate(new) == new


# === Rules ===

RULES = {
    "a package out of another": (
        "from tensorflow import keras\nkeras.layers.Dense(2)\n",
        "import keras\nkeras.layers.Dense(2)\n",
    ),
    "an import from a module of a module": (
        "from tensorflow.keras.preprocessing.sequence import pad_sequences\n",
        "from keras.preprocessing.sequence import pad_sequences\n",
    ),
    "imports of one's own are left alone": (
        "import keras\nfrom .bert4keras.models import Mine\nkeras.Model(x, y)\n",
        "import keras\nfrom .bert4keras.models import Mine\nfrom bert4keras.models import Model\n"
        "Model(x, y)\n",
    ),
    "model": (
        "from keras.models import Model\nm = Model(input=x, output=y)\n",
        "from bert4keras.models import Model\nm = Model(inputs=x, outputs=y)\n",
    ),
    "model by its full name": (
        "from bert4keras.backend import keras, K\nm = keras.models.Model(x, y)\n",
        "from bert4keras.backend import keras, K\nfrom bert4keras.models import Model\n"
        "m = Model(x, y)\n",
    ),
    "model into an import that is there": (
        "import keras\nfrom bert4keras.models import (\n    BERT,\n    GPT,\n)\n"
        "keras.Model(x, y)\n",
        "import keras\nfrom bert4keras.models import (\n    BERT,\n    GPT,\n    Model,\n)\n"
        "Model(x, y)\n",
    ),
    "model where the name is taken": (
        "import keras\nclass Model:\n    inner = keras.models.Model(x, y)\n",
        "import keras\nfrom bert4keras.models import Model as Model_of_bert4keras\n"
        "class Model:\n    inner = Model_of_bert4keras(x, y)\n",
    ),
    "model of a star import": (
        "from keras.models import *\nm = Model(x, y)\n",
        "from keras.models import *\nfrom bert4keras.models import Model\nm = Model(x, y)\n",
    ),
    "an extended optimizer of a star import": (
        "from bert4keras.optimizers import *\nA = extend_with_lookahead(Adam)\nf(A(lr=1))\n",
        "from bert4keras.optimizers import *\nA = extend_with_lookahead(Adam)\n"
        "f(A(learning_rate=1))\n",
    ),
    "some names of an import move": (
        "from keras.layers import Dense, CuDNNLSTM, GlobalMaxPooling1D\nCuDNNLSTM(2)\n",
        "from keras.layers import Dense\nfrom keras.layers import LSTM\n"
        "from bert4keras.layers import GlobalMaxPooling1D\nLSTM(2)\n",
    ),
    "alias": (
        "from keras.layers.merge import concatenate as cat\ncat([])\n",
        "from keras.layers import concatenate as cat\ncat([])\n",
    ),
    "backend": (
        "import keras.backend as K\nK.sum(x)\n",
        "from bert4keras.backend import K\nK.sum(x)\n",
    ),
    "backend under another name": (
        "from keras import backend as B\nB.sum(x)\n",
        "from bert4keras.backend import K as B\nB.sum(x)\n",
    ),
    "functions of the backend": (
        "from keras.backend import clear_session, floatx\nclear_session(floatx())\n",
        "from bert4keras.backend import K\nK.clear_session(K.floatx())\n",
    ),
    "tf.keras": (
        "import tensorflow as tf\nx = tf.keras.layers.Dense(2)\n",
        "import tensorflow as tf\nimport keras\nx = keras.layers.Dense(2)\n",
    ),
    "import of tf.keras": ("import tensorflow.keras as keras\n", "import keras\n"),
    "TensorFlow 1": (
        "import tensorflow as tf\ntf.set_random_seed(1)\ny = tf.log(x)\n",
        "import tensorflow as tf\ntf.random.set_seed(1)\ny = tf.math.log(x)\n",
    ),
    "star import of layers": (
        "from bert4keras.layers import *\ny = K.sum(Lambda(f)(Input((2,))))\nz = np.zeros(2)\n",
        "from bert4keras.layers import *\nfrom bert4keras.backend import K\n"
        "from keras.layers import Lambda, Input\nimport numpy as np\n"
        "y = K.sum(Lambda(f)(Input((2,))))\nz = np.zeros(2)\n",
    ),
    "fit_generator": (
        "import keras\nm.fit_generator(g, 10, 2, callbacks=[c], workers=3)\n",
        "import keras\nm.fit(g, steps_per_epoch=10, epochs=2, callbacks=[c])\n",
    ),
    "fit_generator over several lines": (
        "import keras\nm.fit_generator(\n    generator=g,  # data\n    steps_per_epoch=2,\n"
        "    workers=3,\n)\n",
        "import keras\nm.fit(\n    x=g,  # data\n    steps_per_epoch=2,\n)\n",
    ),
    "predict_generator": (
        "import keras\nm.predict_generator(g, 3, None, 10)\n",
        "import keras\nm.predict(g, steps=3, callbacks=None)\n",
    ),
    "learning rate": (
        "from keras.optimizers import SGD\nSGD(lr=0.1, decay=0.0)\n",
        "from keras.optimizers import SGD\nSGD(learning_rate=0.1)\n",
    ),
    "decay": (
        "import keras\nkeras.optimizers.SGD(lr=0.1, decay=1e-3)\n",
        "import keras\nkeras.optimizers.SGD(learning_rate="
        "keras.optimizers.schedules.InverseTimeDecay(0.1, 1, 1e-3))\n",
    ),
    "learning rate of a model": (
        "import keras\nprint(model.optimizer.lr)\n",
        "import keras\nprint(model.optimizer.learning_rate)\n",
    ),
    "calls of a layer": (
        "import keras\ny = layer.get_output_at(1)\n",
        "import keras\nfrom bert4keras.legacy import output_at\ny = output_at(layer, 1)\n",
    ),
    "added loss": (
        "import keras\nm = keras.Sequential()\nm.add_loss(x)\n",
        "import keras\nfrom bert4keras.legacy import with_loss\nm = keras.Sequential()\n"
        "m = with_loss(m, x)\n",
    ),
    "added metric": (
        'import keras\nclass L(keras.layers.Layer):\n    """Doc."""\n    def call(self, x):\n'
        "        self.add_metric(x, name='a')\n        return x\n",
        'import keras\nclass L(keras.layers.Layer):\n    """Doc."""\n'
        "    def __init__(self, *args, **kwargs):\n        super().__init__(*args, **kwargs)\n"
        "        self.a_metric = keras.metrics.Mean(name='a')\n\n    def call(self, x):\n"
        "        self.a_metric.update_state(x)\n        return x\n",
    ),
    "weights of a layer": (
        "import keras\nw = self.add_weight('w', (2, 3), initializer='zeros')\n",
        "import keras\nw = self.add_weight(name='w', shape=(2, 3), initializer='zeros')\n",
    ),
    "checkpoint file": (
        "from keras.callbacks import ModelCheckpoint\n"
        "c = ModelCheckpoint('a.weights', save_weights_only=True)\nm.load_weights('a.weights')\n",
        "from keras.callbacks import ModelCheckpoint\n"
        "c = ModelCheckpoint('a.weights.h5', save_weights_only=True)\n"
        "m.load_weights('a.weights.h5')\n",
    ),
    "accuracy": (
        "import keras\nm.compile('adam', metrics=['accuracy'])\nlogs['val_acc']\n",
        "import keras\nm.compile('adam', metrics=['accuracy'])\nlogs['val_accuracy']\n",
    ),
    "metrics by position": (
        "import keras\nm.compile('adam', 'mse', ['mae'])\n",
        "import keras\nm.compile('adam', 'mse', metrics=['mae'])\n",
    ),
    "loss by name": (
        "import keras\nm.compile(loss='cosine_proximity')\n",
        "import keras\nm.compile(loss='cosine_similarity')\n",
    ),
    "decorators": (
        "from bert4keras.layers import integerize_shape, Embedding\n@integerize_shape\ndef f():\n"
        "    pass\n",
        "from bert4keras.layers import Embedding\ndef f():\n    pass\n",
    ),
    "constants": (
        "from bert4keras.backend import is_tf_keras, keras\nif is_tf_keras:\n    pass\n",
        "from bert4keras.backend import keras\nif False:\n    pass\n",
    ),
    "statements that go": (
        "from bert4keras.backend import K\nif x:\n    K.set_infinity(1e4)\ny = K.infinity()\n",
        "from bert4keras.backend import K\nif x:\n    pass\ny = 1e12\n",
    ),
    "old model": (
        "from bert4keras.bert import build_bert_model\n"
        "m = build_bert_model(a, b, albert=True, seq2seq=False, application='seq2seq')\n",
        "from bert4keras.models import build_transformer_model\n"
        "m = build_transformer_model(a, b, model='albert', application='unilm')\n",
    ),
    "old tokenizer": (
        "from bert4keras.utils import Tokenizer\nt = Tokenizer(d, case_sensitive=False)\n"
        "t.encode(a, max_length=3)\nt.tokenize(a, add_cls=False)\nt._token_cls_id\n",
        "from bert4keras.tokenizers import Tokenizer\nt = Tokenizer(d, do_lower_case=True)\n"
        "t.encode(a, maxlen=3)\nt.tokenize(a)[1:]\nt._token_start_id\n",
    ),
    "tokenizers of others": (
        "from transformers import BertTokenizer\nfrom bert4keras.snippets import to_array\n"
        "t.encode(a, max_length=3)\n",
        "from transformers import BertTokenizer\nfrom bert4keras.snippets import to_array\n"
        "t.encode(a, max_length=3)\n",
    ),
    "old optimizer": (
        "from bert4keras.train import PiecewiseLinearLearningRate\n"
        "o = PiecewiseLinearLearningRate(Adam(1e-5), {1: 1})\n",
        "from bert4keras.optimizers import extend_with_piecewise_linear_lr\n"
        "o = extend_with_piecewise_linear_lr(Adam)(1e-5, lr_schedule={1: 1})\n",
    ),
    "old layer name": (
        "import keras\nm.get_layer('Encoder-12-FeedForward-Norm')\n",
        "import keras\nm.get_layer('Transformer-11-FeedForward-Norm')\n",
    ),
    "old decoder": (
        "from bert4keras.snippets import AutoRegressiveDecoder\n"
        "@AutoRegressiveDecoder.set_rtype(default='probas')\ndef f():\n    pass\n",
        "from bert4keras.snippets import AutoRegressiveDecoder\n"
        "@AutoRegressiveDecoder.wraps(default_rtype='probas')\ndef f():\n    pass\n",
    ),
    "all attributes": (
        "from bert4keras.snippets import get_all_attributes\nimport keras\n"
        "locals().update(get_all_attributes(keras.layers))\n",
        "import keras\nfrom keras.layers import *\n",
    ),
    "semicolons": (
        "import os; from keras.models import Model; x = 1\n",
        "import os; from bert4keras.models import Model; x = 1\n",
    ),
}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_rewrites(name):
    check(*RULES[name])


@pytest.mark.parametrize(
    "source",
    [
        "import torch\nmodel.fit_generator(g)\n",
        "import keras\nfrom mine import Model\nmodel = Model(input=1)\n",
        "import keras\nK = 3\nK.gradients\n",
        "from keras.layers import Dense, Lambda\nfrom bert4keras.backend import keras, K\n",
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
    "import tensorflow as tf\n": ("sess = tf.Session()\n", "there are no sessions"),
    "import tensorflow.compat.v1 as tf\n": ("x = tf.placeholder('int32')\n", "keras.Input"),
    "from bert4keras.backend import K\n": ("f = K.function([a], [b])\n", "keras.Model"),
    "from bert4keras.backend import keras\n": ("m.metrics_tensors.append(x)\n", "metrics="),
    "import keras\n": ("m = keras.utils.multi_gpu_model(m, 2)\n", "data_parallel"),
    "import keras # 2\n": ("m.compile(target_tensors=[y])\n", "bert4keras.layers.Loss"),
    "from bert4keras.tokenizers import Tokenizer\n": ("t.encode(a, first_length=3)\n", "sequence_"),
}


@pytest.mark.parametrize("head", MARKED)
def test_what_cannot_be_rewritten_is_marked_once(head):
    line, advice = MARKED[head]
    new = migrate(head + line)
    _, comment, end = new.partition("# bert4keras.migrate: ")
    assert comment and advice in end.splitlines()[0]
    assert end.splitlines()[1] + "\n" == line
    assert migrate(new) == new


def test_a_function_of_gradients_is_marked_once_and_so_is_its_call():
    old = cases.original("gradients")
    lines = migrate(old).splitlines()
    following = [b for a, b in pairwise(lines) if "bert4keras.migrate:" in a]
    assert following == [
        "def perturb_embedding(model, name, size):",
        "perturb_embedding(model, 'Embedding-Token', 0.5)",
        "def penalized(y_true, y_pred):",
        "    def call(self, inputs):",
    ]


def test_a_comment_above_the_first_statement_is_found_again():
    old = "# one\n\nfrom keras.utils import multi_gpu_model\n"
    new = migrate(old)
    assert new.count("bert4keras.migrate") == 1
    assert migrate(new) == new


def test_every_mark_has_a_kind():
    tables = (rules.MARKS, rules.ATTRIBUTE_MARKS, rules.ARGUMENT_MARKS)
    kinds = {mark.kind for table in tables for mark in table.values()}
    assert kinds <= set(rules.KINDS)
    assert len(rules.KINDS) == 3


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


# === Files ===

CHANGED = "from keras.models import Model\n"


def test_a_file_is_edited_in_place_and_kept(tmp_path, capsys):
    script = tmp_path / "train.py"
    script.write_text(CHANGED)
    script.chmod(0o750)
    assert main([str(script)]) == 0
    assert script.read_text() == "from bert4keras.models import Model\n"
    assert stat.S_IMODE(script.stat().st_mode) == 0o750
    assert (tmp_path / "train.py.orig").read_text() == CHANGED
    script.write_text(CHANGED)
    assert main([str(script)]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "train.py",
        "train.py.orig",
        "train.py.orig.2",
    ]
    assert main([str(script)]) == 0
    assert "nothing to change" in capsys.readouterr().out
    assert len(list(tmp_path.iterdir())) == 3


def test_a_diff_writes_nothing(tmp_path, capsys):
    script = tmp_path / "train.py"
    script.write_text(CHANGED + "import tensorflow as tf\ntf.Session()")
    before = script.read_bytes()
    assert main(["--diff", str(script)]) == 0
    out, err = capsys.readouterr()
    assert "-from keras.models import Model\n+from bert4keras.models import Model\n" in out
    assert "1 place left to you" in err
    assert script.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["train.py"]


@pytest.mark.parametrize(
    ("head", "encoding"),
    [
        ("# -*- coding: gbk -*-\n", "gbk"),
        ("#!/usr/bin/env python\n# vim: set fileencoding=gb18030 :\n", "gb18030"),
        ("", "utf-8-sig"),
        ("", "utf-8"),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("last", ["", "\n", "\n\n\t\n"])
def test_encoding_mark_and_line_ends_stay(head, encoding, newline, last, tmp_path):
    script = tmp_path / "train.py"
    body = f"{head}{CHANGED}text = '中文'  \nif text:\n\tpass{last}"
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


def test_folders_are_walked_and_what_cannot_be_read_is_reported(tmp_path, capsys):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "good.py").write_text(CHANGED)
    (tmp_path / "old.py").write_text("import keras\nprint 'Python 2'\n")
    (tmp_path / "unknown.py").write_bytes("text = '中文'\n".encode("gbk"))
    (tmp_path / "notes.txt").write_text(CHANGED)
    assert main([str(tmp_path), str(tmp_path / "missing.py")]) == 1
    out, err = capsys.readouterr()
    assert "good.py: changed" in out
    assert "old.py:2" in err and "unknown.py: cannot be decoded" in err and "missing.py" in err
    assert (tmp_path / "notes.txt").read_text() == CHANGED
    assert (tmp_path / "old.py").read_text() == "import keras\nprint 'Python 2'\n"


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "train.py").write_text(CHANGED)
    (tmp_path / "link.py").symlink_to("train.py")
    assert main([str(tmp_path)]) == 0
    assert (tmp_path / "link.py").is_symlink()
    assert "bert4keras" in (tmp_path / "train.py").read_text()


def test_without_libcst_the_command_says_what_to_install():
    code = "import sys; sys.modules['libcst'] = None; import bert4keras.migrate"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert 'needs libcst: run pip install "bert4keras[migrate]"' in result.stderr


def test_the_command_runs_without_keras(tmp_path):
    (tmp_path / "train.py").write_text(CHANGED)
    code = (
        "import sys, bert4keras.migrate as m; code = m.main(['--diff', 'train.py']);"
        "sys.exit(code or 'keras' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    command = [sys.executable, "-m", "bert4keras.migrate", "train.py"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "train.py.orig").exists()


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


def test_the_scripts_use_what_the_tables_rewrite():
    text = "\n".join(cases.original(name) for name in cases.SCRIPTS)
    words = set(re.findall(r"\w+", text))
    names = [*rules.NAMES, *rules.EXPRESSIONS, *rules.DECORATORS, *rules.CALLS, *rules.RESULTS]
    entries = {
        *(name.rsplit(".", 1)[-1] for name in names),
        *rules.METHODS,
        *rules.NODE_METHODS,
        *(old for rule in rules.ARGUMENTS.values() for old in rule.renamed or {}),
    }
    assert entries - words == SEEN_IN_RULES_ONLY


SEEN_IN_RULES_ONLY = {"BasicTokenizer", "default", "erf", "gfile", "uniform"}
"""Variants of what the scripts do use."""


def test_at_most_three_kinds_of_edits_are_left():
    for name in cases.SCRIPTS:
        kinds = {kind for kind, _, _ in cases.BY_HAND.get(name, [])}
        assert kinds <= set(rules.KINDS), name
        assert "bert4keras.migrate:" not in cases.finished(name)
        assert ("bert4keras.migrate:" in migrate(cases.original(name))) == bool(kinds), name


def test_the_document_shows_the_diffs():
    text = cases.DOCUMENT.read_text(encoding="utf-8")
    assert text[text.index(cases.BEGIN) :] == cases.diffs(), "run python tests/migration_cases.py"


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
