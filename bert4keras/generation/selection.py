"""Which tokens follow, given the scores of all tokens: greedy, sampling, beam search.

All functions take and return tensors and run inside of compiled code. Shapes: `batch` prompts (or
groups of prompts that vote), `n` hypotheses of each, `room` slots for the output.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keras import ops

from bert4keras.backend.tensors import Tensor, softmax

State = dict[str, Any]
"""Tensors by name, what one step hands to the next."""

NOTHING = -float("inf")


@dataclass(frozen=True)
class Settings:
    """What the compiled code depends on; mere numbers are arguments of it.

    Attributes:
        n: hypotheses of each prompt: beams or samples.
        sample: draw tokens; otherwise the best are taken.
        beam: beam search; otherwise hypotheses know nothing of each other.
        groups: into how many groups the beams are divided.
        topk: draw from that many best tokens; None for all.
        topp: whether tokens are cut off by probability mass.
        min_p: whether tokens are cut off by a fraction of the largest probability.
        temperature: whether scores are divided by a temperature.
        repetition: whether tokens of the output are made less likely.
        ngram: no n-gram of that size comes twice in an output; 0 allows all.
        ends: the tokens that end an output.
        room: how many tokens fit into the output.
    """

    n: int
    sample: bool
    beam: bool
    groups: int
    topk: int | None
    topp: bool
    min_p: bool
    temperature: bool
    repetition: bool
    ngram: int
    ends: tuple[int, ...]
    room: int


def initial_state(settings: Settings, batch: int, vocab_size: int, prompts: Tensor) -> State:
    """What selection remembers before the first token.

    Args:
        settings: see there.
        batch: number of prompts.
        vocab_size: number of tokens.
        prompts: (batch,), true for prompts, false for rows that only fill the batch up.
    """
    n, room = settings.n, settings.room
    padding = ops.broadcast_to(ops.logical_not(prompts)[:, None], (batch, n))
    state = {
        "step": ops.zeros((), "int32"),
        "finished": padding,
        "totals": ops.zeros((batch, n)),
        "lengths": ops.zeros((batch, n), "int32"),
        "output": ops.zeros((batch, n, room), "int32"),
    }
    if settings.repetition:
        state["seen"] = ops.zeros((batch, n, vocab_size), "bool")
    if settings.beam:
        # Before the first token all beams are the same: the first of a group counts.
        first = ops.arange(n) % (n // settings.groups) == 0
        state["totals"] += ops.where(first, 0.0, NOTHING)
        state["ended_output"] = ops.zeros((batch, n, room), "int32")
        state["ended_lengths"] = ops.ones((batch, n), "int32")
        state["ended_totals"] = ops.full((batch, n), NOTHING)
    return state


def select(settings: Settings, scores: Tensor, state: State, numbers: Mapping) -> tuple:
    """Choose the next token of every hypothesis.

    Args:
        settings: see there.
        scores: (batch, n, vocab_size), logarithms of probabilities.
        state: see `initial_state`; `random` (batch, n, room) besides if tokens are drawn.
        numbers: temperature, topp, … by name, scalars.

    Returns:
        The new state; tokens (batch, n); and of which hypothesis each of them goes on (batch, n),
        None if each goes on from itself.
    """
    scores = adjusted(settings, scores, state, numbers)
    if settings.beam:
        return select_beams(settings, scores, state, numbers)
    return select_apart(settings, scores, state, numbers)


def adjusted(settings: Settings, scores: Tensor, state: State, numbers: Mapping) -> Tensor:
    """Scores under the temperature, with what must not come made impossible."""
    if settings.temperature:
        scores = ops.log_softmax(scores / numbers["temperature"], axis=-1)
    if settings.repetition:
        penalty = ops.where(state["seen"], numbers["repetition_penalty"], 1.0)
        scores = ops.where(scores > NOTHING, scores * penalty, scores)
    vocabulary = ops.arange(scores.shape[-1], dtype="int32")
    too_early = ops.logical_and(is_end(settings, vocabulary), state["step"] + 1 < numbers["minlen"])
    scores = ops.where(too_early, NOTHING, scores)
    if settings.ngram:
        banned = repeating(state["output"], state["step"], settings.ngram)[..., None] == vocabulary
        scores = ops.where(ops.any(banned, axis=2), NOTHING, scores)
    return scores


def is_end(settings: Settings, tokens: Tensor) -> Tensor:
    """Tell which tokens end an output."""
    return ops.any(ops.equal(tokens[..., None], ops.convert_to_tensor(settings.ends)), axis=-1)


def repeating(output: Tensor, step: Tensor, size: int) -> Tensor:
    """Tokens that would complete an n-gram for the second time.

    Args:
        output: (batch, n, room), the tokens so far.
        step: how many there are.
        size: the n of the n-gram.

    Returns:
        (batch, n, room), at each slot the token there if what comes before it is what came last,
        otherwise −1.
    """
    room = output.shape[-1]
    slots = ops.arange(room, dtype="int32")
    repeats = ops.logical_and(slots >= size - 1, slots < step)
    for back in range(1, size):
        earlier = ops.roll(output, back, axis=-1)
        last = ops.take(output, ops.maximum(step - back, 0), axis=-1)
        repeats = ops.logical_and(repeats, ops.equal(earlier, last[..., None]))
    return ops.where(ops.logical_and(repeats, step >= size - 1), output, -1)


def select_apart(settings: Settings, scores: Tensor, state: State, numbers: Mapping) -> tuple:
    """The next tokens of hypotheses that know nothing of each other; see `select`."""
    step, finished = state["step"], state["finished"]
    if settings.sample:
        uniform = ops.take(state["random"], step, axis=-1)
        tokens = drawn(settings, scores, uniform, numbers)
    else:
        tokens = ops.cast(ops.argmax(scores, axis=-1), "int32")
    gained = ops.take_along_axis(scores, tokens[..., None], axis=-1)[..., 0]
    # Where nothing is possible any more, the output ends.
    tokens = ops.where(ops.logical_or(finished, gained == NOTHING), settings.ends[0], tokens)
    new = state | {
        "totals": state["totals"] + ops.where(finished, 0.0, gained),
        "lengths": state["lengths"] + ops.cast(ops.logical_not(finished), "int32"),
        "finished": ops.logical_or(finished, is_end(settings, tokens)),
    }
    return advanced(new, tokens), tokens, None


def drawn(settings: Settings, scores: Tensor, uniform: Tensor, numbers: Mapping) -> Tensor:
    """Draw tokens by the inverse of the cumulative distribution.

    A single number decides, so that a seed gives the same tokens on every backend.

    Args:
        settings: `topk`, `topp` and `min_p` of it.
        scores: (batch, n, vocab_size).
        uniform: (batch, n), above 0 and at most 1.
        numbers: those for `topp` and `min_p`.

    Returns:
        (batch, n).
    """
    tokens = None
    if settings.topk or settings.topp:
        scores, tokens = ops.top_k(scores, settings.topk or scores.shape[-1])
    weights = softmax(scores)
    if settings.topp:
        before = ops.cumsum(weights, axis=-1) - weights
        weights = ops.where(before < numbers["topp"], weights, 0.0)
    if settings.min_p:
        largest = ops.max(weights, axis=-1, keepdims=True)
        weights = ops.where(weights >= numbers["min_p"] * largest, weights, 0.0)
    cumulative = ops.cumsum(weights, axis=-1)
    threshold = uniform[..., None] * cumulative[..., -1:]
    index = ops.sum(ops.cast(cumulative < threshold, "int32"), axis=-1)
    if tokens is None:
        return index
    return ops.cast(ops.take_along_axis(tokens, index[..., None], axis=-1)[..., 0], "int32")


def advanced(state: State, tokens: Tensor) -> State:
    """The state with the chosen tokens (batch, n) at the end of the outputs."""
    step = state["step"]
    output = ops.slice_update(state["output"], [0, 0, step], tokens[..., None])
    new = state | {"output": output, "step": step + 1}
    if "seen" in state:
        vocabulary = ops.arange(state["seen"].shape[-1], dtype="int32")
        new["seen"] = ops.logical_or(state["seen"], vocabulary == tokens[..., None])
    return new


def select_beams(settings: Settings, scores: Tensor, state: State, numbers: Mapping) -> tuple:
    """The next tokens of beams, see `select`.

    The beams of a group compete with each other. Groups choose one after the other, and a token
    that earlier groups have chosen in the same step ranks lower in the later ones (Vijayakumar et
    al., 2018, https://arxiv.org/abs/1610.02424); the totals do not know of that.
    """
    size = settings.n // settings.groups
    taken = ops.zeros((scores.shape[0], scores.shape[-1]))
    chosen = []
    for start in range(0, settings.n, size):
        part = {
            name: value[:, start : start + size]
            for name, value in state.items()
            if name in ("totals", "output") or name.startswith("ended_")
        }
        penalty = numbers["diversity"] * taken if settings.groups > 1 else None
        part = select_group(
            settings, scores[:, start : start + size], part, state["step"], penalty, numbers
        )
        if settings.groups > 1:
            taken += ops.sum(ops.one_hot(part["tokens"], scores.shape[-1]), axis=1)
        chosen.append(part | {"parents": part["parents"] + start})
    joined = {name: ops.concatenate([part[name] for part in chosen], 1) for name in chosen[0]}
    tokens, parents, done = (joined.pop(name) for name in ("tokens", "parents", "done"))
    new = state | joined
    new["output"] = ops.take_along_axis(state["output"], parents[..., None], axis=1)
    new["finished"] = ops.logical_or(state["finished"], ops.all(done, axis=1, keepdims=True))
    new["lengths"] = ops.broadcast_to(state["step"] + 1, tokens.shape)
    if settings.repetition:
        new["seen"] = ops.take_along_axis(state["seen"], parents[..., None], axis=1)
    return advanced(new, tokens), tokens, parents


def select_group(
    settings: Settings,
    scores: Tensor,
    state: State,
    step: Tensor,
    penalty: Tensor | None,
    numbers: Mapping,
) -> State:
    """One step of a group of beams.

    Args:
        settings: see there.
        scores: (batch, size, vocab_size).
        state: the totals, outputs and ended outputs of the group.
        step: how many tokens there are so far.
        penalty: (batch, vocab_size), subtracted for the ranking only.
        numbers: `length_penalty`, `maxlen` and `results` of it.

    Returns:
        New totals and ended outputs; `tokens` and `parents` (batch, size) of the beams that go on;
        `done` (batch, 1), whether no beam can become one of the results any more.
    """
    batch, size, vocab_size = scores.shape
    totals = ops.reshape(state["totals"][..., None] + scores, (batch, size * vocab_size))
    ranks = totals
    if penalty is not None:
        ranks = totals - ops.tile(penalty, (1, size))
    # So many that `size` of them go on even if the others end.
    n_candidates = min(size * (1 + len(settings.ends)), size * vocab_size)
    ranks, index = ops.top_k(ranks, n_candidates)
    totals = ops.take_along_axis(totals, index, axis=1)
    index = ops.cast(index, "int32")
    parents, tokens = index // vocab_size, index % vocab_size
    ends = is_end(settings, tokens)

    # An output ends if its end token is among the best `size` candidates.
    length = ops.cast(step + 1, "float32")
    ended = ops.where(ends, totals, NOTHING)[:, :size] / length ** numbers["length_penalty"]
    ended_output = ops.take_along_axis(state["output"], parents[:, :size, None], axis=1)
    ended_output = ops.slice_update(ended_output, [0, 0, step], tokens[:, :size, None])
    all_totals = ops.concatenate([state["ended_totals"], ended], axis=1)
    ended_totals, best = ops.top_k(all_totals, size)
    lengths = ops.broadcast_to(step + 1, (batch, size))
    all_lengths = ops.concatenate([state["ended_lengths"], lengths], axis=1)
    all_output = ops.concatenate([state["ended_output"], ended_output], axis=1)

    going = ops.top_k(ops.where(ends, NOTHING, ranks), size)[1]
    totals = ops.take_along_axis(ops.where(ends, NOTHING, totals), going, axis=1)
    # Logarithms are negative: the most that a beam can come to is its total now, at full length.
    limit = ops.max(totals, axis=1) / numbers["maxlen"] ** numbers["length_penalty"]
    last_result = ops.take(ended_totals, ops.minimum(numbers["results"], size) - 1, axis=1)
    return {
        "totals": totals,
        "ended_totals": ended_totals,
        "ended_lengths": ops.take_along_axis(all_lengths, best, axis=1),
        "ended_output": ops.take_along_axis(all_output, best[..., None], axis=1),
        "tokens": ops.take_along_axis(tokens, going, axis=1),
        "parents": ops.take_along_axis(parents, going, axis=1),
        "done": (last_result >= limit)[:, None],
    }
