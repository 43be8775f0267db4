"""E13: how smooth the loss is along the gradient, while a network trains.

Every 20 steps: from the current weights along -gradient, 0.5 to 4 times as far as the learning rate would go, on the
same batch in training mode. How far does the loss range, how much does the gradient turn, and how large is
beta = max |g(w) - g(w - d)| / |d|, "effective smoothness" (Santurkar et al. 2018)? A network that does not see the
scale of its weights has gradients of size 1 / |w|, which makes beta a question of scale: beta_relative measures the
step in units of |w| and the change in units of |g|.

``rate`` "common": the same learning rate for every norm; "own": each norm's best.

"batch_l1" divides by the mean absolute deviation, and so holds no unit's variance: Santurkar et al. find that norms of
this kind smooth the loss as much.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from normkit.claims.experiment import Experiment, Job, Measurement, Tier, conditions
from normkit.claims.experiments._deep import deep_mlp
from normkit.claims.experiments._digits import flat_digits
from normkit.claims.experiments._seeds import jobs_of
from normkit.claims.experiments._shift import parameters_of
from normkit.claims.experiments._stacked_data import batches, stacked_data
from normkit.claims.experiments._stacked_training import (
    Recipe,
    StackedOptimizer,
    cross_entropy,
    one_thread,
)
from normkit.claims.experiments._stacked_tuning import Cell, Study
from normkit.lab.training import DIVERGED_NATS

DEPTH, WIDTH, BATCH, STEPS = 8, 48, 50, 120
COMMON_RATE = 0.03
GRID = (0.01, 0.03, 0.1, 0.3)
DISTANCES = (0.5, 1.0, 2.0, 4.0)  # times the learning rate
LOOK_EVERY = 20


def jobs(tier: Tier) -> Sequence[Job]:
    common = [conditions(norm=norm, rate="common") for norm in ("none", "batch", "layer")]
    own = [conditions(norm=norm, rate="own") for norm in ("none", "batch", "layer")]
    l1 = [conditions(norm="batch_l1", rate=rate) for rate in ("common", "own")]
    return jobs_of("E13", tier, common, [*own, *l1], STEPS)


def measure(job: Job) -> list[Measurement]:
    build = deep_mlp(DEPTH, WIDTH, str(job.arm["norm"]))
    rate: float | None = COMMON_RATE
    if job.arm["rate"] == "own":
        rate = Cell(Study(build, flat_digits, Recipe(BATCH, job.steps), GRID), job.seeds).chosen
    if rate is None:
        return [_diverged(job, seed) for seed in job.seeds]
    with one_thread():
        found, losses = _train_and_look(job, build(job.seeds), rate)
    result = []
    for i, seed in enumerate(job.seeds):
        curves = {name: tuple(value[:, i].tolist()) for name, value in found.items()}
        metrics = {name: float(value[:, i].clamp(min=1e-30).log().mean().exp()) for name, value in found.items()}
        metrics |= {"learning_rate": rate, "train_loss": float(losses[-10:, i].mean())}
        whole = all(torch.tensor(list(metrics.values())).isfinite()) and bool((losses[:, i] < DIVERGED_NATS).all())
        result.append(
            Measurement(job.experiment, job.conditions, seed, metrics=metrics, series=curves)
            if whole
            else _diverged(job, seed)
        )
    return result


def _diverged(job: Job, seed: int) -> Measurement:
    return Measurement(job.experiment, job.conditions, seed, "diverged", message="the loss was not finite")


def _train_and_look(job: Job, model: nn.Module, rate: float) -> tuple[dict[str, Tensor], Tensor]:
    """The metrics [looks, R] and the losses [steps, R]."""
    data = stacked_data(flat_digits, job.seeds)
    optimizer = StackedOptimizer(model, [rate] * len(job.seeds), Recipe(BATCH, job.steps))
    losses, looks = [], []
    for step, rows in zip(range(job.steps), batches(data.seeds, len(data.train), BATCH), strict=False):
        (x,), targets = data.train.rows(rows)
        if step % LOOK_EVERY == 0:
            looks.append(_look(model.train(), x, targets, rate))
        optimizer.zero_grad()
        loss = cross_entropy(model.train()(x), targets).mean(1)
        loss.sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step(step)
        losses.append(loss.detach())
    return {name: torch.stack([look[name] for look in looks]) for name in looks[0]}, torch.stack(losses)


def _look(model: nn.Module, x: Tensor, targets: Tensor, rate: float) -> dict[str, Tensor]:
    start = parameters_of(model)
    loss, g = _loss_and_gradient(model, start, x, targets)
    size, weights = _norm(g), _norm(start)
    losses, turns, betas = [loss], [], []
    for distance in DISTANCES:
        moved = {name: p - distance * rate * g[name] for name, p in start.items()}
        there, g_there = _loss_and_gradient(model, moved, x, targets)
        change = _norm({name: g[name] - g_there[name] for name in g})
        losses.append(there)
        turns.append(change / size)
        betas.append(change / (distance * rate * size))
    beta = torch.stack(betas).amax(0)
    ranges = torch.stack(losses)
    return {
        "loss_range": ranges.amax(0) - ranges.amin(0),
        "gradient_change": torch.stack(turns).amax(0),
        "beta": beta,
        "beta_relative": beta * weights / size,
    }


def _loss_and_gradient(
    model: nn.Module, parameters: dict[str, Tensor], x: Tensor, targets: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """[R] and the gradient; running statistics stay as they are."""
    own = {name: p.clone().requires_grad_() for name, p in parameters.items()}
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    loss = cross_entropy(functional_call(model, {**own, **buffers}, (x,)), targets).mean(1)
    gradients = torch.autograd.grad(loss.sum(), list(own.values()))
    return loss.detach(), dict(zip(own, gradients, strict=True))


def _norm(tensors: dict[str, Tensor]) -> Tensor:
    """Over everything of a replica, [R]."""
    return torch.stack([t.double().flatten(1).square().sum(1) for t in tensors.values()]).sum(0).sqrt()


EXPERIMENT = Experiment(
    "E13",
    "Smoothness of the loss",
    "Do the norms make the loss smoother along the gradient?",
    jobs,
    measure,
    seconds=lambda job: (0.35 if job.arm["rate"] == "common" else 1.0) * (len(job.seeds) + 2),
)
