#! -*- coding: utf-8 -*-
# 自己写的层，和bert4keras自带的层（0.11.5）

from bert4keras.layers import *
from bert4keras.backend import align, attention_normalize, symbolic, do_recompute
from bert4keras.backend import dtype, where, flatten, reshape, batch_gather, pool1d
from bert4keras.backend import divisible_temporal_padding, root_mean_square, piecewise_linear
from bert4keras.backend import sinusoidal_embeddings, apply_rotary_position_embeddings
from bert4keras.backend import gelu_erf, gelu_tanh, swish, leaky_relu, Sinusoidal
from bert4keras.backend import get_available_gpus, custom_objects
from bert4keras.layers import custom_objects as layer_objects


class Gate(Layer):
    """带可训练门控的残差
    """
    @integerize_shape
    def build(self, input_shape):
        super(Gate, self).build(input_shape)
        dim = input_shape[0][-1]
        self.kernel = self.add_weight('kernel', (dim, dim), initializer='zeros')
        self.bias = self.add_weight(name='bias', shape=(dim,), initializer=initializers.get('ones'))

    @recompute_grad
    def call(self, inputs, mask=None):
        x, y = inputs
        g = activations.get('sigmoid')(K.dot(x, self.kernel) + self.bias)
        if mask is not None and mask[0] is not None:
            g = sequence_masking(g, mask[0], 0, 1)
        return x * g + y * (1 - g)

    def compute_mask(self, inputs, mask=None):
        return mask[0] if mask else None

    def compute_output_shape(self, input_shape):
        return input_shape[0]


@symbolic
def norm(x):
    return root_mean_square(x, axis=-1, keepdims=True)


x_in = Input(shape=(None,))
x = Embedding(20, 8, mask_zero=True, name='Words')(x_in)
p = PositionEmbedding(32, 8, merge_mode='add')(x)
p = SinusoidalPositionEmbedding(8, merge_mode='add')(p)
bias = RelativePositionEmbedding(9, 4)([p, p])
t5_bias = RelativePositionEmbeddingT5(8, 2)([p, p])
a = MultiHeadAttention(heads=2, head_size=4)([p, p, p])
u = GatedAttentionUnit(units=16, key_size=8)(p)
f = FeedForward(units=16, activation='gelu')(LayerNormalization()(Add()([a, u])))
f = ScaleOffset()(f)
f = Gate(name='Gate')([f, p])
f = Concatenate1D()([f, p])
first, second = BatchSplit(parts=2)(f)
f = BatchConcat()([first, second])
mean, highest = GlobalAveragePooling1D()(f), GlobalMaxPooling1D()(f)
output = Dense(1, activation='sigmoid')(Concatenate()([mean, highest]))
model = keras.models.Model(x_in, [output, bias, t5_bias])

data = np.random.randint(1, 20, (4, 6))
outputs = model.predict(data)
assert outputs[0].shape == (4, 1) and np.isfinite(outputs[0]).all()
assert model.get_layer('Words').output_shape[-1] == 8
assert not is_tf_keras or tf is not None

h = K.constant(np.random.randn(2, 3, 4))
assert dtype(h) == 'float32' and K.int_shape(align(h, [0, 1, 3])) == (2, 3, 1, 4)
assert K.int_shape(flatten(h, 1)) == (2, 12) and K.int_shape(reshape(h, (2, 2), 2)) == (2, 3, 2, 2)
assert K.eval(where(h > 0, h, 0 * h)).min() >= 0
assert K.int_shape(batch_gather(h, K.constant([[0], [2]], dtype='int32'))) == (2, 1, 4)
assert K.int_shape(pool1d(h, 2, 2, 'same')) == (2, 2, 4)
assert K.int_shape(divisible_temporal_padding(h, 2)) == (2, 4, 4)
assert K.int_shape(norm(h)) == (2, 3, 1)
assert abs(K.eval(piecewise_linear(5, {10: 1})) - 0.5) < 1e-6
positions = sinusoidal_embeddings(K.arange(0, 3, dtype='float32'), 4)
assert K.int_shape(apply_rotary_position_embeddings(positions[None], h)) == (2, 3, 4)
assert K.int_shape(Sinusoidal()((3, 4))) == (3, 4)
for activation in [gelu_erf, gelu_tanh, swish, leaky_relu]:
    assert K.int_shape(activation(h)) == (2, 3, 4)
masked = h - K.infinity() * K.cast(h < 0, K.floatx())
assert np.isfinite(K.eval(attention_normalize(masked, method='softmax'))).all()
K.set_infinity(1e6)
assert get_available_gpus() == [] or do_recompute is not None

model.save('own_layers.h5')
objects = dict(custom_objects, Gate=Gate, **layer_objects)
model = keras.models.load_model('own_layers.h5', custom_objects=objects)
assert np.abs(model.predict(data)[0] - outputs[0]).max() < 1e-5
