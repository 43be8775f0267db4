"""E21: whether BatchNorm regularizes, through the noise of its statistics, and whether dropout is then needed less.

200 training images, which an MLP of 128 and 128 units learns by heart.

- "dropout": batches of 20, with and without BatchNorm, with more and more dropout.
- "best": of those, each seed's own best dropout by validation loss.
- "ghost": batches of 64, and groups of samples that share statistics from 4, which are noisy, to the whole batch; the
  gradient's own noise is the same in all.
- "population": the gradient over 64 samples, the statistics those of all 200 images, without noise (Luo et al. 2019
  have such a BatchNorm to find what the noise does).
- "random": as "dropout" without any, but every label is drawn at random, and the learning rate is the one that fits
  them best: how well a network learns by heart what cannot be understood (Zhang et al. 2017).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from normkit.claims.experiment import Experiment, Job, Measurement, Tier, conditions
from normkit.claims.experiments._digits import few, flat_digits
from normkit.claims.experiments._stacked_models import mlp
from normkit.claims.experiments._stacked_training import Recipe, cross_entropy
from normkit.claims.experiments._stacked_tuning import (
    EVALUATION_SEEDS,
    Cell,
    Study,
    half_decades,
    is_full,
    measurements,
    metrics_of,
    not_learned,
)
from normkit.lab.data import stream
from normkit.lab.task import Data, Split

STEPS, IMAGES = 300, 200
BATCH, LARGE_BATCH = 20, 64  # of "dropout"; of "ghost" and "population"
DROPOUTS: dict[Tier, tuple[float, ...]] = {"quick": (0.0, 0.3), "full": (0.0, 0.1, 0.3, 0.5)}
GHOSTS: dict[Tier, tuple[int, ...]] = {"quick": (4, 16, 64), "full": (4, 8, 16, 32, 64)}


def jobs(tier: Tier) -> Sequence[Job]:
    if tier == "instant":
        return ()
    norms = ("batch", "none") if tier == "quick" else ("batch", "none", "layer")
    arms = [
        conditions(design="dropout", norm=norm, batch=BATCH, dropout=p) for p in DROPOUTS[tier] for norm in norms
    ] + [conditions(design="ghost", norm="batch", batch=LARGE_BATCH, ghost=ghost) for ghost in GHOSTS[tier]]
    if tier == "full":
        arms += [conditions(design="ghost", norm=norm, batch=LARGE_BATCH) for norm in ("none", "layer")]
        arms += [
            conditions(design=design, norm=norm, batch=BATCH) for design in ("best", "random") for norm in norms[:2]
        ]
        arms += [conditions(design="population", norm="batch", batch=LARGE_BATCH)]
    return [Job("E21", arm, EVALUATION_SEEDS[tier], STEPS) for arm in arms]


def measure(job: Job) -> list[Measurement]:
    """As ``measure_cell``, where with random labels validation is of the training images; "best" has best_dropout,
    test_nll, tuning_incomplete (of any dropout) and not_learned alone."""
    if job.arm["design"] == "best":
        return _best(job)
    cell = _tuned(job)
    return measurements(job, cell, metrics_of(cell))


def _best(job: Job) -> list[Measurement]:
    norm, batch = job.arm["norm"], job.arm["batch"]
    cells = {
        p: _tuned(replace(job, conditions=conditions(design="dropout", norm=norm, batch=batch, dropout=p)))
        for p in DROPOUTS["full"]
    }
    trained = {p: cell.at(cell.chosen) for p, cell in cells.items() if cell.chosen is not None}
    metrics = {p: metrics_of(cells[p]) for p in trained}
    incomplete = float(any(not cell.tuning.complete for cell in cells.values()))
    found = []
    for i, seed in enumerate(job.seeds):
        losses = {p: stack.validation[i] for p, stack in trained.items() if math.isfinite(stack.validation[i])}
        if not losses:
            found.append(Measurement("E21", job.conditions, seed, "diverged", message="with every dropout"))
            continue
        best = min(losses, key=lambda p: losses[p])
        own = {
            "best_dropout": best,
            "test_nll": metrics[best][seed]["test_nll"],
            "tuning_incomplete": incomplete,
            **not_learned(losses[best], trained[best].data.train.targets),
        }
        found.append(Measurement("E21", job.conditions, seed, metrics=own))
    return found


@lru_cache(maxsize=16)
def _tuned(job: Job) -> Cell:
    """Kept, since the best dropout is sought among cells that other jobs have."""
    arm = job.arm
    ghost = int(arm["ghost"]) if "ghost" in arm else None
    population = arm["design"] == "population"
    study = Study(
        build=mlp((128, 128), str(arm["norm"]), ghost=ghost, dropout=float(arm.get("dropout", 0.0))),
        data=_with_random_labels if arm["design"] == "random" else _images,
        recipe=Recipe(batch_size=IMAGES if population else int(arm["batch"]), steps=job.steps),
        loss=_of_the_first if population else cross_entropy,
        grid=half_decades(0.003, 7) if is_full(job) else half_decades(0.01, 4),
        n_tuning_seeds=3 if is_full(job) else 2,
    )
    return Cell(study, job.seeds)


def _images(seed: int) -> Data:
    return few(flat_digits(seed), IMAGES)


def _with_random_labels(seed: int) -> Data:
    """The training images with labels drawn at random, which are the validation data, too."""
    data = _images(seed)
    labels = torch.randint(10, (IMAGES,), generator=stream(seed, "random labels"))
    train = Split(data.train.inputs, labels)
    return Data(train, train, data.test)


def _of_the_first(logits: Tensor, targets: Tensor) -> Tensor:
    """In training the cross entropy of the first 64 samples [R, N] alone, so weighted that the mean over all is theirs.

    Batches are all images, each time in another order: those are 64 drawn at random.
    """
    losses = cross_entropy(logits, targets)
    if not logits.requires_grad:
        return losses
    n = losses.shape[1]
    counts = (torch.arange(n) < LARGE_BATCH).to(losses.dtype)
    return losses * counts * (n / LARGE_BATCH)


def seconds(job: Job) -> float:
    if job.arm["design"] == "best":
        return 1.0
    replicas = 21.0 + 12.0 if is_full(job) else 8.0 + 5.0
    batch = IMAGES if job.arm["design"] == "population" else int(job.arm["batch"])
    return 0.3 + job.steps * replicas * (1.5e-4 + 5e-6 * batch)


EXPERIMENT = Experiment(
    "E21",
    "BatchNorm as a regularizer, and dropout",
    "Does BatchNorm keep a network from learning by heart, by its noise, so that dropout is needed less?",
    jobs,
    measure,
    seconds,
)
