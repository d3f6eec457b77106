#! -*- coding: utf-8 -*-
# TF_KERAS=1，以及直接用TensorFlow 1.x和Keras后端的写法（0.11.5）

import os
os.environ['TF_KERAS'] = '1'  # 必须使用tf.keras

import numpy as np
import tensorflow as tf
from tensorflow.keras import backend as K
from tensorflow.keras.backend import set_session
from tensorflow.keras.callbacks import ModelCheckpoint
from tensorflow.keras.layers import Input, Dense
from tensorflow.keras.models import Model, load_model
from tensorflow.python.keras.utils import to_categorical
from keras.utils import multi_gpu_model
from bert4keras.models import build_transformer_model, data_parallel
from bert4keras.optimizers import AdaFactor

config = tf.ConfigProto()
config.gpu_options.allow_growth = True
set_session(tf.Session(config=config))
tf.set_random_seed(1)

x = [np.random.randint(1, 20, (8, 5)), np.zeros((8, 5))]
y = to_categorical(np.random.randint(0, 2, 8), 2)


def train():
    bert = build_transformer_model(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, hidden_act='gelu', max_position=16, with_pool='linear'
    )
    shared = Dense(8, name='Shared')
    first = shared(bert.output)
    second = shared(tf.keras.layers.Activation('tanh')(bert.output))
    assert shared.get_output_at(1) is second and shared.get_input_at(0) is bert.output
    output = Dense(2, activation='softmax')(tf.keras.layers.add([first, second]))
    model = Model(bert.inputs, output)
    parallel_model = data_parallel(model)
    parallel_model = multi_gpu_model(model, gpus=2)
    parallel_model.compile(
        AdaFactor(learning_rate=1e-3), 'categorical_crossentropy', ['accuracy'],
        sample_weight_mode=None
    )
    checkpoint = ModelCheckpoint('best.hdf5', monitor='loss', save_best_only=True)
    parallel_model.fit(x, y, batch_size=8, epochs=1, callbacks=[checkpoint])
    return model, first


model, first = train()
best = load_model('best.hdf5')
assert np.allclose(best.predict(x), model.predict(x), atol=1e-5)

get_hidden = K.function(model.inputs + [K.learning_phase()], [first])
hidden = get_hidden(x + [0])[0]
assert hidden.shape == (8, 8)
logs = tf.log(tf.constant([1., 2.]))
lower = tf.matrix_band_part(tf.ones((3, 3)), -1, 0)
assert K.eval(lower).sum() == 6. and K.eval(logs)[0] == 0.
assert K.get_value(K.variable(3.)) == 3. and tf.keras.backend.floatx() == 'float32'
