"""The evaluation seeds of the tiers. The full tier takes the quick one's jobs, and more, so that nothing runs twice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from normkit.claims.experiment import Condition, Job, Tier
from normkit.claims.experiments._stacked_tuning import EVALUATION_SEEDS

QUICK = EVALUATION_SEEDS["quick"]
MORE = tuple(seed for seed in EVALUATION_SEEDS["full"] if seed not in QUICK)

Arm = tuple[tuple[str, Condition], ...]


def jobs_of(
    experiment: str, tier: Tier, quick: Iterable[Arm], full: Iterable[Arm] = (), steps: int = 0
) -> Sequence[Job]:
    """The jobs of a probe: arms of the quick tier at its seeds; in the full tier more arms, and all 12 seeds.

    Args:
        experiment: id.
        tier: "instant" has none.
        quick: arms of both tiers, most telling first.
        full: arms that only the full tier has.
        steps: of a job.
    """
    if tier == "instant":
        return ()
    first = [Job(experiment, arm, QUICK, steps) for arm in quick]
    if tier == "quick":
        return first
    arms = [*quick, *full]
    rest = [Job(experiment, arm, QUICK, steps) for arm in full]
    return [*first, *rest, *(Job(experiment, arm, MORE, steps) for arm in arms)]
