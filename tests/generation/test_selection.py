"""Choosing tokens: sampling against exact distributions, beams, options, prompts, streaming."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert4keras.generation.call import hypotheses
from bert4keras.generation.options import FALLBACKS, Options
from bert4keras.generation.prompts import next_power_of_two, pad_rows
from bert4keras.generation.selection import (
    Settings,
    initial_state,
    repeated_ngram_tokens,
    sample_tokens,
    select,
)
from bert4keras.generation.streaming import stream_text
from bert4keras.tokenizers import SpTokenizer, Tokenizer

ops = keras.ops
backend = pytest.mark.backend


def options(**changes):
    """Options like those of `generate` without arguments."""
    return replace(Options(**FALLBACKS, maxlen=16, minlen=1), **changes).validated()


# ------------------------------------------------------------------------------------ sampling

PROBABILITIES = np.array([0.02, 0.3, 0.08, 0.15, 0.05, 0.2, 0.01, 0.12, 0.03, 0.04])


def exact(topk=None, topp=None, min_p=None, temperature=1.0):
    """The distribution that is to be sampled from, written from the definitions of the options."""
    p = PROBABILITIES ** (1 / temperature)
    p = p / p.sum()
    if topk is not None:
        p[np.argsort(-p)[topk:]] = 0
        p = p / p.sum()
    if topp is not None:
        mass = 0.0
        for token in np.argsort(-p):
            p[token], mass = (0 if mass >= topp else p[token]), mass + p[token]
    if min_p is not None:
        p[p < min_p * p.max()] = 0
    return p / p.sum()


def draw(count, seed=0, **changes):
    """Tokens sampled in one call of `select`, each by a hypothesis of its own."""
    chosen = options(sample=True, n=count, **changes)
    chosen_settings = chosen.settings([0], len(PROBABILITIES))
    uniform = 1 - np.random.default_rng(seed).random((1, count, 1), dtype="float32")
    scores = np.log(PROBABILITIES).astype("float32")
    scores = np.broadcast_to(scores, (1, count, len(scores)))
    state = initial_state(chosen_settings, 1, len(PROBABILITIES), ops.ones((1,), "bool"))
    state["uniform"] = ops.convert_to_tensor(uniform)
    _, tokens, parents = select(
        chosen_settings, ops.convert_to_tensor(scores), state, chosen.sampling_params()
    )
    assert parents is None
    return ops.convert_to_numpy(tokens)[0]


def chi_square(counts, p):
    """How far counts are from a distribution, as a standard normal number (Wilson and Hilferty)."""
    if counts[p == 0].any():
        return np.inf
    expected = p * counts.sum()
    degrees = (p > 0).sum() - 1
    if degrees == 0:
        return 0.0
    statistic = ((counts - expected)[p > 0] ** 2 / expected[p > 0]).sum()
    variance = 2 / (9 * degrees)
    return ((statistic / degrees) ** (1 / 3) - 1 + variance) / variance**0.5


CUTS = [
    {},
    {"topk": 4},
    {"topk": 1},
    {"topk": 10},
    {"topp": 0.6},
    {"topp": 0.01},
    {"topp": 1.0},
    {"min_p": 0.3},
    {"min_p": 1.0},
    {"temperature": 0.5},
    {"temperature": 3.0},
    {"topk": 6, "topp": 0.7},
    {"topk": 6, "min_p": 0.25},
    {"topp": 0.9, "min_p": 0.2},
    {"topk": 7, "topp": 0.95, "min_p": 0.1, "temperature": 1.7},
    {"topp": 0.5, "temperature": 0.4},
]


@backend
@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_drawn_tokens_pass_a_chi_square_test(cut):
    counts = np.bincount(draw(20_000, **cut), minlength=len(PROBABILITIES))
    assert chi_square(counts, exact(**cut)) < 3.5
    for other in ({"topk": 2}, {"topk": 9}):  # these are told apart
        counts = np.bincount(draw(20_000, **other), minlength=len(PROBABILITIES))
        assert chi_square(counts, exact(**cut)) > 3.5


@backend
def test_a_drawing_is_the_inverse_of_the_cumulative_distribution():
    """So each seed gives the same tokens everywhere, and `uniform` at its ends stays in range."""
    scores = ops.convert_to_tensor(np.log(PROBABILITIES).astype("float32")[None, None])
    for size in (None, 4):
        chosen = options(sample=True, topk=size)
        order = np.argsort(-PROBABILITIES, kind="stable")[:size] if size else np.arange(10)
        cumulative = np.cumsum(PROBABILITIES[order]) / PROBABILITIES[order].sum()
        for uniform in (1e-9, 0.013, 0.2, 0.5, 0.77, 0.999, 1.0):
            found = sample_tokens(
                chosen.settings([0], 10),
                scores,
                ops.convert_to_tensor(np.array([[uniform]], "float32")),
                chosen.sampling_params(),
            )
            index = min(np.searchsorted(cumulative, uniform), len(order) - 1)
            assert int(found[0, 0]) == order[index]


@backend
def test_impossible_tokens_are_never_drawn():
    scores = np.full((1, 5000, 6), -np.inf, "float32")
    scores[:, :, [2, 4]] = np.log([0.25, 0.75])
    uniform = 1 - np.random.default_rng(1).random((1, 5000), dtype="float32")
    for cut in ({}, {"topk": 4}, {"topp": 0.999}, {"min_p": 0.0}):
        chosen = options(sample=True, **cut)
        found = sample_tokens(
            chosen.settings([0], 6),
            ops.convert_to_tensor(scores),
            ops.convert_to_tensor(uniform),
            chosen.sampling_params(),
        )
        counts = np.bincount(ops.convert_to_numpy(found)[0], minlength=6)
        assert counts[[2, 4]].sum() == 5000 and 1100 < counts[2] < 1400


@backend
def test_seeds_draw_the_same_on_every_backend():
    assert draw(12, seed=3).tolist() == DRAWN["3"]
    assert draw(12, seed=3).tolist() == draw(12, seed=3).tolist()
    assert draw(12, seed=4).tolist() == DRAWN["4"] != DRAWN["3"]
    assert draw(12, seed=3, topk=6, topp=0.8, temperature=1.5).tolist() == DRAWN["cut"]


DRAWN = {
    "3": [1, 7, 7, 5, 7, 1, 1, 3, 9, 7, 5, 4],
    "4": [1, 1, 1, 3, 1, 1, 1, 7, 3, 2, 5, 5],
    "cut": [1, 7, 7, 3, 7, 1, 1, 5, 7, 7, 3, 5],
}


# ------------------------------------------------------------------------------------ n-grams


@backend
@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=0, max_size=12), st.integers(1, 4))
def test_tokens_that_would_repeat_an_ngram_are_found(output, size):
    output_ids = np.zeros((1, 1, 16), "int32")
    output_ids[0, 0, : len(output)] = output
    step = ops.convert_to_tensor(len(output), dtype="int32")
    found = ops.convert_to_numpy(
        repeated_ngram_tokens(ops.convert_to_tensor(output_ids), step, size)
    )
    ngrams = {tuple(output[i : i + size]) for i in range(len(output) - size + 1)}
    expected = {t for t in range(4) if (*output[len(output) - size + 1 :], t)[-size:] in ngrams}
    if len(output) < size - 1:
        expected = set()
    assert set(found.ravel().tolist()) - {-1} == expected


# ------------------------------------------------------------------------------------- beams

ENDS = (0, 1)


def next_scores(ids, vocab=7):
    """Logarithms of a distribution that depends on what comes before."""
    seed = [len(ids), *ids]
    scores = np.random.default_rng(seed).normal(0, 1.5, vocab)
    return scores - np.log(np.exp(scores).sum())


def beam_search(size, maxlen, groups=1, diversity=0.0, length_penalty=0.0, minlen=1, ends=ENDS):
    """Beam search as it is documented, hypothesis by hypothesis; returns [(score, ids)] sorted."""
    width = size // groups
    live = [[([], 0.0)] for _ in range(groups)]
    ended = [[] for _ in range(groups)]
    for step in range(1, maxlen + 1):
        taken = np.zeros(7)
        for g in range(groups):
            candidates = []
            for ids, total in live[g]:
                for token, score in enumerate(next_scores(ids)):
                    if token in ends and step < minlen:
                        continue
                    rank = total + score - diversity * taken[token]
                    candidates.append((rank, total + score, [*ids, token]))
            candidates.sort(key=lambda x: -x[0])
            for _, total, ids in candidates[:width]:
                if ids[-1] in ends:
                    ended[g].append((total / step**length_penalty, ids))
            ended[g] = sorted(ended[g], key=lambda x: -x[0])[:width]
            going = [(ids, total) for _, total, ids in candidates if ids[-1] not in ends]
            live[g] = going[:width]
            for ids, _ in live[g]:
                taken[ids[-1]] += 1
    cut = [(total / maxlen**length_penalty, ids) for group in live for ids, total in group]
    return sorted([x for group in ended for x in group] + cut, key=lambda x: -x[0])


def search(size, maxlen, ends=ENDS, n=None, **changes):
    """The same by `select`, whose scores come from NumPy; the first n results are final."""
    chosen = options(topk=size, n=n or size, maxlen=maxlen, **changes)
    chosen_settings = chosen.settings(ends, 7)
    state = initial_state(chosen_settings, 1, 7, ops.ones((1,), "bool"))
    for step in range(maxlen):
        output = ops.convert_to_numpy(state["output_ids"])[0, :, :step].tolist()
        scores = np.array([[next_scores(ids) for ids in output]], "float32")
        state, tokens, parents = select(
            chosen_settings, ops.convert_to_tensor(scores), state, chosen.sampling_params()
        )
        tokens, parents = ops.convert_to_numpy(tokens)[0], ops.convert_to_numpy(parents)[0]
        written = ops.convert_to_numpy(state["output_ids"])[0, :, : step + 1].tolist()
        assert written == [[*output[p], t] for p, t in zip(parents, tokens, strict=True)]
        if ops.convert_to_numpy(state["finished"]).all():
            break
    (found,) = hypotheses(chosen_settings, state, 1, chosen)
    return found, step + 1


def without_end(ids):
    return ids[:-1] if ids and ids[-1] in ENDS else ids


@backend
@pytest.mark.parametrize(
    "arguments",
    [
        {"size": 2, "maxlen": 5},
        {"size": 3, "maxlen": 8, "length_penalty": 1.0},
        {"size": 4, "maxlen": 6, "length_penalty": 0.6, "minlen": 4},
        {"size": 5, "maxlen": 12, "length_penalty": 2.0},
        {"size": 6, "maxlen": 6, "groups": 3, "diversity": 1.5},
        {"size": 4, "maxlen": 6, "groups": 2, "diversity": 0.0},
        {"size": 4, "maxlen": 6, "groups": 4, "diversity": 0.7, "length_penalty": 1.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("n", [None, 1, 2])
def test_beams_are_those_of_a_search_in_numpy(arguments, n):
    found, _ = search(**arguments, n=n)
    expected = beam_search(**arguments)
    n = n or arguments["size"]
    assert [ids for ids, _ in found[:n]] == [without_end(ids) for _, ids in expected[:n]]
    np.testing.assert_allclose(
        [score for _, score in found[:n]], [score for score, _ in expected[:n]], atol=1e-5
    )


@backend
def test_a_search_stops_when_nothing_can_become_better():
    found, steps = search(2, 64)
    assert steps < 20
    assert [ids for ids, _ in found[:2]] == [without_end(x) for _, x in beam_search(2, 20)[:2]]


@backend
@pytest.mark.parametrize("length_penalty", [0.0, 1.5])
def test_wide_beams_find_the_best_of_all_outputs(length_penalty):
    """After one token seven beams hold every output, so the second step sees them all."""
    everything = []
    for first in range(7):
        total = next_scores([])[first]
        if first in ENDS:
            everything.append((total, [first]))
            continue
        for second, score in enumerate(next_scores([first])):
            everything.append(((total + score) / 2**length_penalty, [first, second]))
    everything.sort(key=lambda x: -x[0])
    found, _ = search(7, 2, length_penalty=length_penalty)
    assert [ids for ids, _ in found[:7]] == [without_end(ids) for _, ids in everything[:7]]


# ------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"maxlen": 0}, "maxlen=0: give a whole number of at least 1"),
        ({"maxlen": 2.5}, "maxlen=2.5"),
        ({"minlen": 17}, "minlen=17 is larger than maxlen=16"),
        ({"minlen": -1}, "minlen=-1"),
        ({"topk": 0}, "topk=0: give a whole number of at least 1"),
        ({"topk": True}, "topk=True"),
        ({"n": 0}, "n=0"),
        ({"n": 2}, "n=2 results are more than the 1 of topk"),
        ({"topk": 3, "n": 4}, "n=4 results are more than the 3 of topk"),
        ({"topp": 0.5}, "topp belongs to sampling: pass sample=True"),
        ({"min_p": 0.5}, "min_p belongs to sampling"),
        ({"sample": True, "topp": 0.0}, "topp=0.0: give a number above 0 and at most 1"),
        ({"sample": True, "topp": 1.1}, "topp=1.1"),
        ({"sample": True, "min_p": -0.1}, "min_p=-0.1"),
        ({"temperature": 0}, "temperature=0: give a number above 0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"groups": 0}, "groups=0"),
        ({"topk": 4, "groups": 3}, "topk=4 beams do not divide into groups=3"),
        ({"topk": 4, "diversity": 1.0}, "diversity is between groups"),
        ({"topk": 4, "groups": 2, "diversity": -1.0}, "diversity=-1.0"),
        ({"length_penalty": -1.0}, "length_penalty=-1.0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0"),
        ({"no_repeat_ngram": -1}, "no_repeat_ngram=-1"),
        ({"seed": 1}, "seed belongs to sampling"),
        ({"sample": True, "groups": 2}, "groups is for beam search"),
        ({"sample": True, "length_penalty": 1.0}, "length_penalty is for beam search"),
        ({"sample": True, "diversity": 1.0}, "diversity is for beam search"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        options(**changes)


def test_options_decide_what_is_compiled_and_what_is_a_mere_number():
    plain = options().settings([2], 50)
    assert plain == Settings(1, False, False, 1, None, False, False, False, False, 0, (2,), 16)
    other_numbers = options(maxlen=10, minlen=4).settings([2], 50)
    assert other_numbers == plain
    beams = options(topk=4, groups=2, diversity=0.5).settings([2], 50)
    assert (beams.n, beams.beam_search, beams.groups, beams.topk) == (4, True, 2, None)
    samples = options(sample=True, topk=4, n=3, topp=0.9).settings([2], 50)
    assert (samples.n, samples.beam_search, samples.topk, samples.use_topp) == (3, False, 4, True)
    again = options(sample=True, topk=4, n=3, topp=0.2).settings([2], 50)
    assert samples == again


def test_topk_over_the_vocabulary_is_refused():
    options(topk=50).settings([2], 50)
    for sample in (False, True):
        with pytest.raises(ValueError, match="topk=51 is more than the 50 tokens of the model"):
            options(topk=51, sample=sample).settings([2], 50)


# ------------------------------------------------------------------------------------- prompts


def test_rows_are_padded_on_either_side():
    rows = [[1, 2, 3], [4], []]
    assert pad_rows(rows, 4).tolist() == [[1, 2, 3, 0], [4, 0, 0, 0], [0] * 4]
    assert pad_rows(rows, 4, left=True).tolist() == [[0, 1, 2, 3], [0, 0, 0, 4], [0] * 4]
    assert pad_rows(rows, 3, fill=9).tolist() == [[1, 2, 3], [4, 9, 9], [9] * 3]


def test_batches_grow_to_powers_of_two():
    assert [next_power_of_two(n) for n in (1, 2, 3, 4, 5, 17)] == [1, 2, 4, 4, 8, 32]


# ----------------------------------------------------------------------------------- streaming

WORDS = [
    "今",
    "天",
    "你",
    "好",
    "a",
    "##b",
    "##s",
    "it",
    "don",
    "s",
    "t",
    "re",
    "ll",
    "100",
    "3",
    "5",
]
PUNCTUATION = list(".,!?'\"()[]{}<>+-/=:;%@#&*_") + list("，。！？：；《》“”‘’（）【】、…—·")
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *PUNCTUATION, "é", "##é", "Ω", "，a", "##。"]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer({token: i for i, token in enumerate(TOKENS)})


def assert_streams(ids, decode):
    found = list(stream_text(iter(ids), decode))
    whole = decode(ids)
    assert "".join(found) == whole
    assert all(found)
    if "\ufffd" not in whole:
        assert not any("\ufffd" in piece for piece in found)
    return found


@settings(max_examples=1500, deadline=None)
@given(ids=st.lists(st.integers(0, len(TOKENS) - 1), max_size=12))
def test_pieces_of_word_pieces_join_to_the_text(tokenizer, ids):
    assert_streams(ids, tokenizer.decode)


@pytest.mark.parametrize(
    "tokens",
    [
        ["it", "'", "s", "a"],
        ["it", "'", "s", "##b", "a"],
        ["don", "'", "t", "'", "s", "it"],
        ["3", ".", "5", ".", "5", "a"],
        ["今", "，", "a", "##b", "天"],
        ["it", "'", "re", "'", "ll", "'", "s"],
    ],
    ids="".join,
)
def test_text_that_later_tokens_change_is_held_back(tokenizer, tokens):
    assert_streams([TOKENS.index(token) for token in tokens], tokenizer.decode)


def test_each_ideograph_comes_at_once(tokenizer):
    ids = [TOKENS.index(token) for token in "今天你好，今天"]
    given_ids = iter(ids)
    stream = stream_text(given_ids, tokenizer.decode)
    for expected, left in (("今", 6), ("天", 5), ("你", 4), ("好", 3), ("，今", 1), ("天", 0)):
        assert next(stream) == expected
        assert given_ids.__length_hint__() == left
    assert list(stream) == []


@pytest.fixture(scope="module")
def byte_tokenizer(tmp_path_factory):
    sentencepiece = pytest.importorskip("sentencepiece")
    folder = tmp_path_factory.mktemp("sentencepiece")
    lines = [
        "今天天气很好，我们去公园。",
        "the weather is fine today",
        "don't stop 3.5 times",
        "好",
    ]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines * 20),
        model_prefix=str(folder / "bytes"),
        vocab_size=330,
        byte_fallback=True,
        hard_vocab_limit=False,
        character_coverage=0.98,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return SpTokenizer(folder / "bytes.model", token_start=None, token_end="</s>")


@settings(max_examples=300, deadline=None)
@given(
    text=st.text(
        st.one_of(
            st.sampled_from("今天好 ，a'3.🙂👩‍🚀é龘𠀀"), st.characters(exclude_categories=["Cs"])
        ),
        max_size=12,
    )
)
def test_pieces_of_bytes_are_whole_characters(byte_tokenizer, text):
    ids = byte_tokenizer.encode(text)[0]
    found = assert_streams(ids, byte_tokenizer.decode)
    assert "\ufffd" in text or "\ufffd" not in "".join(found)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_pieces_of_any_bytes_join_to_the_text(byte_tokenizer, data):
    n = byte_tokenizer._vocab_size
    ids = data.draw(st.lists(st.one_of(st.integers(0, n - 1), st.integers(3, 258)), max_size=14))
    assert_streams(ids, byte_tokenizer.decode)


def test_a_rare_character_comes_in_one_piece(byte_tokenizer):
    ids = byte_tokenizer.encode("好龘a")[0]
    assert len(ids) > 4  # three bytes stand for the character that is not in the vocabulary
    found = assert_streams(ids, byte_tokenizer.decode)
    assert any("龘" in piece for piece in found) and len(found) > 1
