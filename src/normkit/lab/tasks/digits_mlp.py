"""Two hidden layers on the 64 pixels of a digit."""

from __future__ import annotations

from torch import nn

from normkit.lab.data import digits
from normkit.lab.norms import NormFactory
from normkit.lab.task import Task


def digits_mlp() -> Task:
    """64-100-100-10, the MLP of Ba et al. 2016 (784-1000-1000-10) at the scale of these images."""

    def build(norm: NormFactory) -> nn.Module:
        return nn.Sequential(
            nn.Linear(64, 100),
            norm.features(100),
            nn.ReLU(),
            nn.Linear(100, 100),
            norm.features(100),
            nn.ReLU(),
            nn.Linear(100, 10),
        )

    return Task(
        name="digits-mlp",
        description="A multilayer perceptron, 64-100-100-10, reads handwritten digits pixel by pixel.",
        data=lambda seed: digits(seed).map(lambda image: (image.flatten(1),)),
        build=build,
        # 398 at batch size 2, 114 at 128: a compromise between equal steps and equal epochs that takes well under
        # a second a run.
        steps=lambda batch_size: round(490 * batch_size**-0.3),
        learning_rates=(2e-3, 6e-3, 2e-2, 6e-2),
    )
