"""`AutoRegressiveDecoder`: beam search and sampling in NumPy with a `predict` that a script writes.

This module does not import Keras.
"""

# ruff: noqa: NPY002 - scripts make sampling reproducible by np.random.seed

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bert4keras.data.arrays import as_floats, softmax


class AutoRegressiveDecoder:
    """Generates a sequence token by token, by beam search or by sampling.

    A subclass defines `predict`, which returns the probabilities of the next token, and decorates
    it with `wraps`:

        class AutoTitle(AutoRegressiveDecoder):
            @AutoRegressiveDecoder.wraps(default_rtype="probas")
            def predict(self, inputs, output_ids, states):
                token_ids = np.concatenate([inputs[0], output_ids], axis=1)
                return self.last_token(model).predict([token_ids, np.zeros_like(token_ids)])

    Args:
        start_id: the token that the output begins with; None begins with no token.
        end_id: the token that ends the output.
        maxlen: largest number of tokens to generate.
        minlen: smallest number of tokens, `start_id` included, that an output has when it ends; if
            this is more than `maxlen` allows, each output has `maxlen` tokens.

    Attributes:
        first_output_ids: `(1, 1)`, or `(1, 0)` without `start_id`: the output before the first
            step.
        models: the `LastToken` of each model that `last_token` was called with.
    """

    def __init__(self, start_id: int | None, end_id: int, maxlen: int, minlen: int = 1):
        self.start_id = start_id
        self.end_id = end_id
        self.maxlen = maxlen
        self.minlen = minlen
        self.models: dict[Any, Any] = {}
        first = [] if start_id is None else [start_id]
        self.first_output_ids = np.array([first], dtype=int)

    @staticmethod
    def wraps(default_rtype: str = "probas", use_states: bool = False) -> Callable:
        """Decorate a `predict` that returns probabilities or logits, for use in decoding.

        The decorated method is `predict(inputs, output_ids, states, temperature=1,
        rtype=default_rtype)`. It returns `(scores, states)`, where the scores are a new array of
        probabilities, or of their logarithms for the rtype `logits`.

        Args:
            default_rtype: what the method returns, `probas` or `logits`.
            use_states: whether the method returns `(scores, states)` instead of scores alone.

        Raises:
            ValueError: `default_rtype` has another value.
        """
        if default_rtype not in ("probas", "logits"):
            raise ValueError(
                f'wraps: default_rtype is {default_rtype!r}, give "probas" or "logits"'
            )

        def decorate(predict: Callable) -> Callable:
            @functools.wraps(predict)
            def wrapper(
                self: AutoRegressiveDecoder,
                inputs: list[np.ndarray],
                output_ids: np.ndarray,
                states: Any = None,
                temperature: float = 1,
                rtype: str = default_rtype,
            ) -> tuple[np.ndarray, Any]:
                if rtype not in ("probas", "logits"):
                    # In the original this is a failed assertion, which scripts may rely on.
                    raise AssertionError(f'predict: rtype is {rtype!r}, give "probas" or "logits"')
                scores = predict(self, inputs, output_ids, states)
                scores, states = scores if use_states else (scores, None)
                scores = as_floats(scores)
                with np.errstate(invalid="ignore", divide="ignore"):  # NaN is reported by row
                    if default_rtype == "logits":
                        probas = softmax(scores / temperature)
                    elif temperature != 1:
                        powers = scores ** (1 / temperature)
                        probas = powers / powers.sum(axis=-1, keepdims=True)
                    else:
                        probas = scores
                    # The small number keeps tokens of probability 0 comparable.
                    return (probas if rtype == "probas" else np.log(probas + 1e-12)), states

            return wrapper

        return decorate

    def predict(
        self,
        inputs: list[np.ndarray],
        output_ids: np.ndarray,
        states: Any = None,
        temperature: float = 1,
        rtype: str = "probas",
    ) -> tuple[np.ndarray, Any]:
        """Return the scores of the next token; subclasses define it without the last two arguments.

        Args:
            inputs: the arrays given to `beam_search` or `random_sample`, each `(rows, ...)`.
            output_ids: `(rows, length)`, the tokens so far.
            states: what the step before returned; in the first step None, or what the caller gave.
                Arrays in it (also within lists, tuples and dicts) that have an entry for each row
                are reordered, repeated and shortened together with the rows; everything else is
                passed on unchanged.
            temperature: divisor of the logits; applied by `wraps`.
            rtype: `probas`, or `logits` for log-probabilities; applied by `wraps`.

        Returns:
            `(rows, vocabulary)`; with `use_states` of `wraps`, a pair of these and the states for
            the next step.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has to define predict(self, inputs, output_ids, states) under "
            "the decorator @AutoRegressiveDecoder.wraps(); it returns the scores of the next token"
        )

    def last_token(self, model: Any) -> Any:
        """Return an object whose `predict(inputs)` computes `model.predict(inputs)[:, -1]` faster.

        Args:
            model: a Keras model whose outputs are (batch, length, ...).

        Returns:
            A `bert4keras.generation.LastToken`, the same one each time for the same model.
        """
        from bert4keras.generation.last_token import LastToken

        if model not in self.models:
            self.models[model] = LastToken(model)
        return self.models[model]

    def beam_search(
        self,
        inputs: Sequence,
        topk: int,
        states: Any = None,
        temperature: float = 1,
        min_ends: int = 1,
    ) -> np.ndarray:
        """Search for the most probable output, keeping the `topk` best ones at each step.

        Args:
            inputs: what `predict` is given, each for one sample, without the batch axis.
            topk: how many outputs are kept.
            states: what `predict` is given at the first step.
            temperature: above 1 flattens the distributions, below 1 sharpens them.
            min_ends: how many end tokens an output has to hold to be complete.

        Returns:
            `(length,)`, the tokens, with the start and end token. If none of the outputs is
            complete after `maxlen` steps, it is the best incomplete one. With a `maxlen` of 0 or
            less, as for a text that leaves no space for an output, no token is generated.

        Raises:
            ValueError: an argument is invalid, or `predict` returned NaN or scores of the wrong
                shape.
        """
        topk = _check_count("beam_search", "topk", topk)
        inputs = _as_batch("beam_search", inputs, temperature)
        output_ids, output_scores = self.first_output_ids, np.zeros(1)
        for step in range(self.maxlen):
            scores, states = self.predict(inputs, output_ids, states, temperature, "logits")
            scores = _check_scores(scores, len(output_ids), step, topk)
            if step == 0:
                inputs = [np.repeat(x, topk, axis=0) for x in inputs]
            scores = output_scores[:, None] + scores
            best = scores.argpartition(-topk, axis=None)[-topk:]
            best = best[np.argsort(-scores.flat[best], kind="stable")]
            rows, tokens = np.divmod(best, scores.shape[1])
            states = _take_rows(states, rows, len(output_ids))
            output_ids = np.concatenate([output_ids[rows], tokens[:, None]], axis=1)
            output_scores = scores.flat[best]
            complete = self._is_complete(output_ids, min_ends)
            if complete[0]:
                break
            if complete.any():
                # As in the original, complete outputs other than the best one are discarded.
                incomplete = np.flatnonzero(~complete)
                states = _take_rows(states, incomplete, topk)
                topk = len(incomplete)
                inputs = [x[incomplete] for x in inputs]
                output_ids, output_scores = output_ids[incomplete], output_scores[incomplete]
        return output_ids[0]

    def random_sample(
        self,
        inputs: Sequence,
        n: int,
        topk: int | None = None,
        topp: float | None = None,
        states: Any = None,
        temperature: float = 1,
        min_ends: int = 1,
    ) -> list[np.ndarray]:
        """Sample outputs with the global random state of NumPy, `numpy.random`.

        Args:
            inputs: what `predict` is given, each for one sample, without the batch axis.
            n: number of outputs.
            topk: number of most probable tokens to sample from; None or 0 for all.
            topp: sample from the smallest set of most probable tokens that together reach this
                probability (Holtzman et al., 2019, https://arxiv.org/abs/1904.09751), after `topk`;
                None, or a number of at least 1, for all, and 0 for the most probable one.
            states: what `predict` is given at the first step.
            temperature: above 1 flattens the distributions, below 1 sharpens them.
            min_ends: how many end tokens an output has to hold to be complete.

        Returns:
            `n` arrays `(length,)` with the start and end token, in the order in which they were
            completed; those cut off at `maxlen` come last.

        Raises:
            ValueError: an argument is invalid, or `predict` returned scores that are no
                probabilities or have the wrong shape.
        """
        n = _check_count("random_sample", "n", n)
        topk = (
            None
            if topk is None
            else _check_count("random_sample", "topk", topk, at_least=0) or None
        )
        if topp is not None and not topp >= 0:
            raise ValueError(f"random_sample: topp is {topp}, give at least 0")
        inputs = _as_batch("random_sample", inputs, temperature)
        output_ids = self.first_output_ids
        if self.maxlen < 1:
            return list(np.repeat(output_ids, n, axis=0))
        results: list[np.ndarray] = []
        for step in range(self.maxlen):
            probas, states = self.predict(inputs, output_ids, states, temperature, "probas")
            probas = _normalize(_check_scores(probas, len(output_ids), step, topk or 1), step)
            if step == 0:
                first = np.zeros(n, dtype=int)
                states = _take_rows(states, first, 1)
                inputs = [x[first] for x in inputs]
                probas, output_ids = probas[first], output_ids[first]
            tokens = _sample_tokens(probas, topk, topp)
            output_ids = np.concatenate([output_ids, tokens[:, None]], axis=1)
            complete = self._is_complete(output_ids, min_ends)
            if complete.any():
                results += list(output_ids[complete])
                incomplete = np.flatnonzero(~complete)
                states = _take_rows(states, incomplete, len(output_ids))
                inputs = [x[incomplete] for x in inputs]
                output_ids = output_ids[incomplete]
                if not len(output_ids):
                    break
        return results + list(output_ids)

    def _is_complete(self, output_ids: np.ndarray, min_ends: int) -> np.ndarray:
        """Tell for each row whether the output is complete, which it never is before `minlen`."""
        if output_ids.shape[1] < self.minlen:
            return np.zeros(len(output_ids), dtype=bool)
        ends = output_ids == self.end_id
        return ends[:, -1] & (ends.sum(axis=1) >= min_ends)


def _check_count(caller: str, name: str, value: Any, at_least: int = 1) -> int:
    """Check that an argument is a whole number of at least `at_least`, and return it as an int."""
    whole = isinstance(value, int | np.integer) or (
        isinstance(value, float | np.floating) and value == value // 1
    )
    if isinstance(value, bool) or not whole or value < at_least:
        raise ValueError(f"{caller}: {name} is {value!r}, give a whole number, at least {at_least}")
    return int(value)


def _as_batch(caller: str, inputs: Sequence, temperature: float) -> list[np.ndarray]:
    """Add a batch axis to the inputs of one sample, some of which may be empty."""
    if not temperature > 0:
        raise ValueError(f"{caller}: temperature is {temperature}, give more than 0")
    return [np.array([x], dtype=None if np.size(x) else int) for x in inputs]


def _check_scores(scores: Any, rows: int, step: int, topk: int) -> np.ndarray:
    """Check that the scores have the right shape, at least `topk` tokens and no NaN."""
    scores = np.asarray(scores)
    if scores.ndim != 2 or len(scores) != rows:
        raise ValueError(
            f"predict gave scores of the shape {scores.shape} at step {step}: give "
            f"({rows}, vocabulary), one row for each row of output_ids"
        )
    if topk > scores.shape[1]:
        raise ValueError(
            f"topk is {topk}, but predict gives the scores of {scores.shape[1]} tokens: give at "
            "most that many"
        )
    unknown = np.isnan(scores).any(axis=1)
    if unknown.any():
        raise ValueError(
            f"predict gave NaN in row {unknown.argmax()} at step {step}: look for infinite weights "
            "or inputs of the model, or for probabilities that were all set to 0"
        )
    return scores


def _normalize(probas: np.ndarray, step: int) -> np.ndarray:
    """Divide probabilities by their sums, since `predict` may have set some of them to 0."""
    probas = probas.astype(np.result_type(probas, np.float32), copy=False)
    sums = probas.sum(axis=1, keepdims=True)
    wrong = (probas < 0).any(axis=1) | (sums[:, 0] == 0) | ~np.isfinite(sums[:, 0])
    if wrong.any():
        row = wrong.argmax()
        raise ValueError(
            f"predict gave no distribution in row {row} at step {step}, but numbers with the "
            f"minimum {probas[row].min()} and the sum {sums[row, 0]}: give finite numbers of at "
            "least 0, some of them above 0"
        )
    return probas / sums


def _sample_tokens(probas: np.ndarray, topk: int | None, topp: float | None) -> np.ndarray:
    """Draw a token for each row of `(rows, vocabulary)` probabilities that sum to 1."""
    tokens = None
    if topk is not None:
        tokens = probas.argpartition(-topk, axis=1)[:, -topk:]
        probas = np.take_along_axis(probas, tokens, axis=1)
        probas = probas / probas.sum(axis=1, keepdims=True)
    if topp is not None:
        order = probas.argsort(axis=1)[:, ::-1]
        probas = np.take_along_axis(probas, order, axis=1)
        # Keep a token if those before it do not yet reach topp; the first one is always kept.
        probas[:, 1:][probas.cumsum(axis=1)[:, :-1] >= topp] = 0
        probas = probas / probas.sum(axis=1, keepdims=True)
        tokens = order if tokens is None else np.take_along_axis(tokens, order, axis=1)
    index = np.array([np.random.choice(len(p), p=p) for p in probas])
    return index if tokens is None else tokens[np.arange(len(index)), index]


def _take_rows(states: Any, rows: np.ndarray, count: int) -> Any:
    """Select `rows` of the arrays in nested states that have `count` rows."""
    if isinstance(states, dict):
        return {key: _take_rows(value, rows, count) for key, value in states.items()}
    if isinstance(states, list | tuple):
        taken = [_take_rows(value, rows, count) for value in states]
        return states._make(taken) if hasattr(states, "_make") else type(states)(taken)
    shape = getattr(states, "shape", ())
    if not len(shape) or shape[0] != count:
        return states
    if isinstance(states, np.ndarray):
        return states[rows]
    from keras import ops

    return ops.take(states, rows, axis=0)
