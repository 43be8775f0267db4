"""Three convolutions on the image of a digit."""

from __future__ import annotations

from torch import nn

from normkit.lab.data import digits
from normkit.lab.norms import NormFactory
from normkit.lab.task import Task


def digits_cnn() -> Task:
    """Convolutions of 16, 32 (stride 2) and 32 channels, the mean over the map, and a linear layer."""

    def build(norm: NormFactory) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            norm.image(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1, stride=2),
            norm.image(32),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            norm.image(32),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(32, 10),
        )

    return Task(
        name="digits-cnn",
        description="A convolutional network of 16, 32 and 32 channels reads handwritten digits.",
        data=lambda seed: digits(seed).map(lambda image: (image.unsqueeze(1),)),
        build=build,
        steps=lambda batch_size: {1: 1000, 2: 1000}.get(batch_size, 300),
        norms=("none", "batch", "layer", "rms", "group", "instance"),
        learning_rates=(0.01, 0.03, 0.1, 0.3),
        optimizer="sgd",
    )
