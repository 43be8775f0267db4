"""E15: the gradient through 100 steps of a tanh RNN at the start of training.

h_t = tanh(N(W_h·h_{t-1} + W_x·x_t)), a random gradient at the last step alone, so that no other step's term hides what
is lost. W_h is Gaussian of standard deviation ``recurrent_scale`` / sqrt(H), W_x so that W_x·x has unit variance where
x has; ``input_scale`` multiplies x; ``gamma`` is the norm's starting weight. BatchNorm takes its statistics at each
step. Without input LayerNorm sees nothing of the scale of W_h; with input of unit variance it does not keep the
recurrence from forgetting.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from normkit import functional
from normkit.claims.experiment import Experiment, Job, Measurement, Tier, conditions
from normkit.claims.experiments._seeds import Arm, jobs_of
from normkit.claims.experiments._stacked_training import one_thread
from normkit.lab.data import stream

STEPS, HIDDEN, CASES = 100, 64, 32
NORMS = ("layer", "none", "batch", "rms")


def jobs(tier: Tier) -> Sequence[Job]:
    quick = [_arm(norm, g, i) for i in (0.0, 1.0) for g in (0.5, 1.0, 2.5) for norm in NORMS]
    more = [_arm(norm, g, i) for i in (0.0, 0.3, 1.0) for g in (0.5, 1.0, 1.5, 2.5) for norm in NORMS]
    more += [_arm(norm, 1.0, i, gamma=0.1) for i in (0.0, 0.3, 1.0) for norm in NORMS if norm != "none"]
    return jobs_of("E15", tier, quick, [arm for arm in more if arm not in quick])


def _arm(norm: str, recurrent_scale: float, input_scale: float, gamma: float = 1.0) -> Arm:
    return conditions(norm=norm, recurrent_scale=recurrent_scale, input_scale=input_scale, gamma=gamma)


def measure(job: Job) -> list[Measurement]:
    arm = job.arm
    with one_thread():
        logs = _log10_gradients(
            job.seeds,
            str(arm["norm"]),
            float(arm["recurrent_scale"]),
            float(arm["input_scale"]),
            float(arm["gamma"]),
        )
    decades = (logs[0] - logs[-1]).tolist()
    return [
        Measurement(
            job.experiment,
            job.conditions,
            seed,
            metrics={"gradient_decades": decades[i], "gradient_decades_off": abs(decades[i])},
            series={"log10_gradient": tuple((logs[::5, i] - logs[-1, i]).tolist())},
        )
        for i, seed in enumerate(job.seeds)
    ]


def _log10_gradients(seeds: Sequence[int], norm: str, recurrent: float, input_scale: float, gamma: float) -> Tensor:
    """log10 of the norm of dL / dh_t, t = 1 ... T: [T, seeds], in float64."""
    w_h = _normal(seeds, "recurrent", HIDDEN, HIDDEN) * recurrent / HIDDEN**0.5
    w_x = _normal(seeds, "input", HIDDEN, HIDDEN) / HIDDEN**0.5
    xs = _normal(seeds, "cases", CASES, STEPS, HIDDEN) * input_scale
    h = torch.tanh(_normal(seeds, "state", CASES, HIDDEN))
    hs = []
    for t in range(STEPS):
        a = h @ w_h + xs[:, :, t] @ w_x
        h = torch.tanh(_normalized(norm, a, gamma))
        if t == 0:
            h.requires_grad_()
        hs.append(h)
    gradients = torch.autograd.grad(h, hs, _normal(seeds, "gradient", CASES, HIDDEN))
    return torch.stack([g.flatten(1).norm(dim=1).clamp(min=1e-300).log10() for g in gradients])


def _normalized(norm: str, a: Tensor, gamma: float) -> Tensor:
    if norm == "none":
        return a
    if norm == "layer":
        return gamma * functional.layer_norm(a, (HIDDEN,))
    if norm == "rms":
        return gamma * functional.rms_norm(a, (HIDDEN,), eps=1e-5)
    replicas = a.transpose(0, 1).flatten(1)
    y = functional.batch_norm(replicas, None, None, training=True)
    return gamma * torch.unflatten(y, 1, (-1, HIDDEN)).transpose(0, 1)


def _normal(seeds: Sequence[int], purpose: str, *shape: int) -> Tensor:
    return torch.stack([torch.randn(shape, generator=stream(seed, purpose), dtype=torch.float64) for seed in seeds])


EXPERIMENT = Experiment(
    "E15",
    "Gradients through time",
    "Does normalizing at every step keep a recurrent network's gradient from vanishing?",
    jobs,
    measure,
    seconds=lambda job: 0.2,
)
