"""What each rule of `migrate` does: a script, and what becomes of it."""

RULES = {
    "a package out of another": (
        "from tensorflow import keras\nkeras.layers.Dense(2)\n",
        "import keras\nkeras.layers.Dense(2)\n",
    ),
    "an import from a module of a module": (
        "from tensorflow.keras.preprocessing.sequence import pad_sequences\n",
        "from keras.preprocessing.sequence import pad_sequences\n",
    ),
    "what is better, by the name of a metric": (
        "from keras.callbacks import EarlyStopping, ReduceLROnPlateau\n"
        "a = EarlyStopping('val_sparse_accuracy', patience=2)\n"
        "b = ReduceLROnPlateau(monitor='val_nll', mode='auto')\n"
        "c = [EarlyStopping(), EarlyStopping('val_acc', 0, 1, 0, 'max'), EarlyStopping(name)]\n",
        "from keras.callbacks import EarlyStopping, ReduceLROnPlateau\n"
        "a = EarlyStopping('val_sparse_accuracy', patience=2, mode='max')\n"
        "b = ReduceLROnPlateau(monitor='val_nll', mode='min')\n"
        "c = [EarlyStopping(), EarlyStopping('val_acc', 0, 1, 0, 'max'), EarlyStopping(name)]\n",
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
        "from keras.layers import Input\nimport numpy as np\n"
        "y = K.sum(Lambda(f)(Input((2,))))\nz = np.zeros(2)\n",
    ),
    "star import of snippets": (
        "from bert4keras.snippets import *\ny = np.array(unicodedata.name(strQ2B(x)))\n",
        "from bert4keras.snippets import *\nimport numpy as np\nimport unicodedata\n"
        "y = np.array(unicodedata.name(strQ2B(x)))\n",
    ),
    "star import of tokenizers": (
        "from bert4keras.tokenizers import *\nt = Tokenizer(d)\nm = re.search(x, is_string(y))\n",
        "from bert4keras.tokenizers import *\nimport re\n"
        "t = Tokenizer(d)\nm = re.search(x, is_string(y))\n",
    ),
    "functions that see floats": (
        "from keras.layers import Lambda, Dense\nimport keras\nkeras.layers.Lambda(Lambda)\n",
        "from keras.layers import Dense\nfrom bert4keras.layers import Lambda\nimport keras\n"
        "Lambda(Lambda)\n",
    ),
    "masks and calls of layers": (
        "import keras\nlayer = model.get_layer('Embedding-Token')\n"
        "mask = layer.output_mask\nother = features.output_mask\n"
        "mask = model.layers[-1].get_output_mask_at(0)\n"
        "nodes = layer._inbound_nodes[0].inbound_layers\nx = model._feed_inputs\n",
        "import keras\nfrom bert4keras.legacy import output_mask, inbound_nodes\n"
        "layer = model.get_layer('Embedding-Token')\n"
        "mask = output_mask(layer)\nother = features.output_mask\n"
        "mask = output_mask(model.layers[-1], 0)\n"
        "nodes = inbound_nodes(layer)[0].inbound_layers\nx = model.inputs\n",
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
    "constants of modules that only imported them": (
        "from bert4keras.models import is_tf_keras, BERT\nassert not is_tf_keras and BERT\n",
        "from bert4keras.models import BERT\nassert not False and BERT\n",
    ),
    "a choice of packages": (
        "import os\nif os.environ.get('TF_KERAS'):\n    import tensorflow as tf\n"
        "    keras = tf.keras\nelse:\n    import keras\nbackend = keras.backend\n"
        "keras.Model(backend.sum(x))\n",
        "import os\nfrom bert4keras.models import Model\nif os.environ.get('TF_KERAS'):\n"
        "    import tensorflow as tf\n    import keras\nelse:\n    import keras\n"
        "from bert4keras.backend import K as backend\nModel(backend.sum(x))\n",
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
    "GPT and SentencePiece by their first names": (
        "from bert4keras.models import GPT_OpenAI, build_transformer_model\n"
        "from bert4keras.utils import SpmTokenizer\n"
        "t = SpmTokenizer(path)\n"
        "m = build_transformer_model(a, b, model='gpt_openai')\nn = GPT_OpenAI(**c)\n",
        "from bert4keras.models import build_transformer_model\n"
        "from bert4keras.models import GPT\n"
        "from bert4keras.tokenizers import SpTokenizer\n"
        "t = SpTokenizer(path)\n"
        "m = build_transformer_model(a, b, model='gpt')\nn = GPT(**c)\n",
    ),
    "old tokenizer": (
        "from bert4keras.utils import Tokenizer\nt = Tokenizer(d, case_sensitive=False)\n"
        "t.encode(a, max_length=3)\nt.tokenize(a, add_cls=False)\nt._token_cls_id\n",
        "from bert4keras.tokenizers import Tokenizer\nt = Tokenizer(d, do_lower_case=True)\n"
        "t.encode(a, maxlen=3)\nt.tokenize(a)[1:]\nt._token_start_id\n",
    ),
    "arguments of versions before 0.10.1": (
        "from bert4keras.backend import search_layer, sequence_masking\n"
        "from bert4keras.layers import MultiHeadAttention\n"
        "from bert4keras.tokenizers import load_vocab\n"
        "tokens, kept = load_vocab(path, simplified=True, startwith=['[PAD]'])\n"
        "layer = search_layer(x, 'Embedding', exclude=seen)\n"
        "attention = MultiHeadAttention(2, 4, scaled_dot_product=False)\n"
        "y = sequence_masking(x, mask, mode=1, axis=-1)\n"
        "y = sequence_masking(x, mask, mode=0, axis=2)\n"
        "y = sequence_masking(x, mask, mode=chosen)\n",
        "from bert4keras.backend import search_layer, sequence_masking\n"
        "from bert4keras.layers import MultiHeadAttention\n"
        "from bert4keras.tokenizers import load_vocab\n"
        "tokens, kept = load_vocab(path, simplified=True, startswith=['[PAD]'])\n"
        "layer = search_layer(x, 'Embedding')\n"
        "attention = MultiHeadAttention(2, 4, attention_scale=False)\n"
        "y = sequence_masking(x, mask, value='-inf', axis=-1)\n"
        "y = sequence_masking(x, mask, axis=2)\n"
        "y = sequence_masking(x, mask, value='-inf' if chosen else 0)\n",
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
    "files keep their names": (
        "from keras.callbacks import ModelCheckpoint\nfrom keras.models import load_model\n"
        "c = ModelCheckpoint(folder + '/e_{epoch:02d}.ckpt', save_weights_only=True, period=2)\n"
        "m = load_model(os.path.join(folder, 'best.hdf5'))\n",
        "from bert4keras.legacy import ModelCheckpoint\nfrom bert4keras.models import load_model\n"
        "c = ModelCheckpoint(folder + '/e_{epoch:02d}.ckpt', save_weights_only=True, period=2)\n"
        "m = load_model(os.path.join(folder, 'best.hdf5'))\n",
    ),
    "added metric by position": (
        "import keras\nclass L(keras.layers.Layer):\n    def call(self, x):\n"
        "        self.add_metric(K.mean(x), 'size of x')\n        return x\n",
        "import keras\nclass L(keras.layers.Layer):\n"
        "    def __init__(self, *args, **kwargs):\n        super().__init__(*args, **kwargs)\n"
        "        self.size_of_x_metric = keras.metrics.Mean(name='size of x')\n\n"
        "    def call(self, x):\n        self.size_of_x_metric.update_state(K.mean(x))\n"
        "        return x\n",
    ),
    "added metric of a layer with a constructor": (
        "import keras\nclass L(keras.layers.Layer):\n    def __init__(self, n):\n"
        "        super(L, self).__init__()\n        self.n = n  # size\n\n"
        "    def call(self, x):\n        self.add_metric(name='acc', value=x)\n",
        "import keras\nclass L(keras.layers.Layer):\n    def __init__(self, n):\n"
        "        super(L, self).__init__()\n        self.n = n  # size\n"
        "        self.acc_metric = keras.metrics.Mean(name='acc')\n\n"
        "    def call(self, x):\n        self.acc_metric.update_state(x)\n",
    ),
    "added loss of a model that is kept": (
        "import keras\nclass Task:\n    def build(self):\n        self.model.add_loss(x + y)\n",
        "import keras\nfrom bert4keras.legacy import with_loss\nclass Task:\n"
        "    def build(self):\n        self.model = with_loss(self.model, x + y)\n",
    ),
    "the model of a callback": (
        "import keras\nclass Save(keras.callbacks.Callback):\n"
        "    def __init__(self, model):\n        self.model = model\n",
        "import keras\nclass Save(keras.callbacks.Callback):\n"
        "    def __init__(self, model):\n        self.set_model(model)\n",
    ),
    "an import in a function": (
        "def build():\n    import keras\n    return keras.models.Model(x, y)\n",
        "def build():\n    import keras\n    from bert4keras.models import Model\n"
        "    return Model(x, y)\n",
    ),
    "modules of a package": (
        "from keras import models, layers\nm = models.Model(x, layers.CuDNNGRU(2)(x))\n",
        "from keras import models, layers\nfrom bert4keras.models import Model\n"
        "m = Model(x, layers.GRU(2)(x))\n",
    ),
    "other names": (
        "import keras\nK = keras.backend\nlayers, models = keras.layers, keras.models\n"
        "Model = keras.models.Model\n"
        "m = Model(models.Input((2,)), layers.CuDNNGRU(2)(K.ones(2)))\n",
        "import keras\nfrom bert4keras.backend import K\n"
        "layers, models = keras.layers, keras.models\nfrom bert4keras.models import Model\n"
        "m = Model(layers.Input((2,)), layers.GRU(2)(K.ones(2)))\n",
    ),
    "branches of a try": (
        "try:\n    import keras\nexcept ImportError:\n    from tensorflow import keras\n"
        "try:\n    from keras.backend import tensorflow_backend as K\nexcept ImportError:\n"
        "    K = None\nkeras.Model(K.sum(x))\n",
        "from bert4keras.models import Model\ntry:\n    import keras\nexcept ImportError:\n"
        "    import keras\ntry:\n    from bert4keras.backend import K\nexcept ImportError:\n"
        "    K = None\nModel(K.sum(x))\n",
    ),
    "the last import counts": (
        "from bert4keras.layers import Embedding\nfrom keras.layers import Embedding\n"
        "Embedding(2, 3, input_length=4)\n",
        "from bert4keras.layers import Embedding\nfrom keras.layers import Embedding\n"
        "Embedding(2, 3)\n",
    ),
    "what a module only imported": (
        "from bert4keras.backend import keras, K, tf\nfrom bert4keras.layers import Dot, np\n"
        "tf.constant(np.ones(2))\n",
        "from bert4keras.backend import keras, K\nimport tensorflow as tf\n"
        "from keras.layers import Dot\nimport numpy as np\ntf.constant(np.ones(2))\n",
    ),
    "what modules of Keras 2 only imported": (
        "from keras.models import *\nfrom keras.optimizers import *\nK.sum(np.ones(2))\n",
        "from keras.models import *\nfrom keras.optimizers import *\n"
        "from bert4keras.backend import K\nimport numpy as np\nK.sum(np.ones(2))\n",
    ),
    "short names of losses": (
        "import keras\nfrom keras.losses import kullback_leibler_divergence as kld, mse\n"
        "f = [kld, mse, keras.losses.kld, keras.losses.MSE, keras.metrics.mae]\n",
        "import keras\nfrom keras.losses import kl_divergence as kld, mean_squared_error\n"
        "f = [kld, mean_squared_error, kld, mean_squared_error, "
        "keras.metrics.mean_absolute_error]\n",
    ),
    "TensorFlow 1 that TensorFlow 2 has": (
        "import tensorflow as tf\ntf.compat.v1.logging.set_verbosity(tf.compat.v1.logging.ERROR)\n"
        "o = tf.compat.v1.train.AdamOptimizer(1e-3)\nx = tf.compat.v1.keras.layers.Dense(2)\n",
        "import tensorflow as tf\nimport keras\n"
        "tf.compat.v1.logging.set_verbosity(tf.compat.v1.logging.ERROR)\n"
        "o = tf.compat.v1.train.AdamOptimizer(1e-3)\nx = keras.layers.Dense(2)\n",
    ),
    "TensorFlow 1 under its name": (
        "import tensorflow.compat.v1 as tf\ntf.disable_v2_behavior()\ny = tf.log(x)\n",
        "import tensorflow.compat.v1 as tf\ny = tf.log(x)\n",
    ),
    "only in TensorFlow 1": (
        "import tensorflow as tf\ntf.logging.set_verbosity(tf.logging.ERROR)\n"
        "y = tf.reduce_sum(tf.to_float(x), keep_dims=True)\no = tf.train.AdamOptimizer(1e-3)\n",
        "import tensorflow as tf\n"
        "tf.compat.v1.logging.set_verbosity(tf.compat.v1.logging.ERROR)\n"
        "y = tf.reduce_sum(tf.compat.v1.to_float(x), keepdims=True)\n"
        "o = tf.compat.v1.train.AdamOptimizer(1e-3)\n",
    ),
    "files of TensorFlow": (
        "import tensorflow as tf\nif not tf.gfile.Exists(filename=a):\n    tf.gfile.MakeDirs(a)\n"
        "with tf.gfile.Open(a) as f, tf.gfile.GFile(b) as g:\n    tf.gfile.DeleteRecursively(a)\n",
        "import tensorflow as tf\nif not tf.io.gfile.exists(path=a):\n"
        "    tf.io.gfile.makedirs(a)\nwith tf.io.gfile.GFile(a) as f, tf.io.gfile.GFile(b) as g:\n"
        "    tf.io.gfile.rmtree(a)\n",
    ),
    "padding of labels": (
        "from bert4keras.snippets import sequence_padding\n"
        "x = sequence_padding(x, padding=np.zeros((n, 2))), sequence_padding(y, padding=1)\n",
        "from bert4keras.snippets import sequence_padding\n"
        "x = sequence_padding(x), sequence_padding(y, value=1)\n",
    ),
    "what snippets only imported": (
        "from bert4keras.snippets import open, K, keras\nimport tensorflow as tf\n"
        "x = tf.keras.metrics.Mean(K.sum(x)), keras.layers.Dense(2)\n",
        "from bert4keras.snippets import open\nfrom bert4keras.backend import K\nimport keras\n"
        "import tensorflow as tf\nx = keras.metrics.Mean(K.sum(x)), keras.layers.Dense(2)\n",
    ),
    "sessions": (
        "import tensorflow as tf\nfrom keras.backend.tensorflow_backend import set_session\n"
        "config = tf.ConfigProto()\nconfig.gpu_options.allow_growth = True\n"
        "sess = tf.Session(config=config)\nset_session(sess)\n"
        "sess.run(tf.global_variables_initializer())\nx = 1\n",
        "import tensorflow as tf\n"
        "for gpu in tf.config.list_physical_devices('GPU'):\n"
        "    tf.config.experimental.set_memory_growth(gpu, True)\nx = 1\n",
    ),
    "a session that is entered": (
        "import tensorflow as tf\nimport keras\ngraph = tf.get_default_graph()\n"
        "def answer(text):\n    global graph\n    with graph.as_default():\n"
        "        x = '''a\n        b'''\n\n        # now\n        return model.predict(x)\n",
        "import tensorflow as tf\nimport keras\ndef answer(text):\n    global graph\n"
        "    x = '''a\n        b'''\n\n    # now\n    return model.predict(x)\n",
    ),
    "names in formatted texts": (
        "import keras\nx = f'rate {model.optimizer.lr:.2f}' f\"{keras.losses.kld(a, b)}\"\n",
        "import keras\nx = f'rate {model.optimizer.learning_rate:.2f}' "
        'f"{keras.losses.kl_divergence(a, b)}"\n',
    ),
    "tabs that Python accepts": (
        "import keras\nclass A:\n    def f(self):\n\t    return keras.Model(x, y)\n",
        "import keras\nfrom bert4keras.models import Model\nclass A:\n    def f(self):\n"
        "\t    return Model(x, y)\n",
    ),
    "lines of several statements": (
        "from bert4keras.backend import K\nK.set_infinity(1); x = 1; K.set_infinity(2)\n"
        "if x: K.set_infinity(3)\n",
        "from bert4keras.backend import K\nx = 1; \nif x: pass\n",
    ),
}
