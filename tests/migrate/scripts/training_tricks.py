#! -*- coding: utf-8 -*-
# 优化器的各种扩展（0.11.5）

from bert4keras.optimizers import *
from bert4keras.backend import search_layer, is_tf_keras
from bert4keras.snippets import is_one_of
from keras.layers import Input, Dense, Embedding, GlobalAveragePooling1D
from keras.models import Sequential, Model
from keras.optimizers import Adam as KerasAdam, RMSprop
from keras.initializers import normal
from keras.losses import kullback_leibler_divergence

x = np.random.randint(0, 10, (8, 5))
y = np.eye(2)[np.random.randint(0, 2, 8)]


def train(optimizer, loss='kullback_leibler_divergence'):
    x_in = Input(shape=(None,))
    h = Embedding(10, 4, embeddings_initializer=normal(stddev=0.1), name='Words')(x_in)
    output = Dense(2, activation='softmax')(GlobalAveragePooling1D()(h))
    model = Model(x_in, output)
    model.compile(loss=loss, optimizer=optimizer)
    history = model.fit(x, y, epochs=2, batch_size=4, verbose=0)
    assert np.isfinite(history.history['loss']).all()
    return model


@export_to_custom_objects
def extend_with_name(BaseOptimizer):
    """什么都不改，只换个名字
    """
    class NewOptimizer(BaseOptimizer):
        pass

    return NewOptimizer


extensions = [
    (extend_with_weight_decay, {'weight_decay_rate': 0.01, 'exclude_from_weight_decay': ['bias']}),
    (extend_with_layer_adaptation, {'exclude_from_layer_adaptation': ['bias']}),
    (extend_with_piecewise_linear_lr, {'lr_schedule': {2: 1, 4: 0}}),
    (extend_with_gradient_accumulation, {'grad_accum_steps': 2}),
    (extend_with_lookahead, {'steps_per_slow_update': 2, 'slow_step_size': 0.5}),
    (extend_with_lazy_optimization, {'include_in_lazy_optimization': ['Words']}),
    (extend_with_exponential_moving_average, {'ema_momentum': 0.9}),
    (extend_with_parameter_wise_lr, {'paramwise_lr_schedule': {'bias': 2.0}}),
]
for extend, kwargs in extensions:
    NewAdam = extend(Adam)
    train(NewAdam(lr=1e-3, **kwargs))
    kwargs.pop('lr_schedule', None)
assert extend_with_weight_decay_v2 and extend_with_layer_adaptation_v2
assert extend_with_piecewise_linear_lr_v2 and extend_with_gradient_accumulation_v2
assert extend_with_lookahead_v2 and extend_with_lazy_optimization_v2
assert extend_with_exponential_moving_average_v2 and extend_with_parameter_wise_lr_v2

AdamW = extend_with_weight_decay(KerasAdam, name='AdamW')
AdamWLR = extend_with_piecewise_linear_lr(AdamW, name='AdamWLR')
model = train(AdamWLR(lr=1e-3, weight_decay_rate=0.01, lr_schedule={4: 1}))
train(extend_with_name(Adam)(learning_rate=1e-3))
for optimizer in [AdaFactor, AdaFactorV1, AdaFactorV2]:
    train(optimizer(learning_rate=1e-3, beta1=0.9))
    assert issubclass(optimizer, AdaFactorBase)
train(LionV2(learning_rate=1e-4), kullback_leibler_divergence)
train(Lion(1e-4), 'logcosh')
train(RMSprop(lr=1e-3, decay=1e-2), 'cosine_proximity')
assert is_one_of(Adam, custom_objects.values()) or not is_tf_keras
assert search_layer(model.output, 'Words', exclude_from=set()).name == 'Words'

EMA = extend_with_exponential_moving_average(Adam, name='EMA')
model = train(EMA(1e-3, ema_momentum=0.9))
model.optimizer.apply_ema_weights()
model.optimizer.reset_old_weights()

model = Sequential()
model.add(Dense(3, input_shape=(4,)))
model.compile('adam', 'mse')
model.fit(np.zeros((2, 4)), np.zeros((2, 3)), verbose=0)
