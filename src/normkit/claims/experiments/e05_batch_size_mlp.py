"""E05: what the batch size does to an MLP with each norm, and whether it does it through the statistics.

Three designs. "batch": the batch grows, and with it all that depends on it, the noise of the gradient among them.
"adam": the same with Adam, as Ba et al. have it, in place of SGD with momentum. "ghost": every step takes 64 samples,
and only the groups over which BatchNorm takes its statistics differ, so that what differs between arms is the
statistics alone.

Source of the designs: Ba et al. 2016, section 6.6; Hoffer et al. 2017, "Train longer, generalize better", section 4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from normkit.claims.experiment import Experiment, Job, Measurement, Tier, conditions
from normkit.claims.experiments._digits import flat_digits
from normkit.claims.experiments._stacked_models import mlp
from normkit.claims.experiments._stacked_training import Recipe
from normkit.claims.experiments._stacked_tuning import (
    EVALUATION_SEEDS,
    Study,
    half_decades,
    is_full,
    measure_cell,
)

NORMS = ("batch", "layer", "none", "rms")
BATCHES: dict[Tier, tuple[int, ...]] = {"quick": (2, 4, 32, 100), "full": (2, 4, 8, 16, 32, 100)}
GHOST_BATCH = 64
GHOSTS: dict[Tier, tuple[int, ...]] = {"quick": (2, 16), "full": (2, 4, 8, 16, 64)}


def steps_for(batch: int) -> int:
    """707 at batch size 2 (1.4 epochs), 100 at 100 (10 epochs): neither equal steps nor equal epochs, which would
    leave one end untrained or take all the time."""
    return round(1000 / math.sqrt(batch))


def jobs(tier: Tier) -> Sequence[Job]:
    if tier == "instant":
        return ()
    norms = NORMS if tier == "full" else NORMS[:3]
    arms = [conditions(design="batch", norm=norm, batch=batch) for batch in BATCHES[tier] for norm in norms]
    if tier == "quick":
        arms.append(conditions(design="batch", norm="rms", batch=2))
        arms += [conditions(design="adam", norm=norm, batch=2) for norm in NORMS[:2]]
    else:
        arms += [conditions(design="adam", norm=norm, batch=batch) for batch in BATCHES[tier] for norm in NORMS[:3]]
    arms += [conditions(design="ghost", norm="batch", batch=GHOST_BATCH, ghost=ghost) for ghost in GHOSTS[tier]]
    arms += [conditions(design="ghost", norm=norm, batch=GHOST_BATCH) for norm in ("layer", "none")]
    return [Job("E05", arm, EVALUATION_SEEDS[tier], steps_for(int(dict(arm)["batch"]))) for arm in arms]


def measure(job: Job) -> list[Measurement]:
    arm = job.arm
    ghost = int(arm["ghost"]) if "ghost" in arm else None
    is_adam = arm["design"] == "adam"
    first = 0.001 if is_adam or int(arm["batch"]) < 16 else 0.01  # small batches are noisy, and want small steps
    study = Study(
        build=mlp((64, 64), str(arm["norm"]), ghost=ghost),
        data=flat_digits,
        recipe=Recipe(batch_size=int(arm["batch"]), steps=job.steps, optimizer="adam" if is_adam else "sgd"),
        grid=half_decades(0.3 * first, 7) if is_full(job) else half_decades(first, 4),
        n_tuning_seeds=3 if is_full(job) else 2,
    )
    return measure_cell(job, study)


def seconds(job: Job) -> float:
    replicas = 21.0 + 12.0 if is_full(job) else 8.0 + 5.0
    return 0.3 + job.steps * (1e-3 + replicas * (1.5e-4 + 6e-6 * int(job.arm["batch"])))


EXPERIMENT = Experiment(
    "E05",
    "Batch size, in a multilayer perceptron",
    "Does BatchNorm need large batches where LayerNorm does not, and is it the batch statistics that need them?",
    jobs,
    measure,
    seconds,
)
