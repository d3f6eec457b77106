#! -*- coding:utf-8 -*-
# 情感分类（0.11.5）

import json
import numpy as np
from bert4keras.backend import keras, set_gelu, K
from bert4keras.tokenizers import Tokenizer
from bert4keras.models import build_transformer_model
from bert4keras.optimizers import Adam, extend_with_piecewise_linear_lr
from bert4keras.snippets import sequence_padding, DataGenerator
from bert4keras.snippets import open
from keras.layers import Lambda, Dense, GlobalMaxPooling1D, concatenate
from keras.callbacks import ModelCheckpoint
from keras.models import load_model

set_gelu('tanh')  # 切换gelu版本

maxlen = 16
batch_size = 4
config_path = 'config.json'
dict_path = 'vocab.txt'

tokens = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]'] + list(u'好坏很书饭店太')
with open(dict_path, 'w', encoding='utf-8') as f:
    f.write(u'\n'.join(tokens))
config = {
    'vocab_size': len(tokens), 'hidden_size': 8, 'num_hidden_layers': 1,
    'num_attention_heads': 2, 'intermediate_size': 16, 'hidden_act': 'gelu',
    'hidden_dropout_prob': 0.1, 'attention_probs_dropout_prob': 0.1,
    'max_position_embeddings': 32, 'type_vocab_size': 2,
}
json.dump(config, open(config_path, 'w').file)

train_data = [(u'书很好', 1), (u'饭店太坏', 0)] * 6
valid_data = [(u'饭店很好', 1), (u'书坏', 0)] * 2

tokenizer = Tokenizer(dict_path, do_lower_case=True)


class ReviewBatches(DataGenerator):
    # 每批：([token, segment], 标签)
    def __iter__(self, random=False):
        rows = []
        for last, (text, label) in self.sample(random):
            rows.append(tokenizer.encode(text, maxlen=maxlen) + ([label],))
            if last or len(rows) == self.batch_size:
                ids, segments, labels = [sequence_padding(column) for column in zip(*rows)]
                yield [ids, segments], labels
                rows = []


train_generator = ReviewBatches(train_data, batch_size)
valid_generator = ReviewBatches(valid_data, batch_size)

bert = build_transformer_model(
    config_path=config_path,
    checkpoint_path=None,
    return_keras_model=False,
)
first = Lambda(lambda x: x[:, 0], name='CLS-token')(bert.model.output)
highest = GlobalMaxPooling1D()(bert.model.output)
output = Dense(
    units=2,
    activation='softmax',
    kernel_initializer=bert.initializer
)(concatenate([first, highest]))

model = keras.models.Model(bert.model.input, output)
AdamLR = extend_with_piecewise_linear_lr(Adam, name='AdamLR')
model.compile(
    loss='sparse_categorical_crossentropy',
    optimizer=AdamLR(lr=1e-2, lr_schedule={5: 1, 10: 0.1}),
    metrics=['accuracy'],
)


def accuracy_of(batches):
    hits = [model.predict(x).argmax(axis=1) == y[:, 0] for x, y in batches]
    return np.concatenate(hits).mean()


class KeepBest(keras.callbacks.Callback):
    best = -1.

    def on_epoch_end(self, epoch, logs=None):
        assert 'val_acc' in logs
        score = accuracy_of(valid_generator)
        if score > self.best:
            self.best = score
            model.save_weights('best_model.weights')


keep_best = KeepBest()
checkpoint = ModelCheckpoint(
    'last_model.weights', monitor='val_acc', save_weights_only=True, period=1
)
stopping = keras.callbacks.EarlyStopping(monitor='val_acc', patience=3)
model.fit_generator(
    train_generator.forfit(),
    steps_per_epoch=len(train_generator),
    epochs=2,
    validation_data=valid_generator.forfit(),
    validation_steps=len(valid_generator),
    callbacks=[keep_best, checkpoint, stopping],
    workers=2,
    use_multiprocessing=False
)
model.load_weights('best_model.weights')
before = accuracy_of(valid_generator)
model.load_weights('last_model.weights')

K.set_value(model.optimizer.lr, 1e-3)
assert abs(K.get_value(model.optimizer.lr) - 1e-3) < 1e-9
losses = model.evaluate_generator(valid_generator.forfit(), len(valid_generator))
assert len(model.evaluate(valid_generator.forfit(), steps=1, workers=1)) == len(losses)
probas = model.predict_generator(valid_generator.fortest(), steps=len(valid_generator), workers=1)
assert probas.shape == (len(valid_data), 2) and len(losses) == 2

token_ids, segment_ids = tokenizer.encode(u'书很好')
label = model.predict([[token_ids], [segment_ids]])[0].argmax()

features = keras.models.Model(bert.model.inputs, bert.model.output)
features.save('features.model')
features = load_model('features.model')
assert features.predict([np.array([token_ids]), np.array([segment_ids])]).shape[2] == 8
