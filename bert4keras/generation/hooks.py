"""What users do to the distributions between two steps, in NumPy."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from keras import ops

from bert4keras.generation.selection import NOTHING, State

Allowed = Callable[[list[int]], Sequence[int]]
"""Takes the output so far and returns the tokens that may follow."""


class Hooks:
    """`process_probs` and `allowed` of `Generator.generate`.

    Args:
        process_probs: see there.
        allowed: see there.
        n_prompts: how many prompts there are.

    Raises:
        ValueError: there are several functions `allowed`, but not one for each prompt.
    """

    def __init__(
        self,
        process_probs: Callable | None,
        allowed: Allowed | Sequence[Allowed] | None,
        n_prompts: int,
    ) -> None:
        self.process_probs = process_probs
        self.allowed = [allowed] * n_prompts if allowed is None or callable(allowed) else allowed
        if len(self.allowed) != n_prompts:
            raise ValueError(
                f"allowed has {len(self.allowed)} functions for {n_prompts} prompts: give one for "
                "each prompt, or a single one"
            )

    def __bool__(self) -> bool:
        return self.process_probs is not None or any(self.allowed)

    def applied(self, state: State, indices: Sequence[int]) -> Any:
        """The scores of a state after the hooks.

        Args:
            state: of a batch that begins with the prompts `indices`.
            indices: numbers of prompts.
        """
        scores = np.array(ops.convert_to_numpy(state["scores"]))
        finished, totals, output = (
            ops.convert_to_numpy(state[name]) for name in ("finished", "totals", "output")
        )
        output = output[:, :, : int(state["step"])]
        # Beams that no output was left for are as good as finished.
        going = np.logical_not(finished) & (totals > NOTHING)
        for row, index in enumerate(indices):
            if going[row].any():
                scores[row] = self.of_prompt(scores[row], output[row], going[row], index)
        return ops.convert_to_tensor(scores)

    def of_prompt(
        self, scores: np.ndarray, output: np.ndarray, going: np.ndarray, index: int
    ) -> np.ndarray:
        """Scores (k, vocab_size) of one prompt, behind the outputs (k, n); `going` (k,) go on."""
        if self.process_probs is not None:
            scores = self.processed(np.exp(scores), output, index)
            if not np.isfinite(scores[going]).any():
                raise ValueError(
                    f"process_probs returned zeros only for prompt {index}, after "
                    f"{output[going].tolist()}: leave at least one token, such as the end token"
                )
        if self.allowed[index] is not None:
            mask = np.full_like(scores, -np.inf)
            for row in np.flatnonzero(going):
                ids = self.allowed_ids(output[row].tolist(), index, scores.shape[1])
                mask[row, ids] = 0
            scores = scores + mask
        return scores

    def processed(self, probabilities: np.ndarray, output: np.ndarray, index: int) -> np.ndarray:
        """Logarithms of what `process_probs` returns, checked."""
        shape = probabilities.shape
        new = np.asarray(self.process_probs(probabilities, output, index), dtype="float32")
        if new.shape != shape or not ((new >= 0) & (new <= 1.001)).all():
            found = f"from {new.min()} to {new.max()}" if new.size else "without numbers"
            raise ValueError(
                f"process_probs returned an array of the shape {new.shape}, {found}, for prompt "
                f"{index}: return probabilities, of the shape {shape} that they came in"
            )
        with np.errstate(divide="ignore"):
            return np.log(new)

    def allowed_ids(self, output: list[int], index: int, vocab_size: int) -> list[int]:
        """What `allowed` returns, checked."""
        ids = [int(i) for i in self.allowed[index](output)]
        if not ids or min(ids) < 0 or max(ids) >= vocab_size:
            raise ValueError(
                f"allowed returned {ids!r:.100} after {output} of prompt {index}: return at least "
                f"one id, such as that of the end token, below {vocab_size}"
            )
        return ids
