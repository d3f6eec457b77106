"""`Generator` against the whole model, which is run at every token and read in NumPy."""

import functools
import gc
import inspect
import pydoc
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sweeps import swept

from bert4keras.backend import replay
from bert4keras.generation import Generator
from bert4keras.generation.prompts import padded_group_size
from bert4keras.layers import (
    AttentionBias,
    FeedForward,
    LayerNormalization,
    LMMask,
    LocalMask,
    MultiHeadAttention,
)
from bert4keras.models import (
    ARCHITECTURES,
    BERT,
    DeBERTaV2,
    LM_Mask,
    build_transformer_model,
    extend_with_language_model,
)
from bert4keras.snippets import bucket_length
from bert4keras.tokenizers import Tokenizer

pytestmark = pytest.mark.backend

VOCAB = 40
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 96,
    "hidden_act": "gelu",
}
LENGTH = 24
"""Whole models see inputs padded to this, so that each of them is compiled once."""


# ---------------------------------------------------------------------------- models and their kin


DEVIATIONS = {"gamma": 0.1, "beta": 0.1, "bias": 0.1, "embeddings": 0.6, "kernel": 0.8}


def randomized(transformer, seed=0):
    """Give all trainable weights large values, the same on every backend.

    Small weights would make a model repeat its last token, whatever it attends to.
    """
    generator = np.random.default_rng(seed)
    for weight in transformer.model.weights:
        if weight.trainable:
            kind = weight.path.rsplit("/", 1)[-1]
            weight.assign(generator.normal(kind == "gamma", DEVIATIONS[kind], weight.shape))
    return transformer


def built(model, application="encoder", **changes):
    """A random `Transformer` of an architecture."""
    kwargs = SIZES | changes
    if model in ("t5.1.1", "mt5.1.1"):
        kwargs["hidden_act"] = ["gelu", "linear"]
    size = kwargs.pop("condition", None)
    if size:
        x = keras.Input((size,), name="Input-Cond")
        kwargs |= {"layer_norm_cond": x, "additional_input_layers": x}
    transformer = build_transformer_model(
        model=model, application=application, return_keras_model=False, **kwargs
    )
    return randomized(transformer)


class Whole:
    """A model run on whole sequences: the logarithms of the probabilities of every next token.

    Args:
        transformer: a language model, UniLM or T5.
        start: tokens that the output of T5 begins with.
        segment: segment of the output; None goes on with the last one of the prompt.
        linear: the model gives scores.
        rows: how many sequences are run at once.
        length: what they are padded to.
    """

    def __init__(self, transformer, segment=None, linear=False, rows=4, length=LENGTH):
        self.model = transformer.model
        self.is_t5 = hasattr(transformer, "encoder")
        self.segment, self.linear, self.rows, self.length = segment, linear, rows, length
        self.source_padding = transformer.pad_token_id or 0

    def padded(self, rows, fill=0):
        array = np.full((self.rows, self.length), fill, dtype="int32")
        for row, ids in zip(array, rows, strict=False):
            row[: len(ids)] = ids
        return array

    def inputs(self, prompts, outputs, further):
        """Arrays for the model, in its order; padding is on the right."""
        segments = [
            [*s, *[s[-1] if self.segment is None else self.segment] * (self.length - len(s))]
            for _, s in prompts
        ]
        sources = [ids for ids, _ in prompts]
        if self.is_t5:
            tokens = [[0, *output] for output in outputs]
        else:
            tokens = [[*ids, *output] for ids, output in zip(sources, outputs, strict=True)]
        arrays = {
            "Encoder-Input-Token": self.padded(sources, self.source_padding),
            "Decoder-Input-Token": self.padded(tokens),
            "Input-Token": self.padded(tokens),
            "Input-Segment": self.padded(segments),
            "Input-Position": np.tile(np.arange(self.length, dtype="float32"), (self.rows, 1)),
        }
        for name, values in further.items():
            values = np.asarray(values)
            if values.ndim == 1:
                values = np.repeat(values[:, None], self.length, axis=1)
            arrays[name] = np.resize(values, (self.rows, *values.shape[1:]))
        names = [next(n for n in arrays if x.name.endswith(n)) for x in self.model.inputs]
        return [arrays[name] for name in names]

    def next(self, prompts, outputs, further=None):
        """(prompts, vocab), of the token behind each output."""
        results = []
        for start in range(0, len(prompts), self.rows):
            part = slice(start, start + self.rows)
            values = {name: x[part] for name, x in (further or {}).items()}
            results.extend(self.next_of_few(prompts[part], outputs[part], values))
        return np.stack(results)

    def next_of_few(self, prompts, outputs, further):
        inputs = self.inputs(prompts, outputs, further)
        scores = self.model.predict_on_batch(inputs if len(inputs) > 1 else inputs[0])
        last = [
            len(output) + (0 if self.is_t5 else len(ids) - 1)
            for (ids, _), output in zip(prompts, outputs, strict=True)
        ]
        assert max(last) < self.length
        scores = np.asarray(scores, "float64")[np.arange(len(last)), last]
        if not self.linear:
            return np.log(np.maximum(scores, 1e-300))
        scores -= scores.max(axis=-1, keepdims=True)
        return scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))

    def total(self, prompt, output, further=None):
        """The sum of the logarithms of the probabilities of the tokens of an output."""
        prefixes = [output[:i] for i in range(len(output))]
        values = {name: np.repeat(x, len(output), 0) for name, x in (further or {}).items()}
        scores = self.next([prompt] * len(output), prefixes, values)
        return sum(row[token] for row, token in zip(scores, output, strict=True))

    def greedy(self, prompts, maxlen, further=None, change=None):
        """The best tokens, without regard to ends, and the logarithm of the probability of each.

        Args:
            change: takes a row of scores and the output so far, returns other scores.
        """
        outputs, gained = [[] for _ in prompts], [[] for _ in prompts]
        for _ in range(maxlen):
            scores = self.next(prompts, outputs, further)
            for row, output, each in zip(scores, outputs, gained, strict=True):
                row = row if change is None else change(row, output)
                output.append(int(row.argmax()))
                each.append(row.max())
        return outputs, gained


def until(ends, output):
    """An output without its end token, and how many tokens there are with it."""
    for i, token in enumerate(output):
        if token in ends:
            return output[:i], i + 1
    return output, len(output)


