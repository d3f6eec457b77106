#! -*- coding: utf-8 -*-
# 各种结构，以及继承它们来自定义（0.11.5）

from bert4keras.models import *
from bert4keras.models import T5_Base
from bert4keras.snippets import is_string, insert_arguments, delete_arguments

config = {
    'vocab_size': 20, 'hidden_size': 8, 'num_hidden_layers': 1, 'num_attention_heads': 2,
    'intermediate_size': 16, 'hidden_act': 'gelu', 'max_position': 16,
    'segment_vocab_size': 2, 'dropout_rate': 0.1,
}
token_ids = np.random.randint(1, 20, (2, 6))
segment_ids = np.zeros_like(token_ids)


def run(model):
    inputs = [token_ids] + [segment_ids] * (len(model.inputs) - 1)
    return model.predict(inputs if len(inputs) > 1 else token_ids)


for MODEL in [BERT, ALBERT, ALBERT_Unshared, NEZHA, RoFormer, RoFormerV2, ELECTRA]:
    options = {'embedding_size': 8} if MODEL in (ALBERT, ALBERT_Unshared, ELECTRA) else {}
    model = build_transformer_model(model=MODEL, **dict(config, **options))
    assert K.int_shape(model.output)[-1] == 8 and run(model).shape == (2, 6, 8)
for MODEL in [GPT, GPT2, GPT2_ML]:
    assert run(build_transformer_model(model=MODEL, **config)).shape == (2, 6, 20)
sizes = {k: v for k, v in config.items() if k not in ('max_position', 'segment_vocab_size')}
t5 = build_transformer_model(model='t5.1.1', **sizes)
assert t5.predict([token_ids, token_ids]).shape == (2, 6, 20)
assert run(build_transformer_model(model=T5_Encoder, **sizes)).shape == (2, 6, 8)
assert issubclass(T5, T5_Base) and issubclass(T5_Base, Transformer)
assert issubclass(T5_Decoder, LM_Mask)

LM = extend_with_language_model(BERT)
UniLM = extend_with_unified_language_model(RoFormer)
assert issubclass(LM, LM_Mask) and issubclass(UniLM, UniLM_Mask)
assert run(build_transformer_model(model=LM, **config)).shape == (2, 6, 20)
assert run(build_transformer_model(model='nezha', application='lm', **config)).shape == (2, 6, 20)


class DeepSegments(BERT):
    """每一层之前都加上segment的embedding
    """
    @insert_arguments(scale=1.0)
    @delete_arguments('with_pool', 'with_mlm')
    def __init__(self, **kwargs):
        super(DeepSegments, self).__init__(**kwargs)

    def apply_main_layers(self, inputs, index):
        s = self.apply(
            inputs=self.inputs[1],
            layer=Embedding,
            input_dim=2,
            output_dim=self.hidden_size,
            embeddings_initializer=self.initializer,
            name='Segment-Again'
        )
        x = self.apply(inputs=[inputs, s], layer=Add, name='Again-%d-Add' % index)
        return super(DeepSegments, self).apply_main_layers(x, index)


transformer = build_transformer_model(
    model=DeepSegments, scale=2.0, return_keras_model=False, **config
)
assert transformer.scale == 2.0 and is_string('bert')
output = Dense(2)(Lambda(lambda x: x[:, 0])(transformer.model.output))
model = Model(transformer.model.input, output)
model.compile(loss='mse', optimizer=keras.optimizers.SGD(lr=0.1, momentum=0.9, decay=0.))
model.fit([token_ids, segment_ids], np.zeros((2, 2)), epochs=1, verbose=0)
model.save_weights('model.weights')
model.load_weights('model.weights')

# 条件文本：Conditional Layer Normalization
c_in = Input(shape=(1,))
c = Reshape((4,))(Embedding(3, 4)(c_in))
lm = build_transformer_model(
    model='bert', application='lm', layer_norm_cond=c, additional_input_layers=c_in, **config
)
assert lm.predict([token_ids, segment_ids, np.array([[1], [2]])]).shape == (2, 6, 20)
