"""E22: dropout before BatchNorm shifts the variance between training and evaluation.

With dropout the input W·a of a norm has in training the variance that it has in evaluation and, beside it,
sum_j w_j^2·E(a_j^2)·p / (1 - p). The running variance remembers training, evaluation has the other (Li et al. 2018).
Statistics that are taken again without dropout should repair what that costs. LayerNorm remembers nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from normkit.claims.experiment import Experiment, Job, Measurement, Tier, conditions
from normkit.claims.experiments._digits import flat_digits
from normkit.claims.experiments._seeds import jobs_of
from normkit.claims.experiments._stacked_data import StackedSplit
from normkit.claims.experiments._stacked_layers import Draws, Dropout, Linear
from normkit.claims.experiments._stacked_models import Build
from normkit.claims.experiments._stacked_norms import feature_norm
from normkit.claims.experiments._stacked_training import Recipe, evaluate, one_thread, take_population_statistics
from normkit.claims.experiments._stacked_tuning import Cell, Study, measurements, metrics_of

WIDTH, BATCH, STEPS = 64, 50, 200
GRID = (0.01, 0.03, 0.1, 0.3)
REPEATS = 20  # draws of the dropout mask for the variance in training


def jobs(tier: Tier) -> Sequence[Job]:
    arms = [conditions(norm="batch", dropout=p) for p in (0.5, 0.3, 0.0)]
    arms += [conditions(norm="layer", dropout=p) for p in (0.5, 0.0)]
    return jobs_of("E22", tier, (), arms, STEPS)


def _build(norm: str, p: float) -> Build:
    """64-64-64-10; dropout stands before the second linear layer, whose output is normalized."""

    def build(seeds: Sequence[int]) -> nn.Module:
        draws, n = Draws(seeds), len(seeds)
        return nn.Sequential(
            Linear(draws, 64, WIDTH),
            feature_norm(norm, n, WIDTH),
            nn.ReLU(),
            Dropout(seeds, p),
            Linear(draws, WIDTH, WIDTH),
            feature_norm(norm, n, WIDTH),
            nn.ReLU(),
            Linear(draws, WIDTH, 10, gain=1.0),
        )

    return build


def measure(job: Job) -> list[Measurement]:
    p = float(job.arm["dropout"])
    build = _build(str(job.arm["norm"]), p)
    cell = Cell(Study(build, flat_digits, Recipe(BATCH, job.steps), GRID), job.seeds)
    metrics = {seed: dict(found) for seed, found in metrics_of(cell).items()}
    if cell.chosen is not None:
        with one_thread():
            stack = cell.at(cell.chosen)
            model, data = stack.model, stack.data
            assert isinstance(model, nn.Sequential)
            take_population_statistics(model, data.train)
            found = _variances(model, data.train, p)
            for module in model.modules():
                if isinstance(module, Dropout):
                    module.p = 0.0
            take_population_statistics(model, data.train)
            repaired = evaluate(model, data.test)
        found |= {"test_nll_repaired": repaired["nll"], "test_error_repaired": repaired["error"]}
        for i, seed in enumerate(job.seeds):
            metrics[seed] |= {name: float(value[i]) for name, value in found.items()}
    return measurements(job, cell, metrics)


@torch.no_grad()
def _variances(model: nn.Sequential, train: StackedSplit, p: float) -> dict[str, Tensor]:
    """The variance of the second norm's input in training over that in evaluation: measured, and by theory."""
    first, dropout, linear = model[:3].eval(), model[3], model[4]
    assert isinstance(linear, Linear)
    a = first(*train.all()[0])
    dropped = torch.cat([linear(dropout.train()(a)) for _ in range(REPEATS)], 1).double()
    plain = linear(a).double().var(1, correction=0)
    alive = plain > 1e-8
    extra = (a.double().square().mean(1).unsqueeze(1) @ linear.weight.double().square()).squeeze(1) * p / (1 - p)
    measured, theory = dropped.var(1, correction=0) / plain, 1 + extra / plain

    def mean(ratios: Tensor) -> Tensor:
        average: Tensor = (ratios * alive).sum(1) / alive.sum(1)
        return average

    return {"variance_ratio": mean(measured), "variance_ratio_to_theory": mean(measured / theory)}


EXPERIMENT = Experiment(
    "E22",
    "Dropout before BatchNorm",
    "Does dropout before BatchNorm make its running variance wrong in evaluation?",
    jobs,
    measure,
    seconds=lambda job: 0.4 * (len(job.seeds) + 2),
)
