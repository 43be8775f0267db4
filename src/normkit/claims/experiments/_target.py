"""Steps to a target: how many steps a network needs to the validation loss that it reaches without a norm.

The target is the median over the seeds of the lowest validation loss of the network without norm, at its own best
learning rate. A run that misses it counts as twice the steps it had, the usual penalty in comparisons of solvers
(PAR2): as if it took just the steps there were, a bad arm would look fast.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from normkit.claims.experiments._stacked_tuning import Stack

MISS_FACTOR = 2


def validations(stack: Stack) -> list[dict[int, float]]:
    """Of each seed: steps done -> validation loss, infinite where it is not a number."""
    looks = stack.history.validations
    return [
        {step: value if math.isfinite(value := float(loss[i])) else math.inf for step, loss in looks}
        for i in range(len(stack.seeds))
    ]


def target_of(plain: Sequence[Mapping[int, float]]) -> float:
    """The target that the seeds of the network without norm set."""
    return statistics.median(min(losses.values()) for losses in plain)


def to_target(losses: Mapping[int, float], target: float, steps: int) -> dict[str, float]:
    """Metrics of a run of so many steps: steps_to_target and reached, 1 if it did not miss.

    Example:
        >>> to_target({10: 2.0, 20: 0.9}, 1.0, 20)
        {'steps_to_target': 20.0, 'reached': 1.0}
        >>> to_target({10: 2.0, 20: 1.9}, 1.0, 20)
        {'steps_to_target': 40.0, 'reached': 0.0}
    """
    hits = [step for step, loss in losses.items() if loss <= target]
    return {"steps_to_target": float(hits[0] if hits else MISS_FACTOR * steps), "reached": float(bool(hits))}
