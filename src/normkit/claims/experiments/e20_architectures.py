"""E20: LayerNorm in the place of BatchNorm in convolutional networks of three architectures.

500 training images, shifted at random by up to a pixel. LayerNorm in two readings: over all of a sample's map
("layer", as Ba et al. 2016), and over the channels of each pixel ("layer_pixel", as ConvNeXt).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from normkit.claims.experiment import Experiment, Job, Measurement, Tier, conditions
from normkit.claims.experiments._digits import few, image_digits
from normkit.claims.experiments._stacked_models import cnn
from normkit.claims.experiments._stacked_training import Recipe
from normkit.claims.experiments._stacked_tuning import (
    EVALUATION_SEEDS,
    Study,
    half_decades,
    measure_cell,
)

ARCHITECTURES = ("plain", "residual", "next")
NORMS = ("batch", "layer", "layer_pixel", "group", "instance", "none")
BATCH, STEPS = 32, 120


def jobs(tier: Tier) -> Sequence[Job]:
    if tier != "full":
        return ()
    return [
        Job("E20", conditions(architecture=architecture, norm=norm), EVALUATION_SEEDS[tier], STEPS)
        for architecture in ARCHITECTURES
        for norm in NORMS
    ]


def measure(job: Job) -> list[Measurement]:
    study = Study(
        build=cnn(str(job.arm["architecture"]), str(job.arm["norm"])),
        data=lambda seed: few(image_digits(seed), 500),
        recipe=Recipe(batch_size=BATCH, steps=job.steps),
        grid=half_decades(0.01, 4),
        n_tuning_seeds=3,
        augment=shifted,
    )
    return measure_cell(job, study)


def shifted(images: Tensor, step: int) -> Tensor:
    """Images [R, N, 1, 8, 8] moved by -1, 0 or 1 pixel along each side: the same for the whole batch at a step."""
    generator = torch.Generator().manual_seed(step)
    down, right = torch.randint(-1, 2, (2,), generator=generator).tolist()
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1))
    return padded[..., 1 + down : 9 + down, 1 + right : 9 + right]


def seconds(job: Job) -> float:
    cost = {"plain": 9e-3, "residual": 5e-3, "next": 9e-3}[str(job.arm["architecture"])]
    return 0.5 + job.steps * (12.0 + 12.0) * cost


EXPERIMENT = Experiment(
    "E20",
    "LayerNorm for BatchNorm, by architecture",
    "Is LayerNorm worse than BatchNorm in convolutional networks, in all of them?",
    jobs,
    measure,
    seconds,
)