def with_segments(*rows):
    """Prompts with segments: the second half of each is segment 1."""
    return [(ids, [0] * (len(ids) // 2) + [1] * (len(ids) - len(ids) // 2)) for ids in rows]


# Of different lengths; 0 is padding for most models, but not as the first token.
IDS = [[5, 17, 9, 30, 8, 5, 21], [11], [0, 6, 0, 12, 25]]
PROMPTS = with_segments(*IDS)


# ------------------------------------------------------------- cached and uncached decoding agree


def able(application):
    """Names of the architectures that can be built for an application; roberta is bert."""
    names = [n for n, a in ARCHITECTURES.items() if application in a.applications]
    return [name for name in names if name != "roberta"]


GROUPED = {"num_key_value_heads": 2}
CASES = {f"{name}-lm": (name, "lm", {}) for name in able("lm")}
CASES |= {f"{name}-unilm": (name, "unilm", {}) for name in able("unilm")}
CASES |= {name: (name, "encoder", {}) for name in ("t5.1.0", "t5.1.1", "mt5.1.1")}
CASES |= {
    "llama-lm": ("llama", "lm", GROUPED),
    "qwen2-lm": ("qwen2", "lm", GROUPED | {"tie_word_embeddings": True}),
    "qwen3-lm": ("qwen3", "lm", GROUPED),
    "window": (
        "qwen3",
        "lm",
        {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    ),
    "bart": ("bart", "encoder", {}),
    "mbart": ("mbart", "encoder", {"num_decoder_layers": 1, "scale_embedding": True}),
    "gemma": ("gemma3_text", "lm", GROUPED | {"sliding_window": 4, "sliding_window_pattern": 2}),
    # Padding has no position, also among the words that were written.
    "padding 9 roberta": ("roberta_hf", "lm", {"pad_token_id": 9, "max_position": 60}),
    "one segment": ("xlm_roberta", "unilm", {"segment_vocab_size": 1}),
    "factorized": ("albert", "lm", {"embedding_size": 8}),
    "factorized gpt2": ("gpt2", "lm", {"embedding_size": 8}),
    "factorized t5": ("t5.1.0", "encoder", {"embedding_size": 8}),
    "hierarchical": ("bert", "unilm", {"hierarchical_position": True, "max_position": 6}),
    "positions": ("bert", "unilm", {"custom_position_ids": True}),
    "positions roformer": ("roformer", "lm", {"custom_position_ids": True}),
    "residual bert": ("bert", "lm", {"residual_attention_scores": True}),
    "residual roformer": ("roformer", "unilm", {"residual_attention_scores": True}),
    "residual t5": ("t5.1.1", "encoder", {"residual_attention_scores": True}),
    "condition": ("bert", "unilm", {"condition": 3}),
    "condition gpt2": ("gpt2", "lm", {"condition": 3}),
    "condition t5": ("t5.1.1", "encoder", {"condition": 3}),
    "kept tokens": ("bert", "unilm", {"vocab_size": 80, "keep_tokens": list(range(0, 80, 2))}),
    "compound tokens": ("gpt2", "lm", {"vocab_size": 38, "compound_tokens": [[1, 2], [3, 4]]}),
    "prefix": ("bert", "lm", {"prefix": "My-"}),
    "prefix t5": ("t5.1.0", "encoder", {"prefix": "My-"}),
    "padding 9": ("bert", "lm", {"pad_token_id": 9}),
    "padding 9 llama": ("llama", "lm", {"pad_token_id": 9}),
    "padding 9 t5": ("mt5.1.1", "encoder", {"pad_token_id": 9}),
    "shared segments": ("bert", "unilm", {"shared_segment_embeddings": True}),
    "no segments": ("bert", "unilm", {"segment_vocab_size": 0}),
    "no segments gpt": ("gpt", "lm", {"segment_vocab_size": 0}),
    "linear": ("bert", "unilm", {"with_mlm": "linear"}),
    "linear gpt2": ("gpt2", "lm", {"final_activation": "linear"}),
    "linear t5": ("t5.1.1", "encoder", {"with_lm": "linear"}),
    "key size": ("nezha", "lm", {"attention_key_size": 6}),
    "dropout": ("bert", "lm", {"dropout_rate": 0.3, "attention_dropout_rate": 0.3}),
    "dropout t5": ("t5.1.0", "encoder", {"dropout_rate": 0.3}),
    "fixed length": ("bert", "lm", {"sequence_length": LENGTH}),
    "no cross bias": ("t5.1.0", "encoder", {"cross_position_bias": False}),
    "task": ("ernie", "unilm", {"use_task_id": True}),
    "tasks": ("ernie", "unilm", {"use_task_id": True, "custom_task_ids": True}),
    # A relative position is beyond the table's reach, and so are buckets that distances share.
    "deberta": (
        extend_with_language_model(DeBERTaV2),
        "encoder",
        {"position_buckets": 4, "max_relative_positions": 9},
    ),
    "rope linear": ("llama", "lm", {"rope_scaling": {"type": "linear", "factor": 2.0}}),
    "rope dynamic": ("llama", "lm", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}),
    "rope yarn": (
        "qwen3",
        "lm",
        {
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 16,
            }
        },
    ),
    "rope llama3": (
        "llama",
        "lm",
        {
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            }
        },
    ),
}
FURTHER = {
    "condition": {"Input-Cond": [[0.5, -1.0, 2.0], [1.5, 0.0, -1.0], [0.0, 1.0, 1.0]]},
    "tasks": {"Input-Task": [2, 0, 1]},
}


def further_inputs(name):
    """By name the values of the inputs that a case has besides those of every model."""
    values = FURTHER.get(name.split()[0], {})
    return {
        key: np.array(x, "float32" if key == "Input-Cond" else "int32") for key, x in values.items()
    }


@functools.cache
def model_of(name):
    """The model of a case, and the whole of it for comparison."""
    model, application, changes = CASES[name]
    transformer = built(model, application, **changes)
    segment = 1 if application == "unilm" else None
    return transformer, Whole(transformer, segment, linear=name.startswith("linear"))


MAXLEN = 8


def assert_cached_gives_the_whole(name):
    """Compare tokens and scores of greedy search, several tokens ending it."""
    transformer, whole = model_of(name)
    further = further_inputs(name)
    outputs, gained = whole.greedy(PROMPTS, MAXLEN, further)
    # Tokens that come at the fourth step of one prompt, and of another, end outputs.
    ends = list(dict.fromkeys([outputs[0][3], outputs[1][4]]))
    generator = Generator(transformer, end_id=ends, maxlen=MAXLEN)
    found, scores = generator.generate(PROMPTS, conditions=list(further.values()), scores=True)
    expected = [until(ends, output) for output in outputs]
    assert found == [ids for ids, _ in expected]
    totals = [sum(each[:n]) for each, (_, n) in zip(gained, expected, strict=True)]
    np.testing.assert_allclose(scores, totals, atol=2e-4)


COMPILED = [name for name in CASES if name.endswith("-lm")]
COMPILED += ["bert-unilm", "gau_alpha-unilm", "t5.1.0", "t5.1.1"]


@pytest.mark.parametrize("name", swept(COMPILED))
def test_cached_decoding_gives_the_tokens_and_scores_of_the_whole_model(name):
    assert_cached_gives_the_whole(name)


VARIANTS = swept([name for name in CASES if name not in COMPILED], 1)


@pytest.mark.parametrize("name", VARIANTS)
def test_so_does_cached_decoding_of_variants(uncompiled, name):
    assert_cached_gives_the_whole(name)


# Every kind of cache is reordered with the beams: rows, pairs for GAU, blocks of one name, scores
# that go through blocks, and the context of a decoder, which is not.
BEAMS = ["bert-unilm", "gau_alpha-lm", "albert-lm", "t5.1.1", "nezha-unilm", "llama-lm"]
BEAMS += ["condition", "residual roformer", "deberta"]


@pytest.mark.parametrize("name", swept(BEAMS))
def test_scores_of_beams_are_those_of_the_whole_model(name):
    transformer, whole = model_of(name)
    further = further_inputs(name)
    end = whole.greedy(PROMPTS[:1], 4, {k: x[:1] for k, x in further.items()})[0][0][3]
    generator = Generator(transformer, end_id=end, maxlen=6)
    found, scores = generator.generate(
        PROMPTS, topk=4, n=4, conditions=list(further.values()), scores=True
    )
    for i, prompt in enumerate(PROMPTS):
        values = {key: x[i : i + 1] for key, x in further.items()}
        assert len({tuple(ids) for ids in found[i]}) == 4
        assert scores[i] == sorted(scores[i], reverse=True)
        for ids, score in zip(found[i], scores[i], strict=True):
            written = ids if len(ids) == 6 else [*ids, end]
            assert whole.total(prompt, written, values) == pytest.approx(score, abs=2e-4)


def test_half_precision_gives_nearly_the_scores_of_the_whole_model():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        transformer = built("bert", "unilm")
    finally:
        keras.config.set_dtype_policy("float32")
    for weight in transformer.model.weights:
        weight.assign(weight * (0.5 if "kernel" in weight.path else 1.0))
    whole = Whole(transformer, segment=1)
    found, scores = Generator(transformer, end_id=3, maxlen=6).generate(PROMPTS, scores=True)
    for prompt, ids, score in zip(PROMPTS, found, scores, strict=True):
        written = ids if len(ids) == 6 else [*ids, 3]
        assert whole.total(prompt, written) == pytest.approx(score, abs=0.3)


# ----------------------------------------------------------------------------- batches and results

LENGTHS = [9, 2, 16, 4, 12, 3, 7]  # which come in one bucket
MANY = with_segments(
    *[[5 + (3 * i + j) % 33 for j in range(n)] for i, n in enumerate(LENGTHS)],
)


@pytest.mark.parametrize("name", ["llama-lm", "t5.1.1"])
def test_a_batch_gives_what_its_prompts_give_alone(name):
    transformer, _ = model_of(name)
    generator = Generator(transformer, end_id=[3, 14], maxlen=6)
    arguments = {"topk": 2, "n": 2, "scores": True}
    found, scores = generator.generate(MANY, **arguments)
    assert len({str(x) for x in found}) == len(MANY)
    few, scores_of_few = generator.generate(MANY, batch_size=3, **arguments)
    assert few == found
    np.testing.assert_allclose(scores, scores_of_few, atol=1e-4)
    for i, prompt in enumerate(MANY):
        ids, total = generator.generate([prompt], **arguments)
        assert ids == [found[i]]
        np.testing.assert_allclose(total, [scores[i]], atol=1e-4)


CHARACTERS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    *"今天气很好我们去公园，。的是不了在有人这上来到时大地为子中你",
]
assert len(set(CHARACTERS)) == len(CHARACTERS) <= VOCAB


