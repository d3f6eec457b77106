"""Choosing the next tokens from their log-probabilities: greedily, by sampling, by beam search.

All functions take and return tensors and run inside compiled code. Shapes: `batch` prompts (or
groups of prompts that vote), `n` hypotheses of each, `output_capacity` slots for the output.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keras import ops

from bert4keras.backend.engines import written
from bert4keras.backend.tensors import Tensor, softmax

State = dict[str, Any]
"""Tensors by name that one decode step hands to the next."""

NEG_INF = -float("inf")
"""Log-probability of what is impossible."""


@dataclass(frozen=True)
class Settings:
    """The settings that functions are compiled for; values that are only numbers are arguments.

    Attributes:
        n: hypotheses of each prompt: beams or samples.
        sample: whether tokens are sampled; otherwise the most probable ones are taken.
        beam_search: whether the hypotheses of a prompt compete; otherwise each is independent.
        groups: number of groups that the beams are divided into.
        topk: number of most probable tokens to sample from; None for all.
        use_topp: whether tokens are cut off by their cumulative probability.
        use_min_p: whether tokens are cut off below a fraction of the largest probability.
        use_temperature: whether log-probabilities are divided by a temperature.
        use_repetition_penalty: whether tokens that the output already holds become less likely.
        no_repeat_ngram: size of the n-grams that may not occur twice in an output; 0 for none.
        end_ids: the tokens that end an output.
        output_capacity: number of slots for the tokens of an output.
    """

    n: int
    sample: bool
    beam_search: bool
    groups: int
    topk: int | None
    use_topp: bool
    use_min_p: bool
    use_temperature: bool
    use_repetition_penalty: bool
    no_repeat_ngram: int
    end_ids: tuple[int, ...]
    output_capacity: int


def initial_state(settings: Settings, batch: int, vocab_size: int, prompts: Tensor) -> State:
    """Create what token selection keeps between decode steps, as it is before the first token.

    Args:
        settings: the settings that the functions are compiled for.
        batch: number of prompts.
        vocab_size: number of tokens.
        prompts: (batch,), true for prompts, false for rows that only fill up the batch.

    Returns:
        `step`, the number of tokens written so far; `finished` (batch, n), whether a hypothesis has
        ended; `scores` (batch, n), sums of the log-probabilities of its tokens; `lengths`
        (batch, n); `output_ids` (batch, n, output_capacity). With a repetition penalty,
        `seen_tokens` (batch, n, vocab_size). In beam search, `finished_output_ids`,
        `finished_lengths` and `finished_scores`, the best outputs that have ended, whose scores
        include the length penalty.
    """
    n, capacity = settings.n, settings.output_capacity
    padding = ops.broadcast_to(ops.logical_not(prompts)[:, None], (batch, n))
    state = {
        "step": ops.zeros((), "int32"),
        "finished": padding,
        "scores": ops.zeros((batch, n)),
        "lengths": ops.zeros((batch, n), "int32"),
        "output_ids": ops.zeros((batch, n, capacity), "int32"),
    }
    if settings.use_repetition_penalty:
        state["seen_tokens"] = ops.zeros((batch, n, vocab_size), "bool")
    if settings.beam_search:
        # Before the first token all beams of a group are equal: only its first one is expanded.
        first = ops.arange(n) % (n // settings.groups) == 0
        state["scores"] += ops.where(first, 0.0, NEG_INF)
        state["finished_output_ids"] = ops.zeros((batch, n, capacity), "int32")
        state["finished_lengths"] = ops.ones((batch, n), "int32")
        state["finished_scores"] = ops.full((batch, n), NEG_INF)
    return state


def select(
    settings: Settings, log_probs: Tensor, state: State, sampling_params: Mapping[str, Tensor]
) -> tuple:
    """Choose the next token of every hypothesis.

    Args:
        settings: the settings that the functions are compiled for.
        log_probs: (batch, n, vocab_size).
        state: that of `initial_state` or of the step before; for sampling also `uniform`
            (batch, n, output_capacity), random numbers above 0 and at most 1.
        sampling_params: temperature, topp, … by name, scalars.

    Returns:
        The new state; tokens (batch, n); and the index of the hypothesis that each of them extends
        (batch, n), None if each hypothesis extends itself.
    """
    log_probs = process_log_probs(settings, log_probs, state, sampling_params)
    if settings.beam_search:
        return select_beams(settings, log_probs, state, sampling_params)
    return select_independent(settings, log_probs, state, sampling_params)


def process_log_probs(
    settings: Settings, log_probs: Tensor, state: State, sampling_params: Mapping[str, Tensor]
) -> Tensor:
    """Apply temperature and repetition penalty, and rule out tokens that are not allowed."""
    if settings.use_temperature:
        log_probs = ops.log_softmax(log_probs / sampling_params["temperature"], axis=-1)
    if settings.use_repetition_penalty:
        penalty = ops.where(state["seen_tokens"], sampling_params["repetition_penalty"], 1.0)
        log_probs = ops.where(log_probs > NEG_INF, log_probs * penalty, log_probs)
    vocabulary = ops.arange(log_probs.shape[-1], dtype="int32")
    too_early = ops.logical_and(
        is_end(settings, vocabulary), state["step"] + 1 < sampling_params["minlen"]
    )
    log_probs = ops.where(too_early, NEG_INF, log_probs)
    if settings.no_repeat_ngram:
        repeated = repeated_ngram_tokens(
            state["output_ids"], state["step"], settings.no_repeat_ngram
        )
        banned = repeated[..., None] == vocabulary
        log_probs = ops.where(ops.any(banned, axis=2), NEG_INF, log_probs)
    return log_probs


def is_end(settings: Settings, tokens: Tensor) -> Tensor:
    """Tell which tokens end an output."""
    return ops.any(ops.equal(tokens[..., None], ops.convert_to_tensor(settings.end_ids)), axis=-1)


def repeated_ngram_tokens(output_ids: Tensor, step: Tensor, size: int) -> Tensor:
    """Find the tokens that would complete an n-gram for the second time.

    Args:
        output_ids: (batch, n, output_capacity), the tokens so far.
        step: number of tokens so far.
        size: the n of the n-gram.

    Returns:
        (batch, n, output_capacity): the token in each slot whose preceding tokens equal the last
        tokens of the output, and −1 in all other slots.
    """
    slots = ops.arange(output_ids.shape[-1], dtype="int32")
    repeats = ops.logical_and(slots >= size - 1, slots < step)
    for distance in range(1, size):
        preceding = ops.roll(output_ids, distance, axis=-1)
        last = ops.take(output_ids, ops.maximum(step - distance, 0), axis=-1)
        repeats = ops.logical_and(repeats, ops.equal(preceding, last[..., None]))
    return ops.where(ops.logical_and(repeats, step >= size - 1), output_ids, -1)


def select_independent(
    settings: Settings, log_probs: Tensor, state: State, sampling_params: Mapping[str, Tensor]
) -> tuple:
    """Choose the next token of every hypothesis independently; arguments are those of `select`."""
    step, finished = state["step"], state["finished"]
    if settings.sample:
        uniform = ops.take(state["uniform"], step, axis=-1)
        tokens = sample_tokens(settings, log_probs, uniform, sampling_params)
    else:
        tokens = ops.cast(ops.argmax(log_probs, axis=-1), "int32")
    token_log_probs = ops.take_along_axis(log_probs, tokens[..., None], axis=-1)[..., 0]
    # Where no token is possible any more, the output ends.
    impossible = token_log_probs == NEG_INF
    tokens = ops.where(ops.logical_or(finished, impossible), settings.end_ids[0], tokens)
    new_state = state | {
        "scores": state["scores"] + ops.where(finished, 0.0, token_log_probs),
        "lengths": state["lengths"] + ops.cast(ops.logical_not(finished), "int32"),
        "finished": ops.logical_or(finished, is_end(settings, tokens)),
    }
    return append_tokens(new_state, tokens), tokens, None


def sample_tokens(
    settings: Settings, log_probs: Tensor, uniform: Tensor, sampling_params: Mapping[str, Tensor]
) -> Tensor:
    """Sample tokens by inverting the cumulative distribution.

    A single random number decides, so that a seed gives the same tokens on every backend.

    Args:
        settings: its `topk`, `use_topp` and `use_min_p` are read.
        log_probs: (batch, n, vocab_size).
        uniform: (batch, n), above 0 and at most 1.
        sampling_params: `topp` and `min_p`, scalars.

    Returns:
        (batch, n).
    """
    tokens = None
    if settings.topk or settings.use_topp:
        log_probs, tokens = ops.top_k(log_probs, settings.topk or log_probs.shape[-1])
    weights = softmax(log_probs)
    if settings.use_topp:
        preceding = ops.cumsum(weights, axis=-1) - weights
        weights = ops.where(preceding < sampling_params["topp"], weights, 0.0)
    if settings.use_min_p:
        largest = ops.max(weights, axis=-1, keepdims=True)
        weights = ops.where(weights >= sampling_params["min_p"] * largest, weights, 0.0)
    cumulative = ops.cumsum(weights, axis=-1)
    threshold = uniform[..., None] * cumulative[..., -1:]
    index = ops.sum(ops.cast(cumulative < threshold, "int32"), axis=-1)
    if tokens is None:
        return index
    return ops.cast(ops.take_along_axis(tokens, index[..., None], axis=-1)[..., 0], "int32")


def append_tokens(state: State, tokens: Tensor) -> State:
    """Append the chosen tokens (batch, n) to the outputs."""
    step = state["step"]
    output_ids = written(state["output_ids"], 2, step, tokens[..., None])
    new_state = state | {"output_ids": output_ids, "step": step + 1}
    if "seen_tokens" in state:
        vocabulary = ops.arange(state["seen_tokens"].shape[-1], dtype="int32")
        new_state["seen_tokens"] = ops.logical_or(
            state["seen_tokens"], vocabulary == tokens[..., None]
        )
    return new_state


def select_beams(
    settings: Settings, log_probs: Tensor, state: State, sampling_params: Mapping[str, Tensor]
) -> tuple:
    """Choose the next tokens of beams; arguments and results are those of `select`.

    The beams of a group compete with each other. Groups choose one after another, and a token that
    earlier groups have chosen in the same step ranks lower in the later ones (Vijayakumar et al.,
    2018, https://arxiv.org/abs/1610.02424); this does not change the scores.
    """
    size = settings.n // settings.groups
    times_chosen = ops.zeros((log_probs.shape[0], log_probs.shape[-1]))
    groups = []
    for start in range(0, settings.n, size):
        group = {
            name: value[:, start : start + size]
            for name, value in state.items()
            if name in ("scores", "output_ids") or name.startswith("finished_")
        }
        penalty = sampling_params["diversity"] * times_chosen if settings.groups > 1 else None
        group = select_group(
            settings,
            log_probs[:, start : start + size],
            group,
            state["step"],
            penalty,
            sampling_params,
        )
        if settings.groups > 1:
            times_chosen += ops.sum(ops.one_hot(group["tokens"], log_probs.shape[-1]), axis=1)
        groups.append(group | {"parents": group["parents"] + start})
    joined = {name: ops.concatenate([group[name] for group in groups], 1) for name in groups[0]}
    tokens, parents, done = (joined.pop(name) for name in ("tokens", "parents", "done"))
    new_state = state | joined
    new_state["output_ids"] = ops.take_along_axis(state["output_ids"], parents[..., None], axis=1)
    new_state["finished"] = ops.logical_or(state["finished"], ops.all(done, axis=1, keepdims=True))
    new_state["lengths"] = ops.broadcast_to(state["step"] + 1, tokens.shape)
    if settings.use_repetition_penalty:
        new_state["seen_tokens"] = ops.take_along_axis(
            state["seen_tokens"], parents[..., None], axis=1
        )
    return append_tokens(new_state, tokens), tokens, parents


def select_group(
    settings: Settings,
    log_probs: Tensor,
    state: State,
    step: Tensor,
    penalty: Tensor | None,
    sampling_params: Mapping[str, Tensor],
) -> State:
    """Choose the next tokens of one group of beams.

    Args:
        settings: the settings that the functions are compiled for.
        log_probs: (batch, size, vocab_size).
        state: the scores, outputs and finished outputs of the group.
        step: number of tokens so far.
        penalty: (batch, vocab_size), subtracted for the ranking only.
        sampling_params: `length_penalty`, `maxlen` and `results`, scalars.

    Returns:
        New scores and finished outputs; `tokens` and `parents` (batch, size) of the beams that
        continue; `done` (batch, 1), whether no beam can become one of the results any more.
    """
    batch, size, vocab_size = log_probs.shape
    scores = ops.reshape(state["scores"][..., None] + log_probs, (batch, size * vocab_size))
    ranks = scores
    if penalty is not None:
        ranks = scores - ops.tile(penalty, (1, size))
    # Enough candidates that `size` of them continue even if all others end.
    n_candidates = min(size * (1 + len(settings.end_ids)), size * vocab_size)
    ranks, index = ops.top_k(ranks, n_candidates)
    scores = ops.take_along_axis(scores, index, axis=1)
    index = ops.cast(index, "int32")
    parents, tokens = index // vocab_size, index % vocab_size
    ends = is_end(settings, tokens)

    # An output is finished if its end token is among the best `size` candidates.
    length_penalty = sampling_params["length_penalty"]
    length = ops.cast(step + 1, "float32")
    new_scores = ops.where(ends, scores, NEG_INF)[:, :size] / length**length_penalty
    new_output_ids = ops.take_along_axis(state["output_ids"], parents[:, :size, None], axis=1)
    new_output_ids = written(new_output_ids, 2, step, tokens[:, :size, None])
    new_lengths = ops.broadcast_to(step + 1, (batch, size))
    all_scores = ops.concatenate([state["finished_scores"], new_scores], axis=1)
    finished_scores, best = ops.top_k(all_scores, size)
    all_lengths = ops.concatenate([state["finished_lengths"], new_lengths], axis=1)
    all_output_ids = ops.concatenate([state["finished_output_ids"], new_output_ids], axis=1)

    continuing = ops.top_k(ops.where(ends, NEG_INF, ranks), size)[1]
    scores = ops.take_along_axis(ops.where(ends, NEG_INF, scores), continuing, axis=1)
    # Log-probabilities are never positive, so the best that a beam can still reach is its present
    # score at full length.
    upper_bound = ops.max(scores, axis=1) / sampling_params["maxlen"] ** length_penalty
    last_result = ops.take(
        finished_scores, ops.minimum(sampling_params["results"], size) - 1, axis=1
    )
    return {
        "scores": scores,
        "finished_scores": finished_scores,
        "finished_lengths": ops.take_along_axis(all_lengths, best, axis=1),
        "finished_output_ids": ops.take_along_axis(all_output_ids, best[..., None], axis=1),
        "tokens": ops.take_along_axis(tokens, continuing, axis=1),
        "parents": ops.take_along_axis(parents, continuing, axis=1),
        "done": (last_result >= upper_bound)[:, None],
    }
