"""What the exact experiments share: the layers they look at, and how an error over a search is counted.

The layers are an argument, so that a test can put a layer with a known bug in place of a good one and see which
sentence notices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normkit import nn as layers
from normkit.claims.experiment import UNDEFINED, Experiment, Job, Measurement, Tier, conditions

SEEDS = (0, 1, 2, 3, 4)  # of the search: each draws other numbers and other shapes


@dataclass(frozen=True)
class Layers:
    """The layers under test: each makes a layer as the class of ``torch.nn`` of that name would."""

    batch: Callable[..., nn.Module]
    batch_image: Callable[..., nn.Module]
    layer: Callable[..., nn.Module]
    group: Callable[..., nn.Module]
    instance_image: Callable[..., nn.Module]
    rms: Callable[..., nn.Module]


OURS = Layers(
    batch=layers.BatchNorm1d,
    batch_image=layers.BatchNorm2d,
    layer=layers.LayerNorm,
    group=layers.GroupNorm,
    instance_image=layers.InstanceNorm2d,
    rms=layers.RMSNorm,
)

Check = Callable[[torch.Generator, Layers], Mapping[str, float]]


def exact_experiment(experiment: str, title: str, question: str, check: Check) -> Experiment:
    """An experiment of one job in every tier, whose numbers are errors over a search with ``SEEDS``."""
    job = Job(experiment, conditions(), SEEDS)

    def jobs(tier: Tier) -> Sequence[Job]:
        return (job,)

    def measure(job: Job) -> list[Measurement]:
        return measure_exact(job, check, OURS)

    return Experiment(experiment, title, question, jobs, measure, seconds=lambda job: 0.3)


def measure_exact(job: Job, check: Check, layers: Layers) -> list[Measurement]:
    """What a check finds with these layers, for each seed of the job."""
    return [
        Measurement(job.experiment, job.conditions, seed, metrics=check(torch.Generator().manual_seed(seed), layers))
        for seed in job.seeds
    ]


def difference(a: Tensor, b: Tensor) -> float:
    """The largest |a - b|; ``UNDEFINED`` where any is not a number."""
    assert a.shape == b.shape
    error = (a - b).abs().max().item()
    return error if math.isfinite(error) else UNDEFINED


def unequal(a: Tensor, b: Tensor) -> float:
    """How many numbers differ in any bit that matters; ``UNDEFINED`` where any is not a number."""
    assert a.shape == b.shape
    return float((a != b).sum().item()) if (a - b).isfinite().all() else UNDEFINED


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def integer(generator: torch.Generator, low: int, high: int) -> int:
    """low <= integer <= high."""
    return int(torch.randint(low, high + 1, (), generator=generator).item())


def with_random_affine(layer: nn.Module, generator: torch.Generator) -> nn.Module:
    """Gives each feature another gamma and beta: with 1 and 0 nobody sees whether they are there."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(1.5 + normal(generator, *parameter.shape))
    return layer


def standardized(values: Tensor, eps: float) -> Tensor:
    """(x - mean) / sqrt(variance + eps) over all of ``values``, number by number."""
    numbers = values.flatten().tolist()
    mean = math.fsum(numbers) / len(numbers)
    variance = math.fsum((x - mean) ** 2 for x in numbers) / len(numbers)
    scale = math.sqrt(variance + eps)
    return torch.tensor([(x - mean) / scale for x in numbers], dtype=values.dtype).view(values.shape)
