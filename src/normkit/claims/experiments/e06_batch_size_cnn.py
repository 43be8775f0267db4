"""E06: what the batch size does to a residual convolutional network with each norm.

Blocks of 4×4 and 2×2 positions on the 8×8 digits, so that BatchNorm at batch size 2 has 8 to 32 values a channel.
"ghost" is the design of E05: batches of 32, and statistics over smaller groups.

Two norms were made to mend what BatchNorm does with small batches: Filter Response Normalization (Singh & Krishnan
2019) looks at one sample alone, Batch Renormalization (Ioffe 2017) corrects the batch's statistics by the running ones.

Source of the design: Wu & He 2018, "Group Normalization", table 2
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from normkit.claims.experiment import Experiment, Job, Measurement, Tier, conditions
from normkit.claims.experiments._digits import image_digits
from normkit.claims.experiments._stacked_models import cnn
from normkit.claims.experiments._stacked_training import Recipe
from normkit.claims.experiments._stacked_tuning import (
    EVALUATION_SEEDS,
    Study,
    half_decades,
    is_full,
    measure_cell,
)

NORMS = ("batch", "group", "layer", "none", "instance", "filter_response", "batch_renorm")
BATCHES: dict[Tier, tuple[int, ...]] = {"quick": (2, 32), "full": (2, 4, 8, 16, 32)}
GHOST_BATCH = 32


def steps_for(batch: int) -> int:
    """247 at batch size 2, 62 at 32."""
    return round(350 / math.sqrt(batch))


def jobs(tier: Tier) -> Sequence[Job]:
    if tier == "instant":
        return ()
    norms = NORMS[:3] if tier == "quick" else NORMS
    arms = [conditions(design="batch", norm=norm, batch=batch) for batch in BATCHES[tier] for norm in norms]
    if tier == "full":
        arms += [conditions(design="ghost", norm="batch", batch=GHOST_BATCH, ghost=ghost) for ghost in (2, 4, 8)]
        arms += [conditions(design="ghost", norm="group", batch=GHOST_BATCH)]
    return [Job("E06", arm, EVALUATION_SEEDS[tier], steps_for(int(dict(arm)["batch"]))) for arm in arms]


def measure(job: Job) -> list[Measurement]:
    arm = job.arm
    ghost = int(arm["ghost"]) if "ghost" in arm else None
    first = 0.003 if int(arm["batch"]) < 16 else 0.01
    study = Study(
        build=cnn("residual", str(arm["norm"]), ghost=ghost),
        data=image_digits,
        recipe=Recipe(batch_size=int(arm["batch"]), steps=job.steps),
        grid=half_decades(first, 5 if is_full(job) else 4),
        n_tuning_seeds=3 if is_full(job) else 2,
    )
    return measure_cell(job, study)


def seconds(job: Job) -> float:
    replicas = 15.0 + 12.0 if is_full(job) else 8.0 + 5.0
    return 0.5 + job.steps * replicas * (1.5e-3 + 1e-4 * int(job.arm["batch"]))


EXPERIMENT = Experiment(
    "E06",
    "Batch size, in a convolutional network",
    "Does BatchNorm need large batches in a convolutional network, too, and GroupNorm not?",
    jobs,
    measure,
    seconds,
)
