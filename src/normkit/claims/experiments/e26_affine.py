"""E26: what gamma and beta are, and when they say nothing new.

"exact": what they can undo and where they are redundant, by the formulas. "trained": what a network loses without.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from normkit.claims.experiment import Experiment, Job, Measurement, Tier, conditions
from normkit.claims.experiments import _affine_ablation
from normkit.claims.experiments._exact import (
    OURS,
    SEEDS,
    Layers,
    difference,
    integer,
    measure_exact,
    normal,
    with_random_affine,
)

EPS = 1e-5
EXACT = Job("E26", conditions(design="exact"), SEEDS)


def jobs(tier: Tier) -> Sequence[Job]:
    return (EXACT, *_affine_ablation.jobs(tier))


def measure(job: Job) -> list[Measurement]:
    return measure_exact(job, check, OURS) if job.arm["design"] == "exact" else _affine_ablation.measure(job)


def check(generator: torch.Generator, layers: Layers) -> dict[str, float]:
    n, c = integer(generator, 4, 12), integer(generator, 3, 10)
    x = normal(generator, n, c) * (0.5 + normal(generator, c).abs()) + normal(generator, c)
    return {
        **_identity(layers, x),
        **_shapes(generator, layers, x),
        **_absorbed(generator, layers, x),
        **_zero_start(generator, layers, x),
    }


def _identity(layers: Layers, x: Tensor) -> dict[str, float]:
    """gamma = sqrt(variance + eps) and beta = mean undo the normalization, on this batch."""
    layer = layers.batch(x.shape[1], dtype=torch.float64)
    with torch.no_grad():
        layer.get_parameter("weight").copy_(torch.sqrt(x.var(0, correction=0) + EPS))
        layer.get_parameter("bias").copy_(x.mean(0))
        other = x.flip(0)[1:] * 2.0
        return {"identity": difference(layer(x), x), "identity_on_other_batch": difference(layer(other), other)}


def _shapes(generator: torch.Generator, layers: Layers, x: Tensor) -> dict[str, float]:
    """Both norms learn one gamma and one beta for each feature, the same for every case."""
    c = x.shape[1]
    errors, numbers = [], []
    for make in (layers.batch, layers.layer):
        plain = make(c, dtype=torch.float64)
        layer = with_random_affine(make(c, dtype=torch.float64), generator)
        expected = plain(x) * layer.get_parameter("weight") + layer.get_parameter("bias")
        errors.append(difference(layer(x).detach(), expected.detach()))
        numbers.append(sum(p.numel() for p in layer.parameters()))
    return {"scale_and_shift": max(errors), "parameters_beyond_two_a_feature": float(max(numbers) - 2 * c)}


def _absorbed(generator: torch.Generator, layers: Layers, x: Tensor) -> dict[str, float]:
    """W·relu(gamma·x + beta) = (W·gamma)·relu(x + beta / gamma) for gamma > 0: the next layer can hold gamma."""
    layer = layers.batch(x.shape[1], dtype=torch.float64)
    w = normal(generator, 5, x.shape[1])
    gamma, beta = 0.5 + normal(generator, x.shape[1]).abs(), normal(generator, x.shape[1])
    with torch.no_grad():
        plain = layer(x)
        layer.get_parameter("weight").copy_(gamma)
        layer.get_parameter("bias").copy_(beta)
        with_gamma = torch.relu(layer(x)) @ w.T
        # Through a sigmoid there is no such identity.
        sigmoids = torch.sigmoid(layer(x)) @ w.T - torch.sigmoid(plain + beta / gamma) @ (w * gamma).T
        absorbed = torch.relu(plain + beta / gamma) @ (w * gamma).T
    return {
        "gamma_absorbed_after_relu": difference(with_gamma, absorbed),
        "gamma_absorbed_after_sigmoid": difference(sigmoids, torch.zeros_like(sigmoids)),
    }


def _zero_start(generator: torch.Generator, layers: Layers, x: Tensor) -> dict[str, float]:
    """A residual block whose last gamma and beta are 0 is the identity, and its gamma still has a gradient."""
    layer = layers.batch(x.shape[1], dtype=torch.float64)
    w = normal(generator, x.shape[1], x.shape[1])
    torch.nn.init.zeros_(layer.get_parameter("weight"))
    y = x + layer(torch.tanh(x @ w.T))
    (gradient,) = torch.autograd.grad(y, layer.get_parameter("weight"), normal(generator, *x.shape))
    return {
        "zero_gamma_block_is_identity": difference(y.detach(), x),
        "zero_gamma_without_gradient": float((gradient == 0).sum().item()),
    }


EXPERIMENT = Experiment(
    "E26",
    "Gamma and beta",
    "What do the learned scale and shift add, and can they undo the normalization?",
    jobs,
    measure,
    seconds=lambda job: 0.3 if job.arm["design"] == "exact" else 2.0,
)
