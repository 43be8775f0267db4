"""E11: how many steps a network needs to the loss that it reaches without a norm.

What the target is, and what a miss counts as, tells ``_target``. Two arms a norm: at its own best learning rate, and at
that of the network without norm, which tells whether the norm itself makes training faster or the larger learning rate
that it allows (Bjorck et al. 2018).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

from normkit.claims.experiment import Experiment, Job, Measurement, Tier, conditions
from normkit.claims.experiments._digits import flat_digits
from normkit.claims.experiments._stacked_models import mlp
from normkit.claims.experiments._stacked_training import Recipe
from normkit.claims.experiments._stacked_tuning import EVALUATION_SEEDS, Cell, Study, half_decades, not_learned
from normkit.claims.experiments._target import target_of, to_target, validations

BATCH, STEPS, VALIDATE_EVERY = 100, 150, 3
ARMS = (("none", "own"), ("batch", "own"), ("batch", "none"), ("layer", "own"), ("layer", "none"))


def jobs(tier: Tier) -> Sequence[Job]:
    if tier == "instant":
        return ()
    return [
        Job("E11", conditions(depth=depth, norm=norm, learning_rate_of=of), EVALUATION_SEEDS[tier], STEPS)
        for depth in ((8, 2) if tier == "quick" else (8, 4, 2))
        for norm, of in ARMS
    ]


@lru_cache(maxsize=8)
def tuned(norm: str, depth: int, steps: int, seeds: tuple[int, ...]) -> Cell:
    """Kept, since every arm of a depth needs the network without norm, and two arms each other one."""
    full = len(seeds) > len(EVALUATION_SEEDS["quick"])
    return Cell(
        Study(
            build=mlp((48,) * depth, norm),
            data=flat_digits,
            recipe=Recipe(BATCH, steps, validate_every=VALIDATE_EVERY),
            grid=half_decades(0.003, 7) if full else half_decades(0.01, 4),
            n_tuning_seeds=3 if full else 2,
        ),
        seeds,
    )


def measure(job: Job) -> list[Measurement]:
    """Metrics: steps_to_target, reached, target_nll, learning_rate, tuning_incomplete, not_learned (of the lowest
    validation loss). Series: steps and val_nll."""
    arm = job.arm
    depth = int(arm["depth"])
    plain = tuned("none", depth, job.steps, job.seeds)
    cell = tuned(str(arm["norm"]), depth, job.steps, job.seeds)
    rate = cell.chosen if arm["learning_rate_of"] == "own" else plain.chosen
    if rate is None or plain.chosen is None:
        return [Measurement("E11", job.conditions, seed, "diverged", message="no learning rate") for seed in job.seeds]
    target = target_of(validations(plain.at(plain.chosen)))
    incomplete = not (cell.tuning.complete and plain.tuning.complete)
    measured = []
    stack = cell.at(rate)
    for seed, losses in zip(job.seeds, validations(stack), strict=True):
        metrics = {
            **to_target(losses, target, job.steps),
            "target_nll": target,
            "learning_rate": rate,
            "tuning_incomplete": float(incomplete),
            **not_learned(min(losses.values()), stack.data.train.targets),
        }
        finite = {step: loss for step, loss in losses.items() if math.isfinite(loss)}
        series = {"steps": tuple(map(float, finite)), "val_nll": tuple(finite.values())}
        measured.append(Measurement("E11", job.conditions, seed, metrics=metrics, series=series))
    return measured


def seconds(job: Job) -> float:
    trained = job.arm["learning_rate_of"] == "own"
    replicas = 21.0 + 12.0 if len(job.seeds) > len(EVALUATION_SEEDS["quick"]) else 8.0 + 5.0
    return 0.5 + trained * job.steps * replicas * int(job.arm["depth"]) * 1.2e-4


EXPERIMENT = Experiment(
    "E11",
    "Steps to a target",
    "Does a norm shorten training, and is that more than the larger learning rate which it allows?",
    jobs,
    measure,
    seconds,
)
