"""E18: the norms in a transformer, on sequences of one length and of many.

A transformer of two blocks sorts sequences. Of the reasons given for BatchNorm's trouble with sequences, padding and
varying lengths can be told from all else: sequences of one length have neither, and where lengths vary BatchNorm takes
its statistics over all tokens, padding among them ("batch"), or over those that are no padding ("batch_masked").
Whether what is lost is lost in training, or between training and evaluation, is told by the training loss, by the test
loss with the statistics of the whole training set, and by how far running statistics are from those of a batch.

The same transformer, made causal, tells the next character. There BatchNorm can cheat: a batch's statistics know of
characters that come later, so that its training loss may look better than it is; ``told_by_the_last`` measures that.

Training is short: with LayerNorm a third of the tokens are still wrong after the 150 steps of the quick tier. It tells
how fast the arms learn, and not where they end; the full tier's 300 steps tell more.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from normkit.claims.experiment import Experiment, Job, Measurement, Tier, conditions
from normkit.claims.experiments._characters import least_nll
from normkit.claims.experiments._stacked_training import Recipe
from normkit.claims.experiments._stacked_transformer import (
    CHARACTERS,
    SORTING,
    discrepancy_penalty,
    mean_distances,
    next_character,
    sorting,
    told_by_the_last,
    transformer,
)
from normkit.claims.experiments._stacked_tuning import (
    EVALUATION_SEEDS,
    Cell,
    Study,
    half_decades,
    is_full,
    measurements,
    metrics_of,
)

BATCH = 16
STEPS: dict[bool, int] = {False: 150, True: 300}
ARMS: dict[Tier, tuple[tuple[str, str, str], ...]] = {  # lengths, norm, placement
    "quick": (
        ("variable", "layer", "pre"),
        ("variable", "batch", "pre"),
        ("variable", "batch_masked", "pre"),
        ("fixed", "layer", "pre"),
        ("fixed", "batch", "pre"),
    ),
    "full": (
        *(
            (lengths, norm, "pre")
            for lengths in ("variable", "fixed")
            for norm in ("layer", "batch", "none", "rms", "dyt")
        ),
        ("variable", "batch_masked", "pre"),
        ("variable", "batch_regularized", "pre"),
        ("fixed", "batch_regularized", "pre"),
        *(("variable", norm, "post") for norm in ("layer", "batch", "batch_masked", "batch_regularized")),
    ),
}
ON_CHARACTERS: dict[Tier, tuple[str, ...]] = {"quick": (), "full": ("layer", "batch", "none", "batch_regularized")}


def jobs(tier: Tier) -> Sequence[Job]:
    if tier == "instant":
        return ()
    arms = [conditions(lengths=lengths, norm=norm, placement=placement) for lengths, norm, placement in ARMS[tier]]
    arms += [conditions(task="characters", norm=norm, placement="pre") for norm in ON_CHARACTERS[tier]]
    return [Job("E18", arm, EVALUATION_SEEDS[tier], STEPS[tier == "full"]) for arm in arms]


def measure(job: Job) -> list[Measurement]:
    """As ``measure_cell``; of BatchNorm also mean_distance and std_distance of running statistics from a batch's.

    Of characters also test_excess, the test loss over the least that it could be on average, and told_by_the_last.
    """
    arm = job.arm
    on_characters = "task" in arm
    study = Study(
        build=transformer(
            str(arm["norm"]),
            placement=arm["placement"],  # type: ignore[arg-type]
            language=CHARACTERS if on_characters else SORTING,
        ),
        data=next_character if on_characters else lambda seed: sorting(seed, arm["lengths"]),
        recipe=Recipe(batch_size=BATCH, steps=job.steps, optimizer="adam", warmup=20, clip_norm=1.0),
        grid=half_decades(0.003, 4) if is_full(job) else half_decades(0.01, 3),
        penalty=discrepancy_penalty if arm["norm"] == "batch_regularized" else None,
    )
    cell = Cell(study, job.seeds)
    if cell.chosen is None:
        return measurements(job, cell, {})
    stack = cell.at(cell.chosen)
    more = mean_distances(stack.model)
    found = metrics_of(cell)
    if on_characters:
        nll = torch.tensor([found[seed]["test_nll"] for seed in job.seeds])
        more["test_excess"] = nll - least_nll(CHARACTERS.longest)
        more["told_by_the_last"] = told_by_the_last(stack.model, stack.data.test.all()[0][0][:, :BATCH])
    return measurements(
        job,
        cell,
        {
            seed: {**found[seed], **{name: float(value[i]) for name, value in more.items()}}
            for i, seed in enumerate(job.seeds)
        },
    )


def seconds(job: Job) -> float:
    replicas = 8.0 + 12.0 if is_full(job) else 6.0 + 5.0
    cost = {"fixed": 1.9e-3, "variable": 2.9e-3}.get(str(job.arm.get("lengths")), 5.5e-3)
    return 0.5 + job.steps * replicas * cost


EXPERIMENT = Experiment(
    "E18",
    "Norms in a transformer, with and without varying lengths",
    "Is LayerNorm better than BatchNorm in a transformer, and is it varying lengths that make it so?",
    jobs,
    measure,
    seconds,
)
