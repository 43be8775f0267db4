"""E25: the norm before the activation, or after it. Ioffe & Szegedy 2015 normalize W·x + b, before."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from normkit.claims.experiment import Experiment, Job, Measurement, Tier, conditions
from normkit.claims.experiments._deep import Activation, deep_mlp
from normkit.claims.experiments._digits import flat_digits
from normkit.claims.experiments._seeds import jobs_of
from normkit.claims.experiments._stacked_data import StackedSplit
from normkit.claims.experiments._stacked_training import Recipe, one_thread
from normkit.claims.experiments._stacked_tuning import Cell, Study, measurements, metrics_of

DEPTH, WIDTH, BATCH, STEPS = 4, 48, 50, 240
GRID = (0.03, 0.1, 0.3, 1.0)
SATURATED_FROM = 4.0  # where a sigmoid's slope is below 2 %


def jobs(tier: Tier) -> Sequence[Job]:
    arms = [
        conditions(norm=norm, activation=activation, place=place)
        for activation in ("sigmoid", "relu")
        for norm in ("batch", "layer")
        for place in ("before", "after")
    ]
    return jobs_of("E25", tier, (), arms, STEPS)


def measure(job: Job) -> list[Measurement]:
    arm = job.arm
    build = deep_mlp(
        DEPTH, WIDTH, str(arm["norm"]), str(arm["activation"]), norm_after_activation=arm["place"] == "after"
    )
    cell = Cell(Study(build, flat_digits, Recipe(BATCH, job.steps), GRID), job.seeds)
    metrics = {seed: dict(found) for seed, found in metrics_of(cell).items()}
    if cell.chosen is not None:
        stack = cell.at(cell.chosen)
        with one_thread():
            shares = _share_saturated(stack.model, stack.data.test)
        for seed, share in zip(job.seeds, shares.tolist(), strict=True):
            metrics[seed]["share_saturated"] = share
    return measurements(job, cell, metrics)


@torch.no_grad()
def _share_saturated(model: nn.Module, test: StackedSplit) -> Tensor:
    """How many of the activations' inputs are beyond ±4, [R], in evaluation mode."""
    found: list[Tensor] = []
    hooks = [
        module.register_forward_pre_hook(
            lambda _, inputs: found.append((inputs[0].abs() > SATURATED_FROM).double().flatten(1).mean(1))
        )
        for module in model.modules()
        if isinstance(module, Activation)
    ]
    model.eval()(*test.all()[0])
    for hook in hooks:
        hook.remove()
    return torch.stack(found).mean(0)


EXPERIMENT = Experiment(
    "E25",
    "Before or after the activation",
    "Where does a norm belong: before the activation or after it?",
    jobs,
    measure,
    seconds=lambda job: 0.8 * (len(job.seeds) + 2),
)
