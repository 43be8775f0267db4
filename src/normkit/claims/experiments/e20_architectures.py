"""E20: LayerNorm in the place of BatchNorm in convolutional networks of three architectures.

500 training images, shifted at random by up to a pixel: the digits, and shapes on images of four times as many pixels,
since on 8×8 what sets the norms apart may be too small to be seen. LayerNorm in two readings:
over all of a sample's map ("layer", as Ba et al. 2016), and over the channels of each pixel ("layer_pixel", as
ConvNeXt).

The digits get the noise that the shapes have. Without it half of their pixels are exactly 0, and so is the variance
over the channels of a pixel that a convolution without bias makes of them: LayerNorm at each pixel then multiplies by
1 / sqrt(eps), some 300, what little the bias gives, and does not learn. Photographs have no such pixels. A larger eps
mends it, too, but is another norm than the one people use, and none of the other norms needs it.

On the shapes there is no ConvNeXt-like network. LayerNorm at each pixel learns slowly there, with noise and all: after
500 steps 42 % of the test images were still told wrongly, so that a comparison would be of how far it had come. A
reason may be that it does not see how bright an even patch is, only which way its channels point.

Beside the test data, how many steps each arm needs to the loss of the network without norm, where there is one
(``_target``).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from normkit.claims.experiment import Experiment, Job, Measurement, Tier, conditions
from normkit.claims.experiments._digits import few, image_digits, noisy
from normkit.claims.experiments._shapes import NOISE, SIDE, shapes
from normkit.claims.experiments._stacked_models import cnn
from normkit.claims.experiments._stacked_training import Recipe
from normkit.claims.experiments._stacked_tuning import (
    EVALUATION_SEEDS,
    Cell,
    Study,
    half_decades,
    measurements,
    metrics_of,
)
from normkit.claims.experiments._target import target_of, to_target, validations
from normkit.lab.task import Data

ARCHITECTURES = ("plain", "residual", "next")
NORMS = ("none", "batch", "layer", "layer_pixel", "group", "instance")
ON_SHAPES = (
    ("plain-shapes", "none"),
    ("plain-shapes", "batch"),
    ("plain-shapes", "layer"),
    ("residual-shapes", "batch"),
    ("residual-shapes", "layer"),
)
WITH_TARGET = (*ARCHITECTURES, "plain-shapes")  # those that have an arm without norm
BATCH, STEPS, VALIDATE_EVERY = 32, 300, 10


def jobs(tier: Tier) -> Sequence[Job]:
    if tier != "full":
        return ()
    on_digits = [(architecture, norm) for architecture in ARCHITECTURES for norm in NORMS]
    return [
        Job("E20", conditions(architecture=architecture, norm=norm), EVALUATION_SEEDS[tier], STEPS)
        for architecture, norm in (*on_digits, *ON_SHAPES)
    ]


def measure(job: Job) -> list[Measurement]:
    """As ``measure_cell``; and, where there is a network without norm, steps_to_target, reached and target_nll."""
    architecture = str(job.arm["architecture"])
    cell = tuned(architecture, str(job.arm["norm"]), job.steps, job.seeds)
    metrics = {seed: dict(found) for seed, found in metrics_of(cell).items()}
    target = _target(architecture, job) if architecture in WITH_TARGET else None
    if target is not None and cell.chosen is not None:
        for seed, losses in zip(job.seeds, validations(cell.at(cell.chosen)), strict=True):
            metrics[seed] |= {**to_target(losses, target, job.steps), "target_nll": target}
    return measurements(job, cell, metrics)


def _target(architecture: str, job: Job) -> float | None:
    """The loss of the network without norm; None if it diverged at every learning rate."""
    plain = tuned(architecture, "none", job.steps, job.seeds)
    return None if plain.chosen is None else target_of(validations(plain.at(plain.chosen)))


@lru_cache(maxsize=3)
def tuned(architecture: str, norm: str, steps: int, seeds: tuple[int, ...]) -> Cell:
    """Kept, since every arm of an architecture needs the network without norm."""
    network, _, on_shapes = architecture.partition("-")
    study = Study(
        build=cnn(network, norm, side=SIDE if on_shapes else 8),
        data=shapes if on_shapes else noisy_digits,
        recipe=Recipe(batch_size=BATCH, steps=steps, validate_every=VALIDATE_EVERY),
        grid=half_decades(0.01, 4),
        n_tuning_seeds=3,
        augment=shifted,
    )
    return Cell(study, seeds)


@lru_cache(maxsize=32)
def noisy_digits(seed: int) -> Data:
    """The digits with 500 training samples, in the noise of the shapes."""
    return noisy(few(image_digits(seed), 500), seed, NOISE)


def shifted(images: Tensor, step: int) -> Tensor:
    """Images [R, N, 1, H, W] moved by -1, 0 or 1 pixel along each side: the same for the whole batch at a step.

    What comes in is the outermost pixels once more, so that no constant ones do.
    """
    generator = torch.Generator().manual_seed(step)
    down, right = torch.randint(-1, 2, (2,), generator=generator).tolist()
    padded = torch.nn.functional.pad(images.flatten(0, 1), (1, 1, 1, 1), mode="replicate")
    height, width = images.shape[-2:]
    return padded[..., 1 + down : 1 + down + height, 1 + right : 1 + right + width].reshape(images.shape)


def seconds(job: Job) -> float:
    costs = {"plain": 2e-3, "residual": 1.6e-3, "next": 5e-3}
    costs |= {"plain-shapes": 8e-3, "residual-shapes": 2.6e-3}
    return 0.5 + job.steps * (12.0 + 12.0) * costs[str(job.arm["architecture"])]


EXPERIMENT = Experiment(
    "E20",
    "LayerNorm for BatchNorm, by architecture",
    "Is LayerNorm worse than BatchNorm in convolutional networks, in all of them?",
    jobs,
    measure,
    seconds,
)