@pytest.fixture(scope="module")
def tokenizer():
    tokens = CHARACTERS + [f"[unused{i}]" for i in range(VOCAB - len(CHARACTERS))]
    return Tokenizer({token: i for i, token in enumerate(tokens)})


def test_texts_are_encoded_and_results_decoded(tokenizer):
    transformer, _ = model_of("bert-unilm")
    generator = Generator(transformer, tokenizer, maxlen=6)
    by_ids = Generator(transformer, end_id=3, maxlen=6)
    texts = ["今天天气很好", ("我们去公园", "很好"), "大地"]
    ids = [tokenizer.encode(*([x] if isinstance(x, str) else x))[0] for x in texts]
    # All of it is source, the second text too: segment 0, which sees all of itself.
    expected = [tokenizer.decode(x) for x in by_ids.generate([(x, [0] * len(x)) for x in ids])]
    assert generator.generate(texts) == expected
    assert len(set(expected)) == 3
    text, score = generator.generate("今天天气很好", scores=True)
    assert text == expected[0] and isinstance(score, float)
    assert len(generator.generate("今天天气很好", topk=2, n=2)) == 2
    assert generator.generate([]) == []


@pytest.mark.parametrize("end", [None, 20])
def test_a_text_that_is_continued_has_no_end_token(tokenizer, end):
    transformer, _ = model_of("gpt2-lm")
    ids, _ = tokenizer.encode("今天")
    assert ids[-1] == 3
    expected = Generator(transformer, end_id=end or 3, maxlen=5).generate([ids[:-1]])
    generator = Generator(transformer, tokenizer, end_id=end, maxlen=5)
    assert generator.generate("今天") == tokenizer.decode(expected[0])


def test_end_tokens_may_be_given_as_tokens(tokenizer):
    transformer, _ = model_of("gpt2-lm")
    generator = Generator(transformer, tokenizer, end_id=["[SEP]", "。", 20])
    assert generator.end_ids == (3, tokenizer.token_to_id("。"), 20)
    assert Generator(transformer, tokenizer).end_ids == (3,)


def test_an_output_may_begin_with_a_start_token(uncompiled):
    transformer, _ = model_of("bert-lm")
    generator = Generator(transformer, end_id=3, start_id=2, maxlen=5)
    longer = [([*ids, 2], [*segments, segments[-1]]) for ids, segments in PROMPTS]
    expected = Generator(transformer, end_id=3, maxlen=5).generate(longer)
    assert generator.generate(PROMPTS) == expected
    assert generator.generate([[]]) == Generator(transformer, end_id=3, maxlen=5).generate([[2]])


def test_the_segment_of_the_output_can_be_chosen(uncompiled):
    transformer, _ = model_of("bert-lm")
    whole = Whole(transformer, segment=0)
    outputs, gained = whole.greedy(PROMPTS, 5)
    end = next(i for i in range(VOCAB) if i not in np.ravel(outputs))
    generator = Generator(transformer, end_id=end, maxlen=5, segment_id=0)
    found, scores = generator.generate(PROMPTS, scores=True)
    assert found == outputs
    np.testing.assert_allclose(scores, np.sum(gained, axis=1), atol=1e-4)
    assert scores[0] != pytest.approx(
        Generator(transformer, end_id=end, maxlen=5).generate(PROMPTS, scores=True)[1][0], abs=1e-3
    )


# ------------------------------------------------------------------------- ways to write an output


@pytest.mark.parametrize("application", ["lm", "unilm"])
def test_scores_are_computed_at_the_last_position_only(uncompiled, application):
    lengths = []

    class Watched(BERT):
        def apply_final_layers(self, inputs):
            lengths.append(inputs.shape[1])
            return super().apply_final_layers(inputs)

    transformer = build_transformer_model(
        model=Watched, application=application, return_keras_model=False, **SIZES
    )
    lengths.clear()
    Generator(transformer, end_id=3, maxlen=3, minlen=3).generate([[5, 6, 7, 8], [9]])
    assert set(lengths) == {1}
    if keras.backend.backend() != "jax":  # which traces instead of running
        assert len(lengths) == 3


@pytest.fixture(scope="module")
def gpt2():
    """A model without segments, and the whole of it for many rows."""
    transformer = built("gpt2", "lm", num_hidden_layers=1)
    return transformer, Whole(transformer, rows=16)


def prompt_of(ids):
    return ids, [0] * len(ids)


def test_greedy_search_is_a_beam_of_one_is_the_old_beam_search():
    transformer, whole = model_of("bert-unilm")
    end = whole.greedy(PROMPTS, 5)[0][0][4]
    generator = Generator(transformer, end_id=end, maxlen=6)
    found, scores = generator.generate(PROMPTS, scores=True)
    assert generator.generate(PROMPTS, topk=1, scores=True) == (found, scores)
    # Two groups of one beam each.
    twice, totals = generator.generate(PROMPTS, topk=2, groups=2, n=2, scores=True)
    assert twice == [[ids, ids] for ids in found]
    np.testing.assert_allclose(totals, np.array(scores)[:, None].repeat(2, 1), atol=1e-4)
    for prompt, ids in zip(PROMPTS, found, strict=True):
        old = generator.beam_search(list(prompt), topk=1).tolist()
        assert old == ids or old == [*ids, end]
        sampled = generator.random_sample(list(prompt), n=2, topk=1)
        assert [x.tolist() for x in sampled] == [old, old]


OLD = ["condition gpt2", "t5.1.0", "positions", "condition t5", "tasks"]


