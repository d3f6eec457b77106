"""`python -m bert4keras.migrate` on scripts that belong together."""

import ast
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert4keras.migrate import main, migrate_files


def project(folder, files):
    """Write files, by their paths."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def migrated(folder, files, given=("",)):
    """Write files, rewrite them, and return those that have changed, by their paths."""
    project(folder, files)
    assert main([str(folder / name) for name in given]) == 0
    after = {name: (folder / name).read_text() for name in files}
    assert main(["--diff", *(str(folder / name) for name in given)]) == 0  # and settles
    assert migrate_files([folder / name for name in given]) == 0
    assert after == {name: (folder / name).read_text() for name in files}
    return {name: text for name, text in after.items() if text != files[name]}


SNIPPETS = "from bert4keras.backend import keras, K\nimport numpy as np\n"


def test_a_script_has_its_names_from_a_module_beside_it(tmp_path):
    files = {
        "snippets.py": SNIPPETS,
        "train.py": "from snippets import *\nmodel = keras.models.Model(x, K.sum(y))\n"
        "model.save_weights('weights/x.weights')\nmodel.fit_generator(g)\n",
    }
    assert migrated(tmp_path, files) == {
        "train.py": "from snippets import *\nfrom bert4keras.models import Model\n"
        "model = Model(x, K.sum(y))\nmodel.save_weights('weights/x.weights')\nmodel.fit(g)\n",
    }


def test_a_module_beside_a_script_is_read_and_not_changed(tmp_path):
    files = {
        "common.py": "from tensorflow import keras\nfrom keras.models import Model\n",
        "train.py": "from common import *\nkeras.layers.CuDNNLSTM(2)\nModel(x, y)\n",
    }
    changed = migrated(tmp_path, files, given=["train.py"])
    assert changed == {
        "train.py": "from common import *\nkeras.layers.LSTM(2)\nModel(x, y)\n",
    }
    assert migrated(tmp_path, files) == {
        "common.py": "import keras\nfrom bert4keras.models import Model\n",
        **changed,
    }


@pytest.mark.parametrize(
    ("imported", "name"),
    [
        ("from common import keras", "keras"),
        ("from common import keras as ks", "ks"),
        ("import common", "common.keras"),
        ("import common as c", "c.keras"),
        ("from common import *", "keras"),
    ],
)
def test_every_way_to_import_a_name(imported, name, tmp_path):
    files = {
        "common.py": SNIPPETS,
        "train.py": f"{imported}\ndef build(x):\n    return {name}.models.Model(x, x)\n",
    }
    assert migrated(tmp_path, files) == {
        "train.py": f"{imported}\nfrom bert4keras.models import Model\ndef build(x):\n"
        "    return Model(x, x)\n",
    }


def test_packages_relative_imports_and_modules_that_hand_on(tmp_path):
    files = {
        "nlp/__init__.py": "from .base import keras as ks, layers\nfrom . import base\n",
        "nlp/base.py": "import keras\nfrom keras import layers\n",
        "nlp/models/__init__.py": "",
        "nlp/models/ner.py": "from ..base import *\nfrom .. import ks, layers as L, base\n"
        "keras.Model(L.CuDNNGRU(2), base.keras.backend.sum(x))\n",
        "train.py": "import nlp\nfrom nlp.models import ner\nnlp.ks.layers.CuDNNGRU(2)\n"
        "nlp.base.layers.GRU(2)\nner.keras.Model(1)\n",
    }
    assert migrated(tmp_path, files) == {
        "nlp/models/ner.py": "from ..base import *\nfrom .. import ks, layers as L, base\n"
        "from bert4keras.models import Model\nfrom bert4keras.backend import K\n"
        "Model(L.GRU(2), K.sum(x))\n",
        "train.py": "import nlp\nfrom nlp.models import ner\nimport keras\n"
        "from bert4keras.models import Model\nkeras.layers.GRU(2)\n"
        "nlp.base.layers.GRU(2)\nModel(1)\n",
    }


def test_chains_and_circles_of_star_imports_and_all(tmp_path):
    files = {
        "a.py": "from b import *\nfrom tensorflow import keras\n",
        "b.py": "from c import *\nfrom a import *\n",
        "c.py": "from keras import backend as K\nfrom keras import backend as _B\n"
        "from keras.models import Model\n__all__ = ['K', 'Model']\n",
        "train.py": "from b import *\nfrom d import *\nkeras.layers.CuDNNGRU(K.eval(x))\n"
        "Model(input=x)\nModel2(input=x)\n_B.eval(x)\n",
        "d.py": "def Model2(input):\n    return input\n",
    }
    changed = migrated(tmp_path, files)
    assert changed["train.py"] == (
        "from b import *\nfrom d import *\nkeras.layers.GRU(K.eval(x))\n"
        "Model(inputs=x)\nModel2(input=x)\n_B.eval(x)\n"
    )
    assert changed["c.py"].startswith("from bert4keras.backend import K\n")
    assert "from bert4keras.models import Model\n" in changed["c.py"]


def test_what_a_module_hands_on_under_its_old_name_stays_there(tmp_path):
    files = {
        "common.py": "from keras.backend import clear_session, floatx\n"
        "from keras.layers import CuDNNGRU\nfrom bert4keras.optimizers import LionV2\n"
        "clear_session()\n",
        "train.py": "from common import clear_session, CuDNNGRU\nimport common\n"
        "clear_session()\nCuDNNGRU(2)\ncommon.LionV2(1)\n",
    }
    assert migrated(tmp_path, files) == {
        "common.py": "from bert4keras.backend import K\nclear_session = K.clear_session\n"
        "from keras.layers import GRU as CuDNNGRU\n"
        "from bert4keras.optimizers import Lion as LionV2\nK.clear_session()\n",
        "train.py": "from common import clear_session, CuDNNGRU\nimport common\n"
        "from bert4keras.backend import K\nK.clear_session()\nCuDNNGRU(2)\n"
        "common.LionV2(1)\n",
    }


def test_what_a_star_import_of_the_library_brought_a_module(tmp_path):
    files = {
        "common.py": "from bert4keras.layers import *\n",
        "train.py": "from common import *\nfrom common import K, is_tf_keras\n"
        "K.sum(np.ones(2))\nassert not is_tf_keras\n",
        "test.py": "from common import *\nK.sum(Dot(1)(x))\n",
    }
    assert migrated(tmp_path, files) == {
        "train.py": "from common import *\nfrom bert4keras.backend import K\nimport numpy as np\n"
        "K.sum(np.ones(2))\nassert not False\n",
        "test.py": "from common import *\nfrom bert4keras.backend import K\n"
        "from keras.layers import Dot\nK.sum(Dot(1)(x))\n",
    }


def test_names_of_other_things_are_left_alone(tmp_path):
    files = {
        "keras_utils.py": "class Model:\n    pass\n\n\ndef K():\n    pass\n",
        "torch_model.py": "import torch\nfrom keras_utils import Model\nModel(input=1)\n",
        "train.py": "from keras_utils import *\nimport keras\nModel(input=1)\nK.gradients(2)\n",
    }
    assert migrated(tmp_path, files) == {}


def test_a_module_that_cannot_be_read_is_no_obstacle(tmp_path):
    files = {
        "common.py": "print 'x'\n",
        "train.py": "from common import *\nimport keras\nf(keras)\n",
    }
    assert migrated(tmp_path, files, given=["train.py"]) == {}


def test_a_copy_of_the_library_is_named_first_and_left_alone(tmp_path, capsys):
    files = {
        "bert4keras/__init__.py": "__version__ = '0.8.3'\n",
        "bert4keras/backend.py": "import keras.backend as K\nimport tensorflow as tf\ntf.log\n",
        "train.py": "import keras.backend as K\n",
    }
    assert migrated(tmp_path, files) == {"train.py": "from bert4keras.backend import K\n"}
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith(f"{tmp_path}/bert4keras is a copy of the library (0.8.3).")
    assert "rename or delete it" in first
    for name in ("train.py", "bert4keras", "bert4keras/backend.py"):
        assert main([str(tmp_path / name)]) == 0
        assert "copy of the library" in capsys.readouterr().out
    assert main(["--check", str(tmp_path)]) == 1


def test_this_library_is_no_copy(capsys):
    root = Path(__file__).resolve().parents[2]
    assert main(["--check", str(root / "examples")]) == 0
    assert "copy" not in capsys.readouterr().out


def test_a_step_that_other_scripts_use_stays_a_function(tmp_path):
    script = (Path(__file__).parent / "scripts" / "gradients.py").read_text()
    start, end = script.index("def perturb_embedding"), script.rindex("perturb_embedding(")
    head = "import numpy as np\nfrom bert4keras.backend import K, search_layer\n"
    files = {
        "tricks.py": head + script[start:end],
        "train.py": "from tricks import perturb_embedding\nimport keras\n"
        "model.compile('adam', 'mse')\nperturb_embedding(model, 'Embedding-Token', 0.5)\n",
    }
    assert migrated(tmp_path, files) == {
        "tricks.py": "import numpy as np\nfrom bert4keras.backend import K, search_layer\n"
        "from bert4keras.training import AdversarialTraining\n"
        "def perturb_embedding(model, name, size):\n"
        "    # 每一步先沿梯度方向挪动词向量，训练完再挪回来\n"
        "    model.train_with(AdversarialTraining(name, epsilon=size))\n\n\n",
    }


HEADS = [
    "import keras\nfrom keras import backend as K\nfrom keras.models import Model\n",
    "from bert4keras.backend import keras, K\nfrom tensorflow.keras.models import Model\n",
    "from bert4keras.layers import *\nfrom keras.models import Model\nK, keras = K, keras\n",
]
LINES = [
    "from {0} import *\n",
    "import {0}\n",
    "from {0} import keras, K\n",
    "from {0} import Model as M\n",
    "from bert4keras.layers import *\n",
    "from keras.models import Model\n",
    "import keras.backend as K\n",
    "from tensorflow import keras\n",
    "K = keras.backend\n",
    "import {0}\n{0}.keras.Model(K.sum(x))\n",
    "keras.models.Model(Model(input=1), Model(input=2))\n",
]


@settings(deadline=None, max_examples=20)
@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from(LINES), st.sampled_from("abc")), max_size=5),
        min_size=3,
        max_size=3,
    ),
    st.permutations(HEADS),
)
def test_any_scripts_that_import_each_other_stay_python_and_settle(
    tmp_path_factory, scripts, heads
):
    folder = tmp_path_factory.mktemp("project")
    files = {
        f"{name}.py": head + "".join(line.format(other) for line, other in lines)
        for name, head, lines in zip("abc", heads, scripts, strict=True)
    }
    migrated(folder, files)
    for name in files:
        ast.parse((folder / name).read_text())
