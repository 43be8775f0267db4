"""E21: whether BatchNorm regularizes, through the noise of its statistics, and whether dropout is then needed less.

200 training images, which an MLP of 128 and 128 units learns by heart. Two designs. "dropout": batches of 20, with and
without BatchNorm, with more and more dropout. "ghost": batches of 64, and groups of samples that share
statistics from 4, which are noisy, to the whole batch; the gradient's own noise is the same in all.
"""

from __future__ import annotations

from collections.abc import Sequence

from normkit.claims.experiment import Experiment, Job, Measurement, Tier, conditions
from normkit.claims.experiments._digits import few, flat_digits
from normkit.claims.experiments._stacked_models import mlp
from normkit.claims.experiments._stacked_training import Recipe
from normkit.claims.experiments._stacked_tuning import (
    EVALUATION_SEEDS,
    Study,
    half_decades,
    is_full,
    measure_cell,
)

STEPS = 300
DROPOUTS: dict[Tier, tuple[float, ...]] = {"quick": (0.0, 0.3), "full": (0.0, 0.1, 0.3, 0.5)}
GHOSTS: dict[Tier, tuple[int, ...]] = {"quick": (4, 16, 64), "full": (4, 8, 16, 32, 64)}


def jobs(tier: Tier) -> Sequence[Job]:
    if tier == "instant":
        return ()
    norms = ("batch", "none") if tier == "quick" else ("batch", "none", "layer")
    arms = [conditions(design="dropout", norm=norm, batch=20, dropout=p) for p in DROPOUTS[tier] for norm in norms] + [
        conditions(design="ghost", norm="batch", batch=64, ghost=ghost) for ghost in GHOSTS[tier]
    ]
    if tier == "full":
        arms += [conditions(design="ghost", norm=norm, batch=64) for norm in ("none", "layer")]
    return [Job("E21", arm, EVALUATION_SEEDS[tier], STEPS) for arm in arms]


def measure(job: Job) -> list[Measurement]:
    arm = job.arm
    ghost = int(arm["ghost"]) if "ghost" in arm else None
    study = Study(
        build=mlp((128, 128), str(arm["norm"]), ghost=ghost, dropout=float(arm.get("dropout", 0.0))),
        data=lambda seed: few(flat_digits(seed), 200),
        recipe=Recipe(batch_size=int(arm["batch"]), steps=job.steps),
        grid=half_decades(0.003, 7) if is_full(job) else half_decades(0.01, 4),
        n_tuning_seeds=3 if is_full(job) else 2,
    )
    return measure_cell(job, study)


def seconds(job: Job) -> float:
    replicas = 21.0 + 12.0 if is_full(job) else 8.0 + 5.0
    return 0.3 + job.steps * replicas * (1.5e-4 + 7e-6 * int(job.arm["batch"]))


EXPERIMENT = Experiment(
    "E21",
    "BatchNorm as a regularizer, and dropout",
    "Does BatchNorm keep a network from learning by heart, by its noise, so that dropout is needed less?",
    jobs,
    measure,
    seconds,
)