@pytest.mark.parametrize("name", swept(OLD))
def test_the_old_interface_takes_the_inputs_of_the_model(name):
    transformer, whole = model_of(name)
    further = further_inputs(name)
    generator = Generator(transformer, end_id=3, maxlen=3)
    expected, _ = whole.greedy(PROMPTS[:1], 3, {k: x[:1] for k, x in further.items()})
    ids, segments = PROMPTS[0]
    arrays = {"Token": ids, "Segment": segments, "Position": np.arange(len(ids))}
    arrays |= {key.removeprefix("Input-"): x[0] for key, x in further.items()}
    if name == "tasks":
        arrays["Task"] = [2] * len(ids)
    names = [x.name.rsplit("Input-", 1)[-1] for x in transformer.model.inputs]
    inputs = [arrays[x] for x in dict.fromkeys(names)]
    assert generator.beam_search(inputs, topk=1).tolist()[-3:] == expected[0]


def test_old_and_new_interface_give_the_same_scores():
    transformer, whole = model_of("bert-lm")
    generator = Generator(transformer, end_id=3)
    ids, segments = PROMPTS[0]
    scores, states = generator.predict(
        [np.array([ids]), np.array([segments])], np.array([[7, 8]]), rtype="logits"
    )
    assert states is None
    np.testing.assert_allclose(scores, whole.next(PROMPTS[:1], [[7, 8]]), atol=1e-4)


def beams_of(whole, prompt, size, maxlen, ends):
    """Beam search of one prompt, hypothesis by hypothesis: [(score, tokens)], best first."""
    live, ended = [([], 0.0)], []
    for _ in range(maxlen):
        scores = whole.next([prompt] * len(live), [ids for ids, _ in live])
        candidates = [
            (total + row[token], [*ids, token])
            for (ids, total), row in zip(live, scores, strict=True)
            for token in range(VOCAB)
        ]
        candidates.sort(key=lambda x: -x[0])
        ended += [(total, ids[:-1]) for total, ids in candidates[:size] if ids[-1] in ends]
        ended = sorted(ended, key=lambda x: -x[0])[:size]
        live = [(ids, total) for total, ids in candidates if ids[-1] not in ends][:size]
    return sorted(ended + [(total, ids) for ids, total in live], key=lambda x: -x[0])


def test_beams_of_a_batch_are_those_of_a_search_in_numpy(gpt2):
    transformer, whole = gpt2
    prompts = [prompt_of(ids) for ids in IDS]
    ends = whole.greedy(prompts, 3)[0][0][1:3]
    generator = Generator(transformer, end_id=ends, maxlen=5)
    found, scores = generator.generate(IDS, topk=4, n=3, scores=True)
    for prompt, results, totals in zip(prompts, found, scores, strict=True):
        expected = beams_of(whole, prompt, 4, 5, ends)[:3]
        assert results == [ids for _, ids in expected]
        np.testing.assert_allclose(totals, [total for total, _ in expected], atol=2e-4)


def test_diverse_groups_score_what_the_model_says(gpt2):
    transformer, whole = gpt2
    generator = Generator(transformer, end_id=3, maxlen=4)
    found, scores = generator.generate(IDS, topk=4, groups=4, diversity=50.0, n=4, scores=True)
    for ids, results, totals in zip(IDS, found, scores, strict=True):
        # A large penalty keeps groups apart at every step.
        for step in range(4):
            tokens = [x[step] for x in results if len(x) > step]
            assert len(tokens) > 1 and len(set(tokens)) == len(tokens)
        for output, total in zip(results, totals, strict=True):
            written = output if len(output) == 4 else [*output, 3]
            assert whole.total(prompt_of(ids), written) == pytest.approx(total, abs=2e-4)


def test_outputs_have_at_least_minlen_tokens(gpt2):
    transformer, whole = gpt2
    end = whole.greedy([prompt_of(IDS[0])], 1)[0][0][0]
    generator = Generator(transformer, end_id=end, maxlen=6)
    assert generator.generate(IDS[:1]) == [[]]

    def no_end(row, output):
        return np.where((np.arange(VOCAB) == end) & (len(output) < 3), -np.inf, row)

    expected, _ = whole.greedy([prompt_of(IDS[0])], 6, change=no_end)
    ids, length = until([end], expected[0])
    assert generator.generate(IDS[:1], minlen=4) == [ids]
    assert length >= 4
    assert all(len(x) >= 3 for x in generator.generate(IDS, minlen=4, topk=3, n=3)[0])
    assert Generator(transformer, end_id=end, maxlen=6, minlen=4).generate(IDS[:1]) == [ids]


def test_tokens_of_the_output_are_penalised(gpt2):
    transformer, whole = gpt2
    prompts = [prompt_of(ids) for ids in IDS]

    def penalised(row, output):
        return np.where(np.isin(np.arange(VOCAB), output), row * 3.0, row)

    expected, gained = whole.greedy(prompts, 6, change=penalised)
    end = next(i for i in range(VOCAB) if i not in np.ravel(expected))
    generator = Generator(transformer, end_id=end, maxlen=6)
    found, scores = generator.generate(IDS, repetition_penalty=3.0, scores=True)
    assert found == expected != generator.generate(IDS)
    np.testing.assert_allclose(scores, np.sum(gained, axis=1), atol=2e-4)
    # Beams remember which tokens they have: the best one of so high a penalty repeats nothing.
    for (ids,) in generator.generate(IDS, repetition_penalty=1e3, topk=3, n=1):
        assert len(set(ids)) == len(ids)


@pytest.fixture(scope="module")
def toy():
    """A model of seven tokens that likes to repeat itself."""
    return built(
        "gpt2", "lm", vocab_size=7, hidden_size=8, num_hidden_layers=1, intermediate_size=8
    )


@pytest.fixture(scope="module")
def toy_generator(toy):
    return Generator(toy, end_id=0, maxlen=16)


@pytest.mark.parametrize(
    "how", [{"sample": True, "n": 8}, {"topk": 4, "n": 4}], ids=["sample", "beams"]
)
@settings(max_examples=10, deadline=None)
@given(size=st.integers(1, 3), seed=st.integers(0, 2**32), first=st.integers(1, 6))
def test_no_ngram_comes_twice(toy_generator, how, size, seed, first):
    if how.get("sample"):
        how = how | {"seed": seed}
    (results,) = toy_generator.generate([[first]], no_repeat_ngram=size, **how)
    for ids in results:
        ngrams = [tuple(ids[i : i + size]) for i in range(len(ids) - size + 1)]
        assert len(set(ngrams)) == len(ngrams)
        assert size > 1 or len(ids) <= 6


def test_samples_follow_the_distribution_of_the_model(toy, toy_generator):
    """Of all outputs of two tokens, after temperature and topp; see test_selection for more."""
    count = 4096
    (found,) = toy_generator.generate(
        [[4, 2]], maxlen=2, sample=True, n=count, seed=0, temperature=0.7, topp=0.9
    )

    def cut(row):
        p = np.exp(row / 0.7) / np.exp(row / 0.7).sum()
        order = np.argsort(-p)
        p[order[(np.cumsum(p[order]) - p[order]) >= 0.9]] = 0
        return p / p.sum()

    whole = Whole(toy)
    prompt = prompt_of([4, 2])
    expected = {}
    for first, p in enumerate(cut(whole.next([prompt], [[]])[0])):
        if first == 0:
            expected[()] = p
        elif p:
            rest = cut(whole.next([prompt], [[first]])[0])
            expected |= {
                (first, token)[: 2 if token else 1]: p * q for token, q in enumerate(rest) if q
            }
    counts = dict.fromkeys(expected, 0)
    for ids in found:
        counts[tuple(ids)] += 1
    statistic = sum((counts[key] - count * p) ** 2 / (count * p) for key, p in expected.items())
    assert len(expected) > 5
    assert statistic < len(expected) + 4 * (2 * len(expected)) ** 0.5


