"""Scripts in the style of 0.11.5 run as they stand, from the data to the saved weights."""

import json

import numpy as np
import pytest
from keras.layers import Dense

from bert4keras.backend import K, keras
from bert4keras.generation import Generator
from bert4keras.layers import Lambda, Loss
from bert4keras.models import Model, build_transformer_model
from bert4keras.optimizers import Adam, extend_with_piecewise_linear_lr
from bert4keras.snippets import AutoRegressiveDecoder, DataGenerator, sequence_padding
from bert4keras.tokenizers import Tokenizer, load_vocab

pytestmark = pytest.mark.backend

TEXTS = [("春江潮水连海平", "海上明月"), ("何处春江无月明", "江月"), ("月", "明")] * 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint as people download it: config, weights, vocabulary."""
    folder = tmp_path_factory.mktemp("chinese_L-1_H-16_A-2")
    characters = sorted({c for pair in TEXTS for text in pair for c in text})
    tokens = ["[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, "a"]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    config = {
        "vocab_size": len(tokens),
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "hidden_act": "gelu",
        "max_position_embeddings": 32,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
    }
    (folder / "bert_config.json").write_text(json.dumps(config))
    keras.utils.set_random_seed(0)
    build_transformer_model(
        folder / "bert_config.json", with_mlm=True, return_keras_model=False
    ).save_weights_as_checkpoint(folder / "bert_model.ckpt")
    return folder


class TitleGenerator(DataGenerator):
    tokenizer: Tokenizer

    def __iter__(self, random=False):
        batch_token_ids, batch_segment_ids = [], []
        for is_end, (content, title) in self.sample(random):
            token_ids, segment_ids = self.tokenizer.encode(content, title, maxlen=16)
            batch_token_ids.append(token_ids)
            batch_segment_ids.append(segment_ids)
            if len(batch_token_ids) == self.batch_size or is_end:
                batch_token_ids = sequence_padding(batch_token_ids)
                batch_segment_ids = sequence_padding(batch_segment_ids)
                yield [batch_token_ids, batch_segment_ids], None
                batch_token_ids, batch_segment_ids = [], []


class CrossEntropy(Loss):
    def compute_loss(self, inputs, mask=None):
        y_true, y_mask, y_pred = inputs
        y_true = y_true[:, 1:]
        y_mask = K.cast(mask[2], K.floatx())[:, 1:] * y_mask[:, 1:]
        y_pred = y_pred[:, :-1]
        loss = K.sparse_categorical_crossentropy(y_true, y_pred)
        return K.sum(loss * y_mask) / K.sum(y_mask)


def test_a_seq2seq_script(folder, tmp_path):
    token_dict, keep_tokens = load_vocab(
        dict_path=folder / "vocab.txt",
        simplified=True,
        startswith=["[PAD]", "[UNK]", "[CLS]", "[SEP]"],
    )
    assert len(keep_tokens) < len(load_vocab(folder / "vocab.txt"))
    TitleGenerator.tokenizer = Tokenizer(token_dict, do_lower_case=True)
    model = build_transformer_model(
        str(folder / "bert_config.json"),
        str(folder / "bert_model.ckpt"),
        application="unilm",
        keep_tokens=keep_tokens,
    )
    unilm = model
    output = CrossEntropy(2)(model.inputs + model.outputs)
    model = Model(model.inputs, output)
    AdamLR = extend_with_piecewise_linear_lr(Adam, name="AdamLR")
    model.compile(optimizer=AdamLR(learning_rate=0.02, lr_schedule={5: 1, 60: 0.1}))

    class Evaluator(keras.callbacks.Callback):
        lowest = 1e10

        def on_epoch_end(self, epoch, logs=None):
            if logs["loss"] <= self.lowest:
                self.lowest = logs["loss"]
                model.save_weights(str(tmp_path / "best_model.weights"))

    generator = TitleGenerator(TEXTS, 4)
    history = model.fit(
        generator.forfit(),
        steps_per_epoch=len(generator),
        epochs=12,
        callbacks=[Evaluator()],
        verbose=0,
    )
    losses = history.history["loss"]
    assert losses[-1] < 0.5 * losses[0]
    model.load_weights(str(tmp_path / "best_model.weights"))
    tokenizer = TitleGenerator.tokenizer
    token_ids, segment_ids = tokenizer.encode("春江", "月")
    probabilities = model.predict([[token_ids], [segment_ids]], verbose=0)
    assert probabilities.shape == (1, len(token_ids), len(keep_tokens))

    class AutoTitle(AutoRegressiveDecoder):
        @AutoRegressiveDecoder.wraps(default_rtype="probas")
        def predict(self, inputs, output_ids, states):
            token_ids, segment_ids = inputs
            token_ids = np.concatenate([token_ids, output_ids], 1)
            segment_ids = np.concatenate([segment_ids, np.ones_like(output_ids)], 1)
            probas = self.last_token(model).predict([token_ids, segment_ids])
            probas[:, 0] = 0
            return probas

        def generate(self, text, topk=1):
            token_ids, segment_ids = tokenizer.encode(text, maxlen=16)
            output_ids = self.beam_search([token_ids, segment_ids], topk=topk)
            return tokenizer.decode(output_ids)

    autotitle = AutoTitle(start_id=None, end_id=tokenizer._token_end_id, maxlen=8)
    texts, titles = zip(*TEXTS[:3], strict=True)
    written = [autotitle.generate(text, topk=3) for text in texts]
    assert written == list(titles)
    # The same by what goes beyond the original: on the model that shares its weights.
    assert Generator(unilm, tokenizer, maxlen=8).generate(texts, topk=3) == written


def test_a_classification_script(folder):
    tokenizer = Tokenizer(str(folder / "vocab.txt"), do_lower_case=True)
    bert = build_transformer_model(
        config_path=str(folder / "bert_config.json"),
        checkpoint_path=str(folder / "bert_model.ckpt"),
        model="bert",
        return_keras_model=False,
    )
    assert K.int_shape(bert.model.output)[-1] == 16
    output = keras.layers.GlobalAveragePooling1D()(bert.model.output)
    output = Dense(2, activation="softmax", kernel_initializer=bert.initializer)(output)
    model = keras.models.Model(bert.model.input, output)
    model.compile(
        loss="sparse_categorical_crossentropy", optimizer=Adam(0.01), metrics=["accuracy"]
    )

    class Labelled(DataGenerator):
        def __iter__(self, random=False):
            batch_token_ids, batch_segment_ids, batch_labels = [], [], []
            for is_end, (text, _) in self.sample(random):
                token_ids, segment_ids = tokenizer.encode(text, maxlen=16)
                batch_token_ids.append(token_ids)
                batch_segment_ids.append(segment_ids)
                batch_labels.append([int("江" in text)])
                if len(batch_token_ids) == self.batch_size or is_end:
                    batch = [sequence_padding(x) for x in (batch_token_ids, batch_segment_ids)]
                    yield batch, sequence_padding(batch_labels)
                    batch_token_ids, batch_segment_ids, batch_labels = [], [], []

    generator = Labelled(TEXTS, 8)
    history = model.fit(generator.forfit(), steps_per_epoch=len(generator), epochs=10, verbose=0)
    assert history.history["accuracy"][-1] > 0.95
    right = 0
    for x_true, y_true in generator:
        scores = np.asarray(model.predict_on_batch(x_true))
        right += int((scores.argmax(axis=1) == y_true[:, 0]).sum())
    assert right == len(TEXTS)


def test_a_script_whose_model_outputs_its_loss():
    """As in pretraining: the outputs are scalars, and the targets zeros that nothing reads."""
    keras.utils.set_random_seed(0)
    token_ids, is_masked = keras.Input((None,), dtype="int32"), keras.Input((None,))
    proba = keras.layers.Dense(9)(keras.layers.Embedding(9, 8)(token_ids))

    def mlm_loss(inputs):
        y_true, y_pred, mask = inputs
        loss = K.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)
        return K.sum(loss * mask) / (K.sum(mask) + K.epsilon())

    def mlm_acc(inputs):
        y_true, y_pred, mask = inputs
        acc = keras.metrics.sparse_categorical_accuracy(y_true, y_pred)
        return K.sum(acc * mask) / (K.sum(mask) + K.epsilon())

    inputs = [token_ids, proba, is_masked]
    outputs = [Lambda(f, name=f.__name__)(inputs) for f in (mlm_loss, mlm_acc)]
    model = Model([token_ids, is_masked], outputs)
    model.compile(
        loss={
            "mlm_loss": lambda y_true, y_pred: y_pred,
            "mlm_acc": lambda y_true, y_pred: K.stop_gradient(y_pred),
        },
        optimizer=keras.optimizers.SGD(1.0),
        metrics={"mlm_acc": lambda y_true, y_pred: y_pred * 2},
    )
    x = [np.arange(48).reshape(8, 6) % 9, np.ones((8, 6))]
    zeros = {"mlm_loss": np.zeros((8, 1)), "mlm_acc": np.zeros((8, 1))}
    first = model.fit(x, zeros, batch_size=4, epochs=20, verbose=0).history

    def batches():
        while True:
            yield [a[:4] for a in x], {name: zero[:4] for name, zero in zeros.items()}

    history = model.fit(batches(), steps_per_epoch=2, epochs=2, verbose=0).history
    assert history["mlm_loss_loss"][-1] < 0.5 * first["mlm_loss_loss"][0]
    assert history["loss"] == pytest.approx(
        [sum(pair) for pair in zip(history["mlm_loss_loss"], history["mlm_acc_loss"], strict=True)]
    )
    results = model.evaluate(x, zeros, verbose=0, return_dict=True)
    assert results["mlm_acc_lambda"] == pytest.approx(2 * results["mlm_acc_loss"])
    # Each sample has the loss of its batch.
    losses, accuracies = model.predict(x, batch_size=8, verbose=0)
    assert losses.shape == accuracies.shape == (8,)
    assert losses == pytest.approx(np.full(8, results["mlm_loss_loss"]), rel=1e-5)


def test_a_metric_of_integer_labels():
    """A function of one's own computes with labels as the loss does, where Keras makes floats."""
    x = keras.Input((3,))
    model = Model(x, x)

    def f1(y_true, y_pred):
        y_pred = K.cast(K.greater(y_pred, 0), K.floatx())
        return 2 * K.sum(y_true * y_pred) / K.sum(y_true + y_pred)

    model.compile(loss=lambda y_true, y_pred: y_true * y_pred, metrics=[f1])
    labels = np.array([[1, 0, 1], [0, 1, 0]])
    scores = np.array([[1.0, 1.0, -1.0], [-1.0, 1.0, -1.0]])
    assert model.evaluate(scores, labels, verbose=0) == pytest.approx([1 / 6, 2 / 3])
