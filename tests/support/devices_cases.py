"""What `test_devices.py` trains, in this process on one device and in others on several.

Run as a script it trains all cases and writes what came out of it:

    python devices_cases.py FOLDER HOW
"""

import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path

import keras
import numpy as np

from bert4keras import layers, optimizers
from bert4keras.backend import K
from bert4keras.models import Model, build_transformer_model
from bert4keras.snippets import DataGenerator
from bert4keras.training import TokenCrossentropy, batch_mean, data_parallel, model_parallel

VOCABULARY, CLASSES = 32, 3
CONFIG = {
    "vocab_size": VOCABULARY,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "hidden_act": "gelu",
    "max_position": 16,
    "dropout_rate": 0.0,
    "attention_dropout_rate": 0.0,
}
SIZES = [4, 3, 4, 1, 4]
"""Numbers of samples in batches: even for two devices, uneven, too few."""


def set_weights(model, scale=0.3):
    """Give a model weights that do not depend on devices or order of random numbers."""
    random = np.random.default_rng(7)
    # Vectors start at 0 or 1, matrices at random.
    starts = [w if w.ndim == 1 else 0 for w in model.get_weights()]
    noise = [scale * random.normal(size=w.shape) for w in model.get_weights()]
    model.set_weights([start + each for start, each in zip(starts, noise, strict=True)])


def token_ids(n, length=6, seed=0):
    """Random token ids with padding, row by row less."""
    random = np.random.default_rng(seed)
    ids = random.integers(1, VOCABULARY, (n, length))
    for row in range(n):
        ids[row, length - row % (length - 2) :] = 0
    return ids


def tagger():
    """Scores of tokens at each position, with a mask, by a model that is traced in no time."""
    ids, segments = (keras.Input((None,), dtype="int32") for _ in range(2))
    words = layers.Embedding(VOCABULARY, CONFIG["hidden_size"], mask_zero=True)(ids)
    x = layers.Add()([words, layers.Embedding(2, CONFIG["hidden_size"])(segments)])
    return Model([ids, segments], keras.layers.Dense(VOCABULARY)(x))


class Labelled:
    """Classification of arrays, with sample weights, metrics and validation data."""

    def __init__(self, optimizer="sgd"):
        self.optimizer = {
            "sgd": lambda: keras.optimizers.SGD(0.1),
            "adam": lambda: optimizers.Adam(0.01),
            "stack": lambda: stacked_optimizer()(
                0.01, weight_decay_rate=0.1, grad_accum_steps=2, lr_schedule={2: 1, 8: 0.5}
            ),
        }[optimizer]

    def build(self):
        base = tagger()
        pooled = keras.ops.mean(base.output, 1)
        outputs = keras.layers.Dense(CLASSES, activation="softmax", name="Head")(pooled)
        model = Model(base.inputs, outputs)
        set_weights(model)
        model.compile(
            self.optimizer(),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
            weighted_metrics=["sparse_categorical_crossentropy"],
        )
        return model

    def data(self, n=13):
        ids, random = token_ids(n), np.random.default_rng(1)
        return [ids, np.zeros_like(ids)], random.integers(0, CLASSES, n), random.uniform(0, 2, n)

    def fit(self, model):
        x, y, weights = self.data()
        return model.fit(
            x,
            y,
            sample_weight=weights,
            batch_size=4,
            epochs=2,
            validation_data=self.data(5),
            validation_batch_size=4,
            verbose=0,
        )


def stacked_optimizer():
    cls = optimizers.extend_with_weight_decay(keras.optimizers.Adam)
    cls = optimizers.extend_with_piecewise_linear_lr(cls)
    return optimizers.extend_with_gradient_accumulation(cls)