def test_seeds_can_be_repeated_and_do_not_depend_on_the_batch(toy_generator):
    prompts = [[1], [2, 3, 4], [5, 6], [1, 1, 2, 3]]
    arguments = {"sample": True, "n": 2, "maxlen": 8}
    found = toy_generator.generate(prompts, seed=1, **arguments)
    assert toy_generator.generate(prompts, seed=1, **arguments) == found
    assert toy_generator.generate(prompts, seed=1, batch_size=3, **arguments) == found
    assert toy_generator.generate(prompts, seed=2, **arguments) != found
    assert toy_generator.generate(prompts, **arguments) != toy_generator.generate(
        prompts, **arguments
    )
    assert toy_generator.generate(prompts, seed=1, **arguments | {"maxlen": 4}) == [
        [ids[:4] for ids in results] for results in found
    ]


def test_every_backend_writes_the_same(toy_generator):
    assert toy_generator.generate([[1], [4, 2]], maxlen=8, minlen=8) == EXPECTED["greedy"]
    assert toy_generator.generate([[1], [4, 2]], maxlen=8, topk=3) == EXPECTED["beam"]
    assert (
        toy_generator.generate([[1], [4, 2]], maxlen=8, sample=True, seed=7) == EXPECTED["sample"]
    )


EXPECTED = {
    "greedy": [[5, 2, 2, 6, 2, 2, 1, 2], [2, 2, 6, 2, 2, 6, 2, 6]],
    "beam": [[5, 2, 2, 2, 5], []],
    "sample": [[5, 2, 3, 6, 1, 2, 2, 1], [1, 2, 2, 5, 2, 5, 4, 6]],
}


# ------------------------------------------------------------------------------------------- hooks


def spans(passage, end):
    """What `allowed` takes for answers that stand in a passage."""

    def allowed(output):
        n = len(output)
        following = {
            passage[i + n] for i in range(len(passage) - n) if passage[i : i + n] == output
        }
        return [*following, end]

    return allowed


@pytest.mark.parametrize(
    "how", [{}, {"topk": 3, "n": 3}, {"sample": True, "n": 4, "seed": 0}], ids=str
)
def test_answers_are_spans_of_their_passages(gpt2, how):
    transformer, _ = gpt2
    passages = [[7, 9, 7, 11, 5], [30, 31], [12, 12, 12, 13]]
    generator = Generator(transformer, end_id=3, maxlen=6)
    found = generator.generate(IDS, allowed=[spans(p, 3) for p in passages], minlen=1, **how)
    for results, passage in zip(found, passages, strict=True):
        for ids in results if how else [results]:
            assert any(passage[i : i + len(ids)] == ids for i in range(len(passage)))
    assert any(len(x) > 1 for results in found for x in (results if how else [results]))


def test_allowed_tokens_are_the_best_of_those_allowed(gpt2):
    transformer, whole = gpt2
    even = list(range(0, VOCAB, 2))

    def masked(row, output):
        return np.where(np.isin(np.arange(VOCAB), even), row, -np.inf)

    expected, _ = whole.greedy([prompt_of(ids) for ids in IDS], 5, change=masked)
    generator = Generator(transformer, end_id=3, maxlen=5)
    assert generator.generate(IDS, allowed=lambda output: even) == expected


@pytest.mark.parametrize("how", [{"topk": 4}, {"sample": True, "n": 4, "seed": 0}], ids=str)
def test_only_outputs_that_go_on_are_asked_about(gpt2, how):
    """Neither what has ended nor beams without an output: a table of what may be written does."""
    following = {(): [8, 3], (8,): [9], (8, 9): [3]}
    generator = Generator(gpt2[0], end_id=3, maxlen=4)
    found = generator.generate(IDS, allowed=lambda ids: following[tuple(ids)], **how)
    assert all(ids in ([], [8, 9]) for each in found for ids in (each if "n" in how else [each]))


def test_there_are_no_more_results_than_outputs(gpt2):
    """Only two outputs are possible, so the third and fourth beam have nothing to say."""
    generator = Generator(gpt2[0], end_id=3, maxlen=4)
    found, scores = generator.generate(
        IDS[:1], topk=4, n=4, allowed=lambda ids: [3] if ids else [8, 3], scores=True
    )
    assert sorted(found[0]) == [[], [8]]
    assert len(scores[0]) == 2 and np.isfinite(scores[0]).all()


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_beams_stop_when_no_better_result_can_come(gpt2, length_penalty):
    """Of the results that were asked for; those of the search that goes on are the same."""
    generator, calls = Generator(gpt2[0], end_id=3, maxlen=8), []

    def process(probabilities, output_ids, index):
        calls.append(index)
        probabilities *= 0.1
        probabilities[:, 3] = 0.8
        return probabilities

    def found(n, groups=1):
        calls.clear()
        options = {"process_probs": process, "length_penalty": length_penalty, "scores": True}
        results, scores = generator.generate(IDS, topk=6, n=n, groups=groups, **options)
        return results, np.array(scores), len(calls)

    for groups in (1, 2):
        best, best_scores, few = found(1, groups)
        all_results, all_scores, many = found(6, groups)
        assert [each[0] for each in all_results] == [each[0] for each in best]
        np.testing.assert_allclose(all_scores[:, 0], best_scores[:, 0], rtol=1e-5)
        assert few < many
    if not length_penalty:
        assert found(1)[2] == len(IDS)  # 0.8 for nothing at all


def test_process_probs_sees_and_changes_distributions(gpt2):
    transformer, whole = gpt2
    prompts = [prompt_of(ids) for ids in IDS]
    calls = []

    def process(probabilities, output_ids, index):
        calls.append((index, output_ids.tolist(), probabilities.copy()))
        probabilities[:, 3] = 0
        probabilities[:, 10 + index] *= 4
        return probabilities

    generator = Generator(transformer, end_id=3, maxlen=4)
    found, scores = generator.generate(IDS, process_probs=process, scores=True)
    for i, prompt in enumerate(prompts):

        def change(row, output, i=i):
            factors = np.ones(VOCAB)
            factors[3], factors[10 + i] = 1e-300, 4
            return row + np.log(factors)

        expected, gained = whole.greedy([prompt], 4, change=change)
        assert found[i] == expected[0]
        assert scores[i] == pytest.approx(sum(gained[0]), abs=2e-4)
        own = [(output, p) for index, output, p in calls if index == i]
        assert [output for output, _ in own] == [[found[i][:n]] for n in range(4)]
        for output, p in own:
            np.testing.assert_allclose(p, np.exp(whole.next([prompt], output)), atol=1e-4)
    calls.clear()
    generator.generate(IDS, process_probs=process, topk=2)
    assert {p.shape for *_, p in calls} == {(2, VOCAB)}


# -------------------------------------------------------------------------------------------- vote


def rule(probabilities):
    """The published rule, of (prompts, vocab)."""
    return (probabilities**2).sum(axis=0) / (probabilities.sum(axis=0) + 1)


def voted(whole, groups, ends, maxlen, combine=rule):
    """Greedy search of groups in NumPy: their tokens and scores."""
    results = []
    for group in groups:
        prompts = [prompt_of(ids) for ids in group]
        first = whole.next(prompts, [[]] * len(prompts))
        prompts = [p for p, row in zip(prompts, first, strict=True) if row.argmax() not in ends]
        output, total = [], 0.0
        while prompts and len(output) < maxlen and (not output or output[-1] not in ends):
            p = combine(np.exp(whole.next(prompts, [output] * len(prompts))))
            output.append(int(p.argmax()))
            total += np.log(p.max() + 1e-12)
        results.append((until(ends, output)[0], total))
    return results


