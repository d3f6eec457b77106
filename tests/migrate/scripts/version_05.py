#! -*- coding: utf-8 -*-
# 0.2到0.7时代的写法：build_bert_model、add_loss、max_length……

import json
import numpy as np
from bert4keras.backend import keras, set_gelu, K
from bert4keras.bert import build_bert_model
from bert4keras.tokenizer import Tokenizer, load_vocab
from bert4keras.utils import parallel_apply
from bert4keras.optimizers import Adam
from bert4keras.train import PiecewiseLinearLearningRate, GradientAccumulation
from bert4keras.snippets import sequence_padding, get_all_attributes, groupby
from bert4keras.snippets import AutoRegressiveDecoder

locals().update(get_all_attributes(keras.layers))  # from keras.layers import *
set_gelu('tanh')

tokens = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]'] + list(u'今天气很好出门走')
with open('vocab.txt', 'w', encoding='utf-8') as f:
    f.write(u'\n'.join(tokens))
with open('config.json', 'w') as f:
    json.dump({
        'vocab_size': len(tokens), 'hidden_size': 8, 'num_hidden_layers': 1,
        'num_attention_heads': 2, 'intermediate_size': 16, 'hidden_act': 'gelu',
        'hidden_dropout_prob': 0.1, 'max_position_embeddings': 32, 'embedding_size': 4,
    }, f)

tokenizer = Tokenizer(load_vocab('vocab.txt'), case_sensitive=False)
assert tokenizer._token_cls_id == 2 and tokenizer._token_sep_id == 3
assert tokenizer.tokenize(u'很好', add_cls=False, add_sep=False) == [u'很', u'好']
first, second = tokenizer.tokenize(u'今天'), tokenizer.tokenize(u'天气很好', add_cls=False)
tokenizer.truncate_sequence(7, first, second, -2)
assert len(first) + len(second) == 7

data = [(u'今天天气很好', u'天气'), (u'出门走走', u'出门')] * 4


def data_generator():
    while True:
        X, S = [], []
        for content, title in data:
            x, s = tokenizer.encode(content, title, max_length=12)
            X.append(x)
            S.append(s)
            if len(X) == 4:
                X, S = sequence_padding(X, padding=0), sequence_padding(S)
                yield [X, S], None
                X, S = [], []


model = build_bert_model(
    config_path='config.json',
    checkpoint_file=None,
    seq2seq=True,
    keep_words=None,
    albert=False,
)
middle = model.get_layer('Encoder-1-FeedForward-Norm').get_output_at(0)
assert K.int_shape(middle)[-1] == 8 and middle._keras_shape[-1] == 8

# 第二段的每个词由前一个位置预测
target, weight = [x[:, 1:] for x in model.input]
weight = K.cast(weight, K.floatx())
surprise = K.sparse_categorical_crossentropy(target, model.output[:, :-1])
second_loss = K.sum(weight * surprise) / K.sum(weight)

model.add_loss(second_loss)
model.compile(optimizer=PiecewiseLinearLearningRate(Adam(1e-3), {2: 1, 8: 0.1}))


class AutoTitle(AutoRegressiveDecoder):
    @AutoRegressiveDecoder.set_rtype('probas')
    def predict(self, inputs, output_ids, step):
        token_ids, segment_ids = inputs
        token_ids = np.concatenate([token_ids, output_ids], 1)
        segment_ids = np.concatenate([segment_ids, np.ones_like(output_ids)], 1)
        return model.predict([token_ids, segment_ids])[:, -1]

    def generate(self, text, topk=1):
        token_ids, segment_ids = tokenizer.encode(text, max_length=8)
        return tokenizer.decode(self.beam_search([token_ids, segment_ids], topk))


class Evaluate(keras.callbacks.Callback):
    def __init__(self):
        self.lowest = 1e10

    def on_epoch_end(self, epoch, logs=None):
        if logs['loss'] <= self.lowest:
            self.lowest = logs['loss']
            model.save_weights('./best_model.weights')


model.fit_generator(data_generator(), 2, 2, callbacks=[Evaluate()])
model.load_weights('./best_model.weights')
autotitle = AutoTitle(None, tokenizer._token_sep_id, 4)
print(autotitle.generate(u'今天天气很好'))

# 分类，梯度累积
bert = build_bert_model('config.json', albert=True, with_pool=True)
output = Dropout(0.1)(bert.output)
output = Dense(1, activation='sigmoid')(output)
classifier = keras.models.Model(bert.inputs, output)
classifier.compile(
    'adam' if False else GradientAccumulation(Adam(1e-3), steps_per_update=2),
    'binary_crossentropy',
    metrics=['accuracy']
)
x, s = next(data_generator())[0]
history = classifier.fit(x=[x, s], y=np.ones(4), epochs=2)
assert 'acc' in history.history and len(groupby([1, 1, 2])) == 2
assert parallel_apply(len, [u'一'], 1, 4, dummy=True) == [1]
