"""E04: how noisy the mean and variance of a batch are, against theory.

Var(mean) = sigma^2 / N; E(var) = (1 - 1/N)·sigma^2; Var(var) = 2(N - 1)/N^2·sigma^4 for Gaussian data, and in general
sigma^4·((N - 1)/N)^2·(kurtosis/N - (N - 3)/(N·(N - 1))). Of a channel of images, positions are correlated: N images of
H·W positions count as N·HW / (1 + (HW - 1)·rho) cases, with rho the mean correlation of two positions.

"gaussian": drawn at random. "activations": inputs of the norms of a trained MLP. "channels": inputs of the norms of a
trained CNN, 8×8 and 4×4 positions. The latter two are drawn with replacement from the training images.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from normkit.claims.experiment import Experiment, Job, Measurement, Tier, conditions
from normkit.claims.experiments._digits import flat_digits, image_digits
from normkit.claims.experiments._seeds import jobs_of
from normkit.claims.experiments._stacked_data import stacked_data
from normkit.claims.experiments._stacked_models import cnn, mlp
from normkit.claims.experiments._stacked_norms import BatchNorm
from normkit.claims.experiments._stacked_training import Recipe, one_thread, train
from normkit.lab.data import stream

SIZES = (2, 8, 32, 128)
DRAWS = 2000  # batches
UNITS = 32


def jobs(tier: Tier) -> Sequence[Job]:
    quick = [conditions(source=source, batch=n) for source in ("gaussian", "activations") for n in SIZES]
    more = [conditions(source=source, batch=n) for source in ("gaussian", "activations") for n in (4, 16, 64, 256)]
    more += [conditions(source="channels", batch=n) for n in (2, 4, 8, 16, 32)]
    return jobs_of("E04", tier, quick, more)


def measure(job: Job) -> list[Measurement]:
    source, n = str(job.arm["source"]), int(job.arm["batch"])
    with one_thread():
        return [
            Measurement(job.experiment, job.conditions, seed, metrics=_noise(source, n, seed, job.seeds))
            for seed in job.seeds
        ]


def _noise(source: str, n: int, seed: int, seeds: Sequence[int]) -> dict[str, float]:
    generator = stream(seed, "batches")
    if source == "gaussian":
        x = torch.randn(DRAWS, n, UNITS, generator=generator)
        return _against_theory(x, torch.zeros(UNITS), torch.ones(UNITS), torch.full((UNITS,), 3.0))
    if source == "activations":
        population = _activations(seed, seeds)
        rows = torch.randint(len(population), (DRAWS, n), generator=generator)
        centred = population - population.mean(0)
        variance = centred.square().mean(0)
        alive = variance > 1e-6
        kurtosis = centred[:, alive].pow(4).mean(0) / variance[alive].square()
        return _against_theory(population[:, alive][rows], population[:, alive].mean(0), variance[alive], kurtosis)
    return _of_channels(_channels(seed, seeds), n, generator)


def _against_theory(x: Tensor, mean: Tensor, variance: Tensor, kurtosis: Tensor) -> dict[str, float]:
    """Of x [draws, N, units], everything in units of the true variance and averaged over the units."""
    n = x.shape[1]
    var, mu = torch.var_mean(x.double(), 1, correction=0)
    theory = ((n - 1) / n) ** 2 * (kurtosis / n - (n - 3) / (n * (n - 1)))
    return {
        "variance_of_mean": ((mu - mean).square().mean(0) / variance).mean().item(),
        "mean_of_variance": (var.mean(0) / variance).mean().item(),
        "variance_of_variance": (var.var(0) / variance.square()).mean().item(),
        "variance_of_variance_to_theory": (var.var(0) / variance.square() / theory).mean().item(),
    }


def _of_channels(layers: Sequence[Tensor], n: int, generator: torch.Generator) -> dict[str, float]:
    noise, effective, to_theory, correlation = [], [], [], []
    for x in layers:  # [images, channels, H·W]
        positions = x.shape[2]
        mean, variance = x.mean((0, 2)), x.var((0, 2), correction=0)
        of_images = x.mean(2)
        rows = torch.randint(len(x), (DRAWS, n), generator=generator)
        noise_here = (of_images[rows].mean(1) - mean).square().mean(0) / variance
        # The covariance of two positions, about the channel's mean, from all pairs at once.
        centred = x - mean[:, None]
        pairs = (centred.sum(2).square().mean(0) - centred.square().sum(2).mean(0)) / (positions * (positions - 1))
        rho = pairs / variance
        expected = n * positions / (1 + (positions - 1) * rho)
        noise.append(noise_here.mean())
        effective.append((1 / noise_here).mean() / n)
        to_theory.append((1 / noise_here / expected).mean())
        correlation.append(rho.mean())
    return {
        "variance_of_mean": torch.stack(noise).mean().item(),
        "effective_cases_an_image": torch.stack(effective).mean().item(),
        "effective_to_theory": torch.stack(to_theory).mean().item(),
        "correlation": torch.stack(correlation).mean().item(),
    }


@lru_cache(maxsize=2)
def _trained(kind: str, seeds: tuple[int, ...]) -> list[Tensor]:
    """What comes into each BatchNorm of networks that were trained a little, on all training images."""
    images = kind == "cnn"
    build = cnn("plain", "batch") if images else mlp((UNITS, UNITS), "batch")
    data = stacked_data(image_digits if images else flat_digits, seeds)
    model = build(seeds)
    train(model, data, Recipe(50, 60), [0.1] * len(seeds))
    found: list[Tensor] = []
    hooks = [
        module.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].detach()))
        for module in model.modules()
        if isinstance(module, BatchNorm)
    ]
    with torch.no_grad():
        model.eval()(*data.train.all()[0])
    for hook in hooks:
        hook.remove()
    return found


def _activations(seed: int, seeds: Sequence[int]) -> Tensor:
    """[images, units] of both hidden layers."""
    return torch.cat([x[seeds.index(seed)] for x in _trained("mlp", tuple(seeds))], 1).double()


def _channels(seed: int, seeds: Sequence[int]) -> list[Tensor]:
    """[images, channels, positions] of each layer."""
    found = []
    for x in _trained("cnn", tuple(seeds)):
        own = torch.unflatten(x, 1, (len(seeds), -1))[:, seeds.index(seed)]
        found.append(own.flatten(2).double())
    return found


EXPERIMENT = Experiment(
    "E04",
    "The noise of a batch's statistics",
    "How large must a batch be for its mean and variance to stand for the data's?",
    jobs,
    measure,
    seconds=lambda job: 0.02 * int(job.arm["batch"]) * len(job.seeds) / 5 + 0.3,
)
