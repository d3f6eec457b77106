#! -*- coding:utf-8 -*-
# 序列标注：CRF、MEMM、GlobalPointer（0.11.5）

import numpy as np
import keras
import keras.backend as K
from keras.layers import Input, Dense, Embedding, Bidirectional, CuDNNLSTM, CuDNNGRU, LeakyReLU
from keras.models import Model
from keras.layers.merge import add
from bert4keras.backend import multilabel_categorical_crossentropy
from bert4keras.backend import sparse_multilabel_categorical_crossentropy
from bert4keras.layers import ConditionalRandomField, MaximumEntropyMarkovModel
from bert4keras.layers import GlobalPointer, EfficientGlobalPointer
from bert4keras.optimizers import Adam, extend_with_gradient_accumulation
from bert4keras.snippets import ViterbiDecoder

num_labels = 5
x = np.random.randint(1, 20, (8, 6))
y = np.random.randint(0, num_labels, (8, 6))

x_in = Input(shape=(None,))
e = Embedding(20, 8, mask_zero=True, input_length=None)(x_in)
h = add([Bidirectional(CuDNNLSTM(4, return_sequences=True))(e), CuDNNGRU(8, return_sequences=True)(e)])
h = LeakyReLU(alpha=0.1)(h)
scores = Dense(num_labels)(h)

CRF = ConditionalRandomField(lr_multiplier=10)
model = Model(x_in, CRF(scores))
AdamGA = extend_with_gradient_accumulation(Adam, name='AdamGA')
model.compile(
    loss=CRF.sparse_loss,
    optimizer=AdamGA(1e-3, grad_accum_steps=2),
    metrics=[CRF.sparse_accuracy]
)
model.fit(x, y, epochs=2, batch_size=4)


class Tagger(ViterbiDecoder):
    def tags(self, token_ids):
        return self.decode(model.predict([token_ids])[0])


tagger = Tagger(trans=K.eval(CRF.trans), starts=[0], ends=[0])
assert len(tagger.tags([3, 4, 5, 6])) == 4

MEMM = MaximumEntropyMarkovModel(lr_multiplier=1, hidden_dim=4)
model = Model(x_in, MEMM(Dense(num_labels)(e)))
model.compile(loss=MEMM.sparse_loss, optimizer=keras.optimizers.Adam(lr=1e-3, decay=1e-4))
model.fit(x, y, epochs=1, batch_size=4)


def span_loss(y_true, y_pred):
    # 每类的所有片段放在一起，算一次多标签交叉熵
    rows = K.prod(K.shape(y_pred)[:2])
    flat = [K.reshape(y, (rows, -1)) for y in (y_true, y_pred)]
    return K.mean(multilabel_categorical_crossentropy(*flat))


spans = np.zeros((8, 2, 6, 6))
spans[:, 0, 1, 2] = 1
for pointer in [GlobalPointer(2, 4), EfficientGlobalPointer(2, 4)]:
    model = Model(inputs=x_in, outputs=pointer(e))
    model.compile(loss=span_loss, optimizer=Adam(1e-3))
    model.fit(x, spans, epochs=1, batch_size=4)


def sparse_crossentropy(y_true, y_pred):
    return K.mean(sparse_multilabel_categorical_crossentropy(y_true, y_pred, mask_zero=True))


model = Model(input=x_in, output=Dense(num_labels)(e))
model.compile(loss=sparse_crossentropy, optimizer='adam')
model.fit(x, np.random.randint(0, num_labels, (8, 6, 2)), epochs=1)
assert keras.backend.int_shape(model.output)[-1] == num_labels
