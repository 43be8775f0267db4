"""E14: gradients through a deep network, at the start; and whether it can be trained at all.

At the start of training: 30 layers of 128 units, a Gaussian batch, a random gradient at the end; the factor by which
the gradient's norm changes per layer on its way back, and how alike the activations of different cases have become.
For ReLU with BatchNorm theory says sqrt(pi / (pi - 1)) = 1.2112 (Yang et al. 2019): an explosion. For a sigmoid with
LayerNorm the mean of 0.5 of every activation eats the scale: the factor is near 0.39, whatever the weights' scale.

Then the same question to training: digits, 2 to 16 layers, each arm at its own best learning rate. How deep a sigmoid
network with LayerNorm may be turns between 4 layers, which it can train if its learning rate may reach 0.1, and 10,
which neither it nor a network without a norm can.

The factor is taken from the output of the last layer back to that of the first. The first layer is left out: its input
is Gaussian, not an activation, and its own factor is 0.71.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from normkit.claims.experiment import Experiment, Job, Measurement, Tier, conditions
from normkit.claims.experiments._deep import Activation, deep_mlp, gain
from normkit.claims.experiments._digits import flat_digits
from normkit.claims.experiments._seeds import Arm, jobs_of
from normkit.claims.experiments._stacked_layers import Draws, Linear
from normkit.claims.experiments._stacked_norms import feature_norm
from normkit.claims.experiments._stacked_training import Recipe, one_thread
from normkit.claims.experiments._stacked_tuning import Study, measure_cell
from normkit.lab.data import stream

DEPTH, WIDTH, CASES = 30, 128, 256
STEPS, BATCH, HIDDEN = 240, 50, 48
GRIDS: dict[str, tuple[float, ...]] = {"sgd": (0.03, 0.1, 0.3, 1.0), "adam": (0.0003, 0.001, 0.003, 0.01)}

NORMS = ("batch", "layer", "none", "rms")


def jobs(tier: Tier) -> Sequence[Job]:
    starts = [
        conditions(what="start", activation=activation, norm=norm)
        for activation in ("relu", "sigmoid", "tanh")
        for norm in NORMS
    ]
    deep = [_trained("sigmoid", 10, norm) for norm in NORMS[:3]]
    more = [_trained("sigmoid", depth, norm) for depth in (4, 2, 16) for norm in NORMS[:3]]
    more += [_trained(activation, 10, norm) for activation in ("relu", "tanh") for norm in NORMS[:3]]
    more += [_trained("sigmoid", 10, norm, "adam") for norm in NORMS[:3]]
    return [*jobs_of("E14", tier, starts), *jobs_of("E14", tier, deep, more, STEPS)]


def _trained(activation: str, depth: int, norm: str, optimizer: str = "sgd") -> Arm:
    return conditions(what="training", activation=activation, depth=depth, norm=norm, optimizer=optimizer)


def measure(job: Job) -> list[Measurement]:
    arm = job.arm
    activation, norm = str(arm["activation"]), str(arm["norm"])
    with one_thread():
        if arm["what"] == "start":
            return _at_the_start(job, activation, norm)
        build = deep_mlp(int(arm["depth"]), HIDDEN, norm, activation)
        optimizer: Literal["sgd", "adam"] = "adam" if arm["optimizer"] == "adam" else "sgd"
        recipe = Recipe(BATCH, job.steps, optimizer)
        return measure_cell(job, Study(build, flat_digits, recipe, GRIDS[optimizer]))


def _at_the_start(job: Job, activation: str, norm: str) -> list[Measurement]:
    draws = Draws(job.seeds)
    hs = [torch.stack([torch.randn(CASES, WIDTH, generator=stream(seed, "cases")) for seed in job.seeds])]
    hs[0].requires_grad_()
    for _ in range(DEPTH):
        layer = nn.Sequential(
            Linear(draws, WIDTH, WIDTH, gain=gain(activation)),
            feature_norm(norm, len(job.seeds), WIDTH),
            Activation(activation),
        )
        hs.append(layer(hs[-1]))
    dy = torch.stack([torch.randn(CASES, WIDTH, generator=stream(seed, "gradient")) for seed in job.seeds])
    gradients = torch.autograd.grad(hs[-1], hs, dy)
    logs = torch.stack([_log10_norm(g) for g in gradients])  # [layers + 1, seeds]
    cosines = _mean_cosine(hs[-1].detach())
    found = []
    for i, seed in enumerate(job.seeds):
        # From the last layer's output to the first's: the first layer itself sees a Gaussian, no activation.
        decades = (logs[1, i] - logs[-1, i]).item()
        metrics = {
            "gradient_factor": 10 ** (decades / (DEPTH - 1)),
            "gradient_decades": decades,
            "gradient_decades_off": abs(decades),
            "cosine": cosines[i].item(),
        }
        series = {"log10_gradient": tuple(logs[:, i].tolist())}
        found.append(Measurement(job.experiment, job.conditions, seed, metrics=metrics, series=series))
    return found


def _log10_norm(g: Tensor) -> Tensor:
    """[R]; in float64, since squares of what has vanished are no float32 numbers."""
    logs: Tensor = g.double().flatten(1).norm(dim=1).clamp(min=1e-300).log10()
    return logs


def _mean_cosine(h: Tensor) -> Tensor:
    """The mean cosine of the activations of two different cases, [R]."""
    unit = nn.functional.normalize(h.double(), dim=-1)
    n = h.shape[1]
    mean: Tensor = (unit.sum(1).square().sum(-1) - n) / (n * (n - 1))
    return mean


def seconds(job: Job) -> float:
    if job.arm["what"] == "start":
        return 0.3
    return 0.45 * len(job.seeds) * int(job.arm["depth"]) / 10 + 1.5


EXPERIMENT = Experiment(
    "E14",
    "Gradients through depth",
    "Do BatchNorm and LayerNorm keep gradients from vanishing and exploding in deep networks?",
    jobs,
    measure,
    seconds,
)
