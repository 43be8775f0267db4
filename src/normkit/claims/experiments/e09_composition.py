"""E09: the same gradient set, other statistics: what if each group that shares a mean and variance is of one class?

Every step takes the same 100 images, 10 of each class, in 10 groups of 10. BatchNorm's statistics are a group's, the
gradient is that of all 100, so that nothing but the statistics depends on who is in whose group: for a norm that
looks at one case at a time the gradient is the same whatever the groups. ``class_share`` is the share of places in a
group that are kept for one class, before the rest is mixed: 1 is a class to a group, 0 is mixed at random.

With a class to a group the network does not even fit its training data: the statistics take away what tells the
classes apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from normkit.claims.experiment import Experiment, Job, Measurement, Tier, conditions
from normkit.claims.experiments._digits import flat_digits
from normkit.claims.experiments._seeds import jobs_of
from normkit.claims.experiments._stacked_data import StackedData
from normkit.claims.experiments._stacked_models import mlp
from normkit.claims.experiments._stacked_training import Order, Recipe, one_thread
from normkit.claims.experiments._stacked_tuning import Cell, Study, measurements, metrics_of
from normkit.lab.data import stream

CLASSES, GROUP = 10, 10
BATCH = CLASSES * GROUP
STEPS = 150
GRID = (0.03, 0.1, 0.3, 1.0)


def jobs(tier: Tier) -> Sequence[Job]:
    arms = [
        conditions(norm="batch", class_share=1.0),
        conditions(norm="batch", class_share=0.0),
        conditions(norm="layer", class_share=1.0),
        conditions(norm="layer", class_share=0.0),
    ]
    more = [conditions(norm="batch", class_share=share) for share in (0.25, 0.5, 0.75)]
    more += [conditions(norm="none", class_share=share) for share in (1.0, 0.0)]
    return jobs_of("E09", tier, arms, more, STEPS)


def grouped(class_share: float) -> Order:
    """Rows of batches of which each ten in a row are a group."""

    def order(data: StackedData) -> Iterator[Tensor]:
        draws = [stream(seed, "order") for seed in data.seeds]  # which images
        mixes = [stream(seed, "groups") for seed in data.seeds]  # in which group: nothing else depends on it
        while True:
            yield torch.stack(
                [
                    _balanced(targets, draw)[_mixing(class_share, mix)]
                    for targets, draw, mix in zip(data.train.targets, draws, mixes, strict=True)
                ]
            )

    return order


def _balanced(targets: Tensor, generator: torch.Generator) -> Tensor:
    """Rows of 10 images of each class, class by class."""
    shuffled = torch.randperm(len(targets), generator=generator)
    return torch.cat([shuffled[targets[shuffled] == label][:GROUP] for label in range(CLASSES)])


def _mixing(class_share: float, generator: torch.Generator) -> Tensor:
    """A permutation of the 100 places that leaves the share where it is."""
    places = torch.arange(BATCH)
    shuffled = torch.randperm(BATCH, generator=generator)
    moved = shuffled[round(class_share * BATCH) :]
    places[moved.sort().values] = moved
    return places


def measure(job: Job) -> list[Measurement]:
    share = float(job.arm["class_share"])
    build = mlp((64, 64), str(job.arm["norm"]), ghost=GROUP if job.arm["norm"] == "batch" else None)
    order = grouped(share)
    study = Study(build, flat_digits, Recipe(BATCH, job.steps), GRID, order=order)
    cell = Cell(study, job.seeds)
    metrics = {seed: dict(found) for seed, found in metrics_of(cell).items()}
    if cell.chosen is not None:
        stack = cell.at(cell.chosen)
        with one_thread():
            errors = _training_mode_error(stack.model, stack.data, grouped(0.0))
        for seed, error in zip(job.seeds, errors.tolist(), strict=True):
            metrics[seed]["train_mode_error"] = error
    return measurements(job, cell, metrics)


@torch.no_grad()
def _training_mode_error(model: nn.Module, data: StackedData, order: Order) -> Tensor:
    """Per cent of training images that are misread with the statistics of their group, when groups are mixed, [R]."""
    model.train()
    errors = []
    for _, rows in zip(range(10), order(data), strict=False):
        inputs, targets = data.train.rows(rows)
        errors.append((model(*inputs).argmax(-1) != targets).double().mean(1))
    return 100 * torch.stack(errors).mean(0)


EXPERIMENT = Experiment(
    "E09",
    "Who shares statistics with whom",
    "Does it matter to BatchNorm which cases are normalized together, if the gradient is over the same cases?",
    jobs,
    measure,
    seconds=lambda job: 0.6 * (len(job.seeds) + 2),
)
