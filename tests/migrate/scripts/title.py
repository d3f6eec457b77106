#! -*- coding: utf-8 -*-
# 用seq2seq的方式写标题（0.11.5）

from __future__ import print_function
import json
import numpy as np
from bert4keras.backend import keras, K
from bert4keras.layers import Loss
from bert4keras.models import build_transformer_model
from bert4keras.tokenizers import Tokenizer, load_vocab, save_vocab
from bert4keras.optimizers import Adam
from bert4keras.snippets import sequence_padding, open, to_array, text_segmentate
from bert4keras.snippets import DataGenerator, AutoRegressiveDecoder
from bert4keras.snippets import uniout
from keras.models import Model
from keras.utils import to_categorical

maxlen = 16
words = ['[PAD]', '[unused1]', '[UNK]', '[CLS]', '[SEP]', '[MASK]'] + list(u'今天气很好出门走')
save_vocab('vocab.txt', {w: i for i, w in enumerate(words)})
json.dump({
    'vocab_size': len(words), 'hidden_size': 8, 'num_hidden_layers': 1,
    'num_attention_heads': 2, 'intermediate_size': 16, 'hidden_act': 'gelu',
}, open('config.json', 'w').file)

# 词表里只留用得上的
token_dict, keep_tokens = load_vocab(
    dict_path='vocab.txt',
    simplified=True,
    startswith=['[PAD]', '[UNK]', '[CLS]', '[SEP]'],
)
tokenizer = Tokenizer(token_dict, do_lower_case=True)
data = [(u'今天天气很好', u'天气'), (u'出门走走', u'出门')] * 4


class PairBatches(DataGenerator):
    def __iter__(self, random=False):
        rows = []
        for last, pair in self.sample(random):
            rows.append(tokenizer.encode(*pair, maxlen=maxlen))
            if last or len(rows) == self.batch_size:
                yield [sequence_padding(column) for column in zip(*rows)], None
                rows = []


class TitleLoss(Loss):
    # 只算第二段：segment为1的词，由它前一个位置预测
    def compute_loss(self, inputs, mask=None):
        tokens, segments, probas = inputs
        target, weight = tokens[:, 1:], K.cast(segments[:, 1:], K.floatx())
        probas = probas[:, :-1]

        def mean(x):
            return K.sum(weight * x) / K.sum(weight)

        hit = keras.metrics.sparse_categorical_accuracy(target, probas)
        self.add_metric(mean(hit), name='accuracy')
        return mean(K.sparse_categorical_crossentropy(target, probas))


model = build_transformer_model(
    'config.json',
    None,
    application='unilm',
    keep_tokens=keep_tokens,
)
output = TitleLoss(2)(model.inputs + model.outputs)
model = Model(model.inputs, output)
model.compile(optimizer=Adam(1e-3))


class TitleWriter(AutoRegressiveDecoder):
    @AutoRegressiveDecoder.wraps(default_rtype='probas')
    def predict(self, inputs, output_ids, states):
        tails = [output_ids, np.ones_like(output_ids)]
        whole = [np.concatenate(both, axis=1) for both in zip(inputs, tails)]
        return self.last_token(model).predict(whole)

    def write(self, text, topk=2):
        prompt = tokenizer.encode(text, maxlen=maxlen - self.maxlen)
        drawn = self.random_sample(prompt, 2, topp=0.9)
        return tokenizer.decode(self.beam_search(prompt, topk=topk)), len(drawn)


writer = TitleWriter(start_id=None, end_id=tokenizer._token_end_id, maxlen=4)
train_generator = PairBatches(data, 4)
history = model.fit(
    train_generator.forfit(), steps_per_epoch=len(train_generator), epochs=2, workers=1
)
assert 'accuracy' in history.history
print(writer.write(u'今天天气很好'))
assert model.predict(to_array([[2, 5, 3]], [[0, 0, 1]])).shape == (1, 3, len(keep_tokens))
assert to_categorical([0, 1], 2).shape == (2, 2)
assert text_segmentate(u'今天。明天', 3, u'。') == [u'今天。', u'明天']
