#! -*- coding:utf-8 -*-
# 对抗训练、梯度惩罚、梯度归因：都要用到Keras 2内部的梯度（0.11.5）

import numpy as np
from bert4keras.backend import keras, search_layer, K, batch_gather
from bert4keras.models import build_transformer_model
from bert4keras.optimizers import Adam
from keras.layers import Lambda, Dense, Input, Layer
from keras.models import Model

x = [np.random.randint(1, 20, (8, 6)), np.zeros((8, 6))]
y = np.random.randint(0, 2, (8, 1))

bert = build_transformer_model(
    vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
    intermediate_size=16, hidden_act='gelu', max_position=16, return_keras_model=False,
)
output = Lambda(lambda x: x[:, 0])(bert.model.output)
output = Dense(2, activation='softmax', kernel_initializer=bert.initializer)(output)

model = keras.models.Model(bert.model.input, output)
model.compile(
    loss='sparse_categorical_crossentropy',
    optimizer=Adam(2e-5),
    metrics=['sparse_categorical_accuracy'],
)


def perturb_embedding(model, name, size):
    # 每一步先沿梯度方向挪动词向量，训练完再挪回来
    model._make_train_function()
    table = search_layer(model.output, name).embeddings
    slope = K.zeros_like(table) + K.gradients(model.total_loss, [table])[0]
    feeds = model._feed_inputs + model._feed_targets + model._feed_sample_weights
    slope_of = K.function(feeds, [slope])
    plain_step = model.train_function

    def perturbed_step(batch):
        g = slope_of(batch)[0]
        before = K.eval(table)
        K.set_value(table, before + size * g / (1e-8 + np.linalg.norm(g)))
        logs = plain_step(batch)
        K.set_value(table, K.eval(table) - size * g / (1e-8 + np.linalg.norm(g)))
        return logs

    model.train_function = perturbed_step


perturb_embedding(model, 'Embedding-Token', 0.5)
model.fit(x, y, batch_size=4, epochs=1)


def penalized(y_true, y_pred):
    # 损失加上词向量梯度平方和的一半
    plain = K.mean(K.sparse_categorical_crossentropy(y_true, y_pred))
    table = search_layer(y_pred, 'Embedding-Token').embeddings
    slope = K.gradients(plain, [table])[0].values
    return plain + K.sum(K.square(slope)) / 2


model.compile(
    loss=penalized,
    optimizer=Adam(2e-5),
    metrics=['sparse_categorical_accuracy'],
)
model.fit(x, y, batch_size=4, epochs=1)


class InputTimesGradient(Layer):
    def call(self, inputs):
        vectors, probas, label = inputs
        chosen = batch_gather(probas, K.cast(label, 'int32'))
        return vectors * K.gradients(chosen, [vectors])[0]


label_in = Input(shape=(1,))
embedded = model.get_layer('Embedding-Token').output
importance = InputTimesGradient()([embedded, model.output, label_in])
grad_model = Model(model.inputs + [label_in], importance)
scores = grad_model.predict(x + [y])
assert scores.shape == (8, 6, 8)