GROUPS = [[[5, 17, 9], [30, 8]], [[11]], [[0, 6, 12], [25, 4, 7, 7], [13]], [[21, 22]]]


def test_groups_vote(gpt2):
    transformer, whole = gpt2
    firsts = whole.next([prompt_of([13])], [[]])
    end = int(firsts[0].argmax())  # so that this prompt of the third group takes no part
    generator = Generator(transformer, end_id=end, maxlen=5)
    found, scores = generator.generate(GROUPS, vote=True, scores=True)
    expected = voted(whole, GROUPS, [end], 5)
    assert found == [ids for ids, _ in expected]
    np.testing.assert_allclose(scores, [total for _, total in expected], atol=2e-3)
    assert found[2] != voted(whole, GROUPS[2:3], [], 5)[0][0]
    for group, ids, score in zip(GROUPS, found, scores, strict=True):
        alone, total = generator.generate([group], vote=True, scores=True)
        assert alone == [ids]
        assert total[0] == pytest.approx(score, abs=2e-4)


def test_groups_are_filled_up_to_few_sizes():
    sizes = [padded_group_size(n) for n in range(1, 17)]
    assert sizes == [1, 2, 3, 4, 6, 6, 8, 8, 12, 12, 12, 12, 16, 16, 16, 16]


def test_a_function_may_count_the_votes(gpt2):
    transformer, whole = gpt2
    generator = Generator(transformer, end_id=3, maxlen=5)

    def mean(probabilities):
        return keras.ops.mean(probabilities, axis=1)

    groups = [group[:2] for group in (GROUPS[0], GROUPS[2])]  # full, as a mean needs it
    expected = voted(whole, groups, [3], 5, combine=lambda p: p.mean(axis=0))
    found, scores = generator.generate(groups, vote=mean, scores=True)
    assert found == [ids for ids, _ in expected]
    np.testing.assert_allclose(scores, [total for _, total in expected], atol=1e-3)


def test_a_group_of_which_nobody_answers_gives_nothing(gpt2):
    transformer, whole = gpt2
    first = whole.next([prompt_of([13]), prompt_of([25])], [[], []]).argmax(axis=1)
    generator = Generator(transformer, end_id=list(dict.fromkeys(first.tolist())), maxlen=5)
    found, scores = generator.generate([[[13], [25]], [[5, 17, 9]]], vote=True, scores=True)
    assert found[0] == [] and found[1] != []
    assert scores[0] == 0
    assert generator.generate([[[13], [25]]], vote=True, topk=2, n=2)[0][0] == []


def test_groups_vote_on_beams_too(gpt2):
    transformer, whole = gpt2
    generator = Generator(transformer, end_id=3, maxlen=4)
    found, scores = generator.generate(GROUPS, vote=True, topk=3, n=3, scores=True)
    for group, results, totals in zip(GROUPS, found, scores, strict=True):
        prompts = [prompt_of(ids) for ids in group]
        for ids, total in zip(results, totals, strict=True):
            written = ids if len(ids) == 4 else [*ids, 3]
            expected = 0.0
            for i, token in enumerate(written):
                p = rule(np.exp(whole.next(prompts, [written[:i]] * len(prompts))))
                expected += np.log(p[token] + 1e-12)
            assert total == pytest.approx(expected, abs=2e-3)


# ------------------------------------------------------------------------ compilations and weights


@pytest.fixture(scope="module")
def tiny():
    return built(
        "gpt2", "lm", hidden_size=8, num_attention_heads=2, num_hidden_layers=1, intermediate_size=8
    )


def test_prompts_of_fifty_lengths_compile_few_functions(tiny):
    generator = Generator(tiny, end_id=3, maxlen=4)
    lengths = range(1, 51)
    buckets = {bucket_length(n) for n in lengths}
    for n in lengths:
        generator.generate([[5] * n])
    count = generator.n_compilations
    assert count <= 3 * len(buckets)  # begin, select, advance
    if keras.backend.backend() != "torch":
        assert count == 3 * len(buckets)
    for n in lengths:
        generator.generate([[6] * n], maxlen=3, minlen=2)
    assert generator.n_compilations == count
    for rows in (3, 4):
        generator.generate([[5] * 7] * rows)
    assert generator.n_compilations - count in (0, 3)


def test_weights_may_change_between_calls():
    transformer = built("gpt2", "lm", hidden_size=8, num_hidden_layers=1, intermediate_size=8)
    generator = Generator(transformer, end_id=3, maxlen=5)
    before = generator.generate(IDS, scores=True)
    kept = transformer.model.get_weights()
    randomized(transformer, seed=1)
    expected, gained = Whole(transformer).greedy([prompt_of(ids) for ids in IDS], 5)
    after = generator.generate(IDS, scores=True)
    assert after != before
    totals = [sum(g[: until([3], ids)[1]]) for g, ids in zip(gained, expected, strict=True)]
    np.testing.assert_allclose(after[1], totals, atol=2e-4)
    transformer.model.set_weights(kept)
    assert generator.generate(IDS, scores=True) == before


# -------------------------------------------------------------------------------- a user's hooks


class OldStyle(LM_Mask, BERT):
    """A script's own block: normalised before, one scale for both sub-layers, a local mask."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.with_mlm = True

    def compute_attention_bias(self, inputs=None):
        if self.attention_bias is None:
            tokens = self.inputs[0]
            masks = [
                self.apply(tokens, LMMask, name="Attention-LM-Mask"),
                self.apply(tokens, LocalMask, window=6, name="Attention-Local-Mask"),
            ]
            self.attention_bias = self.apply(masks, AttentionBias, name="Attention-Both")
        return self.attention_bias

    def apply_main_layers(self, inputs, index):
        x = inputs
        attention_name = f"Transformer-{index}-MultiHeadSelfAttention"
        feed_forward_name = f"Transformer-{index}-FeedForward"
        mask = self.compute_attention_bias(index)
        xi = x
        x = self.apply(x, LayerNormalization, epsilon=1e-5, name=f"{attention_name}-Norm")
        x = self.apply(
            [x, x, x, mask],
            MultiHeadAttention,
            arguments={"a_bias": True},
            heads=self.num_attention_heads,
            head_size=self.attention_head_size,
            name=attention_name,
        )
        x = self.apply([xi, x], keras.layers.Add, name=f"{attention_name}-Add")
        xi = x
        x = self.apply(x, FeedForward, units=self.intermediate_size, name=feed_forward_name)
        x = self.apply([xi, x], keras.layers.Add, name=f"{feed_forward_name}-Add")
        return self.apply(x, LayerNormalization, name=f"{feed_forward_name}-Norm")


def test_blocks_and_masks_of_a_subclass_are_cached(uncompiled):
    transformer = built(OldStyle)
    whole = Whole(transformer)
    expected, gained = whole.greedy(PROMPTS, 6)
    end = next(i for i in range(VOCAB) if i not in np.ravel(expected))
    found, scores = Generator(transformer, end_id=end, maxlen=6).generate(PROMPTS, scores=True)
    assert found == expected
    np.testing.assert_allclose(scores, np.sum(gained, axis=1), atol=2e-4)
    wider = whole.next([([1, 20, *PROMPTS[0][0]], [0, 0, *PROMPTS[0][1]])], [[]])
    assert wider.shape == (1, VOCAB)


class Convolution(keras.layers.Conv1D):
    """Looks at the neighbours of a position, which nothing tells."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True


class Pointwise(Convolution):
    positionwise = True


