"""One call of `Generator.generate`, which runs batches of prompts through compiled functions."""

from collections.abc import Iterator

import keras
import numpy as np
from keras import ops

from bert4keras.generation.decoding import Decoding
from bert4keras.generation.hooks import Hooks
from bert4keras.generation.options import Options
from bert4keras.generation.prompts import Prompt, Prompts
from bert4keras.generation.selection import NEG_INF, Settings, State

Hypothesis = tuple[list[int], float]
"""Token ids without the end token, and the score."""


class GenerationCall:
    """One call of `generate`, whose arguments have been checked.

    Args:
        decoding: the compiled functions.
        prompts: makes the arrays that the model is given.
        groups: the prompts, in groups that write one output together.
        conditions: values of the additional inputs of the model, each with a row for every group.
        options: the options of the call, checked and complete.
        hooks: the caller's functions that change the distributions.
        seeds: for every group the seed of its random numbers; empty unless tokens are sampled.
    """

    def __init__(
        self,
        decoding: Decoding,
        prompts: Prompts,
        groups: list[list[Prompt]],
        conditions: list[np.ndarray],
        options: Options,
        hooks: Hooks,
        seeds: list[np.random.SeedSequence],
    ) -> None:
        self.decoding = decoding
        self.prompts = prompts
        self.groups = groups
        self.conditions = conditions
        self.options = options
        self.hooks = hooks
        self.seeds = seeds

    def results(self, batch_size: int, verbose: int) -> list[list[Hypothesis]]:
        """Return the hypotheses of each group, best first.

        Groups of similar length are decoded together.

        Args:
            batch_size: number of groups that are decoded together.
            verbose: 1 shows a progress bar.
        """
        order = sorted(
            range(len(self.groups)), key=lambda i: max(len(x.token_ids) for x in self.groups[i])
        )
        results: list = [None] * len(order)
        bar = keras.utils.Progbar(len(order), verbose=verbose, unit_name="prompt")
        for start in range(0, len(order), batch_size):
            indices = order[start : start + batch_size]
            for index, found in zip(indices, self.decode_batch(indices), strict=True):
                results[index] = found
            if verbose:
                bar.add(len(indices))
        return results

    def decode_batch(self, indices: list[int]) -> list[list[Hypothesis]]:
        """Return the hypotheses of the groups `indices`, best first."""
        if self.hooks:
            *_, state = self.steps(indices)
        else:
            decoding, sampling_params = self.decoding, self.options.sampling_params()
            state = decoding.select(decoding.prefill(self.prefill_inputs(indices)), sampling_params)
            limit = ops.convert_to_tensor(self.options.maxlen, "int32")
            state = decoding.decode(state, limit, sampling_params)
            self.check(state, indices)
        return hypotheses(self.decoding.settings, state, len(indices), self.options)

    def steps(self, indices: list[int]) -> Iterator[State]:
        """Yield the state after each token."""
        sampling_params = self.options.sampling_params()
        state = self.decoding.prefill(self.prefill_inputs(indices))
        for step in range(self.options.maxlen):
            if step:
                state = self.decoding.decode_step(state)
            self.check(state, indices)
            if self.hooks:
                state = state | {"log_probs": self.hooks.apply(state, indices)}
            state = self.decoding.select(state, sampling_params)
            yield state
            if ops.convert_to_numpy(state["finished"]).all():
                return

    def tokens(self) -> Iterator[int]:
        """Yield the tokens of a single hypothesis as they are chosen."""
        for state in self.steps([0]):
            token = int(state["output_ids"][0, 0, int(state["step"]) - 1])
            if token in self.decoding.settings.end_ids:
                return
            yield token

    def prefill_inputs(self, indices: list[int]) -> State:
        """Return the argument of `Decoding.prefill` for the groups `indices`, as tensors."""
        settings = self.decoding.settings
        groups = [self.groups[i] for i in indices]
        conditions = [x[indices] for x in self.conditions]
        arrays = self.prompts.prefill_inputs(groups, conditions, settings.output_capacity)
        if settings.sample:
            batch = len(arrays["prompt_mask"])
            uniform = np.ones((batch, settings.n, settings.output_capacity), dtype="float32")
            for row, index in enumerate(indices):
                generator = np.random.default_rng(self.seeds[index])
                # Above 0 and at most 1; those of the first tokens do not depend on the capacity.
                shape = (settings.output_capacity, settings.n)
                uniform[row] -= generator.random(shape, dtype="float32").T
            arrays["uniform"] = uniform
        return keras.tree.map_structure(ops.convert_to_tensor, arrays)

    def check(self, state: State, indices: list[int]) -> None:
        """Raise an error if the model gave NaN for one of the groups `indices`."""
        has_nan = ops.convert_to_numpy(state["has_nan"]).reshape(len(state["prompt_mask"]), -1)
        rows = np.flatnonzero(has_nan.any(axis=1)[: len(indices)])
        if len(rows):
            raise ValueError(
                f"the model gives NaN for prompt {indices[rows[0]]}: look for NaN or infinity in "
                "its weights, or compute in float32"
            )


def hypotheses(
    settings: Settings, state: State, count: int, options: Options
) -> list[list[Hypothesis]]:
    """Return the hypotheses of the first `count` groups of a state, best first."""
    names = ("output_ids", "lengths", "scores")
    arrays = {x: ops.convert_to_numpy(state[x])[:count] for x in names}
    if settings.beam_search:
        # Finished outputs and those that were cut off at `maxlen` are ranked together.
        arrays["scores"] = arrays["scores"] / arrays["lengths"] ** options.length_penalty
        arrays = {
            x: np.concatenate([ops.convert_to_numpy(state[f"finished_{x}"])[:count], arrays[x]], 1)
            for x in names
        }
        order = np.argsort(-arrays["scores"], axis=1, kind="stable")
        arrays = {
            x: np.take_along_axis(y, order[..., None] if y.ndim == 3 else order, axis=1)
            for x, y in arrays.items()
        }
    found = []
    for output_ids, lengths, scores in zip(*(arrays[x] for x in names), strict=True):
        outputs = [ids[:n].tolist() for ids, n in zip(output_ids, lengths, strict=True)]
        outputs = [ids[:-1] if ids[-1:] and ids[-1] in settings.end_ids else ids for ids in outputs]
        pairs = list(zip(outputs, scores.tolist(), strict=True))
        if settings.beam_search:
            # A beam after which no token was possible is not a result.
            pairs = [pair for pair in pairs if pair[1] > NEG_INF] or [([], NEG_INF)]
        found.append(pairs)
    return found
