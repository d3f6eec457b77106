"""One call of `Generator.generate`: prompts in batches through the compiled functions."""

from collections.abc import Iterator

import keras
import numpy as np
from keras import ops

from bert4keras.generation.decoding import Decoding
from bert4keras.generation.hooks import Hooks
from bert4keras.generation.options import Options
from bert4keras.generation.prompts import Prompt, Prompts
from bert4keras.generation.selection import NOTHING, Settings, State

Hypothesis = tuple[list[int], float]
"""Token ids, without the end token, and score."""


class Call:
    """One call of `generate`, all of it checked.

    Args:
        decoding: the compiled functions.
        prompts: makes arrays of prompts.
        groups: prompts by groups.
        conditions: values of further inputs, each with a row for every group.
        options: see there.
        hooks: see there.
        seeds: of the random numbers of every group, if tokens are drawn.
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
        """For each group its hypotheses, best first: token ids and score.

        Groups of similar length are decoded together.
        """
        order = sorted(
            range(len(self.groups)), key=lambda i: max(len(x.token_ids) for x in self.groups[i])
        )
        results: list = [None] * len(order)
        bar = keras.utils.Progbar(len(order), verbose=verbose, unit_name="prompt")
        for start in range(0, len(order), batch_size):
            indices = order[start : start + batch_size]
            for index, found in zip(indices, self.decoded_together(indices), strict=True):
                results[index] = found
            if verbose:
                bar.add(len(indices))
        return results

    def decoded_together(self, indices: list[int]) -> list[list[Hypothesis]]:
        """The hypotheses of some groups, best first."""
        if self.hooks:
            *_, state = self.steps(indices)
        else:
            decoding, numbers = self.decoding, self.options.numbers()
            state = decoding.select(decoding.begin(self.arrays(indices)), numbers)
            limit = ops.convert_to_tensor(self.options.maxlen, "int32")
            state = decoding.advance(state, limit, numbers)
            self.check(state, indices)
        return hypotheses(self.decoding.settings, state, len(indices), self.options)

    def steps(self, indices: list[int]) -> Iterator[State]:
        """The state after each token."""
        numbers = self.options.numbers()
        state = self.decoding.begin(self.arrays(indices))
        for step in range(self.options.maxlen):
            if step:
                state = self.decoding.step(state)
            self.check(state, indices)
            if self.hooks:
                state = state | {"scores": self.hooks.applied(state, indices)}
            state = self.decoding.select(state, numbers)
            yield state
            if ops.convert_to_numpy(state["finished"]).all():
                return

    def tokens(self) -> Iterator[int]:
        """The tokens of a single hypothesis as they are written."""
        for state in self.steps([0]):
            token = int(state["output"][0, 0, int(state["step"]) - 1])
            if token in self.decoding.settings.ends:
                return
            yield token

    def arrays(self, indices: list[int]) -> State:
        """What `Decoding.begin` takes, as tensors."""
        settings = self.decoding.settings
        groups = [self.groups[i] for i in indices]
        conditions = [x[indices] for x in self.conditions]
        arrays = self.prompts.arrays(groups, conditions, settings.room)
        if settings.sample:
            batch = len(arrays["present"])
            uniform = np.ones((batch, settings.n, settings.room), dtype="float32")
            for row, index in enumerate(indices):
                generator = np.random.default_rng(self.seeds[index])
                # Above 0 and at most 1, and the same for the first tokens whatever room there is.
                drawn = generator.random((settings.room, settings.n), dtype="float32")
                uniform[row] -= drawn.T
            arrays["random"] = uniform
        return keras.tree.map_structure(ops.convert_to_tensor, arrays)

    def check(self, state: State, indices: list[int]) -> None:
        """Refuse NaN."""
        broken = ops.convert_to_numpy(state["broken"]).reshape(len(state["present"]), -1)
        rows = np.flatnonzero(broken.any(axis=1)[: len(indices)])
        if len(rows):
            raise ValueError(
                f"the model gives NaN for prompt {indices[rows[0]]}: look for NaN or infinity in "
                "its weights, or compute in float32"
            )


def hypotheses(
    settings: Settings, state: State, count: int, options: Options
) -> list[list[Hypothesis]]:
    """The hypotheses of the first `count` groups of a state, best first: token ids and score."""
    names = ("output", "lengths", "totals")
    arrays = {x: ops.convert_to_numpy(state[x])[:count] for x in names}
    if settings.beam:
        # What has ended, and then what was cut off, ranked alike.
        arrays["totals"] = arrays["totals"] / arrays["lengths"] ** options.length_penalty
        arrays = {
            x: np.concatenate([ops.convert_to_numpy(state[f"ended_{x}"])[:count], arrays[x]], 1)
            for x in names
        }
        order = np.argsort(-arrays["totals"], axis=1, kind="stable")
        arrays = {
            x: np.take_along_axis(y, order[..., None] if y.ndim == 3 else order, axis=1)
            for x, y in arrays.items()
        }
    found = []
    for output, lengths, totals in zip(*(arrays[x] for x in names), strict=True):
        rows = [ids[:n].tolist() for ids, n in zip(output, lengths, strict=True)]
        ids = [row[:-1] if row[-1:] and row[-1] in settings.ends else row for row in rows]
        pairs = list(zip(ids, totals.tolist(), strict=True))
        if settings.beam:
            # A beam that nothing could go on from is no result.
            pairs = [pair for pair in pairs if pair[1] > NOTHING] or [([], NOTHING)]
        found.append(pairs)
    return found
