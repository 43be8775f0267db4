"""E20: LayerNorm in the place of BatchNorm in convolutional networks of three architectures.

500 training images, shifted at random by up to a pixel: the digits, and shapes on images of four times as many pixels,
since on 8×8 what sets the norms apart may be too small to be seen. LayerNorm in two readings:
over all of a sample's map ("layer", as Ba et al. 2016), and over the channels of each pixel ("layer_pixel", as
ConvNeXt).

For the shapes 120 steps are few: with BatchNorm a third are still mistaken. They tell how fast the arms learn, and not
where they end.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from normkit.claims.experiment import Experiment, Job, Measurement, Tier, conditions
from normkit.claims.experiments._digits import few, image_digits
from normkit.claims.experiments._shapes import SIDE, shapes
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
ON_SHAPES = (
    ("plain-shapes", "batch"),
    ("plain-shapes", "layer"),
    ("plain-shapes", "none"),
    ("residual-shapes", "batch"),
    ("residual-shapes", "layer"),
    ("next-shapes", "batch"),
    ("next-shapes", "layer_pixel"),
)
BATCH, STEPS = 32, 120


def jobs(tier: Tier) -> Sequence[Job]:
    if tier != "full":
        return ()
    on_digits = [(architecture, norm) for architecture in ARCHITECTURES for norm in NORMS]
    return [
        Job("E20", conditions(architecture=architecture, norm=norm), EVALUATION_SEEDS[tier], STEPS)
        for architecture, norm in (*on_digits, *ON_SHAPES)
    ]


def measure(job: Job) -> list[Measurement]:
    architecture, _, on_shapes = str(job.arm["architecture"]).partition("-")
    study = Study(
        build=cnn(architecture, str(job.arm["norm"]), side=SIDE if on_shapes else 8),
        data=shapes if on_shapes else lambda seed: few(image_digits(seed), 500),
        recipe=Recipe(batch_size=BATCH, steps=job.steps),
        grid=half_decades(0.01, 4),
        n_tuning_seeds=3,
        augment=shifted,
    )
    return measure_cell(job, study)


def shifted(images: Tensor, step: int) -> Tensor:
    """Images [R, N, 1, H, W] moved by -1, 0 or 1 pixel along each side: the same for the whole batch at a step."""
    generator = torch.Generator().manual_seed(step)
    down, right = torch.randint(-1, 2, (2,), generator=generator).tolist()
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1))
    height, width = images.shape[-2:]
    return padded[..., 1 + down : 1 + down + height, 1 + right : 1 + right + width]


def seconds(job: Job) -> float:
    costs = {"plain": 4e-3, "residual": 3e-3, "next": 9e-3}
    architecture, _, on_shapes = str(job.arm["architecture"]).partition("-")
    return 0.5 + job.steps * (12.0 + 12.0) * costs[architecture] * (2.2 if on_shapes else 1.0)


EXPERIMENT = Experiment(
    "E20",
    "LayerNorm for BatchNorm, by architecture",
    "Is LayerNorm worse than BatchNorm in convolutional networks, in all of them?",
    jobs,
    measure,
    seconds,
)
