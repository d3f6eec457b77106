"""One model in use by eight threads at once: each gets its own answer, from the first call on.

    python tests/models/test_threads.py [SECONDS]

keeps all of it busy for a minute and prints a table.
"""

import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import keras
import numpy as np
import pytest

from bert4keras.generation import Generator
from bert4keras.models import Model, build_transformer_model
from bert4keras.tokenizers import Tokenizer

pytestmark = pytest.mark.backend

THREADS = 8
VOCABULARY = 30
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "hidden_act": "gelu",
}
KINDS = {"lm": ("bert", "lm"), "unilm": ("bert", "unilm"), "t5": ("t5", "encoder")}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"今天的气很好我们去公园吧", "##园"]
TEXTS = ["今天的天气", "我们去公园吧", "很好", "公园", "今天", "我们", "气很好", "去吧"]


class Service:
    """A language model and what is asked of it; two of the same kind give the same answers."""

    def __init__(self, kind="lm"):
        model, application = KINDS[kind]
        t5 = kind == "t5"
        head = {"with_lm": "linear"} if t5 else {"with_mlm": "linear", "max_position": 32}
        self.transformer = build_transformer_model(
            model=model, application=application, return_keras_model=False, **SIZES, **head
        )
        random = np.random.default_rng(0)
        self.model = self.transformer.model
        self.model.set_weights([random.normal(0, 0.5, w.shape) for w in self.model.get_weights()])
        pooled = keras.layers.GlobalAveragePooling1D()(self.model.output)
        self.other = Model(self.model.inputs, pooled)
        self.generator = Generator(self.transformer, end_id=3, maxlen=6)
        self.tokenizer = Tokenizer({word: i for i, word in enumerate(WORDS)})

    def inputs(self, i):
        """Token ids and segments, which differ from thread to thread."""
        ids = np.random.default_rng(i).integers(4, VOCABULARY, (2, 6))
        return [ids, ids if self.model.inputs[1].name.startswith("Decoder") else 0 * ids]

    def prompt(self, i):
        return self.inputs(i)[0][0].tolist()[: 3 + i % 3]

    def predict(self, i):
        return self.model.predict(self.inputs(i), verbose=0)

    def predict_on_batch(self, i):
        return self.model.predict_on_batch(self.inputs(i))

    def shared(self, i):
        """Another model of the same layers."""
        return self.other.predict(self.inputs(i), verbose=0)

    def greedy(self, i):
        return self.generator.generate([self.prompt(i), self.prompt(i + 1)])

    def sampled(self, i):
        return self.generator.generate([self.prompt(i)], sample=True, seed=i, n=2)

    def allowed(self, i):
        """Only some tokens, others for each thread."""
        return self.generator.generate([self.prompt(i)], allowed=lambda ids: [4 + i, 12 + i, 3])

    def stream(self, i):
        return list(self.generator.generate([self.prompt(i)], stream=True))

    def tokenize(self, i):
        text = TEXTS[i % len(TEXTS)]
        tokens = self.tokenizer.tokenize(text)
        return self.tokenizer.encode(text), tokens, self.tokenizer.rematch(text, tokens)


CALLS = ["predict", "predict_on_batch", "shared", "greedy", "allowed", "tokenize"]
ALL_CALLS = [*CALLS, "sampled", "stream"]


def together(functions):
    """What functions give that all begin at the same moment; an exception is given as it is."""
    start = Barrier(len(functions))

    def run(function):
        start.wait()
        try:
            return function()
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(functions)) as pool:
        return list(pool.map(run, functions))


def alike(found, expected):
    """Whether two answers are the same up to rounding."""
    if isinstance(expected, np.ndarray):
        return isinstance(found, np.ndarray) and np.allclose(found, expected, atol=1e-4)
    return not isinstance(found, Exception) and repr(found) == repr(expected)


def check(found, expected):
    wrong = [(a, b) for a, b in zip(found, expected, strict=True) if not alike(a, b)]
    assert not wrong, f"{len(wrong)} of {len(found)}: {wrong[0][0]!r:.300} for {wrong[0][1]!r:.300}"


@pytest.fixture(scope="module")
def expected():
    """The answers one after the other."""
    service = Service()
    return {call: [getattr(service, call)(i) for i in range(THREADS)] for call in CALLS}


@pytest.mark.parametrize("call", CALLS[1:])
def test_first_calls_in_threads(expected, call):
    service = Service()
    found = together([lambda i=i: getattr(service, call)(i) for i in range(THREADS)])
    check(found, expected[call])
    check([getattr(service, call)(1)], expected[call][1:2])


def test_all_calls_at_once(expected):
    service = Service()
    todo = [(CALLS[i % len(CALLS)], i % THREADS) for i in range(3 * THREADS)]
    for start in range(0, len(todo), THREADS):
        calls = todo[start : start + THREADS]
        found = together([lambda c=c, i=i: getattr(service, c)(i) for c, i in calls])
        check(found, [expected[c][i] for c, i in calls])


def test_others_predict_while_one_trains():
    service = Service()
    service.other.compile("sgd", "mse")
    x, y = service.inputs(0), np.zeros((2, VOCABULARY))
    service.other.fit(x, y, verbose=0)

    def train():
        for _ in range(4):
            service.other.fit(x, y, epochs=4, verbose=0)
        return np.zeros(())

    def predict():
        return np.stack([service.predict(1) for _ in range(4)])

    for found in together([train, *[predict] * 3]):
        assert not isinstance(found, Exception), found
        assert np.isfinite(found).all()


def stress(kind, seconds):
    """Right, wrong and failed answers of each kind of call, under load."""
    service = Service(kind)
    expected = {
        call: [getattr(Service(kind), call)(i) for i in range(THREADS)] for call in ALL_CALLS
    }
    counts = Counter()

    def work(number):
        random, end = np.random.default_rng(number), time.monotonic() + seconds
        while time.monotonic() < end:
            call, i = random.choice(ALL_CALLS), int(random.integers(THREADS))
            try:
                found = getattr(service, call)(i)
            except Exception as error:
                print(kind, call, repr(error)[:200], file=sys.stderr)
                counts[call, "failed"] += 1
            else:
                counts[call, "right" if alike(found, expected[call][i]) else "wrong"] += 1

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(THREADS)))
    return counts


if __name__ == "__main__":
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60
    print(f"| {keras.backend.backend()} | " + " | ".join(ALL_CALLS) + " |")
    print("|---" * (len(ALL_CALLS) + 1) + "|")
    fell = 0
    for kind in KINDS:
        counts = stress(kind, seconds / len(KINDS))
        cells = [
            " / ".join(str(counts[c, x]) for x in ("right", "wrong", "failed")) for c in ALL_CALLS
        ]
        print(f"| {kind} | " + " | ".join(cells) + " |", flush=True)
        fell += sum(count for (_, how), count in counts.items() if how != "right")
    raise SystemExit(fell > 0)