class Masked:
    """Chosen tokens are predicted, more on one device than on another; batches come one by one."""

    ignore, reduction = 0, "sum_over_batch_size"
    learning_rate = 0.1
    metrics = ("sparse_categorical_accuracy",)

    def build(self):
        model = tagger()
        set_weights(model)
        loss = TokenCrossentropy(from_logits=True, ignore=self.ignore, reduction=self.reduction)
        model.compile(keras.optimizers.SGD(self.learning_rate), loss, metrics=list(self.metrics))
        return model

    def batches(self, weighted=True):
        for i, n in enumerate(SIZES):
            ids, random = token_ids(n, 6 + i % 2, seed=i), np.random.default_rng(i)
            labels = np.where(random.uniform(size=ids.shape) < 0.4, ids, 0)
            labels[n // 2 :, 2:] = 0
            batch = [ids, np.zeros_like(ids)], labels
            yield (*batch, random.uniform(0.5, 1.5, n)) if weighted else batch

    def fit(self, model):
        return model.fit(self.batches(), verbose=0)


class Averaged(Masked):
    """The same with the mean over the weights that there are, and a mask of the model."""

    ignore, reduction = None, "mean_with_sample_weight"
    metrics = ()


class Summed(Masked):
    """The same with the sum over the batch."""

    reduction = "sum"
    learning_rate = 0.01
    metrics = ()


@keras.saving.register_keras_serializable("bert4keras_tests")
class NextToken(layers.Loss):
    """Mean cross-entropy of the next token of the visible ones."""

    def compute_loss(self, inputs, mask=None):
        ids, probabilities = inputs
        loss = keras.losses.sparse_categorical_crossentropy(ids[:, 1:], probabilities[:, :-1])
        return batch_mean(loss, ids[:, 1:] != 0)


class Texts(DataGenerator):
    """Rows of token ids, in the order they are in."""

    def __iter__(self, random=False):
        rows = []
        for is_end, row in self.sample(False):
            rows.append(row)
            if len(rows) == self.batch_size or is_end:
                ids = np.array(rows)
                yield [ids, np.zeros_like(ids)], None
                rows = []


class OwnLoss:
    """A language model that ends in its loss, fed by a generator without targets."""

    def build(self):
        base = build_transformer_model(model="bert", application="lm", **CONFIG)
        model = Model(base.inputs, NextToken(1)([base.inputs[0], base.output]))
        set_weights(model)
        model.compile(keras.optimizers.Adam(0.01))
        return model

    def fit(self, model):
        texts = Texts(list(token_ids(11)), 4)
        return model.fit(texts.forfit(False), steps_per_epoch=len(texts), epochs=2, verbose=0)


class OwnOutput:
    """A model whose output is its loss, without an axis; more tokens count in some rows."""

    def build(self):
        base = tagger()

        def mean_loss(inputs):
            ids, scores = inputs
            loss = K.sparse_categorical_crossentropy(ids, scores, from_logits=True)
            return batch_mean(loss, K.not_equal(ids, 0))

        loss = layers.Lambda(mean_loss, name="loss")([base.inputs[0], base.output])
        model = Model(base.inputs, loss)
        set_weights(model)
        model.compile(keras.optimizers.SGD(0.1), {"loss": lambda y_true, y_pred: y_pred})
        return model

    def fit(self, model):
        ids = token_ids(8)
        return model.fit(
            [ids, np.zeros_like(ids)], np.zeros(8), batch_size=4, shuffle=False, verbose=0
        )


CASES = {
    "labelled-sgd": Labelled(),
    "labelled-adam": Labelled("adam"),
    "labelled-stack": Labelled("stack"),
    "masked": Masked(),
    "averaged": Averaged(),
    "summed": Summed(),
    "own-loss": OwnLoss(),
    "own-output": OwnOutput(),
}


def train(case, folder=None):
    """Train a case; give all that was reported, predictions and weights."""
    keras.utils.set_random_seed(3)  # for the order of samples
    model = case.build()
    history = case.fit(model).history
    x = [token_ids(5, seed=9), np.zeros((5, 6), "int64")]
    result = {"history": history}
    if isinstance(case, Labelled):
        x, y, weights = case.data(5)
        result["evaluate"] = model.evaluate(
            x, y, sample_weight=weights, batch_size=4, verbose=0, return_dict=True
        )
    if not isinstance(case, Averaged | Summed | OwnOutput):
        result["predict"] = np.asarray(model.predict(x, batch_size=4, verbose=0)).tolist()
    result["weights"] = [float(np.linalg.norm(w)) for w in model.get_weights()]
    return result, model


def architecture_losses(name):
    """Losses of two steps of an architecture, and the model."""
    sizes = CONFIG | {"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 32}
    if "t5" in name:
        sizes.pop("max_position")
    model = build_transformer_model(model=name, **sizes)
    set_weights(model, 0.1)
    random = np.random.default_rng(2)
    x = [
        random.normal(size=(3, 5, 16))
        if tensor.shape[-1]
        else random.integers(1, 2 if "Segment" in tensor.name else 8, (3, 5))
        for tensor in model.inputs
    ]
    model.compile(keras.optimizers.SGD(0.1), "mse")
    y = random.normal(size=(3, 5, model.output.shape[-1]))
    return [float(model.train_on_batch(x, y)) for _ in range(2)], model


def architectures(folder, names):
    """Train architectures on one device, and split over two; write losses and what is split.

    Compilers of the other tests would take a minute more.
    """
    results = {name: {"one": architecture_losses(name)[0]} for name in names}
    with model_parallel() as devices:
        for name, result in results.items():
            result["two"], model = architecture_losses(name)
            weights = [(v.path, not v.value.sharding.is_fully_replicated) for v in model.weights]
            result["split"] = dict(weights)
    results["devices"] = [devices.replicas, devices.processes]
    (folder / "0.json").write_text(json.dumps(results))


def dense_model():
    inputs = keras.Input((3,))
    return Model(inputs, keras.layers.Dense(1)(inputs))


def placement(how):
    """The devices that a run is for."""
    if how == "scope":
        import tensorflow as tf

        return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope()
    return data_parallel() if how == "parallel" else nullcontext()


def prepare():
    """Let this process have two devices, or be one of two."""
    backend = keras.backend.backend()
    if backend == "tensorflow" and "TF_CONFIG" not in os.environ:
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, two)
    if backend == "jax" and "KERAS_DISTRIBUTION_PROCESS_ID" in os.environ:
        import jax

        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        keras.distribution.initialize()


def main(folder, how, *names):
    prepare()
    if how == "architectures":
        return architectures(folder, names)
    keras.utils.set_random_seed(3)
    results = {}
    # Workers of TensorFlow meet before anything is made.
    early = None if "TF_CONFIG" in os.environ else dense_model()
    with placement(how) as devices:
        if early is not None and keras.backend.backend() != "torch":
            try:
                early.compile("sgd", "mse")
            except ValueError as error:
                results["built before"] = str(error)
        process = getattr(devices, "process", 0)
        for name in names or CASES:
            results[name], model = train(CASES[name])
            if name == "labelled-adam":
                # Workers of TensorFlow read variables together, so that all have to save.
                model.save_weights(folder / f"adam-{process}.weights.h5")
                model.save(folder / f"adam-{process}.keras")
    results["devices"] = [getattr(devices, "replicas", 0), getattr(devices, "processes", 0)]
    (folder / f"{process}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
