"""Words as tokens, for experiments that compare texts: the most frequent ones join a vocabulary.

A word starts as the mean of its characters (`compound_tokens`).
"""

import warnings
from collections import Counter
from collections.abc import Callable, Sequence

from common import need

from bert4keras.tokenizers import Tokenizer

N_WORDS = {True: 4000, False: 20_000}  # by --quick
MIN_COUNT = 5  # of a word


def load_jieba() -> Callable[[str], list[str]]:
    """A function that cuts a text into words. It says nothing on the way."""
    need("jieba")
    with warnings.catch_warnings():
        # Of pkg_resources, and of a file that it leaves open.
        warnings.simplefilter("ignore")
        import jieba

        jieba.setLogLevel("ERROR")
        jieba.initialize()
    return lambda text: jieba.lcut(text, HMM=False)


def frequent_words(texts: Sequence[str], cut: Callable, base: Tokenizer, n: int) -> list[str]:
    """The n most frequent words that the vocabulary lacks, but not their pieces."""
    counts = Counter(word for text in texts for word in cut(text.lower()))
    known = base.token_dict
    return [
        word
        for word, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        if count >= MIN_COUNT
        and word not in known
        and len(word) > 1
        and all(token in known for token in base.tokenize(word))
    ][:n]


def word_tokenizer(base: Tokenizer, words: Sequence[str], cut: Callable) -> tuple[Tokenizer, dict]:
    """A tokenizer that knows words as well, and what the model has to be told of them."""
    size = base._vocab_size
    token_dict = dict(base.token_dict) | {word: size + i for i, word in enumerate(words)}
    tokenizer = Tokenizer(token_dict, do_lower_case=True, pre_tokenize=cut)
    pieces = [base.tokens_to_ids(base.tokenize(word)[1:-1]) for word in words]
    return tokenizer, {"keep_tokens": list(range(size)), "compound_tokens": pieces or None}
