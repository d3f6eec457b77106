#! -*- coding: utf-8 -*-
# 文本与数据的小工具（0.11.5）

from bert4keras.snippets import *
from bert4keras.snippets import basestring, is_py2, open
from bert4keras.tokenizers import TokenizerBase, Tokenizer, SpTokenizer, save_vocab, load_vocab

text = u'　Ｂert 很好用，你说呢？我说是的。'
assert isinstance(text, basestring) and is_string(text) and not is_py2
text = convert_to_unicode(convert_to_str(strQ2B(text).strip()))
assert lowercase_and_normalize(text).startswith(u'bert')
assert string_matching(text, [u'很.用'])
assert text_segmentate(text, 10, u'，。') and softmax(np.zeros(2)).tolist() == [0.5, 0.5]

with open('lines.txt', 'w', encoding='utf-8') as f:
    for i in range(4):
        f.write(u'第%d行\n' % i)
lines = open('lines.txt', encoding='utf-8', indexable=True)
assert len(lines) == 4 and lines[2].strip() == u'第2行'

tokens = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'bert', '##ology'] + sorted(set(text))
save_vocab('vocab.txt', {t: i for i, t in enumerate(tokens)})
tokenizer = Tokenizer(load_vocab('vocab.txt'), do_lower_case=True)
assert isinstance(tokenizer, TokenizerBase) and issubclass(SpTokenizer, TokenizerBase)
pieces = tokenizer.tokenize(text)
mapping = tokenizer.rematch(text, pieces)
assert pieces[1] == 'bert' and len(mapping) == len(pieces)
first, second = tokenizer.tokenize(u'很好'), tokenizer.tokenize(u'好用')
truncate_sequences(6, -2, first, second)
assert len(first) + len(second) == 6
token_ids, segment_ids = tokenizer.encode(u'很好', u'好用', maxlen=6, truncate_from='left')
assert sequence_padding([token_ids, [1]], length=8, value=0, mode='pre').shape == (2, 8)
assert [a.shape for a in to_array([token_ids], [segment_ids])] == [(1, 6)] * 2

assert sorted(parallel_apply(lambda n: n * 2, range(4), 2, 8, dummy=True)) == [0, 2, 4, 6]
assert dict(parallel_apply_generator(len, [u'一', u'一二'], 2, 8, dummy=True)) == {0: 1, 1: 2}
assert longest_common_substring(u'很好用', u'好用吗')[0] == 2
assert longest_common_subsequence(u'很好用', u'很用')[0] == 2
assert orthogonally_resize(np.eye(4), (8, 8)).shape == (8, 8)
assert is_one_of(tokenizer, [text, tokenizer])
assert [(k, len(v)) for k, v in groupby([u'a', u'a', u'b'])] == [(u'a', 2), (u'b', 1)]
assert json.loads('[1]') == [1] and re.sub('a', 'b', 'a') == 'b'


class Doubles(DataGenerator):
    def __iter__(self, random=False):
        for is_end, d in self.sample(random):
            yield [d], None


assert [d[0] for d, _ in Doubles([1, 2, 3])] == [1, 2, 3]


class Copy(AutoRegressiveDecoder):
    @AutoRegressiveDecoder.wraps(default_rtype='logits', use_states=True)
    def predict(self, inputs, output_ids, states):
        scores = np.full((len(output_ids), 4), -9.)
        scores[:, (inputs[0][:, 0] + output_ids.shape[1]) % 4] = 9.
        return scores, (states or 0) + 1


assert Copy(start_id=None, end_id=3, maxlen=5).beam_search([[1]], topk=2).tolist() == [1, 2, 3]
assert ViterbiDecoder(np.zeros((2, 2))).decode(np.eye(2)).tolist() == [0, 1]


def similarity(text, n=1):
    return [text] * n


web = WebServing(port=8864)
web.route('/similarity', similarity, {'text': (None, True), 'n': (int, False)})
