"""Applying the caller's functions to the distributions between two decode steps, in NumPy."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from keras import ops

from bert4keras.generation.selection import NEG_INF, State

Allowed = Callable[[list[int]], Sequence[int]]
"""Takes the output so far and returns the tokens that may follow."""


class Hooks:
    """The functions `process_probs` and `allowed` of one call of `Generator.generate`.

    Args:
        process_probs: takes probabilities (k, vocab_size), output ids (k, n so far) and the index
            of the prompt, and returns the probabilities to use instead; None leaves them as they
            are.
        allowed: takes the output so far and returns the ids that may follow; or one such function
            for each prompt; None allows all ids.
        n_prompts: number of prompts.

    Raises:
        ValueError: `allowed` is a list of functions, but not one for each prompt.
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

    def apply(self, state: State, indices: Sequence[int]) -> Any:
        """Return the log-probabilities of a state, changed by the hooks.

        Args:
            state: that of a batch whose first rows are the prompts `indices`.
            indices: indices of the prompts in the call.
        """
        log_probs = np.array(ops.convert_to_numpy(state["log_probs"]))
        finished, scores, output_ids = (
            ops.convert_to_numpy(state[name]) for name in ("finished", "scores", "output_ids")
        )
        output_ids = output_ids[:, :, : int(state["step"])]
        # Beams for which no possible token was left are treated as finished.
        active = np.logical_not(finished) & (scores > NEG_INF)
        for row, index in enumerate(indices):
            if active[row].any():
                log_probs[row] = self.process_prompt(
                    log_probs[row], output_ids[row], active[row], index
                )
        return ops.convert_to_tensor(log_probs)

    def process_prompt(
        self, log_probs: np.ndarray, output_ids: np.ndarray, active: np.ndarray, index: int
    ) -> np.ndarray:
        """Apply the hooks to the hypotheses of one prompt.

        Args:
            log_probs: (k, vocab_size).
            output_ids: (k, n), the outputs so far.
            active: (k,), whether a hypothesis continues.
            index: index of the prompt.

        Returns:
            (k, vocab_size), log-probabilities.
        """
        if self.process_probs is not None:
            log_probs = self.processed_log_probs(np.exp(log_probs), output_ids, index)
            if not np.isfinite(log_probs[active]).any():
                raise ValueError(
                    f"process_probs returned zeros only for prompt {index}, after "
                    f"{output_ids[active].tolist()}: leave at least one token, such as the end "
                    "token"
                )
        if self.allowed[index] is not None:
            mask = np.full_like(log_probs, -np.inf)
            for row in np.flatnonzero(active):
                ids = self.allowed_ids(output_ids[row].tolist(), index, log_probs.shape[1])
                mask[row, ids] = 0
            log_probs = log_probs + mask
        return log_probs

    def processed_log_probs(
        self, probabilities: np.ndarray, output_ids: np.ndarray, index: int
    ) -> np.ndarray:
        """Call `process_probs`, check what it returns, and take the logarithm."""
        shape = probabilities.shape
        new = np.asarray(self.process_probs(probabilities, output_ids, index), dtype="float32")
        if new.shape != shape or not ((new >= 0) & (new <= 1.001)).all():
            found = f"from {new.min()} to {new.max()}" if new.size else "without numbers"
            raise ValueError(
                f"process_probs returned an array of the shape {new.shape}, {found}, for prompt "
                f"{index}: return probabilities of the shape {shape}, as it was given them"
            )
        with np.errstate(divide="ignore"):
            return np.log(new)

    def allowed_ids(self, output_ids: list[int], index: int, vocab_size: int) -> list[int]:
        """Call `allowed` and check what it returns."""
        ids = [int(i) for i in self.allowed[index](output_ids)]
        if not ids or min(ids) < 0 or max(ids) >= vocab_size:
            raise ValueError(
                f"allowed returned {ids!r:.100} after {output_ids} of prompt {index}: return at "
                f"least one id below {vocab_size}, such as that of the end token"
            )
        return ids