class OfNeighbours(LM_Mask, BERT):
    """A script's own layer between embeddings and blocks."""

    mixing, size = Convolution, 3

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.with_mlm = True

    def apply_embeddings(self, inputs):
        x = super().apply_embeddings(inputs)
        sizes = {"filters": self.hidden_size, "kernel_size": self.size, "padding": "same"}
        return self.apply(x, self.mixing, name="Mixing", **sizes)


class OfPoints(OfNeighbours):
    mixing, size = Pointwise, 1


class Counting(keras.layers.Layer):
    """Adds the number of each position, which it is told on a part of a sequence."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, x, positions=None):
        counted = keras.ops.arange(keras.ops.shape(x)[1])[None] if positions is None else positions
        return x + 0.1 * keras.ops.cast(counted, x.dtype)[..., None]

    def cache_arguments(self, cache, inputs):
        return {"positions": cache.positions}


class Counted(LM_Mask, BERT):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.with_mlm = True

    def apply_embeddings(self, inputs):
        return self.apply(super().apply_embeddings(inputs), Counting, name="Counting")


def test_layers_that_may_look_at_other_tokens_are_refused():
    transformer = built(OfNeighbours)
    with pytest.raises(TypeError, match=r"layer 'Mixing' is a Convolution.*positionwise = True"):
        Generator(transformer, end_id=3).generate(PROMPTS)


@pytest.mark.parametrize("model", [OfPoints, Counted])
def test_layers_that_say_they_do_not_or_how_are_run(model, uncompiled):
    transformer = built(model)
    expected, gained = Whole(transformer).greedy(PROMPTS, 4)
    end = next(i for i in range(VOCAB) if i not in np.ravel(expected))
    found, scores = Generator(transformer, end_id=end, maxlen=4).generate(PROMPTS, scores=True)
    assert found == expected
    np.testing.assert_allclose(scores, np.sum(gained, axis=1), atol=2e-4)


def test_a_failed_call_leaves_the_transformer_as_it_was():
    transformer = built(OfNeighbours)
    before = dict(vars(transformer))
    with pytest.raises(TypeError):
        Generator(transformer, end_id=3).generate(PROMPTS)
    assert transformer.cache is None
    assert {key: before[key] for key in ("inputs", "layers")} == {
        key: vars(transformer)[key] for key in ("inputs", "layers")
    }


# ---------------------------------------------------------------------------------- the signature


def test_the_signature_of_generate_names_the_options_and_their_defaults():
    parameters = inspect.signature(Generator.generate).parameters
    assert list(parameters)[:4] == ["self", "prompts", "maxlen", "minlen"]
    assert parameters["maxlen"].default is None and parameters["batch_size"].default == 32
    assert {x.kind.name for x in list(parameters.values())[2:]} == {"KEYWORD_ONLY"}
    arguments = inspect.getdoc(Generator.generate).partition("Returns:")[0]
    described = re.findall(r"^ {4}(\w+): ", arguments, flags=re.MULTILINE)
    assert described == list(parameters)[1:]
    assert "no_repeat_ngram: int = 0" in pydoc.plain(pydoc.render_doc(Generator.generate))


def test_options_that_there_are_not_are_refused(gpt2):
    with pytest.raises(TypeError, match=r"Generator\.generate\(\) got an unexpected .* 'top_k'"):
        Generator(gpt2[0], end_id=3).generate(IDS[:1], top_k=4)


# --------------------------------------------------------------------------------------- streaming


def test_a_stream_gives_the_tokens_of_generate(gpt2, tokenizer):
    transformer, whole = gpt2
    end = whole.greedy([prompt_of(IDS[0])], 5)[0][0][4]
    generator = Generator(transformer, end_id=end, maxlen=12)
    for how in ({}, {"sample": True, "seed": 5, "topk": 9}, {"repetition_penalty": 2.0}):
        assert (
            list(generator.generate(IDS[:1], stream=True, **how))
            == generator.generate(IDS[:1], **how)[0]
        )
    texts = Generator(transformer, tokenizer, end_id=end, maxlen=12)
    stream = list(texts.generate("今天天气", stream=True))
    assert "".join(stream) == texts.generate("今天天气")


def test_a_stream_begins_before_its_end(gpt2, tokenizer):
    transformer, _ = gpt2
    steps = []

    def process(probabilities, output_ids, index):
        steps.append(output_ids.shape[1])
        probabilities[:, :] = 0
        probabilities[:, 5 + output_ids.shape[1]] = 1
        return probabilities

    generator = Generator(transformer, tokenizer, end_id=3, maxlen=8)
    stream = generator.generate("今", stream=True, process_probs=process)
    assert steps == []
    assert next(stream) == tokenizer.decode([5]) and len(steps) <= 2
    assert "".join(stream) == tokenizer.decode(range(6, 13)) and len(steps) == 8


def test_streams_of_several_outputs_are_refused(gpt2):
    generator = Generator(gpt2[0], end_id=3)
    for arguments in ({"topk": 2}, {"sample": True, "n": 2}, {"scores": True}):
        with pytest.raises(ValueError, match="give one prompt, and neither topk, n nor scores"):
            generator.generate(IDS[:1], stream=True, **arguments)
    with pytest.raises(ValueError, match="stream=True got 3 prompts"):
        generator.generate(IDS, stream=True)


# ------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("prompts", "arguments", "message"),
    [
        ([[5], []], {}, "prompt 1 is empty: give at least one token, or a start_id"),
        ([[5], ""], {}, "prompt 1 is empty"),
        ([[5], ("", "")], {}, "prompt 1 is empty"),
        (
            [[5], [6] * 90],
            {},
            "prompt 1 has 90 tokens, and 8 more do not fit into the 96 positions",
        ),
        ([[5], [6, 40]], {}, "prompt 1 holds the token id 40, and the model has 40 tokens"),
        ([[5], [-1]], {}, "prompt 1 holds the token id -1"),
        ([[5], "今天"], {}, "prompt 1 is a text: pass tokenizer= to Generator"),
        ([[5], [0.5]], {}, "prompt 1 is .*give a text"),
        ([[5], ([6, 7], [0])], {}, "prompt 1 has 2 token ids and 1 segment ids"),
        ([[5]], {"topk": 41}, "topk=41 is more than the 40 tokens of the model"),
        ([[5]], {"topp": 0.5}, "topp belongs to sampling"),
        ([[5]], {"minlen": 9}, "minlen=9 is larger than maxlen=8"),
        ([[[5]], []], {"vote": True}, "voting group 1 is .*at least one"),
        ([[[5]], [[6], []]], {"vote": True}, "prompt 1 of group 1 is empty"),
        ([[[5]], "今天"], {"vote": True}, "voting group 1 is '今天'"),
        ([[5], [6]], {"allowed": lambda ids: []}, "allowed returned .* after .* of prompt 0"),
        ([[5], [6]], {"allowed": lambda ids: [40]}, "allowed returned .*below 40"),
        ([[5], [6]], {"allowed": [lambda ids: [5]]}, "1 functions for 2 prompts"),
        ([[5]], {"process_probs": lambda p, ids, i: p[0]}, "process_probs returned.*prompt 0"),
        ([[5]], {"process_probs": lambda p, ids, i: -p}, "process_probs returned.*prompt 0"),
        ([[5]], {"process_probs": lambda p, ids, i: 0 * p}, "zeros only for prompt 0, after"),
        ([[5]], {"conditions": [[[1.0]]]}, "conditions has arrays"),
        ([[5], {6: 1}], {}, "prompt 1 is .*give a text"),
        ([[5], {6, 7}], {}, "prompt 1 is .*give a text"),
        ({5: 6}, {}, "got a dict: give a text, or a list"),
        (
            [[5], ([6, 7], [0, -1])],
            {},
            "prompt 1 holds the segment -1, and segments are numbered from 0",
        ),
        *(
            ([[5]], {name: x}, f"{name}={x}: give a finite number")
            for name in ("temperature", "repetition_penalty", "length_penalty", "diversity")
            for x in (np.inf, np.nan, -1)
        ),
        ([[5]], {"temperature": 0}, "temperature=0: give a number above 0"),
        ([[5]], {"temperature": "1"}, "temperature='1': give a finite number"),
        ([[5]], {"sample": True, "topp": np.nan}, "topp=nan: give a finite number"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_errors_say_what_is_wrong_with_which_prompt(gpt2, prompts, arguments, message):
    generator = Generator(gpt2[0], end_id=3, maxlen=8)
    with pytest.raises(ValueError, match=message):
        generator.generate(prompts, **arguments)


def test_ids_and_segments_that_the_model_does_not_have_are_refused(gpt2):
    generator = Generator(gpt2[0], end_id=3, maxlen=8)
    for wrong in (-1, 40):
        for search in (generator.beam_search, generator.random_sample):
            with pytest.raises(ValueError, match=f"holds the token id {wrong}"):
                search([np.array([5, wrong])], 1)
        with pytest.raises(ValueError, match=f"start_id holds the token id {wrong}"):
            Generator(gpt2[0], end_id=3, start_id=wrong)
    unilm, _ = model_of("bert-unilm")
    with pytest.raises(ValueError, match="segment_id holds the segment 2, and the model has 2"):
        Generator(unilm, end_id=3, segment_id=2)
    with pytest.raises(ValueError, match="prompt 0 holds the segment 7"):
        Generator(unilm, end_id=3).generate([([5, 6], [0, 7])])


def test_one_id_without_a_token_does_not_lose_the_others(gpt2, tokenizer):
    small = Tokenizer(dict(list(tokenizer.token_dict.items())[:30]))
    written = [[6, 35, 7], [8, 9]]

    def process(probabilities, output, index):
        tokens = [*written[index], 3]
        probabilities[:] = 0
        probabilities[:, tokens[output.shape[1]]] = 1
        return probabilities

    generator = Generator(gpt2[0], small, end_id=3, maxlen=8)
    with pytest.warns(UserWarning, match="the model wrote 35, which is no token of the tokenizer"):
        texts = generator.generate([[5], [6]], process_probs=process)
    assert texts == [tokenizer.decode([6, 7]), tokenizer.decode([8, 9])]
    with pytest.warns(UserWarning, match="35"):
        assert "".join(generator.generate([[5]], stream=True, process_probs=process)) == texts[0]


def test_a_prompt_that_just_fits_is_written_on(gpt2):
    generator = Generator(gpt2[0], end_id=3, maxlen=8)
    assert len(generator.generate([[6] * 89], minlen=8)[0]) >= 7
    with pytest.raises(ValueError, match="cut the prompt to 89 tokens"):
        generator.generate([[6] * 90])


def test_missing_conditions_are_named():
    transformer, _ = model_of("condition")
    generator = Generator(transformer, end_id=3)
    with pytest.raises(ValueError, match=r"give one array with 3 rows .* which are \['Cond'\]"):
        generator.generate(PROMPTS)
    with pytest.raises(ValueError, match="with 3 rows"):
        generator.generate(PROMPTS, conditions=[np.zeros((2, 3))])


@pytest.mark.parametrize(
    "how",
    [{}, {"topk": 2}, {"allowed": lambda ids: range(VOCAB)}],
    ids=["greedy", "beams", "allowed"],
)
def test_nan_is_refused_and_the_prompt_named(how):
    transformer, _ = model_of("condition")
    generator = Generator(transformer, end_id=3, maxlen=3)
    condition = np.array([[0.5, -1, 2], [np.nan, 0, 0], [0, 1, 1]])
    with pytest.raises(ValueError, match="the model gives NaN for prompt 1"):
        generator.generate(PROMPTS, conditions=[condition], batch_size=2, **how)
    assert len(generator.generate(PROMPTS[:1], conditions=[condition[:1]], **how)) == 1


@pytest.mark.parametrize("end", [None, [], 40, -1, "。", 2.5, [3, "甲"]], ids=str)
def test_unknown_end_tokens_are_refused(gpt2, tokenizer, end):
    with pytest.raises(ValueError, match="end"):
        Generator(gpt2[0], end_id=end)
    with pytest.raises(ValueError, match="the end token '甲' is unknown"):
        Generator(gpt2[0], tokenizer, end_id="甲")


def test_what_cannot_generate_is_refused(gpt2, tmp_path):
    x = keras.Input((None,), dtype="int32")
    plain = keras.Model(x, keras.layers.Embedding(5, 4)(x))
    gpt2[0].model.save(tmp_path / "model.keras")
    t5 = model_of("t5.1.1")[0]
    for model, message in (
        (plain, "got a Functional: give what build_transformer_model return"),
        (keras.models.load_model(tmp_path / "model.keras"), "loaded from a .keras file"),
        (built("bert"), "got a BERT"),
        (built("bert").model, "got a BERT"),
        (None, "got a NoneType"),
        (t5.decoder, "got the decoder of T5 alone"),
        (t5.encoder, "got a T5_Encoder"),
        (built("bert", "lm", with_mlm="sigmoid"), "with_mlm='sigmoid'"),
        (built("t5.1.0", with_lm=False), "with_lm=False"),
    ):
        with pytest.raises(TypeError, match=message):
            Generator(model, end_id=3)


def test_models_with_caches_of_their_own_are_refused():
    caches = [keras.Input((None, 16)) for _ in range(2)]
    transformer = build_transformer_model(
        model="bert",
        application="lm",
        return_keras_model=False,
        attention_caches={"Transformer-0-MultiHeadSelfAttention": caches},
        additional_input_layers=caches,
        **SIZES,
    )
    with pytest.raises(TypeError, match="attention_caches"):
        Generator(transformer, end_id=3)


def test_a_model_with_scores_at_chosen_positions_only_is_refused():
    settings = {"model": "bert", "application": "unilm", "with_mlm": True, **SIZES}
    settings["return_keras_model"] = False
    part = build_transformer_model(masked_positions=True, **settings)
    with pytest.raises(TypeError, match=r"build another one without it, with layers="):
        Generator(part, end_id=3)
    assert Generator(build_transformer_model(layers=part.layers, **settings), end_id=3)


def test_a_predict_of_ones_own_is_not_passed_over(gpt2):
    class Mine(Generator):
        @Generator.wraps(default_rtype="logits")
        def predict(self, inputs, output_ids, states):
            return np.eye(VOCAB)[[7] * len(output_ids)] * 9

    mine = Mine(gpt2[0], end_id=3, maxlen=3)
    with pytest.raises(TypeError, match=r"Mine has a predict\(\) of its own"):
        mine.generate(IDS)
    assert mine.beam_search([IDS[0]], topk=1).tolist() == [7, 7, 7]


# ------------------------------------------------------------------------------------------ memory


def resident():
    """Bytes of memory that this process uses, of the kernel's books."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux only")
@pytest.mark.long
def test_memory_does_not_grow(tiny, monkeypatch):
    monkeypatch.setattr(replay, "PATIENCE", 2)  # what PyTorch records is there before
    generator = Generator(tiny, end_id=3, maxlen=4)
    prompts = [[[5 + n % 7] * n] * (1 + n % 3) for n in range(1, 51)]
    for i in range(100):
        generator.generate(prompts[i % 50])
    gc.collect()
    before, n_calls = resident(), 250
    for i in range(n_calls):
        generator.generate(prompts[i % 50])
    gc.collect()
    assert resident() - before < n_calls * 16384
