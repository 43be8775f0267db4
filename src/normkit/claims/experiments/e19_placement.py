"""E19: LayerNorm before or after the residual sum of a transformer, with warm-up and without.

Besides what training comes to, the gradient at the start, by block: with the norm after the sum those of the last
blocks are said to be large, and to need a warm-up.

Source: Xiong et al. 2020, "On Layer Normalization in the Transformer Architecture", https://arxiv.org/abs/2002.04745
"""

from __future__ import annotations

from collections.abc import Sequence

from normkit.claims.experiment import Experiment, Job, Measurement, Tier, conditions
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

BATCH, STEPS, WARMUP = 8, 250, 100
LEARNED_ERROR = 10.0  # per cent of tokens


def jobs(tier: Tier) -> Sequence[Job]:
    if tier != "full":
        return ()
    return [
        Job("E19", conditions(placement=placement, warmup=warmup, blocks=blocks), EVALUATION_SEEDS[tier], STEPS)
        for blocks in (6, 2)
        for placement in ("post", "pre")
        for warmup in (0, WARMUP)
    ]


def measure(job: Job) -> list[Measurement]:
    """As ``measure_cell``; learned (1 if the test error is at most 10 %), and, at the start, gradient_last_to_first:
    how many times larger the gradient of the last block's weights is than that of the first's."""
    arm = job.arm
    n_blocks = int(arm["blocks"])
    build = transformer("layer", n_blocks=n_blocks, placement=arm["placement"])  # type: ignore[arg-type]
    study = Study(
        build=build,
        data=lambda seed: sorting(seed, "variable"),
        recipe=Recipe(batch_size=BATCH, steps=job.steps, optimizer="adam", warmup=int(arm["warmup"])),
        grid=half_decades(0.001, 3),
    )
    cell = Cell(study, job.seeds)
    found = metrics_of(cell)
    metrics = {}
    for seed in job.seeds:
        with one_thread():
            norms = gradient_by_half(build, study.data(seed), [seed], 64)[:, 0]
        blocks = norms.view(n_blocks, 2).square().sum(1).sqrt()
        metrics[seed] = {**found[seed], "gradient_last_to_first": float(blocks[-1] / blocks[0])}
        if "test_error" in found[seed]:
            metrics[seed]["learned"] = float(found[seed]["test_error"] <= LEARNED_ERROR)
    return measurements(job, cell, metrics)


def seconds(job: Job) -> float:
    return 1.0 + job.steps * (6.0 + 12.0) * 1.5e-3 * int(job.arm["blocks"])


EXPERIMENT = Experiment(
    "E19",
    "LayerNorm before or after the residual sum, and warm-up",
    "Does LayerNorm keep gradients steady wherever it stands in a transformer?",
    jobs,
    measure,
    seconds,
)
