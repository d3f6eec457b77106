"""The parts of a run: short sequences first, then longer ones.

Attention costs little on short sequences, and most of what there is to learn is learned from them;
the last part teaches the positions behind (Devlin et al., 2018, appendix A.2).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tasks import Batches


@dataclass(frozen=True)
class Stage:
    """Consecutive steps with batches of one shape.

    Attributes:
        batches: what is trained on.
        begin: its first step in the run.
        end: the step behind its last one.
    """

    batches: Batches
    begin: int
    end: int

    @property
    def tokens_per_step(self) -> int:
        return self.batches.batch_size * self.batches.length


def batch_sizes(batch_size: int, lengths: Sequence[int]) -> list[int]:
    """How many sequences of each length hold about as many tokens as a batch of the first."""
    return [max(1, batch_size * lengths[0] // length) for length in lengths]


def stages(
    batches: Sequence[Batches], shares: Sequence[float], steps: int, save_steps: int
) -> list[Stage]:
    """Divide the steps of a run, in whole numbers of `save_steps`.

    Args:
        batches: of each stage.
        shares: of the steps, one for each stage; what counts is how they compare.
        steps: of the run.
        save_steps: steps between states.

    Raises:
        SystemExit: there are not as many shares as batches, or a stage has no steps.
    """
    if len(shares) != len(batches):
        raise SystemExit(
            f"--stages has {len(shares)} shares of the steps for {len(batches)} folders of --data: "
            "give one for each"
        )
    n_saves, whole = steps // save_steps, sum(shares)
    ends = [round(n_saves * sum(shares[: i + 1]) / whole) * save_steps for i in range(len(shares))]
    begins = [0, *ends[:-1]]
    if not all(begin < end for begin, end in zip(begins, ends, strict=True)):
        raise SystemExit(
            f"--stages {' '.join(map(str, shares))} leaves a stage without steps, of {n_saves} "
            f"times --save-steps {save_steps}: give more steps, or a smaller --save-steps"
        )
    return [Stage(*each) for each in zip(batches, begins, ends, strict=True)]


def tokens_until(parts: Sequence[Stage], step: int) -> int:
    """How many tokens have been seen after so many steps."""
    return sum(max(0, min(step, part.end) - part.begin) * part.tokens_per_step for part in parts)
