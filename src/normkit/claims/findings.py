"""What the judge says of a hypothesis, before and after all are looked at together."""

from __future__ import annotations

from dataclasses import dataclass

from normkit.claims.logic import Outcome


@dataclass(frozen=True)
class Finding:
    """The judgement of one hypothesis.

    Attributes:
        outcome: what it comes to.
        effect: mean over the seeds of what the hypothesis speaks of, in its unit (of a ratio: the factor - 1); of an
            exact one the largest error. None where there is none.
        low, high: its 95 % interval.
        adjusted_low, adjusted_high: the interval at the level at which Holm's method judges it among all of its run.
        n: seeds.
        p: of the conclusion that lies nearer, unadjusted; None for an exact one.
        p_adjusted: by Holm's method over the confirmatory hypotheses that were judged together.
        p_sign_flip: exact, for reference and as a second lock from 6 seeds on.
        n_diverged: runs among those looked at that diverged, or for which the metric is undefined.
        values: of each seed, in the unit of the effect; () where a run diverged.
        reason: why it is inconclusive or not run; the counterexample of one that fails; "" else.
    """

    hypothesis: str
    outcome: Outcome
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    adjusted_low: float | None = None
    adjusted_high: float | None = None
    n: int = 0
    p: float | None = None
    p_adjusted: float | None = None
    p_sign_flip: float | None = None
    n_diverged: int = 0
    values: tuple[float, ...] = ()
    reason: str = ""

    @property
    def is_undefined(self) -> bool:
        """Whether an exact one fails for want of a number alone: its opposite is not shown by that."""
        return self.outcome == "fails" and self.p is None and self.effect is None
