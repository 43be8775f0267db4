"""E19: LayerNorm before or after the residual sum of a transformer, with warm-up and without.

Besides what training comes to, the gradient at the start, by block: with the norm after the sum those of the last
blocks are said to be large, and to need a warm-up. Of 12 blocks only that is looked at: to train them would take as
long as all else here.

Source: Xiong et al. 2020, "On Layer Normalization in the Transformer Architecture", https://arxiv.org/abs/2002.04745
"""

from __future__ import annotations

from collections.abc import Sequence

from normkit.claims.experiment import Experiment, Job, Measurement, Tier, conditions
from normkit.claims.experiments._stacked_models import Build
from normkit.claims.experiments._stacked_training import Recipe, one_thread
from normkit.claims.experiments._stacked_transformer import gradient_by_half, sorting, transformer
from normkit.claims.experiments._stacked_tuning import (
    EVALUATION_SEEDS,
    Cell,
    Study,
    half_decades,
    measurements,
    metrics_of,
)
from normkit.lab.task import Data

BATCH, STEPS, WARMUP = 8, 250, 100
AT_START = 12  # blocks of the network that is not trained
PLACEMENTS = ("post", "pre")
LEARNED_ERROR = 10.0  # per cent of tokens


def jobs(tier: Tier) -> Sequence[Job]:
    if tier != "full":
        return ()
    arms = [(blocks, placement, warmup) for blocks in (6, 2) for placement in PLACEMENTS for warmup in (0, WARMUP)]
    arms += [(AT_START, placement, 0) for placement in PLACEMENTS]
    return [
        Job(
            "E19",
            conditions(placement=placement, warmup=warmup, blocks=blocks),
            EVALUATION_SEEDS[tier],
            0 if blocks == AT_START else STEPS,
        )
        for blocks, placement, warmup in arms
    ]


def measure(job: Job) -> list[Measurement]:
    """As ``measure_cell``; learned (1 if the test error is at most 10 %), and, at the start, gradient_last_to_first:
    how many times larger the gradient of the last block's weights is than that of the first's. Without steps only
    this."""
    arm = job.arm
    n_blocks = int(arm["blocks"])
    build = transformer("layer", n_blocks=n_blocks, placement=arm["placement"])  # type: ignore[arg-type]
    at_start = {seed: {"gradient_last_to_first": _last_to_first(build, n_blocks, seed)} for seed in job.seeds}
    if not job.steps:
        return [Measurement("E19", job.conditions, seed, metrics=at_start[seed]) for seed in job.seeds]
    study = Study(
        build=build,
        data=_data,
        recipe=Recipe(batch_size=BATCH, steps=job.steps, optimizer="adam", warmup=int(arm["warmup"])),
        grid=half_decades(0.001, 3),
    )
    cell = Cell(study, job.seeds)
    metrics = {seed: {**found, **at_start[seed]} for seed, found in metrics_of(cell).items()}
    for own in metrics.values():
        if "test_error" in own:
            own["learned"] = float(own["test_error"] <= LEARNED_ERROR)
    return measurements(job, cell, metrics)


def _data(seed: int) -> Data:
    return sorting(seed, "variable")


def _last_to_first(build: Build, n_blocks: int, seed: int) -> float:
    with one_thread():
        norms = gradient_by_half(build, _data(seed), [seed], 64)[:, 0]
    blocks = norms.view(n_blocks, 2).square().sum(1).sqrt()
    return float(blocks[-1] / blocks[0])


def seconds(job: Job) -> float:
    if not job.steps:
        return 1.0
    return 1.0 + job.steps * (6.0 + 12.0) * 1.5e-3 * int(job.arm["blocks"])


EXPERIMENT = Experiment(
    "E19",
    "LayerNorm before or after the residual sum, and warm-up",
    "Does LayerNorm keep gradients steady wherever it stands in a transformer?",
    jobs,
    measure,
    seconds,
)
