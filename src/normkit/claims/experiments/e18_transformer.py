"""E18: the norms in a transformer, on sequences of one length and of many.

A transformer of two blocks sorts sequences. Of the reasons given for BatchNorm's trouble with sequences, padding and
varying lengths can be told from all else: sequences of one length have neither, and where lengths vary BatchNorm takes
its statistics over all tokens, padding among them ("batch"), or over those that are no padding ("batch_masked").
Whether what is lost is lost in training, or between training and evaluation, is told by the training loss, by the test
loss with the statistics of the whole training set, and by how far running statistics are from those of a batch.

Training is short: with LayerNorm a third of the tokens are still wrong after the 150 steps of the quick tier. It tells
how fast the arms learn, and not where they end; the full tier's 300 steps tell more.
"""

from __future__ import annotations

from collections.abc import Sequence

from normkit.claims.experiment import Experiment, Job, Measurement, Tier, conditions
from normkit.claims.experiments._stacked_training import Recipe
from normkit.claims.experiments._stacked_transformer import (
    discrepancy_penalty,
    mean_distances,
    sorting,
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
        *(("variable", norm, "post") for norm in ("layer", "batch", "batch_masked")),
    ),
}


def jobs(tier: Tier) -> Sequence[Job]:
    if tier == "instant":
        return ()
    return [
        Job(
            "E18",
            conditions(lengths=lengths, norm=norm, placement=placement),
            EVALUATION_SEEDS[tier],
            STEPS[tier == "full"],
        )
        for lengths, norm, placement in ARMS[tier]
    ]


def measure(job: Job) -> list[Measurement]:
    """As ``measure_cell``; of BatchNorm also mean_distance and std_distance of running statistics from a batch's."""
    arm = job.arm
    study = Study(
        build=transformer(str(arm["norm"]), placement=arm["placement"]),  # type: ignore[arg-type]
        data=lambda seed: sorting(seed, arm["lengths"]),
        recipe=Recipe(batch_size=BATCH, steps=job.steps, optimizer="adam", warmup=20, clip_norm=1.0),
        grid=half_decades(0.003, 4) if is_full(job) else half_decades(0.01, 3),
        penalty=discrepancy_penalty if arm["norm"] == "batch_regularized" else None,
    )
    cell = Cell(study, job.seeds)
    distances = {} if cell.chosen is None else mean_distances(cell.at(cell.chosen).model)
    found = metrics_of(cell)
    return measurements(
        job,
        cell,
        {
            seed: {**found[seed], **{name: float(value[i]) for name, value in distances.items()}}
            for i, seed in enumerate(job.seeds)
        },
    )


def seconds(job: Job) -> float:
    replicas = 8.0 + 12.0 if is_full(job) else 6.0 + 5.0
    return 0.5 + job.steps * replicas * (3.5e-3 if job.arm["lengths"] == "fixed" else 5.5e-3)


EXPERIMENT = Experiment(
    "E18",
    "Norms in a transformer, with and without varying lengths",
    "Is LayerNorm better than BatchNorm in a transformer, and is it varying lengths that make it so?",
    jobs,
    measure,
    seconds,
)
