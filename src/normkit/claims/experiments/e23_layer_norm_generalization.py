"""E23: whether LayerNorm makes a network generalize better, and by which of its parts.

200 training images, batches of 20, as in E21. "layer_simple" is LayerNorm without weight and bias, which Xu et al.
2019 hold to be where overfitting comes from; in "layer_detached" the backward pass takes mean and variance for
constants, so that only the forward normalization is left of it (their DetachNorm).
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
NORMS = ("layer", "none", "layer_simple", "layer_detached")


def jobs(tier: Tier) -> Sequence[Job]:
    if tier == "instant":
        return ()
    return [
        Job("E23", conditions(norm=norm, depth=depth), EVALUATION_SEEDS[tier], STEPS)
        for depth in ((2,) if tier == "quick" else (2, 6))
        for norm in NORMS
    ]


def measure(job: Job) -> list[Measurement]:
    study = Study(
        build=mlp((128,) * int(job.arm["depth"]), str(job.arm["norm"])),
        data=lambda seed: few(flat_digits(seed), 200),
        recipe=Recipe(batch_size=20, steps=job.steps),
        grid=half_decades(0.003, 7) if is_full(job) else half_decades(0.01, 4),
        n_tuning_seeds=3 if is_full(job) else 2,
    )
    return measure_cell(job, study)


def seconds(job: Job) -> float:
    replicas = 21.0 + 12.0 if is_full(job) else 8.0 + 5.0
    return 0.3 + job.steps * replicas * 1.5e-4 * int(job.arm["depth"])


EXPERIMENT = Experiment(
    "E23",
    "Generalization with LayerNorm",
    "Does LayerNorm generalize better, and is that its weight and bias, its forward or its backward pass?",
    jobs,
    measure,
    seconds,
)
